import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import typer

from bssci.cli import main, remote
from bssci.core.center.rpc import NotFoundError
from bssci.core.runtime.client import Client, UnreachableError
from tests.control import FakeService, Station

SENSOR = 0x70B3D59CD0000102
STATION = 0x70B3D59CD0000001


# --- reaching it ---


def test_the_socket_of_the_configuration_is_used(service, cli, folder):
    code, out, err = cli("stations", "list", at=["-c", str(folder / "sc.toml")])
    assert (code, out) == (0, "")
    assert err.startswith("no base station was ever connected")
    assert service.told == ["stations.list"]


def test_a_configuration_here_is_found_and_the_environment_goes_before_it(
    service, cli, folder, monkeypatch
):
    monkeypatch.chdir(folder)
    assert cli("stations", "list", at=[])[0] == 0
    monkeypatch.setenv("BSSCI_CONTROL_SOCKET", str(folder / "nothing.sock"))
    assert cli("stations", "list", at=[])[0] == 3


def test_with_a_socket_no_configuration_is_needed(service, cli, folder, monkeypatch):
    (folder / "sc.toml").unlink()
    monkeypatch.chdir(folder)
    assert cli("stations", "list")[0] == 0


def test_without_socket_and_configuration_it_is_said_how_to_begin(cli, folder, monkeypatch):
    (folder / "sc.toml").unlink()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    code, out, err = cli("status", at=[])
    assert (code, out, "bssci init" in err) == (2, "", True)


def test_a_service_that_does_not_run_is_exit_code_3_with_what_to_do(cli, folder):
    code, out, err = cli("status")
    assert (code, out) == (3, "")
    assert err.startswith("error: ")
    assert str(folder / "control.sock") in err
    assert "\nhint: start it with `bssci serve`" in err


def test_an_error_of_the_service_has_its_exit_code_and_its_hint(service, cli):
    assert cli("sensors", "show", "Kitchen") == (
        5,
        "",
        "error: there is no sensor Kitchen\nhint: `bssci sensors list`\n",
    )


# --- one run of trio ---


async def raising(error):
    async with trio.open_nursery():
        raise error


def test_an_error_comes_out_of_its_nurseries_alone():
    error = NotFoundError("it")
    with pytest.raises(NotFoundError) as caught:
        remote.run(lambda: raising(error))
    assert caught.value is error


def test_several_errors_come_out_together():
    async def two():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raising, ValueError("a"))
            nursery.start_soon(raising, ValueError("b"))

    with pytest.raises(ExceptionGroup):
        remote.run(two)


class Dumb(Client):
    """A service that takes what is asked and never answers."""

    def __init__(self):
        pass

    async def call(self, method, /, **params):
        await trio.sleep_forever()


async def test_no_answer_is_an_error_after_a_while(autojump_clock):
    with pytest.raises(remote.TimedOutError, match=r"status.get: no answer within 40 s"):
        await remote.call(Dumb(), "status.get", waiting=10)
    assert (trio.current_time(), remote.TimedOutError.exit_code) == (40.0, 7)


async def test_what_takes_long_is_said_on_a_terminal_once(autojump_clock, capsys, monkeypatch):
    async with remote.saying_that_it_takes_time("waiting"):
        await trio.sleep(10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    async with remote.saying_that_it_takes_time("waiting"):
        await trio.sleep(0.9)
    assert capsys.readouterr().err == ""
    async with remote.saying_that_it_takes_time("waiting"):
        await trio.sleep(10)
    assert capsys.readouterr().err == "waiting\n"


@pytest.mark.parametrize(
    ("codes", "code"), [([], 0), ([0, 0], 0), ([4, 4], 4), ([5], 5), ([0, 4], 6), ([1, 5], 6)]
)
def test_codes_that_differ_say_that_some_failed(codes, code):
    assert remote.combined(codes) == code


async def test_a_listing_is_asked_for_in_pages(monkeypatch):
    service = FakeService()
    for number in range(7):
        service.register(number)

    class Here(Dumb):
        async def call(self, method, /, **params):
            service.told.append(method)
            given = {name: value for name, value in params.items() if value is not None}
            return await service._list(**given)

    for size, calls in ((3, 3), (7, 2), (8, 1)):
        service.told.clear()
        monkeypatch.setattr(remote, "PAGE", size)
        found = [each["eui"] for each in await remote.all_sensors(Here())]
        assert (found, len(service.told)) == ([f"{number:016X}" for number in range(7)], calls)


# --- asking before ---


def test_without_a_terminal_only_yes_will_do(monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    with pytest.raises(typer.BadParameter, match="--yes says that it is meant"):
        remote.must_be_asked(yes=False)
    remote.must_be_asked(yes=True)
    remote.ask_whether("Do it?", yes=True)


# --- completion, as shells do it ---


@pytest.fixture
def complete(folder, capsys, monkeypatch):
    """What a shell is given for a line whose last word is to be completed."""

    def run(shell, line, *, socket="control.sock"):
        monkeypatch.setenv("_BSSCI_COMPLETE", f"complete_{shell}")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count("\n")))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.setenv("BSSCI_CONTROL_SOCKET", str(folder / socket))
        monkeypatch.chdir(folder)
        with pytest.raises(SystemExit):
            main.run([])
        out, err = capsys.readouterr()
        assert err == ""
        return out.strip("\n").splitlines()  # no shell makes a word of an empty line

    return run


