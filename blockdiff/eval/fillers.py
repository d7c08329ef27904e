"""What can fill a hole in an evaluation: our engine, its floor, its ceiling, and the rival."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from blockdiff.config import DecodingConfig
from blockdiff.errors import BlockdiffError, NotInstalled
from blockdiff.types import Finished, Hole, InfillRequest
from blockdiff.weights import store


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion; `forwards` is 0 where nothing was generated."""

    text: str
    tokens: int
    forwards: int
    seconds: float


class Filler(Protocol):
    """Fills the gap between a prefix and a suffix."""

    def __call__(self, prefix: str, suffix: str, reference: str) -> Completion:
        """`reference` is the true middle; only the ceiling looks at it."""
        ...


class Infills(Protocol):
    """What is needed of an engine."""

    def infill(self, request: InfillRequest) -> Any: ...


def floor(prefix: str, suffix: str, reference: str) -> Completion:
    """The empty completion: what passes although nothing was written."""
    return Completion("", 0, 0, 0.0)


def ceiling(prefix: str, suffix: str, reference: str) -> Completion:
    """The reference itself: what the tests and the sandbox let pass at best."""
    return Completion(reference, 0, 0, 0.0)


def ours(engine: Infills, decoding: DecodingConfig, context_tokens: int) -> Filler:
    """Our engine, the length unknown to it."""

    def fill(prefix: str, suffix: str, reference: str) -> Completion:
        hole = Hole(len(prefix), len(prefix))
        request = InfillRequest(
            document=prefix + suffix,
            hole=hole,
            path="solution.py",
            decoding=decoding,
            context_tokens=context_tokens,
        )
        for event in engine.infill(request):
            if isinstance(event, Finished):
                return Completion(event.text, event.tokens, event.forwards, event.elapsed_ms / 1e3)
        raise BlockdiffError("the engine ended without a result")

    return fill


def llama_cpp(model: str, max_tokens: int, threads: int = 2) -> Filler:
    """llama.cpp on the same GGUF file: plain PSM prompt, greedy, nothing trimmed.

    Raises NotInstalled without the `bench` extra.
    """
    from blockdiff.model.load.tokenizer import Tokenizer

    server = llama_cpp_server(model, threads)
    files = store.resolve(model)
    tokenizer = Tokenizer.cached(files.base, files.tokenizer)
    special = tokenizer.special

    def fill(prefix: str, suffix: str, reference: str) -> Completion:
        prompt = [special.fim_prefix, *tokenizer.encode(prefix)]
        prompt += [special.fim_suffix, *tokenizer.encode(suffix), special.fim_middle]
        answer = complete(
            server.handle_completions,
            {
                "prompt": prompt,
                "max_tokens": max_tokens,
                "temperature": 0.0,
                "top_k": 1,
                "cache_prompt": False,
                "return_tokens": True,
            },
        )
        spent = answer.get("timings", {})
        milliseconds = spent.get("prompt_ms", 0.0) + spent.get("predicted_ms", 0.0)
        # The end token is counted there: for us it costs a forward but is not text.
        forwards = int(spent.get("predicted_n", 0))
        ended = answer["choices"][0]["finish_reason"] == "stop"
        return Completion(answer["content"], forwards - ended, forwards, milliseconds / 1e3)

    return fill


def llama_cpp_server(model: str, threads: int, ngram: tuple[int, int] | None = None) -> Any:
    """llama.cpp on a model's GGUF file, on the CPU. Raises NotInstalled.

    Args:
        ngram: speculate with what followed the same tokens before (`ngram-simple`): tokens that
            have to agree, and tokens of a draft.
    """
    try:
        import xllamacpp
    except ImportError as error:
        hint = "pip install 'blockdiff[bench]'"
        raise NotInstalled("xllamacpp is not installed", hint) from error

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(store.resolve(model).base)
    parameters.n_ctx, parameters.n_parallel, parameters.n_gpu_layers = 4096, 1, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.verbosity = -1
    if ngram is not None:
        kinds, lookup = xllamacpp.common_speculative_type, parameters.speculative.ngram_simple
        parameters.speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        lookup.size_n, lookup.size_m = ngram
    return xllamacpp.Server(parameters)


def complete(handle: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    """One answer of llama.cpp's server, its text under `content`."""
    answer = handle(request)
    if isinstance(answer, (str, bytes)):
        answer = json.loads(answer)
    if not answer.get("choices"):
        raise BlockdiffError(f"llama.cpp failed: {answer}")
    return dict(answer) | {"content": answer["choices"][0]["text"]}
