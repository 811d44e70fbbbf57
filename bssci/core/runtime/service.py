"""The composition root: makes the rooms, joins them, shuts them in order.

A `ServiceCenter` is one Service Center in one process. `run` starts it and lasts as long as it
does; `stop` ends it in order: first the doors shut, then what is inside finishes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import time
from collections import Counter, deque
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import trio

from bssci import __version__
from bssci.core.center.dedup import Deduplicator
from bssci.core.center.registry import BaseStation, Registry
from bssci.core.center.topics import Publication, Topics
from bssci.core.protocol.errors import (
    BssciError,
    StorageError,
)
from bssci.core.protocol.eui import format_eui
from bssci.core.runtime import tls
from bssci.core.runtime.config import describe
from bssci.core.runtime.desk import Desk
from bssci.core.runtime.link import Limits, Refusal
from bssci.core.runtime.mqtt import BrokerLink, BrokerSettings, Outgoing
from bssci.core.runtime.notices import Notices
from bssci.core.runtime.server import BaseStationServer
from bssci.core.runtime.settle import Settlement
from bssci.core.runtime.store import Store, open_store

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from bssci.core.center.receptions import Reception, SettledUplink
    from bssci.core.protocol.messages import (
        StatusResponse,
    )
    from bssci.core.runtime.config import Config

__all__ = ["ServiceCenter", "StartError", "shown_uplink"]

logger = logging.getLogger(__name__)

HEALTH_INTERVAL = 300.0  # seconds
DISK_INTERVAL = 60.0  # seconds
PRUNE_INTERVAL = 60.0  # seconds
PRUNE_PAUSE = 0.05  # seconds between two steps
PRUNE_ROWS = 500  # in one transaction, short enough that no uplink waits for it

# From the wish to stop, in seconds: base stations are sent away, then reception windows that are
# open may end and what they hold may be published. The broker's farewell takes at most 2 more.
DISMISSED_BY = 1.2
FINISHED_BY = 2.7

# Base stations that lost us come back together: their knocks must fit.
BACKLOG = 4096

# Descriptors besides those of base stations: database, broker, log, control.
OWN_FILES = 200

MAX_REFUSALS = 1_000  # remembered for showing

# The keys that a reload applies; all others need a restart.
APPLIED_BY_RELOAD = frozenset(
    {"tls.cert_file", "tls.key_file", "tls.ca_file", "tls.min_version", "log.level"}
)


class StartError(BssciError):
    """The service cannot start: what, where, and what to do about it."""

    exit_code: ClassVar[int] = 2


class ServiceCenter:
    """One Service Center.

        center = ServiceCenter(config)
        async with trio.open_nursery() as nursery:
            port = await nursery.start(center.run)
            ...
            center.stop()

    Attributes:
        port: the TCP port that base stations connect to, once it runs.
        registry: base stations and end points as known now.
        refusals: who was not let in, newest last, with Unix time.
        refused: how many were not let in, by reason.
        notices: what happens, for who likes to watch.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = 0
        self.registry = Registry()
        self.refusals: deque[tuple[float, Refusal]] = deque(maxlen=MAX_REFUSALS)
        self.refused: Counter[str] = Counter()
        self.ssl_context: ssl.SSLContext
        self._topics = Topics(config.mqtt.base_topic)
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._progress = trio.Event()
        self._since_ns = time.time_ns()
        self._earlier: frozenset[int] = frozenset()
        self.notices = Notices()
        self._broker: BrokerLink | None = None
        self._store: Store
        self._settlement: Settlement
        self._server: BaseStationServer

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is called, or until cancelled. Started: base stations can connect.

        Raises:
            StartError: it cannot start; says what, where and what to do.
        """
        _raise_file_limit(self.config.server.max_connections + OWN_FILES)
        async with contextlib.AsyncExitStack() as rooms:
            listeners = await self._compose(rooms)
            async with trio.open_nursery() as inside:
                await self._open_inside(inside)
                async with trio.open_nursery() as doors:
                    await doors.start(self._server.serve, listeners)
                    self._tell_start()
                    task_status.started(self.port)
                    await self._stopping.wait()
                    begun = trio.current_time()
                    with trio.move_on_at(begun + DISMISSED_BY):
                        await self._server.dismiss("the Service Center stops")
                    doors.cancel_scope.cancel()
                with trio.move_on_at(begun + FINISHED_BY):
                    await self._finish()
                inside.cancel_scope.cancel()
        logger.info("stopped")
        self._stopped.set()

    def stop(self) -> None:
        """Begin to stop: nobody is let in any more, what is inside is finished."""
        self._stopping.set()

    async def stopped(self) -> None:
        """Return when `run` has come to its end in order."""
        await self._stopped.wait()

    def reload(self, config: Config) -> None:
        """Take certificates (from the next connection on) and log level from a new configuration.

        Raises:
            CertificateError: they cannot be used; everything stays as it was.
        """
        self.ssl_context = _server_context(config)
        logging.getLogger().setLevel(config.log.level.upper())
        logger.info("certificates are read again and used from the next connection on")
        if waiting := sorted(_changed(self.config, config) - APPLIED_BY_RELOAD):
            logger.warning("changed, but needs a restart: %s", ", ".join(waiting))
        reloaded_tls = replace(config.tls, identity=self.config.tls.identity)
        self.config = replace(self.config, tls=reloaded_tls)

    @property
    def counts(self) -> dict[str, int]:
        """What has gone through since the start.

        `received` are receptions, `duplicates` those of them that were copies; `released` are
        telegrams for the outbox, `unregistered` those of sensors that are not registered.
        """
        settlement = self._settlement
        return {
            "received": settlement.received,
            "duplicates": settlement.duplicates,
            "released": settlement.released,
            "unregistered": settlement.unregistered,
        }

    @property
    def published(self) -> int | None:
        """Uplinks that the broker has acknowledged since the start; None without a broker."""
        return None if self._broker is None else self._broker.published

    async def uplinks(
        self, *, ep_eui: int | None = None, since_ns: int = 0, count: int = 100
    ) -> list[dict[str, object]]:
        """The newest uplinks that were settled, newest first, as listings show them.

        Raises:
            StorageError: they cannot be read.
        """
        stored = await self._store.uplinks(ep_eui=ep_eui, since_ns=since_ns, count=count)
        return [
            shown_uplink(each.ep_eui, each.received_ns, each.published_ns, each.body)
            for each in stored
        ]

    # --- making the rooms ---

    async def _compose(self, rooms: contextlib.AsyncExitStack) -> list[trio.SocketListener]:
        """Make the rooms and join them. All that can be wrong with the set-up is found here."""
        config = self.config
        try:
            self.ssl_context = _server_context(config)
            if config.mqtt.enabled:
                self._broker = self._broker_link()
            store = open_store(config.store.path, on_commit=self._committed)
            self._store = await rooms.enter_async_context(store)
            self._earlier = frozenset(await self._store.session_euis())
        except BssciError as error:
            raise StartError(str(error)) from error
        self._settlement = self._make_settlement()
        desk = Desk(self, self._store, self._settlement)
        self._server = BaseStationServer(_limits(config), desk)
        return await self._open_listeners(rooms)

    def _make_settlement(self) -> Settlement:
        config = self.config
        memory_ns = _ns(config.dedup.memory)
        dedup = Deduplicator(
            delay_ns=_ns(config.dedup.delay),
            early=config.dedup.early,
            memory_ns=memory_ns,
            max_remembered=config.dedup.max_remembered,
        )
        return Settlement(
            self._store,
            dedup,
            self.registry,
            is_registered=lambda _: False,  # no end point can be registered yet
            drop_unknown=config.sensors.unknown == "drop",
            memory_ns=memory_ns,
            unix_ns=time.time_ns,
            on_settled=self._settled,
        )

    def _broker_link(self) -> BrokerLink:
        return BrokerLink(
            _broker_settings(self.config),
            will=self._will,
            announce=self._announcements,
            fetch=self._fetch,
            published=self._published,
        )

    async def _open_inside(self, inside: trio.Nursery) -> None:
        if self._broker is not None:
            await inside.start(self._broker.run)
        await inside.start(self._settlement.run)
        inside.start_soon(self._report_health)
        inside.start_soon(self._prune)
        inside.start_soon(self._watch_disk)

    async def _open_listeners(self, rooms: contextlib.AsyncExitStack) -> list[trio.SocketListener]:
        server = self.config.server
        try:
            listeners = await trio.open_tcp_listeners(
                server.port, host=server.host, backlog=BACKLOG
            )
        except OSError as error:
            raise StartError(
                f"cannot listen on {server.host} port {server.port}: {error.strerror or error}. "
                "End the program that has the port, or set server.host and server.port."
            ) from error
        for listener in listeners:
            await rooms.enter_async_context(listener)
        self.port = listeners[0].socket.getsockname()[1]
        return listeners

    def _tell_start(self) -> None:
        if self._store.set_aside is not None:
            logger.error(
                "the database was damaged; it is kept as %s and a new one is begun",
                self._store.set_aside,
            )
        server = self.config.server
        logger.info(
            "Service Center %s, version %s, listens on %s port %d",
            format_eui(server.eui),
            __version__,
            server.host,
            self.port,
        )

    async def _finish(self) -> None:
        """What was taken is settled, and what is settled is published if the broker is there."""
        await self._settlement.wait_until_idle()
        while self._broker and self._broker.state == "online" and self._store.unpublished:
            self._progress = trio.Event()
            await self._progress.wait()

    # --- an uplink's way ---

    def _committed(self, receptions: Sequence[Reception]) -> None:
        self._settlement.committed(receptions)

    def _settled(self, uplinks: Sequence[SettledUplink]) -> None:
        if self._broker is not None and uplinks:
            self._broker.wake()
        if self.notices.are_watched:
            for uplink in uplinks:
                self.notices.tell(
                    "uplink", shown_uplink(uplink.ep_eui, uplink.received_ns, None, uplink.body)
                )

    async def _fetch(self, after: int, limit: int) -> list[Outgoing]:
        rows = await self._store.outbox(after, limit)
        return [
            Outgoing(row.id, self._topics.uplink(row.ep_eui), row.body.encode()) for row in rows
        ]

    def _published(self, rows: Sequence[int]) -> None:
        self._store.mark_published(rows, time.time_ns())
        self._progress.set()

    # --- what comes round ---

    async def _report_health(self) -> None:
        while True:
            self.publish(self._topics.health_check(now_ns=time.time_ns()))
            await trio.sleep(HEALTH_INTERVAL)

    async def _prune(self) -> None:
        """Forget uplinks that were kept long enough, in small steps."""
        while True:
            pruned = 0
            with contextlib.suppress(StorageError):  # the store says so itself
                pruned = await self._store.prune(
                    before_ns=time.time_ns() - _ns(self.config.store.keep_uplinks),
                    limit=PRUNE_ROWS,
                    include_unpublished=self._broker is None,
                )
            await trio.sleep(PRUNE_PAUSE if pruned >= PRUNE_ROWS else PRUNE_INTERVAL)

    async def _watch_disk(self) -> None:
        """Warn when the disk is nearly full, once each time that begins."""
        was_short, least = False, self.config.store.min_free
        while True:
            free = (await self._store.counts()).free
            if free < least and not was_short:
                logger.warning(
                    "disk: %d MB free for %s, less than store.min_free (%d MB); when it is full, "
                    "uplinks are refused and stay with the base stations",
                    free // 1_000_000,
                    self.config.store.path,
                    least // 1_000_000,
                )
            was_short = free < least
            await trio.sleep(DISK_INTERVAL)

    # --- telling the world ---

    def publish(self, publication: Publication) -> None:
        """Something that is not an uplink, to the broker if there is one."""
        if self._broker is not None:
            body = publication.body.encode()
            self._broker.publish(publication.topic, body, retain=publication.retain)

    def station_changed(self, bs_eui: int) -> None:
        """A base station has come or gone."""
        station = self.registry.base_station(bs_eui)
        if station is not None:
            self.publish(self._topics.station_state(station))
            state = "online" if station.is_connected else "offline"
            self.notices.tell("station", {"eui": format_eui(bs_eui), "state": state})

    def status_arrived(self, bs_eui: int, status: StatusResponse) -> None:
        """A base station has said how it is."""
        offset_ns = self.registry.clock_offset(bs_eui)
        self.publish(self._topics.station_status(bs_eui, status, clock_offset_ns=offset_ns))

    def note_refusal(self, refusal: Refusal) -> None:
        """Somebody was not let in: count it, keep it for showing, say it."""
        self.refused[refusal.reason] += 1
        self.refusals.append((time.time(), refusal))
        peer = refusal.peer
        fields = {"address": peer.address, "reason": refusal.reason}
        if refusal.bs_eui is not None:
            fields["bs_eui"] = format_eui(refusal.bs_eui)
        if peer.fingerprint is not None:
            fields |= {"certificate": peer.subject or "", "fingerprint": peer.fingerprint}
        logger.warning("refused: %s", refusal.detail, extra=fields)

    def _will(self) -> tuple[str, bytes]:
        state = self._service_state(is_online=False)
        return state.topic, state.body.encode()

    def _service_state(self, *, is_online: bool) -> Publication:
        return self._topics.service_state(
            is_online=is_online, version=__version__, now_ns=time.time_ns()
        )

    def _announcements(self) -> list[tuple[str, bytes, bool]]:
        """What a broker that is there, or there again, must know."""
        known = self.registry.base_stations()
        seen = {station.eui for station in known}
        known += [_absent(eui, self._since_ns) for eui in self._earlier - seen]
        stations = map(self._topics.station_state, known)
        return [
            (publication.topic, publication.body.encode(), publication.retain)
            for publication in (self._service_state(is_online=True), *stations)
        ]


def shown_uplink(
    ep_eui: int, received_ns: int, published_ns: int | None, body: str
) -> dict[str, object]:
    """A settled uplink in the shape that listings have."""
    fields: dict[str, object] = json.loads(body)
    return {
        "sensor_eui": format_eui(ep_eui),
        "received": received_ns / 1e9,
        "published": None if published_ns is None else published_ns / 1e9,
    } | fields


def _server_context(config: Config) -> ssl.SSLContext:
    files = config.tls
    for warning in tls.certificate_warnings(files.cert_file, files.ca_file):
        logger.warning("%s", warning)
    return tls.server_context(
        cert_file=files.cert_file,
        key_file=files.key_file,
        ca_file=files.ca_file,
        min_version=files.min_version,
    )


def _changed(before: Config, after: Config) -> set[str]:
    """The keys whose values differ."""
    values = [{k.full_name: v for k, v, _ in describe(c, reveal=True)} for c in (before, after)]
    return {name for name, value in values[0].items() if value != values[1][name]}


def _absent(bs_eui: int, since_ns: int) -> BaseStation:
    """A base station that an earlier process knew and that has not come back yet."""
    return BaseStation(
        eui=bs_eui,
        is_connected=False,
        since_ns=since_ns,
        address=None,
        name=None,
        vendor=None,
        model=None,
        sw_version=None,
        bidi=False,
        position=None,
        uplinks=0,
        clock_offset_ns=None,
        status=None,
        status_ns=None,
    )


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _limits(config: Config) -> Limits:
    server = config.server
    return Limits(
        max_connections=server.max_connections,
        max_half_open=server.max_half_open,
        max_half_open_per_address=server.max_half_open_per_address,
        handshake_timeout=server.handshake_timeout,
        idle_ping=server.idle_ping,
        idle_timeout=server.idle_timeout,
        write_timeout=server.write_timeout,
        operation_timeout=server.operation_timeout,
        max_frame=server.max_frame,
    )


def _broker_settings(config: Config) -> BrokerSettings:
    mqtt = config.mqtt
    context = None
    if mqtt.tls:
        context = tls.broker_context(
            ca_file=mqtt.ca_file, cert_file=mqtt.cert_file, key_file=mqtt.key_file
        )
    return BrokerSettings(
        host=mqtt.host,
        port=mqtt.port,
        username=mqtt.username or None,
        password=mqtt.password or None,
        client_id=mqtt.client_id or f"bssci-{format_eui(config.server.eui)}",
        qos=mqtt.qos,
        keepalive=mqtt.keepalive,
        tls=context,
        max_inflight=mqtt.max_inflight,
        reconnect_max=mqtt.reconnect_max,
    )


def _raise_file_limit(wanted: int) -> None:
    """As many descriptors as base stations may connect; the usual limit of 1024 is soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
