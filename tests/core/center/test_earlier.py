import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.commands import EARLIER_NAMES
from bssci.core.center.earlier import Earlier, Env, read_env, translate

# As it came with the earlier service.
EXAMPLE = """
# TLS Server Configuration
LISTEN_HOST=0.0.0.0
LISTEN_PORT=8000

CERT_FILE=certs/service_center_cert.pem
KEY_FILE=certs/service_center_key.pem
CA_FILE=certs/ca_cert.pem

MQTT_BROKER=localhost
MQTT_PORT=1883
MQTT_USERNAME=mioty_user
MQTT_PASSWORD=secure=password
BASE_TOPIC=mioty

SENSOR_CONFIG_FILE=endpoints.json
STATUS_INTERVAL=300
DEDUPLICATION_DELAY=2.0

WEB_PORT=5000

AUTO_DETACH_ENABLED=true
AUTO_DETACH_TIMEOUT=86400          # 24 hours

SECRET_KEY=your-secret-key-here
"""


# --- the file ---


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("  A  =  b c  ", "b c"),
        ("export A=b", "b"),
        ("export\tA = b", "b"),
        ("A=", ""),
        ("A= ", ""),
        ("A=b # comment", "b"),
        ("A=b\t# comment", "b"),
        ("A=b#c", "b#c"),
        ("A= # comment", ""),
        ("A=#c", ""),
        ("A=b=c", "b=c"),
        ("A='b # c'", "b # c"),
        ("A='b' # comment", "b"),
        (r"A='it\'s \\ \n'", r"it's \ \n"),
        ('A="b # c"# comment', "b # c"),
        (r'A="a\"b\\c\td"', 'a"b\\c\td'),
        (r'A="\x"', r"\x"),
        ('A=""', ""),
        ("A=b'c", "b'c"),
        ('A="two\nlines"', "two\nlines"),
        ("\ufeffA=b", "b"),
        ("A=ü€", "ü€"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_a_value_is_what_python_dotenv_takes_it_for(line, value, end):
    assert read_env(line.replace("\n", end or "\n") + end) == Env({"A": value})


def test_comments_and_empty_lines_are_nothing():
    assert read_env("\n  # A=b\n\t\n#\n") == Env()


def test_the_last_assignment_of_a_name_counts():
    assert read_env("A=1\nB=2\nA=3\n") == Env({"A": "3", "B": "2"})


@pytest.mark.parametrize("line", ["hello", "export A", "=b", "A b=c", "'A'=b", 'A="b', "A='b'c"])
def test_a_line_that_assigns_nothing_is_named_by_its_number(line):
    assert read_env(f'A="\n\n"\n\n{line}\nB=1') == Env({"A": "\n\n", "B": "1"}, (5,))


@given(st.text())
def test_no_text_is_too_strange(text):
    assert all(0 < line <= len(text) + 1 for line in read_env(text).unread)


@given(st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"])))
def test_what_is_quoted_is_any_text(text):
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert read_env(f'A="{quoted}"') == Env({"A": text})


def test_no_value_is_in_a_repr():
    env = read_env("MQTT_PASSWORD=hunter2\n")
    assert "hunter2" not in repr(env) + repr(translate(env))


# --- what it means ---


def test_the_example_of_the_earlier_service_is_understood():
    assert translate(read_env(EXAMPLE)) == Earlier(
        settings={
            "server.host": "0.0.0.0",
            "server.port": "8000",
            "tls.cert_file": "certs/service_center_cert.pem",
            "tls.key_file": "certs/service_center_key.pem",
            "tls.ca_file": "certs/ca_cert.pem",
            "mqtt.host": "localhost",
            "mqtt.port": "1883",
            "mqtt.username": "mioty_user",
            "mqtt.password": "secure=password",
            "mqtt.base_topic": "mioty",
            "status.interval": "300",
            "dedup.delay": "2.0",
            "auto_detach.enabled": "true",
            "auto_detach.timeout": "86400",
            "mqtt.enabled": "true",
            "auto_detach.warning_timeout": "43200",
        },
        sources={
            "server.host": "LISTEN_HOST",
            "server.port": "LISTEN_PORT",
            "tls.cert_file": "CERT_FILE",
            "tls.key_file": "KEY_FILE",
            "tls.ca_file": "CA_FILE",
            "mqtt.host": "MQTT_BROKER",
            "mqtt.port": "MQTT_PORT",
            "mqtt.username": "MQTT_USERNAME",
            "mqtt.password": "MQTT_PASSWORD",
            "mqtt.base_topic": "BASE_TOPIC",
            "status.interval": "STATUS_INTERVAL",
            "dedup.delay": "DEDUPLICATION_DELAY",
            "auto_detach.enabled": "AUTO_DETACH_ENABLED",
            "auto_detach.timeout": "AUTO_DETACH_TIMEOUT",
        },
        assumed={
            "mqtt.enabled": "the earlier service always has a broker",
            "auto_detach.warning_timeout": "half of AUTO_DETACH_TIMEOUT, which is short",
        },
        faults={},
        left=("WEB_PORT", "SECRET_KEY"),
        sensors_file="endpoints.json",
    )


def test_without_a_topic_the_one_of_the_earlier_service_is_kept():
    assert translate(Env({"LISTEN_PORT": "1"})) == Earlier(
        settings={"server.port": "1", "mqtt.enabled": "true", "mqtt.base_topic": "bssci"},
        sources={"server.port": "LISTEN_PORT"},
        assumed={
            "mqtt.enabled": "the earlier service always has a broker",
            "mqtt.base_topic": "the earlier service's topic without BASE_TOPIC",
        },
        faults={},
        left=(),
        sensors_file=None,
    )


def test_an_empty_broker_is_none():
    assert translate(Env({"MQTT_BROKER": "", "BASE_TOPIC": "x"})) == Earlier(
        settings={"mqtt.host": "localhost", "mqtt.enabled": "false", "mqtt.base_topic": "x"},
        sources={"mqtt.base_topic": "BASE_TOPIC"},
        assumed={"mqtt.enabled": "MQTT_BROKER is empty", "mqtt.host": "MQTT_BROKER is empty"},
        faults={},
        left=(),
        sensors_file=None,
    )


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({"AUTO_DETACH_TIMEOUT": "129600"}, "64800"),
        ({"AUTO_DETACH_TIMEOUT": "0.5"}, "0.25"),
        ({"AUTO_DETACH_TIMEOUT": "129601"}, None),
        ({"AUTO_DETACH_TIMEOUT": "0"}, None),
        ({"AUTO_DETACH_TIMEOUT": "nan"}, None),
        ({"AUTO_DETACH_TIMEOUT": "a day"}, None),
        ({"AUTO_DETACH_TIMEOUT": "5", "AUTO_DETACH_WARNING_TIMEOUT": "9"}, "9"),
        ({}, None),
    ],
)
def test_a_short_timeout_without_a_warning_time_gets_a_shorter_one(variables, warning):
    assert translate(Env(variables)).settings.get("auto_detach.warning_timeout") == warning


def test_a_value_that_refers_to_another_is_a_fault():
    earlier = translate(Env({"HOST": "x", "MQTT_BROKER": "${HOST}", "OTHER": "${HOST}"}))
    assert earlier.faults == {
        "MQTT_BROKER": "refers to another variable with ${…}, expected the value itself"
    }
    assert earlier.left == ("HOST", "OTHER")


def test_every_variable_of_the_earlier_service_is_a_setting_here():
    earlier = translate(Env(dict.fromkeys(EARLIER_NAMES, "1")))
    assert earlier.sources == {key: name for name, key in EARLIER_NAMES.items()}
    assert earlier.left == ()
