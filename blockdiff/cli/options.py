"""The options that several commands share, each declared once."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.types import Hole, InfillRequest

DEFAULTS = DecodingConfig()
CONTEXT_TOKENS = InfillRequest("", Hole(0, 0)).context_tokens

_HELP = {field.name: field.metadata["help"] for field in dataclasses.fields(DecodingConfig)}

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
ModeOption = Annotated[Mode, typer.Option(help=_HELP["mode"])]
RuleOption = Annotated[Rule, typer.Option(help=_HELP["rule"])]
BlockSizeOption = Annotated[int, typer.Option(help=_HELP["block_size"])]
DenoisingStepsOption = Annotated[int, typer.Option(help=_HELP["denoising_steps"])]
ThresholdOption = Annotated[float, typer.Option(help=_HELP["threshold"])]
EntropyBoundOption = Annotated[float, typer.Option(help=_HELP["entropy_bound"])]
CacheOption = Annotated[Reuse, typer.Option(help=_HELP["cache"])]
EditThresholdOption = Annotated[float, typer.Option(help=_HELP["edit_threshold"])]
MaxTokensOption = Annotated[int, typer.Option(help=_HELP["max_tokens"])]
TemperatureOption = Annotated[float, typer.Option(help=_HELP["temperature"])]
TopPOption = Annotated[float, typer.Option(help=_HELP["top_p"])]
SeedOption = Annotated[int, typer.Option(help=_HELP["seed"])]
ContextTokensOption = Annotated[
    int, typer.Option(help="most tokens of the file around the place that the model sees")
]
LanguageOption = Annotated[
    str, typer.Option(help="language id such as python; default: by the file's name")
]
ModelOption = Annotated[
    str, typer.Option(help="name of a model, or path to a GGUF file or a folder")
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
