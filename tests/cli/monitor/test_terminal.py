"""The monitor on a real terminal: tmux, a shell in it, and keys."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.monitor import network
from tests.control import FakeService, Station

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
]

PATIENCE = 60.0  # seconds until something that must be seen is seen
LOOK = 0.03  # seconds between two looks

VIEWS = ("overview", "stations", "sensors", "uplinks", "downlinks", "events", "refused")


class Terminal:
    """A window of tmux with a shell in it."""

    def __init__(self, folder: Path, columns: int = 100, lines: int = 30) -> None:
        self._socket = folder / "tmux"
        self._folder = folder
        self._tmux(
            *("-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", lines),
            "env PS1='$ ' HISTFILE= bash --norc --noprofile",
        )
        self.until("$")

    def _tmux(self, *arguments: object) -> str:
        done = subprocess.run(
            ["tmux", "-u", "-S", str(self._socket), *map(str, arguments)],
            capture_output=True,
            check=True,
            text=True,
            env=os.environ | {"TZ": "UTC", "LC_ALL": "C.UTF-8"},
        )
        return done.stdout

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")

    @property
    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    @property
    def pid(self) -> int:
        """Of the monitor, which runs in the foreground."""
        shell = self._tmux("display-message", "-p", "#{pane_pid}").strip()
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", shell], capture_output=True, text=True
        )
        return int(found.stdout.split()[0])

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-x", columns, "-y", lines)

    def until(self, *patterns: str, absent: str | None = None) -> str:
        """What is on the screen as soon as all this is there, and that is not."""
        deadline = time.monotonic() + PATIENCE
        while True:
            text = self.text
            is_there = all(pattern in text for pattern in patterns)
            if is_there and (absent is None or absent not in text):
                return text
            assert time.monotonic() < deadline, f"{patterns} without {absent!r} is not in:\n{text}"
            time.sleep(LOOK)

    def start(self, *options: str) -> None:
        """The monitor, between two looks at how the terminal is set."""
        socket = self._folder / "control.sock"
        words = [sys.executable, "-m", "bssci", "monitor", *options, "--socket", str(socket)]
        self.type(f"clear; A=$(stty -g); {shlex.join(words)}; echo exit code $?")
        self.press("Enter")

    def is_sane(self) -> None:
        """It is set as it was before, the cursor is there, and the screen is the shell's."""
        self.type('clear; [ "$A" = "$(stty -g)" ] && echo as "before" || echo it is not')
        self.press("Enter")
        self.until("as before\n")
        state = self._tmux("display-message", "-p", "#{alternate_on} #{cursor_flag} #{wrap_flag}")
        assert state.strip() == "0 1 1"


@pytest.fixture
def terminal(folder):
    made = Terminal(folder)
    yield made
    made.close()


@pytest.fixture
def site(service):
    return filled(service)


def filled(service):
    for number, name in ((network.KITCHEN, "Kitchen"), (network.BATH, "Bath")):
        service.register(int(number, 16), name=name)
    service.stations = [Station(network.TOWER, name="Tower"), Station(network.MAST)]
    service.uplinks = [*reversed(network.uplinks(30))]
    service.refused = network.refused()
    service.history[int(network.KITCHEN, 16)] = network.episodes()
    return service


def fits(text, columns, lines):
    """Each line of a frame is where it belongs."""
    shown = text.rstrip("\n").split("\n")
    assert len(shown) == lines
    assert re.match(r" ● bssci 1\.2\.3 .*\d\d:\d\d:\d\d$", shown[1]), text
    assert max(map(len, shown)) <= columns
    assert "quit" in shown[-1] or "command" in shown[-1]


def test_a_walk_through_everything(site, terminal):
    terminal.start()
    terminal.until("[1 overview]", "Tower", "Kitchen", "● bssci 1.2.3")
    for number, view in enumerate(VIEWS, 1):
        terminal.press(str(number))
        terminal.until(f"[{number} {view}]")
    terminal.until("not tls", "identity mismatch")

    terminal.press("3", "Down")
    terminal.until("▶ 70B3D59CD0000103")
    terminal.press("Up", "Enter")
    terminal.until("Sensor 70B3D59CD0000102  Kitchen", "SNR", "lost", "History", "no room")
    terminal.press("Escape")
    terminal.until("by EUI")
    terminal.press("2", "Enter")
    terminal.until("Base station 70B3D59CD0000001  Tower", "uplinks/s", "clock")
    terminal.press("Escape", "3", "s")
    terminal.until("by activity")
    terminal.press("/")
    terminal.type("bath")
    terminal.press("Enter")
    terminal.until("1 of 2 by activity", "filter: bath", absent="Kitchen")
    terminal.press("Escape")
    terminal.until("Kitchen")
    terminal.press("?")
    terminal.until("overview: the service, and what needs a look")
    terminal.press("q")
    terminal.until("[3 sensors]")

    terminal.press(":")
    terminal.type("sensors show Kitchen")
    terminal.press("Enter")
    terminal.until("bssci sensors show Kitchen", "exit code 0")
    terminal.press("q")
    terminal.until("[3 sensors]", absent="exit code 0")
    terminal.press("q")
    terminal.until("exit code 0")
    terminal.is_sane()


