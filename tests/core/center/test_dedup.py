from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.dedup import Deduplicator
from bssci.core.center.receptions import (
    Heard,
    Outcome,
    Reception,
    SettledUplink,
    Sighting,
    Telegram,
    digest_of,
)
from bssci.core.protocol.messages import UplinkData

MS = 1_000_000
S = 1_000_000_000
DELAY = 2 * S
UNIX = 1_756_468_002 * S  # received_ns is UNIX + now_ns unless a test says otherwise
SENSOR = 0xFCA84A0300001276
AVA = 0x70B3D59CD0000951
MIROMICO = 0x9C65F9FFFE0000C1
LOST_IN_TIME = 0x3E5446FFFEE97B78
DIEHL = 0x000732000077E21D


def uplink(**changes) -> UplinkData:
    told: dict[str, Any] = {
        "op_id": 1,
        "ep_eui": SENSOR,
        "rx_time": UNIX,
        "packet_cnt": 658,
        "snr": 10.0,
        "rssi": -100.0,
        "user_data": b"\x01\x02\x03",
        "dl_open": False,
        "response_exp": False,
        "dl_ack": False,
    }
    return UplinkData(**(told | changes))


def reception(row, bs_eui, *, at_ns=0, session=b"session", **changes) -> Reception:
    told = {"op_id": row, "rx_time": UNIX + at_ns} | changes
    return Reception(row, bs_eui, UNIX + at_ns, session, uplink(**told), b"payload")


def take(
    dedup: Deduplicator, heard: Reception, *, now_ns=None, offset=0, expected=(), from_disk=False
) -> Outcome:
    return dedup.receive(
        heard,
        now_ns=heard.received_ns - UNIX if now_ns is None else now_ns,
        clock_offset_ns=offset,
        expected=frozenset(expected),
        from_disk=from_disk,
    )


def rows(telegrams) -> list[list[int]]:
    return [sorted(h.reception.row for h in t.receptions) for t in telegrams]


def settled(telegram, id_=1) -> tuple[SettledUplink, list[Sighting]]:
    """What the store gives back of a telegram."""
    kept = SettledUplink(
        id=id_,
        ep_eui=telegram.ep_eui,
        packet_cnt=telegram.packet_cnt,
        digest=telegram.digest,
        received_ns=telegram.received_ns,
        journal_row=telegram.row,
        body="{}",
    )
    return kept, [
        Sighting(h.reception.bs_eui, h.reception.uplink.rx_time, h.rx_time_corrected)
        for h in telegram.receptions
    ]


# --- when ----------------------------------------------------------------------------------


def test_nothing_is_due_where_nothing_was_heard():
    dedup = Deduplicator()
    assert dedup.next_due() is None
    assert dedup.oldest_open_row() is None
    assert dedup.due(5 * S) == []


def test_a_telegram_is_released_when_its_window_is_over_and_not_before():
    dedup = Deduplicator(delay_ns=DELAY)
    first = reception(7, AVA, at_ns=3 * S)
    assert take(dedup, first) is Outcome.FIRST
    assert (dedup.next_due(), dedup.oldest_open_row(), dedup.open_count) == (5 * S, 7, 1)
    assert dedup.due(5 * S - 1) == []
    assert dedup.due(5 * S) == [
        Telegram(
            ep_eui=SENSOR,
            packet_cnt=658,
            digest=digest_of(first.uplink),
            counter_reused=False,
            receptions=(Heard(first, first.uplink.rx_time),),
            received_ns=first.received_ns,
            row=7,
        )
    ]
    assert (dedup.next_due(), dedup.oldest_open_row(), dedup.open_count) == (None, None, 0)
    assert dedup.due(9 * S) == []


def test_a_copy_does_not_start_the_window_again():
    dedup = Deduplicator(delay_ns=DELAY)
    take(dedup, reception(1, AVA))
    assert take(dedup, reception(2, DIEHL, at_ns=DELAY - 1, snr=20.0)) is Outcome.COPY
    assert dedup.next_due() == DELAY
    assert rows(dedup.due(DELAY)) == [[1, 2]]


