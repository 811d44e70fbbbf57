import dataclasses
from pathlib import Path

import pytest

from bssci.core.runtime import sections
from bssci.core.runtime.sections import (
    KEYS,
    MASK,
    RUNTIME_KEYS,
    SECTIONS,
    Config,
    Mqtt,
    Origin,
    Runtime,
    Server,
)


def test_every_section_of_a_config_is_in_the_table():
    declared = {each.name for each in dataclasses.fields(Config)} - {"file", "origins"}
    assert declared == set(SECTIONS)


def test_every_section_and_every_key_is_explained_in_sentences():
    texts = [section.__doc__ or "" for section in SECTIONS.values()]
    texts += [key.help for key in KEYS.values()]
    assert [text for text in texts if text[0].islower() or not text.endswith((".", ".)"))] == []


def test_every_default_is_a_value_that_its_key_takes():
    written = {
        name: key.kind.write(key.default) for name, key in KEYS.items() if not key.is_required
    }
    assert {name: KEYS[name].kind.read(value) for name, value in written.items()} == {
        name: KEYS[name].default for name in written
    }


def test_only_the_eui_has_no_default():
    assert [name for name, key in KEYS.items() if key.is_required] == ["server.eui"]


def test_what_is_secret_is_in_no_repr():
    assert [name for name, key in KEYS.items() if key.is_secret] == ["mqtt.password"]
    config = Config(server=Server(eui=1), mqtt=Mqtt(password="hunter2"))
    assert "hunter2" not in repr(config)


def test_a_secret_is_shown_masked_unless_it_is_revealed_or_not_set():
    key = KEYS["mqtt.password"]
    assert (key.shown("hunter2"), key.shown("hunter2", reveal=True), key.shown("")) == (
        MASK,
        "hunter2",
        "",
    )


def test_what_a_running_service_takes_over_is_part_of_the_contract():
    by_time = {
        when: {name for name, key in KEYS.items() if key.runtime is when} for when in Runtime
    }
    assert by_time == {
        Runtime.AT_ONCE: {
            "store.keep_uplinks",
            "store.min_free",
            "dedup.delay",
            "dedup.early",
            "dedup.memory",
            "dedup.max_remembered",
            "sensors.unknown",
            "auto_detach.enabled",
            "auto_detach.timeout",
            "auto_detach.warning_timeout",
            "auto_detach.check_interval",
            "auto_detach.reattach",
            "status.interval",
            "downlinks.lifetime",
            "downlinks.max_per_sensor",
            "log.level",
        },
        Runtime.NEXT_CONNECTION: {
            "server.handshake_timeout",
            "server.idle_ping",
            "server.idle_timeout",
            "server.write_timeout",
            "server.operation_timeout",
            "server.max_frame",
            "tls.cert_file",
            "tls.key_file",
            "tls.ca_file",
            "tls.min_version",
        },
    }
    assert by_time[Runtime.AT_ONCE] | by_time[Runtime.NEXT_CONNECTION] == RUNTIME_KEYS


def test_what_waits_for_the_next_connection_says_so():
    words = Runtime.NEXT_CONNECTION.value
    assert {name for name, key in KEYS.items() if words in key.help} == {
        name for name, key in KEYS.items() if key.runtime is Runtime.NEXT_CONNECTION
    }


def test_values_are_shown_as_they_are_written():
    assert KEYS["server.eui"].shown(1) == "0000000000000001"
    assert KEYS["store.keep_uplinks"].shown(86400.0) == "1d"
    assert KEYS["tls.ca_file"].shown(Path("/a/b")) == "/a/b"


@pytest.mark.parametrize(
    ("name", "variable", "default", "unit"),
    [
        ("server.port", "BSSCI_SERVER_PORT", "16018", ""),
        ("server.eui", "BSSCI_SERVER_EUI", "", ""),
        ("server.handshake_timeout", "BSSCI_SERVER_HANDSHAKE_TIMEOUT", "30.0", "s"),
        ("auto_detach.timeout", "BSSCI_AUTO_DETACH_TIMEOUT", "259200", "s"),
        ("store.keep_uplinks", "BSSCI_STORE_KEEP_UPLINKS", '"30d"', "s"),
        ("store.min_free", "BSSCI_STORE_MIN_FREE", '"100MB"', "bytes"),
        ("mqtt.password_file", "BSSCI_MQTT_PASSWORD_FILE", '""', ""),
        ("mqtt.enabled", "BSSCI_MQTT_ENABLED", "false", ""),
    ],
)
def test_a_key_knows_its_variable_default_and_unit(name, variable, default, unit):
    key = KEYS[name]
    assert (key.variable, key.default_text, key.unit) == (variable, default, unit)


def test_no_two_keys_share_a_variable():
    assert len({key.variable for key in KEYS.values()}) == len(KEYS)


def test_an_origin_is_named_by_its_place_or_its_layer():
    assert str(Origin("default")) == "default"
    assert str(Origin("environment", "BSSCI_SERVER_PORT")) == "BSSCI_SERVER_PORT"


def test_the_contract_of_names_and_defaults_is_kept():
    """These are published: programs and people rely on them."""
    assert {name: key.default_text for name, key in KEYS.items()} == {
        "server.host": '"0.0.0.0"',
        "server.port": "16018",
        "server.eui": "",
        "server.name": '"bssci"',
        "server.max_connections": "5000",
        "server.max_half_open": "1000",
        "server.max_half_open_per_address": "100",
        "server.handshake_timeout": "30.0",
        "server.idle_ping": "20.0",
        "server.idle_timeout": "60.0",
        "server.write_timeout": "10.0",
        "server.operation_timeout": "30.0",
        "server.max_frame": "1048576",
        "tls.cert_file": '"certs/service_center_cert.pem"',
        "tls.key_file": '"certs/service_center_key.pem"',
        "tls.ca_file": '"certs/ca_cert.pem"',
        "tls.identity": '"match"',
        "tls.min_version": '"1.2"',
        "mqtt.enabled": "false",
        "mqtt.host": '"localhost"',
        "mqtt.port": "1883",
        "mqtt.username": '""',
        "mqtt.password": '""',
        "mqtt.password_file": '""',
        "mqtt.client_id": '""',
        "mqtt.base_topic": '"mioty"',
        "mqtt.qos": "1",
        "mqtt.keepalive": "60",
        "mqtt.tls": "false",
        "mqtt.ca_file": '""',
        "mqtt.cert_file": '""',
        "mqtt.key_file": '""',
        "mqtt.legacy_topics": "true",
        "mqtt.max_inflight": "200",
        "mqtt.reconnect_max": "20.0",
        "store.path": '"state/bssci.db"',
        "store.keep_uplinks": '"30d"',
        "store.min_free": '"100MB"',
        "dedup.delay": "2.0",
        "dedup.early": "true",
        "dedup.memory": "600.0",
        "dedup.max_remembered": "1000000",
        "sensors.unknown": '"publish"',
        "auto_detach.enabled": "true",
        "auto_detach.timeout": "259200",
        "auto_detach.warning_timeout": "129600",
        "auto_detach.check_interval": "3600",
        "auto_detach.reattach": "true",
        "status.interval": "300",
        "downlinks.lifetime": "86400",
        "downlinks.max_per_sensor": "100",
        "control.socket": '"state/control.sock"',
        "metrics.file": '""',
        "log.level": '"info"',
        "log.format": '""',
        "log.timezone": '"local"',
        "log.file": '""',
    }


def test_the_module_lists_every_section():
    assert {each.__name__ for each in SECTIONS.values()} <= set(sections.__all__)
