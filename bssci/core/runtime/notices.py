"""What happens, for who likes to watch: bounded, lossy, and counted."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Notice", "NoticeKind", "Notices"]

MAX_NOTICES = 1_000  # that a slow watcher may be behind

NoticeKind = Literal["uplink", "station", "sensor", "downlink", "service", "gap"]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a watcher may like to see.

    Attributes:
        kind: what it is about; `gap` says that notices were lost, and how many.
        time: Unix seconds.
        data: as in the JSON shapes of the command line.
    """

    kind: NoticeKind
    time: float
    data: dict[str, object]


class _Watcher:
    """One who watches: bounded, lossy, and told what was lost."""

    def __init__(self) -> None:
        self._send, self.notices = trio.open_memory_channel[Notice](MAX_NOTICES)
        self._lost = 0

    def tell(self, notice: Notice) -> None:
        try:
            if self._lost:
                self._send.send_nowait(Notice("gap", notice.time, {"lost": self._lost}))
                self._lost = 0
            self._send.send_nowait(notice)
        except trio.WouldBlock:
            self._lost += 1


class Notices:
    """Tells everybody who watches; it costs nothing while nobody does."""

    def __init__(self) -> None:
        self._watchers: list[_Watcher] = []

    @property
    def are_watched(self) -> bool:
        return bool(self._watchers)

    def tell(self, kind: NoticeKind, data: dict[str, object]) -> None:
        """Something has happened."""
        notice = Notice(kind, time.time(), data)
        for watcher in self._watchers:
            watcher.tell(notice)

    @contextlib.contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[Notice]]:
        """What happens from now on. Who reads too slowly loses notices and is told how many."""
        watcher = _Watcher()
        self._watchers.append(watcher)
        try:
            yield watcher.notices
        finally:
            self._watchers.remove(watcher)
