"""The SQLite file: taken for ourselves, opened, examined, read and written.

What SQLite or the system says of a failure is translated here, into what the file can still be
used for. A file that is damaged is never deleted: it is moved aside, and a new one begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from bssci.core.protocol.errors import BssciError, Code, StorageError
from bssci.core.runtime.schema import migrate, name_beside, primary_code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["DamageError", "Database"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MINIMUM_SQLITE = (3, 37, 0)  # STRICT tables
MAX_OPEN_WAIT = 5.0  # seconds for another program (backup, sqlite3) to let go of the database
CHECKPOINT_PAGES = 2000
# 8 MB: a checkpoint takes milliseconds, and hot index pages are copied once, not each time.
WAL_LIMIT = 64 * 1024 * 1024
# What is left of the write-ahead log after a burst. It is room already taken: reused, not freed.
CACHE_KIB = 16 * 1024
CACHED_STATEMENTS = 512  # all of ours: some 35 texts of different length for each table

DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
HARMLESS = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CONSTRAINT})
"""After these the connection is as good as before."""


class DamageError(StorageError):
    """What was asked for stands in a damaged part of the file; others may be sound."""


class Database:
    """A database file that is ours alone: one connection writes, another reads.

    Everything here blocks. Calls of `write` and `make_room` must not overlap, nor those of `read`;
    one of each may. A connection that an error may have harmed is replaced at the next call.

    Attributes:
        path: of the file.
        set_aside: where a damaged file was moved when this one was begun in its place.

    Raises:
        StorageError: the folder cannot be written, the file is another program's, or another
            process has it open. The message names the path and what to do.
        StoreVersionError: the database is newer than this program.
    """

    def __init__(self, path: Path) -> None:
        _require_sqlite()
        self.path = path
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None
        self._lock = _lock(path)
        try:
            self._writer, self.set_aside = _open_or_set_aside(path)
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise _storage_error(error, path) from error
        except BssciError:
            os.close(self._lock)
            raise

    def read(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows that a query gives; `schema` says what their columns hold.

        Raises:
            StorageError, DamageError: it gives none.
        """
        try:
            if self._reader is None:
                self._reader = _connect(self.path, may_write=False)
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            failure = _storage_error(error, self.path)
            logger.error("reading failed: %s", failure)
            raise failure from error

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let `work` begin and commit a transaction; what it gives.

        Raises:
            StorageError, DamageError: all of it is undone, whatever went wrong.
        """
        try:
            return work(self._connected())
        except Exception as error:
            if not isinstance(error, sqlite3.Error):
                logger.exception("%s: a transaction failed by our own fault", self.path)
            self._undo(error)
            raise _storage_error(error, self.path) from error

    def make_room(self) -> None:
        """Give what space there is to the database before the write-ahead log takes it.

        The log grows with every attempt and shrinks only once all of it is in the database, which
        has to grow for that: whoever writes first decides whether a disk with a little space
        recovers.
        """
        with contextlib.suppress(sqlite3.Error):
            self._connected().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def size(self) -> int:
        """Octets of the file and its write-ahead log."""
        return sum(map(_size, _files(self.path)[:2]))

    def free(self) -> int:
        """Octets that the file system has left for us."""
        return _free(self.path)

    def close(self) -> None:
        """Let connections and lock go."""
        # The writer's last: whoever is last copies the write-ahead log into the database.
        for db in (self._reader, self._writer):
            if db is not None:
                db.close()
        os.close(self._lock)

    def _connected(self) -> sqlite3.Connection:
        if self._writer is None:
            self._writer = _connect(self.path)
        return self._writer

    def _undo(self, error: Exception) -> None:
        """Leave no transaction open, and no connection that may be unusable."""
        if self._writer is None:
            return
        is_sound = not isinstance(error, sqlite3.Error) or primary_code(error) in HARMLESS
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            is_sound = False
        if not is_sound:
            self._writer.close()
            self._writer = None


# --- possession ---------------------------------------------------------------------------------


def _require_sqlite() -> None:
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise StorageError(
            f"SQLite {sqlite3.sqlite_version} is too old, "
            f"{'.'.join(map(str, MINIMUM_SQLITE))} or newer is needed"
        )


def _files(path: Path) -> tuple[Path, Path, Path]:
    return path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _lock(path: Path) -> int:
    """Make the file, private to us, and be the only process that has it as its store."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        # Not on the database itself: closing any descriptor of it would drop SQLite's own locks.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except BlockingIOError as error:
        os.close(lock)
        raise StorageError(
            f"{path} is in use by another process. Stop it, or give another store.path"
        ) from error
    except OSError as error:
        os.close(lock)
        raise _cannot_write(path, error) from error
    return lock


# --- opening ------------------------------------------------------------------------------------


