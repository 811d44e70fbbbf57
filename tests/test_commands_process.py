"""Every command for a running service, against a real one: what it prints, and its exit code.

What differs from run to run (times, ages, ports, the offset of a clock) is replaced by a word.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.messages import (
    DownlinkDataQueue,
    DownlinkRxStatusQuery,
    UplinkDataTransmit,
)
from bssci.core.runtime.holdings import Holdings
from bssci.core.runtime.sections import KEYS
from bssci.core.runtime.station import Identity, open_station
from bssci.core.runtime.station_events import Request
from tests.processes import (
    FIRST_STATION,
    HOST,
    PATIENCE,
    ROOT,
    Site,
    bssci,
    open_service,
    open_stations,
    start_command,
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
    (r"\((\d+ \w+ ago|now)\)", "(AGO)"),
    (r"\b[\d.]+ a second", "RATE"),
    (r"(running for +|silent for +).+", r"\1SPAN"),
    (r"[+-]\d\.\d{3} s", "OFFSET"),
    (r" +\d+ h \d+ min(?=  )", "  LEFT"),
    (r"(?m)(^ *|(?<=\S)(?<!before) +)(now|\d+ (s|min))(?=  )", " AGE"),
    (r"expire in \d+ days", "expire in DAYS"),
]


def steady(text):
    """A text without what differs from run to run."""
    for pattern, word in CHANGING:
        text = re.sub(pattern, word, text)
    return text


def loose(text):
    """A table in which the width of a column depends on how old things are."""
    return re.sub(" {2,}", "  ", text)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "sc"
    assert bssci("init", folder, "--host", HOST).returncode == 0
    return Site(folder)


@pytest.fixture
def site(template, tmp_path):
    return template.copy(tmp_path / "sc")


class Terminal:
    """Somebody who has a service running and gives commands."""

    def __init__(self, service):
        self.service = service
        self.options = ("-c", service.site.config)

    async def _run(self, *arguments, code, typed):
        run = lambda: bssci(*arguments, *self.options, typed=typed, **self.service.settings)  # noqa: E731
        done = await trio.to_thread.run_sync(run)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done

    async def says(self, *arguments, code=0, typed=None):
        """What a command prints, messages last."""
        done = await self._run(*arguments, code=code, typed=typed)
        return steady(done.stdout + done.stderr)

    async def gives(self, *arguments, code=0, typed=None):
        """What it gives to a program."""
        return json.loads((await self._run(*arguments, "--json", code=code, typed=typed)).stdout)


@asynccontextmanager
async def open_terminal(site, **settings):
    async with open_service(site, dedup_delay=0.1, **settings) as service:
        yield Terminal(service)


async def test_every_command_says_what_it_should(site, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(f"EUI;key;name\n{OTHER};{KEY};cellar\n1234;{KEY};x\n")
    exported = tmp_path / "sensors.toml"
    async with open_terminal(site) as terminal, open_stations(terminal.service) as (station,):
        says, gives = terminal.says, terminal.gives
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
        titles = "EUI  name  activity  stations  seen  count  SNR  RSSI"
        row = f"{EUI}  attic  ● active  1/1 AGE  7  12.0  -101.5"
        assert loose(await says("sensors", "list")) == f"{titles}\n{row}\n"
        assert await says("sensors", "list", "--activity", "warning") == "no sensor is like that\n"
        assert loose(await says("sensors", "list", "--stale", "--count", "1")) == (
            f"{titles}  detached in\n{row}  2 d 23 h\n"
        )
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
        shown = (
            f"Sensor {EUI}\n"
            "  name                 attic\n"
            "  tags                 roof\n"
            "  network key          ****\n"
            "  short address        0001\n"
            "\n"
            "Radio\n"
            "  bidirectional        yes\n"
            "  dual channel         yes\n"
            "  repetition           no\n"
            "  wide carrier offset  no\n"
            "  long block distance  no\n"
            "  over the air         no\n"
            "\n"
            "State\n"
            "  activity             ● active\n"
            "  wanted               attached since TIME (AGO)\n"
            "  because of           a command\n"
            "  silent for           SPAN\n"
            "  warned after         1 h\n"
            "  detached after       2 h\n"
            "  own time limit       2 h\n"
            "\n"
            "Heard\n"
            "  last                 TIME (AGO)\n"
            "  count                7\n"
            "  uplinks              1\n"
            "  SNR                  12.0 dB (mean 12.0, 12.0 to 12.0, deviation 0.0)\n"
            "  RSSI                 -101.5 dBm (mean -101.5, -101.5 to -101.5, deviation 0.0)\n"
            f"  best heard by        {STATION}, 12.0 dB, 1 telegram\n"
            f"  usually by           {STATION}\n"
            "\n"
            "Base stations\n"
            f"  {STATION}     ● confirmed\n"
        )
        assert await says("sensors", "show", "attic") == shown
        assert await says("sensors", "show", "attic", "--reveal") == shown.replace("****", KEY)
        assert await says("sensors", "export", exported) == f"1 sensor in {exported}\n"
        assert exported.stat().st_mode & 0o777 == 0o600
        sheet = (
            "# Sensors of a mioty Service Center, with their network keys: keep this file secret.\n"
            "\n"
            "[[sensors]]\n"
            f'eui = "{EUI}"\n'
            'name = "attic"\n'
            f'key = "{KEY}"\n'
            'short_addr = "0001"\n'
            "bidi = true\n"
            "dual_chan = true\n"
            "repetition = false\n"
            "wide_carr_off = false\n"
            "long_blk_dist = false\n"
            "ota = false\n"
            'tags = ["roof"]\n'
            "timeout = 7200.0\n"
            'wanted = "attached"\n'
        )
        assert exported.read_text() == sheet
        assert await says("sensors", "export", "--reveal") == sheet
        assert await says("sensors", "export", "--reveal", "--format", "csv") == (
            "eui,name,key,short_addr,bidi,dual_chan,repetition,wide_carr_off,long_blk_dist,ota,"
            "tags,timeout,wanted\n"
            f"{EUI},attic,{KEY},0001,true,true,false,false,false,false,roof,7200.0,attached\n"
        )

        assert loose(await says("stations", "list")) == (
            "EUI  name  state  since  sensors  uplinks  clock\n"
            f"{STATION}  -  ● online AGE  1  1  OFFSET\n"
        )
        assert await says("stations", "show", STATION) == (
            f"Base station {STATION}\n"
            "  name           -\n"
            "  vendor         -\n"
            "  model          -\n"
            "  version        -\n"
            "\n"
            "Connection\n"
            "  state          ● online\n"
            "  since          TIME (AGO)\n"
            "  address        127.0.0.1\n"
            "  bidirectional  yes\n"
            "  position       -\n"
            "  uplinks        1\n"
            "  clock          OFFSET\n"
            "\n"
            "Sensors\n"
            "  confirmed      1\n"
            "  pending        0\n"
            "  refused        0\n"
            "\n"
            "Status\n"
            "  told           TIME (AGO)\n"
            "  code           0, ok\n"
            "  CPU            -\n"
            "  memory         -\n"
            "  duty cycle     0.0 %\n"
            "  uptime         1 s\n"
            "  time           TIME\n"
        )
        (uplink,) = await gives("uplinks", "list", "--sensor", "attic", "--since", "1h")
        assert (uplink["sensor_eui"], uplink["cnt"], uplink["registered"]) == (EUI, 7, True)
        assert await says("uplinks", "list", "--station", STATION) == (
            "time                 sensor             count    SNR    RSSI  by  base station      "
            "data\n"
            f"TIME  {EUI}       7   12.0  -101.5   1  {STATION}  000100000007\n"
        )

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

        confirmed = f"at 1 base station\n  confirmed  {STATION}\n"
        assert await says("sensors", "detach", "attic") == f"{EUI}  detached {confirmed}"
        assert await says("sensors", "detach", "attic") == (
            f"{EUI}  detached; no base station serves it\n"
        )
        assert await says("sensors", "attach", "attic") == f"{EUI}  attached {confirmed}"
        assert await says("sensors", "detach", "--all", "--yes") == "2 sensors detached\n"
        assert await says("sensors", "attach", "--all", "--yes") == "2 sensors attached\n"
        assert await gives("sensors", "remove", "attic") == {
            "eui": EUI,
            "confirmed": [STATION],
            "pending": [],
            "refused": [],
        }
        assert await says("sensors", "show", "attic", code=5) == (
            "error: no sensor is named 'attic', and 'attic' is not an EUI: 2 hexadecimal digits "
            "found, 16 expected; 't' does not belong there\n"
            "hint: `bssci sensors list` shows those that are\n"
        )
        assert await says("stations", "disconnect", STATION) == f"{STATION}  disconnected\n"
        cleared = await gives("sensors", "clear", "--yes")
        assert cleared.pop("undo").startswith(str(site.folder / "state"))
        assert cleared in [{"count": 1, "pending": {}}, {"count": 1, "pending": {STATION: 1}}]

    code3 = bssci("status", "-c", site.config)
    assert code3.returncode == 3
    assert "bssci serve" in code3.stderr


async def test_who_knocked_and_was_not_let_in_is_told(site):
    async with open_terminal(site) as terminal:
        assert await terminal.gives("stations", "refused") == []
        assert await terminal.says("stations", "refused") == (
            "nobody was refused since the service runs\n"
        )
        for _ in range(2):
            stream = await trio.open_tcp_stream(HOST, terminal.service.port)
            async with stream:
                await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
                while await stream.receive_some():
                    pass
        (refusal,) = await terminal.gives("stations", "refused")
        assert abs(refusal.pop("time") - time.time()) < 60
        assert refusal == {
            "address": "127.0.0.1",
            "reason": "not_tls",
            "eui": None,
            "certificate": None,
            "detail": "speaks HTTP, not TLS",
            "count": 2,
        }
        assert loose(await terminal.says("stations", "refused")) == (
            "last  times  address  reason  EUI  certificate  detail\n"
            " AGE  2  127.0.0.1  not tls  -  -  speaks HTTP, not TLS\n"
        )


# --- what is being heard ---


async def read_lines(process, number):
    """The next lines of what a process prints."""
    text = b""
    with trio.fail_after(PATIENCE):
        while text.count(b"\n") < number:
            text += await process.stdout.receive_some()
    return text.decode()


async def interrupt(process):
    """Ctrl-C; its exit code, and what it has said since."""
    process.send_signal(signal.SIGINT)
    with trio.fail_after(PATIENCE):
        rest = [await stream.receive_some() for stream in (process.stdout, process.stderr)]
        return await process.wait(), *rest


async def test_tail_begins_with_the_latest_and_shows_each_that_comes(site):
    async with open_terminal(site) as terminal, open_stations(terminal.service) as (station,):

        async def tail(*options):
            command = ("uplinks", "tail", "--count", "1", *options, *terminal.options)
            return await start_command(*command, **terminal.service.settings)

        async def hear(packet_cnt, number):
            station.send(telegram(SENSOR, packet_cnt))
            with trio.fail_after(PATIENCE):
                while len(await terminal.gives("uplinks", "list")) < number:
                    await trio.lowlevel.checkpoint()

        await hear(6, 1)
        await hear(7, 2)
        told, shown = await tail("--json"), await tail()
        first = await read_lines(told, 1), await read_lines(shown, 2)
        await hear(8, 3)
        second = await read_lines(told, 1), await read_lines(shown, 1)
        newest, before, _ = await terminal.gives("uplinks", "list")
        assert [json.loads(first[0]), json.loads(second[0])] == [before, newest]
        row = f"TIME  {EUI}       {{}}   12.0  -101.5   1  {STATION}  00010000000{{}}\n"
        titles = "time                 sensor             count    SNR    RSSI  by  base station"
        assert steady(first[1] + second[1]) == (
            f"{titles}      data\n{row.format(7, 7)}{row.format(8, 8)}"
        )
        assert [await interrupt(told), await interrupt(shown)] == [(130, b"", b"")] * 2


# --- settings ---


def table(*rows):
    """Rows as a table, the last column as long as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    cells = [[*map(str.ljust, row, widths), row[-1]] for row in rows]
    return "".join("  ".join(each).rstrip() + "\n" for each in cells)


