import json
import signal
import subprocess
import sys
import time

import pytest

from bssci.cli import attaching
from bssci.core.center.rpc import BusyError, NotFoundError
from tests.control import Station

ONE, TWO, THREE = 0x70B3D59CD0000001, 0x70B3D59CD0000002, 0x70B3D59CD0000003
KITCHEN, BATH = 0x70B3D59CD0000102, 0x70B3D59CD0000103


@pytest.fixture
def site(service):
    service.register(KITCHEN, name="Kitchen")
    service.register(BATH, name="Bath")
    service.stations = [Station(ONE)]
    return service


@pytest.mark.parametrize(
    ("verb", "done", "wanted"),
    [("attach", "attached", "attached"), ("detach", "detached", "detached")],
)
def test_what_every_base_station_confirms_is_exit_code_0(site, cli, verb, done, wanted):
    site.stations.append(Station(TWO))
    assert cli("sensors", verb, "70-b3-d5-9c-d0-00-01-02") == (
        0,
        f"70B3D59CD0000102  {done} at 2 base stations\n"
        "  confirmed  70B3D59CD0000001, 70B3D59CD0000002\n",
        "",
    )
    assert site.wanted[KITCHEN] == wanted


def test_remove_forgets(site, cli):
    assert cli("sensors", "remove", "Kitchen") == (
        0,
        "70B3D59CD0000102  removed at 1 base station\n  confirmed  70B3D59CD0000001\n",
        "",
    )
    assert list(site.sensors) == [BATH]


def test_what_is_pending_somewhere_is_exit_code_4(site, cli):
    site.stations += [Station(TWO, "silent"), Station(THREE, "refuses")]
    assert cli("sensors", "detach", "Kitchen", "--timeout", "0.05") == (
        4,
        "70B3D59CD0000102  detached at 1 of 3\n"
        "  confirmed  70B3D59CD0000001\n"
        "  pending    70B3D59CD0000002\n"
        "  refused    70B3D59CD0000003: error 22, no room\n",
        "",
    )


def test_what_all_refuse_is_exit_code_1(site, cli):
    site.stations = [Station(ONE, "refuses"), Station(TWO, "refuses")]
    assert cli("sensors", "attach", "Kitchen") == (
        1,
        "70B3D59CD0000102  not attached: refused\n"
        "  refused  70B3D59CD0000001: error 22, no room\n"
        "  refused  70B3D59CD0000002: error 22, no room\n",
        "",
    )


def test_with_no_base_station_it_is_said_when_they_are_told(site, cli):
    site.stations = [Station(ONE, is_online=False)]
    assert cli("sensors", "attach", "Kitchen") == (
        0,
        "70B3D59CD0000102  attached; a base station that has to be told is told when it connects\n",
        "",
    )


@pytest.mark.parametrize(
    ("verb", "manners", "expected"),
    [
        ("detach", [], (0, "detached; no base station serves it")),
        ("remove", [], (0, "removed; no base station served it")),
        ("detach", ["silent"], (4, "not detached yet at 1 base station")),
        ("remove", ["silent", "refuses"], (4, "removed, but not detached yet at 2 base stations")),
        ("detach", ["refuses"], (1, "not detached at 1 base station: refused")),
        ("remove", ["refuses"], (1, "removed, but not detached at 1 base station: refused")),
        ("attach", ["silent", "refuses"], (4, "attached at 0 of 2")),
    ],
)
def test_who_has_nothing_to_confirm_is_not_counted(site, cli, verb, manners, expected):
    """A base station that has let go of a sensor before is told nothing any more."""
    site.stations = [Station(ONE + number, manner) for number, manner in enumerate(manners)]
    code, out, err = cli("sensors", verb, "Kitchen", "--timeout", "0")
    assert ((code, out.splitlines()[0]), err) == (
        (expected[0], f"70B3D59CD0000102  {expected[1]}"),
        "",
    )


def test_programs_get_the_outcome_of_one_sensor_as_an_object(site, cli):
    code, out, err = cli("sensors", "attach", "Kitchen", "--json")
    assert (code, err, json.loads(out)) == (
        0,
        "",
        {
            "eui": "70B3D59CD0000102",
            "confirmed": ["70B3D59CD0000001"],
            "pending": [],
            "refused": [],
        },
    )


def test_programs_get_the_outcomes_of_several_as_an_array(site, cli):
    site.stations = [Station(ONE, "refuses")]
    code, out, err = cli("sensors", "attach", "Kitchen", "Cellar", "--json")
    assert (code, err, json.loads(out)) == (
        6,
        "",
        [
            {
                "eui": "70B3D59CD0000102",
                "confirmed": [],
                "pending": [],
                "refused": [{"eui": "70B3D59CD0000001", "code": 22, "message": "no room"}],
            },
            {"eui": "Cellar", "error": "there is no sensor Cellar"},
        ],
    )


def test_several_are_told_one_by_one_in_the_order_in_which_they_are_named(site, cli):
    assert cli("sensors", "attach", "Bath", "Cellar", "Kitchen") == (
        6,
        "70B3D59CD0000103  attached at 1 base station\n"
        "  confirmed  70B3D59CD0000001\n"
        "70B3D59CD0000102  attached at 1 base station\n"
        "  confirmed  70B3D59CD0000001\n",
        "error: there is no sensor Cellar\nhint: `bssci sensors list`\n",
    )


def test_one_that_is_not_registered_is_exit_code_5(site, cli):
    expected = "error: there is no sensor Cellar\nhint: `bssci sensors list`\n"
    assert cli("sensors", "remove", "Cellar") == (5, "", expected)
    assert cli("sensors", "remove", "Cellar", "Attic")[0] == 5


