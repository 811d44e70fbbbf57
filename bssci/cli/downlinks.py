"""`bssci downlinks`: say something to sensors, see what becomes of it, and take it back."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import attaching, output, remote
from bssci.core.protocol.errors import BssciError

if TYPE_CHECKING:
    import trio

    from bssci.core.center.rpc import Event
    from bssci.core.runtime.client import Client

__all__ = ["app"]

Fields = dict[str, Any]
Result = Fields | BssciError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Say something to sensors, and see what becomes of it.",
)

MAX_INPUT = 4096  # characters of standard input; 200 bytes are 400 digits, or twice as many
MAX_WAIT = 30 * 86400  # seconds; no downlink waits longer

_SENT = ("sent", "acknowledged")
_FAILED = ("expired", "invalid", "revoked", "rejected")
_STATES = ("queued", "at_station", *_SENT, *_FAILED)

_SHOWN = {
    "queued": output.Cell("◐ queued", "yellow"),
    "at_station": output.Cell("◐ at station", "yellow"),
    "sent": output.Cell("● sent", "green"),
    "acknowledged": output.Cell("● acknowledged", "green"),
    "expired": output.Cell("✕ expired", "red"),
    "invalid": output.Cell("✕ invalid", "red"),
    "revoked": output.Cell("○ revoked", "dim"),
    "rejected": output.Cell("✕ rejected", "red"),
}


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not in the range of numbers")
    return value


# --- send ---


@app.command(short_help="Queue a downlink to a sensor.")
def send(
    eui: remote.SensorEui,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help='Hexadecimal digits; - reads them from standard input; "": only acknowledge.',
        ),
    ] = None,
    priority: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", callback=_finite, help="The higher goes first. Default: 0."),
    ] = None,
    format_: Annotated[
        int | None,
        typer.Option("--format", min=0, max=255, help="What kind of user data it is."),
    ] = None,
    respond: Annotated[
        bool, typer.Option("--respond", help="The sensor is asked to answer.")
    ] = False,
    respond_priority: Annotated[
        bool, typer.Option("--respond-priority", help="It is asked to answer with priority.")
    ] = False,
    window: Annotated[
        bool, typer.Option("--window", help="It is asked for another window for downlinks.")
    ] = False,
    only_if_expected: Annotated[
        bool,
        typer.Option("--only-if-expected", help="Only after an uplink that expects a response."),
    ] = False,
    lifetime: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="DURATION",
            help="When it was not sent by then, it expires: seconds, or 30min, 2h, 7d. Default: "
            "downlinks.lifetime of the configuration.",
        ),
    ] = None,
    counter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CNT=HEX",
            help="In place of DATA: what to send after the uplink with this counter. May be given "
            "several times.",
        ),
    ] = None,
    query_rx: Annotated[
        bool, typer.Option("--query-rx", help="Also ask the sensor how well it receives.")
    ] = False,
    ref: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Results are marked with it.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MAX_WAIT,
            metavar="SECONDS",
            help="Wait for the result, so long. Default: do not wait.",
        ),
    ] = None,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Queue a downlink to a sensor; it is sent after one of the sensor's next uplinks.

    That it was sent does not mean that it was received: it is acknowledged with a later uplink.

    \b
    Exit codes: 0 queued, with --wait 0 sent, 1 not sent, 4 pending;
    2 wrong parameters, 5 not registered.

    Example: bssci downlinks send Kitchen 01FF --for 2h --wait 600
    """
    parameters = {
        "eui": eui,
        **_content(data, counter or []),
        "prio": priority,
        "format": format_,
        "response_exp": respond or None,
        "response_prio": respond_priority or None,
        "dl_wind_req": window or None,
        "exp_only": only_if_expected or None,
        "expires_in": _seconds(lifetime),
        "query_rx": query_rx or None,
        "ref": ref,
    }
    shape = _sent(parameters, wait, config, socket)
    if as_json:
        output.show_json(shape)
    else:
        output.show(_told(shape))
    raise typer.Exit(_code(shape) if wait is not None or shape["result"] is not None else 0)


def _content(data: str | None, counters: Sequence[str]) -> Fields:
    if (data is not None) == bool(counters):
        raise typer.BadParameter("give DATA, or --counter for each entry", param_hint="DATA")
    if data is None:
        return {"entries": [_entry(text) for text in counters]}
    return {"data": _input() if data == "-" else data}


def _entry(text: str) -> Fields:
    counter, equals, data = text.partition("=")
    if not equals or not (counter.isascii() and counter.isdigit()) or len(counter) > 10:
        raise typer.BadParameter(
            f"found {text[:40]!r}, a counter, = and hexadecimal digits are expected, as in "
            "1187=01FF",
            param_hint="--counter",
        )
    return {"cnt": int(counter), "data": data}


