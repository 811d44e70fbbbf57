"""From a base station's bytes to a subscriber: how fast, how late, how much of it is lost.

Starts a service, a mosquitto, a subscriber and a load generator, all on the loopback interface,
and puts the service on one core and everything else on another:

    load (TLS) -> service: journal, dedup, outbox -> mosquitto (QoS 1) -> subscriber

Without a rate it runs the standard suite and compares it with what the service must reach:

    python -m benchmarks.end_to_end
    python -m benchmarks.end_to_end --rate 5000 --stations 100 --seconds 30
    python -m benchmarks.end_to_end --ramp

Exit code 1 when something that was acknowledged did not reach the subscriber: times depend on the
machine, that does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from benchmarks.processes import (
    ROOT,
    Process,
    cores,
    free_port,
    machine,
    machine_busy,
    mosquitto,
    run,
    wait_for_port,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.figures import LoadResult, SentResult, SubscriberResult

__all__ = ["Case", "Figures", "measure"]

BSSCI = [sys.executable, "-c", "from bssci.cli.main import run; run()"]
BARE_PYTHON = [sys.executable, "-c", "pass"]

STATION = "FCA84A0100000000"
ANSWER_TIMEOUT = 60.0  # seconds for a child to say something it has to work for
CONNECT_TIMEOUT = 90.0  # seconds for all base stations to be connected
DRAIN_TIMEOUT = 60.0  # seconds for the last telegram to reach the subscriber
WARM_UP = 2.0  # seconds at full rate that are not measured

# A rate counts as sustained while nothing piles up: sending ends on time, and what is left at its
# end (beyond the dedup window) is out in less time than a busy moment explains. A service that is
# slower but does not drown keeps a backlog that does not grow; that shows in the delivery.
MAX_LATE = 0.25  # seconds
MAX_DRAIN = 0.5  # seconds
MAX_DELIVERY = 500.0  # ms beyond the window for 99 of 100 telegrams
MAX_DRIFT = 100.0  # ms by which the delivery may become slower from the first to the last quarter

RAMP_STEP = 1.35
RAMP_SECONDS = 6.0
RAMP_LIMIT = 30_000.0  # uplinks/s; the generator has no more in it
RAMP_HALVINGS = 3

QUIET = 0.2  # cores that others may keep busy without spoiling the figures
MILLION = 1_000_000


# --- what is measured ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One load on one service.

    Attributes:
        rate: uplinks per second, in all.
        overlap: base stations that hear each telegram; so rate / overlap telegrams a second.
        sensors: in all; 0: ten for each base station.
        delay: the dedup window in seconds.
        warm_up: seconds at the full rate before it is measured.
        settings: further settings of the service, `section.key` to value.
    """

    name: str = "single"
    rate: float = 3000.0
    stations: int = 100
    seconds: float = 15.0
    subpackets: bool = True
    early: bool = False
    overlap: int = 1
    sensors: int = 0
    delay: float = 2.0
    warm_up: float = WARM_UP
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def window(self) -> float:
        """Seconds by which each telegram is late on purpose."""
        return 0.0 if self.early else self.delay


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a load showed. Times in milliseconds unless said otherwise.

    Attributes:
        sustained: uplinks per second from the first one sent to the last one received, without
            the dedup window.
        cpu_us: processor time of the service for an uplink, in microseconds.
        main_cpu_us: the share of its main thread (everything but disk and broker threads).
        response_p50: ulData sent to ulDataRsp received.
        delivery_p50: last ulData of a telegram sent to its receipt by the subscriber, without the
            dedup window.
        delivery_drift: how much slower the delivery was at the end than at the beginning.
        lost: telegrams that were acknowledged and never received.
        repeats: telegrams received again under the same `id`.
        copies: telegrams received again under another `id`.
        disorder: telegrams received after a later one of the same sensor.
        unanswered: uplinks that were neither acknowledged nor refused.
        backlog: telegrams not yet published at the end of sending, without those in the window.
        drain: seconds until they were.
        late: seconds by which sending ended after its time.
        memory: MB in RAM of the service at the end of sending.
        memory_over_time: MB, at equal distances during the sending.
        generator_us: processor time of the load generator for an uplink, in microseconds.
        others_busy: cores that processes outside this measurement kept busy meanwhile.
    """

    case: Case
    sustained: float
    cpu_us: float
    main_cpu_us: float
    response_p50: float
    response_p99: float
    delivery_p50: float
    delivery_p99: float
    delivery_drift: float
    lost: int
    refused: int
    unanswered: int
    repeats: int
    copies: int
    disorder: int
    backlog: int
    drain: float
    late: float
    memory: float
    memory_over_time: tuple[float, ...]
    generator_us: float
    others_busy: float
    errors: dict[str, int]

    @property
    def is_complete(self) -> bool:
        """Nothing acknowledged is missing, nothing came twice, everything was answered."""
        return not (self.lost or self.copies or self.refused or self.unanswered)

    @property
    def is_sustained(self) -> bool:
        return (
            self.is_complete
            and self.late <= MAX_LATE
            and self.drain <= MAX_DRAIN
            and self.delivery_p99 <= MAX_DELIVERY
            and self.delivery_drift <= MAX_DRIFT
        )


class Rig:
    """A service with everything around it, ready for load."""

    def __init__(
        self, case: Case, *, broker: Process, service: Process, load: Process, subscriber: Process
    ) -> None:
        self._case = case
        self._broker = broker
        self._service = service
        self._load = load
        self._subscriber = subscriber
        self._acknowledged = 0
        self._distinct = 0

    def expect(self, telegrams: int) -> None:
        """So many more reach the subscriber, of base stations that are not of the load."""
        self._acknowledged += telegrams

    def measure(self, rate: float, seconds: float) -> Figures:
        """Put this load on the service and wait until all of it has come out."""
        self._subscriber.say("reset")
        self._subscriber.hear(ANSWER_TIMEOUT)
        earlier = self._report()
        before, start = self._service.usage(), time.monotonic()
        busy, own = machine_busy(), self._own_cpu()
        self._load.say(json.dumps({"rate": rate, "seconds": seconds}))
        memory = self._watch_memory(seconds)
        sent = cast("SentResult", self._load.hear(ANSWER_TIMEOUT))
        end = time.time()
        memory_at_end = self._service.usage().memory
        unpublished = self._distinct + sent["telegrams"] - self._count()
        answered = cast("LoadResult", self._load.hear(ANSWER_TIMEOUT))
        self._acknowledged += answered["acknowledged"]
        self._wait_drained()
        after, took = self._service.usage(), time.monotonic() - start
        others = (machine_busy() - busy - (self._own_cpu() - own)) / took
        seen = self._report()
        self._distinct = seen["distinct"]

        case = self._case
        window_ms = case.window * 1000
        in_window = rate / case.overlap * case.window
        drain = max(0.0, seen["last_receipt"] - end - case.window)
        main = self._service.pid
        main_cpu = after.threads.get(main, 0.0) - before.threads.get(main, 0.0)
        return Figures(
            case=replace(case, rate=rate, seconds=seconds),
            sustained=answered["answered"] / (sent["seconds"] + drain),
            cpu_us=(after.cpu - before.cpu) / sent["sent"] * 1e6,
            main_cpu_us=main_cpu / sent["sent"] * 1e6,
            response_p50=answered["latency"]["p50"],
            response_p99=answered["latency"]["p99"],
            delivery_p50=seen["latency"]["p50"] - window_ms,
            delivery_p99=seen["latency"]["p99"] - window_ms,
            delivery_drift=seen["latency"]["drift"],
            lost=self._acknowledged - seen["distinct"],
            refused=answered["refused"],
            unanswered=answered["outstanding"],
            repeats=seen["repeats"] - earlier["repeats"],
            copies=seen["copies"] - earlier["copies"],
            disorder=seen["disorder"] - earlier["disorder"],
            backlog=max(0, round(unpublished - in_window)),
            drain=drain,
            late=sent["late"],
            memory=memory_at_end / 1e6,
            memory_over_time=memory,
            generator_us=sent["cpu_us"],
            others_busy=max(0.0, others),
            errors=answered["errors"],
        )

    def _watch_memory(self, seconds: float) -> tuple[float, ...]:
        """Look at the service ten times until the sending is over."""
        deadline = time.monotonic() + seconds + ANSWER_TIMEOUT
        seen = []
        while not self._load.has_said(seconds / 10) and time.monotonic() < deadline:
            seen.append(round(self._service.usage().memory / 1e6, 1))
        return tuple(seen)

    def _wait_drained(self) -> None:
        """Until everything acknowledged was received, or nothing comes any more."""
        deadline = time.monotonic() + self._case.delay + 5.0
        last = -1
        limit = time.monotonic() + DRAIN_TIMEOUT
        while time.monotonic() < min(deadline, limit):
            count = self._count()
            if count >= self._acknowledged:
                return
            if count != last:
                last, deadline = count, time.monotonic() + self._case.delay + 5.0
            time.sleep(0.05)

    def _count(self) -> int:
        self._subscriber.say("count")
        return int(self._subscriber.hear(ANSWER_TIMEOUT)["distinct"])

    def _report(self) -> SubscriberResult:
        self._subscriber.say("report")
        return cast("SubscriberResult", self._subscriber.hear(ANSWER_TIMEOUT))

    def _own_cpu(self) -> float:
        used = os.times()
        children = (self._broker, self._service, self._load, self._subscriber)
        return used.user + used.system + sum(child.usage().cpu for child in children)


# --- starting it -----------------------------------------------------------------------------


def _bssci(folder: Path, *arguments: str) -> None:
    """Run a command that prepares the service.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(
        [*BSSCI, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"bssci {' '.join(arguments)}: exit {done.returncode}: {done.stderr}")


def _environment(case: Case, port: int) -> dict[str, str]:
    """The settings of the service, as environment variables."""
    settings = {
        "server.host": "127.0.0.1",
        "server.port": str(port),
        # All base stations share one certificate, which names one of them.
        "tls.identity": "chain",
        "dedup.early": "true" if case.early else "false",
        "dedup.delay": str(case.delay),
        **dict(case.settings),
    }
    names = {f"BSSCI_{key.replace('.', '_').upper()}": value for key, value in settings.items()}
    return {**names, "PYTHONPATH": str(ROOT)}


@contextmanager
def _service(case: Case, folder: Path, broker_port: int) -> Iterator[tuple[Process, int]]:
    """A service of its own state and certificates; gives it and its port."""
    home = folder / "service"
    _bssci(folder, "init", str(home), "--mqtt", f"mqtt://127.0.0.1:{broker_port}")
    _bssci(home, "certs", "station", STATION, "--out", str(folder / "station"))
    port = free_port()
    command = [*BSSCI, "serve", "-c", str(home / "sc.toml")]
    environment = _environment(case, port)
    with run(
        "service", command, on=cores().service, folder=folder, environment=environment
    ) as process:
        wait_for_port(port, process)
        try:
            yield process, port
        except RuntimeError as error:
            raise RuntimeError(f"{error}\nservice: {process.last_words()}") from error


def _load_command(case: Case, folder: Path, port: int, *, first: int = 0) -> list[str]:
    station = folder / "station"
    return [
        *(sys.executable, "-m", "benchmarks.load"),
        *("--port", str(port)),
        *("--ca", str(station / "ca_cert.pem")),
        *("--cert", str(station / f"{STATION}_cert.pem")),
        *("--key", str(station / f"{STATION}_key.pem")),
        *("--stations", str(case.stations)),
        *("--first-station", str(first)),
        *("--sensors", str(case.sensors)),
        *("--overlap", str(case.overlap)),
        "--subpackets" if case.subpackets else "--no-subpackets",
    ]


@contextmanager
def _connected(case: Case, folder: Path, port: int, *, first: int = 0) -> Iterator[Process]:
    """A load generator whose base stations are connected."""
    command = _load_command(case, folder, port, first=first)
    name = f"load-{first}"
    with run(name, command, on=cores().others, folder=folder, talks=True) as process:
        process.hear(CONNECT_TIMEOUT)
        yield process


@contextmanager
def rig(case: Case, parent: Path | None = None) -> Iterator[Rig]:
    """Everything a case needs, warmed up.

    Raises:
        RuntimeError: something does not start; with what it said.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        broker, broker_port = stack.enter_context(mosquitto(folder, on=cores().others))
        service, port = stack.enter_context(_service(case, folder, broker_port))
        command = [sys.executable, "-m", "benchmarks.subscriber", "--port", str(broker_port)]
        subscriber = stack.enter_context(
            run("subscriber", command, on=cores().others, folder=folder, talks=True)
        )
        subscriber.hear(ANSWER_TIMEOUT)
        load = stack.enter_context(_connected(case, folder, port))
        ready = Rig(case, broker=broker, service=service, load=load, subscriber=subscriber)
        if case.warm_up:
            ready.measure(case.rate, case.warm_up)
        yield ready


def measure(case: Case, parent: Path | None = None) -> Figures:
    """Measure one case with everything fresh; what it needs is made below `parent`."""
    with rig(case, parent) as ready:
        return ready.measure(case.rate, case.seconds)


def find_limit(case: Case, parent: Path | None = None) -> list[Figures]:
    """Raise the rate until it is not sustained, then close in; all steps, in order."""
    steps: list[Figures] = []
    good, bad = 0.0, 0.0
    with rig(case, parent) as ready:
        while not bad and case.rate * RAMP_STEP ** len(steps) < RAMP_LIMIT:
            steps.append(ready.measure(case.rate * RAMP_STEP ** len(steps), RAMP_SECONDS))
            _note(steps[-1])
            if steps[-1].is_sustained:
                good = steps[-1].case.rate
            else:
                bad = steps[-1].case.rate
        for _ in range(RAMP_HALVINGS if bad else 0):
            steps.append(ready.measure((good + bad) / 2, RAMP_SECONDS))
            _note(steps[-1])
            if steps[-1].is_sustained:
                good = steps[-1].case.rate
            else:
                bad = steps[-1].case.rate
    return steps


def idle_memory(stations: int, parent: Path | None = None) -> float:
    """kB in RAM for each of so many base stations that are connected and silent.

    A few others are connected before, so that what the service needs once is not counted.
    """
    few = Case(name="idle", stations=50, sensors=50)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        _, broker_port = stack.enter_context(mosquitto(folder, on=cores().others))
        service, port = stack.enter_context(_service(few, folder, broker_port))
        stack.enter_context(_connected(few, folder, port))
        time.sleep(5.0)  # two seconds after connect each is asked for its status
        before = service.usage().memory
        many = replace(few, stations=stations)
        stack.enter_context(_connected(many, folder, port, first=1000))
        time.sleep(5.0)
        return (service.usage().memory - before) / stations / 1000


def help_ratio(runs: int = 21) -> tuple[float, float]:
    """How often longer `bssci --help` takes than bare Python; and its time in ms."""
    bare, command = [], []
    for _ in range(runs):
        bare.append(_seconds(BARE_PYTHON))
        command.append(_seconds([*BSSCI, "--help"]))
    return statistics.median(command) / statistics.median(bare), statistics.median(command) * 1000


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    return time.perf_counter() - start


def fsync_ms(folder: Path) -> float:
    """How long the disk of the journal takes to make a page durable."""
    path = folder / "fsync"
    times = []
    with path.open("wb") as file:
        for _ in range(30):
            file.write(bytes(4096))
            file.flush()
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return statistics.median(times) * 1000


# --- the standard suite ----------------------------------------------------------------------

SUITE = (
    Case(name="3,000/s, 100 stations, 24 subpackets"),
    Case(name="3,000/s, 100 stations, no subpackets", subpackets=False),
    Case(name="1,000/s, 100 stations, 24 subpackets", rate=1000),
    Case(name="1,000/s, 1 station, 24 subpackets", rate=1000, stations=1, sensors=100),
    Case(name="3,000/s, 1000 stations, 24 subpackets", stations=1000),
    Case(
        name="early: 100 telegrams/s, heard by 3 of 10",
        rate=300,
        stations=10,
        overlap=3,
        sensors=100,
        early=True,
        warm_up=12.0,
    ),
    Case(name="dedup: 3,000/s, heard by 3 of 100", overlap=3),
)
THROUGHPUT, _, LATENCY, _, _, EARLY, _ = SUITE

# What is remembered of published telegrams is bounded by time. A minute of it is reached early in
# the run, so that the rest shows whether anything else grows.
ENDURANCE = Case(
    name="a million uplinks, 3,000/s",
    seconds=MILLION / 3000,
    settings=(("dedup.memory", "60"),),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What must be reached, and what was."""

    name: str
    wanted: str
    reached: str
    is_reached: bool


def at_most(name: str, value: float, limit: float, unit: str) -> Target:
    short = "" if value <= limit else f", {value - limit:,.1f} {unit} over"
    return Target(name, f"<= {limit:g} {unit}", f"{value:,.1f} {unit}{short}", value <= limit)


def sustained(figures: Figures) -> Target:
    """Whether the rate that was asked for was taken without anything piling up."""
    asked, got = figures.case.rate, figures.sustained
    short = "" if figures.is_sustained else f" of {asked:,.0f}: {1 - got / asked:.1%} short"
    return Target(
        "sustained, 100 stations, 24 subpackets",
        f">= {asked:,.0f} uplinks/s",
        f"{got:,.0f} uplinks/s{short}",
        figures.is_sustained,
    )


def targets(figures: list[Figures]) -> list[Target]:
    """The figures of the suite against what must be reached."""
    by_case = {figure.case.name: figure for figure in figures}
    found = [at_most("telegrams lost, all cases", sum(f.lost for f in figures), 0, "telegrams")]
    if throughput := by_case.get(THROUGHPUT.name):
        found.append(sustained(throughput))
    if latency := by_case.get(LATENCY.name):
        found.append(at_most("ulDataRsp p50 at 1,000/s", latency.response_p50, 5, "ms"))
        found.append(
            at_most("station to subscriber p99 at 1,000/s", latency.delivery_p99, 50, "ms")
        )
    if early := by_case.get(EARLY.name):
        found.append(at_most("early: p50 to the subscriber", early.delivery_p50, 15, "ms"))
    if endurance := by_case.get(ENDURANCE.name):
        over_time = endurance.memory_over_time
        growth = over_time[-1] - over_time[len(over_time) // 2]
        found.append(at_most("memory growth, second half million", growth, 5, "MB"))
    return found


# --- the command line ------------------------------------------------------------------------

COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("asked/s", lambda f: f"{f.case.rate:,.0f}"),
    ("sustained/s", lambda f: f"{f.sustained:,.0f}{'' if f.is_sustained else ' !'}"),
    ("CPU us", lambda f: f"{f.cpu_us:.0f}"),
    ("of it main", lambda f: f"{f.main_cpu_us:.0f}"),
    ("rsp p50", lambda f: f"{f.response_p50:.1f}"),
    ("rsp p99", lambda f: f"{f.response_p99:.1f}"),
    ("sub p50", lambda f: f"{f.delivery_p50:.1f}"),
    ("sub p99", lambda f: f"{f.delivery_p99:.1f}"),
    ("lost", lambda f: f"{f.lost}"),
    ("copies", lambda f: f"{f.copies}"),
    ("disorder", lambda f: f"{f.disorder}"),
    ("backlog", lambda f: f"{f.backlog}"),
    ("drain s", lambda f: f"{f.drain:.2f}"),
    ("RSS MB", lambda f: f"{f.memory:.0f}"),
    ("load us", lambda f: f"{f.generator_us:.0f}"),
    ("others", lambda f: f"{f.others_busy:.2f}"),
)


def table(figures: list[Figures]) -> str:
    rows = [["", *(name for name, _ in COLUMNS)]]
    rows += [[f.case.name, *(show(f) for _, show in COLUMNS)] for f in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for name, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]).rstrip())
    return "\n".join(lines)


