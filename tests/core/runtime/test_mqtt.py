"""The broker link against a fake that misbehaves, and against a real mosquitto."""

from __future__ import annotations

import logging
import socket
import ssl
from collections import defaultdict
from functools import partial
from signal import SIGCONT, SIGSTOP
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from bssci.core.protocol.errors import StorageError
from bssci.core.runtime import mqtt
from bssci.core.runtime.mqtt import (
    ACK_TIMEOUT,
    FAREWELL_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    MAX_PACKET,
    MAX_WAITING,
    BrokerLink,
    BrokerSettings,
    Outgoing,
    open_broker_stream,
)
from tests.broker import MOSQUITTO, Mosquitto, free_port
from tests.fakes_mqtt import PINGRESP, PUBLISH, FakeBroker, Hello, Message, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from paho.mqtt.enums import MQTTErrorCode

WILL = ("mioty/state", b'{"state":"offline"}')
PATIENCE = 1000.0  # seconds, mostly of a clock that jumps
ONLINE = ("mioty/state", b'{"state":"online"}', True)
OFFLINE_MESSAGE = Message(*WILL, retain=True)
ONLINE_MESSAGE = Message(*ONLINE[:2], retain=True)


class Outbox:
    """Uplinks as the store holds them; forgets what is published once it is `committed`."""

    def __init__(self, count: int = 0, *, topics: int = 3) -> None:
        self.rows: list[Outgoing] = []
        self.published: list[int] = []
        self.marked: set[int] = set()
        self.commits = True
        self.failure: StorageError | None = None
        self.fetched: list[tuple[int, int]] = []
        self.most_unpublished = 0
        self._topics = topics
        self._changed = trio.Event()
        self.add(count)

    def add(self, count: int) -> None:
        for row in range(len(self.rows) + 1, len(self.rows) + count + 1):
            topic = f"mioty/ep/{row % self._topics:016X}/ul"
            self.rows.append(Outgoing(row, topic, b'{"id":%d}' % row))

    async def fetch(self, after: int, limit: int) -> list[Outgoing]:
        await trio.lowlevel.checkpoint()
        self.fetched.append((after, limit))
        if self.failure is not None:
            raise self.failure
        rows = [row for row in self.rows[after:] if row.row not in self.marked][:limit]
        if rows:
            self.most_unpublished = max(self.most_unpublished, rows[-1].row - len(self.published))
        return rows

    def take(self, rows) -> None:
        self.published += rows
        if self.commits:
            self.marked.update(rows)
        self._changed.set()
        self._changed = trio.Event()

    async def wait_until_published(self, count: int) -> None:
        with trio.fail_after(PATIENCE):
            while len(self.published) < count:
                await self._changed.wait()

    def messages(self, *rows: int) -> list[Message]:
        return [Message(self.rows[row - 1].topic, self.rows[row - 1].body) for row in rows]


def make_link(
    outbox: Outbox,
    broker: FakeBroker | None = None,
    *,
    will: Callable[[], tuple[str, bytes]] = lambda: WILL,
    announce: Callable[[], Iterable[tuple[str, bytes, bool]]] = lambda: [ONLINE],
    subscriptions: Sequence[str] = (),
    on_message: Callable[[str, bytes, bool], None] | None = None,
    published: Callable[[Sequence[int]], None] | None = None,
    connect: Callable[[BrokerSettings], Awaitable[trio.abc.Stream]] | None = None,
    **settings: Any,
) -> BrokerLink:
    """A link with what the test does not care about filled in."""
    settings.setdefault("client_id", "bssci-test")
    settings.setdefault("reconnect_max", 5.0)
    if connect is None:
        connect = broker.connect if broker is not None else open_broker_stream
    return BrokerLink(
        BrokerSettings(**settings),
        will=will,
        announce=announce,
        fetch=outbox.fetch,
        published=published or outbox.take,
        subscriptions=subscriptions,
        on_message=on_message,
        connect=connect,
    )


