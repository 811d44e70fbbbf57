from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.end_points import EndPoint
from bssci.core.center.records import Hearing, Preferred, Spread, Wish
from bssci.core.center.roster import ACTIVITIES, Limits, Roster, activity_of, deviation

S = 1_000_000_000
HOUR = 3600 * S
UNIX = 1_756_468_002 * S
AVA, DIEHL = 0x70B3D59CD0000951, 0x000732000077E21D
SENSOR, OTHER, THIRD = 0x74731D0000000016, 0xFCA84A0300001276, 0xFCA84A030000127C
ONE, BOTH = frozenset({AVA}), frozenset({AVA, DIEHL})


def wish(eui=SENSOR, *, wanted="attached", cause="command", **fields) -> Wish:
    end_point = EndPoint(eui=eui, nwk_key=bytes(16), short_addr=eui & 0xFFFF, **fields)
    return Wish(end_point=end_point, wanted=wanted, cause=cause, since_ns=UNIX)


def roster_with(*wishes: Wish) -> Roster:
    roster = Roster()
    for each in wishes or (wish(),):
        roster.decide(each)
    return roster


def hear(roster: Roster, eui=SENSOR, *, snr=10.0, rssi=-100.0, **changes) -> Hearing | None:
    told: dict[str, Any] = {
        "packet_cnt": 658,
        "received_ns": UNIX,
        "bs_eui": AVA,
        "receivers": ONE,
        "heard_at": 5 * S,
    }
    roster.heard(eui, snr=snr, rssi=rssi, **(told | changes))
    return roster.hearing(eui)


FIRST = Hearing(
    uplinks=1,
    last_seen_ns=UNIX,
    last_cnt=658,
    last_snr=10.0,
    last_rssi=-100.0,
    snr=Spread(10.0, 10.0, 10.0),
    rssi=Spread(-100.0, -100.0, -100.0),
    preferred=Preferred(AVA, 10.0, UNIX, 1),
    receivers=ONE,
    heard_at=5 * S,
)

# --- who is registered ---------------------------------------------------------------------


def test_what_was_decided_last_is_wanted():
    roster = roster_with(wish(), wish(wanted="detached"))
    assert roster.wish(SENSOR) == wish(wanted="detached")
    assert (roster.wish(OTHER), SENSOR in roster, OTHER in roster) == (None, True, False)
    assert len(roster) == 1


def test_end_points_come_in_the_order_of_their_euis_however_they_came():
    roster = roster_with(wish(THIRD), wish(SENSOR), wish(OTHER), wish(SENSOR))
    assert list(roster) == [SENSOR, OTHER, THIRD]
    assert list(roster.after(-1)) == [SENSOR, OTHER, THIRD]
    assert list(roster.after(SENSOR)) == [OTHER, THIRD]
    assert list(roster.after(OTHER + 1)) == [THIRD]
    assert list(roster.after(THIRD)) == []


def test_nothing_is_known_of_an_end_point_that_was_forgotten():
    roster = roster_with(wish(SENSOR, name="roof"), wish(OTHER))
    hear(roster)
    roster.forget(SENSOR)
    roster.forget(SENSOR)
    assert list(roster) == [OTHER]
    assert (roster.wish(SENSOR), roster.hearing(SENSOR)) == (None, None)
    assert (roster.named("roof"), roster.take_hearings()) == ([], [])


def test_what_was_told_to_applications_is_noted_in_the_wish():
    roster = roster_with()
    roster.flag(SENSOR, is_announced=True)
    assert roster.wish(SENSOR) == replace(wish(), is_announced=True)
    roster.flag(SENSOR, is_announced=False, is_warned=True)
    assert roster.wish(SENSOR) == replace(wish(), is_warned=True)
    roster.flag(SENSOR)
    assert roster.wish(SENSOR) == replace(wish(), is_warned=True)


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("roof", [SENSOR]),
        (" ROOF ", [SENSOR]),
        ("strasse 5", [OTHER, THIRD]),
        ("Straße 5", [OTHER, THIRD]),
        ("cellar", []),
        ("", []),
        ("74731D0000000016", [SENSOR]),
        ("74-73-1d-00-00-00-00-16", [SENSOR]),
        ("74731D0000000017", []),
    ],
)
def test_an_end_point_is_found_by_its_eui_or_by_its_name(text, expected):
    roster = roster_with(
        wish(SENSOR, name="Roof"), wish(THIRD, name="Straße 5"), wish(OTHER, name="STRASSE 5")
    )
    assert roster.named(text) == expected


def test_a_renamed_end_point_is_not_found_by_its_old_name():
    roster = roster_with(wish(SENSOR, name="roof"), wish(OTHER, name="Roof"))
    roster.decide(wish(SENSOR, name="cellar"))
    assert (roster.named("roof"), roster.named("cellar")) == ([OTHER], [SENSOR])
    roster.decide(wish(OTHER))
    assert roster.named("roof") == []


