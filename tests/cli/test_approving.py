import json
import sys

import pytest
import typer

from bssci.cli import approving, output
from bssci.core.center.rpc import NotFoundError
from bssci.core.protocol.eui import format_eui, parse_eui
from tests.control import NOW, FakeService, Station, socket_folder

EUI = "70B3D59CD0000001"
NEW, OTHER, OLD = "bb" * 32, "cc" * 32, "aa" * 32


class Binding(FakeService):
    """Base stations that are bound to certificates."""

    def _methods(self):
        return super()._methods() | {"stations.approve": self._approve}

    async def _approve(self, *, eui: str, fingerprint: str | None = None):
        if fingerprint is None:
            raise NotFoundError("no certificate waits")
        return {"eui": format_eui(parse_eui(eui)), "fingerprint": fingerprint, "before": OLD}


def refusal(fingerprint, *, eui=EUI, reason="identity_mismatch"):
    return {
        "time": NOW - 60,
        "address": "192.0.2.7",
        "reason": reason,
        "eui": eui,
        "certificate": {"subject": "CN=bs", "fingerprint": fingerprint},
        "detail": "",
        "count": 1,
    }


@pytest.fixture
def socket():
    with socket_folder() as folder:
        yield folder / "control.sock"


@pytest.fixture
def service(socket):
    fake = Binding(stations=[Station(int(EUI, 16), name="Tower")])
    fake.refused = [refusal(NEW), refusal(NEW), refusal(OTHER, eui="70B3D59CD0000002")]
    with fake.serving(socket):
        yield fake


@pytest.fixture
def approve(service, socket, capsys, monkeypatch):
    """Gives exit code, output and messages; `typed`: at a terminal. Errors come as they are."""
    app = typer.Typer(rich_markup_mode=None)
    app.command()(approving.approve)
    monkeypatch.setattr(output, "now", lambda: NOW)

    def run(*args, typed=None):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: typed is not None, raising=False)
        monkeypatch.setattr(sys.stdin, "readline", lambda: f"{typed}\n", raising=False)
        try:
            app([*args, "--socket", str(socket)], prog_name="bssci", standalone_mode=True)
        except SystemExit as ended:
            return int(ended.code or 0), *capsys.readouterr()

    return run


APPROVED = f"{EUI}  may come in\n  approved  {NEW}\n  before    {OLD}\n"


def test_the_certificate_is_shown_before_it_is_approved(approve):
    code, out, err = approve(EUI, typed="y")
    assert (code, out) == (0, APPROVED)
    assert err.startswith(
        f"Base station {EUI} was refused:\n"
        "  certificate   CN=bs\n"
        f"  SHA-256       {NEW}\n"
        "  came from     192.0.2.7\n"
    )
    assert err.endswith("Is this its certificate? [y/N] ")


def test_who_does_not_say_yes_has_approved_nothing(approve, service):
    code, out, err = approve(EUI, typed="n")
    assert (code, out, err.endswith("nothing was done\n")) == (1, "", True)
    assert "stations.approve" not in service.told


def test_without_a_terminal_it_must_be_said_that_it_is_meant(approve, service):
    code, _, err = approve(EUI)
    assert (code, "--yes says that it is meant" in err, service.told) == (2, True, [])
    assert approve(EUI, "--yes")[:2] == (0, APPROVED)


def test_a_fingerprint_says_what_is_meant_and_nothing_is_asked(approve, service):
    code, out, _ = approve(EUI, "--fingerprint", OTHER, "--json")
    assert (code, json.loads(out)) == (0, {"eui": EUI, "fingerprint": OTHER, "before": OLD})
    assert service.told == ["stations.approve"]


@pytest.mark.parametrize(
    "refused", [[], [refusal(NEW), refusal(OTHER)], [refusal(NEW, reason="version")]]
)
def test_where_none_or_several_wait_the_service_explains(service, approve, refused):
    service.refused = refused
    with pytest.raises(NotFoundError, match="no certificate waits"):
        approve(EUI, "--yes")


def test_a_base_station_may_be_named(service, approve):
    _, _, err = approve("Tower", typed="n")
    assert f"Base station {EUI} was refused" in err
