"""Events on their way to one who may be slow: bounded, lossy, and what is lost is counted."""

from __future__ import annotations

import trio

from bssci.core.center.rpc import Event

__all__ = ["MAX_EVENTS", "Feed"]

# That a slow reader may be behind: seconds of a busy network.
MAX_EVENTS = 1_000


class Feed:
    """A channel of events that never makes anybody wait.

    When it is full, what comes next is lost. A `gap` stands in its place, and goes on counting
    until the reader has taken half of what is before it; only then is it worth going on.

    Attributes:
        events: what is told, in order. It ends when the feed is closed.
    """

    def __init__(self, size: int = MAX_EVENTS) -> None:
        self._send, self.events = trio.open_memory_channel[Event](size)
        self._full = size - 1  # the last place is for the gap
        self._enough = size // 2
        self._gap: Event | None = None  # while it is the last in the channel
        self._lost = 0

    def tell(self, event: Event) -> None:
        """Something has happened. A `gap` tells that events were lost before they came here."""
        waiting = self._send.statistics().current_buffer_used
        if not waiting or (waiting <= self._enough and event.kind != "gap"):
            self._gap = None
        if event.kind == "gap":
            lost = event.data["lost"]
            assert isinstance(lost, int)
            self._lose(lost, event.time)
        elif self._gap is not None or waiting >= self._full:
            self._lose(1, event.time)
        else:
            self._put(event)

    def close(self) -> None:
        """Nothing more will be told; what is there can still be read."""
        self._send.close()

    def _lose(self, count: int, time: float) -> None:
        if self._gap is None:
            self._lost = 0
            self._gap = Event("gap", time, {})
            self._put(self._gap)
        self._lost += count
        # It is still on its way: who reads it later reads what it has come to.
        self._gap.data["lost"] = self._lost

    def _put(self, event: Event) -> None:
        try:
            self._send.send_nowait(event)
        except trio.BrokenResourceError:  # nobody reads any more
            return
