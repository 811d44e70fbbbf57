import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.runtime.config import (
    KEYS,
    OVERLAY_NAME,
    Config,
    ConfigError,
    Mqtt,
    Origin,
    Problem,
    Server,
    Store,
    Tls,
    describe,
    entry,
    find_config,
    load_config,
    make_config,
    overlay_file,
    read_overlay,
    render_config,
    suggestion,
)

EUI = '[server]\neui = "70B3D59CD0000001"\n'


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sc"


@pytest.fixture
def write(folder):
    """Write sc.toml, or another file in its folder; gives its path."""

    def write(text: str, name: str = "sc.toml") -> Path:
        file: Path = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def load(file: Path | None, environ=None, **options) -> Config:
    return load_config(file, environ=environ or {}, options=options)


def problems(file: Path | None, environ=None, options=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ=environ or {}, options=options)
    return [str(problem) for problem in caught.value.problems]


# --- values ---


def test_what_is_not_set_has_its_default_and_paths_begin_in_the_folder_of_sc_toml(write, folder):
    config = load(write(EUI))
    assert config.server == Server(eui=0x70B3D59CD0000001)
    assert config.mqtt == Mqtt()
    assert config.tls == Tls(
        cert_file=folder / "certs/service_center_cert.pem",
        key_file=folder / "certs/service_center_key.pem",
        ca_file=folder / "certs/ca_cert.pem",
    )
    assert config.store == Store(path=folder / "state/bssci.db")
    assert config.file == folder / "sc.toml"


def test_every_value_can_be_set_in_the_file(write, folder):
    config = load(
        write(
            EUI
            + 'port = 0\nidle_timeout = "2m"\n'
            + '[tls]\nidentity = "pin"\nca_file = "/etc/ca.pem"\n'
            + '[store]\nkeep_uplinks = "12h"\nmin_free = "1GB"\npath = "../db"\n'
            + '[log]\nfile = "log/bssci.log"\ntimezone = "Europe/Berlin"\n'
        )
    )
    assert (config.server.port, config.server.idle_timeout) == (0, 120.0)
    assert (config.tls.identity, config.tls.ca_file) == ("pin", Path("/etc/ca.pem"))
    assert config.store == Store(
        path=folder.parent / "db", keep_uplinks=43200.0, min_free=1_000_000_000
    )
    assert (config.log.file, config.log.timezone) == (folder / "log/bssci.log", "Europe/Berlin")


def test_the_folder_may_be_named_instead_of_the_file(write, folder):
    assert load(write(EUI).parent).file == folder / "sc.toml"


def test_a_byte_order_mark_does_no_harm(write):
    assert load(write("\ufeff" + EUI)).server.eui == 0x70B3D59CD0000001


def test_a_path_may_begin_in_the_home_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(write(EUI + '[store]\npath = "~/db"')).store.path == Path("/home/somebody/db")


def test_the_stronger_layer_wins_and_every_origin_is_known(write, folder):
    file = write(EUI + 'name = "file"\nhost = "file"\nport = 1\nmax_frame = 1\n')
    overlay = write(
        '[server]\nname = "overlay"\nhost = "overlay"\nport = 2\n', "state/overrides.toml"
    )
    environ = {"BSSCI_SERVER_HOST": "environment", "BSSCI_SERVER_PORT": "3"}
    config = load(file, environ, **{"server.port": 4})
    server = config.server
    assert (server.name, server.host, server.port, server.max_frame) == (
        "overlay",
        "environment",
        4,
        1,
    )
    assert {name: config.origins[f"server.{name}"] for name in ("name", "host", "port")} == {
        "name": Origin("overlay", str(overlay)),
        "host": Origin("environment", "BSSCI_SERVER_HOST"),
        "port": Origin("command line"),
    }
    assert config.origins["server.max_frame"] == Origin("file", str(file))
    assert config.origins["mqtt.qos"] == Origin("default")
    assert set(config.origins) == set(KEYS)


def test_the_overlay_lies_beside_the_database_wherever_that_is(write, folder):
    write('[log]\nlevel = "debug"\n', "elsewhere/overrides.toml")
    file = write(EUI)
    environ = {"BSSCI_STORE_PATH": "elsewhere/bssci.db"}
    assert load(file, environ).log.level == "debug"


