"""`link`: one base station's connection, over streams in memory; TLS is `server`'s."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from bssci.core.protocol import operations
from bssci.core.protocol.codec import encode
from bssci.core.protocol.errors import (
    Code,
    OperationLostError,
    OperationRefusedError,
    StorageError,
)
from bssci.core.protocol.events import Answered, Refused
from bssci.core.protocol.frames import encode_frame
from bssci.core.protocol.messages import (
    ConnectComplete,
    ConnectResponse,
    DetachPropagate,
    DetachPropagateComplete,
    DetachPropagateResponse,
    DownlinkDataResult,
    DownlinkDataResultComplete,
    DownlinkDataResultResponse,
    Error,
    ErrorAck,
    Message,
    Ping,
    PingComplete,
    PingResponse,
    Status,
    StatusResponse,
    UplinkDataComplete,
    UplinkDataResponse,
)
from bssci.core.protocol.resume import SessionRecord
from bssci.core.runtime.link import (
    LEASE,
    MAX_OUTBOX,
    MAX_WARNINGS,
    Doors,
    Guest,
    Limits,
    Link,
    Peer,
)
from tests.core.runtime.doors import FakeDoors, frame
from tests.fakes import (
    BS_EUI,
    BS_UUID,
    EP_EUI,
    FakeBaseStation,
    OneByteStream,
    connect_message,
    uplink,
)

MakePair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]

PEER = Peer("192.0.2.1", "CN=70B3D59CD0000001", "ab" * 32, frozenset({BS_EUI}))
UUID_1 = (1).to_bytes(16, "big")
RECORD = SessionRecord(bs_eui=BS_EUI, version="1.0.0", bs_uuid=BS_UUID, sc_uuid=b"s" * 16)

DISK_FULL = StorageError("the disk is full", code=Code.ENOSPC)
IO_ERROR = StorageError("the disk does not answer")

RESULT = DownlinkDataResult(op_id=1, ep_eui=EP_EUI, que_id=7, result="expired")
DETACH = DetachPropagate(ep_eui=EP_EUI)
STATUS_RESPONSE = StatusResponse(
    code=0, message="ok", time=1_756_122_544_310_347_284, duty_cycle=0.25
)


@dataclass
class Hall:
    """The hall of one link: remembers who came and went."""

    doors: Doors
    limits: Limits = field(default_factory=Limits)
    inside: list[Link] = field(default_factory=list)
    left: list[Link] = field(default_factory=list)
    is_contested: bool = False

    async def claim(self, link: Link) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_contested:
            link.close("a newer connection of this base station takes over")

    def admit(self, link: Link, guest: Guest) -> None:
        self.inside.append(link)

    def release(self, link: Link) -> None:
        self.left.append(link)


@contextlib.asynccontextmanager
async def link_to(
    doors: FakeDoors, limits: Limits | None = None, *, pair: MakePair = memory_stream_pair
) -> AsyncIterator[tuple[FakeBaseStation, Link]]:
    """A link that converses, is tended every second, and the base station at its other end."""
    ours, theirs = pair()
    link = Link(ours, Hall(doors, limits or Limits()), Guest(PEER, trio.CancelScope()))

    async def tend() -> None:
        while True:
            await trio.sleep(1)
            if link.is_open:
                link.tend(trio.current_time())

    async def converse() -> None:
        await link.converse()
        await ours.aclose()

    async with trio.open_nursery() as tending:
        tending.start_soon(tend)
        async with trio.open_nursery() as conversing:
            conversing.start_soon(converse)
            yield FakeBaseStation(theirs), link
            link.close("the test is over")
        tending.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def open_link(
    doors: FakeDoors, limits: Limits | None = None, *, pair: MakePair = memory_stream_pair
) -> AsyncIterator[tuple[FakeBaseStation, Link]]:
    """As `link_to`, and the connect is complete."""
    async with link_to(doors, limits, pair=pair) as (station, link):
        await station.connect()
        await wait_all_tasks_blocked()
        yield station, link


async def answer(station: FakeBaseStation, *responses: Message) -> list[Message]:
    """Hear as many requests, answer each under its ID, hear the completions; the requests."""
    requests = [await station.hear() for _ in responses]
    pairs = zip(requests, responses, strict=True)
    await station.say(*(replace(response, op_id=request.op_id) for request, response in pairs))
    for request in requests:
        assert (await station.hear()).op_id == request.op_id
    return requests


class Calls:
    """Operations of ours in a nursery, and what became of them."""

    def __init__(self, link: Link, nursery: trio.Nursery) -> None:
        self.outcomes: list[object] = []
        self._link = link
        self._nursery = nursery

    def start(self, message: Message = DETACH) -> trio.CancelScope:
        scope = trio.CancelScope()
        self._nursery.start_soon(self._call, message, scope)
        return scope

    async def _call(self, message: Message, scope: trio.CancelScope) -> None:
        with scope:
            try:
                self.outcomes.append(await self._link.call(message))
            except (OperationLostError, OperationRefusedError, StorageError) as error:
                self.outcomes.append(f"{type(error).__name__}: {error}")


@contextlib.asynccontextmanager
async def calling(link: Link) -> AsyncIterator[Calls]:
    async with trio.open_nursery() as nursery:
        yield Calls(link, nursery)


# --- uplinks ---------------------------------------------------------------------------------


async def test_an_uplink_is_acknowledged_only_once_it_is_safe(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, _):
        doors.delay = 3
        started = trio.current_time()
        await station.say(uplink(op_id=1))
        assert await station.hear() == UplinkDataResponse(op_id=1)
        assert trio.current_time() - started == 3
        assert doors.journal == [uplink(op_id=1)]


@pytest.mark.parametrize(("fault", "code"), [(DISK_FULL, 28), (IO_ERROR, 5)])
async def test_an_uplink_that_cannot_be_stored_is_refused_and_taken_when_it_is_repeated(
    fault, code, autojump_clock
):
    doors = FakeDoors()
    async with open_link(doors) as (station, _):
        doors.fault = fault
        await station.say(uplink(op_id=1), uplink(2, op_id=2))
        assert [await station.hear(), await station.hear()] == [
            Error(op_id=1, code=code, message=str(fault)),
            Error(op_id=2, code=code, message=str(fault)),
        ]
        doors.fault = None
        await station.say(ErrorAck(op_id=1), ErrorAck(op_id=2))
        await station.deliver(uplink(op_id=1))
        await station.deliver(uplink(3, op_id=3))
        assert doors.journal == [uplink(op_id=1), uplink(3, op_id=3)]


async def test_uplinks_that_come_together_are_stored_together(autojump_clock):
    doors = FakeDoors()
    doors.responses[DownlinkDataResult] = DownlinkDataResultResponse()
    async with open_link(doors) as (station, _):
        await station.say(
            uplink(1, op_id=1),
            uplink(2, op_id=2),
            UplinkDataComplete(op_id=99),
            replace(RESULT, op_id=3),
            uplink(4, op_id=4),
        )
        heard = [await station.hear() for _ in range(5)]
        assert {message.op_id for message in heard} == {99, 1, 2, 3, 4}
        assert doors.all("uplinks") == [([1, 2],), ([4],)]


async def test_while_a_commit_waits_that_base_station_is_not_read(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        doors.delay = 3
        await station.say(uplink(op_id=1))
        await wait_all_tasks_blocked()
        started = trio.current_time()
        await station.say(Ping(op_id=2))
        assert await station.hear() == UplinkDataResponse(op_id=1)
        assert await station.hear() == PingResponse(op_id=2)
        assert link.last_heard - started == 3


# --- what a base station asks -----------------------------------------------------------------


async def test_a_request_is_answered_by_the_doors_under_its_id(autojump_clock):
    doors = FakeDoors()
    doors.responses[DownlinkDataResult] = DownlinkDataResultResponse()
    async with open_link(doors) as (station, _):
        await station.say(replace(RESULT, op_id=5))
        assert await station.hear() == DownlinkDataResultResponse(op_id=5)
        await station.say(DownlinkDataResultComplete(op_id=5))
        await station.deliver(uplink(op_id=6))
        assert doors.all("request") == [(replace(RESULT, op_id=5),)]
        assert doors.all("completion") == [(replace(RESULT, op_id=5),)]


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [(OperationRefusedError(2, "no such queue ID"), 2, "no such queue ID"), (IO_ERROR, 5, None)],
)
async def test_a_request_that_is_refused_gets_an_error(fault, code, reason, autojump_clock):
    doors = FakeDoors()
    doors.responses[DownlinkDataResult] = fault
    async with open_link(doors) as (station, _):
        await station.say(RESULT)
        assert await station.hear() == Error(op_id=1, code=code, message=reason or str(fault))
        await station.deliver(uplink(op_id=2))


async def test_a_request_that_is_withdrawn_is_noted_and_not_answered(autojump_clock, caplog):
    doors = FakeDoors(delay=0)
    doors.responses[DownlinkDataResult] = DownlinkDataResultResponse()
    async with open_link(doors) as (station, _):
        doors.delay = 1
        await station.say(RESULT, Error(op_id=1, code=22, message="never\nmind"))
        assert await station.hear() == ErrorAck(op_id=1)
        await station.deliver(uplink(op_id=2))
    assert [record.getMessage() for record in caplog.records] == [
        "'dlDataRes', error 22: the base station withdraws it: 'never\\nmind'"
    ]


async def test_an_unknown_command_is_answered_95_and_the_connection_stays(autojump_clock, caplog):
    doors = FakeDoors()
    async with open_link(doors) as (station, _):
        await station.say_bytes(frame({"command": "xyz.foo", "opId": 1}))
        error = await station.hear_a(Error)
        assert (error.op_id, error.code) == (1, 95)
        await station.say(ErrorAck(op_id=1))
        await station.say_bytes(frame({"command": "ulData", "opId": 2}))
        error = await station.hear_a(Error)
        assert (error.op_id, error.code) == (2, 71)
        await station.deliver(uplink(op_id=3))
    assert doors.refusals == []
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert vars(caplog.records[0])["bs_eui"] == f"{BS_EUI:016X}"


async def test_what_a_base_station_does_wrong_again_and_again_is_one_line_in_the_log(
    autojump_clock, caplog
):
    caplog.set_level(logging.DEBUG)
    async with open_link(FakeDoors()) as (station, _):
        for op_id in range(1, 100):
            command = f"x.{op_id % 50}" if op_id > 50 else "x.y"
            await station.say_bytes(frame({"command": command, "opId": op_id}))
            await station.hear_a(Error)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == MAX_WARNINGS
    of_the_link = [record for record in caplog.records if record.name == "bssci.core.runtime.link"]
    assert len(of_the_link) == 99


# --- calls -----------------------------------------------------------------------------------


async def test_a_call_gives_the_base_stations_response(autojump_clock):
    async with open_link(FakeDoors()) as (station, link):
        async with calling(link) as calls:
            calls.start(Status())
            assert await answer(station, STATUS_RESPONSE) == [Status(op_id=-1)]
        assert calls.outcomes == [replace(STATUS_RESPONSE, op_id=-1)]


async def test_a_call_is_on_disk_before_its_first_byte(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link), calling(link) as calls:
        doors.delay = 5
        started = trio.current_time()
        calls.start()
        assert await station.hear() == replace(DETACH, op_id=-1)
        assert trio.current_time() - started == 5
        assert doors.sessions[BS_EUI].pending == (replace(DETACH, op_id=-1),)
        link.close("the test is over")


async def test_an_answer_is_on_disk_before_it_is_completed(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            calls.start()
            await station.hear_a(DetachPropagate)
            doors.delay = 5
            started = trio.current_time()
            await station.say(DetachPropagateResponse(op_id=-1))
            assert await station.hear() == DetachPropagateComplete(op_id=-1)
            assert trio.current_time() - started == 5
            assert doors.sessions[BS_EUI].pending == ()
        assert calls.outcomes == [DetachPropagateResponse(op_id=-1)]


async def test_answers_that_come_together_are_written_together(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            for _ in range(14):
                calls.start()
            await wait_all_tasks_blocked()
            before = len(doors.all("save"))
            await answer(station, *[DetachPropagateResponse()] * 14)
        assert len(calls.outcomes) == 14
        assert len(doors.all("save")) - before == 1


async def test_an_answer_counts_also_if_it_cannot_be_written(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            calls.start()
            await station.hear_a(DetachPropagate)
            doors.fault = DISK_FULL
            await station.say(DetachPropagateResponse(op_id=-1))
            assert await station.hear() == DetachPropagateComplete(op_id=-1)
        assert calls.outcomes == [DetachPropagateResponse(op_id=-1)]


async def test_calls_made_while_one_is_written_are_written_together(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        doors.delay = 1
        before = len(doors.all("save"))
        async with calling(link) as calls:
            calls.start()
            await wait_all_tasks_blocked()
            for _ in range(13):
                calls.start()
            await answer(station, *[DetachPropagateResponse()] * 14)
            # The first, the others, their answers.
            assert len(doors.all("save")) - before == 3


async def test_calls_made_together_are_written_together_and_answered_in_any_order(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        doors.delay = 1
        before = len(doors.all("save"))
        async with calling(link) as calls:
            for _ in range(14):
                calls.start()
            requests = [await station.hear_a(DetachPropagate) for _ in range(14)]
            assert len(doors.all("save")) - before == 1
            assert sorted(request.op_id for request in requests) == list(range(-14, 0))
            await station.say(
                DetachPropagateResponse(op_id=-9), Error(op_id=-3, code=22, message="")
            )
            await station.say(
                *(
                    DetachPropagateResponse(op_id=request.op_id)
                    for request in requests
                    if request.op_id not in (-9, -3)
                )
            )
        assert calls.outcomes.count("OperationRefusedError: refused with error 22") == 1
        assert calls.outcomes.count(DetachPropagateResponse(op_id=-9)) == 1
        assert len(set(map(str, calls.outcomes))) == 14


async def test_a_call_that_is_refused_says_with_what(autojump_clock):
    async with open_link(FakeDoors()) as (station, link):
        async with calling(link) as calls:
            calls.start()
            await station.hear_a(DetachPropagate)
            await station.say(Error(op_id=-1, code=2, message="unknown end point"))
            assert await station.hear() == ErrorAck(op_id=-1)
        assert calls.outcomes == [
            "OperationRefusedError: refused with error 2: unknown end point",
        ]


async def test_a_call_without_an_answer_is_lost_and_a_late_answer_goes_to_the_doors(
    autojump_clock,
):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            started = trio.current_time()
            calls.start()
            await station.hear_a(DetachPropagate)
            await trio.sleep(15)
            await station.deliver(uplink(op_id=1))
        assert calls.outcomes == ["OperationLostError: detPrp: no answer within 30 s"]
        assert trio.current_time() - started == 30
        await station.say(DetachPropagateResponse(op_id=-1))
        while await station.hear() != DetachPropagateComplete(op_id=-1):
            pass
        await station.deliver(uplink(op_id=2))
        assert doors.all("answer") == [
            (Answered(replace(DETACH, op_id=-1), DetachPropagateResponse(op_id=-1)),)
        ]


async def test_a_late_refusal_goes_to_the_doors(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors, Limits(operation_timeout=1)) as (station, link):
        async with calling(link) as calls:
            calls.start()
        assert calls.outcomes == ["OperationLostError: detPrp: no answer within 1 s"]
        await station.say(Error(op_id=-1, code=22, message="malformed"), uplink(op_id=1))
        await station.hear_a(DetachPropagate)
        assert await station.hear() == ErrorAck(op_id=-1)
        assert doors.all("answer") == [(Refused(replace(DETACH, op_id=-1), 22, "malformed"),)]


async def test_a_call_on_a_link_that_is_not_open_is_lost(autojump_clock):
    async with link_to(FakeDoors()) as (station, link):
        with pytest.raises(OperationLostError, match="detPrp: the base station is not connected"):
            await link.call(DETACH)
        await station.connect()
        await wait_all_tasks_blocked()
        link.close("enough")
        with pytest.raises(OperationLostError, match="detPrp: the base station is not connected"):
            await link.call(DETACH)


async def test_a_call_is_lost_when_its_link_ends(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            calls.start()
            await station.hear_a(DetachPropagate)
            await station.stream.aclose()
        assert calls.outcomes == ["OperationLostError: detPrp: closed by the base station"]
        await link.gone.wait()
        assert doors.sessions[BS_EUI].pending == (replace(DETACH, op_id=-1),)


async def test_a_call_whose_link_ends_while_it_is_written_is_issued_after_the_resume(
    autojump_clock,
):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            doors.delay = 5
            calls.start()
            await wait_all_tasks_blocked()
            await station.stream.aclose()
        assert calls.outcomes == ["OperationLostError: detPrp: closed by the base station"]
        await link.gone.wait()
    doors.delay = 0
    async with link_to(doors) as (station, _):
        assert (await station.connect()).sn_resume
        assert await station.hear() == replace(DETACH, op_id=-1)


async def test_a_call_that_cannot_be_written_is_not_sent_and_never_issued_again(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            doors.fault = DISK_FULL
            calls.start()
            await wait_all_tasks_blocked()
            doors.fault = None
            calls.start()
            await answer(station, DetachPropagateResponse())
        assert calls.outcomes == [
            "StorageError: the disk is full",
            DetachPropagateResponse(op_id=-2),
        ]
    assert [record.pending for (record,) in doors.all("save") if isinstance(record, SessionRecord)][
        -1
    ] == ()
    async with link_to(doors) as (station, _):
        assert (await station.connect()).sn_resume
        await station.deliver(uplink(op_id=1))


async def test_a_call_that_fails_to_be_written_while_its_link_ends_is_never_issued_again(
    autojump_clock,
):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            doors.delay, doors.fault = 5, DISK_FULL
            calls.start()
            await wait_all_tasks_blocked()
            doors.fault = None
            await station.stream.aclose()
        assert calls.outcomes == ["StorageError: the disk is full"]
        await link.gone.wait()
    assert doors.sessions[BS_EUI].pending == ()


async def test_a_write_that_fails_takes_only_its_own_call_along(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            doors.delay = 5
            doors.fault = DISK_FULL
            calls.start()
            await wait_all_tasks_blocked()
            doors.fault = None
            calls.start()
            assert await answer(station, DetachPropagateResponse()) == [replace(DETACH, op_id=-2)]
            assert doors.sessions[BS_EUI].pending == ()
        assert calls.outcomes == [
            "StorageError: the disk is full",
            DetachPropagateResponse(op_id=-2),
        ]


async def test_an_operation_whose_caller_has_gone_stays_open(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            scope = calls.start()
            await station.hear_a(DetachPropagate)
            scope.cancel()
        await station.say(DetachPropagateResponse(op_id=-1))
        assert await station.hear() == DetachPropagateComplete(op_id=-1)
        await station.deliver(uplink(op_id=1))
        assert calls.outcomes == []
        assert doors.all("answer") == [
            (Answered(replace(DETACH, op_id=-1), DetachPropagateResponse(op_id=-1)),)
        ]


async def test_a_caller_that_goes_during_the_write_does_not_stop_the_operation(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link), calling(link) as calls:
        doors.delay = 5
        scope = calls.start()
        await wait_all_tasks_blocked()
        scope.cancel()
        assert await station.hear() == replace(DETACH, op_id=-1)
        assert calls.outcomes == []


async def test_no_answer_is_lost_that_comes_as_its_caller_goes(autojump_clock):
    """Whichever comes first in one turn of the loop: caller or doors get it, exactly one."""
    for turns in range(8):
        doors = FakeDoors()
        async with open_link(doors) as (station, link):
            async with calling(link) as calls:
                scope = calls.start()
                await station.hear_a(DetachPropagate)
                await wait_all_tasks_blocked()
                await station.say(DetachPropagateResponse(op_id=-1))
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
            assert await station.hear() == DetachPropagateComplete(op_id=-1)
            await wait_all_tasks_blocked()
            assert len(calls.outcomes) + len(doors.all("answer")) == 1


async def test_an_answer_that_comes_between_cancel_and_wake_up_goes_to_the_doors(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            scope = calls.start()
            await station.hear_a(DetachPropagate)
            await wait_all_tasks_blocked()
            scope.cancel()
            outcome = Answered(replace(DETACH, op_id=-1), DetachPropagateResponse(op_id=-1))
            # What the reader does with the answer, in this very turn of the loop.
            link._take_outcome(outcome)
        assert calls.outcomes == []
        assert doors.all("answer") == [(outcome,)]


async def test_a_base_station_that_answers_nothing_is_given_up(autojump_clock, monkeypatch):
    monkeypatch.setattr(operations, "MAX_PENDING", 2)
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        async with calling(link) as calls:
            for _ in range(3):
                calls.start()
            await station.hear_end()
        lost = "detPrp: 2 operations wait for an answer already"
        assert calls.outcomes == [
            f"OperationLostError: {lost}",
            f"OperationLostError: detPrp: {lost}",
            f"OperationLostError: detPrp: {lost}",
        ]
        assert doors.all("down") == [(BS_EUI, lost)]


# --- the session on disk ---------------------------------------------------------------------


async def test_a_ping_costs_no_write(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, _):
        for op_id in range(1, LEASE // 2 + 1):
            await station.say(Ping(op_id=op_id))
            assert await station.hear() == PingResponse(op_id=op_id)
            await station.say(PingComplete(op_id=op_id))
        assert len(doors.all("save")) == 1
        assert doors.sessions[BS_EUI] == replace(
            RECORD, sc_uuid=UUID_1, bs_op_id=LEASE, sc_op_id=-LEASE
        )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_what_is_on_disk_is_never_behind_what_was_answered(steps):
    """Killed at any instant, the base station's counter is known and ours was not used."""

    async def main() -> None:
        doors = FakeDoors()
        async with open_link(doors) as (station, link):
            op_id = 0
            for step in steps:
                pings = [Ping(op_id=op_id + each) for each in range(1, step + 1)]
                op_id += step
                await station.say(*pings)
                for ping in pings:
                    assert await station.hear() == PingResponse(op_id=ping.op_id)
                    assert doors.sessions[BS_EUI].bs_op_id >= ping.op_id
                async with calling(link) as calls:
                    calls.start(Status())
                    [request] = await answer(station, STATUS_RESPONSE)
                    assert doors.sessions[BS_EUI].sc_op_id < request.op_id
                assert len(calls.outcomes) == 1

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_no_acknowledgement_is_ahead_of_the_session_on_disk(autojump_clock):
    """One read may bring more uplinks than the lease covers, and a disk takes its time."""
    doors = FakeDoors()
    async with open_link(doors) as (station, _):
        doors.delay = 0.1
        op_ids = range(1, LEASE + 101)
        await station.say(*(uplink(op_id, op_id=op_id) for op_id in op_ids))
        for op_id in op_ids:
            assert await station.hear() == UplinkDataResponse(op_id=op_id)
            assert doors.sessions[BS_EUI].bs_op_id >= op_id


