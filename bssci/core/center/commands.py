"""The MQTT vocabulary, inbound: what a message asks for.

What users of the earlier service publish goes on working: its topics, its raw words beside JSON,
and the names of its settings. Anybody who may publish can send anything, so whatever is no command
becomes a `Malformed` that says what was found. Its words never hold what could be a network key.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from math import isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NoReturn

from bssci.core.center.end_points import KEY_MASK, shown
from bssci.core.center.topics import Topics
from bssci.core.protocol.errors import Code, InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "EARLIER_NAMES",
    "MAX_PAYLOAD",
    "MAX_REF",
    "Attach",
    "ChangeSettings",
    "Command",
    "Configure",
    "Detach",
    "Inbox",
    "Malformed",
    "MalformedSettings",
    "Order",
    "QueryStatus",
    "Ref",
    "subscriptions",
]

# The longest command is a sensor with every parameter, below 2 KiB.
MAX_PAYLOAD = 64 * 1024

MAX_REF = 128  # characters, or digits of a number
MAX_DEPTH = 8  # of JSON; a list of tags in an object is 3
MAX_LEVEL = 40  # characters of the level where an EUI should be, to be answered below it

EARLIER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "LISTEN_HOST": "server.host",
        "LISTEN_PORT": "server.port",
        "CERT_FILE": "tls.cert_file",
        "KEY_FILE": "tls.key_file",
        "CA_FILE": "tls.ca_file",
        "MQTT_BROKER": "mqtt.host",
        "MQTT_PORT": "mqtt.port",
        "MQTT_USERNAME": "mqtt.username",
        "MQTT_PASSWORD": "mqtt.password",
        "BASE_TOPIC": "mqtt.base_topic",
        "AUTO_DETACH_ENABLED": "auto_detach.enabled",
        "AUTO_DETACH_TIMEOUT": "auto_detach.timeout",
        "AUTO_DETACH_WARNING_TIMEOUT": "auto_detach.warning_timeout",
        "AUTO_DETACH_CHECK_INTERVAL": "auto_detach.check_interval",
        "STATUS_INTERVAL": "status.interval",
        "DEDUPLICATION_DELAY": "dedup.delay",
    }
)
"""What the settings of the earlier service are called here; units are the same."""


# --- what is asked -------------------------------------------------------------------------

Ref = str | int | float
"""What a client marks its command with, to know the answers by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Something is asked of one end point.

    Attributes:
        via_legacy: it came on a topic of the earlier service, and is answered there, too.
    """

    command: ClassVar[str]
    """What it is called in answers."""

    ep_eui: int
    ref: Ref | None = None
    via_legacy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure(Order):
    """Add this end point or change it, and attach it everywhere.

    Attributes:
        given: parameters as they came, for `end_point_of`; the network key is among them.
    """

    command: ClassVar[str] = "config"

    given: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach(Order):
    """Attach this end point everywhere."""

    command: ClassVar[str] = "attach"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach(Order):
    """Detach this end point everywhere."""

    command: ClassVar[str] = "detach"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryStatus(Order):
    """Tell how it is with this end point."""

    command: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSettings:
    """Change what is set.

    Attributes:
        values: as they came, by `section.key` (whether there is such a key is not checked); None
            takes back what was set. A password can be among them.
    """

    values: Mapping[str, object] = field(repr=False)
    ref: Ref | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A message about an end point that asks for nothing that can be done.

    Attributes:
        topics: where to answer; empty: nowhere, the topic names nobody who could be answered.
        error: what was found and what is expected.
        ep_eui: None: the topic names no end point.
    """

    topics: tuple[str, ...]
    error: str
    code: int = int(Code.EINVAL)
    ep_eui: int | None = None
    ref: Ref | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedSettings(Malformed):
    """The same about the settings."""


Command = Configure | Attach | Detach | QueryStatus | ChangeSettings

_Word = type[Attach] | type[Detach] | type[QueryStatus]
_WORDS: Mapping[str, _Word] = {kind.command: kind for kind in (Attach, Detach, QueryStatus)}
_EXPECTED = "attach, detach or status is expected"


# --- topics --------------------------------------------------------------------------------


def subscriptions(base: str, *, legacy: bool) -> tuple[str, ...]:
    """The topic filters of everything that `Inbox` understands; no two match the same topic.

    Args:
        legacy: also the command topics that the earlier service was promised to have.
    """
    base = Topics(base).base
    verbs = [f"{base}/ep/+/{verb}" for verb in ("config", "register", "cmd")]
    # The last one also matches `config/`: a level can be empty (MQTT 3.1.1, 4.7.1.3).
    filters = [*_with_and_without_slash(verbs), f"{base}/config", f"{base}/config/+"]
    if legacy:
        filters += _with_and_without_slash(["EP/+/cmd"])
    return tuple(filters)


