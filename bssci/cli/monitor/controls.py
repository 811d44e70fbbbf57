"""Where the person at the keyboard is, and where a key leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bssci.cli.monitor.listings import LISTINGS, chosen
from bssci.cli.monitor.state import Known, Opened

__all__ = [
    "CHANGES",
    "VIEWS",
    "Action",
    "Change",
    "Controls",
    "Look",
    "Output",
    "Prompt",
    "Quit",
    "Redraw",
    "Run",
    "Stop",
]

VIEWS = ("overview", *LISTINGS)
MAX_LINE = 500  # characters of a command or a filter
INTERRUPTED = 130  # exit code of Ctrl-C
MAX_HISTORY = 100  # commands
MAX_OUTPUT = 2_000  # lines of a command


# --- what is to be done ---


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave, with this exit code."""

    code: int = 0


@dataclass(frozen=True, slots=True)
class Redraw:
    """Draw everything anew: something else has written on the terminal."""


@dataclass(frozen=True, slots=True)
class Look:
    """This is looked at from now on; None: nothing in particular."""

    opened: Opened | None


@dataclass(frozen=True, slots=True)
class Run:
    """Run a command line."""

    line: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the command that runs."""


@dataclass(frozen=True, slots=True)
class Change:
    """Call a method that changes something."""

    method: str
    eui: str


Action = Quit | Redraw | Look | Run | Stop | Change

CHANGES = {
    ("sensor", "a"): ("sensors.attach", "attach"),
    ("sensor", "d"): ("sensors.detach", "detach"),
    ("station", "x"): ("stations.disconnect", "disconnect"),
}
"""The method that a key stands for, and the word for it, by what it is done to."""


# --- what is on the screen beside a view ---


@dataclass(frozen=True, slots=True)
class Prompt:
    """A line that is being typed: `/` a filter, `:` a command, `?` the answer to a question."""

    kind: str
    text: str = ""
    question: str = ""
    change: Change | None = None


@dataclass(slots=True)
class Output:
    """What a command says.

    Attributes:
        code: its exit code; None: it runs.
        is_followed: nobody has moved: the end is shown while it runs.
    """

    line: str
    lines: list[str] = field(default_factory=list)
    code: int | None = None
    is_followed: bool = True

    def say(self, line: str) -> None:
        """One more line; of too many the first are forgotten."""
        self.lines.append(line)
        if len(self.lines) > MAX_OUTPUT:
            del self.lines[: len(self.lines) - MAX_OUTPUT]

    def end(self, code: int) -> None:
        """It has ended; what it has said is read from the beginning."""
        self.code = code


class Controls:
    """What is shown of what is known.

    Attributes:
        view: one of `VIEWS`.
        opened: the sensor or base station in front of it.
        prompt: the line that is being typed.
        output: the command whose output is in front of everything.
        frozen: what was known when the picture was frozen.
        message: what is to be said at the bottom, until the next key.
        scroll: the first line of what is longer than the screen.
    """

    def __init__(self, *, view: str = "overview", can_operate: bool = False) -> None:
        self.view = view
        self.opened: Opened | None = None
        self.prompt: Prompt | None = None
        self.output: Output | None = None
        self.frozen: Known | None = None
        self.message = ""
        self.is_helping = False
        self.scroll = 0
        self.filters: dict[str, str] = {}
        self.sorts: dict[str, int] = {}
        self._can_operate = can_operate
        self._marks: dict[str, str] = {}  # the item that is selected; none: the first
        self._places: dict[str, int] = {}  # where it was, should it go away
        self._commands: list[str] = []
        self._recalled = 0

    # --- what is shown ---

    def items(self, known: Known) -> list[Any]:
        """The rows of the list that is shown."""
        return chosen(LISTINGS[self.view], known, self.filter, self.sorts.get(self.view, 0))

    @property
    def filter(self) -> str:
        """That of this view, also while it is being typed."""
        if self.prompt is not None and self.prompt.kind == "/":
            return self.prompt.text
        return self.filters.get(self.view, "")

    def selected(self, items: Sequence[Any]) -> int:
        """The place of the selected item; the one that took its place, if it is gone."""
        mark = self._marks.get(self.view)
        if mark is None:
            return 0
        key = LISTINGS[self.view].key
        for place, each in enumerate(items):
            if key(each) == mark:
                return place
        return max(0, min(self._places.get(self.view, 0), len(items) - 1))

    @property
    def is_scrolled(self) -> bool:
        """What is shown is a text, in which arrows move lines."""
        return self.is_helping or self.output is not None or self.opened is not None

    def window(self, count: int, height: int) -> slice:
        """Which of so many lines of a text are on the screen."""
        last = max(0, count - height)
        if self.output is not None and self.output.is_followed:
            self.scroll = last if self.output.code is None else 0
        self.scroll = min(self.scroll, last)
        return slice(self.scroll, self.scroll + height)

    # --- keys ---

    def press(self, key: str, known: Known, page: int) -> Action | None:
        """What is to be done because of a key.

        Args:
            page: lines of a screen.
        """
        self.message = ""
        if key == "ctrl-l":
            return Redraw()
        if self.prompt is not None:
            return self._type(key, self.prompt)
        shown = self.frozen or known
        if key in _STEPS:
            self._step(_STEPS[key](page), shown)
            return None
        if self.output is not None or self.is_helping:
            return self._put_away(key)
        if found := _KEYS.get(key):
            return found(self, shown, known)
        self._operate(key, shown)
        return None

    def _put_away(self, key: str) -> Action | None:
        """What is in front of everything."""
        if key not in ("escape", "q", "enter", "?", ":", "ctrl-c", "backspace", "left"):
            return None
        self.scroll, self.is_helping = 0, False
        output, self.output = self.output, None
        if key == ":":
            self._ask(":")
        return Stop() if output is not None and output.code is None else None

    def _step(self, by: int, shown: Known) -> None:
        if self.is_scrolled:
            self.scroll = max(0, self.scroll + by)
            if self.output is not None:
                self.output.is_followed = by == MAX_SCROLL
            return
        if self.view == "overview":
            return
        items = self.items(shown)
        place = max(0, min(self.selected(items) + by, len(items) - 1))
        self._select(place, items)

    def _select(self, place: int, items: Sequence[Any]) -> None:
        if not place:  # the first one, whichever that is: what comes is seen
            self._marks.pop(self.view, None)
        else:
            self._marks[self.view] = LISTINGS[self.view].key(items[place])
        self._places[self.view] = place

    def show(self, view: str) -> Action:
        """Go to a view."""
        self.view, self.opened, self.scroll = view, None, 0
        return Look(None)

    # --- single keys ---

    def _open(self, shown: Known, known: Known) -> Action | None:
        if self.opened is not None or self.view == "overview":
            return None
        items = self.items(shown)
        if not items:
            return None
        item = items[self.selected(items)]
        opened = LISTINGS[self.view].opens(item, shown)
        if opened is None:
            self.message = "there is no more to show of it"
            return None
        if self.frozen is not None:
            self.frozen.details = {}  # what is asked for now is newer than the picture
        self.opened, self.scroll = opened, 0
        return Look(opened)

    def _back(self, shown: Known, known: Known) -> Action | None:
        if self.opened is not None:
            self.opened, self.scroll = None, 0
            return Look(None)
        self.filters.pop(self.view, None)
        return None

    def _pause(self, shown: Known, known: Known) -> None:
        self.frozen = known.frozen() if self.frozen is None else None

    def _sort(self, shown: Known, known: Known) -> None:
        if self.view == "overview" or self.opened is not None:
            return
        sorts = LISTINGS[self.view].sorts
        self.sorts[self.view] = (self.sorts.get(self.view, 0) + 1) % len(sorts)
        self.message = f"by {sorts[self.sorts[self.view]][0]}"

    def _filter(self, shown: Known, known: Known) -> None:
        if self.view == "overview" or self.opened is not None:
            self.message = "a filter is for lists: 2 to 7"
            return
        self._ask("/", self.filters.get(self.view, ""))

    def _command(self, shown: Known, known: Known) -> None:
        self._ask(":")

    def _help(self, shown: Known, known: Known) -> None:
        self.is_helping, self.scroll = True, 0

    def _quit(self, shown: Known, known: Known) -> Action | None:
        return Quit()

    def _interrupt(self, shown: Known, known: Known) -> Action | None:
        return Quit(INTERRUPTED)

    def _next(self, shown: Known, known: Known) -> Action:
        return self.show(VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)])

    def _previous(self, shown: Known, known: Known) -> Action:
        return self.show(VIEWS[VIEWS.index(self.view) - 1])

    # --- changes ---

    def _operate(self, key: str, shown: Known) -> None:
        concerned = self._concerned(shown)
        found = CHANGES.get((concerned.kind, key)) if concerned is not None else None
        if concerned is None or found is None:
            if key.isprintable() and any(key == change for _, change in CHANGES):
                self.message = f"{key} is for a sensor or a base station that is selected"
            return
        method, word = found
        if not self._can_operate:
            self.message = f"{word}: only with --operate, or as a command behind a colon"
            return
        what = "sensor" if concerned.kind == "sensor" else "base station"
        name = shown.name_of(concerned.eui)
        question = f"{word} {what} {concerned.eui}{f' {name}' if name else ''}? [y/N]"
        self.prompt = Prompt("?", question=question, change=Change(method, concerned.eui))

    def _concerned(self, shown: Known) -> Opened | None:
        if self.opened is not None or self.view == "overview":
            return self.opened
        items = self.items(shown)
        return LISTINGS[self.view].opens(items[self.selected(items)], shown) if items else None

    # --- a line that is typed ---

    def _ask(self, kind: str, text: str = "") -> None:
        self.prompt = Prompt(kind, text)
        self._recalled = len(self._commands)

    def _type(self, key: str, prompt: Prompt) -> Action | None:
        if prompt.kind == "?":
            self.prompt = None
            if key in ("y", "Y"):
                return prompt.change
            self.message = "nothing was done"
            return None
        match key:
            case "escape" | "ctrl-c":
                self.prompt = None
            case "enter":
                self.prompt = None
                return self._enter(prompt)
            case "backspace" if not prompt.text:
                self.prompt = None
            case "up" | "down" if prompt.kind == ":":
                self._recall(-1 if key == "up" else 1)
            case _:
                self.prompt = Prompt(prompt.kind, _edited(prompt.text, key))
        return None

    def _enter(self, prompt: Prompt) -> Action | None:
        text = prompt.text.strip()
        if prompt.kind == "/":
            self.filters[self.view] = text
            return None
        if text in ("q", "quit", "exit"):
            return Quit()
        if not text:
            return None
        self._commands = [*(each for each in self._commands if each != text), text][-MAX_HISTORY:]
        self.output, self.scroll, self.is_helping = Output(text), 0, False
        return Run(text)

    def _recall(self, by: int) -> None:
        self._recalled = max(0, min(self._recalled + by, len(self._commands)))
        recalled = self._commands[self._recalled :][:1]
        self.prompt = Prompt(":", recalled[0] if recalled else "")


def _edited(text: str, key: str) -> str:
    match key:
        case "backspace":
            return text[:-1]
        case "ctrl-u":
            return ""
        case "ctrl-w":
            return text.rstrip().rpartition(" ")[0] + (" " if " " in text.rstrip() else "")
        case _ if len(key) == 1 and len(text) < MAX_LINE:
            return text + key
    return text


MAX_SCROLL = 1_000_000  # lines: to the end
_STEPS: dict[str, Callable[[int], int]] = {
    "up": lambda page: -1,
    "k": lambda page: -1,
    "down": lambda page: 1,
    "j": lambda page: 1,
    "page-up": lambda page: -page,
    "ctrl-b": lambda page: -page,
    "page-down": lambda page: page,
    "ctrl-f": lambda page: page,
    " ": lambda page: page,
    "g": lambda page: -MAX_SCROLL,
    "home": lambda page: -MAX_SCROLL,
    "G": lambda page: MAX_SCROLL,
    "end": lambda page: MAX_SCROLL,
}


def _to(view: str) -> Callable[[Controls, Known, Known], Action | None]:
    return lambda controls, shown, known: controls.show(view)


_KEYS: dict[str, Callable[[Controls, Known, Known], Action | None]] = {
    **{str(number): _to(view) for number, view in enumerate(VIEWS, 1)},
    "o": _to("overview"),
    "b": _to("stations"),
    "n": _to("sensors"),
    "u": _to("uplinks"),
    "l": _to("downlinks"),
    "e": _to("events"),
    "r": _to("refused"),
    "enter": Controls._open,
    "right": Controls._open,
    "escape": Controls._back,
    "left": Controls._back,
    "backspace": Controls._back,
    "tab": Controls._next,
    "back-tab": Controls._previous,
    "p": Controls._pause,
    "s": Controls._sort,
    "/": Controls._filter,
    ":": Controls._command,
    "?": Controls._help,
    "q": Controls._quit,
    "ctrl-c": Controls._interrupt,
}
