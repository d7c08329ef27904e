"""How a published checkpoint was trained to be used: attention, shift, mask, blocks, infilling.

What the files of its folder say is read in `hub_config.py`. What those leave open, because the code
published beside them had it as a default, is one line of `PUBLISHED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from blockdiff.config import Layout
from blockdiff.errors import ModelUnsupported


class Family(str, Enum):
    """Who published it, and so how it decodes. Its body is another question: see `Body`."""

    DREAM = "dream"  # Dream, Dream-Coder, DiffuCoder, arXiv 2508.15487
    DREAMON = "dreamon"  # Dream with expand and delete tokens
    OPEN_DCODER = "open-dcoder"
    LLADA = "llada"  # arXiv 2502.09992
    LLADA2 = "llada2"  # mixture of experts, arXiv 2512.15745
    SDAR = "sdar"  # arXiv 2510.06303
    SDAR_MOE = "sdar-moe"
    STABLE_DIFFCODER = "stable-diffcoder"  # arXiv 2601.15892
    FAST_DLLM = "fast-dllm"  # Fast-dLLM v2, arXiv 2509.26328
    A2D = "a2d"  # Tiny-A2D
    NEMOTRON = "nemotron"  # Nemotron-Labs-Diffusion: autoregressive, diffusion, both
    RND1 = "rnd1"  # Qwen3-MoE made bidirectional
    CODA = "coda"
    DIFFUSION_GEMMA = "diffusion-gemma"  # noise is wrong tokens, not masks
    AR = "ar"  # any autoregressive model: block size 1


class Body(str, Enum):
    """The decoder stack: tensor names and configuration keys."""

    DIFFUSION_GEMMA = "diffusion_gemma"  # that of transformers
    LLAMA = "llama"
    LLADA = "llada"
    LLADA2 = "llada2"
    NEMOTRON = "nemotron"  # Ministral 3
    QWEN2 = "qwen2"
    QWEN3 = "qwen3"
    QWEN3_MOE = "qwen3_moe"
    STARCODER2 = "starcoder2"


class AttentionPattern(str, Enum):
    """What a position sees; the masks of these names are in `masks`, but for a canvas."""

    CAUSAL = "causal"  # what is before it
    CAUSAL_BLOCK = "causal with drafts"  # what is before it; in a block of masks all of that, too
    BLOCK = "block"  # its own block, and the blocks before it
    CANVAS = "canvas"  # what is before it; in the canvas, which is denoised, all of that, too
    FULL = "full"  # everything


@dataclass(frozen=True, slots=True)
class FimTokens:
    """Ids that mark the parts of a `psm` or `spm` layout."""

    prefix: int
    suffix: int
    middle: int


@dataclass(frozen=True, slots=True)
class DiffusionKind:
    """One checkpoint's way of writing.

    Attributes:
        shift: the logits of a mask at position p predict the token of p + 1, and not of p.
        mask_token_id: the noise; None where there is none (autoregressive), or any token is.
        block_size: tokens of a block, or of a canvas behind a causal prompt: 1 for autoregressive
            ones, None for one bidirectional canvas.
        sub_block_size: tokens unmasked before the next ones of their block; None: all.
        expand_token_id: predicted at a mask, it makes two masks of it; None where not trained.
        delete_token_id: predicted at a mask, it takes the mask away; with a `split_token_id`, at
            any position that may be edited. None where not trained.
        split_token_id: predicted at a position, it puts a mask before it; None where not trained.
        layout: how an infill is laid out; None: it cannot infill, only follow instructions.
        fim: the marks of that layout, where it has any.
        bos_token_id: begins a document, where the checkpoint saw whole ones.
        stop: ids that end a text.
    """

    family: Family
    body: Body
    attention: AttentionPattern
    shift: bool
    mask_token_id: int | None
    block_size: int | None
    sub_block_size: int | None = None
    expand_token_id: int | None = None
    delete_token_id: int | None = None
    split_token_id: int | None = None
    layout: Layout | None = None
    fim: FimTokens | None = None
    bos_token_id: int | None = None
    stop: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FamilyDefaults:
    """What a family's own code takes for granted; `fim`: its base was trained on those tokens."""

    family: Family
    body: Body
    attention: AttentionPattern
    shift: bool
    mask: int | None = None
    block_size: int | None = None
    sub_block_size: int | None = None
    fim: bool = False


