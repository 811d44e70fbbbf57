"""Certificates are watched while the service runs: who runs it is told before they expire."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from bssci.core.center.expiry import Alarm, Told, alarms, summary

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CHECK_INTERVAL", "ExpiryWatch"]

logger = logging.getLogger(__name__)

# Days are what is told, so an hour is soon enough, and two small files are nothing to read.
CHECK_INTERVAL = 3600.0  # seconds

Fields = dict[str, object]


class ExpiryWatch:
    """Looks at the certificates again and again, and says when one expires.

    Attributes:
        summary: `expires_in_days` and `alarm`, as the state of the service has them.
    """

    def __init__(
        self,
        facts: Callable[[], list[Fields]],
        *,
        tell: Callable[[Alarm], None],
        changed: Callable[[Fields], None],
    ) -> None:
        """
        Args:
            facts: what `certs.status` lists.
            tell: called once for each certificate and threshold, and again after a renewal.
            changed: called with the summary when it is another: once a day, and after a renewal.
        """
        self.summary: Fields = summary(facts())
        self._facts = facts
        self._tell = tell
        self._changed = changed
        self._told: Told = {}
        self._wake = trio.Event()

    async def run(self) -> None:
        """Watch until cancelled; what is due at the start is told at once."""
        while True:
            self._wake = trio.Event()
            self._look()
            with trio.move_on_after(CHECK_INTERVAL):
                await self._wake.wait()

    def look_soon(self) -> None:
        """The certificates were read again."""
        self._wake.set()

    def _look(self) -> None:
        facts = self._facts()
        due, self._told = alarms(facts, self._told)
        for alarm in due:
            logger.log(
                logging.ERROR if alarm.is_urgent else logging.WARNING,
                "certificate of %s in %s %s",
                alarm.subject,
                alarm.file,
                _words(alarm.days),
            )
            self._tell(alarm)
        if (now := summary(facts)) != self.summary:
            self.summary = now
            self._changed(now)


def _words(days: int) -> str:
    what = "`bssci certs status` says what to do"
    if days < 0:
        return f"has expired: connections fail; {what}"
    if days < 1:
        return f"expires within a day; {what}"
    return f"expires in {days} {'day' if days == 1 else 'days'}; {what}"
