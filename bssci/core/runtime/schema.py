"""The tables of the database and how an older one becomes the present one.

A migration is applied once, in order, each in a transaction of its own that also records it
(`PRAGMA user_version`). A migration that was published is never edited: what changes is a new one
at the end. Before an existing database is touched, a consistent copy is put beside it and stays
there.
"""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bssci.core.protocol.errors import BssciError, Code, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "APPLICATION_ID",
    "MIGRATIONS",
    "StoreVersionError",
    "migrate",
    "name_beside",
    "primary_code",
]

APPLICATION_ID = 0x42535343
"""`BSSC`, in the header of every database of ours, so that no other program's is taken for one."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # One row. The counters are here because counting ten million rows takes seconds, and
        # because numbers must not come back when the rows that bore them are deleted. `damage_met`
        # has the next start examine the whole file.
        """
        CREATE TABLE store (
            only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
            id TEXT NOT NULL,
            last_row INTEGER NOT NULL DEFAULT 0,
            settled_through INTEGER NOT NULL DEFAULT 0,
            last_uplink INTEGER NOT NULL DEFAULT 0,
            uplinks INTEGER NOT NULL DEFAULT 0,
            unpublished INTEGER NOT NULL DEFAULT 0,
            damage_met INTEGER NOT NULL DEFAULT 0
        ) STRICT
        """,
        "INSERT INTO store (only_row, id) VALUES (1, lower(hex(randomblob(4))))",
        """
        CREATE TABLE journal (
            row INTEGER PRIMARY KEY,
            bs_eui TEXT NOT NULL,
            received_ns INTEGER NOT NULL,
            session BLOB NOT NULL,
            reissued INTEGER NOT NULL,
            payload BLOB NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE uplinks (
            id INTEGER PRIMARY KEY,
            ep_eui TEXT NOT NULL,
            packet_cnt INTEGER NOT NULL,
            digest BLOB NOT NULL,
            received_ns INTEGER NOT NULL,
            journal_row INTEGER NOT NULL,
            published_ns INTEGER,
            body TEXT NOT NULL
        ) STRICT
        """,
        # The outbox: as large as what waits for the broker, however large the history is.
        "CREATE INDEX uplinks_unpublished ON uplinks (id) WHERE published_ns IS NULL",
        # Grows at its end only, so it costs next to nothing. For --since, pruning, remembering.
        "CREATE INDEX uplinks_received ON uplinks (received_ns)",
        # The one index that is written all over, about a page an uplink with very many end
        # points. It finds a telegram again, and, holding the time, lists one end point's newest
        # uplinks without a look at the table; a second index for that would double the cost.
        "CREATE INDEX uplinks_end_point ON uplinks (ep_eui, packet_cnt, received_ns)",
        """
        CREATE TABLE sessions (
            bs_eui TEXT PRIMARY KEY,
            bs_uuid BLOB NOT NULL,
            sc_uuid BLOB NOT NULL,
            version TEXT NOT NULL,
            bs_op_id INTEGER NOT NULL,
            sc_op_id INTEGER NOT NULL,
            pending BLOB NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE pins (
            bs_eui TEXT PRIMARY KEY,
            fingerprint TEXT NOT NULL,
            pinned_ns INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
    ),
    (
        # What is wanted of an end point, and from `uplinks` on what was learned by hearing it:
        # NULL until then.
        """
        CREATE TABLE end_points (
            ep_eui TEXT PRIMARY KEY,
            nwk_key BLOB NOT NULL,
            short_addr INTEGER NOT NULL,
            bidi INTEGER NOT NULL,
            dual_chan INTEGER NOT NULL,
            repetition INTEGER NOT NULL,
            wide_carr_off INTEGER NOT NULL,
            long_blk_dist INTEGER NOT NULL,
            ota INTEGER NOT NULL,
            name TEXT NOT NULL,
            tags TEXT NOT NULL,
            timeout REAL,
            wanted TEXT NOT NULL,
            cause TEXT NOT NULL,
            since_ns INTEGER NOT NULL,
            is_announced INTEGER NOT NULL,
            is_warned INTEGER NOT NULL,
            uplinks INTEGER,
            last_seen_ns INTEGER,
            last_cnt INTEGER,
            last_snr REAL,
            last_rssi REAL,
            snr_mean REAL,
            snr_least REAL,
            snr_most REAL,
            snr_squares REAL,
            rssi_mean REAL,
            rssi_least REAL,
            rssi_most REAL,
            rssi_squares REAL,
            preferred_bs_eui TEXT,
            preferred_snr REAL,
            preferred_ns INTEGER,
            preferred_messages INTEGER,
            receivers TEXT,
            heard_at INTEGER
        ) STRICT, WITHOUT ROWID
        """,
        # What base stations have confirmed outlives the end point: they are still to be told.
        """
        CREATE TABLE registrations (
            bs_eui TEXT NOT NULL,
            ep_eui TEXT NOT NULL,
            mark INTEGER,
            code INTEGER,
            message TEXT,
            at_ns INTEGER,
            PRIMARY KEY (bs_eui, ep_eui)
        ) STRICT, WITHOUT ROWID
        """,
        # Always empty: SQLite deletes by lists of one column only, so those that are to go are
        # overwritten first and then found here.
        """
        CREATE INDEX registrations_gone ON registrations (bs_eui)
        WHERE mark IS NULL AND code IS NULL
        """,
        """
        CREATE TABLE base_stations (
            bs_eui TEXT PRIMARY KEY,
            session BLOB NOT NULL,
            since_ns INTEGER NOT NULL,
            address TEXT,
            name TEXT,
            vendor TEXT,
            model TEXT,
            sw_version TEXT,
            bidi INTEGER NOT NULL,
            latitude REAL,
            longitude REAL,
            altitude REAL,
            uplinks INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE silence_clocks (
            receivers TEXT PRIMARY KEY,
            watched_ns INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE history (
            id INTEGER PRIMARY KEY,
            ep_eui TEXT NOT NULL,
            at_ns INTEGER NOT NULL,
            what TEXT NOT NULL,
            cause TEXT NOT NULL,
            bs_eui TEXT,
            code INTEGER,
            message TEXT NOT NULL
        ) STRICT
        """,
        # Its entries are in the order of (ep_eui, id), so it lists one end point's newest.
        "CREATE INDEX history_end_point ON history (ep_eui)",
        # Who was forgotten, in that order: their history stays, but not that of everybody for ever.
        """
        CREATE TABLE former_end_points (
            id INTEGER PRIMARY KEY,
            ep_eui TEXT NOT NULL UNIQUE
        ) STRICT
        """,
        # The last uplink that the end points know of. There were none before, so nobody missed any.
        "ALTER TABLE store ADD COLUMN heard_through INTEGER NOT NULL DEFAULT 0",
        "UPDATE store SET heard_through = last_uplink",
    ),
    (
        # From `result` on NULL until it has ended. `user_data`: hex digits in a JSON array;
        # `packet_cnt`: a JSON array, as long.
        """
        CREATE TABLE downlinks (
            que_id INTEGER PRIMARY KEY,
            ep_eui TEXT NOT NULL,
            user_data TEXT NOT NULL,
            packet_cnt TEXT,
            format INTEGER,
            prio REAL NOT NULL,
            response_exp INTEGER NOT NULL,
            response_prio INTEGER NOT NULL,
            dl_wind_req INTEGER NOT NULL,
            exp_only INTEGER NOT NULL,
            query_rx INTEGER NOT NULL,
            ref TEXT,
            created_ns INTEGER NOT NULL,
            expires_ns INTEGER NOT NULL,
            holder TEXT,
            is_queued INTEGER NOT NULL,
            intent TEXT NOT NULL,
            result TEXT,
            ended_ns INTEGER,
            end_bs_eui TEXT,
            tx_time INTEGER,
            end_packet_cnt INTEGER,
            code INTEGER,
            message TEXT,
            acknowledged_ns INTEGER,
            state TEXT GENERATED ALWAYS AS (
                CASE
                    WHEN result IS NULL AND is_queued THEN 'at_station'
                    WHEN result IS NULL THEN 'queued'
                    WHEN acknowledged_ns IS NOT NULL THEN 'acknowledged'
                    ELSE result
                END
            ) VIRTUAL
        ) STRICT
        """,
        # What a start takes up again, however many have ended.
        """
        CREATE INDEX downlinks_open ON downlinks (que_id)
        WHERE result IS NULL OR holder IS NOT NULL
        """,
        # Those that nobody has to do with any more, by when they ended, for pruning: the other two
        # columns spare it a look at the table for each.
        """
        CREATE INDEX downlinks_done ON downlinks (ended_ns, result, holder)
        WHERE result IS NOT NULL AND holder IS NULL
        """,
        # The entries of both are in the order of the queue id within what is equal.
        "CREATE INDEX downlinks_end_point ON downlinks (ep_eui)",
        "CREATE INDEX downlinks_state ON downlinks (state)",
        "ALTER TABLE store ADD COLUMN last_downlink INTEGER NOT NULL DEFAULT 0",
        # The last attachment over the air of each end point.
        """
        CREATE TABLE attachments (
            ep_eui TEXT PRIMARY KEY,
            attach_cnt INTEGER NOT NULL,
            nonce BLOB NOT NULL,
            sign BLOB NOT NULL,
            nwk_sn_key BLOB NOT NULL,
            short_addr INTEGER NOT NULL,
            dual_chan INTEGER NOT NULL,
            repetition INTEGER NOT NULL,
            wide_carr_off INTEGER NOT NULL,
            long_blk_dist INTEGER NOT NULL,
            bs_eui TEXT NOT NULL,
            at_ns INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        # NULL: a telegram of an end point. 'vm': a report of the Variable MAC sub-channel; its
        # `ep_eui` is the EUI of the base station, its `packet_cnt` -1.
        "ALTER TABLE uplinks ADD COLUMN channel TEXT",
    ),
)


class StoreVersionError(BssciError):
    """The database was made by a newer version of this program; it is left as it is.

    Attributes:
        found: the version of its tables.
        known: the newest version we know.
    """

    def __init__(self, path: Path, *, found: int, known: int) -> None:
        super().__init__(
            f"{path}: its tables have version {found}, this program knows them up to {known}. "
            f"Run the newer program, or give another store.path"
        )
        self.found = found
        self.known = known


def primary_code(error: Exception) -> int:
    """The SQLite result code without its extension (`SQLITE_FULL`, ...); -1 where there is none."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else int(code) & 0xFF


def name_beside(path: Path, reason: str) -> Path:
    """A name that is still free for something kept beside the database: `bssci.db.REASON-TIME`."""
    stem = f"{path.name}.{reason}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = (path.with_name(stem + (f"-{n}" if n else "")) for n in range(1000))
    return next(name for name in names if not name.exists())


def migrate(
    db: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Sequence[str]] = MIGRATIONS,
) -> Path | None:
    """Bring the tables up to date and return where the copy of the older ones is, if one was made.

    Raises:
        StoreVersionError: the database is newer than we are; nothing was changed.
        StorageError: it belongs to another program, or there is no room for the copy.
        sqlite3.Error: a migration failed; those before it are done and stay.
    """
    found = _version(db, path)
    if found > len(migrations):
        raise StoreVersionError(path, found=found, known=len(migrations))
    copy = _copy(db, path, found) if 0 < found < len(migrations) else None
    for number, statements in enumerate(migrations[found:], start=found + 1):
        _apply(db, number, statements)
    return copy


def _version(db: sqlite3.Connection, path: Path) -> int:
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application_id != APPLICATION_ID:
        raise StorageError(
            f"{path} is the database of another program (application id {application_id:#x}, "
            f"ours is {APPLICATION_ID:#x}). Give another store.path"
        )
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version) if tables else 0


def _copy(db: sqlite3.Connection, path: Path, version: int) -> Path:
    copy = name_beside(path, f"v{version}")
    try:
        copy.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(copy)) as target:
            db.backup(target)
    except (sqlite3.Error, OSError) as error:
        with contextlib.suppress(OSError):
            copy.unlink()
        raise StorageError(
            f"{path}: cannot be copied to {copy} before its tables are changed: {error}. "
            f"Nothing was changed",
            code=Code.ENOSPC if primary_code(error) == sqlite3.SQLITE_FULL else Code.EIO,
        ) from error
    return copy


def _apply(db: sqlite3.Connection, number: int, statements: Sequence[str]) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            db.execute(statement)
        # Both are part of the transaction; PRAGMA takes no parameters.
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
