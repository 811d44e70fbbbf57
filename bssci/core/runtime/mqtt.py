"""The broker link: uplinks out of the outbox in order, messages in; paho lives here only.

paho speaks MQTT 3.1.1 and does no I/O: the socket it believes in is a pair of buffers (`_Wire`),
and what is in them travels over a trio stream. So nothing in it can block (its `connect` would,
for DNS, TCP and TLS), many packets cost one system call, and each connection begins with a new
client, whose memory holds nothing that we do not know. The way through one connection:

    outbox -> _fill -> paho -> _Wire -> _write -> broker -> _read -> paho -> PUBACK -> published

Order: rows are published as they are numbered, and after a reconnect everything that was not
acknowledged goes again, first and in the same order, because it is fetched from the outbox anew.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import secrets
import socket
import ssl
import time
from collections import OrderedDict, deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

import trio
from paho.mqtt.client import Client, MQTTMessage, error_string
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from bssci.core.protocol.errors import BssciError, StorageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from paho.mqtt.client import ConnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

__all__ = [
    "ACK_TIMEOUT",
    "FAREWELL_TIMEOUT",
    "HANDSHAKE_TIMEOUT",
    "MAX_PACKET",
    "MAX_WAITING",
    "BrokerLink",
    "BrokerSettings",
    "Outgoing",
    "open_broker_stream",
]

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT = 20.0  # seconds, from the DNS question to the broker's CONNACK
WRITE_TIMEOUT = 20.0  # seconds for the broker to take what we send at once
ACK_TIMEOUT = 30.0  # seconds, from a PUBLISH to its acknowledgement
FAREWELL_TIMEOUT = 2.0  # seconds, from the wish to stop to the closed connection
CLOSE_TIMEOUT = 0.5  # seconds, from our DISCONNECT to the broker's end of the connection
TICK = 1.0  # seconds between looks at the keepalive and the oldest acknowledgement due
FIRST_BACKOFF = 1.0  # seconds, ceiling of the pause before the first new attempt

# Uplink acknowledgements come one by one; a pause this long lets them gather, so that a busy
# link costs a thousand wake-ups a second instead of one per uplink. It delays no publication,
# for it is only made while most of the window is free.
ACK_GATHERING = 0.001  # seconds

# A command is some hundred bytes and a broker's own limit mostly 256 MB. What is longer is
# skipped (and acknowledged, else the broker would offer it for ever).
MAX_PACKET = 1024 * 1024

# Messages that wait for the broker besides uplinks. Every base station of a full service
# (5000) may change its state and report its status once; a few hundred bytes each.
MAX_WAITING = 10_000
MAX_WAITING_INFLIGHT = 100  # of those, how many are with the broker at a time

# Packet identifiers have 16 bits and paho counts them up without looking: the window must be
# well below that, or a slow acknowledgement meets its successor.
MAX_WINDOW = 20_000

_PUBLISH, _QOS_1, _PUBACK = 0x30, 0x02, b"\x40\x02"  # MQTT 3.1.1, 2.2.1 and 3.4

_IN_WORDS = {
    MQTTErrorCode.MQTT_ERR_PROTOCOL: "the broker does not speak MQTT 3.1.1 as it should",
    MQTTErrorCode.MQTT_ERR_CONN_LOST: "the broker closed the connection",
}

READ_SIZE = 64 * 1024
MAX_REASONS = 50  # different failures remembered as already told


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where the broker is and how to speak to it.

    Attributes:
        client_id: must be stable, for a broker publishes the will of a connection it believes
            alive when the same client comes back; "" stands for one made up for this process.
        keepalive: seconds of silence after which the broker is pinged; the same again without
            an answer ends the connection.
        tls: None for plain TCP; the context decides what is verified and what we present.
        max_inflight: uplinks that are in memory and not acknowledged, at most.
        reconnect_max: seconds, ceiling of the pause between two attempts.
    """

    host: str = "localhost"
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_id: str = ""
    qos: int = 1
    keepalive: int = 60
    tls: ssl.SSLContext | None = None
    max_inflight: int = 200
    reconnect_max: float = 20.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One uplink as the outbox holds it; `row` grows in the order of publication."""

    row: int
    topic: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Note:
    """A message that is not in the outbox: states, answers, warnings."""

    topic: str
    body: bytes
    retain: bool


class _BrokerLostError(BssciError):
    """This connection is of no more use. The words are for the operator."""


async def open_broker_stream(settings: BrokerSettings) -> trio.abc.Stream:
    """Connect to the broker, with TLS if wanted, and give the stream.

    Raises:
        OSError, trio.BrokenResourceError: it cannot be reached, or TLS fails.
    """
    stream = await trio.open_tcp_stream(settings.host, settings.port)
    if settings.tls is None:
        return stream
    secured = trio.SSLStream(
        stream, settings.tls, server_hostname=settings.host, https_compatible=True
    )
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured


@dataclass(frozen=True, slots=True)
class _Ends:
    """What a connection joins: the plain functions `BrokerLink` was given."""

    settings: BrokerSettings
    client_id: str
    will: Callable[[], tuple[str, bytes]]
    announce: Callable[[], Iterable[tuple[str, bytes, bool]]]
    fetch: Callable[[int, int], Awaitable[Sequence[Outgoing]]]
    published: Callable[[Sequence[int]], None]
    subscriptions: tuple[str, ...]
    on_message: Callable[[str, bytes, bool], None] | None


class BrokerLink:
    """Keeps one connection to the broker, for ever, and brings everything across it.

    Args:
        settings: where and how.
        will: topic and body of "the service is offline", asked before each attempt (for the
            broker to publish when we vanish) and when stopping in order; retained.
        announce: what is true now (topic, body, retain), asked and published after each connect.
        fetch: (after row, limit) -> unpublished uplinks with higher rows, in row order; it may be
            fewer than `limit`, and an empty answer means that there are no more now. Row numbers
            are never used again, and none may appear below one already given.
        published: the broker has these rows; called in the trio thread, must not block. May be
            called until `run` has returned. Every row is told once per publication.
        subscriptions: topic filters, asked for again on each connection.
        on_message: topic, payload, retained. Called in the trio thread, must not block.
        connect: opens the stream to the broker.

    Attributes:
        state: whether the broker takes messages now.
        since: Unix time of the last change of `state`.
        last_error: why the last connection or attempt failed; None while all is well.
        reconnects: connections made after the first.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        will: Callable[[], tuple[str, bytes]],
        announce: Callable[[], Iterable[tuple[str, bytes, bool]]],
        fetch: Callable[[int, int], Awaitable[Sequence[Outgoing]]],
        published: Callable[[Sequence[int]], None],
        subscriptions: Sequence[str] = (),
        on_message: Callable[[str, bytes, bool], None] | None = None,
        connect: Callable[[BrokerSettings], Awaitable[trio.abc.Stream]] = open_broker_stream,
    ) -> None:
        self.state: Literal["online", "offline"] = "offline"
        self.since = time.time()
        self.last_error: str | None = None
        self.reconnects = 0
        self._ends = _Ends(
            settings,
            settings.client_id or f"bssci-{secrets.token_hex(8)}",
            will,
            announce,
            fetch,
            published,
            tuple(subscriptions),
            on_message,
        )
        self._connect = connect
        self._window = _Window(min(settings.max_inflight, MAX_WINDOW))
        self._notes = _Notes(MAX_WAITING)
        self._bell = _Bell()
        self._was_online = False
        self._told: set[str] = set()

    @property
    def published(self) -> int:
        """Uplinks that the broker acknowledged, in the life of this link."""
        return self._window.acknowledged

    @property
    def dropped(self) -> int:
        """Messages given to `publish` that fell out of the full queue."""
        return self._notes.dropped

    def wake(self) -> None:
        """Say that rows were added to the outbox. Cheap; may be called for every commit."""
        self._bell.rows_waiting = True
        self._bell.due.set()

    def publish(self, topic: str, body: bytes, *, retain: bool = False) -> None:
        """Publish a message that is not in the outbox, now or when the broker is back.

        At most `MAX_WAITING` wait; then the oldest is dropped and counted. Of retained messages
        only the newest per topic waits. What was with a broker that vanished is sent again.
        """
        self._notes.put(_Note(topic, body, retain))
        self._bell.due.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the connection until cancelled; then say farewell within `FAREWELL_TIMEOUT`.

        Started at once: whether the broker is there makes no difference to the caller.
        """
        task_status.started()
        ceilings = self._backoff()
        while True:
            begun = trio.current_time()
            await self._connect_once()
            if trio.current_time() - begun >= self._ends.settings.reconnect_max:
                ceilings = self._backoff()  # it was good for a while: begin anew, quickly
            ceiling = next(ceilings)
            await trio.sleep(random.uniform(ceiling / 2, ceiling))

    def _backoff(self) -> Iterator[float]:
        ceiling = FIRST_BACKOFF
        while True:
            yield min(ceiling, self._ends.settings.reconnect_max)
            ceiling = min(ceiling * 2, self._ends.settings.reconnect_max)

    async def _connect_once(self) -> None:
        """The border: whatever ends a connection ends here, and is told in words."""
        try:
            await self._hold_connection()
        except* (BssciError, OSError, trio.BrokenResourceError, trio.TooSlowError) as group:
            self._failed(_words(group))
        except* Exception as group:
            self._failed(f"a fault of ours: {_innermost(group)!r}")
            logger.error("mqtt: the connection ended by a fault of ours", exc_info=group)
        finally:
            self._change("offline")

    async def _hold_connection(self) -> None:
        settings = self._ends.settings
        stream: trio.abc.Stream | None = None
        try:
            with _fail_after(HANDSHAKE_TIMEOUT, "no connection"):
                stream = await self._connect(settings)
                connection = _Connection(stream, self._ends, self._window, self._notes, self._bell)
                await connection.open()
            self._online()
            await _run_until_cancelled(connection)
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    def _online(self) -> None:
        self.reconnects += self._was_online
        self._was_online = True
        self.last_error = None
        self._told.clear()
        self._change("online")
        settings = self._ends.settings
        logger.info("mqtt: connected to the broker %s:%d", settings.host, settings.port)

    def _failed(self, reason: str) -> None:
        """Note why; tell the operator once per reason, until it works again."""
        self.last_error = reason
        level = logging.DEBUG if reason in self._told else logging.WARNING
        if len(self._told) >= MAX_REASONS:
            self._told.clear()
        self._told.add(reason)
        what = "lost the broker" if self.state == "online" else "no connection to the broker"
        settings = self._ends.settings
        logger.log(level, "mqtt: %s %s:%d: %s", what, settings.host, settings.port, reason)

    def _change(self, state: Literal["online", "offline"]) -> None:
        if state != self.state:
            self.state, self.since = state, time.time()


async def _run_until_cancelled(connection: _Connection) -> None:
    """Run the connection; when cancelled, let it say farewell first.

    What runs in it is shielded, because a cancelled `send_all` leaves half a packet on the wire.
    """

    async def stop_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            connection.stop()
            shield.deadline = trio.current_time() + FAREWELL_TIMEOUT

    async with trio.open_nursery() as nursery:
        shield = trio.CancelScope(shield=True)
        nursery.start_soon(stop_when_cancelled)
        with shield:
            await connection.run()
        nursery.cancel_scope.cancel()


class _Connection:
    """One connection from CONNECT to its end, on a stream that someone else closes."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        ends: _Ends,
        window: _Window,
        notes: _Notes,
        bell: _Bell,
    ) -> None:
        self._stream = stream
        self._ends = ends
        self._window = window
        self._notes = notes
        self._bell = bell
        self._qos = ends.settings.qos
        self._stopping = False
        self._ended = trio.Event()
        # Packet identifier -> when it was sent and what it carries: a row, a note to be sent
        # again if it gets lost, or nothing that matters. In the order of sending.
        self._unacknowledged: dict[int, tuple[float, int | _Note | None]] = {}
        self._notes_inflight = 0
        self._handed: list[int] = []  # at QoS 0: what is on the wire
        self._fetch_failed = False
        self._announcements: deque[_Note] = deque()
        # What paho's callbacks leave behind, for when paho has returned.
        self._acknowledged: list[int] = []
        self._messages: list[MQTTMessage] = []
        self._refusal: str | None = None
        self._wire = _Wire()
        self._client = self._new_client()

    def _new_client(self) -> _Client:
        settings = self._ends.settings
        client = _Client(self._wire, self._ends.client_id)
        client.username_pw_set(settings.username, settings.password)
        topic, body = self._ends.will()
        client.will_set(topic, body, qos=self._qos, retain=True)
        # 0 is no limit: the window is ours, and paho looks through all it holds otherwise.
        client.max_inflight_messages_set(0)
        client.on_connect = self._when_connected
        client.on_subscribe = self._when_subscribed
        if self._qos:  # at 0 paho would call it before the bytes have left
            client.on_publish = self._when_published
        client.on_message = self._when_message
        return client

    def _when_connected(
        self,
        _client: Client,
        _data: object,
        _flags: ConnectFlags,
        code: ReasonCode,
        _p: Properties | None,
    ) -> None:
        self._refusal = str(code) if code.is_failure else None

    def _when_subscribed(
        self,
        _client: Client,
        _data: object,
        _mid: int,
        codes: list[ReasonCode],
        _p: Properties | None,
    ) -> None:
        for topic, code in zip(self._ends.subscriptions, codes, strict=False):
            if code.is_failure:
                logger.warning("mqtt: the broker refuses the subscription to %s", topic)

    def _when_published(
        self, _client: Client, _data: object, mid: int, _code: ReasonCode, _p: Properties | None
    ) -> None:
        self._acknowledged.append(mid)

    def _when_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._messages.append(message)

    async def open(self) -> None:
        """Exchange CONNECT and CONNACK, subscribe, and have ready what is to be announced."""
        settings = self._ends.settings
        self._client.connect(settings.host, settings.port, settings.keepalive)
        await self._stream.send_all(self._wire.take())
        while not self._client.is_connected():
            self._take(await self._receive())
        if self._ends.subscriptions:
            self._client.subscribe([(topic, 1) for topic in self._ends.subscriptions])
        self._window.restart()
        self._announcements.extend(_Note(*each) for each in self._ends.announce())
        self._bell.rows_waiting = True
        self._bell.due.set()
        self._wire.flush()

    async def run(self) -> None:
        """Carry everything until the connection is lost, or `stop` was called and it is closed.

        Raises:
            BssciError: the connection is of no more use.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                await self._fill()
                with trio.move_on_after(CLOSE_TIMEOUT):
                    await self._ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            lost = (item for _, item in self._unacknowledged.values())
            self._notes.put_back([item for item in lost if isinstance(item, _Note)])

    def stop(self) -> None:
        """Ask for the orderly end: no more uplinks, farewell, DISCONNECT."""
        self._stopping = True
        self._bell.due.set()

    async def _read(self) -> None:
        try:
            while not self._wire.is_closed:
                self._take(await self._receive())
                if not self._window.is_busy():
                    await trio.sleep(ACK_GATHERING)
        except (_BrokerLostError, trio.BrokenResourceError):
            if not (self._stopping and self._wire.is_closed):
                raise
        self._ended.set()

    async def _receive(self) -> bytes | bytearray:
        if self._window.is_busy():
            _acknowledge_at_once(self._stream)
        data = await self._stream.receive_some(READ_SIZE)
        if not data:
            raise _BrokerLostError("the broker closed the connection")
        return data

    def _take(self, data: bytes | bytearray) -> None:
        """Let paho read `data`, then hand on what it found."""
        self._wire.feed(data)
        while not self._wire.is_drained and not self._wire.is_closed:
            self._check(self._read_packets())
        self._wire.flush()
        acknowledged, self._acknowledged = self._acknowledged, []
        messages, self._messages = self._messages, []
        if acknowledged:
            self._settle(acknowledged)
        for message in messages:
            self._hand_over(message)

    def _read_packets(self) -> MQTTErrorCode:
        try:
            return self._client.loop_read()
        except Exception as error:
            raise _BrokerLostError(f"the broker sent what is no MQTT: {error!r}") from error

    def _check(self, result: MQTTErrorCode) -> None:
        if self._refusal is not None:
            raise _BrokerLostError(f"the broker refuses the connection: {self._refusal}")
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS and not self._stopping:
            what = _IN_WORDS.get(result) or error_string(result)
            raise _BrokerLostError(self._wire.fault or what)

    def _settle(self, mids: Iterable[int]) -> None:
        """The broker has these: tell the outbox, all at once, and make room for the next."""
        rows = []
        for mid in mids:
            _, item = self._unacknowledged.pop(mid)
            if isinstance(item, int):
                rows.append(item)
            else:
                self._notes_inflight -= 1
        if rows:
            self._window.acknowledge(rows)
            self._ends.published(rows)
        self._bell.due.set()

    def _hand_over(self, message: MQTTMessage) -> None:
        """A message that cannot be handled harms nobody but itself."""
        if self._ends.on_message is None:
            return
        try:
            self._ends.on_message(message.topic, bytes(message.payload), message.retain)
        except UnicodeDecodeError:
            logger.warning("mqtt: a message on a topic that is no UTF-8 is ignored")
        except Exception:
            logger.exception("mqtt: a message on %s could not be handled", message.topic)

    async def _write(self) -> None:
        """The one task that writes; everybody else leaves bytes on the wire."""
        while not (self._wire.is_closed and self._wire.is_empty):
            await self._wire.due.wait()
            handed, self._handed = self._handed, []
            with _fail_after(WRITE_TIMEOUT, "the broker does not read"):
                await self._stream.send_all(self._wire.take())
            if handed:
                self._settle(handed)

    async def _watch(self) -> None:
        """Ping, and end a connection whose broker no longer answers or acknowledges."""
        while True:
            await trio.sleep(TICK)
            result = self._client.loop_misc()
            if self._wire.is_closed and not self._stopping:
                raise _BrokerLostError("the broker does not answer pings")
            self._check(result)
            self._wire.flush()
            self._bell.due.set()  # an outbox that could not be read is asked again
            sent, _ = next(iter(self._unacknowledged.values()), (trio.current_time(), None))
            if trio.current_time() - sent > ACK_TIMEOUT:
                raise _BrokerLostError(f"no acknowledgement within {ACK_TIMEOUT:.0f} s")

    async def _fill(self) -> None:
        while not self._stopping:
            await self._bell.due.wait()
            self._bell.due = trio.Event()
            self._publish_notes()
            await self._publish_uplinks()
        await self._say_farewell()

    def _publish_notes(self) -> None:
        while self._notes_inflight < MAX_WAITING_INFLIGHT:
            if self._announcements:
                note, again = self._announcements.popleft(), None
            elif (waiting := self._notes.pop()) is not None:
                note = again = waiting
            else:
                break
            self._publish_note(note, again)
        self._wire.flush()

    def _publish_note(self, note: _Note, again: _Note | None) -> None:
        if self._publish(note.topic, note.body, retain=note.retain, item=again):
            self._notes_inflight += 1

    async def _publish_uplinks(self) -> None:
        """Bring the next rows of the outbox, if there are any and half the window is free.

        Half, because on a busy link every acknowledgement would otherwise fetch one row.
        """
        if not self._bell.rows_waiting or not self._window.is_half_free():
            return
        self._bell.rows_waiting = False
        rows = await self._fetch(self._window.free())
        if not rows or self._stopping:
            return
        for uplink in rows:
            self._publish_uplink(uplink)
        self._wire.flush()
        self._window.slide()
        self._bell.rows_waiting = True  # only an empty answer says that there are no more
        self._bell.due.set()

    async def _fetch(self, limit: int) -> Sequence[Outgoing]:
        """Give the next rows; none while the outbox cannot be read (`_watch` asks again)."""
        try:
            rows = await self._ends.fetch(self._window.last(), limit)
        except StorageError as error:
            if not self._fetch_failed:
                logger.warning("mqtt: the outbox cannot be read, publishing waits: %s", error)
            self._fetch_failed = self._bell.rows_waiting = True
            return ()
        self._fetch_failed = False
        return rows

    def _publish_uplink(self, uplink: Outgoing) -> None:
        if not self._window.take(uplink.row):
            return  # acknowledged on an earlier connection, only not yet marked in the outbox
        if not self._publish(uplink.topic, uplink.body, retain=False, item=uplink.row):
            self._window.pass_over(uplink.row)

    def _publish(self, topic: str, body: bytes, *, retain: bool, item: int | _Note | None) -> bool:
        """Put one packet on the wire; False if it can never be one, which must stop no other."""
        try:
            info = self._client.publish(topic, body, self._qos, retain)
        except ValueError as error:
            logger.error("mqtt: %r is no topic, a message is left out: %s", topic, error)
            return False
        self._check(info.rc)
        self._unacknowledged[info.mid] = (trio.current_time(), item)
        if not self._qos:
            self._handed.append(info.mid)
        return True

    async def _say_farewell(self) -> None:
        """What is still to be said, last that we are offline; then DISCONNECT."""
        self._notes.put(_Note(*self._ends.will(), retain=True))
        self._publish_notes()
        while self._unacknowledged:
            await self._bell.due.wait()
            self._bell.due = trio.Event()
            self._publish_notes()
        self._client.disconnect()
        self._wire.flush()


class _Client(Client):
    """paho on our wire. `_create_socket` is the one method of paho that is replaced."""

    def __init__(self, wire: _Wire, client_id: str) -> None:
        # reconnect_on_failure: paho would open a connection of its own when it is refused.
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        self._our_wire = wire

    def _create_socket(self) -> _Wire:
        return self._our_wire


class _Wire:
    """The socket paho believes in: bytes that have arrived and bytes that are to go.

    Attributes:
        due: set when there is something to write, or the wire was closed.
        is_drained: paho has read all it can; `feed` more.
        is_closed: paho gave the connection up, or sent DISCONNECT.
        fault: what was wrong with the bytes, where we know better than paho.
    """

    def __init__(self) -> None:
        self.due = trio.Event()
        self.is_drained = True
        self.is_closed = False
        self.fault: str | None = None
        self._arrived = bytearray()
        self._place = 0
        self._left = 0  # bytes of the packet that paho is reading
        self._skip = 0  # bytes of a packet that paho must not get
        self._to_go: list[bytes | bytearray] = []

    @property
    def is_empty(self) -> bool:
        return not self._to_go

    def feed(self, data: bytes | bytearray) -> None:
        """Add bytes from the broker."""
        del self._arrived[: self._place]
        self._place = 0
        self._arrived += data
        self.is_drained = False

    def flush(self) -> None:
        """Have the writer send what is to go; called once for many packets."""
        if self._to_go or self.is_closed:
            self.due.set()

    def take(self) -> bytes:
        """Give what is to go, once."""
        data = b"".join(self._to_go)
        self._to_go.clear()
        self.due = trio.Event()
        return data

    # What paho calls:

    def recv(self, buffer_size: int) -> bytes:
        while not self._left:
            self._begin_packet()
        end = self._place + min(buffer_size, self._left)
        data = bytes(self._arrived[self._place : end])
        if not data:
            self._block()
        self._place += len(data)
        self._left -= len(data)
        return data

    def send(self, buffer: bytes | bytearray) -> int:
        self._to_go.append(buffer)
        return len(buffer)

    def close(self) -> None:
        self.is_closed = True

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def _block(self) -> NoReturn:
        self.is_drained = True
        raise BlockingIOError

    def _begin_packet(self) -> None:
        """Find the length of the next packet (MQTT 3.1.1, 2.2.3); skip one that is too long."""
        skipped = min(self._skip, len(self._arrived) - self._place)
        self._skip -= skipped
        self._place += skipped
        length = 0
        for count in range(4):
            at = self._place + 1 + count
            if self._skip or at >= len(self._arrived):
                self._block()
            length |= (self._arrived[at] & 0x7F) << (7 * count)
            if self._arrived[at] < 0x80:
                break
        else:
            self.fault = "the broker sent what is no MQTT: a length of more than four bytes"
            raise ConnectionError(self.fault)
        if length <= MAX_PACKET:
            self._left = 2 + count + length
        else:
            self._pass_over(2 + count, length)

    def _pass_over(self, header: int, length: int) -> None:
        """Leave a message out that is too long; acknowledge it, else it comes again for ever."""
        kind = self._arrived[self._place]
        body = self._place + header
        topic_length = int.from_bytes(self._arrived[body : body + 2], "big")
        if len(self._arrived) < body + 2 + topic_length + 2:
            self._block()
        if kind & 0xF0 != _PUBLISH:
            self.fault = f"the broker sent a packet of {length} bytes that is no message"
            raise ConnectionError(self.fault)
        if kind & _QOS_1:
            mid = self._arrived[body + 2 + topic_length :][:2]
            self._to_go.append(_PUBACK + mid)
        logger.warning("mqtt: a message of %d bytes is ignored (limit %d)", length, MAX_PACKET)
        self._skip = header + length


class _Window:
    """Which rows the broker was given and which it has; outlives the connections.

    Rows leave at the front, when everything before them is acknowledged. So `floor` is the row
    up to which nothing is left to do, and what a broker acknowledged out of order is known
    until it lies below.
    """

    def __init__(self, size: int) -> None:
        self.acknowledged = 0
        self._size = max(size, 1)
        self._floor = 0
        self._given: deque[int] = deque()
        self._done: set[int] = set()

    def free(self) -> int:
        return self._size - len(self._given)

    def is_half_free(self) -> bool:
        return self.free() * 2 >= self._size

    def is_busy(self) -> bool:
        """More than a quarter is with the broker: acknowledgements are now worth hurrying for."""
        return len(self._given) * 4 > self._size

    def last(self) -> int:
        """Give the row after which the next ones are to be fetched."""
        return self._given[-1] if self._given else self._floor

    def take(self, row: int) -> bool:
        """Note that the broker is given this row; False if it has it already."""
        self._given.append(row)
        return row not in self._done

    def pass_over(self, row: int) -> None:
        """Note that this row cannot be published and must not hold up the others."""
        self._done.add(row)

    def acknowledge(self, rows: Sequence[int]) -> None:
        self.acknowledged += len(rows)
        self._done.update(rows)
        self.slide()

    def slide(self) -> None:
        while self._given and self._given[0] in self._done:
            self._floor = self._given.popleft()
            self._done.discard(self._floor)

    def restart(self) -> None:
        """Begin a connection: what is not acknowledged will be fetched and given again."""
        self._given.clear()
        self._done = {row for row in self._done if row > self._floor}


class _Notes:
    """Messages that wait for the broker: bounded, and of retained ones only the newest."""

    def __init__(self, limit: int) -> None:
        self.dropped = 0
        self._limit = limit
        self._waiting: OrderedDict[str | int, _Note] = OrderedDict()
        self._count = itertools.count()

    def put(self, note: _Note) -> None:
        key = self._key(note)
        self._waiting.pop(key, None)
        self._waiting[key] = note
        self._trim()

    def put_back(self, notes: Sequence[_Note]) -> None:
        """Put notes that were lost on the way in front again, in their order."""
        for note in reversed(notes):
            key = self._key(note)
            if key not in self._waiting:  # else there is a newer one
                self._waiting[key] = note
                self._waiting.move_to_end(key, last=False)
        self._trim()

    def pop(self) -> _Note | None:
        return self._waiting.popitem(last=False)[1] if self._waiting else None

    def _key(self, note: _Note) -> str | int:
        return note.topic if note.retain else next(self._count)

    def _trim(self) -> None:
        while len(self._waiting) > self._limit:
            self._waiting.popitem(last=False)
            self.dropped += 1


class _Bell:
    """Wakes the connection, or the next one: rows, notes, room in the window, or stop."""

    def __init__(self) -> None:
        self.due = trio.Event()
        self.rows_waiting = True


def _acknowledge_at_once(stream: trio.abc.Stream) -> None:
    """Have the kernel acknowledge what comes next without its usual pause of 40 ms.

    A broker writes each PUBACK by itself, and with Nagle's algorithm it waits with the second for
    our TCP acknowledgement of the first: a full window would stand still for those 40 ms. While
    most of the window is free the gathering is welcome: fewer and larger reads. Linux forgets
    the option, so it is set before each read that needs it.
    """
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream) and hasattr(socket, "TCP_QUICKACK"):
        with suppress(OSError):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


@contextmanager
def _fail_after(seconds: float, what: str) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise _BrokerLostError(f"{what} within {seconds:.0f} s") from error


def _words(error: BaseException) -> str:
    """Say for the operator what went wrong."""
    match _innermost(error):
        case ssl.SSLCertVerificationError(verify_message=text):
            return f"the broker's certificate is not accepted: {text}"
        case ssl.SSLError() as cause:
            return f"TLS fails: {cause.strerror or cause}"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number)
        case OSError(strerror=str(text)):
            return text
        case cause:
            return str(cause) or type(cause).__name__


def _innermost(error: BaseException) -> BaseException:
    """Give the cause below what trio wraps around it; of several, the first."""
    while not isinstance(error, _BrokerLostError):
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None:
            error = error.__cause__
        else:
            break
    return error
