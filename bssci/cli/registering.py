"""`bssci sensors add|set`: what a sensor is, as options, and what has changed, in words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bssci.cli import attaching, output, remote

__all__ = ["LABELS", "add", "set_", "shown"]

Fields = dict[str, Any]

MAX_KEY_FILE = 4096  # characters; a key has 32

Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="HEX",
        help="The network key, 32 hexadecimal digits; - reads it from standard input, so that it "
        "is in no argument.",
    ),
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", metavar="FILE", help="A file that holds the key.")
]
ShortAddress = Annotated[
    str | None,
    typer.Option(
        "--short-addr",
        metavar="HEX",
        help="Four hexadecimal digits. Default: the last four of the EUI.",
    ),
]
Bidi = Annotated[bool | None, typer.Option("--bidi/--no-bidi", help="It can receive. Default: no.")]
DualChannel = Annotated[
    bool | None,
    typer.Option(
        "--dual-channel/--single-channel",
        " /--no-dual-channel",
        help="It uses two channels, or one. Default: two.",
    ),
]
Repetition = Annotated[
    bool | None,
    typer.Option("--repetition/--no-repetition", help="Downlinks to it are repeated. Default: no."),
]
WideCarrierOffset = Annotated[
    bool | None,
    typer.Option(
        "--wide-carrier-offset/--no-wide-carrier-offset",
        help="Downlinks to it have a wide carrier offset. Default: no.",
    ),
]
LongBlockDistance = Annotated[
    bool | None,
    typer.Option(
        "--long-block-distance/--no-long-block-distance",
        help="The blocks of downlinks to it are far apart. Default: no.",
    ),
]
Name = Annotated[
    str | None, typer.Option("--name", metavar="TEXT", help='A name to call it by; "": none.')
]
Tag = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="TEXT", help='May be given several times; "": no tags.'),
]
OverTheAir = Annotated[
    bool | None,
    typer.Option("--ota/--no-ota", help="It attaches over the air by itself. Default: no."),
]


# --- register and change ---


def add(
    eui: Annotated[
        str, typer.Argument(metavar="EUI", help="EUI64 of the sensor, in any usual spelling.")
    ],
    key: Key = None,
    key_file: KeyFile = None,
    short_addr: ShortAddress = None,
    bidi: Bidi = None,
    dual_channel: DualChannel = None,
    repetition: Repetition = None,
    wide_carrier_offset: WideCarrierOffset = None,
    long_block_distance: LongBlockDistance = None,
    name: Name = None,
    tag: Tag = None,
    ota: OverTheAir = None,
    wait: attaching.Wait = 30.0,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Register a sensor and attach it at every base station.

    Without --key and --key-file the key is asked for. How its radio is set (dual channel,
    repetition, ...) must match the sensor, or downlinks do not reach it.

    \b
    Exit codes: 0 confirmed everywhere, 4 pending somewhere, 1 refused,
    2 wrong parameters.

    Example: bssci sensors add 70B3D59CD0000102 --key-file key.txt --bidi --name Kitchen
    """
    parameters = {
        "key": _key(key, key_file) or _asked_key(),
        "short_addr": short_addr,
        "bidi": bidi,
        "dual_chan": dual_channel,
        "repetition": repetition,
        "wide_carr_off": wide_carrier_offset,
        "long_blk_dist": long_block_distance,
        "name": name,
        "tags": _tags(tag),
        "ota": ota,
    }
    outcome = _decide("sensors.add", eui, wait, parameters, config, socket)
    if as_json:
        output.show_json(outcome)
    elif ota and not outcome["confirmed"]:
        output.show(f"{outcome['eui']}  registered; it is served once it attaches over the air")
    else:
        output.show(attaching.told("attach", outcome))
    raise typer.Exit(attaching.exit_code(outcome))


