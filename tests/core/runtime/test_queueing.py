"""Telling one base station about downlinks: pipelined, in order, at its pace."""

from collections import Counter, deque
from dataclasses import replace

import trio

from bssci.core.center.dispatch import Operation
from bssci.core.protocol.errors import (
    Code,
    OperationLostError,
    OperationRefusedError,
    StorageError,
)
from bssci.core.protocol.messages import (
    DownlinkDataQueue,
    DownlinkDataRevoke,
    DownlinkRxStatusQuery,
    Message,
    Status,
)
from bssci.core.protocol.operations import OPERATIONS
from bssci.core.runtime.queueing import WINDOW, queue_downlinks

AVA = 0x70B3D59CD0000951
SENSOR = 0xFCA84A030000127C
TIMEOUT = 30.0  # seconds, as in `server.operation_timeout`

FULL = StorageError("no space left on the disk", code=Code.ENOSPC)


def queue(que_id) -> Operation:
    message = DownlinkDataQueue(
        ep_eui=SENSOR, que_id=que_id, cnt_depend=False, user_data=(b"hello",)
    )
    return Operation(que_id, message)


def revoke(que_id) -> Operation:
    return Operation(que_id, DownlinkDataRevoke(ep_eui=SENSOR, que_id=que_id))


def queried(que_id) -> Operation:
    """With the reception report that is asked for along with it."""
    return replace(queue(que_id), query=True)


class Link:
    """A base station that answers at its own pace, refuses, or says nothing.

    Attributes:
        told: what it was told, and when.
        pace: seconds until it answers.
        silent: commands that it does not answer.
        refuses: commands that it refuses, with this code.
        full: commands that cannot be put on disk.
        most_at_once: how many operations it had at once without an answer.
    """

    bs_eui = AVA

    def __init__(self) -> None:
        self.is_open = True
        self.told: list[tuple[float, Message]] = []
        self.pace = 0.0
        self.silent: set[str] = set()
        self.refuses: dict[str, Code] = {}
        self.full: set[str] = set()
        self.most_at_once = 0
        self.pending: dict[int, Message] = {}
        self._op_id = 0

    def unanswered(self) -> list[Message]:
        return list(self.pending.values())

    async def call(self, message: Message) -> Message:
        if not self.is_open:
            raise OperationLostError(f"{message.command}: the base station is not connected")
        self._op_id -= 1
        issued = replace(message, op_id=self._op_id)
        self.pending[issued.op_id] = issued
        self.most_at_once = max(self.most_at_once, len(self.pending))
        await trio.lowlevel.checkpoint()
        if message.command in self.full:
            del self.pending[issued.op_id]
            raise FULL
        self.told.append((trio.current_time(), issued))
        with trio.move_on_after(TIMEOUT):
            await trio.sleep(float("inf") if message.command in self.silent else self.pace)
            return self.answer(issued)
        raise OperationLostError(f"{message.command}: no answer")

    def answer(self, issued: Message) -> Message:
        """However late."""
        del self.pending[issued.op_id]
        if code := self.refuses.get(issued.command):
            raise OperationRefusedError(code, "no")
        return OPERATIONS[type(issued)].response(op_id=issued.op_id)

    def order(self) -> list[tuple[str, int]]:
        """The commands it was told, in the order of their IDs, and the downlinks they are about."""
        told = sorted((each for _, each in self.told), key=lambda each: -each.op_id)
        return [(each.command, getattr(each, "que_id", 0)) for each in told]

    def times(self) -> list[float]:
        return [at for at, _ in self.told]


class Book:
    """The downlinks of one base station: what it is to be told, and what could not be done.

    Attributes:
        lost: what was not answered, and when that was noted.
        kept: what could not be told.
    """

    def __init__(self, *operations: Operation) -> None:
        self.lost: list[tuple[float, DownlinkDataQueue | DownlinkDataRevoke]] = []
        self.kept: list[Message] = []
        self._due = deque(operations)
        self._there = trio.Event()

    def add(self, *operations: Operation) -> None:
        self._due += operations
        self._there.set()

    def next_operation(self, bs_eui: int) -> Operation | None:
        assert bs_eui == AVA
        return self._due.popleft() if self._due else None

    async def wait_for_operations(self, bs_eui: int) -> None:
        assert bs_eui == AVA
        await self._there.wait()
        self._there = trio.Event()

    def not_sent(self, bs_eui: int, request: Message) -> None:
        assert bs_eui == AVA
        self.kept.append(request)

    def timed_out(self, bs_eui: int, request: DownlinkDataQueue | DownlinkDataRevoke) -> None:
        assert bs_eui == AVA
        self.lost.append((trio.current_time(), request))


def serve(nursery, link, book):
    async def run():
        await queue_downlinks(link, book, answer_timeout=TIMEOUT)

    nursery.start_soon(run)


async def test_what_is_due_is_told_at_once_and_in_order(nursery, autojump_clock):
    link, book = Link(), Book(revoke(1), queue(2), queue(3))
    serve(nursery, link, book)
    await trio.sleep(1)
    assert link.order() == [("dlDataRev", 1), ("dlDataQue", 2), ("dlDataQue", 3)]
    assert link.told[1] == (0.0, replace(queue(2).message, op_id=-2))
    assert set(link.times()) == {0.0}


async def test_what_becomes_due_later_is_told_at_once(nursery, autojump_clock):
    link, book = Link(), Book(queue(1))
    serve(nursery, link, book)
    await trio.sleep(10)
    book.add(queue(2), revoke(1))
    await trio.sleep(10)
    assert link.times() == [0.0, 10.0, 10.0]
    assert link.order() == [("dlDataQue", 1), ("dlDataQue", 2), ("dlDataRev", 1)]


