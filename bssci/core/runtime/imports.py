"""One row of an import: whom it means, what it wants, and what has become of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bssci.core.center.end_points import (
    EndPoint,
    InvalidEndPointError,
    changes_between,
    end_point_of,
    shown,
)
from bssci.core.protocol.errors import InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bssci.core.center.records import Wanted, Wish

__all__ = ["ImportedRow"]

_NO_PARAMETERS = frozenset({"row", "eui", "wanted", "error"})


@dataclass(slots=True)
class ImportedRow:
    """A row, from what it says to its result.

    Attributes:
        row: what names it to the person who imports.
        eui: as given; as we write it once it could be read.
        error: what is wrong with it; None: nothing.
    """

    row: object
    eui: object
    error: str | None = None
    ep_eui: int = 0
    _given: dict[str, object] = field(default_factory=dict, repr=False)
    _wanted: Wanted | None = None
    _result: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, object], number: int) -> ImportedRow:
        """Read a row, or say in `error` why that cannot be done; `number` names it otherwise."""
        made = cls(row.get("row", number), row.get("eui"))
        made._given = {name: each for name, each in row.items() if name not in _NO_PARAMETERS}
        try:
            made.ep_eui = parse_eui(str(row.get("eui") or ""))
            made.eui = format_eui(made.ep_eui)
            made._wanted = _wanted(row.get("wanted"))
        except InvalidEuiError:
            # It could be a key in the wrong column.
            made.eui = shown(row.get("eui"))
            made.error = f"found {made.eui}, an EUI of 16 hexadecimal digits is expected"
        except ValueError as error:
            made.error = str(error)
        if row.get("error"):
            made.error = str(row["error"])
        return made

    def wish(self, known: Wish | None) -> tuple[EndPoint, Wanted] | None:
        """What it wants, given what is wanted now; None, and `error`, if it describes no sensor."""
        end_point = None if known is None else known.end_point
        try:
            made = end_point_of(self._given, eui=self.ep_eui, known=end_point)
        except InvalidEndPointError as error:
            self.error = str(error)
            return None
        return made, self._wanted or ("attached" if known is None else known.wanted)

    def decided(self, before: Wish | None, after: Wish | None) -> None:
        """What was wanted before and is wanted now."""
        if before is None or after is None:
            self._result = {"result": "added"}
            return
        changes: dict[str, object] = {
            name: list(pair)
            for name, pair in changes_between(before.end_point, after.end_point).items()
        }
        if before.wanted != after.wanted:
            changes["wanted"] = [before.wanted, after.wanted]
        self._result = (
            {"result": "updated", "changes": changes} if changes else {"result": "unchanged"}
        )

    def shape(self) -> dict[str, object]:
        """Its result, as JSON."""
        result = {"result": "error"} if self.error is not None else self._result
        return {"row": self.row, "eui": self.eui, **result, "error": self.error}


def _wanted(value: object) -> Wanted | None:
    match value:
        case None | "":
            return None
        case "attached":
            return "attached"
        case "detached":
            return "detached"
    raise ValueError('wanted: "attached" or "detached" is expected')
