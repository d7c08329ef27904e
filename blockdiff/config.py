"""Typed settings. A mode is a value here, never a string compared in five places.

The limits of a field and its help are annotations: the command line, the JSON that comes in, the
editor's settings and the JSON Schemas have them from here. What contradicts them is an error at
construction. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from blockdiff.errors import InvalidRequest

MAX_BYTES = 8 << 20
"""Of a source file, and of the document of a request."""

MOST_TOKENS = 8192
"""That one request may write."""

SEEDS = (-(2**63), 2**64 - 1)
"""The least and the greatest seed: those that torch's generators take."""

LEAST_TEMPERATURE = 1e-4
"""Below it choosing is greedy: logits divided by less leave the range of float32."""


MOST_FLOAT = sys.float_info.max
"""The limit of what is finite; the library takes no infinite one."""


class Mode(str, Enum):
    """How a block is written; one checkpoint can serve all three."""

    AR = "ar"  # base weights, one token per forward
    VERIFY = "verify"  # adapter drafts, base verifies: the text of `ar` in fewer forwards
    DIFFUSION = "diffusion"  # a block of masks is denoised, several tokens settle per forward


class Rule(str, Enum):
    """Which positions of a draft settle in one step."""

    TRUST = "trust"  # what the base holds for likely enough, from left to right
    SCHEDULE = "schedule"
    THRESHOLD = "threshold"
    ENTROPY_BOUND = "entropy_bound"
    EDIT = "edit"  # as threshold; a settled token gives way to one the model is surer of
    SYNTAX = "syntax"  # as threshold; what does not parse in the end is written again
    STABLE = "stable"  # as threshold; a draft that does not change any more settles as a whole
    ADAPTIVE = "adaptive"  # as threshold; blocks grow where they settle fast, else they shrink


class Reuse(str, Enum):
    """Which keys and values are taken from a forward that saw them otherwise."""

    EXACT = "exact"  # none
    SUFFIX = "approximate-suffix"  # several holes: of what stands behind one, from the whole text
    PREFIX = "approximate-prefix"  # bidirectional: of what stands before the block
    DUAL = "approximate-dual"  # bidirectional: of what stands before it and behind it


class Layout(str, Enum):
    """How prefix, hole and suffix become one token sequence; a property of the checkpoint."""

    PSM = "psm"
    SPM = "spm"
    SUFFIX_FIRST = "suffix_first"  # spm with the suffix before the mark of the prefix
    IN_PLACE = "in_place"  # masks at their true positions between prefix and suffix
    CHAT = "chat"


def about(text: str, **limits: Any) -> Meta:
    """What is said of a field: its help, and limits by their names in `msgspec.Meta`."""
    made: Meta = Meta(description=text, **limits)
    return made


@functools.cache
def annotations_of(kind: Any) -> dict[str, Any]:
    """The types of the fields of a dataclass, with what is said of them."""
    return get_type_hints(kind, include_extras=True)


def bare(annotation: Any) -> Any:
    """The type in an annotation."""
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def meta_of(annotation: Any) -> dict[str, Any]:
    """The limits and the description in an annotation, by their names in `msgspec.Meta`."""
    names = ("ge", "gt", "le", "min_length", "max_length", "description")
    metas = getattr(annotation, "__metadata__", ())
    said = ((name, getattr(meta, name)) for meta in metas for name in names)
    return {name: value for name, value in said if value is not None}


def check_limits(value: Any) -> None:
    """Raises InvalidRequest for a field of a dataclass that is outside of its limits."""
    kind: Any = type(value)
    for name, annotation in annotations_of(kind).items():
        try:
            if bare(annotation) is not annotation:
                msgspec.convert(getattr(value, name), annotation)
        except msgspec.ValidationError:
            raise outside(name, getattr(value, name), annotation) from None


