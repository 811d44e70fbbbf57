"""Tables of sensors: every form people have them in, and the way back."""

from __future__ import annotations

import contextlib
import json
import tomllib
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bssci.core.center.end_points import EndPoint, end_point_of, fields_of
from bssci.core.protocol.errors import BssciError
from bssci.core.runtime import sheets
from bssci.core.runtime.sheets import Sheet, SheetError, read_sheet, write_sheet

Form = Literal["toml", "csv", "json"]

FORMS: list[Form] = ["toml", "csv", "json"]

SENSOR, OTHER = "FCA84A030000127C", "74731D0000000016"
KEY = "2B7E151628AED2A6ABF7158809CF4F3C"
DIGITS = "00112233445566778899001122334455"

EARLIER = f"""[
    {{
        "eui": "74731D0000000016",
        "nwKey": "00112233445566778899AABBCCDDEE",
        "shortAddr": "0000",
        "bidi": false
    }},
    {{
        "eui": "test1234567890ab",
        "nwKey": "00112233445566778899AABBCCDDEE01",
        "shortAddr": "1234",
        "bidi": false
    }},
    {{
        "eui": "fca84a030000127c",
        "nwKey": "{KEY}",
        "shortAddr": "127C",
        "bidi": true,
        "registered": true,
        "status": "registered",
        "base_stations": ["70B3D59CD0000951"],
        "preferredDownlinkPath": {{"baseStation": "70B3D59CD0000951", "snr": 12.5}}
    }}
]
"""


def read(text: str | bytes, name: str = "sensors") -> Sheet:
    return read_sheet(text if isinstance(text, bytes) else text.encode(), name=name)


def rows(text: str | bytes) -> list[dict[str, object]]:
    return list(read(text).rows)


def fault(text: str | bytes, name: str = "sensors") -> str:
    with pytest.raises(SheetError) as caught:
        read(text, name)
    return str(caught.value)


def error_of(text: str | bytes) -> object:
    (row,) = rows(text)
    assert set(row) == {"row", "eui", "error"}
    return row["error"]


# --- endpoints.json of the earlier service ---


def test_endpoints_of_the_earlier_service_are_read_and_bad_ones_named_one_by_one():
    assert read(EARLIER) == Sheet(
        form="json",
        rows=(
            {
                "row": 1,
                "eui": OTHER,
                "key": "00112233445566778899AABBCCDDEE",
                "short_addr": "0000",
                "bidi": False,
            },
            {
                "row": 2,
                "eui": "test1234567890ab",
                "error": "'test1234567890ab' is not an EUI: 13 hexadecimal digits found, "
                "16 expected; 't' does not belong there",
            },
            {"row": 3, "eui": SENSOR, "key": KEY, "short_addr": "127C", "bidi": True},
        ),
        ignored=("registered", "status", "base_stations", "preferredDownlinkPath"),
    )


ONE = {"row": 1, "eui": SENSOR, "key": KEY, "bidi": True}


@pytest.mark.parametrize(
    "document",
    [
        [{"eui": SENSOR, "nwKey": KEY, "bidi": True}],
        {"eui": SENSOR, "nwKey": KEY, "bidi": True},
        {"endpoints": [{"EUI": SENSOR, "nwKey": KEY, "bidi": True}]},
        {"version": 1, "Sensors": [{"epEui": SENSOR, "nwKey": KEY, "bidi": True}]},
        {"end_points": {SENSOR: {"key": KEY, "bidi": True}}},
        {SENSOR.lower(): {"key": KEY, "bidi": True}},
        {"fc-a8-4a-03-00-00-12-7c": {"eui": SENSOR, "key": KEY, "bidi": True}},
        [{"eui": 0xFCA84A030000127C, "nwKey": KEY, "bidi": True}],
        [{"eui": 0xFCA84A030000127C - 2**64, "nwKey": KEY, "bidi": True}],
    ],
)
def test_sensors_stand_in_a_list_or_under_their_euis_or_in_something_that_is_called_so(document):
    assert rows(json.dumps(document)) == [ONE]


def test_what_stands_beside_tables_by_eui_is_ignored():
    assert read(json.dumps({"version": 1, SENSOR: {"key": KEY}})) == Sheet(
        form="json", rows=({"row": 1, "eui": SENSOR, "key": KEY},), ignored=("version",)
    )


