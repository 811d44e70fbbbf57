"""The methods that are not about sensors: what each gives, and how it fails."""

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509

from bssci import __version__
from bssci.core.center.registry import Registry
from bssci.core.center.rpc import InvalidRequestError, NotFoundError, RequestError
from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.messages import Connect
from bssci.core.runtime import methods as methods_module
from bssci.core.runtime import overlay
from bssci.core.runtime.approval import Approvals
from bssci.core.runtime.authority import make_authority, make_server_certificate
from bssci.core.runtime.config import KEYS, Config, load_config, overlay_file
from bssci.core.runtime.link import Peer, Refusal
from bssci.core.runtime.methods import MAX_LISTED, find, methods, service_info
from bssci.core.runtime.radio import Radio
from bssci.core.runtime.setup import server_context
from bssci.core.runtime.tls import fingerprint_of, read_certificates
from tests.downlink_fakes import DownlinkDesk
from tests.life_fakes import (
    AVA,
    DIEHL,
    FULL,
    METER,
    MIROMICO,
    NOON,
    SENSOR,
    VALVE,
    FakeStation,
    House,
    end_point,
    open_house,
)

AVA_NAME, DIEHL_NAME, MIROMICO_NAME = map(format_eui, (AVA, DIEHL, MIROMICO))
START = NOON / 1e9

STATION: dict[str, Any] = {
    "eui": AVA_NAME,
    "state": "online",
    "since": START,
    "address": "192.0.2.1:40000",
    "name": "roof",
    "vendor": "AVA",
    "model": None,
    "version": None,
    "bidi": True,
    "position": None,
    "sensors": {"confirmed": 0, "pending": 0, "refused": 0},
    "uplinks": 0,
    "clock_offset": None,
    "status": None,
    "status_time": None,
}

AWAY = STATION | {
    "eui": DIEHL_NAME,
    "state": "offline",
    "since": START + 60,
    "address": None,
    "name": "mast",
    "vendor": None,
    "bidi": False,
}


class NoPins:
    """A store that binds nobody."""

    async def repin(self, bs_eui: int, fingerprint: str, now_ns: int) -> str | None:
        raise StorageError("it binds nobody")


class FakeCenter:
    """A Service Center without a network: its broker, journal and uplinks are what a test says.

    Attributes:
        links: the base stations whose connections can be ended.
        heard: uplinks as listings show them, newest first.
        reloads: how often its certificates were read.
        fault: why nothing can be written.
    """

    def __init__(self, config: Config, house: House) -> None:
        self.config = config
        self.life, self.sensors, self.registry = house.life, house.sensors, a_registry()
        self.over_the_air = house.over_the_air
        self.downlinks = DownlinkDesk(house).downlinks
        self.radio = Radio(
            link_of=lambda _: None,
            find_station=partial(find, self, "station"),
            find_sensor=partial(find, self, "sensor"),
            session_of=lambda _: None,
            last_counter_of=lambda _: None,
        )
        self.approvals = Approvals(
            NoPins(),
            mode=lambda: config.tls.identity,
            refusals=lambda: self.refusals,
            find=partial(find, self, "station"),
            link_of=lambda _: None,
        )
        self.refused: Counter[str] = Counter()
        self.refusals: list[tuple[float, Refusal]] = []
        self.since = START
        self.counts = {"received": 7, "duplicates": 2, "released": 5, "unregistered": 1}
        self.published: int | None = None
        self.links: set[int] = set()
        self.heard: list[dict[str, object]] = []
        self.reloads = 0
        self.fault: StorageError | None = None

    def rate(self) -> float:
        return 1 / 3

    async def journal(self) -> dict[str, object]:
        return {"backlog": 3, "unpublished": 0, "state": "ok"}

    def broker(self) -> dict[str, object]:
        return {"enabled": False, "state": "disabled", "since": None}

    async def uplinks(
        self, *, ep_eui: int | None = None, since_ns: int = 0, count: int = 100
    ) -> list[dict[str, object]]:
        wanted = None if ep_eui is None else format_eui(ep_eui)
        return [
            each
            for each in self.heard
            if wanted in (None, each["eui"]) and _ns(each["received"]) >= since_ns
        ][:count]

    async def uplink(self, uid: str) -> dict[str, object]:
        return next(each for each in self.heard if each["id"] == uid)

    def disconnect(self, bs_eui: int) -> bool:
        is_there = bs_eui in self.links
        self.links.discard(bs_eui)
        return is_there

    def change_settings(self, values: Mapping[str, object]) -> dict[str, object]:
        if self.fault is not None:
            raise self.fault
        self.config, changes = overlay.change(self.config, values, environ={}, check=server_context)
        return changes.as_json()

    def reload(self, config: Config) -> None:
        server_context(config)
        self.reloads += 1


