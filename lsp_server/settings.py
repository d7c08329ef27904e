"""What a user can set, under `blockdiff` in the editor: one annotated table for all.

Its JSON Schema (`blockdiff-lsp --schema`) is what the plugins' settings are checked against. A key
that is not known is reported, a bad value is reported and falls back to its default.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from blockdiff.client import decode
from blockdiff.client.client import EngineOptions
from blockdiff.client.starter import StartOptions
from blockdiff.config import DecodingConfig, Mode
from blockdiff.errors import BlockdiffError, InvalidRequest
from lsp_server.messages import camel, snake

_MOST_COMPLAINTS = 10  # of one kind of settings: more of them are those of another program


def _set(default: Any, text: str, **limits: float) -> Any:
    """A setting with its help and, for numbers, `minimum` and `maximum`."""
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engine that answers: one for all windows of a user, started when it is first needed."""

    model: str = _set("", "Name or path of the model. Empty: the default one.")
    device: str = _set("auto", "Where it runs: auto, cpu, cuda, cuda:1 or mps.")
    dtype: str = _set("auto", "Numbers it computes in: auto, int8, bfloat16, float16 or float32.")
    idle_minutes: float = _set(
        30.0, "The engine stops after so many minutes without a request. 0: never.", minimum=0
    )
    download: bool = _set(True, "Download the model on first use; typing alone never does.")
    url: str = _set("", "An engine on another machine, such as https://host:8443.")
    token: str = _set("", "Token of the engine at `url`.")
    ca_file: str = _set("", "Certificates to trust at `url`, a PEM file. Empty: the system's.")
    allow_plain_http: bool = _set(
        False, "Let code and token travel unencrypted to another machine."
    )

    def options(self) -> EngineOptions:
        """Raises InvalidRequest for values that contradict each other."""
        return EngineOptions(
            url=self.url,
            token=self.token,
            ca_file=self.ca_file,
            allow_plain_http=self.allow_plain_http,
            start=StartOptions(
                model=self.model,
                device=self.device,
                dtype=self.dtype,
                idle_seconds=60.0 * self.idle_minutes,
                download=self.download,
            ),
        )


@dataclass(frozen=True, slots=True)
class DecodingSettings:
    """How text is written on command."""

    mode: Mode = _set(
        Mode.VERIFY,
        "verify: one-forward drafting and checking. diffusion: denoise blocks. ar: token by token.",
    )
    max_tokens: int = _set(256, "Most tokens to write into a hole.", minimum=1, maximum=8192)
    block_size: int = _set(
        0, "Tokens of a block. 0: as the model was trained.", minimum=0, maximum=64
    )
    temperature: float = _set(0.0, "0 always takes the likeliest token.", minimum=0, maximum=10)
    top_p: float = _set(
        1.0, "Sample from the likeliest tokens of this mass.", minimum=0.01, maximum=1
    )
    seed: int = _set(0, "The same seed gives the same text.")


