import json

import pytest

from bssci.cli import remote
from tests.control import NOW, Station

STATION, OTHER = 0x70B3D59CD0000001, 0x70B3D59CD0000002
KITCHEN, BATH, CELLAR = 0x70B3D59CD0000102, 0x70B3D59CD0000103, 0x70B3D59CD0000104


@pytest.fixture
def site(service):
    """A sensor that is heard, one that was never heard, one that is detached."""
    service.stations = [Station(STATION), Station(OTHER, "silent")]
    service.register(KITCHEN, name="Kitchen", tags=["home", "wet"], bidi=True)
    service.register(BATH, name="A name that is rather long for a table of sensors")
    service.register(CELLAR, wanted="detached")
    service.changes[KITCHEN] = {
        "activity": "active",
        "last_seen": NOW - 61,
        "last_cnt": 4711,
        "uplinks": 17,
        "snr": 12.34,
        "rssi": -101.5,
        "preferred": {
            "bs_eui": "70B3D59CD0000001",
            "snr": 12.34,
            "updated": NOW - 61,
            "messages": 3,
        },
        "statistics": {
            "snr": {"mean": 11.5, "min": 8.0, "max": 14.0, "deviation": 1.25},
            "rssi": {"mean": -100.0, "min": -110.0, "max": -90.0, "deviation": 4.0},
        },
        "receivers": ["70B3D59CD0000001", "70B3D59CD0000002"],
        "silent_for": 61.0,
        "timeout": 604800.0,
    }
    service.changes[BATH] = {"activity": "auto_detached", "last_seen": NOW - 400_000}
    return service


# --- list ---


def test_a_list_for_pipes_is_as_wide_as_need_be(site, cli):
    long = "A name that is rather long for a table of sensors"
    assert cli("sensors", "list") == (
        0,
        f"EUI               {'name':49}  activity         stations   seen  count   SNR    RSSI\n"
        f"70B3D59CD0000102  {'Kitchen':49}  ● active         1/2       1 min   4711  12.3  -101.5\n"
        f"70B3D59CD0000103  {long}  ✕ auto-detached  1/2         4 d      -     -       -\n"
        f"70B3D59CD0000104  {'-':49}  ○ detached       -             -      -     -       -\n",
        "",
    )


def test_a_list_on_a_terminal_fits_and_has_colours(site, cli):
    code, out, err = cli("sensors", "list", columns=80)
    assert (code, err) == (0, "")
    plain = out.replace("\x1b[0m", "").replace("\x1b[2m", "")
    for colour in (31, 32, 33):
        plain = plain.replace(f"\x1b[{colour}m", "")
    assert plain == (
        "EUI               name     activity         stations   seen  count   SNR    RSSI\n"
        "70B3D59CD0000102  Kitchen  ● active         1/2       1 min   4711  12.3  -101.5\n"
        "70B3D59CD0000103  A name…  ✕ auto-detached  1/2         4 d      -     -       -\n"
        "70B3D59CD0000104  -        ○ detached       -             -      -     -       -\n"
    )
    assert "\x1b[32m● active\x1b[0m" in out
    assert "\x1b[31m✕ auto-detached\x1b[0m" in out


def test_a_narrow_terminal_leaves_columns_out(site, cli):
    assert cli("sensors", "list", "--activity", "active", columns=56)[1].splitlines()[0] == (
        "\x1b[2mEUI\x1b[0m               \x1b[2mname\x1b[0m     \x1b[2mactivity\x1b[0m  "
        "\x1b[2mstations\x1b[0m   \x1b[2mseen\x1b[0m"
    )


