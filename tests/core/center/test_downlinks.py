from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.downlinks import (
    MAX_LIFETIME,
    PARAMETERS,
    Downlink,
    DownlinkRecord,
    Ending,
    InvalidDownlinkError,
    downlink_of,
    downlink_shape,
    event_data,
    message_of,
)
from bssci.core.protocol.codec import decode, encode
from bssci.core.protocol.messages import DownlinkDataQueue

SENSOR = 0xFCA84A0300001234
AVA, DIEHL = 0x70B3D59CD0000951, 0x000732000077E21D
NOW = 1_703_123_456_789_000_000
SECOND = 1_000_000_000
DAY = 86_400 * SECOND
KEY = "00112233445566778899AABBCCDDEEFF"


def read(**parameters: object) -> Downlink:
    return downlink_of(parameters, ep_eui=SENSOR, que_id=17, now_ns=NOW, lifetime_ns=DAY)


def plain(**changes: Any) -> Downlink:
    """The downlink that says 01 02 and nothing else."""
    known: dict[str, Any] = {"que_id": 17, "ep_eui": SENSOR, "user_data": (b"\x01\x02",)}
    return Downlink(**(known | {"created_ns": NOW, "expires_ns": NOW + DAY} | changes))


def faults(**parameters: object) -> str:
    with pytest.raises(InvalidDownlinkError) as caught:
        read(**parameters)
    return str(caught.value)


# --- its state ---

SENT = Ending(result="sent", at_ns=NOW + SECOND, bs_eui=AVA, tx_time=NOW, packet_cnt=8)


@pytest.mark.parametrize(
    ("record", "state"),
    [
        (DownlinkRecord(downlink=plain()), "queued"),
        (DownlinkRecord(downlink=plain(), holder=AVA), "queued"),
        (DownlinkRecord(downlink=plain(), holder=AVA, is_queued=True), "at_station"),
        (
            DownlinkRecord(downlink=plain(), holder=AVA, is_queued=True, intent="revoke"),
            "at_station",
        ),
        (DownlinkRecord(downlink=plain(), ending=SENT), "sent"),
        (DownlinkRecord(downlink=plain(), ending=SENT, acknowledged_ns=NOW), "acknowledged"),
        (
            DownlinkRecord(
                downlink=plain(), holder=AVA, ending=Ending(result="expired", at_ns=NOW)
            ),
            "expired",
        ),
    ],
)
def test_a_state_is_where_it_is_or_how_it_ended(record, state):
    assert record.state == state


def test_what_is_said_is_not_shown_to_everybody():
    assert "user_data" not in repr(DownlinkRecord(downlink=plain()))


# --- reading what comes from outside ---


@pytest.mark.parametrize("data", ["0102", "0x01:02", [1, 2]])
def test_a_downlink_is_at_least_its_data(data):
    assert read(data=data) == plain()


@pytest.mark.parametrize("data", ["", []])
def test_an_acknowledgement_alone_is_one_empty_entry(data):
    assert read(data=data) == plain(user_data=(b"",))


def test_entries_are_each_for_the_window_of_one_uplink():
    entries = [{"cnt": 9, "data": "01"}, {"cnt": 8, "data": []}]
    assert read(entries=entries) == plain(user_data=(b"\x01", b""), packet_cnt=(9, 8))


WHOLE = plain(
    ref="valve 3",
    prio=2.5,
    format=7,
    response_exp=True,
    response_prio=True,
    dl_wind_req=True,
    exp_only=True,
    query_rx=True,
    expires_ns=NOW + 90 * SECOND,
)


def test_every_parameter_has_the_name_of_methods_and_that_of_mqtt():
    methods = {
        "data": "0102",
        "ref": "valve 3",
        "prio": 2.5,
        "format": 7,
        "response_exp": True,
        "response_prio": True,
        "dl_wind_req": True,
        "exp_only": True,
        "query_rx": True,
        "expires_in": 90,
    }
    mqtt = {
        "data": "0102",
        "ref": "valve 3",
        "prio": 2.5,
        "format": 7,
        "responseExp": True,
        "responsePrio": True,
        "dlWindReq": True,
        "expOnly": True,
        "queryRx": True,
        "expires_in": 90,
    }
    assert [read(**methods), read(**mqtt)] == [WHOLE, WHOLE]
    assert {*methods, "entries"} == set(PARAMETERS)


def test_null_stands_for_what_is_not_given():
    assert read(**dict.fromkeys(PARAMETERS) | {"data": "0102"}) == plain()


