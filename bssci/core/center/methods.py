"""What can be called by name: functions, their parameters, and JSON values bound to them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bssci.core.center.rpc import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from bssci.core.center.rpc import Params

__all__ = ["Method", "Parameter", "bind", "describe", "methods_of"]

MAX_FAULTS = 5  # that are told at once


def _is_int(value: object) -> bool:
    # 64 bits, because that is what a database and a clock can hold.
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_list_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, kind) for each in value)


_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "str": ("a text", lambda value: isinstance(value, str)),
    "int": ("an integer", _is_int),
    "float": ("a number", lambda value: isinstance(value, float) or _is_int(value)),
    "bool": ("a boolean", lambda value: isinstance(value, bool)),
    "list[str]": ("a list of texts", lambda value: _is_list_of(str, value)),
    "list[int]": ("a list of integers", lambda value: _is_list_of(int, value)),
    "list[dict[str,object]]": ("a list of objects", lambda value: _is_list_of(dict, value)),
    "dict[str,object]": ("an object", lambda value: isinstance(value, dict)),
    "object": ("anything", lambda _: True),
    "None": ("null", lambda value: value is None),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        kinds: the types it may have, each one of those that JSON can tell apart.
        default: what it is if it is left out; says nothing when it is required.
    """

    name: str
    kinds: tuple[str, ...]
    required: bool
    default: object = None

    def accepts(self, value: object) -> bool:
        return any(_KINDS[kind][1](value) for kind in self.kinds)

    def taken(self, value: object) -> object:
        """The value as the method gets it: an integer is a float where a float is meant."""
        return float(value) if isinstance(value, int) and self._means_float(value) else value

    def _means_float(self, value: int) -> bool:
        return not isinstance(value, bool) and "float" in self.kinds and "int" not in self.kinds


@dataclass(frozen=True, slots=True)
class Method:
    """A function that can be called by name, with what its annotations say."""

    name: str
    function: Callable[..., Awaitable[object]]
    parameters: tuple[Parameter, ...]


def methods_of(functions: Mapping[str, Callable[..., Awaitable[object]]]) -> dict[str, Method]:
    """Methods by name, from functions whose parameters have annotations of builtin types.

    Raises:
        TypeError: an annotation is none that JSON can be checked against. Our bug.
    """
    return {
        name: Method(name, function, tuple(_parameters(name, function)))
        for name, function in functions.items()
    }


def _parameters(method: str, function: Callable[..., object]) -> Iterator[Parameter]:
    for each in inspect.signature(function).parameters.values():
        kinds = tuple(_annotation(each).replace(" ", "").split("|"))
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) or not _KINDS.keys() >= {*kinds}:
            raise TypeError(f"{method}: parameter {each} cannot be bound to JSON")
        required = each.default is each.empty
        yield Parameter(each.name, kinds, required, None if required else each.default)


def _annotation(parameter: inspect.Parameter) -> str:
    """An annotation as it is written; nothing that it names needs to be loaded."""
    annotation = parameter.annotation
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def describe(
    functions: Mapping[str, Callable[..., Awaitable[object]]],
) -> dict[str, dict[str, dict[str, object]]]:
    """Methods with their parameters, as `service.info` shows them."""
    return {
        name: {
            each.name: {
                "type": " | ".join(each.kinds),
                "required": each.required,
                "default": each.default,
            }
            for each in method.parameters
        }
        for name, method in methods_of(functions).items()
    }


def bind(method: Method, params: Params) -> dict[str, object]:
    """The arguments to call a method with.

    Raises:
        InvalidRequestError: names every parameter that is unknown, missing or of a wrong type.
            No value is repeated: it could be a key.
    """
    given = params if isinstance(params, dict) else _by_position(method, params)
    if faults := tuple(_faults(method, given)):
        raise InvalidRequestError(f"{method.name}: {'; '.join(faults)}")
    known = (each for each in method.parameters if each.name in given)
    return {each.name: each.taken(given[each.name]) for each in known}


def _by_position(method: Method, values: Sequence[object]) -> dict[str, object]:
    names = [each.name for each in method.parameters]
    if len(values) > len(names):
        raise InvalidRequestError(
            f"{method.name}: {len(values)} parameters found, at most {len(names)} expected"
        )
    return dict(zip(names, values, strict=False))


def _faults(method: Method, given: Mapping[str, object]) -> Iterator[str]:
    names = [each.name for each in method.parameters]
    if unknown := [name for name in given if name not in names]:
        found = ", ".join(repr(name[:40]) for name in unknown[:MAX_FAULTS])
        yield f"unknown parameter {found}; its parameters: {', '.join(names) or 'none'}"
    for each in method.parameters:
        if each.name not in given:
            if each.required:
                yield f"parameter {each.name!r} is missing, expected {_expected(each)}"
        elif not each.accepts(value := given[each.name]):
            yield f"parameter {each.name!r}: found {_found(value)}, expected {_expected(each)}"


def _expected(parameter: Parameter) -> str:
    return " or ".join(_KINDS[kind][0] for kind in parameter.kinds)


_WORDS = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    list: "list",
    dict: "object",
}


def _found(value: object) -> str:
    match _WORDS[type(value)], value:
        case "null", _:
            return "null"
        case "list", [_, *_] as entries:
            kinds = sorted({f"{_WORDS[type(each)]}s" for each in entries})
            return f"a list of {' and '.join(kinds)}"
        case "integer", _:
            return "an integer" if _is_int(value) else "an integer of more than 64 bits"
        case "object", _:
            return "an object"
    return f"a {_WORDS[type(value)]}"
