"""A service that behaves, for the commands: the real control socket over sensors in memory.

It is served by a thread of its own, as a service is by a process of its own. What it knows is a
few dictionaries, which a test fills before it starts or changes while it runs.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import trio

from bssci.core.center.downlinks import (
    DownlinkRecord,
    Ending,
    InvalidDownlinkError,
    downlink_of,
    downlink_shape,
    event_data,
)
from bssci.core.center.end_points import EndPoint, changes_between, end_point_of, fields_of
from bssci.core.center.records import Wanted, Wish
from bssci.core.center.rpc import InvalidRequestError, NotFoundError, RequestError
from bssci.core.protocol.errors import InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui
from bssci.core.runtime.control import serve_control
from bssci.core.runtime.imports import ImportedRow
from bssci.core.runtime.notices import Notices

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

__all__ = ["NOW", "FakeService", "Station", "socket_folder"]

Fields = dict[str, Any]

NOW = 1_714_564_800.0  # 2024-05-01 12:00:00 UTC

Manner = Literal["confirms", "silent", "refuses"]


@dataclass
class Station:
    """A base station: how it answers what it is told of a sensor."""

    eui: int
    manner: Manner = "confirms"
    is_online: bool = True
    name: str | None = None
    changes: Fields = field(default_factory=dict)
    """Fields of its shape that are not the usual ones."""

    def shape(self, counts: Mapping[str, int]) -> Fields:
        return {
            "eui": format_eui(self.eui),
            "state": "online" if self.is_online else "offline",
            "since": NOW - 7200,
            "address": "192.0.2.7",
            "name": self.name,
            "vendor": "Maker",
            "model": "Model 1",
            "version": "1.2.3",
            "bidi": True,
            "position": None,
            "sensors": {"confirmed": 0, "pending": 0, "refused": 0} | dict(counts),
            "uplinks": 1234,
            "clock_offset": -0.0123,
            "status": None,
            "status_time": None,
        } | self.changes


@dataclass
class FakeService:
    """Sensors and base stations in memory, and the methods of the control socket.

    Attributes:
        told: the names of the methods called, in order.
        changes: fields of a sensor's shape that are not the usual ones, by EUI.
        until: a method goes on when this holds, by its name.
        faults: what a method raises, by its name.
        downlinks: by ID.
        fate: how a downlink ends as soon as it is queued; None: it waits.
    """

    sensors: dict[int, EndPoint] = field(default_factory=dict)
    wanted: dict[int, Wanted] = field(default_factory=dict)
    stations: list[Station] = field(default_factory=list)
    uplinks: list[Fields] = field(default_factory=list)
    refused: list[Fields] = field(default_factory=list)
    history: dict[int, list[Fields]] = field(default_factory=dict)
    changes: dict[int, Fields] = field(default_factory=dict)
    status_changes: Fields = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    until: dict[str, Callable[[], bool]] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    downlinks: dict[int, DownlinkRecord] = field(default_factory=dict)
    fate: Ending | None = None
    undo: str = "/state/undo.toml"
    notices: Notices = field(default_factory=Notices)
    _token: trio.lowlevel.TrioToken | None = None
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def register(self, eui: int, wanted: Wanted = "attached", **given: object) -> None:
        """A sensor, as if it had been registered before."""
        self.sensors[eui] = end_point_of({"key": f"{eui:032X}", **given}, eui=eui)
        self.wanted[eui] = wanted

    # --- serving ---

    @contextmanager
    def serving(self, path: Path) -> Iterator[None]:
        """Serve at a path while the block lasts."""
        ready, failures = threading.Event(), []

        async def main() -> None:
            self._token = trio.lowlevel.current_trio_token()
            async with trio.open_nursery() as nursery:
                with self._scope:
                    await nursery.start(self._serve, path)
                    ready.set()
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()

        def thread() -> None:
            try:
                trio.run(main)
            except BaseException as error:
                failures.append(error)
            finally:
                ready.set()

        running = threading.Thread(target=thread)
        running.start()
        try:
            assert ready.wait(20)
            yield
        finally:
            self.leave()
            running.join(20)
        assert failures == []

    def leave(self) -> None:
        """End serving, and do not wait until that is done."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._scope.cancel)

    async def _serve(
        self, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        methods = {name: self._noted(name, method) for name, method in self._methods().items()}
        await serve_control(
            path, methods, self.notices.watch, resolve=self._resolve, task_status=task_status
        )

    def _noted(
        self, name: str, method: Callable[..., Awaitable[object]]
    ) -> Callable[..., Awaitable[object]]:
        async def noted(**params: object) -> object:
            self.told.append(name)
            # Whoever makes it hold is in another thread, and knows nothing of trio's events.
            while name in self.until and not self.until[name]():  # noqa: ASYNC110
                await trio.sleep(0.01)
            if fault := self.faults.get(name):
                raise fault
            return await method(**params)

        # What the socket binds parameters to.
        noted.__wrapped__ = method  # type: ignore[attr-defined]
        return noted

    def tell(self, kind: Any, data: Fields) -> None:
        """Something happens, now."""
        assert self._token is not None
        self._token.run_sync_soon(self.notices.tell, kind, data)

    def _methods(self) -> dict[str, Callable[..., Awaitable[object]]]:
        return {
            "status.get": self._status,
            "sensors.list": self._list,
            "sensors.get": self._get,
            "sensors.add": self._add,
            "sensors.set": self._set,
            "sensors.attach": self._attach,
            "sensors.detach": self._detach,
            "sensors.remove": self._remove,
            "sensors.clear": self._clear,
            "sensors.history": self._history,
            "sensors.import": self._import,
            "stations.list": self._stations,
            "stations.get": self._station,
            "stations.disconnect": self._disconnect,
            "stations.refused": self._refused,
            "uplinks.list": self._uplinks,
            "downlinks.send": self._send,
            "downlinks.list": self._downlinks,
            "downlinks.cancel": self._cancel,
        }

    def _resolve(self, kind: str, text: str) -> int:
        return self._find(text) if kind == "sensor" else self._find_station(text).eui

    def _find(self, text: str) -> int:
        try:
            eui = parse_eui(text)
        except InvalidEuiError:
            found = [e for e, each in self.sensors.items() if each.name.lower() == text.lower()]
            eui = found[0] if found else 0
        if eui not in self.sensors:
            raise NotFoundError(f"there is no sensor {text}", hint="`bssci sensors list`")
        return eui

    def _find_station(self, text: str) -> Station:
        for station in self.stations:
            if text in (format_eui(station.eui), station.name):
                return station
        raise NotFoundError(f"there is no base station {text}", hint="`bssci stations list`")

    # --- sensors ---

    def shape(self, eui: int, *, reveal: bool = False) -> Fields:
        is_attached = self.wanted[eui] == "attached"
        return (
            fields_of(self.sensors[eui], reveal=reveal)
            | {
                "wanted": self.wanted[eui],
                "activity": "never_seen" if is_attached else "detached",
                "stations": [self._standing(each) for each in self.stations if is_attached],
                "last_seen": None,
                "last_cnt": None,
                "uplinks": 0,
                "snr": None,
                "rssi": None,
                "preferred": None,
            }
            | self.changes.get(eui, {})
        )

    def _standing(self, station: Station) -> Fields:
        error = {"code": 22, "message": "no room", "time": NOW - 300}
        state = {"confirms": "confirmed", "silent": "pending", "refuses": "refused"}
        is_refused = station.manner == "refuses"
        return {
            "eui": format_eui(station.eui),
            "state": state[station.manner],
            "error": error if is_refused else None,
        }

    async def _list(
        self,
        *,
        stale: bool = False,
        activity: str | None = None,
        tag: str | None = None,
        after: str | None = None,
        count: int | None = None,
        reveal: bool = False,
    ) -> list[Fields]:
        first = -1 if after is None else parse_eui(after)
        found = [self.shape(e, reveal=reveal) for e in sorted(self.sensors) if e > first]
        found = [
            each
            for each in found
            if activity in (None, each["activity"]) and (tag is None or tag in each["tags"])
        ]
        if stale:
            found = [each for each in found if "detach_in" in each]
        return found[:count]

    async def _get(self, *, eui: str, reveal: bool = False) -> Fields:
        found = self.shape(self._find(eui), reveal=reveal)
        details = {
            "wanted_since": NOW - 3600,
            "cause": "command",
            "statistics": None,
            "receivers": [],
            "silent_for": None,
            "attachment": None,
            "downlink_reception": None,
            "warned_after": 129600.0,
            "detached_after": 259200.0,
        }
        return details | found

    async def _add(
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
        wait: float = 30.0,
    ) -> Fields:
        given = {
            "key": key, "short_addr": short_addr, "bidi": bidi, "dual_chan": dual_chan,
            "repetition": repetition, "wide_carr_off": wide_carr_off,
            "long_blk_dist": long_blk_dist, "name": name, "tags": tags, "ota": ota,
        }  # fmt: skip
        try:
            number = parse_eui(eui)
            self.sensors[number] = end_point_of(given, eui=number)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        return await self._want(number, "attached", wait)

    async def _set(
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
        wait: float = 30.0,
    ) -> Fields:
        given: Fields = {
            "key": key, "short_addr": short_addr, "bidi": bidi, "dual_chan": dual_chan,
            "repetition": repetition, "wide_carr_off": wide_carr_off,
            "long_blk_dist": long_blk_dist, "name": name, "tags": tags, "ota": ota,
        }  # fmt: skip
        if timeout is not None:
            given["timeout"] = None if timeout == "none" else timeout
        number = self._find(eui)
        before = self.sensors[number]
        try:
            self.sensors[number] = end_point_of(given, eui=number, known=before)
        except ValueError as error:
            raise InvalidRequestError(str(error)) from error
        changes = changes_between(before, self.sensors[number])
        outcome = await self._want(number, "attached", wait)
        return outcome | {"changes": {name: list(pair) for name, pair in changes.items()}}

    async def _attach(self, *, eui: str, timeout: float = 30.0) -> Fields:
        return await self._want(self._find(eui), "attached", timeout)

    async def _detach(self, *, eui: str, timeout: float = 30.0) -> Fields:
        return await self._want(self._find(eui), "detached", timeout)

    async def _remove(self, *, eui: str, timeout: float = 30.0) -> Fields:
        number = self._find(eui)
        outcome = await self._want(number, "detached", timeout)
        del self.sensors[number], self.wanted[number]
        return outcome

    async def _want(self, eui: int, wanted: Wanted, within: float) -> Fields:
        """What the base stations say; those that are silent are waited for."""
        self.wanted[eui] = wanted
        manners = {
            manner: [s for s in self.stations if s.is_online and s.manner == manner]
            for manner in ("confirms", "silent", "refuses")
        }
        if manners["silent"]:
            await trio.sleep(within)
        return {
            "eui": format_eui(eui),
            "confirmed": [format_eui(station.eui) for station in manners["confirms"]],
            "pending": [format_eui(station.eui) for station in manners["silent"]],
            "refused": [
                {"eui": format_eui(station.eui), "code": 22, "message": "no room"}
                for station in manners["refuses"]
            ],
        }

    async def _clear(self, *, expected: int | None = None, timeout: float = 30.0) -> Fields:
        count = len(self.sensors)
        if expected not in (None, count):
            raise RequestError(f"there are {count} sensors, not {expected}; nothing was done")
        silent = [s for s in self.stations if s.manner == "silent"]
        if silent:
            await trio.sleep(timeout)
        self.sensors.clear()
        pending = {format_eui(station.eui): count for station in silent} if count else {}
        return {"count": count, "undo": self.undo if count else None, "pending": pending}

    async def _history(self, *, eui: str, count: int = 50) -> list[Fields]:
        return self.history.get(self._find(eui), [])[:count]

    async def _import(self, *, rows: list[dict[str, object]], dry_run: bool = False) -> Fields:
        shapes = [self._import_row(row, dry_run=dry_run) for row in rows]
        failed = sum(shape["result"] == "error" for shape in shapes)
        return {"done": len(rows) - failed, "failed": failed, "rows": shapes}

    def _import_row(self, given: dict[str, object], *, dry_run: bool) -> Fields:
        row = ImportedRow.of(given, 0)
        before = self._wish(row.ep_eui) if row.ep_eui in self.sensors else None
        decided = None if row.error is not None else row.wish(before)
        if decided is not None:
            end_point, wanted = decided
            row.decided(
                before, Wish(end_point=end_point, wanted=wanted, cause="import", since_ns=0)
            )
            if not dry_run:
                self.sensors[row.ep_eui], self.wanted[row.ep_eui] = decided
        return row.shape()

    def _wish(self, eui: int) -> Wish:
        return Wish(
            end_point=self.sensors[eui], wanted=self.wanted[eui], cause="command", since_ns=0
        )

    # --- downlinks ---

    async def _send(
        self,
        *,
        eui: str,
        data: object = None,
        entries: list[dict[str, object]] | None = None,
        ref: str | int | float | None = None,
        prio: float | None = None,
        format: int | None = None,  # noqa: A002 - what it is called outside
        response_exp: bool | None = None,
        response_prio: bool | None = None,
        dl_wind_req: bool | None = None,
        exp_only: bool | None = None,
        expires_in: float | None = None,
        query_rx: bool | None = None,
    ) -> Fields:
        given: Fields = {
            "data": data, "entries": entries, "ref": ref, "prio": prio, "format": format,
            "response_exp": response_exp, "response_prio": response_prio,
            "dl_wind_req": dl_wind_req, "exp_only": exp_only, "expires_in": expires_in,
            "query_rx": query_rx,
        }  # fmt: skip
        number = self._find(eui)
        if not self.sensors[number].bidi:
            raise RequestError(
                f"sensor {format_eui(number)} cannot receive", hint="`bssci sensors set --bidi`"
            )
        try:
            downlink = downlink_of(
                given,
                ep_eui=number,
                que_id=max(self.downlinks, default=0) + 1,
                now_ns=int(NOW * 1e9),
                lifetime_ns=86_400_000_000_000,
            )
        except InvalidDownlinkError as error:
            raise InvalidRequestError(str(error)) from error
        queued = DownlinkRecord(downlink=downlink)
        self.downlinks[downlink.que_id] = queued
        self.notices.tell("downlink", event_data(queued, "queued"))
        if self.fate is not None:
            ended = replace(queued, ending=self.fate)
            self.downlinks[downlink.que_id] = ended
            self.notices.tell("downlink", event_data(ended, self.fate.result))
        return downlink_shape(queued)

    async def _downlinks(
        self, *, eui: str | None = None, state: str | None = None, count: int = 100
    ) -> list[Fields]:
        found = [
            each
            for _, each in sorted(self.downlinks.items(), reverse=True)
            if (eui is None or each.downlink.ep_eui == self._find(eui))
            and state in (None, each.state)
        ]
        return [downlink_shape(each) for each in found[:count]]

    async def _cancel(
        self,
        *,
        id: int | None = None,  # noqa: A002 - as above
        eui: str | None = None,
        timeout: float = 30.0,
    ) -> list[Fields]:
        if (id is None) == (eui is None):
            raise InvalidRequestError("downlinks.cancel: id or eui is expected")
        if id is not None and id not in self.downlinks:
            raise NotFoundError(f"there is no downlink {id}", hint="`bssci downlinks list`")
        concerned = [
            number
            for number, each in sorted(self.downlinks.items(), reverse=True)
            if number == id
            or (eui is not None and each.ending is None and each.downlink.ep_eui == self._find(eui))
        ]
        for number in concerned:
            await self._revoke(number, timeout)
        return [downlink_shape(self.downlinks[number]) for number in concerned]

    async def _revoke(self, number: int, within: float) -> None:
        """A base station that has it and is silent is waited for."""
        record = self.downlinks[number]
        silent = {each.eui for each in self.stations if each.manner == "silent"}
        if record.ending is None and record.holder in silent:
            await trio.sleep(within)
            self.downlinks[number] = replace(record, intent="revoke")
        elif record.ending is None:
            ending = Ending(result="revoked", at_ns=int(NOW * 1e9), bs_eui=record.holder)
            self.downlinks[number] = replace(record, holder=None, ending=ending)

    # --- the rest ---

    async def _status(self) -> Fields:
        return {
            "version": "1.2.3",
            "uptime": 90061.0,
            "uplinks": {
                "received": 120,
                "duplicates": 40,
                "published": 79,
                "unregistered": 2,
                "rate": 1.25,
            },
            "journal": {"backlog": 0, "unpublished": 1, "state": "ok"},
            "stations": {
                "online": sum(each.is_online for each in self.stations),
                "known": len(self.stations),
            },
            "sensors": {
                "total": len(self.sensors),
                "active": 0,
                "warning": 0,
                "detach_pending": 0,
                "auto_detached": 0,
                "detached": 0,
                "never_seen": len(self.sensors),
            },
            "over_the_air": {
                "attached": 0,
                "repeated": 0,
                "detached": 0,
                "refused": {},
                "unknown_detached": 0,
            },
            "downlinks": {"queued": 0, "at_station": 0},
            "mqtt": {"enabled": True, "state": "online", "since": NOW - 60},
            "certificates": {"expires_in_days": 365},
            "refused": {},
        } | self.status_changes

    async def _stations(self) -> list[Fields]:
        return [each.shape({}) for each in self.stations]

    async def _station(self, *, eui: str) -> Fields:
        return self._find_station(eui).shape({})

    async def _disconnect(self, *, eui: str) -> Fields:
        station = self._find_station(eui)
        station.is_online = False
        return {"eui": format_eui(station.eui)}

    async def _refused(self) -> list[Fields]:
        return self.refused

    async def _uplinks(
        self,
        *,
        sensor: str | None = None,
        station: str | None = None,
        since: float | None = None,
        count: int = 100,
    ) -> list[Fields]:
        found = [
            each
            for each in self.uplinks
            if (sensor is None or each["sensor_eui"] == format_eui(self._find(sensor)))
            and (station is None or each["bs_eui"] == format_eui(self._find_station(station).eui))
            and (since is None or each["received"] >= since)
        ]
        return found[-count:][::-1]


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder whose name is short enough for a socket's, with an sc.toml that names it."""
    with tempfile.TemporaryDirectory(prefix="bssci-") as name:
        folder = Path(name)
        (folder / "sc.toml").write_text(
            '[server]\neui = "0200000000000001"\n\n[control]\nsocket = "control.sock"\n'
        )
        yield folder
