"""The other role: a base station that talks to a Service Center (BSSCI 1.0.0, 3 and 5).

For gateways, simulation and tests. A `Station` connects, resumes its session after a cut, pings
when idle, and keeps what it has to say until the Service Center has answered it:

    async with open_station(address, identity=identity, ssl_context=context) as station:
        await station.send_uplink(uplink)  # returns when the Service Center has it

What the Service Center asks comes as events; see `StationEvents` (an iterator for a gateway that
answers by itself) and `Holdings` (answers like a plain base station; the default).
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.protocol.errors import (
    BssciError,
    Code,
    LocalProtocolError,
    OperationLostError,
    OperationRefusedError,
    RemoteProtocolError,
)
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.messages import (
    AttachPropagate,
    Connect,
    ConnectResponse,
    DetachPropagate,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
    DownlinkRxStatus,
    DownlinkRxStatusQuery,
    Message,
    Ping,
    Role,
    Status,
    StatusResponse,
    UplinkData,
    VmActivate,
    VmDeactivate,
    VmStatus,
    VmStatusResponse,
    VmUplinkData,
)
from bssci.core.protocol.operations import OPERATIONS
from bssci.core.protocol.session import (
    VERSION,
    Answered,
    BaseStationSession,
    Closed,
    Connected,
    ConnectRefused,
    Event,
    Refused,
    Rejected,
    Requested,
    SessionRecord,
    Withdrawn,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = [
    "Connector",
    "Delivery",
    "Holdings",
    "Identity",
    "Offline",
    "Online",
    "Request",
    "Station",
    "StationEvent",
    "StationEvents",
    "StationSettings",
    "open_station",
    "plain_status",
    "tls_connector",
]

logger = logging.getLogger(__name__)

Connector = Callable[[], Awaitable[trio.abc.Stream]]
"""Opens a connection to the Service Center, TLS handshake included."""

READ_SIZE = 64 * 1024
WRITE_SIZE = 16 * 1024  # one TLS record; each has its own deadline, so that slow is not too slow

# What is still sent on a connection that we end, and how long its end may take.
FAREWELL_TIMEOUT = 1.0  # seconds

# The Service Center cannot take it now and says so; it will.
TRY_AGAIN = frozenset({Code.EIO, Code.EAGAIN, Code.ENOSPC})

# What a `Holdings` keeps: as many end points as there are short addresses, and what a Service
# Center keeps for one of them by default.
MAX_END_POINTS = 65_536
MAX_DOWNLINKS = 100

# Events that wait for a gateway to read them. Beyond it requests are refused, to be tried again.
MAX_EVENTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a base station says it is (5.3.1)."""

    eui: int
    vendor: str | None = None
    model: str | None = None
    name: str | None = None
    sw_version: str | None = None
    bidi: bool = True
    """It can transmit."""
    geo_location: tuple[float, float, float] | None = None
    """Latitude and longitude in degrees, altitude in metres."""
    version: str = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class StationSettings:
    """How long a `Station` waits, in seconds, and how much it holds."""

    connect_timeout: float = 30.0
    """From the first TCP packet to the end of the connect operation."""
    write_timeout: float = 10.0
    """For the Service Center to take the next 16 KiB."""
    idle_ping: float = 5.0
    """Without a byte in either direction."""
    dead_after: float = 20.0
    """Without a byte from the Service Center: the connection is given up."""
    answer_timeout: float = 60.0
    """For an answer to one of our operations: the connection is given up and resumed."""
    reconnect_min: float = 1.0
    reconnect_max: float = 30.0
    """The pause doubles from one to the other while connecting fails; each is jittered."""
    retry_pause: float = 2.0
    """Before what was refused with "try again" (errors 5, 11, 28) is repeated; doubles."""
    retry_max: float = 60.0
    window: int = 100
    """Operations that may lack an answer. Few enough for a slow line to carry them in time."""
    buffer: int = 1000
    """Operations that may wait, those in the window included."""


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Online:
    """The session is open. Not resumed: what the Service Center told us before is void."""

    resumed: bool
    response: ConnectResponse


@dataclass(frozen=True, slots=True)
class Offline:
    """A connection has ended, or (`was_online` is false) could not be made. It will be again."""

    reason: str
    was_online: bool


