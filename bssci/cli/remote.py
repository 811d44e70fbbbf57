"""The running service, as commands see it: how it is reached, waited for and asked for names."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import typer

from bssci.cli import output
from bssci.cli.certs import ConfigFile
from bssci.core.protocol.errors import BssciError

if TYPE_CHECKING:
    from bssci.core.runtime.client import Client

__all__ = [
    "NOT_FOUND",
    "PAGE",
    "PENDING",
    "REFUSED",
    "SOME_FAILED",
    "ConfigFile",
    "Json",
    "SensorEui",
    "SensorEuis",
    "SensorOption",
    "SocketFile",
    "StationEui",
    "StationOption",
    "TimedOutError",
    "all_sensors",
    "ask",
    "ask_whether",
    "call",
    "combined",
    "complete_sensor",
    "complete_station",
    "in_pages",
    "must_be_asked",
    "reach",
    "run",
    "saying_that_it_takes_time",
]

# Exit codes, beside those that errors bring along.
REFUSED, PENDING, NOT_FOUND, SOME_FAILED = 1, 4, 5, 6

# From a request to its answer, beyond the time that it asks the service to wait.
ANSWER_TIMEOUT = 30.0  # seconds
COMPLETION_TIMEOUT = 1.0  # seconds, from the Tab key to the list

PAGE = 500  # sensors of a listing that are asked for at once
MAX_CANDIDATES = 200  # that a shell is told

Fields = dict[str, Any]
T = TypeVar("T")


class TimedOutError(BssciError):
    """The running service has taken a request and does not answer it."""

    exit_code: ClassVar[int] = 7


# --- asking ---


def socket_file(config: Path | None, socket: Path | None) -> Path:
    """The socket to use: the one that is named, or that of the configuration.

    Raises:
        ConfigError: there is no configuration, or it cannot be used.
    """
    from bssci.core.runtime.config import load_config

    return socket or load_config(config).control.socket


def run(main: Callable[[], Awaitable[T]]) -> T:
    """What a command does with the service, in the one run of trio that it has.

    An error that went through nurseries comes out by itself.
    """
    import trio

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        alone = _only(group)
        if alone is None:
            raise
        raise alone from None


def _only(error: BaseException) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def reach(config: Path | None, socket: Path | None) -> AsyncIterator[Client]:
    """A connection to the running service.

    Raises:
        ConfigError: there is no configuration that tells where it is.
        UnreachableError: it does not run.
    """
    from bssci.core.runtime.client import open_client

    async with open_client(socket_file(config, socket)) as client:
        yield client


async def call(
    client: Client, method: str, params: Mapping[str, object] | None = None, *, waiting: float = 0.0
) -> Any:  # noqa: ANN401  # as the method says
    """What a method gives.

    Args:
        params: those that are None are left out.
        waiting: seconds that the service is asked to wait before it answers.

    Raises:
        RequestError: it was refused.
        TimedOutError: there is no answer.
        UnreachableError: the connection has ended.
    """
    import trio

    try:
        with trio.fail_after(waiting + ANSWER_TIMEOUT):
            return await client.call(method, **params or {})
    except trio.TooSlowError as error:
        raise TimedOutError(
            f"{method}: no answer within {waiting + ANSWER_TIMEOUT:g} s; look at the service's log"
        ) from error


def ask(config: Path | None, socket: Path | None, method: str, **params: object) -> Any:  # noqa: ANN401
    """What one method of the running service gives."""

    async def main() -> object:
        async with reach(config, socket) as client:
            return await call(client, method, params)

    return run(main)


async def all_sensors(client: Client, **params: object) -> list[Fields]:
    """All sensors of a listing, by EUI."""
    found: list[Fields] = []
    await in_pages(client, lambda page: found.extend(page), **params)
    return found


async def in_pages(
    client: Client, take: Callable[[list[Fields]], object], **params: object
) -> None:
    """Ask for a listing of sensors in pieces; it ends early when `take` gives true."""
    after = None
    while True:
        page = await call(client, "sensors.list", {"after": after, "count": PAGE, **params})
        if take(page) or len(page) < PAGE:
            return
        after = page[-1]["eui"]


PATIENCE = 1.0  # seconds until somebody at a terminal is told why nothing happens


@asynccontextmanager
async def saying_that_it_takes_time(text: str) -> AsyncIterator[None]:
    """Says so on a terminal, if what is done within takes longer than a moment."""
    import trio

    async def say() -> None:
        await trio.sleep(PATIENCE)
        output.note(text)

    async with trio.open_nursery() as nursery:
        if sys.stderr.isatty():
            nursery.start_soon(say)
        yield
        nursery.cancel_scope.cancel()


def combined(codes: Iterable[int]) -> int:
    """The exit code for several things: theirs if they agree, else that some failed."""
    different = set(codes)
    return different.pop() if len(different) == 1 else SOME_FAILED if different else 0


# --- before something is done to many ---


def must_be_asked(*, yes: bool) -> None:
    """There must be somebody to ask, unless the answer is known.

    Raises:
        typer.BadParameter: there is neither.
    """
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter(
            "there is no terminal to ask at; --yes says that it is meant", param_hint="--yes"
        )


def ask_whether(question: str, *, yes: bool) -> None:
    """Go on only if the answer is yes. It waits for a person: hold no connection meanwhile."""
    if not yes and output.answer(f"{question} [y/N]").lower() not in ("y", "yes"):
        output.note("nothing was done")
        raise typer.Exit(REFUSED)


# --- completion ---


def complete_sensor(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """EUIs and names of sensors that begin so, each with the other as its explanation."""
    return _complete(ctx, incomplete, _offer_sensors)


def complete_station(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """EUIs and names of base stations that begin so."""
    return _complete(ctx, incomplete, _offer_stations)


Take = Callable[[list[Fields]], bool]


async def _offer_sensors(client: Client, incomplete: str, take: Take) -> None:
    """Those whose EUI begins so come first: there may be too many for the time there is."""
    digits = _digits(incomplete)
    if digits.strip("0"):
        before = f"{int(digits.ljust(16, '0'), 16) - 1:016X}"
        if take(await client.call("sensors.list", after=before, count=MAX_CANDIDATES)):
            return
    await in_pages(client, take)


async def _offer_stations(client: Client, _incomplete: str, take: Take) -> None:
    take(await client.call("stations.list"))


def _complete(
    ctx: typer.Context, incomplete: str, offer: Callable[[Client, str, Take], Awaitable[None]]
) -> list[tuple[str, str]]:
    """What fits; nothing if that cannot be had."""
    import trio

    found: dict[str, str] = {}

    def take(offered: list[Fields]) -> bool:
        for each in offered:
            found.update(_candidates(each["eui"], each["name"] or "", incomplete))
        return len(found) >= MAX_CANDIDATES

    async def main() -> None:
        with trio.move_on_after(COMPLETION_TIMEOUT):
            async with reach(ctx.params.get("config"), ctx.params.get("socket")) as client:
                await offer(client, incomplete, take)

    try:
        run(main)
    except Exception:  # whatever it is, it must not be said into the line that is being typed
        return []
    return list(found.items())[:MAX_CANDIDATES]


def _candidates(eui: str, name: str, incomplete: str) -> Iterable[tuple[str, str]]:
    if spelled := _as_begun(eui, incomplete):
        yield spelled, _without_markup(name)
    if name and name[: len(incomplete)].casefold() == incomplete.casefold():
        yield _as_typed(incomplete + name[len(incomplete) :]), eui


SEPARATORS = "-:. "  # of the digits of an EUI
LEAST_DIGITS = 6  # of an EUI that is begun in a way that is none; less could begin a name


def _as_begun(eui: str, incomplete: str) -> str:
    """An EUI in the spelling in which it was begun; empty: another one was.

    Shells, and Typer, compare with what was typed, to the letter; the service takes any spelling.
    """
    prefix, bare = _parts(incomplete)
    digits = _digits(incomplete)
    if not eui.startswith(digits.upper()) or (bare and not digits):
        return ""
    cased = eui.lower() if digits != digits.upper() else eui
    separator = next((each for each in bare if each in SEPARATORS), "")
    for size in (2, 4) if separator else (16,):
        spelled = separator.join(cased[place : place + size] for place in range(0, 16, size))
        if spelled[: len(bare)].lower() == bare.lower():
            return _as_typed(prefix + bare + spelled[len(bare) :])
    # Of this the service would make nothing. Bash puts the right one in its place.
    return _Quoted(eui) if len(digits) >= LEAST_DIGITS else ""


def _parts(text: str) -> tuple[str, str]:
    """What may stand before an EUI, and the rest."""
    return (text[:2], text[2:]) if text[:2] in ("0x", "0X") else ("", text)


def _digits(text: str) -> str:
    """The digits of an EUI that is begun, without what stands between them; empty: it is none."""
    bare = "".join(each for each in _parts(text)[1] if each not in SEPARATORS)
    return bare if re.fullmatch(r"[0-9a-fA-F]{1,16}", bare) else ""


def _without_markup(name: str) -> str:
    """Typer takes an explanation for markup of rich."""
    return name.replace("[", "\\[")


class _Quoted(str):
    """A word as bash is to write it; Typer, which has it without quotes, takes it for a match."""

    __slots__ = ()

    def startswith(self, *_: object) -> bool:
        return True


def _as_typed(name: str) -> str:
    """A name as the shell that asks wants to have it: of all of them bash alone does not quote."""
    if os.environ.get("_BSSCI_COMPLETE") != "complete_bash":
        return name
    words = os.environ.get("COMP_WORDS", "").split("\n")
    place = int(os.environ.get("COMP_CWORD", "0"))
    if place < len(words) and words[place][:1] in ("'", '"'):
        return _Quoted(name)  # bash closes the quotes
    return _Quoted(re.sub(r"([^\w@%+=:,./-])", r"\\\1", name))


# --- options ---

SocketFile = Annotated[
    Path | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help="The socket of the running service. Default: control.socket of the configuration.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Show JSON, for programs.")]

_EUI_HELP = "EUI64 in any usual spelling, or the name."

SensorEui = Annotated[
    str, typer.Argument(metavar="EUI", help=_EUI_HELP, autocompletion=complete_sensor)
]
SensorEuis = Annotated[
    list[str] | None,
    typer.Argument(metavar="[EUI]...", help=_EUI_HELP, autocompletion=complete_sensor),
]
StationEui = Annotated[
    str, typer.Argument(metavar="EUI", help=_EUI_HELP, autocompletion=complete_station)
]
SensorOption = Annotated[
    str | None,
    typer.Option(
        "--sensor",
        metavar="EUI",
        help="Only of this sensor: its EUI64 or its name.",
        autocompletion=complete_sensor,
    ),
]
StationOption = Annotated[
    str | None,
    typer.Option(
        "--station",
        metavar="EUI",
        help="Only what this base station heard: its EUI64 or its name.",
        autocompletion=complete_station,
    ),
]
