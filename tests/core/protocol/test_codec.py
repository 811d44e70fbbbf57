import json
import math
import struct
from contextlib import suppress
from dataclasses import MISSING, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bssci.core.protocol.codec import (
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_LIST,
    decode,
    encode,
    is_json,
    parse,
    to_map,
    unpack,
)
from bssci.core.protocol.errors import (
    Code,
    FramingError,
    InvalidMessageError,
    LocalProtocolError,
    MalformedPayloadError,
    NotAMapError,
    RemoteProtocolError,
    TrailingBytesError,
    UnknownCommandError,
)
from bssci.core.protocol.messages import (
    MAX_TEXT,
    MAX_USER_DATA,
    MESSAGES,
    Anything,
    Attach,
    AttachPropagate,
    Connect,
    ConnectResponse,
    DownlinkDataQueue,
    DownlinkDataResult,
    Error,
    Integer,
    Integers,
    Message,
    OctetLists,
    Octets,
    Ping,
    Real,
    Reals,
    StatusResponse,
    Subpackets,
    UplinkData,
    VmUplinkData,
)
from tests.core.protocol.samples import EUI, KEY, SAMPLES, TIME, UUID

COMMANDS = [message.command for _, message in SAMPLES]
BY_COMMAND = {message.command: message for _, message in SAMPLES}


def content(command: str, **changes: object) -> dict[str, Any]:
    """The map of a sample, with some fields changed; None stands for nil."""
    return to_map(BY_COMMAND[command]) | changes


def without(command: str, field: str) -> dict[str, Any]:
    found = content(command)
    del found[field]
    return found


def refusal(found: dict[Any, Any]) -> tuple[int, str]:
    """What a message that is not accepted is answered with."""
    with pytest.raises(InvalidMessageError) as caught:
        parse(found)
    assert (caught.value.command, caught.value.op_id) == (found["command"], found["opId"])
    return caught.value.code, str(caught.value)


# --- bytes against the specification ---------------------------------------------------------


def test_there_is_a_line_by_hand_for_every_message():
    assert list(MESSAGES) == COMMANDS


@pytest.mark.parametrize(("payload", "message"), SAMPLES, ids=COMMANDS)
def test_what_is_written_by_hand_is_understood(payload, message):
    assert decode(payload) == message


@pytest.mark.parametrize(("payload", "message"), SAMPLES, ids=COMMANDS)
def test_what_is_sent_is_what_is_written_by_hand(payload, message):
    assert encode(message) == payload


JSON_SAMPLES = [
    ('{"command":"ping","opId":5}', BY_COMMAND["ping"]),
    ('{"command":"conCmp","opId":0}', BY_COMMAND["conCmp"]),
    (
        '{"command":"detPrp","opId":-20338,"epEui":18205882870390592124}',
        BY_COMMAND["detPrp"],
    ),
    (
        '{"command":"error","opId":-3,"code":95,"message":"no matching DL data found"}',
        BY_COMMAND["error"],
    ),
    (
        '{"command":"detRsp","opId":5,"sign":[215,23,52,18]}',
        BY_COMMAND["detRsp"],
    ),
    (
        '{"command":"dlDataQue","opId":-3,"epEui":18205882870390592124,"queId":7,'
        '"cntDepend":false,"userData":[[1,255]],"prio":10.5}',
        DownlinkDataQueue(
            op_id=-3,
            ep_eui=EUI,
            que_id=7,
            cnt_depend=False,
            user_data=(b"\x01\xff",),
            prio=10.5,
        ),
    ),
    (
        '{"command":"ulData","opId":5,"epEui":18205882870390592124,"rxTime":1700000000000000000,'
        '"packetCnt":18607,"snr":23.5,"rssi":-68.25,'
        '"subpackets":{"snr":[1.5],"rssi":[-2.5],"frequency":[868055297.59375]},'
        '"userData":[],"dlOpen":false,"responseExp":false,"dlAck":true}',
        UplinkData(
            op_id=5,
            ep_eui=EUI,
            rx_time=TIME,
            packet_cnt=18607,
            snr=23.5,
            rssi=-68.25,
            subpackets=Subpackets(snr=(1.5,), rssi=(-2.5,), frequency=(868055297.59375,)),
            user_data=b"",
            dl_open=False,
            response_exp=False,
            dl_ack=True,
        ),
    ),
]


@pytest.mark.parametrize(("text", "message"), JSON_SAMPLES)
def test_json_is_understood(text, message):
    assert decode(text.encode()) == message


@pytest.mark.parametrize(("text", "message"), JSON_SAMPLES)
def test_json_is_written(text, message):
    assert encode(message, as_json=True).decode() == text


def test_json_may_have_white_space_around_it():
    assert decode(b' \t\r\n{"command": "ping", "opId": 5}\n') == Ping(op_id=5)


@pytest.mark.parametrize(
    ("payload", "json_"),
    [(b"{}", True), (b"\n{}", True), (b"\x80", False), (b"\xde\0\0", False), (b"", False)],
)
def test_json_is_told_from_messagepack_by_its_first_byte(payload, json_):
    assert is_json(payload) is json_


