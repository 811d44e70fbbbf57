import io
import json
from pathlib import Path

import pytest

from bssci.cli import issuing, main
from bssci.cli.settings import _broker, broker_of
from bssci.core.runtime.authority import load_pair
from bssci.core.runtime.config import Config, Mqtt, load_config
from bssci.core.runtime.tls import certificate_names, certificate_warnings, server_context


@pytest.fixture
def init(capsys, tmp_path):
    """Run `bssci init`; gives exit code, output and messages."""

    def run(*args: str, folder: Path = tmp_path / "sc", host: str = "sc.example.org"):
        with pytest.raises(SystemExit) as caught:
            main.run(["init", str(folder), *(["--host", host] if host else []), *args])
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sc"


def loaded(folder: Path) -> Config:
    return load_config(folder, environ={})


def test_init_makes_everything_that_serve_needs(init, folder):
    code, out, err = init()
    config = loaded(folder)
    assert code == 0
    assert out == (
        f"  configuration       {folder / 'sc.toml'}\n"
        f"  Service Center EUI  {config.server.eui:016X}\n"
        "  certificate names   sc.example.org\n"
    )
    assert err == (
        "\nNext:\n"
        f"  1.  bssci certs station EUI -c {folder / 'sc.toml'}  files for a base station, and "
        "where to\n"
        f"  2.  bssci serve -c {folder / 'sc.toml'}              base stations connect to port "
        "16018, TLS\n"
    )
    tls = config.tls
    server_context(cert_file=tls.cert_file, key_file=tls.key_file, ca_file=tls.ca_file)
    assert certificate_names(tls.cert_file) == ["sc.example.org"]
    assert certificate_warnings(tls.cert_file, tls.ca_file) == []
    assert (folder / "state").stat().st_mode & 0o777 == 0o700
    assert (folder / "certs/.gitignore").read_text() == "*\n!.gitignore\n!README.md\n"
    assert not config.mqtt.enabled


def test_in_this_folder_the_next_steps_are_short(init, folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    _, _, err = init(folder=Path())
    assert "  2.  bssci serve  " in err


def test_an_eui_is_random_locally_administered_and_of_one_device(init, tmp_path):
    euis = []
    for number in range(4):
        init(folder=tmp_path / str(number))
        euis.append(loaded(tmp_path / str(number)).server.eui)
    assert len(set(euis)) == 4
    assert {eui >> 56 & 0x03 for eui in euis} == {0x02}


def test_init_tells_programs_what_it_made(init, folder):
    code, out, err = init("--json")
    certificates = folder / "certs"
    assert (code, err, json.loads(out)) == (
        0,
        "",
        {
            "config_file": str(folder / "sc.toml"),
            "eui": f"{loaded(folder).server.eui:016X}",
            "port": 16018,
            "certificates": {
                "ca_file": str(certificates / "ca_cert.pem"),
                "ca_key_file": str(certificates / "ca_key.pem"),
                "cert_file": str(certificates / "service_center_cert.pem"),
                "key_file": str(certificates / "service_center_key.pem"),
                "names": ["sc.example.org"],
                "new_ca": True,
                "kept": [],
            },
            "kept": [],
        },
    )


def test_without_a_host_the_names_of_this_machine_are_taken(init, folder, monkeypatch):
    monkeypatch.setattr(issuing, "names_of_this_machine", lambda: ("here", "192.0.2.9"))
    assert init(host="")[0] == 0
    assert certificate_names(loaded(folder).tls.cert_file) == ["here", "192.0.2.9"]


def test_init_overwrites_nothing_without_force(init, folder):
    init()
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    code, out, err = init()
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {folder / 'sc.toml'} and ")
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_init_with_force_keeps_eui_authority_and_the_old_files(init, folder):
    init()
    before = loaded(folder)
    authority = load_pair(before.tls.ca_file, folder / "certs/ca_key.pem")
    old = (folder / "sc.toml").read_text()
    (folder / "certs/.gitignore").write_text("mine\n")
    code, out, _ = init("--force", "--json", "--mqtt", "mqtt://broker", host="new.example.org")
    (kept,) = json.loads(out)["kept"]
    assert (code, Path(kept).read_text()) == (0, old)
    assert len(json.loads(out)["certificates"]["kept"]) == 2
    after = loaded(folder)
    assert (after.server.eui, after.mqtt.host) == (before.server.eui, "broker")
    assert load_pair(after.tls.ca_file, folder / "certs/ca_key.pem") == authority
    assert certificate_names(after.tls.cert_file) == ["new.example.org"]
    assert (folder / "certs/.gitignore").read_text() == "mine\n"


@pytest.mark.parametrize(
    "text", ["", "[", '[server]\neui = "x"\n', "server = 1\n", "[server]\neui = []\n"]
)
def test_an_sc_toml_that_tells_no_eui_is_replaced_all_the_same(init, folder, text):
    folder.mkdir()
    (folder / "sc.toml").write_text(text)
    assert init("--force")[0] == 0
    assert loaded(folder).server.eui >> 56 & 0x03 == 0x02


def test_a_folder_that_cannot_be_written_is_named(init, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = init(folder=tmp_path / "file")
    assert (code, str(tmp_path / "file") in err) == (2, True)


def test_init_makes_rsa_keys_when_asked(init, folder):
    init("--rsa")
    assert len((folder / "certs/ca_key.pem").read_text()) > 1000


# --- the broker ---


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker", Mqtt(enabled=True, host="broker", port=1883)),
        ("mqtts://broker", Mqtt(enabled=True, host="broker", port=8883, tls=True)),
        ("mqtt://broker:1884/", Mqtt(enabled=True, host="broker", port=1884)),
        (
            "mqtt://u%40x@[2001:db8::1]/a/b/",
            Mqtt(enabled=True, host="2001:db8::1", port=1883, username="u@x", base_topic="a/b"),
        ),
    ],
)
def test_a_url_says_everything_about_the_broker(init, folder, url, expected):
    assert init("--mqtt", url)[0] == 0
    assert loaded(folder).mqtt == expected


