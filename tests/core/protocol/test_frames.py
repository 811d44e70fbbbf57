from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.protocol.errors import FrameTooLongError, WrongIdentifierError
from bssci.core.protocol.frames import (
    HEADER_SIZE,
    IDENTIFIER,
    MAX_PAYLOAD,
    FrameDecoder,
    encode_frame,
)

PING = b"\x82\xa7command\xa4ping\xa4opId\x02"
STREAM = (
    b"MIOTYB01\x14\x00\x00\x00" + PING + b"MIOTYB01\x00\x00\x00\x00"
    b"MIOTYB01\x03\x00\x00\x00\x81\xa1a" + b"MIOTYB01\x2c\x01\x00\x00" + bytes(300)
)
PAYLOADS = [PING, b"", b"\x81\xa1a", bytes(300)]


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(borders)]


def decoded(*pieces: bytes, max_payload: int = MAX_PAYLOAD) -> list[bytes]:
    decoder = FrameDecoder(max_payload)
    found: list[bytes] = []
    for piece in pieces:
        decoder.feed(piece)
        found += decoder.payloads()
    return found


def test_a_frame_is_an_identifier_a_length_and_the_payload():
    assert encode_frame(b"\x81\xa1a").hex() == "4d494f54594230310300000081a161"


def test_the_length_is_little_endian():
    assert encode_frame(bytes(0x0102))[8:12] == b"\x02\x01\x00\x00"


def test_many_frames_in_one_read_are_all_given_in_order():
    assert decoded(STREAM) == PAYLOADS


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_split_at_any_byte_gives_the_same_payloads(cut):
    assert decoded(STREAM[:cut], STREAM[cut:]) == PAYLOADS


def test_one_byte_at_a_time_gives_the_same_payloads():
    assert decoded(*(bytes([byte]) for byte in STREAM)) == PAYLOADS


def test_an_empty_read_completes_nothing():
    assert decoded(b"", STREAM[:20], b"", b"") == []


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(0, 10_000)))
def test_any_split_gives_the_same_payloads(payloads, cuts):
    stream = b"".join(map(encode_frame, payloads))
    assert decoded(*split(stream, cuts)) == payloads


@pytest.mark.parametrize(
    "garbage",
    [
        b"G",
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"MIOTYA01\x14\x00\x00\x00",
        b"MIOTYB00",
        b"MIOTYB0 ",
        b"mioty",
        b"\x00",
        PING,
    ],
)
def test_a_peer_that_speaks_something_else_is_known_by_its_first_bytes(garbage):
    with pytest.raises(WrongIdentifierError) as caught:
        decoded(garbage)
    assert str(caught.value) == f"a frame begins with {garbage[:8]!r}, not b'MIOTYB01'"


@pytest.mark.parametrize("length", range(8))
def test_the_first_wrong_byte_is_enough(length):
    with pytest.raises(WrongIdentifierError):
        decoded(IDENTIFIER[:length] + b"\xff")


def test_what_is_complete_before_the_garbage_is_given_first():
    decoder = FrameDecoder()
    decoder.feed(STREAM + b"x")
    payloads = decoder.payloads()
    assert [next(payloads) for _ in PAYLOADS] == PAYLOADS
    with pytest.raises(WrongIdentifierError):
        next(payloads)


def test_a_length_at_the_limit_is_taken():
    assert decoded(encode_frame(b"1234"), max_payload=4) == [b"1234"]


@pytest.mark.parametrize("length", [5, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_as_soon_as_it_is_announced(length):
    with pytest.raises(FrameTooLongError) as caught:
        decoded(IDENTIFIER + length.to_bytes(4, "little"), max_payload=4)
    assert str(caught.value) == f"a frame of {length} bytes is announced, 4 is the limit"


def test_no_more_than_one_unfinished_frame_is_held():
    decoder = FrameDecoder(max_payload=100)
    stream = encode_frame(bytes(100)) * 50
    most = 0
    for start in range(0, len(stream), 7):
        decoder.feed(stream[start : start + 7])
        for _ in decoder.payloads():
            pass
        most = max(most, decoder.unfinished)
    assert most < HEADER_SIZE + 100
    assert decoder.unfinished == 0


def test_the_rest_of_a_read_is_held_when_the_reader_stops():
    decoder = FrameDecoder()
    decoder.feed(STREAM)
    for payload in decoder.payloads():
        assert payload == PING
        break
    assert list(decoder.payloads()) == PAYLOADS[1:]


def test_a_bytearray_may_be_fed_and_reused():
    decoder, data = FrameDecoder(), bytearray(STREAM)
    decoder.feed(data)
    data.clear()
    assert list(decoder.payloads()) == PAYLOADS
