from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.traces import (
    MAX_SIGHTS,
    UNKNOWN_OPERATION,
    Sight,
    Trace,
    first_ns_of,
    pack,
    sight_of,
    unpack,
    without_oldest,
)

S = 1_000_000_000
UNIX = 1_756_468_002 * S
AVA, DIEHL = 0x70B3D59CD0000951, 0x000732000077E21D
OPERATION = 77  # of another reception than those that a trace has


def trace(*sights: Sight, is_from_disk=False) -> Trace:
    """A telegram of which the first reception arrived at 100 s."""
    found = Trace(bytes(range(16)), 100 * S, UNIX, is_from_disk, [])
    for sight in sights:
        found.note(sight)
    return found


def values(found: Trace) -> tuple[object, ...]:
    return found.digest, found.first_ns, found.received_ns, found.is_from_disk, found.sights


# --- a sight -------------------------------------------------------------------------------


def test_with_an_unknown_clock_the_time_is_taken_as_it_is():
    assert sight_of(1, 50, 40, 9) == (1, 50, 40, 9)
    assert sight_of(1, 50, None, 9) == (1, 50, 50, 9)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, -(2**63) - 1, 2**80 + 5])
def test_a_number_that_is_no_time_still_fits_into_64_bits(number):
    eui, rx_time, corrected, _ = sight_of(2**64 - 1, number, -number, 0)
    assert eui == -1
    assert all(-(2**63) <= each < 2**63 for each in (rx_time, corrected))


# --- what a reception says -----------------------------------------------------------------

KNOWN = sight_of(AVA, UNIX, UNIX, 5)


@pytest.mark.parametrize(
    ("sight", "is_known"),
    [
        # The same operation, whatever else it says.
        (sight_of(DIEHL, 1, 1, 5), True),
        # The corrected times are 2 s apart, or more.
        (sight_of(DIEHL, 1, UNIX + 2 * S, OPERATION), True),
        (sight_of(DIEHL, 1, UNIX - 2 * S, OPERATION), True),
        (sight_of(DIEHL, 1, UNIX + 2 * S + 1, OPERATION), False),
        (sight_of(DIEHL, 1, UNIX - 2 * S - 1, OPERATION), False),
        # The same base station names the same time; its clock was set in between.
        (sight_of(AVA, UNIX, 1, OPERATION), True),
        (sight_of(DIEHL, UNIX, 1, OPERATION), False),
        (sight_of(AVA, UNIX + 1, 1, OPERATION), False),
        # It knows no time.
        (sight_of(AVA, 0, UNIX, OPERATION), False),
    ],
)
def test_a_reception_says_by_operation_or_time_that_it_is_of_a_telegram(sight, is_known):
    assert trace(KNOWN).has(sight) is is_known


def test_each_reception_serves_to_recognise_another():
    found = trace(KNOWN, sight_of(DIEHL, UNIX + 9 * S, UNIX + 9 * S, 6))
    assert found.has(sight_of(1, UNIX + 10 * S, UNIX + 10 * S, OPERATION))


def test_a_reception_without_time_is_known_by_its_operation_only():
    found = trace(sight_of(AVA, 0, None, 5))
    assert found.has(sight_of(AVA, 0, None, 5))
    assert not found.has(sight_of(AVA, 0, None, OPERATION))
    assert not found.has(sight_of(AVA, 1, None, OPERATION))


def test_nothing_is_known_of_a_telegram_whose_receptions_are_lost():
    assert not trace().has(KNOWN)
    assert not trace().contradicts(KNOWN)


