"""Which base station is told what of which downlink, and what its answers mean (BSSCI 1.0.0, 5.12
to 5.14).

A downlink is at one base station or at none, never at two: from the moment in which it is chosen, a
base station *may* hold it, and another one is chosen only when that is ruled out. What rules it out
is an answer to a revoke, a refusal, a new session (in which the base station knows nothing), and an
attach propagate, after which base stations drop what they had queued for the end point.

What a base station says that it does not hold any more it may be sending just now, or have sent: of
a downlink that is to go elsewhere a result is waited for before that. Of one that was to end, the
end is told, and a result that comes after all has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Literal

from bssci.core.center.downlinks import Downlink, DownlinkRecord, Ending, message_of
from bssci.core.center.placement import COUNT, Placement, distance, is_before, is_past
from bssci.core.protocol.errors import Code
from bssci.core.protocol.messages import (
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from bssci.core.center.downlinks import DownlinkState, Intent, Result
    from bssci.core.protocol.messages import Message

__all__ = ["GRACE", "Dispatch", "News", "Operation", "overruled"]

GRACE = 30.0
# Seconds in which a base station reports what it was sending when it did not hold it any more: the
# transmission of the longest downlink takes less than half of that.

FIRST_PAUSE = 60.0
LAST_PAUSE = 3600.0
# Seconds for which a base station that refused is not asked the same again, from the first to the
# last time.

DISK_PAUSE = 1.0  # seconds until what could not be put on disk is tried again

MAX_SENT = 10_000  # downlinks that were sent and whose acknowledgement may come

MAX_REVOKES = 5  # times that a base station is asked to drop what has ended anyway

NOT_HELD = frozenset({int(Code.ENOENT), int(Code.EOPNOTSUPP)})
# How base stations refuse to revoke what they do not hold (any more).

MALFORMED = frozenset({int(Code.EINVAL), int(Code.EPROTO)})
# How they refuse what no base station of their kind would take.

MAX_MESSAGE = 200  # characters of a base station's words that are kept


@dataclass(frozen=True, slots=True)
class News:
    """Something has changed: store the record, and tell applications if there is an event.

    Attributes:
        event: the state it has come to; None: nothing that applications want to know.
        overrules: the result that was told before, and was wrong.
    """

    record: DownlinkRecord
    event: DownlinkState | None = None
    overrules: Result | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """Tell a base station this. `query`: ask for a reception report along with it (5.16)."""

    que_id: int
    message: DownlinkDataQueue | DownlinkDataRevoke
    query: bool = False


class Dispatch:
    """All downlinks that have not ended, that a base station may still hold, or that were sent and
    may still be acknowledged.

    It is told everything and asks nothing. After each call, store and tell what `take_news` gives,
    `route` the end points that `take_unrouted` names, and see to the base stations of `take_due`.
    `now` is monotonic, in seconds; `at_ns` is Unix time.
    """

    def __init__(self) -> None:
        self._entries: dict[int, Placement] = {}
        self._of: dict[int, dict[int, Placement]] = {}
        self._at: dict[int, dict[int, Placement]] = {}
        self._sent: dict[int, Placement] = {}
        self._acks: dict[int, int] = {}
        self._windows: dict[int, dict[int, float]] = {}
        self._resumed: dict[int, float] = {}
        self._times: list[tuple[float, int]] = []
        self._left = 0
        self._agenda: dict[int, list[tuple[bool, float, int]]] = {}
        self._connected: set[int] = set()
        self._news: list[News] = []
        self._unrouted: set[int] = set()
        self._due: set[int] = set()

    # --- what there is ---

    def record(self, que_id: int) -> DownlinkRecord | None:
        """How it is with a downlink; None: it is over, or there is none."""
        entry = self._entries.get(que_id)
        return None if entry is None else entry.record()

    def waiting(self, ep_eui: int) -> list[int]:
        """The queue IDs of an end point's downlinks that have not ended."""
        return [que_id for que_id, each in self._of_end_point(ep_eui) if each.ending is None]

    def _of_end_point(self, ep_eui: int) -> list[tuple[int, Placement]]:
        return list(self._of.get(ep_eui, {}).items())

    def is_watched(self, ep_eui: int) -> bool:
        """Whether it makes a difference to hear this end point."""
        return ep_eui in self._of

    def __len__(self) -> int:
        return len(self._entries)

    def counts(self) -> dict[str, int]:
        """How many have not ended: wait here, and are at a base station."""
        live = [entry for entry in self._entries.values() if entry.ending is None]
        there = sum(entry.is_queued for entry in live)
        return {"queued": len(live) - there, "at_station": there}

    # --- what is to be done after a call ---

    def take_news(self) -> list[News]:
        """What has changed since this was last called, in order."""
        news, self._news = self._news, []
        return news

    def take_unrouted(self) -> set[int]:
        """The end points with downlinks that wait for a base station and may find one now.

        That one was heard, or is served by one more base station, does not name it: `route` it
        then, too.
        """
        unrouted, self._unrouted = self._unrouted, set()
        return unrouted

    def take_due(self) -> set[int]:
        """The base stations for which `next_operation` may have something."""
        due, self._due = self._due, set()
        return due

    # --- coming in ---

    def add(self, downlink: Downlink, *, deadline: float) -> None:
        """Have a new downlink delivered until `deadline`, by the clock of `now`. It is on disk."""
        entry = self._enter(downlink, deadline)
        self._news.append(News(entry.record(), "queued"))
        self._unrouted.add(downlink.ep_eui)

    def recall(self, record: DownlinkRecord, *, deadline: float) -> None:
        """Take what an earlier process knew; no base station is connected yet."""
        entry = self._enter(record.downlink, deadline)
        entry.intent = record.intent
        entry.ending = record.ending
        entry.acknowledged_ns = record.acknowledged_ns
        self._hold(entry, record.holder, is_queued=record.is_queued)
        self._keep_or_leave(entry)

    def _enter(self, downlink: Downlink, deadline: float) -> Placement:
        entry = Placement(downlink, deadline)
        self._entries[downlink.que_id] = entry
        self._of.setdefault(downlink.ep_eui, {})[downlink.que_id] = entry
        self._remind(entry, deadline)
        return entry

    # --- where it goes ---

    def route(self, ep_eui: int, stations: Sequence[int], *, now: float) -> None:
        """These base stations may take an end point's downlinks, the best one first.

        They are connected, can transmit, and serve the end point.
        """
        for _, entry in self._of_end_point(ep_eui):
            if not entry.is_pending() or now < entry.not_before:
                continue
            for bs_eui in stations:
                if now >= entry.avoided.get(bs_eui, now):
                    self._hold(entry, bs_eui)
                    self._changed(entry)
                    break

    def _hold(self, entry: Placement, bs_eui: int | None, *, is_queued: bool = False) -> None:
        """From now on this base station may hold it, and no other."""
        if entry.holder is not None:
            _take_out(self._at, entry.holder, entry.downlink.que_id)
        entry.holder, entry.is_told, entry.is_queued = bs_eui, is_queued, is_queued
        entry.on_way = None
        entry.op_id = entry.attach_op = entry.revokes = 0
        entry.is_moving, entry.grace_until = False, None
        if bs_eui is not None:
            self._sent.pop(entry.downlink.que_id, None)
            self._at.setdefault(bs_eui, {})[entry.downlink.que_id] = entry

    def _release(self, entry: Placement, *, at_ns: int) -> None:
        """No base station holds it any more."""
        bs_eui = entry.holder
        self._hold(entry, None)
        if entry.ending is None and entry.intent != "deliver":
            self._end_as_wanted(entry, bs_eui, at_ns=at_ns)
        else:
            self._changed(entry)

    def _changed(self, entry: Placement, event: DownlinkState | None = None) -> None:
        """Its record has: it is stored, and looked at again."""
        self._news.append(News(entry.record(), event))
        if entry.is_pending():
            self._unrouted.add(entry.downlink.ep_eui)
        self._look_at(entry)
        self._keep_or_leave(entry)

    def _look_at(self, entry: Placement) -> None:
        """Its holder may have to be told something."""
        if entry.holder in self._connected and (what := entry.due(inf)) is not None:
            # What is to be taken back may be sent any moment.
            urgency = (what == "queue", -entry.downlink.prio, entry.downlink.que_id)
            heappush(self._agenda.setdefault(entry.holder, []), urgency)
            self._due.add(entry.holder)

    def _keep_or_leave(self, entry: Placement) -> None:
        """What has ended is remembered as long as somebody may still say something about it."""
        que_id = entry.downlink.que_id
        if entry.ending is None or entry.holder is not None:
            return
        if entry.ending.result == "sent" and entry.acknowledged_ns is None:
            self._sent[que_id] = entry
            if len(self._sent) > MAX_SENT:
                self._leave(next(iter(self._sent.values())))
        else:
            self._leave(entry)

    def _leave(self, entry: Placement) -> None:
        que_id, ep_eui = entry.downlink.que_id, entry.downlink.ep_eui
        del self._entries[que_id]
        self._sent.pop(que_id, None)
        _take_out(self._of, ep_eui, que_id)
        if ep_eui not in self._of:
            self._acks.pop(ep_eui, None)
            self._windows.pop(ep_eui, None)
        self._left += 1
        if self._left > len(self._entries):
            # Deadlines may be a month away: those of what is over are not kept until then.
            self._times = [each for each in self._times if each[1] in self._entries]
            heapify(self._times)
            self._left = 0

    # --- how it ends ---

    def _end(
        self,
        entry: Placement,
        result: Result,
        *,
        at_ns: int,
        said: DownlinkDataResult | None = None,
        bs_eui: int | None = None,
        code: int | None = None,
        message: str = "",
    ) -> None:
        overrules = None if entry.ending is None else entry.ending.result
        entry.ending = _ending(
            result, at_ns=at_ns, said=said, bs_eui=bs_eui, code=code, message=message
        )
        self._news.append(News(entry.record(), result, overrules))
        self._look_at(entry)
        self._keep_or_leave(entry)
        if entry.ending.packet_cnt is not None:
            self._acknowledge_early(entry, entry.ending.packet_cnt, at_ns)

    def _end_as_wanted(self, entry: Placement, bs_eui: int | None, *, at_ns: int) -> None:
        result: Result = "revoked" if entry.intent == "revoke" else "expired"
        self._end(entry, result, at_ns=at_ns, bs_eui=bs_eui)

    def _acknowledge_early(self, entry: Placement, packet_cnt: int, at_ns: int) -> None:
        """The next uplink may have come by another base station before the result did."""
        ack = self._acks.get(entry.downlink.ep_eui)
        if ack is not None and distance(packet_cnt, ack) == 1:
            self._acknowledge(entry, at_ns)

    def _acknowledge(self, entry: Placement, at_ns: int) -> None:
        entry.acknowledged_ns = at_ns
        self._changed(entry, "acknowledged")

    def take_result(self, bs_eui: int, said: DownlinkDataResult, *, at_ns: int) -> bool:
        """A base station reports what has become of a downlink (5.14); False: we know of none.

        The same report may come again after a resume. A base station that holds a downlink no more
        may still say that it was sent; nothing else that it says counts.
        """
        entry = self._entries.get(said.que_id)
        if entry is None or entry.downlink.ep_eui != said.ep_eui:
            return False
        is_holder = entry.holder == bs_eui
        is_first = entry.ending is None and (is_holder or said.result == "sent")
        if is_first or _overrules(said.result, entry.ending):
            if is_holder:
                self._hold(entry, None)
            self._end(entry, said.result, at_ns=at_ns, said=said, bs_eui=bs_eui)
        elif is_holder:
            self._release(entry, at_ns=at_ns)
        return True

    def cancel(self, que_id: int, *, at_ns: int) -> bool:
        """A downlink is not to be sent any more; False: it has ended, or there is none."""
        entry = self._entries.get(que_id)
        if entry is None or entry.ending is not None:
            return False
        if entry.intent == "deliver":
            self._withdraw(entry, "revoke", at_ns=at_ns)
        return True

    def _withdraw(self, entry: Placement, intent: Intent, *, at_ns: int) -> None:
        entry.intent = intent
        entry.not_before = 0.0
        if entry.holder is None or entry.grace_until is not None:
            self._release(entry, at_ns=at_ns)
        else:
            self._changed(entry)

    def abandon(self, ep_eui: int, result: Result, message: str, *, at_ns: int) -> None:
        """An end point is detached: base stations forget its downlinks with it."""
        for _, entry in self._of_end_point(ep_eui):
            if entry.ending is None:
                bs_eui = entry.holder
                self._hold(entry, None)
                self._end(entry, result, at_ns=at_ns, bs_eui=bs_eui, message=message)
            elif entry.holder is not None:
                self._release(entry, at_ns=at_ns)
        self._expect_no_acknowledgement(ep_eui)

    def _expect_no_acknowledgement(self, ep_eui: int) -> None:
        """Its packet counters begin anew: they do not name the windows of before any more."""
        self._acks.pop(ep_eui, None)
        for que_id, entry in self._of_end_point(ep_eui):
            if que_id in self._sent:
                self._leave(entry)

    # --- what the end point does ---

    def window_opened(self, ep_eui: int, bs_eui: int, *, now: float) -> None:
        """A base station has received an uplink that opens a window: it may be sending now."""
        if ep_eui in self._of:
            self._windows.setdefault(ep_eui, {})[bs_eui] = now

    def heard(self, ep_eui: int, packet_cnt: int, *, dl_ack: bool, at_ns: int) -> None:
        """An uplink was received: it acknowledges what was sent in the window before, or not.

        What was for earlier windows only is not sent any more.
        """
        if ep_eui not in self._of:
            return
        if dl_ack:
            self._acks[ep_eui] = packet_cnt
        for _, entry in self._of_end_point(ep_eui):
            if entry.ending is not None:
                self._hear_of_sent(entry, entry.ending, packet_cnt, dl_ack=dl_ack, at_ns=at_ns)
            elif entry.is_pending() and is_past(entry.downlink, packet_cnt):
                message = "the uplinks that it was for have gone by"
                self._end(entry, "expired", at_ns=at_ns, message=message)

    def _hear_of_sent(
        self, entry: Placement, ending: Ending, packet_cnt: int, *, dl_ack: bool, at_ns: int
    ) -> None:
        if ending.packet_cnt is None or entry.acknowledged_ns is not None:
            return
        later = distance(ending.packet_cnt, packet_cnt)
        if later == 1 and dl_ack:
            self._acknowledge(entry, at_ns)
        elif 0 < later <= COUNT // 2 and entry.holder is None:
            self._leave(entry)

    def received_by(self, ep_eui: int, receivers: Collection[int], others: Collection[int]) -> None:
        """A telegram with a downlink window is complete: these base stations have received it.

        What is held by one that has not moves to one of `others`, which could take it.
        """
        for _, entry in self._of_end_point(ep_eui):
            holder = entry.holder
            if entry.ending is None and holder is not None and holder in self._connected:
                was_moving = entry.is_moving
                entry.is_moving = holder not in receivers and bool(others)
                if entry.is_moving and not was_moving:
                    self._look_at(entry)

    # --- base stations ---

    def station_connected(
        self,
        bs_eui: int,
        *,
        is_new: bool,
        unanswered: Iterable[Message] = (),
        now: float,
        at_ns: int,
    ) -> None:
        """A base station is connected; in a new session it holds nothing any more.

        Args:
            unanswered: our operations that a resumed session issues again by itself.
        """
        self._connected.add(bs_eui)
        self._resumed[bs_eui] = -inf if is_new else now
        self._unrouted.update(
            entry.downlink.ep_eui for entry in self._entries.values() if entry.is_pending()
        )
        issued: dict[int, list[Message]] = {}
        for message in unanswered:
            if isinstance(message, DownlinkDataQueue | DownlinkDataRevoke):
                issued.setdefault(message.que_id, []).append(message)
        for que_id, entry in list(self._at.get(bs_eui, {}).items()):
            entry.not_before = 0.0
            if is_new:
                self._release(entry, at_ns=at_ns)
            else:
                self._resume(entry, issued.get(que_id, []), now=now, at_ns=at_ns)

    def _resume(
        self, entry: Placement, issued: Sequence[Message], *, now: float, at_ns: int
    ) -> None:
        entry.on_way, entry.is_late = None, False
        counting = [
            each
            for each in issued
            if isinstance(each, DownlinkDataQueue) or not entry.has_outlived(each.op_id)
        ]
        if counting:
            entry.on_way = "queue" if isinstance(counting[-1], DownlinkDataQueue) else "revoke"
        entry.is_told = entry.is_queued or bool(issued)
        if not entry.is_told or entry.grace_until is not None:
            # Chosen and stored, but never issued: what is issued is in the session first. Or it
            # had let go of it before.
            self._drop(entry, now=now, at_ns=at_ns)
        self._look_at(entry)

    def station_disconnected(self, bs_eui: int, *, at_ns: int) -> None:
        """What it holds it keeps. What was not issued yet may go elsewhere."""
        self._connected.discard(bs_eui)
        self._resumed.pop(bs_eui, None)
        self._agenda.pop(bs_eui, None)
        for entry in list(self._at.get(bs_eui, {}).values()):
            if not entry.is_told and entry.grace_until is None:
                self._release(entry, at_ns=at_ns)
            elif entry.ending is None and entry.intent == "expire":
                self._end_as_wanted(entry, bs_eui, at_ns=at_ns)

    def attached(self, bs_eui: int, ep_eui: int, op_id: int, *, now: float, at_ns: int) -> None:
        """A base station has carried out an attach propagate: what it had queued before is gone.

        Args:
            op_id: of the attach propagate. IDs of a Service Center fall: what has a lower one was
                queued after it. 0: of an attach over the air, which comes after everything.
        """
        for _, entry in self._of_end_point(ep_eui):
            if entry.holder != bs_eui or entry.grace_until is not None:
                continue
            if entry.on_way is not None:
                entry.attach_op = min(entry.attach_op, op_id or -(2**63))
            elif entry.is_queued and is_before(entry.op_id, op_id):
                self._drop(entry, now=now, at_ns=at_ns)
        if not op_id:
            self._expect_no_acknowledgement(ep_eui)

    def _drop(self, entry: Placement, *, now: float, at_ns: int) -> None:
        """Its holder has it no more; what it was sending in the last window it will report.

        What it sent while it was cut off it reports when it is back.
        """
        bs_eui = entry.holder or 0
        windows = self._windows.get(entry.downlink.ep_eui, {})
        since = max(windows.get(bs_eui, -inf), self._resumed.get(bs_eui, -inf))
        if now < since + GRACE:
            self._wait_for_result(entry, since + GRACE)
        else:
            self._release(entry, at_ns=at_ns)

    def _wait_for_result(self, entry: Placement, until: float) -> None:
        """Before it goes elsewhere."""
        entry.on_way, entry.is_queued = None, False
        entry.grace_until = until
        self._remind(entry, until)
        self._changed(entry)

    # --- operations ---

    def next_operation(self, bs_eui: int, *, now: float) -> Operation | None:
        """What a base station must be told next, on its way from now on; None: nothing now.

        Then call `answered`, `refused`, `timed_out`, `not_sent` or `station_disconnected`.
        """
        agenda = self._agenda.get(bs_eui, [])
        while agenda:
            *_, que_id = heappop(agenda)
            entry = self._entries.get(que_id)
            if entry is not None and entry.holder == bs_eui and (what := entry.due(now)):
                return self._operation(entry, what)
        self._agenda.pop(bs_eui, None)
        return None

    def _operation(self, entry: Placement, what: Literal["queue", "revoke"]) -> Operation:
        entry.on_way, entry.is_late = what, False
        downlink = entry.downlink
        if what == "queue":
            entry.is_told = True
            return Operation(downlink.que_id, message_of(downlink), downlink.query_rx)
        revoke = DownlinkDataRevoke(ep_eui=downlink.ep_eui, que_id=downlink.que_id)
        return Operation(downlink.que_id, revoke)

    def _asked(self, request: Message) -> Placement | None:
        """The downlink that it is about, if it is one of ours."""
        if not isinstance(request, DownlinkDataQueue | DownlinkDataRevoke):
            return None
        return self._entries.get(request.que_id)

    def not_sent(self, bs_eui: int, request: Message, *, now: float, at_ns: int) -> None:
        """It could not be told after all, and has not heard of it."""
        entry = self._asked(request)
        if entry is None or entry.holder != bs_eui:
            return
        entry.not_before = now + DISK_PAUSE
        self._remind(entry, entry.not_before)
        if isinstance(request, DownlinkDataQueue):
            self._release(entry, at_ns=at_ns)
        else:
            entry.on_way = None

    def answered(self, bs_eui: int, request: Message, *, now: float, at_ns: int) -> None:
        """A base station has done what it was told.

        Args:
            request: as the session issued it, with its ID.
        """
        entry = self._asked(request)
        if entry is None:
            return
        if isinstance(request, DownlinkDataQueue):
            self._queued(bs_eui, entry, request, now=now, at_ns=at_ns)
        elif entry.holder == bs_eui and not entry.has_outlived(request.op_id):
            self._release(entry, at_ns=at_ns)

    def _queued(
        self,
        bs_eui: int,
        entry: Placement,
        request: DownlinkDataQueue,
        *,
        now: float,
        at_ns: int,
    ) -> None:
        if entry.holder is None:
            # It took so long that it was given up; but nobody else has it.
            self._hold(entry, bs_eui)
        if entry.holder != bs_eui or entry.is_queued:
            return
        if entry.on_way == "queue":
            entry.on_way = None
        entry.op_id, entry.is_told, entry.is_queued = request.op_id, True, True
        entry.grace_until = None
        if entry.attach_op and is_before(request.op_id, entry.attach_op):
            self._drop(entry, now=now, at_ns=at_ns)
        else:
            self._changed(entry, "at_station" if entry.ending is None else None)

    def refused(
        self, bs_eui: int, request: Message, code: int, message: str, *, now: float, at_ns: int
    ) -> None:
        """A base station has refused what it was told.

        Args:
            request: as the session issued it, with its ID.
        """
        entry = self._asked(request)
        if entry is None or entry.holder != bs_eui:
            return
        if isinstance(request, DownlinkDataQueue):
            self._not_queued(bs_eui, entry, request, code, message, now=now, at_ns=at_ns)
        elif not entry.has_outlived(request.op_id):
            self._not_revoked(entry, code, now=now, at_ns=at_ns)

    def _not_queued(
        self,
        bs_eui: int,
        entry: Placement,
        request: DownlinkDataQueue,
        code: int,
        message: str,
        *,
        now: float,
        at_ns: int,
    ) -> None:
        if code == Code.EEXIST:  # it has it from an earlier time that we asked
            self._queued(bs_eui, entry, request, now=now, at_ns=at_ns)
        elif code in MALFORMED and entry.ending is None and entry.intent == "deliver":
            self._hold(entry, None)
            self._end(entry, "rejected", at_ns=at_ns, bs_eui=bs_eui, code=code, message=message)
        else:
            entry.refusals += 1
            entry.avoided[bs_eui] = self._after_pause(entry, entry.refusals, now)
            self._release(entry, at_ns=at_ns)

    def _not_revoked(self, entry: Placement, code: int, *, now: float, at_ns: int) -> None:
        if code not in NOT_HELD:
            self._ask_again(entry, now=now, at_ns=at_ns)
        elif entry.ending is None and entry.intent == "deliver":
            # It is to go elsewhere; but perhaps this one is sending it.
            self._wait_for_result(entry, now + GRACE)
        else:
            self._release(entry, at_ns=at_ns)

    def _ask_again(self, entry: Placement, *, now: float, at_ns: int) -> None:
        entry.on_way = None
        entry.revokes += 1
        entry.not_before = self._after_pause(entry, entry.revokes, now)
        if entry.ending is None and entry.intent == "expire":
            self._end_as_wanted(entry, entry.holder, at_ns=at_ns)
        if entry.ending is not None and entry.revokes >= MAX_REVOKES:
            self._release(entry, at_ns=at_ns)

    def _after_pause(self, entry: Placement, times: int, now: float) -> float:
        """When a base station may be asked again that has refused, or somebody has, so often."""
        at = now + min(FIRST_PAUSE * 2.0 ** min(times - 1, 10), LAST_PAUSE)
        self._remind(entry, at)
        return at

    def timed_out(self, bs_eui: int, request: Message, *, now: float, at_ns: int) -> None:
        """A base station has not answered in time. It may hold what it was to queue."""
        entry = self._asked(request)
        if entry is None or entry.holder != bs_eui:
            return
        if isinstance(request, DownlinkDataQueue):
            if entry.on_way == "queue":
                entry.is_late = True
                self._look_at(entry)
        elif entry.on_way == "revoke":
            self._ask_again(entry, now=now, at_ns=at_ns)

    # --- time ---

    def _remind(self, entry: Placement, at: float) -> None:
        heappush(self._times, (at, entry.downlink.que_id))

    def next_time(self) -> float | None:
        """When to call `pass_time` though nothing else happens; None: no need to."""
        return self._times[0][0] if self._times else None

    def pass_time(self, *, now: float, at_ns: int) -> None:
        """Downlinks expire, and what was put off is tried again."""
        for entry in self._reminded(now):
            if entry.ending is None and now >= entry.deadline:
                self._expire(entry, at_ns=at_ns)
            if entry.is_pending():
                self._unrouted.add(entry.downlink.ep_eui)
            elif entry.grace_until is None:
                self._look_at(entry)
            elif now >= entry.grace_until and entry.holder in self._connected:
                # One that is cut off reports when it is back.
                self._release(entry, at_ns=at_ns)

    def _reminded(self, now: float) -> Iterator[Placement]:
        while self._times and self._times[0][0] <= now:
            _, que_id = heappop(self._times)
            if (entry := self._entries.get(que_id)) is not None:
                yield entry

    def _expire(self, entry: Placement, *, at_ns: int) -> None:
        """It is not worth sending any more; the base station is asked to drop it."""
        is_away = entry.holder is not None and entry.holder not in self._connected
        if is_away or entry.intent == "revoke":
            # Who knows when it answers. What it says then has the last word.
            self._end_as_wanted(entry, entry.holder, at_ns=at_ns)
        elif entry.intent == "deliver":
            self._withdraw(entry, "expire", at_ns=at_ns)


