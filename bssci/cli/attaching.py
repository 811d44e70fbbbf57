"""`bssci sensors attach|detach|remove`: one or many, and what the base stations say to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import output, remote
from bssci.core.protocol.errors import BssciError

if TYPE_CHECKING:
    from bssci.core.runtime.client import Client

__all__ = ["Wait", "Yes", "attach", "detach", "exit_code", "outcome_rows", "remove", "told", "want"]

Fields = dict[str, Any]
Result = Fields | BssciError
Results = list[Result]

SIDE_BY_SIDE = 16  # requests; half of what the service takes of one client

Wait = Annotated[
    float,
    typer.Option(
        min=0,
        max=3600,
        metavar="SECONDS",
        help="How long to wait for base stations to confirm; 0: not at all.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
All = Annotated[bool, typer.Option("--all", help="All sensors.")]

_DONE = {"attach": "attached", "detach": "detached", "remove": "removed"}


def attach(
    eui: remote.SensorEuis = None,
    every: All = False,
    timeout: Wait = 30.0,
    yes: Yes = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Attach sensors at every base station, and say where that is confirmed.

    A base station that is not connected is told when it connects.

    \b
    Exit codes: 0 confirmed everywhere, 4 pending somewhere, 1 refused,
    5 not registered, 6 different things with different sensors.

    Example: bssci sensors attach 70B3D59CD0000102 Kitchen --timeout 10
    """
    want("attach", eui, every, timeout, config, socket, yes=yes, as_json=as_json)


