"""One forward checks a draft and writes the next: `verify`, `ar` without drafts, and `diffusion`
where the base is content with less than its first choice."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from blockdiff.config import Mode
from blockdiff.diffusion.drafter import NO_DRAFT, Drafter, Plan
from blockdiff.diffusion.forwards import SamplerState
from blockdiff.diffusion.snapshot import Snapshot
from blockdiff.model.forward import Forward


class Verification:
    """One generation in `verify` (TiDAR, arXiv 2511.08923), in `ar`, or in `diffusion`.

    A forward carries the last accepted token, its draft (causal, base weights) and groups of masks,
    each for a number of draft tokens that may turn out accepted (adapter on). The longest agreeing
    part of the draft and one further token are accepted; what the `Drafter` makes of the group
    behind them and of the text so far is the next draft. In `diffusion` a drafted token agrees
    where the base holds it for `trust` times as likely as its own choice.
    """

    def __init__(self, sampler: SamplerState, prompt: Sequence[int]) -> None:
        """Behind a prompt of which all but the last token is committed."""
        self._sampler, self._last = sampler, prompt[-1]
        self._drafter: Drafter | None = None
        self._trust = sampler.config.trust if sampler.config.mode is Mode.DIFFUSION else 1.0
        if sampler.config.mode is not Mode.AR:
            greedy = sampler.config.greedy
            self._drafter = Drafter(
                prompt,
                sampler.speculation if greedy else sampler.speculation.steady(),
                sampler.original,
                trust=self._trust,
                drafted=lambda t: not (t in sampler.stop or sampler.chooser.never(t)),
                company=sampler.company,
            )
        # the prompt's last token is not committed yet, and says what comes first
        self._most = min(sampler.config.max_tokens, max(sampler.positions_left, 1))
        self._accepted: list[int] = []
        self._confidence: list[float] = []
        self._ended = False
        self._draft, self._plan = NO_DRAFT, Plan(0)
        self._next_draft(None)

    def next_forward(self) -> Forward | None:
        """The draft to be verified, and masks for the next one."""
        if self._is_over:
            return None
        self._sampler.check()
        plan = self._plan
        return self._sampler.verifying_forward(
            self._last, self._draft.tokens, plan.lengths, plan.width
        )

    def take(self, answer: Tensor) -> Snapshot:
        """Accept as far as the base agrees; the next draft is shown behind that."""
        sampler, draft = self._sampler, self._draft.tokens
        logits = sampler.counted(answer)
        before = len(self._accepted)
        for index in range(len(draft) + 1):
            guess = draft[index] if index < len(draft) else None
            limit = sampler.constraint.allowed(self._accepted) if sampler.constraint else None
            token, probability, agreed = sampler.chooser.verify(
                logits[index], guess, limit, self._trust
            )
            self._ended = token in sampler.stop
            if self._ended:
                break
            self._accepted.append(token)
            self._confidence.append(probability)
            if self._is_over or not agreed:
                break
        sampler.cache.commit(index + 1)
        if self._drafter is not None:
            self._drafter.extend(self._accepted[before:])
        lengths = self._plan.lengths
        groups = logits[1 + len(draft) :].chunk(max(len(lengths), 1))
        self._next_draft(dict(zip(lengths, groups, strict=False)).get(index))
        self._last = self._accepted[-1] if self._accepted else self._last
        return sampler.snapshot(self._accepted, self._confidence, self._draft, self._ended)

    def _next_draft(self, masks: Tensor | None) -> None:
        """Draft and plan the next forward, from the logits of the masks behind what is accepted if
        there were any; no mask stands behind the last position of the model's context."""
        self._draft, self._plan = NO_DRAFT, Plan(0)
        if self._drafter is None or self._is_over:
            return
        sampler = self._sampler
        draft = self._drafter.draft(masks, self._most - len(self._accepted) - 1)
        left = sampler.positions_left - 1 - len(draft.tokens)
        self._plan = self._drafter.plan(draft, sampler.config.block_size, left)
        self._draft = draft.first(self._plan.kept)

    @property
    def _is_over(self) -> bool:
        return self._ended or len(self._accepted) == self._most
