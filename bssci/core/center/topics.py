"""The MQTT vocabulary: names of topics and their JSON bodies.

EUIs are 16 upper-case hexadecimal digits. Times are Unix: `rxTime`, `rxTimeCorrected`,
`rxDuration` and the `time` of a base station in ns, `timestamp`, `since` and `clockOffset` in
seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bssci.core.center.receptions import Sighting, known_eq_snr
from bssci.core.center.registry import position_of, unix_time_ns
from bssci.core.protocol.codec import to_map
from bssci.core.protocol.errors import Code, StorageError
from bssci.core.protocol.eui import format_eui, parse_eui

if TYPE_CHECKING:
    from bssci.core.center.receptions import Heard, Report, Telegram
    from bssci.core.center.registry import BaseStation
    from bssci.core.protocol.messages import StatusResponse, UplinkData

__all__ = [
    "MAX_BASE_TOPIC",
    "Fields",
    "Publication",
    "Topics",
    "encode",
    "report_body",
    "sightings_of",
    "uplink_body",
]

# What a base station says of its configuration may be anything. There are brokers that end a
# connection on which a message of 128 KiB comes.
MAX_CONFIG = 16 * 1024  # octets of JSON

MAX_BASE_TOPIC = 1_024  # octets; MQTT allows 65535 for a whole name, and ours add less than 100

Fields = dict[str, object]

encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode
"""The JSON of a body: compact, and plain ASCII whatever texts are in it."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What goes to the broker; all of ours with QoS 1."""

    topic: str
    body: str
    retain: bool = False


class Topics:
    """The names below one base topic, and what is said under them."""

    def __init__(self, base: str) -> None:
        """
        Raises:
            ValueError: the base topic cannot be part of a name; says why.
        """
        self.base = base.rstrip("/")
        if fault := _fault(self.base):
            raise ValueError(f"base topic {base[:80]!r}: {fault}")

    def uplink(self, ep_eui: int) -> str:
        """Where the uplinks of an end point are published; the body is `uplink_body`."""
        return f"{self.base}/ep/{ep_eui:016X}/ul"

    def report(self, bs_eui: int) -> str:
        """Where a base station's Variable MAC reports are published; the body is `report_body`."""
        return f"{self.base}/bs/{bs_eui:016X}/vm"

    def responses(self, ep_eui: int, *, via_legacy: bool) -> tuple[str, ...]:
        """Where a command to an end point is answered.

        Args:
            via_legacy: it came on a topic of the earlier service, where answers were promised, too.
        """
        ours = f"{self.base}/ep/{format_eui(ep_eui)}/response"
        return (ours, f"EP/{format_eui(ep_eui)}/response") if via_legacy else (ours,)

    def errors(self, name: str, *, via_legacy: bool) -> tuple[str, ...]:
        """Where it is said that a message cannot be followed.

        Args:
            name: the EUI of the end point, or what stood in its place.
            via_legacy: as above; the earlier service has no other topic for it.
        """
        ours = f"{self.base}/ep/{name}/error"
        return (ours, f"EP/{name}/response") if via_legacy else (ours,)

    def downlink_status(self, name: str) -> str:
        """Where it is told what becomes of the downlinks to an end point.

        Args:
            name: as above.
        """
        return f"{self.base}/ep/{name}/dl/status"

    @property
    def settings_response(self) -> str:
        """Where a change of settings is answered."""
        return f"{self.base}/config/response"

    def station_status(
        self, bs_eui: int, status: StatusResponse, *, clock_offset_ns: int | None
    ) -> Publication:
        """How a base station is; tell it when a status arrives."""
        body = status_fields(status, clock_offset_ns=clock_offset_ns)
        return Publication(f"{self.base}/bs/{format_eui(bs_eui)}", encode(body))

    def station_state(self, station: BaseStation) -> Publication:
        """Whether a base station is connected; retained, tell it at each change."""
        body: Fields = {
            "state": _state(is_online=station.is_connected),
            "since": station.since_ns / 1e9,
            "name": station.name,
            "model": station.model,
            "version": station.sw_version,
        }
        topic = f"{self.base}/bs/{format_eui(station.eui)}/state"
        return Publication(topic, encode(body), retain=True)

    def service_state(
        self,
        *,
        is_online: bool,
        version: str,
        now_ns: int,
        certificates: Fields | None = None,
    ) -> Publication:
        """Whether the service is there; retained. As the last will its time is that of the
        connection to the broker, which cannot know a later one.

        Args:
            certificates: `expires_in_days`, and the `alarm` that has passed; None: left out.
        """
        body: Fields = {
            "state": _state(is_online=is_online),
            "version": version,
            "timestamp": now_ns / 1e9,
        }
        if certificates is not None:
            body["certificates"] = certificates
        return Publication(f"{self.base}/state", encode(body), retain=True)

    def health_check(self, *, now_ns: int) -> Publication:
        """That the service is alive; tell it every 300 s."""
        body: Fields = {"status": "alive", "timestamp": now_ns / 1e9}
        return Publication(f"{self.base}/health_check", encode(body))


def _fault(base: str) -> str | None:
    if not base:
        return "it is empty"
    if base.startswith("$"):
        return "names that begin with $ belong to the broker"
    if len(base.encode(errors="replace")) > MAX_BASE_TOPIC:
        return f"it has more than {MAX_BASE_TOPIC} octets"
    bad = next((c for c in base if c in "+#" or not c.isprintable()), None)
    return None if bad is None else f"{bad!r} cannot be part of a topic"


