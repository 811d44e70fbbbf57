import contextlib
import logging
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.receptions import Reception
from bssci.core.protocol.codec import encode
from bssci.core.protocol.messages import AttachPropagate, DetachPropagate, UplinkData
from bssci.core.protocol.resume import SessionRecord
from bssci.core.runtime import statements
from bssci.core.runtime.schema import migrate
from bssci.core.runtime.statements import Changes, Tally, receptions_of, session_of, session_row
from tests.core.protocol.samples import SAMPLES

EUI = 0xFCA84A0300000001
KEY = bytes(range(16))
RECORD = SessionRecord(bs_eui=EUI, version="1.0.0", bs_uuid=KEY, sc_uuid=KEY[::-1])
MESSAGES = [message for _, message in SAMPLES]


@pytest.fixture
def db(tmp_path):
    path = tmp_path / "bssci.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, path)
        yield connection


@pytest.mark.parametrize(
    ("sql", "values", "index"),
    [
        (statements.OUTBOX, (0, 9), "uplinks_unpublished"),
        (statements.REMEMBERED, (0, 9, 9, 9), "uplinks_received"),
        (statements.FIND_UPLINKS, ("", 0, 9), "uplinks_end_point (ep_eui=? AND packet_cnt=?)"),
        (statements.FIND_REPORT, ("", 9, b""), "uplinks_end_point (ep_eui=? AND packet_cnt=?)"),
        (statements.LIST_ALL, (0, 9), "uplinks_received"),
        (statements.UPLINKS_AFTER, (0, 9), "INTEGER PRIMARY KEY (rowid>?)"),
        (statements.LIST_END_POINT, ("", 0, 9), "COVERING INDEX uplinks_end_point"),
        (statements._OLD, (0, 9, 9), "COVERING INDEX uplinks_received"),
        (statements._FIRST_UNPUBLISHED, (), "uplinks_unpublished"),
        (statements._MARK_PUBLISHED, (1, 2, 3), "uplinks_unpublished (id>? AND id<?)"),
    ],
)
def test_no_question_reads_the_whole_history(db, sql, values, index):
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert any(index in step for step in plan), plan
    assert not [step for step in plan if step == "SCAN uplinks"]


def journal(db: sqlite3.Connection) -> list[Reception]:
    return receptions_of(db.execute(statements.UNSETTLED, (0, 1000)).fetchall())


def receptions(count: int) -> list[Reception]:
    (uplink,) = (m for m in MESSAGES if isinstance(m, UplinkData))
    return [Reception(n, EUI, n, KEY, uplink, encode(uplink), False) for n in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 255, 256, 257, 300, 700])
def test_any_number_of_receptions_is_written_whole_and_in_order(db, count):
    rows = receptions(count)
    assert Changes(receptions=rows).write(db) == Tally()
    assert not db.in_transaction
    assert journal(db) == rows


@pytest.mark.parametrize(("count", "statements_run"), [(1, 1), (31, 1), (64, 1), (300, 5)])
def test_a_transaction_of_receptions_alone_has_few_statements(db, count, statements_run):
    run: list[str] = []
    db.set_trace_callback(run.append)
    Changes(receptions=receptions(count)).write(db)
    assert len(run) == statements_run


def test_that_damage_was_met_is_noted_for_good(db):
    Changes(damage_met=True).write(db)
    Changes(settled_through=1).write(db)
    assert db.execute("SELECT damage_met FROM store").fetchone() == (1,)


# --- sessions ----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(MESSAGES), max_size=6).map(tuple))
def test_any_operations_without_an_answer_come_back(pending):
    record = SessionRecord(
        bs_eui=EUI,
        version="1.0.0",
        bs_uuid=KEY,
        sc_uuid=KEY[::-1],
        bs_op_id=7,
        sc_op_id=-9,
        pending=pending,
    )
    assert session_of(session_row(record)) == record


@pytest.mark.parametrize("damaged", [b"\xc1", b"\x80", b""])
def test_an_operation_that_cannot_be_rebuilt_is_dropped_alone(damaged, caplog):
    first, last = DetachPropagate(op_id=-1, ep_eui=1), DetachPropagate(op_id=-3, ep_eui=3)
    octets = b"".join(len(p).to_bytes(4, "big") + p for p in (encode(first), damaged, encode(last)))
    row = (*session_row(RECORD)[:-1], octets)
    assert session_of(row).pending == (first, last)
    (record,) = caplog.records
    assert (record.levelno, vars(record)["bs_eui"]) == (logging.WARNING, "FCA84A0300000001")


@given(st.binary(max_size=40), st.integers(0, 200))
def test_whatever_stands_in_the_place_of_operations_the_session_is_there(noise, length):
    attach = AttachPropagate(
        op_id=-1,
        ep_eui=1,
        bidi=False,
        nwk_sn_key=KEY,
        sh_addr=1,
        last_packet_cnt=0,
        dual_chan=False,
        repetition=False,
        wide_carr_off=False,
        long_blk_dist=False,
    )
    payload = encode(attach)
    octets = (len(payload).to_bytes(4, "big") + payload)[:length] + noise
    session_of((*session_row(RECORD)[:-1], octets))