BY_QUARTETS = [rf"70B3\ D59C\ D000\ 010{last}" for last in "234"]


@pytest.fixture
def names(service, folder):
    service.register(SENSOR, name="Kitchen")
    service.register(SENSOR + 1, name="Room 1 [old]")
    service.register(SENSOR + 2)
    service.stations = [Station(STATION, name="Tower"), Station(STATION + 1)]
    return folder


@pytest.mark.parametrize(
    ("shell", "line", "found"),
    [
        ("bash", "bssci\nsensors\nshow\nK", ["Kitchen"]),
        ("bash", "bssci\nsensors\nshow\nki", ["kitchen"]),
        ("bash", "bssci\nsensors\nshow\nRo", [r"Room\ 1\ \[old\]"]),
        ("bash", "bssci\nsensors\nshow\nRoom\\ ", [r"Room\ 1\ \[old\]"]),
        ("bash", "bssci\nsensors\nshow\n'Room ", ["Room 1 [old]"]),
        (
            "bash",
            "bssci\nsensors\nattach\nKitchen\n70b3d5",
            ["70b3d59cd0000102", "70b3d59cd0000103", "70b3d59cd0000104"],
        ),
        ("bash", "bssci\nsensors\nshow\n70-B3-D5-9C-D0-00-01-04", ["70-B3-D5-9C-D0-00-01-04"]),
        ("bash", "bssci\nsensors\nshow\n70b3-d59c-d000-0102", ["70b3-d59c-d000-0102"]),
        ("bash", "bssci\nsensors\nshow\n0x70b3d59cD0000104", ["0x70b3d59cD0000104"]),
        ("bash", "bssci\nsensors\nshow\n0x70B3D59CD0000104", ["0x70B3D59CD0000104"]),
        ("bash", "bssci\nsensors\nshow\n70B3\\ D59C\\ D000\\ 010", BY_QUARTETS),
        ("bash", "bssci\nsensors\nshow\n'70b3:d59c:d000:0104", ["70b3:d59c:d000:0104"]),
        ("bash", "bssci\nsensors\nshow\n70b3d59c-d0000104", ["70B3D59CD0000104"]),
        ("bash", "bssci\nsensors\nshow\n70b3d-", []),
        ("bash", "bssci\nsensors\nshow\n::", []),
        ("bash", "bssci\nsensors\nshow\n70b3:zz", []),
        ("bash", "bssci\nstations\nshow\n70.b3.d5.9c.d0.00.00.02", ["70.b3.d5.9c.d0.00.00.02"]),
        ("fish", "bssci sensors show 70b3.d59c.d000.0104", ["70b3.d59c.d000.0104"]),
        ("bash", "bssci\nstations\nshow\nT", ["Tower"]),
        ("bash", "bssci\nuplinks\ntail\n--station\nT", ["Tower"]),
        ("bash", "bssci\nuplinks\nlist\n--sensor\nKit", ["Kitchen"]),
        ("bash", "bssci\nsensors\nshow\nnobody", []),
        ("bash", "bssci\nsensors\nlist\n--activity\nde", ["detach_pending", "detached"]),
        (
            "zsh",
            "bssci sensors show 70B3D59CD000010",
            [
                """_arguments '*: :(("70B3D59CD0000102":"Kitchen\"""",
                """"70B3D59CD0000103":"Room 1 [old]\"""",
                """"70B3D59CD0000104"))'""",
            ],
        ),
        (
            "zsh",
            "bssci sensors show Ro",
            ["""_arguments '*: :(("Room 1 [old]":"70B3D59CD0000103"))'"""],
        ),
        (
            "fish",
            "bssci sensors show ",
            [
                "70B3D59CD0000102\tKitchen",
                "Kitchen\t70B3D59CD0000102",
                "70B3D59CD0000103\tRoom 1 [old]",
                "Room 1 [old]\t70B3D59CD0000103",
                "70B3D59CD0000104",
            ],
        ),
    ],
)
def test_shells_complete_euis_and_names_of_what_the_service_knows(
    names, complete, shell, line, found
):
    assert complete(shell, line) == found