def test_a_telegram_is_complete_when_all_expected_base_stations_have_reported():
    dedup = Deduplicator()
    expected = {AVA, DIEHL}
    take(dedup, reception(1, MIROMICO), expected=expected)
    take(dedup, reception(2, AVA, at_ns=MS))
    take(dedup, reception(3, AVA, at_ns=2 * MS))
    assert dedup.due(3 * MS) == []
    take(dedup, reception(4, DIEHL, at_ns=4 * MS))
    assert dedup.next_due() == 4 * MS
    assert rows(dedup.due(4 * MS)) == [[1, 2, 4]]


def test_a_telegram_of_the_only_base_station_expected_is_due_at_once():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, at_ns=S), expected={AVA})
    assert dedup.next_due() == S
    assert rows(dedup.due(S)) == [[1]]


def test_without_early_the_window_decides_alone():
    dedup = Deduplicator(early=False, delay_ns=DELAY)
    take(dedup, reception(1, AVA), expected={AVA})
    assert dedup.due(DELAY - 1) == []
    assert rows(dedup.due(DELAY)) == [[1]]


def test_copies_that_come_before_a_complete_telegram_is_given_out_still_join_it():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA), expected={AVA})
    assert take(dedup, reception(2, DIEHL)) is Outcome.COPY
    assert rows(dedup.due(0)) == [[1, 2]]


def test_what_waited_only_for_a_base_station_that_is_gone_is_due():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, packet_cnt=1), expected={AVA, DIEHL})
    take(dedup, reception(2, AVA, packet_cnt=2), expected={AVA, DIEHL})
    take(dedup, reception(3, AVA, packet_cnt=3, ep_eui=5), expected={AVA, DIEHL, MIROMICO})
    dedup.disconnected(LOST_IN_TIME)
    assert dedup.due(0) == []
    dedup.disconnected(DIEHL)
    assert dedup.next_due() == 0
    assert rows(dedup.due(0)) == [[1], [2]]
    assert rows(dedup.due(10 * S)) == [[3]]


def test_a_later_telegram_waits_for_the_earlier_one_of_its_end_point():
    dedup = Deduplicator(delay_ns=DELAY)
    take(dedup, reception(1, AVA, packet_cnt=1), expected={AVA, DIEHL})
    take(dedup, reception(2, AVA, packet_cnt=2, at_ns=MS), expected={AVA})
    take(dedup, reception(3, AVA, packet_cnt=3, at_ns=MS), expected={AVA, DIEHL})
    take(dedup, reception(4, AVA, ep_eui=5, at_ns=MS), expected={AVA})
    assert rows(dedup.due(MS)) == [[4]]
    assert rows(dedup.due(DELAY)) == [[1], [2]]
    assert dedup.oldest_open_row() == 3
    assert rows(dedup.due(DELAY + MS)) == [[3]]


def test_a_later_telegram_follows_when_the_earlier_one_is_complete():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, packet_cnt=1), expected={AVA, DIEHL})
    take(dedup, reception(2, AVA, packet_cnt=2), expected={AVA})
    take(dedup, reception(3, DIEHL, packet_cnt=1))
    assert rows(dedup.due(0)) == [[1, 3], [2]]


def test_the_oldest_open_row_is_kept_while_later_ones_are_released():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, ep_eui=1), expected={AVA, DIEHL})
    take(dedup, reception(2, AVA, ep_eui=2), expected={AVA})
    take(dedup, reception(3, AVA, ep_eui=3), expected={AVA, DIEHL})
    assert rows(dedup.due(0)) == [[2]]
    assert (dedup.oldest_open_row(), dedup.open_count) == (1, 2)
    take(dedup, reception(4, DIEHL, ep_eui=1))
    assert rows(dedup.due(0)) == [[1, 4]]
    assert dedup.oldest_open_row() == 3


def test_a_jump_of_the_wall_clock_neither_hurries_nor_holds_back():
    dedup = Deduplicator(delay_ns=DELAY)
    first = reception(1, AVA)
    take(dedup, first, now_ns=0)
    jumped = replace(first, row=2, bs_eui=DIEHL, received_ns=first.received_ns + 10**9 * S)
    assert take(dedup, jumped, now_ns=1, offset=50 * S) is Outcome.COPY
    assert dedup.due(DELAY - 1) == []
    assert rows(dedup.due(DELAY)) == [[1, 2]]


