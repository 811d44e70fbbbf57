from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bssci.core.center import ledger
from bssci.core.center.end_points import EndPoint, attach_propagate, mark_of
from bssci.core.center.ledger import TAKEN_FOR
from bssci.core.center.lifecycle import UNKNOWN, Due, Lifecycle, Order, due
from bssci.core.center.records import Refused, Registration
from bssci.core.protocol.errors import Code
from bssci.core.protocol.messages import AttachPropagate, DetachPropagate, Status

AVA, DIEHL, MIROMICO = 0x70B3D59CD0000951, 0x000732000077E21D, 0x9C65F9FFFE0000C1
SENSOR, OTHER, THIRD = 0xFCA84A030000127C, 0xFCA84A0300001276, 0x74731D0000000016
SESSION = b"session"


def end_point(eui=SENSOR, key=1) -> EndPoint:
    return EndPoint(eui=eui, nwk_key=bytes([key]) * 16, short_addr=eui & 0xFFFF)


def mark(eui=SENSOR, key=1) -> int:
    return mark_of(end_point(eui, key))


def attach(op_id=0, eui=SENSOR, key=1) -> AttachPropagate:
    return replace(attach_propagate(end_point(eui, key)), op_id=op_id)


def detach(op_id=0, eui=SENSOR) -> DetachPropagate:
    return DetachPropagate(op_id=op_id, ep_eui=eui)


def refusal(code=Code.ENOSPC, message="no room") -> Refused:
    return Refused(int(code), message, 7)


TIMED_OUT = refusal(Code.ETIMEDOUT, "no answer in time")


def lifecycle_with(*end_points: int, stations=(AVA,)) -> Lifecycle:
    lifecycle = Lifecycle()
    for eui in end_points:
        lifecycle.want(eui, mark(eui))
    for bs_eui in stations:
        lifecycle.station_connected(bs_eui, SESSION)
    return lifecycle


def tell(lifecycle: Lifecycle, bs_eui=AVA, now=0.0) -> list[Order]:
    """Everything that is due now, on its way."""
    orders = []
    while order := lifecycle.next_order(bs_eui, now=now):
        lifecycle.sent(bs_eui, order)
        orders.append(order)
    return orders


def attached(*end_points: int, stations=(AVA,)) -> Lifecycle:
    lifecycle = lifecycle_with(*end_points, stations=stations)
    for bs_eui in stations:
        for number, order in enumerate(tell(lifecycle, bs_eui), start=1):
            lifecycle.answered(bs_eui, attach(-number, order.ep_eui))
    return lifecycle


# --- what is due ---------------------------------------------------------------------------

A, B = 1, 2


@pytest.mark.parametrize(
    ("wanted", "confirmed", "may_hold", "expected"),
    [
        (None, None, False, None),
        (None, None, True, Due.DETACH),
        (None, A, False, Due.DETACH),
        (None, A, True, Due.DETACH),
        (None, UNKNOWN, False, Due.DETACH),
        (None, UNKNOWN, True, Due.DETACH),
        (A, None, False, Due.ATTACH),
        (A, None, True, Due.ATTACH),
        (A, A, False, None),
        (A, A, True, Due.ATTACH),
        (A, B, False, Due.ATTACH),
        (A, B, True, Due.ATTACH),
        (A, UNKNOWN, False, Due.ATTACH),
        (A, UNKNOWN, True, Due.ATTACH),
    ],
)
def test_what_is_due_follows_from_what_is_wanted_and_what_is_confirmed(
    wanted, confirmed, may_hold, expected
):
    assert due(wanted, confirmed, may_hold=may_hold) is expected


# --- what a base station is told -----------------------------------------------------------


def test_a_new_base_station_is_told_everything_that_is_wanted_and_nothing_else():
    lifecycle = lifecycle_with(SENSOR, OTHER, stations=())
    lifecycle.want(THIRD, mark(THIRD))
    lifecycle.want(THIRD, None)
    assert lifecycle.station_connected(AVA, SESSION)
    assert tell(lifecycle) == [Order(SENSOR, Due.ATTACH), Order(OTHER, Due.ATTACH)]
    assert tell(lifecycle) == []


def test_a_resumed_session_is_told_only_what_has_changed():
    lifecycle = attached(SENSOR, OTHER)
    lifecycle.station_disconnected(AVA)
    lifecycle.want(THIRD, mark(THIRD))
    lifecycle.want(OTHER, None)
    assert not lifecycle.station_connected(AVA, SESSION)
    assert tell(lifecycle) == [Order(THIRD, Due.ATTACH), Order(OTHER, Due.DETACH)]


def test_a_resumed_session_in_which_nothing_has_changed_is_told_nothing():
    lifecycle = attached(SENSOR, OTHER)
    lifecycle.station_disconnected(AVA)
    lifecycle.station_connected(AVA, SESSION)
    lifecycle.want(SENSOR, mark(SENSOR))
    assert tell(lifecycle) == []


def test_in_a_new_session_a_base_station_knows_nothing():
    lifecycle = attached(SENSOR, OTHER)
    lifecycle.station_disconnected(AVA)
    lifecycle.want(OTHER, None)
    assert lifecycle.station_connected(AVA, b"another")
    assert tell(lifecycle) == [Order(SENSOR, Due.ATTACH)]


def test_every_base_station_that_is_connected_is_told_a_change():
    lifecycle = attached(SENSOR, stations=(AVA, DIEHL))
    lifecycle.station_disconnected(DIEHL)
    lifecycle.want(SENSOR, mark(key=2))
    assert tell(lifecycle, AVA) == [Order(SENSOR, Due.ATTACH)]
    assert tell(lifecycle, DIEHL) == []
    lifecycle.station_connected(DIEHL, SESSION)
    assert tell(lifecycle, DIEHL) == [Order(SENSOR, Due.ATTACH)]


def test_what_has_changed_is_told_before_what_was_refused_and_that_before_the_rest():
    lifecycle = lifecycle_with(SENSOR, OTHER, THIRD)
    order = lifecycle.next_order(AVA, now=0.0)
    assert order == Order(SENSOR, Due.ATTACH)
    lifecycle.sent(AVA, order)
    lifecycle.refused(AVA, attach(-1), refusal(), now=0.0)
    lifecycle.want(THIRD, mark(THIRD, 2))
    assert tell(lifecycle, now=60.0) == [
        Order(THIRD, Due.ATTACH),
        Order(SENSOR, Due.ATTACH),
        Order(OTHER, Due.ATTACH),
    ]


