"""The own sink: in order, each until it is safe there, and told of once per kind of failure."""

import json
import logging

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.center.receptions import Heard, Reception, Telegram, digest_of
from bssci.core.center.topics import uplink_body
from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.messages import UplinkData
from bssci.core.runtime import sink
from bssci.core.runtime.sink import Receipts, SinkLink, Uplink, UplinkReception
from bssci.core.runtime.statements import OutboxRow

END_POINT = 0xFCA84A030000127C
NORTH, SOUTH = 0x70B3D59CD0000001, 0x70B3D59CD0000002
NOON = 1_756_193_850_000_000_000


def body(cnt=1, *, corrected=None, reused=False, stations=(NORTH,), **fields):
    """What the outbox holds of a telegram."""
    uplink = UplinkData(
        **{
            "ep_eui": END_POINT,
            "rx_time": NOON,
            "packet_cnt": cnt,
            "snr": 10.0,
            "rssi": -90.5,
            "user_data": bytes((17, 50)),
            "dl_open": False,
            "response_exp": False,
            "dl_ack": False,
            **fields,
        }
    )
    heard = tuple(
        Heard(Reception(1, eui, NOON, b"s" * 16, uplink, b""), corrected) for eui in stations
    )
    telegram = Telegram(
        ep_eui=END_POINT,
        packet_cnt=cnt,
        digest=digest_of(uplink),
        counter_reused=reused,
        receptions=heard,
        received_ns=NOON,
        row=1,
    )
    return uplink_body(telegram, uid=f"j-{cnt}", registered=True)


# --- the value -------------------------------------------------------------------------------


def test_an_uplink_is_what_is_published_as_python_values():
    assert Uplink.of(END_POINT, text := body()) == Uplink(
        id="j-1",
        ep_eui=END_POINT,
        bs_eui=NORTH,
        packet_cnt=1,
        data=bytes((17, 50)),
        rx_time=NOON,
        snr=10.0,
        rssi=-90.5,
        registered=True,
        receptions=(UplinkReception(bs_eui=NORTH, rx_time=NOON, snr=10.0, rssi=-90.5),),
        body=text,
    )


def test_what_is_known_besides_is_there():
    text = body(
        7,
        corrected=NOON + 1,
        reused=True,
        stations=(NORTH, SOUTH),
        eq_snr=9.5,
        profile="eu1",
        mode="ulp",
        rx_duration=400,
        format=3,
        dl_open=True,
        response_exp=True,
        dl_ack=True,
    )
    receptions = tuple(
        UplinkReception(
            bs_eui=eui,
            rx_time=NOON,
            snr=10.0,
            rssi=-90.5,
            eq_snr=9.5,
            rx_time_corrected=NOON + 1,
        )
        for eui in (NORTH, SOUTH)
    )
    assert Uplink.of(END_POINT, text) == Uplink(
        id="j-7",
        ep_eui=END_POINT,
        bs_eui=NORTH,
        packet_cnt=7,
        data=bytes((17, 50)),
        rx_time=NOON,
        snr=10.0,
        rssi=-90.5,
        format=3,
        dl_open=True,
        response_exp=True,
        dl_ack=True,
        registered=True,
        counter_reused=True,
        eq_snr=9.5,
        profile="eu1",
        mode="ulp",
        rx_duration=400,
        rx_time_corrected=NOON + 1,
        receptions=receptions,
        body=text,
    )


def test_as_json_it_is_the_published_body_and_whose_it_is():
    text = body()
    uplink = Uplink.of(END_POINT, text)
    assert uplink.as_json() == {"sensor_eui": "FCA84A030000127C", **json.loads(text)}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "7", body()[:-1], body().replace("[17,50]", "[17,500]")]
)
def test_what_is_no_uplink_is_a_value_error(text):
    with pytest.raises(ValueError, match="no uplink: "):
        Uplink.of(END_POINT, text)


# --- one by one ------------------------------------------------------------------------------