def _ns(seconds: object) -> int:
    assert isinstance(seconds, float)
    return round(seconds * 1e9)


def a_registry() -> Registry:
    """AVA is connected; DIEHL was, until a minute after noon."""
    registry = Registry()
    connect = Connect(version="1.0.0", bs_eui=DIEHL, name="mast", bidi=False, sn_bs_uuid=bytes(16))
    registry.station_connected(connect, since_ns=NOON)
    registry.station_disconnected(DIEHL, since_ns=NOON + 60_000_000_000)
    connect = Connect(
        version="1.0.0", bs_eui=AVA, name="roof", vendor="AVA", bidi=True, sn_bs_uuid=bytes(16)
    )
    registry.station_connected(connect, since_ns=NOON, address="192.0.2.1:40000")
    return registry


def write_certificates(folder: Path, *names: str) -> None:
    """A new authority and a certificate of it, where the defaults look for them."""
    authority = make_authority()
    pair = make_server_certificate(authority, names or ["sc.example.org"])
    folder.mkdir(exist_ok=True)
    (folder / "ca_cert.pem").write_bytes(authority.certificate)
    (folder / "service_center_cert.pem").write_bytes(pair.certificate)
    (folder / "service_center_key.pem").write_bytes(pair.key)


@pytest.fixture
async def house() -> House:
    return await open_house()


@pytest.fixture
async def center(tmp_path, house) -> FakeCenter:
    write_certificates(tmp_path / "certs")
    (tmp_path / "sc.toml").write_text(
        '[server]\neui = "70B3D59CD0000001"\n[mqtt]\nusername = "bssci"\npassword = "hunter2"\n'
    )
    return FakeCenter(load_config(tmp_path, environ={}), house)


@pytest.fixture
async def ask(center: FakeCenter) -> Callable[..., Awaitable[Any]]:
    table = methods(center)

    async def call(method: str, **parameters: object) -> Any:
        return await table[method](**parameters)

    return call


async def test_what_can_be_asked_is_named_as_on_the_command_line(center):
    assert sorted(methods(center)) == [
        "certs.reload",
        "certs.status",
        "config.get",
        "config.set",
        "downlinks.cancel",
        "downlinks.list",
        "downlinks.send",
        "sensors.add",
        "sensors.attach",
        "sensors.clear",
        "sensors.detach",
        "sensors.get",
        "sensors.history",
        "sensors.import",
        "sensors.list",
        "sensors.remove",
        "sensors.set",
        "stations.approve",
        "stations.disconnect",
        "stations.get",
        "stations.list",
        "stations.refused",
        "stations.transmit",
        "stations.vm_activate",
        "stations.vm_deactivate",
        "stations.vm_send",
        "stations.vm_status",
        "status.get",
        "uplinks.get",
        "uplinks.list",
    ]


async def test_the_service_says_which_it_is(center, tmp_path):
    assert service_info({"status.get": {}}, center.config) == {
        "version": __version__,
        "pid": os.getpid(),
        "config_file": str(tmp_path / "sc.toml"),
        "socket": str(center.config.control.socket),
        "methods": {"status.get": {}},
    }


# --- status ---


async def test_the_status_tells_how_everything_is_doing(center, house, ask, monkeypatch):
    monkeypatch.setattr(methods_module, "time", SimpleNamespace(time=lambda: START + 90))
    await house.want(end_point())
    center.refused["not_tls"] = 4
    assert await ask("status.get") == {
        "version": __version__,
        "uptime": 90.0,
        "uplinks": {
            "received": 7,
            "duplicates": 2,
            "published": 0,
            "unregistered": 1,
            "rate": 0.333,
        },
        "journal": {"backlog": 3, "unpublished": 0, "state": "ok"},
        "stations": {"online": 1, "known": 2},
        "sensors": await house.sensors.counts(),
        "over_the_air": {
            "attached": 0,
            "repeated": 0,
            "detached": 0,
            "refused": {},
            "unknown_detached": 0,
        },
        "downlinks": {"queued": 0, "at_station": 0},
        "mqtt": {"enabled": False, "state": "disabled", "since": None},
        "certificates": {"expires_in_days": 824},
        "refused": {"not_tls": 4},
    }


