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

from blockdiff.config import MOST_TOKENS
from blockdiff.diffusion.dllm.uniform import UniformConfig
from blockdiff.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.config import TransformerConfig
from blockdiff.model.load.hub_config import read_json
from blockdiff.model.load.kinds import Body, published
from blockdiff.model.load.shards import Shards, check_shape, is_finite, refuse_unread, shard_files

# Limits of what a configuration may ask for; the published 26B has less than a fifth of each.
_LIMITS = {
    "vocab_size": 1 << 22, "hidden_size": 1 << 15, "intermediate_size": 1 << 17,
    "num_hidden_layers": 512, "num_attention_heads": 1024, "num_key_value_heads": 1024,
    "num_global_key_value_heads": 1024, "head_dim": 1 << 13, "global_head_dim": 1 << 13,
    "moe_intermediate_size": 1 << 17, "num_experts": 1 << 12, "top_k_experts": 1 << 12,
    "max_position_embeddings": 1 << 27, "sliding_window": 1 << 27,
}  # fmt: skip
_VISION = "gemma4_vision"
_VISION_LIMITS = {"position_embedding_size": 1 << 20, "patch_size": 1 << 10}


class DiffusionGemma:
    """A loaded checkpoint.

    Attributes:
        config: of its shape what the engine asks for. Layers are none, and heads one, since it
            keeps keys and values in a cache of its own.
        settings: how it was published to be sampled.
        canvas_length: tokens that are denoised together.
        vocab_size: ids that noise is drawn from.
    """

    def __init__(self, model: Any, config: TransformerConfig, settings: UniformConfig) -> None:
        self._model = model
        self.config, self.settings = config, settings
        self.canvas_length: int = model.config.canvas_length
        self.vocab_size = config.vocab_size

    @property
    def device(self) -> torch.device:
        found: torch.device = self._model.device
        return found

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = self._model.dtype
        return found

    @torch.inference_mode()
    def read(self, tokens: Sequence[int], cache: Any = None) -> Any:
        """Read tokens behind those in `cache`, which is changed; None: from the start.

        Returns:
            The cache, for `logits` and for reading on.
        """
        ids = torch.tensor([list(tokens)], device=self.device)
        return self._model.model.encoder(input_ids=ids, past_key_values=cache).past_key_values

    @torch.inference_mode()
    def logits(self, read: Any, canvas: Tensor, conditioning: Tensor | None) -> Tensor:
        """What belongs at each position of the canvas, with no shift.

        Args:
            read: the cache of what stands before the canvas; it is not changed.
            canvas: (1, canvas_length) ids.
            conditioning: the scores of the step before, as the sampler used them; None: there is
                no step before.

        Returns:
            (1, canvas_length, vocab_size), float32.
        """
        if conditioning is not None:
            conditioning = conditioning.to(self.dtype)
        out = self._model(
            decoder_input_ids=canvas, self_conditioning_logits=conditioning, past_key_values=read
        )
        found: Tensor = out.logits
        return found

    def probe(self, tokens: Sequence[int]) -> Tensor:
        """Logits (1, canvas_length, vocab_size) of a canvas of zeros behind a few tokens."""
        canvas = torch.zeros(1, self.canvas_length, dtype=torch.long, device=self.device)
        return self.logits(self.read(tokens), canvas, None)