def outside(name: str, value: Any, annotation: Any) -> InvalidRequest:
    """The error for a value outside of the limits of an annotation."""
    limits = meta_of(annotation)
    if "min_length" in limits:
        wanted = f"be {limits['min_length']} to {limits['max_length']}, got {len(value)}"
    elif "max_length" in limits:
        wanted = f"have {limits['max_length']} characters at most"
    elif limits.get("le") == MOST_FLOAT:
        wanted = f"be finite and above {limits['gt']}, got {value}"
    elif "gt" in limits:
        wanted = f"be in ({limits['gt']}, {limits['le']}], got {value}"
    else:
        wanted = f"be {limits['ge']}..{limits['le']}, got {value}"
    return InvalidRequest(f"{name} must {wanted}")


MaxTokens = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
BlockSize = Annotated[
    int, about("tokens per block (0: as the checkpoint was trained)", ge=0, le=64)
]
Temperature = Annotated[float, about("0 is greedy, as is less than 0.0001", ge=0, le=10)]
Seed = Annotated[int, about("the same seed gives the same text; -2^63 to 2^64-1")]


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """How to write the text of a hole."""

    mode: Annotated[Mode, about("ar, verify (same text as ar, fewer forwards) or diffusion")] = (
        Mode.VERIFY
    )
    rule: Annotated[Rule, about("diffusion: which tokens of a draft settle in a step")] = Rule.TRUST
    trust: Annotated[
        float,
        about(
            "diffusion, rule trust: settle tokens at least so likely, against the likeliest one",
            ge=0,
            le=1,
        ),
    ] = 0.3
    block_size: BlockSize = 0
    denoising_steps: Annotated[
        int,
        about("diffusion, rule schedule: steps per block (0: one per token)", ge=0, le=MOST_TOKENS),
    ] = 0
    threshold: Annotated[float, about("diffusion: settle tokens above this", gt=0, le=1)] = 0.9
    entropy_bound: Annotated[
        float, about("diffusion, rule entropy_bound: nats settled per step", gt=0, le=MOST_FLOAT)
    ] = 0.5
    edit_threshold: Annotated[
        float, about("diffusion, rule edit: replace where another is above this", gt=0, le=1)
    ] = 0.9
    cache: Annotated[
        Reuse, about("several holes, bidirectional models: exact, or faster and approximate")
    ] = Reuse.EXACT
    max_tokens: Annotated[
        MaxTokens, about("most tokens to write (0: 256, for a rewrite what its text needs)")
    ] = 0
    temperature: Temperature = 0.0
    top_p: Annotated[
        float, about("sample from the smallest set of tokens with this mass", gt=0, le=1)
    ] = 1.0
    seed: Seed = 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < LEAST_TEMPERATURE

    def __post_init__(self) -> None:
        check_limits(self)  # of the seed the library can say none: they exceed 64 bits with a sign
        if not SEEDS[0] <= self.seed <= SEEDS[1]:
            raise InvalidRequest(f"seed must be -2^63..2^64-1, got {self.seed}")


