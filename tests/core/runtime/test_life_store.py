import contextlib
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import count, product
from pathlib import Path

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from bssci.core.center.records import Hearing, Registration, Wish
from bssci.core.protocol.errors import StorageError
from bssci.core.runtime import commit, database
from bssci.core.runtime import life_store as module
from bssci.core.runtime.database import Database
from bssci.core.runtime.life_store import LifeStore
from bssci.core.runtime.schema import migrate
from bssci.core.runtime.statements import Changes
from bssci.core.runtime.store import Store, open_store
from tests.core.runtime.test_life_statements import (
    ATTACHMENT,
    BS_EUI,
    END_POINT,
    EP_EUI,
    EPISODE,
    HEARING,
    REFUSED,
    STATION,
    WISH,
    episode,
    registrations,
    wishes,
)
from tests.core.runtime.test_store import RECORD, add_settled, listed, reception
from tests.disks import query, stuck_disk

CLOCK = frozenset({BS_EUI, 1})
CONFIRMED = Registration(bs_eui=BS_EUI, ep_eui=EP_EUI, mark=7)
ATTACHED = replace(WISH, wanted="attached", cause="heard", is_announced=False, since_ns=99)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "bssci.db"


@pytest.fixture
async def store(path):
    async with open_store(path) as store:
        yield store


@pytest.fixture
def life(store):
    return store.life


@pytest.fixture
def impatient(monkeypatch):
    """A disk that does not answer is given up at once."""
    monkeypatch.setattr(database, "MAX_OPEN_WAIT", 0.01)


async def commit_something(store: Store) -> None:
    await store.append([reception(store)])


async def fail_something(store: Store, path: Path) -> None:
    with stuck_disk(path), pytest.raises(StorageError):
        await commit_something(store)


# --- decisions -----------------------------------------------------------------------------------


async def test_what_is_decided_is_on_disk_when_decide_returns(life, path):
    await life.decide(wishes=[WISH], episodes=[EPISODE])
    assert query(path, "SELECT ep_eui, name, wanted FROM end_points") == [
        ("FFEEDDCCBBAA9988", "Zähler 7", "detached")
    ]
    assert await life.end_points() == [(WISH, None)]
    assert await life.history(EP_EUI) == [EPISODE]
    await life.decide(forgotten=[EP_EUI])
    assert await life.end_points() == []
    assert await life.history(EP_EUI) == [EPISODE]


async def test_a_wish_and_its_attachment_are_on_disk_together(life, path, impatient):
    decision = {"wishes": [WISH], "attachments": [ATTACHMENT], "episodes": [EPISODE]}
    with stuck_disk(path), pytest.raises(StorageError):
        await life.decide(**decision)
    assert (await life.end_points(), await life.attachments()) == ([], [])
    await life.decide(**decision)
    assert (await life.end_points(), await life.attachments()) == ([(WISH, None)], [ATTACHMENT])
    await life.decide(voided=[EP_EUI])
    assert (await life.end_points(), await life.attachments()) == ([(WISH, None)], [])


async def test_attachments_come_in_pages_and_one_that_cannot_be_read_is_not_the_end(life, path):
    many = [replace(ATTACHMENT, ep_eui=eui) for eui in (1, 2, 2**63, 2**64 - 1)]
    broken = [f"{eui:016X}" for eui in (2, 2**63)]
    await life.decide(attachments=many)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE attachments SET bs_eui = 'X' WHERE ep_eui IN (?, ?)", broken)
    assert await life.attachments(limit=1) == [many[0]]
    assert await life.attachments(1, 1) == [many[3]]
    assert await life.attachments(2**64 - 1) == []


async def test_what_a_base_station_may_hold_is_on_disk_when_decide_returns(life):
    life.note_registration(CONFIRMED)
    await life.decide(registrations=[REFUSED])
    assert await life.registrations() == [REFUSED]


async def test_deciding_nothing_is_nothing(life, path):
    with stuck_disk(path):
        await life.decide()


async def test_a_decision_that_failed_did_nothing_and_is_repeated_as_it_is(life, path, impatient):
    await life.decide(wishes=[WISH])
    decision = {"wishes": wishes(2), "forgotten": [EP_EUI], "episodes": [episode(1)]}
    with stuck_disk(path), pytest.raises(StorageError):
        await life.decide(**decision)
    assert (await life.end_points(), await life.history(EP_EUI)) == ([(WISH, None)], [])
    await life.decide(**decision)
    assert await life.end_points() == [(wish, None) for wish in wishes(2)]
    assert await life.history(EP_EUI) == [episode(1)]


