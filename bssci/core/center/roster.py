"""The end points that are registered: what is wanted of each, what was learned by hearing it."""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Literal

from bssci.core.center.records import Hearing, Preferred, Spread
from bssci.core.protocol.errors import InvalidEuiError
from bssci.core.protocol.eui import parse_eui

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bssci.core.center.records import Wish

__all__ = ["ACTIVITIES", "Activity", "Limits", "Roster", "activity_of", "deviation"]

Activity = Literal["active", "warning", "detach_pending", "auto_detached", "detached", "never_seen"]
ACTIVITIES: tuple[Activity, ...] = (
    "active",
    "warning",
    "detach_pending",
    "auto_detached",
    "detached",
    "never_seen",
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Silence, in ns, after which an end point is warned about and after which it is detached.

    Attributes:
        is_enabled: whether anything is detached for silence at all.
    """

    warn_ns: int
    detach_ns: int
    is_enabled: bool = True

    def of(self, wish: Wish) -> Limits:
        """Those of one end point: its own timeout, with a warning at the same share of it."""
        timeout = wish.end_point.timeout
        if timeout is None:
            return self
        detach_ns = round(timeout * 1e9)
        return Limits(detach_ns * self.warn_ns // self.detach_ns, detach_ns, self.is_enabled)


def activity_of(
    wish: Wish, hearing: Hearing | None, *, silent_ns: int, limits: Limits, is_held: bool
) -> Activity:
    """How an end point is doing.

    Args:
        silent_ns: its silence on the clock of those who hear it.
        is_held: some base station still serves it, as far as is known.
    """
    if wish.wanted == "detached":
        if is_held:
            return "detach_pending"
        return "auto_detached" if wish.cause == "inactivity" else "detached"
    if hearing is None:
        return "never_seen"
    own = limits.of(wish)
    if own.is_enabled and silent_ns >= own.detach_ns:
        return "detach_pending"
    return "warning" if own.is_enabled and silent_ns >= own.warn_ns else "active"


def deviation(spread: Spread, count: int) -> float:
    """The standard deviation of `count` figures."""
    return sqrt(spread.squares / count) if count else 0.0


class _Figure:
    """A `Spread` that grows."""

    __slots__ = ("least", "mean", "most", "squares")

    def __init__(self, spread: Spread) -> None:
        self.mean = spread.mean
        self.least = spread.least
        self.most = spread.most
        self.squares = spread.squares

    def add(self, figure: float, count: int) -> None:
        """Take the last one of `count` figures."""
        away = figure - self.mean
        self.mean += away / count
        self.squares += away * (figure - self.mean)
        if figure < self.least:
            self.least = figure
        elif figure > self.most:
            self.most = figure

    def spread(self) -> Spread:
        return Spread(self.mean, self.least, self.most, self.squares)


class _Heard:
    """A `Hearing` that grows: one is made of it only when somebody asks."""

    __slots__ = (
        "best_bs_eui",
        "heard_at",
        "in_a_row",
        "last_cnt",
        "last_rssi",
        "last_seen_ns",
        "last_snr",
        "receivers",
        "rssi",
        "shown",
        "snr",
        "uplinks",
    )

    def __init__(self, hearing: Hearing) -> None:
        self.uplinks = hearing.uplinks
        self.last_seen_ns = hearing.last_seen_ns
        self.last_cnt = hearing.last_cnt
        self.last_snr = hearing.last_snr
        self.last_rssi = hearing.last_rssi
        self.snr = _Figure(hearing.snr)
        self.rssi = _Figure(hearing.rssi)
        self.best_bs_eui = hearing.preferred.bs_eui
        self.in_a_row = hearing.preferred.messages
        self.receivers = hearing.receivers
        self.heard_at = hearing.heard_at
        self.shown: Hearing | None = hearing

    def add(
        self,
        packet_cnt: int,
        received_ns: int,
        bs_eui: int,
        snr: float,
        rssi: float,
        receivers: frozenset[int],
        heard_at: int,
    ) -> None:
        count = self.uplinks = self.uplinks + 1
        self.last_seen_ns = received_ns
        self.last_cnt = packet_cnt
        self.last_snr = snr
        self.last_rssi = rssi
        self.snr.add(snr, count)
        self.rssi.add(rssi, count)
        self.in_a_row = self.in_a_row + 1 if bs_eui == self.best_bs_eui else 1
        self.best_bs_eui = bs_eui
        self.receivers = receivers
        self.heard_at = heard_at
        self.shown = None

    def hearing(self) -> Hearing:
        if self.shown is None:
            self.shown = Hearing(
                uplinks=self.uplinks,
                last_seen_ns=self.last_seen_ns,
                last_cnt=self.last_cnt,
                last_snr=self.last_snr,
                last_rssi=self.last_rssi,
                snr=self.snr.spread(),
                rssi=self.rssi.spread(),
                preferred=Preferred(
                    self.best_bs_eui, self.last_snr, self.last_seen_ns, self.in_a_row
                ),
                receivers=self.receivers,
                heard_at=self.heard_at,
            )
        return self.shown


class Roster:
    """All registered end points, in the order of their EUIs. Told everything, asks nothing."""

    def __init__(self) -> None:
        self._wishes: dict[int, Wish] = {}
        self._heard: dict[int, _Heard] = {}
        self._epochs: dict[int, int] = {}
        """Since when packet counters have counted anew, for whom they have."""
        self._dirty: set[int] = set()
        self._order: list[int] = []
        self._names: dict[str, set[int]] = {}

    def __contains__(self, ep_eui: int) -> bool:
        return ep_eui in self._wishes

    def __len__(self) -> int:
        return len(self._wishes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def after(self, ep_eui: int) -> Sequence[int]:
        """The EUIs that come after this one, in order; -1: all."""
        return self._order[bisect_right(self._order, ep_eui) :]

    # --- what is wanted ---

    def wish(self, ep_eui: int) -> Wish | None:
        """What is wanted of an end point; None: it is not registered."""
        return self._wishes.get(ep_eui)

    def decide(self, wish: Wish) -> None:
        """This is wanted from now on; an end point that was not known is registered."""
        ep_eui = wish.end_point.eui
        known = self._wishes.get(ep_eui)
        if known is None:
            self._insert(ep_eui)
        elif known.end_point.name != wish.end_point.name:
            self._forget_name(known)
        self._wishes[ep_eui] = wish
        if wish.end_point.name:
            self._names.setdefault(wish.end_point.name.casefold(), set()).add(ep_eui)

    def _insert(self, ep_eui: int) -> None:
        if self._order and ep_eui < self._order[-1]:
            insort(self._order, ep_eui)
        else:
            self._order.append(ep_eui)

    def forget(self, ep_eui: int) -> None:
        """It is not registered any more; nothing is known of it."""
        wish = self._wishes.pop(ep_eui, None)
        if wish is not None:
            self._forget_name(wish)
            self._order.pop(bisect_right(self._order, ep_eui) - 1)
            self._heard.pop(ep_eui, None)
            self._epochs.pop(ep_eui, None)
            self._dirty.discard(ep_eui)

    def _forget_name(self, wish: Wish) -> None:
        name = wish.end_point.name.casefold()
        bearers = self._names.get(name, set())
        bearers.discard(wish.end_point.eui)
        if not bearers:
            self._names.pop(name, None)

    def named(self, text: str) -> list[int]:
        """The registered end points that a text means: one by its EUI, or all of that name."""
        try:
            ep_eui = parse_eui(text)
        except InvalidEuiError:
            return sorted(self._names.get(text.strip().casefold(), ()))
        return [ep_eui] if ep_eui in self._wishes else []

    # --- what was heard ---

    def hearing(self, ep_eui: int) -> Hearing | None:
        """What was learned by hearing it; None: it was never heard."""
        heard = self._heard.get(ep_eui)
        return None if heard is None else heard.hearing()

    def receivers(self, ep_eui: int) -> frozenset[int] | None:
        """Those of its `hearing`, which need not be made for it; None: it was never heard."""
        heard = self._heard.get(ep_eui)
        return None if heard is None else heard.receivers

    def recall(self, ep_eui: int, hearing: Hearing) -> None:
        """What an earlier process had learned of a registered end point."""
        if ep_eui in self._wishes:
            self._heard[ep_eui] = _Heard(hearing)

    def begin_epoch(self, ep_eui: int, at_ns: int, *, heard_at: int | None = None) -> None:
        """Its packet counters count anew: those of what was received until then say nothing.

        Args:
            at_ns: Unix time.
            heard_at: reading of the clock of those who hear it; None: it was not heard now.
        """
        if ep_eui in self._wishes:
            self._epochs[ep_eui] = at_ns
        heard = self._heard.get(ep_eui)
        if heard is None:
            return
        heard.shown = None
        if heard.last_seen_ns <= at_ns:
            heard.last_cnt = 0
        if heard_at is not None:
            heard.heard_at = heard_at
            self._dirty.add(ep_eui)

    def heard(
        self,
        ep_eui: int,
        *,
        packet_cnt: int,
        received_ns: int,
        bs_eui: int,
        snr: float,
        rssi: float,
        receivers: frozenset[int],
        heard_at: int,
    ) -> None:
        """A telegram was settled; of an end point that is not registered nothing is learned.

        Args:
            received_ns: Unix time.
            bs_eui, snr, rssi: its best reception.
            receivers: who usually hears the end point; `heard_at` is the reading of their clock.
        """
        heard = self._heard.get(ep_eui)
        if ep_eui in self._epochs and received_ns <= self._epochs[ep_eui]:
            packet_cnt = 0 if heard is None else heard.last_cnt
        if heard is not None:
            heard.add(packet_cnt, received_ns, bs_eui, snr, rssi, receivers, heard_at)
        elif ep_eui in self._wishes:
            first = Hearing(
                uplinks=1,
                last_seen_ns=received_ns,
                last_cnt=packet_cnt,
                last_snr=snr,
                last_rssi=rssi,
                snr=Spread(snr, snr, snr),
                rssi=Spread(rssi, rssi, rssi),
                preferred=Preferred(bs_eui, snr, received_ns, 1),
                receivers=receivers,
                heard_at=heard_at,
            )
            self._heard[ep_eui] = _Heard(first)
        else:
            return
        self._dirty.add(ep_eui)

    def take_hearings(self) -> list[tuple[int, Hearing]]:
        """What was learned since this was last asked, to be stored."""
        dirty, self._dirty = self._dirty, set()
        return [(ep_eui, self._heard[ep_eui].hearing()) for ep_eui in dirty]

    # --- flags of a wish ---

    def flag(
        self, ep_eui: int, *, is_announced: bool | None = None, is_warned: bool | None = None
    ) -> None:
        """Note what applications were told; None leaves a flag as it is."""
        wish = self._wishes[ep_eui]
        self._wishes[ep_eui] = replace(
            wish,
            is_announced=wish.is_announced if is_announced is None else is_announced,
            is_warned=wish.is_warned if is_warned is None else is_warned,
        )