def test_pause_counts_what_comes_and_shows_it_after(site, terminal):
    terminal.start("--view", "uplinks")
    terminal.until("[4 uplinks]", " 30 by newest")
    terminal.press("p")
    terminal.until("paused, 0 new")
    for number in range(100, 105):
        site.tell("uplink", network.uplink(number, cnt=7000 + number, ago=0))
    text = terminal.until("paused, 5 new", " 30 by newest")
    assert "7104" not in text
    terminal.press("p")
    terminal.until(" 35 by newest", *(str(7000 + number) for number in range(100, 105)))
    terminal.press("q")
    terminal.until("exit code 0")


def test_it_is_right_at_every_size_and_right_after_a_resize(site, terminal):
    terminal.start()
    terminal.until("[1 overview]", "Tower")
    for columns, lines in ((60, 20), (200, 60), (80, 24), (120, 10)):
        terminal.resize(columns, lines)
        # Also the last line is there, and nothing of the frame before.
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fits(terminal.text, columns, lines)
            except AssertionError:
                assert time.monotonic() < deadline, terminal.text
                time.sleep(LOOK)
            else:
                break
    terminal.press("q")
    terminal.until("exit code 0")
    terminal.is_sane()


def test_ctrl_z_and_fg_leave_a_sane_terminal(site, terminal):
    terminal.start()
    terminal.until("[1 overview]", "Tower")
    terminal.press("C-z")
    terminal.until("Stopped")
    terminal.is_sane()
    terminal.type("fg")
    terminal.press("Enter")
    terminal.until("[1 overview]", "Tower")
    terminal.press("3")
    terminal.until("[3 sensors]", "Kitchen")
    terminal.press("q")
    terminal.until("$", absent="[3 sensors]")
    terminal.is_sane()


@pytest.mark.parametrize(("number", "code"), [(15, 143), (2, 130), (1, 129)])
def test_a_signal_leaves_a_sane_terminal(site, terminal, number, code):
    terminal.start()
    terminal.until("[1 overview]", "Tower")
    os.kill(terminal.pid, number)
    terminal.until(f"exit code {code}")
    terminal.is_sane()


def test_ctrl_c_ends_a_command_and_then_the_monitor(site, terminal):
    terminal.start()
    terminal.until("[1 overview]", "Tower")
    terminal.press(":")
    terminal.type("uplinks tail --count 1")
    terminal.press("Enter")
    terminal.until("◐ running", "0011ff")
    terminal.press("C-c")
    terminal.until("[1 overview]", "Tower", absent="◐ running")
    terminal.press("C-c")
    terminal.until("exit code 130")
    terminal.is_sane()


def test_the_service_goes_and_comes_back(folder, terminal):
    first, second = filled(FakeService()), filled(FakeService())
    second.register(int(network.ATTIC, 16), name="Attic")
    with contextlib.ExitStack() as on:
        on.enter_context(first.serving(folder / "control.sock"))
        terminal.start("--view", "sensors")
        terminal.until("[3 sensors]", "Kitchen")
        on.close()
        # What was known stays on the screen.
        terminal.until("✕ no service for", "Kitchen")
        on.enter_context(second.serving(folder / "control.sock"))
        terminal.until("● bssci 1.2.3", "Attic", absent="no service")
        terminal.press("q")
        terminal.until("exit code 0")


def test_keys_that_change_something_ask_and_only_with_operate(site, terminal):
    terminal.start("--view", "sensors", "--operate")
    terminal.until("Kitchen")
    terminal.press("d")
    terminal.until("detach sensor 70B3D59CD0000102 Kitchen? [y/N]")
    terminal.press("n")
    terminal.until("nothing was done")
    assert site.wanted[int(network.KITCHEN, 16)] == "attached"
    terminal.press("d", "y")
    terminal.until("detach 70B3D59CD0000102: 2 confirmed", "○ detached")
    terminal.press("q")
    terminal.until("exit code 0")
