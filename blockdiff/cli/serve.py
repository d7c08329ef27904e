"""`blockdiff serve`, `blockdiff status` and `blockdiff stop`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from enum import Enum
from typing import Annotated

import typer
from msgspec import to_builtins

from blockdiff.cli.options import ModelChoice, grouped
from blockdiff.client import endpoint, missed, wire
from blockdiff.client.connections import Address, unreachable
from blockdiff.client.endpoint import COMPAT_ADDRESS, Runtime
from blockdiff.client.starter import Deaths, Starter, StartOptions, model_name
from blockdiff.config import CACHE_MIB, DISK_CACHE_MIB
from blockdiff.errors import EngineUnavailable, InvalidRequest

_STOP_SECONDS = 15.0

_NOT_RUNNING = "no engine is running"
_HOW_TO_START = "it starts when an editor needs it, or with: blockdiff serve"

serve_app = typer.Typer(rich_markup_mode=None, add_completion=False)
status_app = typer.Typer(rich_markup_mode=None, add_completion=False)
stop_app = typer.Typer(rich_markup_mode=None, add_completion=False)


class LogLevel(str, Enum):
    """How much the engine tells; only `debug` may show source text."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@serve_app.command()
@grouped()
def serve(
    address: Annotated[
        str,
        typer.Argument(metavar="[HOST:PORT]", help=f"with --compat; default: {COMPAT_ADDRESS}"),
    ] = "",
    compat: Annotated[
        bool,
        typer.Option(
            "--compat", help="answer clients of llama.cpp, OpenAI, Mistral and Ollama, too"
        ),
    ] = False,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="with --compat: let every local program ask")
    ] = False,
    *,
    choice: ModelChoice,
    idle_stop: Annotated[
        float, typer.Option(metavar="SECONDS", help="stop after so long without work; 0: never")
    ] = 0.0,
    cache_mib: Annotated[
        int, typer.Option(metavar="MIB", help="encoded context to keep for later requests")
    ] = CACHE_MIB,
    disk_cache_mib: Annotated[
        int, typer.Option(metavar="MIB", help="of it, to keep on disk for later engines; 0: none")
    ] = DISK_CACHE_MIB,
    host: Annotated[
        str, typer.Option(help="interface to listen on; default: a Unix socket, or loopback")
    ] = "",
    port: Annotated[int, typer.Option(help="TCP port instead of a Unix socket")] = 0,
    tls_cert: Annotated[str, typer.Option(help="certificate, a PEM file")] = "",
    tls_key: Annotated[str, typer.Option(help="its key, a PEM file")] = "",
    allow_plain_http: Annotated[
        bool, typer.Option("--allow-plain-http", help="listen beyond this machine without TLS")
    ] = False,
    log_level: Annotated[
        LogLevel, typer.Option(help="only debug may show source text")
    ] = LogLevel.INFO,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the address as one line of JSON")
    ] = False,
) -> None:
    """Serve a model to all editors of this user, until Ctrl-C.

    Editors start an engine by themselves; this is for one that stays, or on another machine.
    With --compat it also listens for clients of other servers, such as llama.vim, Continue and
    minuet; `blockdiff compat` prints their settings.
    """
    from blockdiff.service.launcher import ServeOptions
    from blockdiff.service.launcher import serve as run

    if address and not compat:
        raise InvalidRequest("an address goes with --compat", f"serve --compat {COMPAT_ADDRESS}")
    options = ServeOptions(
        model=model_name(choice.model),
        drafter=model_name(choice.drafter) if choice.drafter else "",
        device=choice.device,
        dtype=choice.dtype,
        download=choice.download,
        idle_seconds=idle_stop,
        cache_mib=cache_mib,
        disk_cache_mib=disk_cache_mib,
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        allow_plain_http=allow_plain_http,
        compat=(address or COMPAT_ADDRESS) if compat else "",
        compat_token=not no_token,
    )
    logging.basicConfig(
        stream=sys.stderr,
        level=log_level.value.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
    )
    runtime = Runtime.default()

    def started(address: Address) -> None:
        what = {"model": options.model, "url": address.url, "token_file": str(runtime.token_file)}
        announced = runtime.announced()
        others = announced.compat if announced else ""
        if as_json:
            more = {"compat": others} if others else {}
            print(json.dumps({"event": "serving", **what, **more, "pid": os.getpid()}), flush=True)
            return
        print("serving {model} at {url}, token in {token_file}".format(**what), flush=True)
        if others:
            print(f"and other clients at {others}, settings: blockdiff compat", flush=True)

    raise typer.Exit(int(run(options, runtime, started=started)))


@status_app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="print what /health answers")] = False,
) -> None:
    """Show whether an engine is running, what it does, and why an editor showed no completion."""
    runtime = Runtime.default()
    joined = Starter(runtime, StartOptions()).join()
    last = missed.last(runtime)
    if last is not None and not as_json:
        print(f"missed   {last}")
    if joined is None:
        raise EngineUnavailable(_NOT_RUNNING, _HOW_TO_START)
    if as_json:
        why = {"missed": to_builtins(last)} if last is not None else {}
        print(json.dumps({**joined.health.to_json(), "url": joined.address.url, **why}))
        return
    for line in _describe(joined.health, joined.address):
        print(line)


@stop_app.command()
def stop() -> None:
    """Stop the engine; a running request ends with an error."""
    runtime = Runtime.default()
    starter = Starter(runtime, StartOptions())
    alive = starter.is_alive()
    Deaths(runtime).forget()
    if not alive:
        print(_NOT_RUNNING)
        return
    with contextlib.suppress(EngineUnavailable):  # it hangs
        _ask_to_stop(starter)
    if _is_gone(starter, _STOP_SECONDS):
        print("stopped")
        return
    announced = runtime.announced()
    if announced is None:
        raise EngineUnavailable("the engine does not stop", "end its process by hand")
    os.kill(announced.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    if not _is_gone(starter, _STOP_SECONDS):
        raise EngineUnavailable(f"process {announced.pid} cannot be ended", "end it by hand")
    runtime.retract()
    print("it did not answer and was killed")


def _describe(health: wire.Health, address: Address) -> list[str]:
    doing = f": {health.doing}, {health.share:.0%}" if health.doing else ""
    where = f"{health.device}, {health.dtype}" if health.device else "not loaded"
    lines = [
        f"state    {health.state.value}{doing}",
        f"model    {health.model} ({where})",
        *([f"drafter  {health.drafter}"] if health.drafter else []),
        f"waiting  {health.waiting}",
        f"process  {health.pid}, blockdiff {health.version}",
        f"address  {address.url}",
    ]
    return [*lines, f"error    {health.message}"] if health.message else lines


def _ask_to_stop(starter: Starter) -> None:
    import httpx

    joined = starter.join()
    if joined is None:
        return
    try:
        with endpoint.sync_client(joined.address, joined.token, 5.0) as client:
            endpoint.check(client.post("/v1/stop"))
    except httpx.HTTPError as error:
        raise unreachable(joined.address, error) from error


def _is_gone(starter: Starter, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while starter.is_alive():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
