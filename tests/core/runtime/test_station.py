import math
import ssl
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
import trustme

from bssci.core.protocol.codec import encode
from bssci.core.protocol.errors import (
    LocalProtocolError,
    OperationLostError,
    OperationRefusedError,
)
from bssci.core.protocol.events import Withdrawn
from bssci.core.protocol.frames import encode_frame
from bssci.core.protocol.messages import (
    Attach,
    AttachComplete,
    AttachPropagateComplete,
    AttachPropagateResponse,
    AttachResponse,
    Connect,
    DetachPropagate,
    DetachPropagateResponse,
    DownlinkDataQueueResponse,
    DownlinkDataResult,
    DownlinkDataResultResponse,
    Error,
    ErrorAck,
    Message,
    Ping,
    PingComplete,
    PingResponse,
    Status,
    StatusComplete,
    StatusResponse,
    UplinkData,
    UplinkDataComplete,
    UplinkDataResponse,
)
from bssci.core.runtime.holdings import Holdings
from bssci.core.runtime.station import (
    Identity,
    Station,
    StationSettings,
    open_station,
    plain_status,
)
from bssci.core.runtime.station_events import Offline, Online, Request, StationEvent, StationEvents
from tests.fakes import (
    BS_EUI,
    EP_EUI,
    SC_UUID,
    Exchange,
    FakePeer,
    FakeServiceCenter,
    OneByteStream,
    attach_propagate,
    connect_response,
    downlink,
    uplink,
)

if TYPE_CHECKING:
    from bssci.core.runtime.deliveries import Delivery

IDENTITY = Identity(eui=BS_EUI, name="roof", geo_location=(48.1, 11.6, 520.0))
RESUMED = connect_response(sn_resume=True)
STEADY = StationSettings(idle_ping=math.inf, dead_after=math.inf, answer_timeout=math.inf)


class Told(list[StationEvent]):
    """Events in order, as plain values."""

    def __init__(self) -> None:
        super().__init__()
        self._more = trio.Event()

    def __call__(self, event: StationEvent) -> None:
        self.append(event)
        self._more.set()

    async def wait_for(self, count: int) -> None:
        with trio.fail_after(30):
            while len(self) < count:
                await self._more.wait()
                self._more = trio.Event()


@pytest.fixture
def exchange():
    return Exchange()


@pytest.fixture
def clock(autojump_clock):
    """No test that asks for it waits for real time."""
    return autojump_clock


def opened(exchange: Exchange, **options: Any) -> AbstractAsyncContextManager[Station]:
    options.setdefault("identity", IDENTITY)
    options.setdefault("settings", STEADY)
    return open_station(exchange.connect, **options)


# --- connecting ---


async def test_a_station_introduces_itself(exchange, clock):
    async with opened(exchange) as station:
        center = await exchange.answer()
        connect = await center.welcome()
        await station.wait_online()
    assert connect == Connect(
        version="1.0.0",
        bs_eui=BS_EUI,
        name="roof",
        bidi=True,
        geo_location=(48.1, 11.6, 520.0),
        sn_bs_uuid=connect.sn_bs_uuid,
    )


async def test_each_station_begins_a_session_of_its_own(exchange, clock):
    uuids = set()
    for _ in range(2):
        async with opened(exchange):
            uuids.add((await (await exchange.answer()).welcome()).sn_bs_uuid)
    assert len(uuids) == 2


async def test_a_station_connects_when_the_service_center_comes_at_last(exchange, clock):
    exchange.is_closed = True
    events = Told()
    async with opened(exchange, take=events) as station:
        await trio.sleep(600)
        calls = exchange.calls
        exchange.is_closed = False
        await (await exchange.answer()).welcome()
        await station.wait_online()
    # Half-jittered pauses that double from 1 to 30 seconds.
    assert 20 <= calls <= 45
    assert events[0] == Offline("cannot connect: the exchange is closed", was_online=False)
    assert events[-1] == Online(resumed=False, response=connect_response())


