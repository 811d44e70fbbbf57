"""JSON-RPC 2.0 envelopes, and what goes wrong with a request.

Both ends are here. The service reads with `parse_calls` and writes with `answer_pieces` and
`event_text`; a client writes with `request_text` and reads with `parse_reply`.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

from bssci.core.protocol.errors import BssciError, LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "MAX_ANSWER",
    "MAX_BATCH",
    "MAX_REQUEST",
    "Answer",
    "BusyError",
    "Call",
    "Event",
    "Failure",
    "Id",
    "InvalidRequestError",
    "NoAnswerError",
    "NotFoundError",
    "Notification",
    "Params",
    "Request",
    "RequestError",
    "Result",
    "RpcCode",
    "Told",
    "answer_pieces",
    "event_text",
    "failure_of",
    "parse_calls",
    "parse_reply",
    "request_text",
    "unknown_method",
]

# The longest requests are imports. A row of a sensor is 300 characters, so that a thousand of them
# fit three times.
MAX_REQUEST = 1024 * 1024  # characters

# The longest answers are listings: 10,000 sensors at ten base stations each are 12 MiB.
MAX_ANSWER = 64 * 1024 * 1024  # characters

MAX_BATCH = 100  # requests in one message

VERSION = "2.0"


# --- what goes wrong ---


class RpcCode(IntEnum):
    """The codes of JSON-RPC 2.0, section 5.1; `REFUSED` is ours."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    REFUSED = -32000


class RequestError(BssciError):
    """What was asked cannot be done: what, why, and in `hint` what to do about it.

    Attributes:
        exit_code: the exit code of the command line that stands for it.
        hint: what to do next; may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class InvalidRequestError(RequestError):
    """The request itself is wrong: a parameter that cannot be what it says."""

    exit_code: ClassVar[int] = 2


class NotFoundError(RequestError):
    """There is no such sensor, base station or setting."""

    exit_code: ClassVar[int] = 5


class NoAnswerError(RequestError):
    """A base station was asked and does not answer in time; it may still do what it was asked."""

    exit_code: ClassVar[int] = 7


class BusyError(RequestError):
    """Too much is asked at once; the same request can be made later."""


_BY_EXIT = {
    kind.exit_code: kind
    for kind in (RequestError, InvalidRequestError, NotFoundError, NoAnswerError)
}


# --- envelopes ---

Id = str | int | float | None
Params = dict[str, object] | list[object]


@dataclass(frozen=True, slots=True)
class Request:
    """A call that is to be answered."""

    id: Id
    method: str
    params: Params


@dataclass(frozen=True, slots=True)
class Notification:
    """A call that nobody wants to have answered, not even with an error."""

    method: str
    params: Params


@dataclass(frozen=True, slots=True)
class Result:
    """What a method gave."""

    id: Id
    value: object


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong instead; `exit` and `hint` as in `RequestError`."""

    id: Id
    code: int
    message: str
    exit: int = 1
    hint: str = ""

    def error(self) -> RequestError:
        """The error that the caller of the method is to meet."""
        return _BY_EXIT.get(self.exit, RequestError)(self.message, hint=self.hint)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        kind: `uplink`, `station`, `sensor`, `downlink`, `service`; `gap`: events were lost, and
            `data["lost"]` says how many.
        time: Unix seconds.
        data: as in the JSON shapes of the command line.
    """

    kind: str
    time: float
    data: dict[str, object]


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and the subscription it is for."""

    subscription: int
    event: Event


Call = Request | Notification | Failure
Answer = Result | Failure


# --- the service reads ---


def parse_calls(text: str | bytes) -> Call | list[Call]:
    """What a message asks for; a list if it is a batch. A `Failure` goes back as it is."""
    if isinstance(text, bytes):
        return Failure(
            None, RpcCode.PARSE_ERROR, "a binary message; a text of JSON is expected", exit=2
        )
    try:
        content = _load(text)
    except (ValueError, RecursionError) as error:
        return Failure(None, RpcCode.PARSE_ERROR, f"this is no JSON: {error}", exit=2)
    if not isinstance(content, list):
        return _call(content)
    if not 1 <= len(content) <= MAX_BATCH:
        return _invalid(None, f"a batch has 1 to {MAX_BATCH} requests, this one {len(content)}")
    return [_call(each) for each in content]


def _call(content: object) -> Call:
    if not isinstance(content, dict):
        return _invalid(None, "a request is an object")
    call_id, method, params = content.get("id"), content.get("method"), content.get("params", {})
    if isinstance(call_id, bool) or not isinstance(call_id, str | int | float | None):
        return _invalid(None, "id: a text or a number is expected")
    if content.get("jsonrpc") != VERSION:
        return _invalid(call_id, f'jsonrpc: the text "{VERSION}" is expected')
    if not isinstance(method, str):
        return _invalid(call_id, "method: a text is expected")
    if not isinstance(params, dict | list):
        return _invalid(call_id, "params: an object or a list is expected")
    return Request(call_id, method, params) if "id" in content else Notification(method, params)


