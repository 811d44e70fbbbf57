from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.silence import SilenceClocks

S = 1_000_000_000
HOUR = 3600 * S
DAY = 24 * HOUR
AVA, DIEHL, MIROMICO = 0x70B3D59CD0000951, 0x000732000077E21D, 0x9C65F9FFFE0000C1
ONE, BOTH, NOBODY = frozenset({AVA}), frozenset({AVA, DIEHL}), frozenset[int]()


def clocks_with(*receivers: frozenset[int]) -> SilenceClocks:
    clocks = SilenceClocks()
    for each in receivers:
        clocks.use(each, now_ns=0)
    return clocks


# --- when a clock runs ---------------------------------------------------------------------


def test_silence_is_counted_while_a_base_station_that_hears_is_connected():
    clocks = clocks_with(ONE)
    clocks.station_connected(AVA, now_ns=5 * S)
    assert clocks.read(ONE, now_ns=7 * S) == 2 * S
    clocks.station_disconnected(AVA, now_ns=9 * S)
    assert clocks.read(ONE, now_ns=90 * S) == 4 * S
    clocks.station_connected(AVA, now_ns=100 * S)
    assert clocks.read(ONE, now_ns=101 * S) == 5 * S


def test_time_at_two_base_stations_at_once_counts_once():
    clocks = clocks_with(BOTH)
    clocks.station_connected(AVA, now_ns=0)
    clocks.station_connected(DIEHL, now_ns=10 * S)
    clocks.station_disconnected(AVA, now_ns=20 * S)
    clocks.station_disconnected(DIEHL, now_ns=30 * S)
    assert clocks.read(BOTH, now_ns=DAY) == 30 * S


def test_base_stations_that_do_not_hear_the_end_point_do_not_count():
    clocks = clocks_with(ONE)
    clocks.station_connected(DIEHL, now_ns=0)
    assert clocks.read(ONE, now_ns=DAY) == 0


def test_an_end_point_that_nobody_hears_is_never_silent():
    clocks = clocks_with(NOBODY)
    clocks.station_connected(AVA, now_ns=0)
    assert clocks.read(NOBODY, now_ns=DAY) == 0


def test_a_clock_that_is_taken_into_use_while_its_base_station_is_connected_runs_at_once():
    clocks = SilenceClocks()
    clocks.station_connected(AVA, now_ns=0)
    assert clocks.use(BOTH, now_ns=5 * S) == 0
    assert clocks.read(BOTH, now_ns=7 * S) == 2 * S


def test_coming_and_going_twice_is_coming_and_going_once():
    clocks = clocks_with(BOTH)
    clocks.station_connected(AVA, now_ns=0)
    clocks.station_connected(AVA, now_ns=S)
    clocks.station_disconnected(AVA, now_ns=2 * S)
    clocks.station_disconnected(AVA, now_ns=3 * S)
    clocks.station_disconnected(DIEHL, now_ns=4 * S)
    assert clocks.read(BOTH, now_ns=DAY) == 2 * S


def test_a_clock_that_nobody_uses_stands_at_nothing():
    clocks = SilenceClocks()
    clocks.station_connected(AVA, now_ns=0)
    assert clocks.read(ONE, now_ns=DAY) == 0


# --- time that is none ---------------------------------------------------------------------


def test_of_the_time_for_which_the_process_was_stopped_only_one_step_counts():
    clocks = SilenceClocks(longest_step_ns=HOUR)
    clocks.use(ONE, now_ns=0)
    clocks.station_connected(AVA, now_ns=0)
    assert clocks.read(ONE, now_ns=HOUR) == HOUR
    assert clocks.read(ONE, now_ns=HOUR + 3 * DAY) == 2 * HOUR
    clocks.station_disconnected(AVA, now_ns=HOUR + 3 * DAY + S)
    assert clocks.readings(now_ns=9 * DAY) == {ONE: 2 * HOUR + S}


def test_a_monotonic_time_that_goes_back_is_not_believed():
    clocks = clocks_with(ONE)
    clocks.station_connected(AVA, now_ns=100 * S)
    assert clocks.read(ONE, now_ns=110 * S) == 10 * S
    assert clocks.read(ONE, now_ns=50 * S) == 10 * S
    assert clocks.read(ONE, now_ns=55 * S) == 15 * S


# --- what outlives the process -------------------------------------------------------------


def test_a_clock_goes_on_where_an_earlier_process_has_written_it_down():
    earlier = clocks_with(ONE, BOTH)
    earlier.station_connected(DIEHL, now_ns=0)
    readings = earlier.readings(now_ns=7 * S)
    assert readings == {ONE: 0, BOTH: 7 * S}

    clocks = SilenceClocks()
    clocks.recall(readings, now_ns=DAY)
    assert clocks.use(BOTH, now_ns=DAY) == 7 * S
    clocks.station_connected(AVA, now_ns=2 * DAY)
    assert clocks.read(BOTH, now_ns=2 * DAY + S) == 8 * S


