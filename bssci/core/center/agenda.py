"""Which end points of one base station to look at, and in which order (BSSCI 1.0.0, 5.8 and 5.9).

What has changed comes before what is to be tried again, and that before all others. The agenda only
says where to look; whether there is anything to tell is found out then.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["Agenda"]

FIRST_RETRY = 60.0
# Seconds until a base station is told again what it refused or did not answer; doubled each time.
# Whatever makes it refuse (no room, no such feature) does not pass within seconds.

LAST_RETRY = 3600.0
# Seconds; the longest pause.

ROOM = 1024
# Entries beyond twice of what is good among them, before the rest is thrown out.


class Agenda:
    """Which end points to look at next: what has changed, what is to be tried again, all others."""

    def __init__(self, is_due: Callable[[int], object]) -> None:
        self._is_due = is_due
        self._changed: deque[int] = deque()
        self._room = ROOM
        self._tries: dict[int, int] = {}
        self._planned: dict[int, float] = {}
        self._retries: list[tuple[float, int]] = []
        """A heap; only what is also planned counts."""
        self._sweep: Iterator[int] = iter(())

    def begin(self, end_points: Iterable[int]) -> None:
        """Look at all of them, one after the other."""
        self._changed.clear()
        self._sweep = iter(end_points)

    def look_at(self, ep_eui: int) -> None:
        """Before all that is not waiting here yet."""
        self._changed.append(ep_eui)
        if len(self._changed) > self._room:
            self._changed = deque(filter(self._is_due, dict.fromkeys(self._changed)))
            self._room = ROOM + 2 * len(self._changed)

    def try_later(self, ep_eui: int, now: float) -> None:
        tries = self._tries[ep_eui] = self._tries.get(ep_eui, 0) + 1
        self.try_at(ep_eui, now + min(FIRST_RETRY * 2 ** min(tries - 1, 16), LAST_RETRY))

    def try_at(self, ep_eui: int, at: float) -> None:
        """Look at it then, and not before."""
        self._planned[ep_eui] = at
        heapq.heappush(self._retries, (at, ep_eui))
        if len(self._retries) > ROOM + 2 * len(self._planned):
            self._retries = [(at, ep_eui) for ep_eui, at in self._planned.items()]
            heapq.heapify(self._retries)

    def done(self, ep_eui: int) -> None:
        """What was tried has come true, or is wanted no more."""
        self._tries.pop(ep_eui, None)
        self._planned.pop(ep_eui, None)

    def is_planned(self, ep_eui: int) -> bool:
        return ep_eui in self._planned

    def next_retry(self) -> float | None:
        while self._retries and self._planned.get(self._retries[0][1]) != self._retries[0][0]:
            heapq.heappop(self._retries)
        return self._retries[0][0] if self._retries else None

    def candidates(self, now: float) -> Iterator[int]:
        """Each is given once: where it leads to nothing now, something must bring it back."""
        while self._changed:
            ep_eui = self._changed.popleft()
            if ep_eui not in self._planned:  # it was looked at meanwhile
                yield ep_eui
        while (at := self.next_retry()) is not None and at <= now:
            _, ep_eui = heapq.heappop(self._retries)
            del self._planned[ep_eui]
            yield ep_eui
        for ep_eui in self._sweep:
            if ep_eui not in self._planned:
                yield ep_eui
