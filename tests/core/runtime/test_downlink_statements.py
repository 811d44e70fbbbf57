import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.downlinks import (
    Downlink,
    DownlinkRecord,
    DownlinkState,
    Ending,
    Intent,
    Result,
)
from bssci.core.runtime import downlink_statements as statements
from bssci.core.runtime.schema import migrate

BS_EUI = 0xFCA84A0300000001
EP_EUI = 0xFFEEDDCCBBAA9988
WRONG: Any = None  # no bug of ours may keep uplinks from the disk

QUEUED = DownlinkRecord(
    downlink=Downlink(
        que_id=1, ep_eui=EP_EUI, user_data=(b"\x01\xff",), created_ns=10, expires_ns=20
    )
)
ENDING = Ending(
    result="sent",
    at_ns=15,
    bs_eui=BS_EUI,
    tx_time=14,
    packet_cnt=2**32 - 1,
    code=28,
    message="größer",
)
FULL = DownlinkRecord(
    downlink=Downlink(
        que_id=2**53 - 1,
        ep_eui=EP_EUI,
        user_data=(b"", bytes(range(200))),
        packet_cnt=(7, 2**32 - 1),
        format=255,
        prio=-1.25,
        response_exp=True,
        response_prio=True,
        dl_wind_req=True,
        exp_only=True,
        query_rx=True,
        ref="Zähler 7",
        created_ns=11,
        expires_ns=21,
    ),
    holder=BS_EUI,
    is_queued=True,
    intent="expire",
    ending=ENDING,
    acknowledged_ns=16,
)


@pytest.fixture
def db(tmp_path):
    path = tmp_path / "bssci.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, path)
        yield connection


def queued(que_id: int, ep_eui: int = EP_EUI, **changes: Any) -> DownlinkRecord:
    downlink = replace(QUEUED.downlink, que_id=que_id, ep_eui=ep_eui)
    return replace(QUEUED, downlink=downlink, **changes)


def ended(que_id: int, result: Result = "sent", at_ns: int = 15, **changes: Any) -> DownlinkRecord:
    return queued(que_id, ending=Ending(result=result, at_ns=at_ns), **changes)


def write(db: sqlite3.Connection, *records: DownlinkRecord) -> None:
    db.execute("BEGIN IMMEDIATE")
    statements.save(db, records)
    db.execute("COMMIT")


def listed(
    db: sqlite3.Connection,
    ep_eui: int | None = None,
    state: DownlinkState | None = None,
    count: int = 10**6,
) -> list[DownlinkRecord]:
    return statements.records_of(db.execute(*statements.listing(ep_eui, state, count)).fetchall())


def ids(records: list[DownlinkRecord]) -> list[int]:
    return [record.downlink.que_id for record in records]


# --- what is asked and told --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "found_by"),
    [
        (statements.OPEN, "SEARCH downlinks USING INDEX downlinks_open (que_id>?)"),
        (statements.SENT, "SEARCH downlinks USING INDEX downlinks_state (state=?)"),
        (statements.FIND, "SEARCH downlinks USING INTEGER PRIMARY KEY (rowid=?)"),
        (statements._LIST_ALL, "SCAN downlinks"),
        (statements._LIST_STATE, "SEARCH downlinks USING INDEX downlinks_state (state=?)"),
        (statements._LIST_END_POINT, "SEARCH downlinks USING INDEX downlinks_end_point (ep_eui=?)"),
        (
            statements._LIST_END_POINT_STATE,
            "SEARCH downlinks USING INDEX downlinks_end_point (ep_eui=?)",
        ),
        (statements.LAST_DOWNLINK, "SCAN store"),
    ],
)
def test_a_query_is_answered_in_the_order_of_an_index_and_nothing_is_sorted(db, sql, found_by):
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", (1,) * sql.count("?"))]
    assert plan == [found_by]


def test_pruning_walks_the_index_of_those_that_have_come_to_rest_and_no_table(db):
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statements._PRUNE}", (1, 1))]
    assert plan[:3] == [
        "SEARCH downlinks USING INTEGER PRIMARY KEY (rowid=?)",
        "LIST SUBQUERY 1",
        "SCAN downlinks USING COVERING INDEX downlinks_done",
    ]
    assert [step for step in plan[3:] if "BLOOM" not in step] == []


