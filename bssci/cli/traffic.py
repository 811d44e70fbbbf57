"""`bssci decode`: frames, captured or copied from anywhere, to messages a person can read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bssci.cli import output
from bssci.core.protocol.eui import format_eui

if TYPE_CHECKING:
    from bssci.core.protocol.messages import Message

__all__ = ["Found", "InputError", "bytes_of", "decode", "find_messages"]

FAILED, USAGE = 1, 2

# More than this is no capture of a conversation that a person reads.
MAX_INPUT = 256 * 1024 * 1024

MASK = "****"


def decode(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[FILE|HEX|-]",
            help="A file, hexadecimal digits, or - for standard input. Frames with header, or one "
            "payload without; bytes, hexadecimal digits, a hex dump (xxd, hexdump) or base64.",
        ),
    ] = "-",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a message.")] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show keys.")] = False,
) -> None:
    """Decode BSSCI frames to readable messages.

    Fields have the names of the specification; EUIs and bytes are hexadecimal, times also UTC.
    What can be read is shown, also when something else cannot.

    Exit codes: 0 all is decoded, 1 something could not be, 2 the input is neither bytes nor text
    that means bytes.

    Example: bssci decode 82a7636f6d6d616e64a470696e67a46f70496401
    """
    try:
        data = bytes_of(_read(source))
    except InputError as error:
        output.fail(str(error))
        raise typer.Exit(USAGE) from error
    show = _show_json if as_json else _show_text
    failed = False
    for found in find_messages(data, reveal=reveal):
        show(found)
        failed = failed or found.error is not None
    if failed:
        raise typer.Exit(FAILED)


# --- the input -------------------------------------------------------------------------------


class InputError(ValueError):
    """What was given means no bytes; says where it stops to."""


def _read(source: str) -> bytes:
    if source == "-":
        return _limited(sys.stdin.buffer.read(MAX_INPUT + 1))
    try:
        with Path(source).open("rb") as file:
            return _limited(file.read(MAX_INPUT + 1))
    except (OSError, ValueError) as error:
        if _looks_like_hex(source):
            return source.encode()
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(
            f"{_short(source)} is neither a file ({reason}) nor hexadecimal digits"
        ) from error


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_INPUT:
        raise InputError(f"the input is longer than {MAX_INPUT} bytes; cut it into pieces")
    return data


def _looks_like_hex(text: str) -> bool:
    return len(text) > 1 and re.fullmatch(r"(?:0x|[0-9a-fA-F\s:,])+", text) is not None


_BEGIN = b"MIOTY"
# An offset, pairs or quartets of digits, and the same as text: xxd and tcpdump, hexdump -C.
_DIGITS = "[0-9a-fA-F]"
_XXD_LINE = re.compile(rf"\s*(?:0x)?{_DIGITS}{{4,16}}:\s{{1,2}}((?:{_DIGITS}{{2}}\s?)+)(?:\s.*)?")
_HEXDUMP_LINE = re.compile(
    rf"({_DIGITS}{{7,16}})\s\s((?:{_DIGITS}{{2}}\s{{1,2}})*{_DIGITS}{{2}})\s*(?:\|.*)?"
)
_HEXDUMP_END = re.compile(rf"{_DIGITS}{{7,16}}")
_BETWEEN = re.compile(r"[\s:,;]|0[xX]|\\x")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")


def bytes_of(data: bytes) -> bytes:
    """The bytes that an input means: itself, or what its text says.

    Raises:
        InputError: it is text that means no bytes.
    """
    if data.startswith(_BEGIN) or not data:
        return data
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return data
    if text.lstrip()[:1] == "{":
        return data  # a payload in JSON
    if any(not (c.isprintable() or c.isspace()) for c in text):
        return data
    return _of_text(text)


def _of_text(text: str) -> bytes:
    if (dumped := _of_dump(text)) is not None:
        return dumped
    digits = _BETWEEN.sub("", text)
    strange = re.search(r"[^0-9a-fA-F]", digits)
    if strange is None:
        if len(digits) % 2:
            raise InputError(f"{len(digits)} hexadecimal digits: one is missing, or one too many")
        return bytes.fromhex(digits)
    if (decoded := _of_base64(text)) is not None:
        return decoded
    line, column = _place(text, strange[0])
    raise InputError(
        f"line {line}, column {column}: {strange[0]!r} is no hexadecimal digit, and the input as a "
        "whole is neither a hex dump nor base64 of BSSCI frames"
    )


def _of_dump(text: str) -> bytes | None:
    """The bytes of a hex dump; None if the text is none."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and _HEXDUMP_END.fullmatch(lines[-1]):
        del lines[-1]
    found = bytearray()
    for line in lines:
        if match := _XXD_LINE.fullmatch(line):
            found += bytes.fromhex(match[1])
        elif (match := _HEXDUMP_LINE.fullmatch(line)) and int(match[1], 16) == len(found):
            found += bytes.fromhex(match[2])
        else:
            return None
    return bytes(found) if found else None


