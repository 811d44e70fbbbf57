"""`bssci monitor`: the options, and whether it is watched or looked at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bssci.cli import output, remote

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["monitor"]

# As in `controls`, which is loaded when there is something to draw.
VIEWS = ("overview", "stations", "sensors", "uplinks", "downlinks", "events", "refused")

Size = tuple[int, int]

USUAL: Size = (120, 40)  # columns and lines where there is no terminal
MOST = 500  # columns or lines


def _views(incomplete: str) -> list[str]:
    return [name for name in VIEWS if name.startswith(incomplete)]


def monitor(
    once: Annotated[bool, typer.Option("--once", help="Show one frame, and end.")] = False,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one frame as a picture, and end."),
    ] = None,
    view: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"Begin with one of {', '.join(VIEWS)}.", autocompletion=_views
        ),
    ] = VIEWS[0],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNSxLINES",
            help="Of the frame, with --once or --svg. Default: that of the terminal.",
        ),
    ] = None,
    operate: Annotated[
        bool,
        typer.Option(
            "--operate",
            help="Also take keys that change something: attach, detach, disconnect. They ask.",
        ),
    ] = False,
    config: remote.ConfigFile = None,
    socket: remote.SocketFile = None,
) -> None:
    """Watch the running service on the whole terminal.

    How it is doing, base stations, sensors, uplinks, downlinks, what happens, and who was
    refused. Keys: 1 to 7 are the views, Enter opens what is selected, / filters, s sorts, p
    pauses, : takes a command, ? tells the rest, q quits. It goes on when the service was away.

    Example: bssci monitor --once --view sensors
    """
    if view not in VIEWS:
        raise typer.BadParameter(f"{view!r} is none of {', '.join(VIEWS)}", param_hint="--view")
    path = remote.socket_file(config, socket)
    if once or svg is not None:
        columns, lines = _size(size)
        frame = _frame(path, view, columns, lines)
        if svg is not None:
            _write(svg, frame, columns)
        if once:
            _show(frame)
        return
    if size is not None:
        raise typer.BadParameter("goes with --once or --svg", param_hint="--size")
    code = _watch(path, view, config, can_operate=operate)
    if code:
        raise typer.Exit(code)


def _size(text: str | None) -> Size:
    import shutil

    if text is None:
        return shutil.get_terminal_size(USUAL)
    match = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text)
    if match is None or not all(0 < int(each) <= MOST for each in match.groups()):
        raise typer.BadParameter(
            f"found {text!r}, expected columns and lines, as in 120x40", param_hint="--size"
        )
    return int(match[1]), int(match[2])


# --- once ---


def _frame(socket: Path, view: str, columns: int, lines: int) -> list[Text]:
    from bssci.cli.monitor.controls import Controls
    from bssci.cli.monitor.frame import draw
    from bssci.cli.monitor.state import Known
    from bssci.cli.monitor.watching import Watching

    known = Known()
    remote.run(Watching(socket, known, lambda: None).once)
    return draw(known, Controls(view=view), columns, lines, output.now())


def _show(frame: list[Text]) -> None:
    """All but the last line, which says what can be typed."""
    import os
    import sys

    from bssci.cli.monitor.picture import text

    has_colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    shown = frame[:-1]
    while shown and not shown[-1].plain.strip():
        shown.pop()
    output.show(text(shown, has_colours=has_colours))


def _write(file: Path, frame: list[Text], columns: int) -> None:
    from bssci.cli.monitor.picture import svg

    file.write_text(svg(frame, columns), encoding="utf-8")
    output.note(f"{file} is written")


# --- until somebody quits ---


def _watch(socket: Path, view: str, config: Path | None, *, can_operate: bool) -> int:
    import os

    from bssci.cli.monitor.app import App
    from bssci.cli.monitor.controls import Controls
    from bssci.cli.monitor.running import command_runner
    from bssci.cli.monitor.screen import open_screen
    from bssci.core.runtime.client import open_client

    async def main() -> int:
        # That there is no service is said before the terminal is taken.
        async with open_client(socket):
            pass
        with open_screen(has_colours=not os.environ.get("NO_COLOR")) as screen:
            controls = Controls(view=view, can_operate=can_operate)
            return await App(screen, socket, controls, command_runner(config, socket)).run()

    return remote.run(main)
