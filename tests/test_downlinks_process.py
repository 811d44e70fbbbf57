"""Two-way put to the test: `bssci serve` as a process, a real broker, base stations over real TLS.

The base stations are those of the library. What they do not do by themselves is the radio: here an
end point is heard when a test says so, and its window is used when a test says so.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from bssci.core.protocol.errors import OperationRefusedError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.keys import attach_signature, session_key
from bssci.core.protocol.messages import (
    Attach,
    AttachPropagate,
    AttachResponse,
    Detach,
    DetachPropagate,
    DetachResponse,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
    Message,
    UplinkData,
)
from bssci.core.runtime.client import open_client
from bssci.core.runtime.holdings import Holdings
from bssci.core.runtime.station import Identity, Station, StationSettings, open_station
from bssci.core.runtime.station_events import Online, Request
from tests.broker import MOSQUITTO, Mosquitto
from tests.processes import (
    FIRST_STATION,
    HOST,
    PATIENCE,
    Ledger,
    Service,
    Site,
    bssci,
    content,
    open_service,
    open_subscriber,
    publish,
    wait_until,
)
from tests.test_examples import heard as typed_uplink
from tests.test_examples import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bssci.core.runtime.station_events import StationEvent

pytestmark = [
    pytest.mark.process,
    pytest.mark.broker,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto"),
]

SENSOR, METER = 0x70B3D59CD1000001, 0x70B3D59CD1000002
EUI, METER_EUI = format_eui(SENSOR), format_eui(METER)
KEY = "00112233445566778899AABBCCDDEEFF"
FIRST, SECOND = format_eui(FIRST_STATION), format_eui(FIRST_STATION + 1)
EPROTO = 71

# Base stations are back soon after a kill.
SETTINGS = StationSettings(reconnect_min=0.05, reconnect_max=0.2)


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


# --- base stations, and the air they share -------------------------------------------------


class Air:
    """What has been on the air, and what must never be.

    Attributes:
        gateways: the base stations.
        sent: how often each downlink was transmitted, by its queue ID.
        faults: what the Service Center must never do.
    """

    def __init__(self) -> None:
        self.gateways: list[Gateway] = []
        self.sent: Counter[int] = Counter()
        self.faults: list[str] = []

    def look(self) -> None:
        """No downlink is at two base stations."""
        held = Counter(que_id for each in self.gateways for que_id in each.held())
        self.faults += [f"downlink {que_id} is at two" for que_id, n in held.items() if n > 1]


class Gateway:
    """A base station of the library; `connected` as long as it is there.

    Attributes:
        holdings: what it holds, and its answers.
        told: what it was asked, in order.
        is_mute: it takes what it is asked, and answers nothing.
    """

    def __init__(self, site: Site, port: int, eui: int, air: Air) -> None:
        self.eui = eui
        self.holdings = Holdings()
        self.told: list[Message] = []
        self.is_mute = False
        self.station: Station
        self._air = air
        self._port = port
        self._context = site.context(eui)
        air.gateways.append(self)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        async with open_station(
            (HOST, self._port),
            identity=Identity(eui=self.eui),
            ssl_context=self._context,
            take=self._take,
            settings=SETTINGS,
        ) as self.station:
            await self.wait_online()
            yield

    async def wait_online(self) -> None:
        with trio.fail_after(PATIENCE):
            await self.station.wait_online()

    def _take(self, event: StationEvent) -> None:
        if isinstance(event, Request):
            self.told.append(event.message)
            if self.is_mute:
                return
        self.holdings(event)
        self._air.look()
        if isinstance(event, Online) and not event.resumed:
            self.told.clear()

    def held(self) -> list[int]:
        """The queue IDs of what it has to transmit."""
        return [que_id for each in self.holdings.downlinks.values() for que_id in each]

    def asked(self, *kinds: type[Message]) -> list[tuple[str, int]]:
        """Which operations on which downlinks it was asked for, in order."""
        return [
            (each.command, getattr(each, "que_id", 0)) for each in self.told if type(each) in kinds
        ]

    async def wait_held(self, *que_ids: int) -> None:
        await wait_until(
            lambda: set(que_ids) <= set(self.held()), f"{que_ids} at {format_eui(self.eui)}"
        )

    async def hear(self, cnt: int, **fields: Any) -> UplinkData:
        """An uplink with a window was received; the Service Center has it."""
        uplink = uplink_of(cnt, **fields)
        await self.deliver(uplink)
        return uplink

    async def deliver(self, message: Message) -> Message:
        with trio.fail_after(PATIENCE):
            return await self.station.send(message)

    async def use_window(self, uplink: UplinkData) -> list[int]:
        """Transmit what there is in an uplink's window, and report it; which downlinks."""
        reports = self.holdings.open_window(uplink, tx_time=time.time_ns())
        sent = [
            each.que_id
            for each in reports
            if isinstance(each, DownlinkDataResult) and each.result == "sent"
        ]
        self._air.sent.update(sent)
        for report in reports:
            await self.deliver(report)
        return sent