@pytest.mark.parametrize("text", ["[]", "{}", '{"sensors": []}', "[ ]", "sensors = []", "eui,key"])
def test_a_table_without_sensors_is_one(text):
    assert rows(text) == []


def test_what_is_said_twice_alike_is_said():
    sensor = {"eui": SENSOR, "epEui": SENSOR, "nwKey": KEY, "key": KEY}
    assert rows(json.dumps([sensor])) == [{"row": 1, "eui": SENSOR, "key": KEY}]


def test_null_is_not_given_but_as_a_timeout_and_nor_is_a_masked_key():
    listed = {"eui": SENSOR, "key": "****", "name": None, "tags": None, "timeout": None}
    assert rows(json.dumps([listed])) == [{"row": 1, "eui": SENSOR, "timeout": None}]


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (7, "found 7, the parameters of a sensor are expected"),
        (KEY, "found ****, the parameters of a sensor are expected"),
        ({}, "the EUI is missing: 16 hexadecimal digits are expected"),
        ({"eui": " "}, "the EUI is missing: 16 hexadecimal digits are expected"),
        ({"eui": True}, "the EUI is true: write it as text, in quotes"),
        (
            {"eui": 1234567890123456},
            "the EUI is 1234567890123456: write it as text, in quotes",
        ),
        ({"eui": 2**64}, "the EUI is 18446744073709551616: write it as text, in quotes"),
        ({"eui": 10**40}, "the EUI is a huge number: write it as text, in quotes"),
        (
            {"eui": -(2**63) - 1},
            "-9223372036854775809 is not an EUI: expected a 64-bit number",
        ),
        ({"eui": [SENSOR]}, "found a list, an EUI of 16 hexadecimal digits is expected"),
        (
            {"eui": SENSOR, "epEui": OTHER},
            "eui and epEui are both given, and differ",
        ),
        (
            {"eui": SENSOR, "nwKey": KEY, "key": DIGITS},
            "nwKey and key are both given, and differ",
        ),
        (
            {"eui": SENSOR, "wanted": "maybe"},
            "wanted: found 'maybe', attached or detached is expected",
        ),
        ({"eui": SENSOR, "wanted": 1}, "wanted: found 1, attached or detached is expected"),
        (
            {"eui": SENSOR, "name": {"de": "x"}},
            "name: found a table that is neither text, number nor flag",
        ),
        (
            {"eui": SENSOR, "tags": [["x"]]},
            "tags: found a list that is neither text, number nor flag",
        ),
        (
            {"eui": SENSOR, "name": "\ud800"},
            "name: found '\\ud800' that is neither text, number nor flag",
        ),
        (
            {"eui": SENSOR, "key": f"{KEY[:12]}\ud800"},
            "key: found something that is neither text, number nor flag",
        ),
        (
            {"eui": SENSOR, "timeout": float("inf")},
            "timeout: found a huge number that is neither text, number nor flag",
        ),
        (
            {"eui": SENSOR, "short_addr": 2**64},
            "short_addr: found 18446744073709551616 that is neither text, number nor flag",
        ),
    ],
)
def test_a_row_that_cannot_be_read_says_why(entry, error):
    assert error_of(json.dumps([entry])) == error


def test_everything_that_is_wrong_with_a_row_is_told_at_once():
    entry = {"eui": "7", "wanted": "gone", "key": 1.5, "name": "x", "timeout": float("nan")}
    assert error_of(json.dumps([entry])) == (
        "'7' is not an EUI: 1 hexadecimal digits found, 16 expected; "
        "a spreadsheet drops leading zeros of what is not formatted as text; "
        "wanted: found 'gone', attached or detached is expected; "
        "key: a spreadsheet has made a number of it, and digits are lost: "
        "format the column as text, and enter it again; "
        "timeout: found nan that is neither text, number nor flag"
    )


def test_a_sensor_that_names_another_eui_than_it_stands_under_is_refused():
    (row,) = rows(json.dumps({SENSOR: {"eui": OTHER, "key": KEY}}))
    assert row == {"row": 1, "eui": OTHER, "error": f"stands under {SENSOR}, and is {OTHER} itself"}


