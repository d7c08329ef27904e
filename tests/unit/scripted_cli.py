"""The `blockdiff` command with a scripted engine in place of the real one.

Run as a program it takes the command's own arguments; the environment says what happens:
`SCRIPT` names a scene below, `SCRIPT_TEXT` the text that is written into the hole.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from blockdiff.cli import infill as infill_command
from blockdiff.errors import ModelNotFound
from blockdiff.types import (
    Event,
    Filled,
    Finished,
    FinishReason,
    InfillRequest,
    Refinement,
    Request,
    Span,
    SyntaxState,
)
from blockdiff.weights import download

TOKEN = 4  # code points of a token of the scripted draft


class ScriptedEngine:
    """Settles the scripted text token by token, two refinements each."""

    requests: list[Request] = []

    def __init__(self, scene: str, text: str) -> None:
        self.name, self.device, self.dtype = "scripted", "cpu", "float32"
        self._scene, self._text = scene, text

    @classmethod
    def load(
        cls, model: str, *, device: str, dtype: str, progress: Any = None, drafter: str = ""
    ) -> ScriptedEngine:
        scene = os.environ.get("SCRIPT", "fill")
        if scene == "hang-load":
            hang()
        if scene == "swallow":
            try:
                hang()
            except KeyboardInterrupt:  # as the import of a C extension does
                raise ImportError("an extension failed to load") from None
        if scene == "memory-load":
            raise MemoryError
        progress("loading the weights", 1.0)
        return cls(scene, os.environ.get("SCRIPT_TEXT", "x = 1"))

    def infill(self, request: Request, cancelled: Callable[[], bool]) -> Iterator[Event]:
        self.requests.append(request)
        if self._scene == "crash":
            raise ZeroDivisionError("division\nby zero")
        if self._scene == "allocator":
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        if isinstance(request, InfillRequest) and request.also:
            yield from self._several(request, cancelled)
            return
        yield from self._refinements(request)
        if self._scene == "hang":
            hang()
        if self._scene == "edit-meanwhile":
            Path(request.path).write_text("somebody else was here\n")
        if self._scene == "remove-meanwhile":
            Path(request.path).unlink()
        tokens = -(-len(self._text) // TOKEN)
        finish = FinishReason.LENGTH if self._scene == "length" else FinishReason.EOM
        yield Finished(
            request_id="", hole=0, text=self._text, tokens=tokens, forwards=tokens + 1,
            finish=finish, syntax=SyntaxState.OK, mode=request.decoding.mode.value,
            model=self.name, elapsed_ms=12.5, first_ms=3.25, context_tokens=40,
        )  # fmt: skip

    rewrite = infill

    def _several(
        self, request: InfillRequest, cancelled: Callable[[], bool]
    ) -> Iterator[Event]:
        """The holes in turn, each with its number behind the text."""
        text, ends = self._text, []
        for hole in range(len(request.holes)):
            self._text = f"{text}{hole}"
            *drafts, end = self.infill(request.only(hole), cancelled)
            yield from (replace(draft, hole=hole) for draft in drafts)  # type: ignore[type-var]
            assert isinstance(end, Finished)
            ends.append(replace(end, hole=hole))
        yield Filled("", tuple(ends), 40.0)

    def _refinements(self, request: Request) -> Iterator[Refinement]:
        ends = list(range(TOKEN, len(self._text), TOKEN)) + [len(self._text)]
        for settled in range(len(ends)):
            for step in (0, 1):
                spans = tuple(
                    Span(i * TOKEN, end, i < settled, 1.0 if i < settled else 0.1 + step / 2)
                    for i, end in enumerate(ends[: settled + 3])
                )
                text = self._text[: spans[-1].end]
                count = 2 * settled + step
                yield Refinement("", count, 0, text, spans, count, count, 10.0 * count)
                if self._scene == "slow":
                    time.sleep(0.01)


def hang() -> None:
    print("hanging", file=sys.stderr, flush=True)
    while True:
        time.sleep(0.01)


def install() -> None:
    """Put the scripted engine where the command looks for the real one."""
    module: Any = ModuleType("blockdiff.engine.engine")
    module.Engine = ScriptedEngine
    sys.modules["blockdiff.engine.engine"] = module
    infill_command.find_spec = lambda _: True  # type: ignore[assignment,return-value]
    if os.environ.get("SCRIPT") == "hang-download":
        download.pull = lambda *_, **__: hang()  # type: ignore[assignment]
        download.resolve = not_there  # type: ignore[assignment]
    else:
        download.resolve = lambda *_, **__: None  # type: ignore[assignment,return-value]


def not_there(name: str, progress: object) -> None:
    raise ModelNotFound(f"{name} is not downloaded", "download it")


if __name__ == "__main__":
    from blockdiff.__main__ import main

    install()
    main()
