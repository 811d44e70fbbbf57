"""`bssci certs status` and `verify`: until when certificates are good, and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import issuing, options, output, renewing, running

if TYPE_CHECKING:
    from cryptography import x509

    from bssci.core.runtime.config import Config, Tls
    from bssci.core.runtime.inspection import Finding

__all__ = ["shown_findings", "station_files", "status", "verify"]

Fields = dict[str, Any]

TROUBLE = 8  # exit code of a check that has found problems


# --- status ---


def status(config: options.ConfigFile = None, as_json: options.Json = False) -> None:
    """Show until when certificates are good: the Service Center's, the authorities', and those
    that were made for base stations and are still in the stations folder.

    While the authority is changed, it also lists base stations that still came with a certificate
    of the old one. Exit code 8 if one expires within 30 days or is wrong.

    Example: bssci certs status
    """
    from bssci.core.runtime.tls import certificate_facts

    loaded = issuing.load(config)
    tls = loaded.tls
    answer = running.ask(loaded, "certs.status")
    facts: list[Fields] = answer or certificate_facts(tls.cert_file, tls.ca_file)
    facts += certificate_facts(*(file for file, _ in station_files(tls)))
    if as_json:
        output.show_json(facts)
    else:
        rows = [_row(fact, loaded) for fact in facts]
        output.show(output.table(STATUS, rows, width=output.width()))
        for line in [*_advice(facts, tls), *_change(facts, tls, is_running=answer is not None)]:
            output.note(line)
    if any(_is_trouble(fact) for fact in facts):
        raise typer.Exit(TROUBLE)


STATUS = [
    output.Column("file", least=16),
    output.Column("subject", least=10, spare=2),
    output.Column("names", least=10, spare=1),
    output.Column("until"),
    output.Column("days", right=True),
    output.Column("state"),
]


def _row(fact: Fields, loaded: Config) -> output.Row:
    end, days = fact["not_after"], fact["days"]
    return [
        shortened(fact["file"], loaded),
        fact["subject"] or output.NOTHING,
        ", ".join(fact["names"] or ()) or output.NOTHING,
        output.NOTHING if end is None else output.moment(end)[:10],
        output.NOTHING if days is None else str(days),
        _verdict(fact),
    ]


def _verdict(fact: Fields) -> output.Cell:
    if fact["ok"]:
        is_soon = _is_trouble(fact)
        return output.Cell("▲ expires", "yellow") if is_soon else output.Cell("● ok", "green")
    is_over = fact["days"] is not None and fact["days"] < 0
    return output.Cell("✕ expired" if is_over else "✕ wrong", "red")


def _is_trouble(fact: Fields) -> bool:
    from bssci.core.runtime.inspection import SOON

    return not fact["ok"] or fact["days"] < SOON


def _advice(facts: Iterable[Fields], tls: Tls) -> Iterator[str]:
    for fact in facts:
        if "error" in fact:
            yield fact["error"]
        elif _is_trouble(fact):
            yield f"{fact['subject']}: {_remedy(Path(fact['file']), fact, tls)}"


def _remedy(file: Path, fact: Fields, tls: Tls) -> str:
    if not fact["ok"] and fact["days"] >= 0:
        return "it is not valid yet; is the clock of this machine right?"
    if file == tls.ca_file:
        return "change the authority: bssci certs renew --ca"
    if found := _STATION_FILE.fullmatch(file.name):
        return f"make a new one for the base station: bssci certs renew --station {found[1]}"
    return "make a new one: bssci certs renew"


def _change(facts: Iterable[Fields], tls: Tls, *, is_running: bool) -> Iterator[str]:
    """Where a change of the authority stands."""
    from bssci.core.runtime.tls import fingerprint_of, subject_of

    old = _predecessors(tls)
    if not old:
        return
    yield f"the authority is being changed; {', '.join(map(subject_of, old))} is to go"
    if not is_running:
        yield "which base stations still need it is known only while the service runs"
        return
    euis = renewing.stations_of(facts, {fingerprint_of(each) for each in old})
    if not euis:
        yield "no base station came with its certificates: bssci certs renew --ca --finish"
        return
    yield f"{output.plural(len(euis), 'base station')} still came with a certificate of it:"
    yield from (f"  {eui}  bssci certs renew --station {eui}" for eui in euis)


def _predecessors(tls: Tls) -> list[x509.Certificate]:
    from bssci.core.runtime.succession import predecessors
    from bssci.core.runtime.tls import CertificateError

    try:
        return predecessors(tls.ca_file)
    except CertificateError:
        return []  # the table says what is wrong with the file


# --- verify ---


def verify(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="Certificates, and keys that belong to them. Default: all that the configuration "
            "names, and those of base stations in the stations folder.",
        ),
    ] = None,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Check certificate files, each for itself and together: whether the certificate comes from an
    authority that is trusted, whether the key belongs to it and nobody else can read it, since and
    until when it is valid, what it names, and what it may be used for.

    Exit code 8 if something is wrong; each line says what, and what to do.

    Example: bssci certs verify
    """
    loaded = issuing.load(config)
    findings = [*(_of_files(files, loaded.tls) if files else _of_configuration(loaded.tls))]
    if as_json:
        output.show_json([each.as_json() for each in findings])
    else:
        output.show(shown_findings(findings, loaded))
    if not all(each.ok for each in findings):
        raise typer.Exit(TROUBLE)


