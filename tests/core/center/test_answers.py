from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.answers import MAX_ERROR, Answers
from bssci.core.center.commands import (
    Attach,
    ChangeSettings,
    Configure,
    Detach,
    Inbox,
    Malformed,
    MalformedDownlink,
    MalformedSettings,
    QueryStatus,
    SendDownlink,
)
from bssci.core.center.downlinks import (
    Downlink,
    DownlinkRecord,
    Ending,
    InvalidDownlinkError,
    downlink_of,
)
from bssci.core.center.end_points import EndPoint, InvalidEndPointError, end_point_of
from bssci.core.center.happenings import Happening
from bssci.core.center.records import Wish
from bssci.core.center.topics import Publication
from bssci.core.protocol.messages import DownlinkRxStatus

SENSOR = 0xFCA84A0300001234
AVA, DIEHL = 0x70B3D59CD0000951, 0x000732000077E21D
NOW = 1_703_123_456_789_000_000
HOUR = 3_600_000_000_000
KEY = "00112233445566778899AABBCCDDEEFF"

answers = Answers("mioty")
inbox = Inbox("mioty", legacy=True)


def happening(event, **changes) -> Happening:
    end_point = EndPoint(eui=SENSOR, nwk_key=bytes.fromhex(KEY), short_addr=0x1234)
    wish = Wish(end_point=end_point, wanted="attached", cause="mqtt", since_ns=0)
    told: dict[str, Any] = {"event": event, "at_ns": NOW, "wish": wish}
    return Happening(**(told | changes))


def both(body: str) -> list[Publication]:
    """A command that came on a topic of the earlier service is answered there, too."""
    return [
        Publication("mioty/ep/FCA84A0300001234/response", body),
        Publication("EP/FCA84A0300001234/response", body),
    ]


# --- the life of a sensor ---


def test_a_warning_has_the_fields_of_the_earlier_service():
    warning = happening(
        "warning", silent_ns=36 * HOUR + HOUR // 2, warn_ns=36 * HOUR, detach_ns=72 * HOUR
    )
    assert answers.happening(warning) == Publication(
        "mioty/ep/FCA84A0300001234/warning",
        '{"action":"inactivity_warning","sensor_eui":"FCA84A0300001234","inactive_hours":36.5,'
        '"hours_until_detach":35.5,"warning_threshold_hours":36.0,"detach_threshold_hours":72.0,'
        '"timestamp":1703123456.789}',
    )


def test_a_warning_that_comes_too_late_leaves_no_time():
    late = happening("warning", silent_ns=5 * HOUR, warn_ns=2 * HOUR, detach_ns=4 * HOUR)
    told = answers.happening(late)
    assert told is not None
    assert json.loads(told.body)["hours_until_detach"] == 0.0


