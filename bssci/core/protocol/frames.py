"""Frames: the 12-byte header that cuts a byte stream into payloads (BSSCI 1.0.0, 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bssci.core.protocol.errors import FrameTooLongError, WrongIdentifierError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HEADER_SIZE", "IDENTIFIER", "MAX_PAYLOAD", "FrameDecoder", "encode_frame"]

IDENTIFIER = b"MIOTYB01"
HEADER_SIZE = 12  # identifier, then the payload's length as 32 bits little endian

# The specification sets no limit. The longest message seen from a real base station has 818
# bytes; four lists of 1,000 subpackets stay below 64 KiB. One MiB refuses only nonsense.
MAX_PAYLOAD = 1024 * 1024


def encode_frame(payload: bytes) -> bytes:
    """A payload with its header in front."""
    return IDENTIFIER + len(payload).to_bytes(4, "little") + payload


class FrameDecoder:
    """Cuts bytes, however they were split on their way, into payloads.

    Holds at most one unfinished frame and what was fed last. After an error it is of no more use.
    """

    def __init__(self, max_payload: int = MAX_PAYLOAD) -> None:
        self._max_payload = max_payload
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> None:
        """Add bytes from the peer; `payloads` then gives what they complete."""
        self._buffer += data

    def payloads(self) -> Iterator[bytes]:
        """The payloads that are complete, in order; each is given once.

        Raises:
            WrongIdentifierError: what should be a header is none.
            FrameTooLongError: a header announces more than `max_payload` bytes.
        """
        buffer = self._buffer
        start = 0
        try:
            while end := self._end_of_frame(start):
                payload = bytes(buffer[start + HEADER_SIZE : end])
                start = end
                yield payload
        finally:
            del buffer[:start]

    def _end_of_frame(self, start: int) -> int | None:
        """Where the frame that begins at `start` ends; None while that is not there yet."""
        header = bytes(self._buffer[start : start + HEADER_SIZE])
        # A peer that speaks something else is known by its first bytes, not only by all twelve.
        if not IDENTIFIER.startswith(header[:8]):
            raise WrongIdentifierError(f"a frame begins with {header[:8]!r}, not {IDENTIFIER!r}")
        if len(header) < HEADER_SIZE:
            return None
        length = int.from_bytes(header[8:], "little")
        if length > self._max_payload:
            raise FrameTooLongError(
                f"a frame of {length} bytes is announced, {self._max_payload} is the limit"
            )
        end = start + HEADER_SIZE + length
        return end if end <= len(self._buffer) else None

    @property
    def unfinished(self) -> int:
        """How many bytes of a frame that is not complete are held."""
        return len(self._buffer)
