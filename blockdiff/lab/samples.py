"""What samples are worth: likely to a judge, diverse, code that parses, and the time they took."""

from __future__ import annotations

import ast
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blockdiff.eval.results import resampled_ratio, share_interval
from blockdiff.lab.data import LabData
from blockdiff.lab.families import bits_per_byte
from blockdiff.lab.family import LabFamily, SamplerSettings, Template

Judge = Callable[[Tensor], list[float]]
"""Nats of each sample (batch, length)."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Samples of one family by one sampler.

    Attributes:
        bits, low, high: bits per byte of the samples under the judge, and the 95% interval. Text
            that repeats itself is likely, too: read it beside `distinct`.
        distinct: different tokens over tokens.
        parses, parses_low, parses_high: share of samples whose whole lines parse as Python.
        ms_per_token: of wall-clock time, all samples in one batch.
    """

    sampler: str
    steps: int
    batch: int
    length: int
    bits: float
    low: float
    high: float
    distinct: float
    parses: float
    parses_low: float
    parses_high: float
    ms_per_token: float


def judged(
    family: LabFamily, data: LabData, judge: Judge, how: SamplerSettings, template: Template
) -> Sampled:
    """Sample once around what `template` knows, and look at what came out."""
    began = time.perf_counter()
    tokens = family.sample(template, how)
    seconds = time.perf_counter() - began
    return described(tokens, data, judge, how.sampler or family.samplers[0], how.steps, seconds)


def described(
    tokens: Tensor, data: LabData, judge: Judge, sampler: str, steps: int, seconds: float
) -> Sampled:
    """Of samples (batch, length), or of real text for comparison."""
    batch, length = tokens.shape
    texts = [data.text(row) for row in tokens]
    bits = [bits_per_byte(nats, 1) for nats in judge(tokens)]
    sizes = [max(1, int(n)) for n in data.nbytes(tokens)]
    low, high = resampled_ratio(map(str, range(batch)), bits, sizes)
    good = sum(map(parses, texts))
    parses_low, parses_high = share_interval(good, batch)
    return Sampled(
        sampler, steps, batch, length,
        bits=sum(bits) / sum(sizes), low=low, high=high,
        distinct=sum(len(set(row.tolist())) for row in tokens) / tokens.numel(),
        parses=good / batch, parses_low=parses_low, parses_high=parses_high,
        ms_per_token=1e3 * seconds / tokens.numel(),
    )  # fmt: skip


def parses(text: str) -> bool:
    """Whether the whole lines of a window cut out of a file parse by themselves, dedented."""
    whole = text[text.find("\n") + 1 : text.rfind("\n") + 1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(ast.parse(textwrap.dedent(whole)).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def lab_judge(family: LabFamily) -> Judge:
    """The bound of one of our own families, exact where it is `ar`."""

    @torch.no_grad()
    def judge(tokens: Tensor) -> list[float]:
        nats: list[float] = family.bound(tokens, torch.Generator().manual_seed(0)).tolist()
        return nats

    return judge