async def test_settings_are_shown_changed_and_checked(site):
    eui = tomllib.loads(site.config.read_text())["server"]["eui"]
    async with open_terminal(site) as terminal:
        says, gives = terminal.says, terminal.gives
        shown = {
            name: (re.sub(r"\.0$", "", key.default_text.strip('"')) or '""', "default")
            for name, key in KEYS.items()
        }
        shown |= {
            "server.host": (HOST, "environment"),
            "server.port": (str(terminal.service.port), "environment"),
            "server.eui": (eui, "sc.toml"),
            "dedup.delay": ("0.1", "environment"),
        }
        titles = ("setting", "value", "origin")
        rows = lambda: [(name, *each) for name, each in shown.items()]  # noqa: E731
        assert await says("config", "show", "--origin") == table(titles, *rows())
        assert await says("config", "show") == table(titles[:2], *(row[:2] for row in rows()))
        assert await says("config", "get", "auto_detach.timeout") == "259200\n"
        assert await says("config", "check") == f"ok\nchecked {site.config}\n"
        assert await says("config", "set", "auto_detach.timeout", "100h") == (
            "setting              before  now     applies\n"
            "auto_detach.timeout  259200  360000  at once\n"
        )
        shown["auto_detach.timeout"] = ("360000", "overrides.toml")
        assert await says("config", "show", "--origin") == table(titles, *rows())
        overrides = site.folder / "state" / "overrides.toml"
        assert await says("config", "check") == f"ok\nchecked {site.config} and {overrides}\n"
        assert await gives("config", "check") == {
            "ok": True,
            "files": [str(site.config), str(overrides)],
            "problems": [],
        }
        assert await says("config", "unset", "auto_detach.timeout") == (
            "setting              before  now     applies\n"
            "auto_detach.timeout  360000  259200  at once\n"
        )
        refused = await says("config", "set", "tls.cert_file", site.config, code=2)
        assert "sc.toml" in refused
        assert (await gives("config", "get", "tls.cert_file"))["value"].endswith("_cert.pem")


