"""`server`: who is let in, who is not, and that nobody notices anybody else; over real TLS."""

import contextlib
import datetime
import hashlib
import http.client
import logging
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
import trio
import trio.testing
import trustme
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from bssci.core.protocol.codec import decode, encode
from bssci.core.protocol.errors import Code, StorageError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.frames import FrameDecoder, encode_frame
from bssci.core.protocol.messages import (
    ConnectComplete,
    ConnectResponse,
    Error,
    ErrorAck,
    Message,
    Ping,
    PingResponse,
    Status,
    StatusComplete,
    StatusResponse,
    UplinkDataResponse,
)
from bssci.core.protocol.resume import SessionRecord
from bssci.core.runtime import server as module
from bssci.core.runtime.link import Limits, Link, Peer, Refusal
from bssci.core.runtime.server import BaseStationServer
from tests.core.runtime.doors import FakeDoors
from tests.fakes import BS_EUI, BS_UUID, FakeBaseStation, OneByteStream, connect_message, uplink

CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
OTHER_CA = trustme.CA(key_type=trustme.KeyType.ECDSA)
LOCALHOST = "127.0.0.1"
UUID_1 = (1).to_bytes(16, "big")
RECORD = SessionRecord(bs_eui=BS_EUI, version="1.0.0", bs_uuid=BS_UUID, sc_uuid=UUID_1)


def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    CA.issue_cert("center.example", key_type=trustme.KeyType.ECDSA).configure_cert(context)
    CA.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    certificate: trustme.LeafCert | None, *, trusts: trustme.CA = CA
) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.check_hostname = False
    if certificate:
        certificate.configure_cert(context)
    trusts.configure_trust(context)
    return context


def station_certificate(ca: trustme.CA = CA, *, days: int = 10) -> trustme.LeafCert:
    return ca.issue_cert(
        "station@stations.example",
        common_name=format_eui(BS_EUI),
        not_after=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days),
        key_type=trustme.KeyType.ECDSA,
    )


CERTIFICATE = station_certificate()
SERVER, CLIENT = server_context(), client_context(CERTIFICATE)


def peer_at(address: str) -> Peer:
    """A peer with our certificate, as it is reported."""
    der = ssl.PEM_cert_to_DER_cert(CERTIFICATE.cert_chain_pems[0].bytes().decode())
    subject = FakeDoors().identify(_Certificate(der), address).subject
    return Peer(address, subject, hashlib.sha256(der).hexdigest(), frozenset({BS_EUI}))


class _Certificate:
    def __init__(self, der: bytes) -> None:
        self._der = der

    def getpeercert(self, binary_form: bool) -> bytes:
        return self._der


NOBODY = Peer(LOCALHOST)
STATION = peer_at(LOCALHOST)


class Service:
    """A server on a real port, and the ways to knock."""

    def __init__(self, server: BaseStationServer, doors: FakeDoors, address: tuple[str, int]):
        self.server = server
        self.doors = doors
        self.address = address
        self._dialled: list[trio.SocketStream] = []

    async def dial(self) -> trio.SocketStream:
        self._dialled.append(await trio.open_tcp_stream(*self.address))
        return self._dialled[-1]

    def hang_up(self) -> None:
        for transport in self._dialled:
            transport.socket.close()

    async def station(self, context: ssl.SSLContext = CLIENT) -> FakeBaseStation:
        """A base station after its TLS handshake."""
        tls = trio.SSLStream(await self.dial(), context, https_compatible=True)
        await tls.do_handshake()
        return FakeBaseStation(tls)

    async def link(self) -> Link:
        """The link of the one base station, once it is there."""
        await until(lambda: len(self.server.links) == 1)
        [link] = self.server.links.values()
        return link

    async def refusals(self, count: int = 1) -> list[Refusal]:
        await until(lambda: len(self.doors.refusals) >= count)
        return self.doors.refusals


async def until(condition: Callable[[], bool], *, every: float = 0.001) -> None:
    """Let the others work until something is the case."""
    while not condition():  # noqa: ASYNC110  # what is waited for knows nothing of tests
        await trio.sleep(every)


def who(refusal: Refusal) -> tuple[str, Peer, int | None]:
    return refusal.reason, refusal.peer, refusal.bs_eui


