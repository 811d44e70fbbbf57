"""`bssci config`: what is set and where it comes from, and changing it while the service runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import earlier, output, remote

if TYPE_CHECKING:
    from bssci.core.runtime.config import Config, Problem

__all__ = ["app"]

Fields = dict[str, Any]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Show what is set and where it comes from; change it while the service runs.",
)

FAULTY = 2  # exit code of a configuration that cannot be used


def _complete_key(incomplete: str) -> list[str]:
    from bssci.core.runtime.sections import KEYS

    return [name for name in KEYS if name.startswith(incomplete)]


# --- showing ---


@app.command(short_help="Show every setting.")
def show(
    origin: Annotated[
        bool, typer.Option("--origin", help="Also show where each value comes from.")
    ] = False,
    config: remote.ConfigFile = None,
    as_json: remote.Json = False,
) -> None:
    """Show what is set: by the running service, otherwise in the files. Secrets are masked.

    A path in the folder of sc.toml is shown from there on. JSON has everything at full length,
    with the default and the meaning of each key.

    Example: bssci config show --origin
    """
    loaded = _load(config)
    entries = _entries(loaded)
    if as_json:
        output.show_json(entries)
        return
    columns = [output.Column("setting"), output.Column("value", least=12)]
    rows = [[each["key"], shown(each["value"], loaded)] for each in entries]
    if origin:
        columns.append(output.Column("origin", least=12))
        rows = [[*row, _origin(each)] for row, each in zip(rows, entries, strict=True)]
    output.show(output.table(columns, rows, width=output.width()))


@app.command(short_help="Show one setting.")
def get(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="Like mqtt.host, as in sc.toml.", autocompletion=_complete_key
        ),
    ],
    config: remote.ConfigFile = None,
    as_json: remote.Json = False,
) -> None:
    """Show one value, and nothing else: of the running service, otherwise from the files.

    Example: bssci config get mqtt.host
    """
    from bssci.core.center.rpc import NotFoundError
    from bssci.core.runtime.config import KEYS, suggestion

    if key not in KEYS:
        raise NotFoundError(f"{key} is no setting{suggestion(key, KEYS)}")
    (entry,) = _entries(_load(config), key)
    if as_json:
        output.show_json(entry)
        return
    output.show(_spelled(entry["value"]))


def _load(config: Path | None) -> Config:
    from bssci.core.runtime.config import load_config

    return load_config(config)


def _entries(loaded: Config, key: str | None = None) -> list[Fields]:
    """Settings as the running service has them, or else as the files have them."""
    answer = _ask(loaded, "config.get", key=key)
    return _own_entries(loaded, key) if answer is None else answer


def _own_entries(loaded: Config, key: str | None) -> list[Fields]:
    from bssci.core.runtime.config import describe, entry

    entries = (entry(*each) for each in describe(loaded))
    return [each for each in entries if key in (None, each["key"])]


def _ask(loaded: Config, method: str, **params: object) -> Any:  # noqa: ANN401  # the method's
    """What the running service answers; None if none runs.

    Raises:
        UnreachableError: one is there, but cannot be talked to.
    """
    if not os.path.exists(loaded.control.socket):
        return None
    from bssci.core.runtime.client import UnreachableError

    try:
        return remote.ask(None, loaded.control.socket, method, **params)
    except UnreachableError as error:
        if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
            return None  # a dead service has left its socket
        raise


def _spelled(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def shown(value: object, loaded: Config) -> str:
    """A value in a table."""
    text = _spelled(value)
    folder = f"{loaded.file.parent}{os.sep}" if loaded.file else ""
    return (text.removeprefix(folder) if folder != os.sep else text) or '""'


def _origin(entry: Fields) -> str:
    """Where a value comes from, in a word: a file is named without its folders."""
    from bssci.core.runtime.config import KEYS

    origin = str(entry["origin"])
    key = KEYS.get(entry["key"])
    return "environment" if key and origin == key.variable else Path(origin).name


# --- changing ---


@app.command("set", short_help="Change settings.")
def set_(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY VALUE",
            help="Keys as in sc.toml, each with its value; - reads the value from standard input, "
            "so that no password is in an argument.",
            autocompletion=_complete_key,
        ),
    ],
    config: remote.ConfigFile = None,
    as_json: remote.Json = False,
) -> None:
    """Change settings: all of them, or none if anything is wrong.

    sc.toml stays as it is: changes are kept beside the database, in overrides.toml, and go before
    it. The running service takes over at once what it can; it is said what needs a restart.

    Example: bssci config set auto_detach.timeout 2d log.level debug
    """
    if len(pairs) % 2:
        raise typer.BadParameter(
            f"{pairs[-1]} has no value; expected KEY VALUE, or several of these",
            param_hint="KEY VALUE",
        )
    values = {key: _given(value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)}
    _change(_load(config), values, as_json=as_json)


@app.command(short_help="Take changes back.")
def unset(
    keys: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY", help="What was changed by `set`.", autocompletion=_complete_key
        ),
    ],
    config: remote.ConfigFile = None,
    as_json: remote.Json = False,
) -> None:
    """Take back what was changed at runtime: what sc.toml says, or the default, holds again.

    Example: bssci config unset auto_detach.timeout
    """
    _change(_load(config), dict.fromkeys(keys), as_json=as_json)


def _given(value: str) -> str:
    return sys.stdin.readline().rstrip("\r\n") if value == "-" else value


def _change(loaded: Config, values: Mapping[str, str | None], *, as_json: bool) -> None:
    answer: Fields | None = _ask(loaded, "config.set", values=values)
    told = {"running": answer is not None, **(_kept(loaded, values) if answer is None else answer)}
    if as_json:
        output.show_json(told)
        return
    columns = [
        output.Column("setting"),
        output.Column("before", least=8),
        output.Column("now", least=8),
        output.Column("applies", least=12),
    ]
    rows = [
        [
            each["key"],
            shown(each["old"], loaded),
            shown(each["value"], loaded),
            _applies(each, told),
        ]
        for each in told["changed"]
    ]
    output.show(output.table(columns, rows, width=output.width()))


def _kept(loaded: Config, values: Mapping[str, str | None]) -> Fields:
    """Change the files, as no service runs: it will have it all from its start on."""
    from dataclasses import asdict

    from bssci.core.runtime import overlay

    _, changes = overlay.change(loaded, values)
    told = [asdict(each) | {"applied": False} for each in changes.changed]
    hidden = [each | ({"reason": ""} if each["key"] in changes.restart else {}) for each in told]
    return {"changed": hidden, "restart": []}


def _applies(each: Fields, told: Fields) -> str:
    """When a change does."""
    from bssci.core.runtime.config import KEYS, Runtime

    if each["key"] in told["restart"]:
        return "after a restart"
    if each.get("reason"):
        return f"no: {each['reason']}"
    if not told["running"]:
        return "when the service starts"
    key = KEYS.get(each["key"])
    is_later = key is not None and key.runtime is Runtime.NEXT_CONNECTION
    return "to new connections" if is_later else "at once"


# --- checking ---


@app.command(short_help="Check the configuration.")
def check(config: remote.ConfigFile = None, as_json: remote.Json = False) -> None:
    """Check sc.toml, what was changed at runtime and the environment; tell all that is wrong.

    Example: bssci config check -c /etc/bssci/sc.toml
    """
    from bssci.core.runtime.config import ConfigError, overlay_file

    try:
        loaded = _load(config)
    except ConfigError as error:
        if not as_json:
            raise
        output.show_json(_checked([], error.problems))
        raise typer.Exit(FAULTY) from error
    files = [file for file in (loaded.file, overlay_file(loaded)) if file and file.exists()]
    if as_json:
        output.show_json(_checked(files, ()))
        return
    output.show("ok")
    output.note(f"checked {' and '.join(map(str, files))}")


def _checked(files: Sequence[Path], problems: Iterable[Problem]) -> Fields:
    told = [{"where": each.where, "key": each.key, "what": each.what} for each in problems]
    return {"ok": not told, "files": [str(file) for file in files], "problems": told}


# --- moving in ---

app.command("import", short_help="Take over the .env of the earlier service.")(earlier.import_)
