"""`feed`: nobody waits for a slow reader, and what it loses is counted where it was lost."""

import pytest
import trio

from bssci.core.center.rpc import Event
from bssci.core.runtime.feed import Feed


def happening(number: int) -> Event:
    return Event("uplink", float(number), {"cnt": number})


def gap(time: float, lost: int) -> Event:
    return Event("gap", time, {"lost": lost})


def read(feed: Feed, count: int = 100) -> list[Event]:
    found: list[Event] = []
    while len(found) < count:
        try:
            found.append(feed.events.receive_nowait())
        except trio.WouldBlock:
            break
    return found


async def test_who_keeps_up_gets_everything_in_order():
    feed = Feed(8)
    for number in range(20):
        feed.tell(happening(number))
        assert read(feed) == [happening(number)]


async def test_what_does_not_fit_is_lost_and_a_gap_stands_in_its_place():
    feed = Feed(8)
    for number in range(20):
        feed.tell(happening(number))
    assert read(feed) == [*map(happening, range(7)), gap(7, 13)]


async def test_a_gap_goes_on_counting_until_the_reader_has_taken_half():
    feed = Feed(8)
    for number in range(8):
        feed.tell(happening(number))
    taken = read(feed, 3)
    feed.tell(happening(8))
    taken += read(feed, 1)
    feed.tell(happening(9))
    assert taken + read(feed) == [*map(happening, range(7)), gap(7, 2), happening(9)]


async def test_after_a_gap_was_read_the_next_one_begins_anew():
    feed = Feed(2)
    found = []
    for number in range(6):
        feed.tell(happening(number))
        if number in (2, 5):
            found.append(read(feed))
    assert found == [[happening(0), gap(1, 2)], [happening(3), gap(4, 2)]]


async def test_a_gap_that_comes_from_elsewhere_is_passed_on():
    feed = Feed(8)
    feed.tell(happening(0))
    feed.tell(gap(1, 900))
    feed.tell(happening(2))
    assert read(feed) == [happening(0), gap(1, 900), happening(2)]


async def test_gaps_that_meet_are_one():
    feed = Feed(4)
    for number in range(3):
        feed.tell(happening(number))
    feed.tell(gap(3, 900))
    feed.tell(happening(4))
    feed.tell(gap(5, 90))
    assert read(feed) == [*map(happening, range(3)), gap(3, 991)]


async def test_gaps_that_come_one_after_the_other_do_not_fill_the_feed():
    feed = Feed(4)
    feed.tell(happening(0))
    for number in range(1, 100):
        feed.tell(gap(number, 1))
    assert read(feed) == [happening(0), gap(1, 99)]


async def test_who_waits_gets_a_gap_at_once(autojump_clock):
    feed = Feed(8)
    found = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _():
            async for event in feed.events:
                found.append(event)  # noqa: PERF401  # one by one, as they come

        await trio.sleep(1)
        feed.tell(gap(1, 5))
        await trio.sleep(1)
        feed.tell(gap(2, 6))
        feed.close()
    assert found == [gap(1, 5), gap(2, 6)]


async def test_what_is_there_can_be_read_after_the_end():
    feed = Feed(8)
    feed.tell(happening(0))
    feed.close()
    assert [event async for event in feed.events] == [happening(0)]


async def test_nobody_notices_when_nobody_reads_any_more():
    feed = Feed(2)
    feed.events.close()
    for number in range(5):
        feed.tell(happening(number))
    with pytest.raises(trio.ClosedResourceError):
        feed.events.receive_nowait()
