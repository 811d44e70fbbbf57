"""TLS of base station connections: contexts, certificate files, and whom a certificate names.

The specification asks for certificates on both sides and leaves the rest open (BSSCI 1.0.0, 3): who
a base station is by its certificate is decided by `check_identity`. Certificates are made in
`authority`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from bssci.core.protocol.errors import BssciError
from bssci.core.protocol.eui import format_eui

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = [
    "CertificateError",
    "Identity",
    "IdentityMode",
    "belong_together",
    "broker_context",
    "certificate_facts",
    "certificate_names",
    "certificate_warnings",
    "check_identity",
    "check_pair",
    "client_context",
    "days_until_expiry",
    "euis_in",
    "fingerprint_of",
    "identity_in",
    "identity_of",
    "is_authority",
    "is_issued_by",
    "is_loopback",
    "issuer_of",
    "read_certificates",
    "read_key",
    "server_context",
    "server_names",
    "subject_of",
]

IdentityMode = Literal["match", "pin", "require", "chain"]
TlsVersion = Literal["1.2", "1.3"]

# A chain of certificates has some kilobytes, a bundle of all public authorities 250.
MAX_FILE = 4 * 1024 * 1024

# A subject is shown in logs and tables; what is beyond says nothing more about who it is.
MAX_SUBJECT = 200


class CertificateError(BssciError):
    """A certificate or key cannot be used: which file, why, and what to do."""

    exit_code: ClassVar[int] = 2


# --- contexts ---


def server_context(
    *, cert_file: Path, key_file: Path, ca_file: Path, min_version: TlsVersion = "1.2"
) -> ssl.SSLContext:
    """For the Service Center: base stations must show a certificate of the authorities.

    Raises:
        CertificateError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, min_version)
    # Nobody resumes TLS sessions here: a ticket is only bytes, and memory for each connection.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    _trust(context, ca_file)
    _present(context, cert_file, key_file)
    return context


def client_context(
    *,
    cert_file: Path,
    key_file: Path,
    ca_file: Path,
    min_version: TlsVersion = "1.2",
    check_names: bool = False,
) -> ssl.SSLContext:
    """For a base station: the Service Center must show a certificate of the authorities.

    Args:
        check_names: also, its certificate must name the host connected to. Base stations seldom
            ask for that.

    Raises:
        CertificateError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, min_version)
    context.check_hostname = check_names
    _trust(context, ca_file)
    _present(context, cert_file, key_file)
    return context


def broker_context(
    *, ca_file: Path | None = None, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """For the MQTT broker, which must have the name it is called by.

    Args:
        ca_file: its authorities; None stands for those that the operating system trusts.

    Raises:
        CertificateError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context, "1.2")
    if ca_file is None:
        context.load_default_certs()
    else:
        _trust(context, ca_file)
    if cert_file is not None and key_file is not None:
        _present(context, cert_file, key_file)
    return context


def _harden(context: ssl.SSLContext, min_version: TlsVersion) -> None:
    versions = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    context.minimum_version = versions[min_version]
    # With TLS 1.2 a peer could make us shake hands again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION


def _trust(context: ssl.SSLContext, ca_file: Path) -> None:
    certificates = read_certificates(ca_file, "CA file")
    # What stands in our CA file is trusted as it is, be it a root, an intermediate authority or a
    # single self-signed certificate. Strict checks are not asked for: certificates in the field
    # lack key identifiers and key usages.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=b"".join(map(_der, certificates)))
    except ssl.SSLError as error:
        raise CertificateError(f"CA file {ca_file} cannot be used: {_words(error)}") from error


