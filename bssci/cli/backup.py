"""`bssci backup`, `bssci restore`: a copy of the database, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import output, remote
from bssci.core.protocol.errors import BssciError

if TYPE_CHECKING:
    from bssci.core.runtime.backup import Contents

__all__ = ["backup", "restore"]

SHOWN = {
    "end_points": "sensor",
    "base_stations": "base station",
    "uplinks": "uplink",
    "downlinks": "downlink",
}


class BackupError(BssciError):
    """What stands in the way of a copy, or of bringing one back; says what to do."""


def backup(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The copy; in a folder it gets a name with the time, ending .db."
        ),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
) -> None:
    """Copy the database, also while the service runs: one file, that only you can read.

    It counts once it was read from end to end and has as many rows as the database. Sensors with
    their keys, base stations, uplinks and downlinks are in it; sc.toml, overrides.toml and the
    certificates are not: keep them as well.

    Example: bssci backup /var/backups/
    """
    from bssci.core.runtime.backup import back_up
    from bssci.core.runtime.config import load_config

    path = load_config(config).store.path
    target = _target(file.absolute(), path.stem)
    _check_target(target, path, force=force)
    with output.progress("backup", 0) as reach:
        contents = back_up(path, target, tell=reach)
    if as_json:
        output.show_json({"file": str(target), **_as_json(contents)})
        return
    output.show(output.columns([("backup", str(target)), *_rows(contents)]))
    output.note(
        "\nNot in it: the configuration and the certificates, without whose authority every base "
        "station needs a new one."
    )


def _target(file: Path, stem: str) -> Path:
    from datetime import UTC, datetime

    if not file.is_dir():
        return file
    return file / f"{stem}-{datetime.fromtimestamp(output.now(), UTC):%Y%m%dT%H%M%SZ}.db"


def _check_target(target: Path, path: Path, *, force: bool) -> None:
    if target.resolve() == path.resolve():
        raise BackupError(f"{target} is the database itself; name another file")
    if target.exists() and not force:
        raise BackupError(f"{target} is there already; with --force it is replaced")


def _as_json(contents: Contents) -> dict[str, Any]:
    return {"version": contents.version, "size": contents.size, "rows": contents.rows}


def _rows(contents: Contents) -> list[tuple[str, str]]:
    counts = (
        output.plural(contents.rows[table], noun)
        for table, noun in SHOWN.items()
        if table in contents.rows
    )
    return [("size", f"{contents.size / 1e6:.1f} MB"), ("examined", ", ".join(counts))]


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What backup has made.")],
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also if there is a database; that is kept under a name with the time."
        ),
    ] = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
) -> None:
    """Bring a copy back as the database; the service must not run.

    The copy is examined first. Base stations then begin new sessions and are told of every sensor
    again. What was waiting when the copy was made is done again: uplinks are published (under
    their ids), downlinks sent, unless they have expired.

    Example: bssci restore /var/backups/bssci-20240501T120000Z.db
    """
    from bssci.core.runtime import backup as room
    from bssci.core.runtime.config import load_config

    loaded = load_config(config)
    _refuse_if_it_runs(loaded.control.socket)
    done = room.restore(file.absolute(), loaded.store.path, force=force)
    if as_json:
        kept = None if done.kept is None else str(done.kept)
        told = {"file": str(loaded.store.path), "kept": kept}
        output.show_json(told | _as_json(done.contents))
        return
    kept_rows = [("kept", str(done.kept))] if done.kept else []
    output.show(
        output.columns([("database", str(loaded.store.path)), *_rows(done.contents), *kept_rows])
    )
    output.note("\nNext: bssci serve")


def _refuse_if_it_runs(socket: Path) -> None:
    from bssci.core.runtime.client import UnreachableError

    async def knock() -> None:
        async with remote.reach(None, socket):
            pass

    try:
        remote.run(knock)
    except UnreachableError:
        return  # who has the database open all the same is found out by its lock
    raise BackupError(
        f"the service runs, it answers at {socket}. Stop it, and start it again afterwards"
    )
