import contextlib
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bssci.core.center.receptions import Reception, SettledUplink
from bssci.core.protocol.codec import encode
from bssci.core.protocol.errors import Code, LocalProtocolError, StorageError
from bssci.core.protocol.messages import DetachPropagate, DownlinkDataQueue, Ping, UplinkData
from bssci.core.protocol.resume import SessionRecord
from bssci.core.runtime import commit, database, statements
from bssci.core.runtime import store as module
from bssci.core.runtime.store import OutboxRow, Store, StoredUplink, open_store
from tests.disks import destroy, fill_up, query, stuck_disk

BS_EUI = 0xFCA84A0300000001
EP_EUI = 0xFFEEDDCCBBAA9988
SESSION = bytes(range(16))
SECOND_NS = 10**9

UPLINK = UplinkData(
    op_id=1,
    ep_eui=EP_EUI,
    rx_time=17,
    packet_cnt=5,
    snr=1.5,
    rssi=-100.0,
    user_data=b"abc",
    dl_open=False,
    response_exp=False,
    dl_ack=False,
)
RECORD = SessionRecord(
    bs_eui=BS_EUI,
    bs_uuid=bytes(16),
    sc_uuid=SESSION,
    version="1.0.0",
    bs_op_id=7,
    sc_op_id=-3,
    pending=(DetachPropagate(op_id=-2, ep_eui=EP_EUI), DetachPropagate(op_id=-3, ep_eui=1)),
)


def reception(
    store: Store, *, packet_cnt: int = 5, reissued: bool = False, size: int = 3
) -> Reception:
    row = store.next_row()
    uplink = replace(UPLINK, op_id=row, packet_cnt=packet_cnt, user_data=bytes(size))
    return Reception(row, BS_EUI, row * SECOND_NS, SESSION, uplink, encode(uplink), reissued)


def settled(
    store: Store,
    *,
    packet_cnt: int = 5,
    ep_eui: int = EP_EUI,
    received_ns: int | None = None,
    journal_row: int = 1,
    body: str = "{}",
    channel: str | None = None,
) -> SettledUplink:
    id_ = store.next_uplink()
    return SettledUplink(
        id=id_,
        ep_eui=ep_eui,
        packet_cnt=packet_cnt,
        digest=b"12345678",
        received_ns=id_ * SECOND_NS if received_ns is None else received_ns,
        journal_row=journal_row,
        body=body,
        channel=channel,
    )


def waiting(uplink: SettledUplink) -> OutboxRow:
    return OutboxRow(uplink.id, uplink.ep_eui, uplink.body, uplink.channel)


def listed(uplink: SettledUplink, published_ns: int | None = None) -> StoredUplink:
    return StoredUplink(
        id=uplink.id,
        ep_eui=uplink.ep_eui,
        received_ns=uplink.received_ns,
        published_ns=published_ns,
        body=uplink.body,
    )


async def add_settled(store: Store, count: int, *, body: str = "{}") -> list[SettledUplink]:
    uplinks = [settled(store, body=body) for _ in range(count)]
    await store.settle(uplinks, settled_through=0)
    return uplinks


def how_it_goes(store: Store) -> str:
    return store.state


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "bssci.db"


@pytest.fixture
async def store(path):
    async with open_store(path) as store:
        yield store


# --- the journal -------------------------------------------------------------------------------


async def test_an_appended_reception_is_on_disk_when_append_returns(store, path):
    row = reception(store)
    await store.append([row])
    columns = "row, bs_eui, received_ns, session, reissued, payload"
    expected = (1, "FCA84A0300000001", SECOND_NS, SESSION, 0, row.payload)
    assert query(path, f"SELECT {columns} FROM journal") == [expected]


async def test_unsettled_receptions_come_back_whole_and_in_order(path):
    async with open_store(path) as store:
        rows = [reception(store, reissued=i == 3) for i in range(5)]
        await store.append(rows[:3])
        await store.append(rows[3:])
    async with open_store(path) as store:
        assert await store.unsettled(0, 2) == rows[:2]
        assert await store.unsettled(2, 100) == rows[2:]
        assert await store.unsettled(5, 100) == []


@pytest.mark.parametrize("count", [1, 31, 32, 33, 255, 256, 300, 700])
async def test_any_number_of_rows_goes_in_together(store, count):
    rows = [reception(store) for _ in range(count)]
    await store.append(rows)
    assert await store.unsettled(0, 1000) == rows