def test_a_name_that_is_only_written_otherwise_still_names_it():
    roster = roster_with(wish(name="roof"), wish(name="ROOF"), wish(name="ROOF", timeout=60.0))
    assert roster.named("Roof") == [SENSOR]
    roster.forget(SENSOR)
    assert roster.named("roof") == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from([None, "", "a", "A", "b", "ß", "ss"]), st.booleans()
        )
    )
)
def test_order_and_names_are_what_looking_at_every_end_point_gives(steps):
    roster, names = Roster(), dict[int, str]()
    for eui, name, is_detached in steps:
        if name is None:
            roster.forget(eui)
            names.pop(eui, None)
        else:
            roster.decide(wish(eui, name=name, wanted="detached" if is_detached else "attached"))
            names[eui] = name
        assert list(roster) == sorted(names)
    for text in ("a", "b", "SS"):
        assert roster.named(text) == [
            eui for eui in sorted(names) if names[eui].casefold() == text.casefold()
        ]
    assert list(roster.after(2)) == [eui for eui in sorted(names) if eui > 2]


# --- what was heard ------------------------------------------------------------------------


def test_the_first_telegram_says_who_hears_the_end_point_and_how_well():
    roster = roster_with()
    assert (roster.hearing(SENSOR), roster.receivers(SENSOR)) == (None, None)
    assert hear(roster) == FIRST
    assert roster.receivers(SENSOR) == ONE


def test_another_telegram_adds_to_what_is_known():
    roster = roster_with()
    hear(roster)
    later = {"received_ns": UNIX + S, "packet_cnt": 659, "receivers": BOTH, "heard_at": 6 * S}
    assert hear(roster, snr=14.0, rssi=-104.0, **later) == Hearing(
        uplinks=2,
        last_seen_ns=UNIX + S,
        last_cnt=659,
        last_snr=14.0,
        last_rssi=-104.0,
        snr=Spread(12.0, 10.0, 14.0, 8.0),
        rssi=Spread(-102.0, -104.0, -100.0, 8.0),
        preferred=Preferred(AVA, 14.0, UNIX + S, 2),
        receivers=BOTH,
        heard_at=6 * S,
    )
    assert roster.receivers(SENSOR) == BOTH


def test_the_preferred_base_station_is_the_one_that_heard_best_last():
    roster = roster_with()
    found = [hear(roster, bs_eui=bs_eui) for bs_eui in (AVA, AVA, DIEHL, AVA)]
    assert [each.preferred for each in found if each] == [
        Preferred(AVA, 10.0, UNIX, 1),
        Preferred(AVA, 10.0, UNIX, 2),
        Preferred(DIEHL, 10.0, UNIX, 1),
        Preferred(AVA, 10.0, UNIX, 1),
    ]


def test_what_was_shown_does_not_change_with_the_next_telegram():
    roster = roster_with()
    shown = hear(roster)
    assert roster.hearing(SENSOR) is shown
    hear(roster, snr=99.0)
    assert shown == FIRST


def test_a_recalled_hearing_goes_on():
    roster, fresh = roster_with(), roster_with()
    for snr in (1.0, 2.0, 6.0):
        hear(roster, snr=snr)
    recalled = roster.hearing(SENSOR)
    assert recalled is not None
    fresh.recall(SENSOR, recalled)
    assert (fresh.hearing(SENSOR), fresh.take_hearings()) == (recalled, [])
    assert hear(fresh, snr=9.0) == hear(roster, snr=9.0)


def test_of_an_end_point_that_is_not_registered_nothing_is_learned():
    roster = roster_with()
    roster.recall(OTHER, FIRST)
    assert (hear(roster, OTHER), roster.take_hearings()) == (None, [])


def test_what_was_learned_is_told_once_to_be_stored():
    roster = roster_with(wish(SENSOR), wish(OTHER))
    for eui in (SENSOR, OTHER, SENSOR):
        hear(roster, eui)
    assert dict(roster.take_hearings()) == {
        SENSOR: roster.hearing(SENSOR),
        OTHER: roster.hearing(OTHER),
    }
    assert roster.take_hearings() == []
    hear(roster, OTHER)
    assert roster.take_hearings() == [(OTHER, roster.hearing(OTHER))]


figures = st.floats(-200.0, 100.0, width=32)


@given(st.lists(st.tuples(figures, figures), min_size=1, max_size=50))
def test_the_statistics_are_what_all_figures_together_give(pairs):
    roster = roster_with()
    for snr, rssi in pairs:
        hear(roster, snr=snr, rssi=rssi)
    found = roster.hearing(SENSOR)
    assert found is not None
    assert found.uplinks == len(pairs)
    for spread, told in zip((found.snr, found.rssi), zip(*pairs, strict=True), strict=True):
        assert (spread.least, spread.most) == (min(told), max(told))
        assert spread.mean == pytest.approx(statistics.fmean(told), abs=1e-9)
        assert deviation(spread, len(told)) == pytest.approx(statistics.pstdev(told), abs=1e-6)


def test_no_figures_do_not_deviate():
    assert deviation(Spread(0.0, 0.0, 0.0), 0) == 0.0


