"""`bssci doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bssci.cli import output, remote
from bssci.cli.checks import CHECKS, Case, Check, Finding
from bssci.cli.probes import PROBES, ask_service
from bssci.cli.station_checks import check_certificate, check_station

if TYPE_CHECKING:
    from bssci.core.runtime.config import Config

__all__ = ["doctor", "examine"]

PROBLEMS = 8
PATIENCE = 20.0  # seconds, for one check


def doctor(
    station: Annotated[
        str | None,
        typer.Option(
            "--station",
            metavar="EUI",
            help="Why this base station does not get in: its EUI64 in any usual spelling, or its "
            "name.",
            autocompletion=remote.complete_station,
        ),
    ] = None,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
) -> None:
    """Look for what is wrong: files, certificates, names, port, broker, disk, clock, limits.

    It also calls the running service as a base station does, with a certificate of our authority,
    and declines its answer; the service logs that. Nothing is changed. A check that cannot be made
    is not counted, in JSON its `ok` is null.

    \b
    Exit codes: 0 nothing is wrong, 8 there are problems.

    Example: bssci doctor
    """
    found = remote.run(lambda: _looked(config, station))
    if as_json:
        output.show_json([asdict(each) for each in found])
    else:
        _show(found)
    raise typer.Exit(PROBLEMS if any(each.ok is False for each in found) else 0)


async def _looked(file: Path | None, station: str | None) -> list[Finding]:
    from bssci.core.runtime.config import ConfigError, load_config

    try:
        config = load_config(file)
    except ConfigError as error:
        seen = "; ".join(map(str, error.problems))
        advice = "correct it first: nothing else can be looked at without it"
        return [Finding("configuration", False, seen, advice)]
    if station is not None:
        return await _look_at_station(config, station)
    return [Finding("configuration", True, str(config.file)), *await examine(config)]


# --- everything ---


async def examine(config: Config) -> list[Finding]:
    """Make all checks, side by side."""
    import trio

    case = await ask_service(config)
    makers = {name: _in_thread(check) for name, check in CHECKS.items()} | PROBES
    found: dict[str, Finding] = {}

    async def make(name: str) -> None:
        found[name] = await _finding(name, makers[name], case)

    async with trio.open_nursery() as nursery:
        for name in makers:
            nursery.start_soon(make, name)
    return [found[name] for name in makers]


def _in_thread(check: Check) -> Callable[[Case], Awaitable[Finding]]:
    import trio

    async def make(case: Case) -> Finding:
        # A disk that does not answer holds up this check only.
        return await trio.to_thread.run_sync(check, case, abandon_on_cancel=True)

    return make


async def _finding(name: str, make: Callable[[Case], Awaitable[Finding]], case: Case) -> Finding:
    """What comes of a check; one that fails itself is a finding, too."""
    import trio

    try:
        with trio.fail_after(PATIENCE):
            return await make(case)
    except trio.TooSlowError:
        return Finding(name, False, f"there was no result within {PATIENCE:g} s")
    except Exception as error:  # the others must not suffer from it
        return Finding(name, None, f"the check has failed: {error!r}")


# --- one base station ---


async def _look_at_station(config: Config, station: str) -> list[Finding]:
    """Raises RequestError: there is no such base station."""
    from bssci.core.protocol.errors import InvalidEuiError
    from bssci.core.protocol.eui import format_eui, parse_eui
    from bssci.core.runtime.client import UnreachableError

    try:
        async with remote.reach(None, config.control.socket) as client:
            return await check_station(client, Case(config, {}), station)
    except UnreachableError as error:
        found = [Finding("station", False, f"nothing is known of it: {error}", error.hint)]
    try:
        eui = format_eui(parse_eui(station))
    except InvalidEuiError:
        return found  # only the service knows names
    return [*found, check_certificate(Case(config, None), eui)]


# --- showing ---

_SIGNS = {
    True: output.Cell("● ok", "green"),
    False: output.Cell("✕ wrong", "red"),
    None: output.Cell("· skipped", "dim"),
}


def _show(found: list[Finding]) -> None:
    advised = [(each.check, each.advice) for each in found if each.advice]
    parts = [("Found", [(each.check, _told(each)) for each in found])]
    parts += [("What to do", [(check, output.Cell(advice)) for check, advice in advised])]
    output.show(output.groups(parts[: 1 + bool(advised)], width=output.width()))
    wrong = sum(each.ok is False for each in found)
    output.note("\n" + (output.plural(wrong, "problem") if wrong else "nothing is wrong"))


def _told(finding: Finding) -> output.Cell:
    sign = _SIGNS[finding.ok]
    return output.Cell(f"{sign.text}: {finding.seen}", sign.colour)
