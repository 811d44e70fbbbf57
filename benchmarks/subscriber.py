"""A lean MQTT 3.1.1 subscriber that counts what the service publishes and how late it is.

A raw socket, QoS 1, acknowledgements in batches. A telegram is known by the end point in the topic
and the counter in the body; that counters leave no gap is how a loss is seen, that a telegram comes
under one `id` only is how a copy that slipped through is told from a repeat. The latency runs from
the last reception of the telegram (`rxTime`, which the load generator takes from the same clock)
to the moment its bytes were read here.

Told what to do by lines on standard input, answers in lines of JSON:

    -> (subscribed)    {"subscribed": "mioty/ep/+/ul"}
    count          ->  {"distinct": 30000}
    report         ->  {"received": 30000, ...}
    reset          ->  {"reset": true}; latencies are counted from here
    (end of input) ->  ends
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import selectors
import socket
import sys
import time
from array import array

from benchmarks.figures import SubscriberResult, say, spread

READ_SIZE = 256 * 1024
TIMEOUT = 10.0  # seconds for the broker to answer while subscribing
ACKNOWLEDGE_WITHIN = 0.01  # seconds of silence after which acknowledgements go out
ENOUGH = 4 * 64  # octets of acknowledgements that go out at once

CONNACK, PUBLISH, SUBACK = 2, 3, 9


# --- MQTT 3.1.1 ------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    octets = text.encode()
    return len(octets).to_bytes(2, "big") + octets


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first, len(body))) + body  # ours are all shorter than 128 bytes


def connect_packet(client_id: str) -> bytes:
    """A clean session without keep-alive: the one who started us watches over us."""
    return _packet(0x10, _text("MQTT") + b"\x04\x02\x00\x00" + _text(client_id))


def subscribe_packet(topic: str) -> bytes:
    return _packet(0x82, b"\x00\x01" + _text(topic) + b"\x01")


def packets(inbox: bytearray) -> list[tuple[int, bytes]]:
    """Take the whole packets out of what has arrived: first byte, and what follows the length."""
    start = 0
    found = []
    while (header := _read_length(inbox, start + 1)) is not None:
        begin, length = header
        if len(inbox) < begin + length:
            break
        found.append((inbox[start], bytes(inbox[begin : begin + length])))
        start = begin + length
    del inbox[:start]
    return found


def _read_length(inbox: bytearray, at: int) -> tuple[int, int] | None:
    """Where the packet's content begins, and its length; None if not all of it is there."""
    length = shift = 0
    while at < len(inbox):
        length |= (inbox[at] & 0x7F) << shift
        if not inbox[at] & 0x80:
            return at + 1, length
        at += 1
        shift += 7
    return None


# --- what is counted -------------------------------------------------------------------------


class Sensor:
    """The telegrams of one sensor."""

    __slots__ = ("_first", "_ids", "_latest")

    def __init__(self) -> None:
        self._ids: dict[int, int] = {}
        self._latest = -1
        self._first = -1

    @property
    def gaps(self) -> int:
        return self._latest - self._first + 1 - len(self._ids)

    def take(self, packet_cnt: int, id_: str) -> str:
        """What this telegram is: "repeat", "copy", "disorder" or "next"."""
        digest = hash(id_)
        if packet_cnt in self._ids:
            return "repeat" if self._ids[packet_cnt] == digest else "copy"
        self._ids[packet_cnt] = digest
        self._first = packet_cnt if self._first < 0 else min(self._first, packet_cnt)
        if packet_cnt < self._latest:
            return "disorder"
        self._latest = packet_cnt
        return "next"


