"""llama.cpp's own server: `/infill`, which makes the marks of the model itself.

Text of a document cannot become a mark there. Of a prefix it takes three quarters of its batch
(`-b`, 2048 tokens) at most, of a suffix one, and cuts the rest off without a word.
"""

from __future__ import annotations

from typing import Any

from blockdiff.client.remote.around import Around, Instructed
from blockdiff.client.remote.calls import Chunk, HttpCall, Wire, choice, finish_of, plain, sampling
from blockdiff.client.remote.openai import STREAM, chat

_MEASURED = 64  # tokens: fewer do not tell how fast context is encoded


class LlamaCppWire(Wire):
    __slots__ = ()

    def fill(self, around: Around, model: str) -> HttpCall:
        return self._infill(around, model, around.most_tokens, stream=True)

    def rewrite(self, asked: Instructed, model: str) -> HttpCall:
        return chat(self.options.at("/v1/chat/completions"), asked, model, **STREAM)

    def warm(self, around: Around, model: str) -> HttpCall | None:
        return self._infill(around, model, 0, stream=False)

    def models(self) -> HttpCall:
        return HttpCall(self.options.at("/v1/models"))

    def read(self, value: dict[str, Any]) -> Chunk:
        if "content" not in value:
            return choice(value)
        ends, spent = bool(value.get("stop")), value.get("timings") or {}
        measured = (spent.get("prompt_n") or 0) >= _MEASURED
        return Chunk(
            text=plain(value["content"]),
            finish=finish_of(value.get("stop_type") or "stop") if ends else None,
            model=str(value.get("model") or ""),
            tokens=int(value.get("tokens_predicted") or 0),
            context_tokens=int(value.get("tokens_evaluated") or 0),
            cached_tokens=int(spent.get("cache_n") or 0),
            speed=float(spent.get("prompt_per_second") or 0) if measured else 0.0,
        )

    def _infill(self, around: Around, model: str, tokens: int, stream: bool) -> HttpCall:
        body: dict[str, Any] = {
            "input_prefix": around.before,
            "prompt": around.begun,
            "input_suffix": around.after,
            "input_extra": [{"filename": path, "text": text} for path, text in around.snippets],
            "n_predict": tokens,
            "cache_prompt": True,
            "stream": stream,
            **sampling(around.decoding),
        }
        return HttpCall(self.options.at("/infill"), {**body, "model": model} if model else body)
