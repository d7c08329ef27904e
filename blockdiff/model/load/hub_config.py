"""The files of a checkpoint in the hub's layout, and the kind of it that they say.

`config.json` comes first. Nothing here imports torch, and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockdiff.config import Layout
from blockdiff.errors import ModelCorrupt, ModelNotFound
from blockdiff.model.load.kinds import (
    MOST_TOKENS,
    OPEN_DCODER,
    PUBLISHED,
    AttentionPattern,
    Body,
    DiffusionKind,
    Family,
    FamilyDefaults,
    FimTokens,
    published,
)

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
_MOST_BYTES = 64 << 20  # of a JSON file; the largest tokenizers have 35 MB
_BLOCK_KEYS: dict[AttentionPattern, tuple[tuple[str, ...], int]] = {  # and the largest size
    AttentionPattern.BLOCK: (("block_size", "bd_size", "block_length"), 1024),
    AttentionPattern.CANVAS: (("canvas_length",), 1 << 14),
    AttentionPattern.CAUSAL_BLOCK: (("block_size",), 64),  # as far as a request may choose it
}
_MASK_ROLE = "mask_token"  # how `special_tokens` names the token that the tokenizer calls its mask


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
    if base == PUBLISHED["qwen2"] and mask is not None:
        base = OPEN_DCODER  # named as what it comes from: only its mask token tells them apart
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


def _layout(
    base: FamilyDefaults, names: Mapping[str, int]
) -> tuple[Layout | None, FimTokens | None]:
    if base.attention in (AttentionPattern.FULL, AttentionPattern.CANVAS):
        return Layout.IN_PLACE, None
    for prefix, suffix, middle, layout in _FIM if base.fim else ():
        if prefix in names and suffix in names and middle in names:
            return layout, FimTokens(names[prefix], names[suffix], names[middle])
    return None, None


def _block_size(base: FamilyDefaults, config: Mapping[str, Any], source: str) -> int | None:
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
