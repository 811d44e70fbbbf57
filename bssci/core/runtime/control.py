"""The control plane's door: JSON-RPC 2.0 in WebSocket text messages over a Unix socket.

Requests of one client run side by side: one that waits holds up no other. Answers and events go
out through one task. Who reads slowly loses events and is told how many; who does not take its
answers is sent away. Whatever a client does, the others do not notice.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from bssci.core.center.methods import bind, describe, methods_of
from bssci.core.center.rpc import (
    MAX_ANSWER,
    MAX_REQUEST,
    BusyError,
    Failure,
    Notification,
    Request,
    RequestError,
    Result,
    RpcCode,
    answer_pieces,
    failure_of,
    parse_calls,
    unknown_method,
)
from bssci.core.runtime.subscriptions import (
    SUBSCRIBE,
    Subscriptions,
    Wanted,
    by_eui,
    subscribe_with,
)
from bssci.core.runtime.unix_socket import listening
from bssci.core.runtime.websocket import (
    GOING_AWAY,
    TRY_AGAIN_LATER,
    EndedError,
    NoWebSocketError,
    accept_websocket,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from bssci.core.center.methods import Method
    from bssci.core.center.rpc import Answer, Call, Id, Params
    from bssci.core.runtime.subscriptions import Resolve, Watch
    from bssci.core.runtime.websocket import WebSocket

    Function = Callable[..., Awaitable[object]]
    Parts = tuple[str, ...]  # of the text of an answer; none: there is none

__all__ = ["MAX_CLIENTS", "describe_methods", "serve_control"]

logger = logging.getLogger(__name__)

MAX_CLIENTS = 100
MAX_CONNECTIONS = 2 * MAX_CLIENTS  # with those that are only told that they are too many
MAX_CALLS = 32  # of one client at once; meanwhile nothing more is read from it
MAX_SUBSCRIPTIONS = 16  # of one client

# From an answer being ready to the client having taken it. The client is on the same machine.
ANSWER_TIMEOUT = 60.0  # seconds

# What is encoded of a listing before the others may go on: less than a millisecond.
BREATH = 64 * 1024  # characters


async def serve_control(
    path: Path,
    methods: Mapping[str, Function],
    watch: Watch,
    *,
    resolve: Resolve = by_eui,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve clients until cancelled; started: they can connect. It ends within a second.

    A method is called with what its annotations say. When its client goes away it is cancelled:
    what it has put on disk stays, and only its waiting ends. It raises a `RequestError`, or any
    other `BssciError`, for what cannot be done; anything else is a fault of ours, which is logged.
    What it returns is not changed any more by anybody.

    Args:
        path: where the socket is; nobody but its owner can open it.
        methods: what can be called, by name. `events.subscribe` is added here.
        watch: gives what happens from now on, while its context lasts.
        resolve: the EUI that a text means, be it an EUI or a name; raises a `BssciError`.

    Raises:
        SocketError: it cannot listen at that path; says why and what to do.
        TypeError: a method has a parameter that JSON cannot be bound to.
    """
    door = _Door(methods_of({**methods, SUBSCRIBE: subscribe_with(resolve)}), watch)
    with listening(path) as bound:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, door.welcome, [listener])
            task_status.started()


def describe_methods(methods: Mapping[str, Function]) -> dict[str, dict[str, dict[str, object]]]:
    """Methods with their parameters, those among them that the door adds."""
    return describe({**methods, SUBSCRIBE: subscribe_with(by_eui)})


# --- the door ---


