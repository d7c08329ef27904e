"""`verify`: one forward checks a draft and writes the next; without drafts that is `ar`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from blockdiff.config import Mode
from blockdiff.diffusion.choose import Proposal
from blockdiff.diffusion.forwards import Generation
from blockdiff.diffusion.lookup import DRAFT_FLOOR, Lookup, Original, Source
from blockdiff.diffusion.snapshot import Steps

_SURE_MATCH = 3  # tokens; a shorter match in the text is used only where the adapter has no draft


class Verification:
    """One generation in `verify` (TiDAR, arXiv 2511.08923), or in `ar`.

    A forward carries the last accepted token, its draft (causal, base weights) and groups of masks,
    each for a number of draft tokens that may turn out accepted (adapter on). The longest agreeing
    part of the draft and one further token are accepted; the group behind them, an earlier place in
    the text, or the original of a rewrite holds the next draft.
    """

    def __init__(self, sampler: Generation, prompt: Sequence[int]) -> None:
        self._sampler, self._last = sampler, prompt[-1]
        self._drafting = sampler.config.mode is Mode.VERIFY
        most = sampler.speculation.lookup
        self._source: Source = Lookup((), 0)
        if self._drafting and sampler.original:
            self._source = Original(prompt, sampler.original, most)
        elif self._drafting:
            self._source = Lookup(prompt, most)

    def steps(self) -> Steps[None]:
        """A snapshot after every forward, the next draft shown behind what is accepted."""
        sampler, last = self._sampler, self._last
        # the prompt's last token is not committed yet, and says what comes first
        most = min(sampler.config.max_tokens, max(sampler.positions_left, 1))
        width = sampler.config.block_size if self._drafting else 0
        accepted: list[int] = []
        confidence: list[float] = []
        draft, copied = Proposal((), ()), False
        if sampler.original and self._drafting:
            draft, copied = self._next_draft(None, most)
        while True:
            sampler.check()
            lengths, masks = self._groups(len(draft.tokens), copied, width)
            logits, drafts = yield from sampler.verifying_forward(
                last, draft.tokens, lengths, masks
            )
            before, ended = len(accepted), False
            for index in range(len(draft.tokens) + 1):
                guess = draft.tokens[index] if index < len(draft.tokens) else None
                limit = sampler.constraint.allowed(accepted) if sampler.constraint else None
                token, probability, agreed = sampler.chooser.verify(logits[index], guess, limit)
                ended = token in sampler.stop
                if ended:
                    break
                accepted.append(token)
                confidence.append(probability)
                if len(accepted) == most or not agreed:
                    break
            full = ended or len(accepted) == most
            sampler.cache.commit(index + 1)
            room = most - len(accepted)
            self._source.extend(accepted[before:])
            draft, copied = Proposal((), ()), False
            if not full:
                draft, copied = self._next_draft(drafts.get(index), room)
            yield sampler.snapshot(accepted, confidence, draft, ended)
            if full:
                return
            last = accepted[-1]

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
