"""Downlinks from the wish to the result, on a real database and with base stations that behave.

The clock is virtual and stands still while a disk is waited for; `World.later` moves it.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bssci.core.center.dispatch import GRACE
from bssci.core.center.downlinks import Downlink, DownlinkRecord, Ending, Result, message_of
from bssci.core.center.end_points import attach_propagate
from bssci.core.center.rpc import BusyError, InvalidRequestError, NotFoundError, RequestError
from bssci.core.protocol.errors import Code, OperationRefusedError, StorageError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.events import Answered, Refused
from bssci.core.protocol.messages import (
    AttachPropagate,
    ConnectResponse,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
    DownlinkRxStatus,
    DownlinkRxStatusQuery,
    Message,
    Status,
    StatusResponse,
    UplinkData,
)
from bssci.core.runtime import database
from bssci.core.runtime import downlinks as module
from bssci.core.runtime.downlinks import Downlinks
from bssci.core.runtime.holdings import Holdings
from bssci.core.runtime.propagation import Turns, propagate
from bssci.core.runtime.queueing import WINDOW, queue_downlinks
from bssci.core.runtime.station_events import Online, Request
from bssci.core.runtime.store import open_store
from tests.core.runtime.test_over_the_air import attach_of
from tests.disks import query, stuck_disk
from tests.life_fakes import (
    AVA,
    DIEHL,
    METER,
    MIROMICO,
    OPERATION_TIMEOUT,
    SENSOR,
    FakeStation,
    House,
    end_point,
    open_house,
    telegram_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bssci.core.center.dispatch import News

NAME, METER_NAME = format_eui(SENSOR), format_eui(METER)
AVA_NAME, DIEHL_NAME = format_eui(AVA), format_eui(DIEHL)
LIFETIME = 3600.0  # seconds, of downlinks that say nothing else
MOST = 5  # downlinks of a sensor that may wait

# Unix time at which the virtual clock is 0. The store compares with the clock of the machine how
# long ago something was sent.
START = time.time_ns()
SECOND = 1_000_000_000
TX_TIME = START + 77

CONFIRMATION = ConnectResponse(sc_eui=1, sn_resume=False, sn_sc_uuid=bytes(16))


# --- base stations and the world they are in -----------------------------------------------


class Answer:
    """How a base station answers one operation."""

    def __init__(self, request: Message) -> None:
        self._request = request
        self.outcome: Answered | Refused | None = None

    def respond(self, response: Message) -> None:
        self.outcome = Answered(self._request, response)

    def refuse(self, op_id: int, code: int, reason: str) -> None:
        self.outcome = Refused(self._request, code, reason)


class Station(FakeStation):
    """One that also queues downlinks, as `Holdings` does.

    Attributes:
        holdings: what it holds.
        refuses_to: commands that it refuses: code and reason.
    """

    def __init__(self, bs_eui: int = AVA) -> None:
        super().__init__(bs_eui)
        self.holdings = Holdings()
        self.refuses_to: dict[str, tuple[int, str]] = {}

    async def attend(
        self,
        world: World,
        *,
        resume: bool = False,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be connected until `leave`; a new session knows nothing."""
        if not resume:
            self._sessions += 1
            self.pending.clear()
            self.holdings(Online(resumed=False, response=CONFIRMATION))
        self._world, downlinks, life = world, world.downlinks, world.house.life
        self._scope, self._gone, self.is_open = trio.CancelScope(), trio.Event(), True
        life.station_connected(self.record(), unanswered=self.unanswered())
        downlinks.station_connected(self.bs_eui, is_new=not resume, unanswered=self.unanswered())
        task_status.started()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for message in self.unanswered():
                        nursery.start_soon(self._answer_again, message)
                    nursery.start_soon(
                        partial(queue_downlinks, self, downlinks, answer_timeout=OPERATION_TIMEOUT)
                    )
                    await propagate(self, life, turns=Turns(), answer_timeout=OPERATION_TIMEOUT)
        finally:
            self.is_open = False
            life.station_disconnected(self.record())
            downlinks.station_disconnected(self.bs_eui)
            self._gone.set()

    async def _answer_again(self, issued: Message) -> None:
        with suppress(OperationRefusedError):
            await self._answer(issued)

    def answer(self, issued: Message) -> Message:
        self.pending.pop(issued.op_id, None)
        found = Answer(issued)
        if refusal := self.refuses_to.get(issued.command):
            found.refuse(issued.op_id, *refusal)
        else:
            self.holdings(Request(issued, reissued=False, link=found))
        outcome = found.outcome
        assert outcome is not None
        self._world.house.life.take_outcomes(self.bs_eui, [outcome])
        self._world.downlinks.take_outcomes(self.bs_eui, [outcome])
        if isinstance(outcome, Refused):
            raise OperationRefusedError(outcome.code, outcome.message)
        return outcome.response

    def heard(self, *kinds: type[Message]) -> list[tuple[str, int]]:
        """What it was told of downlinks, in the order of the operations, and of which."""
        wanted = kinds or (DownlinkDataQueue, DownlinkDataRevoke, DownlinkRxStatusQuery)
        told = sorted((each for _, each in self.told), key=lambda each: -each.op_id)
        return [
            (each.command, getattr(each, "que_id", 0)) for each in told if isinstance(each, wanted)
        ]

    def holds(self, ep_eui: int = SENSOR) -> list[int]:
        """The queue IDs that it has for an end point."""
        return [*self.holdings.downlinks.get(ep_eui, {})]


