"""Command lines, run as they would be in a shell, with what they say a line at a time."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

__all__ = ["RunCommand", "arguments", "command_runner"]

Say = Callable[[str], None]

RunCommand = Callable[[str, Say], Awaitable[int]]
"""Runs a command line, hands on each line that it says, and gives the exit code. Cancelled: ends
the command.
"""

MAX_LINE = 64 * 1024  # bytes; what is longer is shown in pieces
READ_SIZE = 4096
GRACE = 2.0  # seconds from Ctrl-C to the end of a command

USAGE = 2  # exit code


def command_runner(config: Path | None, socket: Path | None) -> RunCommand:
    """Runs commands of `bssci`, each as a process, with the service that is watched."""

    async def run(line: str, say: Say) -> int:
        try:
            words = arguments(line, config, socket)
        except ValueError as error:  # quotes that are not closed
            say(f"{line}: {error}")
            return USAGE
        return await _run([sys.executable, "-m", "bssci", *words], say)

    return run


def arguments(line: str, config: Path | None, socket: Path | None) -> list[str]:
    """The words of a command line, with the options that say which service is meant.

    Raises:
        ValueError: it cannot be split into words.
    """
    words = shlex.split(line)
    if words[:1] == ["bssci"]:
        del words[0]
    count, options = _command(words)
    given = []
    if socket is not None and "--socket" in options and not _has(words, "--socket"):
        given += ["--socket", str(socket)]
    if config is not None and "--config" in options and not _has(words, "--config", "-c"):
        given += ["--config", str(config)]
    return [*words[:count], *given, *words[count:]]


def _has(words: list[str], *names: str) -> bool:
    return any(word.partition("=")[0] in names for word in words)


def _command(words: list[str]) -> tuple[int, set[str]]:
    """How many of the words name the command, and its options."""
    from typer.main import get_command

    from bssci.cli.main import app

    command: object = get_command(app)
    count = 0
    for word in words:
        inner = getattr(command, "commands", {}).get(word)
        if inner is None:
            break
        command, count = inner, count + 1
    if hasattr(command, "commands"):
        return count, set()
    return count, {name for each in getattr(command, "params", ()) for name in each.opts}


async def _run(command: list[str], say: Say) -> int:
    # A session of its own: keys at this terminal are not for it, and it cannot ask there.
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:replace"},
    )
    assert process.stdout is not None
    try:
        async with process.stdout:
            await _read(process.stdout, say)
            return await process.wait()
    finally:
        await _end(process)


async def _read(stream: trio.abc.ReceiveStream, say: Say) -> None:
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            say(line.decode(errors="replace").rstrip("\r"))
    if rest:
        say(rest.decode(errors="replace"))


async def _end(process: trio.Process) -> None:
    """As Ctrl-C does, and for certain."""
    if process.returncode is not None:
        return
    with trio.CancelScope(shield=True), trio.move_on_after(GRACE):
        process.send_signal(signal.SIGINT)
        await process.wait()
    if process.returncode is None:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
