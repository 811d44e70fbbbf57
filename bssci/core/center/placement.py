"""Where one downlink stands: at which base station, and what that one must be told of it next
(BSSCI 1.0.0, 5.12 and 5.13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bssci.core.center.downlinks import DownlinkRecord

if TYPE_CHECKING:
    from bssci.core.center.downlinks import Downlink, Ending, Intent

__all__ = ["COUNT", "Placement", "distance", "is_before", "is_past"]

COUNT = 0xFFFFFF  # packet counters have 24 bits on the air


class Placement:
    """A downlink and where it stands. Who changes it sees to it that all of it agrees."""

    __slots__ = (
        "acknowledged_ns",
        "attach_op",
        "avoided",
        "deadline",
        "downlink",
        "ending",
        "grace_until",
        "holder",
        "intent",
        "is_late",
        "is_moving",
        "is_queued",
        "is_told",
        "not_before",
        "on_way",
        "op_id",
        "refusals",
        "revokes",
    )

    def __init__(self, downlink: Downlink, deadline: float) -> None:
        self.downlink = downlink
        self.deadline = deadline
        self.intent: Intent = "deliver"
        self.ending: Ending | None = None
        self.acknowledged_ns: int | None = None
        self.holder: int | None = None
        self.is_told = False
        """The holder was told to queue it, or may have been."""
        self.is_queued = False
        self.on_way: Literal["queue", "revoke"] | None = None
        self.is_late = False
        """What is on its way got no answer in time; one may still come."""
        self.op_id = 0
        """Of the queue operation, once it is known."""
        self.attach_op = 0
        """Of the last attach propagate that the holder has answered since it was chosen."""
        self.is_moving = False
        """The holder does not hear the end point any more."""
        self.grace_until: float | None = None
        """The holder has let go of it, but may still report that it was sent."""
        self.avoided: dict[int, float] = {}
        """Base stations that have refused it, and until when they are not asked again."""
        self.not_before = 0.0
        """When its holder may be asked again to drop it, or another one be chosen."""
        self.refusals = 0
        """How often base stations have refused to queue it."""
        self.revokes = 0
        """How often the holder was asked in vain to drop it."""

    def record(self) -> DownlinkRecord:
        return DownlinkRecord(
            downlink=self.downlink,
            holder=self.holder,
            is_queued=self.is_queued,
            intent=self.intent,
            ending=self.ending,
            acknowledged_ns=self.acknowledged_ns,
        )

    def is_to_leave(self) -> bool:
        return self.ending is not None or self.intent != "deliver" or self.is_moving

    def due(self, now: float) -> Literal["queue", "revoke"] | None:
        """What its holder must be told."""
        if self.holder is None or self.grace_until is not None:
            return None
        if self.on_way is not None and not (self.is_late and self.on_way == "queue"):
            return None
        if self.is_to_leave():
            return "revoke" if now >= self.not_before else None
        return None if self.is_told else "queue"

    def has_outlived(self, revoke_op: int) -> bool:
        """Whether it was queued again after that revoke was issued, whose answer comes late."""
        return self.on_way == "queue" or (self.is_queued and self.op_id < revoke_op)

    def is_pending(self) -> bool:
        """It waits for a base station."""
        return self.holder is None and self.ending is None and self.intent == "deliver"


def distance(before: int, after: int) -> int:
    """How many uplinks later, on the air."""
    return (after - before) & COUNT


def is_before(op_id: int, attach_op: int) -> bool:
    """Whether a queue operation was issued before an attach propagate; 0: long ago, or now."""
    return op_id == 0 or attach_op == 0 or op_id > attach_op


def is_past(downlink: Downlink, packet_cnt: int) -> bool:
    """Whether all uplinks that a downlink is for have gone by, before this one."""
    if downlink.packet_cnt is None:
        return False
    return all(0 < distance(each, packet_cnt) <= COUNT // 2 for each in downlink.packet_cnt)
