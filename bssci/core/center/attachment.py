"""Over-the-air attach and detach: what is accepted, and what follows (BSSCI 1.0.0, 5.6 and 5.7).

An attach is judged in this order: is the end point known, is the signature right, is it not one
that an operator has detached, was this very attach accepted just now, is its counter new. The
signature comes before all that is kept of the end point: who cannot sign changes nothing, and
learns neither where the counter stands nor what is wanted. It proves no more than that the counter
is of one who has the key. The nonce is not signed; but the counter is used up by the first attach
that bears it, and then only the same nonce is answered again.

Of a detach neither the signature that comes nor the one that goes back is defined. It is believed,
recorded as unverified, and answered with the signature that came.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from bssci.core.center.end_points import attach_propagate, mark_of
from bssci.core.protocol.errors import Code, OperationRefusedError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.keys import attach_counter_advances, session_key, verify_attach
from bssci.core.protocol.messages import AttachResponse

if TYPE_CHECKING:
    from bssci.core.center.records import Cause, Wish
    from bssci.core.protocol.messages import Attach, AttachPropagate, Detach

__all__ = [
    "MAY_RETURN",
    "REFUSALS",
    "REPEAT_NS",
    "UNVERIFIED",
    "Accepted",
    "AttachRefusedError",
    "Attachment",
    "RefusalReason",
    "is_news",
    "judge",
    "mark_wanted",
    "propagated",
]

REPEAT_NS = 60_000_000_000
"""For so long an attach that was accepted is answered again, in ns: all base stations that heard
the telegram have reported it by then, also one that had to connect anew."""

UNVERIFIED = "unverified"
"""What the history says of a detach over the air."""

RefusalReason = Literal[
    "unknown_end_point", "bad_signature", "stale_counter", "detached_by_operator"
]

REFUSALS: dict[RefusalReason, tuple[Code, str]] = {
    "unknown_end_point": (Code.EPROTO, "end point {eui} is not known"),
    "bad_signature": (Code.EPROTO, "the signature of the attach of end point {eui} is wrong"),
    "stale_counter": (Code.EPROTO, "end point {eui} has used attach counter {cnt} before"),
    "detached_by_operator": (Code.EPERM, "end point {eui} was detached by an operator"),
}
"""What a base station is told: the POSIX code and the words."""

MAY_RETURN: frozenset[Cause] = frozenset({"inactivity", "over_the_air"})
"""Causes of a detach after which an end point may attach by itself: it was taken for gone, or left
by itself."""


class AttachRefusedError(OperationRefusedError):
    """An attach that is not accepted: `code` and `message` for the base station.

    Attributes:
        reason: a word for counting.
    """

    def __init__(self, reason: RefusalReason, message: Attach) -> None:
        code, words = REFUSALS[reason]
        eui = format_eui(message.ep_eui)
        super().__init__(int(code), words.format(eui=eui, cnt=message.attach_cnt))
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """The last attach of an end point over the air that was accepted, as it is stored.

    It outlives a detach: its counter must not be used again, and an end point that is wanted again
    without a new attach goes on with its key.

    Attributes:
        nwk_sn_key: what base stations are told in place of the network key; a secret.
        dual_chan, repetition, wide_carr_off, long_blk_dist: how its radio is set, as it said.
        bs_eui: the base station that reported it first.
        at_ns: Unix time at which it was accepted.
    """

    ep_eui: int
    attach_cnt: int
    nonce: bytes
    sign: bytes
    nwk_sn_key: bytes = field(repr=False)
    short_addr: int
    dual_chan: bool
    repetition: bool
    wide_carr_off: bool
    long_blk_dist: bool
    bs_eui: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """An attach that is to be answered.

    Attributes:
        attachment: to be stored; of a repeated attach, what is stored already.
        is_repeat: this very attach was accepted before: nothing is new.
        short_addr: what the base station calls the end point from now on.
        is_assigned: the base station has chosen that by itself and need not be told.
    """

    attachment: Attachment
    is_repeat: bool
    short_addr: int
    is_assigned: bool

    def response(self) -> AttachResponse:
        """What the base station is answered."""
        return AttachResponse(
            nwk_sn_key=self.attachment.nwk_sn_key,
            sh_addr=None if self.is_assigned else self.short_addr,
        )

    def mark(self, wish: Wish) -> int | None:
        """Of what the base station holds once it has the response.

        Two base stations that hear one attach may have chosen two short addresses.
        """
        return mark_wanted(wish, replace(self.attachment, short_addr=self.short_addr))


def judge(
    message: Attach,
    *,
    bs_eui: int,
    wish: Wish | None,
    attachment: Attachment | None,
    now_ns: int,
) -> Accepted:
    """Whether an attach over the air is accepted.

    Args:
        wish: what is wanted of the end point; None: it is not registered.
        attachment: the last one of it that was accepted with the present network key.
        now_ns: Unix time.

    Raises:
        AttachRefusedError: it is not; nothing is to be changed.
    """
    if wish is None:
        raise AttachRefusedError("unknown_end_point", message)
    nwk_key = wish.end_point.nwk_key
    if not verify_attach(nwk_key, message.ep_eui, message.attach_cnt, message.sign):
        raise AttachRefusedError("bad_signature", message)
    if wish.wanted == "detached" and wish.cause not in MAY_RETURN:
        raise AttachRefusedError("detached_by_operator", message)
    if attachment is not None:
        # Where the end point has left since, this comes late: it is not there any more.
        if wish.wanted == "attached" and _is_repeat(message, attachment, now_ns):
            return _accepted(message, attachment, is_repeat=True)
        if not attach_counter_advances(attachment.attach_cnt, message.attach_cnt):
            raise AttachRefusedError("stale_counter", message)
    fresh = Attachment(
        ep_eui=message.ep_eui,
        attach_cnt=message.attach_cnt,
        nonce=message.nonce,
        sign=message.sign,
        nwk_sn_key=session_key(nwk_key, message.ep_eui, message.nonce, message.sign),
        # Some base stations always send one, and 0 for none.
        short_addr=message.sh_addr or wish.end_point.short_addr,
        dual_chan=message.dual_chan,
        repetition=message.repetition,
        wide_carr_off=message.wide_carr_off,
        long_blk_dist=message.long_blk_dist,
        bs_eui=bs_eui,
        at_ns=now_ns,
    )
    return _accepted(message, fresh, is_repeat=False)


def _is_repeat(message: Attach, attachment: Attachment, now_ns: int) -> bool:
    said = message.attach_cnt, message.nonce, message.sign
    is_same = said == (attachment.attach_cnt, attachment.nonce, attachment.sign)
    return is_same and now_ns - attachment.at_ns <= REPEAT_NS


def _accepted(message: Attach, attachment: Attachment, *, is_repeat: bool) -> Accepted:
    return Accepted(
        attachment,
        is_repeat,
        short_addr=message.sh_addr or attachment.short_addr,
        is_assigned=bool(message.sh_addr),
    )


def is_news(message: Detach, wish: Wish, *, heard_ns: int | None) -> bool:
    """Whether a detach over the air says something that is not known, or was overtaken.

    A base station that was away reports what it has heard before; the end point may have been
    attached again since.

    Args:
        wish: what is wanted of the end point.
        heard_ns: Unix time at which the detach was heard; None where the base station's clock is
            not known to be right.
    """
    assert message.ep_eui == wish.end_point.eui
    return wish.wanted == "attached" and (heard_ns is None or heard_ns >= wish.since_ns)


# --- what base stations are told ---


def propagated(
    wish: Wish, attachment: Attachment | None, *, last_packet_cnt: int = 0
) -> AttachPropagate | None:
    """The message by which a base station serves an end point (5.8.1); None: none is to serve it.

    One that attaches over the air by itself is served from its attach on. One that has done so is
    served with the key that came of it, whether that was expected or not.
    """
    end_point = wish.end_point
    if wish.wanted == "detached" or (end_point.ota and attachment is None):
        return None
    told = attach_propagate(end_point, last_packet_cnt=last_packet_cnt)
    if attachment is None:
        return told
    return replace(
        told,
        nwk_sn_key=attachment.nwk_sn_key,
        sh_addr=attachment.short_addr,
        dual_chan=attachment.dual_chan,
        repetition=attachment.repetition,
        wide_carr_off=attachment.wide_carr_off,
        long_blk_dist=attachment.long_blk_dist,
    )


def mark_wanted(wish: Wish, attachment: Attachment | None) -> int | None:
    """`end_points.mark_of` what base stations are to be told; None: none is to serve it."""
    told = propagated(wish, attachment)
    return None if told is None else mark_of(told)