class World:
    """Downlinks on a database, end points, and base stations.

    Attributes:
        news: what was told.
        receptions: what was told of how end points receive.
        mute: base stations that cannot transmit.
    """

    def __init__(self, clock: MockClock, path: Path, house: House, ledger: Any) -> None:
        self.clock = clock
        self.path = path
        self.house = house
        self.ledger = ledger
        self.lifetime, self.most = LIFETIME, MOST
        self.news: list[News] = []
        self.receptions: list[tuple[int, DownlinkRxStatus]] = []
        self.mute: set[int] = set()
        self.nursery: trio.Nursery
        self.downlinks = Downlinks(
            ledger,
            house.life,
            find=house.sensors.find,
            can_transmit=self._can_transmit,
            lifetime=lambda: self.lifetime,
            max_per_sensor=lambda: self.most,
            unix_ns=self.unix_ns,
            tell=self.news.append,
            tell_reception=lambda bs_eui, report: self.receptions.append((bs_eui, report)),
        )

    def _can_transmit(self, bs_eui: int) -> bool:
        return self.house.life.lifecycle.is_connected(bs_eui) and bs_eui not in self.mute

    def unix_ns(self) -> int:
        return START + int(trio.current_time() * 1e9)

    async def later(self, seconds: float = 1.0) -> None:
        """That much later; all is done that is to be done by then."""
        await self.settle()
        self.clock.jump(seconds)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(3):
            await wait_all_tasks_blocked()
            await self.ledger.flush()

    async def connect(self, *stations: Station, resume: bool = False) -> None:
        for station in stations:
            await self.nursery.start(partial(station.attend, self, resume=resume))
        await self.later()

    # what end points and base stations say

    def uplink(self, *stations: int, cnt: int = 1, **fields: Any) -> UplinkData:
        """An uplink is heard by these base stations, the best one first."""
        heard = [uplink_of(cnt, snr=10.0 - each, **fields) for each in range(len(stations))]
        for bs_eui, uplink in zip(stations, heard, strict=True):
            self.downlinks.heard(bs_eui, uplink, is_reissued=False)
        return heard[0]

    async def open_window(self, station: Station, cnt: int, **fields: Any) -> None:
        """An uplink comes by this base station, which then uses the window."""
        heard = self.uplink(station.bs_eui, cnt=cnt, dl_open=True, **fields)
        await self.settle()
        for report in station.holdings.open_window(heard, tx_time=TX_TIME):
            await self.report(station.bs_eui, report)

    async def report(self, bs_eui: int, said: DownlinkDataResult | DownlinkRxStatus) -> None:
        if isinstance(said, DownlinkDataResult):
            await self.downlinks.take_result(bs_eui, said)
        else:
            self.downlinks.take_reception(bs_eui, said)

    # what came of it

    async def send(self, data: Any = "01ff", eui: str = NAME, **options: Any) -> int:
        """The ID of a new downlink."""
        if "entries" not in options:
            options["data"] = data
        shape = await self.downlinks.send_method(eui=eui, **options)
        await self.settle()
        number = shape["id"]
        assert isinstance(number, int)
        return number

    def events(self, que_id: int | None = None) -> list[Any]:
        """What was told of one downlink, or of all with their IDs."""
        told = [(each.record.downlink.que_id, each.event) for each in self.news]
        return told if que_id is None else [event for number, event in told if number == que_id]

    async def state(self, que_id: int) -> tuple[object, object]:
        """How it is with a downlink, and where."""
        (shape,) = [each for each in await self.downlinks.list_method() if each["id"] == que_id]
        return shape["state"], shape["bs_eui"]

    def on_disk(self) -> list[tuple[object, ...]]:
        return query(self.path, "SELECT que_id, state FROM downlinks ORDER BY que_id")


@asynccontextmanager
async def open_world(clock: MockClock, path: Path, house: House) -> AsyncIterator[World]:
    """A process."""
    async with open_store(path) as store, trio.open_nursery() as nursery:
        world = World(clock, path, house, store.downlinks)
        world.nursery = nursery
        await world.downlinks.load()
        nursery.start_soon(world.downlinks.run)
        yield world
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def next_process(world: World) -> AsyncIterator[World]:
    """The one after a `world` that is over; the clock has gone on."""
    house = await open_house(world.house.store.close())
    async with open_world(world.clock, world.path, house) as again:
        yield again


async def a_house() -> House:
    house = await open_house()
    await house.want(end_point(bidi=True), end_point(METER, bidi=True, name="meter"))
    return house


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "bssci.db"


@pytest.fixture
async def world(mock_clock, path):
    async with open_world(mock_clock, path, await a_house()) as world:
        yield world


@pytest.fixture
def impatient(monkeypatch):
    """A disk that does not answer is given up at once."""
    monkeypatch.setattr(database, "MAX_OPEN_WAIT", 0.01)


def uplink_of(cnt: int, **fields: Any) -> UplinkData:
    known: dict[str, Any] = {
        "ep_eui": SENSOR,
        "rx_time": START,
        "packet_cnt": cnt,
        "snr": 10.0,
        "rssi": -90.0,
        "user_data": b"\x01",
        "dl_open": False,
        "response_exp": False,
        "dl_ack": False,
    }
    return UplinkData(**(known | fields))


def result_of(que_id: int, result: Result = "sent", **fields: Any) -> DownlinkDataResult:
    known = {"tx_time": TX_TIME, "packet_cnt": 5} if result == "sent" else {}
    return DownlinkDataResult(
        **{"ep_eui": SENSOR, "que_id": que_id, "result": result, **known} | fields
    )


def reception_of(ep_eui: int = SENSOR) -> DownlinkRxStatus:
    return DownlinkRxStatus(
        ep_eui=ep_eui, rx_time=TX_TIME, packet_cnt=5, dl_rx_snr=7.5, dl_rx_rssi=-101.0
    )


def said(caught) -> tuple[str, str, int]:
    """The words of an error, its hint and its exit code."""
    error = caught.value
    return str(error), error.hint, error.exit_code


SHAPE: dict[str, Any] = {
    "id": 1,
    "sensor_eui": NAME,
    "ref": None,
    "state": "queued",
    "bs_eui": None,
    "created": START / 1e9,
    "expires": (START + int(LIFETIME) * SECOND) / 1e9,
    "result": None,
    "intent": "deliver",
    "data": [1, 255],
    "entries": None,
    "prio": 0.0,
    "format": None,
    "response_exp": False,
    "response_prio": False,
    "dl_wind_req": False,
    "exp_only": False,
    "query_rx": False,
}


# --- sending -------------------------------------------------------------------------------


async def test_a_downlink_is_on_disk_and_told_when_send_returns(mock_clock, world):
    assert await world.downlinks.send_method(eui=NAME.lower(), data="01 ff") == SHAPE
    assert world.on_disk() == [(1, "queued")]
    assert world.events() == [(1, "queued")]
    assert world.downlinks.counts() == {"queued": 1, "at_station": 0}


async def test_everything_that_can_be_said_of_a_downlink_is_kept(mock_clock, world):
    entries = [{"cnt": 7, "data": [1]}, {"cnt": 8, "data": "02"}]
    shape = await world.downlinks.send_method(
        eui="meter",
        entries=entries,
        ref="order 7",
        prio=2.5,
        format=3,
        response_exp=True,
        response_prio=True,
        dl_wind_req=True,
        exp_only=True,
        expires_in=60,
        query_rx=True,
    )
    assert shape == SHAPE | {
        "sensor_eui": METER_NAME,
        "ref": "order 7",
        "expires": (START + 60 * SECOND) / 1e9,
        "data": None,
        "entries": [{"cnt": 7, "data": [1]}, {"cnt": 8, "data": [2]}],
        "prio": 2.5,
        "format": 3,
        **dict.fromkeys(
            ("response_exp", "response_prio", "dl_wind_req", "exp_only", "query_rx"), True
        ),
    }
    assert await world.downlinks.list_method() == [shape]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, "data is missing, or entries"),
        (
            {"data": "01", "entries": [{"cnt": 1, "data": ""}]},
            "data and entries are both given, one of them is expected",
        ),
        ({"data": "0102Z"}, "data: 1 of its characters are no hexadecimal digits"),
        ({"data": "00" * 201}, "data: has 201 bytes, at most 200 are possible"),
        ({"data": [256]}, "data: found 256, numbers from 0 to 255 are expected"),
        ({"entries": []}, "entries: has 0, 1 to 64 are expected"),
        (
            {"entries": [{"cnt": 1, "data": ""}] * 2},
            "entries: entry 2: cnt: 1 is there already",
        ),
        (
            {"data": "", "prio": math.nan},
            "prio: found nan, a number of single precision is expected",
        ),
        ({"data": "", "format": 256}, "format: found 256, a number from 0 to 255 is expected"),
        (
            {"data": "", "expires_in": 0},
            "expires_in: found 0, seconds above 0 and at most 2592000 are expected",
        ),
    ],
)
async def test_what_is_no_downlink_is_refused(mock_clock, world, given, error):
    with pytest.raises(InvalidRequestError) as caught:
        await world.downlinks.send_method(eui=NAME, **given)
    assert said(caught) == (error, "", 2)
    assert (world.on_disk(), world.news) == ([], [])


