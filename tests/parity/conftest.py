"""The real base weights, mapped once for all tests here that need them."""

from __future__ import annotations

import pytest
import torch

from blockdiff import store
from blockdiff.model.checkpoint import load_transformer
from blockdiff.model.prepare import is_prepared, prepare_gguf
from blockdiff.model.transformer import Transformer


@pytest.fixture(scope="session")
def base() -> Transformer:
    """The default model in bfloat16, unpacked first if it is not yet."""
    files = store.resolve(store.DEFAULT_MODEL)
    if not is_prepared(files.prepared):
        prepare_gguf(files.base, files.prepared)
    return load_transformer(files.prepared, dtype=torch.bfloat16)
