"""Whose speed is compared: our engine, llama.cpp and transformers on the same weights.

Each writes a fixed number of tokens behind a prompt, cold or on what it has in common with the last
one. All of them are greedy, and go on behind the end token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Protocol

import torch

from blockdiff.bench import llama_server
from blockdiff.bench.scenes import Renaming
from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.sampler import Sampler
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.contexts import resolved
from blockdiff.engine.engine import Engine
from blockdiff.errors import ModelUnsupported
from blockdiff.eval.fillers import complete, llama_cpp_server
from blockdiff.model.load.kinds import Body
from blockdiff.model.load.tensor_names import HUB, sources
from blockdiff.model.transformer import Transformer
from blockdiff.types import no_op
from blockdiff.weights import store

NGRAM = (3, 8)
"""Of llama.cpp's speculation: tokens that have to agree, and tokens of a draft."""


@dataclass(frozen=True, slots=True)
class TimedRun:
    """One generation.

    Attributes:
        context: seconds for the prompt and the first forward's tokens, which its end says.
        writing: for those behind them.
        encoded: tokens of the prompt that were not cached.
        first: tokens that came with the prompt.
    """

    context: float
    writing: float
    encoded: int
    tokens: int
    forwards: int
    first: int = 1

    @property
    def seconds(self) -> float:
        return self.context + self.writing

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / self.forwards

    @property
    def token_seconds(self) -> float:
        """What a token behind the first ones took."""
        return self.writing / max(self.tokens - self.first, 1)


class Writer(Protocol):
    """Writes `tokens` tokens behind a prompt; cold it forgets all context first."""

    def __call__(self, prompt: Sequence[int], tokens: int, *, cold: bool) -> TimedRun: ...


class Ours:
    """Our engine in one mode."""

    def __init__(self, engine: Engine, mode: Mode) -> None:
        self._engine, self._mode = engine, mode

    def __call__(
        self, prompt: Sequence[int], tokens: int, *, cold: bool, heal: str = ""
    ) -> TimedRun:
        """`heal`: text that begins what is written, as behind a prefix that was cut."""
        return self._timed(prompt, tokens, cold, heal)

    def rewrite(self, scene: Renaming) -> TimedRun:
        """Write the answer of a scene whatever the model would say; the drafts are its own.

        The prompt is encoded before.
        """

        def prepare(sampler: Sampler) -> None:
            sampler.original = scene.original
            sampler.constraint = _Dictated(scene.answer)

        self._timed(scene.prompt.tokens, 1, False)
        return self._timed(scene.prompt.tokens, len(scene.answer), False, prepare=prepare)

    def _timed(
        self,
        prompt: Sequence[int],
        tokens: int,
        cold: bool,
        heal: str = "",
        prepare: Callable[[Sampler], None] = no_op,
    ) -> TimedRun:
        engine = self._engine
        if cold:
            engine.forget()
        decoding = resolved(DecodingConfig(mode=self._mode, max_tokens=tokens), engine.drafting)
        began = time.perf_counter()
        with engine.behind(prompt, decoding, heal) as sampler:
            encoded = len(prompt) - sampler.cache.length
            sampler.stop = frozenset()
            prepare(sampler)
            snapshots = sampler.run(prompt)
            first = next(snapshots)
            ready = time.perf_counter()
            for _ in snapshots:
                pass
            done = time.perf_counter()
        came = len(first.settled_prefix)
        return TimedRun(ready - began, done - ready, encoded, tokens, sampler.forwards, came)


