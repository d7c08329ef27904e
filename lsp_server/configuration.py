"""How the client's settings come: pushed or pulled, ours among those of other servers.

And what a client that can is asked to tell: settings that change, and source files.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any

from lsprotocol import types

from blockdiff.syntax.grammars import EXTENSIONS
from lsp_server.messages import snake
from lsp_server.settings import Settings

SECTION = "blockdiff"


class _Nothing:
    """No answer, or no section of ours: not the same as one that is null."""


NOTHING = _Nothing()


@dataclass(slots=True)
class Configuration:
    """Attributes:
    ask: pulls the section; NOTHING from a client that cannot be asked.
    use: takes the section, null for the defaults.
    """

    ask: Callable[[], Awaitable[Any]]
    use: Callable[[Any], Awaitable[None]]
    _pushed: Any = NOTHING  # by a client that answers something else when it is asked

    async def pull(self) -> None:
        """Ask for the section. One that was deleted comes as null and means the defaults."""
        answer = await self.ask()
        if answer is not NOTHING and self._pushed is NOTHING:
            await self.use(answer)

    async def changed(self, pushed: Any) -> None:
        """Settings were pushed. Without a section of ours among them the client is asked."""
        section = section_of(pushed)
        if section is NOTHING:
            return await self.pull()
        self._pushed = section
        await self.use(section)
        if self._pushed is section and await self.ask() == section:
            self._pushed = NOTHING  # what it answers can be believed from now on


def section_of(pushed: Any) -> Any:
    """What is ours of pushed settings: under our name, nested or dotted, or all of them where each
    key is one of our sections."""
    if not isinstance(pushed, dict) or not pushed:
        return NOTHING
    dotted = {
        key.removeprefix(f"{SECTION}."): value
        for key, value in pushed.items()
        if key.startswith(f"{SECTION}.")
    }
    if SECTION in pushed:
        nested = pushed[SECTION] or {} if dotted else pushed[SECTION]
        return {**nested, **dotted} if isinstance(nested, dict) else nested
    if dotted:
        return dotted
    sections = {field.name for field in fields(Settings)}
    if all(snake(key).partition(".")[0] in sections for key in pushed):
        return pushed
    return NOTHING


def registrations(
    workspace: types.WorkspaceClientCapabilities | None,
) -> list[types.Registration]:
    """What a client with these abilities is asked to tell."""
    found = []
    changes = workspace and workspace.did_change_configuration
    if changes and changes.dynamic_registration:
        found.append(
            types.Registration(
                "blockdiff-configuration",
                types.WORKSPACE_DID_CHANGE_CONFIGURATION,
                types.DidChangeConfigurationRegistrationOptions(section=SECTION),
            )
        )
    files = workspace and workspace.did_change_watched_files
    if files and files.dynamic_registration:
        glob = "**/*.{" + ",".join(sorted(end[1:] for end in EXTENSIONS)) + "}"
        found.append(
            types.Registration(
                "blockdiff-files",
                types.WORKSPACE_DID_CHANGE_WATCHED_FILES,
                types.DidChangeWatchedFilesRegistrationOptions([types.FileSystemWatcher(glob)]),
            )
        )
    return found