def test_a_monotonic_time_that_goes_back_is_not_believed():
    dedup = Deduplicator(delay_ns=DELAY)
    take(dedup, reception(1, AVA), now_ns=5 * S)
    take(dedup, reception(2, AVA, packet_cnt=2), now_ns=S)
    assert dedup.due(3 * S) == []
    assert rows(dedup.due(7 * S)) == [[1], [2]]


def test_above_the_bound_the_oldest_is_released_before_its_window_ends():
    dedup = Deduplicator(max_open=2)
    for row in (1, 2, 3):
        take(dedup, reception(row, AVA, packet_cnt=row))
    assert dedup.next_due() == 0
    assert rows(dedup.due(0)) == [[1]]
    assert dedup.next_due() == 2 * S


def test_new_settings_hold_for_what_is_open():
    dedup = Deduplicator(delay_ns=DELAY)
    take(dedup, reception(1, AVA))
    dedup.configure(delay_ns=S, early=True, memory_ns=S, max_remembered=10)
    assert rows(dedup.due(S)) == [[1]]


# --- the same telegram ---------------------------------------------------------------------


def test_the_same_uplink_at_four_stations_is_one_telegram_however_wrong_their_clocks_are():
    """Measured: one station lags 2.7 s, one stands 2.7 years in the past."""
    dedup = Deduplicator(delay_ns=DELAY)
    skewed = (
        (AVA, 0, 0),
        (DIEHL, -447_000, -39_000),
        (MIROMICO, -2_749_638_000, -2_749_514_000),
        (LOST_IN_TIME, -85_443_199_404_359_000, -85_443_199_402_877_000),
    )
    outcomes = [
        # They deliver so late, one after another, that their arrival says nothing.
        take(dedup, reception(row, bs, at_ns=row * 60 * S, rx_time=UNIX + error), offset=offset)
        for row, (bs, error, offset) in enumerate(skewed)
    ]
    assert outcomes == [Outcome.FIRST, Outcome.COPY, Outcome.COPY, Outcome.COPY]
    (telegram,) = dedup.due(DELAY)
    corrected = sorted((heard.rx_time_corrected or 0) - UNIX for heard in telegram.receptions)
    assert corrected == [-1_482_000, -408_000, -124_000, 0]


def test_copies_of_stations_with_unknown_clocks_are_told_by_their_arrival():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA), offset=None)
    old = reception(2, LOST_IN_TIME, at_ns=S, rx_time=UNIX - 85_443_199 * S)
    assert take(dedup, old, offset=None) is Outcome.COPY
    (telegram,) = dedup.due(DELAY)
    assert [heard.rx_time_corrected for heard in telegram.receptions] == [None, None]


def test_with_an_unknown_clock_the_time_is_compared_as_it_is():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA), offset=None)
    late = reception(2, DIEHL, at_ns=60 * S, rx_time=UNIX + S)
    assert take(dedup, late, offset=None) is Outcome.COPY


def test_a_telegram_delayed_by_a_short_window_is_still_told_by_its_arrival():
    dedup = Deduplicator(delay_ns=0)
    take(dedup, reception(1, AVA))
    assert rows(dedup.due(0)) == [[1]]
    old = reception(2, LOST_IN_TIME, at_ns=S, rx_time=UNIX - 85_443_199 * S)
    assert take(dedup, old, offset=None) is Outcome.OVERDUE_COPY


def test_a_sensor_that_begins_anew_with_the_same_counter_and_content_is_published_again():
    dedup = Deduplicator(memory_ns=10**7 * S)
    take(dedup, reception(1, AVA))
    assert rows(dedup.due(DELAY)) == [[1]]
    days = 3 * 86_400 * S
    assert take(dedup, reception(2, AVA, at_ns=days)) is Outcome.FIRST
    assert rows(dedup.due(days + DELAY)) == [[2]]
    late = reception(3, DIEHL, at_ns=days + 60 * S, rx_time=UNIX + MS)
    assert take(dedup, late) is Outcome.OVERDUE_COPY, "of the first"
    assert dedup.remembered_count == 2


