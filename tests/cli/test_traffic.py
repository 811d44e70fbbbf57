import base64
import json
import sys

import pytest
import typer
from typer.testing import CliRunner

from bssci.cli import traffic
from bssci.cli.traffic import Found, InputError, bytes_of, decode, find_messages
from bssci.core.protocol.codec import encode
from bssci.core.protocol.frames import encode_frame
from bssci.core.protocol.messages import (
    AttachPropagate,
    Ping,
    Status,
    StatusResponse,
    Subpackets,
    UplinkData,
    VmUplinkData,
)

# {"command": "ping", "opId": 42}
PING = bytes.fromhex("82a7636f6d6d616e64a470696e67a46f7049642a")
FRAME = bytes.fromhex("4d494f5459423031 14000000") + PING

XXD = """\
00000000: 4d49 4f54 5942 3031 1400 0000 82a7 636f  MIOTYB01......co
00000010: 6d6d 616e 64a4 7069 6e67 a46f 7049 642a  mmand.ping.opId*
"""
HEXDUMP = """\
00000000  4d 49 4f 54 59 42 30 31  14 00 00 00 82 a7 63 6f  |MIOTYB01......co|
00000010  6d 6d 61 6e 64 a4 70 69  6e 67 a4 6f 70 49 64 2a  |mmand.ping.opId*|
00000020
"""
TCPDUMP = """\
\t0x0000:  4d49 4f54 5942 3031 1400 0000 82a7 636f  MIOTYB01......co
\t0x0010:  6d6d 616e 64a4 7069 6e67 a46f 7049 642a  mmand.ping.opId*
"""

app = typer.Typer()
app.command()(decode)


def run(*args, data=b"", **env):
    return CliRunner().invoke(app, list(args), input=data, env=env)


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- what the input means ---


@pytest.mark.parametrize(
    "text",
    [
        FRAME.hex(),
        FRAME.hex().upper(),
        FRAME.hex(" "),
        FRAME.hex(":", 2),
        "0x" + FRAME.hex(),
        ", ".join(f"0x{byte:02x}" for byte in FRAME),
        "".join(f"\\x{byte:02x}" for byte in FRAME),
        "\r\n".join([FRAME.hex()[:20], FRAME.hex()[20:], ""]),
        # Two spaces after eight digits look like the offset of a dump, and are none.
        "  ".join(FRAME.hex()[at : at + 8] for at in range(0, 64, 8)),
        XXD,
        HEXDUMP,
        HEXDUMP.replace("00000020\n", ""),
        TCPDUMP,
        base64.b64encode(FRAME).decode(),
        base64.encodebytes(FRAME).decode(),
        base64.urlsafe_b64encode(FRAME).decode().rstrip("="),
    ],
)
def test_text_means_the_bytes_it_spells(text):
    assert bytes_of(text.encode()) == FRAME


@pytest.mark.parametrize("payload", [PING, b"{}", b"\xde\x00\x00", b"\xdf\x00\x00\x00\x00"])
def test_a_payload_without_a_header_may_be_in_base64_too(payload):
    assert bytes_of(base64.b64encode(payload)) == payload


@pytest.mark.parametrize(
    "data", [b"", FRAME, PING, b'{"command":"ping","opId":1}', b"\x00\x01ab", b"MIOTY"]
)
def test_bytes_mean_themselves(data):
    assert bytes_of(data) == data


def test_a_dump_whose_text_column_begins_like_digits_is_read_right():
    assert bytes_of(b"00000000: 6162 63  abc\n") == b"abc"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("4d49 4", "5 hexadecimal digits: one is missing, or one too many"),
        ("4d 49\n4f 5g", "line 2, column 5: 'g' is no hexadecimal digit"),
        ("0x4d 0x!!", "line 1, column 8: '!' is no hexadecimal digit"),
        ("hello", "line 1, column 1: 'h' is no hexadecimal digit"),
        ("hellohello=====", "line 1, column 1: 'h'"),
        ("A", "1 hexadecimal digits"),
        ("Q0=0", "line 1, column 1: 'Q'"),
        ("00000000  4d 49\n00000004  4f 54\nxx", "'x' is no hexadecimal digit"),
    ],
)
def test_text_that_means_no_bytes_is_an_error_that_says_where(text, words):
    with pytest.raises(InputError) as error:
        bytes_of(text.encode())
    assert words in str(error.value)


# --- what the bytes mean ---


