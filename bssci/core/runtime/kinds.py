"""What a value of sc.toml may be: how it is read, checked and written, from TOML or from text.

A `Kind` does not say where a value stands or who set it; `config` does.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bssci.core.protocol.errors import InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui

__all__ = [
    "MAX_DURATION",
    "Choice",
    "Duration",
    "Eui",
    "File",
    "Flag",
    "Kind",
    "Size",
    "Text",
    "Topic",
    "Whole",
    "Zone",
    "to_toml",
]

# Nanoseconds of this still fit a signed 64-bit number, as the database has them.
MAX_DURATION = 100 * 365 * 86400.0


class Kind:
    """How values of a key are read, checked and written. `read` raises ValueError."""

    unit: ClassVar[str] = ""

    @property
    def expected(self) -> str:
        """What may stand there, in words."""
        raise NotImplementedError

    def read(self, value: object) -> object:
        """The value that something from TOML stands for."""
        raise NotImplementedError

    def read_text(self, text: str) -> object:
        """The value that a text, from the environment or the command line, stands for."""
        return self.read(text)

    def write(self, value: object) -> object:
        """The opposite of `read`."""
        return value


@dataclass(frozen=True, slots=True)
class Text(Kind):
    may_be_empty: bool = True

    @property
    def expected(self) -> str:
        return "text" if self.may_be_empty else "text that is not empty"

    def read(self, value: object) -> str:
        if not isinstance(value, str) or not (value or self.may_be_empty) or "\0" in value:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    expected: ClassVar[str] = "true or false"

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError  # noqa: TRY004 - every kind says so, whatever is wrong
        return value

    def read_text(self, text: str) -> bool:
        words = {"true": True, "yes": True, "on": True, "1": True}
        words |= {"false": False, "no": False, "off": False, "0": False}
        if text.strip().lower() not in words:
            raise ValueError
        return words[text.strip().lower()]


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    choices: tuple[str, ...]

    @property
    def expected(self) -> str:
        spelled = [f'"{choice}"' for choice in self.choices]
        return f"{', '.join(spelled[:-1])} or {spelled[-1]}"

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError
        return value


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """A whole number; both limits are allowed."""

    least: int
    most: int

    @property
    def expected(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError  # noqa: TRY004 - as above
        if not self.least <= value <= self.most:
            raise ValueError
        return value

    def read_text(self, text: str) -> int:
        return self.read(int(text))


_TIME_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_TIME_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|[smhdw])\s*")


@dataclass(frozen=True, slots=True)
class Duration(Kind):
    """A time span, held in seconds."""

    unit: ClassVar[str] = "s"

    above: float = 0.0
    """It must be longer than this."""
    most: float = MAX_DURATION
    whole: bool = False
    """Held as an int."""
    spelled: bool = False
    """Written with a unit (`30d`) rather than as a number."""

    @property
    def expected(self) -> str:
        least = "0" if self.above < 0 else f"more than {self.above:g}"
        kind = "whole seconds" if self.whole else "seconds"
        most = f" and at most {self.most:g}" if self.most < MAX_DURATION else ""
        return (
            f'{kind}, {least}{" or more" if self.above < 0 else ""}{most} (or "90s", "12h", "30d")'
        )

    def read(self, value: object) -> float:
        if isinstance(value, str):
            value = _seconds(value.strip().lower())
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError  # noqa: TRY004 - as above
        # Written this way round, NaN is refused, too.
        if not self.above < value <= min(self.most, MAX_DURATION):
            raise ValueError
        if self.whole and value != int(value):
            raise ValueError
        return int(value) if self.whole else float(value)

    def write(self, value: object) -> object:
        assert isinstance(value, int | float)
        if not self.spelled:
            return value
        for unit in ("d", "h", "m", "s"):
            count, rest = divmod(value, _TIME_UNITS[unit])
            if value and not rest:
                return f"{count:.0f}{unit}"
        return value


def _seconds(text: str) -> float:
    """The seconds in `1h 30m`, or in a bare number."""
    if text and not _TIME_PART.sub("", text):
        return math.fsum(float(n) * _TIME_UNITS[unit] for n, unit in _TIME_PART.findall(text))
    return float(text)


_SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b|)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Size(Kind):
    """A number of bytes."""

    unit: ClassVar[str] = "bytes"
    expected: ClassVar[str] = 'bytes (or "500kB", "100MB", "1GiB")'

    def read(self, value: object) -> int:
        if isinstance(value, str):
            value = self._bytes(value.strip())
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise ValueError
        return value

    def _bytes(self, text: str) -> int:
        found = _SIZE.fullmatch(text)
        if found is None or found[2].lower() not in _SIZE_UNITS:
            raise ValueError
        return int(float(found[1]) * _SIZE_UNITS[found[2].lower()])

    def write(self, value: object) -> object:
        assert isinstance(value, int)
        for unit in ("TB", "GB", "MB", "kB"):
            count, rest = divmod(value, _SIZE_UNITS[unit.lower()])
            if value and not rest:
                return f"{count}{unit}"
        return value


@dataclass(frozen=True, slots=True)
class Eui(Kind):
    expected: ClassVar[str] = "an EUI64 of 16 hexadecimal digits"

    def read(self, value: object) -> int:
        if not isinstance(value, str | int):
            raise ValueError  # noqa: TRY004 - as above
        try:
            return parse_eui(value)
        except InvalidEuiError as error:
            reason = str(error).rpartition(": ")[2]
            raise ValueError(f"{self.expected} ({reason})") from error

    def write(self, value: object) -> object:
        assert isinstance(value, int)
        return format_eui(value)


@dataclass(frozen=True, slots=True)
class File(Kind):
    """A path. Relative ones are made absolute by the reader, who knows the folder."""

    may_be_empty: bool = False

    @property
    def expected(self) -> str:
        return 'a path, or "" for none' if self.may_be_empty else "a path"

    def read(self, value: object) -> Path | None:
        if not isinstance(value, str) or "\0" in value or not (value or self.may_be_empty):
            raise ValueError
        return Path(value) if value else None

    def write(self, value: object) -> object:
        return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Topic(Kind):
    """The first levels of an MQTT topic; a trailing slash is ignored."""

    expected: ClassVar[str] = "an MQTT topic without + and #"

    def read(self, value: object) -> str:
        if not isinstance(value, str) or not (topic := value.rstrip("/")):
            raise ValueError
        if set(topic) & set("+#\0") or topic.startswith("$") or len(topic.encode()) > 1024:
            raise ValueError
        return topic


@dataclass(frozen=True, slots=True)
class Zone(Kind):
    expected: ClassVar[str] = '"local", "UTC" or a time zone such as "Europe/Berlin"'

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY004 - as above
        if value != "local" and value.upper() != "UTC":
            from zoneinfo import ZoneInfo  # only the few who name a zone pay for it

            try:
                ZoneInfo(value)
            except (KeyError, OSError, ValueError) as error:
                raise ValueError from error
        return value


def to_toml(value: object) -> str:
    """A value as it is spelled in TOML."""
    import tomli_w  # only who writes a file pays for it

    return tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip("\n")