def test_what_was_recalled_and_is_used_by_nobody_is_dropped_and_told():
    clocks = SilenceClocks()
    clocks.recall({ONE: 5 * S, BOTH: 6 * S}, now_ns=0)
    clocks.use(ONE, now_ns=0)
    assert clocks.readings(now_ns=0) == {ONE: 5 * S}
    clocks.drop_unused()
    clocks.station_connected(AVA, now_ns=0)
    assert clocks.read(BOTH, now_ns=S) == 0
    assert clocks.take_unused() == {BOTH}
    assert clocks.take_unused() == set()


def test_a_clock_is_kept_for_as_long_as_one_end_point_goes_by_it():
    clocks = clocks_with(ONE, ONE)
    clocks.release(ONE)
    assert clocks.readings(now_ns=0) == {ONE: 0}
    clocks.release(ONE)
    assert clocks.readings(now_ns=0) == {}
    assert clocks.take_unused() == {ONE}


def test_a_clock_that_is_in_use_again_is_not_told_as_unused_and_begins_anew():
    clocks = clocks_with(ONE)
    clocks.station_connected(AVA, now_ns=0)
    assert clocks.read(ONE, now_ns=5 * S) == 5 * S
    clocks.release(ONE)
    assert clocks.use(ONE, now_ns=6 * S) == 0
    assert clocks.take_unused() == set()
    assert clocks.read(ONE, now_ns=7 * S) == S


def test_to_release_what_nobody_uses_is_a_mistake():
    with pytest.raises(KeyError):
        SilenceClocks().release(ONE)


# --- against counting second by second -----------------------------------------------------

SETS = [NOBODY, ONE, BOTH, frozenset({DIEHL, MIROMICO}), frozenset({AVA, DIEHL, MIROMICO})]

steps = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["connect", "disconnect", "use", "release", "restart", "read"]),
        st.sampled_from([AVA, DIEHL, MIROMICO]),
        st.sampled_from(SETS),
    ),
    max_size=40,
)


class Counted:
    """Silence, counted second by second."""

    def __init__(self) -> None:
        self.connected: set[int] = set()
        self.readings: dict[frozenset[int], int] = {}
        self.users: dict[frozenset[int], int] = {}

    def second(self) -> None:
        for receivers in self.readings:
            if receivers & self.connected:
                self.readings[receivers] += 1

    def use(self, receivers: frozenset[int]) -> None:
        self.readings.setdefault(receivers, 0)
        self.users[receivers] = self.users.get(receivers, 0) + 1

    def release(self, receivers: frozenset[int]) -> None:
        self.users[receivers] -= 1
        if not self.users[receivers]:
            del self.users[receivers], self.readings[receivers]


@given(steps)
def test_the_clocks_read_what_counting_second_by_second_gives(steps):
    clocks, counted, now = SilenceClocks(), Counted(), 0
    told: set[frozenset[int]] = set()
    for seconds, what, bs_eui, receivers in steps:
        for _ in range(seconds):
            counted.second()
        now += seconds
        if what == "connect":
            clocks.station_connected(bs_eui, now_ns=now)
            counted.connected.add(bs_eui)
        elif what == "disconnect":
            clocks.station_disconnected(bs_eui, now_ns=now)
            counted.connected.discard(bs_eui)
        elif what == "use":
            assert clocks.use(receivers, now_ns=now) == counted.readings.get(receivers, 0)
            counted.use(receivers)
            told.discard(receivers)
        elif what == "release" and receivers in counted.users:
            clocks.release(receivers)
            counted.release(receivers)
            if receivers not in counted.users:
                told.add(receivers)
        elif what == "restart":
            assert clocks.take_unused() == told
            told.clear()
            readings = clocks.readings(now_ns=now)
            clocks = SilenceClocks()
            clocks.recall(readings, now_ns=now)
            for each, users in counted.users.items():
                for _ in range(users):
                    clocks.use(each, now_ns=now)
            counted.connected.clear()
        assert clocks.readings(now_ns=now) == counted.readings
    assert clocks.take_unused() == told


@given(
    st.lists(
        st.tuples(st.integers(-3, 9), st.sampled_from(["connect", "disconnect", "read"])),
        max_size=30,
    ),
    st.sampled_from([None, 1, 4]),
)
def test_a_clock_never_goes_back(steps, longest_step_ns):
    clocks = SilenceClocks(longest_step_ns=longest_step_ns)
    now, readings = 100, [clocks.use(BOTH, now_ns=100)]
    for step, what in steps:
        now += step
        if what == "connect":
            clocks.station_connected(AVA, now_ns=now)
        elif what == "disconnect":
            clocks.station_disconnected(AVA, now_ns=now)
        readings.append(clocks.read(BOTH, now_ns=now))
    assert all(before <= after for before, after in pairwise(readings))
