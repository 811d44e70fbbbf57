"""`bssci stations transmit|vm`: what the radio of a base station can be asked to do."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from bssci.cli import output, remote

__all__ = ["app", "transmit"]

Fields = dict[str, Any]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Which Variable MAC types a base station listens to.",
)

Station = Annotated[
    str,
    typer.Argument(
        metavar="STATION",
        help="EUI64 of the base station in any usual spelling, or its name.",
        autocompletion=remote.complete_station,
    ),
]
Sensor = Annotated[
    str,
    typer.Argument(
        metavar="SENSOR",
        help="EUI64 of the sensor in any usual spelling, or its name.",
        autocompletion=remote.complete_sensor,
    ),
]
MacType = Annotated[
    int, typer.Argument(metavar="MAC_TYPE", min=0, max=255, help="The MAC type, 0 to 255.")
]
Wait = Annotated[
    float,
    typer.Option(
        min=0,
        max=3600,
        metavar="SECONDS",
        help="How long to wait for the base station.",
    ),
]


def transmit(
    station: Station,
    sensor: Sensor,
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="Hexadecimal digits; -: from standard input."),
    ],
    format_: Annotated[
        int, typer.Option("--format", metavar="N", min=0, max=255, help="Format of the data.")
    ] = 0,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="Radio profile. Default: the station's.")
    ] = None,
    counter: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=2**32 - 1,
            help="Packet counter. Default: the one after the last that is known.",
        ),
    ] = None,
    timeout: Wait = 30.0,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Have a base station transmit an uplink in the name of a sensor.

    Base stations in reach hear it as if the sensor had sent it, so that reception can be tried
    where a sensor is to be. Not every base station can do it.

    \b
    Exit codes: 0 it will be transmitted, 1 refused or not connected,
    5 not known, 7 no answer.

    Example: bssci stations transmit Roof Kitchen 0102ff
    """
    found = _ask(
        config,
        socket,
        "stations.transmit",
        timeout,
        eui=station,
        sensor=sensor,
        data=sys.stdin.read() if data == "-" else data,
        format=format_,
        profile=profile,
        packet_cnt=counter,
    )
    if as_json:
        output.show_json(found)
    else:
        output.show(
            f"{found['eui']}  transmits for {found['sensor_eui']}, packet {found['packet_cnt']}"
        )


@app.command(short_help="Show the active MAC types.")
def status(
    station: Station,
    timeout: Wait = 30.0,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Show which Variable MAC types a base station listens to.

    Exit codes: 0 done, 1 refused or not connected, 5 not known, 7 no answer.

    Example: bssci stations vm status Roof
    """
    _tell(_ask(config, socket, "stations.vm_status", timeout, eui=station), as_json=as_json)


@app.command(short_help="Listen to a MAC type.")
def activate(
    station: Station,
    mac_type: MacType,
    timeout: Wait = 30.0,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Have a base station listen to a Variable MAC type; what it hears goes to MQTT.

    The topic is BASE/bs/EUI/vm. Exit codes are those of status.

    Example: bssci stations vm activate Roof 1
    """
    _switch("activate", station, mac_type, timeout, config, socket, as_json=as_json)


@app.command(short_help="Listen to a MAC type no more.")
def deactivate(
    station: Station,
    mac_type: MacType,
    timeout: Wait = 30.0,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Have a base station listen to a Variable MAC type no more.

    Exit codes are those of status.

    Example: bssci stations vm deactivate Roof 1
    """
    _switch("deactivate", station, mac_type, timeout, config, socket, as_json=as_json)


def _switch(
    verb: str,
    station: str,
    mac_type: int,
    timeout: float,
    config: remote.ConfigFile,
    socket: remote.SocketFile,
    *,
    as_json: bool,
) -> None:
    params = {"eui": station, "mac_type": mac_type}
    found = _ask(config, socket, f"stations.vm_{verb}", timeout, **params)
    _tell(found, as_json=as_json, done=f"{verb}d {mac_type}")


def _tell(found: Fields, *, as_json: bool, done: str = "") -> None:
    if as_json:
        output.show_json(found)
        return
    parts = [done] if done else []
    if (active := found.get("mac_types")) is not None:
        parts.append(f"active MAC types: {', '.join(map(str, active)) or 'none'}")
    output.show(f"{found['eui']}  {'; '.join(parts)}")


def _ask(
    config: remote.ConfigFile,
    socket: remote.SocketFile,
    method: str,
    timeout: float,
    **params: object,
) -> Fields:
    """What a base station answers within `timeout`."""

    async def main() -> Fields:
        words = f"waiting up to {timeout:g} s for the base station"
        async with (
            remote.reach(config, socket) as client,
            remote.saying_that_it_takes_time(words),
        ):
            found: Fields = await remote.call(
                client, method, {**params, "timeout": timeout}, waiting=timeout
            )
            return found

    return remote.run(main)
