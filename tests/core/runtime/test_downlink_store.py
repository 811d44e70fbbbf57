import contextlib
import shutil
import sqlite3
import subprocess
import sys
import time
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from bssci.core.center.downlinks import DownlinkRecord, Ending
from bssci.core.protocol.errors import Code, StorageError
from bssci.core.runtime import commit, database
from bssci.core.runtime import downlink_statements as statements
from bssci.core.runtime import downlink_store as module
from bssci.core.runtime.database import Database
from bssci.core.runtime.downlink_store import DownlinkStore
from bssci.core.runtime.schema import migrate
from bssci.core.runtime.statements import Changes
from bssci.core.runtime.store import Store, open_store
from tests.core.runtime.test_downlink_statements import (
    BS_EUI,
    EP_EUI,
    FULL,
    ended,
    ids,
    listed,
    queued,
)
from tests.core.runtime.test_store import RECORD, append_until_full, reception
from tests.disks import fill_up, query, stuck_disk

HELD = queued(1, holder=BS_EUI)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "bssci.db"


@pytest.fixture
async def store(path):
    async with open_store(path) as store:
        yield store


@pytest.fixture
def downlinks(store):
    return store.downlinks


@pytest.fixture
def impatient(monkeypatch):
    """A disk that does not answer is given up at once."""
    monkeypatch.setattr(database, "MAX_OPEN_WAIT", 0.01)


async def commit_something(store: Store) -> None:
    await store.append([reception(store)])


async def fail_something(store: Store, path: Path) -> None:
    with stuck_disk(path), pytest.raises(StorageError):
        await commit_something(store)


async def everything(downlinks: DownlinkStore) -> list[DownlinkRecord]:
    return (await downlinks.listing(None, None, 10**6))[::-1]


# --- queue ids -----------------------------------------------------------------------------------


async def test_queue_ids_go_up_and_never_come_again_also_when_what_bore_them_is_gone(
    path, monkeypatch
):
    monkeypatch.setattr(statements, "KEPT_DONE", 0)
    async with open_store(path) as store:
        assert [store.downlinks.next_id() for _ in range(3)] == [1, 2, 3]
        await store.downlinks.decide([ended(2), ended(3)])
        store.downlinks.note(ended(2))
    assert query(path, "SELECT count(*) FROM downlinks") == [(0,)]
    async with open_store(path) as store:
        assert store.downlinks.next_id() == 4


async def test_a_queue_id_that_nobody_saw_may_come_again_after_a_restart(path, impatient):
    async with open_store(path) as store:
        que_id = store.downlinks.next_id()
        with stuck_disk(path), pytest.raises(StorageError):
            await store.downlinks.decide([queued(que_id)])
        assert store.downlinks.next_id() == que_id + 1
    async with open_store(path) as store:
        assert store.downlinks.next_id() == que_id


# --- decisions -----------------------------------------------------------------------------------


async def test_what_is_decided_is_on_disk_when_decide_returns(downlinks, path):
    await downlinks.decide([queued(1), FULL])
    columns = "que_id, ep_eui, user_data, packet_cnt, ref, holder, intent, state"
    assert query(path, f"SELECT {columns} FROM downlinks WHERE que_id = 1") == [
        (1, "FFEEDDCCBBAA9988", '["01ff"]', None, None, None, "deliver", "queued")
    ]
    assert await everything(downlinks) == [queued(1), FULL]
    await downlinks.decide([HELD])
    assert await everything(downlinks) == [HELD, FULL]


async def test_of_two_records_of_one_downlink_in_a_decision_the_last_one_stays(downlinks):
    await downlinks.decide([queued(1), HELD])
    assert await everything(downlinks) == [HELD]


async def test_deciding_nothing_is_nothing(downlinks, path):
    with stuck_disk(path):
        await downlinks.decide([])


async def test_a_decision_that_failed_did_nothing_and_is_repeated_as_it_is(
    downlinks, path, impatient
):
    await downlinks.decide([queued(1)])
    decision = [HELD, queued(2)]
    with stuck_disk(path), pytest.raises(StorageError):
        await downlinks.decide(decision)
    assert await everything(downlinks) == [queued(1)]
    await downlinks.decide(decision)
    assert await everything(downlinks) == decision


async def test_a_decision_that_failed_does_not_cost_what_was_noted_before(
    downlinks, path, impatient
):
    await downlinks.decide([queued(1)])
    downlinks.note(HELD)
    with stuck_disk(path), pytest.raises(StorageError):
        await downlinks.decide([replace(HELD, intent="revoke")])
    await downlinks.flush()
    assert await everything(downlinks) == [HELD]


