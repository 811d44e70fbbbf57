"""Decisions about end points that are asked for side by side, made together.

A decision waits for the disk, and the next one for that. What is asked for meanwhile becomes one
decision, so that many who wait pay for one fsync.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from bssci.core.center.records import Cause, Wish
    from bssci.core.runtime.life import Edit, Life

__all__ = ["Together"]

MOST = 100  # edits of one decision: after it, whoever wanted something else has their turn


@dataclass(slots=True, eq=False)
class _Asked:
    edit: Edit
    cause: Cause
    decided: tuple[Wish | None, Wish | None] | None = None
    """The wish before and after."""


class Together:
    """Takes edits one by one, and has them decided in the order in which they came."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._turn = trio.StrictFIFOLock()
        self._waiting: dict[_Asked, None] = {}

    async def decide(self, edit: Edit, cause: Cause) -> tuple[Wish | None, Wish | None]:
        """As `Life.decide`, for one edit that does not raise; the wish before and after.

        Raises:
            StorageError: it was not done.
        """
        asked = _Asked(edit, cause)
        self._waiting[asked] = None
        try:
            async with self._turn:
                # Whoever came before has been decided on, or has given up: this is the first.
                if asked.decided is None:
                    await self._decide_first(cause)
        finally:
            self._waiting.pop(asked, None)
        assert asked.decided is not None
        return asked.decided

    async def _decide_first(self, cause: Cause) -> None:
        """If that fails, those who came after the first try it themselves."""
        first = islice(self._waiting, MOST)
        asked = list(takewhile(lambda each: each.cause == cause, first))
        decided = await self._life.decide([each.edit for each in asked], cause)
        for each, outcome in zip(asked, decided, strict=True):
            each.decided = outcome
            self._waiting.pop(each, None)
