"""WebSocket on a stream that is there already, at both ends (RFC 6455).

trio-websocket lives here only. What it leaves open is closed here: a handshake that ends half-way
is noticed, each wait for the other side has a deadline, and its errors become one of ours.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import trio
import trio_websocket
import wsproto.utilities
from wsproto.events import TextMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    _Shake = Callable[[trio.Nursery, "_Watched"], Awaitable[trio_websocket.WebSocketConnection]]

__all__ = [
    "GOING_AWAY",
    "HANDSHAKE_TIMEOUT",
    "NORMAL",
    "POLICY_VIOLATION",
    "TRY_AGAIN_LATER",
    "EndedError",
    "NoWebSocketError",
    "WebSocket",
    "accept_websocket",
    "open_websocket",
]

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 5.0  # seconds, from the connection to the end of the handshake
PART_TIMEOUT = 0.5  # seconds, from our last word to the end of the connection

RECEIVE_SIZE = 64 * 1024  # bytes at once; far less than the shortest limit of a message

# How an end is called (RFC 6455, 7.4.1).
NORMAL = 1000
GOING_AWAY = 1001
GONE = 1006
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


UNFINISHED = "it ends before its handshake does"


class NoWebSocketError(Exception):
    """The handshake failed: who is at the other end speaks something else, or nothing."""


class EndedError(Exception):
    """The conversation is over.

    Attributes:
        code: how it ended; 1006 is an end without a word.
        reason: what the other side said about it; may be empty.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"ended with code {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class WebSocket:
    """One conversation.

    Attributes:
        farewell: code and reason that the other side is told when we are the one who ends it.
            The reason has at most 123 bytes.
    """

    def __init__(
        self,
        connection: trio_websocket.WebSocketConnection,
        ended: trio.Event,
        farewell: tuple[int, str],
    ) -> None:
        self._connection = connection
        self._ended = ended
        self.farewell = farewell

    async def wait_gone(self) -> None:
        """Return when the other side has gone, also while nobody receives.

        It is not noticed behind more than one message that nobody has received.
        """
        await self._ended.wait()

    async def receive(self) -> str | bytes:
        """The next message.

        Raises:
            EndedError: there will be none.
        """
        try:
            return await self._connection.get_message()
        except trio_websocket.ConnectionClosed as closed:
            raise _ended(closed.reason) from closed

    async def send(self, *parts: str) -> None:
        """Send a message, each part in a frame of its own: a long one holds nobody up.

        If this is cancelled, end the conversation: the message may be half sent. Calls must not
        overlap.

        Raises:
            EndedError: it cannot be sent any more.
        """
        last = len(parts) - 1
        try:
            for number, part in enumerate(parts):
                # `send_message` would make one frame of it all, copied five times over.
                await self._connection._send(TextMessage(part, message_finished=number == last))
        except trio_websocket.ConnectionClosed as closed:
            raise _ended(closed.reason) from closed
        except wsproto.utilities.LocalProtocolError as closing:
            raise _ended(self._connection.closed) from closing

    async def part(self) -> None:
        """Say farewell, and wait for the other side's."""
        await self._connection.aclose(*self.farewell)


def _ended(reason: trio_websocket.CloseReason | None) -> EndedError:
    if reason is None:
        return EndedError(GONE, "")
    return EndedError(reason.code, reason.reason or "")


def accept_websocket(
    stream: trio.SocketStream, *, max_message: int, farewell: tuple[int, str]
) -> contextlib.AbstractAsyncContextManager[WebSocket]:
    """Be the server of a connection while the block lasts; then it is closed.

    A message of more than `max_message` characters ends the conversation with code 1009.

    Raises:
        NoWebSocketError: the client does not come to the end of its handshake in time.
    """

    async def shake(readers: trio.Nursery, watched: _Watched) -> trio_websocket.WebSocketConnection:
        request = await trio_websocket.wrap_server_stream(
            readers, watched, max_message_size=max_message, receive_buffer_size=RECEIVE_SIZE
        )
        return await request.accept()

    return _conversation(stream, shake, farewell)


