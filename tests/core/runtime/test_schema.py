import contextlib
import sqlite3
from collections.abc import Iterable

import pytest

from bssci.core.protocol.errors import StorageError
from bssci.core.runtime import schema
from bssci.core.runtime.schema import APPLICATION_ID, MIGRATIONS, StoreVersionError, migrate

FIRST = (("CREATE TABLE a (x INTEGER) STRICT", "INSERT INTO a VALUES (7)"),)
SECOND = (*FIRST, ("ALTER TABLE a ADD COLUMN y INTEGER", "UPDATE a SET y = x + 1"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bssci.db"


@pytest.fixture
def db(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def pragma(db: sqlite3.Connection, name: str) -> object:
    return db.execute(f"PRAGMA {name}").fetchone()[0]


def test_a_new_database_gets_every_table_and_says_whose_it_is(db, path):
    assert migrate(db, path) is None
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables == {
        *("store", "journal", "uplinks", "sessions", "pins"),
        *("end_points", "registrations", "base_stations", "silence_clocks"),
        *("history", "former_end_points"),
        *("downlinks", "attachments"),
    }
    assert (pragma(db, "user_version"), pragma(db, "application_id")) == (
        len(MIGRATIONS),
        APPLICATION_ID,
    )


def test_every_table_is_strict(db, path):
    migrate(db, path)
    loose = "SELECT name FROM pragma_table_list WHERE strict = 0 AND name NOT LIKE 'sqlite%'"
    assert db.execute(loose).fetchall() == []


def test_a_database_that_is_up_to_date_is_left_alone(db, path):
    migrate(db, path)
    before = path.read_bytes()
    assert migrate(db, path) is None
    assert path.read_bytes() == before


def test_an_older_database_is_brought_up_to_date_and_a_copy_of_it_kept(db, path):
    migrate(db, path, FIRST)
    copy = migrate(db, path, SECOND)
    assert db.execute("SELECT x, y FROM a").fetchall() == [(7, 8)]
    assert copy is not None
    assert copy.name.startswith("bssci.db.v1-")
    assert copy.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(sqlite3.connect(copy)) as old:
        assert (old.execute("SELECT * FROM a").fetchall(), pragma(old, "user_version")) == (
            [(7,)],
            1,
        )


def test_a_database_of_version_1_keeps_all_it_has_and_its_uplinks_count_as_heard(db, path):
    migrate(db, path, MIGRATIONS[:1])
    rows = {
        "journal": (9, "BB", 1, b"s", 0, b"p"),
        "uplinks": (7, "EE", 5, b"d", 1, 8, None, "{}"),
        "sessions": ("BB", b"u", b"v", "1.0.0", 1, -2, b""),
        "pins": ("BB", "AA", 1),
    }
    for table, row in rows.items():
        db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    db.execute("UPDATE store SET last_row = 9, last_uplink = 7, uplinks = 1, unpublished = 1")
    (notes,) = db.execute("SELECT * FROM store").fetchall()
    assert migrate(db, path, MIGRATIONS[:2]) is not None
    assert contents(db, rows) == {table: [row] for table, row in rows.items()}
    assert db.execute("SELECT * FROM store").fetchall() == [(*notes, 7)]


def contents(db: sqlite3.Connection, tables: Iterable[str]) -> dict[str, list[tuple[object, ...]]]:
    return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}


def fill(db: sqlite3.Connection) -> dict[str, tuple[object, ...]]:
    """A row in each table, with a value in each column; they all are still there afterwards."""
    samples = {"INTEGER": 1, "TEXT": "FCA84A0300000001", "BLOB": b"b", "REAL": 1.5}
    sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'store'"
    rows = {}
    for (table,) in db.execute(sql).fetchall():
        columns = db.execute(f"SELECT type FROM pragma_table_info('{table}')").fetchall()
        rows[table] = tuple(samples[kind] for (kind,) in columns)
        db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows[table])
    return rows


def test_a_database_of_version_2_keeps_all_it_has_and_its_uplinks_are_telegrams(db, path):
    migrate(db, path, MIGRATIONS[:2])
    rows = fill(db)
    db.execute("UPDATE store SET last_row = 9, last_uplink = 7, heard_through = 6")
    (notes,) = db.execute("SELECT * FROM store").fetchall()
    assert migrate(db, path, MIGRATIONS[:3]) is not None
    rows["uplinks"] = (*rows["uplinks"], None)
    assert contents(db, rows) == {table: [row] for table, row in rows.items()}
    assert contents(db, ["store", "downlinks", "attachments"]) == {
        "store": [(*notes, 0)],
        "downlinks": [],
        "attachments": [],
    }


def test_a_newer_database_is_refused_and_both_versions_are_named(db, path):
    migrate(db, path, SECOND)
    with pytest.raises(StoreVersionError, match=r"have version 2, .* up to 1\.") as caught:
        migrate(db, path, FIRST)
    assert (caught.value.found, caught.value.known) == (2, 1)
    assert db.execute("SELECT x, y FROM a").fetchall() == [(7, 8)]


def test_a_migration_that_fails_leaves_nothing_of_itself(db, path):
    migrate(db, path, FIRST)
    broken = (*FIRST, ("ALTER TABLE a ADD COLUMN y INTEGER", "UPDATE nowhere SET y = 1"))
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(db, path, broken)
    assert db.execute("SELECT * FROM a").fetchall() == [(7,)]
    assert (pragma(db, "user_version"), db.in_transaction) == (1, False)


def test_the_database_of_another_program_is_refused(db, path):
    db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StorageError, match="database of another program"):
        migrate(db, path)
    assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]


def test_without_a_copy_nothing_is_migrated(db, path, monkeypatch):
    migrate(db, path, FIRST)
    (path.parent / "taken").mkdir()
    monkeypatch.setattr(schema, "name_beside", lambda *_: path.parent / "taken")
    with pytest.raises(StorageError, match="Nothing was changed"):
        migrate(db, path, SECOND)
    assert pragma(db, "user_version") == 1


def test_names_beside_the_database_never_take_one_that_is_in_use(path):
    first = schema.name_beside(path, "damaged")
    first.touch()
    second = schema.name_beside(path, "damaged")
    assert first != second
    assert second.name.startswith("bssci.db.damaged-")
