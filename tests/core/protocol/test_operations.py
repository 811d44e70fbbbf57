from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.protocol.errors import (
    InvalidMessageError,
    LocalProtocolError,
    OperationLostError,
)
from bssci.core.protocol.messages import (
    MESSAGES,
    AttachPropagateResponse,
    Connect,
    DetachPropagate,
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
from bssci.core.protocol.operations import (
    LARGEST_ID,
    MAX_INCOMPLETE,
    MAX_PENDING,
    MAX_UNANSWERED,
    OPERATIONS,
    SMALLEST_ID,
    OwnOperations,
    PeerOperations,
    Step,
    step_of,
)

SC, BS = Role.SERVICE_CENTER, Role.BASE_STATION
DETACH = DetachPropagate(ep_eui=1)
RX_STATUS = DownlinkRxStatus(ep_eui=1, rx_time=2, packet_cnt=3, dl_rx_snr=4.0, dl_rx_rssi=5.0)
UPLINK = UplinkData(
    ep_eui=1,
    rx_time=2,
    packet_cnt=3,
    snr=4.0,
    rssi=5.0,
    user_data=b"",
    dl_open=False,
    response_exp=False,
    dl_ack=False,
)


def at(message: Message, op_id: int) -> Message:
    return replace(message, op_id=op_id)


def refusal(call, *args) -> tuple[int, str]:
    with pytest.raises(InvalidMessageError) as caught:
        call(*args)
    assert (caught.value.command, caught.value.op_id) == (args[0].command, args[0].op_id)
    return caught.value.code, str(caught.value)


# --- the three steps -------------------------------------------------------------------------


def test_an_operation_is_three_messages():
    found = {kind.command: operation for kind, operation in OPERATIONS.items()}
    assert list(found) == [command for command in MESSAGES if command + "Cmp" in MESSAGES]
    assert len(found) == 19
    assert found["ulData"].response is UplinkDataResponse
    assert found["ulData"].completion is UplinkDataComplete


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (UplinkData, Step.INITIATION),
        (UplinkDataResponse, Step.RESPONSE),
        (UplinkDataComplete, Step.COMPLETION),
    ],
)
def test_each_message_is_one_step_of_one_operation(kind, step):
    assert step_of(kind) == (step, OPERATIONS[UplinkData])


@pytest.mark.parametrize("kind", [Error, ErrorAck])
def test_errors_are_no_step(kind):
    assert step_of(kind) is None


def test_every_other_message_is_a_step():
    steps = [step_of(kind) for kind in MESSAGES.values() if kind not in (Error, ErrorAck)]
    assert None not in steps
    assert len(steps) == 3 * len(OPERATIONS)


# --- our own ---------------------------------------------------------------------------------


def test_a_service_center_counts_down_from_minus_one():
    own = OwnOperations(SC)
    assert [own.open(DETACH).op_id for _ in range(3)] == [-1, -2, -3]
    assert own.last_id == -3


def test_a_base_station_counts_up_from_one():
    own = OwnOperations(BS)
    assert [own.open(UPLINK).op_id for _ in range(3)] == [1, 2, 3]
    assert own.last_id == 3


def test_a_resumed_session_goes_on_counting():
    assert OwnOperations(SC, last_id=-362).open(DETACH).op_id == -363
    assert OwnOperations(BS, last_id=204).open(UPLINK).op_id == 205


def test_an_id_of_a_pending_operation_is_never_used_again():
    own = OwnOperations(SC, last_id=-3, pending=[at(DETACH, -2), at(DETACH, -7)])
    assert own.open(DETACH).op_id == -8


def test_pending_is_what_has_no_answer_in_the_order_of_issue():
    own = OwnOperations(SC, last_id=-3, pending=[at(DETACH, -2)])
    own.open(Status())
    own.open(Ping())
    own.answered(PingResponse(op_id=-5))
    assert own.pending == (at(DETACH, -2), Status(op_id=-4))
    assert [own.is_pending(op_id) for op_id in (-2, -3, -4, -5)] == [True, False, True, False]


@pytest.mark.parametrize("message", [PingResponse(), PingComplete(), Error(code=5, message="")])
def test_only_an_initiation_opens_an_operation(message):
    own = OwnOperations(SC)
    with pytest.raises(LocalProtocolError, match=f"{message.command} does not initiate"):
        own.open(message)
    assert own.last_id == 0