def test_a_list_for_programs_has_everything_but_keys(site, cli):
    code, out, err = cli("sensors", "list", "--json")
    found = json.loads(out)
    assert (code, err, [each["eui"] for each in found]) == (
        0,
        "",
        ["70B3D59CD0000102", "70B3D59CD0000103", "70B3D59CD0000104"],
    )
    assert found[2] == {
        "eui": "70B3D59CD0000104",
        "name": "",
        "key": "****",
        "short_addr": "0104",
        "bidi": False,
        "dual_chan": True,
        "repetition": False,
        "wide_carr_off": False,
        "long_blk_dist": False,
        "ota": False,
        "tags": [],
        "timeout": None,
        "wanted": "detached",
        "activity": "detached",
        "stations": [],
        "last_seen": None,
        "last_cnt": None,
        "uplinks": 0,
        "snr": None,
        "rssi": None,
        "preferred": None,
    }


@pytest.mark.parametrize(
    ("options", "euis"),
    [
        (["--tag", "wet"], ["70B3D59CD0000102"]),
        (["--activity", "auto-detached"], ["70B3D59CD0000103"]),
        (["--activity", "Auto_Detached"], ["70B3D59CD0000103"]),
    ],
)
def test_a_list_may_be_of_some(site, cli, options, euis):
    found = json.loads(cli("sensors", "list", "--json", *options)[1])
    assert [each["eui"] for each in found] == euis


def test_an_activity_that_is_none_is_refused(site, cli):
    code, _, err = cli("sensors", "list", "--activity", "asleep")
    assert (code, site.told) == (2, [])
    assert "'asleep' is none of active, warning, detach_pending" in err


def test_those_that_will_be_detached_next_are_listed_with_the_time_left(site, cli):
    site.changes[KITCHEN]["detach_in"] = 7300.0
    assert cli("sensors", "list", "--stale") == (
        0,
        "EUI               name     activity  stations   seen  count   SNR    RSSI  detached in\n"
        "70B3D59CD0000102  Kitchen  ● active  1/2       1 min   4711  12.3  -101.5    2 h 1 min\n",
        "",
    )


def euis(result):
    code, out, err = result
    assert (code, err) == (0, "")
    return [int(each["eui"], 16) for each in json.loads(out)]


def test_of_those_that_will_be_detached_next_there_are_twenty_unless_it_is_said(service, cli):
    for number in range(30):
        service.register(KITCHEN + number)
        service.changes[KITCHEN + number] = {"detach_in": float(number)}
    stale = ("sensors", "list", "--stale", "--json")
    assert euis(cli(*stale)) == [KITCHEN + number for number in range(20)]
    assert euis(cli(*stale, "--count", "2")) == [KITCHEN, BATH]
    assert len(euis(cli(*stale, "--count", "25"))) == 25


def test_a_list_may_be_cut_short(site, cli, monkeypatch):
    monkeypatch.setattr(remote, "PAGE", 2)
    counted = ("sensors", "list", "--json", "--count")
    assert euis(cli(*counted, "1")) == [KITCHEN]
    assert site.told == ["sensors.list"]
    assert euis(cli(*counted, "3")) == [KITCHEN, BATH, CELLAR]
    assert cli(*counted, "0")[0] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no sensor is registered; `bssci sensors add EUI` or `bssci sensors import FILE`\n"),
        (["--stale"], "no sensor is like that\n"),
        (["--tag", "x"], "no sensor is like that\n"),
    ],
)
def test_that_there_is_nothing_to_list_is_a_message(service, cli, options, words):
    assert cli("sensors", "list", *options) == (0, "", words)
    assert cli("sensors", "list", *options, "--json") == (0, "[]\n", "")


# --- show ---


def test_show_tells_everything_that_is_known(site, cli):
    site.stations[1].manner = "refuses"
    assert cli("sensors", "show", "Kitchen") == (
        0,
        """\
Sensor 70B3D59CD0000102
  name                 Kitchen
  tags                 home, wet
  network key          ****
  short address        0102

Radio
  bidirectional        yes
  dual channel         yes
  repetition           no
  wide carrier offset  no
  long block distance  no
  over the air         no

State
  activity             ● active
  wanted               attached since 2024-05-01 11:00:00 (1 h ago)
  because of           a command
  silent for           1 min 1 s
  warned after         1 d 12 h
  detached after       3 d
  own time limit       7 d

Heard
  last                 2024-05-01 11:58:59 (1 min ago)
  count                4711
  uplinks              17
  SNR                  12.3 dB (mean 11.5, 8.0 to 14.0, deviation 1.2)
  RSSI                 -101.5 dBm (mean -100.0, -110.0 to -90.0, deviation 4.0)
  best heard by        70B3D59CD0000001, 12.3 dB, 3 telegrams
  usually by           70B3D59CD0000001, 70B3D59CD0000002

Base stations
  70B3D59CD0000001     ● confirmed
  70B3D59CD0000002     ✕ refused 5 min ago: error 22, no room
""",
        "",
    )


