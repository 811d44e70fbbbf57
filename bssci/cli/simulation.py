"""A simulated network brought to life: its base stations talk to a Service Center over real TLS.

`simulate` plays the telegrams of a `SimulatedNetwork` in real time through real base-station
sessions, with the faults asked for. What happens is told to a callback; what came of it is counted
in `Totals`.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Literal, get_args

import trio

from bssci.core.protocol.errors import OperationLostError, OperationRefusedError
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.events import Withdrawn
from bssci.core.protocol.messages import (
    DownlinkDataQueue,
    DownlinkDataResult,
    Message,
    StatusResponse,
    UplinkData,
)
from bssci.core.runtime.deliveries import Delivery
from bssci.core.runtime.holdings import Holdings
from bssci.core.runtime.station import Connector, Identity, Station, StationSettings, open_station
from bssci.core.runtime.station_events import Offline, Online, Request, StationEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bssci.cli.network import Reception, SimulatedNetwork, SimulatedStation, Telegram

__all__ = ["FAULTS", "Fault", "FaultyStream", "Happening", "Totals", "simulate"]

Fault = Literal["disconnect", "split", "dup", "skew", "slow"]

FAULTS: tuple[Fault, ...] = get_args(Fault)
"""What can go wrong. `skew` is a matter of the network: `SimulatedNetwork(skew=True)`."""

Happening = dict[str, object]
"""Something that happened: `event` says what, `time` when (Unix, s); the rest depends on it."""

# Real base stations come back at once; ours do nearly.
SETTINGS = StationSettings(reconnect_min=0.5, reconnect_max=10.0, buffer=4096)

# Connects under way at once: no Service Center takes us for an attack, and each is done in time.
CONNECTS = 32

BETWEEN_CUTS = 15.0  # seconds on average that a connection lasts with `disconnect`
DUPLICATES = 0.1  # share of receptions that are said twice with `dup`
PIECES = 40  # bytes at most in one write with `split`
SLOW_READ, SLOW_PAUSE = 64, 0.02  # bytes at a time and seconds in between with `slow`

# From the end of an uplink to its downlink.
WINDOW = 1.5  # seconds

# How long at the end the answers to what was sent are waited for.
GRACE = 10.0  # seconds


@dataclass(slots=True)
class Totals:
    """What came of a simulation."""

    telegrams: int = 0
    receptions: int = 0
    """Telegrams times the base stations that heard each."""
    duplicated: int = 0
    """Receptions that were said once more."""
    acknowledged: int = 0
    refused: int = 0
    unanswered: int = 0
    """Neither acknowledged nor refused when the simulation ended."""
    dropped: int = 0
    """Heard while the base station had no room left."""
    downlinks: int = 0
    """Sent in a window."""
    connects: int = 0
    reconnects: int = 0
    resumed: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name, for JSON."""
        return asdict(self)


async def simulate(
    network: SimulatedNetwork,
    connector: Callable[[SimulatedStation], Connector],
    *,
    faults: frozenset[Fault] = frozenset(),
    seed: int = 0,
    seconds: float = math.inf,
    grace: float = GRACE,
    tell: Callable[[Happening], None] | None = None,
    totals: Totals | None = None,
    settings: StationSettings = SETTINGS,
) -> Totals:
    """Play a network until its time is up, or until cancelled; what came of it.

    Args:
        network: what is played.
        connector: for each base station, what opens a connection to the Service Center.
        faults: what goes wrong.
        seed: of the faults; the network has its own.
        seconds: how long sensors send. Then answers are waited for, `grace` seconds at most.
        tell: gets what happens, as it happens; may not wait or raise.
        totals: counted into, to be looked at meanwhile or after a cancellation.
        settings: of the base stations.
    """
    totals = Totals() if totals is None else totals
    play = _Play(network, faults, seed, tell or _ignore, totals, settings)
    try:
        async with trio.open_nursery() as nursery:
            for site in network.stations:
                await nursery.start(play.host, site, connector(site))
            await play.run(seconds)
            with trio.move_on_after(grace):
                await play.wait_answered()
            nursery.cancel_scope.cancel()
    finally:
        play.count_up()
    return totals


def _ignore(happening: Happening) -> None:
    """Nobody wants to know."""


