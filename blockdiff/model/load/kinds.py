"""How a published checkpoint was trained to be used: attention, shift, mask, blocks, infilling.

Everything is read from the files of its folder, `config.json` first. What those leave open, because
the code published beside them had it as a default, is one line of `_PUBLISHED`. Nothing here
imports torch, and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from blockdiff.config import Layout
from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported


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
class _Published:
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
_PUBLISHED = {
    "dream": _Published(Family.DREAM, Body.QWEN2, _FULL, True, 151666),
    "llada": _Published(Family.LLADA, Body.LLADA, _FULL, False, 126336),
    "coda": _Published(Family.CODA, Body.QWEN3, _FULL, True, 151669),
    "diffusion_gemma": _Published(
        Family.DIFFUSION_GEMMA, Body.DIFFUSION_GEMMA, _CANVAS, False, None, 256
    ),
    "nemotron_labs_diffusion": _Published(
        Family.NEMOTRON, Body.NEMOTRON, _DRAFTS, False, 100, 32
    ),
    "rnd1": _Published(Family.RND1, Body.QWEN3_MOE, _FULL, True, 151669),
    "sdar": _Published(Family.SDAR, Body.QWEN3, _BLOCK, False, 151669, 4),
    "sdar_moe": _Published(Family.SDAR_MOE, Body.QWEN3_MOE, _BLOCK, False, 151669, 4),
    "llada2_moe": _Published(Family.LLADA2, Body.LLADA2, _BLOCK, False, 156895, 32),
    "StableDiffcoderForCausalLM": _Published(
        Family.STABLE_DIFFCODER, Body.LLAMA, _BLOCK, False, 5, 4, fim=True
    ),
    "fast_dllm_qwen": _Published(Family.FAST_DLLM, Body.QWEN2, _BLOCK, True, 151665, 32, 8),
    "a2d-llama": _Published(Family.A2D, Body.LLAMA, _BLOCK, False, None, 32),
    # The published one with this body comes from Qwen2.5-Coder.
    "a2d-qwen2": _Published(Family.A2D, Body.QWEN2, _BLOCK, False, None, 32, fim=True),
    "a2d-qwen3": _Published(Family.A2D, Body.QWEN3, _BLOCK, False, None, 32),
    "llama": _Published(Family.AR, Body.LLAMA, _CAUSAL, True, None, 1, fim=True),
    "qwen2": _Published(Family.AR, Body.QWEN2, _CAUSAL, True, None, 1, fim=True),
    "qwen3": _Published(Family.AR, Body.QWEN3, _CAUSAL, True, None, 1, fim=True),
    "qwen3_moe": _Published(Family.AR, Body.QWEN3_MOE, _CAUSAL, True, None, 1, fim=True),
    "starcoder2": _Published(Family.AR, Body.STARCODER2, _CAUSAL, True, None, 1, fim=True),
}
_OPEN_DCODER = _Published(Family.OPEN_DCODER, Body.QWEN2, _FULL, True)

_MASKS = ("<|mask|>", "<|MASK|>", "|<MASK>|", "<MASK>", "[MASK]", "<|mdm_mask|>", "<[MASK_TOKEN]>")
_EXPAND = "<|expand|>"
_EDITS = 156930, 156931  # of LLaDA2.2: delete, split
# prefix, suffix, middle, and the order in which the base saw them
_FIM = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", Layout.PSM),  # Qwen2.5-Coder
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", Layout.PSM),  # StarCoder
    ("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", Layout.SUFFIX_FIRST),  # Seed-Coder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", Layout.PSM),  # DeepSeek-Coder
)
MOST_TOKENS = 1 << 22  # of a vocabulary; the largest known is 262,144
_MOST_BYTES = 64 << 20  # of a JSON file; the largest tokenizers have 35 MB
_BLOCK_KEYS: dict[AttentionPattern, tuple[tuple[str, ...], int]] = {  # and the largest size
    AttentionPattern.BLOCK: (("block_size", "bd_size", "block_length"), 1024),
    AttentionPattern.CANVAS: (("canvas_length",), 1 << 14),
    AttentionPattern.CAUSAL_BLOCK: (("block_size",), 64),  # as far as a request may choose it
}
_MASK_ROLE = "mask_token"  # how `special_tokens` names the token that the tokenizer calls its mask


def published(config: Mapping[str, Any], source: str) -> _Published:
    """The line of the table that a `config.json` belongs to. Raises ModelUnsupported."""
    architectures = config.get("architectures") or [""]
    name = architectures[0] if isinstance(architectures, list) else ""
    model_type = str(config.get("model_type", ""))
    found = _PUBLISHED.get(str(name)) or _PUBLISHED.get(model_type.lower())
    if found is None:
        raise ModelUnsupported(
            f"{source}: config.json: model_type {model_type!r} is not supported",
            f"supported: {', '.join(sorted(_PUBLISHED))}",
        )
    return found


def read_kind(
    config: Mapping[str, Any],
    *,
    generation: Mapping[str, Any] | None = None,
    tokens: Mapping[str, int] | None = None,
    source: str = "the checkpoint",
) -> DiffusionKind:
    """The kind of a checkpoint.

    Args:
        config: its `config.json`.
        generation: its `generation_config.json`, if it has one.
        tokens: its special tokens by name, see `special_tokens`; None: it has no tokenizer.
        source: what errors name.

    Raises:
        ModelUnsupported: an unknown family.
        ModelCorrupt: an id outside the vocabulary, or a tokenizer without the mask token.
    """
    generation, names = generation or {}, tokens or {}
    base = published(config, source)
    config = text_config(config, source)
    ids = _Ids(config, generation, source)
    mask = ids.get("mask_token_id")
    if mask is None:
        mask = _mask_of(names) if base.mask is None else base.mask
    if base == _PUBLISHED["qwen2"] and mask is not None:
        base = _OPEN_DCODER  # named as what it comes from: only its mask token tells them apart
    if base.attention in (AttentionPattern.CAUSAL, AttentionPattern.CANVAS):
        mask = None
    elif mask is None:
        raise ModelCorrupt(f"{source}: neither config.json nor the tokenizer has a mask_token")
    elif tokens is not None and mask not in names.values():
        raise ModelCorrupt(f"{source}: the tokenizer has no token for mask_token_id {mask}")
    family, expand, delete = base.family, None, None
    if family is Family.DREAM:
        expand = ids.get("expand_token_id")
        expand = names.get(_EXPAND) if expand is None else expand
        if expand is not None:
            family = Family.DREAMON
            delete = ids.first("delete_token_id", "eos_token_id")
    split = None
    if family is Family.LLADA2 and config.get("expert_capacity") is not None:  # LLaDA2.2
        delete, split = _edit_tokens(ids, mask, source)
    layout, fim = _layout(base, names)
    return DiffusionKind(
        family=family,
        body=base.body,
        attention=base.attention,
        shift=base.shift,
        mask_token_id=mask,
        block_size=_block_size(base, config, source),
        sub_block_size=base.sub_block_size,
        expand_token_id=expand,
        delete_token_id=delete,
        split_token_id=split,
        layout=layout,
        fim=fim,
        bos_token_id=ids.get("bos_token_id"),
        stop=ids.all("eos_token_id"),
    )


def _edit_tokens(ids: _Ids, mask: int | None, source: str) -> tuple[int, int]:
    """Delete and split token of LLaDA2.2; those of the published one where no file names them."""
    found = [ids.get("delete_token_id"), ids.get("split_token_id")]
    delete, split = (b if a is None else a for a, b in zip(found, _EDITS, strict=True))
    for key, token in (("delete_token_id", delete), ("split_token_id", split)):
        if token >= ids.size:
            raise ModelCorrupt(f"{source}: config.json: {key} {token} is outside the vocabulary")
    if len({delete, split, mask}) < 3:
        raise ModelCorrupt(
            f"{source}: config.json: mask_token_id, delete_token_id and split_token_id must differ"
        )
    return delete, split


def text_config(config: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """The keys of a `config.json` with those of its `text_config` among them, if it has one.

    Raises ModelCorrupt where that is no object, or where a family that has one lacks it.
    """
    text = config.get("text_config")
    if published(config, source).body is not Body.DIFFUSION_GEMMA:
        return config
    if not isinstance(text, Mapping):
        raise ModelCorrupt(f"{source}: config.json lacks the key 'text_config'")
    return {**text, **config}


def kind_of(folder: Path) -> DiffusionKind:
    """The kind of the checkpoint in a folder of the hub's layout.

    Raises ModelNotFound without a config.json, and as `read_kind`.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} holds no config.json", "give a checkpoint folder")
    generation = folder / "generation_config.json"
    return read_kind(
        read_json(folder / "config.json"),
        generation=read_json(generation) if generation.is_file() else None,
        tokens=special_tokens(folder),
        source=str(folder),
    )