def _input() -> str:
    """The digits on standard input; that there are none rather means that something has failed."""
    try:
        digits = sys.stdin.read(MAX_INPUT).strip()
    except UnicodeDecodeError as error:
        raise typer.BadParameter("standard input is no text", param_hint="DATA") from error
    if not digits:
        raise typer.BadParameter(
            'standard input is empty; an empty DATA ("") sends an acknowledgement alone',
            param_hint="DATA",
        )
    return digits


def _seconds(text: str | None) -> float | None:
    from bssci.core.runtime.kinds import Duration

    if text is None:
        return None
    kind = Duration(most=MAX_WAIT)
    try:
        return kind.read(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"found {text!r}, expected {kind.expected}", param_hint="--for"
        ) from error


def _sent(
    parameters: Fields, wait: float | None, config: Path | None, socket: Path | None
) -> Fields:
    """The downlink as it is in the end; without `wait`, as it is queued."""

    async def main() -> Fields:
        async with remote.reach(config, socket) as client:
            if wait is None:
                queued: Fields = await remote.call(client, "downlinks.send", parameters)
                return queued
            # Begun before it is queued: its result may be there at once.
            async with client.subscribe(["downlink"], sensor=parameters["eui"]) as events:
                queued = await remote.call(client, "downlinks.send", parameters)
                return await _followed(queued, events, wait)

    return remote.run(main)


async def _followed(shape: Fields, events: trio.MemoryReceiveChannel[Event], wait: float) -> Fields:
    """The downlink with its result, or as it is when the time is up.

    Raises:
        UnreachableError: the service goes meanwhile.
    """
    import trio

    from bssci.core.runtime.client import UnreachableError

    waiting = f"waiting up to {wait:g} s for it to be sent; Ctrl-C ends only the waiting"
    with trio.move_on_after(wait):
        async with remote.saying_that_it_takes_time(waiting):
            while shape["result"] is None:
                try:
                    event = await events.receive()
                except trio.EndOfChannel:
                    raise UnreachableError(
                        f"the service has gone; downlink {shape['id']} is kept by it",
                        hint="`bssci downlinks list` tells what became of it",
                    ) from None
                if event.kind == "downlink" and event.data["id"] == shape["id"]:
                    shape = _after(shape, event)
    return shape


def _after(shape: Fields, event: Event) -> Fields:
    """The downlink as it is after something has happened to it."""
    told = event.data
    shape = shape | {"state": told["event"], "bs_eui": told.get("bs_eui")}
    if told["event"] not in (*_SENT, *_FAILED):
        return shape
    result = {
        "result": told["event"],
        "time": event.time,
        **{name: told.get(name) for name in ("bs_eui", "tx_time", "cnt", "code")},
        "message": told.get("message", ""),
        "acknowledged": None,
    }
    return shape | {"result": result}


# --- list ---

COLUMNS = [
    output.Column("id", right=True),
    output.Column("sensor"),
    output.Column("state"),
    output.Column("age", right=True),
    output.Column("expires in", right=True, spare=2),
    output.Column("base station", spare=1),
    output.Column("ref", least=4, spare=3),
    output.Column("data", least=8),
]


def _states(incomplete: str) -> list[str]:
    return [name for name in _STATES if name.startswith(incomplete)]


@app.command("list", short_help="List the latest downlinks and what became of them.")
def list_(
    sensor: remote.SensorOption = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help=f"One of {', '.join(_STATES)}.", autocompletion=_states),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many of the latest.")] = 100,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """List the latest downlinks and what became of them, the newest first.

    Columns: base station is the one that has it, or had it in the end; data is hexadecimal, with
    a counter before each entry that is for one uplink only.

    Example: bssci downlinks list --sensor Kitchen --state queued
    """
    found = remote.ask(
        config, socket, "downlinks.list", eui=sensor, state=_state(state), count=count
    )
    if as_json:
        output.show_json(found)
    elif found:
        rows = [_row(each, output.now()) for each in found]
        output.show(output.table(COLUMNS, rows, width=output.width()))
    else:
        output.note("no downlink is like that" if sensor or state else "no downlink yet")


def _state(text: str | None) -> str | None:
    if text is None:
        return None
    name = text.lower().replace("-", "_").replace(" ", "_")
    if name not in _STATES:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(_STATES)}", param_hint="--state")
    return name


def _row(shape: Fields, now: float) -> output.Row:
    return [
        str(shape["id"]),
        shape["sensor_eui"],
        _SHOWN.get(shape["state"]) or output.state(shape["state"]),
        output.age(shape["created"], now),
        output.NOTHING if shape["result"] else output.span(shape["expires"] - now),
        shape["bs_eui"] or output.NOTHING,
        output.NOTHING if shape["ref"] is None else str(shape["ref"]),
        _data(shape) or output.NOTHING,
    ]


def _data(shape: Fields) -> str:
    if shape["entries"] is None:
        return bytes(shape["data"]).hex()
    return " ".join(f"{each['cnt']}={bytes(each['data']).hex()}" for each in shape["entries"])


# --- cancel ---


@app.command(short_help="Take downlinks back that were not sent yet.")
def cancel(
    ids: Annotated[
        list[int] | None,
        typer.Argument(metavar="ID", min=0, max=2**53, help="As `list` shows them."),
    ] = None,
    sensor: Annotated[
        str | None,
        typer.Option(
            metavar="EUI",
            help="All that wait for this sensor: its EUI64 or its name.",
            autocompletion=remote.complete_sensor,
        ),
    ] = None,
    timeout: attaching.Wait = 30.0,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Take downlinks back that were not sent yet.

    A base station that has one is told to drop it, when it is connected.

    \b
    Exit codes: 0 none of them will be sent, 1 sent already, 4 a base station has
    not confirmed yet, 5 not found, 6 different things with different ones.

    Example: bssci downlinks cancel --sensor Kitchen
    """
    if bool(ids) == (sensor is not None):
        raise typer.BadParameter("give IDs, or --sensor", param_hint="ID")

    async def main() -> list[Result]:
        async with remote.reach(config, socket) as client, attaching.waiting(timeout):
            if ids:
                return await _each(client, ids, timeout)
            return [*await _cancel(client, timeout, eui=sensor)]

    results = remote.run(main)
    _tell(ids or [], results, as_json=as_json)
    codes = {_cancel_code(each) for each in results}
    raise typer.Exit(remote.PENDING if codes == {0, remote.PENDING} else remote.combined(codes))


