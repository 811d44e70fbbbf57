"""What commands say: data on standard output, messages on standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable

import typer

__all__ = ["columns", "fail", "note", "show", "show_json"]


def show(text: str = "") -> None:
    """Data, for people."""
    typer.echo(text)


def show_json(data: object) -> None:
    """Data, for programs: one JSON object or array, on one line."""
    typer.echo(json.dumps(data, ensure_ascii=False, default=str))


def note(text: str = "") -> None:
    """A message: what happened, what comes next."""
    typer.echo(text, err=True)


def fail(text: str) -> None:
    """The message of an error: what, why, what to do."""
    label = "error:"
    if _wants_colour():
        label = typer.style(label, fg=typer.colors.RED, bold=True)
    typer.echo(f"{label} {text}", err=True)


def columns(rows: Iterable[tuple[str, ...]], *, indent: int = 2) -> str:
    """Rows as text, each column as wide as its longest cell; the last one is not padded."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in cells
    )
    return "\n".join((" " * indent + line).rstrip() for line in lines)


def _wants_colour() -> bool:
    # https://no-color.org: any value but the empty one
    return not os.environ.get("NO_COLOR") and sys.stderr.isatty()
