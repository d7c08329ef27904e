"""The hosts that the user lets source text go to: a list of his own, outside of every project.

A language server cannot tell which of an editor's settings come from the folder that is open there.
So a setting alone sends nothing to another machine: the host must be on this list as well.

    blockdiff backend allow https://api.mistral.ai
"""

from __future__ import annotations

from blockdiff.client.endpoint import Runtime
from blockdiff.client.remote.options import BackendOptions
from blockdiff.errors import BackendNotAllowed

_NAME = "backends"


def hosts(runtime: Runtime) -> list[str]:
    """As `scheme://host:port`, in order. Raises NotPermitted if others could have written them."""
    with runtime.access():
        try:
            return runtime.read(_NAME).split()
        except (FileNotFoundError, NotADirectoryError):
            return []


def allow(runtime: Runtime, origin: str) -> None:
    """Raises NotPermitted, EngineUnavailable if it cannot be noted."""
    runtime.prepare()
    _write(runtime, {*hosts(runtime), origin})


def forbid(runtime: Runtime, origin: str) -> None:
    """Raises as `allow`."""
    known = set(hosts(runtime))
    if origin in known:
        _write(runtime, known - {origin})


def check(options: BackendOptions, runtime: Runtime) -> None:
    """Raises BackendNotAllowed for another machine that the user has not named himself."""
    if options.told or options.is_here or options.origin in hosts(runtime):
        return
    raise BackendNotAllowed(
        f"the settings name {options.origin}, to which your code may not go",
        f"if you want that: blockdiff backend allow {options.origin}",
    )


def _write(runtime: Runtime, origins: set[str]) -> None:
    runtime.write_private(_NAME, "".join(f"{origin}\n" for origin in sorted(origins)))
