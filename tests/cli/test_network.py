import itertools
from collections import Counter

import pytest

from bssci.cli.network import SUBPACKET_PITCH, SimulatedNetwork, subpacket_count
from bssci.core.protocol.codec import decode, encode

YEAR_NS = 365 * 24 * 3600 * 10**9


def some(network, count=200, **options):
    return list(itertools.islice(network.telegrams(**options), count))


def test_one_seed_gives_one_network():
    first, again, other = (SimulatedNetwork(seed=seed) for seed in (7, 7, 8))
    assert (first.stations, first.sensors, some(first)) == (
        again.stations,
        again.sensors,
        some(again),
    )
    assert some(first) != some(other)


def test_a_network_can_be_played_again():
    network = SimulatedNetwork()
    assert some(network) == some(network)


def test_only_times_depend_on_when_it_starts():
    network = SimulatedNetwork()
    early, late = some(network, 20), some(network, 20, start_ns=10**18)
    shift = {
        b.uplink.rx_time - a.uplink.rx_time
        for one, other in zip(early, late, strict=True)
        for a, b in zip(one.receptions, other.receptions, strict=True)
    }
    assert shift == {10**18}


def test_each_sensor_counts_its_telegrams():
    counters: dict[int, int] = {}
    for telegram in some(SimulatedNetwork(sensors=3)):
        (packet_cnt,) = {reception.uplink.packet_cnt for reception in telegram.receptions}
        assert packet_cnt == counters.get(telegram.sensor, packet_cnt - 1) + 1
        counters[telegram.sensor] = packet_cnt


def test_the_rate_is_kept():
    telegrams = some(SimulatedNetwork(rate=50.0), 2000)
    assert telegrams[-1].at == pytest.approx(40, rel=0.1)
    assert [telegram.number for telegram in telegrams] == list(range(1, 2001))


@pytest.mark.parametrize("stations", [3, 30])
def test_several_base_stations_hear_most_telegrams(stations):
    network = SimulatedNetwork(stations=stations, sensors=100)
    heard = Counter(len(telegram.receptions) > 1 for telegram in some(network, 1000))
    assert heard[True] > heard[False]
    assert all(telegram.receptions for telegram in some(network, 1000))


def test_a_network_grows_with_its_base_stations_and_nobody_hears_everything():
    network = SimulatedNetwork(stations=100, sensors=100)
    assert max(len(telegram.receptions) for telegram in some(network)) < 50


def test_one_base_station_hears_all():
    assert all(
        [reception.station for reception in telegram.receptions] == [0]
        for telegram in some(SimulatedNetwork(stations=1))
    )


def test_receptions_arrive_after_the_telegram_in_order():
    for telegram in some(SimulatedNetwork(stations=10)):
        arrivals = [reception.arrival for reception in telegram.receptions]
        assert arrivals == sorted(arrivals)
        assert telegram.at < arrivals[0]
        assert arrivals[-1] < telegram.at + 0.5


def errors(network):
    return [
        reception.uplink.rx_time - round(telegram.at * 1e9)
        for telegram in some(network)
        for reception in telegram.receptions
    ]


def test_clocks_are_right_to_some_milliseconds():
    assert max(map(abs, errors(SimulatedNetwork()))) < 6_000_000


def test_with_skew_clocks_are_wrong_by_seconds_and_one_by_years():
    # Times are counted from 1970 and not negative: a skewed network starts in our days.
    network = SimulatedNetwork(stations=5, skew=True)
    offsets = [abs(station.clock_error_ns) for station in network.stations]
    assert all(offset < 3 * 10**9 for offset in offsets[:-1])
    assert max(offsets[:-1]) > 10**8
    assert offsets[-1] > 2 * YEAR_NS
    assert min(errors(network)) < -2 * YEAR_NS


@pytest.mark.parametrize(("size", "format_", "count"), [(17, 0, 31), (11, 192, 26), (10, 0, 24)])
def test_subpackets_are_as_many_as_real_base_stations_report(size, format_, count):
    assert subpacket_count(size, format_) == count


def test_an_uplink_is_like_that_of_a_real_base_station():
    for telegram in some(SimulatedNetwork(sensors=3)):
        for reception in telegram.receptions:
            uplink = reception.uplink
            subpackets = uplink.subpackets
            assert subpackets is not None
            count = subpacket_count(len(uplink.user_data), uplink.format)
            assert 24 <= count <= 31
            assert len(subpackets.frequency) == len(subpackets.phase or ()) == count
            assert any(frequency % 1 for frequency in subpackets.frequency)
            assert uplink.rx_duration == SUBPACKET_PITCH * (count - 1)
            assert uplink.dl_open or not uplink.response_exp


def test_every_uplink_can_be_said():
    for telegram in some(SimulatedNetwork(), start_ns=1_756_122_544_310_347_284):
        for reception in telegram.receptions:
            assert decode(encode(reception.uplink)) == reception.uplink


def test_subpackets_can_be_left_out():
    (telegram,) = some(SimulatedNetwork(with_subpackets=False), 1)
    assert telegram.receptions[0].uplink.subpackets is None


def test_base_stations_can_have_the_euis_of_their_certificates():
    network = SimulatedNetwork(stations=3, station_euis=[11, 12])
    assert [station.eui for station in network.stations] == [11, 12, 0x02000000B5000003]


def test_base_stations_know_where_they_are():
    latitude, longitude, altitude = SimulatedNetwork().stations[0].geo_location
    assert 48 < latitude < 49
    assert 11 < longitude < 12
    assert altitude == 520


def test_sensors_can_be_registered_and_no_key_is_shown():
    sensor = SimulatedNetwork().sensors[1]
    assert (sensor.short_address, len(sensor.key), sensor.bidi) == (0x0002, 16, True)
    assert "key" not in repr(sensor)


def test_a_sensor_out_of_reach_is_still_heard_by_the_nearest_one(monkeypatch):
    monkeypatch.setattr("bssci.cli.network.TRANSMIT_POWER", -100.0)
    assert all(
        len(telegram.receptions) == 1
        and telegram.receptions[0].uplink.snr == pytest.approx(-6, abs=20)
        for telegram in some(SimulatedNetwork())
    )


@pytest.mark.parametrize("options", [{"stations": 0}, {"sensors": 0}, {"rate": 0.0}])
def test_an_empty_network_is_a_mistake(options):
    with pytest.raises(ValueError, match="at least one station"):
        SimulatedNetwork(**options)
