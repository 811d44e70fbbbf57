from __future__ import annotations

from typing import Any

import pytest

from bssci.core.center.receptions import (
    Heard,
    Outcome,
    Reception,
    Report,
    Telegram,
    best_first,
    digest_of,
    known_eq_snr,
)
from bssci.core.protocol.messages import UplinkData, VmUplinkData


def uplink(**changes) -> UplinkData:
    told: dict[str, Any] = {
        "op_id": 1,
        "ep_eui": 0xFCA84A0300001276,
        "rx_time": 1_756_468_002_000_000_000,
        "packet_cnt": 658,
        "snr": 10.0,
        "rssi": -100.0,
        "user_data": b"\x01\x02\x03",
        "dl_open": False,
        "response_exp": False,
        "dl_ack": False,
    }
    return UplinkData(**(told | changes))


def heard(row, **changes) -> Heard:
    told = uplink(**changes)
    return Heard(Reception(row, row, told.rx_time, b"session", told, b"payload"), told.rx_time)


def rows(receptions) -> list[int]:
    return [each.reception.row for each in receptions]


# --- what an uplink says ---


def test_format_and_data_do_not_run_into_each_other():
    assert digest_of(uplink(format=1, user_data=b"")) != digest_of(
        uplink(format=0, user_data=b"\x01")
    )


def test_the_digest_is_of_format_and_data_alone_and_never_changes():
    """It is on disk, and has to match after an update."""
    told = uplink(format=192, user_data=b"\x01\x02", snr=1.0, op_id=9, rx_time=5)
    assert digest_of(told).hex() == "9bda2965cfad3e87b60118bc9834e398"


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, None),
        ({"eq_snr": 0.0}, None),
        ({"eq_snr": 0.0, "profile": "eu868"}, 0.0),
        ({"eq_snr": 0.0, "mode": "ulp"}, 0.0),
        ({"eq_snr": -1.5}, -1.5),
    ],
)
def test_a_zero_of_the_firmware_that_never_names_a_profile_is_no_equivalent_snr(changes, known):
    assert known_eq_snr(uplink(**changes)) == known


# --- which is best ---


def test_the_highest_equivalent_snr_is_best_where_all_know_theirs():
    told = [
        heard(1, snr=20.0, eq_snr=3.0),
        heard(2, snr=5.0, eq_snr=9.0),
        heard(3, snr=6.0, eq_snr=0.0, profile="eu868"),
    ]
    assert rows(best_first(told)) == [2, 1, 3]


def test_otherwise_the_highest_snr_is_best_and_the_earlier_of_two_alike():
    told = [
        heard(1, snr=4.0, eq_snr=9.0),
        heard(2, snr=5.0, eq_snr=0.0),
        heard(3, snr=5.0, eq_snr=1.0),
    ]
    assert rows(best_first(told)) == [2, 3, 1]


def test_the_earlier_of_two_equivalents_is_best():
    assert rows(best_first([heard(1, eq_snr=3.0), heard(2, eq_snr=3.0)])) == [1, 2]


def test_a_reception_alone_is_best():
    only = heard(1)
    assert best_first([only]) == (only,)


def test_the_best_of_a_telegram_is_its_first_reception():
    first, second = heard(1), heard(2)
    telegram = Telegram(
        ep_eui=1,
        packet_cnt=2,
        digest=bytes(16),
        counter_reused=False,
        receptions=(second, first),
        received_ns=3,
        row=1,
    )
    assert telegram.best == second.reception


# --- reports ---


def report(session=b"s" * 16, op_id=7, data=b"\x01") -> Report:
    message = VmUplinkData(
        op_id=op_id,
        mac_type=1,
        user_data=data,
        trx_time=1,
        sys_time=2,
        freq_off=0.0,
        snr=1.0,
        rssi=-90.0,
        carr_space=1,
        patt_grp=0,
        patt_num=0,
        crc=(1, 2),
    )
    return Report(1, 3, session, message)


def test_a_report_is_known_again_by_session_and_operation_alone():
    again = report(data=b"other")
    assert report().digest == again.digest
    assert len({report().digest, report(op_id=8).digest, report(session=b"t" * 16).digest}) == 3


def test_the_digest_of_a_report_never_changes():
    """It is on disk, and has to match after an update."""
    assert report().digest.hex() == "d8d81ee89b841046827b09d38cf945b5"


# --- what a reception is ---


def test_every_outcome_but_a_new_telegram_is_a_copy():
    assert {outcome for outcome in Outcome if not outcome.is_copy} == {
        Outcome.FIRST,
        Outcome.COUNTER_REUSED,
    }