def test_a_field_with_its_default_is_left_out():
    message = replace(BY_COMMAND["vm.dlData"], tsi=128)  # type: ignore[call-arg]
    assert "tsi" not in to_map(message)
    assert decode(encode(message)) == message


def test_an_empty_acknowledgement_downlink_is_one_empty_entry():
    message = DownlinkDataQueue(op_id=-1, ep_eui=1, que_id=2, cnt_depend=False, user_data=(b"",))
    assert encode(message) == (
        b"\x86\xa7command\xa9dlDataQue\xa4opId\xff\xa5epEui\x01\xa5queId\x02"
        b"\xa9cntDepend\xc2\xa8userData\x91\x90"
    )


# --- what real base stations write, built after their manner ---------------------------------

_31 = b"\xdc\x00\x1f"


def test_a_gateway_with_alphabetical_keys_and_single_precision_is_understood():
    payload = (
        b"\xde\x00\x10\xa7command\xa6ulData\xa5dlAck\xc2\xa6dlOpen\xc2"
        b"\xa5epEui\xcf\xfc\xa8\x4a\x03\x00\x00\x12\x7c\xa5eqSnr\xca\x41\x08\x00\x00"
        b"\xa6format\x00\xa4mode\xa3ulp\xa4opId\x01\xa9packetCnt\xcd\x48\xaf"
        b"\xa7profile\xa5eu868\xabresponseExp\xc2\xa4rssi\xca\xc2\x88\x80\x00"
        b"\xa6rxTime\xcf\x17\x97\x9c\xfe\x36\x2a\x00\x00\xa3snr\xca\x41\xbc\x00\x00"
        b"\xaasubpackets\x83"
        b"\xa9frequency" + _31 + b"\xcb\x41\xc9\xde\xbc\x80\xcc\x00\x00" * 31 + b"\xa4rssi"
        # The first subpacket is a wild outlier, as in the field.
        + _31 + b"\xca\xc3\x20\xc0\x00" + b"\xca\xc2\x88\x80\x00" * 30 + b"\xa3snr"
        + _31 + b"\xca\xc2\x07\x40\x00" + b"\xca\x41\xbc\x00\x00" * 30
        + b"\xa8userData\xdc\x00\x11\x11\x32\xcc\x86\x18\xcc\xe5\x04\xcc\xd6"
        + b"\x2f\x00\x00\x00\x00\x00\x00\x05\x04\x5e"
    )  # fmt: skip
    assert decode(payload) == UplinkData(
        op_id=1,
        ep_eui=EUI,
        rx_time=TIME,
        packet_cnt=18607,
        snr=23.5,
        rssi=-68.25,
        eq_snr=8.5,
        profile="eu868",
        mode="ulp",
        subpackets=Subpackets(
            snr=(-33.8125,) + (23.5,) * 30,
            rssi=(-160.75,) + (-68.25,) * 30,
            frequency=(868055297.59375,) * 31,
        ),
        user_data=bytes.fromhex("11328618e504d62f00000000000005045e"),
        dl_open=False,
        response_exp=False,
        dl_ack=False,
    )


def test_a_gateway_with_signed_bytes_and_no_counters_is_understood():
    payload = (
        b"\x88\xa7command\xa3con\xa4opId\x00\xa7version\xa51.0.0"
        b"\xa5bsEui\xcf\x00\x07\x32\x00\x00\x01\x02\x03\xa6vendor\xa4ACME"
        b"\xa5model\xa3GW1\xa4bidi\xc3\xa8snBsUuid"
        # 00 … 07 7f, then 80, c3 and ff as the signed -128, -61 and -1
        b"\xdc\x00\x10\x00\x01\x02\x03\x04\x05\x06\x07\x7f\xd0\x80\xd0\xc3\xff\x08\x09\x0a\x0b"
    )
    assert decode(payload) == Connect(
        version="1.0.0",
        bs_eui=0x0007320000010203,
        vendor="ACME",
        model="GW1",
        bidi=True,
        sn_bs_uuid=UUID,
    )


def test_a_gateway_that_fills_in_what_it_does_not_know_is_understood():
    payload = (
        b"\x8d\xa7command\xa6ulData\xa4opId\x05\xa5epEui\xd3\xfc\xa8\x4a\x03\x00\x00\x12\x7c"
        b"\xa6rxTime\xcf\x17\x97\x9c\xfe\x36\x2a\x00\x00\xaarxDuration\x00\xa9packetCnt\x00"
        b"\xa4rssi\xcb\xc0\x51\x10\x00\x00\x00\x00\x00\xa3snr\xcb\x40\x37\x80\x00\x00\x00\x00\x00"
        b"\xa5eqSnr\xcb\x00\x00\x00\x00\x00\x00\x00\x00\xa8userData\x92\xff\x01"
        b"\xa6dlOpen\xc2\xabresponseExp\xc2\xa5dlAck\xc2"
    )
    assert decode(payload) == UplinkData(
        op_id=5,
        ep_eui=EUI,
        rx_time=TIME,
        rx_duration=0,
        packet_cnt=0,
        snr=23.5,
        rssi=-68.25,
        eq_snr=0.0,
        user_data=b"\xff\x01",
        dl_open=False,
        response_exp=False,
        dl_ack=False,
    )


