"""Whether a checkpoint works here: one forward, and one small request."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.dllm.diffusion_gemma import DiffusionGemma
from blockdiff.engine.engine import Engine
from blockdiff.engine.published import is_diffusion
from blockdiff.errors import ModelCorrupt
from blockdiff.model import masks
from blockdiff.model.transformer import Transformer
from blockdiff.types import Finished, Hole, InfillRequest, RewriteRequest

_BEFORE, _AFTER = "def add(a, b):\n    return ", "\n\nprint(add(2, 3))\n"
_TOKENS = 8


def checked(engine: Engine) -> Iterator[tuple[str, str]]:
    """What was tried and what came of it, one after another.

    Raises ModelCorrupt where logits are not finite, and whatever a request raises.
    """
    point = engine.checkpoint
    tokens = point.tokenizer.encode(_BEFORE + _AFTER)
    logits = _logits(point.model, tokens)
    if not bool(torch.isfinite(logits).all()):
        raise ModelCorrupt(f"{engine.name}: a forward gives numbers that are not finite")
    yield "forward", f"{len(tokens)} tokens, logits of {logits.shape[-1]} ids, all finite"
    kind = point.kind
    mode = Mode.VERIFY if engine.drafts or is_diffusion(kind) else Mode.AR
    decoding = DecodingConfig(mode=mode, max_tokens=_TOKENS)
    document, hole = _BEFORE + _AFTER, Hole(len(_BEFORE), len(_BEFORE))
    if kind is not None and kind.layout is None:
        span = Hole(0, len(_BEFORE))
        events = engine.rewrite(
            RewriteRequest(document, span, "add three numbers", path="a.py", decoding=decoding)
        )
        what = "rewrite"
    else:
        events = engine.infill(InfillRequest(document, hole, path="a.py", decoding=decoding))
        what = "infill"
    *_, done = events
    assert isinstance(done, Finished)
    yield what, f"{done.tokens} tokens in {done.forwards} forwards: {done.text!r}"


@torch.inference_mode()
def _logits(model: Transformer | DiffusionGemma, tokens: list[int]) -> torch.Tensor:
    """Of one forward of these tokens; (1, positions, vocab)."""
    if isinstance(model, DiffusionGemma):
        return model.probe(tokens)
    ids = torch.tensor([tokens], device=model.device)
    positions = torch.arange(len(tokens), device=model.device)[None]
    logits: torch.Tensor = model(ids, positions, masks.causal(0, len(tokens), model.device))
    return logits