def test_the_env_of_the_earlier_service_is_taken_over(tmp_path):
    env, target = tmp_path / ".env", tmp_path / "new"
    env.write_text(
        "LISTEN_PORT=8000\n"
        "MQTT_BROKER=broker.example.org\n"
        "MQTT_USERNAME=mioty_user\n"
        'MQTT_PASSWORD="hunter2 # 2"\n'
        "BASE_TOPIC=mioty/\n"
        "SENSOR_CONFIG_FILE=endpoints.json\n"
        "AUTO_DETACH_TIMEOUT=86400\n"
        "WEB_PORT=5000\n"
        "this is no assignment\n"
    )
    target.mkdir()
    done = bssci("config", "import", env, "--out", target)
    config = target / "sc.toml"
    eui = tomllib.loads(config.read_text())["server"]["eui"]
    assert done.stdout == table(
        ("setting", "value", "from"),
        ("server.port", "8000", "LISTEN_PORT"),
        ("server.eui", f'"{eui}"', ""),
        ("mqtt.enabled", "true", "the earlier service always has a broker"),
        ("mqtt.host", '"broker.example.org"', "MQTT_BROKER"),
        ("mqtt.username", '"mioty_user"', "MQTT_USERNAME"),
        ("mqtt.password_file", '"certs/mqtt_password"', "MQTT_PASSWORD"),
        ("mqtt.base_topic", '"mioty"', "BASE_TOPIC"),
        ("auto_detach.timeout", "86400", "AUTO_DETACH_TIMEOUT"),
        ("auto_detach.warning_timeout", "43200", "half of AUTO_DETACH_TIMEOUT, which is short"),
    )
    steps = table(
        ("  1.", f"bssci certs gen -c {config}", "its certificates are not there yet"),
        ("  2.", f"bssci serve -c {config}", "base stations connect to port 8000, TLS"),
        ("  3.", f"bssci sensors import {tmp_path}/endpoints.json -c {config}", "while it runs"),
    )
    assert (done.returncode, done.stderr) == (
        0,
        f"Written: {config}\n"
        "Left out, there is no such setting: WEB_PORT\n"
        "Left out, it assigns nothing: line 9\n"
        f"\nNext:\n{steps}",
    )
    assert (target / "certs" / "mqtt_password").read_text() == "hunter2 # 2\n"
    checked = bssci("config", "check", "-c", config)
    assert (checked.returncode, checked.stdout) == (0, "ok\n")
    again = bssci("config", "import", env, "--out", target)
    assert (again.returncode, again.stdout) == (2, "")


