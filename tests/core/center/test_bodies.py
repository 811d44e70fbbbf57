from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.bodies import (
    BLANK,
    MAX_PAYLOAD,
    MAX_REF,
    InvalidBodyError,
    json_of,
    object_of,
    ref_of,
    text_of,
)

KEY = "00112233445566778899AABBCCDDEEFF"


# --- text ---


@pytest.mark.parametrize("payload", [b"detach", b" \tdetach\r\n\0", b"\xef\xbb\xbfdetach\v\f"])
def test_what_stands_around_a_text_means_nothing(payload):
    assert text_of(payload) == "detach"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "the message is empty"),
        (BLANK.encode(), "the message is empty"),
        (b"det\xffach", "the message is no UTF-8 text: byte 4 is 0xFF"),
        (b"x" * (MAX_PAYLOAD + 1), "the message has 262145 bytes, at most 262144 are possible"),
    ],
)
def test_what_is_no_text_is_refused(payload, words):
    with pytest.raises(InvalidBodyError) as caught:
        text_of(payload)
    assert str(caught.value) == words


def test_the_longest_downlink_fits_however_it_is_written():
    entries = [{"cnt": 2**32 - 1 - number, "data": [255] * 200} for number in range(64)]
    assert len(json.dumps({"entries": entries}, indent=2)) < MAX_PAYLOAD


# --- JSON ---


def test_json_says_what_it_says():
    text = '{"a": [1, -2.5, "\\ud83d\\ude00", null, true, {"b": []}], "c": 1e3}'
    assert json_of(text) == {"a": [1, -2.5, "\U0001f600", None, True, {"b": []}], "c": 1000.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a" 1}', "no valid JSON: Expecting ':' delimiter at character 6, found '1'"),
        ("[1,", "no valid JSON: Expecting value at character 4, found the end"),
        ("[Infinity]", "no valid JSON: Infinity is no number"),
        ("NaN", "no valid JSON: NaN is no number"),
        ('{"a":1,"b":2,"a":3}', "'a' is given twice"),
        (f'{{"{KEY}":1,"{KEY}":2}}', "**** is given twice"),
        ("1" * (MAX_REF + 1), "a number in the JSON has 129 digits"),
        (f"0.{'1' * 127}", "a number in the JSON is too long or too great"),
        ("1e999", "a number in the JSON is too long or too great"),
        ("[[[[[[[[1]]]]]]]]", "the JSON has more than 8 levels"),
        ("[" * MAX_PAYLOAD, "the JSON has more than 8 levels"),
        ('"\\ud800"', "a text in the JSON has half of a surrogate pair"),
        ('{"\\udc00":1}', "a text in the JSON has half of a surrogate pair"),
    ],
)
def test_json_that_cannot_be_trusted_is_refused(text, words):
    with pytest.raises(InvalidBodyError) as caught:
        json_of(text)
    assert str(caught.value) == words


def test_as_many_levels_as_can_be_are_read():
    assert json_of("[[[[[[[1]]]]]]]") == [[[[[[[1]]]]]]]


# --- objects, and what they are marked with ---


def test_an_object_is_what_it_holds_and_its_mark():
    assert object_of({"a": 1, "ref": "night 7", "b": None}) == ({"a": 1, "b": None}, "night 7")
    assert object_of({}) == ({}, None)
    assert object_of({"ref": None}) == ({}, None)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([1], "found a list, a JSON object is expected"),
        ("detach", "found 'detach', a JSON object is expected"),
        (KEY, "found ****, a JSON object is expected"),
        (None, "found nothing, a JSON object is expected"),
        ({"ref": True}, "ref: found true, a text or a number is expected"),
    ],
)
def test_what_is_no_object_is_refused(found, words):
    with pytest.raises(InvalidBodyError) as caught:
        object_of(found)
    assert (str(caught.value), caught.value.ref) == (words, None)


@pytest.mark.parametrize("ref", ["", "7", "x" * MAX_REF, 0, -5, 10**127, 1.5, None])
def test_a_mark_is_kept_as_it_is(ref):
    assert ref_of(ref) is ref


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (True, "ref: found true, a text or a number is expected"),
        ([1], "ref: found a list, a text or a number is expected"),
        ({}, "ref: found a table, a text or a number is expected"),
        ("x" * 129, "ref: has 129 characters, at most 128 are possible"),
    ],
)
def test_a_mark_that_cannot_be_given_back_is_refused(ref, words):
    with pytest.raises(InvalidBodyError) as caught:
        ref_of(ref)
    assert str(caught.value) == words


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_whatever_comes_is_json_that_can_be_said_again_or_refused(payload):
    try:
        found = json_of(text_of(payload))
    except InvalidBodyError:
        return
    assert json_of(json.dumps(found, allow_nan=False)) == found
