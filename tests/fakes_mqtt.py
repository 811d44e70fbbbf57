"""A broker that behaves, or misbehaves as told: enough MQTT 3.1.1 over a trio stream."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

import trio
import trio.testing

PATIENCE = 1000.0  # seconds, mostly of a clock that jumps

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 12, 13, 14


@dataclass(frozen=True)
class Message:
    """What was published."""

    topic: str
    body: bytes
    qos: int = 1
    retain: bool = False


@dataclass(frozen=True)
class Hello:
    """What a CONNECT said."""

    client_id: str
    username: str | None = None
    password: str | None = None
    keepalive: int = 60
    will: Message | None = None


@dataclass(eq=False)
class Peer:
    """One connection, as the broker sees it."""

    stream: trio.abc.Stream
    hello: Hello | None = None
    messages: list[Message] = field(default_factory=list)
    subscriptions: list[str] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    """Packet identifiers of our messages that the client acknowledged."""
    is_done: bool = False
    """It said DISCONNECT."""
    sending: trio.Lock = field(default_factory=trio.Lock)
    answers: deque[tuple[float, int, bytes]] = field(default_factory=deque)
    answer_due: trio.Event = field(default_factory=trio.Event)


class FakeBroker:
    """Give `connect` to a `BrokerLink`; what it then does is what the attributes say.

    Attributes:
        unreachable: raised instead of connecting.
        answers: False: takes CONNECT and says nothing.
        refusal: CONNACK code; 0 accepts.
        acknowledges: False: takes messages and says nothing.
        reads: False: takes no byte (its buffer holds a few).
        ignores: bodies of messages that it never acknowledges.
        ack_delay: seconds between a message and its acknowledgement.
        drop_after: ends a connection after so many messages, the last one not acknowledged.
        refused_topics: subscriptions that get 0x80.
        peers: every connection there was; `messages`: all that was published, in order.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._heard = trio.Event()
        self.unreachable: Exception | None = None
        self.answers = True
        self.refusal = 0
        self.acknowledges = True
        self.reads = True
        self.ignores: set[bytes] = set()
        self.ack_delay = 0.0
        self.drop_after: int | None = None
        self.refused_topics: set[str] = set()
        self.attempts = 0
        self.peers: list[Peer] = []
        self.messages: list[Message] = []

    async def connect(self, _settings: object) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.attempts += 1
        if self.unreachable is not None:
            raise self.unreachable
        ours, theirs = self._pair()
        peer = Peer(ours)
        self.peers.append(peer)
        self._nursery.start_soon(self._serve, peer)
        self._nursery.start_soon(self._acknowledge, peer)
        return theirs

    def _pair(self) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        if self.reads:
            return trio.testing.memory_stream_pair()
        return trio.testing.lockstep_stream_pair()

    async def wait_until(self, condition):
        """Wait until `condition()` holds; looked at after every packet and acknowledgement."""
        with trio.fail_after(PATIENCE):
            while not condition():
                await self._heard.wait()

    async def drop(self, peer: Peer) -> None:
        """End the connection as a dying broker does."""
        await trio.aclose_forcefully(peer.stream)

    async def send(self, peer: Peer, kind: int, body: bytes, flags: int = 0) -> None:
        await self.send_raw(peer, encode(kind, body, flags))

    async def send_raw(self, peer: Peer, data: bytes) -> None:
        async with peer.sending:
            await peer.stream.send_all(data)

    async def deliver(self, peer: Peer, message: Message, mid: int = 1) -> None:
        topic = message.topic.encode()
        head = len(topic).to_bytes(2, "big") + topic
        head += mid.to_bytes(2, "big") if message.qos else b""
        await self.send(peer, PUBLISH, head + message.body, message.qos << 1 | message.retain)

    def _tell(self) -> None:
        self._heard.set()
        self._heard = trio.Event()

    async def _serve(self, peer: Peer) -> None:
        arrived = bytearray()
        try:
            if not self.reads:
                await trio.sleep_forever()
            while data := await peer.stream.receive_some():
                arrived += data
                while (packet := decode(arrived)) is not None:
                    await self._answer(peer, *packet)
                    self._tell()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await trio.aclose_forcefully(peer.stream)
        self._tell()

    async def _answer(self, peer: Peer, kind: int, flags: int, body: bytes) -> None:
        match kind:
            case 1 if self.answers:
                peer.hello = decode_hello(body)
                await self.send(peer, CONNACK, bytes([0, self.refusal]))
            case 3:
                await self._take(peer, *decode_message(flags, body))
            case 4:
                peer.acknowledged.append(int.from_bytes(body, "big"))
            case 6:
                await self.send(peer, PUBCOMP, body)
            case 8:
                topics = decode_topics(body)
                peer.subscriptions += topics
                codes = bytes(0x80 if topic in self.refused_topics else 1 for topic in topics)
                await self.send(peer, SUBACK, body[:2] + codes)
            case 12:
                await self.send(peer, PINGRESP, b"")
            case 14:
                peer.is_done = True
                await trio.aclose_forcefully(peer.stream)

    async def _take(self, peer: Peer, message: Message, mid: bytes) -> None:
        peer.messages.append(message)
        self.messages.append(message)
        if len(peer.messages) == self.drop_after:
            await self.drop(peer)
        elif self.acknowledges and message.qos and message.body not in self.ignores:
            kind = PUBACK if message.qos == 1 else PUBREC
            peer.answers.append((trio.current_time() + self.ack_delay, kind, mid))
            peer.answer_due.set()

    async def _acknowledge(self, peer: Peer) -> None:
        """Send acknowledgements in the order of the messages, each at its time."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await peer.answer_due.wait()
                due, kind, mid = peer.answers.popleft()
                if not peer.answers:
                    peer.answer_due = trio.Event()
                await trio.sleep_until(due)
                await self.send(peer, kind, mid)
                self._tell()


def encode(kind: int, body: bytes, flags: int = 0) -> bytes:
    length, digits = len(body), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([kind << 4 | flags]) + digits + body


def decode(arrived: bytearray) -> tuple[int, int, bytes] | None:
    """Cut the first packet off: kind, flags, body; None if it is not complete."""
    length = 0
    for count, digit in enumerate(arrived[1:5]):
        length |= (digit & 0x7F) << 7 * count
        if digit < 0x80:
            break
    else:
        return None
    start = 2 + count
    if len(arrived) < start + length:
        return None
    packet = arrived[0] >> 4, arrived[0] & 15, bytes(arrived[start : start + length])
    del arrived[: start + length]
    return packet


def _string(body: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(body[:2], "big")
    return body[2 : 2 + size], body[2 + size :]


def decode_hello(body: bytes) -> Hello:
    assert body[:7] == b"\x00\x04MQTT\x04", "this is MQTT 3.1.1"
    flags, keepalive = body[7], int.from_bytes(body[8:10], "big")
    assert flags & 0x02, "the session is clean"
    client_id, body = _string(body[10:])
    will = username = password = None
    if flags & 0x04:
        topic, body = _string(body)
        text, body = _string(body)
        will = Message(topic.decode(), text, flags >> 3 & 3, bool(flags & 0x20))
    if flags & 0x80:
        name, body = _string(body)
        username = name.decode()
    if flags & 0x40:
        secret, body = _string(body)
        password = secret.decode()
    return Hello(client_id.decode(), username, password, keepalive, will)


def decode_message(flags: int, body: bytes) -> tuple[Message, bytes]:
    topic, body = _string(body)
    qos = flags >> 1 & 3
    mid, body = (body[:2], body[2:]) if qos else (b"", body)
    return Message(topic.decode(), body, qos, bool(flags & 1)), mid


def decode_topics(body: bytes) -> list[str]:
    topics, body = [], body[2:]
    while body:
        topic, body = _string(body)
        topics.append(topic.decode())
        body = body[1:]
    return topics
