from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from bssci.core.center import dispatch as module
from bssci.core.center.dispatch import GRACE, Dispatch, News, Operation, overruled
from bssci.core.center.downlinks import Downlink, DownlinkRecord, Ending, message_of
from bssci.core.center.placement import Placement
from bssci.core.protocol.errors import Code
from bssci.core.protocol.messages import (
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
    Message,
    Status,
)

AVA, DIEHL, MIROMICO = 0x70B3D59CD0000951, 0x000732000077E21D, 0x9C65F9FFFE0000C1
SENSOR, OTHER = 0xFCA84A030000127C, 0xFCA84A0300001276
LIFETIME = 1000.0
ROLLED_OVER = 0x1000000


def downlink(que_id=1, ep_eui=SENSOR, **more: Any) -> Downlink:
    standard: dict[str, Any] = {
        "user_data": (b"hello",),
        "created_ns": 0,
        "expires_ns": int(LIFETIME * 1e9),
    }
    return Downlink(que_id=que_id, ep_eui=ep_eui, **(standard | more))


def for_uplinks(*counters: int, que_id=1) -> Downlink:
    return downlink(que_id, user_data=(b"hello",) * len(counters), packet_cnt=counters)


def record(que_id=1, **more: Any) -> DownlinkRecord:
    return DownlinkRecord(downlink=more.pop("downlink", downlink(que_id)), **more)


def queue(que_id=1, op_id=0, **more: Any) -> DownlinkDataQueue:
    return replace(message_of(more.pop("downlink", downlink(que_id))), op_id=op_id)


def revoke(que_id=1, op_id=0) -> DownlinkDataRevoke:
    return DownlinkDataRevoke(ep_eui=SENSOR, que_id=que_id, op_id=op_id)


def ended(result, at=0.0, bs_eui=None, **more: Any) -> Ending:
    return Ending(result=result, at_ns=int(at * 1e9), bs_eui=bs_eui, **more)


def sent(at=0.0, bs_eui=AVA, packet_cnt=5) -> Ending:
    return ended("sent", at, bs_eui, tx_time=77, packet_cnt=packet_cnt)


@dataclass
class Bench:
    """Calls a dispatch as the service does; what it has to say is left where it is."""

    dispatch: Dispatch = field(default_factory=Dispatch)
    now: float = 0.0

    @property
    def times(self) -> dict[str, Any]:
        return {"now": self.now, "at_ns": self.at_ns}

    @property
    def at_ns(self) -> int:
        return int(self.now * 1e9)

    def add(self, each: Downlink) -> None:
        self.dispatch.add(each, deadline=LIFETIME)

    def route(self, *stations: int, ep_eui=SENSOR) -> None:
        self.dispatch.route(ep_eui, stations, now=self.now)

    def cancel(self, que_id=1) -> bool:
        return self.dispatch.cancel(que_id, at_ns=self.at_ns)

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.dispatch.pass_time(**self.times)

    def connect(self, bs_eui=AVA, *, is_new=True, unanswered: tuple[Message, ...] = ()) -> None:
        self.dispatch.station_connected(bs_eui, is_new=is_new, unanswered=unanswered, **self.times)

    def cut(self, bs_eui=AVA) -> None:
        self.dispatch.station_disconnected(bs_eui, at_ns=self.at_ns)

    def crash(self, *records: DownlinkRecord) -> None:
        self.dispatch = Dispatch()
        for each in records:
            self.dispatch.recall(each, deadline=LIFETIME)

    def told(self, bs_eui=AVA) -> list[Operation]:
        """All that is due now, on its way."""
        operations = []
        while operation := self.dispatch.next_operation(bs_eui, now=self.now):
            operations.append(operation)
        return operations

    def answer(self, request: Message, bs_eui=AVA) -> None:
        self.dispatch.answered(bs_eui, request, **self.times)

    def refuse(self, request: Message, code: int, bs_eui=AVA, message="no") -> None:
        self.dispatch.refused(bs_eui, request, int(code), message, **self.times)

    def time_out(self, request: Message, bs_eui=AVA) -> None:
        self.dispatch.timed_out(bs_eui, request, **self.times)

    def not_sent(self, request: Message, bs_eui=AVA) -> None:
        self.dispatch.not_sent(bs_eui, request, **self.times)

    def attach(self, op_id: int, bs_eui=AVA, ep_eui=SENSOR) -> None:
        self.dispatch.attached(bs_eui, ep_eui, op_id, **self.times)

    def report(self, result="sent", que_id=1, bs_eui=AVA, ep_eui=SENSOR, **more: Any) -> bool:
        fields = {"tx_time": 77, "packet_cnt": 5} | more
        said = DownlinkDataResult(ep_eui=ep_eui, que_id=que_id, result=result, **fields)
        return self.dispatch.take_result(bs_eui, said, at_ns=self.at_ns)

    def hear(self, packet_cnt: int, *, dl_ack=False, ep_eui=SENSOR) -> None:
        self.dispatch.heard(ep_eui, packet_cnt, dl_ack=dl_ack, at_ns=self.at_ns)

    def open_window(self, bs_eui=AVA, ep_eui=SENSOR) -> None:
        self.dispatch.window_opened(ep_eui, bs_eui, now=self.now)

    def move(self, *receivers: int, others=(DIEHL,)) -> None:
        self.dispatch.received_by(SENSOR, receivers, others)

    def news(self) -> list[News]:
        return self.dispatch.take_news()


def connected(*stations: int) -> Bench:
    bench = Bench()
    for bs_eui in stations or (AVA, DIEHL):
        bench.connect(bs_eui)
    return bench


def chosen(each: Downlink | None = None) -> Bench:
    """AVA is to queue it; nothing was told yet."""
    bench = connected()
    bench.add(each or downlink())
    bench.route(AVA, DIEHL)
    bench.dispatch.take_unrouted()
    bench.dispatch.take_due()
    bench.news()
    return bench


def issued(each: Downlink | None = None) -> Bench:
    bench = chosen(each)
    bench.told()
    return bench


def queued(each: Downlink | None = None, op_id=-1) -> Bench:
    bench = issued(each)
    bench.answer(queue(op_id=op_id))
    bench.dispatch.take_due()
    bench.news()
    return bench


def moving() -> Bench:
    """AVA was told to drop it, and knows nothing of it."""
    bench = queued()
    bench.move(DIEHL)
    bench.told()
    bench.dispatch.take_due()
    return bench


# --- what there is -------------------------------------------------------------------------


def test_a_new_downlink_is_told_and_waits_for_a_base_station():
    bench = Bench()
    bench.add(downlink())
    assert bench.news() == [News(record(), "queued")]
    assert bench.news() == []
    assert bench.dispatch.take_unrouted() == {SENSOR}
    assert bench.dispatch.take_unrouted() == set()
    assert bench.dispatch.take_due() == set()
    assert bench.dispatch.record(1) == record()


def test_what_waits_is_listed_by_end_point():
    bench = queued()
    bench.add(downlink(2))
    bench.add(downlink(3, OTHER))
    assert [bench.dispatch.waiting(each) for each in (SENSOR, OTHER, 0)] == [[1, 2], [3], []]
    assert [bench.dispatch.is_watched(each) for each in (SENSOR, OTHER, 0)] == [True, True, False]
    assert len(bench.dispatch) == 3
    assert bench.dispatch.counts() == {"queued": 2, "at_station": 1}


