"""`bssci certs renew`: new certificates in place of old ones, and a new authority in two steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bssci.cli import issuing, options, output, running

if TYPE_CHECKING:
    from bssci.core.runtime.config import Config

__all__ = ["renew", "stations_of"]

Fields = dict[str, Any]


def renew(
    server: Annotated[
        bool, typer.Option("--server", help="The Service Center's certificate; the default.")
    ] = False,
    station: Annotated[
        str | None,
        typer.Option("--station", metavar="EUI", help="The certificate of this base station."),
    ] = None,
    ca: Annotated[
        bool, typer.Option("--ca", help="Begin a change of the authority, or with --finish end it.")
    ] = False,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="NAME",
            help="A name or address to add to the Service Center's certificate; the names it has "
            "stay. May be given several times.",
        ),
    ] = None,
    rsa: options.RsaOrNot = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="With --station: where to put the files. Default: stations/EUI beside the "
            "authority.",
        ),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="With --ca: trust the old authority no longer.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --finish: also if base stations are cut off by that."),
    ] = False,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Make a new key and a new certificate in place of old ones, which are kept with the time.

    The Service Center's: its names stay, and it comes from the same authority as before, so that
    base stations notice nothing. The running service uses it from the next connection on.

    A base station's (--station): put its three files on it. With tls.identity = "pin" it is then
    refused until `bssci stations approve`.

    The authority (--ca), in two steps, so that no base station is cut off. The first makes a new
    one; both are trusted from then on. The Service Center goes on showing its certificate of the
    old one, because base stations that have no new files yet trust no other. Then renew every base
    station: what it is given comes from the new authority, and its CA file holds both. When
    `bssci certs status` lists none on the old one any more, --ca --finish gives the Service Center
    a certificate of the new authority and drops the old one. That is refused while base stations
    would be cut off. Firmware that reads only the first certificate of a CA file goes on with the
    old one until then, and has to be given a file with the new one alone at that moment.

    Example: bssci certs renew --host sc.example.org
    """
    _check(server=server, station=station, ca=ca, host=host, out=out, finish=finish, force=force)
    loaded = issuing.load(config)
    if station is not None:
        _renew_station(loaded, station, out, use_rsa=rsa, as_json=as_json)
    elif finish:
        _finish(loaded, force=force, as_json=as_json)
    elif ca:
        _begin(loaded, use_rsa=rsa, as_json=as_json)
    else:
        _renew_server(loaded, host or [], use_rsa=rsa, as_json=as_json)


def _check(
    *,
    server: bool,
    station: str | None,
    ca: bool,
    host: list[str] | None,
    out: Path | None,
    finish: bool,
    force: bool,
) -> None:
    """What does not go together."""
    chosen = {"--server": server, "--station": station is not None, "--ca": ca}
    if sum(chosen.values()) > 1:
        named = " and ".join(name for name, is_given in chosen.items() if is_given)
        raise typer.BadParameter(f"{named}: give one of them", param_hint="renew")
    needs = [
        ("--host", bool(host), not (ca or station is not None), "the Service Center's certificate"),
        ("--out", out is not None, station is not None, "--station"),
        ("--finish", finish, ca, "--ca"),
        ("--force", force, finish, "--finish"),
    ]
    for name, is_given, fits, what in needs:
        if is_given and not fits:
            raise typer.BadParameter(f"it belongs to {what}", param_hint=name)


@dataclass(frozen=True, slots=True)
class Renewed:
    """What has come of it."""

    rows: tuple[tuple[str, str, str], ...]
    fields: Fields
    kept: tuple[Path, ...]
    is_running: bool

    def show(self, *, as_json: bool) -> None:
        if as_json:
            more = {"kept": list(map(str, self.kept)), "running": self.is_running}
            output.show_json(self.fields | more)
            return
        output.show(output.columns([*self.rows, *(("kept", str(file), "") for file in self.kept)]))
        running.tell(is_running=self.is_running)


# --- the Service Center and base stations ---


def _renew_server(
    loaded: Config, hosts: Sequence[str], *, use_rsa: bool | None, as_json: bool
) -> None:
    from bssci.core.runtime.authority import write_pair
    from bssci.core.runtime.succession import authority_for_server, renewed_server
    from bssci.core.runtime.tls import certificate_names

    tls = loaded.tls
    authority = authority_for_server(tls.ca_file, tls.cert_file)
    pair = renewed_server(authority, tls.cert_file, hosts=hosts, use_rsa=use_rsa)
    kept = write_pair(pair, tls.cert_file, tls.key_file, force=True)
    names = certificate_names(tls.cert_file)
    Renewed(
        (
            ("certificate", str(tls.cert_file), "for " + ", ".join(names)),
            ("private key", str(tls.key_file), "keep it secret"),
        ),
        {"cert_file": str(tls.cert_file), "key_file": str(tls.key_file), "names": names},
        kept,
        running.reload(loaded, kept),
    ).show(as_json=as_json)


