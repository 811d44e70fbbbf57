import errno
import os
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.protocol.errors import StorageError
from bssci.core.runtime.config import (
    KEYS,
    RUNTIME_KEYS,
    Config,
    ConfigError,
    Origin,
    Server,
    load_config,
    overlay_file,
    read_overlay,
)
from bssci.core.runtime.overlay import Change, Changes, adopt, change

EUI = '[server]\neui = "70B3D59CD0000001"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sc.toml").write_text(EUI)
    return tmp_path


@pytest.fixture
def config(folder):
    return load_config(folder, environ={})


def changed(config: Config, values, **layers) -> tuple[Config, Changes]:
    return change(config, values, **({"environ": {}} | layers))


def problems(config: Config, values, **layers) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        changed(config, values, **layers)
    return [str(problem) for problem in caught.value.problems]


def written(config: Config) -> dict[str, object]:
    return tomllib.loads(overlay_file(config).read_text())


# --- what is kept ---


def test_a_change_is_what_a_start_reads_from_then_on(config, folder):
    new, changes = changed(config, {"auto_detach.timeout": "2d", "log.level": "debug"})
    assert (new.auto_detach.timeout, new.log.level) == (172800.0, "debug")
    assert load_config(folder, environ={}) == new
    assert new.origins["log.level"] == Origin("overlay", str(folder / "state/overrides.toml"))
    assert changes == Changes(
        (
            Change("auto_detach.timeout", 259200, 172800.0, applied=True),
            Change("log.level", "info", "debug", applied=True),
        ),
        (),
    )


def test_the_file_is_private_explains_itself_and_is_in_the_order_of_sc_toml(config):
    changed(config, {"log.level": "debug", "server.port": 16017})
    file = overlay_file(config)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == (
        "# What was changed at runtime, by `bssci config set` or over MQTT. It goes before "
        "sc.toml;\n# `bssci config unset KEY` takes a change back.\n\n"
        '[server]\nport = 16017\n\n[log]\nlevel = "debug"\n'
    )


def test_a_later_change_keeps_the_earlier_ones(config):
    changed(config, {"log.level": "debug", "status.interval": 60})
    new, _ = changed(config, {"log.level": "error"})
    assert (new.log.level, new.status.interval) == ("error", 60)
    assert written(config) == {"status": {"interval": 60.0}, "log": {"level": "error"}}


def test_none_takes_a_change_back(config):
    running, _ = changed(config, {"log.level": "debug", "status.interval": 60})
    new, changes = changed(running, {"log.level": None})
    assert new.log.level == "info"
    assert changes == Changes((Change("log.level", "debug", "info", applied=True),), ())
    assert written(config) == {"status": {"interval": 60.0}}


def test_what_was_never_changed_can_be_taken_back_all_the_same(config):
    new, changes = changed(config, {"server.port": None})
    assert new == config
    assert changes == Changes((Change("server.port", 16018, 16018, applied=True),), ())


def test_texts_are_read_as_in_the_environment_and_values_as_they_are(config, folder):
    new, _ = changed(
        config,
        {
            "auto_detach.enabled": "off",
            "dedup.early": False,
            "server.port": "16017",
            "store.min_free": "1GB",
            "server.eui": "70-b3-d5-9c-d0-00-00-02",
            "log.file": "log/bssci.log",
        },
    )
    assert (new.auto_detach.enabled, new.dedup.early, new.server.port) == (False, False, 16017)
    assert (new.store.min_free, new.server.eui) == (10**9, 0x70B3D59CD0000002)
    assert new.log.file == folder / "log/bssci.log"


def test_a_path_stays_relative_to_the_folder_of_sc_toml(config):
    changed(config, {"tls.cert_file": "new/cert.pem"})
    assert written(config) == {"tls": {"cert_file": "new/cert.pem"}}