class _Line(Protocol):
    """What a request came by and its answer goes by."""

    def respond(self, response: Message) -> None: ...

    def refuse(self, op_id: int, code: int, reason: str) -> None: ...


class Request:
    """The Service Center asks something: `respond` or `refuse` is due, now or later.

    Attributes:
        message: what it asks.
        reissued: it may have asked it before, on an earlier connection of this session.
    """

    def __init__(self, message: Message, *, reissued: bool, link: _Line) -> None:
        self.message = message
        self.reissued = reissued
        self._link = link

    def __repr__(self) -> str:
        return f"<Request {self.message!r}>"

    def respond(self, response: Message | None = None) -> None:
        """Answer. Without a response: the one of this operation, if it has no fields.

        On a connection that is gone nothing is sent: the Service Center asks again.

        Raises:
            LocalProtocolError: it is answered already, or this is no answer to it.
        """
        if response is None:
            response = OPERATIONS[type(self.message)].response()
        self._link.respond(replace(response, op_id=self.message.op_id))

    def refuse(self, code: int, reason: str) -> None:
        """Answer with an error: a POSIX number and words.

        Raises:
            LocalProtocolError: it is answered already.
        """
        self._link.refuse(self.message.op_id, code, reason)


StationEvent = Online | Offline | Request | Withdrawn


class StationEvents:
    """Events in order, for a gateway that answers by itself:

        events = StationEvents()
        async with open_station(..., take=events.put) as station:
            async for event in events: ...

    At most 1000 wait. Requests beyond are refused with error 11 (try again); of the others the
    oldest are forgotten.
    """

    def __init__(self) -> None:
        self._events: deque[StationEvent] = deque()
        self._there = trio.Event()

    def put(self, event: StationEvent) -> None:
        """Add an event; for `take` of `open_station`."""
        if len(self._events) >= MAX_EVENTS and isinstance(event, Request):
            event.refuse(Code.EAGAIN, "too many requests wait already")
            return
        if len(self._events) >= 2 * MAX_EVENTS:
            self._forget_oldest()
        self._events.append(event)
        self._there.set()

    def _forget_oldest(self) -> None:
        oldest = next(event for event in self._events if not isinstance(event, Request))
        self._events.remove(oldest)

    def __aiter__(self) -> StationEvents:
        return self

    async def __anext__(self) -> StationEvent:
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._there.is_set():
                self._there = trio.Event()
            await self._there.wait()
        return self._events.popleft()


# --- what is on its way to the Service Center ------------------------------------------------