def _with_and_without_slash(topics: list[str]) -> list[str]:
    return [topic + end for topic in topics for end in ("", "/")]


class Inbox:
    """Reads messages that came on the topics of `subscriptions`."""

    def __init__(self, base: str, *, legacy: bool) -> None:
        self._topics = Topics(base)
        self._legacy = legacy

    def parse(self, topic: str, payload: bytes) -> Command | Malformed | None:
        """What a message asks for; None: its topic is none of those that ask something.

        Our own answers on `config/response` come back here and are such a topic.
        """
        match topic.removesuffix("/").split("/"):
            case ["EP", name, "cmd"] if self._legacy:
                return self._order(name, "cmd", payload, via_legacy=True)
        if not topic.startswith(base := f"{self._topics.base}/"):
            return None
        match topic.removeprefix(base).removesuffix("/").split("/"):
            case ["ep", name, ("config" | "register" | "cmd") as verb]:
                return self._order(name, verb, payload, via_legacy=False)
            case ["config"]:
                return self._settings(payload)
            case ["config", name] if name != "response":
                return self._setting(name, payload)
        return None

    def _order(
        self, name: str, verb: str, payload: bytes, *, via_legacy: bool
    ) -> Command | Malformed:
        try:
            ep_eui = parse_eui(name)
        except InvalidEuiError as error:
            topics = self._topics.errors(name, via_legacy=via_legacy) if _is_decent(name) else ()
            found = str(error) if topics else "the topic names no EUI, and nobody to answer"
            return Malformed(topics=topics, error=found)
        try:
            if verb == "cmd":
                kind, ref = _command(_text(payload))
                return kind(ep_eui=ep_eui, ref=ref, via_legacy=via_legacy)
            given, ref = _parameters(_text(payload), ep_eui)
            return Configure(ep_eui=ep_eui, given=given, ref=ref)
        except _Refusal as refusal:
            topics = self._topics.errors(format_eui(ep_eui), via_legacy=via_legacy)
            return Malformed(topics=topics, error=str(refusal), ep_eui=ep_eui, ref=refusal.ref)

    def _settings(self, payload: bytes) -> ChangeSettings | MalformedSettings:
        try:
            given, ref = _object(_json(_text(payload)))
            return ChangeSettings(values=_values(given, ref), ref=ref)
        except _Refusal as refusal:
            return self._no_settings(refusal)

    def _setting(self, name: str, payload: bytes) -> ChangeSettings | MalformedSettings:
        try:
            return ChangeSettings(values={_setting_named(name): _value(_text(payload))})
        except _Refusal as refusal:
            return self._no_settings(refusal)

    def _no_settings(self, refusal: _Refusal) -> MalformedSettings:
        topics = (self._topics.settings_response,)
        return MalformedSettings(topics=topics, error=str(refusal), ref=refusal.ref)


def _is_decent(name: str) -> bool:
    """Whether what should be an EUI can be repeated in the topic of an answer."""
    is_short = bool(name.strip()) and len(name) <= MAX_LEVEL and shown(name) != KEY_MASK
    return is_short and name.isprintable() and not set(name) & set("+#")


# --- bodies --------------------------------------------------------------------------------


class _Refusal(Exception):
    """A body that asks for nothing that can be done.

    Attributes:
        ref: what the client marked it with, if it could be read.
    """

    def __init__(self, found: str, ref: Ref | None = None) -> None:
        super().__init__(found)
        self.ref = ref


# Programs in C send the NUL that ends their text, editors on Windows a byte order mark before it.
_BLANK = " \t\r\n\v\f\0\ufeff"


def _text(payload: bytes) -> str:
    if len(payload) > MAX_PAYLOAD:
        raise _Refusal(f"the message has {len(payload)} bytes, at most {MAX_PAYLOAD} are possible")
    try:
        text = payload.decode().strip(_BLANK)
    except UnicodeDecodeError as error:
        found = f"byte {error.start + 1} is 0x{payload[error.start]:02X}"
        raise _Refusal(f"the message is no UTF-8 text: {found}") from error
    if not text:
        raise _Refusal("the message is empty")
    return text


def _command(text: str) -> tuple[_Word, Ref | None]:
    if text[0] not in '"{[':
        return _word(text, None), None
    found = _json(text)
    if isinstance(found, str):
        return _word(found, None), None
    given, ref = _object(found)
    named = [given[name] for name in ("command", "action") if given.get(name) is not None]
    return _word(named[0] if named else "", ref), ref


