import pytest
from rich.text import Text

from bssci.cli.monitor.grid import flow, grid, styled
from bssci.cli.output import Cell, Column, Row

COLUMNS = [
    Column("EUI"),
    Column("name", least=4),
    Column("count", right=True, spare=1),
    Column("note", spare=2),
]
ROWS: list[Row] = [
    ["0001", "Kitchen", "7", Cell("● good", "green")],
    ["0002", "日本語", "12345", "-"],
]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (80, ["  EUI   name     count  note  ", "  0001  Kitchen      7  ● good",
              "  0002  日本語   12345  -     "]),
        (28, ["  EUI   name   count  note  ", "  0001  Kitc…      7  ● good",
              "  0002  日本…  12345  -     "]),
        (20, ["  EUI   name   count", "  0001  Kitc…      7", "  0002  日本…  12345"]),
        (12, ["  EUI   name", "  0001  Kit…", "  0002  日 …"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_cut_or_left_out(width, expected):
    assert [line.plain for line in grid(COLUMNS, ROWS, width)] == expected


def test_the_selected_row_has_a_mark_and_all_of_its_line():
    lines = grid(COLUMNS, ROWS, 40, selected=1)
    assert lines[2].plain == "▶ 0002  日本語   12345  -     ".ljust(37)
    assert [str(span.style) for span in lines[2].spans][-1] == "reverse"


def test_colours_stay_with_their_cells():
    line = grid(COLUMNS, ROWS, 80)[1]
    coloured = [line.plain[s.start : s.end] for s in line.spans if s.style == "green"]
    assert coloured == ["● good"]


def test_things_side_by_side_are_not_broken():
    items = [Text(text) for text in ("one two", "three", "four five six")]
    assert [line.plain for line in flow(items, 20)] == ["  one two   three", "  four five six"]


def test_a_cell_of_others_is_cleaned():
    assert styled(Cell("a\x1b[0m", "red")).plain == "a\\x1b[0m"
