import pytest

from bssci.cli.monitor import command
from bssci.cli.monitor.controls import VIEWS, Change, Controls, Look, Quit, Redraw, Run, Stop
from bssci.cli.monitor.listings import LISTINGS
from bssci.cli.monitor.state import Opened
from tests.cli.monitor import network
from tests.control import NOW

TOWER = f"{network.TOWER:016X}"


class Hand:
    """Presses keys, a word of several at a time."""

    def __init__(self, view="overview", **given):
        self.known = network.known()
        self.controls = Controls(view=view, **given)

    def press(self, *keys):
        done = [self.controls.press(key, self.known, 10) for key in keys]
        return [each for each in done if each is not None]

    def type(self, text):
        return self.press(*text)

    @property
    def frozen(self):
        assert self.controls.frozen is not None
        return self.controls.frozen

    @property
    def prompt(self):
        assert self.controls.prompt is not None
        return self.controls.prompt

    @property
    def output(self):
        assert self.controls.output is not None
        return self.controls.output

    @property
    def keys(self):
        """What is listed, by what tells it from others."""
        listing = LISTINGS[self.controls.view]
        return [listing.key(each) for each in self.controls.items(self.known)]

    @property
    def selected(self):
        items = self.controls.items(self.controls.frozen or self.known)
        return LISTINGS[self.controls.view].key(items[self.controls.selected(items)])


def test_the_views_are_those_that_can_be_asked_for():
    assert command.VIEWS == VIEWS


@pytest.mark.parametrize(
    ("key", "view"), [*zip("1234567", VIEWS, strict=True), *zip("obnuler", VIEWS, strict=True)]
)
def test_each_view_has_a_digit_and_a_letter(key, view):
    hand = Hand("sensors" if view == "overview" else "overview")
    assert (hand.press(key), hand.controls.view) == ([Look(None)], view)


def test_tab_goes_around():
    hand = Hand()
    hand.press(*["tab"] * len(VIEWS))
    assert hand.controls.view == "overview"
    hand.press("back-tab")
    assert hand.controls.view == "refused"


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (["down"], 1), (["j", "j"], 2), (["down", "up"], 0), (["up"], 0), (["G"], 39),
        (["G", "g"], 0), (["page-down"], 10), ([" ", "page-up"], 0), (["end", "home"], 0),
        (["page-down"] * 9, 39), (["ctrl-f", "ctrl-b", "k"], 0),
    ],
)  # fmt: skip
def test_moving_in_a_list(keys, place):
    hand = Hand("uplinks")
    hand.press(*keys)
    assert hand.selected == hand.keys[place]


def test_the_selected_row_is_the_same_while_others_come():
    hand = Hand("uplinks")
    hand.press("down", "down")
    chosen = hand.selected
    hand.known.take("uplink", NOW, network.uplink(99, ago=0))
    assert (hand.selected, hand.keys.index(chosen)) == (chosen, 3)


def test_the_first_row_is_always_the_newest():
    hand = Hand("uplinks")
    hand.known.take("uplink", NOW, network.uplink(99, ago=0))
    assert hand.selected == "uplink-99"


def test_when_the_selected_row_goes_away_its_neighbour_is_selected():
    hand = Hand("sensors")
    hand.press("down")
    hand.known.take_sensor(network.BATH, None)
    assert hand.selected == network.ATTIC
    hand.press("G")
    hand.known.take_sensor(network.SILENT, None)
    assert hand.selected == network.ATTIC


def test_a_filter_holds_while_it_is_typed_and_after():
    hand = Hand("sensors")
    hand.press("/")
    hand.type("kit")
    assert hand.keys == [network.KITCHEN]
    hand.press("backspace", "backspace", "backspace")
    assert len(hand.keys) == 4
    hand.type("WATER ground")
    hand.press("enter")
    assert (hand.keys, hand.controls.filter) == ([network.KITCHEN], "WATER ground")
    hand.press("4", "3")
    assert hand.keys == [network.KITCHEN]
    hand.press("escape")
    assert len(hand.keys) == 4


def test_a_filter_that_is_given_up_changes_nothing():
    hand = Hand("sensors")
    hand.press("/", "x", "y", "escape")
    assert (len(hand.keys), hand.controls.prompt) == (4, None)


