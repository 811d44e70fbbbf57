from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.user_data import (
    MAX_DATA,
    MAX_ENTRIES,
    InvalidUserDataError,
    Said,
    entries_of,
    octets_of,
)

KEY = "00112233445566778899AABBCCDDEEFF"


@pytest.mark.parametrize(
    "value",
    [
        "01ab FF",
        "0x01ABff",
        "0X01abff",
        " 01:ab:FF\n",
        "01-AB-FF",
        "01\t ab\r\nff",
        [1, 171, 255],
        (1, 171, 255),
    ],
)
def test_bytes_have_any_usual_spelling(value):
    assert octets_of(value) == b"\x01\xab\xff"


@pytest.mark.parametrize("value", ["", " \n", [], ()])
def test_there_may_be_none(value):
    assert octets_of(value) == b""


@pytest.mark.parametrize("value", ["00" * MAX_DATA, [0] * MAX_DATA])
def test_there_may_be_as_many_as_fit_a_telegram(value):
    assert octets_of(value) == bytes(200)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("00" * 201, "has 201 bytes, at most 200 are possible"),
        ([0] * 201, "has 201 bytes, at most 200 are possible"),
        ("012", "has 3 hexadecimal digits, two a byte are expected"),
        ("hello", "4 of its characters are no hexadecimal digits"),
        ("-", "has 0 hexadecimal digits, two a byte are expected"),
        ("0x", "has 0 hexadecimal digits, two a byte are expected"),
        (f"{KEY}x", "1 of its characters are no hexadecimal digits"),
        ("٣٣", "2 of its characters are no hexadecimal digits"),
        ([1, 256], "found 256, numbers from 0 to 255 are expected"),
        ([-1], "found -1, numbers from 0 to 255 are expected"),
        ([True], "found true, numbers from 0 to 255 are expected"),
        ([1.0], "found 1.0, numbers from 0 to 255 are expected"),
        ([KEY], "found ****, numbers from 0 to 255 are expected"),
        (7, "found 7, hexadecimal digits or a list of numbers are expected"),
        (None, "found nothing, hexadecimal digits or a list of numbers are expected"),
        ({}, "found a table, hexadecimal digits or a list of numbers are expected"),
    ],
)
def test_what_is_no_user_data_is_told_what_was_found(value, words):
    with pytest.raises(InvalidUserDataError) as caught:
        octets_of(value)
    assert str(caught.value) == words


def test_another_limit_can_be_set():
    assert octets_of("0102", most=2) == b"\x01\x02"
    with pytest.raises(InvalidUserDataError, match="has 3 bytes, at most 2 are possible"):
        octets_of("010203", most=2)


@given(st.binary(max_size=MAX_DATA))
def test_digits_and_numbers_mean_the_same(data):
    assert octets_of(data.hex(" ")) == octets_of([*data]) == data


# --- by packet counter ---


def test_entries_keep_their_order():
    entries = [{"cnt": 9, "data": "01"}, {"data": [2, 3], "cnt": 4}, {"cnt": 2**32 - 1, "data": ""}]
    assert entries_of(entries) == Said((b"\x01", b"\x02\x03", b""), (9, 4, 2**32 - 1))


def test_there_may_be_as_many_entries_as_a_downlink_has():
    entries = [{"cnt": number, "data": [number]} for number in range(MAX_ENTRIES)]
    assert entries_of(entries) == Said(tuple(bytes([n]) for n in range(64)), tuple(range(64)))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("01", "found '01', a list of entries is expected"),
        ({"cnt": 1, "data": ""}, "found a table, a list of entries is expected"),
        ([], "has 0, 1 to 64 are expected"),
        ([{"cnt": 1, "data": ""}] * 65, "has 65, 1 to 64 are expected"),
        (["01"], "entry 1: an object of cnt and data is expected"),
        ([{"cnt": 1}], "entry 1: an object of cnt and data is expected"),
        ([{"cnt": 1, "data": "", "x": 1}], "entry 1: an object of cnt and data is expected"),
        (
            [{"cnt": -1, "data": ""}],
            "entry 1: cnt: found -1, a number from 0 to 4294967295 is expected",
        ),
        (
            [{"cnt": 2**32, "data": ""}],
            "entry 1: cnt: found 4294967296, a number from 0 to 4294967295 is expected",
        ),
        (
            [{"cnt": True, "data": ""}],
            "entry 1: cnt: found true, a number from 0 to 4294967295 is expected",
        ),
        (
            [{"cnt": KEY, "data": ""}],
            "entry 1: cnt: found ****, a number from 0 to 4294967295 is expected",
        ),
        (
            [{"cnt": 1, "data": "0"}, {"cnt": 2, "data": ""}, {"cnt": 2, "data": "00" * 201}],
            "entry 1: data: has 1 hexadecimal digits, two a byte are expected, "
            "entry 3: cnt: 2 is there already",
        ),
        (
            [{"cnt": 5, "data": None}],
            "entry 1: data: found nothing, hexadecimal digits or a list of numbers are expected",
        ),
    ],
)
def test_what_are_no_entries_is_told_all_that_is_wrong(value, words):
    with pytest.raises(InvalidUserDataError) as caught:
        entries_of(value)
    assert str(caught.value) == words
