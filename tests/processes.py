"""Real processes for tests: `bssci serve`, the folder it runs in, base stations, a subscriber.

The base stations here are lean ones, written for one purpose: they keep what was not acknowledged,
resume after every cut, and record exactly what was acknowledged and what was asked of them. Nothing
waits blindly: whoever waits names the condition and has a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import trio

from benchmarks.subscriber import connect_packet, packets, subscribe_packet
from bssci.core.protocol.errors import RemoteProtocolError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.events import (
    Answered,
    Connected,
    ConnectRefused,
    Refused,
    Rejected,
    Requested,
)
from bssci.core.protocol.frames import FrameDecoder
from bssci.core.protocol.messages import (
    AttachPropagate,
    AttachPropagateResponse,
    Connect,
    DetachPropagate,
    DetachPropagateResponse,
    Status,
    StatusResponse,
    UplinkData,
)
from bssci.core.protocol.resume import VERSION, SessionRecord
from bssci.core.protocol.session import BaseStationSession
from bssci.core.runtime.authority import load_authority, make_station_certificate, write_pair
from bssci.core.runtime.tls import client_context
from tests.broker import free_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

__all__ = [
    "FIRST_STATION",
    "HOST",
    "Ending",
    "Ledger",
    "Publication",
    "Service",
    "ServiceEndedError",
    "Site",
    "Station",
    "Subscriber",
    "bssci",
    "free_port",
    "in_background",
    "open_sender",
    "open_service",
    "open_stations",
    "open_subscriber",
    "publish",
    "start_command",
    "telegram",
    "wait_until",
]

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds until something that must happen has happened
LOOK = 0.01  # seconds between two looks whether it has

HANDSHAKE_TIMEOUT = 10.0  # seconds, from TCP to the end of the connect operation
RECONNECT = 0.03  # seconds from a loss to the next attempt
REPEAT = 0.1  # seconds from "try again" to the next attempt
READ_SIZE = 64 * 1024

# Not those of a real vendor's base stations; one each.
FIRST_STATION = 0x70B3D59CD0000001


@asynccontextmanager
async def in_background(*tasks: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Tasks that go on for ever, as long as the block lasts. An error of the block comes out bare:
    a test says what is wrong, not in how many nurseries it was.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        try:
            yield
        except BaseException as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def wait_until(
    condition: Callable[[], object], what: str, *, within: float = PATIENCE
) -> None:
    """Return when the condition holds.

    Raises:
        AssertionError: it does not in time; says what was waited for.
    """
    deadline = trio.current_time() + within
    while not condition():
        assert trio.current_time() < deadline, f"not within {within:g} s: {what}"
        await trio.sleep(LOOK)


# --- the command line ------------------------------------------------------------------------


def _command(arguments: Iterable[object]) -> list[str]:
    return [sys.executable, "-m", "bssci", *map(str, arguments)]


def _environment(settings: dict[str, object]) -> dict[str, str]:
    """`server_port=1` becomes `BSSCI_SERVER_PORT=1`; what the caller's own environment says of us
    does not reach the process.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BSSCI_")}
    return clean | {f"BSSCI_{name.upper()}": str(value) for name, value in settings.items()}


