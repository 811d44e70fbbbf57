import json
import os
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import typer
from typer.testing import CliRunner

from bssci.cli import sim as sim_module
from bssci.cli.sim import (
    CertificateFolder,
    Narrator,
    parse_address,
    parse_faults,
    sim,
    totals_line,
)
from bssci.cli.simulation import Happening, Totals
from bssci.core.runtime.authority import (
    KeyPair,
    make_authority,
    make_server_certificate,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.tls import CertificateError, server_context
from tests.fakes import PlainCenter

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(sim)

EUI = "70B3D59CD0000001"


@pytest.fixture(scope="session")
def authority() -> KeyPair:
    return make_authority()


@pytest.fixture
def certs(tmp_path: Path, authority: KeyPair) -> Path:
    """The folder of an authority and of the Service Center."""
    folder = tmp_path / "certs"
    folder.mkdir()
    write_pair(authority, folder / "ca_cert.pem", folder / "ca_key.pem")
    server = make_server_certificate(authority, ["localhost"], allow_loopback=True)
    write_pair(server, folder / "service_center_cert.pem", folder / "service_center_key.pem")
    return folder


def give_certificate(authority: KeyPair, folder: Path, eui: str) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    pair = make_station_certificate(authority, int(eui, 16))
    write_pair(pair, folder / f"{eui}_cert.pem", folder / f"{eui}_key.pem")
    (folder / "ca_cert.pem").write_bytes(authority.certificate)
    return folder


class RunningCenter:
    """A Service Center over TLS, in a thread of its own."""

    def __init__(self, certs: Path, code: int) -> None:
        self.port = 0
        self.names: set[str] = set()
        self.heard: list[int] = []
        self.started = threading.Event()
        self._code = code
        self._context = server_context(
            cert_file=certs / "service_center_cert.pem",
            key_file=certs / "service_center_key.pem",
            ca_file=certs / "ca_cert.pem",
        )
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()

    def run(self) -> None:
        trio.run(self._main)

    def stop(self) -> None:
        assert self._token is not None
        self._token.run_sync_soon(self._scope.cancel)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        with self._scope:
            async with trio.open_nursery() as nursery:
                center = PlainCenter(nursery, code=self._code)

                async def serve(transport: trio.SocketStream) -> None:
                    stream = trio.SSLStream(transport, self._context, server_side=True)
                    try:
                        await stream.do_handshake()
                        self._note(stream)
                        await center.serve(stream)
                    except trio.BrokenResourceError:
                        pass
                    finally:
                        await trio.aclose_forcefully(stream)

                self.started.set()
                await trio.serve_listeners(serve, [listener])

    def _note(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        subject = dict(part[0] for part in stream.getpeercert()["subject"])
        self.names.add(subject["commonName"])


@pytest.fixture
def center(certs: Path) -> Iterator[Callable[..., RunningCenter]]:
    """Starts a Service Center that runs until the end of the test."""
    running: list[tuple[RunningCenter, threading.Thread]] = []

    def start(code: int = 0) -> RunningCenter:
        made = RunningCenter(certs, code)
        thread = threading.Thread(target=made.run)
        thread.start()
        running.append((made, thread))
        assert made.started.wait(10)
        return made

    yield start
    for made, thread in running:
        made.stop()
        thread.join(10)


def words_of(text: str) -> str:
    """Without the frame that stands around a usage error."""
    return " ".join(text.replace("│", " ").split())


def run(*args: object):
    return CliRunner().invoke(app, list(map(str, args)))


# --- the whole ---


def test_a_simulation_ends_by_itself_with_one_line_of_totals(center, certs):
    running = center()
    result = run("--to", f"localhost:{running.port}", "--certs", certs, "--seconds", 1, "--rate", 9)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].endswith("connected to 0000000000000002, new session")
    assert " telegrams, " in lines[-1]
    assert lines[-1].endswith(" acknowledged, 0 refused, 0 reconnects, 0 resumed")
    assert running.names == {f"02000000B500000{n}" for n in (1, 2, 3)}


def test_programs_get_one_object_an_event_and_one_of_totals(center, certs):
    result = run(
        "--to", f"localhost:{center().port}", "--certs", certs, "--seconds", 1, "--rate", 20,
        "--stations", 1, "--json",
    )  # fmt: skip
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["event"] for event in events} == {"online", "telegram", "total"}
    total = events[-1]
    assert total["acknowledged"] == total["receptions"] == total["telegrams"] == len(events) - 2


