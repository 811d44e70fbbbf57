import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from bssci.cli import main, output
from bssci.cli.config import _complete_key
from bssci.core.center.rpc import InvalidRequestError
from bssci.core.runtime import overlay
from bssci.core.runtime.config import (
    KEYS,
    Config,
    ConfigError,
    describe,
    entry,
    load_config,
    overlay_file,
)
from bssci.core.runtime.control import serve_control

EUI = '[server]\neui = "70B3D59CD0000001"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sc.toml").write_text(EUI + '[mqtt]\nusername = "u"\npassword = "hunter2"\n')
    return tmp_path


@pytest.fixture
def bssci(folder, capsys, monkeypatch):
    """Run a command on the configuration; gives exit code, output and messages."""
    for key in KEYS.values():
        monkeypatch.delenv(key.variable, raising=False)

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main.run(["config", *args, "-c", str(folder)])
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


def read(folder: Path) -> Config:
    return load_config(folder, environ={})


class Service:
    """Has a configuration and lets it be changed, as the real one does."""

    def __init__(self, config: Config) -> None:
        self.config = config

    async def get(self, *, key: str | None = None) -> list[dict[str, object]]:
        entries = (entry(*each) for each in describe(self.config))
        return [each for each in entries if key in (None, each["key"])]

    async def set(self, *, values: dict[str, object]) -> dict[str, object]:
        try:
            new, changes = overlay.change(self.config, values, environ={})
        except ConfigError as error:
            raise InvalidRequestError(str(error)) from error
        self.config = overlay.adopt(self.config, new)
        return changes.as_json()


@contextlib.contextmanager
def running(service: Service) -> Iterator[Service]:
    """Its control socket is served, in a thread of its own, while the block lasts."""
    started: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []
    is_started = threading.Event()
    methods = {"config.get": service.get, "config.set": service.set}

    def never():
        raise AssertionError("nobody subscribes here")

    async def serve() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, service.config.control.socket, methods, never)
            started.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            is_started.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert is_started.wait(30)
    try:
        yield service
    finally:
        ((token, scope),) = started
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join(30)


@pytest.fixture
def service(folder):
    """A service that runs with the configuration."""
    with running(Service(read(folder))) as service:
        yield service


# --- showing ---


def test_everything_is_shown_with_secrets_masked(bssci):
    code, out, err = bssci("show")
    lines = [line.split() for line in out.splitlines()]
    assert (code, err, lines[0]) == (0, "", ["setting", "value"])
    assert [line[0] for line in lines[1:]] == list(KEYS)
    shown = {line[0]: line[1:] for line in lines}
    assert shown["mqtt.password"] == ["****"]
    assert shown["auto_detach.timeout"] == ["259200"]
    assert shown["mqtt.enabled"] == ["false"]
    assert shown["mqtt.client_id"] == ['""']
    assert shown["tls.ca_file"] == ["certs/ca_cert.pem"]


def test_where_each_value_comes_from_is_shown_in_a_word(bssci, folder, monkeypatch):
    bssci("set", "log.level", "debug")
    monkeypatch.setenv("BSSCI_STATUS_INTERVAL", "60")
    _, out, _ = bssci("show", "--origin")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["setting", "value", "origin"]
    origins = {line[0]: line[-1] for line in lines}
    assert origins | {
        "server.eui": "sc.toml",
        "server.port": "default",
        "log.level": "overrides.toml",
        "status.interval": "environment",
    } == (origins)


def test_the_table_fits_80_columns_of_a_terminal(bssci, folder, monkeypatch):
    monkeypatch.setattr(output, "width", lambda: 80)
    bssci("set", "log.file", "/var/log/" + "long/" * 30 + "bssci.log")
    for options in ((), ("--origin",)):
        _, out, _ = bssci("show", *options)
        assert max(map(len, out.splitlines())) <= 80
    _, out, _ = bssci("show", "--json")
    values = {each["key"]: each["value"] for each in json.loads(out)}
    assert values["log.file"] == "/var/log/" + "long/" * 30 + "bssci.log"


def test_programs_are_shown_everything(bssci, folder):
    code, out, _ = bssci("show", "--json")
    assert (code, json.loads(out)) == (0, [entry(*each) for each in describe(read(folder))])
    assert "hunter2" not in out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server.port", "16018"),
        ("mqtt.enabled", "false"),
        ("mqtt.password", "****"),
        ("mqtt.client_id", ""),
        ("dedup.delay", "2"),
        ("store.keep_uplinks", "30d"),
        ("server.eui", "70B3D59CD0000001"),
    ],
)
def test_one_value_is_shown_bare(bssci, key, value):
    assert bssci("get", key) == (0, f"{value}\n", "")


