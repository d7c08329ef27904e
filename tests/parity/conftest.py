"""The real base weights, mapped once for all tests here that need them."""

from __future__ import annotations

import pytest
import torch

from blockdiff.model.int8 import library
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.load.prepare import is_prepared, prepare_gguf
from blockdiff.model.transformer import Transformer
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL


@pytest.fixture(scope="session", params=["int8", "bfloat16"])
def base(request: pytest.FixtureRequest) -> Transformer:
    """The default model in each precision it runs in, unpacked first if it is not yet."""
    int8 = request.param == "int8"
    if int8 and library.available():
        pytest.skip(library.available())
    files = store.resolve(DEFAULT_MODEL)
    folder = files.packed if int8 else files.prepared
    if not is_prepared(folder):
        prepare_gguf(files.base, folder, int8=int8)
    return load_transformer(folder, dtype=torch.int8 if int8 else torch.bfloat16)
