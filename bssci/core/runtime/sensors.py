"""What can be done with sensors: the methods behind the command line, MQTT and the control socket.

A sensor is an end point as people call it. Each method is a coroutine of plain values, and what it
gives is the JSON of `center.shapes`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.center.end_points import (
    KEY_MASK,
    EndPoint,
    InvalidEndPointError,
    changes_between,
    end_point_of,
    shown,
)
from bssci.core.center.roster import ACTIVITIES
from bssci.core.center.rpc import InvalidRequestError, NotFoundError, RequestError
from bssci.core.center.shapes import (
    episode_shape,
    outcome_shape,
    sensor_details,
    sensor_shape,
)
from bssci.core.protocol.errors import InvalidEuiError, StorageError
from bssci.core.protocol.eui import format_eui, parse_eui
from bssci.core.runtime.imports import ImportedRow
from bssci.core.runtime.life import Edit
from bssci.core.runtime.together import Together

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from bssci.core.center.records import Cause, Episode, Wanted, Wish
    from bssci.core.center.roster import Activity
    from bssci.core.runtime.inactivity import Inactivity
    from bssci.core.runtime.life import Life, Standing

__all__ = ["History", "SensorState", "Sensors"]

WAIT = 30.0  # seconds that a method waits for base stations when it is not told otherwise

CHUNK = 100  # sensors shown before others have their turn

MAX_WAIT = 3600.0  # seconds

LAST_WORD = 2.0  # seconds to end what was begun, for somebody who has gone

Fields = dict[str, object]


def _nothing(ep_eui: int) -> Fields | None:
    """No end point has told how it receives."""
    return None


class History(Protocol):
    """What this needs of the store."""

    async def history(self, ep_eui: int, count: int) -> list[Episode]:
        """What happened to an end point, newest first."""
        ...

    async def flush(self) -> None:
        """Put on disk what was noted."""
        ...


@dataclass(frozen=True, slots=True)
class SensorState:
    """How it is with a sensor.

    Attributes:
        confirmed: the base stations that serve it as it is wanted.
        last_seen_ns: Unix time of its last telegram.
        reception: how it has told that it received a downlink, as listings show it.
    """

    confirmed: tuple[int, ...]
    last_seen_ns: int | None
    activity: Activity
    reception: Fields | None = None


class Sensors:
    """The methods that are named `sensors.…`.

    Every one may raise `RequestError` (or a kind of it), whose words are for the person who asked,
    and `StorageError`: nothing was done then.
    """

    def __init__(
        self,
        life: Life,
        inactivity: Inactivity,
        history: History,
        *,
        keep_undo: Callable[[Sequence[Mapping[str, object]]], Path],
        reception: Callable[[int], Fields | None] = _nothing,
    ) -> None:
        """
        Args:
            keep_undo: writes sensors with their keys to a file that can be imported.
            reception: how an end point has told that it received a downlink, as listings show it.
        """
        self._life = life
        self._roster = life.roster
        self._inactivity = inactivity
        self._history = history
        self._keep_undo = keep_undo
        self._reception = reception
        self._together = Together(life)

    # --- whom ---

    def find(self, text: str) -> int:
        """The registered end point that an EUI or a name means.

        Raises:
            NotFoundError: none; InvalidRequestError: several.
        """
        found = self._roster.named(text)
        if len(found) == 1:
            return found[0]
        if found:
            euis = ", ".join(map(format_eui, found[:5]))
            raise InvalidRequestError(
                f"{len(found)} sensors are named {shown(text)}", hint=f"Give the EUI: {euis}"
            )
        try:
            what = f"sensor {format_eui(parse_eui(text))} is not registered"
        except InvalidEuiError as error:
            what = f"no sensor is named {shown(text)}, and {_no_eui(text, error)}"
        raise NotFoundError(what, hint="`bssci sensors list` shows those that are")

    def _wish(self, ep_eui: int) -> Wish:
        wish = self._roster.wish(ep_eui)
        if wish is None:
            raise NotFoundError(f"sensor {format_eui(ep_eui)} is not registered")
        return wish

    # --- showing ---

    def shape(self, ep_eui: int, *, reveal: bool = False) -> Fields:
        """A registered sensor as listings show it."""
        return sensor_shape(
            self._wish(ep_eui),
            self._roster.hearing(ep_eui),
            activity=self._inactivity.activity(ep_eui),
            standing=self._life.lifecycle.standing(ep_eui),
            reveal=reveal,
        )

    async def list_(
        self,
        *,
        stale: bool = False,
        activity: str | None = None,
        tag: str | None = None,
        after: str | None = None,
        count: int | None = None,
        reveal: bool = False,
    ) -> list[Fields]:
        """Sensors by EUI; with `stale`, those whose silence counts, who is detached first comes
        first. At most `count` of them.
        """
        if count is not None and count < 1:
            raise InvalidRequestError(f"count: found {count}, at least 1 is expected")
        if stale:
            chosen: Iterable[int] = [ep for _, ep in await self._stale()]
        else:
            chosen = self._roster.after(-1 if after is None else _eui(after))
        listed: list[Fields] = []
        for number, ep_eui in enumerate(chosen):
            if number % CHUNK == 0:
                await trio.lowlevel.checkpoint()
            if count is not None and len(listed) >= count:
                break
            if self._is_wanted(ep_eui, activity, tag):
                listed.append(self.shape(ep_eui, reveal=reveal))
                if stale:
                    listed[-1]["detach_in"] = self._left_ns(ep_eui) / 1e9
        return listed

    def _is_wanted(self, ep_eui: int, activity: str | None, tag: str | None) -> bool:
        wish = self._roster.wish(ep_eui)
        if wish is None or (tag is not None and tag not in wish.end_point.tags):
            return False
        return activity is None or self._inactivity.activity(ep_eui) == activity

    async def _stale(self) -> list[tuple[int, int]]:
        """Who is detached if it stays silent, and in how many ns; the soonest first."""
        found = []
        for number, ep_eui in enumerate(tuple(self._roster)):
            if number % CHUNK == 0:
                await trio.lowlevel.checkpoint()
            wish, hearing = self._roster.wish(ep_eui), self._roster.hearing(ep_eui)
            if wish is None or hearing is None or wish.wanted == "detached":
                continue
            if self._life.limits.of(wish).is_enabled:
                found.append((self._left_ns(ep_eui), ep_eui))
        return sorted(found)

    def _left_ns(self, ep_eui: int) -> int:
        limits = self._life.limits.of(self._wish(ep_eui))
        return limits.detach_ns - self._inactivity.silent_ns(ep_eui)

    async def get(self, *, eui: str, reveal: bool = False) -> Fields:
        """One sensor, with everything that is known of it."""
        ep_eui = self.find(eui)
        wish = self._wish(ep_eui)
        limits = self._life.limits.of(wish)
        return (
            self.shape(ep_eui, reveal=reveal)
            | sensor_details(
                wish,
                self._roster.hearing(ep_eui),
                silent_ns=self._inactivity.silent_ns(ep_eui),
                limits_ns=(limits.warn_ns, limits.detach_ns) if limits.is_enabled else None,
                attachment=self._life.attachments.get(ep_eui),
            )
            | {"downlink_reception": self._reception(ep_eui)}
        )

    async def history(self, *, eui: str, count: int = 50) -> list[Fields]:
        """What happened to a sensor, newest first; also to one that is not registered any more."""
        try:
            ep_eui = self.find(eui)
        except NotFoundError:
            try:
                ep_eui = parse_eui(eui)
            except InvalidEuiError:
                raise NotFoundError(f"no sensor is named {shown(eui)}") from None
        with contextlib.suppress(StorageError):
            await self._history.flush()  # what has just happened is part of it
        episodes = await self._history.history(ep_eui, max(1, count))
        if not episodes and ep_eui not in self._roster:
            raise NotFoundError(f"sensor {format_eui(ep_eui)} is not registered")
        return [episode_shape(each) for each in episodes]

    # --- deciding ---

    async def add(
        self,
        *,
        eui: str,
        key: str,
        short_addr: str | int | None = None,
        bidi: bool | None = None,
        dual_chan: bool | None = None,
        repetition: bool | None = None,
        wide_carr_off: bool | None = None,
        long_blk_dist: bool | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        ota: bool | None = None,
        timeout: float | None = None,
        wait: float = WAIT,
    ) -> Fields:
        """Register a sensor and have it attached everywhere; what the base stations say to it."""
        given = _given(
            key=key,
            short_addr=short_addr,
            bidi=bidi,
            dual_chan=dual_chan,
            repetition=repetition,
            wide_carr_off=wide_carr_off,
            long_blk_dist=long_blk_dist,
            name=name,
            tags=tags,
            ota=ota,
            timeout=timeout,
        )
        ep_eui = _eui(eui)
        _check_wait(wait)

        def added(known: Wish | None) -> tuple[EndPoint, Wanted]:
            made = self._made(given, ep_eui, None)
            if known is not None and known.end_point != made:
                raise RequestError(
                    f"sensor {format_eui(ep_eui)} is registered already, with other parameters",
                    hint="`bssci sensors set` changes them",
                )
            return made, "attached"

        await self._decide([Edit(ep_eui, added)], "command")
        return await self._outcome(ep_eui, wait)

    async def set(
        self,
        *,
        eui: str,
        key: str | None = None,
        short_addr: str | int | None = None,
        bidi: bool | None = None,
        dual_chan: bool | None = None,
        repetition: bool | None = None,
        wide_carr_off: bool | None = None,
        long_blk_dist: bool | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        ota: bool | None = None,
        timeout: float | str | None = None,
        wait: float = WAIT,
    ) -> Fields:
        """Change parameters of a sensor; `timeout` "none" takes its own one away."""
        given = _given(
            key=key,
            short_addr=short_addr,
            bidi=bidi,
            dual_chan=dual_chan,
            repetition=repetition,
            wide_carr_off=wide_carr_off,
            long_blk_dist=long_blk_dist,
            name=name,
            tags=tags,
            ota=ota,
            timeout=timeout,
        )
        if timeout == "none":
            given["timeout"] = None
        ep_eui = self.find(eui)
        _check_wait(wait)
        ((before, after),) = await self._decide(
            [Edit(ep_eui, self._changed(given, ep_eui))], "command"
        )
        assert before is not None
        assert after is not None
        changes = changes_between(before.end_point, after.end_point)
        return await self._outcome(ep_eui, wait) | {
            "changes": {field: list(pair) for field, pair in changes.items()}
        }

    async def _decide(
        self, edits: Sequence[Edit], cause: Cause
    ) -> list[tuple[Wish | None, Wish | None]]:
        decided = await self._life.decide(edits, cause)
        if any(_timeout(before) != _timeout(after) for before, after in decided):
            self._inactivity.look_soon()
        return decided

    def _changed(
        self, given: Mapping[str, object], ep_eui: int
    ) -> Callable[[Wish | None], tuple[EndPoint, Wanted]]:
        def changed(known: Wish | None) -> tuple[EndPoint, Wanted]:
            if known is None:
                raise NotFoundError(f"sensor {format_eui(ep_eui)} is not registered")
            return self._made(given, ep_eui, known.end_point), known.wanted

        return changed

    def _made(self, given: Mapping[str, object], ep_eui: int, known: EndPoint | None) -> EndPoint:
        try:
            return end_point_of(given, eui=ep_eui, known=known)
        except InvalidEndPointError as error:
            raise InvalidRequestError(f"sensor {format_eui(ep_eui)}: {error}") from error

    def check(self, ep_eui: int, given: Mapping[str, object]) -> None:
        """Whether `configure` would accept this now.

        Raises:
            InvalidRequestError: says everything that is wrong with what was given.
        """
        wish = self._roster.wish(ep_eui)
        self._made(given, ep_eui, None if wish is None else wish.end_point)

    def state(self, ep_eui: int) -> SensorState | None:
        """How it is with a sensor; None: it is not registered."""
        if ep_eui not in self._roster:
            return None
        hearing = self._roster.hearing(ep_eui)
        return SensorState(
            confirmed=tuple(self._holders(ep_eui)),
            last_seen_ns=None if hearing is None else hearing.last_seen_ns,
            activity=self._inactivity.activity(ep_eui),
            reception=self._reception(ep_eui),
        )

    async def configure(self, ep_eui: int, given: Mapping[str, object], cause: Cause) -> None:
        """Register a sensor or change it, and want it attached: what arrives by MQTT.

        Raises:
            InvalidRequestError: says everything that is wrong with what was given.
        """

        def configured(known: Wish | None) -> tuple[EndPoint, Wanted]:
            return self._made(given, ep_eui, None if known is None else known.end_point), "attached"

        await self._decide([Edit(ep_eui, configured)], cause)

    async def want(self, ep_eui: int, wanted: Wanted, cause: Cause) -> None:
        """Have a registered sensor attached or detached; it is on disk when this returns.

        Raises:
            NotFoundError: it is not registered.
        """

        def decided(known: Wish | None) -> tuple[EndPoint, Wanted] | None:
            return None if known is None else (known.end_point, wanted)

        before, _ = await self._together.decide(Edit(ep_eui, decided, insists=True), cause)
        if before is None:
            raise NotFoundError(f"sensor {format_eui(ep_eui)} is not registered")

    async def attach(self, *, eui: str, timeout: float = WAIT) -> Fields:
        """Have a sensor attached everywhere; what the base stations say within `timeout`."""
        ep_eui = self.find(eui)
        _check_wait(timeout)
        await self.want(ep_eui, "attached", "command")
        return await self._outcome(ep_eui, timeout)

    async def detach(self, *, eui: str, timeout: float = WAIT) -> Fields:
        """Have a sensor detached everywhere; what the base stations say within `timeout`."""
        ep_eui = self.find(eui)
        _check_wait(timeout)
        holders = self._holders(ep_eui)
        await self.want(ep_eui, "detached", "command")
        return await self._outcome(ep_eui, timeout, holders)

    async def remove(self, *, eui: str, timeout: float = WAIT) -> Fields:
        """Have a sensor detached everywhere and forget it, at the latest after `timeout`.

        A base station that was away until then is told when it is back.
        """
        ep_eui = self.find(eui)
        _check_wait(timeout)
        holders = self._holders(ep_eui)
        await self.want(ep_eui, "detached", "command")
        async with self._forgetting([ep_eui]):
            return await self._outcome(ep_eui, timeout, holders)

    @asynccontextmanager
    async def _forgetting(self, ep_euis: Sequence[int]) -> AsyncIterator[None]:
        """What was begun is ended also when whoever asked for it does not wait for it any more."""
        try:
            yield
        except trio.Cancelled:
            with trio.move_on_after(LAST_WORD, shield=True), contextlib.suppress(StorageError):
                await self._forget_all(ep_euis)
            raise
        await self._forget_all(ep_euis)

    async def _forget_all(self, ep_euis: Sequence[int]) -> None:
        for start in range(0, len(ep_euis), CHUNK):
            await self._life.forget(ep_euis[start : start + CHUNK], "command")

    async def clear(self, *, expected: int | None = None, timeout: float = WAIT) -> Fields:
        """Have all sensors detached everywhere and forget them; first they are put into a file.

        Args:
            expected: how many there should be; if there are others, nothing is done.
        """
        _check_wait(timeout)
        every = tuple(self._roster)
        if expected is not None and expected != len(every):
            raise RequestError(
                f"there are {len(every)} sensors, not {expected}; nothing was done",
                hint="Look at `bssci sensors list` and try again",
            )
        if not every:
            return {"count": 0, "undo": None, "pending": {}}
        rows = await self.list_(reveal=True)
        try:
            undo = await trio.to_thread.run_sync(self._keep_undo, rows)
        except OSError as error:
            raise RequestError(
                f"the undo file cannot be written: {error}; nothing was done",
                hint="Make room beside the database, or `bssci sensors export FILE` first",
            ) from error
        async with self._forgetting(every):
            await self._detach_all(every)
            pending = await self._pending(every, trio.current_time() + timeout)
        return {"count": len(every), "undo": str(undo), "pending": pending}

    async def _pending(self, ep_euis: Sequence[int], deadline: float) -> dict[str, int]:
        """Of how many end points each base station has not confirmed by then what is wanted."""
        pending: Counter[str] = Counter()
        for ep_eui in ep_euis:
            standing = await self._life.wait_settled(ep_eui, deadline)
            missing = (*standing.pending, *(bs_eui for bs_eui, _ in standing.refused))
            pending.update(map(format_eui, missing))
        return dict(pending)

    async def _detach_all(self, ep_euis: Sequence[int]) -> None:
        def detached(known: Wish | None) -> tuple[EndPoint, Wanted] | None:
            return None if known is None else (known.end_point, "detached")

        for start in range(0, len(ep_euis), CHUNK):
            part = ep_euis[start : start + CHUNK]
            edits = [Edit(each, detached, insists=True) for each in part]
            await self._life.decide(edits, "command")

    # --- many at once ---

    async def import_(self, *, rows: list[dict[str, object]], dry_run: bool = False) -> Fields:
        """Register or change sensors, row by row; one that is wrong harms no other.

        Each row names its sensor by `eui`, and a `row` by which the result names it again.
        """
        read = [ImportedRow.of(row, number) for number, row in enumerate(rows, start=1)]
        usable = [row for row in read if row.error is None]
        edits = [Edit(row.ep_eui, row.wish) for row in usable]
        if dry_run:
            decided = self._life.preview(edits, "import")
        else:
            decided = await self._decide(edits, "import")
        for row, (before, after) in zip(usable, decided, strict=True):
            row.decided(before, after)
        failed = sum(row.error is not None for row in read)
        return {
            "done": len(read) - failed,
            "failed": failed,
            "rows": [row.shape() for row in read],
        }

    # --- what has become of it ---

    def _holders(self, ep_eui: int) -> list[int]:
        return [
            bs_eui
            for bs_eui, state, _ in self._life.lifecycle.standing(ep_eui)
            if state == "confirmed"
        ]

    async def _outcome(self, ep_eui: int, timeout: float, holders: Sequence[int] = ()) -> Fields:
        found = await self.settled(ep_eui, timeout, holders)
        return outcome_shape(ep_eui, found.confirmed, found.pending, found.refused)

    async def settled(
        self, ep_eui: int, timeout: float = WAIT, holders: Sequence[int] = ()
    ) -> Standing:
        """How an end point stands after at most `timeout` seconds.

        Args:
            holders: of a detach, who served it before: who does no more has confirmed.
        """
        found = await self._life.wait_settled(ep_eui, trio.current_time() + timeout)
        others = {*found.pending, *(bs_eui for bs_eui, _ in found.refused)}
        gone = [bs_eui for bs_eui in holders if bs_eui not in others]
        return replace(found, confirmed=found.confirmed or gone)

    async def counts(self) -> dict[str, int]:
        """How many sensors there are, and how many of each activity."""
        counts: Counter[str] = Counter()
        for number, ep_eui in enumerate(tuple(self._roster)):
            if number % CHUNK == 0:
                await trio.lowlevel.checkpoint()
            if ep_eui in self._roster:
                counts[self._inactivity.activity(ep_eui)] += 1
        return {"total": counts.total()} | {name: counts[name] for name in ACTIVITIES}


def _eui(text: str) -> int:
    try:
        return parse_eui(text)
    except InvalidEuiError as error:
        raise InvalidRequestError(_no_eui(text, error)) from error


def _no_eui(text: str, error: InvalidEuiError) -> str:
    """It could be a key in the wrong place."""
    is_masked = shown(text) == KEY_MASK
    return f"{KEY_MASK} is not an EUI: 16 hexadecimal digits expected" if is_masked else str(error)


def _check_wait(timeout: float) -> None:
    """Before anything is done: who asks for what cannot be has changed nothing."""
    if not 0 <= timeout <= MAX_WAIT:
        raise InvalidRequestError(f"cannot wait {timeout:g} s: 0 to {MAX_WAIT:g} are possible")


def _timeout(wish: Wish | None) -> float | None:
    return None if wish is None else wish.end_point.timeout


def _given(**values: object) -> Fields:
    return {name: value for name, value in values.items() if value is not None}
