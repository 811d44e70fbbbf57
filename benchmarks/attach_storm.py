"""Attach storm: many sensors are registered at once at many base stations, while uplinks go on.

    python -m benchmarks.attach_storm                     # 1,000 sensors at 50 base stations
    python -m benchmarks.attach_storm --sensors 10000

The same load is measured twice in one run, calm and during the storm. Exit code 1 when an uplink
is lost, a base station does not confirm, or uplinks are delayed beyond the target of the uplink
benchmark (delivery p99 of 50 ms beyond the dedup window).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from benchmarks.end_to_end import Case, Figures, Rig, rig
from benchmarks.load import FIRST_SENSOR
from bssci.core.protocol.eui import format_eui
from bssci.core.runtime.client import Client, open_client

MAX_DELAY = 50.0  # ms, p99, beyond the dedup window
CHUNK = 200  # sensors in one request
PATIENCE = 300.0  # seconds for all base stations to confirm everything
LEAD = 1.0  # seconds of load before the storm begins


@dataclass(frozen=True, slots=True)
class Storm:
    """What a storm showed.

    Attributes:
        calm, stormy: the same load without and with it.
        registering: seconds until all sensors were on disk.
        confirming: seconds until every base station had confirmed all of them.
        confirmed: registrations, in all.
    """

    sensors: int
    stations: int
    calm: Figures
    stormy: Figures
    registering: float
    confirming: float
    confirmed: int

    @property
    def faults(self) -> list[str]:
        """What is not as it should be."""
        faults = []
        if self.confirmed != self.sensors * self.stations:
            faults.append(f"{self.confirmed} of {self.sensors * self.stations} confirmed")
        if not (self.calm.is_complete and self.stormy.is_complete):
            faults.append("uplinks were lost, doubled or not answered")
        if self.stormy.delivery_p99 > MAX_DELAY:
            faults.append(f"delivery p99 {self.stormy.delivery_p99:.0f} ms, above {MAX_DELAY:.0f}")
        return faults


def measure(sensors: int, case: Case, *, rest: float = 5.0, parent: Path | None = None) -> Storm:
    """Measure a storm; `rest`: seconds of the same load before it."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        socket = Path(folder) / "control.sock"
        settings = (*case.settings, ("control.socket", str(socket)))
        with rig(replace(case, settings=settings), Path(folder)) as ready:
            calm = ready.measure(case.rate, rest)
            return trio.run(_storm, ready, socket, sensors, case, calm)


async def _storm(ready: Rig, socket: Path, sensors: int, case: Case, calm: Figures) -> Storm:
    found: list[Figures] = []

    async def load() -> None:
        found.append(await trio.to_thread.run_sync(ready.measure, case.rate, case.seconds))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        await trio.sleep(LEAD)
        async with open_client(socket) as client:
            begun = trio.current_time()
            await _register(client, sensors)
            registering = trio.current_time() - begun
            confirmed = await _wait_confirmed(client, sensors)
            confirming = trio.current_time() - begun
    return Storm(sensors, case.stations, calm, found[0], registering, confirming, confirmed)


async def _register(client: Client, sensors: int) -> None:
    for start in range(0, sensors, CHUNK):
        rows = [
            {"eui": format_eui(FIRST_SENSOR + number), "key": f"{number:032x}"}
            for number in range(start, min(start + CHUNK, sensors))
        ]
        result = await client.call("sensors.import", rows=rows)
        assert not result["failed"], result


async def _wait_confirmed(client: Client, sensors: int) -> int:
    confirmed = 0
    with trio.move_on_after(PATIENCE):
        while True:
            stations = await client.call("stations.list")
            counts = [each["sensors"]["confirmed"] for each in stations]
            confirmed = sum(counts)
            if all(count == sensors for count in counts):
                break
            await trio.sleep(0.05)
    return confirmed


def main() -> int:
    """Measure, print, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sensors", type=int, default=1_000)
    parser.add_argument("--stations", type=int, default=50)
    parser.add_argument("--rate", type=float, default=500.0, help="uplinks a second meanwhile")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load during the storm")
    parser.add_argument("--folder", type=Path, help="where the journal is; default: temporary")
    options = parser.parse_args()
    case = Case(name="storm", rate=options.rate, stations=options.stations, seconds=options.seconds)
    storm = measure(options.sensors, case, parent=options.folder)
    print(
        f"{storm.sensors:,} sensors at {storm.stations} base stations, "
        f"{options.rate:,.0f} uplinks/s meanwhile"
    )
    print(
        f"on disk after {storm.registering:.2f} s, {storm.confirmed:,} confirmations after "
        f"{storm.confirming:.1f} s"
    )
    print("             rsp p50  rsp p99  sub p50  sub p99  lost  RSS MB  others")
    for name, figures in (("calm", storm.calm), ("storm", storm.stormy)):
        print(
            f"{name:<10} {figures.response_p50:9.1f}{figures.response_p99:9.1f}"
            f"{figures.delivery_p50:9.1f}{figures.delivery_p99:9.1f}{figures.lost:6}"
            f"{figures.memory:8.0f}{figures.others_busy:8.2f}"
        )
    for fault in storm.faults:
        print(f"breach: {fault}")
    return 1 if storm.faults else 0


if __name__ == "__main__":
    sys.exit(main())