def test_the_command_line_gives_texts_paths_and_values(write, folder):
    config = load(
        write(EUI),
        **{"server.port": "16017", "metrics.file": Path("m.prom"), "mqtt.enabled": True},
    )
    assert (config.server.port, config.metrics.file, config.mqtt.enabled) == (
        16017,
        folder / "m.prom",
        True,
    )


def test_the_environment_of_the_process_is_the_default(write, monkeypatch):
    monkeypatch.setenv("BSSCI_SERVER_NAME", "from outside")
    assert load_config(write(EUI)).server.name == "from outside"


def test_variables_of_others_are_left_alone(write):
    environ = {"BSSCI_VERSION": "1", "PATH": "/bin", "_BSSCI_COMPLETE": "x"}
    assert load(write(EUI), environ) == load(write(EUI))


# --- the password ---


def test_the_password_is_the_first_line_of_its_file(write, folder):
    file = write(EUI + '[mqtt]\nusername = "u"\npassword_file = "secret"\n')
    secret = write("p@ss wörd \r\nnot this\n", "secret")
    config = load(file)
    assert config.mqtt == Mqtt(username="u", password="p@ss wörd ", password_file=secret)
    assert config.origins["mqtt.password"] == Origin("file", str(secret))


def test_a_password_and_a_file_for_it_exclude_each_other(write):
    file = write(EUI + '[mqtt]\nusername = "u"\npassword_file = "secret"\n')
    assert problems(file, {"BSSCI_MQTT_PASSWORD": "hunter2"}) == [
        f"{file}: mqtt.password_file: not together with mqtt.password (BSSCI_MQTT_PASSWORD); "
        "remove one of them"
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        ("\n", "its first line is empty"),
        ("", "its first line is empty"),
    ],
)
def test_a_password_file_without_a_password_is_a_problem(write, folder, content, words):
    file = write(EUI + '[mqtt]\nusername = "u"\npassword_file = "secret"\n')
    if content is not None:
        write(content, "secret")
    assert problems(file) == [f"{folder / 'secret'}: mqtt.password_file: {words}"]


def test_a_secret_of_a_wrong_kind_is_not_shown(write):
    file = write(EUI + "[mqtt]\npassword = 4711\n")
    assert problems(file) == [f"{file}: mqtt.password: found ****, expected text"]


# --- problems ---


def test_all_problems_are_told_at_once(write):
    file = write(
        'host = "::"\n'
        "[server]\n"
        'port = "x"\n'
        "prot = 1\n"
        "eui = 'FCA84A03'\n"
        "[mqt]\n"
        "[tls]\n"
        'identity = "cn"\n'
        "[store]\n"
        "path = 5\n"
        "keep_uplinks = [1]\n"
        "[dedup]\n"
        "early = 2020-01-01\n"
        "delay = {}\n"
    )
    environ = {"BSSCI_MQTT_PORT": "many", "BSSCI_LOG_LEVL": "debug"}
    assert problems(file, environ, {"log.level": "loud", "sever.port": 1}) == [
        f"{file}: [host]: is unknown; it belongs into a section: server.host or mqtt.host",
        f'{file}: server.port: found "x", expected a whole number from 0 to 65535',
        f"{file}: server.prot: is unknown; did you mean server.port?",
        f'{file}: server.eui: found "FCA84A03", expected an EUI64 of 16 hexadecimal digits '
        "(8 hexadecimal digits found, 16 expected)",
        f"{file}: [mqt]: is unknown; did you mean mqtt?",
        f'{file}: tls.identity: found "cn", expected "match", "pin", "require" or "chain"',
        f"{file}: store.path: found 5, expected a path",
        f"{file}: store.keep_uplinks: found a list, expected seconds, 0 or more "
        '(or "90s", "12h", "30d")',
        f"{file}: dedup.early: found 2020-01-01, expected true or false",
        f"{file}: dedup.delay: found a section, expected seconds, 0 or more "
        '(or "90s", "12h", "30d")',
        'BSSCI_MQTT_PORT: mqtt.port: found "many", expected a whole number from 1 to 65535',
        "BSSCI_LOG_LEVL: is unknown; did you mean BSSCI_LOG_LEVEL?",
        'command line: log.level: found "loud", expected "debug", "info", "warning" or "error"',
        "command line: sever.port: is unknown; did you mean server.port?",
    ]


