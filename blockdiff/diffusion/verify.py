"""`verify`: one forward checks a draft and writes the next; without drafts that is `ar`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from blockdiff.config import Mode
from blockdiff.diffusion.choose import Proposal
from blockdiff.diffusion.forwards import SamplerState
from blockdiff.diffusion.lookup import DRAFT_FLOOR, Lookup, Original, Source
from blockdiff.diffusion.snapshot import Snapshot
from blockdiff.model.forward import Forward

_SURE_MATCH = 3  # tokens; a shorter match in the text is used only where the adapter has no draft


class Verification:
    """One generation in `verify` (TiDAR, arXiv 2511.08923), or in `ar`.

    A forward carries the last accepted token, its draft (causal, base weights) and groups of masks,
    each for a number of draft tokens that may turn out accepted (adapter on). The longest agreeing
    part of the draft and one further token are accepted; the group behind them, an earlier place in
    the text, or the original of a rewrite holds the next draft.
    """

    def __init__(self, sampler: SamplerState, prompt: Sequence[int]) -> None:
        """Behind a prompt of which all but the last token is committed."""
        self._sampler, self._last = sampler, prompt[-1]
        self._drafting = sampler.config.mode is Mode.VERIFY
        most = sampler.speculation.lookup
        self._source: Source = Lookup((), 0)
        if self._drafting and sampler.original:
            self._source = Original(prompt, sampler.original, most)
        elif self._drafting:
            self._source = Lookup(prompt, most)
        # the prompt's last token is not committed yet, and says what comes first
        self._most = min(sampler.config.max_tokens, max(sampler.positions_left, 1))
        self._accepted: list[int] = []
        self._confidence: list[float] = []
        self._ended = False
        self._draft, self._copied = Proposal((), ()), False
        self._lengths: Sequence[int] = ()  # accepted ones for which the forward has masks
        if sampler.original and self._drafting:
            self._draft, self._copied = self._next_draft(None, self._most)

    def next_forward(self) -> Forward | None:
        """The draft to be verified, and masks for the next one."""
        if self._is_over:
            return None
        sampler, draft = self._sampler, self._draft.tokens
        sampler.check()
        width = sampler.config.block_size if self._drafting else 0
        self._lengths, width = self._groups(len(draft), self._copied, width)
        return sampler.verifying_forward(self._last, draft, self._lengths, width)

    def take(self, answer: Tensor) -> Snapshot:
        """Accept as far as the base agrees; the next draft is shown behind that."""
        sampler, draft = self._sampler, self._draft.tokens
        logits = sampler.counted(answer)
        before = len(self._accepted)
        for index in range(len(draft) + 1):
            guess = draft[index] if index < len(draft) else None
            limit = sampler.constraint.allowed(self._accepted) if sampler.constraint else None
            token, probability, agreed = sampler.chooser.verify(logits[index], guess, limit)
            self._ended = token in sampler.stop
            if self._ended:
                break
            self._accepted.append(token)
            self._confidence.append(probability)
            if self._is_over or not agreed:
                break
        sampler.cache.commit(index + 1)
        self._source.extend(self._accepted[before:])
        self._draft, self._copied = Proposal((), ()), False
        if not self._is_over:
            self._last = self._accepted[-1]
            groups = logits[1 + len(draft) :].chunk(max(len(self._lengths), 1))
            drafts = dict(zip(self._lengths, groups, strict=False))
            room = self._most - len(self._accepted)
            self._draft, self._copied = self._next_draft(drafts.get(index), room)
        return sampler.snapshot(self._accepted, self._confidence, self._draft, self._ended)

    @property
    def _is_over(self) -> bool:
        return self._ended or len(self._accepted) == self._most

    def _groups(self, whole: int, copied: bool, width: int) -> tuple[Sequence[int], int]:
        """For which accepted lengths of a draft of `whole` tokens there are masks, and how many.

        Fewer where the model's context ends: no mask stands behind its last position.
        """
        every = self._sampler.speculation.every_length
        # behind a copy that comes true as a whole there is most likely more to copy
        if not width or self._crowded() or (copied and not every):
            return (), width
        lengths = range(0 if every else whole, whole + 1)
        room = self._sampler.positions_left - 1 - whole
        if len(lengths) * width > room:
            lengths, width = range(whole, whole + 1), min(width, room)
        return (lengths if width > 0 else ()), width

    def _next_draft(self, logits: Tensor | None, room: int) -> tuple[Proposal, bool]:
        """The next draft, ends excluded, at most `room` - 1 tokens, and whether it is a copy.

        What stood behind the same tokens before, where the match is long; otherwise the adapter's
        most likely tokens, cut where they become unlikely all together.
        """
        sampler = self._sampler
        found, match = self._source.draft()
        most = sampler.speculation.crowded if self._crowded() else None
        found = found[: max(room - 1, 0)][:most]
        end = next((i for i, token in enumerate(found) if self._never_drafted(token)), len(found))
        copied = Proposal(found[:end], (0.0,) * end)
        if logits is None or (copied.tokens and match >= _SURE_MATCH):
            return copied, bool(copied.tokens)
        proposal = sampler.chooser.most_likely(logits)
        joint, count = 1.0, 0
        for token, probability in zip(proposal.tokens, proposal.confidence, strict=True):
            joint *= probability
            if joint < DRAFT_FLOOR or token in sampler.stop or count >= room - 1:
                break
            count += 1
        if not count:
            return copied, bool(copied.tokens)
        return Proposal(proposal.tokens[:count], proposal.confidence[:count]), False

    def _crowded(self) -> bool:
        sampler = self._sampler
        greedy = sampler.config.greedy
        return sampler.speculation.crowded is not None and greedy and sampler.company() > 0

    def _never_drafted(self, token: int) -> bool:
        return token in self._sampler.stop or self._sampler.chooser.never(token)