# --- what the radio does ---


class Mast:
    """A base station that does all that one can be asked, unless it is to be silent.

    Attributes:
        asked: what it has done for the Service Center.
    """

    def __init__(self):
        self.holdings = Holdings()
        self.asked = []
        self.is_silent = False

    def __call__(self, event):
        if not isinstance(event, Request):
            self.holdings(event)
        elif not self.is_silent:
            self.asked.append(replace(event.message, op_id=0))
            if isinstance(event.message, UplinkDataTransmit):
                event.respond()
            else:
                self.holdings(event)


@asynccontextmanager
async def open_mast(terminal):
    """A base station with a name and two sensors, of which one can receive."""
    mast, site = Mast(), terminal.service.site
    async with open_station(
        (HOST, terminal.service.port),
        identity=Identity(eui=FIRST_STATION, name="Tower"),
        ssl_context=site.context(FIRST_STATION),
        take=mast,
    ) as station:
        await station.wait_online()
        for eui, name, *options in ((EUI, "attic", "--bidi"), (OTHER, "cellar room")):
            add = ("sensors", "add", eui, "--key", "-", "--name", name, *options)
            await terminal.says(*add, typed=f"{KEY}\n")
        await station.send_uplink(telegram(SENSOR, 6))
        with trio.fail_after(PATIENCE):
            while (await terminal.gives("sensors", "show", "attic"))["last_seen"] is None:
                await trio.lowlevel.checkpoint()
        mast.asked.clear()
        yield mast, station


