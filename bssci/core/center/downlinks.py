"""Downlinks: what applications have to say to end points, and how it ends (BSSCI 1.0.0, 5.12-5.14).

A downlink is queued at one base station, which sends it in the first window that fits. It ends in
exactly one way: `sent`, `expired`, `invalid`, `revoked` or `rejected`. That the end point has it is
known only from its next uplink; then it is `acknowledged`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from bssci.core.center.bodies import InvalidBodyError, Ref, ref_of
from bssci.core.center.end_points import bare_name, shown
from bssci.core.center.user_data import InvalidUserDataError, Said, entries_of, octets_of
from bssci.core.protocol.errors import BssciError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.messages import DownlinkDataQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bssci.core.center.topics import Fields

__all__ = [
    "MAX_LIFETIME",
    "PARAMETERS",
    "Downlink",
    "DownlinkRecord",
    "DownlinkState",
    "Ending",
    "Intent",
    "InvalidDownlinkError",
    "Parameter",
    "Ref",
    "Result",
    "downlink_of",
    "downlink_shape",
    "event_data",
    "message_of",
]

MAX_LIFETIME = 30 * 86400.0  # seconds


class InvalidDownlinkError(BssciError, ValueError):
    """Parameters that describe no downlink; says everything that is wrong with them."""


Result = Literal["sent", "expired", "invalid", "revoked", "rejected"]

DownlinkState = Literal[
    "queued", "at_station", "sent", "acknowledged", "expired", "invalid", "revoked", "rejected"
]

Intent = Literal["deliver", "revoke", "expire"]
"""What is wanted of a downlink that has no result yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Downlink:
    """Something to be said to an end point.

    Attributes:
        que_id: the queue ID: below 2**53, never used twice.
        user_data: one entry for each packet counter, or one alone; an empty one acknowledges.
        packet_cnt: the uplinks in whose windows each entry may be sent; None: in any.
        prio: the higher one goes first.
        response_exp: the end point is asked to answer; `response_prio`: with priority.
        dl_wind_req: it is asked for another window.
        exp_only: it is sent only after an uplink that expects a response.
        query_rx: it also asks the end point how it hears the base station (5.16).
        created_ns, expires_ns: Unix times.
    """

    que_id: int
    ep_eui: int
    user_data: tuple[bytes, ...] = field(repr=False)
    packet_cnt: tuple[int, ...] | None = None
    format: int | None = None
    prio: float = 0.0
    response_exp: bool = False
    response_prio: bool = False
    dl_wind_req: bool = False
    exp_only: bool = False
    query_rx: bool = False
    ref: Ref | None = None
    created_ns: int
    expires_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a downlink ended.

    Attributes:
        at_ns: Unix time at which we learned it.
        bs_eui: the base station it happened at, if it was at one.
        tx_time: of what was sent: center of its first subpacket, by the base station's clock, ns.
        packet_cnt: of what was sent: the uplink whose window was used.
        code, message: why, in the words of whoever refused it.
    """

    result: Result
    at_ns: int
    bs_eui: int | None = None
    tx_time: int | None = None
    packet_cnt: int | None = None
    code: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkRecord:
    """How it is with a downlink, as it is stored and shown.

    Attributes:
        holder: the base station that holds it, or may hold it; also of one that has ended, until
            the base station has let go of it.
        is_queued: the holder has confirmed that it holds it.
        ending: None: it has not ended.
        acknowledged_ns: Unix time at which the end point's acknowledgement came.
    """

    downlink: Downlink
    holder: int | None = None
    is_queued: bool = False
    intent: Intent = "deliver"
    ending: Ending | None = None
    acknowledged_ns: int | None = None

    @property
    def state(self) -> DownlinkState:
        """What it is called in listings."""
        if self.ending is None:
            # Before the base station has said so it is on its way there at most.
            return "at_station" if self.is_queued else "queued"
        return "acknowledged" if self.acknowledged_ns is not None else self.ending.result


# --- reading what comes from outside ---

MAX_FLOAT32 = 3.4028234663852886e38


def _data(value: object) -> Said:
    return Said((octets_of(value),))


def _ref(value: object) -> Ref | None:
    try:
        return ref_of(value)
    except InvalidBodyError as error:
        raise InvalidDownlinkError(str(error).removeprefix("ref: ")) from error


def _prio(value: object) -> float:
    match value:
        case bool():
            pass
        case int() | float() if abs(value) <= MAX_FLOAT32:  # NaN is not
            return float(value)
    raise InvalidDownlinkError(f"found {shown(value)}, a number of single precision is expected")


def _format(value: object) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise InvalidDownlinkError(f"found {shown(value)}, a number from 0 to 255 is expected")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, int) or value not in (0, 1):
        raise InvalidDownlinkError(f"found {shown(value)}, true or false is expected")
    return bool(value)


def _lifetime_ns(value: object) -> int:
    match value:
        case bool():
            pass
        case int() | float() if 0 < value <= MAX_LIFETIME:
            return round(value * 1e9)
    raise InvalidDownlinkError(
        f"found {shown(value)}, seconds above 0 and at most {MAX_LIFETIME:.0f} are expected"
    )


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a downlink.

    Attributes:
        gives: what its value is: an attribute of `Downlink`, or what such are made of.
        read: the value that something from outside stands for; raises InvalidDownlinkError
            or InvalidUserDataError.
    """

    gives: str
    read: Callable[[object], object]


PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {
        "data": Parameter("said", _data),
        "entries": Parameter("said", entries_of),
        "ref": Parameter("ref", _ref),
        "prio": Parameter("prio", _prio),
        "format": Parameter("format", _format),
        "response_exp": Parameter("response_exp", _flag),
        "response_prio": Parameter("response_prio", _flag),
        "dl_wind_req": Parameter("dl_wind_req", _flag),
        "exp_only": Parameter("exp_only", _flag),
        "query_rx": Parameter("query_rx", _flag),
        "expires_in": Parameter("lifetime_ns", _lifetime_ns),
    }
)
"""Every parameter by the name that methods give it. MQTT's `responseExp` is the same in other
letters."""

_KNOWN = {bare_name(name): name for name in PARAMETERS}


def downlink_of(
    given: Mapping[str, object], *, ep_eui: int, que_id: int, now_ns: int, lifetime_ns: int
) -> Downlink:
    """The downlink that parameters from outside describe.

    Args:
        given: parameters by any spelling of their names; None stands for one that is not given.
            A text of `data` is hexadecimal digits, with blanks, `:` or `-` between them if need
            be; none at all are a pure acknowledgement.
        lifetime_ns: until it expires, if `expires_in` (seconds) does not say so.

    Raises:
        InvalidDownlinkError: says everything that is wrong, each with the name it was given by,
            and nothing that could be a key.
    """
    values, faults = _read(given)
    if faults:
        raise InvalidDownlinkError("; ".join(faults))
    said = values.pop("said")
    assert isinstance(said, Said)
    lifetime = values.pop("lifetime_ns", lifetime_ns)
    assert isinstance(lifetime, int)
    make: Callable[..., Downlink] = Downlink
    return make(
        que_id=que_id,
        ep_eui=ep_eui,
        user_data=said.user_data,
        packet_cnt=said.packet_cnt,
        created_ns=now_ns,
        expires_ns=now_ns + lifetime,
        **values,
    )


