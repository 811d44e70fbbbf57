import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.cli.monitor.keys import Keys

SEQUENCES = [
    (b"q", ["q"]),
    (b"/x\r", ["/", "x", "enter"]),
    (b"\x1b[A\x1b[B\x1bOA\x1bOB", ["up", "down", "up", "down"]),
    (b"\x1b[5~\x1b[6~", ["page-up", "page-down"]),
    (b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1bOH", ["home", "end", "home", "end", "home"]),
    (b"\x1b[1;5A\x1b[5;2~", ["up", "page-up"]),
    (b"\x1b[Z\t", ["back-tab", "tab"]),
    (b"\x7f\x08", ["backspace", "backspace"]),
    (b"\x03\x15\x17", ["ctrl-c", "ctrl-u", "ctrl-w"]),
    ("ä日".encode(), ["ä", "日"]),
    (b"\x1b[200~x\x1b[99;1R", ["x"]),
    (b"\x1bq", ["escape", "q"]),
    (b"\xff", ["\ufffd"]),
]


@pytest.mark.parametrize(("data", "keys"), SEQUENCES)
def test_bytes_are_keys(data, keys):
    assert Keys().feed(data) == keys


@pytest.mark.parametrize(("data", "keys"), SEQUENCES)
def test_however_they_are_split(data, keys):
    reader = Keys()
    assert [key for byte in data for key in reader.feed(bytes([byte]))] == keys
    assert not reader.is_waiting


def test_an_escape_that_nothing_follows_is_a_key():
    reader = Keys()
    assert (reader.feed(b"\x1b"), reader.is_waiting) == ([], True)
    assert (reader.flush(), reader.is_waiting) == (["escape"], False)
    assert reader.flush() == []


def test_an_escape_and_a_bracket_were_two_keys_when_nothing_follows():
    reader = Keys()
    reader.feed(b"\x1b[")
    assert reader.flush() == ["escape", "["]


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_whatever_comes_is_read_and_not_kept(pieces):
    reader = Keys()
    for piece in pieces:
        for key in reader.feed(piece):
            assert key.isprintable()
        assert len(reader._bytes) < 80