class Outbox:
    """Rows that wait, and what the sink has of them."""

    def __init__(self, number=0):
        self.rows = [OutboxRow(n, END_POINT, body(n)) for n in range(1, number + 1)]
        self.taken: list[int] = []
        self.failures = 0

    def add(self, number=1):
        for _ in range(number):
            n = len(self.rows) + 1
            self.rows.append(OutboxRow(n, END_POINT, body(n)))

    async def fetch(self, after, limit):
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise StorageError("cannot read")
        return [row for row in self.rows if row.id > after][:limit]


class Sink:
    """Takes uplinks; raises first whatever it is told to."""

    def __init__(self, *failures):
        self.failures = [*failures]
        self.seen: list[tuple[float, int]] = []
        self.counters: list[int] = []

    async def __call__(self, uplink):
        await trio.lowlevel.checkpoint()
        self.seen.append((trio.current_time(), uplink.packet_cnt))
        if self.failures:
            raise self.failures.pop(0)
        self.counters.append(uplink.packet_cnt)


async def join(nursery, own, outbox):
    link = SinkLink(own, fetch=outbox.fetch, taken=outbox.taken.append)
    await nursery.start(link.run)
    return link


async def test_what_waits_comes_in_order_and_what_is_added_follows(nursery, autojump_clock):
    own, outbox = Sink(), Outbox(sink.BATCH + 50)
    link = await join(nursery, own, outbox)
    await link.wait_drained()
    assert outbox.taken == own.counters == list(range(1, sink.BATCH + 51))
    outbox.add(2)
    link.wake()
    await link.wait_drained()
    assert outbox.taken[-2:] == own.counters[-2:] == [sink.BATCH + 51, sink.BATCH + 52]


async def test_an_uplink_counts_as_taken_only_when_the_sink_has_returned(nursery, autojump_clock):
    outbox, may_return = Outbox(2), trio.Event()

    async def slow(_uplink):
        await may_return.wait()

    link = await join(nursery, slow, outbox)
    await trio.testing.wait_all_tasks_blocked()
    assert outbox.taken == []
    may_return.set()
    await link.wait_drained()
    assert outbox.taken == [1, 2]


async def test_what_raises_gets_the_same_uplink_again_with_growing_pauses(nursery, autojump_clock):
    own, outbox = Sink(*[OSError(28, "full") for _ in range(7)]), Outbox(2)
    await join(nursery, own, outbox)
    await trio.sleep(1000)
    assert own.seen == [(at, 1) for at in (0, 1, 3, 7, 15, 31, 61, 91)] + [(91, 2)]
    assert outbox.taken == [1, 2]


async def test_each_kind_of_failure_is_told_once_and_when_it_is_over(
    nursery, autojump_clock, caplog
):
    caplog.set_level(logging.INFO)
    own = Sink(OSError(28, "full"), OSError(28, "full"), OSError(5, "broken"), ValueError("ours"))
    await join(nursery, own, Outbox(1))
    await trio.sleep(1000)
    lines = [(r.levelname, r.getMessage(), bool(r.exc_info)) for r in caplog.records]
    assert lines == [
        (
            "WARNING",
            "the uplink sink fails, uplinks wait for it: OSError: [Errno 28] full",
            False,
        ),
        (
            "WARNING",
            "the uplink sink fails, uplinks wait for it: OSError: [Errno 5] broken",
            False,
        ),
        ("WARNING", "the uplink sink fails, uplinks wait for it: ValueError: ours", True),
        ("INFO", "the uplink sink works again", False),
    ]


async def test_a_sink_that_fails_now_and_again_is_told_of_once(nursery, autojump_clock, caplog):
    caplog.set_level(logging.INFO)
    outbox = Outbox(20)

    class Flaky(Sink):
        async def __call__(self, uplink):
            if len(self.seen) % 2 == 0:
                self.failures.append(ValueError())
            await super().__call__(uplink)

    link = await join(nursery, flaky := Flaky(), outbox)
    await trio.sleep(100)
    assert flaky.counters == list(range(1, 21))
    assert [r.getMessage() for r in caplog.records] == [
        "the uplink sink fails, uplinks wait for it: ValueError",
        "the uplink sink works again",
    ]
    await trio.sleep(sink.QUIET)
    outbox.add()
    link.wake()
    await trio.sleep(100)
    assert len(caplog.records) == 4


