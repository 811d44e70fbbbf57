"""`bssci status`: how the running service is doing, on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bssci.cli import output, remote

__all__ = ["status"]

Fields = dict[str, Any]

SOON = 30  # days in which a certificate expires


def status(
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Show how the running service is doing.

    Base stations, sensors by state, uplinks, what is not published yet, downlinks that wait, the
    broker, when a certificate expires, and how many attaches over the air and how many connections
    were refused for which reason.

    Example: bssci status --json
    """
    found = remote.ask(config, socket, "status.get")
    if as_json:
        output.show_json(found)
    else:
        output.show(output.groups(list(_groups(found, output.now())), width=output.width()))


def _groups(found: Fields, now: float) -> Iterator[output.Group]:
    stations, uplinks, journal = found["stations"], found["uplinks"], found["journal"]
    rows: list[tuple[str, str | output.Cell]] = [
        ("running for", output.span(found["uptime"])),
        ("base stations", _online(stations)),
        ("journal", output.state(journal["state"])),
        ("broker", _broker(found["mqtt"], now)),
        ("certificates", _expiry(found["certificates"]["expires_in_days"])),
    ]
    yield f"bssci {found['version']}", rows
    yield f"Sensors: {found['sensors']['total']}", [*_sensors(found["sensors"])]
    yield (
        "Uplinks since it runs",
        [
            ("received", f"{uplinks['received']}, {uplinks['rate']:.1f} a second"),
            ("copies", str(uplinks["duplicates"])),
            ("published", str(uplinks["published"])),
            ("unregistered", str(uplinks["unregistered"])),
            ("to be settled", str(journal["backlog"])),
            ("to be published", str(journal["unpublished"])),
        ],
    )
    downlinks, over_the_air = found["downlinks"], found["over_the_air"]
    if any(downlinks.values()):
        yield (
            "Downlinks that wait",
            [
                ("queued here", str(downlinks["queued"])),
                ("at a station", str(downlinks["at_station"])),
            ],
        )
    if any(over_the_air.values()):
        yield "Over the air", [*_over_the_air(over_the_air)]
    if found["refused"]:
        yield "Connections refused", [*_reasons(found["refused"])]


def _over_the_air(counts: Fields) -> Iterator[tuple[str, str | output.Cell]]:
    yield "attached", str(counts["attached"])
    yield "detached", str(counts["detached"])
    if counts["unknown_detached"]:
        yield "of strangers", str(counts["unknown_detached"])
    yield from _reasons(counts["refused"])


def _reasons(counts: dict[str, int]) -> Iterator[tuple[str, str | output.Cell]]:
    """The most frequent first."""
    for reason, count in sorted(counts.items(), key=lambda each: -each[1]):
        yield reason.replace("_", " "), str(count)


def _online(stations: dict[str, int]) -> output.Cell:
    online, known = stations["online"], stations["known"]
    colour = "green" if online and online == known else "yellow" if online else "red"
    return output.Cell(f"{online} of {known} online", colour)


def _broker(mqtt: Fields, now: float) -> output.Cell:
    cell = output.state(mqtt["state"])
    if mqtt["since"] is None:
        return cell
    return output.Cell(f"{cell.text} since {output.since(mqtt['since'], now)}", cell.colour)


def _expiry(days: int | None) -> output.Cell:
    if days is None:
        return output.Cell(output.NOTHING)
    if days < 0:
        return output.Cell(f"✕ expired {output.plural(-days, 'day')} ago", "red")
    if days < SOON:
        return output.Cell(f"▲ expire in {output.plural(days, 'day')}", "yellow")
    return output.Cell(f"● expire in {output.plural(days, 'day')}", "green")


def _sensors(counts: dict[str, int]) -> Iterator[tuple[str, str | output.Cell]]:
    """By state; the word is the label, so the value keeps symbol and colour."""
    for name, count in counts.items():
        if name != "total":
            cell = output.state(name)
            symbol, _, word = cell.text.partition(" ")
            yield word, output.Cell(f"{symbol} {count}", cell.colour if count else "dim")
