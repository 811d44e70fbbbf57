"""Every view at four sizes, compared as a whole with what is written in `frames/`.

When a view is meant to look different: `python -m tests.cli.monitor.test_frame` writes them anew,
and the change of those files shows what it looks like.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bssci.cli.monitor.controls import VIEWS, Controls, Output
from bssci.cli.monitor.frame import draw, page
from bssci.cli.monitor.state import Known, Opened
from tests.cli.monitor import network
from tests.control import NOW

FRAMES = Path(__file__).parent / "frames"
SIZES = ((60, 20), (80, 24), (120, 40), (200, 60))

SENSOR = Opened("sensor", network.KITCHEN)
STATION = Opened("station", f"{network.TOWER:016X}")
STRANGER = Opened("sensor", "0200000000000009")


def pressed(*keys, view="overview", opened=None, known=None, **given):
    """What is on the screen after these keys."""
    known = network.known(opened) if known is None else known
    controls = Controls(view=view, **given)
    controls.opened = opened
    for key in keys:
        controls.press(key, known, 10)
    return known, controls


def away():
    known = network.known()
    known.lose("no service runs: control.sock is not there", NOW - 12)
    return known


def told():
    known, controls = pressed()
    controls.output = Output("sensors list", ["EUI  name", "", "x" * 230], 4)
    return known, controls


def paused():
    known, controls = pressed("p", view="uplinks")
    known.take("uplink", NOW, network.uplink(99, ago=0))
    return known, controls


PICTURES: dict[str, Callable[[], tuple[Known, Controls]]] = {
    **{view: partial(pressed, view=view) for view in VIEWS},
    "sensor": lambda: pressed(view="sensors", opened=SENSOR),
    "sensor that nobody registered": lambda: pressed(view="uplinks", opened=STRANGER),
    "station": lambda: pressed(view="stations", opened=STATION),
    "help": lambda: pressed("?"),
    "filter that is being typed": lambda: pressed("/", *"kit", view="sensors"),
    "third sensor selected": lambda: pressed("down", "down", view="sensors"),
    "question": lambda: pressed("d", view="sensors", can_operate=True),
    "output of a command": told,
    "paused": paused,
    "service away": lambda: pressed(known=away()),
    "nothing known": lambda: pressed(known=Known()),
}


def drawn(width, height):
    """All pictures of a size, each below its name."""
    pieces = []
    for name, make in PICTURES.items():
        known, controls = make()
        lines = draw(known, controls, width, height, NOW)
        pieces += [f"=== {name}", *(line.plain.rstrip() for line in lines)]
    return "\n".join(pieces) + "\n"


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_view_looks_like_this(width, height):
    assert drawn(width, height) == (FRAMES / f"{width}x{height}.txt").read_text()


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize(("width", "height"), [(40, 10), (41, 11), (79, 25), (151, 13), (400, 90)])
def test_a_frame_has_as_many_lines_as_the_screen_and_none_is_too_long(name, width, height):
    known, controls = PICTURES[name]()
    lines = draw(known, controls, width, height, NOW)
    assert len(lines) == height
    assert [line.plain for line in lines if line.cell_len > width] == []


@pytest.mark.parametrize(("width", "height"), [(39, 30), (100, 9), (1, 1)])
def test_a_terminal_that_is_too_small_is_told_so(width, height):
    known, controls = pressed()
    lines = draw(known, controls, width, height, NOW)
    assert (
        [line.plain for line in lines] == ["at least 40x10, please"[: width - 1] + "…"]
        if (width < 22)
        else ["at least 40x10, please"]
    )


def test_what_others_say_does_not_move_the_cursor():
    for make in PICTURES.values():
        known, controls = make()
        assert "\x1b" not in "".join(line.plain for line in draw(known, controls, 120, 40, NOW))


def test_every_state_is_told_by_a_sign_and_not_by_colour_alone():
    """What has a colour begins with a sign, or is a picture, a number or a title."""
    signs = "●◐▲✕○·▁▂▃▄▅▆▇█▏▎▍▌▋▊▉ "
    words = set()
    for view in VIEWS:
        known, controls = pressed(view=view)
        for line in draw(known, controls, 200, 60, NOW):
            for span in line.spans:
                text = line.plain[span.start : span.end]
                is_coloured = any(c in str(span.style) for c in ("red", "yellow", "green"))
                if is_coloured and not any(each in text for each in signs):
                    words.add(text)
    # How many are pending or refused; a plus or a minus tells it.
    assert words == {"3+1", "1-2", "1/2"}


def test_a_page_is_what_is_seen_of_a_list():
    _, controls = pressed(view="uplinks")
    lines = draw(network.known(), controls, 100, 20, NOW)
    assert sum("1000" in line.plain or "70B3" in line.plain for line in lines) <= page(20)


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    FRAMES.mkdir(exist_ok=True)
    for size in SIZES:
        (FRAMES / f"{size[0]}x{size[1]}.txt").write_text(drawn(*size))
