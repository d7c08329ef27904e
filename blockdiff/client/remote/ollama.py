"""Ollama: `/api/generate`, with `suffix` for models whose template has a place for it.

A prompt longer than the context that a model was loaded with is cut at its start without a word,
and an empty suffix makes a conversation of the request.
"""

from __future__ import annotations

from typing import Any

from blockdiff.client.remote.around import Around, Instructed
from blockdiff.client.remote.calls import (
    Chunk,
    HttpCall,
    Wire,
    finish_of,
    messages,
    plain,
    sampling,
)
from blockdiff.client.remote.commented import with_snippets
from blockdiff.client.remote.fim import FAMILIES

_MEASURED = 0.25  # seconds: in less most of the prompt was cached, and counts all the same
_LEAST_CONTEXT = 8192  # tokens; another number loads the model anew


class OllamaWire(Wire):
    __slots__ = ()

    def fill(self, around: Around, model: str) -> HttpCall:
        return self._generate(around, model, around.most_tokens, stream=True)

    def rewrite(self, asked: Instructed, model: str) -> HttpCall:
        options = _options(asked.around, asked.around.most_tokens)
        body = {"model": model, "messages": messages(asked), "stream": True, "options": options}
        return HttpCall(self.options.at("/api/chat"), body)

    def warm(self, around: Around, model: str) -> HttpCall | None:
        # it takes 0 tokens for no limit
        return self._generate(around, model, 1, stream=False) if self.options.is_here else None

    def models(self) -> HttpCall:
        return HttpCall(self.options.at("/api/tags"))

    def read(self, value: dict[str, Any]) -> Chunk:
        said = value["message"]["content"] if "message" in value else value["response"]
        seconds = (value.get("prompt_eval_duration") or 0) / 1e9
        context = int(value.get("prompt_eval_count") or 0)
        return Chunk(
            text=plain(said),
            finish=finish_of(value.get("done_reason") or "stop") if value.get("done") else None,
            model=str(value.get("model") or ""),
            tokens=int(value.get("eval_count") or 0),
            context_tokens=context,
            speed=context / seconds if seconds > _MEASURED else 0.0,
        )

    def _generate(self, around: Around, model: str, tokens: int, stream: bool) -> HttpCall:
        prefix = around.before + around.begun
        body: dict[str, Any] = {"model": model, "stream": stream}
        body["options"] = _options(around, tokens)
        url = self.options.at("/api/generate")
        if (family := FAMILIES.get(self.options.fim)) is None:
            body |= {"prompt": with_snippets(around, prefix), "suffix": around.after or "\n"}
            return HttpCall(url, body)
        body |= {
            "prompt": family.prompt(prefix, around.after, around.path, around.snippets), "raw": True
        }  # fmt: skip
        return HttpCall(url, body, family.marks, self.options.fim)


def _options(around: Around, tokens: int) -> dict[str, Any]:
    needed, context = around.tokens * 5 // 4 + around.most_tokens, _LEAST_CONTEXT
    while context < needed:
        context *= 2
    return {"num_predict": tokens, "num_ctx": context, **sampling(around.decoding)}