async def test_what_was_noted_before_a_decision_does_not_undo_it(life):
    await life.decide(wishes=[WISH])
    life.note_hearings([(EP_EUI, HEARING)], {}, 1)
    life.note_wish_flags(EP_EUI, is_announced=True, is_warned=True)
    life.note_episode(episode(1))
    await life.decide(wishes=[ATTACHED], episodes=[episode(2)])
    assert await life.end_points() == [(ATTACHED, HEARING)]
    assert await life.history(EP_EUI) == [episode(2), episode(1)]


async def test_flags_noted_while_a_decision_waits_belong_to_the_wish_before(life, path):
    await life.decide(wishes=[*wishes(1), WISH])
    async with trio.open_nursery() as nursery:
        with stuck_disk(path):
            nursery.start_soon(lambda: life.decide(wishes=[ATTACHED]))
            await wait_all_tasks_blocked()
            life.note_wish_flags(EP_EUI, is_announced=True, is_warned=True)
            life.note_wish_flags(0, is_announced=False, is_warned=True)
    await life.flush()
    other = replace(wishes(1)[0], is_announced=False, is_warned=True)
    assert await life.end_points() == [(other, None), (ATTACHED, None)]
    life.note_wish_flags(EP_EUI, is_announced=True, is_warned=False)
    await life.flush()
    assert (await life.end_points())[1] == (replace(ATTACHED, is_announced=True), None)


async def test_nothing_of_a_former_life_comes_back_with_an_end_point(life, path):
    await life.decide(wishes=[WISH])
    life.note_hearings([(EP_EUI, HEARING)], {}, 1)
    await life.flush()
    async with trio.open_nursery() as nursery:
        with stuck_disk(path):
            nursery.start_soon(lambda: life.decide(forgotten=[EP_EUI]))
            await wait_all_tasks_blocked()
            life.note_hearings([(EP_EUI, replace(HEARING, uplinks=6))], {}, 2)
            life.note_wish_flags(EP_EUI, is_announced=False, is_warned=True)
    await life.decide(wishes=[WISH])
    await life.flush()
    assert await life.end_points() == [(WISH, None)]


# --- notes get to disk ---------------------------------------------------------------------------


def note_everything(life: LifeStore) -> None:
    life.note_registration(CONFIRMED)
    life.note_registration(REFUSED)
    life.note_station(STATION)
    life.note_wish_flags(EP_EUI, is_announced=False, is_warned=True)
    life.note_episode(EPISODE)
    life.note_hearings([(EP_EUI, HEARING)], {CLOCK: 8}, 12)


async def everything(life: LifeStore) -> dict[str, object]:
    return {
        "registrations": await life.registrations(),
        "stations": await life.base_stations(),
        "end points": await life.end_points(),
        "history": await life.history(EP_EUI),
        "clocks": await life.clocks(),
        "heard": await life.heard_through(),
    }


WARNED = replace(WISH, is_announced=False, is_warned=True)
EVERYTHING = {
    "registrations": [REFUSED],
    "stations": [STATION],
    "end points": [(WARNED, HEARING)],
    "history": [EPISODE],
    "clocks": {CLOCK: 8},
    "heard": 12,
}


async def test_notes_go_along_with_the_transaction_of_somebody_else(store, life):
    await life.decide(wishes=[WISH])
    note_everything(life)
    assert not store.is_written
    await commit_something(store)
    assert store.is_written
    assert await everything(life) == EVERYTHING


async def test_notes_get_to_disk_by_themselves(store, life, monkeypatch):
    monkeypatch.setattr(commit, "MARK_DELAY", 0.01)
    await life.decide(wishes=[WISH])
    note_everything(life)
    with trio.fail_after(10):
        while not store.is_written:  # noqa: ASYNC110 - a real thread
            await trio.sleep(0.01)
    assert await everything(life) == EVERYTHING


async def test_notes_are_on_disk_when_flush_returns(life):
    await life.decide(wishes=[WISH])
    note_everything(life)
    await life.flush()
    assert await everything(life) == EVERYTHING


async def test_with_nothing_noted_there_is_nothing_to_flush(life, path):
    with stuck_disk(path):
        await life.flush()


async def test_all_notes_are_on_disk_when_the_store_is_closed_at_once(path):
    began = trio.current_time()
    async with open_store(path) as store:
        await store.life.decide(wishes=[WISH])
        note_everything(store.life)
        await store.life.flush()
        note_everything(store.life)
        store.life.note_hearings([(EP_EUI, replace(HEARING, uplinks=6))], {CLOCK: 9}, 13)
    assert trio.current_time() < began + module.HEARING_INTERVAL
    async with open_store(path) as store:
        assert await everything(store.life) == EVERYTHING | {
            "end points": [(WARNED, replace(HEARING, uplinks=6))],
            "history": [EPISODE, EPISODE],
            "clocks": {CLOCK: 9},
            "heard": 13,
        }


