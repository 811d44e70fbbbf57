"""`--once` and `--svg`, in a program of its own: what is loaded when is part of it."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from tests.cli.monitor import network
from tests.control import Station

pytestmark = pytest.mark.process


@pytest.fixture
def site(service):
    service.register(int(network.KITCHEN, 16), name="Kitchen")
    service.stations = [Station(network.TOWER, name="Tower")]
    service.uplinks = [*reversed(network.uplinks(3))]
    return service


def monitor(folder, *options):
    done = subprocess.run(
        [sys.executable, "-m", "bssci", "monitor", *options, "--socket", folder / "control.sock"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"TZ": "UTC", "NO_COLOR": ""},
        stdin=subprocess.DEVNULL,
    )
    return done.returncode, done.stdout, done.stderr


def test_once_shows_one_frame_without_the_keys(site, folder):
    code, out, err = monitor(folder, "--once", "--view", "sensors", "--size", "80x10")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(" 1 overview  2 stations [3 sensors]")
    assert re.fullmatch(r" ● bssci 1\.2\.3 +\d\d:\d\d:\d\d", lines[1])
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "1 by EUI",
        "EUI name activity stations seen SNR count",
        "▶ 70B3D59CD0000102 Kitchen · never seen 1/1 - - -",
    ]


def test_a_picture_is_well_formed_and_asks_nobody(site, folder):
    file = folder / "picture.svg"
    code, out, err = monitor(folder, "--svg", str(file), "--size", "100x30")
    assert (code, out, err) == (0, "", f"{file} is written\n")
    text = file.read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "Tower" in text
    assert "url(" not in text.replace("url(#", "")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--once", "--view", "nothing"], 2, "'nothing' is none of overview, stations"),
        (["--once", "--size", "big"], 2, "expected columns and lines, as in 120x40"),
        (["--once", "--size", "0x5"], 2, "expected columns and lines, as in 120x40"),
        (["--size", "80x24"], 2, "goes with --once or --svg"),
        ([], 2, "this is no terminal to draw on; `bssci monitor --once` shows one frame"),
    ],
)
def test_what_cannot_be_is_said(site, folder, options, code, words):
    found = monitor(folder, *options)
    assert (found[0], found[1]) == (code, "")
    assert words in " ".join(found[2].replace("│", " ").split())


@pytest.mark.parametrize("options", [[], ["--once"], ["--svg", "x.svg"]])
def test_without_a_service_it_ends_at_once_and_says_what_to_do(folder, options):
    code, out, err = monitor(folder, *options)
    assert (code, out) == (3, "")
    assert "no service runs" in err
    assert "bssci serve" in err
