"""What happened and how things are, as cells of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from bssci.cli import output
from bssci.cli.monitor.state import Fields, Told
from bssci.cli.output import NOTHING, Cell

__all__ = [
    "ACTIVITIES",
    "attached",
    "clock",
    "code_and_message",
    "day_or_clock",
    "event",
    "happened",
    "offset",
    "percent",
    "served",
    "story",
]

# The one that needs somebody most comes first.
ACTIVITIES = ("detach_pending", "auto_detached", "warning", "never_seen", "detached", "active")

_GOOD, _WAITS, _LOOK, _BAD, _OVER = (
    ("●", "green"),
    ("◐", "yellow"),
    ("▲", "yellow"),
    ("✕", "red"),
    ("○", "dim"),
)
_PLAIN = ("·", "")

_MARKS = {
    "online": _GOOD,
    "offline": ("○", "red"),
    "refused": _BAD,
    "added": _WAITS,
    "changed": _WAITS,
    "attach": _WAITS,
    "detach": _WAITS,
    "attached": _GOOD,
    "confirmed": _GOOD,
    "detached": _OVER,
    "removed": _OVER,
    "cleared": _OVER,
    "auto_detached": _BAD,
    "attach_failed": _BAD,
    "attach_refused": _BAD,
    "warning": _LOOK,
    "warning_withdrawn": _GOOD,
    "heard_detached": _LOOK,
    "queued": _WAITS,
    "at_station": _WAITS,
    "sent": _GOOD,
    "acknowledged": _GOOD,
    "expired": _BAD,
    "invalid": _BAD,
    "rejected": _BAD,
    "revoked": _OVER,
}


def happened(name: str) -> Cell:
    """What happened to a sensor, a base station or a downlink, with what tells good from bad."""
    symbol, colour = _MARKS.get(name, _PLAIN)
    return Cell(f"{symbol} {name.replace('_', ' ')}", colour)


def event(told: Told) -> Cell:
    """What happened, in a word or two."""
    if told.kind == "gap":
        return Cell(f"▲ {told.data['lost']} lost", "yellow")
    return happened(str(told.data.get("event") or told.data.get("state") or told.kind))


def story(told: Told, name_of: Callable[[str], str]) -> str:
    """The rest of what is told of it, with base stations by name."""
    data = told.data
    if told.kind == "gap":
        return "events came too fast to be shown"
    if told.kind == "service":
        return ", ".join(map(str, data.get("keys") or ()))
    return ", ".join(_parts(told.kind, data, name_of)) or NOTHING


def _parts(kind: str, data: Fields, name_of: Callable[[str], str]) -> Iterator[str]:
    if kind == "downlink":
        yield f"downlink {data['id']}"
    if cause := data.get("cause") or data.get("reason"):
        yield str(cause).replace("_", " ")
    if (mac_type := data.get("mac_type")) is not None:
        yield f"MAC type {mac_type}"
    if address := data.get("address"):
        yield f"from {address}"
    if station := data.get("bs_eui"):
        yield f"at {name_of(station) or station}"
    if words := code_and_message(data):
        yield words
    if detail := data.get("detail"):
        yield str(detail)


def code_and_message(data: Fields) -> str:
    """Of an error, or the message alone."""
    code, message = data.get("code"), data.get("message")
    return ", ".join([*([f"error {code}"] if code is not None else []), *filter(None, [message])])


def clock(unix: float | None) -> str:
    """The time of day."""
    return output.moment(unix).rpartition(" ")[2]


def day_or_clock(unix: float, now: float) -> str:
    """The time of day, or the day if it was another one."""
    try:
        is_today = datetime.fromtimestamp(unix).date() == datetime.fromtimestamp(now).date()
    except (OverflowError, ValueError, OSError):
        return output.moment(unix)
    return clock(unix) if is_today else output.moment(unix)


def offset(seconds: float | None) -> Cell:
    """How much a clock is ahead; more than a second is worth a look."""
    if seconds is None:
        return Cell(NOTHING)
    if abs(seconds) >= 86400:
        return Cell(f"▲ {'-' if seconds < 0 else '+'}{output.span(abs(seconds))}", "yellow")
    return Cell(f"{seconds:+.3f} s", "yellow" if abs(seconds) >= 1 else "")


def percent(share: float | None) -> str:
    """Of a base station's load; some firmware tells a load average."""
    if share is None:
        return NOTHING
    return f"{share * 100:.0f} %" if share <= 1 else f"{share:.2f}"


def served(counts: dict[str, int]) -> Cell:
    """How many sensors a base station serves, has to be told of, and refuses."""
    pending, refused = counts["pending"], counts["refused"]
    text = str(counts["confirmed"])
    text += (f"+{pending}" if pending else "") + (f"-{refused}" if refused else "")
    return Cell(text, "red" if refused else "yellow" if pending else "")


def attached(sensor: Fields) -> Cell:
    """At how many of those base stations that are to serve it."""
    states = [each["state"] for each in sensor["stations"]]
    colour = "red" if "refused" in states else "yellow" if "pending" in states else ""
    return Cell(f"{states.count('confirmed')}/{len(states)}" if states else NOTHING, colour)