NOBODY = (
    "error: no sensor is named 'nobody', and 'nobody' is not an EUI: 2 hexadecimal digits found, "
    "16 expected; 'n' does not belong there\n"
    "hint: `bssci sensors list` shows those that are\n"
)
NO_HEX = "error: data: 3 of its characters are no hexadecimal digits\n"
AT_STATION = f"  sensor        {EUI}\n  base station  {STATION}\n"
NO_DOWNLINK = "error: there is no downlink 99\nhint: `bssci downlinks list` shows what there is\n"


async def test_downlinks_are_sent_listed_and_cancelled(site):
    async with open_terminal(site) as terminal, open_mast(terminal) as (mast, station):
        says, gives = terminal.says, terminal.gives
        assert await says("downlinks", "list") == "no downlink yet\n"
        every_option = (
            *("--priority", "2.5", "--format", "3", "--respond", "--respond-priority", "--window"),
            *("--only-if-expected", "--for", "2h", "--query-rx", "--ref", "valve 7"),
        )
        first = await gives("downlinks", "send", "attic", "-", *every_option, typed="01ff\n")
        assert first.pop("expires") - first.pop("created") == 7200
        assert first == {
            "id": 1,
            "sensor_eui": EUI,
            "ref": "valve 7",
            "state": "queued",
            "bs_eui": STATION,
            "result": None,
            "intent": "deliver",
            "data": [1, 255],
            "entries": None,
            "prio": 2.5,
            "format": 3,
            "response_exp": True,
            "response_prio": True,
            "dl_wind_req": True,
            "exp_only": True,
            "query_rx": True,
        }
        await wait_until(lambda: len(mast.asked) == 2, "the base station has the first")
        queued = DownlinkDataQueue(
            ep_eui=SENSOR,
            que_id=1,
            cnt_depend=False,
            user_data=(b"\x01\xff",),
            format=3,
            prio=2.5,
            response_exp=True,
            response_prio=True,
            dl_wind_req=True,
            exp_only=True,
        )
        assert mast.asked == [DownlinkRxStatusQuery(ep_eui=SENSOR), queued]

        # By the counters of uplinks, and it is not waited long enough.
        second = ("downlinks", "send", "attic", "--counter", "9=01", "--counter", "10=02")
        assert await says(*second, "--wait", "2", code=4) == (
            f"downlink 2  at the base station\n{AT_STATION}  expires       TIME\n"
        )

        async def open_window():
            await wait_until(lambda: 3 in mast.holdings.downlinks[SENSOR], "it has the third")
            uplink = replace(telegram(SENSOR, 7), dl_open=True)
            for report in mast.holdings.open_window(uplink, tx_time=time.time_ns()):
                await station.send(report)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_window)
            sent = await says("downlinks", "send", "attic", "02", "--priority", "9", "--wait", "20")
        third = f"downlink 3  sent\n{AT_STATION}  sent at       TIME\n  after uplink  7\n"
        assert sent == third

        assert await says("downlinks", "send", "cellar room", "02", code=1) == (
            f"error: sensor {OTHER} cannot receive: it is not bidirectional\n"
            f"hint: if it can, `bssci sensors set {OTHER} --bidi`\n"
        )
        assert await says("downlinks", "send", "attic", "xyz", code=2) == NO_HEX
        assert await says("downlinks", "send", "nobody", "01", code=5) == NOBODY

        titles = "id  sensor  state  age  expires in  base station  ref  data\n"
        rows = (
            f" 3  {EUI}  ● sent AGE  -  {STATION}  -  02\n",
            f" 2  {EUI}  ◐ at station AGE  LEFT  {STATION}  -  9=01 10=02\n",
            f" 1  {EUI}  ◐ at station AGE  LEFT  {STATION}  valve 7  01ff\n",
        )
        waiting = ("--sensor", "attic", "--state", "at-station")
        listed = [loose(await says("downlinks", "list", *options)) for options in ((), waiting)]
        assert listed == [titles + "".join(rows), titles + "".join(rows[1:])]
        newest = await gives("downlinks", "list", "--count", "2")
        assert [(each["id"], each["state"]) for each in newest] == [(3, "sent"), (2, "at_station")]
        assert newest[1]["entries"] == [{"cnt": 9, "data": [1]}, {"cnt": 10, "data": [2]}]

        revoked = f"downlink 1  revoked\n{AT_STATION}"
        assert await says("downlinks", "cancel", "1", "99", code=6) == revoked + NO_DOWNLINK
        assert await says("downlinks", "cancel", "3", code=1) == third
        assert await says("downlinks", "cancel", "99", code=5) == NO_DOWNLINK
        cancelled = await says("downlinks", "cancel", "--sensor", "attic")
        assert cancelled == f"downlink 2  revoked\n{AT_STATION}"
        assert await says("downlinks", "cancel", "--sensor", "attic") == (
            "no downlink waits for this sensor\n"
        )

        last = (await gives("downlinks", "send", "attic", ""))["id"]
        await wait_until(lambda: last in mast.holdings.downlinks[SENSOR], "it has the last")
        mast.is_silent = True
        (pending,) = await gives("downlinks", "cancel", last, "--timeout", "0.1", code=4)
        assert (pending["state"], pending["intent"]) == ("at_station", "revoke")
        assert await says("downlinks", "cancel", last, "--timeout", "0", code=4) == (
            f"downlink {last}  is to be dropped; the base station has not confirmed yet\n"
            f"{AT_STATION}  expires       TIME\n"
        )


