"""`bssci certs`: the authority, the Service Center's certificate, and those of base stations."""

from __future__ import annotations

import typer

from bssci.cli import carrying, examining, issuing, renewing
from bssci.cli.issuing import Generated, generate, names_of_this_machine, refuse_to_overwrite
from bssci.cli.options import ConfigFile, Force, Host, Json, Rsa

__all__ = [
    "ConfigFile",
    "Force",
    "Generated",
    "Host",
    "Json",
    "Rsa",
    "app",
    "generate",
    "names_of_this_machine",
    "refuse_to_overwrite",
]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make, check and renew the certificates of the Service Center and of base stations.",
)

app.command(short_help="Make the Service Center's certificate, and an authority.")(issuing.gen)
app.command(short_help="Make a base station's certificate, and say what goes where.")(
    issuing.station
)
app.command(short_help="Show until when certificates are good.")(examining.status)
app.command(short_help="Check certificate files: chain, key, names, dates, usage.")(
    examining.verify
)
app.command(short_help="Make a new certificate in place of an old one.")(renewing.renew)
app.command("import", short_help="Use a certificate that was made elsewhere.")(carrying.import_)
app.command(short_help="Copy the certificates into a folder or a ZIP file.")(carrying.export)
