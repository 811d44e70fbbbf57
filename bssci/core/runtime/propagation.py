"""Tells one base station what is due, for as long as it is connected (BSSCI 1.0.0, 5.8 and 5.9).

Operations are pipelined: a base station answers in order and at its own pace, and one that answers
nothing holds up no other. What was told and what came back is the business of `life`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.protocol.errors import OperationLostError, OperationRefusedError, StorageError
from bssci.core.protocol.messages import AttachPropagate, DetachPropagate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bssci.core.center.lifecycle import Order
    from bssci.core.protocol.messages import Message

__all__ = ["SETTLE_TIME", "WINDOW", "BaseStation", "Orders", "Turns", "propagate"]

logger = logging.getLogger(__name__)

WINDOW = 16
# Operations that one base station has not answered. Fourteen without waiting were seen to be
# answered in order within 1.5 s.

SETTLE_TIME = 0.25
# Seconds from the connect to the first operation: base stations were seen to open many connections
# within 0.3 s, of which only the last one stays.

BATCH = WINDOW // 4
# Operations that begin together: they are put on disk by one write of the session, and their
# answers mostly by another.

TURNS = 16
TURN = 0.02
# Operations that may be on their way at all base stations together, and for how many seconds a
# batch counts as such: who answers slowly holds up the others no longer than that.

BUSY = 0.001
REST = 0.02
PATIENCE = 0.1
# All in seconds. A round of the loop that takes longer than `BUSY` has much to do; an uplink waits
# for some ten rounds. Then no batch begins until after a `REST`, or until `PATIENCE` is over: so at
# least forty operations begin in a second, however busy it is.

DISK_PAUSE = 1.0  # seconds until an operation that could not be put on disk is tried again


class BaseStation(Protocol):
    """What this needs of a link."""

    @property
    def bs_eui(self) -> int:
        """Who it is."""
        ...

    @property
    def is_open(self) -> bool:
        """Operations can be issued."""
        ...

    def unanswered(self) -> Sequence[Message]:
        """Our operations that lack an answer."""
        ...

    async def call(self, message: Message) -> Message:
        """Carry out an operation."""
        ...


class Orders(Protocol):
    """What this needs of `life`."""

    def next_message(self, bs_eui: int) -> tuple[Order, Message] | None:
        """What it is to be told next."""
        ...

    async def wait_for_orders(self, bs_eui: int) -> None:
        """Return when there may be more."""
        ...

    def sent(self, bs_eui: int, order: Order) -> None:
        """It is about to be told."""
        ...

    def not_sent(self, bs_eui: int, order: Order) -> None:
        """It was not told."""
        ...

    def timed_out(self, bs_eui: int, request: Message) -> None:
        """It has not answered."""
        ...


class Turns:
    """Lets a few operations begin at a time, at all base stations together.

    When everything is to be told to everybody, a thousand answers at once would stand before the
    next uplink. A turn ends with the answers, or soon without them: who is slow holds up nobody.
    """

    def __init__(self) -> None:
        self._taken: OrderedDict[object, tuple[float, int]] = OrderedDict()
        self._entrance = trio.StrictFIFOLock()
        self._given_back = trio.Event()

    @asynccontextmanager
    async def take(self, operations: int) -> AsyncIterator[None]:
        """The block is so many operations, from their beginning to their answers."""
        turn = object()
        async with self._entrance:
            while self._taken and self._busy() + operations > TURNS:
                await self._wait_for_one()
            await _wait_until_calm()
            self._taken[turn] = trio.current_time(), operations
        try:
            yield
        finally:
            self._taken.pop(turn, None)
            self._given_back.set()

    def _busy(self) -> int:
        return sum(operations for _, operations in self._taken.values())

    async def _wait_for_one(self) -> None:
        oldest, (begun, _) = next(iter(self._taken.items()))
        self._given_back = trio.Event()
        with trio.move_on_at(begun + TURN) as scope:
            await self._given_back.wait()
        if scope.cancelled_caught:
            self._taken.pop(oldest, None)


async def _wait_until_calm() -> None:
    """What is to be told can wait; uplinks, and answers to what was told before, go first."""
    deadline = trio.current_time() + PATIENCE
    while True:
        begun = trio.current_time()
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        if now - begun < BUSY or now >= deadline:
            return
        await trio.sleep(REST)


async def propagate(
    station: BaseStation, orders: Orders, *, turns: Turns, answer_timeout: float
) -> None:
    """Tell a base station everything that is due, and what becomes due, until cancelled.

    Args:
        turns: shared by all base stations.
        answer_timeout: seconds that an operation which the session has issued again may take.
    """
    async with trio.open_nursery() as nursery:
        if reissued := _of_ours(station.unanswered()):
            nursery.start_soon(_expire, station, orders, reissued, answer_timeout)
        await trio.sleep(SETTLE_TIME)
        window = _Window()
        while True:
            await window.wait_for(BATCH)
            batch: list[tuple[Order, Message]] = []
            while len(batch) < BATCH and (found := orders.next_message(station.bs_eui)):
                batch.append(found)
            if batch:
                window.take(len(batch))
                nursery.start_soon(_tell_together, station, orders, batch, window, turns)
            else:
                await orders.wait_for_orders(station.bs_eui)


class _Window:
    """How many operations are on their way to one base station."""

    def __init__(self) -> None:
        self._taken = 0
        self._given_back = trio.Event()

    def take(self, operations: int) -> None:
        self._taken += operations

    def give_back(self) -> None:
        self._taken -= 1
        self._given_back.set()

    async def wait_for(self, operations: int) -> None:
        """Return when there is room for so many."""
        while self._taken + operations > WINDOW:
            self._given_back = trio.Event()
            await self._given_back.wait()


async def _tell_together(
    station: BaseStation,
    orders: Orders,
    batch: Sequence[tuple[Order, Message]],
    window: _Window,
    turns: Turns,
) -> None:
    async with turns.take(len(batch)), trio.open_nursery() as nursery:
        for order, message in batch:
            orders.sent(station.bs_eui, order)
            nursery.start_soon(_tell, station, orders, order, message, window)


async def _tell(
    station: BaseStation, orders: Orders, order: Order, message: Message, window: _Window
) -> None:
    try:
        await station.call(message)
    except OperationRefusedError:
        pass  # noted where the refusal came in
    except OperationLostError:
        # When the link has ended, what was on its way is in doubt as a whole.
        if station.is_open:
            orders.timed_out(station.bs_eui, _as_issued(station, message))
    except StorageError:
        await trio.sleep(DISK_PAUSE)
        orders.not_sent(station.bs_eui, order)
    finally:
        window.give_back()


def _as_issued(station: BaseStation, message: Message) -> Message:
    """With the ID that the session gave it, by which an answer that is late is known."""
    same = [
        each
        for each in _of_ours(station.unanswered())
        if replace(each, op_id=message.op_id) == message
    ]
    # IDs of a Service Center fall: the last one is the least.
    return min(same, key=lambda each: each.op_id, default=message)


async def _expire(
    station: BaseStation, orders: Orders, reissued: Sequence[Message], answer_timeout: float
) -> None:
    """Nobody waits for what the session issues again; if it is not answered, it is told anew."""
    await trio.sleep(answer_timeout)
    still = {message.op_id for message in station.unanswered()}
    for message in reissued:
        if message.op_id in still:
            orders.timed_out(station.bs_eui, message)


def _of_ours(messages: Sequence[Message]) -> list[AttachPropagate | DetachPropagate]:
    return [each for each in messages if isinstance(each, AttachPropagate | DetachPropagate)]