def _of_base64(text: str) -> bytes | None:
    import base64
    import binascii

    bare = "".join(text.split())
    if not _BASE64.fullmatch(bare):
        return None
    try:
        found = base64.b64decode(bare.replace("-", "+").replace("_", "/") + "=" * (-len(bare) % 4))
    except binascii.Error:
        return None
    # Any word is base64 of something: only what begins like a message counts.
    return found if found.startswith(_BEGIN) or _begins_map(found) else None


def _begins_map(data: bytes) -> bool:
    return data[:1] == b"{" or 0x80 <= (data or b"\0")[0] <= 0x8F or data[:1] in (b"\xde", b"\xdf")


def _place(text: str, character: str) -> tuple[int, int]:
    """Line and column of the first such character that does not belong to a 0x or \\x."""
    masked = _BETWEEN.sub(lambda match: " " * len(match[0]) if match[0] != "\n" else "\n", text)
    before = masked[: masked.index(character)]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


# --- messages --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What stands at one place of the input.

    Attributes:
        offset: of its first byte in the input.
        length: bytes, the header included.
        command: the message's name; None if there is no message.
        op_id: its operation; None if that cannot be read.
        fields: the other fields by wire name, as they are shown.
        utc: those of them that are times, as text.
        note: what is remarkable and no error.
        error: why it is no message, or not a proper one.
    """

    offset: int
    length: int
    command: str | None = None
    op_id: int | None = None
    fields: dict[str, object] | None = None
    utc: dict[str, str] | None = None
    note: str | None = None
    error: str | None = None


def find_messages(data: bytes, *, reveal: bool = False) -> Iterator[Found]:
    """Every message in the bytes, and what could not be read, in order.

    Frames, or one payload without a header. After what is no frame it goes on at the next header.
    """
    from bssci.core.protocol.frames import HEADER_SIZE, IDENTIFIER

    if not data:
        yield Found(offset=0, length=0, error="there is nothing to decode")
        return
    if IDENTIFIER not in data and not data.startswith(_BEGIN):
        yield _message(data, 0, 0, reveal=reveal)
        return
    offset = 0
    while offset < len(data):
        if not data.startswith(IDENTIFIER, offset):
            end = data.find(IDENTIFIER, offset)
            end = len(data) if end < 0 else end
            yield _no_frame(data, offset, end)
            offset = end
            continue
        header = data[offset : offset + HEADER_SIZE]
        length = int.from_bytes(header[8:], "little")
        end = offset + HEADER_SIZE + length
        if len(header) < HEADER_SIZE or end > len(data):
            yield _cut_frame(data, offset, end)
            end = data.find(IDENTIFIER, offset + 1)
            offset = len(data) if end < 0 else end
            continue
        yield _message(data[offset + HEADER_SIZE : end], offset, HEADER_SIZE, reveal=reveal)
        offset = end


def _no_frame(data: bytes, start: int, end: int) -> Found:
    begin = data[start : min(end, start + 8)]
    words = f"{end - start} bytes that are no frame, beginning with {begin.hex(' ')}"
    if begin == b"MIOTYA01":
        words += ": a frame of SCACI, the interface to applications, not of BSSCI"
    return Found(offset=start, length=end - start, error=words)


def _cut_frame(data: bytes, start: int, end: int) -> Found:
    there = len(data) - start
    words = f"the input ends within a frame: {there} bytes of "
    words += f"{end - start} are there" if there >= 12 else "a header of 12 are there"
    return Found(offset=start, length=there, error=words)


def _message(payload: bytes, offset: int, header: int, *, reveal: bool) -> Found:
    from bssci.core.protocol.codec import parse, unpack
    from bssci.core.protocol.errors import (
        BssciError,
        RemoteProtocolError,
        UnknownCommandError,
    )

    length = header + len(payload)
    try:
        content = unpack(payload)
    except BssciError as error:
        begin = payload[:16].hex(" ") or "nothing"
        return Found(offset=offset, length=length, error=f"{error} (it begins with {begin})")
    message: Message | None = None
    note = problem = None
    try:
        message = parse(content)
    except UnknownCommandError as error:
        note = f"{error} here; its fields are shown as they came"
    except RemoteProtocolError as error:
        problem = f"{error}; its fields are shown as they came"
    except BssciError as error:
        problem = f"not a proper message: {error}"
    fields, utc = _fields(content, message, reveal=reveal)
    if message is not None and (unknown := _unknown_fields(content, message)):
        note = f"not in the specification: {', '.join(unknown)}"
    command, op_id = content.get("command"), content.get("opId")
    return Found(
        offset=offset,
        length=length,
        command=command if isinstance(command, str) else None,
        op_id=op_id if type(op_id) is int else None,
        fields=fields,
        utc=utc,
        note=note,
        error=problem,
    )


def _unknown_fields(content: dict[object, object], message: Message) -> list[str]:
    known = {"command", "opId", *_shapes(type(message))}
    return [str(name) for name in content if name not in known]


def _fields(
    content: dict[object, object], message: Message | None, *, reveal: bool
) -> tuple[dict[str, object], dict[str, str]]:
    """The fields in the order in which they came, as they are shown."""
    shapes = {} if message is None else _shapes(type(message))
    fields: dict[str, object] = {}
    utc: dict[str, str] = {}
    for key, value in content.items():
        name = str(key)
        if name in ("command", "opId"):
            continue
        shape = shapes.get(name)
        if (
            value is not None
            and not reveal
            and (shape.is_secret if shape else "key" in name.lower())
        ):
            fields[name] = MASK
        elif shape is None or message is None or value is None:
            fields[name] = _plain(value)
        else:
            taken = getattr(message, shape.attribute)
            fields[name] = shape.show(taken)
            if shape.is_time and (moment := _utc(taken)):
                utc[name] = moment
    return fields, utc


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a field of a message is shown."""

    attribute: str
    show: Callable[[object], object]
    is_time: bool = False
    is_secret: bool = False