def special_tokens(folder: Path) -> dict[str, int] | None:
    """Ids of the special tokens of a folder's tokenizer, by name; None without a tokenizer.

    The token that the tokenizer itself calls its mask is there as `mask_token`, too. Raises
    ModelCorrupt where a file does not parse.
    """
    found: dict[str, int] = {}
    seen = False
    full, added = folder / "tokenizer.json", folder / "added_tokens.json"
    settings, roles = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    try:
        if full.is_file():
            seen = True
            content = read_json(full)
            found.update({t["content"]: int(t["id"]) for t in content.get("added_tokens", [])})
            vocabulary = (content.get("model") or {}).get("vocab")
            if isinstance(vocabulary, dict):  # special tokens of some files are listed there only
                wanted = {*_MASKS, _EXPAND, *(name for row in _FIM for name in row[:3])}
                found.update({name: int(vocabulary[name]) for name in wanted & vocabulary.keys()})
        if added.is_file():
            seen = True
            found.update({name: int(token) for name, token in read_json(added).items()})
        mask: Any = None
        if settings.is_file():
            content = read_json(settings)
            listed = content.get("added_tokens_decoder") or {}
            seen = seen or bool(listed)
            found.update({entry["content"]: int(token) for token, entry in listed.items()})
            mask = content.get(_MASK_ROLE)
        if roles.is_file():
            mask = read_json(roles).get(_MASK_ROLE) or mask
        name = mask.get("content") if isinstance(mask, dict) else mask
        if name in found:
            found[_MASK_ROLE] = found[name]
        for name, token in found.items():
            if not 0 <= token < MOST_TOKENS:
                raise ValueError(f"token {name!r} has the id {token}")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ModelCorrupt(f"{folder}: its tokenizer: {type(error).__name__}: {error}") from error
    return found if seen else None


