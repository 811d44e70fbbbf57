"""Messages to payloads and back: MessagePack or JSON, and what is forgiven (BSSCI 1.0.0, 4.3-4.5).

What is sent follows the specification to the letter: byte strings as arrays of unsigned integers,
floats in double precision (`prio` in single), absent fields left out, no extra ones. What is
accepted is wider, because real stacks differ: every integer width and sign, byte strings as arrays
of signed integers or as `bin`, floats of either precision or whole numbers, nil for an absent
field, text in a wrong encoding, unknown fields. What is left, a missing mandatory field or one with
an invalid value, is a protocol error that names the field.
"""

from __future__ import annotations

import json
import struct
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import IntEnum
from math import isfinite
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    TypeGuard,
    Union,
    assert_never,
    get_args,
    get_origin,
    get_type_hints,
)

import msgpack

from bssci.core.protocol.errors import (
    Code,
    InvalidMessageError,
    LocalProtocolError,
    MalformedPayloadError,
    NotAMapError,
    RemoteProtocolError,
    TrailingBytesError,
    UnknownCommandError,
)
from bssci.core.protocol.frames import MAX_PAYLOAD
from bssci.core.protocol.messages import (
    MAX_TEXT,
    MAX_USER_DATA,
    MESSAGES,
    Anything,
    Integer,
    Integers,
    Marker,
    Message,
    OctetLists,
    Octets,
    Real,
    Reals,
    Subpackets,
)

__all__ = ["decode", "encode", "is_json", "parse", "to_map", "unpack"]

# What one payload may hold inside. A list of subpackets has some dozens of elements and a message
# some twenty fields; these bounds keep a hostile payload from costing more than its bytes.
MAX_LIST = 65_536
MAX_FIELDS = 1_024

# How deep `info` and `config` may nest before an ellipsis takes the place of what is inside.
MAX_DEPTH = 8

_JSON_BEGINS = (b"{", b" ", b"\t", b"\r", b"\n")

MAX_FLOAT32 = 3.4028234663852886e38

Map = dict[Any, Any]
Convert = Callable[[Any], Any]


def decode(payload: bytes) -> Message:
    """The message that a payload holds.

    Raises:
        MalformedPayloadError, NotAMapError, TrailingBytesError: it is not one MessagePack map or
            JSON object; framing can no longer be trusted, close the connection.
        RemoteProtocolError: it has no readable operation ID, so it cannot be answered.
        UnknownCommandError: answer error 95.
        InvalidMessageError: answer the error it carries.
    """
    return parse(unpack(payload))


def encode(message: Message, *, as_json: bool = False) -> bytes:
    """The payload that says this message.

    Raises:
        LocalProtocolError: the message breaks a rule of its type; names the field.
    """
    layout = _LAYOUTS[type(message)]
    if as_json:
        return json.dumps(layout.to_map(message), separators=(",", ":")).encode()
    return layout.pack(message)


def is_json(payload: bytes) -> bool:
    """Whether a payload is written in JSON: no MessagePack map begins like a JSON text."""
    return payload[:1] in _JSON_BEGINS


def unpack(payload: bytes) -> Map:
    """The map that a payload holds, its values as they came.

    Raises:
        MalformedPayloadError, NotAMapError, TrailingBytesError: as `decode`.
    """
    found = _unpack_json(payload) if is_json(payload) else _unpack_messagepack(payload)
    if not isinstance(found, dict):
        raise NotAMapError(f"a payload holds {type(found).__name__}, expected a map")
    return found


def parse(content: Map) -> Message:
    """The message that a map means.

    Raises:
        RemoteProtocolError, UnknownCommandError, InvalidMessageError: as `decode`.
    """
    op_id = content.get("opId")
    if not _is_op_id(op_id):
        raise RemoteProtocolError("a message without an opId of 64 bits: it cannot be answered")
    command = content.get("command")
    if isinstance(command, bytes):
        command = command.decode(errors="replace")
    layout = _BY_COMMAND.get(command) if isinstance(command, str) else None
    if layout is None:
        raise _unknown(command, op_id)
    return layout.parse(content, op_id)


def to_map(message: Message) -> dict[str, Any]:
    """The map that says this message, for showing it.

    Raises:
        LocalProtocolError: the message breaks a rule of its type; names the field.
    """
    return _LAYOUTS[type(message)].to_map(message)


