from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.commands import (
    EARLIER_NAMES,
    MAX_PAYLOAD,
    MAX_REF,
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
    subscriptions,
)
from bssci.core.runtime.sections import KEYS

SENSOR = 0xFCA84A0300001234
KEY = "00112233445566778899AABBCCDDEEFF"
CMD = "mioty/ep/FCA84A0300001234/cmd"
CONFIG = "mioty/ep/FCA84A0300001234/config"
DOWNLINK = "mioty/ep/FCA84A0300001234/dl"
DOWNLINK_STATUS = "mioty/ep/FCA84A0300001234/dl/status"
ERROR = "mioty/ep/FCA84A0300001234/error"
SETTINGS = "mioty/config/response"

inbox = Inbox("mioty", legacy=True)


def refused(error: str, *, ref=None) -> Malformed:
    return Malformed(topics=(ERROR,), error=error, ep_eui=SENSOR, ref=ref)


def rejected(error: str, *, ref=None) -> MalformedDownlink:
    return MalformedDownlink(topics=(DOWNLINK_STATUS,), error=error, ep_eui=SENSOR, ref=ref)


def settings_refused(error: str, *, ref=None) -> Malformed:
    return MalformedSettings(topics=(SETTINGS,), error=error, ref=ref)


# --- topics ---


def test_every_topic_on_which_something_can_be_asked_is_subscribed_to_once():
    ours = (
        "mioty/ep/+/config",
        "mioty/ep/+/config/",
        "mioty/ep/+/register",
        "mioty/ep/+/register/",
        "mioty/ep/+/cmd",
        "mioty/ep/+/cmd/",
        "mioty/ep/+/dl",
        "mioty/ep/+/dl/",
        "mioty/config",
        "mioty/config/+",
    )
    assert subscriptions("mioty/", legacy=False) == ours
    assert subscriptions("mioty", legacy=True) == (*ours, "EP/+/cmd", "EP/+/cmd/")


def matches(name: str, topic: str) -> bool:
    """Whether a filter without # is for a topic (MQTT 3.1.1, 4.7.1.3)."""
    levels, given = name.split("/"), topic.split("/")
    pairs = zip(levels, given, strict=False)
    return len(levels) == len(given) and all(level in ("+", each) for level, each in pairs)


@pytest.mark.parametrize("base", ["mioty", "EP", "a/EP", "ep/config"])
def test_no_message_is_delivered_twice(base):
    filters = subscriptions(base, legacy=True)
    topics = {name.replace("+", level) for name in filters for level in ("", "dl", "response")}
    assert [
        (topic, found)
        for topic in topics
        if len(found := [name for name in filters if matches(name, topic)]) != 1
    ] == []


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "mioty",
        "mioty/",
        "mioty/ep/FCA84A0300001234/ul",
        "mioty/ep/FCA84A0300001234/response",
        "mioty/ep/FCA84A0300001234/cmd//",
        "mioty/ep/FCA84A0300001234/dl/status",
        "mioty/ep/FCA84A0300001234/dl/status/",
        "mioty/ep/FCA84A0300001234/dl//",
        "EP/FCA84A0300001234/dl",
        "mioty/ep/FCA84A0300001234",
        "mioty/EP/FCA84A0300001234/cmd",
        "mioty/config/a/b",
        "mioty/config/response",
        "miotyep/FCA84A0300001234/cmd",
        "other/ep/FCA84A0300001234/cmd",
        "EP/FCA84A0300001234/response",
        "ep/FCA84A0300001234/cmd",
    ],
)
def test_other_topics_ask_nothing(topic):
    assert inbox.parse(topic, b"detach") is None


def test_topics_of_the_earlier_service_are_heard_only_if_wanted():
    topic = "EP/FCA84A0300001234/cmd/"
    assert Inbox("mioty", legacy=False).parse(topic, b"detach") is None
    for base in ("mioty", "EP"):
        detach = Detach(ep_eui=SENSOR, via_legacy=True)
        assert Inbox(base, legacy=True).parse(topic, b"detach") == detach


def test_a_base_topic_has_as_many_levels_as_it_likes():
    asked = Inbox("plant/7/mioty", legacy=False).parse(f"plant/7/{CMD}", b"status")
    assert asked == QueryStatus(ep_eui=SENSOR)


@pytest.mark.parametrize(
    "spelling",
    ["FCA84A0300001234", "fca84a0300001234", "fc:a8:4a:03:00:00:12:34", "0xFCA84A0300001234"],
)
def test_an_eui_in_a_topic_has_any_spelling(spelling):
    assert inbox.parse(f"mioty/ep/{spelling}/cmd", b"attach") == Attach(ep_eui=SENSOR)


