"""What an end point is: read from any spelling, shown without its key, marked for base stations."""

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bssci.core.center.end_points import (
    FIELDS,
    KEY_MASK,
    EndPoint,
    InvalidEndPointError,
    attach_propagate,
    bare_name,
    changes_between,
    end_point_of,
    field_named,
    fields_of,
    mark_of,
    parse_key,
    shown,
)
from bssci.core.protocol.errors import BssciError
from bssci.core.protocol.messages import AttachPropagate

EUI = 0xFCA84A030000127C
HEX = "2b7e151628aed2a6abf7158809cf4f3c"
KEY = bytes.fromhex(HEX)

PLAIN = EndPoint(eui=EUI, nwk_key=KEY, short_addr=0x127C)
FULL = EndPoint(
    eui=EUI,
    nwk_key=KEY,
    short_addr=0x0016,
    bidi=True,
    dual_chan=False,
    repetition=True,
    wide_carr_off=True,
    long_blk_dist=True,
    ota=True,
    name="Halle 3, Tür",
    tags=("halle", "süd"),
    timeout=86400.5,
)


def _is_no_eui(name: str) -> bool:
    return sum(c in "0123456789abcdefABCDEF" for c in name) != 16


names = st.text(
    st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=64
).map(str.strip)
tag_texts = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters=",;|"), min_size=1, max_size=32
)
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
    name=names.filter(_is_no_eui),
    tags=st.lists(tag_texts, max_size=16, unique=True).map(tuple),
    timeout=st.none() | st.floats(1e-3, 10 * 365 * 86400.0),
)


def read(eui=EUI, known: EndPoint | None = None, **given: object) -> EndPoint:
    return end_point_of(given, eui=eui, known=known)


def refusal(given: dict[str, Any], known: EndPoint | None = PLAIN) -> str:
    with pytest.raises(InvalidEndPointError) as caught:
        end_point_of(given, eui=EUI, known=known)
    return str(caught.value)


def forms_of(key: bytes) -> list[str]:
    return [key.hex(), key.hex().upper(), repr(key), str(list(key))]


# --- keys ---


@pytest.mark.parametrize(
    "spelling",
    [
        HEX,
        HEX.upper(),
        f" {HEX}\n",
        f"0x{HEX}",
        f"0X{HEX}",
        "2b:7e:15:16:28:ae:d2:a6:ab:f7:15:88:09:cf:4f:3c",
        "2b7e1516-28ae-d2a6-abf7-158809cf4f3c",
        "2b7e1516 28aed2a6\tabf71588\N{NO-BREAK SPACE}09cf4f3c",
    ],
)
def test_every_usual_spelling_means_the_same_key(spelling):
    assert parse_key(spelling) == KEY


@given(st.binary(min_size=16, max_size=16))
def test_any_sixteen_octets_are_a_key(key):
    assert parse_key(key.hex()) == parse_key(key.hex(" ").upper()) == key


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("", "the key has 0 hexadecimal digits, 32 are expected (16 bytes)"),
        (HEX[:30], "the key has 30 hexadecimal digits, 32 are expected (16 bytes)"),
        (HEX + "0", "the key has 33 hexadecimal digits, 32 are expected (16 bytes)"),
        (
            "O" + HEX[1:],
            "the key has 1 characters that are no hexadecimal digits; 31 digits found, 32 expected",
        ),
        (
            HEX[:31] + "\uff13",  # a digit that only looks like one
            "the key has 1 characters that are no hexadecimal digits; 31 digits found, 32 expected",
        ),
        (
            KEY_MASK,
            "the key has 4 characters that are no hexadecimal digits; 0 digits found, 32 expected",
        ),
        (
            HEX[:31] + "\ud800",
            "the key has 1 characters that are no hexadecimal digits; 31 digits found, 32 expected",
        ),
        (int(HEX, 16), "the key is no text: 32 hexadecimal digits are expected"),
        (KEY, "the key is no text: 32 hexadecimal digits are expected"),
        (None, "the key is no text: 32 hexadecimal digits are expected"),
        ([43, 126], "the key is no text: 32 hexadecimal digits are expected"),
    ],
)
def test_what_is_no_key_is_refused_with_what_was_found_and_never_shown(spelling, words):
    with pytest.raises(InvalidEndPointError) as caught:
        parse_key(spelling)
    assert str(caught.value) == words


