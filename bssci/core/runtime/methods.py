"""The table of methods that a running Service Center answers: what the control socket is handed.

`noun.verb`, as on the command line. Sensors have a room of their own; the rest is here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol

from bssci import __version__
from bssci.core.center.rpc import InvalidRequestError, NotFoundError, RequestError
from bssci.core.center.shapes import station_shape
from bssci.core.protocol.errors import BssciError, InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui
from bssci.core.runtime import tls
from bssci.core.runtime.config import KEYS, ConfigError, describe, entry, suggestion

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from bssci.core.center.registry import Registry
    from bssci.core.runtime.approval import Approvals
    from bssci.core.runtime.config import Config
    from bssci.core.runtime.downlinks import Downlinks
    from bssci.core.runtime.life import Life
    from bssci.core.runtime.link import Refusal
    from bssci.core.runtime.over_the_air import OverTheAir
    from bssci.core.runtime.radio import Radio
    from bssci.core.runtime.sensors import Sensors

__all__ = ["Center", "find", "methods", "service_info"]

Fields = dict[str, object]

MAX_LISTED = 10_000  # uplinks in one answer; more are asked for by time


class Center(Protocol):
    """What the methods know of the Service Center."""

    config: Config
    registry: Registry
    life: Life
    sensors: Sensors
    over_the_air: OverTheAir
    downlinks: Downlinks
    radio: Radio
    approvals: Approvals
    refused: Counter[str]

    @property
    def refusals(self) -> Iterable[tuple[float, Refusal]]:
        """Who was refused and when, newest last."""
        ...

    @property
    def since(self) -> float:
        """Unix time of the start."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """What has gone through since the start."""
        ...

    @property
    def published(self) -> int | None:
        """How many uplinks the broker has acknowledged."""
        ...

    def rate(self) -> float:
        """Receptions a second, lately."""
        ...

    async def journal(self) -> Fields:
        """How the journal is doing."""
        ...

    def broker(self) -> Fields:
        """How the broker link is doing."""
        ...

    async def uplinks(
        self, *, ep_eui: int | None = None, since_ns: int = 0, count: int = 100
    ) -> list[Fields]:
        """The newest uplinks."""
        ...

    async def uplink(self, uid: str) -> Fields:
        """One uplink, by its `id`."""
        ...

    def disconnect(self, bs_eui: int) -> bool:
        """End the connection of a base station; False if there is none."""
        ...

    def change_settings(self, values: Mapping[str, object]) -> Fields:
        """Change what is set, in the overlay."""
        ...

    def reload(self, config: Config) -> None:
        """Take a configuration that was read again."""
        ...


def methods(center: Center) -> dict[str, Callable[..., Awaitable[object]]]:
    """What can be asked of a Service Center, by name."""
    sensors, downlinks, own = center.sensors, center.downlinks, _Methods(center)
    table: dict[str, Callable[..., Awaitable[object]]] = {
        "status.get": own.status,
        "sensors.list": sensors.list_,
        "sensors.get": sensors.get,
        "sensors.add": sensors.add,
        "sensors.set": sensors.set,
        "sensors.attach": sensors.attach,
        "sensors.detach": sensors.detach,
        "sensors.remove": sensors.remove,
        "sensors.clear": sensors.clear,
        "sensors.history": sensors.history,
        "sensors.import": sensors.import_,
        "stations.list": own.stations,
        "stations.get": own.station,
        "stations.disconnect": own.disconnect,
        "stations.refused": own.refused,
        **center.radio.methods(),
        **center.approvals.methods(),
        "uplinks.list": own.uplinks,
        "uplinks.get": own.uplink,
        "downlinks.send": downlinks.send_method,
        "downlinks.list": downlinks.list_method,
        "downlinks.cancel": downlinks.cancel_method,
        "certs.status": own.certificates,
        "certs.reload": own.reload_certificates,
        "config.get": own.settings,
        "config.set": own.change_settings,
    }
    return table


class _Methods:
    def __init__(self, center: Center) -> None:
        self._center = center

    # --- status ---

    async def status(self) -> Fields:
        """How everything is doing."""
        center = self._center
        counts = center.counts
        stations = center.registry.base_stations()
        return {
            "version": __version__,
            "uptime": time.time() - center.since,
            "uplinks": {
                "received": counts["received"],
                "duplicates": counts["duplicates"],
                "published": center.published or 0,
                "unregistered": counts["unregistered"],
                "rate": round(center.rate(), 3),
            },
            "journal": await center.journal(),
            "stations": {
                "online": sum(station.is_connected for station in stations),
                "known": len(stations),
            },
            "sensors": await center.sensors.counts(),
            "over_the_air": center.over_the_air.counts(),
            "downlinks": center.downlinks.counts(),
            "mqtt": center.broker(),
            "certificates": {"expires_in_days": self._days_left()},
            "refused": dict(center.refused),
        }

    def _days_left(self) -> int | None:
        days = [each["days"] for each in self._certificates() if isinstance(each["days"], int)]
        return min(days, default=None)

    # --- base stations ---

    async def stations(self) -> list[Fields]:
        """All base stations that are known, by EUI."""
        lifecycle = self._center.life.lifecycle
        return [
            station_shape(station, lifecycle.counts(station.eui))
            for station in self._center.registry.base_stations()
        ]

    async def station(self, *, eui: str) -> Fields:
        """One base station."""
        bs_eui = self.find(eui)
        station = self._center.registry.base_station(bs_eui)
        assert station is not None
        return station_shape(station, self._center.life.lifecycle.counts(bs_eui))

    async def disconnect(self, *, eui: str) -> Fields:
        """End the connection of a base station; it may come back at once."""
        bs_eui = self.find(eui)
        if not self._center.disconnect(bs_eui):
            raise RequestError(
                f"base station {format_eui(bs_eui)} is not connected",
                hint="`bssci stations list` shows which are",
            )
        return {"eui": format_eui(bs_eui)}

    async def refused(self) -> list[Fields]:
        """Who knocked and was not let in, newest first; the same one for the same reason once."""
        shown: dict[tuple[object, ...], Fields] = {}
        for when, refusal in self._center.refusals:
            peer = refusal.peer
            key = (refusal.reason, peer.address, refusal.bs_eui, peer.fingerprint)
            count = shown.pop(key, {"count": 0})["count"]
            assert isinstance(count, int)
            shown[key] = {
                "time": when,
                "address": peer.address,
                "reason": refusal.reason,
                "eui": None if refusal.bs_eui is None else format_eui(refusal.bs_eui),
                "certificate": None
                if peer.fingerprint is None
                else {"subject": peer.subject, "fingerprint": peer.fingerprint},
                "detail": refusal.detail,
                "count": count + 1,
            }
        return list(reversed(shown.values()))

    def find(self, text: str) -> int:
        """The base station that an EUI or a name means."""
        stations = self._center.registry.base_stations()
        try:
            found = [each.eui for each in stations if each.eui == parse_eui(text)]
        except InvalidEuiError:
            name = text.strip().casefold()
            found = [each.eui for each in stations if name and (each.name or "").casefold() == name]
        if len(found) == 1:
            return found[0]
        if found:
            euis = ", ".join(map(format_eui, found[:5]))
            raise InvalidRequestError(
                f"{len(found)} base stations are named {text[:64]!r}", hint=f"Give the EUI: {euis}"
            )
        raise NotFoundError(
            f"base station {text.strip()[:64] or repr(text[:64])} is not known",
            hint="`bssci stations list` shows those that are, `bssci stations refused` who was "
            "not let in",
        )

    # --- uplinks ---

    async def uplinks(
        self,
        *,
        sensor: str | None = None,
        station: str | None = None,
        since: float | None = None,
        count: int = 100,
    ) -> list[Fields]:
        """The newest uplinks, newest first."""
        if not 0 < count <= MAX_LISTED:
            raise InvalidRequestError(f"count: found {count}, 1 to {MAX_LISTED} are possible")
        center = self._center
        found = await center.uplinks(
            ep_eui=None if sensor is None else self._heard(sensor),
            since_ns=0 if since is None else int(min(max(since, 0), 9e9) * 1e9),
            count=count if station is None else MAX_LISTED,
        )
        if station is None:
            return found
        bs_eui = format_eui(self.find(station))
        return [each for each in found if _is_heard_by(each, bs_eui)][:count]

    async def uplink(self, *, id: str) -> Fields:  # noqa: A002  # as it is published
        """One uplink, by the `id` under which it is published."""
        return await self._center.uplink(id)

    def _heard(self, text: str) -> int:
        """Also an end point that is not registered may have been heard."""
        try:
            return parse_eui(text)
        except InvalidEuiError:
            return self._center.sensors.find(text)

    # --- certificates ---

    async def certificates(self) -> list[Fields]:
        """The certificates in use and until when they are valid."""
        return self._certificates()

    def _certificates(self) -> list[Fields]:
        files = self._center.config.tls
        came: dict[str, list[str]] = {}
        for station in self._center.registry.base_stations():
            if station.issuer is not None:
                came.setdefault(station.issuer, []).append(format_eui(station.eui))
        return tls.certificate_facts(files.cert_file, files.ca_file, came=came)

    async def reload_certificates(self) -> list[Fields]:
        """Read the certificates again; the next connection gets them."""
        try:
            self._center.reload(self._center.config)
        except BssciError as error:
            raise RequestError(f"not reloaded, nothing is changed: {error}") from error
        return self._certificates()

    # --- settings ---

    async def settings(self, *, key: str | None = None) -> list[Fields]:
        """What is set, and where each value comes from."""
        if key is not None and key not in KEYS:
            raise NotFoundError(f"{key[:64]} is no setting{suggestion(key, KEYS)}")
        shown = [entry(*each) for each in describe(self._center.config)]
        return [each for each in shown if key in (None, each["key"])]

    async def change_settings(self, *, values: dict[str, object]) -> Fields:
        """Change what is set; null takes back what was set here."""
        try:
            return self._center.change_settings(values)
        except (ConfigError, tls.CertificateError) as error:
            raise InvalidRequestError(str(error)) from error


def _is_heard_by(uplink: Fields, bs_eui: str) -> bool:
    receptions = uplink["receptions"]
    assert isinstance(receptions, list)
    return any(each["bs_eui"] == bs_eui for each in receptions)


def service_info(described: object, config: Config) -> Fields:
    """Which program this is, and what it can be asked: its methods, described."""
    return {
        "version": __version__,
        "pid": os.getpid(),
        "config_file": None if config.file is None else str(config.file),
        "socket": str(config.control.socket),
        "methods": described,
    }


def find(center: Center, kind: str, text: str) -> int:
    """The EUI of the sensor or base station that a text means, registered or not.

    Raises:
        RequestError: it is no EUI, and none or several have that name.
    """
    try:
        return parse_eui(text)
    except InvalidEuiError:
        return center.sensors.find(text) if kind == "sensor" else _Methods(center).find(text)
