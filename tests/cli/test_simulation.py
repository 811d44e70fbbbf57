import math
import time
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from bssci.cli import simulation
from bssci.cli.network import SimulatedNetwork
from bssci.cli.simulation import FaultyStream, Happening, Totals, simulate
from bssci.core.protocol.eui import format_eui
from bssci.core.protocol.messages import (
    AttachPropagate,
    AttachPropagateResponse,
    DetachPropagate,
    DownlinkDataQueue,
    DownlinkDataQueueResponse,
    DownlinkDataResult,
    Error,
    Message,
    Ping,
    PingResponse,
    Status,
    StatusResponse,
    UplinkDataResponse,
)
from tests.fakes import FakeServiceCenter, PlainCenter


@pytest.fixture
def clock(autojump_clock):
    """No test that asks for it waits for real time."""
    return autojump_clock


class Heard(list[Happening]):
    def of(self, event: str) -> list[Happening]:
        return [
            {name: value for name, value in happening.items() if name not in ("event", "time")}
            for happening in self
            if happening["event"] == event
        ]


def play(
    network: SimulatedNetwork, *, code: int = 0, asks: list[Message] | None = None, **options: Any
) -> Any:
    async def run() -> tuple[Totals, PlainCenter, Heard]:
        heard = Heard()
        async with trio.open_nursery() as nursery:
            center = PlainCenter(nursery, code=code)
            center.asks = asks or []
            totals = await simulate(network, center.connector, tell=heard.append, **options)
            nursery.cancel_scope.cancel()
        return totals, center, heard

    return run()


def expected(network: SimulatedNetwork, seconds: float) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    for telegram in network.telegrams():
        if telegram.at >= seconds:
            return sorted(found)
        found += [
            (network.stations[each.station].eui, each.uplink.ep_eui, each.uplink.packet_cnt)
            for each in telegram.receptions
        ]
    raise AssertionError


def said(center: PlainCenter) -> list[tuple[int, int, int]]:
    return sorted((eui, uplink.ep_eui, uplink.packet_cnt) for eui, uplink in center.uplinks)


async def test_every_reception_is_delivered_and_counted(clock):
    network = SimulatedNetwork(rate=10.0)
    totals, center, heard = await play(network, seconds=20.0)
    receptions = expected(network, 20.0)
    assert said(center) == receptions
    assert totals == Totals(
        telegrams=len(heard.of("telegram")),
        receptions=len(receptions),
        acknowledged=len(receptions),
        connects=3,
    )


async def test_base_stations_say_who_and_how_they_are(clock):
    network = SimulatedNetwork(stations=1, skew=True)
    before = time.time_ns()
    _, center, heard = await play(network, seconds=1.0, asks=[Status()])
    (site,) = network.stations
    assert [(each.bs_eui, each.name, each.geo_location) for each in center.connects] == [
        (site.eui, "simulated 1", site.geo_location)
    ]
    (status,) = center.others
    assert isinstance(status, StatusResponse)
    assert 0 <= status.time - site.clock_error_ns - before < 60 * 10**9
    assert heard.of("online") == [
        {"bs_eui": format_eui(site.eui), "resumed": False, "sc_eui": "0000000000000002"}
    ]


async def test_a_telegram_is_told_with_who_heard_it(clock):
    network = SimulatedNetwork(stations=1, sensors=1)
    _, _, heard = await play(network, seconds=3.0)
    telegram = next(network.telegrams())
    uplink = telegram.receptions[0].uplink
    assert heard.of("telegram")[0] == {
        "number": 1,
        "ep_eui": format_eui(uplink.ep_eui),
        "packet_cnt": uplink.packet_cnt,
        "size": 17,
        "heard_by": [format_eui(network.stations[0].eui)],
        "best_snr": uplink.snr,
    }


async def test_cuts_in_the_middle_of_frames_lose_nothing(clock, monkeypatch):
    monkeypatch.setattr(simulation, "BETWEEN_CUTS", 2.0)
    network = SimulatedNetwork(rate=10.0)
    totals, center, heard = await play(network, seconds=30.0, faults=frozenset({"disconnect"}))
    assert set(said(center)) == set(expected(network, 30.0))
    assert totals.acknowledged == totals.receptions == len(expected(network, 30.0))
    assert totals.reconnects > 10
    assert totals.resumed > 10
    assert {"cut by the simulation"} == {
        str(each["reason"]).removeprefix("connection lost: ") for each in heard.of("offline")
    }


