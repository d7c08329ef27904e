"""Plain JSON values into dataclasses, strictly: the types are the schema.

An unknown key, a missing one and a value of another type are errors that name the place. Values
are never repeated in a message: they may be source text. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import typing
from collections.abc import Sequence
from enum import Enum
from typing import Any, NoReturn, TypeVar

from blockdiff.errors import InvalidRequest

_T = TypeVar("_T")

_NAMES = {
    dict: "an object", list: "an array", str: "a string", bool: "true or false",
    int: "an integer", float: "a number", type(None): "null",
}  # fmt: skip


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises InvalidRequest."""
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"not JSON: {error.msg} at offset {error.pos}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, absurd numbers, absurd nesting
        raise InvalidRequest(f"not JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"the body must be an object, not {_name(value)}")
    return value


def decode(kind: type[_T], value: Any, where: str = "") -> _T:
    """`value` as a `kind`: a dataclass, an enum, a tuple, str, int, float or bool.

    `where` names the place in messages, such as `decoding.max_tokens`.

    Raises:
        InvalidRequest: it does not fit, or the dataclass itself refuses it.
    """
    if dataclasses.is_dataclass(kind):
        return typing.cast(_T, _dataclass(kind, value, where))
    if typing.get_origin(kind) is tuple:
        return typing.cast(_T, _tuple(kind, value, where))
    if issubclass(kind, Enum):
        return _enum(kind, value, where)
    if kind is float:
        return typing.cast(_T, _float(value, where))
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        _expected(_NAMES[kind], value, where)
    if isinstance(value, str):
        _check_text(value, where)
    return value


def _dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        _expected(_NAMES[dict], value, where)
    prefix = f"{where}." if where else ""
    types = _field_types(kind)
    for key in value:
        if key not in types:
            near = difflib.get_close_matches(key, types, n=1)
            known = f"did you mean {near[0]}?" if near else f"known: {', '.join(types)}"
            raise InvalidRequest(f"unknown key {prefix + key[:40]!r}", known)
    for field in dataclasses.fields(kind):
        no_default = field.default is field.default_factory is dataclasses.MISSING
        if no_default and field.name not in value:
            raise InvalidRequest(f"{prefix}{field.name} is missing")
    return kind(**{key: decode(types[key], item, prefix + key) for key, item in value.items()})


def _tuple(kind: type, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        _expected(_NAMES[list], value, where)
    item_kind = typing.get_args(kind)[0]
    return tuple(decode(item_kind, item, f"{where}[{i}]") for i, item in enumerate(value))


def _enum(kind: type[_T], value: Any, where: str) -> _T:
    members = {member.value: member for member in typing.cast(type[Enum], kind)}
    if not isinstance(value, str) or value not in members:
        raise InvalidRequest(f"{where} must be one of {', '.join(members)}")
    return typing.cast(_T, members[value])


def _float(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _expected(_NAMES[float], value, where)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequest(f"{where} is too large a number")
    return number


def _check_text(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{where} holds half of a surrogate pair at offset {error.start}",
            "send whole characters",
        ) from error


@functools.cache
def _field_types(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _expected(wanted: str, value: Any, where: str) -> NoReturn:
    raise InvalidRequest(f"{where or 'the value'} must be {wanted}, not {_name(value)}")


def _name(value: Any) -> str:
    return _NAMES[type(value)]


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise InvalidRequest("a key appears twice in one object")
    return table


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not a number that JSON knows")
