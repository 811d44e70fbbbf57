"""The monitor at work, on a terminal in memory and a clock that jumps."""

import signal
import threading
from collections import deque
from itertools import pairwise
from typing import Any

import pytest
import trio

from bssci.cli.monitor.app import FRAME, App
from bssci.cli.monitor.controls import Controls
from tests.cli.monitor import network
from tests.control import Station
from tests.processes import in_background, wait_until

KITCHEN = int(network.KITCHEN, 16)


class Memory:
    """A terminal that keeps what is shown and when."""

    def __init__(self):
        self.size = (100, 30)
        self.frames: deque[tuple[float, list[Any], tuple[int, int]]] = deque()
        self.keys, self._typed = trio.open_memory_channel[bytes](100)
        self.told = []
        self.is_there = True

    @property
    def text(self):
        return "\n".join(line.plain for line in self.frames[-1][1]) if self.frames else ""

    async def show(self, lines, size):
        if not self.is_there:
            raise OSError(5, "Input/output error")
        self.frames.append((trio.current_time(), [line.copy() for line in lines], size))

    async def read(self):
        try:
            return await self._typed.receive()
        except trio.EndOfChannel:
            return b""

    def type(self, text):
        self.keys.send_nowait(text.encode())

    def forget(self):
        self.told.append("forget")

    def suspend(self):
        self.told.append("suspend")

    def resume(self):
        self.told.append("resume")


async def no_command(line, say):
    say(f"ran {line}")
    return 4


def app(folder, terminal, run_command=no_command, **given):
    return App(terminal, folder / "control.sock", Controls(**given), run_command)


async def test_there_are_at_most_eight_frames_a_second_and_no_thread(tmp_path, autojump_clock):
    threads = threading.active_count()
    terminal = Memory()
    running = app(tmp_path, terminal)

    async def keys():
        while True:
            terminal.type("\t")
            await trio.sleep(0.01)

    async with in_background(running.run, keys):
        await trio.sleep(10)
        assert threading.active_count() == threads
    times = [time for time, _, _ in terminal.frames]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= FRAME
    assert 75 <= len(times) <= 81


async def test_at_rest_it_is_drawn_once_a_second(tmp_path, autojump_clock):
    terminal = Memory()
    async with in_background(app(tmp_path, terminal).run):
        await trio.sleep(100)
        before = len(terminal.frames)
        await trio.sleep(60)
    # Once a second, and when it looks for the service again.
    assert 60 <= len(terminal.frames) - before <= 60 + 60 / 5 + 1


async def test_a_frame_is_as_large_as_the_terminal_is_then(tmp_path, autojump_clock):
    terminal = Memory()
    async with in_background(app(tmp_path, terminal).run):
        await trio.sleep(3)
        terminal.size = (60, 20)
        signal.raise_signal(signal.SIGWINCH)
        await trio.sleep(2 * FRAME)
        assert (len(terminal.frames[-1][1]), terminal.frames[-1][2]) == (20, (60, 20))


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
async def test_signals_end_it_with_their_exit_codes(tmp_path, autojump_clock, number, code):
    codes = []

    async def run():
        codes.append(await app(tmp_path, Memory()).run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(1)
        signal.raise_signal(number)
    assert codes == [code]


async def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it(tmp_path, autojump_clock):
    terminal = Memory()
    async with in_background(app(tmp_path, terminal).run):
        await trio.sleep(1)
        for number in (signal.SIGTSTP, signal.SIGCONT):
            signal.raise_signal(number)
            await trio.sleep(1)
    assert terminal.told == ["suspend", "resume"]


async def test_a_terminal_that_goes_away_ends_it(tmp_path, autojump_clock):
    terminal = Memory()
    terminal.is_there = False
    assert await app(tmp_path, terminal).run() == 129
    terminal = Memory()
    terminal.keys.close()
    assert await app(tmp_path, terminal).run() == 129


async def test_escape_is_told_from_an_arrow_by_what_follows(tmp_path, autojump_clock):
    terminal = Memory()
    async with in_background(app(tmp_path, terminal).run):
        terminal.type("?")
        await trio.sleep(1)
        assert "In a view" in terminal.text
        terminal.type("\x1b")
        terminal.type("[B")
        await trio.sleep(1)
        assert "In a view" in terminal.text
        terminal.type("\x1b")
        await trio.sleep(1)
        assert "In a view" not in terminal.text
        terminal.type("\x0c")
        await trio.sleep(1)
    assert terminal.told == ["forget"]


async def test_a_command_is_shown_with_what_it_says(tmp_path, autojump_clock):
    terminal = Memory()
    async with in_background(app(tmp_path, terminal).run):
        terminal.type(":status\r")
        await trio.sleep(1)
    assert "bssci status   ✕ exit code 4\n  ran status" in terminal.text


async def test_a_command_that_is_put_away_ends(tmp_path, autojump_clock):
    ended = []

    async def for_ever(line, say):
        say("begun")
        try:
            await trio.sleep_forever()
        finally:
            ended.append(line)

    terminal = Memory()
    async with in_background(app(tmp_path, terminal, for_ever).run):
        terminal.type(":tail\r")
        await trio.sleep(1)
        assert ("◐ running" in terminal.text, ended) == (True, [])
        terminal.type("q")
        await trio.sleep(1)
        assert ("◐ running" in terminal.text, ended) == (False, ["tail"])


async def test_that_the_service_is_away_is_shown(tmp_path, autojump_clock):
    terminal = Memory()
    async with in_background(app(tmp_path, terminal).run):
        await trio.sleep(3)
    assert "\n ✕ no service for 0 s: no service runs" in terminal.text


async def test_a_change_is_made_after_a_yes_and_its_outcome_told(service, folder):
    service.register(KITCHEN, name="Kitchen")
    service.stations = [Station(network.TOWER, name="Tower")]
    terminal = Memory()
    async with in_background(app(folder, terminal, can_operate=True, view="sensors").run):
        await wait_until(lambda: "Kitchen" in terminal.text, "the sensor")
        terminal.type("d")
        await wait_until(lambda: "detach sensor" in terminal.text, "the question")
        terminal.type("y")
        await wait_until(lambda: "1 confirmed" in terminal.text, "the outcome")
        assert service.wanted[KITCHEN] == "detached"
        terminal.type("2x")
        await wait_until(lambda: "disconnect base station" in terminal.text, "the question")
        terminal.type("n")
        await wait_until(lambda: "nothing was done" in terminal.text, "the answer")
        terminal.type("xy")
        await wait_until(lambda: "disconnect 70B3D59CD0000001: done" in terminal.text, "that")


async def test_what_a_change_was_refused_for_is_told(service, folder):
    from bssci.core.center.rpc import RequestError

    service.register(KITCHEN, name="Kitchen")
    service.faults["sensors.attach"] = RequestError("not now", hint="come back")
    terminal = Memory()
    async with in_background(app(folder, terminal, can_operate=True, view="sensors").run):
        await wait_until(lambda: "Kitchen" in terminal.text, "the sensor")
        terminal.type("ay")
        await wait_until(lambda: "✕ not now; come back" in terminal.text, "the refusal")