async def test_closing_does_not_wait_for_a_disk_that_refuses_notes(path, impatient):
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(path))
        note_everything(store.life)
        with stuck_disk(path):
            await stack.aclose()
    note_everything(store.life)
    async with open_store(path) as store:
        assert await store.life.registrations() == []


async def test_notes_that_the_disk_refuses_are_kept_unless_newer_ones_came(
    store, life, path, impatient
):
    await life.decide(wishes=[*wishes(1), WISH])
    note_everything(life)
    life.note_registration(replace(CONFIRMED, ep_eui=1))
    life.note_station(replace(STATION, bs_eui=1))
    life.note_wish_flags(0, is_announced=False, is_warned=False)
    life.note_hearings([(0, HEARING)], {frozenset({1}): 5}, 11)
    with stuck_disk(path):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, commit_something, store)
            await wait_all_tasks_blocked()
            life.note_registration(CONFIRMED)
            life.note_station(replace(STATION, uplinks=9))
            life.note_wish_flags(EP_EUI, is_announced=True, is_warned=True)
            life.note_episode(episode(5))
            life.note_hearings([(EP_EUI, replace(HEARING, uplinks=6))], {CLOCK: 9}, 13)
    await life.flush()
    calm = replace(wishes(1)[0], is_announced=False)
    assert await everything(life) == {
        "registrations": [replace(CONFIRMED, ep_eui=1), CONFIRMED],
        "stations": [replace(STATION, bs_eui=1), replace(STATION, uplinks=9)],
        "end points": [
            (calm, HEARING),
            (replace(WISH, is_warned=True), replace(HEARING, uplinks=6)),
        ],
        "history": [episode(5), EPISODE],
        "clocks": {CLOCK: 9, frozenset({1}): 5},
        "heard": 13,
    }


async def fail(function: Callable[[Store], Awaitable[None]], store: Store) -> None:
    with pytest.raises(StorageError):
        await function(store)


async def test_a_flush_that_failed_leaves_everything_waiting(life, path, impatient):
    await life.decide(wishes=[WISH])
    note_everything(life)
    with stuck_disk(path), pytest.raises(StorageError):
        await life.flush()
    await life.flush()
    assert await everything(life) == EVERYTHING


async def test_what_a_base_station_confirmed_is_forgotten_before_what_is_noted_after(store, life):
    other = replace(CONFIRMED, bs_eui=1)
    for known in (CONFIRMED, other, replace(CONFIRMED, ep_eui=1)):
        life.note_registration(known)
    await commit_something(store)
    life.note_registration(replace(CONFIRMED, ep_eui=2))
    life.forget_registrations(BS_EUI)
    life.note_registration(replace(CONFIRMED, ep_eui=3))
    await commit_something(store)
    assert await life.registrations() == [other, replace(CONFIRMED, ep_eui=3)]


async def test_a_transaction_with_nothing_noted_is_not_burdened(store, life):
    note_everything(life)
    await life.flush()
    changes = Changes()
    store.add_marks(changes)
    assert changes == Changes()


async def test_what_cannot_be_stored_keeps_no_uplink_from_the_disk(store, life, caplog):
    life.note_registration(replace(CONFIRMED, mark=2**64))
    await commit_something(store)
    life.note_registration(CONFIRMED)
    await commit_something(store)
    assert await life.registrations() == [CONFIRMED]
    assert "is given up" in caplog.text


# --- what is heard is held back ------------------------------------------------------------------


async def test_what_is_heard_is_not_written_with_each_transaction(
    mock_clock: MockClock, store, life
):
    async def heard() -> tuple[int, Hearing | None, dict[frozenset[int], int]]:
        ((_, hearing),) = await life.end_points()
        return await life.heard_through(), hearing, await life.clocks()

    await life.decide(wishes=[WISH])
    told = {n: (n, replace(HEARING, uplinks=n), {CLOCK: n}) for n in range(1, 5)}
    for n, seconds, written in ((1, 0, 1), (2, 0, 1), (3, 9.9, 1), (4, 0.2, 4)):
        mock_clock.jump(seconds)
        life.note_hearings([(EP_EUI, told[n][1])], {CLOCK: n}, n)
        life.note_registration(CONFIRMED)
        await commit_something(store)
        assert await heard() == told[written]
        assert store.is_written == (written == n)


