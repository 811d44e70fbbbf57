"""The processes of a measurement: started on their core, talked to in lines of JSON, ended by pid.

What a process costs is read from `/proc`; so this part runs on Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "ROOT",
    "Cores",
    "Process",
    "Usage",
    "broker_program",
    "cores",
    "free_port",
    "machine",
    "machine_busy",
    "mosquitto",
    "run",
    "wait_for_port",
]

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 20.0  # seconds until a process must listen or have said its first line
STOP_TIMEOUT = 10.0  # seconds between SIGTERM and SIGKILL
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
PAGE = os.sysconf("SC_PAGE_SIZE")

# QoS 1 without a limit on the way to the subscriber: a broker that drops would look like a loss.
BROKER_SETTINGS = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 0
set_tcp_nodelay true
"""


# --- the machine -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the service runs, and where everything else does."""

    service: frozenset[int]
    others: frozenset[int]

    @property
    def are_apart(self) -> bool:
        return not self.service & self.others


def cores() -> Cores:
    """One core for the service, another for the rest; all share one where there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(usable[:1]), frozenset(usable[1:2] or usable[:1]))


def machine() -> str:
    """What this ran on, in words that name no one."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    count = len(os.sched_getaffinity(0))
    version = ".".join(str(part) for part in sys.version_info[:3])
    return f"{count} core{'s' * (count != 1)}, {model}, Python {version}"


def machine_busy() -> float:
    """Seconds in which a core was busy, summed over all cores, since the machine started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, soft = (int(field) for field in fields[:7])
    return (user + nice + system + irq + soft) * TICK


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, process: Process) -> None:
    """Return when somebody listens there.

    Raises:
        RuntimeError: the process ended, or took too long.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if not process.is_running:
            raise RuntimeError(f"{process.name} ended at once: {process.last_words()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.name} does not listen after {START_TIMEOUT:g} s")


# --- a process -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far.

    Attributes:
        cpu: seconds of processor time, user and system, all threads.
        threads: the same by thread, for threads that still live; the first is the main thread.
        memory: octets in RAM (resident set).
    """

    cpu: float
    threads: dict[int, float]
    memory: int


class Process:
    """A process we have started."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], errors: Path) -> None:
        self.name = name
        self._popen = popen
        self._errors = errors
        self._inbox = b""

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def say(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")
        self._popen.stdin.flush()

    def hear(self, timeout: float) -> dict[str, Any]:
        """The next line of JSON that the process says.

        Raises:
            RuntimeError: it ended, or said nothing in time.
        """
        assert self._popen.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._inbox:
            ready, _, _ = select.select(
                [self._popen.stdout], [], [], max(0.0, deadline - time.monotonic())
            )
            if not ready:
                raise RuntimeError(f"{self.name} has said nothing for {timeout:g} s")
            data = os.read(self._popen.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError(f"{self.name} has ended: {self.last_words()}")
            self._inbox += data
        line, self._inbox = self._inbox.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def has_said(self, timeout: float) -> bool:
        """Whether there is something to hear, now or within that many seconds."""
        assert self._popen.stdout is not None
        return bool(self._inbox) or bool(select.select([self._popen.stdout], [], [], timeout)[0])

    def usage(self) -> Usage:
        folder = Path(f"/proc/{self.pid}")
        tasks = sorted(int(task.name) for task in (folder / "task").iterdir())
        threads: dict[int, float] = {}
        for task in tasks:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                threads[task] = _cpu(folder / "task" / str(task) / "stat")
        memory = int((folder / "statm").read_text().split()[1]) * PAGE
        return Usage(_cpu(folder / "stat"), threads, memory)

    def last_words(self) -> str:
        return self._errors.read_text(errors="replace")[-2000:].strip() or "(no message)"

    def stop(self) -> None:
        """End the process: end of input, SIGTERM, and after a while SIGKILL."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if self.is_running:
            self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def _cpu(stat: Path) -> float:
    # The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


@contextmanager
def run(
    name: str,
    command: list[str],
    *,
    on: frozenset[int],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    talks: bool = False,
) -> Iterator[Process]:
    """Start a process on these cores; it is over when the context ends.

    Args:
        folder: gets what the process writes to standard error.
        talks: standard input and output are ours, for `say` and `hear`.
    """
    errors = folder / f"{name}.err"
    pipe = subprocess.PIPE if talks else subprocess.DEVNULL
    with errors.open("ab") as sink, _affinity(on):
        popen = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=sink,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
    process = Process(name, popen, errors)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def _affinity(on: frozenset[int]) -> Iterator[None]:
    """What is started in here runs on these cores, from its first instruction."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def broker_program() -> str | None:
    """Where mosquitto is; distributions put it into a folder that is not on every PATH."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which("mosquitto", path=path)


@contextmanager
def mosquitto(folder: Path, *, on: frozenset[int]) -> Iterator[tuple[Process, int]]:
    """A broker for this measurement alone; gives it and its port.

    Raises:
        RuntimeError: there is no mosquitto, or it does not start.
    """
    program = broker_program()
    if program is None:
        raise RuntimeError("mosquitto is not installed; it is the broker of the measurement")
    port = free_port()
    settings = folder / "mosquitto.conf"
    settings.write_text(BROKER_SETTINGS.format(port=port))
    with run("mosquitto", [program, "-c", str(settings)], on=on, folder=folder) as process:
        wait_for_port(port, process)
        yield process, port
