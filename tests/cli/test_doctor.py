"""Set-ups that are broken in one way each, and what is said of them."""

import contextlib
import errno
import json
import os
import socket
import sqlite3
import time
from datetime import UTC, datetime, timedelta

import pytest
import trio

from bssci import __version__
from bssci.cli import certs, checks, doctor, output, probes
from bssci.core.protocol.frames import encode_frame
from bssci.core.runtime.authority import (
    ca_key_file,
    make_authority,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.config import load_config
from bssci.core.runtime.database import Database
from bssci.core.runtime.service import ServiceCenter
from bssci.core.runtime.tls import identity_in
from tests.broker import free_port
from tests.cli.setups import Setup, listen, serve_tls
from tests.control import NOW, FakeService, Station, socket_folder

STATION = 0x70B3D59CD0000001
EUI = "70B3D59CD0000001"


@pytest.fixture
def setup():
    with socket_folder() as folder:
        yield Setup(folder)


async def wrong(setup):
    """The names of the checks that find something, and what they have seen."""
    found = await doctor.examine(setup.config())
    return {each.check: each.seen for each in found if each.ok is False}


@contextlib.asynccontextmanager
async def running(setup):
    """A service of this set-up."""
    center = ServiceCenter(setup.config())
    async with trio.open_nursery() as nursery:
        await nursery.start(center.run)
        yield center
        center.stop()


# --- set-ups that are broken ---


async def test_before_the_first_start_only_the_service_is_missing(setup):
    assert await wrong(setup) == {
        "service": f"no service runs: {setup.folder / 'state/control.sock'} is not there"
    }


async def test_with_the_service_nothing_is_wrong_and_it_notices_no_base_station(setup):
    async with running(setup) as center:
        found = await doctor.examine(setup.config())
        assert [each for each in found if not each.ok] == []
        assert center.registry.base_stations() == []
        assert (list(center.refusals), dict(center.refused)) == ([], {})
    with contextlib.closing(sqlite3.connect(setup.database)) as db:
        assert db.execute("SELECT count(*) FROM sessions").fetchone() == (0,)


def swap_key(setup):
    write_pair(make_authority(), setup.folder / "other.pem", setup.folder / "other_key.pem")
    (setup.folder / "other_key.pem").rename(setup.certs / "service_center_key.pem")


def take_key(setup):
    (setup.certs / "service_center_key.pem").unlink()


def from_elsewhere(setup):
    setup.make_certificate(make_authority())


def nearly_over(setup):
    setup.make_certificate(setup.authority, now=datetime.now(UTC) - timedelta(days=800))


def over(setup):
    setup.make_certificate(setup.authority, now=datetime.now(UTC) - timedelta(days=830))


def not_yet(setup):
    setup.make_certificate(setup.authority, now=datetime.now(UTC) + timedelta(days=2))


def only_loopback(setup):
    setup.set("server", host="0.0.0.0")
    setup.make_certificate(setup.authority, "localhost", "127.0.0.1")


def unknown_name(setup):
    setup.make_certificate(setup.authority, "sc.invalid")


def open_key(setup):
    (setup.certs / "ca_key.pem").chmod(0o644)


def open_password(setup):
    (setup.folder / "password").write_text("hunter2\n")
    (setup.folder / "password").chmod(0o640)
    setup.set("mqtt", username="me", password_file="password")


def foreign_address(setup):
    setup.set("server", host="192.0.2.1")


def no_broker(setup):
    setup.set("mqtt", enabled=True, host="127.0.0.1", port=setup.port)


def small_disk(setup):
    setup.set("store", min_free=10**15)


def no_folder(setup):
    (setup.folder / "file").write_text("")
    setup.set("store", path="file/bssci.db")
    setup.set("control", socket="control.sock")


def no_database(setup):
    setup.database.parent.mkdir()
    setup.database.write_bytes(b"no database, " * 1000)


def damaged(setup):
    with contextlib.closing(Database(setup.database)) as database:
        database.write(lambda db: db.execute("UPDATE store SET damage_met = 1"))


def few_files(setup):
    setup.set("server", max_connections=10**8)


def database_of_the_future(setup):
    with contextlib.closing(Database(setup.database)):
        pass
    os.utime(setup.database, (time.time() + 7200,) * 2)


@pytest.mark.parametrize(
    ("damage", "check", "words"),
    [
        (take_key, "files", "service_center_key.pem does not exist"),
        (swap_key, "key match", "service_center_key.pem does not belong to certificate"),
        (from_elsewhere, "authority", "does not come from an authority in"),
        (nearly_over, "expiry", "service_center_cert.pem until "),
        (over, "expiry", "service_center_cert.pem has expired on "),
        (not_yet, "expiry", "service_center_cert.pem is not valid yet"),
        (only_loopback, "names", "localhost or 127.0.0.1, which means each its own machine"),
        (unknown_name, "names", "sc.invalid; neither is it a name or an address of this machine"),
        (open_key, "key permissions", "ca_key.pem has mode 0644"),
        (open_password, "key permissions", "password has mode 0640"),
        (foreign_address, "port", "192.0.2.1 port"),
        (no_broker, "broker", "cannot be reached"),
        (small_disk, "disk", " MB free in "),
        (no_folder, "disk", "cannot be written"),
        (no_database, "database", "not a database"),
        (damaged, "database", "damage was met in it"),
        (few_files, "file limit", "100000200 are needed"),
        (database_of_the_future, "clock", "it has gone back"),
    ],
)
async def test_what_is_broken_is_named_and_nothing_else(setup, damage, check, words):
    damage(setup)
    found = await doctor.examine(setup.config())
    told = {each.check: each for each in found if each.ok is False and each.check != "service"}
    assert set(told) == {check}
    assert words in told[check].seen
    assert told[check].advice


async def test_a_port_that_another_program_has_is_told(setup, nursery):
    await listen(nursery, setup.port, b"")
    setup.set("server", host="0.0.0.0")
    assert (await wrong(setup))["port"] == f"another program has 0.0.0.0 port {setup.port}"


async def test_a_database_that_another_process_has_is_told(setup):
    with contextlib.closing(Database(setup.database)):
        assert "another process has it" in (await wrong(setup))["database"]


async def test_a_clock_that_was_never_set_is_told(setup, monkeypatch):
    monkeypatch.setattr(output, "now", lambda: 3600.0)
    assert "the clock was never set" in (await wrong(setup))["clock"]


async def test_a_slow_disk_is_told(setup, monkeypatch):
    monkeypatch.setattr(checks, "_time_sync", lambda folder: 0.5)
    assert "500.0 ms until something is on disk" in (await wrong(setup))["disk"]


async def test_a_service_that_runs_with_other_settings_is_told(setup):
    async with running(setup):
        setup.set("server", port=free_port())
        found = await wrong(setup)
    assert set(found) == {"port", "connect"}
    assert found["connect"].startswith("no connection: ")


async def test_a_service_that_runs_under_another_eui_is_told(setup):
    async with running(setup):
        file = setup.write()
        file.write_text(file.read_text().replace("0200000000000001", "0200000000000002"))
        found = await doctor.examine(load_config(file, environ={}))
    assert {each.check: each.seen for each in found if each.ok is False} == {
        "connect": "TLS and BSSCI, to Service Center 0200000000000001, which is not "
        "0200000000000002"
    }


async def test_a_service_that_still_has_an_older_certificate_is_told(setup):
    async with running(setup):
        authority = make_authority()
        write_pair(authority, setup.certs / "ca_cert.pem", setup.certs / "ca_key.pem", force=True)
        setup.make_certificate(authority)
        found = await wrong(setup)
    assert set(found) == {"connect"}
    assert "it may still have an older one" in found["connect"].lower()


async def test_without_the_key_of_the_authority_it_is_tls_that_is_tried(setup):
    (setup.certs / "ca_key.pem").unlink()
    async with running(setup):
        found = {each.check: each for each in await doctor.examine(setup.config())}
    assert found["connect"] == checks.Finding(
        "connect",
        True,
        "TLS is right as far as the question for a certificate",
        "for more, the key of the authority would have to be here: ca_key.pem",
    )


async def test_a_check_that_fails_by_itself_harms_no_other(setup, monkeypatch):
    def fail(case):
        raise ZeroDivisionError("ours")

    monkeypatch.setitem(checks.CHECKS, "disk", fail)
    found = {each.check: each for each in await doctor.examine(setup.config())}
    assert found["disk"] == checks.Finding(
        "disk", None, "the check has failed: ZeroDivisionError('ours')"
    )
    assert len(found) == len(checks.CHECKS) + len(probes.PROBES)


async def test_a_check_that_does_not_end_is_told(setup, monkeypatch):
    async def hang(case):
        await trio.sleep_forever()

    monkeypatch.setattr(doctor, "PATIENCE", 0.1)
    found = await doctor._finding("disk", hang, checks.Case(setup.config(), None))
    assert found == checks.Finding("disk", False, "there was no result within 0.1 s")


async def test_what_needs_a_file_that_is_not_there_is_not_looked_at(setup):
    (setup.certs / "service_center_cert.pem").unlink()
    found = await doctor.examine(setup.config())
    assert {each.check for each in found if each.ok is False} == {"files", "service"}
    assert {each.check for each in found if each.ok is None} == {
        "key match",
        "authority",
        "expiry",
        "names",
        "connect",
    }


@pytest.mark.parametrize(
    ("names", "ok", "seen"),
    [
        (("localhost",), True, "base stations connect to localhost, from this machine only"),
        (("ours.example",), True, "base stations connect to ours.example"),
        (("there.example",), True, "base stations connect to there.example"),
    ],
)
def test_names_are_good_where_they_lead_here(setup, monkeypatch, names, ok, seen):
    monkeypatch.setattr(certs, "names_of_this_machine", lambda: ("ours.example",))
    monkeypatch.setattr("socket.getaddrinfo", lambda name, port: [name])
    setup.make_certificate(setup.authority, *names)
    found = checks.check_names(checks.Case(setup.config(), None))
    assert (found.ok, found.seen) == (ok, seen)


def test_a_certificate_that_names_nothing_is_told(setup, monkeypatch):
    monkeypatch.setattr("bssci.core.runtime.tls.certificate_names", lambda file: [])
    found = checks.check_names(checks.Case(setup.config(), None))
    assert (found.ok, found.seen) == (False, "the certificate names no host and no address")


def test_a_database_that_was_set_aside_is_remarked(setup):
    with contextlib.closing(Database(setup.database)):
        pass
    setup.database.with_name("bssci.db.damaged-20240501T120000Z").touch()
    found = checks.check_database(checks.Case(setup.config(), None))
    assert (found.ok, found.advice) == (
        True,
        "bssci.db.damaged-20240501T120000Z was damaged and set aside: what is lost can be in it",
    )


def test_a_database_of_somebody_else_is_told(setup, monkeypatch):
    with contextlib.closing(Database(setup.database)):
        pass
    monkeypatch.setattr("os.access", lambda path, how: False)
    found = checks.check_database(checks.Case(setup.config(), None))
    assert (found.ok, found.seen) == (False, f"{setup.database} cannot be opened by this user")


def test_files_without_limit_are_enough(setup, monkeypatch):
    import resource

    monkeypatch.setattr("resource.getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    found = checks.check_limits(checks.Case(setup.config(), None))
    assert found == checks.Finding("file limit", True, "no limit")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EAFNOSUPPORT, "cannot listen on 127.0.0.1 port"),
    ],
)
async def test_why_a_port_cannot_be_had_is_told(setup, number, words):
    case = checks.Case(setup.config(), None)
    found = probes._port_fault(case, "127.0.0.1 port 7", OSError(number, "no"))
    assert (found.ok, words in found.seen, found.advice != "") == (False, True, True)


