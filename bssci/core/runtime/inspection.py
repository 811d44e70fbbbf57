"""Certificate files looked at closely: what is right, what is wrong with them, and what to do.

What TLS would find out at the first connection, found out before a file is used. Nothing is
raised: a file that cannot be read is a finding, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from bssci.core.protocol.eui import format_eui
from bssci.core.runtime.tls import (
    CertificateError,
    belong_together,
    identity_in,
    is_authority,
    is_issued_by,
    is_loopback,
    read_certificates,
    read_key,
    server_names,
    subject_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cryptography import x509

__all__ = ["SOON", "Finding", "Purpose", "inspect_authorities", "inspect_pair", "purpose_of"]

Purpose = Literal["server", "station", "authority"]

SOON = 30  # days in which something expires that has to be renewed now

MAX_CHAIN = 8  # certificates from one to the authority that is trusted

LEAST_RSA = 2048  # bits; TLS libraries refuse less

WEAK_HASHES = frozenset({"md5", "sha1"})  # refused by TLS libraries in a signature


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about a file.

    Attributes:
        check: `file`, `chain`, `key`, `validity`, `names`, `usage` or `strength`.
        seen: in words.
        advice: what to do; empty where nothing is.
        is_fatal: with this, connections fail now; what is wrong otherwise can wait for daylight.
    """

    file: str
    check: str
    ok: bool
    seen: str
    advice: str = ""
    is_fatal: bool = False

    def as_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "check": self.check,
            "ok": self.ok,
            "seen": self.seen,
            "advice": self.advice,
        }


class _Looking:
    """At one file."""

    def __init__(self, file: Path) -> None:
        self._file = str(file)

    def good(self, check: str, seen: str) -> Finding:
        return Finding(self._file, check, True, seen)

    def poor(self, check: str, seen: str, advice: str) -> Finding:
        return Finding(self._file, check, False, seen, advice)

    def bad(self, check: str, seen: str, advice: str) -> Finding:
        return Finding(self._file, check, False, seen, advice, is_fatal=True)


def purpose_of(certificate: x509.Certificate) -> Purpose:
    """What a certificate is for, by what it says of itself; one that says nothing names a base
    station or is the server's.
    """
    purposes = _purposes(certificate)
    if is_authority(certificate):
        return "authority"
    if purposes is None:
        return "station" if _euis(certificate) else "server"
    return "server" if "serverAuth" in purposes else "station"


# --- pairs ---


def inspect_pair(
    cert_file: Path,
    *,
    purpose: Purpose,
    key_file: Path | None = None,
    ca_file: Path,
    eui: int | None = None,
    now: datetime | None = None,
) -> list[Finding]:
    """What is to be said of the certificate of a server or a base station.

    Args:
        key_file: its key; None: it is not looked at.
        ca_file: the authorities that the other side trusts.
        eui: the base station that it is for, where that is known.
    """
    look, now = _Looking(cert_file), now or datetime.now(UTC)
    try:
        certificate, *between = read_certificates(cert_file)
    except CertificateError as error:
        return [look.bad("file", str(error), "")]
    findings = [look.good("file", subject_of(certificate))]
    findings.append(_chain(look, certificate, between, ca_file, now))
    if key_file is not None:
        findings += _key(certificate, cert_file, key_file)
    findings.append(_validity(look, certificate, _renewal(purpose, eui), now))
    if purpose == "server":
        findings.append(_host_names(look, certificate))
    else:
        findings.append(_station_names(look, certificate, eui))
    findings.append(_usage(look, certificate, purpose))
    findings.append(_strength(look, certificate))
    return findings


def _renewal(purpose: Purpose, eui: int | None) -> str:
    if purpose == "server":
        return "`bssci certs renew` makes a new one"
    name = "EUI" if eui is None else format_eui(eui)
    return f"`bssci certs renew --station {name}` makes a new one"


