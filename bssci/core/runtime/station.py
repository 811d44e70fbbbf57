"""The other role: a base station that talks to a Service Center (BSSCI 1.0.0, 3 and 5).

For gateways, simulation and tests. A `Station` connects, resumes its session after a cut, pings
when idle, and keeps what it has to say until the Service Center has answered it:

    async with open_station(address, identity=identity, ssl_context=context) as station:
        await station.send_uplink(uplink)  # returns when the Service Center has it

What the Service Center asks comes as events; see `station_events.StationEvents` (an iterator for a
gateway that answers by itself) and `holdings.Holdings` (answers like a plain base station; the
default).
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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

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
from bssci.core.protocol.events import (
    Answered,
    Closed,
    Connected,
    ConnectRefused,
    Event,
    Refused,
    Rejected,
    Requested,
    Withdrawn,
)
from bssci.core.protocol.messages import (
    Attach,
    AttachResponse,
    Connect,
    Detach,
    Message,
    Ping,
    Role,
    Status,
    StatusResponse,
    UplinkData,
    VmUplinkData,
)
from bssci.core.protocol.operations import OPERATIONS
from bssci.core.protocol.resume import VERSION, SessionRecord
from bssci.core.protocol.session import BaseStationSession
from bssci.core.runtime.deliveries import TRY_AGAIN, Delivery, Outbox
from bssci.core.runtime.holdings import Holdings
from bssci.core.runtime.station_events import (
    Attached,
    Detached,
    Offline,
    Online,
    Request,
    StationEvent,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = [
    "Connector",
    "Identity",
    "Station",
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
        self._outbox = Outbox(
            window=settings.window,
            retry_pause=settings.retry_pause,
            retry_max=settings.retry_max,
            jitter=self._jitter,
        )
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
        match outcome:
            # Before anything else: with the completion, which is on its way, downlinks may come.
            case Answered(Attach() as request, AttachResponse() as response):
                self.take(Attached(request, response))
            case Answered(Detach() as request):
                self.take(Detached(request))
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
