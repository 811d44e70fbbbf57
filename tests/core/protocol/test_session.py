"""What a session makes of bytes and calls, in every state, for both roles."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bssci.core.protocol.codec import decode, encode
from bssci.core.protocol.errors import (
    FrameTooLongError,
    LocalProtocolError,
    MalformedPayloadError,
    RemoteProtocolError,
    WrongIdentifierError,
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
from bssci.core.protocol.frames import FrameDecoder, encode_frame
from bssci.core.protocol.messages import (
    MESSAGES,
    AttachPropagateResponse,
    Connect,
    ConnectComplete,
    ConnectResponse,
    DetachPropagate,
    DetachPropagateComplete,
    DetachPropagateResponse,
    DownlinkRxStatus,
    DownlinkRxStatusComplete,
    DownlinkRxStatusResponse,
    Error,
    ErrorAck,
    Message,
    Ping,
    PingComplete,
    PingResponse,
    Role,
    Status,
    UplinkData,
    UplinkDataComplete,
    UplinkDataResponse,
)
from bssci.core.protocol.operations import MAX_INCOMPLETE
from bssci.core.protocol.resume import SessionRecord
from bssci.core.protocol.session import BaseStationSession, ServiceCenterSession, Session, State
from tests.core.protocol.samples import BS_EUI, EUI, SAMPLES, SC_EUI

BY_COMMAND = {message.command: message for _, message in SAMPLES}

BS_UUID = bytes(range(16))
SC_UUID = bytes(range(16, 32))
NEW_UUID = bytes(range(32, 48))

CON = Connect(version="1.0.0", bs_eui=BS_EUI, bidi=True, sn_bs_uuid=BS_UUID)
HELLO = ConnectResponse(sc_eui=SC_EUI, sn_resume=False, sn_sc_uuid=SC_UUID)
CON_RSP = replace(HELLO, version="1.0.0")
RECORD = SessionRecord(bs_eui=BS_EUI, version="1.0.0", bs_uuid=BS_UUID, sc_uuid=SC_UUID)

UPLINK = UplinkData(
    ep_eui=EUI,
    rx_time=2,
    packet_cnt=3,
    snr=4.0,
    rssi=5.0,
    user_data=b"\x01",
    dl_open=False,
    response_exp=False,
    dl_ack=False,
)
RX_STATUS = DownlinkRxStatus(ep_eui=EUI, rx_time=2, packet_cnt=3, dl_rx_snr=4.0, dl_rx_rssi=5.0)
DETACH = DetachPropagate(ep_eui=EUI)


def at(op_id: int, message: Message) -> Message:
    return replace(message, op_id=op_id)


def wire(*messages: Message, as_json: bool = False) -> bytes:
    return b"".join(encode_frame(encode(message, as_json=as_json)) for message in messages)


def say(session: Session, *messages: Message) -> list[Event]:
    """The peer says this; what the session makes of it."""
    return session.receive_data(wire(*messages))


def say_map(session: Session, payload: bytes) -> list[Event]:
    return session.receive_data(encode_frame(payload))


def heard(session: Session) -> list[Message]:
    """What the session has said since it was last asked."""
    decoder = FrameDecoder()
    decoder.feed(session.data_to_send())
    found = [decode(payload) for payload in decoder.payloads()]
    assert decoder.unfinished == 0
    return found


def requested(message: Message, *, reissued: bool = False) -> Requested:
    return Requested(message, encode(message), reissued)


def service_center(
    state: State = State.ACTIVE, *, stored: SessionRecord | None = None, con: Connect = CON
) -> ServiceCenterSession:
    session = ServiceCenterSession()
    if state is State.AWAITING_CONNECT:
        return session
    say(session, con)
    if state in (State.AWAITING_ERROR_ACK, State.CLOSED):
        session.refuse_connect(5, "disk is full")
    elif state is not State.DECIDING:
        session.accept(replace(HELLO, sn_sc_uuid=NEW_UUID if stored else SC_UUID), stored=stored)
    if state is State.ACTIVE:
        say(session, ConnectComplete())
    elif state is State.CLOSED:
        say(session, ErrorAck())
    assert session.state is state
    if stored is None:
        session.data_to_send()
    return session


def base_station(
    state: State = State.ACTIVE,
    *,
    stored: SessionRecord | None = None,
    answer: ConnectResponse = CON_RSP,
) -> BaseStationSession:
    session = BaseStationSession(stored=stored)
    if state is State.IDLE:
        return session
    session.connect(CON)
    if state is State.ACTIVE:
        session.data_to_send()
        say(session, answer)
    elif state is not State.AWAITING_CONNECT_RESPONSE:
        say(session, replace(CON_RSP, version="2.0.0"))
        if state is State.CLOSED:
            say(session, ErrorAck())
    assert session.state is state
    if stored is None:
        session.data_to_send()
    return session


# --- every message in every state ------------------------------------------------------------

UP = ["att", "det", "ulData", "dlDataRes", "dlRxStat", "vm.ulData"]
DOWN = ["status", "attPrp", "detPrp", "ulDataTx", "dlDataQue", "dlDataRev", "dlRxStatQry"]
DOWN += ["vm.activate", "vm.deactivate", "vm.status", "vm.dlData"]
CONNECT = ["con", "conRsp", "conCmp"]
NOT_KEPT = ["ulData", "vm.ulData", "ping"]

SC_STATES = [
    State.AWAITING_CONNECT,
    State.DECIDING,
    State.AWAITING_CONNECT_COMPLETE,
    State.ACTIVE,
    State.AWAITING_ERROR_ACK,
    State.CLOSED,
]
BS_STATES = [
    State.IDLE,
    State.AWAITING_CONNECT_RESPONSE,
    State.ACTIVE,
    State.AWAITING_ERROR_ACK,
    State.CLOSED,
]


@dataclass
class Effect:
    """What one message does: the events, what is said, the next state."""

    state: State
    events: list[Event] = field(default_factory=list)
    said: list[Message] = field(default_factory=list)


def rejected(message: Message, state: State, said: list[Message], cause: str) -> Effect:
    """It is answered with error 71, in words that say why."""
    assert len(said) == 1
    answer = said[0]
    assert isinstance(answer, Error)
    assert len(answer.message) > 10
    event = Rejected(message.command, message.op_id, 71, answer.message, cause)  # type: ignore[arg-type]
    return Effect(state, [event], [Error(op_id=message.op_id, code=71, message=answer.message)])


def step(message: Message) -> tuple[str, str]:
    for end in ("Rsp", "Cmp"):
        if message.command.endswith(end):
            return message.command.removesuffix(end), end
    return message.command, ""


def prepared(session: Session, role: Role, message: Message) -> Message:
    """Make the message the next step of an operation; it, with its ID."""
    operation, end = step(message)
    theirs = 1 if role is Role.SERVICE_CENTER else -1
    if end == "Rsp":
        op_id = session.start(replace(BY_COMMAND[operation], op_id=0))
        session.data_to_send()
        return at(op_id, message)
    if end == "Cmp":
        say(session, at(theirs, BY_COMMAND[operation]))
        if operation != "ping":
            session.respond(at(theirs, BY_COMMAND[operation + "Rsp"]))
        session.data_to_send()
    return at(theirs, message)


def effect_when_active(role: Role, message: Message, said: list[Message]) -> Effect:
    operation, end = step(message)
    is_sc = role is Role.SERVICE_CENTER
    theirs, ours = (UP, DOWN) if is_sc else (DOWN, UP)
    active = State.ACTIVE
    if message.command == "conCmp" and is_sc:
        return Effect(active)
    if message.command == "error":
        return Effect(active, said=[ErrorAck(op_id=message.op_id)])
    if message.command == "errorAck":
        return Effect(active)
    if message.command == "ping":
        return Effect(active, said=[PingResponse(op_id=message.op_id)])
    if end == "" and operation in theirs:
        return Effect(active, [requested(message)])
    if end == "Rsp" and operation in [*ours, "ping"]:
        request = at(message.op_id, BY_COMMAND[operation])
        events: list[Event] = [] if operation == "ping" else [Answered(request, message)]
        return Effect(active, events, [MESSAGES[operation + "Cmp"](op_id=message.op_id)])
    if end == "Cmp" and operation in [*theirs, "ping"]:
        kept = operation not in NOT_KEPT
        return Effect(active, [Completed(at(message.op_id, BY_COMMAND[operation]))] * kept)
    return rejected(message, active, said, "protocol")


def effect_at_service_center(state: State, message: Message, said: list[Message]) -> Effect:
    match state, message.command:
        case State.ACTIVE, _:
            return effect_when_active(Role.SERVICE_CENTER, message, said)
        case State.CLOSED, _:
            return Effect(State.CLOSED)
        case State.AWAITING_ERROR_ACK, "errorAck":
            return Effect(State.CLOSED, [Closed()])
        case (State.AWAITING_ERROR_ACK, _) | (_, "errorAck"):
            return Effect(state)
        case _, "error":
            return Effect(state, said=[ErrorAck(op_id=message.op_id)])
        case State.AWAITING_CONNECT, "con":
            return Effect(State.DECIDING, [ConnectRequested(CON)])
        case State.AWAITING_CONNECT, _:
            return rejected(message, State.AWAITING_ERROR_ACK, said, "connect")
        case State.DECIDING, "con":
            return Effect(state)
        case State.AWAITING_CONNECT_COMPLETE, "con":
            return Effect(state, said=[CON_RSP])
        case State.AWAITING_CONNECT_COMPLETE, "conCmp":
            return Effect(State.ACTIVE, [Connected(resumed=False, response=CON_RSP)])
        case _, "conRsp" | "conCmp":
            return rejected(message, State.AWAITING_ERROR_ACK, said, "connect")
    return rejected(message, state, said, "connect")


def effect_at_base_station(state: State, message: Message, said: list[Message]) -> Effect:
    match state, message.command:
        case State.ACTIVE, _:
            return effect_when_active(Role.BASE_STATION, message, said)
        case State.CLOSED, _:
            return Effect(State.CLOSED)
        case State.AWAITING_ERROR_ACK, "errorAck":
            return Effect(State.CLOSED, [Closed()])
        case (State.AWAITING_ERROR_ACK, _) | (_, "errorAck"):
            return Effect(state)
        case _, "error":
            return Effect(state, said=[ErrorAck(op_id=message.op_id)])
        case State.AWAITING_CONNECT_RESPONSE, "conRsp":
            return Effect(
                State.ACTIVE,
                [Connected(resumed=False, response=CON_RSP)],
                [ConnectComplete()],
            )
        case State.AWAITING_CONNECT_RESPONSE, "con" | "conCmp":
            return rejected(message, State.AWAITING_ERROR_ACK, said, "connect")
    return rejected(message, state, said, "connect")


MESSAGES_SAID = [
    CON if command == "con" else CON_RSP if command == "conRsp" else message
    for command, message in BY_COMMAND.items()
]


def next_step(session: Session, message: Message) -> Message:
    if session.state is not State.ACTIVE or message.command in CONNECT:
        return message
    if message.command.startswith("error"):
        return message
    operation, _ = step(message)
    if message.sender is session.role or (operation not in [*UP, *DOWN, "ping"]):
        return message
    return prepared(session, session.role, message)


@pytest.mark.parametrize("message", MESSAGES_SAID, ids=list(BY_COMMAND))
@pytest.mark.parametrize("state", SC_STATES, ids=lambda state: state.name)
def test_every_message_in_every_state_of_a_service_center(state, message):
    session = service_center(state)
    message = next_step(session, message)
    events, said = say(session, message), heard(session)
    found = Effect(session.state, events, said)
    assert found == effect_at_service_center(state, message, said)


@pytest.mark.parametrize("message", MESSAGES_SAID, ids=list(BY_COMMAND))
@pytest.mark.parametrize("state", BS_STATES, ids=lambda state: state.name)
def test_every_message_in_every_state_of_a_base_station(state, message):
    session = base_station(state)
    message = next_step(session, message)
    events, said = say(session, message), heard(session)
    found = Effect(session.state, events, said)
    assert found == effect_at_base_station(state, message, said)


# --- connect, at the service center ----------------------------------------------------------


def test_a_connect_is_asked_about_accepted_and_completed():
    session = ServiceCenterSession()
    assert say(session, CON) == [ConnectRequested(CON)]
    assert heard(session) == []
    assert session.accept(HELLO) == CON_RSP
    assert heard(session) == [CON_RSP]
    assert say(session, ConnectComplete()) == [Connected(resumed=False, response=CON_RSP)]
    assert session.state is State.ACTIVE
    assert session.record() == RECORD


@pytest.mark.parametrize(
    ("requested_", "chosen"), [("1.0.0", "1.0.0"), ("1.0.7", "1.0.0"), ("1.1.0", "1.0.0")]
)
def test_a_version_of_our_major_number_is_answered_with_ours(requested_, chosen):
    session = ServiceCenterSession()
    say(session, replace(CON, version=requested_))
    assert session.accept(HELLO).version == chosen


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("2.0.0", "version: 2.0.0 is not supported, 1.0.0 is"),
        ("v1", "version: 'v1' is not of the form major.minor.patch"),
    ],
)
def test_another_version_is_refused_and_closed_after_the_acknowledgement(version, words):
    session = ServiceCenterSession()
    assert say(session, replace(CON, version=version)) == [Rejected("con", 0, 71, words, "version")]
    assert heard(session) == [Error(op_id=0, code=71, message=words)]
    assert say(session, ErrorAck()) == [Closed()]
    assert session.state is State.CLOSED


def test_a_connect_without_a_mandatory_field_is_refused():
    session = ServiceCenterSession()
    payload = b"\x85\xa7command\xa3con\xa4opId\x00\xa7version\xa51.0.0\xa5bsEui\x01\xa4bidi\xc3"
    events = say_map(session, payload)
    assert events == [Rejected("con", 0, 71, "snBsUuid: missing", "connect")]
    assert session.state is State.AWAITING_ERROR_ACK


def test_a_connect_with_another_operation_id_is_refused_under_that_id():
    session = ServiceCenterSession()
    assert say(session, replace(CON, op_id=7)) == [
        Rejected("con", 7, 71, "con: opId is 7, 0 expected", "connect")
    ]
    assert heard(session) == [Error(op_id=7, code=71, message="con: opId is 7, 0 expected")]
    assert say(session, ErrorAck(op_id=7)) == [Closed()]


def test_after_a_refused_connect_nothing_else_is_answered():
    session = service_center(State.AWAITING_ERROR_ACK)
    assert say(session, CON, Ping(op_id=1), Error(op_id=1, code=5, message="")) == []
    assert say_map(session, b"\x82\xa7command\xa3foo\xa4opId\x05") == []
    assert heard(session) == []


def test_a_connect_can_be_refused():
    session = service_center(State.DECIDING)
    session.refuse_connect(11, "try again")
    assert heard(session) == [Error(op_id=0, code=11, message="try again")]
    assert say(session, ErrorAck()) == [Closed()]


def test_an_identical_second_con_gets_the_same_answer():
    session = ServiceCenterSession()
    assert say(session, CON, CON, CON) == [ConnectRequested(CON)]
    session.accept(HELLO)
    assert heard(session) == [CON_RSP] * 3
    assert say(session, CON) == []
    assert heard(session) == [CON_RSP]
    assert say(session, ConnectComplete(), ConnectComplete()) == [
        Connected(resumed=False, response=CON_RSP)
    ]
    assert say(session, ConnectComplete()) == []
    assert heard(session) == []


@pytest.mark.parametrize("state", [State.DECIDING, State.AWAITING_CONNECT_COMPLETE])
def test_a_different_second_con_ends_the_connect(state):
    session = service_center(state)
    words = f"con: not before the session is open ({state.name})"
    events = say(session, replace(CON, bs_eui=7))
    assert events == [Rejected("con", 0, 71, words, "connect")]
    assert session.state is State.AWAITING_ERROR_ACK


def test_a_connect_that_ended_before_the_decision_is_not_answered():
    session = ServiceCenterSession()
    events = say(session, CON, replace(CON, bs_eui=7))
    assert [type(event) for event in events] == [ConnectRequested, Rejected]
    session.data_to_send()
    session.accept(HELLO)
    assert heard(session) == []
    assert say(session, ErrorAck()) == [Closed()]


def test_a_connect_that_the_base_station_withdrew_is_not_answered():
    session = ServiceCenterSession()
    assert say(session, CON, Error(op_id=0, code=5, message="no")) == [
        ConnectRequested(CON),
        ConnectRefused(5, "no"),
        Closed(),
    ]
    session.refuse_connect(1, "not registered")
    assert heard(session) == [ErrorAck()]


def test_a_con_rsp_that_is_refused_forfeits_the_session():
    session = service_center(State.AWAITING_CONNECT_COMPLETE)
    assert say(session, Error(op_id=0, code=71, message="who are you")) == [
        ConnectRefused(71, "who are you"),
        Closed(),
    ]
    assert heard(session) == [ErrorAck(op_id=0)]
    with pytest.raises(LocalProtocolError, match="no session is open"):
        session.record()


def test_a_con_rsp_that_is_refused_unreadably_is_refused_all_the_same():
    session = service_center(State.AWAITING_CONNECT_COMPLETE)
    events = say_map(session, b"\x82\xa7command\xa5error\xa4opId\x00")
    assert events == [ConnectRefused(71, "code: missing"), Closed()]
    assert heard(session) == [ErrorAck(op_id=0)]


def test_a_con_cmp_with_another_operation_id_ends_the_connect():
    session = service_center(State.AWAITING_CONNECT_COMPLETE)
    words = "conCmp: not before the session is open (AWAITING_CONNECT_COMPLETE)"
    assert say(session, ConnectComplete(op_id=1)) == [Rejected("conCmp", 1, 71, words, "connect")]
    assert say(session, ErrorAck(op_id=1)) == [Closed()]


def test_an_operation_before_con_cmp_is_refused_and_the_connect_goes_on():
    session = service_center(State.AWAITING_CONNECT_COMPLETE)
    words = "ulData: not before the session is open (AWAITING_CONNECT_COMPLETE)"
    assert say(session, at(1, UPLINK)) == [Rejected("ulData", 1, 71, words, "connect")]
    assert say(session, ErrorAck(op_id=1), ConnectComplete()) == [
        Connected(resumed=False, response=CON_RSP)
    ]
    assert say(session, at(1, UPLINK)) == [requested(at(1, UPLINK))]


@pytest.mark.parametrize("state", SC_STATES)
def test_a_connect_is_answered_once_and_when_it_is_asked(state):
    if state is not State.DECIDING:
        session = service_center(state)
        with pytest.raises(LocalProtocolError, match="there is no connect to answer"):
            session.accept(HELLO)
        with pytest.raises(LocalProtocolError, match="there is no connect to answer"):
            session.refuse_connect(5, "")


@pytest.mark.parametrize("stored", [None, replace(RECORD, sc_uuid=NEW_UUID, bs_uuid=NEW_UUID)])
@pytest.mark.parametrize("uuid", [BS_UUID, NEW_UUID])
def test_a_new_session_has_a_new_uuid_and_never_the_base_stations(stored, uuid):
    session = service_center(State.DECIDING)
    response = replace(HELLO, sn_sc_uuid=uuid)
    if stored is None and uuid == NEW_UUID:
        assert session.accept(response, stored=stored).sn_sc_uuid == NEW_UUID
    else:
        with pytest.raises(LocalProtocolError, match="snScUuid of a new session must be new"):
            session.accept(response, stored=stored)


def test_version_and_resume_are_not_the_callers_to_say():
    session = service_center(State.DECIDING)
    offer = session.accept(replace(HELLO, op_id=9, version="3.0.0", sn_resume=True))
    assert offer == CON_RSP


# --- connect, at the base station ------------------------------------------------------------


def test_a_base_station_connects():
    session = BaseStationSession()
    assert session.connect(replace(CON, op_id=9)) == CON
    assert heard(session) == [CON]
    assert say(session, CON_RSP) == [Connected(resumed=False, response=CON_RSP)]
    assert heard(session) == [ConnectComplete()]
    assert session.record() == RECORD


def test_a_base_station_connects_once():
    session = base_station(State.AWAITING_CONNECT_RESPONSE)
    with pytest.raises(LocalProtocolError, match="con while AWAITING_CONNECT_RESPONSE"):
        session.connect(CON)


def test_a_service_center_that_names_no_version_agrees_with_ours():
    session = BaseStationSession()
    session.connect(replace(CON, version="1.0.7"))
    assert len(say(session, HELLO)) == 1
    assert session.record().version == "1.0.7"


@pytest.mark.parametrize(("ours", "chosen"), [("1.1.0", "1.0.0"), ("1.0.0", "1.0.9")])
def test_a_lower_version_than_ours_is_agreed_on(ours, chosen):
    session = BaseStationSession()
    session.connect(replace(CON, version=ours))
    say(session, replace(HELLO, version=chosen))
    assert session.state is State.ACTIVE
    assert session.record().version == chosen


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.1.0", "version: 1.1.0 is not supported, 1.0.0 is"),
        ("2.0.0", "version: 2.0.0 is not supported, 1.0.0 is"),
        ("0.9.0", "version: 0.9.0 is not supported, 1.0.0 is"),
        ("", "version: '' is not of the form major.minor.patch"),
    ],
)
def test_a_version_that_was_not_asked_for_is_refused(version, words):
    session = base_station(State.AWAITING_CONNECT_RESPONSE)
    assert say(session, replace(HELLO, version=version)) == [
        Rejected("conRsp", 0, 71, words, "version")
    ]
    assert heard(session) == [Error(op_id=0, code=71, message=words)]
    assert say(session, ErrorAck()) == [Closed()]
    with pytest.raises(LocalProtocolError, match="no session is open"):
        session.record()


def test_a_con_rsp_with_another_operation_id_is_refused():
    session = base_station(State.AWAITING_CONNECT_RESPONSE)
    events = say(session, replace(CON_RSP, op_id=3))
    assert events == [Rejected("conRsp", 3, 71, "conRsp: opId is 3, 0 expected", "connect")]
    assert say(session, ErrorAck(op_id=3)) == [Closed()]


def test_a_base_station_that_is_refused_acknowledges_and_closes():
    session = base_station(State.AWAITING_CONNECT_RESPONSE)
    events = say(session, Error(op_id=0, code=11, message="try again"))
    assert events == [ConnectRefused(11, "try again"), Closed()]
    assert heard(session) == [ErrorAck()]


# --- resume: at the service center -----------------------------------------------------------

STORED = replace(
    RECORD, bs_op_id=204, sc_op_id=-362, pending=(at(-361, DETACH), at(-362, Status()))
)


def asks_for(bs_op_id: int | None, sc_op_id: int | None, con: Connect = CON) -> Connect:
    return replace(con, sn_bs_op_id=bs_op_id, sn_sc_op_id=sc_op_id)


@pytest.mark.parametrize(
    ("con", "resumable"),
    [
        (asks_for(204, -362), True),
        (asks_for(None, None), True),
        (asks_for(205, -362), False),
        (asks_for(204, -362, replace(CON, sn_bs_uuid=bytes(16))), False),
        (asks_for(204, -362, replace(CON, version="1.1.0")), True),
    ],
)
def test_a_session_is_resumed_if_it_can_be_and_otherwise_void(con, resumable):
    session = ServiceCenterSession()
    say(session, con)
    offer = session.accept(replace(HELLO, sn_sc_uuid=NEW_UUID), stored=STORED)
    uuid = SC_UUID if resumable else NEW_UUID
    assert offer == replace(CON_RSP, sn_resume=resumable, sn_sc_uuid=uuid)
    [connected] = say(session, ConnectComplete())
    assert connected == Connected(resumable, offer, () if resumable else STORED.pending)


def test_what_had_no_answer_is_issued_again_after_con_cmp_in_order_under_its_id():
    session = service_center(State.AWAITING_CONNECT_COMPLETE, stored=STORED)
    assert heard(session) == [replace(CON_RSP, sn_resume=True)]
    say(session, ConnectComplete())
    assert heard(session) == [at(-361, DETACH), at(-362, Status())]
    assert say(session, DetachPropagateResponse(op_id=-361)) == [
        Answered(at(-361, DETACH), DetachPropagateResponse(op_id=-361))
    ]
    assert session.record() == replace(STORED, pending=(at(-362, Status()),))


def test_a_resumed_session_goes_on_counting():
    session = service_center(stored=STORED)
    assert session.start(DETACH) == -363
    assert (session.own_op_id, session.peer_op_id) == (-363, 204)
    assert [session.is_pending(op_id) for op_id in (-360, -361, -363)] == [False, True, True]


def test_an_id_below_the_stored_one_but_pending_is_not_used_again():
    session = service_center(stored=replace(STORED, sc_op_id=-300))
    assert session.start(DETACH) == -363


def test_an_uplink_that_comes_again_is_told_as_such_and_answered_again():
    session = service_center(stored=STORED)
    session.data_to_send()
    first, second, new = at(203, UPLINK), at(204, UPLINK), at(205, UPLINK)
    assert say(session, first, second, new) == [
        requested(first, reissued=True),
        requested(second, reissued=True),
        requested(new),
    ]
    for op_id in (203, 204, 205):
        session.acknowledge(op_id)
    assert heard(session) == [UplinkDataResponse(op_id=op_id) for op_id in (203, 204, 205)]


def test_completions_after_a_resume_may_come_late_twice_or_never():
    session = service_center(stored=STORED)
    session.data_to_send()
    late = [UplinkDataComplete(op_id=204), DownlinkRxStatusComplete(op_id=200)]
    assert say(session, *late, *late) == []
    assert say(session, at(205, UPLINK)) == [requested(at(205, UPLINK))]
    assert heard(session) == []


def test_a_late_answer_to_what_was_answered_before_the_cut_is_completed():
    session = service_center(stored=STORED)
    session.data_to_send()
    assert say(session, DetachPropagateResponse(op_id=-350)) == []
    assert heard(session) == [DetachPropagateComplete(op_id=-350)]


def test_a_session_is_provisional_until_con_cmp():
    session = service_center(State.AWAITING_CONNECT_COMPLETE, stored=STORED)
    session.data_to_send()
    with pytest.raises(LocalProtocolError, match="no session is open"):
        session.record()
    with pytest.raises(LocalProtocolError, match="detPrp while AWAITING_CONNECT_COMPLETE"):
        session.start(DETACH)
    events = say(session, Error(op_id=0, code=71, message="not mine"))
    assert events == [ConnectRefused(71, "not mine"), Closed()]
    assert heard(session) == [ErrorAck()]


def test_a_ping_is_not_issued_again():
    session = service_center()
    session.start(Ping())
    session.start(DETACH)
    assert session.record() == replace(RECORD, sc_op_id=-2, pending=(at(-2, DETACH),))


def test_a_session_that_is_not_resumed_begins_anew():
    session = service_center(stored=STORED, con=asks_for(9999, -1))
    session.data_to_send()
    assert session.record() == replace(RECORD, sc_uuid=NEW_UUID)
    assert session.start(DETACH) == -1
    assert say(session, at(1, UPLINK)) == [requested(at(1, UPLINK))]


def test_the_ids_of_what_was_rejected_are_known_too():
    session = service_center()
    assert say_map(session, b"\x82\xa7command\xa6ulData\xa4opId\x07") == [
        Rejected("ulData", 7, 71, "epEui: missing", "protocol")
    ]
    say_map(session, b"\x82\xa7command\xa6rc.dir\xa4opId\x09")
    say(session, UplinkDataComplete(op_id=50))
    assert session.record().bs_op_id == 9
    # What could be mended may come again under its ID.
    assert say(session, at(7, UPLINK)) == [requested(at(7, UPLINK))]


# --- resume: at the base station -------------------------------------------------------------

BS_STORED = replace(
    RECORD, bs_op_id=204, sc_op_id=-362, answered_op_id=203, pending=(at(204, UPLINK),)
)
RESUMED = replace(CON_RSP, sn_resume=True)


def test_a_base_station_asks_to_resume_with_both_counters():
    session = BaseStationSession(stored=BS_STORED)
    asked = session.connect(replace(CON, sn_bs_uuid=NEW_UUID))
    assert asked == asks_for(203, -362)
    assert heard(session) == [asked]


def test_a_base_station_issues_again_what_had_no_answer():
    session = base_station(stored=BS_STORED, answer=RESUMED)
    assert heard(session) == [ConnectComplete(), at(204, UPLINK)]
    assert session.start(UPLINK) == 205
    assert say(session, UplinkDataResponse(op_id=204)) == [
        Answered(at(204, UPLINK), UplinkDataResponse(op_id=204))
    ]
    assert session.record() == replace(
        BS_STORED, bs_op_id=205, answered_op_id=204, pending=(at(205, UPLINK),)
    )


def test_a_base_station_tells_what_comes_again():
    session = base_station(stored=BS_STORED, answer=RESUMED)
    assert say(session, at(-362, DETACH), at(-363, DETACH)) == [
        requested(at(-362, DETACH), reissued=True),
        requested(at(-363, DETACH)),
    ]


def test_a_base_station_whose_session_is_lost_is_told_what_is_void():
    session = base_station(stored=BS_STORED, answer=replace(CON_RSP, sn_sc_uuid=NEW_UUID))
    assert heard(session) == [ConnectComplete()]
    assert session.record() == replace(RECORD, sc_uuid=NEW_UUID)
    assert session.start(UPLINK) == 1


def test_what_is_void_is_told_with_the_connect():
    session = BaseStationSession(stored=BS_STORED)
    session.connect(CON)
    answer = replace(CON_RSP, sn_sc_uuid=NEW_UUID)
    assert say(session, answer) == [
        Connected(resumed=False, response=answer, void=(at(204, UPLINK),))
    ]


@pytest.mark.parametrize("stored", [None, replace(BS_STORED, sc_uuid=NEW_UUID)])
def test_a_resume_of_a_session_that_we_do_not_have_is_refused(stored):
    session = BaseStationSession(stored=stored)
    session.connect(CON)
    words = "conRsp: resumes a session that we do not have"
    assert say(session, RESUMED) == [Rejected("conRsp", 0, 71, words, "connect")]
    assert session.state is State.AWAITING_ERROR_ACK


def test_a_refusal_counts_as_an_answer():
    session = base_station()
    session.start(UPLINK)
    say(session, Error(op_id=1, code=28, message="disk is full"))
    assert session.record() == replace(RECORD, bs_op_id=1, answered_op_id=1)


def test_answers_out_of_order_do_not_lower_the_counter():
    session = base_station()
    session.start(UPLINK)
    session.start(UPLINK)
    say(session, UplinkDataResponse(op_id=2), UplinkDataResponse(op_id=1))
    assert session.record() == replace(RECORD, bs_op_id=2, answered_op_id=2)


def test_an_answer_to_another_session_is_no_answer():
    session = base_station()
    assert say(session, UplinkDataResponse(op_id=999)) == []
    assert session.record() == RECORD


# --- operations, ours ------------------------------------------------------------------------


def test_an_operation_is_initiated_answered_and_completed():
    session = service_center()
    assert session.start(DETACH) == -1
    assert heard(session) == [at(-1, DETACH)]
    assert say(session, DetachPropagateResponse(op_id=-1)) == [
        Answered(at(-1, DETACH), DetachPropagateResponse(op_id=-1))
    ]
    assert heard(session) == [DetachPropagateComplete(op_id=-1)]
    assert session.record() == replace(RECORD, sc_op_id=-1)


def test_a_second_answer_is_completed_again_and_not_told():
    session = service_center()
    session.start(DETACH)
    say(session, DetachPropagateResponse(op_id=-1))
    session.data_to_send()
    assert say(session, DetachPropagateResponse(op_id=-1)) == []
    assert heard(session) == [DetachPropagateComplete(op_id=-1)]


def test_an_operation_is_refused():
    session = service_center()
    session.start(DETACH)
    session.data_to_send()
    assert say(session, Error(op_id=-1, code=95, message="not held")) == [
        Refused(at(-1, DETACH), 95, "not held")
    ]
    assert heard(session) == [ErrorAck(op_id=-1)]
    assert session.record() == replace(RECORD, sc_op_id=-1)


def test_an_operation_is_refused_unreadably():
    session = service_center()
    session.start(DETACH)
    session.data_to_send()
    assert say_map(session, b"\x83\xa7command\xa5error\xa4opId\xff\xa4code\x05") == [
        Refused(at(-1, DETACH), 71, "message: missing")
    ]
    assert heard(session) == [ErrorAck(op_id=-1)]


def test_an_answer_that_cannot_be_accepted_ends_the_operation():
    session = service_center()
    session.start(Status())
    session.data_to_send()
    assert say_map(session, b"\x82\xa7command\xa9statusRsp\xa4opId\xff") == [
        Rejected("statusRsp", -1, 71, "code: missing", "protocol"),
        Refused(at(-1, Status()), 71, "code: missing"),
    ]
    assert heard(session) == [Error(op_id=-1, code=71, message="code: missing")]
    assert say(session, ErrorAck(op_id=-1)) == []
    assert session.record() == replace(RECORD, sc_op_id=-1)


def test_an_answer_of_the_wrong_type_ends_the_operation():
    session = service_center()
    session.start(DETACH)
    session.data_to_send()
    words = "attPrpRsp -1 answers a detPrp"
    assert say(session, AttachPropagateResponse(op_id=-1)) == [
        Rejected("attPrpRsp", -1, 71, words, "protocol"),
        Refused(at(-1, DETACH), 71, words),
    ]
    assert heard(session) == [Error(op_id=-1, code=71, message=words)]


def test_an_answer_to_what_was_never_asked_is_refused():
    session = service_center()
    session.start(DETACH)
    session.data_to_send()
    words = "detPrpRsp -2 answers an operation that was never issued"
    assert say(session, DetachPropagateResponse(op_id=-2)) == [
        Rejected("detPrpRsp", -2, 71, words, "protocol")
    ]
    assert session.is_pending(-1)


def test_a_ping_of_ours_is_completed_and_not_told():
    session = service_center()
    session.start(Ping())
    session.start(Ping())
    session.data_to_send()
    assert say(session, PingResponse(op_id=-1), Error(op_id=-2, code=1, message="")) == []
    assert heard(session) == [PingComplete(op_id=-1), ErrorAck(op_id=-2)]
    assert not session.is_pending(-1)
    assert not session.is_pending(-2)


def test_an_error_for_what_is_not_known_is_acknowledged_and_not_told():
    session = service_center()
    assert say(session, Error(op_id=-7, code=5, message=""), Error(code=5, message="")) == []
    assert heard(session) == [ErrorAck(op_id=-7), ErrorAck(op_id=0)]


def test_an_error_ack_that_nobody_waits_for_changes_nothing():
    session = service_center()
    session.start(DETACH)
    say(session, at(1, UPLINK))
    session.data_to_send()
    assert say(session, *(ErrorAck(op_id=op_id) for op_id in (-1, 0, 1, 99))) == []
    assert session.is_pending(-1)
    session.acknowledge(1)
    assert heard(session) == [UplinkDataResponse(op_id=1)]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (UPLINK, "ulData is not ours to initiate"),
        (CON, "con is not ours to initiate"),
        (UplinkDataResponse(), "ulDataRsp does not initiate an operation"),
        (Error(code=5, message=""), "error does not initiate an operation"),
    ],
)
def test_only_what_is_ours_is_initiated(message, words):
    session = service_center()
    with pytest.raises(LocalProtocolError, match=words):
        session.start(message)
    assert heard(session) == []


def test_a_base_station_does_not_connect_within_a_session():
    session = base_station()
    with pytest.raises(LocalProtocolError, match="con is not ours to initiate"):
        session.start(CON)


@pytest.mark.parametrize("state", [state for state in SC_STATES if state is not State.ACTIVE])
def test_nothing_is_initiated_before_the_session_is_open(state):
    session = service_center(state)
    with pytest.raises(LocalProtocolError, match=f"detPrp while {state.name}"):
        session.start(DETACH)


def test_a_message_of_ours_that_breaks_a_rule_never_reaches_the_peer():
    session = service_center()
    with pytest.raises(LocalProtocolError, match="detPrp: epEui"):
        session.start(DetachPropagate(ep_eui=-(2**70)))
    assert heard(session) == []
    assert session.record() == replace(RECORD, sc_op_id=-1)


def test_a_prepared_operation_is_in_the_record_before_it_is_sent():
    session = service_center()
    op_id = session.prepare(DETACH)
    assert heard(session) == []
    assert session.record() == replace(RECORD, sc_op_id=-1, pending=(at(-1, DETACH),))
    session.issue(op_id)
    assert heard(session) == [at(-1, DETACH)]
    with pytest.raises(LocalProtocolError, match="operation -1 is not prepared"):
        session.issue(op_id)
    with pytest.raises(LocalProtocolError, match="operation -1 is not prepared"):
        session.discard(op_id)


def test_a_prepared_operation_can_be_discarded_and_its_id_stays_used():
    session = service_center()
    session.discard(session.prepare(DETACH))
    assert session.record() == replace(RECORD, sc_op_id=-1)
    assert session.start(DETACH) == -2


def test_what_is_prepared_cannot_have_been_answered():
    session = service_center()
    session.prepare(DETACH)
    words = "detPrpRsp: operation -1 was not issued yet"
    assert say(session, DetachPropagateResponse(op_id=-1)) == [
        Rejected("detPrpRsp", -1, 71, words, "protocol")
    ]
    assert say(session, Error(op_id=-1, code=5, message="")) == []
    assert session.is_pending(-1)


# --- operations, the peer's ------------------------------------------------------------------


def test_an_uplink_is_told_acknowledged_and_completed():
    session = service_center()
    assert say(session, at(1, UPLINK)) == [requested(at(1, UPLINK))]
    assert heard(session) == []
    session.acknowledge(1)
    assert heard(session) == [UplinkDataResponse(op_id=1)]
    assert say(session, UplinkDataComplete(op_id=1)) == []


def test_an_operation_is_told_answered_and_its_completion_told():
    session = service_center()
    assert say(session, at(1, RX_STATUS)) == [requested(at(1, RX_STATUS))]
    session.respond(DownlinkRxStatusResponse(op_id=1))
    assert heard(session) == [DownlinkRxStatusResponse(op_id=1)]
    assert say(session, DownlinkRxStatusComplete(op_id=1)) == [Completed(at(1, RX_STATUS))]


def test_the_payload_is_given_as_it_came():
    session = service_center()
    payload = encode(at(1, UPLINK)).replace(b"\xa4opId\x01", b"\xa4opId\xd1\x00\x01")
    [event] = say_map(session, payload)
    assert event == Requested(at(1, UPLINK), payload, reissued=False)


def test_uplinks_are_answered_in_any_order_and_completed_in_any_order():
    session = service_center()
    say(session, *(at(op_id, RX_STATUS) for op_id in (1, 2, 5)))
    for op_id in (5, 1, 2):
        session.respond(DownlinkRxStatusResponse(op_id=op_id))
    assert heard(session) == [DownlinkRxStatusResponse(op_id=op_id) for op_id in (5, 1, 2)]
    completions = [DownlinkRxStatusComplete(op_id=op_id) for op_id in (2, 5, 1)]
    assert say(session, *completions) == [Completed(at(op_id, RX_STATUS)) for op_id in (2, 5, 1)]


def test_an_uplink_is_refused_and_may_come_again():
    session = service_center()
    say(session, at(1, UPLINK), at(2, UPLINK))
    session.refuse(1, 28, "disk is full")
    assert heard(session) == [Error(op_id=1, code=28, message="disk is full")]
    assert say(session, ErrorAck(op_id=1)) == []
    assert say(session, at(1, UPLINK)) == [requested(at(1, UPLINK), reissued=True)]


@pytest.mark.parametrize(
    ("op_id", "fault"),
    [
        (0, "has an operation ID of the wrong sign"),
        (-1, "has an operation ID of the wrong sign"),
        (4, "has an operation ID not beyond 5"),
        (5, "has the ID of an operation that is open"),
    ],
)
def test_an_id_that_does_not_grow_is_refused(op_id, fault):
    session = service_center()
    say(session, at(5, UPLINK))
    words = f"ulData {op_id} {fault}"
    assert say(session, at(op_id, UPLINK)) == [Rejected("ulData", op_id, 71, words, "protocol")]
    assert heard(session) == [Error(op_id=op_id, code=71, message=words)]


def test_an_unknown_command_is_refused_and_the_session_goes_on():
    session = service_center()
    for command in (b"\xa3foo", b"\xa6rc.dir", b"\xa6vm.foo"):
        words = f"command {command[1:].decode()!r} is not supported"
        events = say_map(session, b"\x82\xa7command" + command + b"\xa4opId\x03")
        assert events == [Rejected(command[1:].decode(), 3, 95, words, "protocol")]
        assert heard(session) == [Error(op_id=3, code=95, message=words)]
    assert say(session, at(3, UPLINK)) == [requested(at(3, UPLINK))]


def test_a_completion_of_what_is_not_open_is_refused():
    session = service_center()
    words = "ulDataCmp 1 completes an operation that is not open"
    assert say(session, UplinkDataComplete(op_id=1)) == [
        Rejected("ulDataCmp", 1, 71, words, "protocol")
    ]


def test_a_peer_may_refuse_our_answer():
    session = service_center()
    say(session, at(1, RX_STATUS))
    session.respond(DownlinkRxStatusResponse(op_id=1))
    session.data_to_send()
    assert say(session, Error(op_id=1, code=22, message="malformed")) == [
        Withdrawn(at(1, RX_STATUS), 22, "malformed")
    ]
    assert heard(session) == [ErrorAck(op_id=1)]


def test_an_answer_to_what_the_peer_withdrew_is_not_sent():
    session = service_center()
    withdrawal = [Error(op_id=op_id, code=5, message="never mind") for op_id in (1, 2)]
    assert say(session, at(1, UPLINK), at(2, RX_STATUS), *withdrawal) == [
        requested(at(1, UPLINK)),
        requested(at(2, RX_STATUS)),
        Withdrawn(at(1, UPLINK), 5, "never mind"),
        Withdrawn(at(2, RX_STATUS), 5, "never mind"),
    ]
    session.data_to_send()
    session.acknowledge(1)
    session.refuse(2, 5, "")
    assert heard(session) == []


@pytest.mark.parametrize("op_id", [-1, 0, 2])
def test_only_what_was_asked_is_answered(op_id):
    session = service_center()
    say(session, at(1, UPLINK))
    with pytest.raises(LocalProtocolError, match=f"operation {op_id} is not waiting"):
        session.acknowledge(op_id)
    with pytest.raises(LocalProtocolError, match=f"operation {op_id} is not waiting"):
        session.refuse(op_id, 5, "")
    assert heard(session) == []


def test_an_answer_that_breaks_a_rule_leaves_the_operation_to_be_refused():
    session = service_center()
    say(session, at(1, BY_COMMAND["att"]))
    with pytest.raises(LocalProtocolError, match="attRsp: nwkSnKey: 3 bytes found"):
        session.respond(MESSAGES["attRsp"](op_id=1, nwk_sn_key=b"abc"))  # type: ignore[call-arg]
    session.refuse(1, 5, "no key")
    assert heard(session) == [Error(op_id=1, code=5, message="no key")]


# --- bytes -----------------------------------------------------------------------------------


def test_a_peer_that_speaks_json_is_answered_in_json():
    session = ServiceCenterSession()
    session.receive_data(wire(CON, as_json=True))
    session.accept(HELLO)
    assert session.data_to_send() == wire(CON_RSP, as_json=True)
    session.receive_data(wire(ConnectComplete(), Ping(op_id=1), as_json=True))
    session.start(DETACH)
    assert session.data_to_send() == wire(PingResponse(op_id=1), at(-1, DETACH), as_json=True)


def test_a_base_station_may_speak_json():
    session = BaseStationSession()
    session.connect(CON, as_json=True)
    assert session.data_to_send() == wire(CON, as_json=True)
    session.receive_data(wire(CON_RSP, as_json=True))
    assert session.data_to_send() == wire(ConnectComplete(), as_json=True)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"GET / HTTP/1.1\r\n", WrongIdentifierError),
        (b"\x16\x03\x01", WrongIdentifierError),
        (b"MIOTYB01\xff\xff\xff\xff", FrameTooLongError),
        (encode_frame(b"\xc1"), MalformedPayloadError),
        (encode_frame(b"\x81\xa7command\xa4ping"), RemoteProtocolError),
    ],
)
def test_a_stream_that_makes_no_sense_ends_the_connection(data, kind):
    session = ServiceCenterSession()
    with pytest.raises(kind):
        session.receive_data(data)
    with pytest.raises(kind):
        session.receive_data(wire(CON))


def test_what_came_before_the_fault_counts():
    session = service_center()
    session.start(DETACH)
    answer = DetachPropagateResponse(op_id=-1)
    found = session.receive_data(wire(answer, at(1, UPLINK)) + b"garbage")
    assert found == [Answered(at(-1, DETACH), answer), requested(at(1, UPLINK))]
    with pytest.raises(WrongIdentifierError):
        session.receive_data(b"")


def test_a_frame_has_the_length_that_was_allowed():
    session = ServiceCenterSession(max_payload=10)
    with pytest.raises(FrameTooLongError):
        session.receive_data(wire(CON))
    other = BaseStationSession(max_payload=10)
    with pytest.raises(FrameTooLongError):
        other.receive_data(wire(CON_RSP))


def test_what_follows_the_end_is_not_looked_at():
    session = service_center(State.AWAITING_ERROR_ACK)
    assert session.receive_data(wire(ErrorAck(), CON) + b"garbage") == [Closed()]
    assert session.receive_data(b"more garbage") == []


def test_bytes_are_given_once():
    session = service_center()
    session.start(DETACH)
    assert session.data_to_send() == wire(at(-1, DETACH))
    assert session.data_to_send() == b""


def test_a_peer_that_never_completes_costs_a_bounded_memory():
    session = service_center()
    for op_id in range(1, 3 * MAX_INCOMPLETE):
        say(session, at(op_id, RX_STATUS))
        session.respond(DownlinkRxStatusResponse(op_id=op_id))
    # The oldest are forgotten, which shows by their completion saying nothing.
    assert say(session, DownlinkRxStatusComplete(op_id=1)) == []
    newest = 3 * MAX_INCOMPLETE - 1
    assert say(session, DownlinkRxStatusComplete(op_id=newest)) == [
        Completed(at(newest, RX_STATUS))
    ]


SITUATIONS: list[tuple[Callable[[State], Session], State]] = [
    *((service_center, state) for state in SC_STATES),
    *((base_station, state) for state in BS_STATES),
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(MESSAGES_SAID), max_size=12), st.data())
def test_no_sequence_of_messages_is_our_fault(messages, data):
    build, state = data.draw(st.sampled_from(SITUATIONS))
    conversation = build(state)
    for message in messages:
        op_id = data.draw(st.integers(-3, 3))
        for event in say(conversation, at(op_id, message)):
            if isinstance(event, Requested):
                conversation.refuse(event.message.op_id, 5, "")
            elif isinstance(event, ConnectRequested):
                assert isinstance(conversation, ServiceCenterSession)
                conversation.accept(HELLO)
    heard(conversation)


# --- two sessions, joined --------------------------------------------------------------------


def join(
    sc: ServiceCenterSession, bs: BaseStationSession, sizes: list[int]
) -> tuple[list[Event], list[Event]]:
    """Carry the bytes in pieces of these sizes until both are silent; what each was told."""
    told: dict[Session, list[Event]] = {sc: [], bs: []}
    ways = {sc: bytearray(), bs: bytearray()}
    peers: dict[Session, Session] = {sc: bs, bs: sc}
    turn = 0
    while True:
        for session in ways:
            ways[session] += session.data_to_send()
        if not any(ways.values()):
            return told[sc], told[bs]
        for session, way in ways.items():
            size = sizes[turn % len(sizes)]
            turn += 1
            events = peers[session].receive_data(bytes(way[:size]))
            del way[:size]
            told[peers[session]] += events
            for event in events:
                react(peers[session], event)


def react(session: Session, event: Event) -> None:
    if isinstance(event, ConnectRequested):
        assert isinstance(session, ServiceCenterSession)
        session.accept(HELLO)
    elif isinstance(event, Requested):
        session.respond(at(event.message.op_id, BY_COMMAND[event.message.command + "Rsp"]))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=20),
    st.permutations(UP),
    st.permutations(DOWN),
    st.booleans(),
)
def test_every_operation_goes_through_both_ways(sizes, up, down, as_json):
    sc, bs = ServiceCenterSession(), BaseStationSession()
    bs.connect(CON, as_json=as_json)
    assert join(sc, bs, sizes) == (
        [ConnectRequested(CON), Connected(resumed=False, response=CON_RSP)],
        [Connected(resumed=False, response=CON_RSP)],
    )
    asked_up = [at(op_id, BY_COMMAND[command]) for op_id, command in enumerate(up, 1)]
    asked_down = [at(-op_id, BY_COMMAND[command]) for op_id, command in enumerate(down, 1)]
    for message in asked_up:
        bs.start(message)
    for message in asked_down:
        sc.start(message)
    told_sc, told_bs = join(sc, bs, sizes)
    assert of(told_sc, Requested) == [
        Requested(message, encode(message, as_json=as_json), False) for message in asked_up
    ]
    assert of(told_bs, Requested) == [
        Requested(message, encode(message, as_json=as_json), False) for message in asked_down
    ]
    assert of(told_bs, Answered) == [Answered(m, response_to(m)) for m in asked_up]
    assert of(told_sc, Answered) == [Answered(m, response_to(m)) for m in asked_down]
    assert of(told_sc, Completed) == [Completed(m) for m in asked_up if m.command not in NOT_KEPT]
    assert of(told_bs, Completed) == [Completed(m) for m in asked_down]
    assert sc.record() == replace(RECORD, bs_op_id=len(UP), sc_op_id=-len(DOWN))
    assert bs.record() == replace(sc.record(), answered_op_id=len(UP))


def of(events: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


def response_to(message: Message) -> Message:
    return at(message.op_id, BY_COMMAND[message.command + "Rsp"])


# --- many cuts -------------------------------------------------------------------------------


class Party:
    """One side with its memory: what it started, what it was told, what it keeps over a cut."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.stored: SessionRecord | None = None
        self.session: Session | None = None
        self.started: list[int] = []
        self.outcomes: Counter[int] = Counter()
        self.new: Counter[tuple[bytes, int]] = Counter()
        self.used: set[tuple[bytes, int]] = set()
        self.unanswered: list[Requested] = []

    def start(self, ep_eui: int) -> None:
        """Initiate an operation that is told from all others by its end point."""
        assert self.session is not None
        operation = RX_STATUS if self.role is Role.BASE_STATION else DETACH
        op_id = self.session.start(replace(operation, ep_eui=ep_eui))
        self._use(op_id)

    def _use(self, op_id: int) -> None:
        assert self.session is not None
        used = (self.session.record().sc_uuid, op_id)
        assert used not in self.used
        self.used.add(used)

    def hear(self, event: Event) -> None:
        assert self.session is not None
        match event:
            case Requested(message, _, reissued):
                self.unanswered.append(event)
                key = (self.session.record().sc_uuid, message.op_id)
                self.new[key] += not reissued
            case Answered(request) | Refused(request):
                self.outcomes[request.ep_eui] += 1  # type: ignore[attr-defined]
            case Connected(void=void):
                for message in void:
                    self.start(message.ep_eui)  # type: ignore[attr-defined]
            case Completed() | Closed() | ConnectRequested():
                pass
            case _:
                raise AssertionError(event)

    def answer(self) -> None:
        """Answer or refuse what was asked last; what was asked first waits longest."""
        assert self.session is not None
        if self.unanswered:
            request = self.unanswered.pop().message
            if request.ep_eui % 5 == 0:  # type: ignore[attr-defined]
                self.session.refuse(request.op_id, 28, "disk is full")
            else:
                self.session.respond(MESSAGES[request.command + "Rsp"](op_id=request.op_id))

    def cut(self) -> None:
        if self.session is not None and self.session.state is State.ACTIVE:
            self.stored = self.session.record()
        self.session = None
        self.unanswered.clear()


