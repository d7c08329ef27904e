"""A checkpoint with all that belongs to it, from its name to memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from blockdiff.config import Layout
from blockdiff.diffusion.dllm.diffusion_gemma import DiffusionGemma
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.engine import published
from blockdiff.engine.devices import check_memory
from blockdiff.errors import ModelCorrupt, ModelUnsupported
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.block_drafter import BlockDrafter
from blockdiff.model.cuda.weight_only import floats_for
from blockdiff.model.int8.quantized import install_adapter, is_quantized
from blockdiff.model.load.drafters import check_drafter, load_drafter, refuse_drafter
from blockdiff.model.load.from_folder import (
    DraftingConfig,
    bytes_in_memory,
    config_in,
    load_adapter,
    load_transformer,
    read_adapter,
)
from blockdiff.model.load.hub_config import kind_of
from blockdiff.model.load.hub_tokenizer import load_tokenizer
from blockdiff.model.load.kinds import DiffusionKind
from blockdiff.model.load.prepare import is_prepared, prepare_gguf
from blockdiff.model.load.shards import shard_files
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.model.transformer import Transformer
from blockdiff.types import OnProgress
from blockdiff.weights import folders, store

NGRAMS = "ngrams.safetensors"
"""Beside the adapter: its table of counted n-grams."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that belongs to one model in memory.

    Attributes:
        kind: how a published checkpoint writes; None for one of ours and for GGUF files.
        frame: ids before and behind an infill in place.
        tables: of n-grams that `verify` drafts from.
        drafter: a model of its own that drafts for this one, in place of an adapter.
        weights: which ones they are: the digest of a published base, or how the files look.
    """

    name: str
    model: Transformer | DiffusionGemma
    adapter: GatedAdapter | None
    tokenizer: Tokenizer
    drafting: DraftingConfig
    kind: DiffusionKind | None = None
    frame: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    tables: tuple[NgramTable, ...] = ()
    drafter: BlockDrafter | None = None
    weights: str = ""

    @property
    def transformer(self) -> Transformer:
        """The stack. Raises ModelUnsupported where the model is none of ours."""
        if isinstance(self.model, DiffusionGemma):
            raise ModelUnsupported(
                f"{self.name} runs by a library, for infills and rewrites alone",
                "use another model of `blockdiff models list`",
            )
        return self.model

    def adapter_from(self, file: Path) -> GatedAdapter:
        """Another adapter of the shape of its own, ready to act. Raises ModelCorrupt."""
        own = self.drafting.adapter
        assert own is not None
        adapter = read_adapter(file, self.model.config, own).to(self.model.device, self.model.dtype)
        if is_quantized(self.model):
            install_adapter(adapter)
        return adapter

    @classmethod
    def load(
        cls,
        name_or_path: str,
        device: torch.device,
        dtype: torch.dtype,
        progress: OnProgress,
        drafter: str = "",
    ) -> Checkpoint:
        """Read a catalogue model, a GGUF file or a checkpoint folder; see `store.resolve`.

        With a `drafter`, by name or folder, that too, for a model that writes from left to right.
        """
        folder = store.resolve_drafter(drafter) if drafter else None
        point = cls._read(name_or_path, device, dtype, progress, with_adapter=True, drafter=folder)
        if folder is None:
            return point
        progress("loading the drafter", 0.0)
        made = load_drafter(folder, point.transformer, point.name, dtype=dtype, device=device)
        return replace(point, drafter=made)

    @classmethod
    def load_base(
        cls, name_or_path: str, device: torch.device, dtype: torch.dtype, progress: OnProgress
    ) -> Checkpoint:
        """The same without its adapter, for training another."""
        return cls._read(name_or_path, device, dtype, progress, with_adapter=False)

    @classmethod
    def _read(
        cls,
        name_or_path: str,
        device: torch.device,
        dtype: torch.dtype,
        progress: OnProgress,
        *,
        with_adapter: bool,
        drafter: Path | None = None,
    ) -> Checkpoint:
        """Without the `drafter`: what can be refused of the two is, before weights are read."""
        files = store.resolve(
            name_or_path, lambda phase, done, size: progress(phase, done / max(size, 1))
        )
        int8 = dtype is torch.int8 and device.type == "cpu"  # packed, with arithmetic in it
        weights, kind, from_gguf = files.base, None, None
        if files.base.is_file():
            from_gguf = Tokenizer.cached(files.base, files.tokenizer)  # before weights are unpacked
            weights = files.packed if int8 else files.prepared
            if not is_prepared(weights):
                with folders.locked(weights.parent.name):
                    if not is_prepared(weights):
                        prepare_gguf(files.base, weights, progress, int8=int8)
        else:
            kind = kind_of(files.base)
            refuse_drafter(files.base)
        beside = 0
        if drafter is not None:
            if published.is_diffusion(kind) or published.own_mask(kind) is not None:
                raise ModelUnsupported(
                    f"{files.name} is a diffusion model, which no drafter drafts for",
                    "leave --drafter out",
                )
            shape = config_in(weights)
            beside = check_drafter(drafter, shape, files.name, dtype=dtype, device=device)
        check_memory(bytes_in_memory(weights, dtype, device), device, beside)
        if dtype is torch.int8 and not int8:  # rounded on the device, from numbers that lie here
            here = torch.device("cpu")
            check_memory(bytes_in_memory(weights, floats_for(device), here), here)
        progress("loading weights", 0.0)
        adapter, drafting = None, DraftingConfig(Layout.PSM, 1, 1, None)
        model: Transformer | DiffusionGemma
        if kind is not None:
            model = published.model_of(weights, kind, dtype=dtype, device=device)
            drafting = published.drafting_of(kind)
        else:
            model = load_transformer(weights, dtype=dtype, device=device)
        if with_adapter and files.adapter is not None:
            drafting = DraftingConfig.read(files.adapter / "config.json")
            adapter = load_adapter(files.adapter, model.config, drafting).to(device, model.dtype)
        if int8 and adapter is not None:
            install_adapter(adapter)
        progress("loading weights", 1.0)
        rows = model.config.vocab_size
        which = files.entry.base.sha256 if files.entry is not None else _looks(weights)
        if kind is None:
            assert from_gguf is not None
            tokenizer = from_gguf.with_rows(rows, str(files.base))
            tables = shipped_tables(files, tokenizer) if with_adapter else ()
            return cls(
                files.name, model, adapter, tokenizer, drafting, tables=tables, weights=which
            )
        tokenizer = load_tokenizer(files.base, kind, rows)
        frame = published.frame_in(files.base, kind, tokenizer)
        return cls(
            files.name, model, adapter, tokenizer, drafting, kind, frame, weights=which
        )


def shipped_tables(files: store.ModelFiles, tokenizer: Tokenizer) -> tuple[NgramTable, ...]:
    """The table of n-grams that came with an adapter; none, said so, where it cannot be used."""
    if files.adapter is None or not (files.adapter / NGRAMS).is_file():
        return ()
    try:
        return (NgramTable.load(files.adapter / NGRAMS, tokenizer.vocab_size),)
    except ModelCorrupt as error:
        _log.warning("drafting without counted n-grams: %s", error.message)
        return ()


def _looks(weights: Path) -> str:
    """Paths, sizes and times of weights: others where the files are others."""
    found = [(shard, shard.stat()) for shard in shard_files(weights)]
    return repr([(str(shard), of.st_size, of.st_mtime_ns) for shard, of in found])
