"""What is compared with others is what is said, over a tiny checkpoint; no time is asserted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from blockdiff.bench import ceilings, peer_report, peers, rivals, scenes
from blockdiff.bench.rivals import TimedRun
from blockdiff.cli.bench_tables import completions, machine, rewrite, targets
from blockdiff.config import Mode
from blockdiff.engine.engine import Engine
from blockdiff.errors import ModelUnsupported
from blockdiff.model import masks
from tests.unit import tiny
from tests.unit.tiny_checkpoint import checkpoint, tokenizer

BYTES = scenes.Size(tokens=(60, 200), changed=(2, 40))  # of the tiny tokenizer
RUN = TimedRun(context=2.0, writing=1.0, encoded=50, tokens=6, forwards=3)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """With room for a conversation of which every byte is a token."""
    point = checkpoint()
    shape = replace(point.model.config, max_positions=4096)
    assert point.drafting.adapter is not None
    drafter = tiny.adapter(shape, ranks=point.drafting.adapter)
    return Engine(replace(point, model=tiny.transformer(shape), adapter=drafter))


@pytest.mark.parametrize("mode", [Mode.AR, Mode.VERIFY])
def test_clients_who_write_at_once_write_what_each_writes_alone(mode: Mode) -> None:
    engine = Engine(checkpoint())
    found = scenes.places(engine.tokenizer, 3, 64, seed=0)
    report = peers.clients(engine, found, mode, 6)
    assert report["clients"] == report["same"] == 3
    assert report["throughput"]["low"] > 0


# --- scenes -------------------------------------------------------------------------------------


def test_places_are_code_that_differs() -> None:
    found = scenes.places(tokenizer(), 4, 64, seed=0)
    assert len({place.prompt for place in found}) == 4
    assert all(len(place.prompt) == 64 for place in found)


def test_what_is_typed_ends_the_prefix_of_others_and_begins_our_middle() -> None:
    words = tokenizer()
    for place in scenes.places(words, 4, 64, seed=0):
        typed = words.decode(place.typed)
        assert len(typed.lstrip()) == 5
        assert words.decode(place.kept) + place.heal == typed
        assert words.decode(place.behind) == words.decode(place.prompt) + words.decode(place.kept)
        before = place.before(words.special)
        suffix_mark = words.special.fim_suffix
        prefix, after = place.prompt[: place.prompt.index(suffix_mark)], before.index(suffix_mark)
        assert before[:after] == (*prefix, *place.typed)
        assert before[after:] == place.prompt[len(prefix) :]


def test_a_renaming_changes_few_tokens() -> None:
    words = tokenizer()
    found = scenes.renamings(words, 2, 512, seed=0, size=BYTES)
    assert len({scene.request.document for scene in found}) == 2
    for scene in found:
        document, span = scene.request.document, scene.request.span
        answer = words.decode(scene.answer).removeprefix(scene.prompt.heal)
        start = document.index(document[span.start : span.end].strip(), span.start)
        assert document[:start] + answer + document[span.end :] == scene.expected
        old = words.decode(scene.original).removeprefix(scene.prompt.heal)
        assert old == document[span.start : span.end].strip()
        assert 2 <= scenes.changed(words.encode(old), words.encode(answer)) <= 40


def test_only_renamings_of_the_size_asked_for_are_taken() -> None:
    size, text = scenes.Size(), list(range(64))
    assert size.fits(text, [*text[:61], 0, 0, 0])
    assert not size.fits(text, [*text[:62], 0, 0]), "two change"
    assert not size.fits(text, [*text[:61], 0, 0, 0, 0]), "another length"
    assert not size.fits(text[:50], [*text[:47], 0, 0, 0]), "too short"


def test_texts_of_other_lengths_are_not_compared_token_by_token() -> None:
    assert scenes.changed([1, 2, 3], [1, 2]) == -1
    assert scenes.changed([1, 2, 3], [1, 5, 4]) == 2


def test_keystrokes_grow_a_line_by_one_character() -> None:
    for requests in scenes.keystrokes(3, 128, seed=0):
        typed = [request.prefix.rpartition("\n")[2] for request in requests]
        assert typed[0].strip() == "" and len(requests) == 6
        assert [len(text) - len(typed[0]) for text in typed] == [0, 1, 2, 3, 4, 5]
        assert len({request.suffix for request in requests}) == 1


# --- who writes ---------------------------------------------------------------------------------


def test_a_cold_run_encodes_its_prompt_and_a_warm_one_what_was_typed(engine: Engine) -> None:
    place = scenes.places(engine.tokenizer, 1, 64, seed=0)[0]
    writer = rivals.Ours(engine, Mode.VERIFY)
    cold = writer(place.prompt, 6, cold=True)
    warm = writer(place.behind, 6, cold=False, heal=place.heal)
    assert (cold.encoded, cold.tokens) == (64, 6)
    assert warm.encoded == 1 + len(place.kept)
    assert 1 <= cold.tokens_per_forward <= 6


def test_a_dictated_rewrite_writes_the_answer_in_few_forwards(engine: Engine) -> None:
    """A random model would write anything else; the original holds the drafts."""
    scene = scenes.renamings(engine.tokenizer, 1, 256, seed=0, size=BYTES)[0]
    run = rivals.Ours(engine, Mode.VERIFY).rewrite(scene)
    assert run.tokens == len(scene.answer)
    assert run.forwards < len(scene.answer) // 2
    assert rivals.Ours(engine, Mode.AR).rewrite(scene).forwards == len(scene.answer)


def test_the_twin_of_transformers_is_our_model() -> None:
    model = checkpoint().model
    tokens = torch.randint(0, 200, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model(tokens, torch.arange(24)[None], masks.causal(0, 24))
        theirs = rivals.twin(model)(tokens).logits
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() <= 1e-4


def test_a_model_of_another_shape_has_no_twin() -> None:
    with pytest.raises(ModelUnsupported, match="Qwen2"):
        rivals.twin(tiny.transformer(tiny.FAMILIES["qwen3"]))


def test_transformers_encodes_what_is_new() -> None:
    writer = rivals.Transformers(checkpoint().model)
    prompt = list(range(40))
    assert writer(prompt, 4, cold=True).encoded == 40
    assert writer([*prompt[:30], 7, 8], 4, cold=False).encoded == 2
    again = writer(prompt, 4, cold=False)
    assert again.encoded == 10
    assert writer(prompt, 4, cold=True).encoded == 40


# --- ceilings -----------------------------------------------------------------------------------


def test_what_a_forward_reads_and_computes_is_counted_once() -> None:
    model = checkpoint().model
    blocks = sum(p.numel() for n, p in model.blocks.named_parameters() if p.dim() == 2)
    assert ceilings.operations(model) == 2 * blocks
    assert ceilings.weight_bytes(model) == 4 * (blocks + model.head.weight.numel())


def test_shares_are_parts_of_the_ceilings(engine: Engine) -> None:
    limits = {"read_gb_per_s": 10.0, "int8_gop_per_s": 1.0, "bfloat16_gop_per_s": 2.0}
    found = ceilings.shares(engine, limits, {1: 2.0, 8: 4.0}, context_s=0.5)
    size = found["weight_bytes"]
    assert found["of_read_rate"]["1"] == pytest.approx(size / 0.002 / 1e10, abs=1e-4)
    assert found["of_read_rate"]["8"] == pytest.approx(size / 0.004 / 1e10, abs=1e-4)
    expected = found["operations_per_token"] / 0.5 / 2e9
    assert found["context_of_bfloat16_rate"] == pytest.approx(expected, abs=1e-4)


def test_forwards_leave_the_context_as_it_was(engine: Engine) -> None:
    prompt = scenes.places(engine.tokenizer, 1, 64, seed=0)[0].prompt
    times = ceilings.forward_ms(engine, prompt, 2)
    assert {width: len(ms) for width, ms in times.items()} == dict.fromkeys(ceilings.WIDTHS, 2)
    assert rivals.Ours(engine, Mode.AR)(prompt, 2, cold=False).encoded == 1


# --- the report ---------------------------------------------------------------------------------


def test_ratios_are_taken_place_by_place() -> None:
    half = TimedRun(context=1.0, writing=0.5, encoded=50, tokens=6, forwards=6)
    slow = TimedRun(context=20.0, writing=10.0, encoded=50, tokens=6, forwards=2)
    slower = TimedRun(context=40.0, writing=20.0, encoded=50, tokens=6, forwards=6)
    runs = [{"verify": half, "llama.cpp": RUN}, {"verify": slow, "llama.cpp": slower}]
    found = peer_report.compared(runs, "verify")
    assert found["verify"]["ratio"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert found["llama.cpp"]["ratio"]["median"] == 1.0
    assert found["llama.cpp"]["ours_over"]["median"] == 0.5
    assert found["verify"]["tokens_per_forward"] == {"median": 2.0, "low": 1.0, "high": 3.0}


class Parrot:
    """A rival of known speed."""

    def __call__(self, prompt: Sequence[int], tokens: int, *, cold: bool) -> TimedRun:
        return TimedRun(1.0, 0.1 * (tokens - 1), len(prompt) if cold else 9, tokens, tokens)


@pytest.fixture(scope="module")
def report(engine: Engine) -> dict[str, Any]:
    others = {"llama.cpp": Parrot(), "transformers": Parrot()}
    scope = peers.Scope(2, (48, 64), tokens=4, window=160, rewrites=1, rewrite=BYTES, clients=2)
    steps: list[tuple[int, int]] = []
    made = peers.measure(
        engine,
        others,
        scope,
        lambda done, total: steps.append((done, total)),
        lambda: ceilings.measure(1 << 20, [(32, 64, 64)]),
    )
    assert [done for done, _ in steps] == list(range(steps[-1][1] + 1)), "the bar ends at its end"
    return {"threads": 1, **made}


def test_the_report_covers_everybody_at_every_context(report: dict[str, Any]) -> None:
    for context in ("48", "64"):
        for kind in ("cold", "warm"):
            rows = report["completions"][context][kind]
            assert set(rows) == {"ar", "verify", "diffusion", "llama.cpp", "transformers"}
            assert rows["transformers"]["ratio"]["median"] == 1.0
        cold = report["completions"][context]["cold"]["verify"]
        assert cold["encoded"]["median"] == int(context)
    assert report["llama_cpp_token_ms"]["median"] == pytest.approx(100)
    assert report["rewrite"]["forwards"]["ours"]["median"] < report["rewrite"]["tokens"]["median"]
    assert set(report["together"]) == {"ar", "verify"}
    json.dumps(report)


def test_typing_in_a_window_encodes_what_was_typed_and_little_more(report: dict[str, Any]) -> None:
    typing = report["typing"]
    assert 80 < typing["window"]["median"] <= 160
    assert typing["at_once"]["high"] <= 16
    assert typing["at_once"]["median"] <= typing["one_by_one"]["median"] <= 5 * 16


def test_the_ratios_are_the_medians_of_the_report(report: dict[str, Any]) -> None:
    found = report["ratios"]
    for context in ("48", "64"):
        for kind in ("cold", "warm"):
            rows = report["completions"][context][kind]
            assert found[f"{kind}_{context}"] == rows["verify"]["ratio"]["median"]
            assert found[f"{kind}_{context}_over_transformers"] > 0
    assert found["forward_of_8"] == pytest.approx(
        report["forward_ms"]["8"]["median"] / report["llama_cpp_token_ms"]["median"], abs=1e-4
    )
    aims = report["targets"]
    assert "cold_512" not in aims, "that was not measured"
    assert aims["encoded_after_typing"]["met"] is True
    assert aims["together"]["met"] == (aims["together"]["value"] >= 2.5)


def test_the_tables_name_everybody(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as capture:
        for table in (completions, rewrite, machine, targets):
            console.print(table(report))
    text = capture.get()
    for name in ("verify", "transformers", "llama.cpp", "16 positions", "encoded_after_typing"):
        assert name in text
