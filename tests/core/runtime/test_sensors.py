"""The methods named `sensors.…`: what each gives, and how it fails."""

from dataclasses import replace
from typing import Any

import pytest
import trio

from bssci.core.center.rpc import InvalidRequestError, NotFoundError, RequestError
from bssci.core.protocol.errors import StorageError
from bssci.core.runtime import sensors as sensors_module
from bssci.core.runtime.sensors import SensorState
from tests.life_fakes import (
    AVA,
    DIEHL,
    FULL,
    HOUR,
    KEY,
    LIMITS,
    METER,
    NOON,
    SENSOR,
    VALVE,
    FakeStation,
    end_point,
    open_house,
)

NAME, METER_NAME, VALVE_NAME = "FCA84A030000127C", "FCA84A030000127D", "FCA84A030000127E"
AVA_NAME, DIEHL_NAME = "70B3D59CD0000951", "70B3D59CD0000952"
START = NOON / 1e9

SHAPE: dict[str, Any] = {
    "eui": NAME,
    "name": "",
    "key": "****",
    "short_addr": "127C",
    "bidi": False,
    "dual_chan": True,
    "repetition": False,
    "wide_carr_off": False,
    "long_blk_dist": False,
    "ota": False,
    "tags": [],
    "wanted": "attached",
    "activity": "never_seen",
    "stations": [],
    "last_seen": None,
    "last_cnt": None,
    "uplinks": 0,
    "snr": None,
    "rssi": None,
    "preferred": None,
    "timeout": None,
}

CONFIRMED = {"eui": NAME, "confirmed": [AVA_NAME], "pending": [], "refused": []}
NOBODY: dict[str, Any] = {"eui": NAME, "confirmed": [], "pending": [], "refused": []}


async def house_with(nursery, *stations, sensors=()):
    house = await open_house()
    await house.want(*sensors)
    for station in stations:
        await nursery.start(station.serve, house.life)
    await trio.sleep(1)
    return house


def said(caught) -> tuple[str, str, int]:
    """The words of an error, its hint and its exit code."""
    error = caught.value
    return str(error), error.hint, error.exit_code


# --- showing -------------------------------------------------------------------------------


async def test_sensors_are_listed_by_eui_without_their_keys(nursery, autojump_clock):
    house = await house_with(
        nursery, FakeStation(AVA), sensors=[end_point(METER, name="meter"), end_point(SENSOR)]
    )
    standing = [{"eui": AVA_NAME, "state": "confirmed", "error": None}]
    assert await house.sensors.list_() == [
        SHAPE | {"stations": standing},
        SHAPE | {"eui": METER_NAME, "name": "meter", "short_addr": "127D", "stations": standing},
    ]
    revealed = await house.sensors.list_(reveal=True)
    assert [each["key"] for each in revealed] == [KEY, KEY]


async def test_a_list_can_be_paged_and_narrowed_down(nursery, autojump_clock, monkeypatch):
    monkeypatch.setattr(sensors_module, "CHUNK", 2)
    house = await house_with(
        nursery, sensors=[end_point(SENSOR + each, tags=(f"t{each % 2}",)) for each in range(5)]
    )
    house.hear(SENSOR + 1, AVA)

    async def euis(**options):
        return [int(str(each["eui"]), 16) - SENSOR for each in await house.sensors.list_(**options)]

    assert await euis(count=2) == [0, 1]
    assert await euis(after=METER_NAME, count=2) == [2, 3]
    assert await euis(after="FCA84A0300001280") == []
    assert await euis(tag="t1") == [1, 3]
    assert await euis(tag="t1", count=1, after=METER_NAME) == [3]
    assert await euis(activity="active") == [1]
    assert await euis(activity="never_seen", tag="t1") == [3]


@pytest.mark.parametrize("count", [0, -2])
@pytest.mark.parametrize("stale", [False, True])
async def test_a_list_of_less_than_one_is_refused(autojump_clock, count, stale):
    house = await open_house()
    with pytest.raises(InvalidRequestError) as caught:
        await house.sensors.list_(stale=stale, count=count)
    assert said(caught) == (f"count: found {count}, at least 1 is expected", "", 2)


