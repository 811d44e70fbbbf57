"""Downlinks and base stations that resume, restart, lose, refuse, answer late or are cut off."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bssci.core.center.dispatch import Dispatch, overruled
from bssci.core.center.downlinks import Downlink, DownlinkRecord
from bssci.core.protocol.messages import (
    AttachPropagate,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
    Message,
)

STATIONS = (1, 2, 3)
SENSORS = (0xA, 0xB)
LIFETIME = 500.0
DISTURBANCES = (
    *("resume", "resume", "resume", "resume", "cut", "new", "crash", "lose", "give up", "time out"),
)


def attach(ep_eui: int) -> AttachPropagate:
    return AttachPropagate(
        ep_eui=ep_eui, bidi=True, nwk_sn_key=bytes(16), sh_addr=1, last_packet_cnt=0,
        dual_chan=True, repetition=False, wide_carr_off=False, long_blk_dist=False,
    )  # fmt: skip


@dataclass
class Station:
    """What a base station holds, and what is on its way to it and from it."""

    held: dict[int, int] = field(default_factory=dict)
    """Queue ID -> end point."""
    done: dict[int, int] = field(default_factory=dict)
    """Operations of this session that it has carried out or refused, with what it said."""
    reports: list[DownlinkDataResult] = field(default_factory=list)
    """What it has to say and has no answer to yet."""
    told: int = 0
    """How many of these are on their way on this connection."""
    is_connected: bool = False
    # the Service Center's side of the session
    last_op: int = 0
    pending: dict[int, Message] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)
    # on their way
    inbound: list[Message] = field(default_factory=list)
    answers: list[tuple[Message, int]] = field(default_factory=list)


class DispatchMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.dispatch = Dispatch()
        self.stations = {bs_eui: Station() for bs_eui in STATIONS}
        self.stored: dict[int, DownlinkRecord] = {}
        self.results: dict[int, list[tuple[str, str | None]]] = {}
        self.sent: Counter[int] = Counter()
        self.reported: set[int] = set()
        self.acks: set[tuple[int, int]] = set()
        self.cnt = dict.fromkeys(SENSORS, 0)
        self.receivers: dict[int, tuple[int, ...]] = dict.fromkeys(SENSORS, ())
        self.delivered: dict[int, set[int]] = {ep_eui: set() for ep_eui in SENSORS}
        self.acknowledged: set[int] = set()
        self.next_id = 0

    @property
    def at_ns(self) -> int:
        return int(self.now * 1e9)

    # --- what the runtime does after each call ---

    def settle(self) -> None:
        for news in self.dispatch.take_news():
            que_id = news.record.downlink.que_id
            self.stored[que_id] = news.record
            if news.event in ("sent", "expired", "invalid", "revoked", "rejected"):
                self.results.setdefault(que_id, []).append((news.event, news.overrules))
            if news.event == "acknowledged":
                assert que_id not in self.acknowledged
                self.acknowledged.add(que_id)
        while unrouted := self.dispatch.take_unrouted():
            for ep_eui in unrouted:
                reach = [b for b in self.receivers[ep_eui] if self.stations[b].is_connected]
                self.dispatch.route(ep_eui, reach, now=self.now)
            for news in self.dispatch.take_news():
                self.stored[news.record.downlink.que_id] = news.record
        for bs_eui in sorted(self.dispatch.take_due()):
            station = self.stations[bs_eui]
            while operation := self.dispatch.next_operation(bs_eui, now=self.now):
                self.issue(station, operation.message)

    def issue(self, station: Station, message: Message) -> None:
        station.last_op -= 1
        message = replace(message, op_id=station.last_op)
        station.pending[message.op_id] = message
        station.inbound.append(message)

    # --- applications ---

    @rule(
        ep_eui=st.sampled_from(SENSORS), prio=st.sampled_from([0.0, 1.0]), ahead=st.integers(0, 3)
    )
    def send(self, ep_eui, prio, ahead):
        self.next_id += 1
        counters = tuple(self.cnt[ep_eui] + n + 1 for n in range(ahead)) or None
        downlink = Downlink(
            que_id=self.next_id,
            ep_eui=ep_eui,
            user_data=(b"x",) * (ahead or 1),
            packet_cnt=counters,
            prio=prio,
            created_ns=self.at_ns,
            expires_ns=self.at_ns + int(LIFETIME * 1e9),
        )
        self.dispatch.add(downlink, deadline=self.now + LIFETIME)
        self.settle()

    @precondition(lambda self: self.next_id)
    @rule(back=st.integers(0, 3))
    def cancel(self, back):
        self.dispatch.cancel(max(1, self.next_id - back), at_ns=self.at_ns)
        self.settle()

    @rule(seconds=st.sampled_from([1.0, 31.0, 70.0, 130.0, 600.0]))
    def pass_time(self, seconds):
        for bs_eui, station in self.stations.items():
            # What a base station reports arrives within seconds, as long as it is connected.
            while station.is_connected and station.told < len(station.reports):
                self.hear_report(bs_eui)
        self.now += seconds
        self.dispatch.pass_time(now=self.now, at_ns=self.at_ns)
        self.settle()

    # --- base stations ---

    @initialize(bs_euis=st.sets(st.sampled_from(STATIONS), min_size=1))
    def begin(self, bs_euis):
        for bs_eui in sorted(bs_euis):
            self.connect(bs_eui, wants_new=True)
        for ep_eui in SENSORS:
            self.uplink(ep_eui, sorted(bs_euis), is_open=True, steps=1)

    @rule(
        bs_eui=st.sampled_from(STATIONS),
        what=st.sampled_from(DISTURBANCES),
    )
    def disturb(self, bs_eui, what):
        match what:
            case "resume" | "new":
                self.connect(bs_eui, wants_new=what == "new")
            case "cut":
                self.cut(bs_eui)
            case "crash":
                self.crash()
            case "lose":
                self.stations[bs_eui].held.clear()
            case "give up":
                self.give_up(bs_eui)
            case "time out":
                self.time_out(bs_eui)

    def connect(self, bs_eui, *, wants_new):
        station = self.stations[bs_eui]
        if station.is_connected:
            self.cut(bs_eui)
        station.is_connected = True
        if wants_new:
            station.held.clear()
            station.done.clear()
            for said in station.reports:
                if said.result == "sent" and said.que_id not in self.reported:
                    self.sent[said.que_id] -= 1  # nobody can know: it is sent again
            station.reports.clear()
            station.pending.clear()
            station.last_op = 0
        station.given_up.clear()
        station.inbound = list(station.pending.values())
        self.dispatch.station_connected(
            bs_eui,
            is_new=wants_new,
            unanswered=tuple(station.pending.values()),
            now=self.now,
            at_ns=self.at_ns,
        )
        self.settle()

    def cut(self, bs_eui):
        station = self.stations[bs_eui]
        if station.is_connected:
            self.lose_connection(station)
            self.dispatch.station_disconnected(bs_eui, at_ns=self.at_ns)
            self.settle()

    def lose_connection(self, station):
        station.is_connected = False
        station.inbound.clear()
        station.answers.clear()
        station.told = 0

    def crash(self):
        for station in self.stations.values():
            self.lose_connection(station)
        self.dispatch = Dispatch()
        for record in self.stored.values():
            if record.ending is None or record.holder is not None or _may_be_acknowledged(record):
                self.dispatch.recall(record, deadline=record.downlink.expires_ns / 1e9)
        self.settle()

    def is_busy(self):
        return any(s.inbound or s.answers or s.reports for s in self.stations.values())

    @precondition(is_busy)
    @rule(
        bs_eui=st.sampled_from(STATIONS),
        steps=st.lists(st.sampled_from("wwwaaar."), min_size=1, max_size=8),
        refusal=st.sampled_from([0, 0, 0, 0, 0, 95, 28, 2, 22]),
    )
    def go_on(self, bs_eui, steps, refusal):
        """It carries out what it was told, and its words arrive."""
        for step in steps:
            match step:
                case "w":
                    self.work(bs_eui, refusal)
                case "a":
                    self.hear_answer(bs_eui)
                case "r":
                    self.hear_report(bs_eui)
                case ".":
                    self.hear_answer_to_report(bs_eui)

    def work(self, bs_eui, refusal):
        station = self.stations[bs_eui]
        if not station.inbound:
            return
        message = station.inbound.pop(0)
        code = station.done.get(message.op_id)
        if code is None:
            code = station.done[message.op_id] = self.carry_out(station, message, refusal)
        station.answers.append((message, code))

    def carry_out(self, station, message, refusal):
        match message:
            case DownlinkDataQueue(que_id=que_id):
                if que_id in station.held:
                    return 17
                if not refusal:
                    station.held[que_id] = message.ep_eui
                return refusal
            case DownlinkDataRevoke(que_id=que_id):
                if que_id not in station.held:
                    return 95 if refusal in (0, 95) else refusal
                if refusal in (0, 95, 2):  # it does hold it
                    del station.held[que_id]
                    return 0
                return refusal
            case AttachPropagate(ep_eui=ep_eui):
                for que_id in [q for q, each in station.held.items() if each == ep_eui]:
                    del station.held[que_id]
                return 0

    def hear_answer(self, bs_eui):
        station = self.stations[bs_eui]
        if not station.answers:
            return
        message, code = station.answers.pop(0)
        if station.pending.pop(message.op_id, None) is None:
            return
        if isinstance(message, AttachPropagate):
            self.dispatch.attached(
                bs_eui, message.ep_eui, message.op_id, now=self.now, at_ns=self.at_ns
            )
        elif code:
            self.dispatch.refused(bs_eui, message, code, "no", now=self.now, at_ns=self.at_ns)
        else:
            self.dispatch.answered(bs_eui, message, now=self.now, at_ns=self.at_ns)
        self.settle()

    def time_out(self, bs_eui):
        station = self.stations[bs_eui]
        for op_id, message in tuple(station.pending.items()):
            if op_id not in station.given_up and not isinstance(message, AttachPropagate):
                station.given_up.add(op_id)
                self.dispatch.timed_out(bs_eui, message, now=self.now, at_ns=self.at_ns)
                self.settle()
                return

    @rule(bs_eui=st.sampled_from(STATIONS), ep_eui=st.sampled_from(SENSORS))
    def propagate(self, bs_eui, ep_eui):
        if self.stations[bs_eui].is_connected:
            self.issue(self.stations[bs_eui], attach(ep_eui))

    def give_up(self, bs_eui):
        """The base station itself finds that something cannot be sent any more."""
        station = self.stations[bs_eui]
        if station.held:
            self.report(station, min(station.held), "expired", None)

    def report(self, station, que_id, result, packet_cnt):
        ep_eui = station.held.pop(que_id)
        station.reports.append(
            DownlinkDataResult(
                ep_eui=ep_eui,
                que_id=que_id,
                result=result,
                tx_time=None if packet_cnt is None else self.at_ns,
                packet_cnt=packet_cnt,
            )
        )

    def hear_report(self, bs_eui):
        station = self.stations[bs_eui]
        if station.is_connected and station.told < len(station.reports):
            said = station.reports[station.told]
            self.take(bs_eui, said)
            # Its response may be lost with the connection; then the report comes again.
            station.told += 1

    def hear_answer_to_report(self, bs_eui):
        station = self.stations[bs_eui]
        if station.told:
            station.told -= 1
            station.reports.pop(0)

    def take(self, bs_eui, said):
        if said.result == "sent":
            self.reported.add(said.que_id)
        if not self.dispatch.take_result(bs_eui, said, at_ns=self.at_ns):
            news = overruled(self.stored[said.que_id], bs_eui, said, at_ns=self.at_ns)
            if news is not None:
                self.stored[said.que_id] = news.record
                self.results[said.que_id].append((str(news.event), news.overrules))
        self.settle()

    # --- end points ---

    @rule(
        ep_eui=st.sampled_from(SENSORS),
        receivers=st.lists(st.sampled_from(STATIONS), min_size=1, max_size=3, unique=True),
        is_open=st.booleans(),
        steps=st.sampled_from([1, 1, 1, 2]),
    )
    def uplink(self, ep_eui, receivers, is_open, steps):
        self.cnt[ep_eui] += steps
        cnt = self.cnt[ep_eui]
        acks = bool(self.delivered[ep_eui] & {cnt - 1})
        heard_by = [bs_eui for bs_eui in receivers if self.stations[bs_eui].is_connected]
        for bs_eui in receivers:
            if bs_eui in heard_by:
                self.receivers[ep_eui] = tuple(heard_by)
                self.dispatch.heard(ep_eui, cnt, dl_ack=acks, at_ns=self.at_ns)
                if is_open:
                    self.dispatch.window_opened(ep_eui, bs_eui, now=self.now)
                self.settle()
        if is_open:
            for bs_eui in receivers:
                self.transmit(bs_eui, ep_eui, cnt)
        if is_open and heard_by:
            self.dispatch.received_by(ep_eui, receivers, heard_by)
            self.settle()

    def transmit(self, bs_eui, ep_eui, cnt):
        station = self.stations[bs_eui]
        for que_id, each in sorted(station.held.items()):
            counters = self.stored[que_id].downlink.packet_cnt
            if each == ep_eui and (counters is None or cnt in counters):
                self.sent[que_id] += 1
                self.delivered[ep_eui].add(cnt)
                self.report(station, que_id, "sent", cnt)
                return

    # --- what always holds ---

    @invariant()
    def a_downlink_is_never_at_two_base_stations(self):
        places = Counter(
            que_id
            for station in self.stations.values()
            for que_id in {
                *station.held,
                *(m.que_id for m in station.inbound if isinstance(m, DownlinkDataQueue)),
            }
        )
        assert [que_id for que_id, count in places.items() if count > 1] == []

    @invariant()
    def it_is_never_sent_twice(self):
        assert [que_id for que_id, count in self.sent.items() if count > 1] == []

    @invariant()
    def it_has_one_result(self):
        for told in self.results.values():
            assert told[0][1] is None
            assert len(told) == 1 or (
                len(told) == 2 and told[1] == ("sent", told[0][0]) and told[0][0] != "sent"
            )

    @invariant()
    def what_is_acknowledged_was_sent(self):
        assert all(self.results[que_id][-1][0] == "sent" for que_id in self.acknowledged)

    def check(self):
        self.a_downlink_is_never_at_two_base_stations()
        self.it_is_never_sent_twice()
        self.it_has_one_result()
        self.what_is_acknowledged_was_sent()

    def teardown(self) -> None:
        """In the end everything has its result, and what was reported as sent is sent."""
        for bs_eui in STATIONS:
            self.connect(bs_eui, wants_new=False)
        for _ in range(20):
            self.now += 2 * LIFETIME
            self.dispatch.pass_time(now=self.now, at_ns=self.at_ns)
            self.settle()
            for bs_eui, station in self.stations.items():
                while station.inbound or station.answers or station.told < len(station.reports):
                    self.work(bs_eui, 0)
                    self.hear_answer(bs_eui)
                    self.hear_report(bs_eui)
        assert sorted(self.results) == list(range(1, self.next_id + 1))
        for que_id in self.reported:
            assert self.results[que_id][-1][0] == "sent"
        assert [record for record in self.stored.values() if record.holder is not None] == []
        assert not any(self.dispatch.waiting(ep_eui) for ep_eui in SENSORS)


def _may_be_acknowledged(record: DownlinkRecord) -> bool:
    ending = record.ending
    return ending is not None and ending.result == "sent" and record.acknowledged_ns is None


DispatchMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=80, deadline=None
)
TestDispatch = DispatchMachine.TestCase


def live(seed: int, steps: int) -> None:
    """A long life, as chance would have it: more happens than in one that shrinks well."""
    chance = Random(seed)
    machine = DispatchMachine()
    machine.begin({*STATIONS})
    for _ in range(steps):
        bs_eui, ep_eui = chance.choice(STATIONS), chance.choice(SENSORS)
        match chance.choices(range(7), [20, 3, 6, 40, 6, 2, 12])[0]:
            case 0:
                steps_of_it = [chance.choice("wwwaaar.") for _ in range(chance.randrange(1, 9))]
                machine.go_on(bs_eui, steps_of_it, chance.choice([0] * 8 + [95, 28, 2, 22]))
            case 1:
                machine.pass_time(chance.choice([1.0, 31.0, 70.0, 130.0, 600.0]))
            case 2:
                machine.send(ep_eui, chance.choice([0.0, 1.0]), chance.choice([0, 0, 0, 1, 3]))
            case 3:
                machine.go_on(bs_eui, "wawawarr", 0)
            case 4:
                receivers = chance.sample(STATIONS, chance.randrange(1, 4))
                is_open = chance.random() < 0.7
                machine.uplink(ep_eui, receivers, is_open, chance.choice([1, 1, 1, 2]))
            case 5 if machine.next_id:
                machine.cancel(chance.randrange(4))
            case 6:
                if chance.random() < 0.3:
                    machine.propagate(bs_eui, ep_eui)
                else:
                    machine.disturb(bs_eui, chance.choice(DISTURBANCES))
        machine.check()
    machine.teardown()


@pytest.mark.parametrize("block", range(10))
def test_a_long_life_of_downlinks(block):
    for seed in range(25 * block, 25 * (block + 1)):
        live(seed, 400)
