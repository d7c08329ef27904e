"""Tiny models for the tests: random ones of every shape, and one that has really learned."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from blockdiff.config import DecodingConfig, SpecialTokens
from blockdiff.diffusion.choose import Chooser
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.forwards import Constraint, Snapshot
from blockdiff.diffusion.sampler import Sampler
from blockdiff.model import masks
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import AdapterConfig, TransformerConfig
from blockdiff.model.transformer import Transformer
from blockdiff.train.corrupt import CorruptionConfig, choose_starts, noisy_blocks
from blockdiff.train.step import train_step

ALL_TARGETS = AdapterConfig({"qkv": 3, "o": 2, "gate_up": 4, "down": 1}, scale=1.5)


def config(**changes: object) -> TransformerConfig:
    """Two layers, four query heads that share two key heads, a vocabulary of 32."""
    values: dict[str, object] = dict(
        vocab_size=32, hidden_size=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8,
        ffn_size=24, qkv_bias=True, tied_embeddings=False, max_positions=256,
    )  # fmt: skip
    return TransformerConfig(**(values | changes))  # type: ignore[arg-type]


FAMILIES = {
    "llama": config(qkv_bias=False, n_kv_heads=4),
    "qwen2": config(tied_embeddings=True),
    "qwen3": config(qkv_bias=False, qk_norm=True, n_kv_heads=1, head_dim=6),
}


def transformer(shape: TransformerConfig, seed: int = 0, sharp: float = 4.0) -> Transformer:
    """Random weights; logits have a standard deviation of about `sharp`."""
    torch.manual_seed(seed)
    model = Transformer(shape)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.normal_()
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        model.head.weight.mul_(sharp)
    return model.eval().requires_grad_(False)


def adapter(
    shape: TransformerConfig, seed: int = 0, ranks: AdapterConfig = ALL_TARGETS
) -> GatedAdapter:
    """Random weights throughout, so that it changes every position that it may change, and not
    so large that rounding is amplified beyond every tolerance."""
    torch.manual_seed(1000 + seed)
    made = GatedAdapter(shape, ranks)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.2)
    return made.eval().requires_grad_(False)


def forward(model: Transformer, tokens: Sequence[int], mask: Tensor | None = None) -> Tensor:
    """Logits (tokens, vocab) without any cache; causal unless a mask is given."""
    if mask is None:
        mask = masks.causal(0, len(tokens))
    positions = torch.arange(len(tokens))[None]
    with torch.no_grad():
        return model(torch.tensor([list(tokens)]), positions, mask)[0]


def cache_for(model: Transformer, capacity: int = 8) -> BlockCache:
    """A small one, so that it has to grow."""
    return BlockCache(model.config, capacity=capacity, dtype=model.dtype)


class Letters:
    """A tokenizer of one id per character, and the special ids that training needs."""

    alphabet = "abcdefghijklmnop\n"
    special = SpecialTokens(
        fim_prefix=17, fim_middle=18, fim_suffix=19, fim_pad=-1, repo_name=-1, file_sep=-1,
        end_of_text=20, im_start=-1, im_end=-1, mask=21, stop=(20,),
    )  # fmt: skip

    def encode(self, text: str) -> list[int]:
        return [self.alphabet.index(character) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.alphabet[i] for i in ids if i < len(self.alphabet))


TOY_SHAPE = config(vocab_size=22, hidden_size=32, head_dim=8, ffn_size=64)


@dataclass(frozen=True)
class Text:
    """A document."""

    text: str


def toy_line(rng: random.Random, length: int) -> str:
    """Counts up the alphabet in steps of one or two, round and round: two letters tell the rest."""
    start, step = rng.randrange(16), rng.choice((1, 2))
    return "".join(Letters.alphabet[(start + step * i) % 16] for i in range(length))


def toy_documents(seed: int, count: int = 64) -> Iterator[Text]:
    rng = random.Random(seed)
    for _ in range(count):
        yield Text("\n".join(toy_line(rng, 24) for _ in range(12)))


@functools.cache
def toy_base() -> Transformer:
    """Has learned the language left to right."""
    torch.manual_seed(0)
    model = Transformer(TOY_SHAPE)
    with torch.no_grad():
        model.embedding.weight.mul_(0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    encode, rng = Letters().encode, random.Random(0)
    mask, positions = masks.causal(0, 48), torch.arange(48)[None]
    for _ in range(150):
        lines = ["\n".join(toy_line(rng, 24) for _ in range(2)) for _ in range(8)]
        batch = torch.tensor([encode(line) for line in lines])
        logits = model(batch[:, :48], positions, mask)
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:49].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@functools.cache
def toy_adapter() -> GatedAdapter:
    """Has learned to draft for `toy_base`: right most of the time, wrong now and then."""
    model = toy_base()
    torch.manual_seed(1)
    drafter = GatedAdapter(TOY_SHAPE, AdapterConfig({"qkv": 8, "o": 8, "gate_up": 8, "down": 8}))
    optimizer = torch.optim.AdamW(drafter.parameters(), lr=1e-2)
    encode, rng, g = Letters().encode, random.Random(1), torch.Generator().manual_seed(1)
    for _ in range(150):
        tokens = torch.tensor(encode("\n".join(toy_line(rng, 24) for _ in range(3))))
        starts = choose_starts(4, len(tokens), 4, 16, g)
        noisy = noisy_blocks(tokens, len(tokens), starts, 4, CorruptionConfig(), 17, g)
        optimizer.zero_grad()
        train_step(model, drafter, tokens, noisy, distill=0.5)
        optimizer.step()
    return drafter.eval().requires_grad_(False)


def sampler(
    model: Transformer,
    drafter: GatedAdapter | None,
    decoding: DecodingConfig,
    *,
    cache: BlockCache | None = None,
    stop: Iterable[int] = (),
    banned: Iterable[int] = (),
    constraint: Constraint | None = None,
    cancelled: object = None,
    speculation: Speculation = Speculation(),
) -> Sampler:
    """A sampler whose parts a test need not name all."""
    return Sampler(
        model=model,
        adapter=drafter,
        cache=cache if cache is not None else cache_for(model),
        chooser=Chooser(banned, decoding.temperature, decoding.top_p, decoding.seed),
        stop=frozenset(stop),
        config=decoding,
        cancelled=cancelled or (lambda: False),  # type: ignore[arg-type]
        constraint=constraint,
        speculation=speculation,
    )


def last(snapshots: Iterable[Snapshot]) -> Snapshot:
    """What a generation ends with."""
    snapshot = None
    for snapshot in snapshots:  # noqa: B007
        pass
    assert snapshot is not None
    return snapshot