def uplink_of(cnt: int, **fields: Any) -> UplinkData:
    ep_eui = fields.get("ep_eui", SENSOR)
    known: dict[str, Any] = {
        "ep_eui": ep_eui,
        "rx_time": time.time_ns(),
        "packet_cnt": cnt,
        "snr": 12.0,
        "rssi": -101.5,
        "user_data": content(ep_eui, cnt),
        "dl_open": True,
        "response_exp": False,
        "dl_ack": False,
    }
    return UplinkData(**(known | fields))


# --- the service around them ---------------------------------------------------------------


class Scene:
    """Service, base stations, and a subscriber to everything."""

    def __init__(self, service: Service, broker: Mosquitto, air: Air, ledger: Ledger) -> None:
        self.service = service
        self.air = air
        self.ledger = ledger
        self.port = broker.port
        self.socket = service.site.folder / "state" / "control.sock"

    async def call(self, method: str, **parameters: object) -> Any:
        with trio.fail_after(PATIENCE):
            async with open_client(self.socket) as client:
                return await client.call(method, **parameters)

    async def register(self, eui: str = EUI, **parameters: object) -> None:
        await self.call("sensors.add", eui=eui, key=KEY, **({"bidi": True} | parameters))

    async def publish(self, body: object, *, eui: str = EUI) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        await publish(self.port, f"mioty/ep/{eui}/dl", payload)

    async def told(self, number: int, *, eui: str = EUI) -> list[dict[str, Any]]:
        """The first results on MQTT, without their times."""
        topic = f"mioty/ep/{eui}/dl/status"
        await wait_until(
            lambda: len(self.ledger.bodies(topic)) >= number, f"{number} results on {topic}"
        )
        return [
            {name: value for name, value in body.items() if name not in ("timestamp", "txTime")}
            for body in self.ledger.bodies(topic)
        ]

    async def states(self) -> dict[int, str]:
        return {each["id"]: each["state"] for each in await self.call("downlinks.list")}

    async def run(self, *arguments: object, code: int = 0) -> Any:
        """What a command gives with --json."""
        service = self.service
        done = await trio.to_thread.run_sync(
            lambda: bssci(
                *arguments, "--json", "-c", service.site.config, typed=None, **service.settings
            )
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return json.loads(done.stdout)

    async def kill(self) -> None:
        """As power loss does it, and started again; the base stations are back."""
        await self.service.kill()
        await self.service.start()
        for gateway in self.air.gateways:
            await gateway.wait_online()


@asynccontextmanager
async def scene(
    site: Site, broker: Mosquitto, number: int = 1, **settings: object
) -> AsyncIterator[tuple[Scene, list[Gateway]]]:
    ledger, air = Ledger(), Air()
    settings = {"mqtt_port": broker.port, "dedup_delay": 0.1} | settings
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(site, **settings))
        await stack.enter_async_context(open_subscriber(broker.port, ledger))
        gateways = [Gateway(site, service.port, FIRST_STATION + i, air) for i in range(number)]
        for gateway in gateways:
            await stack.enter_async_context(gateway.connected())
        await wait_until(lambda: ledger.bodies("mioty/state"), "the service is at the broker")
        yield Scene(service, broker, air, ledger), gateways
        assert air.faults == []


# --- a downlink's way ----------------------------------------------------------------------


