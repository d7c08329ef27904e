"""The options that several commands share, each declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any

import typer

from blockdiff.client.remote.fim import Fim
from blockdiff.client.remote.options import Backend, BackendOptions
from blockdiff.config import DecodingConfig, annotations_of, meta_of
from blockdiff.errors import InvalidRequest
from blockdiff.types import Hole, InfillRequest
from blockdiff.weights.catalog import DEFAULT_MODEL

DEFAULTS = DecodingConfig()
CONTEXT_TOKENS = InfillRequest("", Hole(0, 0)).context_tokens

_SHORT_HELP = {"help_option_names": ["-h", "--help"]}


def group(summary: str, *, short_help: bool = False) -> typer.Typer:
    """Several commands behind one name; without any it prints its help, by `-h`, too, if that is
    asked for."""
    return typer.Typer(
        help=summary,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        context_settings=_SHORT_HELP if short_help else None,
    )


FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="the file; - reads standard input")
]
ContextTokensOption = Annotated[
    int, typer.Option(help="most tokens of the file around the place that the model sees")
]
LanguageOption = Annotated[
    str, typer.Option(help="language id such as python; default: by the file's name")
]
ModelOption = Annotated[
    str, typer.Option(help="name of a model, or path to a GGUF file or a folder")
]
DrafterOption = Annotated[
    str,
    typer.Option(metavar="NAME|PATH", help="a drafter made for the model, for --mode verify"),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
DtypeOption = Annotated[str, typer.Option(help="auto, int8, bfloat16, float16, float32")]


@dataclass(frozen=True, slots=True)
class Output:
    """Where the result goes."""

    write: Annotated[
        bool, typer.Option("--write", help="change the file instead of printing a diff")
    ] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="print every refinement as one line of JSON")
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="print the diff and errors, nothing else")
    ] = False


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model and drafter, where they run, and whether the model may be downloaded."""

    model: ModelOption = DEFAULT_MODEL
    drafter: DrafterOption = ""
    device: DeviceOption = "auto"
    dtype: DtypeOption = "auto"
    download: Annotated[
        bool, typer.Option("--download/--no-download", help="fetch a missing model first")
    ] = True


@dataclass(frozen=True, slots=True)
class EngineChoice(ModelChoice):
    """The same, and whether an engine that runs may do it."""

    engine: Annotated[
        bool,
        typer.Option(
            "--engine/--no-engine", help="ask the engine that runs, if it has this model loaded"
        ),
    ] = True


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A server of others in place of an engine of ours."""

    backend: Annotated[
        Backend, typer.Option(help="who writes: our own engine, or a server that runs elsewhere")
    ] = Backend.LOCAL
    backend_url: Annotated[
        str,
        typer.Option(metavar="URL", help="where that server is; text goes there for this command"),
    ] = ""
    fim: Annotated[
        Fim, typer.Option(help="backends openai and ollama: how the model knows a hole marked")
    ] = Fim.AUTO
    allow_plain_http: Annotated[
        bool,
        typer.Option(
            "--allow-plain-http", help="let code and key travel unencrypted to another machine"
        ),
    ] = False

    def options(self, model: str) -> BackendOptions | None:
        """What these say together; None for our own engine. Raises InvalidRequest."""
        if self.backend is Backend.LOCAL:
            if self.backend_url:
                raise InvalidRequest("--backend-url needs --backend", "such as --backend llamacpp")
            return None
        return BackendOptions(
            self.backend,
            self.backend_url,
            model="" if model == DEFAULT_MODEL else model,
            fim=self.fim,
            allow_plain_http=self.allow_plain_http,
            told=True,
        )


def grouped(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The parameters of a command that are dataclasses as an option for each of their fields.

    `names` are those of a `DecodingConfig` that the command takes; none: all that are no parameters
    of its own.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = signature.parameters
        given = names or [name for name in annotations_of(DecodingConfig) if name not in own]
        groups = {
            parameter.name: _options_of(parameter.annotation, given)
            for parameter in own.values()
            if is_dataclass(parameter.annotation)
        }
        parameters = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own.values()
            for each in groups.get(parameter.name, [parameter])
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            for name, options in groups.items():
                fields = {option.name: values.pop(option.name) for option in options}
                values[name] = own[name].annotation(**fields)
            command(**values)

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorated


def _options_of(kind: Any, decoding: Sequence[str]) -> list[inspect.Parameter]:
    found, defaults = annotations_of(kind), kind()
    if kind is DecodingConfig:
        found = {
            name: Annotated[found[name], typer.Option(help=meta_of(found[name])["description"])]
            for name in decoding
        }
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, keyword, default=getattr(defaults, name), annotation=annotation)
        for name, annotation in found.items()
    ]
