"""`/v1/completions` and `/v1/chat/completions`: vLLM, SGLang, LM Studio, DeepSeek, llama.cpp.

Of `suffix` vLLM says that it is not supported, and llama.cpp nothing: it leaves it unread. So the
prompt carries the marks of the model's family, and `suffix` is for those who ask for it.
"""

from __future__ import annotations

from typing import Any

from blockdiff.client.remote.around import Around, Instructed
from blockdiff.client.remote.calls import HttpCall, Wire, messages, sampling
from blockdiff.client.remote.commented import with_snippets
from blockdiff.client.remote.fim import FAMILIES, Fim, fim_of
from blockdiff.errors import ModelUnsupported

_WITH_SUFFIX = ("https://api.openai.com", "https://api.deepseek.com")
_MOST_STOPS = 4  # that such a server takes
STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


class OpenAIWire(Wire):
    __slots__ = ()

    def fill(self, around: Around, model: str) -> HttpCall:
        body: dict[str, Any] = {"model": model, "max_tokens": around.most_tokens, **STREAM}
        body |= sampling(around.decoding)
        fim = self._fim(model)
        url, prefix = self.options.under("/completions"), around.before + around.begun
        if (family := FAMILIES.get(fim)) is None:
            body |= {"prompt": with_snippets(around, prefix), "suffix": around.after}
            return HttpCall(url, body)
        body["prompt"] = family.prompt(prefix, around.after, around.path, around.snippets)
        body["stop"] = [*family.ends, family.prefix, family.suffix][:_MOST_STOPS]
        return HttpCall(url, body, family.marks, fim)

    def _fim(self, model: str) -> Fim:
        if self.options.fim is not Fim.AUTO:
            return self.options.fim
        if (found := fim_of(model)) is Fim.SUFFIX and self.options.origin not in _WITH_SUFFIX:
            raise ModelUnsupported(
                f"the name of the model {model} does not tell how it knows a hole marked",
                "set engine.fim (--fim) to its family, or to suffix if the server reads that",
            )
        return found

    def rewrite(self, asked: Instructed, model: str) -> HttpCall:
        return chat(self.options.under("/chat/completions"), asked, model, **STREAM)


def chat(url: str, asked: Instructed, model: str, seed: str = "seed", **more: Any) -> HttpCall:
    """A request in words to an endpoint of that kind; `more` fields than all of them know."""
    body = {"model": model, "messages": messages(asked), "max_tokens": asked.around.most_tokens}
    return HttpCall(url, {**body, "stream": True, **sampling(asked.around.decoding, seed), **more})