async def until(condition) -> None:
    """Wait for something that only the real world can bring about."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - nothing tells us when it happens
            await trio.sleep(0.01)


@pytest.fixture
async def broker(nursery):
    return FakeBroker(nursery)


def warnings_in(caplog) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


# --- what travels -------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_the_outbox_is_published_in_row_order_after_the_announcements(
    nursery, autojump_clock, broker, qos
):
    outbox = Outbox(500)
    link = make_link(outbox, broker, qos=qos)
    await nursery.start(link.run)
    await outbox.wait_until_published(500)
    await broker.wait_until(lambda: len(broker.messages) == 501)
    assert broker.messages == [
        Message(*ONLINE[:2], qos=qos, retain=True),
        *(Message(row.topic, row.body, qos=qos) for row in outbox.rows),
    ]
    assert outbox.published == list(range(1, 501))
    assert (link.published, link.state, link.last_error) == (500, "online", None)


async def test_connect_carries_the_will_and_the_credentials(nursery, autojump_clock, broker):
    link = make_link(Outbox(), broker, username="sc", password="secret", keepalive=7)
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    hello = Hello("bssci-test", "sc", "secret", 7, OFFLINE_MESSAGE)
    assert broker.peers[0].hello == hello


async def test_a_client_id_that_is_not_given_stays_the_same_over_connections(
    nursery, autojump_clock, broker
):
    link = make_link(Outbox(), broker, client_id="")
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    await broker.drop(broker.peers[0])
    await broker.wait_until(lambda: len(broker.messages) == 2)
    first, second = (peer.hello for peer in broker.peers)
    assert first == second
    assert first.client_id.startswith("bssci-")


def test_the_password_is_not_in_the_settings_as_text():
    assert "secret" not in repr(BrokerSettings(password="secret"))


async def test_rows_added_later_are_published_when_the_link_is_woken(
    nursery, autojump_clock, broker
):
    outbox = Outbox()
    link = make_link(outbox, broker)
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    for _ in range(3):
        outbox.add(2)
        link.wake()
        link.wake()
        await outbox.wait_until_published(len(outbox.rows))
    assert broker.messages[1:] == outbox.messages(1, 2, 3, 4, 5, 6)


async def test_an_outbox_may_give_fewer_rows_than_asked_for(nursery, autojump_clock, broker):
    outbox = Outbox(50)
    fetch = outbox.fetch

    async def fetch_few(after, limit):
        return await fetch(after, min(limit, 3))

    outbox.fetch = fetch_few  # type: ignore[method-assign]
    await nursery.start(make_link(outbox, broker).run)
    await outbox.wait_until_published(50)
    assert outbox.published == list(range(1, 51))


async def test_an_idle_link_does_not_ask_the_outbox(nursery, autojump_clock, broker):
    outbox = Outbox()
    await nursery.start(make_link(outbox, broker).run)
    await trio.sleep(100)
    assert outbox.fetched == [(0, 200)]


async def test_acknowledgements_that_come_together_are_told_together(
    nursery, autojump_clock, broker
):
    outbox = Outbox(50)
    told: list[list[int]] = []
    broker.ack_delay = 1.0

    def published(rows) -> None:
        told.append(list(rows))
        outbox.take(rows)

    link = make_link(outbox, broker, published=published)
    await nursery.start(link.run)
    await outbox.wait_until_published(50)
    assert [row for rows in told for row in rows] == list(range(1, 51))
    assert len(told) < 10


async def test_messages_besides_uplinks_are_published_in_order(nursery, autojump_clock, broker):
    link = make_link(Outbox(), broker)
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    notes = [Message("mioty/health_check", b"%d" % n) for n in range(300)]
    for note in notes:
        link.publish(note.topic, note.body)
    await broker.wait_until(lambda: len(broker.messages) == 301)
    assert broker.messages[1:] == notes


async def test_a_topic_that_cannot_be_published_holds_up_nothing(
    nursery, autojump_clock, broker, caplog
):
    outbox = Outbox(3)
    outbox.rows[1] = Outgoing(2, "mioty/#", b"")
    link = make_link(outbox, broker, max_inflight=1)
    link.publish("mioty/+", b"")
    await nursery.start(link.run)
    await outbox.wait_until_published(2)
    assert outbox.published == [1, 3]
    assert [line for line in warnings_in(caplog) if "mioty/#" in line]


async def test_an_outbox_that_cannot_be_read_is_asked_again(
    nursery, autojump_clock, broker, caplog
):
    outbox = Outbox(5)
    outbox.failure = StorageError("disk I/O error")
    link = make_link(outbox, broker)
    await nursery.start(link.run)
    await trio.sleep(10)
    outbox.failure = None
    await outbox.wait_until_published(5)
    assert (len(broker.peers), outbox.published) == (1, [1, 2, 3, 4, 5])
    assert len(warnings_in(caplog)) == 1


# --- messages in --------------------------------------------------------------------------


async def test_messages_come_in_and_a_handler_that_fails_harms_only_one(
    nursery, autojump_clock, broker, caplog
):
    heard = []

    def on_message(topic, body, retained):
        heard.append((topic, body, retained))
        if body == b"bad":
            raise RuntimeError("cannot")

    link = make_link(Outbox(), broker, subscriptions=["a/+", "b"], on_message=on_message)
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.peers and len(broker.peers[0].subscriptions) == 2)
    peer = broker.peers[0]
    await broker.deliver(peer, Message("a/1", b"bad"), 1)
    await broker.deliver(peer, Message("b", b"good", qos=0, retain=True))
    await broker.deliver(peer, Message("a/2", b"good"), 2)
    await broker.send(peer, PUBLISH, b"\x00\x02\xff\xffx")
    await broker.wait_until(lambda: peer.acknowledged == [1, 2])
    assert heard == [("a/1", b"bad", False), ("b", b"good", True), ("a/2", b"good", False)]
    assert peer.subscriptions == ["a/+", "b"]
    assert (len(broker.peers), link.state) == (1, "online")
    assert "could not be handled" in warnings_in(caplog)[0]


async def test_messages_nobody_wants_are_acknowledged(nursery, autojump_clock, broker):
    await nursery.start(make_link(Outbox(), broker).run)
    await broker.wait_until(lambda: broker.messages)
    await broker.deliver(broker.peers[0], Message("a", b"x"), 9)
    await broker.wait_until(lambda: broker.peers[0].acknowledged == [9])


async def test_subscriptions_are_made_again_on_each_connection(nursery, autojump_clock, broker):
    await nursery.start(make_link(Outbox(), broker, subscriptions=["a/#"]).run)
    await broker.wait_until(lambda: broker.messages)
    await broker.drop(broker.peers[0])
    await broker.wait_until(lambda: len(broker.messages) == 2)
    assert [peer.subscriptions for peer in broker.peers] == [["a/#"], ["a/#"]]


async def test_a_refused_subscription_is_told(nursery, autojump_clock, broker, caplog):
    broker.refused_topics = {"b"}
    await nursery.start(make_link(Outbox(), broker, subscriptions=["a", "b"]).run)
    await trio.sleep(1)
    assert warnings_in(caplog) == ["mqtt: the broker refuses the subscription to b"]


@pytest.mark.parametrize("size", [MAX_PACKET + 1, 3 * MAX_PACKET])
async def test_a_message_that_is_too_long_is_acknowledged_and_left_out(
    nursery, autojump_clock, broker, size
):
    heard = []
    link = make_link(
        Outbox(), broker, subscriptions=["#"], on_message=lambda *args: heard.append(args)
    )
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    peer = broker.peers[0]
    await broker.deliver(peer, Message("a", bytes(size)), 5)
    await broker.deliver(peer, Message("a", bytes(size), qos=0))
    await broker.deliver(peer, Message("b", b"x"), 6)
    await broker.wait_until(lambda: len(peer.acknowledged) == 2)
    assert (heard, peer.acknowledged, len(broker.peers)) == ([("b", b"x", False)], [5, 6], 1)


async def test_a_message_that_is_too_long_may_come_in_small_pieces(nursery, autojump_clock, broker):
    await nursery.start(make_link(Outbox(), broker, subscriptions=["#"]).run)
    await broker.wait_until(lambda: broker.messages)
    packet = encode(PUBLISH, b"\x00\x03a/b\x00\x07" + bytes(MAX_PACKET), flags=2)
    async with broker.peers[0].sending:  # nothing may come between the pieces
        for piece in (packet[:3], packet[3:8], packet[8:11], packet[11:12], packet[12:]):
            await broker.peers[0].stream.send_all(piece)
            await trio.sleep(0.01)
    await broker.wait_until(lambda: broker.peers[0].acknowledged == [7])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_packets_that_arrive_in_pieces_are_the_same_packets(
    nursery, autojump_clock, broker, size
):
    heard = []
    link = make_link(
        Outbox(), broker, subscriptions=["#"], on_message=lambda *args: heard.append(args)
    )
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    packet = encode(PUBLISH, b"\x00\x03a/b\x00\x07" + bytes(200), flags=2) * 2
    async with broker.peers[0].sending:  # nothing may come between the pieces
        for start in range(0, len(packet), size):
            await broker.peers[0].stream.send_all(packet[start : start + size])
            await trio.sleep(0.01)
    await broker.wait_until(lambda: len(broker.peers[0].acknowledged) == 2)
    assert heard == [("a/b", bytes(200), False)] * 2


# --- when the broker misbehaves -----------------------------------------------------------


async def test_what_was_not_acknowledged_goes_first_again_and_nothing_else_twice(
    nursery, autojump_clock, broker
):
    outbox = Outbox(100)
    outbox.commits = False  # what is told as published may not be on disk yet
    broker.drop_after = 11
    link = make_link(outbox, broker, max_inflight=4)
    await nursery.start(link.run)
    await outbox.wait_until_published(100)
    assert outbox.published == list(range(1, 101))
    seen: list[int] = []
    for peer in broker.peers:
        rows = [int(each.body[6:-1]) for each in peer.messages[1:]]
        assert rows == list(range(rows[0], rows[0] + len(rows)))
        assert not seen or seen[-1] - 4 < rows[0] <= seen[-1] + 1
        seen += rows
    assert link.reconnects == len(broker.peers) - 1


async def test_what_was_acknowledged_out_of_order_is_not_sent_again(
    nursery, autojump_clock, broker
):
    outbox = Outbox(8)
    outbox.commits = False
    broker.ignores = {outbox.rows[2].body, outbox.rows[5].body}
    await nursery.start(make_link(outbox, broker, max_inflight=20).run)
    await outbox.wait_until_published(6)
    broker.ignores = set()
    outbox.add(1)
    await outbox.wait_until_published(9)
    assert outbox.published == [1, 2, 4, 5, 7, 8, 3, 6, 9]
    assert broker.peers[1].messages[1:] == outbox.messages(3, 6, 9)


async def test_the_state_is_announced_on_each_connection_as_it_is_then(
    nursery, autojump_clock, broker
):
    states = iter([[ONLINE], [ONLINE, ("mioty/bs/1/state", b"offline", True)]])
    await nursery.start(make_link(Outbox(), broker, announce=lambda: next(states)).run)
    await broker.wait_until(lambda: broker.messages)
    await broker.drop(broker.peers[0])
    await broker.wait_until(lambda: len(broker.messages) == 3)
    station = Message("mioty/bs/1/state", b"offline", retain=True)
    assert [peer.messages for peer in broker.peers] == [
        [ONLINE_MESSAGE],
        [ONLINE_MESSAGE, station],
    ]


async def test_a_broker_that_never_acknowledges_gets_one_window_and_is_left(
    nursery, autojump_clock, broker, caplog
):
    outbox = Outbox(1000)
    broker.acknowledges = False
    link = make_link(outbox, broker, max_inflight=50)
    await nursery.start(link.run)
    await broker.wait_until(lambda: len(broker.peers) == 3)
    assert ACK_TIMEOUT * 2 < trio.current_time() < ACK_TIMEOUT * 2 + 20
    assert outbox.most_unpublished == 50
    assert broker.peers[0].messages == broker.peers[1].messages
    assert all(f"no acknowledgement within {ACK_TIMEOUT:.0f} s" in x for x in warnings_in(caplog))
    broker.acknowledges = True
    await outbox.wait_until_published(1000)
    assert outbox.published == list(range(1, 1001))


async def test_late_acknowledgements_are_waited_for(nursery, autojump_clock, broker):
    outbox = Outbox(60)
    broker.ack_delay = ACK_TIMEOUT - 5
    link = make_link(outbox, broker, max_inflight=20)
    await nursery.start(link.run)
    await outbox.wait_until_published(60)
    assert (len(broker.peers), outbox.most_unpublished) == (1, 20)


async def test_a_broker_that_never_answers_connect_is_tried_again(
    nursery, autojump_clock, broker, caplog
):
    broker.answers = False
    link = make_link(Outbox(), broker)
    await nursery.start(link.run)
    await trio.sleep(HANDSHAKE_TIMEOUT * 10)
    assert 7 <= broker.attempts <= 10
    assert (link.state, link.last_error) == ("offline", "no connection within 20 s")
    assert len(warnings_in(caplog)) == 1
    broker.answers = True
    await broker.wait_until(lambda: broker.messages)
    assert (link.state, link.last_error, link.reconnects) == ("online", None, 0)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (1, "does not speak MQTT 3.1.1"),
        (2, "Client identifier not valid"),
        (3, "Server unavailable"),
        (4, "Bad user name or password"),
        (5, "Not authorized"),
    ],
)
async def test_a_refusal_is_told_once_in_words_and_tried_again(
    nursery, autojump_clock, broker, caplog, refusal, words
):
    broker.refusal = refusal
    link = make_link(Outbox(), broker)
    await nursery.start(link.run)
    await trio.sleep(60)
    assert broker.attempts > 5
    (line,) = warnings_in(caplog)
    assert words in line
    broker.refusal = 0
    await broker.wait_until(lambda: broker.messages)


@pytest.mark.parametrize(
    ("garbage", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100), "does not speak MQTT 3.1.1"),
        (b"\x30\xff\xff\xff\xff\x01", "a length of more than four bytes"),
        (b"\x90\xff\xff\xff\x7f" + bytes(100_000), "a packet of 268435455 bytes"),
        (b"\x40\x01\x00", "does not speak MQTT 3.1.1"),
        (b"\x30\x02\xff\xff", "does not speak MQTT 3.1.1"),
        (b"\x36\x04\x00\x01ab", "does not speak MQTT 3.1.1"),
        (b"\x20\x02\x00\x05", "refuses the connection: Not authorized"),
        (b"\x20\x02\x00\x63", "refuses the connection: Unspecified error"),
        (b"\xf0\x00", "does not speak MQTT 3.1.1"),
    ],
)
async def test_what_is_no_mqtt_ends_the_connection_and_not_the_link(
    nursery, autojump_clock, broker, caplog, garbage, words
):
    outbox = Outbox()
    link = make_link(outbox, broker)
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    await broker.send_raw(broker.peers[0], garbage)
    await broker.wait_until(lambda: len(broker.peers) == 2)
    assert any(words in line for line in warnings_in(caplog)), warnings_in(caplog)
    outbox.add(1)
    link.wake()
    await outbox.wait_until_published(1)


async def test_an_answer_to_a_ping_nobody_sent_is_harmless(nursery, autojump_clock, broker):
    outbox = Outbox()
    link = make_link(outbox, broker)
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    await broker.send(broker.peers[0], PINGRESP, b"")
    outbox.add(1)
    link.wake()
    await outbox.wait_until_published(1)
    assert len(broker.peers) == 1


async def test_a_broker_that_does_not_read_is_left(nursery, autojump_clock, broker):
    broker.reads = False
    link = make_link(Outbox(), broker)
    await nursery.start(link.run)
    await trio.sleep(HANDSHAKE_TIMEOUT * 5)
    assert broker.attempts >= 3


@pytest.mark.parametrize("what", ["will", "announce", "fetch"])
async def test_a_fault_of_ours_is_logged_and_the_link_lives_on(
    nursery, autojump_clock, broker, caplog, what
):
    failures = iter([True])

    def fail() -> None:
        if next(failures, None):
            raise KeyError(what)

    def will():
        if what == "will":
            fail()
        return WILL

    def announce():
        if what == "announce":
            fail()
        return [ONLINE]

    outbox = Outbox(3)
    link = make_link(
        outbox,
        broker,
        will=will,
        announce=announce,
    )
    if what == "fetch":
        outbox.failure = KeyError(what)  # type: ignore[assignment]
        nursery.start_soon(heal, outbox)
    await nursery.start(link.run)
    await outbox.wait_until_published(3)
    assert any(f"a fault of ours: KeyError('{what}')" in line for line in warnings_in(caplog))


async def heal(outbox: Outbox) -> None:
    await trio.sleep(0.1)
    outbox.failure = None


async def test_attempts_are_spread_and_never_further_apart_than_reconnect_max(
    nursery, autojump_clock, broker, caplog
):
    broker.unreachable = OSError(113, "No route to host")
    link = make_link(Outbox(), broker, reconnect_max=20.0)
    await nursery.start(link.run)
    await trio.sleep(1000)
    assert 50 <= broker.attempts <= 105
    assert warnings_in(caplog) == [
        "mqtt: no connection to the broker localhost:1883: No route to host"
    ]


async def test_two_hundred_different_reasons_are_not_all_remembered(
    nursery, autojump_clock, broker, caplog
):
    broker.unreachable = OSError("away")
    link = make_link(Outbox(), broker)
    await nursery.start(link.run)
    for number in range(200):
        reason = f"TLS fails: strange {number}"
        broker.unreachable = trio.BrokenResourceError()
        broker.unreachable.__cause__ = ssl.SSLError(1, f"strange {number}")
        with trio.fail_after(100):
            while link.last_error != reason:  # noqa: ASYNC110 - virtual time
                await trio.sleep(1)
    assert 200 <= len(warnings_in(caplog)) <= 201
    assert len(link._told) <= mqtt.MAX_REASONS


async def test_a_parser_that_stumbles_ends_the_connection_and_not_the_link(
    nursery, autojump_clock, broker, monkeypatch
):
    outbox, errors = Outbox(), [ZeroDivisionError("in paho")]
    link = make_link(outbox, broker)
    await nursery.start(link.run)
    await broker.wait_until(lambda: broker.messages)
    loop_read = mqtt._Client.loop_read

    def stumble(client: mqtt._Client) -> MQTTErrorCode:
        if errors:
            raise errors.pop()
        return loop_read(client)

    monkeypatch.setattr(mqtt._Client, "loop_read", stumble)
    outbox.add(1)
    link.wake()
    await outbox.wait_until_published(1)
    assert len(broker.peers) == 2


async def test_a_broker_that_drops_everybody_at_once_is_not_hammered(
    nursery, autojump_clock, broker
):
    broker.drop_after = 1
    await nursery.start(make_link(Outbox(), broker).run)
    await trio.sleep(100)
    assert broker.attempts < 50


# --- messages besides uplinks, while the broker is away -----------------------------------


async def test_messages_wait_for_the_broker_and_the_oldest_fall_out(
    nursery, autojump_clock, broker
):
    link = make_link(Outbox(), broker)
    for number in range(MAX_WAITING + 5):
        link.publish("mioty/x", b"%d" % number)
    assert link.dropped == 5
    await nursery.start(link.run)
    await broker.wait_until(lambda: len(broker.messages) == MAX_WAITING + 1)
    assert [each.body for each in broker.messages[1:]] == [
        b"%d" % number for number in range(5, MAX_WAITING + 5)
    ]


async def test_of_retained_messages_only_the_newest_of_a_topic_waits(
    nursery, autojump_clock, broker
):
    link = make_link(Outbox(), broker)
    link.publish("mioty/bs/1/state", b"online", retain=True)
    link.publish("mioty/bs/2/state", b"online", retain=True)
    link.publish("mioty/bs/1/state", b"offline", retain=True)
    await nursery.start(link.run)
    await broker.wait_until(lambda: len(broker.messages) == 3)
    assert broker.messages[1:] == [
        Message("mioty/bs/2/state", b"online", retain=True),
        Message("mioty/bs/1/state", b"offline", retain=True),
    ]
    assert link.dropped == 0


async def test_messages_lost_with_a_connection_are_sent_again_in_order(
    nursery, autojump_clock, broker
):
    broker.drop_after = 4
    link = make_link(Outbox(), broker)
    await nursery.start(link.run)
    for number in range(5):
        link.publish("mioty/x", b"%d" % number)
    link.publish("mioty/y", b"old", retain=True)
    await broker.wait_until(lambda: len(broker.peers) == 1 and len(broker.messages) == 4)
    broker.drop_after = None
    link.publish("mioty/y", b"new", retain=True)
    await broker.wait_until(lambda: any(each.body == b"new" for each in broker.messages))
    bodies = [each.body for each in broker.peers[1].messages[1:]]
    assert bodies[-3:] == [b"3", b"4", b"new"]
    assert bodies == sorted(bodies)


# --- the end ------------------------------------------------------------------------------


async def stop(link: BrokerLink, ready) -> float:
    """Run the link, cancel it when `ready()` returned; give the seconds it took to stop."""
    async with trio.open_nursery() as nursery:
        await nursery.start(link.run)
        await ready()
        begun = trio.current_time()
        nursery.cancel_scope.cancel()
    return trio.current_time() - begun


async def test_a_stopped_link_waits_for_acknowledgements_then_says_farewell(autojump_clock, broker):
    outbox = Outbox(30)
    broker.ack_delay = 0.5
    link = make_link(outbox, broker, max_inflight=10)

    async def ready():
        await broker.wait_until(lambda: len(broker.messages) == 11)
        link.publish("mioty/bs/1/state", b"offline", retain=True)

    assert await stop(link, ready) < FAREWELL_TIMEOUT
    assert outbox.published == list(range(1, 11))
    assert broker.messages[11:] == [
        Message("mioty/bs/1/state", b"offline", retain=True),
        OFFLINE_MESSAGE,
    ]
    assert broker.peers[0].is_done
    assert link.state == "offline"


@pytest.mark.parametrize("state", ["no acks", "no connack", "unreachable"])
async def test_it_stops_in_time_whatever_the_broker_does(autojump_clock, broker, state):
    broker.acknowledges = state != "no acks"
    broker.answers = state != "no connack"
    broker.unreachable = OSError("away") if state == "unreachable" else None

    async def ready():
        await trio.sleep(10)

    assert await stop(make_link(Outbox(10), broker), ready) <= FAREWELL_TIMEOUT


async def test_a_link_that_stops_while_reading_the_outbox_publishes_no_more(autojump_clock, broker):
    outbox = Outbox(5)
    reading = trio.Event()
    fetch = outbox.fetch

    async def slow(after, limit):
        reading.set()
        await trio.sleep(1)
        return await fetch(after, limit)

    outbox.fetch = slow  # type: ignore[method-assign]
    link = make_link(outbox, broker)
    assert await stop(link, reading.wait) <= FAREWELL_TIMEOUT
    assert broker.messages == [ONLINE_MESSAGE, OFFLINE_MESSAGE]


# --- a real broker ------------------------------------------------------------------------

real = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


@pytest.fixture
def mosquitto(tmp_path):
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.kill()


class Listener:
    """A subscriber to everything below mioty/; itself a link, with nothing to publish."""

    def __init__(self, port: int, **settings: Any) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self._changed = trio.Event()
        settings.setdefault("client_id", "listener")
        self.link = real_link(
            Outbox(),
            port,
            subscriptions=["mioty/#"],
            on_message=self._hear,
            announce=lambda: [("mioty/listener", b"", False)],
            will=lambda: ("listener", b""),
            **settings,
        )

    def _hear(self, *message) -> None:
        self.heard.append(message)
        self._changed.set()
        self._changed = trio.Event()

    async def wait_until(self, condition) -> None:
        with trio.fail_after(20):
            while not condition():
                await self._changed.wait()

    async def start(self, nursery) -> None:
        """Run it; it hears its own announcement once it is subscribed."""
        await nursery.start(self.link.run)
        await self.wait_until(lambda: self.heard)
        self.heard.clear()

    def is_back(self, count: int) -> bool:
        """It was subscribed again after it had heard `count` messages."""
        return any(topic == "mioty/listener" for topic, _, _ in self.heard[count:])

    def bodies(self, ending: str) -> list[bytes]:
        return [body for topic, body, _ in self.heard if topic.endswith(ending)]


def real_link(outbox: Outbox, port: int, **changes: Any) -> BrokerLink:
    changes.setdefault("reconnect_max", 0.2)
    return make_link(outbox, host="127.0.0.1", port=port, **changes)


class TestMosquitto:
    pytestmark = real

    @pytest.mark.parametrize("qos", [0, 1, 2])
    async def test_publishes_in_order(self, nursery, mosquitto, qos):
        listener, outbox = Listener(mosquitto.port), Outbox(2000)
        await listener.start(nursery)
        await nursery.start(real_link(outbox, mosquitto.port, qos=qos).run)
        await listener.wait_until(lambda: len(listener.bodies("/ul")) == 2000)
        assert listener.bodies("/ul") == [row.body for row in outbox.rows]
        assert listener.bodies("/state") == [ONLINE[1]]

    async def test_a_broker_killed_and_returned_gets_every_uplink_in_order(
        self, nursery, mosquitto
    ):
        listener, outbox = Listener(mosquitto.port), Outbox(topics=7)
        outbox.commits = False
        gate = trio.Event()

        async def connect(settings):
            await gate.wait()  # the listener must be back first, or it would miss messages
            return await open_broker_stream(settings)

        link = real_link(outbox, mosquitto.port, connect=connect)

        async def make_uplinks():
            while len(outbox.rows) < 6000:
                outbox.add(10)
                link.wake()
                await trio.sleep(0.002)

        await listener.start(nursery)
        gate.set()
        await nursery.start(link.run)
        nursery.start_soon(make_uplinks)
        for goal in (1000, 3000):
            with trio.fail_after(20):
                await outbox.wait_until_published(goal)
            gate = trio.Event()
            mosquitto.kill()
            before = len(listener.heard)
            await trio.sleep(0.1)
            await trio.to_thread.run_sync(mosquitto.start)
            await listener.wait_until(partial(listener.is_back, before))
            gate.set()
        with trio.fail_after(20):
            await outbox.wait_until_published(6000)
        await listener.wait_until(lambda: outbox.rows[-1].body in listener.bodies("/ul"))
        assert outbox.published == list(range(1, 6001))
        heard = listener.bodies("/ul")
        assert set(heard) == {row.body for row in outbox.rows}
        assert len(heard) - 6000 <= 2 * 200
        first_heard = list(dict.fromkeys(heard))
        per_topic: defaultdict[str, list[bytes]] = defaultdict(list)
        for topic, body, _ in listener.heard:
            if topic.endswith("/ul") and body not in per_topic[topic]:
                per_topic[topic].append(body)
        assert per_topic == {
            topic: [row.body for row in outbox.rows if row.topic == topic] for topic in per_topic
        }
        assert first_heard == [row.body for row in outbox.rows]
        assert link.reconnects == 2

    async def test_the_will_is_published_when_the_socket_dies_and_the_farewell_in_order(
        self, nursery, mosquitto
    ):
        listener = Listener(mosquitto.port)
        await listener.start(nursery)
        streams: list[trio.SocketStream] = []

        async def connect(settings):
            stream = await open_broker_stream(settings)
            assert isinstance(stream, trio.SocketStream)
            streams.append(stream)
            return stream

        will = ("mioty/state", b"vanished")
        said = [will]
        link = real_link(Outbox(), mosquitto.port, connect=connect, will=lambda: said[-1])
        async with trio.open_nursery() as inner:
            await inner.start(link.run)
            await listener.wait_until(lambda: listener.bodies("/state") == [ONLINE[1]])
            streams[0].socket.shutdown(socket.SHUT_RDWR)
            await listener.wait_until(lambda: len(listener.bodies("/state")) == 3)
            said.append(("mioty/state", b"farewell"))
            inner.cancel_scope.cancel()
        await listener.wait_until(lambda: len(listener.bodies("/state")) == 4)
        assert listener.bodies("/state") == [ONLINE[1], b"vanished", ONLINE[1], b"farewell"]
        late = Listener(mosquitto.port, client_id="late")
        await nursery.start(late.link.run)
        await late.wait_until(lambda: late.bodies("/state"))
        assert ("mioty/state", b"farewell", True) in late.heard

    async def test_a_frozen_broker_is_noticed_by_its_silence_and_waited_for(
        self, nursery, mosquitto, monkeypatch
    ):
        monkeypatch.setattr(mqtt, "TICK", 0.1)
        link = real_link(outbox := Outbox(), mosquitto.port, keepalive=1)
        await nursery.start(link.run)
        listener = Listener(mosquitto.port)
        await listener.start(nursery)
        mosquitto.signal(SIGSTOP)
        await until(lambda: link.state == "offline")
        assert link.last_error == "the broker does not answer pings"
        mosquitto.signal(SIGCONT)
        outbox.add(1)
        link.wake()
        with trio.fail_after(20):
            await outbox.wait_until_published(1)

    async def test_it_stops_in_time_when_the_broker_is_frozen(self, mosquitto):
        outbox = Outbox()
        link = real_link(outbox, mosquitto.port)

        async def ready():
            await until(lambda: link.state == "online")
            mosquitto.signal(SIGSTOP)
            outbox.add(20_000)
            link.wake()
            await trio.sleep(0.1)

        assert await stop(link, ready) < FAREWELL_TIMEOUT + 1
        mosquitto.signal(SIGCONT)

    async def test_a_wrong_password_is_told_and_the_right_one_works(
        self, nursery, tmp_path, caplog
    ):
        (tmp_path / "users").write_text("")
        await trio.run_process(["mosquitto_passwd", "-b", tmp_path / "users", "sc", "right"])
        (tmp_path / "users").chmod(0o644)
        broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path}/users")
        broker.start()
        try:
            wrong = real_link(Outbox(), broker.port, username="sc", password="wrong")
            right = real_link(outbox := Outbox(3), broker.port, username="sc", password="right")
            await nursery.start(wrong.run)
            await nursery.start(right.run)
            await until(lambda: len(outbox.published) == 3 and wrong.last_error)
            assert wrong.last_error == "the broker refuses the connection: Not authorized"
            assert not any("wrong" in line for line in warnings_in(caplog))
        finally:
            broker.kill()

    async def test_tls_is_verified(self, nursery, tmp_path):
        ca = trustme.CA()
        certificate = ca.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
        broker = Mosquitto(
            tmp_path,
            "allow_anonymous true",
            f"certfile {tmp_path}/cert.pem",
            f"keyfile {tmp_path}/key.pem",
        )
        broker.start()
        trusting = ssl.create_default_context()
        ca.configure_trust(trusting)
        try:
            good = real_link(outbox := Outbox(3000), broker.port, tls=trusting)
            bad = real_link(Outbox(), broker.port, tls=ssl.create_default_context())
            plain = real_link(Outbox(), broker.port)
            for link in (good, bad, plain):
                await nursery.start(link.run)
            await until(
                lambda: len(outbox.published) == 3000 and bad.last_error and plain.last_error
            )
        finally:
            broker.kill()
        assert outbox.published == list(range(1, 3001))
        assert bad.last_error == (
            "the broker's certificate is not accepted: unable to get local issuer certificate"
        )
        assert (bad.state, plain.state) == ("offline", "offline")


async def test_a_name_that_cannot_be_found_and_a_port_nobody_listens_on_are_told(nursery):
    nowhere = make_link(Outbox(), host="no-such-broker.invalid", reconnect_max=0.2)
    closed = make_link(Outbox(), host="127.0.0.1", port=free_port(), reconnect_max=0.2)
    await nursery.start(nowhere.run)
    await nursery.start(closed.run)
    await until(lambda: nowhere.last_error and closed.last_error)
    assert closed.last_error == "Connection refused"
    assert nowhere.last_error != "Connection refused"
