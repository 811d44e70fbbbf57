"""The connection to the service: asks, listens, and begins again when the service was away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from bssci.cli import output, remote
from bssci.cli.monitor.state import Fields, Known, Opened
from bssci.core.center.rpc import NotFoundError, RequestError
from bssci.core.runtime.client import Client, UnreachableError, open_client

__all__ = ["Watching"]

# What has no events of its own is asked for again and again.
INTERVAL = 2.0  # seconds
# Something has happened: what it has changed is asked for sooner, together with what follows.
SOON = 0.3  # seconds
ALL_AGAIN = 60.0  # seconds between two listings of all sensors, which may be many

RECONNECT_FIRST, RECONNECT_MAX = 0.25, 5.0  # seconds between two attempts to reach the service

FIRST_UPLINKS = 1_000
LISTED = 500  # downlinks
TELEGRAMS, EPISODES, DOWNLINKS = 200, 100, 20  # of the sensor that is looked at

# Sensors that are asked for one by one; when more have changed all are listed.
ONE_BY_ONE = 32

# An uplink is told after others that were received later: after a pause one asks for earlier ones.
OVERLAP = 10.0  # seconds


class Watching:
    """Fills what is known, for as long as it runs."""

    def __init__(self, socket: Path, known: Known, changed: Callable[[], None]) -> None:
        """
        Args:
            changed: called when something else is known than before.
        """
        self._socket = socket
        self._known = known
        self._changed = changed
        self._client: Client | None = None
        self._wake = trio.Event()
        self._listed_at = 0.0

    async def run(self) -> None:
        """Until it is cancelled."""
        pause = RECONNECT_FIRST
        while True:
            try:
                async with open_client(self._socket) as client:
                    await self._follow(client)
                    pause = RECONNECT_FIRST
            except (UnreachableError, remote.TimedOutError) as error:
                self._known.lose(str(error), output.now())
            except BaseExceptionGroup as group:
                reasons, rest = group.split((UnreachableError, remote.TimedOutError))
                if rest is not None:
                    raise rest from None
                assert reasons is not None
                self._known.lose(str(_first(reasons)), output.now())
            self._changed()
            await trio.sleep(pause)
            pause = min(2 * pause, RECONNECT_MAX)

    async def once(self) -> None:
        """Learn what can be asked for, and return.

        Raises:
            UnreachableError: the service cannot be reached.
        """
        async with open_client(self._socket) as client:
            await self._begin(client)
            await self._ask_all(client)

    def look(self, opened: Opened | None) -> None:
        """This one is asked for from now on."""
        self._known.opened, self._known.details = opened, {}
        self._wake.set()

    async def change(self, method: str, eui: str) -> Any:  # noqa: ANN401  # as the method says
        """Call a method; whoever waits for base stations waits a moment only.

        Raises:
            RequestError, UnreachableError, TimedOutError: nothing came of it.
        """
        if self._client is None:
            raise UnreachableError("the service cannot be reached")
        waiting = {"timeout": CHANGE_TIMEOUT} if method.startswith("sensors.") else {}
        params = {"eui": eui, **waiting}
        found = await remote.call(self._client, method, params, waiting=CHANGE_TIMEOUT)
        if method.startswith("sensors."):
            self._known.stale.add(eui)
        self._wake.set()
        return found

    # --- one connection ---

    async def _follow(self, client: Client) -> None:
        async with client.subscribe() as events:
            self._client = client
            try:
                # What comes while the latest are asked for waits: nothing falls in between.
                await self._begin(client)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask_again, client)
                    async for event in events:
                        self._known.take(event.kind, event.time, event.data)
                        self._note(event.kind)
                    nursery.cancel_scope.cancel()
            finally:
                self._client = None
        self._known.lose("it has ended the connection", output.now())

    def _note(self, kind: str) -> None:
        if kind != "uplink" or self._known.stale:
            self._wake.set()
        self._changed()

    async def _begin(self, client: Client) -> None:
        known = self._known
        newest = max((each["received"] for each in known.uplinks.values()), default=None)
        since = None if newest is None else newest - OVERLAP
        latest = await remote.call(client, "uplinks.list", {"since": since, "count": FIRST_UPLINKS})
        known.take_latest(latest)
        known.take_sensors(await remote.all_sensors(client))
        self._listed_at = trio.current_time()
        known.find()

    async def _ask_again(self, client: Client) -> None:
        while True:
            await self._ask_all(client)
            self._changed()
            # No sooner, however much happens.
            await trio.sleep(SOON)
            with trio.move_on_after(INTERVAL - SOON):
                await self._wake.wait()
            self._wake = trio.Event()

    async def _ask_all(self, client: Client) -> None:
        known = self._known
        known.trouble = ""
        known.take_stations(await self._ask(client, "stations.list") or [])
        await self._ask_for_sensors(client)
        known.downlinks = await self._ask(client, "downlinks.list", count=LISTED) or []
        known.refused = await self._ask(client, "stations.refused") or []
        await self._ask_for_opened(client)
        # The last one: what is known is complete when there is a status.
        known.status = await self._ask(client, "status.get") or known.status

    async def _ask_for_sensors(self, client: Client) -> None:
        known = self._known
        is_time = trio.current_time() >= self._listed_at + ALL_AGAIN
        if is_time or len(known.stale) > ONE_BY_ONE:
            known.take_sensors(await remote.all_sensors(client))
            self._listed_at = trio.current_time()
        while known.stale:
            eui = known.stale.pop()
            known.take_sensor(eui, await self._ask(client, "sensors.get", eui=eui))

    async def _ask_for_opened(self, client: Client) -> None:
        opened = self._known.opened
        if opened is None or opened.kind != "sensor":
            return
        eui = opened.eui
        details: Fields = {
            "shape": await self._ask(client, "sensors.get", eui=eui),
            "uplinks": await self._ask(client, "uplinks.list", sensor=eui, count=TELEGRAMS),
            "history": await self._ask(client, "sensors.history", eui=eui, count=EPISODES),
            "downlinks": await self._ask(client, "downlinks.list", eui=eui, count=DOWNLINKS),
        }
        if self._known.opened == opened:
            self._known.details = details

    async def _ask(self, client: Client, method: str, **params: object) -> Any:  # noqa: ANN401
        """None: there is no such thing, or the service is too busy to say."""
        try:
            return await remote.call(client, method, params)
        except NotFoundError:
            return None
        except RequestError as error:
            self._known.trouble = f"{method}: {error}"
            return None


CHANGE_TIMEOUT = 10.0  # seconds until what base stations have not confirmed counts as pending


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
