"""The whole center in one process: real TLS, a real database, base stations of our own."""

import json
import logging
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from bssci.core.protocol.errors import OperationRefusedError
from bssci.core.protocol.messages import (
    Attach,
    Detach,
    DetachResponse,
    DownlinkDataResult,
    DownlinkDataResultResponse,
    DownlinkRxStatus,
    DownlinkRxStatusResponse,
    StatusResponse,
    UplinkData,
    VmUplinkData,
)
from bssci.core.runtime import desk
from bssci.core.runtime.authority import (
    make_authority,
    make_server_certificate,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.config import load_config, make_config
from bssci.core.runtime.service import ServiceCenter, StartError
from bssci.core.runtime.station import Identity, StationSettings, open_station
from bssci.core.runtime.station_events import Offline, Online, StationEvent
from bssci.core.runtime.tls import CertificateError, client_context
from tests.broker import MOSQUITTO, Mosquitto
from tests.processes import wait_until

if TYPE_CHECKING:
    from bssci.core.runtime.notices import Notice
    from bssci.core.runtime.sink import Uplink

NORTH, SOUTH = 0x70B3D59CD0000001, 0x70B3D59CD0000002
END_POINT = 0xFCA84A030000127C


@pytest.fixture
def folder(tmp_path):
    """A folder as `bssci init` makes it, with certificates of two base stations."""
    authority = make_authority()
    certs = tmp_path / "certs"
    certs.mkdir()
    write_pair(authority, certs / "ca_cert.pem", certs / "ca_key.pem")
    write_pair(
        make_server_certificate(authority, ["127.0.0.1"], allow_loopback=True),
        certs / "service_center_cert.pem",
        certs / "service_center_key.pem",
    )
    for eui in (NORTH, SOUTH):
        write_pair(
            make_station_certificate(authority, eui), certs / f"{eui}.pem", certs / f"{eui}.key"
        )
    (tmp_path / "sc.toml").write_text(
        '[server]\neui = "1122334455667788"\nhost = "127.0.0.1"\nport = 0\n'
    )
    return tmp_path


def a_center(folder, **options):
    settings = {name.replace("__", "."): value for name, value in options.items()}
    return ServiceCenter(load_config(folder / "sc.toml", environ={}, options=settings))


@asynccontextmanager
async def running(center):
    async with trio.open_nursery() as nursery:
        await nursery.start(center.run)
        yield center
        center.stop()


def station_of(folder, center, eui=NORTH, *, certificate=None, **more):
    certs = folder / "certs"
    of = certificate or eui
    context = client_context(
        cert_file=certs / f"{of}.pem", key_file=certs / f"{of}.key", ca_file=certs / "ca_cert.pem"
    )
    return open_station(
        ("127.0.0.1", center.port), identity=Identity(eui=eui), ssl_context=context, **more
    )


def uplink(cnt=1):
    return UplinkData(
        ep_eui=END_POINT,
        rx_time=1_756_193_850_000_000_000 + cnt * 10_000_000_000,
        packet_cnt=cnt,
        snr=10.0,
        rssi=-90.0,
        user_data=bytes((17, 50)),
        dl_open=False,
        response_exp=False,
        dl_ack=False,
    )


async def test_an_uplink_is_kept_and_told_to_who_watches(folder):
    center = a_center(folder)
    async with running(center), station_of(folder, center) as station:
        with center.notices.watch() as notices:
            await station.send_uplink(uplink())
            seen: list[Notice] = []
            while not seen or seen[-1].kind != "uplink":
                seen.append(await notices.receive())
    data = seen[-1].data
    assert data["sensor_eui"] == f"{END_POINT:016X}"
    assert (data["bs_eui"], data["cnt"], data["data"]) == (f"{NORTH:016X}", 1, [17, 50])
    assert center.counts == {"received": 1, "duplicates": 0, "released": 1, "unregistered": 1}


async def test_a_base_station_that_comes_and_goes_is_told(folder):
    center = a_center(folder)
    async with running(center):
        with center.notices.watch() as notices:
            async with station_of(folder, center) as station:
                await station.wait_online()
                came = await notices.receive()
            gone = await notices.receive()
    assert (came.kind, came.data) == ("station", {"eui": f"{NORTH:016X}", "state": "online"})
    assert (gone.kind, gone.data) == ("station", {"eui": f"{NORTH:016X}", "state": "offline"})


async def test_a_clock_that_is_years_off_is_learned_and_said_once(folder, caplog, monkeypatch):
    monkeypatch.setattr(desk, "FIRST_STATUS", 0.0)
    behind = StatusResponse(code=0, message="", time=1_671_000_000_000_000, duty_cycle=0.1)
    center = a_center(folder)
    async with running(center), station_of(folder, center, status=lambda: behind) as station:
        await station.wait_online()
        while center.registry.clock_offset(NORTH) is None:
            await trio.lowlevel.checkpoint()
    offset = center.registry.clock_offset(NORTH)
    assert offset is not None
    assert offset < -3 * 365 * 86400 * 1_000_000_000
    assert caplog.text.count("reception times are corrected by that") == 1


@pytest.mark.parametrize(
    ("identity", "certificate", "is_let_in"),
    [
        ("match", NORTH, True),
        ("match", SOUTH, False),
        ("chain", SOUTH, True),
        ("require", NORTH, True),
        ("require", SOUTH, False),
        ("pin", NORTH, True),
    ],
)
async def test_who_may_come_in_is_decided_by_the_certificate(
    folder, identity, certificate, is_let_in
):
    center = a_center(folder, tls__identity=identity)
    events: list[StationEvent] = []
    async with (
        running(center),
        station_of(folder, center, certificate=certificate, take=events.append),
    ):
        while not events:
            await trio.lowlevel.checkpoint()
    if is_let_in:
        assert isinstance(events[0], Online)
        return
    assert isinstance(events[0], Offline)
    words = f"the certificate names {SOUTH:016X}, not {NORTH:016X}"
    assert words in events[0].reason
    ((_, refusal),) = center.refusals
    assert (refusal.reason, refusal.bs_eui, refusal.detail) == ("identity_mismatch", NORTH, words)
    assert refusal.peer.address == "127.0.0.1"
    assert center.refused == {"identity_mismatch": 1}


async def test_a_pinned_base_station_is_bound_to_its_first_certificate(folder):
    certs = folder / "certs"
    center = a_center(folder, tls__identity="pin")
    async with running(center):
        async with station_of(folder, center) as station:
            await station.wait_online()
        authority = make_authority()
        _another(certs, authority)
        center.reload(center.config)
        events: list[StationEvent] = []
        async with station_of(folder, center, take=events.append):
            while not events:
                await trio.lowlevel.checkpoint()
    assert isinstance(events[0], Offline)
    assert "is bound to the certificate" in events[0].reason


def _another(certs, authority):
    """The same base station with a certificate of another authority, trusted as well."""
    ca = certs / "ca_cert.pem"
    old = ca.read_bytes()
    ca.unlink()
    (certs / "ca_key.pem").unlink()
    write_pair(authority, ca, certs / "ca_key.pem")
    ca.write_bytes(ca.read_bytes() + old)
    (certs / f"{NORTH}.pem").unlink()
    (certs / f"{NORTH}.key").unlink()
    write_pair(
        make_station_certificate(authority, NORTH), certs / f"{NORTH}.pem", certs / f"{NORTH}.key"
    )


RADIO: dict[str, Any] = {"ep_eui": END_POINT, "rx_time": 1, "snr": 1.0, "rssi": -90.0}


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (
            Detach(**RADIO, packet_cnt=7, sign=b"sign"),
            DetachResponse(sign=b"sign"),
        ),
        (
            DownlinkDataResult(ep_eui=END_POINT, que_id=1, result="expired"),
            DownlinkDataResultResponse(),
        ),
        (
            DownlinkRxStatus(
                ep_eui=END_POINT, rx_time=1, packet_cnt=1, dl_rx_snr=1.0, dl_rx_rssi=-90.0
            ),
            DownlinkRxStatusResponse(),
        ),
    ],
)
async def test_what_a_base_station_would_repeat_for_ever_is_answered(folder, asked, answer):
    center = a_center(folder)
    async with running(center), station_of(folder, center) as station:
        assert await station.send(asked) == _numbered(answer)