def test_a_path_is_shown_whole_when_it_is_asked_for(bssci, folder):
    assert bssci("get", "store.path") == (0, f"{folder / 'state/bssci.db'}\n", "")


def test_programs_are_told_all_about_one_setting(bssci, folder):
    _, out, _ = bssci("get", "server.eui", "--json")
    assert json.loads(out) == {
        "key": "server.eui",
        "value": "70B3D59CD0000001",
        "origin": str(folder / "sc.toml"),
        "default": None,
        "help": KEYS["server.eui"].help,
        "secret": False,
        "runtime": False,
    }


def test_an_unknown_setting_is_not_found_and_a_like_one_is_suggested(bssci):
    assert bssci("get", "mqtt.prt") == (
        5,
        "",
        "error: mqtt.prt is no setting; did you mean mqtt.port?\n",
    )


def test_keys_are_completed():
    assert _complete_key("status.") == ["status.interval"]
    assert _complete_key("") == list(KEYS)


# --- with a running service ---


def test_the_running_service_is_asked_and_not_the_files(bssci, folder, service):
    (folder / "sc.toml").write_text(EUI + "port = 1\n")
    assert bssci("get", "server.port") == (0, "16018\n", "")
    _, out, _ = bssci("show", "--json")
    assert json.loads(out) == [entry(*each) for each in describe(service.config)]


def test_the_running_service_changes_what_it_can_and_says_what_needs_a_restart(
    bssci, folder, service
):
    code, out, err = bssci(
        "set", "auto_detach.timeout", "2d", "server.port", "16017", "tls.min_version", "1.3"
    )
    assert (code, err) == (0, "")
    assert out == (
        "setting              before  now     applies\n"
        "auto_detach.timeout  259200  172800  at once\n"
        "server.port          16018   16017   after a restart\n"
        "tls.min_version      1.2     1.3     to new connections\n"
    )
    assert (service.config.auto_detach.timeout, service.config.server.port) == (172800, 16018)
    assert read(folder).server.port == 16017


def test_programs_are_told_what_the_running_service_has_changed(bssci, service):
    code, out, _ = bssci("set", "log.level", "debug", "server.port", "1", "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            "running": True,
            "changed": [
                {
                    "key": "log.level",
                    "old": "info",
                    "value": "debug",
                    "applied": True,
                    "reason": "",
                },
                {
                    "key": "server.port",
                    "old": 16018,
                    "value": 1,
                    "applied": False,
                    "reason": "needs a restart",
                },
            ],
            "restart": ["server.port"],
        },
    )


def test_the_running_service_takes_changes_back(bssci, folder, service):
    bssci("set", "log.level", "debug")
    assert bssci("unset", "log.level") == (
        0,
        "setting    before  now   applies\nlog.level  debug   info  at once\n",
        "",
    )
    assert (service.config.log.level, read(folder).log.level) == ("info", "info")


def test_what_the_running_service_refuses_is_a_configuration_error(bssci, folder, service):
    assert bssci("set", "server.port", "x", "log.level", "debug") == (
        2,
        "",
        'error: server.port: found "x", expected a whole number from 0 to 65535\n',
    )
    assert read(folder).log.level == "info"


def test_a_service_that_is_there_but_does_not_answer_is_not_passed_over(bssci, folder):
    """Its overlay is its own to write."""
    place = read(folder).control.socket
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        code, out, err = bssci("set", "log.level", "debug")
        thread.join(30)
    assert (code, out) == (3, "")
    assert str(place) in err
    assert not overlay_file(read(folder)).exists()


def test_a_socket_that_a_dead_service_has_left_is_no_service(bssci, folder):
    place = read(folder).control.socket
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
    assert bssci("set", "log.level", "debug")[0] == 0
    assert read(folder).log.level == "debug"


# --- without one ---


def test_without_a_service_the_files_are_changed(bssci, folder):
    assert bssci("set", "auto_detach.timeout", "2d", "server.port", "16017") == (
        0,
        "setting              before  now     applies\n"
        "auto_detach.timeout  259200  172800  when the service starts\n"
        "server.port          16018   16017   when the service starts\n",
        "",
    )
    config = read(folder)
    assert (config.auto_detach.timeout, config.server.port) == (172800, 16017)


def test_without_a_service_nothing_is_said_to_have_been_applied(bssci):
    _, out, _ = bssci("set", "log.level", "debug", "server.port", "1", "--json")
    assert json.loads(out) == {
        "running": False,
        "changed": [
            {"key": "log.level", "old": "info", "value": "debug", "applied": False, "reason": ""},
            {"key": "server.port", "old": 16018, "value": 1, "applied": False, "reason": ""},
        ],
        "restart": [],
    }


