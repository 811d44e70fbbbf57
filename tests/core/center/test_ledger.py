from __future__ import annotations

import pytest

from bssci.core.center.ledger import TAKEN_FOR, UNKNOWN, Due, Ledger, Order, due
from bssci.core.center.records import Refused

A, B = 101, 102
ONE, TWO, THREE = 1, 2, 3
NO_ROOM = Refused(28, "no room", 7)


def ledger_of(**wanted: int) -> tuple[Ledger, dict[int, int]]:
    """A base station that is connected and was told nothing; and what is wanted, to be changed."""
    numbers = {"one": ONE, "two": TWO, "three": THREE}
    marks = {numbers[name]: mark for name, mark in wanted.items()}
    ledger = Ledger(marks, b"session")
    ledger.connect(marks)
    return ledger, marks


def order(ledger: Ledger) -> Order:
    found = ledger.next_order(0.0)
    assert found is not None
    return found


def send(ledger: Ledger) -> Order:
    found = order(ledger)
    ledger.sent(found.ep_eui)
    return found


def holding(mark=A, **wanted: int) -> tuple[Ledger, dict[int, int]]:
    """One that has confirmed the first end point."""
    ledger, marks = ledger_of(**(wanted or {"one": A}))
    ledger.confirmed[ONE] = mark
    ledger.count_again()
    return ledger, marks


def counted(ledger: Ledger) -> list[int]:
    return list(ledger.counts().values())


# --- what is due ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "confirmed", "may_hold", "expected"),
    [
        (None, None, False, None),
        (None, None, True, Due.DETACH),
        (None, A, False, Due.DETACH),
        (None, UNKNOWN, False, Due.DETACH),
        (A, None, False, Due.ATTACH),
        (A, A, False, None),
        (A, A, True, Due.ATTACH),
        (A, B, False, Due.ATTACH),
        (A, UNKNOWN, False, Due.ATTACH),
    ],
)
def test_what_is_due(wanted, confirmed, may_hold, expected):
    assert due(wanted, confirmed, may_hold=may_hold) is expected


# --- orders --------------------------------------------------------------------------------


def test_each_end_point_that_is_due_is_ordered_once():
    ledger, _ = ledger_of(one=A, two=A)
    ledger.confirmed[THREE] = B
    ledger.connect([ONE, TWO, THREE])
    assert [order(ledger) for _ in range(3)] == [
        Order(ONE, Due.ATTACH),
        Order(TWO, Due.ATTACH),
        Order(THREE, Due.DETACH),
    ]
    assert ledger.next_order(0.0) is None


def test_while_an_operation_is_on_its_way_no_other_is_ordered():
    ledger, wanted = ledger_of(one=A)
    send(ledger)
    wanted[ONE] = B
    ledger.agenda.look_at(ONE)
    assert ledger.next_order(0.0) is None


def test_an_order_that_was_not_sent_is_ordered_again():
    ledger, _ = ledger_of(one=A)
    found = order(ledger)
    ledger.not_sent(ONE)
    assert order(ledger) == found
    ledger.sent(ONE)
    ledger.not_sent(ONE)
    assert not ledger.may_hold(ONE)
    assert order(ledger) == found


def test_what_is_not_on_its_way_cannot_be_not_sent():
    ledger, _ = ledger_of(one=A)
    ledger.not_sent(ONE)
    assert counted(ledger) == [0, 1, 0]
    assert [ledger.next_order(0.0), ledger.next_order(0.0)] == [Order(ONE, Due.ATTACH), None]


def test_what_was_ordered_and_not_sent_leaves_no_doubt():
    ledger, _ = ledger_of(one=A)
    order(ledger)
    assert not ledger.may_hold(ONE)
    ledger.disconnect()
    assert (ledger.may_hold(ONE), ledger.confirmed) == (False, {})


# --- doubt ---------------------------------------------------------------------------------


def test_what_is_on_its_way_may_have_arrived():
    ledger, wanted = ledger_of(one=A)
    send(ledger)
    del wanted[ONE]
    assert (ledger.due(ONE), ledger.may_hold(ONE)) == (Due.DETACH, True)


def test_while_something_else_is_on_its_way_nothing_is_confirmed():
    ledger, wanted = holding(one=B)
    send(ledger)
    wanted[ONE] = A
    assert (ledger.due(ONE), ledger.state(ONE)) == (Due.ATTACH, "pending")


