"""The indexes of the folders that are open: built beside the server, then kept true to files."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from blockdiff.system.ignored import IgnoreFiles
from blockdiff.types import OnProgress
from blockdiff.workspace.index import Index, file_of
from lsp_server import beside

_log = logging.getLogger("blockdiff.lsp")

_REST_SECONDS = 1.0  # after the client is ready; and after files have changed in numbers
_ONE_BY_ONE = 32  # files that changed at once; of more it is quicker to look at all

Report = Callable[[str], AbstractAsyncContextManager[OnProgress]]
"""Shows progress under a title for as long as the context lasts."""


class Workspaces:
    """Opens an index for each folder.

    `say` is told once what is wrong with one; `report` shows that one is built.
    """

    def __init__(self, ignored: IgnoreFiles, say: Callable[[str], None], report: Report) -> None:
        self._ignored, self._say, self._report = ignored, say, report
        self._indexes: dict[Path, Index] = {}
        self._building: dict[Path, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, folders: Iterable[Path]) -> None:
        """Open the indexes of folders, and begin to build them."""
        for folder in folders:
            root = resolved(folder)
            if root is None or root in self._indexes:
                continue
            if holds_everything(root):
                _log.info("no index of a folder that holds everything of a user")
                continue
            loop = asyncio.get_running_loop()

            def say(text: str, loop: asyncio.AbstractEventLoop = loop) -> None:
                loop.call_soon_threadsafe(self._say, text)

            self._indexes[root] = Index(root, ignored=self._ignored, say=say)
            self.refresh(root)

    def remove(self, folders: Iterable[Path]) -> None:
        """Folders were closed."""
        for folder in folders:
            root = resolved(folder) or folder
            if (task := self._building.pop(root, None)) is not None:
                task.cancel()
            if (index := self._indexes.pop(root, None)) is not None:
                index.close()

    async def aclose(self) -> None:
        """Stop what is built, and close all."""
        tasks = [*self._building.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.remove(list(self._indexes))

    def index_of(self, path: Path | None) -> Index | None:
        """That of the innermost folder that a file lies in."""
        if path is None:
            return None
        for name in (path, resolved(path)):
            around = [root for root in self._indexes if name and root in name.parents]
            if around:
                return self._indexes[max(around, key=lambda root: len(root.parts))]
        return None

    def changed(self, paths: Sequence[Path]) -> None:
        """Files were written, made or removed."""
        by_root: dict[Path, list[Path]] = {}
        for path in paths:
            if (index := self.index_of(path)) is not None:
                by_root.setdefault(index.root, []).append(path)
        for root, inside in by_root.items():
            if len(inside) > _ONE_BY_ONE:
                self.refresh(root)
            else:
                self._do(asyncio.to_thread(self._update, self._indexes[root], inside))

    def refresh(self, root: Path) -> None:
        """Look at all files of a folder again, a while from now."""
        if (task := self._building.get(root)) is not None and not task.done():
            task.cancel()
        self._building[root] = asyncio.create_task(self._built(self._indexes[root]))

    async def built(self, root: Path) -> None:
        """Wait while the index of a folder, its links followed, is built."""
        while (task := self._building.get(root)) is not None and not task.done():
            await asyncio.wait({task})

    @staticmethod
    def _update(index: Index, paths: Sequence[Path]) -> None:
        for path in paths:
            index.update(resolved(path) or path)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _built(self, index: Index) -> None:
        await asyncio.sleep(_REST_SECONDS)
        async with self._report(f"index of {index.root.name}") as progress:
            loop, stopped = asyncio.get_running_loop(), threading.Event()

            def show(what: str, share: float) -> None:
                loop.call_soon_threadsafe(progress, what, share)

            work = _in_thread if index.file is None else _in_child
            try:
                await asyncio.to_thread(work, index, show, stopped)
            except asyncio.CancelledError:
                stopped.set()
                raise


def _in_thread(index: Index, show: OnProgress, stopped: threading.Event) -> None:
    """For an index in memory, which no other process could fill."""
    index.refresh(show, stopped.is_set)


def _in_child(index: Index, show: OnProgress, stopped: threading.Event) -> None:
    """For one on disk."""
    try:
        beside.work(
            "blockdiff.workspace", [str(index.root)], file_of(index.root).parent, show, stopped
        )
    except OSError as error:
        _log.warning("the index is not built: %s", type(error).__name__)


def holds_everything(root: Path) -> bool:
    """Whether a folder is that of all that a user has, or one around it."""
    return root in (Path.home(), *Path.home().parents)


def resolved(path: Path) -> Path | None:
    """With its links followed; None where that cannot be."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return None