def test_refusals_are_told_by_the_exit_code(center, certs):
    result = run(
        "--to", f"localhost:{center(71).port}", "--certs", certs, "--seconds", 1, "--rate", 9
    )
    assert result.exit_code == 1
    assert "was refused with error 71: no" in result.stdout


def test_a_service_center_that_is_not_there_has_an_exit_code_of_its_own(certs):
    result = run("--to", "localhost:1", "--certs", certs, "--seconds", 0)
    assert result.exit_code == 3
    assert "the Service Center was never reached" in result.stderr


def test_faults_do_no_harm(center, certs):
    result = run(
        "--to", f"localhost:{center().port}", "--certs", certs, "--seconds", 1, "--rate", 30,
        "--fault", "split,slow", "--fault", "skew", "--json",
    )  # fmt: skip
    total = json.loads(result.stdout.splitlines()[-1])
    assert (result.exit_code, total["unanswered"]) == (0, 0)


def test_ctrl_c_ends_with_the_totals(center, certs, monkeypatch):
    def interrupt(self: Narrator, happening: Happening) -> None:
        if happening["event"] == "second":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Narrator, "tell", interrupt)
    result = run("--to", f"localhost:{center().port}", "--certs", certs, "--rate", 30)
    assert result.exit_code == 130
    assert "acknowledged" in result.stdout.splitlines()[-1]


def test_certificates_of_base_stations_say_who_they_are(center, certs, authority, tmp_path):
    running = center()
    folder = give_certificate(authority, tmp_path / "mine", EUI)
    result = run(
        "--to", f"localhost:{running.port}", "--certs", folder, "--seconds", 1, "--rate", 9
    )
    assert result.exit_code == 0, result.output
    assert running.names == {EUI}


# --- certificates ---


def name_of(context: ssl.SSLContext, running: RunningCenter) -> str:
    """Whom the Service Center sees when a base station uses this context."""

    async def shake_hands() -> None:
        transport = await trio.open_tcp_stream("localhost", running.port)
        stream = trio.SSLStream(transport, context, server_hostname="localhost")
        await stream.do_handshake()
        await stream.aclose()

    running.names.clear()
    trio.run(shake_hands)
    deadline = threading.Event()
    for _ in range(500):
        if running.names or deadline.wait(0.01):
            break
    (name,) = running.names
    return name


def test_an_authority_makes_certificates_that_stay_in_memory(center, certs):
    before = sorted(certs.iterdir())
    folder = CertificateFolder(certs)
    assert (folder.euis, folder.makes_any) == ((), True)
    assert name_of(folder.context(int(EUI, 16)), center()) == EUI
    assert sorted(certs.iterdir()) == before


@pytest.mark.parametrize("below", [".", EUI, f"stations/{EUI}"])
def test_certificates_are_found_where_they_are_made(center, authority, tmp_path, below):
    folder = tmp_path / "found"
    give_certificate(authority, folder / below, EUI)
    found = CertificateFolder(folder)
    assert (found.euis, found.makes_any) == ((int(EUI, 16),), False)
    assert name_of(found.context(int(EUI, 16)), center()) == EUI


def test_the_authority_may_stand_above_the_certificates(authority, certs):
    give_certificate(authority, certs / "stations" / EUI, EUI)
    (certs / "stations" / EUI / "ca_cert.pem").unlink()
    (certs / "ca_key.pem").unlink()
    assert CertificateFolder(certs).context(int(EUI, 16)) is not None


