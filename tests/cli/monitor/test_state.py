from bssci.cli.monitor.state import MAX_BUCKETS, MAX_EVENTS, MAX_UPLINKS, Known
from tests.cli.monitor import network
from tests.control import NOW


def test_an_uplink_is_known_once_however_often_it_is_told():
    known = Known()
    known.take_latest(network.uplinks(3))
    known.take("uplink", NOW, network.uplink(1))
    known.take("uplink", NOW, network.uplink(50))
    assert list(known.uplinks) == ["uplink-3", "uplink-2", "uplink-1", "uplink-50"]
    assert known.seen == 1


def test_an_uplink_changes_what_is_known_of_its_sensor():
    known = network.known()
    known.stale.clear()
    known.take("uplink", NOW, network.uplink(77, cnt=1001, ago=0, snr=3.5))
    found = known.sensors[network.KITCHEN]
    assert {name: found[name] for name in ("last_seen", "last_cnt", "snr", "uplinks")} == {
        "last_seen": NOW, "last_cnt": 1001, "snr": 3.5, "uplinks": 1188
    }  # fmt: skip
    assert known.stale == set()


def test_a_sensor_that_is_heard_again_is_asked_for():
    known = network.known()
    known.stale.clear()
    known.take("uplink", NOW, network.uplink(77, eui=network.BATH))
    known.take("uplink", NOW, network.uplink(78, eui="70B3D59CD0000777"))
    stranger = network.uplink(79, eui="70B3D59CD0000778") | {"registered": False}
    known.take("uplink", NOW, stranger)
    assert known.stale == {network.BATH, "70B3D59CD0000777"}


def test_a_picture_stays_as_it_is():
    known = network.known()
    frozen = known.frozen()
    before = (dict(frozen.uplinks), list(frozen.events), dict(frozen.sensors), frozen.seen)
    known.take("uplink", NOW, network.uplink(99))
    known.take("sensor", NOW, {"eui": network.BATH, "event": "attached"})
    known.take_sensor(network.ATTIC, None)
    known.status = None
    after = (dict(frozen.uplinks), list(frozen.events), dict(frozen.sensors), frozen.seen)
    assert after == before
    assert (known.seen - frozen.seen, frozen.status) == (2, network.status())


def test_everything_is_bounded():
    known = Known()
    for number in range(MAX_UPLINKS + 10):
        known.take("uplink", NOW, network.uplink(number, ago=-5.0 * number))
        known.take("station", NOW, {"eui": "1", "state": "online"})
    assert (len(known.uplinks), len(known.events)) == (MAX_UPLINKS, MAX_EVENTS)
    assert len(known._buckets) == MAX_BUCKETS
    assert known.seen == 2 * (MAX_UPLINKS + 10)
    for number in range(500):
        known.take_stations(network.stations(time=NOW + number))
    assert {eui: len(each) for eui, each in known.loads.items()} == {
        f"{network.TOWER:016X}": 120, f"{network.MAST:016X}": 0, f"{network.SHED:016X}": 0
    }  # fmt: skip


def test_rates_are_receptions_a_second():
    known = Known()
    known.take_latest([network.uplink(1, ago=3.0), network.uplink(2, ago=4.0),
                       network.uplink(3, ago=11.0, stations=(network.TOWER,))])  # fmt: skip
    assert known.rates(NOW, 4) == [0.0, 0.2, 0.0, 0.8]


def test_what_is_lost_is_counted():
    known = Known()
    known.take("gap", NOW, {"lost": 4})
    known.take("gap", NOW, {"lost": 3})
    assert known.lost == 7


def test_a_status_of_a_base_station_is_no_event():
    known = Known()
    known.take("station", NOW, {"eui": "1", "state": "status"})
    assert (list(known.events), known.seen) == ([], 0)


def test_the_service_is_gone_since_it_was_noticed_first():
    known = Known()
    known.lose("no socket", NOW - 10)
    known.lose("no answer", NOW)
    assert (known.gone, known.gone_since) == ("no answer", NOW - 10)
    known.find()
    assert known.gone == ""


def test_sensors_stay_in_their_order():
    known = network.known()
    known.take_sensor("70B3D59CD0000001", network.sensor("70B3D59CD0000001", "New", "active"))
    known.take_sensor(network.BATH, None)
    assert list(known.sensors) == [
        "70B3D59CD0000001", network.KITCHEN, network.ATTIC, network.SILENT
    ]  # fmt: skip
