import json
import os
import re
import subprocess
import sys

import pytest

from bssci.cli import output, remote
from bssci.core.center.downlinks import Downlink, DownlinkRecord, Ending
from tests.control import NOW, Station

STATION = 0x70B3D59CD0000001
KITCHEN, BATH = 0x70B3D59CD0000102, 0x70B3D59CD0000103
COLOURS = r"\x1b\[\d+m"
NOW_NS = int(NOW * 1e9)
HOUR = 3_600_000_000_000

SENT = Ending(
    result="sent", at_ns=NOW_NS, bs_eui=STATION, tx_time=NOW_NS - 2_000_000_000, packet_cnt=1187
)
REJECTED = Ending(result="rejected", at_ns=NOW_NS, bs_eui=STATION, code=28, message="full")


@pytest.fixture
def site(service):
    """One sensor that can receive, one that cannot."""
    service.register(KITCHEN, name="Kitchen", bidi=True)
    service.register(BATH, name="Bath")
    service.stations = [Station(STATION)]
    return service


def downlink(number, *, sensor=KITCHEN, data=b"\x01\xff", ref=None, counters=None, **changes):
    """One that was made an hour ago."""
    said = Downlink(
        que_id=number,
        ep_eui=sensor,
        user_data=(data,) * len(counters or (0,)),
        packet_cnt=counters,
        ref=ref,
        created_ns=NOW_NS - HOUR,
        expires_ns=NOW_NS + 23 * HOUR,
    )
    return DownlinkRecord(downlink=said, **changes)


def ended(number, ending=SENT, **changes):
    return downlink(number, ending=ending, **changes)


# --- send ---


def test_a_downlink_is_queued(site, cli):
    assert cli("downlinks", "send", "Kitchen", "01FF") == (
        0,
        "downlink 1  queued\n  sensor   70B3D59CD0000102\n  expires  2024-05-02 12:00:00\n",
        "",
    )
    assert site.downlinks[1].downlink == Downlink(
        que_id=1,
        ep_eui=KITCHEN,
        user_data=(b"\x01\xff",),
        created_ns=NOW_NS,
        expires_ns=NOW_NS + 24 * HOUR,
    )


@pytest.mark.parametrize("data", ["01ff", "0x01FF", "01 FF", "01:ff"])
def test_digits_have_any_usual_spelling(site, cli, data):
    assert cli("downlinks", "send", "70-b3-d5-9c-d0-00-01-02", data)[0] == 0
    assert site.downlinks[1].downlink.user_data == (b"\x01\xff",)


def test_digits_can_come_from_standard_input(site, cli):
    assert cli("downlinks", "send", "Kitchen", "-", stdin="01 ff\n")[0] == 0
    assert site.downlinks[1].downlink.user_data == (b"\x01\xff",)


def test_an_empty_text_is_an_acknowledgement_alone(site, cli):
    assert cli("downlinks", "send", "Kitchen", "")[0] == 0
    assert site.downlinks[1].downlink.user_data == (b"",)


def test_every_option_says_something(site, cli):
    options = ["--priority", "2.5", "--format", "7", "--respond", "--respond-priority", "--window"]
    options += ["--only-if-expected", "--for", "2h", "--query-rx", "--ref", "valve 3"]
    options += ["--counter", "9=01", "--counter", "8="]
    assert cli("downlinks", "send", "Kitchen", *options)[0] == 0
    assert site.downlinks[1].downlink == Downlink(
        que_id=1,
        ep_eui=KITCHEN,
        user_data=(b"\x01", b""),
        packet_cnt=(9, 8),
        format=7,
        prio=2.5,
        response_exp=True,
        response_prio=True,
        dl_wind_req=True,
        exp_only=True,
        query_rx=True,
        ref="valve 3",
        created_ns=NOW_NS,
        expires_ns=NOW_NS + 2 * HOUR,
    )