def test_what_was_sent_waits_for_nobody_but_makes_its_end_point_worth_hearing():
    bench = queued()
    bench.report("sent")
    assert bench.dispatch.waiting(SENSOR) == []
    assert bench.dispatch.counts() == {"queued": 0, "at_station": 0}
    assert bench.dispatch.is_watched(SENSOR)


def test_what_is_over_or_never_was_is_unknown():
    bench = queued()
    bench.report("expired")
    assert [bench.dispatch.record(que_id) for que_id in (1, 2)] == [None, None]
    assert not bench.dispatch.is_watched(SENSOR)


# --- where it goes -------------------------------------------------------------------------


def test_a_downlink_goes_to_the_best_base_station_and_to_no_other():
    bench = connected()
    bench.add(downlink())
    bench.news()
    bench.route(DIEHL, AVA)
    assert bench.news() == [News(record(holder=DIEHL))]
    assert bench.dispatch.take_due() == {DIEHL}
    assert bench.dispatch.take_due() == set()
    bench.route(AVA, DIEHL)
    assert bench.news() == []
    assert bench.told(AVA) == []
    assert bench.told(DIEHL) == [Operation(1, queue())]


def test_without_a_base_station_it_waits():
    bench = connected()
    bench.add(downlink())
    bench.route()
    bench.route(AVA, ep_eui=OTHER)
    assert bench.dispatch.record(1) == record()
    assert bench.told() == []


def test_what_waits_may_find_a_way_when_a_base_station_connects():
    bench = chosen()
    bench.add(downlink(2, OTHER))
    bench.dispatch.take_unrouted()
    bench.connect(MIROMICO)
    assert bench.dispatch.take_unrouted() == {OTHER}


# --- what base stations are told -----------------------------------------------------------


def test_a_base_station_is_told_once_and_asked_for_a_reception_report_if_that_is_wanted():
    bench = chosen(downlink(query_rx=True))
    assert bench.told() == [Operation(1, queue(), query=True)]
    assert bench.told() == []


def test_what_has_priority_goes_first_and_then_what_was_there_first():
    bench = connected()
    for que_id, prio in enumerate([0.0, 2.0, 1.0, 2.0], start=1):
        bench.add(downlink(que_id, prio=prio))
    bench.route(AVA)
    assert [each.que_id for each in bench.told()] == [2, 4, 3, 1]


def test_what_is_to_be_dropped_goes_before_what_is_to_be_queued():
    bench = queued()
    bench.add(downlink(2, prio=9.0))
    bench.route(AVA)
    bench.cancel(1)
    assert bench.told() == [
        Operation(1, revoke()),
        Operation(2, queue(downlink=downlink(2, prio=9.0))),
    ]


def test_what_is_over_before_it_was_told_is_not_told():
    bench = chosen()
    bench.dispatch.abandon(SENSOR, "expired", "gone", at_ns=0)
    assert bench.told() == []


def test_what_has_gone_elsewhere_before_it_was_told_is_not_told():
    bench = connected()
    bench.add(downlink())
    bench.route(AVA)
    bench.cut()
    bench.connect()
    bench.route(DIEHL)
    assert bench.told() == []
    assert bench.told(DIEHL) == [Operation(1, queue())]


def test_what_was_to_leave_and_may_stay_before_it_was_told_is_told_once():
    bench = chosen()
    bench.move(DIEHL)
    bench.move(AVA)
    assert bench.told() == [Operation(1, queue())]


def test_who_is_not_connected_is_told_nothing():
    bench = queued()
    bench.cut()
    bench.cancel()
    assert bench.dispatch.take_due() == set()
    assert bench.told() == []
    assert bench.told(MIROMICO) == []


def test_what_could_not_be_told_is_tried_again_a_second_later():
    bench = issued()
    bench.not_sent(queue())
    assert bench.news() == [News(record())]
    assert bench.dispatch.take_unrouted() == {SENSOR}
    bench.route(AVA)
    assert bench.told() == []
    assert bench.dispatch.next_time() == 1.0
    bench.later(1.0)
    assert bench.dispatch.take_unrouted() == {SENSOR}
    bench.route(AVA)
    assert bench.told() == [Operation(1, queue())]


def test_a_revoke_that_could_not_be_told_is_tried_again_a_second_later():
    bench = queued()
    bench.cancel()
    assert bench.told() == [Operation(1, revoke())]
    bench.not_sent(revoke())
    assert bench.told() == []
    bench.later(1.0)
    assert bench.dispatch.take_due() == {AVA}
    assert bench.told() == [Operation(1, revoke())]


# --- how they answer -----------------------------------------------------------------------


def test_a_downlink_that_is_queued_is_at_the_base_station():
    bench = issued()
    bench.answer(queue(op_id=-1))
    assert bench.news() == [News(record(holder=AVA, is_queued=True), "at_station")]
    assert bench.told() == []


def test_that_it_has_it_already_is_as_good_as_an_answer():
    bench = issued()
    bench.refuse(queue(op_id=-1), Code.EEXIST)
    assert bench.news() == [News(record(holder=AVA, is_queued=True), "at_station")]


def test_an_answer_counts_once():
    bench = queued()
    bench.answer(queue(op_id=-1))
    assert bench.news() == []


@pytest.mark.parametrize("code", [Code.EINVAL, Code.EPROTO])
def test_what_no_base_station_would_take_is_rejected(code):
    bench = issued()
    bench.refuse(queue(op_id=-1), code, message="x" * 999)
    ending = ended("rejected", bs_eui=AVA, code=int(code), message="x" * 200)
    assert bench.news() == [News(record(ending=ending), "rejected")]
    assert len(bench.dispatch) == 0


@pytest.mark.parametrize("code", [Code.EPERM, Code.EIO, Code.ENOSPC, Code.EOPNOTSUPP])
def test_who_refuses_is_avoided_for_a_minute_and_others_are_not(code):
    bench = issued()
    bench.refuse(queue(op_id=-1), code)
    assert bench.news() == [News(record())]
    assert bench.dispatch.take_unrouted() == {SENSOR}
    bench.route(AVA)
    assert bench.news() == []
    bench.later(60.0)
    assert bench.dispatch.take_unrouted() == {SENSOR}
    bench.route(AVA)
    assert bench.news() == [News(record(holder=AVA))]


def test_who_refuses_is_avoided_but_the_next_best_is_asked_at_once():
    bench = issued()
    bench.refuse(queue(op_id=-1), Code.ENOSPC)
    bench.route(AVA, DIEHL)
    assert bench.told(DIEHL) == [Operation(1, queue())]


def test_each_refusal_doubles_the_pause_up_to_an_hour():
    bench = connected(AVA)
    bench.dispatch.add(downlink(), deadline=1e9)
    pauses = []
    for _ in range(8):
        bench.route(AVA)
        bench.told()
        bench.refuse(queue(op_id=-1), Code.ENOSPC)
        at = bench.dispatch.next_time() or 0.0
        pauses.append(at - bench.now)
        bench.later(pauses[-1])
    assert pauses == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]


def test_thousands_of_refusals_are_no_more_than_many():
    bench = connected(AVA)
    bench.dispatch.add(downlink(), deadline=1e9)
    for _ in range(2000):
        bench.route(AVA)
        bench.refuse(queue(op_id=-1), Code.ENOSPC)
        bench.later(3600.0)
    assert bench.dispatch.record(1) == record()


