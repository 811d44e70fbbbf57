"""The guarantees put to the test: `bssci serve` as a process, real TLS, real broker, real kills."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from cryptography import x509

from bssci.core.protocol.codec import encode
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.frames import encode_frame
from bssci.core.protocol.messages import Connect, Ping
from bssci.core.protocol.resume import VERSION
from bssci.core.protocol.session import BaseStationSession
from bssci.core.runtime.authority import (
    make_authority,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.tls import client_context
from tests.broker import MOSQUITTO, Mosquitto
from tests.campaigns.kill9 import Plan, run_campaign
from tests.disks import fill_up, query
from tests.processes import (
    FIRST_STATION,
    HOST,
    Ledger,
    Site,
    Station,
    bssci,
    in_background,
    open_sender,
    open_service,
    open_stations,
    open_subscriber,
    telegram,
    wait_until,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, mounts, binds 127.0.0.2"),
]

needs_broker = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto"),
]

SENSOR = 0x70B3D59CD1000001
SECOND_SENSOR = SENSOR + 1
# So that the log tells good and bad apart, and those that crowd out each other from the rest.
HOSTILE, CROWDED = "127.0.0.2", "127.0.0.3"

STOP_WITHIN = 5.0  # seconds, as promised


def brokered(test):
    for mark in needs_broker:
        test = mark(test)
    return test


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return Site.make(tmp_path_factory.mktemp("site") / "sc")


@pytest.fixture
def site(template, tmp_path):
    return template.copy(tmp_path / "sc")


@pytest.fixture
def broker(tmp_path):
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@contextmanager
def mounted(folder, *options):
    """A file system of 24 MB, as long as the block lasts. The write-ahead log alone takes eight."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(("size=24m", *options)), "bssci-test", folder]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@asynccontextmanager
async def scene(site, broker, stations=1, **settings):
    """Service, base stations and a subscriber, all connected."""
    ledger = Ledger()
    async with (
        open_service(site, mqtt_port=broker.port, **settings) as service,
        open_subscriber(broker.port, ledger),
        open_stations(service, stations) as connected,
    ):
        yield service, connected, ledger


async def more_taken(station, number=50):
    """So many more uplinks are acknowledged."""
    goal = len(station.acknowledged) + number
    await wait_until(lambda: len(station.acknowledged) >= goal, f"{number} more are acknowledged")


def sent(ep_eui, counters):
    return {(ep_eui, cnt) for cnt in counters}


# --- kill -9 ---------------------------------------------------------------------------------


@brokered
async def test_twenty_kills_under_load_lose_nothing_that_was_acknowledged(site, broker):
    plan = Plan(kills=20, stations=3, sensors=20, rate=120.0)
    figures = await run_campaign(plan, site, broker)
    assert figures.breaches == []
    assert figures.kills == 20
    assert figures.receptions == figures.acknowledged
    assert figures.telegrams == figures.published
    assert figures.sessions_new == 4  # one each; after that they were resumed, every time
    assert figures.sessions_resumed > 20
    assert figures.sc_operations > 0
    assert figures.recovered > 0


# --- the broker ------------------------------------------------------------------------------


async def return_of(broker, service, subscriber):
    """The broker is back, and the subscriber is the first to be there."""
    with service.paused():
        broker.start()
        await wait_until(lambda: subscriber.is_subscribed, "the subscriber is there again")


@brokered
async def test_a_broker_that_is_killed_and_returns_gets_everything_in_order(site, broker):
    ledger = Ledger()
    async with (
        open_service(site, mqtt_port=broker.port, mqtt_reconnect_max=1) as service,
        open_subscriber(broker.port, ledger) as subscriber,
        open_stations(service, 2) as stations,
        open_sender(stations[0], SENSOR, rate=100),
        open_sender(stations[1], SECOND_SENSOR, rate=100),
    ):
        for _ in range(3):
            await ledger.wait_complete(stations)
            broker.kill()
            await wait_until(lambda: not subscriber.is_subscribed, "the broker is gone")
            await service.wait_for_log("lost the broker")
            await more_taken(stations[0])
            await more_taken(stations[1])
            await return_of(broker, service, subscriber)
        await ledger.wait_complete(stations)
    assert ledger.faults == []
    assert [station.losses for station in stations] == [0, 0]