@contextlib.asynccontextmanager
async def serving(doors: FakeDoors | None = None, **limits: float) -> AsyncIterator[Service]:
    doors = doors or FakeDoors()
    doors.context = SERVER
    server = BaseStationServer(Limits(**limits), doors)  # type: ignore[arg-type]  # by name
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(
                server.serve, await trio.open_tcp_listeners(0, host=LOCALHOST)
            )
            service = Service(server, doors, listener.socket.getsockname())
            try:
                yield service
                nursery.cancel_scope.cancel()
            finally:
                service.hang_up()
    assert server.links == {}
    assert (server._claims, server._half_open, server._half_open_from) == ({}, {}, {})
    assert server._connections == 0


class Receptionist(trio.abc.Listener[trio.abc.Stream]):
    """A listener for connections in memory."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](100)

    def dial(self) -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        self._send.send_nowait(ours)
        return theirs

    async def accept(self) -> trio.abc.Stream:
        return await self._receive.receive()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def shake(transport: trio.abc.Stream) -> FakeBaseStation:
    tls = trio.SSLStream(transport, CLIENT, https_compatible=True)
    await tls.do_handshake()
    return FakeBaseStation(tls)


@contextlib.asynccontextmanager
async def serving_in_memory(
    doors: FakeDoors, **limits: float
) -> AsyncIterator[tuple[BaseStationServer, Receptionist]]:
    """A server whose connections are in memory, so that hours pass in no time."""
    doors.context = SERVER
    server, receptionist = BaseStationServer(Limits(**limits), doors), Receptionist()  # type: ignore[arg-type]  # by name
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, [receptionist])
        yield server, receptionist
        nursery.cancel_scope.cancel()


# --- a good base station ---------------------------------------------------------------------


async def test_a_base_station_comes_in_and_its_uplinks_are_stored():
    async with serving() as service:
        station = await service.station()
        await station.connect()
        await station.deliver(uplink(op_id=1))
        link = await service.link()
        assert service.doors.journal == [uplink(op_id=1)]
        assert (link.peer, link.bs_eui, link.is_open) == (STATION, BS_EUI, True)


async def test_a_base_station_with_plain_sockets_comes_in_over_tls_1_2():
    """Nothing of ours, nothing of trio: `socket`, `ssl`, bytes."""
    answers: list[Message] = []
    context = client_context(CERTIFICATE)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def be_a_station(address: tuple[str, int]) -> None:
        decoder = FrameDecoder()
        with (
            socket.create_connection(address, timeout=10) as raw,
            context.wrap_socket(raw) as tls,
        ):
            for message in (connect_message(), ConnectComplete(), uplink(op_id=1), Ping(op_id=2)):
                tls.sendall(encode_frame(encode(message)))
                if not isinstance(message, ConnectComplete):
                    count = len(answers)
                    while len(answers) == count:
                        decoder.feed(tls.recv(7))
                        answers.extend(map(decode, decoder.payloads()))

    async with serving() as service:
        await trio.to_thread.run_sync(be_a_station, service.address)
    assert answers == [
        ConnectResponse(version="1.0.0", sc_eui=2, sn_resume=False, sn_sc_uuid=UUID_1),
        UplinkDataResponse(op_id=1),
        PingResponse(op_id=2),
    ]


async def test_many_base_stations_are_served_at_once():
    async with serving() as service:

        async def be_a_station(number: int) -> None:
            station = await service.station()
            await station.connect(connect_message(bs_eui=number))
            for op_id in range(1, 6):
                await station.deliver(uplink(number, op_id=op_id))

        async with trio.open_nursery() as nursery:
            for number in range(1, 31):
                nursery.start_soon(be_a_station, number)
        assert len(service.doors.journal) == 150


async def test_while_one_commit_waits_the_others_go_on(autojump_clock):
    doors = FakeDoors()
    async with serving_in_memory(doors) as (_, receptionist):
        slow, quick = await shake(receptionist.dial()), await shake(receptionist.dial())
        await slow.connect()
        await quick.connect(connect_message(bs_eui=7))
        doors.delay = 5
        await slow.say(uplink(op_id=1))
        await wait_all_tasks_blocked()
        doors.delay = 0
        started = trio.current_time()
        await quick.deliver(uplink(2, op_id=1))
        assert trio.current_time() == started
        assert await slow.hear() == UplinkDataResponse(op_id=1)
        assert trio.current_time() == started + 5


async def test_a_new_certificate_of_ours_counts_for_the_next_connection_and_cuts_none():
    async with serving() as service:
        before = await service.station()
        await before.connect()
        service.doors.context = server_context()
        after = await service.station()
        await after.connect(connect_message(bs_eui=7))
        await before.deliver(uplink(op_id=1))
        certificates = [
            station.stream.getpeercert(binary_form=True)  # type: ignore[attr-defined]
            for station in (before, after)
        ]
        assert certificates[0] != certificates[1]


async def test_tcp_looks_after_connections_that_say_nothing():
    async with serving() as service:
        station = await service.station()
        await station.connect()
        transport = (await service.link())._stream._transport  # type: ignore[attr-defined]
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert transport._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert [transport._socket.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [
            60,
            15,
            4,
        ]


# --- the end of a connection -----------------------------------------------------------------


async def test_a_base_station_that_goes_without_close_notify_is_no_fault(caplog):
    async with serving() as service:
        station = await service.station()
        await station.connect()
        await station.deliver(uplink(op_id=1))
        await station.stream.transport_stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: service.doors.all("down") != [])
        assert service.doors.all("down") == [(BS_EUI, "closed by the base station")]
        assert service.doors.sessions == {BS_EUI: replace(RECORD, bs_op_id=1)}
    assert (caplog.records, service.doors.refusals) == ([], [])


async def test_a_base_station_that_resets_its_connection_is_no_fault(caplog):
    async with serving() as service:
        station = await service.station()
        await station.connect()
        await service.link()
        reset(station.stream.transport_stream)  # type: ignore[attr-defined]
        await until(lambda: service.doors.all("down") != [])
        [(_, reason)] = service.doors.all("down")
        assert str(reason).startswith("connection lost: ")
        assert "reset" in str(reason)
    assert (caplog.records, service.doors.refusals) == ([], [])


def reset(stream: trio.SocketStream) -> None:
    """Close a connection so that the other end finds it reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def test_a_base_station_that_says_good_bye_is_answered(autojump_clock):
    doors = FakeDoors()
    async with serving_in_memory(doors) as (_, receptionist):
        tls = trio.SSLStream(receptionist.dial(), CLIENT)
        station = FakeBaseStation(tls)
        await station.connect()
        # Ends only when our `close_notify` has come as well.
        await tls.unwrap()