def test_what_is_no_end_point_is_an_error_of_ours_and_a_wrong_value():
    assert issubclass(InvalidEndPointError, BssciError)
    assert issubclass(InvalidEndPointError, ValueError)


# --- names of parameters ---


def test_every_parameter_is_one_of_an_end_point_and_only_the_eui_is_none():
    told = {way.attribute for way in FIELDS.values()}
    assert told == {f.name for f in fields(EndPoint)} - {"eui"}


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        (spelled, name)
        for name, way in FIELDS.items()
        for spelled in (way.attribute, name, *way.others)
    ],
)
def test_every_listed_spelling_means_its_parameter_in_any_case(spelled, name):
    assert {field_named(form) for form in (spelled, spelled.upper(), f" {spelled}\n")} == {name}


def test_no_spelling_means_two_parameters():
    spelled = [bare_name(s) for name, way in FIELDS.items() for s in {name, *way.others}]
    bare = [set(map(bare_name, (name, *way.others))) for name, way in FIELDS.items()]
    assert sum(map(len, bare)) == len(set().union(*bare)) == len(set(spelled))


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("Short Addr", "short_addr"),
        ("short-addr", "short_addr"),
        ("SHORT.ADDRESS", "short_addr"),
        ("Netzwerkschlu\u0308ssel", "key"),  # as some systems write an ü
        ("\uff4b\uff45\uff59", "key"),  # wide letters
        ("eui", None),
        ("", None),
        ("keys", None),
    ],
)
def test_separators_case_and_forms_of_letters_make_no_difference(spelled, name):
    assert field_named(spelled) == name


# --- reading ---


def test_a_key_is_enough():
    assert read(key=HEX) == EndPoint(
        eui=EUI,
        nwk_key=KEY,
        short_addr=0x127C,
        bidi=False,
        dual_chan=True,
        repetition=False,
        wide_carr_off=False,
        long_blk_dist=False,
        ota=False,
        name="",
        tags=(),
        timeout=None,
    )


def test_everything_by_the_names_of_mqtt():
    assert (
        read(
            nwKey=HEX,
            shortAddr="0016",
            bidi=True,
            dualChan=False,
            repetition=True,
            wideCarrOff=True,
            longBlkDist=True,
            ota=True,
            name="Halle 3, Tür",
            tags=["halle", "süd"],
            timeout=86400.5,
        )
        == FULL
    )


@given(end_points)
def test_what_is_shown_with_its_key_is_read_again(end_point):
    told = fields_of(end_point, reveal=True)
    del told["eui"]
    assert end_point_of(told, eui=end_point.eui) == end_point
    assert end_point_of(told, eui=end_point.eui, known=replace(FULL, eui=end_point.eui)) == (
        end_point
    )


def test_what_is_not_given_stays_as_it_is():
    assert read(known=FULL) == FULL
    assert read(known=FULL, bidi=False) == replace(FULL, bidi=False)
    assert read(known=FULL, name=None, key=None, tags=None) == FULL


def test_no_timeout_means_the_one_for_all():
    assert read(known=FULL, timeout=None) == replace(FULL, timeout=None)