async def test_who_cannot_receive_is_sent_nothing(mock_clock, world):
    deaf, left = end_point(METER, bidi=False), end_point(SENSOR, bidi=True)
    await world.house.want(deaf)
    await world.house.want(left, wanted="detached")
    faults = {}
    for eui in ("FCA84A0300001299", METER_NAME, NAME):
        with pytest.raises(RequestError) as caught:
            await world.downlinks.send_method(eui=eui, data="")
        faults[eui] = said(caught)
    assert faults == {
        "FCA84A0300001299": (
            "sensor FCA84A0300001299 is not registered",
            "`bssci sensors list` shows those that are",
            5,
        ),
        METER_NAME: (
            f"sensor {METER_NAME} cannot receive: it is not bidirectional",
            f"if it can, `bssci sensors set {METER_NAME} --bidi`",
            1,
        ),
        NAME: (f"sensor {NAME} is detached", f"first `bssci sensors attach {NAME}`", 1),
    }
    assert (world.on_disk(), world.news) == ([], [])


async def test_who_was_removed_after_it_was_found_is_sent_nothing(mock_clock, world):
    downlink = world.downlinks.made(SENSOR, {"data": ""})
    await world.house.life.forget([SENSOR], "command")
    with pytest.raises(NotFoundError) as caught:
        await world.downlinks.send(downlink)
    assert said(caught) == (
        f"sensor {NAME} is not registered",
        "`bssci sensors list` shows those that are",
        5,
    )


async def test_so_many_may_wait_for_one_sensor_also_when_they_come_at_once(mock_clock, world):
    outcomes: list[object] = []

    async def send(number):
        try:
            outcomes.append(await world.send(ref=number))
        except BusyError as error:
            outcomes.append((str(error), error.hint))

    async with trio.open_nursery() as nursery:
        for number in range(MOST + 2):
            nursery.start_soon(send, number)
    refused = [each for each in outcomes if isinstance(each, tuple)]
    assert {hint for _, hint in refused} == {
        "wait until some are sent, or `bssci downlinks cancel`"
    }
    assert len(refused) == 2
    assert len(world.on_disk()) == MOST
    with pytest.raises(BusyError) as caught:
        await world.send()
    assert str(caught.value) == (
        f"5 downlinks wait for sensor {NAME} already, at most 5 are possible "
        "(downlinks.max_per_sensor)"
    )
    await world.send(eui=METER_NAME)
    *_, first = await world.downlinks.list_method(eui=NAME)
    await world.downlinks.cancel_method(id=first["id"])
    await world.send()
    assert world.downlinks.counts() == {"queued": MOST + 1, "at_station": 0}


async def test_how_many_may_wait_is_asked_each_time(mock_clock, world):
    world.most = 1
    await world.send()
    with pytest.raises(BusyError):
        await world.send()
    world.most = 2
    await world.send()


async def test_of_all_sensors_together_no_more_than_a_bound_may_wait(
    mock_clock, world, monkeypatch
):
    monkeypatch.setattr(module, "MAX_DOWNLINKS", 2)
    await world.send()
    await world.send(eui=METER_NAME)
    with pytest.raises(BusyError) as caught:
        await world.send()
    assert said(caught) == ("2 downlinks wait already", "try again later", 1)


async def test_what_comes_at_once_does_not_exceed_the_bound_of_all_sensors(
    mock_clock, world, monkeypatch
):
    monkeypatch.setattr(module, "MAX_DOWNLINKS", 3)
    refused = []

    async def send(eui):
        try:
            await world.downlinks.send_method(eui=eui, data="")
        except BusyError as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        for eui in (NAME, METER_NAME) * 2:
            nursery.start_soon(send, eui)
    assert refused == ["3 downlinks wait already"]


async def test_a_disk_that_fails_means_that_nothing_was_done(mock_clock, world, path, impatient):
    world.most = 1
    station = Station(AVA)
    await world.connect(station)
    world.uplink(AVA)
    with stuck_disk(path), pytest.raises(StorageError):
        await world.downlinks.send_method(eui=NAME, data="01")
    await world.settle()
    assert (world.news, world.on_disk(), station.heard()) == ([], [], [])
    assert world.downlinks.counts() == {"queued": 0, "at_station": 0}
    number = await world.send()
    assert station.heard() == [("dlDataQue", number)]


async def test_who_asked_may_go_and_the_downlink_stays(mock_clock, world):
    with trio.move_on_after(0):
        await world.downlinks.send_method(eui=NAME, data="01")
    await world.settle()
    assert (world.events(), world.on_disk()) == ([(1, "queued")], [(1, "queued")])
    assert world.downlinks.counts() == {"queued": 1, "at_station": 0}


async def test_what_was_on_its_way_to_the_disk_when_its_sensor_was_detached_is_revoked(
    mock_clock, world, path
):
    async with trio.open_nursery() as nursery:
        with stuck_disk(path):
            nursery.start_soon(world.send)
            await wait_all_tasks_blocked()
            await world.house.want(end_point(bidi=True), wanted="detached")
            world.downlinks.detached(SENSOR, "revoked")
    assert world.events() == [(1, "queued"), (1, "revoked")]
    assert world.on_disk() == [(1, "revoked")]


# --- listing -------------------------------------------------------------------------------


async def test_downlinks_are_listed_the_newest_first(mock_clock, world):
    for eui in (NAME, METER_NAME, NAME):
        await world.send(eui=eui)
    await world.downlinks.cancel_method(id=1)

    async def listed(**options):
        return [each["id"] for each in await world.downlinks.list_method(**options)]

    assert await listed() == [3, 2, 1]
    assert await listed(count=2) == [3, 2]
    assert await listed(eui="meter") == [2]
    assert await listed(state="queued") == [3, 2]
    assert await listed(eui=NAME, state="revoked") == [1]


async def test_what_has_just_happened_is_listed(mock_clock, world):
    station = Station(AVA)
    await world.connect(station)
    world.uplink(AVA)
    number = (await world.downlinks.send_method(eui=NAME, data="01"))["id"]
    await wait_all_tasks_blocked()
    assert await world.state(number) == ("at_station", AVA_NAME)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"count": 0}, "count: found 0, 1 to 10000 are possible"),
        ({"count": 10_001}, "count: found 10001, 1 to 10000 are possible"),
        (
            {"state": "lost"},
            "state: queued, at_station, sent, acknowledged, expired, invalid, revoked, rejected "
            "are possible",
        ),
    ],
)
async def test_what_cannot_be_listed_is_refused(mock_clock, world, options, error):
    with pytest.raises(InvalidRequestError) as caught:
        await world.downlinks.list_method(**options)
    assert said(caught) == (error, "", 2)