def test_answers_to_other_operations_and_about_other_downlinks_say_nothing():
    bench = queued()
    for request in (Status(op_id=-9), queue(2), revoke(2)):
        bench.answer(request)
        bench.refuse(request, Code.EINVAL)
        bench.time_out(request)
        bench.not_sent(request)
    assert bench.news() == []
    assert bench.dispatch.record(1) == record(holder=AVA, is_queued=True)


def test_answers_of_base_stations_that_do_not_hold_it_say_nothing():
    bench = queued()
    for request in (queue(op_id=-9), revoke(op_id=-9)):
        bench.answer(request, DIEHL)
        bench.refuse(request, Code.EINVAL, DIEHL)
        bench.time_out(request, DIEHL)
        bench.not_sent(request, DIEHL)
    assert bench.news() == []
    assert bench.dispatch.record(1) == record(holder=AVA, is_queued=True)


# --- no answer in time ---------------------------------------------------------------------


def test_without_an_answer_a_base_station_may_hold_it_and_nobody_else_gets_it():
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.route(DIEHL)
    assert bench.news() == []
    assert bench.told() == []
    bench.answer(queue(op_id=-1))
    assert bench.news() == [News(record(holder=AVA, is_queued=True), "at_station")]


def test_what_is_answered_is_not_late():
    bench = queued()
    bench.time_out(queue(op_id=-1))
    bench.time_out(revoke())
    assert bench.news() == []
    assert bench.told() == []


def test_what_was_not_answered_in_time_can_be_taken_back():
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.cancel()
    assert bench.news() == [News(record(holder=AVA, intent="revoke"))]
    assert bench.told() == [Operation(1, revoke())]
    bench.answer(queue(op_id=-1))
    bench.answer(revoke(op_id=-2))
    assert bench.news() == [
        News(record(holder=AVA, intent="revoke", is_queued=True), "at_station"),
        News(record(intent="revoke", ending=ended("revoked", bs_eui=AVA)), "revoked"),
    ]


def test_what_is_on_its_way_is_taken_back_once_it_has_arrived():
    bench = issued()
    bench.cancel()
    assert bench.told() == []
    bench.answer(queue(op_id=-1))
    assert bench.told() == [Operation(1, revoke())]


def test_after_a_revoke_without_an_answer_it_is_not_queued_again():
    """Nobody knows which of both the base station carries out, and when."""
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.move(DIEHL)
    assert bench.told() == [Operation(1, revoke())]
    bench.time_out(revoke(op_id=-2))
    bench.move(AVA)
    bench.later(60.0)
    assert bench.told() == []


def test_after_a_revoke_without_an_answer_it_does_not_go_elsewhere_though_the_holder_is_cut_off():
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.move(DIEHL)
    bench.told()
    bench.time_out(revoke(op_id=-2))
    bench.cut()
    bench.route(DIEHL)
    assert bench.dispatch.record(1) == record(holder=AVA)


def test_an_answer_that_comes_after_it_was_given_up_holds_if_nobody_else_has_it():
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.move(DIEHL)
    bench.told()
    bench.refuse(revoke(op_id=-2), Code.ENOENT)
    bench.later(GRACE)
    bench.news()
    bench.answer(queue(op_id=-1))
    assert bench.news() == [News(record(holder=AVA, is_queued=True), "at_station")]


def test_an_answer_that_comes_after_all_ends_the_wait_for_a_result():
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.move(DIEHL)
    bench.told()
    bench.refuse(revoke(op_id=-2), Code.ENOENT)
    bench.answer(queue(op_id=-1))
    bench.later(GRACE)
    bench.route(DIEHL)
    assert bench.dispatch.record(1) == record(holder=AVA, is_queued=True)


def test_an_answer_that_comes_after_it_was_sent_elsewhere_has_it_dropped():
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.move(DIEHL)
    bench.told()
    bench.refuse(revoke(op_id=-2), Code.ENOENT)
    bench.later(GRACE)
    bench.report("sent", bs_eui=DIEHL)
    bench.news()
    bench.answer(queue(op_id=-1))
    ending = sent(GRACE, DIEHL)
    assert bench.news() == [News(record(holder=AVA, is_queued=True, ending=ending))]
    assert bench.told() == [Operation(1, revoke())]


def test_an_answer_to_a_revoke_from_before_it_was_queued_again_says_nothing():
    bench = queued()
    bench.move(DIEHL)
    bench.told()
    bench.time_out(revoke(op_id=-2))
    bench.later(60.0)
    assert bench.told() == [Operation(1, revoke())]
    bench.answer(revoke(op_id=-2))
    bench.route(AVA)
    assert bench.told() == [Operation(1, queue())]
    bench.refuse(revoke(op_id=-3), Code.EOPNOTSUPP)  # it had dropped it at the first one
    bench.answer(revoke(op_id=-3))
    bench.answer(queue(op_id=-4))
    bench.refuse(revoke(op_id=-3), Code.EOPNOTSUPP)
    bench.answer(revoke(op_id=-3))
    assert bench.dispatch.record(1) == record(holder=AVA, is_queued=True)
    bench.cut()
    bench.connect(is_new=False, unanswered=(revoke(op_id=-3),))
    bench.cancel()
    assert bench.told() == [Operation(1, revoke())]


# --- cancelling ----------------------------------------------------------------------------


def test_what_is_at_no_base_station_is_revoked_at_once():
    bench = Bench()
    bench.add(downlink())
    bench.news()
    assert bench.cancel()
    assert bench.news() == [News(record(intent="revoke", ending=ended("revoked")), "revoked")]
    assert not bench.cancel()


def test_what_is_at_a_base_station_is_revoked_when_it_has_dropped_it():
    bench = queued()
    assert bench.cancel()
    assert bench.cancel()
    at_ava = {"holder": AVA, "is_queued": True, "intent": "revoke"}
    assert bench.news() == [News(record(**at_ava))]
    assert bench.told() == [Operation(1, revoke())]
    bench.answer(revoke(op_id=-2))
    ending = ended("revoked", bs_eui=AVA)
    assert bench.news() == [News(record(intent="revoke", ending=ending), "revoked")]
    assert len(bench.dispatch) == 0


@pytest.mark.parametrize("code", [Code.ENOENT, Code.EOPNOTSUPP])
def test_that_it_is_not_held_any_more_is_as_good_as_dropping_it(code):
    bench = queued()
    bench.cancel()
    bench.told()
    bench.news()
    bench.refuse(revoke(op_id=-2), code)
    ending = ended("revoked", bs_eui=AVA)
    assert bench.news() == [News(record(intent="revoke", ending=ending), "revoked")]


def test_other_refusals_to_drop_it_are_answered_with_another_revoke_a_minute_later():
    bench = queued()
    bench.cancel()
    bench.told()
    bench.news()
    bench.refuse(revoke(op_id=-2), Code.EIO)
    assert bench.news() == []
    assert bench.told() == []
    assert bench.dispatch.next_time() == 60.0
    bench.later(60.0)
    assert bench.told() == [Operation(1, revoke())]


