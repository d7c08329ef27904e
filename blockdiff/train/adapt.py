"""Train a gated adapter for a base checkpoint: the entry that the command line calls."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blockdiff.config import Layout
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.config import AdapterConfig
from blockdiff.model.load.from_folder import DraftingConfig
from blockdiff.model.transformer import Transformer
from blockdiff.train.config import TrainConfig
from blockdiff.train.corpus import LANGUAGE_WEIGHTS, Corpus, CorpusFile
from blockdiff.train.loop import SequenceStream, Trainer
from blockdiff.train.sequences import Sequence, TextCodec, sequences


def held_out_sequences(corpus: Corpus, tokenizer: TextCodec, config: TrainConfig) -> list[Sequence]:
    """The same `config.held_out` sequences at every measurement, half of them infills."""
    rng = random.Random(7)
    made = sequences(corpus.iter_documents("heldout", 0, 0), tokenizer, config.sequence, rng)
    return [sequence for sequence, _ in zip(made, range(config.held_out), strict=False)]


def new_adapter(model: Transformer, config: AdapterConfig, seed: int) -> GatedAdapter:
    """A fresh adapter; the mask embedding starts as the mean token embedding."""
    torch.manual_seed(seed)
    adapter = GatedAdapter(model.config, config)
    with torch.no_grad():
        sample = model.embedding.weight[: min(20_000, model.config.vocab_size)]
        adapter.mask_embedding.copy_(sample.float().mean(0))
    return adapter


def trainer(
    model: Transformer,
    tokenizer: TextCodec,
    corpus: Corpus,
    adapter_config: AdapterConfig,
    config: TrainConfig,
    folder: Path,
    initial: Path | None = None,
    tables: Many[NgramTable] = (),
    weights: Mapping[str, float] = LANGUAGE_WEIGHTS,
) -> Trainer:
    """Put a run together; it goes on where a checkpoint in `folder` stopped.

    A new run starts from the adapter file `initial`, cut to the ranks asked for where its own are
    larger, or from nothing. With `tables` it learns what those do not know; `weights` are those of
    `Corpus.iter_documents`.
    """

    def epoch(number: int) -> Iterator[CorpusFile]:
        return corpus.iter_documents("train", config.seed, number, weights)

    adapter = new_adapter(model, adapter_config, config.seed)
    if initial is not None:
        adapter.load(cut_to_ranks(load_file(initial), adapter_config.ranks), str(initial))
    held_out = held_out_sequences(corpus, tokenizer, config)
    documents = SequenceStream(epoch, tokenizer, config)
    return Trainer(model, adapter, documents, held_out, config, folder, tables)


def cut_to_ranks(tensors: Mapping[str, Tensor], ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """Pairs of lower rank, nearest to the given ones in the Frobenius norm (Eckart-Young).

    Args:
        tensors: of an adapter; pairs are `layers.N.TARGET.a` (rank, inputs) and `.b` (outputs,
            rank).
        ranks: wanted, by target; pairs that have no more than that stay as they are.

    Returns:
        Tensors of the same names; the two halves of a cut pair share its singular values evenly.
    """
    cut = dict(tensors)
    for key in tensors:
        rank = ranks.get(key.split(".")[2], 0) if key.endswith(".a") else 0
        if not 0 < rank < len(tensors[key]):
            continue
        other = key.removesuffix("a") + "b"
        inner, a = torch.linalg.qr(tensors[key].float().T)
        outer, b = torch.linalg.qr(tensors[other].float())
        u, s, v = torch.linalg.svd(b @ a.T, full_matrices=False)
        root = s[:rank].sqrt()
        cut[key] = (root[:, None] * (v[:rank] @ inner.T)).to(tensors[key].dtype)
        cut[other] = ((outer @ u[:, :rank]) * root).to(tensors[other].dtype)
    return cut


def export_adapter(run: Trainer, drafting: DraftingConfig, folder: Path) -> None:
    """Write the adapter as it ships: bfloat16 `adapter.safetensors` and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: parameter.detach().cpu().to(torch.bfloat16).contiguous()
        for name, parameter in run.adapter.named_parameters()
    }
    scratch = folder / "adapter.partial"
    save_file(tensors, scratch)
    scratch.replace(folder / "adapter.safetensors")
    drafting.write(folder / "config.json")
    record: dict[str, Any] = {"state": asdict(run.state), "config": asdict(run.config)}
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def drafting_config(adapter: AdapterConfig, config: TrainConfig) -> DraftingConfig:
    """How the result of a run wants to be used: with the blocks it saw most of."""
    size = min(config.block_sizes)
    return DraftingConfig(Layout.PSM, block_size=size, draft_length=size, adapter=adapter)
