"""`tls_stream`: against the standard library's TLS and against `trio.SSLStream`."""

import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from bssci.core.runtime.tls_stream import RECEIVE_SIZE, SEND_SIZE, TlsStream
from tests.fakes import OneByteStream

CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
OTHER_CA = trustme.CA(key_type=trustme.KeyType.ECDSA)


def server_context(ca: trustme.CA = CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("center.example", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: trustme.CA | None = CA, *, trusts: trustme.CA = CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    if ca:
        ca.issue_cert("station.example", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    trusts.configure_trust(context)
    return context


SERVER, CLIENT = server_context(), client_context()
CLIENT_12 = client_context()
CLIENT_12.maximum_version = ssl.TLSVersion.TLSv1_2


# A TLS record that is in order, but holds no client hello.
NO_HELLO = b"\x16\x03\x01\x00\x05hello"


def raw_pair(
    context: ssl.SSLContext = CLIENT,
) -> tuple[TlsStream, trio.SSLStream[trio.abc.Stream], trio.abc.Stream, trio.abc.Stream]:
    """A server's stream and a client's over memory, before the handshake; and their transports."""
    ours, theirs = memory_stream_pair()
    server = TlsStream(ours, SERVER, server_side=True)
    client = trio.SSLStream[trio.abc.Stream](theirs, context, server_hostname="center.example")
    return server, client, ours, theirs


async def shake(*streams: TlsStream | trio.SSLStream[trio.abc.Stream]) -> None:
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.do_handshake)


async def open_pair(
    context: ssl.SSLContext = CLIENT,
) -> tuple[TlsStream, trio.SSLStream[trio.abc.Stream], trio.abc.Stream, trio.abc.Stream]:
    """As `raw_pair`, after the handshake."""
    server, client, ours, theirs = raw_pair(context)
    await shake(server, client)
    return server, client, ours, theirs


@contextlib.asynccontextmanager
async def plain_client(target, *arguments: object) -> AsyncIterator[TlsStream]:
    """A server's stream over a real socket, whose client is a thread with a plain socket."""
    listening, connected = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def run() -> None:
        with socket.create_connection(listening.getsockname()) as client:
            client.settimeout(10)
            connected.set()
            target(client, *arguments)

    thread = threading.Thread(target=run)
    thread.start()
    accepted, _ = listening.accept()
    listening.close()
    transport = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
    try:
        with trio.fail_after(10):
            yield TlsStream(transport, SERVER, server_side=True)
    finally:
        await trio.aclose_forcefully(transport)
        await trio.to_thread.run_sync(thread.join)


# --- handshake -------------------------------------------------------------------------------


@pytest.mark.parametrize(("context", "version"), [(CLIENT, "TLSv1.3"), (CLIENT_12, "TLSv1.2")])
async def test_after_the_handshake_each_hears_the_other(context, version, autojump_clock):
    server, client, _, _ = await open_pair(context)
    assert server.version() == version
    der = server.getpeercert(binary_form=True)
    assert der is not None
    await client.send_all(b"from the client")
    assert await server.receive_some() == b"from the client"
    await server.send_all(b"from the server")
    assert await client.receive_some() == b"from the server"


async def test_it_is_a_client_too(autojump_clock):
    ours, theirs = memory_stream_pair()
    server = TlsStream(ours, SERVER, server_side=True)
    client = TlsStream(theirs, CLIENT, server_hostname="center.example")
    await shake(server, client)
    await client.send_all(b"hello")
    assert await server.receive_some() == b"hello"


async def test_a_client_checks_whom_it_talks_to(autojump_clock):
    ours, theirs = memory_stream_pair()
    server = TlsStream(ours, SERVER, server_side=True)
    client = TlsStream(theirs, CLIENT, server_hostname="elsewhere.example")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails_to_shake, server, "ALERT_BAD_CERTIFICATE|certificate")
        await fails_to_shake(client, "Hostname mismatch")


async def fails_to_shake(stream: TlsStream, words: str) -> None:
    with pytest.raises(trio.BrokenResourceError, match=words) as caught:
        await stream.do_handshake()
    assert isinstance(caught.value.__cause__, ssl.SSLError)
    with pytest.raises(trio.BrokenResourceError, match="this TLS stream is broken"):
        await stream.send_all(b"x")


async def test_a_handshake_byte_by_byte_works(autojump_clock):
    ours, theirs = memory_stream_pair()
    server = TlsStream(OneByteStream(ours), SERVER, server_side=True)
    client = trio.SSLStream[trio.abc.Stream](theirs, CLIENT, server_hostname="center.example")
    await shake(server, client)
    await client.send_all(b"hello")
    assert await server.receive_some() == b"hello"


async def test_a_peer_that_speaks_no_tls_fails(autojump_clock):
    server, _, _, theirs = raw_pair()
    await theirs.send_all(b"GET / HTTP/1.1\r\n\r\n")
    await fails_to_shake(server, "HTTP_REQUEST|http request")


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"])
async def test_a_peer_that_goes_during_the_handshake_fails(data, autojump_clock):
    server, _, _, theirs = raw_pair()
    await theirs.send_all(data)
    await theirs.aclose()
    await fails_to_shake(server, "EOF occurred|unexpected eof")


@pytest.mark.parametrize(
    ("context", "alert"),
    [
        (client_context(None), "CERTIFICATE_REQUIRED"),
        (client_context(OTHER_CA), "UNKNOWN_CA"),
    ],
)
async def test_a_client_that_is_refused_learns_why(context, alert):
    heard = []

    def be_a_client(connection: socket.socket) -> None:
        try:
            with context.wrap_socket(connection, server_hostname="center.example") as tls:
                tls.recv(1)
        except ssl.SSLError as error:
            heard.append(error.reason)

    async with plain_client(be_a_client) as server:
        with pytest.raises(trio.BrokenResourceError):
            await server.do_handshake()
    assert [alert in str(reason) for reason in heard] == [True]


async def test_an_alert_that_nobody_takes_is_given_up(autojump_clock):
    ours, theirs = trio.testing.lockstep_stream_pair()
    server = TlsStream(ours, SERVER, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, NO_HELLO)
        await fails_to_shake(server, "SSL")
    assert trio.current_time() == 1


async def test_an_alert_that_cannot_be_sent_is_no_other_error(autojump_clock):
    server, _, _, theirs = raw_pair()
    await theirs.send_all(NO_HELLO)
    await theirs.aclose()
    await fails_to_shake(server, "SSL")


async def test_a_handshake_that_was_cancelled_cannot_be_gone_on_with(autojump_clock):
    server, _, _, _ = raw_pair()
    with trio.move_on_after(1):
        await server.do_handshake()
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()


# --- data ------------------------------------------------------------------------------------


async def test_what_came_together_is_received_together(autojump_clock):
    server, client, _, _ = await open_pair()
    for each in range(20):
        await client.send_all(bytes([each]) * 1000)
    assert await server.receive_some() == b"".join(bytes([each]) * 1000 for each in range(20))


async def test_no_more_is_received_than_is_asked_for(autojump_clock):
    server, client, _, _ = await open_pair()
    await client.send_all(b"abc")
    await client.send_all(b"defgh")
    got = [await server.receive_some(2) for _ in range(4)]
    assert got == [b"ab", b"cd", b"ef", b"gh"]


async def test_receiving_what_is_there_already_is_a_checkpoint(autojump_clock):
    server, client, _, _ = await open_pair()
    await client.send_all(b"abcd")
    assert await server.receive_some(2) == b"ab"
    with trio.testing.assert_checkpoints():
        assert await server.receive_some(2) == b"cd"
    with trio.testing.assert_checkpoints():
        await server.send_all(b"")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 70_000), max_size=6),
    st.lists(st.integers(1, 100_000), min_size=1, max_size=5),
    st.booleans(),
)
def test_any_pieces_arrive_whole_and_in_order(pieces, limits, is_tls_12):
    async def main() -> None:
        server, client, _, _ = await open_pair(CLIENT_12 if is_tls_12 else CLIENT)
        data = [bytes([index + 1]) * size for index, size in enumerate(pieces)]
        expected = b"".join(data)

        async def send(stream: trio.abc.SendStream) -> None:
            for piece in data:
                await stream.send_all(piece)

        async def receive(stream: trio.abc.ReceiveStream) -> None:
            got = b""
            for count in range(10**6):
                if len(got) >= len(expected):
                    break
                limit = limits[count % len(limits)]
                found = await stream.receive_some(limit)
                assert 0 < len(found) <= limit
                got += found
            assert got == expected

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, client)
            nursery.start_soon(receive, server)
            nursery.start_soon(send, server)
            nursery.start_soon(receive, client)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_big_write_arrives_whole(autojump_clock):
    server, client, _, _ = await open_pair()
    data = bytes(range(256)) * (3 * SEND_SIZE // 256) + b"end"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, memoryview(data))
        got = bytearray()
        while len(got) < len(data):
            got += await client.receive_some(RECEIVE_SIZE)
    assert got == data


async def test_sending_waits_for_the_transport(autojump_clock):
    server, client, ours, _ = await open_pair()

    hand_over = ours.send_stream.send_all_hook  # type: ignore[attr-defined]

    async def take_a_second() -> None:
        await trio.sleep(1)
        await hand_over()

    ours.send_stream.send_all_hook = take_a_second  # type: ignore[attr-defined]
    await server.send_all(b"x")
    assert trio.current_time() == 1
    assert await client.receive_some() == b"x"


async def test_it_can_send_while_it_receives(autojump_clock):
    server, client, _, _ = await open_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.receive_some)
        await wait_all_tasks_blocked()
        await server.send_all(b"question")
        assert await client.receive_some() == b"question"
        await client.send_all(b"answer")