def test_what_is_refused_while_it_is_cancelled_is_revoked_and_not_rejected():
    bench = issued()
    bench.cancel()
    bench.news()
    bench.refuse(queue(op_id=-1), Code.EINVAL)
    ending = ended("revoked", bs_eui=AVA)
    assert bench.news() == [News(record(intent="revoke", ending=ending), "revoked")]


def test_what_is_at_a_base_station_that_is_cut_off_is_dropped_when_it_is_back():
    bench = queued()
    bench.cut()
    bench.cancel()
    bench.news()
    bench.connect(is_new=False)
    assert bench.told() == [Operation(1, revoke())]


def test_what_was_cancelled_at_a_base_station_that_stays_away_is_revoked_when_its_time_is_over():
    bench = queued()
    bench.cut()
    bench.cancel()
    bench.news()
    bench.later(LIFETIME)
    ending = ended("revoked", LIFETIME, AVA)
    held = record(holder=AVA, is_queued=True, intent="revoke", ending=ending)
    assert bench.news() == [News(held, "revoked")]
    assert not bench.cancel()
    bench.connect()
    assert bench.news() == [News(record(intent="revoke", ending=ending))]
    assert len(bench.dispatch) == 0


def test_what_was_cancelled_and_is_never_dropped_is_revoked_when_its_time_is_over():
    bench = queued()
    bench.cancel()
    bench.told()
    bench.news()
    bench.later(LIFETIME)
    ending = ended("revoked", LIFETIME, AVA)
    held = record(holder=AVA, is_queued=True, intent="revoke", ending=ending)
    assert bench.news() == [News(held, "revoked")]


def test_what_is_cancelled_is_to_be_dropped_at_once_though_a_pause_was_made():
    bench = moving()
    bench.refuse(revoke(op_id=-2), Code.EIO)
    bench.cancel()
    assert bench.told() == [Operation(1, revoke())]


def test_what_was_cancelled_may_be_sent_all_the_same():
    bench = queued()
    bench.cancel()
    bench.told()
    bench.news()
    bench.report("sent")
    assert bench.news() == [News(record(intent="revoke", ending=sent()), "sent")]


# --- expiring ------------------------------------------------------------------------------


def test_what_waits_expires():
    bench = connected()
    bench.add(downlink())
    bench.news()
    assert bench.dispatch.next_time() == LIFETIME
    bench.later(LIFETIME - 1)
    assert bench.news() == []
    bench.later(1)
    ending = ended("expired", LIFETIME)
    assert bench.news() == [News(record(intent="expire", ending=ending), "expired")]
    assert bench.dispatch.next_time() is None


def test_what_is_at_a_base_station_expires_when_it_has_dropped_it():
    bench = queued()
    bench.later(LIFETIME)
    assert bench.news() == [News(record(holder=AVA, is_queued=True, intent="expire"))]
    assert bench.told() == [Operation(1, revoke())]
    assert bench.cancel()
    bench.answer(revoke(op_id=-2))
    ending = ended("expired", LIFETIME, AVA)
    assert bench.news() == [News(record(intent="expire", ending=ending), "expired")]


@pytest.mark.parametrize("is_refused", [True, False])
def test_what_is_not_dropped_has_expired_and_is_to_be_dropped_all_the_same(is_refused):
    bench = queued()
    bench.later(LIFETIME)
    bench.told()
    bench.news()
    if is_refused:
        bench.refuse(revoke(op_id=-2), Code.EIO)
    else:
        bench.time_out(revoke(op_id=-2))
    ending = ended("expired", LIFETIME, AVA)
    held = record(holder=AVA, is_queued=True, intent="expire", ending=ending)
    assert bench.news() == [News(held, "expired")]
    bench.later(60.0)
    assert bench.told() == [Operation(1, revoke())]


def test_what_is_at_a_base_station_that_is_cut_off_expires_at_once():
    bench = queued()
    bench.cut()
    bench.later(LIFETIME)
    ending = ended("expired", LIFETIME, AVA)
    assert bench.news() == [News(record(holder=AVA, is_queued=True, ending=ending), "expired")]
    bench.connect(is_new=False)
    assert bench.told() == [Operation(1, revoke())]
    bench.answer(revoke(op_id=-2))
    assert bench.news() == [News(record(ending=ending))]
    assert len(bench.dispatch) == 0


def test_who_is_cut_off_while_it_is_to_drop_what_is_too_late_is_not_waited_for():
    bench = queued()
    bench.later(LIFETIME)
    bench.told()
    bench.news()
    bench.cut()
    ending = ended("expired", LIFETIME, AVA)
    held = record(holder=AVA, is_queued=True, intent="expire", ending=ending)
    assert bench.news() == [News(held, "expired")]


def test_what_is_on_its_way_when_it_is_too_late_is_dropped_once_it_has_arrived():
    bench = issued()
    bench.later(LIFETIME)
    bench.later(1.0)
    assert bench.told() == []
    bench.answer(queue(op_id=-1))
    assert bench.told() == [Operation(1, revoke())]


def test_who_does_not_drop_what_has_ended_is_asked_five_times():
    bench = queued()
    bench.later(LIFETIME)
    asked = 0
    while bench.told():
        asked += 1
        bench.refuse(revoke(op_id=-1 - asked), Code.EIO)
        bench.later(3600.0)
    assert asked == 5
    ending = ended("expired", LIFETIME, AVA)
    assert bench.news()[1:] == [
        News(record(holder=AVA, is_queued=True, intent="expire", ending=ending), "expired"),
        News(record(intent="expire", ending=ending)),
    ]
    assert len(bench.dispatch) == 0


def test_refusals_of_another_base_station_to_drop_it_are_not_counted(monkeypatch):
    monkeypatch.setattr(module, "MAX_REVOKES", 2)
    bench = moving()
    bench.refuse(revoke(op_id=-2), Code.EIO)
    bench.later(60.0)
    bench.told()
    bench.answer(revoke(op_id=-3))
    bench.route(DIEHL)
    bench.told(DIEHL)
    bench.answer(queue(op_id=-1), DIEHL)
    bench.later(LIFETIME)
    bench.told(DIEHL)
    bench.refuse(revoke(op_id=-2), Code.EIO, DIEHL)
    bench.later(60.0)
    assert bench.told(DIEHL) == [Operation(1, revoke())]


def test_refusals_to_queue_it_are_not_counted_as_refusals_to_drop_it():
    bench = connected(AVA)
    bench.dispatch.add(downlink(), deadline=1e6)
    for _ in range(5):
        bench.route(AVA)
        bench.told()
        bench.refuse(queue(op_id=-1), Code.ENOSPC)
        bench.later(3600.0)
    bench.route(AVA)
    bench.told()
    bench.answer(queue(op_id=-9))
    bench.later(1e6)
    bench.told()
    bench.refuse(revoke(op_id=-10), Code.EIO)
    bench.later(60.0)
    assert bench.told() == [Operation(1, revoke())]


# --- what base stations report -------------------------------------------------------------


@pytest.mark.parametrize("result", ["expired", "invalid"])
def test_what_a_base_station_gives_up_has_ended_and_says_nothing_of_a_transmission(result):
    bench = queued()
    assert bench.report(result, tx_time=0, packet_cnt=0)
    assert bench.news() == [News(record(ending=ended(result, bs_eui=AVA)), result)]
    assert len(bench.dispatch) == 0


