"""Downlink window: how long an uplink that opens a window takes to fetch a downlink that waits.

    python -m benchmarks.downlink_window                    # 500 downlinks, 500 uplinks/s meanwhile
    python -m benchmarks.downlink_window --rate 1000 --downlinks 2000

Every downlink waits for a sensor of its own that no base station has heard yet, so it cannot leave
before the uplink does. The time runs from just before the bytes of that uplink are written to the
moment in which those of its dlDataQue have been read. Between the two the service decides, and
puts on disk what it is about to issue. The same is measured twice in one run: calm, and under load.

Exit code 1 when an uplink is lost, a downlink does not come or comes when it should not, or 99 of
100 take longer than 20 ms under load.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import select
import sys
import tempfile
import time
from array import array
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import trio

from benchmarks.end_to_end import QUIET, STATION, Case, Figures, Rig, fsync_ms, rig
from benchmarks.figures import Spread, spread
from benchmarks.load import Map, Station, Tally, Template, frame, make_context
from benchmarks.processes import cores
from bssci.core.protocol.eui import format_eui
from bssci.core.runtime.client import Client, open_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

MAX_WINDOW = 20.0  # ms, p99, under load
CALM_RATE = 1.0  # uplinks a second; the rig measures nothing without any
CHUNK = 200  # sensors in one request
CONNECT_TIMEOUT = 30.0  # seconds for one of our base stations to be let in
PATIENCE = 300.0  # seconds for all base stations to confirm all sensors
LATEST = 10.0  # seconds after the last uplink in which downlinks may still come
OPENERS = 10
# Base stations that open windows. One that has to send more than a few downlinks a second does not
# exist on the air, and here it would wait for the answers to its own.
MARGIN = 0.05  # of the time of load, before the first and behind the last window

FIRST_LISTENER = 0xFCA84A0300000000  # the first sensor that downlinks are for


@dataclass(frozen=True, slots=True)
class Phase:
    """What some downlinks showed.

    Attributes:
        opened: windows, each for one downlink.
        missing: downlinks that did not come.
        unasked: that came though no window was opened for them, or once more.
        times: from an uplink to its downlink.
        figures: what else the service did meanwhile.
    """

    opened: int
    missing: int
    unasked: int
    times: Spread
    figures: Figures

    @property
    def faults(self) -> list[str]:
        faults = []
        if self.missing:
            faults.append(f"{self.missing} of {self.opened} downlinks did not come")
        if self.unasked:
            faults.append(f"{self.unasked} downlinks came without an uplink, or twice")
        if not self.figures.is_complete:
            faults.append("uplinks were lost, doubled or not answered")
        return faults


@dataclass(frozen=True, slots=True)
class Windows:
    """The same downlinks without load and with it."""

    calm: Phase
    loaded: Phase

    @property
    def faults(self) -> list[str]:
        """What is not as it should be."""
        faults = [f"calm: {fault}" for fault in self.calm.faults]
        faults += [f"load: {fault}" for fault in self.loaded.faults]
        if (p99 := self.loaded.times["p99"]) > MAX_WINDOW:
            faults.append(f"p99 {p99:.1f} ms under load, above {MAX_WINDOW:.0f}")
        return faults


# --- base stations that open windows ---------------------------------------------------------


class Stopwatch:
    """The windows of one phase, and the downlinks that come in them.

    Attributes:
        tally: what became of the uplinks.
        times_ns: from uplinks to their downlinks, in the order of the downlinks.
        unasked: downlinks that no window was open for.
    """

    def __init__(self, windows: int) -> None:
        self.tally = Tally(windows)
        self.times_ns = array("Q")
        self.unasked = 0
        self._opened: dict[int, int] = {}
        self._moved = trio.Event()

    def opens(self, ep_eui: int) -> None:
        """The uplink is written next."""
        self._opened[ep_eui] = time.perf_counter_ns()

    def takes(self, ep_eui: int) -> None:
        """Its downlink has been read."""
        if (since_ns := self._opened.pop(ep_eui, None)) is None:
            self.unasked += 1
        else:
            self.times_ns.append(time.perf_counter_ns() - since_ns)

    def look(self) -> None:
        """A base station has read something."""
        self._moved.set()

    async def wait_over(self) -> None:
        """Return when every window has its downlink and every uplink its answer."""
        while self._opened or self.tally.outstanding:
            self._moved = trio.Event()
            await self._moved.wait()


class Opener(Station):
    """A base station of the load generator that can transmit, in the trio loop."""

    def __init__(self, number: int, epoll: select.epoll) -> None:
        super().__init__(number, epoll)
        self._ready = epoll
        self._template = window_template()
        self._stopwatch = Stopwatch(0)

    def begin(self, watch: Stopwatch) -> None:
        """Whose windows come now."""
        self._stopwatch, self.tally = watch, watch.tally

    def open_window(self, ep_eui: int) -> None:
        """Send an uplink after which the end point listens."""
        self._stopwatch.opens(ep_eui)
        self.send_uplink(
            self._template, ep_eui=ep_eui, packet_cnt=1, eq_snr=9.5, telegram=self.tally.sent
        )

    async def attend(self) -> None:
        """Wait for bytes, and answer them.

        The epoll of the generator is itself something to wait for.

        Raises:
            RuntimeError: the connection has ended.
        """
        await trio.lowlevel.wait_readable(self._ready.fileno())
        if self._ready.poll(0):
            self.on_ready()
        if self.cut is not None:
            raise RuntimeError(f"our base station {self.eui:016X}: {self.cut}")
        self._stopwatch.look()

    def _connect_message(self) -> Map:
        return super()._connect_message() | {"bidi": True}

    def _answer(self, message: Map) -> bytes:
        if message["command"] != "dlDataQue":
            return super()._answer(message)
        ep_eui = message["epEui"]
        assert isinstance(ep_eui, int)
        self._stopwatch.takes(ep_eui)
        return frame({"command": "dlDataQueRsp", "opId": message["opId"]})


def window_template() -> Template:
    """As the load's, but the end point listens after it."""
    template = Template(with_subpackets=True)
    closed, opened = (msgpack.packb("dlOpen") + msgpack.packb(flag) for flag in (False, True))
    template.octets[:] = template.octets.replace(closed, opened)
    return template