def open_websocket(
    stream: trio.SocketStream, *, max_message: int
) -> contextlib.AbstractAsyncContextManager[WebSocket]:
    """Be the client of a connection while the block lasts; then it is closed.

    Raises:
        NoWebSocketError: the server does not come to the end of its handshake in time.
    """

    async def shake(readers: trio.Nursery, watched: _Watched) -> trio_websocket.WebSocketConnection:
        return await trio_websocket.wrap_client_stream(
            readers,
            watched,  # type: ignore[arg-type]  # any stream will do
            "localhost",
            "/",
            max_message_size=max_message,
            receive_buffer_size=RECEIVE_SIZE,
        )

    return _conversation(stream, shake, (NORMAL, ""))


@contextlib.asynccontextmanager
async def _conversation(
    stream: trio.SocketStream, shake: _Shake, farewell: tuple[int, str]
) -> AsyncIterator[WebSocket]:
    websocket: WebSocket | None = None
    failure: BaseException | None = None
    watched = _Watched(stream)
    reading = trio.CancelScope()
    try:
        async with trio.open_nursery() as nursery:
            try:
                connection = await nursery.start(_read, watched, shake, reading)
                # Also when we are cancelled somebody must hear the other side's farewell.
                reading.shield = True
                websocket = WebSocket(connection, watched.ended, farewell)
                yield websocket
            except BaseException as error:  # raised again below, outside of any group
                failure = error
            deadline = trio.current_time() + PART_TIMEOUT
            try:
                if websocket is not None:
                    with trio.CancelScope(deadline=deadline, shield=True):
                        await websocket.part()
            finally:
                reading.cancel()
        if websocket is not None:
            with trio.CancelScope(deadline=deadline, shield=True):
                await _hear_out(stream)
    finally:
        await trio.aclose_forcefully(stream)
    if failure is not None:
        raise failure


async def _read(
    watched: _Watched,
    shake: _Shake,
    reading: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[trio_websocket.WebSocketConnection],
) -> None:
    """Shake hands, and give the library's reader a place where it may fail."""
    connection: trio_websocket.WebSocketConnection | None = None
    fault = UNFINISHED
    try:
        with reading:
            async with trio.open_nursery() as readers:
                connection = await _shaken(readers, watched, shake)
                task_status.started(connection)
    except* NoWebSocketError as group:
        fault = str(group.exceptions[0])
    except* trio_websocket.ConnectionRejected:
        fault = "it answers in HTTP, but does not speak WebSocket"
    except* (trio_websocket.ConnectionClosed, wsproto.utilities.ProtocolError) as group:
        # The library wants to answer while one side is closing already.
        logger.debug("reading a WebSocket ends: %r", group.exceptions)
    if connection is None:
        raise NoWebSocketError(fault)


async def _shaken(
    readers: trio.Nursery, watched: _Watched, shake: _Shake
) -> trio_websocket.WebSocketConnection:
    """The connection after its handshake."""
    connection: trio_websocket.WebSocketConnection | None = None
    with trio.move_on_after(HANDSHAKE_TIMEOUT) as in_time:
        async with trio.open_nursery() as race:
            race.start_soon(_cancel_at, watched.ended, race.cancel_scope)
            connection = await shake(readers, watched)
            race.cancel_scope.cancel()
    if in_time.cancelled_caught:
        raise NoWebSocketError(f"no handshake within {HANDSHAKE_TIMEOUT:g} s")
    if connection is None:
        raise NoWebSocketError(UNFINISHED)
    return connection


async def _cancel_at(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class _Watched(trio.abc.Stream):
    """A stream that tells when it is over; trio-websocket waits for its handshake for ever."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.ended = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = b""
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        finally:
            if not data:
                self.ended.set()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self.ended.set()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.ended.set()
        await self._stream.aclose()


async def _hear_out(stream: trio.SocketStream) -> None:
    """Let the other side finish: a farewell is lost to who still has something to send."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_eof()
        while await stream.receive_some():
            pass