def test_an_order_that_was_not_sent_is_given_again():
    lifecycle = lifecycle_with(SENSOR)
    order = lifecycle.next_order(AVA, now=0.0)
    assert order is not None
    lifecycle.not_sent(AVA, order)
    assert tell(lifecycle) == [order]


def test_what_a_session_issues_again_is_not_told_as_well():
    lifecycle = lifecycle_with(SENSOR, OTHER, stations=())
    unanswered = [attach(-3), Status(op_id=-4), detach(-5, THIRD)]
    lifecycle.station_connected(AVA, SESSION, unanswered=unanswered)
    assert lifecycle.standing(THIRD) == [(AVA, "pending", None)]
    assert tell(lifecycle) == [Order(OTHER, Due.ATTACH)]
    lifecycle.answered(AVA, attach(-3))
    lifecycle.answered(AVA, detach(-5, THIRD))
    assert lifecycle.standing(SENSOR) == [(AVA, "confirmed", None)]
    assert lifecycle.standing(THIRD) == []


def test_what_a_session_issues_again_for_nothing_is_told_otherwise_when_it_is_answered():
    lifecycle = lifecycle_with(stations=())
    lifecycle.station_connected(AVA, SESSION, unanswered=[attach(-3)])
    assert tell(lifecycle) == []
    lifecycle.answered(AVA, attach(-3))
    assert tell(lifecycle) == [Order(SENSOR, Due.DETACH)]


# --- answers -------------------------------------------------------------------------------


def test_an_answer_is_to_be_stored():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    assert lifecycle.answered(AVA, attach(-1)) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=mark()
    )
    lifecycle.want(SENSOR, None)
    assert tell(lifecycle) == [Order(SENSOR, Due.DETACH)]
    assert lifecycle.answered(AVA, detach(-2)) == Registration(bs_eui=AVA, ep_eui=SENSOR, mark=None)
    assert lifecycle.standing(SENSOR) == []


def test_what_has_changed_on_the_way_is_told_as_soon_as_there_is_an_answer():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.want(SENSOR, None)
    assert tell(lifecycle) == []
    lifecycle.answered(AVA, attach(-1))
    assert tell(lifecycle) == [Order(SENSOR, Due.DETACH)]


def test_an_answer_that_comes_after_the_connection_has_ended_is_believed():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.station_disconnected(AVA)
    lifecycle.want(SENSOR, mark(key=2))
    lifecycle.answered(AVA, attach(-1))
    assert lifecycle.standing(SENSOR) == [(AVA, "pending", None)]
    lifecycle.want(SENSOR, mark())
    assert lifecycle.standing(SENSOR) == [(AVA, "confirmed", None)]


@pytest.mark.parametrize(
    ("bs_eui", "request_"), [(AVA, Status(op_id=-1)), (DIEHL, attach(-1)), (DIEHL, detach(-1))]
)
def test_outcomes_that_are_none_of_ours_are_let_by(bs_eui, request_):
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    assert lifecycle.answered(bs_eui, request_) is None
    assert lifecycle.refused(bs_eui, request_, refusal(), now=0.0) is None
    assert lifecycle.standing(SENSOR) == [(AVA, "pending", None)]


# --- refusals ------------------------------------------------------------------------------


def test_a_refusal_is_to_be_stored_and_tried_again_later():
    lifecycle = lifecycle_with(SENSOR, OTHER)
    tell(lifecycle)
    why = refusal(message="x" * 300)
    kept = refusal(message="x" * 200)
    assert lifecycle.refused(AVA, attach(-1), why, now=5.0) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=None, refused=kept
    )
    assert lifecycle.standing(SENSOR) == [(AVA, "refused", kept)]
    assert (tell(lifecycle, now=64.9), lifecycle.next_retry(AVA)) == ([], 65.0)
    assert tell(lifecycle, now=65.0) == [Order(SENSOR, Due.ATTACH)]
    assert lifecycle.standing(SENSOR) == [(AVA, "refused", kept)]
    assert lifecycle.answered(AVA, attach(-3)) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=mark()
    )
    assert lifecycle.standing(SENSOR) == [(AVA, "confirmed", None)]


def test_a_base_station_that_does_not_know_what_it_is_to_forget_has_forgotten_it():
    lifecycle = attached(SENSOR)
    lifecycle.want(SENSOR, None)
    tell(lifecycle)
    assert lifecycle.refused(AVA, detach(-2), refusal(Code.ENOENT), now=0.0) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=None
    )
    assert (lifecycle.standing(SENSOR), lifecycle.is_held(SENSOR)) == ([], False)


def test_a_detach_that_is_refused_is_tried_again_later():
    lifecycle = attached(SENSOR)
    lifecycle.want(SENSOR, None)
    tell(lifecycle)
    lifecycle.refused(AVA, detach(-2), refusal(), now=0.0)
    assert lifecycle.standing(SENSOR) == [(AVA, "refused", refusal())]
    assert tell(lifecycle, now=60.0) == [Order(SENSOR, Due.DETACH)]


def test_what_has_changed_on_the_way_is_told_at_once_though_the_old_was_refused():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.want(SENSOR, mark(key=2))
    assert tell(lifecycle) == []
    lifecycle.refused(AVA, attach(-1), refusal(), now=0.0)
    assert lifecycle.standing(SENSOR) == [(AVA, "pending", None)]
    assert tell(lifecycle) == [Order(SENSOR, Due.ATTACH)]


def test_what_was_refused_and_is_wanted_no_more_is_settled():
    lifecycle = attached(SENSOR)
    lifecycle.want(SENSOR, None)
    tell(lifecycle)
    lifecycle.want(SENSOR, mark())
    assert lifecycle.refused(AVA, detach(-2), refusal(), now=0.0) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=mark()
    )
    assert lifecycle.standing(SENSOR) == [(AVA, "confirmed", None)]
    assert (tell(lifecycle), lifecycle.next_retry(AVA)) == ([], None)


