"""Telling one base station what is due: pipelined, at its pace, and again where it has to be."""

from collections import Counter
from dataclasses import replace

import trio

from bssci.core.center.end_points import attach_propagate, mark_of
from bssci.core.center.records import Refused, Registration
from bssci.core.protocol.messages import Status
from bssci.core.runtime.life import Standing
from bssci.core.runtime.propagation import (
    BATCH,
    DISK_PAUSE,
    SETTLE_TIME,
    TURN,
    TURNS,
    WINDOW,
    Turns,
)
from tests.life_fakes import (
    AVA,
    DIEHL,
    FULL,
    METER,
    NOON,
    OPERATION_TIMEOUT,
    SECOND,
    SENSOR,
    FakeStation,
    end_point,
    open_house,
)


async def house_with(*end_points):
    house = await open_house()
    await house.want(*end_points)
    return house


def many(number):
    return [end_point(SENSOR + each) for each in range(number)]


async def test_operations_are_pipelined_with_a_window(nursery, autojump_clock):
    house = await house_with(*many(40))
    station = FakeStation(AVA)
    station.pace = 2.0
    await nursery.start(station.serve, house.life)
    await trio.sleep(10)
    assert Counter(station.times()) == {0.25: 16, 2.25: 16, 4.25: 8}
    assert (station.most_at_once, WINDOW) == (16, 16)
    assert len(station.serves) == 40


async def test_thousands_of_sensors_go_at_the_pace_of_the_base_station(nursery, autojump_clock):
    house = await house_with(*many(2_000))
    station = FakeStation(AVA)
    station.pace = 1.6
    await nursery.start(station.serve, house.life)
    await trio.sleep(100.35)
    assert house.life.lifecycle.counts(AVA) == {"confirmed": 992, "pending": 1008, "refused": 0}
    await trio.sleep(100)
    assert house.life.lifecycle.counts(AVA) == {"confirmed": 2000, "pending": 0, "refused": 0}
    assert station.most_at_once == WINDOW


async def test_a_connection_that_does_not_last_is_told_nothing(nursery, autojump_clock):
    house = await house_with(end_point())
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await trio.sleep(SETTLE_TIME - 0.01)
    await station.leave()
    assert station.told == []


async def test_what_becomes_due_later_is_told_at_once(nursery, autojump_clock):
    house = await house_with(end_point())
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await trio.sleep(10)
    await house.want(end_point(METER))
    await trio.sleep(10)
    assert station.times() == [0.25, 10.0]


async def test_what_becomes_due_waits_for_room_in_the_window(nursery, autojump_clock):
    house = await house_with(*many(WINDOW))
    station = FakeStation(AVA)
    station.pace = 20.0
    await nursery.start(station.serve, house.life)
    await trio.sleep(1)
    await house.want(end_point(METER + 100))
    await trio.sleep(40)
    assert station.times() == [0.25] * WINDOW + [20.25]


async def test_what_is_on_its_way_is_not_told_a_second_time(nursery, autojump_clock):
    house = await house_with(end_point(short_addr=1))
    station = FakeStation(AVA)
    station.pace = 5.0
    await nursery.start(station.serve, house.life)
    await trio.sleep(1)
    await house.want(end_point(short_addr=2))
    await house.want(end_point(short_addr=3))
    await trio.sleep(20)
    assert station.told == [
        (0.25, replace(attach_propagate(end_point(short_addr=1)), op_id=-1)),
        (5.25, replace(attach_propagate(end_point(short_addr=3)), op_id=-2)),
    ]


async def test_one_that_refuses_some_is_told_the_rest(nursery, autojump_clock):
    house = await house_with(*many(40))
    station = FakeStation(AVA)
    station.refuses = {SENSOR + each: (28, "no room") for each in range(20)}
    await nursery.start(station.serve, house.life)
    await trio.sleep(1)
    assert house.life.lifecycle.counts(AVA) == {"confirmed": 20, "pending": 0, "refused": 20}


async def test_one_that_answers_nothing_holds_up_no_other(nursery, autojump_clock):
    house = await house_with(*many(40))
    silent, good = FakeStation(AVA), FakeStation(DIEHL)
    silent.is_silent = True
    for station in (silent, good):
        await nursery.start(station.serve, house.life)
    await trio.sleep(1)
    assert (len(silent.told), len(good.serves)) == (WINDOW, 40)


async def test_what_could_not_be_put_on_disk_is_tried_again_soon(nursery, autojump_clock):
    house = await house_with(end_point())
    station = FakeStation(AVA)
    station.fault = FULL
    await nursery.start(station.serve, house.life)
    await trio.sleep(2)
    assert (station.told, house.life.standing(SENSOR)) == ([], Standing([], [AVA], []))
    station.fault = None
    await trio.sleep(2)
    assert station.times() == [SETTLE_TIME + 2 * DISK_PAUSE]
    assert house.life.standing(SENSOR) == Standing([AVA], [], [])


async def test_what_was_on_its_way_when_the_connection_ended_is_in_doubt(nursery, autojump_clock):
    house = await house_with(end_point())
    station = FakeStation(AVA)
    station.is_silent = True
    await nursery.start(station.serve, house.life)
    await trio.sleep(1)
    station.is_open = False  # the peer has gone; the attendant is cancelled a little later
    await trio.sleep(OPERATION_TIMEOUT)
    assert house.events("refused") == []
    await station.leave()
    house.store.write_notes()
    assert house.store.disk.registrations == {}
    assert house.life.lifecycle.is_held(SENSOR)