def _connect(path: Path, *, may_write: bool = True) -> sqlite3.Connection:
    """A connection for one thread at a time; the file must exist."""
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=MAX_OPEN_WAIT,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=CACHED_STATEMENTS,
    )
    try:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            # Deleted uplinks are no secret, and zeroing them writes each page once more.
            "secure_delete = OFF",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            f"journal_size_limit = {WAL_LIMIT}",
            f"cache_size = -{CACHE_KIB}",
            f"query_only = {'OFF' if may_write else 'ON'}",
        ):
            db.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _open_or_set_aside(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """The writer's connection, and where a damaged database was moved."""
    try:
        return _open(path), None
    except sqlite3.DatabaseError as error:
        if primary_code(error) not in DAMAGE:
            raise
        aside = _set_aside(path)
        logger.error(
            "the database %s is damaged (%s); it was moved to %s and a new one begun. Uplinks "
            "that were not yet published, and the sessions, are in the old one",
            path,
            error,
            aside,
        )
    path.touch(mode=0o600)
    return _open(path), aside


def _set_aside(path: Path) -> Path:
    aside = name_beside(path, "damaged")
    for old, new in zip(_files(path), _files(aside), strict=True):
        if old.exists():
            old.rename(new)
    return aside


def _open(path: Path) -> sqlite3.Connection:
    log = _files(path)[1]
    was_killed = log.exists() and log.stat().st_size > 0
    db = _connect(path)
    try:
        copy = migrate(db, path)
        _look_for_damage(db, path, was_killed=was_killed)
    except (sqlite3.Error, BssciError):
        db.close()
        raise
    if copy is not None:
        logger.info("the tables of %s were brought up to date; the older one is %s", path, copy)
    return db


# --- damage -------------------------------------------------------------------------------------

_ENDS = "journal ORDER BY row", "uplinks ORDER BY id", "uplinks ORDER BY received_ns"
_OUTBOX = "uplinks INDEXED BY uplinks_unpublished WHERE published_ns IS NULL ORDER BY id"
_BOUNDED = (
    *("store", "journal", "sessions", "pins"),
    *("end_points", "registrations", "base_stations", "silence_clocks"),
    *("attachments", "downlinks"),
)


def _look_for_damage(db: sqlite3.Connection, path: Path, *, was_killed: bool) -> None:
    """Raise for damage, after a time that as a rule does not grow with the history.

    Always looked at: the header, the schema, the notes, both ends of journal and history. After a
    process that did not close the database, also every page of the tables whose size is bounded.
    `uplinks` is none, being 10 GB with ten million rows: damage in its middle is met when it is
    read, and noted, and then the next start examines every page there is.
    """
    notes = db.execute("SELECT damage_met FROM store").fetchone()
    if notes is None:
        raise _damage("its notes are gone")
    for table in (*_ENDS, *(f"{end} DESC" for end in _ENDS), _OUTBOX):
        db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()
    if notes != (0,):
        _examine(db, path)
    elif was_killed:
        for table in _BOUNDED:
            _check(db, f"quick_check({table})")


def _examine(db: sqlite3.Connection, path: Path) -> None:
    logger.warning(
        "damage was met in %s when it was last used: all of it is examined now, which takes "
        "minutes if it is large",
        path,
    )
    _check(db, "quick_check(1)")
    db.execute("UPDATE store SET damage_met = 0")
    logger.warning("no damage was found in %s. If it is met again, doubt disk and memory", path)


def _check(db: sqlite3.Connection, check: str) -> None:
    found = db.execute(f"PRAGMA {check}").fetchone()
    if found != ("ok",):
        raise _damage(f"{check}: {found[0]}")


def _damage(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


# --- what a failure means -----------------------------------------------------------------------


def _storage_error(error: Exception, path: Path) -> StorageError:
    """What a failure of SQLite or of the system means for those who wait."""
    if isinstance(error, sqlite3.Error):
        code = primary_code(error)
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
            return StorageError(f"{path}: no space left: {error}", code=Code.ENOSPC)
        if code in DAMAGE:
            return DamageError(
                f"{path}: damaged: {error}; the next start examines it and, if it is broken, sets "
                "it aside"
            )
        return StorageError(f"{path}: {error}")
    if isinstance(error, OSError):
        return StorageError(f"{path}: {error}", code=_code(error))
    return StorageError(f"{path}: {error!r}")


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"the database {path} cannot be written: {error.strerror}. The folder {path.parent} must "
        f"exist, belong to the user of the service and be on a file system that takes writes",
        code=_code(error),
    )


def _code(error: OSError) -> Code:
    return Code.ENOSPC if error.errno == Code.ENOSPC else Code.EIO


def _is_full(path: Path) -> bool:
    # SQLite says "disk I/O error" when it finds no room for its shared memory or to extend a file.
    return _free(path) < 256 * 1024


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # no such file, or a disk that does not answer: nothing that we can count
        return 0


def _free(path: Path) -> int:
    try:
        system = os.statvfs(path)
    except OSError:
        return 0
    return system.f_bavail * system.f_frsize
