"""Our base station against our Service Center over real TLS, on a line that breaks at any byte."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from bssci.core.center.rpc import NoAnswerError, RequestError
from bssci.core.protocol.keys import session_key
from bssci.core.protocol.messages import DownlinkDataQueue, UplinkData, VmUplinkData
from bssci.core.runtime.config import load_config
from bssci.core.runtime.service import ServiceCenter
from bssci.core.runtime.station import Identity, StationSettings, open_station
from bssci.core.runtime.station_events import Request
from bssci.core.runtime.tls import client_context
from tests.processes import wait_until
from tests.test_every_message import (
    END_POINT,
    KEY,
    NOON,
    REPORTS,
    SENSORS,
    SERVED,
    STATION,
    Gateway,
    attach,
)
from tests.test_every_message import folder as a_folder  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bssci.core.runtime.station_events import StationEvent

VM_DOWNLINK: dict[str, Any] = {
    "mac_type": 1,
    "data": "2c",
    "trx_time": 1,
    "sys_time": NOON,
    "freq_off": 0.0,
    "ul_snr": 10.0,
    "ul_rssi": -90.0,
    "carr_off_range": 1,
    "carr_space": 1,
    "ul_crc": [1, 2],
    "sync_burst": False,
    "dual_chan": False,
    "repetition": False,
    "long_blk_dist": False,
}

PATIENCE = 120.0  # seconds for a whole test
UPLINKS = 30
DOWNLINKS = 8


class Line:
    """A TCP connection between the two that breaks after a while, as long as it is to."""

    def __init__(self, port: int, chance: random.Random) -> None:
        self.is_breaking = True
        self.cuts = 0
        self._port = port
        self._chance = chance

    async def carry(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", self._port)
        # Somewhere between the middle of the first handshake and some dozen operations.
        left = self._chance.randrange(500, 12_000)
        async with near, far, trio.open_nursery() as nursery:

            async def pump(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
                nonlocal left
                while data := await source.receive_some(2_000):
                    if self.is_breaking and len(data) >= left:
                        await sink.send_all(data[:left])
                        self.cuts += 1
                        break
                    left -= len(data)
                    await sink.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(pump, near, far)
            nursery.start_soon(pump, far, near)

    async def serve(self, *, task_status: trio.TaskStatus[int]) -> None:
        async def carry(stream: trio.SocketStream) -> None:
            try:
                await self.carry(stream)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, carry, 0, host="127.0.0.1"))
            task_status.started(listener.socket.getsockname()[1])


class Watched(Gateway):
    """Remembers how often it was told to queue what, and what it has sent."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: Counter[int] = Counter()
        self.sent: Counter[int] = Counter()

    def __call__(self, event: StationEvent) -> None:
        match event:
            case Request(message=DownlinkDataQueue(que_id=que_id)):
                self.queued[que_id] += 1
        super().__call__(event)

    def window(self, uplink: UplinkData) -> list[Any]:
        reports = self.open_window(uplink, tx_time=NOON)
        self.sent.update(each.que_id for each in reports if hasattr(each, "que_id"))
        return reports


@asynccontextmanager
async def broken_line(folder, seed) -> AsyncIterator[Any]:
    chance = random.Random(seed)
    certs = folder / "certs"
    context = client_context(
        cert_file=certs / "station.pem",
        key_file=certs / "station.key",
        ca_file=certs / "ca_cert.pem",
    )
    center = ServiceCenter(load_config(folder / "sc.toml", environ={}))
    gateway = Watched()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(center.run)
            line = Line(center.port, chance)
            port = await nursery.start(line.serve)
            async with open_station(
                ("127.0.0.1", port),
                identity=Identity(eui=STATION),
                ssl_context=context,
                take=gateway,
                settings=StationSettings(reconnect_min=0.01, reconnect_max=0.05, idle_ping=0.2),
            ) as station:
                yield center, station, gateway, line
            center.stop()
            await center.stopped()
            nursery.cancel_scope.cancel()


def uplink(cnt: int, *, is_heard: bool) -> UplinkData:
    return UplinkData(
        ep_eui=SERVED,
        rx_time=NOON + cnt * 10_000_000_000,
        packet_cnt=cnt,
        snr=10.0,
        rssi=-90.0,
        user_data=bytes((cnt,)),
        dl_open=True,
        response_exp=False,
        dl_ack=is_heard,
    )


