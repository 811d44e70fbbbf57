import pytest

from bssci.core.center.approval import Waiting, chosen, parse_fingerprint
from bssci.core.center.rpc import InvalidRequestError, NotFoundError, RequestError

EUI = 0x70B3D59CD0000001
ONE, TWO = Waiting("ab" * 32, "CN=a"), Waiting("abababac" + "cd" * 28, "CN=b")


def test_the_only_one_that_waits_is_meant_however_often_it_knocked():
    assert chosen(EUI, [ONE, ONE], None) == ONE.fingerprint


def test_of_several_the_one_is_meant_whose_first_digits_are_given():
    assert chosen(EUI, [ONE, TWO], "ABABABAC") == TWO.fingerprint


def test_of_several_none_is_taken_unasked():
    with pytest.raises(RequestError) as caught:
        chosen(EUI, [ONE, TWO], None)
    assert type(caught.value) is RequestError
    assert str(caught.value) == (
        "base station 70B3D59CD0000001 was refused with 2 certificates: abababababababab… (CN=a), "
        "abababaccdcdcdcd… (CN=b)"
    )


@pytest.mark.parametrize(
    ("waiting", "given", "words"),
    [
        ([], None, "no certificate waits to be approved for base station 70B3D59CD0000001"),
        (
            [ONE],
            "12345678",
            "no certificate that begins with 12345678 waits to be approved for base station "
            "70B3D59CD0000001",
        ),
    ],
)
def test_what_nobody_came_with_is_not_found(waiting, given, words):
    with pytest.raises(NotFoundError) as caught:
        chosen(EUI, waiting, given)
    assert (str(caught.value), "stations refused" in caught.value.hint) == (words, True)


def test_a_certificate_may_be_approved_before_it_is_seen():
    assert chosen(EUI, [ONE], "12" * 32) == "12" * 32


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("AB:CD:EF:01", "abcdef01"),
        (" ab cd ef 01\n", "abcdef01"),
        ("f" * 64, "f" * 64),
    ],
)
def test_a_fingerprint_is_taken_as_openssl_and_browsers_write_it(text, digits):
    assert parse_fingerprint(text) == digits


@pytest.mark.parametrize("text", ["", "abcdef0", "g" * 64, "a" * 65, "sha256"])
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(InvalidRequestError, match="is no SHA-256 fingerprint"):
        parse_fingerprint(text)
