"""Why a sensor is silent, detached, not served or not registered: judged by what listings tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bssci.cli import output

__all__ = ["CAUSES", "Judgement", "of_sensor", "of_stranger"]

Fields = dict[str, Any]

CAUSES = {
    "command": "by a command",
    "mqtt": "by a message over MQTT",
    "import": "by an import",
    "inactivity": "for its silence",
    "heard": "because it was heard again",
    "over_the_air": "by the sensor itself, over the air",
    "removed": "because it was removed",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a sensor is, what tells so, and what can be done."""

    verdict: str
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def of_stranger(heard: Fields | None, history: Sequence[Fields], *, now: float) -> Judgement:
    """What is to be said of one that is not registered.

    Args:
        heard: its latest uplink; None: none is kept.
        history: newest first.
    """
    reasons = []
    if removed := next((each for each in history if each["what"] == "removed"), None):
        cause = CAUSES.get(removed["cause"], "")
        reasons.append(f"it was removed {output.since(removed['time'], now)} {cause}".rstrip())
    if heard is not None:
        reasons.append(
            f"it was heard {output.since(heard['received'], now)} by {heard['bs_eui']}: what it "
            "sends is taken as sensors.unknown says, and nothing can be sent to it"
        )
    else:
        reasons.append("no uplink of it is kept: base stations that do not know it may not hear it")
    return Judgement("not registered", tuple(reasons), ("`bssci sensors add EUI` registers it",))


def of_sensor(
    sensor: Fields, stations: Sequence[Fields], *, now: float, reattach: bool
) -> Judgement:
    """What is to be said of one that is registered.

    Args:
        sensor: as `sensors.get` has it.
        stations: as `stations.list` has them.
        reattach: `auto_detach.reattach`.
    """
    if sensor["wanted"] == "detached":
        return _detached(sensor, now, reattach=reattach)
    if unserved := _unserved(sensor, stations):
        return unserved
    if sensor["last_seen"] is None:
        return _never_heard(sensor, stations)
    return _heard(sensor, stations, now)


def _detached(sensor: Fields, now: float, *, reattach: bool) -> Judgement:
    cause = CAUSES.get(sensor["cause"], sensor["cause"])
    reasons = [f"it was detached {cause}, {output.since(sensor['wanted_since'], now)}"]
    if sensor["last_seen"] is not None:
        reasons.append(f"it was last heard {output.since(sensor['last_seen'], now)}")
    if left := [each["eui"] for each in sensor["stations"]]:
        reasons.append(f"yet to be told of it: {', '.join(left)}")
    again = f"`bssci sensors attach {sensor['eui']}` attaches it"
    if sensor["cause"] == "inactivity" and reattach:
        return Judgement(
            "detached", tuple(reasons), (f"it is attached when it is heard again; {again} now",)
        )
    return Judgement("detached", tuple(reasons), (again,))


# --- is anybody there for it? ---


def _unserved(sensor: Fields, stations: Sequence[Fields]) -> Judgement | None:
    """None: a base station that is there serves it."""
    online = {each["eui"] for each in stations if each["state"] == "online"}
    at = {each["eui"]: each for each in sensor["stations"]}
    if any(at[eui]["state"] == "confirmed" for eui in online if eui in at):
        return None
    if not stations:
        seen = "no base station was ever connected"
        return Judgement("not served", (seen,), ("`bssci stations refused` shows who tried",))
    if not online:
        seen = f"none of {output.plural(len(stations), 'base station')} is connected"
        return Judgement(
            "not served", (seen,), ("`bssci doctor --station EUI` says why one is not",)
        )
    return Judgement("not served", tuple(_obstacles(at, online)), (_attach_again(sensor, at),))


def _obstacles(at: dict[str, Fields], online: set[str]) -> Iterator[str]:
    for eui in sorted(online):
        standing = at.get(eui)
        if standing is None or standing["state"] == "pending":
            yield f"{eui} has not confirmed it yet"
        else:
            error = standing["error"] or {}
            yield f"{eui} refuses it with error {error.get('code')}: {error.get('message') or '-'}"
    if away := sorted(eui for eui in at.keys() - online if at[eui]["state"] == "confirmed"):
        yield f"confirmed only where nobody is connected now: {', '.join(away)}"


def _attach_again(sensor: Fields, at: dict[str, Fields]) -> str:
    if any(each["state"] == "refused" for each in at.values()):
        return (
            "see what the error means in the manual of the base station; then `bssci sensors "
            f"attach {sensor['eui']}` tries again"
        )
    return "wait a moment; if it stays so, the log of the service tells what base stations answer"


# --- is it heard? ---


def _never_heard(sensor: Fields, stations: Sequence[Fields]) -> Judgement:
    served = [each["eui"] for each in sensor["stations"] if each["state"] == "confirmed"]
    reasons = [f"it is attached at {', '.join(served)}, and was never heard"]
    if sensor["ota"] and sensor["attachment"] is None:
        reasons.append("it is to attach over the air, and has not done so")
        advice = ["have it attach: most sensors do at a restart, or at a press of a button"]
    else:
        advice = [
            "compare key and short address with those of the sensor: with others it is not heard"
        ]
    advice.append("see that it is switched on, transmits, and is in range of a base station")
    return Judgement("never heard", tuple(reasons), tuple(advice))


def _heard(sensor: Fields, stations: Sequence[Fields], now: float) -> Judgement:
    reasons = [f"it was last heard {output.since(sensor['last_seen'], now)}"]
    states = {each["eui"]: each["state"] for each in stations}
    usual = sensor["receivers"]
    away = [eui for eui in usual if states.get(eui) != "online"]
    if usual:
        reasons.append(f"usually heard by {', '.join(usual)}")
    if away:
        all_of_them = "all of these are" if len(away) == len(usual) else f"{', '.join(away)} is"
        reasons.append(f"{all_of_them} not connected: what it sends may not reach us")
    if sensor["activity"] not in ("warning", "detach_pending"):
        advice = ["`bssci doctor --station EUI` says why one is not connected"] if away else []
        return Judgement("attached and heard", tuple(reasons), tuple(advice))
    reasons += _silence(sensor)
    advice = ["see to its battery and whether something is in its way"]
    if away:
        advice.insert(0, "`bssci doctor --station EUI` says why a base station is not connected")
    return Judgement("silent", tuple(reasons), tuple(advice))


def _silence(sensor: Fields) -> Iterator[str]:
    silent, limit = sensor["silent_for"], sensor["detached_after"]
    if silent is None:
        return
    yield f"silent for {output.span(silent)}, not counting times at which nobody could hear it"
    if limit is not None:
        left = output.span(max(0.0, limit - silent))
        yield f"detached after {output.span(limit)} of silence, which is in {left}"
