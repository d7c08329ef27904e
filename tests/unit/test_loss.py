"""Training minimizes the NELBO."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, adapter, transformer
from torch.nn import functional as F

from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.transformer import Transformer
from blockdiff.train.corrupt import CorruptionConfig, NoisyBlocks, choose_starts, noisy_blocks
from blockdiff.train.loss import LossParts, backward, bits_per_byte
from blockdiff.train.step import clean_pass, noisy_pass, train_step


def test_bits_per_byte() -> None:
    assert bits_per_byte(8.0 * math.log(2.0), 8) == pytest.approx(1.0)
    assert bits_per_byte(0.0, 3) == 0.0


# --- the loss of a training step ----------------------------------------------------------------

CONFIG = CorruptionConfig(full=0.4, partial=0.3, replaced=0.3)


def example(family: str) -> tuple[Transformer, GatedAdapter, torch.Tensor, NoisyBlocks]:
    model = transformer(FAMILIES[family], seed=5, sharp=2.0)
    drafter = adapter(model.config, 6).requires_grad_(True)
    g = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, 32, (30,), generator=g)
    starts = choose_starts(2, 30, 4, 6, g)
    return model, drafter, tokens, noisy_blocks(tokens, 28, starts, 4, CONFIG, 32, g)


def plain_loss(
    model: Transformer,
    drafter: GatedAdapter,
    tokens: torch.Tensor,
    noisy: NoisyBlocks,
    distill: float,
) -> torch.Tensor:
    """All logits at once and autograd through everything."""
    clean = clean_pass(model, tokens)
    student = model.head(noisy_pass(model, drafter, clean, noisy)).log_softmax(-1)
    teacher = model.head(clean.hidden).log_softmax(-1)
    targets, loss = noisy.targets, torch.zeros(())
    for i in range(len(targets.ids)):
        mine, theirs = student[targets.rows[i]], teacher[targets.teacher_rows[i]]
        cross = -mine[targets.ids[i]]
        divergence = F.kl_div(mine, theirs, log_target=True, reduction="sum")
        loss = loss + targets.weights[i] * ((1 - distill) * cross + distill * divergence)
    return loss / targets.weights.sum()


def gradients(drafter: GatedAdapter) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone() for name, p in drafter.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("distill", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("chunk", [1, 5, 128])
def test_gradients_are_those_of_the_plain_loss(family: str, distill: float, chunk: int) -> None:
    model, drafter, tokens, noisy = example(family)
    expected = plain_loss(model, drafter, tokens, noisy, distill)
    expected.backward()
    plain = gradients(drafter)
    drafter.zero_grad()
    clean = clean_pass(model, tokens)
    student = noisy_pass(model, drafter, clean, noisy)
    parts = backward(student, clean.hidden, model.head, noisy.targets, distill, chunk=chunk)
    ours = gradients(drafter)
    assert set(ours) == set(plain) == {name for name, _ in drafter.named_parameters()}
    for name, gradient in plain.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=1e-6), name
        assert bool(gradient.abs().max() > 0), name
    assert parts.loss == pytest.approx(expected.item(), rel=1e-4)


def test_the_parts_add_up() -> None:
    model, drafter, tokens, noisy = example("qwen2")

    def parts(distill: float) -> LossParts:
        return train_step(model, drafter, tokens, noisy, distill)

    hard, mixed = parts(0.0), parts(0.25)
    assert hard.loss == pytest.approx(hard.cross_entropy)
    assert hard.distillation == 0.0
    assert mixed.cross_entropy == pytest.approx(hard.cross_entropy)
    assert mixed.loss == pytest.approx(0.75 * mixed.cross_entropy + 0.25 * mixed.distillation)
    assert mixed.distillation > 0


def test_a_target_of_weight_zero_teaches_nothing() -> None:
    model, drafter, tokens, noisy = example("qwen2")
    train_step(model, drafter, tokens, noisy, 0.5)
    expected = gradients(drafter)
    drafter.zero_grad()
    extra = replace(
        noisy.targets,
        ids=torch.cat([noisy.targets.ids, torch.tensor([3])]),
        rows=torch.cat([noisy.targets.rows, torch.tensor([0])]),
        weights=torch.cat([noisy.targets.weights, torch.zeros(1)]),
        teacher_rows=torch.cat([noisy.targets.teacher_rows, torch.tensor([0])]),
    )
    train_step(model, drafter, tokens, replace(noisy, targets=extra), 0.5)
    for name, gradient in gradients(drafter).items():
        assert torch.allclose(gradient, expected[name], atol=1e-7), name


def test_the_base_gets_no_gradient() -> None:
    model, drafter, tokens, noisy = example("llama")
    before = [p.clone() for p in model.parameters()]
    train_step(model, drafter, tokens, noisy, 0.5)
    assert all(p.grad is None for p in model.parameters())
    assert all(map(torch.equal, before, model.parameters()))


def test_noisy_blocks_learn_from_clean_tokens_before_them_only() -> None:
    """The loss of a block does not depend on any token from its start on, but for its targets."""
    model, drafter, tokens, _ = example("qwen3")
    g = torch.Generator().manual_seed(1)
    full = CorruptionConfig(full=1.0, partial=0.0, replaced=0.0)
    noisy = noisy_blocks(tokens, 30, [12], 4, full, 32, g)
    changed = tokens.clone()
    changed[12:] = (changed[12:] + 1) % 32
    with torch.no_grad():
        a = noisy_pass(model, drafter, clean_pass(model, tokens), noisy)
        b = noisy_pass(model, drafter, clean_pass(model, changed), noisy)
        changed[11] = (changed[11] + 1) % 32
        c = noisy_pass(model, drafter, clean_pass(model, changed), noisy)
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