# --- the service ---


async def test_a_service_that_does_not_answer_is_told(setup, nursery, monkeypatch):
    monkeypatch.setattr(probes, "ANSWER_TIMEOUT", 0.1)
    setup.set("control", socket="control.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(setup.folder / "control.sock"))
        listener.listen()
        case = await probes.ask_service(setup.config())
    assert case.service is None
    assert case.silence[0].endswith("control.sock gives no answer within 0.1 s")


async def test_another_service_at_the_socket_is_told(setup):
    case = checks.Case(
        setup.config(), {"pid": 7, "version": __version__, "config_file": "/srv/sc.toml"}
    )
    assert await probes.probe_control(case) == checks.Finding(
        "service",
        False,
        f"process 7, version {__version__}, with /srv/sc.toml, not with {setup.folder / 'sc.toml'}",
        "say -c /srv/sc.toml, or give the two another control.socket each",
    )


async def test_a_service_of_an_older_version_is_told(setup):
    case = checks.Case(setup.config(), {"pid": 7, "version": "0.0.1", "config_file": None})
    found = await probes.probe_control(case)
    assert (found.ok, found.advice) == (False, "restart it, so that it has what is installed")


SAID = {"pid": os.getpid(), "version": "1", "config_file": None}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "TLS: the connection was ended in the middle of it"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS: wrong version number"),
    ],
)
async def test_what_is_no_tls_is_told(setup, nursery, answer, words):
    await listen(nursery, setup.port, answer)
    found = await probes.probe_outside(checks.Case(setup.config(), SAID))
    assert (found.ok, words in found.seen) == (False, True)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "it has ended the connection without an answer"),
        (b"something else", "a frame begins with"),
        (
            encode_frame(b'{"command":"error","opId":0,"code":95,"message":"no"}'),
            "it refuses the connect with 95: no",
        ),
        (
            encode_frame(b'{"command":"ping","opId":-1}'),
            "it answers the connect with ping",
        ),
    ],
)
async def test_what_is_no_service_center_is_told(setup, nursery, answer, words):
    await serve_tls(nursery, setup, answer)
    found = await probes.probe_outside(checks.Case(setup.config(), SAID))
    assert (found.ok, words in found.seen) == (False, True), found.seen