@pytest.mark.parametrize(
    ("spelling", "found"),
    [
        ("FCA84A030000123", "15 hexadecimal digits found, 16 expected"),
        ("sensor 7", "2 hexadecimal digits found, 16 expected; 's' does not belong there"),
    ],
)
def test_a_level_that_is_no_eui_is_answered_below_it(spelling, found):
    words = f"'{spelling}' is not an EUI: {found}"
    assert [
        inbox.parse(f"mioty/ep/{spelling}/config", b"{}"),
        inbox.parse(f"EP/{spelling}/cmd/", b"detach"),
    ] == [
        Malformed(topics=(f"mioty/ep/{spelling}/error",), error=words),
        Malformed(topics=(f"mioty/ep/{spelling}/error", f"EP/{spelling}/response"), error=words),
    ]


@pytest.mark.parametrize(
    ("payload", "ref"),
    [
        (b'{"nwKey": 5, "ref": "a"}', "a"),
        (b'{"ref": 7}', 7),
        (b'{"ref": [1]}', None),
        (b'["ref"]', None),
        (b"detach", None),
        (b"\xff", None),
    ],
)
def test_what_a_message_is_marked_with_comes_back_though_its_topic_names_no_eui(payload, ref):
    level = "NOTANEUI"
    words = f"'{level}' is not an EUI: 2 hexadecimal digits found, 16 expected"
    words += "; 'N' does not belong there"
    topics = (f"mioty/ep/{level}/error",)
    refusal = Malformed(topics=topics, error=words, ref=ref)
    assert [inbox.parse(f"mioty/ep/{level}/{verb}", payload) for verb in ("config", "cmd")] == [
        refusal,
        refusal,
    ]
    assert inbox.parse(f"mioty/ep/{level}/dl", payload) == MalformedDownlink(
        topics=(f"mioty/ep/{level}/dl/status",), error=words, ref=ref
    )


@pytest.mark.parametrize("level", ["", " ", "+", "#", "a\nb", "a\0", "\ud800", "x" * 41, KEY])
def test_a_level_below_which_nobody_listens_is_not_answered(level):
    assert inbox.parse(f"mioty/ep/{level}/cmd", b"detach") == Malformed(
        topics=(), error="the topic names no EUI, and nobody to answer"
    )


# --- commands ---


@pytest.mark.parametrize("topic", [CMD, f"{CMD}/"])
@pytest.mark.parametrize(
    ("payload", "asked"),
    [
        (b"detach", Detach(ep_eui=SENSOR)),
        (b"attach", Attach(ep_eui=SENSOR)),
        (b"status", QueryStatus(ep_eui=SENSOR)),
        (b"  Detach\r\n", Detach(ep_eui=SENSOR)),
        (b"DETACH\n\0", Detach(ep_eui=SENSOR)),
        (b"\xef\xbb\xbfdetach", Detach(ep_eui=SENSOR)),
        (b'"detach"', Detach(ep_eui=SENSOR)),
        (b'" Detach "\0', Detach(ep_eui=SENSOR)),
        (b'{"command": "detach"}', Detach(ep_eui=SENSOR)),
        (b'{"action": "attach", "timestamp": 1703123456.789}', Attach(ep_eui=SENSOR)),
        (b'{"command": null, "action": "status"}', QueryStatus(ep_eui=SENSOR)),
        (b'{"command": "status", "action": "detach"}', QueryStatus(ep_eui=SENSOR)),
        (b'{"command": "detach", "ref": "night 7"}', Detach(ep_eui=SENSOR, ref="night 7")),
        (b'{"command": "detach", "ref": null}', Detach(ep_eui=SENSOR)),
    ],
)
def test_a_command_is_a_word_a_json_string_or_an_object(topic, payload, asked):
    assert inbox.parse(topic, payload) == asked


@pytest.mark.parametrize("topic", ["EP/FCA84A0300001234/cmd", "EP/FCA84A0300001234/cmd/"])
def test_what_the_earlier_service_promised_is_understood(topic):
    assert [inbox.parse(topic, word) for word in (b"detach", b"attach", b"status")] == [
        Detach(ep_eui=SENSOR, via_legacy=True),
        Attach(ep_eui=SENSOR, via_legacy=True),
        QueryStatus(ep_eui=SENSOR, via_legacy=True),
    ]


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "the message is empty"),
        (b"\n\0", "the message is empty"),
        (b"reboot", "'reboot' is no command: attach, detach or status is expected"),
        (KEY.encode(), "**** is no command: attach, detach or status is expected"),
        (b'""', "the command is missing: attach, detach or status is expected"),
        (b"{}", "the command is missing: attach, detach or status is expected"),
        (b'{"command": 5}', "command: found 5, attach, detach or status is expected"),
        (b'["detach"]', "found a list, a JSON object is expected"),
        (b"det\xffach", "the message is no UTF-8 text: byte 4 is 0xFF"),
        (b"x" * (MAX_PAYLOAD + 1), "the message has 262145 bytes, at most 262144 are possible"),
    ],
)
def test_what_is_no_command_is_told_what_was_found(payload, words):
    assert inbox.parse(CMD, payload) == refused(words)


