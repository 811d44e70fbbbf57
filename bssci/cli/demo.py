"""The command that shows the main job: a Service Center and a simulated network in one process."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from bssci.cli import output
from bssci.cli.settings import broker_of

if TYPE_CHECKING:
    import trio
    from rich.console import RenderableType

    from bssci.cli.network import SimulatedNetwork, SimulatedStation
    from bssci.core.runtime.authority import KeyPair
    from bssci.core.runtime.notices import Notice
    from bssci.core.runtime.service import ServiceCenter
    from bssci.core.runtime.station import Connector

__all__ = ["demo"]

HOST = "127.0.0.1"

# The live view is drawn when something has changed, and not more often than this.
FRAME = 0.125  # seconds
LAST_UPLINKS = 12

INTERRUPTED = 130  # exit code of Ctrl-C


def demo(
    stations: Annotated[int, typer.Option(min=1, max=500, help="Simulated base stations.")] = 3,
    sensors: Annotated[int, typer.Option(min=1, max=100_000, help="Simulated sensors.")] = 20,
    rate: Annotated[
        float, typer.Option(min=0.001, max=10_000, help="Uplinks a second, of all sensors.")
    ] = 2.0,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, help="How long sensors send. Default: until Ctrl-C."),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Also publish: mqtt://user:password@host:1883/base/topic, or mqtts:// for TLS.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed, the same telegrams.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line; the last holds the totals.")
    ] = False,
) -> None:
    """Show a Service Center at work, with simulated base stations over real TLS.

    Everything happens in a temporary folder and on this machine; nothing needs to be set up. On a
    terminal there is a live view, elsewhere one line for each uplink. The last line holds the
    totals.

    Example: bssci demo --stations 5 --rate 10 --seconds 60
    """
    import tempfile

    import trio

    from bssci.cli.network import SimulatedNetwork
    from bssci.core.runtime.log import logging_to

    network = SimulatedNetwork(
        stations=stations, sensors=sensors, rate=rate, seed=seed, skew=stations > 1
    )
    show = _JsonLines() if as_json else _screen(network)
    with tempfile.TemporaryDirectory(prefix="bssci-demo-") as folder:
        stage = _Stage(Path(folder), network, broker_of(mqtt))
        try:
            with logging_to(level="warning", form="console"):
                trio.run(stage.play, show, seconds)
        finally:
            stage.tell_totals(as_json=as_json)
    if stage.is_interrupted:
        raise typer.Exit(INTERRUPTED)


class _Stage:
    """A folder as `init` makes it, a Service Center in it, and base stations around it."""

    def __init__(self, folder: Path, network: SimulatedNetwork, broker: dict[str, object]) -> None:
        from bssci.cli.simulation import Totals
        from bssci.core.runtime.authority import (
            make_authority,
            make_server_certificate,
            write_pair,
        )
        from bssci.core.runtime.config import CONFIG_NAME, load_config, render_config
        from bssci.core.runtime.service import ServiceCenter

        self._folder = folder
        self._network = network
        self._totals = Totals()
        self.is_interrupted = False
        self._authority: KeyPair = make_authority()
        certs = folder / "certs"
        certs.mkdir()
        write_pair(self._authority, certs / "ca_cert.pem", certs / "ca_key.pem")
        write_pair(
            make_server_certificate(self._authority, [HOST], allow_loopback=True),
            certs / "service_center_cert.pem",
            certs / "service_center_key.pem",
        )
        file = folder / CONFIG_NAME
        here: dict[str, object] = {"server.eui": DEMO_EUI, "server.host": HOST, "server.port": 0}
        file.write_text(render_config(here))
        self.center: ServiceCenter = ServiceCenter(load_config(file, environ={}, options=broker))

    async def play(self, show: _Show, seconds: float | None) -> None:
        """Run it all until the time is up."""
        import math

        import trio

        from bssci.cli.simulation import simulate

        async with trio.open_nursery() as nursery:
            with self.center.notices.watch() as notices:
                await nursery.start(self.center.run)
                nursery.start_soon(show.run, self.center, notices)
                with trio.CancelScope() as simulation:
                    await nursery.start(self._heed_signals, simulation)
                    await simulate(
                        self._network,
                        self._connector,
                        seconds=math.inf if seconds is None else seconds,
                        totals=self._totals,
                    )
                self.center.stop()
                await self.center.stopped()
                nursery.cancel_scope.cancel()

    async def _heed_signals(
        self, simulation: trio.CancelScope, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Ctrl-C ends what the sensors send; what was sent is still settled and counted."""
        import signal

        import trio

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as numbers:
            task_status.started()
            async for number in numbers:
                self.is_interrupted = number == signal.SIGINT
                simulation.cancel()

    def _connector(self, station: SimulatedStation) -> Connector:
        from bssci.core.protocol.eui import format_eui
        from bssci.core.runtime.authority import make_station_certificate, write_pair
        from bssci.core.runtime.station import tls_connector
        from bssci.core.runtime.tls import client_context

        eui = format_eui(station.eui)
        cert, key = self._folder / f"{eui}_cert.pem", self._folder / f"{eui}_key.pem"
        write_pair(make_station_certificate(self._authority, station.eui), cert, key)
        context = client_context(
            cert_file=cert, key_file=key, ca_file=self._folder / "certs" / "ca_cert.pem"
        )
        return tls_connector(HOST, self.center.port, context)

    def tell_totals(self, *, as_json: bool) -> None:
        """The last line."""
        sent, kept = self._totals, self.center.counts
        published = self.center.published
        if as_json:
            output.show_json(
                {"event": "totals", "simulated": sent.as_dict(), "center": kept}
                | ({} if published is None else {"published": published})
            )
            return
        words = (
            f"{sent.telegrams} telegrams, heard {sent.receptions} times, "
            f"{sent.acknowledged} acknowledged: {kept['released']} kept, "
            f"{kept['duplicates']} copies removed"
        )
        output.show(words if published is None else f"{words}, {published} published")


