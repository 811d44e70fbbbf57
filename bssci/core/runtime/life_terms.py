"""What `life` works with: changes of what is wanted, how that stands, and what keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bssci.core.center.attachment import Attachment
    from bssci.core.center.end_points import EndPoint
    from bssci.core.center.records import (
        Episode,
        Hearing,
        Refused,
        Registration,
        StationRecord,
        Wanted,
        Wish,
    )

__all__ = ["Consequence", "Edit", "Ledger", "Standing"]


class Ledger(Protocol):
    """What this needs of the store. Each coroutine may raise `StorageError`."""

    async def decide(
        self,
        *,
        wishes: Sequence[Wish] = (),
        forgotten: Sequence[int] = (),
        episodes: Sequence[Episode] = (),
        attachments: Sequence[Attachment] = (),
        voided: Sequence[int] = (),
        registrations: Sequence[Registration] = (),
    ) -> None:
        """On disk when it returns."""
        ...

    def note_registration(self, registration: Registration) -> None:
        """With one of the next transactions."""
        ...

    def forget_registrations(self, bs_eui: int) -> None:
        """All of a base station, before those noted from now on."""
        ...

    def note_station(self, record: StationRecord) -> None:
        """With one of the next transactions."""
        ...

    def note_wish_flags(self, ep_eui: int, *, is_announced: bool, is_warned: bool) -> None:
        """With one of the next transactions."""
        ...

    def note_episode(self, episode: Episode) -> None:
        """With one of the next transactions."""
        ...

    async def end_points(
        self, after: int = -1, limit: int = ...
    ) -> list[tuple[Wish, Hearing | None]]:
        """By EUI."""
        ...

    async def attachments(self, after: int = -1, limit: int = ...) -> list[Attachment]:
        """By EUI."""
        ...

    async def registrations(
        self, after: tuple[int, int] = ..., limit: int = ...
    ) -> list[Registration]:
        """By base station and end point."""
        ...

    async def base_stations(self) -> list[StationRecord]:
        """All of them."""
        ...


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of what is wanted of an end point.

    Attributes:
        make: from the present wish, None if it is not registered, what is wanted instead; None
            leaves it as it is. It may raise: then nothing of the whole decision is done.
        insists: a detach that was decided for a passing reason is this decision's from now on: the
            end point does not come back by itself.
    """

    ep_eui: int
    make: Callable[[Wish | None], tuple[EndPoint, Wanted] | None]
    insists: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequence:
    """What follows from what an end point does over the air.

    Attributes:
        mark: of what the base station that reports it holds once it has our response; None:
            nothing.
        wish: what is wanted from now on; None: nothing is new.
        attachment: how it attached, where it did.
        remark: for its history.
    """

    mark: int | None
    wish: Wish | None = None
    attachment: Attachment | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """How an end point stands at the base stations; by their EUIs.

    Attributes:
        confirmed: they serve it as it is wanted.
        pending: they were not told what is wanted, or have not answered.
        refused: with the reason.
    """

    confirmed: list[int]
    pending: list[int]
    refused: list[tuple[int, Refused]]
