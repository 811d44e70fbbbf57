"""`bssci uplinks`: what was heard, and what is being heard now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import output, remote

if TYPE_CHECKING:
    from bssci.core.center.rpc import Event
    from bssci.core.runtime.client import Client

__all__ = ["app", "beginning"]

Fields = dict[str, Any]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See what sensors have sent.",
)

MAX_LISTED = 10_000  # the service gives no more at once
FEW = 10  # what tail begins with

# An uplink is told seconds after it was received, and others that were received before it later
# still. So what is asked for after a restart begins earlier, and what was told is remembered.
OVERLAP = 10.0  # seconds
REMEMBERED = 10_000  # uplinks

RECONNECT_FIRST, RECONNECT_MAX = 0.25, 5.0  # seconds between two attempts to reach the service

Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Only what came since: 90s, 1h, 7d, 2024-05-01T12:00 (local time) or Unix seconds.",
    ),
]

COLUMNS = [
    output.Column("time", usual=19),
    output.Column("sensor", usual=16),
    output.Column("count", right=True, usual=6),
    output.Column("SNR", right=True, usual=5, spare=1),
    output.Column("RSSI", right=True, usual=6, spare=2),
    output.Column("by", right=True, usual=2, spare=3),
    output.Column("base station", usual=16, spare=4),
    output.Column("data", least=8, usual=512),
]


@app.command("list", short_help="List the latest uplinks.")
def list_(
    sensor: remote.SensorOption = None,
    station: remote.StationOption = None,
    since: Since = None,
    count: Annotated[
        int, typer.Option(min=1, max=MAX_LISTED, help="How many of the latest.")
    ] = 100,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """List the latest uplinks, the newest first.

    Columns: by is how many base stations heard it; base station is the one that heard it best,
    SNR (dB) and RSSI (dBm) are its; data is hexadecimal.

    Example: bssci uplinks list --sensor Kitchen --since 24h
    """
    beginning_at = beginning(since, output.now())
    found = remote.ask(
        config,
        socket,
        "uplinks.list",
        sensor=sensor,
        station=station,
        since=beginning_at,
        count=count,
    )
    if as_json:
        output.show_json(found)
    elif found:
        output.show(output.table(COLUMNS, list(map(_row, found)), width=output.width()))
    else:
        output.note("no uplink is like that" if sensor or station or since else "no uplink yet")


def beginning(text: str | None, now: float) -> float | None:
    """The Unix time that is meant by a time span until now, a date or a Unix time.

    >>> beginning("1h", 10_000.0), beginning("1700000000", 0.0), beginning(None, 0.0)
    (6400.0, 1700000000.0, None)

    Raises:
        typer.BadParameter: none is.
    """
    from datetime import datetime

    from bssci.core.runtime.kinds import Duration

    if text is None:
        return None
    try:
        unix = float(text)
    except ValueError:
        pass
    else:
        if 1e9 <= unix < 1e10:  # below, it is rather a time span without its unit
            return unix
        raise _bad_time(text)
    try:
        return now - Duration().read(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise _bad_time(text) from None


def _bad_time(text: str) -> typer.BadParameter:
    return typer.BadParameter(
        f"found {text!r}, expected 90s, 1h, 7d, 2024-05-01T12:00 or a Unix time",
        param_hint="--since",
    )


def _row(uplink: Fields) -> output.Row:
    return [
        output.moment(uplink.get("received") or uplink["rxTime"] / 1e9),
        uplink["sensor_eui"],
        str(uplink["cnt"]),
        output.number(uplink["snr"]),
        output.number(uplink["rssi"]),
        str(len(uplink["receptions"])),
        uplink["bs_eui"],
        bytes(uplink["data"]).hex() or output.NOTHING,
    ]


# --- follow ---


@app.command(short_help="Show the latest uplinks, and each that comes.")
def tail(
    sensor: remote.SensorOption = None,
    station: remote.StationOption = None,
    since: Since = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_LISTED,
            help=f"How many of the latest to begin with. Default: {FEW}, with --since all.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Show the latest uplinks, and then each one that comes, until Ctrl-C.

    It goes on when the service was restarted.

    Example: bssci uplinks tail --sensor Kitchen
    """
    chosen = {"sensor": sensor, "station": station}
    begin = beginning(since, output.now())
    if count is None:
        count = FEW if begin is None else MAX_LISTED
    following = _Following(chosen, _json_line if as_json else _Lines().show)
    remote.run(lambda: following.run(config, socket, begin, count))


def _json_line(uplink: Fields) -> None:
    output.show_json(uplink)


class _Lines:
    """Rows of a table that has no end."""

    def __init__(self) -> None:
        self._layout = output.Layout(COLUMNS, width=output.width())
        self._has_title = False

    def show(self, uplink: Fields) -> None:
        if not self._has_title:
            output.show(self._layout.title())
            self._has_title = True
        output.show(self._layout.line(_row(uplink)))


class _Following:
    """Shows each uplink once, however often the connection ends."""

    def __init__(self, chosen: dict[str, str | None], show: Callable[[Fields], None]) -> None:
        self._chosen = chosen
        self._show = show
        self._told: dict[str, None] = {}
        self._last: float | None = None  # Unix time up to which all is shown; None: nothing yet

    async def run(
        self, config: Path | None, socket: Path | None, since: float | None, count: int
    ) -> None:
        """Until it is cancelled.

        Raises:
            UnreachableError: the service could not be reached even once.
        """
        import trio

        from bssci.core.runtime.client import UnreachableError

        pause = RECONNECT_FIRST
        while True:
            try:
                async with remote.reach(config, socket) as client:
                    pause = RECONNECT_FIRST
                    await self._follow(client, since, count)
            except UnreachableError:
                if self._last is None:
                    raise
            assert self._last is not None
            if pause == RECONNECT_FIRST:
                output.warn("the service has gone; waiting for it to come back")
            await trio.sleep(pause)
            pause = min(2 * pause, RECONNECT_MAX)
            since, count = self._last - OVERLAP, MAX_LISTED

    async def _follow(self, client: Client, since: float | None, count: int) -> None:
        # What comes while the latest are asked for is waiting then: nothing falls in between.
        async with client.subscribe(["uplink"], **self._chosen) as events:
            if self._last is None:
                self._last = output.now()
            else:
                output.note("the service is back")
            if count:
                latest = await remote.call(
                    client, "uplinks.list", {"since": since, "count": count, **self._chosen}
                )
                for uplink in reversed(latest):
                    self._tell(uplink)
            async for event in events:
                self._take(event)

    def _take(self, event: Event) -> None:
        if event.kind == "gap":
            lost = output.plural(int(str(event.data["lost"])), "uplink")
            output.warn(f"{lost} came too fast to be shown; `bssci uplinks list` has them")
        else:
            self._last = event.time
            self._tell(event.data)

    def _tell(self, uplink: Fields) -> None:
        if uplink["id"] in self._told:
            return
        if len(self._told) >= REMEMBERED:
            del self._told[next(iter(self._told))]
        self._told[uplink["id"]] = None
        self._show(uplink)
