"""Every message of a connection as a line of the log, for level debug. Keys are never shown."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from bssci.core.protocol.codec import decode
from bssci.core.protocol.errors import BssciError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.frames import FrameDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bssci.core.protocol.messages import Message

__all__ = ["Tap"]

logger = logging.getLogger(__name__)


_Line = tuple[str, dict[str, str]]
"""Words and fields."""


class Tap:
    """Listens to both directions of one connection.

    It reads the bytes once more, beside the session: what is looked at may be just what the
    session refuses.
    """

    def __init__(self, who: Callable[[], Mapping[str, str]]) -> None:
        """`who` gives the fields that each line carries."""
        self._who = who
        self._incoming = _Direction("received")
        self._outgoing = _Direction("sent")

    @staticmethod
    def is_wanted() -> bool:
        """Whether anybody would see the lines."""
        return logger.isEnabledFor(logging.DEBUG)

    def received(self, data: bytes | bytearray) -> None:
        """These bytes came from the peer."""
        self._tell(self._incoming, data)

    def sent(self, data: bytes | bytearray) -> None:
        """These bytes go to the peer."""
        self._tell(self._outgoing, data)

    def _tell(self, direction: _Direction, data: bytes | bytearray) -> None:
        for line, fields in direction.lines(data):
            logger.debug("%s %s", direction.name, line, extra={**self._who(), **fields})


class _Direction:
    def __init__(self, name: str) -> None:
        self.name = name
        self._frames: FrameDecoder | None = FrameDecoder()

    def lines(self, data: bytes | bytearray) -> list[_Line]:
        found: list[_Line] = []
        if self._frames is None:
            return found
        self._frames.feed(data)
        try:
            found += [_line(payload) for payload in self._frames.payloads()]
        except BssciError as error:
            self._frames = None
            found.append((f"what is no frame: {error}", {}))
        return found


def _line(payload: bytes) -> _Line:
    try:
        message = decode(payload)
    except BssciError as error:
        return f"{len(payload)} bytes that cannot be accepted: {error}", {}
    ep_eui = getattr(message, "ep_eui", None)
    return repr(_brief(message)), {} if ep_eui is None else {"ep_eui": format_eui(ep_eui)}


def _brief(message: Message) -> Message:
    """Without the values of each subpacket: they are ten times as long as all the rest."""
    if getattr(message, "subpackets", None) is None:
        return message
    return replace(message, subpackets=None)  # type: ignore[call-arg]  # it has the field
