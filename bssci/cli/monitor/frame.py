"""One frame: the views' names, what is shown, what can be typed; as many lines as the screen."""

from __future__ import annotations

from rich.text import Text

from bssci.cli import output
from bssci.cli.monitor.controls import VIEWS, Controls, Output, Prompt
from bssci.cli.monitor.grid import grid
from bssci.cli.monitor.help import help_lines
from bssci.cli.monitor.listings import LISTINGS
from bssci.cli.monitor.marks import clean
from bssci.cli.monitor.overview import overview
from bssci.cli.monitor.sensor import sensor
from bssci.cli.monitor.state import MAX_UPLINKS, Known
from bssci.cli.monitor.station import station
from bssci.cli.monitor.words import clock

__all__ = ["LEAST_HEIGHT", "LEAST_WIDTH", "draw", "page"]

LEAST_WIDTH, LEAST_HEIGHT = 40, 10  # below, it says that this is too small

HEAD, FOOT = 2, 1  # lines above and below what is shown

CURSOR = "█"


def page(height: int) -> int:
    """Rows of a list on a screen of this height."""
    return max(1, height - HEAD - FOOT - 1)


def draw(known: Known, controls: Controls, width: int, height: int, now: float) -> list[Text]:
    """The lines of the screen, none longer than it is wide."""
    if width < LEAST_WIDTH or height < LEAST_HEIGHT:
        lines = [Text(f"at least {LEAST_WIDTH}x{LEAST_HEIGHT}, please", end="")]
    else:
        shown = controls.frozen or known
        room = height - HEAD - FOOT
        body = _body(shown, controls, width, room, now)[:room]
        body += [Text("", end="") for _ in range(room - len(body))]
        lines = [_views(controls, width), _state(known, controls, width, now), *body]
        lines.append(_foot(controls, width))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.no_wrap = True
    return lines


# --- above ---


def _views(controls: Controls, width: int) -> Text:
    """The names of the views; where there is no room, only that of the one that is shown."""
    names = [f" {number} {name} " for number, name in enumerate(VIEWS, 1)]
    if sum(map(len, names)) > width:
        names = [
            full if name == controls.view else f" {number} "
            for number, (full, name) in enumerate(zip(names, VIEWS, strict=True), 1)
        ]
    line = Text("", end="")
    for name, view in zip(names, VIEWS, strict=True):
        is_shown = view == controls.view
        # Also without colours it is seen which one it is.
        shown = f"[{name[1:-1]}]" if is_shown else name
        line.append(shown, style="bold reverse" if is_shown else "dim")
    return line


def _state(known: Known, controls: Controls, width: int, now: float) -> Text:
    """The connection, what is paused and what is filtered; the time stands at the right."""
    line = Text(" ", end="")
    if known.gone:
        away = output.span(now - known.gone_since)
        line.append(f"✕ no service for {away}: {clean(known.gone)}", style="bold red")
    elif known.status is None:
        line.append("◐ connecting", style="yellow")
    else:
        line.append("● ", style="green")
        line.append(f"bssci {clean(known.status['version'])}")
    if controls.frozen is not None:
        line.append(f"   ▲ paused, {_new(known.seen - controls.frozen.seen)}", style="bold yellow")
    if known.lost:
        line.append(f"   ▲ {known.lost} events came too fast", style="yellow")
    if known.trouble:
        line.append(f"   ▲ {clean(known.trouble)}", style="yellow")
    time = clock(now)
    room = width - len(time) - 2
    line.truncate(room, overflow="ellipsis")
    line.pad_right(max(0, room - line.cell_len))
    line.append(f" {time}", style="dim")
    return line


def _new(count: int) -> str:
    kept = f", the last {MAX_UPLINKS} are kept" if count > MAX_UPLINKS else ""
    return f"{count} new{kept}"


# --- what is shown ---


def _body(known: Known, controls: Controls, width: int, room: int, now: float) -> list[Text]:
    if controls.is_helping:
        return _scrolled(help_lines(), controls, room)
    if controls.output is not None:
        return _output(controls.output, controls, width, room)
    if (opened := controls.opened) is not None:
        show = sensor if opened.kind == "sensor" else station
        return _scrolled(show(opened.eui, known, width, now), controls, room)
    if controls.view == "overview":
        return overview(known, width, room, now)
    return _list(known, controls, width, room, now)


