"""Attach and detach over the air: what is answered, who is told, what is on disk and when."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from bssci.core.center.attachment import Attachment, AttachRefusedError, propagated
from bssci.core.center.end_points import attach_propagate
from bssci.core.center.happenings import Happening, Stranger
from bssci.core.center.records import Episode, Registration, Wish
from bssci.core.protocol.errors import OperationRefusedError, StorageError
from bssci.core.protocol.keys import attach_signature, session_key
from bssci.core.protocol.messages import (
    Attach,
    AttachPropagate,
    AttachResponse,
    Detach,
    DetachResponse,
)
from bssci.core.runtime import life as life_module
from bssci.core.runtime import over_the_air as module
from bssci.core.runtime.life import Standing
from tests.life_fakes import (
    AVA,
    DAY,
    DIEHL,
    FULL,
    HOUR,
    KEY,
    LIMITS,
    METER,
    MIROMICO,
    NOON,
    SECOND,
    SENSOR,
    FakeStation,
    House,
    end_point,
    open_house,
)

NETWORK_KEY = bytes.fromhex(KEY)
OTHER_KEY = bytes(range(16))
op_ids = count(1)


def attach_of(cnt=1, *, ep_eui=SENSOR, key=NETWORK_KEY, **changes: Any) -> Attach:
    message = Attach(
        op_id=next(op_ids),
        ep_eui=ep_eui,
        rx_time=NOON,
        attach_cnt=cnt,
        snr=12.5,
        rssi=-98.25,
        nonce=cnt.to_bytes(4, "little"),
        sign=attach_signature(key, ep_eui, cnt),
        dual_chan=False,
        repetition=True,
        wide_carr_off=True,
        long_blk_dist=False,
    )
    return replace(message, **changes)


def detach_of(ep_eui=SENSOR) -> Detach:
    return Detach(
        op_id=next(op_ids),
        ep_eui=ep_eui,
        rx_time=NOON,
        packet_cnt=5,
        snr=12.5,
        rssi=-98.25,
        sign=b"\xde\xad\xbe\xef",
    )


def derived(cnt=1, ep_eui=SENSOR, key=NETWORK_KEY) -> bytes:
    """The session key that this attach leads to."""
    nonce = cnt.to_bytes(4, "little")
    return session_key(key, ep_eui, nonce, attach_signature(key, ep_eui, cnt))


async def attach(
    house: House, bs_eui=AVA, cnt=1, *, completes=True, **changes: Any
) -> AttachResponse:
    message = attach_of(cnt, **changes)
    response = await house.over_the_air.attach(bs_eui, message)
    if completes:
        house.over_the_air.attach_completed(bs_eui, message)
    return response


async def detach(
    house: House, bs_eui=AVA, *, completes=True, heard_ns: int | None = None, ep_eui=SENSOR
) -> DetachResponse:
    message = detach_of(ep_eui)
    response = await house.over_the_air.detach(bs_eui, message, heard_ns=heard_ns)
    if completes:
        house.over_the_air.detach_completed(bs_eui, message)
    return response


async def refusal(house: House, **told: Any) -> str:
    with pytest.raises(AttachRefusedError) as caught:
        await attach(house, **told)
    return caught.value.reason


def attachment(cnt=1, *, at: float, bs_eui=AVA) -> Attachment:
    message = attach_of(cnt)
    return Attachment(
        ep_eui=SENSOR,
        attach_cnt=cnt,
        nonce=message.nonce,
        sign=message.sign,
        nwk_sn_key=derived(cnt),
        short_addr=0x127C,
        dual_chan=False,
        repetition=True,
        wide_carr_off=True,
        long_blk_dist=False,
        bs_eui=bs_eui,
        at_ns=NOON + int(at * SECOND),
    )


def told_of(station: FakeStation) -> list[tuple[str, bytes | None, int | None]]:
    """What it was told: the command, the key, the last packet counter."""
    return [
        (each.command, each.nwk_sn_key, each.last_packet_cnt)
        if isinstance(each, AttachPropagate)
        else (each.command, None, None)
        for _, each in station.told
    ]


async def dust_settles(seconds=1.0):
    await trio.sleep(seconds)


async def house_with(
    nursery: trio.Nursery, *stations: FakeStation, is_ota=True, **parameters: Any
) -> House:
    house = await open_house()
    for station in stations:
        await nursery.start(station.serve, house.life)
    await house.want(end_point(ota=is_ota, **parameters))
    await dust_settles()
    return house


# --- an attach -----------------------------------------------------------------------------


async def test_the_others_are_told_the_derived_key_and_the_one_that_asked_is_not(
    nursery, autojump_clock
):
    here, other, late = FakeStation(AVA), FakeStation(DIEHL), FakeStation(MIROMICO)
    house = await house_with(nursery, here, other)
    assert (here.told, other.told) == ([], [])
    response = await attach(house, AVA)
    assert response == AttachResponse(nwk_sn_key=derived(), sh_addr=0x127C)
    await dust_settles()
    await nursery.start(late.serve, house.life)
    await dust_settles()
    for station in (other, late):
        assert told_of(station) == [("attPrp", derived(), 0)]
    assert here.told == []
    assert house.life.standing(SENSOR) == Standing([AVA, DIEHL, MIROMICO], [], [])


async def test_everything_of_it_is_on_disk_before_it_is_answered(nursery, autojump_clock):
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other)
    house.store.delay = 5.0
    answered = []

    async def ask() -> None:
        answered.append(await attach(house, completes=False))

    nursery.start_soon(ask)
    await trio.sleep(4.9)
    assert (answered, house.epochs, house.life.attachments, other.told) == ([], [], {}, [])
    await trio.sleep(0.2)
    assert (len(answered), house.epochs) == (1, [SENSOR])
    assert house.life.attachments == house.store.disk.attachments == {SENSOR: attachment(at=1)}
    assert house.store.disk.wishes[SENSOR] == Wish(
        end_point=end_point(ota=True),
        wanted="attached",
        cause="over_the_air",
        since_ns=NOON + SECOND,
    )


async def test_on_a_full_disk_nothing_is_done_and_the_same_attach_is_good_again(
    nursery, autojump_clock
):
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other)
    told = list(house.told)
    house.store.fault = FULL
    with pytest.raises(StorageError):
        await attach(house)
    await dust_settles()
    assert (other.told, house.told, house.epochs, house.life.attachments) == ([], told, [], {})
    house.store.fault = None
    assert (await attach(house)).nwk_sn_key == derived()


async def test_one_whose_request_is_cancelled_is_attached_all_the_same(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    house.store.delay = 5.0
    with trio.move_on_after(1.0):
        await attach(house)
    assert house.life.attachments == house.store.disk.attachments == {SENSOR: attachment(at=1)}


async def test_attached_is_told_once_and_is_in_the_history(nursery, autojump_clock):
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other)
    await attach(house)
    await dust_settles()
    wish = Wish(
        end_point=end_point(ota=True),
        wanted="attached",
        cause="over_the_air",
        since_ns=NOON + SECOND,
    )
    limits: dict[str, Any] = {"warn_ns": LIMITS.warn_ns, "detach_ns": LIMITS.detach_ns}
    at_ns = NOON + SECOND
    assert house.told[1:] == [
        Happening(event="attach", at_ns=at_ns, wish=wish, bs_eui=AVA, **limits),
        Happening(
            event="attached",
            at_ns=at_ns,
            wish=wish,
            bs_eui=AVA,
            **limits,
        ),
    ]
    house.store.write_notes()
    assert house.store.disk.episodes[1:] == [
        Episode(ep_eui=SENSOR, at_ns=at_ns, what="attach", cause="over_the_air", bs_eui=AVA),
        Episode(ep_eui=SENSOR, at_ns=at_ns, what="attached", bs_eui=AVA),
    ]
    await attach(house, cnt=2)
    await dust_settles()
    assert house.events("attached") == [("attached", SENSOR)] * 2


async def test_attached_is_told_when_another_base_station_confirms_first(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA), FakeStation(DIEHL))
    message = attach_of()
    await house.over_the_air.attach(AVA, message)
    assert house.events("attached") == []
    await dust_settles()
    assert [each.bs_eui for each in house.told if each.event == "attached"] == [DIEHL]
    house.over_the_air.attach_completed(AVA, message)
    assert house.events("attached") == [("attached", SENSOR)]
    assert house.life.standing(SENSOR) == Standing([AVA, DIEHL], [], [])


async def test_one_attached_beforehand_may_attach_over_the_air_as_well(nursery, autojump_clock):
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other, is_ota=False)
    house.hear(SENSOR, AVA, cnt=18_607)
    await attach(house)
    await dust_settles()
    assert told_of(here) == [("attPrp", NETWORK_KEY, 0)]
    assert told_of(other) == [("attPrp", NETWORK_KEY, 0), ("attPrp", derived(), 0)]


async def test_a_base_station_is_told_the_address_and_the_settings_of_the_radio(
    nursery, autojump_clock
):
    other = FakeStation(DIEHL)
    house = await house_with(nursery, FakeStation(AVA), other, bidi=True, short_addr=0xABCD)
    response = await attach(house, sh_addr=0x0042)
    await dust_settles()
    assert response == AttachResponse(nwk_sn_key=derived(), sh_addr=None)
    assert list(other.serves.values()) == [
        AttachPropagate(
            op_id=-1,
            ep_eui=SENSOR,
            bidi=True,
            nwk_sn_key=derived(),
            sh_addr=0x0042,
            last_packet_cnt=0,
            dual_chan=False,
            repetition=True,
            wide_carr_off=True,
            long_blk_dist=False,
        )
    ]


# --- base stations that come and go --------------------------------------------------------


async def test_a_base_station_that_goes_before_it_completes_is_told_when_it_is_back(
    nursery, autojump_clock
):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    message = attach_of()
    await house.over_the_air.attach(AVA, message)
    await here.leave()
    house.over_the_air.attach_completed(AVA, message)
    assert house.events("attached") == []
    await nursery.start(lambda **status: here.serve(house.life, resume=True, **status))
    await dust_settles()
    assert told_of(here) == [("attPrp", derived(), 0)]
    assert house.events("attached") == [("attached", SENSOR)]


async def test_a_base_station_that_goes_while_the_disk_is_slow_is_told_when_it_is_back(
    nursery, autojump_clock
):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    house.store.delay = 5.0
    nursery.start_soon(attach, house)
    await dust_settles()
    await here.leave()
    await dust_settles(5.0)
    await nursery.start(lambda **status: here.serve(house.life, resume=True, **status))
    await dust_settles()
    assert told_of(here) == [("attPrp", derived(), 0)]


async def test_a_base_station_that_does_not_complete_is_told_after_a_minute(
    nursery, autojump_clock
):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    await attach(house, completes=False)
    await trio.sleep(59)
    assert here.told == []
    await trio.sleep(2)
    assert told_of(here) == [("attPrp", derived(), 0)]
    assert house.events("attached") == [("attached", SENSOR)]


@pytest.mark.parametrize("is_crash", [False, True])
async def test_a_later_process_goes_on_where_the_earlier_one_was(
    nursery, autojump_clock, is_crash, monkeypatch
):
    monkeypatch.setattr(life_module, "PAGE", 1)
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other)
    await house.want(end_point(METER, ota=True))
    await attach(house)
    await attach(house, ep_eui=METER, completes=False)
    await dust_settles()
    for station in (here, other):
        await station.leave()
        station.told.clear()
    later = await open_house(house.store.crash() if is_crash else house.store.close())
    assert later.life.attachments == house.life.attachments
    for station in (here, other):
        await nursery.start(
            lambda station=station, **status: station.serve(later.life, resume=True, **status)
        )
    await dust_settles()
    everything = [("attPrp", derived(), 0), ("attPrp", derived(ep_eui=METER), 0)]
    assert told_of(here) == everything[1:]
    assert sorted(told_of(other)) == (sorted(everything) if is_crash else [])
    assert await refusal(later, cnt=1, nonce=b"else") == "stale_counter"


async def test_what_was_on_its_way_to_the_base_station_is_not_what_it_ends_with(
    nursery, autojump_clock
):
    here = FakeStation(AVA)
    house = await house_with(nursery, here, is_ota=False)
    here.pace = 5.0
    await house.want(end_point(ota=False, bidi=True))
    await dust_settles()
    await attach(house)
    await trio.sleep(20)
    assert told_of(here) == [("attPrp", NETWORK_KEY, 0)] * 2 + [("attPrp", derived(), 0)]
    assert house.life.standing(SENSOR) == Standing([AVA], [], [])


# --- the same attach, heard by several -----------------------------------------------------


async def test_an_attach_that_two_have_heard_is_one_attach(nursery, autojump_clock):
    stations = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, *stations)
    house.store.delay = 0.1
    answers = []

    async def ask(bs_eui: int) -> None:
        answers.append(await attach(house, bs_eui))

    for bs_eui in (AVA, DIEHL):
        nursery.start_soon(ask, bs_eui)
    await dust_settles()
    assert answers == [AttachResponse(nwk_sn_key=derived(), sh_addr=0x127C)] * 2
    (known,) = house.store.disk.attachments.values()
    assert known.at_ns < NOON + SECOND + 200_000_000
    assert house.epochs == [SENSOR]
    assert house.events("attach", "attached") == [("attach", SENSOR), ("attached", SENSOR)]
    assert [len(station.told) for station in stations] in ([0, 0], [0, 1], [1, 0])
    assert house.life.standing(SENSOR) == Standing([AVA, DIEHL], [], [])
    assert house.over_the_air.counts() == {
        "attached": 1,
        "repeated": 1,
        "detached": 0,
        "refused": {},
        "unknown_detached": 0,
    }


async def test_one_that_chose_another_address_is_told_the_first_ones(nursery, autojump_clock):
    other = FakeStation(DIEHL)
    house = await house_with(nursery, FakeStation(AVA), other)
    other.pace = 5.0
    await attach(house, AVA, sh_addr=0x0042)
    response = await attach(house, DIEHL, sh_addr=0x0043)
    await trio.sleep(20)
    assert response == AttachResponse(nwk_sn_key=derived(), sh_addr=None)
    assert [each.sh_addr for each in other.serves.values()] == [0x0042]
    assert house.life.standing(SENSOR) == Standing([AVA, DIEHL], [], [])


async def test_a_report_that_comes_after_a_minute_is_refused(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA), FakeStation(DIEHL))
    await attach(house)
    await trio.sleep(61)
    assert await refusal(house, bs_eui=DIEHL) == "stale_counter"
    await dust_settles()
    assert house.life.standing(SENSOR) == Standing([AVA, DIEHL], [], [])


async def test_after_a_crash_nobody_has_forgotten_who_was_given_a_key(nursery, autojump_clock):
    stations = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, *stations)
    for station in stations:
        await attach(house, station.bs_eui, completes=False)
        station.told.clear()
    later = await open_house(house.store.crash())
    await later.want(end_point(ota=True), wanted="detached")
    for station in stations:
        await station.leave()
        await nursery.start(
            lambda station=station, **status: station.serve(later.life, resume=True, **status)
        )
    await dust_settles()
    assert [told_of(station)[-1:] for station in stations] == [[("detPrp", None, None)]] * 2


# --- counters ------------------------------------------------------------------------------


async def test_packet_counters_begin_anew_with_an_attach(nursery, autojump_clock):
    late = FakeStation(DIEHL)
    house = await house_with(nursery, FakeStation(AVA), is_ota=False)
    house.hear(SENSOR, AVA, cnt=18_607)
    await dust_settles()
    await attach(house)
    hearing = house.life.roster.hearing(SENSOR)
    assert hearing is not None
    assert hearing.last_cnt == 0
    await dust_settles()
    house.hear(SENSOR, AVA, cnt=3)
    await nursery.start(late.serve, house.life)
    await dust_settles()
    assert told_of(late) == [("attPrp", derived(), 3)]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_counters_from_before_an_attach_do_not_come_back(nursery, autojump_clock, is_lost):
    """Neither with what is settled late, nor with what a later process reads again."""
    house = await house_with(nursery, FakeStation(AVA), is_ota=False)
    house.hear(SENSOR, AVA, cnt=18_606)
    house.store.write_notes()
    house.hear(SENSOR, AVA, cnt=18_607, is_lost=is_lost)
    await attach(house)
    later = await open_house(house.store.crash())
    station = FakeStation(DIEHL)
    await nursery.start(station.serve, later.life)
    await dust_settles()
    assert told_of(station) == [("attPrp", derived(), 0)]


async def test_an_attach_ends_silence(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA), is_ota=False)
    nursery.start_soon(house.inactivity.run)
    house.hear(SENSOR, AVA)
    await trio.sleep(25 * HOUR)
    assert house.events("warning") == [("warning", SENSOR)]
    await attach(house)
    assert house.inactivity.activity(SENSOR) == "active"
    assert house.events("warning_withdrawn") == [("warning_withdrawn", SENSOR)]
    await trio.sleep(23 * HOUR)
    assert house.events("warning", "auto_detached") == [("warning", SENSOR)]


# --- who was detached ----------------------------------------------------------------------


async def test_one_that_was_detached_for_silence_comes_back_by_an_attach(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA), is_ota=False)
    nursery.start_soon(house.inactivity.run)
    house.hear(SENSOR, AVA)
    await trio.sleep(2 * DAY)
    assert house.inactivity.activity(SENSOR) == "auto_detached"
    await attach(house)
    await trio.sleep(HOUR)
    assert house.inactivity.activity(SENSOR) == "active"
    assert house.events("attached") == [("attached", SENSOR)] * 2


@pytest.mark.parametrize("cause", ["command", "mqtt"])
async def test_one_that_an_operator_has_detached_does_not(nursery, autojump_clock, cause):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    await house.sensors.want(SENSOR, "detached", cause)
    with pytest.raises(OperationRefusedError) as caught:
        await attach(house)
    assert caught.value.code == 1
    assert (here.told, house.life.attachments) == ([], {})
    await house.sensors.want(SENSOR, "attached", cause)
    assert (await attach(house)).nwk_sn_key == derived()


async def test_an_operator_may_detach_what_was_detached_for_silence(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    await house.want(end_point(ota=True), wanted="detached", cause="inactivity")
    await house.sensors.want(SENSOR, "detached", "command")
    assert await refusal(house) == "detached_by_operator"
    wish = house.life.roster.wish(SENSOR)
    assert wish is not None
    assert (wish.cause, house.events("detach")) == ("command", [("detach", SENSOR)])
    assert house.store.disk.wishes[SENSOR] == wish
    await house.sensors.want(SENSOR, "detached", "mqtt")
    assert house.life.roster.wish(SENSOR) == wish


async def test_another_name_is_no_detach_by_an_operator(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    await house.want(end_point(ota=True), wanted="detached", cause="inactivity")
    await house.sensors.set(eui=f"{SENSOR:016X}", name="roof", wait=0)
    assert (await attach(house)).nwk_sn_key == derived()


async def test_one_that_is_wanted_again_goes_on_with_the_key_of_its_attach(nursery, autojump_clock):
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other)
    await attach(house)
    for wanted in ("detached", "attached"):
        await house.sensors.want(SENSOR, wanted, "command")
        await dust_settles()
    assert told_of(here) == [("detPrp", None, None), ("attPrp", derived(), 0)]
    assert await refusal(house, nonce=b"else") == "stale_counter"


# --- another key ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_ota", [True, False])
async def test_with_another_network_key_the_attach_holds_no_more(nursery, autojump_clock, is_ota):
    here = FakeStation(AVA)
    house = await house_with(nursery, here, is_ota=is_ota)
    await attach(house, cnt=9)
    here.told.clear()
    await house.want(end_point(ota=is_ota, nwk_key=OTHER_KEY))
    await dust_settles()
    expected = ("detPrp", None, None) if is_ota else ("attPrp", OTHER_KEY, 0)
    assert told_of(here) == [expected]
    assert house.life.attachments == house.store.disk.attachments == {}
    assert await refusal(house, cnt=10) == "bad_signature"
    response = await attach(house, cnt=0, key=OTHER_KEY)
    assert response.nwk_sn_key == derived(0, key=OTHER_KEY)


async def test_other_parameters_leave_the_attach_as_it_is(nursery, autojump_clock):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    await attach(house)
    changed = end_point(ota=False, name="roof", short_addr=1, dual_chan=True, bidi=True)
    await house.want(changed)
    await dust_settles()
    wish = house.life.roster.wish(SENSOR)
    assert wish is not None
    told = propagated(wish, attachment(at=1))
    assert told is not None
    assert [each for _, each in here.told] == [replace(told, op_id=-1)]
    assert (told.bidi, told.sh_addr, told.nwk_sn_key) == (True, 0x127C, derived())


async def test_with_the_sensor_its_attach_is_forgotten(nursery, autojump_clock):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    await attach(house, cnt=9)
    await house.life.forget([SENSOR], "command")
    await dust_settles()
    assert (told_of(here), here.serves) == ([("detPrp", None, None)], {})
    assert house.life.attachments == house.store.disk.attachments == {}
    await house.want(end_point(ota=True))
    assert (await attach(house, cnt=0)).nwk_sn_key == derived(0)


async def test_a_change_that_fails_does_not_void_an_attach(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    await attach(house)
    house.store.fault = FULL
    with pytest.raises(StorageError):
        await house.want(end_point(nwk_key=OTHER_KEY))
    assert house.life.attachments == {SENSOR: attachment(at=1)}


# --- refusals ------------------------------------------------------------------------------


async def test_a_forged_attach_changes_nothing_and_is_seen(nursery, autojump_clock):
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other)
    await attach(house)
    await dust_settles()
    disk, standing = house.store.close().disk, house.life.standing(SENSOR)
    assert await refusal(house, bs_eui=DIEHL, cnt=2, sign=b"fake") == "bad_signature"
    await dust_settles()
    assert house.life.standing(SENSOR) == standing
    assert (here.told, len(other.told), house.epochs) == ([], 1, [SENSOR])
    refused = house.told[-1]
    assert (refused.event, refused.bs_eui, refused.code, refused.message) == (
        "attach_refused",
        DIEHL,
        71,
        "the signature of the attach of end point FCA84A030000127C is wrong",
    )
    after = house.store.close().disk
    assert after.episodes[-1] == Episode(
        ep_eui=SENSOR,
        at_ns=refused.at_ns,
        what="attach_refused",
        bs_eui=DIEHL,
        code=71,
        message=refused.message,
    )
    assert (after.wishes, after.attachments) == (disk.wishes, disk.attachments)


async def test_every_refusal_is_counted_by_its_reason(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    await attach(house, cnt=5)
    assert await refusal(house, cnt=4) == "stale_counter"
    assert await refusal(house, cnt=3) == "stale_counter"
    assert await refusal(house, cnt=6, sign=bytes(4)) == "bad_signature"
    assert await refusal(house, ep_eui=METER) == "unknown_end_point"
    assert house.over_the_air.counts() == {
        "attached": 1,
        "repeated": 0,
        "detached": 0,
        "refused": {"stale_counter": 2, "bad_signature": 1, "unknown_end_point": 1},
        "unknown_detached": 0,
    }


async def test_what_a_sensor_does_that_is_not_registered_is_seen(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    told, decisions = list(house.told), house.store.decisions
    assert await refusal(house, ep_eui=METER) == "unknown_end_point"
    assert await detach(house, ep_eui=METER) == DetachResponse(sign=b"\xde\xad\xbe\xef")
    assert house.strangers == [
        Stranger(
            event="attach_refused",
            ep_eui=METER,
            bs_eui=AVA,
            code=71,
            message="end point FCA84A030000127D is not known",
        ),
        Stranger(event="detach", ep_eui=METER, bs_eui=AVA, message="unverified"),
    ]
    assert house.over_the_air.counts()["unknown_detached"] == 1
    assert (house.told, house.store.decisions, house.left) == (told, decisions, [])


async def test_a_history_is_not_filled_by_whoever_forges_attaches(
    nursery, autojump_clock, monkeypatch
):
    house = await house_with(nursery, FakeStation(AVA))
    await attach(house, cnt=5)

    async def recorded() -> list[str]:
        await house.store.flush()
        words = (each.message for each in house.store.disk.episodes)
        return [each.split()[1] for each in words if each]

    for _ in range(3):
        await refusal(house, sign=bytes(4))
    assert (await recorded(), len(house.events("attach_refused"))) == (["signature"], 3)
    await refusal(house, cnt=4)
    await refusal(house, cnt=4)
    assert await recorded() == ["signature", "point"]
    await trio.sleep(HOUR)
    await refusal(house, cnt=4)
    assert await recorded() == ["signature", "point", "point"]
    monkeypatch.setattr(module, "MAX_RECORDED", 1)
    await house.want(end_point(METER, ota=True))
    await refusal(house, ep_eui=METER, sign=bytes(4))
    await refusal(house, cnt=4)
    assert len(await recorded()) == 5
    assert len(house.over_the_air._recorded) == 1


# --- a detach ------------------------------------------------------------------------------


async def test_a_detach_is_answered_with_its_signature_and_told_to_the_others(
    nursery, autojump_clock
):
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other)
    await attach(house)
    await dust_settles()
    assert await detach(house) == DetachResponse(sign=b"\xde\xad\xbe\xef")
    await dust_settles()
    assert (told_of(here), told_of(other)[1:]) == ([], [("detPrp", None, None)])
    assert house.life.standing(SENSOR) == Standing([], [], [])
    assert (house.left, house.inactivity.activity(SENSOR)) == ([SENSOR], "detached")
    await house.store.flush()
    at_ns = NOON + 2 * SECOND
    assert house.store.disk.episodes[-2:] == [
        Episode(
            ep_eui=SENSOR,
            at_ns=at_ns,
            what="detach",
            cause="over_the_air",
            bs_eui=AVA,
            message="unverified",
        ),
        Episode(ep_eui=SENSOR, at_ns=at_ns, what="detached", bs_eui=DIEHL),
    ]
    assert house.store.disk.wishes[SENSOR] == Wish(
        end_point=end_point(ota=True),
        wanted="detached",
        cause="over_the_air",
        since_ns=at_ns,
        is_announced=True,
    )
    assert house.store.disk.registrations[AVA, SENSOR] == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=None
    )


async def test_a_detach_that_two_have_heard_is_told_once(nursery, autojump_clock):
    here, other = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, other)
    await attach(house)
    await dust_settles()
    for bs_eui in (AVA, DIEHL):
        await detach(house, bs_eui)
    await dust_settles()
    assert house.events("detach", "detached") == [("detach", SENSOR), ("detached", SENSOR)]
    assert house.left == [SENSOR]
    assert house.life.standing(SENSOR) == Standing([], [], [])
    counts = house.over_the_air.counts()
    assert (counts["detached"], counts["repeated"]) == (1, 1)


async def test_a_detach_of_one_that_an_operator_has_detached_changes_nothing(
    nursery, autojump_clock
):
    house = await house_with(nursery, FakeStation(AVA))
    await house.sensors.want(SENSOR, "detached", "command")
    wish, told = house.life.roster.wish(SENSOR), list(house.told)
    await detach(house)
    await dust_settles()
    assert (house.life.roster.wish(SENSOR), house.told, house.left) == (wish, told, [])
    assert await refusal(house) == "detached_by_operator"


async def test_a_detach_that_is_reported_late_costs_no_transaction(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA), FakeStation(DIEHL))
    await attach(house)
    await dust_settles()
    await detach(house)
    await dust_settles()
    decisions = house.store.decisions
    await detach(house, DIEHL)
    assert (house.store.decisions, house.life.standing(SENSOR)) == (
        decisions,
        Standing([], [], []),
    )


async def test_one_that_is_wanted_again_before_its_detach_is_completed_is_told(
    nursery, autojump_clock
):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    await attach(house)
    await detach(house, completes=False)
    await house.sensors.want(SENSOR, "attached", "command")
    await here.leave()
    await nursery.start(lambda **status: here.serve(house.life, resume=True, **status))
    await dust_settles()
    assert told_of(here) == [("attPrp", derived(), 0)]


async def test_a_base_station_that_does_not_complete_a_detach_is_told(nursery, autojump_clock):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    await attach(house)
    await detach(house, completes=False)
    await trio.sleep(59)
    assert (here.told, house.events("detached")) == ([], [])
    await trio.sleep(2)
    assert (told_of(here), house.events("detached")) == (
        [("detPrp", None, None)],
        [("detached", SENSOR)],
    )


async def test_nobody_waits_for_the_completion_of_one_that_has_gone(nursery, autojump_clock):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    await attach(house)
    await detach(house, completes=False)
    await here.leave()
    assert house.events("detached") == [("detached", SENSOR)]


async def test_one_that_has_left_comes_back_with_a_new_counter_alone(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA), FakeStation(DIEHL))
    await attach(house)
    await dust_settles()
    await detach(house)
    await dust_settles()
    assert await refusal(house, bs_eui=DIEHL) == "stale_counter"
    assert (await attach(house, cnt=2)).nwk_sn_key == derived(2)
    await dust_settles()
    assert house.events("attached", "detached") == [
        ("attached", SENSOR),
        ("detached", SENSOR),
        ("attached", SENSOR),
    ]


async def test_a_detach_from_before_the_attach_is_answered_and_overtaken(nursery, autojump_clock):
    """A base station that was away reports what it has heard in the meantime."""
    here, back = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, back)
    await attach(house)
    await dust_settles()
    back.told.clear()
    before_ns = NOON + SECOND - 1
    assert await detach(house, DIEHL, heard_ns=before_ns) == DetachResponse(
        sign=b"\xde\xad\xbe\xef"
    )
    await dust_settles()
    assert (house.left, house.events("detach")) == ([], [])
    # It has let go of the end point, or has not: it is told once more.
    assert told_of(back) == [("attPrp", derived(), 0)]
    assert house.life.standing(SENSOR) == Standing([AVA, DIEHL], [], [])
    await detach(house, DIEHL, heard_ns=before_ns + 1)
    assert house.left == [SENSOR]


async def test_on_a_full_disk_a_detach_is_not_answered(nursery, autojump_clock):
    here = FakeStation(AVA)
    house = await house_with(nursery, here)
    await attach(house)
    house.store.fault = FULL
    with pytest.raises(StorageError):
        await detach(house)
    assert (house.left, house.life.standing(SENSOR)) == ([], Standing([AVA], [], []))


# --- secrets -------------------------------------------------------------------------------


async def test_no_key_is_told_or_shown(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    await attach(house)
    await refusal(house, sign=bytes(4))
    shown = await house.sensors.get(eui=f"{SENSOR:016X}", reveal=True)
    assert shown["attachment"] == {
        "bs_eui": f"{AVA:016X}",
        "time": NOON / 1e9 + 1,
        "cnt": 1,
        "short_addr": "127C",
    }
    said = f"{shown!r} {house.told!r} {house.store.disk.episodes!r}".lower()
    assert (derived().hex() in said, repr(derived()).lower() in said) == (False, False)


# --- everything that can happen ------------------------------------------------------------

who = st.sampled_from([AVA, DIEHL])
steps = st.one_of(
    st.tuples(st.just("attach"), who, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("forge"), who, st.integers(0, 3)),
    st.tuples(st.just("detach"), who, st.booleans()),
    st.tuples(st.just("decide"), st.sampled_from(["attached", "detached"]), st.booleans()),
    st.tuples(st.just("leave"), who),
    st.tuples(st.just("come"), who, st.booleans()),
    st.tuples(st.just("crash")),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 70.0])),
)


class World:
    """A house that may crash, two base stations, and an end point that knows one key.

    Time passes only in `wait`. As with a real session, what a base station has answered by then is
    on disk, and what it has not is issued again.
    """

    def __init__(self, house: House, nursery: trio.Nursery) -> None:
        self.house = house
        self.nursery = nursery
        self.stations = {bs_eui: FakeStation(bs_eui) for bs_eui in (AVA, DIEHL)}
        self.accepted: list[int] = []
        for station in self.stations.values():
            station.pace = 0.05

    async def do(self, what: str, *args: Any) -> None:
        await getattr(self, what)(*args)

    async def attach(self, bs_eui: int, ahead: int, completes: bool) -> None:
        """With the counter of the last one, or one further on."""
        station = self.stations[bs_eui]
        if not station.is_open:
            return
        message = attach_of((self.accepted[-1] if self.accepted else 0) + ahead)
        try:
            response = await self.house.over_the_air.attach(bs_eui, message)
        except AttachRefusedError:
            return
        if message.attach_cnt not in self.accepted:
            self.accepted.append(message.attach_cnt)
        station.serves[SENSOR] = replace(
            attach_propagate(end_point()), nwk_sn_key=response.nwk_sn_key
        )
        if completes:
            self.house.over_the_air.attach_completed(bs_eui, message)

    async def forge(self, bs_eui: int, ahead: int) -> None:
        before = self.house.life.roster.wish(SENSOR), self.house.life.attachments.copy()
        cnt = (self.accepted[-1] if self.accepted else 0) + ahead
        assert await refusal(self.house, bs_eui=bs_eui, cnt=cnt, key=OTHER_KEY) == "bad_signature"
        assert before == (self.house.life.roster.wish(SENSOR), self.house.life.attachments)

    async def detach(self, bs_eui: int, completes: bool) -> None:
        station = self.stations[bs_eui]
        if station.is_open:
            await detach(self.house, bs_eui, completes=completes)
            station.serves.pop(SENSOR, None)

    async def decide(self, wanted: Any, is_ota: bool) -> None:
        await self.house.want(end_point(ota=is_ota), wanted=wanted)

    async def leave(self, bs_eui: int) -> None:
        if self.stations[bs_eui].is_open:
            await self.stations[bs_eui].leave()

    async def come(self, bs_eui: int, resumes: bool) -> None:
        station = self.stations[bs_eui]
        if not station.is_open:
            is_known = station.session != bytes(16)

            async def serve(*, task_status: trio.TaskStatus[None]) -> None:
                await station.serve(
                    self.house.life, resume=resumes and is_known, task_status=task_status
                )

            await self.nursery.start(serve)

    async def crash(self) -> None:
        for bs_eui in self.stations:
            await self.leave(bs_eui)
        self.house = await open_house(self.house.store.crash())

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)
        self.house.store.write_notes()

    async def check(self) -> None:
        """When the dust has settled, everybody serves what is wanted."""
        for bs_eui in self.stations:
            await self.come(bs_eui, resumes=True)
        await trio.sleep(200)
        wish = self.house.life.roster.wish(SENSOR)
        assert wish is not None
        known = self.house.life.attachments.get(SENSOR)
        told = propagated(wish, known)
        wanted = {} if told is None else {SENSOR: told.nwk_sn_key}
        for station in self.stations.values():
            served = {ep_eui: each.nwk_sn_key for ep_eui, each in station.serves.items()}
            assert served == wanted
            assert self.house.life.lifecycle.is_settled(station.bs_eui)
        assert (known and known.attach_cnt) == (self.accepted[-1] if self.accepted else None)


@settings(max_examples=60)
@given(st.lists(steps, max_size=12))
def test_when_the_dust_settles_every_base_station_serves_the_last_attach(what_happens):
    async def live() -> None:
        house = await open_house()
        await house.want(end_point(ota=True))
        async with trio.open_nursery() as nursery:
            world = World(house, nursery)
            for bs_eui in (AVA, DIEHL):
                await world.come(bs_eui, resumes=False)
            for what, *args in what_happens:
                await world.do(what, *args)
            await world.check()
            nursery.cancel_scope.cancel()

    trio.run(live, clock=MockClock(autojump_threshold=0))