def test_completion_asks_the_service_whose_configuration_is_named(names, complete, tmp_path):
    (tmp_path / "sc.toml").write_text((names / "sc.toml").read_text())
    (names / "sc.toml").unlink()
    assert complete("bash", "bssci\nsensors\nshow\nKi") == []
    assert complete("bash", f"bssci\nsensors\nshow\n-c\n{tmp_path}/sc.toml\nKi") == ["Kitchen"]
    line = f"bssci\nsensors\nshow\n--socket\n{names}/control.sock\nKi"
    assert complete("bash", line, socket="nothing") == ["Kitchen"]


def test_completion_is_silent_when_the_service_is_not_there(folder, complete):
    assert complete("bash", "bssci\nsensors\nshow\nK") == []
    (folder / "sc.toml").write_text("nonsense")
    assert complete("fish", "bssci sensors show K") == []


def test_completion_gives_up_on_a_service_that_does_not_answer(names, service, complete):
    service.until["sensors.list"] = lambda: False
    assert complete("bash", "bssci\nsensors\nshow\nK") == []


@pytest.mark.process
def test_bash_itself_completes(names):
    """With the script that `--show-completion` gives, as a person has it installed."""
    script = (
        "source <(bssci --show-completion bash)\n"
        "COMP_WORDS=(bssci sensors show Ro); COMP_CWORD=3\n"
        "_bssci_completion bssci\n"
        'printf "%s|" "${COMPREPLY[@]}"\n'
    )
    folder = names / "bin"
    folder.mkdir()
    (folder / "bssci").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bssci "$@"\n')
    (folder / "bssci").chmod(0o755)
    environ = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "BSSCI_CONTROL_SOCKET": str(names / "control.sock"),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environ,
        cwd=names,
    )
    assert (done.stdout, done.stderr) == (r"Room\ 1\ \[old\]|", "")


def test_many_sensors_are_found_by_the_beginning_of_their_eui(names, service, monkeypatch):
    """Those that begin so come first, before there is no time left."""
    monkeypatch.setattr(remote, "MAX_CANDIDATES", 2)
    monkeypatch.setattr(remote, "PAGE", 1)
    context = typer.Context(typer.main.get_command(typer.Typer(callback=lambda: None)))
    context.params = {"socket": names / "control.sock"}
    found = remote.complete_sensor(context, "70B3D59CD0000103")
    assert found == [("70B3D59CD0000103", "Room 1 \\[old]")]
    assert len(remote.complete_sensor(context, "")) == 2


def test_an_unreachable_service_is_told_by_its_class():
    with pytest.raises(UnreachableError):
        remote.ask(None, Path("/nowhere/control.sock"), "status.get")


# --- what is loaded when ---


@pytest.mark.process
@pytest.mark.parametrize("command", [["sensors"], ["sensors", "add"], ["uplinks", "tail"]])
def test_help_of_a_command_loads_nothing_that_it_needs_to_work(command):
    heavy = ["trio", "rich", "trio_websocket", "sqlite3", "ssl", "cryptography", "msgpack"]
    program = (
        f"import sys\nfrom bssci.cli.main import run\n"
        f"try:\n    run({[*command, '--help']!r})\nexcept SystemExit:\n    pass\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    environ = {name: text for name, text in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stderr == "\n"
