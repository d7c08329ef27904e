"""Has the n-grams of the folders that are open counted, so that drafts know their names and habits.

A process beside the server does it, once an engine of the user's own has answered for the first
time; none is started for that. That process knows whether a folder is due, by `blockdiff.train`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from lsp_server import beside
from lsp_server.workspaces import Report, holds_everything, resolved

_REST_SECONDS = 2.0  # behind the request that the engine has answered
_AGAIN_SECONDS = 3600.0  # until it is looked again, while requests come, whether a folder is due


class Counting:
    """Looks after one table for each folder and the model of the engine.

    It runs in `place`, a folder that others cannot write to and that is there once an engine is;
    `built` waits while the index of a folder is; `report` shows that one is counted, and `say` is
    told once what went wrong.
    """

    def __init__(
        self,
        place: Path,
        built: Callable[[Path], Awaitable[None]],
        say: Callable[[str], None],
        report: Report,
    ) -> None:
        self._place, self._built, self._say, self._report = place, built, say, report
        self._model = ""
        self._folders: dict[Path, Path] = {}  # as they were named, by where they are
        self._looked: dict[Path, float] = {}
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self._one_by_one = asyncio.Lock()
        self._said: set[str] = set()

    def add(self, folders: Iterable[Path]) -> None:
        """Look after these, too."""
        for folder in folders:
            root = resolved(folder)
            if root is not None and not holds_everything(root):
                self._folders.setdefault(root, folder)
        self._look()

    def remove(self, folders: Iterable[Path]) -> None:
        """They were closed; one that is being counted is let go."""
        for folder in folders:
            root = resolved(folder) or folder
            self._folders.pop(root, None)
            self._looked.pop(root, None)
            if (task := self._tasks.pop(root, None)) is not None:
                task.cancel()

    def engine_is(self, model: str) -> None:
        """The engine has answered, or is another; empty: it is not of this user on this machine."""
        if model != self._model:
            folders = list(self._folders.values())
            self.remove(folders)
            self._model = model
            self.add(folders)
        self._look()

    async def aclose(self) -> None:
        """Stop what is being counted."""
        tasks = list(self._tasks.values())
        self.remove(list(self._folders))
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for root, folder in self._folders.items():
            task = self._tasks.get(root)
            waits = root in self._looked and now < self._looked[root] + _AGAIN_SECONDS
            if self._model and not waits and (task is None or task.done()):
                self._looked[root] = now
                self._tasks[root] = asyncio.create_task(self._counted(root, folder, self._model))

    async def _counted(self, root: Path, folder: Path, model: str) -> None:
        """Let it be counted, if it is due; shown from the moment on that it is."""
        async with self._one_by_one:
            await asyncio.sleep(_REST_SECONDS)
            await self._built(root)
            loop, stopped = asyncio.get_running_loop(), threading.Event()
            told: asyncio.Queue[tuple[str, float] | None] = asyncio.Queue()

            def work() -> dict[str, Any]:
                def show(what: str, share: float) -> None:
                    loop.call_soon_threadsafe(told.put_nowait, (what, share))

                try:
                    arguments = [str(folder), model]
                    return beside.work("blockdiff.train", arguments, self._place, show, stopped)
                except OSError as error:
                    return {"failed": type(error).__name__}
                finally:
                    with contextlib.suppress(RuntimeError):  # the loop is closed
                        loop.call_soon_threadsafe(told.put_nowait, None)

            try:
                working = asyncio.create_task(asyncio.to_thread(work))
                if first := await told.get():
                    async with self._report(f"names and habits in {root.name}") as progress:
                        progress(*first)
                        while line := await told.get():
                            progress(*line)
                ended = await working
            finally:
                stopped.set()
        if "counted" not in ended:
            self._fail(root, str(ended.get("failed") or f"it ended with status {ended['status']}"))

    def _fail(self, root: Path, why: str) -> None:
        text = f"the n-grams of {root} are not counted: {why}"
        if text not in self._said:
            self._said.add(text)
            self._say(text)
