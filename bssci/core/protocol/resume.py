"""What two sides agree on when they connect: a version, and whether a session goes on.

Decisions only (BSSCI 1.0.0, 4.2 and 5.3.1): a session asks them with what the peer said and what
is known from before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bssci.core.protocol.messages import Connect, ConnectResponse, Message

__all__ = ["VERSION", "SessionRecord", "chosen_version", "is_resumable", "negotiate"]

VERSION = "1.0.0"

_VERSION_FORM = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """What a session must remember between connections to be resumed (5.3.1, 5.3.2)."""

    bs_eui: int
    version: str
    """The version that was agreed on."""
    bs_uuid: bytes
    sc_uuid: bytes
    bs_op_id: int = 0
    """The highest base station operation known."""
    sc_op_id: int = 0
    """The most negative Service Center operation known."""
    answered_op_id: int = 0
    """The highest own operation a base station got an answer to; 0 on the other side."""
    pending: tuple[Message, ...] = ()
    """Our own operations without an answer, in the order of issue."""


def negotiate(requested: str) -> str:
    """The version we answer with: the highest we speak of the same major version (4.2).

    Raises:
        ValueError: no common version; says why.
    """
    if _numbers(requested)[0] != _numbers(VERSION)[0]:
        raise ValueError(f"version: {requested} is not supported, {VERSION} is")
    return VERSION


def chosen_version(connect: Connect, response: ConnectResponse) -> str:
    """The version that the Service Center chose: of our major version, and not beyond ours (4.2).

    Raises:
        ValueError: it is another one; says why.
    """
    chosen = connect.version if response.version is None else response.version
    numbers, ours = _numbers(chosen), _numbers(connect.version)
    if numbers[0] != ours[0] or numbers > ours:
        raise ValueError(f"version: {chosen} is not supported, {connect.version} is")
    return chosen


def _numbers(version: str) -> tuple[int, int]:
    """Major and minor number; the third one says nothing about compatibility."""
    match = _VERSION_FORM.fullmatch(version)
    if match is None:
        raise ValueError(f"version: {version[:40]!r} is not of the form major.minor.patch")
    return int(match[1]), int(match[2])


def is_resumable(connect: Connect, record: SessionRecord, version: str) -> bool:
    """Whether a session can go on as the base station asks (5.3.1).

    The counters decide, not the UUID alone: a base station that has seen more than we know of has
    lost us, or we our state. A less negative `snScOpId` is normal: what lies between was lost on
    the wire and is issued again.
    """
    if (connect.bs_eui, connect.sn_bs_uuid) != (record.bs_eui, record.bs_uuid):
        return False
    if _numbers(version) != _numbers(record.version):
        return False
    match connect.sn_bs_op_id, connect.sn_sc_op_id:
        case None, None:
            return True
        case int(bs_op_id), int(sc_op_id):
            return 0 <= bs_op_id <= record.bs_op_id and record.sc_op_id <= sc_op_id <= 0
    return False