async def test_small_pieces_and_slow_readers_lose_nothing(clock):
    network = SimulatedNetwork(rate=5.0)
    totals, center, _ = await play(network, seconds=10.0, faults=frozenset({"split", "slow"}))
    assert said(center) == expected(network, 10.0)
    assert totals.unanswered == 0


async def test_duplicates_are_said_once_more(clock):
    network = SimulatedNetwork(rate=10.0)
    totals, center, _ = await play(network, seconds=20.0, faults=frozenset({"dup"}))
    assert set(said(center)) == set(expected(network, 20.0))
    assert totals.duplicated > 10
    assert totals.acknowledged == totals.receptions + totals.duplicated == len(center.uplinks)


async def test_the_order_of_decisions_depends_on_the_seed_alone(clock):
    network = SimulatedNetwork(rate=10.0)
    plays = [
        await play(network, seconds=10.0, faults=frozenset({"dup"}), seed=seed)
        for seed in (1, 1, 2)
    ]
    first, again, other = (said(center) for _, center, _ in plays)
    assert first == again != other


async def test_refusals_are_counted_and_told(clock):
    network = SimulatedNetwork(stations=1, sensors=1)
    totals, _, heard = await play(network, seconds=3.0, code=71)
    assert (totals.refused, totals.acknowledged) == (totals.receptions, 0)
    assert heard.of("refused")[0] == {
        "bs_eui": format_eui(network.stations[0].eui),
        "command": "ulData",
        "code": 71,
        "message": "no",
    }


async def test_what_is_not_answered_in_time_is_counted(clock):
    network = SimulatedNetwork(stations=1)
    totals, _, _ = await play(network, seconds=3.0, code=28, grace=1.0)
    assert totals.unanswered == totals.receptions > 0


async def test_what_finds_no_room_is_counted_and_told(clock):
    async def nowhere() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError("closed")

    heard = Heard()
    network = SimulatedNetwork(stations=1, rate=10.0)
    settings = replace(simulation.SETTINGS, buffer=3)
    start = trio.current_time()
    totals = await simulate(
        network, lambda site: nowhere, seconds=10.0, tell=heard.append, settings=settings
    )
    assert (totals.unanswered, totals.dropped) == (3, totals.receptions - 3)
    assert len(heard.of("dropped")) == totals.dropped
    # The same reason is told once, and nobody waits for answers of who was never there.
    assert heard.of("offline") == [
        {
            "bs_eui": format_eui(network.stations[0].eui),
            "reason": "cannot connect: closed",
            "was_online": False,
        }
    ]
    assert trio.current_time() - start < 12


async def test_totals_are_true_after_a_cancellation(clock):
    network = SimulatedNetwork(rate=10.0)
    totals = Totals()
    async with trio.open_nursery() as nursery:
        center = PlainCenter(nursery)
        with trio.move_on_after(10):
            await simulate(network, center.connector, totals=totals)
        nursery.cancel_scope.cancel()
    assert totals.connects == 3
    assert totals.receptions == totals.acknowledged + totals.unanswered > 0


async def test_a_downlink_is_sent_in_its_window_and_acknowledged_by_the_next_uplink(clock):
    network = SimulatedNetwork(stations=1, sensors=2, rate=0.2)
    sensor = network.sensors[1]
    attach = AttachPropagate(
        ep_eui=sensor.eui,
        bidi=True,
        nwk_sn_key=sensor.key,
        sh_addr=sensor.short_address,
        last_packet_cnt=0,
        dual_chan=False,
        repetition=False,
        wide_carr_off=False,
        long_blk_dist=False,
    )
    queue = DownlinkDataQueue(ep_eui=sensor.eui, que_id=7, cnt_depend=False, user_data=(b"\x01",))
    totals, center, heard = await play(network, seconds=200.0, asks=[attach, queue])
    bs_eui, ep_eui = format_eui(network.stations[0].eui), format_eui(sensor.eui)
    assert heard.of("request") == [
        {"bs_eui": bs_eui, "command": "attPrp", "ep_eui": ep_eui},
        {"bs_eui": bs_eui, "command": "dlDataQue", "ep_eui": ep_eui, "que_id": 7},
    ]
    (sent,) = heard.of("downlink")
    packet_cnt = sent["packet_cnt"]
    assert isinstance(packet_cnt, int)
    assert sent == {"bs_eui": bs_eui, "ep_eui": ep_eui, "packet_cnt": packet_cnt, "que_id": 7}
    assert center.others == [
        AttachPropagateResponse(),
        DownlinkDataQueueResponse(),
        DownlinkDataResult(ep_eui=sensor.eui, que_id=7, result="sent", packet_cnt=packet_cnt),
    ]
    acknowledged = {uplink.packet_cnt for _, uplink in center.uplinks if uplink.dl_ack}
    assert acknowledged == {packet_cnt + 1}
    assert totals.downlinks == 1


