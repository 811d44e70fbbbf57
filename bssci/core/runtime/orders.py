"""Commands that come by MQTT: each is answered at once, carried out, and answered to the end.

They are carried out in the order in which they came. What is waited for afterwards, the base
stations' confirmations, holds up no other command.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.center.commands import (
    Attach,
    ChangeSettings,
    Configure,
    Detach,
    Malformed,
    QueryStatus,
    SendDownlink,
)
from bssci.core.center.rpc import BusyError, NotFoundError, RequestError
from bssci.core.center.shapes import outcome_shape
from bssci.core.protocol.errors import BssciError, Code, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bssci.core.center.answers import Answers
    from bssci.core.center.commands import Command, Inbox, Order
    from bssci.core.center.downlinks import Downlink
    from bssci.core.center.topics import Publication
    from bssci.core.runtime.downlinks import Downlinks
    from bssci.core.runtime.sensors import Sensors

__all__ = ["MAX_WAITING", "Orders", "Settings"]

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
# Commands that are not carried out yet or wait for base stations: every sensor of a large
# installation configured at once. What comes beyond is refused, and can be sent again.


class Settings(Protocol):
    """What this needs of the Service Center."""

    def change_settings(self, values: Mapping[str, object]) -> dict[str, object]:
        """Change what is set; raises `BssciError` where that cannot be."""
        ...


@dataclass(frozen=True, slots=True)
class _Ready:
    """A downlink that was read already: what it was read from is many times as large."""

    order: SendDownlink
    downlink: Downlink


class Orders:
    """Takes messages from the broker, and sees to it that each gets its answers.

    Attributes:
        ignored: messages that were retained by the broker or are empty, or that nobody could be
            answered about.
    """

    def __init__(
        self,
        inbox: Inbox,
        answers: Answers,
        sensors: Sensors,
        downlinks: Downlinks,
        settings: Settings,
        *,
        publish: Callable[[Publication], None],
        patience: Callable[[], float],
    ) -> None:
        """
        Args:
            patience: seconds that base stations have to confirm, asked each time.
        """
        self.ignored = 0
        self._inbox = inbox
        self._answers = answers
        self._sensors = sensors
        self._downlinks = downlinks
        self._settings = settings
        self._publish = publish
        self._patience = patience
        self._waiting: deque[Command | _Ready] = deque()
        self._busy = 0
        self._due = trio.Event()

    def take(self, topic: str, payload: bytes, is_retained: bool) -> None:
        """A message has come; never waits, never raises because of what is in it.

        A retained one is no command: it was given to the broker some time, for everybody who
        comes, and would be carried out again at each reconnect. Nor is an empty one: it takes a
        retained one back (MQTT 3.1.1, 3.3.1.3).
        """
        if is_retained or not payload:
            self.ignored += 1
            return
        found = self._inbox.parse(topic, payload)
        if isinstance(found, Malformed):
            self.ignored += not found.topics
            self._say(self._answers.malformed(found, now_ns=time.time_ns()))
        elif found is not None:
            self._accept(found)

    def _accept(self, command: Command) -> None:
        now_ns = time.time_ns()
        if len(self._waiting) + self._busy >= MAX_WAITING:
            self._turn_away(command, now_ns)
            return
        try:
            self._waiting.append(self._read(command, now_ns))
        except RequestError as error:
            assert not isinstance(command, ChangeSettings)
            self._say(self._answers.refused(command, str(error), now_ns=now_ns))
        else:
            self._due.set()

    def _read(self, command: Command, now_ns: int) -> Command | _Ready:
        """What is to be carried out; what cannot be is refused before anything changes."""
        match command:
            case ChangeSettings():
                return command
            case SendDownlink():
                downlink = self._downlinks.made(command.ep_eui, command.given)
                return _Ready(replace(command, given={}), downlink)
            case Configure():
                self._sensors.check(command.ep_eui, command.given)
        self._say(self._answers.received(command, now_ns=now_ns))
        return command

    def _turn_away(self, command: Command, now_ns: int) -> None:
        busy = f"{MAX_WAITING} commands wait already; send this one again later"
        if isinstance(command, ChangeSettings):
            self._say(self._answers.settings(command, "error", now_ns=now_ns, error=busy))
        else:
            self._say(self._answers.refused(command, busy, now_ns=now_ns, code=Code.EAGAIN))

    def _say(self, publications: Iterable[Publication]) -> None:
        for publication in publications:
            self._publish(publication)

    # --- carrying out ---

    async def run(self) -> None:
        """Carry out commands until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._due.wait()
                self._due = trio.Event()
                while self._waiting:
                    await self._carry_out(self._waiting.popleft(), nursery)

    async def _carry_out(self, command: Command | _Ready, nursery: trio.Nursery) -> None:
        match command:
            case ChangeSettings():
                self._change_settings(command)
                await trio.lowlevel.checkpoint()
            case QueryStatus():
                self._tell_status(command)
                await trio.lowlevel.checkpoint()
            case _Ready(order, downlink):
                await self._send(order, downlink)
            case _:
                state = self._sensors.state(command.ep_eui)
                holders = state.confirmed if state and isinstance(command, Detach) else ()
                if await self._decide(command):
                    self._busy += 1
                    nursery.start_soon(self._finish, command, holders)

    def _change_settings(self, command: ChangeSettings) -> None:
        try:
            result = self._settings.change_settings(command.values)
        except BssciError as error:
            said = self._answers.settings(command, "error", now_ns=time.time_ns(), error=str(error))
        else:
            said = self._answers.settings(command, "ok", now_ns=time.time_ns(), result=result)
        self._say(said)

    def _tell_status(self, command: QueryStatus) -> None:
        state = self._sensors.state(command.ep_eui)
        self._say(
            self._answers.status(
                command,
                now_ns=time.time_ns(),
                is_registered=state is not None,
                base_stations=() if state is None else state.confirmed,
                last_seen_ns=None if state is None else state.last_seen_ns,
                activity="never_seen" if state is None else state.activity,
                reception=None if state is None else state.reception,
            )
        )

    async def _send(self, command: SendDownlink, downlink: Downlink) -> None:
        """What becomes of the downlink is told by whoever sees to it."""
        try:
            await self._downlinks.send(downlink)
        except (RequestError, StorageError) as error:
            code = error.code if isinstance(error, StorageError) else _code(error)
            now_ns = time.time_ns()
            self._say(self._answers.refused(command, str(error), now_ns=now_ns, code=code))

    async def _decide(self, command: Order) -> bool:
        """Commit what is wanted; False if it cannot be, which is said."""
        try:
            match command:
                case Configure(ep_eui=ep_eui, given=given):
                    await self._sensors.configure(ep_eui, given, "mqtt")
                case Attach(ep_eui=ep_eui):
                    await self._sensors.want(ep_eui, "attached", "mqtt")
                case Detach(ep_eui=ep_eui):
                    await self._sensors.want(ep_eui, "detached", "mqtt")
        except (RequestError, StorageError) as error:
            self._say(
                self._answers.finished(command, "error", now_ns=time.time_ns(), error=str(error))
            )
            return False
        return True

    async def _finish(self, command: Order, holders: Sequence[int]) -> None:
        """Wait for the base stations, and say how it ended."""
        try:
            found = await self._sensors.settled(command.ep_eui, self._patience(), holders)
        finally:
            self._busy -= 1
        ep_eui = command.ep_eui
        result = outcome_shape(ep_eui, found.confirmed, found.pending, found.refused)
        has_failed = bool(found.refused) and not found.confirmed and not found.pending
        self._say(
            self._answers.finished(
                command,
                "error" if has_failed else "pending" if found.pending else "ok",
                now_ns=time.time_ns(),
                result=result,
                error=found.refused[0][1].message or "refused" if has_failed else None,
            )
        )


def _code(error: RequestError) -> int:
    """The POSIX number that says the same."""
    match error:
        case NotFoundError():
            return Code.ENOENT
        case BusyError():
            return Code.EAGAIN
    return Code.EINVAL
