"""What the monitor knows of the network: what was listed, what happened since, all of it bounded.

Lists and events come in, the views read. What is in a dictionary is replaced, never changed, so
that a copy of the dictionaries is a picture that stays as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BUCKET", "Fields", "Known", "Opened", "Told"]

Fields = dict[str, Any]

MAX_UPLINKS = 5_000  # of a busy network minutes, of a usual one days
MAX_EVENTS = 2_000
MAX_LOADS = 120  # statuses of one base station
BUCKET = 5  # seconds that are counted together for a sparkline
MAX_BUCKETS = 240  # 20 minutes: no terminal is wider

# A telegram says that these are not so any more; what is, the service knows.
_REFUTED = ("never_seen", "warning")

_LOADS = ("cpuLoad", "memLoad", "dutyCycle", "temp")


@dataclass(frozen=True, slots=True)
class Opened:
    """One sensor or base station that is looked at."""

    kind: str
    eui: str


@dataclass(frozen=True, slots=True)
class Told:
    """Something that happened; `number` tells it from all others."""

    number: int
    kind: str
    time: float
    data: Fields


class Known:
    """What the service has said until now.

    Attributes:
        status: as `status.get` gives it; None: it has not said yet.
        stations, sensors: by EUI.
        uplinks: by ID, the newest last.
        events: the newest last.
        downlinks, refused: the newest first.
        loads: what a base station has said of itself, the newest last, by EUI.
        details: of what is opened, by the names of the lists it is made of.
        gone: why the service cannot be reached; empty: it can.
        gone_since: Unix seconds.
        trouble: what the service has refused to say, and why; empty: nothing.
        seen: how many uplinks and events there have been.
        lost: how many events came too fast.
        stale: EUIs of sensors that have to be asked for.
    """

    def __init__(self) -> None:
        self.status: Fields | None = None
        self.stations: dict[str, Fields] = {}
        self.sensors: dict[str, Fields] = {}
        self.uplinks: dict[str, Fields] = {}
        self.events: deque[Told] = deque(maxlen=MAX_EVENTS)
        self.downlinks: list[Fields] = []
        self.refused: list[Fields] = []
        self.loads: dict[str, deque[Fields]] = {}
        self.opened: Opened | None = None
        self.details: Fields = {}
        self.gone = ""
        self.gone_since = 0.0
        self.trouble = ""
        self.seen = 0
        self.lost = 0
        self.stale: set[str] = set()
        self._buckets: dict[int, int] = {}

    def frozen(self) -> Known:
        """What is known now, and stays so."""
        copy = Known()
        copy.__dict__.update(self.__dict__)
        for name, value in vars(self).items():
            if isinstance(value, dict | deque | list | set):
                setattr(copy, name, value.copy())
        return copy

    # --- what is asked for ---

    def take_stations(self, listed: Iterable[Fields]) -> None:
        """All base stations."""
        self.stations = {each["eui"]: each for each in listed}
        self.loads = {eui: self._loads_of(each) for eui, each in self.stations.items()}

    def _loads_of(self, station: Fields) -> deque[Fields]:
        """With the latest, if that is another one than the last."""
        loads = self.loads.get(station["eui"]) or deque(maxlen=MAX_LOADS)
        status, time = station["status"], station.get("status_time")
        if status is None or (loads and loads[-1]["time"] == time):
            return loads
        load = {name: status.get(name) for name in _LOADS}
        load |= {"time": time, "clock_offset": station["clock_offset"]}
        return deque([*loads, load], maxlen=MAX_LOADS)

    def take_sensors(self, listed: Iterable[Fields]) -> None:
        """All sensors, by EUI."""
        self.sensors = {each["eui"]: each for each in listed}
        self.stale.clear()

    def take_sensor(self, eui: str, shape: Fields | None) -> None:
        """One sensor as it is now; None: it is not registered any more."""
        if shape is None:
            self.sensors.pop(eui, None)
        elif eui in self.sensors:
            self.sensors[eui] = shape
        else:
            self.sensors = dict(sorted([*self.sensors.items(), (eui, shape)]))

    def take_latest(self, listed: Sequence[Fields]) -> None:
        """The latest uplinks, the newest first; those that are known already do not count."""
        for uplink in reversed(listed):
            self._add(uplink)

    # --- what happens ---

    def take(self, kind: str, time: float, data: Fields) -> None:
        """An event of the service."""
        match kind:
            case "uplink":
                if self._add(data):
                    self._hear(data)
                    self.seen += 1
                return
            case "gap":
                self.lost += data["lost"]
            case "station" if data["state"] == "status":
                return  # the listing tells it
            case "sensor" | "downlink":
                self.stale.add(data["eui"])
        self.seen += 1
        self.events.append(Told(self.seen, kind, time, data))

    def _add(self, uplink: Fields) -> bool:
        if uplink["id"] in self.uplinks:
            return False
        if len(self.uplinks) >= MAX_UPLINKS:
            del self.uplinks[next(iter(self.uplinks))]
        self.uplinks[uplink["id"]] = uplink
        bucket = int(uplink["received"] // BUCKET)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + len(uplink["receptions"])
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[min(self._buckets)]
        return True

    def _hear(self, uplink: Fields) -> None:
        eui = uplink["sensor_eui"]
        sensor = self.sensors.get(eui)
        if sensor is None or sensor["activity"] in _REFUTED:
            if uplink.get("registered", True):
                self.stale.add(eui)
            if sensor is None:
                return
        self.sensors[eui] = sensor | {
            "last_seen": uplink["received"],
            "last_cnt": uplink["cnt"],
            "snr": uplink["snr"],
            "rssi": uplink["rssi"],
            "uplinks": sensor["uplinks"] + 1,
        }

    def lose(self, reason: str, now: float) -> None:
        """The service cannot be reached."""
        if not self.gone:
            self.gone_since = now
        self.gone = reason

    def find(self) -> None:
        """The service can be reached."""
        self.gone = ""

    # --- questions ---

    def name_of(self, eui: str) -> str:
        """What a sensor or a base station is called; empty: nothing."""
        shape: Mapping[str, Any] = self.sensors.get(eui) or self.stations.get(eui) or {}
        return shape.get("name") or ""

    def uplinks_of(self, eui: str) -> list[Fields]:
        """The latest of a sensor that are remembered, the newest first."""
        return [each for each in reversed(self.uplinks.values()) if each["sensor_eui"] == eui]

    def rates(self, now: float, count: int) -> list[float]:
        """Receptions a second in the last spans of `BUCKET` seconds that are over, oldest first."""
        last = int(now // BUCKET)
        return [self._buckets.get(each, 0) / BUCKET for each in range(last - count, last)]