async def test_a_list_of_who_is_not_registered_is_refused(mock_clock, world):
    with pytest.raises(NotFoundError):
        await world.downlinks.list_method(eui="valve")


# --- cancelling ----------------------------------------------------------------------------


async def test_what_waits_is_revoked_at_once(mock_clock, world):
    await world.send()
    await world.later()
    assert await world.downlinks.cancel_method(id=1, timeout=0) == [
        SHAPE
        | {
            "state": "revoked",
            "intent": "revoke",
            "result": {
                "result": "revoked",
                "time": (START + SECOND) / 1e9,
                "bs_eui": None,
                "tx_time": None,
                "cnt": None,
                "code": None,
                "message": "",
                "acknowledged": None,
            },
        }
    ]
    assert world.on_disk() == [(1, "revoked")]
    assert world.events() == [(1, "queued"), (1, "revoked")]


async def at_station(world, **options) -> tuple[Station, int]:
    """A downlink that a base station holds."""
    station = Station(AVA)
    await world.connect(station)
    world.uplink(AVA)
    number = await world.send(**options)
    assert station.holds() == [number]
    return station, number


async def test_what_is_at_a_base_station_is_revoked_when_it_has_dropped_it(mock_clock, world):
    station, number = await at_station(world)
    station.pace = 2.0
    async with trio.open_nursery() as nursery:
        found: list[Any] = []

        async def cancel():
            found.extend(await world.downlinks.cancel_method(id=number))

        nursery.start_soon(cancel)
        await world.later(1.9)
        assert (found, world.events(number)) == ([], ["queued", "at_station"])
        await world.later(0.2)
    assert [(each["state"], each["bs_eui"]) for each in found] == [("revoked", AVA_NAME)]
    assert (station.holds(), world.events(number)[2:]) == ([], ["revoked"])


async def test_who_cancels_waits_no_longer_than_wanted(mock_clock, world):
    station, number = await at_station(world)
    await station.leave()
    found: list[Any] = []

    async def cancel():
        found.extend(await world.downlinks.cancel_method(id=number, timeout=5.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        await world.later(4.9)
        assert found == []
        await world.later(0.2)
    assert [(each["state"], each["intent"]) for each in found] == [("at_station", "revoke")]
    await world.connect(station, resume=True)
    assert station.heard() == [("dlDataQue", number), ("dlDataRev", number)]
    assert await world.state(number) == ("revoked", AVA_NAME)


async def test_what_is_cancelled_may_have_been_sent(mock_clock, world):
    station, number = await at_station(world)
    station.is_silent = True
    found: list[Any] = []

    async def cancel():
        found.extend(await world.downlinks.cancel_method(id=number))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        await wait_all_tasks_blocked()
        await world.report(AVA, result_of(number))
    assert [each["state"] for each in found] == ["sent"]


async def test_all_that_wait_for_a_sensor_can_be_cancelled(mock_clock, world):
    numbers = [await world.send() for _ in range(3)]
    await world.downlinks.cancel_method(id=numbers[0])
    other = await world.send(eui=METER_NAME)
    found = await world.downlinks.cancel_method(eui=NAME)
    assert [(each["id"], each["state"]) for each in found] == [
        (number, "revoked") for number in numbers[1:]
    ]
    assert await world.state(other) == ("queued", None)
    assert await world.downlinks.cancel_method(eui=NAME) == []


async def test_what_has_ended_is_shown_as_it_ended(mock_clock, world):
    _, number = await at_station(world)
    world.downlinks.detached(SENSOR, "revoked")
    (found,) = await world.downlinks.cancel_method(id=number)
    assert found["result"]["message"] == "the sensor is detached"
    assert world.events(number) == ["queued", "at_station", "revoked"]


async def test_what_was_sent_cannot_be_cancelled(mock_clock, world):
    station, number = await at_station(world)
    await world.open_window(station, cnt=5)
    (found,) = await world.downlinks.cancel_method(id=number)
    assert found["state"] == "sent"
    world.uplink(AVA, cnt=6, dl_ack=True)
    (found,) = await world.downlinks.cancel_method(id=number)
    assert found["state"] == "acknowledged"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, "the id of a downlink or the eui of a sensor is needed"),
        ({"id": 1, "eui": NAME}, "the id of a downlink or the eui of a sensor is needed"),
        ({"id": 1, "timeout": -1.0}, "cannot wait -1 s: 0 to 3600 are possible"),
        ({"id": 1, "timeout": math.nan}, "cannot wait nan s: 0 to 3600 are possible"),
    ],
)
async def test_what_cannot_be_cancelled_is_refused(mock_clock, world, options, error):
    with pytest.raises(InvalidRequestError) as caught:
        await world.downlinks.cancel_method(**options)
    assert said(caught) == (error, "", 2)


async def test_what_is_not_known_cannot_be_cancelled(mock_clock, world):
    with pytest.raises(NotFoundError) as caught:
        await world.downlinks.cancel_method(id=7)
    assert said(caught) == (
        "there is no downlink 7",
        "`bssci downlinks list` shows what there is",
        5,
    )


async def test_what_is_cancelled_while_the_disk_fails_is_told_all_the_same(
    mock_clock, world, path, impatient
):
    await world.send()
    with stuck_disk(path):
        with pytest.raises(StorageError):
            await world.downlinks.send_method(eui=METER_NAME, data="01")
        await world.downlinks.cancel_method(id=1)
        await world.downlinks.list_method()
    assert world.events(1) == ["queued", "revoked"]
    await world.settle()
    assert world.on_disk() == [(1, "revoked")]


# --- time ----------------------------------------------------------------------------------


async def test_what_waits_expires_in_its_time(mock_clock, world):
    await world.send(expires_in=100)
    await world.send()
    await world.send(expires_in=50)
    await world.later(49.9)
    assert world.events() == [(1, "queued"), (2, "queued"), (3, "queued")]
    await world.later(0.2)
    assert world.events()[3:] == [(3, "expired")]
    await world.later(50)
    assert world.events()[4:] == [(1, "expired")]
    world.lifetime = 10.0
    await world.send()
    await world.later(11)
    assert world.events()[5:] == [(4, "queued"), (4, "expired")]
    await world.later(LIFETIME)
    assert world.events()[7:] == [(2, "expired")]
    assert [state for _, state in world.on_disk()] == ["expired"] * 4


async def test_what_is_at_a_base_station_expires_when_it_has_dropped_it(mock_clock, world):
    station, number = await at_station(world, expires_in=10)
    station.pace = 1.0
    await world.later(10)
    assert station.heard() == [("dlDataQue", number), ("dlDataRev", number)]
    assert world.events(number) == ["queued", "at_station"]
    await world.later(1)
    assert (station.holds(), world.events(number)[2:]) == ([], ["expired"])


