"""One base station's live connection: reader, writer, operations, session (BSSCI 1.0.0, 5).

One task reads and one writes. An uplink is acknowledged when the `Doors` have it on disk; until
then that base station is not read, and TCP slows it. Nothing here decides: who may come in, what an
uplink means and where a session is kept is asked of the `Doors`, which are handed in.
"""

from __future__ import annotations

import contextlib
import logging
import math
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Literal, Protocol, TypeGuard

import trio

from bssci.core.protocol.errors import (
    Code,
    OperationLostError,
    OperationRefusedError,
    RemoteProtocolError,
    StorageError,
)
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.events import (
    Answered,
    Closed,
    Completed,
    Connected,
    ConnectRefused,
    ConnectRequested,
    Event,
    Refused,
    Rejected,
    Requested,
    Withdrawn,
)
from bssci.core.protocol.messages import (
    Connect,
    ConnectResponse,
    Message,
    Ping,
    Status,
    UplinkData,
)
from bssci.core.protocol.resume import SessionRecord, is_resumable, negotiate
from bssci.core.protocol.session import ServiceCenterSession, State
from bssci.core.runtime.tap import Tap

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

__all__ = ["Certified", "Doors", "Guest", "Hall", "Limits", "Link", "Peer", "Reason", "Refusal"]

logger = logging.getLogger(__name__)

Reason = Literal[
    "not_tls",
    "handshake_timeout",
    "no_certificate",
    "bad_certificate",
    "identity_mismatch",
    "not_bssci",
    "version",
    "too_many",
    "protocol_error",
]

# One read takes what a base station sends in some tens of milliseconds at full speed.
READ_SIZE = 64 * 1024

# Operation IDs that may be used before the session is written again, so that a ping costs no write.
# After a crash the counters stand at most this far beyond what was really used; gaps are allowed.
LEASE = 256

# Bytes that a base station has not taken yet, before no more is read from it. An answer is smaller
# than what it answers; this much is kept for thousands of base stations at once only if all of them
# stop reading within the write time-out.
MAX_OUTBOX = 256 * 1024

# Kinds of protocol faults of one base station that are worth a line in the log.
MAX_WARNINGS = 16

# What is still sent on a connection that we end, before we let go of it.
FAREWELL_TIMEOUT = 1.0  # seconds

