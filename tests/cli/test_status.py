import json

import pytest

from tests.control import NOW, Station

STATION = 0x70B3D59CD0000001

OVER_THE_AIR = {"attached": 0, "repeated": 0, "detached": 0, "refused": {}, "unknown_detached": 0}


@pytest.fixture
def site(service):
    service.stations = [Station(STATION), Station(STATION + 1, is_online=False)]
    service.register(0x70B3D59CD0000102)
    return service


def test_status_fits_one_screen(site, cli):
    site.status_changes = {
        "refused": {"no_certificate": 3, "not_tls": 12},
        "downlinks": {"queued": 2, "at_station": 1},
        "over_the_air": OVER_THE_AIR
        | {"attached": 4, "detached": 1, "unknown_detached": 1, "refused": {"bad_signature": 5}},
    }
    assert cli("status") == (
        0,
        """\
bssci 1.2.3
  running for      1 d 1 h
  base stations    1 of 2 online
  journal          ● ok
  broker           ● online since 2024-05-01 11:59:00 (1 min ago)
  certificates     ● expire in 365 days

Sensors: 1
  active           ● 0
  warning          ▲ 0
  detach pending   ◐ 0
  auto-detached    ✕ 0
  detached         ○ 0
  never seen       · 1

Uplinks since it runs
  received         120, 1.2 a second
  copies           40
  published        79
  unregistered     2
  to be settled    0
  to be published  1

Downlinks that wait
  queued here      2
  at a station     1

Over the air
  attached         4
  detached         1
  of strangers     1
  bad signature    5

Connections refused
  not tls          12
  no certificate   3
""",
        "",
    )


def test_programs_get_the_status_as_it_is(site, cli):
    code, out, err = cli("status", "--json")
    assert (code, err, json.loads(out)) == (
        0,
        "",
        {
            "version": "1.2.3",
            "uptime": 90061.0,
            "uplinks": {
                "received": 120,
                "duplicates": 40,
                "published": 79,
                "unregistered": 2,
                "rate": 1.25,
            },
            "journal": {"backlog": 0, "unpublished": 1, "state": "ok"},
            "stations": {"online": 1, "known": 2},
            "sensors": {
                "total": 1,
                "active": 0,
                "warning": 0,
                "detach_pending": 0,
                "auto_detached": 0,
                "detached": 0,
                "never_seen": 1,
            },
            "mqtt": {"enabled": True, "state": "online", "since": NOW - 60},
            "over_the_air": OVER_THE_AIR,
            "downlinks": {"queued": 0, "at_station": 0},
            "certificates": {"expires_in_days": 365},
            "refused": {},
        },
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "  base stations    \x1b[33m1 of 2 online\x1b[0m"),
        (
            {"stations": {"online": 0, "known": 2}},
            "  base stations    \x1b[31m0 of 2 online\x1b[0m",
        ),
        (
            {"stations": {"online": 2, "known": 2}},
            "  base stations    \x1b[32m2 of 2 online\x1b[0m",
        ),
        (
            {"certificates": {"expires_in_days": 29}},
            "  certificates     \x1b[33m▲ expire in 29 days\x1b[0m",
        ),
        (
            {"certificates": {"expires_in_days": -1}},
            "  certificates     \x1b[31m✕ expired 1 day ago\x1b[0m",
        ),
        ({"certificates": {"expires_in_days": None}}, "  certificates     -"),
        (
            {"mqtt": {"enabled": False, "state": "disabled", "since": None}},
            "  broker           \x1b[2m· disabled\x1b[0m",
        ),
        (
            {"journal": {"backlog": 0, "unpublished": 0, "state": "full"}},
            "  journal          \x1b[31m✕ full\x1b[0m",
        ),
    ],
)
def test_what_is_wrong_is_seen_by_its_colour(site, cli, changes, line):
    site.status_changes = changes
    assert line in cli("status", columns=80)[1].splitlines()
