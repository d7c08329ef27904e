"""Typed settings. A mode is a value here, never a string compared in five places.

Field metadata `help` becomes the help text of the command line. Contradictions are errors at
construction. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from blockdiff.errors import InvalidRequest

MOST_TOKENS = 8192
"""That one request may write."""


class Mode(str, Enum):
    """How a block is written; one checkpoint can serve all three."""

    AR = "ar"  # base weights, one token per forward
    VERIFY = "verify"  # adapter drafts, base verifies: the text of `ar` in fewer forwards
    DIFFUSION = "diffusion"  # a block of masks is denoised, several tokens settle per forward


class Rule(str, Enum):
    """Which masked positions of a block settle in one denoising step."""

    SCHEDULE = "schedule"
    THRESHOLD = "threshold"
    ENTROPY_BOUND = "entropy_bound"
    EDIT = "edit"  # as threshold; a settled token gives way to one the model is surer of


class Layout(str, Enum):
    """How prefix, hole and suffix become one token sequence; a property of the checkpoint."""

    PSM = "psm"
    SPM = "spm"
    IN_PLACE = "in_place"  # masks at their true positions between prefix and suffix
    CHAT = "chat"


def _help(text: str, default: Any) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """How to write the text of a hole."""

    mode: Mode = _help("ar, verify (same text as ar, fewer forwards) or diffusion", Mode.VERIFY)
    rule: Rule = _help("diffusion: which masks settle in a step", Rule.THRESHOLD)
    block_size: int = _help("tokens per block (0: as the checkpoint was trained)", 0)
    denoising_steps: int = _help("diffusion, rule schedule: steps per block (0: one per token)", 0)
    threshold: float = _help("diffusion, threshold and edit: settle tokens above this", 0.9)
    entropy_bound: float = _help("diffusion, rule entropy_bound: nats settled per step", 0.5)
    edit_threshold: float = _help("diffusion, rule edit: replace where another is above this", 0.9)
    max_tokens: int = _help("most tokens to write (0: 256, for a rewrite what its text needs)", 0)
    temperature: float = _help("0 is greedy", 0.0)
    top_p: float = _help("sample from the smallest set of tokens with this mass", 1.0)
    seed: int = _help("seed of the sampler; the same seed gives the same text", 0)

    def __post_init__(self) -> None:
        def need(ok: bool, message: str) -> None:
            if not ok:
                raise InvalidRequest(message)

        need(0 <= self.block_size <= 64, f"block_size must be 0..64, got {self.block_size}")
        need(self.denoising_steps >= 0, f"denoising_steps is negative: {self.denoising_steps}")
        need(0.0 < self.threshold <= 1.0, f"threshold must be in (0, 1], got {self.threshold}")
        need(self.entropy_bound > 0.0, f"entropy_bound must be above 0, got {self.entropy_bound}")
        edit = self.edit_threshold
        need(0.0 < edit <= 1.0, f"edit_threshold must be in (0, 1], got {edit}")
        tokens = self.max_tokens
        need(0 <= tokens <= MOST_TOKENS, f"max_tokens must be 0..{MOST_TOKENS}, got {tokens}")
        need(0.0 <= self.temperature <= 10.0, f"temperature must be 0..10, got {self.temperature}")
        need(0.0 < self.top_p <= 1.0, f"top_p must be in (0, 1], got {self.top_p}")


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Shape of a decoder stack of the Llama, Qwen2 or Qwen3 kind.

    Attributes:
        n_kv_heads: heads of keys and values; `n_heads / n_kv_heads` queries share one.
        qkv_bias: biases on the query, key and value projections (Qwen2).
        qk_norm: RMSNorm over each head of queries and keys before RoPE (Qwen3).
        tied_embeddings: the output head is the embedding matrix.
    """

    vocab_size: int
    hidden_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_size: int
    rope_base: float = 10_000.0
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = True
    max_positions: int = 32_768

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise InvalidRequest(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key heads evenly"
            )


ADAPTER_TARGETS = ("qkv", "o", "gate_up", "down")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Shape of the gated adapter: low-rank weights that act at noisy positions only.

    Attributes:
        ranks: inner width of the low-rank pair of each target; 0 or absent: none.
        scale: what a pair adds is multiplied by this, whatever its rank, so that one learning
            rate suits them all.
        first_layer: blocks below this one carry no pairs.
    """

    ranks: Mapping[str, int]
    scale: float = 2.0
    first_layer: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.ranks) - set(ADAPTER_TARGETS))
        if unknown:
            raise InvalidRequest(
                f"unknown adapter targets {unknown}", f"known: {', '.join(ADAPTER_TARGETS)}"
            )


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids that mean something to the layouts; -1 where the checkpoint has none.

    `stop` holds every id that ends the middle.
    """

    fim_prefix: int
    fim_middle: int
    fim_suffix: int
    fim_pad: int
    repo_name: int
    file_sep: int
    end_of_text: int
    im_start: int
    im_end: int
    mask: int
    stop: tuple[int, ...]
