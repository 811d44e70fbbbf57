"""When somebody has to be told that a certificate expires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["THRESHOLDS", "Alarm", "Told", "alarms", "summary"]

THRESHOLDS = (30, 7, 1, 0)
"""Days: with fewer left than these it is told; with none left, that it has expired."""

Fields = dict[str, object]

Told = dict[tuple[str, float], int]
"""What was told last, by file and end of validity: a renewed certificate is another one."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A certificate expires, or has.

    Attributes:
        days: whole days left; negative when it has expired.
        threshold: the smallest of `THRESHOLDS` that is passed.
    """

    file: str
    subject: str
    days: int
    threshold: int

    @property
    def is_urgent(self) -> bool:
        """It is a matter of hours, or too late."""
        return self.threshold <= 1

    def data(self) -> Fields:
        """For events."""
        return {
            "event": "certificate",
            "file": self.file,
            "subject": self.subject,
            "days": self.days,
            "threshold": self.threshold,
        }


def alarms(facts: Iterable[Mapping[str, object]], told: Told) -> tuple[list[Alarm], Told]:
    """What has to be told now, and what is told then.

    Each threshold is told once for a certificate; of several that are passed at once, the smallest.

    Args:
        facts: as `certs.status` lists them; those that cannot be read are left out.
        told: what this gave last; empty at the start.
    """
    due, known = [], Told()
    for fact in facts:
        file, days, end = fact["file"], fact["days"], fact["not_after"]
        if not isinstance(days, int) or not isinstance(end, float):
            continue
        passed = _passed(days)
        if passed is None:
            continue
        key = str(file), end
        if passed < told.get(key, THRESHOLDS[0] + 1):
            due.append(Alarm(str(file), str(fact["subject"]), days, passed))
        known[key] = min(passed, told.get(key, passed))
    return due, known


def _passed(days: int) -> int | None:
    return min((each for each in THRESHOLDS if days < each), default=None)


def summary(facts: Iterable[Mapping[str, object]]) -> Fields:
    """What `{base}/state` says: days until the first one expires, and the threshold it has passed.

    Both null: there is no certificate that can be read; `alarm` null: none expires soon.
    """
    days = [fact["days"] for fact in facts]
    least = min((each for each in days if isinstance(each, int)), default=None)
    return {"expires_in_days": least, "alarm": None if least is None else _passed(least)}
