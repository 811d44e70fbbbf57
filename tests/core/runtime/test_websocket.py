"""`websocket`: two ends on one pair of sockets, and what they make of ends that behave badly."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Message, Ping, Request, TextMessage

from bssci.core.runtime.websocket import (
    GOING_AWAY,
    HANDSHAKE_TIMEOUT,
    NORMAL,
    PART_TIMEOUT,
    EndedError,
    NoWebSocketError,
    WebSocket,
    accept_websocket,
    open_websocket,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LIMIT = 100_000


async def stream_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Real sockets: a memory stream never blocks."""
    one, other = trio.socket.socketpair()
    return trio.SocketStream(one), trio.SocketStream(other)


def accept(stream: trio.SocketStream):
    return accept_websocket(stream, max_message=LIMIT, farewell=(GOING_AWAY, "good night"))


@contextlib.asynccontextmanager
async def conversation(
    serve: Callable[[WebSocket], Awaitable[None]],
) -> AsyncIterator[WebSocket]:
    """A client of a server that does this."""
    theirs, ours = await stream_pair()

    async def run() -> None:
        with contextlib.suppress(EndedError):
            async with accept(theirs) as websocket:
                await serve(websocket)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        async with open_websocket(ours, max_message=LIMIT) as websocket:
            yield websocket


async def echo(websocket: WebSocket) -> None:
    while True:
        message = await websocket.receive()
        assert isinstance(message, str)
        await websocket.send(message)


async def end(websocket: WebSocket) -> tuple[int, str]:
    with pytest.raises(EndedError) as ended:
        await websocket.receive()
    return ended.value.code, ended.value.reason


async def read_all(stream: trio.SocketStream) -> bytes:
    """What comes until the end; then our end is closed as well."""
    found = bytearray()
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in stream:
                found += data
    return bytes(found)


class Raw:
    """The other end, that says whatever it is told."""

    def __init__(self, stream: trio.SocketStream, kind: ConnectionType) -> None:
        self.stream = stream
        self.protocol = WSConnection(kind)

    async def say(self, *events) -> None:
        await self.stream.send_all(b"".join(self.protocol.send(each) for each in events))

    async def hear(self) -> object:
        while True:
            for event in self.protocol.events():
                return event
            self.protocol.receive_data(await self.stream.receive_some() or None)


# --- talking ---------------------------------------------------------------------------------


async def test_what_is_said_at_one_end_is_heard_at_the_other():
    async with conversation(echo) as client:
        await client.send("Grüße 📡")
        assert await client.receive() == "Grüße 📡"


async def test_a_message_in_parts_arrives_as_one():
    async with conversation(echo) as client:
        await client.send("[", "1" * 70_000, ",", "2", "]")
        assert await client.receive() == f"[{'1' * 70_000},2]"


async def test_each_end_learns_the_others_farewell(autojump_clock):
    heard: list[tuple[int, str]] = []

    async def listen(websocket: WebSocket) -> None:
        heard.append(await end(websocket))

    async with conversation(listen) as client:
        client.farewell = (4000, "enough")

    async def leave(websocket: WebSocket) -> None:
        return

    async with conversation(leave) as client:
        heard.append(await end(client))
    assert heard == [(4000, "enough"), (GOING_AWAY, "good night")]
    assert trio.current_time() == 0


async def test_after_the_end_nothing_can_be_sent():
    async def leave(websocket: WebSocket) -> None:
        return

    async with conversation(leave) as client:
        await end(client)
        with pytest.raises(EndedError, match="ended with code 1001: good night"):
            await client.send("hello?")


async def test_what_fails_in_the_block_comes_out_as_it_is():
    theirs, ours = await stream_pair()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            with pytest.raises(ZeroDivisionError):
                async with accept(theirs):
                    _ = 1 / 0

        async with open_websocket(ours, max_message=LIMIT) as client:
            assert await end(client) == (GOING_AWAY, "good night")


# --- ends that behave badly ------------------------------------------------------------------


async def test_who_vanishes_has_gone_without_a_word():
    theirs, ours = await stream_pair()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with accept(theirs) as websocket:
                assert await end(websocket) == (1006, "")
                with pytest.raises(EndedError):
                    await websocket.send("hello?")

        client = Raw(ours, ConnectionType.CLIENT)
        await client.say(Request(host="x", target="/"))
        assert isinstance(await client.hear(), AcceptConnection)
        await ours.aclose()


async def test_a_message_that_is_too_long_ends_it_and_the_sender_learns_why():
    async def listen(websocket: WebSocket) -> None:
        await websocket.receive()

    async with conversation(listen) as client:
        # More than the sockets hold: the sender is still at it when it is refused.
        with pytest.raises(EndedError) as ended:
            await client.send(*(50 * ["x" * LIMIT]))
    assert ended.value.code == 1009


