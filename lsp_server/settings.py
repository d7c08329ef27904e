"""What a user can set, under `blockdiff` in the editor: one annotated table for all.

Its JSON Schema (`blockdiff-lsp --schema`) is what the plugins' settings are checked against. A key
that is not known is reported, a bad value is reported and falls back to its default.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import ValidationError, convert, to_builtins

from blockdiff.client.client import EngineOptions
from blockdiff.client.remote.fim import Fim
from blockdiff.client.remote.options import Backend, BackendOptions
from blockdiff.client.starter import StartOptions
from blockdiff.client.strict import read
from blockdiff.client.wire import LATENCY_SECONDS, MOST_CONTEXT_TOKENS
from blockdiff.config import (
    DISK_CACHE_MIB,
    IDLE_SECONDS,
    MOST_TOKENS,
    BlockSize,
    DecodingConfig,
    Mode,
    Seed,
    Temperature,
    about,
    annotations_of,
    bare,
    meta_of,
)
from blockdiff.errors import BlockdiffError, InvalidRequest
from lsp_server.messages import camel, schema_of, snake

_DEFAULTS = DecodingConfig()
_MOST_COMPLAINTS = 10  # of one kind of settings: more of them are those of another program


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engine that answers: one for all windows of a user, started when it is first needed."""

    model: Annotated[str, about("Name or path of the model. Empty: the default one.")] = ""
    drafter: Annotated[
        str, about("Name or path of a drafter made for the model: fewer forwards. Empty: none.")
    ] = ""
    device: Annotated[str, about("Where it runs: auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    dtype: Annotated[
        str, about("Numbers it computes in: auto, int8, bfloat16, float16 or float32.")
    ] = "auto"
    idle_minutes: Annotated[
        float, about("The engine stops after so many minutes without a request. 0: never.", ge=0)
    ] = IDLE_SECONDS / 60
    disk_cache_mib: Annotated[
        int,
        about("MiB of encoded context that is kept on disk for later engines. 0: none.", ge=0),
    ] = DISK_CACHE_MIB
    download: Annotated[
        bool, about("Download the model on first use; typing alone never does.")
    ] = True
    backend: Annotated[
        Backend,
        about(
            "local: our own engine. Others: a server of that kind at `url`, see docs/backends.md.",
            extra_json_schema={"type": "string", "enum": [kind.value for kind in Backend]},
        ),
    ] = Backend.LOCAL
    fim: Annotated[
        Fim,
        about(
            "Backends openai and ollama: how the model knows a hole marked. auto: by its name.",
            extra_json_schema={"type": "string", "enum": [fim.value for fim in Fim]},
        ),
    ] = Fim.AUTO
    url: Annotated[
        str, about("An engine on another machine, such as https://host:8443, or the backend.")
    ] = ""
    token: Annotated[str, about("Token of the engine at `url`.")] = ""
    ca_file: Annotated[
        str, about("Certificates to trust at `url`, a PEM file. Empty: the system's.")
    ] = ""
    allow_plain_http: Annotated[
        bool, about("Let code and token travel unencrypted to another machine.")
    ] = False

    def check(self) -> None:
        """Raises InvalidRequest for values that contradict each other."""
        if self.remote() is None:
            self.options()

    def remote(self) -> BackendOptions | None:
        """The backend in the place of our own engine, if one is chosen. Raises InvalidRequest."""
        if self.backend is Backend.LOCAL:
            return None
        if self.drafter:
            raise InvalidRequest(
                f"engine.drafter is for our own engine, engine.backend is {self.backend.value}",
                "leave one of them out",
            )
        return BackendOptions(
            self.backend,
            self.url,
            model=self.model,
            fim=self.fim,
            ca_file=self.ca_file,
            allow_plain_http=self.allow_plain_http,
        )

    def options(self) -> EngineOptions:
        """Of our own engine. Raises InvalidRequest."""
        return EngineOptions(
            url=self.url,
            token=self.token,
            ca_file=self.ca_file,
            allow_plain_http=self.allow_plain_http,
            start=StartOptions(
                model=self.model,
                drafter=self.drafter,
                device=self.device,
                dtype=self.dtype,
                idle_seconds=60.0 * self.idle_minutes,
                disk_cache_mib=self.disk_cache_mib,
                download=self.download,
            ),
        )


@dataclass(frozen=True, slots=True)
class DecodingSettings:
    """How text is written on command."""

    mode: Annotated[
        Mode,
        about(
            "verify: one-forward drafting and checking. diffusion: denoise blocks. "
            "ar: token by token.",
            extra_json_schema={"type": "string", "enum": [mode.value for mode in Mode]},
        ),
    ] = _DEFAULTS.mode
    max_tokens: Annotated[int, about("Most tokens to write into a hole.", ge=1, le=MOST_TOKENS)] = (
        256
    )
    block_size: BlockSize = _DEFAULTS.block_size
    temperature: Temperature = _DEFAULTS.temperature
    top_p: Annotated[
        float, about("Sample from the likeliest tokens of this mass.", ge=0.01, le=1)
    ] = _DEFAULTS.top_p
    seed: Seed = _DEFAULTS.seed


@dataclass(frozen=True, slots=True)
class InlineSettings:
    """Completions at the cursor, shown as ghost text."""

    automatic: Annotated[bool, about("Complete while typing, not on command only.")] = True
    max_tokens: Annotated[int, about("Most tokens of a completion.", ge=1, le=1024)] = 64
    candidates: Annotated[
        int, about("Different completions to offer when asked on command.", ge=1, le=5)
    ] = 2
    multiline: Annotated[bool, about("Complete several lines at the end of a line.")] = True
    disabled_languages: Annotated[
        tuple[str, ...],
        about("Languages where nothing is completed while typing, such as markdown."),
    ] = ()
    disabled_globs: Annotated[
        tuple[str, ...],
        about("Files where nothing is completed while typing, such as *.md or docs/**."),
    ] = ()
    in_comments: Annotated[bool, about("Complete in comments, too.")] = True
    in_strings: Annotated[bool, about("Complete in strings, too.")] = True
    delay_ms: Annotated[
        int,
        about(
            "Milliseconds without a key, besides those that the editor waits, before the model is "
            "asked.",
            ge=0,
            le=10_000,
        ),
    ] = 0


@dataclass(frozen=True, slots=True)
class ContextSettings:
    """What the model is shown."""

    latency_seconds: Annotated[
        float,
        about("Send as much context as this machine encodes in so many seconds.", ge=0.1, le=60),
    ] = LATENCY_SECONDS
    most_tokens: Annotated[
        int, about("Never more than so many tokens of context.", ge=64, le=32_000)
    ] = MOST_CONTEXT_TOKENS
    snippets: Annotated[
        bool,
        about("Show related parts of other open files of the same language, and recent edits."),
    ] = True
    workspace: Annotated[
        bool,
        about(
            "Index the definitions in the open folder, and show the signatures that a place needs."
        ),
    ] = True
    workspace_share: Annotated[
        float,
        about("Share of the context for such signatures and recent edits.", ge=0, le=0.5),
    ] = 0.25
    warm_ahead: Annotated[
        bool, about("Encode the context while the cursor rests, so that a command starts at once.")
    ] = True


@dataclass(frozen=True, slots=True)
class DraftSettings:
    """What drafts are made from, besides the model."""

    personal_tables: Annotated[
        bool,
        about(
            "Count the n-grams of the open folder, so that drafts know its names and habits. The "
            "text stays the same, and nothing leaves this machine."
        ),
    ] = True


@dataclass(frozen=True, slots=True)
class RewriteSettings:
    """Rewriting a selection."""

    strength: Annotated[
        float, about("Share of the text that may change, without an instruction.", ge=0, le=1)
    ] = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    inline: InlineSettings = field(default_factory=InlineSettings)
    context: ContextSettings = field(default_factory=ContextSettings)
    drafts: DraftSettings = field(default_factory=DraftSettings)
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
    if value is None or value == []:  # what Lua makes of an empty table
        return Settings(), complaints
    if not isinstance(value, dict):
        return Settings(), ["the settings under `blockdiff` must be an object"]
    sections = annotations_of(Settings)
    chosen: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for path, item in _leaves(value):
        section, _, key = path.partition(".")
        settings = annotations_of(sections[section]) if section in sections else {}
        if key not in settings:
            complaints.append(_unknown(path) if len(complaints) < _MOST_COMPLAINTS else path[:60])
            continue
        try:
            chosen[section][key] = _read(settings[key], item, camel(path))
        except BlockdiffError as error:
            default = to_builtins(getattr(getattr(Settings(), section), key))
            complaints.append(f"{error.message}; using {default!r}")
    made = {name: sections[name](**values) for name, values in chosen.items()}
    if len(complaints) > _MOST_COMPLAINTS:
        more = len(complaints) - _MOST_COMPLAINTS
        complaints = [*complaints[:_MOST_COMPLAINTS], f"and {more} more"]
    return Settings(**made), complaints


def schema() -> dict[str, Any]:
    """JSON Schema of the object under `blockdiff`."""
    made = schema_of(Settings, "Settings of blockdiff")
    for section in made["properties"].values():
        for setting in section["properties"].values():
            text = setting["description"]
            if not text.endswith("."):  # help of the command line
                setting["description"] = f"{text[0].upper()}{text[1:]}."
    return made


def _leaves(value: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        place = f"{path}.{snake(key)}" if path else snake(key)
        if isinstance(item, dict) and "." not in place:
            yield from _leaves(item, place)
        elif item is not None and not (item == [] and "." not in place):
            yield place, item


def _read(annotation: Any, value: Any, place: str) -> Any:
    made = read(bare(annotation), value, place)
    try:
        return convert(made, annotation)
    except ValidationError:
        low, high = (meta_of(annotation).get(name) for name in ("ge", "le"))
        wanted = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        raise InvalidRequest(f"{place} must be {wanted}") from None


def _unknown(path: str) -> str:
    known = [
        f"{section}.{camel(name)}"
        for section, kind in annotations_of(Settings).items()
        for name in annotations_of(kind)
    ]
    near = difflib.get_close_matches(camel(path), known, n=1)
    return f"unknown setting {camel(path)[:60]}" + (f", did you mean {near[0]}?" if near else "")
