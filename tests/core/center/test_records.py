"""What is kept of end points and base stations: values that can be compared and shown."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from bssci.core.center import records
from bssci.core.center.end_points import EndPoint
from bssci.core.center.records import (
    Episode,
    Hearing,
    Preferred,
    Refused,
    Registration,
    Spread,
    StationRecord,
    Wish,
)

SENSOR, AVA = 0xFCA84A030000127C, 0x70B3D59CD0000951
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NOW = 1_756_476_362_500_000_000

END_POINT = EndPoint(eui=SENSOR, nwk_key=KEY, short_addr=0x127C)
SPREAD = Spread(mean=12.5, least=3.0, most=20.25)

SAMPLES = [
    Wish(end_point=END_POINT, wanted="attached", cause="command", since_ns=NOW),
    SPREAD,
    Preferred(bs_eui=AVA, snr=12.5, updated_ns=NOW, messages=3),
    Hearing(
        uplinks=7,
        last_seen_ns=NOW,
        last_cnt=390,
        last_snr=12.5,
        last_rssi=-98.25,
        snr=SPREAD,
        rssi=SPREAD,
        preferred=Preferred(AVA, 12.5, NOW, 3),
        receivers=frozenset({AVA}),
        heard_at=0,
    ),
    Refused(code=110, message="no answer", at_ns=NOW),
    Registration(bs_eui=AVA, ep_eui=SENSOR, mark=None),
    Episode(ep_eui=SENSOR, at_ns=NOW, what="added"),
    StationRecord(bs_eui=AVA, session=bytes(16), since_ns=NOW),
]


def test_every_record_has_a_sample_here():
    made = {name for name in records.__all__ if is_dataclass(getattr(records, name))}
    assert {type(sample).__name__ for sample in SAMPLES} == made


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_record_is_a_value(sample):
    assert replace(sample) == sample
    assert hash(replace(sample)) == hash(sample)
    with pytest.raises(FrozenInstanceError):
        setattr(sample, fields(sample)[0].name, None)


def test_a_wish_is_new_to_applications_and_nobody_was_warned():
    assert SAMPLES[0] == Wish(
        end_point=END_POINT,
        wanted="attached",
        cause="command",
        since_ns=NOW,
        is_announced=False,
        is_warned=False,
    )


def test_a_wish_can_be_shown_without_its_key():
    shown = repr(SAMPLES[0])
    assert "eui=18205882870390592124" in shown
    assert [form for form in (repr(KEY), KEY.hex(), KEY.hex().upper()) if form in shown] == []


def test_one_telegram_has_no_deviation():
    assert Spread(mean=12.5, least=3.0, most=20.25, squares=0.0) == SPREAD


def test_what_was_not_refused_says_so():
    assert SAMPLES[5] == Registration(bs_eui=AVA, ep_eui=SENSOR, mark=None, refused=None)


def test_an_episode_need_not_have_a_place():
    assert SAMPLES[6] == Episode(
        ep_eui=SENSOR, at_ns=NOW, what="added", cause="", bs_eui=None, code=None, message=""
    )


def test_a_base_station_need_not_say_who_it_is():
    assert SAMPLES[7] == StationRecord(
        bs_eui=AVA,
        session=bytes(16),
        since_ns=NOW,
        address=None,
        name=None,
        vendor=None,
        model=None,
        sw_version=None,
        bidi=False,
        position=None,
        uplinks=0,
    )
