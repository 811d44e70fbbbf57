import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bssci.core.runtime.files import keep_old, write_file

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_written_with_its_mode_and_the_folders_on_the_way(tmp_path):
    file = tmp_path / "a" / "b" / "key.pem"
    write_file(file, b"key", mode=0o600)
    assert (file.read_bytes(), file.stat().st_mode & 0o777, names(file.parent)) == (
        b"key",
        0o600,
        ["key.pem"],
    )


def test_a_file_is_replaced(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    write_file(file, b"new")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"new", 0o644)


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(file, b"new")
    assert (file.read_bytes(), names(tmp_path)) == (b"old", ["file"])


def test_an_old_file_gets_a_second_name_with_the_time(tmp_path):
    file = tmp_path / "key.pem"
    write_file(file, b"old", mode=0o600)
    kept = keep_old(file, NOON)
    assert kept == tmp_path / "key.20260301T120000.pem"
    write_file(file, b"new", mode=0o600)
    assert (file.read_bytes(), kept.read_bytes(), kept.stat().st_mode & 0o777) == (
        b"new",
        b"old",
        0o600,
    )


def test_two_in_a_second_are_both_kept(tmp_path):
    file = tmp_path / "key.pem"
    file.write_bytes(b"old")
    assert [keep_old(file, NOON).name for _ in range(3)] == [
        "key.20260301T120000.pem",
        "key.20260301T120000-1.pem",
        "key.20260301T120000-2.pem",
    ]


def test_without_hard_links_the_old_file_is_copied(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    file = tmp_path / "key.pem"
    write_file(file, b"old", mode=0o600)
    monkeypatch.setattr(os, "link", refuse)
    kept = keep_old(file, NOON)
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (b"old", 0o600)


def test_a_name_that_is_taken_at_the_last_moment_is_not_overwritten(tmp_path, monkeypatch):
    file = tmp_path / "key.pem"
    file.write_bytes(b"old")
    link = os.link
    other = tmp_path / "key.20260301T120000.pem"

    def lose_the_race(source: Path, target: Path) -> None:
        if not other.exists():
            other.write_bytes(b"other")
        link(source, target)

    monkeypatch.setattr(os, "link", lose_the_race)
    assert keep_old(file, NOON).name == "key.20260301T120000-1.pem"
    assert other.read_bytes() == b"other"


def test_a_file_that_cannot_be_kept_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        keep_old(tmp_path / "nothing", NOON)