async def test_a_page_after_what_is_no_eui_is_refused(autojump_clock):
    house = await open_house()
    with pytest.raises(InvalidRequestError) as caught:
        await house.sensors.list_(after="meter")
    assert said(caught) == (
        "'meter' is not an EUI: 2 hexadecimal digits found, 16 expected; 'm' does not belong there",
        "",
        2,
    )


async def test_those_that_will_be_detached_next_are_listed_soonest_first(nursery, autojump_clock):
    """All that are attached and were heard, however long ago; the others are not waited for."""
    house = await house_with(
        nursery,
        FakeStation(AVA),
        sensors=[
            end_point(SENSOR),
            end_point(METER, timeout=14 * 3600.0),
            end_point(VALVE),
            end_point(VALVE + 1),
            end_point(VALVE + 2),
        ],
    )
    for ep_eui in (SENSOR, METER, VALVE + 2):
        house.hear(ep_eui, AVA)
    await house.want(end_point(VALVE + 2), wanted="detached")
    await trio.sleep(11 * HOUR)
    house.hear(VALVE, AVA)
    await trio.sleep(2 * HOUR)
    found = await house.sensors.list_(stale=True)
    assert [(each["eui"], each["detach_in"], each["activity"]) for each in found] == [
        (METER_NAME, 1 * HOUR, "warning"),
        (NAME, 23 * HOUR, "active"),
        (VALVE_NAME, 34 * HOUR, "active"),
    ]
    assert [each["eui"] for each in await house.sensors.list_(stale=True, count=1)] == [METER_NAME]
    house.life.limits = replace(LIMITS, is_enabled=False)
    assert await house.sensors.list_(stale=True) == []


async def test_one_sensor_is_shown_with_everything_that_is_known(nursery, autojump_clock):
    house = await house_with(
        nursery, FakeStation(AVA), sensors=[end_point(name="roof", tags=("a",), timeout=60.0)]
    )
    house.hear(SENSOR, AVA, DIEHL, cnt=7)
    await trio.sleep(10)
    assert await house.sensors.get(eui="Roof") == SHAPE | {
        "name": "roof",
        "tags": ["a"],
        "timeout": 60.0,
        "activity": "active",
        "stations": [{"eui": AVA_NAME, "state": "confirmed", "error": None}],
        "last_seen": START + 1,
        "last_cnt": 7,
        "uplinks": 1,
        "snr": 10.0,
        "rssi": -90.0,
        "preferred": {"bs_eui": AVA_NAME, "snr": 10.0, "updated": START + 1, "messages": 1},
        "wanted_since": START,
        "cause": "command",
        "statistics": {
            "snr": {"mean": 10.0, "min": 10.0, "max": 10.0, "deviation": 0.0},
            "rssi": {"mean": -90.0, "min": -90.0, "max": -90.0, "deviation": 0.0},
        },
        "receivers": [AVA_NAME],
        "silent_for": 10.0,
        "warned_after": 40.0,
        "detached_after": 60.0,
        "attachment": None,
        "downlink_reception": None,
    }
    house.life.limits = replace(LIMITS, is_enabled=False)
    shown = await house.sensors.get(eui=NAME.lower(), reveal=True)
    assert (shown["key"], shown["warned_after"], shown["detached_after"]) == (KEY, None, None)


async def test_a_name_that_several_have_is_not_guessed_at(nursery, autojump_clock):
    house = await house_with(
        nursery, sensors=[end_point(SENSOR, name="roof"), end_point(METER, name="Roof")]
    )
    with pytest.raises(InvalidRequestError) as caught:
        await house.sensors.get(eui="roof")
    assert said(caught) == (
        "2 sensors are named 'roof'",
        f"Give the EUI: {NAME}, {METER_NAME}",
        2,
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (METER_NAME, f"sensor {METER_NAME} is not registered"),
        (
            "meter",
            "no sensor is named 'meter', and 'meter' is not an EUI: 2 hexadecimal digits found, "
            "16 expected; 'm' does not belong there",
        ),
        (
            KEY,
            "no sensor is named ****, and **** is not an EUI: 16 hexadecimal digits expected",
        ),
    ],
)
async def test_who_is_not_registered_is_not_found(nursery, autojump_clock, asked, words):
    house = await house_with(nursery, sensors=[end_point()])
    for method in ("get", "set", "attach", "detach", "remove"):
        with pytest.raises(NotFoundError) as caught:
            await getattr(house.sensors, method)(eui=asked)
        assert said(caught) == (words, "`bssci sensors list` shows those that are", 5)
    assert house.store.decisions == 1