@brokered
async def test_memory_stays_flat_while_the_broker_is_away(site, broker):
    """Not told by the size of a queue: by what the process takes."""
    octets, first, last = 600, 10_000, 22_000
    ledger = Ledger()
    ledger.keeps_uplinks = False
    async with (
        open_service(site, mqtt_port=broker.port, mqtt_reconnect_max=1) as service,
        open_subscriber(broker.port, ledger) as subscriber,
        open_stations(service, window=200) as (station,),
    ):
        broker.kill()

        async def deliver(begin, end):
            for cnt in range(begin, end):
                station.send(telegram(SENSOR, cnt, filling=octets))
            await station.wait_empty(within=60)

        await deliver(1, first)
        before = service.memory()
        await deliver(first, last)
        growth = service.memory() - before
        await return_of(broker, service, subscriber)
        await ledger.wait_complete([station], within=60)
    assert ledger.faults == []
    # What a queue in memory would hold of them at the very least.
    assert growth < (last - first) * octets


@brokered
async def test_a_kill_while_the_broker_is_away_loses_nothing(site, broker):
    ledger = Ledger()
    async with (
        open_service(site, mqtt_port=broker.port, mqtt_reconnect_max=1) as service,
        open_subscriber(broker.port, ledger) as subscriber,
        open_stations(service) as (station,),
        open_sender(station, SENSOR, rate=200),
    ):
        broker.kill()
        for _ in range(2):
            await more_taken(station, 100)
            await service.kill()
            await service.start()
            await station.wait_online()
        await return_of(broker, service, subscriber)
        await ledger.wait_complete([station])
        assert station.resumed == 2
    assert ledger.faults == []


@brokered
async def test_uplinks_without_a_broker_are_kept_and_sent_when_one_is_enabled(site, broker):
    counters = range(1, 51)
    ledger = Ledger()
    async with open_service(site, mqtt_enabled="false") as service:
        async with open_stations(service) as (station,):
            for cnt in counters:
                station.send(telegram(SENSOR, cnt))
            await station.wait_empty()
        assert (await service.stop()).code == 0
        service.settings |= {"mqtt_enabled": "true", "mqtt_port": broker.port}
        async with open_subscriber(broker.port, ledger):
            await service.start()
            await ledger.wait_complete([station])
    assert set(ledger.ids) == sent(SENSOR, counters)
    assert ledger.faults == []


# --- hostile peers ---------------------------------------------------------------------------


