"""What listings show: the JSON of sensors, base stations and what becomes of commands."""

import json
from dataclasses import replace

import pytest

from bssci.core.center.attachment import Attachment
from bssci.core.center.end_points import EndPoint
from bssci.core.center.records import Episode, Hearing, Preferred, Refused, Spread, Wish
from bssci.core.center.registry import BaseStation
from bssci.core.center.shapes import (
    episode_shape,
    outcome_shape,
    sensor_details,
    sensor_shape,
    station_shape,
)
from bssci.core.protocol.messages import StatusResponse

SENSOR, AVA, DIEHL = 0xFCA84A030000127C, 0x70B3D59CD0000951, 0x000732000077E21D
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NOW = 1_756_476_362_500_000_000

WISH = Wish(
    end_point=EndPoint(
        eui=SENSOR,
        nwk_key=KEY,
        short_addr=0x127C,
        bidi=True,
        name="meter",
        tags=("roof", "water"),
        timeout=60.0,
    ),
    wanted="attached",
    cause="command",
    since_ns=NOW,
)

HEARING = Hearing(
    uplinks=2,
    last_seen_ns=NOW,
    last_cnt=390,
    last_snr=12.5,
    last_rssi=-98.25,
    snr=Spread(mean=11.123456, least=9.75, most=12.5, squares=3.78125),
    rssi=Spread(mean=-99.0, least=-99.75, most=-98.25, squares=1.125),
    preferred=Preferred(bs_eui=AVA, snr=12.5, updated_ns=NOW, messages=2),
    receivers=frozenset({AVA, DIEHL}),
    heard_at=5,
)

NO_ROOM = Refused(code=28, message="no room", at_ns=NOW)

PARAMETERS = {
    "eui": "FCA84A030000127C",
    "name": "meter",
    "key": "****",
    "short_addr": "127C",
    "bidi": True,
    "dual_chan": True,
    "repetition": False,
    "wide_carr_off": False,
    "long_blk_dist": False,
    "ota": False,
    "tags": ["roof", "water"],
}


# --- sensors -------------------------------------------------------------------------------


def test_a_sensor_is_shown_with_what_was_heard_and_how_it_stands():
    shape = sensor_shape(
        WISH,
        HEARING,
        activity="active",
        standing=[(DIEHL, "refused", NO_ROOM), (AVA, "confirmed", None)],
    )
    assert shape == PARAMETERS | {
        "wanted": "attached",
        "activity": "active",
        "stations": [
            {
                "eui": "000732000077E21D",
                "state": "refused",
                "error": {"code": 28, "message": "no room", "time": 1_756_476_362.5},
            },
            {"eui": "70B3D59CD0000951", "state": "confirmed", "error": None},
        ],
        "last_seen": 1_756_476_362.5,
        "last_cnt": 390,
        "uplinks": 2,
        "snr": 12.5,
        "rssi": -98.25,
        "preferred": {
            "bs_eui": "70B3D59CD0000951",
            "snr": 12.5,
            "updated": 1_756_476_362.5,
            "messages": 2,
        },
        "timeout": 60.0,
    }
    assert json.loads(json.dumps(shape, allow_nan=False)) == shape


def test_a_sensor_that_was_never_heard_has_nulls_where_nothing_is_known():
    assert sensor_shape(WISH, None, activity="never_seen", standing=[]) == PARAMETERS | {
        "wanted": "attached",
        "activity": "never_seen",
        "stations": [],
        "last_seen": None,
        "last_cnt": None,
        "uplinks": 0,
        "snr": None,
        "rssi": None,
        "preferred": None,
        "timeout": 60.0,
    }


@pytest.mark.parametrize(
    ("reveal", "key"), [(False, "****"), (True, "2B7E151628AED2A6ABF7158809CF4F3C")]
)
def test_the_key_is_shown_only_when_it_is_to_be_revealed(reveal, key):
    shape = sensor_shape(WISH, None, activity="never_seen", standing=[], reveal=reveal)
    assert shape["key"] == key


def test_details_tell_the_figures_and_the_limits_of_silence():
    details = sensor_details(
        WISH, HEARING, silent_ns=1_500_000_000, limits_ns=(45_000_000_000, 60_000_000_000)
    )
    assert details == {
        "wanted_since": 1_756_476_362.5,
        "cause": "command",
        "statistics": {
            "snr": {"mean": 11.123, "min": 9.75, "max": 12.5, "deviation": 1.375},
            "rssi": {"mean": -99.0, "min": -99.75, "max": -98.25, "deviation": 0.75},
        },
        "receivers": ["000732000077E21D", "70B3D59CD0000951"],
        "silent_for": 1.5,
        "warned_after": 45.0,
        "detached_after": 60.0,
        "attachment": None,
    }
    assert json.loads(json.dumps(details, allow_nan=False)) == details