def _note(figures: Figures) -> None:
    """Progress, for who waits."""
    mark = "sustained" if figures.is_sustained else "not sustained"
    print(
        f"{figures.case.name}: {figures.sustained:,.0f}/s of {figures.case.rate:,.0f}/s, {mark}, "
        f"{figures.cpu_us:.0f} us, lost {figures.lost}",
        file=sys.stderr,
        flush=True,
    )
    for error, count in figures.errors.items():
        print(f"  {count} x error {error}", file=sys.stderr, flush=True)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.end_to_end", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--rate", type=float, help="uplinks/s of a single case; none: the suite")
    parser.add_argument("--ramp", action="store_true", help="find the highest sustained rate")
    parser.add_argument("--stations", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--overlap", type=int, default=1, help="stations that hear a telegram")
    parser.add_argument("--sensors", type=int, default=0, help="in all; default: 10 a station")
    parser.add_argument("--delay", type=float, default=2.0, help="the dedup window, in seconds")
    parser.add_argument("--subpackets", action=flag, default=True, help="1.1 kB, or 0.2 kB")
    parser.add_argument("--early", action=flag, default=False, help="dedup.early")
    parser.add_argument("--warm-up", type=float, default=WARM_UP, help="seconds not measured")
    parser.add_argument("--million", action="store_true", help="add the run of a million uplinks")
    parser.add_argument("--profile", action="store_true", help="add the cost of each stage alone")
    parser.add_argument("--folder", type=Path, help="where the journal is, on the disk to measure")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return parser.parse_args(arguments)


def _single_case(options: argparse.Namespace) -> Case:
    return Case(
        rate=options.rate or 1000.0,
        stations=options.stations,
        seconds=options.seconds,
        subpackets=options.subpackets,
        early=options.early,
        overlap=options.overlap,
        sensors=options.sensors,
        delay=options.delay,
        warm_up=options.warm_up,
    )


def _run_suite(options: argparse.Namespace) -> tuple[list[Figures], list[Target]]:
    cases = [*SUITE, ENDURANCE] if options.million else list(SUITE)
    figures = []
    for case in cases:
        figures.append(measure(case, options.folder))
        _note(figures[-1])
    reached = targets(figures)
    memory = idle_memory(1000, options.folder)
    reached.append(at_most("memory per idle station at 1,000", memory, 60, "kB"))
    ratio, took = help_ratio()
    reached.append(at_most(f"bssci --help ({took:.0f} ms) to bare Python", ratio, 15, "times"))
    return figures, reached


def main() -> int:
    options = read_options()
    figures: list[Figures]
    reached: list[Target] = []
    if options.ramp:
        figures = find_limit(_single_case(options), options.folder)
    elif options.rate:
        figures = [measure(_single_case(options), options.folder)]
    else:
        figures, reached = _run_suite(options)
    disk = fsync_ms(options.folder or Path(tempfile.gettempdir()))
    if options.json:
        print(
            json.dumps(
                {
                    "machine": machine(),
                    "fsync_ms": disk,
                    "figures": [asdict(f) | {"is_sustained": f.is_sustained} for f in figures],
                    "targets": [asdict(target) for target in reached],
                }
            )
        )
    else:
        _print_all(figures, reached, disk)
    if options.profile:
        subprocess.run([sys.executable, "-m", "benchmarks.stages"], cwd=ROOT, check=True)
    return 0 if all(not (f.lost or f.copies) for f in figures) else 1


def _print_all(figures: list[Figures], reached: list[Target], disk: float) -> None:
    apart = "service on a core of its own" if cores().are_apart else "all on one core"
    print(f"{machine()}; {apart}; fdatasync of a page {disk:.2f} ms\n")
    print(table(figures))
    print("\nTimes in ms; `sub` is station to subscriber without the dedup window; `!`: the rate")
    print("was not sustained; `others`: cores that something else kept busy.")
    if figures and (busy := max(figure.others_busy for figure in figures)) > QUIET:
        print(f"\nNOT QUIET: other work took up to {busy:.1f} cores; rates and times say little.")
    for figure in figures:
        if len(figure.memory_over_time) > 1 and figure.case.seconds >= 60:
            over_time = ", ".join(f"{value:.0f}" for value in figure.memory_over_time)
            print(f"\nRSS in MB over {figure.case.name}: {over_time}")
    if rates := [f.case.rate for f in figures if f.is_sustained]:
        print(f"\nHighest rate sustained: {max(rates):,.0f} uplinks/s")
    if reached:
        print()
    for target in reached:
        mark = "reached   " if target.is_reached else "FELL SHORT"
        print(f"{mark}  {target.name}: {target.reached} (wanted {target.wanted})")


if __name__ == "__main__":
    sys.exit(main())