class Delivery:
    """An operation of ours on its way to the Service Center.

    Attributes:
        message: what is said, without operation ID.
        response: the Service Center's answer, once it is there.
        error: why there will be none: `OperationRefusedError`, `OperationLostError` when the
            station was closed before, `LocalProtocolError` when the message breaks a rule.
    """

    __slots__ = ("_on_end", "_over", "error", "issued", "message", "number", "refusals", "response")

    def __init__(
        self, message: Message, number: int, on_end: Callable[[Delivery], None] | None = None
    ) -> None:
        self.message = message
        self.response: Message | None = None
        self.error: BssciError | None = None
        self.number = number
        self.issued = 0.0
        self.refusals = 0
        self._on_end = on_end
        self._over: trio.Event | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was answered, or will never be."""
        return self.response is not None or self.error is not None

    async def wait(self) -> Message:
        """The Service Center's answer.

        Raises:
            OperationRefusedError, OperationLostError, LocalProtocolError: as in `error`.
        """
        if not self.is_over:
            if self._over is None:
                self._over = trio.Event()
            await self._over.wait()
        if self.error is not None:
            raise self.error
        assert self.response is not None
        return self.response

    def end(self, outcome: Message | BssciError) -> None:
        if isinstance(outcome, BssciError):
            self.error = outcome
        else:
            self.response = outcome
        if self._over is not None:
            self._over.set()
        if self._on_end is not None:
            self._on_end(self)


class _Outbox:
    """Which delivery is to be issued when: in order, not too many at once, again if refused."""

    def __init__(self, settings: StationSettings, jitter: Callable[[], float]) -> None:
        self._settings = settings
        self._jitter = jitter
        self._waiting: list[tuple[int, Delivery]] = []
        self._resting: list[tuple[float, int, Delivery]] = []
        self._paused_until = -math.inf
        self.open: dict[int, Delivery] = {}
        """What is issued and lacks an answer, by operation ID, the oldest first."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._resting) + len(self.open)

    def add(self, delivery: Delivery) -> None:
        heappush(self._waiting, (delivery.number, delivery))

    def next(self, now: float) -> Delivery | None:
        """The delivery to be issued now."""
        while self._resting and self._resting[0][0] <= now:
            self.add(heappop(self._resting)[2])
        if not self._waiting or now < self._paused_until:
            return None
        if len(self.open) >= self._settings.window:
            return None
        return heappop(self._waiting)[1]

    def due(self, now: float) -> float:
        """When `next` may have something that it has not now, if nothing else happens."""
        rested = self._resting[0][0] if self._resting else math.inf
        is_paused = self._waiting and self._paused_until > now
        return min(rested, self._paused_until) if is_paused else rested

    def issued(self, delivery: Delivery, op_id: int, now: float) -> None:
        delivery.issued = now
        self.open[op_id] = delivery

    def answered(self, op_id: int) -> Delivery | None:
        self._paused_until = -math.inf
        return self.open.pop(op_id, None)

    def refused(self, op_id: int, code: int, now: float) -> Delivery | None:
        """The delivery that has come to its end by this refusal; None if it is to be repeated.

        A Service Center that cannot take one uplink cannot take the next one: all wait, so that
        their order is kept, until the pause is over or something was taken.
        """
        delivery = self.open.pop(op_id, None)
        if delivery is None or code not in TRY_AGAIN:
            return delivery
        pause = self._settings.retry_pause * 2.0 ** min(delivery.refusals, 30)
        pause = min(pause, self._settings.retry_max) * self._jitter()
        delivery.refusals += 1
        heappush(self._resting, (now + pause, delivery.number, delivery))
        self._paused_until = max(self._paused_until, now + pause)
        return None

    def restart(self, now: float, *, resumed: bool) -> None:
        """A connection is open: what lacks an answer is issued again, by the session if resumed."""
        self._paused_until = -math.inf
        if resumed:
            for delivery in self.open.values():
                delivery.issued = now
        else:
            for delivery in self.open.values():
                self.add(delivery)
            self.open.clear()

    def take_all(self) -> list[Delivery]:
        found = [entry[-1] for entry in self._waiting] + [entry[-1] for entry in self._resting]
        found += self.open.values()
        self._waiting, self._resting = [], []
        self.open.clear()
        return found