@asynccontextmanager
async def open_openers(client: Client, first: int) -> AsyncIterator[list[Opener]]:
    """Be some more base stations of that service, while the block lasts."""
    info = await client.call("service.info")
    ((setting),) = await client.call("config.get", key="server.port")
    station = Path(info["config_file"]).parent.parent / "station"
    context = make_context(
        station / "ca_cert.pem", station / f"{STATION}_cert.pem", station / f"{STATION}_key.pem"
    )
    with ExitStack() as stack:
        openers = []
        for number in range(first, first + OPENERS):
            opener = Opener(number, stack.enter_context(select.epoll()))
            opener.connect(("127.0.0.1", setting["value"]), context)
            stack.callback(opener.close, "done")
            openers.append(opener)
            with trio.fail_after(CONNECT_TIMEOUT):
                while not opener.is_up:
                    await opener.attend()
        async with trio.open_nursery() as nursery:
            for opener in openers:
                nursery.start_soon(_attend, opener)
            yield openers
            nursery.cancel_scope.cancel()


async def _attend(opener: Opener) -> None:
    while True:
        await opener.attend()


# --- what is measured ------------------------------------------------------------------------


def measure(case: Case, downlinks: int, *, parent: Path | None = None) -> Windows:
    """Measure so many downlinks, calm and then under the load of a case."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        socket = Path(folder) / "control.sock"
        settings = (*case.settings, ("control.socket", str(socket)))
        with rig(replace(case, settings=settings), Path(folder)) as ready, _beside_the_service():
            return trio.run(_measure, ready, socket, case, downlinks)


@contextmanager
def _beside_the_service() -> Iterator[None]:
    """This thread, and those that it starts, leave the service its core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores().others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _measure(ready: Rig, socket: Path, case: Case, downlinks: int) -> Windows:
    end_points = range(FIRST_LISTENER, FIRST_LISTENER + 2 * downlinks)
    async with open_client(socket) as client, open_openers(client, case.stations) as openers:
        await _register(client, end_points)
        await _wait_confirmed(client, len(end_points))

        async def phase(rate: float, listeners: Sequence[int]) -> Phase:
            for ep_eui in listeners:
                await _send_downlink(client, ep_eui)
            return await _phase(ready, openers, rate, case.seconds, listeners)

        calm = await phase(CALM_RATE, end_points[:downlinks])
        loaded = await phase(case.rate, end_points[downlinks:])
    return Windows(calm, loaded)


