"""`bssci`: the command tree, and the border where errors become messages and exit codes.

Modules of commands import what they need inside the commands, so that `--help` is there at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from bssci import __version__
from bssci.cli import (
    backup,
    certs,
    config,
    demo,
    doctor,
    downlinks,
    explain,
    migrate,
    output,
    sensors,
    serve,
    settings,
    sim,
    stations,
    status,
    traffic,
    uplinks,
)
from bssci.cli.monitor.command import monitor
from bssci.core.protocol.errors import BssciError

__all__ = ["app", "run"]

REFUSED = 1
INTERRUPTED = 130


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


app = typer.Typer(
    name="bssci",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help is there in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        output.show(f"bssci {__version__}")
        raise typer.Exit


@app.callback()
def bssci(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """A mioty Service Center: base stations over mutual TLS, uplinks on disk, MQTT out.

    Two commands from nothing to a running center: `bssci init`, then `bssci serve`.

    \b
    Exit codes: 0 done, 1 refused or failed, 2 usage or configuration,
    3 service not reachable, 4 accepted but not confirmed everywhere yet,
    5 not found, 6 some of several failed, 7 timed out, 8 a check found problems,
    130 Ctrl-C.
    """


app.command(short_help="Make everything a Service Center needs to begin.")(settings.init)
app.command()(serve.serve)
app.command()(demo.demo)
app.command()(sim.sim)
app.command()(traffic.decode)
app.command()(status.status)
app.command(short_help="Watch the running service on the whole terminal.")(monitor)
app.add_typer(sensors.app, name="sensors")
app.add_typer(stations.app, name="stations")
app.add_typer(uplinks.app, name="uplinks")
app.add_typer(downlinks.app, name="downlinks")
app.add_typer(certs.app, name="certs")
app.add_typer(config.app, name="config")
app.add_typer(explain.app, name="explain")
app.command(short_help="Look for what is wrong, and say what to do.")(doctor.doctor)
app.command(short_help="Copy the database, also while the service runs.")(backup.backup)
app.command(short_help="Bring a copy of the database back.")(backup.restore)
app.command(short_help="Take over the folder of the earlier service.")(migrate.migrate)


def run(args: list[str] | None = None) -> None:
    """The command `bssci`; ends the process.

    Whatever is not our fault ends here, in words and an exit code. A command may come out of a
    nursery, so that its errors stand in a group.
    """
    try:
        app(args, prog_name="bssci")
    except (Exception, BaseExceptionGroup) as error:
        leaves = tuple(_leaves(error))
        if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
            sys.exit(INTERRUPTED)
        if not all(isinstance(leaf, BssciError | OSError) for leaf in leaves):
            raise
        for leaf in leaves:
            output.fail(_words(leaf), hint=getattr(leaf, "hint", ""))
        sys.exit(max(getattr(leaf, "exit_code", REFUSED) for leaf in leaves))
