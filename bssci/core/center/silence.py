"""How long an end point has been silent, counted only while it could have been heard.

For each set of base stations there is a clock that runs while at least one of them is connected.
The silence of an end point is what the clock of the base stations that usually hear it has gained
since its last telegram. So neither our own downtime nor that of all its base stations counts, and
the wall clock plays no part: the clocks run on the monotonic time that is handed in.

That time goes on while our process is stopped (a signal, a paused container), and then nothing is
heard. So of a step that is longer than any we make while running, only that length counts.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

__all__ = ["SilenceClocks"]

Receivers = frozenset[int]


class _Clock:
    """One clock: what it has counted, and since when it runs."""

    __slots__ = ("connected", "reading_ns", "running_since_ns", "users")

    def __init__(self, reading_ns: int, connected: int, time_ns: int) -> None:
        self.reading_ns = reading_ns
        self.connected = connected
        self.running_since_ns = time_ns
        self.users = 0

    def read(self, time_ns: int) -> int:
        if self.connected:
            return self.reading_ns + time_ns - self.running_since_ns
        return self.reading_ns

    def change(self, connected: int, time_ns: int) -> None:
        self.reading_ns, self.running_since_ns = self.read(time_ns), time_ns
        self.connected = connected


class SilenceClocks:
    """The clocks of all sets of base stations that some end point needs; times in ns, monotonic."""

    def __init__(self, *, longest_step_ns: int | None = None) -> None:
        """
        Args:
            longest_step_ns: the most that passes between two calls of this while the process runs;
                None: any time.
        """
        self._longest_step_ns = longest_step_ns
        self._told_ns: int | None = None
        self._passed_ns = 0
        self._clocks: dict[Receivers, _Clock] = {}
        self._of_station: defaultdict[int, set[Receivers]] = defaultdict(set)
        self._connected: set[int] = set()
        self._unused: set[Receivers] = set()

    def recall(self, readings: Mapping[Receivers, int], *, now_ns: int) -> None:
        """Take the readings that an earlier process has written down."""
        time_ns = self._time(now_ns)
        for receivers, reading_ns in readings.items():
            self._clock(receivers, time_ns, reading_ns)

    def station_connected(self, bs_eui: int, *, now_ns: int) -> None:
        """A base station can hear from now on."""
        if bs_eui not in self._connected:
            self._connected.add(bs_eui)
            self._change(bs_eui, 1, self._time(now_ns))

    def station_disconnected(self, bs_eui: int, *, now_ns: int) -> None:
        """What a base station hears does not reach us any more."""
        if bs_eui in self._connected:
            self._connected.discard(bs_eui)
            self._change(bs_eui, -1, self._time(now_ns))

    def _change(self, bs_eui: int, by: int, time_ns: int) -> None:
        for receivers in self._of_station.get(bs_eui, ()):
            clock = self._clocks[receivers]
            clock.change(clock.connected + by, time_ns)

    def use(self, receivers: Receivers, *, now_ns: int) -> int:
        """One end point more goes by the clock of these base stations; its reading."""
        time_ns = self._time(now_ns)
        clock = self._clock(receivers, time_ns)
        clock.users += 1
        return clock.read(time_ns)

    def release(self, receivers: Receivers) -> None:
        """One end point less goes by this clock; one that nobody uses is kept no longer."""
        clock = self._clocks[receivers]
        clock.users -= 1
        if not clock.users:
            self._forget(receivers)

    def read(self, receivers: Receivers, *, now_ns: int) -> int:
        """For how long one of these base stations was connected, since the clock began."""
        time_ns = self._time(now_ns)
        clock = self._clocks.get(receivers)
        return 0 if clock is None else clock.read(time_ns)

    def readings(self, *, now_ns: int) -> dict[Receivers, int]:
        """All clocks that are in use, to be written down."""
        time_ns = self._time(now_ns)
        return {
            receivers: clock.read(time_ns)
            for receivers, clock in self._clocks.items()
            if clock.users
        }

    def take_unused(self) -> Set[Receivers]:
        """The clocks that nobody has used any more since this was last asked."""
        unused, self._unused = self._unused, set()
        return unused - self._clocks.keys()

    def drop_unused(self) -> None:
        """Forget what was recalled and is used by nobody; call it once all end points are known."""
        for receivers in [each for each, clock in self._clocks.items() if not clock.users]:
            self._forget(receivers)

    def _time(self, now_ns: int) -> int:
        """How much time has passed in which we could listen."""
        if self._told_ns is not None:
            step_ns = max(0, now_ns - self._told_ns)
            if self._longest_step_ns is not None:
                step_ns = min(step_ns, self._longest_step_ns)
            self._passed_ns += step_ns
        self._told_ns = now_ns
        return self._passed_ns

    def _clock(self, receivers: Receivers, time_ns: int, reading_ns: int = 0) -> _Clock:
        clock = self._clocks.get(receivers)
        if clock is None:
            connected = len(receivers & self._connected)
            clock = self._clocks[receivers] = _Clock(reading_ns, connected, time_ns)
            for bs_eui in receivers:
                self._of_station[bs_eui].add(receivers)
        return clock

    def _forget(self, receivers: Receivers) -> None:
        del self._clocks[receivers]
        self._unused.add(receivers)
        for bs_eui in receivers:
            self._of_station[bs_eui].discard(receivers)
            if not self._of_station[bs_eui]:
                del self._of_station[bs_eui]