async def test_settled_rows_do_not_come_back(path):
    async with open_store(path) as store:
        rows = [reception(store) for _ in range(4)]
        await store.append(rows)
        await store.settle([], settled_through=3)
        assert await store.unsettled(0, 100) == rows[3:]
    async with open_store(path) as store:
        assert await store.unsettled(0, 100) == rows[3:]


async def test_a_row_that_cannot_be_read_is_skipped_and_logged(store, caplog):
    good, bad, other, last = (reception(store) for _ in range(4))
    bad = replace(bad, payload=b"\xc1")
    other = replace(other, payload=encode(Ping(op_id=9)))
    await store.append([good, bad, other, last])
    assert await store.unsettled(0, 1) == [good]
    assert await store.unsettled(1, 1) == [last]
    skipped = [r.getMessage() for r in caplog.records if "is skipped" in r.getMessage()]
    assert [text.partition(" is")[0] for text in skipped] == ["journal row 2", "journal row 3"]


async def test_a_row_that_comes_late_is_refused_because_it_could_be_taken_for_settled(store):
    early, late = reception(store), reception(store)
    await store.append([late])
    with pytest.raises(ValueError, match="journal row 1 comes after row 2"):
        await store.append([early])


async def test_commits_are_told_in_row_order_before_those_who_wait_go_on(path):
    told: list[list[int]] = []

    async def append(store: Store, count: int) -> None:
        rows = [reception(store) for _ in range(count)]
        await store.append(rows)
        assert {r.row for r in rows} <= {row for group in told for row in group}

    async with (
        open_store(path, on_commit=lambda rs: told.append([r.row for r in rs])) as store,
        trio.open_nursery() as nursery,
    ):
        for _ in range(50):
            nursery.start_soon(append, store, 3)
    assert [row for group in told for row in group] == list(range(1, 151))


async def test_what_waits_during_a_commit_goes_into_the_next_one_together(path):
    groups: list[int] = []
    async with (
        open_store(path, on_commit=lambda rs: groups.append(len(rs))) as store,
        trio.open_nursery() as nursery,
    ):
        with stuck_disk(path):
            nursery.start_soon(store.append, [reception(store)])
            await wait_all_tasks_blocked()
            for _ in range(40):
                nursery.start_soon(store.append, [reception(store)])
                await wait_all_tasks_blocked()
    assert groups == [1, 40]


async def test_appending_nothing_is_nothing(store):
    await store.append([])
    assert await store.unsettled(0, 10) == []


async def test_rows_of_an_appender_that_gave_up_are_told_if_they_were_committed(path):
    told: list[Reception] = []
    async with open_store(path, on_commit=told.extend) as store:
        row = reception(store)
        with stuck_disk(path), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.append, [row])
                await wait_all_tasks_blocked()
                scope.cancel()
        await store.append([reception(store)])
        assert [r.row for r in told] == [1, 2]
        assert (await store.unsettled(0, 10))[0] == row


async def test_those_who_find_no_room_wait_and_keep_their_order(path, monkeypatch):
    monkeypatch.setattr(commit, "MAX_WAITING_ROWS", 4)
    groups: list[list[int]] = []
    async with (
        open_store(path, on_commit=lambda rs: groups.append([r.row for r in rs])) as store,
        trio.open_nursery() as nursery,
    ):
        with stuck_disk(path):
            for count in (3, 2, 1, 6, 1):
                nursery.start_soon(store.append, [reception(store) for _ in range(count)])
                await wait_all_tasks_blocked()
            nursery.start_soon(settle_one, store)
            await wait_all_tasks_blocked()
            assert store._committer._rows == 3
    assert [row for group in groups for row in group] == list(range(1, 14))
    assert max(len(group) for group in groups) == 6


async def append_one(store: Store) -> None:
    await store.append([reception(store)])


async def settle_one(store: Store) -> None:
    await store.settle([settled(store)], settled_through=0)


async def test_large_payloads_are_bounded_by_their_octets(path, monkeypatch):
    monkeypatch.setattr(commit, "MAX_WAITING_OCTETS", 10_000)
    async with open_store(path) as store, trio.open_nursery() as nursery:
        with stuck_disk(path):
            for _ in range(3):
                nursery.start_soon(store.append, [replace(reception(store), payload=bytes(6000))])
                await wait_all_tasks_blocked()
            assert store._committer._rows == 1


async def test_a_listener_that_fails_keeps_the_uplinks_from_being_acknowledged(path, caplog):
    def fail(receptions):
        raise RuntimeError("bug")

    async with open_store(path, on_commit=fail) as store:
        with pytest.raises(StorageError, match="could not be taken on"):
            await store.append([reception(store)])
        await add_settled(store, 1)
    assert "go no further" in caplog.text


