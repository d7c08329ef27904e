"""A model of the catalogue that drafts, in miniature: a GGUF file of random weights, an adapter."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors.torch import save

from blockdiff.config import Layout
from blockdiff.model.config import AdapterConfig
from blockdiff.model.load.from_folder import DraftingConfig
from tests.unit import tiny, tiny_gguf

NAME = "tiny-drafting"
_SEED = 4  # does not only repeat itself


def install(folder: Path) -> dict[str, str]:
    """Put it into an empty `folder`, downloaded already; the environment that names it.

    What it writes are small letters, so that a file can hold it.
    """
    base = folder / "cache" / "models" / NAME / "tiny.gguf"
    adapter = folder / "models" / NAME
    for path in (base.parent, adapter):
        path.mkdir(parents=True)
    tensors = tiny_gguf.weights(_SEED)
    head = tensors["output.weight"]
    head[[not ("a" <= token <= "z" and len(token) == 1) for token in tiny_gguf.TOKENS]] = 0
    data = tiny_gguf.write(base, tensors=tensors).read_bytes()
    ranks = AdapterConfig({"qkv": 2, "down": 2})
    DraftingConfig(Layout.PSM, 4, 3, ranks).write(adapter / "config.json")
    made = tiny.adapter(tiny_gguf.SHAPE, ranks=ranks)
    (adapter / "adapter.safetensors").write_bytes(save(made.state_dict()))
    (folder / "models" / "catalog.toml").write_text(f"""
[[model]]
name = "{NAME}"
summary = "a model of the tests"
licence = "MIT"
family = "qwen2"
context_length = 256
adapter = "{NAME}"
memory = {{ float32 = 100_000 }}
[model.base]
file = "{base.name}"
size = {len(data)}
sha256 = "{hashlib.sha256(data).hexdigest()}"
prepared_size = 100_000
""")
    return {
        "BLOCKDIFF_CACHE": str(folder / "cache"),
        "BLOCKDIFF_MODELS": str(folder / "models"),
    }