class _Dictated:
    """A constraint that leaves one text to be written."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens

    def allowed(self, so_far: Sequence[int]) -> Sequence[int] | None:
        return self._tokens[len(so_far) : len(so_far) + 1]


class LlamaCpp:
    """llama.cpp on the same file, with or without its own n-gram speculation (`ngram-simple`).

    Attributes:
        origin: what it was built from and for.
    """

    def __init__(self, handle: Callable[[dict[str, Any]], Any], origin: Mapping[str, str]) -> None:
        """`handle` is that of a server, for completions."""
        self._handle, self.origin = handle, dict(origin)

    def __call__(self, prompt: Sequence[int], tokens: int, *, cold: bool) -> TimedRun:
        """Timed by the server itself: its transport does not count."""
        answer = complete(
            self._handle,
            {
                "prompt": list(prompt),
                "max_tokens": tokens,
                "temperature": 0.0,
                "top_k": 1,
                "cache_prompt": not cold,
                "ignore_eos": True,
            },
        )
        spent: dict[str, Any] = answer["timings"]
        written = int(spent["predicted_n"])
        return TimedRun(
            context=spent["prompt_ms"] / 1e3,
            writing=spent["predicted_ms"] / 1e3,
            encoded=int(spent["prompt_n"]),
            tokens=written,
            forwards=written - int(spent.get("draft_n_accepted", 0)),
        )


@contextmanager
def llama_cpp(
    model: str,
    threads: int,
    ngram: tuple[int, int] | None = None,
    said: llama_server.Said = no_op,
) -> Iterator[LlamaCpp]:
    """llama.cpp compiled for this processor, as long as the block runs.

    `said` is told what is being done. Raises what `llama_server.built` and `running` do.
    """
    program = llama_server.built(said)
    with llama_server.running(program, store.resolve(model).base, threads, ngram) as server:
        origin = {"build": "native", "version": llama_server.VERSION, "system": server.build()}
        yield LlamaCpp(server.handle_completions, origin)


def llama_cpp_wheel(model: str, threads: int, ngram: tuple[int, int] | None = None) -> LlamaCpp:
    """llama.cpp as its wheel has it. Raises NotInstalled without the `bench` extra."""
    server = llama_cpp_server(model, threads, ngram)
    import xllamacpp

    system = xllamacpp.get_system_info().strip(" |")
    origin = {"build": "wheel", "version": xllamacpp.__version__, "system": system}
    return LlamaCpp(server.handle_completions, origin)


class Transformers:
    """transformers in bfloat16, one token a forward, with its `DynamicCache`.

    The loop is our own, without what `generate` does besides the forwards.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = twin(model)
        self._cache: Any = None
        self._held: list[int] = []

    @classmethod
    def load(cls, model: str) -> Transformers:
        """On the weights of a model by its name, unpacked on first use; its errors are theirs."""
        cpu = torch.device("cpu")
        return cls(Checkpoint.load_base(model, cpu, torch.bfloat16, no_op).transformer)

    @torch.inference_mode()
    def __call__(self, prompt: Sequence[int], tokens: int, *, cold: bool) -> TimedRun:
        from transformers import DynamicCache

        began = time.perf_counter()
        pairs = zip(self._held, prompt[:-1], strict=False)
        shared = 0 if cold else len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        if not shared:
            self._cache = DynamicCache()
        elif surplus := self._cache.get_seq_length() - shared:
            self._cache.crop(-surplus)
        token = self._next(prompt[shared:])
        ready = time.perf_counter()
        for _ in range(tokens - 1):
            token = self._next([token])
        self._held = list(prompt)  # what was written behind it does not count
        return TimedRun(
            ready - began, time.perf_counter() - ready, len(prompt) - shared, tokens, tokens
        )

    def _next(self, tokens: Sequence[int]) -> int:
        """The most likely token behind these; their keys and values stay in the cache."""
        ids = torch.tensor([list(tokens)])
        out = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())


def twin(model: Transformer) -> Any:
    """transformers' own `Qwen2ForCausalLM` over the tensors of our model; nothing is copied.

    Raises ModelUnsupported for a model of another shape.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    shape = model.config
    if shape != replace(
        shape, qkv_bias=True, qk_norm=False, rotary_dim=0, rope_scaling=None, o_bias=False,
        ffn_bias=False, gated_ffn=True, layer_norm=False, sliding_window=0, experts=None,
    ):  # fmt: skip
        raise ModelUnsupported(
            "only models of Qwen2's shape are compared with transformers",
            "leave that rival out: --no-transformers",
        )
    settings: dict[str, Any] = dict(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_size,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        tie_word_embeddings=shape.tied_embeddings,
        use_sliding_window=False,
    )
    config = Qwen2Config(**settings)
    with torch.device("meta"):
        theirs = Qwen2ForCausalLM(config)
    rows = {name: p.shape[0] for name, p in theirs.named_parameters()}
    ours = dict(model.named_parameters())
    state: dict[str, torch.Tensor] = {}
    for name, parts in sources(shape, HUB[Body.QWEN2]).items():
        pieces = torch.split(ours[name].detach(), [rows[part] for part in parts])
        state |= dict(zip(parts, pieces, strict=True))
    if shape.tied_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state, assign=True)
    theirs.tie_weights()
    theirs.model.rotary_emb = Qwen2RotaryEmbedding(config=config)  # its tables are no parameters
    theirs.train(False)
    return theirs
