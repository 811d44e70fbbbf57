"""What base stations meet: who may come in, what they are asked, and where their words go."""

from __future__ import annotations

import logging
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from bssci import __version__
from bssci.core.center.receptions import Reception, Report
from bssci.core.protocol.errors import (
    Code,
    OperationLostError,
    OperationRefusedError,
    StorageError,
)
from bssci.core.protocol.events import Answered
from bssci.core.protocol.messages import (
    Attach,
    Connect,
    ConnectResponse,
    Detach,
    DownlinkDataResult,
    DownlinkDataResultResponse,
    DownlinkRxStatus,
    DownlinkRxStatusResponse,
    Message,
    Status,
    StatusResponse,
    UplinkData,
    VmUplinkData,
    VmUplinkDataResponse,
)
from bssci.core.runtime import tls
from bssci.core.runtime.link import Certified, Link, Peer, Refusal
from bssci.core.runtime.propagation import Turns, propagate
from bssci.core.runtime.queueing import queue_downlinks

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from bssci.core.center.records import StationRecord
    from bssci.core.center.registry import Registry
    from bssci.core.protocol.events import Connected, Refused, Requested
    from bssci.core.protocol.resume import SessionRecord
    from bssci.core.runtime.config import Config
    from bssci.core.runtime.downlinks import Downlinks
    from bssci.core.runtime.life import Life
    from bssci.core.runtime.over_the_air import OverTheAir

__all__ = ["Center", "Desk", "Journal", "Queue"]

logger = logging.getLogger(__name__)

# A base station is asked how it is this long after its connect; that also tells its clock error.
FIRST_STATUS = 2.0  # seconds

# A clock that is further off than this is worth a warning.
CLOCK_TOLERANCE = 1_000_000_000  # ns


class Center(Protocol):
    """What the desk knows of the Service Center, and tells it."""

    config: Config
    registry: Registry
    ssl_context: ssl.SSLContext
    life: Life
    over_the_air: OverTheAir
    downlinks: Downlinks

    def station_changed(self, bs_eui: int) -> None:
        """A base station has come or gone."""
        ...

    def status_arrived(self, bs_eui: int, status: StatusResponse) -> None:
        """A base station has said how it is."""
        ...

    def note_refusal(self, refusal: Refusal) -> None:
        """Somebody was not let in."""
        ...


class Journal(Protocol):
    """What the desk needs of the store. Each coroutine may raise `StorageError`."""

    def next_row(self) -> int:
        """Reserve the next journal row."""
        ...

    async def append(self, receptions: Sequence[Reception]) -> None:
        """Put receptions on disk."""
        ...

    async def pin(self, bs_eui: int, fingerprint: str, now_ns: int) -> str:
        """The certificate a base station is bound to: this one if it is the first."""
        ...

    async def load_session(self, bs_eui: int) -> SessionRecord | None:
        """The last session with a base station."""
        ...

    async def save_session(self, record: SessionRecord) -> None:
        """Put a session on disk."""
        ...

    async def drop_session(self, bs_eui: int) -> None:
        """Forget a session."""
        ...


class Queue(Protocol):
    """What the desk needs of settling."""

    async def wait_for_room(self) -> None:
        """Wait until settling has caught up."""
        ...

    async def pass_on(self, report: Report) -> None:
        """Put a report on disk, to be published; may raise `StorageError`."""
        ...

    def station_gone(self, bs_eui: int) -> None:
        """A base station is not connected any more."""
        ...


