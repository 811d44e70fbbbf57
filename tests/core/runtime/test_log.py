"""Log lines: what an operator reads, and what a machine reads."""

import io
import json
import logging
from datetime import UTC, timedelta, timezone

import pytest

from bssci.core.runtime.log import ConsoleFormatter, JsonFormatter, logging_to, time_zone

BERLIN_SUMMER = timezone(timedelta(hours=2))


def a_record(**fields):
    record = logging.LogRecord("bssci.room", logging.WARNING, "f", 1, "lost %d", (3,), None)
    record.created = 1_756_193_850.75
    vars(record).update(fields)
    return record


def test_a_console_line_has_time_with_zone_level_words_and_fields():
    line = ConsoleFormatter(BERLIN_SUMMER).format(a_record(bs_eui="FCA84A030000127C"))
    assert line == ("2025-08-26 09:37:30.750+02:00 WARNING lost 3  bs_eui=FCA84A030000127C")


def test_a_json_line_is_one_object_with_the_fields_beside_the_words():
    line = JsonFormatter(UTC).format(a_record(bs_eui="FCA84A030000127C", reason="version"))
    assert json.loads(line) == {
        "time": "2025-08-26T07:37:30.750+00:00",
        "level": "warning",
        "logger": "bssci.room",
        "message": "lost 3",
        "bs_eui": "FCA84A030000127C",
        "reason": "version",
    }


@pytest.mark.parametrize("form", [ConsoleFormatter(UTC), JsonFormatter(UTC)])
def test_a_fault_comes_with_its_traceback(form):
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    record = a_record(exc_info=(caught.type, caught.value, caught.tb))
    assert "ZeroDivisionError: division by zero" in form.format(record)


def test_time_zones_are_local_utc_or_of_the_iana_database():
    assert time_zone("local") is None
    assert time_zone("utc") is UTC
    assert str(time_zone("Europe/Berlin")) == "Europe/Berlin"


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd"])
def test_an_unknown_time_zone_is_named(name):
    with pytest.raises(ValueError) as caught:
        time_zone(name)
    assert str(caught.value) == f"{name!r} is no time zone: expected local, UTC or Area/City"


def test_a_log_file_may_be_rotated_while_it_is_written(tmp_path):
    file = tmp_path / "logs" / "bssci.log"
    with logging_to(level="info", zone=UTC, file=file):
        logging.getLogger("bssci").info("before")
        file.rename(tmp_path / "logs" / "bssci.log.1")
        logging.getLogger("bssci").info("after")
        logging.getLogger("bssci").debug("not shown")
    lines = file.read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["after"]


@pytest.mark.parametrize(("is_terminal", "begins"), [(True, "20"), (False, "{")])
def test_a_terminal_gets_text_and_a_pipe_gets_json(monkeypatch, is_terminal: bool, begins):
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    stream = Stream()
    monkeypatch.setattr("sys.stderr", stream)
    with logging_to(level="info"):
        logging.getLogger("bssci").info("hello")
    assert stream.getvalue().startswith(begins)


def test_afterwards_logging_is_as_it_was(tmp_path):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    with logging_to(level="debug", file=tmp_path / "log"):
        assert root.level == logging.DEBUG
    assert (root.level, list(root.handlers)) == before
