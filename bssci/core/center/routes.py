"""By which base stations an end point can be reached: those that have heard it last.

An end point listens in the window after its uplink, on the way on which it was heard. The base
station that took its attach has heard it, too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from bssci.core.center.placement import COUNT, distance
from bssci.core.center.receptions import known_eq_snr

if TYPE_CHECKING:
    from bssci.core.protocol.messages import UplinkData

__all__ = ["Routes"]

MAX_END_POINTS = 200_000
# Whose latest uplink is remembered; of the others the one that was heard best before will do.

RESTART = 1 << 16
# A counter that falls by more than this belongs to an end point that has begun anew, not to a copy
# that comes late.


class _Latest:
    """The receptions of the latest uplink of an end point."""

    __slots__ = ("packet_cnt", "receptions")

    def __init__(self, packet_cnt: int) -> None:
        self.packet_cnt = packet_cnt
        self.receptions: dict[int, tuple[float, float | None]] = {}
        """SNR and, where the base station knows it, equivalent SNR in dB."""


class Routes:
    """The ways to end points. It is told everything and asks nothing."""

    def __init__(self, *, max_end_points: int = MAX_END_POINTS) -> None:
        self._max_end_points = max_end_points
        self._latest: OrderedDict[int, _Latest] = OrderedDict()
        self._attached_at: OrderedDict[int, int] = OrderedDict()

    def heard(self, bs_eui: int, uplink: UplinkData) -> None:
        """A base station has received an uplink; copies of earlier ones say nothing."""
        ep_eui, packet_cnt = uplink.ep_eui, uplink.packet_cnt
        latest = self._latest.get(ep_eui)
        if latest is None or _is_newer(latest.packet_cnt, packet_cnt):
            latest = self._latest[ep_eui] = _Latest(packet_cnt)
            self._latest.move_to_end(ep_eui)
            if len(self._latest) > self._max_end_points:
                self._latest.popitem(last=False)
        if distance(latest.packet_cnt, packet_cnt) == 0:
            latest.receptions[bs_eui] = uplink.snr, known_eq_snr(uplink)

    def attached(self, ep_eui: int, bs_eui: int) -> None:
        """A base station took an attach over the air: the uplinks before it say nothing now."""
        self._latest.pop(ep_eui, None)
        self._attached_at[ep_eui] = bs_eui
        self._attached_at.move_to_end(ep_eui)
        if len(self._attached_at) > self._max_end_points:
            self._attached_at.popitem(last=False)

    def forget(self, ep_eui: int) -> None:
        """An end point is not registered any more."""
        self._latest.pop(ep_eui, None)
        self._attached_at.pop(ep_eui, None)

    def to(self, ep_eui: int) -> tuple[int, ...]:
        """The base stations that have heard an end point last, the best one first.

        Empty: it was not heard since we began to listen.
        """
        latest = self._latest.get(ep_eui)
        if latest is None:
            bs_eui = self._attached_at.get(ep_eui)
            return () if bs_eui is None else (bs_eui,)
        found = latest.receptions
        if any(equivalent is None for _, equivalent in found.values()):
            return tuple(sorted(found, key=lambda bs_eui: -found[bs_eui][0]))
        return tuple(sorted(found, key=lambda bs_eui: -(found[bs_eui][1] or 0.0)))


def _is_newer(before: int, after: int) -> bool:
    return 0 < distance(before, after) <= COUNT - RESTART
