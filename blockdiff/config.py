"""Typed settings. A mode is a value here, never a string compared in five places.

The limits of a field and its help are annotations: the command line, the JSON that comes in, the
editor's settings and the JSON Schemas have them from here. What contradicts them is an error at
construction. Nothing here imports torch.
"""

from __future__ import annotations

import functools
import sys
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

IDLE_SECONDS = 1800.0
"""Without a request, after which an engine stops that nobody told otherwise."""

CACHE_MIB, DISK_CACHE_MIB = 512, 2048
"""Of encoded context that an engine keeps in memory, and of it on disk for later ones."""

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