def test_programs_get_the_downlink_as_it_is(site, cli):
    code, out, err = cli("downlinks", "send", "Kitchen", "01ff", "--ref", "r", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "id": 1,
        "sensor_eui": "70B3D59CD0000102",
        "ref": "r",
        "state": "queued",
        "bs_eui": None,
        "created": NOW,
        "expires": NOW + 86400,
        "result": None,
        "intent": "deliver",
        "data": [1, 255],
        "entries": None,
        "prio": 0.0,
        "format": None,
        "response_exp": False,
        "response_prio": False,
        "dl_wind_req": False,
        "exp_only": False,
        "query_rx": False,
    }


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        ([], "", "give DATA, or --counter for each entry"),
        (["01", "--counter", "1=02"], "", "give DATA, or --counter for each entry"),
        (["-"], " \n", "standard input is empty"),
        (["--counter", "01"], "", "found '01', a counter, = and hexadecimal digits are expected"),
        (["--counter", "-1=01"], "", "found '-1=01', a counter, ="),
        (["--counter", "1=01", "--counter", "1=02"], "", "entries: entry 2: cnt: 1 is there"),
        (["--counter", "4294967296=01"], "", "entries: entry 1: cnt: found 4294967296"),
        (["hello"], "", "data: 4 of its characters are no hexadecimal digits"),
        (["01", "--for", "soon"], "", "found 'soon', expected seconds, more than 0"),
        (["01", "--for", "31d"], "", "found '31d', expected seconds, more than 0"),
        (["01", "--priority", "nan"], "", "nan is not in the range"),
        (["01", "--wait", "nan"], "", "Invalid value for '--wait'"),
        (["01", "--format", "256"], "", "Invalid value for '--format'"),
        (["01", "--ref", "x" * 129], "", "ref: has 129 characters"),
    ],
)
def test_what_is_no_downlink_is_refused(site, cli, arguments, stdin, words):
    code, out, err = cli("downlinks", "send", "Kitchen", *arguments, stdin=stdin)
    assert (code, out) == (2, "")
    assert words in " ".join(err.replace("│", " ").split())
    assert site.downlinks == {}


