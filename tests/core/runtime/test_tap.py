"""Every message as a line for debugging, and never a key."""

import logging

import pytest

from bssci.core.protocol.codec import encode
from bssci.core.protocol.frames import encode_frame
from bssci.core.protocol.messages import AttachPropagate, Ping, Subpackets, UplinkData
from bssci.core.runtime.tap import Tap


@pytest.fixture
def tap(caplog):
    caplog.set_level(logging.DEBUG)
    return Tap(lambda: {"bs_eui": "70B3D59CD0000001"})


def lines(caplog):
    return [(record.getMessage(), record.bs_eui) for record in caplog.records]


def test_each_message_is_a_line_however_the_bytes_are_split(tap, caplog):
    data = encode_frame(encode(Ping(op_id=7))) * 2
    tap.received(data[:20])
    tap.received(data[20:])
    tap.sent(data[:32])
    assert lines(caplog) == [
        ("received Ping(op_id=7)", "70B3D59CD0000001"),
        ("received Ping(op_id=7)", "70B3D59CD0000001"),
        ("sent Ping(op_id=7)", "70B3D59CD0000001"),
    ]


def test_a_key_is_not_in_it(tap, caplog):
    tap.sent(
        encode_frame(
            encode(
                AttachPropagate(
                    op_id=-1,
                    ep_eui=1,
                    bidi=False,
                    nwk_sn_key=b"0123456789abcdef",
                    sh_addr=2,
                    last_packet_cnt=0,
                    dual_chan=False,
                    repetition=False,
                    wide_carr_off=False,
                    long_blk_dist=False,
                )
            )
        )
    )
    ((line, _),) = lines(caplog)
    assert "AttachPropagate" in line
    assert "0123456789abcdef" not in line
    assert "48, 49, 50" not in line


def test_the_values_of_each_subpacket_are_left_out(tap, caplog):
    tap.received(
        encode_frame(
            encode(
                UplinkData(
                    op_id=1,
                    ep_eui=1,
                    rx_time=1,
                    packet_cnt=1,
                    snr=1.0,
                    rssi=-90.0,
                    subpackets=Subpackets(snr=(8.125,), rssi=(-91.0,), frequency=(868.0,)),
                    user_data=b"",
                    dl_open=False,
                    response_exp=False,
                    dl_ack=False,
                )
            )
        )
    )
    ((line, _),) = lines(caplog)
    assert caplog.records[0].ep_eui == "0000000000000001"
    assert "subpackets=None" in line
    assert "8.125" not in line


def test_what_cannot_be_accepted_is_told_as_well(tap, caplog):
    tap.received(encode_frame(b"\x82\xa7command\xa7frobnic\xa4opId\x01"))
    tap.received(b"GET / HTTP/1.1")
    tap.received(encode_frame(encode(Ping(op_id=7))))
    assert [line for line, _ in lines(caplog)] == [
        "received 23 bytes that cannot be accepted: command 'frobnic' is not supported",
        "received what is no frame: a frame begins with b'GET / HT', not b'MIOTYB01'",
    ]


@pytest.mark.parametrize(("level", "is_wanted"), [("DEBUG", True), ("INFO", False)])
def test_it_is_wanted_only_at_level_debug(caplog, level, is_wanted):
    caplog.set_level(level)
    assert Tap.is_wanted() is is_wanted
