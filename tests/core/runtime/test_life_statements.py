import contextlib
import logging
import sqlite3
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from bssci.core.center.attachment import Attachment
from bssci.core.center.end_points import EndPoint
from bssci.core.center.records import (
    Episode,
    Hearing,
    Preferred,
    Refused,
    Registration,
    Spread,
    StationRecord,
    Wish,
)
from bssci.core.runtime import life_statements as statements
from bssci.core.runtime.life_statements import Decision, Heard, Notes
from bssci.core.runtime.schema import migrate
from bssci.core.runtime.statements import Tally, _with_rows

BS_EUI = 0xFCA84A0300000001
EP_EUI = 0xFFEEDDCCBBAA9988
WRONG: Any = None  # no bug of ours may keep uplinks from the disk
KEY = bytes.fromhex("A1B2C3D4E5F60718293A4B5C6D7E8F90")

END_POINT = EndPoint(
    eui=EP_EUI,
    nwk_key=KEY,
    short_addr=0x9988,
    bidi=True,
    dual_chan=False,
    repetition=True,
    wide_carr_off=False,
    long_blk_dist=True,
    ota=False,
    name="Zähler 7",
    tags=("keller", "größe"),
    timeout=90.5,
)
WISH = Wish(
    end_point=END_POINT,
    wanted="detached",
    cause="inactivity",
    since_ns=17,
    is_announced=True,
    is_warned=False,
)
HEARING = Hearing(
    uplinks=5,
    last_seen_ns=7,
    last_cnt=3,
    last_snr=1.5,
    last_rssi=-100.25,
    snr=Spread(1.0, -2.0, 3.0, 4.0),
    rssi=Spread(-90.0, -120.0, -80.0, 5.0),
    preferred=Preferred(BS_EUI, 2.5, 6, 4),
    receivers=frozenset({BS_EUI, 2, 1}),
    heard_at=9,
)
REFUSED = Registration(
    bs_eui=BS_EUI, ep_eui=EP_EUI, mark=-(2**63), refused=Refused(110, "no answer", 5)
)
STATION = StationRecord(
    bs_eui=BS_EUI,
    session=KEY,
    since_ns=3,
    address="10.0.0.1",
    name="Dach",
    vendor="v",
    model="m",
    sw_version="1",
    bidi=True,
    position=(48.5, 11.25, 500.0),
    uplinks=6,
)
ATTACHMENT = Attachment(
    ep_eui=EP_EUI,
    attach_cnt=0xFFFFFF,
    nonce=bytes(4),
    sign=b"\xff\x00\x7f\x80",
    nwk_sn_key=bytes(reversed(KEY)),
    short_addr=0xFFFF,
    dual_chan=True,
    repetition=False,
    wide_carr_off=True,
    long_blk_dist=False,
    bs_eui=BS_EUI,
    at_ns=11,
)
EPISODE = Episode(
    ep_eui=EP_EUI, at_ns=4, what="refused", cause="mqtt", bs_eui=BS_EUI, code=28, message="größer"
)


@pytest.fixture
def db(tmp_path):
    path = tmp_path / "bssci.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection, path)
        yield connection


def write(db: sqlite3.Connection, *works: Decision | Notes | Heard) -> None:
    db.execute("BEGIN IMMEDIATE")
    for work in works:
        work.write(db, Tally())
    db.execute("COMMIT")


def decide(
    db: sqlite3.Connection,
    wishes: list[Wish] | None = None,
    forgotten: list[int] | None = None,
    episodes: list[Episode] | None = None,
) -> None:
    write(db, Decision(wishes or [], forgotten or [], episodes or []))


def attach(db: sqlite3.Connection, *attachments: Attachment) -> None:
    wishes = [replace(WISH, end_point=replace(END_POINT, eui=each.ep_eui)) for each in attachments]
    write(db, Decision(wishes, [], [], attachments))


