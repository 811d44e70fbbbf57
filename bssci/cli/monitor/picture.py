"""A frame as text, or as a picture in SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from bssci.cli.monitor.screen import painted

__all__ = ["svg", "text"]

# Nothing is fetched from elsewhere when a picture is looked at: the font is the reader's.
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def text(lines: Sequence[Text], *, has_colours: bool) -> str:
    """A frame as lines of text, without empty lines at the end; without colours it is plain."""
    if not has_colours:
        return "\n".join(line.plain.rstrip() for line in lines).rstrip()
    return "\n".join(painted(line, has_colours=True) for line in lines)


def svg(lines: Sequence[Text], width: int, *, title: str = "bssci monitor") -> str:
    """A frame as a picture of a terminal; the same frame gives the same picture."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=width,
        height=len(lines),
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
        legacy_windows=False,
    )
    for line in lines:
        console.print(Text.assemble(line, end="\n"), no_wrap=True, crop=True, overflow="crop")
    return _FONTS.sub("", console.export_svg(title=title, unique_id="monitor"))