async def test_a_downlink_by_mqtt_goes_its_whole_way(site, broker):
    async with scene(site, broker) as (there, (gateway,)):
        await there.register()
        await there.publish({"data": "4f4b", "ref": "order 7"})
        await there.told(1)
        assert gateway.held() == []

        uplink = await gateway.hear(1)
        await wait_until(gateway.held, "it is on the wire")
        (number,) = await gateway.use_window(uplink)
        await there.told(2)
        await gateway.hear(2, dl_ack=True)

        head = {"id": number, "ref": "order 7", "sensor_eui": EUI}
        sent = {"bs_eui": FIRST, "cnt": 1}
        assert await there.told(3) == [
            head | {"result": "queued"},
            head | sent | {"result": "sent"},
            head | sent | {"result": "acknowledged"},
        ]
        times = [
            body["txTime"]
            for body in there.ledger.bodies(f"mioty/ep/{EUI}/dl/status")
            if "txTime" in body
        ]
        (shown,) = await there.call("downlinks.list")
        assert [shown["result"]["tx_time"] * 1e9] * 2 == pytest.approx(times)
        (queued,) = [each for each in gateway.told if isinstance(each, DownlinkDataQueue)]
        assert (queued.que_id, queued.user_data, queued.cnt_depend) == (number, (b"OK",), False)


async def test_everything_that_can_be_said_of_a_downlink_reaches_the_base_station(site, broker):
    async with scene(site, broker) as (there, (gateway,)):
        await there.register()
        await gateway.hear(1)
        await there.publish(
            {
                "entries": [{"cnt": 8, "data": [1, 2]}, {"cnt": 9, "data": ""}],
                "prio": 2.5,
                "format": 7,
                "responseExp": True,
                "responsePrio": True,
                "dlWindReq": True,
                "expOnly": True,
                "queryRx": True,
                "expires_in": 60,
                "ref": 7,
            }
        )
        await wait_until(gateway.held, "it is on the wire")
        queued = gateway.told[-1]
        assert isinstance(queued, DownlinkDataQueue)
        assert queued == DownlinkDataQueue(
            op_id=queued.op_id,
            ep_eui=SENSOR,
            que_id=queued.que_id,
            cnt_depend=True,
            packet_cnt=(8, 9),
            user_data=(b"\x01\x02", b""),
            format=7,
            prio=2.5,
            response_exp=True,
            response_prio=True,
            dl_wind_req=True,
            exp_only=True,
        )
        assert gateway.told[-2].command == "dlRxStatQry"

        status = f"mioty/ep/{EUI}/status"
        await gateway.use_window(await gateway.hear(9, response_exp=True))
        await wait_until(
            lambda: (
                there.ledger.bodies(status)[-1:]
                and there.ledger.bodies(status)[-1]["action"] == "downlink_reception"
            ),
            "how it was received is told",
        )
        body = there.ledger.bodies(status)[-1]
        assert (body["cnt"], body["snr"], body["rssi"]) == (9, 12.0, -101.5)
        shown = await there.call("sensors.get", eui=EUI)
        assert shown["downlink_reception"]["bs_eui"] == FIRST


BAD: list[tuple[dict[str, object], int, str]] = [
    ({"data": "00" * 201}, 22, "data: has 201 bytes, at most 200 are possible"),
    ({"data": "4f4g"}, 22, "data: 1 of its characters are no hexadecimal digits"),
    (
        {"data": "4f", "entries": [{"cnt": 1, "data": "4f"}]},
        22,
        "data and entries are both given, one of them is expected",
    ),
    ({"prio": 1}, 22, "data is missing, or entries"),
    (
        {"data": "", "expires_in": -1},
        22,
        "expires_in: found -1, seconds above 0 and at most 2592000 are expected",
    ),
    ({"data": "", "colour": 1}, 22, "'colour' is no parameter of a downlink"),
]


