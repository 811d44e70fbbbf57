import json

import pytest

from bssci.cli import output


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