def test_a_weak_value_is_checked_even_if_a_stronger_one_hides_it(write):
    file = write(EUI + "port = 70000\n")
    assert problems(file, {"BSSCI_SERVER_PORT": "1"}) == [
        f"{file}: server.port: found 70000, expected a whole number from 0 to 65535"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server = 5\n", "server: found 5, expected a section: [server]"),
        ("[server]\nprt = true\n", "server.prt: is unknown; did you mean server.port?"),
        ("[zzz]\n", "[zzz]: is unknown"),
        (
            '[server]\neui = true\nport = "' + "9" * 70 + '"\n',
            "server.eui: found true, expected an EUI64 of 16 hexadecimal digits",
        ),
    ],
)
def test_a_problem_names_file_section_key_and_what_is_expected(write, text, words):
    file = write(text)
    assert problems(file)[0].startswith(f"{file}: {words}")


def test_what_was_found_is_shown_on_one_line_and_not_at_full_length(write):
    file = write(EUI + '[log]\nlevel = "a\\nb\\u001b[31m' + "c" * 99 + '"\n')
    (line,) = problems(file)
    assert line.startswith(f'{file}: log.level: found "a\\nb\\u001b[31mccc')
    assert "…" in line
    assert line.isprintable()


def test_an_eui_is_asked_for(write):
    file = write("[server]\n")
    assert problems(file) == [
        f"{file}: server.eui: is missing, expected an EUI64 of 16 hexadecimal digits; "
        "`bssci init` makes one"
    ]


def test_invalid_toml_is_told_with_its_line(write):
    file = write("[server]\nport = = 1\n")
    (line,) = problems(file)
    assert line.startswith(f"{file}: is not valid TOML: ")
    assert "line 2" in line


def test_a_file_that_is_no_text_is_a_problem(write, folder):
    file = write("")
    file.write_bytes(b"\xff\xfe")
    assert problems(file) == [f"{file}: cannot be read: not UTF-8 (byte 0)"]


def test_a_file_without_end_is_a_problem():
    assert problems(Path("/dev/zero")) == ["/dev/zero: cannot be read: longer than 1048576 bytes"]


def test_a_file_that_may_not_be_read_is_a_problem(write, folder):
    folder.mkdir()
    os.symlink("sc.toml", folder / "sc.toml")
    assert problems(folder / "sc.toml") == [
        f"{folder / 'sc.toml'}: cannot be read: Too many levels of symbolic links"
    ]


def test_a_file_that_is_not_there_is_a_problem_with_advice(folder):
    file = folder / "sc.toml"
    assert problems(file) == [f"{file}: does not exist; make one with `bssci init`"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "idle_ping = 60\n",
            "server.idle_ping: found 60 s, expected shorter than server.idle_timeout, "
            "which is 60 s",
        ),
        (
            "idle_timeout = 10\n",
            "server.idle_ping: found 20 s, expected shorter than server.idle_timeout, "
            "which is 10 s",
        ),
        (
            '[auto_detach]\nwarning_timeout = "4d"\n',
            "auto_detach.warning_timeout: found 345600 s, expected shorter than "
            "auto_detach.timeout, which is 259200 s",
        ),
        (
            "[dedup]\nmemory = 1\n",
            "dedup.delay: found 2 s, expected not longer than dedup.memory, which is 1 s",
        ),
        (
            '[mqtt]\nca_file = "ca.pem"\n',
            "mqtt.ca_file: is set without mqtt.tls; it is used with TLS only",
        ),
        (
            '[mqtt]\ntls = true\ncert_file = "c.pem"\n',
            "mqtt.cert_file: is set without mqtt.key_file; a certificate needs its key",
        ),
        (
            '[mqtt]\ntls = true\nkey_file = "k.pem"\n',
            "mqtt.key_file: is set without mqtt.cert_file; a key needs its certificate",
        ),
        (
            '[mqtt]\npassword = "p"\n',
            "mqtt.password: is set without mqtt.username; MQTT knows no password without a user",
        ),
    ],
)
def test_values_that_do_not_go_together_are_a_problem(write, text, words):
    file = write(EUI + text)
    assert problems(file) == [f"{file}: {words}"]


def test_equal_times_are_fine_where_longer_is_not(write):
    assert load(write(EUI + "[dedup]\nmemory = 2\n")).dedup.memory == 2


def test_a_value_that_cannot_be_read_is_not_compared(write):
    file = write(EUI + 'idle_ping = "x"\nidle_timeout = 1\n')
    assert len(problems(file)) == 1


