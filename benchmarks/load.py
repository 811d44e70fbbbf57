"""Load: many base stations in one lean process, sending uplinks over mutual TLS at an exact rate.

Plain `ssl` on sockets that do not block, one epoll, messages patched into a template: an uplink
with its response and completion costs this process a fraction of what it costs the service, so
that the service is what is measured. It does only what a base station must do to be served
(BSSCI 1.0.0, 5.3, 5.4, 5.5, 5.10); for a whole one see `bssci.core.runtime.station`.

Told what to do by lines of JSON on standard input, answers in lines of JSON:

    -> (started)                          {"connected": 100, "seconds": 0.4}
    {"rate": 3000, "seconds": 10}     ->  {"sent": 30000, ...}, when the last one has left
                                          {"answered": 30000, ...}, when all are answered
    (end of input)                    ->  ends

A *telegram* is what a sensor sends; each telegram becomes `--overlap` uplinks, one from each base
station that hears it. The rate counts uplinks.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import select
import socket
import ssl
import struct
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgpack

from benchmarks.figures import LoadResult, SentResult, say, spread

FIRST_STATION = 0xFCA84A0100000000
FIRST_SENSOR = 0xFCA84A0200000000
SUBPACKETS = 24  # of a telegram with ten bytes of user data
USER_DATA = bytes(range(120, 130))

READ_SIZE = 64 * 1024
MAX_OUTBOX = 256 * 1024  # what may wait for one base station's socket; then sending pauses
MAX_BURST = 64  # uplinks sent before responses are looked at again
CONNECT_TIMEOUT = 60.0  # seconds for all to be connected
SETTLE_TIMEOUT = 30.0  # seconds for what is outstanding to be answered after the last uplink

Map = dict[str, object]


# --- bytes -----------------------------------------------------------------------------------


def frame(message: Map) -> bytes:
    payload = msgpack.packb(message)
    return b"MIOTYB01" + len(payload).to_bytes(4, "little") + payload


def take_messages(inbox: bytearray) -> list[Map]:
    """Take the whole messages out of what has arrived."""
    found = []
    start, end = 0, 12
    while len(inbox) >= end:
        end += int.from_bytes(inbox[start + 8 : end], "little")
        if len(inbox) < end:
            break
        found.append(msgpack.unpackb(inbox[start + 12 : end]))
        start, end = end, end + 12
    del inbox[:start]
    return found


def uplink(*, with_subpackets: bool) -> Map:
    """An uplink whose numbers that change have their full width on the wire."""
    dice = random.Random(1)
    message: Map = {
        "command": "ulData",
        "opId": 2**31,
        "epEui": 2**64 - 1,
        "rxTime": 2**64 - 1,
        "rxDuration": 3_624_000_000,
        "packetCnt": 2**31,
        "snr": 11.71875,
        "rssi": -97.34375,
        "eqSnr": 10.90625,
        "profile": "eu1",
        "mode": "ulp",
    }
    if with_subpackets:
        message["subpackets"] = {
            "snr": [dice.uniform(5, 15) for _ in range(SUBPACKETS)],
            "rssi": [dice.uniform(-105, -90) for _ in range(SUBPACKETS)],
            "frequency": [dice.uniform(868.0e6, 868.2e6) for _ in range(SUBPACKETS)],
            "phase": [dice.uniform(-180, 180) for _ in range(SUBPACKETS)],
        }
    user_data = {"userData": list(USER_DATA), "format": 0}
    return message | user_data | {"dlOpen": False, "responseExp": False, "dlAck": False}


class Template:
    """The frame of one uplink, rewritten in place for each."""

    def __init__(self, *, with_subpackets: bool) -> None:
        self.octets = bytearray(frame(uplink(with_subpackets=with_subpackets)))
        self._op_id = self._place("opId")
        self._ep_eui = self._place("epEui")
        self._rx_time = self._place("rxTime")
        self._packet_cnt = self._place("packetCnt")
        self._eq_snr = self._place("eqSnr")

    def _place(self, field: str) -> int:
        """Where the value of a field begins, behind its type byte."""
        key = msgpack.packb(field)
        return self.octets.index(key) + len(key) + 1

    def write(
        self, *, op_id: int, ep_eui: int, packet_cnt: int, rx_time: int, eq_snr: float
    ) -> bytearray:
        octets = self.octets
        struct.pack_into(">I", octets, self._op_id, op_id)
        struct.pack_into(">Q", octets, self._ep_eui, ep_eui)
        struct.pack_into(">Q", octets, self._rx_time, rx_time)
        struct.pack_into(">I", octets, self._packet_cnt, packet_cnt)
        struct.pack_into(">d", octets, self._eq_snr, eq_snr)
        return octets


_COMPLETION = frame({"command": "ulDataCmp", "opId": 2**31})[:-4]


def completion(op_id: int) -> bytes:
    """The frame that ends an uplink."""
    return _COMPLETION + op_id.to_bytes(4, "big")


READ = select.EPOLLIN
WRITE = select.EPOLLOUT


# --- a base station --------------------------------------------------------------------------


class Tally:
    """What became of the uplinks of one phase."""

    def __init__(self, telegrams: int) -> None:
        self.sent = self.answered = self.refused = 0
        self.latencies_us = array("Q")
        self.acknowledged = bytearray(telegrams)
        """For each telegram, whether one of its uplinks was acknowledged."""

    @property
    def outstanding(self) -> int:
        return self.sent - self.answered - self.refused


class Station:
    """One base station: its connection, its counter, what it waits for."""

    def __init__(self, number: int, epoll: select.epoll) -> None:
        self.eui = FIRST_STATION + number
        self.is_up = False
        self.cut: str | None = None
        self.errors: Counter[str] = Counter()
        self.tally = Tally(0)
        self._epoll = epoll
        self._tls: ssl.SSLSocket
        self._is_shaken = False
        self._events = 0
        self._op_id = 0
        self._waiting: dict[int, tuple[int, int]] = {}
        self._inbox = bytearray()
        self._outbox = bytearray()

    def connect(self, address: tuple[str, int], context: ssl.SSLContext) -> int:
        """Begin to connect; the file descriptor to watch."""
        plain = socket.create_connection(address, timeout=CONNECT_TIMEOUT)
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls = context.wrap_socket(
            plain, server_hostname=address[0], do_handshake_on_connect=False
        )
        self._watch(READ)
        self.on_ready()
        return self._tls.fileno()

    def close(self, reason: str) -> None:
        if self.cut is None:
            self.cut = reason
            self.is_up = False
            self._watch(0)
            self._tls.close()

    @property
    def is_congested(self) -> bool:
        return len(self._outbox) > MAX_OUTBOX

    def send_uplink(
        self, template: Template, *, ep_eui: int, packet_cnt: int, eq_snr: float, telegram: int
    ) -> None:
        self._op_id += 1
        octets = template.write(
            op_id=self._op_id,
            ep_eui=ep_eui,
            packet_cnt=packet_cnt,
            rx_time=time.time_ns(),
            eq_snr=eq_snr,
        )
        self._waiting[self._op_id] = time.perf_counter_ns(), telegram
        self.tally.sent += 1
        self._send(octets)

    def on_ready(self) -> None:
        try:
            if self._is_shaken:
                if self._outbox:
                    self._flush()
                self._receive()
            else:
                self._shake_hands()
        except OSError as error:
            self.close(f"{error}")

    # --- bytes in and out ---

    def _watch(self, events: int) -> None:
        if events == self._events:
            return
        if not events:
            self._epoll.unregister(self._tls)
        elif self._events:
            self._epoll.modify(self._tls, events)
        else:
            self._epoll.register(self._tls, events)
        self._events = events

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(READ)
        except ssl.SSLWantWriteError:
            self._watch(WRITE)
        else:
            self._is_shaken = True
            self._watch(READ)
            self._send(frame(self._connect_message()))

    def _connect_message(self) -> Map:
        return {
            "command": "con",
            "opId": 0,
            "version": "1.0.0",
            "bsEui": self.eui,
            "vendor": "bssci",
            "model": "benchmark",
            "bidi": False,
            "snBsUuid": list(os.urandom(16)),
        }

    def _send(self, octets: bytes | bytearray) -> None:
        if self._outbox:
            self._outbox += octets
            return
        sent = self._try_send(octets)
        if sent < len(octets):
            self._outbox += octets[sent:]
            self._watch(READ | WRITE)

    def _try_send(self, octets: bytes | bytearray) -> int:
        try:
            return self._tls.send(octets)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    def _flush(self) -> None:
        while self._outbox:
            sent = self._try_send(bytes(self._outbox[:READ_SIZE]))
            del self._outbox[:sent]
            if not sent:
                return
        self._watch(READ)

    def _receive(self) -> None:
        try:
            data = self._tls.recv(READ_SIZE)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if not data:
            said = ", ".join(f"error {error}" for error in self.errors)
            self.close(f"closed by the service; it said {said or 'nothing'}")
            return
        self._inbox += data
        while pending := self._tls.pending():
            self._inbox += self._tls.recv(pending)
        answers = bytearray()
        for message in take_messages(self._inbox):
            answers += self._answer(message)
        if answers:
            self._send(answers)

    # --- the conversation ---

    def _answer(self, message: Map) -> bytes:
        op_id = message["opId"]
        match message["command"]:
            case "ulDataRsp" if isinstance(op_id, int):
                self._acknowledged(op_id)
                return completion(op_id)
            case "error" if isinstance(op_id, int):
                self._refused(op_id, message)
                return frame({"command": "errorAck", "opId": op_id})
            case "conRsp":
                self.is_up = True
                return frame({"command": "conCmp", "opId": 0})
            case "status":
                return frame({"command": "statusRsp", "opId": op_id} | _status())
            case "ping" | "attPrp" | "detPrp" as command:
                return frame({"command": f"{command}Rsp", "opId": op_id})
        return b""

    def _acknowledged(self, op_id: int) -> None:
        sent_ns, telegram = self._waiting.pop(op_id)
        tally = self.tally
        tally.answered += 1
        tally.acknowledged[telegram] = 1
        tally.latencies_us.append((time.perf_counter_ns() - sent_ns) // 1000)

    def _refused(self, op_id: int, message: Map) -> None:
        self.errors[f"{message.get('code')}: {message.get('message')}"] += 1
        if self._waiting.pop(op_id, None):
            self.tally.refused += 1


def _status() -> Map:
    return {
        "code": 0,
        "message": "ok",
        "time": time.time_ns(),
        "dutyCycle": 0.0,
        "uptime": 1000,
        "cpuLoad": 0.1,
        "memLoad": 0.4,
    }


# --- all of them -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    address: tuple[str, int]
    stations: int
    first_station: int
    sensors: int
    overlap: int
    with_subpackets: bool
    parallel: int


class Fleet:
    """All base stations, and the loop in which they live."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, Station] = {}
        numbers = range(options.first_station, options.first_station + options.stations)
        self._stations = [Station(number, self._epoll) for number in numbers]
        self._template = Template(with_subpackets=options.with_subpackets)
        self._telegrams = 0

    def connect(self, context: ssl.SSLContext) -> float:
        """Connect all of them, some at a time; the seconds it took."""
        start = time.monotonic()
        waiting = list(reversed(self._stations))
        under_way: list[Station] = []
        while waiting or under_way:
            while waiting and len(under_way) < self._options.parallel:
                station = waiting.pop()
                descriptor = station.connect(self._options.address, context)
                self._by_descriptor[descriptor] = station
                under_way.append(station)
            self._step(0.1)
            under_way = [station for station in under_way if not station.is_up]
            if cut := self._cuts():
                raise SystemExit(f"a base station was not let in: {cut[0]}")
            if time.monotonic() > start + CONNECT_TIMEOUT:
                raise SystemExit(
                    f"{len(waiting) + len(under_way)} of {len(self._stations)} base stations "
                    f"are not connected after {CONNECT_TIMEOUT:g} s"
                )
        return time.monotonic() - start

    def attend(self) -> None:
        """Do what commands on standard input say; in between, answer the service."""
        self._epoll.register(sys.stdin, READ)
        while True:
            if self._step(1.0):
                line = sys.stdin.readline()
                if not line:
                    return
                command = json.loads(line)
                self._run_phase(command["rate"], command["seconds"])

    def _step(self, timeout: float) -> bool:
        """Attend to what is ready; whether there is a command to read."""
        is_commanded = False
        for descriptor, _ in self._epoll.poll(timeout):
            station = self._by_descriptor.get(descriptor)
            if station is None:
                is_commanded = True
            elif station.cut is None:
                station.on_ready()
        return is_commanded

    def _cuts(self) -> list[str]:
        return [f"{s.eui:016X}: {s.cut}" for s in self._stations if s.cut is not None]

    # --- a phase ---

    def _run_phase(self, rate: float, seconds: float) -> None:
        telegrams = max(1, round(rate * seconds / self._options.overlap))
        tally = Tally(telegrams)
        for station in self._stations:
            station.tally = tally
            station.errors.clear()
        cpu = time.process_time()
        start = time.monotonic()
        self._send_all(telegrams, rate / self._options.overlap, start, tally)
        took = time.monotonic() - start
        say(
            SentResult(
                sent=tally.sent,
                telegrams=telegrams,
                seconds=took,
                late=max(0.0, took - seconds),
                outstanding=tally.outstanding,
                cpu_us=(time.process_time() - cpu) / max(1, tally.sent) * 1e6,
            )
        )
        self._settle(tally)
        say(self._result(tally, telegrams, time.monotonic() - start - took))

    def _send_all(self, telegrams: int, rate: float, start: float, tally: Tally) -> None:
        sent = 0
        while sent < telegrams:
            due = min(telegrams, int((time.monotonic() - start) * rate) + 1, sent + MAX_BURST)
            while sent < due and self._send_telegram(sent):
                sent += 1
            # What could not be sent is tried again when there may be room.
            pause = start + sent / rate - time.monotonic() if sent == due else 0.001
            self._step(max(0.0, pause))
            if not any(station.is_up for station in self._stations):
                raise SystemExit(f"no base station is left: {self._cuts()[0]}")

    def _send_telegram(self, number: int) -> bool:
        """Send a telegram from each base station that hears it; False: not now."""
        options = self._options
        sensor = self._telegrams % options.sensors
        receivers = [
            self._stations[(sensor + k) % len(self._stations)] for k in range(options.overlap)
        ]
        if any(station.is_congested for station in receivers):
            return False
        for k, station in enumerate(receivers):
            if station.is_up:
                station.send_uplink(
                    self._template,
                    ep_eui=FIRST_SENSOR + sensor,
                    packet_cnt=self._telegrams // options.sensors,
                    eq_snr=10.0 - k,
                    telegram=number,
                )
        self._telegrams += 1
        return True

    def _settle(self, tally: Tally) -> None:
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while tally.outstanding and time.monotonic() < deadline:
            self._step(0.05)

    def _result(self, tally: Tally, telegrams: int, settle_seconds: float) -> LoadResult:
        errors: Counter[str] = Counter()
        for station in self._stations:
            errors.update(station.errors)
        return LoadResult(
            sent=tally.sent,
            answered=tally.answered,
            refused=tally.refused,
            outstanding=tally.outstanding,
            telegrams=telegrams,
            acknowledged=sum(tally.acknowledged),
            settle_seconds=settle_seconds,
            cuts=self._cuts(),
            errors=dict(errors.most_common(5)),
            latency=spread(tally.latencies_us, per_ms=1000),
        )


