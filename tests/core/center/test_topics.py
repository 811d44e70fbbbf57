from __future__ import annotations

import json
from typing import Any

import pytest

from bssci.core.center.receptions import Heard, Reception, Report, Sighting, Telegram
from bssci.core.center.registry import BaseStation
from bssci.core.center.topics import (
    MAX_BASE_TOPIC,
    MAX_CONFIG,
    Publication,
    Topics,
    report_body,
    sightings_of,
    status_fields,
    uplink_body,
)
from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.messages import StatusResponse, Subpackets, UplinkData, VmUplinkData

SENSOR = 0xFCA84A030000127C
AVA, DIEHL = 0x70B3D59CD0000951, 0x000732000077E21D
RX_TIME = 1_756_476_361_123_456_789
NOW = 1_756_476_362_500_000_000


def heard(bs_eui=AVA, corrected: int | None = None, **changes) -> Heard:
    told: dict[str, Any] = {
        "ep_eui": SENSOR,
        "rx_time": RX_TIME,
        "packet_cnt": 390,
        "snr": 12.5,
        "rssi": -98.25,
        "user_data": b"\x00\x7f\xff",
        "dl_open": False,
        "response_exp": False,
        "dl_ack": False,
    }
    return Heard(Reception(1, bs_eui, NOW, b"", UplinkData(**(told | changes)), b""), corrected)


def telegram(*receptions: Heard, counter_reused=False) -> Telegram:
    return Telegram(
        ep_eui=SENSOR,
        packet_cnt=390,
        digest=bytes(16),
        counter_reused=counter_reused,
        receptions=receptions,
        received_ns=NOW,
        row=1,
    )


def station(**changes) -> BaseStation:
    told: dict[str, Any] = {
        "eui": DIEHL,
        "is_connected": True,
        "since_ns": NOW,
        "address": "192.0.2.1",
        "name": "roof",
        "vendor": "Diehl Metering",
        "model": "MIOTY Premium Gateway",
        "sw_version": "4.10.2",
        "bidi": True,
        "position": None,
        "uplinks": 0,
        "clock_offset_ns": None,
        "status": None,
        "status_ns": None,
    }
    return BaseStation(**(told | changes))


# --- uplinks -------------------------------------------------------------------------------


def test_an_uplink_says_all_that_is_known_and_nothing_else():
    told = telegram(heard(), heard(DIEHL, snr=3.0, rssi=-110.0))
    assert uplink_body(told, uid="5f0c-17", registered=True) == (
        '{"bs_eui":"70B3D59CD0000951","rxTime":1756476361123456789,"snr":12.5,"rssi":-98.25,'
        '"cnt":390,"data":[0,127,255],"id":"5f0c-17","format":0,"dlOpen":false,'
        '"responseExp":false,"dlAck":false,"receptions":['
        '{"bs_eui":"70B3D59CD0000951","rxTime":1756476361123456789,"snr":12.5,"rssi":-98.25},'
        '{"bs_eui":"000732000077E21D","rxTime":1756476361123456789,"snr":3.0,"rssi":-110.0}],'
        '"registered":true}'
    )


def test_an_uplink_with_everything():
    best = heard(
        corrected=RX_TIME + 39_000,
        eq_snr=14.125,
        profile="eu868",
        mode="ulp",
        rx_duration=4_867_321_436,
        format=192,
        dl_open=True,
        response_exp=True,
        dl_ack=True,
    )
    body = uplink_body(telegram(best, counter_reused=True), uid="x", registered=False)
    assert json.loads(body) == {
        "bs_eui": "70B3D59CD0000951",
        "rxTime": RX_TIME,
        "snr": 12.5,
        "rssi": -98.25,
        "cnt": 390,
        "data": [0, 127, 255],
        "id": "x",
        "format": 192,
        "dlOpen": True,
        "responseExp": True,
        "dlAck": True,
        "eqSnr": 14.125,
        "profile": "eu868",
        "mode": "ulp",
        "rxDuration": 4_867_321_436,
        "rxTimeCorrected": RX_TIME + 39_000,
        "receptions": [
            {
                "bs_eui": "70B3D59CD0000951",
                "rxTime": RX_TIME,
                "snr": 12.5,
                "rssi": -98.25,
                "eqSnr": 14.125,
                "rxTimeCorrected": RX_TIME + 39_000,
            }
        ],
        "counterReused": True,
        "registered": False,
    }


def test_zeros_that_stand_for_unknown_are_left_out():
    zeros = heard(eq_snr=0.0, rx_duration=0, user_data=b"")
    body = json.loads(uplink_body(telegram(zeros), uid="x", registered=True))
    assert {
        "eqSnr",
        "profile",
        "mode",
        "rxDuration",
        "rxTimeCorrected",
        "counterReused",
    }.isdisjoint(body)
    assert body["data"] == []
    assert body["receptions"] == [
        {"bs_eui": "70B3D59CD0000951", "rxTime": RX_TIME, "snr": 12.5, "rssi": -98.25}
    ]


