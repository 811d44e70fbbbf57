import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from bssci.cli import main, migrate
from bssci.core.runtime.authority import (
    load_authority,
    load_pair,
    make_authority,
    make_server_certificate,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.config import load_config
from bssci.core.runtime.database import Database
from bssci.core.runtime.succession import predecessors
from bssci.core.runtime.tls import certificate_warnings, read_certificates, server_context

ENV = """\
LISTEN_PORT=16018
CERT_FILE=certs/service_center_cert.pem
KEY_FILE=certs/service_center_key.pem
CA_FILE=/app/certs/ca_cert.pem
MQTT_BROKER=broker.example.org
MQTT_USERNAME=me
MQTT_PASSWORD=hunter2
BASE_TOPIC=mioty/
SENSOR_CONFIG_FILE=endpoints.json
WEB_PORT=5000
no assignment
"""
SENSORS = [
    {"eui": "FCA84A030000127C", "nwKey": "0" * 31 + "1", "shortAddr": "127C", "bidi": False},
    {"eui": "fca84a030000127d", "nwKey": "0" * 31 + "2", "shortAddr": "127D", "bidi": True},
]
BROKEN = {"eui": "test1234567890ab", "nwKey": "0" * 32, "shortAddr": "0001", "bidi": False}


@pytest.fixture
def source(tmp_path):
    """The folder of the earlier service, its authority's key in it as it was published."""
    source = tmp_path / "earlier"
    certs = source / "certs"
    authority = make_authority(use_rsa=True)
    write_pair(authority, certs / "ca_cert.pem", certs / "ca_key.pem")
    server = make_server_certificate(authority, ["sc.example.org"], use_rsa=True)
    write_pair(server, certs / "service_center_cert.pem", certs / "service_center_key.pem")
    (source / ".env").write_text(ENV)
    (source / "endpoints.json").write_text(json.dumps(SENSORS))
    return source


@pytest.fixture
def target(tmp_path):
    return tmp_path / "ours"


@pytest.fixture
def moving(capsys, source, target):
    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main.run(["migrate", str(source), str(target), *args])
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


def content(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def registered(target: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(target / "state" / "bssci.db")) as db:
        return db.execute("SELECT ep_eui, short_addr, bidi, wanted FROM end_points").fetchall()


BOTH = [("FCA84A030000127C", 0x127C, 0, "attached"), ("FCA84A030000127D", 0x127D, 1, "attached")]


def test_a_folder_is_made_that_serves_and_the_earlier_one_is_only_read(moving, source, target):
    before = content(source)
    assert moving()[0] == 0
    assert content(source) == before
    config = load_config(target, environ={})
    assert (config.server.port, config.mqtt.host) == (16018, "broker.example.org")
    assert (config.mqtt.base_topic, config.mqtt.password) == ("mioty", "hunter2")
    assert config.tls.cert_file == target / "certs/service_center_cert.pem"
    tls = config.tls
    server_context(cert_file=tls.cert_file, key_file=tls.key_file, ca_file=tls.ca_file)
    assert certificate_warnings(tls.cert_file, tls.ca_file) == []
    assert registered(target) == BOTH
    modes = {file.name: file.stat().st_mode & 0o777 for file in content(target)}
    assert {modes[name] for name in ("ca_key.pem", "mqtt_password", "bssci.db")} == {0o600}
    assert (target / "state").stat().st_mode & 0o777 == 0o700


def test_base_stations_go_on_and_nothing_new_is_signed_by_the_earlier_authority(
    moving, source, target
):
    moving()
    earlier, ours = source / "certs", target / "certs"
    assert load_pair(
        ours / "service_center_cert.pem", ours / "service_center_key.pem"
    ) == load_pair(earlier / "service_center_cert.pem", earlier / "service_center_key.pem")
    (old,) = read_certificates(earlier / "ca_cert.pem")
    assert read_certificates(ours / "ca_cert.pem")[0] == old
    assert predecessors(ours / "ca_cert.pem") == [old]
    signer = load_authority(ours / "ca_cert.pem", ours / "ca_key.pem")
    assert signer.key != (earlier / "ca_key.pem").read_bytes()
    make_station_certificate(signer, 0x70B3D59CD0000001)


def test_it_is_said_what_was_done_what_was_left_and_what_comes_next(moving, source, target):
    code, out, err = moving()
    option = f"-c {target / 'sc.toml'}"
    certs = target / "certs"
    eui = f"{load_config(target, environ={}).server.eui:016X}"
    assert code == 0
    assert out.split("\n\n")[0] == (
        f"  configuration       {target / 'sc.toml'}\n"
        f"  Service Center EUI  {eui}\n"
        f"  certificate         {certs / 'service_center_cert.pem'}, as before\n"
        f"  authority           {certs / 'ca_cert.pem'}, the earlier one and a new one\n"
        "  sensors             2 sensors registered"
    )
    assert "mqtt.host" in out.split("\n\n")[1]
    left, warning, until, steps = err.rstrip("\n").split("\n\n")
    (kept,) = (target / "certs").glob("ca_cert.*.pem")
    assert left == (
        f"Kept: {kept}\n"
        "Left out, there is no such setting: WEB_PORT\n"
        "Left out, it assigns nothing: line 11\n"
        f"Not taken over: {source / 'certs/ca_key.pem'}"
    )
    assert " ".join(warning.split()) == f"WARNING: {migrate.PUBLISHED}"
    assert " ".join(until.split()) == migrate.UNTIL_THEN
    assert [line.split("  ")[2].strip() for line in steps.splitlines()[1:]] == [
        f"bssci serve {option}",
        f"bssci doctor {option}",
        f"bssci certs renew --station EUI {option}",
        f"bssci certs renew --ca --finish {option}",
    ]
    assert "hunter2" not in out + err


def test_programs_are_told_the_same(moving, source, target):
    code, out, err = moving("--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["certificates"] == {
        "carried": True,
        "cert_file": str(target / "certs/service_center_cert.pem"),
        "ca_file": str(target / "certs/ca_cert.pem"),
    }
    assert told["sensors"] == {"done": 2, "failed": 0, "rows": []}
    assert told["warnings"] == [migrate.PUBLISHED, migrate.UNTIL_THEN]
    assert told["left_files"] == [str(source / "certs/ca_key.pem")]
    (kept,) = (target / "certs").glob("ca_cert.*.pem")
    assert (told["left"], told["unread"], told["kept"]) == (["WEB_PORT"], [11], [str(kept)])


def test_a_sensor_that_cannot_be_is_named_and_harms_no_other(moving, source, target):
    (source / "endpoints.json").write_text(json.dumps([BROKEN, *SENSORS]))
    code, out, _ = moving()
    assert code == 6
    assert out.splitlines()[-1].startswith("row 1  'test1234567890ab'  ")
    assert registered(target) == BOTH


@pytest.mark.parametrize("text", ["", "[]"])
def test_without_sensors_none_is_registered(moving, source, target, text):
    (source / "endpoints.json").write_text(text)
    code, out, _ = moving()
    assert (code, "  sensors             0 sensors registered" in out) == (0, True)


def test_without_a_file_of_sensors_none_is_registered(moving, source):
    (source / "endpoints.json").unlink()
    assert moving()[0] == 0


def test_with_a_new_authority_nothing_is_carried_over(moving, source, target):
    code, out, _ = moving("--new-ca", "--host", "new.example.org", "--json")
    told = json.loads(out)
    assert (code, told["certificates"]["carried"]) == (0, False)
    assert told["warnings"] == [migrate.PUBLISHED]
    assert told["next"][0] == f"bssci certs station EUI -c {target / 'sc.toml'}"
    assert len(read_certificates(target / "certs/ca_cert.pem")) == 1
    assert len(told["left_files"]) == 4


def test_where_there_are_no_certificates_new_ones_are_made(moving, source, target):
    for file in (source / "certs").iterdir():
        file.unlink()
    (source / "certs").rmdir()
    code, out, _ = moving("--host", "new.example.org", "--json")
    assert (code, json.loads(out)["certificates"]["carried"]) == (0, False)


def test_certificates_that_cannot_be_used_are_told_before_anything_is_done(moving, source, target):
    (source / "certs/service_center_key.pem").write_text("spoiled")
    code, out, err = moving()
    assert (code, out) == (2, "")
    assert "With --new-ca no certificate is taken over" in err
    assert not target.exists()


def test_nothing_is_replaced_unless_forced(moving, target):
    moving()
    before = content(target)
    code, _, err = moving()
    assert (code, content(target)) == (2, before)
    assert "are there already; with --force they are replaced" in err


def test_with_force_eui_and_sensors_stay_and_older_files_are_kept(moving, target):
    moving()
    before = load_config(target, environ={}).server.eui
    code, out, _ = moving("--force", "--json")
    told = json.loads(out)
    assert (code, load_config(target, environ={}).server.eui) == (0, before)
    # sc.toml, the password, both files of the authority, both of the certificate, and what shows
    # that the authority is being changed
    assert len(told["kept"]) == 7
    assert all(Path(file).exists() for file in told["kept"])
    assert len(predecessors(target / "certs/ca_cert.pem")) == 1
    assert registered(target) == BOTH


def test_nothing_is_replaced_under_a_service_that_runs(moving, target):
    moving()
    before = content(target)
    with contextlib.closing(Database(target / "state" / "bssci.db")):
        code, _, err = moving("--force")
    assert (code, f"a service runs in {target}; stop it first" in err) == (2, True)
    assert content(target) == before


def test_the_folder_itself_is_not_made_ours(moving, source, capsys):
    with pytest.raises(SystemExit) as caught:
        main.run(["migrate", str(source), str(source)])
    assert caught.value.code == 2
    assert "is the folder of the earlier service itself" in capsys.readouterr().err


def test_a_folder_without_variables_is_none_of_the_earlier_service(moving, source, target):
    (source / ".env").unlink()
    code, _, err = moving()
    assert (code, target.exists()) == (2, False)
    assert f"{source / '.env'} is not there" in err


def test_a_table_of_sensors_that_is_none_is_told_before_anything_is_done(moving, source, target):
    (source / "endpoints.json").write_text("{")
    code, _, err = moving()
    assert (code, target.exists()) == (2, False)
    assert "endpoints.json" in err
