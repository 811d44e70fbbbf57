"""What must outlive the process, in one SQLite file: journal, outbox, history, sessions, pins.

What is kept of end points and base stations is in `life_store`, downlinks are in `downlink_store`;
both go the same way to disk.

The journal is a queue: rows are numbered in the order in which uplinks came, and everything up to
a watermark is settled. That holds only if rows get to disk in the order of their numbers, which is
why `append` refuses one that comes late.

Repeating a write that failed is always harmless: a `COMMIT` that failed may still turn up after a
crash.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

import trio

from bssci.core.protocol.errors import StorageError
from bssci.core.runtime import downlink_statements, statements
from bssci.core.runtime.commit import Committer
from bssci.core.runtime.database import DamageError, Database
from bssci.core.runtime.downlink_store import DownlinkStore
from bssci.core.runtime.life_store import LifeStore
from bssci.core.runtime.schema import StoreVersionError
from bssci.core.runtime.statements import OutboxRow, Run, StoredUplink

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from bssci.core.center.receptions import Reception, SettledUplink
    from bssci.core.protocol.resume import SessionRecord
    from bssci.core.runtime.commit import Group, State
    from bssci.core.runtime.statements import Changes, Row, Tally

__all__ = ["Counts", "OutboxRow", "Store", "StoreVersionError", "StoredUplink", "open_store"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_TAIL_ROWS = 4096
MAX_TAIL_OCTETS = 16 * 1024 * 1024
# Uplinks that were settled last, kept for `outbox`: a broker that keeps up is served without
# reading the disk. Twenty times the in-flight window, half a second at the highest load.
MAX_MARKS = 10_000
# Runs of published uplinks not yet marked on disk. In order they are one run; this many means
# that the disk has refused for long, and then repeating a few uplinks is the smaller evil.
MAX_RUNS = 64  # of these in one transaction; in order they are one, and each is a statement
MAX_LOOKED_AT = 1_024
# Reports of a base station among which one is looked for that it issues again: three times what
# one read of 64 KiB brings, and all of one read are answered together.
DELETE_LEAST = 256
# Settled journal rows are deleted in ranges of at least this many: one statement for all.
DELETE_MOST = 2048
# And at most this many: what is deleted passes through the write-ahead log, so it takes space
# before it gives any.


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much there is.

    Attributes:
        backlog: journal rows above the watermark; numbers that were reserved and never used count
            as long as the watermark is below them.
        size: octets of the database file and its write-ahead log.
        free: octets that the file system has left for us.
    """

    backlog: int
    unpublished: int
    uplinks: int
    size: int
    free: int


def _ignore(receptions: Sequence[Reception]) -> None:
    """Nobody wants to know what was committed."""


@asynccontextmanager
async def open_store(
    path: Path, *, on_commit: Callable[[Sequence[Reception]], None] = _ignore
) -> AsyncIterator[Store]:
    """The database at `path`, made if there is none; on leaving, what waits is written first.

    Args:
        on_commit: called in the trio thread with all journal rows of a transaction, in order,
            once they are on disk and before those who appended them go on. It must not raise.

    Raises:
        StorageError: the folder cannot be written, the file is another program's, or another
            process has it open. The message names the path and what to do.
        StoreVersionError: the database is newer than this program.
    """
    store = await trio.to_thread.run_sync(
        Store, path, on_commit, trio.lowlevel.current_trio_token()
    )
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await store._close()


