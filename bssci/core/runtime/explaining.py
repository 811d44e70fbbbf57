"""One uplink of the history, by the `id` under which it was published."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Protocol, TypeVar

from bssci.core.center.rpc import InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Kept", "find_uplink"]

_ID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{1,15})")


class Kept(Protocol):
    """An uplink as the store has it."""

    @property
    def id(self) -> int: ...

    @property
    def body(self) -> str: ...


K = TypeVar("K", bound=Kept)


async def find_uplink(uid: str, after: Callable[[int, int], Awaitable[Sequence[K]]]) -> K:
    """The uplink that was, or is to be, published under this `id`.

    Args:
        after: (number, limit) -> uplinks of the history with higher numbers, in order.

    Raises:
        InvalidRequestError: an `id` looks otherwise.
        NotFoundError: there is none; it may have been kept long enough.
        StorageError: it cannot be read.
    """
    shaped = _ID.fullmatch(uid.strip().lower())
    if shaped is None:
        raise InvalidRequestError(
            f"{uid[:64]!r} is no id of an uplink, such as 0a1b2c3d-4e",
            hint="`bssci uplinks list --json` shows them, and so does what is published",
        )
    for each in await after(int(shaped[1], 16) - 1, 1):
        # Numbers outlive the name of a database, which is another one after it was restored.
        if json.loads(each.body)["id"] == shaped[0]:
            return each
    raise NotFoundError(
        f"there is no uplink {shaped[0]}",
        hint="uplinks are forgotten after store.keep_uplinks; `bssci uplinks list` shows the rest",
    )