def bssci(
    *arguments: object, typed: str | None = None, **settings: object
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with this on standard input; settings go by environment."""
    return subprocess.run(
        _command(arguments),
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=_environment(settings),
        check=False,
    )


async def start_command(*arguments: object, **settings: object) -> trio.Process:
    """A command that goes on until it is ended; its output and its messages are pipes."""
    return await trio.lowlevel.open_process(
        _command(arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=_environment(settings),
    )


class Site:
    """A folder as `bssci init` makes it, and the certificates of base stations beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "sc.toml"
        self.certs = folder / "certs"
        self.stations = folder / "stations"

    @classmethod
    def make(cls, folder: Path) -> Site:
        done = bssci("init", folder, "--host", HOST, "--mqtt", "mqtt://127.0.0.1")
        assert done.returncode == 0, done.stderr
        return cls(folder)

    def copy(self, folder: Path) -> Site:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Site(folder)

    def context(self, eui: int) -> ssl.SSLContext:
        """To connect as this base station; its certificate is made if there is none yet."""
        name = format_eui(eui)
        cert_file, key_file = (self.stations / f"{name}_{part}.pem" for part in ("cert", "key"))
        if not cert_file.exists():
            self.stations.mkdir(exist_ok=True)
            authority = load_authority(self.certs / "ca_cert.pem", self.certs / "ca_key.pem")
            write_pair(make_station_certificate(authority, eui), cert_file, key_file)
        return client_context(
            cert_file=cert_file, key_file=key_file, ca_file=self.certs / "ca_cert.pem"
        )


# --- the service -----------------------------------------------------------------------------


class ServiceEndedError(AssertionError):
    """The service has ended by itself."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended.

    Attributes:
        code: its exit code; negative: ended by that signal.
        seconds: from the signal to the end.
    """

    code: int
    seconds: float


class Service:
    """`bssci serve` of one site, started and ended as often as a test likes, on one port.

    Args:
        settings: `section_key=value`, given as environment.

    Attributes:
        starts: how often it was started.
    """

    def __init__(self, site: Site, **settings: object) -> None:
        self.site = site
        self.port = free_port()
        self.starts = 0
        self.settings: dict[str, object] = {
            "server_host": HOST,
            "server_port": self.port,
            **settings,
        }
        self._process: trio.Process | None = None
        self._log_file = site.folder / "service.log"
        self._log_start = 0

    @property
    def process(self) -> trio.Process:
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Return when base stations can connect.

        Raises:
            ServiceEndedError: it has ended instead; with its last words.
        """
        await self.spawn()
        await self.wait_for_log("listens on")

    async def spawn(self) -> None:
        """Return when there is a process, whatever it does."""
        assert self._process is None
        self.starts += 1
        with self._log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = await trio.lowlevel.open_process(
                _command(["serve", "-c", self.site.config]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=_environment(self.settings),
            )

    async def kill(self) -> None:
        """As power loss does it.

        Raises:
            ServiceEndedError: it had ended by itself before.
        """
        self.require_running()
        self.process.kill()
        await self.process.wait()
        self._process = None

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> Ending:
        """End it by a signal; how it ended."""
        begun = trio.current_time()
        self.signal(number)
        with trio.fail_after(PATIENCE):
            code = await self.process.wait()
        self._process = None
        return Ending(code, trio.current_time() - begun)

    def signal(self, number: signal.Signals) -> None:
        self.require_running()
        self.process.send_signal(number)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It does nothing meanwhile; whatever is sent to it waits in the kernel."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def require_running(self) -> None:
        if (code := self.process.poll()) is not None:
            raise ServiceEndedError(f"the service ended with {code}: {self.last_words()}")

    async def end(self) -> None:
        """Whatever a test has left of it."""
        if self._process is not None:
            with trio.CancelScope(shield=True):
                self._process.kill()
                await self._process.wait()
            self._process = None

    def memory(self) -> int:
        """Octets in RAM (resident set), without what it shares with files."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")

    # what it says

    def last_words(self) -> str:
        return self._log_file.read_text(errors="replace")[-2000:]

    def text(self) -> str:
        """All it has ever written."""
        return self._log_file.read_text(errors="replace")

    def log(self) -> list[dict[str, Any]]:
        """The lines since the last start. What is no JSON (a traceback) is a line, too."""
        with self._log_file.open("rb") as file:
            file.seek(self._log_start)
            text = file.read().decode(errors="replace")
        return [_log_line(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def logged(self, words: str, **fields: object) -> list[dict[str, Any]]:
        """The lines since the last start with these words and fields."""
        return [
            line
            for line in self.log()
            if words in line["message"] and fields.items() <= line.items()
        ]

    async def wait_for_log(self, words: str, **fields: object) -> dict[str, Any]:
        """The first line since the last start with these words and fields."""

        def is_there() -> bool:
            if self.logged(words, **fields):
                return True
            self.require_running()
            return False

        await wait_until(is_there, f"the log says {words!r} {fields}")
        return self.logged(words, **fields)[0]


def _log_line(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return {"message": "", **found}
    return {"level": "raw", "message": line.rstrip("\n")}


@asynccontextmanager
async def open_service(site: Site, **settings: object) -> AsyncIterator[Service]:
    """A service that is started, and over when the block is."""
    service = Service(site, **settings)
    try:
        await service.start()
        yield service
    finally:
        await service.end()


# --- base stations ---------------------------------------------------------------------------


def telegram(
    ep_eui: int,
    packet_cnt: int,
    *,
    rx_time: int = 0,
    snr: float = 12.0,
    filling: int = 0,
) -> UplinkData:
    """What a sensor sends; content follows from sensor and counter."""
    return UplinkData(
        ep_eui=ep_eui,
        rx_time=rx_time or time.time_ns(),
        packet_cnt=packet_cnt,
        snr=snr,
        rssi=-101.5,
        user_data=content(ep_eui, packet_cnt) + bytes(filling),
        dl_open=False,
        response_exp=False,
        dl_ack=False,
    )


def content(ep_eui: int, packet_cnt: int) -> bytes:
    return (ep_eui & 0xFFFF).to_bytes(2, "big") + packet_cnt.to_bytes(4, "big")


class Station:
    """A base station that keeps what was not acknowledged; `run` it in a task.

    Attributes:
        acknowledged: end point and counter of the uplinks that were answered with ulDataRsp, in the
            order of the answers.
        refused: code and uplink of each refusal; what was refused is kept and said again.
        connect_refusals: codes of refused connects.
        resumed: how often a session was resumed; `renewed`: how often one was begun; `losses`: how
            often one was cut, by whomever.
        faults: what the Service Center must never do.
        operations: how many operations the Service Center has initiated.
        slowest: seconds, the longest that an uplink on an open connection waited for its answer.
        served: the end points it was told to serve, by EUI, in the session of now.
        told: every attach and detach propagate that it has followed, in order.
        refuses_attach: it says to each attach propagate that it cannot do that.
    """

    def __init__(
        self,
        site: Site,
        port: int,
        eui: int,
        *,
        clock_ns: int = 0,
        window: int = 32,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.eui = eui
        self.clock_ns = clock_ns
        self.acknowledged: list[tuple[int, int]] = []
        self.refused: list[tuple[int, UplinkData]] = []
        self.connect_refusals: list[int] = []
        self.resumed = self.renewed = self.losses = self.operations = 0
        self.faults: list[str] = []
        self.slowest = 0.0
        self.is_online = False
        self.served: dict[int, AttachPropagate] = {}
        self.told: list[AttachPropagate | DetachPropagate] = []
        self.refuses_attach = False
        self._context = context or site.context(eui)
        self._port = port
        self._window = window
        self._numbers = count()
        self._waiting: list[tuple[int, UplinkData]] = []
        self._open: dict[int, tuple[int, UplinkData]] = {}
        self._issued: dict[int, float] = {}
        self._paused_until = 0.0
        self._record: SessionRecord | None = None
        self._uuids: set[bytes] = set()
        self._asked: dict[int, _Asked] = {}
        self._session = BaseStationSession()
        self._due = trio.Event()
        self._cut = trio.CancelScope()
        self._pause = RECONNECT

    @property
    def unanswered(self) -> int:
        """How many uplinks wait for their acknowledgement."""
        return len(self._waiting) + len(self._open)

    def send(self, uplink: UplinkData) -> None:
        """Keep this until it is acknowledged."""
        heappush(self._waiting, (next(self._numbers), uplink))
        self._due.set()

    def cut(self, *, seconds: float = RECONNECT) -> None:
        """Lose the connection; it is made anew after this time."""
        self._pause = seconds
        self._cut.cancel()

    async def wait_online(self) -> None:
        await wait_until(lambda: self.is_online, f"{format_eui(self.eui)} is connected")

    async def wait_empty(self, *, within: float = PATIENCE) -> None:
        await wait_until(
            lambda: not self.unanswered, f"{format_eui(self.eui)}: all acknowledged", within=within
        )

    async def run(self) -> None:
        """Connect, and again after every loss, until cancelled."""
        while True:
            try:
                with trio.CancelScope() as self._cut:
                    await self._visit()
            except* (OSError, trio.BrokenResourceError, trio.TooSlowError):
                pass
            except* RemoteProtocolError as group:
                self.faults.append(f"protocol broken: {group.exceptions}")
            finally:
                was_online = self._leave()
            self.losses += was_online
            pause, self._pause = self._pause, RECONNECT
            await trio.sleep(pause)

    async def _visit(self) -> None:
        with trio.fail_after(HANDSHAKE_TIMEOUT) as patience:
            transport = await trio.open_tcp_stream(HOST, self._port)
            stream = trio.SSLStream(transport, self._context, https_compatible=True)
            try:
                await stream.do_handshake()
                await self._converse(stream, patience)
            finally:
                await trio.aclose_forcefully(stream)

    async def _converse(
        self, stream: trio.SSLStream[trio.SocketStream], patience: trio.CancelScope
    ) -> None:
        self._session = BaseStationSession(stored=self._record)
        self._session.connect(
            Connect(version=VERSION, bs_eui=self.eui, bidi=True, sn_bs_uuid=os.urandom(16))
        )
        self._due.set()
        spy = FrameDecoder()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, stream)
            while data := await stream.receive_some(READ_SIZE):
                for event in self._session.receive_data(data):
                    self._take(event)
                if self.is_online:
                    patience.deadline = float("inf")
                self._watch(spy, data)
                self._due.set()
            nursery.cancel_scope.cancel()

    async def _write(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        while True:
            await self._wait_due()
            self._feed()
            if data := self._session.data_to_send():
                await stream.send_all(data)

    async def _wait_due(self) -> None:
        pause = self._paused_until - trio.current_time()
        with trio.move_on_after(pause if self._waiting and pause > 0 else float("inf")):
            await self._due.wait()
        self._due = trio.Event()

    def _feed(self) -> None:
        now = trio.current_time()
        while (
            self.is_online
            and self._waiting
            and len(self._open) < self._window
            and now >= self._paused_until
        ):
            number, uplink = heappop(self._waiting)
            op_id = self._session.start(uplink)
            self._open[op_id] = number, uplink
            self._issued[op_id] = now

    def _leave(self) -> bool:
        """The connection is over: keep what the session must remember; whether there was one."""
        was_online, self.is_online = self.is_online, False
        if was_online:
            self._record = self._session.record()
            for asked in self._asked.values():
                asked.is_of_this_connection = False
        return was_online

    # what the Service Center says

    def _take(self, event: object) -> None:
        match event:
            case Connected():
                self._take_connected(event)
            case Answered(request, _):
                self._end(request.op_id)
                uplink = self._open.pop(request.op_id)[1]
                self.acknowledged.append((uplink.ep_eui, uplink.packet_cnt))
            case Refused(request, code, reason):
                self._end(request.op_id)
                self._take_refused(request.op_id, code, reason)
            case Requested(Status(op_id=op_id)):
                self._session.respond(self._status(op_id))
            case Requested(AttachPropagate() as message) if not self.refuses_attach:
                self.told.append(message)
                self.served[message.ep_eui] = message
                self._session.respond(AttachPropagateResponse(op_id=message.op_id))
            case Requested(DetachPropagate() as message):
                self.told.append(message)
                self.served.pop(message.ep_eui, None)
                self._session.respond(DetachPropagateResponse(op_id=message.op_id))
            case Requested(message):
                self._session.refuse(message.op_id, 95, "this base station cannot do that")
            case ConnectRefused(code, _):
                self.connect_refusals.append(code)
            case Rejected():
                self.faults.append(f"{event.command} {event.op_id}: {event.reason}")

    def _take_connected(self, event: Connected) -> None:
        self.is_online = True
        self._issued = dict.fromkeys(self._open, trio.current_time())
        if event.resumed:
            self.resumed += 1
            return
        self.renewed += 1
        if event.response.sn_sc_uuid in self._uuids:
            self.faults.append("a new session has the snScUuid of an older one")
        self._uuids.add(event.response.sn_sc_uuid)
        self._asked = {}
        self.served.clear()
        for entry in self._open.values():
            heappush(self._waiting, entry)
        self._open.clear()
        self._issued.clear()

    def _end(self, op_id: int) -> None:
        self.slowest = max(self.slowest, trio.current_time() - self._issued.pop(op_id))

    def _take_refused(self, op_id: int, code: int, reason: str) -> None:
        entry = self._open.pop(op_id)
        self.refused.append((code, entry[1]))
        if code not in (5, 11, 28):
            self.faults.append(f"uplink refused with error {code}: {reason}")
            return
        heappush(self._waiting, entry)
        self._paused_until = trio.current_time() + REPEAT

    def _status(self, op_id: int) -> StatusResponse:
        return StatusResponse(
            op_id=op_id,
            code=0,
            message="ok",
            time=time.time_ns() + self.clock_ns,
            duty_cycle=0.0,
            uptime=1,
        )

    # how the Service Center counts its operations, from the bytes, not from our session's view

    def _watch(self, spy: FrameDecoder, data: bytes | bytearray) -> None:
        spy.feed(data)
        for payload in spy.payloads():
            if b"ulDataRsp" not in payload:
                self._watch_one(msgpack.unpackb(payload))

    def _watch_one(self, message: dict[str, Any]) -> None:
        command, op_id = message["command"], message["opId"]
        match command:
            case "ping" | "status":
                self.operations += 1
                self._watch_initiation(command, op_id)
            case "pingCmp" | "statusCmp" if op_id in self._asked:
                self._asked[op_id].is_complete = True

    def _watch_initiation(self, command: str, op_id: int) -> None:
        earlier = self._asked.get(op_id)
        asked = f"{format_eui(self.eui)}: {command} {op_id}"
        if earlier is None:
            if op_id >= min(self._asked, default=0):
                self.faults.append(f"{asked} comes after {min(self._asked, default=0)}")
        elif earlier.command != command or command == "ping":
            self.faults.append(f"{asked} has the ID of an earlier {earlier.command}")
        elif earlier.is_complete:
            self.faults.append(f"{asked} is issued again, though it was completed")
        elif earlier.is_of_this_connection:
            self.faults.append(f"{asked} is issued twice on one connection")
        self._asked[op_id] = _Asked(command)


@dataclass(slots=True)
class _Asked:
    """One operation of the Service Center in the session of now."""

    command: str
    is_complete: bool = False
    is_of_this_connection: bool = True


@asynccontextmanager
async def open_stations(
    service: Service, number: int = 1, *, clocks_ns: Iterable[int] = (), window: int = 32
) -> AsyncIterator[list[Station]]:
    """Base stations that are connected, as long as the block lasts."""
    clocks = [*clocks_ns, *([0] * number)][:number]
    stations = [
        Station(service.site, service.port, FIRST_STATION + i, clock_ns=clock, window=window)
        for i, clock in enumerate(clocks)
    ]
    async with in_background(*(station.run for station in stations)):
        for station in stations:
            await station.wait_online()
        yield stations


@asynccontextmanager
async def open_sender(
    station: Station, ep_eui: int, *, rate: float, filling: int = 0, most: int = 2000
) -> AsyncIterator[None]:
    """A sensor that is heard by this base station, at a rate, as long as the block lasts.

    Args:
        most: a base station that has so many unanswered uplinks hears no more.
    """

    async def send() -> None:
        for packet_cnt in count(1):
            if station.unanswered < most:
                station.send(telegram(ep_eui, packet_cnt, filling=filling))
            await trio.sleep(1 / rate)

    async with in_background(send):
        yield


# --- what the broker's subscribers see -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publication:
    """One message as the subscriber got it."""

    topic: str
    body: dict[str, Any]
    retained: bool


async def publish(port: int, topic: str, payload: bytes, *, retain: bool = False) -> None:
    """Publish one message as another client would, QoS 0."""
    stream = await trio.open_tcp_stream(HOST, port)
    async with stream:
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name + payload
        await stream.send_all(connect_packet("bssci-publisher"))
        assert await stream.receive_some(READ_SIZE)
        await stream.send_all(bytes((0x30 | retain,)) + _length(len(body)) + body + b"\xe0\x00")
        while await stream.receive_some(READ_SIZE):
            pass


def _length(number: int) -> bytes:
    """MQTT 3.1.1, 2.2.3."""
    octets = bytearray()
    while number >= 128:
        octets.append(number & 127 | 128)
        number >>= 7
    return bytes((*octets, number))


class Subscriber:
    """Gets everything, QoS 1; connects again when the broker was away."""

    def __init__(self, port: int, take: Callable[[Publication], None]) -> None:
        self.is_subscribed = False
        self._port = port
        self._take_publication = take

    async def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, trio.BrokenResourceError):
                stream = await trio.open_tcp_stream(HOST, self._port)
                try:
                    await self._converse(stream)
                finally:
                    self.is_subscribed = False
                    await trio.aclose_forcefully(stream)
            await trio.sleep(LOOK)

    async def _converse(self, stream: trio.SocketStream) -> None:
        await stream.send_all(connect_packet("bssci-test") + subscribe_packet("#"))
        inbox = bytearray()
        while data := await stream.receive_some(READ_SIZE):
            inbox += data
            answers = bytearray()
            for first, body in packets(inbox):
                match first >> 4:
                    case 9:
                        self.is_subscribed = True
                    case 3:
                        answers += self._take(first, body)
            if answers:
                await stream.send_all(answers)

    def _take(self, first: int, body: bytes) -> bytes:
        end = 2 + int.from_bytes(body[:2], "big")
        is_acknowledged = bool(first & 0x06)
        payload = body[end + 2 * is_acknowledged :]
        # What is no object is a command that a test has published.
        if payload.startswith(b"{"):
            self._take_publication(
                Publication(body[2:end].decode(), json.loads(payload), bool(first & 1))
            )
        return b"\x40\x02" + body[end : end + 2] if is_acknowledged else b""


class Ledger:
    """What subscribers know of uplinks, and of everything else.

    Attributes:
        ids: of each telegram (end point, counter), the `id` under which it came first.
        repeats: how many came again under their `id`.
        faults: what must never be: a second `id` for a telegram, a second telegram for an `id`,
            disorder, wrong content.
        others: publications that are no uplinks, in order.
    """

    def __init__(self) -> None:
        self.ids: dict[tuple[int, int], str] = {}
        self.repeats = 0
        self.faults: list[str] = []
        self.others: list[Publication] = []
        self.uplinks: list[Publication] = []
        self.keeps_uplinks = True
        self._telegrams: dict[str, tuple[int, int]] = {}
        self._latest: dict[int, int] = {}

    def take(self, publication: Publication) -> None:
        if not publication.topic.endswith("/ul"):
            self.others.append(publication)
            return
        if self.keeps_uplinks:
            self.uplinks.append(publication)
        body = publication.body
        ep_eui = int(publication.topic.split("/")[2], 16)
        self._take_uplink((ep_eui, body["cnt"]), body["id"])
        if not bytes(body["data"]).startswith(content(ep_eui, body["cnt"])):
            self.faults.append(f"{publication.topic} {body['cnt']}: not the content that was sent")

    def _take_uplink(self, key: tuple[int, int], id_: str) -> None:
        ep_eui, packet_cnt = key
        name = f"{format_eui(ep_eui)} {packet_cnt}"
        if self._telegrams.setdefault(id_, key) != key:
            self.faults.append(f"{name} has the id of another telegram, {id_}")
        known = self.ids.get(key)
        if known is not None:
            self.repeats += 1
            if known != id_:
                self.faults.append(f"{name} has come as {known} and as {id_}")
            return
        self.ids[key] = id_
        if packet_cnt < self._latest.get(ep_eui, 0):
            self.faults.append(f"{name} first came after {self._latest[ep_eui]}")
        self._latest[ep_eui] = packet_cnt

    def missing(self, stations: Iterable[Station]) -> list[tuple[int, int]]:
        """What was acknowledged and has not come."""
        return [key for station in stations for key in station.acknowledged if key not in self.ids]

    async def wait_complete(self, stations: Iterable[Station], *, within: float = PATIENCE) -> None:
        """Wait until everything has come that is acknowledged now."""
        missing = self.missing(stations)

        def are_there() -> bool:
            missing[:] = [key for key in missing if key not in self.ids]
            return not missing

        await wait_until(are_there, "everything acknowledged is published", within=within)

    def bodies(self, topic: str) -> list[dict[str, Any]]:
        """What came on a topic, uplinks included."""
        return [p.body for p in (*self.others, *self.uplinks) if p.topic == topic]


@asynccontextmanager
async def open_subscriber(port: int, ledger: Ledger) -> AsyncIterator[Subscriber]:
    """A subscriber to everything, as long as the block lasts."""
    subscriber = Subscriber(port, ledger.take)
    async with in_background(subscriber.run):
        await wait_until(lambda: subscriber.is_subscribed, "the subscriber is subscribed")
        yield subscriber
