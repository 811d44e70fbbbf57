"""What an end point is: the parameters of its attach propagate (BSSCI 1.0.0, 5.8), and its name.

People call it a sensor and spell its parameters in several ways: here, in MQTT, in the tables of
other programs. `FIELDS` is the one list of them; whatever comes from outside is read by
`end_point_of`, which tells everything that is wrong at once.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, field, fields, replace
from functools import partial
from hashlib import blake2b
from types import MappingProxyType
from typing import TYPE_CHECKING

from bssci.core.protocol.errors import BssciError, InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui, parse_short_address
from bssci.core.protocol.messages import AttachPropagate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "FIELDS",
    "KEY_MASK",
    "EndPoint",
    "InvalidEndPointError",
    "Spelling",
    "attach_propagate",
    "bare_name",
    "changes_between",
    "end_point_of",
    "field_named",
    "fields_of",
    "mark_of",
    "parse_key",
    "shown",
]

KEY_MASK = "****"
"""What is shown in place of a network key."""

KEY_DIGITS = 32

_DIGITS = frozenset("0123456789abcdefABCDEF")

MAX_NAME = 64  # characters; a column of a table
MAX_TAGS = 16
MAX_TAG = 32  # characters

MAX_TIMEOUT = 10 * 365 * 86400.0  # seconds

MAX_SHOWN = 40  # characters of what was found, in an error


class InvalidEndPointError(BssciError, ValueError):
    """Parameters that describe no end point; says everything that is wrong with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndPoint:
    """An end point as it is to be.

    Attributes:
        nwk_key: the network key, 16 octets; a secret.
        bidi: it can receive.
        dual_chan, repetition, wide_carr_off, long_blk_dist: how its radio is set; they must match
            it, or downlinks do not reach it (5.8.1).
        ota: it attaches over the air: base stations are told nothing before it does.
        timeout: seconds of silence after which it is detached; None: as for all.
    """

    eui: int
    nwk_key: bytes = field(repr=False)
    short_addr: int
    bidi: bool = False
    dual_chan: bool = True
    repetition: bool = False
    wide_carr_off: bool = False
    long_blk_dist: bool = False
    ota: bool = False
    name: str = ""
    tags: tuple[str, ...] = ()
    timeout: float | None = None


# --- reading what comes from outside ---


def parse_key(value: object) -> bytes:
    """The network key that 32 hexadecimal digits mean; blanks, `:` and `-` between them are let by.

    Raises:
        InvalidEndPointError: says how many digits were found, and never which.
    """
    if not isinstance(value, str):
        raise InvalidEndPointError(
            f"the key is no text: {KEY_DIGITS} hexadecimal digits are expected"
        )
    bare = re.sub(r"[\s:-]", "", value.strip().removeprefix("0x").removeprefix("0X"))
    digits = sum(character in _DIGITS for character in bare)
    if digits != len(bare):
        raise InvalidEndPointError(
            f"the key has {len(bare) - digits} characters that are no hexadecimal digits; "
            f"{digits} digits found, {KEY_DIGITS} expected"
        )
    if digits != KEY_DIGITS:
        raise InvalidEndPointError(
            f"the key has {digits} hexadecimal digits, {KEY_DIGITS} are expected (16 bytes)"
        )
    return bytes.fromhex(bare)


# A key that was put in the wrong place is still a key: also with some digits too many, too few or
# mistyped. An EUI has 16 digits; what has more than this many is not shown.
_MOST_DIGITS = 20
_LONG_NUMBER = re.compile(rf"(?:[0-9a-fA-F]\W{{0,2}}){{{_MOST_DIGITS + 1}}}")