def test_a_wish_that_changes_before_an_order_is_sent_is_counted_right():
    ledger, wanted = holding(two=A)
    assert order(ledger) == Order(TWO, Due.ATTACH)
    ledger.agenda.look_at(ONE)
    assert order(ledger) == Order(ONE, Due.DETACH)
    before = ledger.state(ONE)
    wanted[ONE] = A
    ledger.take_wish(before, ONE, 1)
    assert (ledger.state(ONE), counted(ledger)) == ("confirmed", [1, 1, 0])
    ledger.sent(ONE)
    assert (ledger.state(ONE), counted(ledger)) == ("pending", [0, 2, 0])


def test_what_was_on_its_way_when_the_connection_ended_is_unknown():
    ledger, wanted = holding(one=B, two=B)
    send(ledger)
    ledger.disconnect()
    assert ledger.confirmed == {ONE: UNKNOWN}
    wanted[ONE] = A
    assert ledger.due(ONE) is Due.ATTACH
    assert counted(ledger) == [0, 2, 0]


def test_what_was_given_up_is_unknown():
    ledger, wanted = holding(one=B)
    send(ledger)
    assert ledger.close(ONE, -1)
    ledger.give_up(ONE, -1)
    wanted[ONE] = A
    assert (ledger.confirmed, ledger.due(ONE)) == ({ONE: UNKNOWN}, Due.ATTACH)


def test_what_was_refused_has_changed_nothing():
    ledger, wanted = holding(one=B)
    send(ledger)
    assert ledger.close(ONE, -1)
    wanted[ONE] = A
    assert (ledger.confirmed, ledger.due(ONE)) == ({ONE: A}, None)


def test_an_outcome_of_nothing_that_is_on_its_way_is_none():
    ledger, _ = ledger_of(one=A)
    assert not ledger.close(ONE, -1)
    send(ledger)
    assert ledger.close(ONE, -1)
    assert not ledger.close(ONE, -1)


# --- answers -------------------------------------------------------------------------------


def given_up(*op_ids: int) -> tuple[Ledger, dict[int, int]]:
    """Operations about the first end point were given up, one after the other."""
    ledger, wanted = ledger_of(one=A)
    for op_id in op_ids:
        ledger.agenda.look_at(ONE)
        send(ledger)
        assert ledger.close(ONE, op_id)
        ledger.give_up(ONE, op_id)
    return ledger, wanted


@pytest.mark.parametrize("mark", [A, None])
def test_an_answer_says_what_the_base_station_holds(mark):
    ledger, _ = holding(B)
    ledger.agenda.look_at(ONE)
    send(ledger)
    ledger.confirm(ONE, -1, mark)
    assert ledger.confirmed == ({} if mark is None else {ONE: mark})
    assert not ledger.knows(ONE) or mark is not None


def test_an_answer_to_what_was_given_up_is_believed():
    ledger, _ = given_up(-1)
    ledger.confirm(ONE, -1, A)
    assert (ledger.confirmed, ledger.due(ONE)) == ({ONE: A}, None)


def test_an_answer_says_nothing_while_a_newer_operation_is_on_its_way():
    ledger, wanted = given_up(-1)
    wanted[ONE] = B
    ledger.agenda.look_at(ONE)
    send(ledger)
    ledger.confirm(ONE, -1, A)
    wanted[ONE] = A
    assert ledger.due(ONE) is Due.ATTACH
    assert ledger.next_order(0.0) is None
    assert ledger.close(ONE, -2), "refused: so it is the older one that holds"
    assert ledger.due(ONE) is None


def test_an_answer_says_nothing_when_a_newer_operation_was_given_up():
    ledger, _ = given_up(-1, -2)
    ledger.confirm(ONE, -1, A)
    assert ledger.confirmed == {ONE: UNKNOWN}
    ledger.confirm(ONE, -2, B)
    assert ledger.confirmed == {ONE: B}


def test_answers_in_the_wrong_order_that_say_different_things_say_nothing():
    ledger, wanted = given_up(-1)
    wanted[ONE] = B
    ledger.agenda.look_at(ONE)
    send(ledger)
    ledger.confirm(ONE, -2, B)
    assert ledger.due(ONE) is None
    ledger.confirm(ONE, -1, A)
    assert ledger.confirmed == {ONE: UNKNOWN}


