"""`bssci stations approve`: a base station comes with another certificate, and that is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bssci.cli import output, remote

__all__ = ["approve"]

Fields = dict[str, Any]


def approve(
    eui: remote.StationEui,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint",
            metavar="HEX",
            help="SHA-256 of the certificate, or its first 8 digits and more. One in full length "
            "need not have been seen yet. Nothing is asked then.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: remote.Json = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Let a base station in with the certificate with which it was refused.

    With tls.identity = "pin" a base station is bound to the first certificate it came with. After
    its certificate was renewed it is refused, and `bssci stations refused` shows it. Approve only a
    certificate that you have given it: who has its key is that base station from then on. It comes
    back by itself; a connection with another certificate is ended.

    Example: bssci stations approve 70B3D59CD0000001
    """
    if fingerprint is None:
        remote.must_be_asked(yes=yes)
        fingerprint = _asked_for(config, socket, eui, yes=yes)
    found = remote.ask(config, socket, "stations.approve", eui=eui, fingerprint=fingerprint)
    if as_json:
        output.show_json(found)
        return
    before = found["before"]
    rows = [("approved", found["fingerprint"]), ("before", before or output.NOTHING)]
    output.show(f"{found['eui']}  may come in\n{output.columns(rows)}")


def _asked_for(config: Path | None, socket: Path | None, eui: str, *, yes: bool) -> str | None:
    """The certificate that was looked at and is meant; None: there is none, or several, which the
    service explains.
    """
    waiting = _waiting(config, socket, eui)
    if len(waiting) != 1:
        return None
    ((fingerprint, refusal),) = waiting.items()
    rows = [
        ("certificate", refusal["certificate"]["subject"]),
        ("SHA-256", fingerprint),
        ("came from", refusal["address"]),
        ("last refused", output.since(refusal["time"], output.now())),
    ]
    output.note(f"Base station {refusal['eui']} was refused:\n{output.columns(rows)}")
    remote.ask_whether("Is this its certificate?", yes=yes)
    return fingerprint


def _waiting(config: Path | None, socket: Path | None, eui: str) -> dict[str, Fields]:
    """Who was refused as this base station for its certificate, by fingerprint, each at last."""
    wanted = _eui(config, socket, eui)
    refused = remote.ask(config, socket, "stations.refused")
    found: dict[str, Fields] = {}
    for each in refused:
        if (each["eui"], each["reason"]) == (wanted, "identity_mismatch") and each["certificate"]:
            found.setdefault(each["certificate"]["fingerprint"], each)
    return found


def _eui(config: Path | None, socket: Path | None, text: str) -> str:
    from bssci.core.protocol.errors import InvalidEuiError
    from bssci.core.protocol.eui import format_eui, parse_eui

    try:
        return format_eui(parse_eui(text))
    except InvalidEuiError:
        return str(remote.ask(config, socket, "stations.get", eui=text)["eui"])