async def test_what_a_broker_has_acknowledged_is_counted(center, ask):
    center.published = 5
    assert (await ask("status.get"))["uplinks"]["published"] == 5


async def test_without_a_certificate_that_can_be_read_the_status_is_told_all_the_same(center, ask):
    for file in (center.config.tls.cert_file, center.config.tls.ca_file):
        file.unlink()
    assert (await ask("status.get"))["certificates"] == {"expires_in_days": None}


# --- base stations ---


async def test_base_stations_are_listed_by_eui_whether_they_are_there_or_not(ask):
    assert await ask("stations.list") == [STATION, AWAY]


async def test_a_base_station_shows_how_many_sensors_it_serves(house, ask, nursery, autojump_clock):
    await house.want(end_point())
    await nursery.start(FakeStation(AVA).serve, house.life)
    await house.life.wait_settled(SENSOR, 30.0)
    served = STATION | {"sensors": {"confirmed": 1, "pending": 0, "refused": 0}}
    assert await ask("stations.list") == [served, AWAY]
    assert await ask("stations.get", eui=AVA_NAME) == served


@pytest.mark.parametrize("text", [AVA_NAME, "70-b3-d5-9c-d0-00-09-51", "roof", " ROOF "])
async def test_a_base_station_is_found_by_any_spelling_and_by_its_name(ask, text):
    assert await ask("stations.get", eui=text) == STATION


@pytest.mark.parametrize("text", [MIROMICO_NAME, "cellar"])
@pytest.mark.parametrize("method", ["stations.get", "stations.disconnect"])
async def test_a_base_station_that_is_not_known_is_told(ask, method, text):
    with pytest.raises(NotFoundError, match=f"^base station {text} is not known$") as caught:
        await ask(method, eui=text)
    assert caught.value.hint == (
        "`bssci stations list` shows those that are, `bssci stations refused` who was not let in"
    )


async def test_a_name_that_several_base_stations_have_is_refused_with_their_euis(center, ask):
    connect = Connect(
        version="1.0.0", bs_eui=MIROMICO, name="Roof", bidi=False, sn_bs_uuid=bytes(16)
    )
    center.registry.station_connected(connect, since_ns=NOON)
    with pytest.raises(InvalidRequestError, match=r"^2 base stations are named 'roof'$") as caught:
        await ask("stations.get", eui="roof")
    assert caught.value.hint == f"Give the EUI: {AVA_NAME}, {MIROMICO_NAME}"


async def test_a_connection_is_ended_once(center, ask):
    center.links = {AVA}
    assert await ask("stations.disconnect", eui="roof") == {"eui": AVA_NAME}
    assert center.links == set()
    with pytest.raises(RequestError, match=f"^base station {AVA_NAME} is not connected$") as caught:
        await ask("stations.disconnect", eui="roof")
    assert (caught.value.exit_code, caught.value.hint) == (
        1,
        "`bssci stations list` shows which are",
    )


# --- who was refused ---


def strange(reason: Any, address: str = "198.51.100.7", *, bs_eui: int | None = None) -> Refusal:
    return Refusal(reason, Peer(address), bs_eui, f"{reason} it is")


async def test_who_was_refused_is_told_once_with_a_count_the_newest_first(center, ask):
    known = Refusal(
        "identity_mismatch",
        Peer("198.51.100.7", "CN=x", "ab" * 32, frozenset({DIEHL})),
        AVA,
        "its certificate names another",
    )
    center.refusals = [
        (START, strange("not_tls")),
        (START + 1, known),
        (START + 2, strange("not_tls", "198.51.100.8")),
        (START + 3, strange("not_tls")),
    ]
    unknown = {"reason": "not_tls", "eui": None, "certificate": None, "detail": "not_tls it is"}
    assert await ask("stations.refused") == [
        unknown | {"time": START + 3, "address": "198.51.100.7", "count": 2},
        unknown | {"time": START + 2, "address": "198.51.100.8", "count": 1},
        {
            "time": START + 1,
            "address": "198.51.100.7",
            "reason": "identity_mismatch",
            "eui": AVA_NAME,
            "certificate": {"subject": "CN=x", "fingerprint": "ab" * 32},
            "detail": "its certificate names another",
            "count": 1,
        },
    ]


