"""`blockdiff backend`: servers of others that code may go to; and what `doctor` says of one."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer

from blockdiff.cli.doctor import Check
from blockdiff.cli.options import group
from blockdiff.client.connections import address_of
from blockdiff.client.endpoint import Runtime
from blockdiff.client.remote import allowed, keys
from blockdiff.client.remote.client import RemoteClient
from blockdiff.client.remote.options import BackendOptions
from blockdiff.errors import BlockdiffError, ExitCode, InvalidRequest
from blockdiff.types import Hole, InfillRequest

_BEFORE, _AFTER = "def area(width, height):\n    return ", "\n"
_REQUEST = InfillRequest(
    _BEFORE + _AFTER, Hole(len(_BEFORE), len(_BEFORE)), path="area.py", language="python"
)
_MOST_NAMES = 5  # of models

app = group(
    "Say which servers of others your code may be sent to. Those on this machine may.",
    short_help=True,
)
UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="such as https://api.mistral.ai")]


@app.command("allow")
def allow(url: UrlArgument) -> None:
    """Let an editor's settings name this server."""
    origin = _origin(url)
    allowed.allow(Runtime.default(), origin)
    print(f"code may be sent to {origin}")
    if keys.needs_key(origin):
        print(f"its key: {keys.hint(origin)}")


@app.command("forbid")
def forbid(url: UrlArgument) -> None:
    """Take it back."""
    origin = _origin(url)
    allowed.forbid(Runtime.default(), origin)
    print(f"code may not be sent to {origin}")


@app.command("list")
def listed() -> None:
    """Print those that are allowed, one per line."""
    for host in allowed.hosts(Runtime.default()):
        print(host)


def _origin(url: str) -> str:
    address = address_of(url, allow_plain_http=True, with_path=True)
    if address.is_here:
        raise InvalidRequest("a server on this machine needs no leave")
    return address.origin


def examine(options: BackendOptions) -> list[Check]:
    """Where a backend is, whether it answers, and what it would be sent for a hole."""
    return asyncio.run(_examined(options))


async def _examined(options: BackendOptions) -> list[Check]:
    place = "on this machine" if options.is_here else "on another machine: your code goes there"
    checks = [Check("backend", f"{options.name}, {place}")]
    if not options.is_here and options.origin not in allowed.hosts(Runtime.default()):
        fix = f"for editors: blockdiff backend allow {options.origin}"
        checks.append(Check("allowed", f"on the command line only; {fix}"))
    async with RemoteClient(options) as client:
        try:
            sent = await client.sent(_REQUEST)
            checks += [Check("sends", f"{sent.method} {sent.url}")]
            checks += [Check("header", f"{name}: {value}") for name, value in sent.headers.items()]
            checks.append(Check("body", json.dumps(sent.body, ensure_ascii=False)))
            names = await client.models()
        except BlockdiffError as error:
            return [*checks, Check("answers", error.message, error.hint, error.exit_code)]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    checks.append(Check("answers", f"models: {', '.join(names[:_MOST_NAMES])}{more}"))
    wanted = options.model
    if wanted and names and not any(name.startswith(wanted) for name in names):
        fix = "set engine.model (--model) to one of them"
        checks.append(Check("model", f"{wanted} is not listed", fix, ExitCode.MODEL))
    return checks
