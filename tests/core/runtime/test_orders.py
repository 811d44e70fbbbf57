"""Commands by MQTT: taken at once, carried out in order, and each answered to the end once."""

import json
from typing import Any

import pytest
import trio

from bssci.core.center.answers import Answers
from bssci.core.center.commands import Inbox
from bssci.core.protocol.errors import BssciError
from bssci.core.runtime import orders as orders_module
from bssci.core.runtime.orders import Orders
from tests.downlink_fakes import DownlinkDesk
from tests.life_fakes import (
    AVA,
    DIEHL,
    FULL,
    KEY,
    METER,
    NOON,
    SENSOR,
    FakeStation,
    end_point,
    open_house,
)

NAME, METER_NAME = "FCA84A030000127C", "FCA84A030000127D"
AVA_NAME, DIEHL_NAME = "70B3D59CD0000951", "70B3D59CD0000952"
RESPONSE, ERROR = f"bssci/ep/{NAME}/response", f"bssci/ep/{NAME}/error"
LEGACY = f"EP/{NAME}/response"
CONFIG = json.dumps({"nwKey": KEY, "shortAddr": "127C", "ref": 7})

CONFIRMED: dict[str, Any] = {
    "status": "ok",
    "sensor_eui": NAME,
    "confirmed": [AVA_NAME],
    "pending": [],
    "refused": [],
}


class FakeSettings:
    """Settings that can be changed, or not."""

    def __init__(self):
        self.values = {}
        self.fault: BssciError | None = None

    def change_settings(self, values):
        if self.fault is not None:
            raise self.fault
        self.values |= values
        return {"changed": sorted(values), "restart": []}


class Broker:
    """What was published, in order, and the orders that publish it."""

    def __init__(self, house, patience=30.0):
        self.house = house
        self.settings = FakeSettings()
        self.desk = DownlinkDesk(house)
        self.said: list[tuple[str, dict[str, object]]] = []
        self.orders = Orders(
            Inbox("bssci", legacy=True),
            Answers("bssci"),
            house.sensors,
            self.desk.downlinks,
            self.settings,
            publish=self._publish,
            patience=lambda: patience,
        )

    def _publish(self, publication):
        assert not publication.retain
        body = json.loads(publication.body)
        assert isinstance(body.pop("timestamp"), float)
        self.said.append((publication.topic, body))

    def send(self, topic, payload, *, is_retained=False):
        self.orders.take(topic, payload.encode(), is_retained)

    def command(self, payload, name=NAME, **more):
        self.send(f"bssci/ep/{name}/cmd", payload, **more)

    def statuses(self):
        return [(body.get("ref"), body.get("status", "refused")) for _, body in self.said]


async def start(nursery, *stations, sensors=(), is_running=True, **options):
    house = await open_house()
    await house.want(*sensors)
    for station in stations:
        await nursery.start(station.serve, house.life)
    await trio.sleep(1)
    broker = Broker(house, **options)
    if is_running:
        nursery.start_soon(broker.orders.run)
    return broker


# --- each is answered at once, and to the end ----------------------------------------------


@pytest.mark.parametrize("verb", ["config", "register", "config/", "register/"])
async def test_a_sensor_is_configured_and_attached(nursery, autojump_clock, verb):
    station = FakeStation(AVA)
    station.pace = 3.0
    broker = await start(nursery, station)
    broker.send(f"bssci/ep/{NAME}/{verb}", CONFIG)
    received = (RESPONSE, {"command": "config", "status": "received", "ref": 7})
    assert broker.said == [received]
    await trio.sleep(2.9)
    assert broker.said == [received]
    await trio.sleep(0.2)
    assert broker.said == [received, (RESPONSE, CONFIRMED | {"command": "config", "ref": 7})]
    wish = broker.house.life.roster.wish(SENSOR)
    assert wish is not None
    assert (wish.end_point, wish.wanted, wish.cause) == (end_point(), "attached", "mqtt")
    await trio.sleep(100)
    assert len(broker.said) == 2


