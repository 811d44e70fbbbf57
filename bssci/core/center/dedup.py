"""Is this the first reception of a telegram or a copy, which reception is best, when to publish.

A *telegram* is one sent uplink: the set of its receptions. A reception belongs to a telegram of
the same end point, packet counter and content, within one attachment of the end point, when any of
these holds:

- it is the same operation again, or the same base station names the same reception time again;
- the reception times, each corrected by the base station's clock error, are within 2 s;
- it arrived within the window of the first reception, and the same base station has not reported
  the telegram already, as heard at another time.

Otherwise the end point has begun to count anew, and it is another telegram. Each rule alone fails
somewhere: clocks of base stations are years off, and a base station that was cut off delivers
hours late. Two telegrams cannot meet the rules by chance: one is on the air for seconds.

Two clocks: `now_ns` is monotonic and drives window and ageing; `Reception.received_ns` is Unix
time and compares arrivals across a restart. A jump of the wall clock changes nothing that is open.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bssci.core.center.receptions import (
    DIGEST_SIZE,
    Heard,
    Outcome,
    Telegram,
    best_first,
    digest_of,
)
from bssci.core.center.traces import (
    UNKNOWN_OPERATION,
    Sight,
    Trace,
    first_ns_of,
    pack,
    sight_of,
    unpack,
    without_oldest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from bssci.core.center.receptions import Reception, SettledUplink, Sighting

__all__ = ["Deduplicator"]

MIN_SAME_ARRIVAL = 2_000_000_000
# ns. With a shorter window copies still arrive this late, and a telegram alone takes longer.

MAX_OPEN = 50_000
# Telegrams between the oldest open one and the newest: six seconds of the highest load. Above it
# the oldest is released before its window ends.

_LONG_AGO = -(2**63)  # ns; before any monotonic time

_Place = int | tuple[int, bytes]
"""Where a telegram is kept: by epoch, end point and counter; other content, by its digest too."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Open(Trace):
    """A telegram that is not released yet."""

    place: _Place
    ep_eui: int
    packet_cnt: int
    counter_reused: bool
    row: int
    heard: dict[int, Heard]
    missing: set[int] = field(default_factory=set)
    """Base stations that usually hear this end point and have not reported."""
    behind: _Open | None = None
    """The next telegram of the same end point."""
    is_foremost: bool = True
    """No earlier telegram of the same end point is open."""
    is_complete: bool = False
    is_released: bool = False

    def add(self, heard: Heard) -> None:
        """One reception a base station: of a telegram with repetition, the better one."""
        bs_eui = heard.reception.bs_eui
        known = self.heard.get(bs_eui)
        if known is None or heard.reception.uplink.snr > known.reception.uplink.snr:
            self.heard[bs_eui] = heard

    def telegram(self) -> Telegram:
        return Telegram(
            ep_eui=self.ep_eui,
            packet_cnt=self.packet_cnt,
            digest=self.digest,
            counter_reused=self.counter_reused,
            receptions=best_first(self.heard.values()),
            received_ns=self.received_ns,
            row=self.row,
        )


