import contextlib
import errno
import logging
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from bssci.core.protocol.errors import Code, StorageError
from bssci.core.runtime import database as module
from bssci.core.runtime import schema
from bssci.core.runtime.database import DamageError, Database
from bssci.core.runtime.schema import StoreVersionError
from tests.disks import destroy, fill_up, leaves, query

MANY = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 400)"
FILL = (
    f"INSERT INTO journal {MANY} SELECT n, 'BB', n, x'00', 0, zeroblob(500) FROM n",
    f"INSERT INTO uplinks {MANY} "
    "SELECT n, 'EE', n, x'00', n, n, NULL, hex(zeroblob(250)), NULL FROM n",
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "bssci.db"


@pytest.fixture
def database(path):
    with contextlib.closing(Database(path)) as database:
        yield database


def make(path: Path, *statements: str) -> None:
    """A database that was closed as it should be."""
    with contextlib.closing(Database(path)) as database:
        for statement in statements:
            run(database, statement)


def run(database: Database, sql: str) -> None:
    database.write(lambda db: db.execute(sql))


def identity(path: Path) -> list[tuple[object, ...]]:
    return query(path, "SELECT id FROM store")


# --- possession and opening --------------------------------------------------------------------


def test_the_database_is_private_and_its_folder_is_made(database, path):
    files = {f.name: f.stat().st_mode & 0o777 for f in path.parent.iterdir()}
    assert set(files.values()) == {0o600}


def test_two_cannot_have_one_database(database, path):
    with pytest.raises(StorageError, match="in use by another process"):
        Database(path)


def test_a_database_that_was_closed_can_be_had_again(path):
    make(path)
    make(path)
    assert [f.name for f in sorted(path.parent.iterdir())] == ["bssci.db", "bssci.db.lock"]


def test_an_unusable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/bssci\.db cannot be written: "):
        Database(tmp_path / "file" / "bssci.db")


def test_a_folder_in_the_place_of_the_database_is_named(path):
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match="cannot be written: Is a directory"):
        Database(path)


def test_a_database_of_a_newer_program_is_left_as_it_is(path):
    make(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreVersionError, match="version 999"):
            Database(path)
    assert path.read_bytes() == before


def test_an_older_database_is_migrated_and_the_copy_named(path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    make(path)
    further = (*schema.MIGRATIONS, ("CREATE TABLE more (x INTEGER) STRICT",))
    monkeypatch.setattr(module, "migrate", lambda db, path: schema.migrate(db, path, further))
    with contextlib.closing(Database(path)) as database:
        assert database.set_aside is None
    (copy,) = path.parent.glob(f"bssci.db.v{len(schema.MIGRATIONS)}-*")
    assert str(copy) in caplog.text


def test_a_database_that_somebody_else_has_locked_is_not_taken_for_damaged(path, monkeypatch):
    make(path)
    monkeypatch.setattr(module, "MAX_OPEN_WAIT", 0.01)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="locked"):
            Database(path)
    assert [f.name for f in path.parent.glob("*damaged*")] == []


def test_too_old_a_sqlite_is_said(path, monkeypatch):
    monkeypatch.setattr(module, "MINIMUM_SQLITE", (99, 0, 0))
    with pytest.raises(StorageError, match=r"too old, 99\.0\.0 or newer"):
        Database(path)


# --- reading and writing -----------------------------------------------------------------------


def test_what_is_written_is_read(database):
    run(database, "INSERT INTO pins VALUES ('BB', 'AA', 1)")
    assert database.read("SELECT * FROM pins WHERE pinned_ns = ?", (1,)) == [("BB", "AA", 1)]


def test_the_reader_cannot_write(database):
    with pytest.raises(StorageError, match="readonly"):
        database.read("DELETE FROM store")


def test_work_that_fails_leaves_nothing_and_the_next_goes_through(database):
    def fail(db):
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO pins VALUES ('BB', 'AA', 1)")
        db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(StorageError, match="nowhere"):
        database.write(fail)
    assert database.read("SELECT * FROM pins") == []
    run(database, "INSERT INTO pins VALUES ('CC', 'AA', 1)")
    assert database.read("SELECT bs_eui FROM pins") == [("CC",)]


def test_our_own_fault_is_undone_and_told_with_its_traceback(database, caplog):
    def fail(db):
        db.execute("BEGIN IMMEDIATE")
        raise KeyError("bug")

    with pytest.raises(StorageError, match="KeyError"):
        database.write(fail)
    assert [r.exc_info is not None for r in caplog.records] == [True]
    run(database, "INSERT INTO pins VALUES ('CC', 'AA', 1)")


def test_connections_of_no_more_use_are_replaced(database):
    database.read("SELECT 1")
    database._reader.close()
    database._writer.close()
    with pytest.raises(StorageError, match="closed database"):
        database.read("SELECT 1")
    with pytest.raises(StorageError, match="closed database"):
        run(database, "SELECT 1")
    run(database, "INSERT INTO pins VALUES ('BB', 'AA', 1)")
    assert database.read("SELECT bs_eui FROM pins") == [("BB",)]


