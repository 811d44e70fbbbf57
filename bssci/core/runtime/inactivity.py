"""What is heard of the end points, and what their silence leads to.

Hearing is learned from settled uplinks and written down now and then; after a crash what is missing
is learned again from the history. Silence is counted by `center.silence`: only while the service
was up and a base station that hears the end point was connected, on a monotonic clock. So what is
lost in a crash are some seconds of silence, never a telegram.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.center.roster import Activity, activity_of
from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.eui import format_eui, parse_eui
from bssci.core.runtime.life import Edit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bssci.core.center.end_points import EndPoint
    from bssci.core.center.receptions import Telegram
    from bssci.core.center.records import Hearing, Wanted, Wish
    from bssci.core.runtime.life import Life

__all__ = ["Inactivity", "Notebook"]

logger = logging.getLogger(__name__)

NOTE_INTERVAL = 10.0
# Seconds between two times that what was heard is written down. A row for each end point heard
# meanwhile, in one transaction; after a crash this much is read again from the history.

PAGE = 1_000  # uplinks read at once after a start

CHUNK = 500  # end points looked at before others have their turn

RETRY = 10.0  # seconds until a decision that could not be stored is tried again

LEAST_CHECK = 1.0
# Seconds between two looks at least, also where a sensor has a very short timeout of its own.


class StoredTelegram(Protocol):
    """An uplink of the history."""

    @property
    def id(self) -> int:
        """Its number."""
        ...

    @property
    def ep_eui(self) -> int:
        """Who sent it."""
        ...

    @property
    def received_ns(self) -> int:
        """Unix time of its first reception."""
        ...

    @property
    def body(self) -> str:
        """What was published, JSON."""
        ...


class Notebook(Protocol):
    """What this needs of the store. Each coroutine may raise `StorageError`."""

    def note_hearings(
        self,
        hearings: Iterable[tuple[int, Hearing]],
        clocks: Mapping[frozenset[int], int],
        through: int,
    ) -> None:
        """What was learned from all uplinks up to `through`, and the clocks of silence."""
        ...

    def forget_clocks(self, clocks: Iterable[frozenset[int]]) -> None:
        """Clocks that nobody uses any more."""
        ...

    async def clocks(self) -> dict[frozenset[int], int]:
        """The readings of the clocks."""
        ...

    async def heard_through(self) -> int:
        """The last uplink that the hearings on disk know of."""
        ...

    async def uplinks_after(self, after: int, limit: int) -> Sequence[StoredTelegram]:
        """The uplinks after one, in order."""
        ...


class Inactivity:
    """Learns from what is heard; warns about silence, detaches for it, takes back who speaks.

    Args:
        usual_receivers: the base stations that usually hear an end point.
        check_interval: seconds between two looks at all end points, asked each time.
        reattach: whether one that was detached for silence is attached again, asked each time.
    """

    def __init__(
        self,
        life: Life,
        notebook: Notebook,
        *,
        usual_receivers: Callable[[int], frozenset[int]],
        check_interval: Callable[[], float],
        reattach: Callable[[], bool],
    ) -> None:
        self._life = life
        self._clocks = life.clocks
        self._roster = life.roster
        self._notebook = notebook
        self._usual_receivers = usual_receivers
        self._check_interval = check_interval
        self._reattach = reattach
        self._through = self._noted_through = 0
        self._spoke: dict[int, int] = {}
        """End points that spoke though they are detached, and since when they are; it was told."""
        self._returned: dict[int, None] = {}
        self._has_returned = trio.Event()
        self._is_due = trio.Event()

    async def load(self) -> None:
        """Recall the clocks and learn from what was settled last; `life` is loaded already.

        Raises:
            StorageError: it cannot be read.
        """
        self._clocks.recall(await self._notebook.clocks(), now_ns=_now_ns())
        for ep_eui in self._roster:
            if (hearing := self._roster.hearing(ep_eui)) is not None:
                self._clocks.use(hearing.receivers, now_ns=_now_ns())
        self._clocks.drop_unused()
        self._through = self._noted_through = await self._notebook.heard_through()
        while page := await self._notebook.uplinks_after(self._through, PAGE):
            for uplink in page:
                if uplink.ep_eui in self._roster:
                    self._recall(uplink)
            self._through = page[-1].id

    def _recall(self, uplink: StoredTelegram) -> None:
        body = json.loads(uplink.body)
        receivers = frozenset(parse_eui(each["bs_eui"]) for each in body["receptions"])
        known = self._roster.hearing(uplink.ep_eui)
        self._hear(
            uplink.ep_eui,
            packet_cnt=body["cnt"],
            received_ns=uplink.received_ns,
            bs_eui=parse_eui(body["bs_eui"]),
            snr=body["snr"],
            rssi=body["rssi"],
            receivers=known.receivers if known and known.receivers & receivers else receivers,
        )

    # --- hearing ---

    def heard(self, telegrams: Iterable[Telegram], through: int) -> None:
        """These telegrams are settled and on disk; `through` is the newest uplink there."""
        self._through = max(self._through, through)
        for telegram in telegrams:
            ep_eui = telegram.ep_eui
            if ep_eui in self._roster:
                best = telegram.best
                self._hear(
                    ep_eui,
                    packet_cnt=telegram.packet_cnt,
                    received_ns=telegram.received_ns,
                    bs_eui=best.bs_eui,
                    snr=best.uplink.snr,
                    rssi=best.uplink.rssi,
                    receivers=self._usual_receivers(ep_eui) or frozenset((best.bs_eui,)),
                )
                self._break_silence(ep_eui)

    def _hear(
        self,
        ep_eui: int,
        *,
        packet_cnt: int,
        received_ns: int,
        bs_eui: int,
        snr: float,
        rssi: float,
        receivers: frozenset[int],
    ) -> None:
        known = self._roster.hearing(ep_eui)
        self._roster.heard(
            ep_eui,
            packet_cnt=packet_cnt,
            received_ns=received_ns,
            bs_eui=bs_eui,
            snr=snr,
            rssi=rssi,
            receivers=receivers,
            heard_at=self._read_clock(None if known is None else known.receivers, receivers),
        )

    def _read_clock(self, before: frozenset[int] | None, now: frozenset[int]) -> int:
        if before == now:
            return self._clocks.read(now, now_ns=_now_ns())
        if before is not None:
            self._clocks.release(before)
        return self._clocks.use(now, now_ns=_now_ns())

    def _break_silence(self, ep_eui: int) -> None:
        wish = self._roster.wish(ep_eui)
        if wish is None or (wish.wanted == "attached" and not wish.is_warned):
            return
        if wish.is_warned:
            self._life.set_flags(ep_eui, is_warned=False)
            if wish.wanted == "attached":
                self._life.happen("warning_withdrawn", wish)
        if wish.wanted == "detached":
            self._note_return(wish)

    def _note_return(self, wish: Wish) -> None:
        ep_eui = wish.end_point.eui
        if self._spoke.get(ep_eui) != wish.since_ns:
            self._spoke[ep_eui] = wish.since_ns
            self._life.happen("heard_detached", wish)
            logger.info(
                "a sensor speaks though it is detached", extra={"ep_eui": format_eui(ep_eui)}
            )
        if wish.cause == "inactivity" and self._reattach():
            self._returned[ep_eui] = None
            self._has_returned.set()

    # --- how it is ---

    def silent_ns(self, ep_eui: int) -> int:
        """For how long an end point was silent though it could have been heard."""
        hearing = self._roster.hearing(ep_eui)
        if hearing is None:
            return 0
        return max(0, self._clocks.read(hearing.receivers, now_ns=_now_ns()) - hearing.heard_at)

    def activity(self, ep_eui: int) -> Activity:
        """How a registered end point is doing."""
        wish = self._roster.wish(ep_eui)
        assert wish is not None
        return activity_of(
            wish,
            self._roster.hearing(ep_eui),
            silent_ns=self.silent_ns(ep_eui),
            limits=self._life.limits,
            is_held=wish.wanted == "detached" and self._life.lifecycle.is_held(ep_eui),
        )

    # --- what comes round ---

    async def run(self) -> None:
        """Write down what was heard, watch silence, take back who returns; until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._note_now_and_then)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._take_back)
        finally:
            self._note()

    async def _note_now_and_then(self) -> None:
        while True:
            await trio.sleep(NOTE_INTERVAL)
            self._note()

    def _note(self) -> None:
        hearings = self._roster.take_hearings()
        readings = self._clocks.readings(now_ns=_now_ns())
        if hearings or readings or self._through != self._noted_through:
            self._notebook.note_hearings(hearings, readings, self._through)
            self._noted_through = self._through
        if unused := self._clocks.take_unused():
            self._notebook.forget_clocks(unused)

    def look_soon(self) -> None:
        """Limits have changed: look at all end points now."""
        self._is_due.set()

    async def _watch(self) -> None:
        pause = self._check_interval()
        while True:
            with trio.move_on_after(pause):
                await self._is_due.wait()
            self._is_due = trio.Event()
            try:
                pause = await self._check()
            except StorageError as error:
                logger.warning("sensors that are silent cannot be detached now: %s", error)
                pause = RETRY

    async def _check(self) -> float:
        """Look at all end points; seconds until that is worth while again."""
        silent: list[int] = []
        shortest = self._check_interval()
        for number, ep_eui in enumerate(tuple(self._roster)):
            if number % CHUNK == 0:
                await trio.lowlevel.checkpoint()
            wish, hearing = self._roster.wish(ep_eui), self._roster.hearing(ep_eui)
            if wish is None or hearing is None or wish.wanted == "detached":
                continue
            if wish.end_point.timeout is not None:
                shortest = min(shortest, wish.end_point.timeout / 4)
            if self._look_at(wish):
                silent.append(ep_eui)
        for start in range(0, len(silent), CHUNK):
            await self._detach(silent[start : start + CHUNK])
        return max(shortest, LEAST_CHECK)

    def _look_at(self, wish: Wish) -> bool:
        """Warn if it is time for that; True if it is time to detach."""
        limits = self._life.limits.of(wish)
        if not limits.is_enabled:
            return False
        ep_eui = wish.end_point.eui
        silent_ns = self.silent_ns(ep_eui)
        if silent_ns >= limits.detach_ns:
            return True
        if silent_ns >= limits.warn_ns and not wish.is_warned:
            self._life.set_flags(ep_eui, is_warned=True)
            self._life.happen("warning", wish, silent_ns=silent_ns)
        return False

    async def _detach(self, ep_euis: Sequence[int]) -> None:
        def silence(known: Wish | None) -> tuple[EndPoint, Wanted] | None:
            """It may have spoken, or been decided on, while this waited."""
            if known is None or known.wanted == "detached":
                return None
            ep_eui = known.end_point.eui
            limits = self._life.limits.of(known)
            if not limits.is_enabled or self.silent_ns(ep_eui) < limits.detach_ns:
                return None
            return known.end_point, "detached"

        silences = {ep_eui: self.silent_ns(ep_eui) for ep_eui in ep_euis}
        await self._life.decide(
            [Edit(ep_eui, silence) for ep_eui in ep_euis], "inactivity", silences=silences
        )

    async def _take_back(self) -> None:
        def attached(known: Wish | None) -> tuple[EndPoint, Wanted] | None:
            if known is None or known.wanted == "attached" or known.cause != "inactivity":
                return None
            return known.end_point, "attached"

        while True:
            await self._has_returned.wait()
            self._has_returned = trio.Event()
            returned, self._returned = list(self._returned), {}
            try:
                await self._life.decide([Edit(each, attached) for each in returned], "heard")
            except StorageError as error:
                logger.warning("sensors that speak again cannot be attached now: %s", error)
                self._returned = dict.fromkeys(returned) | self._returned
                self._has_returned.set()
                await trio.sleep(RETRY)


def _now_ns() -> int:
    return int(trio.current_time() * 1e9)