def test_any_number_of_downlinks_goes_to_disk_in_few_statements(db):
    many = [queued(n) for n in range(1, 10_001)]
    run: list[str] = []
    db.set_trace_callback(run.append)
    write(db, *many)
    db.set_trace_callback(None)
    assert len(run) < 60
    assert listed(db) == many[::-1]


# --- values come back as they were --------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        QUEUED,
        FULL,
        replace(QUEUED, downlink=replace(QUEUED.downlink, user_data=(b"",), packet_cnt=(0,))),
        replace(FULL, ending=Ending(result="rejected", at_ns=1), acknowledged_ns=None, holder=0),
    ],
)
def test_a_downlink_comes_back_whole(db, record):
    write(db, record)
    assert listed(db) == [record]
    assert statements.records_of(
        db.execute(statements.FIND, (record.downlink.que_id,)).fetchall()
    ) == [record]


@pytest.mark.parametrize("ref", ["", "7", "\ud800", 7, -(2**70), 1.5, 7.0])
def test_a_mark_comes_back_as_the_text_or_number_it_was(db, ref):
    write(db, replace(QUEUED, downlink=replace(QUEUED.downlink, ref=ref)))
    (found,) = listed(db)
    assert (found.downlink.ref, type(found.downlink.ref)) == (ref, type(ref))


def test_a_base_station_whose_clock_is_beyond_all_bounds_harms_nobody_else(db):
    write(db, replace(FULL, ending=replace(ENDING, tx_time=2**64 - 1)))
    assert listed(db) == [replace(FULL, ending=replace(ENDING, tx_time=2**63 - 1))]


def test_a_record_takes_the_place_of_the_one_before(db):
    write(db, queued(1), queued(2))
    write(db, ended(1, holder=BS_EUI))
    write(db, queued(1, intent="revoke"))
    assert listed(db) == [queued(2), queued(1, intent="revoke")]


# --- the state is that of the record -------------------------------------------------------------

RECORDS = st.builds(
    DownlinkRecord,
    downlink=st.builds(
        Downlink,
        que_id=st.integers(1, 2**53 - 1),
        ep_eui=st.sampled_from([1, EP_EUI]),
        user_data=st.just((b"",)),
        created_ns=st.just(0),
        expires_ns=st.just(1),
    ),
    holder=st.none() | st.just(BS_EUI),
    is_queued=st.booleans(),
    intent=st.sampled_from(get_args(Intent)),
    ending=st.none()
    | st.builds(Ending, result=st.sampled_from(get_args(Result)), at_ns=st.just(3)),
    acknowledged_ns=st.none() | st.just(5),
)


@given(st.lists(RECORDS, unique_by=lambda record: record.downlink.que_id))
def test_a_listing_has_exactly_those_whose_state_is_asked_for_newest_first(records):
    newest = sorted(records, key=lambda record: record.downlink.que_id, reverse=True)
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db, Path("nowhere"))
        write(db, *records)
        for ep_eui in (None, EP_EUI):
            of_it = [each for each in newest if ep_eui in {None, each.downlink.ep_eui}]
            assert listed(db, ep_eui) == of_it
            for state in get_args(DownlinkState):
                expected = [each for each in of_it if each.state == state]
                assert listed(db, ep_eui, state) == expected
                assert listed(db, ep_eui, state, count=1) == expected[:1]
        rows = db.execute(statements.OPEN, (-1, 10**6)).fetchall()
        unfinished = [each for each in newest if each.ending is None or each.holder is not None]
        assert statements.records_of(rows) == unfinished[::-1]


# --- those that have ended have a bound ----------------------------------------------------------


