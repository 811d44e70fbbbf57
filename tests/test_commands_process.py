"""Every command for a running service, against a real one: what it prints, and its exit code.

What differs from run to run (times, ages, ports, the offset of a clock) is replaced by a word.
"""

from __future__ import annotations

import json
import re
import sys

import pytest
import trio

from bssci.core.protocol.eui import format_eui
from tests.processes import (
    FIRST_STATION,
    HOST,
    Site,
    bssci,
    open_service,
    open_stations,
    telegram,
    wait_until,
)

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

SENSOR = 0x70B3D59CD1000001
EUI, OTHER = format_eui(SENSOR), format_eui(SENSOR + 1)
STATION = format_eui(FIRST_STATION)
KEY = "00112233445566778899AABBCCDDEEFF"

CHANGING = [
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"\(\d+ s ago\)|\(now\)", "(AGO)"),
    (r"\b[\d.]+ a second", "RATE"),
    (r"(running for +|silent for +)\S+( s)?", r"\1SPAN"),
    (r"[+-]\d\.\d{3} s", "OFFSET"),
    (r"(● active +1/1) +\S+( s)?( +7 )", r"\1 SPAN\3"),
    (r"(● online) +\S+( s)?( +1 +1 )", r"\1 SPAN\3"),
    (r"expire in \d+ days", "expire in DAYS"),
]


def steady(text):
    """A text without what differs from run to run."""
    for pattern, word in CHANGING:
        text = re.sub(pattern, word, text)
    return text


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "sc"
    assert bssci("init", folder, "--host", HOST).returncode == 0
    return Site(folder)


