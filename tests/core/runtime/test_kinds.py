from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.runtime.kinds import (
    MAX_DURATION,
    Choice,
    Duration,
    Eui,
    File,
    Flag,
    Kind,
    Size,
    Text,
    Topic,
    Whole,
    Zone,
    to_toml,
)

WHOLE_SECONDS = Duration(whole=True, most=65535)


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (Text(), "", ""),
        (Text(may_be_empty=False), "sc", "sc"),
        (Flag(), True, True),
        (Choice(("match", "pin")), "pin", "pin"),
        (Whole(0, 65535), 0, 0),
        (Whole(0, 65535), 65535, 65535),
        (Duration(), 1, 1.0),
        (Duration(), 0.25, 0.25),
        (Duration(), "90s", 90.0),
        (Duration(), "30d", 2592000.0),
        (Duration(), "1h 30m", 5400.0),
        (Duration(), " 2W ", 1209600.0),
        (Duration(), "1.5min", 90.0),
        (Duration(), "250ms", 0.25),
        (Duration(), "90", 90.0),
        (Duration(above=-1), 0, 0.0),
        (WHOLE_SECONDS, "1m", 60),
        (Size(), 1, 1),
        (Size(), "100MB", 100_000_000),
        (Size(), "1.5 kB", 1500),
        (Size(), "1GiB", 2**30),
        (Size(), "17", 17),
        (Eui(), "70-b3-d5-9c-d0-00-00-01", 0x70B3D59CD0000001),
        (Eui(), 5, 5),
        (File(), "certs/ca.pem", Path("certs/ca.pem")),
        (File(may_be_empty=True), "", None),
        (Topic(), "mioty/", "mioty"),
        (Topic(), "a/b//", "a/b"),
        (Zone(), "local", "local"),
        (Zone(), "utc", "utc"),
        (Zone(), "Europe/Berlin", "Europe/Berlin"),
    ],
)
def test_what_is_expected_is_read(kind: Kind, value, read):
    assert kind.read(value) == read
    assert type(kind.read(value)) is type(read)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Text(), 1),
        (Text(), "a\0b"),
        (Text(may_be_empty=False), ""),
        (Flag(), 1),
        (Flag(), "true"),
        (Choice(("match", "pin")), "Match"),
        (Choice(("match", "pin")), 1),
        (Whole(0, 65535), 65536),
        (Whole(0, 65535), -1),
        (Whole(0, 65535), True),
        (Whole(0, 65535), 1.0),
        (Duration(), 0),
        (Duration(), -1),
        (Duration(), True),
        (Duration(), "soon"),
        (Duration(), ""),
        (Duration(), "3 parsecs"),
        (Duration(), "5d extra"),
        (Duration(), float("inf")),
        (Duration(), float("nan")),
        (Duration(), "nan"),
        (Duration(), MAX_DURATION + 1),
        (Duration(), []),
        (WHOLE_SECONDS, 1.5),
        (WHOLE_SECONDS, 65536),
        (Size(), "100 apples"),
        (Size(), "1 ib"),
        (Size(), -1),
        (Size(), True),
        (Size(), 1.5),
        (Size(), 2**63),
        (Eui(), "FCA84A03"),
        (Eui(), 1.0),
        (Eui(), True),
        (File(), ""),
        (File(), "a\0b"),
        (File(), 3),
        (Topic(), ""),
        (Topic(), "/"),
        (Topic(), "a/+"),
        (Topic(), "a/#"),
        (Topic(), "$SYS"),
        (Topic(), "x" * 1025),
        (Topic(), 1),
        (Zone(), "Mars/Olympus"),
        (Zone(), "../etc/passwd"),
        (Zone(), 1),
    ],
)
def test_what_is_not_expected_is_refused(kind: Kind, value):
    with pytest.raises(ValueError):
        kind.read(value)