def test_another_wish_does_not_wait_for_the_time_of_a_refusal():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.refused(AVA, attach(-1), refusal(), now=0.0)
    lifecycle.want(SENSOR, mark(key=2))
    assert lifecycle.next_retry(AVA) is None
    assert tell(lifecycle) == [Order(SENSOR, Due.ATTACH)]


def test_a_refusal_holds_over_a_resume_and_not_in_a_new_session():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.refused(AVA, attach(-1), refusal(), now=0.0)
    lifecycle.station_disconnected(AVA)
    assert lifecycle.next_retry(AVA) is None
    lifecycle.station_connected(AVA, SESSION)
    assert (tell(lifecycle), lifecycle.next_retry(AVA)) == ([], 60.0)
    lifecycle.station_disconnected(AVA)
    lifecycle.station_connected(AVA, b"another")
    assert tell(lifecycle) == [Order(SENSOR, Due.ATTACH)]


# --- no answer -----------------------------------------------------------------------------


def test_what_was_not_answered_is_told_again_as_nobody_knows_what_came_of_it():
    lifecycle = attached(SENSOR)
    lifecycle.want(SENSOR, None)
    tell(lifecycle)
    assert lifecycle.refused(AVA, detach(-2), TIMED_OUT, now=0.0) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=UNKNOWN, refused=TIMED_OUT
    )
    lifecycle.want(SENSOR, mark())
    assert tell(lifecycle) == [Order(SENSOR, Due.ATTACH)]


def test_an_attach_that_was_not_answered_is_taken_back():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.refused(AVA, attach(-1), TIMED_OUT, now=0.0)
    lifecycle.want(SENSOR, None)
    assert lifecycle.is_held(SENSOR)
    assert tell(lifecycle) == [Order(SENSOR, Due.DETACH)]


def test_a_late_answer_is_as_good_as_any():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.refused(AVA, attach(-1), TIMED_OUT, now=0.0)
    assert lifecycle.answered(AVA, attach(-1)) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=mark()
    )
    assert (tell(lifecycle, now=60.0), lifecycle.next_retry(AVA)) == ([], None)


def test_a_late_answer_to_an_older_operation_changes_nothing_about_when_it_is_tried_again():
    lifecycle = lifecycle_with(SENSOR)
    for op_id, now in ((-1, 0.0), (-2, 60.0)):
        assert tell(lifecycle, now=now) == [Order(SENSOR, Due.ATTACH)]
        lifecycle.refused(AVA, attach(op_id), TIMED_OUT, now=now)
    lifecycle.answered(AVA, attach(-1))
    assert lifecycle.standing(SENSOR) == [(AVA, "refused", TIMED_OUT)]
    assert (tell(lifecycle, now=179.0), lifecycle.next_retry(AVA)) == ([], 180.0)
    lifecycle.answered(AVA, attach(-2))
    assert (lifecycle.standing(SENSOR), lifecycle.next_retry(AVA)) == (
        [(AVA, "confirmed", None)],
        None,
    )


def test_a_refusal_of_the_second_try_does_not_undo_the_late_answer_to_the_first():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.refused(AVA, attach(-1), TIMED_OUT, now=0.0)
    tell(lifecycle, now=60.0)
    lifecycle.answered(AVA, attach(-1))
    assert lifecycle.standing(SENSOR) == [(AVA, "refused", TIMED_OUT)]
    lifecycle.refused(AVA, attach(-2), refusal(), now=61.0)
    assert lifecycle.standing(SENSOR) == [(AVA, "confirmed", None)]
    assert lifecycle.next_retry(AVA) is None


def test_what_comes_too_late_to_be_of_interest_is_let_by():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.answered(AVA, attach(-1))
    assert lifecycle.refused(AVA, attach(-1), TIMED_OUT, now=0.0) is None
    assert lifecycle.standing(SENSOR) == [(AVA, "confirmed", None)]


# --- over the air --------------------------------------------------------------------------


def attached_over_the_air(lifecycle: Lifecycle, bs_eui=AVA, key=2, op_id=7) -> None:
    lifecycle.want(SENSOR, mark(key=key))
    lifecycle.took(bs_eui, SENSOR, op_id, mark(key=key), now=0.0)


def test_the_base_station_that_reports_an_attach_is_not_told_and_all_others_are():
    lifecycle = attached(SENSOR, stations=(AVA, DIEHL))
    attached_over_the_air(lifecycle)
    assert (tell(lifecycle, AVA), tell(lifecycle, DIEHL)) == ([], [Order(SENSOR, Due.ATTACH)])
    assert lifecycle.completed(AVA, SENSOR, 7) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=mark(key=2)
    )
    assert lifecycle.standing(SENSOR) == [(DIEHL, "pending", None), (AVA, "confirmed", None)]
    assert (tell(lifecycle, AVA), lifecycle.next_retry(AVA)) == ([], None)


def test_until_an_attach_is_completed_it_is_stored_that_nobody_knows():
    lifecycle = lifecycle_with()
    lifecycle.want(SENSOR, mark())
    assert lifecycle.took(AVA, SENSOR, 7, mark(), now=0.0) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=UNKNOWN
    )
    assert lifecycle.standing(SENSOR) == [(AVA, "pending", None)]


def test_a_base_station_that_goes_before_it_completes_an_attach_is_told_when_it_is_back():
    lifecycle = lifecycle_with()
    attached_over_the_air(lifecycle)
    lifecycle.station_disconnected(AVA)
    assert lifecycle.completed(AVA, SENSOR, 7) is None
    lifecycle.station_connected(AVA, SESSION)
    assert tell(lifecycle) == [Order(SENSOR, Due.ATTACH)]


def test_an_attach_that_is_not_completed_is_told_after_a_while():
    lifecycle = lifecycle_with()
    attached_over_the_air(lifecycle)
    assert (tell(lifecycle, now=59.9), lifecycle.next_retry(AVA)) == ([], 60.0)
    assert tell(lifecycle, now=60.0) == [Order(SENSOR, Due.ATTACH)]
    assert lifecycle.completed(AVA, SENSOR, 7) is None


