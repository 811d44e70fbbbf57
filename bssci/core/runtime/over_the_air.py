"""Attach and detach over the air (BSSCI 1.0.0, 5.6 and 5.7): what base stations are answered.

`center.attachment` decides, `life` puts it on disk and has the other base stations told. Several
base stations hear one telegram; what they report is decided one after the other.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import trio

from bssci.core.center.attachment import UNVERIFIED, AttachRefusedError, is_news, judge
from bssci.core.center.happenings import Stranger
from bssci.core.center.lifecycle import UNKNOWN
from bssci.core.center.records import Refused, Wish
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.messages import DetachResponse
from bssci.core.runtime.life import Consequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from bssci.core.center.attachment import Accepted, RefusalReason
    from bssci.core.protocol.messages import Attach, AttachResponse, Detach
    from bssci.core.runtime.life import Life

__all__ = ["OverTheAir"]

logger = logging.getLogger(__name__)

RECORD_PAUSE = 3600.0
# Seconds until the same refusal of the same end point is put into its history again. Everybody can
# send telegrams that are refused, and the history has room for a hundred episodes.

MAX_RECORDED = 10_000  # end points of which that is remembered


class OverTheAir:
    """Takes what end points do over the air, and says what the base station is to answer."""

    def __init__(
        self,
        life: Life,
        *,
        unix_ns: Callable[[], int],
        on_new_epoch: Callable[[int], object],
        on_detached: Callable[[int], object],
        tell_stranger: Callable[[Stranger], object],
    ) -> None:
        """
        Args:
            on_new_epoch: told of an end point whose packet counters count anew from now on; its
                attach is on disk and not answered yet.
            on_detached: told of an end point that has detached by itself; that is on disk.
            tell_stranger: told what end points do that are not registered. None of them may raise.
        """
        self._life = life
        self._unix_ns = unix_ns
        self._on_new_epoch = on_new_epoch
        self._on_detached = on_detached
        self._tell_stranger = tell_stranger
        self._attached = self._repeated = self._detached = self._unknown_detached = 0
        self._refused: Counter[RefusalReason] = Counter()
        self._recorded: dict[int, tuple[RefusalReason, float]] = {}
        """The last refusal that was put into a history, and when."""

    def counts(self) -> dict[str, object]:
        """What was done since the start, as `status` shows it.

        `repeated` are attaches and detaches that another base station, or the same one, had
        reported before.
        """
        return {
            "attached": self._attached,
            "repeated": self._repeated,
            "detached": self._detached,
            "refused": dict(self._refused),
            "unknown_detached": self._unknown_detached,
        }

    # --- attach ---

    async def attach(self, bs_eui: int, message: Attach) -> AttachResponse:
        """An end point asks to be attached. It is on disk when this returns; only then may it be
        answered. Call `attach_completed` when the base station completes it.

        Raises:
            AttachRefusedError: an OperationRefusedError, to be passed on to the base station.
            StorageError: nothing was done; the base station may repeat it.
        """
        ep_eui = message.ep_eui
        accepted: Accepted | None = None

        def judged(known: Wish | None) -> Consequence:
            nonlocal accepted
            now_ns = self._unix_ns()
            attachment = self._life.attachments.get(ep_eui)
            accepted = judge(
                message, bs_eui=bs_eui, wish=known, attachment=attachment, now_ns=now_ns
            )
            assert known is not None
            if accepted.is_repeat:
                return Consequence(mark=accepted.mark(known))
            wish = _wish(known, now_ns)
            mark, made = accepted.mark(wish), accepted.attachment
            return Consequence(mark=mark, wish=wish, attachment=made)

        try:
            await self._life.heed(bs_eui, message, judged)
        except AttachRefusedError as error:
            self._note_refusal(bs_eui, ep_eui, error)
            raise
        assert accepted is not None
        if accepted.is_repeat:
            self._repeated += 1
        else:
            self._attached += 1
            self._on_new_epoch(ep_eui)
        return accepted.response()

    def attach_completed(self, bs_eui: int, message: Attach) -> None:
        """A base station has our response to this attach: it serves the end point."""
        self._life.completed(bs_eui, message)

    def _note_refusal(self, bs_eui: int, ep_eui: int, error: AttachRefusedError) -> None:
        code, reason = int(error.code), error.reason
        self._refused[reason] += 1
        wish = self._life.roster.wish(ep_eui)
        if wish is None:
            self._tell_stranger(
                Stranger(
                    event="attach_refused",
                    ep_eui=ep_eui,
                    bs_eui=bs_eui,
                    code=code,
                    message=error.message,
                )
            )
            return
        self._life.happen(
            "attach_refused",
            wish,
            bs_eui=bs_eui,
            refused=Refused(code, error.message, self._unix_ns()),
            is_recorded=self._is_worth_recording(ep_eui, reason),
        )

    def _is_worth_recording(self, ep_eui: int, reason: RefusalReason) -> bool:
        now = trio.current_time()
        before, at = self._recorded.get(ep_eui, (None, 0.0))
        if before == reason and now - at < RECORD_PAUSE:
            return False
        if len(self._recorded) >= MAX_RECORDED:
            self._recorded.clear()
        self._recorded[ep_eui] = reason, now
        return True

    # --- detach ---

    async def detach(
        self, bs_eui: int, message: Detach, *, heard_ns: int | None = None
    ) -> DetachResponse:
        """An end point says that it leaves. What follows is on disk when this returns. Call
        `detach_completed` when the base station completes it.

        One that is not known is answered, too: a base station repeats what is refused.

        Args:
            heard_ns: Unix time at which it was heard, by a clock that is known to be right.

        Raises:
            StorageError: nothing was done; the base station may repeat it.
        """
        ep_eui = message.ep_eui
        found: Consequence | None = None

        def judged(known: Wish | None) -> Consequence | None:
            nonlocal found
            if known is None:
                return None
            if is_news(message, known, heard_ns=heard_ns):
                wish = _wish(known, self._unix_ns(), is_detached=True)
                found = Consequence(mark=None, wish=wish, remark=UNVERIFIED)
            else:
                # It was told to serve the end point before or after it heard this, nobody knows.
                found = Consequence(mark=None if known.wanted == "detached" else UNKNOWN)
            return found

        await self._life.heed(bs_eui, message, judged)
        if found is None:
            self._note_stranger(bs_eui, ep_eui)
        elif found.wish is None:
            self._repeated += 1
        else:
            self._detached += 1
            self._on_detached(ep_eui)
        return DetachResponse(sign=message.sign)

    def detach_completed(self, bs_eui: int, message: Detach) -> None:
        """A base station has our response to this detach: it serves the end point no more."""
        self._life.completed(bs_eui, message)

    def _note_stranger(self, bs_eui: int, ep_eui: int) -> None:
        self._unknown_detached += 1
        self._tell_stranger(
            Stranger(event="detach", ep_eui=ep_eui, bs_eui=bs_eui, message=UNVERIFIED)
        )
        logger.debug("detach of %s, which is not registered", format_eui(ep_eui))


def _wish(known: Wish, now_ns: int, *, is_detached: bool = False) -> Wish:
    return Wish(
        end_point=known.end_point,
        wanted="detached" if is_detached else "attached",
        cause="over_the_air",
        since_ns=now_ns,
    )
