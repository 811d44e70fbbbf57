"""The events of a session are values, and are all there are."""

from dataclasses import FrozenInstanceError, fields, is_dataclass
from typing import get_args

import pytest

from bssci.core.protocol import events
from bssci.core.protocol.events import Connected, Event, Refused, Requested
from bssci.core.protocol.messages import ConnectResponse, Ping
from tests.core.protocol.samples import SC_EUI

KINDS = [getattr(events, name) for name in events.__all__ if name != "Event"]


def test_an_event_is_one_of_those_that_are_listed():
    assert set(get_args(Event)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_event_says_what_it_means(kind):
    # A dataclass without a docstring describes itself by its signature.
    assert kind.__doc__ is not None
    assert not kind.__doc__.startswith(f"{kind.__name__}(")
    assert is_dataclass(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_does_not_change(kind):
    event = kind(*(None for _ in fields(kind)))
    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(event, field.name, 1)


def test_events_that_say_the_same_are_the_same():
    assert Requested(Ping(op_id=1), b"x", False) == Requested(Ping(op_id=1), b"x", False)
    assert Requested(Ping(op_id=1), b"x", False) != Requested(Ping(op_id=1), b"x", True)
    assert Refused(Ping(op_id=1), 5, "no") != Refused(Ping(op_id=2), 5, "no")


def test_nothing_is_void_unless_it_is_said():
    response = ConnectResponse(sc_eui=SC_EUI, sn_resume=True, sn_sc_uuid=bytes(16))
    assert Connected(True, response) == Connected(True, response, void=())
