"""The benchmark of replayed forwards compares what it says it does."""

from __future__ import annotations

import json
import re

import pytest
from tiny import config

from tests.bench import graphs


def test_both_ways_give_the_same_logits_in_every_kind_of_forward(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shape = config(vocab_size=64, hidden_size=32, head_dim=16, n_heads=2, ffn_size=64)
    graphs.main(["--device", "cpu", "--past", "20", "150", "--rounds", "2"], shape)
    *lines, last = capsys.readouterr().out.splitlines()
    apart = [float(found) for line in lines for found in re.findall(r"logits (\S+) apart", line)]
    assert len(apart) == 12 and max(apart) < 0.2  # bfloat16, of logits up to about 3
    result = json.loads(last)
    assert len(result["forwards"]) == 12 and len(result["products"]) == 48
    assert "int8, verify, 25 rows, 150 keys" in result["forwards"]
