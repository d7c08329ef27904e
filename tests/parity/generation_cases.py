"""What generation parity is tested on: tiny checkpoints, prompts, and the settings of each loop.

The weights are those of `family_checkpoints`, made sharper, so that confidences differ. The mask is
never predicted, on either side: a published checkpoint gives it no probability to speak of.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from blockdiff.config import DecodingConfig, Mode, Reuse, Rule
from blockdiff.model.load.hub_config import read_kind
from blockdiff.model.load.kinds import DiffusionKind
from tests.parity.family_checkpoints import CHECKPOINTS, MASK, VOCABULARY

FOLDER = Path(__file__).parent / "references"
PROMPTS = 20
END, EXPAND, DELETE, SPLIT = 91, 93, 88, 89


@dataclass(frozen=True)
class Case:
    """One published loop with its settings.

    Attributes:
        family: of the tiny checkpoint.
        multiple: prompts have a multiple of so many tokens.
        after: tokens of a suffix; 0: none.
    """

    name: str
    family: str
    config: DecodingConfig
    by_entropy: bool | None = None
    multiple: int = 1
    after: int = 0
    fixed: bool = True

    @property
    def kind(self) -> DiffusionKind:
        kind = read_kind(CHECKPOINTS[self.family].config)
        return replace(kind, sub_block_size=4) if self.family == "fast-dllm" else kind

    def prompts(self) -> list[tuple[list[int], list[int]]]:
        """Tokens before and after the hole; none is the mask, the end or the expand token."""
        stream = np.random.RandomState(zlib.crc32(self.name.encode()))

        def some(count: int) -> list[int]:
            return [int(t) for t in stream.randint(0, min(MASK, END, EXPAND), count)]

        found = []
        for _ in range(PROMPTS):
            length = int(stream.randint(1, 13))
            found.append((some(-(-length // self.multiple) * self.multiple), some(self.after)))
        return found

    def write(self, folder: Path) -> Path:
        """The checkpoint in the hub's layout, in one file."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(CHECKPOINTS[self.family].config))
        save_file(weights(self.family), folder / "model.safetensors")
        return folder


def weights(family: str) -> dict[str, Tensor]:
    """Logits four times as large; expand and end tokens come up often enough to be tested."""
    found = CHECKPOINTS[family].weights()
    heads = {"lm_head.weight", "diffusion_head.weight", "model.transformer.ff_out.weight"}
    name = next(iter(heads & found.keys()), "")
    if not name:  # tied: a larger norm before the head does the same
        found["model.norm.weight"] *= 4
        return found
    found[name] *= 4
    assert found[name].shape[0] == VOCABULARY
    if family == "dreamon":
        found[name][[END, EXPAND]] *= 3
    if family == "llada2 (2.2)":
        found[name][[DELETE, SPLIT]] *= 2
    return found


_SCHEDULE = DecodingConfig(mode=Mode.DIFFUSION, rule=Rule.SCHEDULE, max_tokens=16)
_EDIT = DecodingConfig(mode=Mode.DIFFUSION, rule=Rule.EDIT, max_tokens=16)
_THRESHOLD = DecodingConfig(mode=Mode.DIFFUSION, rule=Rule.THRESHOLD, threshold=0.5, max_tokens=16)

CASES = {
    case.name: case
    for case in (
        Case("llada", "llada", replace(_SCHEDULE, block_size=8, denoising_steps=3)),
        Case("llada-suffix", "llada", replace(_SCHEDULE, max_tokens=7), after=6),
        Case(
            "fastllada-prefix",
            "llada",
            replace(_SCHEDULE, block_size=8, denoising_steps=4, cache=Reuse.PREFIX),
        ),
        Case(
            "fastllada-dual",
            "llada",
            replace(_SCHEDULE, block_size=8, denoising_steps=4, cache=Reuse.DUAL),
        ),
        Case("dream-entropy", "dream", replace(_SCHEDULE, denoising_steps=9)),
        Case(
            "dream-maskgit", "dream", replace(_SCHEDULE, denoising_steps=16), by_entropy=False
        ),
        Case("dreamon", "dreamon", replace(_SCHEDULE, max_tokens=20), after=5, fixed=False),
        Case("cal", "llada", replace(_SCHEDULE, max_tokens=24), after=6, fixed=False),
        Case("sdar", "sdar", _THRESHOLD),
        # The published loop overwrites the end of a prompt that does not end with a block here.
        Case("sdar-static", "sdar", replace(_SCHEDULE, denoising_steps=3), multiple=4),
        Case("llada2", "sdar", replace(_THRESHOLD, threshold=0.4)),
        Case("llada2-edit", "llada2", replace(_EDIT, threshold=0.6, edit_threshold=0.4)),
        Case(
            "llada2 (2.2)-edit", "llada2 (2.2)", replace(_EDIT, threshold=0.6, edit_threshold=0.4)
        ),
        Case("rnd1", "rnd1", replace(_SCHEDULE, denoising_steps=11)),
        Case("nemotron-ar", "nemotron", replace(_THRESHOLD, mode=Mode.AR)),
        Case("nemotron-verify", "nemotron", replace(_THRESHOLD, mode=Mode.VERIFY, block_size=8)),
        Case("nemotron-diffusion", "nemotron", replace(_THRESHOLD, block_size=8)),
        Case("a2d", "a2d (qwen3)", replace(_SCHEDULE, denoising_steps=2), multiple=4),
        Case("fast-dllm", "fast-dllm", _THRESHOLD),
    )
}