async def test_every_bad_downlink_by_mqtt_is_answered(site, broker):
    async with scene(site, broker, downlinks_max_per_sensor=2) as (there, (gateway,)):
        await there.register()
        await there.register(METER_EUI, bidi=False)
        for number, (body, _, _) in enumerate(BAD):
            await there.publish(body | {"ref": number})
            await there.told(number + 1)
        assert await there.told(len(BAD)) == [
            {
                "id": None,
                "ref": number,
                "result": "rejected",
                "sensor_eui": EUI,
                "error": error,
                "code": code,
            }
            for number, (_, code, error) in enumerate(BAD)
        ]

        await there.publish(b"4f4b")
        (*_, no_json) = await there.told(len(BAD) + 1)
        assert (no_json["id"], no_json["result"], no_json["code"]) == (None, "rejected", 22)

        for number in range(3):
            await there.publish({"data": "", "ref": number})
            await there.told(len(BAD) + 2 + number)
        (*_, first, second, third) = await there.told(len(BAD) + 4)
        assert [first["result"], second["result"]] == ["queued", "queued"]
        assert third == {
            "id": None,
            "ref": 2,
            "result": "rejected",
            "sensor_eui": EUI,
            "error": f"2 downlinks wait for sensor {EUI} already, at most 2 are possible "
            "(downlinks.max_per_sensor)",
            "code": 11,
        }

        unknown = format_eui(SENSOR + 99)
        for eui in (METER_EUI, unknown):
            await there.publish({"data": ""}, eui=eui)
        (deaf,) = await there.told(1, eui=METER_EUI)
        (stranger,) = await there.told(1, eui=unknown)
        assert [(each["result"], each["code"], each["error"]) for each in (deaf, stranger)] == [
            ("rejected", 22, f"sensor {METER_EUI} cannot receive: it is not bidirectional"),
            ("rejected", 2, f"sensor {unknown} is not registered"),
        ]
        assert len(await there.states()) == 2
        assert gateway.asked(DownlinkDataQueue) == []


async def test_the_command_line_sends_lists_and_cancels(site, broker):
    async with scene(site, broker) as (there, (gateway,)):
        await there.register()
        await gateway.hear(1)
        done: list[Any] = []

        async def send():
            shape = await there.run("downlinks", "send", EUI, "01ff", "--ref", "a", "--wait", "15")
            done.append(shape)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_until(gateway.held, "it is on the wire")
            (first,) = await gateway.use_window(await gateway.hear(2))
        (sent,) = done
        assert (sent["id"], sent["state"], sent["ref"]) == (first, "sent", "a")
        assert (sent["result"]["bs_eui"], sent["result"]["cnt"]) == (FIRST, 2)

        waiting = await there.run("downlinks", "send", EUI, "02", "--wait", "0", code=4)
        await gateway.wait_held(waiting["id"])
        assert [
            (each["id"], each["state"], each["bs_eui"], each["data"])
            for each in await there.run("downlinks", "list", "--sensor", EUI)
        ] == [(waiting["id"], "at_station", FIRST, [2]), (first, "sent", FIRST, [1, 255])]

        cancel = "downlinks", "cancel", waiting["id"], first, 99
        dropped, kept, unknown = await there.run(*cancel, code=6)
        assert (dropped["state"], dropped["bs_eui"], kept["state"]) == ("revoked", FIRST, "sent")
        assert unknown == {"id": 99, "error": "there is no downlink 99"}
        assert gateway.held() == []


# --- kills ---------------------------------------------------------------------------------


async def test_after_a_kill_nothing_is_lost_or_sent_twice(site, broker):
    """At a base station, on its way there, and not yet routed."""
    async with scene(site, broker) as (there, (gateway,)):
        await there.register()
        await there.register(METER_EUI)
        await gateway.hear(1)
        held = (await there.call("downlinks.send", eui=EUI, data="01"))["id"]
        await gateway.wait_held(held)
        gateway.is_mute = True
        on_way = (await there.call("downlinks.send", eui=EUI, data="02"))["id"]
        await wait_until(
            lambda: ("dlDataQue", on_way) in gateway.asked(DownlinkDataQueue), "it is on its way"
        )
        waits = (await there.call("downlinks.send", eui=METER_EUI, data="03"))["id"]

        await there.service.kill()
        gateway.is_mute = False
        await there.service.start()
        await gateway.wait_held(held, on_way)

        assert gateway.station.resumes == 1
        assert gateway.asked(DownlinkDataQueue) == [
            ("dlDataQue", held),
            ("dlDataQue", on_way),
            ("dlDataQue", on_way),
        ]
        first, again = [
            each
            for each in gateway.told
            if isinstance(each, DownlinkDataQueue) and each.que_id == on_way
        ]
        assert first == again
        for cnt in (2, 3, 4):
            await gateway.use_window(await gateway.hear(cnt))
        meter = await gateway.hear(1, ep_eui=METER)
        await gateway.wait_held(waits)
        await gateway.use_window(meter)
        assert there.air.sent == {held: 1, on_way: 1, waits: 1}
        assert await there.states() == {held: "sent", on_way: "sent", waits: "sent"}
        assert (await there.call("downlinks.send", eui=EUI, data="04"))["id"] > waits