def attachments(db: sqlite3.Connection) -> list[Attachment]:
    return statements.attachments_of(db.execute(statements.ATTACHMENTS, ("", 10**6)).fetchall())


def wishes(count: int) -> list[Wish]:
    return [replace(WISH, end_point=replace(END_POINT, eui=n)) for n in range(count)]


def episode(n: int, ep_eui: int = EP_EUI) -> Episode:
    return Episode(ep_eui=ep_eui, at_ns=n, what="changed")


def history(db: sqlite3.Connection, ep_eui: int = EP_EUI, count: int = 1000) -> list[Episode]:
    rows = db.execute(statements.HISTORY, (f"{ep_eui:016X}", count)).fetchall()
    return statements.episodes_of(rows)


def end_points(db: sqlite3.Connection) -> list[tuple[Wish, Hearing | None]]:
    return statements.end_points_of(db.execute(statements.END_POINTS, ("", 10**6)).fetchall())


def registrations(db: sqlite3.Connection) -> list[Registration]:
    rows = db.execute(statements.REGISTRATIONS, ("", "", 10**6)).fetchall()
    return statements.registrations_of(rows)


def noted(*known: Registration) -> Notes:
    notes = Notes()
    for each in known:
        notes.registrations[each.bs_eui][each.ep_eui] = each
    return notes


# --- what is asked and told --------------------------------------------------------------------

INDEX = {
    "end_points": "end_points USING PRIMARY KEY",
    "registrations": "registrations USING PRIMARY KEY",
    "silence_clocks": "silence_clocks USING PRIMARY KEY",
    "history": "history_end_point (ep_eui=?",
    "attachments": "attachments USING PRIMARY KEY",
    "former": "sqlite_autoindex_former_end_points_1 (ep_eui=?)",
}


@pytest.mark.parametrize(
    ("sql", "width", "found_by"),
    [
        (statements.END_POINTS, 0, ["end_points"]),
        (statements.ATTACHMENTS, 0, ["attachments"]),
        (statements.REGISTRATIONS, 0, ["registrations"]),
        (statements.HISTORY, 0, ["history"]),
        (statements._FORGET, 1, ["end_points"]),
        (statements._FORGET_ATTACHMENTS, 1, ["attachments"]),
        (statements._SET_FLAGS, 3, ["end_points"]),
        (statements._SAVE_HEARINGS, 20, ["end_points"]),
        (statements._FORGET_CLOCKS, 1, ["silence_clocks"]),
        (statements._CLEAR_REGISTRATIONS, 1, ["registrations"]),
        (statements._ADD_EPISODES, 7, ["end_points", "former"]),
        (statements._PRUNE_EPISODES, 1, ["history"]),
        (statements._DROP_FORMER, 1, ["former"]),
        (statements._PRUNE_HISTORIES, 0, ["history"]),
    ],
)
def test_no_statement_walks_a_table_for_a_few_of_its_rows(db, sql, width, found_by):
    sql = _with_rows(sql, 2, width) if width else sql
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", ("",) * sql.count("?"))]
    assert [table for table in found_by if not any(INDEX[table] in step for step in plan)] == []
    tables = "end_points", "attachments", "registrations", "silence_clocks", "history", "old"
    assert [step for step in plan if step.removeprefix("SCAN ") in tables] == []


def test_registrations_that_are_gone_are_found_by_an_index_that_is_empty_otherwise(db):
    sql = statements._FORGET_REGISTRATIONS
    assert [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}")] == [
        "SCAN registrations USING INDEX registrations_gone"
    ]


def test_ten_thousand_end_points_are_decided_upon_in_few_statements(db):
    run: list[str] = []
    many = wishes(10_000)
    db.set_trace_callback(run.append)
    decide(db, many, episodes=[episode(1, wish.end_point.eui) for wish in many])
    db.set_trace_callback(None)
    assert len(run) < 4 * 42
    assert end_points(db) == [(wish, None) for wish in many]
    decide(db, forgotten=[wish.end_point.eui for wish in many])
    assert end_points(db) == []


