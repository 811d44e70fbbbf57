"""`bssci sensors`: what there is, and what is known of each; the other modules do the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import attaching, bulk, output, registering, remote
from bssci.cli.registering import LABELS, shown

if TYPE_CHECKING:
    from bssci.core.runtime.client import Client

__all__ = ["app"]

Fields = dict[str, Any]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Register sensors, attach and detach them, and see how they are.",
)

app.command(short_help="Register a sensor and attach it everywhere.")(registering.add)
app.command("set", short_help="Change parameters of a sensor.")(registering.set_)

NEXT = 20  # sensors that are shown as the next ones to be detached

_ACTIVITIES = ("active", "warning", "detach_pending", "auto_detached", "detached", "never_seen")


def _activities(incomplete: str) -> list[str]:
    return [name for name in _ACTIVITIES if name.startswith(incomplete)]


@app.command("list", short_help="List sensors and how they are.")
def list_(
    stale: Annotated[
        bool,
        typer.Option(
            "--stale",
            help="Those that are detached next if they stay silent, soonest first, with the time "
            "left.",
        ),
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help=f"At most so many. Default: all, with --stale {NEXT}."
        ),
    ] = None,
    activity: Annotated[
        str | None,
        typer.Option(
            metavar="STATE", help=f"One of {', '.join(_ACTIVITIES)}.", autocompletion=_activities
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only those that have it.")
    ] = None,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """List sensors, how they are, and at how many base stations they are attached.

    Columns: stations 2/3 means that 2 of the 3 base stations that are to serve it have confirmed;
    seen is how long ago it was heard; count, SNR (dB) and RSSI (dBm) are those of its last
    telegram.

    Example: bssci sensors list --activity warning
    """
    chosen = {"activity": _activity(activity), "tag": tag}

    async def main() -> list[Fields]:
        async with remote.reach(config, socket) as client:
            return await _listed(client, count, chosen, stale=stale)

    found = remote.run(main)
    if as_json:
        output.show_json(found)
    elif found:
        columns = [*COLUMNS, *([STALE] if stale else [])]
        rows = [_row(sensor, output.now()) for sensor in found]
        output.show(output.table(columns, rows, width=output.width()))
    elif stale or activity or tag:
        output.note("no sensor is like that")
    else:
        output.note(
            "no sensor is registered; `bssci sensors add EUI` or `bssci sensors import FILE`"
        )


async def _listed(
    client: Client, count: int | None, chosen: Fields, *, stale: bool
) -> list[Fields]:
    found: list[Fields] = []
    if stale:  # the order is another, in which no page can follow on another
        next_ones = {"stale": True, "count": count or NEXT, **chosen}
        found = await remote.call(client, "sensors.list", next_ones)
        return found

    def take(page: list[Fields]) -> bool:
        found.extend(page)
        return count is not None and len(found) >= count

    await remote.in_pages(client, take, **chosen)
    return found[:count]


def _activity(text: str | None) -> str | None:
    if text is None:
        return None
    name = text.lower().replace("-", "_").replace(" ", "_")
    if name not in _ACTIVITIES:
        raise typer.BadParameter(
            f"{text!r} is none of {', '.join(_ACTIVITIES)}", param_hint="--activity"
        )
    return name


COLUMNS = [
    output.Column("EUI"),
    output.Column("name", least=6),
    output.Column("activity"),
    output.Column("stations"),
    output.Column("seen", right=True),
    output.Column("count", right=True, spare=1),
    output.Column("SNR", right=True, spare=2),
    output.Column("RSSI", right=True, spare=3),
]
STALE = output.Column("detached in", right=True)


def _row(sensor: Fields, now: float) -> output.Row:
    states = [station["state"] for station in sensor["stations"]]
    cells = [
        sensor["eui"],
        sensor["name"] or output.NOTHING,
        output.state(sensor["activity"]),
        _share(states),
        output.age(sensor["last_seen"], now),
        output.number(sensor["last_cnt"], 0),
        output.number(sensor["snr"]),
        output.number(sensor["rssi"]),
    ]
    return [*cells, *([output.span(sensor["detach_in"])] if "detach_in" in sensor else [])]


def _share(states: Sequence[str]) -> output.Cell:
    confirmed = states.count("confirmed")
    colour = "red" if "refused" in states else "yellow" if "pending" in states else ""
    return output.Cell(f"{confirmed}/{len(states)}" if states else output.NOTHING, colour)


@app.command(short_help="Show everything that is known of a sensor.")
def show(
    eui: remote.SensorEui,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the network key.")] = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Show everything that is known of a sensor.

    Example: bssci sensors show Kitchen
    """
    found = remote.ask(config, socket, "sensors.get", eui=eui, reveal=reveal)
    if as_json:
        output.show_json(found)
    else:
        output.show(output.groups([*_groups(found, output.now())], width=output.width()))


def _groups(sensor: Fields, now: float) -> Iterator[output.Group]:
    yield f"Sensor {sensor['eui']}", _labelled(sensor, "name", "tags", "key", "short_addr")
    yield "Radio", _labelled(sensor, "bidi", "dual_chan", *_RADIO, "ota")
    yield "State", [*_state_rows(sensor, now)]
    yield "Heard", [*_heard_rows(sensor, now)]
    if over_the_air := [*_over_the_air_rows(sensor, now)]:
        yield "Over the air", over_the_air
    stations = [(each["eui"], _station_state(each, now)) for each in sensor["stations"]]
    yield "Base stations", stations or [("none", output.Cell("none serves it, or is to"))]


