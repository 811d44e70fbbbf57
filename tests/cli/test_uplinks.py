import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime

import pytest
import typer

from bssci.cli.uplinks import beginning
from tests.control import NOW, FakeService, Station

STATION, OTHER = 0x70B3D59CD0000001, 0x70B3D59CD0000002
KITCHEN, BATH = 0x70B3D59CD0000102, 0x70B3D59CD0000103

TITLE = "time                 sensor             count    SNR    RSSI  by  base station      data"


def uplink(number, *, sensor="70B3D59CD0000102", station="70B3D59CD0000001"):
    """The one that came so many seconds before now."""
    receptions = [
        {"bs_eui": eui, "rxTime": int((NOW - number) * 1e9), "snr": 12.34, "rssi": -101.5}
        for eui in ("70B3D59CD0000001", "70B3D59CD0000002")
    ]
    return {
        "bs_eui": station,
        "rxTime": int((NOW - number) * 1e9),
        "snr": 12.34,
        "rssi": -101.5,
        "cnt": 1000 - number,
        "data": [0, 17, 255, number],
        "id": f"uplink-{number}",
        "receptions": receptions,
        "registered": True,
        "sensor_eui": sensor,
        "received": NOW - number,
        "published": None,
    }


@pytest.fixture
def site(service):
    """Three uplinks, the oldest first."""
    service.register(KITCHEN, name="Kitchen")
    service.register(BATH, name="Bath")
    service.stations = [Station(STATION, name="Tower"), Station(OTHER)]
    service.uplinks = [
        uplink(90, sensor="70B3D59CD0000103", station="70B3D59CD0000002"),
        uplink(60),
        uplink(30),
    ]
    return service


# --- list ---


def test_a_list_has_the_newest_first(site, cli):
    line = "2024-05-01 11:5{}  70B3D59CD000010{}     {}   12.3  -101.5   2  {}  0011ff{}"
    assert cli("uplinks", "list") == (
        0,
        "\n".join(
            [
                TITLE,
                line.format("9:30", 2, 970, "70B3D59CD0000001", "1e"),
                line.format("9:00", 2, 940, "70B3D59CD0000001", "3c"),
                line.format("8:30", 3, 910, "70B3D59CD0000002", "5a"),
                "",
            ]
        ),
        "",
    )


def test_a_list_fits_a_terminal(site, cli):
    _, out, _ = cli("uplinks", "list", "--count", "1", columns=80)
    assert out.replace("\x1b[2m", "").replace("\x1b[0m", "") == (
        "time                 sensor             count    SNR    RSSI  by  data\n"
        "2024-05-01 11:59:30  70B3D59CD0000102     970   12.3  -101.5   2  0011ff1e\n"
    )


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], [30, 60, 90]),
        (["--count", "2"], [30, 60]),
        (["--sensor", "Bath"], [90]),
        (["--station", "Tower"], [30, 60]),
        (["--since", "70s"], [30, 60]),
        (["--since", "2024-05-01T11:59:00"], [30, 60]),
        (["--since", f"{NOW - 40}"], [30]),
    ],
)
def test_programs_get_those_they_ask_for(site, cli, options, ids):
    code, out, err = cli("uplinks", "list", "--json", *options)
    found = json.loads(out)
    assert (code, err, [each["id"] for each in found]) == (0, "", [f"uplink-{n}" for n in ids])
    assert found[0] in site.uplinks


def test_that_there_is_none_is_a_message(service, cli):
    assert cli("uplinks", "list") == (0, "", "no uplink yet\n")
    assert cli("uplinks", "list", "--since", "1h") == (0, "", "no uplink is like that\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 2e9 - 90),
        ("1h 30m", 2e9 - 5400),
        ("1700000000.5", 1700000000.5),
        ("1970-01-02T00:00:00+00:00", 86400.0),
        ("2024-05-01", datetime(2024, 5, 1).timestamp()),
    ],
)
def test_since_is_a_span_a_date_or_a_unix_time(text, expected):
    assert beginning(text, 2e9) == expected