def test_among_tables_by_eui_a_name_that_is_none_is_a_bad_row():
    (good, bad, worse) = rows(json.dumps({SENSOR: {"key": KEY}, "test": {}, OTHER: 7}))
    assert (good, bad["row"], bad["eui"], worse["row"], worse["error"]) == (
        {"row": 1, "eui": SENSOR, "key": KEY},
        2,
        "test",
        3,
        "found 7, the parameters of a sensor are expected",
    )


def test_a_sensor_that_is_there_again_and_differs_is_refused_the_same_is_not():
    same = {"eui": SENSOR, "key": KEY}
    assert rows(json.dumps([same, same, same | {"bidi": True}])) == [
        {"row": 1, "eui": SENSOR, "key": KEY},
        {"row": 2, "eui": SENSOR, "key": KEY},
        {"row": 3, "eui": SENSOR, "error": "row 1 says otherwise"},
    ]


@pytest.mark.parametrize(
    ("sensor", "row", "ignored"),
    [
        ({"description": "by the gate", "name": "G1"}, {"name": "G1"}, ("description",)),
        ({"name": "G1", "description": "by the gate"}, {"name": "G1"}, ("description",)),
        ({"label": "G1", "description": "by the gate"}, {"name": "G1"}, ("description",)),
        ({"description": "by the gate"}, {"name": "by the gate"}, ()),
    ],
)
def test_of_several_columns_of_words_ours_is_taken_otherwise_the_first(sensor, row, ignored):
    assert read(json.dumps([{"eui": SENSOR} | sensor])) == Sheet(
        form="json", rows=({"row": 1, "eui": SENSOR} | row,), ignored=ignored
    )


def test_names_that_mean_nothing_are_bounded_and_shown_safely():
    strange = {"\x1b[2J": 1, KEY: 2, "plain name": 3, "": 4, "x" * 50: 5}
    many = {f"n{number}": 0 for number in range(200)}
    told = read(json.dumps([{"eui": SENSOR} | strange | many])).ignored
    assert (told[:4], len(told)) == (
        ("'\\x1b[2J'", "****", "plain name", f"'{'x' * 40}…'"),
        100,
    )


# --- TOML ---


@pytest.mark.parametrize(
    "text",
    [
        f'[[sensors]]\neui = "{SENSOR}"\nkey = "{KEY}"\nbidi = true\n',
        f'# ours\r\n\r\n[[sensors]]\r\neui = "{SENSOR}"\r\nkey = "{KEY}"\r\nbidi = true\r\n',
        f"version = 1\n[[ sensors ]]  # the first\neui=\"{SENSOR}\"\nkey='{KEY}'\nbidi=true",
        f'[{SENSOR}]\nkey = "{KEY}"\nbidi = true\n',
        f'[sensors."{SENSOR}"]\nnwKey = "{KEY}"\nbidi = true\n',
        f'sensors = [{{eui = "{SENSOR}", key = "{KEY}", bidi = true}}]',
        f'"sensors" = [{{eui = 0x{SENSOR}, key = "{KEY}", bidi = true}}]',
    ],
)
def test_toml_has_sensors_one_by_one_or_under_their_euis(text):
    assert read(text) == Sheet(form="toml", rows=(ONE,), ignored=read(text).ignored)


def test_what_has_no_place_in_a_request_is_refused():
    text = f'[[sensors]]\neui = "{SENSOR}"\nname = 2026-03-01\ntimeout = inf\n'
    assert error_of(text) == (
        "name: found a value of type date that is neither text, number nor flag; "
        "timeout: found a huge number that is neither text, number nor flag"
    )


values = (
    st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.lists(st.text(max_size=3), max_size=2)
)
LINES = [
    "",
    "# comment",
    "#\tcomment",
    "#\x7f",
    "[[sensors]]",
    "[[ sensors ]]",
    "[sensors]",
    "a = 1",
    "a=1",
    " b = 2",
    "b = 2 ",
    "c = -0",
    "c = 007",
    "d = 1e5",
    "d = 1.5E5",
    "d = 1_000",
    "e = true",
    "e = True",
    'f = "\\u00e9"',
    'f = "\\/"',
    'f = "\\\\\\""',
    'f = "a\tb"',
    "f = 'a'",
    'f = ["a", "b"]',
    'f = ["a", 1]',
    "f = [",
    "]",
    "g = inf",
    "g = 1979-05-27",
    "a.b = 1",
    "-_9 = 1",
    "h = " + "9" * 18,
    "h = " + "9" * 19,
    "h = " + "9" * 5000,
    'i = "\x7f"',
    'i = "\u2028"',
    "j = 1\r",
]


