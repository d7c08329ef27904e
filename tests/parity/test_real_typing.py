"""With the real vocabulary, too, typing costs what is typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockdiff.config import DecodingConfig
from blockdiff.engine.engine import Engine
from blockdiff.types import Finished, Hole, InfillRequest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "intervals.py"


@pytest.mark.model
def test_after_five_typed_characters_hardly_any_context_is_encoded() -> None:
    engine, document = Engine.load(), EXAMPLE.read_text("utf-8")
    assert engine.context_speed > 0.0
    at = document.index("\n", len(document) // 2) + 1
    decoding = DecodingConfig(max_tokens=2)

    def ask(typed: str) -> Finished:
        hole = Hole(at + len(typed), at + len(typed))
        text = document[:at] + typed + "\n" + document[at:]
        request = InfillRequest(text, hole, "a.py", decoding=decoding, context_tokens=256)
        *_, end = engine.infill(request)
        assert isinstance(end, Finished)
        return end

    cold = ask("    resul")
    assert cold.cached_tokens == 0 and cold.context_tokens > 128
    warm = ask("    result = m")
    assert warm.context_tokens - warm.cached_tokens < 16
