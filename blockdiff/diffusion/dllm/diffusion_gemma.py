"""DiffusionGemma, through the class that transformers has for it.

An encoder reads what is finished, causally, into a cache; a decoder denoises a canvas of noise that
sees the cache and itself both ways, and its own logits of the step before. Its two kinds of layers,
their two rotary tables and their experts share nothing with the other families, which is why it is
not one more shape of `Transformer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.load.kinds import read_json
from blockdiff.model.load.shards import Shards, is_finite, shard_files

MODEL_TYPE = "diffusion_gemma"
# Limits of what a configuration may ask for; the published 26B has less than a fifth of each.
_LIMITS = {
    "vocab_size": 1 << 22, "hidden_size": 1 << 15, "intermediate_size": 1 << 17,
    "num_hidden_layers": 512, "num_attention_heads": 1024, "num_key_value_heads": 1024,
    "head_dim": 1 << 13, "moe_intermediate_size": 1 << 17, "num_experts": 1 << 12,
}  # fmt: skip


class DiffusionGemma:
    """A loaded checkpoint and the prompt it has read.

    Attributes:
        canvas_length: tokens that are denoised together.
        vocab_size: ids that noise is drawn from.
        length: tokens read so far.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None
        self.canvas_length: int = model.config.canvas_length
        self.vocab_size: int = model.config.text_config.vocab_size

    @property
    def device(self) -> torch.device:
        found: torch.device = self._model.device
        return found

    @property
    def length(self) -> int:
        return 0 if self._cache is None else int(self._cache.get_seq_length())

    @torch.inference_mode()
    def read(self, prompt: Sequence[int]) -> None:
        """Read a prompt from its start, in place of what was read before."""
        ids = torch.tensor([list(prompt)], device=self.device)
        self._cache = self._model.model.encoder(input_ids=ids).past_key_values

    @torch.inference_mode()
    def logits(self, canvas: Tensor, conditioning: Tensor | None) -> Tensor:
        """What belongs at each position of the canvas, with no shift.

        Args:
            canvas: (1, canvas_length) ids; it stands behind the prompt.
            conditioning: the scores of the step before, as the sampler used them; None: there is
                no step before.

        Returns:
            (1, canvas_length, vocab_size), float32. The cache is only read.
        """
        if conditioning is not None:
            conditioning = conditioning.to(self._model.dtype)
        out = self._model(
            decoder_input_ids=canvas,
            self_conditioning_logits=conditioning,
            past_key_values=self._cache,
        )
        found: Tensor = out.logits
        return found


def load_diffusion_gemma(
    folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> DiffusionGemma:
    """Read a folder of the hub's layout: safetensors only, and no code of its own.

    Raises:
        ModelNotFound: no such folder or no weights in it.
        ModelUnsupported: pickle weights, another family, or a transformers without this class.
        ModelCorrupt: a size that is absurd; a tensor that is missing, misshapen, cut short, not
            finite or of no use.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} holds no config.json", "give a checkpoint folder")
    config = read_json(folder / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        raise ModelUnsupported(f"{folder} is no DiffusionGemma: {config.get('model_type')!r}")
    _check_sizes(config, folder)
    stored = Shards(shard_files(folder))
    for name in stored.names:
        if not is_finite(stored.get_floats(name)):
            raise ModelCorrupt(f"{folder}: tensor {name} holds NaN or infinity")
    try:
        from transformers import DiffusionGemmaForBlockDiffusion
    except ImportError as error:
        raise ModelUnsupported(
            "the installed transformers has no DiffusionGemma", "pip install -U transformers"
        ) from error
    try:
        loaded: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ModelCorrupt(f"{folder}: {type(error).__name__}: {error}") from error
    model, found = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        for name in sorted(found[kind], key=str):
            raise ModelCorrupt(f"{folder}: tensor {name} is {kind.removesuffix('_keys')}")
    return DiffusionGemma(model.to(device).eval().requires_grad_(False))


def _check_sizes(config: Mapping[str, Any], folder: Path) -> None:
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        raise ModelCorrupt(f"{folder}: config.json lacks the key 'text_config'")
    sizes = [("canvas_length", config.get("canvas_length"), 1 << 14)]
    sizes += [(key, text.get(key), most) for key, most in _LIMITS.items()]
    for key, value, most in sizes:
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ModelCorrupt(f"{folder}: config.json: {key} is {value!r}, not 1..{most}")