async def test_what_was_noted_before_a_decision_does_not_undo_it(downlinks):
    downlinks.note(HELD)
    await downlinks.decide([replace(HELD, intent="revoke")])
    await downlinks.flush()
    assert await everything(downlinks) == [replace(HELD, intent="revoke")]


async def test_what_is_noted_after_a_decision_counts_though_both_go_to_disk_together(
    store, downlinks, path
):
    async with trio.open_nursery() as nursery:
        with stuck_disk(path):
            nursery.start_soon(commit_something, store)
            await wait_all_tasks_blocked()
            nursery.start_soon(downlinks.decide, [queued(1)])
            await wait_all_tasks_blocked()
            downlinks.note(HELD)
    assert store.is_written
    assert await everything(downlinks) == [HELD]


# --- notes get to disk ---------------------------------------------------------------------------


async def test_notes_go_along_with_the_transaction_of_somebody_else(store, downlinks):
    downlinks.note(queued(1))
    downlinks.note(HELD)
    assert not store.is_written
    await commit_something(store)
    assert store.is_written
    assert await everything(downlinks) == [HELD]


async def test_notes_get_to_disk_by_themselves(store, downlinks, monkeypatch):
    monkeypatch.setattr(commit, "MARK_DELAY", 0.01)
    downlinks.note(HELD)
    with trio.fail_after(10):
        while not store.is_written:  # noqa: ASYNC110 - a real thread
            await trio.sleep(0.01)
    assert await everything(downlinks) == [HELD]


async def test_with_nothing_noted_there_is_nothing_to_flush(downlinks, path):
    with stuck_disk(path):
        await downlinks.flush()


async def test_a_flush_that_failed_leaves_everything_waiting(downlinks, path, impatient):
    downlinks.note(HELD)
    with stuck_disk(path), pytest.raises(StorageError):
        await downlinks.flush()
    assert await everything(downlinks) == []
    await downlinks.flush()
    assert await everything(downlinks) == [HELD]


async def test_all_notes_are_on_disk_when_the_store_is_closed_at_once(path):
    async with open_store(path) as store:
        await store.downlinks.decide([queued(1)])
        store.downlinks.note(HELD)
    async with open_store(path) as store:
        assert await everything(store.downlinks) == [HELD]


async def test_closing_does_not_wait_for_a_disk_that_refuses_notes(path, impatient):
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(path))
        store.downlinks.note(HELD)
        with stuck_disk(path):
            await stack.aclose()
    store.downlinks.note(HELD)
    async with open_store(path) as store:
        assert await everything(store.downlinks) == []


async def test_notes_that_the_disk_refuses_are_kept_unless_newer_ones_came(
    store, downlinks, path, impatient
):
    downlinks.note(queued(1))
    downlinks.note(queued(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_something, store, path)
        await wait_all_tasks_blocked()
        downlinks.note(HELD)
        downlinks.note(queued(3))
    await downlinks.flush()
    assert await everything(downlinks) == [HELD, queued(2), queued(3)]


async def test_a_transaction_with_nothing_noted_is_not_burdened(store, downlinks):
    downlinks.note(HELD)
    await downlinks.decide([queued(2)])
    changes = Changes()
    store.add_marks(changes)
    assert changes == Changes()


async def test_what_cannot_be_stored_keeps_no_uplink_from_the_disk(store, downlinks, caplog):
    downlinks.note(ended(1, at_ns=2**63))
    downlinks.note(queued(2))
    await commit_something(store)
    assert await everything(downlinks) == [queued(2)]
    assert "downlink 1 cannot be stored and is given up" in caplog.text


# --- any order of decisions, notes and failures --------------------------------------------------


@types.coroutine
def forever() -> Generator[None, None, None]:
    while True:
        yield


@dataclass
class FakeCommitter:
    """Whose transactions the test makes; who waits for one, waits."""

    def join(self) -> None:
        """The next one is taken part in by what is decided before it begins."""

    async def wait_committed(self, _: None) -> None:
        await forever()

    def write_marks_soon(self) -> None:
        """The test will."""


def begin(waiting: Coroutine[object, None, None]) -> None:
    """Let it run until it waits; for what, is of no interest."""
    waiting.send(None)
    waiting.close()


STEPS = st.lists(
    st.tuples(st.sampled_from(["decide", "note"]), st.integers(1, 2))
    | st.sampled_from(["begin", "fail", "commit"]),
    min_size=5,
    max_size=30,
)


@given(STEPS)
@example([("note", 1), "begin", ("decide", 1), "fail", "begin", "fail"])
@example([("decide", 1), ("note", 1), "begin", ("note", 1), ("decide", 1), "fail", "begin", "fail"])
def test_of_each_downlink_the_last_record_is_on_disk_that_was_not_in_a_failed_decision(steps):
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, Path("nowhere"))
        store = DownlinkStore(FakeCommitter(), None, 0)  # type: ignore[arg-type]
        told: dict[int, DownlinkRecord] = {}
        joined: set[int] = set()
        written: set[int] = set()
        under_way: Changes | None = None
        for number, step in enumerate((*steps, "commit", "begin", "commit")):
            match step:
                case "begin" if under_way is None:
                    store.add_marks(under_way := Changes())
                    joined, written = set(), joined
                case "commit" if under_way is not None:
                    under_way.write(db)
                    store.committed()
                    under_way = None
                case "fail" if under_way is not None:
                    store.failed()
                    told = {n: record for n, record in told.items() if n not in written}
                    under_way = None
                case (how, int(que_id)):
                    told[number] = record = queued(que_id, acknowledged_ns=number)
                    if how == "note":
                        store.note(record)
                    else:
                        begin(store.decide([record]))
                        joined.add(number)
        last = {record.downlink.que_id: record for record in told.values()}
        assert {record.downlink.que_id: record for record in listed(db)} == last
        assert not store.has_marks()