async def test_the_history_is_told_newest_first_also_of_one_that_is_gone(nursery, autojump_clock):
    station = FakeStation(AVA)
    station.refuses[SENSOR] = (28, "no room")
    house = await house_with(nursery, station, sensors=[end_point(name="roof")])
    refused = {
        "time": (NOON + 250_000_000) / 1e9,
        "what": "refused",
        "cause": "",
        "bs_eui": AVA_NAME,
        "code": 28,
        "message": "no room",
    }
    added = {
        "time": START,
        "what": "added",
        "cause": "command",
        "bs_eui": None,
        "code": None,
        "message": "",
    }
    assert await house.sensors.history(eui="roof") == [
        refused | {"what": "attach_failed"},
        refused,
        added,
    ]
    assert len(await house.sensors.history(eui="roof", count=1)) == 1
    await house.sensors.remove(eui="roof", timeout=0)
    gone = await house.sensors.history(eui=NAME)
    assert [each["what"] for each in gone][:2] == ["removed", "detached"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (METER_NAME, f"sensor {METER_NAME} is not registered"),
        ("meter", "no sensor is named 'meter'"),
        (KEY, "no sensor is named ****"),
    ],
)
async def test_who_never_was_has_no_history(autojump_clock, asked, words):
    house = await open_house()
    with pytest.raises(NotFoundError) as caught:
        await house.sensors.history(eui=asked)
    assert said(caught)[0] == words
    assert said(caught)[2] == 5


async def test_how_many_sensors_there_are_of_each_activity(nursery, autojump_clock):
    house = await house_with(
        nursery, sensors=[end_point(SENSOR), end_point(METER), end_point(VALVE)]
    )
    house.hear(SENSOR, AVA)
    await house.want(end_point(VALVE), wanted="detached")
    assert await house.sensors.counts() == {
        "total": 3,
        "active": 1,
        "warning": 0,
        "detach_pending": 0,
        "auto_detached": 0,
        "detached": 1,
        "never_seen": 1,
    }


async def test_the_state_of_a_sensor_is_who_confirmed_and_how_it_is(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA), sensors=[end_point()])
    assert house.sensors.state(METER) is None
    assert house.sensors.state(SENSOR) == SensorState((AVA,), None, "never_seen")
    house.hear(SENSOR, AVA)
    last_seen_ns = NOON + 1_000_000_000
    assert house.sensors.state(SENSOR) == SensorState((AVA,), last_seen_ns, "active")


# --- adding and changing -------------------------------------------------------------------


async def test_a_sensor_that_is_added_is_attached_before_the_answer(nursery, autojump_clock):
    station = FakeStation(AVA)
    station.pace = 3.0
    house = await house_with(nursery, station)
    assert await house.sensors.add(eui=NAME, key=KEY, name="roof", bidi=True) == CONFIRMED
    assert trio.current_time() == 4.0
    assert house.life.roster.named("roof") == [SENSOR]
    assert (await house.sensors.get(eui="roof"))["bidi"] is True


async def test_adding_tells_who_has_not_answered_and_who_refused(nursery, autojump_clock):
    slow, stubborn = FakeStation(AVA), FakeStation(DIEHL)
    slow.is_silent = True
    stubborn.refuses[SENSOR] = (28, "no room")
    house = await house_with(nursery, slow, stubborn)
    assert await house.sensors.add(eui=NAME, key=KEY, wait=5) == {
        "eui": NAME,
        "confirmed": [],
        "pending": [AVA_NAME],
        "refused": [{"eui": DIEHL_NAME, "code": 28, "message": "no room"}],
    }
    assert trio.current_time() == 6.0