class Station:
    """A base station; made by `open_station`.

    Attributes:
        identity: who it says it is.
        is_online: the session is open now.
        connects: how often it was opened.
        resumes: how often it was resumed.
    """

    def __init__(
        self,
        identity: Identity,
        settings: StationSettings,
        take: Callable[[StationEvent], None],
        status: Callable[[], StatusResponse],
        record: SessionRecord | None,
    ) -> None:
        self.identity = identity
        self.settings = settings
        self.status = status
        self.is_online = False
        self.connects = 0
        self.resumes = 0
        self._take_event = take
        # Only shifts moments: nobody's secret, nothing that could be guessed is protected by it.
        self._random = random.Random(os.urandom(8))
        self._record = record
        self._link: _Link | None = None
        self._outbox = _Outbox(settings, self._jitter)
        self._numbers = count(1)
        self._changed = trio.Event()
        self._is_closed = False
        for message in () if record is None else record.pending:
            self._outbox.open[message.op_id] = Delivery(message, next(self._numbers))
        buffer = max(settings.buffer, len(self._outbox))
        self._room = trio.Semaphore(buffer - len(self._outbox), max_value=buffer)

    # --- what a caller says ---

    async def send_uplink(self, uplink: UplinkData | VmUplinkData) -> None:
        """Deliver an uplink; returns when the Service Center has acknowledged it.

        Waits for room first. Cuts, new sessions and "try again" are overcome. To give up waiting
        does not take the uplink back.

        Raises:
            OperationRefusedError: the Service Center will not have it.
            OperationLostError: the station was closed before there was an answer.
            LocalProtocolError: the uplink breaks a rule; names the field.
        """
        await self.send(uplink)

    async def send(self, message: Message) -> Message:
        """Deliver any operation of a base station (`att`, `det`, `dlDataRes`, …); the response.

        Raises: as `send_uplink`.
        """
        self._check(message)
        await self._room.acquire()
        return await self._add(message).wait()

    def send_nowait(
        self, message: Message, on_end: Callable[[Delivery], None] | None = None
    ) -> Delivery:
        """As `send`, for high rates: returns at once.

        Args:
            message: what to say.
            on_end: called with the delivery when it has ended; may not raise.

        Raises:
            trio.WouldBlock: there is no room; `send` waits for it.
            OperationLostError: the station is closed.
            LocalProtocolError: not an operation that a base station initiates.
        """
        self._check(message)
        self._room.acquire_nowait()
        return self._add(message, on_end)

    async def wait_empty(self) -> None:
        """Wait until everything is answered."""
        await self._wait_until(lambda: len(self._outbox) == 0)

    async def wait_online(self) -> None:
        """Wait until the session is open."""
        await self._wait_until(lambda: self.is_online)

    @property
    def unanswered(self) -> int:
        """How many operations wait for an answer, or to be issued."""
        return len(self._outbox)

    def record(self) -> SessionRecord | None:
        """What to hand to `open_station` to resume the session later; None before the first.

        Operations that the Service Center has not answered are in it as far as they were issued.
        """
        if self._link is not None and self._link.is_open:
            return self._link.session.record()
        return self._record

    def cut(self, reason: str = "cut by us") -> None:
        """End the connection, as if it were lost; it is made and resumed again."""
        if self._link is not None:
            self._link.end(reason)

    def _check(self, message: Message) -> None:
        kind = type(message)
        if kind not in OPERATIONS or message.sender is not Role.BASE_STATION or kind is Connect:
            raise LocalProtocolError(
                f"{message.command} is not an operation that a base station delivers"
            )
        if self._is_closed:
            raise OperationLostError(f"{message.command}: the base station is closed")

    def _add(self, message: Message, on_end: Callable[[Delivery], None] | None = None) -> Delivery:
        delivery = Delivery(message, next(self._numbers), on_end)
        if self._is_closed:
            delivery.end(OperationLostError(f"{message.command}: the base station is closed"))
        else:
            self._outbox.add(delivery)
            self.feed()
        return delivery

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- what a link says ---

    def feed(self) -> None:
        """Issue what is due."""
        link = self._link
        if link is None or not link.is_open:
            return
        now = trio.current_time()
        while (delivery := self._outbox.next(now)) is not None:
            try:
                op_id = link.session.start(delivery.message)
            except LocalProtocolError as error:
                self._end(delivery, error)
            else:
                self._outbox.issued(delivery, op_id, now)
                link.due.set()

    def next_feed(self) -> float:
        return self._outbox.due(trio.current_time())

    def oldest_issue(self) -> float:
        """When the operation was issued that waits longest for its answer; inf if none does."""
        oldest = next(iter(self._outbox.open.values()), None)
        return math.inf if oldest is None else oldest.issued

    def introduction(self) -> Connect:
        who = self.identity
        return Connect(
            version=who.version,
            bs_eui=who.eui,
            vendor=who.vendor,
            model=who.model,
            name=who.name,
            sw_version=who.sw_version,
            bidi=who.bidi,
            geo_location=who.geo_location,
            sn_bs_uuid=os.urandom(16),
        )

    def opened(self, event: Connected) -> None:
        self.is_online = True
        self.connects += 1
        self.resumes += event.resumed
        self._outbox.restart(trio.current_time(), resumed=event.resumed)
        self.take(Online(event.resumed, event.response))
        self._tell()
        self.feed()

    def take(self, event: StationEvent) -> None:
        self._take_event(event)

    def answered(self, outcome: Answered) -> None:
        if delivery := self._outbox.answered(outcome.request.op_id):
            self._end(delivery, outcome.response)
        self.feed()

    def refused(self, outcome: Refused) -> None:
        op_id, code, reason = outcome.request.op_id, outcome.code, outcome.message
        if delivery := self._outbox.refused(op_id, code, trio.current_time()):
            self._end(delivery, OperationRefusedError(code, reason))
        self.feed()

    def forget_session(self) -> None:
        """The Service Center refuses to go on with it: the next connect begins a new one."""
        self._record = None

    def _end(self, delivery: Delivery, outcome: Message | BssciError) -> None:
        self._room.release()
        delivery.end(outcome)
        if not self._outbox:
            self._tell()

    # --- connections, one after the other ---

    async def run(self, connect: Connector) -> None:
        """Connect, and again, until cancelled."""
        failures = 0
        while True:
            link = _Link(self, self._record)
            was_online = False
            try:
                was_online = await self._visit(link, connect)
            except Exception:
                logger.exception("connection failed; this is our fault", extra=self._who())
            failures = 0 if was_online else failures + 1
            settings = self.settings
            pause = min(settings.reconnect_max, settings.reconnect_min * 2.0 ** min(failures, 30))
            await trio.sleep(pause * self._jitter())

    async def _visit(self, link: _Link, connect: Connector) -> bool:
        self._link = link
        try:
            await link.converse(connect)
        finally:
            self._link = None
            was_online, self.is_online = self.is_online, False
            if link.is_open:
                self._record = link.session.record()
        reason = link.ending or "closed by us"
        logger.info("not connected: %s", reason, extra=self._who())
        self.take(Offline(reason, was_online))
        return was_online

    def close(self) -> None:
        """Give up what was not answered."""
        self._is_closed = True
        for delivery in self._outbox.take_all():
            why = f"{delivery.message.command}: the base station was closed"
            self._end(delivery, OperationLostError(why))

    def _jitter(self) -> float:
        return self._random.uniform(0.5, 1.0)

    def _who(self) -> dict[str, str]:
        return {"bs_eui": format_eui(self.identity.eui)}


