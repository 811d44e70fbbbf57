"""Attach and detach over the air: what is accepted, against known answers, and what is held."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.attachment import (
    MAY_RETURN,
    REFUSALS,
    REPEAT_NS,
    Accepted,
    Attachment,
    AttachRefusedError,
    RefusalReason,
    is_news,
    judge,
    mark_wanted,
    propagated,
)
from bssci.core.center.end_points import EndPoint, attach_propagate, mark_of
from bssci.core.center.records import Cause, Wish
from bssci.core.protocol.errors import OperationRefusedError
from bssci.core.protocol.keys import attach_signature
from bssci.core.protocol.messages import (
    Attach,
    AttachPropagate,
    AttachResponse,
    Detach,
)

SENSOR, AVA, DIEHL = 0x70B3D56770111505, 0x70B3D59CD0000951, 0x000732000077E21D
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NOW = 1_756_476_362_500_000_000
SECOND = 1_000_000_000

# Of the known answers: this counter is signed so, and with this nonce it leads to this key.
CNT, SIGN, NONCE = 0x123456, bytes.fromhex("d7173412"), bytes.fromhex("a1b2c3d4")
SESSION_KEY = bytes.fromhex("e77429f27a4d62080a8cef1447a42777")

END_POINT = EndPoint(
    eui=SENSOR, nwk_key=KEY, short_addr=0x1505, bidi=True, ota=True, wide_carr_off=True
)
WISH = Wish(end_point=END_POINT, wanted="attached", cause="command", since_ns=NOW - SECOND)


def attach(cnt=CNT, **changes: Any) -> Attach:
    message = Attach(
        op_id=7,
        ep_eui=SENSOR,
        rx_time=NOW,
        attach_cnt=cnt,
        snr=12.5,
        rssi=-98.25,
        nonce=NONCE,
        sign=attach_signature(KEY, SENSOR, cnt),
        dual_chan=True,
        repetition=True,
        wide_carr_off=False,
        long_blk_dist=False,
    )
    return replace(message, **changes)


ATTACHMENT = Attachment(
    ep_eui=SENSOR,
    attach_cnt=CNT,
    nonce=NONCE,
    sign=SIGN,
    nwk_sn_key=SESSION_KEY,
    short_addr=0x1505,
    dual_chan=True,
    repetition=True,
    wide_carr_off=False,
    long_blk_dist=False,
    bs_eui=AVA,
    at_ns=NOW,
)


def judged(
    message: Attach | None = None,
    *,
    wish: Wish | None = WISH,
    attachment: Attachment | None = None,
    bs_eui=AVA,
    now_ns=NOW,
) -> Accepted:
    return judge(
        message or attach(), bs_eui=bs_eui, wish=wish, attachment=attachment, now_ns=now_ns
    )


def refusal(*args: Any, **told: Any) -> str:
    with pytest.raises(AttachRefusedError) as caught:
        judged(*args, **told)
    return caught.value.reason


def detached(cause: Cause) -> Wish:
    return replace(WISH, wanted="detached", cause=cause)


# --- what is accepted ----------------------------------------------------------------------


def test_a_known_attach_leads_to_the_known_key():
    assert judged() == Accepted(ATTACHMENT, is_repeat=False, short_addr=0x1505, is_assigned=False)
    assert judged().response() == AttachResponse(nwk_sn_key=SESSION_KEY, sh_addr=0x1505)


def test_the_first_attach_may_carry_counter_0():
    sign = bytes.fromhex("4f79d272")
    first = judged(attach(0, nonce=bytes(4), sign=sign)).attachment
    assert first == replace(
        ATTACHMENT,
        attach_cnt=0,
        nonce=bytes(4),
        sign=sign,
        nwk_sn_key=bytes.fromhex("95a03a9f205f9f4e237507b134eb2ff7"),
    )
    assert refusal(attach(0, nonce=b"else"), attachment=first) == "stale_counter"
    assert judged(attach(1), attachment=first).attachment.attach_cnt == 1


@pytest.mark.parametrize(
    ("stored", "new", "is_accepted"),
    [
        (CNT, CNT + 1, True),
        (CNT, CNT, False),
        (CNT, CNT - 1, False),
        (0xFFFFFF, 0, True),
        (0xFFFF01, 0xFF, True),
        (0xFFFF01, 0x100, False),
        (0xFFFF00, 0, False),
    ],
)
def test_a_counter_must_be_new_and_may_roll_over(stored, new, is_accepted):
    known = replace(ATTACHMENT, attach_cnt=stored, nonce=b"else")
    if is_accepted:
        assert judged(attach(new), attachment=known).attachment.attach_cnt == new
    else:
        assert refusal(attach(new), attachment=known) == "stale_counter"


@pytest.mark.parametrize("is_ota", [True, False])
def test_one_that_is_not_expected_to_attach_over_the_air_may_do_so(is_ota):
    wish = replace(WISH, end_point=replace(END_POINT, ota=is_ota))
    assert judged(wish=wish).attachment == ATTACHMENT


# --- the short address ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assigned", "configured", "short_addr", "told"),
    [
        (None, 0x1505, 0x1505, 0x1505),
        (0, 0x1505, 0x1505, 0x1505),
        (None, 0xABCD, 0xABCD, 0xABCD),
        (0x0042, 0xABCD, 0x0042, None),
    ],
    ids=["none", "zero means none", "configured", "assigned"],
)
def test_the_short_address_is_the_base_stations_or_the_configured_one(
    assigned, configured, short_addr, told
):
    wish = replace(WISH, end_point=replace(END_POINT, short_addr=configured))
    accepted = judged(attach(sh_addr=assigned), wish=wish)
    assert accepted.attachment.short_addr == short_addr
    assert accepted.response() == AttachResponse(nwk_sn_key=SESSION_KEY, sh_addr=told)


def test_a_base_station_holds_what_it_calls_the_end_point_itself():
    """Two that heard one attach may have chosen two addresses; the first one's is told to all."""
    known = replace(ATTACHMENT, short_addr=0x0042)
    first, second, third = (
        judged(attach(sh_addr=each), attachment=known, bs_eui=DIEHL) for each in (0x42, 0x43, None)
    )
    wanted = mark_wanted(WISH, known)
    assert (first.mark(WISH) == wanted, second.mark(WISH) == wanted) == (True, False)
    assert third.mark(WISH) == wanted
    assert [each.response().sh_addr for each in (first, second, third)] == [None, None, 0x42]