def test_answers_in_the_wrong_order_that_say_the_same_are_believed():
    ledger, _ = given_up(-1)
    ledger.agenda.look_at(ONE)
    send(ledger)
    ledger.confirm(ONE, -2, A)
    ledger.confirm(ONE, -1, A)
    assert ledger.confirmed == {ONE: A}


def test_that_answers_came_in_the_wrong_order_is_noticed_also_after_a_resume():
    ledger, wanted = given_up(-1)
    wanted[ONE] = B
    ledger.agenda.look_at(ONE)
    send(ledger)
    ledger.confirm(ONE, -2, B)
    ledger.disconnect()
    ledger.connect([ONE])
    ledger.reissued(ONE, -1, A)
    ledger.confirm(ONE, -1, A)
    assert ledger.confirmed == {ONE: UNKNOWN}


def test_of_different_operations_issued_again_nobody_knows_which_came_last():
    """One may be answered from memory, as carried out before the cut, and the other be new."""
    ledger, _ = ledger_of(one=A)
    ledger.reissued(ONE, -1, A)
    ledger.reissued(ONE, -4, None)
    ledger.confirm(ONE, -1, A)
    assert (ledger.due(ONE), ledger.next_order(0.0)) == (Due.ATTACH, None)
    ledger.confirm(ONE, -4, None)
    assert (ledger.confirmed, ledger.due(ONE)) == ({ONE: UNKNOWN}, Due.ATTACH)
    ledger.agenda.look_at(ONE)
    send(ledger)
    ledger.confirm(ONE, -5, A)
    assert (ledger.confirmed, ledger.due(ONE)) == ({ONE: A}, None)


def test_such_a_mix_is_told_once_more_also_where_nothing_is_wanted():
    ledger, _ = ledger_of()
    ledger.reissued(ONE, -1, A)
    ledger.reissued(ONE, -4, None)
    ledger.confirm(ONE, -4, None)
    ledger.confirm(ONE, -1, A)
    assert ledger.due(ONE) == Due.DETACH
    ledger.agenda.look_at(ONE)
    send(ledger)
    ledger.confirm(ONE, -5, None)
    assert (ledger.confirmed, ledger.due(ONE), ledger.knows(ONE)) == ({}, None, False)


def test_operations_issued_again_that_say_the_same_are_no_mix():
    ledger, _ = ledger_of(one=A)
    ledger.reissued(ONE, -1, A)
    ledger.reissued(ONE, -4, A)
    ledger.confirm(ONE, -1, A)
    ledger.confirm(ONE, -4, A)
    assert (ledger.confirmed, ledger.due(ONE)) == ({ONE: A}, None)


def test_what_was_confirmed_stays_so_when_the_same_is_issued_again_and_cut():
    ledger, _ = ledger_of(one=A)
    ledger.confirm(ONE, -1, A)
    ledger.reissued(ONE, -4, A)
    ledger.disconnect()
    assert ledger.confirmed == {ONE: A}


def test_what_is_issued_again_and_cut_is_unknown():
    ledger, _ = ledger_of(one=A)
    ledger.confirm(ONE, -1, A)
    ledger.reissued(ONE, -4, None)
    ledger.disconnect()
    assert ledger.confirmed == {ONE: UNKNOWN}


def test_what_is_issued_again_may_have_arrived_though_an_order_before_it_was_not_sent():
    ledger, _ = given_up(-1)
    ledger.agenda.look_at(ONE)
    order(ledger)
    ledger.disconnect()
    ledger.confirmed.clear()
    ledger.connect([ONE])
    ledger.reissued(ONE, -1, A)
    assert ledger.may_hold(ONE)


def test_without_ids_an_outcome_belongs_to_what_is_on_its_way():
    ledger, _ = given_up(0)
    ledger.agenda.look_at(ONE)
    send(ledger)
    ledger.confirm(ONE, 0, A)
    assert (ledger.confirmed, ledger.due(ONE)) == ({ONE: A}, None)


def test_what_base_stations_confirm_is_one_number_in_memory():
    mark = 10**17 + int("1")
    ledger, _ = ledger_of(one=mark)
    ledger.confirm(ONE, -1, 10**17 + int("1"))
    assert ledger.confirmed[ONE] is mark


# --- how it stands -------------------------------------------------------------------------


def test_the_states_of_an_end_point():
    ledger, wanted = holding(one=A, two=A, three=A)
    ledger.refused[TWO] = NO_ROOM
    assert [ledger.state(each) for each in (ONE, TWO, THREE, 4)] == [
        "confirmed",
        "refused",
        "pending",
        None,
    ]
    del wanted[ONE]
    assert ledger.state(ONE) == "pending"
    ledger.confirmed[TWO] = A
    assert ledger.state(TWO) == "confirmed"


