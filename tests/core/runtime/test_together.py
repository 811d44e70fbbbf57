"""Decisions side by side: how many there are, their order, and who is told what."""

import pytest
import trio

from bssci.core.protocol.errors import StorageError
from bssci.core.runtime import together as together_module
from bssci.core.runtime.life import Edit
from bssci.core.runtime.together import Together
from tests.life_fakes import FULL, SENSOR, end_point, open_house

MANY = 5


class Office:
    """End points that are attached, and decisions about them that take a second each."""

    def __init__(self, house):
        self.house = house
        self.together = Together(house.life)
        self.done = []
        self.decisions = house.store.decisions
        house.store.delay = 1.0

    async def want(self, number, wanted="detached", cause="command"):
        """Note what came of it, and when."""

        def make(known):
            return None if known is None else (known.end_point, wanted)

        try:
            before, after = await self.together.decide(Edit(SENSOR + number, make), cause)
        except StorageError as error:
            self.done.append((number, str(error), trio.current_time()))
        else:
            told = before and after and (before.wanted, after.wanted)
            self.done.append((number, told, trio.current_time()))

    @property
    def decided(self):
        return self.house.store.decisions - self.decisions


CHANGED = ("attached", "detached")


@pytest.fixture
async def office():
    house = await open_house()
    await house.want(*(end_point(SENSOR + number) for number in range(MANY)))
    return Office(house)


async def test_what_is_asked_for_side_by_side_is_one_decision(office, nursery, autojump_clock):
    for number in range(MANY):
        nursery.start_soon(office.want, number)
    await trio.sleep(10)
    assert sorted(office.done) == [(number, CHANGED, 1.0) for number in range(MANY)]
    assert office.decided == 1


async def test_what_comes_meanwhile_is_the_next_decision(office, nursery, autojump_clock):
    nursery.start_soon(office.want, 0)
    await trio.sleep(0.5)
    for number in (3, 1, 2):
        nursery.start_soon(office.want, number)
        await trio.sleep(0.1)
    await trio.sleep(10)
    assert office.done == [
        (0, CHANGED, 1.0),
        (3, CHANGED, 2.0),
        (1, CHANGED, 2.0),
        (2, CHANGED, 2.0),
    ]
    assert office.decided == 2


async def test_the_order_is_kept_whatever_the_cause(office, nursery, autojump_clock):
    for wanted, cause in (("detached", "command"), ("attached", "mqtt"), ("detached", "command")):
        nursery.start_soon(office.want, 0, wanted, cause)
        await trio.sleep(0.01)
    await trio.sleep(10)
    assert office.done == [
        (0, CHANGED, 1.0),
        (0, ("detached", "attached"), 2.0),
        (0, CHANGED, 3.0),
    ]
    assert office.house.events("attach", "detach") == [
        ("detach", SENSOR),
        ("attach", SENSOR),
        ("detach", SENSOR),
    ]


async def test_two_about_one_end_point_follow_on_each_other(office, nursery, autojump_clock):
    nursery.start_soon(office.want, 1)
    await trio.sleep(0.1)
    nursery.start_soon(office.want, 0)
    await trio.sleep(0.1)
    nursery.start_soon(office.want, 0, "attached")
    await trio.sleep(10)
    assert office.done[1:] == [(0, CHANGED, 2.0), (0, ("detached", "attached"), 2.0)]


async def test_one_that_is_not_registered_harms_no_other(office, nursery, autojump_clock):
    nursery.start_soon(office.want, MANY)
    nursery.start_soon(office.want, 0)
    await trio.sleep(10)
    assert sorted(office.done) == [(0, CHANGED, 1.0), (MANY, None, 1.0)]


async def test_no_decision_is_too_large(office, nursery, autojump_clock, monkeypatch):
    monkeypatch.setattr(together_module, "MOST", 2)
    for number in range(MANY):
        nursery.start_soon(office.want, number)
        await trio.sleep(0.1)
    await trio.sleep(10)
    assert office.done == [
        (0, CHANGED, 1.0),
        (1, CHANGED, 2.0),
        (2, CHANGED, 2.0),
        (3, CHANGED, 3.0),
        (4, CHANGED, 3.0),
    ]


async def test_when_the_disk_refuses_each_is_told_by_its_own_attempt(
    office, nursery, autojump_clock
):
    office.house.store.fault = FULL
    for number in range(3):
        nursery.start_soon(office.want, number)
        await trio.sleep(0.1)
    await trio.sleep(1)
    office.house.store.fault = None
    await trio.sleep(10)
    assert office.done == [(0, str(FULL), 1.0), (1, str(FULL), 2.0), (2, CHANGED, 3.0)]


@pytest.mark.parametrize(
    ("when", "done", "wanted"),
    [
        (0.5, [(0, CHANGED, 1.0), (2, CHANGED, 2.0)], "attached"),
        (1.5, [(0, CHANGED, 1.0), (1, CHANGED, 2.0), (2, CHANGED, 2.0)], "detached"),
    ],
    ids=["while it waits for its turn", "while it is decided on"],
)
async def test_one_that_gives_up_harms_no_other(
    office, nursery, autojump_clock, when, done, wanted
):
    """What is being decided is decided all the same."""
    patience = trio.CancelScope(deadline=trio.current_time() + when)

    async def give_up():
        with patience:
            await office.want(1)

    for task in (lambda: office.want(0), give_up, lambda: office.want(2)):
        nursery.start_soon(task)
        await trio.sleep(0.1)
    await trio.sleep(10)
    assert sorted(office.done) == done
    assert office.house.life.roster.wish(SENSOR + 1).wanted == wanted