async def test_a_service_center_that_does_not_complete_the_connect_is_left(exchange, clock):
    events = Told()
    async with opened(exchange, take=events):
        center = await exchange.answer()
        assert isinstance(await center.hear(), Connect)
        assert await center.hear_end() == []
        await trio.testing.wait_all_tasks_blocked()
    assert events == [Offline("no complete connect within 30 s", was_online=False)]


async def test_a_connection_that_cannot_be_made_in_time_is_given_up(clock):
    events = Told()

    async def connect():
        await trio.sleep_forever()

    async with open_station(connect, identity=IDENTITY, take=events):
        await trio.sleep(31)
    assert events == [Offline("no complete connect within 30 s", was_online=False)]


async def test_what_a_broken_connector_raises_ends_one_attempt_and_not_the_station(
    exchange, clock, caplog
):
    async def connect():
        if exchange.calls == 0:
            exchange.calls += 1
            raise ZeroDivisionError
        return await exchange.connect()

    async with open_station(connect, identity=IDENTITY) as station:
        await (await exchange.answer()).welcome()
        await station.wait_online()
    assert "this is our fault" in caplog.text


async def test_a_refused_connect_is_acknowledged_and_told(exchange, clock):
    events = Told()
    async with opened(exchange, take=events):
        center = await exchange.answer()
        await center.hear_a(Connect)
        await center.say(Error(op_id=0, code=1, message="not registered"))
        assert await center.hear_end() == [ErrorAck(op_id=0)]
        await trio.testing.wait_all_tasks_blocked()
    reason = "the Service Center refuses us with error 1: not registered"
    assert events == [Offline(reason, was_online=False)]


@pytest.mark.parametrize(("code", "asks_again"), [(11, True), (71, False)])
async def test_a_session_is_kept_when_the_connect_is_to_be_tried_again(
    exchange, clock, code, asks_again
):
    async with opened(exchange) as station:
        center = await exchange.answer()
        first = await center.welcome()
        await station.wait_online()
        await center.vanish()
        center = await exchange.answer()
        await center.hear_a(Connect)
        await center.say(Error(op_id=0, code=code, message=""))
        await center.hear_end()
        third = await (await exchange.answer()).hear_a(Connect)
    assert (third.sn_bs_uuid == first.sn_bs_uuid) is asks_again


async def test_a_response_of_another_version_is_refused_and_a_new_session_begun(exchange, clock):
    events = Told()
    async with opened(exchange, take=events):
        center = await exchange.answer()
        first = await center.hear_a(Connect)
        await center.say(connect_response(version="2.0.0"))
        refusal = await center.hear_a(Error)
        await center.say(ErrorAck(op_id=0))
        assert await center.hear_end() == []
        second = await (await exchange.answer()).hear_a(Connect)
    reason = "version: 2.0.0 is not supported, 1.0.0 is"
    assert refusal == Error(op_id=0, code=71, message=reason)
    assert events == [Offline(f"we refuse the Service Center: {reason}", was_online=False)]
    assert first.sn_bs_uuid != second.sn_bs_uuid


async def test_garbage_ends_the_connection_and_not_the_station(exchange, clock):
    events = Told()
    async with opened(exchange, take=events) as station:
        center = await exchange.answer()
        await center.say_bytes(b"HTTP/1.1 400 Bad Request\r\n")
        await center.hear_end()
        await (await exchange.answer()).welcome()
        await station.wait_online()
    assert events[0] == Offline(
        "the Service Center breaks the protocol: a frame begins with b'HTTP/1.1', not b'MIOTYB01'",
        was_online=False,
    )


async def test_it_does_not_matter_how_the_bytes_are_cut(exchange, clock):
    async def connect():
        return OneByteStream(await exchange.connect())

    async with open_station(connect, identity=IDENTITY) as station, trio.open_nursery() as nursery:
        center = await exchange.answer(read_size=1)
        await center.welcome()
        nursery.start_soon(station.send_uplink, uplink(7))
        heard = await center.acknowledge()
    assert heard == uplink(7, op_id=1)


