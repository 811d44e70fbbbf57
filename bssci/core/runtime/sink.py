"""Uplinks into a function of the caller's own: one by one, in order, each until it is safe there.

For programs that are a Service Center themselves and want uplinks without a broker, or besides one.
What waits is in the outbox, on disk: a sink that is slow, or fails for days, costs no memory and
holds up no base station.
"""

from __future__ import annotations

import json
import logging
import math
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.eui import format_eui, parse_eui

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Receipts", "Row", "SinkLink", "Uplink", "UplinkReception", "UplinkSink"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE, MAX_PAUSE = 1.0, 30.0  # seconds before what failed is repeated; doubles
QUIET = 300.0  # seconds without a failure, after which the same kind is told again
MAX_KINDS = 50  # of failures remembered as told

BATCH = 100  # rows in memory at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkReception:
    """An uplink as one base station heard it.

    Attributes:
        bs_eui: the base station.
        rx_time: Unix time in ns, center of the last subpacket, by the base station's clock.
        rx_time_corrected: the same by our clock; None where the station's error is not known.
        snr, eq_snr: dB; `eq_snr` is the AWGN equivalent, None where the station does not tell it.
        rssi: dBm.
    """

    bs_eui: int
    rx_time: int
    snr: float
    rssi: float
    eq_snr: float | None = None
    rx_time_corrected: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """One uplink of a sensor, its copies removed: what MQTT publishes, as Python values.

    Attributes:
        id: names this uplink, also when it comes again.
        ep_eui: the sensor (end point).
        bs_eui: the base station with the best reception.
        packet_cnt: the sensor's counter.
        data: what the sensor says.
        rx_time, rx_time_corrected, snr, rssi, eq_snr: of the best reception, as in
            `UplinkReception`.
        format: the MPF byte of the radio telegram.
        dl_open: a downlink window followed.
        response_exp: the sensor expects an answer in that window.
        dl_ack: the sensor got the downlink in the window of `packet_cnt` - 1.
        registered: the sensor is one of ours.
        counter_reused: the sensor sent this counter with other content not long ago.
        profile, mode: of the radio telegram; None where the base station does not tell them.
        rx_duration: ns from the center of the first to that of the last subpacket; None as above.
        receptions: one for each base station that heard it, best first.
        body: what MQTT publishes, JSON text.
    """

    id: str
    ep_eui: int
    bs_eui: int
    packet_cnt: int
    data: bytes
    rx_time: int
    snr: float
    rssi: float
    format: int = 0
    dl_open: bool = False
    response_exp: bool = False
    dl_ack: bool = False
    registered: bool = False
    counter_reused: bool = False
    eq_snr: float | None = None
    profile: str | None = None
    mode: str | None = None
    rx_duration: int | None = None
    rx_time_corrected: int | None = None
    receptions: tuple[UplinkReception, ...] = ()
    body: str = field(default="", repr=False)

    @classmethod
    def of(cls, ep_eui: int, body: str) -> Uplink:
        """The uplink that a published body (`{base}/ep/{EUI}/ul`) tells of.

        Raises:
            ValueError: it is no such body.
        """
        try:
            return cls(ep_eui=ep_eui, body=body, **_uplink_fields(json.loads(body)))
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"no uplink: {error!r} in {body[:80]!r}") from error

    def as_json(self) -> dict[str, Any]:
        """What MQTT publishes, and `sensor_eui`: as `bssci uplinks list --json` shows it."""
        return {"sensor_eui": format_eui(self.ep_eui), **json.loads(self.body or "{}")}


def _uplink_fields(body: dict[str, Any]) -> dict[str, Any]:
    return _reception_fields(body) | {
        "id": str(body["id"]),
        "packet_cnt": int(body["cnt"]),
        "data": bytes(body["data"]),
        "format": int(body["format"]),
        "dl_open": bool(body["dlOpen"]),
        "response_exp": bool(body["responseExp"]),
        "dl_ack": bool(body["dlAck"]),
        "registered": bool(body["registered"]),
        "counter_reused": bool(body.get("counterReused", False)),
        "profile": body.get("profile"),
        "mode": body.get("mode"),
        "rx_duration": body.get("rxDuration"),
        "receptions": tuple(
            UplinkReception(**_reception_fields(each)) for each in body["receptions"]
        ),
    }


def _reception_fields(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "bs_eui": parse_eui(body["bs_eui"]),
        "rx_time": int(body["rxTime"]),
        "snr": float(body["snr"]),
        "rssi": float(body["rssi"]),
        "eq_snr": body.get("eqSnr"),
        "rx_time_corrected": body.get("rxTimeCorrected"),
    }


UplinkSink = Callable[[Uplink], Awaitable[object]]
"""An async function that takes an uplink and returns when it is safe; it may wait as long as it
likes. If it raises, it gets the same uplink again."""


# --- one by one ------------------------------------------------------------------------------


class Row(Protocol):
    """An uplink as the outbox holds it, or something else that is published."""

    @property
    def id(self) -> int:
        """Grows in the order of the outbox."""
        ...

    @property
    def ep_eui(self) -> int: ...

    @property
    def body(self) -> str: ...

    @property
    def channel(self) -> str | None:
        """None: it is an uplink."""
        ...