class _Link:
    """One connection of a `Station`: one task reads, one writes, one watches the time."""

    def __init__(self, station: Station, stored: SessionRecord | None) -> None:
        self.session = BaseStationSession(stored=stored)
        self.due = trio.Event()
        self.is_open = False
        self.ending: str | None = None
        self._rejection: str | None = None
        self._station = station
        self._settings = station.settings
        self._patience = trio.CancelScope()
        self._reading = trio.CancelScope()
        # A cancelled `send_all` leaves half a frame on the wire: writing ends by itself.
        self._writing = trio.CancelScope(shield=True)
        self._is_finished = False
        self._opened = trio.Event()
        self._heard = self._active = 0.0
        self._ping = 0

    def respond(self, response: Message) -> None:
        if self.ending is None:
            self.session.respond(response)
            self.due.set()

    def refuse(self, op_id: int, code: int, reason: str) -> None:
        if self.ending is None:
            self.session.refuse(op_id, code, reason)
            self.due.set()

    def end(self, reason: str) -> None:
        """Read no more, say what is left to say, and end the connection."""
        self.ending = self.ending or self._rejection or reason
        self._reading.cancel()

    async def converse(self, connect: Connector) -> None:
        """Talk with the Service Center until the connection ends; `ending` then says why."""
        timeout = self._settings.connect_timeout
        self._patience.deadline = trio.current_time() + timeout
        try:
            with self._patience:
                stream = await connect()
                try:
                    await self._talk(stream)
                finally:
                    await _take_leave(stream)
        except (OSError, trio.BrokenResourceError) as error:
            self.end(f"cannot connect: {_cause(error)}")
        if self._patience.cancelled_caught:
            self.end(f"no complete connect within {timeout:g} s")

    async def _talk(self, stream: trio.abc.Stream) -> None:
        self.session.connect(self._station.introduction())
        self.due.set()
        async with trio.open_nursery() as writing:
            writing.start_soon(self._write, stream)
            try:
                with self._reading:
                    async with trio.open_nursery() as reading:
                        reading.start_soon(self._tend)
                        await self._read(stream)
                        reading.cancel_scope.cancel()
            finally:
                self._is_finished = True
                self.due.set()
                self._writing.deadline = trio.current_time() + FAREWELL_TIMEOUT

    async def _read(self, stream: trio.abc.Stream) -> None:
        try:
            while self.ending is None:
                data = await stream.receive_some(READ_SIZE)
                if not data:
                    self.end("closed by the Service Center")
                    return
                self._heard = self._active = trio.current_time()
                for event in self.session.receive_data(data):
                    self._take(event)
                self.due.set()
        except RemoteProtocolError as error:
            self.end(f"the Service Center breaks the protocol: {error}")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.end(f"connection lost: {_cause(error)}")

    async def _write(self, stream: trio.abc.Stream) -> None:
        try:
            with self._writing:
                while await self._wait_due():
                    await self._send(stream, self.session.data_to_send())
        except trio.TooSlowError:
            timeout = self._settings.write_timeout
            self.end(f"the Service Center did not take our bytes within {timeout:g} s")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.end(f"connection lost: {_cause(error)}")

    async def _wait_due(self) -> bool:
        """Wait until something may be due; False when all is said."""
        if self._is_finished and not self.due.is_set():
            return False
        with trio.move_on_at(self._station.next_feed()):
            await self.due.wait()
        self.due = trio.Event()
        self._station.feed()
        return True

    async def _send(self, stream: trio.abc.Stream, data: bytes) -> None:
        for start in range(0, len(data), WRITE_SIZE):
            with trio.fail_after(self._settings.write_timeout):
                await stream.send_all(data[start : start + WRITE_SIZE])
            self._active = trio.current_time()

    async def _tend(self) -> None:
        """Ping when it is quiet; give the connection up when the other side is gone."""
        settings = self._settings
        await self._opened.wait()
        while self.ending is None:
            now = trio.current_time()
            if now >= self._heard + settings.dead_after:
                self.end(f"the Service Center was silent for {settings.dead_after:g} s")
            elif now >= self._station.oldest_issue() + settings.answer_timeout:
                self.end(f"no answer within {settings.answer_timeout:g} s")
            elif now >= self._active + settings.idle_ping and not self._is_pinging():
                self._ping = self.session.start(Ping())
                self.due.set()
            await trio.sleep_until(self._next_look())

    def _next_look(self) -> float:
        settings = self._settings
        # What is issued later than now cannot be late before a whole time-out has passed.
        issue = min(self._station.oldest_issue(), trio.current_time())
        late = min(self._heard + settings.dead_after, issue + settings.answer_timeout)
        # Once the ping is answered the next one is due a whole pause after that.
        quiet = trio.current_time() if self._is_pinging() else self._active
        return min(late, quiet + settings.idle_ping)

    def _is_pinging(self) -> bool:
        return self.session.is_pending(self._ping)

    def _take(self, event: Event) -> None:
        match event:
            case Requested(message, _, reissued):
                self._take_request(message, reissued=reissued)
            case Answered():
                self._station.answered(event)
            case Refused():
                self._station.refused(event)
            case Connected():
                self._patience.deadline = math.inf
                self.is_open = True
                self._opened.set()
                self._station.opened(event)
            case Withdrawn():
                self._station.take(event)
            case ConnectRefused(code, message):
                if code not in TRY_AGAIN:
                    self._station.forget_session()
                self.end(f"the Service Center refuses us with error {code}: {message}")
            case Rejected():
                self._take_rejected(event)
            case Closed():
                self.end("the connect came to no end")

    def _take_request(self, message: Message, *, reissued: bool) -> None:
        if isinstance(message, Status):
            self.respond(replace(self._station.status(), op_id=message.op_id))
        else:
            self._station.take(Request(message, reissued=reissued, link=self))

    def _take_rejected(self, rejected: Rejected) -> None:
        if rejected.cause != "protocol":
            self._station.forget_session()
            # It acknowledges that before the connection is closed.
            self._rejection = f"we refuse the Service Center: {rejected.reason}"
        logger.warning(
            "%s %d answered with error %d: %s",
            rejected.command,
            rejected.op_id,
            rejected.code,
            rejected.reason,
            extra={"bs_eui": format_eui(self._station.identity.eui)},
        )


