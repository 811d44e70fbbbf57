import errno

import pytest

from bssci.core.protocol import errors
from bssci.core.protocol.errors import (
    BssciError,
    Code,
    FramingError,
    InvalidMessageError,
    OperationRefusedError,
    RemoteProtocolError,
    StorageError,
    UnknownCommandError,
)

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "Code"]


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_the_numbers_are_those_of_linux(code):
    assert getattr(errno, code.name) == code


def test_no_error_is_zero():
    assert int(Code.OK) == 0


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_can_be_caught_as_one_of_ours(kind):
    assert issubclass(kind, BssciError)


def test_a_stream_that_cannot_be_cut_is_the_peers_fault():
    framing = {kind for kind in CLASSES if issubclass(kind, FramingError)}
    assert framing == {
        FramingError,
        errors.FrameTooLongError,
        errors.MalformedPayloadError,
        errors.NotAMapError,
        errors.TrailingBytesError,
        errors.WrongIdentifierError,
    }
    assert issubclass(FramingError, RemoteProtocolError)


def test_a_message_that_can_be_answered_is_no_reason_to_close():
    assert not issubclass(InvalidMessageError, RemoteProtocolError)
    assert issubclass(UnknownCommandError, InvalidMessageError)


def test_an_invalid_message_says_what_to_answer():
    error = InvalidMessageError("rssi: missing", command="ulData", op_id=7)
    assert (str(error), error.command, error.op_id, error.code) == (
        "rssi: missing",
        "ulData",
        7,
        71,
    )


def test_an_invalid_message_may_ask_for_another_number():
    error = InvalidMessageError("shAddr: too large", command="att", op_id=7, code=Code.EINVAL)
    assert error.code == 22


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("no matching DL data found", "refused with error 95: no matching DL data found"),
        ("", "refused with error 95"),
    ],
)
def test_a_refusal_says_the_peers_number_and_words(message, words):
    error = OperationRefusedError(95, message)
    assert (str(error), error.code, error.message) == (words, 95, message)


def test_a_storage_error_says_what_a_base_station_is_told():
    assert StorageError("database is damaged").code == 5
    assert StorageError("disk is full", code=Code.ENOSPC).code == 28