@given(st.lists(st.sampled_from(LINES), max_size=8), st.sampled_from(["\n", "\r\n"]))
@example(["[[sensors]]"], "\n")
@example(["[[sensors]]", "a = 1", "a = 2"], "\n")
@example(["a = 1", "[[sensors]]"], "\n")
def test_what_is_read_line_by_line_is_what_toml_says(lines, end):
    text = end.join(lines)
    found = sheets._plain_tables(text)
    if found is not None:
        assert {"sensors": found} == {"sensors": []} | tomllib.loads(text)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=1))
def test_what_is_written_as_toml_is_toml_and_can_be_read_line_by_line(tables):
    text = sheets._to_toml(tables)
    told = tomllib.loads(text)["sensors"]
    assert (told, sheets._plain_tables(text)) in ((tables, tables), (tables, None))


# --- CSV ---

ROW = {"row": 2, "eui": SENSOR, "key": KEY, "name": "Tür"}


@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_with_any_usual_delimiter_encoding_and_end_of_line(delimiter, encoding, end):
    lines = [("EUI", "Netzwerkschlüssel", "Bezeichnung"), (SENSOR, KEY, "Tür")]
    text = "".join(delimiter.join(line) + end for line in lines)
    assert read(text.encode(encoding)) == Sheet(form="csv", rows=(ROW,))


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_text_of_two_octets_may_begin_with_either(mark):
    order = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    text = f"eui,key,name\n{SENSOR},{KEY},Tür\n"
    assert rows(mark + text.encode(order)) == [ROW]


def test_windows_has_more_letters_than_latin_1_and_latin_1_comes_last():
    head = f"eui,name\n{SENSOR},".encode()
    assert [rows(head + octets)[0]["name"] for octets in (b"5 \x80", b"\xfc \x81")] == [
        "5 €",
        "ü \x81",
    ]


@pytest.mark.parametrize(
    "title",
    ["eui", "EUI", "epEui", "ep_eui", "sensor_eui", "dev_eui", "DevEUI", "Device EUI", "EUI64"],
)
def test_the_column_of_euis_has_many_names(title):
    assert rows(f"{title};key\n{SENSOR};{KEY}") == [{"row": 2, "eui": SENSOR, "key": KEY}]


def test_rows_have_the_number_of_the_line_they_begin_in():
    text = (
        f'\n\neui,name,note\n{SENSOR},"one ""1""","two\nlines"\n\n,,\n'
        f"{OTHER},two,\n4A00000000000003,three\n"
    )
    assert read(text) == Sheet(
        form="csv",
        rows=(
            {"row": 4, "eui": SENSOR, "name": 'one "1"'},
            {"row": 8, "eui": OTHER, "name": "two"},
            {"row": 9, "eui": "4A00000000000003", "name": "three"},
        ),
        ignored=("note",),
    )


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_first_line_may_name_the_delimiter(line):
    text = f"{line}\r\neui;name\r\n{SENSOR};a,b\r\n"
    assert rows(text) == [{"row": 3, "eui": SENSOR, "name": "a,b"}]


def test_the_delimiter_is_the_one_that_makes_names_of_columns():
    text = f"notes, and more;eui;key\na,b,c;{SENSOR};{KEY}\n"
    assert rows(text) == [{"row": 2, "eui": SENSOR, "key": KEY}]


def test_empty_cells_are_not_given_but_where_nothing_is_something():
    text = f"eui,name,key,short_addr,bidi,tags,timeout,wanted\n{SENSOR},,,  ,,,,\n"
    assert rows(text) == [{"row": 2, "eui": SENSOR, "name": "", "tags": "", "timeout": ""}]


def test_columns_without_a_name_are_no_columns():
    text = f"eui,,key,\n{SENSOR},x,{KEY},y,,\n{OTHER},x,{KEY},y,z\n"
    assert read(text) == Sheet(
        form="csv",
        rows=(
            {"row": 2, "eui": SENSOR, "key": KEY},
            {"row": 3, "eui": "", "error": "has 5 cells, there are 4 columns"},
        ),
    )