async def test_who_does_not_want_to_wait_is_answered_at_once(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    assert await house.sensors.add(eui=NAME, key=KEY, wait=0) == NOBODY | {"pending": [AVA_NAME]}
    assert trio.current_time() == 1.0


async def test_adding_the_same_again_changes_nothing(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    for _ in range(2):
        assert await house.sensors.add(eui=NAME, key=KEY) == CONFIRMED
    assert house.store.decisions == 1
    with pytest.raises(RequestError) as caught:
        await house.sensors.add(eui=NAME, key=KEY, name="roof")
    assert said(caught) == (
        f"sensor {NAME} is registered already, with other parameters",
        "`bssci sensors set` changes them",
        1,
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"eui": NAME, "key": KEY[:-2], "bidi": "perhaps"},
            f"sensor {NAME}: key: the key has 30 hexadecimal digits, 32 are expected (16 bytes); "
            "bidi: found 'perhaps', true or false is expected",
        ),
        (
            {"eui": "12", "key": KEY},
            "'12' is not an EUI: 2 hexadecimal digits found, 16 expected",
        ),
        ({"eui": KEY, "key": KEY}, "**** is not an EUI: 16 hexadecimal digits expected"),
        ({"eui": NAME, "key": KEY, "wait": -1}, "cannot wait -1 s: 0 to 3600 are possible"),
        ({"eui": NAME, "key": KEY, "wait": 1e9}, "cannot wait 1e+09 s: 0 to 3600 are possible"),
    ],
)
async def test_what_describes_no_sensor_is_refused_and_nothing_done(
    autojump_clock, given: Any, words
):
    house = await open_house()
    with pytest.raises(InvalidRequestError) as caught:
        await house.sensors.add(**given)
    assert said(caught) == (words, "", 2)
    assert (house.told, house.store.decisions) == ([], 0)