# --- the same attach, heard by several -----------------------------------------------------


@pytest.mark.parametrize("bs_eui", [AVA, DIEHL])
@pytest.mark.parametrize("after", [0, 59 * SECOND, REPEAT_NS, -3600 * SECOND])
def test_the_same_attach_is_answered_with_the_same_key_and_nothing_is_new(bs_eui, after):
    again = judged(attachment=ATTACHMENT, bs_eui=bs_eui, now_ns=NOW + after)
    assert again == Accepted(ATTACHMENT, is_repeat=True, short_addr=0x1505, is_assigned=False)


def test_after_a_minute_the_same_attach_is_a_stale_one():
    assert refusal(attachment=ATTACHMENT, now_ns=NOW + REPEAT_NS + 1) == "stale_counter"


def test_the_same_counter_with_another_nonce_is_not_the_same_attach():
    """The nonce is not signed: whoever has heard an attach could change it."""
    assert refusal(attach(nonce=b"else"), attachment=ATTACHMENT) == "stale_counter"


def test_a_late_report_does_not_bring_back_who_has_left_since():
    assert refusal(attachment=ATTACHMENT, wish=detached("over_the_air")) == "stale_counter"


# --- what is refused -----------------------------------------------------------------------


def test_an_end_point_that_is_not_registered_is_refused():
    with pytest.raises(OperationRefusedError) as caught:
        judged(wish=None)
    assert (caught.value.code, caught.value.message) == (
        71,
        "end point 70B3D56770111505 is not known",
    )


def test_the_block_with_15_octets_is_a_bad_signature():
    with pytest.raises(AttachRefusedError) as caught:
        judged(attach(sign=bytes.fromhex("c31aeb23")))
    assert (caught.value.reason, caught.value.code, caught.value.message) == (
        "bad_signature",
        71,
        "the signature of the attach of end point 70B3D56770111505 is wrong",
    )


def test_a_stale_counter_is_told_with_its_own_number_alone():
    with pytest.raises(AttachRefusedError) as caught:
        judged(attach(5), attachment=ATTACHMENT)
    assert (caught.value.code, caught.value.message) == (
        71,
        "end point 70B3D56770111505 has used attach counter 5 before",
    )