@pytest.mark.parametrize(
    "other",
    [
        strange("version", bs_eui=AVA),
        strange("not_bssci", "198.51.100.8", bs_eui=AVA),
        strange("not_bssci", bs_eui=DIEHL),
        Refusal("not_bssci", Peer("198.51.100.7", "CN=x", "ab" * 32), AVA, ""),
    ],
)
async def test_another_reason_address_eui_or_certificate_is_another_line(center, ask, other):
    center.refusals = [(START, strange("not_bssci", bs_eui=AVA)), (START + 1, other)]
    assert [each["count"] for each in await ask("stations.refused")] == [1, 1]


async def test_nobody_was_refused(ask):
    assert await ask("stations.refused") == []


# --- uplinks ---


def uplink(ep_eui: int, at: float, *stations: int) -> dict[str, object]:
    receptions = [{"bs_eui": format_eui(each)} for each in stations]
    return {"eui": format_eui(ep_eui), "received": START + at, "receptions": receptions}


NEWEST, MIDDLE, OLDEST = (
    uplink(SENSOR, 30, DIEHL),
    uplink(METER, 20, DIEHL, AVA),
    uplink(SENSOR, 10, AVA),
)


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ({}, [NEWEST, MIDDLE, OLDEST]),
        ({"count": 1}, [NEWEST]),
        ({"sensor": "fc-a8-4a-03-00-00-12-7d"}, [MIDDLE]),
        ({"sensor": "cold store"}, [NEWEST, OLDEST]),
        ({"sensor": format_eui(VALVE)}, []),
        ({"station": AVA_NAME}, [MIDDLE, OLDEST]),
        ({"station": "mast"}, [NEWEST, MIDDLE]),
        ({"station": "roof", "count": 1}, [MIDDLE]),
        ({"station": "roof", "sensor": "cold store"}, [OLDEST]),
        ({"since": START + 20}, [NEWEST, MIDDLE]),
        ({"since": -1.0, "count": MAX_LISTED}, [NEWEST, MIDDLE, OLDEST]),
        ({"since": 1e300}, []),
    ],
)
async def test_uplinks_are_listed_newest_first(center, house, ask, wanted, shown):
    """METER is not registered; what it says is heard all the same."""
    await house.want(end_point(name="Cold store"))
    center.heard = [NEWEST, MIDDLE, OLDEST]
    assert await ask("uplinks.list", **wanted) == shown


@pytest.mark.parametrize("count", [-1, 0, MAX_LISTED + 1])
async def test_a_count_out_of_bounds_is_refused(ask, count):
    with pytest.raises(
        InvalidRequestError, match=f"^count: found {count}, 1 to 10000 are possible$"
    ):
        await ask("uplinks.list", count=count)


@pytest.mark.parametrize("wanted", [{"sensor": "cold store"}, {"station": MIROMICO_NAME}])
async def test_uplinks_of_somebody_who_is_not_known_are_not_just_none(ask, wanted):
    with pytest.raises(NotFoundError):
        await ask("uplinks.list", **wanted)


# --- certificates ---


def fact(file: Path, names: list[str], days: int) -> dict[str, object]:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    return {
        "file": str(file),
        "subject": certificate.subject.rfc4514_string(),
        "names": names,
        "not_after": certificate.not_valid_after_utc.timestamp(),
        "days": days,
        "ok": True,
    }


def authority_fact(file: Path, *stations: str) -> dict[str, object]:
    (certificate,) = read_certificates(file)
    came = {"fingerprint": fingerprint_of(certificate), "stations": [*stations]}
    return fact(file, [], 3652) | came


async def test_the_certificates_in_use_are_shown(center, ask):
    files = center.config.tls
    assert await ask("certs.status") == [
        fact(files.cert_file, ["sc.example.org"], 824),
        authority_fact(files.ca_file),
    ]


async def test_an_authority_tells_which_base_stations_came_with_its_certificates(center, ask):
    file = center.config.tls.ca_file
    connect = Connect(version="1.0.0", bs_eui=AVA, bidi=True, sn_bs_uuid=bytes(16))
    (certificate,) = read_certificates(file)
    center.registry.station_connected(connect, since_ns=NOON, issuer=fingerprint_of(certificate))
    assert (await ask("certs.status"))[1] == authority_fact(file, AVA_NAME)
    center.registry.station_disconnected(AVA, since_ns=NOON)
    assert (await ask("certs.status"))[1] == authority_fact(file, AVA_NAME)


