"""`bssci certs import` and `export`: certificates that were made elsewhere, or go elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bssci.cli import examining, issuing, options, output, running

if TYPE_CHECKING:
    from bssci.core.runtime.authority import NewFile
    from bssci.core.runtime.config import Config, Tls
    from bssci.core.runtime.inspection import Finding

__all__ = ["export", "import_"]

TROUBLE = 8  # exit code of a check that has found problems


# --- in ---


def import_(
    cert: Annotated[
        Path,
        typer.Argument(
            metavar="CERT", help="The certificate, PEM, with those between it and the authority."
        ),
    ],
    key: Annotated[Path, typer.Argument(metavar="KEY", help="Its private key, PEM.")],
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            help="Certificates of authorities to trust besides those that are trusted now. Base "
            "stations with a certificate of theirs are let in, so never name a public authority.",
        ),
    ] = None,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Use a certificate for the Service Center that was made elsewhere.

    Chain, key, dates, names and usage are checked first: if one is wrong, nothing is replaced and
    the exit code is 8. The old pair is kept under a name with the time; the running service uses
    the new one from the next connection on.

    Example: bssci certs import sc.pem sc_key.pem --ca our_ca.pem
    """
    from bssci.core.runtime.authority import replace_files
    from bssci.core.runtime.inspection import inspect_authorities, inspect_pair

    loaded = issuing.load(config)
    tls = loaded.tls
    findings = inspect_pair(cert, purpose="server", key_file=key, ca_file=ca or tls.ca_file)
    findings += inspect_authorities(ca) if ca else []
    if any(each.is_fatal for each in findings):
        _refuse(findings, loaded, as_json=as_json)
    for each in findings:
        if not each.ok:
            output.warn(f"{each.file}: {each.seen}; {each.advice}")
    stranger = _stranger(cert, tls)
    kept = replace_files([*_incoming(cert, key, ca, tls)])
    is_running = running.reload(loaded, kept)
    if stranger:
        output.warn(
            f"the certificate comes from {stranger}, the one before did not: base stations that do "
            f"not trust that authority refuse it; give them {tls.ca_file}"
        )
    _tell_import(tls, kept, as_json=as_json, is_running=is_running)


def _refuse(findings: list[Finding], loaded: Config, *, as_json: bool) -> None:
    if as_json:
        output.show_json([each.as_json() for each in findings])
    else:
        output.show(examining.shown_findings(findings, loaded))
    output.fail("it cannot be used as it is; nothing is replaced")
    raise typer.Exit(TROUBLE)


def _stranger(cert: Path, tls: Tls) -> str:
    """The authority of a new certificate, if the one that is replaced had another."""
    from bssci.core.runtime.tls import CertificateError, read_certificates

    new = read_certificates(cert)[0].issuer
    try:
        before = read_certificates(tls.cert_file)[0].issuer
    except CertificateError:
        return ""  # there was none that a base station could have trusted
    return new.rfc4514_string() if new != before else ""


def _incoming(cert: Path, key: Path, ca: Path | None, tls: Tls) -> Iterator[NewFile]:
    """What is written: what is in use last, so that it never lacks what it needs."""
    from bssci.core.runtime.authority import KeyPair, NewFile, files_of, pair_of
    from bssci.core.runtime.succession import pem, trust
    from bssci.core.runtime.tls import check_pair, read_certificates

    if ca is not None:
        trusted = pem(trust(tls.ca_file, read_certificates(ca, "CA file")))
        if not tls.ca_file.exists() or tls.ca_file.read_bytes() != trusted:
            yield NewFile(tls.ca_file, trusted)
    chain = pem(read_certificates(cert))
    pair = KeyPair(chain, pair_of(*check_pair(cert, key)).key)
    yield from files_of(pair, tls.cert_file, tls.key_file)


def _tell_import(tls: Tls, kept: tuple[Path, ...], *, as_json: bool, is_running: bool) -> None:
    from bssci.core.runtime.tls import certificate_names

    names = certificate_names(tls.cert_file)
    if as_json:
        output.show_json(
            {
                "cert_file": str(tls.cert_file),
                "key_file": str(tls.key_file),
                "ca_file": str(tls.ca_file),
                "names": names,
                "kept": list(map(str, kept)),
                "running": is_running,
            }
        )
        return
    rows = [
        ("certificate", str(tls.cert_file), "for " + ", ".join(names)),
        ("private key", str(tls.key_file), "keep it secret"),
        *(("kept", str(file), "") for file in kept),
    ]
    output.show(output.columns(rows))
    running.tell(is_running=is_running)


# --- out ---


def export(
    to: Annotated[
        Path, typer.Argument(metavar="DIR|FILE.zip", help="A folder, or a ZIP file to make.")
    ],
    with_ca_key: Annotated[
        bool,
        typer.Option(
            "--with-ca-key",
            help="Also the private key of the authority: who has it can make himself a base "
            "station.",
        ),
    ] = False,
    force: options.Force = False,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Copy the certificates: the Service Center's with its private key, the authorities', and those
    of base stations in the stations folder, without their keys.

    What is written can be read by you only. The key of the authority is left out unless it is asked
    for.

    Example: bssci certs export backup.zip
    """
    from bssci.core.runtime.authority import NewFile, replace_files

    tls = issuing.load(config).tls
    content = dict(_outgoing(tls, with_ca_key=with_ca_key))
    if to.suffix.lower() == ".zip":
        files = [NewFile(to, _zipped(content), 0o600)]
    else:
        files = [NewFile(to / name, data, 0o600) for name, data in content.items()]
    issuing.refuse_to_overwrite([each.file for each in files], force=force)
    kept = replace_files(files)
    if as_json:
        output.show_json(
            {
                "to": str(to),
                "files": list(content),
                "with_ca_key": with_ca_key,
                "kept": list(map(str, kept)),
            }
        )
        return
    output.show(f"{output.plural(len(content), 'file')} in {to}")
    output.show(output.columns([(name,) for name in content]))
    for file in kept:
        output.note(f"kept: {file}")


def _outgoing(tls: Tls, *, with_ca_key: bool) -> Iterator[tuple[str, bytes]]:
    """Names and contents. Only what was read as a certificate or as the key that is meant goes out:
    a file may hold more than its name says.
    """
    from bssci.core.runtime.authority import ca_key_file, load_authority, pair_of
    from bssci.core.runtime.succession import pem
    from bssci.core.runtime.tls import (
        CertificateError,
        belong_together,
        check_pair,
        is_authority,
        read_certificates,
    )

    certificate, key = check_pair(tls.cert_file, tls.key_file)
    trusted = read_certificates(tls.ca_file, "CA file")
    owners = [each for each in trusted if is_authority(each) and belong_together(each, key)]
    if owners and not with_ca_key:
        raise CertificateError(
            f"private key {tls.key_file} is also that of the authority in {tls.ca_file}; it is "
            "exported with --with-ca-key only"
        )
    yield "service_center_cert.pem", pem(read_certificates(tls.cert_file))
    yield "service_center_key.pem", pair_of(certificate, key).key
    yield "ca_cert.pem", pem(trusted)
    if with_ca_key:
        yield "ca_key.pem", load_authority(tls.ca_file, ca_key_file(tls.ca_file)).key
    for file, eui in examining.station_files(tls):
        yield f"stations/{eui}/{file.name}", pem(read_certificates(file))


def _zipped(content: dict[str, bytes]) -> bytes:
    import io
    import stat
    import zipfile

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, octets in content.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o600) << 16
            archive.writestr(entry, octets)
    return data.getvalue()
