"""A copy of the database that is good before it counts, and the way back.

A copy is made while the service runs: beside the write-ahead log a reader sees one moment for as
long as it likes, and holds up no writer. Meanwhile the log grows by what is written in that time.

A database that comes back from a copy knows less than its peers do. So its sessions are forgotten
(base stations begin new ones and are told of every sensor again), and it gets another name and
other numbers for downlinks, so that nothing new bears the `id` of something old.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bssci.core.protocol.errors import Code, StorageError
from bssci.core.runtime.schema import (
    APPLICATION_ID,
    MIGRATIONS,
    StoreVersionError,
    name_beside,
    primary_code,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Contents", "Restored", "back_up", "examine", "is_in_use", "look", "restore"]

MAX_WAIT = 5.0  # seconds for another program to let go of the database
STEP = 1024  # pages between two moments at which it can be told how far it is, or be stopped

SKIPPED_DOWNLINKS = 1_000_000  # numbers that may have been given to downlinks since the copy


@dataclass(frozen=True, slots=True)
class Contents:
    """What a database holds.

    Attributes:
        version: of its tables.
        size: of its file, in octets.
        rows: how many there are, by table.
    """

    version: int
    size: int
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class Restored:
    """What has come of a restoration.

    Attributes:
        contents: of the database that is there now.
        kept: where the one that was there before is; None: there was none.
    """

    contents: Contents
    kept: Path | None


# --- there ---


def back_up(
    path: Path, target: Path, *, tell: Callable[[int, int], object] = lambda _done, _all: None
) -> Contents:
    """Copy a database, whether or not a service has it open, into one file that only we can read.

    What is under the name of the copy is replaced only when the copy is on disk, was examined from
    end to end, and has as many rows in each table as the database had at that moment.

    Args:
        tell: hears how many pages of how many are copied.

    Raises:
        StorageError: there is no database, it is damaged, or the copy cannot be written; what was
            under its name still is.
        StoreVersionError: it is newer than this program.
    """
    with _draft_of(target) as draft:
        with _open(path, "rw") as db:
            _require_ours(db, path)
            # One moment: from the first look until the end of the transaction.
            db.execute("BEGIN")
            rows = _rows(db)
            _copy(db, draft, tell)
        contents = examine(draft, called=path)
        if contents.rows != rows:
            raise StorageError(f"{path}: the copy does not hold what the database does; try again")
        _put(draft, target)
    return contents


def _copy(db: sqlite3.Connection, draft: Path, tell: Callable[[int, int], object]) -> None:
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        db.backup(copy, pages=STEP, progress=lambda _, left, whole: tell(whole - left, whole))
        # So it is one file, that can be read also where nothing can be written.
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()


def examine(file: Path, *, called: Path | None = None) -> Contents:
    """Look at every page of a database that nobody writes, and count what is in it.

    Args:
        called: its name in errors, if it has not yet got that.

    Raises:
        StorageError: it is none of ours, or damaged.
        StoreVersionError: it is newer than this program.
    """
    name = called or file
    with _open(file, "ro", called=name) as db:
        version = _require_ours(db, name)
        found = db.execute("PRAGMA integrity_check(1)").fetchone()
        if found != ("ok",):
            raise StorageError(f"{name}: damaged: {found[0]}")
        return Contents(version, file.stat().st_size, _rows(db))


def _rows(db: sqlite3.Connection) -> dict[str, int]:
    names = db.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' "
        "ORDER BY name"
    ).fetchall()
    return {name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in names}


# --- and back ---


def restore(file: Path, path: Path, *, force: bool = False) -> Restored:
    """Make a copy the database at `path`; no service may have that open.

    Args:
        force: also if there is a database; it is kept beside the new one.

    Raises:
        StorageError: the copy or the place cannot be used, or a service runs; nothing was changed.
        StoreVersionError: the copy is newer than this program.
    """
    with _possession_of(path):
        if _is_store(path) and not force:
            raise StorageError(
                f"{path} is there already; with --force it is replaced, and kept under another name"
            )
        with _draft_of(path) as draft:
            _draw(file, draft)
            contents = examine(draft, called=file)
            _renew(draft)
            _give_to_owner(draft)
            kept = _put_aside(path)
            _put(draft, path)
    return Restored(contents, kept)


def _draw(file: Path, draft: Path) -> None:
    with _open(file, "ro") as db:
        _require_ours(db, file)
        _copy(db, draft, lambda _done, _all: None)


def _renew(draft: Path) -> None:
    """Leave nothing in it that contradicts what peers know of the time since."""
    with _open(draft, "rw") as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM sessions")
        db.execute("UPDATE store SET id = lower(hex(randomblob(4)))")
        columns = {row[1] for row in db.execute("PRAGMA table_info(store)")}
        if "last_downlink" in columns:  # not before version 3
            db.execute("UPDATE store SET last_downlink = last_downlink + ?", (SKIPPED_DOWNLINKS,))
        db.execute("COMMIT")


def _put_aside(path: Path) -> Path | None:
    """Keep the database that was there; gives where."""
    if not _is_store(path):
        path.unlink(missing_ok=True)
        return None
    # It is not even opened: of one that is damaged, SQLite would throw the log away.
    aside = name_beside(path, "replaced")
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{end}", f"{aside}{end}")
    return aside


def _is_store(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@contextlib.contextmanager
def _possession_of(path: Path) -> Iterator[None]:
    """Be the one that has it as its store: the service asks for the same lock when it starts."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock")
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        _give_to_owner(file)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StorageError(
            f"{path} is in use: the service runs. Stop it, and start it again afterwards"
        ) from error
    finally:
        os.close(lock)


