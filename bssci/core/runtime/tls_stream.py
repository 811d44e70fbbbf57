"""TLS over a trio stream, at about half the cost of `trio.SSLStream` for many small messages.

One `receive_some` takes from the transport once and gives all that is decrypted by then: twenty
frames that came together wake us once. And the alert with which OpenSSL gives up reaches the peer,
which then reads "unknown ca" in its log and not "connection closed".
"""

from __future__ import annotations

import contextlib
import ssl
from typing import Literal

import trio

__all__ = ["TlsStream"]

# Bytes taken from the transport at once: what a base station sends in some tens of milliseconds at
# full speed.
RECEIVE_SIZE = 64 * 1024

# Bytes decrypted by one call: OpenSSL gives one record at a time, which holds no more.
RECORD_SIZE = 16 * 1024

# Bytes encrypted before they are handed on, so that a big write is not in memory a second time.
SEND_SIZE = 256 * 1024

# How long a peer may take to take an alert. It mostly fits the socket's buffer at once.
ALERT_TIMEOUT = 1.0  # seconds


class TlsStream(trio.abc.HalfCloseableStream):
    """TLS over another stream; `do_handshake` comes first.

    One task may send while another one receives. The end of the transport is the end of the
    stream, with or without `close_notify`: real base stations just go, and what they say tells its
    own length.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self._transport = transport
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._flushing = trio.Lock()
        self._is_receiving = False
        self._is_sending = False
        self._has_ended = False
        self._fault: ssl.SSLError | None = None
        self._is_broken = False
        self._is_closed = False

    def getpeercert(self, binary_form: Literal[True]) -> bytes | None:
        """The peer's certificate in DER; None if it showed none."""
        return self._tls.getpeercert(binary_form)

    def version(self) -> str | None:
        """The TLS version that was agreed on; None before the handshake."""
        return self._tls.version()

    async def do_handshake(self) -> None:
        """Shake hands.

        Raises:
            trio.BrokenResourceError: it failed; the cause is the `ssl.SSLError` or `OSError`.
        """
        self._check()
        self._is_broken = True  # until it is done: half a handshake is of no use
        try:
            while not self._shake():
                await self._flush()
                await self._fill()
            await self._flush()
        except ssl.SSLError as error:
            await self._send_alert()
            raise trio.BrokenResourceError(f"TLS handshake: {error}") from error
        self._is_broken = False

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """All that is there, at least one byte, at most `max_bytes`; `b""` at the end.

        Raises:
            trio.BrokenResourceError: the connection is lost, or what came is no TLS.
            trio.ClosedResourceError: it is closed on our side.
        """
        self._check()
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._is_receiving = True
        try:
            return await self._receive(max_bytes or RECEIVE_SIZE)
        except ssl.SSLEOFError:
            return b""
        except ssl.SSLError as error:
            self._is_broken = True
            await self._send_alert()
            raise trio.BrokenResourceError(f"TLS: {error}") from error
        finally:
            self._is_receiving = False

    async def _receive(self, limit: int) -> bytes:
        has_waited = False
        while (data := self._decrypt(limit)) is None:
            # TLS has words of its own: the answer to a key update.
            await self._flush()
            await self._fill()
            has_waited = True
        if not has_waited:
            await trio.lowlevel.checkpoint()
        return data

    def _decrypt(self, limit: int) -> bytes | None:
        """What can be decrypted now; None: nothing yet."""
        records: list[bytes] = []
        size = 0
        while size < limit and self._fault is None:
            try:
                record = self._tls.read(min(limit - size, RECORD_SIZE))
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:
                # OpenSSL tells it once. What came before is received first.
                self._fault = error
                break
            records.append(record)
            size += len(record)
            if not (record and (self._incoming.pending or self._tls.pending())):
                break
        if records:
            return b"".join(records)
        if self._fault is not None:
            raise self._fault
        return None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send it all. When this is cancelled the stream is of no more use.

        Raises:
            trio.BrokenResourceError: the connection is lost.
            trio.ClosedResourceError: it is closed on our side.
        """
        self._check()
        self._claim_sending()
        try:
            await self._send(data)
        finally:
            self._is_sending = False

    def _claim_sending(self) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._has_ended:
            raise trio.ClosedResourceError("the end of this TLS stream was sent")
        self._is_sending = True

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        if not data:
            await trio.lowlevel.checkpoint()
        elif len(data) <= SEND_SIZE:
            self._encrypt(data)
            await self._flush()
        else:
            view = memoryview(data)
            for start in range(0, len(view), SEND_SIZE):
                self._encrypt(view[start : start + SEND_SIZE])
                await self._flush()

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._is_broken = True
            raise trio.BrokenResourceError(f"TLS: {error}") from error

    async def wait_send_all_might_not_block(self) -> None:
        self._check()
        await self._transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say with `close_notify` that nothing follows; receiving goes on.

        Raises:
            trio.BrokenResourceError: the connection is lost.
            trio.ClosedResourceError: it is closed on our side.
        """
        self._check()
        self._claim_sending()
        try:
            self._has_ended = True
            # It waits for the peer's `close_notify`; we do not.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            await self._flush()
        finally:
            self._is_sending = False

    async def aclose(self) -> None:
        """Say `close_notify` if that is still possible, and close."""
        try:
            with contextlib.suppress(
                trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError
            ):
                if not self._has_ended:
                    await self.send_eof()
        finally:
            self._is_closed = True
            await self._transport.aclose()

    # --- between OpenSSL and the transport ---

    async def _fill(self) -> None:
        if data := await self._transport.receive_some(RECEIVE_SIZE):
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        """Send what OpenSSL has made; bytes of one task never come between those of another."""
        if not self._outgoing.pending:
            return
        try:
            self._flushing.acquire_nowait()
        except trio.WouldBlock:
            await self._flushing.acquire()
        try:
            while data := self._outgoing.read():
                await self._transport.send_all(data)
        except BaseException:
            # Half a record may be on its way: nothing can follow it.
            self._is_broken = True
            raise
        finally:
            self._flushing.release()

    async def _send_alert(self) -> None:
        with (
            trio.move_on_after(ALERT_TIMEOUT),
            contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            await self._flush()

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this TLS stream is closed")
        if self._is_broken:
            raise trio.BrokenResourceError("this TLS stream is broken")