def _read(given: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """What the parameters give, and what is wrong with them."""
    values: dict[str, object] = {}
    names: dict[str, str] = {}
    faults = []
    for spelled, value in given.items():
        name = _KNOWN.get(bare_name(spelled))
        if name is None:
            faults.append(f"{shown(spelled)} is no parameter of a downlink")
        elif value is None:
            continue
        elif name in names:
            faults.append(f"{_called(spelled)} is given twice, also as {_called(names[name])}")
        else:
            names[name] = spelled
            try:
                values[PARAMETERS[name].gives] = PARAMETERS[name].read(value)
            except (InvalidDownlinkError, InvalidUserDataError) as error:
                faults.append(f"{_called(spelled)}: {error}")
    if "data" not in names and "entries" not in names:
        faults.append("data is missing, or entries")
    if "data" in names and "entries" in names:
        faults.append("data and entries are both given, one of them is expected")
    return values, faults


def _called(spelled: str) -> str:
    """The name that a parameter was given by."""
    return spelled if spelled.isidentifier() and len(spelled) < 20 else shown(spelled)


# --- what base stations are told ---


def message_of(downlink: Downlink) -> DownlinkDataQueue:
    """The message by which a base station queues it (5.12.1)."""
    return DownlinkDataQueue(
        ep_eui=downlink.ep_eui,
        que_id=downlink.que_id,
        cnt_depend=downlink.packet_cnt is not None,
        packet_cnt=downlink.packet_cnt,
        user_data=downlink.user_data,
        format=downlink.format,
        prio=downlink.prio,
        response_exp=downlink.response_exp,
        response_prio=downlink.response_prio,
        dl_wind_req=downlink.dl_wind_req,
        exp_only=downlink.exp_only,
    )


# --- showing ---


def downlink_shape(record: DownlinkRecord) -> Fields:
    """A downlink as `downlinks list` shows it; times are Unix seconds."""
    downlink = record.downlink
    return {
        "id": downlink.que_id,
        "sensor_eui": format_eui(downlink.ep_eui),
        "ref": downlink.ref,
        "state": record.state,
        "bs_eui": _where(record),
        "created": downlink.created_ns / 1e9,
        "expires": downlink.expires_ns / 1e9,
        "result": None if record.ending is None else _result(record.ending, record.acknowledged_ns),
        "intent": record.intent,
        **_content(downlink),
        "prio": downlink.prio,
        "format": downlink.format,
        "response_exp": downlink.response_exp,
        "response_prio": downlink.response_prio,
        "dl_wind_req": downlink.dl_wind_req,
        "exp_only": downlink.exp_only,
        "query_rx": downlink.query_rx,
    }


def _content(downlink: Downlink) -> Fields:
    """The same words as those that `downlink_of` reads."""
    if downlink.packet_cnt is None:
        return {"data": [*downlink.user_data[0]], "entries": None}
    pairs = zip(downlink.packet_cnt, downlink.user_data, strict=True)
    return {"data": None, "entries": [{"cnt": cnt, "data": [*data]} for cnt, data in pairs]}


def _where(record: DownlinkRecord) -> str | None:
    """The base station it is at or has ended at."""
    ended_at = None if record.ending is None else record.ending.bs_eui
    return _eui(record.holder if ended_at is None else ended_at)


def _eui(eui: int | None) -> str | None:
    return None if eui is None else format_eui(eui)


def _result(ending: Ending, acknowledged_ns: int | None) -> Fields:
    return {
        "result": ending.result,
        "time": ending.at_ns / 1e9,
        "bs_eui": _eui(ending.bs_eui),
        "tx_time": _seconds(ending.tx_time),
        "cnt": ending.packet_cnt,
        "code": ending.code,
        "message": ending.message,
        "acknowledged": _seconds(acknowledged_ns),
    }


def _seconds(time_ns: int | None) -> float | None:
    return None if time_ns is None else time_ns / 1e9


def event_data(record: DownlinkRecord, event: DownlinkState) -> Fields:
    """What watchers are told when a downlink has come into a state."""
    ending = record.ending
    told: Fields = {
        "bs_eui": _where(record),
        "tx_time": None if ending is None else _seconds(ending.tx_time),
        "cnt": None if ending is None else ending.packet_cnt,
        "code": None if ending is None else ending.code,
        "message": None if ending is None else ending.message or None,
    }
    return {
        "id": record.downlink.que_id,
        "eui": format_eui(record.downlink.ep_eui),
        "ref": record.downlink.ref,
        "event": event,
    } | {name: value for name, value in told.items() if value is not None}
