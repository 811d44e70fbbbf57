"""All SQL of the end points' life: queries, what is written of it, and what a row means.

A statement carries many rows here too; the reason is in `statements`. A set of base stations is
written as their EUIs in order, with a space between.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

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
from bssci.core.runtime.statements import eui_text, execute_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bssci.core.runtime.statements import Row, Tally

__all__ = [
    "ATTACHMENTS",
    "BASE_STATIONS",
    "CLOCKS",
    "END_POINTS",
    "HEARD_THROUGH",
    "HISTORY",
    "REGISTRATIONS",
    "Decision",
    "Heard",
    "Notes",
    "attachments_of",
    "clocks_of",
    "end_points_of",
    "episodes_of",
    "registrations_of",
    "stations_of",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEPT_EPISODES = 100
# Of one end point: years of a quiet life, and a day of one that a base station refuses and is told
# again every hour, with room for what matters. Ten thousand end points have 100 MB of it at most.
KEPT_FORMER = 10_000
# End points that were forgotten last and whose history is still there: all of the largest
# installation we are built for, so that one who clears it and takes that back finds everything.
PART = 4096
# Rows made for statements at once: what waits does not stand in memory twice, however much it is.
KEY_OCTETS = 16

_FLAGS = "bidi", "dual_chan", "repetition", "wide_carr_off", "long_blk_dist", "ota"
_WISH = (
    *("ep_eui", "nwk_key", "short_addr", *_FLAGS, "name", "tags", "timeout"),
    *("wanted", "cause", "since_ns", "is_announced", "is_warned"),
)
_HEARING = (
    *("uplinks", "last_seen_ns", "last_cnt", "last_snr", "last_rssi"),
    *("snr_mean", "snr_least", "snr_most", "snr_squares"),
    *("rssi_mean", "rssi_least", "rssi_most", "rssi_squares"),
    *("preferred_bs_eui", "preferred_snr", "preferred_ns", "preferred_messages"),
    *("receivers", "heard_at"),
)
_REGISTRATION = "bs_eui, ep_eui, mark, code, message, at_ns"
_STATION = """
    bs_eui, session, since_ns, address, name, vendor, model, sw_version, bidi,
    latitude, longitude, altitude, uplinks
"""
_EPISODE = "ep_eui, at_ns, what, cause, bs_eui, code, message"
_RADIO = "dual_chan", "repetition", "wide_carr_off", "long_blk_dist"
_ATTACHMENT = (
    *("ep_eui", "attach_cnt", "nonce", "sign", "nwk_sn_key", "short_addr", *_RADIO),
    *("bs_eui", "at_ns"),
)

# --- asking -------------------------------------------------------------------------------------

END_POINTS = f"""
    SELECT {", ".join(_WISH + _HEARING)} FROM end_points
    WHERE ep_eui > ? ORDER BY ep_eui LIMIT ?
"""
REGISTRATIONS = f"""
    SELECT {_REGISTRATION} FROM registrations
    WHERE (bs_eui, ep_eui) > (?, ?) ORDER BY bs_eui, ep_eui LIMIT ?
"""
ATTACHMENTS = f"""
    SELECT {", ".join(_ATTACHMENT)} FROM attachments WHERE ep_eui > ? ORDER BY ep_eui LIMIT ?
"""
BASE_STATIONS = f"SELECT {_STATION} FROM base_stations ORDER BY bs_eui"
CLOCKS = "SELECT receivers, watched_ns FROM silence_clocks"
HEARD_THROUGH = "SELECT heard_through FROM store"
HISTORY = f"""
    SELECT {_EPISODE} FROM history INDEXED BY history_end_point
    WHERE ep_eui = ? ORDER BY id DESC LIMIT ?
"""

# --- telling ------------------------------------------------------------------------------------

# What was learned by hearing the end point stays.
_SAVE_WISHES = f"""
    INSERT INTO end_points ({", ".join(_WISH)}) VALUES {{rows}}
    ON CONFLICT (ep_eui) DO UPDATE
    SET {", ".join(f"{column} = excluded.{column}" for column in _WISH[1:])}
"""
_FORGET = "DELETE FROM end_points WHERE ep_eui IN (VALUES {rows})"
_SAVE_ATTACHMENTS = f"""
    INSERT OR REPLACE INTO attachments ({", ".join(_ATTACHMENT)}) VALUES {{rows}}
"""
_FORGET_ATTACHMENTS = "DELETE FROM attachments WHERE ep_eui IN (VALUES {rows})"
_SET_FLAGS = """
    WITH told (ep_eui, is_announced, is_warned) AS (VALUES {rows})
    UPDATE end_points SET is_announced = told.is_announced, is_warned = told.is_warned
    FROM told WHERE end_points.ep_eui = told.ep_eui