def test_a_detach_for_inactivity_has_the_fields_of_the_earlier_service():
    silent = happening("auto_detached", silent_ns=72 * HOUR + HOUR // 3, detach_ns=72 * HOUR)
    assert answers.happening(silent) == Publication(
        "mioty/ep/FCA84A0300001234/status",
        '{"action":"auto_detached","sensor_eui":"FCA84A0300001234","reason":"inactivity",'
        '"inactive_hours":72.3,"threshold_hours":72.0,"timestamp":1703123456.789}',
    )


def test_that_a_wish_has_come_true_says_at_which_base_station():
    assert [
        answers.happening(happening("attached", bs_eui=AVA)),
        answers.happening(happening("detached", bs_eui=AVA)),
        answers.happening(happening("detached")),
    ] == [
        Publication(
            "mioty/ep/FCA84A0300001234/status",
            '{"action":"attached","sensor_eui":"FCA84A0300001234",'
            '"base_station_eui":"70B3D59CD0000951","timestamp":1703123456.789}',
        ),
        Publication(
            "mioty/ep/FCA84A0300001234/status",
            '{"action":"detached","sensor_eui":"FCA84A0300001234",'
            '"base_station_eui":"70B3D59CD0000951","timestamp":1703123456.789}',
        ),
        Publication(
            "mioty/ep/FCA84A0300001234/status",
            '{"action":"detached","sensor_eui":"FCA84A0300001234","timestamp":1703123456.789}',
        ),
    ]


def test_an_attach_that_failed_says_why():
    failed = happening("attach_failed", bs_eui=AVA, code=22, message="malformed \ud800")
    assert answers.happening(failed) == Publication(
        "mioty/ep/FCA84A0300001234/status",
        '{"action":"attach_failed","sensor_eui":"FCA84A0300001234",'
        '"base_station_eui":"70B3D59CD0000951","error":"malformed \\ud800","code":22,'
        '"timestamp":1703123456.789}',
    )


def test_a_base_station_that_says_nothing_has_refused_all_the_same():
    assert answers.happening(happening("attach_failed", code=110)) == Publication(
        "mioty/ep/FCA84A0300001234/status",
        '{"action":"attach_failed","sensor_eui":"FCA84A0300001234",'
        '"error":"a base station refuses it","code":110,"timestamp":1703123456.789}',
    )


@pytest.mark.parametrize(
    "event",
    [
        "added",
        "changed",
        "attach",
        "detach",
        "refused",
        "warning_withdrawn",
        "heard_detached",
        "removed",
    ],
)
def test_of_other_things_applications_are_told_nothing(event):
    assert answers.happening(happening(event)) is None


# --- commands ---


def test_a_command_is_answered_at_once_where_the_earlier_service_promised_to():
    detach = Detach(ep_eui=SENSOR, via_legacy=True)
    assert answers.received(detach, now_ns=NOW) == both(
        '{"command":"detach","status":"received","timestamp":1703123456.789}'
    )


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("night 7", '"night 7"'),
        (7, "7"),
        (1.5, "1.5"),
        ("", '""'),
        ('"\x1eü', '"\\"\\u001e\\u00fc"'),
    ],
)
def test_an_answer_is_marked_as_the_command_was(ref, said):
    attach = Attach(ep_eui=SENSOR, ref=ref)
    assert answers.received(attach, now_ns=NOW) == [
        Publication(
            "mioty/ep/FCA84A0300001234/response",
            f'{{"command":"attach","status":"received","ref":{said},"timestamp":1703123456.789}}',
        )
    ]


def test_a_command_ends_with_what_has_come_of_it():
    result = {
        "eui": "FCA84A0300001234",
        "confirmed": ["70B3D59CD0000951"],
        "pending": ["000732000077E21D"],
        "refused": [],
    }
    config = Configure(ep_eui=SENSOR, given={"nwKey": KEY}, ref="r")
    assert answers.finished(config, "pending", now_ns=NOW, result=result) == [
        Publication(
            "mioty/ep/FCA84A0300001234/response",
            '{"command":"config","status":"pending","ref":"r","sensor_eui":"FCA84A0300001234",'
            '"confirmed":["70B3D59CD0000951"],"pending":["000732000077E21D"],"refused":[],'
            '"timestamp":1703123456.789}',
        )
    ]


def test_a_command_that_came_to_nothing_says_why():
    detach = Detach(ep_eui=SENSOR, via_legacy=True)
    error = "sensor FCA84A0300001234 is not registered"
    assert answers.finished(detach, "error", now_ns=NOW, error=error) == both(
        '{"command":"detach","status":"error","sensor_eui":"FCA84A0300001234",'
        '"error":"sensor FCA84A0300001234 is not registered","timestamp":1703123456.789}'
    )


def test_how_it_is_with_a_sensor_ends_the_command_that_asks():
    query = QueryStatus(ep_eui=SENSOR, via_legacy=True)
    told = answers.status(
        query,
        now_ns=NOW,
        is_registered=True,
        base_stations=[AVA, DIEHL],
        last_seen_ns=NOW - HOUR,
        activity="active",
    )
    assert told == both(
        '{"command":"status","status":"ok","sensor_eui":"FCA84A0300001234","registered":true,'
        '"base_stations":["70B3D59CD0000951","000732000077E21D"],"last_seen":1703119856.789,'
        '"activity":"active","timestamp":1703123456.789}'
    )


