"""What the engine does otherwise for a checkpoint that others published, in a folder of the hub's
layout: its kind says how it is prompted, and those that are diffusion models have a loop of their
own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import torch

from blockdiff.config import DecodingConfig, Layout, Reuse
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.dllm.diffusion_gemma import DiffusionGemma, load_diffusion_gemma
from blockdiff.diffusion.dllm.sampler import AbsorbingSampler, as_diffusion
from blockdiff.diffusion.dllm.uniform_sampler import UniformSampler
from blockdiff.diffusion.forwards import Constraint
from blockdiff.diffusion.tri_mode import tri_mode
from blockdiff.errors import InvalidRequest, ModelUnsupported
from blockdiff.infill.layout import Prompt
from blockdiff.infill.turns import conversation, style_of
from blockdiff.model.cache import BlockCache
from blockdiff.model.forward import Runner
from blockdiff.model.load.from_folder import DraftingConfig, load_transformer
from blockdiff.model.load.hub_tokenizer import frame_of
from blockdiff.model.load.kinds import AttentionPattern, Body, DiffusionKind
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.model.transformer import Transformer
from blockdiff.types import InfillRequest

PublishedSampler: TypeAlias = AbsorbingSampler | UniformSampler

_SYSTEM = "You write source code."
_ASKED = "Write a source file. Answer with one code block and nothing else."
_FENCE = "```"


def is_diffusion(kind: DiffusionKind | None) -> bool:
    """Whether a checkpoint is a diffusion model itself and no other; None: it is ours."""
    causal = (AttentionPattern.CAUSAL, AttentionPattern.CAUSAL_BLOCK)
    return kind is not None and kind.attention not in causal


def own_mask(kind: DiffusionKind | None) -> int | None:
    """The mask that a checkpoint with all three modes drafts with; None: it is no such one."""
    if kind is None or kind.attention is not AttentionPattern.CAUSAL_BLOCK:
        return None
    return kind.mask_token_id


def drafting_of(kind: DiffusionKind) -> DraftingConfig:
    """A checkpoint without an adapter of ours, prompted as its kind says."""
    block = 0 if kind.attention is AttentionPattern.CANVAS else kind.block_size or 0
    draft = block if kind.attention is AttentionPattern.CAUSAL_BLOCK else 1
    return DraftingConfig(kind.layout or Layout.CHAT, block, draft, None)


def model_of(
    folder: Path, kind: DiffusionKind, *, dtype: torch.dtype, device: torch.device
) -> Transformer | DiffusionGemma:
    """Load a folder of the hub's layout; errors as `load_transformer`."""
    if kind.body is Body.DIFFUSION_GEMMA:
        return load_diffusion_gemma(folder, dtype=dtype, device=device)
    return load_transformer(folder, dtype=dtype, device=device)


def frame_in(
    folder: Path, kind: DiffusionKind, tokenizer: Tokenizer
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids before and behind an infill in place.

    A checkpoint that was only published as a partner in a conversation is told there to write a
    file; the text around the hole is a part of its answer.
    """
    if kind.attention is not AttentionPattern.CANVAS:
        return frame_of(folder, kind)
    style = style_of(tokenizer.special)
    begin = conversation(_SYSTEM, _ASKED, f"{_FENCE}\n", style, tokenizer)
    ends = [token for token in style.closing if isinstance(token, int)]
    return tuple(begin), (*tokenizer.encode(f"\n{_FENCE}"), *ends)


def adapted(request: InfillRequest, kind: DiffusionKind | None, instructed: bool) -> InfillRequest:
    """The request as a checkpoint of this kind can take it.

    Raises ModelUnsupported for an infill where it was only trained to follow instructions,
    InvalidRequest for the mode `ar` of a diffusion model, and for an approximate cache where the
    cache is exact.
    """
    reuse = request.decoding.cache
    if reuse is Reuse.SUFFIX:
        raise InvalidRequest(
            f"cache {reuse.value} is for several holes, and models with the layout psm",
            "leave --cache out",
        )
    if reuse is not Reuse.EXACT and (kind is None or kind.attention is not AttentionPattern.FULL):
        raise InvalidRequest(
            f"cache {reuse.value} is for bidirectional checkpoints, the cache of this one is exact",
            "leave --cache out",
        )
    if kind is None:
        return request
    if kind.layout is None and not instructed:
        raise ModelUnsupported(
            "this checkpoint cannot infill, only rewrite by instruction",
            "use `blockdiff rewrite --instruction ...`, or a model that `blockdiff models list` "
            "says can infill",
        )
    if kind.attention is AttentionPattern.CAUSAL_BLOCK:
        return replace(request, decoding=tri_mode(request.decoding))
    if not is_diffusion(kind):
        return request
    return replace(request, decoding=as_diffusion(request.decoding))


def unbanned(kind: DiffusionKind | None) -> frozenset[int]:
    """Special ids that a checkpoint may propose all the same: those that change a hole's length."""
    if kind is None:
        return frozenset()
    marks = (kind.expand_token_id, kind.delete_token_id, kind.split_token_id)
    return frozenset(token for token in marks if token is not None)


def sampler(
    model: Transformer | DiffusionGemma,
    kind: DiffusionKind,
    tokenizer: Tokenizer,
    *,
    cache: BlockCache,
    prompt: Prompt,
    chooser: Chooser,
    decoding: DecodingConfig,
    cancelled: Callable[[], bool],
    constraint: Constraint | None,
    runner: Runner | None = None,
) -> PublishedSampler:
    """The sampler of a checkpoint that is a diffusion model itself.

    A hole with nothing behind it ends where the checkpoint ends it, like an answer; what its canvas
    holds behind that is none of it.
    """
    after: Sequence[int] = prompt.after
    if isinstance(model, DiffusionGemma):
        return UniformSampler(
            model=model,
            cache=cache,
            chooser=chooser,
            stop=frozenset(tokenizer.special.stop),
            config=decoding,
            cancelled=cancelled,
            after=after,
            constraint=constraint,
        )
    return AbsorbingSampler(
        model=model,
        kind=kind,
        cache=cache,
        chooser=chooser,
        stop=frozenset(tokenizer.special.stop) if not after else frozenset(),
        config=decoding,
        cancelled=cancelled,
        after=after,
        constraint=constraint,
        length=None if after else decoding.max_tokens,
        runner=runner,
    )