def test_what_a_reception_says_goes_before_when_it_came():
    """A copy held up for an hour arrives while the same counter and content are sent again."""
    dedup = Deduplicator(memory_ns=10_000 * S)
    take(dedup, reception(1, AVA))
    dedup.due(DELAY)
    take(dedup, reception(2, AVA, at_ns=3600 * S))
    held_up = reception(3, DIEHL, at_ns=3601 * S, rx_time=UNIX)
    assert take(dedup, held_up) is Outcome.OVERDUE_COPY
    assert rows(dedup.due(3602 * S)) == [[2]]


def test_the_same_operation_again_is_a_copy_whatever_it_says():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, op_id=5))
    dedup.due(DELAY)
    again = reception(2, AVA, op_id=5, at_ns=60 * S)
    assert take(dedup, again) is Outcome.OVERDUE_COPY
    other_session = reception(3, AVA, op_id=5, at_ns=120 * S, session=b"other")
    assert take(dedup, other_session) is Outcome.FIRST


def test_the_same_reception_time_at_the_same_base_station_is_a_copy():
    """It is sent again in a new session, and the clock was set in between."""
    dedup = Deduplicator()
    take(dedup, reception(1, AVA), offset=-85_443_199 * S)
    dedup.due(DELAY)
    again = reception(2, AVA, at_ns=60 * S, rx_time=UNIX, session=b"other")
    assert take(dedup, again, offset=0) is Outcome.OVERDUE_COPY
    elsewhere = reception(3, DIEHL, at_ns=120 * S, rx_time=UNIX)
    assert take(dedup, elsewhere, offset=-50 * S) is Outcome.FIRST


def test_a_base_station_that_knows_no_time_says_nothing_with_it():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, rx_time=0), offset=None)
    dedup.due(DELAY)
    assert take(dedup, reception(2, AVA, at_ns=60 * S, rx_time=0), offset=None) is Outcome.FIRST
    again = reception(3, AVA, at_ns=120 * S, rx_time=0, op_id=2)
    assert take(dedup, again, offset=None) is Outcome.COPY


def test_numbers_that_are_no_times_are_survived():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, rx_time=2**64 - 1), offset=-(2**62))
    assert rows(dedup.due(DELAY)) == [[1]]
    again = reception(2, AVA, at_ns=60 * S, rx_time=2**64 - 1)
    assert take(dedup, again, offset=None) is Outcome.OVERDUE_COPY


def test_other_end_points_counters_and_contents_are_other_telegrams():
    dedup = Deduplicator()
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"ep_eui": 1},
        {"packet_cnt": 1},
        {"format": 1},
        {"user_data": b""},
    )
    outcomes = [take(dedup, reception(i, AVA, **change)) for i, change in enumerate(changes)]
    assert outcomes == [Outcome.FIRST] * 3 + [Outcome.COUNTER_REUSED] * 2
    assert rows(dedup.due(DELAY)) == [[0], [1], [2], [3], [4]]


def test_what_a_base_station_delivers_at_once_after_an_outage_is_not_thrown_together():
    """A sensor that starts anew every minute sends the same counter and content each time."""
    dedup = Deduplicator()
    backlog = [
        reception(row, AVA, at_ns=3600 * S + row, rx_time=UNIX + row * 60 * S) for row in (1, 2, 3)
    ]
    assert [take(dedup, heard) for heard in backlog] == [Outcome.FIRST] * 3
    again = reception(4, AVA, at_ns=3601 * S, rx_time=UNIX + 120 * S, session=b"other")
    assert take(dedup, again, offset=-50 * S) is Outcome.COPY
    assert rows(dedup.due(3700 * S)) == [[1], [2], [3]]


# --- late copies, reused counters, epochs --------------------------------------------------


def test_a_copy_after_an_early_release_is_told_from_one_after_the_window():
    dedup = Deduplicator(delay_ns=DELAY)
    take(dedup, reception(1, AVA), expected={AVA})
    dedup.due(0)
    assert take(dedup, reception(2, DIEHL, at_ns=DELAY)) is Outcome.LATE_COPY
    third = reception(3, MIROMICO, at_ns=DELAY + 1, rx_time=UNIX)
    assert take(dedup, third) is Outcome.OVERDUE_COPY
    assert dedup.due(60 * S) == []