def test_an_attachment_comes_back_whole_and_the_last_one_counts(db):
    attach(db, replace(ATTACHMENT, at_ns=10), replace(ATTACHMENT, ep_eui=1))
    attach(db, ATTACHMENT)
    assert attachments(db) == [replace(ATTACHMENT, ep_eui=1), ATTACHMENT]


@pytest.mark.parametrize("gone", [{"forgotten": [EP_EUI]}, {"voided": [EP_EUI]}])
def test_an_attachment_goes_with_its_end_point_or_its_key(db, gone):
    other = replace(ATTACHMENT, ep_eui=1)
    attach(db, ATTACHMENT, other)
    nothing: dict[str, list[Any]] = {"wishes": [], "forgotten": [], "episodes": []}
    write(db, Decision(**nothing | gone))
    assert attachments(db) == [other]


def test_an_attachment_may_follow_one_that_holds_no_more(db):
    attach(db, replace(ATTACHMENT, at_ns=10))
    write(db, Decision([], [], [], [ATTACHMENT], [EP_EUI]))
    assert attachments(db) == [ATTACHMENT]


def test_what_a_base_station_may_hold_can_be_part_of_a_decision(db):
    write(db, noted(replace(REFUSED, mark=1)))
    write(db, Decision([], [], [], registrations=[REFUSED]))
    assert registrations(db) == [REFUSED]


@pytest.mark.parametrize("count", [1, 33, 4096, 5000])
def test_any_number_of_notes_is_written_whole(db, count):
    known = [Registration(bs_eui=n % 3, ep_eui=n, mark=n) for n in range(count)]
    write(db, noted(*known))
    assert registrations(db) == sorted(known, key=lambda each: (each.bs_eui, each.ep_eui))


# --- values come back as they were --------------------------------------------------------------


def test_an_end_point_comes_back_whole(db):
    plain = Wish(
        end_point=EndPoint(eui=1, nwk_key=KEY, short_addr=1),
        wanted="attached",
        cause="command",
        since_ns=1,
    )
    decide(db, [WISH, plain])
    assert end_points(db) == [(plain, None), (WISH, None)]


@pytest.mark.parametrize(
    "hearing", [HEARING, replace(HEARING, uplinks=0, last_seen_ns=0, receivers=frozenset())]
)
def test_what_was_heard_comes_back_whole(db, hearing):
    decide(db, [WISH])
    write(db, Heard({EP_EUI: hearing, 5: hearing}, {}, 12))
    assert end_points(db) == [(WISH, hearing)]
    assert db.execute(statements.HEARD_THROUGH).fetchall() == [(12,)]


def test_a_new_wish_leaves_what_was_heard(db):
    decide(db, [WISH])
    write(db, Heard({EP_EUI: HEARING}))
    new = replace(WISH, wanted="attached", end_point=replace(END_POINT, name="", timeout=None))
    decide(db, [new])
    assert end_points(db) == [(new, HEARING)]


@pytest.mark.parametrize(
    "known",
    [
        Registration(bs_eui=BS_EUI, ep_eui=EP_EUI, mark=2**63 - 1),
        REFUSED,
        replace(REFUSED, mark=None),
    ],
)
def test_a_registration_comes_back_whole(db, known):
    write(db, noted(known))
    assert registrations(db) == [known]


def test_a_registration_that_says_nothing_is_deleted_alone(db):
    other = replace(REFUSED, bs_eui=1)
    write(db, noted(REFUSED, other))
    write(db, noted(Registration(bs_eui=BS_EUI, ep_eui=EP_EUI, mark=None)))
    assert registrations(db) == [other]


@pytest.mark.parametrize("record", [STATION, StationRecord(bs_eui=1, session=b"", since_ns=2)])
def test_a_base_station_comes_back_whole(db, record):
    write(db, Notes(stations={9: replace(STATION, bs_eui=record.bs_eui, uplinks=1)}))
    write(db, Notes(stations={9: record}))
    assert statements.stations_of(db.execute(statements.BASE_STATIONS).fetchall()) == [record]


