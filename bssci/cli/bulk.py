"""`bssci sensors clear|import|export`: many at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from bssci.cli import attaching, output, remote
from bssci.core.protocol.errors import BssciError

if TYPE_CHECKING:
    from bssci.core.runtime.client import Client
    from bssci.core.runtime.sheets import Form

__all__ = ["clear", "export", "import_"]

Fields = dict[str, Any]

CHUNK = 200  # rows of an import in one request; the service takes 1 MiB

FORMATS: tuple[Form, ...] = ("toml", "csv", "json")


class FileError(BssciError):
    """A file cannot be read or written; says which and why."""

    exit_code: ClassVar[int] = 2


# --- clear ---


def clear(
    timeout: attaching.Wait = 30.0,
    yes: attaching.Yes = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Detach all sensors at every base station and forget them.

    Says how many there are, and has their number typed. An undo file is kept, with their keys:
    `bssci sensors import FILE` takes everything back.

    \b
    Exit codes: 0 confirmed everywhere, 4 pending somewhere, 1 refused,
    2 nobody to ask.

    Example: bssci sensors clear
    """
    remote.must_be_asked(yes=yes)

    async def main() -> Fields:
        async with remote.reach(config, socket) as client:
            status = await remote.call(client, "status.get")
        count = status["sensors"]["total"]
        if count and not yes:
            _have_typed(count, status["stations"]["known"])
        async with remote.reach(config, socket) as client:
            return await _cleared(client, count, timeout)

    result = remote.run(main)
    if as_json:
        output.show_json(result)
    else:
        _tell_cleared(result)
    raise typer.Exit(remote.PENDING if result["pending"] else 0)


def _have_typed(count: int, stations: int) -> None:
    sensors = output.plural(count, "sensor")
    output.note(f"{sensors} at {output.plural(stations, 'base station')} will be forgotten.")
    if output.answer(f"Type {count} to go on:") != str(count):
        output.note("nothing was done")
        raise typer.Exit(remote.REFUSED)


async def _cleared(client: Client, count: int, wait: float) -> Fields:
    """Clear, and show meanwhile how many confirmations are still to come."""
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_pending, client)
        result: Fields = await remote.call(
            client, "sensors.clear", {"expected": count, "timeout": wait}, waiting=wait
        )
        nursery.cancel_scope.cancel()
    return result


LOOK = 0.25  # seconds between two looks at what is pending


async def _watch_pending(client: Client) -> None:
    import trio

    if not sys.stderr.isatty():
        return
    most = 0
    with output.progress("waiting for base stations", most) as reach:
        while True:
            await trio.sleep(LOOK)
            left = await _pending(client)
            most = max(most, left)  # it grows as long as sensors are being decided on
            reach(most - left, most)


async def _pending(client: Client) -> int:
    stations = await remote.call(client, "stations.list")
    return sum(each["sensors"]["pending"] for each in stations if each["state"] == "online")


def _tell_cleared(result: Fields) -> None:
    if not result["count"]:
        output.note("no sensor is registered; nothing was done")
        return
    rows = [(eui, f"{output.plural(left, 'sensor')} to be told") for eui, left in pending(result)]
    head = f"{output.plural(result['count'], 'sensor')} detached and forgotten"
    output.show(output.groups([(head, [("undo file", result["undo"]), *rows])]))
    output.note(f"\n`bssci sensors import {result['undo']}` takes them back.")


def pending(result: Fields) -> Sequence[tuple[str, int]]:
    """Base stations that have not confirmed, and how many sensors."""
    return sorted(result["pending"].items())


# --- import ---


