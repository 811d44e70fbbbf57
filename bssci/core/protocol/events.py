"""What a conversation means to whoever holds it: the events of a session (BSSCI 1.0.0, 5.2, 5.3).

A session gives them in the order of the bytes they come from. They are values: nothing happens by
holding one, and what one asks for is answered at the session that gave it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bssci.core.protocol.messages import Connect, ConnectResponse, Message

__all__ = [
    "Answered",
    "Closed",
    "Completed",
    "ConnectRefused",
    "ConnectRequested",
    "Connected",
    "Event",
    "Refused",
    "Rejected",
    "Requested",
    "Withdrawn",
]


@dataclass(frozen=True, slots=True)
class ConnectRequested:
    """Service Center: a base station would like to connect; `accept` or `refuse_connect`."""

    connect: Connect


@dataclass(frozen=True, slots=True)
class Connected:
    """The session is open. Void are our operations of an earlier session that was not resumed."""

    resumed: bool
    response: ConnectResponse
    void: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectRefused:
    """The peer refused the connect with this error. A session that was offered is forfeit."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Requested:
    """The peer initiates an operation: `respond`, `acknowledge` or `refuse` is due.

    Attributes:
        payload: the message as it came.
        reissued: it may have been issued before: on an earlier connection of this session, or on
            this one and we refused it.
    """

    message: Message
    payload: bytes
    reissued: bool


@dataclass(frozen=True, slots=True)
class Completed:
    """The peer has our response and completes its operation. Not told of uplinks and pings."""

    request: Message


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The peer ends an operation that it initiated: it does not wait for, or cannot accept, our
    response. A response given all the same is not sent.
    """

    request: Message
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The peer answered our operation; the completion is on its way. Not told of pings."""

    request: Message
    response: Message


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer refused our operation, or answered it unacceptably. Not told of pings."""

    request: Message
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """We answered a message of the peer with `error`.

    Attributes:
        cause: `version`: no common version; `connect`: not a proper connect; `protocol`: anything
            after that.
    """

    command: str
    op_id: int
    code: int
    reason: str
    cause: Literal["version", "connect", "protocol"]


@dataclass(frozen=True, slots=True)
class Closed:
    """Nothing follows: send what is left and close the connection."""


Event = (
    ConnectRequested
    | Connected
    | ConnectRefused
    | Requested
    | Completed
    | Withdrawn
    | Answered
    | Refused
    | Rejected
    | Closed
)
