"""The command line: parse, delegate, report. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

import blockdiff
from blockdiff.cli import console, interrupt
from blockdiff.cli import infill as infill_command
from blockdiff.cli import options as options
from blockdiff.client import wire
from blockdiff.config import DecodingConfig
from blockdiff.errors import BlockdiffError, Cancelled, ExitCode, InvalidRequest
from blockdiff.weights.catalog import DEFAULT_MODEL

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(f"  {c.value:<4} {c.meaning}" for c in ExitCode)
_USAGE_HINT = "add --help to see what is accepted"

app = typer.Typer(
    name="blockdiff",
    help="Fill holes in source files and rewrite them by block diffusion, on this machine.",
    epilog=_EXIT_CODES,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(argv: list[str]) -> int:
    """Run the command line `argv`, report what fails in one clear line, return the exit status."""
    try:
        command = typer.main.get_command(app)
        result = command.main(argv, prog_name="blockdiff", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer turns it into a status of 1
            return int(console.pipe_closed())
        return error.code if isinstance(error.code, int) else int(ExitCode.INTERNAL)
    except BrokenPipeError:
        return int(console.pipe_closed())
    except typer.TyperException as error:  # a bad option
        message = " ".join(error.format_message().split())
        return _report(InvalidRequest(message), argv)
    except typer.Abort:
        return _report(Cancelled("interrupted"), argv)
    except (Exception, KeyboardInterrupt) as error:
        return _report(console.as_error(error), argv)
    if result == interrupt.STATUS:  # typer turns KeyboardInterrupt into a status
        return _report(Cancelled("interrupted"), argv)
    return result if isinstance(result, int) else int(ExitCode.OK)


def _report(error: BlockdiffError, argv: list[str]) -> int:
    if isinstance(error, InvalidRequest) and not error.hint:
        error.hint = _USAGE_HINT
    try:
        if "--json" in argv:
            infill_command.print_json(wire.error_to_json(error))
        else:
            console.show(error)
    except BrokenPipeError:
        return int(console.pipe_closed())
    return int(error.exit_code)


@app.callback(invoke_without_command=True)
def _main(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=_EXIT_CODES)
@options.grouped()
def infill(
    file: options.FileArgument,
    at: Annotated[
        list[str] | None, typer.Option(metavar="L:C", help="insert at this line and column")
    ] = None,
    lines: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A-B",
            help="replace these lines; the first one's indentation and the last newline stay",
        ),
    ] = None,
    hole: Annotated[
        list[str] | None,
        typer.Option(
            metavar="L:C-L:C", help="replace from the first position up to before the second"
        ),
    ] = None,
    *,
    output: options.Output,
    decoding: DecodingConfig,
    context_tokens: options.ContextTokensOption = options.CONTEXT_TOKENS,
    revise: Annotated[
        bool,
        typer.Option(
            "--revise", help="with several holes: write them once more with the others' texts there"
        ),
    ] = False,
    language: options.LanguageOption = "",
    choice: options.EngineChoice,
    server: options.BackendChoice,
) -> None:
    """Fill a hole of a file, or up to eight together, and print the diff.

    Name each hole by --at, --lines or --hole. Text between two holes is kept, and each hole is
    written with what stands on both its sides; they are numbered in the order of the file.

    Lines and columns count from 1; columns count characters (Unicode code points), and the column
    after the last character of a line is valid. The file changes only with --write, and then in
    one step.
    """
    backend = server.options(choice.model)
    infill_command.infill(
        file,
        infill_command.hole_finder(at or (), lines or (), hole or ()),
        decoding,
        language=language,
        context_tokens=context_tokens,
        revise=revise,
        choice=choice,
        backend=backend,
        output=output,
    )


def _delegated(name: str, summary: str, module: str = "", name_of_app: str = "app") -> None:
    """Add a command whose arguments, `--help` included, go to the app of another module as they
    are; that module is imported only then."""

    def run(context: typer.Context) -> None:
        found = importlib.import_module(f"blockdiff.cli.{module or name}")
        delegate: typer.Typer = getattr(found, name_of_app)
        delegate.rich_markup_mode = None  # all help looks alike
        behind = typer.main.get_command(delegate)
        result = behind.main(context.args, prog_name=f"blockdiff {name}", standalone_mode=False)
        raise typer.Exit(result if isinstance(result, int) else int(ExitCode.OK))

    settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(name, help=summary, add_help_option=False, context_settings=settings)(run)


_delegated("rewrite", "Rewrite a part of a file and print the diff.")


@app.command()
@options.grouped()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
    model: Annotated[str, typer.Option(help="name of the model to look for")] = DEFAULT_MODEL,
    drafter: options.DrafterOption = "",
    *,
    server: options.BackendChoice,
) -> None:
    """Show what this machine has and what to fix.

    With --backend: whether that server answers, and what it would be sent, but for the key.

    Exits with 0 if everything is in place, otherwise with the exit code of the first problem.
    """
    from blockdiff.cli import doctor as diagnosis

    asked = server.options(model)
    if asked is None:
        checks = diagnosis.examine(model, drafter)
    else:
        from blockdiff.cli.backend import examine

        checks = examine(asked)
    code = diagnosis.exit_code(checks)
    if as_json:
        report = [check.to_json() for check in checks]
        infill_command.print_json({"ok": code is ExitCode.OK, "checks": report})
    else:
        print(diagnosis.render(checks))
    raise typer.Exit(int(code))


@app.command()
def version() -> None:
    """Print the version."""
    print(blockdiff.__version__)


_delegated("backend", "Say which servers of others your code may be sent to.")
_delegated("editors", "Put the plugins into editors.")
_delegated("index", "Build, show and check the index of a workspace.")
_delegated("models", "Download, list and remove models.")
_delegated("serve", "Serve a model to all editors of this user.", "serve", "serve_app")
_delegated("compat", "Print the settings for clients of other servers.")
_delegated("users", "Say who may use a team's engine.")
_delegated("status", "Show whether an engine is running and what it does.", "serve", "status_app")
_delegated("stop", "Stop the engine.", "serve", "stop_app")
_delegated("contexts", "Show or remove the encoded contexts that are kept on disk.")
_delegated("train", "Build a corpus, train a gated adapter, count what drafts come from.")
_delegated("lab", "Train and compare small models of every family of text diffusion.")
_delegated("bench", "Measure speed against llama.cpp.")
_delegated("eval", "Measure infilling quality and speed.")
