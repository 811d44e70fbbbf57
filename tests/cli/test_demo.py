"""The demo as a newcomer meets it: in a pipe, on a terminal, with a broker."""

import json
import subprocess
import sys
import time

import pytest

from bssci.cli.demo import _words
from bssci.core.runtime.notices import Notice
from tests.broker import MOSQUITTO, Mosquitto

pytestmark = pytest.mark.process

DEMO = [sys.executable, "-m", "bssci", "demo", "--rate", "10"]


def run(*options):
    return subprocess.run(
        [*DEMO, *options], capture_output=True, text=True, timeout=60, check=False
    )


def test_it_ends_by_itself_with_one_line_of_totals_and_loses_nothing():
    done = run("--seconds", "2", "--json")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    *lines, last = map(json.loads, done.stdout.splitlines())
    assert {line["event"] for line in lines} == {"station", "uplink"}
    sent, center = last["simulated"], last["center"]
    uplinks = [line for line in lines if line["event"] == "uplink"]
    assert sent["telegrams"] == center["released"] == len(uplinks) > 5
    assert sent["receptions"] == sent["acknowledged"] == center["received"]
    assert center["duplicates"] == center["received"] - center["released"] > 0


def test_in_a_pipe_it_says_a_line_for_each_uplink():
    done = run("--seconds", "1", "--stations", "1", "--sensors", "3")
    assert done.returncode == 0
    *lines, last = done.stdout.splitlines()
    assert lines[0].endswith("02000000B5000001  base station online")
    assert last.endswith("copies removed")
    assert f" {len(lines) - 2} kept, 0 copies removed" in last


@pytest.mark.broker
@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_with_a_broker_everything_is_published(tmp_path):
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        done = run("--seconds", "1", "--json", "--mqtt", f"mqtt://127.0.0.1:{broker.port}")
    finally:
        broker.kill()
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["published"] == last["center"]["released"] > 0


def test_a_url_that_is_none_is_refused_without_showing_it():
    done = run("--mqtt", "http://user:secret@host")
    assert done.returncode == 2
    assert "does not begin with mqtt:// or mqtts://" in done.stderr
    assert "secret" not in done.stderr


def test_what_was_lost_to_a_slow_watcher_is_said():
    assert _words(Notice("gap", 0.0, {"lost": 7}))[1:] == ("(7 more)",)


def test_on_a_terminal_there_is_a_live_view_and_then_the_totals(tmp_path):
    server = ["tmux", "-S", str(tmp_path / "tmux")]
    command = " ".join([*DEMO, "--seconds", "4"])
    subprocess.run(
        [*server, "new-session", "-d", "-x", "100", "-y", "30", f"{command}; exec cat"], check=True
    )
    try:
        view = _screen_with(server, "02000000B5000003  ● online")
        assert "bssci demo  port" in view
        assert "last uplinks" in view
        after = _screen_with(server, "copies removed")
        assert "last uplinks" not in after
    finally:
        subprocess.run([*server, "kill-server"], check=True)


def _screen_with(server, words):
    """The screen once it shows these words."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        shown = subprocess.run(
            [*server, "capture-pane", "-p"], capture_output=True, text=True, check=True
        ).stdout
        if words in shown:
            return shown
    raise AssertionError(f"{words!r} never appeared; last seen:\n{shown}")