def test_what_was_sent_is_told_and_remembered():
    bench = queued()
    bench.later(3.0)
    assert bench.report("sent")
    assert bench.news() == [News(record(ending=sent(3.0)), "sent")]
    assert bench.dispatch.record(1) == record(ending=sent(3.0))
    assert bench.told() == []


def test_a_report_that_comes_again_says_nothing():
    bench = queued()
    bench.report("sent")
    bench.news()
    assert bench.report("sent")
    assert bench.report("expired")
    assert bench.news() == []


def test_a_report_may_come_before_the_answer():
    bench = issued()
    bench.report("sent")
    assert bench.news() == [News(record(ending=sent()), "sent")]


def test_reports_of_what_is_not_known_are_not_taken():
    bench = queued()
    assert not bench.report("sent", que_id=2)
    assert not bench.report("sent", ep_eui=OTHER)
    assert bench.news() == []


def test_who_does_not_hold_it_can_only_have_sent_it():
    bench = queued()
    assert bench.report("expired", bs_eui=DIEHL)
    assert bench.news() == []
    assert bench.report("sent", bs_eui=DIEHL)
    ending = sent(bs_eui=DIEHL)
    assert bench.news() == [News(record(holder=AVA, is_queued=True, ending=ending), "sent")]
    assert bench.told() == [Operation(1, revoke())]
    bench.answer(revoke(op_id=-2))
    assert bench.news() == [News(record(ending=ending))]


def test_what_was_sent_after_all_overrules_what_was_told_before():
    bench = queued()
    bench.cut()
    bench.later(LIFETIME)
    bench.connect(is_new=False)
    bench.news()
    bench.report("sent")
    assert bench.news() == [News(record(ending=sent(LIFETIME)), "sent", "expired")]


def test_what_has_ended_and_is_reported_as_given_up_is_held_no_more():
    bench = queued()
    bench.cut()
    bench.later(LIFETIME)
    bench.connect(is_new=False)
    bench.news()
    assert bench.report("expired")
    assert bench.news() == [News(record(ending=ended("expired", LIFETIME, AVA)))]
    assert len(bench.dispatch) == 0
    assert bench.told() == []


@pytest.mark.parametrize("result", ["expired", "invalid", "revoked", "rejected"])
def test_what_is_over_is_overruled_by_a_report_that_it_was_sent(result):
    said = DownlinkDataResult(ep_eui=SENSOR, que_id=1, result="sent", tx_time=77, packet_cnt=5)
    over = record(intent="revoke", ending=ended(result))
    assert overruled(over, DIEHL, said, at_ns=3) == News(
        replace(over, ending=replace(sent(bs_eui=DIEHL), at_ns=3)), "sent", result
    )


@pytest.mark.parametrize(
    ("ending", "ep_eui", "result"),
    [
        (ended("expired"), SENSOR, "expired"),
        (ended("revoked"), SENSOR, "invalid"),
        (sent(), SENSOR, "sent"),
        (ended("expired"), OTHER, "sent"),
        (None, SENSOR, "sent"),
    ],
)
def test_other_reports_of_what_is_over_say_nothing_new(ending, ep_eui, result):
    said = DownlinkDataResult(ep_eui=ep_eui, que_id=1, result=result, tx_time=77, packet_cnt=5)
    assert overruled(record(ending=ending), AVA, said, at_ns=3) is None


# --- acknowledgements ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "uplink"),
    [(5, 6), (ROLLED_OVER - 1, 0), (ROLLED_OVER - 1, ROLLED_OVER), (2**32 - 1, 0)],
)
def test_the_next_uplink_acknowledges(window, uplink):
    bench = queued()
    bench.report("sent", packet_cnt=window)
    bench.news()
    bench.later(9.0)
    bench.hear(uplink, dl_ack=True)
    acknowledged = record(ending=sent(packet_cnt=window), acknowledged_ns=9 * 10**9)
    assert bench.news() == [News(acknowledged, "acknowledged")]
    assert len(bench.dispatch) == 0


