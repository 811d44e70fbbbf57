"""The certificate authority and what it signs: for the Service Center and for base stations.

ECDSA P-256 by default, RSA 2048 for old firmware. What is made is valid from an hour ago, so that a
clock that is a little behind does not refuse it. Files are replaced whole or not at all.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bssci.core.protocol.eui import format_eui
from bssci.core.runtime.files import keep_old, write_file
from bssci.core.runtime.tls import (
    CertificateError,
    belong_together,
    check_pair,
    is_loopback,
    read_certificates,
    read_key,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = [
    "CA_YEARS",
    "SERVER_DAYS",
    "STATION_YEARS",
    "KeyPair",
    "NewFile",
    "ca_key_file",
    "files_of",
    "has_rsa_key",
    "load_authority",
    "load_pair",
    "make_authority",
    "make_server_certificate",
    "make_station_certificate",
    "pair_of",
    "replace_files",
    "write_pair",
]

CA_YEARS = 10

# What web browsers accepted longest; some TLS libraries learned the limit from them.
SERVER_DAYS = 825

# Somebody has to climb a mast to renew it.
STATION_YEARS = 10

BACK_DATED = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


# --- making ---


def make_authority(*, use_rsa: bool = False, now: datetime | None = None) -> KeyPair:
    """A new authority, valid for ten years, that signs end certificates only."""
    from cryptography import x509

    now = now or datetime.now(UTC)
    key = _new_key(use_rsa=use_rsa)
    subject = _name(f"bssci CA {secrets.token_hex(4).upper()}")
    end = now + timedelta(days=365.25 * CA_YEARS)
    builder = _builder(subject, subject, key, key.public_key(), now, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(sign_certificates=True), critical=True)
    return _signed(builder, key, key)


def make_server_certificate(
    authority: KeyPair,
    names: Sequence[str],
    *,
    use_rsa: bool = False,
    allow_loopback: bool = False,
    now: datetime | None = None,
) -> KeyPair:
    """A certificate for the Service Center.

    Args:
        names: the host names and addresses that base stations connect to, at least one.
        allow_loopback: also names that mean this machine only, for tests and trials.

    Raises:
        CertificateError: a name cannot be used, or the authority cannot.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if not names:
        raise CertificateError("a server certificate needs at least one host name or address")
    if not allow_loopback and (loopback := [name for name in names if is_loopback(name)]):
        raise CertificateError(
            f"{', '.join(loopback)} means this machine only; name what base stations connect to"
        )
    alternatives = [_general_name(name) for name in dict.fromkeys(names)]
    return _issue(
        authority,
        # A common name holds 64 characters; the alternative names are what counts.
        common_name=names[0][:64],
        alternatives=x509.SubjectAlternativeName(alternatives),
        purpose=ExtendedKeyUsageOID.SERVER_AUTH,
        validity=timedelta(days=SERVER_DAYS),
        use_rsa=use_rsa,
        now=now,
    )


