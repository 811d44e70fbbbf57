"""What the keys do."""

from __future__ import annotations

from rich.text import Text

__all__ = ["help_lines"]

_KEYS = (
    (
        "Views",
        (
            ("1 o", "overview: the service, and what needs a look"),
            ("2 b", "base stations"),
            ("3 n", "sensors"),
            ("4 u", "uplinks, as they come"),
            ("5 l", "downlinks"),
            ("6 e", "events since this is watched"),
            ("7 r", "who was refused"),
            ("Tab", "the next view"),
        ),
    ),
    (
        "In a view",
        (
            ("↑ ↓ k j", "up and down"),
            ("PgUp PgDn", "a screen; also Ctrl-B and Ctrl-F or Space"),
            ("g G", "to the first, to the last; also Home and End"),
            ("Enter →", "open the selected sensor or base station"),
            ("Esc ←", "back; take the filter away"),
            ("/", "filter: only rows with all these words"),
            ("s", "sort by something else"),
            ("p", "pause: the picture stays, what comes is counted and kept"),
        ),
    ),
    (
        "Commands",
        (
            (":", "a command as on the command line: sensors list --stale"),
            ("a d", "attach, detach the sensor (with --operate)"),
            ("x", "disconnect the base station (with --operate)"),
        ),
    ),
    (
        "The rest",
        (
            ("?", "this"),
            ("Ctrl-L", "draw everything anew"),
            ("Ctrl-Z", "to the shell; `fg` comes back"),
            ("q", "quit; also Ctrl-C"),
        ),
    ),
    (
        "Signs",
        (
            ("● ◐ ▲", "good, under way, worth a look"),
            ("✕ ○ ·", "bad, over or away, not yet"),
        ),
    ),
)


def help_lines() -> list[Text]:
    """All of them."""
    lines = []
    for title, keys in _KEYS:
        lines.append(Text(f" {title}", style="bold", end=""))
        for key, what in keys:
            line = Text(f"   {key:<11}", style="cyan", end="")
            line.append(what, style="default")
            lines.append(line)
    return lines
