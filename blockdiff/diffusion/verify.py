"""One forward checks a draft and writes the next: `verify`, `ar` without drafts, and `diffusion`
where the base is content with less than its first choice."""

from __future__ import annotations

from collections.abc import Sequence

from blockdiff.config import Mode
from blockdiff.diffusion.drafter import NO_DRAFT, Drafter, DraftTokens
from blockdiff.diffusion.forwards import Generation
from blockdiff.diffusion.snapshot import Steps


class Verification:
    """One generation in `verify` (TiDAR, arXiv 2511.08923), in `ar`, or in `diffusion`.

    A forward carries the last accepted token, its draft (causal, base weights) and groups of masks,
    each for a number of draft tokens that may turn out accepted (adapter on). The longest agreeing
    part of the draft and one further token are accepted; what the `Drafter` makes of the group
    behind them and of the text so far is the next draft. In `diffusion` a drafted token agrees
    where the base holds it for `trust` times as likely as its own choice.
    """

    def __init__(self, sampler: Generation, prompt: Sequence[int]) -> None:
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

    def steps(self) -> Steps[None]:
        """A snapshot after every forward, the next draft shown behind what is accepted."""
        sampler, drafter, last = self._sampler, self._drafter, self._last
        # the prompt's last token is not committed yet, and says what comes first
        most = min(sampler.config.max_tokens, max(sampler.positions_left, 1))
        accepted: list[int] = []
        confidence: list[float] = []
        draft = drafter.draft(None, most - 1) if drafter else NO_DRAFT
        while True:
            sampler.check()
            lengths, width = self._masks(draft)
            logits, drafts = yield from sampler.verifying_forward(
                last, draft.tokens, lengths, width
            )
            before, ended = len(accepted), False
            for index in range(len(draft.tokens) + 1):
                guess = draft.tokens[index] if index < len(draft.tokens) else None
                limit = sampler.constraint.allowed(accepted) if sampler.constraint else None
                token, probability, agreed = sampler.chooser.verify(
                    logits[index], guess, limit, self._trust
                )
                ended = token in sampler.stop
                if ended:
                    break
                accepted.append(token)
                confidence.append(probability)
                if len(accepted) == most or not agreed:
                    break
            sampler.drafted.update(draft.sources[:min(index, len(draft.tokens))])
            full = ended or len(accepted) == most
            sampler.cache.commit(index + 1)
            draft = NO_DRAFT
            if drafter and not full:
                drafter.extend(accepted[before:])
                draft = drafter.draft(drafts.get(index), most - len(accepted) - 1)
            yield sampler.snapshot(accepted, confidence, draft, ended)
            if full:
                return
            last = accepted[-1]

    def _masks(self, draft: DraftTokens) -> tuple[Sequence[int], int]:
        """For which accepted lengths of the draft there are masks, and how many.

        None stands behind the last position of the model's context.
        """
        sampler = self._sampler
        if self._drafter is None:
            return (), 0
        left = sampler.positions_left - 1 - len(draft.tokens)
        return self._drafter.masks(draft, sampler.config.block_size, left)
