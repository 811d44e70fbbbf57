"""The part of the store that keeps downlinks.

It is written in two ways, as what is kept of end points in `life_store`. A decision is on disk
before it is acted upon. What is learned is noted, and goes along with the next transaction, whoever
wants one. Of the records of one downlink the one that was handed over last is on disk in the end,
decided or noted, whatever failed in between; and notes made before a session is saved are on disk
when the session is.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import trio

from bssci.core.runtime import downlink_statements as statements

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from bssci.core.center.downlinks import DownlinkRecord, DownlinkState
    from bssci.core.runtime.commit import Committer
    from bssci.core.runtime.statements import Changes, Row, Tally

__all__ = ["DownlinkStore"]

PAGE = 4096  # rows read at once: nobody else reads meanwhile
FIRST_FOREIGN = 2**53  # queue IDs from here on are none of ours
ACKNOWLEDGED_WITHIN = 7 * 24 * 3600 * 10**9
# Nanoseconds from when a downlink was sent. The acknowledgement comes with the next uplink of the
# end point; one that was silent for longer has forgotten what it got.
MAX_UNACKNOWLEDGED = 10_000

_Told = dict[int, "tuple[int, DownlinkRecord]"]
"""By queue ID: the number of the call, and the record."""


class DownlinkStore:
    """Downlinks, from when they are accepted until their results have been looked at for long.

    It belongs to a `Store`, is written in its transactions, and raises what its methods raise. What
    is noted is written within `commit.MARK_DELAY`, or when the store is closed. What the disk
    refuses goes on waiting.

    Args:
        read: the rows that a query gives.
        last_id: the highest queue ID that was ever stored.
    """

    def __init__(
        self,
        committer: Committer,
        read: Callable[[str, *tuple[object, ...]], Awaitable[list[Row]]],
        last_id: int,
    ) -> None:
        self._committer = committer
        self._read = read
        self._ids = count(last_id + 1)
        self._calls = count()
        self._decisions: _Told = {}
        self._notes: _Told = {}
        self._notes_written: _Told = {}

    def next_id(self) -> int:
        """Reserve the next queue ID. One that never gets to disk may come again after a restart:
        decide upon it before you tell anybody.
        """
        # Below 2**53 for the next 285 years at a million a second.
        return next(self._ids)

    async def decide(self, records: Sequence[DownlinkRecord]) -> None:
        """Store records, each in place of the one there was. They are on disk when this returns.

        Raises:
            StorageError: none of it was done; it may be repeated.
        """
        if not records:
            await trio.lowlevel.checkpoint()
            return
        group = self._committer.join()
        self._tell(self._decisions, records)
        await self._committer.wait_committed(group)

    def note(self, record: DownlinkRecord) -> None:
        """How it is with a downlink now; never waits and never raises. Note what a base station
        said before the session that got it is saved.
        """
        # As many as there are downlinks that have not come to rest; whoever notes them holds them.
        self._tell(self._notes, [record])
        self._committer.write_marks_soon()

    def _tell(self, told: _Told, records: Iterable[DownlinkRecord]) -> None:
        told.update({each.downlink.que_id: (next(self._calls), each) for each in records})

    async def flush(self) -> None:
        """Write all that was noted; it is on disk when this returns.

        Raises:
            StorageError: it goes on waiting.
        """
        if self._committer.is_written:
            await trio.lowlevel.checkpoint()
            return
        await self._committer.wait_committed(self._committer.join())

    # reading: what is on disk; what was noted since is not in it. What cannot be read is left out

    async def pending(self) -> list[DownlinkRecord]:
        """All that have not ended or are still at a base station, and up to `MAX_UNACKNOWLEDGED`
        that were sent within `ACKNOWLEDGED_WITHIN` and not acknowledged; by queue ID.
        """
        after, found = -1, []
        while rows := await self._read(statements.OPEN, after, PAGE):
            after = rows[-1][0]
            found += await _records_of(rows)
        since_ns = time.time_ns() - ACKNOWLEDGED_WITHIN
        rows = await self._read(statements.SENT, since_ns, MAX_UNACKNOWLEDGED)
        found += await _records_of(rows)
        by_id = {record.downlink.que_id: record for record in found}
        return [by_id[que_id] for que_id in sorted(by_id)]

    async def listing(
        self, ep_eui: int | None, state: DownlinkState | None, count: int
    ) -> list[DownlinkRecord]:
        """The newest downlinks, newest first: of an end point, in a state, or of all of them."""
        sql, values = statements.listing(ep_eui, state, count)
        return await _records_of(await self._read(sql, *values))

    async def find(self, que_id: int) -> DownlinkRecord | None:
        """The downlink with this queue ID, if it is still kept. A peer may say any number."""
        if que_id >= FIRST_FOREIGN:
            await trio.lowlevel.checkpoint()
            return None
        for record in await _records_of(await self._read(statements.FIND, que_id)):
            return record
        return None

    # the books: for the store alone, see `commit.Ledger`

    def has_marks(self) -> bool:
        return bool(self._notes)

    def add_marks(self, changes: Changes) -> None:
        decisions, self._decisions = self._decisions, {}
        self._notes_written, self._notes = self._notes, {}
        # What was decided upon since it was noted is not written, unless the decision fails.
        notes = {
            que_id: told
            for que_id, told in self._notes_written.items()
            if que_id not in decisions or decisions[que_id][0] < told[0]
        }
        for save, told in (statements.save, decisions), (statements.save_or_give_up, notes):
            if told:
                records = [record for _, record in told.values()]
                changes.works.append(partial(_write, save, records))

    def failed(self) -> None:
        """What was noted is put back; those who decided are told by the committer."""
        self._notes = self._notes_written | self._notes
        self._notes_written = {}

    def committed(self) -> None:
        self._notes_written = {}


def _write(
    save: Callable[[sqlite3.Connection, list[DownlinkRecord]], None],
    records: list[DownlinkRecord],
    db: sqlite3.Connection,
    _: Tally,
) -> None:
    save(db, records)


async def _records_of(rows: Sequence[Row]) -> list[DownlinkRecord]:
    return await trio.to_thread.run_sync(statements.records_of, rows)
