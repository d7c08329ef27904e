"""llama.cpp's own server, from the wheel `xllamacpp`, on a model of 60 kB that knows letters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unit import tiny_gguf

_KEYS = {
    "qwen2.context_length": 4096, "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.fim_pre_token_id": 258, "tokenizer.ggml.fim_mid_token_id": 259,
    "tokenizer.ggml.fim_suf_token_id": 260,
}  # fmt: skip


@contextmanager
def serving(folder: Path, api_key: str = "") -> Iterator[str]:
    """The URL of one that runs."""
    import xllamacpp

    embedding = tiny_gguf.weights()["token_embd.weight"].copy()
    letters = [i for i, token in enumerate(tiny_gguf.TOKENS) if token.isascii() and token.isalpha()]
    others = sorted(set(range(len(embedding))) - set(letters))
    embedding[others] = 0.0  # tied: what has no embedding is never the likeliest
    path = tiny_gguf.write(
        folder / "tiny.gguf", _KEYS, {"token_embd.weight": embedding}, unsigned=True
    )
    parameters: Any = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(path), 4096, 2
    parameters.n_gpu_layers, parameters.warmup, parameters.verbosity = 0, False, -1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    if api_key:
        parameters.api_keys = [api_key]
    server = xllamacpp.Server(parameters)
    yield server.listening_address
    del server
