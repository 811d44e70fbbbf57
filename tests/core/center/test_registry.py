from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bssci.core.center.receptions import Heard, Reception, Telegram
from bssci.core.center.records import StationRecord
from bssci.core.center.registry import BaseStation, Registry, position_of, unix_time_ns
from bssci.core.protocol.messages import Connect, StatusResponse, UplinkData

MS = 1_000_000
S = 1_000_000_000
NOW = 1_756_625_812 * S
AVA, DIEHL, MIROMICO = 0x70B3D59CD0000951, 0x000732000077E21D, 0x9C65F9FFFE0000C1
SENSOR = 0xFCA84A030000127C


def connect(bs_eui=AVA, **changes) -> Connect:
    told: dict[str, Any] = {"version": "1.0.0", "bidi": True, "sn_bs_uuid": bytes(16)}
    return Connect(bs_eui=bs_eui, **(told | changes))


def status(time, **changes) -> StatusResponse:
    told: dict[str, Any] = {"code": 0, "message": "ok", "duty_cycle": 0.0}
    return StatusResponse(time=time, **(told | changes))


def registry_with(*stations: int, **bounds) -> Registry:
    registry = Registry(**bounds)
    for bs_eui in stations:
        registry.station_connected(connect(bs_eui), since_ns=NOW)
    return registry


def telegram(*stations: int, ep_eui=SENSOR, packet_cnt=1) -> Telegram:
    heard_by = [
        Heard(
            Reception(
                row,
                bs_eui,
                NOW,
                b"",
                UplinkData(
                    ep_eui=ep_eui,
                    rx_time=NOW,
                    packet_cnt=packet_cnt,
                    snr=1.0,
                    rssi=1.0,
                    user_data=b"",
                    dl_open=False,
                    response_exp=False,
                    dl_ack=False,
                ),
                b"",
            ),
            None,
        )
        for row, bs_eui in enumerate(stations)
    ]
    return Telegram(
        ep_eui=ep_eui,
        packet_cnt=packet_cnt,
        digest=bytes(16),
        counter_reused=False,
        receptions=tuple(heard_by),
        received_ns=NOW,
        row=0,
    )


# --- numbers that base stations send -------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1_756_122_544_310_347_284, 1_756_122_544_310_347_284),
        (1_756_625_812_082_000, 1_756_625_812_082_000_000),
        (1_756_625_812_082, 1_756_625_812_082_000_000),
        (1_756_625_812, None),
        (10**18, 10**18),
        (10**19, None),
        (10**18 - 1, None),
        (10**16, None),
        (10**15, 10**18),
        (10**13, None),
        (10**12, 10**18),
        (10**12 - 1, None),
        (0, None),
    ],
)
def test_the_unit_of_a_time_is_told_by_its_magnitude(time, expected):
    assert unix_time_ns(time) == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, None),
        ((0.0, 0.0, 0.0), None),
        ((0.0, 0.0, 300.0), None),
        ((91.0, 0.0, 0.0), None),
        ((0.0, 181.0, 0.0), None),
        ((49.5, 11.0, 300.0), (49.5, 11.0, 300.0)),
        ((0.0, 11.0, 0.0), (0.0, 11.0, 0.0)),
        ((-90.0, -180.0, 0.0), (-90.0, -180.0, 0.0)),
    ],
)
def test_zeros_and_impossible_numbers_are_no_position(sent, expected):
    assert position_of(sent) == expected


# --- base stations -------------------------------------------------------------------------


def test_the_authority_of_a_base_station_s_certificate_is_remembered_while_it_is_away():
    registry = Registry()
    registry.station_connected(connect(), since_ns=NOW, issuer="ab")
    eui = connect().bs_eui
    registry.station_disconnected(eui, since_ns=NOW + S)
    assert [each.issuer for each in registry.base_stations()] == ["ab"]
    registry.station_connected(connect(), since_ns=NOW + S, issuer="cd")
    assert [each.issuer for each in registry.base_stations()] == ["cd"]


def test_a_base_station_is_shown_as_it_introduced_itself():
    registry = Registry()
    told = connect(
        vendor="Diehl Metering",
        model="MIOTY Premium Gateway",
        name="roof",
        sw_version="4.10.2",
        geo_location=(49.5, 11.0, 300.0),
        info={"anything": 1},
    )
    registry.station_connected(told, since_ns=NOW, address="192.0.2.1:4711")
    shown = BaseStation(
        eui=AVA,
        is_connected=True,
        since_ns=NOW,
        address="192.0.2.1:4711",
        name="roof",
        vendor="Diehl Metering",
        model="MIOTY Premium Gateway",
        sw_version="4.10.2",
        bidi=True,
        position=(49.5, 11.0, 300.0),
        uplinks=0,
        clock_offset_ns=None,
        status=None,
        status_ns=None,
    )
    assert registry.base_station(AVA) == shown
    registry.station_disconnected(AVA, since_ns=NOW + S)
    assert registry.base_stations() == [replace(shown, is_connected=False, since_ns=NOW + S)]
    assert registry.base_station(DIEHL) is None