async def test_a_full_disk_is_told_and_nothing_is_done(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    house.store.fault = FULL
    with pytest.raises(StorageError):
        await house.sensors.add(eui=NAME, key=KEY)
    assert await house.sensors.list_() == []


async def test_what_is_set_is_told_with_what_it_was(nursery, autojump_clock):
    station = FakeStation(AVA)
    house = await house_with(nursery, station, sensors=[end_point(name="roof")])
    other = "00112233445566778899AABBCCDDEEFF"
    assert await house.sensors.set(
        eui="roof", key=other, short_addr="ABCD", name="cellar", timeout=60.0, tags=["a", "b"]
    ) == CONFIRMED | {
        "changes": {
            "name": ["roof", "cellar"],
            "key": ["****", "****"],
            "short_addr": ["127C", "ABCD"],
            "tags": [[], ["a", "b"]],
            "timeout": [None, 60.0],
        }
    }
    assert station.heard_of() == [("attPrp", SENSOR)] * 2
    assert await house.sensors.set(eui="cellar", timeout="none") == CONFIRMED | {
        "changes": {"timeout": [60.0, None]}
    }
    assert await house.sensors.set(eui="cellar", name="cellar") == CONFIRMED | {"changes": {}}
    assert len(station.told) == 2


async def test_setting_a_parameter_attaches_nobody(nursery, autojump_clock):
    station = FakeStation(AVA)
    house = await house_with(nursery, station)
    await house.want(end_point(), wanted="detached")
    assert await house.sensors.set(eui=NAME, name="roof") == NOBODY | {
        "changes": {"name": ["", "roof"]}
    }
    assert station.told == []


async def test_wrong_parameters_change_nothing(nursery, autojump_clock):
    house = await house_with(nursery, sensors=[end_point()])
    wrong: list[dict[str, Any]] = [
        {"short_addr": "12345", "name": "roof"},
        {"timeout": "soon"},
        {"name": "roof", "wait": -1},
    ]
    for given in wrong:
        with pytest.raises(InvalidRequestError):
            await house.sensors.set(eui=NAME, **given)
    assert await house.sensors.list_() == [SHAPE]
    assert house.store.decisions == 1


async def test_one_that_is_removed_while_it_is_changed_is_not_found(nursery, autojump_clock):
    house = await house_with(nursery, sensors=[end_point()])
    house.store.delay = 5.0
    nursery.start_soon(house.life.forget, [SENSOR], "command")
    await trio.sleep(1)
    for attempt in (
        house.sensors.set(eui=NAME, name="roof"),
        house.sensors.want(SENSOR, "attached", "mqtt"),
    ):
        with pytest.raises(NotFoundError) as caught:
            await attempt
        assert said(caught) == (f"sensor {NAME} is not registered", "", 5)
    assert await house.sensors.list_() == []


@pytest.mark.parametrize("way", ["add", "set", "configure", "import"])
async def test_a_new_timeout_counts_at_once(nursery, autojump_clock, way):
    house = await house_with(nursery, FakeStation(AVA), sensors=[end_point(METER)])
    nursery.start_soon(house.inactivity.run)
    await trio.sleep(1)
    if way == "add":
        await house.sensors.add(eui=NAME, key=KEY, timeout=8.0, wait=0)
    if way == "configure":
        await house.sensors.configure(SENSOR, {"key": KEY, "timeout": 8.0}, "mqtt")
    if way == "import":
        await house.sensors.import_(rows=[{"eui": NAME, "key": KEY, "timeout": 8.0}])
    if way == "set":
        await house.sensors.add(eui=NAME, key=KEY, wait=0)
        await house.sensors.set(eui=NAME, timeout=8.0, wait=0)
    house.hear(SENSOR, AVA)
    await trio.sleep(12)
    assert house.events("auto_detached") == [("auto_detached", SENSOR)]


async def test_configuring_adds_or_changes_and_attaches(nursery, autojump_clock):
    house = await house_with(nursery, FakeStation(AVA))
    await house.sensors.configure(SENSOR, {"nwKey": KEY, "shortAddr": "1234"}, "mqtt")
    await house.want(end_point(short_addr=0x1234), wanted="detached")
    await house.sensors.configure(SENSOR, {"dualChan": False}, "mqtt")
    shown = await house.sensors.get(eui=NAME)
    assert (shown["short_addr"], shown["dual_chan"], shown["wanted"], shown["cause"]) == (
        "1234",
        False,
        "attached",
        "mqtt",
    )


async def test_what_would_be_refused_can_be_asked_before(nursery, autojump_clock):
    house = await house_with(nursery, sensors=[end_point()])
    house.sensors.check(SENSOR, {"name": "roof"})
    with pytest.raises(InvalidRequestError) as caught:
        house.sensors.check(METER, {"name": "roof"})
    assert said(caught)[0] == (
        f"sensor {METER_NAME}: the key is missing: 32 hexadecimal digits are expected"
    )
    assert await house.sensors.list_() == [SHAPE]


# --- attach, detach, remove ----------------------------------------------------------------


async def test_a_detach_and_an_attach_tell_who_confirmed(nursery, autojump_clock):
    station = FakeStation(AVA)
    house = await house_with(nursery, station, sensors=[end_point(name="roof")])
    assert await house.sensors.detach(eui="roof") == CONFIRMED
    assert station.serves == {}
    assert await house.sensors.attach(eui="roof") == CONFIRMED
    assert list(station.serves) == [SENSOR]


async def test_a_detach_tells_who_has_not_confirmed(nursery, autojump_clock):
    here, slow, away = FakeStation(AVA), FakeStation(DIEHL), FakeStation(DIEHL + 1)
    house = await house_with(nursery, here, slow, away, sensors=[end_point()])
    await away.leave()
    slow.is_silent = True
    assert await house.sensors.detach(eui=NAME, timeout=5) == CONFIRMED | {
        "pending": [DIEHL_NAME, "70B3D59CD0000953"]
    }
    assert trio.current_time() == 6.0


@pytest.mark.parametrize("method", ["attach", "detach", "remove"])
async def test_who_cannot_wait_that_long_changes_nothing(nursery, autojump_clock, method):
    house = await house_with(nursery, sensors=[end_point()])
    with pytest.raises(InvalidRequestError) as caught:
        await getattr(house.sensors, method)(eui=NAME, timeout=3601)
    assert said(caught) == ("cannot wait 3601 s: 0 to 3600 are possible", "", 2)
    assert house.store.decisions == 1


async def test_a_sensor_that_is_removed_is_detached_first(nursery, autojump_clock):
    here, slow = FakeStation(AVA), FakeStation(DIEHL)
    house = await house_with(nursery, here, slow, sensors=[end_point()])
    slow.is_silent = True
    assert await house.sensors.remove(eui=NAME, timeout=5) == CONFIRMED | {"pending": [DIEHL_NAME]}
    assert (await house.sensors.list_(), here.serves) == ([], {})
    slow.is_silent = False
    await trio.sleep(120)
    assert slow.serves == {}


@pytest.mark.parametrize("method", ["remove", "clear"])
async def test_what_was_begun_is_ended_though_nobody_waits_any_more(
    nursery, autojump_clock, method
):
    silent = FakeStation(AVA)
    house = await house_with(nursery, silent, sensors=[end_point()])
    silent.is_silent = True
    with trio.move_on_after(1) as patience:
        await getattr(house.sensors, method)(**({"eui": NAME} if method == "remove" else {}))
    assert patience.cancelled_caught
    assert await house.sensors.list_() == []


# --- clear ---------------------------------------------------------------------------------


async def test_all_sensors_are_cleared_and_can_be_had_back(nursery, autojump_clock, monkeypatch):
    monkeypatch.setattr(sensors_module, "CHUNK", 2)
    here, away = FakeStation(AVA), FakeStation(DIEHL)
    everything = [end_point(SENSOR + each, name=f"n{each}", tags=("a",)) for each in range(5)]
    house = await house_with(nursery, here, away, sensors=everything)
    await house.want(everything[4], wanted="detached")
    await trio.sleep(1)
    before = await house.sensors.list_(reveal=True)
    await away.leave()
    assert await house.sensors.clear(expected=5) == {
        "count": 5,
        "undo": "undo.json",
        "pending": {DIEHL_NAME: 4},
    }
    assert (await house.sensors.list_(), here.serves) == ([], {})
    assert [each["key"] for each in house.undo] == [KEY] * 5
    kept = ("eui", "wanted", *_PARAMETERS)
    rows = [{name: row[name] for name in kept} for row in house.undo]
    assert (await house.sensors.import_(rows=rows))["failed"] == 0
    again = await house.sensors.list_(reveal=True)
    assert [{name: row[name] for name in kept} for row in again] == rows
    assert [{name: row[name] for name in kept} for row in before] == rows


_PARAMETERS = [
    "name",
    "key",
    "short_addr",
    "bidi",
    "dual_chan",
    "repetition",
    "wide_carr_off",
    "long_blk_dist",
    "ota",
    "tags",
    "timeout",
]


async def test_a_clear_waits_once_for_all(nursery, autojump_clock):
    slow = FakeStation(AVA)
    house = await house_with(nursery, slow, sensors=[end_point(SENSOR), end_point(METER)])
    slow.is_silent = True
    cleared = await house.sensors.clear(timeout=5)
    assert cleared == {"count": 2, "undo": "undo.json", "pending": {AVA_NAME: 2}}
    assert trio.current_time() == 6.0


async def test_where_there_are_others_than_expected_nothing_is_cleared(nursery, autojump_clock):
    house = await house_with(nursery, sensors=[end_point()])
    with pytest.raises(RequestError) as caught:
        await house.sensors.clear(expected=2)
    assert said(caught) == (
        "there are 1 sensors, not 2; nothing was done",
        "Look at `bssci sensors list` and try again",
        1,
    )
    with pytest.raises(InvalidRequestError):
        await house.sensors.clear(timeout=-1)
    assert (await house.sensors.list_(), house.undo) == ([SHAPE], [])


async def test_without_its_undo_file_nothing_is_cleared(nursery, autojump_clock):
    house = await house_with(nursery, sensors=[end_point()])
    house.undo_fault = OSError(28, "No space left on device")
    with pytest.raises(RequestError) as caught:
        await house.sensors.clear()
    assert said(caught) == (
        "the undo file cannot be written: [Errno 28] No space left on device; nothing was done",
        "Make room beside the database, or `bssci sensors export FILE` first",
        1,
    )
    assert await house.sensors.list_() == [SHAPE]


async def test_where_there_are_none_there_is_nothing_to_undo(autojump_clock):
    house = await open_house()
    assert await house.sensors.clear() == {"count": 0, "undo": None, "pending": {}}


# --- import --------------------------------------------------------------------------------


def rows_of_all_kinds() -> list[dict[str, Any]]:
    return [
        {"row": 2, "eui": METER_NAME.lower(), "nwKey": KEY, "Short Addr": "0001"},
        {"row": 3, "eui": NAME, "name": "cellar", "wanted": "detached"},
        {"row": 4, "eui": VALVE_NAME, "name": "no key"},
        {"row": 5, "eui": KEY, "key": KEY},
        {"row": 6, "eui": VALVE_NAME, "key": KEY, "wanted": "maybe"},
        {"row": 7, "eui": "", "key": KEY},
        {"row": 8, "eui": METER_NAME, "bidi": "false"},
    ]


IMPORTED: dict[str, Any] = {
    "done": 3,
    "failed": 4,
    "rows": [
        {"row": 2, "eui": METER_NAME, "result": "added", "error": None},
        {
            "row": 3,
            "eui": NAME,
            "result": "updated",
            "changes": {"name": ["roof", "cellar"], "wanted": ["attached", "detached"]},
            "error": None,
        },
        {
            "row": 4,
            "eui": VALVE_NAME,
            "result": "error",
            "error": "the key is missing: 32 hexadecimal digits are expected",
        },
        {
            "row": 5,
            "eui": "****",
            "result": "error",
            "error": "found ****, an EUI of 16 hexadecimal digits is expected",
        },
        {
            "row": 6,
            "eui": VALVE_NAME,
            "result": "error",
            "error": 'wanted: "attached" or "detached" is expected',
        },
        {
            "row": 7,
            "eui": "''",
            "result": "error",
            "error": "found '', an EUI of 16 hexadecimal digits is expected",
        },
        {"row": 8, "eui": METER_NAME, "result": "unchanged", "error": None},
    ],
}


async def test_an_import_does_the_good_rows_and_tells_the_bad_ones(nursery, autojump_clock):
    house = await house_with(nursery, sensors=[end_point(name="roof")])
    assert await house.sensors.import_(rows=rows_of_all_kinds()) == IMPORTED
    assert [
        (each["eui"], each["name"], each["wanted"]) for each in await house.sensors.list_()
    ] == [
        (NAME, "cellar", "detached"),
        (METER_NAME, "", "attached"),
    ]
    assert house.store.decisions == 2


async def test_a_dry_run_tells_the_same_and_does_nothing(nursery, autojump_clock):
    house = await house_with(nursery, sensors=[end_point(name="roof")])
    told = list(house.told)
    assert await house.sensors.import_(rows=rows_of_all_kinds(), dry_run=True) == IMPORTED
    assert (house.told, house.store.decisions) == (told, 1)
    assert await house.sensors.list_() == [SHAPE | {"name": "roof"}]


async def test_an_import_that_cannot_be_stored_does_nothing(nursery, autojump_clock):
    house = await house_with(nursery, sensors=[end_point(name="roof")])
    house.store.fault = FULL
    with pytest.raises(StorageError):
        await house.sensors.import_(rows=rows_of_all_kinds())
    assert await house.sensors.list_() == [SHAPE | {"name": "roof"}]


async def test_an_import_of_nothing_is_done(autojump_clock):
    house = await open_house()
    assert await house.sensors.import_(rows=[]) == {"done": 0, "failed": 0, "rows": []}
