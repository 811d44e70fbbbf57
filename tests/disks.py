"""Disks that behave as disks do: in somebody else's hands, full, or damaged."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

PAGE = 4096  # octets, of SQLite


@contextlib.contextmanager
def stuck_disk(path: Path) -> Iterator[None]:
    """While this lasts no transaction gets through: another program has the database."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def fill_up(disk: Path) -> Path:
    """Leave no space; the file that takes it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast


def leaves(path: Path, table: str) -> list[int]:
    """The leaf pages of a table, in order."""
    sql = f"SELECT pageno FROM dbstat WHERE name = '{table}' AND pagetype = 'leaf' ORDER BY path"
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [page for (page,) in db.execute(sql)]


def destroy(path: Path, table: str) -> None:
    """Overwrite all leaf pages of a table but its first and last."""
    with path.open("r+b") as file:
        for page in leaves(path, table)[1:-1]:
            file.seek((page - 1) * PAGE)
            file.write(b"\xa5" * PAGE)


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What another program reads in the database."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()
