"""A certificate is approved for a base station that was refused with it (tls.identity = "pin")."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from bssci.core.center.approval import Waiting, chosen
from bssci.core.center.rpc import RequestError
from bssci.core.protocol.errors import InvalidEuiError, StorageError
from bssci.core.protocol.eui import format_eui, parse_eui
from bssci.core.runtime import tls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from bssci.core.runtime.link import Link, Refusal
    from bssci.core.runtime.tls import IdentityMode

__all__ = ["Approvals", "Pins"]

logger = logging.getLogger(__name__)

Fields = dict[str, object]


class Pins(Protocol):
    """What is needed of the store."""

    async def repin(self, bs_eui: int, fingerprint: str, now_ns: int) -> str | None:
        """Bind a base station to a certificate; the one it was bound to. May raise
        `StorageError`.
        """
        ...


class Approvals:
    """Binds base stations to other certificates than the first they came with."""

    def __init__(
        self,
        store: Pins,
        *,
        mode: Callable[[], IdentityMode],
        refusals: Callable[[], Iterable[tuple[float, Refusal]]],
        find: Callable[[str], int],
        link_of: Callable[[int], Link | None],
    ) -> None:
        """
        Args:
            mode: `tls.identity` as it is now.
            refusals: who was not let in, and when.
            find: the base station of that name; may raise `RequestError`.
            link_of: its connection, if there is one.
        """
        self._store = store
        self._mode = mode
        self._refusals = refusals
        self._find = find
        self._link_of = link_of

    def methods(self) -> dict[str, Callable[..., Awaitable[object]]]:
        """What can be asked, by name."""
        return {"stations.approve": self.approve}

    async def approve(self, *, eui: str, fingerprint: str | None = None) -> Fields:
        """Bind a base station to the certificate with which it was refused.

        `fingerprint`: SHA-256 of the certificate, or its first digits, needed if there were
        several. It comes back by itself; one that is connected with another certificate is cut off.
        """
        if (mode := self._mode()) != "pin":
            raise RequestError(
                f'tls.identity is "{mode}": base stations are not bound to certificates',
                hint='there is nothing to approve, unless tls.identity is set to "pin"',
            )
        bs_eui = self._station(eui)
        approved = chosen(bs_eui, self._waiting(bs_eui), fingerprint)
        self._require_usable(bs_eui, approved)
        try:
            before = await self._store.repin(bs_eui, approved, time.time_ns())
        except StorageError as error:
            raise RequestError(f"not approved, nothing is changed: {error}") from error
        fields = {"bs_eui": format_eui(bs_eui), "fingerprint": approved, "before": before or ""}
        logger.info("base station is bound to another certificate", extra=fields)
        self._cut_off_others(bs_eui, approved)
        return {"eui": format_eui(bs_eui), "fingerprint": approved, "before": before}

    def _station(self, text: str) -> int:
        """It may be one that was never let in, which has no name."""
        try:
            return parse_eui(text)
        except InvalidEuiError:
            return self._find(text)

    def _waiting(self, bs_eui: int) -> Iterator[Waiting]:
        for _, refusal in self._refusals():
            peer = refusal.peer
            if (refusal.reason, refusal.bs_eui) != ("identity_mismatch", bs_eui):
                continue
            if peer.fingerprint and not tls.check_identity("pin", peer, bs_eui, pinned=None):
                yield Waiting(peer.fingerprint, peer.subject or "")

    def _require_usable(self, bs_eui: int, fingerprint: str) -> None:
        """A certificate that names another base station stays refused whatever is approved."""
        for _, refusal in self._refusals():
            peer = refusal.peer
            if peer.fingerprint != fingerprint:
                continue
            if reason := tls.check_identity("pin", peer, bs_eui, pinned=None):
                raise RequestError(
                    f"not approved: {reason}",
                    hint=f"`bssci certs station {format_eui(bs_eui)}` makes one that names it",
                )

    def _cut_off_others(self, bs_eui: int, approved: str) -> None:
        link = self._link_of(bs_eui)
        if link is not None and link.peer.fingerprint not in (None, approved):
            link.close("another certificate was approved for it")