def test_a_file_that_is_gone_fails_each_call_and_no_more(database, path):
    database._writer.close()
    database._writer = None
    path.unlink()
    database.make_room()
    with pytest.raises(StorageError, match="unable to open"):
        database.read("SELECT 1")
    with pytest.raises(StorageError, match="unable to open"):
        run(database, "SELECT 1")
    assert database.size() == 0


# --- damage ------------------------------------------------------------------------------------


def expect_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> Path:
    with contextlib.closing(Database(path)) as database:
        aside = database.set_aside
        assert aside is not None
        assert f"moved to {aside}" in caplog.text
        assert database.read("SELECT count(*) FROM uplinks") == [(0,)]
        run(database, "INSERT INTO pins VALUES ('BB', 'AA', 1)")
    assert path.stat().st_mode & 0o777 == 0o600
    return aside


def leave_as_after_a_kill(path: Path) -> None:
    """The write-ahead log is there, as the process had no time to clear it away."""
    log = path.with_name("bssci.db-wal")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE store SET last_row = last_row + 1")
        copy = shutil.copy(log, log.with_suffix(".kept"))
    Path(copy).rename(log)


def test_a_file_that_is_no_database_is_set_aside(path, caplog):
    path.parent.mkdir()
    path.write_bytes(b"not a database, but text " * 400)
    aside = expect_set_aside(path, caplog)
    assert aside.read_bytes().startswith(b"not a database")
    assert aside.name.startswith("bssci.db.damaged-")


def test_a_damaged_schema_is_noticed_at_once(path, caplog):
    make(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * 3000)
    expect_set_aside(path, caplog)


def test_missing_notes_are_damage(path, caplog):
    make(path, "DELETE FROM store")
    expect_set_aside(path, caplog)


@pytest.mark.parametrize("table", ["journal", "uplinks", "uplinks_received"])
@pytest.mark.parametrize("end", [0, -1])
def test_damage_at_an_end_is_noticed_at_once(path, caplog, table, end):
    make(path, *FILL)
    page = leaves(path, table)[end]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    expect_set_aside(path, caplog)


def test_damage_in_the_journal_is_noticed_after_a_kill(path, caplog):
    make(path, *FILL)
    destroy(path, "journal")
    leave_as_after_a_kill(path)
    expect_set_aside(path, caplog)


def test_a_sound_database_survives_a_kill(path):
    make(path, *FILL)
    leave_as_after_a_kill(path)
    with contextlib.closing(Database(path)) as database:
        assert database.set_aside is None
        assert database.read("SELECT last_row FROM store") == [(1,)]


def test_damage_in_the_middle_of_the_history_is_met_when_it_is_read(path, caplog):
    make(path, *FILL)
    destroy(path, "uplinks")
    with contextlib.closing(Database(path)) as database:
        assert database.set_aside is None
        with pytest.raises(DamageError, match="the next start examines it"):
            database.read("SELECT sum(length(body)) FROM uplinks")
        with pytest.raises(DamageError, match="damaged"):
            run(database, "DELETE FROM uplinks WHERE id > 1")
        assert len(database.read("SELECT * FROM uplinks ORDER BY id LIMIT 1")) == 1


def test_a_database_in_which_damage_was_met_is_examined_and_set_aside(path, caplog):
    make(path, *FILL, "UPDATE store SET damage_met = 1")
    destroy(path, "uplinks")
    expect_set_aside(path, caplog)
    assert "all of it is examined now" in caplog.text


def test_a_database_that_is_sound_after_all_is_kept_and_examined_once(path, caplog):
    make(path, *FILL, "UPDATE store SET damage_met = 1")
    before = identity(path)
    for _ in range(2):
        with contextlib.closing(Database(path)) as database:
            assert database.set_aside is None
    assert identity(path) == before
    said = [r.getMessage().partition(str(path))[0] for r in caplog.records]
    assert said == ["damage was met in ", "no damage was found in "]


# --- what a failure means ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(28, "No space left on device"), Code.ENOSPC),
        (OSError(5, "Input/output error"), Code.EIO),
        (KeyError("x"), Code.EIO),
    ],
)
def test_what_a_failure_is_answered_with(path, error, code):
    assert module._storage_error(error, path).code == code


def test_an_io_error_for_want_of_space_is_told_as_such(tmp_path, monkeypatch):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert module._storage_error(error, tmp_path).code == Code.EIO
    monkeypatch.setattr(module, "_free", lambda _: 0)
    assert module._storage_error(error, tmp_path).code == Code.ENOSPC


def test_the_space_of_a_folder_that_is_gone_is_none(tmp_path):
    assert module._free(tmp_path / "gone" / "bssci.db") == 0


def test_a_database_that_cannot_be_made_for_want_of_space_says_so(small_disk):
    fill_up(small_disk)
    with pytest.raises(StorageError) as caught:
        Database(small_disk / "bssci.db")
    assert caught.value.code == Code.ENOSPC


def test_a_file_system_that_takes_no_writes_is_named(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match=r"bssci\.db cannot be written: Read-only file system"):
        Database(small_disk / "bssci.db")


def test_a_disk_that_does_not_answer_counts_for_nothing(path, monkeypatch):
    """It must not end who only asked how much there is."""
    database = Database(path)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", _fail)
            assert database.size() == 0
        assert database.size() > 0
    finally:
        database.close()


def _fail(*_args, **_options):
    raise OSError(errno.EIO, "Input/output error")