def test_a_status_in_microseconds_with_a_load_average_is_understood():
    found = content("statusRsp", time=1_756_625_812_082_000, cpuLoad=4.9, message="")
    status = parse(found)
    assert isinstance(status, StatusResponse)
    assert (status.time, status.cpu_load, status.message) == (1_756_625_812_082_000, 4.9, "")


# --- round trips -----------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, allow_infinity=False)
singles = st.floats(allow_nan=False, allow_infinity=False, width=32)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Every value that a field's declaration allows."""
    if hint is Subpackets:
        return st.integers(0, 4).flatmap(subpackets)
    if hint in (str, bool):
        return {str: texts, bool: st.booleans()}[hint]
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if not hasattr(hint, "__metadata__"):
        return st.one_of(*(values(part) for part in get_args(hint) if part is not type(None)))
    match hint.__metadata__[0]:
        case Integer(minimum=minimum, maximum=maximum):
            return st.integers(minimum, maximum)
        case Real(single=single):
            return singles if single else numbers
        case Reals(length=length):
            return st.lists(numbers, min_size=length or 0, max_size=length or 4).map(tuple)
        case Octets(length=length):
            return st.binary(min_size=length or 0, max_size=length or 20)
        case OctetLists():
            return st.lists(st.binary(max_size=4), max_size=3).map(tuple)
        case Integers(minimum=minimum, maximum=maximum):
            return st.lists(st.integers(minimum, maximum), max_size=3).map(tuple)
        case Anything():
            return anything
    raise AssertionError(hint)


def subpackets(length: int) -> st.SearchStrategy[Subpackets]:
    reals = st.lists(numbers, min_size=length, max_size=length).map(tuple)
    return st.builds(Subpackets, snr=reals, rssi=reals, frequency=reals, phase=st.none() | reals)


def messages_of(kind: type[Message]) -> st.SearchStrategy[Message]:
    hints = get_type_hints(kind, include_extras=True)
    mandatory: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields(kind):
        group = mandatory if field.default is MISSING else optional
        group[field.name] = values(hints[field.name])
    return (
        st.fixed_dictionaries(mandatory, optional=optional)
        .map(lambda found: kind(**found))
        .filter(lambda message: message.broken_rule() is None)
    )


DOWNLINKS = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=4)), min_size=1)
SPECIAL: dict[type[Message], st.SearchStrategy[Message]] = {
    # Two lists of one length are not met by chance often enough.
    DownlinkDataQueue: DOWNLINKS.map(
        lambda entries: DownlinkDataQueue(
            ep_eui=1,
            que_id=2,
            cnt_depend=True,
            packet_cnt=tuple(cnt for cnt, _ in entries),
            user_data=tuple(data for _, data in entries),
        )
    ),
    VmUplinkData: st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)).map(
        lambda crc: replace(BY_COMMAND["vm.ulData"], crc=crc)  # type: ignore[call-arg]
    ),
    MESSAGES["vm.dlData"]: st.tuples(st.integers(0, 255), st.integers(0, 255)).map(
        lambda crc: replace(BY_COMMAND["vm.dlData"], ul_crc=crc)  # type: ignore[call-arg]
    ),
}


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=list(MESSAGES))
@settings(max_examples=30)
@given(st.data())
def test_every_message_comes_back_as_it_was_sent(kind, data):
    message = data.draw(SPECIAL[kind] if kind in SPECIAL else messages_of(kind))
    assert decode(encode(message)) == message
    assert decode(encode(message, as_json=True)) == message


# --- one payload holds one map ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "kind", "words"),
    [
        (b"", MalformedPayloadError, "not MessagePack: Unpack failed: incomplete input"),
        (
            b"\x82\xa7comm",
            MalformedPayloadError,
            "not MessagePack: Unpack failed: incomplete input",
        ),
        (b"\xc1", MalformedPayloadError, "not MessagePack: FormatError"),
        (b"\x81\x91\x01\x02", MalformedPayloadError, "not MessagePack: unhashable type: 'list'"),
        (b"\x91" * 5000, MalformedPayloadError, "not MessagePack: StackError"),
        (
            b"\x81\xa1a\xdd\x00\x01\x00\x01" + bytes(MAX_LIST + 1),
            MalformedPayloadError,
            f"not MessagePack: {MAX_LIST + 1} exceeds max_array_len({MAX_LIST})",
        ),
        (
            b"\xde\x04\x01" + bytes(2 * MAX_FIELDS + 2),
            MalformedPayloadError,
            f"not MessagePack: {MAX_FIELDS + 1} exceeds max_map_len({MAX_FIELDS})",
        ),
        (
            b"\x81\xa1a\xd4\x01\x00",
            MalformedPayloadError,
            "not MessagePack: 2 exceeds max_ext_len(0)",
        ),
        (b"\x05", NotAMapError, "a payload holds int, expected a map"),
        (b"\x93\x01\x02\x03", NotAMapError, "a payload holds list, expected a map"),
        (b"hello", NotAMapError, "a payload holds int, expected a map"),
        (b'["ping", 5]', NotAMapError, "a payload holds int, expected a map"),
        (b"\xc0", NotAMapError, "a payload holds NoneType, expected a map"),
        (SAMPLES[3][0] + b"\xc0\xc0", TrailingBytesError, "2 bytes follow the message"),
        (b"{", MalformedPayloadError, None),
        (b'{"command": "pi', MalformedPayloadError, None),
        (b'{"name": "\xff"}', MalformedPayloadError, None),
        (b"{" * 100_000, MalformedPayloadError, None),
        (b'{"a":' * 100_000, MalformedPayloadError, None),
        (b'{"opId": ' + b"9" * 5000 + b"}", MalformedPayloadError, None),
        (b" ", MalformedPayloadError, None),
        (b" [1, 2]", NotAMapError, "a payload holds list, expected a map"),
        (b'{"command":"ping","opId":5} {}', TrailingBytesError, "2 characters follow the message"),
    ],
)
def test_what_is_not_one_map_is_told_apart(payload, kind, words):
    with pytest.raises(FramingError) as caught:
        decode(payload)
    assert type(caught.value) is kind
    if words is None:
        assert str(caught.value).startswith("not JSON: ")
    else:
        assert str(caught.value) == words


