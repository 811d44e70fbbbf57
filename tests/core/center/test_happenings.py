"""What happens to an end point, as its history and those who watch are told."""

from dataclasses import FrozenInstanceError
from typing import Any, get_args

import pytest

from bssci.core.center.end_points import EndPoint
from bssci.core.center.happenings import Event, Happening, Stranger
from bssci.core.center.records import Episode, Wish

SENSOR, AVA = 0xFCA84A030000127C, 0x70B3D59CD0000951
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
NOW = 1_756_476_362_500_000_000

WISH = Wish(
    end_point=EndPoint(eui=SENSOR, nwk_key=KEY, short_addr=0x127C, name="meter"),
    wanted="attached",
    cause="mqtt",
    since_ns=NOW - 1,
)

DECISIONS = ["added", "changed", "attach", "detach", "auto_detached", "removed"]
OTHERS = sorted(set(get_args(Event)) - set(DECISIONS))


def happening(event, **more: Any) -> Happening:
    return Happening(event=event, at_ns=NOW, wish=WISH, **more)


@pytest.mark.parametrize("event", DECISIONS)
def test_a_decision_is_told_with_its_cause(event):
    decided = happening(event)
    assert decided.data() == {
        "eui": "FCA84A030000127C",
        "name": "meter",
        "event": event,
        "cause": "mqtt",
    }
    assert decided.episode() == Episode(ep_eui=SENSOR, at_ns=NOW, what=event, cause="mqtt")


@pytest.mark.parametrize("event", OTHERS)
def test_what_is_no_decision_has_no_cause(event):
    seen = happening(event)
    assert seen.data() == {"eui": "FCA84A030000127C", "name": "meter", "event": event}
    assert seen.episode() == Episode(ep_eui=SENSOR, at_ns=NOW, what=event)


def test_a_refusal_is_told_with_the_words_of_the_base_station():
    refused = happening("refused", bs_eui=AVA, code=28, message="no room")
    assert refused.data() == {
        "eui": "FCA84A030000127C",
        "name": "meter",
        "event": "refused",
        "bs_eui": "70B3D59CD0000951",
        "code": 28,
        "message": "no room",
    }
    assert refused.episode() == Episode(
        ep_eui=SENSOR, at_ns=NOW, what="refused", bs_eui=AVA, code=28, message="no room"
    )


def test_what_has_come_true_is_told_with_where():
    attached = happening("attached", bs_eui=AVA)
    assert attached.data() == {
        "eui": "FCA84A030000127C",
        "name": "meter",
        "event": "attached",
        "bs_eui": "70B3D59CD0000951",
    }
    assert attached.episode() == Episode(ep_eui=SENSOR, at_ns=NOW, what="attached", bs_eui=AVA)


def test_a_remark_is_told_and_is_in_the_history():
    left = happening("detach", bs_eui=AVA, message="unverified")
    assert left.data() == {
        "eui": "FCA84A030000127C",
        "name": "meter",
        "event": "detach",
        "cause": "mqtt",
        "bs_eui": "70B3D59CD0000951",
        "message": "unverified",
    }
    assert left.episode() == Episode(
        ep_eui=SENSOR, at_ns=NOW, what="detach", cause="mqtt", bs_eui=AVA, message="unverified"
    )


def test_what_a_stranger_does_is_told_as_of_a_sensor_without_a_name():
    stranger = Stranger(
        event="attach_refused", ep_eui=SENSOR, bs_eui=AVA, code=71, message="not known"
    )
    assert stranger.data() == {
        "eui": "FCA84A030000127C",
        "name": "",
        "event": "attach_refused",
        "bs_eui": "70B3D59CD0000951",
        "code": 71,
        "message": "not known",
    }


def test_a_happening_is_a_value():
    warning = happening("warning", silent_ns=3, warn_ns=2, detach_ns=4)
    assert warning == happening("warning", silent_ns=3, warn_ns=2, detach_ns=4)
    assert warning.ep_eui == SENSOR
    with pytest.raises(FrozenInstanceError):
        warning.at_ns = 0  # type: ignore[misc]


def test_a_happening_never_shows_the_key():
    told = happening("added")
    shown = f"{told!r} {told.data()!r} {told.episode()!r}".lower()
    assert KEY.hex() not in shown
    assert repr(KEY).lower() not in shown