def make_station_certificate(
    authority: KeyPair,
    eui: int,
    *,
    use_rsa: bool = False,
    years: float = STATION_YEARS,
    now: datetime | None = None,
) -> KeyPair:
    """A certificate for a base station. It names the EUI and ends no later than the authority.

    Raises:
        CertificateError: the authority cannot be used.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return _issue(
        authority,
        common_name=format_eui(eui),
        # Also as a host name, for readers that look at alternative names only.
        alternatives=x509.SubjectAlternativeName([x509.DNSName(format_eui(eui))]),
        purpose=ExtendedKeyUsageOID.CLIENT_AUTH,
        validity=timedelta(days=365.25 * years),
        use_rsa=use_rsa,
        now=now,
    )


def _issue(
    authority: KeyPair,
    *,
    common_name: str,
    alternatives: x509.SubjectAlternativeName,
    purpose: x509.ObjectIdentifier,
    validity: timedelta,
    use_rsa: bool,
    now: datetime | None,
) -> KeyPair:
    from cryptography import x509

    now = now or datetime.now(UTC)
    issuer, issuer_key = _opened(authority, now)
    key = _new_key(use_rsa=use_rsa)
    end = min(now + validity, issuer.not_valid_after_utc)
    builder = _builder(_name(common_name), issuer.subject, key, issuer_key.public_key(), now, end)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_usage(encipher_keys=use_rsa), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    builder = builder.add_extension(alternatives, critical=False)
    return _signed(builder, key, issuer_key)


def _opened(
    authority: KeyPair, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate = x509.load_pem_x509_certificate(authority.certificate)
    key = load_pem_private_key(authority.key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError("the key of the authority is neither ECDSA nor RSA")
    end = certificate.not_valid_after_utc
    if now >= end:
        raise CertificateError(
            f"the authority has expired on {end:%Y-%m-%d}; make a new one, and give its "
            "certificate to every base station"
        )
    return certificate, key


def _new_key(*, use_rsa: bool) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if use_rsa:
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    issuer_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACK_DATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _usage(*, sign_certificates: bool = False, encipher_keys: bool = False) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_encipherment=encipher_keys,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> KeyPair:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    certificate = builder.sign(issuer_key, hashes.SHA256())
    return KeyPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    try:
        host = name.rstrip(".").encode("idna").decode() if not name.isascii() else name.rstrip(".")
    except UnicodeError:
        host = ""
    # What looks like an address and is none would be a name that nobody can look up.
    if not _HOST.fullmatch(host) or len(host) > 253 or re.fullmatch(r"[0-9.]+", host):
        raise CertificateError(f"{name!r} is neither a host name nor an IP address")
    return x509.DNSName(host)


# --- files ---


def ca_key_file(ca_file: Path) -> Path:
    """The key of our authority lies beside its certificate; the service never reads it."""
    return ca_file.with_name("ca_key.pem")


def load_pair(cert_file: Path, key_file: Path) -> KeyPair:
    """A pair from its files, checked.

    Raises:
        CertificateError: one cannot be used, or they do not belong together.
    """
    return pair_of(*check_pair(cert_file, key_file))


def load_authority(ca_file: Path, key_file: Path) -> KeyPair:
    """The authority to sign with: of the certificates in its file, the one that the key is for.

    Raises:
        CertificateError: a file cannot be used, or the key is for none of them.
    """
    certificates, key = read_certificates(ca_file), read_key(key_file)
    for certificate in certificates:
        if belong_together(certificate, key):
            return pair_of(certificate, key)
    raise CertificateError(
        f"private key {key_file} does not belong to certificate {ca_file}; "
        "one of them was replaced without the other"
    )


def pair_of(certificate: x509.Certificate, key: PrivateKeyTypes) -> KeyPair:
    """A pair from what was read."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return KeyPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def has_rsa_key(certificate: x509.Certificate) -> bool:
    """Whether its key is RSA: what old firmware needs also when it is renewed."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    return isinstance(certificate.public_key(), rsa.RSAPublicKey)


def write_pair(
    pair: KeyPair,
    cert_file: Path,
    key_file: Path,
    *,
    force: bool = False,
    now: datetime | None = None,
) -> tuple[Path, ...]:
    """Write a pair, the key readable by its owner only. Returns where older files are kept.

    Args:
        force: replace files that are there; they are kept under a name with the time.

    Raises:
        CertificateError: a file is there already, or cannot be written.
    """
    there = [file for file in (cert_file, key_file) if file.exists()]
    if there and not force:
        raise CertificateError(
            f"{there[0]} exists; with --force it is replaced, and kept under another name"
        )
    return replace_files(files_of(pair, cert_file, key_file), now=now)


def files_of(pair: KeyPair, cert_file: Path, key_file: Path) -> list[NewFile]:
    """What the files of a pair are to hold; they may be one."""
    if cert_file == key_file:
        return [NewFile(cert_file, pair.key + pair.certificate, 0o600)]
    return [NewFile(cert_file, pair.certificate), NewFile(key_file, pair.key, 0o600)]


@dataclass(frozen=True, slots=True)
class NewFile:
    """What a file is to hold."""

    file: Path
    data: bytes = field(repr=False)
    mode: int = 0o644


def replace_files(files: Sequence[NewFile], *, now: datetime | None = None) -> tuple[Path, ...]:
    """Write files that belong together. Returns where older ones are kept, which have the time in
    their names.

    Whoever owned an older file owns the new one, so that the service, which may be another user
    than the one who renews its certificate, can read it.

    Raises:
        CertificateError: one cannot be written; what was there before is there again.
    """
    now = now or datetime.now(UTC)
    kept: dict[Path, Path] = {}
    written: list[Path] = []
    try:
        for each in files:
            if each.file.exists():
                kept[each.file] = keep_old(each.file, now)
        for each in files:
            written.append(each.file)
            _replace(each)
    except OSError as error:
        _put_back(written, kept)
        raise CertificateError(
            f"{error.filename or files[0].file} cannot be written: {error.strerror}"
        ) from error
    return tuple(kept.values())


def _replace(new: NewFile) -> None:
    file = new.file
    before = file.stat() if file.exists() else None
    write_file(file, new.data, mode=new.mode)
    if before is not None and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(PermissionError):  # only root may give files away
            os.chown(file, before.st_uid, before.st_gid)


def _put_back(written: Sequence[Path], kept: Mapping[Path, Path]) -> None:
    """Needs no space on the disk: that may be what is missing."""
    for file in {*written, *kept}:
        with contextlib.suppress(OSError):
            if file in kept:
                os.replace(kept[file], file)
                kept[file].unlink(missing_ok=True)  # two names of one file stay as they are
            else:
                file.unlink(missing_ok=True)
