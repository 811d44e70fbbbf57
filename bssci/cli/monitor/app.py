"""The monitor at work: keys, signals, time and the service change what is known; it is drawn."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import trio
from rich.text import Text

from bssci.cli import output
from bssci.cli.monitor.controls import (
    CHANGES,
    Action,
    Change,
    Controls,
    Look,
    Output,
    Quit,
    Redraw,
    Run,
    Stop,
)
from bssci.cli.monitor.frame import draw, page
from bssci.cli.monitor.keys import ESCAPE_DELAY, Keys
from bssci.cli.monitor.running import RunCommand
from bssci.cli.monitor.state import Known
from bssci.cli.monitor.watching import Watching
from bssci.core.protocol.errors import BssciError

__all__ = ["FRAME", "App", "Terminal"]

FRAME = 0.125  # seconds between two frames, at least
TICK = 1.0  # seconds; ages are told in seconds

SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH),
)

HUNG_UP = 128 + signal.SIGHUP  # exit code


class Terminal(Protocol):
    """What is drawn on, and typed at."""

    @property
    def size(self) -> tuple[int, int]: ...
    async def show(self, lines: Sequence[Text], size: tuple[int, int], /) -> None: ...
    async def read(self) -> bytes: ...
    def forget(self) -> None: ...
    def suspend(self) -> None: ...
    def resume(self) -> None: ...


class App:
    """Joins a terminal, a service and the person in front of it."""

    def __init__(
        self,
        terminal: Terminal,
        socket: Path,
        controls: Controls,
        run_command: RunCommand,
    ) -> None:
        """
        Args:
            run_command: what is done with a line that is typed behind a colon.
        """
        self._terminal = terminal
        self._controls = controls
        self._run_command = run_command
        self._known = Known()
        # One change that waits to be drawn stands for all.
        self._change_is_there, self._changes = trio.open_memory_channel[None](1)
        self._watching = Watching(socket, self._known, self._changed)
        self._keys = Keys()
        self._command = trio.CancelScope()
        self._exit_code = 0

    async def run(self) -> int:
        """Until somebody quits; the exit code."""
        async with trio.open_nursery() as nursery:
            self._nursery_scope = nursery.cancel_scope
            await nursery.start(self._heed_signals, nursery)
            nursery.start_soon(self._watching.run)
            nursery.start_soon(self._read_keys, nursery)
            nursery.start_soon(self._tick)
            nursery.start_soon(self._draw)
        return self._exit_code

    def _changed(self) -> None:
        try:
            self._change_is_there.send_nowait(None)
        except trio.WouldBlock:
            return

    def _quit(self, code: int) -> None:
        self._exit_code = code
        self._nursery_scope.cancel()

    # --- drawing ---

    async def _draw(self) -> None:
        self._changed()
        async for _ in self._changes:
            size = self._terminal.size
            lines = draw(self._known, self._controls, *size, output.now())
            try:
                await self._terminal.show(lines, size)
            except OSError:  # the terminal has gone
                return self._quit(HUNG_UP)
            await trio.sleep(FRAME)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK)
            self._changed()

    # --- keys ---

    async def _read_keys(self, nursery: trio.Nursery) -> None:
        while True:
            with trio.move_on_after(ESCAPE_DELAY if self._keys.is_waiting else float("inf")):
                data = await self._terminal.read()
                if not data:
                    return self._quit(HUNG_UP)
                self._press(self._keys.feed(data), nursery)
                continue
            self._press(self._keys.flush(), nursery)

    def _press(self, keys: Sequence[str], nursery: trio.Nursery) -> None:
        rows = page(self._terminal.size[1])
        for key in keys:
            action = self._controls.press(key, self._known, rows)
            if action is not None:
                self._do(action, nursery)
        self._changed()

    def _do(self, action: Action, nursery: trio.Nursery) -> None:
        match action:
            case Quit(code=code):
                self._quit(code)
            case Redraw():
                self._terminal.forget()
            case Look(opened=opened):
                self._watching.look(opened)
            case Run(line=line):
                assert self._controls.output is not None
                self._command.cancel()
                self._command = trio.CancelScope()
                nursery.start_soon(self._run, line, self._controls.output, self._command)
            case Stop():
                self._command.cancel()
            case Change():
                nursery.start_soon(self._make, action)

    # --- what takes time ---

    async def _run(self, line: str, shown: Output, scope: trio.CancelScope) -> None:
        def say(text: str) -> None:
            shown.say(text)
            self._changed()

        with scope:
            shown.end(await self._run_command(line, say))
        self._changed()

    async def _make(self, change: Change) -> None:
        word = next(word for method, word in CHANGES.values() if method == change.method)
        self._controls.message = f"{word} {change.eui}: under way"
        self._changed()
        try:
            found = await self._watching.change(change.method, change.eui)
        except BssciError as error:
            hint = getattr(error, "hint", "")
            self._controls.message = f"✕ {error}{f'; {hint}' if hint else ''}"
        else:
            self._controls.message = f"{word} {change.eui}: {_outcome(found)}"
        self._changed()

    # --- signals ---

    async def _heed_signals(
        self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.open_signal_receiver(*SIGNALS) as numbers:
            task_status.started()
            async for number in numbers:
                match number:
                    case signal.SIGINT:
                        self._press(["ctrl-c"], nursery)
                    case signal.SIGTSTP:
                        self._terminal.suspend()
                    case signal.SIGCONT:
                        self._terminal.resume()
                    case signal.SIGTERM | signal.SIGHUP:
                        self._quit(128 + number)
                self._changed()


def _outcome(found: dict[str, list[object]]) -> str:
    """What came of a change at the base stations."""
    counts = [
        f"{len(found[name])} {name}"
        for name in ("confirmed", "pending", "refused")
        if found.get(name)
    ]
    return ", ".join(counts) or "done"
