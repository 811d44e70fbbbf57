import json
from typing import TYPE_CHECKING, Any

import pytest

from bssci.core.center.rpc import NotFoundError
from tests.control import NOW, FakeService, Station

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STATION, OTHER = 0x70B3D59CD0000001, 0x70B3D59CD0000002
ONE, TWO = "70B3D59CD0000001", "70B3D59CD0000002"
KITCHEN = 0x70B3D59CD0000102
EUI = "70B3D59CD0000102"
NS = 10**9


class Service(FakeService):
    """With the methods that the others have no need of."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.settings: dict[str, object] = {
            "dedup.delay": 2.0,
            "dedup.early": True,
            "auto_detach.reattach": True,
        }

    def _methods(self):
        own: dict[str, Callable[..., Awaitable[object]]] = {
            "uplinks.get": self._uplink,
            "uplinks.list": self._uplinks_of,
            "config.get": self._settings,
        }
        return super()._methods() | own

    async def _uplink(self, *, id: str):  # noqa: A002  # as the method has it
        for each in self.uplinks:
            if each["id"] == id:
                return each
        raise NotFoundError(f"there is no uplink {id}")

    async def _uplinks_of(self, *, sensor: str, count: int):
        """Also of sensors that are not registered."""
        return [each for each in self.uplinks if each["sensor_eui"] == sensor][:count]

    async def _settings(self, *, key: str):
        return [{"key": key, "value": self.settings[key]}]


@pytest.fixture
def service(folder):
    fake = Service(stations=[Station(STATION, name="Tower"), Station(OTHER)])
    fake.register(KITCHEN, name="Kitchen")
    with fake.serving(folder / "control.sock"):
        yield fake


def reception(bs_eui, *, ahead=None, later=0.0, **changes):
    """As heard 1.5 s before now."""
    heard = int(NOW) * NS - 1_500_000_000 + int(later * NS)
    known = {} if ahead is None else {"rxTimeCorrected": heard}
    rx_time = heard + int((ahead or 0) * NS)
    return {"bs_eui": bs_eui, "rxTime": rx_time, "snr": 12.0, "rssi": -100.0} | known | changes


def uplink(*receptions, **changes):
    return {
        "bs_eui": ONE,
        "cnt": 7,
        "data": [1],
        "id": "0a1b2c3d-4e",
        "receptions": list(receptions),
        "registered": True,
        "sensor_eui": EUI,
        "received": NOW - 1,
        "published": NOW,
    } | changes


BOTH = (
    reception(ONE, ahead=-1.25, later=0.0015, eqSnr=11.5, snr=9.0),
    reception(TWO, ahead=0.5, eqSnr=10.0),
)


def test_an_uplink_is_explained_from_its_receptions_to_the_broker(service, cli):
    service.uplinks = [uplink(*BOTH)]
    assert cli("explain", "uplink", "0a1b2c3d-4e") == (
        0,
        "Uplink 0a1b2c3d-4e\n"
        "  sensor     70B3D59CD0000102\n"
        "  counter    7\n"
        "  arrived    2024-05-01 11:59:59.000, the first report of it\n"
        "  on disk    before that was answered; when exactly is not kept\n"
        "  waited     for others 2 s at most, or as soon as all that usually hear it have "
        "reported (as it is set now)\n"
        f"  counts     {ONE}: the highest equivalent SNR of 2: 11.5 dB, the next one 10.0 dB\n"
        "  published  2024-05-01 12:00:00.000, acknowledged 1.000 s after it arrived\n"
        "\n"
        "base station      name   heard at, by its clock      clock     later   SNR  eq. SNR    "
        "RSSI\n"
        f"{ONE}  Tower  2024-05-01 11:59:57.251  -1.250 s  0.0015 s   9.0     11.5  -100.0\n"
        f"{TWO}  -      2024-05-01 11:59:59.000  +0.500 s  0.0000 s  12.0     10.0  -100.0\n",
        "",
    )


def test_programs_get_what_is_known_and_null_for_what_is_not_kept(service, cli):
    service.uplinks = [uplink(*BOTH)]
    code, out, err = cli("explain", "uplink", "0a1b2c3d-4e", "--json")
    told = json.loads(out)
    first = told["receptions"].pop(0)
    assert (code, err) == (0, "")
    assert first == {
        "bs_eui": ONE,
        "name": "Tower",
        "rx_time": BOTH[0]["rxTime"],
        "clock_offset": -1.25,
        "later": 0.0015,
        "snr": 9.0,
        "eq_snr": 11.5,
        "rssi": -100.0,
    }
    del told["receptions"]
    assert told == {
        "id": "0a1b2c3d-4e",
        "sensor_eui": EUI,
        "registered": True,
        "cnt": 7,
        "counter_reused": False,
        "best": {
            "bs_eui": ONE,
            "why": "the highest equivalent SNR of 2: 11.5 dB, the next one 10.0 dB",
        },
        "received": NOW - 1,
        "committed": None,
        "published": NOW,
        "took": 1.0,
        "window": {"delay": 2.0, "early": True},
        "broker": "online",
    }


@pytest.mark.parametrize(
    ("receptions", "why"),
    [
        ((reception(ONE),), "no other base station heard it"),
        (
            (reception(ONE, eqSnr=1.0), reception(TWO, snr=11.0)),
            "the highest SNR of 2: 12.0 dB, the next one 11.0 dB",
        ),
        (
            (reception(ONE), reception(TWO)),
            "the highest SNR of 2: 12.0 dB, the next one 12.0 dB; of two alike the one whose "
            "report came first",
        ),
    ],
)
def test_why_a_base_station_counts(service, cli, receptions, why):
    service.uplinks = [uplink(*receptions)]
    _, out, _ = cli("explain", "uplink", "0a1b2c3d-4e", "--json")
    assert json.loads(out)["best"]["why"] == why


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("online", "not yet: it is just on its way"),
        ("offline", "not yet: the broker is away"),
        ("disabled", "no: there is no broker (mqtt.enabled)"),
    ],
)
def test_one_that_is_not_published_is_explained_by_the_broker(service, cli, state, words):
    service.uplinks = [uplink(reception(ONE), published=None, registered=False, counterReused=True)]
    service.settings = service.settings | {"dedup.early": False}
    service.status_changes = {"mqtt": {"enabled": True, "state": state, "since": NOW}}
    _, out, _ = cli("explain", "uplink", "0a1b2c3d-4e")
    assert f"  published  {words}\n" in out
    assert "  sensor     70B3D59CD0000102, not registered\n" in out
    assert "  counter    7, used before with other content\n" in out
    assert "  waited     for others 2 s at most (as it is set now)\n" in out
    assert f"{ONE}  Tower  2024-05-01 11:59:58.500      -      -  12.0        -  -100.0\n" in out


def test_an_uplink_that_is_not_there_is_not_found(service, cli):
    assert cli("explain", "uplink", "0a1b2c3d-4e") == (
        5,
        "",
        "error: there is no uplink 0a1b2c3d-4e\n",
    )


# --- sensors ---


def test_a_sensor_is_explained_with_what_happened_to_it_lately(service, cli):
    service.changes[KITCHEN] = {"wanted": "detached", "cause": "inactivity", "stations": []}
    service.history[KITCHEN] = [
        {
            "time": NOW - 60,
            "what": "attach_failed",
            "cause": "",
            "bs_eui": ONE,
            "code": 22,
            "message": "no room",
        },
        {
            "time": NOW - 3600,
            "what": "detach",
            "cause": "inactivity",
            "bs_eui": None,
            "code": None,
            "message": "",
        },
    ]
    assert cli("explain", "sensor", "Kitchen") == (
        0,
        "Sensor 70B3D59CD0000102 (Kitchen)\n"
        "  is                   detached\n"
        "  because              it was detached for its silence, 2024-05-01 11:00:00 (1 h ago)\n"
        "  do                   it is attached when it is heard again; `bssci sensors attach "
        "70B3D59CD0000102` attaches it now\n"
        "\n"
        "Lately\n"
        f"  2024-05-01 11:59:00  attach failed at {ONE}, error 22: no room\n"
        "  2024-05-01 11:00:00  detach, for its silence\n",
        "",
    )


def test_programs_are_told_the_same(service, cli):
    code, out, err = cli("explain", "sensor", EUI, "--json")
    assert (code, err, json.loads(out)) == (
        0,
        "",
        {
            "eui": EUI,
            "name": "Kitchen",
            "verdict": "never heard",
            "reasons": [f"it is attached at {ONE}, {TWO}, and was never heard"],
            "advice": [
                "compare key and short address with those of the sensor: with others it is not "
                "heard",
                "see that it is switched on, transmits, and is in range of a base station",
            ],
            "history": [],
        },
    )


def test_one_that_is_not_registered_is_explained_too(service, cli):
    service.uplinks = [uplink(reception(ONE), sensor_eui="70B3D59CD0000199")]
    code, out, _ = cli("explain", "sensor", "70-B3-D5-9C-D0-00-01-99", "--json")
    told = json.loads(out)
    assert (code, told["eui"], told["verdict"]) == (0, "70B3D59CD0000199", "not registered")
    assert told["reasons"][0].startswith("it was heard 2024-05-01 11:59:59 (1 s ago)")


def test_a_name_that_is_nobodys_is_not_found(service, cli):
    code, out, err = cli("explain", "sensor", "Cellar")
    assert (code, out) == (5, "")
    assert err.startswith("error: no sensor is called 'Cellar'\n")