@pytest.mark.parametrize("text", ["90", "yesterday", "-1h", "", "nan", "1e99"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(typer.BadParameter, match="expected 90s, 1h, 7d"):
        beginning(text, 2e9)


# --- tail ---


@contextlib.contextmanager
def tailing(folder, *options):
    """`uplinks tail` in a process of its own."""
    arguments = [*options, "--socket", str(folder / "control.sock")]
    with subprocess.Popen(
        [sys.executable, "-m", "bssci", "uplinks", "tail", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TZ": "UTC", "NO_COLOR": "", "PYTHONUNBUFFERED": ""},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.process
def test_tail_begins_with_the_latest_and_goes_on(site, folder):
    with tailing(folder, "--count", "2", "--json") as process:
        ids = [json.loads(process.stdout.readline())["id"] for _ in range(2)]
        site.tell("uplink", uplink(30))  # was told already
        site.tell("sensor", {"eui": "70B3D59CD0000102", "name": "Kitchen", "event": "attached"})
        new = uplink(1)
        site.tell("uplink", new)
        assert json.loads(process.stdout.readline()) == new
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (ids, process.returncode, out, err) == (["uplink-60", "uplink-30"], 130, "", "")


@pytest.mark.process
def test_tail_for_people_has_titles_and_only_what_is_asked_for(site, folder):
    with tailing(folder, "--sensor", "Kitchen", "--count", "1") as process:
        lines = [process.stdout.readline() for _ in range(2)]
        site.tell("uplink", uplink(2, sensor="70B3D59CD0000103"))
        site.tell("uplink", uplink(1))
        lines.append(process.stdout.readline())
    assert lines == [
        f"{TITLE}\n",
        "2024-05-01 11:59:30  70B3D59CD0000102     970   12.3  -101.5   2  70B3D59CD0000001"
        "  0011ff1e\n",
        "2024-05-01 11:59:59  70B3D59CD0000102     999   12.3  -101.5   2  70B3D59CD0000001"
        "  0011ff01\n",
    ]


@pytest.mark.process
def test_tail_says_what_came_too_fast(site, folder):
    with tailing(folder, "--count", "1", "--json") as process:
        process.stdout.readline()
        site.tell("gap", {"lost": 7})
        assert process.stderr.readline() == (
            "warning: 7 uplinks came too fast to be shown; `bssci uplinks list` has them\n"
        )


@pytest.mark.process
def test_tail_goes_on_when_the_service_was_restarted(folder):
    """What came meanwhile is shown, and nothing twice."""
    first, second = FakeService(), FakeService()
    now = time.time()
    old, missed, new = (uplink(n) | {"received": now + n} for n in (1, 2, 3))
    first.uplinks = [old]
    second.uplinks = [old, missed]
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(contextlib.ExitStack())
        serving.enter_context(first.serving(folder / "control.sock"))
        process = stack.enter_context(tailing(folder, "--json"))
        told = [json.loads(process.stdout.readline())]
        serving.close()
        gone = process.stderr.readline()
        serving.enter_context(second.serving(folder / "control.sock"))
        told.append(json.loads(process.stdout.readline()))
        second.tell("uplink", new)
        told.append(json.loads(process.stdout.readline()))
        back = process.stderr.readline()
    assert (gone, back) == (
        "warning: the service has gone; waiting for it to come back\n",
        "the service is back\n",
    )
    assert told == [old, missed, new]


@pytest.mark.process
def test_a_reader_that_goes_away_ends_tail_quietly(site, folder):
    with tailing(folder, "--json") as process:
        process.stdout.readline()
        process.stdout.close()
        wait_for(lambda: "uplinks.list" in site.told)
        site.tell("uplink", uplink(1))
        site.tell("uplink", uplink(2))
        assert process.stderr.read() == ""
        assert process.wait(30) == 1


def test_tail_without_a_service_ends_at_once(cli):
    code, out, err = cli("uplinks", "tail")
    assert (code, out, "bssci serve" in err) == (3, "", True)


def test_tail_of_a_sensor_that_nobody_knows_ends_at_once(site, cli):
    assert cli("uplinks", "tail", "--sensor", "Attic")[0] == 5
