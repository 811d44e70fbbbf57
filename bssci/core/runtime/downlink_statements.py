"""All SQL of downlinks: queries, what is written of them, and what a row means.

What a downlink is called in listings is a column that SQLite derives from the others, so it is
looked up by an index. INDEXED BY stands where a planner that walks the table instead would read
every downlink there is.
"""

from __future__ import annotations

import json
import logging
from operator import attrgetter
from typing import TYPE_CHECKING, Any, get_args

from bssci.core.center.downlinks import Downlink, DownlinkRecord, Ending, Intent, Result
from bssci.core.runtime.life_statements import UNSTORABLE
from bssci.core.runtime.statements import MAX_INTEGER, eui_text, execute_rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from bssci.core.center.downlinks import DownlinkState
    from bssci.core.runtime.statements import Row

__all__ = [
    "FIND",
    "LAST_DOWNLINK",
    "OPEN",
    "SENT",
    "listing",
    "records_of",
    "save",
    "save_or_give_up",
]

logger = logging.getLogger(__name__)

KEPT_DONE = 10_000
# Of those that have ended and are at no base station, the last ones: a day of an installation
# that sends one every nine seconds. 6 MB with 200 octets in each, 300 MB if each had 64 entries.
PART = 4096
# Rows made for statements at once: what waits does not stand in memory twice, however much it is.

_FLAGS = "response_exp", "response_prio", "dl_wind_req", "exp_only", "query_rx"
_DOWNLINK = (
    *("que_id", "ep_eui", "user_data", "packet_cnt", "format", "prio"),
    *_FLAGS,
    *("ref", "created_ns", "expires_ns"),
)
_ENDING = "result", "ended_ns", "end_bs_eui", "tx_time", "end_packet_cnt", "code", "message"
_COLUMNS = *_DOWNLINK, "holder", "is_queued", "intent", *_ENDING, "acknowledged_ns"
_LIST = ", ".join(_COLUMNS)

_INTENTS = frozenset(get_args(Intent))
_RESULTS = frozenset(get_args(Result))

# --- asking -------------------------------------------------------------------------------------

LAST_DOWNLINK = "SELECT last_downlink FROM store"
OPEN = f"""
    SELECT {_LIST} FROM downlinks INDEXED BY downlinks_open
    WHERE (result IS NULL OR holder IS NOT NULL) AND que_id > ? ORDER BY que_id LIMIT ?
"""
SENT = f"""
    SELECT {_LIST} FROM downlinks INDEXED BY downlinks_state
    WHERE state = 'sent' AND holder IS NULL AND ended_ns >= ? ORDER BY que_id DESC LIMIT ?
"""
FIND = f"SELECT {_LIST} FROM downlinks WHERE que_id = ?"
_NEWEST = "ORDER BY que_id DESC LIMIT ?"
_LIST_ALL = f"SELECT {_LIST} FROM downlinks {_NEWEST}"
_LIST_STATE = f"""
    SELECT {_LIST} FROM downlinks INDEXED BY downlinks_state WHERE state = ? {_NEWEST}
"""
_OF_END_POINT = f"""
    SELECT {_LIST} FROM downlinks INDEXED BY downlinks_end_point WHERE ep_eui = ?
"""
_LIST_END_POINT = f"{_OF_END_POINT} {_NEWEST}"
_LIST_END_POINT_STATE = f"{_OF_END_POINT} AND state = ? {_NEWEST}"

# --- telling ------------------------------------------------------------------------------------

_SAVE = f"INSERT OR REPLACE INTO downlinks ({_LIST}) VALUES {{rows}}"
_NOTE_LAST = "UPDATE store SET last_downlink = max(last_downlink, ?)"
# By when they ended: one that waited for a month is not gone before anybody saw the end of it.
_PRUNE = """
    DELETE FROM downlinks WHERE que_id IN (
        SELECT que_id FROM downlinks INDEXED BY downlinks_done
        WHERE result IS NOT NULL AND holder IS NULL
        ORDER BY ended_ns DESC LIMIT ? OFFSET ?
    )
"""


def listing(ep_eui: int | None, state: DownlinkState | None, count: int) -> tuple[str, Row]:
    """The query for the newest downlinks, and its values."""
    match ep_eui, state:
        case None, None:
            return _LIST_ALL, (count,)
        case None, _:
            return _LIST_STATE, (state, count)
        case int(), None:
            return _LIST_END_POINT, (eui_text(ep_eui), count)
        case _:
            return _LIST_END_POINT_STATE, (eui_text(ep_eui), state, count)


def save(db: sqlite3.Connection, records: Sequence[DownlinkRecord]) -> None:
    """Write records in the place of what was there. For each that has come to rest, up to two that
    did so before the last `KEPT_DONE` are deleted: there is no more to do at once, and what has
    gathered becomes less.
    """
    for start in range(0, len(records), PART):
        part = records[start : start + PART]
        execute_rows(db, _SAVE, [_row(record) for record in part])
        db.execute(_NOTE_LAST, (max(record.downlink.que_id for record in part),))
        done = sum(record.ending is not None and record.holder is None for record in part)
        if done:
            db.execute(_PRUNE, (2 * done, KEPT_DONE))


