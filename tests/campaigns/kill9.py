"""`kill -9` under load, many times: nothing that was acknowledged may be lost or told apart.

Base stations over TLS, some sensors heard by two of them, a real broker and a subscriber. The
service is killed again and again, at any instant: while it serves, while it starts, while it takes
back what the killed one left. The base stations resume and repeat what was not acknowledged. In the
end every acknowledged uplink must have come out, under one `id`, in the order of its sensor.

    python -m tests.campaigns.kill9 --kills 1000

Prints what it measured; exits with 1 when a guarantee was broken.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tests.broker import MOSQUITTO, Mosquitto
from tests.processes import (
    Ledger,
    Service,
    Site,
    Station,
    in_background,
    open_service,
    open_stations,
    open_subscriber,
    telegram,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Figures", "Plan", "run_campaign"]

FIRST_SENSOR = 0x70B3D59CD1000000
TICK = 0.02  # seconds between two bursts of telegrams
MOST_WAITING = 2_000  # uplinks of one base station; while it has more, its sensors are silent
DRAIN = 60.0  # seconds for everything to be acknowledged and published after the last kill
PROGRESS = 10.0  # seconds between two lines

SETTINGS = {
    # A quiet base station is pinged, so that operation IDs of both sides are at stake.
    "server_idle_ping": 0.3,
    "status_interval": 1,
    # Windows that are open when the process is killed, and time enough for some to end.
    "dedup_delay": 1.0,
    # Beyond any outage here; what is remembered must be read again at each start.
    "dedup_memory": 60,
    "mqtt_reconnect_max": 1,
    "log_level": "info",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done.

    Attributes:
        kills: how many.
        seconds: begin no kill after this time.
        stations: base stations with load; one more has almost none.
        sensors: each is heard by one base station, every third by a second one, too.
        rate: telegrams a second.
        window: uplinks of one base station that may lack an answer.
        seed: of our choices; processes take care that no two runs are alike.
    """

    kills: int = 1000
    seconds: float = 86_400.0
    stations: int = 4
    sensors: int = 40
    rate: float = 200.0
    window: int = 32
    seed: int = 1


@dataclass(slots=True, kw_only=True)
class Figures:
    """What came of it; `breaches` says what must never be."""

    kills: int = 0
    kills_while_starting: int = 0
    seconds: float = 0.0
    telegrams: int = 0
    receptions: int = 0
    acknowledged: int = 0
    published: int = 0
    repeats: int = 0
    sessions_resumed: int = 0
    sessions_new: int = 0
    sc_operations: int = 0
    recovered: int = 0
    start_p50: float = 0.0
    start_max: float = 0.0
    breaches: list[str] = field(default_factory=list)

    def text(self) -> str:
        lines = []
        for each in fields(self)[:-1]:
            value = getattr(self, each.name)
            shown = f"{value:.2f}" if isinstance(value, float) else str(value)
            lines.append(f"{each.name.replace('_', ' '):<22}{shown:>10}")
        lines += [f"BREACH: {breach}" for breach in self.breaches] or ["no breach"]
        return "\n".join(lines)


class _Sensors:
    """Speaks for all sensors."""

    def __init__(self, plan: Plan, stations: list[Station], chance: random.Random) -> None:
        self.telegrams = self.receptions = 0
        self._plan = plan
        *self._busy, self._quiet = stations
        self._chance = chance
        self._counters = [0] * plan.sensors
        self._quiet_counter = 0

    async def run(self) -> None:
        due = last_quiet = trio.current_time()
        while True:
            due += TICK
            await trio.sleep_until(due)
            for _ in range(self._poisson()):
                self._speak(self._chance.randrange(self._plan.sensors))
            if due - last_quiet > 1.5:
                last_quiet = due
                self._speak_quietly()

    def _poisson(self) -> int:
        share = self._plan.rate * TICK
        return int(share) + (self._chance.random() < share % 1)

    def _speak(self, number: int) -> None:
        first = self._busy[number % len(self._busy)]
        second = self._busy[(number + 1) % len(self._busy)]
        hearers = [first, second] if number % 3 == 0 and first is not second else [first]
        if any(station.unanswered >= MOST_WAITING for station in hearers):
            return
        self._counters[number] += 1
        uplink = telegram(FIRST_SENSOR + number, self._counters[number])
        self.telegrams += 1
        self.receptions += len(hearers)
        for station in hearers:
            station.send(uplink)

    def _speak_quietly(self) -> None:
        self._quiet_counter += 1
        self._quiet.send(telegram(FIRST_SENSOR + self._plan.sensors, self._quiet_counter))
        self.telegrams += 1
        self.receptions += 1


