import json

import pytest

from tests.control import NOW, Station

ONE, TWO = 0x70B3D59CD0000001, 0x70B3D59CD0000002

STATUS = {
    "code": 0,
    "memLoad": 0.3948,
    "cpuLoad": 4.9136,
    "dutyCycle": 0.0,
    "time": 1756122544310347284,
    "uptime": 1712477,
    "temp": 46.95,
    "message": "ok",
    "geoLocation": [49.5, 11.0, 300.0],
    "clockOffset": -0.0123,
}


@pytest.fixture
def site(service):
    service.stations = [
        Station(
            ONE,
            name="Tower",
            changes={
                "sensors": {"confirmed": 10, "pending": 2, "refused": 1},
                "position": [50.0, 8.123456, 120.4],
                "status": STATUS,
                "status_time": NOW - 30,
            },
        ),
        Station(TWO, is_online=False, changes={"clock_offset": None, "uplinks": 0}),
    ]
    return service


def test_a_list_tells_who_is_there(site, cli):
    assert cli("stations", "list") == (
        0,
        "EUI               name   state      since  sensors  uplinks     clock\n"
        "70B3D59CD0000001  Tower  ● online     2 h   10+2-1     1234  -0.012 s\n"
        "70B3D59CD0000002  -      ○ offline    2 h        0        0         -\n",
        "",
    )


def test_a_list_on_a_terminal_is_coloured(site, cli):
    lines = cli("stations", "list", columns=80)[1].splitlines()
    assert lines[1:] == [
        "70B3D59CD0000001  Tower  \x1b[32m● online\x1b[0m     2 h   \x1b[31m10+2-1\x1b[0m"
        "     1234  -0.012 s",
        "70B3D59CD0000002  -      \x1b[31m○ offline\x1b[0m    2 h        0        0         -",
    ]


def test_programs_get_base_stations_as_they_are(site, cli):
    code, out, _ = cli("stations", "list", "--json")
    found = json.loads(out)
    assert (code, found) == (0, [each.shape({}) for each in site.stations])
    code, out, _ = cli("stations", "show", "70B3D59CD0000001", "--json")
    assert (code, json.loads(out)) == (0, found[0])


def test_show_tells_everything_that_is_known(site, cli):
    assert cli("stations", "show", "Tower") == (
        0,
        """\
Base station 70B3D59CD0000001
  name           Tower
  vendor         Maker
  model          Model 1
  version        1.2.3

Connection
  state          ● online
  since          2024-05-01 10:00:00 (2 h ago)
  address        192.0.2.7
  bidirectional  yes
  position       50.00000, 8.12346, 120 m
  uplinks        1234
  clock          -0.012 s

Sensors
  confirmed      10
  pending        2
  refused        1

Status
  told           2024-05-01 11:59:30 (30 s ago)
  code           0, ok
  CPU            4.91
  memory         39.5 %
  duty cycle     0.0 %
  uptime         19 d 19 h
  time           2025-08-25 11:49:04
  position       49.50000, 11.00000, 300 m
  temperature    47.0 °C
""",
        "",
    )


def test_show_of_a_base_station_that_has_not_told_how_it_is(site, cli):
    code, out, _ = cli("stations", "show", "70B3D59CD0000002")
    assert (code, out.splitlines()[-2:]) == (0, ["Status", "  none           it has not told yet"])


def test_a_status_may_leave_things_out(site, cli):
    site.stations[0].changes["status"] = {
        "code": 5, "memLoad": None, "cpuLoad": None, "dutyCycle": 0.1, "time": 0, "uptime": None,
    }  # fmt: skip
    code, out, _ = cli("stations", "show", "Tower")
    assert (code, out.splitlines()[-6:]) == (
        0,
        [
            "  code           5",
            "  CPU            -",
            "  memory         -",
            "  duty cycle     10.0 %",
            "  uptime         -",
            "  time           1970-01-01 00:00:00",
        ],
    )


def test_disconnect_ends_a_connection(site, cli):
    assert cli("stations", "disconnect", "Tower") == (0, "70B3D59CD0000001  disconnected\n", "")
    assert not site.stations[0].is_online
    assert cli("stations", "disconnect", "Tower", "--json")[1] == '{"eui": "70B3D59CD0000001"}\n'
    assert cli("stations", "disconnect", "Nobody") == (
        5,
        "",
        "error: there is no base station Nobody\nhint: `bssci stations list`\n",
    )


REFUSED = [
    {
        "time": NOW - 5,
        "address": "192.0.2.9",
        "reason": "identity_mismatch",
        "eui": "70B3D59CD0000003",
        "certificate": {"subject": "CN=70B3D59CD0000004", "fingerprint": "00ff"},
        "detail": "the certificate names 70B3D59CD0000004",
        "count": 3,
    },
    {
        "time": NOW - 60,
        "address": "2001:db8::1",
        "reason": "not_tls",
        "eui": None,
        "certificate": None,
        "count": 120,
    },
]


def test_refused_tells_who_knocked_and_why_not(site, cli):
    site.refused = REFUSED
    assert cli("stations", "refused") == (
        0,
        " last  times  address      reason             EUI               "
        "certificate          detail\n"
        "  5 s      3  192.0.2.9    identity mismatch  70B3D59CD0000003  "
        "CN=70B3D59CD0000004  the certificate names 70B3D59CD0000004\n"
        "1 min    120  2001:db8::1  not tls            -                 "
        "-                    -\n",
        "",
    )
    code, out, _ = cli("stations", "refused", "--json")
    assert (code, json.loads(out)) == (0, REFUSED)


def test_refused_fits_a_terminal(site, cli, monkeypatch):
    site.refused = REFUSED
    _, out, _ = cli("stations", "refused", columns=80)
    lines = out.replace("\x1b[2m", "").replace("\x1b[0m", "").splitlines()
    assert lines == [
        " last  times  address      reason             EUI               certificate",
        "  5 s      3  192.0.2.9    identity mismatch  70B3D59CD0000003  CN=70B3D59CD000…",
        "1 min    120  2001:db8::1  not tls            -                 -",
    ]


@pytest.mark.parametrize("command", ["list", "refused"])
def test_that_there_is_nobody_is_a_message(service, cli, command):
    code, out, err = cli("stations", command)
    assert (code, out, len(err.splitlines())) == (0, "", 1)
    assert cli("stations", command, "--json") == (0, "[]\n", "")