async def test_operations_are_pipelined_with_a_window(nursery, autojump_clock):
    link, book = Link(), Book(*map(queue, range(40)))
    link.pace = 2.0
    serve(nursery, link, book)
    await trio.sleep(10)
    assert Counter(link.times()) == {0.0: 16, 2.0: 16, 4.0: 8}
    assert (link.most_at_once, WINDOW) == (16, 16)
    assert link.order() == [("dlDataQue", each) for each in range(40)]


async def test_one_that_answers_nothing_is_told_no_more_until_it_is_given_up(
    nursery, autojump_clock
):
    link, book = Link(), Book(*map(queue, range(20)))
    link.silent = {"dlDataQue"}
    serve(nursery, link, book)
    await trio.sleep(TIMEOUT - 1)
    assert len(link.told) == WINDOW
    await trio.sleep(2)
    assert Counter(link.times()) == {0.0: 16, 30.0: 4}


async def test_a_reception_report_is_asked_for_before_the_downlink_that_it_is_about(
    nursery, autojump_clock
):
    link, book = Link(), Book(queue(1), *map(queried, range(2, 12)), queue(12))
    serve(nursery, link, book)
    await trio.sleep(1)
    pairs = [(("dlRxStatQry", 0), ("dlDataQue", each)) for each in range(2, 12)]
    assert link.order() == [
        ("dlDataQue", 1),
        *(operation for pair in pairs for operation in pair),
        ("dlDataQue", 12),
    ]
    assert link.told[1] == (0.0, DownlinkRxStatusQuery(ep_eui=SENSOR, op_id=-2))


async def test_one_that_cannot_ask_for_reports_gets_the_downlinks_all_the_same(
    nursery, autojump_clock
):
    link, book = Link(), Book(queried(1), queried(2))
    link.refuses = {"dlRxStatQry": Code.EOPNOTSUPP}
    serve(nursery, link, book)
    await trio.sleep(1)
    link.refuses, link.silent = {}, {"dlRxStatQry"}
    book.add(queried(3))
    await trio.sleep(TIMEOUT + 1)
    link.silent, link.full = set(), {"dlRxStatQry"}
    book.add(queried(4))
    await trio.sleep(1)
    told = [each.que_id for _, each in link.told if isinstance(each, DownlinkDataQueue)]
    assert (told, book.lost, book.kept) == ([1, 2, 3, 4], [], [])


async def test_a_refusal_is_the_business_of_those_who_were_told_of_it(nursery, autojump_clock):
    link, book = Link(), Book(*map(queue, range(20)), revoke(20))
    link.refuses = {"dlDataQue": Code.ENOSPC, "dlDataRev": Code.ENOENT}
    serve(nursery, link, book)
    await trio.sleep(1)
    assert (len(link.told), book.lost, book.kept) == (21, [], [])


async def test_what_is_not_answered_in_time_is_noted(nursery, autojump_clock):
    link, book = Link(), Book(queue(1), revoke(2))
    link.silent = {"dlDataQue", "dlDataRev"}
    serve(nursery, link, book)
    await trio.sleep(TIMEOUT + 1)
    lost = sorted(book.lost, key=lambda each: each[1].que_id)
    assert lost == [(TIMEOUT, queue(1).message), (TIMEOUT, revoke(2).message)]


async def test_what_was_on_its_way_when_the_connection_ended_is_not_late(nursery, autojump_clock):
    link, book = Link(), Book(queue(1), revoke(2))
    link.silent = {"dlDataQue", "dlDataRev"}
    serve(nursery, link, book)
    await trio.sleep(1)
    link.is_open = False
    book.add(queue(3))
    await trio.sleep(TIMEOUT)
    assert (len(link.told), book.lost, book.kept) == (2, [], [])


async def test_what_could_not_be_put_on_disk_was_not_told(nursery, autojump_clock):
    link, book = Link(), Book(*map(queue, range(20)), revoke(20))
    link.full = {"dlDataQue"}
    serve(nursery, link, book)
    await trio.sleep(1)
    assert book.kept == [queue(each).message for each in range(20)]
    assert (link.order(), book.lost) == ([("dlDataRev", 20)], [])


async def test_what_the_session_issues_again_must_be_answered_in_time(nursery, autojump_clock):
    link, book = Link(), Book()
    others = [Status(op_id=-4), DownlinkRxStatusQuery(ep_eui=SENSOR, op_id=-5)]
    mine = [replace(each.message, op_id=-each.que_id) for each in (queue(1), revoke(2), queue(3))]
    link.pending = {each.op_id: each for each in (*mine, *others)}
    serve(nursery, link, book)
    await trio.sleep(TIMEOUT - 1)
    link.answer(mine[0])
    await trio.sleep(TIMEOUT)
    assert book.lost == [(TIMEOUT, mine[1]), (TIMEOUT, mine[2])]
    assert link.told == []


async def test_what_the_session_issues_again_does_not_hold_up_what_is_new(nursery, autojump_clock):
    link, book = Link(), Book(queue(100))
    again = [replace(queue(each).message, op_id=-100 - each) for each in range(WINDOW)]
    link.pending = {each.op_id: each for each in again}
    serve(nursery, link, book)
    await trio.sleep(1)
    assert link.told == [(0.0, replace(queue(100).message, op_id=-1))]