async def test_every_command_says_what_it_should(site, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(f"EUI;key;name\n{OTHER};{KEY};cellar\n1234;{KEY};x\n")
    exported = tmp_path / "sensors.toml"
    async with (
        open_service(site, dedup_delay=0.1) as service,
        open_stations(service) as (station,),
    ):

        async def says(*arguments, code=0, typed=None):
            done = await trio.to_thread.run_sync(
                lambda: bssci(*arguments, "-c", site.config, typed=typed, **service.settings)
            )
            assert done.returncode == code, (arguments, done.stdout, done.stderr)
            return steady(done.stdout + done.stderr)

        async def gives(*arguments, code=0):
            done = await trio.to_thread.run_sync(
                lambda: bssci(
                    *arguments, "--json", "-c", site.config, typed=None, **service.settings
                )
            )
            assert done.returncode == code, (arguments, done.stdout, done.stderr)
            return json.loads(done.stdout)

        add = ("sensors", "add", EUI, "--key", "-", "--name", "attic", "--tag", "roof")
        assert await says(*add, typed=f"{KEY}\n") == (
            f"{EUI}  attached at 1 base station\n  confirmed  {STATION}\n"
        )
        station.send(telegram(SENSOR, 7))
        with trio.fail_after(20):
            while not await gives("uplinks", "list"):
                await trio.lowlevel.checkpoint()
            while not (await gives("stations", "show", STATION))["status"]:
                await trio.lowlevel.checkpoint()

        assert await says("status") == (
            "bssci 0.1.0\n"
            "  running for      SPAN\n"
            "  base stations    1 of 1 online\n"
            "  journal          ● ok\n"
            "  broker           · disabled\n"
            "  certificates     ● expire in DAYS\n"
            "\n"
            "Sensors: 1\n"
            "  active           ● 1\n"
            "  warning          ▲ 0\n"
            "  detach pending   ◐ 0\n"
            "  auto-detached    ✕ 0\n"
            "  detached         ○ 0\n"
            "  never seen       · 0\n"
            "\n"
            "Uplinks since it runs\n"
            "  received         1, RATE\n"
            "  copies           0\n"
            "  published        0\n"
            "  unregistered     0\n"
            "  to be settled    0\n"
            "  to be published  0\n"
        )
        (sensor,) = await gives("sensors", "list")
        seen, preferred = sensor.pop("last_seen"), sensor.pop("preferred")
        assert seen == preferred.pop("updated")
        assert preferred == {"bs_eui": STATION, "snr": sensor["snr"], "messages": 1}
        assert sensor == {
            "eui": EUI,
            "name": "attic",
            "key": "****",
            "short_addr": "0001",
            "bidi": False,
            "dual_chan": True,
            "repetition": False,
            "wide_carr_off": False,
            "long_blk_dist": False,
            "ota": False,
            "tags": ["roof"],
            "wanted": "attached",
            "activity": "active",
            "stations": [{"eui": STATION, "state": "confirmed", "error": None}],
            "last_cnt": 7,
            "uplinks": 1,
            "snr": 12.0,
            "rssi": -101.5,
            "timeout": None,
        }
        assert await says("sensors", "list", "--activity", "warning") == "no sensor is like that\n"
        assert await says("sensors", "list", "--stale") == "no sensor is like that\n"
        assert await says("sensors", "set", "attic", "--timeout", "7200", "--bidi") == (
            f"{EUI}  changed\n"
            "  bidirectional   no -> yes\n"
            "  own time limit  - -> 2 h\n"
            f"  confirmed       {STATION}\n"
        )
        assert await says("sensors", "history", "attic") == (
            "time                 event     cause    base station      message\n"
            "TIME  changed   command  -                 -\n"
            f"TIME  attached  -        {STATION}  -\n"
            "TIME  added     command  -                 -\n"
        )
        shown = await says("sensors", "show", "attic")
        assert "  network key          ****\n" in shown
        assert KEY not in shown
        assert KEY in await says("sensors", "show", "attic", "--reveal")
        assert await says("sensors", "export", exported) != ""
        assert exported.stat().st_mode & 0o777 == 0o600

        assert await gives("stations", "refused") == []
        assert await says("stations", "refused") == "nobody was refused since the service runs\n"
        (listed,) = await gives("stations", "list")
        assert listed["sensors"] == {"confirmed": 1, "pending": 0, "refused": 0}
        assert (listed["eui"], listed["state"], listed["uplinks"]) == (STATION, "online", 1)
        (uplink,) = await gives("uplinks", "list", "--sensor", "attic", "--since", "1h")
        assert (uplink["sensor_eui"], uplink["cnt"], uplink["registered"]) == (EUI, 7, True)

        assert await says("config", "get", "auto_detach.timeout") == "259200\n"
        assert await says("config", "set", "auto_detach.timeout", "100h") == (
            "setting              before  now     applies\n"
            "auto_detach.timeout  259200  360000  at once\n"
        )
        assert "overrides.toml" in next(
            line
            for line in (await says("config", "show", "--origin")).splitlines()
            if line.startswith("auto_detach.timeout")
        )
        assert await says("config", "unset", "auto_detach.timeout") == (
            "setting              before  now     applies\n"
            "auto_detach.timeout  360000  259200  at once\n"
        )
        assert (await says("config", "check")).startswith("ok\n")
        refused = await says("config", "set", "tls.cert_file", str(table), code=2)
        assert "table.csv" in refused
        assert (await gives("config", "get", "tls.cert_file"))["value"].endswith("_cert.pem")

        assert await says("sensors", "import", table, "--dry-run", code=6) == (
            f"row 2  {OTHER}  added\n"
            "row 3  '1234'  '1234' is not an EUI: 4 hexadecimal digits found, 16 expected; "
            "a spreadsheet drops leading zeros of what is not formatted as text\n"
            "1 added, 0 changed, 0 unchanged, 1 failed; nothing was done\n"
        )
        assert len(await gives("sensors", "list")) == 1
        imported = await gives("sensors", "import", table, code=6)
        assert [row["result"] for row in imported["rows"]] == ["added", "error"]
        await wait_until(lambda: SENSOR + 1 in station.served, "it is attached")

        assert await says("sensors", "detach", "attic") == (
            f"{EUI}  detached at 1 base station\n  confirmed  {STATION}\n"
        )
        assert await says("sensors", "attach", "attic") == (
            f"{EUI}  attached at 1 base station\n  confirmed  {STATION}\n"
        )
        assert await gives("sensors", "remove", "attic") == {
            "eui": EUI,
            "confirmed": [STATION],
            "pending": [],
            "refused": [],
        }
        assert "hint: `bssci sensors list`" in await says("sensors", "show", "attic", code=5)
        assert await says("stations", "disconnect", STATION) == f"{STATION}  disconnected\n"
        cleared = await gives("sensors", "clear", "--yes")
        assert cleared["count"] == 1

    code3 = bssci("status", "-c", site.config)
    assert code3.returncode == 3
    assert "bssci serve" in code3.stderr
