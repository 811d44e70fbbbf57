"""A change of the authority in two steps, during which no base station is cut off.

A base station trusts what stands in the CA file that it was given, and so do we. Nobody can give
all of them new files at one moment, so:

1. `begin`: there is a new authority, and our CA file holds both. Base stations come in with
   certificates of either. The Service Center goes on showing its certificate of the *old*
   authority, also when that is renewed meanwhile: a base station that was not visited yet trusts no
   other. What a base station is given now comes from the new authority, together with the CA file
   that holds both.
2. `finish`: every base station has the new files. The Service Center gets a certificate of the new
   authority, and the old one is trusted no longer.

In the file the authority stands first which the Service Center's certificate comes from: some
firmware reads only the first certificate of a file. Cross-signing would spare the base stations the
second certificate, but an authority of ours may have no other below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bssci.core.runtime.authority import (
    NewFile,
    ca_key_file,
    files_of,
    has_rsa_key,
    load_authority,
    make_authority,
    make_server_certificate,
    pair_of,
    replace_files,
)
from bssci.core.runtime.tls import (
    CertificateError,
    belong_together,
    is_issued_by,
    read_certificates,
    read_key,
    server_names,
    subject_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cryptography import x509

    from bssci.core.runtime.authority import KeyPair

__all__ = [
    "Finished",
    "authority_for_server",
    "begin",
    "finish",
    "names_to_keep",
    "pem",
    "predecessors",
    "renewed_server",
    "trust",
]


def pem(certificates: Iterable[x509.Certificate]) -> bytes:
    """Certificates as the content of a file."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


# --- who signs ---


def authority_for_server(ca_file: Path, cert_file: Path, *, now: datetime | None = None) -> KeyPair:
    """The authority that a new certificate of the Service Center has to come from.

    That is the one of its old certificate as long as we trust it: base stations that know no other
    would refuse a certificate of another. One that has expired is known by nobody any more.

    Raises:
        CertificateError: a file cannot be used, or the key that is needed is not there.
    """
    now = now or datetime.now(UTC)
    usable = [each for each in read_certificates(ca_file) if now < each.not_valid_after_utc]
    issuer = _issuer(cert_file, usable) if cert_file.exists() else next(iter(usable), None)
    if issuer is None:
        return load_authority(ca_file, ca_key_file(ca_file))
    for key_file in _key_files(ca_file):
        key = read_key(key_file)
        if belong_together(issuer, key):
            return pair_of(issuer, key)
    raise CertificateError(
        f"the private key of {subject_of(issuer)}, from which the server's certificate comes, is "
        f"not beside {ca_file}; have a new certificate made where that key is, and take it in with "
        "`bssci certs import`"
    )


def _issuer(cert_file: Path, authorities: Sequence[x509.Certificate]) -> x509.Certificate | None:
    certificate = read_certificates(cert_file)[0]
    return next((each for each in authorities if is_issued_by(certificate, each)), None)


def _key_files(ca_file: Path) -> list[Path]:
    """The key of the authority, and those that were kept when it was replaced."""
    key_file = ca_key_file(ca_file)
    kept = ca_file.parent.glob(f"{key_file.stem}.*{key_file.suffix}")
    return [file for file in (key_file, *sorted(kept, reverse=True)) if file.exists()]


# --- the Service Center's certificate ---