async def whole(center: ServiceCenter, ep_eui: int) -> list[dict[str, Any]]:
    return await center.uplinks(ep_eui=ep_eui, count=1000)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_breaks_every_operation_comes_to_its_end_once(a_folder, seed):  # noqa: F811
    """Uplinks once each, downlinks sent once with one result each, attaches as they are wanted."""
    results: dict[int, list[str]] = {}
    async with broken_line(a_folder, seed) as (center, station, gateway, line):
        with center.notices.watch() as notices:
            for eui, sensor in SENSORS.items():
                await center.sensors.add(eui=f"{eui:016X}", wait=0.0, **sensor)
            for number in range(DOWNLINKS):
                await center.downlinks.send_method(eui=f"{SERVED:016X}", data=[number])
            answer = await station.send(attach(END_POINT))
            assert answer.nwk_sn_key == session_key(KEY, END_POINT, b"nonc", attach(END_POINT).sign)
            await wait_until(lambda: SERVED in gateway.end_points, "it is told of the sensor")
            was_sent, report = False, REPORTS[5]
            assert isinstance(report, VmUplinkData)
            for cnt in range(1, UPLINKS + 1):
                said = uplink(cnt, is_heard=was_sent)
                await station.send_uplink(said)
                reports = gateway.window(said)
                was_sent = bool(reports)
                for each in reports:
                    await station.send(each)
                if cnt % 6 == 0:
                    await station.send_uplink(replace(report, user_data=bytes((cnt,))))
            await station.send(REPORTS[2])
            line.is_breaking = False
            await wait_until(lambda: not any(center.downlinks.counts().values()), "all are sent")
            await wait_until(lambda: center.counts["released"] == UPLINKS, "all are settled")
            await wait_until(lambda: center.life.lifecycle.is_settled(STATION), "it is told all")
            listed = await center.downlinks.list_method(count=100)
            uplinks = await whole(center, SERVED)
            with suppress(trio.WouldBlock):
                while True:
                    notice = notices.receive_nowait()
                    if notice.kind == "downlink":
                        results.setdefault(notice.data["id"], []).append(notice.data["event"])
                    assert notice.kind != "gap"
            served = set(gateway.end_points)
    assert line.cuts > 3
    assert sorted(each["cnt"] for each in uplinks) == list(range(1, UPLINKS + 1))
    assert served == {SERVED}
    assert set(gateway.sent.values()) == {1}
    assert sorted(gateway.sent) == sorted(each["id"] for each in listed)
    assert {each["state"] for each in listed} <= {"sent", "acknowledged"}
    for told in results.values():
        ended = [event for event in told if event not in ("at_station", "acknowledged")]
        assert ended == ["queued", "sent"]


async def answered(ask: Any) -> Any:
    """What it gives in the end, however often the line breaks before the answer is there."""
    while True:
        try:
            return await ask()
        except RequestError as error:
            if not isinstance(error, NoAnswerError) and "not connected" not in str(error):
                raise
        await trio.sleep(0.01)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_breaks_the_service_center_gets_its_answers(a_folder, seed):  # noqa: F811
    station_eui, sensor = f"{STATION:016X}", f"{SERVED:016X}"
    async with broken_line(a_folder, seed) as (center, station, gateway, line):
        radio, downlinks = center.radio, center.downlinks
        await center.sensors.add(eui=sensor, wait=0.0, **SENSORS[SERVED])
        await wait_until(lambda: SERVED in gateway.end_points, "it is told of the sensor")
        await station.send_uplink(uplink(1, is_heard=False))
        mac_types = []
        for number in range(6):
            on = partial(radio.vm_activate, eui=station_eui, mac_type=number)
            off = partial(radio.vm_deactivate, eui=station_eui, mac_type=number)
            await answered(on)
            asked = await answered(partial(radio.vm_status, eui=station_eui))
            mac_types.append(asked["mac_types"])
            await answered(off)
            await answered(partial(radio.transmit, eui=station_eui, sensor=sensor, data="0102"))
            await answered(partial(radio.vm_send, eui=station_eui, **VM_DOWNLINK))
            sent = await downlinks.send_method(eui=sensor, data=[number], query_rx=True)
            await wait_until(lambda: downlinks.counts()["at_station"], "it is at the base station")
            (ended,) = await downlinks.cancel_method(id=sent["id"], timeout=60.0)
            assert ended["state"] == "revoked"
        line.is_breaking = False
        kept, queried = gateway.downlinks.get(SERVED, {}), set(gateway._queried)
    assert line.cuts > 3
    assert mac_types == [[number] for number in range(6)]
    assert (kept, gateway.sent) == ({}, {})
    assert queried == {SERVED}
