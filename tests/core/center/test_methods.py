"""`methods`: annotations say what a method takes, and what does not fit is told in words."""

from __future__ import annotations

import pytest

from bssci.core.center.methods import Method, Parameter, bind, describe, methods_of
from bssci.core.center.rpc import InvalidRequestError


async def _set(
    eui: str,
    *,
    short_addr: str | int | None = None,
    count: int = 50,
    wait: float = 30,
    reveal: bool = False,
    tags: list[str] | None = None,
    rows: list[dict[str, object]] = (),  # type: ignore[assignment]  # only its type counts here
    values: dict[str, object] | None = None,
    value: object = None,
) -> NotImported: ...  # type: ignore[name-defined]  # noqa: F821  # nobody needs what it gives


SET = methods_of({"sensors.set": _set})["sensors.set"]


def refusal(params: dict[str, object] | list[object], method: Method = SET) -> str:
    with pytest.raises(InvalidRequestError) as refused:
        bind(method, params)
    assert refused.value.exit_code == 2
    return str(refused.value)


# --- what methods take -----------------------------------------------------------------------


def test_a_method_is_its_function_and_what_its_annotations_say():
    async def get(eui: str, *, reveal: bool = False) -> None: ...

    assert methods_of({"sensors.get": get}) == {
        "sensors.get": Method(
            "sensors.get",
            get,
            (
                Parameter("eui", ("str",), required=True),
                Parameter("reveal", ("bool",), required=False, default=False),
            ),
        )
    }


def test_annotations_that_are_types_count_as_much_as_those_that_are_text():
    async def get(eui, tags=None, wait=1.0): ...

    get.__annotations__ = {"eui": str, "tags": list[str] | None, "wait": float}
    kinds = [each.kinds for each in methods_of({"get": get})["get"].parameters]
    assert kinds == [("str",), ("list[str]", "None"), ("float",)]


def test_a_method_is_described_by_its_parameters():
    async def get(eui: str, *, tags: list[str] | None = None, wait: float = 30) -> None: ...

    assert describe({"sensors.get": get, "status.get": _nothing}) == {
        "sensors.get": {
            "eui": {"type": "str", "required": True, "default": None},
            "tags": {"type": "list[str] | None", "required": False, "default": None},
            "wait": {"type": "float", "required": False, "default": 30},
        },
        "status.get": {},
    }


async def _nothing() -> None: ...


async def _without(eui): ...
async def _unknown(eui: bytes): ...
async def _many(*eui: str): ...
async def _named(**eui: str): ...


@pytest.mark.parametrize("function", [_without, _unknown, _many, _named])
def test_a_parameter_that_json_cannot_be_checked_against_is_found_at_once(function):
    with pytest.raises(TypeError, match=r"^get: parameter .*eui.* cannot be bound to JSON$"):
        methods_of({"get": function})


# --- what fits -------------------------------------------------------------------------------


def test_parameters_are_bound_by_name_and_what_is_left_out_stays_out():
    given = {"reveal": True, "eui": "AB", "tags": ["a"], "rows": [{}], "values": {"a": 1}}
    assert bind(SET, given) == given


def test_parameters_are_bound_by_position_in_the_order_of_the_method():
    assert bind(SET, ["AB", 7, 3]) == {"eui": "AB", "short_addr": 7, "count": 3}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("short_addr", "1234"),
        ("short_addr", 1234),
        ("short_addr", None),
        ("count", -(2**63)),
        ("wait", 0.5),
        ("tags", []),
        ("value", [None]),
        ("value", None),
    ],
)
def test_a_value_of_the_right_type_is_bound_as_it_is(name, value):
    assert bind(SET, {"eui": "AB", name: value}) == {"eui": "AB", name: value}


def test_an_integer_is_a_float_where_a_float_is_meant():
    wait = bind(SET, ["AB", None, 3, 30])["wait"]
    assert (wait, type(wait)) == (30.0, float)
    assert type(bind(SET, {"eui": "AB", "count": 30})["count"]) is int


# --- what does not ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("eui", None, "found null, expected a text"),
        ("eui", 12, "found an integer, expected a text"),
        ("eui", {}, "found an object, expected a text"),
        ("short_addr", 1.5, "found a number, expected a text or an integer or null"),
        ("count", "7", "found a text, expected an integer"),
        ("count", 7.0, "found a number, expected an integer"),
        ("count", True, "found a boolean, expected an integer"),
        ("count", 2**63, "found an integer of more than 64 bits, expected an integer"),
        ("wait", False, "found a boolean, expected a number"),
        ("wait", 10**400, "found an integer of more than 64 bits, expected a number"),
        ("reveal", 1, "found an integer, expected a boolean"),
        ("tags", "a", "found a text, expected a list of texts or null"),
        ("tags", ["a", 1, None], "found a list of integers and nulls and texts, "
         "expected a list of texts or null"),
        ("rows", [[]], "found a list of lists, expected a list of objects"),
        ("rows", {}, "found an object, expected a list of objects"),
        ("values", [], "found a list, expected an object or null"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_told_with_what_was_found_and_what_is_expected(name, value, fault):
    params = {"eui": "AB"} | {name: value}
    assert refusal(params) == f"sensors.set: parameter {name!r}: {fault}"


def test_no_value_is_ever_repeated():
    assert "0123456789ABCDEF" not in refusal({"eui": ["0123456789ABCDEF"]})


def test_everything_that_is_wrong_is_told_at_once():
    async def get(eui: str, count: int = 1) -> None: ...

    method = methods_of({"get": get})["get"]
    assert refusal({"euid": "AB", "tag": "a", "count": "1"}, method) == (
        "get: unknown parameter 'euid', 'tag'; its parameters: eui, count; "
        "parameter 'eui' is missing, expected a text; "
        "parameter 'count': found a text, expected an integer"
    )


def test_of_many_unknown_parameters_some_are_named():
    method = methods_of({"status.get": _nothing})["status.get"]
    assert refusal({f"{number}" + 50 * "x": 1 for number in range(900)}, method) == (
        "status.get: unknown parameter "
        + ", ".join(f"'{number}{39 * 'x'}'" for number in range(5))
        + "; its parameters: none"
    )


def test_more_parameters_than_there_are_is_an_error():
    method = methods_of({"status.get": _nothing})["status.get"]
    assert refusal([1], method) == "status.get: 1 parameters found, at most 0 expected"
