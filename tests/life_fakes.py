"""A world for the sensors' life: a store in memory, base stations that behave, and a house on them.

The store keeps what a disk would keep. What is only noted is lost in a crash, as in the real one,
and one that is full takes nothing. Base stations answer at their own pace, refuse, or say nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from bssci.core.center.end_points import EndPoint
from bssci.core.center.receptions import Heard, Reception, Telegram
from bssci.core.center.records import StationRecord
from bssci.core.center.roster import Limits
from bssci.core.center.topics import uplink_body
from bssci.core.protocol.errors import (
    Code,
    OperationLostError,
    OperationRefusedError,
    StorageError,
)
from bssci.core.protocol.events import Answered, Refused
from bssci.core.protocol.messages import (
    AttachPropagate,
    AttachPropagateResponse,
    DetachPropagate,
    DetachPropagateResponse,
    Message,
    UplinkData,
)
from bssci.core.runtime.inactivity import Inactivity
from bssci.core.runtime.life import Edit, Life
from bssci.core.runtime.over_the_air import OverTheAir
from bssci.core.runtime.propagation import Turns, propagate
from bssci.core.runtime.sensors import Sensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bssci.core.center.attachment import Attachment
    from bssci.core.center.happenings import Event, Happening, Stranger
    from bssci.core.center.records import Cause, Episode, Hearing, Registration, Wanted, Wish

AVA, DIEHL, MIROMICO = 0x70B3D59CD0000951, 0x70B3D59CD0000952, 0x70B3D59CD0000953
SENSOR, METER, VALVE = 0xFCA84A030000127C, 0xFCA84A030000127D, 0xFCA84A030000127E
KEY = "2B7E151628AED2A6ABF7158809CF4F3C"
NOON = 1_756_193_850_000_000_000  # Unix time at which trio's virtual clock is 0, in ns
SECOND = 1_000_000_000
HOUR = 3600
DAY = 24 * HOUR

OPERATION_TIMEOUT = 30.0  # seconds, as in `server.operation_timeout`

LIMITS = Limits(warn_ns=24 * HOUR * SECOND, detach_ns=36 * HOUR * SECOND)

FULL = StorageError("no space left on the disk", code=Code.ENOSPC)


# --- the store -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredUplink:
    """An uplink of the history."""

    id: int
    ep_eui: int
    received_ns: int
    body: str


@dataclass
class Disk:
    """What outlives a process."""

    wishes: dict[int, Wish] = field(default_factory=dict)
    hearings: dict[int, Hearing] = field(default_factory=dict)
    attachments: dict[int, Attachment] = field(default_factory=dict)
    registrations: dict[tuple[int, int], Registration] = field(default_factory=dict)
    stations: dict[int, StationRecord] = field(default_factory=dict)
    episodes: list[Episode] = field(default_factory=list)
    clocks: dict[frozenset[int], int] = field(default_factory=dict)
    through: int = 0
    uplinks: list[StoredUplink] = field(default_factory=list)


class FakeStore:
    """Implements what `Life`, `Inactivity` and `Sensors` need of the store.

    Attributes:
        disk: what is safe.
        fault: why nothing can be written or read now.
        delay: how long a transaction takes, in seconds.
        decisions: how many transactions were asked for.
    """

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = Disk() if disk is None else disk
        self.fault: StorageError | None = None
        self.delay = 0.0
        self.decisions = 0
        self._notes: list[Callable[[], object]] = []

    def crash(self) -> FakeStore:
        """What the next process finds: notes that were not written are lost."""
        return FakeStore(copy.deepcopy(self.disk))

    def close(self) -> FakeStore:
        """What the next process finds after an orderly end."""
        self.write_notes()
        return self.crash()

    def write_notes(self) -> None:
        notes, self._notes = self._notes, []
        for note in notes:
            note()

    async def _transaction(self) -> None:
        fault = self.fault
        await trio.sleep(self.delay)
        if fault is not None:
            raise fault

    # what is decided

    async def decide(
        self,
        *,
        wishes: Sequence[Wish] = (),
        forgotten: Sequence[int] = (),
        episodes: Sequence[Episode] = (),
        attachments: Sequence[Attachment] = (),
        voided: Sequence[int] = (),
        registrations: Sequence[Registration] = (),
    ) -> None:
        self.decisions += 1
        await self._transaction()
        self.write_notes()
        for ep_eui in forgotten:
            self.disk.wishes.pop(ep_eui, None)
            self.disk.hearings.pop(ep_eui, None)
        for ep_eui in (*forgotten, *voided):
            self.disk.attachments.pop(ep_eui, None)
        for known in registrations:
            self.disk.registrations[known.bs_eui, known.ep_eui] = known
        self.disk.attachments |= {each.ep_eui: each for each in attachments}
        self.disk.wishes |= {wish.end_point.eui: wish for wish in wishes}
        self.disk.episodes += episodes

    # what is noted

    def note_registration(self, registration: Registration) -> None:
        key = registration.bs_eui, registration.ep_eui
        self._notes.append(lambda: self.disk.registrations.__setitem__(key, registration))

    def forget_registrations(self, bs_eui: int) -> None:
        self._notes.append(partial(self._forget_registrations, bs_eui))

    def _forget_registrations(self, bs_eui: int) -> None:
        kept = {key: each for key, each in self.disk.registrations.items() if key[0] != bs_eui}
        self.disk.registrations = kept

    def note_station(self, record: StationRecord) -> None:
        self._notes.append(lambda: self.disk.stations.__setitem__(record.bs_eui, record))

    def note_wish_flags(self, ep_eui: int, *, is_announced: bool, is_warned: bool) -> None:
        self._notes.append(partial(self._flag, ep_eui, is_announced, is_warned))

    def _flag(self, ep_eui: int, is_announced: bool, is_warned: bool) -> None:
        if wish := self.disk.wishes.get(ep_eui):
            self.disk.wishes[ep_eui] = replace(wish, is_announced=is_announced, is_warned=is_warned)

    def note_episode(self, episode: Episode) -> None:
        self._notes.append(lambda: self.disk.episodes.append(episode))

    def note_hearings(
        self,
        hearings: Iterable[tuple[int, Hearing]],
        clocks: Mapping[frozenset[int], int],
        through: int,
    ) -> None:
        self._notes.append(partial(self._hear, dict(hearings), dict(clocks), through))

    def _hear(
        self, hearings: dict[int, Hearing], clocks: dict[frozenset[int], int], through: int
    ) -> None:
        known = self.disk.wishes
        self.disk.hearings |= {ep: hearing for ep, hearing in hearings.items() if ep in known}
        self.disk.clocks |= clocks
        self.disk.through = max(self.disk.through, through)

    def forget_clocks(self, clocks: Iterable[frozenset[int]]) -> None:
        unused = list(clocks)
        self._notes.append(lambda: [self.disk.clocks.pop(each, None) for each in unused])

    async def flush(self) -> None:
        await self._transaction()
        self.write_notes()

    # what is read

    async def end_points(
        self, after: int = -1, limit: int = 1_000
    ) -> list[tuple[Wish, Hearing | None]]:
        await self._transaction()
        euis = sorted(ep_eui for ep_eui in self.disk.wishes if ep_eui > after)[:limit]
        return [(self.disk.wishes[each], self.disk.hearings.get(each)) for each in euis]

    async def attachments(self, after: int = -1, limit: int = 1_000) -> list[Attachment]:
        await self._transaction()
        euis = sorted(ep_eui for ep_eui in self.disk.attachments if ep_eui > after)[:limit]
        return [self.disk.attachments[each] for each in euis]

    async def registrations(
        self, after: tuple[int, int] = (-1, -1), limit: int = 1_000
    ) -> list[Registration]:
        await self._transaction()
        keys = sorted(key for key in self.disk.registrations if key > after)[:limit]
        return [self.disk.registrations[key] for key in keys]

    async def base_stations(self) -> list[StationRecord]:
        await self._transaction()
        return [record for _, record in sorted(self.disk.stations.items())]

    async def clocks(self) -> dict[frozenset[int], int]:
        await self._transaction()
        return dict(self.disk.clocks)

    async def heard_through(self) -> int:
        await self._transaction()
        return self.disk.through

    async def uplinks_after(self, after: int, limit: int) -> list[StoredUplink]:
        await self._transaction()
        return [each for each in self.disk.uplinks if each.id > after][:limit]

    async def history(self, ep_eui: int, count: int) -> list[Episode]:
        await self._transaction()
        found = [each for each in self.disk.episodes if each.ep_eui == ep_eui]
        return found[::-1][:count]


# --- base stations -------------------------------------------------------------------------


class FakeStation:
    """A base station and the link to it: implements `propagation.BaseStation`.

    Attributes:
        told: what it was told, when (trio's time); reissued operations too.
        serves: the end points it serves, as it was told.
        pace: seconds it takes for an answer.
        is_silent: it answers nothing.
        refuses: what it refuses, by end point: code and reason.
        fault: why nothing can be put on disk for it.
        most_at_once: how many operations it had at once without an answer.
        pending: the operations without an answer, by their IDs.
    """

    def __init__(self, bs_eui: int = AVA) -> None:
        self.bs_eui = bs_eui
        self.is_open = False
        self.told: list[tuple[float, Message]] = []
        self.serves: dict[int, AttachPropagate] = {}
        self.pace = 0.0
        self.is_silent = False
        self.refuses: dict[int, tuple[int, str]] = {}
        self.fault: StorageError | None = None
        self.most_at_once = 0
        self._sessions = 0
        self._last_op_id = 0
        self.pending: dict[int, Message] = {}
        self._scope = trio.CancelScope()
        self._gone = trio.Event()

    @property
    def session(self) -> bytes:
        return self._sessions.to_bytes(16, "big")

    def record(self) -> StationRecord:
        now_ns = NOON + int(trio.current_time() * 1e9)
        return StationRecord(bs_eui=self.bs_eui, session=self.session, since_ns=now_ns)

    def unanswered(self) -> list[Message]:
        return list(self.pending.values())

    def heard_of(self) -> list[tuple[str, int]]:
        """What it was told, in order: the command and the end point."""
        return [
            (each.command, each.ep_eui)
            for _, each in self.told
            if isinstance(each, AttachPropagate | DetachPropagate)
        ]

    def times(self) -> list[float]:
        """When it was told something, in seconds."""
        return [at for at, _ in self.told]

    async def serve(
        self,
        life: Life,
        *,
        resume: bool = False,
        turns: Turns | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be connected until `leave`; a new session knows nothing."""
        if not resume:
            self._sessions += 1
            self.pending.clear()
            self.serves.clear()
        self._life = life
        self._scope, self._gone, self.is_open = trio.CancelScope(), trio.Event(), True
        life.station_connected(self.record(), unanswered=self.unanswered())
        task_status.started()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for message in self.unanswered():
                        nursery.start_soon(self._answer, message)
                    await propagate(
                        self, life, turns=turns or Turns(), answer_timeout=OPERATION_TIMEOUT
                    )
        finally:
            self.is_open = False
            life.station_disconnected(self.record())
            self._gone.set()

    async def leave(self) -> None:
        """The connection ends; what is on its way is not answered."""
        self.is_open = False
        self._scope.cancel()
        await self._gone.wait()

    async def call(self, message: Message) -> Message:
        if not self.is_open:
            raise OperationLostError(f"{message.command}: the base station is not connected")
        fault = self.fault
        await trio.lowlevel.checkpoint()
        if fault is not None:
            raise fault
        self._last_op_id -= 1
        issued = replace(message, op_id=self._last_op_id)
        self.pending[issued.op_id] = issued
        self.most_at_once = max(self.most_at_once, len(self.pending))
        with trio.move_on_after(OPERATION_TIMEOUT):
            return await self._answer(issued)
        raise OperationLostError(f"{message.command}: no answer")

    async def _answer(self, issued: Message) -> Message:
        self.told.append((trio.current_time(), issued))
        if self.is_silent:
            await trio.sleep_forever()
        await trio.sleep(self.pace)
        return self.answer(issued)

    def answer(self, issued: Message) -> Message:
        """Answer an operation, however late."""
        assert isinstance(issued, AttachPropagate | DetachPropagate)
        self.pending.pop(issued.op_id, None)
        if refusal := self.refuses.get(issued.ep_eui):
            self._life.take_outcomes(self.bs_eui, [Refused(issued, *refusal)])
            raise OperationRefusedError(*refusal)
        response: Message = DetachPropagateResponse(op_id=issued.op_id)
        self.serves.pop(issued.ep_eui, None)
        if isinstance(issued, AttachPropagate):
            self.serves[issued.ep_eui] = issued
            response = AttachPropagateResponse(op_id=issued.op_id)
        self._life.take_outcomes(self.bs_eui, [Answered(issued, response)])
        return response


# --- the house -----------------------------------------------------------------------------


class House:
    """Life, inactivity and sensors on one store.

    Attributes:
        told: what has happened, in order.
        confirmed: the base stations that have done what was wanted, and of whom.
        strangers: what sensors did over the air that are not registered.
        epochs: whose packet counters began anew.
        left: who has detached over the air.
        jump_ns: by how much the wall clock was set.
        receivers: who usually hears an end point, where that is known.
        undo: what was put into the undo file.
    """

    def __init__(self, store: FakeStore, *, limits: Limits, check_interval: float) -> None:
        self.store = store
        self.told: list[Happening] = []
        self.strangers: list[Stranger] = []
        self.epochs: list[int] = []
        self.left: list[int] = []
        self.jump_ns = 0
        self.receivers: dict[int, frozenset[int]] = {}
        self.check_interval = check_interval
        self.reattach = True
        self.undo: list[Mapping[str, object]] = []
        self.undo_fault: OSError | None = None
        self.confirmed: list[tuple[int, int]] = []
        self.life = Life(
            store,
            limits=limits,
            unix_ns=self.unix_ns,
            tell=self.told.append,
            tell_confirmed=lambda bs_eui, ep_eui: self.confirmed.append((bs_eui, ep_eui)),
        )
        self.inactivity = Inactivity(
            self.life,
            store,
            usual_receivers=lambda ep_eui: self.receivers.get(ep_eui, frozenset()),
            check_interval=lambda: self.check_interval,
            reattach=lambda: self.reattach,
        )
        self.over_the_air = OverTheAir(
            self.life,
            unix_ns=self.unix_ns,
            on_new_epoch=self.epochs.append,
            on_detached=self.left.append,
            tell_stranger=self.strangers.append,
        )
        self.sensors = Sensors(self.life, self.inactivity, store, keep_undo=self._keep_undo)

    def unix_ns(self) -> int:
        return NOON + int(trio.current_time() * 1e9) + self.jump_ns

    def _keep_undo(self, rows: Sequence[Mapping[str, object]]) -> Path:
        if self.undo_fault is not None:
            raise self.undo_fault
        self.undo = list(rows)
        return Path("undo.json")

    def events(self, *events: Event) -> list[tuple[str, int]]:
        """What has happened to whom, in order; of these kinds, or of all."""
        return [
            (each.event, each.ep_eui) for each in self.told if not events or each.event in events
        ]

    async def want(
        self, *end_points: EndPoint, wanted: Wanted = "attached", cause: Cause = "command"
    ) -> None:
        await self.life.decide([edit(each, wanted) for each in end_points], cause)

    def hear(
        self,
        ep_eui: int,
        *stations: int,
        cnt: int = 1,
        snr: float = 10.0,
        is_lost: bool = False,
    ) -> None:
        """A telegram is settled, heard by these base stations, the best one first.

        With `is_lost` the process ends before it learns from it.
        """
        telegram = telegram_of(ep_eui, *stations, cnt=cnt, snr=snr, at_ns=self.unix_ns())
        uplinks = self.store.disk.uplinks
        number = len(uplinks) + 1
        body = uplink_body(telegram, uid=str(number), registered=True)
        uplinks.append(StoredUplink(number, ep_eui, telegram.received_ns, body))
        if not is_lost:
            self.inactivity.heard([telegram], number)


async def open_house(
    store: FakeStore | None = None, *, limits: Limits = LIMITS, check_interval: float = 600.0
) -> House:
    """A house that has recalled what the store knows."""
    house = House(store or FakeStore(), limits=limits, check_interval=check_interval)
    await house.life.load()
    await house.inactivity.load()
    return house


def edit(wanted_so: EndPoint, wanted: Wanted = "attached") -> Edit:
    """Have it so, whatever was wanted before."""
    return Edit(wanted_so.eui, lambda _: (wanted_so, wanted))


def end_point(eui: int = SENSOR, **parameters: Any) -> EndPoint:
    known = EndPoint(eui=eui, nwk_key=bytes.fromhex(KEY), short_addr=eui & 0xFFFF)
    return replace(known, **parameters)


def telegram_of(ep_eui: int, *stations: int, cnt: int, snr: float, at_ns: int) -> Telegram:
    heard = [
        Heard(
            Reception(
                row=number,
                bs_eui=bs_eui,
                received_ns=at_ns,
                session=bytes(16),
                uplink=UplinkData(
                    op_id=number,
                    ep_eui=ep_eui,
                    rx_time=at_ns,
                    packet_cnt=cnt,
                    snr=snr - number,
                    rssi=-90.0 - number,
                    user_data=b"\x01",
                    dl_open=False,
                    response_exp=False,
                    dl_ack=False,
                ),
                payload=b"",
            ),
            None,
        )
        for number, bs_eui in enumerate(stations)
    ]
    return Telegram(
        ep_eui=ep_eui,
        packet_cnt=cnt,
        digest=bytes(16),
        counter_reused=False,
        receptions=tuple(heard),
        received_ns=at_ns,
        row=0,
    )
