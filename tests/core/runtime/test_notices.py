"""Watching: bounded, lossy, and told what was lost."""

from bssci.core.runtime import notices
from bssci.core.runtime.notices import Notice, Notices


async def test_who_watches_too_slowly_is_told_how_much_was_lost(monkeypatch):
    monkeypatch.setattr(notices, "MAX_NOTICES", 2)
    told = Notices()
    with told.watch() as seen:
        for number in range(5):
            told.tell("service", {"number": number})
        first, second = seen.receive_nowait(), seen.receive_nowait()
        told.tell("service", {"number": 5})
        gap, last = seen.receive_nowait(), seen.receive_nowait()
    told.tell("service", {"number": 6})
    assert [n.data for n in (first, second, gap, last)] == [
        {"number": 0},
        {"number": 1},
        {"lost": 3},
        {"number": 5},
    ]
    assert gap == Notice("gap", last.time, {"lost": 3})


async def test_nobody_watches_before_and_after():
    told = Notices()
    before = told.are_watched
    with told.watch():
        during = told.are_watched
    assert (before, during, told.are_watched) == (False, True, False)
