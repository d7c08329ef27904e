"""Uniform diffusion that predicts clean tokens (UDLM, arXiv 2412.10193): all stay revisable.

A token is drawn anew with probability t = 1 - alpha. With the network's p in place of x_0 the
ratios of SEDD are s_y = (alpha p_y + t/V) / (alpha p_x + t/V) (section 4), and the bound
(eq. 18) is the score entropy of these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blockdiff.lab.family import (
    LabFamily,
    SamplerSettings,
    Template,
    categorical,
    one_hot,
    uneven_levels,
)
from blockdiff.lab.sedd import score_entropy, uniform_noise


class Uniform(LabFamily):
    """Sampling may begin from any text at any noise: that is revision (`revise`)."""

    def drawn(self, tokens: Tensor, g: torch.Generator) -> Tensor:
        t, weight = uneven_levels(len(tokens), g)
        noisy = uniform_noise(tokens, t[:, None], self.vocab_size, g)
        return weight[:, None] * self.integrand(self.read(noisy, t), noisy, tokens, t[:, None])

    def integrand(self, logits: Tensor, noisy: Tensor, tokens: Tensor, t: Tensor) -> Tensor:
        """(batch, length)."""
        p = logits.softmax(-1)
        logs = ((1 - t)[..., None] * p + t[..., None] / self.vocab_size).log()
        return score_entropy(logs - logs.gather(-1, noisy[..., None]), noisy, tokens, t)

    def transition(self, x: Tensor, t: float, s: float) -> Tensor:
        """p(x_s | x_t) ~ q(x_t | x_s) (alpha_s p + (1 - alpha_s) / V), (batch, length, vocab)."""
        p = self.read(x, torch.full((len(x),), t)).softmax(-1)
        kept = (1 - t) / (1 - s)
        likelihood = kept * one_hot(x, self.vocab_size) + (1 - kept) / self.vocab_size
        return likelihood * ((1 - s) * p + s / self.vocab_size)

    def write(self, template: Template, how: SamplerSettings) -> Tensor:
        noise = torch.randint(0, self.vocab_size, template.tokens.shape, generator=how.g)
        return self.revise(template.keep(noise), template, 1.0, how)

    @torch.no_grad()
    def revise(self, x: Tensor, template: Template, noise: float, how: SamplerSettings) -> Tensor:
        """From a text in which a share `noise` of the tokens is taken to be wrong, down to none."""
        ends = torch.linspace(noise, 0, how.steps + 1).tolist()
        for t, s in zip(ends, ends[1:], strict=False):
            x = template.keep(categorical(self.transition(x, min(t, 1 - 1e-4), s), how.g))
            how.watch(x)
        return x