def overruled(
    record: DownlinkRecord, bs_eui: int, said: DownlinkDataResult, *, at_ns: int
) -> News | None:
    """What a late report makes of a downlink that has ended; None: it says nothing new."""
    if record.downlink.ep_eui != said.ep_eui or not _overrules(said.result, record.ending):
        return None
    ending = _ending(said.result, said=said, bs_eui=bs_eui, at_ns=at_ns)
    before = record.ending
    assert before is not None
    return News(replace(record, ending=ending), said.result, before.result)


def _ending(
    result: Result,
    *,
    at_ns: int,
    said: DownlinkDataResult | None = None,
    bs_eui: int | None = None,
    code: int | None = None,
    message: str = "",
) -> Ending:
    sent = said if result == "sent" else None  # of other ends some base stations say 0
    return Ending(
        result=result,
        at_ns=at_ns,
        bs_eui=bs_eui,
        tx_time=None if sent is None else sent.tx_time,
        packet_cnt=None if sent is None else sent.packet_cnt,
        code=code,
        message=message[:MAX_MESSAGE],
    )


def _take_out(table: dict[int, dict[int, Placement]], eui: int, que_id: int) -> None:
    """Where nothing is left, nothing is kept."""
    row = table[eui]
    del row[que_id]
    if not row:
        del table[eui]


def _overrules(result: Result, ending: Ending | None) -> bool:
    return result == "sent" and ending is not None and ending.result != "sent"