async def test_a_slow_disk_does_not_make_a_base_station_silent(autojump_clock):
    """While we wait for the disk it is we who do not listen."""
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        doors.delay = 3 * link._limits.idle_timeout
        await station.say(uplink(op_id=1))
        for _ in range(int(doors.delay) - 1):
            await trio.sleep(1)
            link.tend(trio.current_time())
        doors.delay = 0
        assert await station.hear_a(UplinkDataResponse) == UplinkDataResponse(op_id=1)
        assert link.is_open


async def test_a_lease_that_cannot_be_renewed_is_no_reason_to_fail(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, _):
        doors.fault = DISK_FULL
        for op_id in range(1, LEASE + 1):
            await station.say(Ping(op_id=op_id))
            assert await station.hear() == PingResponse(op_id=op_id)
        doors.fault = None
        await station.say(Ping(op_id=LEASE + 1))
        assert await station.hear() == PingResponse(op_id=LEASE + 1)
        assert doors.sessions[BS_EUI].bs_op_id == 2 * LEASE + 1


async def test_a_session_is_resumed_with_its_counters_and_open_operations(autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, link):
        response = await station.connect()
        assert not response.sn_resume
        await station.deliver(uplink(op_id=4))
        async with calling(link) as calls:
            calls.start()
            await station.hear_a(DetachPropagate)
            calls.start()
            await answer(station, DetachPropagateResponse())
            await station.stream.aclose()
    exact = replace(
        RECORD, sc_uuid=UUID_1, bs_op_id=4, sc_op_id=-2, pending=(replace(DETACH, op_id=-1),)
    )
    assert doors.sessions == {BS_EUI: exact}

    async with link_to(doors) as (station, link):
        resumed = await station.connect(connect_message(sn_bs_op_id=4, sn_sc_op_id=-2))
        assert resumed == replace(response, sn_resume=True)
        assert link.response == resumed
        assert await station.hear() == replace(DETACH, op_id=-1)
        await station.say(DetachPropagateResponse(op_id=-1))
        assert await station.hear() == DetachPropagateComplete(op_id=-1)
        assert doors.all("answer") == [
            (Answered(replace(DETACH, op_id=-1), DetachPropagateResponse(op_id=-1)),)
        ]
        async with calling(link) as calls:
            calls.start()
            assert await answer(station, DetachPropagateResponse()) == [replace(DETACH, op_id=-3)]
    assert doors.sessions == {BS_EUI: replace(exact, sc_op_id=-3, pending=())}
    assert doors.all("up") == [(BS_EUI, False), (BS_EUI, True)]


