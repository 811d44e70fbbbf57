from dataclasses import replace
from typing import Any

import pytest

from bssci.core.protocol.messages import (
    Attach,
    AttachPropagateResponse,
    AttachResponse,
    Detach,
    DetachPropagate,
    DetachPropagateResponse,
    DownlinkDataQueueResponse,
    DownlinkDataResult,
    DownlinkDataRevoke,
    DownlinkDataRevokeResponse,
    DownlinkRxStatus,
    DownlinkRxStatusQuery,
    DownlinkRxStatusQueryResponse,
    Message,
    UplinkDataTransmit,
    VmActivate,
    VmActivateResponse,
    VmDeactivate,
    VmDeactivateResponse,
    VmStatus,
    VmStatusResponse,
)
from bssci.core.runtime import holdings as module
from bssci.core.runtime.holdings import Holdings
from bssci.core.runtime.station_events import Attached, Detached, Offline, Online, Request
from tests.fakes import (
    EP_EUI,
    FakeLine,
    attach_propagate,
    connect_response,
    downlink,
    uplink,
)

ATTACH = attach_propagate()


def ask(holdings: Holdings, message: Message, *, reissued: bool = False) -> Message | int:
    """The response to a request, or the error it is refused with."""
    line = FakeLine()
    holdings(Request(message, reissued=reissued, link=line))
    [answer] = line.answers
    return answer if isinstance(answer, Message) else answer[1]


@pytest.fixture
def holdings():
    found = Holdings()
    assert ask(found, ATTACH) == AttachPropagateResponse()
    return found


def test_a_plain_station_serves_end_points_until_they_are_detached(holdings):
    assert holdings.end_points == {EP_EUI: ATTACH}
    assert ask(holdings, downlink(1)) == DownlinkDataQueueResponse()
    assert ask(holdings, DetachPropagate(ep_eui=EP_EUI)) == DetachPropagateResponse()
    assert (holdings.end_points, holdings.downlinks) == ({}, {})
    assert ask(holdings, DetachPropagate(ep_eui=EP_EUI)) == DetachPropagateResponse()


def test_a_repeated_attach_propagate_drops_the_queued_downlinks(holdings):
    ask(holdings, downlink(1))
    ask(holdings, ATTACH)
    assert (holdings.end_points, holdings.downlinks) == ({EP_EUI: ATTACH}, {})


def test_a_new_session_makes_a_plain_station_forget_and_a_resumed_one_does_not(holdings):
    ask(holdings, downlink(1))
    holdings(Offline("", was_online=True))
    holdings(Online(resumed=True, response=connect_response()))
    assert list(holdings.downlinks[EP_EUI]) == [1]
    holdings(Online(resumed=False, response=connect_response()))
    assert (holdings.end_points, holdings.downlinks) == ({}, {})


def test_a_plain_station_queues_revokes_and_refuses_downlinks(holdings):
    answers = [
        ask(holdings, message)
        for message in (
            downlink(1),
            downlink(1, op_id=-9),
            downlink(1, user_data=(b"\x02",)),
            downlink(2, ep_eui=7),
            DownlinkDataRevoke(ep_eui=EP_EUI, que_id=1),
            DownlinkDataRevoke(ep_eui=EP_EUI, que_id=1),
            DownlinkDataRevoke(ep_eui=7, que_id=1),
        )
    ]
    queued = DownlinkDataQueueResponse(op_id=-9)
    assert answers == [
        replace(queued, op_id=0),
        queued,
        17,
        2,
        DownlinkDataRevokeResponse(),
        2,
        2,
    ]


def test_a_plain_station_has_bounds(holdings, monkeypatch):
    monkeypatch.setattr(module, "MAX_END_POINTS", 1)
    monkeypatch.setattr(module, "MAX_DOWNLINKS", 1)
    ask(holdings, downlink(1))
    assert ask(holdings, downlink(2)) == 28
    assert ask(holdings, attach_propagate(ep_eui=7)) == 28


def test_variable_mac_types_are_kept(holdings):
    answers = [
        ask(holdings, message)
        for message in (
            VmActivate(mac_type=9),
            VmActivate(mac_type=1),
            VmStatus(),
            VmDeactivate(mac_type=9),
            VmDeactivate(mac_type=9),
            VmStatus(),
        )
    ]
    assert answers == [
        VmActivateResponse(),
        VmActivateResponse(),
        VmStatusResponse(mac_types=(1, 9)),
        VmDeactivateResponse(),
        VmDeactivateResponse(),
        VmStatusResponse(mac_types=(1,)),
    ]


def test_a_plain_station_transmits_nothing_for_others(holdings):
    transmit = UplinkDataTransmit(
        ep_eui=EP_EUI, nwk_sn_key=bytes(16), sh_addr=1, packet_cnt=1, user_data=b""
    )
    assert ask(holdings, transmit) == 95


