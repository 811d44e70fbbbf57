"""`bssci init`: everything a Service Center needs to begin."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bssci.cli import certs, output

if TYPE_CHECKING:
    from bssci.core.runtime.config import Tls

__all__ = ["init", "tls_in"]

# Everything in the folder is secret or can be made again, but for these.
GITIGNORE = "*\n!.gitignore\n!README.md\n"


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to put it all; made if need be.")
    ] = Path(),
    host: certs.Host = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            "--mqtt",
            metavar="URL",
            help="The broker: mqtt://user:password@host:1883/base/topic, or mqtts:// for TLS. "
            "- reads it from standard input, so that no password is in an argument.",
        ),
    ] = None,
    force: certs.Force = False,
    rsa: certs.Rsa = False,
    as_json: certs.Json = False,
) -> None:
    """Make sc.toml with every key explained, the state folder, the authority and a certificate.

    With --force, an sc.toml and a certificate that are there are replaced (the old ones are kept
    under a name with the time); the EUI and the authority stay, so that base stations go on.

    Example: bssci init /srv/bssci --host sc.example.org --mqtt mqtt://localhost
    """
    broker = _broker(mqtt)
    made = _make(folder.absolute(), host or [], broker, force=force, use_rsa=rsa)
    if as_json:
        output.show_json(made.as_json())
        return
    output.show(made.as_text())
    output.note(made.next_steps(folder))


# --- the broker's URL ---


@dataclass(frozen=True, slots=True)
class Broker:
    """What a URL says about the broker."""

    settings: dict[str, object]
    password: str | None

    def __repr__(self) -> str:
        return f"Broker({self.settings!r})"


def _broker(url: str | None) -> Broker | None:
    """Raises typer.BadParameter, without the URL in its words: there may be a password in it."""
    from urllib.parse import unquote, urlsplit

    if url is None:
        return None
    if url == "-":
        url = sys.stdin.readline().strip()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad_url("has no valid host and port") from error
    if parts.scheme not in ("mqtt", "mqtts"):
        raise _bad_url("does not begin with mqtt:// or mqtts://")
    if not parts.hostname:
        raise _bad_url("names no host")
    if parts.query or parts.fragment:
        raise _bad_url("holds a ? or # (in a password, write them as %3F and %23)")
    if parts.password and not parts.username:
        raise _bad_url("has a password and no user")
    password = unquote(parts.password) if parts.password else None
    if password and not password.isprintable():
        raise _bad_url("has a password with a line break or another control character")
    return Broker(
        _broker_settings(
            is_tls=parts.scheme == "mqtts",
            host=parts.hostname,
            port=port,
            username=unquote(parts.username or ""),
            base_topic=unquote(parts.path).strip("/"),
        ),
        password,
    )


def broker_of(url: str | None) -> dict[str, object]:
    """The settings that a broker's URL stands for, by `section.name`; none without a URL.

    Raises:
        typer.BadParameter: it is no such URL; the words do not hold it.
    """
    broker = _broker(url)
    if broker is None:
        return {}
    password = {"mqtt.password": broker.password} if broker.password else {}
    return broker.settings | password


def _bad_url(what: str) -> typer.BadParameter:
    return typer.BadParameter(
        f"the URL {what}; expected mqtt://user:password@host:1883/base/topic",
        param_hint="--mqtt",
    )


def _broker_settings(
    *, is_tls: bool, host: str, port: int | None, username: str, base_topic: str
) -> dict[str, object]:
    from bssci.core.runtime.config import KEYS

    settings: dict[str, object] = {
        "mqtt.enabled": True,
        "mqtt.host": host,
        "mqtt.port": port or (8883 if is_tls else 1883),
    }
    if username:
        settings["mqtt.username"] = username
    if base_topic:
        settings["mqtt.base_topic"] = base_topic
    if is_tls:
        settings["mqtt.tls"] = True
    for name, value in settings.items():
        try:
            KEYS[name].kind.read(value)
        except ValueError as error:
            expected = KEYS[name].kind.expected
            raise _bad_url(f"has {value!r} as {name}, expected {expected}") from error
    return settings


# --- the folder ---


@dataclass(frozen=True, slots=True)
class Made:
    """What `init` has made."""

    config_file: Path
    eui: int
    port: int
    certificates: certs.Generated
    kept: tuple[Path, ...]

    def as_json(self) -> dict[str, object]:
        from bssci.core.protocol.eui import format_eui

        return {
            "config_file": str(self.config_file),
            "eui": format_eui(self.eui),
            "port": self.port,
            "certificates": self.certificates.as_json(),
            "kept": [str(file) for file in self.kept],
        }

    def as_text(self) -> str:
        from bssci.core.protocol.eui import format_eui

        rows = [
            ("configuration", str(self.config_file)),
            ("Service Center EUI", format_eui(self.eui)),
            ("certificate names", ", ".join(self.certificates.names)),
            *(("kept", str(file)) for file in (*self.kept, *self.certificates.kept)),
        ]
        return output.columns(rows)

    def next_steps(self, folder: Path) -> str:
        option = "" if folder == Path() else f" -c {self.config_file}"
        rows = [
            ("1.", f"bssci certs station EUI{option}", "files for a base station, and where to"),
            ("2.", f"bssci serve{option}", f"base stations connect to port {self.port}, TLS"),
        ]
        return f"\nNext:\n{output.columns(rows)}"


def _make(
    folder: Path, hosts: list[str], broker: Broker | None, *, force: bool, use_rsa: bool
) -> Made:
    """Make it all; sc.toml comes last, so that it is there only when the rest is."""
    from bssci.core.runtime.config import CONFIG_NAME, load_config, render_config

    file, tls = folder / CONFIG_NAME, tls_in(folder)
    password_file = tls.ca_file.with_name("mqtt_password")
    password = broker.password if broker else None
    replaced = [file, tls.cert_file, tls.key_file, *([password_file] if password else [])]
    certs.refuse_to_overwrite(replaced, force=force)
    values: dict[str, object] = {"server.eui": eui_so_far(file) or new_eui()}
    if broker:
        values |= broker.settings
    certificates = certs.generate(tls, hosts, force=force, use_rsa=use_rsa)
    write_gitignore(tls.ca_file.parent)
    (folder / "state").mkdir(mode=0o700, exist_ok=True)
    kept = []
    if password:
        values["mqtt.password_file"] = password_file.relative_to(folder)
        kept += replace_file(password_file, f"{password}\n", mode=0o600)
    kept += replace_file(file, render_config(values), mode=0o644)
    config = load_config(file, environ={})
    return Made(file, config.server.eui, config.server.port, certificates, tuple(kept))


def tls_in(folder: Path) -> Tls:
    """Where the files are when sc.toml says nothing about them."""
    from bssci.core.runtime.config import Tls

    usual = Tls()
    return replace(
        usual,
        cert_file=folder / usual.cert_file,
        key_file=folder / usual.key_file,
        ca_file=folder / usual.ca_file,
    )


def eui_so_far(file: Path) -> int | None:
    """The EUI in an sc.toml that is to be replaced. Whatever else is wrong with it is no matter."""
    import tomllib

    from bssci.core.protocol.eui import parse_eui

    try:
        return parse_eui(tomllib.loads(file.read_text())["server"]["eui"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def new_eui() -> int:
    """A random EUI64, marked as locally administered and as one of a single device."""
    import secrets

    return secrets.randbits(64) & ~(0x03 << 56) | 0x02 << 56


def replace_file(file: Path, text: str, *, mode: int) -> list[Path]:
    """Write a file; gives where the old one is kept, if there was one."""
    from datetime import UTC, datetime

    from bssci.core.runtime.files import keep_old, write_file

    kept = [keep_old(file, datetime.now(UTC))] if file.exists() else []
    write_file(file, text.encode(), mode=mode)
    return kept


def write_gitignore(folder: Path) -> None:
    from bssci.core.runtime.files import write_file

    file = folder / ".gitignore"
    if not file.exists():
        write_file(file, GITIGNORE.encode())
