import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from bssci.core.protocol.errors import Code, StorageError
from bssci.core.runtime import backup as module
from bssci.core.runtime.backup import (
    Contents,
    Restored,
    back_up,
    examine,
    is_in_use,
    look,
    restore,
)
from bssci.core.runtime.database import Database
from bssci.core.runtime.schema import MIGRATIONS, StoreVersionError, migrate
from tests.disks import destroy, fill_up, query

MANY = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 400)"
UPLINKS = (
    f"INSERT INTO uplinks {MANY} "
    "SELECT n, 'EE', n, x'00', n, n, NULL, hex(zeroblob(2000)), NULL FROM n"
)
SESSION = "INSERT INTO sessions VALUES ('BB', x'00', x'00', '1.0.0', 1, 1, x'')"


@pytest.fixture
def path(tmp_path):
    """A database that is not open: 400 uplinks, a session, downlinks up to number 7."""
    path = tmp_path / "state" / "bssci.db"
    with contextlib.closing(Database(path)) as database:
        for statement in (UPLINKS, SESSION, "UPDATE store SET last_downlink = 7"):
            run(database, statement)
    return path


@pytest.fixture
def copy(path, tmp_path):
    copy = tmp_path / "copy.db"
    back_up(path, copy)
    return copy


def run(database, sql):
    database.write(lambda db: db.execute(sql))


def names(folder):
    return sorted(file.name for file in folder.iterdir())


# --- there ---


def test_a_copy_holds_what_the_database_does_and_only_we_can_read_it(path, tmp_path):
    copy = tmp_path / "copy.db"
    contents = back_up(path, copy)
    assert contents == examine(copy)
    assert {name: count for name, count in contents.rows.items() if count} == {
        "uplinks": 400,
        "sessions": 1,
        "store": 1,
    }
    assert (contents.version, contents.size) == (len(MIGRATIONS), copy.stat().st_size)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["copy.db", "state"]


def test_a_copy_of_a_database_that_is_written_is_one_moment(path, tmp_path):
    steps = []

    def write_meanwhile(done, whole):
        steps.append((done, whole))
        run(database, "INSERT INTO pins VALUES (hex(randomblob(8)), 'f', 1)")

    with contextlib.closing(Database(path)) as database:
        run(database, "INSERT INTO pins VALUES ('AA', 'f', 1)")
        module_step = module.STEP
        module.STEP = 50
        try:
            contents = back_up(path, tmp_path / "copy.db", tell=write_meanwhile)
        finally:
            module.STEP = module_step
    assert len(steps) > 3
    assert steps[-1][0] == steps[-1][1]
    assert contents.rows["pins"] == 1