_FULL, _BLOCK, _CAUSAL = AttentionPattern.FULL, AttentionPattern.BLOCK, AttentionPattern.CAUSAL
_CANVAS, _DRAFTS = AttentionPattern.CANVAS, AttentionPattern.CAUSAL_BLOCK
# By `architectures[0]` where that says more than `model_type`, else by that in small letters.
PUBLISHED = {
    "dream": FamilyDefaults(Family.DREAM, Body.QWEN2, _FULL, True, 151666),
    "llada": FamilyDefaults(Family.LLADA, Body.LLADA, _FULL, False, 126336),
    "coda": FamilyDefaults(Family.CODA, Body.QWEN3, _FULL, True, 151669),
    "diffusion_gemma": FamilyDefaults(
        Family.DIFFUSION_GEMMA, Body.DIFFUSION_GEMMA, _CANVAS, False, None, 256
    ),
    "nemotron_labs_diffusion": FamilyDefaults(
        Family.NEMOTRON, Body.NEMOTRON, _DRAFTS, False, 100, 32
    ),
    "rnd1": FamilyDefaults(Family.RND1, Body.QWEN3_MOE, _FULL, True, 151669),
    "sdar": FamilyDefaults(Family.SDAR, Body.QWEN3, _BLOCK, False, 151669, 4),
    "sdar_moe": FamilyDefaults(Family.SDAR_MOE, Body.QWEN3_MOE, _BLOCK, False, 151669, 4),
    "llada2_moe": FamilyDefaults(Family.LLADA2, Body.LLADA2, _BLOCK, False, 156895, 32),
    "StableDiffcoderForCausalLM": FamilyDefaults(
        Family.STABLE_DIFFCODER, Body.LLAMA, _BLOCK, False, 5, 4, fim=True
    ),
    "fast_dllm_qwen": FamilyDefaults(Family.FAST_DLLM, Body.QWEN2, _BLOCK, True, 151665, 32, 8),
    "a2d-llama": FamilyDefaults(Family.A2D, Body.LLAMA, _BLOCK, False, None, 32),
    # The published one with this body comes from Qwen2.5-Coder.
    "a2d-qwen2": FamilyDefaults(Family.A2D, Body.QWEN2, _BLOCK, False, None, 32, fim=True),
    "a2d-qwen3": FamilyDefaults(Family.A2D, Body.QWEN3, _BLOCK, False, None, 32),
    "llama": FamilyDefaults(Family.AR, Body.LLAMA, _CAUSAL, True, None, 1, fim=True),
    "qwen2": FamilyDefaults(Family.AR, Body.QWEN2, _CAUSAL, True, None, 1, fim=True),
    "qwen3": FamilyDefaults(Family.AR, Body.QWEN3, _CAUSAL, True, None, 1, fim=True),
    "qwen3_moe": FamilyDefaults(Family.AR, Body.QWEN3_MOE, _CAUSAL, True, None, 1, fim=True),
    "starcoder2": FamilyDefaults(Family.AR, Body.STARCODER2, _CAUSAL, True, None, 1, fim=True),
}
OPEN_DCODER = FamilyDefaults(Family.OPEN_DCODER, Body.QWEN2, _FULL, True)

MOST_TOKENS = 1 << 22  # of a vocabulary; the largest known is 262,144


def published(config: Mapping[str, Any], source: str) -> FamilyDefaults:
    """The line of the table that a `config.json` belongs to. Raises ModelUnsupported."""
    architectures = config.get("architectures") or [""]
    name = architectures[0] if isinstance(architectures, list) else ""
    model_type = str(config.get("model_type", ""))
    found = PUBLISHED.get(str(name)) or PUBLISHED.get(model_type.lower())
    if found is None:
        raise ModelUnsupported(
            f"{source}: config.json: model_type {model_type!r} is not supported",
            f"supported: {', '.join(sorted(PUBLISHED))}",
        )
    return found