def detach(
    eui: remote.SensorEuis = None,
    every: All = False,
    timeout: Wait = 30.0,
    yes: Yes = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Detach sensors at every base station; they stay registered.

    A base station that is not connected is told when it connects.

    \b
    Exit codes: 0 confirmed everywhere, 4 pending somewhere, 1 refused,
    5 not registered, 6 different things with different sensors.

    Example: bssci sensors detach Kitchen
    """
    want("detach", eui, every, timeout, config, socket, yes=yes, as_json=as_json)


def remove(
    eui: remote.SensorEuis = None,
    timeout: Wait = 30.0,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Detach sensors at every base station and forget them.

    Their history can still be shown. Exit codes are those of detach.

    Example: bssci sensors remove 70B3D59CD0000102
    """
    want("remove", eui, False, timeout, config, socket, yes=True, as_json=as_json)


def want(
    verb: str,
    euis: Sequence[str] | None,
    every: bool,
    timeout: float,
    config: remote.ConfigFile,
    socket: remote.SocketFile,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Have it done to the sensors named, or to all; says what came of it and exits accordingly."""
    if bool(euis) == every:
        choice = "EUIs, or --all" if verb != "remove" else "the EUI of at least one sensor"
        raise typer.BadParameter(f"give {choice}", param_hint="EUI")
    if every:
        remote.must_be_asked(yes=yes)

    async def main() -> tuple[list[str], Results]:
        named = list(euis or [])
        if every:
            async with remote.reach(config, socket) as client:
                named = [sensor["eui"] for sensor in await remote.all_sensors(client)]
            remote.ask_whether(f"{verb.title()} {output.plural(len(named), 'sensor')}?", yes=yes)
        async with remote.reach(config, socket) as client:
            return named, await _each(client, verb, named, timeout)

    named, results = remote.run(main)
    if len(named) == 1 and not every and not isinstance(results[0], dict):
        raise results[0]
    _tell(verb, named, results, every=every, as_json=as_json)
    raise typer.Exit(remote.combined(exit_code(each) for each in results))


async def _each(client: Client, verb: str, euis: Sequence[str], wait: float) -> Results:
    """What came of each; together they wait no longer than `wait`."""
    import trio

    if len(euis) == 1:
        async with waiting(wait, is_safe=verb != "remove"):
            return [await _one(client, verb, euis[0], wait)]
    deadline = trio.current_time() + wait
    # First all are decided on: who waits for a base station that is silent holds up no other.
    deciding = "detach" if verb == "remove" else verb
    decided = await _side_by_side(
        f"{verb} sensors", [partial(_one, client, deciding, eui, 0.0) for eui in euis]
    )
    unsettled = [
        number
        for number, result in enumerate(decided)
        if isinstance(result, dict) and (result["pending"] or verb == "remove")
    ]

    async def settle(number: int) -> Result:
        left = max(0.0, deadline - trio.current_time())
        result = await _one(client, verb, euis[number], left)
        return result if verb == "attach" else _joined(decided[number], result)

    settled = await _side_by_side(
        "waiting for base stations", [partial(settle, number) for number in unsettled]
    )
    for number, result in zip(unsettled, settled, strict=True):
        decided[number] = result
    return decided


async def _one(client: Client, verb: str, eui: str, wait: float) -> Result:
    from bssci.core.center.rpc import RequestError

    try:
        outcome: Fields = await remote.call(
            client, f"sensors.{verb}", {"eui": eui, "timeout": wait}, waiting=wait
        )
        return outcome
    except RequestError as error:
        return error


async def _side_by_side(what: str, work: Sequence[Callable[[], Awaitable[Result]]]) -> Results:
    """What each piece of work gives, in their order; a bar tells how far it is."""
    import trio

    if not work:
        return []
    results: dict[int, Result] = {}
    todo = iter(enumerate(work))

    async def some(reach: output.Reach) -> None:
        for number, piece in todo:
            results[number] = await piece()
            reach(len(results))

    with output.progress(what, len(work)) as reach:
        async with trio.open_nursery() as nursery:
            for _ in range(min(SIDE_BY_SIDE, len(work))):
                nursery.start_soon(some, reach)
    return [results[number] for number in range(len(work))]


def _joined(first: Result, second: Result) -> Result:
    """What came of a detach in the end: a base station that has confirmed is named no more."""
    if isinstance(first, BssciError) or isinstance(second, BssciError):
        return second
    left = {*second["pending"], *(each["eui"] for each in second["refused"])}
    return second | {"confirmed": sorted({*second["confirmed"], *_named(first)} - left)}


def _named(outcome: Fields) -> Iterator[str]:
    yield from (*outcome["confirmed"], *outcome["pending"])
    yield from (each["eui"] for each in outcome["refused"])


def waiting(timeout: float, *, is_safe: bool = True) -> AbstractAsyncContextManager[None]:
    """Says at a terminal what is waited for; `is_safe`: without waiting all is done as well."""
    words = f"waiting up to {timeout:g} s for base stations to confirm"
    return remote.saying_that_it_takes_time(
        f"{words}; Ctrl-C ends only the waiting" if is_safe else words
    )


# --- what came of it ---


def exit_code(result: Result) -> int:
    """Of one sensor."""
    if isinstance(result, BssciError):
        return getattr(result, "exit_code", remote.REFUSED)
    if result["pending"]:
        return remote.PENDING
    if not result["refused"]:
        return 0
    return remote.PENDING if result["confirmed"] else remote.REFUSED


def _tell(verb: str, named: Sequence[str], results: Results, *, every: bool, as_json: bool) -> None:
    if as_json:
        shapes = [
            {"eui": eui, "error": str(result)} if isinstance(result, BssciError) else result
            for eui, result in zip(named, results, strict=True)
        ]
        output.show_json(shapes[0] if len(shapes) == 1 and not every else shapes)
        return
    # Of all sensors only those are told one by one that somebody has to look at.
    for eui, result in zip(named, results, strict=True):
        if isinstance(result, BssciError):
            words = str(result)
            output.fail(
                words if eui in words else f"{eui}: {words}", hint=getattr(result, "hint", "")
            )
        elif not every or exit_code(result):
            output.show(told(verb, result))
    if every:
        output.show(_summary(verb, results))


def told(verb: str, outcome: Fields) -> str:
    """What came of one sensor, in words."""
    head = f"{outcome['eui']}  {_headline(verb, outcome)}"
    return output.groups([(head, [*outcome_rows(outcome)])], width=output.width())


def _headline(verb: str, outcome: Fields) -> str:
    confirmed, pending, refused = (
        len(outcome[each]) for each in ("confirmed", "pending", "refused")
    )
    done, left = _DONE[verb], pending + refused
    if confirmed:
        where = f"{confirmed} of {confirmed + left}" if left else _stations(confirmed)
        return f"{done} at {where}"
    if verb != "attach":
        return _unconfirmed(verb, pending, refused)
    if not left:
        return f"{done}; a base station that has to be told is told when it connects"
    return f"{done} at 0 of {left}" if pending else f"not {done}: refused"


def _unconfirmed(verb: str, pending: int, refused: int) -> str:
    """Of a detach: a base station that had let go of the sensor before has nothing to confirm."""
    if not (pending or refused):
        serves = "served" if verb == "remove" else "serves"
        return f"{_DONE[verb]}; no base station {serves} it"
    where = _stations(pending + refused)
    words = f"not detached yet at {where}" if pending else f"not detached at {where}: refused"
    return f"removed, but {words}" if verb == "remove" else words


def _stations(number: int) -> str:
    return output.plural(number, "base station")


def outcome_rows(outcome: Fields) -> Iterator[tuple[str, str | output.Cell]]:
    """The base stations, by what they say."""
    for name, colour in (("confirmed", "green"), ("pending", "yellow")):
        if outcome[name]:
            yield name, output.Cell(", ".join(outcome[name]), colour)
    for each in outcome["refused"]:
        words = f"{each['eui']}: error {each['code']}"
        message = f", {each['message']}" if each["message"] else ""
        yield "refused", output.Cell(words + message, "red")


def _summary(verb: str, results: Results) -> str:
    counts = Counter(exit_code(each) for each in results)
    others = {remote.PENDING: "pending", remote.REFUSED: "refused"}
    parts = [f"{counts[code]} {word}" for code, word in others.items() if counts[code]]
    failed = counts.total() - counts[0] - counts[remote.PENDING] - counts[remote.REFUSED]
    parts += [f"{failed} failed"] if failed else []
    return ", ".join([f"{output.plural(counts[0], 'sensor')} {_DONE[verb]}", *parts])