@pytest.mark.parametrize(
    ("parameters", "changes"),
    [
        ({"ref": ""}, {"ref": ""}),
        ({"ref": 0}, {"ref": 0}),
        ({"ref": 1.5}, {"ref": 1.5}),
        ({"prio": -3}, {"prio": -3.0}),
        ({"prio": 3.4e38}, {"prio": 3.4e38}),
        ({"format": 0}, {"format": 0}),
        ({"format": 255}, {"format": 255}),
        ({"exp_only": 1, "query_rx": 0}, {"exp_only": True}),
        ({"expires_in": 0.25}, {"expires_ns": NOW + SECOND // 4}),
        ({"expires_in": MAX_LIFETIME}, {"expires_ns": NOW + 30 * DAY}),
    ],
)
def test_what_is_just_possible_is_taken(parameters, changes):
    assert read(data="0102", **parameters) == plain(**changes)


SINGLE = "a number of single precision is expected"
LIFETIME = "seconds above 0 and at most 2592000 are expected"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "data is missing, or entries"),
        ({"data": None}, "data is missing, or entries"),
        (
            {"data": "01", "entries": [{"cnt": 1, "data": ""}]},
            "data and entries are both given, one of them is expected",
        ),
        ({"data": "01x"}, "data: 1 of its characters are no hexadecimal digits"),
        ({"data": [0] * 201}, "data: has 201 bytes, at most 200 are possible"),
        ({"entries": []}, "entries: has 0, 1 to 64 are expected"),
        ({"data": "", "ref": True}, "ref: found true, a text or a number is expected"),
        ({"data": "", "ref": "x" * 129}, "ref: has 129 characters, at most 128 are possible"),
        ({"data": "", "prio": "high"}, f"prio: found 'high', {SINGLE}"),
        ({"data": "", "prio": True}, f"prio: found true, {SINGLE}"),
        ({"data": "", "prio": float("nan")}, f"prio: found nan, {SINGLE}"),
        ({"data": "", "prio": 3.5e38}, f"prio: found a huge number, {SINGLE}"),
        ({"data": "", "prio": -(10**400)}, f"prio: found a huge number, {SINGLE}"),
        ({"data": "", "format": 256}, "format: found 256, a number from 0 to 255 is expected"),
        ({"data": "", "format": -1}, "format: found -1, a number from 0 to 255 is expected"),
        ({"data": "", "format": True}, "format: found true, a number from 0 to 255 is expected"),
        ({"data": "", "expOnly": "yes"}, "expOnly: found 'yes', true or false is expected"),
        ({"data": "", "exp_only": 2}, "exp_only: found 2, true or false is expected"),
        ({"data": "", "expires_in": 0}, f"expires_in: found 0, {LIFETIME}"),
        ({"data": "", "expires_in": 2592000.5}, f"expires_in: found 2592000.5, {LIFETIME}"),
        ({"data": "", "expires_in": True}, f"expires_in: found true, {LIFETIME}"),
        ({"data": "", "expires_in": float("nan")}, f"expires_in: found nan, {LIFETIME}"),
        ({"data": "", "expires_in": "1h"}, f"expires_in: found '1h', {LIFETIME}"),
        ({"data": "", "priority": 1}, "'priority' is no parameter of a downlink"),
        ({"data": "", "eui": "FCA84A0300001234"}, "'eui' is no parameter of a downlink"),
        ({"data": "", KEY: 1}, "**** is no parameter of a downlink"),
        (
            {"data": "", "expOnly": True, "exp_only": True},
            "exp_only is given twice, also as expOnly",
        ),
        ({"data": "", "Exp Only": 5}, "'Exp Only': found 5, true or false is expected"),
    ],
)
def test_what_is_no_downlink_is_told_what_was_found(parameters, words):
    assert faults(**parameters) == words


def test_everything_that_is_wrong_is_told_at_once():
    assert faults(data="1", prio="x", window=True, format=KEY) == (
        "data: has 1 hexadecimal digits, two a byte are expected; "
        "prio: found 'x', a number of single precision is expected; "
        "'window' is no parameter of a downlink; "
        "format: found ****, a number from 0 to 255 is expected"
    )


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
entries = st.lists(
    st.fixed_dictionaries({"cnt": st.integers(-1, 2**32), "data": st.binary(max_size=3).map(list)}),
    max_size=3,
)
values = scalars | st.just(KEY) | st.lists(st.integers(-1, 256), max_size=3) | entries
names = st.sampled_from([*PARAMETERS, "responseExp", KEY]) | st.text(max_size=5)


@given(st.dictionaries(names, values))
def test_whatever_is_given_is_a_message_or_refused_without_a_word_of_a_key(parameters):
    words = ""
    try:
        downlink = read(**parameters)
    except InvalidDownlinkError as error:
        words = str(error)
    else:
        message = replace(message_of(downlink), op_id=-1)
        sent = decode(encode(message))
        assert isinstance(sent, DownlinkDataQueue)
        # Only the priority loses something: on the wire it has single precision.
        assert replace(sent, prio=message.prio) == message
        words = json.dumps(downlink_shape(DownlinkRecord(downlink=replace(downlink, ref=None))))
    assert words
    assert KEY not in words


# --- what base stations are told ---