@given(values=st.dictionaries(st.sampled_from(sorted(RUNTIME_KEYS)), st.none(), max_size=5))
def test_taking_back_what_is_there_leaves_what_was_before(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("sc")
    (folder / "sc.toml").write_text(EUI)
    config = load_config(folder, environ={})
    defaults = {name: KEYS[name].kind.write(KEYS[name].default) for name in values}
    changed(config, defaults)
    assert changed(config, values)[0] == config
    assert written(config) == {}


# --- what is in force, and when ---


def test_what_a_running_service_cannot_take_over_needs_a_restart(config):
    _, changes = changed(config, {"server.port": 16017, "log.level": "debug"})
    assert changes == Changes(
        (
            Change("server.port", 16018, 16017, applied=False, reason="needs a restart"),
            Change("log.level", "info", "debug", applied=True),
        ),
        ("server.port",),
    )


def test_what_stays_as_it_was_needs_no_restart(config):
    _, changes = changed(config, {"server.port": 16018})
    assert changes == Changes((Change("server.port", 16018, 16018, applied=True),), ())


def test_what_something_stronger_hides_is_kept_and_said_to_have_no_effect(config):
    environ = {"BSSCI_LOG_LEVEL": "error", "BSSCI_SERVER_PORT": "1"}
    running = load_config(config.file, environ=environ, options={"server.name": "x"})
    values = {"log.level": "debug", "server.port": 2, "server.name": "y"}
    new, changes = changed(running, values, environ=environ, options={"server.name": "x"})
    assert (new.log.level, new.server.port, new.server.name) == ("error", 1, "x")
    assert changes == Changes(
        (
            Change("log.level", "error", "error", False, "BSSCI_LOG_LEVEL goes before it"),
            Change("server.port", 1, 1, False, "BSSCI_SERVER_PORT goes before it"),
            Change("server.name", "x", "x", False, "command line goes before it"),
        ),
        (),
    )
    assert written(config) == {"server": {"port": 2, "name": "y"}, "log": {"level": "debug"}}
    assert load_config(config.file, environ={}).log.level == "debug"


def test_taking_back_what_something_stronger_hides_is_no_matter(config):
    environ = {"BSSCI_LOG_LEVEL": "error"}
    running = load_config(config.file, environ=environ)
    _, changes = changed(running, {"log.level": None}, environ=environ)
    assert changes == Changes((Change("log.level", "error", "error", applied=True),), ())


def test_a_secret_is_kept_and_not_shown(config):
    new, changes = changed(config, {"mqtt.username": "u", "mqtt.password": "hunter2"})
    assert new.mqtt.password == "hunter2"
    assert changes.changed[1] == Change("mqtt.password", "", "****", False, "needs a restart")
    assert "hunter2" not in repr(changes) + repr(changes.as_json())
    _, changes = changed(new, {"mqtt.password": "other"})
    assert changes.restart == ("mqtt.password",)


def test_changes_are_told_to_programs(config):
    assert changed(config, {"server.port": 16017})[1].as_json() == {
        "changed": [
            {
                "key": "server.port",
                "old": 16018,
                "value": 16017,
                "applied": False,
                "reason": "needs a restart",
            }
        ],
        "restart": ["server.port"],
    }


def test_a_running_service_takes_over_what_needs_no_restart_and_nothing_else(config):
    new, _ = changed(config, {"server.port": 16017, "server.idle_ping": 5, "log.level": "debug"})
    adopted = adopt(config, new)
    assert (adopted.server.port, adopted.server.idle_ping) == (16018, 5.0)
    assert adopted.log.level == "debug"
    assert adopted.origins["server.port"] == Origin("default")
    assert adopted.origins["log.level"] == new.origins["log.level"]
    assert adopt(new, config) == load_config(
        config.file, environ={}, options={"server.port": 16017}, overlay={}
    )


# --- what is refused ---


def test_all_that_is_wrong_is_told_at_once_and_nothing_is_kept(config):
    changed(config, {"log.level": "debug"})
    before = overlay_file(config).read_bytes()
    assert problems(
        config,
        {
            "server.port": "x",
            "sever.port": 1,
            "port": 1,
            "dedup.delay": "nan",
            "mqtt.enabled": [],
            "auto_detach.timeout": "1h",
            "store.path": "elsewhere",
            "mqtt.password": 5,
            "log.level": "error",
        },
    ) == [
        'server.port: found "x", expected a whole number from 0 to 65535',
        "sever.port: is unknown; did you mean server.port?",
        "port: is unknown; did you mean mqtt.port?",
        'dedup.delay: found "nan", expected seconds, 0 or more (or "90s", "12h", "30d")',
        "mqtt.enabled: found a list, expected true or false",
        "mqtt.password: found ****, expected text",
        "store.path: cannot be set here, beside the database; set it in sc.toml",
        f"{overlay_file(config)}: auto_detach.warning_timeout: found 129600 s, expected shorter "
        "than auto_detach.timeout, which is 3600 s",
    ]
    assert overlay_file(config).read_bytes() == before


def test_an_unknown_name_cannot_be_taken_back(config):
    assert problems(config, {"sever.port": None}) == [
        "sever.port: is unknown; did you mean server.port?"
    ]


def test_what_was_wrong_before_is_told_with_its_file(config, folder):
    (folder / "sc.toml").write_text(EUI + "port = 70000\n")
    overlay_file(config).parent.mkdir()
    overlay_file(config).write_text('[log]\nlevel = "loud"\n[old]\nkey = 1\n')
    assert problems(config, {"status.interval": 60}) == [
        f"{folder / 'sc.toml'}: server.port: found 70000, expected a whole number from 0 to 65535",
        f'{overlay_file(config)}: log.level: found "loud", expected "debug", "info", "warning" '
        'or "error"',
        f"{overlay_file(config)}: old.key: is unknown",
    ]


def test_a_change_can_mend_what_was_wrong(config):
    overlay_file(config).parent.mkdir()
    overlay_file(config).write_text('[status]\ninterval = "often"\n[log]\nlevel = "loud"\n')
    new, _ = changed(config, {"status.interval": 60, "log.level": None})
    assert (new.status.interval, written(config)) == (60, {"status": {"interval": 60.0}})


def test_an_overlay_that_is_no_toml_is_not_replaced(config):
    overlay_file(config).parent.mkdir()
    overlay_file(config).write_text("[")
    (line,) = problems(config, {"log.level": "debug"})
    assert line.startswith(f"{overlay_file(config)}: is not valid TOML: ")
    assert overlay_file(config).read_text() == "["


def test_the_place_of_the_overlay_cannot_be_changed_by_it_even_if_the_environment_hides_that(
    config, folder
):
    environ = {"BSSCI_STORE_PATH": "state/bssci.db"}
    assert problems(config, {"store.path": "x.db"}, environ=environ) == [
        "store.path: cannot be set here, beside the database; set it in sc.toml"
    ]


def test_what_was_not_read_from_a_file_cannot_be_changed():
    assert problems(Config(server=Server(eui=1)), {"log.level": "debug"}) == [
        "the configuration was not read from a file, so that no change of it can be kept"
    ]


def test_half_a_character_cannot_be_kept(config):
    assert problems(config, {"server.name": "\ud83d", "log.level": "debug"}) == [
        "server.name: found text that is not Unicode, expected characters that a file can hold"
    ]
    assert not overlay_file(config).exists()


def test_an_overlay_stays_short_enough_to_be_read(config):
    assert problems(config, {"server.name": "x" * 1024 * 1024}) == [
        f"{overlay_file(config)}: would be longer than 1048576 bytes"
    ]
    assert not overlay_file(config).exists()


def test_who_cannot_use_the_new_configuration_prevents_it(config):
    seen = []

    def refuse(new: Config) -> None:
        seen.append(new.log.level)
        raise StorageError("not this one")

    with pytest.raises(StorageError, match="not this one"):
        changed(config, {"log.level": "debug"}, check=refuse)
    assert (seen, overlay_file(config).exists()) == (["debug"], False)


# --- the file ---


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 28), (errno.EDQUOT, 28), (errno.EROFS, 5)]
)
def test_what_cannot_be_written_leaves_all_as_it_was(config, monkeypatch, number, code):
    changed(config, {"log.level": "debug"})
    before = overlay_file(config).read_bytes()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageError) as caught:
        changed(config, {"log.level": "error"})
    assert (str(caught.value), caught.value.code) == (
        f"{overlay_file(config)} cannot be written: {os.strerror(number)}; nothing is changed",
        code,
    )
    assert overlay_file(config).read_bytes() == before
    assert [file.name for file in overlay_file(config).parent.iterdir()] == ["overrides.toml"]


def test_whoever_reads_sees_the_old_file_or_the_new_one(config, monkeypatch):
    """At the moment of the change the new file is complete beside the old one."""
    changed(config, {"log.level": "debug"})
    file, seen = overlay_file(config), []
    replace = os.replace

    def look(source: str, target: Path) -> None:
        seen.extend([read_overlay(Path(source)), read_overlay(Path(target))])
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    changed(config, {"log.level": "error"})
    assert [*seen, read_overlay(file)] == [
        {"log.level": "error"},
        {"log.level": "debug"},
        {"log.level": "error"},
    ]


def test_what_is_written_is_toml_whatever_the_text(config):
    name = 'a"b\\c\n[log]\nlevel = "x"\t\x7f ü'
    changed(config, {"server.name": name})
    assert written(config) == {"server": {"name": name}}
    assert tomli_w.dumps(written(config)) in overlay_file(config).read_text()
    assert load_config(config.file, environ={}).server.name == name
