"""A drafter of its own: what it drafts changes no token, and its cache goes with its target's."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from typing import cast

import pytest
import torch
from tiny import FAMILIES, Letters, last, sampler, toy_base, toy_line, transformer
from torch import Tensor
from torch.nn import functional as F

from blockdiff.config import DecodingConfig, Mode, Rule
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.row_costs import FREE
from blockdiff.diffusion.sampler import Sampler
from blockdiff.errors import ModelUnsupported
from blockdiff.model import masks
from blockdiff.model.block_drafter import BlockDrafter, BlockDrafterConfig, Markov, MarkovHead
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import TransformerConfig
from blockdiff.model.cuda.graphs import GraphedRunner, eagerly
from blockdiff.model.cuda.shapes import GraphShape
from blockdiff.model.forward import Forward, Runner, run
from blockdiff.model.layer import Attention
from blockdiff.model.rotary import rotary_tables
from blockdiff.model.transformer import Taps, Transformer

AR, VERIFY = DecodingConfig(mode=Mode.AR), DecodingConfig(mode=Mode.VERIFY, block_size=3)
KINDS = {
    "dflash": dict(block_size=5),
    "dspark": dict(block_size=4, shift=True, markov=Markov.VANILLA, markov_rank=3),
    "dspark, sure of itself": dict(
        block_size=4, shift=True, markov=Markov.RNN, markov_rank=3, confidence=True
    ),
}


def shape(target: TransformerConfig, kind: str) -> BlockDrafterConfig:
    stack = replace(target, n_layers=1, qkv_bias=False, qk_norm=True, tied_embeddings=False)
    return BlockDrafterConfig(stack, (0,), mask_token_id=3, **KINDS[kind])  # type: ignore[arg-type]


def drafter_for(target: Transformer, kind: str = "dflash", seed: int = 0) -> BlockDrafter:
    """Random weights over the target's own embedding and head."""
    torch.manual_seed(seed)
    made = BlockDrafter(shape(target.config, kind))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
        if made.confidence is not None:
            made.confidence.bias.fill_(3.0)
    made.stack.embedding, made.stack.head = target.embedding, target.head
    return made.eval().requires_grad_(False)


def writing(
    target: Transformer, drafter: BlockDrafter, decoding: DecodingConfig, stop: tuple[int, ...] = ()
) -> Sampler:
    speculation = Speculation(FREE, most=0)
    made = sampler(target, None, AR, stop=stop, speculation=speculation)
    made.cache = BlockCache(target.config, capacity=4, companion=drafter.cache())
    made.config, made.block_drafter = decoding, drafter
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_verify_writes_what_ar_writes(family: str, kind: str) -> None:
    """Token for token over 23 prompts of each pair, 200 in all, with drafts that know nothing."""
    target, rng, drafted = transformer(FAMILIES[family]), random.Random(kind), 0
    for seed in range(23):
        drafter = drafter_for(target, kind, seed)
        prompt = [rng.randrange(32) for _ in range(rng.randrange(1, 20))]
        decoding = replace(AR, max_tokens=rng.randrange(1, 20))
        stop = (rng.randrange(32),) if seed % 2 else ()
        expected = last(sampler(target, None, decoding, stop=stop).run(prompt))
        written = writing(target, drafter, replace(decoding, mode=Mode.VERIFY), stop)
        shown = list(written.run(prompt))
        assert (shown[-1].tokens, shown[-1].ended) == (expected.tokens, expected.ended)
        drafted += max(len(one.tokens) - sum(one.settled) for one in shown)
        kept = written.cache.companion
        assert kept is not None and kept.length == written.cache.length == len(prompt) - 1
    assert drafted > 23, "nothing was drafted"