@dataclass(frozen=True, slots=True)
class ExpertsConfig:
    """Shape of a mixture of experts in place of a feed-forward.

    Attributes:
        count: experts of a layer; `active` of them act on a token.
        size: inner width of one, in place of `ffn_size`.
        shared_size: inner width of the expert that acts on every token; 0: there is none.
        first_layer: layers below this one have a plain feed-forward.
        groups: experts are chosen from the best `active_groups` of so many equal groups, a group
            being as good as its two best experts; 1: from all of them.
        sigmoid: scores are sigmoids, to which a bias is added for choosing; else a softmax.
        normalized: the weights of the chosen ones sum to 1, before `scale`.
        capacity: experts that work for one block of `block` positions; 0: blocks do not matter.
    """

    count: int
    active: int
    size: int
    shared_size: int = 0
    first_layer: int = 0
    groups: int = 1
    active_groups: int = 1
    sigmoid: bool = False
    normalized: bool = True
    scale: float = 1.0
    capacity: int = 0
    block: int = 1

    def __post_init__(self) -> None:
        def need(ok: bool, message: str) -> None:
            if not ok:
                raise InvalidRequest(message)

        need(self.count % self.groups == 0, f"{self.count} experts in {self.groups} groups")
        groups = f"{self.active_groups} of {self.groups} groups"
        need(1 <= self.active_groups <= self.groups, groups)
        reachable = self.count // self.groups * self.active_groups
        need(1 <= self.active <= reachable, f"{self.active} of {reachable} experts")
        most = f"{self.active} of {self.capacity} of {self.count} experts"
        need(not self.capacity or self.active <= self.capacity <= self.count, most)
        need(self.groups == 1 or self.count // self.groups > 1, "groups of one expert")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Rotary angles slowed down, for contexts longer than those of the first training.

    Attributes:
        factor: angles are divided by it (position interpolation, arXiv 2306.15595).
        trained: positions of the first training; 0: all angles are divided. Else (Llama 3) those
            that turn fewer than `low` times within them are, those that turn more than `high` times
            are not, and between the two the change is gradual.
        yarn: it is gradual by the index of an angle and not by its turns (arXiv 2309.00071).
        whole: with `yarn`, from a whole index to a whole index.
        amplitude: cosines and sines are multiplied by it.
        query_growth: queries are multiplied by 1 + this * ln(1 + floor(position / trained))
            (Llama 4, Ministral 3).
    """

    factor: float
    trained: int = 0
    low: float = 1.0
    high: float = 4.0
    yarn: bool = False
    whole: bool = True
    amplitude: float = 1.0
    query_growth: float = 0.0

    def __post_init__(self) -> None:
        if (self.yarn or self.query_growth) and not self.trained:
            raise InvalidRequest("rotary scaling that does not say what was trained")
        if self.high <= self.low:
            raise InvalidRequest(f"rotary scaling between {self.low} and {self.high} turns")


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Shape of a decoder stack: Llama, Qwen2, Qwen3, LLaDA, mixtures of experts, StarCoder2.

    Attributes:
        n_kv_heads: heads of keys and values; `n_heads / n_kv_heads` queries share one.
        qkv_bias: biases on the query, key and value projections (Qwen2).
        qk_norm: RMSNorm over each head of queries and keys before RoPE (Qwen3).
        tied_embeddings: the output head is the embedding matrix.
        rotary_dim: leading dimensions of each head that RoPE turns; 0: all of them.
        rope_scaling: None: angles are those of the base.
        o_bias, ffn_bias: biases on the output projection of attention, on the feed-forward.
        gated_ffn: SwiGLU; else one projection and the tanh form of GELU (StarCoder2).
        layer_norm: LayerNorm with biases in place of RMSNorm (StarCoder2).
        sliding_window: a position sees so many positions, itself included, and none before; 0: all.
        experts: what takes the place of the feed-forward; None: nothing.
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
    rotary_dim: int = 0
    rope_scaling: RopeScaling | None = None
    o_bias: bool = False
    ffn_bias: bool = False
    gated_ffn: bool = True
    layer_norm: bool = False
    sliding_window: int = 0
    experts: ExpertsConfig | None = None

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise InvalidRequest(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key heads evenly"
            )
        if not self.rotary_dim and self.head_dim % 2:
            raise InvalidRequest(f"RoPE cannot turn an odd number of dimensions, {self.head_dim}")
        if self.rope_scaling is not None and self.rope_scaling.yarn and self.rope_base <= 1:
            raise InvalidRequest(f"YaRN with angles to the base {self.rope_base}")
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim:
            raise InvalidRequest(
                f"RoPE cannot turn {self.rotary_dim} of {self.head_dim} dimensions"
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
class ChatStyle:
    """What stands around the turns of a conversation: ids, and texts that are encoded.

    Attributes:
        first: before the first turn.
        opening, closing: before and behind the text of a turn; `{role}` stands for who speaks.
        roles: what the system, the user and the assistant are called.
        after_system: text at the end of the system's turn.
    """

    first: tuple[int | str, ...]
    opening: tuple[int | str, ...]
    closing: tuple[int | str, ...]
    roles: tuple[str, str, str] = ("system", "user", "assistant")
    after_system: str = ""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Token ids that mean something to the layouts; -1 where the checkpoint has none.

    `stop` holds every id that ends the middle, `chat` how turns are marked if not as in Qwen2.5.
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
    chat: ChatStyle | None = None