@dataclass(frozen=True, slots=True)
class InlineSettings:
    """Completions at the cursor, shown as ghost text."""

    automatic: bool = _set(True, "Complete while typing, not on command only.")
    max_tokens: int = _set(64, "Most tokens of a completion.", minimum=1, maximum=1024)
    candidates: int = _set(
        2, "Different completions to offer when asked on command.", minimum=1, maximum=5
    )
    multiline: bool = _set(True, "Complete several lines at the end of a line.")


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What the model is shown."""

    latency_seconds: float = _set(
        1.5,
        "Send as much context as this machine encodes in so many seconds.",
        minimum=0.1,
        maximum=60,
    )
    most_tokens: int = _set(
        4096, "Never more than so many tokens of context.", minimum=64, maximum=32_000
    )
    snippets: bool = _set(True, "Show related parts of other open files of the same language.")
    warm_ahead: bool = _set(
        True, "Encode the context while the cursor rests, so that a command starts at once."
    )


@dataclass(frozen=True, slots=True)
class RewriteSettings:
    """Rewriting a selection."""

    strength: float = _set(
        0.5, "Share of the text that may change, without an instruction.", minimum=0, maximum=1
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    inline: InlineSettings = field(default_factory=InlineSettings)
    context: ContextSettings = field(default_factory=ContextSettings)
    rewrite: RewriteSettings = field(default_factory=RewriteSettings)

    def decoding_config(self, **changes: Any) -> DecodingConfig:
        """For the engine; `changes` that are None are left out. Raises InvalidRequest."""
        values = {f.name: getattr(self.decoding, f.name) for f in dataclasses.fields(self.decoding)}
        values |= {name: value for name, value in changes.items() if value is not None}
        return DecodingConfig(**values)


def parse(value: Any) -> tuple[Settings, list[str]]:
    """Settings from an editor's JSON, and a line for everything that was wrong with it.

    Sections may be nested (`{"inline": {"automatic": false}}`) or dotted (`{"inline.automatic":
    false}`), keys in camelCase or snake_case; null means the default.
    """
    complaints: list[str] = []
    if value is None:
        return Settings(), complaints
    if not isinstance(value, dict):
        return Settings(), ["the settings under `blockdiff` must be an object"]
    sections = {f.name: f for f in dataclasses.fields(Settings)}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for path, item in _leaves(value):
        section, _, key = path.partition(".")
        kinds = typing.get_type_hints(_section(section)) if section in sections else {}
        if key not in kinds:
            complaints.append(_unknown(path) if len(complaints) < _MOST_COMPLAINTS else path[:60])
            continue
        metadata = _fields(section)[key].metadata
        try:
            chosen[section][key] = _within(
                decode.decode(kinds[key], item, _dotted(path)), metadata, path
            )
        except BlockdiffError as error:
            default = _fields(section)[key].default
            shown = default.value if isinstance(default, Enum) else default
            complaints.append(f"{error.message}; using {shown!r}")
    made = {name: _section(name)(**values) for name, values in chosen.items()}
    if len(complaints) > _MOST_COMPLAINTS:
        more = len(complaints) - _MOST_COMPLAINTS
        complaints = [*complaints[:_MOST_COMPLAINTS], f"and {more} more"]
    return Settings(**made), complaints


def schema() -> dict[str, Any]:
    """JSON Schema of the object under `blockdiff`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of blockdiff",
        "type": "object",
        "additionalProperties": False,
        "properties": {f.name: _section_schema(f.name) for f in dataclasses.fields(Settings)},
    }


def _section_schema(section: str) -> dict[str, Any]:
    kinds = typing.get_type_hints(_section(section))
    return {
        "type": "object",
        "description": (_section(section).__doc__ or "").strip(),
        "additionalProperties": False,
        "properties": {
            camel(name): _property(kinds[name], f) for name, f in _fields(section).items()
        },
    }


_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _property(kind: type, setting: dataclasses.Field[Any]) -> dict[str, Any]:
    metadata = dict(setting.metadata)
    described = {"description": metadata.pop("help"), "default": setting.default, **metadata}
    if issubclass(kind, Enum):
        values = [member.value for member in kind]
        return {"type": "string", "enum": values, **described, "default": setting.default.value}
    return {"type": _JSON_TYPES[kind], **described}


def _leaves(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        place = f"{path}.{snake(key)}" if path else snake(key)
        if isinstance(item, dict) and "." not in place:
            yield from _leaves(item, place)
        elif item is not None:
            yield place, item


def _within(value: Any, limits: Any, path: str) -> Any:
    low, high = limits.get("minimum"), limits.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        wanted = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        raise InvalidRequest(f"{_dotted(path)} must be {wanted}")
    return value


def _unknown(path: str) -> str:
    known = [
        f"{section.name}.{camel(name)}"
        for section in dataclasses.fields(Settings)
        for name in _fields(section.name)
    ]
    near = difflib.get_close_matches(_dotted(path), known, n=1)
    return f"unknown setting {_dotted(path)[:60]}" + (f", did you mean {near[0]}?" if near else "")


def _dotted(path: str) -> str:
    """As users write it."""
    return camel(path)


def _section(name: str) -> type:
    return type(getattr(Settings(), name))


def _fields(section: str) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(_section(section))}
