"""Tables and lists of values as lines of text with styles, as wide as there is room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.text import Text

from bssci.cli.monitor.marks import clean
from bssci.cli.output import Cell, Column, Row

__all__ = ["MARGIN", "flow", "grid", "styled", "titled"]

GAP = 2  # columns between two of a table
MARGIN = 2  # columns before it, where the mark of the selected row stands
MARK = "▶ "


def styled(cell: str | Cell) -> Text:
    """A cell as text."""
    if isinstance(cell, Cell):
        return Text(clean(cell.text), style=cell.colour, end="")
    return Text(clean(cell), end="")


def grid(
    columns: Sequence[Column], rows: Sequence[Row], width: int, *, selected: int | None = None
) -> list[Text]:
    """A line of titles and one for each row; columns that do not fit are left out by `spare`.

    Args:
        selected: the row with the mark.
    """
    texts = [[styled(cell) for cell in row] for row in rows]
    widths = _fitted(columns, texts, width - MARGIN)
    titles = [Text(each.title, style="dim", end="") for each in columns]
    lines = [_line("  ", columns, titles, widths)]
    for number, row in enumerate(texts):
        is_selected = number == selected
        line = _line(MARK if is_selected else "  ", columns, row, widths)
        if is_selected:
            line.pad_right(max(0, width - line.cell_len))
            line.stylize("reverse")
        lines.append(line)
    return lines


def _line(
    begin: str, columns: Sequence[Column], cells: Sequence[Text], widths: dict[int, int]
) -> Text:
    line = Text(begin, end="")
    for place, (number, width) in enumerate(widths.items()):
        cell = cells[number].copy()
        cell.truncate(width, overflow="ellipsis")
        blanks = " " * (width - cell.cell_len)
        line.append(" " * GAP if place else "")
        if columns[number].right:
            line.append(blanks)
        line.append_text(cell)
        if not columns[number].right:
            line.append(blanks)
    return line


def _fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int
) -> dict[int, int]:
    """How wide each column is, by its number; those that are left out are not there."""
    widths = {
        number: max(each.usual, len(each.title), *(row[number].cell_len for row in rows), 0)
        for number, each in enumerate(columns)
    }
    while True:
        shrunk = _shrunk(columns, widths, width)
        most = max(widths, key=lambda number: columns[number].spare)
        if shrunk is not None or not columns[most].spare:
            return shrunk or widths
        del widths[most]


def _shrunk(
    columns: Sequence[Column], natural: dict[int, int], width: int
) -> dict[int, int] | None:
    """Narrower where cells may be cut; None: also that is too wide."""
    widths = natural.copy()
    excess = sum(widths.values()) + GAP * (len(widths) - 1) - width
    while excess > 0:
        cuttable = [
            number
            for number in widths
            if (least := columns[number].least)
            and max(least, len(columns[number].title)) < widths[number]
        ]
        if not cuttable:
            return None
        widest = max(cuttable, key=widths.__getitem__)
        widths[widest] -= 1
        excess -= 1
    return widths


def flow(
    items: Iterable[Text], width: int, *, gap: str = "   ", indent: int = MARGIN
) -> list[Text]:
    """Things side by side, in as many lines as it takes; none is broken."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + cell_len(gap) + item.cell_len <= width:
            lines[-1].append(gap)
        else:
            lines.append(Text(" " * indent, end=""))
        lines[-1].append_text(item)
    return lines


def titled(title: str, note: str = "", *, style: str = "bold") -> Text:
    """A heading, with something beside it."""
    line = Text(title, style=style, end="")
    if note:
        line.append(f"  {clean(note)}", style="not bold dim")
    return line