async def test_who_asks_for_no_certificate_is_told(setup, nursery, monkeypatch):
    ca_key_file(setup.certs / "ca_cert.pem").unlink()
    monkeypatch.setattr(probes, "ANSWER_TIMEOUT", 0.1)
    await serve_tls(nursery, setup, b"")
    found = await probes.probe_outside(checks.Case(setup.config(), SAID))
    assert found.seen == "the program that has the port asks for no certificate"


async def test_who_is_silent_is_told(setup, nursery, monkeypatch):
    monkeypatch.setattr(probes, "CALL_TIMEOUT", 0.1)

    async def serve(stream):
        await trio.sleep_forever()

    await nursery.start(trio.serve_tcp, serve, setup.port)
    found = await probes.probe_outside(checks.Case(setup.config(), SAID))
    assert found.seen == "no complete connect within 0.1 s"


async def test_any_free_port_cannot_be_called(setup):
    setup.set("server", port=0)
    found = await probes.probe_outside(checks.Case(setup.config(), SAID))
    assert (found.ok, found.seen) == (None, "server.port is 0, any free one")


# --- the command ---


@pytest.fixture
def ask(cli, setup):
    def run(*args, **kwargs):
        return cli("doctor", *args, at=["-c", str(setup.write())], **kwargs)

    return run