def test_a_sensor_that_nobody_knows_has_a_status_too():
    told = answers.status(
        QueryStatus(ep_eui=SENSOR, ref=1),
        now_ns=NOW,
        is_registered=False,
        base_stations=(),
        last_seen_ns=None,
        activity="never_seen",
    )
    assert [each.body for each in told] == [
        '{"command":"status","status":"ok","ref":1,"sensor_eui":"FCA84A0300001234",'
        '"registered":false,"base_stations":[],"last_seen":null,"activity":"never_seen",'
        '"timestamp":1703123456.789}'
    ]


def test_a_status_tells_how_a_downlink_was_received_where_that_is_known():
    reception = {"bs_eui": "70B3D59CD0000951", "cnt": 7}
    told = answers.status(
        QueryStatus(ep_eui=SENSOR),
        now_ns=NOW,
        is_registered=True,
        base_stations=(),
        last_seen_ns=None,
        activity="active",
        reception=reception,
    )
    assert [json.loads(each.body)["downlink_reception"] for each in told] == [reception]


# --- downlinks ---

STATUS = "mioty/ep/FCA84A0300001234/dl/status"
SENT = Ending(
    result="sent", at_ns=NOW + 1_000_000_000, bs_eui=AVA, tx_time=1_703_123_457_000_000_123,
    packet_cnt=8,
)  # fmt: skip


def record(ref=None, **changes) -> DownlinkRecord:
    downlink = Downlink(
        que_id=17, ep_eui=SENSOR, user_data=(b"",), ref=ref, created_ns=NOW, expires_ns=NOW + HOUR
    )
    return DownlinkRecord(downlink=downlink, **changes)


def ended(result, **changes) -> DownlinkRecord:
    return record(ending=Ending(result=result, at_ns=NOW, **changes))


def test_a_downlink_that_is_queued_has_an_id_to_know_its_results_by():
    assert [answers.downlink(record(ref), "queued") for ref in (None, "valve 3", 0)] == [
        Publication(
            STATUS,
            f'{{"id":17,{marked}"result":"queued","sensor_eui":"FCA84A0300001234",'
            '"timestamp":1703123456.789}',
        )
        for marked in ("", '"ref":"valve 3",', '"ref":0,')
    ]


def test_that_a_base_station_has_it_is_no_result():
    assert answers.downlink(record(holder=AVA), "at_station") is None


def test_a_downlink_that_was_sent_tells_when_and_after_which_uplink():
    told = (
        '"sensor_eui":"FCA84A0300001234","bs_eui":"70B3D59CD0000951",'
        '"txTime":1703123457000000123,"cnt":8,'
    )
    sent = record("r", ending=SENT)
    acknowledged = record("r", ending=SENT, acknowledged_ns=NOW + HOUR)
    assert [
        answers.downlink(sent, "sent"),
        answers.downlink(acknowledged, "acknowledged"),
        answers.downlink(acknowledged, "sent"),
    ] == [
        Publication(
            STATUS, f'{{"id":17,"ref":"r","result":"sent",{told}"timestamp":1703123457.789}}'
        ),
        Publication(
            STATUS,
            f'{{"id":17,"ref":"r","result":"acknowledged",{told}"timestamp":1703127056.789}}',
        ),
        Publication(
            STATUS, f'{{"id":17,"ref":"r","result":"sent",{told}"timestamp":1703123457.789}}'
        ),
    ]


def test_a_result_that_was_told_too_early_is_overruled():
    assert answers.downlink(record(ending=SENT), "sent", overrules="revoked") == Publication(
        STATUS,
        '{"id":17,"result":"sent","sensor_eui":"FCA84A0300001234","bs_eui":"70B3D59CD0000951",'
        '"txTime":1703123457000000123,"cnt":8,"overrules":"revoked","timestamp":1703123457.789}',
    )


