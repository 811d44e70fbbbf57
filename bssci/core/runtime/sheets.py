"""Tables of sensors: endpoints.json of the earlier service, CSV, TOML -> rows, and sensors -> text.

What a table holds tells its form; the suffix of its name decides only where that does not. Network
keys are in it, so nothing here shows what stands in a column of keys, nor what looks like a key.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from bssci.core.center.end_points import FIELDS, KEY_MASK, bare_name, field_named, shown
from bssci.core.protocol.errors import BssciError, InvalidEuiError
from bssci.core.protocol.eui import format_eui, parse_eui

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["MAX_ROWS", "MAX_SHEET", "Form", "Sheet", "SheetError", "read_sheet", "write_sheet"]

Form = Literal["toml", "csv", "json"]

# A million sensors with everything that can be said of them; it keeps a wrong path (/dev/zero)
# from filling the memory.
MAX_SHEET = 64 * 1024 * 1024  # bytes
MAX_ROWS = 1_000_000

MAX_IGNORED = 100  # names that are remembered
MAX_COLUMNS = 20  # names of columns in an error

EUI_NAMES = frozenset(
    map(bare_name, ("eui", "ep_eui", "end_point_eui", "sensor_eui", "dev_eui", "device_eui"))
) | {"eui64", "nodeeui"}
CONTAINERS = frozenset({"sensors", "endpoints"})
WANTED = ("attached", "detached")

# Nothing, too, is something that these can be set to; for the others it is no value.
MAY_BE_EMPTY = frozenset({"name", "tags", "timeout"})
# Other programs have several columns of words; of these the one with our name is taken.
WORDS = frozenset({"name", "tags"})

EXPECTED = "expected is endpoints.json, CSV with a line of column names, or TOML with [[sensors]]"
COLUMNS = "expected is a first line with the names of columns, such as eui,key,short_addr,name"
LOST = (
    "a spreadsheet has made a number of it, and digits are lost: "
    "format the column as text, and enter it again"
)


class SheetError(BssciError):
    """A file that is no table of sensors: which, what was found in it and what is expected."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What a table of sensors says.

    Attributes:
        rows: `row` (line of CSV, otherwise number of the sensor from 1), `eui` (16 digits), and
            parameters by the names of listings with the values given; also `wanted`. A row that
            cannot be read has `row`, `eui` as it was found, and `error`, and nothing else. Network
            keys are in here.
        ignored: names in the table that say nothing about a sensor.
    """

    form: Form
    rows: tuple[dict[str, object], ...] = field(repr=False)
    ignored: tuple[str, ...] = ()


class _FaultError(ValueError):
    """What is wrong with a file or a row; the caller says which one."""


# --- reading ---


def read_sheet(data: bytes, *, name: str) -> Sheet:
    """The rows of a table of sensors, in any form; `name` is that of the file, for errors.

    Empty cells and null are not given, but that an empty name, tags or timeout means none; nor is
    a masked key. Whether values are possible is not looked at, unless it is about the EUI and
    `wanted`.

    Raises:
        SheetError: it cannot be read at all.
    """
    rows = _Rows()
    try:
        text = _text_of(data)
        form = _form_of(text, name)
        made = tuple(_bounded(_READERS[form](text, rows)))
    except _FaultError as error:
        raise SheetError(f"{name}: {error}") from error
    return Sheet(form=form, rows=made, ignored=rows.ignored())


def _bounded(rows: Iterable[dict[str, object]]) -> Iterator[dict[str, object]]:
    """The rows, as long as there are not too many; one that contradicts an earlier one is none."""
    first: dict[object, dict[str, object]] = {}
    for count, row in enumerate(rows, 1):
        if count > MAX_ROWS:
            raise _FaultError(f"has more than {MAX_ROWS} rows")
        known = row if "error" in row else first.setdefault(row["eui"], row)
        if known | {"row": row["row"]} == row:
            yield row
        else:
            yield _failed(row["row"], f"row {known['row']} says otherwise", eui=row["eui"])


_BINARY = {
    b"PK\x03\x04": "a workbook or archive",
    b"\xd0\xcf\x11\xe0": "an old workbook",
    b"\x1f\x8b": "compressed",
    b"SQLite format 3": "a database",
}
_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _text_of(data: bytes) -> str:
    if len(data) > MAX_SHEET:
        raise _FaultError(f"has {len(data)} bytes, at most {MAX_SHEET} are possible")
    for start, what in _BINARY.items():
        if data.startswith(start):
            raise _FaultError(f"is {what}, a text is expected: save the table as CSV")
    text = _decoded(data)
    if "\0" in text:
        raise _FaultError(f"is no text; {EXPECTED}")
    return text


def _decoded(data: bytes) -> str:
    encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), None)
    # Without a mark it is UTF-8, or what spreadsheets write in western Europe: Latin-1, which
    # Windows has filled up. Latin-1 itself is never wrong, so it comes last.
    for name in (encoding,) if encoding else ("utf-8", "cp1252", "latin-1"):
        try:
            return data.decode(name)
        except UnicodeDecodeError:
            continue
    raise _FaultError(f"begins as {encoding} does, and goes on otherwise; {EXPECTED}")


# Where it begins, behind empty lines and comments.
_START = re.compile(r"^[ \t\r]*([^#\s])", re.MULTILINE)
# A table of TOML has lines below its name, or else it may be an array of JSON.
_TOML = re.compile(
    r"""\[\[? [ \t]* [\w"'] [^\[\]{}\n,]* \]\]? [ \t]* (?:\#[^\n]*)? \r? \n \s* \S  # [table]
    | [\w"'.-]+ [ \t]* =                                                        # name =""",
    re.VERBOSE,
)


def _form_of(text: str, name: str) -> Form:
    start = _START.search(text)
    if start is None:
        raise _FaultError(f"is empty; {EXPECTED}")
    if _SEPARATOR.match(text):
        return "csv"
    if _TOML.match(text, start.start(1)):
        return "toml"
    if start[1] in "[{":
        return "json"
    suffix = name.lower().rpartition(".")[2]
    return "toml" if suffix == "toml" else "json" if suffix == "json" else "csv"


# --- one row ---


class _Rows:
    """Makes rows, and remembers which names have no meaning."""

    def __init__(self) -> None:
        self._meanings: dict[str, str | None] = {}
        self._ignored: dict[str, None] = {}

    def _learn(self, spelled: str) -> None:
        self._meanings[spelled] = _meaning(spelled)
        if self._meanings[spelled] is None and spelled.strip():
            self.ignore(spelled)

    def ignore(self, spelled: str) -> None:
        if len(self._ignored) < MAX_IGNORED:
            self._ignored[_unquoted(spelled)] = None

    def ignored(self) -> tuple[str, ...]:
        return tuple(self._ignored)

    def make(
        self, number: int, given: Iterable[tuple[str, object]], *, key: str | None = None
    ) -> dict[str, object]:
        """One row; `key` is the name under which it stands in a table by EUI."""
        values: dict[str, object] = {}
        faults: list[str] = []
        for name, (spelled, value) in self._chosen(given, faults).items():
            try:
                values[name] = _checked(name, value)
            except _FaultError as error:
                faults.append(f"{_unquoted(spelled)}: {error}")
        found = values.pop("eui", key)
        try:
            eui = _eui(found)
            if key is not None and _eui(key) != eui:
                faults.append(f"stands under {_unquoted(key)}, and is {eui} itself")
        except _FaultError as error:
            faults.insert(0, str(error))
            eui = _unquoted(found)
        if faults:
            return _failed(number, "; ".join(faults), eui=eui)
        return {"row": number, "eui": eui, **values}

    def _chosen(
        self, given: Iterable[tuple[str, object]], faults: list[str]
    ) -> dict[str, tuple[str, object]]:
        """What is given of each name that means something, and the spelling it was given by."""
        chosen: dict[str, tuple[str, object]] = {}
        for new in given:
            if new[0] not in self._meanings:
                self._learn(new[0])
            name = self._meanings[new[0]]
            if name is None or _is_nothing(name, new[1]):
                continue
            old = chosen.setdefault(name, new)
            if old is new:
                continue
            if name in WORDS and old[0] != new[0]:
                is_ours = bare_name(new[0]) == name
                chosen[name] = new if is_ours else old
                self.ignore(old[0] if is_ours else new[0])
            elif old[1] != new[1]:
                both = f"{_unquoted(old[0])} and {_unquoted(new[0])}"
                faults.append(f"{both} are both given, and differ")
        return chosen


def _failed(number: object, error: str, *, eui: object = "") -> dict[str, object]:
    return {"row": number, "eui": eui, "error": error}


def _meaning(spelled: str) -> str | None:
    """`eui`, `wanted` or the name of a parameter; None: it means nothing here."""
    bare = bare_name(spelled)
    if bare in EUI_NAMES:
        return "eui"
    return "wanted" if bare == "wanted" else field_named(spelled)


def _unquoted(value: object) -> str:
    """As errors show it; without quotes where that is plain enough."""
    text = "" if value is None else shown(value)
    return text[1:-1] if text == f"'{value}'" else text


def _is_nothing(name: str, value: object) -> bool:
    if value is None:
        return name != "timeout"
    if name == "key" and value == KEY_MASK:  # of a listing: it stays as it is
        return True
    return isinstance(value, str) and not value.strip() and name not in MAY_BE_EMPTY


_MANGLED = re.compile(r"\s*[+-]?\d(?:[.,]\d+)?[eE]\+\d+\s*", re.ASCII)


def _is_mangled(value: object) -> bool:
    return isinstance(value, float) or (
        isinstance(value, str) and _MANGLED.fullmatch(value) is not None
    )


def _checked(name: str, value: object) -> object:
    """The value, if it can be passed on at all."""
    if name == "wanted":
        return _wanted(value)
    if name in {"key", "short_addr"} and _is_mangled(value):
        raise _FaultError(LOST)
    if name == "eui" or isinstance(value, bool):
        return value
    parts = value if isinstance(value, list) else (value,)
    if not all(map(_is_plain, parts)):
        found = "something" if name == "key" else shown(value)
        raise _FaultError(f"found {found} that is neither text, number nor flag")
    return value


def _wanted(value: object) -> str:
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in WANTED:
        raise _FaultError(f"found {shown(value)}, {' or '.join(WANTED)} is expected")
    return word


def _is_plain(value: object) -> bool:
    match value:
        case str():
            return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)
        case int():
            return -(2**63) <= value < 2**64
        case float():
            return math.isfinite(value)
    return value is None


def _eui(value: object) -> str:
    if value is None:
        raise _FaultError("the EUI is missing: 16 hexadecimal digits are expected")
    if _is_mangled(value):
        raise _FaultError(f"the EUI is {_unquoted(value)}: {LOST}")
    match value:
        case str():
            return _eui_of(value)
        # Decimal or hexadecimal digits? As many as these are not those of an EUI.
        case int() if 10**16 <= abs(value) < 2**64:
            return _eui_of(value)
        case int():
            raise _FaultError(f"the EUI is {shown(value)}: write it as text, in quotes")
    raise _FaultError(f"found {shown(value)}, an EUI of 16 hexadecimal digits is expected")


def _eui_of(value: str | int) -> str:
    try:
        return format_eui(parse_eui(value))
    except InvalidEuiError as error:
        if shown(value) == KEY_MASK:
            raise _FaultError(f"the EUI is {KEY_MASK}, which may be a key") from None
        bare = str(value).strip()
        hint = "; a spreadsheet drops leading zeros of what is not formatted as text"
        is_cut = bare.isdecimal() and len(bare) < 16
        raise _FaultError(f"{error}{hint if is_cut else ''}") from error


# --- JSON and TOML ---


def _read_json(text: str, rows: _Rows) -> Iterator[dict[str, object]]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _FaultError(f"is no JSON: {where}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise _FaultError("is JSON with a number or a nesting beyond all measure") from error
    return _read_document(document, rows)


def _read_toml(text: str, rows: _Rows) -> Iterator[dict[str, object]]:
    tables = _plain_tables(text)
    if tables is not None:
        return _read_document(tables, rows)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _FaultError(f"is no TOML: {_without_names(str(error))}") from error
    except (ValueError, RecursionError) as error:
        raise _FaultError("is TOML with a number or a nesting beyond all measure") from error
    return _read_document(document, rows)


def _without_names(words: str) -> str:
    """What TOML's reader says, without the names it quotes: they may be anything."""
    return re.sub(r"\('.*',?\)", "a name", words)


_STRING = r'"(?:[^"\\\x00-\x1f\x7f]|\\["\\])*"'
_NUMBER = r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?"
_PLAIN = re.compile(
    rf"([A-Za-z0-9_-]+) = (true|false|{_NUMBER}|{_STRING}|\[(?:{_STRING}(?:, {_STRING})*)?\])"
)


def _plain_tables(text: str) -> list[dict[str, object]] | None:
    """The tables of a file as we write it, where TOML and JSON spell values alike; None: it is not.

    `tomllib` needs a tenth of a millisecond for a sensor, which adds up; `json` does it at once.
    """
    tables: list[dict[str, str]] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if line == "[[sensors]]":
            tables.append({})
        elif (plain := _PLAIN.fullmatch(line)) and tables and plain[1] not in tables[-1]:
            tables[-1][plain[1]] = f'"{plain[1]}":{plain[2]}'
        elif line and not (line.startswith("#") and line.isprintable()):
            return None
    objects = ",".join("{" + ",".join(table.values()) + "}" for table in tables)
    return json.loads(f"[{objects}]")  # type: ignore[no-any-return]  # it was put together here


def _read_document(document: object, rows: _Rows) -> Iterator[dict[str, object]]:
    for number, (key, entry) in enumerate(_listed(document, rows), 1):
        if isinstance(entry, dict):
            yield rows.make(number, entry.items(), key=key)
        else:
            yield _failed(number, f"found {shown(entry)}, the parameters of a sensor are expected")


def _listed(document: object, rows: _Rows) -> Iterable[tuple[str | None, object]]:
    """The sensors in a document, with the names they stand under, if they do."""
    if isinstance(document, dict):
        inner = [name for name in document if bare_name(name) in CONTAINERS]
        if len(inner) > 1:
            raise _FaultError(f"has sensors in several places: {_some(inner)}")
        document = document[inner[0]] if inner else document
    match document:
        case list():
            return [(None, entry) for entry in document]
        case dict() if any(_meaning(name) == "eui" for name in document):
            return [(None, document)]
        case dict() if not document or any(map(_is_eui, document)):
            return _by_eui(document, rows)
        case dict():
            raise _FaultError(f"has no sensors, but {_some(document)}; {EXPECTED}")
    raise _FaultError(f"has no sensors, but {shown(document)}; {EXPECTED}")


def _by_eui(document: dict[str, object], rows: _Rows) -> Iterator[tuple[str, object]]:
    for name, entry in document.items():
        if isinstance(entry, dict) or _is_eui(name):
            yield name, entry
        else:
            rows.ignore(name)


def _is_eui(text: str) -> bool:
    try:
        parse_eui(text)
    except InvalidEuiError:
        return False
    return True


def _some(names: Iterable[str]) -> str:
    told = list(map(shown, names))
    more = f" and {len(told) - MAX_COLUMNS} more" if len(told) > MAX_COLUMNS else ""
    return ", ".join(told[:MAX_COLUMNS]) + more


# --- CSV ---

DELIMITERS = ";,\t|"
# A first line by which spreadsheets tell each other the delimiter.
_SEPARATOR = re.compile(r'"?sep=([;,\t|])"?[ \t]*\r?\n', re.IGNORECASE)

# What a spreadsheet takes for a formula, with the mark before it that makes it text. Only there is
# the mark ours: 'tis stays as it is.
_FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def _read_csv(text: str, rows: _Rows) -> Iterator[dict[str, object]]:
    header: list[str] = []
    for line, cells in _records(text):
        if isinstance(cells, str):
            yield _failed(line, cells)
        elif not any(map(str.strip, cells)):
            continue
        elif not header:
            header = _header(cells)
        elif any(map(str.strip, cells[len(header) :])):
            yield _failed(line, f"has {len(cells)} cells, there are {len(header)} columns")
        else:
            yield rows.make(line, zip(header, _unmarked(cells), strict=False))
    if not header:
        raise _FaultError(f"has no columns; {COLUMNS}")


def _records(text: str) -> Iterator[tuple[int, list[str] | str]]:
    """The cells of each record, or what is wrong with it, and the line it begins in."""
    lines = io.StringIO(text, newline="")
    separator = _SEPARATOR.match(text)
    skipped = len([next(lines)]) if separator else 0
    delimiter = separator[1] if separator else _delimiter(text)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        begin = skipped + reader.line_num + 1
        try:
            yield begin, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = skipped + reader.line_num
            where = f"up to line {end}: " if end > begin else ""
            yield begin, f"cannot be read: {where}quotes that do not match ({error})"


def _delimiter(text: str) -> str:
    """The one that makes most names of columns of the first line."""
    first = next(filter(str.strip, io.StringIO(text, newline="")), "")

    def score(delimiter: str) -> tuple[int, int]:
        try:
            cells = next(csv.reader([first], delimiter=delimiter))
        except csv.Error:
            return 0, 0
        return sum(_meaning(cell) is not None for cell in cells), len(cells)

    return max(DELIMITERS, key=score)


def _header(cells: list[str]) -> list[str]:
    if any(_meaning(cell) == "eui" for cell in cells):
        return cells
    if any(map(_is_eui, cells)):
        raise _FaultError(f"begins with a sensor; {COLUMNS}")
    raise _FaultError(f"has no column for the EUI, but {_some(cells)}; {COLUMNS}")


def _unmarked(cells: list[str]) -> list[str]:
    return [cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in cells]


_READERS = {"json": _read_json, "toml": _read_toml, "csv": _read_csv}


# --- writing ---

# As the earlier service has them, and in the order in which it has them.
_EARLIER = {"eui": "eui", "key": "nwKey", "short_addr": "shortAddr", "bidi": "bidi"}
_EARLIER |= {
    "dual_chan": "dualChan",
    "repetition": "repetition",
    "wide_carr_off": "wideCarrOff",
    "long_blk_dist": "longBlkDist",
}
_EXPORTED = ("eui", *FIELDS, "wanted")

_WARNING = "# Sensors of a mioty Service Center, with their network keys: keep this file secret.\n"


def write_sheet(sensors: Iterable[Mapping[str, object]], form: Form) -> str:
    """The text of a table that `read_sheet` reads to the same sensors.

    Args:
        sensors: as listings show them, with their keys revealed; what was learned of them by
            hearing them is left out.

    Raises:
        ValueError: a key is not revealed.
    """
    return _WRITERS[form]([_exported(sensor) for sensor in sensors])


def _exported(sensor: Mapping[str, object]) -> dict[str, object]:
    if sensor["key"] == KEY_MASK:
        raise ValueError(f"the key of {sensor['eui']} is not revealed")
    return {name: sensor[name] for name in _EXPORTED if name in sensor}


def _to_json(sensors: list[dict[str, object]]) -> str:
    order = dict.fromkeys((*_EARLIER, *_EXPORTED))
    told = [
        {_EARLIER.get(name, name): sensor[name] for name in order if name in sensor}
        for sensor in sensors
    ]
    return json.dumps(told, indent=4, ensure_ascii=False) + "\n"


def _to_toml(sensors: list[dict[str, object]]) -> str:
    if not sensors:
        return f"{_WARNING}sensors = []\n"
    return _WARNING + "".join(map(_to_table, sensors))


def _to_table(sensor: dict[str, object]) -> str:
    lines = [f"{name} = {_to_value(value)}\n" for name, value in sensor.items()]
    return "\n[[sensors]]\n" + "".join(lines)


def _to_value(value: object) -> str:
    # TOML has no null; an empty timeout is read as none. JSON leaves one character as it is that
    # TOML does not allow.
    text = json.dumps("" if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def _to_csv(sensors: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_EXPORTED)
    for sensor in sensors:
        writer.writerow([_to_cell(sensor.get(name)) for name in _EXPORTED])
    return text.getvalue()


def _to_cell(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return _to_cell("|".join(map(str, value)))
    text = str(value)
    return f"'{text}" if _FORMULA.match(text) else text


_WRITERS = {"json": _to_json, "toml": _to_toml, "csv": _to_csv}