def test_a_copy_is_recognised_by_another_copy():
    """The first station's clock is wrong and unknown; the late ones agree with the second."""
    dedup = Deduplicator()
    take(dedup, reception(1, LOST_IN_TIME, rx_time=UNIX - 85_443_199 * S), offset=None)
    dedup.due(DELAY)
    assert take(dedup, reception(2, AVA, at_ns=DELAY)) is Outcome.LATE_COPY
    later = reception(3, DIEHL, at_ns=60 * S, rx_time=UNIX + DELAY)
    assert take(dedup, later) is Outcome.OVERDUE_COPY


def test_only_so_many_receptions_serve_to_recognise_others():
    dedup = Deduplicator()
    for i in range(40):
        take(dedup, reception(i, i, rx_time=UNIX + i * 10 * S), now_ns=0)
    assert len(dedup.due(DELAY)[0].receptions) == 40
    for i, expected in ((5, Outcome.OVERDUE_COPY), (39, Outcome.FIRST)):
        late = reception(100 + i, 1000, at_ns=60 * S, rx_time=UNIX + i * 10 * S)
        assert take(dedup, replace(late, received_ns=UNIX + 999 * S)) is expected


def test_a_reused_counter_is_marked_while_the_other_content_is_remembered():
    dedup = Deduplicator(memory_ns=600 * S)
    take(dedup, reception(1, AVA, user_data=b"a"))
    other = reception(2, AVA, user_data=b"b", at_ns=S)
    assert take(dedup, other) is Outcome.COUNTER_REUSED
    assert take(dedup, reception(3, DIEHL, user_data=b"b", at_ns=S)) is Outcome.COPY
    assert [(t.row, t.counter_reused) for t in dedup.due(3 * S)] == [(1, False), (2, True)]
    late = reception(4, DIEHL, user_data=b"b", at_ns=300 * S, rx_time=UNIX + S)
    assert take(dedup, late) is Outcome.OVERDUE_COPY
    # The first is forgotten now, the second is not.
    dedup.due(600 * S + 1)
    late = reception(5, MIROMICO, user_data=b"b", at_ns=600 * S + 2, rx_time=UNIX + S)
    assert take(dedup, late) is Outcome.OVERDUE_COPY
    again = reception(6, MIROMICO, user_data=b"b", at_ns=600 * S + 3)
    assert take(dedup, again) is Outcome.FIRST
    third = reception(7, AVA, user_data=b"c", at_ns=600 * S + 4)
    assert take(dedup, third) is Outcome.COUNTER_REUSED
    dedup.due(603 * S)
    dedup.due(2000 * S)
    fresh = reception(8, AVA, user_data=b"d", at_ns=2000 * S)
    assert take(dedup, fresh) is Outcome.FIRST


def test_two_new_contents_of_one_counter_after_the_first_was_forgotten():
    dedup = Deduplicator(memory_ns=600 * S)
    take(dedup, reception(1, AVA, user_data=b"a"))
    take(dedup, reception(2, AVA, user_data=b"b", at_ns=300 * S))
    dedup.due(601 * S)
    again = reception(3, AVA, user_data=b"a", at_ns=602 * S)
    assert take(dedup, again) is Outcome.COUNTER_REUSED


def test_what_is_forgotten_is_a_new_telegram():
    dedup = Deduplicator(memory_ns=600 * S)
    take(dedup, reception(1, AVA))
    dedup.due(600 * S)
    assert dedup.remembered_count == 1
    dedup.due(600 * S + 1)
    assert dedup.remembered_count == 0
    assert take(dedup, reception(2, AVA, at_ns=601 * S, rx_time=UNIX)) is Outcome.FIRST