@pytest.mark.process
def test_standard_input_that_is_no_text_is_refused(folder):
    program = "from bssci.cli.downlinks import app; app()"
    arguments = ["send", "Kitchen", "-", "--socket", str(folder / "control.sock")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=b"\xff",
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input is no text" in done.stderr


def test_a_sensor_that_nobody_knows_is_not_found(site, cli):
    assert cli("downlinks", "send", "Attic", "01") == (
        5,
        "",
        "error: there is no sensor Attic\nhint: `bssci sensors list`\n",
    )


def test_a_sensor_that_cannot_receive_is_told_nothing(site, cli):
    code, _, err = cli("downlinks", "send", "Bath", "01", "--wait", "5")
    assert (code, err) == (
        1,
        "error: sensor 70B3D59CD0000103 cannot receive\nhint: `bssci sensors set --bidi`\n",
    )


# --- wait for the result ---


def test_a_result_that_is_there_at_once_is_not_missed(site, cli):
    site.fate = SENT
    assert cli("downlinks", "send", "Kitchen", "01", "--wait", "60") == (
        0,
        "downlink 1  sent\n"
        "  sensor        70B3D59CD0000102\n"
        "  base station  70B3D59CD0000001\n"
        "  sent at       2024-05-01 11:59:58\n"
        "  after uplink  1187\n",
        "",
    )
    assert site.told == ["downlinks.send"]


def test_programs_get_the_result(site, cli):
    site.fate = SENT
    _, out, _ = cli("downlinks", "send", "Kitchen", "01", "--wait", "60", "--json")
    found = json.loads(out)
    assert found["state"] == "sent"
    assert found["bs_eui"] == "70B3D59CD0000001"
    assert found["result"] == {
        "result": "sent",
        "time": found["result"]["time"],
        "bs_eui": "70B3D59CD0000001",
        "tx_time": NOW - 2,
        "cnt": 1187,
        "code": None,
        "message": "",
        "acknowledged": None,
    }


@pytest.mark.parametrize("result", ["expired", "invalid", "revoked"])
def test_a_downlink_that_is_not_sent_has_failed(site, cli, result):
    site.fate = Ending(result=result, at_ns=NOW_NS)
    assert cli("downlinks", "send", "Kitchen", "01", "--wait", "60") == (
        1,
        f"downlink 1  {result}\n  sensor  70B3D59CD0000102\n",
        "",
    )


def test_a_base_station_says_why_it_rejects_a_downlink(site, cli):
    site.fate = REJECTED
    assert cli("downlinks", "send", "Kitchen", "01", "--wait", "60") == (
        1,
        "downlink 1  rejected\n"
        "  sensor        70B3D59CD0000102\n"
        "  base station  70B3D59CD0000001\n"
        "  reason        error 28, full\n",
        "",
    )


def test_a_downlink_that_is_not_sent_in_time_is_pending(site, cli):
    """The result of another one is not taken for its own, nor is that a base station has it."""
    site.downlinks[7] = downlink(7)
    site.until["downlinks.send"] = tell_first(
        site,
        {"id": 7, "eui": "70B3D59CD0000102", "ref": None, "event": "sent"},
        {
            "id": 8,
            "eui": "70B3D59CD0000102",
            "ref": None,
            "event": "at_station",
            "bs_eui": "70B3D59CD0000001",
        },
    )
    assert cli("downlinks", "send", "Kitchen", "01", "--wait", "0.5") == (
        4,
        "downlink 8  at the base station\n"
        "  sensor        70B3D59CD0000102\n"
        "  base station  70B3D59CD0000001\n"
        "  expires       2024-05-02 12:00:00\n",
        "",
    )


def tell_first(service, *events):
    """Something happens while a method is being called."""

    def tell():
        for event in events:
            service.tell("downlink", event)
        return True

    return tell


def test_a_service_that_goes_is_not_waited_for(site, cli, monkeypatch):
    def note(text):
        """It is waiting now."""
        told.append(text)
        site.leave()

    told: list[str] = []
    monkeypatch.setattr(remote, "PATIENCE", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(output, "note", note)
    assert cli("downlinks", "send", "Kitchen", "01", "--wait", "60")[:2] == (3, "")
    assert [re.sub(COLOURS, "", each) for each in told] == [
        "waiting up to 60 s for it to be sent; Ctrl-C ends only the waiting",
        "error: the service has gone; downlink 1 is kept by it",
        "hint: `bssci downlinks list` tells what became of it",
    ]


# --- list ---


@pytest.fixture
def queue(site):
    """Five downlinks: sent, rejected, two that wait, one for another sensor."""
    records = [
        ended(1, ref="valve 3"),
        ended(2, REJECTED),
        downlink(3, holder=STATION, is_queued=True, counters=(9, 8)),
        downlink(4, data=b""),
        downlink(5, sensor=BATH, data=bytes(range(40)), acknowledged_ns=NOW_NS, ending=SENT),
    ]
    site.downlinks = {each.downlink.que_id: each for each in records}
    return site


TITLE = "id  sensor            state         age  expires in  base station      ref      data"


def test_a_list_has_the_newest_first(queue, cli):
    assert cli("downlinks", "list", "--sensor", "Kitchen") == (
        0,
        "\n".join(
            [
                TITLE,
                " 4  70B3D59CD0000102  ◐ queued      1 h        23 h  -                 -        -",
                " 3  70B3D59CD0000102  ◐ at station  1 h        23 h  70B3D59CD0000001  -        "
                "9=01ff 8=01ff",
                " 2  70B3D59CD0000102  ✕ rejected    1 h           -  70B3D59CD0000001  -        "
                "01ff",
                " 1  70B3D59CD0000102  ● sent        1 h           -  70B3D59CD0000001  valve 3  "
                "01ff",
                "",
            ]
        ),
        "",
    )


def test_a_list_fits_a_terminal(queue, cli):
    _, out, _ = cli("downlinks", "list", columns=80)
    assert re.sub(COLOURS, "", out).splitlines() == [
        "id  sensor            state           age  base station      data",
        " 5  70B3D59CD0000103  ● acknowledged  1 h  70B3D59CD0000001  000102030405060708…",
        " 4  70B3D59CD0000102  ◐ queued        1 h  -                 -",
        " 3  70B3D59CD0000102  ◐ at station    1 h  70B3D59CD0000001  9=01ff 8=01ff",
        " 2  70B3D59CD0000102  ✕ rejected      1 h  70B3D59CD0000001  01ff",
        " 1  70B3D59CD0000102  ● sent          1 h  70B3D59CD0000001  01ff",
    ]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], [5, 4, 3, 2, 1]),
        (["--count", "2"], [5, 4]),
        (["--sensor", "Kitchen"], [4, 3, 2, 1]),
        (["--state", "at-station"], [3]),
        (["--state", "QUEUED"], [4]),
        (["--sensor", "Bath", "--state", "acknowledged"], [5]),
    ],
)
def test_programs_get_those_they_ask_for(queue, cli, options, ids):
    code, out, err = cli("downlinks", "list", "--json", *options)
    assert (code, err, [each["id"] for each in json.loads(out)]) == (0, "", ids)