async def test_cancelled_it_ends_all_links_and_saves_their_sessions():
    doors = FakeDoors(delay=0.05)
    async with serving(doors) as service:
        station, other = await service.station(), await service.station()
        await station.connect()
        await other.connect(connect_message(bs_eui=7))
        await station.deliver(uplink(op_id=5))
    assert doors.sessions == {
        BS_EUI: replace(RECORD, bs_op_id=5),
        7: replace(RECORD, bs_eui=7, sc_uuid=(2).to_bytes(16, "big")),
    }
    assert set(doors.all("down")) == {
        (BS_EUI, "the Service Center stops"),
        (7, "the Service Center stops"),
    }


async def test_dismissed_a_base_station_has_the_answer_to_all_that_is_on_disk():
    """Also one that does not stop sending: its connection is not reset under its answers."""
    doors = FakeDoors()
    heard: list[Message] = []

    def be_a_station(address: tuple[str, int]) -> None:
        decoder = FrameDecoder()
        with socket.create_connection(address, timeout=10) as raw, CLIENT.wrap_socket(raw) as tls:
            tls.sendall(encode_frame(encode(connect_message())))
            tls.recv(65536)
            tls.sendall(encode_frame(encode(ConnectComplete())))
            with contextlib.suppress(OSError):
                for op_id in range(1, 100_000):
                    tls.sendall(encode_frame(encode(uplink(op_id, op_id=op_id))))
            while data := tls.recv(65536):
                decoder.feed(data)
                heard.extend(map(decode, decoder.payloads()))

    async with serving(doors) as service, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, be_a_station, service.address)
        await until(lambda: len(doors.journal) > 100)
        await service.server.dismiss("the service stops")
        on_disk = len(doors.journal)
        assert service.server.links == {}
        assert doors.all("down") == [(BS_EUI, "the service stops")]
        assert doors.sessions == {BS_EUI: replace(RECORD, bs_op_id=on_disk)}
    assert heard == [UplinkDataResponse(op_id=op_id) for op_id in range(1, on_disk + 1)]