@pytest.mark.parametrize(
    ("uplink", "dl_ack"), [(6, False), (7, True), (7, False), (4 + ROLLED_OVER // 2, False)]
)
def test_what_the_next_uplink_does_not_acknowledge_never_will_be(uplink, dl_ack):
    bench = queued()
    bench.report("sent")
    bench.news()
    bench.hear(uplink, dl_ack=dl_ack)
    assert bench.news() == []
    assert len(bench.dispatch) == 0


def test_copies_of_uplinks_that_came_before_say_nothing():
    bench = queued()
    bench.report("sent")
    bench.news()
    bench.hear(5, dl_ack=True)
    bench.hear(4, dl_ack=True)
    bench.hear(5 + ROLLED_OVER // 2, dl_ack=True)
    assert bench.news() == []
    bench.hear(6, dl_ack=True)
    acknowledged = record(ending=sent(), acknowledged_ns=0)
    assert bench.news() == [News(acknowledged, "acknowledged")]


def test_an_acknowledgement_may_come_before_the_result():
    bench = queued()
    bench.hear(6, dl_ack=True)
    bench.hear(7)
    bench.later(1.0)
    bench.report("sent")
    assert bench.news() == [
        News(record(ending=sent(1.0)), "sent"),
        News(record(ending=sent(1.0), acknowledged_ns=10**9), "acknowledged"),
    ]
    assert len(bench.dispatch) == 0


def test_an_acknowledgement_is_not_forgotten_when_another_downlink_ends():
    bench = queued()
    bench.add(downlink(2))
    bench.hear(6, dl_ack=True)
    bench.cancel(2)
    bench.news()
    bench.report("sent")
    assert [news.event for news in bench.news()] == ["sent", "acknowledged"]


def test_an_acknowledgement_of_another_window_does_not_count():
    bench = queued()
    bench.hear(5, dl_ack=True)
    bench.report("sent")
    assert bench.news() == [News(record(ending=sent()), "sent")]


def test_only_what_was_sent_in_that_window_is_acknowledged():
    bench = queued()
    bench.add(downlink(2))
    bench.add(downlink(3, OTHER))
    bench.report("sent")
    bench.news()
    bench.hear(6, dl_ack=True)
    assert bench.news() == [News(record(ending=sent(), acknowledged_ns=0), "acknowledged")]
    assert bench.dispatch.record(2) == record(2)


def test_what_was_sent_elsewhere_is_acknowledged_though_its_holder_has_not_dropped_it():
    bench = queued()
    bench.report("sent", bs_eui=DIEHL)
    bench.news()
    bench.hear(6, dl_ack=True)
    bench.hear(6, dl_ack=True)
    held = record(holder=AVA, is_queued=True, ending=sent(bs_eui=DIEHL), acknowledged_ns=0)
    assert bench.news() == [News(held, "acknowledged")]
    bench.hear(7, dl_ack=True)
    assert bench.dispatch.record(1) == held
    assert bench.told() == [Operation(1, revoke())]
    bench.answer(revoke(op_id=-2))
    assert bench.news() == [News(replace(held, holder=None, is_queued=False))]
    assert len(bench.dispatch) == 0


def test_what_was_sent_elsewhere_and_not_acknowledged_is_remembered_until_it_is_dropped():
    bench = queued()
    bench.report("sent", bs_eui=DIEHL)
    bench.hear(6)
    assert bench.dispatch.record(1) == record(holder=AVA, is_queued=True, ending=sent(bs_eui=DIEHL))


def test_what_has_ended_otherwise_is_not_acknowledged():
    bench = queued()
    bench.cut()
    bench.later(LIFETIME)
    bench.news()
    bench.hear(6, dl_ack=True)
    assert bench.news() == []


def test_after_an_attach_over_the_air_nothing_from_before_is_acknowledged():
    """The packet counters begin anew."""
    bench = queued()
    bench.add(downlink(2))
    bench.hear(9, dl_ack=True)
    bench.report("sent", packet_cnt=5)
    bench.attach(0, DIEHL)
    assert [bench.dispatch.record(1), bench.dispatch.record(2)] == [None, record(2)]
    bench.news()
    bench.report("sent", que_id=2, packet_cnt=8)
    ending = sent(packet_cnt=8)
    assert bench.news() == [News(record(2, ending=ending), "sent")]


def test_of_what_was_sent_a_bounded_number_waits_for_acknowledgements(monkeypatch):
    monkeypatch.setattr(module, "MAX_SENT", 2)
    bench = connected()
    for que_id in (1, 2, 3):
        bench.add(downlink(que_id))
        bench.report("sent", que_id)
    assert [bench.dispatch.record(que_id) for que_id in (1, 2, 3)] == [
        None,
        record(2, ending=sent()),
        record(3, ending=sent()),
    ]


def test_what_was_sent_and_is_held_all_the_same_is_not_counted_there(monkeypatch):
    monkeypatch.setattr(module, "MAX_SENT", 1)
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.move(DIEHL)
    bench.told()
    bench.refuse(revoke(op_id=-2), Code.ENOENT)
    bench.later(GRACE)
    bench.report("sent", bs_eui=DIEHL)
    bench.answer(queue(op_id=-1))
    for que_id in (2, 3):
        bench.add(downlink(que_id))
        bench.report("sent", que_id)
    held = record(holder=AVA, is_queued=True, ending=sent(GRACE, DIEHL))
    assert bench.dispatch.record(1) == held
    assert bench.dispatch.record(2) is None


# --- counters ------------------------------------------------------------------------------


def test_what_was_for_uplinks_that_have_gone_by_expires_if_no_base_station_holds_it():
    each = for_uplinks(5, 6)
    bench = connected()
    bench.add(each)
    bench.news()
    bench.hear(5)
    bench.hear(6)
    assert bench.news() == []
    bench.hear(7)
    ending = ended("expired", message="the uplinks that it was for have gone by")
    assert bench.news() == [News(record(downlink=each, ending=ending), "expired")]
    assert len(bench.dispatch) == 0


def test_what_was_for_uplinks_that_have_gone_by_ends_where_it_is_held():
    bench = queued(for_uplinks(5))
    bench.hear(9)
    assert bench.news() == []


def test_end_points_without_downlinks_are_heard_in_vain():
    bench = connected()
    bench.hear(5, dl_ack=True)
    bench.open_window()
    assert bench.news() == []


# --- end points that are heard elsewhere ---------------------------------------------------


def test_what_is_held_where_the_end_point_is_not_heard_goes_to_who_hears_it():
    bench = queued()
    bench.move(DIEHL)
    assert bench.dispatch.take_due() == {AVA}
    assert bench.told() == [Operation(1, revoke())]
    bench.answer(revoke(op_id=-2))
    assert bench.news() == [News(record())]
    assert bench.dispatch.take_unrouted() == {SENSOR}
    bench.route(DIEHL)
    assert bench.told(DIEHL) == [Operation(1, queue())]


@pytest.mark.parametrize("code", [Code.ENOENT, Code.EOPNOTSUPP])
def test_what_the_holder_does_not_hold_it_may_be_sending_and_goes_elsewhere_only_after_that(code):
    bench = moving()
    bench.refuse(revoke(op_id=-2), code)
    assert bench.news() == [News(record(holder=AVA))]
    assert bench.dispatch.next_time() == GRACE
    bench.later(GRACE - 1)
    assert bench.told() == []
    assert bench.news() == []
    bench.later(1)
    assert bench.news() == [News(record())]
    assert bench.dispatch.take_unrouted() == {SENSOR}


def test_what_was_just_being_sent_does_not_go_elsewhere():
    bench = moving()
    bench.refuse(revoke(op_id=-2), Code.ENOENT)
    bench.news()
    bench.report("sent")
    assert bench.news() == [News(record(ending=sent()), "sent")]
    bench.later(GRACE)
    assert bench.news() == []


def test_who_is_cut_off_reports_what_it_was_sending_when_it_is_back():
    bench = moving()
    bench.refuse(revoke(op_id=-2), Code.ENOENT)
    bench.cut()
    bench.later(2 * GRACE)
    bench.route(DIEHL)
    assert bench.dispatch.record(1) == record(holder=AVA)
    bench.connect(is_new=False)
    bench.later(GRACE - 1)
    assert bench.dispatch.record(1) == record(holder=AVA)
    bench.later(1)
    assert bench.dispatch.record(1) == record()


def test_what_is_cancelled_while_a_result_is_waited_for_is_revoked_at_once():
    bench = moving()
    bench.refuse(revoke(op_id=-2), Code.ENOENT)
    bench.news()
    bench.cancel()
    ending = ended("revoked", bs_eui=AVA)
    assert bench.news() == [News(record(intent="revoke", ending=ending), "revoked")]


def test_other_refusals_to_let_it_go_keep_it_where_it_is():
    bench = moving()
    bench.refuse(revoke(op_id=-2), Code.EIO)
    assert bench.news() == []
    bench.later(60.0)
    assert bench.told() == [Operation(1, revoke())]


def test_it_stays_where_it_is_if_nobody_else_could_take_it():
    bench = queued()
    bench.move(DIEHL, others=())
    assert bench.told() == []


def test_it_stays_where_it_is_if_the_end_point_is_heard_there_again():
    bench = queued()
    bench.move(DIEHL)
    bench.move(DIEHL)
    bench.move(AVA, DIEHL)
    assert bench.told() == []


def test_who_is_cut_off_hears_nobody_and_keeps_what_it_holds():
    bench = queued()
    bench.add(downlink(2))
    bench.cut()
    bench.move(DIEHL)
    bench.connect(is_new=False)
    assert bench.told() == []


# --- sessions ------------------------------------------------------------------------------


def test_in_a_new_session_a_base_station_holds_nothing():
    bench = queued()
    bench.cut()
    assert bench.news() == []
    bench.connect(is_new=True)
    assert bench.news() == [News(record())]
    assert bench.dispatch.take_unrouted() == {SENSOR}
    bench.route(AVA)
    assert bench.told() == [Operation(1, queue())]


def test_a_session_that_is_resumed_goes_on():
    bench = queued()
    bench.cut()
    bench.connect(is_new=False)
    assert bench.news() == []
    assert bench.told() == []


def test_what_a_session_issues_again_is_not_told_as_well():
    bench = issued()
    bench.cut()
    bench.route(DIEHL)
    bench.connect(is_new=False, unanswered=(Status(op_id=-3), queue(op_id=-1)))
    assert bench.told() == []
    bench.answer(queue(op_id=-1))
    assert bench.news() == [News(record(holder=AVA, is_queued=True), "at_station")]


def test_a_revoke_that_a_session_issues_again_is_not_told_as_well():
    bench = queued()
    bench.cancel()
    bench.told()
    bench.cut()
    bench.connect(is_new=False, unanswered=(revoke(op_id=-2),))
    assert bench.told() == []
    bench.answer(revoke(op_id=-2))
    assert bench.dispatch.record(1) is None


def test_of_all_that_a_session_issues_again_the_last_one_counts():
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.cancel()
    bench.told()
    bench.cut()
    bench.connect(is_new=False, unanswered=(queue(op_id=-1), revoke(op_id=-2)))
    bench.answer(queue(op_id=-1))
    assert bench.told() == []
    bench.answer(revoke(op_id=-2))
    assert bench.dispatch.record(1) is None


def test_a_revoke_that_the_session_knows_nothing_of_is_told_again():
    bench = queued()
    bench.cancel()
    bench.told()
    bench.cut()
    bench.connect(is_new=False)
    assert bench.told() == [Operation(1, revoke())]


def test_who_is_back_is_asked_at_once_to_drop_what_it_has_refused_to_drop():
    bench = queued()
    bench.cancel()
    bench.told()
    bench.refuse(revoke(op_id=-2), Code.EIO)
    bench.cut()
    bench.connect(is_new=False)
    assert bench.told() == [Operation(1, revoke())]


def test_what_is_issued_again_has_its_time_again():
    bench = issued()
    bench.time_out(queue(op_id=-1))
    bench.cut()
    bench.connect(is_new=False, unanswered=(queue(op_id=-1),))
    bench.cancel()
    assert bench.told() == []
    bench.time_out(queue(op_id=-1))
    assert bench.told() == [Operation(1, revoke())]


def test_what_is_issued_again_after_a_crash_and_not_answered_is_not_told_twice():
    bench = Bench()
    bench.crash(record(holder=AVA))
    bench.connect(is_new=False, unanswered=(queue(op_id=-1),))
    bench.time_out(queue(op_id=-1))
    assert bench.told() == []
    bench.cut()
    assert bench.dispatch.record(1) == record(holder=AVA)


def test_what_was_not_told_yet_goes_elsewhere_when_the_connection_ends():
    bench = chosen()
    bench.cut()
    assert bench.news() == [News(record())]
    assert bench.dispatch.take_unrouted() == {SENSOR}


def test_what_was_told_stays_when_the_connection_ends():
    bench = issued()
    bench.cut()
    assert bench.news() == []
    assert bench.dispatch.record(1) == record(holder=AVA)


def test_what_was_not_issued_before_a_crash_goes_elsewhere_after_a_while():
    bench = Bench()
    bench.crash(record(holder=AVA))
    bench.later(10.0)
    bench.connect(is_new=False)
    assert bench.news() == [News(record(holder=AVA))]
    assert bench.told() == []
    bench.later(GRACE)
    assert bench.news() == [News(record())]


# --- attaching -----------------------------------------------------------------------------


def test_what_was_queued_before_an_attach_propagate_is_gone():
    bench = queued(op_id=-7)
    bench.attach(-8)
    assert bench.news() == [News(record())]
    assert bench.dispatch.take_unrouted() == {SENSOR}


def test_what_was_queued_after_an_attach_propagate_stays():
    bench = queued(op_id=-7)
    bench.attach(-6)
    assert bench.news() == []


def test_what_is_queued_elsewhere_or_for_others_stays():
    bench = queued(op_id=-7)
    bench.attach(-8, DIEHL)
    bench.attach(-8, ep_eui=OTHER)
    assert bench.news() == []


def test_an_attach_over_the_air_comes_after_everything():
    bench = queued(op_id=-7)
    bench.attach(0)
    assert bench.news() == [News(record())]


@pytest.mark.parametrize("attaches", [(-8,), (0,), (0, -6)])
def test_what_was_on_its_way_when_the_end_point_was_attached_is_gone(attaches):
    bench = issued()
    for op_id in attaches:
        bench.attach(op_id)
    assert bench.news() == []
    bench.answer(queue(op_id=-7))
    assert bench.news() == [News(record())]


def test_what_was_on_its_way_after_the_attach_propagate_stays():
    bench = issued()
    bench.attach(-6)
    bench.answer(queue(op_id=-7))
    assert bench.news() == [News(record(holder=AVA, is_queued=True), "at_station")]


def test_an_attach_at_the_base_station_before_says_nothing_of_this_one():
    bench = issued()
    bench.attach(-9)
    bench.refuse(queue(op_id=-7), Code.ENOSPC)
    bench.route(DIEHL)
    bench.told(DIEHL)
    bench.news()
    bench.answer(queue(op_id=-1), DIEHL)
    assert bench.news() == [News(record(holder=DIEHL, is_queued=True), "at_station")]


def test_what_is_to_be_told_after_the_attach_propagate_is_told():
    bench = chosen()
    bench.attach(-6)
    assert bench.told() == [Operation(1, queue())]


def test_after_an_attach_it_goes_on_only_when_the_last_window_is_over():
    bench = queued()
    bench.later(10.0)
    bench.open_window()
    bench.later(10.0)
    bench.attach(-8)
    assert bench.news() == [News(record(holder=AVA))]
    assert bench.dispatch.next_time() == 10.0 + GRACE
    bench.attach(-9)
    bench.later(20.0)
    assert bench.news() == [News(record())]


def test_after_an_attach_it_goes_on_at_once_if_the_window_was_long_ago_or_elsewhere():
    bench = queued()
    bench.open_window()
    bench.later(GRACE)
    bench.open_window(DIEHL)
    bench.attach(-8)
    assert bench.news() == [News(record())]


def test_after_a_resume_a_base_station_may_have_something_to_report_of_what_is_gone():
    bench = queued()
    bench.cut()
    bench.connect(is_new=False)
    bench.attach(-8)
    assert bench.news() == [News(record(holder=AVA))]
    bench.report("sent")
    assert bench.news() == [News(record(ending=sent()), "sent")]


def test_what_is_too_late_while_a_result_is_waited_for_expires_at_once():
    bench = queued()
    bench.later(LIFETIME - 1)
    bench.open_window()
    bench.attach(-8)
    bench.news()
    bench.later(1)
    ending = ended("expired", LIFETIME, AVA)
    assert bench.news() == [News(record(intent="expire", ending=ending), "expired")]


def test_what_is_to_be_dropped_and_gone_with_an_attach_ends_when_no_result_can_come():
    bench = queued()
    bench.later(LIFETIME)
    bench.open_window()
    bench.attach(-8)
    assert bench.news()[1:] == [News(record(holder=AVA, intent="expire"))]
    bench.later(GRACE)
    ending = ended("expired", LIFETIME + GRACE, AVA)
    assert bench.news() == [News(record(intent="expire", ending=ending), "expired")]


def test_of_an_end_point_that_is_detached_all_downlinks_end():
    bench = queued()
    bench.add(downlink(2))
    bench.add(downlink(3, OTHER))
    bench.news()
    bench.dispatch.abandon(SENSOR, "revoked", "the sensor is detached", at_ns=0)
    ending = ended("revoked", message="the sensor is detached")
    assert bench.news() == [
        News(record(1, ending=replace(ending, bs_eui=AVA)), "revoked"),
        News(record(2, ending=ending), "revoked"),
    ]
    assert len(bench.dispatch) == 1


def test_of_an_end_point_that_is_detached_nothing_is_acknowledged_or_dropped_any_more():
    bench = queued()
    bench.add(downlink(2))
    bench.report("sent", 2)
    bench.cut()
    bench.later(LIFETIME)
    bench.news()
    bench.dispatch.abandon(SENSOR, "revoked", "the sensor is detached", at_ns=0)
    assert bench.news() == [News(record(1, ending=ended("expired", LIFETIME, AVA)))]
    assert len(bench.dispatch) == 0


# --- after a crash -------------------------------------------------------------------------


def test_what_waited_waits_again():
    bench = Bench()
    bench.crash(record())
    bench.connect()
    assert bench.news() == []
    assert bench.dispatch.take_unrouted() == {SENSOR}
    bench.route(AVA)
    assert bench.told() == [Operation(1, queue())]


def test_what_was_at_a_base_station_is_there_when_it_resumes():
    bench = Bench()
    bench.crash(record(holder=AVA, is_queued=True))
    bench.route(DIEHL)
    bench.connect(is_new=False)
    assert bench.news() == []
    assert bench.told() == []
    assert bench.dispatch.record(1) == record(holder=AVA, is_queued=True)


def test_what_was_queued_at_some_time_before_the_crash_is_gone_after_an_attach_propagate():
    bench = Bench()
    bench.crash(record(holder=AVA, is_queued=True))
    bench.connect(is_new=False)
    bench.later(GRACE)
    bench.attach(-8)
    assert bench.news() == [News(record())]


@pytest.mark.parametrize("intent", ["revoke", "expire"])
def test_what_was_to_be_dropped_is_still_to_be_dropped(intent):
    bench = Bench()
    bench.crash(record(holder=AVA, is_queued=True, intent=intent))
    bench.connect(is_new=False)
    assert bench.told() == [Operation(1, revoke())]


@pytest.mark.parametrize(("intent", "result"), [("revoke", "revoked"), ("expire", "expired")])
def test_what_was_to_be_dropped_where_nobody_comes_back_ends_when_its_time_is_over(intent, result):
    bench = Bench()
    bench.crash(record(holder=AVA, is_queued=True, intent=intent))
    bench.later(LIFETIME)
    ending = ended(result, LIFETIME, AVA)
    held = record(holder=AVA, is_queued=True, intent=intent, ending=ending)
    assert bench.news() == [News(held, result)]


def test_what_had_ended_and_may_be_held_is_dropped():
    bench = Bench()
    bench.crash(record(holder=AVA, is_queued=True, ending=ended("expired")))
    bench.connect(is_new=False)
    assert bench.dispatch.waiting(SENSOR) == []
    assert bench.told() == [Operation(1, revoke())]


def test_what_was_sent_may_still_be_acknowledged():
    bench = Bench()
    bench.crash(record(ending=sent()))
    bench.hear(6, dl_ack=True)
    assert bench.news() == [News(record(ending=sent(), acknowledged_ns=0), "acknowledged")]


@pytest.mark.parametrize(
    "over", [record(ending=ended("expired")), record(ending=sent(), acknowledged_ns=1)]
)
def test_what_was_over_is_not_taken_up_again(over):
    bench = Bench()
    bench.crash(over)
    assert bench.dispatch.record(1) is None
    assert bench.dispatch.next_time() is None


# --- memory --------------------------------------------------------------------------------


def left_of(dispatch: Dispatch) -> dict[str, object]:
    """What it remembers, but for who is connected."""
    everything = {name: value for name, value in vars(dispatch).items() if value}
    return {each: everything[each] for each in everything.keys() - {"_connected", "_resumed"}}


def test_once_all_is_over_nothing_is_remembered():
    bench = connected()
    for que_id in range(1, 9):
        bench.add(downlink(que_id, SENSOR if que_id < 5 else OTHER))
    bench.route(AVA, DIEHL)
    bench.route(DIEHL, ep_eui=OTHER)
    for bs_eui in (AVA, DIEHL):
        for operation in bench.told(bs_eui):
            bench.answer(replace(operation.message, op_id=-operation.que_id), bs_eui)
    for ep_eui in (SENSOR, OTHER):
        bench.hear(5, dl_ack=True, ep_eui=ep_eui)
        bench.open_window(ep_eui=ep_eui)
    bench.report("sent")
    bench.report("invalid", 2)
    bench.report("sent", 5, DIEHL, OTHER)
    bench.cancel(3)
    bench.told()
    bench.refuse(revoke(3, op_id=-9), Code.EIO)
    bench.hear(6, dl_ack=True)
    bench.hear(6, ep_eui=OTHER)
    bench.cut(DIEHL)
    bench.cancel(6)
    bench.later(LIFETIME)
    for ep_eui in (SENSOR, OTHER):
        bench.hear(7, dl_ack=True, ep_eui=ep_eui)
        bench.open_window(ep_eui=ep_eui)
    for operation in bench.told():
        bench.answer(replace(operation.message, op_id=-10))
    bench.connect(DIEHL)
    bench.told(DIEHL)
    bench.news()
    bench.dispatch.take_due()
    bench.dispatch.take_unrouted()
    assert left_of(bench.dispatch) == {}
    bench.cut(AVA)
    bench.cut(DIEHL)
    assert [name for name, value in vars(bench.dispatch).items() if value] == []


def test_deadlines_of_what_is_over_are_not_kept():
    bench = connected()
    bench.add(downlink(1))
    for que_id in range(2, 1002):
        bench.add(downlink(que_id))
        bench.cancel(que_id)
    assert len(bench.dispatch._times) < 5
    assert bench.dispatch.next_time() == LIFETIME


def test_deadlines_of_what_is_not_over_keep_their_order():
    bench = connected()
    deadlines = [float(each * 7 % 100 + 1) for each in range(100)]
    for que_id, deadline in enumerate(deadlines):
        bench.dispatch.add(downlink(que_id), deadline=deadline)
    for que_id in range(80):
        bench.cancel(que_id)
    bench.news()
    found = []
    while (at := bench.dispatch.next_time()) is not None:
        bench.later(at - bench.now)
        found += [at for _ in bench.news()]
    assert found == sorted(deadlines[80:])


def test_what_base_stations_that_are_away_would_be_told_is_not_kept():
    bench = queued()
    bench.cut()
    bench.cancel()
    bench.dispatch.abandon(SENSOR, "expired", "gone", at_ns=0)
    bench.news()
    assert left_of(bench.dispatch) == {}


def test_what_base_stations_were_to_be_told_is_not_kept_when_they_are_cut_off():
    bench = chosen()
    bench.cut()
    bench.cancel()
    bench.news()
    bench.dispatch.take_unrouted()
    assert left_of(bench.dispatch) == {}


def test_a_great_many_downlinks_are_told_without_looking_at_all_of_them_each_time(monkeypatch):
    looks = 0
    due = Placement.due

    def counted(self, now):
        nonlocal looks
        looks += 1
        return due(self, now)

    monkeypatch.setattr(Placement, "due", counted)
    bench = connected()
    for que_id in range(1, 1001):
        bench.add(downlink(que_id, ep_eui=que_id))
        bench.route(AVA, ep_eui=que_id)
    assert [each.que_id for each in bench.told()] == list(range(1, 1001))
    assert looks == 2000