class Foes:
    """Peers that mean harm, or know no better, from an address of their own."""

    def __init__(self, service, tmp_path):
        self._service = service
        self._folder = tmp_path
        self._site = service.site

    async def all(self):
        async with trio.open_nursery() as nursery:
            for foe in (
                self.says("garbage before TLS", b"\x00\xffMIOTYB01 this is no TLS\r\n" * 10),
                self.says("an HTTP client", b"GET / HTTP/1.1\r\nHost: sc\r\n\r\n"),
                self.says("a plain BSSCI client", encode_frame(encode(Ping(op_id=1)))),
                self.shows_nothing(),
                self.shows_a_certificate_of_another_authority(),
                self.is_half_open(200),
                self.says_garbage_after_tls(),
                self.announces_a_gigabyte(),
                self.sends_one_byte_after_the_other(),
                self.never_reads(),
                self.claims_to_be_another(),
            ):
                nursery.start_soon(_carry_out, foe)

    async def _tcp(self, address=HOSTILE):
        return await trio.open_tcp_stream(HOST, self._service.port, local_address=address)

    @asynccontextmanager
    async def _tls(self, context):
        stream = trio.SSLStream(await self._tcp(), context, https_compatible=True)
        try:
            await stream.do_handshake()
            yield stream
        finally:
            await trio.aclose_forcefully(stream)

    def _own(self):
        return self._site.context(FIRST_STATION + 50)

    async def says(self, _what, data):
        stream = await self._tcp()
        await stream.send_all(data)
        await until_closed(stream)

    async def shows_nothing(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with self._refused(), self._tls(context) as stream:
            await until_closed(stream)

    async def shows_a_certificate_of_another_authority(self):
        pair = make_station_certificate(make_authority(), FIRST_STATION)
        files = self._folder / "foreign_cert.pem", self._folder / "foreign_key.pem"
        write_pair(pair, *files)
        context = client_context(
            cert_file=files[0], key_file=files[1], ca_file=self._site.certs / "ca_cert.pem"
        )
        async with self._refused(), self._tls(context) as stream:
            await until_closed(stream)

    @asynccontextmanager
    async def _refused(self):
        # With TLS 1.3 the client is through before the server has looked at its certificate.
        try:
            yield
        except trio.BrokenResourceError:
            return

    async def is_half_open(self, number):
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                stream = await self._tcp(CROWDED)
                await stream.send_all(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello begins so
                nursery.start_soon(until_closed, stream)

    async def says_garbage_after_tls(self):
        async with self._tls(self._own()) as stream:
            await stream.send_all(bytes(range(256)) * 8)
            await until_closed(stream)

    async def announces_a_gigabyte(self):
        async with self._tls(self._own()) as stream:
            await stream.send_all(b"MIOTYB01" + (2**30).to_bytes(4, "little"))
            await until_closed(stream)

    async def sends_one_byte_after_the_other(self):
        async with self._refused(), self._tls(self._own()) as stream:
            for byte in connect_frame(FIRST_STATION + 50):
                await stream.send_all(bytes((byte,)))
                await trio.sleep(0.05)  # its speed
            await until_closed(stream)

    async def claims_to_be_another(self):
        async with self._tls(self._own()) as stream:
            await stream.send_all(connect_frame(FIRST_STATION))
            await until_closed(stream)

    async def never_reads(self):
        """A base station with a good certificate that asks and asks and takes no answer."""
        bs_eui = FIRST_STATION + 51
        with socket.socket() as small:
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            small.bind((HOSTILE, 0))
            small.connect((HOST, self._service.port))
            transport = trio.SocketStream(trio.socket.from_stdlib_socket(small))
            stream = trio.SSLStream(transport, self._site.context(bs_eui), https_compatible=True)
            await stream.do_handshake()
            session = BaseStationSession()
            session.connect(connect(bs_eui))
            while session.state.name != "ACTIVE":
                await stream.send_all(session.data_to_send())
                session.receive_data(await stream.receive_some(4096))
            await stream.send_all(session.data_to_send())
            with pytest.raises(trio.BrokenResourceError):
                await ask_and_ask(stream)
            await trio.aclose_forcefully(stream)


async def ask_and_ask(stream):
    for start in range(1, 10_000_000, 500):
        pings = (Ping(op_id=op_id) for op_id in range(start, start + 500))
        await stream.send_all(b"".join(encode_frame(encode(ping)) for ping in pings))


async def _carry_out(foe):
    await foe


def connect(bs_eui):
    return Connect(version=VERSION, bs_eui=bs_eui, bidi=True, sn_bs_uuid=os.urandom(16))


def connect_frame(bs_eui):
    session = BaseStationSession()
    session.connect(connect(bs_eui))
    return session.data_to_send()


async def until_closed(stream):
    with trio.fail_after(15):
        try:
            while await stream.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)


async def test_hostile_peers_are_refused_and_a_good_base_station_does_not_notice(site, tmp_path):
    async with (
        open_service(
            site, mqtt_enabled="false", server_handshake_timeout=3, server_write_timeout=1
        ) as service,
        open_stations(service) as (good,),
        open_sender(good, SENSOR, rate=100),
    ):
        newcomer = Station(site, service.port, FIRST_STATION + 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Foes(service, tmp_path).all)
            await service.wait_for_log("made room for a newer connection", address=CROWDED)
            async with in_background(newcomer.run):
                await newcomer.wait_online()
        await more_taken(good)
        assert (good.losses, good.faults, good.refused) == (0, [], [])
        assert good.slowest < 2.0
        refusals = [line for line in service.log() if line["message"].startswith("refused:")]
        assert Counter((line["address"], line["reason"]) for line in refusals) == {
            (CROWDED, "handshake_timeout"): 100,
            (CROWDED, "too_many"): 100,
            (HOSTILE, "bad_certificate"): 1,
            (HOSTILE, "handshake_timeout"): 1,  # it sends one byte after the other
            (HOSTILE, "identity_mismatch"): 1,
            (HOSTILE, "no_certificate"): 1,
            (HOSTILE, "not_bssci"): 2,
            (HOSTILE, "not_tls"): 3,
        }
        (slow_reader,) = service.logged("did not take our bytes", address=HOSTILE)
        assert slow_reader["bs_eui"] == format_eui(FIRST_STATION + 51)
        assert not [line for line in service.log() if line["level"] in ("error", "raw")]
        assert (await service.stop()).code == 0


# --- copies ----------------------------------------------------------------------------------


@brokered
async def test_one_telegram_heard_by_three_clocks_is_one_publication(site, broker):
    second = 1_000_000_000
    years = round(2.7 * 365.25 * 86400) * second
    clocks = [0, 300_000_000, -years]
    ledger = Ledger()
    async with (
        open_service(site, mqtt_port=broker.port, dedup_delay=0.5, status_interval=1) as service,
        open_subscriber(broker.port, ledger),
        open_stations(service, 3, clocks_ns=clocks) as stations,
    ):
        euis = [format_eui(station.eui) for station in stations]
        await wait_until(
            lambda: all(ledger.bodies(f"mioty/bs/{eui}") for eui in euis), "all told their time"
        )
        await heard_by_all(stations, packet_cnt=1)
        await wait_until(lambda: (SENSOR, 1) in ledger.ids, "it is published")
        # The third one was cut off: it delivers long after the window.
        heard_ns = time.time_ns()
        await heard_by_all(stations[:2], packet_cnt=2, heard_ns=heard_ns)
        await wait_until(
            lambda: time.time_ns() > heard_ns + 3 * second and (SENSOR, 2) in ledger.ids,
            "the window is over",
        )
        await heard_by_all(stations[2:], packet_cnt=2, heard_ns=heard_ns)
        assert (await service.stop()).code == 0
    assert ledger.faults == []
    assert ledger.repeats == 0
    assert [(len(p.body["receptions"]), p.body["cnt"]) for p in ledger.uplinks] == [(3, 1), (2, 2)]
    (body, _) = (p.body for p in ledger.uplinks)
    best_first = [reception["bs_eui"] for reception in body["receptions"]]
    assert (body["bs_eui"], best_first) == (euis[2], euis[::-1])
    offsets = {
        euis.index(r["bs_eui"]): r["rxTime"] - r["rxTimeCorrected"] for r in body["receptions"]
    }
    assert offsets == {i: pytest.approx(clock, abs=0.2 * second) for i, clock in enumerate(clocks)}


async def heard_by_all(stations, *, packet_cnt, heard_ns=None):
    """One telegram; the later a base station stands in the list, the better it hears."""
    heard_ns = heard_ns or time.time_ns()
    for number, station in enumerate(stations):
        rx_time = heard_ns + station.clock_ns
        station.send(telegram(SENSOR, packet_cnt, rx_time=rx_time, snr=5.0 + number))
    for station in stations:
        await station.wait_empty()


# --- the disk --------------------------------------------------------------------------------


@brokered
async def test_a_full_disk_refuses_uplinks_until_there_is_room(site, broker, tmp_path):
    with mounted(tmp_path / "disk") as disk:
        async with (
            scene(site, broker, store_path=disk / "bssci.db") as (service, (station,), ledger),
            open_sender(station, SENSOR, rate=100, filling=100),
        ):
            await more_taken(station)
            ballast = fill_up(disk)
            await wait_until(lambda: station.refused, "an uplink is refused")
            assert {code for code, _ in station.refused} == {28}
            await service.wait_for_log("uplinks are refused until this is over", level="error")
            await refused_connect(service, site)
            ballast.unlink()
            await more_taken(station, 100)
            await service.wait_for_log("takes writes again")
            await ledger.wait_complete([station])
            assert (station.losses, station.faults, ledger.faults) == (0, [], [])
            assert (await service.stop()).code == 0


async def refused_connect(service, site):
    """A session that cannot be stored is none: `con` gets "try again"."""
    newcomer = Station(site, service.port, FIRST_STATION + 1)
    async with in_background(newcomer.run):
        await wait_until(lambda: newcomer.connect_refusals, "its connect is refused")
    assert set(newcomer.connect_refusals) == {11}


def test_a_state_folder_that_cannot_be_written_ends_the_start(site, tmp_path):
    with read_only(tmp_path / "disk") as folder:
        done = bssci("serve", "-c", site.config, store_path=folder / "bssci.db", server_port=0)
    assert done.returncode == 2
    assert str(folder) in done.stderr
    assert "cannot be written" in done.stderr


@contextmanager
def read_only(folder):
    if os.geteuid() == 0:  # to whom permissions mean nothing
        with mounted(folder, "ro"):
            yield folder
    else:
        folder.mkdir(mode=0o500)
        yield folder


# --- the start -------------------------------------------------------------------------------


def failed_start(site, **settings):
    """What `serve` says when it cannot start."""
    done = bssci("serve", "-c", site.config, **{"server_port": 0, **settings})
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_key_of_another_certificate_ends_the_start(site):
    key_file = site.certs / "ca_key.pem"
    words = failed_start(site, tls_key_file=key_file)
    assert str(key_file) in words
    assert "service_center_cert.pem" in words


def test_a_missing_certificate_ends_the_start_with_what_to_do(site):
    cert_file = site.certs / "service_center_cert.pem"
    cert_file.unlink()
    words = failed_start(site)
    assert str(cert_file) in words
    assert "`bssci certs gen` makes certificates" in words


def test_a_port_that_is_taken_ends_the_start(site):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = failed_start(site, server_host=HOST, server_port=port)
    assert f"{HOST} port {port}" in words
    assert "server.port" in words


def test_a_second_service_on_the_same_database_ends_its_start(site):
    async def run():
        async with open_service(site, mqtt_enabled="false"):
            return await trio.to_thread.run_sync(failed_start, site)

    words = trio.run(run)
    assert "bssci.db" in words
    assert "in use" in words


def test_all_that_is_wrong_in_sc_toml_is_told_at_once(site):
    text = site.config.read_text()
    text = text.replace("[server]", '[server]\nprot = 1\nidle_ping = "soon"', 1)
    site.config.write_text(text + "\n[severs]\nhost = 1\n")
    words = failed_start(site)
    assert str(site.config) in words
    for wrong in ("server.prot", "server.idle_ping", '"soon"', "severs"):
        assert wrong in words


def test_a_database_of_a_newer_version_ends_the_start_and_stays_as_it_is(site):
    async def run():
        async with open_service(site, mqtt_enabled="false") as service:
            assert (await service.stop()).code == 0

    trio.run(run)
    path = site.folder / "state" / "bssci.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    words = failed_start(site)
    assert f"{path}: its tables have version 99" in words
    assert query(path, "PRAGMA user_version") == [(99,)]


async def test_a_damaged_database_is_set_aside_and_the_service_starts(site):
    path = site.folder / "state" / "bssci.db"
    async with (
        open_service(site, mqtt_enabled="false") as service,
        open_stations(service) as (station,),
    ):
        for cnt in range(1, 500):
            station.send(telegram(SENSOR, cnt, filling=100))
        await station.wait_empty()
        assert (await service.stop()).code == 0
        octets = path.stat().st_size
        path.write_bytes(path.read_bytes()[:100] + b"\xa5" * (octets - 100))
        await service.start()
        damaged = await service.wait_for_log("the database was damaged", level="error")
        (aside,) = path.parent.glob("bssci.db.damaged-*Z")
        assert str(aside) in damaged["message"]
        assert aside.stat().st_size == octets
        station.send(telegram(SENSOR, 500))
        await station.wait_empty()
    assert station.renewed == 2  # the session was in the damaged one


# --- the end ---------------------------------------------------------------------------------


@brokered
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
async def test_a_stop_under_load_is_orderly(site, broker, number):
    async with scene(site, broker, stations=2) as (service, stations, ledger):
        async with (
            open_sender(stations[0], SENSOR, rate=300),
            open_sender(stations[1], SECOND_SENSOR, rate=300),
        ):
            await more_taken(stations[0], 300)
            ending = await service.stop(number)
        assert ending.code == 0
        assert ending.seconds < STOP_WITHIN
        await ledger.wait_complete(stations)
        assert ledger.faults == []
        assert [station.faults for station in stations] == [[], []]
        assert not [line for line in service.log() if line["level"] in ("error", "raw")]
        after = Ledger()
        async with open_subscriber(broker.port, after):
            await wait_until(lambda: len(after.others) >= 3, "what is retained")
    topics = ("mioty/state", *(f"mioty/bs/{format_eui(s.eui)}/state" for s in stations))
    assert {p.topic: p.body["state"] for p in after.others if p.retained} == dict.fromkeys(
        topics, "offline"
    )


@brokered
async def test_the_broker_tells_of_a_service_that_was_killed(site, broker):
    async with scene(site, broker) as (service, _, ledger):
        await wait_until(
            lambda: [b["state"] for b in ledger.bodies("mioty/state")] == ["online"], "online"
        )
        await service.kill()
        await wait_until(lambda: len(ledger.bodies("mioty/state")) == 2, "the last will")
    assert [body["state"] for body in ledger.bodies("mioty/state")] == ["online", "offline"]


# --- certificates ----------------------------------------------------------------------------


async def serial_shown(service):
    """Of the certificate that the service shows to somebody who connects now."""
    transport = await trio.open_tcp_stream(HOST, service.port)
    stream = trio.SSLStream(transport, service.site.context(FIRST_STATION + 9))
    await stream.do_handshake()
    der = stream.getpeercert(binary_form=True)
    await trio.aclose_forcefully(stream)
    return x509.load_der_x509_certificate(der).serial_number


def serial_in(file):
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


async def test_sighup_takes_new_certificates_and_keeps_connections(site):
    cert_file = site.certs / "service_center_cert.pem"
    async with (
        open_service(site, mqtt_enabled="false") as service,
        open_stations(service) as (station,),
        open_sender(station, SENSOR, rate=50),
    ):
        old = serial_in(cert_file)
        assert await serial_shown(service) == old
        made = bssci("certs", "gen", "--host", HOST, "--force", "-c", site.config)
        assert made.returncode == 0, made.stderr
        new = serial_in(cert_file)
        assert await serial_shown(service) == old
        service.signal(signal.SIGHUP)
        await service.wait_for_log("certificates are read again")
        assert await serial_shown(service) == new
        (site.certs / "service_center_key.pem").write_bytes(
            (site.certs / "ca_key.pem").read_bytes()
        )
        service.signal(signal.SIGHUP)
        refused = await service.wait_for_log("not reloaded, nothing is changed", level="error")
        assert "service_center_key.pem" in refused["message"]
        assert await serial_shown(service) == new
        await more_taken(station)
        assert (station.losses, station.faults) == (0, [])
        assert (await service.stop()).code == 0


async def test_a_base_station_connects_with_the_files_that_were_made_for_it(site, tmp_path):
    eui = FIRST_STATION + 7
    name, out = format_eui(eui), tmp_path / "usb"
    made = bssci("certs", "station", "70-b3-d5-9c-d0-00-00-08", "-c", site.config, "--out", out)
    assert made.returncode == 0, made.stderr
    assert {file.name for file in out.iterdir()} == {
        f"{name}_cert.pem",
        f"{name}_key.pem",
        "ca_cert.pem",
    }
    for purpose, certificate in (
        ("sslserver", site.certs / "service_center_cert.pem"),
        ("sslclient", out / f"{name}_cert.pem"),
    ):
        assert verified(out / "ca_cert.pem", certificate, purpose) == (0, f"{certificate}: OK\n")
    context = client_context(
        cert_file=out / f"{name}_cert.pem",
        key_file=out / f"{name}_key.pem",
        ca_file=out / "ca_cert.pem",
        check_names=True,
    )
    async with open_service(site, mqtt_enabled="false") as service:
        station = Station(site, service.port, eui, context=context)
        async with in_background(station.run):
            station.send(telegram(SENSOR, 1))
            await station.wait_empty()
        await service.wait_for_log("base station connected", bs_eui=name)
    assert station.acknowledged == [(SENSOR, 1)]


def verified(authority, certificate, purpose):
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
    done = subprocess.run(
        [*command, "-CAfile", authority, certificate], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


# --- secrets ---------------------------------------------------------------------------------


@brokered
async def test_no_key_and_no_password_is_in_any_line_at_level_debug(tmp_path):
    password, wrong_password = "correct-horse-battery", "wrong-horse-battery"
    secrets = [password, wrong_password]
    broker = broker_with_password(tmp_path, "center", password)
    url = f"mqtt://center:{password}@{HOST}:{broker.port}"
    done = bssci("init", tmp_path / "sc", "--host", HOST, "--mqtt", "-", typed=url)
    assert done.returncode == 0, done.stderr
    site = Site(tmp_path / "sc")
    try:
        async with open_service(site, log_level="debug") as service:
            said = [done.stdout, done.stderr]
            async with open_stations(service) as (station,):
                station.send(telegram(SENSOR, 1))
                await station.wait_empty()
                await service.wait_for_log("connected to the broker")
                key_file, cert_file = (
                    site.certs / f"service_center_{part}.pem" for part in ("key", "cert")
                )
                secrets += inside(key_file) + inside(site.certs / "ca_key.pem")
                secrets += inside(site.stations / f"{format_eui(station.eui)}_key.pem")
                # Mistakes that are made: files exchanged, and cut off.
                key, certificate = key_file.read_bytes(), cert_file.read_bytes()
                for wrong in ((certificate, key), (key[:-40], certificate), (key, key)):
                    key_file.write_bytes(wrong[0])
                    cert_file.write_bytes(wrong[1])
                    await refused_reload(service)
                key_file.write_bytes(key)
                cert_file.write_bytes(certificate)
            assert (await service.stop()).code == 0
            service.settings["mqtt_password_file"] = tmp_path / "wrong"
            (tmp_path / "wrong").write_text(wrong_password)
            await service.start()
            await service.wait_for_log("no connection to the broker")
            assert (await service.stop()).code == 0
            said.append(service.text())
    finally:
        broker.kill()
    assert len(service.text().splitlines()) > 10
    assert [secret for secret in secrets for text in said if secret in text] == []


async def refused_reload(service):
    already = len(service.logged("not reloaded"))
    service.signal(signal.SIGHUP)
    await wait_until(lambda: len(service.logged("not reloaded")) > already, "it is refused")


def broker_with_password(folder, user, password):
    passwords = folder / "passwords"
    command = ["mosquitto_passwd", "-b", "-c", str(passwords), user, password]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs mosquitto_passwd")
    broker = Mosquitto(folder, "allow_anonymous false", f"password_file {passwords}")
    broker.start()
    return broker


def inside(key_file):
    """The lines of a private key that are worth something."""
    lines = [line for line in key_file.read_text().splitlines() if "-----" not in line]
    assert lines
    return lines