@pytest.mark.parametrize(
    ("view", "count", "first"),
    [
        ("sensors", 1, network.BATH),
        ("sensors", 2, network.BATH),
        ("sensors", 3, network.KITCHEN),
        ("sensors", 4, network.BATH),
        ("sensors", 5, network.BATH),
        ("sensors", 7, network.KITCHEN),
        ("stations", 1, f"{network.MAST:016X}"),
        ("stations", 4, f"{network.SHED:016X}"),
        ("uplinks", 1, "uplink-2"),
        ("downlinks", 1, "2"),
        ("events", 1, "7"),
    ],
)
def test_sorting_goes_through_all_orders(view, count, first):
    hand = Hand(view)
    hand.press(*["s"] * count)
    assert hand.keys[0] == first
    assert hand.controls.message.startswith("by ")


@pytest.mark.parametrize(
    ("view", "keys", "opened"),
    [
        ("stations", ["enter"], Opened("station", TOWER)),
        ("sensors", ["down", "enter"], Opened("sensor", network.BATH)),
        ("uplinks", ["down", "right"], Opened("sensor", "0200000000000009")),
        ("downlinks", ["enter"], Opened("sensor", network.KITCHEN)),
        ("events", ["down", "enter"], Opened("sensor", network.SILENT)),
        ("events", ["G", "enter"], Opened("station", TOWER)),
    ],
)
def test_enter_opens_what_a_row_is_about(view, keys, opened):
    hand = Hand(view)
    assert (hand.press(*keys), hand.controls.opened) == ([Look(opened)], opened)
    assert (hand.press("escape"), hand.controls.opened) == ([Look(None)], None)


def test_where_there_is_no_more_to_show_that_is_said():
    hand = Hand("refused")
    assert hand.press("enter") == []
    assert hand.controls.message == "there is no more to show of it"
    hand.known.refused = []
    assert hand.press("enter", "down", "a") == []


def test_pause_loses_nothing():
    hand = Hand("uplinks")
    hand.press("p")
    before = [each["id"] for each in hand.controls.items(hand.frozen)]
    new = [network.uplink(number, ago=0) for number in range(100, 130)]
    for each in new:
        hand.known.take("uplink", NOW, each)
    assert [each["id"] for each in hand.controls.items(hand.frozen)] == before
    assert hand.known.seen - hand.frozen.seen == 30
    hand.press("p")
    assert hand.controls.frozen is None
    assert hand.keys == [each["id"] for each in reversed(new)] + before


def test_moving_and_opening_goes_on_in_a_picture_that_is_paused():
    hand = Hand("uplinks")
    hand.press("p", "down")
    hand.known.take("uplink", NOW, network.uplink(100, ago=0))
    assert hand.selected == "uplink-2"
    assert hand.press("enter") == [Look(Opened("sensor", "0200000000000009"))]


def test_quitting_and_what_else_is_done_at_once():
    assert Hand().press("q") == [Quit()]
    assert Hand().press("ctrl-c") == [Quit(130)]
    assert Hand().press("ctrl-l") == [Redraw()]
    assert Hand().press("insert", "y", "Z", "0") == []


def test_help_is_put_away_by_any_of_several_keys():
    for key in ("escape", "q", "?", "enter"):
        hand = Hand()
        hand.press("?")
        assert hand.controls.is_helping
        assert (hand.press(key), hand.controls.is_helping) == ([], False)


# --- changes ---


@pytest.mark.parametrize(
    ("view", "key", "method", "eui", "question"),
    [
        ("sensors", "a", "sensors.attach", network.KITCHEN,
         "attach sensor 70B3D59CD0000102 Kitchen? [y/N]"),
        ("sensors", "d", "sensors.detach", network.KITCHEN,
         "detach sensor 70B3D59CD0000102 Kitchen? [y/N]"),
        ("stations", "x", "stations.disconnect", TOWER,
         "disconnect base station 70B3D59CD0000001 Tower? [y/N]"),
    ],
)  # fmt: skip
def test_a_change_is_made_only_after_a_question(view, key, method, eui, question):
    hand = Hand(view, can_operate=True)
    assert hand.press(key) == []
    assert hand.prompt.question == question
    assert hand.press("y") == [Change(method, eui)]
    for no in ("n", "enter", "escape", key):
        assert hand.press(key, no) == []
        assert (hand.controls.message, hand.controls.prompt) == ("nothing was done", None)