def _scrolled(lines: list[Text], controls: Controls, room: int) -> list[Text]:
    """The part that fits, with a last line that says that there is more."""
    if len(lines) <= room:
        controls.window(len(lines), room)
        return lines
    window = controls.window(len(lines), room - 1)
    where = f"  lines {window.start + 1} to {min(window.stop, len(lines))} of {len(lines)}"
    return [*lines[window], Text(where, style="dim", end="")]


def _list(known: Known, controls: Controls, width: int, room: int, now: float) -> list[Text]:
    listing = LISTINGS[controls.view]
    items = controls.items(known)
    head = _heading(known, controls, len(items))
    if not items:
        none = "nothing is like that" if controls.filter else listing.none
        return [head, Text(f"  {none}", style="dim", end="")]
    rows_room = room - 2
    place = controls.selected(items)
    first = max(0, min(place - rows_room // 2, len(items) - rows_room))
    shown = items[first : first + rows_room]
    rows = [listing.row(each, known, now) for each in shown]
    return [head, *grid(listing.columns, rows, width, selected=place - first)]


def _heading(known: Known, controls: Controls, count: int) -> Text:
    listing = LISTINGS[controls.view]
    all_of_them = sum(1 for _ in listing.items(known))
    line = Text(f" {count}" if count == all_of_them else f" {count} of {all_of_them}", end="")
    line.append(f" by {listing.sorts[controls.sorts.get(controls.view, 0)][0]}", style="dim")
    if controls.filter:
        line.append(f"   filter: {controls.filter}", style="bold")
    return line


def _output(shown: Output, controls: Controls, width: int, room: int) -> list[Text]:
    """A command and how it ended; below, what it says."""
    head = Text(f" bssci {clean(shown.line)}", style="bold", end="")
    if shown.code is None:
        head.append("   ◐ running", style="yellow")
    else:
        symbol, style = ("●", "green") if shown.code == 0 else ("✕", "red")
        head.append(f"   {symbol} exit code {shown.code}", style=style)
    lines = [piece for line in shown.lines for piece in _broken(clean(line), width - 2)]
    return [head, *_scrolled(lines, controls, room - 1)]


def _broken(text: str, width: int) -> list[Text]:
    """A line as one or several."""
    pieces = [text[start : start + width] for start in range(0, len(text), width)] or [""]
    return [Text(f"  {piece}", end="") for piece in pieces]


# --- below ---


def _foot(controls: Controls, width: int) -> Text:
    if controls.prompt is not None:
        return _typed(controls.prompt, width)
    if controls.message:
        return Text(f" {clean(controls.message)}", style="bold", end="")
    line = Text(" ", end="")
    for key, what in _hints(controls):
        if line.cell_len + len(key) + len(what) + 3 > width:
            break
        line.append(key, style="bold")
        line.append(f" {what}  ", style="dim")
    return line


def _typed(prompt: Prompt, width: int) -> Text:
    """What is being typed; of too much the end."""
    if prompt.kind == "?":
        return Text(f" {clean(prompt.question)} ", style="bold yellow", end="")
    text = clean(prompt.text)[-(width - 3) :]
    line = Text(f"{prompt.kind}{text}", style="bold", end="")
    line.append(CURSOR, style="not bold")
    return line


def _hints(controls: Controls) -> list[tuple[str, str]]:
    if controls.output is not None and controls.output.code is None:
        return [("Esc", "end it"), ("↑↓", "scroll")]
    if controls.output is not None or controls.is_helping:
        return [("Esc", "back"), ("↑↓", "scroll"), (":", "command")]
    pause = ("p", "go on" if controls.frozen is not None else "pause")
    always = [pause, (":", "command"), ("?", "help"), ("q", "quit")]
    if controls.opened is not None:
        return [("Esc", "back"), ("↑↓", "scroll"), *always]
    if controls.view == "overview":
        return [("1-7", "views"), *always]
    return [("⏎", "open"), ("/", "filter"), ("s", "sort"), *always]
