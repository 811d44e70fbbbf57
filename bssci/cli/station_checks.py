"""Why a base station does not get in: what the service remembers of it, and its certificate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bssci.cli import output
from bssci.cli.checks import LEAST_DAYS, Case, Finding
from bssci.cli.issuing import StationFiles

if TYPE_CHECKING:
    from bssci.core.runtime.client import Client

__all__ = ["check_certificate", "check_station"]

Fields = dict[str, Any]

MAX_TOLD = 3  # reasons for refusals that are told

# What to do about each reason of `stations.refused`.
HELP = {
    "not_tls": "its port must be the one for BSSCI with TLS; something that is no base station "
    "may also have called from there",
    "handshake_timeout": "the line is too slow, or it stops in the middle: restart it; "
    "server.handshake_timeout can be longer",
    "no_certificate": "give it its certificate and its key: `bssci certs station EUI`",
    "bad_certificate": "its certificate is not of our authority, has expired, or it does not "
    "know our authority: give it all three files of `bssci certs station EUI`",
    "identity_mismatch": "it claims another EUI than its certificate names: give it the "
    "certificate for its own EUI, or set tls.identity",
    "not_bssci": "it speaks something else: set it to BSSCI 1.0.0",
    "version": "it wants a version of BSSCI that is not spoken here: set it to 1.0.0",
    "too_many": "server.max_connections and server.max_half_open are in use",
    "protocol_error": "its firmware breaks the protocol: the log at level debug shows how; look "
    "for a newer one",
}


async def check_station(client: Client, case: Case, station: str) -> list[Finding]:
    """What the running service knows of a base station.

    Raises:
        RequestError: it is neither an EUI nor a name that is known.
    """
    from bssci.core.center.rpc import NotFoundError
    from bssci.core.protocol.errors import InvalidEuiError
    from bssci.core.protocol.eui import format_eui, parse_eui

    refused: list[Fields] = await client.call("stations.refused")
    try:
        found: Fields | None = await client.call("stations.get", eui=station)
    except NotFoundError:
        try:
            eui = format_eui(parse_eui(station))
        except InvalidEuiError:
            eui = ""
        if not eui:
            raise
        found = None
    else:
        assert found is not None
        eui = found["eui"]
    its_own = [*_refusals(refused, eui, found, _fingerprint(case, eui))]
    return [
        _presence(eui, found, is_refused=bool(its_own)),
        _knocks(found, its_own),
        check_certificate(case, eui),
    ]


def _presence(eui: str, station: Fields | None, *, is_refused: bool) -> Finding:
    if station is None:
        seen = f"{eui} was never connected"
    else:
        since = output.since(station["since"], output.now())
        name = f" ({station['name']})" if station["name"] else ""
        seen = f"{eui}{name} is {station['state']} since {since}, from {station['address']}"
        if station["state"] == "online":
            return Finding("station", True, seen)
    if is_refused:
        return Finding("station", False, seen, "it calls and is refused: see below")
    advice = (
        "nothing of it arrives: see to its power and its line, the address and the port it is "
        "set to, and firewalls in between"
    )
    return Finding("station", False, seen, advice)


def _refusals(
    refused: list[Fields], eui: str, station: Fields | None, fingerprint: str | None
) -> Iterator[Fields]:
    """Those of this base station: by its EUI or its certificate; else by where it was last."""
    last_address = station["address"] if station else None
    for each in refused:
        certificate = each["certificate"] or {}
        is_named = each["eui"] == eui
        is_shown = fingerprint is not None and certificate.get("fingerprint") == fingerprint
        is_from_there = each["eui"] is None and each["address"] == last_address
        if is_named or is_shown or is_from_there:
            yield each


def _knocks(station: Fields | None, refused: list[Fields]) -> Finding:
    if not refused:
        return Finding("refusals", True, "none of it since the service runs")
    now = output.now()
    told = [
        f"{each['reason'].replace('_', ' ')}, {each['count']} times, last {_ago(each, now)} from "
        f"{each['address']}: {each['detail']}"
        for each in refused[:MAX_TOLD]
    ]
    is_over = (
        station is not None
        and station["state"] == "online"
        and all(each["time"] <= station["since"] for each in refused)
    )
    if is_over:
        return Finding("refusals", True, f"{'; '.join(told)}; since then it got in")
    advice = dict.fromkeys(HELP[each["reason"]] for each in refused[:MAX_TOLD])
    return Finding("refusals", False, "; ".join(told), "; ".join(advice))


def _ago(refusal: Fields, now: float) -> str:
    age = output.age(refusal["time"], now)
    return age if age == "now" else f"{age} ago"


# --- its certificate, if it was made here ---


def _files(case: Case, eui: str) -> StationFiles:
    return StationFiles.of(case.config.tls.ca_file.parent / "stations" / eui, int(eui, 16))


def _fingerprint(case: Case, eui: str) -> str | None:
    from cryptography.hazmat.primitives import hashes

    from bssci.core.runtime.tls import CertificateError, read_certificates

    try:
        return read_certificates(_files(case, eui).cert_file)[0].fingerprint(hashes.SHA256()).hex()
    except CertificateError:
        return None


def check_certificate(case: Case, eui: str) -> Finding:
    """The certificate that was made here for a base station is good, and is its own."""
    from bssci.core.runtime import tls as room

    file = _files(case, eui).cert_file
    if not file.exists():
        note = f"`bssci certs station {eui}` makes one"
        return Finding("its certificate", None, f"none was made here ({file} is not there)", note)
    again = f"make another one and put it on it: `bssci certs renew --station {eui}`"
    try:
        (fact, *_) = room.certificate_facts(file)
        warnings = room.certificate_warnings(file, case.config.tls.ca_file)
        names = room.identity_in(_der(file)).euis
    except room.CertificateError as error:
        return Finding("its certificate", False, str(error), again)
    if warnings:
        return Finding("its certificate", False, "; ".join(warnings), again)
    if int(eui, 16) not in names:
        return Finding("its certificate", False, f"{file} does not name {eui}", again)
    days = fact["days"]
    assert isinstance(days, int)
    seen = f"{file}, good for {output.plural(days, 'day')}"
    return Finding("its certificate", days >= LEAST_DAYS, seen, "" if days >= LEAST_DAYS else again)


def _der(file: Path) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    from bssci.core.runtime.tls import read_certificates

    return read_certificates(file)[0].public_bytes(Encoding.DER)
