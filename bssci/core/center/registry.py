"""End points and base stations as known now: who is connected, whose clock is how far off, who
usually hears whom.

Clocks and coverage are learned again within a few telegrams and one status; what a base station
said of itself is remembered as a `StationRecord`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from statistics import median_low
from typing import TYPE_CHECKING

from bssci.core.center.records import StationRecord
from bssci.core.protocol.messages import Connect
from bssci.core.protocol.resume import VERSION

if TYPE_CHECKING:
    from bssci.core.center.receptions import Telegram
    from bssci.core.protocol.messages import StatusResponse

__all__ = ["BaseStation", "Registry", "position_of", "unix_time_ns"]

CLOCK_SAMPLES = 5
# Statuses whose clock errors are kept. Their median does without the two that were slowest on
# their way; at the usual interval it lags 10 minutes behind, in which a free-running clock of the
# worst kind drifts some milliseconds.

CLOCK_STEP = 1_000_000_000
# ns. A clock error that differs by more than this, and by more than its own uncertainty, means
# that a clock was set: what was learned before is void.

TELEGRAMS = 8
# How many of its last telegrams say who usually hears an end point.

MIN_TELEGRAMS = 2
# Before so many nothing is said: the first telegram may have been heard anywhere.

MAX_SHARED = 4_096
# Sets of base stations that are shared among end points, to save memory.

_NOBODY: frozenset[int] = frozenset()

# What becomes of the octet of a base station when another telegram comes, and how many it heard.
_SHIFTED = bytes(octet << 1 & 0xFF for octet in range(256))
_COUNT = bytes(octet.bit_count() for octet in range(256))


def unix_time_ns(time: int) -> int | None:
    """A Unix time in ns, from a number that some firmware sends in µs or ms; None: no such time.

    >>> unix_time_ns(1756625812082000)
    1756625812082000000
    """
    for lowest, factor in ((10**18, 1), (10**15, 1_000), (10**12, 1_000_000)):
        if lowest <= time < 10 * lowest:
            return time * factor
    return None


def position_of(geo_location: tuple[float, ...] | None) -> tuple[float, float, float] | None:
    """Latitude and longitude in degrees, altitude in metres; None where there is no fix.

    A receiver without a fix reports zeros, not nothing.
    """
    if geo_location is None:
        return None
    latitude, longitude, altitude = geo_location
    if latitude == longitude == 0 or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return latitude, longitude, altitude


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseStation:
    """A base station as known now.

    Attributes:
        since_ns: Unix time since which it is connected, or is not.
        issuer: SHA-256 of the authority that its certificate came from when it was last connected;
            None: unknown.
        position: latitude and longitude in degrees, altitude in metres; None: never had a fix.
        uplinks: receptions it has reported, copies included.
        clock_offset_ns: by how much its clock is ahead of ours; None: unknown.
        status: the last one it sent; `status_ns` is the Unix time of its arrival.
    """

    eui: int
    is_connected: bool
    since_ns: int
    address: str | None
    name: str | None
    vendor: str | None
    model: str | None
    sw_version: str | None
    bidi: bool
    position: tuple[float, float, float] | None
    uplinks: int
    clock_offset_ns: int | None
    status: StatusResponse | None
    status_ns: int | None
    issuer: str | None = None


class _Station:
    """What is kept of a base station."""

    __slots__ = (
        "address",
        "connect",
        "is_connected",
        "is_recalled",
        "issuer",
        "offsets",
        "position",
        "since_ns",
        "status",
        "status_ns",
        "uplinks",
    )

    def __init__(self, connect: Connect) -> None:
        self.connect = connect
        self.is_connected = False
        self.is_recalled = False
        """All that is known of it comes from an earlier process."""
        self.since_ns = 0
        self.address: str | None = None
        self.issuer: str | None = None
        self.position: tuple[float, float, float] | None = None
        self.uplinks = 0
        self.offsets: deque[int] = deque(maxlen=CLOCK_SAMPLES)
        self.status: StatusResponse | None = None
        self.status_ns: int | None = None


class _Coverage:
    """Who heard the last telegrams of an end point."""

    __slots__ = ("masks", "packet_cnt", "stations", "telegrams", "usual")

    def __init__(self) -> None:
        self.telegrams = 0
        """How many are known, up to `TELEGRAMS`."""
        self.packet_cnt = -1
        """Of the last one."""
        self.stations: tuple[int, ...] = ()
        self.masks = b""
        """An octet for each of the stations; its lowest bit is the last telegram."""
        self.usual: frozenset[int] = frozenset()


class Registry:
    """Who is there, and what was learned about them. It is told everything and asks nothing.

    Attributes:
        connected: the base stations that are connected now.
    """

    def __init__(self, *, max_base_stations: int = 10_000, max_end_points: int = 200_000) -> None:
        """Beyond the bounds, those are forgotten that are away or were not heard for longest.

        Connected base stations are never forgotten.
        """
        self.connected: frozenset[int] = frozenset()
        self._max_base_stations = max_base_stations
        self._max_end_points = max_end_points
        self._stations: dict[int, _Station] = {}
        self._away: OrderedDict[int, None] = OrderedDict()
        self._clock_offsets: dict[int, int] = {}
        self._coverage: OrderedDict[int, _Coverage] = OrderedDict()
        self._station_sets: dict[frozenset[int], frozenset[int]] = {}
        self._station_tuples: dict[tuple[int, ...], tuple[int, ...]] = {}

    # --- base stations ---

    def station_connected(
        self,
        connect: Connect,
        *,
        since_ns: int,
        address: str | None = None,
        issuer: str | None = None,
    ) -> None:
        """A base station is connected (`conCmp`); `since_ns` is Unix time."""
        bs_eui = connect.bs_eui
        station = self._stations.setdefault(bs_eui, _Station(connect))
        station.connect = replace(connect, info=None)  # may be anything, of any size
        station.is_connected, station.is_recalled = True, False
        station.since_ns = since_ns
        station.address = address
        station.issuer = issuer
        station.position = position_of(connect.geo_location) or station.position
        self.connected |= {bs_eui}
        self._away.pop(bs_eui, None)
        if not station.offsets:
            self._clock_offsets.pop(bs_eui, None)
        self._forget_base_stations()

    def station_disconnected(self, bs_eui: int, *, since_ns: int) -> None:
        """Its connection has ended, and no newer one has taken its place."""
        station = self._stations.get(bs_eui)
        if station is None or not station.is_connected:
            return
        station.is_connected = False
        station.since_ns = since_ns
        self.connected -= {bs_eui}
        self._away[bs_eui] = None
        self._forget_base_stations()

    def status_received(
        self, bs_eui: int, status: StatusResponse, *, sent_ns: int, received_ns: int
    ) -> None:
        """Learn from the answer to a status request: position, and how far off the clock is.

        Args:
            sent_ns, received_ns: Unix times of the request and of the answer.
        """
        station = self._stations.get(bs_eui)
        if station is None:
            return
        station.status = replace(status, config=None)  # may be anything, of any size
        station.status_ns = received_ns
        station.position = position_of(status.geo_location) or station.position
        time_ns = unix_time_ns(status.time)
        if time_ns is not None:
            halfway_ns = (sent_ns + received_ns) // 2
            self._learn_clock(station, time_ns - halfway_ns, abs(received_ns - sent_ns) // 2)

    def uplink_received(self, bs_eui: int) -> None:
        """Count a reception that this base station reported."""
        station = self._stations.get(bs_eui)
        if station is not None:
            station.uplinks += 1

    def clock_offset(self, bs_eui: int) -> int | None:
        """By how many ns this base station's clock is ahead of ours; None: unknown."""
        return self._clock_offsets.get(bs_eui)

    def recall_clock(self, bs_eui: int, offset_ns: int) -> None:
        """Take the clock error that an earlier process knew, until the base station connects.

        With it, journal rows that are read back are judged as they were when they came.
        """
        station = self._stations.get(bs_eui)
        if station is not None and not station.is_recalled:
            return
        if len(self._clock_offsets) < self._max_base_stations:
            self._clock_offsets[bs_eui] = offset_ns

    def recall_station(self, record: StationRecord) -> None:
        """Take what an earlier process knew of a base station, until it connects."""
        if record.bs_eui in self._stations:
            return
        station = self._stations[record.bs_eui] = _Station(
            Connect(
                version=VERSION,
                bs_eui=record.bs_eui,
                vendor=record.vendor,
                model=record.model,
                name=record.name,
                sw_version=record.sw_version,
                bidi=record.bidi,
                sn_bs_uuid=bytes(16),
            )
        )
        station.is_recalled = True
        station.since_ns = record.since_ns
        station.address = record.address
        station.position = record.position
        station.uplinks = record.uplinks
        self._away[record.bs_eui] = None
        self._forget_base_stations()

    def record(self, bs_eui: int, session: bytes) -> StationRecord:
        """What is worth remembering of a base station that was connected in this session.

        Raises:
            KeyError: it is not known.
        """
        station = self._stations[bs_eui]
        connect = station.connect
        return StationRecord(
            bs_eui=bs_eui,
            session=session,
            since_ns=station.since_ns,
            address=station.address,
            name=connect.name,
            vendor=connect.vendor,
            model=connect.model,
            sw_version=connect.sw_version,
            bidi=connect.bidi,
            position=station.position,
            uplinks=station.uplinks,
        )

    def base_station(self, bs_eui: int) -> BaseStation | None:
        """A base station that is or was connected; None: not known."""
        station = self._stations.get(bs_eui)
        return None if station is None else self._shown(station)

    def base_stations(self) -> list[BaseStation]:
        """All that are known, by EUI."""
        return [self._shown(station) for _, station in sorted(self._stations.items())]

    def _shown(self, station: _Station) -> BaseStation:
        connect = station.connect
        return BaseStation(
            eui=connect.bs_eui,
            is_connected=station.is_connected,
            since_ns=station.since_ns,
            address=station.address,
            name=connect.name,
            vendor=connect.vendor,
            model=connect.model,
            sw_version=connect.sw_version,
            bidi=connect.bidi,
            position=station.position,
            uplinks=station.uplinks,
            clock_offset_ns=self.clock_offset(connect.bs_eui),
            status=station.status,
            status_ns=station.status_ns,
            issuer=station.issuer,
        )

    def _learn_clock(self, station: _Station, offset_ns: int, uncertainty_ns: int) -> None:
        offsets = station.offsets
        if offsets and uncertainty_ns > CLOCK_STEP:
            return
        if offsets and abs(offset_ns - median_low(offsets)) > CLOCK_STEP + uncertainty_ns:
            offsets.clear()
        offsets.append(offset_ns)
        self._clock_offsets[station.connect.bs_eui] = median_low(offsets)

    def _forget_base_stations(self) -> None:
        while self._away and len(self._stations) > self._max_base_stations:
            bs_eui, _ = self._away.popitem(last=False)
            del self._stations[bs_eui]
            self._clock_offsets.pop(bs_eui, None)

    # --- end points ---

    def heard(self, telegram: Telegram) -> None:
        """Learn from a released telegram who hears its end point."""
        coverage = self._covered(telegram.ep_eui)
        coverage.packet_cnt = telegram.packet_cnt
        self._mark(
            coverage,
            coverage.masks.translate(_SHIFTED),
            [heard.reception.bs_eui for heard in telegram.receptions],
            min(coverage.telegrams + 1, TELEGRAMS),
        )

    def heard_late(self, ep_eui: int, packet_cnt: int, bs_eui: int) -> None:
        """Learn from a late copy that this base station hears the end point, too.

        Only copies that were worth waiting for should be told. Of a telegram other than the last
        nothing is learned.
        """
        coverage = self._coverage.get(ep_eui)
        if coverage is not None and coverage.packet_cnt == packet_cnt:
            self._mark(coverage, coverage.masks, [bs_eui], coverage.telegrams)

    def usual_receivers(self, ep_eui: int) -> frozenset[int]:
        """The base stations that usually hear this end point, connected or not.

        Those that heard at least half of its last telegrams, or its only one. Empty: not known.
        """
        coverage = self._coverage.get(ep_eui)
        if coverage is None:
            return _NOBODY
        return coverage.usual or frozenset(coverage.stations)

    def expected_receivers(self, ep_eui: int) -> frozenset[int]:
        """The connected base stations whose receptions of this end point are worth waiting for.

        These are the ones that heard at least half of its last eight telegrams; where only one
        base station is connected, that one. Empty: not known, fewer than two telegrams were heard.
        """
        connected = self.connected
        if len(connected) == 1:
            return connected
        coverage = self._coverage.get(ep_eui)
        if coverage is None:
            return _NOBODY
        usual = coverage.usual
        return usual if usual <= connected else usual & connected

    def _covered(self, ep_eui: int) -> _Coverage:
        coverage = self._coverage.get(ep_eui)
        if coverage is None:
            coverage = self._coverage[ep_eui] = _Coverage()
            if len(self._coverage) > self._max_end_points:
                self._coverage.popitem(last=False)
        else:
            self._coverage.move_to_end(ep_eui)
        return coverage

    def _mark(
        self, coverage: _Coverage, shifted: bytes, heard_by: list[int], telegrams: int
    ) -> None:
        stations = coverage.stations
        masks = bytearray(shifted)
        for bs_eui in heard_by:
            if bs_eui in stations:
                masks[stations.index(bs_eui)] |= 1
            else:
                stations += (bs_eui,)
                masks.append(1)
        if masks == coverage.masks and telegrams == coverage.telegrams:
            return  # the usual case: the same base stations as ever
        if 0 in masks:
            stations = tuple(s for s, mask in zip(stations, masks, strict=True) if mask)
            masks = masks.replace(b"\0", b"")
        coverage.telegrams = telegrams
        coverage.stations = self._shared_tuple(stations)
        coverage.masks = bytes(masks)
        coverage.usual = self._usual(coverage)

    def _usual(self, coverage: _Coverage) -> frozenset[int]:
        if coverage.telegrams < MIN_TELEGRAMS:
            return _NOBODY
        counts = zip(coverage.stations, coverage.masks.translate(_COUNT), strict=True)
        usual = frozenset(bs for bs, count in counts if 2 * count >= coverage.telegrams)
        if len(self._station_sets) >= MAX_SHARED:
            self._station_sets.clear()
        return self._station_sets.setdefault(usual, usual)

    def _shared_tuple(self, stations: tuple[int, ...]) -> tuple[int, ...]:
        if len(self._station_tuples) >= MAX_SHARED:
            self._station_tuples.clear()
        return self._station_tuples.setdefault(stations, stations)
