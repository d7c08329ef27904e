"""Tables of counted n-grams: what they say, and what becomes of damaged ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockdiff.diffusion.ngrams import FLOOR, STEP, NgramTable, hash_of, hashes
from blockdiff.errors import ModelCorrupt
from blockdiff.train.ngrams import count, stream


def chances(table: NgramTable, *context: int) -> dict[int, float]:
    tokens, above = table.behind(context)
    return {t: math.exp(a + FLOOR) for t, a in zip(tokens, above, strict=True)}


def test_what_is_counted_is_likely() -> None:
    table = count(stream([[1, 2, 3]] * 6 + [[1, 2, 4]] * 2), vocab_size=9, entries=99)
    said = chances(table, 1, 2)
    assert said[3] > said[4] > 0.0 and said[3] == pytest.approx(0.7, abs=0.15)
    assert chances(table, 7) == {} == chances(table)
    assert max(chances(table, 8, 2).items(), key=lambda kv: kv[1])[0] == 3, "the shorter context"


def test_a_document_counts_once_and_no_ngram_spans_two() -> None:
    often = [5, 6] * 20
    assert chances(count(stream([often, [1]]), vocab_size=9, entries=99), 5) == {}
    every = count(stream([often, [1]]), vocab_size=9, entries=99, per_document=False)
    assert 6 in chances(every, 5)
    assert chances(count(stream([[1, 2], [3, 4]] * 3), vocab_size=9, entries=99), 2) == {}


def test_the_ngrams_that_say_most_are_kept() -> None:
    documents = [[1, 2, 3]] * 50 + [[4, 5, 6]] * 2
    table = count(stream(documents), vocab_size=9, entries=2)
    assert len(table.entries) == 2
    assert chances(table, 1) and not chances(table, 4)


def test_nothing_to_count_is_an_empty_table() -> None:
    for documents in ([], [[]], [[1]], [[1, 2]]):
        table = count(stream(documents), vocab_size=9, entries=9)
        assert not len(table.entries) and table.behind([1, 2]) == ([], [])


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=3))
def test_one_hash_is_as_many_hashes(context: list[int]) -> None:
    assert hash_of(context) == int(hashes(np.array([context]))[0])


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = count(stream([[1, 2, 3, 1, 2, 4]] * 3), vocab_size=9, entries=99)
    path = tmp_path / "new" / "table.safetensors"
    table.save(path)
    again = NgramTable.load(path, 9)
    for context in ([1, 2], [2], [3, 1], [9]):
        assert again.behind(context) == table.behind(context)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[: len(data) // 2], "table.safetensors"),
        (lambda data: b"", "table.safetensors"),
        (lambda data: data.replace(b"blockdiff-ngrams", b"somebody-ngrams!"), "no table"),
        (lambda data: data.replace(b'"vocab_size":"9"', b'"vocab_size":"8"'), "8 tokens"),
        (lambda data: data.replace(b'"entries"', b'"antries"'), "table.safetensors"),
    ],
    ids=["cut short", "empty", "another format", "another vocabulary", "another name"],
)
def test_a_damaged_table_is_a_typed_error(damage, said: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "table.safetensors"
    count(stream([[1, 2, 3]] * 3), vocab_size=9, entries=99).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelCorrupt, match=said):
        NgramTable.load(path, 9)


def test_more_tokens_than_an_entry_can_name_are_refused() -> None:
    with pytest.raises(ValueError, match="bits"):
        count(stream([[1, 2]] * 3), vocab_size=1 << 19, entries=9)


def test_values_are_within_a_step() -> None:
    table = count(stream([[1, 2]] * 3 + [[1, 3]] * 9), vocab_size=9, entries=99)
    for token, seen in ((2, 3), (3, 9)):
        exact = math.log((seen - 0.5) / 12 + 0.5 * 2 / 12 / 9)
        assert math.log(chances(table, 1)[token]) == pytest.approx(exact, abs=STEP / 2 + 1e-6)
