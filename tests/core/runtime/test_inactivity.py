"""Silence: who is warned about and detached for it, and above all who is not."""

import json
import logging
from dataclasses import replace

import pytest
import trio

from bssci.core.center.happenings import Happening
from bssci.core.center.records import Hearing, Preferred, Spread, Wish
from bssci.core.center.roster import Limits
from bssci.core.protocol.errors import StorageError
from bssci.core.runtime import inactivity as inactivity_module
from bssci.core.runtime.inactivity import NOTE_INTERVAL, RETRY
from tests.life_fakes import (
    AVA,
    DAY,
    DIEHL,
    FULL,
    METER,
    MIROMICO,
    NOON,
    SECOND,
    SENSOR,
    FakeStation,
    FakeStore,
    edit,
    end_point,
    open_house,
)

# Minutes stand for what are hours in a real installation, and look as often as it takes.
MINUTE = 60  # seconds
MINUTES = MINUTE * SECOND  # ns
LIMITS = Limits(warn_ns=24 * MINUTES, detach_ns=36 * MINUTES)
CHECK_INTERVAL = 10.0
YEAR = 365 * DAY

INACTIVITY = ("warning", "warning_withdrawn", "auto_detached", "attach", "heard_detached")


class Running:
    """A house whose sensors are watched, with base stations that are connected."""

    def __init__(self, house, nursery):
        self.house = house
        self.scope = trio.CancelScope()
        self.nursery = nursery
        self.stations: dict[int, FakeStation] = {}
        self.is_over = trio.Event()

    async def connect(self, *stations):
        for bs_eui in stations:
            station = self.stations.setdefault(bs_eui, FakeStation(bs_eui))
            await self.nursery.start(station.serve, self.house.life)

    async def run(self):
        with self.scope:
            await self.house.inactivity.run()
        self.is_over.set()

    async def stop(self):
        """The process ends in an orderly way; what the next one finds."""
        self.scope.cancel()
        await self.is_over.wait()
        for station in self.stations.values():
            if station.is_open:
                await station.leave()
        return self.house.store.close()

    def events(self):
        return self.house.events(*INACTIVITY)


async def start(
    nursery, *stations, store=None, limits=LIMITS, check_interval=CHECK_INTERVAL, jump=0
):
    """One sensor that is to be attached, and base stations that are connected."""
    house = await open_house(store, limits=limits, check_interval=check_interval)
    house.jump_ns = jump * SECOND
    running = Running(house, nursery)
    if store is None:
        await running.house.want(end_point())
    nursery.start_soon(running.run)
    await running.connect(*stations)
    await trio.sleep(1)
    return running


# --- what is learned -----------------------------------------------------------------------


async def test_what_is_heard_is_learned(nursery, autojump_clock):
    running = await start(nursery, AVA, DIEHL)
    house = running.house
    house.receivers[SENSOR] = frozenset({AVA, DIEHL})
    house.hear(SENSOR, AVA, DIEHL, cnt=1, snr=10.0)
    await trio.sleep(10)
    house.hear(SENSOR, AVA, cnt=2, snr=14.0)
    assert house.life.roster.hearing(SENSOR) == Hearing(
        uplinks=2,
        last_seen_ns=NOON + 11 * SECOND,
        last_cnt=2,
        last_snr=14.0,
        last_rssi=-90.0,
        snr=Spread(mean=12.0, least=10.0, most=14.0, squares=8.0),
        rssi=Spread(mean=-90.0, least=-90.0, most=-90.0, squares=0.0),
        preferred=Preferred(bs_eui=AVA, snr=14.0, updated_ns=NOON + 11 * SECOND, messages=2),
        receivers=frozenset({AVA, DIEHL}),
        heard_at=10 * SECOND,
    )
    assert house.events(*INACTIVITY) == []


async def test_what_is_not_registered_is_not_learned(nursery, autojump_clock):
    running = await start(nursery, AVA)
    running.house.hear(METER, AVA)
    assert running.house.life.roster.hearing(METER) is None
    await running.house.want(end_point(METER))
    assert running.house.inactivity.activity(METER) == "never_seen"


