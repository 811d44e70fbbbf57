"""What each stage of an uplink's way costs on its own, in microseconds of processor time.

The rooms of the service, one after the other, with nothing around them: no sockets but the
broker's, no scheduler, no second base station. The sum is what the work itself costs; what
`end_to_end` shows beyond it is system calls and waking up.

    python -m benchmarks.stages
"""

from __future__ import annotations

import argparse
import gc
import os
import ssl
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.load import FIRST_SENSOR, FIRST_STATION, Template, completion, frame
from benchmarks.processes import broker_program, cores, machine, mosquitto
from bssci.core.center.dedup import Deduplicator
from bssci.core.center.receptions import Reception, SettledUplink, Telegram
from bssci.core.center.topics import Topics, uplink_body
from bssci.core.protocol.events import Requested
from bssci.core.protocol.messages import ConnectResponse, UplinkData
from bssci.core.protocol.session import ServiceCenterSession
from bssci.core.runtime.mqtt import BrokerLink, BrokerSettings, Outgoing
from bssci.core.runtime.store import Store, open_store
from bssci.core.runtime.tls_stream import TlsStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STATIONS = 100
SENSORS = 1000
RESPONSE = frame({"command": "ulDataRsp", "opId": 2**31})

# How much meets in one transaction at some thousand uplinks a second and a disk that needs a
# millisecond or two: a few links with an uplink each, and what was released meanwhile.
APPENDED_TOGETHER = 8
SETTLED_TOGETHER = 8


class Clock:
    """Processor time of this process, all threads."""

    def __init__(self) -> None:
        gc.collect()
        self._start = time.process_time()

    def us_each(self, count: int) -> float:
        return (time.process_time() - self._start) / count * 1e6


# --- TLS -------------------------------------------------------------------------------------


class Replay(trio.abc.Stream):
    """A transport that gives what was recorded, and forgets what it is told."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self.sent = bytearray()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return next(self.chunks, b"")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent[:] = data

    async def wait_send_all_might_not_block(self) -> None:
        """It never does."""

    async def aclose(self) -> None:
        """Nothing is open."""


def _self_signed(folder: Path) -> Path:
    """Certificate and key in one file, for both sides of a conversation with oneself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "benchmark")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "benchmark.pem"
    path.touch(mode=0o600)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return path


async def tls(count: int, frames: Sequence[bytes], folder: Path) -> float:
    """Decrypt an uplink and its completion, encrypt the response."""
    pem = _self_signed(folder)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(pem)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.check_hostname = False
    theirs.load_verify_locations(pem)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = theirs.wrap_bio(incoming, outgoing)

    def shake() -> bytes:
        try:
            incoming.write(transport.sent)
            transport.sent.clear()
            peer.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return outgoing.read()

    def chunks() -> Iterator[bytes]:
        while (answer := shake()) != b"":
            yield answer
        for octets in frames:
            peer.write(octets)
            yield outgoing.read()
            peer.write(completion(1))
            yield outgoing.read()

    recorded = chunks()
    transport = Replay(recorded)
    stream = TlsStream(transport, ours, server_side=True)
    await stream.do_handshake()
    transport.chunks = iter(list(recorded))
    clock = Clock()
    for _ in range(count):
        await stream.receive_some(65536)
        await stream.send_all(RESPONSE)
        await stream.receive_some(65536)
    return clock.us_each(count)


# --- the protocol ----------------------------------------------------------------------------


def _uplink_frames(count: int, *, with_subpackets: bool) -> list[bytes]:
    template = Template(with_subpackets=with_subpackets)
    now_ns = time.time_ns()
    return [
        bytes(
            template.write(
                op_id=number + 1,
                ep_eui=FIRST_SENSOR + number % SENSORS,
                packet_cnt=number // SENSORS,
                rx_time=now_ns + number * 300_000,
                eq_snr=10.0,
            )
        )
        for number in range(count)
    ]


def _connected() -> ServiceCenterSession:
    session = ServiceCenterSession()
    connect = {"version": "1.0.0", "bsEui": FIRST_STATION, "bidi": False, "snBsUuid": [1] * 16}
    session.receive_data(frame({"command": "con", "opId": 0} | connect))
    session.accept(ConnectResponse(sc_eui=1, sn_resume=False, sn_sc_uuid=bytes(range(16))))
    session.receive_data(frame({"command": "conCmp", "opId": 0}))
    session.data_to_send()
    return session


def protocol(frames: Sequence[bytes]) -> tuple[float, list[Requested]]:
    """Decode an uplink, acknowledge it, take the completion; and the uplinks, for what follows."""
    session = _connected()
    completions = [completion(number + 1) for number in range(len(frames))]
    taken: list[Requested] = []
    clock = Clock()
    for op_id, (octets, end) in enumerate(zip(frames, completions, strict=True), 1):
        taken += [e for e in session.receive_data(octets) if isinstance(e, Requested)]
        session.acknowledge(op_id)
        session.data_to_send()
        session.receive_data(end)
    return clock.us_each(len(frames)), taken


# --- disk ------------------------------------------------------------------------------------


def _reception(store: Store, request: Requested) -> Reception:
    assert isinstance(request.message, UplinkData)
    return Reception(
        row=store.next_row(),
        bs_eui=FIRST_STATION + request.message.op_id % STATIONS,
        received_ns=time.time_ns(),
        session=bytes(16),
        uplink=request.message,
        payload=request.payload,
    )