def test_quotes_that_do_not_match_are_told_with_the_lines_they_spoil():
    text = f'eui,name\n{SENSOR},"a"b\n{OTHER},c\n{SENSOR},"d\n{OTHER},e\n'
    assert rows(text) == [
        {
            "row": 2,
            "eui": "",
            "error": "cannot be read: quotes that do not match (',' expected after '\"')",
        },
        {"row": 3, "eui": OTHER, "name": "c"},
        {
            "row": 4,
            "eui": "",
            "error": "cannot be read: up to line 5: quotes that do not match "
            "(unexpected end of data)",
        },
    ]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (
            "1.23E+15",
            "the EUI is 1.23E+15: a spreadsheet has made a number of it, and digits are lost: "
            "format the column as text, and enter it again",
        ),
        (
            "7,4731E+15",
            "the EUI is 7,4731E+15: a spreadsheet has made a number of it, and digits are lost: "
            "format the column as text, and enter it again",
        ),
        (
            "7320000770000",
            "'7320000770000' is not an EUI: 13 hexadecimal digits found, 16 expected; "
            "a spreadsheet drops leading zeros of what is not formatted as text",
        ),
    ],
)
def test_an_eui_that_a_spreadsheet_has_spoiled_is_told_so(cell, words):
    assert rows(f"eui;key\n{cell};{KEY}\n") == [{"row": 2, "eui": cell, "error": words}]


def test_an_eui_that_only_looks_like_such_a_number_is_one():
    assert rows("eui\n123456789012E+15\n1234567890123E15\n")[1] == {
        "row": 3,
        "eui": "1234567890123E15",
    }


@pytest.mark.parametrize("column", ["key", "short_addr"])
def test_a_key_or_address_that_became_a_number_is_told_so_and_not_shown(column):
    assert error_of(f"eui;{column}\n{SENSOR};1,12233E+29\n") == (
        f"{column}: a spreadsheet has made a number of it, and digits are lost: "
        "format the column as text, and enter it again"
    )


# --- what is no table ---

EXPECTED = "expected is endpoints.json, CSV with a line of column names, or TOML with [[sensors]]"
COLUMNS = "expected is a first line with the names of columns, such as eui,key,short_addr,name"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", f"is empty; {EXPECTED}"),
        (b"\xef\xbb\xbf \r\n# nothing\n", f"is empty; {EXPECTED}"),
        (b"PK\x03\x04...", "is a workbook or archive, a text is expected: save the table as CSV"),
        (b"\xd0\xcf\x11\xe0...", "is an old workbook, a text is expected: save the table as CSV"),
        (b"\x1f\x8b\x08", "is compressed, a text is expected: save the table as CSV"),
        (b"SQLite format 3\0", "is a database, a text is expected: save the table as CSV"),
        (b"eui\0", f"is no text; {EXPECTED}"),
        (b"\xff\xfee\0u", f"begins as utf-16 does, and goes on otherwise; {EXPECTED}"),
        (b"\xef\xbb\xbf\xff", f"begins as utf-8-sig does, and goes on otherwise; {EXPECTED}"),
        ("[{]", "is no JSON: line 1, column 3: Expecting property name enclosed in double quotes"),
        ('[{"eui": "' + SENSOR, "is no JSON: line 1, column 10: Unterminated string starting at"),
        ("[" + "9" * 5000 + "\n]", "is JSON with a number or a nesting beyond all measure"),
        ("[\n" * 200_000, "is JSON with a number or a nesting beyond all measure"),
        ('{"version": 1, "x": {}}', f"has no sensors, but 'version', 'x'; {EXPECTED}"),
        ('{"sensors": 7}', f"has no sensors, but 7; {EXPECTED}"),
        (
            '{"sensors": [], "endpoints": []}',
            "has sensors in several places: 'sensors', 'endpoints'",
        ),
        (
            "[[sensors]]\nx",
            "is no TOML: Expected '=' after a key in a key/value pair (at end of document)",
        ),
        ("[a]\n[a]", "is no TOML: Cannot declare a name twice (at line 2, column 3)"),
        ("a = " + "9" * 5000, "is TOML with a number or a nesting beyond all measure"),
        ("a = " + "[" * 5000, "is TOML with a number or a nesting beyond all measure"),
        ("server = 1", f"has no sensors, but 'server'; {EXPECTED}"),
        ("sep=;\n", f"has no columns; {COLUMNS}"),
        ("Hello world", f"has no column for the EUI, but 'Hello world'; {COLUMNS}"),
        (f"name;key\nx;{KEY}", f"has no column for the EUI, but 'name', 'key'; {COLUMNS}"),
        (f"{SENSOR};{KEY};127C", f"begins with a sensor; {COLUMNS}"),
        (f"x;{KEY};127C", f"has no column for the EUI, but 'x', ****, '127C'; {COLUMNS}"),
        (
            ";".join(f"c{n}" for n in range(22)),
            "has no column for the EUI, but "
            + ", ".join(f"'c{n}'" for n in range(20))
            + f" and 2 more; {COLUMNS}",
        ),
        ('"', f"has no columns; {COLUMNS}"),
        ("x" * 200_000, f"has no columns; {COLUMNS}"),
    ],
)
def test_a_file_that_is_no_table_says_which_what_was_found_and_what_is_expected(data, words):
    assert fault(data, "a/b.txt") == f"a/b.txt: {words}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.toml", "is no TOML"),
        ("x.TOML", "is no TOML"),
        ("x.json", "is no JSON"),
        ("x.csv", "has no column for the EUI"),
        ("toml", "is no TOML"),
        ("x", "has no column for the EUI"),
    ],
)
def test_a_suffix_decides_where_the_content_does_not(name, words):
    assert fault("Hello world", name).startswith(f"{name}: {words}")