async def test_two_tasks_cannot_receive_and_two_cannot_send(autojump_clock):
    server, _, ours, _ = await open_pair()

    async def block() -> None:
        await trio.sleep_forever()

    ours.send_stream.send_all_hook = block  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.receive_some)
        nursery.start_soon(server.send_all, b"x")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="receiving"):
            await server.receive_some()
        with pytest.raises(trio.BusyResourceError, match="sending"):
            await server.send_all(b"y")
        nursery.cancel_scope.cancel()


async def test_a_cancelled_receive_loses_nothing(autojump_clock):
    server, client, _, _ = await open_pair()
    with trio.move_on_after(1) as scope:
        await server.receive_some()
    assert scope.cancelled_caught
    await client.send_all(b"late")
    assert await server.receive_some() == b"late"
    await server.send_all(b"and back")
    assert await client.receive_some() == b"and back"


async def test_after_a_cancelled_send_nothing_can_be_sent(autojump_clock):
    server, _, ours, _ = await open_pair()

    async def block() -> None:
        await trio.sleep_forever()

    ours.send_stream.send_all_hook = block  # type: ignore[attr-defined]
    with trio.move_on_after(1):
        await server.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError, match="broken"):
        await server.send_all(b"y")
    await server.aclose()


async def test_what_tls_itself_has_to_say_waits_for_who_is_sending(autojump_clock):
    """The end is said while an alert is on its way: one after the other, never mixed."""
    server, _, ours, _ = await open_pair()
    at_work = 0

    async def one_at_a_time() -> None:
        nonlocal at_work
        at_work += 1
        assert at_work == 1
        await trio.sleep(1)
        at_work -= 1

    ours.send_stream.send_all_hook = one_at_a_time  # type: ignore[attr-defined]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"x")
        await wait_all_tasks_blocked()
        server._outgoing.write(b"what OpenSSL would answer to a key update")
        await server._flush()
    assert trio.current_time() == 2