def _invalid(call_id: Id, message: str) -> Failure:
    return Failure(call_id, RpcCode.INVALID_REQUEST, message, exit=2)


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number


_decode = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _load(text: str) -> object:
    """What a text of JSON says, with nothing in it that could not be said or stored again."""
    content: object = _decode(text)
    if _SURROGATE.search(text):
        json.dumps(content, ensure_ascii=False).encode()  # fails if one has lost its other half
    return content


# --- the service writes ---


def failure_of(call_id: Id, error: Exception) -> Failure:
    """What a caller is told of an error; `INTERNAL_ERROR` if nobody raised it on purpose."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if not isinstance(error, BssciError) or isinstance(error, LocalProtocolError):
        fault = "a fault of the service; its log says more"
        return Failure(call_id, RpcCode.INTERNAL_ERROR, fault)
    is_invalid = isinstance(error, InvalidRequestError | ValueError)
    return Failure(
        call_id,
        RpcCode.INVALID_PARAMS if is_invalid else RpcCode.REFUSED,
        str(error),
        exit=getattr(error, "exit_code", 2 if is_invalid else 1),
        hint=getattr(error, "hint", ""),
    )


def unknown_method(call_id: Id, name: str) -> Failure:
    """There is no method of that name."""
    return Failure(
        call_id,
        RpcCode.METHOD_NOT_FOUND,
        f"there is no method {name[:80]!r}",
        exit=2,
        hint="service.info lists the methods of this version",
    )


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def answer_pieces(answer: Answer) -> Iterator[str]:
    """The text of an answer, piece by piece.

    Encoding a long listing takes long. Each of its entries is a piece, and the caller may do
    something else in between.

    Raises:
        TypeError, ValueError: a result is nothing that JSON can say.
    """
    yield f'{{"jsonrpc":"{VERSION}","id":{_encode(answer.id)},'
    if isinstance(answer, Result):
        yield '"result":'
        yield from _pieces(answer.value)
    else:
        data = {"exit": answer.exit, "hint": answer.hint}
        yield '"error":'
        yield _encode({"code": int(answer.code), "message": answer.message, "data": data})
    yield "}"


def _pieces(value: object) -> Iterator[str]:
    if not isinstance(value, dict):
        yield from _list_pieces(value)
        return
    for number, (key, each) in enumerate(value.items()):
        # An object of one, without its braces: so all kinds of keys are as they always are.
        yield ("," if number else "{") + _encode({key: None})[1:-5]
        yield from _list_pieces(each)
    yield "}" if value else "{}"


def _list_pieces(value: object) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield _encode(value)
        return
    for number, each in enumerate(value):
        yield ("," if number else "[") + _encode(each)
    yield "]" if value else "[]"


def event_text(told: Told) -> str:
    """The notification that tells an event."""
    event = told.event
    shown = {"subscription": told.subscription, "kind": event.kind, "time": event.time}
    params = {**shown, "data": event.data}
    return _encode({"jsonrpc": VERSION, "method": "event", "params": params})


# --- a client writes and reads ---


def request_text(call_id: int, method: str, params: Mapping[str, object]) -> str:
    """The text of a request.

    Raises:
        InvalidRequestError: it is longer than the service takes.
        TypeError, ValueError: a parameter is nothing that JSON can say.
    """
    text = _encode({"jsonrpc": VERSION, "id": call_id, "method": method, "params": {**params}})
    if len(text) > MAX_REQUEST:
        raise InvalidRequestError(
            f"{method}: the request has {len(text)} characters, at most {MAX_REQUEST} are taken",
            hint="ask for less at once",
        )
    return text


def parse_reply(text: str | bytes) -> Answer | Told | None:
    """What a service says; None: a notification that we do not know.

    Raises:
        RemoteProtocolError: this is no JSON-RPC.
    """
    content: object = None
    try:
        content = _decode(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"the answer is no JSON: {error}") from error
    match content:
        case {"jsonrpc": "2.0", "id": (str() | int() | float() | None) as call_id, "result": value}:
            return Result(call_id, value)
        case {"jsonrpc": "2.0", "id": (str() | int() | float() | None) as call_id, "error": error}:
            return _failure(call_id, error)
        case {"jsonrpc": "2.0", "method": "event", "params": params}:
            return _told(params)
        case {"jsonrpc": "2.0", "method": str()}:
            return None
    raise RemoteProtocolError("the answer is no JSON-RPC 2.0")


def _failure(call_id: Id, error: object) -> Failure:
    match error:
        case {
            "code": int(code),
            "message": str(message),
            "data": {"exit": int(exit_code), "hint": str(hint)},
        }:
            return Failure(call_id, code, message, exit=exit_code, hint=hint)
        case {"code": int(code), "message": str(message)}:
            return Failure(call_id, code, message)
    raise RemoteProtocolError("the answer is an error without code and message")


def _told(params: object) -> Told:
    match params:
        case {
            "subscription": int(subscription),
            "kind": str(kind),
            "time": float() | int() as time,
            "data": dict(data),
        }:
            return Told(subscription, Event(kind, time, data))
    raise RemoteProtocolError("an event without subscription, kind, time and data")