def test_the_oldest_are_forgotten_first_when_there_are_too_many():
    dedup = Deduplicator(max_remembered=2)
    for row in (1, 2, 3):
        take(dedup, reception(row, AVA, packet_cnt=row), expected={AVA})
        dedup.due(0)
    assert dedup.remembered_count == 2
    outcomes = [take(dedup, reception(9, DIEHL, packet_cnt=cnt)) for cnt in (1, 2, 3)]
    assert outcomes == [Outcome.FIRST, Outcome.LATE_COPY, Outcome.LATE_COPY]


def test_after_an_attachment_nothing_earlier_matches():
    dedup = Deduplicator(memory_ns=600 * S)
    take(dedup, reception(1, AVA))
    take(dedup, reception(2, AVA, ep_eui=5))
    dedup.new_epoch(SENSOR)
    assert take(dedup, reception(3, AVA)) is Outcome.FIRST
    assert take(dedup, reception(4, AVA, user_data=b"b")) is Outcome.COUNTER_REUSED
    assert take(dedup, reception(5, DIEHL, ep_eui=5)) is Outcome.COPY
    assert rows(dedup.due(DELAY)) == [[1], [2, 5], [3], [4]]
    dedup.new_epoch(SENSOR)
    assert take(dedup, reception(6, AVA, user_data=b"c")) is Outcome.FIRST
    # Long after all that, the end point is like any other again.
    dedup.due(10_000 * S)
    dedup.due(20_000 * S)
    assert take(dedup, reception(7, AVA, at_ns=20_000 * S)) is Outcome.FIRST
    assert take(dedup, reception(8, DIEHL, at_ns=20_000 * S)) is Outcome.COPY


def test_an_epoch_lasts_as_long_as_its_end_point_is_heard():
    dedup = Deduplicator(memory_ns=600 * S)
    dedup.new_epoch(SENSOR)
    dedup.new_epoch(5)
    take(dedup, reception(1, AVA, at_ns=500 * S))
    dedup.due(900 * S)
    late = reception(2, DIEHL, at_ns=901 * S, rx_time=UNIX + 500 * S)
    assert take(dedup, late) is Outcome.OVERDUE_COPY


# --- which is best -------------------------------------------------------------------------


def test_receptions_stand_in_a_telegram_with_the_best_first():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, snr=20.0, eq_snr=3.0))
    take(dedup, reception(2, DIEHL, snr=5.0, eq_snr=9.0))
    take(dedup, reception(3, MIROMICO, snr=6.0, eq_snr=0.0, profile="eu868"))
    (telegram,) = dedup.due(DELAY)
    assert [heard.reception.row for heard in telegram.receptions] == [2, 1, 3]
    assert telegram.best.row == 2


def test_a_base_station_stands_once_in_a_telegram_with_its_better_reception():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA, snr=4.0))
    take(dedup, reception(2, AVA, snr=6.0, rx_time=UNIX + S))
    take(dedup, reception(3, AVA, snr=5.0))
    assert rows(dedup.due(DELAY)) == [[2]]


# --- after a restart -----------------------------------------------------------------------


def test_copies_of_a_telegram_that_was_settled_before_the_restart_are_recognised():
    before = Deduplicator()
    first, second = reception(1, AVA), reception(2, DIEHL, at_ns=S)
    take(before, first)
    take(before, second)
    kept, sightings = settled(before.due(DELAY)[0])
    after = Deduplicator()
    after.recall(kept, sightings, now_ns=0)
    after.recall(kept, sightings, now_ns=0)
    assert after.remembered_count == 1
    for again in (first, second):
        assert take(after, again, now_ns=0, from_disk=True) is Outcome.LATE_COPY
    third = reception(3, MIROMICO, at_ns=60 * S, rx_time=UNIX + MS)
    assert take(after, third, now_ns=0, from_disk=True) is Outcome.OVERDUE_COPY
    assert after.due(10 * S) == []


def test_a_recalled_telegram_whose_receptions_are_lost_is_told_by_its_arrival():
    before = Deduplicator()
    take(before, reception(1, AVA))
    kept, _ = settled(before.due(DELAY)[0])
    after = Deduplicator()
    after.recall(kept, [], now_ns=0)
    assert take(after, reception(2, DIEHL, at_ns=S), now_ns=0) is Outcome.LATE_COPY
    late = reception(3, DIEHL, at_ns=60 * S)
    assert take(after, late, now_ns=0) is Outcome.FIRST, "arrived a minute later by the wall clock"