async def test_what_is_no_tls_record_breaks_the_stream_and_is_told(autojump_clock):
    server, client, _, theirs = await open_pair()
    await theirs.send_all(b"garbage" * 10)
    with pytest.raises(trio.BrokenResourceError, match="TLS: "):
        await server.receive_some()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await client.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_data_before_garbage_is_received(autojump_clock):
    server, client, _, theirs = await open_pair()
    await client.send_all(b"good")
    await theirs.send_all(b"garbage" * 10)
    assert await server.receive_some() == b"good"
    with pytest.raises(trio.BrokenResourceError, match="TLS: "):
        await server.receive_some()


async def test_after_garbage_nothing_can_be_sent(autojump_clock):
    server, client, _, theirs = await open_pair()
    await client.send_all(b"good")
    await theirs.send_all(b"garbage" * 10)
    assert await server.receive_some() == b"good"
    with pytest.raises(trio.BrokenResourceError, match="TLS: "):
        await server.send_all(b"x")


async def test_a_lost_connection_is_broken(autojump_clock):
    server, _, _, theirs = await open_pair()
    await theirs.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")


# --- the end ---------------------------------------------------------------------------------


async def test_the_end_with_close_notify(autojump_clock):
    ours, theirs = memory_stream_pair()
    server = TlsStream(ours, SERVER, server_side=True)
    client = TlsStream(theirs, CLIENT, server_hostname="center.example")
    await shake(server, client)
    await client.send_all(b"last")
    await client.aclose()
    assert [await server.receive_some(), await server.receive_some()] == [b"last", b""]
    assert await server.receive_some() == b""