def test_a_base_station_without_a_certificate_is_an_error_that_says_how_to_make_one(
    authority, tmp_path
):
    folder = CertificateFolder(give_certificate(authority, tmp_path / "mine", EUI))
    with pytest.raises(CertificateError) as error:
        folder.context(0x11)
    assert str(error.value).endswith(
        "holds no 0000000000000011_cert.pem; `bssci certs station 0000000000000011` makes one"
    )


def test_a_folder_without_certificates_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(CertificateError, match="holds neither a certificate of a base station"):
        CertificateFolder(tmp_path)


def test_one_certificate_serves_all_if_it_names_nobody(certs):
    shared = sim_module._certificates(
        Path("nowhere"),
        certs / "service_center_cert.pem",
        certs / "service_center_key.pem",
        certs / "ca_cert.pem",
    )
    assert (shared.euis, shared.makes_any) == ((), True)
    assert shared.context(1) is shared.context(2)


def test_one_certificate_that_names_a_base_station_is_for_that_one(
    center, certs, authority, tmp_path
):
    running = center()
    folder = give_certificate(authority, tmp_path / "mine", EUI)
    shared = (
        "--cert", folder / f"{EUI}_cert.pem",
        "--key", folder / f"{EUI}_key.pem",
        "--ca", folder / "ca_cert.pem",
    )  # fmt: skip
    to = ("--to", f"localhost:{running.port}", "--seconds", 1, "--json")
    result = run(*to, *shared)
    assert json.loads(result.stdout.splitlines()[0])["bs_eui"] == EUI
    result = run(*to, *shared, "--stations", 2)
    assert result.exit_code == 2
    assert "certificates for 1" in words_of(result.stderr)


# --- usage ---


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--to", "host:x"), "'host:x' is not HOST:PORT"),
        (("--to", "host", "--fault", "fire"), "'fire' is none of disconnect, split, dup, skew"),
        (("--to", "host", "--eui", "12"), "'12' is not an EUI"),
        (("--to", "host", "--cert", "a"), "--cert, --key and --ca belong together"),
        (("--to", "host", "--stations", "0"), "--stations"),
        (("--to", "host", "--rate", "0"), "--rate"),
        ((), "--to"),
    ],
)
def test_usage_errors_say_what_is_wrong(args, words):
    result = run(*args)
    assert result.exit_code == 2
    assert words in words_of(result.stderr)


def test_no_more_base_stations_than_are_named(certs):
    result = run("--to", "host", "--certs", certs, "--eui", EUI, "--stations", 2)
    assert result.exit_code == 2
    assert "1 named by --eui" in words_of(result.stderr)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("sc.example", ("sc.example", 16018)),
        ("sc.example:17", ("sc.example", 17)),
        ("::1", ("::1", 16018)),
        ("[::1]", ("::1", 16018)),
        ("[::1]:17", ("::1", 17)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":17", "host:", "host:0", "host:65536", "host:-1", "[::1]17x"]
)
def test_what_is_no_address(text):
    with pytest.raises(typer.BadParameter):
        parse_address(text)


def test_faults_are_named_by_commas_or_one_by_one():
    assert parse_faults(["dup, SKEW", "slow", ""]) == {"dup", "skew", "slow"}


# --- what is said ---


def said(*happenings: Happening, **options: float) -> list[str]:
    lines: list[str] = []
    narrator = Narrator(**options)  # type: ignore[arg-type]  # by name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bssci.cli.output.show", lines.append)
        for happening in happenings:
            narrator.tell(happening)
    return lines


TELEGRAM: Happening = {
    "event": "telegram", "time": 100.5, "ep_eui": "E1", "packet_cnt": 7, "size": 10,
    "heard_by": ["B1"], "best_snr": 3.14159,
}  # fmt: skip


