"""One editor's server: its parts, and how they come by each other and by the settings."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException, JsonRpcInternalError
from pygls.lsp.server import LanguageServer

import blockdiff
from blockdiff.client.endpoint import Runtime
from blockdiff.errors import BlockdiffError
from blockdiff.system.ignored import IgnoreFiles
from blockdiff.types import OnProgress, Progress
from lsp_server import greeting, messages, settings
from lsp_server.actions import Actions
from lsp_server.context import Context, Places
from lsp_server.counting import Counting
from lsp_server.delivery import Delivery
from lsp_server.engine_link import EngineLink
from lsp_server.exclusions import Exclusions
from lsp_server.inline import Inline, LastMissed
from lsp_server.lenient import converter
from lsp_server.messages import RefinementParams, StatusParams
from lsp_server.protocol import Protocol
from lsp_server.recent import RecentEdits, Ring
from lsp_server.sessions import Sessions
from lsp_server.settings import Settings
from lsp_server.warming import Warmer
from lsp_server.workdone import work_done
from lsp_server.workspaces import Workspaces

_log = logging.getLogger("blockdiff.lsp")

_PATIENCE_SECONDS = 2.0  # with a client that does not answer when asked for its settings


class Server(LanguageServer):
    """One editor's server.

    Attributes:
        configured: set while no settings are on their way; requests wait for them.
        wishes: methods of our own notifications that the client asked for.
    """

    protocol: Protocol

    def __init__(self, runtime: Runtime | None = None) -> None:
        super().__init__(
            greeting.NAME,
            blockdiff.__version__,
            protocol_cls=Protocol,
            converter_factory=converter,
        )
        self.settings = Settings()
        self.configured = asyncio.Event()
        self.documents = self.protocol.documents
        self.ring, self.edits = Ring(), RecentEdits()
        runtime = runtime or Runtime.default()
        self.engine = EngineLink(
            self.settings.engine,
            runtime,
            self._show_status,
            lambda model: self.counting.engine_is(model),
        )
        self.missed = LastMissed(runtime, lambda: self._show_status(self.engine.status))
        ignored = IgnoreFiles(self._warn)
        self.workspaces = Workspaces(ignored, self._say, self._building)
        self.counting = Counting(runtime.folder, self.workspaces.built, self._say, self._building)
        self.places = Places(self.workspaces, self.ring, self.edits, ignored)
        self.context = Context(
            self.documents, self.settings.context, self.places, ignored, self.engine
        )
        self.sessions = Sessions(
            self.documents,
            self.context,
            self.engine,
            self.settings,
            self._show_refinement,
            self.with_settings,
        )
        name = secrets.token_hex(4)
        self.inline = Inline(
            self.documents, self.context, self.engine, self.settings, name, self.missed.note
        )
        self.actions = Actions(self.documents, self.sessions)
        self.warmer = Warmer(self.context, self.engine, name)
        self.delivery = Delivery(self)
        self.wishes: frozenset[str] = frozenset()

    async def with_settings(self) -> None:
        """Wait for settings that are on their way: what is asked before them needs them, too."""
        try:
            await asyncio.wait_for(self.configured.wait(), _PATIENCE_SECONDS)
        except asyncio.TimeoutError:
            self.configured.set()  # a client that does not answer is waited for once

    async def configure(self, value: Any) -> None:
        """Use other settings from now on; what is wrong with them is said in one message."""
        self.settings, complaints = settings.parse(value)
        try:
            self.settings.engine.check()
        except BlockdiffError as error:
            complaints.append(f"engine: {error.message}: {error.hint}")
        try:
            Exclusions.check(self.settings.inline)
        except BlockdiffError as error:
            complaints.append(f"inline: {error.message}: {error.hint}")
        self.context.settings = self.settings.context
        self.open(self.protocol.folders)
        self.sessions.settings = self.settings
        self.inline.configure(self.settings)
        await self.engine.configure(self.settings.engine)
        if complaints:
            text = "blockdiff settings: " + "; ".join(complaints)
            _log.warning("%s", text)
            self.window_show_message(types.ShowMessageParams(types.MessageType.Warning, text))

    def open(self, folders: Sequence[Path]) -> None:
        """Folders are open: what is made of them is what the settings allow."""
        index, tables = self.settings.context.workspace, self.settings.drafts.personal_tables
        (self.workspaces.add if index else self.workspaces.remove)(folders)
        (self.counting.add if tables else self.counting.remove)(folders)

    def close(self, folders: Sequence[Path]) -> None:
        """They were closed."""
        self.workspaces.remove(folders)
        self.counting.remove(folders)

    def report_server_error(self, error: Exception, source: Any) -> None:
        """Log what went wrong, without a character of anybody's text.

        An error that is the answer to a request is the client's to show.
        """
        if isinstance(error, JsonRpcException) and not isinstance(error, JsonRpcInternalError):
            return
        name = error.code if isinstance(error, BlockdiffError) else type(error).__name__
        _log.error("%s", name)
        _log.debug("in full", exc_info=error)

    def _warn(self, error: BlockdiffError) -> None:
        """Of what the user should mend; said once, and never with anybody's text."""
        _log.warning("%s: %s", error.code, error.message)
        text = f"blockdiff: {error.message}: {error.hint}"
        self.window_show_message(types.ShowMessageParams(types.MessageType.Warning, text))

    def _say(self, text: str) -> None:
        """Of what mends itself: a line in the log, no message."""
        _log.warning("%s", text)

    @contextlib.asynccontextmanager
    async def _building(self, title: str) -> AsyncIterator[OnProgress]:
        async with work_done(self, f"blockdiff: {title}", None) as report:
            yield lambda what, share: report(Progress("", what, share))

    def _show_status(self, status: StatusParams) -> None:
        if messages.STATUS in self.wishes:
            status = dataclasses.replace(status, missed=self.missed.value)
            self.protocol.notify(messages.STATUS, messages.write(status))

    def _show_refinement(self, refinement: RefinementParams) -> None:
        if messages.REFINEMENT in self.wishes:
            self.protocol.notify(messages.REFINEMENT, messages.write(refinement))
