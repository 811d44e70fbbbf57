"""The terminal: raw mode and the alternate screen, and back whatever happens."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from typing import Any

import trio
from rich.color import ColorSystem
from rich.console import Console
from rich.text import Text

from bssci.core.protocol.errors import BssciError

__all__ = ["NoTerminalError", "Screen", "open_screen", "painted"]

READ_SIZE = 4096
GIVE_UP = 1.0  # seconds until a terminal has taken what puts it in order

# Alternate screen, no cursor, no wrapping at the right edge; and back.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[0m\x1b[2J"
# Before that, an end to whatever sequence was cut off.
LEAVE = "\x18\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"

# A terminal that knows it shows everything in between at once; others ignore it.
BEGIN_FRAME, END_FRAME = "\x1b[?2026h", "\x1b[?2026l"

INPUT, LOCAL, CONTROL = 0, 3, 6  # in what termios gives

# For terminals and fonts with nothing but ASCII.
PLAIN = str.maketrans("●◐▲✕○·▶█▉▊▋▌▍▎▏▁▂▃▄▅▆▇…↑↓←→⏎", "*~!xo.>####--::_..--==~^v<><")


class NoTerminalError(BssciError):
    """There is no terminal to draw on."""

    exit_code = 2


class Screen:
    """Made by `open_screen`: draws frames, and gives what is typed."""

    def __init__(self, fd: int, *, has_colours: bool) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd)
        self._has_colours = has_colours
        encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
        self._is_plain = encoding != "utf8"
        self._shown: list[Text] = []
        self._size = (0, 0)
        self._is_ours = False

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        columns, lines = os.get_terminal_size(self._fd)
        # A terminal that does not know says 0.
        return columns or 80, lines or 24

    async def show(self, lines: Sequence[Text], size: tuple[int, int]) -> None:
        """Draw a frame: only the lines that are different, in one write.

        Args:
            size: for which it was made.
        """
        data = self._changes(lines, size)
        if data:
            await self._write(data)

    def _changes(self, lines: Sequence[Text], size: tuple[int, int]) -> bytes:
        pieces = []
        if size != self._size:
            self._size, self._shown = size, []
            pieces.append("\x1b[0m\x1b[2J")
        before = [*self._shown, *[None] * max(0, len(lines) - len(self._shown))]
        for number, (line, old) in enumerate(zip(lines, before, strict=False), 1):
            if old is None or line != old or line.style != old.style:
                pieces.append(f"\x1b[{number};1H{self._text(line)}\x1b[0m\x1b[K")
        pieces += [
            f"\x1b[{number};1H\x1b[K" for number in range(len(lines) + 1, len(self._shown) + 1)
        ]
        self._shown = [*lines]
        if not pieces:
            return b""
        return f"{BEGIN_FRAME}{''.join(pieces)}{END_FRAME}".encode(errors="replace")

    def _text(self, line: Text) -> str:
        text = painted(line, has_colours=self._has_colours)
        return text.translate(PLAIN).encode("ascii", "replace").decode() if self._is_plain else text

    def forget(self) -> None:
        """Something else has written on the screen: the next frame is drawn as a whole."""
        self._size = (0, 0)

    async def read(self) -> bytes:
        """What is typed; empty: the terminal has gone."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:  # it was hung up
                return b""

    async def _write(self, data: bytes) -> None:
        while data:
            await trio.lowlevel.wait_writable(self._fd)
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._fd, data) :]

    def suspend(self) -> None:
        """Stop, with the terminal as it was; when this returns, somebody wants us to go on."""
        self.leave()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)
        self.enter()

    def resume(self) -> None:
        """Take the terminal again: who was stopped without being asked has not given it back."""
        termios.tcsetattr(self._fd, termios.TCSADRAIN, _raw(self._saved))
        self.forget()
        self._write_now(ENTER)

    def enter(self) -> None:
        """Take the terminal."""
        # What is changed while we are stopped is what there is at the end.
        self._saved = termios.tcgetattr(self._fd)
        self._is_ours = True
        self.resume()

    def leave(self) -> None:
        """Give it back as it was; it may not be there any more."""
        if not self._is_ours:
            return
        self._is_ours = False
        self._write_now(LEAVE)
        with contextlib.suppress(termios.error):
            # What was typed for us is not for the shell.
            termios.tcsetattr(self._fd, termios.TCSAFLUSH, self._saved)

    def _write_now(self, text: str) -> None:
        data = text.encode()
        with contextlib.suppress(OSError):
            while data and select.select([], [self._fd], [], GIVE_UP)[1]:
                with contextlib.suppress(BlockingIOError):
                    data = data[os.write(self._fd, data) :]


def _raw(modes: list[Any]) -> list[Any]:
    """Keys come one by one and are not shown. Ctrl-C and Ctrl-Z stay signals, of which programs
    around this one (a wrapper, a pipeline) get theirs; Ctrl-\\ would leave the terminal as it is.
    """
    raw = [*modes]
    raw[INPUT] &= ~(termios.ICRNL | termios.IXON | termios.INLCR)
    raw[LOCAL] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
    raw[CONTROL] = control = [*modes[CONTROL]]
    control[termios.VQUIT] = b"\0"
    control[termios.VMIN], control[termios.VTIME] = 1, 0
    return raw


def painted(line: Text, *, has_colours: bool) -> str:
    """A line with the sequences that give it its styles; no line break."""
    pieces = []
    # The style of a whole line becomes one of its parts; as such alone it is not rendered.
    whole = Text("", end="").append_text(line)
    for segment in whole.render(_CONSOLE):
        style = segment.style
        if style is None:
            pieces.append(segment.text)
            continue
        # Bold and reverse are no colours.
        shown = style if has_colours else style.without_color
        pieces.append(shown.render(segment.text, color_system=ColorSystem.STANDARD))
    return "".join(pieces)


# It only knows the names of styles; nothing is written to it.
_CONSOLE = Console(file=io.StringIO(), force_terminal=True)


@contextlib.contextmanager
def open_screen(*, has_colours: bool) -> Iterator[Screen]:
    """The terminal, taken while the block lasts.

    Raises:
        NoTerminalError: there is none, or it cannot move its cursor.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") in (None, "dumb"):
        raise NoTerminalError(
            "this is no terminal to draw on; `bssci monitor --once` shows one frame"
        )
    fd = _own_description()
    try:
        screen = Screen(fd, has_colours=has_colours)
        try:
            screen.enter()
            yield screen
        finally:
            screen.leave()
    finally:
        os.close(fd)


def _own_description() -> int:
    """The terminal opened once more: that reads and writes do not block is then our own matter,
    and not that of every program that shares standard input.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK
    for name in ("/dev/tty", os.ttyname(sys.stdout.fileno())):
        with contextlib.suppress(OSError):
            return os.open(name, flags)
    raise NoTerminalError("the terminal cannot be opened for reading and writing")
