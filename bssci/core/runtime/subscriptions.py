"""Subscriptions of the control socket: what a client wants to be told, and telling it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import trio

from bssci.core.center.rpc import Event, InvalidRequestError, Told, event_text
from bssci.core.protocol.eui import format_eui, parse_eui
from bssci.core.runtime.feed import Feed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    Resolve = Callable[[Literal["sensor", "station"], str], int]
    Watch = Callable[[], contextlib.AbstractContextManager[trio.abc.ReceiveChannel["Notice"]]]

__all__ = ["KINDS", "SUBSCRIBE", "Notice", "Subscriptions", "Wanted", "by_eui", "subscribe_with"]

KINDS = ("uplink", "station", "sensor", "downlink", "service")
"""What events can be about."""

SUBSCRIBE = "events.subscribe"


class Notice(Protocol):
    """Something that happened; kind `gap`: `data["lost"]` notices were lost before it."""

    @property
    def kind(self) -> str: ...
    @property
    def time(self) -> float: ...
    @property
    def data(self) -> dict[str, object]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which notices; with a sensor or a base station, only those that are about it."""

    kinds: frozenset[str]
    sensor: str | None = None
    station: str | None = None

    def covers(self, notice: Notice) -> bool:
        return (
            notice.kind in self.kinds
            and (self.sensor is None or self.sensor == _sensor_of(notice))
            and (self.station is None or self.station in _stations_of(notice))
        )


def _sensor_of(notice: Notice) -> object:
    return notice.data.get("eui" if notice.kind in ("sensor", "downlink") else "sensor_eui")


def _stations_of(notice: Notice) -> Iterator[object]:
    yield notice.data.get("eui" if notice.kind == "station" else "bs_eui")
    receptions = notice.data.get("receptions")
    if isinstance(receptions, list):
        yield from (each["bs_eui"] for each in receptions)


def by_eui(kind: Literal["sensor", "station"], text: str) -> int:
    """The EUI that a text is, where nobody knows names."""
    return parse_eui(text)


def subscribe_with(resolve: Resolve) -> Callable[..., Awaitable[Wanted]]:
    """The method `events.subscribe`; what it gives is still to be opened."""

    async def subscribe(
        kinds: list[str] | None = None, sensor: str | None = None, station: str | None = None
    ) -> Wanted:
        if unknown := [kind for kind in kinds or () if kind not in KINDS]:
            raise InvalidRequestError(
                f"{SUBSCRIBE}: there are no events of kind {unknown[0][:40]!r}, "
                f"only of {', '.join(KINDS)}"
            )
        return Wanted(
            frozenset(kinds or KINDS),
            None if sensor is None else format_eui(resolve("sensor", sensor)),
            None if station is None else format_eui(resolve("station", station)),
        )

    return subscribe


class Subscriptions(contextlib.ExitStack):
    """Those that one message opens. They watch from then on, and tell when `run` is called."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._opened: list[_Subscription] = []

    def open(self, number: int, wanted: Wanted) -> None:
        """Watch from now on."""
        notices = self.enter_context(self._watch())
        self._opened.append(_Subscription(number, wanted, notices))

    async def run(self, say: Callable[[str], Awaitable[None]]) -> None:
        """Say what happens. While that waits, what happens is kept, or lost and counted."""
        async with trio.open_nursery() as nursery:
            for each in self._opened:
                nursery.start_soon(each.collect)
                nursery.start_soon(each.tell, say)


class _Subscription:
    def __init__(
        self, number: int, wanted: Wanted, notices: trio.abc.ReceiveChannel[Notice]
    ) -> None:
        self._number = number
        self._wanted = wanted
        self._notices = notices
        self._feed = Feed()

    async def collect(self) -> None:
        """Take what happens at once, so that only what is wanted can be lost."""
        async for notice in self._notices:
            if notice.kind == "gap" or self._wanted.covers(notice):
                self._feed.tell(Event(notice.kind, notice.time, notice.data))
        self._feed.close()

    async def tell(self, say: Callable[[str], Awaitable[None]]) -> None:
        async for event in self._feed.events:
            await say(event_text(Told(self._number, event)))
