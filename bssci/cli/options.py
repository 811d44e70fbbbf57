"""Options that several commands have, and that need no running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ConfigFile", "Force", "Host", "Json", "Rsa", "RsaOrNot"]

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="The sc.toml to use. Default: ./sc.toml, then ~/.config/bssci/sc.toml, then "
        "/etc/bssci/sc.toml.",
    ),
]
Host = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="NAME",
        help="A host name or address that base stations connect to; may be given several times. "
        "Default: the name and the addresses of this machine.",
    ),
]
Rsa = Annotated[
    bool, typer.Option("--rsa", help="RSA 2048 instead of ECDSA P-256, for old firmware.")
]
Json = Annotated[bool, typer.Option("--json", help="Show one JSON object.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace what is there. Old files are kept under a name with the time."
    ),
]
RsaOrNot = Annotated[
    bool | None,
    typer.Option(
        "--rsa/--ecdsa",
        help="Kind of the new key: RSA 2048, for old firmware, or ECDSA P-256. Default: as before.",
        show_default=False,
    ),
]