@pytest.mark.parametrize("result", ["expired", "invalid", "revoked", "rejected"])
def test_a_downlink_that_was_not_sent_tells_why_if_there_is_a_reason(result):
    head = f'{{"id":17,"result":"{result}","sensor_eui":"FCA84A0300001234",'
    assert [
        answers.downlink(ended(result), result),
        answers.downlink(ended(result, message="too late"), result),
        answers.downlink(ended(result, bs_eui=AVA, code=28, message="full"), result),
        answers.downlink(ended(result, bs_eui=AVA, code=28), result),
    ] == [
        Publication(STATUS, f'{head}"timestamp":1703123456.789}}'),
        Publication(STATUS, f'{head}"error":"too late","timestamp":1703123456.789}}'),
        Publication(
            STATUS,
            f'{head}"bs_eui":"70B3D59CD0000951","error":"full","code":28,'
            '"timestamp":1703123456.789}',
        ),
        Publication(
            STATUS,
            f'{head}"bs_eui":"70B3D59CD0000951","error":"a base station refuses it","code":28,'
            '"timestamp":1703123456.789}',
        ),
    ]


def test_what_does_not_become_a_downlink_is_rejected_without_an_id():
    order = SendDownlink(ep_eui=SENSOR, given={"data": "01"}, ref="r")
    error = "sensor FCA84A0300001234 cannot receive"
    assert [
        *answers.refused(order, error, now_ns=NOW),
        *answers.refused(order, "later", now_ns=NOW, code=11),
    ] == [
        Publication(
            STATUS,
            '{"id":null,"ref":"r","result":"rejected","sensor_eui":"FCA84A0300001234",'
            '"error":"sensor FCA84A0300001234 cannot receive","code":22,'
            '"timestamp":1703123456.789}',
        ),
        Publication(
            STATUS,
            '{"id":null,"ref":"r","result":"rejected","sensor_eui":"FCA84A0300001234",'
            '"error":"later","code":11,"timestamp":1703123456.789}',
        ),
    ]


def test_what_is_no_downlink_is_rejected_too():
    assert [
        *answer_to("mioty/ep/FCA84A0300001234/dl", b"C0FFEE"),
        *answer_to("mioty/ep/FCA84A03/dl", b"{}"),
        *answer_to("mioty/ep/FCA84A0300001234/dl", b'{"data":"C0F","ref":7}'),
    ] == [
        Publication(
            STATUS,
            '{"id":null,"result":"rejected","sensor_eui":"FCA84A0300001234","error":"no valid '
            'JSON: Expecting value at character 1, found \'C\'","code":22,'
            '"timestamp":1703123456.789}',
        ),
        Publication(
            "mioty/ep/FCA84A03/dl/status",
            '{"id":null,"result":"rejected","sensor_eui":null,"error":"\'FCA84A03\' is not an EUI: '
            '8 hexadecimal digits found, 16 expected","code":22,"timestamp":1703123456.789}',
        ),
        Publication(
            STATUS,
            '{"id":null,"ref":7,"result":"rejected","sensor_eui":"FCA84A0300001234","error":"data: '
            'has 3 hexadecimal digits, two a byte are expected","code":22,'
            '"timestamp":1703123456.789}',
        ),
    ]


def test_how_a_downlink_was_received_is_told_among_what_happens_to_the_sensor():
    report = DownlinkRxStatus(
        ep_eui=SENSOR,
        rx_time=1_703_123_456_000_000_789,
        packet_cnt=8,
        dl_rx_snr=12.5,
        dl_rx_rssi=-101.25,
    )
    assert answers.reception(AVA, report, now_ns=NOW) == Publication(
        "mioty/ep/FCA84A0300001234/status",
        '{"action":"downlink_reception","sensor_eui":"FCA84A0300001234",'
        '"base_station_eui":"70B3D59CD0000951","rxTime":1703123456000000789,"cnt":8,"snr":12.5,'
        '"rssi":-101.25,"timestamp":1703123456.789}',
    )


# --- errors ---