@pytest.mark.parametrize("cause", get_args(Cause))
def test_one_that_an_operator_has_detached_does_not_come_back_by_itself(cause):
    wish = detached(cause)
    if cause in MAY_RETURN:
        assert judged(wish=wish).attachment == ATTACHMENT
        return
    with pytest.raises(AttachRefusedError) as caught:
        judged(wish=wish)
    assert (caught.value.code, caught.value.message) == (
        1,
        "end point 70B3D56770111505 was detached by an operator",
    )


def test_one_that_was_detached_just_after_its_attach_is_not_answered_again():
    assert refusal(attachment=ATTACHMENT, wish=detached("mqtt")) == "detached_by_operator"


@given(
    sign=st.binary(min_size=4, max_size=4).filter(lambda sign: sign != SIGN),
    attachment=st.sampled_from([None, ATTACHMENT, replace(ATTACHMENT, attach_cnt=CNT + 1)]),
    cause=st.sampled_from([None, *get_args(Cause)]),
)
def test_a_forged_attach_is_told_the_same_whatever_is_known(sign, attachment, cause):
    wish = WISH if cause is None else detached(cause)
    assert refusal(attach(sign=sign), wish=wish, attachment=attachment) == "bad_signature"


def test_every_reason_has_its_code_and_its_words():
    assert set(REFUSALS) == set(get_args(RefusalReason))
    assert {reason: int(code) for reason, (code, _) in REFUSALS.items()} == {
        "unknown_end_point": 71,
        "bad_signature": 71,
        "stale_counter": 71,
        "detached_by_operator": 1,
    }


# --- the value -----------------------------------------------------------------------------


def test_an_attachment_is_a_value_that_does_not_show_its_key():
    assert hash(replace(ATTACHMENT)) == hash(ATTACHMENT)
    with pytest.raises(FrozenInstanceError):
        ATTACHMENT.at_ns = 0  # type: ignore[misc]
    shown = f"{ATTACHMENT!r} {judged()!r} {judged().response()!r}".lower()
    assert (SESSION_KEY.hex() in shown, repr(SESSION_KEY).lower() in shown) == (False, False)


# --- detach --------------------------------------------------------------------------------

DETACH = Detach(op_id=8, ep_eui=SENSOR, rx_time=NOW, packet_cnt=3, snr=1.0, rssi=-99.0, sign=SIGN)


@pytest.mark.parametrize(
    ("wish", "heard_ns", "expected"),
    [
        (WISH, None, True),
        (WISH, NOW, True),
        (WISH, WISH.since_ns, True),
        (WISH, WISH.since_ns - 1, False),
        (detached("over_the_air"), None, False),
        (detached("command"), NOW, False),
    ],
)
def test_a_detach_is_news_unless_it_is_done_or_was_overtaken(wish, heard_ns, expected):
    assert is_news(DETACH, wish, heard_ns=heard_ns) is expected


# --- what base stations are told -----------------------------------------------------------


def test_one_that_has_attached_is_served_with_the_derived_key_and_its_own_settings():
    assert propagated(WISH, replace(ATTACHMENT, short_addr=0x42), last_packet_cnt=9) == (
        AttachPropagate(
            ep_eui=SENSOR,
            bidi=True,
            nwk_sn_key=SESSION_KEY,
            sh_addr=0x42,
            last_packet_cnt=9,
            dual_chan=True,
            repetition=True,
            wide_carr_off=False,
            long_blk_dist=False,
        )
    )


def test_one_that_is_still_to_attach_is_told_to_nobody():
    assert (propagated(WISH, None), mark_wanted(WISH, None)) == (None, None)


def test_one_that_is_attached_beforehand_is_served_with_its_network_key():
    wish = replace(WISH, end_point=replace(END_POINT, ota=False))
    expected = attach_propagate(wish.end_point, last_packet_cnt=9)
    assert propagated(wish, None, last_packet_cnt=9) == expected
    assert mark_wanted(wish, None) == mark_of(wish.end_point)
    assert mark_wanted(wish, ATTACHMENT) not in (None, mark_of(wish.end_point))


def test_one_that_is_detached_is_told_to_nobody():
    assert propagated(detached("command"), ATTACHMENT) is None
    assert mark_wanted(detached("command"), ATTACHMENT) is None