async def test_after_a_crash_the_ids_are_beyond_everything_that_was_used(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link), calling(link) as calls:
        for _ in range(3):
            calls.start(Status())
            await answer(station, STATUS_RESPONSE)
        calls.start()
        await station.hear_a(DetachPropagate)
        crashed = FakeDoors(sessions=dict(doors.sessions), uuids=100)
        link.close("the test is over")
    async with link_to(crashed) as (station, link):
        resumed = await station.connect(connect_message(sn_bs_op_id=0, sn_sc_op_id=-4))
        assert (resumed.sn_resume, resumed.sn_sc_uuid) == (True, UUID_1)
        assert await station.hear() == replace(DETACH, op_id=-4)
        async with calling(link) as calls:
            calls.start(Status())
            [request] = await answer(station, STATUS_RESPONSE)
            assert request.op_id < -4


async def test_an_answered_operation_is_not_issued_again_after_a_crash(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link), calling(link) as calls:
        calls.start()
        await answer(station, DetachPropagateResponse())
        crashed = FakeDoors(sessions=dict(doors.sessions), uuids=100)
    async with link_to(crashed) as (station, link):
        assert (await station.connect()).sn_resume
        await wait_all_tasks_blocked()
        async with calling(link) as calls:
            calls.start(Status())
            [request] = await answer(station, STATUS_RESPONSE)
            assert isinstance(request, Status)