def _chain(
    look: _Looking,
    certificate: x509.Certificate,
    between: Sequence[x509.Certificate],
    ca_file: Path,
    now: datetime,
) -> Finding:
    try:
        trusted = read_certificates(ca_file, "CA file")
    except CertificateError as error:
        return look.bad("chain", str(error), "")
    current, below = certificate, 0
    for _ in range(MAX_CHAIN):
        if current in trusted and current == certificate:
            return look.good("chain", f"trusted itself, it stands in {ca_file}")
        issuers = (each for each in (*trusted, *between) if each != current)
        issuer = next((each for each in issuers if is_issued_by(current, each)), None)
        if issuer is None:
            return look.bad(
                "chain",
                f"comes from {_issuer_name(current)}, which is not in {ca_file}",
                "put the certificate of that authority into the CA file, or use a certificate of "
                "one that is there",
            )
        if fault := _as_issuer(issuer, below, now):
            return look.bad(
                "chain", f"comes from {subject_of(issuer)}, which {fault}", "use another authority"
            )
        if issuer in trusted:
            return look.good("chain", f"comes from {subject_of(issuer)}")
        current, below = issuer, below + 1
    return look.bad("chain", f"is longer than {MAX_CHAIN} certificates", "use a shorter one")


def _issuer_name(certificate: x509.Certificate) -> str:
    name = certificate.issuer.rfc4514_string()
    return name if certificate.issuer != certificate.subject else f"{name} (itself)"


def _as_issuer(issuer: x509.Certificate, below: int, now: datetime) -> str | None:
    """Why nothing may come from it."""
    from cryptography import x509

    if not is_authority(issuer):
        return "is no authority"
    limit = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    if limit is not None and below > limit:
        return "may have no other authority below it" if not limit else "is too far up"
    if (usage := _key_usage(issuer)) is not None and not usage.key_cert_sign:
        return "may sign no certificates"
    if now >= issuer.not_valid_after_utc:
        return f"has expired on {issuer.not_valid_after_utc:%Y-%m-%d}"
    return None


def _key(certificate: x509.Certificate, cert_file: Path, key_file: Path) -> Iterator[Finding]:
    look = _Looking(key_file)
    try:
        key = read_key(key_file)
    except CertificateError as error:
        yield look.bad("key", str(error), "")
        return
    if not belong_together(certificate, key):
        yield look.bad(
            "key",
            f"does not belong to {cert_file}",
            "one of them was replaced without the other; put back the one that was kept, or make "
            "a new pair",
        )
    elif key_file.stat().st_mode & 0o007:
        yield look.poor("key", "everybody on this machine can read it", f"chmod 600 {key_file}")
    else:
        yield look.good("key", f"belongs to {cert_file}")


def _validity(
    look: _Looking, certificate: x509.Certificate, renewal: str, now: datetime
) -> Finding:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = (end - now).days
    if now < begin:
        return look.bad(
            "validity",
            f"not valid before {begin:%Y-%m-%d %H:%M} UTC",
            f"set the clock of this machine (it is {now:%Y-%m-%d %H:%M} UTC), or wait",
        )
    if now >= end:
        return look.bad("validity", f"has expired on {end:%Y-%m-%d %H:%M} UTC", renewal)
    if days < SOON:
        left = "within a day" if days < 1 else "in 1 day" if days == 1 else f"in {days} days"
        return look.poor("validity", f"expires {left}, on {end:%Y-%m-%d}", renewal)
    return look.good("validity", f"until {end:%Y-%m-%d}, {days} days")


def _host_names(look: _Looking, certificate: x509.Certificate) -> Finding:
    names = server_names(certificate)
    advice = "`bssci certs renew --host NAME` adds what base stations connect to"
    if not names:
        return look.bad("names", "names no host (no subject alternative name)", advice)
    if all(map(is_loopback, names)):
        shown = ", ".join(names)
        return look.bad("names", f"{shown}: means this machine only", advice)
    return look.good("names", ", ".join(names))


def _station_names(look: _Looking, certificate: x509.Certificate, eui: int | None) -> Finding:
    euis = _euis(certificate)
    named = ", ".join(sorted(map(format_eui, euis)))
    if eui is not None and euis and eui not in euis:
        return look.bad(
            "names",
            f"names {named}, not {format_eui(eui)}",
            f"use it on {named}, and another one here",
        )
    # Real installations share one among base stations; only tls.identity = "require" minds.
    return look.good("names", named or "no EUI: any base station may use it")


