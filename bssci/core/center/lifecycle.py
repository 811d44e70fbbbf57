"""Wanted vs. confirmed -> what each base station must still be told (BSSCI 1.0.0, 5.8 and 5.9).

There is one way to tell base stations things: `due` compares what is wanted of an end point with
what a base station has confirmed, and the difference is what it is told next. A command, a base
station that connects, a refusal that is tried again: they only say where to look.

What a base station has confirmed holds for one session with it. A resumed session goes on with it;
in a new one the base station knows nothing, and is told everything that is wanted.
"""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING

from bssci.core.center.end_points import mark_of
from bssci.core.center.ledger import UNKNOWN, Due, Ledger, Order, StandingState, due
from bssci.core.center.records import Refused, Registration
from bssci.core.protocol.errors import Code
from bssci.core.protocol.messages import AttachPropagate, DetachPropagate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bssci.core.protocol.messages import Message

__all__ = ["UNKNOWN", "Due", "Lifecycle", "Order", "StandingState", "due"]

MAX_MESSAGE = 200  # characters of a base station's reason that are kept


class Lifecycle:
    """What is wanted of the end points, and what each base station was told.

    It is told everything and asks nothing. What changes and must outlive the process is returned
    as `Registration`, to be stored. `now` is monotonic, in seconds.

    Attributes:
        wanted: the mark of every end point that is to be served.
    """

    def __init__(self) -> None:
        self.wanted: dict[int, int] = {}
        self._ledgers: dict[int, Ledger] = {}
        self._all: tuple[int, ...] | None = None

    # --- what was stored ---

    def recall_station(self, bs_eui: int, session: bytes) -> None:
        """A base station that an earlier process knew, and the session of its registrations."""
        self._ledgers[bs_eui] = Ledger(self.wanted, session)

    def recall(self, registration: Registration) -> None:
        """What a base station had confirmed or refused; it must be recalled before."""
        ledger = self._ledgers.get(registration.bs_eui)
        if ledger is not None:
            if registration.mark is not None:
                ledger.confirmed[registration.ep_eui] = registration.mark
            if registration.refused is not None:
                ledger.refused[registration.ep_eui] = registration.refused

    def recalled(self) -> None:
        """All was recalled, and `want` called for all end points; no base station is connected."""
        for ledger in self._ledgers.values():
            for ep_eui in [each for each in ledger.refused if ledger.due(each) is None]:
                del ledger.refused[ep_eui]  # it was wanted when this was stored
            ledger.count_again()

    # --- what is wanted ---

    def want(self, ep_eui: int, mark: int | None) -> None:
        """From now on this is wanted of an end point; None: no base station is to serve it."""
        known = self.wanted.get(ep_eui)
        if known == mark:
            return
        ledgers = self._ledgers.values()
        concerned = [(each, each.state(ep_eui)) for each in ledgers if each.knows(ep_eui)]
        if mark is None:
            del self.wanted[ep_eui]
        else:
            self.wanted[ep_eui] = mark
        grown = (mark is not None) - (known is not None)
        if grown:
            self._all = None
        for ledger, before in concerned:
            ledger.take_wish(before, ep_eui, grown)
        for ledger in ledgers:
            if ledger.is_connected:
                ledger.agenda.look_at(ep_eui)

    # --- base stations ---

    def station_connected(
        self, bs_eui: int, session: bytes, *, unanswered: Iterable[Message] = ()
    ) -> bool:
        """A base station is connected; True if it is a new session, in which it knows nothing.

        Args:
            session: the `snScUuid`.
            unanswered: our operations without an answer, which the session issues again by itself.
                They are on their way: `refused` with code 110 gives them up, as all others.
        """
        ledger = self._ledgers.get(bs_eui)
        is_new = ledger is None or ledger.session != session
        if ledger is None or is_new:
            ledger = self._ledgers[bs_eui] = Ledger(self.wanted, session)
        ledger.connect(self._everything(ledger))
        for message in unanswered:
            if isinstance(message, AttachPropagate | DetachPropagate):
                ledger.reissued(message.ep_eui, message.op_id, _mark_left_by(message))
        return is_new

    def station_disconnected(self, bs_eui: int) -> None:
        """What was on its way may or may not have arrived."""
        self._ledgers[bs_eui].disconnect()

    def forget_station(self, bs_eui: int) -> None:
        """A base station that is not coming back."""
        self._ledgers.pop(bs_eui, None)

    def _everything(self, ledger: Ledger) -> Iterable[int]:
        """All end points that may be due there, in one list that base stations share."""
        if self._all is None:
            self._all = tuple(self.wanted)
        others = [ep_eui for ep_eui in ledger.confirmed if ep_eui not in self.wanted]
        return chain(self._all, others)

    # --- what end points do over the air ---

    def took(
        self, bs_eui: int, ep_eui: int, op_id: int, mark: int | None, *, now: float
    ) -> Registration | None:
        """A base station is about to be told how to serve an end point that asked for it itself.

        Or that it has rightly let go of one. Until it completes that operation of its own, nothing
        else is told to it about the end point; if it does not, it is told anew what is wanted.

        Args:
            op_id: of the operation of the base station.
            mark: of what it holds then; None: nothing.

        Returns:
            What to store; None: it is not connected, and is told nothing.
        """
        ledger = self._ledgers.get(bs_eui)
        if ledger is None or not ledger.is_connected:
            return None
        before = ledger.state(ep_eui)
        ledger.take(ep_eui, op_id, mark, now)
        ledger.count(before, ep_eui)
        return self._registration(bs_eui, ledger, ep_eui)

    def completed(self, bs_eui: int, ep_eui: int, op_id: int) -> Registration | None:
        """A base station has completed that operation; what to store. None: nobody waits for it."""
        ledger = self._ledgers.get(bs_eui)
        if ledger is None:
            return None
        before = ledger.state(ep_eui)
        if not ledger.complete(ep_eui, op_id):
            return None
        self._go_on(ledger, ep_eui)
        ledger.count(before, ep_eui)
        return self._registration(bs_eui, ledger, ep_eui)

    # --- one operation after the other ---

    def next_order(self, bs_eui: int, *, now: float) -> Order | None:
        """What this base station is to be told next; it is on its way from now on.

        Then call `sent` or `not_sent`. None: nothing now; there may be something after any other
        call that names this base station, after `want`, and at `next_retry`.
        """
        ledger = self._ledgers[bs_eui]
        return ledger.next_order(now) if ledger.is_connected else None

    def next_retry(self, bs_eui: int) -> float | None:
        """When to ask again for the next order though nothing has changed; None: no need to."""
        ledger = self._ledgers[bs_eui]
        return ledger.agenda.next_retry() if ledger.is_connected else None

    def sent(self, bs_eui: int, order: Order) -> None:
        """From now on nobody knows whether the base station serves the end point, until it answers.

        Call it before the first byte is on its way.
        """
        self._ledgers[bs_eui].sent(order.ep_eui)

    def not_sent(self, bs_eui: int, order: Order) -> None:
        """An order could not be sent: the base station has not heard of it."""
        self._ledgers[bs_eui].not_sent(order.ep_eui)

    def answered(self, bs_eui: int, request: Message) -> Registration | None:
        """A base station has done what it was told; what to store. None: it was nothing of ours.

        Args:
            request: as the session issued it, with its ID: an answer may come after another
                operation was sent in its place.
        """
        ledger = self._ledgers.get(bs_eui)
        if ledger is None or not isinstance(request, AttachPropagate | DetachPropagate):
            return None
        return self._confirmed(bs_eui, ledger, request)

    def _confirmed(
        self, bs_eui: int, ledger: Ledger, request: AttachPropagate | DetachPropagate
    ) -> Registration:
        ep_eui = request.ep_eui
        before = ledger.state(ep_eui)
        ledger.confirm(ep_eui, request.op_id, _mark_left_by(request))
        self._go_on(ledger, ep_eui)
        ledger.count(before, ep_eui)
        return self._registration(bs_eui, ledger, ep_eui)

    def _go_on(self, ledger: Ledger, ep_eui: int) -> None:
        if ledger.due(ep_eui) is None:
            ledger.settle(ep_eui)
        elif ledger.is_connected and not ledger.agenda.is_planned(ep_eui):
            ledger.agenda.look_at(ep_eui)  # something else is wanted by now

    def refused(
        self, bs_eui: int, request: Message, refusal: Refused, *, now: float
    ) -> Registration | None:
        """A base station has refused what it was told, or did not answer in time (code 110).

        It is told again later. That it does not know an end point which it is to forget is as good
        as a confirmation.

        Args:
            request: as the session issued it, with its ID.

        Returns:
            What to store; None: it was nothing of ours, or had been given up before.
        """
        ledger = self._ledgers.get(bs_eui)
        if ledger is None or not isinstance(request, AttachPropagate | DetachPropagate):
            return None
        if isinstance(request, DetachPropagate) and refusal.code == Code.ENOENT:
            return self._confirmed(bs_eui, ledger, request)
        ep_eui = request.ep_eui
        before = ledger.state(ep_eui)
        if not ledger.close(ep_eui, request.op_id):
            return None
        if refusal.code == Code.ETIMEDOUT:
            ledger.give_up(ep_eui, request.op_id)
        self._plan(ledger, request, refusal, now)
        ledger.count(before, ep_eui)
        return self._registration(bs_eui, ledger, ep_eui)

    def _plan(
        self,
        ledger: Ledger,
        request: AttachPropagate | DetachPropagate,
        refusal: Refused,
        now: float,
    ) -> None:
        """When to tell again what was refused."""
        ep_eui = request.ep_eui
        if ledger.due(ep_eui) is None:
            ledger.settle(ep_eui)
        elif _mark_left_by(request) != self.wanted.get(ep_eui):
            ledger.agenda.look_at(ep_eui)  # something else is wanted by now
        else:
            reason = refusal.message[:MAX_MESSAGE]
            ledger.refused[ep_eui] = Refused(refusal.code, reason, refusal.at_ns)
            ledger.agenda.try_later(ep_eui, now)

    def _registration(self, bs_eui: int, ledger: Ledger, ep_eui: int) -> Registration:
        return Registration(
            bs_eui=bs_eui,
            ep_eui=ep_eui,
            mark=ledger.confirmed.get(ep_eui),
            refused=ledger.refused.get(ep_eui),
        )

    # --- showing ---

    def state(self, bs_eui: int, ep_eui: int) -> StandingState | None:
        """How an end point stands at a base station; None: it does not serve it and is not to."""
        ledger = self._ledgers.get(bs_eui)
        return None if ledger is None else ledger.state(ep_eui)

    def standing(self, ep_eui: int) -> list[tuple[int, StandingState, Refused | None]]:
        """How an end point stands at each base station that serves it or is to; by EUI.

        Of base stations that are away only those are told that are known to serve it.
        """
        found = [
            (bs_eui, state, ledger.refused.get(ep_eui))
            for bs_eui, ledger in self._ledgers.items()
            if (ledger.is_connected or ledger.may_hold(ep_eui))
            and (state := ledger.state(ep_eui)) is not None
        ]
        return sorted(found, key=itemgetter(0))

    def is_held(self, ep_eui: int) -> bool:
        """Some base station serves it or may do so."""
        return any(ledger.may_hold(ep_eui) for ledger in self._ledgers.values())

    def counts(self, bs_eui: int) -> dict[StandingState, int]:
        """How many end points are in which state at a base station."""
        ledger = self._ledgers.get(bs_eui)
        return {"confirmed": 0, "pending": 0, "refused": 0} if ledger is None else ledger.counts()

    def is_connected(self, bs_eui: int) -> bool:
        ledger = self._ledgers.get(bs_eui)
        return ledger is not None and ledger.is_connected

    def connected(self) -> list[int]:
        """The base stations that are connected now."""
        return [bs_eui for bs_eui, ledger in self._ledgers.items() if ledger.is_connected]

    def is_settled(self, bs_eui: int) -> bool:
        """Nothing is due there but what it has refused."""
        return not self.counts(bs_eui)["pending"]


def _mark_left_by(message: AttachPropagate | DetachPropagate) -> int | None:
    """What a base station holds that has carried this out."""
    return mark_of(message) if isinstance(message, AttachPropagate) else None