async def test_what_is_at_a_base_station_that_is_away_expires_and_is_dropped_when_it_is_back(
    mock_clock,
    world,
):
    station, number = await at_station(world, expires_in=10)
    await station.leave()
    await world.later(10)
    assert world.events(number)[2:] == ["expired"]
    await world.connect(station, resume=True)
    assert (station.holds(), world.events(number)[2:]) == ([], ["expired"])
    assert station.heard() == [("dlDataQue", number), ("dlDataRev", number)]


async def test_what_was_for_uplinks_that_have_gone_by_expires(mock_clock, world):
    number = await world.send(entries=[{"cnt": 7, "data": "01"}, {"cnt": 8, "data": "02"}])
    for cnt in (7, 8):
        world.uplink(AVA, cnt=cnt)
    assert world.events(number) == ["queued"]
    world.uplink(AVA, cnt=9)
    assert world.events(number) == ["queued", "expired"]


# --- results -------------------------------------------------------------------------------


async def test_a_downlink_goes_its_whole_way(mock_clock, world):
    station, number = await at_station(world, ref=7)
    await world.later()
    await world.open_window(station, cnt=5)
    assert world.on_disk() == [(number, "sent")]
    world.uplink(AVA, cnt=6, dl_ack=True)
    assert world.events(number) == ["queued", "at_station", "sent", "acknowledged"]
    downlink = Downlink(
        que_id=number,
        ep_eui=SENSOR,
        user_data=(b"\x01\xff",),
        ref=7,
        created_ns=START + SECOND,
        expires_ns=START + SECOND + int(LIFETIME) * SECOND,
    )
    sent = Ending(
        result="sent", at_ns=START + 2 * SECOND, bs_eui=AVA, tx_time=TX_TIME, packet_cnt=5
    )
    assert world.news[-1].record == DownlinkRecord(
        downlink=downlink, ending=sent, acknowledged_ns=START + 2 * SECOND
    )
    await world.settle()
    assert world.on_disk() == [(number, "acknowledged")]
    assert station.told[-1][1] == replace(message_of(downlink), op_id=-3)


async def test_what_the_next_uplink_does_not_acknowledge_stays_sent(mock_clock, world):
    station, number = await at_station(world)
    await world.open_window(station, cnt=5)
    world.uplink(AVA, cnt=6)
    world.uplink(AVA, cnt=7, dl_ack=True)
    assert world.events(number) == ["queued", "at_station", "sent"]


@pytest.mark.parametrize("result", ["sent", "expired", "invalid"])
async def test_a_result_is_on_disk_before_it_is_answered_and_told_once(mock_clock, world, result):
    _, number = await at_station(world)
    for _ in range(2):
        await world.downlinks.take_result(AVA, result_of(number, result))
        assert world.on_disk() == [(number, result)]
    assert world.events(number) == ["queued", "at_station", result]


async def test_a_result_that_cannot_be_put_on_disk_may_come_again(
    mock_clock, world, path, impatient
):
    _, number = await at_station(world)
    with stuck_disk(path), pytest.raises(StorageError):
        await world.downlinks.take_result(AVA, result_of(number))
    assert world.on_disk() == [(number, "at_station")]
    await world.downlinks.take_result(AVA, result_of(number))
    assert world.on_disk() == [(number, "sent")]
    assert world.events(number) == ["queued", "at_station", "sent"]


async def test_that_it_was_sent_overrules_what_was_told_however_late(mock_clock, world):
    _, number = await at_station(world)
    await world.downlinks.cancel_method(id=number)
    assert world.events(number) == ["queued", "at_station", "revoked"]
    await world.later(600)
    await world.downlinks.take_result(AVA, result_of(number))
    assert world.events(number)[3:] == ["sent"]
    assert world.news[-1].overrules == "revoked"
    assert world.on_disk() == [(number, "sent")]
    (shape,) = await world.downlinks.list_method()
    assert shape["result"] == {
        "result": "sent",
        "time": world.unix_ns() / 1e9,
        "bs_eui": AVA_NAME,
        "tx_time": TX_TIME / 1e9,
        "cnt": 5,
        "code": None,
        "message": "",
        "acknowledged": None,
    }


async def test_that_it_was_sent_overrules_what_was_told_just_before(mock_clock, world):
    _, number = await at_station(world)
    world.downlinks.detached(SENSOR, "revoked")
    await world.downlinks.take_result(AVA, result_of(number))
    assert world.events(number) == ["queued", "at_station", "revoked", "sent"]
    assert world.on_disk() == [(number, "sent")]


async def test_late_results_that_say_nothing_new_are_not_told(mock_clock, world):
    _, number = await at_station(world)
    await world.downlinks.cancel_method(id=number)
    told = list(world.news)
    await world.downlinks.take_result(AVA, result_of(number, "expired"))
    await world.downlinks.take_result(AVA, result_of(number, ep_eui=METER))
    await world.downlinks.take_result(AVA, result_of(99))
    assert (world.news, world.on_disk()) == (told, [(number, "revoked")])


async def test_what_no_base_station_would_take_is_rejected(mock_clock, world):
    station = Station(AVA)
    station.refuses_to["dlDataQue"] = (Code.EINVAL, "too long")
    await world.connect(station)
    world.uplink(AVA)
    number = await world.send()
    assert world.events(number) == ["queued", "rejected"]
    (shape,) = await world.downlinks.list_method()
    assert (shape["result"]["code"], shape["result"]["message"]) == (22, "too long")


# --- how end points receive ----------------------------------------------------------------


async def test_a_sensor_tells_how_it_receives_if_it_is_asked(mock_clock, world):
    station, number = await at_station(world, query_rx=True)
    assert station.heard() == [("dlRxStatQry", 0), ("dlDataQue", number)]
    assert world.downlinks.reception(SENSOR) is None
    await world.later()
    await world.open_window(station, cnt=5)
    report = replace(reception_of(), dl_rx_snr=10.0, dl_rx_rssi=-90.0)
    assert world.receptions == [(AVA, report)]
    assert world.downlinks.reception(SENSOR) == {
        "bs_eui": AVA_NAME,
        "time": (START + 2 * SECOND) / 1e9,
        "cnt": 5,
        "snr": 10.0,
        "rssi": -90.0,
    }
    world.downlinks.detached(SENSOR, "revoked")
    assert world.downlinks.reception(SENSOR) is None


async def test_what_strangers_receive_is_not_kept(mock_clock, world):
    world.downlinks.take_reception(AVA, reception_of(SENSOR + 99))
    assert (world.receptions, world.downlinks.reception(SENSOR + 99)) == ([], None)


# --- the way -------------------------------------------------------------------------------


async def stations(world, *euis: int) -> list[Station]:
    found = [Station(bs_eui) for bs_eui in euis]
    await world.connect(*found)
    return found


def where(number, *found: Station) -> list[int]:
    """The base stations that hold it."""
    return [each.bs_eui for each in found if number in each.holds()]


async def test_it_goes_where_the_latest_uplink_was_heard_best(mock_clock, world):
    found = await stations(world, AVA, DIEHL, MIROMICO)
    world.uplink(AVA, cnt=1)
    world.uplink(DIEHL, MIROMICO, AVA, cnt=2)
    number = await world.send()
    assert where(number, *found) == [DIEHL]
    assert await world.state(number) == ("at_station", DIEHL_NAME)