# --- one link a base station -----------------------------------------------------------------


async def test_the_newest_connection_of_a_base_station_wins():
    async with serving() as service:
        first = await service.station()
        await first.connect()
        await first.deliver(uplink(op_id=1))
        second = await service.station()
        response = await second.connect(connect_message(sn_bs_op_id=1, sn_sc_op_id=0))
        assert response.sn_resume
        assert await first.hear_end() == []
        await second.deliver(uplink(2, op_id=2))
        assert service.doors.all("down") == [
            (BS_EUI, "a newer connection of this base station takes over")
        ]
        assert service.doors.refusals == []


async def test_a_storm_of_connections_of_one_base_station_ends_with_one():
    """14 within 320 ms, each with its own `con`, some with two (seen of a real gateway)."""
    doors = FakeDoors(delay=0.001)
    completed: dict[bytes, list[int]] = {}

    async def attend(link: Link) -> None:
        while True:
            await link.call(Status())

    async def knock(service: Service, number: int) -> None:
        station = await service.station()
        connect = connect_message()
        try:
            await station.say(*[connect] * (1 + number % 2))
            response = await station.hear_a(ConnectResponse)
            await station.say(ConnectComplete())
            while True:
                message = await station.hear()
                if isinstance(message, StatusComplete):
                    completed.setdefault(response.sn_sc_uuid, []).append(message.op_id)
                if isinstance(message, Status):
                    await station.say(
                        StatusResponse(
                            op_id=message.op_id, code=0, message="", time=1, duty_cycle=0.0
                        )
                    )
        except (EOFError, trio.BrokenResourceError):
            pass

    doors.attending = attend
    async with serving(doors) as service, trio.open_nursery() as nursery:
        for number in range(14):
            nursery.start_soon(knock, service, number)
            await trio.sleep(0.32 / 14)
        await until(lambda: doors.all("up") != [] and len(service.server._claims) == 1)
        await until(lambda: len(service.server.links) == 1 and not service.server._half_open)
        link = await service.link()
        count = sum(map(len, completed.values()))
        await until(lambda: sum(map(len, completed.values())) > count + 3)
        assert link.is_open
        assert len(doors.all("up")) == len(doors.all("down")) + 1
        # No ID was used twice, and what was answered was not asked again.
        for op_ids in completed.values():
            assert op_ids == sorted(set(op_ids), reverse=True)
        assert doors.refusals == []
        nursery.cancel_scope.cancel()


async def test_half_open_connections_of_one_base_station_give_way_one_after_the_other(
    autojump_clock,
):
    doors = FakeDoors(delay=0.5)
    async with serving_in_memory(doors) as (server, receptionist):
        stations = [await shake(receptionist.dial()) for _ in range(14)]
        for station in stations:
            await station.say(connect_message())
        await stations[-1].hear_a(ConnectResponse)
        await stations[-1].say(ConnectComplete())
        await stations[-1].deliver(uplink(op_id=1))
        assert list(server.links) == [BS_EUI]
        assert len(doors.all("up")) == 1
        for station in stations[:-1]:
            assert not any(
                isinstance(each, UplinkDataResponse) for each in await station.hear_end()
            )
    assert doors.refusals == []


async def test_a_session_that_was_taken_over_goes_on_with_its_exact_counters(autojump_clock):
    doors = FakeDoors(delay=1)
    async with serving_in_memory(doors) as (server, receptionist):
        for count in range(1, 6):
            station = await shake(receptionist.dial())
            response = await station.connect(
                connect_message(sn_bs_op_id=count - 1, sn_sc_op_id=1 - count)
            )
            assert response.sn_resume == (count > 1)
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.links[BS_EUI].call, Status())
                assert await station.hear() == Status(op_id=-count)
                await station.say(
                    StatusResponse(op_id=-count, code=0, message="", time=1, duty_cycle=0.0)
                )
                assert await station.hear() == StatusComplete(op_id=-count)
            await station.deliver(uplink(count, op_id=count))
    assert doors.sessions == {BS_EUI: replace(RECORD, bs_op_id=5, sc_op_id=-5)}