async def test_what_is_heard_last_gets_to_disk_by_itself(store, life, monkeypatch):
    monkeypatch.setattr(commit, "MARK_DELAY", 0.01)
    monkeypatch.setattr(module, "HEARING_INTERVAL", 0.05)
    await life.decide(wishes=[WISH])
    for n in (1, 2):
        life.note_hearings([(EP_EUI, replace(HEARING, uplinks=n))], {}, n)
        await commit_something(store)
    with trio.fail_after(10):
        while not store.is_written:  # noqa: ASYNC110 - a real thread
            await trio.sleep(0.01)
    assert await life.end_points() == [(WISH, replace(HEARING, uplinks=2))]
    assert await life.heard_through() == 2


async def test_a_clock_that_nobody_goes_by_is_deleted(life):
    life.note_hearings([], {CLOCK: 1, frozenset({3}): 2}, 0)
    await life.flush()
    life.note_hearings([], {CLOCK: 3}, 0)
    life.forget_clocks([CLOCK])
    await life.flush()
    assert await life.clocks() == {frozenset({3}): 2}
    life.forget_clocks([frozenset({3})])
    life.note_hearings([], {frozenset({3}): 4}, 0)
    await life.flush()
    assert await life.clocks() == {frozenset({3}): 4}


async def test_that_nobody_known_was_heard_moves_on_too(life):
    life.note_hearings([], {}, 40)
    await life.flush()
    assert await life.heard_through() == 40


# --- the history that waits has a bound ----------------------------------------------------------


async def test_of_too_many_episodes_the_oldest_are_given_up_and_counted(
    store, life, path, impatient, monkeypatch, caplog
):
    monkeypatch.setattr(module, "MAX_EPISODES", 3)
    await life.decide(wishes=[WISH])
    for n in range(3):
        life.note_episode(episode(n))
    with stuck_disk(path):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, commit_something, store)
            await wait_all_tasks_blocked()
            for n in range(3, 7):
                life.note_episode(episode(n))
    assert life.episodes_lost == 4
    await commit_something(store)
    assert await life.history(EP_EUI) == [episode(n) for n in (6, 5, 4)]
    assert caplog.text.count("4 episodes are missing") == 1
    await commit_something(store)
    assert caplog.text.count("are missing") == 1


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


async def test_no_session_is_on_disk_without_the_registrations_it_brought(path, images):
    """The session that has told -n was saved after the answer to operation -n was noted."""

    async def save(store: Store, op_id: int) -> None:
        with contextlib.suppress(StorageError):
            await store.save_session(replace(RECORD, sc_op_id=op_id))

    async with open_store(path) as store, trio.open_nursery() as nursery:
        for n in range(1, 40):
            store.life.note_registration(replace(CONFIRMED, ep_eui=n))
            nursery.start_soon(save, store, -n)
            await wait_all_tasks_blocked()
            if n % 4 == 0:
                await fail_or_not(commit_something, store)
    seen = set()
    for image in list(images):
        async with open_store(image) as store:
            session = await store.load_session(BS_EUI)
            held = {known.ep_eui for known in await store.life.registrations()}
            told = 0 if session is None else -session.sc_op_id
            assert set(range(1, told + 1)) <= held
            seen.add(told)
    assert len(seen) > 4


async def fail_or_not(function: Callable[[Store], Awaitable[None]], store: Store) -> None:
    with contextlib.suppress(StorageError):
        await function(store)


async def test_what_was_heard_is_on_disk_with_how_far_and_never_without(path, images, monkeypatch):
    monkeypatch.setattr(module, "HEARING_INTERVAL", 0.0)
    async with open_store(path) as store:
        life = store.life
        await life.decide(wishes=wishes(3))
        for n in range(1, 30):
            life.note_hearings([(n % 3, replace(HEARING, uplinks=n))], {}, n)
            await fail_or_not(commit_something, store)
    seen = set()
    for image in list(images):
        async with open_store(image) as store:
            through = await store.life.heard_through()
            heard = [hearing.uplinks for _, hearing in await store.life.end_points() if hearing]
            assert sorted(heard) == list(range(max(1, through - 2), through + 1))
            seen.add(through)
    assert len(seen) > 10


# --- any order of notes and failures -------------------------------------------------------------


@dataclass
class FakeCommitter:
    """Asked for a transaction now and then; the test makes them."""

    is_written: bool = False
    asked: int = 0
    works: list[object] = field(default_factory=list)

    def write_marks_soon(self) -> None:
        self.asked += 1


FORGET = "forget"
NOTES = st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from([None, 7, 8]))
STEPS = st.lists(
    NOTES
    | st.tuples(st.just(FORGET), st.sampled_from([1, 2]))
    | st.sampled_from(["begin", "fail", "commit"]),
    min_size=5,
)