async def test_of_unanswered_status_requests_only_the_last_is_kept(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors, Limits(operation_timeout=1)) as (station, link):
        async with calling(link) as calls:
            calls.start()
            await station.hear_a(DetachPropagate)
            for _ in range(5):
                calls.start(Status())
                await station.hear_a(Status)
        assert len(calls.outcomes) == 6
    assert doors.sessions[BS_EUI].pending == (replace(DETACH, op_id=-1), Status(op_id=-6))


@pytest.mark.parametrize("earlier", [None, replace(RECORD, bs_op_id=7, sc_op_id=-9)])
@pytest.mark.parametrize("uuid", [BS_UUID, b"x" * 16])
async def test_a_connect_that_is_not_completed_changes_nothing(earlier, uuid, autojump_clock):
    doors = FakeDoors()
    if earlier:
        doors.sessions[BS_EUI] = earlier
    before = dict(doors.sessions)
    async with link_to(doors) as (station, link):
        await station.say(connect_message(sn_bs_uuid=uuid))
        response = await station.hear_a(ConnectResponse)
        assert response.sn_resume == (earlier is not None and uuid == BS_UUID)
        await station.stream.aclose()
        await link.gone.wait()
    assert doors.sessions == before
    assert doors.all("up") == doors.all("down") == []