# --- who is not let in -----------------------------------------------------------------------


Knock = Callable[[Service], Awaitable[None]]


async def say_plain_text(service: Service) -> None:
    await (await service.dial()).send_all(b"hello, is anybody there?\n")


async def scan(service: Service) -> None:
    await (await service.dial()).aclose()


async def scan_with_reset(service: Service) -> None:
    reset(await service.dial())


async def speak_http(service: Service) -> None:
    def ask() -> None:
        connection = http.client.HTTPConnection(*service.address, timeout=10)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            connection.request("GET", "/")
            connection.getresponse()

    await trio.to_thread.run_sync(ask)


async def shake_and_wait(service: Service, context: ssl.SSLContext) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        station = await service.station(context)
        await station.stream.receive_some()


async def show_no_certificate(service: Service) -> None:
    await shake_and_wait(service, client_context(None))


async def show_a_strange_certificate(service: Service) -> None:
    await shake_and_wait(service, client_context(station_certificate(OTHER_CA)))


async def show_an_expired_certificate(service: Service) -> None:
    await shake_and_wait(service, client_context(station_certificate(days=-1)))


async def trust_somebody_else(service: Service) -> None:
    context = client_context(CERTIFICATE, trusts=OTHER_CA)

    def look() -> None:
        with (
            socket.create_connection(service.address, timeout=10) as raw,
            contextlib.suppress(ssl.SSLError),
        ):
            context.wrap_socket(raw).close()

    await trio.to_thread.run_sync(look)


async def speak_bytes(service: Service) -> None:
    station = await service.station()
    await station.say_bytes(b"\x00\x01garbage")
    assert await station.hear_end() == []


async def shake_and_go(service: Service) -> None:
    await (await service.station()).stream.aclose()


async def begin_with_an_uplink(service: Service) -> None:
    station = await service.station()
    await station.say(uplink(op_id=1))
    assert (await station.hear_a(Error)).code == 71
    await station.say(ErrorAck(op_id=1))
    assert await station.hear_end() == []


async def speak_version_2(service: Service) -> None:
    station = await service.station()
    await station.say(connect_message(version="2.0.0"))
    assert (await station.hear_a(Error)).code == 71
    await station.say(ErrorAck(op_id=0))
    assert await station.hear_end() == []


async def break_the_protocol(service: Service) -> None:
    station = await service.station()
    await station.connect()
    await station.say_bytes(b"MIOTYB02garbage")
    assert await station.hear_end() == []


@pytest.mark.parametrize(
    ("knock", "seen", "words"),
    [
        (say_plain_text, ("not_tls", NOBODY, None), "speaks no TLS"),
        (speak_http, ("not_tls", NOBODY, None), "speaks HTTP, not TLS"),
        (scan, ("not_tls", NOBODY, None), "went during the TLS handshake"),
        (scan_with_reset, ("not_tls", NOBODY, None), "Connection reset by peer"),
        (show_no_certificate, ("no_certificate", NOBODY, None), "shows no certificate"),
        (show_a_strange_certificate, ("bad_certificate", NOBODY, None), "unable to get|verify"),
        (show_an_expired_certificate, ("bad_certificate", NOBODY, None), "expired"),
        (trust_somebody_else, ("bad_certificate", NOBODY, None), "the peer refuses our"),
        (speak_bytes, ("not_bssci", STATION, None), "a frame begins with"),
        (shake_and_go, ("not_bssci", STATION, None), "no con"),
        (begin_with_an_uplink, ("not_bssci", STATION, None), "ulData"),
        (speak_version_2, ("version", STATION, BS_EUI), "2.0.0 is not supported"),
        (break_the_protocol, ("protocol_error", STATION, BS_EUI), "a frame begins with"),
    ],
)
async def test_who_is_not_let_in_is_reported_once(knock: Knock, seen, words, caplog, monkeypatch):
    monkeypatch.setattr(module, "PART_TIMEOUT", 0.05)
    async with serving() as service:
        good = await service.station()
        await good.connect(connect_message(bs_eui=7))
        await knock(service)
        [refusal] = await service.refusals()
        assert who(refusal) == seen
        assert any(word in refusal.detail for word in words.split("|")), refusal.detail
        await until(lambda: service.server._connections == 1)
        await good.deliver(uplink(op_id=1))
    assert len(service.doors.refusals) == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_who_may_not_come_in_is_closed_after_its_error_ack():
    doors = FakeDoors(refusal="the certificate names another base station")
    async with serving(doors) as service:
        station = await service.station()
        await station.say(connect_message())
        assert await station.hear() == Error(op_id=0, code=1, message=str(doors.refusal))
        await station.say(ErrorAck(op_id=0))
        assert await station.hear_end() == []
    assert doors.refusals == [
        Refusal("identity_mismatch", STATION, BS_EUI, "the certificate names another base station")
    ]


