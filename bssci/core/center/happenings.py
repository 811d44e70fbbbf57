"""What happens to an end point, for whoever wants to know: applications, watchers, its history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bssci.core.center.records import Episode
from bssci.core.protocol.eui import format_eui

if TYPE_CHECKING:
    from bssci.core.center.records import Wish

__all__ = ["Event", "Happening", "Stranger", "StrangerEvent"]

Event = Literal[
    "added",
    "changed",
    "attach",
    "detach",
    "attached",
    "detached",
    "auto_detached",
    "attach_failed",
    "attach_refused",
    "confirmed",
    "refused",
    "warning",
    "warning_withdrawn",
    "heard_detached",
    "removed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One thing that happened.

    Attributes:
        event: `attach` and `detach` are wanted from now on; `attached` and `detached` have come
            true; `auto_detached`: silence has it detached; `attach_failed`: all base stations
            refuse; `attach_refused`: we refuse what it has asked for over the air; `refused`: a
            base station refuses, `confirmed`: it does so no more; `heard_detached`: it speaks
            though it is detached.
        at_ns: Unix time.
        wish: what is wanted of the end point then.
        bs_eui: where it happened, if it was at a base station; `code` and `message` are its words,
            or what it was told.
        silent_ns: its silence on the clock of those who hear it, where that is the matter;
            `warn_ns` and `detach_ns` are its limits.
    """

    event: Event
    at_ns: int
    wish: Wish
    bs_eui: int | None = None
    code: int | None = None
    message: str = ""
    silent_ns: int = 0
    warn_ns: int = 0
    detach_ns: int = 0

    @property
    def ep_eui(self) -> int:
        return self.wish.end_point.eui

    def episode(self) -> Episode:
        """The line of it in the history."""
        return Episode(
            ep_eui=self.ep_eui,
            at_ns=self.at_ns,
            what=self.event,
            cause=self.wish.cause if self.event in _DECISIONS else "",
            bs_eui=self.bs_eui,
            code=self.code,
            message=self.message,
        )

    def data(self) -> dict[str, object]:
        """What watchers are told."""
        data: dict[str, object] = {
            "eui": format_eui(self.ep_eui),
            "name": self.wish.end_point.name,
            "event": self.event,
        }
        if self.event in _DECISIONS:
            data["cause"] = self.wish.cause
        if self.bs_eui is not None:
            data["bs_eui"] = format_eui(self.bs_eui)
        if self.code is not None:
            data |= {"code": self.code, "message": self.message}
        elif self.message:
            data["message"] = self.message
        return data


StrangerEvent = Literal["attach_refused", "detach"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """An end point that is not registered has done something over the air.

    Attributes:
        bs_eui: the base station that reported it.
        code: what that was refused with, a POSIX number; None: it was answered.
    """

    event: StrangerEvent
    ep_eui: int
    bs_eui: int
    code: int | None = None
    message: str = ""

    def data(self) -> dict[str, object]:
        """What watchers are told: as of a `Happening`, of a sensor without a name."""
        return {
            "eui": format_eui(self.ep_eui),
            "name": "",
            "event": self.event,
            "bs_eui": format_eui(self.bs_eui),
            "code": self.code,
            "message": self.message,
        }


_DECISIONS = frozenset({"added", "changed", "attach", "detach", "auto_detached", "removed"})