async def test_a_session_that_the_base_station_refuses_is_forgotten(autojump_clock, caplog):
    doors = FakeDoors(sessions={BS_EUI: RECORD})
    async with link_to(doors) as (station, link):
        await station.say(connect_message())
        assert (await station.hear_a(ConnectResponse)).sn_resume
        await station.say(Error(op_id=0, code=71, message="not mine"))
        assert await station.hear_end() == [ErrorAck(op_id=0)]
        await link.gone.wait()
    assert doors.sessions == {}
    assert doors.refusals == []
    assert [record.getMessage() for record in caplog.records] == [
        "'conRsp', error 71: the base station refuses it: 'not mine'"
    ]
    async with link_to(doors) as (station, _):
        assert not (await station.connect()).sn_resume


async def test_a_refused_session_that_cannot_be_forgotten_now_ends_all_the_same(autojump_clock):
    doors = FakeDoors(sessions={BS_EUI: RECORD})
    async with link_to(doors) as (station, link):
        await station.say(connect_message())
        await station.hear_a(ConnectResponse)
        doors.fault = DISK_FULL
        await station.say(Error(op_id=0, code=71, message=""))
        assert await station.hear_end() == [ErrorAck(op_id=0)]
        await link.gone.wait()


async def test_a_con_whose_session_cannot_be_stored_gets_error_11_and_the_next_one_works(
    autojump_clock,
):
    earlier = replace(RECORD, bs_op_id=7, sc_op_id=-9)
    doors = FakeDoors(fault=DISK_FULL, sessions={BS_EUI: earlier})
    async with link_to(doors) as (station, link):
        await station.say(connect_message())
        assert await station.hear() == Error(op_id=0, code=11, message="the disk is full")
        await station.say(ErrorAck(op_id=0))
        assert await station.hear_end() == []
        await link.gone.wait()
    assert doors.sessions == {BS_EUI: earlier}
    assert doors.refusals == []
    doors.fault = None
    async with link_to(doors) as (station, _):
        assert (await station.connect()).sn_resume