"""
_SAVE_HEARINGS = f"""
    WITH heard ({", ".join(("ep_eui", *_HEARING))}) AS (VALUES {{rows}})
    UPDATE end_points SET {", ".join(f"{column} = heard.{column}" for column in _HEARING)}
    FROM heard WHERE end_points.ep_eui = heard.ep_eui
"""
_SET_HEARD_THROUGH = "UPDATE store SET heard_through = max(heard_through, ?)"
_SAVE_CLOCKS = "INSERT OR REPLACE INTO silence_clocks (receivers, watched_ns) VALUES {rows}"
_FORGET_CLOCKS = "DELETE FROM silence_clocks WHERE receivers IN (VALUES {rows})"
_SAVE_REGISTRATIONS = f"INSERT OR REPLACE INTO registrations ({_REGISTRATION}) VALUES {{rows}}"
# Those that say nothing any more are saved like all others, and found by their index.
_FORGET_REGISTRATIONS = """
    DELETE FROM registrations INDEXED BY registrations_gone WHERE mark IS NULL AND code IS NULL
"""
_CLEAR_REGISTRATIONS = "DELETE FROM registrations WHERE bs_eui IN (VALUES {rows})"
_SAVE_STATIONS = f"INSERT OR REPLACE INTO base_stations ({_STATION}) VALUES {{rows}}"
# Without this the table would grow by what happens to end points that nobody has.
_ADD_EPISODES = f"""
    INSERT INTO history ({_EPISODE})
    SELECT * FROM (VALUES {{rows}}) AS episode
    WHERE EXISTS (SELECT 1 FROM end_points WHERE ep_eui = episode.column1)
        OR EXISTS (SELECT 1 FROM former_end_points WHERE ep_eui = episode.column1)
"""
# For each end point a walk along the index, no further than what is kept of it.
_PRUNE_EPISODES = f"""
    DELETE FROM history WHERE id IN (
        SELECT old.id FROM (VALUES {{rows}}) AS written
        CROSS JOIN history AS old INDEXED BY history_end_point
        ON old.ep_eui = written.column1 AND old.id <= (
            SELECT id FROM history INDEXED BY history_end_point
            WHERE ep_eui = written.column1 ORDER BY id DESC LIMIT 1 OFFSET {KEPT_EPISODES}
        )
    )
"""
_ADD_FORMER = "INSERT OR REPLACE INTO former_end_points (ep_eui) VALUES {rows}"
_DROP_FORMER = "DELETE FROM former_end_points WHERE ep_eui IN (VALUES {rows})"
_LONG_GONE = "FROM former_end_points ORDER BY id DESC LIMIT -1 OFFSET ?"
_PRUNE_HISTORIES = f"DELETE FROM history WHERE ep_eui IN (SELECT ep_eui {_LONG_GONE})"
_PRUNE_FORMER = f"DELETE FROM former_end_points WHERE id IN (SELECT id {_LONG_GONE})"

UNSTORABLE = (
    ValueError,
    TypeError,
    OverflowError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What a value that SQLite cannot hold is refused with; the transaction can go on."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is wanted from now on."""

    wishes: Sequence[Wish]
    forgotten: Sequence[int]
    """Before the wishes: an end point that is among both begins anew."""
    episodes: Sequence[Episode]
    attachments: Sequence[Attachment] = ()
    voided: Sequence[int] = ()
    """End points whose attachment holds no more."""
    registrations: Sequence[Registration] = ()

    def write(self, db: sqlite3.Connection, _: Tally) -> None:
        gone = [(eui_text(ep_eui),) for ep_eui in (*self.forgotten, *self.voided)]
        _execute_all(db, _FORGET_ATTACHMENTS, gone)
        if self.forgotten:
            euis = [(eui_text(ep_eui),) for ep_eui in self.forgotten]
            execute_rows(db, _FORGET, euis)
            execute_rows(db, _ADD_FORMER, euis)
            for prune in (_PRUNE_HISTORIES, _PRUNE_FORMER):
                db.execute(prune, (KEPT_FORMER,))
        execute_rows(db, _DROP_FORMER, [(eui_text(wish.end_point.eui),) for wish in self.wishes])
        _execute_all(db, _SAVE_WISHES, map(_wish_row, self.wishes))
        _execute_all(db, _SAVE_ATTACHMENTS, map(_attachment_row, self.attachments))
        _execute_all(db, _SAVE_REGISTRATIONS, map(_registration_row, self.registrations))
        _add_episodes(db, self.episodes)


