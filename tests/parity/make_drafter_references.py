"""Write `references/drafters.npz`: what the published drafters make of the tiny ones' weights.

    pip download dflash==0.1.0 --no-deps && unzip dflash-*.whl -d CODE      # DFlash
    git archive of deepseek-ai/DeepSpec, afdfa7c9382a3341a3e6f17756dd816da79f132c, into CODE
    PYTHONPATH=CODE:. python -m tests.parity.make_drafter_references

Both run with transformers 5.23.0 in float32 on the CPU. Their target is the tiny `ar (qwen3)` in
the class of transformers. The text is given, so that every round has the context it is to have.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from tests.parity.drafter_checkpoints import DRAFTERS, ROUNDS, TARGET, TinyDrafter
from tests.parity.family_checkpoints import tokens

FILE = Path(__file__).parent / "references" / "drafters.npz"
Arrays = dict[str, Tensor]


class Cropped(DynamicCache):
    """`crop` with what is to be left, as it was when DSpark was published."""

    def crop(self, max_length: int) -> None:
        super().crop(max_length - self.get_seq_length())


def target(folder: Path) -> Qwen3ForCausalLM:
    """The target as transformers reads it."""
    TARGET.write(folder)
    loaded: Qwen3ForCausalLM = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return loaded.eval()


def built(kind: Any, tiny: TinyDrafter) -> Any:
    """A published class with our weights, each of which it must know, and know no other."""
    config = Qwen3Config(**{k: v for k, v in tiny.config.items() if k != "architectures"})
    config._attn_implementation = "sdpa"
    model = kind(config)
    model.load_state_dict(tiny.weights(), strict=True)
    return model.eval()


def dflash(tiny: TinyDrafter, base: Qwen3ForCausalLM, text: Tensor) -> list[Arrays]:
    """The rounds of `dflash_generate`."""
    code = importlib.import_module("dflash.model")
    model = built(code.DFlashDraftModel, tiny)
    states = base(text, output_hidden_states=True).hidden_states
    features = code.extract_context_feature(states, model.target_layer_ids)
    cache, size, found = code._make_cache(model.config), model.block_size, []
    for start, gained in ROUNDS:
        block = torch.full((1, size), model.mask_token_id)
        block[:, 0] = text[:, start]
        before = start if not found else gained
        hidden = model(
            target_hidden=features[:, start - before : start],
            noise_embedding=F.embedding(block, base.get_input_embeddings().weight),
            position_ids=torch.arange(start - before, start + size)[None],
            past_key_values=cache,
            use_cache=True,
        )[:, 1 - size :]
        code._crop_to(cache, start)
        logits = model.compute_logits(hidden, base.lm_head)
        found.append({"logits": logits[0], "tokens": logits[0].argmax(-1)})
    return found


def dspark(tiny: TinyDrafter, base: Qwen3ForCausalLM, text: Tensor) -> list[Arrays]:
    """The rounds of its evaluator."""
    modeling = importlib.import_module("deepspec.modeling.dspark.qwen3.modeling")
    common = importlib.import_module("deepspec.modeling.dspark.common")
    ops = importlib.import_module("deepspec.eval.dspark.draft_ops")
    model = built(modeling.Qwen3DSparkModel, tiny)
    states = base(text, output_hidden_states=True).hidden_states
    features = common.extract_context_feature(states, model.target_layer_ids)
    cache, size, found = Cropped(), model.block_size, []
    for start, gained in ROUNDS:
        block = torch.full((1, size), model.mask_token_id)
        block[:, 0] = text[:, start]
        before = start if not found else gained
        hidden = ops.forward_dspark_draft_block(
            model,
            draft_input_ids=block,
            position_ids=torch.arange(start + size)[None],
            past_key_values_draft=cache,
            target_hidden_states=features[:, start - before : start],
            start=start,
            block_size=size,
        )
        made = ops.build_dspark_proposal(
            model,
            draft_input_ids=block,
            block_hidden=hidden,
            block_size=size,
            temperature=0.0,
            confidence_threshold=0.0,
        )
        round_ = {"logits": model.compute_logits(hidden)[0], "tokens": made.verify_input_ids[0, 1:]}
        if made.confidence_logits is not None:
            round_["confidence"] = made.confidence_logits[0].sigmoid()
        found.append(round_)
    return found


@torch.no_grad()
def main() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    text = tokens("ar (qwen3)")[:1]
    with tempfile.TemporaryDirectory() as folder:
        base = target(Path(folder))
    for name, tiny in DRAFTERS.items():
        rounds = (dflash if name.startswith("dflash") else dspark)(tiny, base, text)
        for index, round_ in enumerate(rounds):
            arrays |= {f"{name}/{index}/{key}": value.numpy() for key, value in round_.items()}
        print(name, [round_["tokens"].tolist() for round_ in rounds])
    np.savez_compressed(FILE, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
