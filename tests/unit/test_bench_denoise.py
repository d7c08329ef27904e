"""The benchmark of a denoising step compares what it says it does."""

from __future__ import annotations

import pytest

from tests.bench import denoise


def test_both_sides_fill_the_hole_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """`report` itself holds the texts of both against each other, in float32."""
    shape = denoise.SHAPE | {
        "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "initializer_range": 0.2,
    }  # fmt: skip
    denoise.main(["--canvas", "40", "--hole", "8", "--steps", "4", "--rounds", "1"], shape)
    lines = [line for line in capsys.readouterr().out.splitlines() if "ms a step" in line]
    names = [tuple(line[:21].replace(",", "").split()) for line in lines]
    assert names == [
        ("float32", "reference"), ("float32", "ours"),
        ("bfloat16", "reference"), ("bfloat16", "ours"), ("bfloat16", "ours", "int8"),
    ]  # fmt: skip