def _is_op_id(value: object) -> TypeGuard[int]:
    return type(value) is int and -(2**63) <= value < 2**63


def _unknown(command: object, op_id: int) -> InvalidMessageError:
    if command is None:
        return InvalidMessageError("command: missing", command="", op_id=op_id)
    if not isinstance(command, str):
        return InvalidMessageError("command: not a text", command="", op_id=op_id)
    return UnknownCommandError(
        f"command {command[:40]!r} is not supported",
        command=command[:40],
        op_id=op_id,
        code=Code.EOPNOTSUPP,
    )


def _unpack_messagepack(payload: bytes) -> object:
    try:
        return msgpack.unpackb(
            payload,
            raw=False,
            # A name in a wrong encoding is no reason to lose a base station, and a byte string
            # written as text can be had back.
            unicode_errors="surrogateescape",
            strict_map_key=False,
            max_str_len=MAX_PAYLOAD,
            max_bin_len=MAX_PAYLOAD,
            max_array_len=MAX_LIST,
            max_map_len=MAX_FIELDS,
            max_ext_len=0,
        )
    except msgpack.ExtraData as error:
        found, rest = error.args
        if not isinstance(found, dict):
            return found
        raise TrailingBytesError(f"{len(rest)} bytes follow the message") from error
    except (ValueError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise MalformedPayloadError(f"not MessagePack: {reason}") from error


def _unpack_json(payload: bytes) -> object:
    try:
        text = payload.decode()
        start = len(text) - len(text.lstrip(" \t\r\n"))
        found, end = _JSON.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise MalformedPayloadError(f"not JSON: {error}") from error
    if rest := text[end:].strip(" \t\r\n"):
        raise TrailingBytesError(f"{len(rest)} characters follow the message")
    return found


_JSON = json.JSONDecoder()


# --- what a value may look like --------------------------------------------------------------


def _integer(rule: Integer) -> Convert:
    minimum, maximum, wraps = rule.minimum, rule.maximum, rule.wraps

    def convert(value: Any) -> int:
        number: int = value if type(value) is int else _whole(value, rounds=rule.rounds)
        if number < 0 and wraps and number >= -(2**63):
            number += 2**64
        if minimum <= number <= maximum:
            return number
        raise _Invalid(f"{number!s:.24} is not within {minimum} to {maximum}", rule.code)

    return convert


def _whole(value: Any, *, rounds: bool) -> int:
    """The integer that an enumerated or floating point number is, or is nearest to."""
    if isinstance(value, IntEnum):
        return int(value)  # our own `Code`: nothing that comes off the wire is one
    if type(value) is float and isfinite(value):
        if rounds:
            return round(value)
        # Beyond 2**53 a float has lost the last digits of the integer it stands for.
        if value.is_integer() and abs(value) <= 2**53:
            return int(value)
    raise _Invalid("not an integer")


def _real(value: Any) -> float:
    if type(value) is not float:
        if type(value) is not int:
            raise _Invalid("not a number")
        try:
            return float(value)
        except OverflowError:
            raise _Invalid("not a finite number") from None
    if not isfinite(value):
        raise _Invalid("not a finite number")
    return value


def _single(value: Any) -> float:
    found = _real(value)
    if abs(found) > MAX_FLOAT32:
        raise _Invalid("too large for single precision")
    return found


def _reals(rule: Reals) -> Convert:
    def convert(value: Any) -> tuple[float, ...]:
        if not isinstance(value, list | tuple):
            raise _Invalid("not a list of numbers")
        if rule.length is not None and len(value) != rule.length:
            raise _Invalid(f"{len(value)} numbers found, {rule.length} expected")
        if set(map(type, value)) == _FLOATS_ONLY and all(map(isfinite, value)):
            return tuple(value)
        return tuple(map(_real, value))

    return convert


_FLOATS_ONLY = {float}


def _octets(rule: Octets) -> Convert:
    length, maximum = rule.length, rule.maximum

    def convert(value: Any) -> bytes:
        if isinstance(value, list | tuple):
            found = _octets_of_numbers(value)
        elif isinstance(value, bytes):
            found = value
        elif isinstance(value, str) and length is not None:
            found = _octets_of_text(value)
        else:
            raise _Invalid("not a list of bytes")
        if length is not None and len(found) != length:
            raise _Invalid(f"{len(found)} bytes found, {length} expected")
        if len(found) > maximum:
            raise _Invalid(f"{len(found)} bytes found, {maximum} is the limit")
        return found

    return convert


def _octets_of_numbers(value: list[Any] | tuple[Any, ...]) -> bytes:
    kinds = set(map(type, value))
    if kinds and kinds != _INTEGERS_ONLY:
        raise _Invalid("not a list of bytes")
    try:
        return bytes(value)
    except ValueError:
        pass
    for number in value:
        if not -128 <= number <= 255:
            raise _Invalid(f"{number!s:.24} is not a byte")
    return bytes(number & 0xFF for number in value)


_INTEGERS_ONLY = {int}


def _octets_of_text(value: str) -> bytes:
    # Stacks older than MessagePack's `bin` write raw bytes as `str`. Only where the length is
    # fixed: elsewhere it could as well be meant as hexadecimal digits.
    try:
        return value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise _Invalid("not a list of bytes") from None


def _octet_lists(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list | tuple):
        raise _Invalid("not a list of byte lists")
    return tuple(map(_any_octets, value))


_any_octets = _octets(Octets(maximum=MAX_USER_DATA))


def _integers(rule: Integers) -> Convert:
    element = _integer(Integer(rule.minimum, rule.maximum))

    def convert(value: Any) -> tuple[int, ...]:
        if not isinstance(value, list | tuple | bytes):
            raise _Invalid("not a list of integers")
        return tuple(map(element, value))

    return convert


def _text(value: Any) -> str:
    if isinstance(value, str):
        return _printable(value[:MAX_TEXT])
    if isinstance(value, bytes):
        try:
            return value.decode()[:MAX_TEXT]
        except UnicodeDecodeError:
            pass
    raise _Invalid("not a text")


def _printable(text: str) -> str:
    """A text that can be written anywhere: a question mark for what was no Unicode."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _truth(value: Any) -> bool:
    if value is True or value is False:
        return value
    if type(value) is int and value in (0, 1):
        return bool(value)
    raise _Invalid("not true or false")


def _one_of(allowed: tuple[str, ...]) -> Convert:
    def convert(value: Any) -> str:
        text = _text(value)
        if text not in allowed:
            raise _Invalid(f"{text[:40]!r} is none of {', '.join(allowed)}")
        return text

    return convert


def _anything(value: Any, depth: int = MAX_DEPTH) -> object:
    match value:
        case None | bool():
            return value
        case str():
            return _printable(value)
        case int() if -(2**63) <= value < 2**64:
            return value
        case float() if isfinite(value):
            return value
        case bytes():
            return list(value)
        case list() | tuple() if depth:
            return [_anything(element, depth - 1) for element in value]
        case dict() if depth:
            return {_printable(str(k)): _anything(v, depth - 1) for k, v in value.items()}
        case list() | tuple() | dict():
            return "…"
    return str(value)


def _subpackets(value: Any) -> Subpackets:
    if isinstance(value, Subpackets):
        value = _SUBPACKETS.differing(value)
    if not isinstance(value, dict):
        raise _Invalid("not a map")
    found = Subpackets(**_SUBPACKETS.convert(value))
    if broken := found.broken_rule():
        raise _Invalid(broken)
    return found


class _Invalid(ValueError):
    def __init__(self, reason: str, code: int = Code.EPROTO) -> None:
        super().__init__(reason)
        self.code = code


def _refuse_missing() -> NoReturn:
    raise _Invalid("missing")


def _converter(hint: Any) -> Convert:
    """The check that a field's type hint stands for."""
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (part for part in get_args(hint) if part is not type(None))
        return _converter(inner)
    if get_origin(hint) is Literal:
        return _one_of(get_args(hint))
    if get_origin(hint) is Annotated:
        return _of_marker(get_args(hint)[1])
    return {str: _text, bool: _truth, Subpackets: _subpackets}[hint]


def _of_marker(marker: Marker) -> Convert:
    match marker:
        case Integer():
            return _integer(marker)
        case Real(single=single):
            return _single if single else _real
        case Reals():
            return _reals(marker)
        case Octets():
            return _octets(marker)
        case OctetLists():
            return _octet_lists
        case Integers():
            return _integers(marker)
        case Anything():
            return _anything
    assert_never(marker)


def _to_wire(value: Any) -> Any:
    """A field's value as it travels."""
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, tuple):
        return [_to_wire(element) for element in value]
    if isinstance(value, Subpackets):
        found = _SUBPACKETS.differing(value)
        return {wire: _to_wire(part) for wire, part in found.items()}
    return value