@pytest.mark.parametrize(
    ("value", "short_addr"), [("0016", 0x16), ("0x127c", 0x127C), ("12:7c", 0x127C), (22, 0x16)]
)
def test_a_short_address_in_any_usual_spelling(value, short_addr):
    assert read(known=PLAIN, short_addr=value) == replace(PLAIN, short_addr=short_addr)


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        *((value, True) for value in (True, 1, 1.0, "1", "true", "TRUE", " Yes ", "on", "ja")),
        *((value, False) for value in (False, 0, 0.0, -0.0, "0", "False", "no", "OFF", "Nein")),
        ("WAHR", True),
        ("FALSCH", False),
    ],
)
def test_a_flag_in_any_usual_spelling_is_a_flag(value, flag):
    made = read(known=PLAIN, bidi=value)
    assert (made, type(made.bidi)) == (replace(PLAIN, bidi=flag), bool)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("", ""),
        ("  Halle 3\n", "Halle 3"),
        ("Halle\N{NO-BREAK SPACE}3\N{EM SPACE}Tor", "Halle 3 Tor"),
        ("=SUM(A1)", "=SUM(A1)"),
        ("x" * 64, "x" * 64),
        ("127C", "127C"),
        ("\N{WATER WAVE} Zähler", "\N{WATER WAVE} Zähler"),
        ("DE0005626680200000000000000001234", "DE0005626680200000000000000001234"),
    ],
)
def test_a_name_is_one_line_as_it_was_written(value, name):
    assert read(known=PLAIN, name=value) == replace(PLAIN, name=name)


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("", ()),
        ([], ()),
        (" ; ", ()),
        ("halle", ("halle",)),
        ("halle, süd;halle |tor", ("halle", "süd", "tor")),
        (["halle ", "süd", "halle"], ("halle", "süd")),
        (("halle",), ("halle",)),
        ([f"t{n}" for n in range(16)], tuple(f"t{n}" for n in range(16))),
    ],
)
def test_tags_are_a_list_or_a_text_with_separators(value, tags):
    assert read(known=PLAIN, tags=value) == replace(PLAIN, tags=tags)


@pytest.mark.parametrize(
    ("value", "timeout"),
    [("", None), (" ", None), (60, 60.0), (0.5, 0.5), (" 3600 ", 3600.0), ("1e3", 1000.0)],
)
def test_a_timeout_is_seconds_or_none(value, timeout):
    made = read(known=replace(PLAIN, timeout=7.0), timeout=value)
    assert (made.timeout, type(made.timeout)) == (timeout, type(timeout))


# --- what is refused ---

