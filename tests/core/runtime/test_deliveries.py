import math
from typing import Any

import pytest
import trio
import trio.testing

from bssci.core.protocol.errors import OperationLostError, OperationRefusedError
from bssci.core.protocol.messages import UplinkDataResponse
from bssci.core.runtime.deliveries import TRY_AGAIN, Delivery, Outbox
from tests.fakes import uplink

RESPONSE = UplinkDataResponse(op_id=1)


def outbox(**changes: Any) -> Outbox:
    told: dict[str, Any] = {
        "window": 100,
        "retry_pause": 2.0,
        "retry_max": 60.0,
        "jitter": lambda: 1.0,
    }
    return Outbox(**(told | changes))


def filled(*numbers: int, **changes: Any) -> Outbox:
    found = outbox(**changes)
    for number in numbers:
        found.add(Delivery(uplink(number), number))
    return found


def issue(found: Outbox, now: float) -> list[int]:
    """The numbers of what is due now, each issued under its number as operation ID."""
    numbers = []
    while (delivery := found.next(now)) is not None:
        found.issued(delivery, delivery.number, now)
        numbers.append(delivery.number)
    return numbers


# --- a delivery ---


async def test_a_delivery_gives_the_answer_to_whoever_waits_and_to_whoever_comes_later():
    delivery = Delivery(uplink(), 1)
    answers = []

    async def wait():
        answers.append(await delivery.wait())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert (answers, delivery.is_over) == ([], False)
        delivery.end(RESPONSE)
    assert (answers, delivery.is_over) == ([RESPONSE, RESPONSE], True)
    assert await delivery.wait() == delivery.response == RESPONSE


@pytest.mark.parametrize("error", [OperationRefusedError(71, "no"), OperationLostError("closed")])
async def test_a_delivery_that_comes_to_nothing_raises_why(error):
    delivery = Delivery(uplink(), 1)
    delivery.end(error)
    with pytest.raises(type(error)) as raised:
        await delivery.wait()
    assert raised.value is delivery.error is error
    assert (delivery.response, delivery.is_over) == (None, True)


def test_a_delivery_tells_that_it_has_ended():
    ended: list[Delivery] = []
    delivery = Delivery(uplink(), 1, ended.append)
    assert ended == []
    delivery.end(RESPONSE)
    assert ended == [delivery]


# --- the outbox ---


def test_what_is_added_is_issued_in_the_order_of_its_numbers():
    found = filled(2, 3, 1)
    assert len(found) == 3
    assert issue(found, 7.0) == [1, 2, 3]
    assert [delivery.issued for delivery in found.open.values()] == [7.0] * 3
    assert len(found) == 3


def test_no_more_is_issued_than_the_window_holds():
    found = filled(1, 2, 3, window=2)
    assert issue(found, 0.0) == [1, 2]
    assert found.due(0.0) == math.inf, "an answer makes room, time does not"
    answered = found.answered(1)
    assert answered is not None
    assert (answered.number, len(found)) == (1, 2)
    assert issue(found, 0.0) == [3]


def test_an_answer_to_nothing_is_nothing():
    assert filled(1).answered(1) is None
    assert filled(1).refused(1, 5, 0.0) is None


@pytest.mark.parametrize("code", sorted(TRY_AGAIN))
def test_what_is_to_be_tried_again_is_repeated_after_a_pause(code):
    found = filled(1)
    issue(found, 10.0)
    assert found.refused(1, code, 10.0) is None
    assert (len(found), found.due(10.0)) == (1, 12.0)
    assert issue(found, 11.9) == []
    assert issue(found, 12.0) == [1]
    assert found.due(12.0) == math.inf


def test_the_pause_doubles_up_to_its_bound_and_is_jittered():
    found = filled(1, retry_pause=2.0, retry_max=7.0, jitter=lambda: 0.5)
    now, pauses = 0.0, []
    for _ in range(4):
        assert issue(found, now) == [1]
        found.refused(1, 11, now)
        pauses.append(found.due(now) - now)
        now = found.due(now)
    assert pauses == [1.0, 2.0, 3.5, 3.5]


def test_what_is_refused_for_good_has_come_to_its_end():
    found = filled(1)
    issue(found, 0.0)
    refused = found.refused(1, 71, 0.0)
    assert refused is not None
    assert (refused.number, len(found)) == (1, 0)


def test_while_one_is_to_be_tried_again_later_ones_wait_so_that_order_is_kept():
    found = filled(1)
    issue(found, 0.0)
    found.refused(1, 28, 0.0)
    found.add(Delivery(uplink(2), 2))
    assert (issue(found, 1.9), found.due(1.9)) == ([], 2.0)
    assert issue(found, 2.0) == [1, 2]


def test_what_waits_goes_on_once_something_was_taken():
    found = filled(1, 2)
    issue(found, 0.0)
    found.refused(1, 5, 0.0)
    found.add(Delivery(uplink(3), 3))
    found.answered(2)
    assert issue(found, 0.0) == [3]
    assert issue(found, 2.0) == [1]


def test_in_a_resumed_session_what_lacks_an_answer_stays_issued():
    found = filled(1, 2)
    issue(found, 0.0)
    found.restart(9.0, resumed=True)
    assert [delivery.issued for delivery in found.open.values()] == [9.0, 9.0]
    assert issue(found, 9.0) == []


def test_in_a_new_session_what_lacks_an_answer_is_issued_again_first():
    found = filled(1, 2)
    issue(found, 0.0)
    found.add(Delivery(uplink(3), 3))
    found.restart(9.0, resumed=False)
    assert found.open == {}
    assert issue(found, 9.0) == [1, 2, 3]


def test_a_new_connection_does_not_wait_for_the_pause_of_the_last_one():
    found = filled(1)
    issue(found, 0.0)
    found.refused(1, 11, 0.0)
    found.add(Delivery(uplink(2), 2))
    found.restart(1.0, resumed=True)
    assert issue(found, 1.0) == [2]


def test_everything_can_be_taken_out():
    found = filled(1, 2, 3, window=2)
    issue(found, 0.0)
    found.refused(1, 11, 0.0)
    assert sorted(delivery.number for delivery in found.take_all()) == [1, 2, 3]
    assert (len(found), found.open, found.due(0.0)) == (0, {}, math.inf)
