"""The end points' life: what is wanted of them, and what the base stations say to that.

The wish comes first: it is on disk before anything is done about it. Then every base station that
is connected is woken, and `propagation` tells it what is due; one that is away is told by the same
lines when it connects. What happens is told to one function that is handed in.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from bssci.core.center.attachment import MAY_RETURN, mark_wanted, propagated
from bssci.core.center.happenings import Event, Happening
from bssci.core.center.lifecycle import UNKNOWN, Lifecycle
from bssci.core.center.records import Refused, Registration, Wish
from bssci.core.center.roster import Limits, Roster
from bssci.core.center.silence import SilenceClocks
from bssci.core.protocol.errors import Code
from bssci.core.protocol.events import Answered
from bssci.core.protocol.messages import AttachPropagate, DetachPropagate
from bssci.core.runtime.life_terms import Consequence, Edit, Ledger, Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bssci.core.center.attachment import Attachment
    from bssci.core.center.end_points import EndPoint
    from bssci.core.center.lifecycle import Order
    from bssci.core.center.records import Cause, StationRecord, Wanted
    from bssci.core.protocol.events import Refused as OperationRefused
    from bssci.core.protocol.messages import Attach, Detach, Message

__all__ = ["Consequence", "Edit", "Ledger", "Life", "Standing"]

PAGE = 1_000  # rows read at once at the start


def _ignore(bs_eui: int, ep_eui: int) -> None:
    """Nobody wants to know each confirmation."""


class Life:
    """All end points, and what the base stations know of them.

    Attributes:
        roster: the end points that are registered.
        lifecycle: what base stations were told.
        clocks: the clocks of silence.
        limits: when silence is warned of, and when it detaches.
        attachments: the last attach over the air of each end point that there was one of, with its
            present network key.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        limits: Limits,
        unix_ns: Callable[[], int],
        tell: Callable[[Happening], None],
        tell_confirmed: Callable[[int, int], None] = _ignore,
    ) -> None:
        """
        Args:
            tell: told what happens; must not raise.
            tell_confirmed: told of each base station that has done what is wanted of an end point:
                its EUI, and that of the end point. There may be half a million in a minute.
        """
        self.roster = Roster()
        self.lifecycle = Lifecycle()
        self.clocks = SilenceClocks()
        self.limits = limits
        self.attachments: dict[int, Attachment] = {}
        self._ledger = ledger
        self._unix_ns = unix_ns
        self._tell = tell
        self._tell_confirmed = tell_confirmed
        self._deciding = trio.StrictFIFOLock()
        self._wakes: dict[int, trio.Event] = {}
        self._changes: dict[int, trio.Event] = {}
        self._failed: set[int] = set()
        """End points whose attach has failed everywhere; it was told."""
        self._leaving: set[int] = set()
        """End points whose detach has not been told as done."""

    async def load(self) -> list[StationRecord]:
        """Recall what was stored; the base stations that were known.

        Raises:
            StorageError: it cannot be read.
        """
        stations = await self._ledger.base_stations()
        for record in stations:
            self.lifecycle.recall_station(record.bs_eui, record.session)
        after = -1
        while found := await self._ledger.attachments(after, PAGE):
            self.attachments |= {each.ep_eui: each for each in found}
            after = found[-1].ep_eui
        await self._load_end_points()
        await self._load_registrations()
        self.lifecycle.recalled()
        return stations

    async def _load_end_points(self) -> None:
        after = -1
        while page := await self._ledger.end_points(after, PAGE):
            for wish, hearing in page:
                self._take_wish(wish)
                ep_eui = wish.end_point.eui
                if hearing is not None:
                    self.roster.recall(ep_eui, hearing)
                if (attachment := self.attachments.get(ep_eui)) is not None:
                    self.roster.begin_epoch(ep_eui, attachment.at_ns)
            after = page[-1][0].end_point.eui

    async def _load_registrations(self) -> None:
        after = (-1, -1)
        while page := await self._ledger.registrations(after, PAGE):
            for registration in page:
                self.lifecycle.recall(registration)
            after = (page[-1].bs_eui, page[-1].ep_eui)

    # --- decisions ---

    async def decide(
        self, edits: Sequence[Edit], cause: Cause, *, silences: Mapping[int, int] | None = None
    ) -> list[tuple[Wish | None, Wish | None]]:
        """Decide what is wanted of end points; who is not registered is so from now on.

        What is wanted already stays as it is. It is on disk when this returns, and the base
        stations that are connected are being told.

        Args:
            silences: for how many ns each end point was silent, where that is the cause.

        Returns:
            For each edit the wish before and after.

        Raises:
            StorageError: none of it was done.
        """
        async with self._deciding:
            decided, happenings = self._plan(edits, cause)
            changed = [after for before, after in decided if after is not None and after != before]
            if changed:
                episodes = [each.episode() for each in happenings]
                voided = self._voided_by(decided)
                # Whoever asked may wait no longer; what is on disk is known here all the same.
                with trio.CancelScope(shield=True):
                    await self._ledger.decide(wishes=changed, episodes=episodes, voided=voided)
                for ep_eui in voided:
                    del self.attachments[ep_eui]
                for wish in changed:
                    self._take_wish(wish)
                for happening in happenings:
                    silent_ns = (silences or {}).get(happening.ep_eui, 0)
                    self._tell(replace(happening, silent_ns=silent_ns))
                for wish in changed:
                    self._tell_if_true(wish.end_point.eui)
                self._wake_all()
            return decided

    def _voided_by(self, decided: Iterable[tuple[Wish | None, Wish | None]]) -> list[int]:
        """End points that do not have the network key any more with which they attached."""
        voided = {
            after.end_point.eui
            for before, after in decided
            if before and after and before.end_point.nwk_key != after.end_point.nwk_key
        }
        return sorted(voided & self.attachments.keys())

    def preview(self, edits: Sequence[Edit], cause: Cause) -> list[tuple[Wish | None, Wish | None]]:
        """What `decide` would come to; nothing is done."""
        return self._plan(edits, cause)[0]

    def _plan(
        self, edits: Sequence[Edit], cause: Cause
    ) -> tuple[list[tuple[Wish | None, Wish | None]], list[Happening]]:
        planned: dict[int, Wish] = {}
        decided: list[tuple[Wish | None, Wish | None]] = []
        happenings: list[Happening] = []
        for edit in edits:
            before = planned.get(edit.ep_eui) or self.roster.wish(edit.ep_eui)
            made = edit.make(before)
            after = before
            if made is not None:
                after = self._next_wish(edit, before, *made, cause, happenings)
            if after is not None:
                planned[edit.ep_eui] = after
            decided.append((before, after))
        return decided, happenings

    def _next_wish(
        self,
        edit: Edit,
        known: Wish | None,
        end_point: EndPoint,
        wanted: Wanted,
        cause: Cause,
        happenings: list[Happening],
    ) -> Wish:
        now_ns = self._unix_ns()
        fresh = Wish(
            end_point=end_point,
            wanted=wanted,
            cause=cause,
            since_ns=now_ns,
            is_announced=wanted == "detached" and cause == "inactivity",
        )
        if known is None:
            happenings.append(self._happening("added", fresh))
        elif known.end_point != end_point:
            happenings.append(self._happening("changed", fresh))
        if known is not None and known.wanted == wanted:
            if not (edit.insists and wanted == "detached" and known.cause in MAY_RETURN):
                return replace(known, end_point=end_point)
            happenings.append(self._happening("detach", fresh))
            return replace(known, end_point=end_point, cause=cause)
        if known is not None or wanted == "detached":
            happenings.append(self._happening(_event_of(fresh), fresh))
        return fresh

    def _take_wish(self, wish: Wish) -> None:
        ep_eui = wish.end_point.eui
        known = self.roster.wish(ep_eui)
        if known is not None and _is_same(known, wish):
            # What was told while it was put on disk is told all the same.
            told = known.is_announced, known.is_warned
            wish = replace(wish, is_announced=told[0], is_warned=told[1])
            self._ledger.note_wish_flags(ep_eui, is_announced=told[0], is_warned=told[1])
        self._adopt(wish)

    def _adopt(self, wish: Wish) -> None:
        ep_eui = wish.end_point.eui
        self.roster.decide(wish)
        self.lifecycle.want(ep_eui, mark_wanted(wish, self.attachments.get(ep_eui)))
        self._failed.discard(ep_eui)
        self._leaving.discard(ep_eui)
        if wish.wanted == "detached" and not wish.is_announced:
            self._leaving.add(ep_eui)
        self._changed(ep_eui)

    async def forget(self, ep_euis: Sequence[int], cause: Cause) -> int:
        """End points are not registered any more; how many. Base stations that serve them are told.

        Raises:
            StorageError: none of it was done.
        """
        async with self._deciding:
            removed = [
                self._happening("removed", replace(wish, cause=cause))
                for ep_eui in ep_euis
                if (wish := self.roster.wish(ep_eui)) is not None
            ]
            if removed:
                with trio.CancelScope(shield=True):
                    await self._ledger.decide(
                        forgotten=[each.ep_eui for each in removed],
                        episodes=[each.episode() for each in removed],
                    )
                for happening in removed:
                    self._take_removal(happening)
                self._wake_all()
            return len(removed)

    def _take_removal(self, removed: Happening) -> None:
        ep_eui = removed.ep_eui
        wish = self.roster.wish(ep_eui)
        if wish is not None and not (wish.wanted == "detached" and wish.is_announced):
            self._tell(replace(removed, event="detached"))
        if (hearing := self.roster.hearing(ep_eui)) is not None:
            self.clocks.release(hearing.receivers)
        self.roster.forget(ep_eui)
        self.attachments.pop(ep_eui, None)
        self.lifecycle.want(ep_eui, None)
        self._failed.discard(ep_eui)
        self._leaving.discard(ep_eui)
        self._changed(ep_eui)
        self._tell(removed)

    # --- what end points do over the air ---

    async def heed(
        self,
        bs_eui: int,
        request: Attach | Detach,
        judge: Callable[[Wish | None], Consequence | None],
    ) -> None:
        """An end point has done something over the air, by way of this base station.

        What follows is on disk when this returns, and the other base stations are being told. Call
        `completed` when the base station has our response.

        Args:
            judge: from the present wish, None if it is not registered, what follows; None: nothing.
                It may raise: then nothing is done.

        Raises:
            StorageError: nothing was done.
        """
        ep_eui = request.ep_eui
        async with self._deciding:
            known = self.roster.wish(ep_eui)
            found = judge(known)
            if found is None or self._is_known_to_be_gone(bs_eui, ep_eui, found):
                return
            await self._take_consequence(bs_eui, ep_eui, found)
            if found.attachment and known and known.wanted == "attached" and known.is_warned:
                self.happen("warning_withdrawn", known)
            now = trio.current_time()
            took = self.lifecycle.took(bs_eui, ep_eui, request.op_id, found.mark, now=now)
            if took is not None:
                self._ledger.note_registration(took)
            self._tell_if_true(ep_eui)
            self._changed(ep_eui)
            self._wake_all()

    def _is_known_to_be_gone(self, bs_eui: int, ep_eui: int, found: Consequence) -> bool:
        """Nothing is new, and the base station neither serves it nor is to."""
        return found.wish is None and self.lifecycle.state(bs_eui, ep_eui) is None

    async def _take_consequence(self, bs_eui: int, ep_eui: int, found: Consequence) -> None:
        wishes = [] if found.wish is None else [found.wish]
        happenings = [
            replace(self._happening(_event_of(wish), wish), bs_eui=bs_eui, message=found.remark)
            for wish in wishes
        ]
        attachments = [] if found.attachment is None else [found.attachment]
        # Before it has our response: also after a crash nobody must think to know what it holds.
        is_told = self.lifecycle.is_connected(bs_eui)
        unknown = Registration(bs_eui=bs_eui, ep_eui=ep_eui, mark=UNKNOWN)
        if wishes or is_told:
            with trio.CancelScope(shield=True):
                await self._ledger.decide(
                    wishes=wishes,
                    episodes=[each.episode() for each in happenings],
                    attachments=attachments,
                    registrations=[unknown] if is_told else [],
                )
        for attachment in attachments:
            self._take_attachment(attachment)
        for wish in wishes:
            self._adopt(wish)
        for happening in happenings:
            self._tell(happening)

    def _take_attachment(self, attachment: Attachment) -> None:
        """To attach is to be heard, though not to be heard with an uplink."""
        ep_eui = attachment.ep_eui
        self.attachments[ep_eui] = attachment
        receivers = self.roster.receivers(ep_eui)
        reading = None if receivers is None else self.clocks.read(receivers, now_ns=_now_ns())
        self.roster.begin_epoch(ep_eui, attachment.at_ns, heard_at=reading)

    def completed(self, bs_eui: int, request: Attach | Detach) -> None:
        """A base station has completed an operation that was heeded."""
        registration = self.lifecycle.completed(bs_eui, request.ep_eui, request.op_id)
        if registration is not None:
            self._take_registration(bs_eui, registration)
        self._wake(bs_eui)

    # --- base stations ---

    def station_connected(
        self, record: StationRecord, *, unanswered: Iterable[Message] = ()
    ) -> None:
        """A base station is connected; `unanswered`: what its session issues again by itself."""
        bs_eui = record.bs_eui
        if self.lifecycle.station_connected(bs_eui, record.session, unanswered=unanswered):
            self._ledger.forget_registrations(bs_eui)
        self._ledger.note_station(record)
        self.clocks.station_connected(bs_eui, now_ns=_now_ns())

    def station_disconnected(self, record: StationRecord) -> None:
        """Its connection has ended."""
        self.lifecycle.station_disconnected(record.bs_eui)
        self._ledger.note_station(record)
        self.clocks.station_disconnected(record.bs_eui, now_ns=_now_ns())
        for ep_eui in tuple(self._changes):
            self._changed(ep_eui)
        for ep_eui in tuple(self._leaving):
            self._tell_if_true(ep_eui)

    def next_message(self, bs_eui: int) -> tuple[Order, Message] | None:
        """What a base station is to be told next, on its way from now on; None: nothing now."""
        order = self.lifecycle.next_order(bs_eui, now=trio.current_time())
        if order is None:
            return None
        ep_eui = order.ep_eui
        wish, hearing = self.roster.wish(ep_eui), self.roster.hearing(ep_eui)
        last_cnt = 0 if hearing is None else hearing.last_cnt
        told = None
        if wish is not None:
            told = propagated(wish, self.attachments.get(ep_eui), last_packet_cnt=last_cnt)
        return order, DetachPropagate(ep_eui=ep_eui) if told is None else told

    def sent(self, bs_eui: int, order: Order) -> None:
        """A base station is about to be told this."""
        self.lifecycle.sent(bs_eui, order)

    def not_sent(self, bs_eui: int, order: Order) -> None:
        """It was not told after all; it is tried again."""
        self.lifecycle.not_sent(bs_eui, order)
        self._wake(bs_eui)

    def take_outcomes(self, bs_eui: int, outcomes: Iterable[Answered | OperationRefused]) -> None:
        """A base station has answered, or refused, some of what it was told."""
        for outcome in outcomes:
            if isinstance(outcome, Answered):
                self._take_answer(bs_eui, outcome.request)
            else:
                self._take_refusal(bs_eui, outcome.request, outcome.code, outcome.message)
        self._wake(bs_eui)

    def timed_out(self, bs_eui: int, request: Message) -> None:
        """A base station has not answered what it was told in time."""
        self._take_refusal(bs_eui, request, Code.ETIMEDOUT, "no answer in time")
        self._wake(bs_eui)

    def _take_answer(self, bs_eui: int, request: Message) -> None:
        if not isinstance(request, AttachPropagate | DetachPropagate):
            return
        was_refused = self.lifecycle.state(bs_eui, request.ep_eui) == "refused"
        registration = self.lifecycle.answered(bs_eui, request)
        if registration is not None:
            self._take_registration(bs_eui, registration, was_refused=was_refused)

    def _take_registration(
        self, bs_eui: int, registration: Registration, *, was_refused: bool = False
    ) -> None:
        self._ledger.note_registration(registration)
        ep_eui = registration.ep_eui
        if self.lifecycle.state(bs_eui, ep_eui) in ("confirmed", None):
            self._tell_confirmed(bs_eui, ep_eui)
            wish = self.roster.wish(ep_eui)
            if was_refused and wish is not None:
                # Who reads that it was refused must also read that it is no more.
                happening = self._happening("confirmed", wish)
                self._ledger.note_episode(replace(happening, bs_eui=bs_eui).episode())
        self._tell_if_true(ep_eui, bs_eui)
        self._changed(ep_eui)

    def _take_refusal(self, bs_eui: int, request: Message, code: int, message: str) -> None:
        refusal = Refused(int(code), message, self._unix_ns())
        registration = self.lifecycle.refused(bs_eui, request, refusal, now=trio.current_time())
        if registration is None:
            return
        self._ledger.note_registration(registration)
        wish = self.roster.wish(registration.ep_eui)
        if registration.refused is not None and wish is not None:
            self.happen("refused", wish, bs_eui=bs_eui, refused=registration.refused)
        self._tell_if_true(registration.ep_eui, bs_eui)
        self._changed(registration.ep_eui)

    # --- telling what has come true ---

    def _tell_if_true(self, ep_eui: int, bs_eui: int | None = None) -> None:
        """Tell once that what is wanted has come true, or that it cannot."""
        wish = self.roster.wish(ep_eui)
        if wish is None or wish.is_announced:
            return
        entries = self.lifecycle.standing(ep_eui)
        if wish.wanted == "detached":
            if not any(self.lifecycle.is_connected(each) for each, _, _ in entries):
                self._announce("detached", wish, bs_eui)
            return
        states = {state for _, state, _ in entries}
        if "confirmed" in states:
            self._announce("attached", wish, bs_eui)
        elif states == {"refused"} and ep_eui not in self._failed:
            self._failed.add(ep_eui)
            self.happen("attach_failed", wish, bs_eui=bs_eui, refused=entries[-1][2])

    def _announce(self, event: Event, wish: Wish, bs_eui: int | None) -> None:
        self.set_flags(wish.end_point.eui, is_announced=True)
        self._leaving.discard(wish.end_point.eui)
        self.happen(event, wish, bs_eui=bs_eui)

    def set_flags(
        self, ep_eui: int, *, is_announced: bool | None = None, is_warned: bool | None = None
    ) -> None:
        """Note what applications were told about a wish; None leaves a flag as it is."""
        self.roster.flag(ep_eui, is_announced=is_announced, is_warned=is_warned)
        wish = self.roster.wish(ep_eui)
        if wish is not None:
            self._ledger.note_wish_flags(
                ep_eui, is_announced=wish.is_announced, is_warned=wish.is_warned
            )

    def happen(
        self,
        event: Event,
        wish: Wish,
        *,
        bs_eui: int | None = None,
        refused: Refused | None = None,
        silent_ns: int = 0,
        is_recorded: bool = True,
    ) -> None:
        """Something has happened to an end point: it is told, and becomes part of its history."""
        happening = self._happening(event, wish)
        if refused is not None:
            happening = replace(happening, code=refused.code, message=refused.message)
        happening = replace(happening, bs_eui=bs_eui, silent_ns=silent_ns)
        if is_recorded:
            self._ledger.note_episode(happening.episode())
        self._tell(happening)

    def _happening(self, event: Event, wish: Wish) -> Happening:
        own = self.limits.of(wish)
        return Happening(
            event=event,
            at_ns=self._unix_ns(),
            wish=wish,
            warn_ns=own.warn_ns,
            detach_ns=own.detach_ns,
        )

    # --- waking and waiting ---

    def _wake(self, bs_eui: int) -> None:
        if (event := self._wakes.pop(bs_eui, None)) is not None:
            event.set()

    def _wake_all(self) -> None:
        for bs_eui in tuple(self._wakes):
            self._wake(bs_eui)

    async def wait_for_orders(self, bs_eui: int) -> None:
        """Return when there may be something to tell a base station that was told everything."""
        event = self._wakes.setdefault(bs_eui, trio.Event())
        retry = self.lifecycle.next_retry(bs_eui)
        with trio.move_on_at(math.inf if retry is None else retry):
            await event.wait()

    def _changed(self, ep_eui: int) -> None:
        if (event := self._changes.pop(ep_eui, None)) is not None:
            event.set()

    def standing(self, ep_eui: int) -> Standing:
        """How an end point stands at the base stations that serve it or are to.

        Where it is to be attached, base stations that are away are not told: nobody knows what
        they will know.
        """
        wish, found = self.roster.wish(ep_eui), Standing([], [], [])
        for bs_eui, state, refusal in self.lifecycle.standing(ep_eui):
            is_away = not self.lifecycle.is_connected(bs_eui)
            if is_away and wish is not None and wish.wanted == "attached":
                continue
            if state == "refused" and refusal is not None:
                found.refused.append((bs_eui, refusal))
            else:
                (found.confirmed if state == "confirmed" else found.pending).append(bs_eui)
        return found

    async def wait_settled(self, ep_eui: int, deadline: float) -> Standing:
        """How an end point stands once every base station that is connected has said something.

        At the latest at `deadline`, by trio's clock.
        """
        with trio.move_on_at(deadline):
            while self._is_awaited(ep_eui):
                await self._changes.setdefault(ep_eui, trio.Event()).wait()
        return self.standing(ep_eui)

    def _is_awaited(self, ep_eui: int) -> bool:
        return any(
            state == "pending" and self.lifecycle.is_connected(bs_eui)
            for bs_eui, state, _ in self.lifecycle.standing(ep_eui)
        )


def _event_of(wish: Wish) -> Event:
    if wish.wanted == "attached":
        return "attach"
    return "auto_detached" if wish.cause == "inactivity" else "detach"


def _is_same(before: Wish, after: Wish) -> bool:
    """The one is the other with new parameters, not a decision of its own."""
    return (before.wanted, before.since_ns) == (after.wanted, after.since_ns)


def _now_ns() -> int:
    return int(trio.current_time() * 1e9)
