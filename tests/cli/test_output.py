import io
import json
import threading
import time

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bssci.cli import output
from bssci.core.center.roster import ACTIVITIES


def test_data_goes_to_standard_output_and_messages_to_standard_error(capsys):
    output.show("data")
    output.show()
    output.note("message")
    output.note()
    assert capsys.readouterr() == ("data\n\n", "message\n\n")


def test_json_is_one_object_on_one_line(capsys, tmp_path):
    output.show_json({"name": "Küche", "file": tmp_path})
    out, err = capsys.readouterr()
    assert (json.loads(out), out.count("\n"), err) == (
        {"name": "Küche", "file": str(tmp_path)},
        1,
        "",
    )


def test_an_error_is_a_message(capsys):
    output.fail("it broke")
    assert capsys.readouterr() == ("", "error: it broke\n")


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "is_coloured"),
    [(True, "", True), (True, "1", False), (False, "", False)],
)
def test_an_error_is_coloured_on_a_terminal_unless_no_color_is_set(
    monkeypatch, is_terminal, no_color, is_coloured
):
    said = []
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    monkeypatch.setattr("typer.echo", lambda text, err: said.append((text, err)))
    output.fail("it broke")
    label = "\x1b[31m\x1b[1merror:\x1b[0m" if is_coloured else "error:"
    assert said == [(f"{label} it broke", True)]


def test_columns_are_as_wide_as_their_longest_cell_and_end_without_blanks():
    rows = [("a", "bb", "c"), ("aaa", "b", ""), ("", "", "d")]
    assert output.columns(rows) == "  a    bb  c\n  aaa  b\n           d"


def test_no_rows_give_no_text():
    assert output.columns([]) == ""


# --- where it is said ---


@pytest.fixture
def terminal(monkeypatch):
    """Standard output is a terminal, which is as wide as asked for."""

    def install(columns: int = 80, *, no_color: str = "") -> None:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", no_color)

    return install


def test_a_hint_follows_its_error_and_a_warning_stands_alone(capsys):
    output.fail("it broke", hint="mend it")
    output.warn("it will break")
    assert capsys.readouterr() == (
        "",
        "error: it broke\nhint: mend it\nwarning: it will break\n",
    )


def test_a_terminal_has_a_width_and_a_pipe_has_none(terminal):
    assert output.width() is None
    terminal(99)
    assert output.width() == 99


