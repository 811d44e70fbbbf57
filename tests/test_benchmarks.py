"""The benchmark runs, and nothing is lost in it. How fast it is says nothing here: a test must not
depend on what else the machine does.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import msgpack
import pytest

from benchmarks import attach_storm, downlink_window, load, subscriber
from benchmarks.end_to_end import Case, measure, targets
from benchmarks.figures import spread
from benchmarks.processes import broker_program
from bssci.core.protocol.codec import decode
from bssci.core.protocol.frames import FrameDecoder
from bssci.core.protocol.messages import UplinkData

TINY = Case(rate=60, stations=3, seconds=2, sensors=6, delay=0.5, warm_up=0)

needs_everything = pytest.mark.skipif(
    broker_program() is None or sys.platform != "linux",
    reason="a measurement needs Linux and mosquitto",
)


@pytest.mark.process
@pytest.mark.broker
@needs_everything
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(TINY, id="each telegram heard by one base station"),
        pytest.param(replace(TINY, overlap=3, subpackets=False), id="heard by all"),
        pytest.param(replace(TINY, overlap=2, early=True), id="early"),
    ],
)
def test_what_is_acknowledged_reaches_the_subscriber_once(case):
    figures = measure(case)

    assert (figures.lost, figures.copies, figures.refused, figures.unanswered) == (0, 0, 0, 0)
    assert figures.is_complete


@pytest.mark.process
@pytest.mark.broker
@needs_everything
def test_a_storm_of_attaches_is_confirmed_everywhere_and_loses_no_uplink():
    storm = attach_storm.measure(40, replace(TINY, seconds=4), rest=1.0)

    assert storm.confirmed == 40 * TINY.stations
    assert storm.calm.is_complete
    assert storm.stormy.is_complete


@pytest.mark.process
@pytest.mark.broker
@needs_everything
def test_a_waiting_downlink_comes_with_its_uplink_and_only_then():
    windows = downlink_window.measure(replace(TINY, seconds=3), 8)

    for phase in (windows.calm, windows.loaded):
        assert (phase.opened, phase.missing, phase.unasked) == (8, 0, 0)
        assert phase.times["count"] == 8
        assert phase.figures.is_complete


def test_an_uplink_that_opens_a_window_differs_from_others_in_that_alone():
    plain, opening = (
        decode(bytes(each.octets[12:]))
        for each in (load.Template(with_subpackets=True), downlink_window.window_template())
    )

    assert isinstance(plain, UplinkData)
    assert opening == replace(plain, dl_open=True)


def test_an_uplink_of_the_generator_says_what_was_written_into_it():
    template = load.Template(with_subpackets=True)
    octets = template.write(
        op_id=7, ep_eui=0xFCA84A0200000003, packet_cnt=5, rx_time=1_700_000_000 * 10**9, eq_snr=9.5
    )

    decoder = FrameDecoder()
    decoder.feed(octets)
    (uplink,) = (decode(payload) for payload in decoder.payloads())

    assert isinstance(uplink, UplinkData)
    assert (uplink.op_id, uplink.ep_eui, uplink.packet_cnt) == (7, 0xFCA84A0200000003, 5)
    assert (uplink.rx_time, uplink.eq_snr) == (1_700_000_000 * 10**9, 9.5)
    assert uplink.user_data == load.USER_DATA
    assert uplink.subpackets is not None
    assert len(uplink.subpackets.snr) == load.SUBPACKETS
    assert 1000 <= len(octets) <= 1200


def test_the_generator_takes_whole_messages_and_keeps_the_rest():
    octets = load.frame({"command": "ping", "opId": -1}) + load.frame({"command": "status"})
    inbox = bytearray(octets[:-1])

    assert load.take_messages(inbox) == [{"command": "ping", "opId": -1}]
    inbox += octets[-1:]
    assert load.take_messages(inbox) == [{"command": "status"}]
    assert inbox == b""


def test_the_subscriber_takes_whole_packets_and_keeps_the_rest():
    octets = b"\x32\x81\x01" + bytes(129) + b"\x40\x02\x00\x01"
    inbox = bytearray(octets[:-1])

    assert subscriber.packets(inbox) == [(0x32, bytes(129))]
    inbox += octets[-1:]
    assert subscriber.packets(inbox) == [(0x40, b"\x00\x01")]
    assert inbox == b""


def test_a_gap_a_copy_and_a_repeat_are_told_apart():
    sensor = subscriber.Sensor()

    kinds = [
        sensor.take(cnt, id_)
        for cnt, id_ in [(0, "a"), (1, "b"), (1, "b"), (1, "c"), (4, "d"), (3, "e")]
    ]

    assert kinds == ["next", "next", "repeat", "copy", "next", "disorder"]
    assert sensor.gaps == 1


def test_a_telegram_is_as_late_as_after_its_last_reception():
    count = subscriber.Count()
    receptions = [{"rxTime": 1_000_000}, {"rxTime": 3_000_000}]
    body = {"id": "x", "cnt": 0, "rxTime": 1_000_000, "receptions": receptions}

    count.take(b"mioty/ep/FCA84A0200000000/ul", str(body).replace("'", '"').encode(), 8_000_000)

    assert count.result()["latency"] == spread([5_000], per_ms=1000)


def test_a_response_costs_the_generator_one_completion_of_its_operation():
    octets = load.completion(70_000)

    assert msgpack.unpackb(octets[12:]) == {"command": "ulDataCmp", "opId": 70_000}


def test_no_figures_reach_no_target_but_that_nothing_is_lost():
    assert [target.name for target in targets([])] == ["telegrams lost, all cases"]
