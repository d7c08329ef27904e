"""The term of counted n-grams in the loss of an adapter is the one that drafts have."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from tiny import TOY_SHAPE, Letters, toy_documents, transformer

from blockdiff.diffusion.drafter import Drafter, Speculation
from blockdiff.diffusion.ngrams import NgramTable
from blockdiff.diffusion.row_costs import FREE
from blockdiff.train.config import TrainConfig
from blockdiff.train.corrupt import CorruptionConfig, choose_starts, fully_masked, noisy_blocks
from blockdiff.train.loop import SequenceStream
from blockdiff.train.loss import backward
from blockdiff.train.ngrams import count, stream
from blockdiff.train.prepare import Prepared, Preparer
from blockdiff.train.sequences import SequenceConfig
from blockdiff.train.term import with_term

CONFIG = TrainConfig(
    block_sizes=(3, 5), noisy_positions=30, sequence=SequenceConfig(length=96, padding=5)
)
BASE = transformer(TOY_SHAPE, seed=1)


@pytest.fixture(scope="module")
def table() -> NgramTable:
    texts = [Letters().encode(document.text) for document in toy_documents(3, 12)]
    return count(stream(texts), vocab_size=TOY_SHAPE.vocab_size, entries=999)


def text() -> list[int]:
    (document,) = toy_documents(5, 1)
    return Letters().encode(document.text)[:90]


def test_the_term_is_what_drafts_add_to_the_logits(table: NgramTable) -> None:
    """A draft is the likeliest token of logits and term, for each mask behind the same tokens."""
    tokens, size, g = text(), 4, torch.Generator().manual_seed(0)
    starts = choose_starts(20, len(tokens), size, 9, g)
    noisy = with_term(
        fully_masked(torch.tensor(tokens), len(tokens), starts, size), tokens, [table]
    )
    targets = noisy.targets
    logits = torch.randn(len(targets.ids), TOY_SHAPE.vocab_size, generator=g)
    expected = logits.scatter_add(-1, targets.term_ids, targets.term).argmax(-1)
    followed = 0
    for block, start in enumerate(starts):
        drafter = Drafter(tokens[: start + 1], Speculation(FREE, tables=(table,)))
        rows = slice(block * size, (block + 1) * size)
        drafted = drafter.draft(logits[rows], size).tokens
        for index, token in enumerate(drafted):
            assert token == expected[rows][index]
            followed += 1
            if token != tokens[start + 1 + index]:
                break  # from here on the drafts stand behind other tokens
    assert followed > len(starts)
    assert (targets.term > 0).any(1).sum() > len(starts), "the table knows this language"


def test_blocks_that_are_not_all_masks_have_no_term(table: NgramTable) -> None:
    tokens, g = text(), torch.Generator().manual_seed(1)
    starts = choose_starts(20, len(tokens), 5, 12, g)
    mixed = CorruptionConfig(full=0.5, partial=0.25, replaced=0.25)
    noisy = noisy_blocks(
        torch.tensor(tokens), len(tokens), starts, 5, mixed, TOY_SHAPE.vocab_size, g
    )
    targets = with_term(noisy, tokens, [table]).targets
    whole = noisy.masked.view(-1, 5).all(1)[targets.rows // 5]
    assert whole.any() and not whole.all()
    assert (targets.term[~whole] == 0).all() and (targets.term[whole] > 0).any()


def test_the_loss_is_that_of_logits_and_term(table: NgramTable) -> None:
    tokens = text()
    noisy = fully_masked(torch.tensor(tokens), len(tokens), [30, 50], 4)
    noisy = with_term(noisy, tokens, [table])
    student = torch.randn(8, TOY_SHAPE.hidden_size, generator=torch.Generator().manual_seed(2))
    targets = noisy.targets
    logits = BASE.head(student).scatter_add(-1, targets.term_ids, targets.term)
    expected = torch.nn.functional.cross_entropy(logits, targets.ids)
    student.requires_grad_()
    parts = backward(student, torch.zeros(90, TOY_SHAPE.hidden_size), BASE.head, targets, 0.0)
    assert parts.loss == pytest.approx(float(expected), rel=1e-5)
    (gradient,) = torch.autograd.grad(
        torch.nn.functional.cross_entropy(
            BASE.head(again := student.detach().requires_grad_()).scatter_add(
                -1, targets.term_ids, targets.term
            ),
            targets.ids,
        ),
        again,
    )
    assert student.grad is not None
    torch.testing.assert_close(student.grad, gradient)


def made(config: TrainConfig, table: NgramTable) -> list[Prepared]:
    documents = SequenceStream(lambda epoch: toy_documents(epoch, 6), Letters(), config)
    preparer = Preparer(config, TOY_SHAPE.vocab_size, 1, (table,))
    return list(itertools.islice(preparer.ahead(documents.stream(0)), 12))


def test_workers_prepare_what_one_process_would(table: NgramTable) -> None:
    alone, ahead = made(CONFIG, table), made(replace(CONFIG, workers=2), table)
    assert [one.number for one in alone] == [one.number for one in ahead]
    for one, other in zip(alone, ahead, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        pairs = zip(one.noisy.targets.parts(), other.noisy.targets.parts(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert one.noisy.starts == other.noisy.starts