@given(st.binary(max_size=60))
def test_garbage_is_never_our_fault(payload):
    with suppress(RemoteProtocolError, InvalidMessageError):
        decode(payload)


@given(
    st.sampled_from(SAMPLES).map(lambda sample: sample[0]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 2000),
)
def test_a_message_with_damaged_bytes_is_never_our_fault(payload, damages, end):
    damaged = bytearray(payload)
    for at, value in damages:
        damaged[at % len(damaged)] = value
    with suppress(RemoteProtocolError, InvalidMessageError):
        decode(bytes(damaged[: max(1, end)]))


@given(st.dictionaries(st.sampled_from(["opId", *to_map(BY_COMMAND["ulData"])]), anything))
def test_any_values_in_the_fields_are_never_our_fault(changes):
    try:
        message = parse(content("ulData") | {"opId": 5} | changes)
    except (RemoteProtocolError, InvalidMessageError):
        return
    assert decode(encode(message)) == message


def test_unpack_gives_the_values_as_they_came():
    assert unpack(b"\x81\xa1a\x91\xd0\xff") == {"a": [-1]}


# --- command and operation ID ----------------------------------------------------------------


@pytest.mark.parametrize(
    "packed",
    [
        b"\x05",
        b"\xcc\x05",
        b"\xcd\x00\x05",
        b"\xce\x00\x00\x00\x05",
        b"\xcf\x00\x00\x00\x00\x00\x00\x00\x05",
        b"\xd0\x05",
        b"\xd1\x00\x05",
        b"\xd2\x00\x00\x00\x05",
        b"\xd3\x00\x00\x00\x00\x00\x00\x00\x05",
    ],
)
def test_an_operation_id_may_have_any_width(packed):
    assert decode(b"\x82\xa7command\xa4ping\xa4opId" + packed) == Ping(op_id=5)


@pytest.mark.parametrize(
    "packed",
    [
        b"\xfb",
        b"\xd0\xfb",
        b"\xd1\xff\xfb",
        b"\xd2\xff\xff\xff\xfb",
        b"\xd3\xff\xff\xff\xff\xff\xff\xff\xfb",
    ],
)
def test_a_negative_operation_id_may_have_any_width(packed):
    assert decode(b"\x82\xa7command\xa4ping\xa4opId" + packed) == Ping(op_id=-5)


@pytest.mark.parametrize("op_id", [None, "5", 5.0, True, [5], 2**63, -(2**63) - 1])
def test_a_message_that_cannot_be_answered_ends_the_connection(op_id):
    with pytest.raises(RemoteProtocolError) as caught:
        parse({"command": "ping", "opId": op_id})
    assert str(caught.value) == "a message without an opId of 64 bits: it cannot be answered"


def test_the_ends_of_the_range_are_operation_ids():
    assert parse({"command": "ping", "opId": 2**63 - 1}) == Ping(op_id=2**63 - 1)
    assert parse({"command": "ping", "opId": -(2**63)}) == Ping(op_id=-(2**63))


@pytest.mark.parametrize("command", ["detachReq", "rc.dir", "vm.unknown", "xyz.foo", "PING", ""])
def test_an_unknown_command_or_sub_channel_is_answered_with_95(command):
    with pytest.raises(UnknownCommandError):
        parse({"command": command, "opId": 3})
    assert refusal({"command": command, "opId": 3}) == (
        95,
        f"command {command!r} is not supported",
    )


def test_a_long_unknown_command_is_cut():
    with pytest.raises(UnknownCommandError) as caught:
        parse({"command": "x" * 1000, "opId": 3})
    assert caught.value.command == "x" * 40


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"opId": 3}, "command: missing"),
        ({"opId": 3, "command": None}, "command: missing"),
        ({"opId": 3, "command": 7}, "command: not a text"),
        ({"opId": 3, "command": ["ping"]}, "command: not a text"),
    ],
)
def test_a_message_without_a_command_is_answered_with_71(found, words):
    with pytest.raises(InvalidMessageError) as caught:
        parse(found)
    assert (str(caught.value), caught.value.code, caught.value.command) == (words, 71, "")


