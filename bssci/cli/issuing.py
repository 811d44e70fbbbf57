"""`bssci certs gen` and `station`: the authority, and the certificates that come from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bssci.cli import options, output

if TYPE_CHECKING:
    from bssci.core.runtime.authority import KeyPair
    from bssci.core.runtime.config import Config, Tls

__all__ = [
    "Generated",
    "StationFiles",
    "eui_of",
    "gen",
    "generate",
    "load",
    "make_station",
    "names_of_this_machine",
    "refuse_to_overwrite",
    "station",
    "stations_folder",
    "tell_station",
]

STATION_YEARS = 10  # somebody has to climb a mast to renew it


def gen(
    host: options.Host = None,
    config: options.ConfigFile = None,
    force: options.Force = False,
    new_ca: Annotated[
        bool,
        typer.Option(
            "--new-ca",
            help="Also make a new authority. Every base station then needs a new certificate.",
        ),
    ] = False,
    rsa: options.Rsa = False,
    as_json: options.Json = False,
) -> None:
    """Make the certificate of this Service Center, and the authority if there is none yet.

    The running service uses a new certificate after SIGHUP, from the next connection on.

    Example: bssci certs gen --host sc.example.org --host 192.0.2.10 --force
    """
    made = generate(load(config).tls, host or [], force=force, new_ca=new_ca, use_rsa=rsa)
    if as_json:
        output.show_json(made.as_json())
        return
    output.show(made.as_text())


def station(
    eui: Annotated[
        str,
        typer.Argument(metavar="EUI", help="EUI64 of the base station, in any usual spelling."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where to put the files. Default: stations/EUI beside the authority.",
        ),
    ] = None,
    config: options.ConfigFile = None,
    years: Annotated[
        int,
        typer.Option(
            "--years", min=1, max=50, help="How long it is valid; no longer than the authority."
        ),
    ] = STATION_YEARS,
    force: options.Force = False,
    rsa: options.Rsa = False,
    as_json: options.Json = False,
) -> None:
    """Make the certificate of a base station, and say what goes where on it.

    Writes EUI_cert.pem, EUI_key.pem and ca_cert.pem.

    Example: bssci certs station 70-B3-D5-9C-D0-00-00-01 --out usb-stick
    """
    loaded, number = load(config), eui_of(eui)
    made, _ = make_station(loaded, number, out, force=force, use_rsa=rsa, years=years)
    tell_station(made, loaded, as_json=as_json)


def make_station(
    loaded: Config,
    eui: int,
    out: Path | None,
    *,
    force: bool,
    use_rsa: bool | None,
    years: int = STATION_YEARS,
) -> tuple[StationFiles, tuple[Path, ...]]:
    """Make what a base station needs; also where older files are kept.

    Args:
        use_rsa: None: the kind of key stays, if there is one.

    Raises:
        CertificateError: something is there already, or cannot be used.
    """
    from bssci.core.runtime import authority
    from bssci.core.runtime.tls import read_certificates

    ca_file = loaded.tls.ca_file
    signer = authority.load_authority(ca_file, authority.ca_key_file(ca_file))
    made = StationFiles.of(out or stations_folder(loaded.tls) / f"{eui:016X}", eui)
    if use_rsa is None:
        use_rsa = made.cert_file.exists() and authority.has_rsa_key(
            read_certificates(made.cert_file)[0]
        )
    pair = authority.make_station_certificate(signer, eui, use_rsa=use_rsa, years=years)
    kept = authority.write_pair(pair, made.cert_file, made.key_file, force=force)
    # While the authority is changed the file holds both: the base station still meets the old one.
    _copy_authorities(ca_file, made.ca_file, force=force)
    return made, kept


def stations_folder(tls: Tls) -> Path:
    """Where the files of base stations are put, if nowhere else."""
    return tls.ca_file.parent / "stations"


def tell_station(made: StationFiles, loaded: Config, *, as_json: bool) -> None:
    """What was made for a base station, and what to do with it."""
    names = _names_in(loaded.tls.cert_file)
    if as_json:
        output.show_json(made.as_json(names, loaded.server.port))
        return
    output.show(made.as_text())
    output.note(_what_goes_where(made, names, loaded.server.port))


def eui_of(text: str, option: str = "EUI") -> int:
    """The EUI of a base station that need not be known yet.

    Raises:
        typer.BadParameter: it is none.
    """
    from bssci.core.protocol.errors import InvalidEuiError
    from bssci.core.protocol.eui import parse_eui

    try:
        return parse_eui(text)
    except InvalidEuiError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def load(config: Path | None) -> Config:
    """The configuration that tells where certificates are."""
    from bssci.core.runtime.config import load_config

    return load_config(config)


# --- the Service Center ---


@dataclass(frozen=True, slots=True)
class Generated:
    """What was made for the Service Center."""

    tls: Tls
    names: tuple[str, ...]
    is_new_authority: bool
    kept: tuple[Path, ...]

    def as_json(self) -> dict[str, object]:
        from bssci.core.runtime.authority import ca_key_file

        return {
            "ca_file": str(self.tls.ca_file),
            "ca_key_file": str(ca_key_file(self.tls.ca_file)),
            "cert_file": str(self.tls.cert_file),
            "key_file": str(self.tls.key_file),
            "names": list(self.names),
            "new_ca": self.is_new_authority,
            "kept": list(map(str, self.kept)),
        }

    def as_text(self) -> str:
        rows = [
            ("authority", str(self.tls.ca_file), "new" if self.is_new_authority else "as before"),
            ("certificate", str(self.tls.cert_file), "for " + ", ".join(self.names)),
            ("private key", str(self.tls.key_file), "keep it secret"),
            *(("kept", str(file), "") for file in self.kept),
        ]
        return output.columns(rows)


def generate(
    tls: Tls,
    hosts: Sequence[str],
    *,
    force: bool = False,
    new_ca: bool = False,
    use_rsa: bool = False,
) -> Generated:
    """Make the Service Center's pair, and the authority unless there is one to go on with.

    Everything is checked before anything is written.

    Args:
        hosts: the names to be in it; empty stands for those of this machine. Names that mean this
            machine only are taken when they are given.

    Raises:
        CertificateError: something is there already, or cannot be used.
    """
    from bssci.core.runtime.authority import ca_key_file, make_server_certificate, write_pair

    refuse_to_overwrite([tls.cert_file, tls.key_file], force=force)
    names = tuple(hosts) or _names_or_advice()
    authority, is_new = _authority(tls, force=force, new_ca=new_ca, use_rsa=use_rsa)
    pair = make_server_certificate(authority, names, use_rsa=use_rsa, allow_loopback=bool(hosts))
    kept: tuple[Path, ...] = ()
    if is_new:
        kept += write_pair(authority, tls.ca_file, ca_key_file(tls.ca_file), force=force)
    kept += write_pair(pair, tls.cert_file, tls.key_file, force=force)
    return Generated(tls, names, is_new, kept)


def refuse_to_overwrite(files: Sequence[Path], *, force: bool) -> None:
    """Raises CertificateError if one is there already and may not be replaced."""
    from bssci.core.runtime.tls import CertificateError

    there = [str(file) for file in files if file.exists()]
    if there and not force:
        verb = "is" if len(there) == 1 else "are"
        raise CertificateError(
            f"{' and '.join(there)} {verb} there already; "
            "with --force they are replaced, and kept under another name"
        )


def _authority(tls: Tls, *, force: bool, new_ca: bool, use_rsa: bool) -> tuple[KeyPair, bool]:
    """The authority to sign with, and whether it has yet to be written."""
    from bssci.core.runtime.authority import ca_key_file, make_authority
    from bssci.core.runtime.succession import authority_for_server
    from bssci.core.runtime.tls import CertificateError

    files = [tls.ca_file, ca_key_file(tls.ca_file)]
    if new_ca:
        refuse_to_overwrite(files, force=force)
    elif any(file.exists() for file in files):
        try:
            return authority_for_server(tls.ca_file, tls.cert_file), False
        except CertificateError as error:
            raise CertificateError(
                f"{error}. The authority cannot sign; put its two files back, or begin anew with "
                "--new-ca --force"
            ) from error
    return make_authority(use_rsa=use_rsa), True


def _names_or_advice() -> tuple[str, ...]:
    from bssci.core.runtime.tls import CertificateError

    names = names_of_this_machine()
    if not names:
        raise CertificateError(
            "this machine has neither a name nor an address that base stations could connect to; "
            "say which one it will have: --host sc.example.org (or --host localhost for a trial)"
        )
    return names


# --- base stations ---


@dataclass(frozen=True, slots=True)
class StationFiles:
    """What was made for a base station."""

    eui: str
    cert_file: Path
    key_file: Path
    ca_file: Path

    @classmethod
    def of(cls, folder: Path, eui: int) -> StationFiles:
        from bssci.core.protocol.eui import format_eui

        name = format_eui(eui)
        return cls(
            name, folder / f"{name}_cert.pem", folder / f"{name}_key.pem", folder / "ca_cert.pem"
        )

    def as_json(self, names: Sequence[str], port: int) -> dict[str, object]:
        return {
            "eui": self.eui,
            "cert_file": str(self.cert_file),
            "key_file": str(self.key_file),
            "ca_file": str(self.ca_file),
            "service_center": {"names": list(names), "port": port},
        }

    def as_text(self) -> str:
        return output.columns(
            [
                ("certificate", str(self.cert_file)),
                ("private key", str(self.key_file)),
                ("authority", str(self.ca_file)),
            ]
        )


def _copy_authorities(ca_file: Path, file: Path, *, force: bool) -> None:
    from bssci.core.runtime.files import write_file
    from bssci.core.runtime.succession import pem
    from bssci.core.runtime.tls import read_certificates

    # Only the certificates: whatever else stands in our file is not for base stations.
    trusted = pem(read_certificates(ca_file, "CA file"))
    if not file.exists() or file.read_bytes() != trusted:
        refuse_to_overwrite([file], force=force)
        write_file(file, trusted)


def _names_in(cert_file: Path) -> list[str]:
    from bssci.core.runtime.tls import CertificateError, certificate_names

    try:
        return certificate_names(cert_file)
    except CertificateError:
        return []  # it was not made yet, which is no reason to make none for a base station


def _what_goes_where(made: StationFiles, names: Sequence[str], port: int) -> str:
    rows = [
        ("address", " or ".join(names) or "a name of this machine"),
        ("port", f"{port}, TLS"),
        ("CA certificate", made.ca_file.name),
        ("client certificate", made.cert_file.name),
        ("private key", f"{made.key_file.name}; remove it here once it is there"),
    ]
    return (
        f"\nOn base station {made.eui}, in its settings for BSSCI or the Service Center:\n"
        f"{output.columns(rows)}"
    )


# --- this machine ---

SIOCGIFADDR = 0x8915
IFF_TEMPORARY_OR_DEPRECATED = 0x01 | 0x20


def names_of_this_machine() -> tuple[str, ...]:
    """Its host name and its addresses, without those that mean only itself."""
    import socket

    from bssci.core.runtime.tls import is_loopback

    names = (socket.gethostname(), *_ipv4_addresses(), *_ipv6_addresses())
    return tuple(dict.fromkeys(name for name in names if name and not is_loopback(name)))


def _ipv4_addresses() -> Iterator[str]:
    """The address of each interface, asked of the Linux kernel (netdevice(7))."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, interface in socket.if_nameindex():
            request = struct.pack("256s", interface.encode()[:15])
            try:
                answer = fcntl.ioctl(asking, SIOCGIFADDR, request)
            except OSError:
                continue  # it has none
            yield socket.inet_ntoa(answer[20:24])


def _ipv6_addresses(table: Path = Path("/proc/net/if_inet6")) -> Iterator[str]:
    """Global addresses that last: neither link-local nor temporary nor deprecated ones."""
    import socket

    try:
        lines = table.read_text().splitlines()
    except OSError:
        return  # no IPv6
    for line in lines:
        digits, _, _, scope, flags, _ = line.split()
        if scope == "00" and not int(flags, 16) & IFF_TEMPORARY_OR_DEPRECATED:
            yield socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