def test_clocks_come_back_and_go(db):
    one, two, none = frozenset({BS_EUI, 1}), frozenset({2}), frozenset[int]()
    write(db, Heard(clocks={one: 5, two: 6, none: 7}))
    write(db, Heard(clocks={one: 8, two: None}))
    found = statements.clocks_of(db.execute(statements.CLOCKS).fetchall())
    assert found == {one: 8, none: 7}


def test_an_episode_comes_back_whole(db):
    decide(db, [WISH], episodes=[EPISODE, episode(2)])
    assert history(db) == [episode(2), EPISODE]


def test_flags_are_those_of_an_end_point_that_is_known(db):
    decide(db, [WISH])
    write(db, Notes(flags={EP_EUI: (False, True), 1: (True, True)}))
    assert end_points(db) == [(replace(WISH, is_announced=False, is_warned=True), None)]


def test_how_far_is_heard_never_goes_back(db):
    write(db, Heard(through=9))
    write(db, Heard(through=8))
    assert db.execute(statements.HEARD_THROUGH).fetchall() == [(9,)]


# --- the history has bounds ----------------------------------------------------------------------


def test_only_the_newest_of_a_history_are_kept(db):
    decide(db, [*wishes(1), WISH], episodes=[episode(n) for n in range(98)])
    decide(db, episodes=[episode(0, 0)])
    for n in range(98, 103):
        write(db, Notes(episodes=deque([episode(n)])))
    assert history(db) == [episode(n) for n in range(102, 2, -1)]
    assert history(db, count=2) == [episode(102), episode(101)]
    decide(db, episodes=[episode(n) for n in range(1000, 1250)])
    assert history(db) == [episode(n) for n in range(1249, 1149, -1)]
    assert history(db, 0) == [episode(0, 0)]


def test_what_happens_to_nobody_is_not_kept(db):
    decide(db, episodes=[episode(1)])
    assert history(db) == []


def test_the_history_of_those_forgotten_last_stays(db, monkeypatch):
    monkeypatch.setattr(statements, "KEPT_FORMER", 2)
    decide(db, wishes(4), episodes=[episode(1, ep_eui) for ep_eui in range(4)])
    decide(db, forgotten=[0], episodes=[episode(2, 0)])
    decide(db, forgotten=[1])
    write(db, Notes(episodes=deque([episode(3, 0), episode(3, 1)])))
    assert history(db, 0) == [episode(n, 0) for n in (3, 2, 1)]
    decide(db, forgotten=[2])
    write(db, Notes(episodes=deque([episode(4, 0)])))
    assert [len(history(db, ep_eui)) for ep_eui in range(4)] == [0, 2, 1, 1]


def test_an_end_point_that_came_back_keeps_its_history(db, monkeypatch):
    monkeypatch.setattr(statements, "KEPT_FORMER", 1)
    decide(db, wishes(3), episodes=[episode(1, 0)])
    decide(db, forgotten=[0])
    decide(db, wishes(1))
    decide(db, forgotten=[1])
    decide(db, forgotten=[2])
    assert history(db, 0) == [episode(1, 0)]


def test_who_is_forgotten_and_wanted_at_once_begins_anew(db):
    decide(db, [WISH], episodes=[episode(1)])
    write(db, Heard({EP_EUI: HEARING}))
    decide(db, [WISH], [EP_EUI], [episode(2)])
    assert end_points(db) == [(WISH, None)]
    assert history(db) == [episode(2), episode(1)]


def test_forgetting_leaves_what_base_stations_confirmed(db):
    decide(db, [WISH])
    write(db, noted(REFUSED))
    decide(db, forgotten=[EP_EUI])
    assert registrations(db) == [REFUSED]


# --- what cannot be stored or read ---------------------------------------------------------------