def test_connect_is_an_operation_like_the_others():
    assert step_of(Connect) == (Step.INITIATION, OPERATIONS[Connect])


@pytest.mark.parametrize(("role", "last"), [(SC, SMALLEST_ID), (BS, LARGEST_ID)])
def test_the_last_id_can_be_used_and_no_more(role, last):
    own = OwnOperations(role, last_id=last + (1 if role is SC else -1))
    assert own.open(Ping()).op_id == last
    with pytest.raises(LocalProtocolError, match="all operation IDs of this session are used"):
        own.open(Ping())


def test_a_service_centers_ids_fit_into_32_bits():
    assert SMALLEST_ID == -(2**31)


def test_what_may_lack_an_answer_is_bounded():
    own = OwnOperations(SC)
    for _ in range(MAX_PENDING):
        own.open(Ping())
    with pytest.raises(OperationLostError) as caught:
        own.open(DETACH)
    assert str(caught.value) == f"detPrp: {MAX_PENDING} operations wait for an answer already"
    own.answered(PingResponse(op_id=-1))
    assert own.open(DETACH).op_id == -MAX_PENDING - 1


def test_an_answer_names_its_operation_by_the_id():
    own = OwnOperations(SC)
    request = own.open(DETACH)
    assert own.answered(DetachPropagateResponse(op_id=-1)) == request == at(DETACH, -1)
    assert own.pending == ()


def test_answers_may_come_in_any_order():
    own = OwnOperations(SC)
    for eui in (1, 2, 3):
        own.open(DetachPropagate(ep_eui=eui))
    answers = [own.answered(DetachPropagateResponse(op_id=op_id)) for op_id in (-2, -3, -1)]
    assert answers == [DetachPropagate(op_id=-eui, ep_eui=eui) for eui in (2, 3, 1)]


def test_a_second_answer_answers_nothing():
    own = OwnOperations(SC)
    own.open(DETACH)
    own.answered(DetachPropagateResponse(op_id=-1))
    assert own.answered(DetachPropagateResponse(op_id=-1)) is None


@pytest.mark.parametrize("op_id", [-2, 0, 1, 7])
def test_an_answer_to_what_was_never_asked_is_refused(op_id):
    own = OwnOperations(SC)
    own.open(DETACH)
    assert refusal(own.answered, DetachPropagateResponse(op_id=op_id)) == (
        71,
        f"detPrpRsp {op_id} answers an operation that was never issued",
    )


@pytest.mark.parametrize(("role", "op_id"), [(SC, -7), (BS, 7)])
def test_before_our_first_operation_an_answer_may_belong_to_an_earlier_session(role, op_id):
    own = OwnOperations(role)
    assert own.answered(PingResponse(op_id=op_id)) is None
    with pytest.raises(InvalidMessageError):
        own.answered(PingResponse(op_id=-op_id))


def test_an_answer_of_the_wrong_type_is_refused():
    own = OwnOperations(SC)
    own.open(DETACH)
    assert refusal(own.answered, AttachPropagateResponse(op_id=-1)) == (
        71,
        "attPrpRsp -1 answers a detPrp",
    )
    assert own.is_pending(-1)


def test_an_error_ends_an_operation_once():
    own = OwnOperations(SC)
    own.open(DETACH)
    assert [own.ended(-1), own.ended(-1), own.ended(5)] == [at(DETACH, -1), None, None]


# --- the peer's ------------------------------------------------------------------------------


def opened(*op_ids: int, message: Message = RX_STATUS, resumed_through: int = 0) -> PeerOperations:
    peer = PeerOperations(BS, resumed_through=resumed_through)
    for op_id in op_ids:
        peer.open(at(message, op_id))
    return peer


def test_a_base_stations_ids_grow():
    peer = opened(1, 2, 7)
    assert peer.last_id == 7
    assert refusal(peer.open, at(UPLINK, 6)) == (71, "ulData 6 has an operation ID not beyond 7")


def test_a_service_centers_ids_grow_downwards():
    peer = PeerOperations(SC)
    assert [peer.open(at(DETACH, op_id)) for op_id in (-1, -4)] == [False, False]
    assert peer.last_id == -4
    assert refusal(peer.open, at(DETACH, -3))[1] == "detPrp -3 has an operation ID not beyond -4"


@pytest.mark.parametrize(("role", "op_id"), [(BS, 0), (BS, -1), (SC, 0), (SC, 1)])
def test_an_id_has_the_sign_of_its_initiator(role, op_id):
    peer = PeerOperations(role)
    assert refusal(peer.open, Ping(op_id=op_id)) == (
        71,
        f"ping {op_id} has an operation ID of the wrong sign",
    )