@dataclass(slots=True)
class Notes:
    """What was learned and waits to be written; of each thing the newest."""

    cleared: set[int] = field(default_factory=set)
    """Base stations whose registrations are forgotten, before those that follow."""
    registrations: defaultdict[int, dict[int, Registration]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    """By base station and end point."""
    stations: dict[int, StationRecord] = field(default_factory=dict)
    flags: dict[int, tuple[bool, bool]] = field(default_factory=dict)
    """`is_announced` and `is_warned`, by end point."""
    episodes: deque[Episode] = field(default_factory=deque)

    def write(self, db: sqlite3.Connection, _: Tally) -> None:
        """What cannot be stored is given up: it must not keep uplinks from the disk for ever."""
        for part in (
            self._write_registrations,
            self._write_stations,
            self._write_flags,
            self._write_episodes,
        ):
            _or_give_up(part, db)

    def _write_registrations(self, db: sqlite3.Connection) -> None:
        _execute_all(db, _CLEAR_REGISTRATIONS, ((eui_text(bs_eui),) for bs_eui in self.cleared))
        _execute_all(db, _SAVE_REGISTRATIONS, _registration_rows(self.registrations))
        known = chain.from_iterable(each.values() for each in self.registrations.values())
        if any(map(_says_nothing, known)):
            db.execute(_FORGET_REGISTRATIONS)

    def _write_stations(self, db: sqlite3.Connection) -> None:
        _execute_all(db, _SAVE_STATIONS, map(_station_row, self.stations.values()))

    def _write_flags(self, db: sqlite3.Connection) -> None:
        flags = ((eui_text(ep_eui), *told) for ep_eui, told in self.flags.items())
        _execute_all(db, _SET_FLAGS, flags)

    def _write_episodes(self, db: sqlite3.Connection) -> None:
        _add_episodes(db, self.episodes)

    def put_before(self, older: Notes) -> None:
        """Take up again what could not be written, but for what is newer here."""
        for bs_eui, registrations in self.registrations.items():
            if bs_eui in self.cleared:
                older.registrations[bs_eui] = registrations
            else:
                older.registrations[bs_eui].update(registrations)
        for bs_eui in self.cleared - self.registrations.keys():
            older.registrations.pop(bs_eui, None)
        self.registrations = older.registrations
        self.cleared |= older.cleared
        self.stations = older.stations | self.stations
        self.flags = older.flags | self.flags
        self.episodes.extendleft(reversed(older.episodes))


@dataclass(slots=True)
class Heard:
    """What was learned from all uplinks up to one; written as a whole."""

    hearings: dict[int, Hearing] = field(default_factory=dict)
    clocks: dict[frozenset[int], int | None] = field(default_factory=dict)
    """Readings; None: nobody goes by this clock any more."""
    through: int = 0

    def __bool__(self) -> bool:
        return bool(self.hearings or self.clocks or self.through)

    def write(self, db: sqlite3.Connection, _: Tally) -> None:
        """What cannot be stored is given up, as in `Notes`."""
        _or_give_up(self._write, db)

    def _write(self, db: sqlite3.Connection) -> None:
        _execute_all(db, _SAVE_HEARINGS, (_hearing_row(*each) for each in self.hearings.items()))
        _execute_all(db, _SAVE_CLOCKS, _clock_rows(self.clocks))
        gone = ((_receivers_text(clock),) for clock, ns in self.clocks.items() if ns is None)
        _execute_all(db, _FORGET_CLOCKS, gone)
        if self.through:
            db.execute(_SET_HEARD_THROUGH, (self.through,))

    def put_before(self, older: Heard) -> None:
        """Take up again what could not be written, but for what is newer here."""
        self.hearings = older.hearings | self.hearings
        self.clocks = older.clocks | self.clocks
        self.through = max(older.through, self.through)


def _says_nothing(registration: Registration) -> bool:
    return registration.mark is None and registration.refused is None


def _or_give_up(write: Callable[[sqlite3.Connection], None], db: sqlite3.Connection) -> None:
    try:
        write(db)
    except UNSTORABLE:
        logger.exception("what was learned of end points cannot be stored and is given up")


def _add_episodes(db: sqlite3.Connection, episodes: Iterable[Episode]) -> None:
    rows = [_episode_row(episode) for episode in episodes]
    execute_rows(db, _ADD_EPISODES, rows)
    execute_rows(db, _PRUNE_EPISODES, list(dict.fromkeys((row[0],) for row in rows)))


def _execute_all(db: sqlite3.Connection, sql: str, rows: Iterable[Row]) -> None:
    left = iter(rows)
    while part := list(islice(left, PART)):
        execute_rows(db, sql, part)


# --- rows of what is stored ---------------------------------------------------------------------


_flags_of = attrgetter(*_FLAGS)
_radio_of = attrgetter(*_RADIO)


def _wish_row(wish: Wish) -> Row:
    end_point = wish.end_point
    return (
        eui_text(end_point.eui),
        end_point.nwk_key,
        end_point.short_addr,
        *_flags_of(end_point),
        end_point.name,
        _tags_text(end_point.tags),
        end_point.timeout,
        wish.wanted,
        wish.cause,
        wish.since_ns,
        wish.is_announced,
        wish.is_warned,
    )


def _attachment_row(attachment: Attachment) -> Row:
    return (
        eui_text(attachment.ep_eui),
        attachment.attach_cnt,
        attachment.nonce,
        attachment.sign,
        attachment.nwk_sn_key,
        attachment.short_addr,
        *_radio_of(attachment),
        eui_text(attachment.bs_eui),
        attachment.at_ns,
    )


def _hearing_row(ep_eui: int, hearing: Hearing) -> Row:
    snr, rssi, preferred = hearing.snr, hearing.rssi, hearing.preferred
    return (
        eui_text(ep_eui),
        hearing.uplinks,
        hearing.last_seen_ns,
        hearing.last_cnt,
        hearing.last_snr,
        hearing.last_rssi,
        *(snr.mean, snr.least, snr.most, snr.squares),
        *(rssi.mean, rssi.least, rssi.most, rssi.squares),
        eui_text(preferred.bs_eui),
        preferred.snr,
        preferred.updated_ns,
        preferred.messages,
        _receivers_text(hearing.receivers),
        hearing.heard_at,
    )


def _registration_row(known: Registration) -> Row:
    (row,) = _registration_rows({known.bs_eui: {known.ep_eui: known}})
    return row


def _registration_rows(stations: Mapping[int, Mapping[int, Registration]]) -> Iterator[Row]:
    for bs_eui, registrations in stations.items():
        bs_text = eui_text(bs_eui)
        for ep_eui, known in registrations.items():
            if (refused := known.refused) is None:
                yield (bs_text, f"{ep_eui:016X}", known.mark, None, None, None)
            else:
                told = refused.code, refused.message, refused.at_ns
                yield (bs_text, f"{ep_eui:016X}", known.mark, *told)


def _clock_rows(clocks: Mapping[frozenset[int], int | None]) -> Iterator[Row]:
    return ((_receivers_text(clock), ns) for clock, ns in clocks.items() if ns is not None)


def _station_row(record: StationRecord) -> Row:
    return (
        eui_text(record.bs_eui),
        record.session,
        record.since_ns,
        record.address,
        record.name,
        record.vendor,
        record.model,
        record.sw_version,
        record.bidi,
        *(record.position or (None, None, None)),
        record.uplinks,
    )


def _episode_row(episode: Episode) -> Row:
    return (
        eui_text(episode.ep_eui),
        episode.at_ns,
        episode.what,
        episode.cause,
        None if episode.bs_eui is None else eui_text(episode.bs_eui),
        episode.code,
        episode.message,
    )


@lru_cache(maxsize=1024)
def _tags_text(tags: tuple[str, ...]) -> str:
    return json.dumps(tags)


# Most end points are heard by the same few sets of base stations.
@lru_cache(maxsize=4096)
def _receivers_text(receivers: frozenset[int]) -> str:
    return " ".join(map(eui_text, sorted(receivers)))


# --- what rows mean -----------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _receivers_of(text: str) -> frozenset[int]:
    return frozenset(int(eui, 16) for eui in text.split(" ") if eui)


def end_points_of(rows: Sequence[Row]) -> list[tuple[Wish, Hearing | None]]:
    """End points; one that cannot be read is logged and left out, and so is what was heard."""
    return _readable(_end_point_of, rows, "end point")


def attachments_of(rows: Sequence[Row]) -> list[Attachment]:
    """Attachments over the air; one that cannot be read is logged and left out."""
    return _readable(_attachment_of, rows, "attachment of end point")


def registrations_of(rows: Sequence[Row]) -> list[Registration]:
    """Registrations; one that cannot be read is logged and left out."""
    return _readable(_registration_of, rows, "registration at base station")


def stations_of(rows: Sequence[Row]) -> list[StationRecord]:
    """Base stations; one that cannot be read is logged and left out."""
    return _readable(_station_of, rows, "base station")


def clocks_of(rows: Sequence[Row]) -> dict[frozenset[int], int]:
    """Clocks of silence; one that cannot be read is logged and left out."""
    return dict(_readable(_clock_of, rows, "silence clock of"))


def episodes_of(rows: Sequence[Row]) -> list[Episode]:
    """Lines of a history; one that cannot be read is logged and left out."""
    return _readable(_episode_of, rows, "an episode of")


def _readable(convert: Callable[[Row], T], rows: Sequence[Row], what: str) -> list[T]:
    found = []
    for row in rows:
        try:
            found.append(convert(row))
        except (ValueError, TypeError) as error:
            logger.warning("stored, but not to be read: %s %s: %s", what, row[0], error)
    return found


def _end_point_of(row: Row) -> tuple[Wish, Hearing | None]:
    columns = dict(zip(_WISH, row, strict=False))
    if columns["wanted"] not in {"attached", "detached"}:
        raise ValueError(f"it is to be {columns['wanted']!r}")
    wish = Wish(
        end_point=_definition_of(columns),
        wanted=columns["wanted"],
        cause=columns["cause"],
        since_ns=columns["since_ns"],
        is_announced=bool(columns["is_announced"]),
        is_warned=bool(columns["is_warned"]),
    )
    heard = row[len(_WISH) :]
    if all(value is None for value in heard):
        return wish, None
    hearings = _readable(_hearing_of, [(row[0], *heard)], "what was heard of end point")
    return wish, hearings[0] if hearings else None


def _definition_of(columns: Mapping[str, Any]) -> EndPoint:
    if len(columns["nwk_key"]) != KEY_OCTETS:
        raise ValueError(f"its key has {len(columns['nwk_key'])} octets")
    return EndPoint(
        eui=int(columns["ep_eui"], 16),
        nwk_key=columns["nwk_key"],
        short_addr=columns["short_addr"],
        **{flag: bool(columns[flag]) for flag in _FLAGS},
        name=columns["name"],
        tags=tuple(json.loads(columns["tags"])),
        timeout=columns["timeout"],
    )


def _attachment_of(row: Row) -> Attachment:
    columns = dict(zip(_ATTACHMENT, row, strict=True))
    if len(columns["nwk_sn_key"]) != KEY_OCTETS:
        raise ValueError(f"its session key has {len(columns['nwk_sn_key'])} octets")
    euis = {name: int(columns[name], 16) for name in ("ep_eui", "bs_eui")}
    return Attachment(**columns | euis | {name: bool(columns[name]) for name in _RADIO})


def _hearing_of(row: Row) -> Hearing:
    if None in row:
        raise ValueError("it is not whole")
    _, uplinks, last_seen_ns, last_cnt, last_snr, last_rssi, *spreads = row[:14]
    bs_eui, snr, updated_ns, messages, receivers, heard_at = row[14:]
    return Hearing(
        uplinks=uplinks,
        last_seen_ns=last_seen_ns,
        last_cnt=last_cnt,
        last_snr=last_snr,
        last_rssi=last_rssi,
        snr=Spread(*spreads[:4]),
        rssi=Spread(*spreads[4:]),
        preferred=Preferred(int(bs_eui, 16), snr, updated_ns, messages),
        receivers=_receivers_of(receivers),
        heard_at=heard_at,
    )


def _registration_of(row: Row) -> Registration:
    bs_eui, ep_eui, mark, code, message, at_ns = row
    return Registration(
        bs_eui=int(bs_eui, 16),
        ep_eui=int(ep_eui, 16),
        mark=mark,
        refused=None if code is None else Refused(code, message, at_ns),
    )


def _station_of(row: Row) -> StationRecord:
    bs_eui, session, since_ns, address, name, vendor, model, sw_version, bidi, *place, uplinks = row
    return StationRecord(
        bs_eui=int(bs_eui, 16),
        session=session,
        since_ns=since_ns,
        address=address,
        name=name,
        vendor=vendor,
        model=model,
        sw_version=sw_version,
        bidi=bool(bidi),
        position=None if None in place else (place[0], place[1], place[2]),
        uplinks=uplinks,
    )


def _clock_of(row: Row) -> tuple[frozenset[int], int]:
    receivers, watched_ns = row
    return _receivers_of(receivers), watched_ns


def _episode_of(row: Row) -> Episode:
    ep_eui, at_ns, what, cause, bs_eui, code, message = row
    return Episode(
        ep_eui=int(ep_eui, 16),
        at_ns=at_ns,
        what=what,
        cause=cause,
        bs_eui=None if bs_eui is None else int(bs_eui, 16),
        code=code,
        message=message,
    )
