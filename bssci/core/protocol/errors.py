"""Every error a caller of the library may want to catch, whose fault it is, and its POSIX number.

The numbers travel in the `error` message (BSSCI 1.0.0, 5.17) and are those of Linux.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "BssciError",
    "Code",
    "FrameTooLongError",
    "FramingError",
    "InvalidEuiError",
    "InvalidMessageError",
    "LocalProtocolError",
    "MalformedPayloadError",
    "NotAMapError",
    "OperationLostError",
    "OperationRefusedError",
    "RemoteProtocolError",
    "StorageError",
    "TrailingBytesError",
    "UnknownCommandError",
    "WrongIdentifierError",
]


class Code(IntEnum):
    """POSIX numbers that BSSCI peers send in `error.code`."""

    OK = 0
    EPERM = 1
    ENOENT = 2
    EIO = 5
    EAGAIN = 11
    EACCES = 13
    EEXIST = 17
    EINVAL = 22
    ENOSPC = 28
    EPROTO = 71
    EOPNOTSUPP = 95
    ETIMEDOUT = 110


class BssciError(Exception):
    """Anything this library raises on purpose."""


class InvalidEuiError(BssciError, ValueError):
    """A text or number that is no EUI64 or no short address. What we were given is wrong."""


class LocalProtocolError(BssciError):
    """We tried something the protocol does not allow now. Our bug: let it be loud."""


class RemoteProtocolError(BssciError):
    """The peer broke the protocol so badly that its connection is of no more use: close it."""


class FramingError(RemoteProtocolError):
    """The byte stream can no longer be cut into payloads."""


class WrongIdentifierError(FramingError):
    """A frame does not begin with `MIOTYB01`."""


class FrameTooLongError(FramingError):
    """A header announces more bytes than we are willing to hold."""


class MalformedPayloadError(FramingError):
    """A payload is neither MessagePack nor JSON, or exceeds a length inside it."""


class NotAMapError(FramingError):
    """A payload decodes, but to something other than a map."""


class TrailingBytesError(FramingError):
    """Bytes follow the one object a payload may hold."""


class InvalidMessageError(BssciError):
    """A message that can be read but not accepted: answer `error`, keep the connection.

    Attributes:
        command: the message's name as sent.
        op_id: the operation it belongs to.
        code: what to answer, mostly 71.
    """

    def __init__(self, reason: str, *, command: str, op_id: int, code: int = Code.EPROTO) -> None:
        super().__init__(reason)
        self.command = command
        self.op_id = op_id
        self.code = int(code)


class UnknownCommandError(InvalidMessageError):
    """A command, or a whole sub-channel, that we do not speak: answer 95, keep the connection."""


class OperationRefusedError(BssciError):
    """The peer answered one of our operations with `error`.

    Attributes:
        code: the peer's POSIX number.
        message: what the peer says about it; may be empty.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"refused with error {code}" + (f": {message}" if message else ""))
        self.code = code
        self.message = message


class OperationLostError(BssciError):
    """One of our operations got no answer: too late, or the connection ended."""


class StorageError(BssciError):
    """Something could not be put on disk or read from it; nothing of it was done.

    Attributes:
        code: what a base station is told: 28 (no space) or 5 (I/O error).
    """

    def __init__(self, reason: str, *, code: int = Code.EIO) -> None:
        super().__init__(reason)
        self.code = int(code)
