"""What is kept of end points and base stations beyond the process: values, as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bssci.core.center.end_points import EndPoint

__all__ = [
    "Cause",
    "Episode",
    "Hearing",
    "Preferred",
    "Refused",
    "Registration",
    "Spread",
    "StationRecord",
    "Wanted",
    "Wish",
]

Wanted = Literal["attached", "detached"]

Cause = Literal["command", "mqtt", "import", "inactivity", "heard", "over_the_air", "removed"]
"""Why something was decided: by an operator's command, by MQTT, by an import, because the end
point was silent, because it was heard again, or because it attached or detached by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is wanted of an end point, since when and why.

    Attributes:
        since_ns: Unix time of the decision.
        is_announced: applications were told that it has come true.
        is_warned: the inactivity warning for the present silence was sent.
    """

    end_point: EndPoint
    wanted: Wanted
    cause: Cause
    since_ns: int
    is_announced: bool = False
    is_warned: bool = False


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure is distributed: its mean, extremes, and sum of squared deviations (Welford)."""

    mean: float
    least: float
    most: float
    squares: float = 0.0


@dataclass(frozen=True, slots=True)
class Preferred:
    """The base station that hears an end point best.

    Attributes:
        snr: dB, of the last telegram it heard best.
        updated_ns: Unix time of that telegram.
        messages: telegrams in a row that it heard best.
    """

    bs_eui: int
    snr: float
    updated_ns: int
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """What was learned by hearing an end point.

    Attributes:
        uplinks: telegrams, copies not counted.
        last_seen_ns: Unix time of the last one; `last_cnt`, `last_snr` (dB) and `last_rssi` (dBm)
            are those of its best reception.
        receivers: the base stations that usually hear it.
        heard_at: reading of the silence clock of these receivers, in ns, when it was last heard.
    """

    uplinks: int
    last_seen_ns: int
    last_cnt: int
    last_snr: float
    last_rssi: float
    snr: Spread
    rssi: Spread
    preferred: Preferred
    receivers: frozenset[int]
    heard_at: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A base station refused, or did not answer, what it was told of an end point.

    Attributes:
        code: POSIX number; 110 when no answer came.
        at_ns: Unix time.
    """

    code: int
    message: str
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What one base station has said about one end point.

    Attributes:
        mark: `end_points.mark_of` the attach propagate that it confirmed last; None: it does not
            hold the end point, as far as we know.
        refused: how the last attempt failed; None: it did not.
    """

    bs_eui: int
    ep_eui: int
    mark: int | None
    refused: Refused | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Something in the life of an end point, for its history.

    Attributes:
        what: `added`, `changed`, `attach`, `detach` (wanted from now on), `attached`, `detached`
            (come true), `attach_failed`, `attach_refused`, `refused`, `warning`, `heard` (while
            detached), `removed`.
        cause: why; empty where `what` says it.
        bs_eui: the base station it happened at, if it was one.
    """

    ep_eui: int
    at_ns: int
    what: str
    cause: str = ""
    bs_eui: int | None = None
    code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StationRecord:
    """A base station as it is remembered while it is away.

    Attributes:
        session: the `snScUuid` in which it confirmed what its registrations say; empty: none.
        since_ns: Unix time since which it is connected, or is not.
        position: latitude and longitude in degrees, altitude in metres.
    """

    bs_eui: int
    session: bytes
    since_ns: int
    address: str | None = None
    name: str | None = None
    vendor: str | None = None
    model: str | None = None
    sw_version: str | None = None
    bidi: bool = False
    position: tuple[float, float, float] | None = None
    uplinks: int = 0