async def test_who_usually_hears_it_may_change_without_a_jump_of_its_silence(
    nursery, autojump_clock
):
    running = await start(nursery, AVA)
    house = running.house
    house.hear(SENSOR, AVA)
    await trio.sleep(20 * MINUTE)
    house.receivers[SENSOR] = frozenset({DIEHL})
    await running.connect(DIEHL)
    house.hear(SENSOR, DIEHL, cnt=2)
    assert house.inactivity.silent_ns(SENSOR) == 0
    await trio.sleep(MINUTE)
    assert house.inactivity.silent_ns(SENSOR) == MINUTES
    assert house.life.clocks.readings(now_ns=0).keys() == {frozenset({DIEHL})}


async def test_what_was_heard_is_written_down_now_and_then_and_at_the_end(nursery, autojump_clock):
    running = await start(nursery, AVA)
    house = running.house
    house.hear(SENSOR, AVA)
    await trio.sleep(NOTE_INTERVAL)
    house.store.write_notes()
    first = house.life.roster.hearing(SENSOR)
    assert (house.store.disk.hearings, house.store.disk.through) == ({SENSOR: first}, 1)
    house.hear(SENSOR, AVA, cnt=2)
    store = await running.stop()
    assert (store.disk.hearings, store.disk.through) == (
        {SENSOR: house.life.roster.hearing(SENSOR)},
        2,
    )
    assert store.disk.clocks == {frozenset({AVA}): 10 * SECOND}


async def test_where_nothing_was_heard_nothing_is_written(nursery, autojump_clock):
    running = await start(nursery)
    running.house.store.write_notes()
    await trio.sleep(MINUTE)
    assert running.house.store._notes == []


async def test_clocks_that_nobody_uses_are_forgotten_on_disk(nursery, autojump_clock):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(NOTE_INTERVAL)
    await running.house.life.forget([SENSOR], "command")
    await trio.sleep(NOTE_INTERVAL)
    running.house.store.write_notes()
    assert running.house.store.disk.clocks == {}


# --- after a crash -------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 1_000])
async def test_after_a_crash_each_uplink_counts_once(nursery, autojump_clock, monkeypatch, page):
    monkeypatch.setattr(inactivity_module, "PAGE", page)
    running = await start(nursery, AVA)
    house = running.house
    for cnt in (1, 2):
        house.hear(SENSOR, AVA, cnt=cnt, snr=10.0 + cnt)
    await trio.sleep(NOTE_INTERVAL)
    house.store.write_notes()
    for cnt in (3, 4):
        house.hear(SENSOR, AVA, cnt=cnt, snr=10.0 + cnt)
    house.hear(METER, AVA)
    house.hear(SENSOR, AVA, cnt=5, snr=15.0, is_lost=True)
    known = await open_house(house.store.crash())
    assert known.life.roster.hearing(SENSOR) == Hearing(
        uplinks=5,
        last_seen_ns=NOON + 11 * SECOND,
        last_cnt=5,
        last_snr=15.0,
        last_rssi=-90.0,
        snr=Spread(mean=13.0, least=11.0, most=15.0, squares=10.0),
        rssi=Spread(mean=-90.0, least=-90.0, most=-90.0, squares=0.0),
        preferred=Preferred(bs_eui=AVA, snr=15.0, updated_ns=NOON + 11 * SECOND, messages=5),
        receivers=frozenset({AVA}),
        heard_at=9 * SECOND,
    )
    known.hear(SENSOR, AVA, cnt=6)
    again = await open_house(known.store.crash())
    hearing = again.life.roster.hearing(SENSOR)
    assert hearing is not None
    assert hearing.uplinks == 6
    # Twice crashed in a row, without a note in between.
    third = await open_house(again.store.crash())
    assert third.life.roster.hearing(SENSOR) == hearing


async def test_after_an_orderly_end_nothing_is_counted_again(nursery, autojump_clock):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    known = await open_house(await running.stop())
    assert known.life.roster.hearing(SENSOR) == running.house.life.roster.hearing(SENSOR)