DIGITS = "four hexadecimal digits are expected"
FLAG = "true or false is expected"
TAGS = "tags of 1 to 32 characters without , ; | are expected"
SECONDS = "seconds above 0 and at most 315360000 are expected"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"colour": 1}, "'colour' is no parameter of a sensor"),
        ({"eui": "FCA84A030000127C"}, "'eui' is no parameter of a sensor"),
        ({"": 1}, "'' is no parameter of a sensor"),
        ({"x" * 50: 1}, f"'{'x' * 40}…' is no parameter of a sensor"),
        ({"\x1b[2J\ud800": 1}, r"'\x1b[2J\ud800' is no parameter of a sensor"),
        ({"bidi": 1, "bidirectional": 1}, "bidirectional is given twice, also as bidi"),
        ({"bidi": "?", "Bidi": 1}, f"bidi: found '?', {FLAG}; Bidi is given twice, also as bidi"),
        ({"bi\ndi": "?"}, f"'bi\\ndi': found '?', {FLAG}"),
        ({"bidi" + " " * 40: "?"}, f"'bidi{' ' * 36}…': found '?', {FLAG}"),
        ({"nwKey": "12"}, "nwKey: the key has 2 hexadecimal digits, 32 are expected (16 bytes)"),
        (
            {"shortAddr": "7C"},
            "shortAddr: '7C' is not a short address: 2 hexadecimal digits found, 4 expected",
        ),
        ({"short_addr": True}, f"short_addr: found true, {DIGITS}"),
        ({"short_addr": -1}, f"short_addr: found -1, {DIGITS}"),
        ({"short_addr": 65536}, f"short_addr: found 65536, {DIGITS}"),
        ({"short_addr": 22.0}, f"short_addr: found 22.0, {DIGITS}"),
        ({"short_addr": 16**5000}, f"short_addr: found a huge number, {DIGITS}"),
        ({"short_addr": []}, f"short_addr: found a list, {DIGITS}"),
        ({"bidi": 2}, f"bidi: found 2, {FLAG}"),
        ({"bidi": 0.5}, f"bidi: found 0.5, {FLAG}"),
        ({"bidi": float("nan")}, f"bidi: found nan, {FLAG}"),
        ({"bidi": -(16**5000)}, f"bidi: found a huge number, {FLAG}"),
        ({"bidi": float("-inf")}, f"bidi: found a huge number, {FLAG}"),
        ({"bidi": "maybe"}, f"bidi: found 'maybe', {FLAG}"),
        ({"bidi": ""}, f"bidi: found '', {FLAG}"),
        ({"bidi": {}}, f"bidi: found a table, {FLAG}"),
        ({"bidi": b"1"}, f"bidi: found a value of type bytes, {FLAG}"),
        ({"name": 7}, "name: found 7, a text is expected"),
        (
            {"name": "a\nb"},
            "name: found 'a\\nb', one line without control characters is expected",
        ),
        (
            {"name": "a\x00"},
            "name: found 'a\\x00', one line without control characters is expected",
        ),
        (
            {"name": "a\ud800"},
            "name: found 'a\\ud800', one line without control characters is expected",
        ),
        (
            {"name": "a\u202eb"},  # turns around what a terminal shows
            "name: found 'a\\u202eb', one line without control characters is expected",
        ),
        ({"name": "x" * 65}, "name: has 65 characters, at most 64 are possible"),
        (
            {"name": "fc:a8:4a:03:00:00:12:7c"},
            "name: found 'fc:a8:4a:03:00:00:12:7c', a name that is no EUI is expected",
        ),
        ({"tags": 7}, "tags: found 7, a list of texts is expected"),
        ({"tags": {"a": 1}}, "tags: found a table, a list of texts is expected"),
        ({"tags": ["a", 7]}, f"tags: found 7, {TAGS}"),
        ({"tags": ["a", None]}, f"tags: found nothing, {TAGS}"),
        ({"tags": ["a", " "]}, f"tags: found ' ', {TAGS}"),
        ({"tags": ["a,b"]}, f"tags: found 'a,b', {TAGS}"),
        ({"tags": "a\nb"}, f"tags: found 'a\\nb', {TAGS}"),
        ({"tags": "x" * 33}, f"tags: found '{'x' * 33}', {TAGS}"),
        ({"tags": [f"t{n}" for n in range(17)]}, "tags: has 17 tags, at most 16 are possible"),
        ({"timeout": 0}, f"timeout: found 0, {SECONDS}"),
        ({"timeout": -1.5}, f"timeout: found -1.5, {SECONDS}"),
        ({"timeout": True}, f"timeout: found true, {SECONDS}"),
        ({"timeout": "soon"}, f"timeout: found 'soon', {SECONDS}"),
        ({"timeout": "nan"}, f"timeout: found 'nan', {SECONDS}"),
        ({"timeout": "inf"}, f"timeout: found 'inf', {SECONDS}"),
        ({"timeout": 315360001}, f"timeout: found 315360001, {SECONDS}"),
        ({"timeout": 16**5000}, f"timeout: found a huge number, {SECONDS}"),
        ({"timeout": [1]}, f"timeout: found a list, {SECONDS}"),
    ],
)
def test_what_is_wrong_is_told_with_what_was_found_and_what_is_expected(given, words):
    assert refusal(given) == words


def test_everything_that_is_wrong_is_told_at_once():
    assert refusal({"bidi": "?", "colour": 1, "shortAddr": "zz"}, known=None) == (
        f"bidi: found '?', {FLAG}; 'colour' is no parameter of a sensor; "
        "shortAddr: 'zz' is not a short address: 0 hexadecimal digits found, 4 expected; "
        "'z' does not belong there; "
        "the key is missing: 32 hexadecimal digits are expected"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "the key is missing: 32 hexadecimal digits are expected"),
        ({"nwKey": None}, "the key is missing: 32 hexadecimal digits are expected"),
        (
            {"key": "12"},
            "key: the key has 2 hexadecimal digits, 32 are expected (16 bytes)",
        ),
        (
            {"keyboard": "monkey"},
            "'keyboard' is no parameter of a sensor; "
            "the key is missing: 32 hexadecimal digits are expected",
        ),
    ],
)
def test_a_new_end_point_needs_a_key_and_is_asked_for_it_once(given, words):
    assert refusal(given, known=None) == words