# --- what a crash leaves -------------------------------------------------------------------------


@pytest.fixture
def images(monkeypatch, tmp_path):
    """The database after each transaction, as a crash would leave it; every third one fails."""
    images: list[Path] = []
    numbers = count()
    write = Database.write

    def write_and_crash(self: Database, work: Callable[[sqlite3.Connection], object]) -> object:
        number = next(numbers)
        if number % 3 == 2:
            raise StorageError("no")
        done = write(self, work)
        image = tmp_path / f"crash{number}"
        shutil.copytree(self.path.parent, image)
        images.append(image / self.path.name)
        return done

    monkeypatch.setattr(Database, "write", write_and_crash)
    return images


async def or_fail(waiting: Coroutine[object, object, None]) -> None:
    with contextlib.suppress(StorageError):
        await waiting


async def test_no_session_is_on_disk_without_what_was_noted_before_it_was_saved(path, images):
    """The session that has told -n was saved after the answer to operation -n was noted."""
    async with open_store(path) as store, trio.open_nursery() as nursery:
        for n in range(1, 40):
            store.downlinks.note(queued(n, holder=BS_EUI))
            nursery.start_soon(or_fail, store.save_session(replace(RECORD, sc_op_id=-n)))
            await wait_all_tasks_blocked()
            if n % 4 == 0:
                await or_fail(commit_something(store))
            if n % 5 == 0:
                await or_fail(store.downlinks.decide([queued(1000 + n)]))
    seen = set()
    for image in list(images):
        async with open_store(image) as store:
            session = await store.load_session(BS_EUI)
            told = 0 if session is None else -session.sc_op_id
            held = [record for record in await store.downlinks.pending() if record.holder]
            assert set(range(1, told + 1)) <= set(ids(held))
            seen.add(told)
    assert len(seen) > 4


CHILD = """
import sys
from pathlib import Path

import trio

from bssci.core.runtime.store import open_store
from tests.core.runtime.test_downlink_statements import BS_EUI, ended, queued


async def live(store):
    while True:
        que_id = store.downlinks.next_id()
        await store.downlinks.decide([queued(que_id)])
        sys.stdout.write(f"{que_id}\\n")
        sys.stdout.flush()
        store.downlinks.note(queued(que_id, holder=BS_EUI))
        if que_id % 2:
            await store.downlinks.decide([ended(que_id)])


async def main():
    async with open_store(Path(sys.argv[1])) as store, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(live, store)


trio.run(main)
"""


ROOT = Path(__file__).parents[3]