def test_what_is_wrong_with_a_legacy_command_is_said_there_too():
    assert inbox.parse("EP/FCA84A0300001234/cmd/", b"reboot") == Malformed(
        topics=(ERROR, "EP/FCA84A0300001234/response"),
        error="'reboot' is no command: attach, detach or status is expected",
        ep_eui=SENSOR,
    )


# --- what a command is marked with ---


@pytest.mark.parametrize(
    "ref", ["", "7", "ü\n\0", "x" * MAX_REF, 0, -5, 2**64, 10**127, 1.5, -0.25]
)
def test_a_ref_is_kept_as_it_was_given(ref):
    payload = json.dumps({"action": "detach", "ref": ref}).encode()
    asked = inbox.parse(CMD, payload)
    assert asked == Detach(ep_eui=SENSOR, ref=ref)
    assert isinstance(asked, Detach)
    assert type(asked.ref) is type(ref)


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("true", "ref: found true, a text or a number is expected"),
        ("[1]", "ref: found a list, a text or a number is expected"),
        ('{"a":1}', "ref: found a table, a text or a number is expected"),
        (json.dumps("x" * 129), "ref: has 129 characters, at most 128 are possible"),
        ("1" * 129, "a number in the JSON has 129 digits"),
        ("1e999", "a number in the JSON is too long or too great"),
        (f"0.{'1' * 127}", "a number in the JSON is too long or too great"),
        ("NaN", "no valid JSON: NaN is no number"),
        ('"\\ud800"', "a text in the JSON has half of a surrogate pair"),
    ],
)
def test_a_ref_that_cannot_be_given_back_is_refused(ref, words):
    payload = f'{{"command":"detach","ref":{ref}}}'.encode()
    assert inbox.parse(CMD, payload) == refused(words)


def test_an_error_is_marked_as_the_command_was():
    assert [
        inbox.parse(CMD, b'{"command":"reboot","ref":7}'),
        inbox.parse(CONFIG, b'{"eui":"FCA84A0300001235","ref":8}'),
        inbox.parse("mioty/config", b'{"ref":9}'),
    ] == [
        refused("'reboot' is no command: attach, detach or status is expected", ref=7),
        refused("eui: it is not FCA84A0300001234, as the topic says", ref=8),
        settings_refused("nothing is given to be set", ref=9),
    ]


# --- JSON ---


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (
            b'{"nwKey" "x"}',
            "no valid JSON: Expecting ':' delimiter at character 10, found '\"'",
        ),
        (b'{"nwKey":', "no valid JSON: Expecting value at character 10, found the end"),
        (b'{"bidi":Infinity}', "no valid JSON: Infinity is no number"),
        (b'{"bidi":false,"bidi":true}', "'bidi' is given twice"),
        (f'{{"{KEY}":1,"{KEY}":2}}'.encode(), "**** is given twice"),
        (b'{"tags":[[[[[[[1]]]]]]]}', "the JSON has more than 8 levels"),
        (b"[" * MAX_PAYLOAD, "the JSON has more than 8 levels"),
        (b'{"\\udc00":1}', "a text in the JSON has half of a surrogate pair"),
        (b'{"tags":["\\udc00"]}', "a text in the JSON has half of a surrogate pair"),
    ],
)
def test_json_that_cannot_be_trusted_is_refused(payload, words):
    assert inbox.parse(CONFIG, payload) == refused(words)


def test_as_many_levels_as_can_be_are_read():
    asked = inbox.parse(CONFIG, b'{"tags":[[[[[[1]]]]]]}')
    assert asked == Configure(ep_eui=SENSOR, given={"tags": [[[[[[1]]]]]]})


# --- registering ---


@pytest.mark.parametrize("verb", ["config", "register", "config/", "register/"])
def test_a_registration_is_read_as_it_stands(verb):
    payload = b'{"nwKey": "0011223344556677889AABBCCDDEEFF00", "shortAddr": "1234", "bidi": false}'
    assert inbox.parse(f"mioty/ep/fca84a0300001234/{verb}", payload) == Configure(
        ep_eui=SENSOR,
        given={"nwKey": "0011223344556677889AABBCCDDEEFF00", "shortAddr": "1234", "bidi": False},
    )