def _numbered(message):
    return replace(message, op_id=1)


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (
            Attach(
                **RADIO,
                attach_cnt=1,
                nonce=b"nonc",
                sign=b"sign",
                dual_chan=False,
                repetition=False,
                wide_carr_off=False,
                long_blk_dist=False,
            ),
            71,
            f"end point {END_POINT:016X} is not known",
        ),
    ],
)
async def test_what_cannot_be_served_is_refused_in_words(folder, asked, code, words):
    center = a_center(folder)
    async with running(center), station_of(folder, center) as station:
        with pytest.raises(OperationRefusedError) as caught:
            await station.send(asked)
    assert (caught.value.code, caught.value.message) == (code, words)


def vm_uplink(mac_type=1):
    return VmUplinkData(
        mac_type=mac_type,
        user_data=b"\x2c\xb4",
        trx_time=2_624_805_061_575_111,
        sys_time=1_756_193_850_000_000_000,
        freq_off=868_157_596.0,
        snr=1.0,
        rssi=-90.0,
        carr_space=1,
        patt_grp=0,
        patt_num=0,
        crc=(1, 2),
    )


async def outbox(center):
    return [(each.topic, json.loads(each.body)) for each in await center._fetch(0, 1000)]


async def test_a_variable_mac_telegram_is_kept_told_and_published_as_it_came(folder):
    center = a_center(folder)
    async with running(center), station_of(folder, center) as station:
        await station.wait_online()
        with center.notices.watch() as notices:
            await station.send_uplink(vm_uplink(7))
            told = [notice async for notice in first(1, of=notices, state="vm")]
        ((topic, body),) = await outbox(center)
        assert await center.uplinks() == []
    assert told == [{"eui": f"{NORTH:016X}", "state": "vm", "mac_type": 7}]
    assert topic == f"mioty/bs/{NORTH:016X}/vm"
    assert {name: body[name] for name in ("bs_eui", "macType", "data", "trxTime", "crc")} == {
        "bs_eui": f"{NORTH:016X}",
        "macType": 7,
        "data": [44, 180],
        "trxTime": 2_624_805_061_575_111,
        "crc": [1, 2],
    }
    assert center.counts == {"received": 0, "duplicates": 0, "released": 0, "unregistered": 0}