async def _take_leave(stream: trio.abc.Stream) -> None:
    """Say goodbye if the other side listens, also when we are cancelled; close in any case."""
    with trio.move_on_after(FAREWELL_TIMEOUT) as scope:
        scope.shield = True
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.aclose()


def _cause(error: BaseException) -> str:
    """What lies behind an error of a stream, in words for an operator."""
    cause = error.__cause__ or error
    match cause:
        case BaseExceptionGroup():
            return "; ".join(dict.fromkeys(map(_cause, cause.exceptions)))
        case ssl.SSLCertVerificationError():
            return f"the Service Center's certificate is not accepted: {cause.verify_message}"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS: {reason.replace('_', ' ').lower()}"
        case OSError(strerror=str(words)):
            return words
    return str(cause) or type(cause).__name__


# --- the door --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def open_station(
    to: tuple[str, int] | Connector,
    *,
    identity: Identity,
    ssl_context: ssl.SSLContext | None = None,
    take: Callable[[StationEvent], None] | None = None,
    status: Callable[[], StatusResponse] | None = None,
    settings: StationSettings | None = None,
    stored: SessionRecord | None = None,
) -> AsyncIterator[Station]:
    """Be a base station while the block lasts: connect, and again after every loss.

    Returns at once; the Service Center may be away. At the end of the block the connection is
    closed in order and what was not answered is given up; `Station.wait_empty` waits for it.

    Args:
        to: host and port of the Service Center, or what opens a connection to it.
        identity: who we are.
        ssl_context: with our certificate and the CA; needed for host and port.
        take: gets every event as it comes, and may not wait: `StationEvents.put` or a `Holdings`
            (default, which answers everything like a plain base station). If it raises, that
            connection ends.
        status: how we are, whenever the Service Center asks; default: well, with this
            machine's clock.
        settings: deadlines and bounds.
        stored: `Station.record` of an earlier run, to go on with its session; what it holds of
            unanswered operations is delivered first.
    """
    if isinstance(to, tuple):
        if ssl_context is None:
            raise ValueError("ssl_context: needed to connect to a host and port")
        to = tls_connector(*to, ssl_context)
    station = Station(
        identity,
        settings or StationSettings(),
        Holdings() if take is None else take,
        plain_status if status is None else status,
        stored,
    )
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(station.run, to)
        try:
            yield station
        except BaseException as error:  # raised again below, outside of any group
            failure = error
        nursery.cancel_scope.cancel()
    station.close()
    if failure is not None:
        raise failure