@pytest.mark.parametrize("suffix", ["toml", "json", "csv"])
def test_content_decides_against_the_suffix(suffix):
    toml = f'[[sensors]]\neui = "{SENSOR}"'
    told = [read(text, f"x.{suffix}").form for text in (EARLIER, toml, f"sep=;\neui\n{SENSOR}")]
    assert told == ["json", "toml", "csv"]


def test_what_is_no_table_is_an_error_of_ours_for_which_the_user_is_asked():
    assert issubclass(SheetError, BssciError)
    assert SheetError.exit_code == 2


# --- bounds ---


def test_a_file_is_read_up_to_64_megabytes(monkeypatch):
    assert sheets.MAX_SHEET == 64 * 1024 * 1024
    monkeypatch.setattr(sheets, "MAX_SHEET", 10)
    assert read(b"eui,key\n\n\n") == Sheet(form="csv", rows=())
    assert fault(b"eui,key\n\n\n\n") == "sensors: has 11 bytes, at most 10 are possible"


@pytest.mark.parametrize("form", FORMS)
def test_a_million_rows_are_read_and_no_more(form, monkeypatch):
    assert sheets.MAX_ROWS == 1_000_000
    monkeypatch.setattr(sheets, "MAX_ROWS", 2)
    three = [{"eui": f"{n:016X}", "key": KEY} for n in range(3)]
    assert len(read(write_sheet(three[:2], form)).rows) == 2
    assert fault(write_sheet(three, form)) == "sensors: has more than 2 rows"


def many(count: int) -> list[dict[str, object]]:
    return [
        fields_of(EndPoint(eui=n, nwk_key=bytes(16), short_addr=1, name=f"Tür {n}"), reveal=True)
        for n in range(count)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_what_we_have_written_is_read_without_the_slow_reader_of_toml(form, monkeypatch):
    """It would take a second or more for these; how long it takes now, a test cannot say."""
    text = write_sheet(many(10_000), form)
    monkeypatch.delattr(tomllib, "loads")
    assert [row["eui"] for row in rows(text)] == [f"{n:016X}" for n in range(10_000)]


# --- a key is never seen ---


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"eui": KEY, "nwKey": SENSOR}]),
        json.dumps([{"eui": SENSOR, "wanted": KEY}]),
        json.dumps([{"eui": SENSOR, "name": [[KEY]]}]),
        json.dumps([KEY]),
        json.dumps({SENSOR: {}, KEY: {"eui": SENSOR}}),
        json.dumps([{"eui": SENSOR, KEY: 1}]),
        f"eui;key\n{KEY};{SENSOR}\n",
        f'eui;key\n{SENSOR};"{KEY}"x\n',
        f"eui;key\n{SENSOR};;{KEY}\n",
        f"eui;eui\n{SENSOR};{KEY}\n",
        f"eui;key;nwKey\n{SENSOR};{KEY};{KEY[::-1]}\n",
        f"{KEY};eui\n",
    ],
)
def test_a_key_in_the_wrong_place_is_not_shown(text):
    sheet = read(text)
    bad = [row for row in sheet.rows if "error" in row]
    seen = repr((bad, sheet.ignored, sheet))
    assert [KEY[n : n + 6] for n in range(27) if KEY[n : n + 6] in seen] == []


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY};{KEY}",
        f'[[sensors]]\nkey = "{KEY}" x',
        f"[{KEY}]\na = 1\n[{KEY}]",
        f'[{{"nwKey": "{KEY}" x}}]',
        f'{{"{KEY}": 1}}',
        f'{{"sensors": "{KEY}"}}',
    ],
)
def test_a_key_is_not_shown_when_the_file_cannot_be_read(text):
    told = fault(text)
    assert [KEY[n : n + 6] for n in range(27) if KEY[n : n + 6] in told] == []