def test_every_happening_has_words():
    about = {"time": 100.0, "bs_eui": "B1"}
    assert said(
        {"event": "online", "resumed": False, "sc_eui": "C1", **about},
        {"event": "online", "resumed": True, "sc_eui": "C1", **about},
        TELEGRAM,
        TELEGRAM | {"heard_by": ["B1", "B2"]},
        {"event": "offline", "reason": "cut", "was_online": True, **about},
        {"event": "offline", "reason": "refused", "was_online": False, **about},
        {"event": "request", "command": "attPrp", "ep_eui": "E1", **about},
        {"event": "request", "command": "vm.status", **about},
        {"event": "withdrawn", "command": "detPrp", "code": 71, "message": "late", **about},
        {"event": "refused", "command": "ulData", "code": 71, "message": "no", **about},
        {"event": "dropped", "command": "ulData", **about},
        {"event": "downlink", "que_id": 7, "ep_eui": "E1", "packet_cnt": 8, **about},
    ) == [
        "    0.000 s  station B1: connected to C1, new session",
        "    0.000 s  station B1: connected to C1, session resumed",
        "    0.500 s  sensor E1: #7, 10 bytes, heard by 1 base station, best 3.1 dB",
        "    0.500 s  sensor E1: #7, 10 bytes, heard by 2 base stations, best 3.1 dB",
        "    0.000 s  station B1: lost its connection: cut",
        "    0.000 s  station B1: is not connected: refused",
        "    0.000 s  station B1: is asked attPrp E1",
        "    0.000 s  station B1: is asked vm.status",
        "    0.000 s  station B1: detPrp was withdrawn with error 71: late",
        "    0.000 s  station B1: its ulData was refused with error 71: no",
        "    0.000 s  station B1: no room for another ulData, it is lost",
        "    0.000 s  station B1: downlink 7 sent to E1 after #8",
    ]


def test_at_high_rates_telegrams_are_told_all_together():
    second: Happening = {"event": "second", "time": 101.0, "waiting": 1, **Totals(5, 9).as_dict()}
    assert said(TELEGRAM, second, rate=1000.0) == [
        "    0.000 s  5 telegrams, 9 receptions, 0 acknowledged, 1 waiting"
    ]


def test_totals_are_one_line_that_names_what_went_wrong():
    assert totals_line(Totals(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)) == (
        "1 telegrams, 2 receptions, 4 acknowledged, 5 refused, 10 reconnects, 11 resumed, "
        "3 duplicated, 6 unanswered, 7 dropped, 8 downlinks"
    )


# --- room for many ---


@contextmanager
def limits(soft: int, hard: int) -> Iterator[list[tuple[int, int]]]:
    changed: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resource.getrlimit", lambda which: (soft, hard))
        patch.setattr("resource.setrlimit", lambda which, both: changed.append(both))
        yield changed


@pytest.mark.parametrize(
    ("soft", "hard", "changed"),
    [
        (1024, 4096, [(1256, 4096)]),
        (1024, 1100, [(1100, 1100)]),
        (1024, -1, [(1256, -1)]),
        (4096, 4096, []),
    ],
)
def test_room_is_made_for_as_many_connections_as_base_stations(soft, hard, changed):
    with limits(soft, hard) as found:
        sim_module._make_room(1000)
    assert found == changed


def test_when_nobody_reads_any_more_it_ends_and_says_nothing_of_it(monkeypatch):
    """As in `bssci sim … | head`: that is not the fault of a base station."""

    def nobody(_text: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("bssci.cli.output.show", nobody)
    ends: list[str] = []
    narrator = Narrator()
    narrator.when_unheard = lambda: ends.append("ended")
    for _ in range(2):
        narrator.tell(
            {
                "event": "withdrawn",
                "time": 1.0,
                "bs_eui": "1",
                "command": "detPrp",
                "code": 5,
                "message": "",
            }
        )
    assert ends == ["ended"]
    with pytest.raises(BrokenPipeError):
        narrator.end(Totals())
