"""What one base station was told of the end points, and what it must still be told.

Of what is wanted and what the base station has confirmed, `due` makes what is to be told; nothing
else decides that.

An operation without an answer may have been carried out, or may still be. While one is on its way
nobody knows what the base station holds, and no other is sent about the same end point. One that
was given up leaves the mark `UNKNOWN` behind, which is never what is wanted.

What an end point does over the air by way of a base station changes what that one holds, too. From
our response until it completes its operation, it is with it as with an operation of ours.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from bssci.core.center.agenda import Agenda

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bssci.core.center.records import Refused

__all__ = ["UNKNOWN", "Due", "Ledger", "Order", "StandingState", "due"]

UNKNOWN = 0
"""The mark of an end point that a base station may hold, nobody knows how. No other mark is 0."""

ORDERED = 0
# Stands for the ID of an operation that was ordered: which one it got is said by its outcome.

TAKEN_FOR = 60.0
# Seconds that a base station has to complete what an end point does over the air. The end point
# waits no longer for its answer; if this is all that was lost, one attach propagate is too much.

StandingState = Literal["confirmed", "pending", "refused"]


class Due(Enum):
    """What a base station must be told of an end point."""

    ATTACH = "attPrp"
    DETACH = "detPrp"


def due(wanted: int | None, confirmed: int | None, *, may_hold: bool = False) -> Due | None:
    """What a base station must still be told of one end point; None: nothing.

    Args:
        wanted: the mark of the attach propagate that is wanted; None: it is not to be served.
        confirmed: the mark of the one that the base station confirmed last; None: of none.
        may_hold: something else is on its way to it: whatever it confirmed, it may hold that.
    """
    if wanted is None:
        return None if confirmed is None and not may_hold else Due.DETACH
    return None if confirmed == wanted and not may_hold else Due.ATTACH


@dataclass(frozen=True, slots=True)
class Order:
    """Tell a base station this."""

    ep_eui: int
    due: Due


class _Operations:
    """Our operations about one end point at one base station that lack an answer.

    One is on its way at a time; several only when a session issues again, after a resume, what
    was given up one after the other. IDs of a Service Center fall: the newest is the least.
    """

    __slots__ = ("answered", "given_up", "is_sent", "open", "reissued")

    def __init__(self) -> None:
        self.open: set[int] = set()
        """On their way."""
        self.is_sent = True
        self.given_up = 0
        """The newest that was given up."""
        self.answered = 0
        """The newest that was answered."""
        self.reissued: set[int | None] = set()
        """The marks of those that were issued again."""

    def is_in_doubt(self) -> bool:
        return self.is_sent and bool(self.open)

    def is_mixed_up(self) -> bool:
        """Nobody knows which was carried out last: some may be answered from memory."""
        return len(self.reissued) > 1

    def is_over(self) -> bool:
        """Nothing that comes now is about any of these."""
        return not self.open and not self.given_up and not self.is_mixed_up()

    def close(self, op_id: int) -> int | None:
        """An outcome has come: of which one that is on its way; None: of none."""
        if op_id not in self.open and op_id < self.given_up:
            op_id = ORDERED
        if op_id not in self.open:
            return None
        self.open.remove(op_id)
        return op_id


@dataclass(slots=True)
class _Taken:
    """What a base station is told in answer to an operation of its own.

    Attributes:
        op_id: of that operation.
        mark: of what it holds then; None: nothing.
        until: when it is waited for no longer.
    """

    op_id: int
    mark: int | None
    until: float


@dataclass(slots=True)
class _Crossing:
    """An operation of ours and one of the base station's own were on their way at once.

    Base stations work in the order in which things come and answer in any, or work in any order and
    answer in that. What both ways lead to is certain, and nothing else.

    Attributes:
        mark: of what its own leads to.
        is_after: ours is sent after it.
        is_disputed: ours was sent after it and answered before it is completed.
    """

    mark: int | None
    is_after: bool
    is_disputed: bool = False


class Ledger:
    """What one base station was told in one session, and what there is to tell it."""

    def __init__(self, wanted: Mapping[int, int], session: bytes) -> None:
        self.session = session
        self.is_connected = False
        self.confirmed: dict[int, int] = {}
        self.refused: dict[int, Refused] = {}
        self.agenda = Agenda(self.due)
        self._wanted = wanted
        self._operations: dict[int, _Operations] = {}
        self._taken: dict[int, _Taken] = {}
        self._crossings: dict[int, _Crossing] = {}
        self._known: Counter[StandingState] = Counter()
        """End points by state, less those that are pending because nothing was said of them."""

    # --- how it stands ---

    def due(self, ep_eui: int) -> Due | None:
        return due(
            self._wanted.get(ep_eui),
            self.confirmed.get(ep_eui),
            may_hold=self._is_in_doubt(ep_eui),
        )

    def _is_in_doubt(self, ep_eui: int) -> bool:
        operations = self._operations.get(ep_eui)
        return ep_eui in self._taken or (operations is not None and operations.is_in_doubt())

    def may_hold(self, ep_eui: int) -> bool:
        return ep_eui in self.confirmed or self._is_in_doubt(ep_eui)

    def knows(self, ep_eui: int) -> bool:
        """It stands otherwise than an end point that the base station was told nothing of."""
        return (
            ep_eui in self.confirmed
            or ep_eui in self.refused
            or ep_eui in self._operations
            or ep_eui in self._taken
        )

    def state(self, ep_eui: int) -> StandingState | None:
        """None: it does not serve this end point and is not to."""
        if self.due(ep_eui) is None:
            return "confirmed" if ep_eui in self.confirmed else None
        return "refused" if ep_eui in self.refused else "pending"

    # Of most end points most base stations were told nothing: these are counted by their number.

    def counts(self) -> dict[StandingState, int]:
        known = self._known
        return {
            "confirmed": known["confirmed"],
            "pending": known["pending"] + len(self._wanted),
            "refused": known["refused"],
        }

    def count(self, before: StandingState | None, ep_eui: int) -> None:
        after = self.state(ep_eui)
        if before is not None:
            self._known[before] -= 1
        if after is not None:
            self._known[after] += 1

    def count_again(self) -> None:
        self._known.clear()
        for ep_eui in self.confirmed.keys() | self.refused.keys():
            self.count("pending" if ep_eui in self._wanted else None, ep_eui)

    def take_wish(self, before: StandingState | None, ep_eui: int, grown: int) -> None:
        """Something else is wanted of it; `grown`: by how many more end points are wanted."""
        self.settle(ep_eui)
        self.count(before, ep_eui)
        self._known["pending"] -= grown

    def settle(self, ep_eui: int) -> None:
        """What was refused is of no interest any more."""
        self.refused.pop(ep_eui, None)
        self.agenda.done(ep_eui)

    # --- operations ---

    def next_order(self, now: float) -> Order | None:
        for ep_eui in self.agenda.candidates(now):
            # Of what is on its way the outcome says whether there is more to tell.
            if self._is_waited_for(ep_eui, now):
                continue
            what = None if self._is_busy(ep_eui) else self.due(ep_eui)
            if what is not None:
                operations = self._operations_of(ep_eui)
                operations.open.add(ORDERED)
                operations.is_sent = False
                operations.reissued.clear()
                self._crossings.pop(ep_eui, None)
                return Order(ep_eui, what)
        return None

    def _is_busy(self, ep_eui: int) -> bool:
        operations = self._operations.get(ep_eui)
        return operations is not None and bool(operations.open)

    def sent(self, ep_eui: int) -> None:
        before = self.state(ep_eui)
        self._operations_of(ep_eui).is_sent = True
        self.count(before, ep_eui)

    def not_sent(self, ep_eui: int) -> None:
        before = self.state(ep_eui)
        if self.close(ep_eui, ORDERED):
            self.count(before, ep_eui)
            self.agenda.look_at(ep_eui)

    def reissued(self, ep_eui: int, op_id: int, mark: int | None) -> None:
        """An operation is on its way again; it may have been carried out the first time."""
        before = self.state(ep_eui)
        operations = self._operations_of(ep_eui)
        operations.open.add(op_id)
        operations.is_sent = True
        operations.reissued.add(mark)
        if self.confirmed.get(ep_eui) != mark:
            self.confirmed[ep_eui] = UNKNOWN
        self.count(before, ep_eui)

    def close(self, ep_eui: int, op_id: int) -> bool:
        """An operation is over, and was not carried out; False: none that was on its way."""
        operations = self._operations.get(ep_eui)
        closed = None if operations is None else operations.close(op_id)
        self._tidy(ep_eui)
        return closed is not None

    def give_up(self, ep_eui: int, op_id: int) -> None:
        """An operation that was on its way got no answer; one may come yet."""
        operations = self._operations_of(ep_eui)
        operations.given_up = min(operations.given_up, op_id)
        self._tidy(ep_eui)
        self.confirmed[ep_eui] = UNKNOWN

    def confirm(self, ep_eui: int, op_id: int, mark: int | None) -> None:
        """An operation was carried out, at the latest now; it left this mark."""
        operations = self._operations_of(ep_eui)
        closed = operations.close(op_id)
        if operations.is_mixed_up() or self._is_disputed(ep_eui, mark, is_late=closed != ORDERED):
            self._hold(ep_eui, UNKNOWN)
        elif closed == ORDERED:
            self._hold(ep_eui, mark)
        elif operations.answered < op_id:
            # A newer one was answered before: who knows in which order they were carried out.
            if self.confirmed.get(ep_eui) != mark:
                self._hold(ep_eui, UNKNOWN)
        elif operations.given_up >= op_id:
            self._hold(ep_eui, mark)
        # Otherwise a newer one was given up, and may have been carried out since.
        operations.answered = min(operations.answered, op_id)
        self._tidy(ep_eui)

    def _is_disputed(self, ep_eui: int, mark: int | None, *, is_late: bool) -> bool:
        """Nobody knows whether this or an operation of its own was carried out last."""
        crossing = self._crossings.get(ep_eui)
        if crossing is None or crossing.mark == mark:
            return False
        if is_late or not crossing.is_after:
            return True
        crossing.is_disputed = ep_eui in self._taken
        return crossing.is_disputed

    def _hold(self, ep_eui: int, mark: int | None) -> None:
        if mark is None:
            self.confirmed.pop(ep_eui, None)
        else:
            wanted = self._wanted.get(ep_eui)
            # One number in memory for all base stations.
            self.confirmed[ep_eui] = wanted if wanted is not None and wanted == mark else mark

    # --- what the base station asked for itself ---

    def take(self, ep_eui: int, op_id: int, mark: int | None, now: float) -> None:
        """It is about to be told, in answer to this operation of its own, what leaves this mark."""
        self.settle(ep_eui)
        operations = self._operations.get(ep_eui)
        if operations is not None or ep_eui in self._crossings:
            self._crossings[ep_eui] = _Crossing(mark, _is_to_come(operations))
        taken = self._taken[ep_eui] = _Taken(op_id, mark, now + TAKEN_FOR)
        self.agenda.try_at(ep_eui, taken.until)
        self.confirmed[ep_eui] = UNKNOWN

    def complete(self, ep_eui: int, op_id: int) -> bool:
        """It has completed that operation; False: it is not waited for."""
        taken = self._taken.get(ep_eui)
        if taken is None or taken.op_id != op_id:
            return False
        self._let_go(ep_eui)
        crossing = self._crossings.get(ep_eui)
        is_disputed = crossing is not None and crossing.is_disputed
        self._hold(ep_eui, UNKNOWN if is_disputed else taken.mark)
        return True

    def _let_go(self, ep_eui: int) -> None:
        del self._taken[ep_eui]
        if ep_eui not in self.refused:
            self.agenda.done(ep_eui)

    def _is_waited_for(self, ep_eui: int, now: float) -> bool:
        taken = self._taken.get(ep_eui)
        if taken is None:
            return False
        if now < taken.until:
            self.agenda.try_at(ep_eui, taken.until)
            return True
        before = self.state(ep_eui)
        del self._taken[ep_eui]
        if self.confirmed.get(ep_eui) != taken.mark:
            self.confirmed[ep_eui] = UNKNOWN
        # Otherwise it has confirmed since, to an operation of ours, what it was told in answer.
        if self.due(ep_eui) is None:
            self.refused.pop(ep_eui, None)
        self.count(before, ep_eui)
        return False

    def _operations_of(self, ep_eui: int) -> _Operations:
        return self._operations.setdefault(ep_eui, _Operations())

    def _tidy(self, ep_eui: int) -> None:
        operations = self._operations.get(ep_eui)
        if operations is not None and operations.is_over():
            del self._operations[ep_eui]

    # --- coming and going ---

    def connect(self, end_points: Iterable[int]) -> None:
        self.is_connected = True
        self.agenda.begin(end_points)
        for ep_eui in tuple(self.refused):
            # It is tried again at once: an earlier process planned it, or it was on its way.
            if not self.agenda.is_planned(ep_eui):
                before = self.state(ep_eui)
                del self.refused[ep_eui]
                self.count(before, ep_eui)

    def disconnect(self) -> None:
        self.is_connected = False
        self.agenda.begin(())
        for ep_eui, operations in tuple(self._operations.items()):
            before = self.state(ep_eui)
            if ORDERED in operations.open and operations.is_sent:
                self.confirmed[ep_eui] = UNKNOWN
            operations.open.clear()
            self._crossings.pop(ep_eui, None)
            self._tidy(ep_eui)
            if self.due(ep_eui) is None:
                self.settle(ep_eui)
            self.count(before, ep_eui)
        for ep_eui in tuple(self._taken):
            before = self.state(ep_eui)
            self._let_go(ep_eui)
            if self.due(ep_eui) is None:
                self.settle(ep_eui)
            self.count(before, ep_eui)


def _is_to_come(operations: _Operations | None) -> bool:
    """One is ordered and not sent yet."""
    return operations is not None and ORDERED in operations.open and not operations.is_sent
