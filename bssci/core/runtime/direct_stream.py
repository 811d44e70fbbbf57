"""A TCP connection as a trio stream that goes straight to the kernel.

`trio.SocketStream` lets the others work on every call, also when the kernel takes or gives all at
once. A base station's connection waits for its next message anyway; here only waiting waits. That
is worth a fifth of what an uplink costs at the door.
"""

from __future__ import annotations

import socket

import trio

__all__ = ["DirectStream"]

RECEIVE_SIZE = 64 * 1024


class DirectStream(trio.abc.HalfCloseableStream):
    """Takes over the connection of a `trio.SocketStream`, which is of no more use then.

    Unlike trio's own, `send_all` is no checkpoint when the kernel takes everything at once: call
    it from a loop that waits for something to send. It is not cancelled half-way then either.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What is there, at most `max_bytes`; `b""` at the end.

        Raises:
            trio.BrokenResourceError: the connection is lost; the cause is the `OSError`.
            trio.ClosedResourceError: it is closed on our side.
        """
        self._check()
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(RECEIVE_SIZE if max_bytes is None else max_bytes)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send it all; cancelled, some of it.

        Raises:
            trio.BrokenResourceError: the connection is lost; the cause is the `OSError`.
            trio.ClosedResourceError: it is closed on our side.
        """
        self._check()
        sent = self._send_now(data)
        while sent < len(data):
            await trio.lowlevel.wait_writable(self._socket)
            with memoryview(data) as rest:
                sent += self._send_now(rest[sent:])

    def _send_now(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes the kernel takes at once."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        self._check()
        await trio.lowlevel.wait_writable(self._socket)

    async def send_eof(self) -> None:
        """Say that nothing follows; receiving goes on."""
        self._check()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close it now; who waits for it finds it closed."""
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _check(self) -> None:
        if self._socket.fileno() == -1:
            raise trio.ClosedResourceError("this connection is closed")
