"""`bssci sim`: simulated base stations and sensors, against any Service Center."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bssci.cli import output
from bssci.core.protocol.errors import InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    import trio

    from bssci.cli.network import SimulatedStation
    from bssci.cli.simulation import Fault, Happening, Totals
    from bssci.core.runtime.station import Connector

__all__ = ["CertificateFolder", "Narrator", "sim", "totals_line"]

DEFAULT_PORT = 16018

REFUSED, NOT_REACHABLE, INTERRUPTED = 1, 3, 130

# Above this many telegrams a second one line a second says more than one for each.
READABLE_RATE = 10.0


def sim(
    to: Annotated[
        str, typer.Option("--to", metavar="HOST[:PORT]", help="The Service Center; port 16018.")
    ],
    certs: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder with EUI_cert.pem, EUI_key.pem and ca_cert.pem as `bssci certs station` "
            "writes them, or with ca_cert.pem and ca_key.pem to make them from.",
        ),
    ] = Path("certs"),
    cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One certificate for all base stations.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The authority of the Service Center.")
    ] = None,
    stations: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Base stations; 3, or one for each certificate."),
    ] = None,
    eui: Annotated[
        list[str] | None,
        typer.Option("--eui", metavar="EUI", help="EUI of a base station; may be repeated."),
    ] = None,
    sensors: Annotated[int, typer.Option(min=1, max=1_000_000, help="Sensors.")] = 20,
    rate: Annotated[
        float, typer.Option(min=0.001, help="Telegrams a second, of all sensors together.")
    ] = 2.0,
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same telegrams with the same values.")
    ] = 0,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="End by itself after this time.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="NAME,…",
            help="What goes wrong. disconnect: connections are cut, also within a frame. "
            "split: writes go out in small pieces. dup: some uplinks are said twice. "
            "skew: clocks are wrong by seconds, and one by years. slow: answers are read slowly.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Simulate base stations and sensors against a Service Center.

    Several base stations hear most telegrams, each with its own SNR, clock error and delay. They
    resume their sessions after cuts, and keep and repeat what was not acknowledged. Ends with one
    line of totals, by itself with --seconds, else on Ctrl-C.

    \b
    Exit codes: 0 all was acknowledged, 1 something was refused or not answered,
    2 usage or certificates, 3 the Service Center was never reached, 130 Ctrl-C.

    Example: bssci sim --to localhost:16018 --certs /srv/mioty/certs --fault disconnect
    """
    address = parse_address(to)
    faults = parse_faults(fault or [])
    named = _parse_euis(eui or [])
    folder = _certificates(certs, cert, key, ca)
    euis = named or folder.euis
    wanted = stations or len(euis) or 3
    if wanted > len(euis) and (named or not folder.makes_any):
        there = f"{len(named)} named by --eui" if named else f"certificates for {len(euis)}"
        raise typer.BadParameter(
            f"{wanted} are asked for, and there are {there}", param_hint="--stations"
        )
    narrator = Narrator(as_json=as_json, rate=rate)
    code = _run(
        address=address,
        folder=folder,
        euis=euis,
        stations=wanted,
        sensors=sensors,
        rate=rate,
        seed=seed,
        seconds=math.inf if seconds is None else seconds,
        faults=faults,
        narrator=narrator,
    )
    raise typer.Exit(code)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`."""
    host, port = text, str(DEFAULT_PORT)
    if text.startswith("[") and "]" in text:
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{text!r} is not HOST:PORT", param_hint="--to")
    return host, int(port)


def parse_faults(names: Sequence[str]) -> frozenset[Fault]:
    """The faults named, by commas or one by one."""
    from bssci.cli.simulation import FAULTS

    found: set[Fault] = set()
    for name in ",".join(names).split(","):
        known = next((fault for fault in FAULTS if fault == name.strip().lower()), None)
        if known is not None:
            found.add(known)
        elif name.strip():
            raise typer.BadParameter(
                f"{name.strip()!r} is none of {', '.join(FAULTS)}", param_hint="--fault"
            )
    return frozenset(found)


def _parse_euis(texts: Sequence[str]) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(map(parse_eui, texts)))
    except InvalidEuiError as error:
        raise typer.BadParameter(str(error), param_hint="--eui") from error


# --- certificates ----------------------------------------------------------------------------


class CertificateFolder:
    """Where the simulated base stations have their certificates from.

    Attributes:
        euis: the base stations there are certificates for.
        makes_any: there is one for every other base station too.
    """

    def __init__(self, folder: Path) -> None:
        from bssci.core.runtime.tls import CertificateError

        self._folder = folder
        self._ca_file = folder / "ca_cert.pem"
        self._cert_files = _station_files(folder)
        self.makes_any = (folder / "ca_key.pem").exists()
        self.euis = () if self.makes_any else tuple(sorted(self._cert_files))
        if not self.makes_any and not self.euis:
            raise CertificateError(
                f"{folder} holds neither a certificate of a base station (EUI_cert.pem, "
                "EUI_key.pem) nor an authority (ca_cert.pem, ca_key.pem) to make one with; "
                "`bssci init` or `bssci certs station EUI` makes them, --certs says where they are"
            )

    def context(self, eui: int) -> ssl.SSLContext:
        """The context of a base station.

        Raises:
            CertificateError: a file cannot be used, or there is none for it.
        """
        from bssci.core.runtime import tls

        cert_file = self._cert_files.get(eui)
        if cert_file is None:
            if self.makes_any:
                return self._made(eui)
            name = format_eui(eui)
            raise tls.CertificateError(
                f"{self._folder} holds no {name}_cert.pem; `bssci certs station {name}` makes one"
            )
        key_file = cert_file.with_name(cert_file.name.removesuffix("cert.pem") + "key.pem")
        ca_file = cert_file.with_name("ca_cert.pem")
        return tls.client_context(
            cert_file=cert_file,
            key_file=key_file,
            ca_file=ca_file if ca_file.exists() else self._ca_file,
        )

    def _made(self, eui: int) -> ssl.SSLContext:
        """With a certificate for this run only: its key is on no disk afterwards."""
        import tempfile

        from bssci.core.runtime import authority, tls

        signer = authority.load_authority(self._ca_file, self._folder / "ca_key.pem")
        with tempfile.TemporaryDirectory() as folder:
            cert_file, key_file = Path(folder) / "cert.pem", Path(folder) / "key.pem"
            pair = authority.make_station_certificate(signer, eui)
            authority.write_pair(pair, cert_file, key_file)
            return tls.client_context(cert_file=cert_file, key_file=key_file, ca_file=self._ca_file)


class _SharedCertificate(CertificateFolder):
    """One certificate for all, as in many a real installation."""

    def __init__(self, cert_file: Path, key_file: Path, ca_file: Path) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding

        from bssci.core.runtime import tls

        self._context = tls.client_context(cert_file=cert_file, key_file=key_file, ca_file=ca_file)
        der = tls.read_certificates(cert_file)[0].public_bytes(Encoding.DER)
        self.euis = tuple(sorted(tls.identity_in(der).euis))
        # One that names nobody is taken for anybody.
        self.makes_any = not self.euis

    def context(self, eui: int) -> ssl.SSLContext:
        return self._context


def _station_files(folder: Path) -> dict[int, Path]:
    """The certificates of base stations in a folder, or in one for each below it, by EUI."""
    found = {}
    for pattern in ("stations/*/*_cert.pem", "*/*_cert.pem", "*_cert.pem"):
        for file in folder.glob(pattern):
            # What names no EUI is the authority's or the Service Center's.
            with contextlib.suppress(InvalidEuiError):
                found[parse_eui(file.name.removesuffix("_cert.pem"))] = file
    return found


def _certificates(
    certs: Path, cert: Path | None, key: Path | None, ca: Path | None
) -> CertificateFolder:
    if cert is None and key is None and ca is None:
        return CertificateFolder(certs)
    if cert is None or key is None or ca is None:
        raise typer.BadParameter("--cert, --key and --ca belong together: give all three")
    return _SharedCertificate(cert, key, ca)


# --- what is said ----------------------------------------------------------------------------


class Narrator:
    """Says what happens: a line for a person, or a JSON object for a program.

    At high rates telegrams are told to people once a second, all together.
    """

    def __init__(self, *, as_json: bool = False, rate: float = 1.0) -> None:
        self.is_summary = not as_json and rate > READABLE_RATE
        self._as_json = as_json
        self._first: float | None = None
        self._deaf: BrokenPipeError | None = None
        self.when_unheard: Callable[[], None] = lambda: None
        """Called when nobody reads any more what is said."""

    def tell(self, happening: Happening) -> None:
        """Say it."""
        if self._deaf is not None:
            return
        try:
            self._say(happening)
        except BrokenPipeError as error:
            # Not the fault of the base station that has something to tell.
            self._deaf = error
            self.when_unheard()

    def _say(self, happening: Happening) -> None:
        if self._as_json:
            output.show_json(happening)
        elif text := self._words(happening):
            output.show(f"{self._since_start(happening):9.3f} s  {text}")

    def end(self, totals: Totals) -> None:
        """Say what came of it.

        Raises:
            BrokenPipeError: nobody reads it.
        """
        if self._deaf is not None:
            raise self._deaf
        if self._as_json:
            output.show_json({"event": "total", **totals.as_dict()})
        else:
            output.show(totals_line(totals))

    def _since_start(self, happening: Happening) -> float:
        moment = happening["time"]
        assert isinstance(moment, float | int)
        if self._first is None:
            self._first = moment
        return moment - self._first

    def _words(self, happening: Happening) -> str:
        if happening["event"] == "telegram" and self.is_summary:
            return ""
        found = dict(happening)
        if found["event"] == "telegram":
            heard_by = found["heard_by"]
            assert isinstance(heard_by, list)
            found["heard"] = (
                "1 base station" if len(heard_by) == 1 else (f"{len(heard_by)} base stations")
            )
        if found["event"] == "online":
            found["session"] = "session resumed" if found["resumed"] else "new session"
        if found["event"] == "offline":
            found["what"] = "lost its connection" if found["was_online"] else "is not connected"
        found["about"] = f" {found['ep_eui']}" if "ep_eui" in found else ""
        return _LINES[str(found["event"])].format_map(found)


_LINES = {
    "online": "station {bs_eui}: connected to {sc_eui}, {session}",
    "offline": "station {bs_eui}: {what}: {reason}",
    "telegram": "sensor {ep_eui}: #{packet_cnt}, {size} bytes, heard by {heard}, "
    "best {best_snr:.1f} dB",
    "request": "station {bs_eui}: is asked {command}{about}",
    "withdrawn": "station {bs_eui}: {command}{about} was withdrawn with error {code}: {message}",
    "refused": "station {bs_eui}: its {command} was refused with error {code}: {message}",
    "dropped": "station {bs_eui}: no room for another {command}, it is lost",
    "downlink": "station {bs_eui}: downlink {que_id} sent to {ep_eui} after #{packet_cnt}",
    "second": "{telegrams} telegrams, {receptions} receptions, {acknowledged} acknowledged, "
    "{waiting} waiting",
}


def totals_line(totals: Totals) -> str:
    """What came of a simulation, in one line.

    >>> from bssci.cli.simulation import Totals
    >>> totals_line(Totals(telegrams=5, receptions=9, acknowledged=8, unanswered=1))
    '5 telegrams, 9 receptions, 8 acknowledged, 0 refused, 0 reconnects, 0 resumed, 1 unanswered'
    """
    found = totals.as_dict()
    always = ("telegrams", "receptions", "acknowledged", "refused", "reconnects", "resumed")
    if_any = ("duplicated", "unanswered", "dropped", "downlinks")
    return ", ".join(
        f"{found[name]} {name}" for name in (*always, *(name for name in if_any if found[name]))
    )


# --- running ---------------------------------------------------------------------------------


def _run(
    *,
    address: tuple[str, int],
    folder: CertificateFolder,
    euis: Sequence[int],
    stations: int,
    sensors: int,
    rate: float,
    seed: int,
    seconds: float,
    faults: frozenset[Fault],
    narrator: Narrator,
) -> int:
    import trio

    from bssci.cli.network import SimulatedNetwork
    from bssci.cli.simulation import Totals, simulate
    from bssci.core.runtime.station import tls_connector

    network = SimulatedNetwork(
        stations=stations,
        sensors=sensors,
        rate=rate,
        seed=seed,
        skew="skew" in faults,
        station_euis=euis,
    )
    contexts = [folder.context(site.eui) for site in network.stations]
    _make_room(stations)
    totals = Totals()
    interrupts: list[int] = []

    def connector(site: SimulatedStation) -> Connector:
        return tls_connector(*address, contexts[site.index])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_stop_on_signal, nursery.cancel_scope, interrupts.append)
            narrator.when_unheard = nursery.cancel_scope.cancel
            if narrator.is_summary:
                nursery.start_soon(_tell_each_second, narrator, totals)
            await simulate(
                network,
                connector,
                faults=faults,
                seed=seed,
                seconds=seconds,
                tell=narrator.tell,
                totals=totals,
            )
            nursery.cancel_scope.cancel()

    trio.run(main)
    narrator.end(totals)
    return _exit_code(totals, interrupts)


def _exit_code(totals: Totals, interrupts: Sequence[int]) -> int:
    import signal

    if signal.SIGINT in interrupts:
        return INTERRUPTED
    if not totals.connects:
        output.fail(
            "the Service Center was never reached; is it running, are address and certificates "
            "right? `bssci stations refused` on its side says who was turned away, and why"
        )
        return NOT_REACHABLE
    return REFUSED if totals.refused or totals.unanswered or totals.dropped else 0


async def _stop_on_signal(
    scope: trio.CancelScope,
    note: Callable[[int], None],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """The first signal ends the simulation in order; the second one ends it at once."""
    import signal

    import trio

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        note(await anext(signals))
        scope.cancel()


async def _tell_each_second(narrator: Narrator, totals: Totals) -> None:
    import time

    import trio

    while True:
        await trio.sleep(1)
        found = totals.as_dict()
        said = found["receptions"] + found["duplicated"] - found["dropped"]
        waiting = said - found["acknowledged"] - found["refused"]
        narrator.tell({"event": "second", "time": time.time(), **found, "waiting": waiting})


def _make_room(stations: int) -> None:
    """As many descriptors as base stations: the usual limit of 1024 is soon used up."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = stations + 256
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