def test_who_is_connected_is_known_at_any_time():
    registry = registry_with(DIEHL, AVA)
    assert registry.connected == {AVA, DIEHL}
    registry.station_disconnected(AVA, since_ns=NOW)
    registry.station_disconnected(AVA, since_ns=NOW + S)
    registry.station_disconnected(MIROMICO, since_ns=NOW)
    assert registry.connected == {DIEHL}
    assert [(s.eui, s.since_ns) for s in registry.base_stations()] == [(DIEHL, NOW), (AVA, NOW)]


def test_a_lost_fix_does_not_move_a_base_station():
    registry = Registry()
    registry.station_connected(connect(geo_location=(49.5, 11.0, 300.0)), since_ns=NOW)
    registry.station_connected(connect(geo_location=(0.0, 0.0, 0.0)), since_ns=NOW)
    registry.status_received(
        AVA, status(NOW, geo_location=(0.0, 0.0, 0.0)), sent_ns=NOW, received_ns=NOW
    )
    assert [s.position for s in registry.base_stations()] == [(49.5, 11.0, 300.0)]
    moved = status(NOW, geo_location=(50.0, 12.0, 0.0))
    registry.status_received(AVA, moved, sent_ns=NOW, received_ns=NOW)
    assert [s.position for s in registry.base_stations()] == [(50.0, 12.0, 0.0)]


def test_receptions_are_counted_for_base_stations_that_are_known():
    registry = registry_with(AVA)
    for bs_eui in (AVA, AVA, DIEHL):
        registry.uplink_received(bs_eui)
    assert [(s.eui, s.uplinks) for s in registry.base_stations()] == [(AVA, 2)]


def test_the_base_station_that_is_away_longest_is_forgotten_first():
    registry = registry_with(AVA, DIEHL, max_base_stations=2)
    registry.status_received(AVA, status(NOW), sent_ns=NOW, received_ns=NOW)
    registry.station_disconnected(AVA, since_ns=NOW)
    registry.station_disconnected(DIEHL, since_ns=NOW)
    registry.station_connected(connect(MIROMICO), since_ns=NOW)
    assert [s.eui for s in registry.base_stations()] == [DIEHL, MIROMICO]
    assert registry.clock_offset(AVA) is None


def test_connected_base_stations_are_never_forgotten():
    registry = registry_with(AVA, DIEHL, max_base_stations=1)
    assert [s.eui for s in registry.base_stations()] == [DIEHL, AVA]
    registry.station_disconnected(AVA, since_ns=NOW)
    assert [s.eui for s in registry.base_stations()] == [DIEHL]


def test_one_that_came_back_is_not_the_one_that_is_away_longest():
    registry = registry_with(AVA, DIEHL, max_base_stations=2)
    registry.station_disconnected(AVA, since_ns=NOW)
    registry.station_disconnected(DIEHL, since_ns=NOW)
    registry.station_connected(connect(AVA), since_ns=NOW)
    registry.station_disconnected(AVA, since_ns=NOW)
    registry.station_connected(connect(MIROMICO), since_ns=NOW)
    assert [s.eui for s in registry.base_stations()] == [AVA, MIROMICO]


# --- what is remembered of base stations ---------------------------------------------------

RECORD = StationRecord(
    bs_eui=AVA,
    session=bytes(range(16)),
    since_ns=NOW,
    address="192.0.2.1:4711",
    name="roof",
    vendor="Diehl Metering",
    model="MIOTY Premium Gateway",
    sw_version="4.10.2",
    bidi=True,
    position=(49.5, 11.0, 300.0),
    uplinks=7,
)


def test_what_is_remembered_of_a_base_station_outlives_the_process():
    first = Registry()
    told = connect(
        vendor="Diehl Metering",
        model="MIOTY Premium Gateway",
        name="roof",
        sw_version="4.10.2",
        geo_location=(49.5, 11.0, 300.0),
    )
    first.station_connected(told, since_ns=NOW, address="192.0.2.1:4711")
    for _ in range(7):
        first.uplink_received(AVA)
    record = first.record(AVA, bytes(range(16)))
    assert record == RECORD
    first.station_disconnected(AVA, since_ns=NOW)
    second = Registry()
    second.recall_station(record)
    assert second.base_stations() == first.base_stations()
    assert second.connected == frozenset()
    assert second.record(AVA, bytes(range(16))) == RECORD


def test_a_base_station_that_is_not_known_has_no_record():
    with pytest.raises(KeyError):
        Registry().record(AVA, bytes(16))