def test_a_password_goes_into_a_file_of_its_own_and_is_shown_nowhere(init, folder):
    _, out, err = init("--mqtt", "mqtt://user:hunter%2F2@broker/base")
    password_file = folder / "certs/mqtt_password"
    assert loaded(folder).mqtt == Mqtt(
        enabled=True,
        host="broker",
        username="user",
        password="hunter/2",
        password_file=password_file,
        base_topic="base",
    )
    assert password_file.stat().st_mode & 0o777 == 0o600
    assert "hunter" not in out + err + (folder / "sc.toml").read_text()


def test_a_url_may_come_from_standard_input(init, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("mqtt://user:hunter2@broker\n"))
    assert init("--mqtt", "-")[0] == 0
    assert loaded(folder).mqtt.password == "hunter2"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://u:hunter2@broker", "does not begin with mqtt:// or mqtts://"),
        ("broker", "does not begin with mqtt:// or mqtts://"),
        ("", "does not begin with mqtt:// or mqtts://"),
        ("mqtt://", "names no host"),
        ("mqtt://u:hunter2@broker:x", "has no valid host and port"),
        ("mqtt://broker:70000", "has no valid host and port"),
        ("mqtt://[::1", "has no valid host and port"),
        ("mqtt://u:hunter2#x@broker", "has no valid host and port"),
        ("mqtt://broker/a?hunter2", "holds a ? or #"),
        ("mqtt://:hunter2@broker", "has a password and no user"),
        ("mqtt://u:hunter2%0Ax@broker", "has a password with a line break"),
        ("mqtt://broker/a/+/b", "has 'a/+/b' as mqtt.base_topic, expected an MQTT topic"),
    ],
)
def test_a_url_that_is_none_is_refused_without_showing_it(init, folder, url, words):
    code, out, err = init("--mqtt", url)
    assert (code, out) == (2, "")
    assert words in err
    assert "hunter2" not in err
    assert not folder.exists()


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        (None, {}),
        ("mqtt://b", {"mqtt.enabled": True, "mqtt.host": "b", "mqtt.port": 1883}),
        (
            "mqtt://u:p@b",
            {
                "mqtt.enabled": True,
                "mqtt.host": "b",
                "mqtt.port": 1883,
                "mqtt.username": "u",
                "mqtt.password": "p",
            },
        ),
    ],
)
def test_a_url_stands_for_settings(url, settings):
    assert broker_of(url) == settings


def test_a_broker_is_in_no_repr_with_its_password():
    assert "hunter2" not in repr(_broker("mqtt://user:hunter2@broker"))
