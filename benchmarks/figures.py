"""Latencies in, a few honest numbers out; and the lines in which the processes talk."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LoadResult", "SentResult", "Spread", "SubscriberResult", "median", "say", "spread"]

Number = TypeVar("Number", int, float)


class Spread(TypedDict):
    """How long something took, in milliseconds.

    `drift`: how much the median of the last quarter of the time lies above that of the first; it
    grows with the length of the run when a backlog does.
    """

    count: int
    p50: float
    p99: float
    maximum: float
    drift: float


class SentResult(TypedDict):
    """What the load generator says when the last uplink of a phase has left it.

    `late`: seconds that this was behind the schedule; more than a little means that somebody
    (the service, or the generator itself) could not take the rate.
    """

    sent: int
    telegrams: int
    seconds: float
    late: float
    outstanding: int
    cpu_us: float


class LoadResult(TypedDict):
    """What the load generator says when a phase is over: each uplink answered, or given up."""

    sent: int
    answered: int
    refused: int
    outstanding: int
    telegrams: int
    acknowledged: int
    settle_seconds: float
    cuts: list[str]
    errors: dict[str, int]
    latency: Spread


class SubscriberResult(TypedDict):
    """What the subscriber has seen: since the start, and `latency` since the last reset.

    `repeats`: the same telegram under the same `id` again; `copies`: under another one; `gaps`:
    telegrams missing between the first and the last of a sensor; `disorder`: telegrams that came
    after a later one of their sensor.
    """

    received: int
    distinct: int
    repeats: int
    copies: int
    gaps: int
    disorder: int
    receptions: int
    last_receipt: float
    latency: Spread


def spread(values: Sequence[int], *, per_ms: int) -> Spread:
    """The figures of latencies in order of time, in units of which `per_ms` make a millisecond.

    >>> spread([1, 2, 3, 8], per_ms=1)
    {'count': 4, 'p50': 3.0, 'p99': 8.0, 'maximum': 8.0, 'drift': 7.0}
    """
    if not values:
        return Spread(count=0, p50=0.0, p99=0.0, maximum=0.0, drift=0.0)
    ordered = sorted(values)
    quarter = max(1, len(values) // 4)
    drift = median(values[-quarter:]) - median(values[:quarter])
    return Spread(
        count=len(ordered),
        p50=ordered[len(ordered) // 2] / per_ms,
        p99=ordered[len(ordered) * 99 // 100] / per_ms,
        maximum=ordered[-1] / per_ms,
        drift=drift / per_ms,
    )


def median(values: Sequence[Number]) -> Number:
    """The upper median of a sequence that is not empty."""
    return sorted(values)[len(values) // 2]


def say(line: Mapping[str, object]) -> None:
    """Tell the process that started us something: one line of JSON."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
