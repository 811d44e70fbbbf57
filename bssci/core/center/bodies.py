"""Bodies of messages that anybody may have sent: their text, their JSON, what they are marked with.

Whatever cannot be trusted is refused in words that never hold what could be a network key.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from math import isfinite
from typing import NoReturn

from bssci.core.center.end_points import shown
from bssci.core.protocol.errors import BssciError

__all__ = [
    "BLANK",
    "MAX_PAYLOAD",
    "MAX_REF",
    "InvalidBodyError",
    "Ref",
    "json_of",
    "object_of",
    "ref_of",
    "text_of",
]

# The longest message is a downlink of 64 entries with 200 bytes each: 170 KiB when every number
# has a line of its own.
MAX_PAYLOAD = 256 * 1024

MAX_REF = 128  # characters, or digits of a number
MAX_DEPTH = 8  # of JSON; the entries of a downlink are 4

Ref = str | int | float
"""What a client marks its message with, to know the answers by it."""


class InvalidBodyError(BssciError, ValueError):
    """A body that cannot be what is expected; says what was found.

    Attributes:
        ref: what the client marked it with, if it could be read.
    """

    def __init__(self, found: str, ref: Ref | None = None) -> None:
        super().__init__(found)
        self.ref = ref


# Programs in C send the NUL that ends their text, editors on Windows a byte order mark before it.
BLANK = " \t\r\n\v\f\0\ufeff"
"""What may stand around a text and means nothing."""


def text_of(payload: bytes) -> str:
    """The text of a message, which is not empty.

    Raises:
        InvalidBodyError: it is none, or too long.
    """
    if len(payload) > MAX_PAYLOAD:
        raise InvalidBodyError(
            f"the message has {len(payload)} bytes, at most {MAX_PAYLOAD} are possible"
        )
    try:
        text = payload.decode().strip(BLANK)
    except UnicodeDecodeError as error:
        found = f"byte {error.start + 1} is 0x{payload[error.start]:02X}"
        raise InvalidBodyError(f"the message is no UTF-8 text: {found}") from error
    if not text:
        raise InvalidBodyError("the message is empty")
    return text


def json_of(text: str) -> object:
    """What a text of JSON says, with nothing in it that could not be said again.

    Raises:
        InvalidBodyError: it is no JSON, or such that nobody sends who means well.
    """
    try:
        found: object = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        at = repr(text[error.pos]) if error.pos < len(text) else "the end"
        where = f"at character {error.pos + 1}, found {at}"
        raise InvalidBodyError(f"no valid JSON: {error.msg} {where}") from error
    except RecursionError as error:
        raise InvalidBodyError(_TOO_DEEP) from error
    _check(found)
    return found


_TOO_DEEP = f"the JSON has more than {MAX_DEPTH} levels"


def _check(found: object) -> None:
    level = [found]
    for _ in range(MAX_DEPTH):
        if any(isinstance(each, str) and _SURROGATE.search(each) for each in level):
            raise InvalidBodyError("a text in the JSON has half of a surrogate pair")
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return
    raise InvalidBodyError(_TOO_DEEP)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _inside(found: object) -> list[object]:
    if isinstance(found, dict):
        return [*found, *found.values()]
    return found if isinstance(found, list) else []


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise InvalidBodyError(f"{shown(twice)} is given twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_REF:
        raise InvalidBodyError(f"a number in the JSON has {len(digits)} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    if len(digits) > MAX_REF or not isfinite(number := float(digits)):
        raise InvalidBodyError("a number in the JSON is too long or too great")
    return number


def _no_number(word: str) -> NoReturn:
    raise InvalidBodyError(f"no valid JSON: {word} is no number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once_each,
    parse_int=_whole,
    parse_float=_fraction,
    parse_constant=_no_number,
)


def object_of(found: object) -> tuple[dict[str, object], Ref | None]:
    """What an object of JSON holds beside `ref`, and what that marks it with.

    Raises:
        InvalidBodyError: it is no object, or the mark is none.
    """
    if not isinstance(found, dict):
        raise InvalidBodyError(f"found {shown(found)}, a JSON object is expected")
    given = {name: value for name, value in found.items() if name != "ref"}
    return given, ref_of(found.get("ref"))


def ref_of(found: object) -> Ref | None:
    """What a message is marked with; None: with nothing.

    Raises:
        InvalidBodyError: it is nothing that could be given back.
    """
    if found is not None and (isinstance(found, bool) or not isinstance(found, str | int | float)):
        raise InvalidBodyError(f"ref: found {shown(found)}, a text or a number is expected")
    if isinstance(found, str) and len(found) > MAX_REF:
        raise InvalidBodyError(f"ref: has {len(found)} characters, at most {MAX_REF} are possible")
    return found
