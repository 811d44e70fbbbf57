"""`direct_stream`: over real TCP connections."""

import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from bssci.core.runtime.direct_stream import DirectStream


@contextlib.asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[DirectStream, trio.SocketStream]]:
    """One end of a connection as ours, the other as trio's."""
    with trio.fail_after(10):
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            theirs = await trio.open_tcp_stream(*listener.socket.getsockname())
            ours = DirectStream(await listener.accept())
        async with ours, theirs:
            yield ours, theirs


def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def test_each_end_hears_the_other():
    async with tcp_pair() as (ours, theirs):
        await theirs.send_all(b"question")
        assert await ours.receive_some(3) == b"que"
        assert await ours.receive_some() == b"stion"
        await ours.send_all(bytearray(b"answer"))
        assert await theirs.receive_some() == b"answer"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_big_write_waits_for_the_peer_and_arrives_whole(kind):
    data = bytes(range(256)) * 40_000
    async with tcp_pair() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, kind(data))
        await wait_all_tasks_blocked()
        got = bytearray()
        while len(got) < len(data):
            got += await theirs.receive_some()
        assert got == data


async def test_a_write_that_is_cancelled_stops():
    async with tcp_pair() as (ours, _):
        with trio.move_on_after(0.05) as scope:
            await ours.send_all(bytes(20_000_000))
        assert scope.cancelled_caught
        with trio.move_on_after(0.01) as scope:
            await ours.send_all(b"no room")
        assert scope.cancelled_caught


async def test_receiving_is_a_checkpoint_also_when_something_is_there():
    async with tcp_pair() as (ours, theirs):
        await theirs.send_all(b"x")
        await trio.lowlevel.wait_readable(ours._socket)
        with trio.testing.assert_checkpoints():
            assert await ours.receive_some() == b"x"


async def test_a_receive_that_is_cancelled_loses_nothing():
    async with tcp_pair() as (ours, theirs):
        with trio.move_on_after(0.01) as scope:
            await ours.receive_some()
        assert scope.cancelled_caught
        await theirs.send_all(b"late")
        assert await ours.receive_some() == b"late"


async def test_waking_for_nothing_is_waiting_again():
    stolen: list[bytes] = []

    class Thief(trio.abc.Instrument):
        """Takes what is there between the kernel's report and the wake-up."""

        def after_io_wait(self, timeout: float) -> None:
            if stolen == []:
                with contextlib.suppress(BlockingIOError):
                    stolen.append(ours._socket.recv(10))

    thief = Thief()
    async with tcp_pair() as (ours, theirs), trio.open_nursery() as nursery:
        trio.lowlevel.add_instrument(thief)

        async def send() -> None:
            await theirs.send_all(b"x")
            await wait_all_tasks_blocked(0.01)
            await theirs.send_all(b"y")

        nursery.start_soon(send)
        assert await ours.receive_some() == b"y"
        assert stolen == [b"x"]
        trio.lowlevel.remove_instrument(thief)


async def test_the_end():
    async with tcp_pair() as (ours, theirs):
        await theirs.send_all(b"last")
        await theirs.aclose()
        assert [await ours.receive_some(), await ours.receive_some()] == [b"last", b""]


async def test_one_half_ends_the_other_goes_on():
    async with tcp_pair() as (ours, theirs):
        await ours.send_all(b"last")
        await ours.send_eof()
        assert [await theirs.receive_some(), await theirs.receive_some()] == [b"last", b""]
        await theirs.send_all(b"one more")
        assert await ours.receive_some() == b"one more"


async def test_a_connection_that_is_reset_is_broken():
    async with tcp_pair() as (ours, theirs):
        reset(theirs)
        with pytest.raises(trio.BrokenResourceError, match="reset by peer") as caught:
            await ours.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(trio.BrokenResourceError, match="Broken pipe"):
            await ours.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_eof()


async def test_what_is_closed_cannot_be_used():
    async with tcp_pair() as (ours, theirs):
        await ours.aclose()
        await ours.aclose()
        assert await theirs.receive_some() == b""
        for use in (ours.receive_some, ours.send_eof, ours.wait_send_all_might_not_block):
            with pytest.raises(trio.ClosedResourceError):
                await use()
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"x")


async def test_closing_wakes_who_waits():
    async with tcp_pair() as (ours, _), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some()

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.send_all(bytes(20_000_000))

        nursery.start_soon(receive)
        nursery.start_soon(send)
        await wait_all_tasks_blocked(0.01)
        await ours.aclose()


async def test_it_can_wait_until_there_is_room():
    async with tcp_pair() as (ours, theirs), trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):
            await ours.send_all(bytes(20_000_000))
        has_room = trio.Event()

        async def wait() -> None:
            await ours.wait_send_all_might_not_block()
            has_room.set()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked(0.01)
        assert not has_room.is_set()
        while not has_room.is_set():
            await theirs.receive_some()
