"""The sensors' life put to the test: `bssci serve` as a process, real commands, TLS and broker."""

from __future__ import annotations

import json
import sys
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.messages import AttachPropagate, DetachPropagate
from bssci.core.runtime.client import open_client
from tests.broker import MOSQUITTO, Mosquitto
from tests.processes import (
    FIRST_STATION,
    Ledger,
    Site,
    bssci,
    open_service,
    open_stations,
    open_subscriber,
    publish,
    telegram,
    wait_until,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.broker,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto"),
]

SENSOR = 0x70B3D59CD1000001
EUI = format_eui(SENSOR)
KEY = "00112233445566778899AABBCCDDEEFF"
FIRST, SECOND = format_eui(FIRST_STATION), format_eui(FIRST_STATION + 1)


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


@asynccontextmanager
async def scene(site, broker, stations=2, **settings):
    """Service, base stations and a subscriber, all connected."""
    ledger = Ledger()
    async with (
        open_service(site, mqtt_port=broker.port, **settings) as service,
        open_subscriber(broker.port, ledger),
        open_stations(service, stations) as connected,
    ):
        yield service, connected, ledger


async def run(service, *arguments, typed=None):
    """A command against the running service: exit code, output, messages."""
    done = await trio.to_thread.run_sync(
        lambda: bssci(*arguments, "-c", service.site.config, typed=typed, **service.settings)
    )
    return done.returncode, done.stdout, done.stderr


async def data(service, *arguments, typed=None):
    """What a command gives with --json."""
    code, output, messages = await run(service, *arguments, "--json", typed=typed)
    assert code == 0, messages
    return json.loads(output)


def was_resumed(station):
    return station.resumed == 1


async def said(ledger, topic, *statuses):
    """The bodies on a topic once the last one has this status, without their times."""

    def are_there():
        return [body.get("status") for body in ledger.bodies(topic)][-1:] == [statuses[-1]]

    await wait_until(are_there, f"{topic} says {statuses[-1]}")
    bodies = ledger.bodies(topic)
    assert [body["status"] for body in bodies] == list(statuses)
    return [{name: value for name, value in body.items() if name != "timestamp"} for body in bodies]


async def test_a_sensor_is_attached_and_detached_everywhere(site, broker):
    async with scene(site, broker) as (service, stations, ledger):
        added = await data(
            service, "sensors", "add", EUI, "--key", "-", "--name", "attic", typed=f"{KEY}\n"
        )
        assert added == {"eui": EUI, "confirmed": [FIRST, SECOND], "pending": [], "refused": []}
        assert [station.served[SENSOR].nwk_sn_key.hex().upper() for station in stations] == [
            KEY,
            KEY,
        ]

        shown = await data(service, "sensors", "show", "attic")
        assert shown["key"] == "****"
        assert shown["activity"] == "never_seen"
        assert [each["state"] for each in shown["stations"]] == ["confirmed", "confirmed"]

        code, output, _ = await run(service, "sensors", "detach", EUI.lower())
        assert code == 0
        assert KEY not in output
        assert [station.served for station in stations] == [{}, {}]

        status = f"mioty/ep/{EUI}/status"
        await wait_until(lambda: len(ledger.bodies(status)) == 2, "both are announced")
        assert [body["action"] for body in ledger.bodies(status)] == ["attached", "detached"]
        assert KEY not in service.text()


async def test_a_base_station_that_was_away_is_told_when_it_is_back(site, broker):
    async with scene(site, broker) as (service, (_first, second), _):
        await data(service, "sensors", "add", EUI, "--key", "-", typed=f"{KEY}\n")
        second.cut(seconds=2)
        await wait_until(lambda: not second.is_online, "it is away")

        code, output, _ = await run(service, "sensors", "detach", EUI, "--json")

        assert code == 4
        assert json.loads(output) == {
            "eui": EUI,
            "confirmed": [FIRST],
            "pending": [SECOND],
            "refused": [],
        }
        await wait_until(lambda: not second.served, "it is told")
        assert [type(message) for message in second.told] == [AttachPropagate, DetachPropagate]
        assert second.resumed == 1


async def test_what_was_confirmed_is_not_told_again_after_a_kill(site, broker):
    async with scene(site, broker) as (service, stations, _):
        await data(service, "sensors", "add", EUI, "--key", "-", typed=f"{KEY}\n")
        await data(service, "sensors", "add", format_eui(SENSOR + 1), "--key", "-", typed=KEY)
        await service.kill()
        await service.start()
        for station in stations:
            await wait_until(partial(was_resumed, station), "it has resumed")

        shown = await data(
            service, "sensors", "add", format_eui(SENSOR + 2), "--key", "-", typed=KEY
        )

        assert shown["confirmed"] == [FIRST, SECOND]
        assert [[each.ep_eui - SENSOR for each in station.told] for station in stations] == [
            [0, 1, 2],
            [0, 1, 2],
        ]


async def test_a_base_station_that_refuses_is_named_with_its_reason(site, broker):
    async with scene(site, broker) as (service, (first, second), ledger):
        second.refuses_attach = True
        code, output, _ = await run(
            service, "sensors", "add", EUI, "--key", "-", "--json", typed=KEY
        )
        refused = [{"eui": SECOND, "code": 95, "message": "this base station cannot do that"}]
        assert (code, json.loads(output)) == (
            4,
            {"eui": EUI, "confirmed": [FIRST], "pending": [], "refused": refused},
        )

        first.refuses_attach = True
        other = format_eui(SENSOR + 1)
        code, _, _ = await run(service, "sensors", "add", other, "--key", "-", typed=KEY)
        assert code == 1
        await wait_until(
            lambda: (
                [b["action"] for b in ledger.bodies(f"mioty/ep/{other}/status")]
                == ["attach_failed"]
            ),
            "applications are told",
        )