@pytest.mark.parametrize("is_told_by", ["identity", "disk", "version"])
async def test_who_does_not_acknowledge_a_refusal_is_closed_at_the_deadline_and_reported_once(
    is_told_by, autojump_clock
):
    doors = FakeDoors()
    doors.refusal = "not this one" if is_told_by == "identity" else None
    doors.fault = StorageError("full", code=Code.ENOSPC) if is_told_by == "disk" else None
    version = "2.0.0" if is_told_by == "version" else "1.0.0"
    async with serving_in_memory(doors) as (_, receptionist):
        station = await shake(receptionist.dial())
        await station.say(connect_message(version=version))
        await station.hear_a(Error)
        await station.say(uplink(op_id=1), Ping(op_id=2))
        assert await station.hear_end() == []
        assert trio.current_time() == 30
    expected = {"identity": ["identity_mismatch"], "disk": [], "version": ["version"]}
    assert [refusal.reason for refusal in doors.refusals] == expected[is_told_by]


# --- the deadline ----------------------------------------------------------------------------


async def say_nothing(transport: trio.abc.Stream) -> None:
    pass


async def say_half_a_hello(transport: trio.abc.Stream) -> None:
    await transport.send_all(b"\x16\x03\x01\x02\x00\x01\x00")


async def say_one_byte_a_second(transport: trio.abc.Stream) -> None:
    class Slow(OneByteStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            for byte in bytes(data):
                await trio.sleep(1)
                await transport.send_all(bytes((byte,)))

    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await shake(Slow(transport))


async def only_shake(transport: trio.abc.Stream) -> None:
    await shake(transport)


async def say_half_a_con(transport: trio.abc.Stream) -> None:
    await (await shake(transport)).say_bytes(b"MIOTYB01\x00\x01\x00\x00\x80")


async def say_con_and_no_con_cmp(transport: trio.abc.Stream) -> None:
    station = await shake(transport)
    await station.say(connect_message())
    await station.hear_a(ConnectResponse)


async def repeat_con(transport: trio.abc.Stream) -> None:
    station = await shake(transport)
    with contextlib.suppress(EOFError, trio.BrokenResourceError):
        while True:
            await station.say(connect_message())
            await station.hear_a(ConnectResponse)
            await trio.sleep(5)


UNKNOWN, KNOWN = Peer("unknown"), peer_at("unknown")


@pytest.mark.parametrize(
    ("knock", "peer", "bs_eui"),
    [
        (say_nothing, UNKNOWN, None),
        (say_half_a_hello, UNKNOWN, None),
        (say_one_byte_a_second, UNKNOWN, None),
        (only_shake, KNOWN, None),
        (say_half_a_con, KNOWN, None),
        (say_con_and_no_con_cmp, KNOWN, BS_EUI),
        (repeat_con, KNOWN, BS_EUI),
    ],
)
async def test_a_connect_that_is_not_complete_in_time_is_given_up(
    knock, peer, bs_eui, autojump_clock
):
    doors = FakeDoors()
    async with serving_in_memory(doors) as (server, receptionist):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(knock, receptionist.dial())
            await until(lambda: doors.refusals != [], every=0.25)
            assert 29 <= trio.current_time() <= 31
            nursery.cancel_scope.cancel()
        assert server._connections == 0
    assert doors.refusals == [
        Refusal("handshake_timeout", peer, bs_eui, "no complete connect within 30 s")
    ]
    assert doors.sessions == {}


async def test_the_deadline_is_from_accept_to_con_cmp_and_not_longer(autojump_clock):
    """29 s for a connect is slow but in time; then there is no deadline any more."""
    doors = FakeDoors()
    async with serving_in_memory(doors) as (_, receptionist):
        transport = receptionist.dial()
        await trio.sleep(10)
        station = await shake(transport)
        await trio.sleep(10)
        await station.say(connect_message())
        await station.hear_a(ConnectResponse)
        await trio.sleep(9)
        await station.say(ConnectComplete())
        for op_id in range(1, 100):
            await trio.sleep(15)
            await station.deliver(uplink(op_id, op_id=op_id))
    assert doors.refusals == []


async def test_real_time_passes_too():
    async with serving(handshake_timeout=0.2) as service:
        await service.dial()
        station = await service.station()
        await station.say(connect_message())
        await service.refusals(2)
    assert {who(refusal) for refusal in service.doors.refusals} == {
        ("handshake_timeout", NOBODY, None),
        ("handshake_timeout", STATION, BS_EUI),
    }


async def test_who_was_refused_and_stays_is_reported_once(autojump_clock):
    """TLS has failed, the deadline comes while we wait for the peer to go."""
    doors = FakeDoors()
    async with serving_in_memory(doors, handshake_timeout=0.5) as (server, receptionist):
        await receptionist.dial().send_all(b"hello, is anybody there?")
        await until(lambda: doors.refusals != [] and server._connections == 0, every=0.25)
        assert 0.5 <= trio.current_time() < 1
    assert list(map(who, doors.refusals)) == [("not_tls", UNKNOWN, None)]


# --- silence ---------------------------------------------------------------------------------


async def test_a_silent_base_station_is_pinged_and_then_given_up(autojump_clock):
    doors = FakeDoors()
    async with serving_in_memory(doors) as (_, receptionist):
        station = await shake(receptionist.dial())
        await station.connect()
        await wait_all_tasks_blocked()
        started = trio.current_time()
        assert await station.hear() == Ping(op_id=-1)
        assert 20 <= trio.current_time() - started <= 21
        assert await station.hear_end() == []
        assert 60 <= trio.current_time() - started <= 61
    assert doors.all("down") == [(BS_EUI, "silent for 60 s")]
    assert doors.refusals == []


async def test_a_base_station_that_never_reads_harms_nobody():
    async with serving(write_timeout=0.5) as service:
        good = await service.station()
        await good.connect(connect_message(bs_eui=7))
        deaf = await service.station()
        await deaf.connect()
        async with trio.open_nursery() as nursery:

            async def talk() -> None:
                for start in range(0, 10**9, 1000):
                    await deaf.say(*(Ping(op_id=start + each) for each in range(1, 1001)))

            nursery.start_soon(talk)
            for op_id in range(1, 10**6):
                await good.deliver(uplink(op_id, op_id=op_id))
                if service.doors.all("down"):
                    break
            nursery.cancel_scope.cancel()
    assert service.doors.all("down")[0] == (BS_EUI, "did not take our bytes within 0.5 s")


# --- too many --------------------------------------------------------------------------------


async def test_a_good_base_station_comes_in_while_200_half_open_ones_sit_there():
    async with serving(max_half_open=150, max_half_open_per_address=120) as service:
        idlers = [await service.dial() for _ in range(200)]
        await until(lambda: len(service.doors.refusals) == 80)
        station = await service.station()
        await station.connect()
        await station.deliver(uplink(op_id=1))
        refusals = list(service.doors.refusals)
        # The oldest had to go, and nobody else.
        assert set(map(who, refusals)) == {("too_many", NOBODY, None)}
        assert len(refusals) == 81
        with trio.fail_after(5):
            assert await idlers[0].receive_some() == b""
        for idler in idlers:
            await trio.aclose_forcefully(idler)


async def test_the_oldest_half_open_one_of_an_address_makes_room():
    async with serving(max_half_open_per_address=2) as service:
        first, second = await service.dial(), await service.dial()
        await until(lambda: len(service.server._half_open) == 2)
        third = await service.station()
        assert await first.receive_some() == b""
        assert list(map(who, service.doors.refusals)) == [("too_many", NOBODY, None)]
        await third.connect()
        # Who is connected does not count as half open any more.
        fourth = await service.station()
        await fourth.connect(connect_message(bs_eui=7))
        assert len(service.doors.refusals) == 1
        await second.aclose()


async def test_the_oldest_half_open_one_of_all_makes_room(autojump_clock):
    doors = FakeDoors()
    async with serving_in_memory(doors, max_half_open=2, max_half_open_per_address=100) as (
        server,
        receptionist,
    ):
        first = receptionist.dial()
        await wait_all_tasks_blocked()
        second = await shake(receptionist.dial())
        third = await shake(receptionist.dial())
        assert await first.receive_some() == b""
        await third.connect()
        await second.connect(connect_message(bs_eui=7))
        await wait_all_tasks_blocked()
        assert sorted(server.links) == [7, BS_EUI]
    assert list(map(who, doors.refusals)) == [("too_many", UNKNOWN, None)]


async def test_when_all_connections_are_in_use_a_half_open_one_makes_room_and_else_nobody():
    async with serving(max_connections=2) as service:
        idler = await service.dial()
        first = await service.station()
        await first.connect()
        second = await service.station()
        assert await idler.receive_some() == b""
        await second.connect(connect_message(bs_eui=7))
        await until(lambda: len(service.server.links) == 2)
        third = await service.dial()
        assert await third.receive_some() == b""
        await first.deliver(uplink(op_id=1))
        await second.deliver(uplink(op_id=1))
    assert [(refusal.reason, refusal.detail) for refusal in service.doors.refusals] == [
        ("too_many", "made room for a newer connection"),
        ("too_many", "all connections are in use"),
    ]


# --- the wall --------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["context", "admit", "uplinks", "up", "down", "attend", "save"])
async def test_a_door_with_a_bug_ends_one_connection_and_is_called_our_fault(what, caplog):
    async with serving() as service:
        good = await service.station()
        await good.connect(connect_message(bs_eui=7))
        await until(lambda: service.doors.all("attend") != [])
        service.doors.bug[what] = ZeroDivisionError("a bug")
        with contextlib.suppress(EOFError, trio.BrokenResourceError):
            bad = await service.station()
            await bad.connect()
            await bad.say(uplink(op_id=1))
            if what == "down":
                await bad.stream.aclose()
            else:
                await bad.hear_end()
        await until(lambda: service.server._connections == 1)
        del service.doors.bug[what]
        await good.deliver(uplink(2, op_id=1))
        again = await service.station()
        await again.connect()
        await again.deliver(uplink(op_id=2))
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == [
        "connection from 127.0.0.1 failed; this is our fault"
    ]
    assert "ZeroDivisionError: a bug" in caplog.text


async def test_a_bug_while_everything_ends_does_not_get_out_either(caplog):
    doors = FakeDoors(bug={"down": ZeroDivisionError("a bug")})
    async with serving(doors) as service:
        station = await service.station()
        await station.connect()
        await service.link()
    assert "ZeroDivisionError: a bug" in caplog.text


# --- a flood ---------------------------------------------------------------------------------


async def test_in_a_flood_of_everything_a_good_base_station_notices_nothing():
    stop = threading.Event()

    def flood(address: tuple[str, int], number: int) -> None:
        payloads = (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", bytes(range(256)))
        while not stop.is_set():
            with contextlib.suppress(OSError):
                if number % 2:
                    with (
                        socket.create_connection(address, timeout=1) as raw,
                        CLIENT.wrap_socket(raw) as tls,
                    ):
                        tls.sendall(payloads[number % 4])
                else:
                    with socket.create_connection(address, timeout=1) as raw:
                        raw.sendall(payloads[number % 4])

    async with serving() as service, trio.open_nursery() as nursery:
        station = await service.station()
        await station.connect()
        for number in range(4):
            nursery.start_soon(trio.to_thread.run_sync, flood, service.address, number)
        try:
            for op_id in range(1, 101):
                await station.deliver(uplink(op_id, op_id=op_id))
            await service.refusals(20)
            await station.deliver(uplink(101, op_id=101))
        finally:
            stop.set()
    assert len(service.doors.journal) == 101