def tls_connector(host: str, port: int, ssl_context: ssl.SSLContext) -> Connector:
    """What opens a TLS connection to a Service Center.

    The connector raises `OSError` or `trio.BrokenResourceError` when it cannot.
    """

    async def connect() -> trio.abc.Stream:
        transport = await trio.open_tcp_stream(host, port)
        transport.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        stream = trio.SSLStream(transport, ssl_context, server_hostname=host)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    return connect


def plain_status() -> StatusResponse:
    """All is well, by this machine's clock."""
    return StatusResponse(
        code=Code.OK,
        message="ok",
        time=time.time_ns(),
        duty_cycle=0.0,
        uptime=int(time.monotonic()),
    )


# --- a plain base station --------------------------------------------------------------------


class Holdings:
    """What a base station holds for the Service Center, and its answers: for `open_station`.

    It keeps end points and queued downlinks, gives a downlink away when its window comes
    (`open_window`), drops those of an end point that is attached again, as real base stations do,
    and forgets everything when a new session begins.

    Attributes:
        end_points: what it serves, by EUI.
        downlinks: what is queued, by EUI and queue ID, in order of arrival.
        mac_types: active Variable MAC types.
    """

    def __init__(self) -> None:
        self.end_points: dict[int, AttachPropagate] = {}
        self.downlinks: dict[int, dict[int, DownlinkDataQueue]] = {}
        self.mac_types: set[int] = set()
        self._queried: set[int] = set()

    def __call__(self, event: StationEvent) -> None:
        """Take an event of the station."""
        match event:
            case Online(resumed=False):
                self._forget_all()
            case Request(message=message):
                try:
                    event.respond(self._answer(message))
                except OperationRefusedError as refusal:
                    event.refuse(refusal.code, refusal.message)

    def open_window(
        self, uplink: UplinkData, *, tx_time: int
    ) -> list[DownlinkDataResult | DownlinkRxStatus]:
        """An uplink's downlink window is here: what there is to report to the Service Center.

        At most one downlink goes out, that of the highest priority; `tx_time` is the center of its
        first subpacket in ns. Downlinks whose counters have all gone by are reported expired.
        """
        queue = self.downlinks.get(uplink.ep_eui, {})
        reports: list[DownlinkDataResult | DownlinkRxStatus] = []
        for downlink in tuple(queue.values()):
            if downlink.packet_cnt and max(downlink.packet_cnt) < uplink.packet_cnt:
                del queue[downlink.que_id]
                reports.append(
                    DownlinkDataResult(
                        ep_eui=uplink.ep_eui, que_id=downlink.que_id, result="expired"
                    )
                )
        if sent := max(
            (downlink for downlink in queue.values() if _fits(downlink, uplink)),
            key=lambda downlink: downlink.prio,
            default=None,
        ):
            del queue[sent.que_id]
            reports += self._sent(sent, uplink, tx_time)
        return reports

    def _sent(
        self, sent: DownlinkDataQueue, uplink: UplinkData, tx_time: int
    ) -> list[DownlinkDataResult | DownlinkRxStatus]:
        ep_eui, packet_cnt = uplink.ep_eui, uplink.packet_cnt
        reports: list[DownlinkDataResult | DownlinkRxStatus] = [
            DownlinkDataResult(
                ep_eui=ep_eui,
                que_id=sent.que_id,
                result="sent",
                tx_time=tx_time,
                packet_cnt=packet_cnt,
            )
        ]
        if ep_eui in self._queried:
            self._queried.discard(ep_eui)
            # An end point hears us about as well as we hear it.
            reports.append(
                DownlinkRxStatus(
                    ep_eui=ep_eui,
                    rx_time=tx_time,
                    packet_cnt=packet_cnt,
                    dl_rx_snr=uplink.snr,
                    dl_rx_rssi=uplink.rssi,
                )
            )
        return reports

    def _forget_all(self) -> None:
        self.end_points.clear()
        self.downlinks.clear()
        self.mac_types.clear()
        self._queried.clear()

    def _answer(self, message: Message) -> Message | None:
        """The response; None is the one without fields."""
        match message:
            case AttachPropagate():
                self._attach(message)
            case DetachPropagate(ep_eui=ep_eui):
                self.end_points.pop(ep_eui, None)
                self.downlinks.pop(ep_eui, None)
                self._queried.discard(ep_eui)
            case DownlinkDataQueue():
                self._queue(message)
            case DownlinkDataRevoke(ep_eui=ep_eui, que_id=que_id):
                if self.downlinks.get(ep_eui, {}).pop(que_id, None) is None:
                    raise OperationRefusedError(Code.ENOENT, "no such downlink is queued")
            case DownlinkRxStatusQuery(ep_eui=ep_eui):
                self._served(ep_eui)
                self._queried.add(ep_eui)
            case VmActivate(mac_type=mac_type):
                self.mac_types.add(mac_type)
            case VmDeactivate(mac_type=mac_type):
                self.mac_types.discard(mac_type)
            case VmStatus():
                return VmStatusResponse(mac_types=tuple(sorted(self.mac_types)))
            case _:
                raise OperationRefusedError(
                    Code.EOPNOTSUPP, f"{message.command}: this base station cannot do that"
                )
        return None

    def _attach(self, message: AttachPropagate) -> None:
        if message.ep_eui not in self.end_points and len(self.end_points) >= MAX_END_POINTS:
            raise OperationRefusedError(Code.ENOSPC, "too many end points")
        self.end_points[message.ep_eui] = message
        self.downlinks.pop(message.ep_eui, None)

    def _queue(self, message: DownlinkDataQueue) -> None:
        self._served(message.ep_eui)
        queue = self.downlinks.setdefault(message.ep_eui, {})
        known = queue.get(message.que_id)
        if known is not None and replace(known, op_id=0) != replace(message, op_id=0):
            raise OperationRefusedError(Code.EEXIST, "this queue ID is in use")
        if known is None and len(queue) >= MAX_DOWNLINKS:
            raise OperationRefusedError(Code.ENOSPC, "too many downlinks for this end point")
        queue[message.que_id] = message

    def _served(self, ep_eui: int) -> None:
        if ep_eui not in self.end_points:
            raise OperationRefusedError(Code.ENOENT, "this end point is not attached here")


def _fits(downlink: DownlinkDataQueue, uplink: UplinkData) -> bool:
    """Whether this window may carry this downlink."""
    if downlink.exp_only and not uplink.response_exp:
        return False
    return downlink.packet_cnt is None or uplink.packet_cnt in downlink.packet_cnt