def test_a_body_is_plain_ascii_whatever_a_base_station_calls_its_profile():
    strange = heard(profile='"\x1eé\ud800')
    body = uplink_body(telegram(strange), uid="x", registered=True)
    assert body.isascii()
    assert "\x1e" not in body
    assert json.loads(body)["profile"] == '"\x1eé\ud800'


def test_the_receptions_of_a_stored_uplink_are_read_again():
    body = uplink_body(
        telegram(heard(corrected=RX_TIME + 5), heard(DIEHL)), uid="", registered=True
    )
    assert sightings_of(body) == [
        Sighting(AVA, RX_TIME, RX_TIME + 5),
        Sighting(DIEHL, RX_TIME, None),
    ]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"receptions":5}',
        '{"receptions":[5]}',
        '{"receptions":["text"]}',
        '{"receptions":[{"bs_eui":"70B3D59CD0000951"}]}',
        '{"receptions":[{"bs_eui":"70B3D59CD000095","rxTime":1}]}',
        '{"receptions":[{"bs_eui":null,"rxTime":1}]}',
        '{"receptions":[{"bs_eui":"70B3D59CD0000951","rxTime":"now"}]}',
        '{"receptions":[{"bs_eui":"70B3D59CD0000951","rxTime":1.5}]}',
        '{"receptions":[{"bs_eui":"70B3D59CD0000951","rxTime":1,"rxTimeCorrected":"x"}]}',
    ],
)
def test_a_damaged_body_is_told_apart(body):
    with pytest.raises(StorageError, match="a stored uplink cannot be read") as caught:
        sightings_of(body)
    assert caught.value.code == 5


# --- base stations and the service ---------------------------------------------------------


def test_a_status_with_everything():
    status = StatusResponse(
        code=0,
        message="ok",
        time=RX_TIME,
        duty_cycle=0.25,
        geo_location=(49.5, 11.0, 300.0),
        uptime=1_712_477,
        temp=47.0,
        cpu_load=4.9136,
        mem_load=0.1336,
    )
    assert Topics("mioty").station_status(DIEHL, status, clock_offset_ns=-2_749_514_000) == (
        Publication(
            "mioty/bs/000732000077E21D",
            '{"code":0,"memLoad":0.1336,"cpuLoad":4.9136,"dutyCycle":0.25,'
            '"time":1756476361123456789,"uptime":1712477,"temp":47.0,"message":"ok",'
            '"geoLocation":[49.5,11.0,300.0],"clockOffset":-2.749514}',
        )
    )


def test_a_status_says_null_for_what_was_always_there_and_leaves_out_the_rest():
    status = StatusResponse(
        code=1, message="", time=1_756_625_812_082_000, duty_cycle=0.1, geo_location=(0.0, 0.0, 0.0)
    )
    assert status_fields(status, clock_offset_ns=None) == {
        "code": 1,
        "memLoad": None,
        "cpuLoad": None,
        "dutyCycle": 0.1,
        "time": 1_756_625_812_082_000_000,
        "uptime": None,
    }


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"power": 14, "channels": [1, 2]}, {"config": {"power": 14, "channels": [1, 2]}}),
        ("eu1", {"config": "eu1"}),
        ("x" * (MAX_CONFIG - 2), {"config": "x" * (MAX_CONFIG - 2)}),
        ("x" * (MAX_CONFIG - 1), {}),
    ],
)
def test_what_a_base_station_says_of_its_configuration_is_told_unless_it_is_too_long(config, told):
    status = StatusResponse(code=0, message="", time=5_000, duty_cycle=0.0, config=config)
    bare = StatusResponse(code=0, message="", time=5_000, duty_cycle=0.0)
    assert status_fields(status, clock_offset_ns=None) == (
        status_fields(bare, clock_offset_ns=None) | told
    )


def test_a_status_time_of_no_known_unit_stays_as_it_came():
    status = StatusResponse(code=0, message="", time=5_000, duty_cycle=0.0)
    assert status_fields(status, clock_offset_ns=0) == {
        "code": 0,
        "memLoad": None,
        "cpuLoad": None,
        "dutyCycle": 0.0,
        "time": 5_000,
        "uptime": None,
        "clockOffset": 0.0,
    }


def report(**changes) -> Report:
    told: dict[str, Any] = {
        "op_id": 7,
        "mac_type": 1,
        "user_data": b"\x2c\xb4",
        "trx_time": 2_624_805_061_575_111,
        "sys_time": RX_TIME,
        "freq_off": 868_157_596.0,
        "snr": 23.5,
        "rssi": -68.25,
        "carr_space": 1,
        "patt_grp": 0,
        "patt_num": 2,
        "crc": (201, 4_294_967_295),
    }
    return Report(DIEHL, NOW, b"session", VmUplinkData(**(told | changes)))


