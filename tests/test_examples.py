"""The examples as they are: real processes, real TLS, a real broker; and the page of the API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from bssci.core.protocol.codec import encode
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.frames import encode_frame
from bssci.core.protocol.messages import (
    DetachPropagate,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
    Error,
    ErrorAck,
    Message,
    Ping,
    UplinkData,
    VmStatus,
)
from bssci.core.protocol.operations import OPERATIONS
from bssci.core.runtime.config import make_config
from bssci.core.runtime.service import ServiceCenter
from bssci.core.runtime.tls import server_context
from tests.broker import MOSQUITTO, Mosquitto
from tests.core.protocol.samples import SAMPLES
from tests.fakes import FakeServiceCenter, attach_propagate
from tests.processes import (
    FIRST_STATION,
    HOST,
    PATIENCE,
    ROOT,
    Ledger,
    Site,
    bssci,
    free_port,
    in_background,
    open_service,
    open_stations,
    open_subscriber,
    telegram,
    wait_until,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /dev/stdin, uses Unix sockets"),
]

needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")

SENSOR = 0x70B3D59CD1000001
EUI = format_eui(FIRST_STATION)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return Site.make(tmp_path_factory.mktemp("site") / "sc")


@pytest.fixture
def site(template, tmp_path):
    return template.copy(tmp_path / "sc")


@pytest.fixture
def gateway(site):
    """What `bssci certs station` makes: a folder with three files."""
    folder = site.folder / "gateway"
    done = bssci("certs", "station", EUI, "--out", folder, "-c", site.config)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def broker(tmp_path):
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.kill()


class Program:
    """An example that runs.

    Attributes:
        lines: what it has printed.
    """

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors = bytearray()

    async def read(self) -> None:
        assert self.process.stdout is not None
        kept = b""
        async for data in self.process.stdout:
            *lines, kept = (kept + data).split(b"\n")
            self.lines += [line.decode() for line in lines]

    async def read_errors(self) -> None:
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.errors += data

    async def type(self, *lines: object) -> None:
        assert self.process.stdin is not None
        for line in lines:
            await self.process.stdin.send_all(json.dumps(line).encode() + b"\n")

    async def wait_for_line(self, begin: str) -> str:
        await wait_until(lambda: self.found(begin), f"{begin} in {self.lines} {self.errors!r}")
        return self.found(begin)[0]

    def found(self, begin: str) -> list[str]:
        return [line for line in self.lines if line.startswith(begin)]

    @property
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    async def wait_told(self, event: str, number: int = 1) -> list[dict[str, Any]]:
        def told() -> list[dict[str, Any]]:
            return [each for each in self.told if each.pop("event") == event]

        await wait_until(lambda: len(told()) >= number, f"{number} {event} in {self.lines}")
        return told()

    async def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def running(name, *arguments):
    """An example that runs as long as the block lasts."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={n: text for n, text in os.environ.items() if not n.startswith("BSSCI_")},
    )
    program = Program(process)
    try:
        async with in_background(program.read, program.read_errors):
            yield program
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
                await stream.aclose()


def run(name, *arguments, typed=""):
    """An example to its end."""
    return subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, arguments)],
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def heard(cnt, **fields):
    """A line of what a gateway's radio hears."""
    shown = {"ep_eui": format_eui(SENSOR), "packet_cnt": cnt, "data": f"{cnt:04x}"}
    return shown | {"snr": 12.5, "rssi": -98.0, **fields}


def test_every_example_is_listed_and_says_how_to_run_it():
    programs = {file.name: file.read_text() for file in (ROOT / "examples").glob("*.py")}
    listed = (ROOT / "examples" / "README.md").read_text()
    assert [name for name in programs if f"[`{name}`]({name})" not in listed] == []
    assert [n for n, text in programs.items() if f"    python examples/{n} " not in text] == []
    short = {
        name: len(programs[name].splitlines()) for name in ("forward_uplinks.py", "own_sink.py")
    }
    assert [name for name, lines in short.items() if lines >= 40] == []


# --- a Service Center of one's own, and a gateway that forwards ------------------------------