@given(STEPS)
@example([(1, 1, 7), "begin", (FORGET, 1), (1, 2, 8), "fail"])
@example([(1, 1, 7), "begin", (FORGET, 1), "fail"])
@example([(1, 1, 7), "begin", "commit", (FORGET, 1), (1, 2, 7), "begin", (1, 2, 8), "fail"])
def test_after_any_notes_and_failures_the_disk_has_what_was_noted_last(steps):
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, Path("nowhere"))
        committer = FakeCommitter()
        life = LifeStore(committer, None)  # type: ignore[arg-type]
        expected: dict[tuple[int, int], int] = {}
        under_way: Changes | None = None
        for step in (*steps, "commit", "begin", "commit"):
            match step:
                case "begin" if under_way is None:
                    life.add_marks(under_way := Changes())
                case "commit" if under_way is not None:
                    under_way.write(db)
                    life.committed()
                    under_way = None
                case "fail" if under_way is not None:
                    life.failed()
                    under_way = None
                case (_, int(bs_eui)):
                    life.forget_registrations(bs_eui)
                    expected = {key: mark for key, mark in expected.items() if key[0] != bs_eui}
                case (int(bs_eui), int(ep_eui), mark):
                    known = Registration(bs_eui=bs_eui, ep_eui=ep_eui, mark=mark)
                    life.note_registration(known)
                    expected.pop((bs_eui, ep_eui), None)
                    if mark is not None:
                        expected[bs_eui, ep_eui] = mark
        assert {(r.bs_eui, r.ep_eui): r.mark for r in registrations(db)} == expected
        assert not life.has_marks()


# --- reading at the start ------------------------------------------------------------------------

EUIS = [0, 1, 2**63 - 1, 2**63, 2**64 - 1]


async def test_end_points_come_in_pages_in_the_order_of_unsigned_numbers(life):
    many = [replace(WISH, end_point=replace(END_POINT, eui=eui)) for eui in EUIS]
    await life.decide(wishes=many[::-1])
    found: list[Wish] = []
    after = -1
    while page := await life.end_points(after, 2):
        found += [wish for wish, _ in page]
        after = found[-1].end_point.eui
    assert found == many


async def test_registrations_come_in_pages_in_the_order_of_unsigned_numbers(life):
    many = [replace(REFUSED, bs_eui=bs, ep_eui=ep) for bs, ep in product(EUIS, EUIS)]
    for known in many[::-1]:
        life.note_registration(known)
    await life.flush()
    found: list[Registration] = []
    after = (-1, -1)
    while page := await life.registrations(after, 4):
        found += page
        after = found[-1].bs_eui, found[-1].ep_eui
    assert found == many


async def test_a_page_of_rows_that_cannot_be_read_is_not_taken_for_the_end(life, path, caplog):
    await life.decide(wishes=wishes(6))
    for n in range(6):
        life.note_registration(replace(CONFIRMED, ep_eui=n))
    await life.flush()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        broken = "ep_eui BETWEEN '0000000000000001' AND '0000000000000004'"
        other.execute(f"UPDATE end_points SET wanted = '' WHERE {broken}")
        other.execute(f"UPDATE registrations SET ep_eui = substr(ep_eui, 8) || 'x' WHERE {broken}")
    assert await life.end_points(0, 2) == [(wishes(6)[5], None)]
    assert await life.registrations((-1, -1), 2) == [
        replace(CONFIRMED, ep_eui=0),
        replace(CONFIRMED, ep_eui=5),
    ]
    assert await life.registrations((BS_EUI, 5), 2) == []
    assert len(caplog.records) == 8


async def test_uplinks_come_by_their_ids_published_or_not(store, life):
    uplinks = await add_settled(store, 5)
    store.mark_published([uplinks[2].id], 9)
    await commit_something(store)
    assert await life.uplinks_after(uplinks[0].id, 2) == [listed(uplinks[1]), listed(uplinks[2], 9)]
    assert await life.uplinks_after(uplinks[4].id, 2) == []


async def test_a_new_database_knows_nobody(life):
    assert await everything(life) == {
        "registrations": [],
        "stations": [],
        "end points": [],
        "history": [],
        "clocks": {},
        "heard": 0,
    }


async def test_nothing_is_decided_or_read_after_the_end(path):
    async with open_store(path) as store:
        pass
    with pytest.raises(StorageError, match="closed"):
        await store.life.decide(wishes=[WISH])
    with pytest.raises(StorageError, match="closed"):
        await store.life.end_points()