def save_or_give_up(db: sqlite3.Connection, records: Sequence[DownlinkRecord]) -> None:
    """The same, but what cannot be stored is given up: nobody is waiting who could be told, and it
    must not keep uplinks from the disk for ever.
    """
    try:
        save(db, records)
    except UNSTORABLE:
        for record in records:
            _save_or_log(db, record)


def _save_or_log(db: sqlite3.Connection, record: DownlinkRecord) -> None:
    try:
        save(db, [record])
    except UNSTORABLE:
        que_id = record.downlink.que_id
        logger.exception("how it is with downlink %s cannot be stored and is given up", que_id)


# --- rows of what is stored ---------------------------------------------------------------------

_flags_of = attrgetter(*_FLAGS)


def _row(record: DownlinkRecord) -> Row:
    return (
        *_downlink_row(record.downlink),
        _eui_text_or_none(record.holder),
        record.is_queued,
        record.intent,
        *_ending_row(record.ending),
        record.acknowledged_ns,
    )


def _downlink_row(downlink: Downlink) -> Row:
    packet_cnt = downlink.packet_cnt
    return (
        downlink.que_id,
        eui_text(downlink.ep_eui),
        json.dumps([entry.hex() for entry in downlink.user_data]),
        None if packet_cnt is None else json.dumps(packet_cnt),
        downlink.format,
        downlink.prio,
        *_flags_of(downlink),
        None if downlink.ref is None else json.dumps(downlink.ref),
        downlink.created_ns,
        downlink.expires_ns,
    )


def _ending_row(ending: Ending | None) -> Row:
    if ending is None:
        return (None,) * len(_ENDING)
    return (
        ending.result,
        ending.at_ns,
        _eui_text_or_none(ending.bs_eui),
        # By the clock of a base station, which may say anything that 64 bits hold.
        None if ending.tx_time is None else min(ending.tx_time, MAX_INTEGER),
        ending.packet_cnt,
        ending.code,
        ending.message,
    )


def _eui_text_or_none(eui: int | None) -> str | None:
    return None if eui is None else eui_text(eui)


# --- what rows mean -----------------------------------------------------------------------------


def records_of(rows: Sequence[Row]) -> list[DownlinkRecord]:
    """Downlinks; one that cannot be read is logged and left out."""
    records = []
    for row in rows:
        try:
            records.append(_record_of(dict(zip(_COLUMNS, row, strict=True))))
        except (ValueError, TypeError) as error:
            logger.warning("stored, but not to be read: downlink %s: %s", row[0], error)
    return records


def _record_of(columns: Mapping[str, Any]) -> DownlinkRecord:
    return DownlinkRecord(
        downlink=_downlink_of(columns),
        holder=_eui_or_none(columns["holder"]),
        is_queued=bool(columns["is_queued"]),
        intent=_known(columns["intent"], _INTENTS),
        ending=None if columns["result"] is None else _ending_of(columns),
        acknowledged_ns=columns["acknowledged_ns"],
    )


def _downlink_of(columns: Mapping[str, Any]) -> Downlink:
    user_data = tuple(bytes.fromhex(entry) for entry in _array(columns["user_data"]))
    packet_cnt = None
    if columns["packet_cnt"] is not None:
        packet_cnt = tuple(map(int, _array(columns["packet_cnt"])))
        if len(packet_cnt) != len(user_data):
            raise ValueError(f"{len(user_data)} entries for {len(packet_cnt)} packet counters")
    return Downlink(
        que_id=columns["que_id"],
        ep_eui=int(columns["ep_eui"], 16),
        user_data=user_data,
        packet_cnt=packet_cnt,
        format=columns["format"],
        prio=columns["prio"],
        **{flag: bool(columns[flag]) for flag in _FLAGS},
        ref=None if columns["ref"] is None else json.loads(columns["ref"]),
        created_ns=columns["created_ns"],
        expires_ns=columns["expires_ns"],
    )


def _ending_of(columns: Mapping[str, Any]) -> Ending:
    if columns["ended_ns"] is None or columns["message"] is None:
        raise ValueError("its ending is not whole")
    return Ending(
        result=_known(columns["result"], _RESULTS),
        at_ns=columns["ended_ns"],
        bs_eui=_eui_or_none(columns["end_bs_eui"]),
        tx_time=columns["tx_time"],
        packet_cnt=columns["end_packet_cnt"],
        code=columns["code"],
        message=columns["message"],
    )


def _eui_or_none(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def _array(text: str) -> list[Any]:
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError(f"an array was expected, not {found!r}")  # noqa: TRY004
    return found


def _known(word: str, words: frozenset[Any]) -> Any:  # noqa: ANN401 - a Literal
    if word not in words:
        raise ValueError(f"{word!r} has no meaning")
    return word