_RADIO = ("repetition", "wide_carr_off", "long_blk_dist")


def _labelled(sensor: Fields, *names: str) -> list[tuple[str, str | output.Cell]]:
    return [(LABELS[name], shown(name, sensor[name])) for name in names]


def _state_rows(sensor: Fields, now: float) -> Iterator[tuple[str, str | output.Cell]]:
    yield "activity", output.state(sensor["activity"])
    yield "wanted", f"{sensor['wanted']} since {output.since(sensor['wanted_since'], now)}"
    yield "because of", _CAUSES.get(str(sensor["cause"])) or str(sensor["cause"])
    yield "silent for", output.span(sensor["silent_for"])
    yield "warned after", output.span(sensor["warned_after"])
    yield "detached after", output.span(sensor["detached_after"])
    yield LABELS["timeout"], shown("timeout", sensor["timeout"])


_CAUSES = {
    "command": "a command",
    "mqtt": "a message by MQTT",
    "import": "an import",
    "inactivity": "its silence",
    "heard": "being heard again",
    "over_the_air": "the sensor itself, over the air",
}


def _heard_rows(sensor: Fields, now: float) -> Iterator[tuple[str, str | output.Cell]]:
    yield "last", output.since(sensor["last_seen"], now)
    yield "count", output.number(sensor["last_cnt"], 0)
    yield "uplinks", str(sensor["uplinks"])
    for name, unit in (("snr", "dB"), ("rssi", "dBm")):
        yield name.upper(), _figure(sensor[name], (sensor["statistics"] or {}).get(name), unit)
    if (best := sensor["preferred"]) is not None:
        times = output.plural(best["messages"], "telegram")
        yield "best heard by", f"{best['bs_eui']}, {output.number(best['snr'], unit='dB')}, {times}"
    yield "usually by", ", ".join(sensor["receivers"]) or output.NOTHING


def _over_the_air_rows(sensor: Fields, now: float) -> Iterator[tuple[str, str | output.Cell]]:
    if (attachment := sensor["attachment"]) is not None:
        yield "attached", f"{output.since(attachment['time'], now)}, by {attachment['bs_eui']}"
        yield "attach count", str(attachment["cnt"])
        yield "short address", str(attachment["short_addr"])
    if (received := sensor["downlink_reception"]) is not None:
        yield "received downlink", f"{output.since(received['time'], now)}, {received['bs_eui']}"
        snr, rssi = received["snr"], received["rssi"]
        yield "and told", f"{output.number(snr, unit='dB')}, {output.number(rssi, unit='dBm')}"


def _figure(last: float | None, spread: Fields | None, unit: str) -> str:
    if last is None or spread is None:
        return output.NOTHING
    mean, least, most, deviation = (
        output.number(spread[name]) for name in ("mean", "min", "max", "deviation")
    )
    return (
        f"{output.number(last, unit=unit)} (mean {mean}, {least} to {most}, deviation {deviation})"
    )


def _station_state(station: Fields, now: float) -> output.Cell:
    shown, error = output.state(station["state"]), station["error"]
    if error is None:
        return shown
    how_long = output.age(error["time"], now)
    when = how_long if how_long == "now" else f"{how_long} ago"
    why = ", ".join([f"error {error['code']}", *([error["message"]] if error["message"] else [])])
    return output.Cell(f"{shown.text} {when}: {why}", shown.colour)


@app.command(short_help="Show what happened to a sensor.")
def history(
    eui: remote.SensorEui,
    count: Annotated[
        int, typer.Option(min=1, max=10_000, help="How many of the latest events.")
    ] = 50,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Show what happened to a sensor, newest first; also to one that was removed.

    Example: bssci sensors history Kitchen --count 10
    """
    found = remote.ask(config, socket, "sensors.history", eui=eui, count=count)
    if as_json:
        output.show_json(found)
        return
    rows = [_episode(each) for each in found]
    output.show(output.table(HISTORY, rows, width=output.width()))


HISTORY = [
    output.Column("time"),
    output.Column("event"),
    output.Column("cause", spare=1),
    output.Column("base station"),
    output.Column("message", least=10),
]


def _episode(episode: Fields) -> output.Row:
    code, message = episode["code"], episode["message"]
    words = [f"error {code}"] if code is not None else []
    return [
        output.moment(episode["time"]),
        episode["what"].replace("_", " "),
        episode["cause"] or output.NOTHING,
        episode["bs_eui"] or output.NOTHING,
        ", ".join([*words, *([message] if message else [])]) or output.NOTHING,
    ]


app.command(short_help="Attach sensors at every base station.")(attaching.attach)
app.command(short_help="Detach sensors at every base station.")(attaching.detach)
app.command(short_help="Detach sensors and forget them.")(attaching.remove)
app.command(short_help="Detach and forget all sensors; keeps an undo file.")(bulk.clear)
app.command("import", short_help="Register or change many sensors from a file.")(bulk.import_)
app.command(short_help="Write all sensors into a file.")(bulk.export)