def test_an_acknowledgement_alone_is_queued_as_one_empty_entry():
    message = message_of(plain(user_data=(b"",)))
    assert message == DownlinkDataQueue(
        ep_eui=SENSOR, que_id=17, cnt_depend=False, user_data=(b"",)
    )
    # userData: an array of one array of nothing
    assert b"\xa8userData\x91\x90" in encode(replace(message, op_id=-1))


def test_a_base_station_is_told_every_flag():
    assert message_of(WHOLE) == DownlinkDataQueue(
        ep_eui=SENSOR,
        que_id=17,
        cnt_depend=False,
        user_data=(b"\x01\x02",),
        format=7,
        prio=2.5,
        response_exp=True,
        response_prio=True,
        dl_wind_req=True,
        exp_only=True,
    )


def test_entries_depend_on_the_counter():
    assert message_of(plain(user_data=(b"\x01", b""), packet_cnt=(9, 8))) == DownlinkDataQueue(
        ep_eui=SENSOR,
        que_id=17,
        cnt_depend=True,
        packet_cnt=(9, 8),
        user_data=(b"\x01", b""),
    )


# --- showing ---

NOTHING_SPECIAL: dict[str, object] = {
    "prio": 0.0,
    "format": None,
    "response_exp": False,
    "response_prio": False,
    "dl_wind_req": False,
    "exp_only": False,
    "query_rx": False,
}


def test_a_downlink_that_waits_has_no_result():
    held = DownlinkRecord(downlink=plain(), holder=AVA, is_queued=True, intent="revoke")
    assert downlink_shape(held) == {
        "id": 17,
        "sensor_eui": "FCA84A0300001234",
        "ref": None,
        "state": "at_station",
        "bs_eui": "70B3D59CD0000951",
        "created": 1703123456.789,
        "expires": 1703209856.789,
        "result": None,
        "intent": "revoke",
        "data": [1, 2],
        "entries": None,
        **NOTHING_SPECIAL,
    }


def test_a_downlink_that_has_ended_tells_how():
    record = DownlinkRecord(
        downlink=replace(WHOLE, user_data=(b"\x01", b""), packet_cnt=(9, 8)),
        ending=SENT,
        acknowledged_ns=NOW + 2 * SECOND,
    )
    assert downlink_shape(record) == {
        "id": 17,
        "sensor_eui": "FCA84A0300001234",
        "ref": "valve 3",
        "state": "acknowledged",
        "bs_eui": "70B3D59CD0000951",
        "created": 1703123456.789,
        "expires": 1703123546.789,
        "result": {
            "result": "sent",
            "time": 1703123457.789,
            "bs_eui": "70B3D59CD0000951",
            "tx_time": 1703123456.789,
            "cnt": 8,
            "code": None,
            "message": "",
            "acknowledged": 1703123458.789,
        },
        "intent": "deliver",
        "data": None,
        "entries": [{"cnt": 9, "data": [1]}, {"cnt": 8, "data": []}],
        "prio": 2.5,
        "format": 7,
        "response_exp": True,
        "response_prio": True,
        "dl_wind_req": True,
        "exp_only": True,
        "query_rx": True,
    }


def test_a_downlink_that_was_nowhere_has_ended_nowhere():
    record = DownlinkRecord(downlink=plain(), ending=Ending(result="expired", at_ns=NOW))
    shape = downlink_shape(record)
    assert (shape["state"], shape["bs_eui"]) == ("expired", None)
    assert shape["result"] == {
        "result": "expired",
        "time": 1703123456.789,
        "bs_eui": None,
        "tx_time": None,
        "cnt": None,
        "code": None,
        "message": "",
        "acknowledged": None,
    }


def test_what_is_shown_can_be_sent_again():
    shape = downlink_shape(DownlinkRecord(downlink=replace(WHOLE, expires_ns=NOW + DAY)))
    assert read(**{name: shape[name] for name in PARAMETERS if name in shape}) == replace(
        WHOLE, expires_ns=NOW + DAY
    )


# --- for watchers ---


def test_watchers_are_told_each_state():
    queued = DownlinkRecord(downlink=WHOLE)
    refused = Ending(result="rejected", at_ns=NOW, bs_eui=DIEHL, code=28, message="full")
    head = {"id": 17, "eui": "FCA84A0300001234", "ref": "valve 3"}
    assert [
        event_data(queued, "queued"),
        event_data(replace(queued, holder=AVA), "at_station"),
        event_data(replace(queued, ending=SENT), "sent"),
        event_data(replace(queued, ending=refused), "rejected"),
    ] == [
        {**head, "event": "queued"},
        {**head, "event": "at_station", "bs_eui": "70B3D59CD0000951"},
        {
            **head,
            "event": "sent",
            "bs_eui": "70B3D59CD0000951",
            "tx_time": 1703123456.789,
            "cnt": 8,
        },
        {
            **head,
            "event": "rejected",
            "bs_eui": "000732000077E21D",
            "code": 28,
            "message": "full",
        },
    ]
