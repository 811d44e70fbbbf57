"""From the journal to the outbox: rows in order, copies removed, one outbox row a telegram.

The journal is the queue. What a commit brings is settled at once; what a killed process left is
read back and goes the same way, to the same decisions.

Reports that are no uplinks go straight to the outbox. They pass through here because its rows are
numbered here.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.center.receptions import NO_COUNTER, VM, Outcome, SettledUplink, digest_of
from bssci.core.center.topics import report_body, sightings_of, uplink_body
from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.eui import format_eui

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bssci.core.center.dedup import Deduplicator
    from bssci.core.center.receptions import Reception, Report, Telegram
    from bssci.core.center.registry import Registry

__all__ = ["Journal", "Settlement"]

logger = logging.getLogger(__name__)

# How many rows may wait to be settled before base stations are no longer read: some seconds of the
# highest rate, about 100 MB.
MAX_WAITING = 20_000

# How long to wait before a settled telegram that could not be stored is tried again, in seconds.
RETRY = 1.0

# How many rows are read back at once after a restart.
BATCH = 500

# How many telegrams of an earlier process are recalled, the newest first: copies that were on their
# way when it ended. Half a minute of the highest rate, and read in about two seconds.
MAX_RECALLED = 100_000


class Journal(Protocol):
    """What settling needs of the store."""

    def next_uplink(self) -> int:
        """Reserve the ID of an outbox row."""
        ...

    def uid(self, uplink_id: int) -> str:
        """The `id` under which an uplink is published, however often."""
        ...

    async def settle(self, uplinks: Sequence[SettledUplink], *, settled_through: int) -> None:
        """Write outbox rows and how far the journal is settled, in one transaction."""
        ...

    async def unsettled(self, after: int, limit: int) -> list[Reception]:
        """Journal rows that are not settled, in order."""
        ...

    async def remembered(
        self, since_ns: int, limit: int, *, before: SettledUplink | None = None
    ) -> list[SettledUplink]:
        """What was settled of the time since then, newest first; what is older than `before`."""
        ...

    async def find_uplinks(self, ep_eui: int, packet_cnt: int) -> list[SettledUplink]:
        """What was settled of this end point and counter."""
        ...

    async def has_report(self, bs_eui: int, digest: bytes) -> bool:
        """Whether a report of this operation is among the base station's last ones."""
        ...


def _ignore(telegrams: Sequence[Telegram], through: int) -> None:
    """Nobody wants to know who was heard."""


def _at_the_beginning(ep_eui: int) -> int:
    """No end point has attached over the air."""
    return 0


@dataclass(frozen=True, slots=True)
class _NewEpoch:
    """Between two rows: what an end point counts is new from here on."""

    ep_eui: int


@dataclass(eq=False, slots=True)
class _Passage:
    """A report on its way to the disk, for which somebody waits."""

    report: Report
    over: trio.Event = field(default_factory=trio.Event)
    failure: StorageError | None = None