class _Play:
    """A simulation under way."""

    def __init__(
        self,
        network: SimulatedNetwork,
        faults: frozenset[Fault],
        seed: int,
        tell: Callable[[Happening], None],
        totals: Totals,
        settings: StationSettings,
    ) -> None:
        self._network = network
        self._faults = faults
        self._seed = seed
        self._rng = Random(f"{seed} faults")
        self._tell = tell
        self._totals = totals
        self._settings = settings
        self._stations: dict[int, Station] = {}
        self._holdings = [Holdings() for _ in network.stations]
        self._reasons: dict[int, str] = {}
        self._turns = trio.Semaphore(CONNECTS)
        self._connecting: set[int] = set()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._start = 0.0
        self._answered_windows: dict[int, int] = {}
        self._open = 0

    # --- base stations ---

    async def host(
        self,
        site: SimulatedStation,
        connect: Connector,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be one of the base stations until cancelled."""
        rng = Random(f"{self._seed} faults of {site.index}")

        async def connect_in_turn() -> trio.abc.Stream:
            await self._turns.acquire()
            self._connecting.add(site.index)
            stream = await connect()
            return FaultyStream(stream, self._faults, rng) if self._faults else stream

        async with open_station(
            connect_in_turn,
            identity=_identity(site),
            take=lambda event: self._take(site, event),
            status=lambda: _status(site),
            settings=self._settings,
        ) as station:
            self._stations[site.index] = station
            task_status.started()
            await trio.sleep_forever()

    def _take(self, site: SimulatedStation, event: StationEvent) -> None:
        self._holdings[site.index](event)
        if isinstance(event, Online | Offline) and site.index in self._connecting:
            self._connecting.discard(site.index)
            self._turns.release()
        match event:
            case Online(resumed, response):
                self._reasons.pop(site.index, None)
                center = format_eui(response.sc_eui)
                self._report("online", bs_eui=site.eui, resumed=resumed, sc_eui=center)
            case Offline(reason, was_online):
                # A Service Center that is away is away for the same reason again and again.
                if was_online or self._reasons.get(site.index) != reason:
                    self._report("offline", bs_eui=site.eui, reason=reason, was_online=was_online)
                self._reasons[site.index] = reason
            case Request(message=message):
                self._report("request", bs_eui=site.eui, **_asked(message))
            case Withdrawn(request, code, message):
                self._report(
                    "withdrawn", bs_eui=site.eui, code=code, message=message, **_asked(request)
                )

    def count_up(self) -> None:
        """Bring the totals up to date."""
        totals, stations = self._totals, self._stations.values()
        totals.connects = sum(station.connects for station in stations)
        totals.reconnects = sum(max(0, station.connects - 1) for station in stations)
        totals.resumed = sum(station.resumes for station in stations)
        totals.unanswered = self._open

    # --- telegrams ---

    async def run(self, seconds: float) -> None:
        """Let the sensors send, in real time."""
        self._start = trio.current_time()
        telegrams = self._network.telegrams(start_ns=time.time_ns())
        upcoming = next(telegrams)
        while upcoming.at < seconds or self._agenda:
            while upcoming.at < seconds and (not self._agenda or upcoming.at <= self._agenda[0][0]):
                self._plan(upcoming)
                upcoming = next(telegrams)
            moment, _, action = heapq.heappop(self._agenda)
            await trio.sleep_until(self._start + moment)
            action()

    async def wait_answered(self) -> None:
        """Wait until nothing lacks an answer any more; not if nobody was ever there to answer."""
        if any(station.connects for station in self._stations.values()):
            for station in self._stations.values():
                await station.wait_empty()

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._numbers), action))

    def _plan(self, telegram: Telegram) -> None:
        self._at(telegram.at, partial(self._announce, telegram))
        for reception in telegram.receptions:
            self._at(reception.arrival, partial(self._deliver, reception))
            if "dup" in self._faults and self._rng.random() < DUPLICATES:
                again = reception.arrival + self._rng.uniform(0.1, 5.0)
                self._at(again, partial(self._repeat, reception))

    def _announce(self, telegram: Telegram) -> None:
        self._totals.telegrams += 1
        best = max(telegram.receptions, key=lambda reception: reception.uplink.snr)
        self._report(
            "telegram",
            number=telegram.number,
            ep_eui=best.uplink.ep_eui,
            packet_cnt=best.uplink.packet_cnt,
            size=len(best.uplink.user_data),
            heard_by=[
                format_eui(self._network.stations[reception.station].eui)
                for reception in telegram.receptions
            ],
            best_snr=best.uplink.snr,
        )

    def _deliver(self, reception: Reception) -> None:
        uplink = reception.uplink
        if self._answered_windows.get(uplink.ep_eui) == uplink.packet_cnt - 1:
            uplink = replace(uplink, dl_ack=True)
        self._totals.receptions += 1
        self._send(reception.station, uplink)
        if uplink.dl_open:
            window = partial(self._open_window, reception.station, uplink)
            self._at(reception.arrival + WINDOW, window)

    def _repeat(self, reception: Reception) -> None:
        self._totals.duplicated += 1
        self._send(reception.station, reception.uplink)

    def _send(self, index: int, message: Message) -> None:
        site = self._network.stations[index]
        try:
            self._stations[index].send_nowait(message, partial(self._over, site))
        except trio.WouldBlock:
            self._totals.dropped += 1
            self._report("dropped", bs_eui=site.eui, command=message.command)
        else:
            self._open += isinstance(message, UplinkData)

    def _over(self, site: SimulatedStation, delivery: Delivery) -> None:
        match delivery.error:
            case OperationLostError():
                return
            case OperationRefusedError(code=code, message=reason):
                self._report(
                    "refused",
                    bs_eui=site.eui,
                    command=delivery.message.command,
                    code=code,
                    message=reason,
                )
        if isinstance(delivery.message, UplinkData):
            self._open -= 1
            self._totals.refused += delivery.error is not None
            self._totals.acknowledged += delivery.error is None

    def _open_window(self, index: int, uplink: UplinkData) -> None:
        site = self._network.stations[index]
        for report in self._holdings[index].open_window(uplink, tx_time=_clock(site)):
            if isinstance(report, DownlinkDataResult) and report.result == "sent":
                self._totals.downlinks += 1
                self._answered_windows[uplink.ep_eui] = uplink.packet_cnt
                self._report(
                    "downlink",
                    bs_eui=site.eui,
                    ep_eui=uplink.ep_eui,
                    packet_cnt=uplink.packet_cnt,
                    que_id=report.que_id,
                )
            self._send(index, report)

    def _report(self, event: str, **fields: object) -> None:
        happening: Happening = {"event": event, "time": round(time.time(), 3)}
        for name, value in fields.items():
            is_eui = name in ("bs_eui", "ep_eui") and isinstance(value, int)
            happening[name] = format_eui(value) if is_eui else value  # type: ignore[arg-type]  # int
        self._tell(happening)


def _asked(message: Message) -> dict[str, object]:
    """What a request is about; never its key."""
    found: dict[str, object] = {"command": message.command}
    ep_eui = getattr(message, "ep_eui", None)
    if ep_eui is not None:
        found["ep_eui"] = ep_eui
    if isinstance(message, DownlinkDataQueue):
        found["que_id"] = message.que_id
    return found


def _identity(site: SimulatedStation) -> Identity:
    return Identity(
        eui=site.eui,
        vendor="bssci",
        model="simulated base station",
        name=site.name,
        geo_location=site.geo_location,
    )


def _clock(site: SimulatedStation) -> int:
    return time.time_ns() + site.clock_error_ns


def _status(site: SimulatedStation) -> StatusResponse:
    return StatusResponse(
        code=0,
        message="ok",
        time=_clock(site),
        duty_cycle=0.0,
        geo_location=site.geo_location,
        uptime=int(time.monotonic()),
        cpu_load=0.1,
        mem_load=0.4,
    )


# --- faults ----------------------------------------------------------------------------------


class FaultyStream(trio.abc.Stream):
    """A connection on which things go wrong.

    `disconnect`: it ends at a random moment, with any part of a write on its way, be it the middle
    of a frame or all of it and the answer lost. `split`: writes go out in small pieces. `slow`:
    reads take little and wait in between.
    """

    def __init__(self, stream: trio.abc.Stream, faults: frozenset[Fault], rng: Random) -> None:
        self._stream = stream
        self._rng = rng
        self._is_cut = False
        self._is_split = "split" in faults
        self._is_slow = "slow" in faults
        self._end = math.inf
        if "disconnect" in faults:
            self._end = trio.current_time() + rng.expovariate(1 / BETWEEN_CUTS)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if trio.current_time() < self._end:
            await self._send(data)
            return
        await self._send(data[: self._rng.randint(0, len(data))])
        self._is_cut = True
        await trio.aclose_forcefully(self._stream)
        raise trio.BrokenResourceError("cut by the simulation")

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        for piece in self._pieces(data):
            await self._stream.send_all(piece)

    def _pieces(
        self, data: bytes | bytearray | memoryview
    ) -> Iterator[bytes | bytearray | memoryview]:
        if not self._is_split:
            yield data
            return
        start = 0
        while start < len(data):
            end = start + self._rng.randint(1, PIECES)
            yield data[start:end]
            start = end

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._is_slow:
            await trio.sleep(SLOW_PAUSE)
            max_bytes = SLOW_READ
        try:
            return await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if self._is_cut:
                raise trio.BrokenResourceError("cut by the simulation") from None
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()