def test_what_is_wanted_otherwise_meanwhile_is_told_once_it_is_completed():
    lifecycle = lifecycle_with()
    attached_over_the_air(lifecycle)
    lifecycle.want(SENSOR, None)
    assert tell(lifecycle) == []
    assert lifecycle.is_held(SENSOR)
    lifecycle.completed(AVA, SENSOR, 7)
    assert tell(lifecycle) == [Order(SENSOR, Due.DETACH)]


def test_the_base_station_that_reports_a_detach_is_not_told_and_all_others_are():
    lifecycle = attached(SENSOR, stations=(AVA, DIEHL))
    lifecycle.want(SENSOR, None)
    assert lifecycle.took(AVA, SENSOR, 8, None, now=0.0) == Registration(
        bs_eui=AVA, ep_eui=SENSOR, mark=UNKNOWN
    )
    assert (tell(lifecycle, AVA), tell(lifecycle, DIEHL)) == ([], [Order(SENSOR, Due.DETACH)])
    assert lifecycle.completed(AVA, SENSOR, 8) == Registration(bs_eui=AVA, ep_eui=SENSOR, mark=None)
    assert lifecycle.standing(SENSOR) == [(DIEHL, "pending", None)]


def test_one_that_goes_before_it_completes_a_detach_is_told_what_is_wanted_then():
    lifecycle = attached(SENSOR)
    lifecycle.want(SENSOR, None)
    lifecycle.took(AVA, SENSOR, 8, None, now=0.0)
    lifecycle.want(SENSOR, mark())
    lifecycle.station_disconnected(AVA)
    lifecycle.station_connected(AVA, SESSION)
    assert tell(lifecycle) == [Order(SENSOR, Due.ATTACH)]


def test_what_a_base_station_reports_that_has_gone_is_not_waited_for():
    lifecycle = lifecycle_with()
    lifecycle.station_disconnected(AVA)
    for bs_eui in (AVA, DIEHL):
        assert lifecycle.took(bs_eui, SENSOR, 7, mark(), now=0.0) is None
        assert lifecycle.completed(bs_eui, SENSOR, 7) is None
    assert lifecycle.standing(SENSOR) == []


# --- across a restart ----------------------------------------------------------------------


def restarted(*registrations: Registration, wanted=(SENSOR,)) -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.recall_station(AVA, SESSION)
    for eui in wanted:
        lifecycle.want(eui, mark(eui))
    for registration in registrations:
        lifecycle.recall(registration)
    lifecycle.recalled()
    return lifecycle


HELD = Registration(bs_eui=AVA, ep_eui=SENSOR, mark=mark())
REFUSED = Registration(bs_eui=AVA, ep_eui=OTHER, mark=None, refused=refusal())


def test_what_an_earlier_process_was_told_is_known_again():
    lifecycle = restarted(HELD, REFUSED, wanted=(SENSOR, OTHER, THIRD))
    assert lifecycle.counts(AVA) == {"confirmed": 1, "pending": 1, "refused": 1}
    assert lifecycle.standing(SENSOR) == [(AVA, "confirmed", None)]
    assert not lifecycle.station_connected(AVA, SESSION)
    assert tell(lifecycle) == [Order(OTHER, Due.ATTACH), Order(THIRD, Due.ATTACH)]


def test_what_is_wanted_no_more_since_is_told_when_the_session_is_resumed():
    lifecycle = restarted(HELD, wanted=())
    assert lifecycle.counts(AVA) == {"confirmed": 0, "pending": 1, "refused": 0}
    lifecycle.station_connected(AVA, SESSION)
    assert tell(lifecycle) == [Order(SENSOR, Due.DETACH)]


def test_what_was_unknown_before_a_restart_is_so_after_it():
    lifecycle = restarted(replace(HELD, mark=UNKNOWN, refused=TIMED_OUT), wanted=())
    lifecycle.station_connected(AVA, SESSION)
    assert tell(lifecycle) == [Order(SENSOR, Due.DETACH)]


def test_a_refusal_of_what_is_wanted_no_more_is_not_recalled():
    lifecycle = restarted(replace(HELD, refused=refusal()), REFUSED)
    assert lifecycle.counts(AVA) == {"confirmed": 1, "pending": 0, "refused": 0}
    assert lifecycle.standing(SENSOR) == [(AVA, "confirmed", None)]


def test_registrations_of_a_base_station_that_is_not_known_are_let_by():
    assert restarted(replace(HELD, bs_eui=DIEHL)).standing(SENSOR) == []


# --- showing -------------------------------------------------------------------------------


def test_how_an_end_point_stands_is_told_by_base_station():
    lifecycle = attached(SENSOR, stations=(MIROMICO, AVA))
    lifecycle.station_connected(DIEHL, SESSION)
    assert lifecycle.standing(SENSOR) == [
        (DIEHL, "pending", None),
        (AVA, "confirmed", None),
        (MIROMICO, "confirmed", None),
    ]
    lifecycle.station_disconnected(DIEHL)
    lifecycle.station_disconnected(AVA)
    assert lifecycle.standing(SENSOR) == [
        (AVA, "confirmed", None),
        (MIROMICO, "confirmed", None),
    ]
    assert [lifecycle.state(each, SENSOR) for each in (DIEHL, AVA, 0)] == [
        "pending",
        "confirmed",
        None,
    ]


def test_what_was_on_its_way_when_a_connection_ended_is_pending_there():
    lifecycle = lifecycle_with(SENSOR)
    tell(lifecycle)
    lifecycle.station_disconnected(AVA)
    assert lifecycle.standing(SENSOR) == [(AVA, "pending", None)]
    assert lifecycle.is_held(SENSOR)


def test_who_is_connected_is_known():
    lifecycle = lifecycle_with(stations=(AVA, DIEHL))
    lifecycle.station_disconnected(AVA)
    assert [lifecycle.is_connected(each) for each in (AVA, DIEHL, MIROMICO)] == [False, True, False]
    assert lifecycle.connected() == [DIEHL]


def test_a_base_station_is_settled_when_it_has_said_something_to_everything():
    lifecycle = lifecycle_with(SENSOR, OTHER)
    tell(lifecycle)
    lifecycle.answered(AVA, attach(-1))
    assert not lifecycle.is_settled(AVA)
    lifecycle.refused(AVA, attach(-2, OTHER), refusal(), now=0.0)
    assert lifecycle.is_settled(AVA)
    assert lifecycle.counts(AVA) == {"confirmed": 1, "pending": 0, "refused": 1}


