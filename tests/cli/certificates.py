"""A folder with certificates, and a service that may run on it, for the tests of `certs`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from bssci.cli import main
from bssci.core.center.rpc import RequestError
from bssci.core.runtime.tls import certificate_facts, fingerprint_of, read_certificates
from tests.control import FakeService

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

__all__ = ["EUI", "OTHER", "CertService", "Place"]

EUI, OTHER = "70B3D59CD0000001", "70B3D59CD0000002"


class CertService(FakeService):
    """Knows its certificates, and which authority's base stations came with.

    Attributes:
        files: its certificate and its CA file.
        came: base stations by the subject of the authority.
        refusal: why it does not take new certificates.
    """

    files: tuple[Path, ...] = ()
    refusal: str = ""

    def __init__(self, *files: Path) -> None:
        super().__init__()
        self.files = files
        self.came: dict[str, list[str]] = {}

    def _methods(self) -> dict[str, Callable[..., Awaitable[object]]]:
        return super()._methods() | {
            "certs.status": self._status_of_certificates,
            "certs.reload": self._reload,
        }

    async def _status_of_certificates(self) -> list[dict[str, Any]]:
        return certificate_facts(*self.files, came=self.came)

    async def _reload(self) -> list[dict[str, Any]]:
        if self.refusal:
            raise RequestError(self.refusal)
        return certificate_facts(*self.files, came=self.came)


class Place:
    """A folder with an sc.toml, and certificates when they were made."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.certs = folder / "certs"
        self.ca, self.ca_key = self.certs / "ca_cert.pem", self.certs / "ca_key.pem"
        self.cert = self.certs / "service_center_cert.pem"
        self.key = self.certs / "service_center_key.pem"
        self.config = folder / "sc.toml"
        self.configure()
        self._capsys = capsys

    def configure(self, more: str = "") -> None:
        self.config.write_text(f'[server]\neui = "0200000000000001"\n{more}')

    def run(self, *args: object) -> tuple[int, str, str]:
        """A command of `certs`; gives exit code, output and messages."""
        with pytest.raises(SystemExit) as caught:
            main.run(["certs", *map(str, args), "-c", str(self.config)])
        return int(caught.value.code or 0), *self._capsys.readouterr()

    def station(self, eui: str, part: str = "cert") -> Path:
        return self.certs / "stations" / eui / f"{eui}_{part}.pem"

    def contents(self) -> dict[str, bytes]:
        """Every file of the certificates."""
        return {
            str(file.relative_to(self.certs)): file.read_bytes()
            for file in self.certs.rglob("*")
            if file.is_file()
        }

    @contextlib.contextmanager
    def served(self) -> Iterator[CertService]:
        """The service runs meanwhile."""
        service = CertService(self.cert, self.ca)
        socket = self.folder / "state" / "control.sock"
        socket.parent.mkdir(exist_ok=True)
        with service.serving(socket):
            yield service

    def fingerprints(self) -> list[str]:
        return [fingerprint_of(each) for each in read_certificates(self.ca)]
