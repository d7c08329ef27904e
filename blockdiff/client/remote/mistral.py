"""Mistral's API: `/v1/fim/completions` of Codestral, and its chat for rewriting."""

from __future__ import annotations

from typing import Any

from blockdiff.client.remote.around import Around, Instructed
from blockdiff.client.remote.calls import HttpCall, Wire, sampling
from blockdiff.client.remote.openai import chat


class MistralWire(Wire):
    __slots__ = ()

    def fill(self, around: Around, model: str) -> HttpCall:
        prefix = around.before + around.begun
        if around.snippets:  # as Codestral saw the files of a repository
            files = [*around.snippets, (around.path, prefix)]
            prefix = "\n\n".join(f"+++++ {path}\n{text}" for path, text in files)
        body: dict[str, Any] = {
            "model": model,
            "prompt": prefix,
            "suffix": around.after,
            "max_tokens": around.most_tokens,
            "stream": True,
            **sampling(around.decoding, "random_seed"),
        }
        return HttpCall(self.options.under("/fim/completions"), body)

    def rewrite(self, asked: Instructed, model: str) -> HttpCall:
        return chat(self.options.under("/chat/completions"), asked, model, "random_seed")