class Line:
    """Two parties and the bytes between them; it can be cut at any byte."""

    def __init__(self) -> None:
        self.bs = Party(Role.BASE_STATION)
        self.sc = Party(Role.SERVICE_CENTER)
        self.uuids = 0
        self.resumes = 0
        self.offered: list[bytes] = []

    def connect(self) -> None:
        self.sc.session = ServiceCenterSession()
        self.bs.session = BaseStationSession(stored=self.bs.stored)
        self.bs.session.connect(CON)
        self.ways = {self.bs: bytearray(), self.sc: bytearray()}

    def cut(self) -> None:
        self.bs.cut()
        self.sc.cut()
        self.connect()

    def move(self, sender: Party, size: int) -> None:
        receiver = self.sc if sender is self.bs else self.bs
        assert sender.session is not None
        assert receiver.session is not None
        way = self.ways[sender]
        way += sender.session.data_to_send()
        data = bytes(way[:size])
        del way[:size]
        for event in receiver.session.receive_data(data):
            if isinstance(event, ConnectRequested):
                self.accept(receiver)
            receiver.hear(event)

    def accept(self, sc: Party) -> None:
        assert isinstance(sc.session, ServiceCenterSession)
        self.uuids += 1
        fresh = self.uuids.to_bytes(16)
        offer = sc.session.accept(replace(HELLO, sn_sc_uuid=fresh), stored=sc.stored)
        self.resumes += offer.sn_resume
        assert offer.sn_sc_uuid == (sc.stored.sc_uuid if offer.sn_resume and sc.stored else fresh)
        assert offer.sn_sc_uuid != BS_UUID

    def is_open(self, party: Party) -> bool:
        return party.session is not None and party.session.state is State.ACTIVE

    def settle(self) -> None:
        for _ in range(20):
            for party in (self.bs, self.sc):
                self.move(party, 100_000)
                while party.unanswered:
                    party.answer()


