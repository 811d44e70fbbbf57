import logging

import pytest
import trio

from bssci.core.center.expiry import Alarm
from bssci.core.runtime.expiry import CHECK_INTERVAL, ExpiryWatch

DAY = 86400.0


class World:
    """One certificate, a clock that is trio's, and what was told when."""

    def __init__(self, days):
        self.start = trio.current_time()
        self.end = days * DAY
        self.told: list[tuple[float, Alarm]] = []
        self.states: list[dict[str, object]] = []
        self.watch = ExpiryWatch(self.facts, tell=self.tell, changed=self.states.append)

    @property
    def now(self):
        return trio.current_time() - self.start

    def facts(self):
        days = int((self.end - self.now) // DAY)
        return [{"file": "sc.pem", "subject": "CN=sc", "not_after": self.end, "days": days}]

    def tell(self, alarm):
        self.told.append((self.now, alarm))


def alarm(days, threshold):
    return Alarm("sc.pem", "CN=sc", days, threshold)


@pytest.fixture
def world_of(nursery):
    def start(days):
        world = World(days)
        nursery.start_soon(world.watch.run)
        return world

    return start


async def test_an_alarm_comes_within_an_hour_of_its_threshold_and_once(autojump_clock, world_of):
    world = world_of(32)
    await trio.sleep(40 * DAY)
    assert [each for _, each in world.told] == [
        alarm(29, 30),
        alarm(6, 7),
        alarm(0, 1),
        alarm(-1, 0),
    ]
    due = [2 * DAY, 25 * DAY, 31 * DAY, 32 * DAY]
    late = [when - at for (when, _), at in zip(world.told, due, strict=True)]
    assert all(0 < each <= CHECK_INTERVAL for each in late)


async def test_what_is_due_at_the_start_is_told_at_once(autojump_clock, world_of):
    world = world_of(5.5)
    await trio.testing.wait_all_tasks_blocked()
    assert world.told == [(0, alarm(5, 7))]


async def test_a_renewal_is_seen_at_once_and_told_of_again_when_its_time_comes(
    autojump_clock, world_of
):
    world = world_of(5.5)
    await trio.testing.wait_all_tasks_blocked()
    world.end = 400.5 * DAY
    world.watch.look_soon()
    await trio.testing.wait_all_tasks_blocked()
    assert world.states == [{"expires_in_days": 400, "alarm": None}]
    await trio.sleep(371 * DAY)
    assert [each for _, each in world.told] == [alarm(5, 7), alarm(29, 30)]


async def test_the_state_is_told_when_it_changes_that_is_once_a_day(autojump_clock, world_of):
    world = world_of(31.5)
    assert world.watch.summary == {"expires_in_days": 31, "alarm": None}
    await trio.sleep(2.2 * DAY)
    assert world.states == [
        {"expires_in_days": 30, "alarm": None},
        {"expires_in_days": 29, "alarm": 30},
    ]
    assert world.watch.summary == world.states[-1]


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [
        (20.5, logging.WARNING, "expires in 20 days"),
        (1.5, logging.WARNING, "expires in 1 day;"),
        (0.5, logging.ERROR, "expires within a day"),
        (-0.5, logging.ERROR, "has expired: connections fail"),
    ],
)
async def test_the_log_says_it_more_loudly_the_later_it_is(
    autojump_clock, world_of, caplog, days, level, words
):
    world_of(days)
    await trio.testing.wait_all_tasks_blocked()
    (record,) = caplog.records
    assert (record.levelno, words in record.getMessage()) == (level, True)
    assert "certificate of CN=sc in sc.pem" in record.getMessage()