async def test_new_certificates_are_used_after_a_reload(center, ask, tmp_path):
    write_certificates(tmp_path / "certs", "new.example.org")
    files = center.config.tls
    assert await ask("certs.reload") == [
        fact(files.cert_file, ["new.example.org"], 824),
        authority_fact(files.ca_file),
    ]
    assert center.reloads == 1


async def test_certificates_that_cannot_be_used_are_not_taken(center, ask):
    file = center.config.tls.key_file
    file.unlink()
    with pytest.raises(RequestError) as caught:
        await ask("certs.reload")
    assert (caught.value.exit_code, str(caught.value), center.reloads) == (
        1,
        f"not reloaded, nothing is changed: private key {file} does not exist; "
        "`bssci certs gen` makes certificates",
        0,
    )


# --- settings ---


async def test_a_setting_tells_where_it_comes_from(ask, tmp_path):
    assert await ask("config.get", key="mqtt.username") == [
        {
            "key": "mqtt.username",
            "value": "bssci",
            "origin": str(tmp_path / "sc.toml"),
            "default": "",
            "help": KEYS["mqtt.username"].help,
            "secret": False,
            "runtime": False,
        }
    ]


async def test_all_settings_are_listed_and_a_secret_is_masked(ask):
    shown = {each["key"]: each for each in await ask("config.get")}
    assert list(shown) == list(KEYS)
    assert (shown["mqtt.password"]["value"], shown["mqtt.password"]["secret"]) == ("****", True)
    assert "hunter2" not in str(shown)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("log.levle", "log.levle is no setting; did you mean log.level?"),
        ("zzz", "zzz is no setting"),
        ("", " is no setting"),
    ],
)
async def test_an_unknown_setting_is_told_with_what_may_have_been_meant(ask, key, words):
    with pytest.raises(NotFoundError) as caught:
        await ask("config.get", key=key)
    assert (caught.value.exit_code, str(caught.value)) == (5, words)


async def test_a_setting_is_changed_and_null_takes_it_back(center, ask):
    change = {"key": "log.level", "applied": True, "reason": ""}
    assert await ask("config.set", values={"log.level": "debug"}) == {
        "changed": [change | {"old": "info", "value": "debug"}],
        "restart": [],
    }
    assert await ask("config.set", values={"log.level": None}) == {
        "changed": [change | {"old": "debug", "value": "info"}],
        "restart": [],
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"log.levle": "debug"}, "log.levle: is unknown; did you mean log.level?"),
        (
            {"log.level": "debug", "server.port": 70_000},
            "server.port: found 70000, expected a whole number from 0 to 65535",
        ),
        (
            {"tls.cert_file": "/nowhere/cert.pem"},
            "certificate /nowhere/cert.pem does not exist; `bssci certs gen` makes certificates",
        ),
    ],
)
async def test_settings_that_cannot_be_are_refused_and_none_is_changed(center, ask, values, words):
    before = center.config
    with pytest.raises(InvalidRequestError) as caught:
        await ask("config.set", values=values)
    assert (caught.value.exit_code, str(caught.value)) == (2, words)
    assert center.config == before
    assert not overlay_file(before).exists()


async def test_a_full_disk_is_not_the_fault_of_the_request(center, ask):
    center.fault = FULL
    with pytest.raises(StorageError):
        await ask("config.set", values={"log.level": "debug"})


# --- who is meant ---


@pytest.mark.parametrize(
    ("kind", "text", "eui"),
    [
        ("sensor", "fc:a8:4a:03:00:00:12:7d", METER),
        ("sensor", "Cold Store", SENSOR),
        ("station", MIROMICO_NAME, MIROMICO),
        ("station", "mast", DIEHL),
    ],
)
async def test_an_eui_need_not_be_known_but_a_name_must(center, house, kind, text, eui):
    await house.want(end_point(name="cold store"))
    assert find(center, kind, text) == eui


@pytest.mark.parametrize(("kind", "text"), [("sensor", "mast"), ("station", "cold store")])
async def test_a_name_means_only_its_own_kind(center, house, kind, text):
    await house.want(end_point(name="cold store"))
    with pytest.raises(NotFoundError):
        find(center, kind, text)


async def test_an_empty_name_is_nobody_s(center, ask):
    connect = Connect(version="1.0.0", bs_eui=MIROMICO, bidi=False, sn_bs_uuid=bytes(16))
    center.registry.station_connected(connect, since_ns=NOON)
    center.links = {MIROMICO}
    with pytest.raises(NotFoundError):
        await ask("stations.disconnect", eui=" ")
    assert center.links == {MIROMICO}