@pytest.mark.parametrize(
    ("payload", "command"),
    [
        ("detach", "detach"),
        ('"detach"', "detach"),
        ('{"command": "detach"}', "detach"),
        ('{"action": "attach"}', "attach"),
        ("attach", "attach"),
    ],
)
async def test_a_command_is_answered_twice(nursery, autojump_clock, payload, command):
    station = FakeStation(AVA)
    broker = await start(nursery, station, sensors=[end_point()])
    broker.command(payload)
    await trio.sleep(1)
    assert broker.said == [
        (RESPONSE, {"command": command, "status": "received"}),
        (RESPONSE, CONFIRMED | {"command": command}),
    ]
    assert list(station.serves) == ([SENSOR] if command == "attach" else [])


@pytest.mark.parametrize("end", ["", "/"])
async def test_a_command_on_a_topic_of_the_earlier_service_is_answered_there_too(
    nursery, autojump_clock, end
):
    broker = await start(nursery, FakeStation(AVA), sensors=[end_point()])
    broker.send(f"EP/{NAME}/cmd{end}", '{"action": "detach", "ref": "a"}')
    await trio.sleep(1)
    received = {"command": "detach", "status": "received", "ref": "a"}
    final = CONFIRMED | {"command": "detach", "ref": "a"}
    assert broker.said == [
        (RESPONSE, received),
        (LEGACY, received),
        (RESPONSE, final),
        (LEGACY, final),
    ]


async def test_the_status_of_a_sensor_is_told(nursery, autojump_clock):
    broker = await start(nursery, FakeStation(AVA), sensors=[end_point()])
    broker.house.hear(SENSOR, AVA)
    broker.command("status")
    broker.command('{"command": "status", "ref": 1.5}', name=METER_NAME)
    await trio.sleep(1)
    assert broker.said == [
        (RESPONSE, {"command": "status", "status": "received"}),
        (
            f"bssci/ep/{METER_NAME}/response",
            {"command": "status", "status": "received", "ref": 1.5},
        ),
        (
            RESPONSE,
            {
                "command": "status",
                "status": "ok",
                "sensor_eui": NAME,
                "registered": True,
                "base_stations": [AVA_NAME],
                "last_seen": NOON / 1e9 + 1,
                "activity": "active",
            },
        ),
        (
            f"bssci/ep/{METER_NAME}/response",
            {
                "command": "status",
                "status": "ok",
                "ref": 1.5,
                "sensor_eui": METER_NAME,
                "registered": False,
                "base_stations": [],
                "last_seen": None,
                "activity": "never_seen",
            },
        ),
    ]


async def test_who_has_not_confirmed_in_time_is_told(nursery, autojump_clock):
    silent = FakeStation(DIEHL)
    silent.is_silent = True
    broker = await start(nursery, FakeStation(AVA), silent, sensors=[end_point()], patience=5.0)
    broker.command("detach")
    await trio.sleep(4.9)
    assert broker.statuses() == [(None, "received")]
    await trio.sleep(0.2)
    assert broker.said[1:] == [
        (
            RESPONSE,
            CONFIRMED | {"command": "detach", "status": "pending", "pending": [DIEHL_NAME]},
        )
    ]
    silent.is_silent = False
    await trio.sleep(200)
    assert len(broker.said) == 2


@pytest.mark.parametrize(("message", "error"), [("no room", "no room"), ("", "refused")])
async def test_that_all_refuse_is_an_error(nursery, autojump_clock, message, error):
    station = FakeStation(AVA)
    station.refuses[SENSOR] = (28, message)
    broker = await start(nursery, station)
    broker.send(f"bssci/ep/{NAME}/config", CONFIG)
    await trio.sleep(1)
    assert broker.said[1:] == [
        (
            RESPONSE,
            {
                "command": "config",
                "status": "error",
                "ref": 7,
                "sensor_eui": NAME,
                "confirmed": [],
                "pending": [],
                "refused": [{"eui": AVA_NAME, "code": 28, "message": message}],
                "error": error,
            },
        )
    ]


