"""The certificate authority and what it signs: for the Service Center and for base stations.

ECDSA P-256 by default, RSA 2048 for old firmware. What is made is valid from an hour ago, so that a
clock that is a little behind does not refuse it. Files are replaced whole or not at all.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bssci.core.protocol.eui import format_eui
from bssci.core.runtime.files import keep_old, write_file
from bssci.core.runtime.tls import CertificateError, check_pair, is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

__all__ = [
    "CA_YEARS",
    "SERVER_DAYS",
    "STATION_YEARS",
    "KeyPair",
    "load_pair",
    "make_authority",
    "make_server_certificate",
    "make_station_certificate",
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


def load_pair(cert_file: Path, key_file: Path) -> KeyPair:
    """A pair from its files, checked.

    Raises:
        CertificateError: one cannot be used, or they do not belong together.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    certificate, key = check_pair(cert_file, key_file)
    return KeyPair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


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
    now = now or datetime.now(UTC)
    try:
        kept = tuple(keep_old(file, now) for file in there)
        write_file(key_file, pair.key, mode=0o600)
        write_file(cert_file, pair.certificate)
    except OSError as error:
        raise CertificateError(
            f"{error.filename or cert_file} cannot be written: {error.strerror}"
        ) from error
    return kept
