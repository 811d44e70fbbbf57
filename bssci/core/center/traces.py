"""What is remembered of a telegram to recognise its copies, and how little room it takes.

A telegram leaves a *trace*: when it came, and a *sight* of each reception. A released one is kept
as octets, a million of them where there are so many.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

from bssci.core.center.receptions import DIGEST_SIZE

__all__ = [
    "MAX_SIGHTS",
    "SAME_TIME",
    "UNKNOWN_OPERATION",
    "Sight",
    "Trace",
    "first_ns_of",
    "pack",
    "sight_of",
    "unpack",
    "without_oldest",
]

SAME_TIME = 2_000_000_000
# ns between corrected reception times of one telegram. Clock errors are known to some
# milliseconds; what remains is drift since the last status.

MAX_SIGHTS = 32
# Receptions by which a copy is recognised. A telegram may have more; any of them would do.

UNKNOWN_OPERATION = 0
"""The operation of a sight that was read from disk."""

_BOUND = 2**63

Sight = tuple[int, int, int, int]
"""A reception as it is recognised: base station, reception time (0: it knows none), the same
corrected, and the operation, hashed."""


@dataclass(slots=True, eq=False)
class Trace:
    """What is known of a telegram, open or released, to recognise its copies."""

    digest: bytes
    first_ns: int
    """Monotonic. If from disk, when it was read: it serves for ageing only."""
    received_ns: int
    is_from_disk: bool
    sights: list[int]
    """Four numbers each, one after the other."""

    def has(self, sight: Sight) -> bool:
        """Whether the reception says itself that it is of this telegram."""
        station, rx_time, corrected, operation = sight
        sights = self.sights
        for i in range(0, len(sights), 4):
            if operation == sights[i + 3]:
                return True
            if rx_time and sights[i + 1]:
                if -SAME_TIME <= corrected - sights[i + 2] <= SAME_TIME:
                    return True
                if station == sights[i] and rx_time == sights[i + 1]:
                    return True
        return False

    def contradicts(self, sight: Sight) -> bool:
        """Whether the same base station heard this telegram at another time.

        It may deliver what it heard for an hour at once; only its own clock tells that apart.
        """
        station, rx_time, _, _ = sight
        times = [
            time
            for known, time in zip(self.sights[::4], self.sights[1::4], strict=True)
            if known == station and time
        ]
        return bool(rx_time and times) and all(abs(rx_time - t) > SAME_TIME for t in times)

    def is_within(self, window_ns: int, received_ns: int, now_ns: int, *, from_disk: bool) -> bool:
        """Whether a reception of this moment arrived within the window of the first one.

        Args:
            window_ns: the window, to either side by the wall clock.
            received_ns: Unix time of its arrival.
            now_ns: the same, monotonic.
            from_disk: the monotonic time says nothing about its arrival.
        """
        if now_ns - self.first_ns <= window_ns and not (from_disk or self.is_from_disk):
            return True
        return -window_ns <= received_ns - self.received_ns <= window_ns

    def note(self, sight: Sight) -> None:
        """Recognise copies by this reception, too; beyond `MAX_SIGHTS` it is forgotten."""
        sights = self.sights
        for i in range(0, len(sights), 4):
            if sight[0] == sights[i] and sight[1] == sights[i + 1]:
                return
        if len(sights) < 4 * MAX_SIGHTS:
            sights += sight


def sight_of(bs_eui: int, rx_time: int, corrected: int | None, operation: int) -> Sight:
    """A reception as it is recognised. Times in ns; `corrected` is None with an unknown clock."""
    when = rx_time if corrected is None else corrected
    return _signed(bs_eui), _signed(rx_time), _signed(when), operation


def _signed(number: int) -> int:
    """In 64 bits: an EUI may need the highest, and a peer may send what is no time at all."""
    return number if -_BOUND <= number < _BOUND else (number + _BOUND) % (2 * _BOUND) - _BOUND


# --- how a released telegram is kept ---------------------------------------------------------

# As octets, a head and its sights: 112 octets with one reception, and nothing that the garbage
# collector would have to look at a million times. It begins with the digest. Telegrams of one
# place follow each other, the oldest first.

_HEAD = Struct(f"<{DIGEST_SIZE}sqqB")
_FROM_DISK = 0x80  # a bit of the number of sights


@lru_cache(maxsize=MAX_SIGHTS + 1)
def _record(numbers: int) -> Struct:
    return Struct(f"<{DIGEST_SIZE}sqqB{numbers}q")


def pack(trace: Trace) -> bytes:
    """One trace as octets; several are kept as theirs in a row."""
    sights = trace.sights
    count = len(sights) // 4 | (_FROM_DISK if trace.is_from_disk else 0)
    return _record(len(sights)).pack(
        trace.digest, trace.first_ns, trace.received_ns, count, *sights
    )


def unpack(octets: bytes) -> list[Trace]:
    """The traces in these octets, the oldest first."""
    traces = []
    start = 0
    while start < len(octets):
        record = _record(4 * (octets[start + _HEAD.size - 1] & ~_FROM_DISK))
        digest, first_ns, received_ns, count, *sights = record.unpack_from(octets, start)
        is_from_disk = bool(count & _FROM_DISK)
        traces.append(Trace(digest, first_ns, received_ns, is_from_disk, sights))
        start += record.size
    return traces


def first_ns_of(octets: bytes) -> int:
    """`Trace.first_ns` of the oldest one in these octets."""
    return int.from_bytes(octets[DIGEST_SIZE : DIGEST_SIZE + 8], "little", signed=True)


def without_oldest(octets: bytes) -> bytes:
    """What is left of these octets when the oldest trace is forgotten."""
    return octets[_record(4 * (octets[_HEAD.size - 1] & ~_FROM_DISK)).size :]