@functools.cache
def fitted() -> BlockDrafter:
    """Has learned the language of `toy_base` from what its first layer puts out."""
    target = toy_base()
    torch.manual_seed(0)
    learned = dict(mask_token_id=21, block_size=7, shift=True, markov=Markov.VANILLA, markov_rank=8)
    made = BlockDrafter(replace(shape(target.config, "dflash"), **learned))  # type: ignore[arg-type]
    made.stack.embedding, made.stack.head = target.embedding, target.head
    own = [p for n, p in made.named_parameters() if not n.startswith(("stack.emb", "stack.head"))]
    optimizer = torch.optim.AdamW(own, lr=1e-2)
    rng, size, markov = random.Random(2), 7, cast(MarkovHead, made.markov)
    for _ in range(250):
        start = rng.randrange(2, 40)
        lines = ["\n".join(toy_line(rng, 24) for _ in range(2)) for _ in range(8)]
        text = torch.tensor([Letters().encode(line)[: start + size + 1] for line in lines])
        context, places = torch.arange(start)[None], torch.arange(start, start + size)[None]
        taps = Taps(made.config.layers)
        with torch.no_grad():
            target.hidden(text[:, :start], context, masks.causal(0, start), taps=taps)
        x, rotary = made.feature_norm(made.fusion(taps.features())), made.config.stack
        attention = cast(Attention, made.stack.blocks[0].attention)
        known = _Known(*attention.keys_values(x, rotary_tables(rotary, context)))
        block = torch.full((8, size), 21)
        block[:, 0] = text[:, start]
        hidden = made.stack.hidden(block, places, masks.full(start, size), known)
        term = markov.after(markov.before(text[:, start:-1]))
        logits = (made.stack.head(hidden) + term).flatten(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(logits, text[:, start + 1 :].flatten()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return made.eval().requires_grad_(False)


class _Known:
    """Keys and values of a context, through which gradients pass."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values, self.length = keys, values, keys.shape[2]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self._keys, keys], 2), torch.cat([self._values, values], 2)


def test_what_was_learned_is_accepted() -> None:
    """More than three tokens a forward come true of the language that it was fitted to, and the
    text is that of `ar`, over 200 prompts."""
    target, drafter, rng = toy_base(), fitted(), random.Random(9)
    tokens = forwards = 0
    for _ in range(200):
        prompt = Letters().encode("\n".join(toy_line(rng, 24) for _ in range(2))[:-16])
        expected = last(sampler(target, None, replace(AR, max_tokens=16)).run(prompt))
        written = writing(target, drafter, replace(VERIFY, max_tokens=16))
        assert last(written.run(prompt)).tokens == expected.tokens
        tokens, forwards = tokens + len(expected.tokens), forwards + written.forwards
        assert written.drafted["drafter"] == written.drafted.total() > 0
    assert tokens / forwards - 1 > 3, (tokens, forwards)


def test_diffusion_is_content_with_less_than_the_first_choice() -> None:
    """With a drafter, too: fewer forwards than `verify`, for a text that may be another."""
    target, drafter = toy_base(), fitted()
    prompt = Letters().encode("abcdefghijklmnop\nacegik")
    trusting = DecodingConfig(mode=Mode.DIFFUSION, trust=0.01, max_tokens=40, block_size=3)
    loose, exact = (writing(target, drafter, d) for d in (trusting, replace(VERIFY, max_tokens=40)))
    assert len(last(loose.run(prompt)).tokens) == len(last(exact.run(prompt)).tokens) == 40
    assert loose.forwards <= exact.forwards < 20


def test_the_rules_of_an_adapter_want_one() -> None:
    decoding = DecodingConfig(mode=Mode.DIFFUSION, rule=Rule.THRESHOLD, block_size=3)
    made = writing(toy_base(), fitted(), VERIFY)
    with pytest.raises(ModelUnsupported, match="threshold .* needs an adapter"):
        replace(made, config=decoding)


# --- the cache ---------------------------------------------------------------------------------

TEXT = [(7 * i + i * i) % 32 for i in range(60)]


def causal(cache: BlockCache, tokens: list[int]) -> Forward:
    past, new = cache.length, len(tokens)
    positions = torch.arange(past, past + new)[None]
    return Forward(torch.tensor([tokens]), positions, masks.causal(past, new), cache)


def drafting(cache: BlockCache, drafter: BlockDrafter, last_token: int) -> Forward:
    written = sampler(transformer(FAMILIES["qwen3"]), None, AR)
    written.cache, written.block_drafter = cache, drafter
    forward = written.drafting_forward(last_token, lambda hidden: None)
    assert forward is not None
    return forward


def pair(kind: str = "dflash") -> tuple[Transformer, BlockDrafter, BlockCache]:
    target = transformer(FAMILIES["qwen3"])
    drafter = drafter_for(target, kind)
    return target, drafter, BlockCache(target.config, capacity=4, companion=drafter.cache())


def test_it_is_committed_cut_and_forked_with_its_targets() -> None:
    """After any such sequence a block is drafted as behind a context that was read at once."""
    target, drafter, cache = pair()
    whole = BlockCache(target.config, companion=drafter.cache())
    run(target, [causal(whole, TEXT[:20])], drafter)
    whole.commit(20)
    (expected,) = run(target, [drafting(whole, drafter, TEXT[20])], drafter)
    for start, end, kept in ((0, 9, 5), (5, 14, 14), (14, 30, 16)):
        run(target, [causal(cache, TEXT[start:end])], drafter)
        cache.commit(kept - start)
        run(target, [drafting(cache, drafter, 1)], drafter)  # a block leaves nothing behind
    cache.truncate(11)
    copy = cache.fork(length=10)
    run(target, [causal(cache, TEXT[30:40])], drafter)
    cache.commit(10)  # what goes on in one is not seen in the other
    run(target, [causal(copy, TEXT[10:20])], drafter)
    copy.commit(10)
    (found,) = run(target, [drafting(copy, drafter, TEXT[20])], drafter)
    assert (found - expected).abs().max() <= 1e-5
    kept = copy.companion
    assert kept is not None and copy.nbytes > copy.fork().nbytes - kept.fork().nbytes > 0


def test_what_the_drafter_never_read_cannot_be_committed() -> None:
    """A forward that left it out would make its cache another text's."""
    target, _, cache = pair()
    run(target, [causal(cache, TEXT[:5])])
    with pytest.raises(ValueError, match="cannot commit"):
        cache.commit(5)
    assert cache.length == 0


def test_keys_and_values_of_the_target_are_the_same_bits_without_it() -> None:
    target, drafter, cache = pair()
    bare = BlockCache(target.config)
    for one, own in ((cache, drafter), (bare, None)):
        run(target, [causal(one, TEXT[:20])], own)
        one.commit(20)
    assert torch.equal(cache.committed_all(), bare.committed_all())


@pytest.mark.parametrize("runner", ["eager", "padded"])
def test_those_that_draft_and_those_that_verify_share_a_step(runner: str) -> None:
    """Each gets what it would have got alone, whoever else is written, also in fixed shapes."""
    target, drafter, first = pair("dspark")
    second = BlockCache(target.config, companion=drafter.cache())
    for cache, tokens in ((first, TEXT[:12]), (second, TEXT[20:27])):
        run(target, [causal(cache, tokens)], drafter)
        cache.commit(len(tokens))
    alone = [run(target, [drafting(first, drafter, 5)], drafter)[0]]
    alone += run(target, [causal(second, TEXT[30:34])], drafter)
    alone += run(target, [causal(first.fork(), TEXT[40:43])], drafter)
    third = first.fork()
    shapes = [GraphShape(batch, 8, 64, False) for batch in (1, 4)]
    ways: dict[str, Runner] = {
        "eager": lambda forwards: run(target, forwards, drafter),
        "padded": GraphedRunner(target, None, eagerly, shapes, drafter),
    }
    forwards = [
        drafting(first, drafter, 5), causal(second, TEXT[30:34]), causal(third, TEXT[40:43])
    ]  # fmt: skip
    for ours, theirs in zip(ways[runner](forwards), alone, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5
    second.commit(3)
    (again,) = ways[runner]([drafting(second, drafter, 9)])
    fresh = BlockCache(target.config, companion=drafter.cache())
    run(target, [causal(fresh, [*TEXT[20:27], *TEXT[30:33]])], drafter)
    fresh.commit(10)
    assert (again - run(target, [drafting(fresh, drafter, 9)], drafter)[0]).abs().max() <= 1e-5