# How long the end of a link waits for a disk that does not answer. What is there already is good
# enough to resume: it is only ahead of what was really used.
PUT_AWAY_TIMEOUT = 1.5  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a peer may take, in seconds, and how many peers there may be."""

    max_connections: int = 5000
    max_half_open: int = 1000
    max_half_open_per_address: int = 100
    handshake_timeout: float = 30.0
    """From TCP accept to conCmp."""
    idle_ping: float = 20.0
    idle_timeout: float = 60.0
    write_timeout: float = 10.0
    operation_timeout: float = 30.0
    max_frame: int = 1024 * 1024
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end.

    Attributes:
        address: where it connects from.
        subject: of its certificate; None before TLS.
        fingerprint: SHA-256 of its certificate, in hex.
        euis: the EUI64s that its certificate names.
        issuer: SHA-256 of the trusted authority that its certificate comes from directly.
    """

    address: str
    subject: str | None = None
    fingerprint: str | None = None
    euis: frozenset[int] = frozenset()
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Somebody knocked and was not let in, or was shown out."""

    reason: Reason
    peer: Peer
    bs_eui: int | None
    detail: str


class Certified(Protocol):
    """A stream whose peer has shown a certificate."""

    def getpeercert(self, binary_form: Literal[True]) -> bytes | None:
        """The certificate in DER."""
        ...


class Doors(Protocol):
    """What the server asks and tells. What is a coroutine may raise `StorageError`."""

    def ssl_context(self) -> ssl.SSLContext:
        """The context for the next connection."""
        ...

    def identify(self, tls_stream: Certified, address: str) -> Peer:
        """Who the certificate says the peer is."""
        ...

    def introduce(self) -> ConnectResponse:
        """Who we are, with a fresh random `sn_sc_uuid`."""
        ...

    async def admit(self, connect: Connect, peer: Peer) -> str | None:
        """Why this base station may not come in with this certificate; None: it may."""
        ...

    async def load_session(self, bs_eui: int) -> SessionRecord | None:
        """The last session with this base station."""
        ...

    async def save_session(self, record: SessionRecord) -> None:
        """Put a session on disk; it is there when this returns."""
        ...

    async def drop_session(self, bs_eui: int) -> None:
        """Forget the session with this base station."""
        ...

    async def take_uplinks(self, link: Link, uplinks: Sequence[Requested]) -> None:
        """Put uplinks on disk. They are acknowledged when, and only if, this returns."""
        ...

    async def take_request(self, link: Link, request: Requested) -> Message:
        """Do what a base station asks; the response.

        Raises:
            OperationRefusedError: what to refuse it with.
        """
        ...

    def take_completion(self, link: Link, request: Message) -> None:
        """The base station has our response to this."""
        ...

    def note_outcomes(self, link: Link, outcomes: Sequence[Answered | Refused]) -> None:
        """What the base station says to operations of ours, waited for or not.

        What must be on disk with it is handed to the store before this returns: next comes the
        session, in which these operations are over.
        """
        ...

    def take_answer(self, link: Link, outcome: Answered | Refused) -> None:
        """An answer that nobody waits for any more: after a time-out, or after a resume."""
        ...

    def link_up(self, link: Link, event: Connected) -> None:
        """A base station has completed its connect."""
        ...

    async def attend(self, link: Link) -> None:
        """Do what is to be done with a base station while it is connected; then cancelled.

        A call that is lost because the link ends may be let through.
        """
        ...

    def link_down(self, link: Link, reason: str) -> None:
        """A connection that was up is gone."""
        ...

    def refused(self, refusal: Refusal) -> None:
        """Somebody was refused."""
        ...


@dataclass(slots=True)
class _Wait:
    """Somebody waits for the outcome of one of our operations."""

    over: trio.Event = field(default_factory=trio.Event)
    outcome: Answered | Refused | None = None


@dataclass(eq=False, slots=True)
class Guest:
    """A connection that is half open.

    Attributes:
        peer: who it is, as far as that is known yet.
        scope: its deadline; cancelled to show it out.
        bs_eui: who it says it is, also before that is believed; None before its `con`.
        is_evicted: it had to make room.
        is_settled: it is told already what became of it.
    """

    peer: Peer
    scope: trio.CancelScope
    bs_eui: int | None = None
    is_evicted: bool = False
    is_settled: bool = False


class Hall(Protocol):
    """What all connections share: the server."""

    limits: Limits
    doors: Doors

    async def claim(self, link: Link) -> None:
        """The newest connection of a base station wins: older ones end before this returns."""
        ...

    def admit(self, link: Link, guest: Guest) -> None:
        """The connect is complete: the connection is no guest's any more."""
        ...

    def release(self, link: Link) -> None:
        """The connection is over."""
        ...


