"""The options that several commands share, each declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
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
WriteOption = Annotated[
    bool, typer.Option("--write", help="change the file instead of printing a diff")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="print every refinement as one line of JSON")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="print the diff and errors, nothing else")
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
DownloadOption = Annotated[
    bool, typer.Option("--download/--no-download", help="fetch a missing model first")
]
EngineOption = Annotated[
    bool,
    typer.Option(
        "--engine/--no-engine", help="ask the engine that runs, if it has this model loaded"
    ),
]
BackendOption = Annotated[
    Backend, typer.Option(help="who writes: our own engine, or a server that runs elsewhere")
]
BackendUrlOption = Annotated[
    str, typer.Option(metavar="URL", help="where that server is; text goes there for this command")
]
FimOption = Annotated[
    Fim, typer.Option(help="backends openai and ollama: how the model knows a hole marked")
]
PlainHttpOption = Annotated[
    bool,
    typer.Option(
        "--allow-plain-http", help="let code and key travel unencrypted to another machine"
    ),
]


def backend(
    chosen: Backend, url: str, model: str, fim: Fim, allow_plain_http: bool
) -> BackendOptions | None:
    """What these options say together; None for our own engine. Raises InvalidRequest."""
    if chosen is Backend.LOCAL:
        if url:
            raise InvalidRequest("--backend-url needs --backend", "such as --backend llamacpp")
        return None
    return BackendOptions(
        chosen,
        url,
        model="" if model == DEFAULT_MODEL else model,
        fim=fim,
        allow_plain_http=allow_plain_http,
        told=True,
    )


def decoding(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The parameter `decoding` of a command as an option for each of its fields.

    `names` are those that the command takes; none: all that are no parameters of its own.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = signature.parameters
        given = names or [name for name in annotations_of(DecodingConfig) if name not in own]
        options = [_option(name) for name in given]
        parameters: list[inspect.Parameter] = []
        for parameter in own.values():
            parameters += options if parameter.name == "decoding" else [parameter]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in given}
            command(**values, decoding=DecodingConfig(**chosen))

        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorated


def _option(name: str) -> inspect.Parameter:
    kind = annotations_of(DecodingConfig)[name]
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=getattr(DEFAULTS, name),
        annotation=Annotated[kind, typer.Option(help=meta_of(kind)["description"])],
    )