async def test_a_withdrawn_request_is_told(clock):
    heard = Heard()
    network = SimulatedNetwork(stations=1, rate=0.001)
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect() -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return ours

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: simulate(network, lambda site: connect, tell=heard.append))
        center = FakeServiceCenter(theirs)
        await center.welcome()
        await center.say(DetachPropagate(op_id=-1, ep_eui=7))
        await center.hear()
        await center.say(Error(op_id=-1, code=71, message="late"), Ping(op_id=-2))
        await center.hear_the(PingResponse(op_id=-2))
        nursery.cancel_scope.cancel()
    assert heard.of("withdrawn") == [
        {
            "bs_eui": format_eui(network.stations[0].eui),
            "command": "detPrp",
            "ep_eui": "0000000000000007",
            "code": 71,
            "message": "late",
        }
    ]


async def test_no_more_connects_are_under_way_than_a_service_center_likes(clock):
    under_way = most = 0

    async def connect() -> trio.abc.Stream:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.sleep(1)
        under_way -= 1
        raise ConnectionRefusedError("closed")

    network = SimulatedNetwork(stations=200)
    await simulate(network, lambda site: connect, seconds=5.0)
    assert most == simulation.CONNECTS


# --- faults ---


class Wire(trio.abc.Stream):
    """Remembers what was sent, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.asked: list[int | None] = []
        self.is_closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        self.asked.append(-1)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self.asked.append(max_bytes)
        if self.is_closed:
            raise trio.ClosedResourceError
        return b"x"

    async def aclose(self) -> None:
        self.is_closed = True


async def test_without_faults_nothing_happens(clock):
    wire = Wire()
    stream = FaultyStream(wire, frozenset(), Random(1))
    await stream.send_all(b"abc")
    await stream.wait_send_all_might_not_block()
    assert await stream.receive_some(17) == b"x"
    await stream.aclose()
    assert (wire.pieces, wire.asked, wire.is_closed) == ([b"abc"], [-1, 17], True)


async def test_split_cuts_writes_into_small_pieces(clock):
    wire = Wire()
    await FaultyStream(wire, frozenset({"split"}), Random(1)).send_all(bytes(1000))
    assert b"".join(wire.pieces) == bytes(1000)
    assert max(map(len, wire.pieces)) <= simulation.PIECES


async def test_slow_reads_little_at_a_time(clock):
    wire = Wire()
    start = trio.current_time()
    await FaultyStream(wire, frozenset({"slow"}), Random(1)).receive_some(65536)
    assert trio.current_time() - start == pytest.approx(simulation.SLOW_PAUSE)
    assert wire.asked == [simulation.SLOW_READ]


async def test_disconnect_ends_within_a_write(clock):
    wire = Wire()
    stream = FaultyStream(wire, frozenset({"disconnect"}), Random(1))
    await stream.send_all(b"abc")
    await trio.sleep(1000)
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(bytes(1000))
    with pytest.raises(trio.BrokenResourceError, match="cut by the simulation"):
        await stream.receive_some()
    assert wire.pieces[0] == b"abc"
    assert len(wire.pieces[1]) <= 1000
    assert wire.is_closed


async def test_a_connection_that_is_closed_by_others_is_not_cut_by_us(clock):
    wire = Wire()
    await wire.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await FaultyStream(wire, frozenset(), Random(1)).receive_some()


def test_totals_are_told_by_name():
    assert Totals(telegrams=2).as_dict()["telegrams"] == 2
    assert math.inf > simulation.GRACE
    assert UplinkDataResponse.command == "ulDataRsp"