def test_what_the_environment_hides_is_said_to_have_no_effect(bssci, folder, monkeypatch):
    monkeypatch.setenv("BSSCI_LOG_LEVEL", "error")
    assert bssci("set", "log.level", "debug") == (
        0,
        "setting    before  now    applies\n"
        "log.level  error   error  no: BSSCI_LOG_LEVEL goes before it\n",
        "",
    )
    assert read(folder).log.level == "debug"


def test_all_that_is_wrong_is_told_and_nothing_is_changed(bssci, folder):
    code, out, err = bssci("set", "log.level", "debug", "server.port", "x", "sever.port", "1")
    assert (code, out) == (2, "")
    assert err == (
        'error: server.port: found "x", expected a whole number from 0 to 65535\n'
        "sever.port: is unknown; did you mean server.port?\n"
    )
    assert not overlay_file(read(folder)).exists()


def test_changes_are_taken_back(bssci, folder):
    bssci("set", "log.level", "debug", "status.interval", "60")
    code, out, _ = bssci("unset", "log.level", "status.interval")
    assert (code, read(folder).log.level, read(folder).status.interval) == (0, "info", 300)
    assert out.splitlines()[1].split() == [
        "log.level", "debug", "info", "when", "the", "service", "starts",
    ]  # fmt: skip


def test_a_key_without_a_value_is_a_usage_error(bssci):
    code, _, err = bssci("set", "log.level")
    assert (code, "log.level has no value; expected KEY VALUE" in err) == (2, True)


def test_a_password_may_come_from_standard_input_and_is_not_shown(bssci, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("new secret\nignored\n"))
    code, out, err = bssci("set", "mqtt.password", "-")
    assert (code, read(folder).mqtt.password) == (0, "new secret")
    assert "secret" not in out + err
    assert out.splitlines()[1].split()[:3] == ["mqtt.password", "****", "****"]


# --- checking ---


def test_a_good_configuration_is_ok(bssci, folder):
    file, changes = folder / "sc.toml", folder / "state/overrides.toml"
    assert bssci("check") == (0, "ok\n", f"checked {file}\n")
    bssci("set", "log.level", "debug")
    assert bssci("check") == (0, "ok\n", f"checked {file} and {changes}\n")
    _, out, _ = bssci("check", "--json")
    assert json.loads(out) == {"ok": True, "files": [str(file), str(changes)], "problems": []}


@pytest.fixture
def broken(folder, monkeypatch):
    (folder / "sc.toml").write_text("[server]\n")
    (folder / "state").mkdir()
    (folder / "state/overrides.toml").write_text('[log]\nlevel = "loud"\n')
    return folder


def test_everything_that_is_wrong_is_told(bssci, broken, monkeypatch):
    monkeypatch.setenv("BSSCI_MQTT_PORT", "many")
    assert bssci("check") == (
        2,
        "",
        'error: BSSCI_MQTT_PORT: mqtt.port: found "many", expected a whole number from 1 to '
        "65535\n"
        f'{broken / "state/overrides.toml"}: log.level: found "loud", expected "debug", "info", '
        '"warning" or "error"\n'
        f"{broken / 'sc.toml'}: server.eui: is missing, expected an EUI64 of 16 hexadecimal "
        "digits; `bssci init` makes one\n",
    )


def test_programs_are_told_everything_that_is_wrong(bssci, broken):
    code, out, err = bssci("check", "--json")
    assert (code, err) == (2, "")
    assert json.loads(out) == {
        "ok": False,
        "files": [],
        "problems": [
            {
                "where": str(broken / "state/overrides.toml"),
                "key": "log.level",
                "what": 'found "loud", expected "debug", "info", "warning" or "error"',
            },
            {
                "where": str(broken / "sc.toml"),
                "key": "server.eui",
                "what": "is missing, expected an EUI64 of 16 hexadecimal digits; `bssci init` "
                "makes one",
            },
        ],
    }


# --- as a process ---


@pytest.mark.process
def test_what_one_process_sets_the_next_one_gets(folder):
    def run(*args: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "bssci", "config", *args, "-c", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert run("set", "dedup.delay", "500ms")[0] == 0
    assert run("get", "dedup.delay") == (0, "0.5\n", "")
    assert run("set", "dedup.delay", "soon") == (
        2,
        "",
        'error: dedup.delay: found "soon", expected seconds, 0 or more (or "90s", "12h", "30d")\n',
    )
    assert run("check") == (
        0,
        "ok\n",
        f"checked {folder / 'sc.toml'} and {folder / 'state/overrides.toml'}\n",
    )


@pytest.mark.process
def test_a_process_talks_to_the_running_service(folder, service):
    command = [sys.executable, "-m", "bssci", "config", "set", "log.level", "debug"]
    done = subprocess.run(
        [*command, "-c", str(folder), "--json"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["running"] is True
    assert service.config.log.level == "debug"