def _give_to_owner(file: Path) -> None:
    """Whom the folder belongs to is who runs the service, also where root restores."""
    owner = file.parent.stat()
    if os.geteuid() == 0:
        os.chown(file, owner.st_uid, owner.st_gid)


# --- files ---


@contextlib.contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """A file beside another, that is gone afterwards unless it got its name."""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise _cannot_write(target, error) from error
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                os.unlink(f"{name}{end}")


def _put(draft: Path, target: Path) -> None:
    """Give a draft its name; it is on disk, and so is the name, when this returns."""
    try:
        _sync(draft, os.O_RDONLY)
        os.replace(draft, target)
        _sync(target.parent, os.O_DIRECTORY)
    except OSError as error:
        raise _cannot_write(target, error) from error


def _sync(place: Path, flags: int) -> None:
    descriptor = os.open(place, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _open(file: Path, mode: str, *, called: Path | None = None) -> Iterator[sqlite3.Connection]:
    """A connection to a database that exists; whatever SQLite says comes out as ours.

    Raises:
        StorageError
    """
    if not file.is_file():
        raise StorageError(f"there is no database at {file}")
    uri = f"{file.absolute().as_uri()}?mode={mode}"
    try:
        with contextlib.closing(
            sqlite3.connect(uri, uri=True, timeout=MAX_WAIT, isolation_level=None)
        ) as db:
            yield db
    except sqlite3.Error as error:
        is_full = primary_code(error) == sqlite3.SQLITE_FULL
        raise StorageError(
            f"{called or file}: {'no space left for the copy' if is_full else error}",
            code=Code.ENOSPC if is_full else Code.EIO,
        ) from error


def _require_ours(db: sqlite3.Connection, file: Path) -> int:
    """The version of its tables."""
    (application_id,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID or not version:
        raise StorageError(f"{file} is no database of this program")
    if version > len(MIGRATIONS):
        raise StoreVersionError(file, found=version, known=len(MIGRATIONS))
    return int(version)


def _cannot_write(file: Path, error: OSError) -> StorageError:
    code = Code.ENOSPC if error.errno == Code.ENOSPC else Code.EIO
    return StorageError(f"{file} cannot be written: {error.strerror}", code=code)


# --- a look in passing ---


def look(path: Path) -> tuple[int, bool]:
    """The version of a database's tables, and whether damage was met that is yet to be examined.

    Cheap, however large it is, and while a service has it open.

    Raises: as `examine`, as far as that shows at a glance.
    """
    with _open(path, "rw") as db:
        version = _require_ours(db, path)
        ((damage_met,),) = db.execute("SELECT damage_met FROM store").fetchall()
        return version, bool(damage_met)


def is_in_use(path: Path) -> bool:
    """Whether a process has the database as its store."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
