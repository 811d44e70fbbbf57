"""Commands that come by MQTT: each is answered at once, carried out, and answered to the end.

They are carried out in the order in which they came. What is waited for afterwards, the base
stations' confirmations, holds up no other command.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from bssci.core.center.commands import (
    Attach,
    ChangeSettings,
    Configure,
    Detach,
    Malformed,
    QueryStatus,
)
from bssci.core.center.rpc import RequestError
from bssci.core.center.shapes import outcome_shape
from bssci.core.protocol.errors import BssciError, Code, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bssci.core.center.answers import Answers
    from bssci.core.center.commands import Command, Inbox, Order
    from bssci.core.center.topics import Publication
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


class Orders:
    """Takes messages from the broker, and sees to it that each gets its answers.

    Attributes:
        ignored: messages that were retained by the broker, or that nobody could be answered about.
    """

    def __init__(
        self,
        inbox: Inbox,
        answers: Answers,
        sensors: Sensors,
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
        self._settings = settings
        self._publish = publish
        self._patience = patience
        self._waiting: deque[Command] = deque()
        self._busy = 0
        self._due = trio.Event()

    def take(self, topic: str, payload: bytes, is_retained: bool) -> None:
        """A message has come; never waits, never raises because of what is in it.

        A retained one is no command: it was given to the broker some time, for everybody who
        comes, and would be carried out again at each reconnect.
        """
        if is_retained:
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
        if not isinstance(command, ChangeSettings):
            if isinstance(command, Configure) and not self._is_sound(command, now_ns):
                return
            self._say(self._answers.received(command, now_ns=now_ns))
        self._waiting.append(command)
        self._due.set()

    def _turn_away(self, command: Command, now_ns: int) -> None:
        busy = f"{MAX_WAITING} commands wait already; send this one again later"
        if isinstance(command, ChangeSettings):
            self._say(self._answers.settings(command, "error", now_ns=now_ns, error=busy))
        else:
            self._say(self._answers.refused(command, busy, now_ns=now_ns, code=Code.EAGAIN))

    def _is_sound(self, command: Configure, now_ns: int) -> bool:
        """Whether it describes a sensor; if not, that is said, and nothing changes."""
        try:
            self._sensors.check(command.ep_eui, command.given)
        except RequestError as error:
            self._say(self._answers.refused(command, str(error), now_ns=now_ns))
            return False
        return True

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

    async def _carry_out(self, command: Command, nursery: trio.Nursery) -> None:
        match command:
            case ChangeSettings():
                self._change_settings(command)
                await trio.lowlevel.checkpoint()
            case QueryStatus():
                self._tell_status(command)
                await trio.lowlevel.checkpoint()
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
            )
        )

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
