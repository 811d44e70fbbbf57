"""What commands say: data on standard output, messages on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

import typer

__all__ = [
    "NOTHING",
    "Cell",
    "Column",
    "Group",
    "Layout",
    "Reach",
    "Row",
    "age",
    "answer",
    "columns",
    "fail",
    "groups",
    "moment",
    "note",
    "now",
    "number",
    "plural",
    "progress",
    "show",
    "show_json",
    "since",
    "span",
    "state",
    "table",
    "warn",
    "width",
    "yes_or_no",
]

NOTHING = "-"
"""What stands where nothing is known, so that every line has the same number of words."""

GAP = "  "


def show(text: str = "") -> None:
    """Data, for people."""
    typer.echo(_sayable(text, sys.stdout))


def show_json(data: object) -> None:
    """Data, for programs: one JSON object or array, on one line."""
    typer.echo(_sayable(json.dumps(data, ensure_ascii=False, default=str), sys.stdout))


def note(text: str = "") -> None:
    """A message: what happened, what comes next."""
    typer.echo(_sayable(text, sys.stderr), err=True)


def warn(text: str) -> None:
    """A message that is better read."""
    note(_paint("warning:", "yellow", sys.stderr, bold=True) + f" {text}")


def fail(text: str, *, hint: str = "") -> None:
    """The message of an error: what, why, what to do."""
    note(_paint("error:", "red", sys.stderr, bold=True) + f" {text}")
    if hint:
        note(f"{_paint('hint:', 'cyan', sys.stderr, bold=True)} {hint}")


def answer(question: str) -> str:
    """What is typed at a terminal; standard output has no part in it.

    Raises:
        typer.Abort: nothing is, and the input has ended.
    """
    typer.echo(f"{_sayable(question, sys.stderr)} ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise typer.Abort
    return line.strip()


def columns(rows: Iterable[tuple[str, ...]], *, indent: int = 2) -> str:
    """Rows as text, each column as wide as its longest cell; the last one is not padded."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in cells
    )
    return "\n".join((" " * indent + line).rstrip() for line in lines)


# --- where it is said ---


def width() -> int | None:
    """The columns of the terminal; None: this is none, and lines may be as long as they are."""
    if not sys.stdout.isatty():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def _paint(text: str, colour: str, stream: TextIO, *, bold: bool = False) -> str:
    # https://no-color.org: any value but the empty one
    if not (text and (colour or bold)) or os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    dim, fg = (True, None) if colour == "dim" else (None, colour or None)
    return typer.style(text, fg=fg, bold=bold or None, dim=dim)


def _sayable(text: str, stream: TextIO) -> str:
    """The text with what the stream's encoding has not replaced by `?`."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text if text.isascii() else text.encode(encoding, "replace").decode(encoding)


def _plain(text: str) -> str:
    """What others have said, without what would move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


# --- tables ---


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a colour, or `dim`."""

    text: str
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        right: its cells are numbers.
        least: what does not fit is cut, but not below this width and that of the title; 0: it is
            never cut.
        usual: it is this wide, also when its cells are shorter.
        spare: where there is no room it is left out, the column with the highest number first; 0:
            never.
    """

    title: str
    right: bool = False
    least: int = 0
    usual: int = 0
    spare: int = 0


Row = Sequence[str | Cell]


class Layout:
    """Columns that share a line: how wide each is, and which are left out."""

    def __init__(
        self, columns: Sequence[Column], rows: Sequence[Row] = (), *, width: int | None = None
    ) -> None:
        """
        Args:
            rows: what is to be shown, as far as it is known by now.
            width: of a line; None: as long as need be.
        """
        self._titles = [Cell(each.title, "dim") for each in columns]
        self._columns = dict(enumerate(columns))
        self._is_bound = width is not None
        natural = {
            number: max(each.usual, _width(each.title), *(_width(row[number]) for row in rows), 0)
            for number, each in self._columns.items()
        }
        while (widths := _fitted(self._columns, natural, width)) is None:
            del self._columns[max(self._columns, key=lambda number: self._columns[number].spare)]
        self._widths = widths

    def title(self) -> str:
        """The line above the rows."""
        return self.line(self._titles)

    def line(self, row: Row) -> str:
        """A row as a line."""
        return GAP.join(self._filled(number, row[number]) for number in self._columns).rstrip()

    def _filled(self, number: int, cell: str | Cell) -> str:
        column, width = self._columns[number], self._widths[number]
        text, colour = _parts(cell)
        if self._is_bound and column.least:
            text = _cut(text, width)
        blanks = " " * (width - _width(text))
        painted = _paint(text, colour, sys.stdout)
        return blanks + painted if column.right else painted + blanks


def _fitted(
    columns: dict[int, Column], natural: dict[int, int], width: int | None
) -> dict[int, int] | None:
    """The widths with which the columns fit; None: one of them has to be left out."""
    widths = {number: natural[number] for number in columns}
    if width is None:
        return widths
    excess = sum(widths.values()) + len(GAP) * (len(widths) - 1) - width
    while excess > 0:
        cuttable = [
            number
            for number, each in columns.items()
            if each.least and max(each.least, _width(each.title)) < widths[number]
        ]
        if not cuttable:
            # With nothing left to leave out, the terminal has to break lines.
            return None if any(each.spare for each in columns.values()) else widths
        widths[max(cuttable, key=widths.__getitem__)] -= 1
        excess -= 1
    return widths


def table(columns: Sequence[Column], rows: Sequence[Row], *, width: int | None = None) -> str:
    """Rows as text, below a line of titles.

    Args:
        width: of a line, as `width` tells; None: as long as need be.
    """
    layout = Layout(columns, rows, width=width)
    return "\n".join([layout.title(), *map(layout.line, rows)])


