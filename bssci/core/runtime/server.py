"""Lets base stations in: accept, deadlines, limits, silence (BSSCI 1.0.0, 3 and 4).

A wall stands around each connection: whatever one peer does, the others do not notice. A peer that
has not completed its connect is half open, a `Guest`: it has a deadline, and when too many are half
open the oldest makes room, so that a good base station gets in.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import ssl
from typing import TYPE_CHECKING

import trio

from bssci.core.runtime.direct_stream import DirectStream
from bssci.core.runtime.link import Doors, Guest, Limits, Link, Peer, Reason, Refusal
from bssci.core.runtime.tls_stream import TlsStream

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BaseStationServer"]

logger = logging.getLogger(__name__)

# How often the links are looked at for silence: a ping is late by at most this.
TEND_INTERVAL = 1.0  # seconds

# From our last word to the end of the connection, while the peer is still sending.
PART_TIMEOUT = 1.0  # seconds

# TCP itself finds a dead peer after 60 + 4 * 15 seconds, also when we have nothing to say.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class BaseStationServer:
    """Lets base stations in.

    Attributes:
        links: the base stations that are connected now, by EUI.
    """

    def __init__(self, limits: Limits, doors: Doors) -> None:
        self.limits = limits
        self.doors = doors
        self.links: dict[int, Link] = {}
        self._claims: dict[int, Link] = {}
        self._half_open: dict[Guest, None] = {}
        self._half_open_from: dict[str, dict[Guest, None]] = {}
        self._connections = 0

    async def serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve base stations until cancelled. Then all links end, at most a second later."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tend)
            await trio.serve_listeners(self.welcome, listeners, task_status=task_status)

    async def dismiss(self, reason: str) -> None:
        """End all links in order: what is on disk is acknowledged, the sessions are saved."""
        links = tuple(self._claims.values())
        for link in links:
            link.close(reason)
        for link in links:
            await link.gone.wait()

    async def welcome(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until it ends; nothing it does comes out of here."""
        guest = Guest(Peer(_address(stream)), trio.CancelScope())
        try:
            await self._receive(stream, guest)
        except* Exception:
            logger.exception("connection from %s failed; this is our fault", guest.peer.address)
        finally:
            await trio.aclose_forcefully(stream)

    async def _receive(self, stream: trio.abc.Stream, guest: Guest) -> None:
        if self._connections >= self.limits.max_connections and not self._evict_oldest():
            self._refuse(guest, "too_many", "all connections are in use")
            return
        self._connections += 1
        try:
            guest.scope.deadline = trio.current_time() + self.limits.handshake_timeout
            with guest.scope, self._lobby(guest):
                await self._converse(stream, guest)
        finally:
            self._connections -= 1
        if guest.scope.cancelled_caught and not guest.is_settled:
            self._refuse_late(guest)

    async def _converse(self, stream: trio.abc.Stream, guest: Guest) -> None:
        if isinstance(stream, trio.SocketStream):
            _keep_alive(stream)
            with contextlib.closing(DirectStream(stream)) as direct:
                await self._converse_in_tls(direct, guest)
        else:
            await self._converse_in_tls(stream, guest)

    async def _converse_in_tls(self, stream: trio.abc.Stream, guest: Guest) -> None:
        tls = TlsStream(stream, self.doors.ssl_context(), server_side=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError as error:
            self._refuse(guest, *_tls_fault(error))
        else:
            guest.peer = self.doors.identify(tls, guest.peer.address)
            await Link(tls, self, guest).converse()
            guest.is_settled = True
        await _part(stream, tls)

    # --- half open ---

    @contextlib.contextmanager
    def _lobby(self, guest: Guest) -> Iterator[None]:
        """Count a guest as half open, after the oldest has made room if there are too many."""
        from_there = self._half_open_from.get(guest.peer.address, {})
        if len(from_there) >= self.limits.max_half_open_per_address:
            self._evict(next(iter(from_there)))
        if len(self._half_open) >= self.limits.max_half_open:
            self._evict_oldest()
        self._half_open[guest] = None
        self._half_open_from.setdefault(guest.peer.address, {})[guest] = None
        try:
            yield
        finally:
            self._leave_lobby(guest)

    def _evict_oldest(self) -> bool:
        oldest = next(iter(self._half_open), None)
        if oldest is not None:
            self._evict(oldest)
        return oldest is not None

    def _evict(self, guest: Guest) -> None:
        guest.is_evicted = True
        guest.scope.cancel()
        self._leave_lobby(guest)

    def _leave_lobby(self, guest: Guest) -> None:
        self._half_open.pop(guest, None)
        if from_there := self._half_open_from.get(guest.peer.address):
            from_there.pop(guest, None)
            if not from_there:
                del self._half_open_from[guest.peer.address]

    def _refuse_late(self, guest: Guest) -> None:
        if guest.is_evicted:
            self._refuse(guest, "too_many", "made room for a newer connection")
        else:
            within = f"{self.limits.handshake_timeout:g} s"
            self._refuse(guest, "handshake_timeout", f"no complete connect within {within}")

    def _refuse(self, guest: Guest, reason: Reason, detail: str) -> None:
        guest.is_settled = True
        self.doors.refused(Refusal(reason, guest.peer, guest.bs_eui, detail))

    # --- one link a base station ---

    async def claim(self, link: Link) -> None:
        """The newest connection of a base station wins: older ones end before this returns."""
        older = self._claims.get(link.bs_eui)
        self._claims[link.bs_eui] = link
        if older is not None and older is not link:
            older.close("a newer connection of this base station takes over")
            await older.gone.wait()

    def admit(self, link: Link, guest: Guest) -> None:
        """The connect is complete: no deadline any more."""
        guest.scope.deadline = math.inf
        self._leave_lobby(guest)
        self.links[link.bs_eui] = link

    def release(self, link: Link) -> None:
        """The connection is over."""
        for table in (self.links, self._claims):
            eui = link.claimed_eui
            if eui is not None and table.get(eui) is link:
                del table[eui]

    async def _tend(self) -> None:
        while True:
            await trio.sleep(TEND_INTERVAL)
            now = trio.current_time()
            for link in tuple(self.links.values()):
                if link.is_open:
                    link.tend(now)


# What OpenSSL calls it, and what it is.
_IN_OTHER_WORDS = {
    "http request": "speaks HTTP, not TLS",
    "https proxy request": "speaks HTTP, not TLS",
    "wrong version number": "speaks no TLS",
    "unsupported protocol": "speaks only TLS versions that are too old (tls.min_version)",
}


def _tls_fault(error: trio.BrokenResourceError) -> tuple[Reason, str]:
    """What kind of peer fails its TLS handshake like this."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "bad_certificate", f"certificate refused: {cause.verify_message}"
    if isinstance(cause, ssl.SSLEOFError):
        return "not_tls", "went during the TLS handshake"
    if not isinstance(cause, ssl.SSLError):
        return "not_tls", f"went during the TLS handshake: {cause or error}"
    words = (cause.reason or str(cause)).lower().replace("_", " ")
    if words == "peer did not return a certificate":
        return "no_certificate", "shows no certificate"
    if "certificate" in words or "unknown ca" in words:
        return "bad_certificate", f"the peer refuses our certificate: {words}"
    return "not_tls", _IN_OTHER_WORDS.get(words, words)


async def _part(stream: trio.abc.Stream, tls: TlsStream) -> None:
    """End in order: what was sent last is not lost because the peer was sending, too."""
    with (
        trio.move_on_after(PART_TIMEOUT),
        contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
    ):
        with contextlib.suppress(trio.BrokenResourceError):
            await tls.send_eof()
        if isinstance(stream, trio.abc.HalfCloseableStream):
            await stream.send_eof()
            while await stream.receive_some():
                pass


def _address(stream: object) -> str:
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError):
            return str(stream.socket.getpeername()[0])
    return "unknown"


def _keep_alive(stream: trio.SocketStream) -> None:
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)