def test_rows_read_back_together_are_as_far_apart_as_they_arrived():
    dedup = Deduplicator()
    take(dedup, reception(1, AVA), now_ns=0, from_disk=True)
    hour_later = reception(2, AVA, at_ns=3600 * S)
    assert take(dedup, hour_later, now_ns=0, from_disk=True) is Outcome.FIRST


def test_recalled_contents_of_one_counter_stand_beside_each_other():
    dedup = Deduplicator(memory_ns=600 * S)
    for id_, content in enumerate((b"a", b"b")):
        before = Deduplicator()
        take(before, reception(id_, AVA, user_data=content))
        kept, sightings = settled(before.due(DELAY)[0], id_)
        dedup.recall(kept, sightings, now_ns=0)
    for content in (b"a", b"b"):
        copy = reception(9, DIEHL, user_data=content)
        assert take(dedup, copy, from_disk=True) is Outcome.LATE_COPY
    assert take(dedup, reception(9, AVA, user_data=b"c")) is Outcome.COUNTER_REUSED


def test_what_is_recalled_is_bounded_and_forgotten_in_time():
    before = Deduplicator()
    for row in (1, 2, 3):
        take(before, reception(row, AVA, packet_cnt=row))
    after = Deduplicator(max_remembered=2, memory_ns=600 * S)
    for telegram in before.due(DELAY):
        after.recall(*settled(telegram), now_ns=50 * S)
    assert after.remembered_count == 2
    after.due(650 * S + 1)
    assert after.remembered_count == 0


# --- properties ----------------------------------------------------------------------------

STATIONS = {AVA: 0, DIEHL: -39_000, MIROMICO: -2_749_514_000, LOST_IN_TIME: -85_443_199 * S}


@st.composite
def conversations(draw) -> list[Reception]:
    """Telegrams of some end points, 5 s apart at least, heard by some base stations, in the order
    of arrival: within 1.5 s, or, where the link was down, up to 90 s late.
    """
    told = []
    for number in range(draw(st.integers(1, 8))):
        sensor = draw(st.integers(1, 3))
        sent_ns = number * 5 * S
        for bs_eui in draw(st.lists(st.sampled_from(list(STATIONS)), min_size=1, unique=True)):
            # Sensor 2 sends the same again and again: what arrives together is taken as one.
            slow = st.integers(1, 1500) if sensor == 2 else st.integers(1, 90_000)
            late = draw(st.one_of(st.integers(1, 1500), slow)) * MS
            error = STATIONS[bs_eui] + draw(st.integers(-6, 6)) * MS
            content = bytes((draw(st.integers(0, 1)) if sensor == 3 else 0,))
            told.append((sent_ns + late, bs_eui, sensor, sent_ns + error, number, content))
    contents = {number: content for _, _, _, _, number, content in told}
    return [
        reception(
            row,
            bs_eui,
            at_ns=at_ns,
            ep_eui=sensor,
            packet_cnt=0 if sensor == 2 else number,
            user_data=bytes((number,)) if sensor == 1 else contents[number],
            rx_time=UNIX + rx_time,
        )
        for row, (at_ns, bs_eui, sensor, rx_time, number, _) in enumerate(sorted(told), start=1)
    ]


def sent(heard: Reception) -> tuple[int, int]:
    """Which telegram it truly is of: the sensor, and the moment of sending."""
    moment = heard.uplink.rx_time - UNIX - STATIONS[heard.bs_eui]
    return heard.uplink.ep_eui, round(moment / (5 * S))


EXPECTATIONS = st.frozensets(st.sampled_from(list(STATIONS)))


