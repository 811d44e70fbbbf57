"""`bssci stations`: the base stations, and who knocked and was not let in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from bssci.cli import approving, output, radio, remote

__all__ = ["app"]

Fields = dict[str, Any]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See which base stations are connected, and which were refused.",
)


@app.command("list", short_help="List base stations.")
def list_(
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """List the base stations that are or were connected.

    Columns: since is how long it is online or offline; sensors 10+2-1 means that it serves 10,
    has to be told of 2, and refuses 1; clock is how many seconds its clock is ahead.

    Example: bssci stations list
    """
    found = remote.ask(config, socket, "stations.list")
    if as_json:
        output.show_json(found)
    elif found:
        rows = [_row(station, output.now()) for station in found]
        output.show(output.table(COLUMNS, rows, width=output.width()))
    else:
        output.note("no base station was ever connected; `bssci stations refused` tells who tried")


COLUMNS = [
    output.Column("EUI"),
    output.Column("name", least=6),
    output.Column("state"),
    output.Column("since", right=True),
    output.Column("sensors", right=True),
    output.Column("uplinks", right=True, spare=1),
    output.Column("clock", right=True, spare=2),
]


def _row(station: Fields, now: float) -> output.Row:
    return [
        station["eui"],
        station["name"] or output.NOTHING,
        output.state(station["state"]),
        output.age(station["since"], now),
        _sensors(station["sensors"]),
        str(station["uplinks"]),
        _offset(station["clock_offset"]),
    ]


def _sensors(counts: dict[str, int]) -> output.Cell:
    pending, refused = counts["pending"], counts["refused"]
    text = str(counts["confirmed"])
    text += (f"+{pending}" if pending else "") + (f"-{refused}" if refused else "")
    return output.Cell(text, "red" if refused else "yellow" if pending else "")


def _offset(seconds: float | None) -> str:
    return output.NOTHING if seconds is None else f"{seconds:+.3f} s"


@app.command(short_help="Show everything that is known of a base station.")
def show(
    eui: remote.StationEui,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Show everything that is known of a base station.

    Example: bssci stations show 70B3D59CD0000001
    """
    found = remote.ask(config, socket, "stations.get", eui=eui)
    if as_json:
        output.show_json(found)
    else:
        output.show(output.groups([*_groups(found, output.now())], width=output.width()))


def _groups(station: Fields, now: float) -> Iterator[output.Group]:
    head = f"Base station {station['eui']}"
    yield head, [(name, station[name] or output.NOTHING) for name in _NAMES]
    yield "Connection", [*_connection(station, now)]
    yield "Sensors", [(name, str(number)) for name, number in station["sensors"].items()]
    if (status := station["status"]) is None:
        yield "Status", [("none", "it has not told yet")]
    else:
        told = output.since(station.get("status_time"), now)
        yield "Status", [("told", told), *_status(status)]


_NAMES = ("name", "vendor", "model", "version")


def _connection(station: Fields, now: float) -> Iterator[tuple[str, str | output.Cell]]:
    yield "state", output.state(station["state"])
    yield "since", output.since(station["since"], now)
    yield "address", station["address"] or output.NOTHING
    yield "bidirectional", output.yes_or_no(station["bidi"])
    yield "position", _position(station["position"])
    yield "uplinks", str(station["uplinks"])
    yield "clock", _offset(station["clock_offset"])


def _position(position: list[float] | None) -> str:
    if position is None:
        return output.NOTHING
    latitude, longitude, altitude = position
    return f"{latitude:.5f}, {longitude:.5f}, {altitude:.0f} m"


def _status(status: Fields) -> Iterator[tuple[str, str | output.Cell]]:
    code, message = status["code"], status.get("message")
    text = f"{code}, {message}" if message else str(code)
    yield "code", output.Cell(text, "red" if code else "")
    for name, label in (("cpuLoad", "CPU"), ("memLoad", "memory"), ("dutyCycle", "duty cycle")):
        yield label, _percent(status[name])
    yield "uptime", output.span(status["uptime"])
    yield "time", output.moment(status["time"] / 1e9)
    if "geoLocation" in status:
        yield "position", _position(status["geoLocation"])
    if "temp" in status:
        yield "temperature", output.number(status["temp"], unit="°C")


def _percent(share: float | None) -> str:
    if share is None:
        return output.NOTHING
    # Some firmware tells a load average.
    return f"{share * 100:.1f} %" if share <= 1 else f"{share:.2f}"


@app.command(short_help="End the connection of a base station.")
def disconnect(
    eui: remote.StationEui,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """End the connection of a base station; it will usually connect again by itself.

    Example: bssci stations disconnect 70B3D59CD0000001
    """
    found = remote.ask(config, socket, "stations.disconnect", eui=eui)
    if as_json:
        output.show_json(found)
    else:
        output.show(f"{found['eui']}  disconnected")


@app.command(short_help="Show who knocked and was not let in.")
def refused(
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Show who knocked and was not let in, newest first, and why.

    Columns: last is how long ago it was, for the last of so many times.

    Example: bssci stations refused
    """
    found = remote.ask(config, socket, "stations.refused")
    if as_json:
        output.show_json(found)
    elif found:
        rows = [_refusal(each, output.now()) for each in found]
        output.show(output.table(REFUSED, rows, width=output.width()))
    else:
        output.note("nobody was refused since the service runs")


REFUSED = [
    output.Column("last", right=True),
    output.Column("times", right=True),
    output.Column("address", least=9),
    output.Column("reason"),
    output.Column("EUI", spare=1),
    output.Column("certificate", least=11, spare=2),
    output.Column("detail", least=16, spare=3),
]


def _refusal(refusal: Fields, now: float) -> output.Row:
    certificate = refusal["certificate"]
    return [
        output.age(refusal["time"], now),
        str(refusal["count"]),
        refusal["address"],
        refusal["reason"].replace("_", " "),
        refusal["eui"] or output.NOTHING,
        output.NOTHING if certificate is None else certificate["subject"],
        refusal.get("detail") or output.NOTHING,
    ]


app.command(short_help="Let a base station in with another certificate.")(approving.approve)
app.command(short_help="Have a base station transmit as a sensor.")(radio.transmit)
app.add_typer(radio.app, name="vm")