async def forward(site, gateway, port, *lines):
    done = await trio.to_thread.run_sync(
        lambda: run(
            "forward_uplinks.py",
            HOST,
            port,
            EUI,
            gateway,
            typed="".join(json.dumps(line) + "\n" for line in lines),
        )
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def kept_by(site):
    file = site.folder / "uplinks.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def test_uplinks_from_standard_input_reach_an_own_sink(site, gateway):
    async with running("own_sink.py", site.folder, 0) as center:
        port = (await center.wait_for_line("port ")).removeprefix("port ")
        await forward(site, gateway, port, heard(1), heard(2, snr=1), heard(3))
        assert await center.end() == 0
    kept = kept_by(site)
    assert [(each["sensor_eui"], each["bs_eui"], each["cnt"], each["data"]) for each in kept] == [
        (format_eui(SENSOR), EUI, cnt, [0, cnt]) for cnt in (1, 2, 3)
    ]
    assert len({each["id"] for each in kept}) == 3


async def test_an_own_sink_that_is_killed_gets_what_it_lacks_under_the_same_ids(site, gateway):
    async with running("own_sink.py", site.folder, 0) as center:
        port = (await center.wait_for_line("port ")).removeprefix("port ")
        await forward(site, gateway, port, *(heard(cnt) for cnt in range(1, 11)))
        await center.end(signal.SIGKILL)
    async with running("own_sink.py", site.folder, 0) as center:
        await wait_until(
            lambda: {each["cnt"] for each in kept_by(site)} >= {*range(1, 11)}, "all are kept"
        )
        await center.wait_for_line("port ")
        assert await center.end(signal.SIGTERM) == 0
    kept = kept_by(site)
    ids = {each["id"]: each["cnt"] for each in kept}
    assert sorted(ids.values()) == list(range(1, 11))
    assert {(ids[each["id"]], each["cnt"]) for each in kept} == {(n, n) for n in range(1, 11)}


# --- a gateway with downlinks ----------------------------------------------------------------


async def test_a_gateway_that_is_killed_delivers_what_it_kept(site, gateway):
    """Killed while the Service Center is away, and again while it is there."""
    port, spool = free_port(), site.folder / "spool.db"
    arguments = HOST, port, EUI, gateway, spool
    async with running("downlink_gateway.py", *arguments) as program:
        await program.type(*(heard(cnt) for cnt in range(1, 21)))
        await program.wait_told("kept", 20)
        await program.end(signal.SIGKILL)
    uplinks: list[tuple[int, bytes]] = []

    async def keep(uplink):
        await trio.lowlevel.checkpoint()
        uplinks.append((uplink.packet_cnt, uplink.data))

    async with running_center(site, port, keep):
        for cnt in (21, 22, 23):
            async with running("downlink_gateway.py", *arguments) as program:
                await program.type(heard(cnt))
                await program.wait_told("kept")
                await program.end(signal.SIGKILL)
        async with running("downlink_gateway.py", *arguments):
            await wait_until(lambda: len(uplinks) >= 23, "everything has come")
    assert uplinks == [(cnt, cnt.to_bytes(2, "big")) for cnt in range(1, 24)]


@asynccontextmanager
async def running_center(site, port, sink):
    config = make_config(
        site.folder, server_eui=1, server_host=HOST, server_port=port, dedup_delay=0.05
    )
    center = ServiceCenter(config, uplink_sink=sink)
    async with trio.open_nursery() as nursery:
        await nursery.start(center.run)
        yield center
        center.stop()


class Conversation:
    """A Service Center that says exactly what it is told, with a gateway that has connected."""

    def __init__(self, center: FakeServiceCenter) -> None:
        self._center = center
        self._op_id = 0

    async def ask(self, message: Message) -> None:
        """Initiate an operation; the gateway answers it without any fields."""
        kinds = OPERATIONS[type(message)]
        await self._center.say(self._numbered(message))
        await self._center.hear_the(kinds.response(op_id=self._op_id))
        await self._center.say(kinds.completion(op_id=self._op_id))

    async def ask_in_vain(self, message: Message) -> tuple[int, str]:
        """Initiate an operation that the gateway refuses: its error."""
        await self._center.say(self._numbered(message))
        error = await self._center.hear_a(Error)
        assert error.op_id == self._op_id
        await self._center.say(ErrorAck(op_id=error.op_id))
        return error.code, error.message

    async def answer(self) -> Message:
        """Answer the next operation of the gateway; what it says, without its number."""
        message = await self._center.hear()
        kinds = OPERATIONS[type(message)]
        await self._center.say(kinds.response(op_id=message.op_id))
        await self._center.hear_the(kinds.completion(op_id=message.op_id))
        return message

    def _numbered(self, message: Message) -> Message:
        self._op_id -= 1
        return replace(message, op_id=self._op_id)


@asynccontextmanager
async def conversation(site, *arguments):
    """The gateway with these arguments after the port, connected to who says what it is told."""
    certs = site.certs
    context = server_context(
        cert_file=certs / "service_center_cert.pem",
        key_file=certs / "service_center_key.pem",
        ca_file=certs / "ca_cert.pem",
    )
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        port = listener.socket.getsockname()[1]
        async with running("downlink_gateway.py", HOST, port, *arguments) as program:
            transport = await listener.accept()
            stream = trio.SSLStream(transport, context, server_side=True, https_compatible=True)
            await stream.do_handshake()
            center = FakeServiceCenter(stream)
            assert (await center.welcome()).bs_eui == FIRST_STATION
            yield Conversation(center), program
            await center.vanish()


def downlink(que_id, **fields):
    known = {"ep_eui": SENSOR, "cnt_depend": False, "user_data": (bytes((que_id,)),)}
    return DownlinkDataQueue(que_id=que_id, **{**known, **fields})


def is_open(cnt):
    """After the fifth uplink there is no window."""
    return cnt != 5


async def test_a_gateway_takes_downlinks_and_reports_what_it_transmitted(site, gateway):
    async with conversation(site, EUI, gateway, site.folder / "spool.db") as (center, program):
        unknown = 2, "no such end point or downlink here"
        assert await center.ask_in_vain(downlink(1)) == unknown
        await center.ask(attach_propagate(ep_eui=SENSOR))
        await center.ask(downlink(1))
        await center.ask(downlink(2, prio=1.0))
        await center.ask(downlink(3, exp_only=True, prio=2.0))
        await center.ask(
            downlink(4, cnt_depend=True, packet_cnt=(8, 9), user_data=(b"\x08", b"\x09"), prio=3.0)
        )
        await center.ask(downlink(5))
        await center.ask(DownlinkDataRevoke(ep_eui=SENSOR, que_id=5))
        assert await center.ask_in_vain(DownlinkDataRevoke(ep_eui=SENSOR, que_id=5)) == unknown
        assert await center.ask_in_vain(VmStatus()) == (95, "this gateway cannot do that")
        said = []
        for cnt in (5, 6, 7, 9, 10):
            await program.type(heard(cnt, dl_open=is_open(cnt), response_exp=cnt > 8))
            said += [await center.answer() for _ in range(1 + is_open(cnt))]
        await center.ask(DetachPropagate(ep_eui=SENSOR))
        assert await center.ask_in_vain(downlink(6)) == unknown
        transmitted = await program.wait_told("transmitted", 4)
    assert [each.packet_cnt for each in said if isinstance(each, UplinkData)] == [5, 6, 7, 9, 10]
    assert [(each["que_id"], each["data"]) for each in transmitted] == [
        (2, "02"),
        (1, "01"),
        (4, "09"),
        (3, "03"),
    ]
    results = [each for each in said if isinstance(each, DownlinkDataResult)]
    assert [(each.que_id, each.result, each.packet_cnt) for each in results] == [
        (2, "sent", 6),
        (1, "sent", 7),
        (4, "sent", 9),
        (3, "sent", 10),
    ]


# --- a decoder -------------------------------------------------------------------------------


def test_a_capture_is_decoded(tmp_path):
    file = tmp_path / "capture.bin"
    frames = [encode_frame(payload) for payload, _ in SAMPLES]
    file.write_bytes(b"".join(frames))
    done = run("decode_capture.py", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(message) for _, message in SAMPLES]


def test_a_capture_that_ends_too_early_or_is_no_bssci_is_told(tmp_path):
    file = tmp_path / "capture.bin"
    unknown = encode_frame(encode(Ping(op_id=7)).replace(b"ping", b"pong"))
    file.write_bytes(unknown + encode_frame(encode(Ping(op_id=8)))[:-1])
    done = run("decode_capture.py", file)
    assert done.returncode == 1
    assert done.stdout.startswith("pong: ")
    assert "the capture ends within a frame" in done.stderr
    file.write_bytes(b"GET / HTTP/1.1\r\n")
    assert "not b'MIOTYB01'" in run("decode_capture.py", file).stderr


def test_the_decoder_loads_nothing_but_the_protocol(tmp_path):
    file = tmp_path / "capture.bin"
    file.write_bytes(encode_frame(encode(Ping(op_id=7))))
    program = (
        f"import runpy, sys; sys.argv[1:] = [{str(file)!r}]; "
        f"runpy.run_path({str(ROOT / 'examples' / 'decode_capture.py')!r}, run_name='__main__'); "
        "print(*(name for name in sys.modules if name.startswith('bssci.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert {name for name in loaded if not name.startswith("bssci.core.protocol")} == {"bssci.core"}


# --- an application --------------------------------------------------------------------------


@pytest.mark.broker
@needs_broker
async def test_an_application_prints_what_sensors_say(site, broker):
    async with (
        open_service(site, mqtt_port=broker.port, dedup_delay=0.05) as service,
        running("mqtt_application.py", HOST, broker.port) as program,
        open_stations(service) as (station,),
    ):
        await program.wait_for_line("subscribed")
        station.send(telegram(SENSOR, 258))
        await station.wait_empty()
        assert await program.wait_for_line(format_eui(SENSOR)) == (
            f"{format_eui(SENSOR)} 258 000100000102"
        )


class FakeService:
    """The downlink side of a Service Center on a broker: each order is queued, then sent.

    Attributes:
        orders: what came on `dl`.
    """

    def __init__(self, port: int) -> None:
        self.orders: deque[tuple[str, dict[str, object]]] = deque()
        self.is_subscribed = False
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("mioty/ep/+/dl", 1)
        self.client.on_subscribe = self._subscribed
        self.client.on_message = self._take
        self.client.connect(HOST, port)

    def _subscribed(self, *_: object) -> None:
        self.is_subscribed = True

    def _take(self, client, _data, message):
        body = json.loads(message.payload)
        self.orders.append((message.topic, body))
        number = len(self.orders)
        status = {"id": number, "ref": body["ref"], "timestamp": 1.0}
        for result in ("queued", "sent"):
            client.publish(f"{message.topic}/status", json.dumps(status | {"result": result}), 1)

    def publish(self, cnt, **fields):
        body = {"id": f"u-{cnt}", "cnt": cnt, "data": [cnt], "responseExp": False, **fields}
        self.client.publish(f"mioty/ep/{format_eui(SENSOR)}/ul", json.dumps(body), 1)

    async def run(self) -> None:
        try:
            while True:
                self.client.loop(timeout=0)
                await trio.sleep(0.01)
        finally:
            self.client.disconnect()


@pytest.mark.broker
@needs_broker
async def test_an_application_answers_what_expects_it_once_and_tells_what_became_of_it(broker):
    service = FakeService(broker.port)
    async with (
        in_background(service.run),
        running("mqtt_application.py", HOST, broker.port) as program,
    ):
        await wait_until(lambda: service.is_subscribed, "the service is subscribed")
        await program.wait_for_line("subscribed")
        service.publish(1)
        service.publish(2, responseExp=True)
        service.publish(2, responseExp=True)
        service.publish(3)
        eui = format_eui(SENSOR)
        await program.wait_for_line(f"{eui} 3 03")
        await program.wait_for_line(f"{eui} answer u-2 sent")
    assert list(service.orders) == [
        (f"mioty/ep/{eui}/dl", {"data": "4f4b", "ref": "u-2", "expires_in": 3600})
    ]
    assert [line for line in program.lines if "answer" in line] == [
        f"{eui} answer u-2 queued ",
        f"{eui} answer u-2 sent ",
    ]


@pytest.mark.broker
@needs_broker
async def test_uplinks_from_standard_input_reach_the_broker(site, gateway, broker):
    ledger = Ledger()
    ledger.keeps_uplinks = True
    async with (
        open_service(site, mqtt_port=broker.port, dedup_delay=0.05) as service,
        open_subscriber(broker.port, ledger),
    ):
        await forward(site, gateway, service.port, heard(1), heard(2))
        await wait_until(lambda: len(ledger.uplinks) == 2, "both are published")
    assert [(each.body["cnt"], each.body["rssi"]) for each in ledger.uplinks] == [
        (1, -98.0),
        (2, -98.0),
    ]


# --- the page of the API ---------------------------------------------------------------------


def test_the_page_of_the_api_is_what_the_docstrings_say():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "api", "--print"],
        capture_output=True,
        text=True,
        check=True,
    )
    page = Path(ROOT / "docs" / "api.md").read_text()
    assert page == done.stdout, "run scripts/api"