def names_to_keep(certificate: x509.Certificate) -> list[str]:
    """The names of a certificate, in an order that leaves its subject as it is."""
    from cryptography.x509.oid import NameOID

    names = server_names(certificate)
    common = [
        each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    return sorted(names, key=lambda name: name not in common)


def renewed_server(
    authority: KeyPair,
    cert_file: Path,
    *,
    hosts: Sequence[str] = (),
    use_rsa: bool | None = None,
    now: datetime | None = None,
) -> KeyPair:
    """A new key and certificate in place of the one in a file, for the same names.

    Args:
        hosts: names that are added.
        use_rsa: None: the kind of key stays.

    Raises:
        CertificateError: it cannot be made; says why.
    """
    old = read_certificates(cert_file)[0]
    names = [*names_to_keep(old), *hosts]
    if not names:
        raise CertificateError(
            f"certificate {cert_file} names no host; say what base stations connect to: "
            "--host sc.example.org"
        )
    return make_server_certificate(
        authority,
        names,
        use_rsa=has_rsa_key(old) if use_rsa is None else use_rsa,
        # Those it has were asked for when it was made.
        allow_loopback=True,
        now=now,
    )


# --- the two steps ---


def predecessors(ca_file: Path) -> list[x509.Certificate]:
    """The authorities in our CA file that another one has taken the place of; none: no change is
    under way.

    They stand in a CA file that was kept, and the key of our authority is not theirs. Others in the
    file were put there by somebody who wants them there.

    Raises:
        CertificateError: a file cannot be used.
    """
    trusted, key_file = read_certificates(ca_file, "CA file"), ca_key_file(ca_file)
    if len(trusted) < 2 or not key_file.exists():
        return []
    key, kept = read_key(key_file), _kept(ca_file)
    return [each for each in trusted if each in kept and not belong_together(each, key)]


def _kept(ca_file: Path) -> set[x509.Certificate]:
    files = sorted(ca_file.parent.glob(f"{ca_file.stem}.*{ca_file.suffix}"))
    return {each for file in files for each in read_certificates(file, "CA file")}


def begin(
    ca_file: Path, *, use_rsa: bool | None = None, now: datetime | None = None
) -> tuple[Path, ...]:
    """Make a new authority and trust it beside the old one. Returns where older files are kept.

    Args:
        use_rsa: None: the kind of key stays.

    Raises:
        CertificateError: a change is under way already, or a file cannot be used.
    """
    trusted = read_certificates(ca_file, "CA file")
    if under_way := predecessors(ca_file):
        raise CertificateError(
            f"a change of the authority is under way: {subject_of(under_way[0])} is to go; "
            "`bssci certs renew --ca --finish` ends it"
        )
    new = make_authority(use_rsa=has_rsa_key(trusted[0]) if use_rsa is None else use_rsa, now=now)
    # The certificate first: without its key it does no harm, a key without it could sign nothing.
    return replace_files(
        [
            NewFile(ca_file, pem(trusted) + new.certificate),
            NewFile(ca_key_file(ca_file), new.key, 0o600),
        ],
        now=now,
    )


@dataclass(frozen=True, slots=True)
class Finished:
    """What ending a change has done.

    Attributes:
        dropped: the subjects of the authorities that are trusted no longer.
        is_reissued: the Service Center has a new certificate, of the new authority.
        kept: where older files are.
    """

    dropped: tuple[str, ...]
    is_reissued: bool
    kept: tuple[Path, ...]


def finish(
    ca_file: Path, cert_file: Path, key_file: Path, *, now: datetime | None = None
) -> Finished:
    """Trust the old authority no longer; first the Service Center gets a certificate of the new.

    Raises:
        CertificateError: no change is under way, or a file cannot be used.
    """
    old = predecessors(ca_file)
    if not old:
        raise CertificateError(
            "no change of the authority is under way; `bssci certs renew --ca` begins one"
        )
    files: list[NewFile] = []
    is_reissued = _issuer(cert_file, old) is not None
    if is_reissued:
        authority = load_authority(ca_file, ca_key_file(ca_file))
        pair = renewed_server(authority, cert_file, now=now)
        files += files_of(pair, cert_file, key_file)
    # Last: in between, both authorities are trusted, and the change can be finished again.
    left = [each for each in read_certificates(ca_file) if each not in old]
    files.append(NewFile(ca_file, pem(left)))
    kept = replace_files(files, now=now)
    return Finished(tuple(map(subject_of, old)), is_reissued, kept)


def trust(ca_file: Path, others: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """What a CA file holds when others are trusted, too; they stand first.

    Raises:
        CertificateError: the file cannot be used.
    """
    so_far = read_certificates(ca_file, "CA file") if ca_file.exists() else []
    return [*dict.fromkeys([*others, *so_far])]
