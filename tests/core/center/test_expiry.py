from bssci.core.center.expiry import Alarm, Told, alarms, summary

FILE, END = "certs/sc.pem", 1_800_000_000.0


def fact(days, *, file=FILE, end=END):
    return {"file": file, "subject": "CN=sc", "names": [], "not_after": end, "days": days}


def alarm(days, threshold, file=FILE):
    return Alarm(file, "CN=sc", days, threshold)


def watched(*days, end=END):
    """What is told on days with so many left, one after the other."""
    told: Told = {}
    said = []
    for left in days:
        due, told = alarms([fact(left, end=end)], told)
        said.append(due)
    return said


def test_each_threshold_is_told_once_and_below_it():
    assert watched(31, 30, 29, 29, 8, 7, 6, 6, 1, 0, 0, -1, -2) == [
        [],
        [],
        [alarm(29, 30)],
        [],
        [],
        [],
        [alarm(6, 7)],
        [],
        [],
        [alarm(0, 1)],
        [],
        [alarm(-1, 0)],
        [],
    ]


def test_of_several_thresholds_that_are_passed_at_once_the_smallest_is_told():
    assert watched(40, 3, 20) == [[], [alarm(3, 7)], []]


def test_a_renewed_certificate_is_told_again_and_the_old_one_is_forgotten():
    due, told = alarms([fact(5)], {})
    assert (due, told) == ([alarm(5, 7)], {(FILE, END): 7})
    due, told = alarms([fact(800, end=END + 1)], told)
    assert (due, told) == ([], {})
    due, told = alarms([fact(6, end=END + 1)], told)
    assert (due, told) == ([alarm(6, 7)], {(FILE, END + 1): 7})


def test_each_certificate_is_told_for_itself():
    facts = [fact(5), fact(20, file="certs/ca.pem"), fact(100, file="certs/other.pem")]
    assert alarms(facts, {})[0] == [alarm(5, 7), alarm(20, 30, "certs/ca.pem")]


def test_a_certificate_that_cannot_be_read_is_left_out():
    broken = fact(None, end=None)
    assert alarms([broken], {}) == ([], {})
    assert summary([broken]) == {"expires_in_days": None, "alarm": None}
    assert summary([]) == {"expires_in_days": None, "alarm": None}


def test_the_summary_is_about_the_one_that_expires_first():
    assert summary([fact(100), fact(40)]) == {"expires_in_days": 40, "alarm": None}
    assert summary([fact(100), fact(29)]) == {"expires_in_days": 29, "alarm": 30}
    assert summary([fact(-3)]) == {"expires_in_days": -3, "alarm": 0}


def test_the_last_day_is_urgent():
    assert [alarm(0, each).is_urgent for each in (30, 7, 1, 0)] == [False, False, True, True]


def test_an_event_carries_what_is_known():
    assert alarm(6, 7).data() == {
        "event": "certificate",
        "file": FILE,
        "subject": "CN=sc",
        "days": 6,
        "threshold": 7,
    }