async def test_an_old_uplink_that_is_issued_again_says_nothing_of_the_way(mock_clock, world):
    found = await stations(world, AVA, DIEHL)
    world.uplink(AVA, cnt=1)
    again = uplink_of(2, snr=20.0, rx_time=world.unix_ns() - 6 * SECOND)
    world.downlinks.heard(DIEHL, again, is_reissued=True)
    assert where(await world.send(), *found) == [AVA]


async def test_a_new_uplink_that_is_taken_for_one_issued_again_says_where_to_go(mock_clock, world):
    """After a crash nobody knows which operation IDs of a base station are new."""
    found = await stations(world, AVA, DIEHL)
    number = await world.send()
    new = uplink_of(1, dl_open=True, rx_time=world.unix_ns() - 4 * SECOND)
    world.downlinks.heard(DIEHL, new, is_reissued=True)
    await world.settle()
    assert where(number, *found) == [DIEHL]


async def test_an_old_uplink_that_is_issued_again_may_still_acknowledge(mock_clock, world):
    station, number = await at_station(world)
    await world.open_window(station, cnt=5)
    await world.later(60)
    world.downlinks.heard(AVA, uplink_of(6, dl_ack=True), is_reissued=True)
    assert world.events(number)[-1] == "acknowledged"


async def test_what_an_end_point_said_before_it_attached_anew_says_nothing(mock_clock, world):
    number = await world.send(entries=[{"cnt": 7, "data": "01"}])
    await world.later(60)
    await world.house.over_the_air.attach(AVA, attach_of(1))
    attached_ns = world.house.life.attachments[SENSOR].at_ns
    for rx_time in (attached_ns - 1, attached_ns):
        assert world.events(number) == ["queued"]
        world.downlinks.heard(AVA, uplink_of(900, rx_time=rx_time), is_reissued=True)
    assert world.events(number) == ["queued", "expired"]


async def test_who_cannot_transmit_or_does_not_serve_the_sensor_is_passed_over(mock_clock, world):
    deaf, mute, good = Station(AVA), Station(DIEHL), Station(MIROMICO)
    deaf.refuses_to["attPrp"] = (Code.ENOSPC, "no room")
    world.mute.add(DIEHL)
    await world.connect(deaf, mute, good)
    world.uplink(AVA, DIEHL, MIROMICO)
    assert where(await world.send(), deaf, mute, good) == [MIROMICO]


async def test_it_waits_for_a_sensor_that_nobody_has_heard(mock_clock, world):
    found = await stations(world, AVA, DIEHL)
    number = await world.send()
    await world.later(60)
    assert where(number, *found) == []
    assert world.events(number) == ["queued"]


async def test_an_uplink_with_a_window_has_it_queued_at_once(mock_clock, world):
    found = await stations(world, AVA, DIEHL)
    number = await world.send()
    at = trio.current_time()
    world.uplink(DIEHL, dl_open=True)
    await wait_all_tasks_blocked()
    assert where(number, *found) == [DIEHL]
    assert found[1].told[-1] == (
        at,
        replace(message_of(world.news[0].record.downlink), op_id=-3),
    )


async def test_it_goes_to_who_took_the_attach(mock_clock, world):
    found = await stations(world, AVA, DIEHL)
    world.uplink(AVA, cnt=1)
    world.downlinks.attached(SENSOR, DIEHL)
    assert where(await world.send(), *found) == [DIEHL]


async def test_what_waits_goes_to_who_takes_the_attach(mock_clock, world):
    found = await stations(world, AVA, DIEHL)
    number = await world.send()
    world.downlinks.attached(SENSOR, DIEHL)
    await world.settle()
    assert where(number, *found) == [DIEHL]


async def test_what_waits_goes_to_who_took_the_attach_once_that_is_completed(mock_clock, world):
    (station,) = await stations(world, AVA)
    await world.house.want(end_point(bidi=True, ota=True))
    await world.settle()
    number = await world.send()
    message, over_the_air = attach_of(1), world.house.over_the_air
    await over_the_air.attach(AVA, message)
    world.downlinks.attached(SENSOR, AVA)
    await world.settle()
    assert station.heard() == []
    over_the_air.attach_completed(AVA, message)
    station.holdings.end_points[SENSOR] = attach_propagate(end_point(bidi=True))
    for ep_eui in (SENSOR, METER):
        world.downlinks.served(ep_eui)
    await world.settle()
    assert where(number, station) == [AVA]


async def test_after_a_restart_it_goes_to_who_heard_it_best_before(mock_clock, path):
    async with open_world(mock_clock, path, await a_house()) as world:
        for cnt in range(3):
            world.house.hear(SENSOR, DIEHL, AVA, cnt=cnt)
    async with next_process(world) as again:
        found = await stations(again, AVA, DIEHL)
        assert where(await again.send(), *found) == [DIEHL]


async def test_after_a_restart_it_goes_to_who_took_the_attach_of_one_never_heard(mock_clock, path):
    async with open_world(mock_clock, path, await a_house()) as world:
        await world.house.over_the_air.attach(DIEHL, attach_of(1))
    async with next_process(world) as again:
        found = await stations(again, AVA, DIEHL)
        assert where(await again.send(), *found) == [DIEHL]


async def test_uplinks_of_those_who_cannot_receive_are_passed_over(mock_clock, world):
    found = await stations(world, AVA)
    await world.house.want(end_point(METER, bidi=False))
    for ep_eui in (METER, METER + 99):
        world.uplink(AVA, ep_eui=ep_eui, dl_open=True)
    await world.house.want(end_point(METER, bidi=True))
    await world.later()
    assert where(await world.send(eui=METER_NAME), *found) == []


async def test_what_has_priority_goes_first(mock_clock, world):
    (station,) = await stations(world, AVA)
    numbers = [await world.send(prio=prio) for prio in (0.0, 2.0, 1.0)]
    world.uplink(AVA, dl_open=True)
    await world.settle()
    assert station.heard() == [("dlDataQue", numbers[each]) for each in (1, 2, 0)]


async def test_what_one_refuses_goes_to_the_next_best(mock_clock, world):
    full, good = await stations(world, AVA, DIEHL)
    full.refuses_to["dlDataQue"] = (Code.ENOSPC, "no room")
    world.uplink(AVA, DIEHL)
    number = await world.send()
    assert where(number, full, good) == [DIEHL]
    assert world.events(number) == ["queued", "at_station"]


async def test_what_all_refuse_is_tried_again(mock_clock, world):
    (full,) = await stations(world, AVA)
    full.refuses_to["dlDataQue"] = (Code.ENOSPC, "no room")
    world.uplink(AVA)
    number = await world.send()
    full.refuses_to.clear()
    await world.later(59)
    assert full.heard() == [("dlDataQue", number)]
    await world.later(1)
    assert full.holds() == [number]


