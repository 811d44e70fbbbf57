import contextlib
import json
import os
import pty
import subprocess
import sys

import pytest

from tests.control import Station

STATION, OTHER = 0x70B3D59CD0000001, 0x70B3D59CD0000002
KITCHEN = 0x70B3D59CD0000102
KEY = "000102030405060708090A0B0C0D0E0F"


@pytest.fixture
def site(service):
    service.stations = [Station(STATION), Station(OTHER, "silent")]
    service.register(KITCHEN, name="Kitchen", tags=["home", "wet"], bidi=True)
    return service


# --- add ---


def test_add_registers_with_everything_that_is_given(service, cli, tmp_path):
    service.stations = [Station(STATION)]
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert cli(
        *("sensors", "add", "70-b3-d5-9c-d0-00-01-02", "--key-file", str(tmp_path / "key")),
        *("--short-addr", "0x1A2B", "--bidi", "--no-dual-channel", "--repetition"),
        *("--wide-carrier-offset", "--long-block-distance", "--name", "Kitchen"),
        *("--tag", "home", "--tag", "wet", "--ota", "--wait", "5"),
    ) == (
        0,
        "70B3D59CD0000102  attached at 1 base station\n  confirmed  70B3D59CD0000001\n",
        "",
    )
    made = service.shape(KITCHEN, reveal=True)
    assert {name: made[name] for name in list(made)[:12]} == {
        "eui": "70B3D59CD0000102",
        "name": "Kitchen",
        "key": KEY,
        "short_addr": "1A2B",
        "bidi": True,
        "dual_chan": False,
        "repetition": True,
        "wide_carr_off": True,
        "long_blk_dist": True,
        "ota": True,
        "tags": ["home", "wet"],
        "timeout": None,
    }


@pytest.mark.parametrize(
    ("option", "is_dual"),
    [("--dual-channel", True), ("--single-channel", False), ("--no-dual-channel", False)],
)
def test_one_channel_has_two_names(service, cli, option, is_dual):
    assert cli("sensors", "add", "70B3D59CD0000102", "--key", KEY, option, "--json")[0] == 0
    assert service.sensors[KITCHEN].dual_chan is is_dual


def test_what_attaches_over_the_air_is_not_called_attached_before_it_does(service, cli):
    assert cli("sensors", "add", "70B3D59CD0000102", "--key", KEY, "--ota")[:2] == (
        0,
        "70B3D59CD0000102  registered; it is served once it attaches over the air\n",
    )


def test_a_key_may_come_from_standard_input(service, cli):
    assert cli("sensors", "add", "70B3D59CD0000102", "--key", "-", stdin=f" {KEY}\n")[0] == 0
    assert service.sensors[KITCHEN].nwk_key.hex().upper() == KEY


def test_add_is_exit_code_4_while_it_is_not_confirmed(service, cli):
    service.stations = [Station(STATION, "silent")]
    code, out, _ = cli("sensors", "add", "70B3D59CD0000102", "--key", KEY, "--wait", "0", "--json")
    assert (code, json.loads(out)) == (
        4,
        {
            "eui": "70B3D59CD0000102",
            "confirmed": [],
            "pending": ["70B3D59CD0000001"],
            "refused": [],
        },
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "the network key is missing: --key - reads it from standard input, --key-file FILE"),
        (["--key", KEY, "--key-file", "x"], "--key and --key-file are the same thing"),
        (["--key-file", "/nowhere/key"], "/nowhere/key: No such file or directory"),
        (["--key", "0011"], "the key has 4 hexadecimal digits, 32 are expected (16 bytes)"),
    ],
)
def test_a_key_that_cannot_be_had_is_said(service, cli, options, words):
    code, out, err = cli("sensors", "add", "70B3D59CD0000102", *options)
    assert (code, out, service.sensors) == (2, "", {})
    assert words in err


def test_a_key_file_that_is_no_text_is_said(service, cli, tmp_path):
    (tmp_path / "key").write_bytes(b"\xff\xfe\xff")
    code, _, err = cli("sensors", "add", "70B3D59CD0000102", "--key-file", str(tmp_path / "key"))
    assert (code, "it is no text" in err) == (2, True)


@pytest.mark.process
def test_at_a_terminal_the_key_is_asked_for_and_not_shown(service, folder):
    ours, theirs = pty.openpty()
    arguments = ["sensors", "add", "70B3D59CD0000102", "--socket", str(folder / "control.sock")]
    with subprocess.Popen(
        [sys.executable, "-m", "bssci", *arguments],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = b""
        while b"digits): " not in shown:
            shown += os.read(ours, 4096)
        os.write(ours, f"{KEY}\n".encode())
        out, _ = process.communicate(timeout=60)
    with contextlib.suppress(OSError):  # the other side is closed
        while True:
            shown += os.read(ours, 4096)
    os.close(ours)
    assert process.returncode == 0
    assert (out, KEY.encode() in shown) == (
        b"70B3D59CD0000102  attached; "
        b"a base station that has to be told is told when it connects\n",
        False,
    )
    assert service.sensors[KITCHEN].nwk_key.hex().upper() == KEY


# --- set ---


def test_set_tells_what_has_changed(site, cli):
    site.stations = [Station(STATION)]
    assert cli(
        *("sensors", "set", "Kitchen", "--name", "Bad", "--no-bidi", "--timeout", "3d"),
        *("--tag", "", "--key", KEY),
    ) == (
        0,
        "70B3D59CD0000102  changed\n"
        "  name            Kitchen -> Bad\n"
        "  network key     new\n"
        "  bidirectional   yes -> no\n"
        "  tags            home, wet -> -\n"
        "  own time limit  - -> 3 d\n"
        "  confirmed       70B3D59CD0000001\n",
        "",
    )
    assert site.sensors[KITCHEN].timeout == 259200.0


def test_a_time_limit_of_its_own_can_be_taken_away(site, cli):
    cli("sensors", "set", "Kitchen", "--timeout", "90.5", "--wait", "0")
    assert site.sensors[KITCHEN].timeout == 90.5
    code, out, _ = cli("sensors", "set", "Kitchen", "--timeout", "none", "--json", "--wait", "0")
    assert (code, json.loads(out)["changes"]) == (4, {"timeout": [90.5, None]})
    assert site.sensors[KITCHEN].timeout is None


def test_set_of_what_is_so_already_says_so(site, cli):
    site.stations = []
    assert cli("sensors", "set", "Kitchen", "--name", "Kitchen") == (
        0,
        "70B3D59CD0000102  as it was\n",
        "",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "nothing to change is given; --help lists what can be"),
        (["--timeout", "soon"], "found 'soon', expected seconds"),
        (["--name", "x" * 65], "name: has 65 characters, at most 64 are possible"),
    ],
)
def test_what_cannot_be_set_is_refused(site, cli, options, words):
    code, out, err = cli("sensors", "set", "Kitchen", *options)
    assert (code, out, site.sensors[KITCHEN].name) == (2, "", "Kitchen")
    assert words in err
