from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.downlinks import Downlink, DownlinkRecord, Ending
from bssci.core.center.placement import COUNT, Placement, distance, is_before, is_past

AVA = 0x70B3D59CD0000951
SENSOR = 0xFCA84A030000127C
ENDING = Ending(result="expired", at_ns=7)
OVER_THE_AIR = 0


def downlink(*counters: int) -> Downlink:
    return Downlink(
        que_id=1,
        ep_eui=SENSOR,
        user_data=(b"hello",) * (len(counters) or 1),
        packet_cnt=counters or None,
        created_ns=0,
        expires_ns=9,
    )


def placement(**values: Any) -> Placement:
    entry = Placement(downlink(), deadline=9.0)
    for name, value in values.items():
        setattr(entry, name, value)
    return entry


def at_ava(**values: Any) -> Placement:
    return placement(holder=AVA, **values)


TOLD = {"is_told": True}
QUEUED = {"is_told": True, "is_queued": True}


# --- its record ----------------------------------------------------------------------------


def test_a_new_one_is_at_no_base_station_and_to_be_delivered():
    assert placement().record() == DownlinkRecord(downlink=downlink())


def test_its_record_says_all_that_must_outlive_the_process():
    values: dict[str, Any] = {
        "holder": AVA,
        "is_queued": True,
        "intent": "revoke",
        "ending": ENDING,
        "acknowledged_ns": 8,
    }
    assert placement(**values).record() == DownlinkRecord(downlink=downlink(), **values)


# --- what its holder is told ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({}, "queue"),
        ({"not_before": 9.0}, "queue"),
        (TOLD, None),
        (TOLD | {"on_way": "queue"}, None),
        (TOLD | {"on_way": "queue", "is_late": True}, None),
        (QUEUED, None),
        (QUEUED | {"not_before": 9.0}, None),
    ],
)
def test_its_holder_is_told_once_to_queue_it(values, what):
    assert at_ava(**values).due(5.0) == what


@pytest.mark.parametrize(
    "why", [{"ending": ENDING}, {"intent": "revoke"}, {"intent": "expire"}, {"is_moving": True}]
)
@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({}, "revoke"),
        (QUEUED, "revoke"),
        (QUEUED | {"not_before": 5.0}, "revoke"),
        (QUEUED | {"not_before": 5.1}, None),
        (TOLD | {"on_way": "queue"}, None),
        (TOLD | {"on_way": "queue", "is_late": True}, "revoke"),
        (QUEUED | {"on_way": "revoke"}, None),
        (QUEUED | {"on_way": "revoke", "is_late": True}, None),
    ],
)
def test_what_is_to_leave_is_taken_back_once_it_can_have_arrived(why, values, what):
    entry = at_ava(**why, **values)
    assert entry.is_to_leave()
    assert entry.due(5.0) == what


def test_what_is_to_be_delivered_stays():
    assert not at_ava(**QUEUED).is_to_leave()


@pytest.mark.parametrize("values", [{"grace_until": 9.0}, {"holder": None}])
def test_who_does_not_hold_it_is_told_nothing(values):
    assert placement(**({"holder": AVA, "intent": "revoke"} | values)).due(inf) is None


# --- waiting for a base station ------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"holder": AVA}, False),
        ({"ending": ENDING}, False),
        ({"intent": "revoke"}, False),
        ({"intent": "expire"}, False),
    ],
)
def test_it_waits_for_a_base_station_if_it_is_at_none_and_wanted(values, expected):
    assert placement(**values).is_pending() is expected


# --- operations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"on_way": "queue"}, True),
        ({"is_queued": True, "op_id": -8}, True),
        ({"is_queued": True, "op_id": -6}, False),
        ({"is_queued": True, "op_id": -6, "on_way": "revoke"}, False),
        ({"is_queued": True, "op_id": 0}, False),
        ({"is_queued": False, "op_id": -8}, False),
        ({}, False),
    ],
)
def test_a_revoke_is_outlived_by_what_was_queued_after_it(values, expected):
    assert at_ava(**values).has_outlived(-7) is expected


@pytest.mark.parametrize(
    ("op_id", "attach_op", "expected"),
    [
        (-1, -2, True),
        (-2, -1, False),
        (-1, OVER_THE_AIR, True),
        (0, -2, True),
        (0, OVER_THE_AIR, True),
    ],
)
def test_ids_fall_and_an_attach_over_the_air_comes_after_all_of_them(op_id, attach_op, expected):
    assert is_before(op_id, attach_op) is expected


# --- counters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(5, 6, 1), (5, 5, 0), (COUNT, 0, 1), (6, 5, COUNT), (2**32 - 1, 1, 2)],
)
def test_counters_are_compared_as_they_are_on_the_air(before, after, expected):
    assert distance(before, after) == expected


@given(st.integers(0, 2**32 - 1), st.integers(0, COUNT))
def test_so_many_uplinks_later_is_that_far_away(before, steps):
    assert distance(before, before + steps) == steps


@pytest.mark.parametrize(
    ("counters", "heard", "expected"),
    [
        ((), 9, False),
        ((5,), 4, False),
        ((5,), 5, False),
        ((5,), 6, True),
        ((5, 9), 6, False),
        ((5, 9), 10, True),
        ((COUNT,), 0, True),
        ((0,), COUNT, False),
        ((0,), COUNT // 2, True),
        ((0,), COUNT // 2 + 1, False),
    ],
)
def test_it_is_past_when_all_the_uplinks_that_it_is_for_came_before(counters, heard, expected):
    assert is_past(downlink(*counters), heard) is expected
