"""`bssci explain`: why something is as it is, from what is kept of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import output, reasons, remote

if TYPE_CHECKING:
    from bssci.core.runtime.client import Client

__all__ = ["app"]

Fields = dict[str, Any]

HISTORY = 10  # of the latest events of a sensor

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Why an uplink, or a sensor, is as it is.",
)


# --- an uplink ---


@app.command(short_help="What has become of one uplink, and why.")
def uplink(
    uid: Annotated[
        str, typer.Argument(metavar="ID", help="Its `id`, as published, like 0a1b2c3d-4e.")
    ],
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Show who heard an uplink and when, why one base station counts, and when it was published.

    Columns: clock is how many seconds the clock of the base station was ahead; later is how long
    after the first of them it heard the telegram, by our clock, so far as that is known.

    Example: bssci explain uplink 0a1b2c3d-4e
    """

    async def main() -> Fields:
        async with remote.reach(config, socket) as client:
            return await _explained(client, uid)

    told = remote.run(main)
    if as_json:
        output.show_json(told)
    else:
        _show_uplink(told)


async def _explained(client: Client, uid: str) -> Fields:
    found = await remote.call(client, "uplinks.get", {"id": uid})
    stations = await remote.call(client, "stations.list")
    settings = {
        each["key"]: each["value"]
        for key in ("dedup.delay", "dedup.early")
        for each in await remote.call(client, "config.get", {"key": key})
    }
    status = await remote.call(client, "status.get")
    return explanation_of(
        found, {each["eui"]: each["name"] for each in stations}, settings, status["mqtt"]
    )


def explanation_of(
    uplink: Fields, names: dict[str, str | None], settings: Fields, broker: Fields
) -> Fields:
    """What is known of an uplink, in the order in which it happened; null: it is not kept.

    Args:
        uplink: as listings have it.
        names: of base stations, by EUI.
        settings: `dedup.delay` and `dedup.early` as they are now.
        broker: `mqtt` of the status, as it is now.
    """
    receptions = uplink["receptions"]
    published, received = uplink["published"], uplink["received"]
    return {
        "id": uplink["id"],
        "sensor_eui": uplink["sensor_eui"],
        "registered": uplink["registered"],
        "cnt": uplink["cnt"],
        "counter_reused": uplink.get("counterReused", False),
        "receptions": [_reception(each, receptions, names) for each in receptions],
        "best": {"bs_eui": uplink["bs_eui"], "why": _why(receptions)},
        "received": received,
        "committed": None,
        "published": published,
        "took": None if published is None else published - received,
        "window": {"delay": settings["dedup.delay"], "early": settings["dedup.early"]},
        "broker": broker["state"],
    }


def _reception(reception: Fields, others: Sequence[Fields], names: dict[str, str | None]) -> Fields:
    corrected = reception.get("rxTimeCorrected")
    known = [each["rxTimeCorrected"] for each in others if "rxTimeCorrected" in each]
    return {
        "bs_eui": reception["bs_eui"],
        "name": names.get(reception["bs_eui"]),
        "rx_time": reception["rxTime"],
        "clock_offset": None if corrected is None else (reception["rxTime"] - corrected) / 1e9,
        "later": None if corrected is None else (corrected - min(known)) / 1e9,
        "snr": reception["snr"],
        "eq_snr": reception.get("eqSnr"),
        "rssi": reception["rssi"],
    }


def _why(receptions: Sequence[Fields]) -> str:
    """Why the first of them counts: the rule of `receptions.best_first`, in words."""
    if len(receptions) == 1:
        return "no other base station heard it"
    name, label = "snr", "SNR"
    if all("eqSnr" in each for each in receptions):
        name, label = "eqSnr", "equivalent SNR"
    best, second = (output.number(each[name], unit="dB") for each in receptions[:2])
    of_all = f"the highest {label} of {len(receptions)}: {best}, the next one {second}"
    if receptions[0][name] == receptions[1][name]:
        return f"{of_all}; of two alike the one whose report came first"
    return of_all


RECEPTIONS = [
    output.Column("base station"),
    output.Column("name", least=6, spare=3),
    output.Column("heard at, by its clock"),
    output.Column("clock", right=True),
    output.Column("later", right=True),
    output.Column("SNR", right=True),
    output.Column("eq. SNR", right=True, spare=2),
    output.Column("RSSI", right=True, spare=1),
]


def _show_uplink(told: Fields) -> None:
    width = output.width()
    output.show(output.groups([(f"Uplink {told['id']}", [*_way(told)])], width=width))
    output.show()
    rows = [_reception_row(each) for each in told["receptions"]]
    output.show(output.table(RECEPTIONS, rows, width=width))


def _reception_row(each: Fields) -> output.Row:
    return [
        each["bs_eui"],
        each["name"] or output.NOTHING,
        _exactly(each["rx_time"] / 1e9),
        _seconds(each["clock_offset"], "+.3f"),
        _seconds(each["later"], ".4f"),
        output.number(each["snr"]),
        output.number(each["eq_snr"]),
        output.number(each["rssi"]),
    ]