# --- the command line ------------------------------------------------------------------------


def make_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # base stations know the service by its CA and an address
    context.load_verify_locations(ca)
    context.load_cert_chain(certificate, key)
    return context


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description="Simulated base stations")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", type=Path, required=True, help="the CA's certificate")
    parser.add_argument("--cert", type=Path, required=True, help="one certificate for all")
    parser.add_argument("--key", type=Path, required=True, help="its key")
    parser.add_argument("--stations", type=int, default=100)
    parser.add_argument("--first-station", type=int, default=0, help="number of the first EUI")
    parser.add_argument("--sensors", type=int, default=0, help="in all; default: 10 a station")
    parser.add_argument("--overlap", type=int, default=1, help="stations that hear a telegram")
    parser.add_argument("--subpackets", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--parallel", type=int, default=50, help="connects at the same time")
    options = parser.parse_args(arguments)
    if not 1 <= options.overlap <= options.stations:
        parser.error(f"--overlap {options.overlap}: expected 1 to --stations ({options.stations})")
    return options


def main() -> None:
    given = read_options()
    options = Options(
        address=(given.host, given.port),
        stations=given.stations,
        first_station=given.first_station,
        sensors=given.sensors or 10 * given.stations,
        overlap=given.overlap,
        with_subpackets=given.subpackets,
        parallel=given.parallel,
    )
    # Nothing here makes cycles, and a collection would be measured as the service's latency.
    gc.disable()
    fleet = Fleet(options)
    seconds = fleet.connect(make_context(given.ca, given.cert, given.key))
    say({"connected": given.stations, "seconds": seconds})
    with contextlib.suppress(KeyboardInterrupt):
        fleet.attend()


if __name__ == "__main__":
    main()
