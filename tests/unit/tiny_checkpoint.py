"""A whole checkpoint in miniature: random weights, an adapter, and a byte-level tokenizer."""

from __future__ import annotations

import functools

from blockdiff.config import Layout
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.model.config import AdapterConfig
from blockdiff.model.load import tokenizer as tokenizers
from blockdiff.model.load.from_folder import DraftingConfig
from blockdiff.model.load.tokenizer import Tokenizer
from tests.unit import tiny

_WORDS = ["in", "re", "def", "return", "print", "    ", "width", "height"]
_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "[PAD265]",
]  # fmt: skip


@functools.cache
def tokenizer() -> Tokenizer:
    """Every byte a token, some words merged, Qwen's special tokens and one unused id."""
    byte_of = tokenizers._BYTE_OF
    letter = {byte: character for character, byte in byte_of.items()}
    vocabulary = [letter[byte] for byte in range(256)]
    merges: list[tuple[str, ...]] = []
    for word in _WORDS:
        spelled = "".join(letter[byte] for byte in word.encode())
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in vocabulary:
                vocabulary.append(spelled[:end])
                merges.append((spelled[: end - 1], spelled[end - 1]))
    return Tokenizer(tokenizers._build(vocabulary, merges, _SPECIAL))


@functools.cache
def checkpoint(max_positions: int = 512) -> Checkpoint:
    """Qwen2-shaped; drafts are random too, so that few of them are right."""
    words = tokenizer()
    shape = tiny.config(
        vocab_size=words.vocab_size, tied_embeddings=True, qkv_bias=True,
        max_positions=max_positions,
    )  # fmt: skip
    ranks = AdapterConfig({"qkv": 2, "down": 2})
    drafting = DraftingConfig(Layout.PSM, block_size=5, draft_length=3, adapter=ranks)
    model = tiny.transformer(shape)
    return Checkpoint("tiny", model, tiny.adapter(shape, ranks=ranks), words, drafting)