async def test_what_could_not_be_put_on_disk_for_it_is_tried_again_soon(mock_clock, world):
    (station,) = await stations(world, AVA)
    world.uplink(AVA)
    station.fault = StorageError("no space left on the disk", code=Code.ENOSPC)
    number = await world.send()
    assert (station.heard(), await world.state(number)) == ([], ("queued", None))
    station.fault = None
    await world.later()
    assert station.holds() == [number]


@pytest.mark.parametrize("que_id", [2**53, 2**63, 2**64 - 1])
async def test_a_result_of_a_queue_id_that_was_never_ours_is_let_by(mock_clock, world, que_id):
    await stations(world, AVA)
    await world.report(AVA, result_of(que_id))
    assert world.news == []


async def test_who_does_not_answer_may_hold_it_and_nobody_else_gets_it(mock_clock, world):
    silent, other = await stations(world, AVA, DIEHL)
    world.uplink(AVA, DIEHL)
    silent.is_silent = True
    number = await world.send()
    await world.later(OPERATION_TIMEOUT + 1)
    world.uplink(DIEHL, AVA, cnt=2)
    await world.later(60)
    assert await world.state(number) == ("queued", AVA_NAME)
    assert (len(silent.heard()), other.heard()) == (1, [])
    await world.downlinks.cancel_method(id=number, timeout=0)
    assert query(world.path, "SELECT intent FROM downlinks") == [("revoke",)]
    await world.settle()
    assert silent.heard() == [("dlDataQue", number), ("dlDataRev", number)]


async def test_one_base_station_is_told_so_many_at_once(mock_clock, world):
    (station,) = await stations(world, AVA)
    world.most = 40
    numbers = [await world.send() for _ in range(40)]
    station.pace = 1.0
    world.uplink(AVA, dl_open=True)
    for _ in range(4):
        await world.later(1)
    assert station.most_at_once == WINDOW
    assert sorted(station.holds()) == numbers


# --- base stations that come and go --------------------------------------------------------


async def test_what_is_at_a_base_station_that_is_away_waits_there(mock_clock, world):
    away, other = await stations(world, AVA, DIEHL)
    world.uplink(AVA, DIEHL)
    number = await world.send()
    await away.leave()
    world.uplink(DIEHL, cnt=2, dl_open=True)
    await world.later(60)
    assert await world.state(number) == ("at_station", AVA_NAME)
    await world.connect(away, resume=True)
    assert where(number, away, other) == [AVA]
    assert (away.heard(), other.heard()) == ([("dlDataQue", number)], [])


async def test_in_a_new_session_it_is_queued_again_under_the_same_id(mock_clock, world):
    station, number = await at_station(world)
    await station.leave()
    await world.connect(station)
    assert station.heard() == [("dlDataQue", number)] * 2
    assert station.holds() == [number]
    assert world.events(number) == ["queued", "at_station", "at_station"]


async def test_in_a_new_session_it_goes_where_the_sensor_is_heard_now(mock_clock, world):
    station, other = await stations(world, AVA, DIEHL)
    world.uplink(AVA)
    number = await world.send()
    await station.leave()
    world.uplink(DIEHL, cnt=2)
    await world.connect(station)
    assert where(number, station, other) == [DIEHL]


async def test_what_a_resumed_session_issues_again_is_not_told_as_well(mock_clock, world):
    (station,) = await stations(world, AVA)
    world.uplink(AVA)
    station.is_silent = True
    number = await world.send()
    await station.leave()
    station.is_silent = False
    await world.connect(station, resume=True)
    assert [each.op_id for _, each in station.told if isinstance(each, DownlinkDataQueue)] == [
        -3,
        -3,
    ]
    assert station.holds() == [number]
    assert world.events(number) == ["queued", "at_station"]


async def test_what_the_session_issues_again_and_nobody_answers_can_be_taken_back(
    mock_clock, world
):
    (station,) = await stations(world, AVA)
    world.uplink(AVA)
    station.is_silent = True
    number = await world.send()
    await station.leave()
    await world.connect(station, resume=True)
    await world.downlinks.cancel_method(id=number, timeout=0)
    await world.later(OPERATION_TIMEOUT - 2)
    assert station.heard(DownlinkDataRevoke) == []
    await world.later(2)
    assert station.heard(DownlinkDataRevoke) == [("dlDataRev", number)]


async def test_after_an_attach_propagate_it_is_queued_again_under_the_same_id(mock_clock, world):
    station, number = await at_station(world)
    await world.later(2 * GRACE)
    await world.house.want(end_point(bidi=True, short_addr=0x4711))
    await world.settle()
    assert station.heard(AttachPropagate, DownlinkDataQueue) == [
        ("attPrp", 0),
        ("attPrp", 0),
        ("dlDataQue", number),
        ("attPrp", 0),
        ("dlDataQue", number),
    ]
    assert station.holds() == [number]
    assert world.downlinks.counts() == {"queued": 0, "at_station": 1}


@pytest.mark.parametrize("is_reissued", [False, True])
async def test_what_may_just_have_been_sent_is_queued_again_after_a_while(
    mock_clock, world, is_reissued
):
    station, number = await at_station(world)
    await world.later(60)
    heard = uplink_of(2, dl_open=True)
    world.downlinks.heard(AVA, heard, is_reissued=is_reissued)
    await world.house.want(end_point(bidi=True, short_addr=0x4711))
    await world.later(GRACE - 1)
    assert station.heard() == [("dlDataQue", number)]
    await world.later(2)
    assert station.heard() == [("dlDataQue", number)] * 2


def settled(world, *receivers: int, cnt: int = 2, is_open: bool = True) -> None:
    """All who have received an uplink with a window are known."""
    telegram = telegram_of(SENSOR, *receivers, cnt=cnt, snr=10.0, at_ns=world.unix_ns())
    heard = tuple(
        replace(
            each,
            reception=replace(
                each.reception, uplink=replace(each.reception.uplink, dl_open=is_open)
            ),
        )
        for each in telegram.receptions
    )
    world.downlinks.settled([replace(telegram, receptions=heard)])


async def test_it_moves_to_who_hears_the_sensor_now(mock_clock, world):
    before, after = await stations(world, AVA, DIEHL)
    world.uplink(AVA)
    number = await world.send()
    world.uplink(DIEHL, cnt=2, dl_open=True)
    settled(world, DIEHL)
    await world.settle()
    assert before.heard() == [("dlDataQue", number), ("dlDataRev", number)]
    assert where(number, before, after) == [DIEHL]
    assert world.events(number) == ["queued", "at_station", "at_station"]


async def test_it_does_not_move_before_it_is_certain_that_it_was_not_sent(mock_clock, world):
    before, after = await stations(world, AVA, DIEHL)
    world.uplink(AVA)
    number = await world.send()
    before.holdings.open_window(uplink_of(1), tx_time=TX_TIME)  # the report is on its way
    world.uplink(DIEHL, cnt=2, dl_open=True)
    settled(world, DIEHL)
    await world.later(GRACE - 1)
    assert where(number, before, after) == []
    await world.downlinks.take_result(AVA, result_of(number))
    await world.later(60)
    assert (world.events(number), after.heard()) == (["queued", "at_station", "sent"], [])


