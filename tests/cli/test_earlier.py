import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bssci.cli import main, output
from bssci.core.runtime.config import AutoDetach, Config, Dedup, Mqtt, Server, Status, load_config

EXAMPLE = """\
LISTEN_HOST=0.0.0.0
LISTEN_PORT=8000
CERT_FILE=certs/service_center_cert.pem
KEY_FILE=certs/service_center_key.pem
CA_FILE=certs/ca_cert.pem
MQTT_BROKER=broker.example.org
MQTT_PORT=1883
MQTT_USERNAME=mioty_user
MQTT_PASSWORD="hunter2 # 2"
BASE_TOPIC=mioty/
SENSOR_CONFIG_FILE=endpoints.json
STATUS_INTERVAL=60
DEDUPLICATION_DELAY=2.5
WEB_PORT=5000
this is no assignment
AUTO_DETACH_ENABLED=true
AUTO_DETACH_TIMEOUT=86400
SECRET_KEY=hunter2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(EXAMPLE)
    return tmp_path


@pytest.fixture
def moving(folder, capsys):
    """Run `bssci config import`; gives exit code, output and messages."""

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main.run(["config", "import", *args])
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


def read(folder: Path) -> Config:
    return load_config(folder, environ={})


def test_the_new_configuration_does_what_the_old_one_did(moving, folder):
    assert moving()[0] == 0
    config = read(folder)
    assert config.server == Server(eui=config.server.eui, port=8000)
    assert config.server.eui >> 56 & 0x03 == 0x02
    assert config.mqtt == Mqtt(
        enabled=True,
        host="broker.example.org",
        port=1883,
        username="mioty_user",
        password="hunter2 # 2",
        password_file=folder / "certs/mqtt_password",
        base_topic="mioty",
    )
    assert config.dedup == Dedup(delay=2.5)
    assert config.status == Status(interval=60)
    assert config.auto_detach == AutoDetach(timeout=86400, warning_timeout=43200)
    assert config.tls.cert_file == folder / "certs/service_center_cert.pem"


def test_it_is_said_what_was_done_what_was_left_and_what_comes_next(moving, folder):
    code, out, err = moving()
    assert (code, out) == (
        0,
        "setting                      value                            from\n"
        'server.host                  "0.0.0.0"                        LISTEN_HOST\n'
        "server.port                  8000                             LISTEN_PORT\n"
        f'server.eui                   "{read(folder).server.eui:016X}"\n'
        'tls.cert_file                "certs/service_center_cert.pem"  CERT_FILE\n'
        'tls.key_file                 "certs/service_center_key.pem"   KEY_FILE\n'
        'tls.ca_file                  "certs/ca_cert.pem"              CA_FILE\n'
        "mqtt.enabled                 true                             the earlier service always "
        "has a broker\n"
        'mqtt.host                    "broker.example.org"             MQTT_BROKER\n'
        "mqtt.port                    1883                             MQTT_PORT\n"
        'mqtt.username                "mioty_user"                     MQTT_USERNAME\n'
        'mqtt.password_file           "certs/mqtt_password"            MQTT_PASSWORD\n'
        'mqtt.base_topic              "mioty"                          BASE_TOPIC\n'
        "dedup.delay                  2.5                              DEDUPLICATION_DELAY\n"
        "auto_detach.enabled          true                             AUTO_DETACH_ENABLED\n"
        "auto_detach.timeout          86400                            AUTO_DETACH_TIMEOUT\n"
        "auto_detach.warning_timeout  43200                            half of "
        "AUTO_DETACH_TIMEOUT, which is short\n"
        "status.interval              60                               STATUS_INTERVAL\n",
    )
    assert err == (
        f"Written: {folder / 'sc.toml'}\n"
        "Left out, there is no such setting: WEB_PORT, SECRET_KEY\n"
        "Left out, it assigns nothing: line 15\n"
        "\nNext:\n"
        "  1.  bssci certs gen                      its certificates are not there yet\n"
        "  2.  bssci serve                          base stations connect to port 8000, TLS\n"
        "  3.  bssci sensors import endpoints.json  while it runs\n"
    )


def test_the_table_fits_80_columns_of_a_terminal(moving, monkeypatch):
    monkeypatch.setattr(output, "width", lambda: 80)
    assert max(map(len, moving()[1].splitlines())) <= 80


def test_the_password_is_in_a_file_of_its_own_and_nowhere_else(moving, folder):
    _, out, err = moving()
    file = folder / "certs/mqtt_password"
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("hunter2 # 2\n", 0o600)
    assert (folder / "certs/.gitignore").exists()
    assert "hunter2" not in out + err + (folder / "sc.toml").read_text()


def test_without_a_password_there_is_no_file_for_it(moving, folder):
    (folder / ".env").write_text("MQTT_BROKER=broker\nMQTT_USERNAME=\nMQTT_PASSWORD=\n")
    moving()
    assert [file.name for file in sorted(folder.iterdir())] == [".env", "sc.toml"]
    assert read(folder).mqtt == Mqtt(enabled=True, host="broker", base_topic="bssci")


def test_programs_are_told_everything(moving, folder):
    code, out, err = moving("--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "config_file": str(folder / "sc.toml"),
        "eui": f"{read(folder).server.eui:016X}",
        "settings": {
            "server.host": "0.0.0.0",
            "server.port": 8000,
            "server.eui": f"{read(folder).server.eui:016X}",
            "tls.cert_file": "certs/service_center_cert.pem",
            "tls.key_file": "certs/service_center_key.pem",
            "tls.ca_file": "certs/ca_cert.pem",
            "mqtt.enabled": True,
            "mqtt.host": "broker.example.org",
            "mqtt.port": 1883,
            "mqtt.username": "mioty_user",
            "mqtt.password_file": "certs/mqtt_password",
            "mqtt.base_topic": "mioty",
            "dedup.delay": 2.5,
            "auto_detach.enabled": True,
            "auto_detach.timeout": 86400,
            "auto_detach.warning_timeout": 43200,
            "status.interval": 60,
        },
        "assumed": {
            "mqtt.enabled": "the earlier service always has a broker",
            "auto_detach.warning_timeout": "half of AUTO_DETACH_TIMEOUT, which is short",
        },
        "left": ["WEB_PORT", "SECRET_KEY"],
        "unread": [15],
        "sensors_file": str(folder / "endpoints.json"),
        "next": ["bssci certs gen", "bssci serve", "bssci sensors import endpoints.json"],
        "kept": [],
    }


def test_every_key_is_explained_in_the_new_file(moving, folder):
    moving()
    text = (folder / "sc.toml").read_text()
    assert "# TCP port that base stations connect to." in text
    assert "#keepalive = 60" in text
    assert tomllib.loads(text)["status"] == {"interval": 60}


# --- where the files are ---


def test_what_was_relative_to_the_old_file_stays_where_it_is(moving, folder):
    new = folder / "new"
    new.mkdir()
    (folder / ".env").write_text("CERT_FILE=certs/c.pem\nKEY_FILE=/etc/k.pem\nCA_FILE=~/ca.pem\n")
    code, _, err = moving("--out", str(new))
    tls = read(new).tls
    assert (code, tls.cert_file, tls.key_file) == (0, folder / "certs/c.pem", Path("/etc/k.pem"))
    assert tls.ca_file == Path.home() / "ca.pem"
    assert "bssci serve -c new/sc.toml " in err


def test_certificates_that_are_there_need_not_be_made(moving, folder):
    (folder / "certs").mkdir()
    for name in ("service_center_cert", "service_center_key", "ca_cert"):
        (folder / "certs" / f"{name}.pem").write_text("")
    assert "certs gen" not in moving()[2]


def test_sensors_in_the_usual_place_are_found_without_a_variable(moving, folder):
    (folder / ".env").write_text("LISTEN_PORT=1\n")
    assert json.loads(moving("--json")[1])["sensors_file"] is None
    (folder / "endpoints.json").write_text("[]")
    assert json.loads(moving("--json", "--force")[1])["sensors_file"] == str(
        folder / "endpoints.json"
    )


def test_the_overlay_of_an_earlier_configuration_is_no_obstacle(moving, folder):
    (folder / "state").mkdir()
    (folder / "state/overrides.toml").write_text('[log]\nlevel = "loud"\n')
    assert moving()[0] == 0


# --- what was there before ---


def test_nothing_is_overwritten_without_force(moving, folder):
    (folder / "sc.toml").write_text("mine")
    assert moving() == (
        2,
        "",
        f"error: {folder / 'sc.toml'} is there already; with --force they are replaced, and kept "
        "under another name\n",
    )
    assert (folder / "sc.toml").read_text() == "mine"
    assert not (folder / "certs").exists()


def test_with_force_the_eui_stays_and_the_old_files_are_kept(moving, folder):
    moving()
    before, text = read(folder), (folder / "sc.toml").read_text()
    (folder / ".env").write_text(EXAMPLE.replace("hunter2 # 2", "new").replace("8000", "16017"))
    code, out, _ = moving("--force", "--json")
    password_file, config_file = map(Path, json.loads(out)["kept"])
    after = read(folder)
    assert (code, after.server.eui, after.server.port) == (0, before.server.eui, 16017)
    assert (after.mqtt.password, password_file.read_text()) == ("new", "hunter2 # 2\n")
    assert config_file.read_text() == text
    assert password_file.stat().st_mode & 0o777 == 0o600
    second_text = (folder / "sc.toml").read_text()
    _, _, err = moving("--force")
    kept = [
        Path(line.removeprefix("Kept: ")).read_text()
        for line in err.splitlines()
        if line.startswith("Kept: ")
    ]
    assert kept == ["new\n", second_text]


# --- what is wrong ---


def test_all_that_is_wrong_is_told_by_variable_and_nothing_is_written(moving, folder):
    (folder / ".env").write_text(
        "LISTEN_PORT=many\n"
        "MQTT_BROKER=${HOST}\n"
        'MQTT_PASSWORD="hunter\n2"\n'
        "BASE_TOPIC=a/#\n"
        "CERT_FILE=\n"
        "AUTO_DETACH_TIMEOUT=3600\n"
        "AUTO_DETACH_WARNING_TIMEOUT=7200\n"
    )
    file = folder / ".env"
    code, out, err = moving()
    assert (code, out) == (2, "")
    assert err == (
        f"error: {file}: MQTT_BROKER: refers to another variable with ${{…}}, expected the value "
        "itself\n"
        f"{file}: MQTT_PASSWORD: found ****, expected one line of text without control "
        "characters\n"
        f'{file}: LISTEN_PORT: found "many", expected a whole number from 0 to 65535\n'
        f'{file}: BASE_TOPIC: found "a/#", expected an MQTT topic without + and #\n'
        f'{file}: CERT_FILE: found "", expected a path\n'
        f"{file}: AUTO_DETACH_WARNING_TIMEOUT: found 7200 s, expected shorter than "
        "auto_detach.timeout, which is 3600 s\n"
        f"{file}: MQTT_PASSWORD: is set without mqtt.username; MQTT knows no password without a "
        "user\n"
    )
    assert [each.name for each in folder.iterdir()] == [".env"]


def test_a_file_of_something_else_is_refused(moving, folder):
    (folder / ".env").write_text("HOME=/root\n")
    code, _, err = moving()
    assert (code, err) == (
        2,
        f"error: {folder / '.env'}: holds no variable of the earlier service, such as "
        "LISTEN_PORT=16018\n",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"LISTEN_PORT=1\xff", "cannot be read: not UTF-8 (byte 13)"),
        (b"#" * (1024 * 1024 + 1), "is longer than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_env_is_refused(moving, folder, content, words):
    (folder / "x.env").write_bytes(content)
    assert moving("x.env") == (2, "", f"error: x.env: {words}\n")


def test_a_file_that_is_not_there_is_named(moving):
    assert moving("nothing.env") == (1, "", "error: nothing.env: No such file or directory\n")


# --- as a process ---


@pytest.mark.process
def test_what_is_imported_is_good(folder):
    (folder / ".env").write_bytes(b"\xef\xbb\xbfexport LISTEN_PORT = '16017' # TLS\r\n")
    for command in (["import"], ["check"], ["get", "server.port"]):
        done = subprocess.run(
            [sys.executable, "-m", "bssci", "config", *command],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
        )
    assert done.stdout == "16017\n"