def _shapes(kind: type) -> dict[str, _Shape]:
    """How the fields of a message type are shown, by wire name; read from its declaration."""
    from dataclasses import fields
    from typing import get_type_hints

    from bssci.core.protocol.messages import Time

    hints = get_type_hints(kind, include_extras=True)
    time_marker = _marker(Time)
    found = {}
    for field in fields(kind):
        marker = _marker(hints[field.name])
        found[_wire_name(field.name)] = _Shape(
            field.name,
            _hex_eui if field.name.endswith("_eui") else _plain,
            # Durations have another bound; `trx_time` counts a transceiver's own nanoseconds.
            is_time=marker == time_marker and field.name != "trx_time",
            is_secret=not field.repr,
        )
    return found


def _marker(hint: object) -> object:
    """What is declared of a field's values: of `Annotated[...]`, also within `... | None`."""
    from typing import get_args

    metadata = getattr(hint, "__metadata__", None)
    if metadata:
        return metadata[0]
    return next(filter(None, map(_marker, get_args(hint))), None)


def _wire_name(attribute: str) -> str:
    first, *rest = attribute.split("_")
    return first + "".join(part.title() for part in rest)


def _hex_eui(value: object) -> object:
    return format_eui(value) if isinstance(value, int) else value


def _plain(value: object) -> object:
    """A value as JSON can say it, bytes as hexadecimal digits."""
    from dataclasses import fields, is_dataclass

    if is_dataclass(value) and not isinstance(value, type):
        parts = ((field.name, getattr(value, field.name)) for field in fields(value))
        return {_wire_name(name): _plain(part) for name, part in parts if part is not None}
    match value:
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_plain(element) for element in value]
        case dict():
            return {str(key): _plain(element) for key, element in value.items()}
        case str():
            # What was no Unicode, or would move a terminal's cursor.
            text = value.encode(errors="replace").decode()
            return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
        case None | bool() | int() | float():
            return value
    return str(value)


# By the magnitude of a Unix time: ns, as specified; us and ms, as some firmware sends.
_UNITS = (
    (10**18, 1, ""),
    (10**15, 10**3, " (sent in microseconds)"),
    (10**12, 10**6, " (sent in milliseconds)"),
)


def _utc(value: object) -> str | None:
    """A Unix time as text; None where the number can mean none."""
    from datetime import UTC, datetime

    if not isinstance(value, int):
        return None
    for begin, factor, remark in _UNITS:
        if begin <= value < begin * 10:
            seconds, ns = divmod(value * factor, 10**9)
            moment = datetime.fromtimestamp(seconds, UTC)
            return f"{moment:%Y-%m-%d %H:%M:%S}.{ns:09d} UTC{remark}"
    return None


# --- showing ---------------------------------------------------------------------------------


def _show_json(found: Found) -> None:
    told = {
        "offset": found.offset,
        "length": found.length,
        "command": found.command,
        "opId": found.op_id,
        "fields": found.fields,
        "utc": found.utc or None,
        "note": found.note,
        "error": found.error,
    }
    output.show_json({name: value for name, value in told.items() if value is not None})


def _show_text(found: Found) -> None:
    output.show(_heading(found))
    rows = [
        (name, _text(value) + (f"  {moment}" if (moment := (found.utc or {}).get(name)) else ""))
        for name, value in _flat(found.fields or {})
    ]
    if rows:
        output.show(output.columns(rows))
    if found.note:
        output.show(f"  note: {found.note}")
    if found.error:
        output.show(f"  error: {found.error}")
    output.show()


def _heading(found: Found) -> str:
    where = f"at byte {found.offset}, {found.length} bytes"
    if found.op_id is None and found.command is None:
        return f"{_bold('?')}  {where}"
    command = "(no command)" if found.command is None else str(_plain(found.command))
    op_id = "no opId" if found.op_id is None else f"opId {found.op_id}"
    return f"{_bold(command)}  {op_id}  {where}"


def _flat(fields: dict[str, object]) -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            for inner, part in value.items():
                yield f"{name}.{inner}", part
        else:
            yield name, value


def _text(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "nil"
        case "":
            return '""'
        case list():
            return f"[{', '.join(map(_text, value))}]"
        case dict():
            return "{" + ", ".join(f"{name}: {_text(part)}" for name, part in value.items()) + "}"
    return str(value)


def _bold(text: str) -> str:
    # https://no-color.org: any value but the empty one
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return typer.style(text, bold=True)
    return text