def test_a_process_that_was_killed_leaves_a_database_that_can_be_copied(path, tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from bssci.core.runtime.database import Database"
        "; Database(Path(sys.argv[1])).write(lambda db: db.execute("
        "\"INSERT INTO pins VALUES ('AA', 'f', 1)\")); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert path.with_name("bssci.db-wal").stat().st_size > 0
    assert back_up(path, tmp_path / "copy.db").rows["pins"] == 1


def test_a_copy_needs_no_other_file_and_no_folder_that_can_be_written(copy):
    with contextlib.closing(sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert db.execute("SELECT count(*) FROM uplinks").fetchone() == (400,)


def test_what_was_under_the_name_is_replaced_only_by_a_good_copy(path, copy):
    good = copy.read_bytes()
    destroy(path, "uplinks")
    with pytest.raises(StorageError) as caught:
        back_up(path, copy)
    assert str(caught.value).startswith(f"{path}: ")
    assert copy.read_bytes() == good
    assert names(copy.parent) == ["copy.db", "state"]


def test_a_copy_that_lacks_rows_does_not_count(path, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "examine", lambda file, called: Contents(3, 1, {"uplinks": 399}))
    with pytest.raises(StorageError, match="does not hold what the database does"):
        back_up(path, tmp_path / "copy.db")
    assert names(tmp_path) == ["state"]


def test_a_backup_that_is_interrupted_leaves_nothing(path, tmp_path):
    def interrupt(_done, _all):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(path, tmp_path / "copy.db", tell=interrupt)
    assert names(tmp_path) == ["state"]


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(StorageError, match=r"there is no database at .*none\.db"):
        back_up(tmp_path / "none.db", tmp_path / "copy.db")
    assert names(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(path, tmp_path):
    with pytest.raises(StorageError, match=r"none/copy.db cannot be written: No such file"):
        back_up(path, tmp_path / "none" / "copy.db")


def test_a_full_disk_is_named_and_nothing_is_left_on_it(path, small_disk):
    ballast = fill_up(small_disk)
    with pytest.raises(StorageError, match="no space left") as caught:
        back_up(path, small_disk / "copy.db")
    assert caught.value.code == Code.ENOSPC
    assert names(small_disk) == [ballast.name]


# --- what is no copy ---


def test_what_is_no_database_of_ours_is_no_copy(tmp_path, copy):
    other = tmp_path / "other.db"
    query(other, "CREATE TABLE t (a)")
    text = tmp_path / "text.db"
    text.write_text("no database, " * 100)
    empty = tmp_path / "empty.db"
    empty.touch()
    for file in (other, text, empty, tmp_path / "none.db", tmp_path):
        with pytest.raises(StorageError) as caught:
            restore(file, tmp_path / "new" / "bssci.db")
        assert str(file) in str(caught.value)
    assert not (tmp_path / "new" / "bssci.db").exists()


def test_a_copy_of_a_newer_program_is_refused(copy, path):
    query(copy, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreVersionError):
        restore(copy, path, force=True)


def test_a_damaged_copy_is_refused_and_nothing_is_changed(copy, path):
    before = path.read_bytes()
    destroy(copy, "uplinks")
    with pytest.raises(StorageError) as caught:
        restore(copy, path, force=True)
    assert str(caught.value).startswith(f"{copy}: ")
    assert path.read_bytes() == before
    assert names(path.parent) == ["bssci.db", "bssci.db.lock"]


# --- and back ---


def test_a_copy_comes_back_where_there_is_nothing(copy, tmp_path):
    new = tmp_path / "new" / "bssci.db"
    assert restore(copy, new) == Restored(examine(copy), None)
    assert new.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(Database(new)) as database:
        assert database.read("SELECT count(*) FROM uplinks") == [(400,)]


def test_what_is_new_bears_no_name_or_number_of_something_old(copy, tmp_path):
    new = tmp_path / "new" / "bssci.db"
    restore(copy, new)
    assert query(new, "SELECT count(*) FROM sessions") == [(0,)]
    assert query(new, "SELECT last_downlink FROM store") == [(1_000_007,)]
    assert query(new, "SELECT id FROM store") != query(copy, "SELECT id FROM store")


def test_a_copy_with_the_first_tables_comes_back_and_is_brought_up_to_date(tmp_path):
    old, new = tmp_path / "old.db", tmp_path / "bssci.db"
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as db:
        migrate(db, old, MIGRATIONS[:1])
    assert restore(old, new).contents.version == 1
    with contextlib.closing(Database(new)) as database:
        assert database.read("SELECT last_downlink FROM store") == [(0,)]


def test_a_database_is_not_overwritten_unless_forced(copy, path):
    before = path.read_bytes()
    with pytest.raises(StorageError, match="is there already; with --force"):
        restore(copy, path)
    assert path.read_bytes() == before


def test_the_database_that_was_there_is_kept_whole(copy, path):
    with contextlib.closing(Database(path)) as database:
        run(database, "INSERT INTO pins VALUES ('AA', 'f', 1)")
        shutil.copytree(path.parent, path.parent.with_name("killed"))
    path = path.parent.with_name("killed") / "bssci.db"  # as if the process had been killed
    assert path.with_name("bssci.db-wal").stat().st_size > 0
    kept = restore(copy, path, force=True).kept
    assert kept is not None
    assert query(kept, "SELECT bs_eui FROM pins") == [("AA",)]
    assert query(path, "SELECT bs_eui FROM pins") == []


def test_a_damaged_database_is_kept_as_it_is(copy, path):
    path.write_bytes(b"damaged" * 1000)
    path.with_name("bssci.db-wal").write_bytes(b"log")
    kept = restore(copy, path, force=True).kept
    assert kept is not None
    assert kept.read_bytes() == b"damaged" * 1000
    assert kept.with_name(f"{kept.name}-wal").read_bytes() == b"log"
    assert query(path, "SELECT count(*) FROM uplinks") == [(400,)]


def test_an_empty_file_is_no_database_to_be_kept(copy, tmp_path):
    new = tmp_path / "new.db"
    new.touch()
    assert restore(copy, new).kept is None


def test_nothing_comes_back_while_a_service_has_the_database(copy, path):
    with (
        contextlib.closing(Database(path)),
        pytest.raises(StorageError, match=r"the service runs\. Stop it"),
    ):
        restore(copy, path, force=True)


def test_no_service_starts_while_a_copy_comes_back(copy, path, monkeypatch):
    found = []

    def start(draft):
        with pytest.raises(StorageError, match="in use by another process"):
            Database(path)
        found.append("refused")

    monkeypatch.setattr(module, "_renew", start)
    restore(copy, path, force=True)
    assert found == ["refused"]


def test_a_place_that_cannot_be_written_is_named(copy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"bssci.db cannot be written: "):
        restore(copy, tmp_path / "file" / "bssci.db")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_restores_belongs_to_whom_the_folder_does(copy, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    os.chown(folder, 1234, 1234)
    restore(copy, folder / "bssci.db")
    assert {file.stat().st_uid for file in folder.iterdir()} == {1234}


# --- a look in passing ---


def test_a_look_tells_version_and_damage_and_changes_nothing(path):
    assert look(path) == (len(MIGRATIONS), False)
    with contextlib.closing(Database(path)) as database:
        run(database, "UPDATE store SET damage_met = 1")
        assert look(path) == (len(MIGRATIONS), True)
    with pytest.raises(StorageError, match="there is no database"):
        look(path.with_name("none.db"))


def test_a_database_is_in_use_while_a_process_has_it_open(path):
    assert not is_in_use(path)
    with contextlib.closing(Database(path)):
        assert is_in_use(path)
    assert not is_in_use(path)
    assert not is_in_use(path.with_name("none.db"))
