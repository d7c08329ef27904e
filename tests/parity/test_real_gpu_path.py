"""What runs on GPUs, on the real weights and a CPU: padded forwards, and weights of 8 bits."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.devices import choose_dtype
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.cuda.graphs import GraphedRunner, eagerly
from blockdiff.model.cuda.weight_only import in_eight_bits, is_weight_only
from blockdiff.model.forward import Forward, Runner, run
from blockdiff.model.layer import Gate
from blockdiff.model.load.from_folder import DraftingConfig, load_adapter, load_transformer
from blockdiff.model.load.prepare import is_prepared, prepare_gguf
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.model.transformer import Transformer
from blockdiff.types import no_op
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL

pytestmark = [pytest.mark.model, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
MOST_BITS = 0.02  # a token that 8 bits may cost
TOKENS = 192  # of each file


@pytest.fixture
def base() -> Transformer:
    """In bfloat16, and the test's own."""
    files = store.resolve(DEFAULT_MODEL)
    if not is_prepared(files.prepared):
        prepare_gguf(files.base, files.prepared)
    return load_transformer(files.prepared, dtype=torch.bfloat16)


def tokens_of(*paths: str) -> list[list[int]]:
    files = store.resolve(DEFAULT_MODEL)
    tokenizer = Tokenizer.cached(files.base, files.tokenizer)
    return [tokenizer.encode((ROOT / path).read_text("utf-8"))[:TOKENS] for path in paths]


def bits(model: Transformer, texts: list[list[int]]) -> float:
    """A token, given those before it."""
    ids = torch.tensor([sum(texts, [])])
    places = torch.cat([torch.arange(len(tokens)) for tokens in texts])[None]
    mask = torch.block_diag(*(masks.causal(0, len(tokens)) for tokens in texts)).bool()
    with torch.inference_mode():  # one forward: in 8 bits unpacking the weights takes longest
        hidden = model.hidden(ids, places, mask)[0]
        inner = places[0, 1:] > 0
        logits = model.head(hidden[:-1][inner]).float()
    return float(F.cross_entropy(logits, ids[0, 1:][inner])) / math.log(2)


def test_padded_forwards_say_what_plain_ones_say(base: Transformer) -> None:
    """One token, and a draft of four with all its groups of masks."""
    files = store.resolve(DEFAULT_MODEL)
    assert files.adapter is not None
    drafting = DraftingConfig.read(files.adapter / "config.json")
    adapter = load_adapter(files.adapter, base.config, drafting).to(base.dtype)
    (tokens,) = tokens_of("blockdiff/model/masks.py")
    past = 120
    filled = BlockCache(base.config, dtype=base.dtype)
    context = torch.tensor([tokens[:past]]), torch.arange(past)[None], masks.causal(0, past)
    with torch.inference_mode():
        base.hidden(*context, filled)
        filled.commit(past)
    padded = GraphedRunner(base, adapter, eagerly)
    for mask, exact in (
        (masks.causal(past, 1), 1),
        (masks.verifying(past, 5, range(5), 4), 5),
    ):
        new = len(mask)
        gate = Gate(adapter, torch.arange(new)[None] >= exact, exact) if new > exact else None
        places = torch.arange(past, past + new)[None]
        ids = torch.tensor([tokens[past : past + new]])

        def logits(runner: Runner) -> torch.Tensor:
            with torch.inference_mode():
                return runner([Forward(ids, places, mask, filled.fork(), gate)])[0]  # noqa: B023

        expected, found = logits(lambda some: run(base, some)), logits(padded)
        apart = float((found - expected).norm() / expected.norm())
        print(f"{new} rows: logits {apart:.2g} of their size apart")
        assert apart < 8 * torch.finfo(base.dtype).eps


def test_weights_of_8_bits_cost_next_to_nothing(base: Transformer) -> None:
    """On code of this project, which the model has never seen; with -s the numbers are shown.

    In float32, which holds all of both: without AVX-512 products in bfloat16 take many minutes.
    """
    texts = tokens_of(
        "blockdiff/model/masks.py", "blockdiff/cli/tui.py", "lsp_server/document.py",
        "editors/nvim/lua/blockdiff/diff.lua", "editors/vscode/src/extension.ts",
    )  # fmt: skip
    before = bits(copy.deepcopy(base).float(), texts)
    after = bits(in_eight_bits(base, torch.device("cpu"), "it").float(), texts)
    print(f"{sum(map(len, texts))} tokens: {before:.4f} bits a token, in 8 bits {after:.4f}")
    assert after < before + MOST_BITS


def test_a_model_of_a_gguf_file_is_loaded_in_8_bits_where_there_is_no_cpu() -> None:
    """The meta device stands for a GPU: it has shapes and dtypes only."""
    meta = torch.device("meta")
    point = Checkpoint.load(DEFAULT_MODEL, meta, choose_dtype("int8", meta), no_op)
    assert is_weight_only(point.model) and point.model.dtype is torch.bfloat16
    assert point.adapter is not None and point.adapter.mask_embedding.dtype is torch.bfloat16
    assert point.drafting.draft_length == 4  # rows are cheap there: no mask is left out