def test_an_operation_that_is_open_is_not_opened_again():
    peer = opened(3, resumed_through=9)
    assert refusal(peer.open, at(UPLINK, 3)) == (
        71,
        "ulData 3 has the ID of an operation that is open",
    )


def test_after_a_resume_old_ids_come_again_in_any_order_and_new_ones_grow():
    peer = PeerOperations(BS, resumed_through=204)
    found = [peer.open(at(UPLINK, op_id)) for op_id in (200, 205, 198, 207)]
    assert found == [True, False, True, False]
    assert peer.last_id == 207
    assert refusal(peer.open, at(UPLINK, 206))[1] == "ulData 206 has an operation ID not beyond 207"


def test_an_operation_reissued_after_its_answer_was_lost_is_answered_again():
    peer = opened(3, resumed_through=9)
    assert peer.answer(DownlinkRxStatusResponse(op_id=3))
    assert peer.open(at(RX_STATUS, 3))
    assert peer.answer(DownlinkRxStatusResponse(op_id=3))
    assert peer.completed(DownlinkRxStatusComplete(op_id=3)) == at(RX_STATUS, 3)


def test_what_we_refused_may_be_tried_again_under_its_id():
    peer = opened(1, 2)
    assert peer.refuse(1)
    assert peer.open(at(UPLINK, 1))
    assert peer.answer(UplinkDataResponse(op_id=1))
    assert refusal(peer.open, at(UPLINK, 1))[1] == "ulData 1 has an operation ID not beyond 2"


def test_an_id_that_was_used_for_what_we_cannot_accept_is_noted():
    peer = opened(1)
    peer.note(5)
    peer.note(3)
    peer.note(-9)
    assert peer.last_id == 5
    assert peer.open(at(UPLINK, 5)) is False


def test_what_may_lack_our_answer_is_bounded():
    peer = opened(*range(1, MAX_UNANSWERED + 1))
    excess = MAX_UNANSWERED + 1
    assert refusal(peer.open, at(UPLINK, excess)) == (
        11,
        f"ulData {excess} is one operation too many, try again",
    )
    peer.answer(DownlinkRxStatusResponse(op_id=1))
    assert peer.open(at(UPLINK, excess)) is False


@pytest.mark.parametrize("op_id", [2, 0, -1])
def test_only_what_was_asked_can_be_answered(op_id):
    peer = opened(1)
    with pytest.raises(LocalProtocolError, match=f"operation {op_id} is not waiting"):
        peer.answer(DownlinkRxStatusResponse(op_id=op_id))
    with pytest.raises(LocalProtocolError, match=f"operation {op_id} is not waiting"):
        peer.refuse(op_id)


def test_an_answer_of_ours_has_the_type_that_was_asked_for():
    peer = opened(1)
    with pytest.raises(LocalProtocolError, match="ulDataRsp 1 answers a dlRxStat"):
        peer.answer(UplinkDataResponse(op_id=1))
    assert peer.answer(DownlinkRxStatusResponse(op_id=1))


def test_an_operation_is_answered_once():
    peer = opened(1)
    peer.answer(DownlinkRxStatusResponse(op_id=1))
    with pytest.raises(LocalProtocolError):
        peer.answer(DownlinkRxStatusResponse(op_id=1))
    with pytest.raises(LocalProtocolError):
        peer.refuse(1)


def test_a_completion_names_what_it_completes():
    peer = opened(1)
    peer.answer(DownlinkRxStatusResponse(op_id=1))
    assert peer.completed(DownlinkRxStatusComplete(op_id=1)) == at(RX_STATUS, 1)


@pytest.mark.parametrize(
    ("request_", "response", "completion"),
    [(UPLINK, UplinkDataResponse, UplinkDataComplete), (Ping(), PingResponse, PingComplete)],
)
def test_an_uplink_or_a_ping_is_not_kept_once_it_is_answered(request_, response, completion):
    peer = opened(1, message=request_)
    peer.answer(response(op_id=1))
    assert peer.completed(completion(op_id=1)) is None
    assert refusal(peer.completed, completion(op_id=1))[0] == 71