def test_a_registration_without_bidi_does_not_say_what_it_is():
    payload = json.dumps({"nwKey": KEY, "shortAddr": "1234"}).encode()
    assert inbox.parse("mioty/ep/FCA84A0300001234/register", payload) == Configure(
        ep_eui=SENSOR, given={"nwKey": KEY, "shortAddr": "1234"}
    )


def test_a_row_of_the_earlier_endpoints_json_can_be_published_as_it_is():
    row = {"eui": "fca84a0300001234", "nwKey": KEY, "shortAddr": "1234", "bidi": True}
    row |= {"preferredDownlinkPath": {"snr": 12.5}, "timestamp": 1703123456.789, "ref": "r"}
    assert inbox.parse(CONFIG, json.dumps(row).encode()) == Configure(
        ep_eui=SENSOR, given={"nwKey": KEY, "shortAddr": "1234", "bidi": True}, ref="r"
    )


@pytest.mark.parametrize("eui", [b'"FCA84A0300001235"', b'"soon"', b"18204834034543760948"])
def test_another_eui_than_the_topic_says_is_refused(eui):
    assert inbox.parse(CONFIG, b'{"eui":' + eui + b"}") == refused(
        "eui: it is not FCA84A0300001234, as the topic says"
    )


@pytest.mark.parametrize(
    ("payload", "found"),
    [(b'"detach"', "'detach'"), (b"5", "5"), (b"null", "nothing"), (b"true", "true")],
)
def test_a_registration_that_is_no_object_is_refused(payload, found):
    assert inbox.parse(CONFIG, payload) == refused(f"found {found}, a JSON object is expected")


# --- downlinks ---


@pytest.mark.parametrize("topic", [DOWNLINK, f"{DOWNLINK}/", "mioty/ep/fc-a8-4a-03-00-00-12-34/dl"])
def test_a_downlink_is_read_as_it_stands(topic):
    payload = b'{"data": [1, 2], "prio": 1.5, "responseExp": true, "ref": "valve"}\n'
    assert inbox.parse(topic, payload) == SendDownlink(
        ep_eui=SENSOR,
        given={"data": [1, 2], "prio": 1.5, "responseExp": True, "ref": "valve"},
        ref="valve",
    )


def test_what_is_said_to_a_sensor_is_in_no_listing_of_commands():
    asked = inbox.parse(DOWNLINK, b'{"data": "C0FFEE"}')
    assert repr(asked) == f"SendDownlink(ep_eui={SENSOR}, ref=None, via_legacy=False)"


def test_a_downlink_may_name_the_sensor_again():
    payload = b'{"eui": "fc:a8:4a:03:00:00:12:34", "data": ""}'
    assert inbox.parse(DOWNLINK, payload) == SendDownlink(ep_eui=SENSOR, given={"data": ""})


@pytest.mark.parametrize(
    ("payload", "words", "ref"),
    [
        (b"", "the message is empty", None),
        (b"\xff", "the message is no UTF-8 text: byte 1 is 0xFF", None),
        (b"C0FFEE", "no valid JSON: Expecting value at character 1, found 'C'", None),
        (b"[1,2]", "found a list, a JSON object is expected", None),
        (b'"0102"', "found '0102', a JSON object is expected", None),
        (f'"{KEY}"'.encode(), "found ****, a JSON object is expected", None),
        (b'{"data":"","data":"01"}', "'data' is given twice", None),
        (b'{"data":"","ref":true}', "ref: found true, a text or a number is expected", None),
        (
            b'{"data":"","ref":7,"eui":"FCA84A0300001235"}',
            "eui: it is not FCA84A0300001234, as the topic says",
            7,
        ),
    ],
)
def test_what_is_no_downlink_is_rejected_where_its_results_would_be_told(payload, words, ref):
    assert inbox.parse(DOWNLINK, payload) == rejected(words, ref=ref)


def test_a_downlink_to_what_is_no_eui_is_rejected_below_it():
    assert inbox.parse("mioty/ep/sensor 7/dl", b"{}") == MalformedDownlink(
        topics=("mioty/ep/sensor 7/dl/status",),
        error="'sensor 7' is not an EUI: 2 hexadecimal digits found, 16 expected; "
        "'s' does not belong there",
    )


@pytest.mark.parametrize("level", ["", "+", "x" * 41, KEY])
def test_a_downlink_to_nobody_is_not_answered(level):
    assert inbox.parse(f"mioty/ep/{level}/dl", b"{}") == MalformedDownlink(
        topics=(), error="the topic names no EUI, and nobody to answer"
    )