async def test_a_late_answer_is_not_taken_for_that_of_a_newer_operation(nursery, autojump_clock):
    house = await house_with(end_point(short_addr=1))
    station = FakeStation(AVA)
    station.is_silent = True
    await nursery.start(station.serve, house.life)
    await trio.sleep(SETTLE_TIME + OPERATION_TIMEOUT + 1)
    await house.want(end_point(short_addr=1), wanted="detached")
    await trio.sleep(1)
    (_, first), (_, second) = station.told
    station.answer(first)
    await trio.sleep(1)
    assert [each.command for _, each in station.told] == ["attPrp", "detPrp"]
    assert house.life.standing(SENSOR) == Standing([], [AVA], [])
    station.answer(second)
    assert house.life.standing(SENSOR) == Standing([], [], [])
    await trio.sleep(200)
    assert [each.command for _, each in station.told] == ["attPrp", "detPrp"]


async def test_a_late_answer_still_counts_where_nothing_newer_was_sent(nursery, autojump_clock):
    house = await house_with(end_point())
    station = FakeStation(AVA)
    station.is_silent = True
    await nursery.start(station.serve, house.life)
    await trio.sleep(SETTLE_TIME + OPERATION_TIMEOUT + 1)
    station.answer(station.told[0][1])
    await trio.sleep(1_000)
    assert station.heard_of() == [("attPrp", SENSOR)]
    house.store.write_notes()
    assert house.store.disk.registrations == {
        (AVA, SENSOR): Registration(bs_eui=AVA, ep_eui=SENSOR, mark=mark_of(end_point()))
    }


async def test_what_the_session_issues_again_must_be_answered_in_time(nursery, autojump_clock):
    house = await house_with(end_point(SENSOR), end_point(METER))
    station = FakeStation(AVA)
    station.is_silent = True
    await nursery.start(station.serve, house.life)
    await trio.sleep(1)
    await station.leave()
    await nursery.start(lambda **status: station.serve(house.life, resume=True, **status))
    await trio.sleep(1)
    station.answer(next(each for each in station.unanswered() if each == station.told[0][1]))
    await trio.sleep(OPERATION_TIMEOUT - 1.5)
    assert house.events("refused") == []
    await trio.sleep(1)
    refused = Refused(110, "no answer in time", NOON + 31 * SECOND)
    sensors = [each.ep_eui for each in house.told if each.event == "refused"]
    assert len(sensors) == 1
    assert house.life.standing(sensors[0]) == Standing([], [], [(AVA, refused)])
    station.is_silent = False
    await trio.sleep(61)
    assert house.life.lifecycle.counts(AVA) == {"confirmed": 2, "pending": 0, "refused": 0}


async def test_other_operations_of_the_session_are_left_to_who_issued_them(nursery, autojump_clock):
    house = await house_with(end_point())
    station = FakeStation(AVA)
    station.pending[-7] = Status(op_id=-7)
    station.is_silent = True
    await nursery.start(lambda **status: station.serve(house.life, resume=True, **status))
    await trio.sleep(SETTLE_TIME + OPERATION_TIMEOUT + 1)
    refused = Refused(110, "no answer in time", NOON + 30_250_000_000)
    assert house.life.standing(SENSOR) == Standing([], [], [(AVA, refused)])


# --- all base stations together ------------------------------------------------------------


async def serve_all(nursery, house, stations):
    turns = Turns()
    for station in stations:
        await nursery.start(lambda s=station, **status: s.serve(house.life, turns=turns, **status))


async def test_not_everybody_is_told_everything_at_once(nursery, autojump_clock):
    house = await house_with(*many(10))
    stations = [FakeStation(AVA + each) for each in range(8)]
    for station in stations:
        station.pace = 0.01
    await serve_all(nursery, house, stations)
    await trio.sleep(1)
    begun = Counter(round(at, 3) for station in stations for at in station.times())
    assert max(begun.values()) <= TURNS
    assert [len(station.serves) for station in stations] == [10] * 8


async def test_what_one_base_station_is_told_begins_in_batches(nursery, autojump_clock):
    house = await house_with(*many(5 * BATCH))
    stations = [FakeStation(AVA + each) for each in range(4)]
    for station in stations:
        station.pace = 0.01
    await serve_all(nursery, house, stations)
    await trio.sleep(1)
    for station in stations:
        together = Counter(round(at, 3) for at in station.times())
        assert [count % BATCH for count in together.values()] == [0] * len(together)


async def test_those_who_are_slow_hold_up_the_others_for_a_moment_only(nursery, autojump_clock):
    house = await house_with(*many(WINDOW))
    stations = [FakeStation(AVA + each) for each in range(4)]
    for silent in stations[:3]:
        silent.is_silent = True
    await serve_all(nursery, house, stations)
    await trio.sleep(SETTLE_TIME + 4 * WINDOW / TURNS * TURN + 0.01)
    assert [len(station.told) for station in stations] == [WINDOW] * 4
    assert len(stations[3].serves) == WINDOW