@pytest.mark.parametrize(
    "knock",
    [b"dear service\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00\xff" * 9],
    ids=["plain text", "plain HTTP", "TLS"],
)
async def test_a_client_that_speaks_something_else_is_found_out_at_once(knock, autojump_clock):
    theirs, ours = await stream_pair()
    await ours.send_all(knock)
    with pytest.raises(NoWebSocketError, match="it ends before its handshake does"):
        async with accept(theirs):
            pass
    assert (await read_all(ours)).startswith(b"HTTP/1.1 400 ")
    assert trio.current_time() == 0


async def test_a_client_that_goes_during_the_handshake_is_noticed_at_once(autojump_clock):
    theirs, ours = await stream_pair()
    await ours.send_all(b"GET / HTTP/1.1\r\n")
    await ours.aclose()
    with pytest.raises(NoWebSocketError, match="it ends before its handshake does"):
        async with accept(theirs):
            pass
    assert trio.current_time() == 0


@pytest.mark.parametrize("side", [accept, lambda s: open_websocket(s, max_message=LIMIT)])
async def test_a_handshake_has_a_deadline(side, autojump_clock):
    theirs, ours = await stream_pair()
    with pytest.raises(NoWebSocketError, match="no handshake within 5 s"):
        async with side(theirs):
            pass
    assert trio.current_time() == HANDSHAKE_TIMEOUT
    await ours.aclose()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"220 mail.example ESMTP\r\n", "it ends before its handshake does"),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "it answers in HTTP, but does not speak WebSocket",
        ),
        (b"", "it ends before its handshake does"),
    ],
)
async def test_a_server_that_speaks_something_else_is_found_out(answer, fault, autojump_clock):
    theirs, ours = await stream_pair()
    await theirs.send_all(answer)
    await theirs.send_eof()
    with pytest.raises(NoWebSocketError, match=fault):
        async with open_websocket(ours, max_message=LIMIT):
            pass
    assert trio.current_time() == 0
    await theirs.aclose()


async def test_a_ping_that_crosses_our_farewell_is_no_error():
    theirs, ours = await stream_pair()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with accept(theirs) as websocket:
                assert await websocket.receive() == "enough"

        client = Raw(ours, ConnectionType.CLIENT)
        await client.say(Request(host="x", target="/"))
        assert isinstance(await client.hear(), AcceptConnection)
        await client.say(TextMessage("enough"))
        ping = client.protocol.send(Ping(b"there?"))
        assert await client.hear() == CloseConnection(GOING_AWAY, "good night")
        await ours.send_all(ping)
        await read_all(ours)


@pytest.mark.parametrize("bad", [b"\xff" * 9, b"\x81\x01x", b"\x83\x80\0\0\0\0"])
async def test_bytes_that_are_no_frame_end_it(bad):
    theirs, ours = await stream_pair()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with accept(theirs) as websocket:
                await end(websocket)

        client = Raw(ours, ConnectionType.CLIENT)
        await client.say(Request(host="x", target="/"))
        assert isinstance(await client.hear(), AcceptConnection)
        await ours.send_all(bad)
        await read_all(ours)


async def test_who_does_not_read_keeps_nobody_who_wants_to_end(autojump_clock):
    theirs, ours = await stream_pair()
    client = Raw(ours, ConnectionType.CLIENT)
    await client.say(Request(host="x", target="/"))
    with trio.move_on_after(10):
        async with accept(theirs) as websocket:
            while True:
                await websocket.send("x" * 100_000)
    assert trio.current_time() == 10 + PART_TIMEOUT
    await ours.aclose()


async def test_who_does_not_answer_a_farewell_keeps_nobody_who_wants_to_end(autojump_clock):
    theirs, ours = await stream_pair()
    client = Raw(ours, ConnectionType.CLIENT)
    await client.say(Request(host="x", target="/"))
    async with accept(theirs):
        pass
    assert trio.current_time() == PART_TIMEOUT
    await ours.aclose()


async def test_bytes_arrive_as_bytes():
    theirs, ours = await stream_pair()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async with accept(theirs) as websocket:
                assert await websocket.receive() == b"\x00\x01"
                websocket.farewell = (NORMAL, "")

        client = Raw(ours, ConnectionType.CLIENT)
        await client.say(Request(host="x", target="/"))
        assert isinstance(await client.hear(), AcceptConnection)
        await client.say(Message(data=b"\x00\x01"))
        closing = await client.hear()
        assert isinstance(closing, CloseConnection)
        await client.say(closing.response())
    await ours.aclose()
