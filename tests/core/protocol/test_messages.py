from dataclasses import FrozenInstanceError, fields, replace

import pytest

from bssci.core.protocol import messages
from bssci.core.protocol.messages import (
    MESSAGES,
    AttachPropagate,
    AttachResponse,
    DownlinkDataQueue,
    DownlinkDataResult,
    Message,
    Ping,
    Role,
    Subpackets,
    UplinkData,
    UplinkDataTransmit,
    VmDownlinkData,
    VmUplinkData,
)
from tests.core.protocol.samples import KEY, SAMPLES

# Every operation of BSSCI 1.0.0, 5, in its order, by who initiates it.
UP = ["con", "ping", "att", "det", "ulData", "dlDataRes", "dlRxStat", "vm.ulData"]
DOWN = ["status", "attPrp", "detPrp", "ulDataTx", "dlDataQue", "dlDataRev", "dlRxStatQry"]
DOWN += ["vm.activate", "vm.deactivate", "vm.status", "vm.dlData"]

BY_COMMAND = {message.command: message for _, message in SAMPLES}


def test_every_message_of_the_specification_is_declared_and_no_other():
    operations = {op + step for op in UP + DOWN for step in ("", "Rsp", "Cmp")}
    assert set(MESSAGES) == operations | {"error", "errorAck"}


def test_messages_are_in_the_order_of_the_specification():
    assert list(MESSAGES) == [message.command for _, message in SAMPLES]
    assert list(MESSAGES)[:6] == ["con", "conRsp", "conCmp", "ping", "pingRsp", "pingCmp"]


def test_every_message_has_a_name_that_can_be_imported():
    declared = {kind.__name__ for kind in MESSAGES.values()}
    assert declared <= set(messages.__all__)
    assert all(getattr(messages, kind.__name__) is kind for kind in MESSAGES.values())


@pytest.mark.parametrize("operation", [op for op in UP if op != "ping"])
def test_what_a_base_station_initiates_the_service_center_answers(operation):
    senders = [MESSAGES[operation + step].sender for step in ("", "Rsp", "Cmp")]
    assert senders == [Role.BASE_STATION, Role.SERVICE_CENTER, Role.BASE_STATION]


@pytest.mark.parametrize("operation", DOWN)
def test_what_the_service_center_initiates_a_base_station_answers(operation):
    senders = [MESSAGES[operation + step].sender for step in ("", "Rsp", "Cmp")]
    assert senders == [Role.SERVICE_CENTER, Role.BASE_STATION, Role.SERVICE_CENTER]


@pytest.mark.parametrize("command", ["ping", "pingRsp", "pingCmp", "error", "errorAck"])
def test_pings_and_errors_go_both_ways(command):
    assert MESSAGES[command].sender is None


def test_each_role_is_the_others_peer():
    assert Role.BASE_STATION.peer is Role.SERVICE_CENTER
    assert Role.SERVICE_CENTER.peer is Role.BASE_STATION


def test_messages_with_the_same_content_are_equal():
    assert Ping(op_id=1) == Ping(op_id=1) != Ping(op_id=2)


@pytest.mark.parametrize("message", [message for _, message in SAMPLES])
def test_a_message_is_frozen(message):
    with pytest.raises(FrozenInstanceError):
        message.op_id = 9


@pytest.mark.parametrize(
    "message",
    [BY_COMMAND[kind.command] for kind in (AttachPropagate, AttachResponse, UplinkDataTransmit)],
)
def test_no_key_is_shown(message):
    assert message.nwk_sn_key == KEY
    assert "nwk_sn_key" not in repr(message)


def test_every_key_is_known_not_to_be_shown():
    holders = {
        kind
        for kind in MESSAGES.values()
        if any("key" in field.name for field in fields(kind) if field.repr)
    }
    assert holders == set()


@pytest.mark.parametrize("message", [message for _, message in SAMPLES])
def test_a_message_as_the_specification_writes_it_breaks_no_rule(message):
    assert message.broken_rule() is None


def changed(command: str, **fields: object) -> Message:
    return replace(BY_COMMAND[command], **fields)  # type: ignore[arg-type]  # by design any


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (
            changed("ulData", dl_open=False, response_exp=True),
            "responseExp: true without dlOpen",
        ),
        (changed("ulData", dl_open=False, response_exp=False), None),
        (changed("ulData", dl_open=True, response_exp=False), None),
        (
            changed("dlDataQue", cnt_depend=True, packet_cnt=None),
            "packetCnt: missing, and cntDepend is true",
        ),
        (
            changed("dlDataQue", packet_cnt=(1,)),
            "packetCnt: not as many as entries of userData",
        ),
        (
            changed("dlDataQue", packet_cnt=(), user_data=()),
            "userData: no entry",
        ),
        (
            changed("dlDataQue", cnt_depend=False),
            "packetCnt: given, but cntDepend is false",
        ),
        (
            changed("dlDataQue", cnt_depend=False, packet_cnt=None),
            "userData: exactly one entry without cntDepend",
        ),
        (
            changed("dlDataQue", cnt_depend=False, packet_cnt=None, user_data=()),
            "userData: exactly one entry without cntDepend",
        ),
        (changed("dlDataQue", cnt_depend=False, packet_cnt=None, user_data=(b"",)), None),
        (
            changed("dlDataRes", tx_time=None),
            "txTime: missing, and the result is sent",
        ),
        (
            changed("dlDataRes", packet_cnt=None),
            "packetCnt: missing, and the result is sent",
        ),
        (changed("dlDataRes", result="expired", tx_time=0, packet_cnt=0), None),
        (changed("dlDataRes", result="invalid", tx_time=None, packet_cnt=None), None),
        (changed("vm.ulData", crc=(1,)), "crc: not two numbers"),
        (changed("vm.dlData", ul_crc=(1, 2, 3)), "ulCrc: not two numbers"),
    ],
)
def test_a_broken_rule_between_fields_is_named(message, rule):
    assert message.broken_rule() == rule


@pytest.mark.parametrize(
    ("lists", "rule"),
    [
        ({"snr": (1.0,), "rssi": (2.0,), "frequency": (3.0,)}, None),
        ({"snr": (1.0,), "rssi": (2.0,), "frequency": (3.0,), "phase": (4.0,)}, None),
        ({"snr": (), "rssi": (), "frequency": ()}, None),
        ({"snr": (1.0,), "rssi": (), "frequency": (3.0,)}, "the lists differ in length"),
        (
            {"snr": (1.0,), "rssi": (2.0,), "frequency": (3.0,), "phase": ()},
            "the lists differ in length",
        ),
    ],
)
def test_lists_of_subpackets_have_one_length(lists, rule):
    assert Subpackets(**lists).broken_rule() == rule


def test_what_is_left_out_has_the_default_of_the_specification():
    uplink = UplinkData(
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
    downlink = DownlinkDataQueue(ep_eui=1, que_id=2, cnt_depend=False, user_data=(b"",))
    assert (uplink.format, uplink.subpackets) == (0, None)
    assert (downlink.prio, downlink.response_exp, downlink.format) == (0.0, False, None)
    assert DownlinkDataResult(ep_eui=1, que_id=2, result="expired").tx_time is None
    assert next(f.default for f in fields(VmDownlinkData) if f.name == "tsi") == 128
    assert VmUplinkData.sender is Role.BASE_STATION
