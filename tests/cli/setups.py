"""A folder as `bssci init` makes it, for tests that break it, and programs that have its ports."""

import contextlib
import json
import ssl
from pathlib import Path

import trio

from bssci.core.runtime.authority import (
    load_pair,
    make_authority,
    make_server_certificate,
    write_pair,
)
from bssci.core.runtime.config import load_config
from tests.broker import free_port

__all__ = ["Setup", "listen", "serve_tls"]


class Setup:
    """A folder as `bssci init` makes it, and settings that stand in its sc.toml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = {"server": {"host": "127.0.0.1", "port": self.port}}
        authority = make_authority()
        write_pair(authority, self.certs / "ca_cert.pem", self.certs / "ca_key.pem")
        self.make_certificate(authority)

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    @property
    def database(self) -> Path:
        return self.folder / "state" / "bssci.db"

    @property
    def authority(self):
        return load_pair(self.certs / "ca_cert.pem", self.certs / "ca_key.pem")

    def make_certificate(self, authority, *names, now=None):
        pair = make_server_certificate(
            authority, names or ("192.0.2.7",), allow_loopback=True, now=now
        )
        files = (self.certs / f"service_center_{part}.pem" for part in ("cert", "key"))
        write_pair(pair, *files, force=True)

    def set(self, section, **settings):
        self.settings.setdefault(section, {}).update(settings)

    def write(self):
        lines = ['[server]\neui = "0200000000000001"']
        for section, settings in self.settings.items():
            lines += [f"[{section}]"] if section != "server" else []
            lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        (self.folder / "sc.toml").write_text("\n".join(lines))
        return self.folder / "sc.toml"

    def config(self):
        return load_config(self.write(), environ={})


async def listen(nursery, port, answer):
    """A program that has a port, and says this to whoever has said something."""

    async def serve(stream):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(answer)

    await nursery.start(trio.serve_tcp, serve, port)


async def serve_tls(nursery, setup, answer):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = (setup.certs / f"service_center_{part}.pem" for part in ("cert", "key"))
    context.load_cert_chain(*files)

    async def serve(stream):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
            await stream.send_all(answer)
            await stream.aclose()

    (listener,) = await trio.open_ssl_over_tcp_listeners(setup.port, context, host="127.0.0.1")
    await nursery.start(trio.serve_listeners, serve, [listener])
