import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bssci.core.protocol.errors import Code, StorageError
from bssci.core.runtime import commit, database
from bssci.core.runtime.commit import Committer, Group
from bssci.core.runtime.database import DamageError, Database
from bssci.core.runtime.statements import Changes, Run, Tally
from tests.disks import fill_up, query, stuck_disk

Work = Callable[[sqlite3.Connection, Tally], None]


class FakeLedger:
    """Keeps the books of one test: what began, what ended how, which marks wait."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []
        self.groups: list[list[str]] = []
        self.marks: list[Run] = []

    def has_marks(self) -> bool:
        return bool(self.marks)

    def add_marks(self, changes: Changes) -> None:
        changes.runs, self.marks = self.marks, []

    def committed(self, group: Group, tally: Tally) -> None:
        self.told.append(("committed", names(group)))
        self.groups.append(names(group))

    def failed(self, changes: Changes, failure: StorageError) -> None:
        self.told.append(("failed", type(failure)))
        self.marks = changes.runs

    def pass_on(self, group: Group) -> None:
        self.told.append(("passed on", names(group)))


def names(group: Group) -> list[str]:
    return [eui for (eui,) in group.changes.sessions]


class Bench:
    """A committer at work."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = FakeLedger()
        self.database = Database(path)
        token = trio.lowlevel.current_trio_token()
        self.committer = Committer(self.database, self.ledger, token)

    async def write(
        self, name: str, rows: int = 1, octets: int = 1, *, work: Work | None = None
    ) -> None:
        await self.committer.wait_for_room(rows, octets)
        group = self.committer.join(rows, octets)
        group.changes.sessions.append((name,))
        if work is not None:
            group.changes.works.append(work)
        await self.committer.wait_committed(group)
        self.ledger.told.append(("told", name))

    def committed(self) -> list[list[str]]:
        return self.ledger.groups


@pytest.fixture
async def bench(tmp_path):
    bench = Bench(tmp_path / "bssci.db")
    yield bench
    await bench.committer.close()
    bench.database.close()


async def test_the_books_are_told_before_those_who_wait(bench):
    await bench.write("A")
    assert bench.ledger.told == [("committed", ["A"]), ("passed on", ["A"]), ("told", "A")]


async def test_what_comes_in_one_turn_of_the_loop_is_one_transaction(bench):
    async with trio.open_nursery() as nursery:
        for name in "ABC":
            nursery.start_soon(bench.write, name)
    assert [sorted(euis) for euis in bench.committed()] == [["A", "B", "C"]]


async def test_what_waits_during_a_transaction_is_the_next_one(bench):
    async with trio.open_nursery() as nursery:
        with stuck_disk(bench.path):
            for name in "ABC":
                nursery.start_soon(bench.write, name)
                await wait_all_tasks_blocked()
    assert bench.committed() == [["A"], ["B", "C"]]


async def test_who_finds_no_room_is_let_in_by_turns(bench, monkeypatch):
    monkeypatch.setattr(commit, "MAX_WAITING_ROWS", 4)
    async with trio.open_nursery() as nursery:
        with stuck_disk(bench.path):
            for name, rows in (("A", 3), ("B", 2), ("C", 1), ("D", 9), ("E", 1)):
                nursery.start_soon(bench.write, name, rows)
                await wait_all_tasks_blocked()
            assert names(bench.committer.gathering) == []
    assert [eui for euis in bench.committed() for eui in euis] == list("ABCDE")
    assert ["D"] in bench.committed()


async def test_what_waits_is_bounded_in_octets_too(bench, monkeypatch):
    monkeypatch.setattr(commit, "MAX_WAITING_OCTETS", 10)
    async with trio.open_nursery() as nursery:
        with stuck_disk(bench.path):
            for name in "AB":
                nursery.start_soon(bench.write, name, 1, 6)
                await wait_all_tasks_blocked()
            assert names(bench.committer.gathering) == []
    assert bench.committed() == [["A"], ["B"]]


def damaged(db: sqlite3.Connection, tally: Tally) -> None:
    db.execute("INSERT INTO pins VALUES ('BB', 'AA', 1)")
    raise database._damage("a page is gone")


async def test_everybody_in_a_transaction_that_fails_is_told_and_none_of_it_done(bench, caplog):
    failures = []

    async def attempt(name: str, work: Work | None = None) -> None:
        with pytest.raises(StorageError) as caught:
            await bench.write(name, work=work)
        failures.append(caught.value.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt, "A")
        nursery.start_soon(attempt, "B", damaged)
    assert failures == [Code.EIO] * 2
    assert bench.ledger.told == [("failed", DamageError)]
    assert query(bench.path, "SELECT * FROM pins") == []
    assert bench.committer.state == "failing"
    assert "uplinks are refused until this is over" in caplog.text


async def test_the_next_transaction_after_a_failure_goes_through(bench):
    with pytest.raises(StorageError):
        await bench.write("A", work=damaged)
    await bench.write("B")
    assert bench.committed() == [["B"]]
    assert bench.committer.state == "ok"


async def test_marks_wait_for_a_transaction_that_others_want(bench):
    bench.ledger.marks = [Run(1, 2, 3)]
    bench.committer.write_marks_soon()
    assert not bench.committer.is_written
    await bench.write("A")
    assert bench.committed() == [["A"]]
    assert bench.committer.is_written


async def test_marks_that_find_no_transaction_get_their_own(bench, monkeypatch):
    monkeypatch.setattr(commit, "MARK_DELAY", 0.01)
    bench.ledger.marks = [Run(1, 2, 3)]
    bench.committer.write_marks_soon()
    with trio.fail_after(10):
        while not bench.committer.is_written:  # noqa: ASYNC110 - a real thread
            await trio.sleep(0.01)
    assert bench.committed() == [[]]


async def test_closing_writes_what_waits_and_the_marks(bench):
    group = bench.committer.join()
    group.changes.sessions.append(("A",))
    bench.ledger.marks = [Run(1, 2, 3)]
    await bench.committer.close()
    assert bench.committed() == [["A"]]
    assert bench.committer.is_written
    with pytest.raises(StorageError, match="closed"):
        await bench.write("B")


async def test_closing_does_not_wait_for_a_disk_that_refuses(bench, monkeypatch, caplog):
    monkeypatch.setattr(database, "MAX_OPEN_WAIT", 0.01)
    bench.database._writer.execute("PRAGMA busy_timeout = 10")
    bench.ledger.marks = [Run(1, 2, 3)]
    with stuck_disk(bench.path):
        await bench.committer.close()
    assert bench.ledger.told == [("failed", StorageError)]
    assert "not marked" in caplog.text
    bench.ledger.marks = []


async def test_a_disk_without_room_to_delete_in_still_takes_the_rest(small_disk):
    bench = Bench(small_disk / "bssci.db")

    def crowded(db: sqlite3.Connection, tally: Tally) -> None:
        if group.changes.delete_through:
            fill_up(small_disk)
            db.execute("INSERT INTO journal VALUES (1, 'BB', 1, x'00', 0, zeroblob(200000))")

    group = bench.committer.join()
    group.changes.delete_through = 1
    group.changes.works.append(crowded)
    await bench.committer.wait_committed(group)
    assert (group.is_crowded, group.changes.delete_through) == (True, 0)
    await bench.committer.close()
    with contextlib.closing(bench.database):
        assert bench.database.read("SELECT * FROM journal") == []