@pytest.mark.process
async def test_what_was_decided_survives_a_kill_and_its_queue_id_is_not_used_again(path):
    promised: set[int] = set()
    for _ in range(3):
        child = await trio.lowlevel.open_process(
            [sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert child.stdout is not None
        told = b""
        with trio.fail_after(60):
            while told.count(b"\n") < 300:
                told += await child.stdout.receive_some()
            child.kill()
            while more := await child.stdout.receive_some():
                told += more
            await child.wait()
        que_ids = [int(line) for line in told.split(b"\n")[:-1]]
        assert not promised.intersection(que_ids), "a queue id was used twice"
        promised.update(que_ids)
        async with open_store(path) as store:
            assert store.set_aside is None
            kept = await everything(store.downlinks)
            assert promised <= set(ids(kept))
            assert [each for each in kept if each.ending and each.downlink.que_id % 2 == 0] == []


# --- a disk that is full -------------------------------------------------------------------------


async def test_a_full_disk_takes_no_decision_and_keeps_the_notes_until_there_is_space(small_disk):
    async with open_store(small_disk / "bssci.db") as store:
        downlinks = store.downlinks
        await downlinks.decide([queued(1), queued(2)])
        ballast = fill_up(small_disk)
        await append_until_full(store, [])
        downlinks.note(HELD)
        data = replace(queued(3).downlink, user_data=(bytes(200_000),))
        with pytest.raises(StorageError) as caught:
            await downlinks.decide([replace(queued(3), downlink=data)])
        assert caught.value.code == Code.ENOSPC
        assert await downlinks.pending() == [queued(1), queued(2)]
        ballast.unlink()
        await downlinks.decide([queued(3)])
        assert await downlinks.pending() == [HELD, queued(2), queued(3)]


# --- reading -------------------------------------------------------------------------------------


def sent(que_id: int, *, ago: float, **changes: Any) -> DownlinkRecord:
    """One that was sent so many days ago."""
    at_ns = time.time_ns() - int(ago * 24 * 3600 * 10**9)
    return replace(queued(que_id), ending=Ending(result="sent", at_ns=at_ns), **changes)


async def test_pending_is_what_is_not_over_and_what_may_be_acknowledged_yet(downlinks):
    records = [
        sent(1, ago=1),
        queued(2),
        sent(3, ago=8),
        queued(4, holder=BS_EUI, intent="revoke"),
        sent(5, ago=1, acknowledged_ns=7),
        ended(6, "expired", holder=BS_EUI),
        ended(7, "expired"),
        sent(8, ago=8, holder=BS_EUI),
        sent(9, ago=6, holder=BS_EUI),
    ]
    await downlinks.decide(records[::-1])
    assert await downlinks.pending() == [records[n - 1] for n in (1, 2, 4, 6, 8, 9)]


async def test_of_many_that_may_be_acknowledged_the_last_ones_are_pending(downlinks, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNACKNOWLEDGED", 2)
    records = [sent(n, ago=1) for n in range(1, 5)]
    await downlinks.decide([*records, queued(5)])
    assert await downlinks.pending() == [*records[2:], queued(5)]


async def test_pending_reads_page_after_page_whatever_is_in_them(
    downlinks, path, monkeypatch, caplog
):
    monkeypatch.setattr(module, "PAGE", 2)
    await downlinks.decide([queued(n) for n in range(1, 8)])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE downlinks SET user_data = '' WHERE que_id IN (3, 4)")
    assert ids(await downlinks.pending()) == [1, 2, 5, 6, 7]
    assert len(caplog.records) == 2


async def test_ten_thousand_downlinks_come_back_in_order(path):
    async with open_store(path) as store:
        await store.downlinks.decide([queued(n, n % 1000) for n in range(1, 10_001)])
    async with open_store(path) as store:
        assert ids(await store.downlinks.pending()) == list(range(1, 10_001))
        newest = [queued(9_007, 7), queued(8_007, 7)]
        assert await store.downlinks.listing(7, "queued", 2) == newest
        assert await store.downlinks.listing(None, "sent", 2) == []


async def test_downlinks_are_listed_newest_first_by_end_point_and_state(downlinks):
    records = [queued(1), queued(2, 5), ended(3, acknowledged_ns=4), ended(4, ep_eui=5), queued(5)]
    await downlinks.decide(records)
    assert ids(await downlinks.listing(None, None, 3)) == [5, 4, 3]
    assert ids(await downlinks.listing(EP_EUI, None, 9)) == [5, 3, 1]
    assert ids(await downlinks.listing(None, "queued", 2)) == [5, 2]
    assert ids(await downlinks.listing(EP_EUI, "acknowledged", 9)) == [3]
    assert ids(await downlinks.listing(EP_EUI, "sent", 9)) == []


async def test_a_downlink_is_found_by_its_queue_id(downlinks, path, caplog):
    await downlinks.decide([queued(1), HELD, FULL])
    assert await downlinks.find(1) == HELD
    assert await downlinks.find(FULL.downlink.que_id) == FULL
    assert await downlinks.find(2) is None
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE downlinks SET intent = '' WHERE que_id = 1")
    assert await downlinks.find(1) is None
    assert "downlink 1" in caplog.text


async def test_nothing_is_decided_or_read_after_the_end(path):
    async with open_store(path) as store:
        pass
    with pytest.raises(StorageError, match="closed"):
        await store.downlinks.decide([HELD])
    with pytest.raises(StorageError, match="closed"):
        await store.downlinks.pending()