def _present(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    check_pair(cert_file, key_file)
    try:
        context.load_cert_chain(cert_file, key_file, password="")
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(
            f"certificate {cert_file} with key {key_file} cannot be used: {_words(error)}"
        ) from error


def _words(error: OSError) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return str(reason or error).replace("_", " ").lower()


# --- files ---


def read_certificates(file: Path, what: str = "certificate") -> list[x509.Certificate]:
    """The certificates in a PEM file, at least one.

    Raises:
        CertificateError: it cannot be read, or holds none.
    """
    from cryptography import x509

    data = _read(file, what)
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise CertificateError(f"{what} {file} {_instead(file, data)}") from error


def _instead(file: Path, data: bytes) -> str:
    """What a file holds that ought to hold a PEM certificate."""
    if b"PRIVATE KEY-----" in data:
        return "holds a private key where a certificate is expected; are the two files swapped?"
    if data[:1] == b"\x30":
        return f"is DER, expected PEM: openssl x509 -inform DER -in {file} -out {file}.pem"
    if b"-----BEGIN CERTIFICATE-----" in data:
        return "holds a damaged certificate; copy it again"
    return "holds no certificate; expected PEM (-----BEGIN CERTIFICATE-----)"


def read_key(file: Path) -> PrivateKeyTypes:
    """The private key in a PEM file.

    Raises:
        CertificateError: it cannot be read, is encrypted, or is no key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(file, "private key")
    try:
        return load_pem_private_key(data, None)
    except TypeError as error:
        raise CertificateError(
            f"private key {file} is encrypted, and a service has nobody to ask: "
            f"openssl pkey -in {file} -out plain_key.pem"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if b"-----BEGIN CERTIFICATE-----" in data:
            reason = "holds a certificate where a key is expected; are the two files swapped?"
        else:
            reason = "holds no private key; expected PEM (-----BEGIN PRIVATE KEY-----)"
        raise CertificateError(f"private key {file} {reason}") from error


def _read(file: Path, what: str) -> bytes:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except FileNotFoundError as error:
        raise CertificateError(
            f"{what} {file} does not exist; `bssci certs gen` makes certificates"
        ) from error
    except OSError as error:
        raise CertificateError(f"{what} {file} cannot be read: {error.strerror}") from error
    if not data.strip():
        raise CertificateError(f"{what} {file} is empty")
    if len(data) > MAX_FILE:
        raise CertificateError(
            f"{what} {file} is longer than {MAX_FILE} bytes; is it the right one?"
        )
    return data


def check_pair(cert_file: Path, key_file: Path) -> tuple[x509.Certificate, PrivateKeyTypes]:
    """The certificate and the key that belongs to it.

    Raises:
        CertificateError: one cannot be used, or they do not belong together.
    """
    certificate = read_certificates(cert_file)[0]
    key = read_key(key_file)
    if not belong_together(certificate, key):
        raise CertificateError(
            f"private key {key_file} does not belong to certificate {cert_file}; "
            "one of them was replaced without the other"
        )
    return certificate, key


def belong_together(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Whether it is the private key of the certificate."""
    return _public(certificate) == _public(key)


def _public(owner: x509.Certificate | PrivateKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return owner.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


# --- what to tell the operator ---


def days_until_expiry(cert_file: Path, *, now: datetime | None = None) -> float:
    """Days until the certificate expires; negative when it has.

    Raises:
        CertificateError: it cannot be read.
    """
    left = read_certificates(cert_file)[0].not_valid_after_utc - (now or datetime.now(UTC))
    return left.total_seconds() / 86400


def certificate_facts(
    *files: Path,
    now: datetime | None = None,
    came: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, object]]:
    """What listings show of certificate files: whose they are and until when they are good.

    A file that cannot be read is `ok: false`, with the reason as its `error`.

    Args:
        came: base stations that came with a certificate of an authority, by the fingerprint of
            that authority. With it, each authority has its `fingerprint` and its `stations`.
    """
    return [fact for file in files for fact in _facts(file, now or datetime.now(UTC), came)]


def _facts(
    file: Path, now: datetime, came: Mapping[str, Sequence[str]] | None
) -> Iterator[dict[str, object]]:
    try:
        certificates = read_certificates(file)
    except CertificateError as error:
        nothing = dict.fromkeys(("subject", "names", "not_after", "days"))
        yield {"file": str(file), **nothing, "ok": False, "error": str(error)}
        return
    for certificate in certificates:
        end = certificate.not_valid_after_utc
        fact: dict[str, object] = {
            "file": str(file),
            "subject": subject_of(certificate),
            "names": server_names(certificate),
            "not_after": end.timestamp(),
            "days": (end - now).days,
            "ok": certificate.not_valid_before_utc <= now < end,
        }
        if came is not None and is_authority(certificate):
            fingerprint = fingerprint_of(certificate)
            fact |= {"fingerprint": fingerprint, "stations": [*came.get(fingerprint, ())]}
        yield fact


def subject_of(certificate: x509.Certificate) -> str:
    """Whose it is, for people."""
    return _printable(certificate.subject.rfc4514_string())


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, in lower-case hex."""
    return hashlib.sha256(_der(certificate)).hexdigest()


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it says of itself that others may come from it."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def certificate_names(cert_file: Path) -> list[str]:
    """The host names and addresses that a server certificate is for; what base stations dial.

    Raises:
        CertificateError: it cannot be read.
    """
    return server_names(read_certificates(cert_file)[0])


def server_names(certificate: x509.Certificate) -> list[str]:
    """The host names, then the addresses, that it is for."""
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        return []
    names = extension.value
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def certificate_warnings(
    cert_file: Path, ca_file: Path, *, now: datetime | None = None
) -> list[str]:
    """What is allowed and still likely to keep peers away, in words for the operator.

    Raises:
        CertificateError: a file cannot be read.
    """
    now = now or datetime.now(UTC)
    authorities = read_certificates(ca_file, "CA file")
    certificate, *between = read_certificates(cert_file)
    checked = [(f"certificate {cert_file}", certificate)]
    checked += [(f"an authority in {ca_file}", authority) for authority in authorities]
    warnings = [line for what, each in checked for line in _validity(what, each, now)]
    issuers = [*between, *authorities]
    if not any(is_issued_by(certificate, issuer) for issuer in issuers):
        warnings.append(
            f"certificate {cert_file} does not come from an authority in {ca_file}; "
            "peers that know only those will refuse it"
        )
    return warnings


def _validity(what: str, certificate: x509.Certificate, now: datetime) -> Iterator[str]:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begin:
        yield f"{what} is not valid before {begin:%Y-%m-%d %H:%M} UTC; is the clock right?"
    if now > end:
        yield f"{what} has expired on {end:%Y-%m-%d %H:%M} UTC; peers will refuse it"


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer has signed it, or is it."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return certificate == issuer
    return True


# --- who a certificate names ---


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a peer is by its certificate.

    Attributes:
        subject: as text, for people; never for decisions.
        fingerprint: SHA-256 of the certificate, in lower-case hex.
        euis: the EUI64s it names.
    """

    subject: str
    fingerprint: str
    euis: frozenset[int] = frozenset()


def issuer_of(der: bytes, authorities: Iterable[bytes]) -> str | None:
    """The fingerprint of that authority which a certificate comes from directly.

    None: from none of them, or it cannot be read. TLS may have accepted it by way of an authority
    in between.

    Args:
        authorities: in DER, as `SSLContext.get_ca_certs(True)` gives those that are trusted.
    """
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der)
        trusted = [x509.load_der_x509_certificate(each) for each in authorities]
    except ValueError:
        return None
    found = (each for each in trusted if is_issued_by(certificate, each))
    return next(map(fingerprint_of, found), None)