async def first(count, *, of, state):
    """The data of so many notices of base stations in this state."""
    async for notice in of:
        if notice.data.get("state") == state:
            yield notice.data
            count -= 1
        if not count:
            return


async def test_variable_mac_telegrams_survive_cuts_and_a_restart_once_each_in_order(folder):
    """Whatever was answered and whatever was not when the connection was lost."""
    settings = StationSettings(reconnect_min=0.01, reconnect_max=0.01)
    center = a_center(folder)
    async with running(center), station_of(folder, center, settings=settings) as station:
        with center.notices.watch() as notices:
            for mac_type in range(20):
                station.send_nowait(vm_uplink(mac_type))
                if mac_type % 4 == 3:
                    assert [told async for told in first(1, of=notices, state="vm")]
                    station.cut()
        await station.wait_empty()
        assert station.resumes > 0
    async with running(again := a_center(folder)):
        kept = await outbox(again)
    assert [body["macType"] for _, body in kept] == [*range(20)]
    assert len({body["id"] for _, body in kept}) == 20


async def test_a_new_certificate_is_used_from_the_next_connection_on(folder, caplog):
    caplog.set_level(logging.INFO)
    certs = folder / "certs"
    center = a_center(folder)
    async with running(center), station_of(folder, center) as station:
        await station.wait_online()
        ca = trustme.CA()
        ca.issue_cert("127.0.0.1").private_key_pem.write_to_path(certs / "service_center_key.pem")
        with pytest.raises(CertificateError):
            center.reload(center.config)
        await station.send_uplink(uplink(1))
        issued = ca.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(certs / "service_center_key.pem")
        issued.cert_chain_pems[0].write_to_path(certs / "service_center_cert.pem")
        center.reload(load_config(folder / "sc.toml", environ={}, options={"server.name": "new"}))
        await station.send_uplink(uplink(2))
        shown = await trio.to_thread.run_sync(
            ssl.get_server_certificate, ("127.0.0.1", center.port)
        )
    assert shown.strip() == issued.cert_chain_pems[0].bytes().decode().strip()
    assert "changed, but needs a restart: server.name, server.port" not in caplog.text
    assert "changed, but needs a restart: server.name" in caplog.text


async def test_without_a_broker_uplinks_are_kept_and_shown(folder):
    center = a_center(folder)
    async with running(center), station_of(folder, center) as station:
        await station.send_uplink(uplink())
    async with running(again := a_center(folder)):
        (kept,) = await again.uplinks(count=10)
    assert (kept["sensor_eui"], kept["published"]) == (f"{END_POINT:016X}", None)
    assert json.dumps(kept)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls.cert_file": "nowhere.pem"}, "nowhere.pem"),
        ({"server.host": "192.0.2.1"}, "cannot listen on 192.0.2.1 port 0"),
        ({"store.path": "/proc/nowhere/bssci.db"}, "/proc/nowhere"),
    ],
)
async def test_what_cannot_start_says_why_and_ends_with_exit_code_2(folder, options, words):
    config = load_config(folder / "sc.toml", environ={}, options=options)
    with pytest.raises(StartError) as caught:
        await ServiceCenter(config).run()
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


async def test_a_taken_port_is_named(folder):
    async with running(first := a_center(folder)):
        second = a_center(folder, server__port=first.port, store__path="other.db")
        with pytest.raises(StartError) as caught:
            await second.run()
    assert f"cannot listen on 127.0.0.1 port {first.port}: Address already in use" in str(
        caught.value
    )


async def test_a_disk_that_is_nearly_full_is_said(folder, caplog):
    center = a_center(folder, store__min_free="1000000GB")
    async with running(center):
        while "less than store.min_free (1000000000 MB)" not in caplog.text:
            await trio.lowlevel.checkpoint()