class _Campaign:
    def __init__(
        self, plan: Plan, service: Service, stations: list[Station], ledger: Ledger
    ) -> None:
        self.figures = Figures()
        self._plan = plan
        self._service = service
        self._stations = stations
        self._ledger = ledger
        self._chance = random.Random(plan.seed)
        self._starts: list[float] = []

    async def run(self, *, is_told: bool) -> None:
        figures, plan = self.figures, self._plan
        begun = told = time.monotonic()
        sensors = _Sensors(plan, self._stations, self._chance)
        async with in_background(sensors.run):
            while figures.kills < plan.kills and time.monotonic() - begun < plan.seconds:
                await self._live_and_die()
                if is_told and time.monotonic() - told > PROGRESS:
                    told = time.monotonic()
                    self._tell()
        await self._drain()
        figures.seconds = time.monotonic() - begun
        figures.telegrams, figures.receptions = sensors.telegrams, sensors.receptions
        self._sum_up()

    async def _live_and_die(self) -> None:
        """One more kill. The service runs, or has begun to start, when this is called."""
        chance, service = self._chance, self._service
        if chance.random() < 0.15:
            # Before it is ready, most of the time.
            await trio.sleep(chance.uniform(0, 1.2 * self._usual_start()))
            self.figures.kills_while_starting += not service.logged("listens on")
        else:
            await self._wait_ready()
            # Mostly short lives, and now and then one that gets to status and pings.
            is_long = chance.random() < 0.15
            life = chance.uniform(2.0, 4.0) if is_long else chance.uniform(0.0, 0.8)
            await trio.sleep(life / 2)
            online = [station for station in self._stations if station.is_online]
            if online and chance.random() < 0.3:
                # Long enough, now and then, for its copies to come after the others' are published.
                chance.choice(online).cut(seconds=chance.choice((0.03, 0.3, 8.0)))
            await trio.sleep(life / 2)
        self._look_at_log()
        await service.kill()
        self.figures.kills += 1
        await service.spawn()

    def _usual_start(self) -> float:
        return statistics.median(self._starts) if self._starts else 0.5

    async def _wait_ready(self) -> None:
        begun = time.monotonic()
        await self._service.wait_for_log("listens on")
        self._starts.append(time.monotonic() - begun)

    async def _drain(self) -> None:
        """No more kills: what is kept is taken, and all of it is published."""
        await self._wait_ready()
        try:
            for station in self._stations:
                await station.wait_empty(within=DRAIN)
            await self._ledger.wait_complete(self._stations, within=DRAIN)
        except AssertionError as error:
            self.figures.breaches.append(str(error))
        self._look_at_log()
        ending = await self._service.stop()
        if ending.code != 0:
            self.figures.breaches.append(f"SIGTERM ended it with {ending.code}")

    def _look_at_log(self) -> None:
        """What no kill excuses: a fault of our own, a damaged database, a protocol error."""
        for line in self._service.log():
            words = line["message"]
            if line["level"] in ("error", "raw") or words.startswith("refused:"):
                self.figures.breaches.append(f"log: {line}")
            elif "come from the journal" in words:
                self.figures.recovered += int(words.split()[0])

    def _sum_up(self) -> None:
        figures, ledger = self.figures, self._ledger
        figures.acknowledged = sum(len(station.acknowledged) for station in self._stations)
        figures.published, figures.repeats = len(ledger.ids), ledger.repeats
        figures.sessions_resumed = sum(station.resumed for station in self._stations)
        figures.sessions_new = sum(station.renewed for station in self._stations)
        figures.sc_operations = sum(station.operations for station in self._stations)
        figures.start_p50 = statistics.median(self._starts)
        figures.start_max = max(self._starts)
        if figures.sessions_new != len(self._stations):
            figures.breaches.append("a session was not resumed")
        lost = ledger.missing(self._stations)
        figures.breaches += [f"lost: {ep_eui:016X} {cnt}" for ep_eui, cnt in lost]
        figures.breaches += ledger.faults
        figures.breaches += [fault for station in self._stations for fault in station.faults]

    def _tell(self) -> None:
        acknowledged = sum(len(station.acknowledged) for station in self._stations)
        waiting = sum(station.unanswered for station in self._stations)
        print(
            f"{self.figures.kills} kills, {acknowledged} acknowledged, {waiting} waiting, "
            f"{len(self._ledger.ids)} published, {self._ledger.repeats} repeats, "
            f"start {self._usual_start():.2f} s, {len(self.figures.breaches)} breaches",
            file=sys.stderr,
            flush=True,
        )


async def run_campaign(
    plan: Plan, site: Site, broker: Mosquitto, *, is_told: bool = False
) -> Figures:
    """Carry it out, with a site of its own and a broker that runs.

    Args:
        is_told: a line on standard error now and then.
    """
    ledger = Ledger()
    ledger.keeps_uplinks = False
    async with (
        open_service(site, mqtt_port=broker.port, **SETTINGS) as service,
        open_subscriber(broker.port, ledger),
        open_stations(service, plan.stations + 1, window=plan.window) as stations,
    ):
        campaign = _Campaign(plan, service, stations, ledger)
        await campaign.run(is_told=is_told)
    return campaign.figures


@asynccontextmanager
async def _broker(folder: Path) -> AsyncIterator[Mosquitto]:
    broker = Mosquitto(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


async def _main(plan: Plan) -> Figures:
    with tempfile.TemporaryDirectory(prefix="bssci-kill9-") as name:
        folder = Path(name)
        site = Site.make(folder / "site")
        async with _broker(folder) as broker:
            return await run_campaign(plan, site, broker, is_told=True)


def main() -> None:
    usual = Plan()
    parser = argparse.ArgumentParser(prog="tests.campaigns.kill9", description=__doc__)
    parser.add_argument("--kills", type=int, default=usual.kills)
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="at most")
    parser.add_argument("--stations", type=int, default=usual.stations)
    parser.add_argument("--sensors", type=int, default=usual.sensors)
    parser.add_argument("--rate", type=float, default=usual.rate, help="telegrams a second")
    parser.add_argument("--window", type=int, default=usual.window, help="unanswered uplinks")
    parser.add_argument("--seed", type=int, default=usual.seed)
    if MOSQUITTO is None:
        parser.exit(2, "mosquitto is not installed; it is the broker of this campaign\n")
    figures = trio.run(_main, Plan(**vars(parser.parse_args())))
    print(figures.text())
    sys.exit(1 if figures.breaches else 0)


if __name__ == "__main__":
    main()