def test_a_command_may_be_a_byte_string():
    assert parse({"command": b"ping", "opId": 3}) == Ping(op_id=3)
    assert refusal_of_bytes(b"\xff\xfe") == 95


def refusal_of_bytes(command: bytes) -> int:
    with pytest.raises(UnknownCommandError) as caught:
        parse({"command": command, "opId": 3})
    return caught.value.code


# --- mandatory, optional, unknown ------------------------------------------------------------


def declared(*, mandatory: bool) -> list[tuple[str, str]]:
    found = []
    for command, kind in MESSAGES.items():
        wires = list(to_map(BY_COMMAND[command]))[2:]
        attributes = [field for field in fields(kind) if field.name != "op_id"]
        assert len(wires) == len(attributes) or command == "dlDataQue"
        by_name = {wire.lower(): wire for wire in wires}
        found += [
            (command, by_name[field.name.replace("_", "")])
            for field in attributes
            if (field.default is MISSING) is mandatory
        ]
    return found


@pytest.mark.parametrize(("command", "field"), declared(mandatory=True))
def test_a_missing_mandatory_field_is_named(command, field):
    assert refusal(without(command, field)) == (71, f"{field}: missing")


@pytest.mark.parametrize(("command", "field"), declared(mandatory=True))
def test_a_mandatory_field_that_is_nil_is_missing(command, field):
    assert refusal(content(command, **{field: None})) == (71, f"{field}: missing")


# When what depends on it is there, an optional field may be mandatory.
CONDITIONAL = {("dlDataQue", "packetCnt"), ("dlDataRes", "txTime"), ("dlDataRes", "packetCnt")}
OPTIONAL = [pair for pair in declared(mandatory=False) if pair not in CONDITIONAL]


@pytest.mark.parametrize(("command", "field"), OPTIONAL)
def test_an_optional_field_may_be_missing_or_nil(command, field):
    assert parse(without(command, field)) == parse(content(command, **{field: None}))


@pytest.mark.parametrize(
    ("command", "field"), [pair for pair in OPTIONAL if pair[1] not in ("info", "config")]
)
def test_an_invalid_optional_field_is_an_error_and_not_ignored(command, field):
    code, words = refusal(content(command, **{field: {"un": "fit"}}))
    assert (code, words.partition(": ")[0]) == (71, field)


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_fields_are_ignored(command):
    found = content(command, bsClass="A", subchan=["vm"], **{"": None})
    assert parse({**found, 7: 8, b"x": 9}) == BY_COMMAND[command]


# --- integers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "eui"),
    [
        (0, 0),
        (2**64 - 1, 2**64 - 1),
        (-1, 2**64 - 1),
        (-(2**63), 2**63),
        (EUI - 2**64, EUI),
        (12.0, 12),
    ],
)
def test_an_eui_may_be_signed(value, eui):
    assert parse({"command": "detPrp", "opId": -1, "epEui": value}).ep_eui == eui  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2**64, "epEui: 18446744073709551616 is not within 0 to 18446744073709551615"),
        (-(2**63) - 1, "epEui: -9223372036854775809 is not within 0 to 18446744073709551615"),
        (10**400, f"epEui: 1{'0' * 23} is not within 0 to 18446744073709551615"),
        ("FCA84A030000127C", "epEui: not an integer"),
        (True, "epEui: not an integer"),
        (1.5, "epEui: not an integer"),
        # A float of this size no longer says which EUI is meant.
        (1.8e19, "epEui: not an integer"),
        (math.inf, "epEui: not an integer"),
        (math.nan, "epEui: not an integer"),
        ([1], "epEui: not an integer"),
    ],
)
def test_what_is_no_eui_is_refused(value, words):
    assert refusal({"command": "detPrp", "opId": -1, "epEui": value}) == (71, words)


def test_a_short_address_out_of_range_is_an_invalid_argument():
    assert refusal(content("att", shAddr=0x10000)) == (
        22,
        "shAddr: 65536 is not within 0 to 65535",
    )
    assert refusal(content("att", shAddr="127C")) == (71, "shAddr: not an integer")


@pytest.mark.parametrize(
    ("command", "field", "largest"),
    [
        ("ulData", "packetCnt", 2**32 - 1),
        ("ulData", "format", 255),
        ("ulData", "rxTime", 2**64 - 1),
        ("att", "attachCnt", 2**24 - 1),
        ("dlDataRev", "queId", 2**64 - 1),
        ("vm.ulData", "macType", 255),
    ],
)
def test_a_number_has_the_range_of_the_specification(command, field, largest):
    assert to_map(parse(content(command, **{field: largest})))[field] == largest
    code, words = refusal(content(command, **{field: largest + 1}))
    assert (code, words) == (71, f"{field}: {largest + 1} is not within 0 to {largest}")


def test_a_queue_id_may_be_signed():
    assert parse(content("dlDataRev", queId=-1)).que_id == 2**64 - 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(("value", "time"), [(1.7e18, TIME), (1.4, 1), (1.6, 2)])
def test_a_time_may_be_a_float_and_is_rounded(value, time):
    assert parse(content("statusRsp", time=value)).time == time  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [math.nan, math.inf, "now", False, -1])