def answer_to(topic: str, payload: bytes) -> list[Publication]:
    """What is said to a message that can be followed by nobody, or else that it was received."""
    match inbox.parse(topic, payload):
        case Malformed() as malformed:
            return answers.malformed(malformed, now_ns=NOW)
        case Configure() as order:
            try:
                end_point_of(order.given, eui=order.ep_eui)
            except InvalidEndPointError as error:
                return answers.refused(order, str(error), now_ns=NOW)
            return answers.received(order, now_ns=NOW)
        case SendDownlink() as order:
            return [answer_to_downlink(order)]
        case ChangeSettings() as change:
            return answers.settings(change, "ok", now_ns=NOW)
        case None:
            return []
        case order:
            return answers.received(order, now_ns=NOW)


def answer_to_downlink(order: SendDownlink) -> Publication:
    try:
        downlink = downlink_of(
            order.given, ep_eui=order.ep_eui, que_id=17, now_ns=NOW, lifetime_ns=HOUR
        )
    except InvalidDownlinkError as error:
        [told] = answers.refused(order, str(error), now_ns=NOW)
        return told
    queued = answers.downlink(DownlinkRecord(downlink=downlink), "queued")
    assert queued is not None
    return queued


def test_the_key_of_the_earlier_readme_is_refused_without_being_repeated():
    payload = b"""{
      "nwKey": "0011223344556677889AABBCCDDEEFF00",
      "shortAddr": "1234",
      "bidi": false
    }"""
    assert answer_to("mioty/ep/FCA84A0300001234/config", payload) == [
        Publication(
            "mioty/ep/FCA84A0300001234/error",
            '{"error":"nwKey: the key has 33 hexadecimal digits, 32 are expected (16 bytes)",'
            '"code":22,"sensor_eui":"FCA84A0300001234","timestamp":1703123456.789}',
        )
    ]


def test_a_command_that_cannot_be_followed_is_told_so_on_both_topics():
    detach = Detach(ep_eui=SENSOR, ref=7, via_legacy=True)
    body = (
        '{"error":"sensor FCA84A0300001234 is not registered","code":2,'
        '"sensor_eui":"FCA84A0300001234","ref":7,"timestamp":1703123456.789}'
    )
    error = "sensor FCA84A0300001234 is not registered"
    assert answers.refused(detach, error, code=2, now_ns=NOW) == [
        Publication("mioty/ep/FCA84A0300001234/error", body),
        Publication("EP/FCA84A0300001234/response", body),
    ]


def test_a_message_that_asks_for_nothing_is_told_what_was_found():
    assert [
        *answer_to("mioty/ep/FCA84A0300001234/cmd", b'{"action":"reboot","ref":"r"}'),
        *answer_to("mioty/ep/FCA84A030000123/config", b"{}"),
        *answer_to("mioty/config", b'{"timeout":1,"ref":2}'),
    ] == [
        Publication(
            "mioty/ep/FCA84A0300001234/error",
            '{"error":"\'reboot\' is no command: attach, detach or status is expected","code":22,'
            '"sensor_eui":"FCA84A0300001234","ref":"r","timestamp":1703123456.789}',
        ),
        Publication(
            "mioty/ep/FCA84A030000123/error",
            '{"error":"\'FCA84A030000123\' is not an EUI: 15 hexadecimal digits found, 16 '
            'expected","code":22,"sensor_eui":null,"timestamp":1703123456.789}',
        ),
        Publication(
            "mioty/config/response",
            '{"command":"config","status":"error","ref":2,"error":"\'timeout\' is no setting: a '
            'key of sc.toml like auto_detach.timeout is expected","code":22,'
            '"timestamp":1703123456.789}',
        ),
    ]


def test_whom_nobody_can_answer_nobody_answers():
    assert answer_to(f"mioty/ep/{KEY}/cmd", b"detach") == []