class _Door:
    """Lets clients in, as many as there is room for."""

    def __init__(self, methods: Mapping[str, Method], watch: Watch) -> None:
        self._methods = methods
        self._watch = watch
        self._connections = 0
        self._clients = 0

    async def welcome(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends; nothing it does comes out of here."""
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                await self._converse(stream)
        except* NoWebSocketError as group:
            logger.debug("control: no client: %s", group.exceptions[0])
        except* EndedError as group:
            logger.debug("control: a client has gone: %s", group.exceptions[0])
        except* trio.TooSlowError:
            logger.warning(
                "control: a client has not taken an answer for %g s and is sent away",
                ANSWER_TIMEOUT,
            )
        except* Exception:
            logger.exception("control: a connection failed; this is our fault")
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.SocketStream) -> None:
        async with accept_websocket(
            stream, max_message=MAX_REQUEST, farewell=(GOING_AWAY, "the service stops")
        ) as websocket:
            if self._clients >= MAX_CLIENTS:
                logger.warning("control: a client is sent away, %d are connected", self._clients)
                reason = f"{MAX_CLIENTS} clients are connected already; end one of them"
                websocket.farewell = (TRY_AGAIN_LATER, reason)
                return
            self._clients += 1
            try:
                await _Client(websocket, self._methods, self._watch).serve()
            finally:
                self._clients -= 1


@dataclass(frozen=True, slots=True)
class _Outgoing:
    parts: Parts
    within: float
    """Seconds in which the client must take it."""


class _Client:
    """One client, and what it has asked for."""

    def __init__(self, websocket: WebSocket, methods: Mapping[str, Method], watch: Watch) -> None:
        self._websocket = websocket
        self._methods = methods
        self._watch = watch
        self._slots = trio.Semaphore(MAX_CALLS)
        # Without a buffer: what a client does not take waits with those who want to say it, and
        # of them there are as many as it has calls and subscriptions.
        self._outbox, self._outgoing = trio.open_memory_channel[_Outgoing](0)
        self._subscribed = 0

    async def serve(self) -> None:
        """Serve until the client goes; then whatever it has called is cancelled.

        Raises:
            EndedError: it has gone.
            trio.TooSlowError: it does not take its answers.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            nursery.start_soon(self._watch_for_end, nursery.cancel_scope)
            while True:
                message = await self._websocket.receive()
                await self._slots.acquire()
                nursery.start_soon(self._attend, message)

    async def _watch_for_end(self, scope: trio.CancelScope) -> None:
        """Also while nothing is read, because too many calls are under way."""
        await self._websocket.wait_gone()
        scope.cancel()

    async def _write(self) -> None:
        async for outgoing in self._outgoing:
            with trio.fail_after(outgoing.within):
                await self._websocket.send(*outgoing.parts)

    async def _attend(self, message: str | bytes) -> None:
        """Answer one message; if it subscribes, tell what happens from then on."""
        with Subscriptions(self._watch) as subscriptions:
            try:
                if parts := await self._answer(parse_calls(message), subscriptions):
                    with trio.fail_after(ANSWER_TIMEOUT):
                        await self._outbox.send(_Outgoing(parts, ANSWER_TIMEOUT))
            finally:
                self._slots.release()
            await subscriptions.run(self._tell)

    async def _tell(self, text: str) -> None:
        await self._outbox.send(_Outgoing((text,), math.inf))

    async def _answer(self, calls: Call | list[Call], subscriptions: Subscriptions) -> Parts:
        """The text that answers a message; a batch is done one after the other."""
        if not isinstance(calls, list):
            return await self._answer_one(calls, subscriptions, MAX_ANSWER)
        parts: list[str] = []
        for call in calls:
            room = MAX_ANSWER - sum(map(len, parts))
            if answer := await self._answer_one(call, subscriptions, room):
                parts += ["," if parts else "[", *answer]
        return (*parts, "]") if parts else ()

    async def _answer_one(self, call: Call, subscriptions: Subscriptions, room: int) -> Parts:
        match call:
            case Request():
                answer = await self._done(call.id, call.method, call.params, subscriptions)
            case Notification():
                await self._done(None, call.method, call.params, subscriptions)
                return ()
            case Failure():
                answer = call
        try:
            return await _encoded(answer, room)
        except (TypeError, ValueError) as error:
            return tuple(answer_pieces(_failed(answer.id, "an answer", error)))

    async def _done(
        self, call_id: Id, name: str, params: Params, subscriptions: Subscriptions
    ) -> Answer:
        method = self._methods.get(name)
        if method is None:
            return unknown_method(call_id, name)
        logger.debug("control: %s is called", name)
        try:
            value = await method.function(**bind(method, params))
            if isinstance(value, Wanted):
                value = self._open(value, subscriptions)
        except Exception as error:
            return _failed(call_id, name, error)
        return Result(call_id, value)

    def _open(self, wanted: Wanted, subscriptions: Subscriptions) -> dict[str, int]:
        if self._subscribed >= MAX_SUBSCRIPTIONS:
            raise BusyError(
                f"this client has {MAX_SUBSCRIPTIONS} subscriptions already",
                hint="a subscription ends with its connection: open another one",
            )
        self._subscribed += 1
        subscriptions.open(self._subscribed, wanted)
        return {"subscription": self._subscribed}


def _failed(call_id: Id, name: str, error: Exception) -> Failure:
    failure = failure_of(call_id, error)
    if failure.code == RpcCode.INTERNAL_ERROR:
        logger.error("control: %s failed; this is our fault", name, exc_info=error)
    return failure


async def _encoded(answer: Answer, room: int) -> Parts:
    """The text of an answer; the others go on while a long one is made.

    Raises:
        TypeError, ValueError: it is nothing that JSON can say.
    """
    parts: list[str] = []
    pieces: list[str] = []
    length = made = 0
    for piece in answer_pieces(answer):
        pieces.append(piece)
        length += len(piece)
        if length > room:
            return tuple(answer_pieces(_too_long(answer.id)))
        if length - made >= BREATH:
            parts.append("".join(pieces))
            pieces, made = [], length
            await trio.lowlevel.checkpoint()
    return (*parts, "".join(pieces))


def _too_long(call_id: Id) -> Failure:
    return failure_of(
        call_id,
        RequestError(
            f"the answer has more than {MAX_ANSWER} characters",
            hint="ask for less at once, for example with `count`",
        ),
    )
