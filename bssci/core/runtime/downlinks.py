"""Downlinks, from the wish to the result: the methods behind the command line, MQTT and the control
socket, and what base stations are told of it (BSSCI 1.0.0, 5.12 to 5.16).

A downlink is on disk before anything is done about it. Then `dispatch` says which base station is
told what, `queueing` tells it, and what comes back is noted before the session is saved in which
the operation is over. What happens is told to one function that is handed in.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.center.dispatch import Dispatch, News, Operation, overruled
from bssci.core.center.downlinks import (
    Downlink,
    DownlinkRecord,
    DownlinkState,
    InvalidDownlinkError,
    downlink_of,
    downlink_shape,
)
from bssci.core.center.routes import Routes
from bssci.core.center.rpc import BusyError, InvalidRequestError, NotFoundError, RequestError
from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.events import Answered
from bssci.core.protocol.messages import AttachPropagate, DownlinkDataQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bssci.core.center.downlinks import Result
    from bssci.core.center.receptions import Telegram
    from bssci.core.protocol.events import Refused
    from bssci.core.protocol.messages import (
        DownlinkDataResult,
        DownlinkDataRevoke,
        DownlinkRxStatus,
        Message,
        UplinkData,
    )
    from bssci.core.runtime.life import Life

__all__ = ["Downlinks", "Ledger", "ReceptionReport"]

logger = logging.getLogger(__name__)

WAIT = 30.0  # seconds that a method waits for base stations when it is not told otherwise
MAX_WAIT = 3600.0  # seconds
MAX_LISTED = 10_000  # downlinks in one answer

MAX_DOWNLINKS = 100_000
# That have not ended, of all end points together: ten for each of the largest installation we are
# built for, about 100 MB.

FRESH = 5.0
# Seconds since an uplink was received, by the base station's clock, in which it is taken for a new
# one though it may be issued again: after a crash that is said of the next hundreds that are new.

Fields = dict[str, object]


class Ledger(Protocol):
    """What this needs of the store. Each coroutine may raise `StorageError`."""

    def next_id(self) -> int:
        """Reserve a queue ID; it is never given again."""
        ...

    async def decide(self, records: Sequence[DownlinkRecord]) -> None:
        """On disk when it returns."""
        ...

    def note(self, record: DownlinkRecord) -> None:
        """With one of the next transactions."""
        ...

    async def flush(self) -> None:
        """On disk when it returns, all that was noted."""
        ...

    async def pending(self) -> list[DownlinkRecord]:
        """All that have not ended, or that somebody may still say something about."""
        ...

    async def listing(
        self, ep_eui: int | None, state: DownlinkState | None, count: int
    ) -> list[DownlinkRecord]:
        """The newest first."""
        ...

    async def find(self, que_id: int) -> DownlinkRecord | None:
        """That one."""
        ...


@dataclass(frozen=True, slots=True)
class ReceptionReport:
    """How an end point has received a downlink, as it has told a base station (5.15)."""

    bs_eui: int
    report: DownlinkRxStatus
    at_ns: int

    def shape(self) -> Fields:
        """As listings show it; `snr` in dB, `rssi` in dBm."""
        return {
            "bs_eui": format_eui(self.bs_eui),
            "time": self.at_ns / 1e9,
            "cnt": self.report.packet_cnt,
            "snr": self.report.dl_rx_snr,
            "rssi": self.report.dl_rx_rssi,
        }


class Downlinks:
    """All downlinks of a Service Center.

    The methods that are named `downlinks.…` may raise `RequestError` (or a kind of it), whose words
    are for the person who asked, and `StorageError`: nothing was done then.
    """

    def __init__(
        self,
        ledger: Ledger,
        life: Life,
        *,
        find: Callable[[str], int],
        can_transmit: Callable[[int], bool],
        lifetime: Callable[[], float],
        max_per_sensor: Callable[[], int],
        unix_ns: Callable[[], int],
        tell: Callable[[News], None],
        tell_reception: Callable[[int, DownlinkRxStatus], None],
    ) -> None:
        """
        Args:
            find: the registered end point that an EUI or a name means.
            can_transmit: whether a base station is connected and bidirectional.
            lifetime: seconds until a downlink expires, unless it says so itself; asked each time,
                as is `max_per_sensor`.
            tell, tell_reception: told what happens; must not raise.
        """
        self._ledger = ledger
        self._life = life
        self._find = find
        self._can_transmit = can_transmit
        self._lifetime = lifetime
        self._max_per_sensor = max_per_sensor
        self._unix_ns = unix_ns
        self._tell = tell
        self._tell_reception = tell_reception
        self._dispatch = Dispatch()
        self._routes = Routes()
        self._adding: Counter[int] = Counter()
        self._receptions: dict[int, ReceptionReport] = {}
        self._wakes: dict[int, trio.Event] = {}
        self._ends: dict[int, trio.Event] = {}
        self._alarm = trio.Event()
        self._alarm_at = math.inf

    async def load(self) -> None:
        """Take up what an earlier process left; no base station is connected yet.

        Raises:
            StorageError: it cannot be read.
        """
        now, now_ns = trio.current_time(), self._unix_ns()
        records = await self._ledger.pending()
        for record in records:
            left = (record.downlink.expires_ns - now_ns) / 1e9
            self._dispatch.recall(record, deadline=now + left)
        for ep_eui in {record.downlink.ep_eui for record in records}:
            self._abandon_if_gone(ep_eui)
        self._settle()

    async def run(self) -> None:
        """Have downlinks expire, and try again what was put off, until cancelled."""
        while True:
            with trio.move_on_at(self._alarm_at):
                await self._alarm.wait()
            self._alarm = trio.Event()
            self._dispatch.pass_time(now=trio.current_time(), at_ns=self._unix_ns())
            self._settle()

    # --- what applications want ---

    async def send(self, downlink: Downlink) -> DownlinkRecord:
        """Have something said to an end point; it is on disk when this returns.

        Args:
            downlink: from `made`.

        Raises:
            NotFoundError: the end point is not registered.
            RequestError: it cannot receive, or too many downlinks wait for it.
        """
        ep_eui = downlink.ep_eui
        self._check_end_point(ep_eui)
        self._check_room(ep_eui)
        self._adding[ep_eui] += 1
        try:
            # Whoever asked may wait no longer; what is on disk is seen to all the same.
            with trio.CancelScope(shield=True):
                await self._ledger.decide([DownlinkRecord(downlink=downlink)])
        finally:
            self._adding[ep_eui] -= 1
            if not self._adding[ep_eui]:
                del self._adding[ep_eui]
        left = (downlink.expires_ns - self._unix_ns()) / 1e9
        self._dispatch.add(downlink, deadline=trio.current_time() + left)
        self._abandon_if_gone(ep_eui)
        self._settle()
        return self._dispatch.record(downlink.que_id) or DownlinkRecord(downlink=downlink)

    def _check_end_point(self, ep_eui: int) -> None:
        wish = self._life.roster.wish(ep_eui)
        name = f"sensor {format_eui(ep_eui)}"
        if wish is None:
            raise NotFoundError(
                f"{name} is not registered", hint="`bssci sensors list` shows those that are"
            )
        if not wish.end_point.bidi:
            raise RequestError(
                f"{name} cannot receive: it is not bidirectional",
                hint=f"if it can, `bssci sensors set {format_eui(ep_eui)} --bidi`",
            )
        if wish.wanted == "detached":
            raise RequestError(
                f"{name} is detached", hint=f"first `bssci sensors attach {format_eui(ep_eui)}`"
            )

    def made(self, ep_eui: int, given: Mapping[str, object]) -> Downlink:
        """The downlink that parameters describe, to be sent; nothing is done yet.

        Args:
            given: as `center.downlinks.downlink_of` reads it.

        Raises:
            InvalidRequestError: says everything that is wrong with what was given.
        """
        try:
            return downlink_of(
                given,
                ep_eui=ep_eui,
                que_id=self._ledger.next_id(),
                now_ns=self._unix_ns(),
                lifetime_ns=round(self._lifetime() * 1e9),
            )
        except InvalidDownlinkError as error:
            raise InvalidRequestError(str(error)) from error

    def _check_room(self, ep_eui: int) -> None:
        count, most = len(self._dispatch.waiting(ep_eui)), self._max_per_sensor()
        if count + self._adding[ep_eui] >= most:
            raise BusyError(
                f"{count} downlinks wait for sensor {format_eui(ep_eui)} already, at most {most} "
                "are possible (downlinks.max_per_sensor)",
                hint="wait until some are sent, or `bssci downlinks cancel`",
            )
        if len(self._dispatch) + self._adding.total() >= MAX_DOWNLINKS:
            raise BusyError(f"{MAX_DOWNLINKS} downlinks wait already", hint="try again later")

    # --- the methods ---

    async def send_method(
        self,
        *,
        eui: str,
        data: str | list[int] | None = None,
        entries: list[dict[str, object]] | None = None,
        ref: str | int | float | None = None,
        prio: float | None = None,
        format: int | None = None,  # noqa: A002  # the field's name
        response_exp: bool | None = None,
        response_prio: bool | None = None,
        dl_wind_req: bool | None = None,
        exp_only: bool | None = None,
        expires_in: float | None = None,
        query_rx: bool | None = None,
    ) -> Fields:
        """Have something said to a sensor in one of its next windows."""
        given: dict[str, object] = {
            "data": data,
            "entries": entries,
            "ref": ref,
            "prio": prio,
            "format": format,
            "response_exp": response_exp,
            "response_prio": response_prio,
            "dl_wind_req": dl_wind_req,
            "exp_only": exp_only,
            "expires_in": expires_in,
            "query_rx": query_rx,
        }
        return downlink_shape(await self.send(self.made(self._find(eui), given)))

    async def list_method(
        self, *, eui: str | None = None, state: str | None = None, count: int = 100
    ) -> list[Fields]:
        """Downlinks, the newest first; those that have ended are kept for a while."""
        ep_eui = None if eui is None else self._find(eui)
        if not 0 < count <= MAX_LISTED:
            raise InvalidRequestError(f"count: found {count}, 1 to {MAX_LISTED} are possible")
        wanted = _state(state)
        with contextlib.suppress(StorageError):
            await self._ledger.flush()  # what has just happened is part of it
        return [downlink_shape(each) for each in await self._ledger.listing(ep_eui, wanted, count)]

    async def cancel_method(
        self,
        *,
        id: int | None = None,  # noqa: A002  # as in listings
        eui: str | None = None,
        timeout: float = WAIT,
    ) -> list[Fields]:
        """Have a downlink not sent any more, or all that wait for a sensor; what became of them.

        A base station that holds one is asked to drop it; `timeout` says how long to wait for it.
        """
        if not 0 <= timeout <= MAX_WAIT:
            raise InvalidRequestError(f"cannot wait {timeout:g} s: 0 to {MAX_WAIT:g} are possible")
        if (id is None) == (eui is None):
            raise InvalidRequestError("the id of a downlink or the eui of a sensor is needed")
        que_ids = [id] if id is not None else self._dispatch.waiting(self._find(eui or ""))
        ended = [each for que_id in que_ids if (each := await self._cancel(que_id)) is not None]
        with trio.move_on_after(timeout):
            for que_id in que_ids:
                await self._wait_ended(que_id)
        with contextlib.suppress(StorageError):
            await self._ledger.flush()  # what is told holds after a crash, too
        known = {each.downlink.que_id: each for each in ended}
        records = [known.get(que_id) or await self._look_up(que_id) for que_id in que_ids]
        return [downlink_shape(each) for each in records]

    async def _cancel(self, que_id: int) -> DownlinkRecord | None:
        """The record of one that has ended before."""
        at_ns = self._unix_ns()
        if self._dispatch.cancel(que_id, at_ns=at_ns):
            self._settle()
            return None
        return await self._look_up(que_id)

    async def _wait_ended(self, que_id: int) -> None:
        while (record := self._dispatch.record(que_id)) is not None and record.ending is None:
            await self._ends.setdefault(que_id, trio.Event()).wait()

    async def _look_up(self, que_id: int) -> DownlinkRecord:
        record = self._dispatch.record(que_id)
        if record is None:
            with contextlib.suppress(StorageError):
                await self._ledger.flush()  # how it has ended may not be on disk yet
            record = await self._ledger.find(que_id)
        if record is None:
            raise NotFoundError(
                f"there is no downlink {que_id}",
                hint="`bssci downlinks list` shows what there is",
            )
        return record

    # --- showing ---

    def counts(self) -> dict[str, int]:
        """How many wait, and how many of them are at a base station."""
        return self._dispatch.counts()

    def reception(self, ep_eui: int) -> Fields | None:
        """How an end point has received the last downlink that it told about, as listings show it;
        None: it has told nothing since the start.
        """
        report = self._receptions.get(ep_eui)
        return None if report is None else report.shape()

    # --- end points ---

    def heard(self, bs_eui: int, uplink: UplinkData, *, is_reissued: bool) -> None:
        """An uplink has come in; called for each, before it is on disk.

        The window that it opens is short: what waits for this end point leaves at once.

        Args:
            is_reissued: it may be old, and its window with it; `FRESH` says which is not.
        """
        ep_eui = uplink.ep_eui
        wish = self._life.roster.wish(ep_eui)
        if wish is None or not wish.end_point.bidi:
            return
        is_old = is_reissued and abs(self._unix_ns() - uplink.rx_time) > FRESH * 1e9
        if not is_old:
            self._routes.heard(bs_eui, uplink)
        if not self._dispatch.is_watched(ep_eui):
            return
        if uplink.dl_open:
            # Also if it is old: better to wait for a result in vain than to send twice.
            self._dispatch.window_opened(ep_eui, bs_eui, now=trio.current_time())
        if is_old and self._is_of_earlier_epoch(uplink):
            return
        self._dispatch.heard(ep_eui, uplink.packet_cnt, dl_ack=uplink.dl_ack, at_ns=self._unix_ns())
        self._route(ep_eui)
        self._settle()

    def _is_of_earlier_epoch(self, uplink: UplinkData) -> bool:
        """Its counter is from before the last attach, and names none of the windows since."""
        attachment = self._life.attachments.get(uplink.ep_eui)
        return attachment is not None and uplink.rx_time < attachment.at_ns

    def settled(self, telegrams: Iterable[Telegram]) -> None:
        """Telegrams are complete: all who have received them are known."""
        for telegram in telegrams:
            ep_eui = telegram.ep_eui
            if self._dispatch.is_watched(ep_eui) and telegram.best.uplink.dl_open:
                receivers = {heard.reception.bs_eui for heard in telegram.receptions}
                others = [each for each in receivers if self._may_take(each, ep_eui)]
                self._dispatch.received_by(ep_eui, receivers, others)
                self._settle()

    def attached(self, ep_eui: int, bs_eui: int) -> None:
        """An end point has attached over the air at this base station."""
        self._routes.attached(ep_eui, bs_eui)
        self._take_attach(bs_eui, ep_eui, 0)
        self._settle()

    def served(self, ep_eui: int) -> None:
        """The base station at which it has attached over the air serves it from now on."""
        if self._dispatch.is_watched(ep_eui):
            self._route(ep_eui)
            self._settle()

    def detached(self, ep_eui: int, result: Result) -> None:
        """An end point is not to be served any more: what waits for it ends so."""
        self._routes.forget(ep_eui)
        self._receptions.pop(ep_eui, None)
        self._abandon(ep_eui, result)
        self._settle()

    def _abandon_if_gone(self, ep_eui: int) -> None:
        """It was detached while nobody here could be told."""
        wish = self._life.roster.wish(ep_eui)
        if wish is None or wish.wanted == "detached":
            self._abandon(ep_eui, "revoked")

    def _abandon(self, ep_eui: int, result: Result) -> None:
        message = "the sensor is detached"
        self._dispatch.abandon(ep_eui, result, message, at_ns=self._unix_ns())

    # --- base stations ---

    def station_connected(
        self, bs_eui: int, *, is_new: bool, unanswered: Sequence[Message] = ()
    ) -> None:
        """A base station is connected; `unanswered`: what a resumed session issues again."""
        self._dispatch.station_connected(
            bs_eui,
            is_new=is_new,
            unanswered=unanswered,
            now=trio.current_time(),
            at_ns=self._unix_ns(),
        )
        self._settle()

    def station_disconnected(self, bs_eui: int) -> None:
        """Its connection has ended."""
        self._dispatch.station_disconnected(bs_eui, at_ns=self._unix_ns())
        self._settle()

    def next_operation(self, bs_eui: int) -> Operation | None:
        """What a base station is to be told next, on its way from now on; None: nothing now."""
        return self._dispatch.next_operation(bs_eui, now=trio.current_time())

    async def wait_for_operations(self, bs_eui: int) -> None:
        """Return when there may be something to tell a base station that was told everything."""
        await self._wakes.setdefault(bs_eui, trio.Event()).wait()

    def take_outcomes(self, bs_eui: int, outcomes: Iterable[Answered | Refused]) -> None:
        """A base station has answered, or refused, some of what it was told; any operation."""
        now, at_ns = trio.current_time(), self._unix_ns()
        for outcome in outcomes:
            request = outcome.request
            if isinstance(outcome, Answered):
                if isinstance(request, AttachPropagate):
                    self._take_attach(bs_eui, request.ep_eui, request.op_id)
                else:
                    self._dispatch.answered(bs_eui, request, now=now, at_ns=at_ns)
            else:
                self._dispatch.refused(
                    bs_eui, request, outcome.code, outcome.message, now=now, at_ns=at_ns
                )
        self._settle()

    def _take_attach(self, bs_eui: int, ep_eui: int, op_id: int) -> None:
        """The base station serves it now, and has dropped what it had queued for it."""
        if self._dispatch.is_watched(ep_eui):
            now, at_ns = trio.current_time(), self._unix_ns()
            self._dispatch.attached(bs_eui, ep_eui, op_id, now=now, at_ns=at_ns)
            self._route(ep_eui)

    def timed_out(self, bs_eui: int, request: DownlinkDataQueue | DownlinkDataRevoke) -> None:
        """A base station has not answered what it was told in time."""
        now, at_ns = trio.current_time(), self._unix_ns()
        self._dispatch.timed_out(bs_eui, request, now=now, at_ns=at_ns)
        self._settle()

    def not_sent(self, bs_eui: int, request: DownlinkDataQueue | DownlinkDataRevoke) -> None:
        """It could not be told after all."""
        now, at_ns = trio.current_time(), self._unix_ns()
        self._dispatch.not_sent(bs_eui, request, now=now, at_ns=at_ns)
        self._settle()

    async def take_result(self, bs_eui: int, said: DownlinkDataResult) -> None:
        """A base station reports what has become of a downlink. It is on disk when this returns.

        Raises:
            StorageError: it is not on disk; the base station may repeat it.
        """
        at_ns = self._unix_ns()
        if not self._dispatch.take_result(bs_eui, said, at_ns=at_ns):
            await self._ledger.flush()  # how it has ended may not be on disk yet
            record = await self._ledger.find(said.que_id)
            news = None if record is None else overruled(record, bs_eui, said, at_ns=at_ns)
            if news is not None:
                self._take_news(news)
            else:
                logger.debug(
                    "result %r of downlink %d says nothing new",
                    said.result,
                    said.que_id,
                    extra={"bs_eui": format_eui(bs_eui), "ep_eui": format_eui(said.ep_eui)},
                )
        self._settle()
        await self._ledger.flush()

    def take_reception(self, bs_eui: int, report: DownlinkRxStatus) -> None:
        """A base station reports how an end point has received a downlink."""
        ep_eui = report.ep_eui
        if ep_eui in self._life.roster:
            self._receptions[ep_eui] = ReceptionReport(bs_eui, report, self._unix_ns())
            self._tell_reception(bs_eui, report)

    # --- after each change ---

    def _settle(self) -> None:
        """Store and tell what has changed, find ways for what waits, wake who is to act."""
        dispatch = self._dispatch
        while True:
            for news in dispatch.take_news():
                self._take_news(news)
            if not (unrouted := dispatch.take_unrouted()):
                break
            for ep_eui in unrouted:
                self._route(ep_eui)
        for bs_eui in dispatch.take_due():
            if (event := self._wakes.pop(bs_eui, None)) is not None:
                event.set()
        at = dispatch.next_time()
        if at is not None and at < self._alarm_at:
            self._alarm.set()
        self._alarm_at = math.inf if at is None else at

    def _take_news(self, news: News) -> None:
        self._ledger.note(news.record)
        if news.event is not None:
            self._tell(news)
        has_ended = news.record.ending is not None
        if has_ended and (event := self._ends.pop(news.record.downlink.que_id, None)) is not None:
            event.set()

    def _route(self, ep_eui: int) -> None:
        ways = self._routes.to(ep_eui) or self._heard_before(ep_eui)
        stations = [bs_eui for bs_eui in ways if self._may_take(bs_eui, ep_eui)]
        self._dispatch.route(ep_eui, stations, now=trio.current_time())

    def _heard_before(self, ep_eui: int) -> Sequence[int]:
        """Who heard it best before this process began, or took its attach."""
        hearing = self._life.roster.hearing(ep_eui)
        if hearing is not None:
            return (hearing.preferred.bs_eui,)
        attachment = self._life.attachments.get(ep_eui)
        return () if attachment is None else (attachment.bs_eui,)

    def _may_take(self, bs_eui: int, ep_eui: int) -> bool:
        is_served = self._life.lifecycle.state(bs_eui, ep_eui) == "confirmed"
        return is_served and self._can_transmit(bs_eui)


_STATES: tuple[DownlinkState, ...] = (
    *("queued", "at_station", "sent", "acknowledged"),
    *("expired", "invalid", "revoked", "rejected"),
)


def _state(text: str | None) -> DownlinkState | None:
    if text is None:
        return None
    for state in _STATES:
        if text == state:
            return state
    raise InvalidRequestError(f"state: {', '.join(_STATES)} are possible")
