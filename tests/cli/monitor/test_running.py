from pathlib import Path

import pytest
import trio
import trio.testing

from bssci.cli.monitor import running
from bssci.cli.monitor.running import arguments, command_runner
from tests.processes import wait_until

SOCKET, CONFIG = Path("/run/c.sock"), Path("/etc/sc.toml")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sensors list --stale", ["sensors", "list", "--socket", "/run/c.sock", "--stale"]),
        ("bssci status", ["status", "--socket", "/run/c.sock"]),
        ("status --socket other", ["status", "--socket", "other"]),
        ("status --socket=other", ["status", "--socket=other"]),
        ("sensors show 'Living room'", ["sensors", "show", "--socket", "/run/c.sock",
                                        "Living room"]),
        ("decode 8100", ["decode", "8100"]),
        ("sensors", ["sensors"]),
        ("sensors --help", ["sensors", "--help"]),
        ("frobnicate", ["frobnicate"]),
        ("", []),
    ],
)  # fmt: skip
def test_a_command_is_for_the_service_that_is_watched(line, expected):
    assert arguments(line, None, SOCKET) == expected


def test_the_configuration_is_that_of_the_monitor():
    assert arguments("status", CONFIG, None) == ["status", "--config", "/etc/sc.toml"]
    assert arguments("status -c mine", CONFIG, None) == ["status", "-c", "mine"]


def test_quotes_that_are_not_closed_are_an_error():
    with pytest.raises(ValueError, match="No closing quotation"):
        arguments("sensors show 'x", None, None)


async def said_by(line, socket=None):
    lines: list[str] = []
    code = await command_runner(None, socket)(line, lines.append)
    return code, lines


@pytest.mark.process
async def test_a_command_says_its_lines_and_has_its_exit_code(service, folder):
    service.register(0x70B3D59CD0000102, name="Küche")
    code, lines = await said_by("sensors list", folder / "control.sock")
    assert (code, len(lines), "Küche" in lines[1]) == (0, 2, True)


@pytest.mark.process
async def test_errors_are_lines_too(folder):
    code, lines = await said_by("status", folder / "control.sock")
    assert code == 3
    assert lines[0].startswith("error: no service runs")
    assert (await said_by("x 'y"))[0] == 2


@pytest.mark.process
async def test_a_command_cannot_ask():
    code, lines = await said_by("sensors clear")
    assert code == 2
    assert any("there is no terminal to ask at" in line for line in lines)


@pytest.mark.process
async def test_a_command_that_goes_on_ends_with_what_it_is_run_by(service, folder):
    lines: list[str] = []
    service.uplinks = [{"id": "1", "received": 1.0, "x": "y"}]
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def run():
                run_it = command_runner(None, folder / "control.sock")
                await run_it("uplinks tail --json", lines.append)

            await wait_until(lambda: lines, "its first line")
            scope.cancel()
    assert lines == ['{"id": "1", "received": 1.0, "x": "y"}']


async def test_a_line_without_end_is_shown_in_pieces(monkeypatch):
    monkeypatch.setattr(running, "MAX_LINE", 10)
    ours, theirs = trio.testing.memory_stream_one_way_pair()
    lines: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running._read, theirs, lines.append)
        await ours.send_all(b"a\r\nb")
        await ours.send_all(b"c" * 30 + b"\nend")
        await ours.aclose()
    assert lines == ["a", "b" + "c" * 30, "end"]