def test_a_variable_mac_report_has_the_fields_of_its_message_by_their_own_names():
    assert report_body(report(), uid="5f0c-18") == (
        '{"bs_eui":"000732000077E21D","macType":1,"data":[44,180],"trxTime":2624805061575111,'
        '"sysTime":1756476361123456789,"freqOff":868157596.0,"snr":23.5,"rssi":-68.25,'
        '"carrSpace":1,"pattGrp":0,"pattNum":2,"crc":[201,4294967295],"id":"5f0c-18",'
        '"timestamp":1756476362.5}'
    )
    assert Topics("mioty/").report(DIEHL) == "mioty/bs/000732000077E21D/vm"


def test_a_variable_mac_report_says_what_its_base_station_knows_besides():
    subpackets = Subpackets(snr=(1.5,), rssi=(-90.0,), frequency=(868_000_000.5,))
    known = {
        "eqSnr": 8.5,
        "subpackets": {"snr": [1.5], "rssi": [-90.0], "frequency": [868e6 + 0.5]},
    }
    bare = json.loads(report_body(report(), uid="x"))
    assert json.loads(report_body(report(eq_snr=8.5, subpackets=subpackets), uid="x")) == (
        bare | known
    )


def test_the_state_of_a_base_station_is_retained():
    topics = Topics("mioty")
    assert topics.station_state(station()) == Publication(
        "mioty/bs/000732000077E21D/state",
        '{"state":"online","since":1756476362.5,"name":"roof",'
        '"model":"MIOTY Premium Gateway","version":"4.10.2"}',
        retain=True,
    )
    nameless = station(is_connected=False, name=None, model=None, sw_version=None)
    assert topics.station_state(nameless).body == (
        '{"state":"offline","since":1756476362.5,"name":null,"model":null,"version":null}'
    )


def test_the_state_of_the_service_is_retained():
    topics = Topics("mioty")
    assert [
        topics.service_state(is_online=is_online, version="0.1.0", now_ns=NOW)
        for is_online in (True, False)
    ] == [
        Publication(
            "mioty/state",
            f'{{"state":"{state}","version":"0.1.0","timestamp":1756476362.5}}',
            retain=True,
        )
        for state in ("online", "offline")
    ]


def test_the_state_tells_when_a_certificate_expires_where_that_is_known():
    summary: dict[str, object] = {"expires_in_days": 6, "alarm": 7}
    said = Topics("mioty").service_state(
        is_online=True, version="0.1.0", now_ns=NOW, certificates=summary
    )
    assert json.loads(said.body) == {
        "state": "online",
        "version": "0.1.0",
        "timestamp": 1756476362.5,
        "certificates": summary,
    }


def test_the_health_check_says_alive():
    assert Topics("a/b").health_check(now_ns=NOW) == Publication(
        "a/b/health_check", '{"status":"alive","timestamp":1756476362.5}'
    )


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["mioty", "mioty/", "mioty//"])
def test_a_trailing_slash_of_the_base_topic_is_ignored(base):
    assert Topics(base).uplink(SENSOR) == "mioty/ep/FCA84A030000127C/ul"


def test_a_command_is_answered_where_it_came_from():
    topics = Topics("mioty/")
    assert topics.responses(SENSOR, via_legacy=False) == ("mioty/ep/FCA84A030000127C/response",)
    assert topics.responses(SENSOR, via_legacy=True) == (
        "mioty/ep/FCA84A030000127C/response",
        "EP/FCA84A030000127C/response",
    )


def test_an_error_is_said_where_the_message_came_from():
    topics = Topics("mioty/")
    assert topics.errors("sensor 7", via_legacy=False) == ("mioty/ep/sensor 7/error",)
    assert topics.errors("sensor 7", via_legacy=True) == (
        "mioty/ep/sensor 7/error",
        "EP/sensor 7/response",
    )


def test_results_of_downlinks_are_told_below_the_downlinks():
    assert Topics("mioty/").downlink_status("sensor 7") == "mioty/ep/sensor 7/dl/status"


def test_a_change_of_settings_is_answered_beside_the_settings():
    assert Topics("mioty").settings_response == "mioty/config/response"


@pytest.mark.parametrize(
    ("base", "fault"),
    [
        ("", "it is empty"),
        ("/", "it is empty"),
        ("$SYS", "belong to the broker"),
        ("a/+", "'\\+' cannot be part of a topic"),
        ("#", "'#' cannot be part of a topic"),
        ("a\0", "cannot be part of a topic"),
        ("ä" * (MAX_BASE_TOPIC // 2 + 1), "more than 1024 octets"),
    ],
)
def test_a_base_topic_that_no_broker_takes_is_refused(base, fault):
    with pytest.raises(ValueError, match=f"base topic .*{fault}"):
        Topics(base)