Group = tuple[str, Sequence[tuple[str, str | Cell]]]


def groups(parts: Sequence[Group], *, width: int | None = None) -> str:
    """Labelled values in groups, each with a title if that is not empty."""
    label_width = max((_width(label) for _, rows in parts for label, _ in rows), default=0)
    blocks = []
    for title, rows in parts:
        lines = [_paint(title, "", sys.stdout, bold=True)] if title else []
        for label, cell in rows:
            text, colour = _parts(cell)
            first, *more = _wrapped(text, None if width is None else width - label_width - 4)
            lines += [
                f"  {begin:{label_width}}  {_paint(line, colour, sys.stdout)}".rstrip()
                for begin, line in ((label, first), *(("", line) for line in more))
            ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _wrapped(text: str, width: int | None) -> list[str]:
    import textwrap

    if width is None or len(text) <= width:
        return [text]
    return textwrap.wrap(text, max(width, 16), break_on_hyphens=False)


def _parts(cell: str | Cell) -> tuple[str, str]:
    text, colour = (cell.text, cell.colour) if isinstance(cell, Cell) else (cell, "")
    return _plain(text), colour


def _width(cell: str | Cell) -> int:
    """How many columns of a terminal it takes."""
    text = _parts(cell)[0]
    if text.isascii():
        return len(text)
    return sum(_columns_of(character) for character in text)


def _columns_of(character: str) -> int:
    from unicodedata import combining, east_asian_width

    return 0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    room, kept = width - 1, ""
    for character in text:
        room -= _columns_of(character)
        if room < 0:
            break
        kept += character
    return f"{kept}…"


# --- words ---

_STATES = {
    "active": Cell("● active", "green"),
    "warning": Cell("▲ warning", "yellow"),
    "detach_pending": Cell("◐ detach pending", "magenta"),
    "auto_detached": Cell("✕ auto-detached", "red"),
    "detached": Cell("○ detached", "dim"),
    "never_seen": Cell("· never seen", "cyan"),
    "online": Cell("● online", "green"),
    "offline": Cell("○ offline", "red"),
    "disabled": Cell("· disabled", "dim"),
    "confirmed": Cell("● confirmed", "green"),
    "pending": Cell("◐ pending", "yellow"),
    "refused": Cell("✕ refused", "red"),
    "ok": Cell("● ok", "green"),
    "full": Cell("✕ full", "red"),
    "failing": Cell("✕ failing", "red"),
}


def state(name: str) -> Cell:
    """A state as a word with a symbol and a colour: each of the three tells it."""
    return _STATES.get(name) or Cell(name.replace("_", " "))


def yes_or_no(value: object) -> str:
    return "yes" if value else "no"


def plural(number: int, noun: str) -> str:
    """A number of things.

    >>> plural(1, "sensor"), plural(2, "base station")
    ('1 sensor', '2 base stations')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A figure with its unit; `-` where it is not known.

    >>> number(-3.26, unit="dB"), number(None)
    ('-3.3 dB', '-')
    """
    if value is None:
        return NOTHING
    return f"{value:.{digits}f}" + (f" {unit}" if unit else "")


# --- times ---


def now() -> float:
    """Unix time, from which ages are told."""
    return time.time()


def moment(unix: float | None) -> str:
    """A point of time, in the time zone of this machine."""
    from datetime import datetime

    if unix is None:
        return NOTHING
    try:
        return f"{datetime.fromtimestamp(unix):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return f"{unix:g}"  # the clock of a base station may say anything


_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def age(unix: float | None, now: float) -> str:
    """How long ago it was, in the largest fitting unit.

    >>> age(1000.0, 1000.4), age(1000.0, 1059.0), age(0.0, 7200.0), age(None, 0.0)
    ('now', '59 s', '2 h', '-')
    """
    if unix is None:
        return NOTHING
    seconds = now - unix
    return next(
        (f"{seconds // size:.0f} {unit}" for size, unit in _UNITS if seconds >= size), "now"
    )


def since(unix: float | None, now: float) -> str:
    """A point of time and how long ago that was."""
    if unix is None:
        return NOTHING
    how_long = age(unix, now)
    return f"{moment(unix)} ({how_long if how_long == 'now' else how_long + ' ago'})"


def span(seconds: float | None) -> str:
    """A time span in its two largest units.

    >>> span(0.0), span(59.6), span(3600), span(273600), span(None)
    ('0 s', '59 s', '1 h', '3 d 4 h', '-')
    """
    if seconds is None:
        return NOTHING
    rest, counts = int(abs(seconds)), []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        counts.append(f"{count} {unit}" if count else "")
    largest = next((number for number, text in enumerate(counts) if text), None)
    if largest is None:
        return "0 s"
    sign = "-" if seconds < 0 else ""
    return sign + " ".join(filter(None, counts[largest : largest + 2]))


# --- long work ---

REDRAW = 0.1  # seconds between two pictures of a bar


class Reach(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, total: int | None = None, /) -> None: ...


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Reach]:
    """A bar on standard error, if that is a terminal.

    It is told how much is done by now, and of how much, if that has changed.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(file=sys.stderr),
        auto_refresh=False,  # no thread beside trio's
        transient=True,
        # Data that is printed meanwhile stays data.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    last = -math.inf

    def reach(done: int, total: int | None = None) -> None:
        nonlocal last
        bar.update(task, completed=done, total=total)
        is_due = bar.finished or time.monotonic() >= last + REDRAW
        if is_due:
            bar.refresh()
            last = time.monotonic()

    with bar:
        task = bar.add_task(what, total=total or None)  # None: it is not known yet
        yield reach
