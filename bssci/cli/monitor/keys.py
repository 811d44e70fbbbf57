"""Bytes from a terminal in raw mode, as names of keys."""

from __future__ import annotations

import codecs
import re

__all__ = ["ESCAPE_DELAY", "Keys"]

# From an Escape to what follows it, when that is one key of the keyboard; a slow line takes longer
# to bring the rest than a person to press another key.
ESCAPE_DELAY = 0.05  # seconds

MAX_SEQUENCE = 64  # bytes; no key of any keyboard sends more

_CSI = re.compile(rb"\x1b\[([0-?]*)[ -/]*([@-~])")
_SS3 = re.compile(rb"\x1bO([ -~])")
_BEGUN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?")

_LETTERS = {
    "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end", "Z": "back-tab",
    "M": "enter",
}  # fmt: skip
_NUMBERS = {
    "1": "home", "2": "insert", "3": "delete", "4": "end", "5": "page-up", "6": "page-down",
    "7": "home", "8": "end",
}  # fmt: skip
_CONTROLS = {
    "\r": "enter", "\n": "enter", "\t": "tab", "\x7f": "backspace", "\x08": "backspace",
    "\x1b": "escape",
}  # fmt: skip


class Keys:
    """Takes bytes as they come; a character stands for itself, other keys have names.

    `ctrl-u` and the like are what Control and a letter give. Sequences that mean no key that is
    known here mean nothing.
    """

    def __init__(self) -> None:
        self._bytes = b""
        self._text = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def is_waiting(self) -> bool:
        """An Escape is there, which may be a key or the beginning of one."""
        return bool(self._bytes)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with these bytes."""
        self._bytes += data
        found: list[str] = []
        while self._bytes:
            before, escape, rest = self._bytes.partition(b"\x1b")
            found += self._characters(before)
            self._bytes = escape + rest
            if not escape or not self._take_sequence(found):
                break
        return found

    def flush(self) -> list[str]:
        """Nothing more has come: what is waiting is the Escape key, and what was pressed after."""
        waiting, self._bytes = self._bytes, b""
        return self._characters(waiting[:1]) + self._characters(waiting[1:]) if waiting else []

    def _take_sequence(self, found: list[str]) -> bool:
        """Whether what begins with an Escape could be read."""
        if match := _CSI.match(self._bytes):
            found += _named(match[1].decode(), match[2].decode())
        elif match := _SS3.match(self._bytes):
            found += _named("", match[1].decode())
        elif _BEGUN.fullmatch(self._bytes) and len(self._bytes) < MAX_SEQUENCE:
            return False
        else:  # Escape, and then something else
            found.append("escape")
            self._bytes = self._bytes[1:]
            return True
        self._bytes = self._bytes[match.end() :]
        return True

    def _characters(self, data: bytes) -> list[str]:
        return [name for each in self._text.decode(data) if (name := _character(each))]


def _character(text: str) -> str:
    if text in _CONTROLS:
        return _CONTROLS[text]
    if "\x01" <= text <= "\x1a":
        return f"ctrl-{chr(ord(text) + 0x60)}"
    return text if text.isprintable() else ""


def _named(parameters: str, final: str) -> list[str]:
    """Which modifiers are held makes no difference."""
    first = parameters.partition(";")[0]
    name = _NUMBERS.get(first) if final == "~" else _LETTERS.get(final)
    return [name] if name else []
