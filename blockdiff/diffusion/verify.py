"""One forward checks a draft and writes the next: `verify`, `ar` without drafts, and `diffusion`
where the base is content with less than its first choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from blockdiff.config import Mode
from blockdiff.diffusion.draft_tokens import NO_DRAFT, DraftTokens
from blockdiff.diffusion.drafter import Drafter, Plan
from blockdiff.diffusion.forwards import SamplerState, Snapshot
from blockdiff.model.forward import Forward

_WAYS = 2  # to go on behind a token, where none is drawn


class Verification:
    """One generation in `verify` (TiDAR, arXiv 2511.08923), in `ar`, or in `diffusion`.

    A forward carries the last accepted token, its draft (a tree, base weights) and groups of masks,
    each for a token of the draft that may be the last one accepted (adapter on). The first one also
    carries what of the prompt is not committed yet. The way through the draft that agrees longest
    and one further token are accepted; what the `Drafter` makes of the group behind them and of the
    text so far is the next draft. In `diffusion` a drafted token agrees
    where the base holds it for `trust` times as likely as its own choice. With a model of its own
    to draft, no forward carries masks: a forward of that model comes before each.
    """

    def __init__(self, sampler: SamplerState, prompt: Sequence[int]) -> None:
        """Behind what is committed of a prompt, never all of it; beside a drafter all but the last
        token is."""
        self._sampler, self._fed = sampler, list(prompt[sampler.cache.length :])
        self._drafter: Drafter | None = None
        sampler.departed = None
        self._trust = sampler.config.trust if sampler.config.mode is Mode.DIFFUSION else 1.0
        if sampler.config.mode is not Mode.AR:
            greedy = sampler.config.greedy
            free = greedy and sampler.config.mode is Mode.VERIFY  # the text, of what is drafted
            self._drafter = Drafter(
                prompt,
                sampler.speculation if free else sampler.speculation.steady(),
                sampler.original,
                trust=self._trust,
                ways=_WAYS if greedy and sampler.block_drafter is None else 1,
                drafted=lambda t: not (t in sampler.stop or sampler.chooser.never(t)),
                company=sampler.company,
            )
        # the prompt's last token is not committed yet, and says what comes first
        self._most = min(sampler.config.max_tokens, max(self._positions_left + 1, 1))
        self._accepted: list[int] = []
        self._confidence: list[float] = []
        self._ended = False
        self._draft, self._plan = NO_DRAFT, Plan(0)
        self._drafting: Forward | None = None  # what says the next draft, before it is verified
        self._seen: list[Tensor] = []  # hidden states of its block
        self._next_draft(None)

    def next_forward(self) -> Forward | None:
        """A drafter's block, or the draft to be verified, and masks for the next one."""
        if self._is_over:
            return None
        self._sampler.check()
        if self._drafting is not None:
            return self._drafting
        plan = self._plan
        return self._sampler.verifying_forward(self._fed, self._draft, plan.ends, plan.width)

    def take(self, answer: Tensor) -> Snapshot | None:
        """Accept as far as the base agrees; the next draft is shown behind that, as soon as a
        drafter has said it."""
        if self._drafting is not None:
            self._take_block(answer)
            return self._snapshot()
        sampler, draft = self._sampler, self._draft
        logits = sampler.counted(answer)
        before = len(self._accepted)
        limits = self._limits()
        chosen = sampler.chooser.verify(
            logits, draft.tokens, limits, self._trust, sampler.stop, draft.behind
        )
        way: list[int] = []  # tokens of the draft that are passed
        for one in chosen:
            self._ended = one.token in sampler.stop
            if self._ended:
                break
            if one.instead_of is not None and sampler.departed is None:
                sampler.departed = len(self._accepted)
            self._accepted.append(one.token)
            self._confidence.append(one.probability)
            if one.draft is not None:
                sampler.drafted[draft.sources[one.draft].value] += 1
            if self._is_over or one.draft is None:
                break
            way.append(one.draft)
        known = next((i for i, place in enumerate(way) if place != i), len(way))
        sampler.cache.commit(len(self._fed) + known)
        if self._drafter is not None:
            self._drafter.extend(self._accepted[before:])
        # what was accepted on another way stands in the wrong place, and is encoded again
        self._fed = self._accepted[before + known :] or self._fed[-1:]
        self._next_draft(self._masks_behind(way, logits[1 + len(draft.tokens) :]))
        return self._snapshot() if self._drafting is None else None

    def _masks_behind(self, way: Sequence[int], masks: Tensor) -> Tensor | None:
        """Logits of the masks that draft on behind those of the draft's tokens that were accepted:
        of a group there, or of what is left of one that begins before them."""
        plan = self._plan
        groups = dict(zip(plan.ends, masks.chunk(max(len(plan.ends), 1)), strict=False))
        for passed, end in enumerate(reversed([0, *(place + 1 for place in way)])):
            if end in groups:
                return groups[end][passed:] if passed < plan.width else None
        return None

    def _snapshot(self) -> Snapshot:
        shown = self._draft.chain
        return self._sampler.snapshot(self._accepted, self._confidence, shown, self._ended)

    def _limits(self) -> list[Sequence[int] | None]:
        """Ids that may come next, and behind each token of the draft; None: all."""
        draft, constraint = self._draft, self._sampler.constraint
        if constraint is None:
            return [None] * (len(draft.tokens) + 1)
        ways = [self._accepted]
        limits = [constraint.allowed(self._accepted)]
        for token, parent in zip(draft.tokens, draft.behind, strict=True):
            way, limit = ways[parent + 1], limits[parent + 1]
            ways.append([*way, token])
            kept = limit is None or token in limit  # else it is not accepted, and nothing behind it
            limits.append(constraint.allowed(ways[-1]) if kept else ())
        return limits

    def _next_draft(self, masks: Tensor | None) -> None:
        """Draft and plan the next forward, from the logits of the masks behind what is accepted if
        there were any; no mask stands behind the last position of the model's context."""
        self._draft, self._plan = NO_DRAFT, Plan(0)
        if self._drafter is None or self._is_over:
            return
        sampler = self._sampler
        if sampler.block_drafter is not None:
            if self._room > 0:
                self._drafting = sampler.drafting_forward(self._fed[-1], self._seen.append)
            return
        draft = self._drafter.draft(masks, self._room, rows=self._positions_left)
        left = self._positions_left - len(draft.tokens)
        most = sampler.config.block_size if sampler.adapter is not None else 0  # masks need it
        self._follow(draft, self._drafter.plan(draft, most, left, len(self._fed) - 1))

    def _take_block(self, logits: Tensor) -> None:
        """Draft and plan from what the drafter said of its block."""
        drafter = self._sampler.block_drafter
        assert drafter is not None and self._drafter is not None
        block = drafter.propose(self._fed[-1], logits, self._seen.pop())
        draft = self._drafter.draft(None, self._room, block)
        self._drafting = None
        self._follow(draft, self._drafter.plan(draft, 0, 0))

    def _follow(self, draft: DraftTokens, plan: Plan) -> None:
        """Let the next forward carry what was planned."""
        self._draft, places = draft.laid_out(plan.kept)
        ends = tuple(sorted(places[end] for end in plan.ends))
        self._plan = replace(plan, ends=ends)

    @property
    def _positions_left(self) -> int:
        """Of the model's context, behind the last token that is known."""
        return self._sampler.positions_left - len(self._fed)

    @property
    def _room(self) -> int:
        """Tokens that a draft may have: behind it comes one more."""
        return self._most - len(self._accepted) - 1

    @property
    def _is_over(self) -> bool:
        return self._ended or len(self._accepted) == self._most
