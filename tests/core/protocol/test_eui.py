import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.protocol.errors import InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui, parse_short_address

EUI = 0xFCA84A030000127C
euis = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    "spelling",
    [
        "FCA84A030000127C",
        "fca84a030000127c",
        "  FcA84a030000127C\n",
        "0xFCA84A030000127C",
        "0XFCA84A030000127C",
        "fc:a8:4a:03:00:00:12:7c",
        "FC-A8-4A-03-00-00-12-7C",
        "FC A8 4A 03 00 00 12 7C",
        "fc.a8.4a.03.00.00.12.7c",
        "fca8:4a03:0000:127c",
        "FCA8-4A03-0000-127C",
        0xFCA84A030000127C,
        0xFCA84A030000127C - 2**64,
    ],
)
def test_every_usual_spelling_means_the_same_end_point(spelling):
    assert parse_eui(spelling) == EUI


@given(euis)
def test_what_is_printed_is_read_again(eui):
    assert parse_eui(format_eui(eui)) == eui


@given(euis)
def test_one_spelling_is_printed(eui):
    text = format_eui(eui)
    assert len(text) == 16
    assert text == text.upper()


@given(st.integers(-(2**63), 2**63 - 1))
def test_a_signed_number_means_the_unsigned_one_of_the_same_bits(number):
    assert parse_eui(number).to_bytes(8) == number.to_bytes(8, signed=True)


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        (
            "FCA84A03",
            "'FCA84A03' is not an EUI: 8 hexadecimal digits found, 16 expected",
        ),
        (
            "fc:a8:4a:03",
            "'fc:a8:4a:03' is not an EUI: 8 hexadecimal digits found, 16 expected",
        ),
        (
            "FCA84A030000127C00",
            "'FCA84A030000127C00' is not an EUI: 18 hexadecimal digits found, 16 expected",
        ),
        ("", "'' is not an EUI: 0 hexadecimal digits found, 16 expected"),
        ("0x", "'0x' is not an EUI: 0 hexadecimal digits found, 16 expected"),
        (
            "test1234567890ab",
            "'test1234567890ab' is not an EUI: "
            "13 hexadecimal digits found, 16 expected; 't' does not belong there",
        ),
        (
            "fc-a8:4a:03:00:00:12:7c",
            "'fc-a8:4a:03:00:00:12:7c' is not an EUI: "
            "16 hexadecimal digits found, 16 expected; '-' does not belong there",
        ),
        (
            "FCA84A030000127Ｃ",  # noqa: RUF001  # a digit that only looks like one
            "'FCA84A030000127Ｃ' is not an EUI: "  # noqa: RUF001
            "15 hexadecimal digits found, 16 expected; 'Ｃ' does not belong there",  # noqa: RUF001
        ),
        (
            "A" * 100,
            "'" + "A" * 40 + "…' is not an EUI: 100 hexadecimal digits found, 16 expected",
        ),
        (2**64, "18446744073709551616 is not an EUI: expected a 64-bit number"),
        (-(2**63) - 1, "-9223372036854775809 is not an EUI: expected a 64-bit number"),
        (True, "True is not an EUI: expected a 64-bit number"),
    ],
)
def test_what_is_no_eui_is_refused_with_what_was_found(spelling, words):
    with pytest.raises(InvalidEuiError) as caught:
        parse_eui(spelling)
    assert str(caught.value) == words


@pytest.mark.parametrize("spelling", ["127C", "127c", "0x127c", "12:7c", " 12-7C ", 0x127C])
def test_every_usual_spelling_means_the_same_short_address(spelling):
    assert parse_short_address(spelling) == 0x127C


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("7C", "'7C' is not a short address: 2 hexadecimal digits found, 4 expected"),
        ("1127C", "'1127C' is not a short address: 5 hexadecimal digits found, 4 expected"),
        (
            "12G4",
            "'12G4' is not a short address: "
            "3 hexadecimal digits found, 4 expected; 'G' does not belong there",
        ),
        (65536, "65536 is not a short address: expected 0 to 65535"),
        (-1, "-1 is not a short address: expected 0 to 65535"),
        (True, "True is not a short address: expected 0 to 65535"),
    ],
)
def test_what_is_no_short_address_is_refused_with_what_was_found(spelling, words):
    with pytest.raises(InvalidEuiError) as caught:
        parse_short_address(spelling)
    assert str(caught.value) == words


def test_a_wrong_eui_is_also_a_wrong_value():
    with pytest.raises(ValueError):
        parse_eui("nonsense")
