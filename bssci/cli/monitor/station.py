"""One base station: its load and clock, what it hears, which sensors it serves."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from bssci.cli import output
from bssci.cli.monitor import words
from bssci.cli.monitor.grid import flow, grid, styled, titled
from bssci.cli.monitor.marks import bar, sparkline
from bssci.cli.monitor.state import BUCKET, Fields, Known
from bssci.cli.output import NOTHING, Cell, Column

__all__ = ["station"]

BAR = 12  # characters
MAX_LINE = 120  # characters of a sparkline
LABEL, VALUE = 10, 12  # columns before a picture
REMARK = 28  # columns behind it


def station(eui: str, known: Known, width: int, now: float) -> list[Text]:
    """All that is known of it, as many lines as it takes."""
    shape = known.stations.get(eui)
    title = titled(f"Base station {eui}", known.name_of(eui))
    if shape is None:
        return [title, Text("  it is not known to the service", style="dim", end="")]
    title.append("  ")
    title.append_text(styled(output.state(shape["state"])))
    title.append(f" for {output.span(now - shape['since'])}")
    return [
        title,
        *flow([styled(each) for each in _facts(shape, now)], width),
        Text("", end=""),
        *_load(eui, shape, known, width),
        _rate(known, eui, width, now),
        *_sensors(eui, shape, known, width, now),
    ]


def _facts(shape: Fields, now: float) -> Iterator[Cell]:
    made = " ".join(shape[name] for name in ("vendor", "model", "version") if shape[name])
    yield Cell(made or "maker unknown")
    yield Cell(f"address {shape['address'] or NOTHING}")
    yield Cell("bidirectional" if shape["bidi"] else "only receives")
    if shape["position"] is not None:
        latitude, longitude, altitude = shape["position"]
        yield Cell(f"at {latitude:.5f}, {longitude:.5f}, {altitude:.0f} m")
    yield Cell(f"uplinks {shape['uplinks']}")
    if (status := shape["status"]) is None:
        return
    yield Cell(f"status {_ago(shape.get('status_time'), now)}")
    if status["uptime"] is not None:
        yield Cell(f"up {output.span(status['uptime'])}")
    if status["code"]:
        yield Cell(f"✕ {words.code_and_message(status)}", "red")
    elif status.get("message"):
        yield Cell(str(status["message"]))


def _ago(unix: float | None, now: float) -> str:
    how_long = output.age(unix, now)
    return how_long if how_long in ("now", NOTHING) else f"{how_long} ago"


# --- its load ---


def _load(eui: str, shape: Fields, known: Known, width: int) -> list[Text]:
    """What it has said last, and what it said before."""
    status = shape["status"]
    clock = words.offset(shape["clock_offset"])
    if status is None:
        return [_line("clock", clock, "", ""), Text("  it has not told its load", end="")]
    loads = [*known.loads.get(eui, ())]

    def told(name: str, room: int, least: float | None) -> str:
        return sparkline([each[name] for each in loads], room, least=least)

    room = max(0, min(MAX_LINE, width - 2 - LABEL - VALUE - BAR - 2))
    lines = [
        _line(
            label, words.percent(status[name]), bar(status[name] or 0.0, BAR), told(name, room, 0.0)
        )
        for label, name in (("CPU", "cpuLoad"), ("memory", "memLoad"), ("duty cycle", "dutyCycle"))
    ]
    if status.get("temp") is not None:
        temperature = output.number(status["temp"], unit="°C")
        lines.append(_line("temp", temperature, " " * BAR, told("temp", room, None)))
    return [*lines, _line("clock", clock, " " * BAR, told("clock_offset", room, None))]


def _line(name: str, value: str | Cell, picture: str, before: str) -> Text:
    line = Text(f"  {name:{LABEL + 1}}", end="")
    cell = styled(value)
    cell.pad_right(max(0, VALUE - 1 - cell.cell_len))
    line.append_text(cell)
    line.append(picture, style="cyan")
    if before.strip():
        line.append(f"  {before}", style="cyan")
    line.rstrip()
    return line


def _rate(known: Known, eui: str, width: int, now: float) -> Text:
    """What it has heard lately; of telegrams that are still remembered."""
    room = max(0, min(MAX_LINE, width - 2 - LABEL - VALUE - REMARK))
    last = int(now // BUCKET)
    counts = dict.fromkeys(range(last - room, last), 0)
    for uplink in known.uplinks.values():
        bucket = int(uplink["received"] // BUCKET)
        if bucket in counts and _is_heard_by(uplink, eui):
            counts[bucket] += 1
    rates = [count / BUCKET for count in counts.values()]
    lately = rates[-12:]
    line = _line("uplinks/s", f"{sum(lately) / max(1, len(lately)):.1f}", "", "")
    line.pad_right(max(0, 2 + LABEL + VALUE - line.cell_len))
    line.append(sparkline(rates, room, least=0), style="cyan")
    line.append(f"  {output.span(room * BUCKET)}, up to {max(rates, default=0):.1f}", style="dim")
    return line


def _is_heard_by(uplink: Fields, eui: str) -> bool:
    return any(each["bs_eui"] == eui for each in uplink["receptions"])


# --- its sensors ---

SENSORS = [
    Column("EUI"),
    Column("name", least=12),
    Column("here", usual=11),
    Column("activity", usual=16, spare=1),
    Column("seen", right=True),
    Column("SNR", right=True, spare=2),
    Column("why", least=8, spare=3),
]


def _sensors(eui: str, shape: Fields, known: Known, width: int, now: float) -> list[Text]:
    found = [
        (each, standing)
        for each in known.sensors.values()
        for standing in each["stations"]
        if standing["eui"] == eui
    ]
    # What needs a look comes first.
    found.sort(key=lambda pair: (_RANKS.get(pair[1]["state"], 0), pair[0]["eui"]))
    rows = [
        [
            each["eui"],
            each["name"] or NOTHING,
            output.state(standing["state"]),
            output.state(each["activity"]),
            output.age(each["last_seen"], now),
            output.number(each["snr"]),
            words.code_and_message(standing["error"] or {}) or NOTHING,
        ]
        for each, standing in found[:MAX_SENSORS]
    ]
    counts = ", ".join(f"{number} {state}" for state, number in shape["sensors"].items())
    title = titled("Sensors", counts)
    return [Text("", end=""), title, *(grid(SENSORS, rows, width) if rows else [])]


_RANKS = {"refused": 0, "pending": 1, "confirmed": 2}
MAX_SENSORS = 1_000  # in one list to scroll through; the view of sensors has all
