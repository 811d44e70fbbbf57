"""The end points' life: wishes, what base stations say to them, and what is told of that."""

from dataclasses import replace
from typing import Any

import pytest
import trio

from bssci.core.center.end_points import attach_propagate
from bssci.core.center.happenings import Happening
from bssci.core.center.records import Episode, Refused, Registration, Wish
from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.events import Answered
from bssci.core.protocol.messages import Status
from bssci.core.runtime import life as life_module
from bssci.core.runtime.life import Edit, Standing
from bssci.core.runtime.propagation import SETTLE_TIME
from tests.life_fakes import (
    AVA,
    DIEHL,
    FULL,
    LIMITS,
    METER,
    MIROMICO,
    NOON,
    OPERATION_TIMEOUT,
    SECOND,
    SENSOR,
    VALVE,
    FakeStation,
    FakeStore,
    edit,
    end_point,
    open_house,
)

ATTACHED = ("attPrp", SENSOR)
DETACHED = ("detPrp", SENSOR)


async def dust_settles(seconds=1.0):
    """Long enough for everything that is on its way, too short for a retry."""
    await trio.sleep(seconds)


# --- attach everywhere ---------------------------------------------------------------------


async def test_a_sensor_is_attached_at_every_base_station_now_and_later(nursery, autojump_clock):
    house = await open_house()
    stations = [FakeStation(AVA), FakeStation(DIEHL)]
    for station in stations:
        await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    late = FakeStation(MIROMICO)
    await nursery.start(late.serve, house.life)
    await dust_settles()
    for station in (*stations, late):
        assert station.heard_of() == [ATTACHED]
        assert list(station.serves) == [SENSOR]
    assert house.life.standing(SENSOR) == Standing([AVA, DIEHL, MIROMICO], [], [])


async def test_a_base_station_is_told_all_parameters_and_the_last_counter(nursery, autojump_clock):
    house = await open_house()
    meter = end_point(METER, bidi=True, repetition=True, long_blk_dist=True, short_addr=0xABCD)
    await house.want(meter)
    house.hear(METER, AVA, cnt=390)
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await dust_settles()
    assert station.told == [
        (SETTLE_TIME, replace(attach_propagate(meter, last_packet_cnt=390), op_id=-1))
    ]


async def test_one_that_attaches_over_the_air_is_told_to_nobody(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point(ota=True))
    await dust_settles()
    assert station.heard_of() == []
    await house.want(end_point(ota=False))
    await dust_settles()
    assert station.heard_of() == [ATTACHED]


# --- the wish comes first ------------------------------------------------------------------


