"""The six lists: what is in each, how a row of it reads, what it can be sorted by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bssci.cli import output
from bssci.cli.monitor import words
from bssci.cli.monitor.state import Fields, Known, Opened, Told
from bssci.cli.output import NOTHING, Column, Row

__all__ = ["EVENTS", "LISTINGS", "SENSORS", "STATIONS", "UPLINKS", "Listing", "chosen"]

LAST = float("inf")  # where nothing is known


@dataclass(frozen=True, slots=True)
class Listing:
    """A list.

    Attributes:
        none: what is said when it is empty.
        items: all of it, in the order in which it comes.
        key: tells an item from all others.
        row: its cells.
        text: what a filter looks in.
        sorts: names of orders, and what they go by; None: as it comes.
        opens: what Enter shows; None: nothing more is known than what is in the row.
    """

    none: str
    columns: Sequence[Column]
    items: Callable[[Known], Iterable[Any]]
    key: Callable[[Any], str]
    row: Callable[[Any, Known, float], Row]
    text: Callable[[Any, Known], str]
    sorts: Sequence[tuple[str, Callable[[Any], Any] | None]]
    opens: Callable[[Any, Known], Opened | None]


def chosen(listing: Listing, known: Known, wanted: str = "", sort: int = 0) -> list[Any]:
    """What a filter leaves of it, in this order; every word of the filter must be found."""
    parts = wanted.casefold().split()
    found = [
        each
        for each in listing.items(known)
        if not parts or _has(listing.text(each, known).casefold(), parts)
    ]
    by = listing.sorts[sort % len(listing.sorts)][1]
    return found if by is None else sorted(found, key=by)


def _has(text: str, parts: Sequence[str]) -> bool:
    return all(part in text for part in parts)


def _joined(*parts: object) -> str:
    return " ".join(str(each) for each in parts if each is not None)


def _less(value: float | None) -> float:
    """What goes by the number, with what is not known last."""
    return LAST if value is None else value


def _more(value: float | None) -> float:
    """What goes by the number, the highest first."""
    return LAST if value is None else -value


# --- base stations ---


def _station_row(station: Fields, known: Known, now: float) -> Row:
    status = station["status"] or {}
    return [
        station["eui"],
        station["name"] or NOTHING,
        output.state(station["state"]),
        output.age(station["since"], now),
        words.served(station["sensors"]),
        str(station["uplinks"]),
        words.offset(station["clock_offset"]),
        words.percent(status.get("cpuLoad")),
        words.percent(status.get("memLoad")),
        words.percent(status.get("dutyCycle")),
        output.number(status.get("temp"), unit="°C"),
        station["address"] or NOTHING,
    ]


STATIONS = Listing(
    none="no base station was ever connected; 7 shows who was refused",
    columns=[
        Column("EUI"),
        Column("name", least=12),
        Column("state", usual=9),
        Column("since", right=True, usual=6),
        Column("sensors", right=True),
        Column("uplinks", right=True, spare=1),
        Column("clock", right=True, spare=2),
        Column("CPU", right=True, spare=3),
        Column("memory", right=True, spare=4),
        Column("duty", right=True, spare=5),
        Column("temp", right=True, spare=6),
        Column("address", spare=7),
    ],
    items=lambda known: known.stations.values(),
    key=lambda station: str(station["eui"]),
    row=_station_row,
    text=lambda each, known: _joined(
        each["eui"], each["name"], each["state"], each["address"], each["model"]
    ),
    sorts=[
        ("EUI", None),
        ("state", lambda each: (each["state"] == "online", each["eui"])),
        ("name", lambda each: ((each["name"] or "~").casefold(), each["eui"])),
        ("uplinks", lambda each: (-each["uplinks"], each["eui"])),
        ("clock", lambda each: (_more(_size(each["clock_offset"])), each["eui"])),
    ],
    opens=lambda each, known: Opened("station", each["eui"]),
)


def _size(value: float | None) -> float | None:
    return None if value is None else abs(value)


# --- sensors ---


def _sensor_row(sensor: Fields, known: Known, now: float) -> Row:
    return [
        sensor["eui"],
        sensor["name"] or NOTHING,
        output.state(sensor["activity"]),
        words.attached(sensor),
        output.age(sensor["last_seen"], now),
        output.number(sensor["snr"]),
        output.number(sensor["last_cnt"], 0),
        output.number(sensor["rssi"]),
        str(sensor["uplinks"]),
        ", ".join(sensor["tags"]) or NOTHING,
    ]


SENSORS = Listing(
    none="no sensor is registered; `bssci sensors add`, here behind a colon",
    columns=[
        Column("EUI"),
        Column("name", least=12),
        Column("activity", usual=16),
        Column("stations", spare=1),
        Column("seen", right=True, usual=6),
        Column("SNR", right=True, usual=5, spare=2),
        Column("count", right=True, usual=6, spare=3),
        Column("RSSI", right=True, usual=6, spare=4),
        Column("uplinks", right=True, spare=5),
        Column("tags", least=8, spare=6),
    ],
    items=lambda known: known.sensors.values(),
    key=lambda sensor: str(sensor["eui"]),
    row=_sensor_row,
    text=lambda each, known: _joined(
        each["eui"], each["name"], each["activity"].replace("_", " "), *each["tags"]
    ),
    sorts=[
        ("EUI", None),
        ("activity", lambda each: (_rank(each["activity"]), each["eui"])),
        ("name", lambda each: ((each["name"] or "~").casefold(), each["eui"])),
        ("seen", lambda each: (_more(each["last_seen"]), each["eui"])),
        ("silent", lambda each: (_less(each["last_seen"]), each["eui"])),
        ("SNR", lambda each: (_less(each["snr"]), each["eui"])),
        ("uplinks", lambda each: (-each["uplinks"], each["eui"])),
    ],
    opens=lambda each, known: Opened("sensor", each["eui"]),
)


def _rank(activity: str) -> int:
    return words.ACTIVITIES.index(activity) if activity in words.ACTIVITIES else 0


# --- uplinks ---


def _uplink_row(uplink: Fields, known: Known, now: float) -> Row:
    return [
        words.day_or_clock(uplink["received"], now),
        uplink["sensor_eui"],
        known.name_of(uplink["sensor_eui"]) or NOTHING,
        str(uplink["cnt"]),
        output.number(uplink["snr"]),
        output.number(uplink["rssi"]),
        str(len(uplink["receptions"])),
        known.name_of(uplink["bs_eui"]) or uplink["bs_eui"],
        bytes(uplink["data"]).hex() or NOTHING,
    ]


UPLINKS = Listing(
    none="no uplink yet",
    columns=[
        Column("time", usual=8),
        Column("sensor", usual=16),
        Column("name", least=12, usual=12, spare=4),
        Column("count", right=True, usual=6),
        Column("SNR", right=True, usual=5),
        Column("RSSI", right=True, usual=6, spare=2),
        Column("by", right=True, usual=2, spare=1),
        Column("best heard by", least=8, usual=16, spare=5),
        Column("data", least=8, usual=24, spare=3),
    ],
    items=lambda known: reversed(known.uplinks.values()),
    key=lambda uplink: str(uplink["id"]),
    row=_uplink_row,
    text=lambda each, known: _joined(
        each["sensor_eui"],
        known.name_of(each["sensor_eui"]),
        *(f"{at['bs_eui']} {known.name_of(at['bs_eui'])}" for at in each["receptions"]),
        bytes(each["data"]).hex(),
    ),
    sorts=[
        ("newest", None),
        ("sensor", lambda each: (each["sensor_eui"], -each["received"])),
        ("SNR", lambda each: (each["snr"], -each["received"])),
        ("heard by few", lambda each: (len(each["receptions"]), -each["received"])),
    ],
    opens=lambda each, known: Opened("sensor", each["sensor_eui"]),
)


# --- downlinks ---


def _downlink_row(downlink: Fields, known: Known, now: float) -> Row:
    station = downlink["bs_eui"]
    return [
        str(downlink["id"]),
        downlink["sensor_eui"],
        known.name_of(downlink["sensor_eui"]) or NOTHING,
        words.happened(downlink["state"]),
        output.age(downlink["created"], now),
        NOTHING if downlink["result"] else output.span(max(0.0, downlink["expires"] - now)),
        NOTHING if station is None else known.name_of(station) or station,
        NOTHING if downlink["ref"] is None else str(downlink["ref"]),
        _content(downlink) or NOTHING,
    ]


def _content(downlink: Fields) -> str:
    if downlink["entries"] is None:
        return bytes(downlink["data"]).hex()
    return " ".join(f"{each['cnt']}={bytes(each['data']).hex()}" for each in downlink["entries"])


DOWNLINKS = Listing(
    none="no downlink yet",
    columns=[
        Column("id", right=True),
        Column("sensor", usual=16),
        Column("name", least=12, spare=3),
        Column("state", usual=14),
        Column("age", right=True, usual=6),
        Column("expires in", right=True, spare=2),
        Column("base station", least=8, spare=1),
        Column("ref", least=4, spare=4),
        Column("data", least=8, spare=5),
    ],
    items=lambda known: known.downlinks,
    key=lambda downlink: str(downlink["id"]),
    row=_downlink_row,
    text=lambda each, known: _joined(
        each["id"],
        each["sensor_eui"],
        known.name_of(each["sensor_eui"]),
        each["state"].replace("_", " "),
        each["ref"],
        each["bs_eui"],
    ),
    sorts=[
        ("newest", None),
        ("state", lambda each: (each["result"] is not None, each["state"], -each["id"])),
        ("sensor", lambda each: (each["sensor_eui"], -each["id"])),
    ],
    opens=lambda each, known: Opened("sensor", each["sensor_eui"]),
)


# --- events ---


def _event_row(told: Told, known: Known, now: float) -> Row:
    eui = str(told.data.get("eui") or "")
    return [
        words.day_or_clock(told.time, now),
        told.kind,
        words.event(told),
        eui or NOTHING,
        known.name_of(eui) or str(told.data.get("name") or NOTHING),
        words.story(told, known.name_of),
    ]


def _opened_by(told: Told, known: Known) -> Opened | None:
    eui = told.data.get("eui")
    if eui and told.kind in ("sensor", "downlink"):
        return Opened("sensor", eui)
    return Opened("station", eui) if told.kind == "station" and eui in known.stations else None


EVENTS = Listing(
    none="nothing has happened since this is watched",
    columns=[
        Column("time", usual=8),
        Column("about", usual=8, spare=2),
        Column("what", usual=16),
        Column("EUI", usual=16),
        Column("name", least=12, usual=12, spare=3),
        Column("details", least=8, spare=1),
    ],
    items=lambda known: reversed(known.events),
    key=lambda told: str(told.number),
    row=_event_row,
    text=lambda each, known: _joined(
        each.kind,
        words.event(each).text,
        each.data.get("eui"),
        known.name_of(str(each.data.get("eui"))),
        words.story(each, known.name_of),
    ),
    sorts=[("newest", None), ("about", lambda each: (each.kind, -each.number))],
    opens=_opened_by,
)


# --- refused ---


def _refused_row(refusal: Fields, known: Known, now: float) -> Row:
    certificate = refusal["certificate"]
    return [
        output.age(refusal["time"], now),
        str(refusal["count"]),
        refusal["address"],
        output.Cell(f"✕ {refusal['reason'].replace('_', ' ')}", "red"),
        refusal["eui"] or NOTHING,
        NOTHING if certificate is None else certificate["subject"],
        refusal.get("detail") or NOTHING,
    ]


REFUSED = Listing(
    none="nobody was refused since the service runs",
    columns=[
        Column("last", right=True, usual=6),
        Column("times", right=True),
        Column("address", least=9),
        Column("reason", usual=10),
        Column("EUI", spare=1),
        Column("certificate", least=11, spare=2),
        Column("detail", least=16, spare=3),
    ],
    items=lambda known: known.refused,
    key=lambda each: _joined(
        each["reason"],
        each["address"],
        each["eui"],
        (each["certificate"] or {}).get("fingerprint"),
    ),
    row=_refused_row,
    text=lambda each, known: _joined(
        each["address"], each["reason"].replace("_", " "), each["eui"], each.get("detail")
    ),
    sorts=[
        ("newest", None),
        ("times", lambda each: (-each["count"], -each["time"])),
        ("reason", lambda each: (each["reason"], -each["time"])),
    ],
    opens=lambda each, known: None,
)

LISTINGS = {
    "stations": STATIONS,
    "sensors": SENSORS,
    "uplinks": UPLINKS,
    "downlinks": DOWNLINKS,
    "events": EVENTS,
    "refused": REFUSED,
}