async def test_receivers_that_were_known_are_kept_if_one_of_them_heard_it(nursery, autojump_clock):
    running = await start(nursery, AVA)
    house = running.house
    house.receivers[SENSOR] = frozenset({AVA, DIEHL})
    house.hear(SENSOR, AVA)
    await trio.sleep(NOTE_INTERVAL)
    house.store.write_notes()
    house.hear(SENSOR, DIEHL, MIROMICO, is_lost=True)
    known = await open_house(house.store.crash())
    hearing = known.life.roster.hearing(SENSOR)
    assert hearing is not None
    assert (hearing.uplinks, set(hearing.receivers)) == (2, {AVA, DIEHL})


async def test_receivers_of_whom_none_heard_it_are_known_no_more(autojump_clock):
    house = await open_house()
    await house.want(end_point())
    for cnt, bs_eui in enumerate((AVA, DIEHL)):
        house.hear(SENSOR, bs_eui, cnt=cnt, is_lost=True)
    known = (await open_house(house.store.crash())).life.roster.hearing(SENSOR)
    assert known is not None
    assert (known.uplinks, set(known.receivers)) == (2, {DIEHL})


async def test_notes_that_cannot_be_read_are_an_error(autojump_clock):
    house = await open_house()
    house.store.fault = FULL
    with pytest.raises(StorageError):
        await house.inactivity.load()


# --- warning and detach --------------------------------------------------------------------


async def test_silence_is_warned_of_once_and_then_has_it_detached(nursery, autojump_clock):
    running = await start(nursery, AVA)
    house = running.house
    house.hear(SENSOR, AVA)
    await trio.sleep(35 * MINUTE)
    assert [each for each in house.told if each.event in INACTIVITY] == [
        Happening(
            event="warning",
            at_ns=NOON + 24 * MINUTES + 10 * SECOND,
            wish=Wish(
                end_point=end_point(),
                wanted="attached",
                cause="command",
                since_ns=NOON,
                is_announced=True,
            ),
            silent_ns=24 * MINUTES + 9 * SECOND,
            warn_ns=24 * MINUTES,
            detach_ns=36 * MINUTES,
        )
    ]
    assert house.inactivity.activity(SENSOR) == "warning"
    await trio.sleep(2 * MINUTE)
    assert [each for each in house.told if each.event in INACTIVITY][1:] == [
        Happening(
            event="auto_detached",
            at_ns=NOON + 36 * MINUTES + 10 * SECOND,
            wish=Wish(
                end_point=end_point(),
                wanted="detached",
                cause="inactivity",
                since_ns=NOON + 36 * MINUTES + 10 * SECOND,
                is_announced=True,
            ),
            silent_ns=36 * MINUTES + 9 * SECOND,
            warn_ns=24 * MINUTES,
            detach_ns=36 * MINUTES,
        )
    ]
    assert running.stations[AVA].heard_of() == [("attPrp", SENSOR), ("detPrp", SENSOR)]
    assert house.inactivity.activity(SENSOR) == "auto_detached"
    assert house.events("detached") == []
    await trio.sleep(200 * MINUTE)
    assert running.events() == [("warning", SENSOR), ("auto_detached", SENSOR)]


async def test_a_warning_is_withdrawn_when_the_sensor_speaks(nursery, autojump_clock):
    running = await start(nursery, AVA)
    house = running.house
    house.hear(SENSOR, AVA)
    await trio.sleep(30 * MINUTE)
    house.hear(SENSOR, AVA, cnt=2)
    assert running.events() == [("warning", SENSOR), ("warning_withdrawn", SENSOR)]
    house.hear(SENSOR, AVA, cnt=3)
    await trio.sleep(20 * MINUTE)
    assert running.events() == [("warning", SENSOR), ("warning_withdrawn", SENSOR)]
    assert house.inactivity.activity(SENSOR) == "active"
    await trio.sleep(10 * MINUTE)
    assert running.events()[2:] == [("warning", SENSOR)]