DEMO_EUI = 0x0200000000005C01  # locally administered, as the simulated base stations


# --- showing -------------------------------------------------------------------------------------


class _Show(Protocol):
    async def run(
        self, center: ServiceCenter, notices: trio.MemoryReceiveChannel[Notice]
    ) -> None: ...


class _JsonLines:
    """One object for each thing that happens."""

    async def run(self, center: ServiceCenter, notices: trio.MemoryReceiveChannel[Notice]) -> None:
        async for notice in notices:
            output.show_json({"event": notice.kind, "time": notice.time, **notice.data})


class _Lines:
    """One line of text for each thing that happens."""

    async def run(self, center: ServiceCenter, notices: trio.MemoryReceiveChannel[Notice]) -> None:
        output.note(f"Service Center on {HOST}, port {center.port}")
        async for notice in notices:
            if not _is_status(notice):
                output.show("  ".join(_words(notice)))


def _is_status(notice: Notice) -> bool:
    """A base station says how it is, which it does all the time."""
    return notice.kind == "station" and notice.data["state"] == "status"


def _words(notice: Notice) -> tuple[str, ...]:
    """A notice as the cells of a line."""
    from datetime import datetime

    time = datetime.fromtimestamp(notice.time).strftime("%H:%M:%S")
    data = notice.data
    match notice.kind:
        case "uplink":
            receptions = data["receptions"]
            assert isinstance(receptions, list)
            octets = data["data"]
            assert isinstance(octets, list)
            return (
                time,
                str(data["sensor_eui"]),
                f"#{data['cnt']:<5}",
                f"{data['snr']:5.1f} dB",
                f"{len(receptions)} of the base stations"
                if len(receptions) > 1
                else "1 base station",
                bytes(octets).hex(),
            )
        case "station":
            return time, str(data["eui"]), f"base station {data['state']}"
        case "gap":
            return time, f"({data['lost']} more)"
    return time, str(data)


def _screen(network: SimulatedNetwork) -> _Show:
    import sys

    return _Live(network) if sys.stdout.isatty() else _Lines()


class _Live:
    """A view of the whole, redrawn when something has changed."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self._network = network
        self._last: deque[tuple[str, ...]] = deque(maxlen=LAST_UPLINKS)

    async def run(self, center: ServiceCenter, notices: trio.MemoryReceiveChannel[Notice]) -> None:
        import trio
        from rich.live import Live

        # Without `auto_refresh` no thread is started: trio draws.
        with Live(self._draw(center), auto_refresh=False, screen=True) as live:
            async for notice in notices:
                self._take(notice)
                while True:
                    try:
                        self._take(notices.receive_nowait())
                    except trio.WouldBlock:
                        break
                live.update(self._draw(center), refresh=True)
                await trio.sleep(FRAME)

    def _take(self, notice: Notice) -> None:
        if notice.kind == "uplink":
            self._last.appendleft(_words(notice))

    def _draw(self, center: ServiceCenter) -> RenderableType:
        from rich.console import Group

        return Group(_headline(center), "", _stations(center), "", self._uplinks())

    def _uplinks(self) -> RenderableType:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, title_justify="left", title="last uplinks")
        for name in ("time", "sensor", "count", "best SNR", "heard by", "data"):
            table.add_column(name, no_wrap=True, header_style="dim")
        for row in self._last:
            table.add_row(*row)
        return table


def _headline(center: ServiceCenter) -> RenderableType:
    counts = center.counts
    connected = len(center.registry.connected)
    text = (
        f"[bold]bssci demo[/]  port {center.port}   base stations [green]{connected}[/]   "
        f"received {counts['received']}   copies {counts['duplicates']}   "
        f"kept [bold]{counts['released']}[/]"
    )
    return text if center.published is None else f"{text}   published {center.published}"


def _stations(center: ServiceCenter) -> RenderableType:
    from rich.table import Table

    from bssci.core.protocol.eui import format_eui

    table = Table(box=None, pad_edge=False)
    for name in ("base station", "state", "uplinks", "clock"):
        table.add_column(name, no_wrap=True, header_style="dim")
    for station in center.registry.base_stations():
        state = "[green]● online[/]" if station.is_connected else "[red]○ offline[/]"
        offset = station.clock_offset_ns
        clock = "" if offset is None else f"{offset / 1e9:+,.3f} s"
        table.add_row(format_eui(station.eui), state, str(station.uplinks), clock)
    return table