def _word(found: object, ref: Ref | None) -> _Word:
    if not isinstance(found, str):
        raise _Refusal(f"command: found {shown(found)}, {_EXPECTED}", ref)
    word = found.strip(_BLANK)
    if not word:
        raise _Refusal(f"the command is missing: {_EXPECTED}", ref)
    if word.lower() not in _WORDS:
        raise _Refusal(f"{shown(word)} is no command: {_EXPECTED}", ref)
    return _WORDS[word.lower()]


# The earlier service let them by: a row of its endpoints.json could be published as it is.
_LET_BY = {"eui", "timestamp", "preferredDownlinkPath"}


def _parameters(text: str, ep_eui: int) -> tuple[dict[str, object], Ref | None]:
    given, ref = _object(_json(text))
    _check_eui(given.get("eui"), ep_eui, ref)
    return {name: value for name, value in given.items() if name not in _LET_BY}, ref


def _check_eui(found: object, ep_eui: int, ref: Ref | None) -> None:
    """Two EUIs in one message: the earlier service silently took that of the topic."""
    try:
        is_same = found is None or (isinstance(found, str) and parse_eui(found) == ep_eui)
    except InvalidEuiError:
        is_same = False
    if not is_same:
        raise _Refusal(f"eui: it is not {format_eui(ep_eui)}, as the topic says", ref)


_SETTING = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,40}")


def _values(given: Mapping[str, object], ref: Ref | None) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in given.items():
        setting = _setting_named(name, ref)
        if setting in values:
            raise _Refusal(f"{setting} is given twice", ref)
        values[setting] = value
    if not values:
        raise _Refusal("nothing is given to be set", ref)
    return values


def _setting_named(name: str, ref: Ref | None = None) -> str:
    setting = EARLIER_NAMES.get(name.upper(), name)
    if not _SETTING.fullmatch(setting):
        expected = "a key of sc.toml like auto_detach.timeout is expected"
        raise _Refusal(f"{shown(name)} is no setting: {expected}", ref)
    return setting


def _value(text: str) -> object:
    """JSON, or else the text itself, as in `30d`."""
    try:
        return _json(text)
    except _Refusal:
        if text[0] in '"{[':
            raise
        return text


# --- JSON ----------------------------------------------------------------------------------


def _json(text: str) -> object:
    try:
        found: object = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        at = repr(text[error.pos]) if error.pos < len(text) else "the end"
        where = f"at character {error.pos + 1}, found {at}"
        raise _Refusal(f"no valid JSON: {error.msg} {where}") from error
    except RecursionError as error:
        raise _Refusal(_TOO_DEEP) from error
    _check(found)
    return found


_TOO_DEEP = f"the JSON has more than {MAX_DEPTH} levels"


def _check(found: object) -> None:
    level = [found]
    for _ in range(MAX_DEPTH):
        if any(isinstance(each, str) and _SURROGATE.search(each) for each in level):
            raise _Refusal("a text in the JSON has half of a surrogate pair")
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return
    raise _Refusal(_TOO_DEEP)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _inside(found: object) -> list[object]:
    if isinstance(found, dict):
        return [*found, *found.values()]
    return found if isinstance(found, list) else []


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise _Refusal(f"{shown(twice)} is given twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_REF:
        raise _Refusal(f"a number in the JSON has {len(digits)} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    if len(digits) > MAX_REF or not isfinite(number := float(digits)):
        raise _Refusal("a number in the JSON is too long or too great")
    return number


def _no_number(word: str) -> NoReturn:
    raise _Refusal(f"no valid JSON: {word} is no number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once_each,
    parse_int=_whole,
    parse_float=_fraction,
    parse_constant=_no_number,
)


def _object(found: object) -> tuple[dict[str, object], Ref | None]:
    """What an object holds, and what it is marked with."""
    if not isinstance(found, dict):
        raise _Refusal(f"found {shown(found)}, a JSON object is expected")
    return {name: value for name, value in found.items() if name != "ref"}, _ref(found.get("ref"))


def _ref(found: object) -> Ref | None:
    if found is not None and (isinstance(found, bool) or not isinstance(found, str | int | float)):
        raise _Refusal(f"ref: found {shown(found)}, a text or a number is expected")
    if isinstance(found, str) and len(found) > MAX_REF:
        raise _Refusal(f"ref: has {len(found)} characters, at most {MAX_REF} are possible")
    return found