# --- a key is never seen ---

MISTYPED = [
    HEX,
    HEX.upper(),
    HEX + "0",
    HEX[:30],
    HEX[:20] + "O" + HEX[21:],
    KEY.hex(" "),
    KEY.hex(":"),
    KEY.hex(","),
    "{" + ", ".join(f"0x{octet:02x}" for octet in KEY) + "}",
    f'"nwKey": "{HEX}", "shortAddr": "0016", "bidi": false, "registered": true',
    "the network key is " + HEX,
    HEX[:17] + "l" + HEX[18:] + " was written down by somebody else for all of us to see" * 4,
]


@pytest.mark.parametrize("spelling", MISTYPED)
@pytest.mark.parametrize("name", [name for name in FIELDS if name != "name"])
def test_a_key_in_the_wrong_place_is_not_shown(name, spelling):
    given = {name: [spelling * 2] if name == "tags" else spelling}
    if name == "key" and spelling in {HEX, HEX.upper(), KEY.hex(" "), KEY.hex(":")}:
        assert end_point_of(given, eui=EUI) == PLAIN
        return
    told = refusal(given).lower()
    assert [HEX[n : n + 6] for n in range(27) if HEX[n : n + 6] in told] == []
    assert KEY.hex(" ")[:11] not in told
    assert "0x2b" not in told


@pytest.mark.parametrize("spelling", MISTYPED)
def test_a_key_as_the_name_of_a_parameter_is_not_shown(spelling):
    assert refusal({spelling: "key"}) == "**** is no parameter of a sensor"


@pytest.mark.parametrize("number", [11223344556677889900112233445566, 1.1223344556677889e31])
def test_a_key_of_digits_only_that_became_a_number_is_not_shown(number):
    assert refusal({"short_addr": number, "key": number}) == (
        f"short_addr: found a huge number, {DIGITS}; "
        "key: the key is no text: 32 hexadecimal digits are expected"
    )


@pytest.mark.parametrize(
    "text",
    [
        "FCA84A030000127C",
        "fc-a8-4a-03-00-00-12-7c",
        "FCA84A030000127C00",
        "Wasserzähler, Gebäude 17, Eingang Ost",
    ],
)
def test_what_cannot_be_a_key_is_shown(text):
    assert shown(text) == repr(text)


@given(end_points)
def test_a_key_is_seen_only_when_it_is_to_be_revealed(end_point):
    seen = [repr(end_point), str(end_point), repr(fields_of(end_point))]
    seen.append(repr(changes_between(end_point, replace(end_point, nwk_key=KEY))))
    seen.append(repr(attach_propagate(end_point)))
    told = forms_of(end_point.nwk_key)
    assert [form for form in told for text in seen if form in text] == []
    assert told[1] in repr(fields_of(end_point, reveal=True))


# --- showing ---


def test_parameters_are_shown_by_the_names_of_listings_and_in_their_order():
    assert list(fields_of(FULL).items()) == [
        ("eui", "FCA84A030000127C"),
        ("name", "Halle 3, Tür"),
        ("key", "****"),
        ("short_addr", "0016"),
        ("bidi", True),
        ("dual_chan", False),
        ("repetition", True),
        ("wide_carr_off", True),
        ("long_blk_dist", True),
        ("ota", True),
        ("tags", ["halle", "süd"]),
        ("timeout", 86400.5),
    ]


def test_a_key_is_revealed_in_upper_case():
    assert fields_of(PLAIN, reveal=True) == fields_of(PLAIN) | {"key": HEX.upper()}


def test_changes_are_told_by_the_names_of_listings_and_in_their_order():
    assert list(changes_between(PLAIN, FULL).items()) == [
        ("name", ("", "Halle 3, Tür")),
        ("short_addr", ("127C", "0016")),
        ("bidi", (False, True)),
        ("dual_chan", (True, False)),
        ("repetition", (False, True)),
        ("wide_carr_off", (False, True)),
        ("long_blk_dist", (False, True)),
        ("ota", (False, True)),
        ("tags", ([], ["halle", "süd"])),
        ("timeout", (None, 86400.5)),
    ]