def import_(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="endpoints.json of the earlier service, CSV, TOML or what export has written; - "
            "reads standard input.",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change; nothing is done.")
    ] = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Register or change the sensors in a file. A row that is wrong harms no other.

    \b
    Exit codes: 0 all were taken, 6 some failed, 1 all failed,
    2 the file cannot be read.

    Example: bssci sensors import endpoints.json --dry-run
    """
    rows = _rows_in(file)

    async def main() -> Fields:
        async with remote.reach(config, socket) as client:
            return await _imported(client, rows, dry_run=dry_run)

    result = remote.run(main)
    if as_json:
        output.show_json(result)
    else:
        for line in _import_lines(result, dry_run=dry_run):
            output.show(line)
    raise typer.Exit(_import_code(result))


def _rows_in(file: str) -> Sequence[Fields]:
    from bssci.core.runtime.sheets import MAX_SHEET, read_sheet

    try:
        if file == "-":
            data = sys.stdin.buffer.read(MAX_SHEET + 1)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(MAX_SHEET + 1)
    except OSError as error:
        raise FileError(f"{file}: {error.strerror}") from error
    sheet = read_sheet(data, name="standard input" if file == "-" else file)
    if sheet.ignored:
        output.note(f"not used, because it says nothing of a sensor: {', '.join(sheet.ignored)}")
    return sheet.rows


async def _imported(client: Client, rows: Sequence[Fields], *, dry_run: bool) -> Fields:
    total: Fields = {"done": 0, "failed": 0, "rows": []}
    with output.progress("import", len(rows)) as reach:
        for start in range(0, len(rows), CHUNK):
            try:
                part = await remote.call(
                    client,
                    "sensors.import",
                    {"rows": rows[start : start + CHUNK], "dry_run": dry_run},
                )
            except BssciError:
                if start and not dry_run:
                    output.warn(f"of {len(rows)} rows the first {start} were taken")
                raise
            for name in total:
                total[name] += part[name]
            reach(len(total["rows"]))
    return total


def _import_code(result: Fields) -> int:
    if not result["failed"]:
        return 0
    return remote.SOME_FAILED if result["done"] else remote.REFUSED


def _import_lines(result: Fields, *, dry_run: bool) -> Iterator[str]:
    for row in result["rows"]:
        if row["result"] == "error":
            yield f"row {row['row']}  {row['eui'] or output.NOTHING}  {row['error']}"
        elif dry_run and row["result"] != "unchanged":
            yield f"row {row['row']}  {row['eui']}  {_difference(row)}"
    counts = dict.fromkeys(("added", "updated", "unchanged", "error"), 0)
    for row in result["rows"]:
        counts[row["result"]] += 1
    words = {"added": "added", "updated": "changed", "unchanged": "unchanged", "error": "failed"}
    shown = ", ".join(f"{counts[name]} {word}" for name, word in words.items())
    yield f"{shown}; nothing was done" if dry_run else shown


def _difference(row: Fields) -> str:
    changes = [
        "key" if name == "key" else f"{name} {_shown(old)} -> {_shown(new)}"
        for name, (old, new) in (row.get("changes") or {}).items()
    ]
    return ": ".join(
        [row["result"].replace("updated", "changed"), *([", ".join(changes)] if changes else [])]
    )


def _shown(value: object) -> str:
    match value:
        case bool():
            return output.yes_or_no(value)
        case list():
            return "+".join(map(str, value)) or output.NOTHING
    return str(value) if value not in (None, "") else output.NOTHING


# --- export ---


def _formats(incomplete: str) -> list[str]:
    return [form for form in FORMATS if form.startswith(incomplete)]


def export(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The file to write; only you can read it."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help=f"{', '.join(FORMATS)}. Default: as the file is called, else toml.",
            autocompletion=_formats,
        ),
    ] = None,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Write to standard output, keys and all.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Write all sensors, with their keys, into a file that import takes.

    Example: bssci sensors export sensors.csv
    """
    from bssci.core.runtime.files import write_file
    from bssci.core.runtime.sheets import write_sheet

    chosen = _format(file, "json" if as_json and file is None else form)
    if file is None and not reveal:
        raise typer.BadParameter(
            "there are keys in it: name a FILE, or say --reveal to have it on standard output",
            param_hint="FILE",
        )
    if file is not None and file.exists() and not force:
        raise FileError(f"{file} is there already; with --force it is replaced")

    async def main() -> list[Fields]:
        async with remote.reach(config, socket) as client:
            return await remote.all_sensors(client, reveal=True)

    sensors = remote.run(main)
    text = write_sheet(sensors, chosen)
    if file is None:
        output.show(text.rstrip("\n"))
        return
    write_file(file, text.encode(), mode=0o600)
    if as_json:
        output.show_json({"file": str(file), "format": chosen, "sensors": len(sensors)})
    else:
        output.note(f"{output.plural(len(sensors), 'sensor')} in {file}")


def _format(file: Path | None, form: str | None) -> Form:
    """As it is named, or as the file is called."""
    chosen = form or ("" if file is None else file.suffix[1:].lower()) or FORMATS[0]
    for known in FORMATS:
        if chosen == known:
            return known
    raise typer.BadParameter(f"{chosen!r} is none of {', '.join(FORMATS)}", param_hint="--format")