def set_(
    eui: remote.SensorEui,
    key: Key = None,
    key_file: KeyFile = None,
    short_addr: ShortAddress = None,
    bidi: Bidi = None,
    dual_channel: DualChannel = None,
    repetition: Repetition = None,
    wide_carrier_offset: WideCarrierOffset = None,
    long_block_distance: LongBlockDistance = None,
    name: Name = None,
    tag: Tag = None,
    ota: OverTheAir = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS|none",
            help="Silence after which this sensor is detached, also as 12h or 3d; none: as for "
            "all.",
        ),
    ] = None,
    wait: attaching.Wait = 30.0,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Change parameters of a sensor; base stations are told what is new to them.

    What is not given stays as it is.

    Example: bssci sensors set Kitchen --name Bath --timeout 7d
    """
    parameters = {
        "key": _key(key, key_file),
        "short_addr": short_addr,
        "bidi": bidi,
        "dual_chan": dual_channel,
        "repetition": repetition,
        "wide_carr_off": wide_carrier_offset,
        "long_blk_dist": long_block_distance,
        "name": name,
        "tags": _tags(tag),
        "ota": ota,
        "timeout": _timeout(timeout),
    }
    if all(value is None for value in parameters.values()):
        raise typer.BadParameter("nothing to change is given; --help lists what can be")
    outcome = _decide("sensors.set", eui, wait, parameters, config, socket)
    if as_json:
        output.show_json(outcome)
    else:
        output.show(_told_changes(outcome))
    raise typer.Exit(attaching.exit_code(outcome))


def _decide(
    method: str,
    eui: str,
    wait: float,
    parameters: Fields,
    config: Path | None,
    socket: Path | None,
) -> Fields:
    async def main() -> Fields:
        async with remote.reach(config, socket) as client, attaching.waiting(wait):
            found: Fields = await remote.call(
                client, method, {"eui": eui, "wait": wait, **parameters}, waiting=wait
            )
            return found

    return remote.run(main)


def _key(key: str | None, key_file: Path | None) -> str | None:
    """The key as it is given; None: it is not."""
    if key is not None and key_file is not None:
        raise typer.BadParameter("--key and --key-file are the same thing: give one of them")
    if key_file is not None:
        return _key_in(key_file)
    if key != "-":
        return key
    return _asked_key() if sys.stdin.isatty() else sys.stdin.readline(MAX_KEY_FILE).strip()


def _key_in(file: Path) -> str:
    try:
        with file.open() as stream:
            return stream.read(MAX_KEY_FILE).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise typer.BadParameter(f"{file}: {reason}", param_hint="--key-file") from error


def _asked_key() -> str:
    from getpass import getpass

    if not sys.stdin.isatty():
        raise typer.BadParameter(
            "the network key is missing: --key - reads it from standard input, --key-file FILE "
            "from a file",
            param_hint="--key",
        )
    return getpass("Network key (32 hexadecimal digits): ")


def _tags(tags: Sequence[str] | None) -> list[str] | None:
    return None if tags is None else [tag for tag in tags if tag]


def _timeout(text: str | None) -> float | str | None:
    from bssci.core.runtime.kinds import Duration

    if text is None or text == "none":
        return text
    kind = Duration()
    try:
        return kind.read(text)
    except ValueError as error:
        raise typer.BadParameter(
            f'found {text!r}, expected {kind.expected} or "none"', param_hint="--timeout"
        ) from error


def _told_changes(outcome: Fields) -> str:
    changes = [
        (LABELS[name], f"{shown(name, old)} -> {shown(name, new)}" if name != "key" else "new")
        for name, (old, new) in outcome["changes"].items()
    ]
    head = f"{outcome['eui']}  {'changed' if changes else 'as it was'}"
    rows = [*changes, *attaching.outcome_rows(outcome)]
    return output.groups([(head, rows)], width=output.width())


# --- in words ---

LABELS = {
    "name": "name",
    "tags": "tags",
    "key": "network key",
    "short_addr": "short address",
    "bidi": "bidirectional",
    "dual_chan": "dual channel",
    "repetition": "repetition",
    "wide_carr_off": "wide carrier offset",
    "long_blk_dist": "long block distance",
    "ota": "over the air",
    "timeout": "own time limit",
}


def shown(name: str, value: object) -> str:
    """The value of a parameter, in words."""
    match value:
        case bool():
            return output.yes_or_no(value)
        case list():
            return ", ".join(value) or output.NOTHING
        case int() | float() if name == "timeout":
            return output.span(value)
    return str(value) if value not in (None, "") else output.NOTHING