async def test_a_session_that_cannot_be_saved_at_the_end_does_not_hold_the_end_up(
    autojump_clock,
):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        await station.deliver(uplink(op_id=1))
        doors.fault = DISK_FULL
        await station.stream.aclose()
        await link.gone.wait()
    assert doors.all("down") == [(BS_EUI, "closed by the base station")]


async def test_exact_counters_are_saved_last(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        await station.deliver(uplink(op_id=9))
        link.close("the service stops")
        assert await station.hear_end() == []
    assert doors.sessions == {BS_EUI: replace(RECORD, sc_uuid=UUID_1, bs_op_id=9)}
    assert doors.all("down") == [(BS_EUI, "the service stops")]


# --- coming in -------------------------------------------------------------------------------


async def test_who_may_not_come_in_gets_error_1_and_is_closed_after_its_error_ack(autojump_clock):
    doors = FakeDoors(refusal="the certificate names another base station")
    async with link_to(doors) as (station, link):
        await station.say(connect_message())
        assert await station.hear() == Error(op_id=0, code=1, message=doors.refusal or "")
        await station.say(uplink(op_id=1))
        await wait_all_tasks_blocked()
        assert not link.gone.is_set()
        await station.say(ErrorAck(op_id=0))
        assert await station.hear_end() == []
    [refusal] = doors.refusals
    assert (refusal.reason, refusal.peer, refusal.bs_eui) == ("identity_mismatch", PEER, BS_EUI)
    assert doors.sessions == {}


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not_bssci", "a frame begins with b'GET / HT'"),
        (b"", "not_bssci", "no con: closed by the base station"),
        (encode_frame(b"\x01"), "not_bssci", "map"),
        (b"MIOTYB01\xff\xff\xff\x7f", "not_bssci", "2147483647 bytes"),
    ],
)
async def test_what_speaks_no_bssci_is_shown_out(data, reason, words, autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, link):
        await station.say_bytes(data)
        if not data:
            await station.stream.aclose()
        await link.gone.wait()
    [refusal] = doors.refusals
    assert (refusal.reason, refusal.peer, refusal.bs_eui) == (reason, PEER, None)
    assert words in refusal.detail


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (uplink(op_id=1), "not_bssci"),
        (connect_message(op_id=3), "not_bssci"),
        (connect_message(version="2.0.0"), "version"),
        (connect_message(version="one"), "version"),
    ],
)
async def test_anything_but_a_proper_con_gets_error_71_and_is_told_once(
    message, reason, autojump_clock
):
    doors = FakeDoors()
    async with link_to(doors) as (station, link):
        await station.say(message)
        error = await station.hear_a(Error)
        assert (error.op_id, error.code) == (message.op_id, 71)
        await station.say(ErrorAck(op_id=message.op_id))
        assert await station.hear_end() == []
        await link.gone.wait()
    assert [(refusal.reason, refusal.detail) for refusal in doors.refusals] == [
        (reason, error.message)
    ]


async def test_who_says_good_bye_before_we_can_refuse_is_told_once(autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, _):
        await station.say(connect_message(version="2.0.0"), ErrorAck(op_id=0))
        await station.hear_a(Error)
        assert await station.hear_end() == []
    assert [refusal.reason for refusal in doors.refusals] == ["version"]