def test_completions_may_come_in_any_order():
    peer = opened(1, 2, 3)
    for op_id in (1, 2, 3):
        peer.answer(DownlinkRxStatusResponse(op_id=op_id))
    found = [peer.completed(DownlinkRxStatusComplete(op_id=op_id)) for op_id in (2, 3, 1)]
    assert found == [at(RX_STATUS, op_id) for op_id in (2, 3, 1)]


@pytest.mark.parametrize("op_id", [1, 2, 3, -1, 0])
def test_only_what_is_answered_can_be_completed(op_id):
    peer = opened(1, 2)
    peer.refuse(2)
    assert refusal(peer.completed, DownlinkRxStatusComplete(op_id=op_id)) == (
        71,
        f"dlRxStatCmp {op_id} completes an operation that is not open",
    )


def test_a_completion_of_the_wrong_type_is_refused():
    peer = opened(1)
    peer.answer(DownlinkRxStatusResponse(op_id=1))
    assert refusal(peer.completed, UplinkDataComplete(op_id=1)) == (
        71,
        "ulDataCmp 1 completes a dlRxStat",
    )
    assert peer.completed(DownlinkRxStatusComplete(op_id=1)) == at(RX_STATUS, 1)


def test_a_completion_from_an_earlier_connection_may_come_late():
    peer = PeerOperations(BS, resumed_through=9)
    assert peer.completed(UplinkDataComplete(op_id=9)) is None
    assert peer.completed(UplinkDataComplete(op_id=1)) is None
    assert refusal(peer.completed, UplinkDataComplete(op_id=10))[0] == 71
    assert refusal(peer.completed, UplinkDataComplete(op_id=-9))[0] == 71


def test_a_peer_that_never_completes_costs_a_bounded_memory():
    peer = PeerOperations(SC)
    for op_id in range(-1, -MAX_INCOMPLETE - 11, -1):
        peer.open(at(DETACH, op_id))
        peer.answer(DetachPropagateResponse(op_id=op_id))
    # The ten oldest are forgotten: their completion, should it come after all, says nothing.
    completion = MESSAGES["detPrpCmp"]
    assert peer.completed(completion(op_id=-10)) is None
    assert peer.completed(completion(op_id=-11)) == at(DETACH, -11)


def test_a_peer_whose_operations_are_all_refused_costs_a_bounded_memory():
    peer = PeerOperations(BS)
    for op_id in range(1, MAX_INCOMPLETE + 11):
        peer.open(at(UPLINK, op_id))
        peer.refuse(op_id)
    assert refusal(peer.open, at(UPLINK, 10))[0] == 71
    assert peer.open(at(UPLINK, 11))


def test_an_error_of_the_peer_ends_what_it_asked():
    peer = opened(1)
    assert [peer.ended(1), peer.ended(1), peer.ended(7)] == [at(RX_STATUS, 1), None, None]


def test_an_error_of_the_peer_ends_what_we_answered():
    peer = opened(1)
    peer.answer(DownlinkRxStatusResponse(op_id=1))
    assert [peer.ended(1), peer.ended(1)] == [at(RX_STATUS, 1), None]


def test_an_answer_to_what_was_withdrawn_comes_late_and_is_not_sent():
    peer = opened(1, 2)
    peer.ended(1)
    peer.ended(2)
    assert peer.answer(DownlinkRxStatusResponse(op_id=1)) is False
    assert peer.refuse(2) is False
    with pytest.raises(LocalProtocolError):
        peer.answer(DownlinkRxStatusResponse(op_id=1))


def test_a_peer_that_withdraws_everything_costs_a_bounded_memory():
    peer = PeerOperations(BS)
    for op_id in range(1, MAX_INCOMPLETE + 2):
        peer.open(at(UPLINK, op_id))
        peer.ended(op_id)
    with pytest.raises(LocalProtocolError):
        peer.refuse(1)
    assert peer.refuse(2) is False


@given(st.lists(st.integers(-3, 40), max_size=40), st.integers(0, 20))
def test_no_id_is_taken_twice_but_what_was_resumed(op_ids, resumed_through):
    peer = PeerOperations(BS, resumed_through=resumed_through)
    taken = []
    for op_id in op_ids:
        try:
            reissued = peer.open(at(UPLINK, op_id))
        except InvalidMessageError:
            continue
        assert reissued is (op_id <= resumed_through)
        taken.append(op_id)
    new = [op_id for op_id in taken if op_id > resumed_through]
    assert len(set(taken)) == len(taken)
    assert new == sorted(new)
    assert all(op_id > 0 for op_id in taken)