def sent(que_id: int, packet_cnt: int) -> DownlinkDataResult:
    return DownlinkDataResult(
        ep_eui=EP_EUI, que_id=que_id, result="sent", tx_time=99, packet_cnt=packet_cnt
    )


def test_a_window_carries_one_downlink_the_most_urgent_first(holdings):
    for message in (downlink(1), downlink(2, prio=1.0), downlink(3)):
        ask(holdings, message)
    windows = [
        holdings.open_window(uplink(number, dl_open=True), tx_time=99) for number in (1, 2, 3, 4)
    ]
    assert windows == [[sent(2, 1)], [sent(1, 2)], [sent(3, 3)], []]


def test_a_downlink_for_one_counter_goes_out_in_its_window_or_expires(holdings):
    ask(holdings, downlink(1, cnt_depend=True, packet_cnt=(5, 6), user_data=(b"a", b"b")))
    ask(holdings, downlink(2, cnt_depend=True, packet_cnt=(4,), user_data=(b"a",)))
    windows = [holdings.open_window(uplink(number, dl_open=True), tx_time=99) for number in (3, 6)]
    expired = DownlinkDataResult(ep_eui=EP_EUI, que_id=2, result="expired")
    assert windows == [[], [expired, sent(1, 6)]]


def test_a_downlink_that_is_only_for_who_expects_one_waits_for_that(holdings):
    ask(holdings, downlink(1, exp_only=True))
    assert holdings.open_window(uplink(1, dl_open=True), tx_time=99) == []
    expected = uplink(2, dl_open=True, response_exp=True)
    assert holdings.open_window(expected, tx_time=99) == [sent(1, 2)]


def test_the_reception_of_the_next_downlink_is_reported_when_asked_for(holdings):
    query = DownlinkRxStatusQuery(ep_eui=EP_EUI)
    assert ask(holdings, query) == DownlinkRxStatusQueryResponse()
    assert ask(holdings, DownlinkRxStatusQuery(ep_eui=7)) == 2
    ask(holdings, downlink(1))
    heard = DownlinkRxStatus(
        ep_eui=EP_EUI, rx_time=99, packet_cnt=1, dl_rx_snr=12.5, dl_rx_rssi=-98.25
    )
    assert holdings.open_window(uplink(1), tx_time=99) == [sent(1, 1), heard]
    ask(holdings, downlink(2))
    assert holdings.open_window(uplink(2), tx_time=99) == [sent(2, 2)]


def test_what_was_given_away_is_not_queued_again_when_it_is_issued_again(holdings):
    """The answer was lost with the connection, the downlink was not."""
    ask(holdings, downlink(1))
    assert [each.que_id for each in holdings.open_window(uplink(), tx_time=5)] == [1]
    assert ask(holdings, downlink(1), reissued=True) == DownlinkDataQueueResponse()
    assert holdings.open_window(uplink(), tx_time=6) == []
    assert ask(holdings, downlink(2), reissued=True) == DownlinkDataQueueResponse()
    assert [each.que_id for each in holdings.open_window(uplink(), tx_time=7)] == [2]


def test_what_was_given_away_is_remembered_within_bounds(holdings, monkeypatch):
    monkeypatch.setattr(module, "MAX_GIVEN", 1)
    for que_id in (1, 2):
        ask(holdings, downlink(que_id))
        holdings.open_window(uplink(), tx_time=5)
    ask(holdings, downlink(1), reissued=True)
    assert [*holdings.downlinks[EP_EUI]] == [1]


RADIO: dict[str, Any] = {"rx_time": 5, "snr": 1.0, "rssi": -90.0}


def test_what_attaches_over_the_air_is_served_with_the_key_of_the_answer(holdings):
    modes: dict[str, Any] = {
        "dual_chan": True,
        "repetition": True,
        "wide_carr_off": False,
        "long_blk_dist": True,
    }
    request = Attach(
        ep_eui=7, attach_cnt=1, nonce=b"nonc", sign=b"sign", sh_addr=0x1234, **RADIO, **modes
    )
    key = bytes(range(16))
    holdings(Attached(request, AttachResponse(nwk_sn_key=key)))
    told = replace(ATTACH, ep_eui=7, nwk_sn_key=key, sh_addr=0x1234, last_packet_cnt=0, **modes)
    assert holdings.end_points[7] == replace(told, bidi=True)
    holdings(Attached(request, AttachResponse(nwk_sn_key=key, sh_addr=0x4321)))
    assert holdings.end_points[7].sh_addr == 0x4321
    holdings(Detached(Detach(ep_eui=7, packet_cnt=1, sign=b"sign", **RADIO)))
    assert holdings.end_points == {EP_EUI: ATTACH}