async def test_an_operation_before_con_cmp_is_refused_and_the_connect_goes_on(autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, _):
        await station.say(connect_message())
        await station.hear_a(ConnectResponse)
        await station.say(uplink(op_id=1))
        assert (await station.hear_a(Error)).code == 71
        await station.say(ErrorAck(op_id=1), ConnectComplete())
        await station.deliver(uplink(op_id=2))
    assert doors.refusals == []


async def test_a_con_said_twice_is_answered_twice(autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, _):
        await station.say(connect_message(), connect_message())
        assert await station.hear() == await station.hear()
        await station.say(ConnectComplete(), ConnectComplete())
        await station.deliver(uplink(op_id=1))
    assert len(doors.all("admit")) == len(doors.all("up")) == 1


async def test_a_connect_that_completes_too_late_does_not_come_in(autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, link):
        await station.say(connect_message())
        await station.hear_a(ConnectResponse)
        link._guest.scope.cancel()
        await station.say(ConnectComplete())
        assert await station.hear_end() == []
    assert doors.all("up") == []


async def test_a_connect_byte_by_byte_works(autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, _):
        slow = FakeBaseStation(OneByteStream(station.stream))
        await slow.connect()
        await slow.deliver(uplink(op_id=1))
    assert doors.journal == [uplink(op_id=1)]


async def test_a_link_that_loses_its_place_while_it_comes_in_ends_quietly(autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, link):
        hall = link._hall
        assert isinstance(hall, Hall)
        hall.is_contested = True
        await station.say(connect_message())
        assert await station.hear_end() == []
    assert doors.refusals == []
    assert doors.all("save") == doors.all("drop") == []


async def test_a_connected_base_station_is_attended_to_until_it_goes(autojump_clock):
    over: list[float] = []

    async def attend(link: Link) -> None:
        try:
            assert link.is_open
            await trio.sleep_forever()
        finally:
            over.append(trio.current_time())

    doors = FakeDoors(attending=attend)
    async with open_link(doors) as (station, link):
        await station.deliver(uplink(op_id=1))
        assert (doors.all("attend"), over) == ([(BS_EUI,)], [])
        await station.stream.aclose()
        await link.gone.wait()
        assert len(over) == 1
    assert [entry[0] for entry in doors.told if entry[0] in ("up", "attend", "down")] == [
        "up",
        "attend",
        "down",
    ]


async def test_who_it_is_is_known_from_its_con_on(autojump_clock):
    async with link_to(FakeDoors()) as (station, link):
        assert (link.who(), link.claimed_eui) == ({"address": "192.0.2.1"}, None)
        await station.connect()
        await wait_all_tasks_blocked()
        assert link.who() == {"address": "192.0.2.1", "bs_eui": "70B3D59CD0000001"}
        assert (link.bs_eui, link.connect) == (BS_EUI, connect_message())


# --- silence ---------------------------------------------------------------------------------