class Settlement:
    """Settles the journal; `run` it in one task.

    Attributes:
        received: receptions settled since the start.
        duplicates: those of them that were copies.
        unregistered: telegrams of end points that are not registered.
        released: telegrams put into the outbox.
    """

    def __init__(
        self,
        journal: Journal,
        dedup: Deduplicator,
        registry: Registry,
        *,
        is_registered: Callable[[int], bool],
        drop_unknown: bool,
        memory_ns: int,
        unix_ns: Callable[[], int],
        on_settled: Callable[[Sequence[SettledUplink]], None],
        on_heard: Callable[[Sequence[Telegram], int], None] = _ignore,
        began_ns: Callable[[int], int] = _at_the_beginning,
    ) -> None:
        """
        Args:
            on_settled: told of uplinks, and of reports behind them, once they are on disk.
            on_heard: told then of the telegrams they were made of, and the newest uplink's id.
            began_ns: Unix time since which the counters of an end point are the present ones.
        """
        self.received = self.duplicates = self.unregistered = self.released = 0
        self._journal = journal
        self._dedup = dedup
        self._registry = registry
        self._is_registered = is_registered
        self._drop_unknown = drop_unknown
        self._memory_ns = memory_ns
        self._unix_ns = unix_ns
        self._on_settled = on_settled
        self._on_heard = on_heard
        self._began_ns = began_ns
        self._before: set[int] = set()
        """While recovering: end points of which something from before their attach was met."""
        self._begun: set[int] = set()
        """And those of which something from after it was met."""
        self._waiting: deque[Reception | _NewEpoch] = deque()
        self._passages: list[_Passage] = []
        self._last_row = 0
        self._settled_through = 0
        self._due = trio.Event()
        self._room = trio.Event()
        self._idle = trio.Event()
        self._is_busy = False

    def configure(self, *, drop_unknown: bool) -> None:
        """Change what is done with uplinks of end points that are not registered."""
        self._drop_unknown = drop_unknown

    def committed(self, receptions: Sequence[Reception]) -> None:
        """These rows are on disk: settle them. Rows come in order."""
        self._waiting.extend(receptions)
        self._due.set()

    def new_epoch(self, ep_eui: int) -> None:
        """An end point was attached anew: its counters say nothing about earlier uplinks."""
        self._waiting.append(_NewEpoch(ep_eui))
        self._due.set()

    async def pass_on(self, report: Report) -> None:
        """Put a report into the outbox. It is on disk when this returns; only then may it be
        answered. One that was issued again and is there already stays there once.

        Raises:
            StorageError: it is not on disk. Let the base station repeat it.
        """
        passage = _Passage(report)
        self._passages.append(passage)
        self._due.set()
        try:
            await passage.over.wait()
        finally:
            with suppress(ValueError):
                self._passages.remove(passage)
        if passage.failure is not None:
            raise StorageError(str(passage.failure), code=passage.failure.code) from passage.failure

    def station_gone(self, bs_eui: int) -> None:
        """A base station is not connected any more: nothing waits for it."""
        self._dedup.disconnected(bs_eui)
        self._due.set()

    async def wait_for_room(self) -> None:
        """Return at once, or when settling has caught up."""
        while len(self._waiting) >= MAX_WAITING:
            await self._room.wait()

    async def wait_until_idle(self) -> None:
        """Return when everything that was taken is in the outbox."""
        while self._waiting or self._passages or self._is_busy or self._dedup.open_count:
            await self._idle.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take back what an earlier process left, report started, then settle for ever."""
        await self._recover()
        task_status.started()
        while True:
            await self._wait_until_due()
            self._is_busy = True
            await self._take_waiting()
            await self._release(await self._new_reports())
            self._is_busy = False
            self._idle.set()
            self._idle = trio.Event()

    # --- rows in ---

    async def _wait_until_due(self) -> None:
        due_ns = self._dedup.next_due()
        with trio.move_on_at(math.inf if due_ns is None else due_ns / 1e9):
            await self._due.wait()
        self._due = trio.Event()

    async def _take_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._room.set()
        self._room = trio.Event()
        await self._take_all(waiting)

    async def _take_all(
        self, rows: Iterable[Reception | _NewEpoch], *, from_disk: bool = False
    ) -> None:
        for reception in rows:
            if isinstance(reception, _NewEpoch):
                self._dedup.new_epoch(reception.ep_eui)
                continue
            if from_disk:
                self._pass_attach(reception.uplink.ep_eui, reception.received_ns)
            if reception.reissued:
                await self._recall_like(reception)
            try:
                self._take(reception, from_disk=from_disk)
            except Exception:
                # One row must not end the service, nor every start after this one.
                logger.exception("journal row %d is passed over; this is our fault", reception.row)
                self._last_row = reception.row

    def _pass_attach(self, ep_eui: int, received_ns: int) -> None:
        """What is read back, in order, may be from before an attach and from after it."""
        if received_ns < self._began_ns(ep_eui):
            self._before.add(ep_eui)
        elif ep_eui in self._before and ep_eui not in self._begun:
            self._begun.add(ep_eui)
            self._dedup.new_epoch(ep_eui)

    def _take(self, reception: Reception, *, from_disk: bool) -> None:
        registry, bs_eui = self._registry, reception.bs_eui
        ep_eui = reception.uplink.ep_eui
        outcome = self._dedup.receive(
            reception,
            now_ns=_now_ns(),
            clock_offset_ns=registry.clock_offset(bs_eui),
            expected=registry.expected_receivers(ep_eui),
            from_disk=from_disk,
        )
        self._last_row = reception.row
        self.received += 1
        self.duplicates += outcome.is_copy
        registry.uplink_received(bs_eui)
        if outcome is Outcome.LATE_COPY:
            registry.heard_late(ep_eui, reception.uplink.packet_cnt, bs_eui)

    async def _recall_like(self, reception: Reception) -> None:
        """An operation that is issued again may be older than what is remembered."""
        uplink = reception.uplink
        try:
            known = await self._journal.find_uplinks(uplink.ep_eui, uplink.packet_cnt)
        except StorageError as error:
            logger.warning(
                "an uplink that was sent again may be published twice: %s",
                error,
                extra={"bs_eui": format_eui(reception.bs_eui), "ep_eui": format_eui(uplink.ep_eui)},
            )
            return
        digest, began_ns = digest_of(uplink), self._began_ns(uplink.ep_eui)
        like = [u for u in reversed(known) if u.digest == digest and u.received_ns >= began_ns]
        self._recall(like)

    # --- reports in ---

    async def _new_reports(self) -> list[_Passage]:
        """Those that wait and are not on disk yet."""
        passages, self._passages = self._passages, []
        new = []
        for passage in passages:
            if passage.report.reissued and await self._is_on_disk(passage.report):
                passage.over.set()
            else:
                new.append(passage)
        return new

    async def _is_on_disk(self, report: Report) -> bool:
        try:
            return await self._journal.has_report(report.bs_eui, report.digest)
        except StorageError as error:
            logger.warning(
                "a report that was sent again may be published twice: %s",
                error,
                extra={"bs_eui": format_eui(report.bs_eui)},
            )
            return False

    # --- telegrams and reports out ---

    async def _release(self, passages: Sequence[_Passage] = ()) -> None:
        telegrams = self._dedup.due(_now_ns())
        uplinks = [uplink for telegram in telegrams if (uplink := self._settle(telegram))]
        oldest = self._dedup.oldest_open_row()
        through = self._last_row if oldest is None else oldest - 1
        reports = [self._settle_report(passage.report) for passage in passages]
        if reports and not await self._try_to_store([*uplinks, *reports], through, passages):
            reports = []
        if not reports and (uplinks or through > self._settled_through):
            await self._store(uplinks, through)
        self._settled_through = max(through, self._settled_through)
        self.released += len(uplinks)
        if settled := [*uplinks, *reports]:
            self._on_settled(settled)
        if uplinks:
            self._on_heard(telegrams, uplinks[-1].id)

    def _settle(self, telegram: Telegram) -> SettledUplink | None:
        self._registry.heard(telegram)
        is_registered = self._is_registered(telegram.ep_eui)
        if not is_registered:
            self.unregistered += 1
            if self._drop_unknown:
                return None
        uplink_id = self._journal.next_uplink()
        uid = self._journal.uid(uplink_id)
        return SettledUplink(
            id=uplink_id,
            ep_eui=telegram.ep_eui,
            packet_cnt=telegram.packet_cnt,
            digest=telegram.digest,
            received_ns=telegram.received_ns,
            journal_row=telegram.row,
            body=uplink_body(telegram, uid=uid, registered=is_registered),
        )

    def _settle_report(self, report: Report) -> SettledUplink:
        uplink_id = self._journal.next_uplink()
        return SettledUplink(
            id=uplink_id,
            ep_eui=report.bs_eui,
            packet_cnt=NO_COUNTER,
            digest=report.digest,
            received_ns=report.received_ns,
            journal_row=0,
            body=report_body(report, uid=self._journal.uid(uplink_id)),
            channel=VM,
        )

    async def _try_to_store(
        self, settled: Sequence[SettledUplink], through: int, passages: Sequence[_Passage]
    ) -> bool:
        """Once: a report that is not on disk is still with its base station."""
        failure = None
        try:
            await self._journal.settle(settled, settled_through=through)
        except StorageError as error:
            failure = error
        _end(passages, failure)
        return failure is None

    async def _store(self, uplinks: Sequence[SettledUplink], through: int) -> None:
        """Until it is done: until then what is settled is in the journal and nowhere else."""
        is_waiting = False
        while True:
            try:
                await self._journal.settle(uplinks, settled_through=through)
            except StorageError as error:
                if not is_waiting:
                    logger.error("%d settled uplinks wait for the disk: %s", len(uplinks), error)
                is_waiting = True
                _end(self._passages, error)
                self._passages.clear()
                await trio.sleep(RETRY)
            else:
                if is_waiting:
                    logger.info(
                        "%d settled uplinks waited for the disk and are on it", len(uplinks)
                    )
                return

    # --- after a restart ---

    async def _recover(self) -> None:
        rows = await self._journal.unsettled(0, BATCH)
        newest_ns = rows[0].received_ns if rows else self._unix_ns()
        await self._remember(newest_ns - self._memory_ns)
        count = 0
        while rows:
            await self._take_all(rows, from_disk=True)
            count += len(rows)
            await self._release()
            rows = await self._journal.unsettled(rows[-1].row, BATCH)
        for ep_eui in self._before - self._begun:
            self._dedup.new_epoch(ep_eui)
        self._before.clear()
        self._begun.clear()
        if count:
            logger.info("%d receptions that were not settled come from the journal", count)

    async def _remember(self, since_ns: int) -> None:
        """Recall what was settled lately; the oldest first, as it came."""
        known: list[SettledUplink] = []
        page = await self._journal.remembered(since_ns, BATCH)
        while page and len(known) < MAX_RECALLED:
            known += page
            page = await self._journal.remembered(since_ns, BATCH, before=page[-1])
        known.reverse()
        for start in range(0, len(known), BATCH):
            for settled in known[start : start + BATCH]:
                self._pass_attach(settled.ep_eui, settled.received_ns)
                self._recall([settled])
            await trio.lowlevel.checkpoint()

    def _recall(self, known: Sequence[SettledUplink]) -> None:
        for settled in known:
            try:
                sightings = sightings_of(settled.body)
            except StorageError as error:
                logger.warning("%s", error)
                continue
            for seen in sightings:
                if seen.rx_time_corrected is not None:
                    self._registry.recall_clock(seen.bs_eui, seen.rx_time - seen.rx_time_corrected)
            self._dedup.recall(settled, sightings, now_ns=_now_ns())


def _end(passages: Sequence[_Passage], failure: StorageError | None) -> None:
    for passage in passages:
        passage.failure = failure
        passage.over.set()


def _now_ns() -> int:
    """The clock of windows and ageing: monotonic."""
    return int(trio.current_time() * 1e9)
