"""What forwards take on the machine that runs them: context by tokens, small ones by rows."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace

import torch

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.draft_tokens import DraftTokens
from blockdiff.diffusion.row_costs import RowTimes
from blockdiff.diffusion.sampler import Sampler
from blockdiff.engine.contexts import Contexts, never
from blockdiff.infill.layout import Prompt
from blockdiff.model.forward import Forward, Runner

_ROWS, _TRIES = (1, 4, 8, 12, 16), 2  # of forwards that are timed: kernels take rows in groups
_MEASURED_LENGTHS = (8, 8 + 64)  # tokens: to begin with, and then for the speed
_LEAST_TOKENS = 32  # fewer say more about one forward than about the speed of many
_HALF_LIFE, _REMEMBERED = 4096, 256  # tokens after which a measurement counts half; measurements
_IN_TIME = 0.95  # of the tokens that were prefilled: the few others may be slower than is said


class ContextSpeed:
    """Tokens per second that all but a few of those of late were prefilled at, or faster.

    By the mean, a context that is chosen to be ready in time would be late every other time.
    """

    def __init__(self) -> None:
        self._taken: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)  # tokens, seconds

    @property
    def per_second(self) -> float:
        """0.0 while nothing was measured."""
        weighted, age = [], 0
        for tokens, seconds in reversed(self._taken):
            weighted.append((tokens / seconds, tokens * 0.5 ** (age / _HALF_LIFE)))
            age += tokens
        slower = (1.0 - _IN_TIME) * sum(weight for _, weight in weighted)
        for speed, weight in sorted(weighted):
            slower -= weight
            if slower < 0.0:
                return speed
        return 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count `tokens` that took so long; too few to tell are not counted."""
        if tokens >= _LEAST_TOKENS and seconds > 0.0:
            self._taken.append((tokens, seconds))


class ForwardTimes:
    """The times of an engine's forwards; drafts are planned by what rows cost.

    Attributes:
        context: tokens prefilled.
    """

    def __init__(self, contexts: Contexts) -> None:
        self.context = ContextSpeed()
        self._contexts = contexts
        self._rows: RowTimes | None = None

    def add(self, one: Forward, began: float) -> None:
        """Learn from a forward how fast context is prefilled, or what rows cost.

        The latter on a CPU only: elsewhere rows cost next to nothing, and it would have to be
        waited for each forward.
        """
        device = self._contexts.checkpoint.model.device
        if one.wanted is None or one.wanted >= _LEAST_TOKENS:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            self.context.add(one.size, time.monotonic() - began)
        elif self._rows is None or device.type != "cpu":
            return
        elif one.wanted == 0 and not one.drafts:  # nothing but rows
            self._rows.add(one.size, one.gate is not None, time.monotonic() - began)
            self._plan_by(self._rows)

    @torch.inference_mode()
    def measure(self, forward: Runner) -> None:
        """Find out how fast context is prefilled. The first forward reads the weights in."""
        decoding = DecodingConfig(mode=Mode.AR)
        contexts, nothing = self._contexts, Prompt((), "", 0)
        sampler = contexts.sampler(contexts.empty_cache(), nothing, decoding, never)
        for length in _MEASURED_LENGTHS:
            for chunk in sampler.prefilling([0] * (length + 1)):
                forward([chunk])
        if contexts.checkpoint.kind is None:
            self._rows = self._time_rows(forward)
            self._plan_by(self._rows)

    def _plan_by(self, rows: RowTimes) -> None:
        contexts = self._contexts
        contexts.speculation = replace(contexts.speculation, costs=rows.costs())

    def _time_rows(self, forward: Runner) -> RowTimes:
        """What rows of a small forward take here to begin with, the fastest of a few tries."""
        contexts, nothing = self._contexts, Prompt((), "", 0)
        some, adapted = _ROWS[2], contexts.checkpoint.adapter is not None
        verify = DecodingConfig(mode=Mode.VERIFY, block_size=some // 2)
        sampler = contexts.sampler(contexts.empty_cache(), nothing, verify, never)
        assert isinstance(sampler, Sampler)  # one of ours

        def seconds(rows: int, masked: int = 0) -> float:
            exact = rows - masked
            draft = DraftTokens((0,) * (exact - 1))
            lengths = (exact - 1,) if masked else ()
            began = time.perf_counter()
            one = sampler.verifying_forward([0], draft, lengths, masked)
            logits = forward([one])[0]
            float(logits[0, 0])  # a GPU is done when its answer is there
            return time.perf_counter() - began

        masked = some // 2 if adapted else 0
        tries = [({n: seconds(n) for n in _ROWS}, seconds(some, masked)) for _ in range(_TRIES)]
        exact = {rows: min(found[rows] for found, _ in tries) for rows in _ROWS}
        return RowTimes(exact, min(taken for _, taken in tries) - exact[some])