def test_of_a_key_it_is_told_that_it_changed_and_where_it_belongs():
    after = replace(PLAIN, nwk_key=bytes(16), name="x", bidi=True)
    assert list(changes_between(PLAIN, after).items()) == [
        ("name", ("", "x")),
        ("key", ("****", "****")),
        ("bidi", (False, True)),
    ]


@given(end_points)
def test_nothing_changes_between_equals(end_point):
    assert changes_between(end_point, replace(end_point)) == {}


@given(end_points, end_points)
@example(PLAIN, FULL)
def test_a_change_told_is_a_change_and_none_is_left_out(before, after):
    after = replace(after, eui=before.eui)
    told = {FIELDS[name].attribute for name in changes_between(before, after)}
    assert told == {
        way.attribute
        for way in FIELDS.values()
        if getattr(before, way.attribute) != getattr(after, way.attribute)
    }


# --- what base stations are told ---


def test_base_stations_are_told_how_the_radio_is_set_and_the_last_counter():
    assert attach_propagate(FULL, last_packet_cnt=390) == AttachPropagate(
        ep_eui=EUI,
        bidi=True,
        nwk_sn_key=KEY,
        sh_addr=0x0016,
        last_packet_cnt=390,
        dual_chan=False,
        repetition=True,
        wide_carr_off=True,
        long_blk_dist=True,
    )


def test_a_counter_is_zero_until_it_is_known():
    assert attach_propagate(PLAIN).last_packet_cnt == 0


def test_the_mark_is_half_of_what_another_program_makes_of_the_same_text():
    """Marks are on disk: this answer, of `b2sum -l 64`, must never change.

    bidi=1 dual_chan=1 ep_eui=18205882870390592124 long_blk_dist=0
    nwk_sn_key=2b7e151628aed2a6abf7158809cf4f3c repetition=0 sh_addr=4732 wide_carr_off=0
    """
    assert mark_of(replace(PLAIN, bidi=True)) == 0xCBA345831507A417 >> 1 == 7336824220099531275


@pytest.mark.parametrize("seed", ["0", "1", "random"])
def test_a_mark_is_the_same_in_every_process(seed):
    program = (
        "from bssci.core.center.end_points import EndPoint, mark_of\n"
        f"print(mark_of(EndPoint(eui={EUI}, nwk_key={KEY!r}, short_addr=0x127C, bidi=True)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONHASHSEED": seed},
    )
    assert done.stdout == "7336824220099531275\n"


@given(end_points)
def test_a_mark_fits_a_signed_number_of_64_bits_and_is_never_zero(end_point):
    assert 0 < mark_of(end_point) < 2**63


@given(end_points, st.integers(0, 2**32 - 1))
def test_the_mark_of_an_end_point_is_that_of_its_message_whatever_the_counter(end_point, count):
    assert mark_of(attach_propagate(end_point, last_packet_cnt=count)) == mark_of(end_point)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x"},
        {"tags": ("x",)},
        {"timeout": 7.0},
        {"ota": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_base_stations_are_not_told_leaves_the_mark_as_it_is(changes):
    assert mark_of(replace(PLAIN, **changes)) == mark_of(PLAIN)


def test_everything_that_base_stations_are_told_gives_another_mark():
    others: list[dict[str, Any]] = [
        {},
        {"eui": EUI ^ 1},
        {"nwk_key": bytes(16)},
        {"short_addr": 0x127D},
        {"bidi": True},
        {"dual_chan": False},
        {"repetition": True},
        {"wide_carr_off": True},
        {"long_blk_dist": True},
    ]
    assert len({mark_of(replace(PLAIN, **changes)) for changes in others}) == len(others)


def test_a_flag_that_was_read_as_a_number_gives_the_same_mark_in_any_order():
    told = attach_propagate(PLAIN)
    flags: dict[str, Any] = {"dual_chan": 1, "bidi": 0}
    numbers = replace(told, **flags)
    assert [mark_of(numbers), mark_of(told)] == [mark_of(PLAIN)] * 2
