"""Group commit: one thread writes, and whatever waits goes to disk together.

What has gathered when the thread becomes free is one transaction. So the price of an fsync is
shared by all who wait for it, and nobody waits for company. A transaction is done or undone as a
whole: if it fails, everyone in it is told.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVarTuple, Unpack

import trio

from bssci.core.protocol.errors import Code, StorageError
from bssci.core.runtime.statements import Changes, Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from bssci.core.runtime.database import Database

__all__ = ["Committer", "Group", "Ledger", "State"]

logger = logging.getLogger(__name__)

Ts = TypeVarTuple("Ts")

MAX_WAITING_ROWS = 8192
# A second of the highest load we are built for; with payload and decoded message about 40 MB.
# A disk that stands still longer stops the reading of base stations, not the service.
MAX_WAITING_OCTETS = 64 * 1024 * 1024
# The same bound for peers that send frames of a megabyte.
MARK_DELAY = 1.0  # seconds a mark waits for a transaction to join before it gets its own

State = Literal["ok", "full", "failing"]


@dataclass(slots=True, eq=False)
class Group:
    """One transaction, and those who wait for it."""

    changes: Changes = field(default_factory=Changes)
    rows: int = 0
    octets: int = 0
    is_wanted: bool = False
    """Somebody waits for it."""
    is_crowded: bool = False
    """There was room for all but the deletion."""
    done: trio.Event = field(default_factory=trio.Event)
    failure: StorageError | None = None
    refusal: StorageError | None = None
    """What only those who appended are told: it is on disk, but nobody will go on with it."""


class Ledger(Protocol):
    """Who keeps the books: asked and told about each transaction, in the trio thread.

    Marks are what waits for a transaction without calling for one: for `MARK_DELAY` they may join
    one that others want.
    """

    def has_marks(self) -> bool:
        """There are marks to be written."""
        ...

    def add_marks(self, changes: Changes) -> None:
        """A transaction begins: what else is to go along."""
        ...

    def committed(self, group: Group, tally: Tally) -> None:
        """It is on disk; those who wait for it have not been told."""
        ...

    def failed(self, changes: Changes, failure: StorageError) -> None:
        """None of it was done; those who wait for it have not been told."""
        ...

    def pass_on(self, group: Group) -> None:
        """What was committed can go on its way; the next transaction has begun."""
        ...


_Order = Group | Literal["later"] | None
"""For the writer: this group; wake us after `MARK_DELAY`; the end."""


class Committer:
    """Gathers what is to be written, and has it written by a thread of its own.

    Attributes:
        gathering: what goes into the next transaction; take part in it by `join`.
        writing: the transaction under way.
        state: how the last one went; it returns to "ok" by itself.
    """

    def __init__(self, database: Database, ledger: Ledger, token: trio.lowlevel.TrioToken) -> None:
        self._database = database
        self._ledger = ledger
        self._token = token
        self.state: State = "ok"
        self.gathering = Group()
        self.writing: Group | None = None
        self._is_due = self._is_alarm_set = self._is_closed = False
        self._rows = self._octets = 0
        self._entrance = trio.StrictFIFOLock()
        self._space = trio.Event()
        self._inbox: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_groups, name="bssci store", daemon=True)
        self._thread.start()

    @property
    def is_written(self) -> bool:
        """Nothing waits to be written."""
        return self.writing is None and not self._is_needed()

    def require_open(self) -> None:
        if self._is_closed:
            raise StorageError(f"{self._database.path}: closed")

    # taking part, in the trio thread

    async def wait_for_room(self, rows: int, octets: int) -> None:
        """Return when there is room, first come, first served. Only then does the next look for
        it: call `join` before you wait for anything else.
        """
        if self._entrance.locked() or not self._fits(rows, octets):
            async with self._entrance:
                while not self._fits(rows, octets):
                    self._space = trio.Event()
                    await self._space.wait()

    def _fits(self, rows: int, octets: int) -> bool:
        return not self._rows or (
            self._rows + rows <= MAX_WAITING_ROWS and self._octets + octets <= MAX_WAITING_OCTETS
        )

    def join(self, rows: int = 0, octets: int = 0) -> Group:
        """The group that is written next; what it is to write is added by the caller.

        Raises:
            StorageError: closed.
        """
        self.require_open()
        group = self.gathering
        group.rows += rows
        group.octets += octets
        group.is_wanted = True
        self._rows += rows
        self._octets += octets
        self._call_soon()
        return group

    async def wait_committed(self, group: Group) -> None:
        """Return when it is on disk.

        Raises:
            StorageError: none of it was done.
        """
        await group.done.wait()
        if group.failure is not None:
            raise StorageError(str(group.failure), code=group.failure.code) from group.failure

    def write_marks_soon(self) -> None:
        """Write marks with the next transaction, or after `MARK_DELAY` in one of their own."""
        is_coming = self.writing is not None or self._is_due or self._is_alarm_set
        if self._ledger.has_marks() and not is_coming:
            self._is_alarm_set = True
            self._inbox.put("later")

    async def close(self) -> None:
        """Write what waits, marks included, and end the thread. Nothing more is taken."""
        self._is_closed = True
        while self.writing is not None or self._is_due:
            await (self.writing or self.gathering).done.wait()
        while self._ledger.has_marks():
            group = self.gathering
            self._begin()
            await group.done.wait()
            if group.failure is not None:
                logger.warning("what was published last is not marked: %s", group.failure)
                break
        self._inbox.put(None)
        await trio.to_thread.run_sync(self._thread.join)

    # one transaction after the other, in the trio thread

    def _call_soon(self) -> None:
        # Not at once: what other tasks have in this turn of the loop goes along.
        if self.writing is None and not self._is_due:
            self._is_due = True
            self._token.run_sync_soon(self._begin)

    def _is_needed(self) -> bool:
        return self.gathering.is_wanted or self._ledger.has_marks()

    def _begin(self) -> None:
        self._is_due = self._is_alarm_set = False
        if self.writing is None and self._is_needed():
            self.writing, self.gathering = self.gathering, Group()
            self._ledger.add_marks(self.writing.changes)
            self._inbox.put(self.writing)

    def _finish(self, group: Group, tally: Tally, failure: StorageError | None) -> None:
        self.writing = None
        self._rows -= group.rows
        self._octets -= group.octets
        group.failure = failure
        self._note_state(failure)
        if failure is None:
            self._ledger.committed(group, tally)
        else:
            self._ledger.failed(group.changes, failure)
        if self.gathering.is_wanted:
            self._begin()
        if failure is None:
            self._ledger.pass_on(group)
        group.done.set()
        self._space.set()
        self.write_marks_soon()

    def _note_state(self, failure: StorageError | None) -> None:
        state: State = "ok"
        if failure is not None:
            state = "full" if failure.code == Code.ENOSPC else "failing"
        if state != self.state:
            if failure is not None:
                logger.error("uplinks are refused until this is over: %s", failure)
            else:
                logger.info("%s takes writes again", self._database.path)
        self.state = state

    def _ring(self) -> None:
        self._is_alarm_set = False
        if not self._is_closed:
            self._begin()

    # writing, in the writer's thread

    def _write_groups(self) -> None:
        delay: float | None = None
        while True:
            try:
                order = self._inbox.get(timeout=delay)
            except queue.Empty:
                delay = None
                self._report(self._ring)
                continue
            if order is None:
                return
            delay = MARK_DELAY if order == "later" else None
            if isinstance(order, Group):
                self._report(self._finish, order, *self._write(order))

    def _report(self, function: Callable[[Unpack[Ts]], object], *values: *Ts) -> None:
        # The trio run ends before `close` only where it was torn down; nobody waits then.
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *values)

    def _write(self, group: Group) -> tuple[Tally, StorageError | None]:
        if self.state == "full":
            self._database.make_room()
        try:
            return self._write_or_delete_less(group), None
        except StorageError as error:
            return Tally(), error

    def _write_or_delete_less(self, group: Group) -> Tally:
        """A disk without room to delete in may still have room for an uplink."""
        changes = group.changes
        try:
            return self._database.write(changes.write)
        except StorageError as error:
            if not changes.delete_through or error.code != Code.ENOSPC:
                raise
        changes.delete_through, group.is_crowded = 0, True
        self._database.make_room()
        return self._database.write(changes.write)
