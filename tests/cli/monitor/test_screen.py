"""The terminal, on a pseudo-terminal whose other end is read."""

import os
import pty
import sys
import termios
from pathlib import Path

import pytest
from rich.text import Text

from bssci.cli.monitor.screen import PLAIN, NoTerminalError, Screen, open_screen, painted

SIZE = (20, 3)


class Pair:
    """A screen, and what it has written."""

    def __init__(self, **given):
        self.theirs, self.fd = pty.openpty()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.theirs, False)
        self.screen = Screen(self.fd, has_colours=True, **given)

    def written(self):
        """Since the last time."""
        data = b""
        while True:
            try:
                data += os.read(self.theirs, 65536)
            except BlockingIOError:
                return data.decode()

    def close(self):
        os.close(self.fd)
        os.close(self.theirs)


@pytest.fixture
def pair(monkeypatch):
    class Utf8:
        encoding = "utf-8"

    monkeypatch.setattr(sys, "stdout", Utf8())
    made = Pair()
    yield made
    made.close()


def lines(*texts):
    return [Text(text, end="") for text in texts]


def frame(inner):
    return f"\x1b[?2026h{inner}\x1b[?2026l"


async def test_only_lines_that_have_changed_are_written(pair):
    await pair.screen.show(lines("one", "two", "three"), SIZE)
    assert pair.written() == frame(
        "\x1b[0m\x1b[2J"
        "\x1b[1;1Hone\x1b[0m\x1b[K\x1b[2;1Htwo\x1b[0m\x1b[K\x1b[3;1Hthree\x1b[0m\x1b[K"
    )
    await pair.screen.show(lines("one", "TWO", "three"), SIZE)
    assert pair.written() == frame("\x1b[2;1HTWO\x1b[0m\x1b[K")
    await pair.screen.show(lines("one", "TWO", "three"), SIZE)
    assert pair.written() == ""


async def test_a_style_alone_is_a_change(pair):
    await pair.screen.show(lines("one"), SIZE)
    pair.written()
    await pair.screen.show([Text("one", style="bold red", end="")], SIZE)
    assert pair.written() == frame("\x1b[1;1H\x1b[1;31mone\x1b[0m\x1b[0m\x1b[K")


async def test_another_size_and_ctrl_l_draw_everything(pair):
    for change in (lambda: (30, 3), lambda: pair.screen.forget() or (30, 3)):
        await pair.screen.show(lines("one", "two"), change())
        assert pair.written().count("\x1b[2J") == 1


async def test_lines_that_are_not_there_any_more_are_wiped(pair):
    await pair.screen.show(lines("one", "two"), SIZE)
    pair.written()
    await pair.screen.show(lines("one"), SIZE)
    assert pair.written() == frame("\x1b[2;1H\x1b[K")


async def test_what_is_typed_is_read_key_by_key(pair):
    pair.screen.enter()
    os.write(pair.theirs, b"q\r")
    assert await pair.screen.read() == b"q\r"


def test_the_terminal_is_given_back_as_it_was(pair):
    before = termios.tcgetattr(pair.fd)
    pair.screen.enter()
    assert pair.written().startswith("\x1b[?1049h\x1b[?25l")
    raw = termios.tcgetattr(pair.fd)
    assert not raw[3] & (termios.ECHO | termios.ICANON)
    assert raw[3] & termios.ISIG
    pair.screen.leave()
    assert termios.tcgetattr(pair.fd) == before
    assert pair.written() == "\x18\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
    pair.screen.leave()
    assert pair.written() == ""


def test_who_was_stopped_without_being_asked_takes_the_terminal_again(pair):
    before = termios.tcgetattr(pair.fd)
    pair.screen.enter()
    termios.tcsetattr(pair.fd, termios.TCSANOW, before)  # as a shell does
    pair.screen.resume()
    assert not termios.tcgetattr(pair.fd)[3] & termios.ICANON
    pair.screen.leave()
    assert termios.tcgetattr(pair.fd) == before


def test_colours_can_be_left_out_and_signs_stay():
    line = Text("● good", style="bold green", end="")
    line.stylize("reverse", 0, 1)
    assert painted(line, has_colours=True) == "\x1b[1;7;32m●\x1b[0m\x1b[1;32m good\x1b[0m"
    assert painted(line, has_colours=False) == "\x1b[1;7m●\x1b[0m\x1b[1m good\x1b[0m"


async def test_a_terminal_with_nothing_but_ascii_gets_nothing_else(monkeypatch):
    class Ascii:
        encoding = "ANSI_X3.4-1968"

    monkeypatch.setattr(sys, "stdout", Ascii())
    pair = Pair()
    await pair.screen.show(lines("● ▲ ✕ ▁█ é…"), SIZE)
    assert "* ! x _# ?~" in pair.written()
    pair.close()


def test_every_sign_has_one_of_ascii():
    assert all(chr(to).isascii() for to in PLAIN.values())


def test_without_a_terminal_it_says_so(monkeypatch):
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with pytest.raises(NoTerminalError, match="this is no terminal"):
            open_screen(has_colours=True).__enter__()