def test_that_there_is_none_is_a_message(site, cli):
    assert cli("downlinks", "list") == (0, "", "no downlink yet\n")
    assert cli("downlinks", "list", "--state", "sent") == (0, "", "no downlink is like that\n")
    assert cli("downlinks", "list", "--json") == (0, "[]\n", "")


def test_a_state_that_there_is_not_is_refused(site, cli):
    code, _, err = cli("downlinks", "list", "--state", "lost")
    assert (code, "'lost' is none of queued, at_station" in err) == (2, True)


# --- cancel ---


def test_a_downlink_that_waits_is_taken_back(queue, cli):
    assert cli("downlinks", "cancel", "4") == (
        0,
        "downlink 4  revoked\n  sensor  70B3D59CD0000102\n",
        "",
    )
    assert queue.downlinks[4].state == "revoked"


def test_a_base_station_that_is_silent_has_not_confirmed_yet(queue, cli):
    queue.stations[0].manner = "silent"
    assert cli("downlinks", "cancel", "3", "--timeout", "0") == (
        4,
        "downlink 3  is to be dropped; the base station has not confirmed yet\n"
        "  sensor        70B3D59CD0000102\n"
        "  base station  70B3D59CD0000001\n"
        "  expires       2024-05-02 11:00:00\n",
        "",
    )


def test_what_was_sent_cannot_be_taken_back(queue, cli):
    code, out, err = cli("downlinks", "cancel", "1")
    assert (code, out.splitlines()[0], err) == (1, "downlink 1  sent", "")


def test_an_id_that_there_is_not_is_not_found(queue, cli):
    assert cli("downlinks", "cancel", "9") == (
        5,
        "",
        "error: there is no downlink 9\nhint: `bssci downlinks list`\n",
    )


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        (["3", "4"], 4),
        (["4", "2"], 0),
        (["4", "4"], 0),
        (["4", "1"], 6),
        (["1", "5"], 1),
        (["9", "10"], 5),
        (["3", "9"], 6),
    ],
)
def test_many_are_taken_back_at_once(queue, cli, ids, code):
    queue.stations[0].manner = "silent"
    assert cli("downlinks", "cancel", *ids, "--timeout", "0.1")[0] == code


def test_what_came_of_each_is_told(queue, cli):
    code, out, err = cli("downlinks", "cancel", "9", "4")
    assert (code, out, err) == (
        6,
        "downlink 4  revoked\n  sensor  70B3D59CD0000102\n",
        "error: there is no downlink 9\nhint: `bssci downlinks list`\n",
    )
    _, out, _ = cli("downlinks", "cancel", "9", "4", "--json")
    first, second = json.loads(out)
    assert first == {"id": 9, "error": "there is no downlink 9"}
    assert (second["id"], second["state"]) == (4, "revoked")


def test_all_that_wait_for_a_sensor_are_taken_back(queue, cli):
    code, out, _ = cli("downlinks", "cancel", "--sensor", "Kitchen", "--json")
    found = [(each["id"], each["state"], each["bs_eui"]) for each in json.loads(out)]
    assert (code, found) == (0, [(4, "revoked", None), (3, "revoked", "70B3D59CD0000001")])


def test_that_none_waits_is_a_message(queue, cli):
    assert cli("downlinks", "cancel", "--sensor", "Bath") == (
        0,
        "",
        "no downlink waits for this sensor\n",
    )
    assert cli("downlinks", "cancel", "--sensor", "Bath", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize("arguments", [[], ["4", "--sensor", "Kitchen"]])
def test_it_must_be_said_which(queue, cli, arguments):
    code, _, err = cli("downlinks", "cancel", *arguments)
    assert (code, "give IDs, or --sensor" in err, queue.told) == (2, True, [])


# --- without a service ---


@pytest.mark.parametrize(
    "arguments", [["send", "Kitchen", "01", "--wait", "1"], ["list"], ["cancel", "4"]]
)
def test_without_a_service_nothing_can_be_done(cli, arguments):
    code, out, err = cli("downlinks", *arguments)
    assert (code, out, "bssci serve" in err) == (3, "", True)