async def _each(client: Client, ids: Sequence[int], within: float) -> list[Result]:
    """What came of each, in their order; together they wait no longer than one."""
    import trio

    if len(ids) == 1:
        return [*await _cancel(client, within, id=ids[0])]
    deadline = trio.current_time() + within
    # First all are decided on: who waits for a base station that is silent holds up no other.
    results = {each: await _one(client, each, 0.0) for each in ids}
    for each, result in results.items():
        if _cancel_code(result) == remote.PENDING:
            results[each] = await _one(client, each, max(0.0, deadline - trio.current_time()))
    return [*results.values()]


async def _one(client: Client, number: int, within: float) -> Result:
    from bssci.core.center.rpc import RequestError

    try:
        [shape] = await _cancel(client, within, id=number)
    except RequestError as error:
        return error
    return shape


async def _cancel(client: Client, within: float, **which: object) -> list[Fields]:
    shapes: list[Fields] = await remote.call(
        client, "downlinks.cancel", {**which, "timeout": within}, waiting=within
    )
    return shapes


def _cancel_code(result: Result) -> int:
    if isinstance(result, BssciError):
        return getattr(result, "exit_code", remote.REFUSED)
    if result["result"] is None:
        return remote.PENDING
    return remote.REFUSED if result["state"] in _SENT else 0


def _tell(ids: Sequence[int], results: Sequence[Result], *, as_json: bool) -> None:
    if as_json:
        names = dict.fromkeys(ids)
        output.show_json(
            [
                {"id": name, "error": str(each)} if isinstance(each, BssciError) else each
                for name, each in zip(names or range(len(results)), results, strict=True)
            ]
        )
        return
    for each in results:
        if isinstance(each, BssciError):
            output.fail(str(each), hint=getattr(each, "hint", ""))
        else:
            output.show(_told(each))
    if not results:
        output.note("no downlink waits for this sensor")


# --- in words ---


def _code(shape: Fields) -> int:
    """Of one that was to be sent."""
    if shape["result"] is None:
        return remote.PENDING
    return 0 if shape["state"] in _SENT else remote.REFUSED


def _told(shape: Fields) -> str:
    """A downlink and what became of it, in words."""
    return output.groups(
        [(f"downlink {shape['id']}  {_headline(shape)}", [*_rows(shape)])], width=output.width()
    )


def _headline(shape: Fields) -> str:
    if shape["result"] is None and shape["intent"] != "deliver":
        return "is to be dropped; the base station has not confirmed yet"
    return "at the base station" if shape["state"] == "at_station" else str(shape["state"])


def _rows(shape: Fields) -> Iterator[tuple[str, str | output.Cell]]:
    yield "sensor", shape["sensor_eui"]
    if shape["bs_eui"] is not None:
        yield "base station", shape["bs_eui"]
    result = shape["result"]
    if result is None:
        yield "expires", output.moment(shape["expires"])
        return
    if result["cnt"] is not None:
        yield "sent at", output.moment(result["tx_time"])
        yield "after uplink", str(result["cnt"])
    words = [] if result["code"] is None else [f"error {result['code']}"]
    words += [result["message"]] if result["message"] else []
    if words:
        yield "reason", output.Cell(", ".join(words), "red")