@pytest.mark.parametrize("length", [MAX_ERROR, MAX_ERROR + 1, 1_000_000])
def test_words_from_elsewhere_are_cut(length):
    said = "x" * MAX_ERROR + ("…" if length > MAX_ERROR else "")
    order, change = Detach(ep_eui=SENSOR), ChangeSettings(values={})
    downlink = SendDownlink(ep_eui=SENSOR, given={})
    told = [
        answers.downlink(ended("rejected", message="x" * length), "rejected"),
        *answers.refused(downlink, "x" * length, now_ns=NOW),
        *answers.malformed(MalformedDownlink(topics=("t",), error="x" * length), now_ns=NOW),
        answers.happening(happening("attach_failed", message="x" * length)),
        *answers.refused(order, "x" * length, now_ns=NOW),
        *answers.finished(order, "error", error="x" * length, now_ns=NOW),
        *answers.settings(change, "error", error="x" * length, now_ns=NOW),
    ]
    assert [json.loads(each.body)["error"] for each in told if each] == [said] * 7


# --- settings ---


def test_a_change_of_settings_says_what_was_changed_and_what_needs_a_restart():
    change = ChangeSettings(values={"auto_detach.timeout": 86400}, ref="s")
    result = {
        "changed": [
            {"key": "auto_detach.timeout", "value": 86400, "old": 259200, "applied": True},
        ],
        "restart": [],
    }
    assert answers.settings(change, "ok", now_ns=NOW, result=result) == [
        Publication(
            "mioty/config/response",
            '{"command":"config","status":"ok","ref":"s","changed":[{"key":"auto_detach.timeout",'
            '"value":86400,"old":259200,"applied":true}],"restart":[],"timestamp":1703123456.789}',
        )
    ]


def test_a_change_of_settings_that_cannot_be_says_why():
    change = ChangeSettings(values={"auto_detach.timeout": 0})
    assert answers.settings(change, "error", now_ns=NOW, error="found 0") == [
        Publication(
            "mioty/config/response",
            '{"command":"config","status":"error","error":"found 0","code":22,'
            '"timestamp":1703123456.789}',
        )
    ]
    assert answers.settings(change, "error", now_ns=NOW, error="later", code=11) == [
        Publication(
            "mioty/config/response",
            '{"command":"config","status":"error","error":"later","code":11,'
            '"timestamp":1703123456.789}',
        )
    ]


def test_settings_are_never_answered_as_if_they_were_of_a_sensor():
    malformed = MalformedSettings(topics=("mioty/config/response",), error="e", ref=1)
    assert answers.malformed(malformed, now_ns=NOW) == [
        Publication(
            "mioty/config/response",
            '{"command":"config","status":"error","ref":1,"error":"e","code":22,'
            '"timestamp":1703123456.789}',
        )
    ]


# --- anything ---

secrets = st.sampled_from([KEY, KEY.lower(), f"{KEY}0", f"{KEY[:-1]}", f"0x{KEY}"])
names = st.sampled_from(
    ["nwKey", "shortAddr", "bidi", "name", "tags", "timeout", "eui", "command", "data"]
)
values = st.one_of(secrets, st.lists(secrets, max_size=2), st.none(), st.booleans(), st.integers())
objects = st.dictionaries(names | secrets | st.text(max_size=5), values, max_size=5)
levels = st.sampled_from(["FCA84A0300001234", "FCA84A03"]) | st.text(max_size=10)
refs = st.text(st.characters(codec="utf-8"), max_size=128) | st.integers() | st.floats(width=16)


@given(
    st.builds("mioty/ep/{}/{}".format, levels, st.sampled_from(["cmd", "config", "dl"]))
    | st.sampled_from(["EP/FCA84A0300001234/cmd", "mioty/config"]),
    objects | secrets,
    st.none() | refs,
)
def test_any_answer_is_json_that_gives_the_ref_back_and_no_key_away(topic, found, ref):
    payload = json.dumps(found | {"ref": ref} if isinstance(found, dict) else found).encode()
    for told in answer_to(topic, payload):
        body = json.loads(told.body, parse_constant=pytest.fail)
        assert body.get("ref") in (None, ref)
        body.pop("ref", None)
        words = json.dumps(body).lower()
        assert not any(KEY[i : i + 16].lower() in words for i in range(len(KEY) - 15))
