"""An engine that writes what a test tells it to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blockdiff.errors import Cancelled
from blockdiff.types import (
    Event,
    Finished,
    FinishReason,
    Refinement,
    Request,
    Span,
    SyntaxState,
    Warmed,
)
from tests.unit.scripted_service import OneByOne


@dataclass(frozen=True)
class Frame:
    """One draft: the text before `settled` stays; `uncertain` is a part of it."""

    text: str
    settled: int = 0
    uncertain: str = ""

    def spans(self) -> tuple[Span, ...]:
        cuts = {0, self.settled, len(self.text)}
        doubt = self.text.find(self.uncertain) if self.uncertain else -1
        doubtful = range(doubt, doubt + len(self.uncertain)) if doubt >= 0 else range(0)
        cuts |= {doubtful.start, doubtful.stop} if doubtful else set()
        places = sorted(cuts)
        return tuple(
            Span(start, end, end <= self.settled, 0.1 if start in doubtful else 0.9)
            for start, end in zip(places, places[1:], strict=False)
        )


class Scripted(OneByOne):
    """Attributes:
        frames: of each request in turn, the last for all that follow; the final text is that of
            the last frame.
        hold: do not end; the last frame comes again and again until this is false.
        requests, cancelled: what came.
    """

    name, device, dtype = "scripted", "cpu", "float32"
    context_speed, cache_entries, cache_bytes = 100.0, 1, 4096

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.frames: list[list[Frame]] = [[Frame("pass", 4)]]
        self._gate: threading.Semaphore | None = None
        self.syntax, self.finish = SyntaxState.OK, FinishReason.EOM
        self.requests: list[Request] = []
        self.cancelled: list[float] = []
        self.hold = False

    def writes(self, *texts: str | Frame) -> None:
        """What every request from now on is answered."""
        self.frames = [[t if isinstance(t, Frame) else Frame(t, len(t)) for t in texts]]

    def wait_for_steps(self) -> None:
        """From now on a frame is written only when a test calls `step`."""
        self._gate = threading.Semaphore(0)

    def step(self) -> None:
        assert self._gate
        self._gate.release()

    def infill(self, request: Request, cancelled: Callable[[], bool]) -> Iterator[Event]:
        self.requests.append(request)
        frames = self.frames[min(len(self.requests), len(self.frames)) - 1]
        step = 0
        while step < len(frames) or self.hold:
            frame = frames[min(step, len(frames) - 1)]
            if step < len(frames):
                self._wait_for_step(cancelled)
            else:
                time.sleep(0.02)
            self._check(cancelled)
            yield Refinement(
                request.request_id, step, 0, frame.text, frame.spans(), step, step, 1.0
            )
            step += 1
        yield Finished(
            request_id=request.request_id, hole=0, text=frames[-1].text, tokens=len(frames),
            forwards=len(frames), finish=self.finish, syntax=self.syntax,
            mode=request.decoding.mode.value, model=self.name, elapsed_ms=2.0, first_ms=1.0,
            context_tokens=100, cached_tokens=80,
        )  # fmt: skip

    rewrite = infill

    def warm(self, request: Request, cancelled: Callable[[], bool]) -> Warmed:
        return Warmed(request.request_id, 1, 1, 1.0)

    def _wait_for_step(self, cancelled: Callable[[], bool]) -> None:
        while self._gate and not self._gate.acquire(timeout=0.005):
            self._check(cancelled)

    def _check(self, cancelled: Callable[[], bool]) -> None:
        if cancelled():
            self.cancelled.append(time.monotonic())
            raise Cancelled("as asked")
