"""A simulated radio network: sensors on a plane, and what each base station hears of them.

Pure and repeatable: one seed gives the same telegrams at the same moments with the same reception
values, whoever asks and when. `sim`, `demo`, tests and benchmarks take their telegrams from here:

    network = SimulatedNetwork(stations=3, sensors=20, rate=2.0, seed=1)
    for telegram in network.telegrams(start_ns=time.time_ns()):
        for reception in telegram.receptions: ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from bssci.core.protocol.messages import Subpackets, UplinkData

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "Reception",
    "SimulatedNetwork",
    "SimulatedSensor",
    "SimulatedStation",
    "Telegram",
    "subpacket_count",
]

# Locally administered, so that no real device has them; the digits say B5 = BS, E9 = EP.
FIRST_STATION_EUI = 0x02000000B5000001
FIRST_SENSOR_EUI = 0x02000000E9000001

# One base station for each square of this side: most telegrams are heard by several.
SPACING = 4.0  # km

# Where the lower left corner of the plane is.
ORIGIN = (48.10, 11.50)  # degrees
KM_PER_DEGREE = 111.2

TRANSMIT_POWER = 14.0  # dBm
LOSS_AT_1_KM, LOSS_PER_DECADE = 120.0, 35.0  # dB
SHADOWING, FADING = 5.0, 4.0  # dB, per pair of places and per telegram
NOISE = -126.0  # dBm
WEAKEST = -6.0  # dB SNR that is still decoded

# Between the centers of two subpackets: 31 of them last 4867321436 ns at a real base station.
SUBPACKET_PITCH = 162_244_048  # ns
CHANNEL = 868_130_000.0  # Hz
CARRIER_SPACING = 2380.371  # Hz
CARRIERS = 24

# A clock that has never been set starts in December 2022; real base stations run like that.
YEARS_OFF = -85_443_199_404_359_000  # ns

# Bytes of user data and the format they go with, as seen in the field.
KINDS = ((17, 0), (11, 192), (10, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedStation:
    """A base station; `x` and `y` in km."""

    index: int
    eui: int
    name: str
    x: float
    y: float
    clock_error_ns: int
    """Positive when its clock is ahead."""
    delay: float
    """Seconds from the end of a telegram until it begins to send it to the Service Center."""

    @property
    def geo_location(self) -> tuple[float, float, float]:
        """Latitude and longitude in degrees, altitude in metres."""
        latitude, longitude = ORIGIN
        shrink = math.cos(math.radians(latitude))
        return (
            round(latitude + self.y / KM_PER_DEGREE, 5),
            round(longitude + self.x / KM_PER_DEGREE / shrink, 5),
            520.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSensor:
    """An end point; `x` and `y` in km."""

    index: int
    eui: int
    short_address: int
    key: bytes = field(repr=False)
    """Its network key: to register it with."""
    x: float
    y: float
    bidi: bool
    size: int
    """Bytes of user data."""
    format: int


@dataclass(frozen=True, slots=True)
class Reception:
    """A telegram as one base station heard it.

    Attributes:
        station: index of the base station.
        arrival: seconds since the start when it is sent to the Service Center.
        uplink: what is sent, without operation ID.
    """

    station: int
    arrival: float
    uplink: UplinkData


@dataclass(frozen=True, slots=True)
class Telegram:
    """A sensor has sent something.

    Attributes:
        number: 1, 2, …
        at: seconds since the start when its last subpacket was on the air.
        sensor: index of the sensor.
        receptions: by whom it was heard, at least one, the earliest arrival first.
    """

    number: int
    at: float
    sensor: int
    receptions: tuple[Reception, ...]


class SimulatedNetwork:
    """Base stations and sensors on a plane that grows with the number of base stations.

    Attributes:
        stations: the base stations, by index.
        sensors: the sensors, by index.
    """

    def __init__(
        self,
        *,
        stations: int = 3,
        sensors: int = 20,
        rate: float = 2.0,
        seed: int = 0,
        skew: bool = False,
        station_euis: Sequence[int] = (),
        with_subpackets: bool = True,
    ) -> None:
        """Put everything in its place.

        Args:
            stations: how many.
            sensors: how many.
            rate: telegrams a second, of all sensors together.
            seed: what makes this network differ from others.
            skew: clocks are wrong by seconds, and one by years, instead of milliseconds.
            station_euis: of the first stations, instead of our own numbers.
            with_subpackets: the values of each subpacket are reported, as some firmware does.
        """
        if stations < 1 or sensors < 1 or not rate > 0:
            raise ValueError("a network has at least one station, one sensor and a rate above 0")
        self._rate = rate
        self._seed = seed
        self._with_subpackets = with_subpackets
        rng = Random(f"{seed} places")
        columns = math.ceil(math.sqrt(stations))
        side = SPACING * math.sqrt(stations)
        self.stations = tuple(
            SimulatedStation(
                index=index,
                eui=station_euis[index] if index < len(station_euis) else FIRST_STATION_EUI + index,
                name=f"simulated {index + 1}",
                x=(index % columns + rng.uniform(0.3, 0.7)) * side / columns,
                y=(index // columns + rng.uniform(0.3, 0.7)) * side / columns,
                clock_error_ns=_clock_error(rng, skew=skew, is_last=index == stations - 1),
                delay=rng.choice((0.01, 0.03, 0.05, 0.1, 0.3)) * rng.uniform(0.8, 1.2),
            )
            for index in range(stations)
        )
        self.sensors = tuple(_sensor(rng, index, side) for index in range(sensors))
        self._in_reach = [self._reach(rng, sensor) for sensor in self.sensors]

    def telegrams(self, *, start_ns: int = 0) -> Iterator[Telegram]:
        """Telegrams without end, in the order in which they are on the air.

        Args:
            start_ns: Unix time of the start; what the base stations' clocks go by.
        """
        rng = Random(f"{self._seed} telegrams")
        counters = [rng.randrange(5000) for _ in self.sensors]
        at, number = 0.0, 0
        while True:
            number += 1
            at += rng.expovariate(self._rate)
            sensor = rng.choice(self.sensors)
            counters[sensor.index] += 1
            yield Telegram(
                number,
                at,
                sensor.index,
                self._receptions(rng, sensor, counters[sensor.index], at, start_ns),
            )

    def _reach(self, rng: Random, sensor: SimulatedSensor) -> list[tuple[SimulatedStation, float]]:
        """The base stations that may hear a sensor, the best first, and how loud, in dBm."""
        found = []
        for station in self.stations:
            distance = max(0.03, math.hypot(station.x - sensor.x, station.y - sensor.y))
            loss = LOSS_AT_1_KM + LOSS_PER_DECADE * math.log10(distance)
            level = TRANSMIT_POWER - loss
            if level > NOISE + WEAKEST - 3 * FADING:
                found.append((station, level + rng.gauss(0.0, SHADOWING)))
        if not found:
            nearest = min(
                self.stations, key=lambda each: math.hypot(each.x - sensor.x, each.y - sensor.y)
            )
            found = [(nearest, NOISE)]
        return sorted(found, key=lambda each: -each[1])

    def _receptions(
        self, rng: Random, sensor: SimulatedSensor, packet_cnt: int, at: float, start_ns: int
    ) -> tuple[Reception, ...]:
        dl_open = sensor.bidi and rng.random() < 0.5
        said = UplinkData(
            ep_eui=sensor.eui,
            rx_time=start_ns + round(at * 1e9),
            rx_duration=SUBPACKET_PITCH * (subpacket_count(sensor.size, sensor.format) - 1),
            packet_cnt=packet_cnt,
            snr=0.0,
            rssi=0.0,
            profile="eu868",
            mode="ulp",
            user_data=_user_data(rng, sensor, packet_cnt),
            format=sensor.format,
            dl_open=dl_open,
            response_exp=dl_open and rng.random() < 0.2,
            dl_ack=False,
        )
        found = [
            Reception(
                station.index,
                at + station.delay * rng.uniform(0.8, 1.2),
                self._heard(rng, said, station, rssi),
            )
            for station, rssi in self._levels(rng, sensor)
        ]
        return tuple(sorted(found, key=lambda reception: reception.arrival))

    def _levels(self, rng: Random, sensor: SimulatedSensor) -> list[tuple[SimulatedStation, float]]:
        """Who hears this telegram, and how loud; the best one always does."""
        reach = self._in_reach[sensor.index]
        levels = [(station, level + rng.gauss(0.0, FADING)) for station, level in reach]
        heard = [(station, level) for station, level in levels if level >= NOISE + WEAKEST]
        return heard or [(reach[0][0], NOISE + WEAKEST)]

    def _heard(
        self, rng: Random, said: UplinkData, station: SimulatedStation, rssi: float
    ) -> UplinkData:
        jitter = rng.randrange(-500_000, 500_001)
        return replace(
            said,
            rx_time=said.rx_time + station.clock_error_ns + jitter,
            snr=_fraction(rssi - NOISE),
            rssi=_fraction(rssi),
            eq_snr=_fraction(rssi - NOISE - rng.uniform(0.0, 1.5)),
            subpackets=self._subpackets(rng, said, rssi),
        )

    def _subpackets(self, rng: Random, said: UplinkData, rssi: float) -> Subpackets | None:
        if not self._with_subpackets:
            return None
        count = subpacket_count(len(said.user_data), said.format)
        levels = [rssi + 3.0 * (rng.random() - 0.5) for _ in range(count)]
        if rng.random() < 0.1:
            # The first one of a real report can be far off.
            levels[0] -= 45.0
        offset = rng.uniform(-300.0, 300.0)
        return Subpackets(
            snr=tuple(_fraction(level - NOISE) for level in levels),
            rssi=tuple(map(_fraction, levels)),
            frequency=tuple(
                round((CHANNEL + offset + CARRIER_SPACING * rng.randrange(CARRIERS)) * 32) / 32
                for _ in levels
            ),
            phase=tuple(_fraction(360.0 * rng.random() - 180.0) for _ in levels),
        )


def subpacket_count(size: int, format_: int) -> int:
    """How many subpackets a telegram has, by its bytes of user data and its format."""
    return 24 + max(0, size + (format_ != 0) - 10)


def _clock_error(rng: Random, *, skew: bool, is_last: bool) -> int:
    drawn = rng.uniform(-1.0, 1.0)
    if not skew:
        return round(drawn * 5e6)
    return YEARS_OFF if is_last else round(drawn * 3e9)


def _sensor(rng: Random, index: int, side: float) -> SimulatedSensor:
    size, format_ = KINDS[index % len(KINDS)]
    eui = FIRST_SENSOR_EUI + index
    return SimulatedSensor(
        index=index,
        eui=eui,
        short_address=eui & 0xFFFF,
        key=rng.randbytes(16),
        x=rng.uniform(0.0, side),
        y=rng.uniform(0.0, side),
        bidi=index % 3 == 1,
        size=size,
        format=format_,
    )


def _user_data(rng: Random, sensor: SimulatedSensor, packet_cnt: int) -> bytes:
    """Temperature, humidity, battery, and what else a sensor has to say."""
    phase = packet_cnt / 40 + sensor.index
    temperature = round(200 + 60 * math.sin(phase) + rng.uniform(-5.0, 5.0))
    humidity = round(90 + 40 * math.cos(phase) + rng.uniform(-3.0, 3.0))
    battery = 3600 - packet_cnt % 600
    head = b"\x10" + temperature.to_bytes(2, "big", signed=True) + bytes((humidity,))
    return (head + battery.to_bytes(2, "big") + rng.randbytes(sensor.size))[: sensor.size]


def _fraction(value: float) -> float:
    """As receivers report it: exact in single precision."""
    return round(value * 64) / 64