@pytest.mark.parametrize(
    ("kind", "text", "read"),
    [
        (Flag(), "true", True),
        (Flag(), " Yes", True),
        (Flag(), "on", True),
        (Flag(), "1", True),
        (Flag(), "false", False),
        (Flag(), "NO", False),
        (Flag(), "off", False),
        (Flag(), "0", False),
        (Whole(0, 65535), "16017", 16017),
        (Duration(), "2.5", 2.5),
        (Text(), "16017", "16017"),
    ],
)
def test_a_text_from_the_environment_is_read(kind: Kind, text, read):
    assert kind.read_text(text) == read


@pytest.mark.parametrize(
    ("kind", "text"), [(Flag(), "maybe"), (Flag(), ""), (Whole(0, 9), "x"), (Whole(0, 9), "")]
)
def test_a_text_that_means_nothing_is_refused(kind: Kind, text):
    with pytest.raises(ValueError):
        kind.read_text(text)


def test_a_size_beyond_all_disks_is_refused():
    with pytest.raises((ValueError, OverflowError)):
        Size().read("9" * 400 + "TB")


def test_an_eui_that_is_none_is_refused_with_the_number_of_digits_found():
    with pytest.raises(ValueError) as caught:
        Eui().read("FCA84A03")
    assert str(caught.value) == (
        "an EUI64 of 16 hexadecimal digits (8 hexadecimal digits found, 16 expected)"
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Text(), "text"),
        (Text(may_be_empty=False), "text that is not empty"),
        (Flag(), "true or false"),
        (Choice(("match", "pin", "chain")), '"match", "pin" or "chain"'),
        (Whole(0, 65535), "a whole number from 0 to 65535"),
        (Duration(), 'seconds, more than 0 (or "90s", "12h", "30d")'),
        (Duration(above=-1), 'seconds, 0 or more (or "90s", "12h", "30d")'),
        (WHOLE_SECONDS, 'whole seconds, more than 0 and at most 65535 (or "90s", "12h", "30d")'),
        (File(), "a path"),
        (File(may_be_empty=True), 'a path, or "" for none'),
    ],
)
def test_what_is_expected_is_said_in_words(kind: Kind, words):
    assert kind.expected == words


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        (Duration(spelled=True), 2592000.0, "30d"),
        (Duration(spelled=True), 7200.0, "2h"),
        (Duration(spelled=True), 120.0, "2m"),
        (Duration(spelled=True), 90.0, "90s"),
        (Duration(spelled=True), 0.0, 0.0),
        (Duration(spelled=True), 0.25, 0.25),
        (Duration(), 30.0, 30.0),
        (Size(), 100_000_000, "100MB"),
        (Size(), 1024, 1024),
        (Size(), 0, 0),
        (Eui(), 1, "0000000000000001"),
        (File(), Path("a/b"), "a/b"),
        (File(may_be_empty=True), None, ""),
        (Text(), "x", "x"),
    ],
)
def test_values_are_written_as_people_write_them(kind: Kind, value, written):
    assert kind.write(value) == written


@given(st.floats(0, MAX_DURATION), st.booleans())
def test_a_duration_that_was_written_is_read_again(seconds, spelled):
    kind = Duration(above=-1, spelled=spelled)
    assert kind.read(kind.write(seconds)) == seconds


@given(st.integers(0, 2**53))
def test_a_size_that_was_written_is_read_again(size):
    assert Size().read(Size().write(size)) == size


@given(st.text())
def test_any_text_gives_a_value_or_a_value_error(text):
    for kind in (Duration(), Size(), Flag(), Whole(0, 9), Eui(), Topic(), Zone(), File()):
        try:
            kind.read_text(text)
        except (ValueError, OverflowError):
            continue


@pytest.mark.parametrize(
    ("value", "spelled"),
    [("a", '"a"'), ('say "hi"', '"say \\"hi\\""'), (1, "1"), (30.0, "30.0"), (True, "true")],
)
def test_values_are_spelled_as_in_toml(value, spelled):
    assert to_toml(value) == spelled


def test_a_kind_of_its_own_says_what_it_expects():
    with pytest.raises(NotImplementedError):
        Kind().read("x")
    with pytest.raises(NotImplementedError):
        _ = Kind().expected
