"""`rpc`: what goes over the wire, both ways, and what a wrong message is told."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.rpc import (
    MAX_BATCH,
    MAX_REQUEST,
    BusyError,
    Event,
    Failure,
    InvalidRequestError,
    NoAnswerError,
    NotFoundError,
    Notification,
    Request,
    RequestError,
    Result,
    RpcCode,
    Told,
    answer_pieces,
    event_text,
    failure_of,
    parse_calls,
    parse_reply,
    request_text,
    unknown_method,
)
from bssci.core.protocol.errors import (
    BssciError,
    InvalidEuiError,
    LocalProtocolError,
    RemoteProtocolError,
    StorageError,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def written(answer: Result | Failure) -> str:
    return "".join(answer_pieces(answer))


# --- the service reads -----------------------------------------------------------------------


def test_a_request_has_an_id_and_a_notification_has_none():
    told = '{"jsonrpc": "2.0", "method": "sensors.get", "params": {"eui": "AB"}'
    assert parse_calls(told + ', "id": 7}') == Request(7, "sensors.get", {"eui": "AB"})
    assert parse_calls(told + "}") == Notification("sensors.get", {"eui": "AB"})


@pytest.mark.parametrize("call_id", ["7", 7, 7.5, None])
def test_an_id_is_a_text_a_number_or_null(call_id):
    told = json.dumps({"jsonrpc": "2.0", "method": "m", "id": call_id})
    assert parse_calls(told) == Request(call_id, "m", {})


def test_parameters_may_come_by_position():
    told = '{"jsonrpc": "2.0", "method": "m", "params": [1, "a"], "id": 1}'
    assert parse_calls(told) == Request(1, "m", [1, "a"])


def test_a_batch_is_read_one_by_one():
    told = '[{"jsonrpc": "2.0", "method": "m"}, 1, {"jsonrpc": "2.0", "method": "n", "id": 2}]'
    assert parse_calls(told) == [
        Notification("m", {}),
        Failure(None, RpcCode.INVALID_REQUEST, "a request is an object", exit=2),
        Request(2, "n", {}),
    ]


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
def test_a_batch_that_is_empty_or_too_long_is_refused_whole(count):
    refused = f"a batch has 1 to 100 requests, this one {count}"
    assert parse_calls(json.dumps([{}] * count)) == Failure(
        None, RpcCode.INVALID_REQUEST, refused, exit=2
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("frobnicate", "this is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"a": NaN}', "this is no JSON: NaN is no number of JSON"),
        ('{"a": -Infinity}', "this is no JSON: -Infinity is no number of JSON"),
        ('{"a": 1e999}', "this is no JSON: 1e999 is too large a number"),
        (b"{}", "a binary message; a text of JSON is expected"),
    ],
)
def test_what_is_no_json_is_a_parse_error(text, fault):
    assert parse_calls(text) == Failure(None, RpcCode.PARSE_ERROR, fault, exit=2)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "1" * 5_000, '{"name": "\\ud800"}', '{"\\uDFFF": 1}'],
    ids=["nested too deep", "too many digits", "half a character", "half a character as a name"],
)
def test_what_would_break_something_further_in_is_a_parse_error(text):
    refused = parse_calls(text)
    assert isinstance(refused, Failure)
    assert (refused.id, refused.code, refused.exit) == (None, RpcCode.PARSE_ERROR, 2)


def test_characters_beyond_16_bits_may_come_as_two_halves():
    told = '{"jsonrpc": "2.0", "method": "m", "params": ["\\ud83d\\udce1"]}'
    assert parse_calls(told) == Notification("m", ["📡"])


@pytest.mark.parametrize(
    ("content", "call_id", "fault"),
    [
        (7, None, "a request is an object"),
        ({"id": True}, None, "id: a text or a number is expected"),
        ({"id": [1]}, None, "id: a text or a number is expected"),
        ({"id": 1, "method": "m"}, 1, 'jsonrpc: the text "2.0" is expected'),
        ({"id": 1, "method": "m", "jsonrpc": 2.0}, 1, 'jsonrpc: the text "2.0" is expected'),
        ({"id": 1, "jsonrpc": "2.0"}, 1, "method: a text is expected"),
        (
            {"id": 1, "jsonrpc": "2.0", "method": "m", "params": "a"},
            1,
            "params: an object or a list is expected",
        ),
    ],
)
def test_what_is_no_request_is_told_what_is_wrong_with_it(content, call_id, fault):
    assert parse_calls(json.dumps(content)) == Failure(
        call_id, RpcCode.INVALID_REQUEST, fault, exit=2
    )


@given(st.text() | VALUES.map(json.dumps))
def test_nothing_that_is_said_can_make_reading_fail(text):
    assert isinstance(parse_calls(text), Request | Notification | Failure | list)


# --- the service writes ----------------------------------------------------------------------


def test_an_answer_is_compact_json():
    assert written(Result(7, {"eui": "AB", "ok": True})) == (
        '{"jsonrpc":"2.0","id":7,"result":{"eui":"AB","ok":true}}'
    )


def test_an_error_says_exit_code_and_hint_besides():
    assert written(Failure("a", RpcCode.REFUSED, "no", exit=5, hint="try b")) == (
        '{"jsonrpc":"2.0","id":"a","error":'
        '{"code":-32000,"message":"no","data":{"exit":5,"hint":"try b"}}}'
    )


@given(VALUES)
def test_an_answer_in_pieces_says_the_same_as_one_in_one_piece(value):
    assert json.loads(written(Result(1, value))) == {"jsonrpc": "2.0", "id": 1, "result": value}


def test_each_entry_of_a_listing_is_a_piece():
    rows = [{"row": 1}, {"row": 2}]
    assert list(answer_pieces(Result(1, rows)))[2:] == ['[{"row":1}', ',{"row":2}', "]", "}"]
    assert list(answer_pieces(Result(1, {"done": 2, "rows": rows})))[2:] == [
        '{"done":', "2", ',"rows":', '[{"row":1}', ',{"row":2}', "]", "}", "}",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), object(), [{1, 2}]])
def test_a_result_that_json_cannot_say_is_our_fault(value):
    with pytest.raises((TypeError, ValueError)):
        written(Result(1, value))


def test_an_event_is_a_notification_with_the_number_of_its_subscription():
    told = Told(3, Event("sensor", 1764068000.5, {"eui": "FCA84A030000127C"}))
    assert event_text(told) == (
        '{"jsonrpc":"2.0","method":"event","params":{"subscription":3,"kind":"sensor",'
        '"time":1764068000.5,"data":{"eui":"FCA84A030000127C"}}}'
    )


class _ConfigError(BssciError):
    exit_code = 2


@pytest.mark.parametrize(
    ("error", "code", "message", "exit_code", "hint"),
    [
        (RequestError("no", hint="b"), RpcCode.REFUSED, "no", 1, "b"),
        (NotFoundError("no sensor"), RpcCode.REFUSED, "no sensor", 5, ""),
        (NoAnswerError("silent", hint="b"), RpcCode.REFUSED, "silent", 7, "b"),
        (BusyError("busy"), RpcCode.REFUSED, "busy", 1, ""),
        (InvalidRequestError("bad"), RpcCode.INVALID_PARAMS, "bad", 2, ""),
        (InvalidEuiError("bad EUI"), RpcCode.INVALID_PARAMS, "bad EUI", 2, ""),
        (StorageError("disk full"), RpcCode.REFUSED, "disk full", 1, ""),
        (_ConfigError("bad file"), RpcCode.REFUSED, "bad file", 2, ""),
        (ExceptionGroup("", [NotFoundError("x")]), RpcCode.REFUSED, "x", 5, ""),
    ],
)
def test_what_is_raised_on_purpose_is_told_as_it_is(error, code, message, exit_code, hint):
    assert failure_of(1, error) == Failure(1, code, message, exit=exit_code, hint=hint)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("secret"),
        LocalProtocolError("secret"),
        ExceptionGroup("secret", [RequestError("a"), RequestError("b")]),
    ],
)
def test_of_a_fault_of_ours_nothing_is_told_but_that_it_is_one(error):
    assert failure_of("a", error) == Failure(
        "a", RpcCode.INTERNAL_ERROR, "a fault of the service; its log says more", exit=1
    )


def test_an_unknown_method_is_named_and_where_to_look():
    assert unknown_method(1, "sensors.frobnicate") == Failure(
        1,
        RpcCode.METHOD_NOT_FOUND,
        "there is no method 'sensors.frobnicate'",
        exit=2,
        hint="service.info lists the methods of this version",
    )


# --- a client writes and reads ---------------------------------------------------------------


def test_what_a_client_writes_is_what_the_service_reads():
    text = request_text(7, "sensors.get", {"eui": "AB"})
    assert text == '{"jsonrpc":"2.0","id":7,"method":"sensors.get","params":{"eui":"AB"}}'
    assert parse_calls(text) == Request(7, "sensors.get", {"eui": "AB"})


def test_a_request_that_the_service_would_not_take_is_not_even_written():
    with pytest.raises(InvalidRequestError) as refused:
        request_text(7, "sensors.import", {"rows": "x" * MAX_REQUEST})
    assert str(refused.value) == (
        "sensors.import: the request has 1048647 characters, at most 1048576 are taken"
    )
    assert refused.value.hint == "ask for less at once"


@given(VALUES)
def test_what_the_service_answers_is_what_a_client_reads(value):
    assert parse_reply(written(Result(7, value))) == Result(7, value)


def test_an_event_arrives_as_it_was_told():
    told = Told(3, Event("gap", 1764068000.5, {"lost": 17}))
    assert parse_reply(event_text(told)) == told


def test_a_notification_from_a_newer_service_is_passed_over():
    assert parse_reply('{"jsonrpc": "2.0", "method": "weather", "params": {}}') is None


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (RequestError("no", hint="b"), RequestError),
        (NotFoundError("no", hint="b"), NotFoundError),
        (NoAnswerError("no", hint="b"), NoAnswerError),
        (InvalidRequestError("no", hint="b"), InvalidRequestError),
        (BusyError("no", hint="b"), RequestError),
        (KeyError("no"), RequestError),
    ],
)
def test_an_error_comes_out_of_the_client_as_it_went_into_the_service(raised, kind):
    reply = parse_reply(written(failure_of(7, raised)))
    assert isinstance(reply, Failure)
    error = reply.error()
    assert type(error) is kind
    assert (str(error), error.hint, error.exit_code) == (
        reply.message,
        getattr(raised, "hint", ""),
        kind.exit_code,
    )


def test_an_exit_code_that_we_do_not_know_is_a_refusal():
    assert type(Failure(1, -32000, "no", exit=42).error()) is RequestError


def test_an_error_may_come_without_exit_code_and_hint():
    reply = '{"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "no"}}'
    assert parse_reply(reply) == Failure(1, -32000, "no", exit=1, hint="")


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        "frobnicate",
        "[" * 100_000,
        "{}",
        '{"jsonrpc": "1.0", "id": 1, "result": 1}',
        '{"jsonrpc": "2.0", "id": [], "result": 1}',
        '{"jsonrpc": "2.0", "id": 1, "error": "no"}',
        '{"jsonrpc": "2.0", "method": "event", "params": {"kind": "sensor"}}',
    ],
)
def test_a_service_that_speaks_something_else_is_not_believed(text):
    with pytest.raises(RemoteProtocolError):
        parse_reply(text)
