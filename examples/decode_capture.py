"""A protocol decoder: the messages in a capture of one direction of a BSSCI connection.

    python examples/decode_capture.py FILE

FILE holds the bytes as they went over the connection, inside TLS. Nothing of the library is used
that does I/O; `bssci decode` does this in more forms, and goes on after what is no frame.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from bssci.core.protocol.codec import decode
from bssci.core.protocol.errors import FramingError, InvalidMessageError
from bssci.core.protocol.frames import FrameDecoder
from bssci.core.protocol.messages import Message


def messages(capture: bytes) -> Iterator[Message | InvalidMessageError]:
    frames = FrameDecoder()
    frames.feed(capture)
    for payload in frames.payloads():
        try:
            yield decode(payload)
        except InvalidMessageError as error:  # the next one may be better
            yield error
    if frames.unfinished:
        raise FramingError(f"the capture ends within a frame, {frames.unfinished} bytes into it")


if __name__ == "__main__":
    try:
        for message in messages(Path(sys.argv[1]).read_bytes()):
            print(message if isinstance(message, Message) else f"{message.command}: {message}")
    except FramingError as error:
        sys.exit(str(error))