class SinkLink:
    """Hands uplinks to a sink, for ever; `run` it in one task.

    Args:
        sink: gets each uplink. One that it has taken may come again after a crash.
        fetch: (after row, limit) -> rows of the outbox with higher ids, in order; an empty answer
            means that there are no more now. None may appear below one already given.
        taken: the sink has this row; called in the trio thread, must not block.
    """

    def __init__(
        self,
        sink: UplinkSink,
        *,
        fetch: Callable[[int, int], Awaitable[Sequence[Row]]],
        taken: Callable[[int], None],
    ) -> None:
        self._sink = sink
        self._fetch = fetch
        self._taken = taken
        self._last = 0
        self._state = "busy"
        self._changed = trio.Event()
        self._due = trio.Event()
        self._told: set[str] = set()
        self._failed_at = -math.inf
        self._is_lamented = False

    def wake(self) -> None:
        """Say that rows were added to the outbox. Cheap; may be called for every commit."""
        if self._state == "idle":
            self._change("busy")
        self._due.set()

    async def wait_drained(self) -> None:
        """Return when the sink has everything that is in the outbox, or when it fails."""
        while self._state == "busy":
            await self._changed.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand uplinks over until cancelled; the one at hand then comes again at the next start."""
        task_status.started()
        while True:
            self._due = trio.Event()
            rows = await self._until_it_works(lambda: self._fetch(self._last, BATCH), "the outbox")
            for row in rows:
                await self._hand_over(row)
            # Only an empty answer says that there are no more.
            if not rows and not self._due.is_set():
                self._change("idle")
                await self._due.wait()

    async def _hand_over(self, row: Row) -> None:
        # What is no uplink is for MQTT alone.
        if row.channel is None and (uplink := self._read(row)) is not None:
            await self._until_it_works(lambda: self._sink(uplink), "the uplink sink")
        self._last = row.id
        self._taken(row.id)

    def _read(self, row: Row) -> Uplink | None:
        try:
            return Uplink.of(row.ep_eui, row.body)
        except ValueError as error:
            # It would stand in the way of all that follow, and never get better.
            logger.error("outbox row %x is left out for the uplink sink: %s", row.id, error)
            return None

    async def _until_it_works(self, work: Callable[[], Awaitable[T]], whose: str) -> T:
        pause = FIRST_PAUSE
        while True:
            try:
                result = await work()
            except Exception as error:  # whatever the caller's function raises
                self._failed(error, whose)
            else:
                self._worked(whose)
                return result
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    def _failed(self, error: Exception, whose: str) -> None:
        """Note it; tell the operator once per kind, until it is over for good."""
        now = trio.current_time()
        if now - self._failed_at > QUIET or len(self._told) >= MAX_KINDS:
            self._told.clear()
        self._failed_at = now
        kind = f"{whose} {type(error).__qualname__} {getattr(error, 'errno', '')}"
        if kind not in self._told:
            self._told.add(kind)
            self._is_lamented = True
            words = f"{type(error).__name__}: {error}".rstrip(": ")
            # The caller's own function: its author must see where it failed.
            trace = None if isinstance(error, OSError | StorageError) else error
            logger.warning("%s fails, uplinks wait for it: %s", whose, words, exc_info=trace)
        self._change("failing")

    def _worked(self, whose: str) -> None:
        if self._state == "failing":
            self._change("busy")
            if self._is_lamented:
                logger.info("%s works again", whose)
            self._is_lamented = False

    def _change(self, state: str) -> None:
        self._state = state
        self._changed.set()
        self._changed = trio.Event()


# --- broker and sink -------------------------------------------------------------------------


class Receipts:
    """Who has which uplinks: they count as published when everybody there is has them."""

    def __init__(
        self, tell: Callable[[Sequence[int]], None], *, has_broker: bool, has_sink: bool
    ) -> None:
        """`tell` gets rows of the outbox, each once."""
        self._tell = tell
        self._has_broker = has_broker
        # The sink has all rows up to this one, because it takes them in order.
        self._through = 0 if has_sink else math.inf
        self._ahead = _Rows()

    def broker_has(self, rows: Sequence[int]) -> None:
        """The broker has acknowledged these, in any order."""
        complete = [row for row in rows if row <= self._through]
        for row in rows:
            if row > self._through:
                self._ahead.add(row)
        if complete:
            self._tell(complete)

    def sink_has(self, row: int) -> None:
        """The sink has this one; rows come in order."""
        self._through = row
        if not self._has_broker or self._ahead.discard(row):
            self._tell((row,))


class _Rows:
    """A set of numbers that come nearly in order, a million as cheap as one: held as runs."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._firsts)

    def add(self, row: int) -> None:
        firsts, lasts = self._firsts, self._lasts
        at = bisect_right(firsts, row)
        if at and lasts[at - 1] >= row:
            return
        follows = at > 0 and lasts[at - 1] == row - 1
        precedes = at < len(firsts) and firsts[at] == row + 1
        if follows and precedes:
            lasts[at - 1] = lasts.pop(at)
            del firsts[at]
        elif follows:
            lasts[at - 1] = row
        elif precedes:
            firsts[at] = row
        else:
            firsts.insert(at, row)
            lasts.insert(at, row)

    def discard(self, row: int) -> bool:
        """Take a number out; whether it was there."""
        at = bisect_right(self._firsts, row) - 1
        if at < 0 or self._lasts[at] < row:
            return False
        pieces = ((self._firsts[at], row - 1), (row + 1, self._lasts[at]))
        left = [(first, last) for first, last in pieces if first <= last]
        self._firsts[at : at + 1] = [first for first, _ in left]
        self._lasts[at : at + 1] = [last for _, last in left]
        return True