@pytest.mark.parametrize(
    "notes",
    [
        noted(replace(REFUSED, mark=2**63)),
        noted(replace(REFUSED, refused=Refused(1, "\ud800", 1))),
        Notes(stations={BS_EUI: replace(STATION, session=WRONG)}),
        Notes(stations={BS_EUI: replace(STATION, since_ns=WRONG)}),
        Notes(flags={EP_EUI: (WRONG, WRONG)}),
        Notes(episodes=deque([replace(EPISODE, message=WRONG)])),
        Heard({EP_EUI: replace(HEARING, uplinks=2**64)}, {}, 9),
    ],
)
def test_what_cannot_be_stored_is_given_up_and_the_rest_is_written(db, notes, caplog):
    decide(db, [WISH])
    good = replace(REFUSED, bs_eui=1)
    write(db, notes, noted(good))
    assert "is given up" in caplog.text
    assert (registrations(db), end_points(db)) == ([good], [(WISH, None)])
    assert db.execute(statements.HEARD_THROUGH).fetchall() == [(0,)]


@pytest.mark.parametrize(
    "damage",
    ["nwk_key = x'A1B2C3'", "wanted = 'somewhere'", "tags = '['", "tags = '1'", "ep_eui = 'FX'"],
)
def test_an_end_point_that_cannot_be_read_is_left_out_and_its_key_not_shown(db, damage, caplog):
    decide(db, [*wishes(1), WISH])
    db.execute(f"UPDATE end_points SET {damage} WHERE ep_eui > '0000000000000000'")
    assert end_points(db) == [(wishes(1)[0], None)]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "a1b2c3" not in record.getMessage().lower()


@pytest.mark.parametrize("damage", ["nwk_sn_key = x'A1B2C3'", "bs_eui = 'X'", "ep_eui = 'FX'"])
def test_an_attachment_that_cannot_be_read_is_left_out_and_its_key_not_shown(db, damage, caplog):
    other = replace(ATTACHMENT, ep_eui=1)
    attach(db, ATTACHMENT, other)
    db.execute(f"UPDATE attachments SET {damage} WHERE ep_eui > '1'")
    assert attachments(db) == [other]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "a1b2c3" not in record.getMessage().lower()


@pytest.mark.parametrize(
    "damage", ["uplinks = NULL", "heard_at = NULL", "receivers = 'x'", "preferred_bs_eui = ''"]
)
def test_hearing_that_cannot_be_read_does_not_cost_the_end_point(db, damage, caplog):
    decide(db, [WISH])
    write(db, Heard({EP_EUI: HEARING}))
    db.execute(f"UPDATE end_points SET {damage}")
    assert end_points(db) == [(WISH, None)]
    assert "what was heard of end point FFEEDDCCBBAA9988" in caplog.text


def test_rows_of_other_tables_that_cannot_be_read_are_left_out(db, caplog):
    decide(db, [WISH], episodes=[EPISODE, EPISODE])
    write(db, noted(REFUSED, replace(REFUSED, ep_eui=1)), Heard(clocks={frozenset({1}): 1}))
    write(db, Notes(stations={1: STATION, 2: replace(STATION, bs_eui=2)}))
    db.execute("UPDATE registrations SET ep_eui = '' WHERE ep_eui > '1'")
    db.execute("UPDATE base_stations SET bs_eui = '' WHERE bs_eui > '1'")
    db.execute("UPDATE history SET bs_eui = 'X' WHERE id = 1")
    db.execute("INSERT INTO silence_clocks VALUES ('1 X', 1)")
    assert registrations(db) == [replace(REFUSED, ep_eui=1)]
    stations = statements.stations_of(db.execute(statements.BASE_STATIONS).fetchall())
    assert stations == [replace(STATION, bs_eui=2)]
    assert history(db) == [EPISODE]
    clocks = statements.clocks_of(db.execute(statements.CLOCKS).fetchall())
    assert clocks == {frozenset({1}): 1}
    assert len(caplog.records) == 4