# --- a message type's fields -----------------------------------------------------------------


def _wire_name(attribute: str) -> str:
    first, *rest = attribute.split("_")
    return first + "".join(part.title() for part in rest)


def _is_single(hint: Any) -> bool:
    return any(isinstance(part, Real) and part.single for part in get_args(hint))


@dataclass(frozen=True, slots=True)
class _Field:
    attribute: str
    wire: str
    convert: Convert
    default: Any
    single: bool

    @property
    def mandatory(self) -> bool:
        return self.default is MISSING


def _fields_of(kind: type) -> tuple[_Field, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        _Field(
            attribute=field.name,
            wire=_wire_name(field.name),
            convert=_converter(hints[field.name]),
            default=field.default,
            single=_is_single(hints[field.name]),
        )
        for field in fields(kind)
        if field.name != "op_id"
    )


class _Fields:
    """The fields of one type: from a received map, and into one that is sent."""

    def __init__(self, kind: type) -> None:
        self.all = _fields_of(kind)
        self._plan = tuple((f.attribute, f.wire, f.convert, f.mandatory) for f in self.all)

    def convert(self, content: Map) -> dict[str, Any]:
        values = {}
        wire = ""
        try:
            for attribute, wire, convert, mandatory in self._plan:
                value = content.get(wire)
                if value is not None:
                    values[attribute] = convert(value)
                elif mandatory:
                    _refuse_missing()
        except _Invalid as error:
            raise _Invalid(f"{wire}: {error}", error.code) from None
        return values

    def differing(self, value: object) -> dict[str, Any]:
        """What is sent of a value: the fields that differ from their defaults."""
        return {
            field.wire: found
            for field in self.all
            if (found := getattr(value, field.attribute)) != field.default
        }