class _Certified(Protocol):
    """Anything that has a peer certificate: an SSLSocket, an SSLObject, a TLS stream."""

    def getpeercert(self, binary_form: Literal[True]) -> bytes | None: ...


class _Shown(Protocol):
    """What is known of a peer's certificate."""

    @property
    def fingerprint(self) -> str | None: ...

    @property
    def euis(self) -> frozenset[int]: ...


def identity_of(connection: _Certified) -> Identity:
    """Who the peer of a TLS connection is, after the handshake.

    Raises:
        CertificateError: it has shown no certificate.
    """
    der = connection.getpeercert(True)
    if der is None:
        raise CertificateError("the peer shows no certificate")
    return identity_in(der)


def identity_in(der: bytes) -> Identity:
    """Who a certificate in DER names. One that TLS accepts is never refused here.

    What cannot be read names nobody; `require` refuses that, `match` takes it as unbound.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    fingerprint = hashlib.sha256(der).hexdigest()
    try:
        certificate = x509.load_der_x509_certificate(der)
        subject = list(certificate.subject)
    except ValueError:
        return Identity("(not readable)", fingerprint)
    texts = [str(each.value) for each in subject if each.oid == NameOID.COMMON_NAME]
    texts += _alternative_names(certificate)
    return Identity(
        _printable(", ".join(f"{each.rfc4514_attribute_name}={each.value!s}" for each in subject)),
        fingerprint,
        frozenset(eui for text in texts for eui in euis_in(text)),
    )


def _alternative_names(certificate: x509.Certificate) -> Iterator[str]:
    """Those that may hold an EUI, as text. An address may not: it only looks like one."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return
    for name in names:
        if isinstance(name, x509.OtherName):
            yield _asn1_text(name.value)
        elif isinstance(name, x509.DNSName | x509.RFC822Name | x509.UniformResourceIdentifier):
            yield name.value


