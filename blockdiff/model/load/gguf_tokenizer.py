"""The tokenizer of a model that drafts from tables, with an id for each row of its embedding.

Only the headers of its files are read, and nothing here imports torch: who counts n-grams needs no
weights.
"""

from __future__ import annotations

from pathlib import Path

from blockdiff.errors import ModelCorrupt, ModelUnsupported
from blockdiff.model.load.gguf_header import read_header
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.weights.gguf_parts import parts_of
from blockdiff.weights.store import ModelFiles

_EMBEDDING = "token_embd.weight"


def tokenizer_of(files: ModelFiles) -> Tokenizer:
    """As `Checkpoint` has it.

    Raises ModelUnsupported for a published checkpoint, which drafts from no table, ModelNotFound
    and ModelCorrupt for files that are gone or damaged.
    """
    if not files.base.is_file():
        raise ModelUnsupported(
            f"{files.name} does not draft from tables", "name a model that has an adapter"
        )
    tokenizer = Tokenizer.cached(files.base, files.tokenizer)
    return tokenizer.with_rows(_rows(files.base), str(files.base))


def _rows(base: Path) -> int:
    for part in parts_of(base):
        if (embedding := read_header(part).tensors.get(_EMBEDDING)) is not None:
            return embedding.shape[0]
    raise ModelCorrupt(f"{base}: tensor {_EMBEDDING} is missing")