def shown(value: object) -> str:
    """Something from outside, as errors show it: short, on one line, masked if it may be a key."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return KEY_MASK if _may_be_key(value) else repr(_cut(value))
        case int() | float():
            return "a huge number" if abs(value) >= 10**_MOST_DIGITS else repr(value)
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
    return f"a value of type {type(value).__name__}"


def _may_be_key(text: str) -> bool:
    # What is not shown needs no look; but what stands around it tells more than the part itself.
    return any(_is_mostly_digits(text[:length]) for length in (MAX_SHOWN, 5 * MAX_SHOWN))


def _is_mostly_digits(text: str) -> bool:
    bare = re.sub(r"[\W_]", "", text)
    digits = sum(character in _DIGITS for character in bare)
    return digits > _MOST_DIGITS and (
        4 * digits >= 3 * len(bare) or _LONG_NUMBER.search(text) is not None
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _called(spelled: str) -> str:
    """The name that a parameter was given by."""
    return spelled if spelled.isprintable() and len(spelled) <= MAX_SHOWN else shown(spelled)


def _short_addr(value: object) -> int:
    match value:
        case bool():
            pass
        case int() if 0 <= value <= 0xFFFF:
            return value
        case str() if not _may_be_key(value):
            try:
                return parse_short_address(value)
            except InvalidEuiError as error:
                raise InvalidEndPointError(str(error)) from error
    raise InvalidEndPointError(f"found {shown(value)}, four hexadecimal digits are expected")


_WORDS = {"true": True, "yes": True, "on": True, "1": True, "ja": True, "wahr": True}
_WORDS |= {"false": False, "no": False, "off": False, "0": False, "nein": False, "falsch": False}


def _flag(value: object) -> bool:
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    # JSON tells 1 from 1.0 no more than it tells either from a flag.
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    raise InvalidEndPointError(f"found {shown(value)}, true or false is expected")


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidEndPointError(f"found {shown(value)}, a text is expected")
    # Tables from word processors have blanks of other widths, or such that do not break a line.
    name = "".join(" " if unicodedata.category(c) == "Zs" else c for c in value).strip()
    if not name.isprintable():
        raise InvalidEndPointError(
            f"found {shown(value)}, one line without control characters is expected"
        )
    if len(name) > MAX_NAME:
        raise InvalidEndPointError(f"has {len(name)} characters, at most {MAX_NAME} are possible")
    try:
        parse_eui(name)
    except InvalidEuiError:
        return name
    raise InvalidEndPointError(f"found {shown(value)}, a name that is no EUI is expected")


def _tags(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in re.split(r"[,;|]", value) if part.strip()]
    if not isinstance(value, list | tuple):
        raise InvalidEndPointError(f"found {shown(value)}, a list of texts is expected")
    tags = tuple(dict.fromkeys(_tag(tag) for tag in value))
    if len(tags) > MAX_TAGS:
        raise InvalidEndPointError(f"has {len(tags)} tags, at most {MAX_TAGS} are possible")
    return tags


def _tag(value: object) -> str:
    tag = value.strip() if isinstance(value, str) else ""
    if not tag or not tag.isprintable() or len(tag) > MAX_TAG or set(tag) & set(",;|"):
        raise InvalidEndPointError(
            f"found {shown(value)}, tags of 1 to {MAX_TAG} characters without , ; | are expected"
        )
    return tag


def _timeout(value: object) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    seconds = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except (ValueError, OverflowError):
            seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT:
        raise InvalidEndPointError(
            f"found {shown(value)}, seconds above 0 and at most {MAX_TIMEOUT:.0f} are expected"
        )
    return seconds


@dataclass(frozen=True, slots=True)
class Spelling:
    """A parameter of an end point: how it is read and what else it is called.

    Attributes:
        attribute: of `EndPoint`.
        read: the value that something from outside stands for; raises InvalidEndPointError.
        others: names besides the one in listings: MQTT's, and column titles of other programs.
    """

    attribute: str
    read: Callable[[object], object]
    others: tuple[str, ...] = ()


FIELDS: Mapping[str, Spelling] = MappingProxyType(
    {
        "name": Spelling("name", _name, ("label", "title", "bezeichnung", "description")),
        "key": Spelling(
            "nwk_key",
            parse_key,
            ("nwKey", "nwk_key", "network_key", "nwkKey", "networkKey", "netzwerkschlüssel"),
        ),
        "short_addr": Spelling(
            "short_addr", _short_addr, ("shortAddr", "shAddr", "short_address", "shortAddress")
        ),
        "bidi": Spelling("bidi", _flag, ("bidirectional",)),
        "dual_chan": Spelling("dual_chan", _flag, ("dualChan", "dual_channel", "dualChannel")),
        "repetition": Spelling("repetition", _flag, ()),
        "wide_carr_off": Spelling(
            "wide_carr_off", _flag, ("wideCarrOff", "wide_carrier_offset", "wideCarrierOffset")
        ),
        "long_blk_dist": Spelling(
            "long_blk_dist", _flag, ("longBlkDist", "long_block_distance", "longBlockDistance")
        ),
        "ota": Spelling("ota", _flag, ("over_the_air",)),
        "tags": Spelling("tags", _tags, ("tag", "labels", "groups")),
        "timeout": Spelling("timeout", _timeout, ("inactivity_timeout",)),
    }
)
"""Every parameter by the name that listings give it, in their order."""


def bare_name(name: str) -> str:
    """What spellings of a name have in common: no separators, no case, no forms of letters.

    >>> bare_name("Short Addr") == bare_name("shortAddr") == bare_name("short_addr")
    True
    """
    return re.sub(r"[\s_.-]", "", unicodedata.normalize("NFKC", name)).casefold()


_KNOWN = {
    bare_name(spelled): name for name, way in FIELDS.items() for spelled in (name, *way.others)
}


def field_named(name: str) -> str | None:
    """The name in `FIELDS` that some spelling of a parameter stands for; None: none does.

    >>> field_named("Short Addr")
    'short_addr'
    """
    return _KNOWN.get(bare_name(name))


def end_point_of(
    given: Mapping[str, object], *, eui: int, known: EndPoint | None = None
) -> EndPoint:
    """The end point that parameters from outside describe.

    Args:
        given: parameters by any of their names. None stands for one that is not given; only as
            `timeout` it means that the timeout is the one for all.
        known: what it was so far: the parameters that are not given stay as they are.

    Raises:
        InvalidEndPointError: says everything that is wrong, each with the name it was given by.
    """
    values: dict[str, object] = {}
    names: dict[str, str] = {}
    faults = []
    for spelled, value in given.items():
        name = field_named(spelled)
        if name is None:
            faults.append(f"{shown(spelled)} is no parameter of a sensor")
        elif value is None and name != "timeout":
            continue
        elif name in names:
            faults.append(f"{_called(spelled)} is given twice, also as {_called(names[name])}")
        else:
            names[name] = spelled
            try:
                values[FIELDS[name].attribute] = FIELDS[name].read(value)
            except InvalidEndPointError as error:
                faults.append(f"{_called(spelled)}: {error}")
    if known is None and "key" not in names:
        faults.append(f"the key is missing: {KEY_DIGITS} hexadecimal digits are expected")
    if faults:
        raise InvalidEndPointError("; ".join(faults))
    if known is None:
        values = {"eui": eui, "short_addr": eui & 0xFFFF} | values
    make: Callable[..., EndPoint] = EndPoint if known is None else partial(replace, known)
    return make(**values)


# --- showing ---


def fields_of(end_point: EndPoint, *, reveal: bool = False) -> dict[str, object]:
    """The parameters as listings show them; the key only when it is to be revealed."""
    shown: dict[str, object] = {"eui": format_eui(end_point.eui)}
    for name, way in FIELDS.items():
        shown[name] = getattr(end_point, way.attribute)
    shown["key"] = end_point.nwk_key.hex().upper() if reveal else KEY_MASK
    shown["short_addr"] = f"{end_point.short_addr:04X}"
    shown["tags"] = list(end_point.tags)
    return shown


def changes_between(before: EndPoint, after: EndPoint) -> dict[str, tuple[object, object]]:
    """What differs, by the names of listings; of keys it is told that they do, not which."""
    old, new = fields_of(before), fields_of(after)
    changes = {name: (old[name], new[name]) for name in FIELDS if old[name] != new[name]}
    if before.nwk_key != after.nwk_key:
        changes["key"] = (KEY_MASK, KEY_MASK)
    return {name: changes[name] for name in FIELDS if name in changes}


# --- what base stations are told ---

# By name, so that their order in the message makes no difference to marks that are on disk.
_RADIO = sorted({f.name for f in fields(AttachPropagate)} - {"op_id", "last_packet_cnt"})


def attach_propagate(end_point: EndPoint, *, last_packet_cnt: int = 0) -> AttachPropagate:
    """The message by which a base station serves a pre-attached end point (5.8.1)."""
    return AttachPropagate(
        ep_eui=end_point.eui,
        bidi=end_point.bidi,
        nwk_sn_key=end_point.nwk_key,
        sh_addr=end_point.short_addr,
        last_packet_cnt=last_packet_cnt,
        dual_chan=end_point.dual_chan,
        repetition=end_point.repetition,
        wide_carr_off=end_point.wide_carr_off,
        long_blk_dist=end_point.long_blk_dist,
    )


def mark_of(told: AttachPropagate | EndPoint) -> int:
    """What a base station knows of an end point after an attach propagate, in one number.

    Two attach propagates have the same mark when the second tells nothing new: the packet counter
    is no part of it. It fits a signed 64-bit integer and is never 0. It is kept on disk, so it is
    the same in every process and release.
    """
    message = attach_propagate(told) if isinstance(told, EndPoint) else told
    text = " ".join(f"{name}={_plain(getattr(message, name))}" for name in _RADIO)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1 or 1


def _plain(value: bytes | int) -> str:
    # A flag may have been read as 1 or as True; it says the same.
    return value.hex() if isinstance(value, bytes) else str(int(value))
