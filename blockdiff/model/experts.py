"""A mixture of experts: a router sends each token to a few small feed-forwards of many."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockdiff.model.config import ExpertsConfig


class Experts(nn.Module):
    """SwiGLU experts; weights of all of them in two matrices, one expert's rows after another's.

    Routing is computed in float32: by a softmax over all experts (Qwen3-MoE, SDAR-MoE), or by
    sigmoids and a bias that only choosing sees, within the best groups (DeepSeek-V3, arXiv
    2412.19437; LLaDA2, arXiv 2512.15745), or within those experts of which some token of its block
    thinks best (LLaDA2.2: block routing).
    """

    def __init__(self, hidden_size: int, config: ExpertsConfig) -> None:
        super().__init__()
        self.config = config
        self.router = nn.Parameter(torch.empty(config.count, hidden_size))
        if config.sigmoid:
            self.choice_bias = nn.Parameter(torch.zeros(config.count))
        self.gate_up = nn.Parameter(torch.empty(config.count * 2 * config.size, hidden_size))
        self.down = nn.Parameter(torch.empty(config.count * hidden_size, config.size))
        if config.shared_size:
            self.shared_gate_up = nn.Linear(hidden_size, 2 * config.shared_size, bias=False)
            self.shared_down = nn.Linear(config.shared_size, hidden_size, bias=False)

    def forward(self, x: Tensor, blocks: Tensor | None = None) -> Tensor:
        """(batch, new, hidden_size) to the same; no adapter acts here.

        `blocks`, (batch, new), numbers the block of each token where blocks are routed; the tokens
        of a block are all here.
        """
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.route(tokens, None if blocks is None else blocks.reshape(-1))
        gate_up = self.gate_up.view(self.config.count, -1, tokens.shape[-1])
        down = self.down.view(self.config.count, tokens.shape[-1], -1)
        out = torch.zeros_like(tokens)
        for expert in sorted(set(chosen.flatten().tolist())):
            row, slot = (chosen == expert).nonzero(as_tuple=True)
            answer = _swiglu(tokens[row], gate_up[expert], down[expert])
            out.index_add_(0, row, (answer * weights[row, slot, None]).to(out.dtype))
        if self.config.shared_size:
            out = out + _swiglu(tokens, self.shared_gate_up.weight, self.shared_down.weight)
        return out.view_as(x)

    def route(self, tokens: Tensor, blocks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of (tokens, hidden_size) the weights, float32, and ids of experts, (tokens, active)."""
        c = self.config
        logits = F.linear(tokens.float(), self.router.float())
        if c.sigmoid:
            scores = logits.sigmoid()
            ranks = scores + self.choice_bias.float()
            ranks = (
                self._in_best_groups(ranks) if blocks is None else self._admitted(ranks, blocks)
            )
        else:
            scores = ranks = logits.softmax(dim=-1)
        chosen = ranks.topk(c.active, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if c.normalized:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return weights * c.scale, chosen

    def _in_best_groups(self, ranks: Tensor) -> Tensor:
        """`ranks` (tokens, count), minus infinity for experts outside the best groups."""
        c = self.config
        if c.groups == 1:
            return ranks
        grouped = ranks.view(len(ranks), c.groups, -1)
        best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(c.active_groups, dim=-1).indices
        outside = torch.ones(len(ranks), c.groups, dtype=torch.bool, device=ranks.device)
        outside.scatter_(-1, best, False)
        return grouped.masked_fill(outside[..., None], -torch.inf).view_as(ranks)


    def _admitted(self, ranks: Tensor, blocks: Tensor) -> Tensor:
        """`ranks` (tokens, count), minus infinity for experts that a token's block does not admit:
        all but the `capacity` of the highest rank that any of its tokens gives."""
        ids, owner = blocks.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        best = ranks.new_full((len(ids), self.config.count), -torch.inf)
        best = best.scatter_reduce(0, owner[:, None].expand_as(ranks), ranks, "amax")
        outside = torch.ones_like(best, dtype=torch.bool)
        outside.scatter_(-1, best.topk(self.config.capacity, dim=-1).indices, False)
        return ranks.masked_fill(outside[owner], -torch.inf)


def _swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gated, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gated) * up, down)
