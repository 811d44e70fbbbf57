"""The MQTT vocabulary, inbound: what a message asks for.

What users of the earlier service publish goes on working: its topics, its raw words beside JSON,
and the names of its settings. Anybody who may publish can send anything, so whatever is no command
becomes a `Malformed` that says what was found. Its words never hold what could be a network key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from bssci.core.center.bodies import (
    BLANK,
    MAX_PAYLOAD,
    MAX_REF,
    InvalidBodyError,
    Ref,
    json_of,
    object_of,
    text_of,
)
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
    "MalformedDownlink",
    "MalformedSettings",
    "Order",
    "QueryStatus",
    "Ref",
    "SendDownlink",
    "subscriptions",
]

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
class SendDownlink(Order):
    """Say something to this end point; answered where results of downlinks are told.

    Attributes:
        given: parameters as they came, `ref` among them, for `downlink_of`.
    """

    command: ClassVar[str] = "dl"

    given: Mapping[str, object] = field(repr=False)


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
class MalformedDownlink(Malformed):
    """The same about a downlink, which is rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedSettings(Malformed):
    """The same about the settings."""


Command = Configure | Attach | Detach | QueryStatus | SendDownlink | ChangeSettings

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
    verbs = [f"{base}/ep/+/{verb}" for verb in ("config", "register", "cmd", "dl")]
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
            case ["ep", name, "dl"]:
                return self._downlink(name, payload)
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
            return Malformed(topics=topics, error=_no_eui(error, topics), ref=_ref_in(payload))
        try:
            if verb == "cmd":
                kind, ref = _command(text_of(payload))
                return kind(ep_eui=ep_eui, ref=ref, via_legacy=via_legacy)
            given, ref = _parameters(text_of(payload), ep_eui)
            return Configure(ep_eui=ep_eui, given=given, ref=ref)
        except InvalidBodyError as refusal:
            topics = self._topics.errors(format_eui(ep_eui), via_legacy=via_legacy)
            return Malformed(topics=topics, error=str(refusal), ep_eui=ep_eui, ref=refusal.ref)

    def _downlink(self, name: str, payload: bytes) -> SendDownlink | MalformedDownlink:
        try:
            ep_eui = parse_eui(name)
        except InvalidEuiError as error:
            topics = (self._topics.downlink_status(name),) if _is_decent(name) else ()
            return MalformedDownlink(
                topics=topics, error=_no_eui(error, topics), ref=_ref_in(payload)
            )
        try:
            given, ref = object_of(json_of(text_of(payload)))
            _check_eui(given.pop("eui", None), ep_eui, ref)
        except InvalidBodyError as refusal:
            topics = (self._topics.downlink_status(format_eui(ep_eui)),)
            return MalformedDownlink(
                topics=topics, error=str(refusal), ep_eui=ep_eui, ref=refusal.ref
            )
        given |= {} if ref is None else {"ref": ref}
        return SendDownlink(ep_eui=ep_eui, given=given, ref=ref)

    def _settings(self, payload: bytes) -> ChangeSettings | MalformedSettings:
        try:
            given, ref = object_of(json_of(text_of(payload)))
            return ChangeSettings(values=_values(given, ref), ref=ref)
        except InvalidBodyError as refusal:
            return self._no_settings(refusal)

    def _setting(self, name: str, payload: bytes) -> ChangeSettings | MalformedSettings:
        try:
            return ChangeSettings(values={_setting_named(name): _value(text_of(payload))})
        except InvalidBodyError as refusal:
            return self._no_settings(refusal)

    def _no_settings(self, refusal: InvalidBodyError) -> MalformedSettings:
        topics = (self._topics.settings_response,)
        return MalformedSettings(topics=topics, error=str(refusal), ref=refusal.ref)


def _no_eui(error: InvalidEuiError, topics: tuple[str, ...]) -> str:
    return str(error) if topics else "the topic names no EUI, and nobody to answer"


def _is_decent(name: str) -> bool:
    """Whether what should be an EUI can be repeated in the topic of an answer."""
    is_short = bool(name.strip()) and len(name) <= MAX_LEVEL and shown(name) != KEY_MASK
    return is_short and name.isprintable() and not set(name) & set("+#")


# --- bodies --------------------------------------------------------------------------------


def _ref_in(payload: bytes) -> Ref | None:
    """What a message is marked with of which nothing else is of use; None: nothing readable."""
    try:
        return object_of(json_of(text_of(payload)))[1]
    except InvalidBodyError as refusal:
        return refusal.ref


def _command(text: str) -> tuple[_Word, Ref | None]:
    if text[0] not in '"{[':
        return _word(text, None), None
    found = json_of(text)
    if isinstance(found, str):
        return _word(found, None), None
    given, ref = object_of(found)
    named = [given[name] for name in ("command", "action") if given.get(name) is not None]
    return _word(named[0] if named else "", ref), ref


def _word(found: object, ref: Ref | None) -> _Word:
    if not isinstance(found, str):
        raise InvalidBodyError(f"command: found {shown(found)}, {_EXPECTED}", ref)
    word = found.strip(BLANK)
    if not word:
        raise InvalidBodyError(f"the command is missing: {_EXPECTED}", ref)
    if word.lower() not in _WORDS:
        raise InvalidBodyError(f"{shown(word)} is no command: {_EXPECTED}", ref)
    return _WORDS[word.lower()]


# The earlier service let them by: a row of its endpoints.json could be published as it is.
_LET_BY = {"eui", "timestamp", "preferredDownlinkPath"}


def _parameters(text: str, ep_eui: int) -> tuple[dict[str, object], Ref | None]:
    given, ref = object_of(json_of(text))
    _check_eui(given.get("eui"), ep_eui, ref)
    return {name: value for name, value in given.items() if name not in _LET_BY}, ref


def _check_eui(found: object, ep_eui: int, ref: Ref | None) -> None:
    """Two EUIs in one message: the earlier service silently took that of the topic."""
    try:
        is_same = found is None or (isinstance(found, str) and parse_eui(found) == ep_eui)
    except InvalidEuiError:
        is_same = False
    if not is_same:
        raise InvalidBodyError(f"eui: it is not {format_eui(ep_eui)}, as the topic says", ref)


_SETTING = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,40}")


def _values(given: Mapping[str, object], ref: Ref | None) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in given.items():
        setting = _setting_named(name, ref)
        if setting in values:
            raise InvalidBodyError(f"{setting} is given twice", ref)
        values[setting] = value
    if not values:
        raise InvalidBodyError("nothing is given to be set", ref)
    return values


def _setting_named(name: str, ref: Ref | None = None) -> str:
    setting = EARLIER_NAMES.get(name.upper(), name)
    if not _SETTING.fullmatch(setting):
        expected = "a key of sc.toml like auto_detach.timeout is expected"
        raise InvalidBodyError(f"{shown(name)} is no setting: {expected}", ref)
    return setting


def _value(text: str) -> object:
    """JSON, or else the text itself, as in `30d`."""
    try:
        return json_of(text)
    except InvalidBodyError:
        if text[0] in '"{[':
            raise
        return text
