"""What a base station says, on its way to the Service Center: in order, until it is answered."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import trio

from bssci.core.protocol.errors import BssciError, Code

if TYPE_CHECKING:
    from collections.abc import Callable

    from bssci.core.protocol.messages import Message

__all__ = ["TRY_AGAIN", "Delivery", "Outbox"]

# The Service Center cannot take it now and says so; it will.
TRY_AGAIN = frozenset({Code.EIO, Code.EAGAIN, Code.ENOSPC})


class Delivery:
    """An operation of ours on its way to the Service Center.

    Attributes:
        message: what is said, without operation ID.
        response: the Service Center's answer, once it is there.
        error: why there will be none: `OperationRefusedError`, `OperationLostError` when the
            station was closed before, `LocalProtocolError` when the message breaks a rule.
    """

    __slots__ = ("_on_end", "_over", "error", "issued", "message", "number", "refusals", "response")

    def __init__(
        self, message: Message, number: int, on_end: Callable[[Delivery], None] | None = None
    ) -> None:
        self.message = message
        self.response: Message | None = None
        self.error: BssciError | None = None
        self.number = number
        self.issued = 0.0
        self.refusals = 0
        self._on_end = on_end
        self._over: trio.Event | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was answered, or will never be."""
        return self.response is not None or self.error is not None

    async def wait(self) -> Message:
        """The Service Center's answer.

        Raises:
            OperationRefusedError, OperationLostError, LocalProtocolError: as in `error`.
        """
        if not self.is_over:
            if self._over is None:
                self._over = trio.Event()
            await self._over.wait()
        if self.error is not None:
            raise self.error
        assert self.response is not None
        return self.response

    def end(self, outcome: Message | BssciError) -> None:
        if isinstance(outcome, BssciError):
            self.error = outcome
        else:
            self.response = outcome
        if self._over is not None:
            self._over.set()
        if self._on_end is not None:
            self._on_end(self)


class Outbox:
    """Which delivery is to be issued when: in order, not too many at once, again if refused.

    Args:
        window: deliveries that may be issued and lack an answer.
        retry_pause: seconds before what was refused with "try again" is repeated; doubles.
        retry_max: seconds, at most.
        jitter: a factor for the next pause.
    """

    def __init__(
        self, *, window: int, retry_pause: float, retry_max: float, jitter: Callable[[], float]
    ) -> None:
        self._window = window
        self._retry_pause = retry_pause
        self._retry_max = retry_max
        self._jitter = jitter
        self._waiting: list[tuple[int, Delivery]] = []
        self._resting: list[tuple[float, int, Delivery]] = []
        self._paused_until = -math.inf
        self.open: dict[int, Delivery] = {}
        """What is issued and lacks an answer, by operation ID, the oldest first."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._resting) + len(self.open)

    def add(self, delivery: Delivery) -> None:
        heappush(self._waiting, (delivery.number, delivery))

    def next(self, now: float) -> Delivery | None:
        """The delivery to be issued now."""
        while self._resting and self._resting[0][0] <= now:
            self.add(heappop(self._resting)[2])
        if not self._waiting or now < self._paused_until:
            return None
        if len(self.open) >= self._window:
            return None
        return heappop(self._waiting)[1]

    def due(self, now: float) -> float:
        """When `next` may have something that it has not now, if nothing else happens."""
        rested = self._resting[0][0] if self._resting else math.inf
        is_paused = self._waiting and self._paused_until > now
        return min(rested, self._paused_until) if is_paused else rested

    def issued(self, delivery: Delivery, op_id: int, now: float) -> None:
        delivery.issued = now
        self.open[op_id] = delivery

    def answered(self, op_id: int) -> Delivery | None:
        self._paused_until = -math.inf
        return self.open.pop(op_id, None)

    def refused(self, op_id: int, code: int, now: float) -> Delivery | None:
        """The delivery that has come to its end by this refusal; None if it is to be repeated.

        A Service Center that cannot take one uplink cannot take the next one: all wait, so that
        their order is kept, until the pause is over or something was taken.
        """
        delivery = self.open.pop(op_id, None)
        if delivery is None or code not in TRY_AGAIN:
            return delivery
        pause = self._retry_pause * 2.0 ** min(delivery.refusals, 30)
        pause = min(pause, self._retry_max) * self._jitter()
        delivery.refusals += 1
        heappush(self._resting, (now + pause, delivery.number, delivery))
        self._paused_until = max(self._paused_until, now + pause)
        return None

    def restart(self, now: float, *, resumed: bool) -> None:
        """A connection is open: what lacks an answer is issued again, by the session if resumed."""
        self._paused_until = -math.inf
        if resumed:
            for delivery in self.open.values():
                delivery.issued = now
        else:
            for delivery in self.open.values():
                self.add(delivery)
            self.open.clear()

    def take_all(self) -> list[Delivery]:
        found = [entry[-1] for entry in self._waiting] + [entry[-1] for entry in self._resting]
        found += self.open.values()
        self._waiting, self._resting = [], []
        self.open.clear()
        return found