async def test_a_warning_is_sent_once_over_a_restart(nursery, autojump_clock):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(30 * MINUTE)
    again = await start(nursery, AVA, store=await running.stop())
    await trio.sleep(5 * MINUTE)
    assert again.events() == []
    again.house.hear(SENSOR, AVA, cnt=2)
    assert again.events() == [("warning_withdrawn", SENSOR)]


async def test_one_that_was_never_heard_is_left_alone(nursery, autojump_clock):
    running = await start(nursery, AVA)
    await trio.sleep(200 * MINUTE)
    assert running.events() == []
    assert running.house.inactivity.activity(SENSOR) == "never_seen"
    assert running.house.inactivity.silent_ns(SENSOR) == 0


async def test_one_that_is_detached_anyway_is_left_alone(nursery, autojump_clock):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await running.house.want(end_point(), wanted="detached")
    await trio.sleep(200 * MINUTE)
    assert running.events() == []
    assert running.house.inactivity.activity(SENSOR) == "detached"


async def test_where_detaching_is_switched_off_nothing_happens(nursery, autojump_clock):
    running = await start(nursery, AVA, limits=replace(LIMITS, is_enabled=False))
    running.house.hear(SENSOR, AVA)
    await trio.sleep(200 * MINUTE)
    assert running.events() == []
    assert running.house.inactivity.activity(SENSOR) == "active"


async def test_many_that_fall_silent_are_detached_in_parts(nursery, autojump_clock, monkeypatch):
    monkeypatch.setattr(inactivity_module, "CHUNK", 2)
    running = await start(nursery, AVA)
    house = running.house
    everything = [SENSOR + each for each in range(5)]
    await house.want(*map(end_point, everything))
    for ep_eui in everything:
        house.hear(ep_eui, AVA)
    decisions = house.store.decisions
    await trio.sleep(37 * MINUTE)
    assert house.events("auto_detached") == [("auto_detached", each) for each in everything]
    assert house.store.decisions - decisions == 3


# --- nobody is detached by what is not its silence -----------------------------------------


async def test_nobody_is_detached_while_no_base_station_that_hears_it_is_connected(
    nursery, autojump_clock
):
    running = await start(nursery, AVA, DIEHL)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(20 * MINUTE)
    await running.stations[AVA].leave()
    await trio.sleep(200 * MINUTE)
    assert running.events() == []
    assert running.house.inactivity.silent_ns(SENSOR) == 20 * MINUTES
    await running.connect(AVA)
    await trio.sleep(5 * MINUTE)
    assert running.events() == [("warning", SENSOR)]


async def test_one_of_those_that_hear_it_is_enough_for_its_silence_to_count(
    nursery, autojump_clock
):
    running = await start(nursery, AVA, DIEHL)
    running.house.receivers[SENSOR] = frozenset({AVA, DIEHL})
    running.house.hear(SENSOR, AVA, DIEHL)
    await running.stations[AVA].leave()
    await trio.sleep(30 * MINUTE)
    assert running.house.inactivity.silent_ns(SENSOR) == 30 * MINUTES
    assert running.events() == [("warning", SENSOR)]


@pytest.mark.parametrize("is_crash", [False, True])
async def test_nobody_is_detached_by_downtime(nursery, autojump_clock, is_crash):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(20 * MINUTE)
    running.house.store.write_notes()
    crashed = running.house.store.crash()
    closed = await running.stop()
    await trio.sleep(200 * MINUTE)
    again = await start(nursery, AVA, store=crashed if is_crash else closed)
    again.house.hear(METER, AVA)
    await trio.sleep(3 * MINUTE)
    assert again.events() == []
    # What was not written down of the silence is lost: less than the time between two notes.
    silent = again.house.inactivity.silent_ns(SENSOR)
    assert 23 * MINUTES - NOTE_INTERVAL * SECOND <= silent - SECOND <= 23 * MINUTES
    await trio.sleep(2 * MINUTE)
    assert again.events() == [("warning", SENSOR)]