async def test_a_radio_does_what_it_is_asked(site):
    async with open_terminal(site) as terminal, open_mast(terminal) as (mast, _):
        says, gives = terminal.says, terminal.gives
        transmit = ("stations", "transmit", "tower", "attic")
        options = ("--format", "1", "--profile", "EU2", "--counter", "77", "--timeout", "20")
        assert await says(*transmit, "0102ff", *options) == (
            f"{STATION}  transmits for {EUI}, packet 77\n"
        )
        assert await gives(*transmit, "-", typed="ff\n") == {
            "eui": STATION,
            "sensor_eui": EUI,
            "packet_cnt": 78,
        }
        sent = UplinkDataTransmit(
            ep_eui=SENSOR,
            nwk_sn_key=bytes.fromhex(KEY),
            sh_addr=1,
            packet_cnt=77,
            profile="EU2",
            user_data=b"\x01\x02\xff",
            format=1,
        )
        assert mast.asked == [
            sent,
            replace(sent, packet_cnt=78, profile=None, user_data=b"\xff", format=0),
        ]
        assert await says(*transmit, "xyz", code=2) == NO_HEX
        assert await says("stations", "transmit", "tower", "nobody", "01", code=5) == NOBODY

        vm = ("stations", "vm")
        assert await says(*vm, "status", "tower") == f"{STATION}  active MAC types: none\n"
        assert await says(*vm, "activate", "tower", "5") == (
            f"{STATION}  activated 5; active MAC types: 5\n"
        )
        assert await gives(*vm, "activate", "tower", "3") == {"eui": STATION, "mac_types": [3, 5]}
        assert await says(*vm, "deactivate", "tower", "5") == (
            f"{STATION}  deactivated 5; active MAC types: 3\n"
        )
        assert await gives(*vm, "status", STATION) == {"eui": STATION, "mac_types": [3]}
        assert await gives(*vm, "deactivate", "tower", "3") == {"eui": STATION, "mac_types": []}
        assert await says(*vm, "status", "nobody", code=5) == (
            "error: base station nobody is not known\n"
            "hint: `bssci stations list` shows those that are, `bssci stations refused` who was "
            "not let in\n"
        )
        mast.is_silent = True
        assert await says(*vm, "status", "tower", "--timeout", "0.1", code=7) == (
            f"error: base station {STATION}: vm.status: no answer in time\n"
            "hint: it may still do it: look before you repeat it\n"
        )