async def test_base_stations_that_an_earlier_process_knew_are_announced_as_offline(folder):
    async with (
        running(center := a_center(folder)),
        station_of(folder, center),
        station_of(folder, center, eui=SOUTH) as station,
    ):
        await station.wait_online()
        while len(center.registry.connected) < 2:
            await trio.lowlevel.checkpoint()
    async with running(center := a_center(folder)), station_of(folder, center) as station:
        await station.wait_online()
        while not center.registry.connected:
            await trio.lowlevel.checkpoint()
        states = {topic: json.loads(body)["state"] for topic, body, _ in center._announcements()}
    assert states == {
        "mioty/state": "online",
        f"mioty/bs/{NORTH:016X}/state": "online",
        f"mioty/bs/{SOUTH:016X}/state": "offline",
    }


# --- an own sink ---


class Sink:
    """Keeps uplinks; while `is_full` it takes none."""

    def __init__(self, *, is_full=False):
        self.is_full = is_full
        self.uplinks: list[Uplink] = []
        self.refused: list[Uplink] = []

    async def __call__(self, uplink):
        await trio.lowlevel.checkpoint()
        if self.is_full:
            self.refused.append(uplink)
            raise OSError("full")
        self.uplinks.append(uplink)


def a_center_with(sink, folder, **settings):
    config = make_config(
        folder, server_eui=1, server_host="127.0.0.1", server_port=0, dedup_delay=0.05, **settings
    )
    return ServiceCenter(config, uplink_sink=sink)


async def test_a_sink_gets_uplinks_in_order_and_they_count_as_published(folder):
    center = a_center_with(sink := Sink(), folder)
    async with running(center), station_of(folder, center) as station:
        for cnt in range(1, 6):
            await station.send_uplink(uplink(cnt))
        await wait_until(lambda: len(sink.uplinks) == 5, "the sink has five")
        assert center.published == 5
        journal = await center.journal()
    async with running(again := a_center_with(Sink(), folder)):
        shown = await again.uplinks()
    assert (journal["unpublished"], journal["state"]) == (0, "ok")
    first = sink.uplinks[0]
    assert (first.ep_eui, first.bs_eui, first.data) == (END_POINT, NORTH, bytes((17, 50)))
    assert [each.packet_cnt for each in sink.uplinks] == [1, 2, 3, 4, 5]
    assert [each["id"] for each in reversed(shown)] == [each.id for each in sink.uplinks]
    assert None not in [each["published"] for each in shown]


async def test_what_a_sink_did_not_take_comes_after_the_next_start_under_its_id(folder):
    center = a_center_with(full := Sink(is_full=True), folder)
    async with running(center), station_of(folder, center) as station:
        await station.send_uplink(uplink(1))
        await station.send_uplink(uplink(2))
        await wait_until(lambda: full.refused, "the sink has refused")
        assert center.published == 0
        assert (await center.journal())["unpublished"] >= 1
    again = a_center_with(sink := Sink(), folder)
    async with running(again):
        await wait_until(lambda: len(sink.uplinks) == 2, "the sink has two")
    assert [each.packet_cnt for each in sink.uplinks] == [1, 2]
    assert sink.uplinks[0] == full.refused[0]
    third = a_center_with(empty := Sink(), folder)
    async with running(third):
        pass
    assert empty.uplinks == []


async def test_what_was_taken_is_with_the_sink_when_the_service_has_stopped(folder):
    center = a_center_with(sink := Sink(), folder)
    async with running(center), station_of(folder, center) as station:
        for cnt in range(1, 21):
            await station.send_uplink(uplink(cnt))
    assert [each.packet_cnt for each in sink.uplinks] == list(range(1, 21))


@pytest.mark.broker
@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")
async def test_with_broker_and_sink_an_uplink_is_published_when_both_have_it(folder):
    broker = Mosquitto(folder)
    center = a_center_with(
        sink := Sink(is_full=True),
        folder,
        mqtt_enabled=True,
        mqtt_host="127.0.0.1",
        mqtt_port=broker.port,
        mqtt_reconnect_max=0.1,
    )
    async with running(center), station_of(folder, center) as station:
        sink.is_full = False
        await station.send_uplink(uplink(1))
        await wait_until(lambda: sink.uplinks, "the sink has one")
        assert (center.published, (await center.journal())["unpublished"]) == (0, 1)
        await trio.to_thread.run_sync(broker.start)
        try:
            await wait_until(lambda: center.published == 1, "the broker has it, too")
            sink.is_full = True
            await station.send_uplink(uplink(2))
            await wait_until(lambda: center._broker.published == 2, "the broker has two")
            await wait_until(lambda: sink.refused, "the sink has refused")
            assert center.published == 1
            sink.is_full = False
            await wait_until(lambda: center.published == 2, "the sink has it, too")
        finally:
            broker.kill()
    assert [each.packet_cnt for each in sink.uplinks] == [1, 2]