def test_the_overlay_cannot_move_itself(write):
    file = write(EUI)
    overlay = write('[store]\npath = "other"\n', "state/overrides.toml")
    words = f"{overlay}: store.path: cannot be set here, beside the database; set it in sc.toml"
    assert problems(file) == [words]
    # What hides it today may be gone tomorrow.
    assert problems(file, {"BSSCI_STORE_PATH": "state/bssci.db"}) == [words]


def test_a_broken_overlay_is_named(write):
    file = write(EUI)
    overlay = write("[", "state/overrides.toml")
    assert problems(file)[0].startswith(f"{overlay}: is not valid TOML")


def test_an_overlay_can_be_tried_before_it_is_there(write, folder):
    file = write(EUI)
    overlay = write('[log]\nlevel = "debug"\n', "state/overrides.toml")
    config = load_config(file, environ={}, overlay={"server.port": 1})
    assert (config.server.port, config.log.level) == (1, "info")
    assert config.origins["server.port"] == Origin("overlay", str(overlay))
    with pytest.raises(ConfigError) as caught:
        load_config(file, environ={}, overlay={"server.port": "x", "port": 1})
    assert [str(problem) for problem in caught.value.problems] == [
        f'{overlay}: server.port: found "x", expected a whole number from 0 to 65535',
        f"{overlay}: port: is unknown; did you mean mqtt.port?",
    ]


def test_an_overlay_is_read_as_it_is(write, folder):
    overlay = write('log = 5\n[mqtt]\nport = "x"\nname = "y"\n', "state/overrides.toml")
    assert read_overlay(overlay) == {"log": 5, "mqtt.port": "x", "mqtt.name": "y"}
    assert read_overlay(folder / "nothing.toml") == {}


def test_an_overlay_lies_beside_the_database(write, folder):
    config = load(write(EUI + '[store]\npath = "elsewhere/other.db"'))
    assert overlay_file(config) == folder / "elsewhere/overrides.toml"


def test_an_overlay_that_cannot_be_read_is_an_error(write):
    overlay = write("[", "state/overrides.toml")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_overlay(overlay)


def test_an_error_has_the_exit_code_of_a_configuration_and_one_line_a_problem():
    error = ConfigError([Problem("sc.toml", "server.port", "x"), Problem("sc.toml", "", "y")])
    assert (error.exit_code, str(error)) == (2, "sc.toml: server.port: x\nsc.toml: y")


# --- finding ---