class Store:
    """One open database; comes from `open_store`.

    Every method that waits may raise `StorageError`, code 28 (no space) or 5. Nothing was done
    then, and the same call may be repeated (`append` with new rows). Being cancelled while waiting
    leaves open whether it was done.

    Attributes:
        id: 8 hex digits, random, as old as the database.
        set_aside: where a damaged database was moved when this one was begun in its place.
        life: what is kept of end points and base stations.
        downlinks: what is to be said to end points, and what became of it.
    """

    def __init__(
        self,
        path: Path,
        on_commit: Callable[[Sequence[Reception]], None],
        token: trio.lowlevel.TrioToken,
    ) -> None:
        self._on_commit = on_commit
        self._database = Database(path)
        self.set_aside = self._database.set_aside
        last_downlink = self._load_notes()
        self._delete_step = DELETE_MOST
        self._tail: OrderedDict[int, OutboxRow] = OrderedDict()
        self._tail_octets = 0
        self._tail_floor = self._last_uplink if self._unpublished else 0
        self._runs: deque[Run] = deque()
        self._runs_written = 0
        self._marked = 0
        self._damage_met = False
        self._reading = trio.CapacityLimiter(1)
        self._committer = Committer(self._database, self, token)
        self.life = LifeStore(self._committer, self._read)
        self.downlinks = DownlinkStore(self._committer, self._read, last_downlink)

    def _load_notes(self) -> int:
        """Take up the counters; that of downlinks is for whom it concerns."""
        try:
            (notes,) = self._database.read(statements.LOAD_NOTES)
            ((last_downlink,),) = self._database.read(downlink_statements.LAST_DOWNLINK)
        except StorageError:
            self._database.close()
            raise
        numbers: list[int] = list(notes[1:])
        self.id: str = notes[0]
        self._last_row, self._settled_through, self._deleted_through = numbers[:3]
        self._last_uplink, self._uplinks, self._unpublished = numbers[3:]
        self._next_row = self._joined_row = self._last_row
        self._next_uplink = self._joined_uplink = self._last_uplink
        return int(last_downlink)

    @property
    def unpublished(self) -> int:
        """How many uplinks wait to be published."""
        return max(0, self._unpublished - self._marked)

    @property
    def is_written(self) -> bool:
        """Nothing waits to be written to disk."""
        return self._committer.is_written

    @property
    def state(self) -> State:
        """How the last write went; it returns to "ok" by itself."""
        return self._committer.state

    # numbers

    def next_row(self) -> int:
        """Reserve the next journal row. No `await` may stand between this and `append`. A number
        that never gets to disk may come again after a restart; nothing bears it then.
        """
        self._next_row += 1
        return self._next_row

    def next_uplink(self) -> int:
        """Reserve the id of the next settled uplink; uplinks are settled in that order. One that
        never gets to disk may come again after a restart, before anybody has seen it.
        """
        self._next_uplink += 1
        return self._next_uplink

    def uid(self, uplink_id: int) -> str:
        """The id of an uplink as it is published: unique also across databases."""
        return f"{self.id}-{uplink_id:x}"

    # an uplink's way

    async def append(self, receptions: Sequence[Reception]) -> None:
        """Put receptions in the journal. They are on disk when this returns; only then may
        `ulDataRsp` be sent.

        Raises:
            StorageError: none of it was done. Repeat it with new rows, or let the peer repeat it.
            ValueError: a row does not follow those appended before. It could be taken for settled.
        """
        if not receptions:
            await trio.lowlevel.checkpoint()
            return
        octets = sum([len(reception.payload) for reception in receptions])
        await self._committer.wait_for_room(len(receptions), octets)
        group = self._join_receptions(receptions, octets)
        await self._committer.wait_committed(group)
        if group.refusal is not None:
            raise StorageError(str(group.refusal)) from group.refusal

    def _join_receptions(self, receptions: Sequence[Reception], octets: int) -> Group:
        last = self._joined_row
        for reception in receptions:
            if reception.row <= last:
                raise ValueError(f"journal row {reception.row} comes after row {last}")
            last = reception.row
        group = self._committer.join(len(receptions), octets)
        self._joined_row = last
        group.changes.receptions += receptions
        return group

    async def settle(self, uplinks: Sequence[SettledUplink], *, settled_through: int) -> None:
        """Put uplinks in the outbox, and note that all journal rows up to `settled_through` are
        settled, in one transaction. What is settled is deleted from the journal.

        Raises:
            StorageError: none of it was done; repeat it as it is.
            ValueError: an id does not follow those settled before, or a body cannot be stored.
        """
        octets = sum([len(uplink.body) for uplink in uplinks])
        await self._committer.wait_for_room(len(uplinks), octets)
        group = self._join_uplinks(uplinks, octets)
        changes = group.changes
        changes.settled_through = max(changes.settled_through, settled_through)
        await self._committer.wait_committed(group)

    def _join_uplinks(self, uplinks: Sequence[SettledUplink], octets: int) -> Group:
        last = self._joined_uplink
        for uplink in uplinks:
            if uplink.id <= last:
                raise ValueError(f"uplink {uplink.id:x} comes after uplink {last:x}")
            if statements.ROW_SEPARATOR in uplink.body:
                raise ValueError(f"uplink {uplink.id:x}: its body is not JSON")
            _require_text(uplink.body)
            last = uplink.id
        group = self._committer.join(len(uplinks), octets)
        self._joined_uplink = last
        group.changes.uplinks += uplinks
        return group

    async def unsettled(self, after: int, limit: int) -> list[Reception]:
        """Up to `limit` journal rows above both `after` and the watermark, in order; an empty list
        means that there are no more. A row that cannot be read is logged and left out.
        """
        after = max(after, self._settled_through)
        while rows := await self._read(statements.UNSETTLED, after, limit):
            after = rows[-1][0]
            if receptions := await trio.to_thread.run_sync(statements.receptions_of, rows):
                return receptions
        return []

    async def remembered(
        self, since_ns: int, limit: int, *, before: SettledUplink | None = None
    ) -> list[SettledUplink]:
        """The newest uplinks first received at or after `since_ns`, newest first. The next page is
        what comes `before` the last of this one.
        """
        end = (before.received_ns, before.id) if before else (statements.MAX_INTEGER,) * 2
        rows = await self._read(statements.REMEMBERED, since_ns, *end, limit)
        return [statements.settled_of(row) for row in rows]

    async def find_uplinks(
        self, ep_eui: int, packet_cnt: int, limit: int = 16
    ) -> list[SettledUplink]:
        """The newest uplinks of an end point with this counter, newest first."""
        eui = statements.eui_text(ep_eui)
        rows = await self._read(statements.FIND_UPLINKS, eui, packet_cnt, limit)
        return [statements.settled_of(row) for row in rows]

    async def has_report(self, bs_eui: int, digest: bytes) -> bool:
        """Whether a report of this operation is among those that the base station made last."""
        eui = statements.eui_text(bs_eui)
        return bool(await self._read(statements.FIND_REPORT, eui, MAX_LOOKED_AT, digest))

    async def outbox(self, after: int, limit: int) -> list[OutboxRow]:
        """Up to `limit` uplinks and reports with higher ids than `after` that wait to be published,
        in order; an empty list: there are no more now. What was settled last comes from memory.
        """
        if after >= self._tail_floor:
            await trio.lowlevel.checkpoint()
            return list(islice((row for id_, row in self._tail.items() if id_ > after), limit))
        while True:
            written = self._runs_written
            rows = statements.outbox_rows(await self._read(statements.OUTBOX, after, limit))
            if written != self._runs_written:
                continue  # marks were written meanwhile; rows that bear them may be among these
            waiting = [row for row in rows if not self._is_marked(row.id)]
            if waiting or len(rows) < limit:
                return waiting
            after = rows[-1].id

    def mark_published(self, ids: Sequence[int], when_ns: int) -> None:
        """Note that the broker has these uplinks. It gets to disk with the next transaction, or by
        itself soon; if the process is killed before, they are published again under their ids.
        """
        for id_ in ids:
            if (row := self._tail.pop(id_, None)) is not None:
                self._tail_octets -= len(row.body)
            if self._runs and self._runs[-1].last + 1 == id_:
                self._runs[-1].last = id_
                self._runs[-1].published_ns = when_ns
            else:
                self._runs.append(Run(id_, id_, when_ns))
        self._marked += len(ids)
        self._bound_runs()
        self._committer.write_marks_soon()

    def _bound_runs(self) -> None:
        if len(self._runs) > MAX_MARKS:
            while len(self._runs) > MAX_MARKS:
                self._marked -= len(self._runs.popleft())
            logger.warning(
                "more than %d marks of published uplinks cannot be written to %s; the oldest are "
                "given up, those uplinks are published again after the next start",
                MAX_MARKS,
                self._database.path,
            )

    def _is_marked(self, id_: int) -> bool:
        writing = self._committer.writing
        runs = chain(self._runs, writing.changes.runs if writing is not None else ())
        return any(run.first <= id_ <= run.last for run in runs)

    # sessions and pins

    async def save_session(self, record: SessionRecord) -> None:
        """Store a base station's session in place of the one it had.

        Raises:
            LocalProtocolError: a pending operation breaks a rule of its type.
        """
        _require_text(record.version)
        await self._change_session(statements.session_row(record))

    async def load_session(self, bs_eui: int) -> SessionRecord | None:
        """The session of a base station as it was last saved. A pending operation that cannot be
        read is logged and left out.
        """
        for row in await self._read(statements.LOAD_SESSION, statements.eui_text(bs_eui)):
            return statements.session_of(row)
        return None

    async def session_euis(self, limit: int = 10_000) -> list[int]:
        """The base stations whose sessions are kept."""
        return [int(row[0], 16) for row in await self._read(statements.SESSION_EUIS, limit)]

    async def drop_session(self, bs_eui: int) -> None:
        """Forget a base station's session, if it has one."""
        await self._change_session((statements.eui_text(bs_eui),))

    async def _change_session(self, row: Row) -> None:
        group = self._committer.join()
        group.changes.sessions.append(row)
        await self._committer.wait_committed(group)

    async def pin(self, bs_eui: int, fingerprint: str, now_ns: int) -> str:
        """The certificate fingerprint that a base station is bound to; `fingerprint` from now on,
        if there was none. A known one is found also when nothing can be written.
        """
        for (pinned,) in await self._read(statements.PINNED, statements.eui_text(bs_eui)):
            return str(pinned)
        return await self._work(lambda db, _: statements.pin(db, bs_eui, fingerprint, now_ns))

    async def repin(self, bs_eui: int, fingerprint: str, now_ns: int) -> str | None:
        """Bind a base station to this certificate, whatever it was bound to; that is returned."""
        return await self._work(lambda db, _: statements.repin(db, bs_eui, fingerprint, now_ns))

    # history

    async def uplinks(
        self, *, ep_eui: int | None = None, since_ns: int = 0, count: int = 100
    ) -> list[StoredUplink]:
        """The newest uplinks first received at or after `since_ns`, newest first."""
        if ep_eui is None:
            rows = await self._read(statements.LIST_ALL, since_ns, count)
        else:
            eui = statements.eui_text(ep_eui)
            rows = await self._read(statements.LIST_END_POINT, eui, since_ns, count)
        return [statements.stored_of(row) for row in rows]

    async def prune(
        self, *, before_ns: int, limit: int = 500, include_unpublished: bool = False
    ) -> int:
        """Delete up to `limit` uplinks first received before `before_ns`, oldest first, and what
        is settled in the journal; how many uplinks that were. Repeat while it is `limit`.

        An uplink that waits to be published keeps itself and all after it, unless
        `include_unpublished` (there is no broker).
        """
        settled = min(self._settled_through, self._deleted_through + DELETE_MOST)

        def work(db: sqlite3.Connection, tally: Tally) -> int:
            return statements.prune(
                db,
                tally,
                settled_through=settled,
                before_ns=before_ns,
                limit=limit,
                include_unpublished=include_unpublished,
            )

        deleted = await self._work(work)
        self._deleted_through = max(self._deleted_through, settled)
        if include_unpublished:
            self._forget_tail()
        return deleted

    def _forget_tail(self) -> None:
        self._tail.clear()
        self._tail_octets = 0
        self._tail_floor = self._last_uplink

    async def counts(self) -> Counts:
        """How much there is; cheap however much that is."""
        return Counts(
            backlog=max(0, self._last_row - self._settled_through),
            unpublished=self.unpublished,
            uplinks=self._uplinks,
            size=await trio.to_thread.run_sync(self._database.size),
            free=await trio.to_thread.run_sync(self._database.free),
        )

    async def _work(self, work: Callable[[sqlite3.Connection, Tally], T]) -> T:
        results: list[T] = []
        group = self._committer.join()
        group.changes.works.append(lambda db, tally: results.append(work(db, tally)))
        await self._committer.wait_committed(group)
        return results[-1]

    # reading: a connection of its own, so it neither waits for the writer nor delays it

    async def _read(self, sql: str, *values: object) -> list[Row]:
        self._committer.require_open()
        try:
            return await trio.to_thread.run_sync(
                self._database.read, sql, values, limiter=self._reading
            )
        except DamageError:
            self._note_damage()
            self._committer.write_marks_soon()
            raise

    def _note_damage(self) -> None:
        """Have the next start examine the whole file."""
        self._damage_met = True

    # the books: for the committer alone, see `Ledger`

    def has_marks(self) -> bool:
        has_marks = self.life.has_marks() or self.downlinks.has_marks()
        return has_marks or self._damage_met or bool(self._runs)

    def add_marks(self, changes: Changes) -> None:
        while self._runs and len(changes.runs) < MAX_RUNS:
            changes.runs.append(self._runs.popleft())
        changes.damage_met, self._damage_met = self._damage_met, False
        step = min(changes.settled_through - self._deleted_through, self._delete_step)
        if step >= min(DELETE_LEAST, self._delete_step):
            changes.delete_through = self._deleted_through + step
        self.life.add_marks(changes)
        self.downlinks.add_marks(changes)

    def failed(self, changes: Changes, failure: StorageError) -> None:
        # Nobody repeats marks; uplinks are repeated as they are, and must be let in again.
        self._runs.extendleft(reversed(changes.runs))
        if changes.damage_met or isinstance(failure, DamageError):
            self._note_damage()
        waiting = self._committer.gathering.changes.uplinks
        self._joined_uplink = waiting[-1].id if waiting else self._last_uplink
        self.life.failed()
        self.downlinks.failed()

    def committed(self, group: Group, tally: Tally) -> None:
        changes = group.changes
        self._uplinks += tally.uplinks
        self._unpublished += tally.unpublished
        self._settled_through = max(self._settled_through, changes.settled_through)
        self._runs_written += len(changes.runs)
        self._marked -= sum([len(run) for run in changes.runs])
        if changes.receptions:
            self._last_row = changes.receptions[-1].row
        self._adapt_deletion(group)
        self._extend_tail(changes.uplinks)
        self.life.committed()
        self.downlinks.committed()

    def _adapt_deletion(self, group: Group) -> None:
        if group.is_crowded:
            self._delete_step = max(1, self._delete_step // 8)
        elif through := group.changes.delete_through:
            self._deleted_through = max(self._deleted_through, through)
            self._delete_step = min(DELETE_MOST, self._delete_step * 2)

    def _extend_tail(self, uplinks: Sequence[SettledUplink]) -> None:
        for uplink in uplinks:
            self._last_uplink = uplink.id
            self._tail[uplink.id] = OutboxRow(uplink.id, uplink.ep_eui, uplink.body, uplink.channel)
            self._tail_octets += len(uplink.body)
        while len(self._tail) > MAX_TAIL_ROWS or self._tail_octets > MAX_TAIL_OCTETS:
            self._tail_floor, row = self._tail.popitem(last=False)
            self._tail_octets -= len(row.body)

    def pass_on(self, group: Group) -> None:
        receptions = group.changes.receptions
        try:
            if receptions:
                self._on_commit(receptions)
        except Exception:
            # A bug, but not one that may end the service from inside trio's run loop. Not
            # acknowledged, the base stations send them again.
            logger.exception("%d uplinks are in the journal but go no further", len(receptions))
            group.refusal = StorageError("the uplinks are on disk but could not be taken on")

    async def _close(self) -> None:
        self.life.close()
        await self._committer.close()
        await trio.to_thread.run_sync(self._database.close)


def _require_text(text: str) -> None:
    """A lone surrogate, which JSON can smuggle in, would fail the transaction of everybody."""
    if not text.isascii():
        text.encode()