def _euis(certificate: x509.Certificate) -> frozenset[int]:
    from cryptography.hazmat.primitives.serialization import Encoding

    return identity_in(certificate.public_bytes(Encoding.DER)).euis


def _usage(look: _Looking, certificate: x509.Certificate, purpose: Purpose) -> Finding:
    wanted, who = {
        "server": ("serverAuth", "a server"),
        "station": ("clientAuth", "a base station"),
        "authority": ("", "an authority"),
    }[purpose]
    purposes, usage = _purposes(certificate), _key_usage(certificate)
    if purposes is not None and not {wanted, "anyExtendedKeyUsage"} & purposes:
        shown = ", ".join(sorted(purposes))
        return look.bad("usage", f"is for {shown} only", f"use one that is for {who} ({wanted})")
    if usage is not None and not usage.digital_signature:
        return look.bad(
            "usage", "its key may sign nothing", "use one with the key usage digitalSignature"
        )
    return look.good("usage", f"for {who}" if purposes else "for anything")


def _purposes(certificate: x509.Certificate) -> set[str] | None:
    """What the extended key usage allows, by the names that openssl has; None: anything."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID as Oid

    try:
        extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, ValueError):
        return None
    names = {
        Oid.SERVER_AUTH: "serverAuth",
        Oid.CLIENT_AUTH: "clientAuth",
        Oid.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
    }
    return {names.get(each, each.dotted_string) for each in extension.value}


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return None


def _strength(look: _Looking, certificate: x509.Certificate) -> Finding:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key, digest = certificate.public_key(), certificate.signature_hash_algorithm
    if isinstance(key, rsa.RSAPublicKey):
        kind = f"RSA {key.key_size}"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind = f"ECDSA {key.curve.name}"
    else:
        kind = type(key).__name__.removesuffix("PublicKey")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < LEAST_RSA:
        return look.bad("strength", kind, f"TLS refuses it; use at least RSA {LEAST_RSA}")
    if digest is not None and digest.name in WEAK_HASHES and not _is_self_signed(certificate):
        return look.bad("strength", f"signed with {digest.name}", "TLS refuses it; use SHA-256")
    return look.good("strength", kind)


def _is_self_signed(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


# --- authorities ---


def inspect_authorities(
    ca_file: Path, *, key_file: Path | None = None, now: datetime | None = None
) -> list[Finding]:
    """What is to be said of the authorities in a file.

    Args:
        key_file: the key to sign with, of one of them; None: it is not looked at.
    """
    look, now = _Looking(ca_file), now or datetime.now(UTC)
    try:
        authorities = read_certificates(ca_file, "CA file")
    except CertificateError as error:
        return [look.bad("file", str(error), "")]
    findings = []
    for each in authorities:
        findings.append(look.good("file", subject_of(each)))
        renewal = "`bssci certs renew --ca` begins a change of the authority"
        findings.append(_validity(look, each, renewal, now))
        findings.append(_authority_usage(look, each))
        findings.append(_strength(look, each))
    if key_file is not None:
        findings += _signing_key(authorities, ca_file, key_file)
    return findings


def _authority_usage(look: _Looking, certificate: x509.Certificate) -> Finding:
    usage = _key_usage(certificate)
    if is_authority(certificate) and (usage is None or usage.key_cert_sign):
        return look.good("usage", "for an authority")
    # What stands in our CA file is trusted as it is, also a single certificate.
    return look.good("usage", "a single certificate: only its owner is trusted")


def _signing_key(
    authorities: Sequence[x509.Certificate], ca_file: Path, key_file: Path
) -> Iterator[Finding]:
    try:
        key = read_key(key_file)
    except CertificateError:
        key = None
    owner = next((each for each in authorities if key and belong_together(each, key)), None)
    yield from _key(owner or authorities[0], ca_file, key_file)