async def test_where_no_base_station_is_connected_a_command_is_done_at_once(
    nursery, autojump_clock
):
    broker = await start(nursery)
    broker.send(f"bssci/ep/{NAME}/config", CONFIG)
    await trio.sleep(1)
    assert broker.said[1:] == [
        (RESPONSE, CONFIRMED | {"command": "config", "ref": 7, "confirmed": []})
    ]


async def test_a_command_to_one_that_is_not_registered_is_an_error(nursery, autojump_clock):
    broker = await start(nursery)
    broker.command('{"command": "attach", "ref": "x"}')
    await trio.sleep(1)
    assert broker.said == [
        (RESPONSE, {"command": "attach", "status": "received", "ref": "x"}),
        (
            RESPONSE,
            {
                "command": "attach",
                "status": "error",
                "ref": "x",
                "sensor_eui": NAME,
                "error": f"sensor {NAME} is not registered",
            },
        ),
    ]


async def test_a_full_disk_is_an_error_and_nothing_is_done(nursery, autojump_clock):
    station = FakeStation(AVA)
    broker = await start(nursery, station)
    broker.house.store.fault = FULL
    broker.send(f"bssci/ep/{NAME}/config", CONFIG)
    await trio.sleep(1)
    assert broker.said[1:] == [
        (
            RESPONSE,
            {
                "command": "config",
                "status": "error",
                "ref": 7,
                "sensor_eui": NAME,
                "error": str(FULL),
            },
        )
    ]
    assert (station.told, list(broker.house.life.roster)) == ([], [])


# --- bad ones change nothing ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (
            json.dumps({"nwKey": KEY[:-1], "bidi": 7, "ref": 7}),
            f"sensor {NAME}: nwKey: the key has 31 hexadecimal digits, 32 are expected (16 bytes); "
            "bidi: found 7, true or false is expected",
        ),
        (
            json.dumps({"shortAddr": "127C", "ref": 7}),
            f"sensor {NAME}: the key is missing: 32 hexadecimal digits are expected",
        ),
        (
            json.dumps({"eui": METER_NAME, "nwKey": KEY, "ref": 7}),
            f"eui: it is not {NAME}, as the topic says",
        ),
    ],
)
async def test_bad_parameters_are_told_and_change_nothing(nursery, autojump_clock, payload, error):
    broker = await start(nursery, FakeStation(AVA))
    broker.send(f"bssci/ep/{NAME}/config", payload)
    await trio.sleep(1)
    assert broker.said == [(ERROR, {"error": error, "code": 22, "sensor_eui": NAME, "ref": 7})]
    assert (broker.house.told, broker.house.store.decisions) == ([], 0)


async def test_what_is_no_command_is_told(nursery, autojump_clock):
    broker = await start(nursery, sensors=[end_point()])
    decisions = broker.house.store.decisions
    broker.command("explode")
    broker.send(f"EP/{NAME}/cmd", "explode")
    broker.send(f"bssci/ep/{NAME}/config", "{")
    await trio.sleep(1)
    body = {
        "error": "'explode' is no command: attach, detach or status is expected",
        "code": 22,
        "sensor_eui": NAME,
    }
    assert broker.said[:3] == [(ERROR, body), (ERROR, body), (LEGACY, body)]
    assert [topic for topic, _ in broker.said[3:]] == [ERROR]
    assert (broker.house.store.decisions, broker.orders.ignored) == (decisions, 0)


async def test_what_nobody_can_be_answered_about_is_counted(nursery, autojump_clock):
    broker = await start(nursery)
    broker.command("attach", name=KEY)
    broker.send("bssci/elsewhere", "attach")
    await trio.sleep(1)
    assert (broker.said, broker.orders.ignored) == ([], 1)


