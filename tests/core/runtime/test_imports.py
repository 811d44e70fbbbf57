"""One row of an import, from what it says to its result."""

import pytest

from bssci.core.center.records import Wish
from bssci.core.runtime.imports import ImportedRow
from tests.life_fakes import KEY, NOON, SENSOR, end_point

NAME = "FCA84A030000127C"
WISH = Wish(end_point=end_point(), wanted="detached", cause="command", since_ns=NOON)


def imported(row, known=None, number=7):
    """The result of a row where this was wanted before."""
    read = ImportedRow.of(row, number)
    made = None if read.error else read.wish(known)
    after = known
    if made is not None:
        after = Wish(end_point=made[0], wanted=made[1], cause="import", since_ns=NOON)
    if read.error is None:
        read.decided(known, after)
    return read.shape(), made


def test_a_row_of_an_unknown_sensor_adds_it_and_has_it_attached():
    assert imported({"row": 2, "eui": "fc-a8-4a-03-00-00-12-7c", "nwKey": KEY, "Bidi": "ja"}) == (
        {"row": 2, "eui": NAME, "result": "added", "error": None},
        (end_point(bidi=True), "attached"),
    )


def test_a_row_that_has_no_name_is_named_by_its_number():
    assert imported({"eui": NAME, "key": KEY}, number=12)[0] == {
        "row": 12,
        "eui": NAME,
        "result": "added",
        "error": None,
    }


def test_a_row_of_a_known_sensor_changes_what_it_says_and_nothing_else():
    assert imported({"row": "B7", "eui": NAME, "name": "roof", "wanted": ""}, WISH) == (
        {
            "row": "B7",
            "eui": NAME,
            "result": "updated",
            "changes": {"name": ["", "roof"]},
            "error": None,
        },
        (end_point(name="roof"), "detached"),
    )


def test_a_row_can_say_what_is_wanted():
    assert imported({"row": 1, "eui": NAME, "wanted": "attached"}, WISH) == (
        {
            "row": 1,
            "eui": NAME,
            "result": "updated",
            "changes": {"wanted": ["detached", "attached"]},
            "error": None,
        },
        (end_point(), "attached"),
    )


def test_a_row_that_says_nothing_new_leaves_all_unchanged():
    assert imported({"row": 1, "eui": NAME, "key": KEY, "wanted": "detached"}, WISH)[0] == {
        "row": 1,
        "eui": NAME,
        "result": "unchanged",
        "error": None,
    }


@pytest.mark.parametrize(
    ("row", "eui", "error"),
    [
        (
            {"eui": None, "key": KEY},
            "nothing",
            "found nothing, an EUI of 16 hexadecimal digits is expected",
        ),
        (
            {"eui": "12", "key": KEY},
            "'12'",
            "found '12', an EUI of 16 hexadecimal digits is expected",
        ),
        ({"eui": KEY}, "****", "found ****, an EUI of 16 hexadecimal digits is expected"),
        (
            {"eui": NAME, "key": KEY, "wanted": True},
            NAME,
            'wanted: "attached" or "detached" is expected',
        ),
        ({"eui": NAME, "key": KEY, "error": "no such line"}, NAME, "no such line"),
        (
            {"eui": NAME, "key": KEY[1:], "colour": "red"},
            NAME,
            "key: the key has 31 hexadecimal digits, 32 are expected (16 bytes); "
            "'colour' is no parameter of a sensor",
        ),
        (
            {"eui": NAME, "name": "roof"},
            NAME,
            "the key is missing: 32 hexadecimal digits are expected",
        ),
    ],
)
def test_a_row_that_describes_no_sensor_says_why(row, eui, error):
    shape, made = imported({"row": 3} | row)
    assert shape == {"row": 3, "eui": eui, "result": "error", "error": error}
    assert made is None


def test_a_row_never_shows_its_key():
    assert KEY not in repr(ImportedRow.of({"eui": NAME, "key": KEY}, 1))
    assert ImportedRow.of({"eui": NAME, "key": KEY}, 1).ep_eui == SENSOR
