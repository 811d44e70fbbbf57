"""What a base station is told: whether it is online, and what the Service Center asks of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.protocol.errors import Code
from bssci.core.protocol.events import Withdrawn
from bssci.core.protocol.operations import OPERATIONS

if TYPE_CHECKING:
    from bssci.core.protocol.messages import (
        Attach,
        AttachResponse,
        ConnectResponse,
        Detach,
        Message,
    )

__all__ = [
    "Attached",
    "Detached",
    "Offline",
    "Online",
    "Request",
    "StationEvent",
    "StationEvents",
]

# Events that wait for a gateway to read them. Beyond it requests are refused, to be tried again.
MAX_EVENTS = 1000


@dataclass(frozen=True, slots=True)
class Online:
    """The session is open. Not resumed: what the Service Center told us before is void."""

    resumed: bool
    response: ConnectResponse


@dataclass(frozen=True, slots=True)
class Offline:
    """A connection has ended, or (`was_online` is false) could not be made. It will be again."""

    reason: str
    was_online: bool


@dataclass(frozen=True, slots=True)
class Attached:
    """The Service Center has accepted an attach over the air that we reported: from now on the end
    point is served, with the key and the short address of the response (or of the request).
    """

    request: Attach
    response: AttachResponse


@dataclass(frozen=True, slots=True)
class Detached:
    """The Service Center has taken a detach over the air that we reported: forget the end point."""

    request: Detach


class _Line(Protocol):
    """What a request came by and its answer goes by."""

    def respond(self, response: Message) -> None: ...

    def refuse(self, op_id: int, code: int, reason: str) -> None: ...


class Request:
    """The Service Center asks something: `respond` or `refuse` is due, now or later.

    Attributes:
        message: what it asks.
        reissued: it may have asked it before, on an earlier connection of this session.
    """

    def __init__(self, message: Message, *, reissued: bool, link: _Line) -> None:
        self.message = message
        self.reissued = reissued
        self._link = link

    def __repr__(self) -> str:
        return f"<Request {self.message!r}>"

    def respond(self, response: Message | None = None) -> None:
        """Answer. Without a response: the one of this operation, if it has no fields.

        On a connection that is gone nothing is sent: the Service Center asks again.

        Raises:
            LocalProtocolError: it is answered already, or this is no answer to it.
        """
        if response is None:
            response = OPERATIONS[type(self.message)].response()
        self._link.respond(replace(response, op_id=self.message.op_id))

    def refuse(self, code: int, reason: str) -> None:
        """Answer with an error: a POSIX number and words.

        Raises:
            LocalProtocolError: it is answered already.
        """
        self._link.refuse(self.message.op_id, code, reason)


StationEvent = Online | Offline | Request | Withdrawn | Attached | Detached


class StationEvents:
    """Events in order, for a gateway that answers by itself:

        events = StationEvents()
        async with open_station(..., take=events.put) as station:
            async for event in events: ...

    At most 1000 wait. Requests beyond are refused with error 11 (try again); of the others the
    oldest are forgotten.
    """

    def __init__(self) -> None:
        self._events: deque[StationEvent] = deque()
        self._there = trio.Event()

    def put(self, event: StationEvent) -> None:
        """Add an event; for `take` of `open_station`."""
        if len(self._events) >= MAX_EVENTS and isinstance(event, Request):
            event.refuse(Code.EAGAIN, "too many requests wait already")
            return
        if len(self._events) >= 2 * MAX_EVENTS:
            self._forget_oldest()
        self._events.append(event)
        self._there.set()

    def _forget_oldest(self) -> None:
        oldest = next(event for event in self._events if not isinstance(event, Request))
        self._events.remove(oldest)

    def __aiter__(self) -> StationEvents:
        return self

    async def __anext__(self) -> StationEvent:
        await trio.lowlevel.checkpoint()
        while not self._events:
            if self._there.is_set():
                self._there = trio.Event()
            await self._there.wait()
        return self._events.popleft()
