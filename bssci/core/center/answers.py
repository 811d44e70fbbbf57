"""The MQTT vocabulary of the sensors' life: what happens to them, and how commands are answered.

A command is answered `received` at once, and once more when it has an end; what cannot be followed
at all is answered with an error instead. Hours have one decimal. Beyond their own topics, commands
that came on a topic of the earlier service are answered where that was promised to answer.

A downlink is answered on a topic of its own, with each result that it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bssci.core.center.commands import (
    Malformed,
    MalformedDownlink,
    MalformedSettings,
    SendDownlink,
)
from bssci.core.center.topics import Fields, Publication, Topics, encode
from bssci.core.protocol.errors import Code
from bssci.core.protocol.eui import format_eui

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bssci.core.center.commands import ChangeSettings, Order, QueryStatus, Ref
    from bssci.core.center.downlinks import DownlinkRecord, DownlinkState, Ending, Result
    from bssci.core.center.happenings import Happening
    from bssci.core.center.roster import Activity
    from bssci.core.protocol.messages import DownlinkRxStatus

__all__ = ["MAX_ERROR", "Answers", "End"]

End = Literal["ok", "pending", "error"]
"""How a command ends: done; not by every base station yet, which go on being told; not at all."""

# A base station's words are as long as it likes, and a message can have a thousand faults.
MAX_ERROR = 1_000  # characters


class Answers:
    """What is said below one base topic."""

    def __init__(self, base: str) -> None:
        """
        Raises:
            ValueError: as `Topics`.
        """
        self._topics = Topics(base)

    # --- the life of a sensor ---

    def happening(self, happening: Happening) -> Publication | None:
        """What applications are told of it; None: nothing."""
        match happening.event:
            case "attached" | "detached":
                return self._status(happening, {})
            case "auto_detached":
                return self._status(happening, _inactivity(happening))
            case "attach_failed":
                said = _cut(happening.message) or "a base station refuses it"
                return self._status(happening, {"error": said, "code": happening.code})
            case "warning":
                return self._warning(happening)
        return None

    def _status(self, happening: Happening, more: Fields) -> Publication:
        body: Fields = {"action": happening.event, "sensor_eui": format_eui(happening.ep_eui)}
        if happening.bs_eui is not None:
            body["base_station_eui"] = format_eui(happening.bs_eui)
        return self._published(happening.ep_eui, "status", body | more, happening.at_ns)

    def _warning(self, happening: Happening) -> Publication:
        left_ns = max(0, happening.detach_ns - happening.silent_ns)
        body: Fields = {
            "action": "inactivity_warning",
            "sensor_eui": format_eui(happening.ep_eui),
            "inactive_hours": _hours(happening.silent_ns),
            "hours_until_detach": _hours(left_ns),
            "warning_threshold_hours": _hours(happening.warn_ns),
            "detach_threshold_hours": _hours(happening.detach_ns),
        }
        return self._published(happening.ep_eui, "warning", body, happening.at_ns)

    def _published(self, ep_eui: int, topic: str, body: Fields, at_ns: int) -> Publication:
        body["timestamp"] = at_ns / 1e9
        return Publication(f"{self._topics.base}/ep/{format_eui(ep_eui)}/{topic}", encode(body))

    # --- commands ---

    def received(self, order: Order, *, now_ns: int) -> list[Publication]:
        """That a command was understood; it is going to be `finished`."""
        body = _head(order.command, "received", order.ref)
        return self._respond(order, body, now_ns)

    def finished(
        self,
        order: Order,
        end: End,
        *,
        now_ns: int,
        result: Mapping[str, object] | None = None,
        error: str | None = None,
    ) -> list[Publication]:
        """How a command ended; tell it once.

        Args:
            result: what has come of it, as listings show it.
            error: why nothing has.
        """
        body = _head(order.command, end, order.ref)
        body["sensor_eui"] = format_eui(order.ep_eui)
        # Listings call it `eui`; one name for it is enough.
        body |= {name: value for name, value in (result or {}).items() if name != "eui"}
        if error is not None:
            body["error"] = _cut(error)
        return self._respond(order, body, now_ns)

    def status(
        self,
        order: QueryStatus,
        *,
        now_ns: int,
        is_registered: bool,
        base_stations: Iterable[int],
        last_seen_ns: int | None,
        activity: Activity,
        reception: Mapping[str, object] | None = None,
    ) -> list[Publication]:
        """How it is with an end point; this ends the command.

        Args:
            is_registered: it is one of ours.
            base_stations: those that confirmed that they serve it.
            last_seen_ns: Unix time of its last telegram; None: it was never heard.
            reception: how it has told that it received a downlink, as listings show it.
        """
        result: Fields = {
            "registered": is_registered,
            "base_stations": [format_eui(bs_eui) for bs_eui in base_stations],
            "last_seen": None if last_seen_ns is None else last_seen_ns / 1e9,
            "activity": activity,
        }
        if reception is not None:
            result["downlink_reception"] = dict(reception)
        return self.finished(order, "ok", now_ns=now_ns, result=result)

    def _respond(self, order: Order, body: Fields, now_ns: int) -> list[Publication]:
        topics = self._topics.responses(order.ep_eui, via_legacy=order.via_legacy)
        return _on_each(topics, body, now_ns)

    # --- downlinks ---

    def downlink(
        self, record: DownlinkRecord, event: DownlinkState, *, overrules: Result | None = None
    ) -> Publication | None:
        """What applications are told when a downlink has come into a state; None: nothing.

        Args:
            overrules: the result that was told before, if it has turned out not to be so.
        """
        if event == "at_station":
            return None
        downlink, ending = record.downlink, record.ending
        body = _result(downlink.que_id, downlink.ref, event, downlink.ep_eui)
        body |= {} if ending is None else _ending(ending)
        if overrules is not None:
            body["overrules"] = overrules
        topic = self._topics.downlink_status(format_eui(downlink.ep_eui))
        return _on_each((topic,), body, _when(record, event))[0]

    def reception(self, bs_eui: int, report: DownlinkRxStatus, *, now_ns: int) -> Publication:
        """How an end point has received a downlink, as it has told a base station."""
        body: Fields = {
            "action": "downlink_reception",
            "sensor_eui": format_eui(report.ep_eui),
            "base_station_eui": format_eui(bs_eui),
            "rxTime": report.rx_time,
            "cnt": report.packet_cnt,
            "snr": report.dl_rx_snr,
            "rssi": report.dl_rx_rssi,
        }
        return self._published(report.ep_eui, "status", body, now_ns)

    # --- errors ---

    def refused(
        self, order: Order, error: str, *, now_ns: int, code: int = Code.EINVAL
    ) -> list[Publication]:
        """That a command was understood, but asks for what cannot be; nothing was changed."""
        if isinstance(order, SendDownlink):
            topic = self._topics.downlink_status(format_eui(order.ep_eui))
            body = _rejected(error, code, order.ep_eui, order.ref)
            return _on_each((topic,), body, now_ns)
        topics = self._topics.errors(format_eui(order.ep_eui), via_legacy=order.via_legacy)
        return _on_each(topics, _error(error, code, order.ep_eui, order.ref), now_ns)

    def malformed(self, found: Malformed, *, now_ns: int) -> list[Publication]:
        """That a message asks for nothing; empty if there is nobody to tell."""
        if isinstance(found, MalformedSettings):
            body = _head("config", "error", found.ref)
            body |= {"error": found.error, "code": found.code}
        elif isinstance(found, MalformedDownlink):
            body = _rejected(found.error, found.code, found.ep_eui, found.ref)
        else:
            body = _error(found.error, found.code, found.ep_eui, found.ref)
        return _on_each(found.topics, body, now_ns)

    # --- settings ---

    def settings(
        self,
        order: ChangeSettings,
        end: End,
        *,
        now_ns: int,
        result: Mapping[str, object] | None = None,
        error: str | None = None,
        code: int = Code.EINVAL,
    ) -> list[Publication]:
        """What has become of a change of settings.

        Args:
            result: what was changed and what needs a restart, secrets masked.
            error: why nothing was changed; `code` says it as a POSIX number.
        """
        body = _head("config", end, order.ref) | dict(result or {})
        if error is not None:
            body |= {"error": _cut(error), "code": int(code)}
        return _on_each((self._topics.settings_response,), body, now_ns)


# --- bodies ---


def _head(command: str, status: str, ref: Ref | None) -> Fields:
    body: Fields = {"command": command, "status": status}
    if ref is not None:
        body["ref"] = ref
    return body


def _error(error: str, code: int, ep_eui: int | None, ref: Ref | None) -> Fields:
    body: Fields = {
        "error": _cut(error),
        "code": int(code),
        "sensor_eui": None if ep_eui is None else format_eui(ep_eui),
    }
    if ref is not None:
        body["ref"] = ref
    return body


def _result(que_id: int | None, ref: Ref | None, result: str, ep_eui: int | None) -> Fields:
    body: Fields = {"id": que_id}
    if ref is not None:
        body["ref"] = ref
    return body | {
        "result": result,
        "sensor_eui": None if ep_eui is None else format_eui(ep_eui),
    }


def _rejected(error: str, code: int, ep_eui: int | None, ref: Ref | None) -> Fields:
    """Of what has not become a downlink, so that there is no id."""
    return _result(None, ref, "rejected", ep_eui) | {"error": _cut(error), "code": int(code)}


def _ending(ending: Ending) -> Fields:
    known: dict[str, object | None] = {
        "bs_eui": None if ending.bs_eui is None else format_eui(ending.bs_eui),
        "txTime": ending.tx_time,
        "cnt": ending.packet_cnt,
        "error": _cut(ending.message) or None,
        "code": ending.code,
    }
    if ending.code is not None and not ending.message:
        known["error"] = "a base station refuses it"
    return {name: value for name, value in known.items() if value is not None}


def _when(record: DownlinkRecord, event: DownlinkState) -> int:
    if event == "acknowledged" and record.acknowledged_ns is not None:
        return record.acknowledged_ns
    return record.downlink.created_ns if record.ending is None else record.ending.at_ns


def _on_each(topics: tuple[str, ...], body: Fields, now_ns: int) -> list[Publication]:
    text = encode(body | {"timestamp": now_ns / 1e9})
    return [Publication(topic, text) for topic in topics]


def _inactivity(happening: Happening) -> Fields:
    return {
        "reason": "inactivity",
        "inactive_hours": _hours(happening.silent_ns),
        "threshold_hours": _hours(happening.detach_ns),
    }


def _hours(span_ns: int) -> float:
    return round(span_ns / 3.6e12, 1)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_ERROR else f"{text[:MAX_ERROR]}…"
