"""JSON values into dataclasses, strictly: the annotations are the schema, msgspec checks them.

Errors name the place in our words. A text is never repeated in one: it may be source.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, NoReturn, TypeVar, get_args

import msgspec

from blockdiff.config import annotations_of, bare, outside
from blockdiff.errors import InvalidRequest

_T = TypeVar("_T")

_NAMES = {
    "object": "an object", "array": "an array", "str": "a string", "bool": "true or false",
    "int": "an integer", "float": "a number", "null": "null",
}  # fmt: skip
_PLACE = re.compile(r"(.*?)(?: - at `\$((?:\.\w+|\[\d+\])*)`)?\Z", re.DOTALL)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises InvalidRequest, for a key that appears twice as well."""
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"not JSON: {error.msg} at offset {error.pos}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, absurd numbers, absurd nesting
        raise InvalidRequest(f"not JSON: {type(error).__name__}") from error
    return value if isinstance(value, dict) else read(dict, value, "the body")


def read(kind: type[_T], value: Any, where: str = "") -> _T:
    """`value` as a `kind`: a dataclass, an enum, a tuple, str, int, float or bool.

    `where` names the place in messages, such as `decoding.max_tokens`.

    Raises:
        InvalidRequest: it does not fit, or the dataclass itself refuses it.
    """
    _check(kind, value, where)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _refusal(kind, value, where, str(error)) from None


def _check(kind: Any, value: Any, where: str) -> None:
    """Refuses what the library lets pass: keys that a dataclass has not, half characters, numbers
    that are not finite."""
    kind = bare(kind)
    if isinstance(value, dict) and is_dataclass(kind):
        known = annotations_of(kind)  # type: ignore[arg-type]
        for key, item in value.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                raise InvalidRequest(f"unknown key {_inside(where, key[:40])!r}", hint)
            _check(known[key], item, _inside(where, key))
    elif isinstance(value, list) and get_args(kind):
        for index, item in enumerate(value):
            _check(get_args(kind)[0], item, f"{where}[{index}]")
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            problem = f"{where} holds half of a surrogate pair at offset {error.start}"
            raise InvalidRequest(problem, "send whole characters") from error
    elif isinstance(value, float) and kind is float and not math.isfinite(value):
        raise InvalidRequest(f"{where} is too large a number")


def _refusal(kind: Any, value: Any, where: str, said: str) -> InvalidRequest:
    """What the library said of `value` in our words, with its place."""
    wrong, path = _PLACE.fullmatch(said).groups("")  # type: ignore[union-attr]
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        if name:
            kind, value, where = annotations_of(bare(kind))[name], value[name], _inside(where, name)
        else:
            kind, value, where = get_args(bare(kind))[0], value[int(index)], f"{where}[{index}]"
    kind_here = bare(kind)
    if isinstance(kind_here, type) and issubclass(kind_here, Enum):
        return InvalidRequest(f"{where} must be one of {', '.join(m.value for m in kind_here)}")
    if found := re.fullmatch(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", wrong):
        wanted, got = (_NAMES[word] for word in found.groups())
        return InvalidRequest(f"{where or 'the value'} must be {wanted}, not {got}")
    if found := re.fullmatch(r"Object missing required field `(\w+)`", wrong):
        return InvalidRequest(f"{_inside(where, found[1])} is missing")
    if wrong == "Number out of range":
        return InvalidRequest(f"{where} is too large a number")
    return outside(where.rpartition(".")[2], bare(kind)(value), kind)


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise InvalidRequest("a key appears twice in one object")
    return table


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not a number that JSON knows")