async def test_a_base_station_that_cannot_do_it_is_told_of(site):
    async with open_terminal(site) as terminal, open_stations(terminal.service):
        add = ("sensors", "add", EUI, "--key", "-")
        await terminal.says(*add, typed=f"{KEY}\n")
        for command, asked in (
            (("transmit", STATION, EUI, "01"), "ulDataTx"),
            (("vm", "status", STATION), "vm.status"),
            (("vm", "activate", STATION, "1"), "vm.activate"),
        ):
            assert await terminal.says("stations", *command, code=1) == (
                f"error: base station {STATION} refuses {asked} with error 95: this base station "
                "cannot do that\n"
                "hint: it does not have this feature\n"
            )


# --- completion ---

SCRIPT = """\
source <(bssci --show-completion bash)
tab() {
    COMP_WORDS=(bssci "$@") COMP_CWORD=$# COMPREPLY=()
    _bssci_completion bssci
    local IFS=,
    echo "${COMPREPLY[*]}"
}
"""


async def test_bash_completes_names_euis_and_keys_of_settings(site, tmp_path):
    """With the script that `--show-completion` gives, as a person has it installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "bssci"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bssci "$@"\n')
    program.chmod(0o755)

    def complete(*lines):
        clean = {name: text for name, text in os.environ.items() if not name.startswith("BSSCI_")}
        done = subprocess.run(
            ["bash", "--norc", "-c", SCRIPT + "".join(f"tab {line}\n" for line in lines)],
            capture_output=True,
            text=True,
            timeout=PATIENCE * len(lines),
            check=False,
            cwd=ROOT,
            env=clean
            | {
                "PATH": f"{folder}:{os.environ['PATH']}",
                "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
            },
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    config = f"-c {site.config}"
    expected = {
        f"sensors show {config} at": "attic",
        f"sensors show {config} cel": r"cellar\ room",
        f"sensors show {config} 70B3D59CD1": f"{EUI},{OTHER}",
        f"sensors show {config} 70b3d59cd10000": f"{EUI.lower()},{OTHER.lower()}",
        f"sensors detach {config} attic 70b3-d59c-d100-0002": "70b3-d59c-d100-0002",
        f"sensors show {config} 70b3d59c-d1000002": OTHER,
        f"uplinks tail {config} --sensor at": "attic",
        f"downlinks send {config} at": "attic",
        f"stations show {config} T": "Tower",
        f"stations vm status {config} 70B3": STATION,
        f"stations transmit {config} Tower ce": r"cellar\ room",
        f"config get {config} auto_detach.t": "auto_detach.timeout",
        f"sensors list {config} --activity de": "detach_pending,detached",
    }
    found = dict.fromkeys(expected, "")
    async with open_terminal(site) as terminal, open_mast(terminal):
        for _ in range(5):  # it gives up after a second, and Tab is pressed again
            if missing := [line for line, words in found.items() if not words]:
                words = await trio.to_thread.run_sync(complete, *missing)
                found |= zip(missing, words, strict=True)
    assert found == expected