def test_a_base_station_that_has_connected_is_not_recalled():
    registry = registry_with(AVA)
    before = registry.base_stations()
    registry.recall_station(RECORD)
    assert registry.base_stations() == before
    assert registry.connected == {AVA}


def test_a_recalled_base_station_goes_on_when_it_connects():
    registry = Registry()
    registry.recall_station(RECORD)
    registry.station_connected(connect(), since_ns=NOW + S, address="192.0.2.2:1")
    registry.uplink_received(AVA)
    assert registry.record(AVA, bytes(16)) == StationRecord(
        bs_eui=AVA,
        session=bytes(16),
        since_ns=NOW + S,
        address="192.0.2.2:1",
        bidi=True,
        position=(49.5, 11.0, 300.0),
        uplinks=8,
    )


def test_of_recalled_base_stations_no_more_are_kept_than_of_others():
    registry = Registry(max_base_stations=2)
    for bs_eui in (AVA, DIEHL, MIROMICO):
        registry.recall_station(replace(RECORD, bs_eui=bs_eui))
    assert [s.eui for s in registry.base_stations()] == [DIEHL, MIROMICO]


# --- clocks --------------------------------------------------------------------------------


def learn(registry: Registry, *errors_ns: int, took_ns=20 * MS, unit=1) -> int | None:
    for error_ns in errors_ns:
        time = (NOW + took_ns // 2 + error_ns) // unit
        registry.status_received(AVA, status(time), sent_ns=NOW, received_ns=NOW + took_ns)
    return registry.clock_offset(AVA)


def test_the_clock_error_is_measured_in_the_middle_of_the_status():
    registry = registry_with(AVA)
    assert registry.clock_offset(AVA) is None
    assert learn(registry, -2_749_514_000) == -2_749_514_000
    assert registry.base_station(AVA) == replace(
        registry_with(AVA).base_stations()[0],
        clock_offset_ns=-2_749_514_000,
        status=status(NOW + 10 * MS - 2_749_514_000),
        status_ns=NOW + 20 * MS,
    )


def test_a_clock_told_in_microseconds_is_understood():
    assert learn(registry_with(AVA), 39_000, unit=1_000) == 39_000


def test_a_clock_years_in_the_past_is_as_good_as_any():
    assert learn(registry_with(AVA), -85_443_199 * S) == -85_443_199 * S


def test_a_time_that_is_none_teaches_nothing_but_the_status_is_kept():
    registry = registry_with(AVA)
    odd = status(1_000, config={"anything": 1})
    registry.status_received(AVA, odd, sent_ns=NOW, received_ns=NOW)
    assert registry.clock_offset(AVA) is None
    assert [s.status for s in registry.base_stations()] == [status(1_000)]


def test_the_median_of_the_last_five_statuses_counts():
    registry = registry_with(AVA)
    assert learn(registry, 5 * MS, 900 * MS, 6 * MS) == 6 * MS
    assert learn(registry, 7 * MS, 8 * MS) == 7 * MS
    assert learn(registry, 9 * MS, 9 * MS, 9 * MS) == 9 * MS


def test_a_status_that_took_long_counts_only_where_there_is_none_better():
    registry = registry_with(AVA)
    assert learn(registry, 5 * S, took_ns=20 * S) == 5 * S
    assert learn(registry, 0) == 0
    assert learn(registry, 5 * S, took_ns=20 * S) == 0


def test_a_clock_that_was_set_is_believed_at_once():
    registry = registry_with(AVA)
    learn(registry, *[-85_443_199 * S] * 5)
    assert learn(registry, 3 * MS) == 3 * MS


def test_a_base_station_that_is_not_known_teaches_nothing():
    registry = Registry()
    assert learn(registry, 5) is None
    assert registry.base_stations() == []


def test_the_clock_error_outlasts_a_connection():
    registry = registry_with(AVA)
    learn(registry, 5 * S)
    registry.station_disconnected(AVA, since_ns=NOW)
    registry.station_connected(connect(AVA), since_ns=NOW)
    assert registry.clock_offset(AVA) == 5 * S


def test_a_recalled_clock_error_serves_until_the_base_station_connects():
    registry = Registry(max_base_stations=1)
    registry.recall_clock(AVA, 7 * S)
    registry.recall_clock(DIEHL, 7 * S)
    assert (registry.clock_offset(AVA), registry.clock_offset(DIEHL)) == (7 * S, None)
    registry.station_connected(connect(AVA), since_ns=NOW)
    assert registry.clock_offset(AVA) is None
    registry.recall_clock(AVA, 8 * S)
    assert registry.clock_offset(AVA) is None


def test_a_recalled_base_station_has_its_recalled_clock_error_until_it_connects():
    registry = Registry()
    registry.recall_station(RECORD)
    registry.recall_clock(AVA, 7 * S)
    assert registry.clock_offset(AVA) == 7 * S
    registry.station_connected(connect(AVA), since_ns=NOW)
    registry.recall_clock(AVA, 7 * S)
    assert registry.clock_offset(AVA) is None


# --- end points ----------------------------------------------------------------------------


def test_nothing_is_expected_of_an_end_point_that_was_heard_once():
    registry = registry_with(AVA, DIEHL)
    assert registry.expected_receivers(SENSOR) == frozenset()
    registry.heard(telegram(AVA))
    assert registry.expected_receivers(SENSOR) == frozenset()
    registry.heard(telegram(AVA))
    assert registry.expected_receivers(SENSOR) == {AVA}


def test_where_one_base_station_is_connected_it_is_the_one():
    registry = registry_with(AVA)
    assert registry.expected_receivers(SENSOR) == {AVA}


def test_half_of_the_last_eight_telegrams_is_usually():
    registry = registry_with(AVA, DIEHL, MIROMICO)
    for heard_by in ([AVA, DIEHL, MIROMICO],) * 3 + ([AVA, DIEHL],) + ([AVA],) * 4:
        registry.heard(telegram(*heard_by))
    assert registry.expected_receivers(SENSOR) == {AVA, DIEHL}
    registry.heard(telegram(AVA))
    assert registry.expected_receivers(SENSOR) == {AVA}


def test_a_base_station_that_no_longer_hears_is_forgotten_after_eight_telegrams():
    registry = registry_with(AVA, DIEHL)
    registry.heard(telegram(DIEHL))
    for _ in range(8):
        registry.heard(telegram(AVA))
    assert registry.expected_receivers(SENSOR) == {AVA}
    for _ in range(4):
        registry.heard(telegram(DIEHL))
    assert registry.expected_receivers(SENSOR) == {AVA, DIEHL}


def test_only_who_is_connected_is_expected():
    registry = registry_with(AVA, DIEHL, MIROMICO)
    for _ in range(2):
        registry.heard(telegram(AVA, DIEHL))
    registry.station_disconnected(AVA, since_ns=NOW)
    assert registry.expected_receivers(SENSOR) == {DIEHL}


def test_a_late_copy_of_the_last_telegram_teaches_who_hears():
    registry = registry_with(AVA, DIEHL)
    registry.heard_late(SENSOR, 1, DIEHL)
    registry.heard(telegram(AVA, packet_cnt=1))
    registry.heard(telegram(AVA, packet_cnt=2))
    registry.heard_late(SENSOR, 1, DIEHL)
    assert registry.expected_receivers(SENSOR) == {AVA}
    registry.heard_late(SENSOR, 2, DIEHL)
    registry.heard_late(SENSOR, 2, DIEHL)
    assert registry.expected_receivers(SENSOR) == {AVA, DIEHL}


def test_who_usually_hears_an_end_point_is_known_also_of_those_that_are_away():
    registry = registry_with(AVA, DIEHL, MIROMICO)
    assert registry.usual_receivers(SENSOR) == frozenset()
    registry.heard(telegram(AVA, MIROMICO))
    assert registry.usual_receivers(SENSOR) == {AVA, MIROMICO}
    for _ in range(2):
        registry.heard(telegram(AVA, DIEHL))
    registry.station_disconnected(AVA, since_ns=NOW)
    assert registry.usual_receivers(SENSOR) == {AVA, DIEHL}


def test_the_end_point_not_heard_longest_is_forgotten_first():
    registry = registry_with(AVA, DIEHL, max_end_points=2)
    for ep_eui in (1, 1, 2, 2, 1, 3, 3):
        registry.heard(telegram(AVA, ep_eui=ep_eui))
    assert [bool(registry.expected_receivers(ep_eui)) for ep_eui in (1, 2, 3)] == [
        True,
        False,
        True,
    ]


def test_end_points_heard_alike_share_their_memory():
    registry = registry_with(AVA, DIEHL)
    for ep_eui in (1, 2, 1, 2):
        registry.heard(telegram(AVA, ep_eui=ep_eui))
    assert registry.expected_receivers(1) is registry.expected_receivers(2)


def test_what_end_points_share_is_bounded(monkeypatch):
    monkeypatch.setattr("bssci.core.center.registry.MAX_SHARED", 2)
    registry = registry_with(*range(5))
    for ep_eui in range(10):
        for _ in range(2):
            registry.heard(telegram(ep_eui % 5, ep_eui=ep_eui))
    assert [registry.expected_receivers(ep_eui) for ep_eui in range(10)] == [
        {ep_eui % 5} for ep_eui in range(10)
    ]
    assert len(registry._station_sets) <= 2
    assert len(registry._station_tuples) <= 2