def test_a_configuration_that_cannot_be_read_is_all_that_is_told(ask, setup):
    setup.set("server", prot=1)
    code, out, err = ask("--json")
    (found,) = json.loads(out)
    assert (code, err) == (8, "")
    assert (found["check"], found["ok"]) == ("configuration", False)
    assert "server.prot: is unknown; did you mean server.port?" in found["seen"]


def test_people_are_told_what_was_found_and_what_to_do(ask, setup):
    open_key(setup)
    code, out, err = ask()
    assert (code, err) == (8, "\n2 problems\n")
    before, after = out.split("\nWhat to do\n")
    key = setup.certs / "ca_key.pem"
    assert before.splitlines()[:4] == [
        "Found",
        f"  configuration    ● ok: {setup.folder / 'sc.toml'}",
        f"  files            ● ok: certificate, key and authority in {setup.certs}",
        "  key match        ● ok: the key belongs to the certificate",
    ]
    wrong = f"  key permissions  ✕ wrong: others can read keys: {key} has mode 0644"
    assert wrong in before.splitlines()
    assert "  connect          · skipped: no service runs" in before.splitlines()
    assert f"  key permissions  chmod 600 {key}" in after.splitlines()


# --- one base station ---


REFUSAL = {
    "time": NOW - 90,
    "address": "192.0.2.7",
    "reason": "bad_certificate",
    "eui": None,
    "certificate": None,
    "detail": "certificate refused: certificate has expired",
    "count": 3,
}


@pytest.fixture
def service(setup):
    setup.set("control", socket="control.sock")
    fake = FakeService(stations=[Station(STATION, name="Tower", is_online=False)])
    with fake.serving(setup.folder / "control.sock"):
        yield fake


def told(ask, station=EUI):
    code, out, err = ask("--station", station, "--json")
    return code, err, json.loads(out)


def make_files(setup, **kwargs):
    folder = setup.certs / "stations" / EUI
    pair = make_station_certificate(setup.authority, STATION, **kwargs)
    write_pair(pair, folder / f"{EUI}_cert.pem", folder / f"{EUI}_key.pem", force=True)
    return folder / f"{EUI}_cert.pem"