async def test_the_end_without_close_notify(autojump_clock):
    server, client, _, theirs = await open_pair()
    await client.send_all(b"last")
    await theirs.aclose()
    assert [await server.receive_some(), await server.receive_some()] == [b"last", b""]
    assert await server.receive_some() == b""


async def test_closing_says_close_notify_and_waits_for_nobody(autojump_clock):
    server, client, _, _ = await open_pair()
    await server.send_all(b"last")
    await server.aclose()
    # A stream that is not `https_compatible` takes nothing else for the end.
    assert [await client.receive_some(), await client.receive_some()] == [b"last", b""]
    for use in (server.receive_some, server.send_eof, server.do_handshake):
        with pytest.raises(trio.ClosedResourceError):
            await use()
    await server.aclose()


async def test_a_peer_that_has_ended_its_half_still_hears_us(autojump_clock):
    ours, theirs = memory_stream_pair()
    server = TlsStream(ours, SERVER, server_side=True)
    client = TlsStream(theirs, CLIENT, server_hostname="center.example")
    await shake(server, client)
    await client.send_all(b"question")
    await client.send_eof()
    with pytest.raises(trio.ClosedResourceError, match="the end of this TLS stream was sent"):
        await client.send_all(b"more")
    assert [await server.receive_some(), await server.receive_some()] == [b"question", b""]
    await server.send_all(b"answer")
    assert await client.receive_some() == b"answer"
    await client.aclose()


async def test_closing_before_the_handshake_closes_the_transport(autojump_clock):
    server, _, _, theirs = raw_pair()
    await server.aclose()
    assert await theirs.receive_some() == b""


async def test_closing_while_another_task_sends_ends_that_too(autojump_clock):
    server, _, ours, _ = await open_pair()

    async def wait() -> None:
        await trio.sleep(1)

    ours.send_stream.send_all_hook = wait  # type: ignore[attr-defined]

    async def send() -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            await server.send_all(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await server.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()


async def test_closing_when_cancelled_still_closes(autojump_clock):
    server, _, ours, _ = await open_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()


async def test_whether_sending_might_block_is_asked_of_the_transport(autojump_clock):
    server, _, ours, _ = await open_pair()
    asked = []

    async def note() -> None:
        asked.append(True)

    ours.send_stream.wait_send_all_might_not_block_hook = note  # type: ignore[attr-defined]
    await server.wait_send_all_might_not_block()
    assert asked == [True]


async def test_a_plain_socket_client_is_served():
    got = bytearray()

    def be_a_client(connection: socket.socket) -> None:
        with CLIENT.wrap_socket(connection, server_hostname="center.example") as tls:
            tls.sendall(b"question" * 10_000)
            while len(got) < 60_000:
                got.extend(tls.recv(65536))

    async with plain_client(be_a_client) as server:
        await server.do_handshake()
        asked = bytearray()
        while len(asked) < 80_000:
            asked += await server.receive_some()
        await server.send_all(b"answer" * 10_000)
        assert await server.receive_some() == b""
    assert [bytes(asked), bytes(got)] == [b"question" * 10_000, b"answer" * 10_000]