async def test_kinds_without_end_are_not_remembered_without_end(
    nursery, autojump_clock, monkeypatch, caplog
):
    monkeypatch.setattr(sink, "MAX_KINDS", 3)
    await join(nursery, Sink(*[OSError(number, "odd") for number in range(1, 9)]), Outbox(1))
    await trio.sleep(1000)
    assert caplog.text.count("uplinks wait for it") == 8


async def test_an_outbox_that_cannot_be_read_is_asked_again(nursery, autojump_clock, caplog):
    own, outbox = Sink(), Outbox(1)
    outbox.failures = 3
    await join(nursery, own, outbox)
    await trio.sleep(100)
    assert own.seen == [(7, 1)]
    assert caplog.text.count("the outbox fails, uplinks wait for it: StorageError: cannot") == 1


async def test_a_row_that_cannot_be_read_stands_in_no_ones_way(nursery, autojump_clock, caplog):
    own, outbox = Sink(), Outbox(3)
    outbox.rows[1] = OutboxRow(2, END_POINT, "{}")
    link = await join(nursery, own, outbox)
    await link.wait_drained()
    assert (own.counters, outbox.taken) == ([1, 3], [1, 2, 3])
    assert "outbox row 2 is left out for the uplink sink: no uplink" in caplog.text


async def test_what_is_no_uplink_is_for_mqtt_alone(nursery, autojump_clock, caplog):
    own, outbox = Sink(), Outbox(3)
    outbox.rows[1] = OutboxRow(2, NORTH, '{"macType":1}', "vm")
    link = await join(nursery, own, outbox)
    await link.wait_drained()
    assert (own.counters, outbox.taken) == ([1, 3], [1, 2, 3])
    assert caplog.text == ""


async def test_who_waits_for_the_end_does_not_wait_for_a_sink_that_fails(nursery, autojump_clock):
    outbox = Outbox(1)
    link = await join(nursery, Sink(ValueError()), outbox)
    await link.wait_drained()
    assert outbox.taken == []
    await trio.sleep(1.5)
    await link.wait_drained()
    assert outbox.taken == [1]


async def test_what_comes_while_the_outbox_is_asked_is_not_overlooked(nursery):
    class Late(Outbox):
        async def fetch(self, after, limit):
            rows = await super().fetch(after, limit)
            if not self.rows:
                self.add()
                link.wake()
            return rows

    own, outbox = Sink(), Late()
    link = SinkLink(own, fetch=outbox.fetch, taken=outbox.taken.append)
    await nursery.start(link.run)
    await link.wait_drained()
    assert own.counters == [1]


# --- broker and sink -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_broker", "has_sink", "told"),
    [
        (True, False, [[2], [1, 3]]),
        (False, True, [[1], [2], [3]]),
        (True, True, [[2], [1], [3]]),
    ],
)
def test_an_uplink_counts_as_published_when_all_there_are_have_it(has_broker, has_sink, told):
    seen = []
    receipts = Receipts(lambda rows: seen.append([*rows]), has_broker=has_broker, has_sink=has_sink)
    if has_broker:
        receipts.broker_has([2])
    if has_sink:
        receipts.sink_has(1)
        receipts.sink_has(2)
    if has_broker:
        receipts.broker_has([1, 3])
    if has_sink:
        receipts.sink_has(3)
    assert seen == told


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 30))))
def test_rows_are_a_set(steps):
    rows, known = sink._Rows(), set()
    for is_added, row in steps:
        if is_added:
            rows.add(row)
            known.add(row)
        else:
            assert rows.discard(row) == (row in known)
            known.discard(row)
        gaps = sum(row + 1 not in known for row in known)
        assert len(rows) == gaps
    assert [row for row in range(32) if rows.discard(row)] == sorted(known)


def test_a_million_rows_in_a_row_are_one_run():
    rows = sink._Rows()
    for row in range(1_000_000):
        rows.add(row)
    assert len(rows) == 1
