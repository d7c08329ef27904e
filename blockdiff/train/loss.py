"""The block diffusion NELBO in the form that training uses.

L = E_t[ 1/t * sum over corrupted positions of -log p(x_i | noisy block, clean prefix) ]
(Sahoo et al. 2024, arXiv 2406.07524, eq. 10; Arriola et al. 2025, arXiv 2503.09573, eq. 8),
in nats. Reported in bits per byte: nats / (ln 2 * bytes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Nats summed over a text of `n_bytes` UTF-8 bytes, as bits per byte."""
    return nats / (math.log(2.0) * n_bytes)


@dataclass(frozen=True, slots=True)
class Targets:
    """What the noisy positions of a step should predict.

    Attributes:
        ids: (targets,) clean token ids.
        rows: (targets,) index of the noisy position that predicts each.
        weights: (targets,) loss weights.
        teacher_rows: (targets,) index of the clean position whose base logits predict the same
            token from the true text; the soft target of distillation.
        term_ids, term: (targets, most) ids and what counted n-grams add to their logits, nats; 0
            in columns that a target does not need. `most` is 0 without n-grams.
    """

    ids: Tensor
    rows: Tensor
    weights: Tensor
    teacher_rows: Tensor
    term_ids: Tensor
    term: Tensor

    @classmethod
    def plain(cls, ids: Tensor, rows: Tensor, weights: Tensor, teacher_rows: Tensor) -> Targets:
        """Without n-grams."""
        none = ids.new_zeros(len(ids), 0)
        return cls(ids, rows, weights, teacher_rows, none, none.float())

    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, targets first."""
        return tuple(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class LossParts:
    """Weighted means over the targets of a step, in nats; `loss` is what is minimized."""

    loss: float
    cross_entropy: float
    distillation: float


def backward(
    student: Tensor,
    teacher: Tensor,
    head: nn.Linear,
    targets: Targets,
    distill: float,
    *,
    chunk: int = 128,
) -> LossParts:
    """Compute the loss and back-propagate it into the graph of `student`.

    The loss of a target is (1 - distill) * CE(clean token) + distill * KL(base || student), times
    its weight, over the sum of weights; the student is its logits and the term of the n-grams, as
    in drafting. The head is applied to `chunk` targets at a time: logits
    of all of them in float32 would take gigabytes at a vocabulary of 152k.

    Args:
        student: (noisy positions, hidden) with a graph.
        teacher: (clean positions, hidden) without one.
        head: frozen output projection.
    """
    leaf = student.detach().requires_grad_()
    total = targets.weights.sum().clamp_min(1e-6)
    sums = torch.zeros(2)
    for ids, rows, weights, teacher_rows, term_ids, term in zip(
        *(torch.split(part, chunk) for part in targets.parts()), strict=True
    ):
        logits = head(leaf[rows]).float().scatter_add(-1, term_ids, term)
        log_probs = F.log_softmax(logits, dim=-1)
        cross = F.nll_loss(log_probs, ids, reduction="none")
        share = weights / total
        loss = ((1.0 - distill) * cross * share).sum()
        divergence = torch.zeros_like(cross)
        if distill:
            with torch.no_grad():
                soft = F.log_softmax(head(teacher[teacher_rows]).float(), dim=-1)
            divergence = (soft.exp() * (soft - log_probs)).sum(-1)
            loss = loss + distill * (divergence * share).sum()
        loss.backward()
        sums += torch.stack([(cross * share).sum(), (divergence * share).sum()]).detach().cpu()
    assert leaf.grad is not None
    student.backward(leaf.grad)  # type: ignore[no-untyped-call]
    cross_entropy, distillation = sums.tolist()
    mixed = (1.0 - distill) * cross_entropy + distill * distillation
    return LossParts(mixed, cross_entropy, distillation)

