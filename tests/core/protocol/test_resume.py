"""What is agreed on when two sides connect."""

from dataclasses import replace

import pytest

from bssci.core.protocol.messages import Connect, ConnectResponse
from bssci.core.protocol.resume import (
    VERSION,
    SessionRecord,
    chosen_version,
    is_resumable,
    negotiate,
)
from tests.core.protocol.samples import BS_EUI, SC_EUI

BS_UUID = bytes(range(16))
SC_UUID = bytes(range(16, 32))

CON = Connect(version="1.0.0", bs_eui=BS_EUI, bidi=True, sn_bs_uuid=BS_UUID)
CON_RSP = ConnectResponse(sc_eui=SC_EUI, sn_resume=False, sn_sc_uuid=SC_UUID, version="1.0.0")
STORED = SessionRecord(
    bs_eui=BS_EUI,
    version="1.0.0",
    bs_uuid=BS_UUID,
    sc_uuid=SC_UUID,
    bs_op_id=204,
    sc_op_id=-362,
)


# --- the version ---


@pytest.mark.parametrize("requested", ["1.0.0", "1.0.7", "1.1.0", "1.999999999.0"])
def test_a_version_of_our_major_number_is_answered_with_ours(requested):
    assert negotiate(requested) == VERSION == "1.0.0"


ARABIC = "\u0661.\u0660.\u0660"  # digits, but none of the protocol's


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("2.0.0", "version: 2.0.0 is not supported, 1.0.0 is"),
        ("0.9.0", "version: 0.9.0 is not supported, 1.0.0 is"),
        ("1.0", "version: '1.0' is not of the form major.minor.patch"),
        ("v1", "version: 'v1' is not of the form major.minor.patch"),
        ("", "version: '' is not of the form major.minor.patch"),
        ("1.0.0 ", "version: '1.0.0 ' is not of the form major.minor.patch"),
        ("1.0.0\n", "version: '1.0.0\\n' is not of the form major.minor.patch"),
        ("1.-1.0", "version: '1.-1.0' is not of the form major.minor.patch"),
        (ARABIC, f"version: '{ARABIC}' is not of the form major.minor.patch"),
        ("9" * 5000, f"version: '{'9' * 40}' is not of the form major.minor.patch"),
    ],
)
def test_another_version_is_not_agreed_on(version, words):
    with pytest.raises(ValueError) as refusal:
        negotiate(version)
    assert str(refusal.value) == words


@pytest.mark.parametrize(
    ("ours", "chosen"),
    [("1.0.0", "1.0.0"), ("1.1.0", "1.0.0"), ("1.0.0", "1.0.9"), ("1.2.3", "1.2.0")],
)
def test_a_service_center_may_choose_a_lower_version_than_ours(ours, chosen):
    asked = replace(CON, version=ours)
    assert chosen_version(asked, replace(CON_RSP, version=chosen)) == chosen


def test_a_service_center_that_names_no_version_has_chosen_ours():
    asked = replace(CON, version="1.0.7")
    assert chosen_version(asked, replace(CON_RSP, version=None)) == "1.0.7"


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.1.0", "version: 1.1.0 is not supported, 1.0.0 is"),
        ("2.0.0", "version: 2.0.0 is not supported, 1.0.0 is"),
        ("0.9.0", "version: 0.9.0 is not supported, 1.0.0 is"),
        ("", "version: '' is not of the form major.minor.patch"),
    ],
)
def test_a_service_center_may_not_choose_another_version(version, words):
    with pytest.raises(ValueError) as refusal:
        chosen_version(CON, replace(CON_RSP, version=version))
    assert str(refusal.value) == words


# --- the session ---


def asks_for(bs_op_id: int | None, sc_op_id: int | None, con: Connect = CON) -> Connect:
    return replace(con, sn_bs_op_id=bs_op_id, sn_sc_op_id=sc_op_id)


@pytest.mark.parametrize(
    ("con", "resumable"),
    [
        (asks_for(204, -362), True),
        # Lost on the wire: we issue it again.
        (asks_for(204, -300), True),
        # The base station needs less than we know.
        (asks_for(200, -362), True),
        (asks_for(0, 0), True),
        (asks_for(None, None), True),
        # We have lost what it needs, or what we issued.
        (asks_for(205, -362), False),
        (asks_for(204, -363), False),
        (asks_for(204, None), False),
        (asks_for(None, -362), False),
        # No counters of the specification.
        (asks_for(-1, -362), False),
        (asks_for(204, 1), False),
        (asks_for(204, -362, replace(CON, sn_bs_uuid=bytes(16))), False),
        (asks_for(204, -362, replace(CON, bs_eui=7)), False),
        (asks_for(204, -362, replace(CON, version="1.1.0")), True),
    ],
)
def test_a_session_is_resumed_if_both_know_what_the_other_needs(con, resumable):
    assert is_resumable(con, STORED, negotiate(con.version)) is resumable


@pytest.mark.parametrize(
    ("version", "resumable"),
    [("1.0.0", True), ("1.0.9", True), ("1.1.0", False), ("2.0.0", False)],
)
def test_a_session_of_another_version_is_not_resumed(version, resumable):
    stored = replace(STORED, version=version)
    assert is_resumable(asks_for(204, -362), stored, VERSION) is resumable