def test_a_time_that_is_none_is_refused(value):
    code, words = refusal(content("statusRsp", time=value))
    assert (code, words.partition(":")[0]) == (71, "time")


def test_a_crc_is_kept_as_it_came():
    assert parse(content("vm.ulData", crc=[-1, 2**32 - 1])).crc == (-1, 2**32 - 1)  # type: ignore[attr-defined]


# --- byte strings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        list(UUID),
        [byte - 256 if byte > 127 else byte for byte in UUID],
        [-128 if byte == 128 else byte for byte in UUID],
        tuple(UUID),
        UUID,
    ],
)
def test_a_uuid_may_be_signed_unsigned_or_binary(value):
    assert parse(content("con", snBsUuid=value)).sn_bs_uuid == UUID  # type: ignore[attr-defined]


def test_a_uuid_may_be_raw_bytes_written_as_text():
    payload = (
        b"\x86\xa7command\xa3con\xa4opId\x00\xa7version\xa51.0.0\xa5bsEui\x01\xa4bidi\xc3"
        b"\xa8snBsUuid\xb0" + UUID
    )
    assert decode(payload).sn_bs_uuid == UUID  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (list(UUID[:15]), "15 bytes found, 16 expected"),
        ([*UUID, 0], "17 bytes found, 16 expected"),
        (UUID + b"\0", "17 bytes found, 16 expected"),
        ([], "0 bytes found, 16 expected"),
        ("00010203-0405-0607-7f80-c3ff08090a0b", "36 bytes found, 16 expected"),
        ("\ud800" * 16, "not a list of bytes"),
        ([256] + [0] * 15, "256 is not a byte"),
        ([-129] + [0] * 15, "-129 is not a byte"),
        ([10**400] + [0] * 15, f"1{'0' * 23} is not a byte"),
        ([1.0] * 16, "not a list of bytes"),
        ([True] * 16, "not a list of bytes"),
        (["00"] * 16, "not a list of bytes"),
        (7, "not a list of bytes"),
        ({}, "not a list of bytes"),
    ],
)
def test_what_is_no_uuid_is_refused(value, words):
    assert refusal(content("con", snBsUuid=value)) == (71, f"snBsUuid: {words}")


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ([1, 255], b"\x01\xff"),
        ([1, -1], b"\x01\xff"),
        ([255, -1], b"\xff\xff"),
        ([-128, 127], b"\x80\x7f"),
        (b"\x01\xff", b"\x01\xff"),
        ([], b""),
        (b"", b""),
    ],
)
def test_user_data_may_be_signed_unsigned_or_binary(value, data):
    assert parse(content("ulData", userData=value)).user_data == data  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1, 256], "256 is not a byte"),
        ([1, -129], "-129 is not a byte"),
        # It could be meant as hexadecimal digits.
        ("01ff", "not a list of bytes"),
        ([None], "not a list of bytes"),
    ],
)
def test_what_is_no_user_data_is_refused(value, words):
    assert refusal(content("ulData", userData=value)) == (71, f"userData: {words}")


@pytest.mark.parametrize("field", ["nonce", "sign"])
def test_four_bytes_may_be_binary_but_not_five(field):
    assert to_map(parse(content("att", **{field: b"\xa1\xb2\xc3\xd4"})))[field] == [
        0xA1,
        0xB2,
        0xC3,
        0xD4,
    ]
    assert refusal(content("att", **{field: bytes(5)})) == (
        71,
        f"{field}: 5 bytes found, 4 expected",
    )


def test_a_list_of_byte_strings_may_hold_any_form():
    found = content("dlDataQue", userData=[b"\x01", [-1]])
    assert parse(found).user_data == (b"\x01", b"\xff")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "words"),
    [(b"\x01\x02", "not a list of byte lists"), ([1, 2], "not a list of bytes")],
)
def test_what_is_no_list_of_byte_strings_is_refused(value, words):
    assert refusal(content("dlDataQue", userData=value)) == (71, f"userData: {words}")


@pytest.mark.parametrize(
    ("value", "types"), [([1, 255], (1, 255)), (b"\x01\xff", (1, 255)), ([], ())]
)
def test_a_list_of_integers_may_be_binary(value, types):
    assert parse(content("vm.statusRsp", macTypes=value)).mac_types == types  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "not a list of integers"),
        ([256], "256 is not within 0 to 255"),
        (["a"], "not an integer"),
    ],
)
def test_what_is_no_list_of_integers_is_refused(value, words):
    assert refusal(content("vm.statusRsp", macTypes=value)) == (71, f"macTypes: {words}")


