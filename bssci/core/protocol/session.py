"""One conversation, either role: bytes to events, calls to bytes (BSSCI 1.0.0, 4 and 5).

A session outlives connections. Whoever holds it keeps its `SessionRecord` (for a Service Center:
on disk), and hands it in when the peer connects again; what lacked an answer is then issued again
under its old ID. One object serves one connection:

    session = ServiceCenterSession()
    for event in session.receive_data(data): ...      # what the bytes mean
    session.acknowledge(op_id)                        # what we say
    stream.send_all(session.data_to_send())           # the bytes for it
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import ClassVar, Literal

from bssci.core.protocol.codec import decode, encode, is_json
from bssci.core.protocol.errors import (
    Code,
    InvalidMessageError,
    LocalProtocolError,
    RemoteProtocolError,
)
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
from bssci.core.protocol.frames import MAX_PAYLOAD, FrameDecoder, encode_frame
from bssci.core.protocol.messages import (
    MESSAGES,
    Connect,
    ConnectComplete,
    ConnectResponse,
    Error,
    ErrorAck,
    Message,
    Ping,
    PingResponse,
    Role,
    UplinkDataResponse,
)
from bssci.core.protocol.operations import (
    OPERATIONS,
    Operation,
    OwnOperations,
    PeerOperations,
    Step,
    step_of,
)
from bssci.core.protocol.resume import SessionRecord, chosen_version, is_resumable, negotiate

__all__ = ["BaseStationSession", "ServiceCenterSession", "Session", "State"]


class State(Enum):
    """Where a connection stands (5.3)."""

    IDLE = auto()
    """Base station: `connect` comes next."""
    AWAITING_CONNECT = auto()
    """Service Center: `con` comes next."""
    DECIDING = auto()
    """Service Center: `con` is here; `accept` or `refuse_connect` comes next."""
    AWAITING_CONNECT_RESPONSE = auto()
    """Base station: `conRsp` comes next."""
    AWAITING_CONNECT_COMPLETE = auto()
    """Service Center: the session is provisional until `conCmp`."""
    ACTIVE = auto()
    """Either side may initiate operations."""
    AWAITING_ERROR_ACK = auto()
    """The connect was refused; closed once that is acknowledged."""
    CLOSED = auto()


# --- what both roles do ----------------------------------------------------------------------


class Session:
    """What both roles have in common; see `ServiceCenterSession` and `BaseStationSession`."""

    role: ClassVar[Role]

    def __init__(self, *, max_payload: int = MAX_PAYLOAD) -> None:
        self._decoder = FrameDecoder(max_payload)
        self._outgoing: list[bytes] = []
        self._prepared: dict[int, bytes] = {}
        self._events: list[Event] = []
        self._as_json = False
        self._own = OwnOperations(self.role)
        self._peer = PeerOperations(self.role.peer)
        self._agreed: SessionRecord | None = None
        self._fault: RemoteProtocolError | None = None
        self.state = State.IDLE

    def receive_data(self, data: bytes | bytearray) -> list[Event]:
        """Feed bytes from the peer and return what they mean.

        What came before a fault counts: it is returned, and the next call raises.

        Raises:
            RemoteProtocolError: close the connection; the session can be resumed on another one.
        """
        if self._fault is not None:
            raise self._fault
        if self.state is not State.CLOSED:
            self._take_payloads(data)
        events, self._events = self._events, []
        return events

    def _take_payloads(self, data: bytes | bytearray) -> None:
        self._decoder.feed(data)
        try:
            for payload in self._decoder.payloads():
                self._receive_payload(payload)
                if self.state is State.CLOSED:
                    break
        except RemoteProtocolError as error:
            self._fault = error
            if not self._events:
                raise

    def data_to_send(self) -> bytes:
        """The bytes that are due; each is given once."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def own_op_id(self) -> int:
        """The ID of our newest operation in this session; 0 before the first."""
        return self._own.last_id

    @property
    def peer_op_id(self) -> int:
        """The ID of the peer's newest operation in this session; 0 before the first."""
        return self._peer.last_id

    def is_pending(self, op_id: int) -> bool:
        """Whether our operation still lacks an answer."""
        return self._own.is_pending(op_id)

    def start(self, message: Message) -> int:
        """Initiate an operation; its ID, by which `Answered` or `Refused` will name it.

        Raises:
            LocalProtocolError: not connected, or not ours to initiate.
            OperationLostError: too many of our operations lack an answer already.
        """
        op_id = self.prepare(message)
        self.issue(op_id)
        return op_id

    def prepare(self, message: Message) -> int:
        """Reserve the ID of an operation, which is from now on part of `record`.

        Put the record on disk and then `issue` the operation, or `discard` it if that failed:
        whatever happens in between, its ID is not used twice and what is on disk reaches the peer.

        Raises:
            LocalProtocolError: not connected, or not ours to initiate.
            OperationLostError: too many of our operations lack an answer already.
        """
        if self.state is not State.ACTIVE:
            raise LocalProtocolError(f"{message.command} while {self.state.name}")
        if message.sender is self.role.peer or isinstance(message, Connect):
            raise LocalProtocolError(f"{message.command} is not ours to initiate")
        found = self._own.open(message)
        try:
            self._prepared[found.op_id] = self._frame(found)
        except LocalProtocolError:
            self._own.ended(found.op_id)
            raise
        return found.op_id

    def issue(self, op_id: int) -> None:
        """Send an operation that was prepared.

        Raises:
            LocalProtocolError: it is not prepared, or was issued before.
        """
        self._outgoing.append(self._take_prepared(op_id))

    def discard(self, op_id: int) -> None:
        """Forget an operation that was prepared and is not to be issued; its ID stays used.

        Raises:
            LocalProtocolError: it is not prepared, or was issued before.
        """
        self._take_prepared(op_id)
        self._own.ended(op_id)

    def _take_prepared(self, op_id: int) -> bytes:
        frame = self._prepared.pop(op_id, None)
        if frame is None:
            raise LocalProtocolError(f"operation {op_id} is not prepared")
        return frame

    def respond(self, response: Message) -> None:
        """Answer an operation of the peer; `response.op_id` says which.

        Raises:
            LocalProtocolError: the peer has not asked for this answer.
        """
        frame = self._frame(response)
        if self._peer.answer(response):
            self._outgoing.append(frame)

    def acknowledge(self, op_id: int) -> None:
        """Answer an uplink: it is safe, the base station may forget it.

        Raises:
            LocalProtocolError: the peer has not asked for this answer.
        """
        self.respond(UplinkDataResponse(op_id=op_id))

    def refuse(self, op_id: int, code: int, reason: str) -> None:
        """Answer an operation of the peer with `error`.

        Raises:
            LocalProtocolError: the peer has not asked for an answer.
        """
        frame = self._frame(Error(op_id=op_id, code=code, message=reason))
        if self._peer.refuse(op_id):
            self._outgoing.append(frame)

    def record(self) -> SessionRecord:
        """What the session must remember to be resumed.

        Raises:
            LocalProtocolError: it has never been open.
        """
        if self._agreed is None:
            raise LocalProtocolError("no session is open")
        return self._record(self._agreed)

    def _record(self, agreed: SessionRecord) -> SessionRecord:
        raise NotImplementedError

    # --- one message ---

    def _receive_payload(self, payload: bytes) -> None:
        try:
            message = decode(payload)
            if self.state is not State.ACTIVE:
                self._as_json = is_json(payload)
            if message.sender is self.role:
                raise _misplaced(message, f"only a {self.role.value} sends it")
            self._receive(message, payload)
        except InvalidMessageError as error:
            self._reject(error)

    def _receive(self, message: Message, payload: bytes = b"") -> None:
        if self.state is State.ACTIVE:
            self._receive_active(message, payload)
        else:
            self._receive_connecting(message)

    def _receive_connecting(self, message: Message) -> None:
        match self.state, message:
            case State.AWAITING_ERROR_ACK, ErrorAck():
                self._close()
            case State.AWAITING_ERROR_ACK, _:
                pass
            case state, Error(op_id=0) if state in _CONNECTING:
                self._send(ErrorAck(op_id=0))
                self._events.append(ConnectRefused(message.code, message.message))
                self._close()
            case _, Error():
                self._send(ErrorAck(op_id=message.op_id))
            case _, ErrorAck():
                pass
            case _:
                self._receive_connect_step(message)

    def _receive_connect_step(self, message: Message) -> None:
        raise NotImplementedError

    def _receive_active(self, message: Message, payload: bytes) -> None:
        place = step_of(type(message))
        if place is None:
            self._receive_error(message)
            return
        step, operation = place
        if operation.initiation is Connect:
            self._receive_surplus(message)
        elif step is Step.INITIATION:
            self._receive_initiation(message, payload)
        elif step is Step.RESPONSE:
            self._receive_response(message, operation)
        elif request := self._peer.completed(message):
            self._events.append(Completed(request))

    def _receive_surplus(self, message: Message) -> None:
        raise _misplaced(message, "the session is open already")

    def _receive_initiation(self, message: Message, payload: bytes) -> None:
        reissued = self._peer.open(message)
        if isinstance(message, Ping):
            self.respond(PingResponse(op_id=message.op_id))
        else:
            self._events.append(Requested(message, payload, reissued))

    def _receive_response(self, message: Message, operation: Operation) -> None:
        if message.op_id in self._prepared:
            raise _misplaced(message, f"operation {message.op_id} was not issued yet")
        request = self._own.answered(message)
        # Also when we have no use for the answer any more: the peer waits for the last step.
        self._send(operation.completion(op_id=message.op_id))
        if request is not None:
            self._note_answered(message.op_id)
            if not isinstance(request, Ping):
                self._events.append(Answered(request, message))

    def _note_answered(self, op_id: int) -> None:
        """An operation of ours got an answer."""

    def _receive_error(self, message: Message) -> None:
        # An `errorAck` has nothing to say: what we refused we have forgotten.
        if isinstance(message, Error):
            # Never an error for an error.
            self._send(ErrorAck(op_id=message.op_id))
            self._end_by_error(message)

    def _end_by_error(self, error: Error) -> None:
        if self._end_own(error.op_id, error.code, error.message):
            return
        if request := self._peer.ended(error.op_id):
            self._events.append(Withdrawn(request, error.code, error.message))

    def _end_own(self, op_id: int, code: int, reason: str) -> bool:
        """An error, whoever sent it, ends our operation; False if there is none to end."""
        if op_id in self._prepared:
            return False
        request = self._own.ended(op_id)
        if request is None:
            return False
        self._note_answered(op_id)
        if not isinstance(request, Ping):
            self._events.append(Refused(request, code, reason))
        return True

    # --- what we do not accept ---

    def _reject(self, error: InvalidMessageError) -> None:
        if self.state is State.AWAITING_ERROR_ACK:
            return
        reason = str(error)
        if error.command == Error.command:
            # Unreadable, it still is an error: it gets an errorAck, nothing else.
            self._receive(Error(op_id=error.op_id, code=Code.EPROTO, message=reason))
            return
        self._send(Error(op_id=error.op_id, code=error.code, message=reason))
        self._events.append(
            Rejected(error.command, error.op_id, error.code, reason, self._cause(error))
        )
        if self.state is State.ACTIVE:
            self._count_rejected(error)
            self._end_own(error.op_id, error.code, reason)
        elif self._ends_connect(error):
            self.state = State.AWAITING_ERROR_ACK

    def _count_rejected(self, error: InvalidMessageError) -> None:
        # The peer counts what it initiated as answered by our error, and tells its count when it
        # would like to resume: we must know the ID too.
        kind = MESSAGES.get(error.command)
        if kind is None or kind in OPERATIONS:
            self._peer.note(error.op_id)

    def _ends_connect(self, error: InvalidMessageError) -> bool:
        # What should have been the `con` ends it. Later an operation that comes too early is
        # refused and the connect may still be completed.
        if self.state is State.AWAITING_CONNECT:
            return True
        return self.state in _CONNECTING and (error.op_id == 0 or error.command in _CONNECT)

    def _cause(self, error: InvalidMessageError) -> Literal["version", "connect", "protocol"]:
        if self.state is State.ACTIVE:
            return "protocol"
        return "version" if isinstance(error, _VersionError) else "connect"

    def _frame(self, message: Message) -> bytes:
        return encode_frame(encode(message, as_json=self._as_json))

    def _send(self, message: Message) -> None:
        self._outgoing.append(self._frame(message))

    def _close(self) -> None:
        self.state = State.CLOSED
        self._events.append(Closed())

    def _reissue(self) -> None:
        """Send again, in the order of issue and under its ID, what got no answer (5.3)."""
        for message in self._own.pending:
            self._send(message)


