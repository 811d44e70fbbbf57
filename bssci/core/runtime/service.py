"""The composition root: makes the rooms, joins them, shuts them in order.

A `ServiceCenter` is one Service Center in one process. `run` starts it and lasts as long as it
does; `stop` ends it in order: first the doors shut, then what is inside finishes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import trio

from bssci import __version__
from bssci.core.center.answers import Answers
from bssci.core.center.attachment import propagated
from bssci.core.center.commands import Inbox, subscriptions
from bssci.core.center.dedup import Deduplicator
from bssci.core.center.downlinks import event_data
from bssci.core.center.registry import Registry
from bssci.core.center.topics import Publication, Topics
from bssci.core.protocol.errors import (
    BssciError,
    StorageError,
)
from bssci.core.protocol.eui import format_eui
from bssci.core.runtime import overlay, tls
from bssci.core.runtime.approval import Approvals
from bssci.core.runtime.config import RUNTIME_KEYS, describe
from bssci.core.runtime.control import describe_methods, serve_control
from bssci.core.runtime.desk import Desk
from bssci.core.runtime.downlinks import Downlinks
from bssci.core.runtime.expiry import ExpiryWatch
from bssci.core.runtime.explaining import find_uplink
from bssci.core.runtime.files import write_file
from bssci.core.runtime.inactivity import Inactivity
from bssci.core.runtime.life import Life
from bssci.core.runtime.methods import find, methods, service_info
from bssci.core.runtime.mqtt import BrokerLink, Outgoing
from bssci.core.runtime.notices import Notices
from bssci.core.runtime.orders import Orders
from bssci.core.runtime.over_the_air import OverTheAir
from bssci.core.runtime.radio import Radio
from bssci.core.runtime.sensors import Sensors
from bssci.core.runtime.server import BaseStationServer
from bssci.core.runtime.settle import Settlement
from bssci.core.runtime.setup import (
    absent,
    broker_settings,
    limits,
    nanoseconds,
    patience,
    raise_file_limit,
    server_context,
)
from bssci.core.runtime.sheets import write_sheet
from bssci.core.runtime.sink import Receipts, SinkLink
from bssci.core.runtime.store import OutboxRow, Store, open_store

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bssci.core.center.dispatch import News
    from bssci.core.center.happenings import Happening, Stranger
    from bssci.core.center.receptions import Reception, SettledUplink, Telegram
    from bssci.core.protocol.messages import DownlinkRxStatus, StatusResponse
    from bssci.core.runtime.config import Config
    from bssci.core.runtime.link import Refusal
    from bssci.core.runtime.sink import UplinkSink

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

# What happens to sensors and is worth a line in the log. Confirmations are not: ten thousand
# sensors at fifty base stations are half a million of them.
TOLD = {
    "added": logging.INFO,
    "attach": logging.INFO,
    "detach": logging.INFO,
    "auto_detached": logging.WARNING,
    "warning": logging.WARNING,
    "attach_failed": logging.WARNING,
    "attach_refused": logging.INFO,
    "removed": logging.INFO,
}

# After these, base stations drop what waits for the sensor.
LEAVING = frozenset({"detach", "auto_detached", "removed"})

TLS_KEYS = frozenset({"tls.cert_file", "tls.key_file", "tls.ca_file", "tls.min_version"})

RATE_SPAN = 60.0  # seconds over which the rate of receptions is a mean

KEEP_UNDO = "cleared"  # begins the name of the file that brings cleared sensors back


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

    def __init__(self, config: Config, *, uplink_sink: UplinkSink | None = None) -> None:
        """
        Args:
            config: of `load_config` or `make_config`.
            uplink_sink: an async function that gets each `Uplink`, in the order of the outbox, and
                returns when it is safe there; besides MQTT or, with `mqtt.enabled` false, instead
                of it. If it raises, it gets the same uplink again after a pause, and no other
                before. At least once: after a crash one that it has taken may come again, with
                the same `id`. With both, what one of them lacks both get again after a restart.
        """
        self.config = config
        self.port = 0
        self.registry = Registry()
        self.refusals: deque[tuple[float, Refusal]] = deque(maxlen=MAX_REFUSALS)
        self.refused: Counter[str] = Counter()
        self.ssl_context: ssl.SSLContext
        self._topics = Topics(config.mqtt.base_topic)
        self._answers = Answers(config.mqtt.base_topic)
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._progress = trio.Event()
        self._since_ns = time.time_ns()
        self._marks: deque[tuple[float, int]] = deque(maxlen=int(RATE_SPAN) + 1)
        self._earlier: frozenset[int] = frozenset()
        self.notices = Notices()
        self._broker: BrokerLink | None = None
        self._uplink_sink = uplink_sink
        self._sink: SinkLink | None = None
        self._receipts = Receipts(
            self._published, has_broker=config.mqtt.enabled, has_sink=uplink_sink is not None
        )
        self._published_count = 0
        self._store: Store
        self._settlement: Settlement
        self._dedup: Deduplicator
        self.life: Life
        self.inactivity: Inactivity
        self.sensors: Sensors
        self.over_the_air: OverTheAir
        self.downlinks: Downlinks
        self.radio: Radio
        self.approvals: Approvals
        self._expiry: ExpiryWatch
        self._orders: Orders
        self._server: BaseStationServer

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` is called, or until cancelled. Started: base stations can connect.

        Raises:
            StartError: it cannot start; says what, where and what to do.
        """
        raise_file_limit(self.config.server.max_connections + OWN_FILES)
        async with contextlib.AsyncExitStack() as rooms:
            listeners = await self._compose(rooms)
            async with trio.open_nursery() as inside:
                await self._open_inside(inside)
                async with trio.open_nursery() as doors:
                    await doors.start(self._server.serve, listeners)
                    await doors.start(self._serve_control)
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
        """Take from a new configuration what needs no restart, and read the certificates again.

        Raises:
            CertificateError: they cannot be used; everything stays as it was.
        """
        self.ssl_context = server_context(config)
        logger.info("certificates are read again and used from the next connection on")
        self._expiry.look_soon()
        if waiting := sorted(changed_keys(self.config, config) - RUNTIME_KEYS):
            logger.warning("changed, but needs a restart: %s", ", ".join(waiting))
        self._adopt(config)

    def change_settings(self, values: Mapping[str, object]) -> dict[str, object]:
        """Change what is set, in the overlay; what needs no restart holds from now on.

        Raises:
            ConfigError: says everything that is wrong; nothing is changed.
            StorageError: it could not be written.
        """
        contexts: list[ssl.SSLContext] = []

        def check(wanted: Config) -> None:
            """A certificate that cannot be used is not kept."""
            if TLS_KEYS & values.keys():
                contexts.append(server_context(wanted))

        config, changes = overlay.change(self.config, values, check=check)
        if contexts:
            self.ssl_context = contexts[0]
        self._adopt(config)
        self.notices.tell("service", {"event": "settings", "keys": sorted(values)})
        return changes.as_json()

    def _adopt(self, config: Config) -> None:
        """What is asked of the configuration each time follows by itself; the rest is told."""
        self.config = adopted = overlay.adopt(self.config, config)
        logging.getLogger().setLevel(adopted.log.level.upper())
        self._settlement.configure(drop_unknown=adopted.sensors.unknown == "drop")
        self._dedup.configure(**_dedup_settings(adopted))
        self._server.limits = limits(adopted)
        self.life.limits = patience(adopted)
        self.inactivity.look_soon()

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
        """Uplinks that broker and sink, those that there are, have taken since the start; None
        without either.
        """
        return self._published_count if self._is_publishing else None

    @property
    def _is_publishing(self) -> bool:
        return self._broker is not None or self._sink is not None

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

    async def uplink(self, uid: str) -> dict[str, object]:
        """One uplink by its `id`; raises as `find_uplink` does."""
        each = await find_uplink(uid, self._store.life.uplinks_after)
        return shown_uplink(each.ep_eui, each.received_ns, each.published_ns, each.body)

    @property
    def since(self) -> float:
        """Unix time of the start."""
        return self._since_ns / 1e9

    def rate(self) -> float:
        """Receptions a second, over the last minute."""
        if not self._marks:
            return 0.0
        begun, before = self._marks[0]
        span = trio.current_time() - begun
        return (self._settlement.received - before) / span if span > 0 else 0.0

    async def journal(self) -> dict[str, object]:
        """How the journal is doing: what waits to be settled, and to be published."""
        counts = await self._store.counts()
        return {
            "backlog": counts.backlog,
            "unpublished": counts.unpublished if self._is_publishing else 0,
            "state": self._store.state,
        }

    def broker(self) -> dict[str, object]:
        """Whether the broker is there, and since when it is so."""
        if self._broker is None:
            return {"enabled": False, "state": "disabled", "since": None}
        return {"enabled": True, "state": self._broker.state, "since": self._broker.since}

    def disconnect(self, bs_eui: int) -> bool:
        """End the connection of a base station; False if it is not connected."""
        link = self._server.links.get(bs_eui)
        if link is not None:
            link.close("an operator ended the connection")
        return link is not None

    # --- making the rooms ---

    async def _compose(self, rooms: contextlib.AsyncExitStack) -> list[trio.SocketListener]:
        """Make the rooms and join them. All that can be wrong with the set-up is found here."""
        config = self.config
        try:
            self.ssl_context = server_context(config)
            self._expiry = self._make_expiry_watch()
            store = open_store(config.store.path, on_commit=self._committed)
            self._store = await rooms.enter_async_context(store)
            self._earlier = frozenset(await self._store.session_euis())
            await self._begin_life()
            if config.mqtt.enabled:
                self._broker = self._broker_link()
            if self._uplink_sink is not None:
                fetch, taken = self._store.outbox, self._receipts.sink_has
                self._sink = SinkLink(self._uplink_sink, fetch=fetch, taken=taken)
        except BssciError as error:
            raise StartError(str(error)) from error
        self._settlement = self._make_settlement()
        desk = Desk(self, self._store, self._settlement)
        self._server = BaseStationServer(limits(config), desk)
        return await self._open_listeners(rooms)

    def _make_expiry_watch(self) -> ExpiryWatch:
        def facts() -> list[dict[str, object]]:
            files = self.config.tls
            return tls.certificate_facts(files.cert_file, files.ca_file)

        return ExpiryWatch(
            facts,
            tell=lambda alarm: self.notices.tell("service", alarm.data()),
            changed=lambda _: self.publish(self._service_state(is_online=True)),
        )

    def _make_settlement(self) -> Settlement:
        config = self.config
        self._dedup = Deduplicator(**_dedup_settings(config))
        return Settlement(
            self._store,
            self._dedup,
            self.registry,
            is_registered=self.life.roster.__contains__,
            drop_unknown=config.sensors.unknown == "drop",
            memory_ns=nanoseconds(config.dedup.memory),
            unix_ns=time.time_ns,
            on_settled=self._settled,
            on_heard=self._heard,
            began_ns=self._began_ns,
        )

    async def _begin_life(self) -> None:
        """Recall the end points, and what the base stations know of them."""
        store = self._store.life
        self.life = Life(
            store,
            limits=patience(self.config),
            unix_ns=time.time_ns,
            tell=self._happened,
            tell_confirmed=self._confirmed,
        )
        for record in await self.life.load():
            self.registry.recall_station(record)
        self.inactivity = Inactivity(
            self.life,
            store,
            usual_receivers=self.registry.usual_receivers,
            check_interval=lambda: self.config.auto_detach.check_interval,
            reattach=lambda: self.config.auto_detach.reattach,
        )
        await self.inactivity.load()
        self.over_the_air = OverTheAir(
            self.life,
            unix_ns=time.time_ns,
            on_new_epoch=lambda ep_eui: self._settlement.new_epoch(ep_eui),
            on_detached=lambda ep_eui: self.downlinks.detached(ep_eui, "expired"),
            tell_stranger=self._strange,
        )
        await self._begin_downlinks()
        self.sensors = Sensors(
            self.life,
            self.inactivity,
            store,
            keep_undo=self._keep_undo,
            reception=self.downlinks.reception,
        )
        mqtt = self.config.mqtt
        self._orders = Orders(
            Inbox(mqtt.base_topic, legacy=mqtt.legacy_topics),
            self._answers,
            self.sensors,
            self.downlinks,
            self,
            publish=self.publish,
            # A little less than an operation has: then a silent base station is still pending.
            patience=lambda: 0.9 * self.config.server.operation_timeout,
        )

    async def _begin_downlinks(self) -> None:
        """Recall what waits to be sent to end points."""
        find_sensor, find_station = partial(find, self, "sensor"), partial(find, self, "station")
        self.downlinks = Downlinks(
            self._store.downlinks,
            self.life,
            find=find_sensor,
            can_transmit=self._can_transmit,
            lifetime=lambda: self.config.downlinks.lifetime,
            max_per_sensor=lambda: self.config.downlinks.max_per_sensor,
            unix_ns=time.time_ns,
            tell=self._downlink_news,
            tell_reception=self._received,
        )
        await self.downlinks.load()
        self.radio = Radio(
            link_of=lambda bs_eui: self._server.links.get(bs_eui),
            find_station=find_station,
            find_sensor=find_sensor,
            session_of=self._session_of,
            last_counter_of=self._last_counter_of,
        )
        self.approvals = Approvals(
            self._store,
            mode=lambda: self.config.tls.identity,
            refusals=lambda: self.refusals,
            find=find_station,
            link_of=lambda bs_eui: self._server.links.get(bs_eui),
        )

    def _can_transmit(self, bs_eui: int) -> bool:
        station = self.registry.base_station(bs_eui)
        return station is not None and station.is_connected and station.bidi

    def _session_of(self, ep_eui: int) -> tuple[bytes, int] | None:
        """Network session key and short address of an end point; None if it has none."""
        wish = self.life.roster.wish(ep_eui)
        told = None
        if wish is not None:
            told = propagated(wish, self.life.attachments.get(ep_eui))
        return None if told is None else (told.nwk_sn_key, told.sh_addr)

    def _last_counter_of(self, ep_eui: int) -> int | None:
        hearing = self.life.roster.hearing(ep_eui)
        return None if hearing is None else hearing.last_cnt

    def _began_ns(self, ep_eui: int) -> int:
        attachment = self.life.attachments.get(ep_eui)
        return 0 if attachment is None else attachment.at_ns

    def _keep_undo(self, sensors: Sequence[Mapping[str, object]]) -> Path:
        """Before all sensors are forgotten they are put beside the database, keys and all."""
        folder = self.config.store.path.parent
        stem = f"{KEEP_UNDO}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        names = (folder / f"{stem}{f'-{n}' if n else ''}.toml" for n in range(1000))
        file = next(name for name in names if not name.exists())
        write_file(file, write_sheet(sensors, "toml").encode(), mode=0o600)
        return file

    def _broker_link(self) -> BrokerLink:
        mqtt = self.config.mqtt
        return BrokerLink(
            broker_settings(self.config),
            will=self._will,
            announce=self._announcements,
            fetch=self._fetch,
            published=self._receipts.broker_has,
            subscriptions=subscriptions(mqtt.base_topic, legacy=mqtt.legacy_topics),
            on_message=self._orders.take,
        )

    async def _open_inside(self, inside: trio.Nursery) -> None:
        if self._broker is not None:
            await inside.start(self._broker.run)
        if self._sink is not None:
            await inside.start(self._sink.run)
        await inside.start(self._settlement.run)
        inside.start_soon(self._expiry.run)
        inside.start_soon(self.inactivity.run)
        inside.start_soon(self.downlinks.run)
        inside.start_soon(self._orders.run)
        inside.start_soon(self._mark_time)
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
                "the database was damaged; it is kept as %s and a new one is begun. Sensors are to "
                "be imported again: `bssci sensors import FILE`",
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
        """What was taken is settled, and what is settled is published if it can be."""
        await self._settlement.wait_until_idle()
        if self._sink is not None:
            await self._sink.wait_drained()
        while self._broker and self._broker.state == "online" and self._store.unpublished:
            self._progress = trio.Event()
            await self._progress.wait()

    async def _serve_control(self, *, task_status: trio.TaskStatus[None]) -> None:
        table = methods(self)

        async def tell_info() -> dict[str, object]:
            """Which program this is, and what it can be asked."""
            return service_info(describe_methods(table), self.config)

        table["service.info"] = tell_info
        await serve_control(
            self.config.control.socket,
            table,
            self.notices.watch,
            resolve=partial(find, self),
            task_status=task_status,
        )

    # --- an uplink's way ---

    def _committed(self, receptions: Sequence[Reception]) -> None:
        self._settlement.committed(receptions)

    def _settled(self, uplinks: Sequence[SettledUplink]) -> None:
        for link in (self._broker, self._sink):
            if link is not None and uplinks:
                link.wake()
        if self.notices.are_watched:
            for uplink in uplinks:
                self._tell_settled(uplink)

    def _tell_settled(self, settled: SettledUplink) -> None:
        if settled.channel is None:
            shown = shown_uplink(settled.ep_eui, settled.received_ns, None, settled.body)
            self.notices.tell("uplink", shown)
        else:
            eui, mac_type = format_eui(settled.ep_eui), json.loads(settled.body)["macType"]
            self.notices.tell(
                "station", {"eui": eui, "state": settled.channel, "mac_type": mac_type}
            )

    async def _fetch(self, after: int, limit: int) -> list[Outgoing]:
        rows = await self._store.outbox(after, limit)
        return [Outgoing(row.id, self._topic(row), row.body.encode()) for row in rows]

    def _topic(self, row: OutboxRow) -> str:
        topics = self._topics
        return (topics.uplink if row.channel is None else topics.report)(row.ep_eui)

    def _published(self, rows: Sequence[int]) -> None:
        self._store.mark_published(rows, time.time_ns())
        self._published_count += len(rows)
        self._progress.set()

    def _heard(self, telegrams: Sequence[Telegram], through: int) -> None:
        self.inactivity.heard(telegrams, through)
        self.downlinks.settled(telegrams)

    # --- what comes round ---

    async def _report_health(self) -> None:
        while True:
            self.publish(self._topics.health_check(now_ns=time.time_ns()))
            await trio.sleep(HEALTH_INTERVAL)

    async def _mark_time(self) -> None:
        while True:
            self._marks.append((trio.current_time(), self._settlement.received))
            await trio.sleep(1)

    async def _prune(self) -> None:
        """Forget uplinks that were kept long enough, in small steps."""
        while True:
            pruned = 0
            with contextlib.suppress(StorageError):  # the store says so itself
                pruned = await self._store.prune(
                    before_ns=time.time_ns() - nanoseconds(self.config.store.keep_uplinks),
                    limit=PRUNE_ROWS,
                    include_unpublished=not self._is_publishing,
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
        self.notices.tell("station", {"eui": format_eui(bs_eui), "state": "status"})

    def _happened(self, happening: Happening) -> None:
        """Something has happened to an end point."""
        self.notices.tell("sensor", happening.data())
        if happening.event in LEAVING and happening.wish.cause != "over_the_air":
            self.downlinks.detached(happening.ep_eui, "revoked")
        if publication := self._answers.happening(happening):
            self.publish(publication)
        if happening.event in TOLD:
            logger.log(
                TOLD[happening.event],
                "sensor %s",
                happening.event.replace("_", " "),
                extra={"ep_eui": format_eui(happening.ep_eui)} | _where(happening),
            )

    def _confirmed(self, bs_eui: int, ep_eui: int) -> None:
        """A base station has done what is wanted of an end point."""
        if self.notices.are_watched:
            wish = self.life.roster.wish(ep_eui)
            self.notices.tell(
                "sensor",
                {
                    "eui": format_eui(ep_eui),
                    "name": "" if wish is None else wish.end_point.name,
                    "event": "confirmed",
                    "bs_eui": format_eui(bs_eui),
                },
            )

    def _strange(self, stranger: Stranger) -> None:
        """An end point that is not registered has done something over the air."""
        self.notices.tell("sensor", stranger.data())

    def _downlink_news(self, news: News) -> None:
        """A downlink has come into a state."""
        assert news.event is not None
        self.notices.tell("downlink", event_data(news.record, news.event))
        publication = self._answers.downlink(news.record, news.event, overrules=news.overrules)
        if publication is not None:
            self.publish(publication)

    def _received(self, bs_eui: int, report: DownlinkRxStatus) -> None:
        """An end point has told how it has received a downlink."""
        publication = self._answers.reception(bs_eui, report, now_ns=time.time_ns())
        self.publish(publication)
        self.notices.tell(
            "sensor",
            json.loads(publication.body)
            | {
                "eui": format_eui(report.ep_eui),
                "event": "downlink_reception",
            },
        )

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
        eui = None if refusal.bs_eui is None else format_eui(refusal.bs_eui)
        self.notices.tell(
            "station",
            {
                "eui": eui,
                "state": "refused",
                "reason": refusal.reason,
                "address": peer.address,
                "detail": refusal.detail,
            },
        )

    def _will(self) -> tuple[str, bytes]:
        state = self._service_state(is_online=False)
        return state.topic, state.body.encode()

    def _service_state(self, *, is_online: bool) -> Publication:
        return self._topics.service_state(
            is_online=is_online,
            version=__version__,
            now_ns=time.time_ns(),
            certificates=self._expiry.summary if is_online else None,
        )

    def _announcements(self) -> list[tuple[str, bytes, bool]]:
        """What a broker that is there, or there again, must know."""
        known = self.registry.base_stations()
        seen = {station.eui for station in known}
        known += [absent(eui, self._since_ns) for eui in self._earlier - seen]
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


def changed_keys(before: Config, after: Config) -> set[str]:
    """The keys whose values differ."""
    values = [{k.full_name: v for k, v, _ in describe(c, reveal=True)} for c in (before, after)]
    return {name for name, value in values[0].items() if value != values[1][name]}


def _dedup_settings(config: Config) -> dict[str, Any]:
    dedup = config.dedup
    return {
        "delay_ns": nanoseconds(dedup.delay),
        "early": dedup.early,
        "memory_ns": nanoseconds(dedup.memory),
        "max_remembered": dedup.max_remembered,
    }


def _where(happening: Happening) -> dict[str, str]:
    fields = {} if happening.bs_eui is None else {"bs_eui": format_eui(happening.bs_eui)}
    if happening.code is not None:
        fields["error"] = f"{happening.code} {happening.message}".strip()
    return fields