def _of_configuration(tls: Tls) -> Iterator[Finding]:
    from bssci.core.protocol.eui import parse_eui
    from bssci.core.runtime.authority import ca_key_file
    from bssci.core.runtime.inspection import inspect_authorities, inspect_pair

    yield from inspect_pair(
        tls.cert_file, purpose="server", key_file=tls.key_file, ca_file=tls.ca_file
    )
    # The service does not need it, and it may lie in a safe.
    yield from inspect_authorities(tls.ca_file, key_file=_if_there(ca_key_file(tls.ca_file)))
    for file, eui in station_files(tls):
        yield from inspect_pair(
            file,
            purpose="station",
            key_file=_if_there(_key_beside(file)),
            ca_file=tls.ca_file,
            eui=parse_eui(eui),
        )


def _of_files(files: Sequence[Path], tls: Tls) -> Iterator[Finding]:
    from bssci.core.runtime.inspection import inspect_authorities, inspect_pair, purpose_of
    from bssci.core.runtime.tls import CertificateError, read_certificates

    keys = [file for file in files if _holds_a_key(file)]
    certificates = [file for file in files if file not in keys]
    for file in certificates or files:
        try:
            purpose = purpose_of(read_certificates(file)[0])
        except CertificateError:
            purpose = "server"  # nothing is looked at but the file
        key_file = _key_of(file, keys)
        if purpose == "authority":
            yield from inspect_authorities(file, key_file=key_file)
        else:
            yield from inspect_pair(file, purpose=purpose, key_file=key_file, ca_file=tls.ca_file)


def _holds_a_key(file: Path) -> bool:
    from bssci.core.runtime.tls import CertificateError, read_certificates, read_key

    try:
        read_key(file)
    except CertificateError:
        return False
    try:
        read_certificates(file)
    except CertificateError:
        return True
    return False  # both in one file: it is its own key


def _key_of(cert_file: Path, keys: Sequence[Path]) -> Path | None:
    """The key that belongs to it; of those that do not, the only one; or the one beside it."""
    from bssci.core.runtime.tls import CertificateError, check_pair

    for key_file in (*keys, cert_file):
        try:
            check_pair(cert_file, key_file)
        except CertificateError:
            continue
        return key_file
    return keys[0] if len(keys) == 1 else _if_there(_key_beside(cert_file))


_STATION_FILE = re.compile(r"([0-9A-F]{16})_cert\.pem")


def station_files(tls: Tls) -> list[tuple[Path, str]]:
    """The certificates of base stations in the stations folder, without older ones that are kept;
    and their EUIs.
    """
    files = sorted(issuing.stations_folder(tls).glob("*/*_cert.pem"))
    found = ((file, _STATION_FILE.fullmatch(file.name)) for file in files)
    return [(file, match[1]) for file, match in found if match]


def _key_beside(cert_file: Path) -> Path:
    return cert_file.with_name(cert_file.name.replace("_cert.", "_key."))


def _if_there(file: Path) -> Path | None:
    return file if file.exists() else None


def shown_findings(findings: Sequence[Finding], loaded: Config) -> str:
    """Findings for people, by file."""
    parts: dict[str, list[tuple[str, str | output.Cell]]] = {}
    for each in findings:
        text = f"{each.seen}; {each.advice}" if each.advice else each.seen
        symbol, colour = _mark(each)
        cell = output.Cell(f"{symbol} {text}", colour)
        parts.setdefault(shortened(each.file, loaded), []).append((each.check, cell))
    return output.groups([*parts.items()], width=output.width())


def _mark(finding: Finding) -> tuple[str, str]:
    if finding.ok:
        return "●", "green"
    return ("✕", "red") if finding.is_fatal else ("▲", "yellow")


def shortened(file: str, loaded: Config) -> str:
    """A path in the folder of sc.toml, from there on."""
    folder = None if loaded.file is None else loaded.file.parent
    path = Path(file)
    return str(path.relative_to(folder)) if folder and path.is_relative_to(folder) else file