# --- settings ---


@pytest.mark.parametrize("topic", ["mioty/config", "mioty/config/"])
def test_settings_have_our_names_or_those_of_the_earlier_service(topic):
    payload = b"""{"auto_detach.timeout": 86400, "AUTO_DETACH_ENABLED": true,
        "status_interval": "300", "DEDUPLICATION_DELAY": null, "ref": "s"}"""
    assert inbox.parse(topic, payload) == ChangeSettings(
        values={
            "auto_detach.timeout": 86400,
            "auto_detach.enabled": True,
            "status.interval": "300",
            "dedup.delay": None,
        },
        ref="s",
    )


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b"86400", 86400),
        (b"2.5\n", 2.5),
        (b"true", True),
        (b"null", None),
        (b"30d", "30d"),
        (b"info", "info"),
        (b"NaN", "NaN"),
        (b'"30d"', "30d"),
    ],
)
@pytest.mark.parametrize("name", ["auto_detach.timeout", "AUTO_DETACH_TIMEOUT"])
def test_a_setting_can_be_the_last_level_of_the_topic(name, payload, value):
    assert inbox.parse(f"mioty/config/{name}", payload) == ChangeSettings(
        values={"auto_detach.timeout": value}
    )


EXPECTED = "a key of sc.toml like auto_detach.timeout is expected"


@pytest.mark.parametrize(
    ("topic", "payload", "words"),
    [
        ("mioty/config", b"", "the message is empty"),
        ("mioty/config", b"{", None),
        ("mioty/config", b"[1]", "found a list, a JSON object is expected"),
        ("mioty/config", b"{}", "nothing is given to be set"),
        ("mioty/config", b'{"timeout":1}', f"'timeout' is no setting: {EXPECTED}"),
        ("mioty/config", f'{{"{KEY}":1}}'.encode(), f"**** is no setting: {EXPECTED}"),
        (
            "mioty/config",
            b'{"AUTO_DETACH_TIMEOUT":1,"auto_detach.timeout":2}',
            "auto_detach.timeout is given twice",
        ),
        ("mioty/config/timeout", b"1", f"'timeout' is no setting: {EXPECTED}"),
        ("mioty/config/log.level", b"", "the message is empty"),
        ("mioty/config/log.level", b'["info"', None),
    ],
)
def test_settings_that_cannot_be_are_told_what_was_found(topic, payload, words):
    found = inbox.parse(topic, payload)
    assert isinstance(found, MalformedSettings)
    assert found == settings_refused(words or found.error)
    assert words or found.error.startswith("no valid JSON: ")


def test_every_setting_has_a_name_that_can_be_given():
    for name in KEYS:
        asked = inbox.parse(f"mioty/config/{name}", b"1")
        assert asked == ChangeSettings(values={name: 1})


def test_every_name_of_the_earlier_service_leads_to_a_setting():
    assert set(EARLIER_NAMES.values()) <= set(KEYS)


# --- anything ---

ENDS = ["cmd", "cmd/", "config", "register", "dl", "dl/", "dl/status", "x"]
levels = st.sampled_from(["FCA84A0300001234", "config", "mioty"]) | st.text(max_size=20)
topics = st.one_of(
    st.sampled_from([CMD, CONFIG, "EP/FCA84A0300001234/cmd/", "mioty/config"]),
    st.builds(
        "{}/{}/{}".format, st.sampled_from(["mioty/ep", "EP"]), levels, st.sampled_from(ENDS)
    ),
    levels.map("mioty/config/{}".format),
    st.lists(levels, max_size=4).map("/".join),
)
secrets = st.sampled_from([KEY, KEY.lower(), f"{KEY}0", f"0x{KEY}", f" {KEY[:16]} {KEY[16:]} "])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | secrets
names = st.sampled_from(["command", "action", "eui", "nwKey", "AUTO_DETACH_TIMEOUT"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | secrets | st.text(), inner),
    max_leaves=8,
)
payloads = (
    st.binary() | secrets.map(str.encode) | values.map(lambda value: json.dumps(value).encode())
)


@given(topics, payloads)
def test_whatever_comes_is_read_or_refused_without_a_word_of_a_key(topic, payload):
    asked = inbox.parse(topic, payload)
    words = repr(asked).lower().replace(" ", "")
    assert not any(KEY[i : i + 16].lower() in words for i in range(len(KEY) - 15))
    if isinstance(asked, Malformed):
        assert asked.error
        assert all(name.isprintable() for name in asked.topics)
        assert not any(set(name) & set("+#") for name in asked.topics)
