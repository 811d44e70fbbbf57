from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center import agenda as module
from bssci.core.center.agenda import FIRST_RETRY, LAST_RETRY, Agenda


def agenda_of(*end_points: int) -> Agenda:
    agenda = Agenda(lambda ep_eui: True)
    agenda.begin(end_points)
    return agenda


def candidates(agenda: Agenda, now=0.0, count=None) -> list[int]:
    return list(islice(agenda.candidates(now), count))


def test_what_has_changed_comes_before_what_is_tried_again_and_that_before_all_others():
    agenda = agenda_of(1, 2, 3)
    agenda.try_later(3, now=0.0)
    agenda.look_at(9)
    agenda.look_at(8)
    assert candidates(agenda, now=FIRST_RETRY) == [9, 8, 3, 1, 2, 3]
    assert candidates(agenda, now=FIRST_RETRY) == []


def test_what_changes_meanwhile_comes_next():
    agenda = agenda_of(1, 2, 3)
    assert candidates(agenda, count=1) == [1]
    agenda.look_at(9)
    assert candidates(agenda, count=2) == [9, 2]
    assert candidates(agenda) == [3]


def test_to_begin_is_to_look_at_all_of_them_again_and_at_nothing_else():
    agenda = agenda_of(1, 2)
    assert candidates(agenda, count=1) == [1]
    agenda.look_at(9)
    agenda.begin([1, 2])
    assert candidates(agenda) == [1, 2]


# --- trying again --------------------------------------------------------------------------


def test_the_pause_before_another_try_doubles_up_to_an_hour():
    agenda, pauses = agenda_of(), []
    for _ in range(20):
        agenda.try_later(1, now=1000.0)
        pauses.append((agenda.next_retry() or 0.0) - 1000.0)
        assert candidates(agenda, now=pauses[-1] + 999.9) == []
        assert candidates(agenda, now=pauses[-1] + 1000.0) == [1]
    assert pauses == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, *[LAST_RETRY] * 14]


def test_what_is_done_is_not_tried_again_and_begins_with_the_first_pause():
    agenda = agenda_of()
    agenda.try_later(1, now=0.0)
    assert (agenda.is_planned(1), agenda.next_retry()) == (True, FIRST_RETRY)
    agenda.done(1)
    agenda.done(1)
    assert (agenda.is_planned(1), agenda.next_retry()) == (False, None)
    agenda.try_later(1, now=1.0)
    assert candidates(agenda, now=FIRST_RETRY) == [], "the time of the first try is void"
    assert candidates(agenda, now=FIRST_RETRY + 1) == [1]
    assert (agenda.is_planned(1), agenda.next_retry()) == (False, None)


def test_what_is_planned_is_not_looked_at_before_its_time_and_held_over_a_new_beginning():
    agenda = agenda_of(1, 2)
    agenda.try_later(1, now=0.0)
    assert candidates(agenda) == [2]
    agenda.begin([1, 2])
    assert candidates(agenda) == [2]
    assert candidates(agenda, now=FIRST_RETRY) == [1]


def test_what_is_tried_again_comes_in_the_order_of_its_times():
    agenda = agenda_of()
    for ep_eui, now in ((1, 7.0), (2, 3.0), (3, 5.0)):
        agenda.try_later(ep_eui, now)
    assert agenda.next_retry() == FIRST_RETRY + 3
    assert candidates(agenda, now=FIRST_RETRY + 5) == [2, 3]
    assert agenda.next_retry() == FIRST_RETRY + 7


# --- bounds --------------------------------------------------------------------------------


def test_what_changes_again_and_again_takes_no_more_room_than_what_is_due(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 10)
    asked = []

    def is_due(ep_eui: int) -> bool:
        asked.append(ep_eui)
        return ep_eui < 100

    agenda = Agenda(is_due)
    for number in range(1_000_000, 1_001_000):
        agenda.look_at(number)
        agenda.look_at(number % 3)
        assert len(agenda._changed) < 1030
    assert len(asked) < 3000, "looking is amortised"
    found = candidates(agenda)
    assert sorted(set(found) & {0, 1, 2}) == [0, 1, 2]
    assert len(found) <= 20


def test_what_is_planned_again_and_again_takes_no_more_room_than_what_is_planned(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 10)
    agenda = agenda_of()
    for now in range(500):
        agenda.done(now % 3)
        agenda.try_later(now % 3, float(now))
        assert len(agenda._retries) <= 17
    assert candidates(agenda, now=10_000.0) == [497 % 3, 498 % 3, 499 % 3]


def test_what_was_refused_since_it_changed_has_its_own_time():
    agenda = agenda_of()
    agenda.look_at(1)
    agenda.try_later(1, 0.0)
    assert (candidates(agenda, 0.0), candidates(agenda, 60.0)) == ([], [1])


def test_what_has_a_time_of_its_own_is_looked_at_then_and_not_before():
    agenda = agenda_of()
    agenda.look_at(1)
    agenda.try_at(1, 7.0)
    assert (candidates(agenda, 6.9), agenda.next_retry(), candidates(agenda, 7.0)) == ([], 7.0, [1])


@given(
    st.lists(
        st.tuples(st.sampled_from(["look", "later", "done", "take", "wait"]), st.integers(0, 4))
    )
)
def test_nothing_is_lost_and_what_is_planned_waits_for_its_time(steps):
    agenda, now = agenda_of(), 0.0
    changed: list[int] = []
    planned: dict[int, float] = {}
    tries: dict[int, int] = {}
    for what, ep_eui in steps:
        match what:
            case "look":
                agenda.look_at(ep_eui)
                changed.append(ep_eui)
            case "later":
                agenda.try_later(ep_eui, now)
                tries[ep_eui] = tries.get(ep_eui, 0) + 1
                planned[ep_eui] = now + min(60.0 * 2 ** (tries[ep_eui] - 1), 3600.0)
            case "done":
                agenda.done(ep_eui)
                tries.pop(ep_eui, None)
                planned.pop(ep_eui, None)
            case "wait":
                now += 50.0 * ep_eui
            case _:
                ripe = sorted((at, each) for each, at in planned.items() if at <= now)
                fresh = [each for each in changed if each not in planned]
                assert candidates(agenda, now) == [*fresh, *(each for _, each in ripe)]
                changed.clear()
                planned = {each: at for each, at in planned.items() if at > now}
        assert agenda.next_retry() == min(planned.values(), default=None)
        assert [agenda.is_planned(each) for each in range(5)] == [
            each in planned for each in range(5)
        ]