async def test_a_silent_base_station_is_pinged_and_then_given_up(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        started = link.last_heard
        assert await station.hear() == Ping(op_id=-1)
        assert trio.current_time() - started == 20
        assert await station.hear_end() == []
        assert trio.current_time() - started == 60
    assert doors.all("down") == [(BS_EUI, "silent for 60 s")]


async def test_a_ping_for_which_there_is_no_room_ends_that_link_and_nothing_else(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(operations, "MAX_PENDING", 0)
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        await trio.sleep(20)
        link.tend(trio.current_time())
        assert await station.hear_end() == []
    ((_, reason),) = doors.all("down")
    assert "operations" in str(reason)


async def test_a_base_station_that_never_pings_but_answers_stays(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        for op_id in range(-1, -200, -1):
            assert await station.hear() == Ping(op_id=op_id)
            await station.say(PingResponse(op_id=op_id))
            assert await station.hear() == PingComplete(op_id=op_id)
        assert trio.current_time() > 3600
        assert link.is_open


async def test_a_base_station_that_talks_but_answers_no_ping_stays_and_is_asked_once(
    autojump_clock,
):
    async with open_link(FakeDoors()) as (station, link):
        for op_id in range(1, 50):
            await trio.sleep(50)
            await station.say(PingComplete(op_id=-10_000))
            await station.say(Ping(op_id=op_id))
        heard = []
        while (message := await station.hear()) != PingResponse(op_id=49):
            heard.append(message)
        assert [message for message in heard if isinstance(message, Ping)] == [Ping(op_id=-1)]
        assert link.is_open


async def test_a_base_station_that_never_reads_is_given_up_after_the_write_time_out(
    autojump_clock,
):
    doors = FakeDoors()
    async with open_link(doors, pair=trio.testing.lockstep_stream_pair) as (station, link):
        await station.say(Ping(op_id=1))
        await link.gone.wait()
        assert trio.current_time() == 10
    assert doors.all("down") == [(BS_EUI, "did not take our bytes within 10 s")]


async def test_what_a_base_station_does_not_take_is_bounded(autojump_clock):
    """One that talks without reading is not listened to any more."""
    doors = FakeDoors()
    async with open_link(doors, pair=trio.testing.lockstep_stream_pair) as (station, link):
        said = 0
        with trio.move_on_after(5):
            while True:
                await station.say(*(Ping(op_id=said + each) for each in range(1, 1001)))
                said += 1000
        assert len(link._outbox) < 2 * MAX_OUTBOX
        assert said * 35 < 4 * MAX_OUTBOX
        # It reads after all: it is heard again.
        for op_id in range(1, said + 1):
            assert await station.hear() == PingResponse(op_id=op_id)
        assert link.is_open


async def test_one_that_is_not_listened_to_any_more_can_be_closed(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors, pair=trio.testing.lockstep_stream_pair) as (station, link):
        with trio.move_on_after(5):
            for start in range(0, 1_000_000, 1000):
                await station.say(*(Ping(op_id=start + each) for each in range(1, 1001)))
        link.close("enough")
        await link.gone.wait()
    assert doors.all("down") == [(BS_EUI, "enough")]


# --- the end ---------------------------------------------------------------------------------


async def test_a_connection_that_is_cut_is_no_fault(autojump_clock, caplog):
    doors = FakeDoors()
    async with open_link(doors) as (_station, link):
        await link._stream.aclose()
        await link.gone.wait()
    [(_, reason)] = doors.all("down")
    assert str(reason).startswith("connection lost: ")
    assert caplog.records == []


async def test_a_connection_that_is_cut_while_we_write_ends(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors, pair=trio.testing.lockstep_stream_pair) as (station, link):
        async with calling(link) as calls:
            calls.start()
            await wait_all_tasks_blocked()
            # It hears nothing any more, and does not say that it has gone.
            await station.stream.receive_stream.aclose()  # type: ignore[attr-defined]
        [outcome] = calls.outcomes
        assert str(outcome).startswith("OperationLostError: detPrp: connection lost")


async def test_garbage_behind_a_good_uplink_ends_the_connection_at_once(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        started = trio.current_time()
        await station.say_bytes(encode_frame(encode(uplink(op_id=1))) + b"garbage!")
        assert await station.hear_end() == [UplinkDataResponse(op_id=1)]
        assert trio.current_time() == started
        await link.gone.wait()
    [refusal] = doors.refusals
    assert (refusal.reason, refusal.peer, refusal.bs_eui) == ("protocol_error", PEER, BS_EUI)
    assert doors.all("down") == [(BS_EUI, refusal.detail)]


async def test_garbage_between_con_and_con_cmp_is_a_protocol_error(autojump_clock):
    doors = FakeDoors()
    async with link_to(doors) as (station, _):
        await station.say(connect_message())
        await station.hear_a(ConnectResponse)
        await station.say_bytes(b"garbage!")
        assert await station.hear_end() == []
    assert [refusal.reason for refusal in doors.refusals] == ["protocol_error"]


async def test_what_is_on_disk_is_acknowledged_before_the_link_ends(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        doors.delay = 1
        await station.say(uplink(op_id=1))
        await wait_all_tasks_blocked()
        await station.say(uplink(op_id=2))
        link.close("the service stops")
        assert await station.hear_end() == [UplinkDataResponse(op_id=1)]
        await link.gone.wait()
    assert doors.journal == [uplink(op_id=1)]
    assert doors.sessions[BS_EUI].bs_op_id == 1


async def test_what_comes_in_the_moment_of_the_end_is_not_taken(autojump_clock):
    """It was read but is not answered: the base station keeps it."""
    doors = FakeDoors()
    async with open_link(doors) as (station, link):
        await station.say(uplink(op_id=1))
        link.close("the service stops")
        assert await station.hear_end() == []
    assert doors.journal == []


async def test_the_end_takes_no_longer_than_what_is_left_to_say(autojump_clock):
    async with open_link(FakeDoors()) as (_station, link):
        started = trio.current_time()
        link.close("enough")
        await link.gone.wait()
        assert trio.current_time() == started
        link.close("more than enough")


async def test_a_farewell_that_is_not_taken_is_given_up(autojump_clock):
    doors = FakeDoors()
    async with open_link(doors, pair=trio.testing.lockstep_stream_pair) as (station, link):
        doors.delay = 2
        await station.say(uplink(op_id=1))
        link.close("enough")
        await link.gone.wait()
        # con 0 s, uplink 2 s, farewell 1 s, and the session is given up after 1.5 s
        assert trio.current_time() == 4.5


async def converse_with_a_bug(doors: FakeDoors, what: str) -> Hall:
    """Everything that a base station may do, at doors of which one has a bug."""
    ours, theirs = memory_stream_pair()
    hall = Hall(doors)
    link = Link(ours, hall, Guest(PEER, trio.CancelScope()))

    async def be_a_station() -> None:
        station = FakeBaseStation(theirs)
        await station.connect()
        await wait_all_tasks_blocked()
        with trio.move_on_after(1), contextlib.suppress(OperationLostError):
            await link.call(DETACH)
        if what in ("save", "down"):
            doors.bug[what] = ZeroDivisionError("a bug")
        await station.say(DetachPropagateResponse(op_id=-1), uplink(op_id=1))
        await station.stream.aclose()

    async def converse() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(be_a_station)
            await link.converse()

    with pytest.raises(ExceptionGroup) as caught:
        await converse()
    assert caught.group_contains(ZeroDivisionError, match="a bug")
    assert link.gone.is_set()
    return hall


@pytest.mark.parametrize("what", ["uplinks", "up", "attend", "admit", "answer", "save", "down"])
async def test_a_door_with_a_bug_ends_that_connection_and_its_place_is_free(what, autojump_clock):
    doors = FakeDoors()
    if what not in ("save", "down"):
        doors.bug[what] = ZeroDivisionError("a bug")
    hall = await converse_with_a_bug(doors, what)
    assert len(hall.left) == 1


async def test_a_link_that_is_cancelled_saves_its_session(autojump_clock):
    doors = FakeDoors()
    ours, theirs = memory_stream_pair()
    link = Link(ours, Hall(doors), Guest(PEER, trio.CancelScope()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.converse)
        station = FakeBaseStation(theirs)
        await station.connect()
        await station.deliver(uplink(op_id=3))
        await wait_all_tasks_blocked()
        doors.delay = 1
        nursery.cancel_scope.cancel()
    assert doors.sessions[BS_EUI] == replace(RECORD, sc_uuid=UUID_1, bs_op_id=3)
    assert doors.all("down") == [(BS_EUI, "the Service Center stops")]
