"""`python -m bssci` is the command `bssci`."""

from bssci.cli.main import run

run()
