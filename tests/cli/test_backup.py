import contextlib
import json
import os

import pytest

from bssci.core.runtime.database import Database
from bssci.core.runtime.schema import MIGRATIONS
from tests.control import FakeService

SENSOR = (
    "INSERT INTO end_points (ep_eui, nwk_key, short_addr, bidi, dual_chan, repetition, "
    "wide_carr_off, long_blk_dist, ota, name, tags, wanted, cause, since_ns, is_announced, "
    "is_warned) VALUES ('EE', x'00', 1, 0, 0, 0, 0, 0, 0, '', '', 'attached', 'command', 1, 0, 0)"
)


@pytest.fixture
def path(folder):
    path = folder / "state" / "bssci.db"
    with contextlib.closing(Database(path)) as database:
        database.write(lambda db: db.execute(SENSOR))
    return path


@pytest.fixture
def run(cli, folder):
    return lambda *args: cli(*args, at=["-c", str(folder / "sc.toml")])


def test_a_backup_says_what_is_in_it_and_what_is_not(run, path, folder):
    code, out, err = run("backup", str(folder / "copy.db"))
    size = (folder / "copy.db").stat().st_size
    assert (code, out, err) == (
        0,
        f"  backup    {folder / 'copy.db'}\n"
        f"  size      {size / 1e6:.1f} MB\n"
        "  examined  1 sensor, 0 base stations, 0 uplinks, 0 downlinks\n",
        "\nNot in it: the configuration and the certificates, without whose authority every base "
        "station needs a new one.\n",
    )


def test_in_a_folder_a_backup_gets_a_name_with_the_time(run, path, folder):
    code, out, err = run("backup", str(folder), "--json")
    told = json.loads(out)
    rows = told.pop("rows")
    copy = folder / "bssci-20240501T120000Z.db"
    assert (code, err) == (0, "")
    assert told == {"file": str(copy), "version": len(MIGRATIONS), "size": copy.stat().st_size}
    assert {name for name, count in rows.items() if count} == {"store", "end_points"}


def test_a_backup_replaces_another_one_only_when_forced(run, path, folder):
    copy = folder / "copy.db"
    copy.write_text("older")
    assert run("backup", str(copy)) == (
        1,
        "",
        f"error: {copy} is there already; with --force it is replaced\n",
    )
    assert copy.read_text() == "older"
    assert run("backup", str(copy), "--force")[0] == 0
    assert copy.read_bytes().startswith(b"SQLite format 3")


def test_a_backup_never_replaces_the_database_itself(run, path):
    os.symlink(path, path.with_name("link.db"))
    for name in (path, path.with_name("link.db")):
        code, _, err = run("backup", str(name), "--force")
        assert (code, err) == (1, f"error: {name} is the database itself; name another file\n")


def test_without_a_database_there_is_no_backup(run, folder):
    code, out, err = run("backup", str(folder / "copy.db"))
    missing = folder / "state/bssci.db"
    assert (code, out, err) == (1, "", f"error: there is no database at {missing}\n")


def test_what_was_backed_up_comes_back_and_the_other_one_is_kept(run, path, folder):
    copy = folder / "copy.db"
    run("backup", str(copy))
    code, out, err = run("restore", str(copy))
    refusal = f"{path} is there already; with --force it is replaced, and kept under another name"
    assert (code, out, err) == (1, "", f"error: {refusal}\n")
    code, out, err = run("restore", str(copy), "--force")
    (kept,) = path.parent.glob("bssci.db.replaced-*")
    assert (code, out, err) == (
        0,
        f"  database  {path}\n"
        f"  size      {copy.stat().st_size / 1e6:.1f} MB\n"
        "  examined  1 sensor, 0 base stations, 0 uplinks, 0 downlinks\n"
        f"  kept      {kept}\n",
        "\nNext: bssci serve\n",
    )


def test_programs_are_told_what_came_back(run, path, folder):
    copy = folder / "copy.db"
    run("backup", str(copy))
    path.unlink()
    code, out, err = run("restore", str(copy), "--json")
    told = json.loads(out)
    assert (code, err, told["file"], told["kept"]) == (0, "", str(path), None)
    assert told["rows"]["end_points"] == 1


def test_nothing_comes_back_while_the_service_answers(run, path, folder):
    copy, before = folder / "copy.db", path.read_bytes()
    run("backup", str(copy))
    with FakeService().serving(folder / "control.sock"):
        code, out, err = run("restore", str(copy), "--force")
    assert (code, out, err) == (
        1,
        "",
        f"error: the service runs, it answers at {folder / 'control.sock'}. Stop it, and start it "
        "again afterwards\n",
    )
    assert path.read_bytes() == before
