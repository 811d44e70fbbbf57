"""The part of the store that keeps end points, base stations, and what the one knows of the other.

It is written in two ways. A decision is on disk before it is acted upon. What is learned is noted:
it goes along with the next transaction, whoever wants one, and costs a row for each thing however
often that changes. Notes are written in the order of the calls, as far as that matters: those made
before a session is saved are on disk when the session is, and those made before a decision do not
undo it. A crash costs the notes of the last second, as if the base station had not answered yet.

What is heard is noted for each telegram, so it is held back longer; after a crash it is learned
again from the uplinks after `heard_through`.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from bssci.core.runtime import life_statements as statements
from bssci.core.runtime.life_statements import Decision, Heard, Notes
from bssci.core.runtime.statements import UPLINKS_AFTER, StoredUplink, eui_text, stored_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from bssci.core.center.attachment import Attachment
    from bssci.core.center.records import Episode, Hearing, Registration, StationRecord, Wish
    from bssci.core.runtime.commit import Committer
    from bssci.core.runtime.statements import Changes, Row

__all__ = ["LifeStore"]

logger = logging.getLogger(__name__)

HEARING_INTERVAL = 10.0
# Seconds between two transactions that write what was heard: thousands of end points are heard
# again and again, and a row is as large for one telegram as for a hundred. What is read again
# after a crash are the uplinks of this time, 30,000 at the highest load.
MAX_EPISODES = 10_000
# That wait to be written: what happens in the second that notes wait, and then some. More means
# that the disk refuses, and then the history is the least of it.

_NOTHING = Decision((), (), ())


class LifeStore:
    """End points, what base stations confirmed of them, base stations, silence clocks, history.

    It belongs to a `Store`, is written in its transactions, and raises what its methods raise. What
    begins with `note_` or `forget_` never waits and never raises. It is written within
    `commit.MARK_DELAY`, what was heard within `HEARING_INTERVAL` more, and all of it when the store
    is closed. What the disk refuses goes on waiting.

    Args:
        read: the rows that a query gives.

    Attributes:
        episodes_lost: how many episodes were given up because the disk did not take them in time.
    """

    def __init__(
        self, committer: Committer, read: Callable[[str, *tuple[object, ...]], Awaitable[list[Row]]]
    ) -> None:
        self._committer = committer
        self._read = read
        self.episodes_lost = self._episodes_lost_untold = 0
        self._notes, self._heard = Notes(), Heard()
        self._has_notes = False
        self._heard_due = -math.inf
        self._is_closing = False
        self._decisions: list[Decision] = []
        # What of these is in the transaction that is being written.
        self._notes_written: Notes | None = None
        self._heard_written: Heard | None = None
        self._decisions_written: list[Decision] = []

    # decisions

    async def decide(
        self,
        *,
        wishes: Sequence[Wish] = (),
        forgotten: Sequence[int] = (),
        episodes: Sequence[Episode] = (),
        attachments: Sequence[Attachment] = (),
        voided: Sequence[int] = (),
        registrations: Sequence[Registration] = (),
    ) -> None:
        """Store what is wanted of end points and how they attached, forget others, and put episodes
        into the history, in one transaction. It is on disk when this returns.

        Args:
            voided: end points whose attachment holds no more, but for those that follow.
            registrations: what must not be noted only; none that says nothing.

        What was learned by hearing an end point stays with a new wish; an end point that is
        forgotten and wanted in one call begins anew. Flags of a wish that are noted while this
        waits belong to the wish before, and lapse. The history of end points that were forgotten
        stays, for the last `life_statements.KEPT_FORMER` of them, and so do their registrations.

        Raises:
            StorageError: none of it was done; it may be repeated.
        """
        decision = Decision(
            tuple(wishes),
            tuple(forgotten),
            tuple(episodes),
            tuple(attachments),
            tuple(voided),
            tuple(registrations),
        )
        if decision == _NOTHING:
            await trio.lowlevel.checkpoint()
            return
        group = self._committer.join()
        group.changes.works.append(decision.write)
        self._decisions.append(decision)
        await self._committer.wait_committed(group)

    # what is learned

    def note_registration(self, registration: Registration) -> None:
        """What a base station has said about an end point; nothing, if there is neither a mark nor
        a refusal. Note it before the session that got the answer is saved.
        """
        # As many as there are end points at base stations; whoever notes them holds as many.
        self._notes.registrations[registration.bs_eui][registration.ep_eui] = registration
        self._write_soon()

    def forget_registrations(self, bs_eui: int) -> None:
        """A base station knows nothing any more, but for what is noted from now on."""
        self._notes.registrations.pop(bs_eui, None)
        self._notes.cleared.add(bs_eui)
        self._write_soon()

    def note_station(self, record: StationRecord) -> None:
        """How a base station is; not for each of its uplinks."""
        self._notes.stations[record.bs_eui] = record
        self._write_soon()

    def note_wish_flags(self, ep_eui: int, *, is_announced: bool, is_warned: bool) -> None:
        """What applications were told about the present wish; nothing for an unknown end point."""
        self._notes.flags[ep_eui] = is_announced, is_warned
        self._write_soon()

    def note_episode(self, episode: Episode) -> None:
        """Part of the history of an end point, unless it is neither known nor was."""
        self._notes.episodes.append(episode)
        self._bound_episodes()
        self._write_soon()

    def _bound_episodes(self) -> None:
        while len(self._notes.episodes) > MAX_EPISODES:
            self._notes.episodes.popleft()
            self.episodes_lost += 1
            self._episodes_lost_untold += 1

    def note_hearings(
        self,
        hearings: Iterable[tuple[int, Hearing]],
        clocks: Mapping[frozenset[int], int],
        through: int,
    ) -> None:
        """What was learned by hearing, and how far.

        Args:
            hearings: of those end points that were heard since this was last called.
            clocks: readings of silence clocks, in ns, by the base stations they belong to.
            through: the uplink up to which all that were noted include every one; it is on disk.
        """
        self._heard.hearings.update(hearings)
        self._heard.clocks.update(clocks)
        self._heard.through = max(self._heard.through, through)
        self._committer.write_marks_soon()

    def forget_clocks(self, clocks: Iterable[frozenset[int]]) -> None:
        """Nobody goes by these clocks any more."""
        self._heard.clocks.update(dict.fromkeys(clocks))
        self._committer.write_marks_soon()

    async def flush(self) -> None:
        """Write all that was noted, also what was heard; it is on disk when this returns.

        Raises:
            StorageError: it goes on waiting.
        """
        if self._committer.is_written:
            await trio.lowlevel.checkpoint()
            return
        self._heard_due = -math.inf
        await self._committer.wait_committed(self._committer.join())

    def _write_soon(self) -> None:
        # Asked once: it is called for each of half a million registrations.
        if not self._has_notes:
            self._has_notes = True
            self._committer.write_marks_soon()

    # reading: pages in the order of EUIs; an empty one is the last

    async def end_points(
        self, after: int = -1, limit: int = 1000
    ) -> list[tuple[Wish, Hearing | None]]:
        """Up to `limit` end points with higher EUIs than `after`, and what was learned by hearing
        them. One that cannot be read is logged and left out.
        """
        last = "" if after < 0 else eui_text(after)
        while rows := await self._read(statements.END_POINTS, last, limit):
            last = rows[-1][0]
            if found := await trio.to_thread.run_sync(statements.end_points_of, rows):
                return found
        return []

    async def attachments(self, after: int = -1, limit: int = 1000) -> list[Attachment]:
        """Up to `limit` attachments over the air of end points with higher EUIs than `after`. One
        that cannot be read is logged and left out.
        """
        last = "" if after < 0 else eui_text(after)
        while rows := await self._read(statements.ATTACHMENTS, last, limit):
            last = rows[-1][0]
            if found := await trio.to_thread.run_sync(statements.attachments_of, rows):
                return found
        return []

    async def registrations(
        self, after: tuple[int, int] = (-1, -1), limit: int = 10_000
    ) -> list[Registration]:
        """Up to `limit` registrations after that of a base station and an end point. One that
        cannot be read is logged and left out.
        """
        last: tuple[str, ...] = tuple("" if eui < 0 else eui_text(eui) for eui in after)
        while rows := await self._read(statements.REGISTRATIONS, *last, limit):
            last = rows[-1][:2]
            if found := await trio.to_thread.run_sync(statements.registrations_of, rows):
                return found
        return []

    async def base_stations(self) -> list[StationRecord]:
        """All of them, by EUI. One that cannot be read is logged and left out."""
        return statements.stations_of(await self._read(statements.BASE_STATIONS))

    async def clocks(self) -> dict[frozenset[int], int]:
        """The readings of the silence clocks, in ns, by the base stations they belong to."""
        return statements.clocks_of(await self._read(statements.CLOCKS))

    async def heard_through(self) -> int:
        """The uplink up to which what was learned by hearing includes every one."""
        (row,) = await self._read(statements.HEARD_THROUGH)
        return int(row[0])

    async def uplinks_after(self, after: int, limit: int) -> list[StoredUplink]:
        """Up to `limit` uplinks with higher ids than `after`, published or not, in order."""
        return [stored_of(row) for row in await self._read(UPLINKS_AFTER, after, limit)]

    async def history(self, ep_eui: int, count: int = 50) -> list[Episode]:
        """What happened to an end point, newest first; also to one that was forgotten."""
        rows = await self._read(statements.HISTORY, eui_text(ep_eui), count)
        return statements.episodes_of(rows)

    # the books: for the store alone, see `commit.Ledger`

    def close(self) -> None:
        """From now on every transaction writes all that waits."""
        self._is_closing = True

    def has_marks(self) -> bool:
        return self._has_notes or bool(self._heard)

    def add_marks(self, changes: Changes) -> None:
        self._decisions_written, self._decisions = self._decisions, []
        # Before the decisions of this transaction: a decision has the last word.
        if self._has_notes:
            self._notes_written, self._notes = self._notes, Notes()
            self._has_notes = False
            changes.works.insert(0, self._notes_written.write)
        if self._heard and (self._is_closing or trio.current_time() >= self._heard_due):
            self._heard_due = trio.current_time() + HEARING_INTERVAL
            self._heard_written, self._heard = self._heard, Heard()
            changes.works.insert(0, self._heard_written.write)

    def failed(self) -> None:
        """What was noted is put back; those who decided are told by the committer."""
        if self._heard_written is not None:
            self._heard.put_before(self._heard_written)
        if self._notes_written is not None:
            self._notes.put_before(self._notes_written)
            self._has_notes = True
            self._bound_episodes()
        self._end()

    def committed(self) -> None:
        """What was noted of an end point before it was decided upon has lapsed."""
        for decision in self._decisions_written:
            for ep_eui in decision.forgotten:
                self._heard.hearings.pop(ep_eui, None)
                self._notes.flags.pop(ep_eui, None)
            for wish in decision.wishes:
                self._notes.flags.pop(wish.end_point.eui, None)
        if self._episodes_lost_untold:
            self._tell_what_is_lost()
        self._end()

    def _tell_what_is_lost(self) -> None:
        logger.warning(
            "%d episodes are missing in the history of end points: the oldest of those that waited "
            "while nothing could be written",
            self._episodes_lost_untold,
        )
        self._episodes_lost_untold = 0

    def _end(self) -> None:
        self._notes_written = self._heard_written = None
        self._decisions_written = []
