"""What listings show, as JSON: sensors, base stations, who was refused.

EUIs are 16 upper-case hexadecimal digits, times Unix seconds, null where nothing is known. Fields
may be added, never taken away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bssci.core.center.end_points import fields_of
from bssci.core.center.roster import deviation
from bssci.core.center.topics import status_fields
from bssci.core.protocol.eui import format_eui

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bssci.core.center.attachment import Attachment
    from bssci.core.center.lifecycle import StandingState
    from bssci.core.center.records import Episode, Hearing, Preferred, Refused, Spread, Wish
    from bssci.core.center.registry import BaseStation
    from bssci.core.center.roster import Activity

__all__ = [
    "episode_shape",
    "outcome_shape",
    "sensor_details",
    "sensor_shape",
    "station_shape",
]

Fields = dict[str, object]


def sensor_shape(
    wish: Wish,
    hearing: Hearing | None,
    *,
    activity: Activity,
    standing: Iterable[tuple[int, StandingState, Refused | None]],
    reveal: bool = False,
) -> Fields:
    """A sensor as `sensors list` shows it."""
    fields = fields_of(wish.end_point, reveal=reveal)
    timeout = fields.pop("timeout")
    return fields | {
        "wanted": wish.wanted,
        "activity": activity,
        "stations": [
            {"eui": format_eui(bs_eui), "state": state, "error": _error(refused)}
            for bs_eui, state, refused in standing
        ],
        "last_seen": None if hearing is None else hearing.last_seen_ns / 1e9,
        "last_cnt": None if hearing is None else hearing.last_cnt,
        "uplinks": 0 if hearing is None else hearing.uplinks,
        "snr": None if hearing is None else hearing.last_snr,
        "rssi": None if hearing is None else hearing.last_rssi,
        "preferred": None if hearing is None else _preferred(hearing.preferred),
        "timeout": timeout,
    }


def sensor_details(
    wish: Wish,
    hearing: Hearing | None,
    *,
    silent_ns: int,
    limits_ns: tuple[int, int] | None,
    attachment: Attachment | None = None,
) -> Fields:
    """What `sensors show` adds.

    Args:
        limits_ns: silence after which it is warned about and detached; None: never.
        attachment: its last attach over the air; None: there was none.
    """
    count = 0 if hearing is None else hearing.uplinks
    return {
        "wanted_since": wish.since_ns / 1e9,
        "cause": wish.cause,
        "statistics": None
        if hearing is None
        else {"snr": _spread(hearing.snr, count), "rssi": _spread(hearing.rssi, count)},
        "receivers": []
        if hearing is None
        else [format_eui(each) for each in sorted(hearing.receivers)],
        "silent_for": None if hearing is None else silent_ns / 1e9,
        "warned_after": None if limits_ns is None else limits_ns[0] / 1e9,
        "detached_after": None if limits_ns is None else limits_ns[1] / 1e9,
        "attachment": None if attachment is None else _attachment(attachment),
    }


def _attachment(attachment: Attachment) -> Fields:
    return {
        "bs_eui": format_eui(attachment.bs_eui),
        "time": attachment.at_ns / 1e9,
        "cnt": attachment.attach_cnt,
        "short_addr": f"{attachment.short_addr:04X}",
    }


def _error(refused: Refused | None) -> Fields | None:
    if refused is None:
        return None
    return {"code": refused.code, "message": refused.message, "time": refused.at_ns / 1e9}


def _preferred(preferred: Preferred) -> Fields:
    return {
        "bs_eui": format_eui(preferred.bs_eui),
        "snr": preferred.snr,
        "updated": preferred.updated_ns / 1e9,
        "messages": preferred.messages,
    }


def _spread(spread: Spread, count: int) -> Fields:
    return {
        "mean": round(spread.mean, 3),
        "min": spread.least,
        "max": spread.most,
        "deviation": round(deviation(spread, count), 3),
    }


def outcome_shape(
    ep_eui: int,
    confirmed: Sequence[int],
    pending: Sequence[int],
    refused: Sequence[tuple[int, Refused]],
) -> Fields:
    """What has become of an attach or a detach."""
    return {
        "eui": format_eui(ep_eui),
        "confirmed": [format_eui(each) for each in confirmed],
        "pending": [format_eui(each) for each in pending],
        "refused": [
            {"eui": format_eui(bs_eui), "code": refused.code, "message": refused.message}
            for bs_eui, refused in refused
        ],
    }


def episode_shape(episode: Episode) -> Fields:
    """A line of a sensor's history."""
    return {
        "time": episode.at_ns / 1e9,
        "what": episode.what,
        "cause": episode.cause,
        "bs_eui": None if episode.bs_eui is None else format_eui(episode.bs_eui),
        "code": episode.code,
        "message": episode.message,
    }


def station_shape(station: BaseStation, sensors: Mapping[StandingState, int]) -> Fields:
    """A base station as `stations list` shows it; `sensors`: how many are in which state there."""
    status, offset_ns = station.status, station.clock_offset_ns
    return {
        "eui": format_eui(station.eui),
        "state": "online" if station.is_connected else "offline",
        "since": station.since_ns / 1e9,
        "address": station.address,
        "name": station.name,
        "vendor": station.vendor,
        "model": station.model,
        "version": station.sw_version,
        "bidi": station.bidi,
        "position": None if station.position is None else list(station.position),
        "sensors": {state: sensors[state] for state in ("confirmed", "pending", "refused")},
        "uplinks": station.uplinks,
        "clock_offset": None if offset_ns is None else offset_ns / 1e9,
        "status": None if status is None else status_fields(status, clock_offset_ns=offset_ns),
        "status_time": None if station.status_ns is None else station.status_ns / 1e9,
    }
