"""EUI64 and short addresses: every usual spelling in, one spelling out."""

from __future__ import annotations

import re

from bssci.core.protocol.errors import InvalidEuiError

__all__ = ["format_eui", "parse_eui", "parse_short_address"]

_DIGITS = re.compile(r"[0-9a-fA-F]+")
# Pairs (fc-a8-4a-…) or quartets (fca8:4a03:…) of digits, one separator throughout.
_PAIRS = re.compile(r"[0-9a-fA-F]{2}([-:. ])(?:[0-9a-fA-F]{2}\1)*[0-9a-fA-F]{2}")
_QUARTETS = re.compile(r"[0-9a-fA-F]{4}([-:. ])(?:[0-9a-fA-F]{4}\1)*[0-9a-fA-F]{4}")


def parse_eui(value: str | int) -> int:
    """The EUI64 that a text or a number means.

    A negative number is taken as a signed 64-bit one, as some stacks send it.

    >>> format_eui(parse_eui("fc:a8:4a:03:00:00:12:7c"))
    'FCA84A030000127C'

    Raises:
        InvalidEuiError: says what was found instead of 16 hexadecimal digits.
    """
    if isinstance(value, int):
        return _from_number(value)
    return int(_digits(value, 16, "an EUI"), 16)


def format_eui(eui: int) -> str:
    """The one spelling we print: 16 upper-case hexadecimal digits."""
    return f"{eui:016X}"


def parse_short_address(value: str | int) -> int:
    """The 16-bit short address that a text of four hexadecimal digits or a number means.

    Raises:
        InvalidEuiError: says what was found instead.
    """
    if isinstance(value, int):
        if isinstance(value, bool) or not 0 <= value <= 0xFFFF:
            raise InvalidEuiError(f"{value!r} is not a short address: expected 0 to 65535")
        return value
    return int(_digits(value, 4, "a short address"), 16)


def _from_number(value: int) -> int:
    if isinstance(value, bool) or not -(2**63) <= value < 2**64:
        raise InvalidEuiError(f"{value!r} is not an EUI: expected a 64-bit number")
    return value % 2**64


def _digits(text: str, expected: int, what: str) -> str:
    bare = text.strip()
    if bare[:2] in ("0x", "0X"):
        bare = bare[2:]
    if grouped := _PAIRS.fullmatch(bare) or _QUARTETS.fullmatch(bare):
        bare = bare.replace(grouped[1], "")
    if len(bare) != expected or not _DIGITS.fullmatch(bare):
        raise InvalidEuiError(f"{_short(text)} is not {what}: {_fault(bare, expected)}")
    return bare


def _fault(bare: str, expected: int) -> str:
    digits = sum(len(found) for found in _DIGITS.findall(bare))
    strange = next((c for c in bare if not _DIGITS.fullmatch(c)), "")
    found = f"{digits} hexadecimal digits found, {expected} expected"
    return f"{found}; {strange!r} does not belong there" if strange else found


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