# --- packet counters that begin anew -------------------------------------------------------


def test_with_a_new_epoch_the_last_counter_is_0_and_to_be_stored():
    roster = roster_with()
    hear(roster)
    roster.take_hearings()
    roster.begin_epoch(SENSOR, UNIX + 5, heard_at=9 * S)
    begun = replace(FIRST, last_cnt=0, heard_at=9 * S)
    assert roster.hearing(SENSOR) == begun
    assert roster.take_hearings() == [(SENSOR, begun)]


def test_what_was_received_before_a_new_epoch_says_nothing_about_its_counters():
    roster = roster_with()
    roster.begin_epoch(SENSOR, UNIX + 5)
    assert hear(roster, received_ns=UNIX + 5) == replace(
        FIRST,
        last_cnt=0,
        last_seen_ns=UNIX + 5,
        preferred=Preferred(AVA, 10.0, UNIX + 5, 1),
    )
    assert [
        heard and heard.last_cnt
        for heard in (
            hear(roster, packet_cnt=1, received_ns=UNIX + 6),
            hear(roster, packet_cnt=659, received_ns=UNIX + 4),
            hear(roster, packet_cnt=2, received_ns=UNIX + 7),
        )
    ] == [1, 1, 2]


def test_a_later_process_knows_the_epoch_and_has_nothing_to_store():
    roster = roster_with(wish(), wish(OTHER))
    roster.recall(SENSOR, FIRST)
    roster.recall(OTHER, FIRST)
    roster.begin_epoch(SENSOR, UNIX)
    roster.begin_epoch(OTHER, UNIX - 1)
    assert [roster.hearing(each) for each in (SENSOR, OTHER)] == [
        replace(FIRST, last_cnt=0),
        FIRST,
    ]
    assert roster.take_hearings() == []


def test_the_epoch_of_one_that_is_not_registered_any_more_is_forgotten():
    roster = roster_with()
    roster.begin_epoch(SENSOR, UNIX)
    roster.forget(SENSOR)
    roster.begin_epoch(OTHER, UNIX)
    for each in (wish(), wish(OTHER)):
        roster.decide(each)
    assert (hear(roster), hear(roster, OTHER)) == (FIRST, FIRST)


# --- how it is doing -----------------------------------------------------------------------

LIMITS = Limits(36 * HOUR, 72 * HOUR)
OFF = replace(LIMITS, is_enabled=False)
ATTACHED, OWN = wish(), wish(timeout=3600.0)
DETACHED, SILENT = wish(wanted="detached"), wish(wanted="detached", cause="inactivity")


@pytest.mark.parametrize(
    ("known", "is_heard", "silent_ns", "limits", "is_held", "expected"),
    [
        (ATTACHED, False, 0, LIMITS, False, "never_seen"),
        (ATTACHED, False, 99 * HOUR, LIMITS, True, "never_seen"),
        (ATTACHED, True, 0, LIMITS, True, "active"),
        (ATTACHED, True, 36 * HOUR - 1, LIMITS, False, "active"),
        (ATTACHED, True, 36 * HOUR, LIMITS, True, "warning"),
        (ATTACHED, True, 72 * HOUR - 1, LIMITS, True, "warning"),
        (ATTACHED, True, 72 * HOUR, LIMITS, True, "detach_pending"),
        (ATTACHED, True, 99 * HOUR, OFF, True, "active"),
        (OWN, True, HOUR // 2 - 1, LIMITS, True, "active"),
        (OWN, True, HOUR // 2, LIMITS, True, "warning"),
        (OWN, True, HOUR, LIMITS, True, "detach_pending"),
        (OWN, True, HOUR, OFF, True, "active"),
        (DETACHED, True, 0, LIMITS, True, "detach_pending"),
        (DETACHED, False, 0, LIMITS, True, "detach_pending"),
        (DETACHED, True, 99 * HOUR, LIMITS, False, "detached"),
        (DETACHED, False, 0, OFF, False, "detached"),
        (SILENT, True, 99 * HOUR, LIMITS, True, "detach_pending"),
        (SILENT, True, 99 * HOUR, LIMITS, False, "auto_detached"),
        (SILENT, True, 0, OFF, False, "auto_detached"),
    ],
)
def test_how_an_end_point_is_doing(known, is_heard, silent_ns, limits, is_held, expected):
    hearing = FIRST if is_heard else None
    activity = activity_of(known, hearing, silent_ns=silent_ns, limits=limits, is_held=is_held)
    assert activity == expected
    assert activity in ACTIVITIES


def test_an_own_timeout_is_warned_of_at_the_same_share_of_it():
    assert LIMITS.of(ATTACHED) == LIMITS
    assert LIMITS.of(OWN) == Limits(HOUR // 2, HOUR)
    assert OFF.of(OWN) == Limits(HOUR // 2, HOUR, is_enabled=False)
    assert Limits(HOUR, 3 * HOUR).of(wish(timeout=0.25)) == Limits(S // 12, S // 4)
