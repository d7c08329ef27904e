"""OpenVINO GenAI on the same GGUF file: the rival for contexts, which it encodes fastest of all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from blockdiff.bench.rivals import TimedRun
from blockdiff.errors import ModelUnsupported, NotInstalled

_BLOCK = 32  # tokens of its cache on a CPU: whole ones are found again


class OpenVino:
    """Its pipeline, with its own cache of prefixes.

    That cannot be emptied: a prompt is cold the first time only.
    """

    def __init__(self, file: Path, threads: int) -> None:
        """Raises NotInstalled without the extra, ModelUnsupported for a file that it refuses."""
        try:
            import openvino
            import openvino_genai
        except ImportError as error:
            hint = "pip install 'blockdiff[rivals]', or leave it out: --no-openvino"
            raise NotInstalled("openvino-genai is not installed", hint) from error
        self._tensor, self._settings = openvino.Tensor, openvino_genai.GenerationConfig
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        try:
            self._pipeline = openvino_genai.LLMPipeline(
                os.fspath(file), "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            hint = "leave it out: --no-openvino"
            raise ModelUnsupported(f"OpenVINO does not read {file.name}: {reason}", hint) from error
        self._held: list[int] = []
        self(range(2 * _BLOCK), 2, cold=True)  # the first call compiles

    def __call__(self, prompt: Sequence[int], tokens: int, *, cold: bool) -> TimedRun:
        """Timed by itself; the context's seconds have the first token in them."""
        settings: Any = self._settings()
        settings.max_new_tokens, settings.ignore_eos, settings.do_sample = tokens, True, False
        found = self._pipeline.generate(self._tensor(np.array([prompt])), settings)
        spent = found.perf_metrics
        pairs = zip(self._held, prompt[:-1], strict=False)
        shared = 0 if cold else len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        self._held = list(prompt)
        return TimedRun(
            context=spent.get_ttft().mean / 1e3,
            writing=spent.get_tpot().mean * (tokens - 1) / 1e3 if tokens > 1 else 0.0,
            encoded=len(prompt) - shared // _BLOCK * _BLOCK,
            tokens=tokens,
            forwards=tokens,
        )