@pytest.mark.parametrize(
    ("receivers", "is_open"), [((AVA, DIEHL), True), ((DIEHL,), False), ((MIROMICO,), True)]
)
async def test_it_stays_where_the_sensor_is_heard_or_nobody_else_could_take_it(
    mock_clock, world, receivers, is_open
):
    before, after = await stations(world, AVA, DIEHL)
    world.uplink(AVA)
    number = await world.send()
    settled(world, *receivers, is_open=is_open)
    await world.later(60)
    assert (before.heard(), after.heard()) == ([("dlDataQue", number)], [])


async def test_telegrams_of_those_for_whom_nothing_waits_are_passed_over(mock_clock, world):
    settled(world, AVA)
    assert world.news == []


async def test_what_waits_for_a_sensor_that_is_detached_ends(mock_clock, world):
    station, number = await at_station(world)
    other = await world.send(eui=METER_NAME)
    await world.house.want(end_point(bidi=True), wanted="detached")
    world.downlinks.detached(SENSOR, "expired")
    await world.settle()
    assert await world.state(number) == ("expired", AVA_NAME)
    assert world.news[-1].record.ending == Ending(
        result="expired", at_ns=world.unix_ns(), bs_eui=AVA, message="the sensor is detached"
    )
    assert (station.heard(), station.holds()) == ([("dlDataQue", number)], [])
    assert await world.state(other) == ("queued", None)


async def test_after_a_detach_nothing_is_known_of_the_way(mock_clock, world):
    found = await stations(world, AVA)
    world.uplink(AVA)
    world.downlinks.detached(SENSOR, "revoked")
    assert where(await world.send(), *found) == []


async def test_outcomes_of_other_operations_are_nothing_of_ours(mock_clock, world):
    await at_station(world)
    answered = Answered(
        Status(), StatusResponse(code=0, message="", time=0, duty_cycle=0, uptime=1)
    )
    told = list(world.news)
    world.downlinks.take_outcomes(AVA, [answered, Refused(Status(), 95, "no")])
    assert world.news == told


# --- from one process to the next ----------------------------------------------------------


async def test_every_state_is_taken_up_again(mock_clock, path):
    async with open_world(mock_clock, path, await a_house()) as world:
        world.most = 10
        ava, diehl = await stations(world, AVA, DIEHL)
        world.uplink(AVA, DIEHL)
        sent, acknowledged, held, dropped, expired = [await world.send() for _ in range(5)]
        await world.report(AVA, result_of(acknowledged))
        world.uplink(AVA, cnt=6, dl_ack=True)
        await world.report(AVA, result_of(sent, packet_cnt=6))
        await world.report(AVA, result_of(expired, "expired"))
        ava.is_silent = True
        await world.downlinks.cancel_method(id=dropped, timeout=0)
        told = await world.send()
        await world.settle()
        waits = await world.send(eui=METER_NAME)
        for station in (ava, diehl):
            await station.leave()
        await world.settle()
        listed = await world.downlinks.list_method()
    assert [(each["id"], each["state"], each["intent"]) for each in listed] == [
        (waits, "queued", "deliver"),
        (told, "queued", "deliver"),
        (expired, "expired", "deliver"),
        (dropped, "at_station", "revoke"),
        (held, "at_station", "deliver"),
        (acknowledged, "acknowledged", "deliver"),
        (sent, "sent", "deliver"),
    ]
    async with next_process(world) as again:
        assert await again.downlinks.list_method() == listed
        assert again.downlinks.counts() == {"queued": 2, "at_station": 2}
        assert again.news == []
        before = len(ava.told)
        ava.is_silent = False
        await again.connect(ava, resume=True)
        reissued = {(each.command, getattr(each, "que_id", 0)) for _, each in ava.told[before:]}
        assert reissued == {("dlDataRev", dropped), ("dlDataQue", told)}
        assert sorted(again.events()) == [(dropped, "revoked"), (told, "at_station")]
        again.uplink(AVA, cnt=7, dl_ack=True)
        assert again.events()[2:] == [(sent, "acknowledged")]
        assert where(held, ava) == [AVA]
        assert await again.send() == waits + 1


async def test_what_was_at_a_base_station_is_queued_again_in_its_new_session(mock_clock, path):
    async with open_world(mock_clock, path, await a_house()) as world:
        station, number = await at_station(world)
        await station.leave()
    async with next_process(world) as again:
        await again.connect(station)
        again.uplink(AVA, cnt=2, dl_open=True)
        await again.settle()
        assert station.heard() == [("dlDataQue", number)] * 2
        assert station.holds() == [number]


async def test_what_was_chosen_and_not_issued_is_told_elsewhere_after_a_crash(mock_clock, path):
    async with open_world(mock_clock, path, await a_house()) as world:
        (station,) = await stations(world, AVA)
        world.uplink(AVA)
        await station.leave()
        await world.send()
        held = replace(world.news[0].record, holder=AVA)
        world.ledger.note(held)
        await world.settle()
    async with next_process(world) as again:
        found = [station, Station(DIEHL)]
        await again.connect(station, resume=True)
        await again.connect(found[1])
        await again.later(GRACE)
        again.uplink(DIEHL, cnt=2, dl_open=True)
        await again.settle()
        assert where(1, *found) == [DIEHL]


async def test_what_was_too_late_while_nobody_was_there_has_expired(mock_clock, path):
    async with open_world(mock_clock, path, await a_house()) as world:
        await world.send(expires_in=60)
        await world.send(expires_in=600)
    mock_clock.jump(120)
    async with next_process(world) as again:
        await again.settle()
        assert again.events() == [(1, "expired")]
        assert again.on_disk() == [(1, "expired"), (2, "queued")]
        await again.later(480)
        assert again.events() == [(1, "expired"), (2, "expired")]


async def test_what_waits_for_who_was_detached_before_a_crash_has_ended(mock_clock, path):
    async with open_world(mock_clock, path, await a_house()) as world:
        await world.send()
        await world.send(eui=METER_NAME)
        await world.house.want(end_point(bidi=True), wanted="detached")
        await world.house.life.forget([METER], "command")
    async with next_process(world) as again:
        assert sorted(again.events()) == [(1, "revoked"), (2, "revoked")]
        assert again.downlinks.counts() == {"queued": 0, "at_station": 0}


async def test_a_database_that_cannot_be_read_is_an_error(mock_clock, world, monkeypatch):
    async def fail():
        await trio.lowlevel.checkpoint()
        raise StorageError("it is damaged", code=Code.EIO)

    monkeypatch.setattr(world.ledger, "pending", fail)
    with pytest.raises(StorageError):
        await world.downlinks.load()


async def test_what_is_stored_is_what_is_told(mock_clock, world):
    """Ref and data of every kind come back from the disk as they went there."""
    for number, ref in enumerate(("order 7", 7, 7.5, "ä")):
        await world.send([number], ref=ref)
    refs = [json.loads(str(ref)) for (ref,) in query(world.path, "SELECT ref FROM downlinks")]
    assert refs == ["order 7", 7, 7.5, "ä"]
    assert [each["ref"] for each in await world.downlinks.list_method()] == refs[::-1]