def test_several_wait_together_no_longer_than_one(site, cli):
    """Those that have their turn when the time is up do not wait at all."""
    for number in range(100):
        site.register(number)
    site.stations = [Station(ONE, "silent")]
    euis = [f"{number:016X}" for number in range(100)]
    assert cli("sensors", "detach", *euis, "--timeout", "0.2")[0] == 4


def test_several_are_all_decided_on_before_any_is_waited_for(site, cli):
    site.stations += [Station(TWO, "silent")]
    assert cli("sensors", "remove", "Kitchen", "Bath", "--timeout", "0.01") == (
        4,
        "70B3D59CD0000102  removed at 1 of 2\n"
        "  confirmed  70B3D59CD0000001\n"
        "  pending    70B3D59CD0000002\n"
        "70B3D59CD0000103  removed at 1 of 2\n"
        "  confirmed  70B3D59CD0000001\n"
        "  pending    70B3D59CD0000002\n",
        "",
    )
    assert site.told == ["sensors.detach"] * 2 + ["sensors.remove"] * 2
    assert site.sensors == {}


def test_base_stations_that_have_confirmed_a_detach_are_remembered():
    refused = {"eui": "D", "code": 22, "message": "no"}
    first = {"eui": "1", "confirmed": ["A"], "pending": ["B", "C"], "refused": [refused]}
    second = {"eui": "1", "confirmed": [], "pending": ["C"], "refused": []}
    assert attaching._joined(first, second) == {
        "eui": "1",
        "confirmed": ["A", "B", "D"],
        "pending": ["C"],
        "refused": [],
    }
    gone = NotFoundError("gone")
    assert attaching._joined(first, gone) is gone


def test_a_fault_ends_all(site, cli):
    site.faults["sensors.attach"] = ZeroDivisionError("ours")
    code, out, err = cli("sensors", "attach", "Kitchen")
    assert (code, out) == (1, "")
    assert err == "error: a fault of the service; its log says more\n"


# --- all ---


def test_all_are_asked_about_first(site, cli):
    assert cli("sensors", "detach", "--all", typed="n\n") == (
        1,
        "",
        "Detach 2 sensors? [y/N] nothing was done\n",
    )
    assert set(site.wanted.values()) == {"attached"}
    assert cli("sensors", "detach", "--all", typed="y\n") == (
        0,
        "2 sensors detached\n",
        "Detach 2 sensors? [y/N] ",
    )
    assert set(site.wanted.values()) == {"detached"}


def test_all_without_a_terminal_need_yes(site, cli):
    code, out, err = cli("sensors", "attach", "--all")
    assert (code, out, site.told) == (2, "", [])
    assert "--yes says that it is meant" in err
    assert cli("sensors", "attach", "--all", "--yes") == (0, "2 sensors attached\n", "")


def test_of_all_those_are_told_that_somebody_has_to_look_at(site, cli):
    site.stations += [Station(TWO, "silent")]
    assert cli("sensors", "attach", "--all", "--yes", "--timeout", "0") == (
        4,
        "70B3D59CD0000102  attached at 1 of 2\n"
        "  confirmed  70B3D59CD0000001\n"
        "  pending    70B3D59CD0000002\n"
        "70B3D59CD0000103  attached at 1 of 2\n"
        "  confirmed  70B3D59CD0000001\n"
        "  pending    70B3D59CD0000002\n"
        "0 sensors attached, 2 pending\n",
        "",
    )


def test_of_many_sixteen_are_under_way_at_once_and_all_are_told_in_order(site, cli):
    for number in range(40):
        site.register(number)
    euis = [f"{number:016X}" for number in reversed(range(40))]
    site.until["sensors.attach"] = lambda: len(site.told) >= 16
    code, out, err = cli("sensors", "attach", *euis, "--json")
    assert (code, [each["eui"] for each in json.loads(out)], err) == (0, euis, "")


@pytest.mark.process
def test_ctrl_c_ends_it_without_a_word(site, folder):
    for number in range(40):
        site.register(number)
    site.until["sensors.detach"] = lambda: False
    command = ["sensors", "detach", "--all", "--yes", "--socket", str(folder / "control.sock")]
    with subprocess.Popen(
        [sys.executable, "-m", "bssci", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while site.told.count("sensors.detach") < 16:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "")
    assert site.told == ["sensors.list", *["sensors.detach"] * 16]


def test_all_of_none_is_done_at_once(service, cli):
    assert cli("sensors", "attach", "--all", "--yes") == (0, "0 sensors attached\n", "")
    assert cli("sensors", "attach", "--all", "--yes", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize("args", [["attach"], ["attach", "Kitchen", "--all"], ["remove"]])
def test_whom_it_is_about_must_be_said_once(site, cli, args):
    code, out, err = cli("sensors", *args)
    assert (code, out, site.told) == (2, "", [])
    assert "Invalid value for EUI: give" in err


def test_a_summary_counts_what_came_of_each():
    done = {"eui": "1", "confirmed": ["a"], "pending": [], "refused": []}
    refused = {"eui": "2", "confirmed": [], "pending": [], "refused": [{}]}
    pending = done | {"pending": ["b"]}
    assert attaching._summary("attach", [done, done, refused, pending, BusyError("busy")]) == (
        "2 sensors attached, 1 pending, 2 refused"
    )
    assert attaching._summary("detach", [done, NotFoundError("gone")]) == (
        "1 sensor detached, 1 failed"
    )
