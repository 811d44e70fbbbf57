from __future__ import annotations

import pytest

from bssci.core.center.routes import RESTART, Routes
from bssci.core.protocol.messages import UplinkData

AVA, DIEHL, MIROMICO = 0x70B3D59CD0000951, 0x000732000077E21D, 0x9C65F9FFFE0000C1
SENSOR, OTHER, THIRD = 0xFCA84A030000127C, 0xFCA84A0300001276, 0x74731D0000000016
COUNT = 0xFFFFFF


def uplink(packet_cnt=5, snr=10.0, eq_snr=None, ep_eui=SENSOR, profile=None) -> UplinkData:
    return UplinkData(
        ep_eui=ep_eui,
        rx_time=0,
        packet_cnt=packet_cnt,
        snr=snr,
        rssi=-100.0,
        eq_snr=eq_snr,
        profile=profile,
        user_data=b"",
        dl_open=True,
        response_exp=False,
        dl_ack=False,
    )


def routes_after(*heard: tuple[int, UplinkData]) -> Routes:
    routes = Routes()
    for bs_eui, each in heard:
        routes.heard(bs_eui, each)
    return routes


# --- who has heard it ----------------------------------------------------------------------


def test_an_end_point_that_was_not_heard_cannot_be_reached():
    assert Routes().to(SENSOR) == ()
    assert routes_after((AVA, uplink())).to(OTHER) == ()


def test_the_base_stations_that_have_heard_it_best_come_first():
    routes = routes_after((AVA, uplink(snr=1.0)), (DIEHL, uplink(snr=3.0)))
    routes.heard(MIROMICO, uplink(snr=2.0))
    assert routes.to(SENSOR) == (DIEHL, MIROMICO, AVA)


def test_among_equals_the_first_one_comes_first():
    assert routes_after((DIEHL, uplink()), (AVA, uplink())).to(SENSOR) == (DIEHL, AVA)


def test_equivalent_snr_decides_where_every_base_station_knows_it():
    routes = routes_after((AVA, uplink(snr=3.0, eq_snr=1.0)), (DIEHL, uplink(snr=1.0, eq_snr=3.0)))
    assert routes.to(SENSOR) == (DIEHL, AVA)
    routes.heard(MIROMICO, uplink(snr=2.0))
    assert routes.to(SENSOR) == (AVA, MIROMICO, DIEHL)


def test_an_equivalent_snr_of_zero_counts_only_where_it_is_known():
    unknown = routes_after((AVA, uplink(snr=1.0, eq_snr=0.0)), (DIEHL, uplink(snr=2.0, eq_snr=-1)))
    assert unknown.to(SENSOR) == (DIEHL, AVA)
    known = routes_after(
        (AVA, uplink(snr=1.0, eq_snr=0.0, profile="eu1")), (DIEHL, uplink(snr=2.0, eq_snr=-1.0))
    )
    assert known.to(SENSOR) == (AVA, DIEHL)


# --- which uplink counts -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [(5, 6), (5, 900), (COUNT, 0), (COUNT, COUNT + 1), (2**32 - 1, 0), (RESTART + 9, 8)],
)
def test_a_newer_uplink_replaces_the_one_before(before, after):
    routes = routes_after((AVA, uplink(before, snr=30.0)), (DIEHL, uplink(after, snr=1.0)))
    assert routes.to(SENSOR) == (DIEHL,)


@pytest.mark.parametrize(("before", "after"), [(5, 4), (0, COUNT), (RESTART + 9, 10)])
def test_a_copy_of_an_earlier_uplink_that_comes_late_says_nothing(before, after):
    assert routes_after((AVA, uplink(before)), (DIEHL, uplink(after))).to(SENSOR) == (AVA,)


def test_counters_are_the_same_if_they_are_on_the_air():
    routes = routes_after((AVA, uplink(COUNT + 1 + 5)), (DIEHL, uplink(5)))
    assert routes.to(SENSOR) == (AVA, DIEHL)


# --- attaching -----------------------------------------------------------------------------


def test_who_took_the_attach_reaches_it_until_it_is_heard():
    routes = routes_after((AVA, uplink(900)))
    routes.attached(SENSOR, DIEHL)
    assert routes.to(SENSOR) == (DIEHL,)
    routes.attached(SENSOR, MIROMICO)
    assert routes.to(SENSOR) == (MIROMICO,)
    routes.heard(AVA, uplink(0))
    assert routes.to(SENSOR) == (AVA,)


def test_of_an_end_point_that_is_forgotten_nothing_is_known():
    routes = routes_after((AVA, uplink()), (AVA, uplink(ep_eui=OTHER)))
    routes.attached(OTHER, DIEHL)
    routes.heard(AVA, uplink(ep_eui=OTHER))
    for ep_eui in (SENSOR, OTHER, THIRD):
        routes.forget(ep_eui)
    assert [routes.to(ep_eui) for ep_eui in (SENSOR, OTHER)] == [(), ()]


# --- memory --------------------------------------------------------------------------------


def test_when_there_is_no_room_the_one_that_was_silent_longest_is_forgotten():
    routes = Routes(max_end_points=2)
    routes.heard(AVA, uplink(5, ep_eui=SENSOR))
    routes.heard(AVA, uplink(5, ep_eui=OTHER))
    routes.heard(AVA, uplink(6, ep_eui=SENSOR))
    routes.heard(AVA, uplink(5, ep_eui=THIRD))
    assert [routes.to(each) for each in (SENSOR, OTHER, THIRD)] == [(AVA,), (), (AVA,)]


def test_when_there_is_no_room_the_attach_that_was_longest_ago_is_forgotten():
    routes = Routes(max_end_points=2)
    for ep_eui in (SENSOR, OTHER, SENSOR, THIRD):
        routes.attached(ep_eui, AVA)
    assert [routes.to(each) for each in (SENSOR, OTHER, THIRD)] == [(AVA,), (), (AVA,)]