@pytest.mark.parametrize(
    ("sight", "contradicts"),
    [
        (sight_of(AVA, UNIX + 2 * S, 1, OPERATION), False),
        (sight_of(AVA, UNIX + 2 * S + 1, 1, OPERATION), True),
        (sight_of(AVA, UNIX - 2 * S - 1, 1, OPERATION), True),
        (sight_of(DIEHL, UNIX + 60 * S, 1, OPERATION), False),
        (sight_of(AVA, 0, 1, OPERATION), False),
    ],
)
def test_only_what_the_same_base_station_heard_at_another_time_contradicts(sight, contradicts):
    assert trace(KNOWN, sight_of(DIEHL, 0, None, 6)).contradicts(sight) is contradicts


def test_a_reception_near_any_of_its_base_station_does_not_contradict():
    found = trace(KNOWN, sight_of(AVA, UNIX + 60 * S, UNIX, 6))
    assert not found.contradicts(sight_of(AVA, UNIX + 61 * S, 1, OPERATION))
    assert found.contradicts(sight_of(AVA, UNIX + 30 * S, 1, OPERATION))


# --- when it came --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received_ns", "now_ns", "from_disk", "is_from_disk", "is_within"),
    [
        # By the monotonic clock: the wall clock may jump.
        (UNIX + 999 * S, 103 * S, False, False, True),
        (UNIX + 999 * S, 103 * S + 1, False, False, False),
        # By the wall clock, to either side.
        (UNIX + 3 * S, 999 * S, False, False, True),
        (UNIX - 3 * S, 999 * S, False, False, True),
        (UNIX + 3 * S + 1, 999 * S, False, False, False),
        (UNIX - 3 * S - 1, 999 * S, False, False, False),
        # What one of them read from disk says nothing about the monotonic clock.
        (UNIX + 999 * S, 103 * S, True, False, False),
        (UNIX + 999 * S, 103 * S, False, True, False),
        (UNIX + 3 * S, 103 * S, True, True, True),
    ],
)
def test_a_window_is_of_the_monotonic_clock_or_else_of_the_wall_clock(
    received_ns, now_ns, from_disk, is_from_disk, is_within
):
    found = trace(is_from_disk=is_from_disk)
    assert found.is_within(3 * S, received_ns, now_ns, from_disk=from_disk) is is_within


# --- what is noted -------------------------------------------------------------------------


def test_the_same_time_at_the_same_base_station_is_noted_once():
    assert trace(KNOWN, sight_of(AVA, UNIX, 1, 6)).sights == [*KNOWN]


def test_another_time_or_another_base_station_is_noted_too():
    others = [sight_of(AVA, UNIX + 1, UNIX, 6), sight_of(DIEHL, UNIX, UNIX, 7)]
    assert trace(KNOWN, *others).sights == [*KNOWN, *others[0], *others[1]]


def test_no_more_is_noted_than_is_allowed():
    found = trace(*(sight_of(i, i, i, UNKNOWN_OPERATION) for i in range(MAX_SIGHTS + 1)))
    assert len(found.sights) == 4 * MAX_SIGHTS


# --- how little room it takes --------------------------------------------------------------

NUMBERS = st.integers(-(2**63), 2**63 - 1)
TRACES = st.builds(
    Trace,
    st.binary(min_size=16, max_size=16),
    NUMBERS,
    NUMBERS,
    st.booleans(),
    st.lists(NUMBERS, max_size=MAX_SIGHTS).map(lambda numbers: numbers * 4),
)


@given(st.lists(TRACES, max_size=4))
def test_what_is_packed_is_unpacked_in_order(traces):
    octets = b"".join(map(pack, traces))
    assert [*map(values, unpack(octets))] == [*map(values, traces)]


@given(st.lists(TRACES, min_size=1, max_size=4))
def test_the_oldest_is_told_and_forgotten_without_unpacking(traces):
    octets = b"".join(map(pack, traces))
    assert octets[:16] == traces[0].digest
    assert first_ns_of(octets) == traces[0].first_ns
    assert without_oldest(octets) == b"".join(map(pack, traces[1:]))


def test_a_telegram_with_one_reception_takes_65_octets_of_its_own():
    assert len(pack(trace(KNOWN))) == 65
