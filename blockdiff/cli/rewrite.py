"""`blockdiff rewrite`: its options, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import typer

from blockdiff.cli import infill, source_file
from blockdiff.cli import options as options
from blockdiff.cli.source_file import SourceFile
from blockdiff.config import DecodingConfig, Mode
from blockdiff.errors import InvalidRequest
from blockdiff.types import Hole, RewriteRequest

_STRENGTH = RewriteRequest("x", Hole(0, 1)).strength
_EXAMPLES = """\b
Examples:
  blockdiff rewrite app.py --lines 10-24 --instruction "add type hints"
  blockdiff rewrite app.py --lines 10-24 --instruction "handle an empty list" --write
  blockdiff rewrite app.py --lines 10-24 --strength 0.3
  blockdiff rewrite app.py --range 3:9-3:20 --strength 1
"""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog=_EXAMPLES)
@options.grouped()
def rewrite(
    file: options.FileArgument,
    lines: Annotated[str, typer.Option(metavar="A-B", help="rewrite these lines")] = "",
    between: Annotated[
        str,
        typer.Option(
            "--range",
            metavar="L:C-L:C",
            help="rewrite from the first position up to before the second",
        ),
    ] = "",
    instruction: Annotated[
        str,
        typer.Option("--instruction", "-i", metavar="TEXT", help="what to change, in your words"),
    ] = "",
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="without an instruction: the share of the text's tokens that may change, 0 to 1; "
            f"default: {_STRENGTH}",
            show_default=False,
        ),
    ] = None,
    *,
    output: options.Output,
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="how the answer to an instruction is written, as for infill; "
            f"default: {options.DEFAULTS.mode.value}",
            show_default=False,
        ),
    ] = None,
    decoding: DecodingConfig,
    context_tokens: options.ContextTokensOption = options.CONTEXT_TOKENS,
    language: options.LanguageOption = "",
    choice: options.EngineChoice,
    server: options.BackendChoice,
) -> None:
    """Rewrite a part of a file and print the diff.

    With --instruction the model is told what to change. Without one it mends what looks wrong to
    it: tokens that make the text around them much less likely than others would, at most the share
    --strength of them. The text parses afterwards if it did before. Nothing is drawn then, so that
    --seed and the like do not count. Often there is nothing to change: the text stays as it is.

    Lines and columns count from 1, as for `blockdiff infill`. Blanks at both ends of the text, and
    so its indentation and its last line ending, stay as they are. The file changes only with
    --write, and then in one step.
    """
    instructed = bool(instruction.strip())
    if instruction and not instructed:
        raise InvalidRequest("the instruction is blank", "say what to change, or leave it out")
    if instructed and strength is not None:
        raise InvalidRequest(
            "--strength is for rewriting without an instruction", "leave one of them out"
        )
    if mode is not None and not instructed:
        raise InvalidRequest(
            "--mode is for rewriting by an instruction", "give one, or leave --mode out"
        )
    backend = server.options(choice.model)
    find = span_finder(lines, between)
    source = source_file.read(file)
    if output.write:
        source_file.check_writable(source)
    request = RewriteRequest(
        document=source.text,
        span=find(source),
        instruction=instruction,
        strength=_STRENGTH if strength is None else strength,
        path="" if source.path is None else source.path.absolute().as_posix(),
        language=language,
        decoding=replace(decoding, mode=mode or decoding.mode),
        context_tokens=context_tokens,
    )
    unchanged = "the model left the text as it is"
    if not instructed:
        unchanged = "nothing to change: nothing else would be clearly likelier here"
    shown = request.decoding.mode if instructed else Mode.AR
    infill.apply(
        infill.Edit(source, request.span, shown.value, unchanged),
        lambda engine, stop: engine.rewrite(request, stop),
        choice,
        backend,
        output,
    )


def span_finder(lines: str, between: str) -> Callable[[SourceFile], Hole]:
    """How to find the text once the file is read, from the values of two options.

    Raises:
        InvalidRequest: unless exactly one of them is given.
    """
    if bool(lines) == bool(between):
        problem = "name one place, not two" if lines else "say which part to rewrite"
        raise InvalidRequest(problem, "give --lines A-B or --range L:C-L:C")
    if lines:
        return lambda source: source_file.hole_of_lines(source, lines)
    return lambda source: source_file.hole_between(source, between, "--range")