_SUBPACKETS = _Fields(Subpackets)


class _Layout(_Fields):
    """One message type on the wire."""

    def __init__(self, kind: type[Message]) -> None:
        super().__init__(kind)
        self._kind = kind
        self._checks = {field.wire: field.convert for field in self.all}
        self._single = frozenset(field.wire for field in self.all if field.single)
        self._core = _PACKER.pack("command") + _PACKER.pack(kind.command) + _PACKER.pack("opId")

    def parse(self, content: Map, op_id: int) -> Message:
        try:
            values = self.convert(content)
        except _Invalid as error:
            raise self._refusal(str(error), op_id, error.code) from None
        message = self._kind(op_id=op_id, **values)
        if broken := message.broken_rule():
            raise self._refusal(broken, op_id, Code.EPROTO)
        return message

    def pack(self, message: Message) -> bytes:
        found = self._checked(message)
        parts = [_PACKER.pack_map_header(len(found) + 2), self._core, _PACKER.pack(message.op_id)]
        for wire, value in found.items():
            parts.append(_PACKER.pack(wire))
            if wire in self._single:
                parts.append(b"\xca" + struct.pack(">f", value))
            else:
                parts.append(_PACKER.pack(_to_wire(value)))
        return b"".join(parts)

    def to_map(self, message: Message) -> dict[str, Any]:
        found = self._checked(message)
        core = {"command": self._kind.command, "opId": message.op_id}
        return core | {wire: _to_wire(value) for wire, value in found.items()}

    def _checked(self, message: Message) -> dict[str, Any]:
        """Our own messages obey the same rules as the peer's."""
        found = self.differing(message)
        if not _is_op_id(message.op_id):
            raise self._fault("opId: not an integer of 64 bits")
        wire = ""
        try:
            for wire, value in found.items():
                found[wire] = self._checks[wire](value)
        except _Invalid as error:
            raise self._fault(f"{wire}: {error}") from None
        if broken := message.broken_rule():
            raise self._fault(broken)
        return found

    def _fault(self, reason: str) -> LocalProtocolError:
        return LocalProtocolError(f"{self._kind.command}: {reason}")

    def _refusal(self, reason: str, op_id: int, code: int) -> InvalidMessageError:
        return InvalidMessageError(reason, command=self._kind.command, op_id=op_id, code=code)


_PACKER = msgpack.Packer(use_bin_type=True)
_LAYOUTS = {kind: _Layout(kind) for kind in MESSAGES.values()}
_BY_COMMAND = {kind.command: layout for kind, layout in _LAYOUTS.items()}
