"""All SQL of the store: queries, what one transaction writes, and what a row means.

`sqlite3` gives up the interpreter lock in every step of a statement and gets it back only when the
trio thread lets go, which can take the 5 ms of the interpreter's switch interval. So a statement
carries many rows, a transaction has few statements, and the outbox is read as one row.

EUIs are 16 hex digits, because the integers of SQLite are signed. INDEXED BY stands where a planner
that walks the table instead would read all that was ever published.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from bssci.core.center.receptions import NO_COUNTER, Reception, SettledUplink
from bssci.core.protocol.codec import decode, encode
from bssci.core.protocol.errors import BssciError, StorageError
from bssci.core.protocol.messages import AttachPropagate, DetachPropagate, UplinkData
from bssci.core.protocol.resume import SessionRecord

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from bssci.core.protocol.messages import Message

__all__ = [
    "FIND_REPORT",
    "FIND_UPLINKS",
    "LIST_ALL",
    "LIST_END_POINT",
    "LOAD_NOTES",
    "LOAD_SESSION",
    "MAX_INTEGER",
    "OUTBOX",
    "PINNED",
    "REMEMBERED",
    "ROW_SEPARATOR",
    "SESSION_EUIS",
    "UNSETTLED",
    "UPLINKS_AFTER",
    "Changes",
    "OutboxRow",
    "Row",
    "Run",
    "StoredUplink",
    "Tally",
    "eui_text",
    "execute_rows",
    "outbox_rows",
    "pin",
    "prune",
    "receptions_of",
    "repin",
    "session_of",
    "session_row",
    "settled_of",
    "stored_of",
]

logger = logging.getLogger(__name__)

Row = tuple[Any, ...]  # the tables are STRICT: what a column holds is said in `schema`

CHUNKS = (256, 128, 64, 32)
# Rows of one statement; a rest below 32 is one statement too. So there are 35 texts a table,
# all of them prepared once and kept.
MAX_INTEGER = 2**63 - 1
ROW_SEPARATOR = "\x1e"  # cannot stand in JSON unescaped
LENGTH_OCTETS = 4  # before each pending operation of a session


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An uplink that waits to be published; or a report, then `ep_eui` is the base station.

    Attributes:
        channel: as of a `SettledUplink`.
    """

    id: int
    ep_eui: int
    body: str
    channel: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUplink:
    """An uplink of the history; `published_ns` is None as long as it waits."""

    id: int
    ep_eui: int
    received_ns: int
    published_ns: int | None
    body: str


# --- asking -------------------------------------------------------------------------------------

LOAD_NOTES = """
    SELECT id, max(last_row, coalesce((SELECT max(row) FROM journal), 0)), settled_through,
        coalesce((SELECT min(row) - 1 FROM journal), settled_through), last_uplink, uplinks,
        unpublished
    FROM store
"""
UNSETTLED = """
    SELECT row, bs_eui, received_ns, session, reissued, payload FROM journal
    WHERE row > ? ORDER BY row LIMIT ?
"""
OUTBOX = f"""
    SELECT group_concat(
        id || ' ' || ep_eui || ' ' || ifnull(channel, '') || ' ' || body, '{ROW_SEPARATOR}'
    ) FROM (
        SELECT id, ep_eui, channel, body FROM uplinks INDEXED BY uplinks_unpublished
        WHERE published_ns IS NULL AND id > ? ORDER BY id LIMIT ?
    )
"""
# What is kept beside uplinks has a channel, and the counter -1: no uplink has that.
_SETTLED = "SELECT id, ep_eui, packet_cnt, digest, received_ns, journal_row, body FROM uplinks"
REMEMBERED = f"""
    {_SETTLED} INDEXED BY uplinks_received
    WHERE received_ns >= ? AND (received_ns, id) < (?, ?) AND channel IS NULL
    ORDER BY received_ns DESC, id DESC LIMIT ?
"""
FIND_UPLINKS = f"""
    {_SETTLED} INDEXED BY uplinks_end_point
    WHERE ep_eui = ? AND packet_cnt = ? ORDER BY received_ns DESC LIMIT ?
"""
FIND_REPORT = f"""
    SELECT 1 FROM (
        SELECT digest FROM uplinks INDEXED BY uplinks_end_point
        WHERE ep_eui = ? AND packet_cnt = {NO_COUNTER} ORDER BY received_ns DESC LIMIT ?
    ) WHERE digest = ? LIMIT 1
"""
_LIST = "SELECT id, ep_eui, received_ns, published_ns, body FROM uplinks"
LIST_ALL = f"""
    {_LIST} INDEXED BY uplinks_received
    WHERE received_ns >= ? AND channel IS NULL ORDER BY received_ns DESC, id DESC LIMIT ?
"""
# The inner query is answered by the index alone, also where one end point has a million uplinks.
LIST_END_POINT = f"""
    {_LIST} WHERE id IN (
        SELECT id FROM uplinks INDEXED BY uplinks_end_point
        WHERE ep_eui = ? AND packet_cnt >= 0 AND received_ns >= ?
        ORDER BY received_ns DESC, id DESC LIMIT ?
    ) ORDER BY received_ns DESC, id DESC
"""
UPLINKS_AFTER = f"{_LIST} WHERE id > ? AND channel IS NULL ORDER BY id LIMIT ?"
SESSION_EUIS = "SELECT bs_eui FROM sessions ORDER BY bs_eui LIMIT ?"
LOAD_SESSION = """
    SELECT bs_eui, version, bs_uuid, sc_uuid, bs_op_id, sc_op_id, pending
    FROM sessions WHERE bs_eui = ?
"""
PINNED = "SELECT fingerprint FROM pins WHERE bs_eui = ?"

