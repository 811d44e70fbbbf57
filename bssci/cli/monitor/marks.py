"""Small pictures of numbers, made of characters: sparklines and bars; and what others wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Losses", "bar", "clean", "losses", "sparkline"]

LEVELS = "▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉"


def sparkline(values: Sequence[float | None], width: int, *, least: float | None = None) -> str:
    """The last of these numbers, a character each; a blank where there is none.

    Args:
        least: what the lowest level stands for; what is above has a higher one. Default: the least
            of the numbers.

    >>> sparkline([0, 1, 4, None, 8], 10, least=0), sparkline([5, 5], 10)
    ('▁▂▅ █', '▁▁')
    """
    shown = list(values)[-width:] if width > 0 else []
    numbers = [each for each in shown if each is not None]
    if not numbers:
        return " " * len(shown)
    lowest = min(numbers) if least is None else least
    span = max(numbers) - lowest
    return "".join(" " if each is None else LEVELS[_level(each - lowest, span)] for each in shown)


def _level(above: float, span: float) -> int:
    if span <= 0 or above <= 0:
        return 0
    return max(1, min(len(LEVELS) - 1, round(above / span * (len(LEVELS) - 1))))


def bar(share: float, width: int) -> str:
    """A share from 0 to 1 as a bar, which fills this width when it is 1.

    >>> bar(0.5, 4), bar(0.28, 4), bar(2.0, 4), bar(0.001, 4)
    ('██  ', '█▏  ', '████', '▏   ')
    """
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


def clean(text: str) -> str:
    """What others have said, without what would move a terminal's cursor.

    >>> clean("Tower" + chr(27) + "[2J")
    'Tower\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


# --- telegrams that nobody heard ---

# Telegrams that overtook each other differ by less; a counter that goes back further was restarted.
RESTART = 32
# A counter that leaps further has been set, or belongs to a time when nobody listened.
LEAP = 1_000


@dataclass(frozen=True, slots=True)
class Losses:
    """What is missing between telegrams that were heard.

    Attributes:
        heard: telegrams.
        missing: counters in between that were not heard.
        gaps: how many times in a row some were missing.
    """

    heard: int
    missing: int
    gaps: int

    @property
    def rate(self) -> float | None:
        """The packet error rate; None: nothing was heard."""
        return self.missing / (self.heard + self.missing) if self.heard else None


def losses(counters: Sequence[int]) -> Losses:
    """What is missing in the counters of a sensor's telegrams, given in the order they came.

    >>> losses([1, 2, 5, 6, 9]), losses([107, 109, 108, 1, 2]).missing
    (Losses(heard=5, missing=4, gaps=2), 0)
    """
    runs: list[set[int]] = []
    last: int | None = None
    for counter in counters:
        if last is None or counter < last - RESTART or counter > last + LEAP:
            runs.append(set())
        runs[-1].add(counter)
        last = counter
    jumps = [
        after - before - 1
        for run in map(sorted, runs)
        for before, after in pairwise(run)
        if after > before + 1
    ]
    return Losses(sum(map(len, runs)), sum(jumps), len(jumps))