actions = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(["bs", "sc"])),
    st.tuples(st.just("answer"), st.sampled_from(["bs", "sc"])),
    st.tuples(st.sampled_from(["bs", "sc"]), st.integers(1, 300)),
    st.tuples(st.sampled_from(["bs", "sc"]), st.integers(1, 300)),
    st.tuples(st.just("cut"), st.none()),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(actions, max_size=60), st.booleans())
def test_over_any_cuts_every_operation_has_exactly_one_outcome(todo, begin_open):
    line = Line()
    line.connect()
    if begin_open:
        line.settle()
    started: dict[Party, list[int]] = {line.bs: [], line.sc: []}
    for number, (what, how) in enumerate(todo, 1):
        if what == "cut":
            line.cut()
        elif what == "start" and line.is_open(party := getattr(line, how)):
            party.start(number)
            started[party].append(number)
        elif what == "answer" and line.is_open(party := getattr(line, how)):
            party.answer()
        elif what in ("bs", "sc"):
            line.move(getattr(line, what), how)
    line.settle()
    for party, numbers in started.items():
        assert party.session is not None
        assert party.session.record().pending == ()
        assert party.outcomes == Counter(numbers)
        assert set(party.new.values()) <= {0, 1}


def test_over_a_cut_at_every_byte_a_session_is_resumed():
    whole = len(wire(at(1, RX_STATUS)) + wire(DownlinkRxStatusComplete(op_id=1)))
    for at_byte in range(whole + 1):
        line = Line()
        line.connect()
        line.settle()
        line.bs.start(7)
        line.sc.start(8)
        line.move(line.bs, at_byte)
        line.move(line.sc, at_byte)
        line.bs.answer()
        line.sc.answer()
        line.cut()
        line.settle()
        assert line.resumes == 1
        assert (line.bs.outcomes, line.sc.outcomes) == (Counter([7]), Counter([8]))