async def test_a_result_that_came_to_a_dying_service_is_not_lost(site, broker):
    async with scene(site, broker) as (there, (gateway,)):
        await there.register()
        uplink = await gateway.hear(1)
        number = (await there.call("downlinks.send", eui=EUI, data="01"))["id"]
        await gateway.wait_held(number)
        with there.service.paused():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(gateway.use_window, uplink)
                await wait_until(lambda: there.air.sent, "it is transmitted")
                await there.service.kill()
                await there.service.start()
        assert there.air.sent == {number: 1}
        assert await there.states() == {number: "sent"}


async def test_kill_after_kill_with_two_base_stations_each_is_sent_once(site, broker):
    """The sensor is heard by one, by the other, or by both; the service dies now and then."""
    async with scene(site, broker, 2) as (there, gateways):
        await there.register()
        queued = [
            (await there.call("downlinks.send", eui=EUI, data=f"{each:02x}"))["id"]
            for each in range(8)
        ]
        for cnt in range(1, 17):
            hearing = [gateways[cnt // 3 % 2]] if cnt % 3 else gateways
            await hear_at(hearing, cnt)
            if cnt % 5 == 0:
                await there.kill()
            for gateway in hearing:
                await gateway.use_window(uplink_of(cnt))
        cnt = 17
        with trio.fail_after(2 * PATIENCE):
            while set((await there.states()).values()) > {"sent"} or len(there.air.sent) < 8:
                await hear_at(gateways[:1], cnt)
                await gateways[0].use_window(uplink_of(cnt))
                cnt += 1
        assert there.air.sent == dict.fromkeys(queued, 1)
        assert await there.states() == dict.fromkeys(queued, "sent")


async def hear_at(gateways: list[Gateway], cnt: int) -> None:
    async with trio.open_nursery() as nursery:
        for gateway in gateways:
            nursery.start_soon(partial(gateway.hear, cnt))


# --- two base stations ---------------------------------------------------------------------


async def test_a_downlink_is_at_one_base_station_and_follows_the_sensor(site, broker):
    async with scene(site, broker, 2) as (there, (first, second)):
        await there.register()
        await first.hear(1, snr=3.0)
        await second.hear(1, snr=9.0)
        number = (await there.call("downlinks.send", eui=EUI, data="01"))["id"]
        await second.wait_held(number)
        assert first.held() == []

        await first.hear(2)
        await first.wait_held(number)
        assert second.held() == []
        assert second.asked(DownlinkDataQueue, DownlinkDataRevoke) == [
            ("dlDataQue", number),
            ("dlDataRev", number),
        ]
        (shown,) = await there.call("downlinks.list")
        assert (shown["state"], shown["bs_eui"]) == ("at_station", FIRST)
        assert await first.use_window(uplink_of(3)) == [number]
        assert second.asked(DownlinkDataQueue) == [("dlDataQue", number)]


async def test_what_is_at_a_base_station_that_is_away_waits_until_its_new_session(site, broker):
    ledger, air = Ledger(), Air()
    async with open_service(site, mqtt_port=broker.port, dedup_delay=0.1) as service:
        there = Scene(service, broker, air, ledger)
        first = Gateway(site, service.port, FIRST_STATION, air)
        second = Gateway(site, service.port, FIRST_STATION + 1, air)
        async with second.connected():
            async with first.connected():
                await there.register()
                await first.hear(1)
                number = (await there.call("downlinks.send", eui=EUI, data="01"))["id"]
                await first.wait_held(number)
            await second.hear(2)
            uplinks = partial(there.call, "uplinks.list", sensor=EUI)
            with trio.fail_after(PATIENCE):
                while len(await uplinks()) < 2:
                    await trio.lowlevel.checkpoint()
            assert await there.states() == {number: "at_station"}
            assert second.asked(DownlinkDataQueue) == []
            async with first.connected():
                await second.wait_held(number)
                assert first.asked(DownlinkDataQueue) == []
        assert air.faults == []


async def test_after_an_attach_propagate_it_is_queued_again_under_its_id(site, broker):
    async with scene(site, broker) as (there, (gateway,)):
        await there.register()
        await gateway.hear(1, dl_open=False)
        number = (await there.call("downlinks.send", eui=EUI, data="01"))["id"]
        await gateway.wait_held(number)
        await there.call("sensors.set", eui=EUI, short_addr="4711")
        await wait_until(
            lambda: gateway.asked(DownlinkDataQueue) == [("dlDataQue", number)] * 2,
            "it is queued again",
            within=60,
        )
        assert gateway.held() == [number]


# --- over the air --------------------------------------------------------------------------

NONCE = b"\x01\x02\x03\x04"


def attach_of(cnt: int, **fields: Any) -> Attach:
    ep_eui = fields.get("ep_eui", SENSOR)
    known: dict[str, Any] = {
        "ep_eui": ep_eui,
        "rx_time": time.time_ns(),
        "attach_cnt": cnt,
        "snr": 12.0,
        "rssi": -101.5,
        "nonce": NONCE,
        "sign": attach_signature(bytes.fromhex(KEY), ep_eui, cnt),
        "dual_chan": True,
        "repetition": False,
        "wide_carr_off": False,
        "long_blk_dist": False,
    }
    return Attach(**(known | fields))


def derived(cnt: int) -> bytes:
    key = bytes.fromhex(KEY)
    return session_key(key, SENSOR, NONCE, attach_signature(key, SENSOR, cnt))


def propagated(gateway: Gateway) -> list[bytes]:
    """The session keys that it was told of the sensor."""
    return [each.nwk_sn_key for each in gateway.told if isinstance(each, AttachPropagate)]


async def published(there: Scene, *counters: int) -> None:
    """The uplinks on MQTT are those with these counters."""
    await wait_until(
        lambda: len(there.ledger.uplinks) == len(counters), f"{len(counters)} uplinks on MQTT"
    )
    assert [each.body["cnt"] for each in there.ledger.uplinks] == list(counters)
    assert len({each.body["id"] for each in there.ledger.uplinks}) == len(counters)


async def test_a_sensor_attaches_and_detaches_over_the_air(site, broker):
    async with scene(site, broker, 2) as (there, (first, second)):
        await there.register(ota=True, short_addr="1234")
        assert (propagated(first), propagated(second)) == ([], [])

        answer = await first.deliver(attach_of(1))
        assert isinstance(answer, AttachResponse)
        assert (answer.nwk_sn_key, answer.sh_addr) == (derived(1), 0x1234)
        await wait_until(lambda: propagated(second) == [derived(1)], "the other one is told")
        for cnt in (1, 2):
            await first.hear(cnt)
        await published(there, 1, 2)

        # It has lost its counters: it attaches anew and begins with them again.
        answer = await second.deliver(attach_of(2))
        assert isinstance(answer, AttachResponse)
        assert answer.nwk_sn_key == derived(2)
        await wait_until(lambda: propagated(first) == [derived(2)], "the first one is told")
        for cnt in (1, 2):
            await second.hear(cnt)
        await published(there, 1, 2, 1, 2)

        await there.publish({"data": "01", "ref": "late"})
        await there.told(1)
        gone = Detach(
            ep_eui=SENSOR,
            rx_time=time.time_ns(),
            packet_cnt=3,
            snr=12.0,
            rssi=-101.5,
            sign=b"\xde\xad\xbe\xef",
        )
        farewell = await second.deliver(gone)
        assert isinstance(farewell, DetachResponse)
        assert farewell.sign == gone.sign
        await wait_until(
            lambda: any(isinstance(each, DetachPropagate) for each in first.told),
            "the first one is told",
        )
        status = f"mioty/ep/{EUI}/status"
        await wait_until(
            lambda: [b["action"] for b in there.ledger.bodies(status)][-1:] == ["detached"],
            "applications are told",
        )
        assert [b["action"] for b in there.ledger.bodies(status)] == [
            "attached",
            "attached",
            "detached",
        ]
        assert [each["result"] for each in await there.told(2)] == ["queued", "expired"]
        shown = await there.call("sensors.get", eui=EUI)
        assert (shown["wanted"], shown["activity"]) == ("detached", "detached")
        assert KEY not in there.service.text()


async def test_what_is_refused_over_the_air_is_told_and_counted(site, broker):
    async with scene(site, broker) as (there, (gateway,)), open_client(there.socket) as client:
        await there.register(ota=True)
        async with client.subscribe(["sensor"]) as events:
            await gateway.deliver(attach_of(7))
            refusals = []
            for attach in (
                attach_of(8, sign=b"\0\0\0\0"),
                attach_of(6),
                attach_of(1, ep_eui=METER),
            ):
                with pytest.raises(OperationRefusedError) as caught:
                    await gateway.deliver(attach)
                refusals.append((caught.value.code, caught.value.message))
            seen: list[Any] = []
            with trio.fail_after(PATIENCE):
                while len(seen) < 3:
                    data = (await events.receive()).data
                    if data["event"] == "attach_refused":
                        seen.append((data["eui"], data["code"], data["message"]))
        words = [
            f"the signature of the attach of end point {EUI} is wrong",
            f"end point {EUI} has used attach counter 6 before",
            f"end point {METER_EUI} is not known",
        ]
        assert refusals == [(EPROTO, each) for each in words]
        euis = [EUI, EUI, METER_EUI]
        assert seen == [(eui, EPROTO, message) for eui, message in zip(euis, words, strict=True)]
        assert (await there.run("status"))["over_the_air"] == {
            "attached": 1,
            "repeated": 0,
            "detached": 0,
            "refused": {"bad_signature": 1, "stale_counter": 1, "unknown_end_point": 1},
            "unknown_detached": 0,
        }


async def test_a_sensor_that_attached_over_the_air_gets_downlinks_where_it_did(site, broker):
    async with scene(site, broker, 2) as (there, (first, second)):
        await there.register(ota=True)
        answer = await second.deliver(attach_of(1))
        assert isinstance(answer, AttachResponse)
        await wait_until(lambda: propagated(first), "the other one is told")
        number = (await there.call("downlinks.send", eui=EUI, data="01"))["id"]
        await second.wait_held(number)
        assert first.asked(DownlinkDataQueue) == []


# --- an application, the service, and a gateway --------------------------------------------


async def test_an_application_answers_by_way_of_a_gateway(site, broker):
    folder = site.folder / "gateway"
    made = bssci("certs", "station", FIRST, "--out", folder, "-c", site.config)
    assert made.returncode == 0, made.stderr
    uplink = partial(typed_uplink, dl_open=True, response_exp=False)
    async with (
        open_service(site, mqtt_port=broker.port, dedup_delay=0.05) as service,
        running("mqtt_application.py", HOST, broker.port) as application,
        running(
            "downlink_gateway.py", HOST, service.port, FIRST, folder, site.folder / "spool.db"
        ) as gateway,
    ):
        await application.wait_for_line("subscribed")
        there = Scene(service, broker, Air(), Ledger())
        await there.register()
        await gateway.wait_told("attached")

        await gateway.type(uplink(1, response_exp=True))
        await application.wait_for_line(f"{EUI} 1 0001")
        await gateway.wait_told("queued")
        await gateway.type(uplink(2))
        (transmitted,) = await gateway.wait_told("transmitted")
        assert transmitted["data"] == b"OK".hex()
        await wait_until(
            lambda: [each for each in application.lines if each.endswith("sent ")],
            "the application knows",
        )
        await gateway.type(uplink(3, dl_ack=True))
        await wait_until(
            lambda: [each for each in application.lines if each.endswith("acknowledged ")],
            "it knows that it has arrived",
        )
        (shown,) = await there.call("downlinks.list")
    answers = [each for each in application.lines if " answer " in each]
    assert answers == [
        f"{EUI} answer {shown['ref']} {result} " for result in ("queued", "sent", "acknowledged")
    ]
    assert shown["state"] == "acknowledged"