# --- writing ---

FULL: dict[str, object] = {
    "eui": SENSOR,
    "name": "Halle 3, Tür",
    "key": KEY,
    "short_addr": "0016",
    "bidi": True,
    "dual_chan": False,
    "repetition": True,
    "wide_carr_off": False,
    "long_blk_dist": False,
    "ota": False,
    "tags": ["halle", "süd"],
    "timeout": 86400.5,
    "wanted": "detached",
}
LEARNED = {"activity": "active", "stations": [], "last_seen": 1.5, "uplinks": 7}


def test_toml_is_written_for_people():
    assert write_sheet([FULL | LEARNED, FULL | {"eui": OTHER, "timeout": None}], "toml") == (
        "# Sensors of a mioty Service Center, with their network keys: keep this file secret.\n"
        "\n"
        "[[sensors]]\n"
        'eui = "FCA84A030000127C"\n'
        'name = "Halle 3, Tür"\n'
        f'key = "{KEY}"\n'
        'short_addr = "0016"\n'
        "bidi = true\n"
        "dual_chan = false\n"
        "repetition = true\n"
        "wide_carr_off = false\n"
        "long_blk_dist = false\n"
        "ota = false\n"
        'tags = ["halle", "süd"]\n'
        "timeout = 86400.5\n"
        'wanted = "detached"\n'
        "\n"
        "[[sensors]]\n"
        'eui = "74731D0000000016"\n'
        'name = "Halle 3, Tür"\n'
        f'key = "{KEY}"\n'
        'short_addr = "0016"\n'
        "bidi = true\n"
        "dual_chan = false\n"
        "repetition = true\n"
        "wide_carr_off = false\n"
        "long_blk_dist = false\n"
        "ota = false\n"
        'tags = ["halle", "süd"]\n'
        'timeout = ""\n'
        'wanted = "detached"\n'
    )


def test_csv_has_a_line_of_names_and_one_per_sensor():
    sensors = [FULL | LEARNED, FULL | {"eui": OTHER, "name": "=1+1", "tags": [], "timeout": None}]
    assert write_sheet(sensors, "csv") == (
        "eui,name,key,short_addr,bidi,dual_chan,repetition,wide_carr_off,long_blk_dist,ota,tags,"
        "timeout,wanted\n"
        f'{SENSOR},"Halle 3, Tür",{KEY},0016,true,false,true,false,false,false,halle|süd,'
        "86400.5,detached\n"
        f"{OTHER},'=1+1,{KEY},0016,true,false,true,false,false,false,,,detached\n"
    )


def test_json_is_what_the_earlier_service_reads_and_more():
    """It wants an array, and of each sensor 16, 32 and 4 digits as text, and a flag."""
    told = json.loads(write_sheet([FULL | LEARNED], "json"))
    assert [list(sensor.items()) for sensor in told] == [
        [
            ("eui", SENSOR),
            ("nwKey", KEY),
            ("shortAddr", "0016"),
            ("bidi", True),
            ("dualChan", False),
            ("repetition", True),
            ("wideCarrOff", False),
            ("longBlkDist", False),
            ("name", "Halle 3, Tür"),
            ("ota", False),
            ("tags", ["halle", "süd"]),
            ("timeout", 86400.5),
            ("wanted", "detached"),
        ]
    ]