@pytest.mark.parametrize(
    ("time", "message", "words"),
    [
        (NOW - 7200, "no room", "✕ refused 2 h ago: error 22, no room"),
        (NOW, "", "✕ refused now: error 22"),
    ],
)
def test_show_tells_since_when_a_base_station_refuses(site, cli, time, message, words):
    error = {"code": 22, "message": message, "time": time}
    refusal = {"eui": "70B3D59CD0000002", "state": "refused", "error": error}
    site.changes[CELLAR] = {"stations": [refusal]}
    out = cli("sensors", "show", "70B3D59CD0000104")[1]
    assert out.endswith(f"\nBase stations\n  70B3D59CD0000002     {words}\n")


def test_show_tells_what_was_done_over_the_air(site, cli):
    site.changes[CELLAR] = {
        "attachment": {
            "bs_eui": "70B3D59CD0000002",
            "time": NOW - 3600,
            "cnt": 7,
            "short_addr": "1234",
        },
        "downlink_reception": {
            "bs_eui": "70B3D59CD0000001",
            "time": NOW - 60,
            "cnt": 12,
            "snr": 9.5,
            "rssi": -101.0,
        },
    }
    out = cli("sensors", "show", "70B3D59CD0000104")[1]
    assert out.partition("\nOver the air\n")[2].partition("\n\n")[0] == (
        "  attached             2024-05-01 11:00:00 (1 h ago), by 70B3D59CD0000002\n"
        "  attach count         7\n"
        "  short address        1234\n"
        "  received downlink    2024-05-01 11:59:00 (1 min ago), 70B3D59CD0000001\n"
        "  and told             9.5 dB, -101.0 dBm"
    )


def test_show_of_a_sensor_that_nobody_knows_has_nothing_to_tell(site, cli):
    code, out, _ = cli("sensors", "show", "70B3D59CD0000104")
    assert code == 0
    assert out.endswith(
        """
Heard
  last                 -
  count                -
  uplinks              0
  SNR                  -
  RSSI                 -
  usually by           -

Base stations
  none                 none serves it, or is to
"""
    )


def test_the_key_is_shown_only_when_it_is_to_be_revealed(site, cli):
    key = f"{KITCHEN:032X}"
    assert key not in cli("sensors", "show", "Kitchen", "--json")[1]
    assert json.loads(cli("sensors", "show", "Kitchen", "--json", "--reveal")[1])["key"] == key
    assert f"network key          {key}\n" in cli("sensors", "show", "Kitchen", "--reveal")[1]


# --- history ---


def test_history_is_a_table_and_json(site, cli):
    site.history[KITCHEN] = [
        {
            "time": NOW - 1,
            "what": "attach_failed",
            "cause": "",
            "bs_eui": "70B3D59CD0000002",
            "code": 22,
            "message": "no room",
        },
        {
            "time": NOW - 2,
            "what": "attach",
            "cause": "command",
            "bs_eui": None,
            "code": None,
            "message": "",
        },
    ]
    assert cli("sensors", "history", "Kitchen") == (
        0,
        "time                 event          cause    base station      message\n"
        "2024-05-01 11:59:59  attach failed  -        70B3D59CD0000002  error 22, no room\n"
        "2024-05-01 11:59:58  attach         command  -                 -\n",
        "",
    )
    code, out, _ = cli("sensors", "history", "Kitchen", "--count", "1", "--json")
    assert (code, json.loads(out)) == (0, site.history[KITCHEN][:1])