async def test_a_retained_command_is_ignored(nursery, autojump_clock):
    broker = await start(nursery, FakeStation(AVA), sensors=[end_point()])
    decisions = broker.house.store.decisions
    broker.command("detach", is_retained=True)
    broker.send(f"bssci/ep/{METER_NAME}/config", CONFIG, is_retained=True)
    broker.send("bssci/config", '{"AUTO_DETACH_TIMEOUT": 1}', is_retained=True)
    await trio.sleep(1)
    assert (broker.said, broker.orders.ignored) == ([], 3)
    assert (broker.house.store.decisions, broker.settings.values) == (decisions, {})


@pytest.mark.parametrize(
    "topic",
    [
        *(f"bssci/ep/{NAME}/{verb}{end}" for verb in ("config", "register", "cmd", "dl")
          for end in ("", "/")),
        *("bssci/config", "bssci/config/", "bssci/config/AUTO_DETACH_TIMEOUT"),
        *(f"EP/{NAME}/cmd", f"EP/{NAME}/cmd/"),
        "bssci/ep/NOTANEUI/cmd",
    ],
)  # fmt: skip
async def test_that_a_retained_message_is_taken_back_is_no_command(nursery, autojump_clock, topic):
    broker = await start(nursery, sensors=[end_point()])
    broker.send(topic, "")
    await trio.sleep(1)
    assert (broker.said, broker.orders.ignored) == ([], 1)


# --- order and bounds ----------------------------------------------------------------------


async def test_commands_are_carried_out_in_the_order_in_which_they_came(nursery, autojump_clock):
    station = FakeStation(AVA)
    broker = await start(nursery, station, is_running=False)
    broker.send(f"bssci/ep/{NAME}/config", CONFIG)
    for number, word in enumerate(("detach", "attach", "detach", "attach", "detach")):
        broker.command(json.dumps({"command": word, "ref": number}))
    assert [status for _, status in broker.statuses()] == ["received"] * 6
    broker.house.store.delay = 0.1
    nursery.start_soon(broker.orders.run)
    await trio.sleep(10)
    assert [each for each, _ in broker.house.events("added", "attach", "detach")] == [
        "added",
        "detach",
        "attach",
        "detach",
        "attach",
        "detach",
    ]
    assert sorted(str(body["ref"]) for _, body in broker.said[6:]) == ["0", "1", "2", "3", "4", "7"]
    assert station.serves == {}


async def test_one_that_waits_for_base_stations_holds_up_no_other(nursery, autojump_clock):
    station = FakeStation(AVA)
    broker = await start(nursery, station, sensors=[end_point(), end_point(METER)])
    station.is_silent = True
    broker.command('{"command": "detach", "ref": 1}')
    broker.command('{"command": "status", "ref": 2}', name=METER_NAME)
    await trio.sleep(1)
    assert broker.statuses() == [(1, "received"), (2, "received"), (2, "ok")]


async def test_too_many_at_once_are_turned_away(nursery, autojump_clock, monkeypatch):
    monkeypatch.setattr(orders_module, "MAX_WAITING", 3)
    station = FakeStation(AVA)
    broker = await start(nursery, station, sensors=[end_point()], patience=5.0)
    station.is_silent = True
    broker.command('{"command": "detach", "ref": 1}')
    await trio.sleep(1)  # it is not waiting any more, but for the base station
    for ref in (2, 3, 4):
        broker.command(json.dumps({"command": "status", "ref": ref}))
    broker.send("bssci/config", '{"AUTO_DETACH_TIMEOUT": 1, "ref": 5}')
    busy = "3 commands wait already; send this one again later"
    assert broker.said[3:] == [
        (ERROR, {"error": busy, "code": 11, "sensor_eui": NAME, "ref": 4}),
        (
            "bssci/config/response",
            {"command": "config", "status": "error", "ref": 5, "error": busy, "code": 22},
        ),
    ]
    assert broker.settings.values == {}
    await trio.sleep(60)
    assert broker.statuses()[5:] == [(2, "ok"), (3, "ok"), (1, "pending")]
    broker.command('{"command": "status", "ref": 6}')
    await trio.sleep(1)
    assert broker.statuses()[8:] == [(6, "received"), (6, "ok")]