def _seconds(value: float | None, form: str) -> str:
    return output.NOTHING if value is None else f"{value:{form}} s"


def _exactly(unix: float) -> str:
    return f"{output.moment(unix)}.{int(unix % 1 * 1000):03}"


def _way(told: Fields) -> Iterator[tuple[str, str]]:
    yield "sensor", told["sensor_eui"] + ("" if told["registered"] else ", not registered")
    reused = ", used before with other content" if told["counter_reused"] else ""
    yield "counter", f"{told['cnt']}{reused}"
    yield "arrived", f"{_exactly(told['received'])}, the first report of it"
    yield "on disk", "before that was answered; when exactly is not kept"
    window = told["window"]
    early = ", or as soon as all that usually hear it have reported" if window["early"] else ""
    yield "waited", f"for others {window['delay']:g} s at most{early} (as it is set now)"
    yield "counts", f"{told['best']['bs_eui']}: {told['best']['why']}"
    yield "published", _publication(told)


def _publication(told: Fields) -> str:
    if told["published"] is not None:
        return f"{_exactly(told['published'])}, acknowledged {told['took']:.3f} s after it arrived"
    if told["broker"] == "disabled":
        return "no: there is no broker (mqtt.enabled)"
    waits = "it is just on its way" if told["broker"] == "online" else "the broker is away"
    return f"not yet: {waits}"


# --- a sensor ---


@app.command(short_help="Why a sensor is silent, detached or not served.")
def sensor(
    eui: remote.SensorEui,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Say how a sensor is and why, what can be done, and what happened to it lately.

    Example: bssci explain sensor Kitchen
    """

    async def main() -> Fields:
        async with remote.reach(config, socket) as client:
            return await _reasons(client, eui)

    told = remote.run(main)
    if as_json:
        output.show_json(told)
    else:
        _show_sensor(told)


async def _reasons(client: Client, text: str) -> Fields:
    """Raises NotFoundError: it is no EUI, and nobody has that name."""
    from bssci.core.center.rpc import NotFoundError

    try:
        found = await remote.call(client, "sensors.get", {"eui": text})
    except NotFoundError:
        return await _stranger(client, text)
    stations = await remote.call(client, "stations.list")
    (reattach,) = await remote.call(client, "config.get", {"key": "auto_detach.reattach"})
    history = await remote.call(client, "sensors.history", {"eui": found["eui"], "count": HISTORY})
    judged = reasons.of_sensor(found, stations, now=output.now(), reattach=reattach["value"])
    return _told(found["eui"], found["name"], judged, history)


async def _stranger(client: Client, text: str) -> Fields:
    from bssci.core.center.rpc import NotFoundError
    from bssci.core.protocol.errors import InvalidEuiError
    from bssci.core.protocol.eui import format_eui, parse_eui

    try:
        eui = format_eui(parse_eui(text))
    except InvalidEuiError:
        raise NotFoundError(
            f"no sensor is called {text[:64]!r}", hint="`bssci sensors list` shows those there are"
        ) from None
    heard = await remote.call(client, "uplinks.list", {"sensor": eui, "count": 1})
    try:
        past = await remote.call(client, "sensors.history", {"eui": eui, "count": HISTORY})
    except NotFoundError:
        past = []
    judged = reasons.of_stranger(heard[0] if heard else None, past, now=output.now())
    return _told(eui, None, judged, past)


def _told(eui: str, name: str | None, judged: reasons.Judgement, history: list[Fields]) -> Fields:
    return {
        "eui": eui,
        "name": name,
        "verdict": judged.verdict,
        "reasons": list(judged.reasons),
        "advice": list(judged.advice),
        "history": history,
    }


def _show_sensor(told: Fields) -> None:
    name = f" ({told['name']})" if told["name"] else ""
    rows: list[tuple[str, str | output.Cell]] = [("is", told["verdict"])]
    rows += _labelled("because", told["reasons"]) + _labelled("do", told["advice"])
    parts: list[output.Group] = [(f"Sensor {told['eui']}{name}", rows)]
    if told["history"]:
        parts.append(("Lately", [_episode(each) for each in told["history"]]))
    output.show(output.groups(parts, width=output.width()))


def _labelled(label: str, texts: list[str]) -> list[tuple[str, str | output.Cell]]:
    return [(label if not number else "", text) for number, text in enumerate(texts)]


def _episode(episode: Fields) -> tuple[str, str]:
    where = f" at {episode['bs_eui']}" if episode["bs_eui"] else ""
    cause = (
        f", {reasons.CAUSES.get(episode['cause'], episode['cause'])}" if episode["cause"] else ""
    )
    error = "" if episode["code"] is None else f", error {episode['code']}"
    words = f": {episode['message']}" if episode["message"] else ""
    return output.moment(episode["time"]), (
        episode["what"].replace("_", " ") + where + cause + error + words
    )