def test_a_base_station_that_was_forgotten_knows_nothing():
    lifecycle = attached(SENSOR)
    lifecycle.station_disconnected(AVA)
    lifecycle.forget_station(AVA)
    lifecycle.forget_station(DIEHL)
    assert lifecycle.counts(AVA) == {"confirmed": 0, "pending": 0, "refused": 0}
    assert (lifecycle.is_held(SENSOR), lifecycle.is_connected(AVA)) == (False, False)
    assert lifecycle.station_connected(AVA, SESSION)


# --- ten thousand end points ---------------------------------------------------------------

MANY = range(1, 10_001)


def test_base_stations_share_the_list_of_end_points_that_they_are_to_be_told():
    lifecycle = Lifecycle()
    for ep_eui in MANY:
        lifecycle.want(ep_eui, ep_eui)
    lifecycle.station_connected(0, SESSION)
    tracemalloc.start()
    try:
        for bs_eui in range(1, 101):
            lifecycle.station_connected(bs_eui, SESSION)
            lifecycle.next_order(bs_eui, now=0.0)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / 100 < 8_000, "bytes a base station; a list of its own would take 80,000"


def test_to_tell_everything_looks_at_every_end_point_once_and_not_again(monkeypatch):
    looks = 0

    def counting_due(*args: int | None, may_hold: bool) -> Due | None:
        nonlocal looks
        looks += 1
        return due(*args, may_hold=may_hold)

    lifecycle = Lifecycle()
    for ep_eui in MANY:
        lifecycle.want(ep_eui, ep_eui)
    lifecycle.station_connected(AVA, SESSION)
    monkeypatch.setattr(ledger, "due", counting_due)
    for ep_eui in MANY:
        assert lifecycle.next_order(AVA, now=0.0) == Order(ep_eui, Due.ATTACH)
    for _ in range(1000):
        assert lifecycle.next_order(AVA, now=0.0) is None
    assert looks == len(MANY)


# --- everything that can happen ------------------------------------------------------------

STATIONS, END_POINTS, KEYS = (1, 2), (11, 12), (1, 2)
REFUSALS = [refusal(Code.ENOENT, "unknown"), refusal(), refusal(Code.EINVAL, "malformed")]

Told = AttachPropagate | DetachPropagate

pick = st.integers(min_value=0, max_value=7)


def often(usual, *others) -> st.SearchStrategy:
    return st.sampled_from([usual, usual, usual, *others])


def left_by(message: Told) -> int | None:
    """The mark that a base station holds which has carried this out."""
    return mark_of(message) if isinstance(message, AttachPropagate) else None


def is_done(message: Told, why: Refused) -> bool:
    """It is to forget an end point that it does not know."""
    return isinstance(message, DetachPropagate) and why.code == Code.ENOENT


@dataclass
class Station:
    """A base station, and the session that the Service Center has with it on disk.

    Attributes:
        held: the mark of each end point that it really serves.
        pending: our operations that it has not answered, by ID.
        own: what its own operations lead to, by ID: end points attach and detach by way of it.
        ranks: operations of both, in the order in which they were sent or answered by us.
        inbox: what has reached it and is not carried out yet.
        outbox: what it has carried out, or refuses with this, and has not answered yet.
        is_orderly: it carries things out as they come, and answers in any order; the others carry
            them out in any order, and answer in that. Who does neither cannot be helped.
        carried_out: the operations of this session that it has carried out, in that order.
        newest: the newest operation about each end point.
        mixed_up: end points about which several things were issued again at once.
        certain: what it holds for certain, as the newest operation was answered last.
        crossed: end points of which its own operations met ours on their way: they may be told
            once more than they had to be.
    """

    is_orderly: bool
    session: bytes = b""
    sessions: int = 0
    is_connected: bool = False
    last_id: int = 0
    held: dict[int, int] = field(default_factory=dict)
    pending: dict[int, Told] = field(default_factory=dict)
    own: dict[int, Told] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    inbox: list[int] = field(default_factory=list)
    outbox: list[tuple[int, Refused | None]] = field(default_factory=list)
    carried_out: dict[int, Told] = field(default_factory=dict)
    newest: dict[int, int] = field(default_factory=dict)
    mixed_up: set[int] = field(default_factory=set)
    certain: dict[int, int | None] = field(default_factory=dict)
    crossed: set[int] = field(default_factory=set)

    def begin_session(self) -> None:
        fresh = Station(self.is_orderly, sessions=self.sessions + 1)
        fresh.session = b"%d" % fresh.sessions
        self.__dict__.update(fresh.__dict__)

    def cut(self) -> None:
        self.is_connected = False
        self.inbox.clear()
        self.outbox.clear()
        self.own.clear()
        for message in self.pending.values():
            if self.certain.get(message.ep_eui) != left_by(message):
                self.certain.pop(message.ep_eui, None)

    def receive(self, message: Told) -> int:
        self.last_id -= 1
        self.pending[self.last_id] = replace(message, op_id=self.last_id)
        self.ranks[self.last_id] = len(self.ranks)
        self.inbox.append(self.last_id)
        self.newest[message.ep_eui] = self.last_id
        self.mixed_up.discard(message.ep_eui)
        return self.last_id

    def ask(self, message: Told) -> int:
        """An end point attaches or detaches by way of it, and it has our response."""
        op_id = len(self.ranks) + 1
        self.own[op_id] = replace(message, op_id=op_id)
        self.ranks[op_id] = len(self.ranks)
        self.inbox.append(op_id)
        self.newest[message.ep_eui] = op_id
        self.certain.pop(message.ep_eui, None)
        return op_id

    def forget_own(self, op_id: int) -> None:
        """The end point does not wait for its answer."""
        self.inbox.remove(op_id)
        del self.own[op_id]

    def forget_all_own(self, ep_eui: int) -> None:
        """So much later it waits for none any more."""
        for op_id in [each for each in self.inbox if each in self.own]:
            if self.own[op_id].ep_eui == ep_eui:
                self.forget_own(op_id)

    def may_carry_out(self, op_id: int) -> bool:
        """What one end point does by way of it comes one after the other."""
        if op_id not in self.own:
            return True
        ep_eui = self.own[op_id].ep_eui
        return op_id == min(
            each for each in self.inbox if each in self.own and self.own[each].ep_eui == ep_eui
        )

    def message(self, op_id: int) -> Told:
        return self.own[op_id] if op_id in self.own else self.pending[op_id]

    def treat(self, op_id: int, how: str, why: Refused) -> tuple[int, Refused | None] | None:
        """Do something about what has come; the answer that waits now, if there is to be one."""
        if op_id in self.own and how in ("refuse", "overlook"):
            self.forget_own(op_id)
            return None
        message = self.message(op_id)
        is_refused = how == "refuse" and not (is_done(message, why) and message.ep_eui in self.held)
        self.inbox.remove(op_id)
        if how == "overlook":
            return None
        if is_refused and is_done(message, why):
            self.carry_out(op_id)
        if not is_refused and (how != "remember" or op_id not in self.carried_out):
            self.carry_out(op_id)
        self.outbox.append((op_id, why if is_refused else None))
        return self.outbox[-1]

    def may_forget(self, outcome: tuple[int, Refused | None]) -> bool:
        """Who carries things out in the wrong order and does not say so cannot be helped."""
        op_id, why = outcome
        return why is not None or self.was_in_order(op_id)

    def carry_out(self, op_id: int) -> None:
        message = self.message(op_id)
        self.carried_out.pop(op_id, None)
        self.carried_out[op_id] = message
        told = left_by(message)
        if told is None:
            self.held.pop(message.ep_eui, None)
        else:
            self.held[message.ep_eui] = told

    def was_in_order(self, op_id: int) -> bool:
        """Nothing newer about the end point was carried out before this."""
        for earlier, message in self.carried_out.items():
            if earlier == op_id:
                return True
            if (
                self.ranks[earlier] > self.ranks[op_id]
                and message.ep_eui == self.carried_out[op_id].ep_eui
            ):
                return False
        return True

    def pending_about(self, ep_eui: int) -> list[Told]:
        return [message for message in self.pending.values() if message.ep_eui == ep_eui]