class Desk:
    """Implements `link.Doors`."""

    def __init__(self, center: Center, store: Journal, settlement: Queue) -> None:
        self._center = center
        self._config = center.config
        self._registry = center.registry
        self._life = center.life
        self._over_the_air = center.over_the_air
        self._downlinks = center.downlinks
        self._store = store
        self._settlement = settlement
        self._turns = Turns()
        self.load_session = store.load_session
        self.save_session = store.save_session
        self.drop_session = store.drop_session
        self.refused = center.note_refusal

    # --- coming in ---

    def ssl_context(self) -> ssl.SSLContext:
        return self._center.ssl_context

    def identify(self, tls_stream: Certified, address: str) -> Peer:
        identity = tls.identity_of(tls_stream)
        authorities = self._center.ssl_context.get_ca_certs(binary_form=True)
        issuer = tls.issuer_of(tls_stream.getpeercert(True) or b"", authorities)
        return Peer(address, identity.subject, identity.fingerprint, identity.euis, issuer)

    def introduce(self) -> ConnectResponse:
        return ConnectResponse(
            sc_eui=self._config.server.eui,
            name=self._config.server.name,
            sw_version=__version__,
            sn_resume=False,
            sn_sc_uuid=uuid.uuid4().bytes,
        )

    async def admit(self, connect: Connect, peer: Peer) -> str | None:
        mode = self._config.tls.identity
        reason = tls.check_identity(mode, peer, connect.bs_eui, pinned=None)
        if reason is None and mode == "pin" and peer.fingerprint is not None:
            pinned = await self._store.pin(connect.bs_eui, peer.fingerprint, time.time_ns())
            reason = tls.check_identity(mode, peer, connect.bs_eui, pinned)
        return reason

    def link_up(self, link: Link, event: Connected) -> None:
        self._registry.station_connected(
            link.connect,
            since_ns=time.time_ns(),
            address=link.peer.address,
            issuer=link.peer.issuer,
        )
        logger.info(
            "base station connected, session %s, certificate of %s",
            "resumed" if event.resumed else "new",
            link.peer.subject,
            extra=link.who(),
        )
        unanswered = link.unanswered()
        self._life.station_connected(self._record(link), unanswered=unanswered)
        self._downlinks.station_connected(
            link.bs_eui, is_new=not event.resumed, unanswered=unanswered
        )
        self._center.station_changed(link.bs_eui)

    def link_down(self, link: Link, reason: str) -> None:
        logger.info("base station disconnected: %s", reason, extra=link.who())
        self._registry.station_disconnected(link.bs_eui, since_ns=time.time_ns())
        self._life.station_disconnected(self._record(link))
        self._downlinks.station_disconnected(link.bs_eui)
        self._settlement.station_gone(link.bs_eui)
        self._center.station_changed(link.bs_eui)

    def _record(self, link: Link) -> StationRecord:
        return self._registry.record(link.bs_eui, link.response.sn_sc_uuid)

    # --- while it is connected ---

    async def attend(self, link: Link) -> None:
        """Tell it what is due, and ask it how it is."""
        answer_timeout = self._center.config.server.operation_timeout
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_status, link)
            nursery.start_soon(
                partial(queue_downlinks, link, self._downlinks, answer_timeout=answer_timeout)
            )
            await propagate(link, self._life, turns=self._turns, answer_timeout=answer_timeout)

    def note_outcomes(self, link: Link, outcomes: Sequence[Answered | Refused]) -> None:
        self._life.take_outcomes(link.bs_eui, outcomes)
        self._downlinks.take_outcomes(link.bs_eui, outcomes)

    async def _ask_status(self, link: Link) -> None:
        """How it is: soon after the connect, and then now and again."""
        await trio.sleep(FIRST_STATUS)
        while True:
            sent_ns = time.time_ns()
            try:
                response = await link.call(Status())
            except (OperationLostError, OperationRefusedError, StorageError) as error:
                logger.warning("base station gives no status: %s", error, extra=link.who())
            else:
                self._take_status(link, response, sent_ns)
            await trio.sleep(self._center.config.status.interval)

    def _take_status(self, link: Link, response: Message, sent_ns: int) -> None:
        assert isinstance(response, StatusResponse)
        bs_eui = link.bs_eui
        before = self._registry.clock_offset(bs_eui)
        self._registry.status_received(
            bs_eui, response, sent_ns=sent_ns, received_ns=time.time_ns()
        )
        offset = self._registry.clock_offset(bs_eui)
        if _is_off(offset) and not _is_off(before):
            logger.warning(
                "clock of the base station is %+.3f s off; reception times are corrected by that",
                (offset or 0) / 1e9,
                extra=link.who(),
            )
        self._center.status_arrived(bs_eui, response)

    async def take_uplinks(self, link: Link, uplinks: Sequence[Requested]) -> None:
        for uplink in uplinks:
            assert isinstance(uplink.message, UplinkData)
            # A downlink does not wait for the disk: its window is short.
            self._downlinks.heard(link.bs_eui, uplink.message, is_reissued=uplink.reissued)
        await self._settlement.wait_for_room()
        now_ns = time.time_ns()
        # Nothing is awaited between taking a row number and handing it in: rows come in order.
        await self._store.append([self._reception(link, uplink, now_ns) for uplink in uplinks])

    def _reception(self, link: Link, request: Requested, now_ns: int) -> Reception:
        assert isinstance(request.message, UplinkData)
        return Reception(
            row=self._store.next_row(),
            bs_eui=link.bs_eui,
            received_ns=now_ns,
            session=link.response.sn_sc_uuid,
            uplink=request.message,
            payload=request.payload,
            reissued=request.reissued,
        )

    async def take_request(self, link: Link, request: Requested) -> Message:
        match request.message:
            case Attach(ep_eui=ep_eui) as message:
                response = await self._over_the_air.attach(link.bs_eui, message)
                self._downlinks.attached(ep_eui, link.bs_eui)
                return response
            case Detach() as message:
                heard_ns = self._by_our_clock(link.bs_eui, message.rx_time)
                return await self._over_the_air.detach(link.bs_eui, message, heard_ns=heard_ns)
            case DownlinkDataResult() as message:
                await self._downlinks.take_result(link.bs_eui, message)
                return DownlinkDataResultResponse()
            case DownlinkRxStatus() as message:
                self._downlinks.take_reception(link.bs_eui, message)
                return DownlinkRxStatusResponse()
            case VmUplinkData() as message:
                return await self._take_report(link, message, reissued=request.reissued)
        raise OperationRefusedError(Code.EOPNOTSUPP, f"{request.message.command} is not supported")

    async def _take_report(self, link: Link, message: VmUplinkData, *, reissued: bool) -> Message:
        """A Variable MAC telegram: like an uplink it is answered once it is on disk."""
        await self._settlement.pass_on(
            Report(
                bs_eui=link.bs_eui,
                received_ns=time.time_ns(),
                session=link.response.sn_sc_uuid,
                message=message,
                reissued=reissued,
            )
        )
        return VmUplinkDataResponse()

    def _by_our_clock(self, bs_eui: int, rx_time: int) -> int | None:
        offset_ns = self._registry.clock_offset(bs_eui)
        return None if offset_ns is None else rx_time - offset_ns

    def take_completion(self, link: Link, request: Message) -> None:
        """The base station has our answer; of an attach or a detach, so has the end point."""
        match request:
            case Attach():
                self._over_the_air.attach_completed(link.bs_eui, request)
                self._downlinks.served(request.ep_eui)
            case Detach():
                self._over_the_air.detach_completed(link.bs_eui, request)

    def take_answer(self, link: Link, outcome: Answered | Refused) -> None:
        """A status that comes late says nothing about the clock, but still how it is."""
        if isinstance(outcome, Answered) and isinstance(outcome.response, StatusResponse):
            self._center.status_arrived(link.bs_eui, outcome.response)


def _is_off(offset_ns: int | None) -> bool:
    return offset_ns is not None and abs(offset_ns) > CLOCK_TOLERANCE