def test_end_points_that_a_base_station_was_told_nothing_of_are_pending():
    ledger, wanted = ledger_of(one=A, two=A)
    assert ledger.counts() == {"confirmed": 0, "pending": 2, "refused": 0}
    wanted[THREE] = A
    assert ledger.counts() == {"confirmed": 0, "pending": 3, "refused": 0}
    assert not ledger.knows(ONE)


def test_an_end_point_that_is_neither_served_nor_to_be_is_counted_nowhere():
    ledger, _ = holding(two=A)
    assert counted(ledger) == [0, 2, 0]
    before = ledger.state(ONE)
    ledger.confirm(ONE, -1, None)
    ledger.count(before, ONE)
    assert counted(ledger) == [0, 1, 0]


def test_all_is_counted_again():
    ledger, _ = ledger_of(one=A, two=A, three=A)
    ledger.confirmed |= {ONE: A, TWO: B, 4: A}
    ledger.refused[TWO] = ledger.refused[THREE] = NO_ROOM
    for _ in range(2):
        ledger.count_again()
        assert ledger.counts() == {"confirmed": 1, "pending": 1, "refused": 2}


@pytest.mark.parametrize(("mark", "expected"), [(A, [1, 1, 0]), (B, [0, 2, 0]), (None, [0, 2, 0])])
def test_another_wish_makes_a_refusal_void(mark, expected):
    ledger, wanted = holding(one=B, two=A)
    ledger.refused[ONE] = NO_ROOM
    ledger.count_again()
    assert counted(ledger) == [0, 1, 1]
    before = ledger.state(ONE)
    if mark is None:
        del wanted[ONE]
    else:
        wanted[ONE] = mark
    ledger.take_wish(before, ONE, -1 if mark is None else 0)
    assert (ledger.refused, counted(ledger)) == ({}, expected)


# --- coming and going ----------------------------------------------------------------------


def test_what_was_refused_waits_for_its_time_over_a_resume():
    ledger, _ = ledger_of(one=A, two=A)
    ledger.refused[ONE] = ledger.refused[TWO] = NO_ROOM
    ledger.count_again()
    ledger.agenda.try_later(ONE, 0.0)
    ledger.disconnect()
    assert counted(ledger) == [0, 0, 2]
    ledger.connect([ONE, TWO])
    assert ledger.refused == {ONE: NO_ROOM}
    assert counted(ledger) == [0, 1, 1]
    assert [ledger.next_order(0.0), ledger.next_order(0.0)] == [Order(TWO, Due.ATTACH), None]
    assert ledger.next_order(60.0) == Order(ONE, Due.ATTACH)


def test_a_base_station_that_is_away_is_told_nothing():
    ledger, _ = ledger_of(one=A)
    ledger.disconnect()
    assert (ledger.is_connected, ledger.next_order(0.0)) == (False, None)
    ledger.connect([ONE])
    assert (ledger.is_connected, ledger.next_order(0.0)) == (True, Order(ONE, Due.ATTACH))


# --- what the base station asked for itself ------------------------------------------------

NEW = 103


def take(ledger: Ledger, mark: int | None = NEW, op_id=7, now=0.0) -> None:
    before = ledger.state(ONE)
    ledger.take(ONE, op_id, mark, now)
    ledger.count(before, ONE)


def complete(ledger: Ledger, op_id=7) -> bool:
    before = ledger.state(ONE)
    is_over = ledger.complete(ONE, op_id)
    ledger.count(before, ONE)
    return is_over


def test_what_it_was_told_in_answer_it_holds_once_it_has_completed():
    ledger, wanted = ledger_of(one=A)
    wanted[ONE] = NEW
    take(ledger)
    assert (ledger.state(ONE), counted(ledger)) == ("pending", [0, 1, 0])
    assert ledger.next_order(0.0) is None
    assert complete(ledger)
    assert (ledger.state(ONE), counted(ledger)) == ("confirmed", [1, 0, 0])
    assert (ledger.next_order(100.0), ledger.agenda.next_retry()) == (None, None)
    assert not complete(ledger)


