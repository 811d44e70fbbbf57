"""The first view: how the service is doing, and the most important of everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from bssci.cli import output
from bssci.cli.monitor import words
from bssci.cli.monitor.grid import flow, grid, styled, titled
from bssci.cli.monitor.listings import EVENTS, SENSORS, STATIONS, UPLINKS, Listing, chosen
from bssci.cli.monitor.marks import sparkline
from bssci.cli.monitor.state import BUCKET, Fields, Known
from bssci.cli.output import Cell

__all__ = ["overview"]

SIDE_BY_SIDE = 150  # columns from which on there are two lists beside each other
BETWEEN = 3  # columns
REMARK = 28  # columns behind the sparkline
MAX_LINE = 120  # characters of the sparkline: ten minutes
SOON = 30  # days in which a certificate expires

BY_STATE, BY_ACTIVITY = 1, 1  # among the orders of the lists: what needs somebody comes first


def overview(known: Known, width: int, height: int, now: float) -> list[Text]:
    """At most so many lines."""
    head = _service(known, width, now)
    lists = [
        _Part("Base stations", _online(known), STATIONS, BY_STATE),
        _Part("Sensors", "", SENSORS, BY_ACTIVITY),
        _Part("Last uplinks", "", UPLINKS),
        _Part("Last events", "", EVENTS),
    ]
    left = height - len(head)
    if width >= SIDE_BY_SIDE:
        half = (width - BETWEEN) // 2
        columns = [_stacked(pair, known, half, left, now) for pair in (lists[:2], lists[2:])]
        return head + _beside(columns, half)
    if left < 4 * LEAST:  # what was heard is a key away
        del lists[2]
    return head + _stacked(lists, known, width, left, now)


# --- the service ---


def _service(known: Known, width: int, now: float) -> list[Text]:
    if known.status is None:
        return [Text("  waiting for the service", style="dim", end="")]
    status = known.status
    lines = flow([styled(each) for each in _facts(status, now)], width)
    begin = f"  uplinks/s {status['uplinks']['rate']:6.1f}  "
    room = min(MAX_LINE, width - len(begin) - REMARK)
    rates = known.rates(now, room)
    begin_at = now - status["uptime"]
    shown = [
        rate if now - BUCKET * (room - place) >= begin_at else None
        for place, rate in enumerate(rates)
    ]
    line = Text(begin, end="")
    line.append(sparkline(shown, room, least=0), style="cyan")
    minutes = output.span(room * BUCKET)
    line.append(f"  {minutes}, up to {max(rates, default=0):.1f}", style="dim")
    line.truncate(width)
    return [*lines, line]


def _facts(status: Fields, now: float) -> Iterator[Cell]:
    uplinks, journal, downlinks = status["uplinks"], status["journal"], status["downlinks"]
    yield Cell(f"up {output.span(status['uptime'])}")
    yield _named("broker", output.state(status["mqtt"]["state"]))
    yield _named("journal", output.state(journal["state"]))
    backlog = journal["backlog"] + journal["unpublished"]
    yield Cell(f"backlog {backlog}", "yellow" if backlog > BACKLOG else "")
    yield _certificates(status["certificates"]["expires_in_days"])
    yield Cell(f"received {uplinks['received']}")
    yield Cell(f"duplicates {_share(uplinks['duplicates'], uplinks['received'])}")
    yield Cell(f"published {uplinks['published']}")
    if waiting := downlinks["queued"] + downlinks["at_station"]:
        yield Cell(f"downlinks waiting {waiting}")
    if refused := sum(status["refused"].values()):
        yield Cell(f"▲ refused {refused}", "yellow")


BACKLOG = 1_000  # uplinks: more than what is on its way all the time


def _named(name: str, cell: Cell) -> Cell:
    return Cell(f"{name} {cell.text}", cell.colour)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else output.NOTHING


def _certificates(days: int | None) -> Cell:
    if days is None:
        return Cell("certificates -")
    if days < 0:
        return Cell("certificates ✕ expired", "red")
    symbol, colour = ("▲", "yellow") if days < SOON else ("●", "green")
    return Cell(f"certificates {symbol} {days} d", colour)


def _online(known: Known) -> str:
    online = sum(each["state"] == "online" for each in known.stations.values())
    return f"{online} of {len(known.stations)} online"


def _activities(known: Known) -> list[Text]:
    """How many sensors there are in each state, those that need somebody first."""
    counts: dict[str, int] = {}
    for each in known.sensors.values():
        counts[each["activity"]] = counts.get(each["activity"], 0) + 1
    found = []
    for name in words.ACTIVITIES:
        if count := counts.get(name):
            symbol, _, word = output.state(name).text.partition(" ")
            found.append(Text(f"{symbol} {count} {word}", style=output.state(name).colour, end=""))
    return found


# --- lists ---

LEAST = 4  # lines of a list: its name, its titles, two rows


@dataclass(frozen=True, slots=True)
class _Part:
    title: str
    note: str
    listing: Listing
    sort: int = 0

    def lines(self, known: Known, width: int, height: int, now: float) -> list[Text]:
        """As much of the list as there is room for."""
        items = chosen(self.listing, known, sort=self.sort)
        head = [titled(self.title, self.note)]
        if self.listing is SENSORS and items:
            head[0] = flow([head[0], *_activities(known)], width, indent=0)[0]
        if not items:
            return [*head, Text(f"  {self.listing.none}", style="dim", end="")]
        rows = [self.listing.row(each, known, now) for each in items[: max(0, height - 2)]]
        return [*head, *grid(self.listing.columns, rows, width)]

    def wanted(self, known: Known) -> int:
        return 2 + sum(1 for _ in self.listing.items(known))


def _stacked(
    parts: Sequence[_Part], known: Known, width: int, height: int, now: float
) -> list[Text]:
    """One below the other; what one does not need the others have."""
    blank = Text("", end="")
    rooms = _rooms([each.wanted(known) + 1 for each in parts], height)
    lines: list[Text] = []
    for part, room in zip(parts, rooms, strict=True):
        if room > 1:
            lines += [blank, *part.lines(known, width, room - 1, now)][:room]
    return lines


def _rooms(wanted: Sequence[int], height: int) -> list[int]:
    """Each has what it wants or an equal share, as long as there is something."""
    rooms = [0] * len(wanted)
    for _ in range(max(0, height)):
        hungry = [number for number, want in enumerate(wanted) if rooms[number] < want]
        if not hungry:
            break
        rooms[min(hungry, key=rooms.__getitem__)] += 1
    return rooms


def _beside(columns: Sequence[list[Text]], width: int) -> list[Text]:
    """Two blocks of lines beside each other."""
    left, right = columns
    lines = []
    for number in range(max(len(left), len(right))):
        line = left[number].copy() if number < len(left) else Text("", end="")
        line.truncate(width)
        if number < len(right):
            line.pad_right(width + BETWEEN - line.cell_len)
            line.append_text(right[number])
        lines.append(line)
    return lines