@pytest.mark.parametrize("jump", [DAY, -DAY, 10 * YEAR, -10 * YEAR])
async def test_nobody_is_detached_by_a_jump_of_the_wall_clock(nursery, autojump_clock, jump):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(MINUTE)
    running.house.jump_ns = jump * SECOND
    await trio.sleep(20 * MINUTE)
    assert running.events() == []
    assert running.house.inactivity.silent_ns(SENSOR) == 21 * MINUTES
    assert running.house.inactivity.activity(SENSOR) == "active"
    running.house.hear(SENSOR, AVA, cnt=2)
    assert running.house.inactivity.silent_ns(SENSOR) == 0
    await trio.sleep(37 * MINUTE)
    assert running.events() == [("warning", SENSOR), ("auto_detached", SENSOR)]


@pytest.mark.parametrize("jump", [DAY, 10 * YEAR])
async def test_nobody_is_detached_where_the_clock_was_set_while_we_were_down(
    nursery, autojump_clock, jump
):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    store = await running.stop()
    again = await start(nursery, AVA, store=store, jump=jump)
    await trio.sleep(20 * MINUTE)
    assert again.events() == []


# --- own limits, and when they are looked at -----------------------------------------------


async def test_a_sensor_may_have_a_limit_of_its_own(nursery, autojump_clock):
    running = await start(nursery, AVA)
    await running.house.want(end_point(timeout=60.0), end_point(METER))
    for ep_eui in (SENSOR, METER):
        running.house.hear(ep_eui, AVA)
    running.house.inactivity.look_soon()
    await trio.sleep(39)
    assert running.events() == []
    await trio.sleep(10)
    assert running.events() == [("warning", SENSOR)]
    await trio.sleep(30)
    detached = running.house.told[-1]
    assert running.events() == [("warning", SENSOR), ("auto_detached", SENSOR)]
    assert (detached.warn_ns, detached.detach_ns) == (40 * SECOND, 60 * SECOND)


async def test_sensors_are_looked_at_in_the_interval_that_is_set(nursery, autojump_clock):
    running = await start(nursery, AVA, check_interval=6 * MINUTE)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(30 * MINUTE - 2)
    assert running.events() == []
    await trio.sleep(2)
    assert running.events() == [("warning", SENSOR)]