def _state(*, is_online: bool) -> Literal["online", "offline"]:
    return "online" if is_online else "offline"


# --- base stations -------------------------------------------------------------------------


def status_fields(status: StatusResponse, *, clock_offset_ns: int | None) -> Fields:
    """The body of a base station's status, also for listings.

    `time` is in ns, also where firmware sends µs or ms; a number that is no Unix time in any of
    these units stays as it came. `memLoad`, `cpuLoad` and `uptime` are always there, null when the
    base station does not say; the rest is left out then. An empty message says nothing, and
    a `config` of more than 16 KiB is too long to be told.
    """
    fields: Fields = {
        "code": status.code,
        "memLoad": status.mem_load,
        "cpuLoad": status.cpu_load,
        "dutyCycle": status.duty_cycle,
        "time": unix_time_ns(status.time) or status.time,
        "uptime": status.uptime,
    }
    if status.temp is not None:
        fields["temp"] = status.temp
    if status.message:
        fields["message"] = status.message
    if (position := position_of(status.geo_location)) is not None:
        fields["geoLocation"] = position
    if status.config is not None and len(encode(status.config)) <= MAX_CONFIG:
        fields["config"] = status.config
    if clock_offset_ns is not None:
        fields["clockOffset"] = clock_offset_ns / 1e9
    return fields


# --- uplinks -------------------------------------------------------------------------------


def uplink_body(telegram: Telegram, *, uid: str, registered: bool) -> str:
    """The JSON of a telegram.

    Args:
        uid: published as `id`; the same however often the telegram is published.
        registered: whether the end point is one of ours.
    """
    best = telegram.receptions[0]
    uplink = best.reception.uplink
    fields: Fields = {
        "bs_eui": f"{best.reception.bs_eui:016X}",
        "rxTime": uplink.rx_time,
        "snr": uplink.snr,
        "rssi": uplink.rssi,
        "cnt": telegram.packet_cnt,
        "data": [*uplink.user_data],
        "id": uid,
        "format": uplink.format,
        "dlOpen": uplink.dl_open,
        "responseExp": uplink.response_exp,
        "dlAck": uplink.dl_ack,
        "receptions": [_reception(heard) for heard in telegram.receptions],
        "registered": registered,
    }
    _add_known(fields, best, uplink)
    if telegram.counter_reused:
        fields["counterReused"] = True
    return encode(fields)


def _add_known(fields: Fields, best: Heard, uplink: UplinkData) -> None:
    eq_snr = known_eq_snr(uplink)
    if eq_snr is not None:
        fields["eqSnr"] = eq_snr
    if uplink.profile is not None:
        fields["profile"] = uplink.profile
    if uplink.mode is not None:
        fields["mode"] = uplink.mode
    if uplink.rx_duration:  # no telegram takes no time; some firmware sends 0 for unknown
        fields["rxDuration"] = uplink.rx_duration
    if best.rx_time_corrected is not None:
        fields["rxTimeCorrected"] = best.rx_time_corrected


def _reception(heard: Heard) -> Fields:
    uplink = heard.reception.uplink
    fields: Fields = {
        "bs_eui": f"{heard.reception.bs_eui:016X}",
        "rxTime": uplink.rx_time,
        "snr": uplink.snr,
        "rssi": uplink.rssi,
    }
    eq_snr = known_eq_snr(uplink)
    if eq_snr is not None:
        fields["eqSnr"] = eq_snr
    if heard.rx_time_corrected is not None:
        fields["rxTimeCorrected"] = heard.rx_time_corrected
    return fields


def report_body(report: Report, *, uid: str) -> str:
    """The JSON of a Variable MAC report: the fields of `vm.ulData` by their own names.

    Only the user data is called `data`, as in uplinks. `timestamp` is the Unix time at which it
    came, by our clock; `sysTime` is as the base station told it.

    Args:
        uid: published as `id`; the same however often the report is published.
    """
    told = to_map(report.message)
    fields: Fields = {
        "bs_eui": f"{report.bs_eui:016X}",
        **{
            "data" if name == "userData" else name: value
            for name, value in told.items()
            if name not in ("command", "opId")
        },
        "id": uid,
        "timestamp": report.received_ns / 1e9,
    }
    return encode(fields)


def sightings_of(body: str) -> list[Sighting]:
    """The receptions in a stored uplink body, to recall its telegram.

    Raises:
        StorageError: it is not such a body.
    """
    try:
        return [_sighting(reception) for reception in json.loads(body)["receptions"]]
    except (ValueError, LookupError, TypeError) as error:
        raise StorageError(
            f"a stored uplink cannot be read: {error!r} in {body[:80]!r}", code=Code.EIO
        ) from error


def _sighting(reception: dict[str, object]) -> Sighting:
    match reception:
        case {"bs_eui": str(bs_eui), "rxTime": int(rx_time), "rxTimeCorrected": int(corrected)}:
            return Sighting(parse_eui(bs_eui), rx_time, corrected)
        case {"bs_eui": str(bs_eui), "rxTime": int(rx_time)} if "rxTimeCorrected" not in reception:
            return Sighting(parse_eui(bs_eui), rx_time)
    raise ValueError(f"no reception: {reception!r:.80}")