# --- telling ------------------------------------------------------------------------------------

_INSERT_JOURNAL = (
    "INSERT INTO journal (row, bs_eui, received_ns, session, reissued, payload) VALUES {rows}"
)
# A transaction whose COMMIT failed may be on disk all the same when it is repeated.
_INSERT_UPLINKS = """
    INSERT INTO uplinks
        (id, ep_eui, packet_cnt, digest, received_ns, journal_row, body, channel)
    VALUES {rows} ON CONFLICT (id) DO NOTHING
"""
_SAVE_SESSIONS = """
    INSERT OR REPLACE INTO sessions
        (bs_eui, version, bs_uuid, sc_uuid, bs_op_id, sc_op_id, pending)
    VALUES {rows}
"""
_DROP_SESSIONS = "DELETE FROM sessions WHERE bs_eui IN (VALUES {rows})"
_MARK_PUBLISHED = """
    UPDATE uplinks SET published_ns = ? WHERE id BETWEEN ? AND ? AND published_ns IS NULL
"""
_DELETE_SETTLED = "DELETE FROM journal WHERE row <= ?"
_NOTE = """
    UPDATE store SET
        last_row = max(last_row, ?),
        settled_through = max(settled_through, ?),
        last_uplink = max(last_uplink, ?),
        uplinks = uplinks + ?,
        unpublished = unpublished + ?,
        damage_met = max(damage_met, ?)
"""
_PIN = "INSERT INTO pins (bs_eui, fingerprint, pinned_ns) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_REPIN = "INSERT OR REPLACE INTO pins (bs_eui, fingerprint, pinned_ns) VALUES (?, ?, ?)"
_FIRST_UNPUBLISHED = """
    SELECT min(id) FROM uplinks INDEXED BY uplinks_unpublished WHERE published_ns IS NULL
"""
_FIRST_UPLINK = "SELECT min(id) FROM uplinks"
_OLD = """
    SELECT id FROM uplinks INDEXED BY uplinks_received
    WHERE received_ns < ? AND id < ? ORDER BY received_ns, id LIMIT ?
"""
_COUNT_OLD_UNPUBLISHED = (
    f"SELECT count(*) FROM uplinks WHERE id IN ({_OLD}) AND published_ns IS NULL"
)
_DELETE_OLD = f"DELETE FROM uplinks WHERE id IN ({_OLD})"


@dataclass(slots=True)
class Tally:
    """By how much a transaction changes what is counted."""

    uplinks: int = 0
    unpublished: int = 0


@dataclass(slots=True)
class Run:
    """Uplinks with ids from `first` to `last`, published."""

    first: int
    last: int
    published_ns: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(slots=True)