def test_a_base_station_that_is_there_has_no_problem(ask, setup, service):
    service.stations[0].is_online = True
    file = make_files(setup)
    assert told(ask, "Tower") == (
        0,
        "",
        [
            {
                "check": "station",
                "ok": True,
                "seen": f"{EUI} (Tower) is online since 2024-05-01 10:00:00 (2 h ago), from "
                "192.0.2.7",
                "advice": "",
            },
            {
                "check": "refusals",
                "ok": True,
                "seen": "none of it since the service runs",
                "advice": "",
            },
            {
                "check": "its certificate",
                "ok": True,
                "seen": f"{file}, good for 3652 days",
                "advice": "",
            },
        ],
    )


def test_why_it_was_refused_is_told_also_where_only_its_address_is_known(ask, setup, service):
    other = REFUSAL | {"address": "192.0.2.8", "reason": "not_tls"}
    service.refused = [REFUSAL, other]
    code, _, (station, refusals, certificate) = told(ask)
    assert (code, station["advice"]) == (8, "it calls and is refused: see below")
    assert refusals == {
        "check": "refusals",
        "ok": False,
        "seen": "bad certificate, 3 times, last 1 min ago from 192.0.2.7: certificate refused: "
        "certificate has expired",
        "advice": "its certificate is not of our authority, has expired, or it does not know our "
        "authority: give it all three files of `bssci certs station EUI`",
    }
    assert certificate["ok"] is None


def test_refusals_are_its_own_by_its_eui_or_its_certificate(ask, setup, service):
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_pem_x509_certificate

    pem = make_files(setup).read_bytes()
    fingerprint = identity_in(load_pem_x509_certificate(pem).public_bytes(Encoding.DER)).fingerprint
    shown = {"subject": "x", "fingerprint": fingerprint}
    service.refused = [
        REFUSAL | {"address": "192.0.2.9", "eui": EUI, "reason": "version", "detail": "2.0.0"},
        REFUSAL | {"address": "192.0.2.9", "certificate": shown, "reason": "not_bssci"},
    ]
    _, _, (_, refusals, _) = told(ask)
    assert refusals["seen"].startswith("version, 3 times")
    assert "; not bssci, 3 times" in refusals["seen"]


def test_what_was_refused_before_it_got_in_is_over(ask, setup, service):
    service.stations[0].is_online = True
    service.refused = [REFUSAL | {"time": NOW - 9000}]
    code, _, (_, refusals, _) = told(ask)
    assert (code, refusals["ok"]) == (0, True)
    assert refusals["seen"].endswith("since then it got in")


def test_a_base_station_of_which_nothing_arrives_is_told(ask, service):
    code, _, (station, *_) = told(ask, "70-B3-D5-9C-D0-00-00-09")
    assert (code, station["seen"]) == (8, "70B3D59CD0000009 was never connected")
    assert "nothing of it arrives" in station["advice"]


def test_a_name_that_is_nobodys_is_not_found(ask, service):
    code, out, err = ask("--station", "Cellar")
    assert (code, out) == (5, "")
    assert "Cellar" in err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda s: make_files(s, now=datetime.now(UTC) - timedelta(days=4000)), "has expired on"),
        (lambda s: make_files(s, years=0.05), "good for 18 days"),
        (lambda s: make_files(s).write_text("spoiled"), "holds no certificate"),
        (
            lambda s: write_pair(
                make_station_certificate(s.authority, 7), make_files(s), s.folder / "k", force=True
            ),
            f"does not name {EUI}",
        ),
    ],
)
def test_its_certificate_is_looked_at_where_it_was_made_here(ask, setup, service, spoil, words):
    spoil(setup)
    _, _, (*_, certificate) = told(ask)
    assert (certificate["ok"], words in certificate["seen"]) == (False, True)
    assert certificate["advice"] == (
        f"make another one and put it on it: `bssci certs renew --station {EUI}`"
    )


def test_without_the_service_only_its_certificate_can_be_looked_at(ask, setup):
    make_files(setup)
    code, _, (station, certificate) = told(ask)
    assert (code, certificate["ok"]) == (8, True)
    assert station["seen"].startswith("nothing is known of it: no service runs")
    _, _, (station,) = told(ask, "Tower")
    assert station["ok"] is False