class Deduplicator:
    """Takes receptions in the order of their journal rows and gives out telegrams, each once.

    Telegrams of one end point come out in the order of their first receptions: one that is
    complete early waits for those before it, at most until their windows end.
    """

    def __init__(
        self,
        *,
        delay_ns: int = 2_000_000_000,
        early: bool = True,
        memory_ns: int = 600_000_000_000,
        max_remembered: int = 1_000_000,
        max_open: int = MAX_OPEN,
    ) -> None:
        self.configure(
            delay_ns=delay_ns, early=early, memory_ns=memory_ns, max_remembered=max_remembered
        )
        self._max_open = max_open
        self._now_ns = _LONG_AGO
        self._timeline: deque[_Open] = deque()
        """In the order of first receptions, which is that of rows and of ends of windows."""
        self._open: dict[_Place, list[_Open]] = {}
        self._newest: dict[int, _Open] = {}
        """Of each end point, the open telegram that began last."""
        self._awaited: defaultdict[int, dict[_Open, None]] = defaultdict(dict)
        """What waits for each base station, in order."""
        self._ready: deque[_Open] = deque()
        self._open_count = 0
        self._remembered: dict[_Place, bytes] = {}
        self._order: deque[_Place] = deque()
        """One for each telegram remembered, the oldest first."""
        self._aside: dict[int, int] = {}
        """How many telegrams stand aside from a place, because their content is another."""
        self._epochs: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """End points attached not long ago: the number of the epoch, and when it was last used."""
        self._epoch = 0

    def configure(self, *, delay_ns: int, early: bool, memory_ns: int, max_remembered: int) -> None:
        """Change the settings; they hold for what is open and remembered, too.

        Args:
            delay_ns: the window, from the first reception of a telegram to its release.
            early: release as soon as every base station expected has reported.
            memory_ns: how long a released telegram is remembered, from its first reception.
            max_remembered: how many are; the oldest are forgotten first.
        """
        self._delay_ns = delay_ns
        self._window_ns = max(delay_ns, MIN_SAME_ARRIVAL)
        self._early = early
        self._memory_ns = memory_ns
        self._max_remembered = max_remembered

    # --- in ---

    def receive(
        self,
        reception: Reception,
        *,
        now_ns: int,
        clock_offset_ns: int | None,
        expected: Set[int],
        from_disk: bool = False,
    ) -> Outcome:
        """Take a reception; call `due` afterwards. Rows must grow from call to call.

        Args:
            now_ns: monotonic.
            clock_offset_ns: by how much the base station's clock is ahead; None: unknown.
            expected: the connected base stations whose receptions are worth waiting for. When all
                have reported, the telegram is complete. Empty: unknown, the window decides.
                It counts at the first reception of a telegram; tell `disconnected` of changes.
            from_disk: the row was read back after a restart, so that `now_ns` says nothing about
                when it arrived.
        """
        uplink = reception.uplink
        bs_eui = reception.bs_eui
        received_ns = reception.received_ns
        now_ns = self._pass(now_ns)
        corrected = None if clock_offset_ns is None else uplink.rx_time - clock_offset_ns
        operation = hash((bs_eui, reception.session, uplink.op_id))
        sight = sight_of(bs_eui, uplink.rx_time, corrected, operation)
        digest = digest_of(uplink)
        place, is_reused = self._place(self._key(uplink.ep_eui, uplink.packet_cnt), digest)
        known = self._known(place)
        trace = self._match(known, sight, received_ns, now_ns, from_disk=from_disk)
        if isinstance(trace, _Open):
            self._join(trace, Heard(reception, corrected), sight)
            return Outcome.COPY
        if trace is not None:
            trace.note(sight)
            self._rewrite(place, known)
            in_time = trace.is_within(self._delay_ns, received_ns, now_ns, from_disk=from_disk)
            return Outcome.LATE_COPY if in_time else Outcome.OVERDUE_COPY
        telegram = _Open(
            digest=digest,
            first_ns=now_ns,
            received_ns=reception.received_ns,
            is_from_disk=from_disk,
            sights=[*sight],
            place=place,
            ep_eui=uplink.ep_eui,
            packet_cnt=uplink.packet_cnt,
            counter_reused=is_reused,
            row=reception.row,
            heard={bs_eui: Heard(reception, corrected)},
        )
        self._begin(telegram)
        if self._early and expected:
            self._await(telegram, expected)
        return Outcome.COUNTER_REUSED if is_reused else Outcome.FIRST

    def recall(self, settled: SettledUplink, sightings: Iterable[Sighting], *, now_ns: int) -> None:
        """Remember a telegram that was settled earlier, so that its copies are recognised.

        Call it with the oldest first. One that is known already is not remembered twice.

        Args:
            sightings: its receptions; without any, only the time of arrival tells a copy.
            now_ns: monotonic; it is remembered from now on.
        """
        now_ns = self._pass(now_ns)
        key = self._key(settled.ep_eui, settled.packet_cnt)
        place, _ = self._place(key, settled.digest)
        if any(trace.received_ns == settled.received_ns for trace in self._known(place)):
            return
        trace = Trace(settled.digest, now_ns, settled.received_ns, True, [])
        for seen in sightings:
            trace.note(
                sight_of(seen.bs_eui, seen.rx_time, seen.rx_time_corrected, UNKNOWN_OPERATION)
            )
        self._keep_aside(place)
        self._remember(place, trace)
        self._forget(now_ns)

    def new_epoch(self, ep_eui: int) -> None:
        """The end point was attached anew: its counter and content say nothing about earlier ones.

        What is open is released all the same.
        """
        self._epoch += 1
        self._epochs[ep_eui] = self._epoch, self._now_ns
        self._epochs.move_to_end(ep_eui)

    def disconnected(self, bs_eui: int) -> None:
        """The base station is gone: what waited only for it is due."""
        for telegram in self._awaited.pop(bs_eui, ()):
            self._reported(telegram, bs_eui)

    # --- out ---

    def due(self, now_ns: int) -> list[Telegram]:
        """The telegrams to be published now. Each is given out once, here."""
        now_ns = self._pass(now_ns)
        released = self._release_ready()
        ended_ns = now_ns - self._delay_ns
        timeline = self._timeline
        while timeline:
            oldest = timeline[0]
            if not oldest.is_released:
                if oldest.first_ns > ended_ns and len(timeline) <= self._max_open:
                    break
                released.append(self._release(oldest))
                released += self._release_ready()
            timeline.popleft()
        self._forget(now_ns)
        return released

    def next_due(self) -> int | None:
        """When `due` will have something, monotonic; None: not before another reception."""
        if self._ready or len(self._timeline) > self._max_open:
            return self._now_ns
        return self._timeline[0].first_ns + self._delay_ns if self._open_count else None

    def oldest_open_row(self) -> int | None:
        """The lowest journal row that a telegram not given out yet needs; None: all may go."""
        return self._timeline[0].row if self._open_count else None

    @property
    def open_count(self) -> int:
        return self._open_count

    @property
    def remembered_count(self) -> int:
        return len(self._order)

    # --- where a telegram is ---

    def _pass(self, now_ns: int) -> int:
        self._now_ns = max(now_ns, self._now_ns)
        return self._now_ns

    def _key(self, ep_eui: int, packet_cnt: int) -> int:
        key = ep_eui << 32 | packet_cnt
        if self._epochs and ep_eui in self._epochs:
            epoch, _ = self._epochs[ep_eui]
            self._epochs[ep_eui] = epoch, self._now_ns
            self._epochs.move_to_end(ep_eui)
            key |= epoch << 96
        return key

    def _place(self, key: int, digest: bytes) -> tuple[_Place, bool]:
        """Where a telegram of this content is or would be, and whether other content is known."""
        if opened := self._open.get(key):
            known = opened[0].digest
        elif octets := self._remembered.get(key):
            known = octets[:DIGEST_SIZE]
        elif key in self._aside:
            aside = key, digest
            alike = len(self._known(aside))
            return (aside if alike else key), self._aside[key] > alike
        else:
            return key, False
        return (key, key in self._aside) if known == digest else ((key, digest), True)

    def _known(self, place: _Place) -> list[Trace]:
        """What may be meant, the oldest first; what is remembered as copies."""
        octets = self._remembered.get(place)
        traces = unpack(octets) if octets else []
        if place in self._open:
            traces += self._open[place]
        return traces

    def _match(
        self,
        known: list[Trace],
        sight: Sight,
        received_ns: int,
        now_ns: int,
        *,
        from_disk: bool,
    ) -> Trace | None:
        # What the reception itself says goes before when it came: it may have been on its way
        # for hours, while the end point has begun anew.
        for trace in reversed(known):
            if trace.has(sight):
                return trace
        for trace in reversed(known):
            if trace.is_within(
                self._window_ns, received_ns, now_ns, from_disk=from_disk
            ) and not trace.contradicts(sight):
                return trace
        return None

    # --- the life of a telegram ---

    def _begin(self, telegram: _Open) -> None:
        place, ep_eui = telegram.place, telegram.ep_eui
        self._keep_aside(place)
        self._open.setdefault(place, []).append(telegram)
        self._timeline.append(telegram)
        self._open_count += 1
        ahead = self._newest.get(ep_eui)
        if ahead is not None:
            ahead.behind = telegram
            telegram.is_foremost = False
        self._newest[ep_eui] = telegram

    def _await(self, telegram: _Open, expected: Set[int]) -> None:
        telegram.missing = missing = set(expected)
        missing.difference_update(telegram.heard)
        for bs_eui in missing:
            self._awaited[bs_eui][telegram] = None
        if not missing:
            self._complete(telegram)

    def _join(self, telegram: _Open, heard: Heard, sight: Sight) -> None:
        telegram.add(heard)
        telegram.note(sight)
        bs_eui = heard.reception.bs_eui
        if bs_eui in telegram.missing:
            del self._awaited[bs_eui][telegram]
            self._reported(telegram, bs_eui)

    def _reported(self, telegram: _Open, bs_eui: int) -> None:
        telegram.missing.remove(bs_eui)
        if not telegram.missing:
            self._complete(telegram)

    def _complete(self, telegram: _Open) -> None:
        telegram.is_complete = True
        if telegram.is_foremost:
            self._ready.append(telegram)

    def _release_ready(self) -> list[Telegram]:
        released = []
        while self._ready:
            released.append(self._release(self._ready.popleft()))
        return released

    def _release(self, telegram: _Open) -> Telegram:
        self._leave(telegram)
        released = telegram.telegram()
        telegram.heard.clear()
        self._remember(telegram.place, telegram)
        return released

    def _leave(self, telegram: _Open) -> None:
        """It is open no more: let go of it, and let the next of its end point through."""
        telegram.is_released = True
        self._open_count -= 1
        beside = self._open[telegram.place]
        beside.remove(telegram)
        if not beside:
            del self._open[telegram.place]
        for bs_eui in telegram.missing:
            del self._awaited[bs_eui][telegram]
        following, telegram.behind = telegram.behind, None
        if following is None:
            del self._newest[telegram.ep_eui]
            return
        following.is_foremost = True
        if following.is_complete:
            self._ready.append(following)

    # --- what is remembered ---

    def _keep_aside(self, place: _Place) -> None:
        if isinstance(place, tuple):
            self._aside[place[0]] = self._aside.get(place[0], 0) + 1

    def _remember(self, place: _Place, trace: Trace) -> None:
        self._remembered[place] = self._remembered.get(place, b"") + pack(trace)
        self._order.append(place)

    def _rewrite(self, place: _Place, known: list[Trace]) -> None:
        released = [trace for trace in known if not isinstance(trace, _Open)]
        self._remembered[place] = b"".join(map(pack, released))

    def _forget(self, now_ns: int) -> None:
        order = self._order
        horizon_ns = now_ns - self._memory_ns
        while order and (
            len(order) > self._max_remembered
            or first_ns_of(self._remembered[order[0]]) < horizon_ns
        ):
            self._forget_oldest(order.popleft())
        # Older telegrams of these end points are forgotten now, so the number means nothing.
        while self._epochs and next(iter(self._epochs.values()))[1] < horizon_ns:
            self._epochs.popitem(last=False)

    def _forget_oldest(self, place: _Place) -> None:
        rest = without_oldest(self._remembered.pop(place))
        if rest:
            self._remembered[place] = rest
        if isinstance(place, tuple):
            key, _ = place
            self._aside[key] -= 1
            if not self._aside[key]:
                del self._aside[key]