def test_one_frame_is_one_message():
    assert list(find_messages(FRAME)) == [
        Found(offset=0, length=32, command="ping", op_id=42, fields={}, utc={})
    ]


def test_frames_follow_each_other():
    assert [found.offset for found in find_messages(FRAME * 3)] == [0, 32, 64]


def test_a_payload_needs_no_header():
    assert list(find_messages(PING)) == [
        Found(offset=0, length=20, command="ping", op_id=42, fields={}, utc={})
    ]


def test_json_payloads_are_read():
    (found,) = find_messages(b'{"command":"detPrp","opId":-1,"epEui":-2}')
    assert (found.command, found.op_id, found.fields) == (
        "detPrp",
        -1,
        {"epEui": "FFFFFFFFFFFFFFFE"},
    )


def test_after_what_is_no_frame_it_goes_on_at_the_next_one():
    assert list(find_messages(b"GET /" + FRAME + b"\x00" + FRAME)) == [
        Found(
            offset=0,
            length=5,
            error="5 bytes that are no frame, beginning with 47 45 54 20 2f",
        ),
        Found(offset=5, length=32, command="ping", op_id=42, fields={}, utc={}),
        Found(offset=37, length=1, error="1 bytes that are no frame, beginning with 00"),
        Found(offset=38, length=32, command="ping", op_id=42, fields={}, utc={}),
    ]


def test_the_end_within_a_frame_says_how_much_is_there():
    header, payload = find_messages(FRAME + FRAME[:11]), find_messages(FRAME + FRAME[:12])
    errors = [list(each)[1] for each in (header, payload)]
    assert errors == [
        Found(
            offset=32,
            length=11,
            error="the input ends within a frame: 11 bytes of a header of 12 are there",
        ),
        Found(
            offset=32, length=12, error="the input ends within a frame: 12 bytes of 32 are there"
        ),
    ]


def test_a_frame_with_a_wrong_length_does_not_hide_the_next_one():
    wrong = FRAME[:8] + b"\xff\xff\xff\xff" + PING
    assert [found.error is None for found in find_messages(wrong + FRAME)] == [False, True]


def test_the_other_interface_is_known_by_its_identifier():
    (found,) = find_messages(b"MIOTYA01" + FRAME[8:])
    assert found.error == (
        "32 bytes that are no frame, beginning with 4d 49 4f 54 59 41 30 31: "
        "a frame of SCACI, the interface to applications, not of BSSCI"
    )


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "not MessagePack"),
        (b"\x93\x01\x02\x03", "a payload holds list, expected a map (it begins with 93 01 02 03)"),
        (PING + b"\x00", "1 bytes follow the message"),
        (b"\x81\xa7command\xa4ping", "a message without an opId"),
        (b'{"opId":1,"command":5}', "not a proper message: command: not a text"),
        (b'{"command":"ulData","opId":1}', "not a proper message: epEui: missing"),
    ],
)
def test_what_is_no_proper_message_says_why(payload, words):
    (found,) = find_messages(encode_frame(payload))
    assert words in (found.error or "")


def test_nothing_is_an_error():
    assert list(find_messages(b"")) == [
        Found(offset=0, length=0, error="there is nothing to decode")
    ]


def test_unknown_commands_are_shown_as_they_came():
    (found,) = find_messages(
        b'{"command":"rc.go","opId":7,"appKey":"00","list":[1,null],"m":{"a":1}}'
    )
    assert found == Found(
        offset=0,
        length=70,
        command="rc.go",
        op_id=7,
        fields={"appKey": "****", "list": [1, None], "m": {"a": 1}},
        utc={},
        note="command 'rc.go' is not supported here; its fields are shown as they came",
    )


def test_unknown_fields_are_shown_and_named():
    (found,) = find_messages(b'{"command":"ping","opId":7,"subchan":["vm"]}')
    assert (found.fields, found.note, found.error) == (
        {"subchan": ["vm"]},
        "not in the specification: subchan",
        None,
    )