def test_details_of_one_never_heard_that_is_never_detached():
    assert sensor_details(WISH, None, silent_ns=0, limits_ns=None) == {
        "wanted_since": 1_756_476_362.5,
        "cause": "command",
        "statistics": None,
        "receivers": [],
        "silent_for": None,
        "warned_after": None,
        "detached_after": None,
        "attachment": None,
    }


def test_details_tell_of_an_attach_over_the_air_and_never_its_key():
    attachment = Attachment(
        ep_eui=WISH.end_point.eui,
        attach_cnt=7,
        nonce=b"nonc",
        sign=b"sign",
        nwk_sn_key=bytes(range(16)),
        short_addr=0x42,
        dual_chan=True,
        repetition=False,
        wide_carr_off=False,
        long_blk_dist=False,
        bs_eui=0x70B3D59CD0000951,
        at_ns=1_756_476_362_500_000_000,
    )
    details = sensor_details(WISH, None, silent_ns=0, limits_ns=None, attachment=attachment)
    assert details["attachment"] == {
        "bs_eui": "70B3D59CD0000951",
        "time": 1_756_476_362.5,
        "cnt": 7,
        "short_addr": "0042",
    }


def test_an_outcome_names_who_confirmed_who_has_not_and_who_refused():
    assert outcome_shape(SENSOR, [AVA], [DIEHL], [(1, NO_ROOM)]) == {
        "eui": "FCA84A030000127C",
        "confirmed": ["70B3D59CD0000951"],
        "pending": ["000732000077E21D"],
        "refused": [{"eui": "0000000000000001", "code": 28, "message": "no room"}],
    }


@pytest.mark.parametrize(("bs_eui", "shown"), [(AVA, "70B3D59CD0000951"), (None, None)])
def test_an_episode_names_the_base_station_if_it_was_one(bs_eui, shown):
    episode = Episode(
        ep_eui=SENSOR, at_ns=NOW, what="refused", bs_eui=bs_eui, code=28, message="no room"
    )
    assert episode_shape(episode) == {
        "time": 1_756_476_362.5,
        "what": "refused",
        "cause": "",
        "bs_eui": shown,
        "code": 28,
        "message": "no room",
    }


# --- base stations -------------------------------------------------------------------------

STATION = BaseStation(
    eui=AVA,
    is_connected=True,
    since_ns=NOW,
    address="192.0.2.1:4711",
    name="roof",
    vendor="Diehl Metering",
    model="MIOTY Premium Gateway",
    sw_version="4.10.2",
    bidi=True,
    position=(49.5, 11.0, 300.0),
    uplinks=7,
    clock_offset_ns=-1_500_000_000,
    status=StatusResponse(
        code=0, message="ok", time=NOW, duty_cycle=0.25, cpu_load=0.5, mem_load=0.125, uptime=60
    ),
    status_ns=NOW + 500_000_000,
)

SHOWN = {
    "eui": "70B3D59CD0000951",
    "state": "online",
    "since": 1_756_476_362.5,
    "address": "192.0.2.1:4711",
    "name": "roof",
    "vendor": "Diehl Metering",
    "model": "MIOTY Premium Gateway",
    "version": "4.10.2",
    "bidi": True,
    "position": [49.5, 11.0, 300.0],
    "sensors": {"confirmed": 3, "pending": 2, "refused": 1},
    "uplinks": 7,
    "clock_offset": -1.5,
    "status": {
        "code": 0,
        "memLoad": 0.125,
        "cpuLoad": 0.5,
        "dutyCycle": 0.25,
        "time": NOW,
        "uptime": 60,
        "message": "ok",
        "clockOffset": -1.5,
    },
    "status_time": 1_756_476_363.0,
}


def test_a_base_station_is_shown_with_its_status_and_its_progress():
    shape = station_shape(STATION, {"refused": 1, "pending": 2, "confirmed": 3})
    assert shape == SHOWN
    assert json.loads(json.dumps(shape, allow_nan=False)) == shape


def test_a_base_station_that_is_away_and_has_told_nothing():
    away = replace(
        STATION,
        is_connected=False,
        address=None,
        name=None,
        vendor=None,
        model=None,
        sw_version=None,
        position=None,
        clock_offset_ns=None,
        status=None,
        status_ns=None,
    )
    unknown = ["address", "name", "vendor", "model", "version", "position", "clock_offset"]
    assert station_shape(away, {"confirmed": 3, "pending": 2, "refused": 1}) == SHOWN | {
        "state": "offline",
        "status": None,
        "status_time": None,
    } | dict.fromkeys(unknown)
