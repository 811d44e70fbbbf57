"""The `.env` of the earlier service: what its variables are called here.

It was read with python-dotenv, so that its rules for quotes, escapes and comments hold. How the
values are spelled, and whether they can be, is for others to judge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bssci.core.center.commands import EARLIER_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Earlier", "Env", "read_env", "translate"]

SENSORS_FILE = "SENSOR_CONFIG_FILE"

# What the earlier service did without being told, where that differs from what is done here.
BASE_TOPIC = "bssci"

# In seconds; the same in both. Without a shorter one of its own, a timeout needs a shorter warning.
WARNING_TIMEOUT = 129600.0


@dataclass(frozen=True, slots=True)
class Env:
    """What a `.env` holds.

    Attributes:
        variables: by name, in order; the last one of a name counts.
        unread: the numbers of lines that assign nothing and are no comments.
    """

    variables: dict[str, str] = field(default_factory=dict, repr=False)
    unread: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the variables come to.

    Attributes:
        settings: texts by `section.name`; one of them may be a password.
        sources: the variable that each came from; those that came from none are `assumed`.
        assumed: by `section.name`, why it is set although no variable says so.
        faults: by variable, what cannot be taken over and must not be left out.
        left: the variables that mean nothing here.
        sensors_file: where the sensors are; None if that is not said.
    """

    settings: dict[str, str] = field(repr=False)
    sources: dict[str, str]
    assumed: dict[str, str]
    faults: dict[str, str]
    left: tuple[str, ...]
    sensors_file: str | None


# --- the file ---

_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([^\s=#'\"]+)[ \t]*=[ \t]*")
_QUOTED = re.compile(
    r"""(?:'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)")[ \t]*(?:\#[^\n]*)?(?=\n|\Z)""", re.DOTALL
)
_COMMENT = re.compile(r"(?:^|[ \t])#")
_ESCAPE = re.compile(r"\\([\\'\"abfnrtv])")
_ESCAPES = dict(zip("\\'\"abfnrtv", "\\'\"\a\b\f\n\r\t\v", strict=True))


def read_env(text: str) -> Env:
    """The variables in a `.env`."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    variables: dict[str, str] = {}
    unread: list[int] = []
    start, line = 0, 1
    while start < len(text):
        end = _line_end(text, start)
        name, value, end = _assignment(text, start, end)
        if value is not None:
            variables[name] = value
        elif not _is_blank(text[start:end]):
            unread.append(line)
        line += text.count("\n", start, end + 1)
        start = end + 1
    return Env(variables, tuple(unread))


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _is_blank(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _assignment(text: str, start: int, end: int) -> tuple[str, str | None, int]:
    """A name, its value and the end of the line; that may be a later one if there are quotes.

    The value is None if nothing is assigned, or if the quotes are not closed.
    """
    found = _NAME.match(text, start, end)
    return (found[1], *_value(text, found.end(), end)) if found else ("", None, end)


def _value(text: str, start: int, end: int) -> tuple[str | None, int]:
    if quoted := _QUOTED.match(text, start):
        single, double = quoted.groups()
        if single is not None:
            return re.sub(r"\\([\\'])", r"\1", single), quoted.end()
        return _ESCAPE.sub(lambda found: _ESCAPES[found[1]], double), quoted.end()
    if text.startswith(("'", '"'), start, end):
        return None, end
    bare = text[start:end]
    comment = _COMMENT.search(bare)
    return (bare[: comment.start()] if comment else bare).strip(), end


# --- what it means ---


def translate(env: Env) -> Earlier:
    """The settings that do here what the variables did there."""
    known = {name: text for name, text in env.variables.items() if name in EARLIER_NAMES}
    settings = {EARLIER_NAMES[name]: text for name, text in known.items()}
    assumed: dict[str, str] = {}
    for name, text, why in list(_assumptions(settings)):
        settings[name] = text
        assumed[name] = why
    return Earlier(
        settings,
        {EARLIER_NAMES[name]: name for name in known if EARLIER_NAMES[name] not in assumed},
        assumed,
        {name: _REFERENCE for name, text in known.items() if "${" in text},
        tuple(name for name in env.variables if name not in known and name != SENSORS_FILE),
        env.variables.get(SENSORS_FILE),
    )


_REFERENCE = "refers to another variable with ${…}, expected the value itself"


def _assumptions(settings: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """What was so without a variable: setting, value, why."""
    if settings.get("mqtt.host") == "":
        yield "mqtt.enabled", "false", "MQTT_BROKER is empty"
        yield "mqtt.host", "localhost", "MQTT_BROKER is empty"
    else:
        yield "mqtt.enabled", "true", "the earlier service always has a broker"
    if "mqtt.base_topic" not in settings:
        yield "mqtt.base_topic", BASE_TOPIC, "the earlier service's topic without BASE_TOPIC"
    timeout = settings.get("auto_detach.timeout", "")
    if "auto_detach.warning_timeout" not in settings and 0 < _number(timeout) <= WARNING_TIMEOUT:
        half = f"{_number(timeout) / 2:g}"
        yield "auto_detach.warning_timeout", half, "half of AUTO_DETACH_TIMEOUT, which is short"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