def test_until_it_has_completed_it_may_hold_anything():
    ledger, wanted = ledger_of(one=A)
    ledger.agenda.begin(())
    wanted[ONE] = NEW
    take(ledger)
    assert (ledger.may_hold(ONE), ledger.knows(ONE), ledger.confirmed) == (True, True, {ONE: 0})
    del wanted[ONE]
    ledger.take_wish("pending", ONE, -1)
    assert ledger.state(ONE) == "pending"
    ledger.agenda.look_at(ONE)
    assert ledger.next_order(1.0) is None
    assert complete(ledger)
    ledger.agenda.look_at(ONE)
    assert ledger.next_order(1.0) == Order(ONE, Due.DETACH)


def test_one_that_it_lets_go_of_is_gone_once_it_has_completed():
    ledger, wanted = holding()
    del wanted[ONE]
    ledger.take_wish("confirmed", ONE, -1)
    take(ledger, None)
    assert (ledger.state(ONE), ledger.confirmed) == ("pending", {ONE: UNKNOWN})
    assert counted(ledger) == [0, 1, 0]
    assert complete(ledger)
    assert (ledger.state(ONE), ledger.knows(ONE), counted(ledger)) == (None, False, [0, 0, 0])


def test_one_that_it_may_not_have_let_go_of_is_told_when_it_is_back():
    ledger, _ = ledger_of(two=A)
    take(ledger, None)
    assert (ledger.knows(ONE), ledger.state(ONE)) == (True, "pending")
    ledger.disconnect()
    assert (ledger.knows(ONE), ledger.state(ONE), counted(ledger)) == (True, "pending", [0, 2, 0])
    ledger.connect([ONE])
    assert ledger.next_order(0.0) == Order(ONE, Due.DETACH)


def test_what_it_has_confirmed_besides_it_holds_when_it_goes():
    ledger, wanted = ledger_of(one=A)
    wanted[ONE] = NEW
    send(ledger)
    take(ledger)
    ledger.refused[ONE] = NO_ROOM
    ledger.confirm(ONE, -1, NEW)
    ledger.count_again()
    ledger.disconnect()
    assert (ledger.state(ONE), ledger.refused) == ("confirmed", {})


def test_only_the_last_of_its_operations_is_waited_for():
    ledger, wanted = ledger_of(one=A)
    wanted[ONE] = NEW
    take(ledger, B, op_id=6)
    take(ledger, NEW, op_id=7)
    assert (complete(ledger, 6), ledger.state(ONE)) == (False, "pending")
    assert (complete(ledger, 7), ledger.state(ONE)) == (True, "confirmed")


AGAIN = Order(ONE, Due.ATTACH)


@pytest.mark.parametrize(
    ("is_sent", "is_answered_first", "expected"),
    [(True, True, None), (True, False, AGAIN), (False, True, AGAIN), (False, False, AGAIN)],
)
def test_of_what_was_on_its_way_to_it_the_last_answer_counts(is_sent, is_answered_first, expected):
    ledger, wanted = ledger_of(one=A)
    (send if is_sent else order)(ledger)
    wanted[ONE] = NEW
    ledger.take_wish("pending", ONE, 0)
    take(ledger)
    if is_answered_first:
        ledger.confirm(ONE, -1, A)
        assert (ledger.state(ONE), ledger.next_order(0.0)) == ("pending", None)
        assert complete(ledger)
    else:
        assert complete(ledger)
        ledger.confirm(ONE, -1, A)
    ledger.agenda.look_at(ONE)
    assert ledger.next_order(0.0) == expected


@pytest.mark.parametrize(
    ("is_sent", "is_answered_first", "expected"),
    [(True, True, AGAIN), (True, False, AGAIN), (False, True, AGAIN), (False, False, None)],
)
def test_of_two_that_cross_it_holds_only_what_was_carried_out_last_in_either_order(
    is_sent, is_answered_first, expected
):
    """It may work as things come and answer as it likes, or work as it likes and answer so."""
    ledger, _ = ledger_of(one=A)
    (send if is_sent else order)(ledger)
    take(ledger)
    if is_answered_first:
        ledger.confirm(ONE, -1, A)
        assert complete(ledger)
    else:
        assert complete(ledger)
        ledger.confirm(ONE, -1, A)
    ledger.agenda.look_at(ONE)
    assert ledger.next_order(0.0) == expected


def test_a_late_answer_to_what_its_own_has_met_says_nothing():
    ledger, wanted = ledger_of(one=A)
    send(ledger)
    ledger.close(ONE, -1)
    ledger.give_up(ONE, -1)
    wanted[ONE] = NEW
    take(ledger)
    assert complete(ledger)
    ledger.confirm(ONE, -1, A)
    assert ledger.confirmed == {ONE: UNKNOWN}


