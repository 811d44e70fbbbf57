"""One sensor: how it is heard and by whom, what is missing, what happened to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from rich.text import Text

from bssci.cli import output
from bssci.cli.monitor import words
from bssci.cli.monitor.grid import flow, grid, styled, titled
from bssci.cli.monitor.listings import LISTINGS
from bssci.cli.monitor.marks import LEAP, bar, losses, sparkline
from bssci.cli.monitor.state import Fields, Known
from bssci.cli.output import NOTHING, Cell, Column, Row

__all__ = ["sensor"]

MAX_LINE = 120  # characters of a sparkline: telegrams
BAR = 20  # characters
LABEL, VALUE, REMARK = 6, 12, 28  # columns around a sparkline


def sensor(eui: str, known: Known, width: int, now: float) -> list[Text]:
    """All that is known of it, as many lines as it takes."""
    shape: Fields | None = known.details.get("shape") or known.sensors.get(eui)
    uplinks: list[Fields] = known.details.get("uplinks") or known.uplinks_of(eui)
    return [
        *_head(eui, shape, known, width, now),
        Text("", end=""),
        *_signal(uplinks, width),
        *_receivers(shape, uplinks, known, width),
        *_downlinks(known, width, now),
        *_history(known, width, now),
    ]


# --- what it is ---


def _head(eui: str, shape: Fields | None, known: Known, width: int, now: float) -> list[Text]:
    title = titled(f"Sensor {eui}", known.name_of(eui))
    if shape is None:
        unknown = "it is not registered" if "shape" in known.details else "waiting for the service"
        return [title, Text(f"  {unknown}", style="dim", end="")]
    title.append("  ")
    title.append_text(styled(output.state(shape["activity"])))
    return [title, *flow([styled(each) for each in _facts(shape, now)], width)]


def _facts(shape: Fields, now: float) -> Iterator[Cell]:
    since = shape.get("wanted_since")
    how_long = f" for {output.span(now - since)}" if since is not None else ""
    yield Cell(f"wanted {shape['wanted']}{how_long}")
    if cause := shape.get("cause"):
        yield Cell(f"because of {str(cause).replace('_', ' ')}")
    served = words.attached(shape)
    yield Cell(f"attached at {served.text}", served.colour)
    yield Cell(f"seen {_ago(shape['last_seen'], now)}")
    yield Cell(f"count {output.number(shape['last_cnt'], 0)}")
    yield Cell(f"uplinks {shape['uplinks']}")
    yield Cell(f"short address {shape['short_addr'] or NOTHING}")
    yield Cell("bidirectional" if shape["bidi"] else "only sends")
    silent, limit = shape.get("silent_for"), shape.get("detached_after")
    if silent is not None and limit is not None and shape["wanted"] == "attached":
        yield Cell(f"detached in {output.span(max(0.0, limit - silent))} if silent")
    if shape["tags"]:
        yield Cell(f"tags {', '.join(shape['tags'])}")


def _ago(unix: float | None, now: float) -> str:
    how_long = output.age(unix, now)
    return how_long if how_long in ("now", NOTHING) else f"{how_long} ago"


# --- how it is heard ---


def _signal(uplinks: Sequence[Fields], width: int) -> list[Text]:
    """The last telegrams, the newest on the right."""
    if not uplinks:
        return [Text("  it was not heard yet", style="dim", end="")]
    oldest_first = [*reversed(uplinks)]
    return [
        _figure("SNR", "dB", [each["snr"] for each in oldest_first], width),
        _figure("RSSI", "dBm", [each["rssi"] for each in oldest_first], width),
        _lost([each["cnt"] for each in oldest_first], width),
    ]


def _figure(name: str, unit: str, values: Sequence[float], width: int) -> Text:
    mean = sum(values) / len(values)
    remark = f"{min(values):.1f} to {max(values):.1f}, mean {mean:.1f}"
    return _line(
        name, f"{values[-1]:.1f} {unit}", lambda room: sparkline(values, room), remark, width
    )


def _lost(counters: Sequence[int], width: int) -> Text:
    found = losses(counters)
    missing = [0.0] + [
        float(after - before - 1) if before < after <= before + LEAP else 0.0
        for before, after in pairwise(counters)
    ]
    gaps = f", {output.plural(found.gaps, 'gap')}" if found.gaps else ""
    remark = f"{found.missing} of {found.heard + found.missing}{gaps}"
    rate = f"{100 * (found.rate or 0.0):.1f} %"
    return _line("lost", rate, lambda room: sparkline(missing, room, least=0), remark, width)


def _line(name: str, value: str, draw: Callable[[int], str], remark: str, width: int) -> Text:
    room = min(MAX_LINE, width - 2 - LABEL - VALUE - REMARK)
    line = Text(f"  {name:{LABEL}}{value:{VALUE}}", end="")
    picture = draw(room)
    if picture:
        line.append(f"{picture}  ", style="cyan")
    line.append(remark, style="dim")
    return line


RECEIVERS = [
    Column("EUI"),
    Column("name", least=12),
    Column("attached", usual=11),
    Column("heard", right=True),
    Column("", spare=1),
    Column("best", right=True, spare=2),
    Column("SNR", right=True),
]


def _receivers(
    shape: Fields | None, uplinks: Sequence[Fields], known: Known, width: int
) -> list[Text]:
    standing = {each["eui"]: each for each in (shape or {}).get("stations", ())}
    heard: dict[str, list[float]] = {eui: [] for eui in standing}
    best: dict[str, int] = {}
    for uplink in uplinks:
        best[uplink["bs_eui"]] = best.get(uplink["bs_eui"], 0) + 1
        for each in uplink["receptions"]:
            heard.setdefault(each["bs_eui"], []).append(each["snr"])
    if not heard:
        return []
    order = sorted(heard, key=lambda eui: (-len(heard[eui]), eui))
    rows: list[Row] = [
        [
            eui,
            known.name_of(eui) or NOTHING,
            _standing(standing.get(eui)),
            f"{100 * len(heard[eui]) / len(uplinks):.0f} %" if uplinks else NOTHING,
            Cell(bar(len(heard[eui]) / max(1, len(uplinks)), BAR), "cyan"),
            str(best.get(eui, 0)),
            output.number(sum(heard[eui]) / len(heard[eui]), unit="dB") if heard[eui] else NOTHING,
        ]
        for eui in order
    ]
    note = f"of the last {output.plural(len(uplinks), 'telegram')}" if uplinks else ""
    return [Text("", end=""), titled("Base stations", note), *grid(RECEIVERS, rows, width)]


def _standing(station: Fields | None) -> Cell:
    if station is None:
        return Cell(NOTHING)
    cell = output.state(station["state"])
    why = words.code_and_message(station["error"] or {})
    return Cell(f"{cell.text}: {why}", cell.colour) if why else cell


# --- what happened ---

HISTORY = [
    Column("time", usual=19),
    Column("event"),
    Column("cause", spare=2),
    Column("base station", least=8, spare=1),
    Column("message", least=8, spare=3),
]


def _history(known: Known, width: int, now: float) -> list[Text]:
    rows = [
        [
            output.moment(each["time"]),
            words.happened(each["what"]),
            each["cause"].replace("_", " ") or NOTHING,
            NOTHING if each["bs_eui"] is None else known.name_of(each["bs_eui"]) or each["bs_eui"],
            words.code_and_message(each) or NOTHING,
        ]
        for each in known.details.get("history") or ()
    ]
    return [Text("", end=""), titled("History"), *grid(HISTORY, rows, width)] if rows else []


def _downlinks(known: Known, width: int, now: float) -> list[Text]:
    listing = LISTINGS["downlinks"]
    rows = [listing.row(each, known, now) for each in known.details.get("downlinks") or ()]
    if not rows:
        return []
    return [Text("", end=""), titled("Downlinks"), *grid(listing.columns, rows, width)]