def test_of_those_that_came_to_rest_the_last_ones_are_kept(db, monkeypatch):
    monkeypatch.setattr(statements, "KEPT_DONE", 3)
    write(db, queued(1), ended(2, at_ns=9, holder=BS_EUI), *(ended(n, at_ns=n) for n in (3, 4, 5)))
    assert ids(listed(db)) == [5, 4, 3, 2, 1]
    write(db, ended(6, "expired", at_ns=6))
    assert ids(listed(db)) == [6, 5, 4, 2, 1]
    write(db, ended(2, at_ns=9))
    assert ids(listed(db)) == [6, 5, 2, 1]
    write(db, ended(1, "invalid", at_ns=10))
    assert ids(listed(db)) == [6, 2, 1]
    write(db, queued(7), ended(8, at_ns=1, holder=BS_EUI))
    assert ids(listed(db)) == [8, 7, 6, 2, 1]


def test_too_many_that_have_gathered_become_less_by_a_few_at_a_time(db, monkeypatch):
    write(db, *(ended(n, at_ns=n) for n in range(1, 11)))
    monkeypatch.setattr(statements, "KEPT_DONE", 2)
    counts = []
    for n in range(11, 21):
        write(db, ended(n, at_ns=n))
        counts.append(len(listed(db)))
    assert counts == [9, 8, 7, 6, 5, 4, 3, 2, 2, 2]
    assert ids(listed(db)) == [20, 19]


def test_that_a_queue_id_was_used_is_known_when_nothing_bears_it(db, monkeypatch):
    monkeypatch.setattr(statements, "KEPT_DONE", 0)
    write(db, ended(9), ended(4))
    write(db, ended(3))
    assert listed(db) == []
    assert db.execute(statements.LAST_DOWNLINK).fetchall() == [(9,)]


# --- what cannot be stored or read ---------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        ended(2, at_ns=2**63),
        queued(2, intent=WRONG),
        queued(2, ending=replace(ENDING, message="\ud800")),
        queued(2, acknowledged_ns=b"{}"),
        replace(QUEUED, downlink=replace(QUEUED.downlink, que_id=2, prio=float("nan"))),
        replace(QUEUED, downlink=replace(QUEUED.downlink, que_id=2, user_data=WRONG)),
        replace(QUEUED, downlink=replace(QUEUED.downlink, que_id=2, format=2**63)),
    ],
)
def test_what_is_noted_and_cannot_be_stored_is_given_up_alone(db, bad, caplog):
    db.execute("BEGIN IMMEDIATE")
    statements.save_or_give_up(db, [queued(1), bad, queued(3)])
    db.execute("COMMIT")
    assert listed(db) == [queued(3), queued(1)]
    (record,) = caplog.records
    assert record.getMessage().startswith("how it is with downlink 2 cannot be stored")


@pytest.mark.parametrize("bad", [queued(2, intent=WRONG), ended(2, at_ns=2**63)])
def test_what_is_decided_and_cannot_be_stored_is_told(db, bad):
    db.execute("BEGIN IMMEDIATE")
    with pytest.raises((sqlite3.IntegrityError, OverflowError)):
        statements.save(db, [queued(1), bad])
    db.execute("ROLLBACK")
    assert listed(db) == []


def test_a_disk_that_refuses_is_no_reason_to_give_anything_up(db):
    db.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError):
        statements.save_or_give_up(db, [queued(1)])


@pytest.mark.parametrize(
    "damage",
    [
        "user_data = '['",
        "user_data = '{}'",
        "user_data = '[7]'",
        "user_data = '[\"0\"]'",
        "packet_cnt = '[1]'",
        "packet_cnt = '[null, 1]'",
        "ref = 'x'",
        "holder = 'x'",
        "end_bs_eui = 'x'",
        "intent = 'hope'",
        "result = 'lost'",
        "ended_ns = NULL",
        "message = NULL",
    ],
)
def test_a_downlink_that_cannot_be_read_is_left_out_and_its_data_not_shown(db, damage, caplog):
    secret = replace(FULL.downlink, que_id=2, user_data=(b"\xca\xfe\xba", b"\xbe"))
    write(db, queued(1), replace(FULL, downlink=secret), queued(3))
    db.execute(f"UPDATE downlinks SET {damage} WHERE que_id = 2")
    assert listed(db) == [queued(3), queued(1)]
    (record,) = caplog.records
    assert record.getMessage().startswith("stored, but not to be read: downlink 2: ")
    assert "cafe" not in record.getMessage()