def test_an_uplink_has_hex_and_utc():
    uplink = UplinkData(
        op_id=1,
        ep_eui=0xFCA84A030000127C,
        rx_time=1_756_193_850_753_325_806,
        rx_duration=4_867_321_436,
        packet_cnt=390,
        snr=23.25,
        rssi=-68.5,
        subpackets=Subpackets(snr=(1.0,), rssi=(-2.0,), frequency=(868_055_297.59375,)),
        user_data=b"\x11\x32\x86",
        dl_open=False,
        response_exp=False,
        dl_ack=False,
    )
    (found,) = find_messages(encode_frame(encode(uplink)))
    assert found == Found(
        offset=0,
        length=found.length,
        command="ulData",
        op_id=1,
        fields={
            "epEui": "FCA84A030000127C",
            "rxTime": 1_756_193_850_753_325_806,
            "rxDuration": 4_867_321_436,
            "packetCnt": 390,
            "snr": 23.25,
            "rssi": -68.5,
            "subpackets": {"snr": [1.0], "rssi": [-2.0], "frequency": [868_055_297.59375]},
            "userData": "113286",
            "dlOpen": False,
            "responseExp": False,
            "dlAck": False,
        },
        utc={"rxTime": "2025-08-26 07:37:30.753325806 UTC"},
    )


@pytest.mark.parametrize(
    ("time", "utc"),
    [
        (
            1_756_625_812_083_770_244,
            {"time": "2025-08-31 07:36:52.083770244 UTC"},
        ),
        (
            1_756_625_812_082_000,
            {"time": "2025-08-31 07:36:52.082000000 UTC (sent in microseconds)"},
        ),
        (
            1_756_625_812_082,
            {"time": "2025-08-31 07:36:52.082000000 UTC (sent in milliseconds)"},
        ),
        (17, {}),
    ],
)
def test_the_unit_of_a_time_is_known_by_its_magnitude(time, utc):
    status = StatusResponse(op_id=-1, code=0, message="", time=time, duty_cycle=0.0, uptime=10**18)
    (found,) = find_messages(encode_frame(encode(status)))
    assert found.utc == utc


def test_the_clock_of_a_transceiver_is_no_time_of_day():
    heard = VmUplinkData(
        op_id=1,
        mac_type=1,
        user_data=b"",
        trx_time=2_624_805_061_575_111,
        sys_time=1_756_193_850_753_325_806,
        freq_off=0.0,
        snr=0.0,
        rssi=0.0,
        carr_space=1,
        patt_grp=0,
        patt_num=0,
        crc=(1, 2),
    )
    (found,) = find_messages(encode_frame(encode(heard)))
    assert list(found.utc or ()) == ["sysTime"]


ATTACH = AttachPropagate(
    op_id=-1,
    ep_eui=1,
    bidi=True,
    nwk_sn_key=b"\xab" * 16,
    sh_addr=2,
    last_packet_cnt=0,
    dual_chan=False,
    repetition=False,
    wide_carr_off=False,
    long_blk_dist=False,
)


def test_keys_are_hidden_unless_asked_for():
    frame = encode_frame(encode(ATTACH))
    ((hidden,), (shown,)) = (list(find_messages(frame, reveal=reveal)) for reveal in (False, True))
    assert (hidden.fields or {})["nwkSnKey"] == "****"
    assert (shown.fields or {})["nwkSnKey"] == "ab" * 16


def test_keys_of_improper_messages_are_hidden_too():
    (found,) = find_messages(b'{"command":"attPrp","opId":-1,"nwkSnKey":[1,2]}')
    assert found.fields == {"nwkSnKey": "****"}
    assert found.error is not None


def test_an_absent_field_sent_as_nil_is_shown_so():
    (found,) = find_messages(b'{"command":"statusRsp","opId":-1,"temp":null}')
    assert found.fields == {"temp": None}


def test_odd_values_are_shown_harmlessly():
    # {"command": "x", "opId": 1, "text": "\x1b[2J", "bytes": bin}
    data = bytes.fromhex("84 a7636f6d6d616e64 a178 a46f704964 01 a474657874 a41b5b324a") + (
        b"\xa5bytes\xc4\x02\x01\x02"
    )
    (found,) = find_messages(data)
    assert found.fields == {"text": "\\x1b[2J", "bytes": "0102"}


# --- the command ---


def test_a_file_is_decoded(tmp_path):
    file = tmp_path / "capture.bin"
    file.write_bytes(FRAME)
    result = run(str(file))
    assert (result.exit_code, result.stdout) == (0, "ping  opId 42  at byte 0, 32 bytes\n\n")


def test_digits_are_decoded():
    result = run(FRAME.hex())
    assert (result.exit_code, result.stdout) == (0, "ping  opId 42  at byte 0, 32 bytes\n\n")


