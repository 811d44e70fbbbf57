"""A client of the control socket: calls methods of a running service, and hears what happens."""

from __future__ import annotations

import contextlib
import itertools
import socket
import stat
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from bssci.core.center.rpc import (
    MAX_ANSWER,
    Failure,
    Result,
    Told,
    parse_reply,
    request_text,
)
from bssci.core.protocol.errors import BssciError, RemoteProtocolError
from bssci.core.runtime.feed import Feed
from bssci.core.runtime.websocket import EndedError, NoWebSocketError, open_websocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from bssci.core.center.rpc import Answer, Event, Id
    from bssci.core.runtime.websocket import WebSocket

__all__ = ["Client", "UnreachableError", "open_client"]

CONNECT_TIMEOUT = 5.0  # seconds until the service has taken the connection
CONNECT_PAUSE = 0.05  # seconds, while too many wait at its door

START = "start it with `bssci serve`, or name its configuration with -c FILE"


class UnreachableError(BssciError):
    """The service cannot be reached, or not any more: at which socket, and why.

    Attributes:
        hint: what to do next.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


@contextlib.asynccontextmanager
async def open_client(path: Path) -> AsyncIterator[Client]:
    """A connection to the service whose control socket is at a path, while the block lasts.

    Raises:
        UnreachableError: there is none; says why and what to do.
    """
    stream = await _connected(path)
    try:
        async with (
            open_websocket(stream, max_message=MAX_ANSWER) as websocket,
            _running(Client(websocket, path)) as client,
        ):
            yield client
    except NoWebSocketError as error:
        raise UnreachableError(
            f"{path} does not answer as a control socket of bssci: {error}",
            hint="if the service is busy, try again; else see control.socket in its configuration",
        ) from error


@contextlib.asynccontextmanager
async def _running(client: Client) -> AsyncIterator[Client]:
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        try:
            yield client
        except BaseException as error:  # raised again below, outside of any group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Client:
    """Made by `open_client`. Any number of tasks may call at the same time."""

    def __init__(self, websocket: WebSocket, path: Path) -> None:
        self._websocket = websocket
        self._path = path
        self._numbers = itertools.count(1)
        self._calls: dict[Id, _Call] = {}
        self._feeds: dict[int, Feed] = {}
        self._end: str | None = None
        # One task sends: who gives up waiting leaves no half a message behind.
        self._outbox, self._outgoing = trio.open_memory_channel[str](0)

    async def call(self, method: str, /, **params: object) -> Any:  # noqa: ANN401  # the method's
        """What a method gives; a parameter that is None is left out.

        There is no deadline but what the method has itself. Who stops waiting does not take back
        what was asked for.

        Raises:
            RequestError: it is refused; class, `exit_code` and `hint` are as the service says.
            UnreachableError: the connection ends, or has ended.
        """
        return await self._call(_Call(), method, params)

    @contextlib.asynccontextmanager
    async def subscribe(
        self,
        kinds: Sequence[str] = (),
        *,
        sensor: str | None = None,
        station: str | None = None,
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Event]]:
        """What happens from now on, while the block lasts.

        The channel ends when the service goes. Who reads too slowly finds a `gap` where events
        were lost. The service goes on telling until the connection ends, so that one connection
        is good for a few subscriptions (16).

        Args:
            kinds: some of `uplink`, `station`, `sensor`, `downlink`, `service`; default: all.
            sensor, station: only what is about that one, an EUI or a name.

        Raises:
            RequestError, UnreachableError: as `call`.
        """
        feed = Feed()
        params = {"kinds": [*kinds] or None, "sensor": sensor, "station": station}
        answer = await self._call(_Call(feed), "events.subscribe", params)
        try:
            with feed.events:
                yield feed.events
        finally:
            del self._feeds[answer["subscription"]]

    async def run(self) -> None:
        """Carry what is said, both ways, until the connection ends."""
        try:
            async with self._outgoing, trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                self._end = await self._listen()
                nursery.cancel_scope.cancel()
        finally:
            self._give_up()

    async def _write(self) -> None:
        with contextlib.suppress(EndedError):  # whoever listens finds out as well
            async for text in self._outgoing:
                await self._websocket.send(text)

    async def _listen(self) -> str:
        """Why it ended."""
        try:
            while True:
                self._take(parse_reply(await self._websocket.receive()))
        except EndedError as ended:
            return ended.reason
        except RemoteProtocolError as error:
            return str(error)

    def _take(self, reply: Answer | Told | None) -> None:
        match reply:
            case Told(subscription=number, event=event) if feed := self._feeds.get(number):
                feed.tell(event)
            case Failure(id=None, message=message):
                raise RemoteProtocolError(f"it does not understand us: {message}")
            case Result() | Failure() if call := self._calls.get(reply.id):
                self._begin_to_feed(call, reply)
                call.answer = reply
                call.answered.set()

    def _begin_to_feed(self, call: _Call, answer: Answer) -> None:
        """At once: the first event may be the next message."""
        if call.feed is None or isinstance(answer, Failure):
            return
        match answer.value:
            case {"subscription": int(number)}:
                self._feeds[number] = call.feed
            case _:
                raise RemoteProtocolError("it does not say which subscription it has opened")

    def _give_up(self) -> None:
        """Nothing more will come."""
        if self._end is None:
            self._end = ""
        for feed in self._feeds.values():
            feed.close()
        for call in self._calls.values():
            call.answered.set()

    async def _call(self, call: _Call, method: str, params: Mapping[str, object]) -> Any:  # noqa: ANN401
        number = next(self._numbers)
        given = {name: value for name, value in params.items() if value is not None}
        text = request_text(number, method, given)
        self._calls[number] = call
        try:
            if self._end is None:
                await self._outbox.send(text)
                await call.answered.wait()
        except trio.BrokenResourceError:
            pass
        finally:
            del self._calls[number]
        match call.answer:
            case None:
                raise self._gone()
            case Failure() as failure:
                raise failure.error()
            case Result(value=value):
                return value

    def _gone(self) -> UnreachableError:
        reason = f": {self._end}" if self._end else ""
        return UnreachableError(
            f"the connection to the service at {self._path} has ended{reason}",
            hint="what was asked last may be done or not: look at it when the service is there",
        )


class _Call:
    """A request that is under way."""

    def __init__(self, feed: Feed | None = None) -> None:
        self.feed = feed
        self.answer: Answer | None = None
        self.answered = trio.Event()


async def _connected(path: Path) -> trio.SocketStream:
    bare = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bare.setblocking(False)
        with trio.fail_after(CONNECT_TIMEOUT):
            await _connect(bare, path)
    except BaseException as error:
        bare.close()
        if isinstance(error, OSError | trio.TooSlowError):
            raise _unreachable(path, error) from error
        raise
    return trio.SocketStream(trio.socket.from_stdlib_socket(bare))


async def _connect(bare: socket.socket, path: Path) -> None:
    """Unlike TCP, a Unix socket is connected at once, or its door is crowded."""
    while True:
        try:
            bare.connect(str(path))
        except BlockingIOError:
            await trio.sleep(CONNECT_PAUSE)
        else:
            return


def _unreachable(path: Path, error: OSError | trio.TooSlowError) -> UnreachableError:
    match error:
        case FileNotFoundError():
            return UnreachableError(f"no service runs: {path} is not there", hint=START)
        case ConnectionRefusedError() if not _is_socket(path):
            return UnreachableError(f"{path} is no socket", hint=START)
        case ConnectionRefusedError():
            return UnreachableError(
                f"no service runs: {path} is left over from one that has ended", hint=START
            )
        case PermissionError():
            return UnreachableError(
                f"{path} cannot be opened: permission denied",
                hint="run this as the user of the service",
            )
        case trio.TooSlowError():
            return UnreachableError(
                f"the service at {path} does not answer within {CONNECT_TIMEOUT:g} s",
                hint="its log may say what it is busy with",
            )
    return UnreachableError(f"{path} cannot be opened: {error.strerror or error}", hint=START)


def _is_socket(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(path.stat().st_mode)
    return False
