"""User data for the air, as it comes from outside: hexadecimal digits or a list of numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bssci.core.center.end_points import shown
from bssci.core.protocol.errors import BssciError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

__all__ = [
    "MAX_DATA",
    "MAX_ENTRIES",
    "InvalidUserDataError",
    "Said",
    "entries_of",
    "octets_of",
]

# What other service centers of the field take; a radio telegram has little more room.
MAX_DATA = 200  # bytes

MAX_ENTRIES = 64

MAX_COUNTER = 2**32 - 1


class InvalidUserDataError(BssciError, ValueError):
    """What was given is no user data; says what is wrong and does not repeat it."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a downlink says.

    Attributes:
        user_data: the entries.
        packet_cnt: the uplink in whose window each may be sent; None: it is one, for any.
    """

    user_data: tuple[bytes, ...]
    packet_cnt: tuple[int, ...] | None = None


def octets_of(value: object, *, most: int = MAX_DATA) -> bytes:
    """The bytes that hexadecimal digits mean, or a list of numbers.

    Digits may have `0x` before them, and blanks, `:` and `-` between them.

    >>> octets_of("0x01 2F"), octets_of([1, 47]), octets_of("")
    (b'\\x01/', b'\\x01/', b'')

    Raises:
        InvalidUserDataError: it means none, or more than `most`.
    """
    match value:
        case str():
            octets = _from_digits(value)
        case list() | tuple():
            octets = _from_numbers(value)
        case _:
            raise InvalidUserDataError(
                f"found {shown(value)}, hexadecimal digits or a list of numbers are expected"
            )
    if len(octets) > most:
        raise InvalidUserDataError(f"has {len(octets)} bytes, at most {most} are possible")
    return octets


_DIGITS = frozenset("0123456789abcdefABCDEF")


def _from_digits(text: str) -> bytes:
    bare = re.sub(r"[\s:-]", "", text.strip().removeprefix("0x").removeprefix("0X"))
    if strange := sum(each not in _DIGITS for each in bare):
        raise InvalidUserDataError(f"{strange} of its characters are no hexadecimal digits")
    if len(bare) % 2 or (text.strip() and not bare):
        raise InvalidUserDataError(f"has {len(bare)} hexadecimal digits, two a byte are expected")
    return bytes.fromhex(bare)


def _from_numbers(numbers: Sequence[object]) -> bytes:
    octets = bytearray()
    for each in numbers:
        if type(each) is not int or not 0 <= each <= 255:
            raise InvalidUserDataError(f"found {shown(each)}, numbers from 0 to 255 are expected")
        octets.append(each)
    return bytes(octets)


def entries_of(value: object) -> Said:
    """What a list of `{cnt, data}` says.

    Raises:
        InvalidUserDataError: says everything that is wrong, each with the number of its entry.
    """
    if not isinstance(value, list | tuple):
        raise InvalidUserDataError(f"found {shown(value)}, a list of entries is expected")
    if not 1 <= len(value) <= MAX_ENTRIES:
        raise InvalidUserDataError(f"has {len(value)}, 1 to {MAX_ENTRIES} are expected")
    entries: dict[int, bytes] = {}
    faults = []
    for number, each in enumerate(value, 1):
        try:
            packet_cnt, octets = _entry(each, entries)
        except InvalidUserDataError as error:
            faults.append(f"entry {number}: {error}")
        else:
            entries[packet_cnt] = octets
    if faults:
        raise InvalidUserDataError(", ".join(faults))
    return Said(tuple(entries.values()), tuple(entries))


def _entry(value: object, before: Container[int]) -> tuple[int, bytes]:
    if not isinstance(value, dict) or value.keys() != {"cnt", "data"}:
        raise InvalidUserDataError("an object of cnt and data is expected")
    packet_cnt = value["cnt"]
    if type(packet_cnt) is not int or not 0 <= packet_cnt <= MAX_COUNTER:
        raise InvalidUserDataError(
            f"cnt: found {shown(packet_cnt)}, a number from 0 to {MAX_COUNTER} is expected"
        )
    if packet_cnt in before:
        raise InvalidUserDataError(f"cnt: {packet_cnt} is there already")
    try:
        return packet_cnt, octets_of(value["data"])
    except InvalidUserDataError as error:
        raise InvalidUserDataError(f"data: {error}") from error