# --- liveness ---


async def test_it_pings_five_seconds_after_the_last_activity(exchange, clock):
    async with opened(exchange, settings=StationSettings()) as station:
        center = await exchange.answer()
        await center.welcome()
        await station.wait_online()
        start = trio.current_time()
        moments = []
        for _ in range(3):
            ping = await center.hear_a(Ping)
            moments.append(trio.current_time() - start)
            await center.say(PingResponse(op_id=ping.op_id))
            assert await center.hear() == PingComplete(op_id=ping.op_id)
    assert moments == pytest.approx([5, 10, 15])


async def test_it_does_not_ping_while_something_is_said(exchange, clock):
    async with opened(exchange, settings=StationSettings()):
        center = await exchange.answer()
        await center.welcome()
        for op_id in range(-1, -5, -1):
            await trio.sleep(4)
            await center.say(Ping(op_id=op_id))
            assert await center.hear() == PingResponse(op_id=op_id)
            await center.say(PingComplete(op_id=op_id))


async def test_a_silent_service_center_is_left_and_found_again(exchange, clock):
    events = Told()
    async with opened(exchange, settings=StationSettings(), take=events) as station:
        center = await exchange.answer()
        await center.welcome()
        await station.wait_online()
        start = trio.current_time()
        rest = await center.hear_end()
        took = trio.current_time() - start
        await (await exchange.answer()).welcome(RESUMED)
        await station.wait_online()
        assert (station.connects, station.resumes) == (2, 1)
    assert rest == [Ping(op_id=1)]
    assert took == pytest.approx(20)
    assert events[1] == Offline("the Service Center was silent for 20 s", was_online=True)


async def test_a_service_center_that_never_answers_an_uplink_is_left_and_asked_again(
    exchange, clock
):
    settings = replace(STEADY, answer_timeout=60.0)
    async with opened(exchange, settings=settings) as station, trio.open_nursery() as nursery:
        center = await exchange.answer()
        await center.welcome()
        nursery.start_soon(station.send_uplink, uplink(1))
        assert await center.hear_end() == [uplink(1, op_id=1)]
        center = await exchange.answer()
        await center.welcome(RESUMED)
        assert await center.acknowledge() == uplink(1, op_id=1)


async def test_a_service_center_that_takes_no_bytes_is_left(clock):
    ours, theirs = trio.testing.lockstep_stream_pair()
    events = Told()

    async def connect():
        return ours

    async with open_station(connect, identity=IDENTITY, settings=STEADY, take=events) as station:
        center = FakeServiceCenter(theirs)
        await center.welcome()
        await station.wait_online()
        station.send_nowait(uplink())
        await trio.sleep(10.5)
    reason = "the Service Center did not take our bytes within 10 s"
    assert events[1] == Offline(reason, was_online=True)


# --- uplinks ---


async def test_an_uplink_is_delivered_when_it_is_acknowledged_and_not_before(exchange, clock):
    async with opened(exchange) as station, trio.open_nursery() as nursery:
        center = await exchange.answer()
        await center.welcome()
        delivered = trio.Event()

        async def deliver():
            await station.send_uplink(uplink(5))
            delivered.set()

        nursery.start_soon(deliver)
        assert await center.hear() == uplink(5, op_id=1)
        await trio.testing.wait_all_tasks_blocked()
        assert not delivered.is_set()
        assert station.unanswered == 1
        await center.say(UplinkDataResponse(op_id=1))
        assert await center.hear() == UplinkDataComplete(op_id=1)
        await station.wait_empty()
        assert station.unanswered == 0
        await delivered.wait()


async def test_uplinks_wait_in_order_for_a_connection(exchange, clock):
    async with opened(exchange) as station:
        for number in (1, 2, 3):
            station.send_nowait(uplink(number))
        center = await exchange.answer()
        await center.welcome()
        heard = [await center.hear() for _ in range(3)]
    assert heard == [uplink(number, op_id=number) for number in (1, 2, 3)]