def load_diffusion_gemma(
    folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> DiffusionGemma:
    """Read a folder of the hub's layout: safetensors only, and no code of its own.

    Names and shapes are compared with `config.json` before anything is read.

    Raises:
        ModelNotFound: no such folder or no weights in it.
        ModelUnsupported: pickle weights, another family, 8 bits, or a tensor that has no place.
        ModelCorrupt: a size that is absurd; a tensor that is missing, misshapen, cut short or not
            finite.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFound(f"{folder} holds no config.json", "give a checkpoint folder")
    raw = read_json(folder / "config.json")
    if published(raw, str(folder)).body is not Body.DIFFUSION_GEMMA:
        raise ModelUnsupported(f"{folder} is no DiffusionGemma: {raw.get('model_type')!r}")
    if dtype is torch.int8:
        raise ModelUnsupported(f"{folder}: int8 does not cover this family", "use --dtype bfloat16")
    settings = _settings(folder)
    stored = Shards(shard_files(folder))
    _check_sizes(raw, folder, len(stored))
    try:
        from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
        from transformers.utils import logging
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise ModelUnsupported(
            "the installed transformers has no DiffusionGemma", "pip install -U transformers"
        ) from error
    try:
        config = DiffusionGemmaConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            outline = DiffusionGemmaForBlockDiffusion(config)
    except Exception as error:  # what a damaged configuration does to theirs has no limits
        raise _as_corrupt(error, folder) from error
    _check_tensors(outline, stored, str(folder))
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    theirs: Any = DiffusionGemmaForBlockDiffusion
    try:
        model = theirs.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False,
            local_files_only=True, generation_config=theirs.generation_config_class(),
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _as_corrupt(error, folder) from error
    model.model.encoder.vision_tower = model.model.encoder.embed_vision = None  # no image is read
    shape = _shape(config.text_config)
    return DiffusionGemma(model.to(device).eval().requires_grad_(False), shape, settings)


def _as_corrupt(error: Exception, folder: Path) -> ModelCorrupt:
    reason = " ".join(str(error).split())
    return ModelCorrupt(f"{folder}: config.json: {type(error).__name__}: {reason}")


def _check_sizes(config: Mapping[str, Any], folder: Path, stored: int) -> None:
    """Whether numbers are within limits, and not more layers than tensors are there."""
    parts: list[Mapping[str, Any]] = []
    for key in ("text_config", "vision_config"):
        if not isinstance(part := config.get(key), Mapping):
            raise ModelCorrupt(f"{folder}: config.json lacks the key {key!r}")
        parts.append(part)
    text, vision = parts
    if vision.get("model_type", _VISION) != _VISION:
        kind = vision.get("model_type")
        raise ModelUnsupported(f"{folder}: config.json: vision_config of the type {kind!r}")
    sizes = [("canvas_length", config.get("canvas_length"), 1 << 14)]
    sizes += [(key, text.get(key), most) for key, most in _LIMITS.items()]
    sizes += [(key, vision.get(key), most) for key, most in (_LIMITS | _VISION_LIMITS).items()]
    for key, value, most in sizes:
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ModelCorrupt(f"{folder}: config.json: {key} is {value!r}, not 1..{most}")
    layers = (text.get("num_hidden_layers") or 0) + (vision.get("num_hidden_layers") or 0)
    if layers > stored:
        raise ModelCorrupt(
            f"{folder}: config.json: num_hidden_layers is {layers} in all,"
            f" but {stored} tensors are there"
        )


def _check_tensors(outline: Any, stored: Shards, source: str) -> None:
    """Whether what is stored makes this model: by name and shape, every number finite.

    A tensor of which there are two in the model may be stored as either.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    refuse_unread(stored.names, {name: (name,) for name in shapes}, source)
    there = set(stored.names)
    origin: dict[str, str] = outline.all_tied_weights_keys
    held = {origin.get(name, name) for name in there}
    for name, shape in shapes.items():
        if name in there:
            check_shape([stored.shape(name)], shape, [name], source)
        elif (wanted := origin.get(name, name)) not in held:
            raise ModelCorrupt(f"{source}: tensor {wanted} is missing")
    for name in stored.names:
        if not is_finite(stored.get_floats(name)):
            raise ModelCorrupt(f"{source}: tensor {name} holds NaN or infinity")


def _shape(text: Any) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=text.vocab_size,
        hidden_size=text.hidden_size,
        n_layers=0,
        n_heads=1,
        n_kv_heads=1,
        head_dim=2,
        ffn_size=text.intermediate_size,
        max_positions=text.max_position_embeddings,
    )


def _settings(folder: Path) -> UniformConfig:
    """From `generation_config.json`; what that leaves out is as published."""
    path, own = folder / "generation_config.json", UniformConfig()
    if not path.is_file():
        return own
    raw = read_json(path)
    sampler = raw.get("sampler_config")
    bound = sampler.get("entropy_bound") if isinstance(sampler, Mapping) else None

    def number(key: str, value: Any, default: float, most: float) -> float:
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            raise ModelCorrupt(f"{path}: {key} is {value!r}, not above 0 and at most {most}")
        return float(value)

    def count(key: str, default: int, least: int) -> int:
        value = raw.get(key)
        value = default if value is None else value
        if type(value) is not int or not least <= value <= MOST_TOKENS:
            raise ModelCorrupt(f"{path}: {key} is {value!r}, not {least}..{MOST_TOKENS}")
        return value

    return UniformConfig(
        steps=count("max_denoising_steps", own.steps, 1),
        entropy_bound=number("entropy_bound", bound, own.entropy_bound, 1e6),
        coldest=number("t_min", raw.get("t_min"), own.coldest, 100.0),
        hottest=number("t_max", raw.get("t_max"), own.hottest, 100.0),
        stable=count("stability_threshold", own.stable, 0),
        sure=number("confidence_threshold", raw.get("confidence_threshold"), own.sure, 1e6),
    )