async def test_a_wish_is_on_disk_before_anybody_is_told(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await dust_settles()
    house.store.delay = 5.0
    nursery.start_soon(house.want, end_point())
    await trio.sleep(4.9)
    assert (station.told, house.told, house.life.roster.wish(SENSOR)) == ([], [], None)
    await trio.sleep(0.2)
    assert station.times() == [6.0]
    assert house.store.disk.wishes == {
        SENSOR: Wish(
            end_point=end_point(), wanted="attached", cause="command", since_ns=NOON + SECOND
        )
    }


async def test_a_full_disk_means_that_nothing_is_done(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point(METER))
    await dust_settles()
    told, happened = list(station.told), list(house.told)
    house.store.fault = FULL
    with pytest.raises(StorageError):
        await house.want(end_point(METER), end_point(SENSOR), wanted="detached")
    with pytest.raises(StorageError):
        await house.life.forget([METER], "command")
    await dust_settles()
    assert (station.told, house.told) == (told, happened)
    assert list(house.life.roster) == [METER]
    assert house.life.standing(METER) == Standing([AVA], [], [])
    house.store.fault = None
    await house.want(end_point(SENSOR))
    await dust_settles()
    assert list(station.serves) == [METER, SENSOR]


async def test_an_edit_that_fails_undoes_the_whole_decision(autojump_clock):
    house = await open_house()

    def fail(known):
        raise ValueError("no such key")

    with pytest.raises(ValueError, match="no such key"):
        await house.life.decide([edit(end_point()), Edit(METER, fail)], "command")
    assert (list(house.life.roster), house.told, house.store.decisions) == ([], [], 0)


async def test_a_preview_does_nothing(autojump_clock):
    house = await open_house()
    ((before, after),) = house.life.preview([edit(end_point())], "import")
    assert before is None
    assert after == Wish(end_point=end_point(), wanted="attached", cause="import", since_ns=NOON)
    assert (list(house.life.roster), house.told, house.store.decisions) == ([], [], 0)


async def test_what_is_wanted_already_costs_no_transaction(autojump_clock):
    house = await open_house()
    await house.want(end_point())
    told = list(house.told)
    ((before, after),) = await house.life.decide([edit(end_point())], "mqtt")
    assert before == after == house.life.roster.wish(SENSOR)
    assert (house.store.decisions, house.told) == (1, told)
    ((before, after),) = await house.life.decide([Edit(METER, lambda _: None)], "mqtt")
    assert (before, after, house.store.decisions) == (None, None, 1)


async def test_of_several_edits_of_one_sensor_each_sees_the_one_before(autojump_clock):
    house = await open_house()
    named = end_point(name="roof")
    decided = await house.life.decide(
        [edit(end_point()), edit(named), edit(named, "detached")], "import"
    )
    assert [after and (after.end_point.name, after.wanted) for _, after in decided] == [
        ("", "attached"),
        ("roof", "attached"),
        ("roof", "detached"),
    ]
    assert [before for before, _ in decided] == [None, decided[0][1], decided[1][1]]
    assert house.store.disk.wishes == {
        SENSOR: Wish(end_point=named, wanted="detached", cause="import", since_ns=NOON)
    }


# --- refusals and silence ------------------------------------------------------------------


async def test_a_refusal_is_recorded_and_tried_again_ever_less_often(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    station.refuses[SENSOR] = (28, "no room")
    await nursery.start(station.serve, house.life)
    await house.want(end_point(SENSOR), end_point(METER))
    await trio.sleep(60 + 120 + 240 + 1)
    house.store.write_notes()
    assert [at for at, each in station.told if getattr(each, "ep_eui", 0) == SENSOR] == [
        0.25,
        60.25,
        180.25,
        420.25,
    ]
    refused = Refused(28, "no room", NOON + 420_250_000_000)
    assert house.life.standing(SENSOR) == Standing([], [], [(AVA, refused)])
    assert house.life.standing(METER) == Standing([AVA], [], [])
    assert house.store.disk.registrations[AVA, SENSOR] == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=None, refused=refused
    )
    station.refuses.clear()
    await trio.sleep(481)
    assert house.life.standing(SENSOR) == Standing([AVA], [], [])
    house.store.write_notes()
    newest, before = (await house.store.history(SENSOR, 50))[:2]
    assert (newest.what, newest.bs_eui, before.what) == ("attached", AVA, "confirmed")


async def test_each_confirmation_is_told_to_who_wants_to_know(nursery, autojump_clock):
    house = await open_house()
    for bs_eui in (AVA, DIEHL):
        await nursery.start(FakeStation(bs_eui).serve, house.life)
    await house.want(end_point())
    await trio.sleep(1)
    await house.want(end_point(), wanted="detached")
    await trio.sleep(1)
    assert sorted(house.confirmed) == [(AVA, SENSOR)] * 2 + [(DIEHL, SENSOR)] * 2


async def test_no_answer_counts_as_error_110_and_is_tried_again(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    station.is_silent = True
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await trio.sleep(SETTLE_TIME + OPERATION_TIMEOUT + 1)
    refused = Refused(110, "no answer in time", NOON + 30_250_000_000)
    assert house.life.standing(SENSOR) == Standing([], [], [(AVA, refused)])
    station.is_silent = False
    await trio.sleep(60)
    assert station.times() == [0.25, 90.25]
    assert house.life.standing(SENSOR) == Standing([AVA], [], [])


async def test_what_a_base_station_refuses_holds_up_no_other(nursery, autojump_clock):
    house = await open_house()
    stubborn, silent, good = FakeStation(AVA), FakeStation(DIEHL), FakeStation(MIROMICO)
    stubborn.refuses[SENSOR] = (95, "not supported")
    silent.is_silent = True
    for station in (stubborn, silent, good):
        await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    refused = Refused(95, "not supported", NOON + 250_000_000)
    assert house.life.standing(SENSOR) == Standing([MIROMICO], [DIEHL], [(AVA, refused)])


async def test_another_wish_does_not_wait_for_the_retry_of_the_last(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    station.refuses[SENSOR] = (22, "wrong short address")
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    station.refuses.clear()
    await house.want(end_point(short_addr=1))
    await dust_settles()
    assert station.times() == [0.25, 1.0]
    assert house.life.standing(SENSOR) == Standing([AVA], [], [])


async def test_a_removed_sensor_that_is_not_known_there_counts_as_detached(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    station.refuses[SENSOR] = (2, "unknown end point")
    await house.want(end_point(), wanted="detached")
    await dust_settles()
    assert house.life.standing(SENSOR) == Standing([], [], [])
    assert house.events("refused", "detached") == [("detached", SENSOR)]


async def test_an_outcome_of_something_else_is_nothing_of_ours(autojump_clock):
    house = await open_house()
    house.life.timed_out(AVA, attach_propagate(end_point()))
    house.life.take_outcomes(AVA, [Answered(Status(), Status())])
    assert house.told == []


# --- sessions ------------------------------------------------------------------------------


async def test_a_resumed_session_is_told_only_what_changed(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point(SENSOR), end_point(METER), end_point(VALVE))
    await dust_settles()
    await station.leave()
    station.told.clear()
    await house.want(end_point(METER), wanted="detached")
    await house.want(end_point(VALVE, name="valve"))
    await nursery.start(lambda **status: station.serve(house.life, resume=True, **status))
    await dust_settles()
    assert station.heard_of() == [("detPrp", METER)]
    assert sorted(station.serves) == [SENSOR, VALVE]


async def test_a_new_session_is_told_everything(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point(SENSOR), end_point(METER))
    await dust_settles()
    await station.leave()
    station.told.clear()
    await nursery.start(station.serve, house.life)
    await dust_settles()
    assert sorted(station.heard_of()) == [("attPrp", SENSOR), ("attPrp", METER)]


async def test_a_session_that_outlives_our_process_is_told_only_what_changed(
    nursery, autojump_clock, monkeypatch
):
    monkeypatch.setattr(life_module, "PAGE", 2)
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    everything = [end_point(SENSOR + number) for number in range(5)]
    await house.want(*everything)
    await dust_settles()
    await station.leave()
    station.told.clear()
    again = await open_house(house.store.close())
    assert list(again.life.roster) == [each.eui for each in everything]
    await again.want(everything[2], wanted="detached")
    await nursery.start(lambda **status: station.serve(again.life, resume=True, **status))
    await dust_settles()
    assert station.heard_of() == [("detPrp", SENSOR + 2)]


async def test_what_a_crash_made_us_forget_is_told_again(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    await station.leave()
    again = await open_house(house.store.crash())
    await nursery.start(lambda **status: station.serve(again.life, resume=True, **status))
    await dust_settles()
    assert station.heard_of() == [ATTACHED, ATTACHED]
    assert again.life.standing(SENSOR) == Standing([AVA], [], [])


async def test_what_the_session_issues_again_is_not_told_twice(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    station.pace = 5.0
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    await station.leave()
    await nursery.start(lambda **status: station.serve(house.life, resume=True, **status))
    await trio.sleep(10)
    assert station.told == [
        (at, replace(attach_propagate(end_point()), op_id=-1)) for at in (0.25, 1.0)
    ]
    assert house.life.standing(SENSOR) == Standing([AVA], [], [])


async def test_a_disk_that_cannot_be_read_is_an_error(autojump_clock):
    store = FakeStore()
    store.fault = FULL
    with pytest.raises(StorageError):
        await open_house(store)


async def test_the_base_stations_that_were_known_are_given_back(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await trio.sleep(3)
    await station.leave()
    again = await open_house(house.store.close())
    assert await again.life.load() == [replace(station.record(), since_ns=NOON + 3 * SECOND)]


# --- what is told, and how often -----------------------------------------------------------


async def test_attached_is_told_once(nursery, autojump_clock):
    house = await open_house()
    for bs_eui in (AVA, DIEHL):
        await nursery.start(FakeStation(bs_eui).serve, house.life)
    await house.want(end_point())
    await dust_settles()
    assert house.told == [
        Happening(
            event="added",
            at_ns=NOON,
            wish=Wish(end_point=end_point(), wanted="attached", cause="command", since_ns=NOON),
            warn_ns=LIMITS.warn_ns,
            detach_ns=LIMITS.detach_ns,
        ),
        Happening(
            event="attached",
            at_ns=NOON + 250_000_000,
            wish=Wish(end_point=end_point(), wanted="attached", cause="command", since_ns=NOON),
            bs_eui=house.told[-1].bs_eui,
            warn_ns=LIMITS.warn_ns,
            detach_ns=LIMITS.detach_ns,
        ),
    ]
    await house.want(end_point(name="roof"))
    again = await open_house(house.store.close())
    await nursery.start(FakeStation(MIROMICO).serve, again.life)
    await dust_settles()
    assert again.told == []
    await again.want(end_point(), wanted="detached")
    await again.want(end_point())
    await dust_settles()
    assert again.events("attached") == [("attached", SENSOR)]


async def test_what_is_told_while_a_new_name_is_put_on_disk_is_told_once(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    house.store.delay = 5.0
    nursery.start_soon(house.want, end_point(name="roof"))
    await trio.sleep(10)
    assert house.events() == [("added", SENSOR), ("attached", SENSOR), ("changed", SENSOR)]
    house.store.write_notes()
    assert house.store.disk.wishes[SENSOR] == Wish(
        end_point=end_point(name="roof"),
        wanted="attached",
        cause="command",
        since_ns=NOON,
        is_announced=True,
    )


async def test_that_all_refuse_is_told_once_until_one_confirms(nursery, autojump_clock):
    house = await open_house()
    stations = [FakeStation(AVA), FakeStation(DIEHL)]
    for station in stations:
        station.refuses[SENSOR] = (28, "no room")
        await nursery.start(station.serve, house.life)
    stations[1].pace = 5.0
    await house.want(end_point())
    await dust_settles()
    assert house.events("attach_failed") == []
    await trio.sleep(100)
    failed = [each for each in house.told if each.event == "attach_failed"]
    assert [(each.bs_eui, each.code, each.message) for each in failed] == [(DIEHL, 28, "no room")]
    stations[0].refuses.clear()
    await trio.sleep(200)
    assert house.events("attach_failed", "attached") == [
        ("attach_failed", SENSOR),
        ("attached", SENSOR),
    ]


async def test_a_failed_attach_that_is_wanted_anew_may_fail_anew(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    station.refuses[SENSOR] = (28, "")
    await nursery.start(station.serve, house.life)
    for short_addr in (1, 2):
        await house.want(end_point(short_addr=short_addr))
        await dust_settles()
    assert house.events("attach_failed") == [("attach_failed", SENSOR)] * 2


async def test_everything_that_happens_is_in_the_history(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    station.refuses[SENSOR] = (28, "no room")
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    station.refuses.clear()
    await house.want(end_point(short_addr=1), cause="mqtt")
    await dust_settles()
    await house.want(end_point(short_addr=1), wanted="detached")
    await dust_settles()
    await house.life.forget([SENSOR], "command")
    refusal = {"bs_eui": AVA, "code": 28, "message": "no room"}
    happened: list[tuple[float, str, dict[str, Any]]] = [
        (0, "added", {"cause": "command"}),
        (0.25, "refused", refusal),
        (0.25, "attach_failed", refusal),
        (1, "changed", {"cause": "mqtt"}),
        (1, "attached", {"bs_eui": AVA}),
        (2, "detach", {"cause": "command"}),
        (2, "detached", {"bs_eui": AVA}),
        (3, "removed", {"cause": "command"}),
    ]
    await house.store.flush()
    assert await house.store.history(SENSOR, 50) == [
        Episode(ep_eui=SENSOR, at_ns=NOON + int(at * SECOND), what=what, **more)
        for at, what, more in reversed(happened)
    ]


# --- detach and removal --------------------------------------------------------------------


async def test_a_detach_waits_for_those_that_are_connected(nursery, autojump_clock):
    house = await open_house()
    quick, slow = FakeStation(AVA), FakeStation(DIEHL)
    for station in (quick, slow):
        await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    slow.pace = 7.0
    await house.want(end_point(), wanted="detached")
    assert await house.life.wait_settled(SENSOR, 4.0) == Standing([], [DIEHL], [])
    assert trio.current_time() == 4.0
    assert house.events("detached") == []
    assert await house.life.wait_settled(SENSOR, 60.0) == Standing([], [], [])
    assert trio.current_time() == 8.0
    assert house.events("detached") == [("detached", SENSOR)]


async def test_nobody_waits_for_a_base_station_that_has_gone(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    station.is_silent = True
    await house.want(end_point(), wanted="detached")

    async def leave():
        await trio.sleep(2)
        await station.leave()

    nursery.start_soon(leave)
    assert await house.life.wait_settled(SENSOR, 60.0) == Standing([], [AVA], [])
    assert trio.current_time() == 3.0


async def test_detached_is_told_when_the_last_one_that_is_connected_has_forgotten(
    nursery, autojump_clock
):
    house = await open_house()
    station, silent = FakeStation(AVA), FakeStation(DIEHL)
    for each in (station, silent):
        await nursery.start(each.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    silent.is_silent = True
    await house.want(end_point(), wanted="detached")
    await dust_settles()
    assert house.events("detached") == []
    await silent.leave()
    assert house.events("detached") == [("detached", SENSOR)]
    silent.is_silent = False
    await nursery.start(lambda **status: silent.serve(house.life, resume=True, **status))
    await dust_settles()
    assert silent.serves == {}
    assert house.events("detached") == [("detached", SENSOR)]


async def test_detached_is_told_at_once_where_nobody_is_connected(autojump_clock):
    house = await open_house()
    await house.want(end_point())
    await house.want(end_point(), wanted="detached")
    assert house.events() == [("added", SENSOR), ("detach", SENSOR), ("detached", SENSOR)]


async def test_a_sensor_can_be_added_that_is_not_to_be_attached(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point(), wanted="detached", cause="import")
    await dust_settles()
    assert house.events() == [("added", SENSOR), ("detach", SENSOR), ("detached", SENSOR)]
    assert station.told == []


@pytest.mark.parametrize("is_crash", [False, True])
async def test_a_removal_is_told_to_those_that_come_back_later(nursery, autojump_clock, is_crash):
    house = await open_house()
    here, away = FakeStation(AVA), FakeStation(DIEHL)
    for station in (here, away):
        await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    await away.leave()
    assert await house.life.forget([SENSOR, METER], "command") == 1
    await dust_settles()
    assert house.events("detached", "removed") == [("detached", SENSOR), ("removed", SENSOR)]
    assert (here.heard_of(), list(here.serves)) == ([ATTACHED, DETACHED], [])
    later = await open_house(house.store.crash() if is_crash else house.store.close())
    assert list(later.life.roster) == []
    await nursery.start(lambda **status: away.serve(later.life, resume=True, **status))
    await dust_settles()
    assert (away.heard_of(), list(away.serves)) == ([ATTACHED, DETACHED], [])


async def test_the_removal_of_one_that_is_detached_says_so_no_second_time(autojump_clock):
    house = await open_house()
    await house.want(end_point())
    await house.want(end_point(), wanted="detached")
    await house.life.forget([SENSOR], "command")
    assert house.events("detached", "removed") == [("detached", SENSOR), ("removed", SENSOR)]
    assert await house.life.forget([SENSOR], "command") == 0
    assert house.store.decisions == 3


async def test_the_clock_of_a_removed_sensor_is_kept_no_longer(nursery, autojump_clock):
    house = await open_house()
    await nursery.start(FakeStation(AVA).serve, house.life)
    await house.want(end_point())
    house.hear(SENSOR, AVA)
    await house.life.forget([SENSOR], "command")
    assert house.life.clocks.readings(now_ns=0) == {}


async def test_flags_of_a_sensor_that_is_gone_are_nobodys(autojump_clock):
    house = await open_house()
    with pytest.raises(KeyError):
        house.life.set_flags(SENSOR, is_warned=True)


# --- how it stands -------------------------------------------------------------------------


async def test_nobody_knows_what_a_base_station_that_is_away_will_serve(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    await station.leave()
    assert house.life.standing(SENSOR) == Standing([], [], [])
    await house.want(end_point(), wanted="detached")
    assert house.life.standing(SENSOR) == Standing([], [AVA], [])


async def test_an_order_that_was_overtaken_by_a_removal_is_not_sent_any_more(autojump_clock):
    house = await open_house()
    await house.want(end_point())
    house.life.station_connected(FakeStation(AVA).record())
    found = house.life.next_message(AVA)
    assert found is not None
    order, message = found
    assert message == attach_propagate(end_point())
    house.life.sent(AVA, order)
    await house.life.forget([SENSOR], "command")
    house.life.not_sent(AVA, order)
    assert house.life.next_message(AVA) is None


async def test_an_order_that_arrived_before_a_removal_is_undone(nursery, autojump_clock):
    house = await open_house()
    station = FakeStation(AVA)
    station.pace = 5.0
    await nursery.start(station.serve, house.life)
    await house.want(end_point())
    await dust_settles()
    await house.life.forget([SENSOR], "command")
    await trio.sleep(20)
    assert (station.heard_of(), station.serves) == ([ATTACHED, DETACHED], {})
