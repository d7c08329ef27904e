"""`blockdiff users`: who of a team may use its engine on Ray Serve, and how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockdiff.cli import options
from blockdiff.errors import InputFileError
from blockdiff.service.cluster.users import UsersFile

app = options.group(
    "Say who may use a team's engine, which reads the file again when it has changed.",
    short_help=True,
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME")]
FileOption = Annotated[Path, typer.Option(metavar="FILE", help="the file of users")]
_FILE = Path("users.json")


@app.command("add")
def add(
    name: NameArgument,
    file: FileOption = _FILE,
    quota: Annotated[
        str, typer.Option(help="requests in a time, such as 2000/hour or 60/minute;5000/day")
    ] = "",
    at_once: Annotated[int, typer.Option(help="requests that may run at a time", min=1)] = 8,
) -> None:
    """Print a new token for a user. It is shown this once; an older one of his ends."""
    print(_opened(file).add(name, quota, at_once))


@app.command("remove")
def remove(name: NameArgument, file: FileOption = _FILE) -> None:
    """Let a user in no more."""
    _opened(file, there=True).remove(name)


@app.command("list")
def listed(file: FileOption = _FILE) -> None:
    """Print the users, one per line, with what they may."""
    for name, user in _opened(file, there=True).read().items():
        print(f"{name}  {user.quota or 'no quota'}  {user.at_once} at once")


def _opened(file: Path, there: bool = False) -> UsersFile:
    if there and not file.is_file():
        raise InputFileError(f"no file {file}", "it is made by: blockdiff users add NAME")
    if not file.parent.is_dir():
        raise InputFileError(f"no folder {file.parent}", "make it first, or name another --file")
    return UsersFile(file)