def test_standard_input_is_decoded():
    assert run(data=XXD.encode()).stdout == run("-", data=FRAME).stdout != ""


def test_messages_are_blocks_of_fields():
    status = StatusResponse(
        op_id=-1,
        code=0,
        message="",
        time=1_756_625_812_083_770_244,
        duty_cycle=0.5,
        geo_location=(48.1, 11.6, 520.0),
        config={"a": {"b": [1, True, None]}},
    )
    result = run(data=encode_frame(encode(status)))
    assert result.stdout == (
        "statusRsp  opId -1  at byte 0, 142 bytes\n"
        "  code         0\n"
        '  message      ""\n'
        "  time         1756625812083770244  2025-08-31 07:36:52.083770244 UTC\n"
        "  dutyCycle    0.5\n"
        "  geoLocation  [48.1, 11.6, 520.0]\n"
        "  config.a     {b: [1, true, nil]}\n"
        "\n"
    )


def test_what_can_be_read_is_shown_and_the_exit_code_tells_of_the_rest():
    result = run(data=b"\x00" + FRAME)
    assert (result.exit_code, result.stdout) == (
        1,
        "?  at byte 0, 1 bytes\n"
        "  error: 1 bytes that are no frame, beginning with 00\n"
        "\n"
        "ping  opId 42  at byte 1, 32 bytes\n"
        "\n",
    )


def test_an_unknown_command_is_a_note_and_no_error():
    result = run(data=b'{"command":"rc.go","opId":7}')
    assert (result.exit_code, result.stdout) == (
        0,
        "rc.go  opId 7  at byte 0, 28 bytes\n"
        "  note: command 'rc.go' is not supported here; its fields are shown as they came\n"
        "\n",
    )


@pytest.mark.parametrize(
    ("payload", "heading"),
    [
        (b'{"command":"ping"}', "ping  no opId  at byte 0, 18 bytes"),
        (b'{"opId":7}', "(no command)  opId 7  at byte 0, 10 bytes"),
    ],
)
def test_a_message_may_lack_what_names_it(payload, heading):
    result = run(data=payload)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (1, heading)


def test_programs_get_one_object_a_message():
    result = run("--json", data=encode_frame(encode(Status(op_id=-2))) + b"\x00")
    assert result.exit_code == 1
    assert lines(result) == [
        {"offset": 0, "length": 34, "command": "status", "opId": -2, "fields": {}},
        {
            "offset": 34,
            "length": 1,
            "error": "1 bytes that are no frame, beginning with 00",
        },
    ]


def test_programs_get_keys_only_when_they_ask_and_times_as_text_too():
    frame = encode_frame(encode(ATTACH))
    assert lines(run("--json", "--reveal", data=frame))[0]["fields"]["nwkSnKey"] == "ab" * 16
    status = StatusResponse(code=0, message="", time=1_756_625_812_082, duty_cycle=0.0)
    assert lines(run("--json", data=encode_frame(encode(status))))[0]["utc"] == {
        "time": "2025-08-31 07:36:52.082000000 UTC (sent in milliseconds)"
    }


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such/file", "'no/such/file' is neither a file (No such file or directory) nor"),
        (".", "'.' is neither a file (Is a directory) nor hexadecimal digits"),
        ("z" * 5000, "is neither a file (File name too long) nor hexadecimal digits"),
        ("a\0b", "is neither a file (embedded null byte) nor hexadecimal digits"),
        ("4d4", "3 hexadecimal digits: one is missing"),
    ],
)
def test_a_source_that_is_nothing_is_a_usage_error(source, words):
    result = run(source)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_no_more_is_read_than_a_person_can(monkeypatch):
    monkeypatch.setattr(traffic, "MAX_INPUT", 10)
    result = run(data=FRAME)
    assert result.exit_code == 2
    assert "longer than 10 bytes" in result.stderr


class Terminal:
    def isatty(self):
        return True


def test_names_stand_out_on_a_terminal_unless_no_colour_is_wanted(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    (found,) = find_messages(PING)
    bold = traffic._heading(found)
    monkeypatch.setenv("NO_COLOR", "1")
    assert (bold, traffic._heading(found)) == (
        "\x1b[1mping\x1b[0m  opId 42  at byte 0, 20 bytes",
        "ping  opId 42  at byte 0, 20 bytes",
    )


def test_a_recorded_message_is_what_it_says():
    assert encode(Ping(op_id=42)) == PING