def test_without_operate_no_key_changes_anything():
    for view, key in (("sensors", "a"), ("sensors", "d"), ("stations", "x")):
        hand = Hand(view)
        assert hand.press(key, "y") == []
        hand.press(key)
        assert "only with --operate" in hand.controls.message


def test_a_change_of_something_else_is_told():
    hand = Hand("stations", can_operate=True)
    assert hand.press("a", "y") == []
    hand.press("d")
    assert hand.controls.message == "d is for a sensor or a base station that is selected"


# --- commands ---


def test_a_command_is_typed_and_run():
    hand = Hand()
    hand.press(":")
    assert hand.type("sensors lisx") == []
    hand.press("backspace")
    assert hand.press("t", "enter") == [Run("sensors list")]
    assert hand.output.line == "sensors list"


def test_lines_are_edited_as_in_a_shell():
    hand = Hand()
    hand.press(":", *"sensors list kitchen", "ctrl-w")
    assert hand.prompt.text == "sensors list "
    hand.press("ctrl-w", "ctrl-w", "ctrl-w")
    assert hand.prompt.text == ""
    hand.press(*"abc", "ctrl-u", "x", "up-and-away")
    assert hand.prompt.text == "x"
    hand.press("backspace", "backspace")
    assert hand.controls.prompt is None
    hand.press(":", *"x" * 600)
    assert len(hand.prompt.text) == 500


def test_earlier_commands_come_back():
    hand = Hand()
    for line in ("status", "sensors list", "status"):
        hand.press(":", *line, "enter", "escape")
    hand.press(":", "up", "up")
    assert hand.prompt.text == "sensors list"
    hand.press("up", "down")
    assert hand.prompt.text == "status"
    hand.press("down")
    assert hand.prompt.text == ""


def test_q_as_a_command_quits_and_none_does_nothing():
    assert Hand().press(":", "q", "enter") == [Quit()]
    assert Hand().press(":", " ", "enter") == []


def test_putting_away_a_command_that_runs_ends_it():
    for key in ("escape", "q", "ctrl-c"):
        hand = Hand()
        hand.press(":", "x", "enter")
        assert (hand.press(key), hand.controls.output) == ([Stop()], None)


def test_a_command_that_has_ended_is_only_put_away():
    hand = Hand()
    hand.press(":", "x", "enter")
    hand.output.end(0)
    assert hand.press(":") == []
    assert (hand.controls.output, hand.prompt.kind) == (None, ":")


def test_what_a_command_says_is_followed_while_it_runs():
    hand = Hand()
    hand.press(":", "x", "enter")
    assert hand.controls.window(100, 10) == slice(90, 100)
    hand.press("up")
    assert hand.controls.window(120, 10) == slice(89, 99)
    hand.press("G")
    assert hand.controls.window(130, 10) == slice(120, 130)
    hand.press("g", "down")
    hand.output.end(0)
    assert hand.controls.window(130, 10) == slice(1, 11)


def test_what_a_command_has_said_is_read_from_the_beginning():
    hand = Hand()
    hand.press(":", "x", "enter")
    hand.controls.window(100, 10)
    hand.output.end(0)
    assert hand.controls.window(100, 10) == slice(0, 10)


def test_of_too_much_output_the_end_is_kept():
    hand = Hand()
    hand.press(":", "x", "enter")
    for number in range(2100):
        hand.output.say(str(number))
    assert (hand.output.lines[0], len(hand.output.lines)) == ("100", 2000)


def test_scrolling_ends_at_the_ends():
    hand = Hand()
    hand.press("?", "G")
    assert hand.controls.window(30, 10) == slice(20, 30)
    hand.press("up")
    assert hand.controls.window(30, 10) == slice(19, 29)
    hand.press("g", "up")
    assert hand.controls.window(30, 10) == slice(0, 10)