def test_what_an_encoding_has_not_is_replaced(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", stream)
    output.show("● Küche")
    stream.flush()
    assert stream.buffer.getvalue() == b"? K?che\n"


# --- tables ---

COLUMNS = [
    output.Column("EUI"),
    output.Column("name", least=5),
    output.Column("SNR", right=True, spare=1),
    output.Column("RSSI", right=True, spare=2),
]
ROWS: list[output.Row] = [
    ["01", "Kitchen in the cellar", "-3.2", "-101"],
    ["02", output.Cell("Küche", "green"), "10.1", "-99"],
]


def test_a_table_has_titles_and_numbers_to_the_right():
    assert output.table(COLUMNS, ROWS) == (
        "EUI  name                    SNR  RSSI\n"
        "01   Kitchen in the cellar  -3.2  -101\n"
        "02   Küche                  10.1   -99"
    )


def test_what_does_not_fit_is_cut():
    assert output.table(COLUMNS, ROWS, width=30) == (
        "EUI  name            SNR  RSSI\n"
        "01   Kitchen in t…  -3.2  -101\n"
        "02   Küche          10.1   -99"
    )


def test_where_cutting_is_not_enough_columns_are_left_out_and_make_room():
    assert output.table(COLUMNS, ROWS, width=20) == (
        "EUI  name        SNR\n01   Kitchen …  -3.2\n02   Küche      10.1"
    )
    assert output.table(COLUMNS, ROWS, width=12) == "EUI  name\n01   Kitche…\n02   Küche"


def test_what_can_be_neither_cut_nor_left_out_is_longer_than_the_line():
    assert output.table(COLUMNS, ROWS, width=4) == "EUI  name\n01   Kitc…\n02   Küche"


@given(st.integers(30, 120), st.lists(st.text(max_size=40), max_size=5))
def test_no_line_is_longer_than_the_terminal(width, names):
    rows = [["01", name, "-3.2", "-101"] for name in names]
    lines = output.table(COLUMNS, rows, width=width).split("\n")
    assert len(lines) == len(names) + 1
    assert all(cell_len(line) <= width for line in lines)


def test_characters_that_take_two_columns_count_twice_and_accents_not_at_all():
    rows = [["01", "温度計", "1", "2"], ["02", "Ku\u0308che", "1", "2"]]
    assert output.table(COLUMNS, rows) == (
        "EUI  name    SNR  RSSI\n01   温度計    1     2\n02   Ku\u0308che     1     2"
    )


def test_nothing_that_others_have_said_moves_the_cursor():
    rows = [["01", "\x1b[2J\n", "1", "2"]]
    assert output.table(COLUMNS, rows).split("\n")[1] == "01   \\x1b[2J\\x0a    1     2"


def test_colours_are_for_terminals_only_and_do_not_move_columns(terminal):
    terminal()
    cells = [output.Cell("a", "green"), output.Cell("b", "dim")]
    assert output.table([output.Column("one"), output.Column("two")], [cells]) == (
        "\x1b[2mone\x1b[0m  \x1b[2mtwo\x1b[0m\n\x1b[32ma\x1b[0m    \x1b[2mb\x1b[0m"
    )
    terminal(no_color="1")
    assert output.table([output.Column("one"), output.Column("two")], [cells]) == "one  two\na    b"


def test_rows_that_come_later_find_their_columns():
    columns = [output.Column("time", usual=8), output.Column("data", least=4, usual=99)]
    bound, free = output.Layout(columns, width=20), output.Layout(columns)
    assert (bound.title(), bound.line(["12:00", "00112233445566"])) == (
        "time      data",
        "12:00     001122334…",
    )
    assert free.line(["12:00", "00112233445566"]) == "12:00     00112233445566"


# --- groups ---


def test_groups_have_titles_and_their_values_stand_below_each_other():
    parts: list[output.Group] = [
        ("One", [("a", "1"), ("long", "2")]),
        ("", [("b", output.Cell("3", "red"))]),
    ]
    assert output.groups(parts) == "One\n  a     1\n  long  2\n\n  b     3"
    assert output.groups([]) == ""


def test_a_long_value_goes_on_in_the_next_line_below_itself(terminal):
    parts = [("One", [("a", "0001, 0002, 0003, 0004")])]
    assert output.groups(parts) == "One\n  a  0001, 0002, 0003, 0004"
    assert output.groups(parts, width=21) == "One\n  a  0001, 0002,\n     0003, 0004"
    terminal()
    assert output.groups([("One", [("a", "1")])]) == "\x1b[1mOne\x1b[0m\n  a  1"


# --- words ---


def test_a_state_is_told_by_symbol_word_and_colour():
    assert output.state("active") == output.Cell("● active", "green")
    assert output.state("something_new") == output.Cell("something new")


def test_no_two_activities_share_their_symbol_or_their_colour():
    cells = [output.state(activity) for activity in ACTIVITIES]
    assert len({cell.text[0] for cell in cells}) == len({cell.colour for cell in cells}) == 6


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59, "59 s"), (60, "1 min"), (90061, "1 d 1 h"), (86399, "23 h 59 min"), (-90, "-1 min 30 s")],
)
def test_a_span_has_at_most_two_units(seconds, words):
    assert output.span(seconds) == words


def test_a_span_leaves_out_what_is_nothing():
    assert (output.span(86400), output.span(86401)) == ("1 d", "1 d")


@pytest.mark.parametrize(
    ("ago", "words"),
    [(0.5, "now"), (-60, "now"), (1, "1 s"), (3599, "59 min"), (172800, "2 d"), (9e8, "10416 d")],
)
def test_an_age_has_one_unit(ago, words):
    assert output.age(1e9 - ago, 1e9) == words


def test_a_moment_is_told_with_its_age(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert output.since(0.0, 90.0) == "1970-01-01 00:00:00 (1 min ago)"
    assert output.since(0.0, 0.0) == "1970-01-01 00:00:00 (now)"
    assert (output.since(None, 0.0), output.moment(None)) == ("-", "-")
    assert output.moment(1e18) == "1e+18"
    monkeypatch.undo()
    time.tzset()


def test_now_is_unix_time():
    assert abs(output.now() - time.time()) < 5


def test_yes_and_no():
    assert (output.yes_or_no(True), output.yes_or_no(None)) == ("yes", "no")


# --- long work ---


def test_a_bar_is_drawn_on_a_terminal_only(capsys, monkeypatch):
    with output.progress("import", 10) as reach:
        reach(5)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    before = threading.active_count()
    with output.progress("import", 10) as reach:
        reach(5)
        print("data")
        assert threading.active_count() == before
        reach(10)
        reach(10, 20)
        reach(20)
    out, err = capsys.readouterr()
    assert out == "data\n"
    assert "import" in err
    assert "5/10" in err
    assert "10/10" in err
    assert "20/20" in err


def test_a_question_is_no_data_and_wants_an_answer(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(" yes \n"))
    assert output.answer("Really?") == "yes"
    with pytest.raises(typer.Abort):
        output.answer("Really?")
    assert capsys.readouterr() == ("", "Really? Really? ")