async def _register(client: Client, end_points: Sequence[int]) -> None:
    for start in range(0, len(end_points), CHUNK):
        rows = [
            {"eui": format_eui(ep_eui), "key": f"{ep_eui:032x}", "bidi": True}
            for ep_eui in end_points[start : start + CHUNK]
        ]
        result = await client.call("sensors.import", rows=rows)
        assert not result["failed"], result


async def _wait_confirmed(client: Client, sensors: int) -> None:
    """Also at the other base stations: what they are told would not be calm."""
    with trio.fail_after(PATIENCE):
        while True:
            stations = await client.call("stations.list")
            if all(each["sensors"]["confirmed"] == sensors for each in stations):
                break
            await trio.sleep(0.2)


async def _send_downlink(client: Client, ep_eui: int) -> None:
    sent = await client.call("downlinks.send", eui=format_eui(ep_eui), data="C0FFEE")
    assert sent["state"] == "queued", sent


async def _phase(
    ready: Rig,
    openers: Sequence[Opener],
    rate: float,
    seconds: float,
    listeners: Sequence[int],
) -> Phase:
    found: list[Figures] = []
    # What our base stations deliver reaches the subscriber as well.
    ready.expect(len(listeners))

    async def load() -> None:
        found.append(await trio.to_thread.run_sync(ready.measure, rate, seconds))

    watch = Stopwatch(len(listeners))
    for opener in openers:
        opener.begin(watch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        await _open_windows(openers, listeners, seconds)
        with trio.move_on_after(LATEST):
            await watch.wait_over()
    return Phase(
        opened=len(listeners),
        missing=len(listeners) - len(watch.times_ns),
        unasked=watch.unasked,
        times=spread(watch.times_ns, per_ms=1_000_000),
        figures=found[0],
    )


async def _open_windows(
    openers: Sequence[Opener], listeners: Sequence[int], seconds: float
) -> None:
    """At moments that have nothing to do with each other, as sensors do."""
    dice = random.Random(len(listeners))
    start = trio.current_time()
    span = MARGIN * seconds, (1 - MARGIN) * seconds
    moments = sorted(dice.uniform(*span) for _ in listeners)
    for opener, ep_eui, moment in zip(cycle(openers), listeners, moments, strict=False):
        await trio.sleep_until(start + moment)
        opener.open_window(ep_eui)


# --- the command line ------------------------------------------------------------------------


def main() -> int:
    """Measure, print, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=500.0, help="uplinks a second meanwhile")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load, and of calm before")
    parser.add_argument("--stations", type=int, default=50, help="that send the load")
    parser.add_argument("--downlinks", type=int, default=500, help="each, calm and under load")
    parser.add_argument("--folder", type=Path, help="where the journal is; default: temporary")
    options = parser.parse_args()
    case = Case(
        name="window", rate=options.rate, stations=options.stations, seconds=options.seconds
    )
    # A collection here would be measured as the service's latency.
    gc.disable()
    windows = measure(case, options.downlinks, parent=options.folder)
    disk = fsync_ms(options.folder or Path(tempfile.gettempdir()))
    print(
        f"{options.downlinks:,} downlinks, each from its uplink to its dlDataQue, "
        f"{options.rate:,.0f} uplinks/s of {options.stations} base stations meanwhile; "
        f"fdatasync of a page {disk:.2f} ms"
    )
    _print_phases(windows)
    if (busy := windows.loaded.figures.others_busy) > QUIET:
        print(f"NOT QUIET: other work took {busy:.1f} cores; times say little")
    for fault in windows.faults:
        print(f"breach: {fault}")
    return 1 if windows.faults else 0


def _print_phases(windows: Windows) -> None:
    print("           dl p50   dl p99   dl max  rsp p50  rsp p99  sub p99  lost  RSS MB  others")
    for name, phase in (("calm", windows.calm), ("load", windows.loaded)):
        times, figures = phase.times, phase.figures
        print(
            f"{name:<8} {times['p50']:8.1f} {times['p99']:8.1f} {times['maximum']:8.1f}"
            f"{figures.response_p50:9.1f}{figures.response_p99:9.1f}{figures.delivery_p99:9.1f}"
            f"{figures.lost:6}{figures.memory:8.0f}{figures.others_busy:8.2f}"
        )
    calm, loaded = windows.calm.times, windows.loaded.times
    ratios = [loaded[of] / calm[of] if calm[of] else 0.0 for of in ("p50", "p99", "maximum")]
    print("ratio    " + " ".join(f"{ratio:8.1f}" for ratio in ratios))


if __name__ == "__main__":
    sys.exit(main())