class Link:
    """The connection of one base station; live once its connect is complete.

    Attributes:
        peer: where it comes from and with which certificate.
        connect: what the base station says of itself.
        response: what we answered; its `sn_sc_uuid` names the session.
        last_heard: trio's clock when its last bytes came.
        gone: set when the connection is over and the session is saved.
    """

    connect: Connect
    response: ConnectResponse

    def __init__(self, stream: trio.abc.Stream, hall: Hall, guest: Guest) -> None:
        self.peer = guest.peer
        self.last_heard = trio.current_time()
        self.gone = trio.Event()
        self._stream = stream
        self._hall = hall
        self._limits = hall.limits
        self._doors = hall.doors
        self._guest = guest
        self._tap = Tap(self.who) if Tap.is_wanted() else None
        self._session = ServiceCenterSession(max_payload=self._limits.max_frame)
        self._is_open = False
        self._ending: str | None = None
        self._opened = trio.Event()
        # reading and writing
        self._reading = trio.CancelScope()
        self._is_receiving = False
        self._listening_since = trio.current_time()
        self._writing = trio.CancelScope()
        self._writing_since = math.inf
        self._outbox = bytearray()
        self._due = trio.Event()
        self._room = trio.Event()
        self._is_finished = False
        # operations and session
        self._ping = 0
        self._waits: dict[int, _Wait] = {}
        self._saving = trio.Lock()
        self._saved: SessionRecord | None = None
        self._earlier: SessionRecord | None = None
        self._is_offered = False
        self._warned: set[tuple[str, int]] = set()

    @property
    def bs_eui(self) -> int:
        return self.connect.bs_eui

    @property
    def claimed_eui(self) -> int | None:
        """Who it says it is, also before that is believed; None before its `con`."""
        return self._guest.bs_eui

    @property
    def is_open(self) -> bool:
        """The connect is complete and the end has not begun."""
        return self._is_open and self._ending is None

    def unanswered(self) -> tuple[Message, ...]:
        """Our operations that lack an answer; after a resume, those that were issued again."""
        return self._session.record().pending

    async def call(self, message: Message) -> Message:
        """Carry out an operation of ours; the base station's response.

        Giving up the wait is harmless: the operation stays open, and an answer that comes after
        all goes to `Doors.take_answer`.

        Raises:
            OperationRefusedError: the base station refused it.
            OperationLostError: no answer within the operation time-out, or the link is gone.
            StorageError: it could not be put on disk and was not sent.
        """
        if not self.is_open:
            raise OperationLostError(f"{message.command}: the base station is not connected")
        op_id = self._prepare(message)
        await self._save_before_issue(op_id)
        self._session.issue(op_id)
        self._post()
        match await self._wait_for_outcome(op_id):
            case Answered(response=response):
                return response
            case Refused(code=code, message=reason):
                raise OperationRefusedError(code, reason)
        why = self._ending or f"no answer within {self._limits.operation_timeout:g} s"
        raise OperationLostError(f"{message.command}: {why}")

    def _prepare(self, message: Message) -> int:
        try:
            return self._session.prepare(message)
        except OperationLostError as error:
            self.close(str(error))
            raise

    async def _wait_for_outcome(self, op_id: int) -> Answered | Refused | None:
        wait = self._waits[op_id] = _Wait()
        if self._ending is not None:
            wait.over.set()
        try:
            with trio.move_on_after(self._limits.operation_timeout):
                await wait.over.wait()
            outcome, wait.outcome = wait.outcome, None
            return outcome
        finally:
            del self._waits[op_id]
            if wait.outcome is not None:
                # It came in the very moment in which the caller was cancelled.
                self._doors.take_answer(self, wait.outcome)

    def close(self, reason: str) -> None:
        """Read no more, say what is left to say, and end the connection."""
        self._ending = self._ending or reason
        if self._is_receiving:
            self._reading.cancel()

    # --- the conversation: one task reads, one writes ---

    async def converse(self) -> None:
        """Talk with the base station until the connection ends; never raises because of it."""
        try:
            async with trio.open_nursery() as writing:
                writing.start_soon(self._write)
                async with trio.open_nursery() as attending:
                    attending.start_soon(self._attend)
                    await self._read()
                    attending.cancel_scope.cancel()
                self._is_finished = True
                self._post()
                writing.cancel_scope.deadline = trio.current_time() + FAREWELL_TIMEOUT
        finally:
            with trio.CancelScope(shield=True):
                await self._leave()

    async def _read(self) -> None:
        try:
            with self._reading:
                while self._ending is None:
                    await self._take_data(await self._receive())
        except RemoteProtocolError as error:
            self._refuse(
                "not_bssci" if self._guest.bs_eui is None else "protocol_error", str(error)
            )
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._ending = self._ending or f"connection lost: {error.__cause__ or error}"
        if self._guest.bs_eui is None and not self._guest.is_settled:
            self._refuse("not_bssci", f"no con: {self._ending}")

    async def _receive(self) -> bytes | bytearray:
        """What comes next; empty at the end and when the link was closed."""
        self._is_receiving = True
        self._listening_since = trio.current_time()
        while len(self._outbox) > MAX_OUTBOX:
            self._room = trio.Event()
            await self._room.wait()
        data = await self._stream.receive_some(READ_SIZE)
        self._is_receiving = False
        self._listening_since = math.inf
        if self._ending is not None:
            # Not taken and not answered: the base station keeps it.
            return b""
        if not data:
            self._ending = "closed by the base station"
        return data

    async def _take_data(self, data: bytes | bytearray) -> None:
        if not data:
            return
        self.last_heard = trio.current_time()
        if self._tap is not None:
            self._tap.received(data)
        events = self._session.receive_data(data)
        while events:
            await self._take_events(events)
            # What is wrong behind them is raised now.
            events = self._session.receive_data(b"")
        if self._is_open:
            # Before the answers go out: a base station counts them when it asks to resume.
            await self._renew_lease()
        self._post()

    async def _take_events(self, events: list[Event]) -> None:
        # What the session says by itself waits with the rest: a completion tells the base station
        # that we have its answer, and that must be on disk first.
        spoken = self._session.data_to_send()
        if outcomes := [event for event in events if isinstance(event, Answered | Refused)]:
            self._doors.note_outcomes(self, outcomes)
            await self._save_outcomes()
        for is_uplinks, group in groupby(events, _is_uplink):
            if is_uplinks:
                await self._take_uplinks([event for event in group if _is_uplink(event)])
            else:
                for event in group:
                    await self._take(event)
        self._outbox += spoken

    def _post(self) -> None:
        """Give the writer what the session has to say."""
        self._outbox += self._session.data_to_send()
        if self._outbox or self._is_finished:
            self._due.set()

    async def _write(self) -> None:
        """Send what is due: the only task that does, so that no frame is ever cut in two."""
        try:
            with self._writing:
                while await self._is_due():
                    data, self._outbox = self._outbox, bytearray()
                    self._room.set()
                    self._writing_since = trio.current_time()
                    if self._tap is not None:
                        self._tap.sent(data)
                    await self._stream.send_all(data)
                    self._writing_since = math.inf
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(f"connection lost: {error.__cause__ or error}")

    async def _is_due(self) -> bool:
        """Wait until there is something to send; False: nothing comes any more."""
        while not self._outbox and not self._is_finished:
            self._due = trio.Event()
            await self._due.wait()
        return bool(self._outbox)

    async def _attend(self) -> None:
        await self._opened.wait()
        try:
            await self._doors.attend(self)
        except OperationLostError:
            if self._ending is None:
                raise

    async def _leave(self) -> None:
        reason = self._ending = self._ending or "the Service Center stops"
        for wait in self._waits.values():
            wait.over.set()
        try:
            with contextlib.suppress(StorageError), trio.move_on_after(PUT_AWAY_TIMEOUT):
                await self._put_session_away()
        finally:
            try:
                if self._is_open:
                    self._doors.link_down(self, reason)
            finally:
                self._hall.release(self)
                self.gone.set()

    # --- what the base station says ---

    async def _take_uplinks(self, uplinks: Sequence[Requested]) -> None:
        # While this waits for the disk nothing is read: TCP slows this base station and no other.
        try:
            await self._doors.take_uplinks(self, uplinks)
        except StorageError as error:
            for uplink in uplinks:
                self._session.refuse(uplink.message.op_id, error.code, str(error))
        else:
            for uplink in uplinks:
                self._session.acknowledge(uplink.message.op_id)

    async def _take(self, event: Event) -> None:
        match event:
            case Requested():
                await self._take_request(event)
            case Answered() | Refused():
                self._take_outcome(event)
            case Completed(request):
                self._doors.take_completion(self, request)
            case ConnectRequested(connect):
                await self._take_connect(connect)
            case Connected():
                self._take_connected(event)
            case ConnectRefused(code, message):
                self._ending = f"refused our conRsp with error {code}"
                self._warn("conRsp", code, f"the base station refuses it: {message[:200]!r}")
                self._is_offered = False
                with contextlib.suppress(StorageError):
                    await self._doors.drop_session(self.bs_eui)
            case Rejected():
                self._take_rejected(event)
            case Withdrawn(request, code, message):
                self._warn(
                    request.command, code, f"the base station withdraws it: {message[:200]!r}"
                )
            case Closed():
                self._ending = self._ending or "the connect was refused"

    async def _take_connect(self, connect: Connect) -> None:
        self.connect, self._guest.bs_eui = connect, connect.bs_eui
        try:
            if refusal := await self._doors.admit(connect, self.peer):
                self._report("identity_mismatch", refusal)
                self._session.refuse_connect(int(Code.EPERM), refusal)
            else:
                await self._hall.claim(self)
                if self._ending is None:
                    await self._offer(connect)
        except StorageError as error:
            logger.error("connect refused: %s", error, extra=self.who())
            self._guest.is_settled = True
            self._session.refuse_connect(int(Code.EAGAIN), str(error))

    async def _offer(self, connect: Connect) -> None:
        stored = await self._doors.load_session(connect.bs_eui)
        response = self._doors.introduce()
        self._earlier, self._is_offered = stored, True
        try:
            # Also a resumed session is written: a disk that takes nothing is found out now.
            await self._store(_offered(connect, response, stored))
        except StorageError:
            self._is_offered = False
            raise
        self.response = self._session.accept(response, stored=stored)

    def _take_connected(self, event: Connected) -> None:
        if self._guest.scope.cancel_called:
            self._ending = "too late"
            return
        self._is_open = True
        self._hall.admit(self, self._guest)
        self._doors.link_up(self, event)
        self._opened.set()

    async def _take_request(self, request: Requested) -> None:
        op_id = request.message.op_id
        try:
            response = await self._doors.take_request(self, request)
        except OperationRefusedError as error:
            self._session.refuse(op_id, int(error.code), error.message)
        except StorageError as error:
            self._session.refuse(op_id, error.code, str(error))
        else:
            self._session.respond(replace(response, op_id=op_id))

    def _take_outcome(self, outcome: Answered | Refused) -> None:
        if wait := self._waits.get(outcome.request.op_id):
            wait.outcome = outcome
            wait.over.set()
        else:
            self._doors.take_answer(self, outcome)

    def _take_rejected(self, rejected: Rejected) -> None:
        if self._session.state in (State.AWAITING_ERROR_ACK, State.CLOSED):
            self._guest.bs_eui = self._guest.bs_eui or self._session.claimed_eui
            self._report("version" if rejected.cause == "version" else "not_bssci", rejected.reason)
        else:
            self._warn(rejected.command, rejected.code, f"refused: {rejected.reason}")

    def _warn(self, command: str, code: int, fault: str) -> None:
        """A line in the log; only one for what a base station does again and again."""
        is_new = (command, code) not in self._warned and len(self._warned) < MAX_WARNINGS
        if is_new:
            self._warned.add((command, code))
        logger.log(
            logging.WARNING if is_new else logging.DEBUG,
            "%r, error %d: %s",
            command,
            code,
            fault,
            extra=self.who(),
        )

    def _refuse(self, reason: Reason, detail: str) -> None:
        self._ending = self._ending or detail
        self._report(reason, detail)

    def _report(self, reason: Reason, detail: str) -> None:
        self._guest.is_settled = True
        self._doors.refused(Refusal(reason, self.peer, self._guest.bs_eui, detail))

    def who(self) -> dict[str, str]:
        """The fields that a log line about this base station carries."""
        fields = {"address": self.peer.address}
        if self._guest.bs_eui is not None:
            fields["bs_eui"] = format_eui(self._guest.bs_eui)
        return fields

    # --- the session on disk ---

    def _record(self) -> SessionRecord:
        record = self._session.record()
        return replace(record, pending=_worth_keeping(record.pending))

    async def _store(self, record: SessionRecord) -> None:
        leased = replace(record, bs_op_id=record.bs_op_id + LEASE, sc_op_id=record.sc_op_id - LEASE)
        await self._doors.save_session(leased)
        self._saved = leased

    async def _save_before_issue(self, op_id: int) -> None:
        """ID and operation are on disk before the first byte is on its way."""
        try:
            # Not given up half-way: an operation that is on disk also goes out.
            with trio.CancelScope(shield=True):
                async with self._saving:
                    # What waited here together is written together.
                    if not self._is_saved(op_id):
                        await self._store(self._record())
        except BaseException:
            self._session.discard(op_id)
            raise

    def _is_saved(self, op_id: int) -> bool:
        saved = self._saved
        return saved is not None and any(message.op_id == op_id for message in saved.pending)

    async def _save_outcomes(self) -> None:
        # An answered operation is never issued again, also not after a crash.
        async with self._saving:
            with contextlib.suppress(StorageError):
                await self._store(self._record())

    async def _renew_lease(self) -> None:
        if self._is_lease_good():
            return
        async with self._saving:
            # Without it nothing is lost but, after a crash, perhaps the resume.
            with contextlib.suppress(StorageError):
                await self._store(self._record())

    def _is_lease_good(self) -> bool:
        saved = self._saved
        return (
            saved is not None
            and saved.bs_op_id - self._session.peer_op_id >= LEASE // 2
            and self._session.own_op_id - saved.sc_op_id >= LEASE // 2
        )

    async def _put_session_away(self) -> None:
        async with self._saving:
            if self._is_open:
                await self._doors.save_session(self._record())
            elif self._is_offered and self._earlier is not None:
                # Provisional until `conCmp`: what the base station had before is what it has now.
                await self._doors.save_session(self._earlier)
            elif self._is_offered:
                await self._doors.drop_session(self.bs_eui)

    # --- silence ---

    def tend(self, now: float) -> None:
        """Ping a base station that has been silent; end one that does not answer or not read."""
        # While we wait for the disk it is we who do not listen.
        silence = now - max(self.last_heard, self._listening_since)
        if now - self._writing_since >= self._limits.write_timeout:
            self.close(f"did not take our bytes within {self._limits.write_timeout:g} s")
            self._writing.cancel()
        elif silence >= self._limits.idle_timeout:
            self.close(f"silent for {self._limits.idle_timeout:g} s")
        elif silence >= self._limits.idle_ping and not self._session.is_pending(self._ping):
            self._start_ping()

    def _start_ping(self) -> None:
        try:
            self._ping = self._prepare(Ping())
        except OperationLostError:
            return  # so much is unanswered that the link is closed
        self._session.issue(self._ping)
        self._post()


def _is_uplink(event: Event) -> TypeGuard[Requested]:
    return isinstance(event, Requested) and isinstance(event.message, UplinkData)


def _worth_keeping(pending: tuple[Message, ...]) -> tuple[Message, ...]:
    """A base station that answers no `status` is asked for ever; only the last one counts."""
    stale = [message for message in pending if isinstance(message, Status)][:-1]
    return tuple(message for message in pending if message not in stale) if stale else pending


def _offered(
    connect: Connect, response: ConnectResponse, stored: SessionRecord | None
) -> SessionRecord:
    """The session that this connect will have if it is completed."""
    version = negotiate(connect.version)
    if stored is not None and is_resumable(connect, stored, version):
        return stored
    return SessionRecord(
        bs_eui=connect.bs_eui,
        version=version,
        bs_uuid=connect.sn_bs_uuid,
        sc_uuid=response.sn_sc_uuid,
    )
