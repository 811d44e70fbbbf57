"""Operation IDs and the three steps of an operation (BSSCI 1.0.0, 5.2).

An operation is an initiation, a response and a completion that share an ID; the initiator sends
the first and the third. `error` takes the place of what would come next, `errorAck` ends it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from bssci.core.protocol.errors import (
    Code,
    InvalidMessageError,
    LocalProtocolError,
    OperationLostError,
)
from bssci.core.protocol.messages import (
    MESSAGES,
    Message,
    Ping,
    Role,
    UplinkData,
    VmUplinkData,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["OPERATIONS", "Operation", "OwnOperations", "PeerOperations", "Step", "step_of"]

# Java firmware keeps an operation ID in 32 bits; at one operation a second this lasts 68 years.
SMALLEST_ID = -(2**31)
LARGEST_ID = 2**63 - 1

# How many of our own operations may lack an answer. A peer that answers nothing is given up long
# before; a base station may have as many uplinks on their way.
MAX_PENDING = 16_384

# How many of the peer's operations may lack our answer. Whoever reads from a peer answers what one
# read brought before the next; 64 KiB hold less than this many of the shortest.
MAX_UNANSWERED = 4_096

# How many of the peer's operations we keep while they lack their last step, how many that we
# refused, and how many that it withdrew. A station that never completes anything costs this much
# memory and no more.
MAX_INCOMPLETE = 1_024

# Nobody asks for these again once they are answered, and they are the bulk: only their type stays.
_NOT_KEPT = (UplinkData, VmUplinkData, Ping)


class Step(Enum):
    """What a message is to its operation."""

    INITIATION = auto()
    RESPONSE = auto()
    COMPLETION = auto()


@dataclass(frozen=True, slots=True)
class Operation:
    """The three message types of an operation."""

    initiation: type[Message]
    response: type[Message]
    completion: type[Message]


def _operations() -> dict[type[Message], Operation]:
    found = {}
    for command, kind in MESSAGES.items():
        if command + "Cmp" in MESSAGES:
            operation = Operation(kind, MESSAGES[command + "Rsp"], MESSAGES[command + "Cmp"])
            found[kind] = operation
    return found


OPERATIONS: dict[type[Message], Operation] = _operations()
"""Every operation by the message that initiates it."""

_STEPS: dict[type[Message], tuple[Step, Operation]] = {
    kind: (step, operation)
    for operation in OPERATIONS.values()
    for step, kind in zip(
        Step, (operation.initiation, operation.response, operation.completion), strict=True
    )
}


def step_of(kind: type[Message]) -> tuple[Step, Operation] | None:
    """Which step of which operation a message type is; None for `error` and `errorAck`."""
    return _STEPS.get(kind)


class OwnOperations:
    """The operations that we initiate: their IDs, and which still lack an answer.

    Base stations count 1, 2, …; Service Centers -1, -2, …. An ID is never used twice.
    """

    def __init__(self, role: Role, *, last_id: int = 0, pending: Iterable[Message] = ()) -> None:
        self._sign = 1 if role is Role.BASE_STATION else -1
        self._pending = {message.op_id: message for message in pending}
        # Also below what was pending, so that no ID can come twice.
        self.last_id = self._sign * max(abs(op_id) for op_id in (last_id, *self._pending))

    @property
    def pending(self) -> tuple[Message, ...]:
        """The initiations without an answer, in the order of issue."""
        return tuple(self._pending.values())

    def is_pending(self, op_id: int) -> bool:
        """Whether an operation still lacks an answer."""
        return op_id in self._pending

    def open(self, message: Message) -> Message:
        """The initiation with its ID.

        Raises:
            LocalProtocolError: the message initiates nothing, or the IDs are used up.
            OperationLostError: too many operations lack an answer; the peer gives none.
        """
        if type(message) not in OPERATIONS:
            raise LocalProtocolError(f"{message.command} does not initiate an operation")
        if len(self._pending) >= MAX_PENDING:
            raise OperationLostError(
                f"{message.command}: {len(self._pending)} operations wait for an answer already"
            )
        op_id = self.last_id + self._sign
        if not SMALLEST_ID <= op_id <= LARGEST_ID:
            raise LocalProtocolError("all operation IDs of this session are used")
        self.last_id = op_id
        self._pending[op_id] = found = replace(message, op_id=op_id)
        return found

    def answered(self, response: Message) -> Message | None:
        """The initiation that this response answers; None if it was answered before.

        Raises:
            InvalidMessageError: no such operation was ever issued, or it is another one.
        """
        request = self._pending.get(response.op_id)
        if request is None:
            if self._was_issued(response.op_id):
                return None
            raise _violation(response, "answers an operation that was never issued")
        if OPERATIONS[type(request)].response is not type(response):
            raise _violation(response, f"answers a {request.command}")
        return self._pending.pop(response.op_id)

    def ended(self, op_id: int) -> Message | None:
        """Forget the operation, because of an error; the initiation, if it lacked an answer."""
        return self._pending.pop(op_id, None)

    def _was_issued(self, op_id: int) -> bool:
        # Before our first operation it may be one of a session that could not be resumed.
        return 0 < self._sign * op_id <= (self._sign * self.last_id or LARGEST_ID)


class PeerOperations:
    """The operations that the peer initiates: what we still owe and what it still owes.

    Attributes:
        last_id: the ID greatest in magnitude that the peer has used, on earlier connections of
            the session and for what could not be accepted included.
    """

    def __init__(self, role: Role, *, resumed_through: int = 0) -> None:
        self._sign = 1 if role is Role.BASE_STATION else -1
        self.last_id = resumed_through
        self._resumed_through = resumed_through
        self._newest = resumed_through
        self._unanswered: dict[int, Message] = {}
        self._incomplete: OrderedDict[int, tuple[type[Message], Message | None]] = OrderedDict()
        self._refused: OrderedDict[int, None] = OrderedDict()
        self._withdrawn: OrderedDict[int, None] = OrderedDict()
        self._forgiven = abs(resumed_through)

    def open(self, message: Message) -> bool:
        """Take an initiation; True if the peer may have issued it before.

        IDs grow. Excepted is what the peer issues again under its original ID: after a resume what
        it got no answer to, and at any time what we refused.

        Raises:
            InvalidMessageError: the ID has the wrong sign, does not grow or is in use, or too many
                operations lack our answer.
        """
        op_id = message.op_id
        distance = self._sign * op_id
        if distance <= 0:
            raise _violation(message, "has an operation ID of the wrong sign")
        if op_id in self._unanswered:
            raise _violation(message, "has the ID of an operation that is open")
        reissued = op_id in self._refused or distance <= self._sign * self._resumed_through
        if not reissued and distance <= self._sign * self._newest:
            raise _violation(message, f"has an operation ID not beyond {self._newest}")
        if len(self._unanswered) >= MAX_UNANSWERED:
            raise _violation(message, "is one operation too many, try again", code=Code.EAGAIN)
        self._refused.pop(op_id, None)
        self._unanswered[op_id] = message
        if not reissued:
            self._newest = op_id
            self.note(op_id)
        return reissued

    def note(self, op_id: int) -> None:
        """The peer has used this ID, if only for something that we cannot accept."""
        if self._sign * op_id > self._sign * self.last_id:
            self.last_id = op_id

    def answer(self, response: Message) -> bool:
        """We answer; False if the peer has withdrawn what it asked and nothing is to be sent.

        Raises:
            LocalProtocolError: the peer has not asked for this.
        """
        op_id = response.op_id
        request = self._unanswered.get(op_id)
        if request is None:
            return self._take_late(op_id)
        if OPERATIONS[type(request)].response is not type(response):
            raise LocalProtocolError(f"{response.command} {op_id} answers a {request.command}")
        del self._unanswered[op_id]
        kept = None if isinstance(request, _NOT_KEPT) else request
        self._incomplete[op_id] = (type(request), kept)
        if len(self._incomplete) > MAX_INCOMPLETE:
            forgotten, _ = self._incomplete.popitem(last=False)
            self._forgiven = max(self._forgiven, abs(forgotten))
        return True

    def refuse(self, op_id: int) -> bool:
        """We refuse; False if the peer has withdrawn what it asked and nothing is to be sent.

        Raises:
            LocalProtocolError: there is no such operation to refuse.
        """
        if self._unanswered.pop(op_id, None) is None:
            return self._take_late(op_id)
        _remember(self._refused, op_id)
        return True

    def completed(self, completion: Message) -> Message | None:
        """The initiation that this completes; None if it is not kept or of an earlier connection.

        Raises:
            InvalidMessageError: nothing is open that this could complete.
        """
        found = self._incomplete.get(completion.op_id)
        if found is None:
            # "The completion of what was in flight at the cut may never come, or come late."
            if 0 < self._sign * completion.op_id <= self._forgiven:
                return None
            raise _violation(completion, "completes an operation that is not open")
        kind, request = found
        if OPERATIONS[kind].completion is not type(completion):
            raise _violation(completion, f"completes a {kind.command}")
        del self._incomplete[completion.op_id]
        return request

    def ended(self, op_id: int) -> Message | None:
        """Forget the operation, because of an error of the peer; the initiation, if kept."""
        if request := self._unanswered.pop(op_id, None):
            _remember(self._withdrawn, op_id)
            return request
        _, request = self._incomplete.pop(op_id, (None, None))
        return request

    def _take_late(self, op_id: int) -> bool:
        """False: our answer to what was withdrawn comes late, which is nobody's fault."""
        if op_id not in self._withdrawn:
            raise LocalProtocolError(f"operation {op_id} is not waiting for an answer")
        del self._withdrawn[op_id]
        return False


def _remember(op_ids: OrderedDict[int, None], op_id: int) -> None:
    op_ids[op_id] = None
    if len(op_ids) > MAX_INCOMPLETE:
        op_ids.popitem(last=False)


def _violation(message: Message, fault: str, *, code: int = Code.EPROTO) -> InvalidMessageError:
    return InvalidMessageError(
        f"{message.command} {message.op_id} {fault}",
        command=message.command,
        op_id=message.op_id,
        code=code,
    )
