"""A service that behaves, and the command line that talks to it."""

import io
import sys
import time

import pytest

from bssci.cli import main, output
from tests.control import NOW, FakeService, socket_folder


@pytest.fixture
def folder():
    with socket_folder() as made:
        yield made


@pytest.fixture
def service(folder):
    """It runs before the test does, and knows nothing yet."""
    fake = FakeService()
    with fake.serving(folder / "control.sock"):
        yield fake


class _Input(io.TextIOWrapper):
    """Standard input, be it a terminal or not."""

    def __init__(self, text, *, is_terminal):
        super().__init__(io.BytesIO(text.encode()), "utf-8")
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal


@pytest.fixture
def cli(folder, capsys, monkeypatch):
    """Run a command against the service at noon of 2024-05-01 UTC.

    Gives exit code, output and messages. `columns`: standard output is a terminal of this width;
    `typed`: standard input is a terminal at which this is typed.
    """
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("NO_COLOR", "")
    time.tzset()
    monkeypatch.setattr(output, "now", lambda: NOW)

    def run(*args, stdin="", typed=None, columns=None, at=None):
        text = stdin if typed is None else typed
        monkeypatch.setattr(sys, "stdin", _Input(text, is_terminal=typed is not None))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: columns is not None)
        monkeypatch.setenv("COLUMNS", str(columns or 80))
        place = ["--socket", str(folder / "control.sock")] if at is None else at
        with pytest.raises(SystemExit) as caught:
            main.run([*args, *place])
        return int(caught.value.code or 0), *capsys.readouterr()

    yield run
    monkeypatch.undo()
    time.tzset()