class Changes:
    """What one transaction writes."""

    receptions: list[Reception] = field(default_factory=list)
    sessions: list[Row] = field(default_factory=list)
    """In the order of the calls: what `session_row` gives, or an EUI alone to drop the session."""
    uplinks: list[SettledUplink] = field(default_factory=list)
    settled_through: int = 0
    works: list[Callable[[sqlite3.Connection, Tally], None]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    delete_through: int = 0
    damage_met: bool = False

    def write(self, db: sqlite3.Connection) -> Tally:
        """Write it and commit; if it raises, the transaction may be open."""
        if self._is_one_statement():
            # Commits by itself: one turn of the interpreter lock instead of three.
            self._write_journal(db)
            return Tally()
        db.execute("BEGIN IMMEDIATE")
        tally = self._write_all(db)
        db.execute("COMMIT")
        return tally

    def _is_one_statement(self) -> bool:
        others = self.sessions, self.uplinks, self.works, self.runs
        return (
            not any(others)
            and not self.settled_through
            and not self.damage_met
            and sum(1 for _ in _sizes(len(self.receptions))) == 1
        )

    def _write_all(self, db: sqlite3.Connection) -> Tally:
        tally = Tally()
        self._write_journal(db)
        # What is saved is wider than what is dropped.
        for width, rows in groupby(self.sessions, key=len):
            execute_rows(db, _DROP_SESSIONS if width == 1 else _SAVE_SESSIONS, list(rows))
        tally.uplinks = execute_rows(db, _INSERT_UPLINKS, [_uplink_row(u) for u in self.uplinks])
        tally.unpublished = tally.uplinks
        for run in self.runs:
            told = run.published_ns, run.first, run.last
            tally.unpublished -= db.execute(_MARK_PUBLISHED, told).rowcount
        for work in self.works:
            work(db, tally)
        if self.delete_through:
            db.execute(_DELETE_SETTLED, (self.delete_through,))
        self._write_notes(db, tally)
        return tally

    def _write_journal(self, db: sqlite3.Connection) -> None:
        execute_rows(db, _INSERT_JOURNAL, [_journal_row(r) for r in self.receptions])

    def _write_notes(self, db: sqlite3.Connection, tally: Tally) -> None:
        # Rows need no note while they are there; it is their deletion that would forget them.
        last_row = max(self.delete_through, self.settled_through)
        last_uplink = self.uplinks[-1].id if self.uplinks else 0
        counted = tally.uplinks, tally.unpublished
        notes = last_row, self.settled_through, last_uplink, *counted, self.damage_met
        if any(notes):
            db.execute(_NOTE, notes)


def pin(db: sqlite3.Connection, bs_eui: int, fingerprint: str, now_ns: int) -> str:
    """Bind a base station to a certificate unless it is bound; the one it is bound to."""
    eui = eui_text(bs_eui)
    db.execute(_PIN, (eui, fingerprint, now_ns))
    return str(db.execute(PINNED, (eui,)).fetchone()[0])


def repin(db: sqlite3.Connection, bs_eui: int, fingerprint: str, now_ns: int) -> str | None:
    """Bind a base station to a certificate; the one it was bound to."""
    eui = eui_text(bs_eui)
    before = db.execute(PINNED, (eui,)).fetchone()
    db.execute(_REPIN, (eui, fingerprint, now_ns))
    return None if before is None else str(before[0])


def prune(
    db: sqlite3.Connection,
    tally: Tally,
    *,
    settled_through: int,
    before_ns: int,
    limit: int,
    include_unpublished: bool,
) -> int:
    """Delete what is settled of the journal and old of the history; how many uplinks."""
    db.execute(_DELETE_SETTLED, (settled_through,))
    end = None if include_unpublished else db.execute(_FIRST_UNPUBLISHED).fetchone()[0]
    if end is not None and end == db.execute(_FIRST_UPLINK).fetchone()[0]:
        return 0
    old = before_ns, MAX_INTEGER if end is None else end, limit
    if include_unpublished:
        tally.unpublished -= db.execute(_COUNT_OLD_UNPUBLISHED, old).fetchone()[0]
    deleted = db.execute(_DELETE_OLD, old).rowcount
    tally.uplinks -= deleted
    return deleted


# --- many rows in one statement -----------------------------------------------------------------


def execute_rows(db: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> int:
    """Run `sql` for all rows in as few statements as can be; how many rows it changed."""
    changed = start = 0
    for size in _sizes(len(rows)):
        chunk = rows[start : start + size]
        statement = _with_rows(sql, size, len(chunk[0]))
        changed += db.execute(statement, tuple(chain.from_iterable(chunk))).rowcount
        start += size
    return changed


def _sizes(rows: int) -> Iterator[int]:
    for size in CHUNKS:
        while rows >= size:
            yield size
            rows -= size
    if rows:
        yield rows


@lru_cache(maxsize=512)
def _with_rows(sql: str, rows: int, width: int) -> str:
    row = "(" + ", ".join("?" * width) + ")"
    return sql.replace("{rows}", ", ".join([row] * rows))


# --- rows of what is stored ---------------------------------------------------------------------


def eui_text(eui: int) -> str:
    return f"{eui:016X}"


def _journal_row(reception: Reception) -> Row:
    return (
        reception.row,
        f"{reception.bs_eui:016X}",
        reception.received_ns,
        reception.session,
        reception.reissued,
        reception.payload,
    )


def _uplink_row(uplink: SettledUplink) -> Row:
    return (
        uplink.id,
        f"{uplink.ep_eui:016X}",
        uplink.packet_cnt,
        uplink.digest,
        uplink.received_ns,
        uplink.journal_row,
        uplink.body,
        uplink.channel,
    )


def session_row(record: SessionRecord) -> Row:
    """What is stored of a session; `answered_op_id` is not, only base stations have it.

    Raises:
        LocalProtocolError: a pending operation breaks a rule of its type.
    """
    payloads = [
        _encoded(each) if isinstance(each, AttachPropagate | DetachPropagate) else encode(each)
        for each in record.pending
    ]
    return (
        eui_text(record.bs_eui),
        record.version,
        record.bs_uuid,
        record.sc_uuid,
        # A peer may use the last ID there is, and IDs are saved ahead of their use. One number
        # that SQLite cannot hold would fail the transaction of everybody.
        min(record.bs_op_id, MAX_INTEGER),
        max(record.sc_op_id, -MAX_INTEGER),
        b"".join(len(p).to_bytes(LENGTH_OCTETS, "big") + p for p in payloads),
    )


# A session is written each time an operation begins or ends, with all those that are on their way;
# these are the ones that come in thousands.
_encoded = lru_cache(maxsize=4096)(encode)


# --- what rows mean -----------------------------------------------------------------------------


def receptions_of(rows: Sequence[Row]) -> list[Reception]:
    """Journal rows; one that cannot be read is logged and left out."""
    receptions = []
    for row, bs_eui, received_ns, session, reissued, payload in rows:
        try:
            uplink = decode(payload)
            if not isinstance(uplink, UplinkData):
                raise StorageError(f"it is {uplink.command}")
        except BssciError as error:
            logger.warning("journal row %d is skipped: %s", row, error, extra={"bs_eui": bs_eui})
            continue
        receptions.append(
            Reception(
                row=row,
                bs_eui=int(bs_eui, 16),
                received_ns=received_ns,
                session=session,
                uplink=uplink,
                payload=payload,
                reissued=bool(reissued),
            )
        )
    return receptions


def outbox_rows(rows: Sequence[Row]) -> list[OutboxRow]:
    text = rows[0][0]
    if text is None:
        return []
    parts = (row.split(" ", 3) for row in text.split(ROW_SEPARATOR))
    return sorted(
        (
            OutboxRow(int(id_), int(eui, 16), body, channel or None)
            for id_, eui, channel, body in parts
        ),
        key=attrgetter("id"),
    )


def settled_of(row: Row) -> SettledUplink:
    id_, ep_eui, packet_cnt, digest, received_ns, journal_row, body = row
    return SettledUplink(
        id=id_,
        ep_eui=int(ep_eui, 16),
        packet_cnt=packet_cnt,
        digest=digest,
        received_ns=received_ns,
        journal_row=journal_row,
        body=body,
    )


def stored_of(row: Row) -> StoredUplink:
    id_, ep_eui, received_ns, published_ns, body = row
    return StoredUplink(
        id=id_,
        ep_eui=int(ep_eui, 16),
        received_ns=received_ns,
        published_ns=published_ns,
        body=body,
    )


def session_of(row: Row) -> SessionRecord:
    bs_eui, version, bs_uuid, sc_uuid, bs_op_id, sc_op_id, pending = row
    return SessionRecord(
        bs_eui=int(bs_eui, 16),
        version=version,
        bs_uuid=bs_uuid,
        sc_uuid=sc_uuid,
        bs_op_id=bs_op_id,
        sc_op_id=sc_op_id,
        pending=tuple(_pending(pending, bs_eui)),
    )


def _pending(octets: bytes, bs_eui: str) -> Iterator[Message]:
    """Operations without an answer; one that cannot be rebuilt must not cost the session."""
    while octets:
        end = LENGTH_OCTETS + int.from_bytes(octets[:LENGTH_OCTETS], "big")
        try:
            yield decode(octets[LENGTH_OCTETS:end])
        except BssciError as error:
            logger.warning(
                "a stored operation without an answer is dropped: %s",
                error,
                extra={"bs_eui": bs_eui},
            )
        octets = octets[end:]
