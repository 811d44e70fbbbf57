"""Log lines for the operator: console text or JSON, with time zone and fields.

Rooms log with plain `logging` and put what a line is about into fields:
`logger.info("connected", extra={"bs_eui": "..."})`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from datetime import UTC, datetime, tzinfo
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Literal
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ConsoleFormatter", "JsonFormatter", "logging_to", "time_zone"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def time_zone(name: str) -> tzinfo | None:
    """The time zone of a name: `local`, `UTC` or one of the IANA names; None is local time.

    Raises:
        ValueError: there is no such time zone.
    """
    if name == "local":
        return None
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{name!r} is no time zone: expected local, UTC or Area/City") from error


class _Formatter(logging.Formatter):
    def __init__(self, zone: tzinfo | None = None) -> None:
        super().__init__()
        self._zone = zone

    def _time(self, record: logging.LogRecord) -> datetime:
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.astimezone(self._zone)

    def _trouble(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class ConsoleFormatter(_Formatter):
    """One line for a person: time, level, words, fields."""

    def format(self, record: logging.LogRecord) -> str:
        moment = self._time(record).isoformat(sep=" ", timespec="milliseconds")
        fields = "".join(f"  {name}={value}" for name, value in _fields(record).items())
        line = f"{moment} {record.levelname:<7} {record.getMessage()}{fields}"
        trouble = self._trouble(record)
        return f"{line}\n{trouble}" if trouble else line


class JsonFormatter(_Formatter):
    """One JSON object for a machine: `time`, `level`, `logger`, `message` and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self._time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | _fields(record)
        if trouble := self._trouble(record):
            line["exception"] = trouble
        return json.dumps(line, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


@contextlib.contextmanager
def logging_to(
    *,
    level: str,
    form: Literal["console", "json", ""] = "",
    zone: tzinfo | None = None,
    file: Path | None = None,
) -> Iterator[None]:
    """Log to standard error, or into a file that may be rotated, until the end of the block.

    Args:
        form: empty means console text on a terminal, JSON elsewhere.

    Raises:
        OSError: the file cannot be written.
    """
    handler: logging.Handler
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = WatchedFileHandler(file, encoding="utf-8")
    else:
        handler = logging.StreamHandler(sys.stderr)
    if not form:
        form = "console" if file is None and sys.stderr.isatty() else "json"
    handler.setFormatter(JsonFormatter(zone) if form == "json" else ConsoleFormatter(zone))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()
