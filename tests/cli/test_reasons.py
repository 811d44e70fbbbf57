import pytest

from bssci.cli.reasons import Judgement, of_sensor, of_stranger
from tests.control import NOW

ONE, TWO = "70B3D59CD0000001", "70B3D59CD0000002"
EUI = "70B3D59CD0000102"
REFUSED = {"code": 22, "message": "no room", "time": NOW - 300}


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def station(eui, state="online"):
    return {"eui": eui, "state": state}


def at(eui, state="confirmed", error=None):
    return {"eui": eui, "state": state, "error": error}


def sensor(**changes):
    """One that is attached at one base station and well."""
    return {
        "eui": EUI,
        "wanted": "attached",
        "wanted_since": NOW - 7200,
        "cause": "command",
        "activity": "active",
        "stations": [at(ONE)],
        "last_seen": NOW - 60,
        "receivers": [ONE],
        "silent_for": 60.0,
        "detached_after": 259200.0,
        "ota": False,
        "attachment": None,
    } | changes


def judged(stations=(), *, reattach=True, **changes):
    return of_sensor(sensor(**changes), stations, now=NOW, reattach=reattach)


HEARD = "it was last heard 2024-05-01 11:59:00 (1 min ago)"


def test_one_that_is_well():
    assert judged([station(ONE)]) == Judgement(
        "attached and heard", (HEARD, f"usually heard by {ONE}")
    )


def test_one_whose_usual_base_stations_are_away():
    is_away = f"{TWO} is not connected: what it sends may not reach us"
    assert judged([station(ONE), station(TWO, "offline")], receivers=[ONE, TWO]) == Judgement(
        "attached and heard",
        (HEARD, f"usually heard by {ONE}, {TWO}", is_away),
        ("`bssci doctor --station EUI` says why one is not connected",),
    )


def test_one_that_is_silent():
    told = judged(
        [station(ONE), station(TWO, "offline")],
        activity="warning",
        last_seen=NOW - 180000,
        silent_for=172800.0,
        receivers=[TWO],
    )
    assert told == Judgement(
        "silent",
        (
            "it was last heard 2024-04-29 10:00:00 (2 d ago)",
            f"usually heard by {TWO}",
            "all of these are not connected: what it sends may not reach us",
            "silent for 2 d, not counting times at which nobody could hear it",
            "detached after 3 d of silence, which is in 1 d",
        ),
        (
            "`bssci doctor --station EUI` says why a base station is not connected",
            "see to its battery and whether something is in its way",
        ),
    )


def test_one_that_is_silent_and_never_detached_for_it():
    told = judged([station(ONE)], activity="detach_pending", detached_after=None, receivers=[])
    assert told.reasons == (
        HEARD,
        "silent for 1 min, not counting times at which nobody could hear it",
    )
    assert judged([station(ONE)], activity="warning", silent_for=None).reasons == (
        HEARD,
        f"usually heard by {ONE}",
    )


def test_one_that_was_never_heard():
    assert judged([station(ONE)], last_seen=None) == Judgement(
        "never heard",
        (f"it is attached at {ONE}, and was never heard",),
        (
            "compare key and short address with those of the sensor: with others it is not heard",
            "see that it is switched on, transmits, and is in range of a base station",
        ),
    )


def test_one_that_has_yet_to_attach_over_the_air():
    told = judged([station(ONE)], last_seen=None, ota=True)
    assert told.reasons[1] == "it is to attach over the air, and has not done so"
    assert told.advice[0].startswith("have it attach")


def test_one_that_was_detached_for_its_silence_comes_back():
    told = judged(wanted="detached", cause="inactivity", last_seen=NOW - 86400)
    assert told == Judgement(
        "detached",
        (
            "it was detached for its silence, 2024-05-01 10:00:00 (2 h ago)",
            "it was last heard 2024-04-30 12:00:00 (1 d ago)",
            f"yet to be told of it: {ONE}",
        ),
        (
            "it is attached when it is heard again; `bssci sensors attach 70B3D59CD0000102` "
            "attaches it now",
        ),
    )


@pytest.mark.parametrize(
    ("cause", "reattach"), [("command", True), ("over_the_air", True), ("inactivity", False)]
)
def test_one_that_was_detached_otherwise_stays_so(cause, reattach):
    told = judged(wanted="detached", cause=cause, reattach=reattach, last_seen=None)
    assert told.advice == ("`bssci sensors attach 70B3D59CD0000102` attaches it",)


def test_one_that_no_base_station_could_serve():
    assert judged([]) == Judgement(
        "not served",
        ("no base station was ever connected",),
        ("`bssci stations refused` shows who tried",),
    )
    assert judged([station(ONE, "offline")]) == Judgement(
        "not served",
        ("none of 1 base station is connected",),
        ("`bssci doctor --station EUI` says why one is not",),
    )


def test_one_that_those_who_are_there_do_not_serve():
    told = of_sensor(
        sensor(stations=[at(ONE, "refused", REFUSED), at(TWO)]),
        [station(ONE), station(TWO, "offline"), station("70B3D59CD0000003")],
        now=NOW,
        reattach=True,
    )
    assert told == Judgement(
        "not served",
        (
            f"{ONE} refuses it with error 22: no room",
            "70B3D59CD0000003 has not confirmed it yet",
            f"confirmed only where nobody is connected now: {TWO}",
        ),
        (
            "see what the error means in the manual of the base station; then `bssci sensors "
            f"attach {EUI}` tries again",
        ),
    )
    pending = of_sensor(
        sensor(stations=[at(ONE, "pending")]), [station(ONE)], now=NOW, reattach=True
    )
    assert pending.advice[0].startswith("wait a moment")


def test_one_that_is_not_registered():
    assert of_stranger(None, [], now=NOW) == Judgement(
        "not registered",
        ("no uplink of it is kept: base stations that do not know it may not hear it",),
        ("`bssci sensors add EUI` registers it",),
    )
    removed = {"what": "removed", "cause": "command", "time": NOW - 7200}
    heard = {"received": NOW - 60, "bs_eui": ONE}
    assert of_stranger(heard, [{"what": "heard"}, removed], now=NOW).reasons == (
        "it was removed 2024-05-01 10:00:00 (2 h ago) by a command",
        f"it was heard 2024-05-01 11:59:00 (1 min ago) by {ONE}: what it sends is taken as "
        "sensors.unknown says, and nothing can be sent to it",
    )
