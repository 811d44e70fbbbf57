import contextlib

import pytest
import trio

from bssci.cli.monitor import watching
from bssci.cli.monitor.state import Known, Opened
from bssci.cli.monitor.watching import Watching
from bssci.core.center.rpc import BusyError, RequestError
from bssci.core.runtime.client import UnreachableError
from tests.cli.monitor import network
from tests.control import FakeService, Station
from tests.processes import in_background, wait_until

KITCHEN = int(network.KITCHEN, 16)
TOWER = f"{network.TOWER:016X}"


@pytest.fixture
def site(service):
    service.register(KITCHEN, name="Kitchen")
    service.register(int(network.BATH, 16), name="Bath")
    service.stations = [Station(network.TOWER, name="Tower")]
    service.uplinks = [*reversed(network.uplinks(3))]
    service.refused = network.refused()
    return service


@pytest.fixture
def quick(monkeypatch):
    """It asks more often than people like to wait."""
    monkeypatch.setattr(watching, "INTERVAL", 0.05)
    monkeypatch.setattr(watching, "SOON", 0.01)


def watch(folder):
    known = Known()
    return known, Watching(folder / "control.sock", known, lambda: None)


async def test_once_learns_all_that_can_be_asked_for(site, folder):
    known, watch_it = watch(folder)
    await watch_it.once()
    assert list(known.sensors) == [network.KITCHEN, network.BATH]
    assert list(known.stations) == [TOWER]
    assert list(known.uplinks) == ["uplink-3", "uplink-2", "uplink-1"]
    assert (known.refused, known.downlinks) == (site.refused, [])
    assert known.status["version"] == "1.2.3"
    assert site.told.count("sensors.list") == 1


async def test_once_without_a_service_is_an_error(folder):
    _, watch_it = watch(folder)
    with pytest.raises(UnreachableError, match="no service runs"):
        await watch_it.once()


async def test_what_happens_is_known_at_once(site, folder):
    known, watch_it = watch(folder)
    async with in_background(watch_it.run):
        await wait_until(lambda: known.status, "the first status")
        site.tell("uplink", network.uplink(50))
        site.tell("station", {"eui": TOWER, "state": "offline"})
        site.tell("gap", {"lost": 3})
        await wait_until(lambda: known.lost == 3, "the gap")
    assert [*known.uplinks][-1] == "uplink-50"
    assert [each.kind for each in known.events] == ["station", "gap"]


async def test_a_sensor_that_has_changed_is_asked_for(site, folder, quick):
    known, watch_it = watch(folder)
    async with in_background(watch_it.run):
        await wait_until(lambda: known.status, "the first status")
        site.register(int(network.ATTIC, 16), name="Attic")
        site.tell("sensor", {"eui": network.ATTIC, "name": "Attic", "event": "added"})
        await wait_until(lambda: network.ATTIC in known.sensors, "the new sensor")
        del site.sensors[KITCHEN]
        site.tell("sensor", {"eui": network.KITCHEN, "name": "Kitchen", "event": "removed"})
        await wait_until(lambda: network.KITCHEN not in known.sensors, "the end of the old one")
    assert site.told.count("sensors.list") == 1


async def test_when_many_have_changed_all_are_listed(site, folder, quick):
    known, watch_it = watch(folder)
    async with in_background(watch_it.run):
        await wait_until(lambda: known.status, "the first status")
        # While it waits for this answer, what has changed is collected.
        asked = site.told.count("status.get")
        site.until["status.get"] = lambda: len(known.stale) == 40
        await wait_until(lambda: site.told.count("status.get") > asked, "that it waits")
        for number in range(40):
            site.tell("sensor", {"eui": f"{number:016X}", "name": "", "event": "added"})
        await wait_until(lambda: site.told.count("sensors.list") > 1, "another listing")
        await wait_until(lambda: not known.stale, "everything asked for")
    assert site.told.count("sensors.get") < 32


async def test_what_is_looked_at_is_asked_for_again_and_again(site, folder, quick):
    known, watch_it = watch(folder)
    site.history[KITCHEN] = network.episodes()
    async with in_background(watch_it.run):
        await wait_until(lambda: known.status, "the first status")
        watch_it.look(Opened("sensor", network.KITCHEN))
        await wait_until(lambda: known.details, "the details")
        assert known.details["shape"]["warned_after"] == 129600.0
        assert known.details["history"] == network.episodes()
        site.uplinks.append(network.uplink(60))
        await wait_until(lambda: len(known.details["uplinks"]) == 3, "the new uplink")
        watch_it.look(None)
        assert known.details == {}


async def test_a_sensor_that_is_not_registered_has_details_without_a_shape(site, folder, quick):
    known, watch_it = watch(folder)
    async with in_background(watch_it.run):
        watch_it.look(Opened("sensor", "0200000000000009"))
        await wait_until(lambda: known.details, "the details")
    assert known.details["shape"] is None


async def test_the_service_may_go_and_come_back(folder, monkeypatch):
    """Nothing that came meanwhile is missing, and nothing is there twice."""
    monkeypatch.setattr(watching, "RECONNECT_MAX", 0.1)
    known, watch_it = watch(folder)
    first, second = FakeService(), FakeService()
    first.uplinks = [network.uplink(2)]
    second.uplinks = [network.uplink(2), network.uplink(1)]

    with contextlib.ExitStack() as on:
        on.enter_context(first.serving(folder / "control.sock"))
        async with in_background(watch_it.run):
            await wait_until(lambda: known.status, "the first status")
            assert known.gone == ""
            await trio.to_thread.run_sync(on.close)
            await wait_until(lambda: known.gone, "that it is gone")
            on.enter_context(second.serving(folder / "control.sock"))
            await wait_until(lambda: not known.gone, "that it is back")
            await wait_until(lambda: len(known.uplinks) == 2, "what came meanwhile")
            second.tell("uplink", network.uplink(50))
            await wait_until(lambda: len(known.uplinks) == 3, "an event")


async def test_a_service_that_does_not_answer_counts_as_gone(site, folder, monkeypatch):
    monkeypatch.setattr("bssci.cli.remote.ANSWER_TIMEOUT", 0.05)
    known, watch_it = watch(folder)
    site.until["status.get"] = lambda: False
    async with in_background(watch_it.run):
        await wait_until(lambda: known.gone, "that it is given up")
        assert "no answer within" in known.gone
        del site.until["status.get"]
        await wait_until(lambda: not known.gone and known.status, "that it is back")


async def test_what_the_service_refuses_is_told_and_the_rest_is_shown(site, folder):
    known, watch_it = watch(folder)
    site.faults["downlinks.list"] = BusyError("too much at once")
    await watch_it.once()
    assert (known.trouble, known.downlinks) == ("downlinks.list: too much at once", [])
    assert known.status is not None


async def test_a_change_is_made_by_the_service(site, folder):
    known, watch_it = watch(folder)
    with pytest.raises(UnreachableError):
        await watch_it.change("stations.disconnect", TOWER)
    async with in_background(watch_it.run):
        await wait_until(lambda: known.status, "the first status")
        assert await watch_it.change("sensors.detach", network.KITCHEN) == {
            "eui": network.KITCHEN, "confirmed": [TOWER], "pending": [], "refused": []
        }  # fmt: skip
        assert await watch_it.change("stations.disconnect", TOWER) == {"eui": TOWER}
        site.faults["sensors.attach"] = RequestError("no", hint="why not")
        with pytest.raises(RequestError, match="no"):
            await watch_it.change("sensors.attach", network.KITCHEN)
