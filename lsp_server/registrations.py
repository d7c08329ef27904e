"""What a client that can is asked to tell: settings that change, and source files."""

from __future__ import annotations

from lsprotocol import types

from blockdiff.syntax.grammars import EXTENSIONS
from lsp_server.configuration import SECTION


def registrations(
    workspace: types.WorkspaceClientCapabilities | None,
) -> list[types.Registration]:
    """Those of a client with these abilities."""
    found = []
    settings_ = workspace and workspace.did_change_configuration
    if settings_ and settings_.dynamic_registration:
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