async def test_new_limits_are_looked_at_soon(nursery, autojump_clock):
    running = await start(nursery, AVA, check_interval=6 * MINUTE)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(MINUTE)
    running.house.life.limits = Limits(warn_ns=MINUTES // 4, detach_ns=MINUTES // 2)
    running.house.inactivity.look_soon()
    await trio.sleep(1)
    assert running.events() == [("auto_detached", SENSOR)]


# --- one that was detached speaks ----------------------------------------------------------


async def test_one_that_speaks_again_is_attached_again(nursery, autojump_clock):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(40 * MINUTE)
    running.house.hear(SENSOR, AVA, cnt=2)
    await trio.sleep(1)
    assert running.events() == [
        ("warning", SENSOR),
        ("auto_detached", SENSOR),
        ("heard_detached", SENSOR),
        ("attach", SENSOR),
    ]
    assert running.house.told[-1].event == "attached"
    assert running.house.life.roster.wish(SENSOR) == Wish(
        end_point=end_point(),
        wanted="attached",
        cause="heard",
        since_ns=NOON + (40 * MINUTE + 1) * SECOND,
        is_announced=True,
    )
    assert list(running.stations[AVA].serves) == [SENSOR]
    assert running.house.inactivity.activity(SENSOR) == "active"


async def test_one_that_speaks_again_is_only_shown_where_that_is_wanted(nursery, autojump_clock):
    running = await start(nursery, AVA)
    running.house.reattach = False
    running.house.hear(SENSOR, AVA)
    await trio.sleep(40 * MINUTE)
    for cnt in (2, 3):
        running.house.hear(SENSOR, AVA, cnt=cnt)
    await trio.sleep(MINUTE)
    assert running.events()[2:] == [("heard_detached", SENSOR)]


async def test_one_that_an_operator_detached_stays_so_whatever_it_says(
    nursery, autojump_clock, caplog
):
    caplog.set_level(logging.INFO, "bssci")
    running = await start(nursery, AVA)
    await running.house.want(end_point(), wanted="detached")
    for cnt in (1, 2):
        running.house.hear(SENSOR, AVA, cnt=cnt)
    await trio.sleep(MINUTE)
    assert running.events() == [("heard_detached", SENSOR)]
    assert caplog.messages == ["a sensor speaks though it is detached"]
    assert running.house.inactivity.activity(SENSOR) == "detached"
    await running.house.want(end_point())
    await trio.sleep(1)
    await running.house.want(end_point(), wanted="detached")
    running.house.hear(SENSOR, AVA, cnt=3)
    assert running.house.events("heard_detached") == [("heard_detached", SENSOR)] * 2


async def test_a_detach_that_is_not_confirmed_yet_is_shown_as_such(nursery, autojump_clock):
    running = await start(nursery, AVA)
    await running.stations[AVA].leave()
    await running.house.want(end_point(), wanted="detached")
    assert running.house.inactivity.activity(SENSOR) == "detach_pending"


# --- a disk that is full -------------------------------------------------------------------


async def test_while_the_disk_is_full_nobody_is_detached_but_later(nursery, autojump_clock, caplog):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(35 * MINUTE)
    running.house.store.fault = FULL
    await trio.sleep(5 * MINUTE)
    assert running.house.events("auto_detached") == []
    assert set(caplog.messages) == {
        f"sensors that are silent cannot be detached now: {FULL}",
    }
    running.house.store.fault = None
    await trio.sleep(RETRY)
    assert running.house.events("auto_detached") == [("auto_detached", SENSOR)]


async def test_one_that_speaks_while_it_is_about_to_be_detached_is_not(nursery, autojump_clock):
    running = await start(nursery, AVA)
    house = running.house
    house.hear(SENSOR, AVA)
    await trio.sleep(36 * MINUTE)
    house.store.delay = 30.0
    nursery.start_soon(house.life.decide, [edit(end_point(METER))], "command")
    await trio.sleep(20)
    house.hear(SENSOR, AVA, cnt=2)
    await trio.sleep(MINUTE)
    assert house.events("auto_detached") == []
    assert running.events()[-1] == ("warning_withdrawn", SENSOR)


async def test_one_that_speaks_while_the_disk_is_full_is_attached_later(
    nursery, autojump_clock, caplog
):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(40 * MINUTE)
    running.house.store.fault = FULL
    running.house.hear(SENSOR, AVA, cnt=2)
    await trio.sleep(1)
    assert running.house.events("attach") == []
    assert f"sensors that speak again cannot be attached now: {FULL}" in caplog.messages
    running.house.store.fault = None
    await trio.sleep(RETRY)
    assert running.house.events("attach") == [("attach", SENSOR)]


async def test_one_that_was_decided_on_meanwhile_is_not_attached_again(nursery, autojump_clock):
    running = await start(nursery, AVA)
    running.house.hear(SENSOR, AVA)
    await trio.sleep(40 * MINUTE)
    running.house.store.fault = FULL
    running.house.hear(SENSOR, AVA, cnt=2)
    await trio.sleep(1)
    running.house.store.fault = None
    await running.house.life.forget([SENSOR], "command")
    await trio.sleep(RETRY)
    assert running.house.events("attach") == []
    assert json.loads(running.house.store.disk.uplinks[-1].body)["cnt"] == 2


async def test_a_sensor_that_vanishes_while_all_are_looked_at_is_passed_over(
    nursery, autojump_clock, monkeypatch
):
    monkeypatch.setattr(inactivity_module, "CHUNK", 1)
    running = await start(nursery, AVA, store=None)
    house = running.house
    await house.want(end_point(METER))
    for ep_eui in (SENSOR, METER):
        house.hear(ep_eui, AVA)
    await trio.sleep(25 * MINUTE)
    house.inactivity.look_soon()
    await house.life.forget([METER], "command")
    await trio.sleep(13 * MINUTE)
    assert house.events("auto_detached") == [("auto_detached", SENSOR)]
    assert isinstance(house.store, FakeStore)