async def journal(store: Store, requests: Sequence[Requested]) -> tuple[float, list[Reception]]:
    """Append to the journal, as so many links at once; and what was appended."""
    receptions: list[Reception] = []

    async def take(request: Requested) -> None:
        receptions.append(_reception(store, request))
        await store.append([receptions[-1]])

    clock = Clock()
    for start in range(0, len(requests), APPENDED_TOGETHER):
        async with trio.open_nursery() as links:
            for request in requests[start : start + APPENDED_TOGETHER]:
                links.start_soon(take, request)
    return clock.us_each(len(requests)), receptions


async def outbox(store: Store, uplinks: Sequence[SettledUplink]) -> float:
    """Put telegrams into the outbox and settle the journal that far."""
    clock = Clock()
    for start in range(0, len(uplinks), SETTLED_TOGETHER):
        some = uplinks[start : start + SETTLED_TOGETHER]
        await store.settle(some, settled_through=some[-1].journal_row)
    return clock.us_each(len(uplinks))


# --- the center ------------------------------------------------------------------------------


def deduplicate(receptions: Sequence[Reception]) -> tuple[float, list[Telegram]]:
    """Tell whether it is a copy, keep it for the window, release it; and the telegrams."""
    dedup = Deduplicator()
    telegrams: list[Telegram] = []
    nobody: frozenset[int] = frozenset()
    clock = Clock()
    for number, reception in enumerate(receptions):
        now_ns = number * 300_000
        dedup.receive(reception, now_ns=now_ns, clock_offset_ns=0, expected=nobody)
        telegrams += dedup.due(now_ns)
    telegrams += dedup.due(len(receptions) * 300_000 + 10**10)
    return clock.us_each(len(receptions)), telegrams


def bodies(store: Store, telegrams: Sequence[Telegram]) -> tuple[float, list[SettledUplink]]:
    """Make the JSON; and the settled uplinks."""
    clock = Clock()
    settled = [_settled(store, telegram) for telegram in telegrams]
    return clock.us_each(len(telegrams)), settled


def _settled(store: Store, telegram: Telegram) -> SettledUplink:
    number = store.next_uplink()
    return SettledUplink(
        id=number,
        ep_eui=telegram.ep_eui,
        packet_cnt=telegram.packet_cnt,
        digest=telegram.digest,
        received_ns=telegram.received_ns,
        journal_row=telegram.row,
        body=uplink_body(telegram, uid=store.uid(number), registered=False),
    )


# --- the broker ------------------------------------------------------------------------------


async def publish(store: Store, count: int, port: int) -> float:
    """Fetch from the outbox, publish with QoS 1, mark what the broker has acknowledged."""
    topics = Topics("mioty")
    is_done = trio.Event()
    acknowledged = 0

    async def fetch(after: int, limit: int) -> list[Outgoing]:
        rows = await store.outbox(after, limit)
        return [Outgoing(row.id, topics.uplink(row.ep_eui), row.body.encode()) for row in rows]

    def published(rows: Sequence[int]) -> None:
        nonlocal acknowledged
        store.mark_published(rows, time.time_ns())
        acknowledged += len(rows)
        if acknowledged >= count:
            is_done.set()

    link = BrokerLink(
        BrokerSettings(host="127.0.0.1", port=port),
        will=lambda: ("mioty/state", b"{}"),
        announce=lambda: (),
        fetch=fetch,
        published=published,
    )
    clock = Clock()
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        link.wake()
        with trio.fail_after(60):
            await is_done.wait()
        us = clock.us_each(count)
        nursery.cancel_scope.cancel()
    return us


# --- all of it -------------------------------------------------------------------------------


async def _measure(count: int, folder: Path, port: int | None, *, with_subpackets: bool) -> None:
    frames = _uplink_frames(count, with_subpackets=with_subpackets)
    total: list[float] = []
    show = partial(_show, total)
    print(f"{len(frames[0])} octets an uplink")
    show("TLS: decrypt two, encrypt one", await tls(count, frames, folder))
    us, requests = protocol(frames)
    show("decode and session", us)
    async with open_store(folder / "bssci.db") as store:
        us, receptions = await journal(store, requests)
        show(f"journal, {APPENDED_TOGETHER} together", us)
        us, telegrams = deduplicate(receptions)
        show("dedup", us)
        us, uplinks = bodies(store, telegrams)
        show("JSON body", us)
        show(f"outbox, {SETTLED_TOGETHER} together", await outbox(store, uplinks))
        if port is None:
            print("publish: no mosquitto is installed")
        else:
            show("publish, QoS 1", await publish(store, len(uplinks), port))
    print(f"{sum(total):8.1f} us  in all")


def _show(total: list[float], stage: str, us: float) -> None:
    total.append(us)
    print(f"{us:8.1f} us  {stage}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.stages")
    parser.add_argument("--count", type=int, default=10_000, help="uplinks for each stage")
    parser.add_argument("--subpackets", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    print(machine())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = None
        if broker_program() is not None:
            _, port = stack.enter_context(mosquitto(folder, on=cores().others))
        os.sched_setaffinity(0, cores().service)
        measure = partial(_measure, with_subpackets=options.subpackets)
        trio.run(measure, options.count, folder, port)


if __name__ == "__main__":
    main()