class Count:
    """All that has come."""

    def __init__(self) -> None:
        self.received = self.receptions = 0
        self._kinds = {"next": 0, "repeat": 0, "copy": 0, "disorder": 0}
        self._sensors: dict[bytes, Sensor] = {}
        self._last_receipt = 0.0
        self._latencies_us = array("q")

    def reset(self) -> None:
        self._latencies_us = array("q")

    def take(self, topic: bytes, payload: bytes, now_ns: int) -> None:
        body = json.loads(payload)
        sensor = self._sensors.get(topic)
        if sensor is None:
            sensor = self._sensors[topic] = Sensor()
        receptions = body["receptions"]
        self.received += 1
        self.receptions += len(receptions)
        self._kinds[sensor.take(body["cnt"], body["id"])] += 1
        heard_ns = max(reception["rxTime"] for reception in receptions)
        self._latencies_us.append((now_ns - heard_ns) // 1000)
        self._last_receipt = now_ns / 1e9

    @property
    def distinct(self) -> int:
        return self._kinds["next"] + self._kinds["disorder"]

    def result(self) -> SubscriberResult:
        kinds = self._kinds
        return SubscriberResult(
            received=self.received,
            distinct=self.distinct,
            repeats=kinds["repeat"],
            copies=kinds["copy"],
            gaps=sum(sensor.gaps for sensor in self._sensors.values()),
            disorder=kinds["disorder"],
            receptions=self.receptions,
            last_receipt=self._last_receipt,
            latency=spread(self._latencies_us, per_ms=1000),
        )


# --- the conversation ------------------------------------------------------------------------


class Subscriber:
    """The connection to the broker."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._inbox = bytearray()
        self._answers = bytearray()
        self._count = Count()

    def subscribe(self, topic: str) -> None:
        self._socket.sendall(connect_packet("bssci-benchmark"))
        self._wait_for(CONNACK, b"\x00\x00")
        self._socket.sendall(subscribe_packet(topic))
        self._wait_for(SUBACK, b"\x00\x01\x01")

    def _wait_for(self, kind: int, content: bytes) -> None:
        while True:
            if not (data := self._socket.recv(READ_SIZE)):
                raise SystemExit("the broker has closed the connection")
            self._inbox += data
            for first, body in packets(self._inbox):
                if (first >> 4, body) != (kind, content):
                    raise SystemExit(f"the broker answered {first:#x} {body.hex()}")
                return

    def attend(self) -> None:
        """Count, and do what commands on standard input say."""
        selector = selectors.DefaultSelector()
        selector.register(self._socket, selectors.EVENT_READ, self._receive)
        selector.register(sys.stdin, selectors.EVENT_READ, self._obey)
        while True:
            ready = selector.select(ACKNOWLEDGE_WITHIN if self._answers else None)
            if not all(key.data() for key, _ in ready):
                return
            if len(self._answers) >= ENOUGH or not ready:
                self._socket.sendall(self._answers)
                self._answers.clear()

    def _obey(self) -> bool:
        match sys.stdin.readline().strip():
            case "count":
                say({"distinct": self._count.distinct})
            case "report":
                say(self._count.result())
            case "reset":
                self._count.reset()
                say({"reset": True})
            case _:
                return False
        return True

    def _receive(self) -> bool:
        data = self._socket.recv(READ_SIZE)
        now_ns = time.time_ns()
        if not data:
            raise SystemExit("the broker has closed the connection")
        self._inbox += data
        for first, body in packets(self._inbox):
            if first >> 4 == PUBLISH:
                self._take(first, body, now_ns)
        return True

    def _take(self, first: int, body: bytes, now_ns: int) -> None:
        end = 2 + int.from_bytes(body[:2], "big")
        is_acknowledged = bool(first & 0x06)
        start = end + 2 * is_acknowledged
        self._count.take(body[2:end], body[start:], now_ns)
        if is_acknowledged:
            self._answers += b"\x40\x02" + body[end:start]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.subscriber")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--base-topic", default="mioty")
    options = parser.parse_args()
    gc.disable()
    subscriber = Subscriber(options.host, options.port)
    topic = f"{options.base_topic}/ep/+/ul"
    subscriber.subscribe(topic)
    say({"subscribed": topic})
    with contextlib.suppress(KeyboardInterrupt):
        subscriber.attend()


if __name__ == "__main__":
    main()