# --- settings ------------------------------------------------------------------------------


async def test_settings_are_changed_and_answered_once(nursery, autojump_clock):
    broker = await start(nursery)
    broker.send("bssci/config", '{"AUTO_DETACH_TIMEOUT": 7200, "dedup.delay": 1, "ref": "r"}')
    assert broker.said == []
    await trio.sleep(1)
    assert broker.settings.values == {"auto_detach.timeout": 7200, "dedup.delay": 1}
    assert broker.said == [
        (
            "bssci/config/response",
            {
                "command": "config",
                "status": "ok",
                "ref": "r",
                "changed": ["auto_detach.timeout", "dedup.delay"],
                "restart": [],
            },
        )
    ]


async def test_settings_that_cannot_be_changed_are_answered_with_the_reason(
    nursery, autojump_clock
):
    broker = await start(nursery)
    broker.settings.fault = BssciError("dedup.delay: found 'soon', a number is expected")
    broker.send("bssci/config", '{"dedup.delay": "soon"}')
    await trio.sleep(1)
    assert broker.said == [
        (
            "bssci/config/response",
            {
                "command": "config",
                "status": "error",
                "error": "dedup.delay: found 'soon', a number is expected",
                "code": 22,
            },
        )
    ]


# --- downlinks ---

DL, DL_STATUS = f"bssci/ep/{NAME}/dl", f"bssci/ep/{NAME}/dl/status"


def rejected(error, code=22, **more):
    return (DL_STATUS, {"id": None, "result": "rejected", "sensor_eui": NAME} | more | {
        "error": error, "code": code,
    })  # fmt: skip


async def test_a_downlink_is_handed_on_and_answered_by_whoever_sees_to_it(nursery, autojump_clock):
    broker = await start(nursery, sensors=[end_point(bidi=True)])
    broker.send(DL, json.dumps({"data": "0102", "ref": "a", "prio": 2}))
    await trio.sleep(1)
    (news,) = broker.desk.news
    downlink = news.record.downlink
    assert (news.event, downlink.user_data, downlink.ref, downlink.prio) == (
        "queued",
        (b"\x01\x02",),
        "a",
        2.0,
    )
    assert broker.said == []


async def test_a_downlink_that_cannot_be_is_rejected_where_its_results_are_told(
    nursery, autojump_clock
):
    broker = await start(nursery, sensors=[end_point(bidi=True), end_point(METER)])
    broker.send(DL, json.dumps({"data": "0102", "entries": [], "ref": 1}))
    broker.send(f"bssci/ep/{METER_NAME}/dl", json.dumps({"data": [1]}))
    broker.send("bssci/ep/0000000000000001/dl", json.dumps({"data": [1], "ref": 2}))
    await trio.sleep(1)
    assert [(topic, body["result"], body["code"]) for topic, body in broker.said] == [
        (DL_STATUS, "rejected", 22),
        (f"bssci/ep/{METER_NAME}/dl/status", "rejected", 22),
        ("bssci/ep/0000000000000001/dl/status", "rejected", 2),
    ]
    assert [body.get("ref") for _, body in broker.said] == [1, None, 2]
    assert broker.desk.news == []


async def test_more_downlinks_than_may_wait_are_to_be_sent_again_later(nursery, autojump_clock):
    broker = await start(nursery, sensors=[end_point(bidi=True)])
    for number in range(6):
        broker.send(DL, json.dumps({"data": [number]}))
    await trio.sleep(1)
    assert len(broker.desk.news) == 5
    assert [(body["result"], body["code"]) for _, body in broker.said] == [("rejected", 11)]


async def test_a_downlink_is_not_lost_silently_when_the_disk_takes_nothing(nursery, autojump_clock):
    broker = await start(nursery, sensors=[end_point(bidi=True)])
    broker.desk.book.fault = FULL
    broker.send(DL, json.dumps({"data": [1], "ref": 3}))
    await trio.sleep(1)
    assert broker.said == [rejected(str(FULL), 28, ref=3)]