# --- settling and the outbox -------------------------------------------------------------------


async def test_a_settled_uplink_waits_in_the_outbox_until_it_is_published(path):
    async with open_store(path) as store:
        first, second = await add_settled(store, 2)
        assert await store.outbox(0, 10) == [waiting(first), waiting(second)]
        assert await store.outbox(first.id, 10) == [waiting(second)]
        assert await store.outbox(0, 1) == [waiting(first)]
        store.mark_published([first.id], 99)
        assert await store.outbox(0, 10) == [waiting(second)]
    async with open_store(path) as store:
        assert await store.outbox(0, 10) == [waiting(second)]
        assert await store.uplinks() == [listed(second), listed(first, 99)]


async def test_the_outbox_is_in_order_also_when_it_is_longer_than_what_is_kept_in_memory(
    path, monkeypatch
):
    monkeypatch.setattr(module, "MAX_TAIL_ROWS", 5)
    async with open_store(path) as store:
        uplinks = await add_settled(store, 20, body='{"text": "a b é\\u001e"}')
        assert len(store._tail) == 5
        found, after = [], 0
        while rows := await store.outbox(after, 3):
            found += rows
            after = rows[-1].id
        assert found == [waiting(u) for u in uplinks]


async def test_what_is_kept_in_memory_is_bounded_in_octets(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TAIL_OCTETS", 1000)
    async with open_store(path) as store:
        uplinks = await add_settled(store, 20, body='"' + "x" * 198 + '"')
        assert len(store._tail) == 5
        store.mark_published([uplinks[-1].id], 1)
        assert store._tail_octets == 800
        assert await store.outbox(0, 100) == [waiting(u) for u in uplinks[:-1]]


async def test_what_is_marked_but_not_yet_so_on_disk_is_not_handed_out_again(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TAIL_ROWS", 0)
    async with open_store(path) as store:
        uplinks = await add_settled(store, 6)
        with stuck_disk(path):
            store.mark_published([u.id for u in uplinks[:3]], 1)
            assert await store.outbox(0, 2) == [waiting(uplinks[3])]
            assert await store.outbox(0, 3) == [waiting(u) for u in uplinks[3:]]
            store._committer._ring()
            assert await store.outbox(0, 3) == [waiting(u) for u in uplinks[3:]]


async def test_marks_get_to_disk_by_themselves(path, monkeypatch):
    monkeypatch.setattr(commit, "MARK_DELAY", 0.01)
    async with open_store(path) as store:
        (uplink,) = await add_settled(store, 1)
        store.mark_published([uplink.id], 42)
        with trio.fail_after(10):
            while await store.uplinks() != [listed(uplink, 42)]:  # noqa: ASYNC110 - a real thread
                await trio.sleep(0.01)


async def test_marks_join_the_next_transaction(store):
    uplinks = await add_settled(store, 5)
    store.mark_published([uplinks[0].id, uplinks[1].id], 7)
    store.mark_published([uplinks[2].id], 8)
    store.mark_published([uplinks[4].id], 9)
    await store.append([reception(store)])
    published = [8, 8, 8, None, 9]
    assert (
        await store.uplinks()
        == [listed(u, at) for u, at in zip(uplinks, published, strict=True)][::-1]
    )
    assert (await store.counts()).unpublished == 1


async def test_marks_that_the_disk_refuses_are_kept(path, monkeypatch, caplog):
    monkeypatch.setattr(database, "MAX_OPEN_WAIT", 0.01)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(path))
        uplinks = await add_settled(store, 3)
        with stuck_disk(path):
            store.mark_published([uplinks[0].id], 7)
            with pytest.raises(StorageError):
                await store.append([reception(store)])
        store.mark_published([uplinks[1].id], 8)
        await store.append([reception(store)])
        published = [u.published_ns for u in await store.uplinks()]
        assert published == [None, 8, 8]
        with stuck_disk(path):
            store.mark_published([uplinks[2].id], 9)
            await stack.aclose()
    assert "not marked" in caplog.text


async def test_marks_that_wait_are_bounded(store, monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_MARKS", 3)
    uplinks = await add_settled(store, 10)
    store.mark_published([u.id for u in uplinks[::2]], 5)
    await store.append([reception(store)])
    published = [u.published_ns for u in await store.uplinks()][::-1]
    assert published == [None, None, None, None, 5, None, 5, None, 5, None]
    assert "the oldest are given up" in caplog.text


async def test_more_runs_of_marks_than_fit_one_transaction_all_get_to_disk(path, monkeypatch):
    monkeypatch.setattr(module, "MAX_RUNS", 2)
    async with open_store(path) as store:
        uplinks = await add_settled(store, 20)
        store.mark_published([u.id for u in uplinks[::2]], 5)
    rows = query(path, "SELECT id FROM uplinks WHERE published_ns IS NULL")
    assert rows == [(u.id,) for u in uplinks[1::2]]


async def test_an_uplink_out_of_order_is_refused_because_the_outbox_would_miss_it(store):
    early, late = settled(store), settled(store)
    await store.settle([late], settled_through=0)
    with pytest.raises(ValueError, match="uplink 1 comes after uplink 2"):
        await store.settle([early], settled_through=0)


@pytest.mark.parametrize("body", ["\x1e", "\ud800"])
async def test_a_body_that_cannot_be_stored_harms_nobody_else(store, body):
    with pytest.raises(ValueError):
        await store.settle([settled(store, body=body)], settled_through=0)
    (uplink,) = await add_settled(store, 1)
    assert await store.outbox(0, 10) == [waiting(uplink)]


async def test_settling_that_failed_is_repeated_as_it_is(path, monkeypatch):
    monkeypatch.setattr(database, "MAX_OPEN_WAIT", 0.01)
    async with open_store(path) as store:
        await store.append([reception(store)])
        uplink = settled(store)
        with stuck_disk(path), pytest.raises(StorageError):
            await store.settle([uplink], settled_through=1)
        await store.settle([uplink], settled_through=1)
        assert await store.outbox(0, 10) == [waiting(uplink)]
        assert await store.unsettled(0, 10) == []
        # As after a COMMIT whose failure was reported and which survived all the same.
        store._joined_uplink = 0
        await store.settle([uplink], settled_through=1)
        assert (await store.counts()).uplinks == 1


# --- looking things up -------------------------------------------------------------------------


async def test_uplinks_are_found_by_end_point_and_counter(store):
    uplinks = [settled(store, packet_cnt=i % 2, ep_eui=EP_EUI - i % 3) for i in range(12)]
    await store.settle(uplinks, settled_through=0)
    assert await store.find_uplinks(EP_EUI, 0) == [uplinks[6], uplinks[0]]
    assert await store.find_uplinks(EP_EUI, 0, limit=1) == [uplinks[6]]
    assert await store.find_uplinks(EP_EUI, 9) == []


async def test_remembered_uplinks_come_newest_first_in_pages(store):
    uplinks = [settled(store, received_ns=i // 2) for i in range(8)]
    await store.settle(uplinks, settled_through=0)
    newest = uplinks[:1:-1]
    page = await store.remembered(1, 4)
    assert page == newest[:4]
    assert await store.remembered(1, 4, before=page[-1]) == newest[4:]


async def test_uplinks_are_listed_newest_first(store):
    uplinks = [settled(store, ep_eui=EP_EUI - i % 2) for i in range(6)]
    await store.settle(uplinks, settled_through=0)
    assert await store.uplinks(count=2) == [listed(uplinks[5]), listed(uplinks[4])]
    assert await store.uplinks(ep_eui=EP_EUI, since_ns=uplinks[2].received_ns) == [
        listed(uplinks[4]),
        listed(uplinks[2]),
    ]


# --- sessions and pins -------------------------------------------------------------------------


async def test_a_session_comes_back_as_it_was_saved(path):
    async with open_store(path) as store:
        assert await store.load_session(BS_EUI) is None
        await store.save_session(RECORD)
    async with open_store(path) as store:
        assert await store.load_session(BS_EUI) == RECORD


async def test_a_new_session_takes_the_place_of_the_old_one(store):
    new = replace(RECORD, sc_uuid=bytes(16), bs_op_id=0, sc_op_id=0, pending=())
    await store.save_session(RECORD)
    await store.save_session(new)
    assert await store.load_session(BS_EUI) == new


async def test_the_exact_counters_at_the_end_win_over_those_saved_ahead_of_their_use(store):
    await store.save_session(replace(RECORD, bs_op_id=RECORD.bs_op_id + 64, sc_op_id=-67))
    await store.save_session(RECORD)
    assert await store.load_session(BS_EUI) == RECORD


async def test_a_pending_operation_that_breaks_a_rule_harms_nobody_else(store):
    no_counter = DownlinkDataQueue(ep_eui=1, que_id=1, cnt_depend=True, user_data=(b"",))
    broken = replace(RECORD, pending=(no_counter,))
    with pytest.raises(LocalProtocolError, match="packetCnt"):
        await store.save_session(broken)
    assert await store.load_session(BS_EUI) is None


async def test_a_base_station_that_uses_the_last_operation_id_keeps_its_session(store):
    await store.save_session(replace(RECORD, bs_op_id=2**63 + 63, sc_op_id=-(2**63) - 64))
    last = replace(RECORD, bs_op_id=2**63 - 1, sc_op_id=1 - 2**63)
    assert await store.load_session(BS_EUI) == last


async def test_a_dropped_session_is_forgotten(store):
    await store.save_session(RECORD)
    await store.drop_session(BS_EUI)
    assert await store.load_session(BS_EUI) is None


async def test_sessions_saved_and_dropped_together_keep_the_order_of_the_calls(store, path):
    other = replace(RECORD, bs_eui=1)
    async with trio.open_nursery() as nursery:
        with stuck_disk(path):
            nursery.start_soon(store.append, [reception(store)])
            await wait_all_tasks_blocked()
            for function, value in (
                (store.save_session, RECORD),
                (store.drop_session, BS_EUI),
                (store.save_session, replace(RECORD, bs_op_id=1)),
                (store.save_session, other),
                (store.drop_session, 1),
            ):
                nursery.start_soon(function, value)
                await wait_all_tasks_blocked()
    assert await store.load_session(BS_EUI) == replace(RECORD, bs_op_id=1)
    assert await store.load_session(1) is None


async def test_a_base_station_is_bound_to_its_first_certificate(path):
    async with open_store(path) as store:
        assert await store.pin(BS_EUI, "AA", 1) == "AA"
        assert await store.pin(BS_EUI, "BB", 2) == "AA"
        assert await store.pin(BS_EUI + 1, "AA", 3) == "AA"
    async with open_store(path) as store:
        with stuck_disk(path):
            assert await store.pin(BS_EUI, "BB", 4) == "AA"


async def test_a_base_station_can_be_bound_to_another_certificate(path):
    async with open_store(path) as store:
        assert await store.repin(BS_EUI, "AA", 1) is None
        assert await store.repin(BS_EUI, "BB", 2) == "AA"
        assert await store.pin(BS_EUI, "AA", 3) == "BB"
    async with open_store(path) as store:
        assert await store.repin(BS_EUI, "CC", 4) == "BB"


async def test_of_two_first_certificates_one_wins_for_both(store, path):
    answers = []

    async def pin(fingerprint):
        answers.append(await store.pin(BS_EUI, fingerprint, 1))

    async with trio.open_nursery() as nursery:
        with stuck_disk(path):
            nursery.start_soon(pin, "AA")
            nursery.start_soon(pin, "BB")
            await trio.to_thread.run_sync(lambda: None, limiter=store._reading)
    assert len(set(answers)) == 1
    assert len(answers) == 2


# --- how much there is -------------------------------------------------------------------------


async def test_counts_are_kept_and_survive_a_restart(path):
    async with open_store(path) as store:
        rows = [reception(store) for _ in range(10)]
        await store.append(rows)
        uplinks = [settled(store) for _ in range(4)]
        await store.settle(uplinks, settled_through=6)
        store.mark_published([uplinks[0].id], 1)
        await store.append([])
    async with open_store(path) as store:
        counts = await store.counts()
        assert (counts.backlog, counts.unpublished, counts.uplinks) == (4, 3, 4)
        assert counts.size >= path.stat().st_size > 0
        assert counts.free > 0
    path.parent.rename(path.parent.with_name("moved"))
    counts = await store.counts()
    assert (counts.size, counts.free) == (0, 0)


async def test_what_is_published_waits_no_more_also_before_that_is_on_disk(store, path):
    uplinks = await add_settled(store, 5)
    assert (store.unpublished, store.is_written) == (5, True)
    with stuck_disk(path):
        store.mark_published([u.id for u in uplinks[:3]], 1)
        assert (store.unpublished, store.is_written) == (2, False)
        store._committer._ring()
        assert (store.unpublished, store.is_written) == (2, False)
    await store.append([reception(store)])
    assert (store.unpublished, store.is_written) == (2, True)
    assert (await store.counts()).unpublished == 2


async def test_nothing_is_called_written_while_it_waits(store, path):
    async with trio.open_nursery() as nursery:
        with stuck_disk(path):
            nursery.start_soon(append_one, store)
            await wait_all_tasks_blocked()
            assert not store.is_written
    assert store.is_written


async def test_pruning_deletes_what_is_old_and_published(store):
    uplinks = await add_settled(store, 10)
    store.mark_published([u.id for u in uplinks[:6]], 1)
    await store.append([reception(store)])
    assert await store.prune(before_ns=uplinks[4].received_ns, limit=3) == 3
    assert await store.prune(before_ns=uplinks[4].received_ns, limit=3) == 1
    assert await store.prune(before_ns=uplinks[9].received_ns) == 2
    assert await store.prune(before_ns=uplinks[9].received_ns) == 0
    counts = await store.counts()
    assert (counts.uplinks, counts.unpublished) == (4, 4)
    assert await store.outbox(0, 100) == [waiting(u) for u in uplinks[6:]]


async def test_without_a_broker_pruning_takes_what_was_never_published(store):
    uplinks = await add_settled(store, 10)
    store.mark_published([uplinks[1].id], 1)
    deleted = await store.prune(before_ns=uplinks[7].received_ns, include_unpublished=True)
    counts = await store.counts()
    assert (deleted, counts.uplinks, counts.unpublished) == (7, 3, 3)
    assert await store.outbox(0, 100) == [waiting(u) for u in uplinks[7:]]


async def test_pruning_clears_the_journal_of_what_is_settled(store, path):
    await store.append([reception(store) for _ in range(5)])
    await store.settle([], settled_through=4)
    assert await store.prune(before_ns=0) == 0
    assert query(path, "SELECT row FROM journal") == [(5,)]


async def test_numbers_are_never_used_again_even_if_what_bore_them_is_deleted(path):
    async with open_store(path) as store:
        await store.append([reception(store) for _ in range(300)])
        uplinks = [settled(store) for _ in range(5)]
        await store.settle(uplinks, settled_through=300)
        await store.prune(before_ns=uplinks[-1].received_ns + 1, include_unpublished=True)
        identity = store.id
    assert query(path, "SELECT count(*) FROM journal") == [(0,)]
    async with open_store(path) as store:
        assert (store.next_row(), store.next_uplink()) == (301, 6)
        assert store.id == identity
        assert store.uid(0x1F) == f"{identity}-1f"


async def test_the_file_does_not_grow_with_what_passes_through(path):
    sizes = []
    async with open_store(path) as store:
        for _ in range(30):
            rows = [reception(store, size=300) for _ in range(300)]
            await store.append(rows)
            uplinks = [settled(store, journal_row=r.row, body='"' + "x" * 500 + '"') for r in rows]
            await store.settle(uplinks, settled_through=rows[-1].row)
            store.mark_published([u.id for u in uplinks], 1)
            await store.append([reception(store)])
            await store.prune(before_ns=uplinks[-1].received_ns + 1)
            sizes.append(path.stat().st_size)
        counts = await store.counts()
    assert (counts.uplinks, counts.unpublished) == (0, 0)
    assert max(sizes[10:]) <= 2_000_000
    assert path.stat().st_size <= 2_000_000


# --- damage ------------------------------------------------------------------------------------


async def filled(path: Path, count: int = 400) -> None:
    async with open_store(path) as store:
        await store.append([reception(store, size=400) for _ in range(count)])
        await add_settled(store, count, body='"' + "x" * 500 + '"')


async def test_damage_met_while_running_fails_that_call_and_no_other(path, caplog):
    await filled(path)
    destroy(path, "uplinks")
    async with open_store(path) as store:
        assert store.set_aside is None
        with pytest.raises(StorageError, match="damaged") as caught:
            await store.uplinks(count=1000)
        assert caught.value.code == Code.EIO
        with pytest.raises(StorageError, match="damaged"):
            await store.prune(before_ns=10**18, include_unpublished=True)
        assert how_it_goes(store) == "failing"
        assert "the next start examines it" in caplog.text
        await store.append([reception(store)])
        assert how_it_goes(store) == "ok"
        assert len(await store.uplinks(count=1)) == 1


async def read_it(store: Store) -> None:
    await store.uplinks(count=1000)


async def write_it(store: Store) -> None:
    await store.prune(before_ns=10**18, include_unpublished=True)


@pytest.mark.parametrize("meet", [read_it, write_it])
async def test_a_database_in_which_damage_was_met_is_set_aside_at_the_next_start(path, meet):
    await filled(path)
    destroy(path, "uplinks")
    async with open_store(path) as store:
        with pytest.raises(StorageError, match="damaged"):
            await meet(store)
    async with open_store(path) as store:
        assert store.set_aside is not None
        assert await store.uplinks() == []


async def test_that_damage_was_met_is_on_disk_soon(path, monkeypatch):
    monkeypatch.setattr(commit, "MARK_DELAY", 0.01)
    await filled(path)
    destroy(path, "uplinks")
    async with open_store(path) as store:
        with pytest.raises(StorageError, match="damaged"):
            await store.uplinks(count=1000)
        with trio.fail_after(10):
            while not store.is_written:  # noqa: ASYNC110 - a real thread
                await trio.sleep(0.01)
        assert query(path, "SELECT damage_met FROM store") == [(1,)]


async def test_a_store_whose_notes_cannot_be_read_lets_the_file_go(path, monkeypatch):
    async with open_store(path):
        pass
    for _ in range(2):
        with monkeypatch.context() as broken:
            broken.setattr(statements, "LOAD_NOTES", "SELECT id FROM nowhere")
            with pytest.raises(StorageError, match="nowhere"):
                async with open_store(path):
                    pass
    async with open_store(path) as store:
        assert store.set_aside is None


# --- a disk that refuses -----------------------------------------------------------------------


async def test_everyone_in_a_transaction_that_fails_is_told_and_the_next_goes_through(
    path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(database, "MAX_OPEN_WAIT", 0.01)
    codes = []

    async def attempt(function, *values):
        try:
            await function(*values)
        except StorageError as error:
            codes.append(error.code)

    async with open_store(path) as store:
        with stuck_disk(path):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(attempt, append_one, store)
                nursery.start_soon(attempt, store.save_session, RECORD)
                nursery.start_soon(attempt, store.pin, BS_EUI, "AA", 1)
            assert how_it_goes(store) == "failing"
        assert codes == [Code.EIO] * 4
        row = reception(store)
        await store.append([row])
        assert await store.unsettled(0, 10) == [row]
        assert how_it_goes(store) == "ok"
    assert [r.levelname for r in caplog.records if r.name == commit.__name__] == ["ERROR", "INFO"]


async def test_a_value_that_sqlite_cannot_hold_ends_its_transaction_not_the_store(store, caplog):
    too_large = replace(reception(store), received_ns=2**64)
    with pytest.raises(StorageError, match="OverflowError"):
        await store.append([too_large])
    with pytest.raises(StorageError, match="OverflowError"):
        await store.settle([replace(settled(store), received_ns=2**64)], settled_through=0)
    row = reception(store)
    await store.append([row])
    assert await store.unsettled(0, 10) == [row]
    assert "by our own fault" in caplog.text


async def test_nothing_is_taken_after_the_end(path):
    async with open_store(path) as store:
        pass
    with pytest.raises(StorageError, match="closed"):
        await store.append([reception(store)])
    with pytest.raises(StorageError, match="closed"):
        await store.uplinks()


async def append_until_full(store: Store, safe: list[Reception]) -> None:
    for _ in range(5000):
        row = reception(store, size=500)
        try:
            await store.append([row])
        except StorageError as error:
            refusal = error.code, store.state
            break
        safe.append(row)
    assert refusal == (Code.ENOSPC, "full")


async def test_a_full_disk_is_told_survived_and_over_when_there_is_space(small_disk, caplog):
    safe: list[Reception] = []
    path = small_disk / "bssci.db"
    async with open_store(path) as store:
        for _ in range(3):
            ballast = fill_up(small_disk)
            await append_until_full(store, safe)
            await append_until_full(store, safe)
            assert await store.unsettled(0, 5000) == safe
            ballast.unlink()
            safe.append(row := reception(store))
            await store.append([row])
            assert how_it_goes(store) == "ok"
            assert await store.unsettled(0, 5000) == safe
        fill_up(small_disk)
    async with open_store(path) as store:
        assert (store.set_aside, await store.unsettled(0, 5000)) == (None, safe)
    assert "no space left" in caplog.text


async def test_a_full_disk_recovers_by_settling_alone(small_disk, monkeypatch):
    """What is to be deleted takes space in the write-ahead log before it gives any."""
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 20)
    safe: list[Reception] = []
    async with open_store(small_disk / "bssci.db") as store:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(200_000))
        await append_until_full(store, safe)
        ballast.unlink()
        assert await store.unsettled(0, 5000) == safe
        await store.settle([], settled_through=safe[-1].row)
        assert await store.unsettled(0, 5000) == []
        for _ in range(100):
            await store.settle([], settled_through=safe[-1].row)
        later = [reception(store, size=500) for _ in range(2000)]
        for row in later:
            await store.append([row])
        assert await store.unsettled(0, 5000) == later


# --- a process that is killed ------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path

import trio

from bssci.core.runtime.store import open_store
from tests.core.runtime.test_store import reception, settled


async def append(store):
    while True:
        row = reception(store, size=400)
        await store.append([row])
        sys.stdout.write(f"{row.row}\\n")
        sys.stdout.flush()


async def settle(store, rows):
    if rows:
        uplinks = [settled(store, journal_row=r.row) for r in rows]
        await store.settle(uplinks, settled_through=rows[-1].row)


async def main():
    committed = []
    async with open_store(Path(sys.argv[1]), on_commit=committed.extend) as store:
        left = await store.unsettled(0, 10**6)
        await settle(store, left)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(append, store)
            while True:
                await trio.sleep(0.005)
                rows, committed[:] = committed[:], []
                await settle(store, rows)


trio.run(main)
"""


ROOT = Path(__file__).parents[3]


@pytest.mark.process
async def test_what_was_appended_survives_a_kill(path, tmp_path):
    promised: set[int] = set()
    for _ in range(5):
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
        rows = [int(line) for line in told.split(b"\n")[:-1]]
        assert not promised.intersection(rows), "a row number was used twice"
        promised.update(rows)
        async with open_store(path) as store:
            assert store.set_aside is None
            kept = {r.row for r in await store.unsettled(0, 10**6)}
            kept |= {u.journal_row for u in await store.remembered(0, 10**6)}
            assert promised <= kept
            ids = [row.id for row in await store.outbox(0, 10**6)]
            assert ids == sorted(set(ids))
            assert (await store.counts()).unpublished == len(ids)


# --- reports, which are no uplinks -------------------------------------------------------------


def reported(store: Store, bs_eui: int = BS_EUI, digest: bytes = b"r" * 16) -> SettledUplink:
    report = settled(store, ep_eui=bs_eui, packet_cnt=-1, body=f'{{"id":"{digest.hex()}"}}')
    return replace(report, journal_row=0, digest=digest, channel="vm")


async def test_reports_wait_among_the_uplinks_in_one_order_also_from_disk(path):
    async with open_store(path) as store:
        rows = [settled(store), reported(store), settled(store), reported(store, EP_EUI)]
        await store.settle(rows, settled_through=0)
        assert await store.outbox(0, 10) == [waiting(row) for row in rows]
    async with open_store(path) as store:
        assert await store.outbox(0, 10) == [waiting(row) for row in rows]
        store.mark_published([rows[0].id, rows[1].id], 1)
        assert await store.outbox(0, 10) == [waiting(row) for row in rows[2:]]
        assert store.unpublished == 2


async def test_reports_are_in_no_listing_and_nothing_is_learned_from_them(store):
    """Also where a base station has the EUI of an end point."""
    uplink, *_ = rows = [settled(store), reported(store), reported(store, EP_EUI)]
    await store.settle(rows, settled_through=0)
    assert await store.uplinks() == [listed(uplink)]
    assert await store.uplinks(ep_eui=EP_EUI) == [listed(uplink)]
    assert await store.uplinks(ep_eui=BS_EUI) == []
    assert await store.remembered(0, 10) == [uplink]
    assert await store.life.uplinks_after(0, 10) == [listed(uplink)]
    assert (await store.counts()).uplinks == len(rows)


async def test_a_report_is_found_by_base_station_and_operation(store):
    await store.settle(
        [settled(store, ep_eui=BS_EUI), reported(store), reported(store, digest=b"q" * 16)],
        settled_through=0,
    )
    assert await store.has_report(BS_EUI, b"r" * 16)
    assert await store.has_report(BS_EUI, b"q" * 16)
    assert not await store.has_report(BS_EUI, b"s" * 16)
    assert not await store.has_report(BS_EUI, b"12345678")
    assert not await store.has_report(EP_EUI, b"r" * 16)


async def test_a_report_is_looked_for_only_among_the_newest(store, monkeypatch):
    monkeypatch.setattr(module, "MAX_LOOKED_AT", 2)
    digests = [bytes([number]) * 16 for number in range(3)]
    await store.settle([reported(store, digest=d) for d in digests], settled_through=0)
    assert [await store.has_report(BS_EUI, d) for d in digests] == [False, True, True]


async def test_reports_are_pruned_like_uplinks(store):
    rows = [reported(store), settled(store), reported(store)]
    await store.settle(rows, settled_through=0)
    store.mark_published([rows[0].id], 1)
    assert await store.prune(before_ns=10**18) == 1
    assert await store.prune(before_ns=10**18, include_unpublished=True) == 2
    assert (await store.counts()).uplinks == store.unpublished == 0
