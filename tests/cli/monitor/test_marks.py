import pytest

from bssci.cli.monitor.marks import Losses, bar, clean, losses, sparkline


@pytest.mark.parametrize(
    ("values", "width", "least", "expected"),
    [
        ([], 5, None, ""),
        ([1, 2, 3], 0, None, ""),
        ([None, None], 5, None, "  "),
        ([0, 0, 0], 5, 0, "▁▁▁"),
        ([0, 0.001, 100], 5, 0, "▁▂█"),
        ([-10, 0, 10], 5, None, "▁▅█"),
        ([1, 2, 3, 4], 2, None, "▁█"),
    ],
)
def test_a_sparkline_shows_the_last_values(values, width, least, expected):
    assert sparkline(values, width, least=least) == expected


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.001, 0.5, 0.999, 1.0, 17.0])
def test_a_bar_is_always_as_wide_as_its_place(share):
    assert len(bar(share, 7)) == 7


def test_what_would_move_the_cursor_is_written_out():
    assert clean("a\x1b[2J\nb\u200b") == "a\\x1b[2J\\x0ab\\x200b"


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ([], Losses(0, 0, 0)),
        ([5], Losses(1, 0, 0)),
        ([5, 5, 6], Losses(2, 0, 0)),
        ([5, 7, 6], Losses(3, 0, 0)),
        ([5, 9, 10, 12], Losses(4, 4, 2)),
        ([5000, 1, 2], Losses(3, 0, 0)),
        ([1, 2, 50_000, 50_001], Losses(4, 0, 0)),
    ],
)
def test_what_nobody_heard_is_counted_and_restarts_are_not(counters, expected):
    assert losses(counters) == expected


def test_the_error_rate_is_not_known_before_something_is_heard():
    assert (losses([]).rate, losses([1, 4]).rate) == (None, 0.5)