def _renew_station(
    loaded: Config, station: str, out: Path | None, *, use_rsa: bool | None, as_json: bool
) -> None:
    eui = issuing.eui_of(station, "--station")
    made, kept = issuing.make_station(loaded, eui, out, force=True, use_rsa=use_rsa)
    issuing.tell_station(made, loaded, as_json=as_json)
    for file in kept:
        output.note(f"kept: {file}")
    if loaded.tls.identity == "pin":
        output.note(
            "It is bound to the certificate it has. When it knocks with the new one: "
            f"bssci stations approve {made.eui}"
        )


# --- the authority ---


def _begin(loaded: Config, *, use_rsa: bool | None, as_json: bool) -> None:
    from bssci.core.runtime.authority import ca_key_file
    from bssci.core.runtime.succession import begin
    from bssci.core.runtime.tls import read_certificates, subject_of

    ca_file = loaded.tls.ca_file
    kept = begin(ca_file, use_rsa=use_rsa)
    subjects = [subject_of(each) for each in read_certificates(ca_file)]
    Renewed(
        (
            ("trusted", str(ca_file), "old and new: " + ", ".join(subjects)),
            ("new private key", str(ca_key_file(ca_file)), "keep it secret"),
        ),
        {
            "ca_file": str(ca_file),
            "ca_key_file": str(ca_key_file(ca_file)),
            "trusted": subjects,
        },
        kept,
        running.reload(loaded, kept),
    ).show(as_json=as_json)
    output.note(_next_steps(is_pinned=loaded.tls.identity == "pin"))


def _next_steps(*, is_pinned: bool) -> str:
    approve = [("", "bssci stations approve EUI", "it is bound to its old certificate")]
    rows = [
        (
            "1.",
            "bssci certs renew --station EUI",
            "for each base station; put its three files on it",
        ),
        *(approve if is_pinned else []),
        ("2.", "bssci certs status", "lists those that still come with the old authority"),
        ("3.", "bssci certs renew --ca --finish", "when there are none"),
    ]
    return f"\nNext:\n{output.columns(rows)}"


def _finish(loaded: Config, *, force: bool, as_json: bool) -> None:
    from bssci.core.runtime.succession import finish, predecessors
    from bssci.core.runtime.tls import fingerprint_of

    tls = loaded.tls
    old = {fingerprint_of(each) for each in predecessors(tls.ca_file)}
    if old and not force:
        _refuse_to_cut_off(loaded, old)
    done = finish(tls.ca_file, tls.cert_file, tls.key_file)
    news = "of the new authority" if done.is_reissued else "as before"
    Renewed(
        (
            ("trusted", str(tls.ca_file), "no longer: " + ", ".join(done.dropped)),
            ("certificate", str(tls.cert_file), news),
        ),
        {
            "ca_file": str(tls.ca_file),
            "cert_file": str(tls.cert_file),
            "dropped": list(done.dropped),
            "reissued": done.is_reissued,
        },
        done.kept,
        running.reload(loaded, done.kept),
    ).show(as_json=as_json)


def _refuse_to_cut_off(loaded: Config, old: set[str]) -> None:
    """Raises RequestError while base stations may need the old authority."""
    from bssci.core.center.rpc import RequestError

    facts = running.ask(loaded, "certs.status")
    if facts is None:
        raise RequestError(
            "the service does not run, so nobody can tell which base stations still come with a "
            "certificate of the old authority",
            hint="start it and wait until they have come, or finish with --force",
        )
    come_with_old = stations_of(facts, old)
    if come_with_old:
        raise RequestError(
            f"{output.plural(len(come_with_old), 'base station')} would be cut off, which came "
            f"with a certificate of the old authority: {_some(come_with_old)}",
            hint=f"bssci certs renew --station {come_with_old[0]}, and put its files on it; or "
            "finish with --force",
        )
    known = {each["eui"] for each in running.ask(loaded, "stations.list") or []}
    unseen = sorted(known - {*stations_of(facts)})
    if unseen:
        raise RequestError(
            f"nobody knows which certificate {output.plural(len(unseen), 'base station')} would "
            f"come with: {_some(unseen)}",
            hint="they have not connected since the service started; wait for them, or finish with "
            "--force",
        )


def stations_of(facts: Iterable[Fields], authorities: set[str] | None = None) -> list[str]:
    """The base stations that came with certificates of these authorities; None: of any."""
    return [
        eui
        for fact in facts
        if authorities is None or fact.get("fingerprint") in authorities
        for eui in fact.get("stations", ())
    ]


def _some(euis: Sequence[str], most: int = 8) -> str:
    more = f" and {len(euis) - most} more" if len(euis) > most else ""
    return ", ".join(euis[:most]) + more