# Where the connect operation is open: an error for its ID, 0, ends it.
_CONNECTING = (
    State.DECIDING,
    State.AWAITING_CONNECT_RESPONSE,
    State.AWAITING_CONNECT_COMPLETE,
)
_CONNECT = (Connect.command, ConnectResponse.command, ConnectComplete.command)


class _VersionError(InvalidMessageError):
    pass


def _worth_keeping(own: OwnOperations) -> tuple[Message, ...]:
    # A ping of a connection that is gone asks nothing any more.
    return tuple(message for message in own.pending if not isinstance(message, Ping))


def _misplaced(message: Message, fault: str) -> InvalidMessageError:
    return InvalidMessageError(
        f"{message.command}: {fault}", command=message.command, op_id=message.op_id
    )


def _too_early(message: Message, state: State) -> InvalidMessageError:
    return _misplaced(message, f"not before the session is open ({state.name})")


# --- the Service Center's side ---------------------------------------------------------------


class ServiceCenterSession(Session):
    """The Service Center's side of one connection.

    `receive_data` gives `ConnectRequested` first; answer it with `accept` or `refuse_connect`.

    Attributes:
        claimed_eui: who the peer says it is in its first `con`, also if that is refused.
    """

    role = Role.SERVICE_CENTER

    def __init__(self, *, max_payload: int = MAX_PAYLOAD) -> None:
        super().__init__(max_payload=max_payload)
        self.state = State.AWAITING_CONNECT
        self.claimed_eui: int | None = None
        self._connect: Connect | None = None
        self._repeats = 0
        self._offer: ConnectResponse | None = None
        self._stored: SessionRecord | None = None
        self._void: tuple[Message, ...] = ()

    def accept(
        self, response: ConnectResponse, *, stored: SessionRecord | None = None
    ) -> ConnectResponse:
        """Answer the connect; what was sent. The session is provisional until `Connected`.

        Nothing is sent if the base station has ended its connect in the meantime.

        Args:
            response: who we are, with a fresh random `sn_sc_uuid`; version and resume are set here.
            stored: the last session with this base station, if it ended by a lost connection.

        Raises:
            LocalProtocolError: there is no connect to answer, or the UUID is not fresh.
        """
        connect = self._deciding()
        version = negotiate(connect.version)
        if stored is not None and is_resumable(connect, stored, version):
            self._stored = stored
            offer = replace(response, sn_resume=True, sn_sc_uuid=stored.sc_uuid)
        else:
            self._void = () if stored is None else stored.pending
            if response.sn_sc_uuid in (connect.sn_bs_uuid, stored and stored.sc_uuid):
                # A base station that finds a UUID it knows believes itself resumed.
                raise LocalProtocolError("snScUuid of a new session must be new")
            offer = replace(response, sn_resume=False)
        self._offer = offer = replace(offer, version=version, op_id=0)
        if self.state is State.DECIDING:
            self._outgoing += [self._frame(offer)] * (1 + self._repeats)
            self.state = State.AWAITING_CONNECT_COMPLETE
        return offer

    def refuse_connect(self, code: int, reason: str) -> None:
        """Answer the connect with `error`; `Closed` follows once that is acknowledged.

        Nothing is sent if the base station has ended its connect in the meantime.

        Raises:
            LocalProtocolError: there is no connect to answer.
        """
        self._deciding()
        self._connect = None
        if self.state is State.DECIDING:
            self._send(Error(op_id=0, code=code, message=reason))
            self.state = State.AWAITING_ERROR_ACK

    def _deciding(self) -> Connect:
        if self._connect is None or self._offer is not None:
            raise LocalProtocolError(f"there is no connect to answer while {self.state.name}")
        return self._connect

    def _record(self, agreed: SessionRecord) -> SessionRecord:
        return replace(
            agreed,
            bs_op_id=self._peer.last_id,
            sc_op_id=self._own.last_id,
            pending=_worth_keeping(self._own),
        )

    def _receive_surplus(self, message: Message) -> None:
        # A base station that sent its `con` twice completes it twice.
        if not isinstance(message, ConnectComplete):
            super()._receive_surplus(message)

    def _receive_connect_step(self, message: Message) -> None:
        match self.state, message:
            case State.AWAITING_CONNECT, Connect():
                self._receive_connect(message)
            case State.DECIDING, Connect() if message == self._connect:
                self._repeats += 1
            case State.AWAITING_CONNECT_COMPLETE, Connect() if message == self._connect:
                assert self._offer is not None
                self._send(self._offer)
            case State.AWAITING_CONNECT_COMPLETE, ConnectComplete(op_id=0):
                assert self._connect is not None
                assert self._offer is not None
                self._open(self._connect, self._offer)
            case _:
                raise _too_early(message, self.state)

    def _receive_connect(self, connect: Connect) -> None:
        self.claimed_eui = connect.bs_eui
        if connect.op_id != 0:
            raise _misplaced(connect, f"opId is {connect.op_id}, 0 expected")
        try:
            negotiate(connect.version)
        except ValueError as error:
            raise _VersionError(str(error), command=connect.command, op_id=0) from None
        self._connect = connect
        self.state = State.DECIDING
        self._events.append(ConnectRequested(connect))

    def _open(self, connect: Connect, offer: ConnectResponse) -> None:
        if stored := self._stored:
            self._own = OwnOperations(self.role, last_id=stored.sc_op_id, pending=stored.pending)
            self._peer = PeerOperations(self.role.peer, resumed_through=stored.bs_op_id)
        self._agreed = SessionRecord(
            bs_eui=connect.bs_eui,
            version=negotiate(connect.version),
            bs_uuid=connect.sn_bs_uuid,
            sc_uuid=offer.sn_sc_uuid,
        )
        self.state = State.ACTIVE
        self._events.append(Connected(offer.sn_resume, offer, self._void))
        self._reissue()