async def test_after_a_resume_what_lacked_an_answer_comes_again_under_its_id(exchange, clock):
    async with opened(exchange) as station:
        center = await exchange.answer()
        first = await center.welcome()
        for number in (1, 2, 3):
            station.send_nowait(uplink(number))
        await center.acknowledge()
        await center.vanish()
        station.send_nowait(uplink(4))
        center = await exchange.answer()
        second = await center.welcome(RESUMED)
        heard = [(await center.hear()) for _ in range(3)]
    assert second == replace(first, sn_bs_op_id=1, sn_sc_op_id=0)
    assert heard == [uplink(2, op_id=2), uplink(3, op_id=3), uplink(4, op_id=4)]


async def test_in_a_new_session_what_lacked_an_answer_comes_again_as_new(exchange, clock):
    async with opened(exchange) as station, trio.open_nursery() as nursery:
        center = await exchange.answer()
        await center.welcome()
        for number in (1, 2, 3):
            station.send_nowait(uplink(number))
        await center.acknowledge()
        await center.vanish()
        nursery.start_soon(station.send_uplink, uplink(4))
        center = await exchange.answer()
        await center.welcome(connect_response(sn_sc_uuid=bytes(16)))
        heard = [await center.acknowledge() for _ in range(3)]
        await station.wait_empty()
        assert (station.connects, station.resumes) == (2, 0)
    assert heard == [uplink(2, op_id=1), uplink(3, op_id=2), uplink(4, op_id=3)]


async def test_no_more_than_a_window_lacks_an_answer(exchange, clock):
    async with opened(exchange, settings=replace(STEADY, window=2)) as station:
        for number in (1, 2, 3):
            station.send_nowait(uplink(number))
        center = await exchange.answer()
        await center.welcome()
        assert [await center.hear(), await center.hear()] == [
            uplink(1, op_id=1),
            uplink(2, op_id=2),
        ]
        await trio.testing.wait_all_tasks_blocked()
        await center.say(UplinkDataResponse(op_id=2))
        assert [await center.hear(), await center.hear()] in (
            [UplinkDataComplete(op_id=2), uplink(3, op_id=3)],
            [uplink(3, op_id=3), UplinkDataComplete(op_id=2)],
        )


async def test_who_sends_waits_while_the_buffer_is_full(exchange, clock):
    async with (
        opened(exchange, settings=replace(STEADY, buffer=2)) as station,
        trio.open_nursery() as nursery,
    ):
        station.send_nowait(uplink(1))
        station.send_nowait(uplink(2))
        with pytest.raises(trio.WouldBlock):
            station.send_nowait(uplink(3))
        nursery.start_soon(station.send_uplink, uplink(3))
        await trio.testing.wait_all_tasks_blocked()
        assert station.unanswered == 2
        center = await exchange.answer()
        await center.welcome()
        heard = [await center.acknowledge() for _ in range(3)]
    assert [message.packet_cnt for message in heard] == [1, 2, 3]


async def test_a_handle_tells_when_its_uplink_has_ended(exchange, clock):
    ended: list[Delivery] = []
    async with opened(exchange) as station:
        delivery = station.send_nowait(uplink(1), ended.append)
        center = await exchange.answer()
        await center.welcome()
        before = delivery.is_over
        await center.acknowledge()
        assert await delivery.wait() == UplinkDataResponse(op_id=1)
        assert await delivery.wait() == delivery.response
    assert (before, delivery.is_over) == (False, True)
    assert ended == [delivery]