def _mask_of(names: Mapping[str, int]) -> int | None:
    return next((names[name] for name in (_MASK_ROLE, *_MASKS) if name in names), None)


def _layout(base: _Published, names: Mapping[str, int]) -> tuple[Layout | None, FimTokens | None]:
    if base.attention in (AttentionPattern.FULL, AttentionPattern.CANVAS):
        return Layout.IN_PLACE, None
    for prefix, suffix, middle, layout in _FIM if base.fim else ():
        if prefix in names and suffix in names and middle in names:
            return layout, FimTokens(names[prefix], names[suffix], names[middle])
    return None, None


def _block_size(base: _Published, config: Mapping[str, Any], source: str) -> int | None:
    keys, most = _BLOCK_KEYS.get(base.attention, ((), 0))
    for key in keys:
        if (size := config.get(key)) is not None:
            if type(size) is not int or not 1 <= size <= most:
                raise ModelCorrupt(f"{source}: config.json: {key} is {size!r}, not 1..{most}")
            return size
    return base.block_size


class _Ids:
    """Token ids of `config.json` and `generation_config.json`, none outside the vocabulary."""

    def __init__(
        self, config: Mapping[str, Any], generation: Mapping[str, Any], source: str
    ) -> None:
        self._files = {"config.json": config, "generation_config.json": generation}
        self._size, self._source = config.get("vocab_size"), source
        size, most = self._size, MOST_TOKENS
        if size is not None and not (type(size) is int and 1 <= size <= most):
            raise ModelCorrupt(f"{source}: config.json: vocab_size is {size!r}, not 1..{most}")

    @property
    def size(self) -> int:
        """Of the vocabulary, or what no id reaches."""
        return self._size or 1 << 31

    def all(self, key: str) -> tuple[int, ...]:
        """Every id under a key, which may hold one or a list."""
        found: list[int] = []
        for file, content in self._files.items():
            value = content.get(key)
            for token in value if isinstance(value, list) else [value]:
                if token is None:
                    continue
                if not isinstance(token, int) or not 0 <= token < self.size:
                    raise ModelCorrupt(
                        f"{self._source}: {file}: {key} is {token!r},"
                        f" the vocabulary has {self._size} tokens"
                    )
                found.append(token)
        return tuple(dict.fromkeys(found))

    def get(self, key: str) -> int | None:
        return next(iter(self.all(key)), None)

    def first(self, *keys: str) -> int | None:
        return next((token for key in keys for token in self.all(key)), None)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of at most 64 MiB. Raises ModelCorrupt, naming the file."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelCorrupt(f"{path}: {path.stat().st_size} bytes are too many")
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelCorrupt(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ModelCorrupt(f"{path}: not a JSON object")
    return raw