# --- the base station's side -----------------------------------------------------------------


class BaseStationSession(Session):
    """The base station's side of one connection; begins with `connect`."""

    role = Role.BASE_STATION

    def __init__(
        self, *, stored: SessionRecord | None = None, max_payload: int = MAX_PAYLOAD
    ) -> None:
        super().__init__(max_payload=max_payload)
        self._stored = stored
        self._connect: Connect | None = None
        self._answered_id = 0

    def connect(self, connect: Connect, *, as_json: bool = False) -> Connect:
        """Send `con`; what was sent. With a stored session it asks to resume that one.

        Raises:
            LocalProtocolError: the connection was begun already.
        """
        if self.state is not State.IDLE:
            raise LocalProtocolError(f"con while {self.state.name}")
        if stored := self._stored:
            connect = replace(
                connect,
                sn_bs_uuid=stored.bs_uuid,
                sn_bs_op_id=stored.answered_op_id,
                sn_sc_op_id=stored.sc_op_id,
            )
        self._as_json = as_json
        self._connect = connect = replace(connect, op_id=0)
        self._send(connect)
        self.state = State.AWAITING_CONNECT_RESPONSE
        return connect

    def _record(self, agreed: SessionRecord) -> SessionRecord:
        return replace(
            agreed,
            bs_op_id=self._own.last_id,
            sc_op_id=self._peer.last_id,
            answered_op_id=self._answered_id,
            pending=_worth_keeping(self._own),
        )

    def _note_answered(self, op_id: int) -> None:
        self._answered_id = max(self._answered_id, op_id)

    def _receive_connect_step(self, message: Message) -> None:
        match self.state, message:
            case State.AWAITING_CONNECT_RESPONSE, ConnectResponse():
                assert self._connect is not None
                self._receive_connect_response(self._connect, message)
            case _:
                raise _too_early(message, self.state)

    def _receive_connect_response(self, connect: Connect, response: ConnectResponse) -> None:
        if response.op_id != 0:
            raise _misplaced(response, f"opId is {response.op_id}, 0 expected")
        try:
            version = chosen_version(connect, response)
        except ValueError as error:
            raise _VersionError(str(error), command=response.command, op_id=0) from None
        stored = self._stored
        if response.sn_resume:
            if stored is None or stored.sc_uuid != response.sn_sc_uuid:
                raise _misplaced(response, "resumes a session that we do not have")
            self._own = OwnOperations(self.role, last_id=stored.bs_op_id, pending=stored.pending)
            self._peer = PeerOperations(self.role.peer, resumed_through=stored.sc_op_id)
            self._answered_id = stored.answered_op_id
        self._agreed = SessionRecord(
            bs_eui=connect.bs_eui,
            version=version,
            bs_uuid=connect.sn_bs_uuid,
            sc_uuid=response.sn_sc_uuid,
        )
        self._send(ConnectComplete())
        self.state = State.ACTIVE
        void = () if stored is None or response.sn_resume else stored.pending
        self._events.append(Connected(response.sn_resume, response, void))
        self._reissue()