@pytest.mark.parametrize("code", [5, 11, 28])
async def test_an_uplink_refused_with_try_again_is_repeated_after_a_pause(exchange, clock, code):
    async with opened(exchange) as station, trio.open_nursery() as nursery:
        center = await exchange.answer()
        await center.welcome()
        nursery.start_soon(station.send_uplink, uplink(1))
        moments = []
        for op_id in (1, 2, 3):
            assert await center.hear() == uplink(1, op_id=op_id)
            moments.append(trio.current_time())
            await center.say(Error(op_id=op_id, code=code, message="disk full"))
            assert await center.hear() == ErrorAck(op_id=op_id)
        assert await center.acknowledge() == uplink(1, op_id=4)
    # Two seconds and then four, each at least half of it.
    assert 1 <= moments[1] - moments[0] <= 2 <= moments[2] - moments[1] <= 4


async def test_while_one_is_to_be_tried_again_later_ones_wait_so_that_order_is_kept(
    exchange, clock
):
    async with opened(exchange) as station:
        center = await exchange.answer()
        await center.welcome()
        station.send_nowait(uplink(1))
        await center.hear()
        await center.say(Error(op_id=1, code=28, message="disk full"))
        assert await center.hear() == ErrorAck(op_id=1)
        station.send_nowait(uplink(2))
        heard = [await center.acknowledge(), await center.acknowledge()]
    assert heard == [uplink(1, op_id=2), uplink(2, op_id=3)]


async def test_what_waits_goes_on_once_something_else_was_taken(exchange, clock):
    async with opened(exchange) as station:
        center = await exchange.answer()
        await center.welcome()
        station.send_nowait(uplink(1))
        station.send_nowait(uplink(2))
        assert [await center.hear(), await center.hear()] == [
            uplink(1, op_id=1),
            uplink(2, op_id=2),
        ]
        before = trio.current_time()
        await center.say(Error(op_id=1, code=5, message="no"))
        assert await center.hear() == ErrorAck(op_id=1)
        station.send_nowait(uplink(3))
        await center.say(UplinkDataResponse(op_id=2))
        heard = [await center.hear(), await center.hear()]
        assert uplink(3, op_id=3) in heard
        assert trio.current_time() == before


async def test_an_uplink_that_is_refused_for_good_is_an_error_for_who_sent_it(exchange, clock):
    async with opened(exchange) as station, trio.open_nursery() as nursery:
        center = await exchange.answer()
        await center.welcome()

        async def refuse():
            assert await center.hear() == uplink(1, op_id=1)
            await center.say(Error(op_id=1, code=71, message="snr: missing"))
            assert await center.hear() == ErrorAck(op_id=1)

        nursery.start_soon(refuse)
        with pytest.raises(OperationRefusedError) as refusal:
            await station.send_uplink(uplink(1))
        assert station.unanswered == 0
    assert str(refusal.value) == "refused with error 71: snr: missing"


async def test_an_uplink_that_breaks_a_rule_is_an_error_and_harms_no_other(exchange, clock):
    async with opened(exchange) as station, trio.open_nursery() as nursery:
        center = await exchange.answer()
        await center.welcome()
        await station.wait_online()
        with pytest.raises(LocalProtocolError) as fault:
            await station.send_uplink(uplink(1, response_exp=True))
        nursery.start_soon(station.send_uplink, uplink(2))
        assert await center.acknowledge() == uplink(2, op_id=2)
    assert str(fault.value) == "ulData: responseExp: true without dlOpen"


@pytest.mark.parametrize("message", [Status(), Ping(), UplinkDataResponse(), connect_response()])
async def test_only_operations_of_a_base_station_can_be_delivered(exchange, clock, message):
    async with opened(exchange) as station:
        with pytest.raises(LocalProtocolError) as fault:
            await station.send(message)
    assert str(fault.value) == (
        f"{message.command} is not an operation that a base station delivers"
    )


