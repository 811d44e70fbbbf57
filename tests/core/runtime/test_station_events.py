import pytest
import trio
import trio.testing

from bssci.core.protocol.messages import (
    DetachPropagate,
    DetachPropagateResponse,
    Status,
    StatusResponse,
)
from bssci.core.runtime import station_events as module
from bssci.core.runtime.station_events import Offline, Request, StationEvents
from tests.fakes import FakeLine, attach_propagate


@pytest.fixture
def line():
    return FakeLine()


# --- a request ---


def test_a_request_is_answered_under_its_id(line):
    status = StatusResponse(code=0, message="fine", time=17, duty_cycle=0.25)
    Request(Status(op_id=-4), reissued=False, link=line).respond(status)
    assert line.answers == [
        StatusResponse(op_id=-4, code=0, message="fine", time=17, duty_cycle=0.25)
    ]


def test_an_answer_without_fields_need_not_be_named(line):
    Request(DetachPropagate(op_id=-2, ep_eui=7), reissued=False, link=line).respond()
    assert line.answers == [DetachPropagateResponse(op_id=-2)]


def test_a_request_is_refused_under_its_id(line):
    Request(DetachPropagate(op_id=-2, ep_eui=7), reissued=True, link=line).refuse(2, "who?")
    assert line.answers == [(-2, 2, "who?")]


def test_no_key_is_in_what_a_request_looks_like(line):
    shown = repr(Request(attach_propagate(), reissued=False, link=line))
    assert shown.startswith("<Request AttachPropagate(")
    assert "key" not in shown


# --- events in order ---


async def test_events_are_waited_for():
    events = StationEvents()
    heard = []

    async def listen():
        heard.extend([await anext(events), await anext(events)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        for offline in (Offline("a", was_online=True), Offline("b", was_online=True)):
            await trio.testing.wait_all_tasks_blocked()
            events.put(offline)
    assert heard == [Offline("a", was_online=True), Offline("b", was_online=True)]


async def test_whoever_does_not_listen_holds_no_more_than_is_allowed(line, monkeypatch):
    monkeypatch.setattr(module, "MAX_EVENTS", 2)
    events = StationEvents()
    events.put(Offline("z", was_online=True))
    for n in (1, 2):
        events.put(Request(DetachPropagate(op_id=-n, ep_eui=n), reissued=False, link=line))
    assert line.answers == [(-2, 11, "too many requests wait already")]
    for reason in "abcd":
        events.put(Offline(reason, was_online=True))
    first, *rest = [await anext(events) for _ in range(4)]
    assert isinstance(first, Request)
    assert rest == [Offline(reason, was_online=True) for reason in "bcd"]


async def test_events_are_iterated_over_in_order():
    events = StationEvents()
    told = [Offline(reason, was_online=True) for reason in "abc"]
    for offline in told:
        events.put(offline)
    heard = []
    async for event in events:
        heard.append(event)
        if event == told[-1]:
            break
    assert heard == told