@given(conversations(), st.data())
def test_each_telegram_is_released_once_and_in_order(receptions, data):
    dedup = Deduplicator(delay_ns=DELAY)
    released: list[Telegram] = []
    outcomes = []
    for heard in receptions:
        now_ns = heard.received_ns - UNIX
        released += dedup.due(now_ns)
        expected = data.draw(EXPECTATIONS)
        outcomes.append(take(dedup, heard, offset=STATIONS[heard.bs_eui], expected=expected))
        if data.draw(st.booleans()):
            dedup.disconnected(data.draw(st.sampled_from(list(STATIONS))))
        oldest = dedup.oldest_open_row()
        assert (oldest is None) == (dedup.open_count == 0)
    released += dedup.due(1000 * S)
    assert len(released) == len({sent(heard) for heard in receptions})
    assert [sent(t.best) for t in released if t.ep_eui == 1] == [
        first for first in dict.fromkeys(sent(heard) for heard in receptions) if first[0] == 1
    ]
    firsts = {t.row for t in released}
    assert firsts == {
        heard.row
        for heard, outcome in zip(receptions, outcomes, strict=True)
        if not outcome.is_copy
    }
    for telegram in released:
        assert {sent(heard.reception) for heard in telegram.receptions} == {sent(telegram.best)}
    for ep_eui in (1, 2, 3):
        in_order = [t.row for t in released if t.ep_eui == ep_eui]
        assert in_order == sorted(in_order)
    assert (dedup.open_count, dedup.next_due(), dedup.oldest_open_row()) == (0, None, None)


@given(conversations(), st.data())
def test_a_kill_at_any_moment_neither_loses_nor_repeats_a_telegram(receptions, data):
    dedup = Deduplicator(delay_ns=DELAY, memory_ns=10**6 * S)
    disk: list[Telegram] = []
    settled_through = 0
    killed = data.draw(st.integers(0, len(receptions)))
    for heard in receptions[:killed]:
        take(dedup, heard, offset=STATIONS[heard.bs_eui], expected=data.draw(EXPECTATIONS))
        if data.draw(st.booleans()):
            disk += dedup.due(heard.received_ns - UNIX)
            oldest = dedup.oldest_open_row()
            settled_through = heard.row if oldest is None else oldest - 1
    dedup = Deduplicator(delay_ns=DELAY, memory_ns=10**6 * S)
    for id_, telegram in enumerate(disk):
        dedup.recall(*settled(telegram, id_), now_ns=0)
    for heard in receptions:
        if heard.row > settled_through:
            is_new = heard.row > killed
            now_ns = 10 * S + heard.received_ns - UNIX if is_new else 0
            disk += dedup.due(now_ns)
            offset = STATIONS[heard.bs_eui]
            take(dedup, heard, now_ns=now_ns, offset=offset, from_disk=not is_new)
    disk += dedup.due(1000 * S)
    assert len(disk) == len({sent(heard) for heard in receptions})


@given(conversations(), EXPECTATIONS, st.integers(0, 3 * S))
def test_no_telegram_waits_longer_than_its_window(receptions, expected, delay_ns):
    dedup = Deduplicator(delay_ns=delay_ns)
    for heard in receptions:
        now_ns = heard.received_ns - UNIX
        while (due_ns := dedup.next_due()) is not None and due_ns <= now_ns:
            for telegram in dedup.due(due_ns):
                assert due_ns - (telegram.received_ns - UNIX) <= delay_ns
        take(dedup, heard, offset=STATIONS[heard.bs_eui], expected=expected)
    assert dedup.next_due() is None or dedup.next_due() <= now_ns + delay_ns


@given(conversations(), st.integers(0, 3), st.integers(1, 60))
def test_everything_is_bounded_and_in_the_end_forgotten(receptions, max_remembered, memory):
    dedup = Deduplicator(max_remembered=max_remembered, memory_ns=memory * S, max_open=2)
    for heard in receptions:
        take(dedup, heard, offset=STATIONS[heard.bs_eui], expected={AVA, DIEHL})
        if heard.row % 3 == 0:
            dedup.new_epoch(heard.uplink.ep_eui)
        dedup.due(heard.received_ns - UNIX)
        assert dedup.open_count <= 2
        assert dedup.remembered_count <= max_remembered
    dedup.disconnected(AVA)
    dedup.disconnected(DIEHL)
    dedup.due(1000 * S)
    dedup.due(2000 * S)
    left = {name: value for name, value in vars(dedup).items() if hasattr(value, "__len__")}
    assert left == {name: type(value)() for name, value in left.items() if name != "_awaited"} | {
        "_awaited": {}
    }