# --- floats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packed", "value"),
    [
        (b"\xca" + struct.pack(">f", -68.25), -68.25),
        (b"\xcb" + struct.pack(">d", -68.2999), -68.2999),
        (b"\xd0\xbc", -68.0),
        (b"\x17", 23.0),
    ],
)
def test_a_float_may_be_single_double_or_whole(packed, value):
    payload = SAMPLES[COMMANDS.index("dlRxStat")][0]
    old = b"\xa7dlRxSnr\xcb\x40\x2b\x00\x00\x00\x00\x00\x00"
    assert old in payload
    status = decode(payload.replace(old, b"\xa7dlRxSnr" + packed))
    assert status.dl_rx_snr == value  # type: ignore[attr-defined]
    assert type(status.dl_rx_snr) is float  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (math.nan, "not a finite number"),
        (math.inf, "not a finite number"),
        (-math.inf, "not a finite number"),
        (10**400, "not a finite number"),
        ("23.5", "not a number"),
        (True, "not a number"),
        ([23.5], "not a number"),
    ],
)
def test_what_is_no_finite_number_is_refused(value, words):
    assert refusal(content("ulData", snr=value)) == (71, f"snr: {words}")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_json_that_is_no_finite_number_is_refused_with_its_name(text):
    payload = encode(BY_COMMAND["ulData"], as_json=True).replace(
        b'"snr":23.5', b'"snr":' + text.encode()
    )
    with pytest.raises(InvalidMessageError) as caught:
        decode(payload)
    assert str(caught.value) == "snr: not a finite number"


def test_a_priority_is_single_precision():
    message = replace(BY_COMMAND["dlDataQue"], prio=0.1)  # type: ignore[call-arg]
    assert b"\xa4prio\xca\x3d\xcc\xcc\xcd" in encode(message)
    assert refusal(content("dlDataQue", prio=1e39)) == (
        71,
        "prio: too large for single precision",
    )


@pytest.mark.parametrize(
    ("value", "position"),
    [
        ([0, 0, 0], (0.0, 0.0, 0.0)),
        ([47.5, 12.75, 300], (47.5, 12.75, 300.0)),
        ((47.5, 12.75, 300.0), (47.5, 12.75, 300.0)),
        (None, None),
    ],
)
def test_a_position_has_three_numbers_or_is_absent(value, position):
    assert parse(content("con", geoLocation=value)).geo_location == position  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([47.5, 12.75], "2 numbers found, 3 expected"),
        ([], "0 numbers found, 3 expected"),
        ([1.0, 2.0, 3.0, 4.0], "4 numbers found, 3 expected"),
        ("47.5,12.75,300", "not a list of numbers"),
        ({"lat": 47.5}, "not a list of numbers"),
        ([47.5, None, 300.0], "not a number"),
        ([47.5, math.nan, 300.0], "not a finite number"),
    ],
)
def test_what_is_no_position_is_refused(value, words):
    assert refusal(content("con", geoLocation=value)) == (71, f"geoLocation: {words}")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.0], "not a map"),
        ({"snr": [1.0], "rssi": [2.0]}, "frequency: missing"),
        (
            {"snr": [1.0], "rssi": [2.0], "frequency": [3.0, 4.0]},
            "the lists differ in length",
        ),
        ({"snr": 1.0, "rssi": [2.0], "frequency": [3.0]}, "snr: not a list of numbers"),
    ],
)
def test_what_are_no_subpackets_is_refused(value, words):
    assert refusal(content("ulData", subpackets=value)) == (71, f"subpackets: {words}")


def test_subpackets_may_lack_a_phase_and_hold_more_than_we_know():
    value = {"snr": [1], "rssi": [2.5], "frequency": [3.5], "phase": None, "extra": 1}
    assert parse(content("ulData", subpackets=value)).subpackets == Subpackets(  # type: ignore[attr-defined]
        snr=(1.0,), rssi=(2.5,), frequency=(3.5,)
    )


# --- text, truth, choice, anything -----------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("röof", "röof"),
        ("röof".encode(), "röof"),
        ("", ""),
        ("a\udcffb", "a?b"),
        ("\ud800", "?"),
    ],
)
def test_a_text_may_be_a_byte_string_or_in_a_wrong_encoding(value, text):
    assert parse(content("con", name=value)).name == text  # type: ignore[attr-defined]


def test_a_name_in_latin_1_does_not_cost_the_connection():
    payload = SAMPLES[0][0].replace(b"\xa4name\xa5r\xc3\xb6of", b"\xa4name\xa4r\xf6of")
    assert decode(payload).name == "r?of"  # type: ignore[attr-defined]


def test_a_name_in_json_can_be_written_anywhere():
    payload = encode(BY_COMMAND["con"], as_json=True).replace(b"r\\u00f6of", b"\\ud800")
    assert decode(payload).name == "?"  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [7, b"\xff", ["a"], True, {}])
def test_what_is_no_text_is_refused(value):
    assert refusal(content("con", name=value)) == (71, "name: not a text")


@pytest.mark.parametrize(("value", "truth"), [(True, True), (False, False), (1, True), (0, False)])
def test_truth_may_be_a_number(value, truth):
    assert parse(content("con", bidi=value)).bidi is truth  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", [2, -1, 1.0, "true", []])
def test_what_is_neither_true_nor_false_is_refused(value):
    assert refusal(content("con", bidi=value)) == (71, "bidi: not true or false")


def test_a_response_is_only_expected_in_a_window():
    found = content("ulData", dlOpen=False, responseExp=True)
    assert refusal(found) == (71, "responseExp: true without dlOpen")


@pytest.mark.parametrize("result", ["success", "SENT", ""])
def test_an_unknown_result_is_refused(result):
    assert refusal(content("dlDataRes", result=result)) == (
        71,
        f"result: {result!r} is none of sent, expired, invalid",
    )


