"""The protocol's messages from JSON, of clients older and newer than the types we have.

A value that an enumeration does not list stays as it is. What cannot be read of `initialize` is
left out: that request has had its answer, and without a client the server would answer no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import Any, TypeAlias

from cattrs import AttributeValidationNote, Converter, IterableValidationNote
from cattrs.errors import BaseValidationError
from lsprotocol import converters, types
from pygls.protocol import JsonRPCNotification, JsonRPCRequestMessage, JsonRPCResponseMessage

from lsp_server.messages import snake

_MOST_REPAIRS = 100  # of one `initialize`; each leaves out all that is wrong at its depth

_Place: TypeAlias = "tuple[str | int, ...]"


def converter(detailed: bool = False) -> Converter:
    """Like that of pygls, but what it has no type for stays plain JSON, and nothing is coerced.

    Reading ends at the first fault, unless they are wanted in detail.
    """
    made = converters.get_converter(Converter(detailed_validation=detailed))
    for kind, parts in (
        (JsonRPCRequestMessage, ("id", "method", "jsonrpc", "params")),
        (JsonRPCNotification, ("method", "jsonrpc", "params")),
        (JsonRPCResponseMessage, ("id", "jsonrpc", "result")),
    ):
        made.register_structure_hook(
            kind, lambda value, kind, parts=parts: kind(*(value.get(part) for part in parts))
        )
    for kind in vars(types).values():
        if isinstance(kind, type) and issubclass(kind, Enum):
            made.register_structure_hook(kind, _member)
            made.register_unstructure_hook(kind, lambda item: getattr(item, "value", item))
    made.register_structure_hook(str, _text)
    made.register_structure_hook(int, _integer)
    made.register_structure_hook(bool, lambda value, kind: bool(value))  # 1 and 0 of old editors
    as_listed = made.get_structure_hook(types.Diagnostic)
    made.register_structure_hook(types.Diagnostic, partial(_readable, as_listed))
    as_typed = made.get_unstructure_hook(types.Diagnostic)
    made.register_unstructure_hook(
        types.Diagnostic, lambda item: item if isinstance(item, dict) else as_typed(item)
    )
    return made


def initialize_request(message: dict[str, Any]) -> types.InitializeRequest:
    """From the JSON of one; whatever cannot be read of its parameters is taken out of them."""
    reader = converter(detailed=True)
    params = message.get("params")
    params = params if isinstance(params, dict) else {}
    with contextlib.suppress(RecursionError):
        for _ in range(_MOST_REPAIRS):
            params.setdefault("capabilities", {})
            try:
                read = reader.structure(params, types.InitializeParams)
                return types.InitializeRequest(message["id"], read)
            except BaseValidationError as error:
                wrong = dict.fromkeys(_there(params, place) for place in _places(error, ()))
            for place in reversed(wrong):  # the last of a list first: the others keep their index
                if not any(place[:size] in wrong for size in range(1, len(place))):
                    _take_out(params, place)
    nothing = types.InitializeParams(types.ClientCapabilities())
    return types.InitializeRequest(message["id"], nothing)


def _places(error: BaseException, above: _Place) -> Iterator[_Place]:
    """Paths to what could not be read, as names of attributes and indices."""
    parts = error.exceptions if isinstance(error, BaseValidationError) else ()
    if not parts:
        yield above
    for part in parts:
        step = next(
            (
                note.name if isinstance(note, AttributeValidationNote) else note.index
                for note in getattr(part, "__notes__", ())
                if isinstance(note, (AttributeValidationNote, IterableValidationNote))
            ),
            None,
        )
        yield from _places(part, above if step is None else (*above, step))


def _there(value: Any, place: _Place) -> _Place:
    """The innermost place on the way that there is, as keys of the JSON."""
    keys: list[str | int] = []
    for step in place:
        if isinstance(value, dict):
            name = str(step).rstrip("_")
            step = next((key for key in value if snake(key) == name), step)
        elif not isinstance(value, list):
            break
        try:
            value = value[step]
        except (LookupError, TypeError):
            break
        keys.append(step)
    return tuple(keys)


def _take_out(value: Any, place: _Place) -> None:
    for key in place[:-1]:
        value = value[key]
    if place:
        del value[place[-1]]


def _member(value: Any, kind: Any) -> Any:
    """A member of an enumeration, or the number or text of a later version of it."""
    try:
        return kind(value)
    except ValueError:
        base = int if issubclass(kind, int) else str
        if isinstance(value, base) and not isinstance(value, bool):
            return value
        raise


def _readable(as_listed: Any, value: Any, kind: Any) -> Any:
    """A diagnostic, which nothing here looks at, or the JSON of one that is otherwise than ours."""
    try:
        return as_listed(value, kind)
    except Exception:  # any of those that a wrong value meets on its way
        return value


def _text(value: Any, kind: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("not a text")


def _integer(value: Any, kind: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError("not an integer")
    return int(value)