async def test_an_attach_over_the_air_gives_the_session_key(exchange, clock):
    attach = Attach(
        ep_eui=EP_EUI,
        rx_time=1,
        attach_cnt=0,
        snr=1.0,
        rssi=-100.0,
        nonce=bytes(4),
        sign=bytes(4),
        dual_chan=False,
        repetition=False,
        wide_carr_off=False,
        long_blk_dist=False,
    )
    answers = []
    async with opened(exchange) as station, trio.open_nursery() as nursery:
        center = await exchange.answer()
        await center.welcome()

        async def deliver():
            answers.append(await station.send(attach))

        nursery.start_soon(deliver)
        assert await center.hear() == replace(attach, op_id=1)
        await center.say(AttachResponse(op_id=1, nwk_sn_key=b"k" * 16, sh_addr=0x127C))
        assert await center.hear() == AttachComplete(op_id=1)
    assert answers == [AttachResponse(op_id=1, nwk_sn_key=b"k" * 16, sh_addr=0x127C)]


async def test_a_window_that_is_full_after_a_cut_in_the_middle_of_a_frame_loses_nothing(
    exchange, clock
):
    numbers = range(1, 51)
    async with opened(exchange, settings=replace(STEADY, window=10, buffer=50)) as station:
        for number in numbers:
            station.send_nowait(uplink(number))
        seen: set[int] = set()
        session = connect_response()
        while len(seen) < len(numbers):
            center = await exchange.answer()
            await center.welcome(session)
            session = RESUMED
            frame = encode_frame(encode(UplinkDataResponse(op_id=1)))
            for _ in range(7):
                if len(seen) < len(numbers):
                    seen.add((await center.acknowledge()).packet_cnt)
            await center.say_bytes(frame[:9])
            await center.vanish()
    assert seen == set(numbers)


# --- the end, and going on in another process ---


async def test_the_end_says_what_is_left_to_say_and_closes_in_order(exchange, clock):
    async with opened(exchange) as station:
        center = await exchange.answer()
        await center.welcome()
        await station.wait_online()
        station.send_nowait(uplink(1))
    assert await center.hear_end() == [uplink(1, op_id=1)]


async def test_a_cancelled_station_closes_in_order(exchange, clock):
    with trio.CancelScope() as scope:
        async with opened(exchange) as station:
            center = await exchange.answer()
            await center.welcome()
            await station.wait_online()
            station.send_nowait(uplink(1))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert await center.hear_end() == [uplink(1, op_id=1)]


async def test_what_is_not_answered_at_the_end_is_told_as_lost(exchange, clock):
    async with opened(exchange) as station:
        delivery = station.send_nowait(uplink(1))
    with pytest.raises(OperationLostError) as lost:
        await delivery.wait()
    assert str(lost.value) == "ulData: the base station was closed"
    with pytest.raises(OperationLostError):
        await station.send_uplink(uplink(2))


async def test_who_waits_for_room_when_the_station_is_closed_does_not_wait_for_ever(
    exchange, clock
):
    lost = []
    async with trio.open_nursery() as nursery:
        settings = replace(STEADY, buffer=1)
        async with opened(exchange, settings=settings) as station:
            station.send_nowait(uplink(1))

            async def deliver():
                try:
                    await station.send_uplink(uplink(2))
                except OperationLostError as error:
                    lost.append(str(error))

            nursery.start_soon(deliver)
            await trio.testing.wait_all_tasks_blocked()
    assert lost == ["ulData: the base station is closed"]


async def test_an_exception_of_the_block_comes_out_as_it_is(exchange, clock):
    with pytest.raises(KeyError):
        async with opened(exchange):
            raise KeyError


async def test_a_session_goes_on_in_another_process(exchange, clock):
    async with opened(exchange) as station:
        assert station.record() is None
        center = await exchange.answer()
        first = await center.welcome()
        for number in (1, 2):
            station.send_nowait(uplink(number))
        await center.acknowledge()
        await center.hear()
        live = station.record()
    record = station.record()
    assert live == record
    async with opened(exchange, stored=record, settings=replace(STEADY, buffer=1)) as station:
        assert station.unanswered == 1
        center = await exchange.answer()
        assert await center.welcome(RESUMED) == replace(first, sn_bs_op_id=1, sn_sc_op_id=0)
        assert await center.acknowledge() == uplink(2, op_id=2)
        await station.wait_empty()