class LifecycleMachine(RuleBasedStateMachine):
    """Everything that base stations, operators, the disk and the process do to a lifecycle."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.lifecycle = Lifecycle()
        self.wishes: dict[int, EndPoint] = {}
        self.stations = {1: Station(is_orderly=True), 2: Station(is_orderly=False)}
        self.ways: dict[tuple[int, int], set[int]] = {}
        """What is on its way, by base station and end point: IDs, 0 while it is not sent."""
        self.unsent: list[tuple[int, Order, Told]] = []
        self.taken: dict[tuple[int, int], tuple[int, float, bool]] = {}
        """What a base station has not completed that end points do over the air: its ID, until when
        it is waited for, and whether nothing else was on its way."""
        self.stored: dict[tuple[int, int], Registration] = {}
        self.known: dict[int, bytes] = {}

    def way(self, bs_eui: int, ep_eui: int) -> set[int]:
        return self.ways.setdefault((bs_eui, ep_eui), set())

    def waited_for(self) -> list[tuple[int, Told]]:
        return [
            (bs_eui, message)
            for bs_eui, station in self.stations.items()
            for op_id, message in station.pending.items()
            if op_id in self.way(bs_eui, message.ep_eui)
        ]

    def received(self) -> list[tuple[int, int]]:
        """What base stations may carry out next."""
        return [
            (bs_eui, op_id)
            for bs_eui, station in self.stations.items()
            for op_id in station.inbox[: 1 if station.is_orderly else None]
            if station.may_carry_out(op_id)
        ]

    def unanswered(self) -> list[tuple[int, tuple[int, Refused | None]]]:
        """What base stations may answer next."""
        return [
            (bs_eui, each)
            for bs_eui, station in self.stations.items()
            for each in station.outbox[: None if station.is_orderly else 1]
        ]

    # Rules are drawn evenly, and some left out for a whole run. So each is only possible when it
    # leads on, and usually base stations are told at once, as the service does it.

    @initialize(tells=often(True, False))
    def begin(self, tells) -> None:
        self.decide(END_POINTS[0], KEYS[0], tells=False)
        for _ in STATIONS:
            self.connect(0, "begins anew", tells)

    # --- operators ---

    @rule(
        ep_eui=st.sampled_from(END_POINTS),
        key=st.sampled_from([None, *KEYS]),
        tells=often(True, False),
    )
    def decide(self, ep_eui, key, tells) -> None:
        if key is None:
            self.wishes.pop(ep_eui, None)
            self.lifecycle.want(ep_eui, None)
        else:
            self.wishes[ep_eui] = end_point(ep_eui, key)
            self.lifecycle.want(ep_eui, mark(ep_eui, key))
        self.order(tells)

    # --- end points, over the air ---

    @precondition(lambda self: self.lifecycle.connected())
    @rule(
        number=pick,
        ep_eui=st.sampled_from(END_POINTS),
        key=st.sampled_from([None, *KEYS]),
        tells=often(True, False),
    )
    def report(self, number, ep_eui, key, tells) -> None:
        """It attaches, with a new key or, as another has reported it, the same; or it detaches."""
        connected = self.lifecycle.connected()
        bs_eui = connected[number % len(connected)]
        self.decide(ep_eui, key, tells=False)
        message = detach(eui=ep_eui) if key is None else attach(eui=ep_eui, key=key)
        station, told = self.stations[bs_eui], left_by(message)
        unsent = [each for to, _, each in self.unsent if (to, each.ep_eui) == (bs_eui, ep_eui)]
        others = {left_by(each) for each in (*station.pending_about(ep_eui), *unsent)}
        if others:
            station.crossed.add(ep_eui)
        op_id = station.ask(message)
        self.taken[bs_eui, ep_eui] = op_id, self.now + TAKEN_FOR, others <= {told}
        self.store(self.lifecycle.took(bs_eui, ep_eui, op_id, told, now=self.now))
        self.order(tells)

    def complete(self, bs_eui: int, op_id: int) -> None:
        station = self.stations[bs_eui]
        message = station.own.pop(op_id)
        known = self.taken.get((bs_eui, message.ep_eui))
        if known is not None and known[0] == op_id:
            del self.taken[bs_eui, message.ep_eui]
            if known[2]:
                self.note_certain(station, message)
            else:
                station.certain.pop(message.ep_eui, None)
        self.store(self.lifecycle.completed(bs_eui, message.ep_eui, op_id))

    # --- base stations come and go ---

    @precondition(lambda self: len(self.lifecycle.connected()) < len(STATIONS))
    @rule(
        number=pick,
        how=often("resumes", "begins anew", "was forgotten"),
        tells=often(True, False),
    )
    def connect(self, number, how, tells) -> None:
        away = [bs_eui for bs_eui in STATIONS if not self.stations[bs_eui].is_connected]
        bs_eui = away[number % len(away)]
        if how == "was forgotten":
            self.known.pop(bs_eui, None)
            self.forget_registrations(bs_eui)
            self.lifecycle.forget_station(bs_eui)
        if how != "resumes" or not self.stations[bs_eui].session:
            self.stations[bs_eui].begin_session()
        self.let_in(bs_eui)
        self.order(tells)

    def let_in(self, bs_eui: int) -> None:
        station = self.stations[bs_eui]
        station.is_connected = True
        is_known = self.known.get(bs_eui) == station.session
        unanswered = [*station.pending.values(), Status(op_id=-1)]
        is_new = self.lifecycle.station_connected(bs_eui, station.session, unanswered=unanswered)
        assert is_new is not is_known
        if is_new:
            self.forget_registrations(bs_eui)
        self.known[bs_eui] = station.session
        for op_id, message in station.pending.items():
            self.way(bs_eui, message.ep_eui).add(op_id)
            station.inbox.append(op_id)
            if len({left_by(each) for each in station.pending_about(message.ep_eui)}) > 1:
                station.mixed_up.add(message.ep_eui)

    def forget_registrations(self, bs_eui: int) -> None:
        self.stored = {key: each for key, each in self.stored.items() if key[0] != bs_eui}

    @precondition(lambda self: self.waited_for())
    @rule(number=pick)
    def disconnect(self, number) -> None:
        connected = self.lifecycle.connected()
        bs_eui = connected[number % len(connected)]
        self.lifecycle.station_disconnected(bs_eui)
        self.cut(bs_eui)

    def cut(self, bs_eui: int) -> None:
        self.stations[bs_eui].cut()
        self.unsent = [each for each in self.unsent if each[0] != bs_eui]
        self.ways = {key: way for key, way in self.ways.items() if key[0] != bs_eui}
        self.taken = {key: each for key, each in self.taken.items() if key[0] != bs_eui}

    # --- orders ---

    @precondition(lambda self: self.lifecycle.connected())
    @rule(tells=often(True, False))
    def order(self, tells) -> None:
        """Not told is who gets an order that nobody sends now."""
        for bs_eui in self.lifecycle.connected():
            while self.take_order(bs_eui, sends=tells) and tells:
                pass

    def take_order(self, bs_eui: int, *, sends: bool) -> bool:
        order = self.lifecycle.next_order(bs_eui, now=self.now)
        if order is None:
            self.check_that_nothing_is_held_up(bs_eui)
            return False
        self.check_that_it_had_to_be_told(bs_eui, order)
        self.way(bs_eui, order.ep_eui).add(0)
        wish = self.wishes.get(order.ep_eui)
        message = detach(eui=order.ep_eui) if wish is None else attach_propagate(wish)
        self.unsent.append((bs_eui, order, message))
        if sends:
            self.send(len(self.unsent) - 1, "is sent")
        return True

    def check_that_nothing_is_held_up(self, bs_eui: int) -> None:
        retry = self.lifecycle.next_retry(bs_eui)
        assert retry is None or retry > self.now
        for ep_eui in END_POINTS:
            state = self.lifecycle.state(bs_eui, ep_eui)
            is_waited_for = (
                self.way(bs_eui, ep_eui)
                or (state == "refused" and retry is not None)
                or self.is_taken(bs_eui, ep_eui)
            )
            assert state in (None, "confirmed") or is_waited_for

    def is_taken(self, bs_eui: int, ep_eui: int) -> bool:
        known = self.taken.get((bs_eui, ep_eui))
        return known is not None and self.now < known[1]

    def check_that_it_had_to_be_told(self, bs_eui: int, order: Order) -> None:
        station, ep_eui = self.stations[bs_eui], order.ep_eui
        assert not self.way(bs_eui, ep_eui), "two operations for one end point"
        assert not self.is_taken(bs_eui, ep_eui), "the base station asks for it itself"
        if self.taken.pop((bs_eui, ep_eui), (0, 0.0, True))[2] is False:
            station.certain.pop(ep_eui, None)
        wish = self.wishes.get(ep_eui)
        assert order.due is (Due.DETACH if wish is None else Due.ATTACH)
        if wish is not None and not station.pending_about(ep_eui):
            is_certain = station.certain.get(ep_eui) == mark_of(wish)
            assert not is_certain or ep_eui in station.crossed, "it was told that already"
        station.crossed.discard(ep_eui)

    @precondition(lambda self: self.unsent)
    @rule(number=pick, how=often("is sent", "is not sent", "is not sent after all"))
    def send(self, number, how) -> None:
        bs_eui, order, message = self.unsent.pop(number % len(self.unsent))
        if how != "is not sent":
            self.lifecycle.sent(bs_eui, order)
        if how == "is sent":
            self.ways[bs_eui, order.ep_eui] = {self.stations[bs_eui].receive(message)}
        else:
            self.lifecycle.not_sent(bs_eui, order)
            self.way(bs_eui, order.ep_eui).clear()

    # --- what base stations do about it ---

    @precondition(lambda self: self.received())
    @rule(
        number=pick,
        how=often("carry out", "remember", "refuse", "overlook"),
        why=st.sampled_from(REFUSALS),
        answers=often(True, False),
    )
    def treat(self, number, how, why, answers) -> None:
        received = self.received()
        bs_eui, op_id = received[number % len(received)]
        outcome = self.stations[bs_eui].treat(op_id, how, why)
        if answers and outcome is not None and (bs_eui, outcome) in self.unanswered():
            self.give_answer(bs_eui, outcome)

    @precondition(lambda self: self.unanswered())
    @rule(number=pick, forgets=often(False, True))
    def answer(self, number, forgets) -> None:
        unanswered = self.unanswered()
        bs_eui, outcome = unanswered[number % len(unanswered)]
        if not forgets:
            self.give_answer(bs_eui, outcome)
        elif self.stations[bs_eui].may_forget(outcome):
            self.stations[bs_eui].outbox.remove(outcome)

    def give_answer(self, bs_eui: int, outcome: tuple[int, Refused | None]) -> None:
        station, (op_id, why) = self.stations[bs_eui], outcome
        station.outbox.remove(outcome)
        if op_id in station.own:
            self.complete(bs_eui, op_id)
            return
        message = station.pending.pop(op_id)
        self.way(bs_eui, message.ep_eui).discard(op_id)
        if why is None or is_done(message, why):
            self.note_certain(station, message)
        if why is None:
            registration = self.lifecycle.answered(bs_eui, message)
        else:
            registration = self.lifecycle.refused(bs_eui, message, why, now=self.now)
        self.store(registration)

    def note_certain(self, station: Station, message: Told) -> None:
        ep_eui, told = message.ep_eui, left_by(message)
        is_newest = station.newest.get(ep_eui) == message.op_id
        if is_newest and ep_eui not in station.mixed_up:
            station.certain[ep_eui] = told
        elif station.certain.get(ep_eui) != told:
            station.certain.pop(ep_eui, None)

    def store(self, registration: Registration | None) -> None:
        if registration is not None:
            self.stored[registration.bs_eui, registration.ep_eui] = registration

    @precondition(lambda self: self.waited_for())
    @rule(number=pick)
    def give_up(self, number) -> None:
        waited_for = self.waited_for()
        bs_eui, message = waited_for[number % len(waited_for)]
        self.way(bs_eui, message.ep_eui).remove(message.op_id)
        self.stations[bs_eui].certain.pop(message.ep_eui, None)
        self.store(self.lifecycle.refused(bs_eui, message, TIMED_OUT, now=self.now))

    # --- time and the process ---

    def next_retry(self) -> float | None:
        retries = [self.lifecycle.next_retry(bs_eui) for bs_eui in self.lifecycle.connected()]
        return min((retry for retry in retries if retry is not None), default=None)

    @precondition(lambda self: self.next_retry() is not None)
    @rule(tells=often(True, False))
    def wait(self, tells) -> None:
        self.now = self.next_retry() or self.now
        for (bs_eui, ep_eui), (_, until, _) in self.taken.items():
            if until <= self.now:
                self.stations[bs_eui].forget_all_own(ep_eui)
        self.order(tells)

    @precondition(lambda self: self.waited_for())
    @rule()
    def crash(self) -> None:
        """What was returned is on disk, with the wishes and the sessions."""
        self.lifecycle = Lifecycle()
        for bs_eui, session in self.known.items():
            self.lifecycle.recall_station(bs_eui, session)
        for ep_eui, wish in self.wishes.items():
            self.lifecycle.want(ep_eui, mark_of(wish))
        for registration in self.stored.values():
            self.lifecycle.recall(registration)
        self.lifecycle.recalled()
        for bs_eui, station in self.stations.items():
            self.cut(bs_eui)
            # The order of its answers is forgotten with the process. That does no harm where what
            # is issued again is carried out again.
            station.carried_out.clear()
            station.mixed_up.clear()

    # --- what always holds ---

    @invariant()
    def counts_are_what_counting_gives(self) -> None:
        for bs_eui in self.known:
            states = [self.lifecycle.state(bs_eui, ep_eui) for ep_eui in END_POINTS]
            counted = Counter(state for state in states if state is not None)
            expected = {state: counted[state] for state in ("confirmed", "pending", "refused")}
            assert self.lifecycle.counts(bs_eui) == expected
            assert self.lifecycle.is_settled(bs_eui) is not bool(counted["pending"])

    @invariant()
    def standing_says_the_same_as_state(self) -> None:
        for ep_eui in END_POINTS:
            for bs_eui, state, why in self.lifecycle.standing(ep_eui):
                assert state == self.lifecycle.state(bs_eui, ep_eui)
                assert (why is not None) is (state == "refused")

    @invariant()
    def what_is_on_its_way_is_not_confirmed(self) -> None:
        for bs_eui, message in self.waited_for():
            assert self.lifecycle.state(bs_eui, message.ep_eui) in ("pending", "refused")
        for bs_eui, ep_eui in self.taken:
            if self.is_taken(bs_eui, ep_eui):
                assert self.lifecycle.state(bs_eui, ep_eui) in ("pending", "refused")

    # --- when the dust settles ---

    def teardown(self) -> None:
        for bs_eui in STATIONS:
            if not self.stations[bs_eui].is_connected:
                if not self.stations[bs_eui].session:
                    self.stations[bs_eui].begin_session()
                self.let_in(bs_eui)
        while self.unsent:
            self.send(0, "is sent")
        self.settle_operations()
        wanted = {ep_eui: mark_of(wish) for ep_eui, wish in self.wishes.items()}
        for bs_eui, station in self.stations.items():
            assert station.held == wanted
            everything = {"confirmed": len(wanted), "pending": 0, "refused": 0}
            assert self.lifecycle.counts(bs_eui) == everything

    def settle_operations(self) -> None:
        """All orders are answered positively; what was overlooked or forgotten stays so."""
        for _ in range(50):
            while self.received():
                self.treat(0, "carry out", None, answers=False)
            while self.unanswered():
                self.answer(0, forgets=False)
            while self.waited_for():
                self.give_up(0)
            told = [self.take_order(bs_eui, sends=True) for bs_eui in STATIONS]
            if not any(told):
                if self.next_retry() is None:
                    return
                self.wait(tells=True)
        raise AssertionError("the dust does not settle")


LifecycleMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
test_when_the_dust_settles_every_base_station_serves_what_is_wanted = LifecycleMachine.TestCase