def test_sc_toml_is_looked_for_here_then_with_the_user(write, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {"XDG_CONFIG_HOME": str(folder)}
    theirs = write(EUI, "bssci/sc.toml")
    assert find_config(environ) == theirs
    (tmp_path / "sc.toml").write_text(EUI)
    assert find_config(environ) == tmp_path / "sc.toml"
    assert load(None, environ).file == tmp_path / "sc.toml"


def test_the_folder_of_the_user_is_usually_in_the_home_folder(write, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    file = write(EUI, ".config/bssci/sc.toml")
    assert find_config() == file


def test_without_sc_toml_it_is_said_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        find_config({"XDG_CONFIG_HOME": "/nowhere"})
    assert str(caught.value) == (
        "sc.toml: not found; looked for sc.toml, /nowhere/bssci/sc.toml, /etc/bssci/sc.toml. "
        "Make one with `bssci init`, or name it with -c FILE"
    )


# --- showing and writing ---


def test_everything_is_shown_with_its_origin_and_secrets_are_masked(write):
    file = write(EUI + '[mqtt]\nusername = "u"\npassword = "hunter2"\n')
    config = load(file)
    shown = {key.full_name: (value, origin) for key, value, origin in describe(config)}
    assert set(shown) == set(KEYS)
    assert shown["mqtt.password"] == ("****", Origin("file", str(file)))
    assert shown["server.eui"] == ("70B3D59CD0000001", Origin("file", str(file)))
    assert shown["store.keep_uplinks"] == ("30d", Origin("default"))
    revealed = {key.full_name: value for key, value, _ in describe(config, reveal=True)}
    assert revealed["mqtt.password"] == "hunter2"


def test_programs_are_told_all_about_a_setting(write):
    file = write(EUI + '[mqtt]\nusername = "u"\npassword = "hunter2"\n')
    entries = {each[0].full_name: entry(*each) for each in describe(load(file))}
    assert entries["mqtt.password"] == {
        "key": "mqtt.password",
        "value": "****",
        "origin": str(file),
        "default": "",
        "help": KEYS["mqtt.password"].help,
        "secret": True,
        "runtime": False,
    }
    assert entries["log.level"] == {
        "key": "log.level",
        "value": "info",
        "origin": "default",
        "default": "info",
        "help": KEYS["log.level"].help,
        "secret": False,
        "runtime": True,
    }
    assert (entries["server.eui"]["default"], entries["log.file"]["default"]) == (None, "")


def test_an_unknown_name_is_like_a_known_one_or_not():
    assert suggestion("server.prot", KEYS) == "; did you mean server.port?"
    assert suggestion("xyz", KEYS) == ""


def test_what_was_not_read_from_a_file_is_shown_as_default():
    assert {origin for _, _, origin in describe(Config(server=Server(eui=1)))} == {
        Origin("default")
    }


def uncommented(text: str) -> str:
    """As when somebody takes the `#` from every key."""
    return "\n".join(
        line.removeprefix("#") if line[:1] == "#" and line[1:2] != " " else line
        for line in text.splitlines()
    )


def test_the_commented_keys_are_the_defaults(write):
    text = uncommented(render_config({"server.eui": 1}))
    assert load(write(text)) == load(write(render_config({"server.eui": 1})))
    assert {
        f"{section}.{name}" for section, keys in tomllib.loads(text).items() for name in keys
    } == set(KEYS)


def test_every_key_is_explained_within_100_columns():
    text = render_config()
    assert [line for line in text.splitlines() if len(line) > 100] == []
    words = " ".join(line.removeprefix("# ") for line in text.splitlines())
    assert [key.full_name for key in KEYS.values() if key.help not in words] == []


@given(
    st.fixed_dictionaries(
        {"server.eui": st.integers(0, 2**64 - 1)},
        optional={
            "server.name": st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\0")
            ),
            "server.port": st.integers(0, 65535),
            "mqtt.enabled": st.booleans(),
            "store.min_free": st.integers(0, 2**53),
        },
    )
)
def test_what_is_written_is_read_again(tmp_path_factory, values):
    file = tmp_path_factory.mktemp("sc") / "sc.toml"
    file.write_text(render_config(values), newline="")
    config = load(file)
    assert {
        name: getattr(getattr(config, KEYS[name].section), KEYS[name].name) for name in values
    } == (values)


# --- in code ---

CODE_EUI = "70B3D59CD0000001"


def test_in_code_everything_is_set_as_in_a_file(write, folder):
    made = make_config(
        folder,
        server_eui=CODE_EUI,
        server_port=0,
        store_keep_uplinks="7d",
        auto_detach_enabled=False,
        tls_ca_file=Path("ca.pem"),
        **{"mqtt.base_topic": "mioty/"},
    )
    file = write(
        f'[server]\neui = "{CODE_EUI}"\nport = 0\n[store]\nkeep_uplinks = "7d"\n'
        '[auto_detach]\nenabled = false\n[tls]\nca_file = "ca.pem"\n'
        '[mqtt]\nbase_topic = "mioty"\n'
    )
    assert made == load(file)
    assert (made.file, made.tls.ca_file) == (None, folder / "ca.pem")
    assert str(made.origins["server.port"]) == "code"
    assert str(made.origins["server.host"]) == "default"


def test_in_code_no_environment_and_no_overlay_is_asked(folder, monkeypatch):
    monkeypatch.setenv("BSSCI_SERVER_PORT", "7")
    (folder / "state").mkdir(parents=True)
    (folder / "state" / OVERLAY_NAME).write_text("[server]\nport = 8\n")
    assert make_config(folder, server_eui=CODE_EUI).server.port == 16018


def test_in_code_all_problems_are_told_at_once_too(folder):
    with pytest.raises(ConfigError) as caught:
        make_config(
            folder,
            server_prot=1,
            server_port="abc",
            server_idle_ping=100,
            mqtt_password_file=folder / "none",
        )
    assert [str(problem) for problem in caught.value.problems] == [
        "server_prot: is unknown; did you mean server_port?",
        'code: server.port: found "abc", expected a whole number from 0 to 65535',
        f"{folder / 'none'}: mqtt.password_file: cannot be read: No such file or directory",
        "server.eui: is missing, expected an EUI64 of 16 hexadecimal digits; `bssci init` makes "
        "one",
        "code: server.idle_ping: found 100 s, expected shorter than server.idle_timeout, which is "
        "60 s",
    ]