async def test_what_another_process_left_unanswered_survives_a_new_session_too(exchange, clock):
    async with opened(exchange) as station:
        center = await exchange.answer()
        await center.welcome()
        station.send_nowait(uplink(1))
        await center.hear()
    async with opened(exchange, stored=station.record()):
        center = await exchange.answer()
        await center.welcome(connect_response(sn_sc_uuid=bytes(16)))
        assert await center.acknowledge() == uplink(1, op_id=1)


async def test_a_station_can_be_cut(exchange, clock):
    events = Told()
    async with opened(exchange, take=events) as station:
        await exchange.answer()
        station.cut()
        await (await exchange.answer()).welcome()
        await station.wait_online()
        station.cut("for a test")
        await (await exchange.answer()).welcome(RESUMED)
        await station.wait_online()
    reasons = [event for event in events if isinstance(event, Offline)]
    assert reasons == [
        Offline("cut by us", was_online=False),
        Offline("for a test", was_online=True),
    ]
    station.cut()


# --- what the Service Center asks ---


async def test_a_station_tells_how_it_is(exchange, clock):
    status = StatusResponse(code=0, message="fine", time=17, duty_cycle=0.25)
    async with opened(exchange, status=lambda: status):
        center = await exchange.answer()
        await center.welcome()
        await center.say(Status(op_id=-1))
        assert await center.hear() == replace(status, op_id=-1)
        await center.say(StatusComplete(op_id=-1))


def test_a_plain_station_is_well():
    status = plain_status()
    assert (status.code, status.message, status.time > 10**18) == (0, "ok", True)


async def test_requests_come_as_events_that_are_answered_when_it_suits(exchange, clock):
    events = StationEvents()
    async with opened(exchange, take=events.put):
        center = await exchange.answer()
        await center.welcome()
        await center.say(attach_propagate(op_id=-1), DetachPropagate(op_id=-2, ep_eui=7))
        heard = []
        async for event in events:
            heard.append(event)
            if len(heard) == 3:
                break
        online, attach, detach = heard
        assert isinstance(attach, Request)
        assert isinstance(detach, Request)
        assert online == Online(resumed=False, response=connect_response())
        assert (attach.message, attach.reissued) == (attach_propagate(op_id=-1), False)
        assert "key" not in repr(attach)
        detach.refuse(2, "never heard of it")
        assert await center.hear() == Error(op_id=-2, code=2, message="never heard of it")
        attach.respond()
        assert await center.hear() == AttachPropagateResponse(op_id=-1)
        await center.say(ErrorAck(op_id=-2), AttachPropagateComplete(op_id=-1))
        with pytest.raises(LocalProtocolError):
            attach.respond()


async def test_an_answer_that_comes_after_the_cut_goes_nowhere(exchange, clock):
    events = StationEvents()
    async with opened(exchange, take=events.put) as station:
        center = await exchange.answer()
        await center.welcome()
        await center.say(DetachPropagate(op_id=-1, ep_eui=7))
        await anext(events)
        late = await anext(events)
        assert isinstance(late, Request)
        station.cut()
        center = await exchange.answer()
        await center.welcome(RESUMED)
        late.respond()
        late.refuse(1, "no")
        assert [type(await anext(events)) for _ in range(2)] == [Offline, Online]
        await center.say(DetachPropagate(op_id=-1, ep_eui=7))
        again = await anext(events)
        assert isinstance(again, Request)
        assert again.reissued
        again.respond()
        assert await center.hear() == DetachPropagateResponse(op_id=-1)


async def test_a_response_that_the_service_center_cannot_accept_is_told(exchange, clock):
    events = Told()
    async with opened(exchange, take=events):
        center = await exchange.answer()
        await center.welcome()
        await center.say(DetachPropagate(op_id=-1, ep_eui=7))
        await trio.testing.wait_all_tasks_blocked()
        await center.say(Error(op_id=-1, code=71, message="too late"))
        assert await center.hear() == ErrorAck(op_id=-1)
    request = DetachPropagate(op_id=-1, ep_eui=7)
    assert events[2] == Withdrawn(request, 71, "too late")


