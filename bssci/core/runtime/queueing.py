"""Tells one base station about downlinks, for as long as it is connected (BSSCI 1.0.0, 5.12, 5.13).

What was told and what came back is the business of `downlinks`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.protocol.errors import OperationLostError, OperationRefusedError, StorageError
from bssci.core.protocol.messages import (
    DownlinkDataQueue,
    DownlinkDataRevoke,
    DownlinkRxStatusQuery,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bssci.core.center.dispatch import Operation
    from bssci.core.protocol.messages import Message

__all__ = ["WINDOW", "BaseStation", "Downlinks", "queue_downlinks"]

WINDOW = 16  # operations that one base station has not answered


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


class Downlinks(Protocol):
    """What this needs of `downlinks`."""

    def next_operation(self, bs_eui: int) -> Operation | None:
        """What it is to be told next."""
        ...

    async def wait_for_operations(self, bs_eui: int) -> None:
        """Return when there may be more."""
        ...

    def not_sent(self, bs_eui: int, request: DownlinkDataQueue | DownlinkDataRevoke) -> None:
        """It was not told."""
        ...

    def timed_out(self, bs_eui: int, request: DownlinkDataQueue | DownlinkDataRevoke) -> None:
        """It has not answered."""
        ...


async def queue_downlinks(
    station: BaseStation, downlinks: Downlinks, *, answer_timeout: float
) -> None:
    """Tell a base station what is to be told about downlinks, until cancelled.

    Args:
        answer_timeout: seconds that an operation which the session has issued again may take.
    """
    window = trio.Semaphore(WINDOW)
    async with trio.open_nursery() as nursery:
        if reissued := _of_downlinks(station.unanswered()):
            nursery.start_soon(_expire, station, downlinks, reissued, answer_timeout)
        while True:
            await window.acquire()
            while (operation := downlinks.next_operation(station.bs_eui)) is None:
                await downlinks.wait_for_operations(station.bs_eui)
            if operation.query:
                nursery.start_soon(_query, station, operation.message.ep_eui)
                # Tasks that are started together begin in any order; this one is to be first.
                await trio.lowlevel.checkpoint()
            nursery.start_soon(_tell, station, downlinks, operation, window)


async def _query(station: BaseStation, ep_eui: int) -> None:
    """The base station is to ask in the next downlink; if it cannot, that goes out all the same."""
    with contextlib.suppress(OperationRefusedError, OperationLostError, StorageError):
        await station.call(DownlinkRxStatusQuery(ep_eui=ep_eui))


async def _tell(
    station: BaseStation, downlinks: Downlinks, operation: Operation, window: trio.Semaphore
) -> None:
    try:
        await station.call(operation.message)
    except OperationRefusedError:
        pass  # noted where the refusal came in
    except OperationLostError:
        # When the link has ended, the session knows what was on its way.
        if station.is_open:
            downlinks.timed_out(station.bs_eui, operation.message)
    except StorageError:
        downlinks.not_sent(station.bs_eui, operation.message)
    finally:
        window.release()


async def _expire(
    station: BaseStation,
    downlinks: Downlinks,
    reissued: Sequence[DownlinkDataQueue | DownlinkDataRevoke],
    answer_timeout: float,
) -> None:
    """Nobody waits for what the session issues again."""
    await trio.sleep(answer_timeout)
    still = {message.op_id for message in station.unanswered()}
    for message in reissued:
        if message.op_id in still:
            downlinks.timed_out(station.bs_eui, message)


def _of_downlinks(
    messages: Sequence[Message],
) -> list[DownlinkDataQueue | DownlinkDataRevoke]:
    return [each for each in messages if isinstance(each, DownlinkDataQueue | DownlinkDataRevoke)]