def test_a_result_may_be_a_byte_string():
    assert parse(content("dlDataRes", result=b"sent")) == BY_COMMAND["dlDataRes"]


def test_an_expired_downlink_may_have_a_transmission_time_of_zero():
    found = content("dlDataRes", result="expired", txTime=0, packetCnt=0)
    assert parse(found) == DownlinkDataResult(
        op_id=5, ep_eui=EUI, que_id=7, result="expired", tx_time=0, packet_cnt=0
    )


@pytest.mark.parametrize("field", ["txTime", "packetCnt"])
def test_a_sent_downlink_says_when_and_where(field):
    assert refusal(without("dlDataRes", field)) == (
        71,
        f"{field}: missing, and the result is sent",
    )


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("", ""),
        ({}, {}),
        ({"a": [1, 2.5, True, None, "x"]}, {"a": [1, 2.5, True, None, "x"]}),
        (None, None),
        (7, 7),
        ([1, (2, 3)], [1, [2, 3]]),
        (b"\x01\xff", [1, 255]),
        ("a\ud800", "a?"),
        ({7: 8, b"k": 9, "\ud800": 0}, {"7": 8, "b'k'": 9, "?": 0}),
        (math.nan, "nan"),
        (10**20, "1" + "0" * 20),
    ],
)
def test_info_may_be_anything_and_can_be_written_as_json(value, kept):
    message = parse(content("con", info=value))
    assert message.info == kept  # type: ignore[attr-defined]
    assert json.loads(encode(message, as_json=True)).get("info") == kept


@pytest.mark.parametrize("empty", [[], {}])
def test_info_may_be_deep_and_is_cut(empty):
    value: object = empty
    for _ in range(100):
        value = [value]
    kept: object = "…"
    for _ in range(MAX_DEPTH):
        kept = [kept]
    assert parse(content("con", info=value)).info == kept  # type: ignore[attr-defined]


def test_an_empty_extension_is_kept_as_a_list():
    payload = SAMPLES[0][0].replace(b"\xa4info\x81\xa4slot\x02", b"\xa4info\xc7\x00\x05")
    assert decode(payload).info == [5, []]  # type: ignore[attr-defined]


# --- what we send obeys the same rules -------------------------------------------------------

PROPAGATE = BY_COMMAND["attPrp"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            replace(PROPAGATE, sh_addr=0x10000),  # type: ignore[call-arg]
            "attPrp: shAddr: 65536 is not within 0 to 65535",
        ),
        (
            replace(PROPAGATE, nwk_sn_key=KEY[:4]),  # type: ignore[call-arg]
            "attPrp: nwkSnKey: 4 bytes found, 16 expected",
        ),
        (
            replace(PROPAGATE, ep_eui=None),  # type: ignore[call-arg]
            "attPrp: epEui: not an integer",
        ),
        (replace(PROPAGATE, op_id=2**63), "attPrp: opId: not an integer of 64 bits"),
        (
            DownlinkDataQueue(ep_eui=1, que_id=2, cnt_depend=False, user_data=()),
            "dlDataQue: userData: exactly one entry without cntDepend",
        ),
        (
            replace(
                BY_COMMAND["ulData"],
                subpackets=Subpackets(snr=(1.0,), rssi=(), frequency=()),  # type: ignore[call-arg]
            ),
            "ulData: subpackets: the lists differ in length",
        ),
        (
            replace(BY_COMMAND["ulData"], snr=math.nan),  # type: ignore[call-arg]
            "ulData: snr: not a finite number",
        ),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_message_of_ours_that_breaks_a_rule_is_our_fault(message, words, as_json):
    with pytest.raises(LocalProtocolError) as caught:
        encode(message, as_json=as_json)
    assert str(caught.value) == words


def test_a_message_can_be_shown():
    assert to_map(Error(op_id=-3, code=2, message="not held")) == {
        "command": "error",
        "opId": -3,
        "code": 2,
        "message": "not held",
    }


def test_the_types_of_the_samples_are_those_that_callers_import():
    kinds = (Attach, AttachPropagate, ConnectResponse)
    assert [type(BY_COMMAND[kind.command]) for kind in kinds] == list(kinds)


def test_our_own_error_codes_can_be_sent():
    assert to_map(Error(op_id=1, code=Code.ENOSPC, message="full")) == {
        "command": "error",
        "opId": 1,
        "code": 28,
        "message": "full",
    }
    assert type(to_map(Error(op_id=1, code=Code.ENOSPC, message=""))["code"]) is int


def test_more_user_data_than_any_radio_carries_is_refused():
    message = to_map(BY_COMMAND["ulData"]) | {"userData": [0] * (MAX_USER_DATA + 1)}
    with pytest.raises(InvalidMessageError) as caught:
        parse(message)
    assert str(caught.value) == "userData: 1025 bytes found, 1024 is the limit"


def test_a_name_that_is_too_long_to_be_shown_is_cut():
    found = parse(to_map(BY_COMMAND["con"]) | {"name": "n" * 100_000, "vendor": b"v" * 999})
    assert isinstance(found, Connect)
    assert (found.name, found.vendor) == ("n" * MAX_TEXT, "v" * MAX_TEXT)