async def test_a_handler_that_raises_ends_the_connection_and_not_the_station(
    exchange, clock, caplog
):
    def take(event):
        if isinstance(event, Request):
            raise ZeroDivisionError

    async with opened(exchange, take=take) as station:
        center = await exchange.answer()
        await center.welcome()
        await center.say(DetachPropagate(op_id=-1, ep_eui=7))
        await center.hear_end()
        await (await exchange.answer()).welcome(RESUMED)
        await station.wait_online()
    assert "this is our fault" in caplog.text


async def test_what_the_service_center_says_wrongly_is_refused_and_logged(exchange, clock, caplog):
    async with opened(exchange):
        center = await exchange.answer()
        await center.welcome()
        await center.say(uplink(op_id=-1))
        assert (await center.hear_a(Error)).code == 71
    assert "ulData -1 answered with error 71" in caplog.text


async def test_a_plain_station_answers_over_the_wire(exchange, clock):
    holdings = Holdings()
    async with opened(exchange, take=holdings) as station:
        center = await exchange.answer()
        await center.welcome()
        await center.say(
            attach_propagate(op_id=-1),
            downlink(1, op_id=-2),
            downlink(2, op_id=-3, ep_eui=7),
        )
        assert [await center.hear() for _ in range(3)] == [
            AttachPropagateResponse(op_id=-1),
            DownlinkDataQueueResponse(op_id=-2),
            Error(op_id=-3, code=2, message="this end point is not attached here"),
        ]
        for report in holdings.open_window(uplink(1), tx_time=99):
            station.send_nowait(report)
        assert await center.hear() == DownlinkDataResult(
            op_id=1, ep_eui=EP_EUI, que_id=1, result="sent", tx_time=99, packet_cnt=1
        )
        await center.say(DownlinkDataResultResponse(op_id=1))
        await station.wait_empty()


# --- the truth ---


async def test_over_real_tls():
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context()
    authority.configure_trust(server)
    authority.configure_trust(client)
    authority.issue_cert("localhost").configure_cert(server)
    authority.issue_cert("70B3D59CD0000001").configure_cert(client)
    stranger = ssl.create_default_context()
    trustme.CA().issue_cert("stranger").configure_cert(stranger)
    authority.configure_trust(stranger)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = ("localhost", listener.socket.getsockname()[1])
    heard: list[Message | str] = []

    async def serve(transport):
        peer = FakePeer(trio.SSLStream(transport, server, server_side=True))
        try:
            center = FakeServiceCenter(peer.stream)
            await center.welcome()
            heard.append(await center.acknowledge())
            assert await center.hear_end() == []
        except trio.BrokenResourceError:
            heard.append("no TLS")
        finally:
            await trio.aclose_forcefully(peer.stream)

    events = Told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        async with open_station(address, identity=IDENTITY, ssl_context=client) as station:
            await station.send_uplink(uplink(1))
        for where, context in (
            (address, stranger),
            (address, ssl.create_default_context()),
            (("localhost", 1), client),
        ):
            count = len(events) + 1
            async with open_station(where, identity=IDENTITY, ssl_context=context, take=events):
                await events.wait_for(count)
        nursery.cancel_scope.cancel()
    assert heard[0] == uplink(1, op_id=1)
    reasons = [event.reason for event in events if isinstance(event, Offline)]
    assert [
        words in reason
        for words, reason in zip(
            ("connection lost: TLS", "certificate is not accepted", "Connection refused"),
            reasons,
            strict=True,
        )
    ] == [True, True, True], reasons


async def test_a_host_without_certificates_is_a_mistake():
    with pytest.raises(ValueError, match="ssl_context"):
        async with open_station(("localhost", 1), identity=IDENTITY):
            raise AssertionError


def test_the_session_of_a_record_is_that_of_the_service_center():
    assert connect_response().sn_sc_uuid == SC_UUID
    assert isinstance(uplink(), UplinkData)