def _asn1_text(value: bytes) -> str:
    """A short ASN.1 string; an octet string of 8 bytes is taken as the EUI itself."""
    content = value[2:]
    if len(value) < 2 or value[1] != len(content):
        return ""
    if value[0] == 0x04:
        return content.hex() if len(content) == 8 else ""
    return content.decode("utf-8", "replace")


def _printable(text: str) -> str:
    """Without what could break a log line or a terminal, and not too long."""
    safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return safe if len(safe) <= MAX_SUBJECT else safe[:MAX_SUBJECT] + "…"


_DIGITS = re.compile(r"(?<![0-9A-Za-z])(?:0[xX])?([0-9A-Fa-f]{16})(?![0-9A-Za-z])")
# A run of pairs or quartets is taken to its end: eight pairs of a longer number are no EUI.
_RUN = r"(?<![0-9A-Za-z])({0}(?:([-:. ]){0})(?:\2{0})*)(?![0-9A-Za-z])"
_PAIRS = re.compile(_RUN.format("[0-9A-Fa-f]{2}"))
_QUARTETS = re.compile(_RUN.format("[0-9A-Fa-f]{4}"))


def euis_in(text: str) -> frozenset[int]:
    """Every EUI64 in a name, in any usual spelling, also as part of a host name or URI.

    >>> [f"{eui:X}" for eui in euis_in("bs-70-b3-d5-9c-d0-00-00-01.example.org")]
    ['70B3D59CD0000001']
    """
    runs = [*_PAIRS.finditer(text), *_QUARTETS.finditer(text)]
    grouped = [found[1].replace(found[2], "") for found in runs]
    plain = [found[1] for found in _DIGITS.finditer(text)]
    return frozenset(int(digits, 16) for digits in (*plain, *grouped) if len(digits) == 16)


def check_identity(
    mode: IdentityMode, identity: _Shown, claimed_eui: int, pinned: str | None
) -> str | None:
    """Why the owner of a certificate may not be this base station; None: it may.

    Args:
        pinned: the fingerprint that the base station is bound to; None: to none yet. Bind it only
            after this has returned None, or anybody could bind it to another certificate.
    """
    named = ", ".join(sorted(map(format_eui, identity.euis)))
    claimed = format_eui(claimed_eui)
    if mode == "chain":
        return None
    if named and claimed_eui not in identity.euis:
        return f"the certificate names {named}, not {claimed}"
    if mode == "require" and not named:
        return f"the certificate names no EUI, and {claimed} must be named"
    if mode == "pin" and pinned is not None and pinned != identity.fingerprint:
        return f"{claimed} is bound to the certificate {pinned}, not {identity.fingerprint}"
    return None


def is_loopback(name: str) -> bool:
    """Whether a host name or address means this machine only."""
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        bare = name.lower().rstrip(".")
        return bare in ("localhost", "localhost.localdomain") or bare.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
