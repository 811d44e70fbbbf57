import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.main import get_command

import bssci
from bssci.cli import main
from bssci.core.protocol.errors import BssciError
from bssci.core.runtime.config import ConfigError, Problem


@pytest.fixture
def command(monkeypatch):
    """An application with one command, which does what the test says."""

    def install(body) -> None:
        app = typer.Typer(rich_markup_mode=None)
        app.command()(body)
        monkeypatch.setattr(main, "app", app)

    return install


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main.run(list(args))
    return int(caught.value.code or 0)


def raising(error: BaseException):
    def body() -> None:
        raise error

    return body


def test_the_version_is_shown_and_is_that_of_the_package(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"bssci {bssci.__version__}\n"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert bssci.__version__ == project["version"]


def test_without_a_command_the_help_is_shown(capsys):
    assert run() == 2
    out, err = capsys.readouterr()
    assert "Usage: bssci" in out + err


def test_what_went_well_ends_with_0(command):
    command(lambda: None)
    assert run() == 0


def test_a_wrong_option_is_a_usage_error(capsys):
    assert run("init", "--frobnicate") == 2
    assert "No such option: --frobnicate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (BssciError("it is refused; do that"), 1, "error: it is refused; do that\n"),
        (
            ConfigError([Problem("sc.toml", "server.port", "is wrong"), Problem("x", "", "too")]),
            2,
            "error: sc.toml: server.port: is wrong\nx: too\n",
        ),
        (PermissionError(13, "Permission denied", "/a"), 1, "error: /a: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device\n"),
        (OSError("strange"), 1, "error: strange\n"),
        (
            ExceptionGroup(
                "nursery", [BssciError("one"), ExceptionGroup("n", [BssciError("two")])]
            ),
            1,
            "error: one\nerror: two\n",
        ),
        (ExceptionGroup("nursery", [ConfigError([]), BssciError("x")]), 2, "error: \nerror: x\n"),
        (KeyboardInterrupt(), 130, ""),
        (BaseExceptionGroup("nursery", [KeyboardInterrupt(), BssciError("x")]), 130, ""),
    ],
)
def test_whatever_is_not_our_fault_becomes_words_and_an_exit_code(
    command, capsys, error, code, words
):
    command(raising(error))
    assert (run(), capsys.readouterr().err) == (code, words)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("ours"), ExceptionGroup("n", [BssciError("x"), KeyError("ours")])]
)
def test_our_own_faults_are_loud(command, error):
    command(raising(error))
    with pytest.raises(type(error)):
        main.run([])


def commands(group: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    """All commands, with their words."""
    found = []
    for name, each in getattr(group, "commands", {}).items():
        found += commands(each, (*path, name)) or [((*path, name), each)]
    return found


TREE = commands(get_command(main.app))


@pytest.mark.parametrize("each", [each for _, each in TREE], ids=[" ".join(p) for p, _ in TREE])
def test_every_command_runs_when_it_is_called(each):
    """An async body would be called, do nothing and exit 0."""
    body = inspect.unwrap(each.callback)
    assert callable(body)
    assert not inspect.iscoroutinefunction(body)


@pytest.mark.parametrize("path", [path for path, _ in TREE], ids=[" ".join(p) for p, _ in TREE])
def test_every_help_is_whole_sentences_and_has_an_example(path, capsys):
    assert run(*path, "--help") == 0
    text = capsys.readouterr().out
    assert f"Usage: bssci {' '.join(path)}" in text
    assert f"Example: bssci {' '.join(path)}" in re.sub(r"\s+", " ", text)
    (described,) = (each for name, each in TREE if name == path)
    options = getattr(described, "params", [])
    helps = [each.help for each in options if getattr(each, "help", None)]
    assert [words for words in helps if not words.endswith(".")] == []


def test_no_help_is_wider_than_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for path, _ in [*TREE, ((), None)]:
        run(*path, "--help")
        assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_a_reader_that_goes_away_ends_the_command_quietly():
    code = "from bssci.cli.main import run; run(['--help'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read().decode() == ""
        process.wait()