def test_its_next_own_operation_is_what_counts_of_those_that_have_met_ours():
    ledger, _ = ledger_of(one=A)
    send(ledger)
    take(ledger, B, op_id=6)
    ledger.confirm(ONE, -1, A)
    take(ledger, A, op_id=7)
    assert complete(ledger, 7)
    assert (ledger.confirmed, ledger.due(ONE)) == ({ONE: A}, None)


def test_what_was_refused_is_of_no_interest_once_it_is_waited_for_no_longer():
    ledger, wanted = ledger_of(one=A)
    wanted[ONE] = NEW
    send(ledger)
    take(ledger)
    ledger.confirm(ONE, -1, NEW)
    ledger.refused[ONE] = NO_ROOM
    ledger.count_again()
    assert ledger.next_order(TAKEN_FOR) is None
    assert (ledger.state(ONE), ledger.refused) == ("confirmed", {})


def test_what_was_on_its_way_to_it_does_no_harm_where_it_says_the_same():
    ledger, wanted = ledger_of(one=A)
    wanted[ONE] = NEW
    send(ledger)
    take(ledger)
    assert complete(ledger)
    ledger.confirm(ONE, -1, NEW)
    assert (ledger.state(ONE), ledger.next_order(0.0)) == ("confirmed", None)


@pytest.mark.parametrize(("mark", "expected"), [(NEW, Due.ATTACH), (None, Due.DETACH)])
def test_one_that_does_not_complete_is_told_anew(mark, expected):
    ledger, wanted = holding(mark=A, two=A)
    ledger.agenda.begin(())
    if mark is not None:
        wanted[ONE] = mark
        ledger.count_again()
    ledger.confirmed[TWO] = A
    ledger.count_again()
    take(ledger, mark, now=5.0)
    assert ledger.agenda.next_retry() == 5.0 + TAKEN_FOR
    assert ledger.next_order(5.0 + TAKEN_FOR - 1) is None
    assert ledger.next_order(5.0 + TAKEN_FOR) == Order(ONE, expected)
    assert ledger.confirmed == {ONE: UNKNOWN, TWO: A}
    assert not complete(ledger)
    assert counted(ledger) == [1, 1, 0]


def test_one_that_does_not_complete_but_has_confirmed_the_same_is_not_told_anew():
    ledger, wanted = ledger_of(one=A)
    wanted[ONE] = NEW
    send(ledger)
    take(ledger)
    ledger.confirm(ONE, -1, NEW)
    assert ledger.state(ONE) == "pending"
    assert ledger.next_order(TAKEN_FOR) is None
    assert (ledger.state(ONE), counted(ledger)) == ("confirmed", [1, 0, 0])


def test_another_wish_meanwhile_does_not_make_it_be_waited_for_forever():
    ledger, wanted = ledger_of(one=A)
    take(ledger)
    wanted[ONE] = B
    ledger.take_wish("pending", ONE, 0)
    ledger.agenda.look_at(ONE)
    assert ledger.agenda.next_retry() is None
    assert ledger.next_order(10.0) is None
    assert ledger.agenda.next_retry() == TAKEN_FOR
    assert ledger.next_order(TAKEN_FOR) == Order(ONE, Due.ATTACH)


def test_one_that_has_gone_before_it_completed_is_told_when_it_is_back():
    ledger, wanted = ledger_of(one=A)
    wanted[ONE] = NEW
    take(ledger)
    ledger.disconnect()
    assert (ledger.state(ONE), ledger.confirmed) == ("pending", {ONE: UNKNOWN})
    ledger.connect([ONE])
    assert not complete(ledger)
    assert ledger.next_order(0.0) == Order(ONE, Due.ATTACH)


def test_a_refusal_meanwhile_keeps_its_time():
    ledger, wanted = ledger_of(one=A)
    wanted[ONE] = NEW
    take(ledger)
    before = ledger.state(ONE)
    ledger.refused[ONE] = NO_ROOM
    ledger.agenda.try_later(ONE, 30.0)
    ledger.count(before, ONE)
    ledger.disconnect()
    assert (ledger.state(ONE), ledger.agenda.is_planned(ONE), counted(ledger)) == (
        "refused",
        True,
        [0, 0, 1],
    )