@pytest.mark.parametrize("form", FORMS)
def test_no_sensors_are_a_table_too(form):
    assert read(write_sheet([], form)) == Sheet(form=form, rows=())


@pytest.mark.parametrize("form", FORMS)
def test_a_table_without_keys_is_not_written(form):
    with pytest.raises(ValueError) as caught:
        write_sheet([FULL | {"key": "****"}], form)
    assert str(caught.value) == f"the key of {SENSOR} is not revealed"


FORMULAS = ["=SUM(A1)", "+1", "-1", "@x", "'=x", "''=x", "'tis", "''x", "'", "=", "\uff1d1"]


@pytest.mark.parametrize("name", FORMULAS)
def test_a_spreadsheet_takes_no_name_for_a_formula_and_it_comes_back_as_it_was(name):
    text = write_sheet([FULL | {"name": name, "tags": [name]}], "csv")
    (row,) = rows(text)
    cells = text.splitlines()[1].split(",")
    assert (row["name"], row["tags"]) == (name, name)
    assert [cell for cell in (cells[1], cells[10]) if cell[0] in "=+-@\uff1d"] == []


texts = st.text(
    st.characters(exclude_categories=("C", "Z"), include_characters=" '=+-@\",;|#\\[]")
    | st.sampled_from("'=+-@\",;#\\[]"),
    max_size=64,
)
names = texts.map(str.strip).filter(lambda name: len([c for c in name if c.isalnum()]) != 16)
tag_texts = texts.map(lambda text: "".join(c for c in text if c not in ",;|").strip()[:32].strip())
end_points = st.builds(
    EndPoint,
    eui=st.integers(0, 2**64 - 1),
    nwk_key=st.binary(min_size=16, max_size=16),
    short_addr=st.integers(0, 0xFFFF),
    bidi=st.booleans(),
    dual_chan=st.booleans(),
    repetition=st.booleans(),
    wide_carr_off=st.booleans(),
    long_blk_dist=st.booleans(),
    ota=st.booleans(),
    name=names,
    tags=st.lists(tag_texts.filter(bool), max_size=3, unique=True).map(tuple),
    timeout=st.none() | st.floats(1e-3, 10 * 365 * 86400.0),
)
wishes = st.lists(
    st.tuples(end_points, st.sampled_from(["attached", "detached"])),
    max_size=3,
    unique_by=lambda wish: wish[0].eui,
)

CHANGED = EndPoint(
    eui=0,
    nwk_key=bytes(range(16)),
    short_addr=0x1234,
    bidi=True,
    dual_chan=False,
    repetition=True,
    wide_carr_off=True,
    long_blk_dist=True,
    ota=True,
    name="changed since",
    tags=("a", "b"),
    timeout=7.0,
)


@pytest.mark.parametrize("form", FORMS)
@given(wishes)
def test_what_is_written_is_read_to_the_same_whatever_has_changed_since(form, wanted):
    listed = [fields_of(each, reveal=True) | {"wanted": wish} for each, wish in wanted]
    sheet = read(write_sheet(listed, form))
    made: dict[str, list[Any]] = {"new": [], "changed": []}
    for row in sheet.rows:
        told = {name: row[name] for name in row if name not in {"row", "eui", "wanted"}}
        eui = int(str(row["eui"]), 16)
        for case, known in (("new", None), ("changed", CHANGED)):
            end_point = end_point_of(told, eui=eui, known=known)
            made[case].append((end_point, row["wanted"]))
    assert (sheet.form, sheet.ignored, made["new"]) == (form, (), wanted)
    assert made["changed"] == [
        (EndPoint(**(_parameters(each) | {"eui": 0})), wish) for each, wish in wanted
    ]


def _parameters(end_point: EndPoint) -> dict[str, Any]:
    return {name: getattr(end_point, name) for name in EndPoint.__slots__}


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b"[[sensors]]")
@example(b"eui\n\r\n\r")
@example(b'{"": 1}')
def test_any_file_gives_rows_that_can_be_sent_or_a_sheet_error(data):
    with contextlib.suppress(SheetError):
        sent = [dict(row) for row in read(data).rows]
        assert json.loads(json.dumps(sent, allow_nan=False)) == sent