async def test_commands_of_the_earlier_service_are_answered_by_mqtt(site, broker):
    async with scene(site, broker) as (service, stations, ledger):
        response, legacy = f"mioty/ep/{EUI}/response", f"EP/{EUI}/response"
        config = {"nwKey": KEY, "shortAddr": "0001", "bidi": False, "ref": "order 1"}
        await publish(broker.port, f"mioty/ep/{EUI}/config", json.dumps(config).encode())
        assert await said(ledger, response, "received", "ok") == [
            {"command": "config", "status": "received", "ref": "order 1"},
            {
                "command": "config",
                "status": "ok",
                "ref": "order 1",
                "sensor_eui": EUI,
                "confirmed": [FIRST, SECOND],
                "pending": [],
                "refused": [],
            },
        ]

        await publish(broker.port, f"EP/{EUI}/cmd/", b"status")
        answers = await said(ledger, legacy, "received", "ok")
        assert answers == [
            {"command": "status", "status": "received"},
            {
                "command": "status",
                "status": "ok",
                "sensor_eui": EUI,
                "registered": True,
                "base_stations": [FIRST, SECOND],
                "last_seen": None,
                "activity": "never_seen",
            },
        ]

        await publish(broker.port, f"mioty/ep/{EUI}/cmd", b'"detach"')
        await wait_until(lambda: not any(s.served for s in stations), "detached")
        await publish(broker.port, f"mioty/ep/{EUI}/cmd", b'{"action": "attach"}', retain=True)
        await publish(broker.port, f"mioty/ep/{EUI}/config", b'{"nwKey": "1234"}')
        errors = f"mioty/ep/{EUI}/error"
        await wait_until(lambda: ledger.bodies(errors), "the bad key is told")
        (error,) = ledger.bodies(errors)
        assert (error["code"], error["sensor_eui"]) == (22, EUI)
        assert "4 hexadecimal digits, 32 are expected" in error["error"]

        await publish(broker.port, "mioty/config", b'{"AUTO_DETACH_TIMEOUT": 200000}')
        await wait_until(lambda: ledger.bodies("mioty/config/response"), "the setting is answered")
        assert ledger.bodies("mioty/config/response")[0]["status"] == "ok"
        (shown,) = await data(service, "config", "show") and [
            each
            for each in await data(service, "config", "show")
            if each["key"] == "auto_detach.timeout"
        ]
        assert shown["value"] == 200000
        assert KEY not in service.text()


async def test_a_silent_sensor_is_warned_about_detached_and_taken_back(site, broker):
    settings = {
        "auto_detach_warning_timeout": 1.5,
        "auto_detach_timeout": 4,
        "auto_detach_check_interval": 0.5,
        "dedup_delay": 0.1,
    }
    async with scene(site, broker, 1, **settings) as (service, (station,), ledger):
        await data(service, "sensors", "add", EUI, "--key", "-", typed=KEY)
        station.send(telegram(SENSOR, 1))
        warning, status = f"mioty/ep/{EUI}/warning", f"mioty/ep/{EUI}/status"
        await wait_until(lambda: ledger.bodies(warning), "it is warned about")
        await wait_until(lambda: not station.served, "it is detached")
        assert (await data(service, "sensors", "show", EUI))["activity"] == "auto_detached"
        assert len(ledger.bodies(warning)) == 1

        station.send(telegram(SENSOR, 2))

        await wait_until(lambda: SENSOR in station.served, "it is attached again")
        await wait_until(lambda: len(ledger.bodies(status)) >= 3, "that is announced")
        actions = [body["action"] for body in ledger.bodies(status)][:3]
        assert actions == ["attached", "auto_detached", "attached"]
        assert station.served[SENSOR].last_packet_cnt == 2


async def test_a_change_is_seen_by_who_watches(site, broker):
    async with scene(site, broker, 1) as (service, _, _):
        socket = service.site.folder / "state" / "control.sock"
        async with open_client(socket) as client, client.subscribe(["sensor"]) as events:
            await client.call("sensors.add", eui=EUI, key=KEY)
            seen = [(await events.receive()).data["event"] for _ in range(3)]
    assert seen == ["added", "confirmed", "attached"]


async def test_clearing_keeps_a_file_that_brings_everything_back(site, broker):
    async with scene(site, broker, 1) as (service, (station,), _):
        await data(service, "sensors", "add", EUI, "--key", "-", "--name", "attic", typed=KEY)
        code, _, messages = await run(service, "sensors", "clear")
        assert code == 2, messages
        cleared = await data(service, "sensors", "clear", "--yes")
        assert cleared["count"] == 1
        assert await data(service, "sensors", "list") == []
        assert station.served == {}

        done = await data(service, "sensors", "import", cleared["undo"])

        assert (done["done"], done["failed"]) == (1, 0)
        await wait_until(lambda: SENSOR in station.served, "it is attached again")
        assert (await data(service, "sensors", "show", "attic", "--reveal"))["key"] == KEY
