"""A run learns, stops and goes on as if nothing had happened, alone or in company."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import (
    TOY_SHAPE,
    Letters,
    adapter,
    forward,
    toy_adapter,
    toy_base,
    toy_documents,
    transformer,
)

from blockdiff.config import Layout
from blockdiff.errors import InvalidRequest, ModelCorrupt, ModelUnsupported
from blockdiff.model import masks
from blockdiff.model.config import AdapterConfig
from blockdiff.model.layer import Gate
from blockdiff.model.load.from_folder import DraftingConfig, load_adapter
from blockdiff.model.transformer import Transformer
from blockdiff.train.adapt import cut_to_ranks, drafting_config, export_adapter, new_adapter
from blockdiff.train.config import TrainConfig
from blockdiff.train.loop import RunState, SequenceStream, Trainer
from blockdiff.train.loss import LossParts
from blockdiff.train.measure import measure_drafts
from blockdiff.train.sequences import Sequence, SequenceConfig

RANKS = AdapterConfig({"qkv": 4, "o": 4, "gate_up": 4, "down": 4}, first_layer=1)
CONFIG = TrainConfig(
    block_sizes=(3, 5),
    noisy_positions=30,
    learning_rate=5e-3,
    warmup=3,
    max_targets=240,
    sequence=SequenceConfig(length=96, infill_share=0.3, padding=5),
)


def no_stop() -> bool:
    return False


def ignore(state: RunState, parts: LossParts, rate: float) -> None:
    """An `on_step` that does not look."""


def trainer(
    folder: Path,
    config: TrainConfig = CONFIG,
    model: Transformer | None = None,
    ranks: AdapterConfig = RANKS,
) -> Trainer:
    model = model or transformer(TOY_SHAPE, seed=1)
    documents = SequenceStream(lambda epoch: toy_documents(epoch, 5), Letters(), config)
    held_out = [sequence for _, sequence in itertools.islice(documents.stream(0), 2)]
    drafter = new_adapter(model, ranks, config.seed)
    return Trainer(model, drafter, documents, held_out, config, folder)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    """Everything that training changes: the adapter and what the optimizer remembers."""
    found = {}
    for name, parameter in run.adapter.named_parameters():
        found[name] = parameter.detach().clone()
        for key, value in run.optimizer.state[parameter].items():
            found[f"{name}.{key}"] = value.clone()
    return found


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every line of the log that is a step."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "step"]


# --- learning ----------------------------------------------------------------------------------


def test_a_run_lowers_the_loss_and_lifts_the_drafts(tmp_path: Path) -> None:
    plain = SequenceConfig(length=64, infill_share=0.0)
    config = replace(
        CONFIG, max_targets=6000, noisy_positions=60, learning_rate=1e-2, sequence=plain
    )
    ranks = AdapterConfig({"qkv": 8, "o": 8, "gate_up": 8, "down": 8})
    run = trainer(tmp_path, config, toy_base(), ranks)
    before = run.measure()
    run.run(ignore, no_stop)
    after = run.measure()
    curve = [loss for _, loss in losses(tmp_path)]
    assert sum(curve[-10:]) < 0.7 * sum(curve[:10]), curve
    assert after.bits_per_byte < before.bits_per_byte
    assert sum(after.accuracy) > sum(before.accuracy) + 0.5


def test_the_base_is_never_touched(tmp_path: Path) -> None:
    model = transformer(TOY_SHAPE, seed=1)
    before = [p.clone() for p in model.parameters()]
    run = trainer(tmp_path, model=model)
    fresh = [p.detach().clone() for p in run.parameters]
    run.run(ignore, no_stop)
    assert all(map(torch.equal, before, model.parameters()))
    assert all(p.grad is None for p in model.parameters())
    assert not any(map(torch.equal, fresh, run.parameters)), "every part of the adapter learns"


def test_the_budget_of_targets_ends_the_run_and_drives_the_learning_rate(tmp_path: Path) -> None:
    rates: list[tuple[float, float]] = []
    seen = [0]
    run = trainer(tmp_path)

    def on_step(state: RunState, parts: LossParts, rate: float) -> None:
        share = seen[-1] / CONFIG.max_targets
        seen.append(state.targets)
        rates.append((share, run.optimizer.param_groups[0]["lr"] / CONFIG.learning_rate))

    state = run.run(on_step, no_stop)
    assert seen[-2] < CONFIG.max_targets <= state.targets == seen[-1]
    for step, (share, rate) in enumerate(rates):
        warm = min(1.0, (step + 1) / CONFIG.warmup)
        assert rate == pytest.approx(warm * max(0.05, min(1.0, 3.0 * (1.0 - share))))
    assert rates[0][1] < 0.5
    assert max(rate for _, rate in rates) == 1.0
    assert rates[-1][1] < 0.5


def test_minutes_are_a_budget_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(CONFIG, max_targets=0, minutes=1e-4))
    state = run.run(ignore, no_stop)
    assert state.step >= 1
    assert state.seconds >= 6e-3


def test_several_sequences_a_step_are_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """The first step of `accumulate=3` against three first steps of one sequence each."""

    def first_gradients(skip: int, accumulate: int) -> list[torch.Tensor]:
        config = replace(CONFIG, accumulate=accumulate, clip=1e9, max_targets=1)
        run = trainer(tmp_path / f"{skip}-{accumulate}", config)
        run.state.documents = skip
        run.run(ignore, no_stop)
        return [p.grad.clone() for p in run.parameters if p.grad is not None]

    # sequences are counted by their document: each of the first three makes one
    together = first_gradients(0, 3)
    apart = [first_gradients(skip, 1) for skip in range(3)]
    for whole, *parts in zip(together, *apart, strict=True):
        assert torch.allclose(whole, sum(parts) / 3, atol=1e-7)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_gradients_are_clipped_to_the_limit(accumulate: int, tmp_path: Path) -> None:
    config = replace(CONFIG, accumulate=accumulate, clip=1e-3, max_targets=1)
    run = trainer(tmp_path, config)
    run.run(ignore, no_stop)
    norm = torch.stack([p.grad.norm() for p in run.parameters if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)


# --- stopping and going on ---------------------------------------------------------------------


@pytest.mark.parametrize("stops", [[1], [4], [7], [2, 3, 7]])
def test_stopped_and_resumed_it_ends_in_the_same_bits(stops: list[int], tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run(ignore, no_stop)
    assert whole.state.step > max(stops) + 1

    folder = tmp_path / "pieces"
    for stop in stops:
        piece = trainer(folder)
        piece.run(ignore, lambda piece=piece, stop=stop: piece.state.step == stop)  # type: ignore[misc]
        assert piece.state.step == stop
    end = trainer(folder)
    assert end.state.step == stops[-1]
    end.run(ignore, no_stop)
    assert_same(weights(end), weights(whole))
    assert replace(end.state, seconds=0.0) == replace(whole.state, seconds=0.0)
    assert losses(folder) == losses(tmp_path / "whole")


def test_killed_in_the_middle_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    config = replace(CONFIG, save_minutes=1e-9)  # one after every step
    whole = trainer(tmp_path / "whole", config)
    whole.run(ignore, no_stop)

    def die(state: RunState, parts: LossParts, rate: float) -> None:
        if state.step == 5:
            raise KeyboardInterrupt

    killed = trainer(tmp_path / "killed", config)
    with pytest.raises(KeyboardInterrupt):
        killed.run(die, no_stop)
    (tmp_path / "killed" / "checkpoint.partial").write_bytes(b"half written")
    end = trainer(tmp_path / "killed", config)
    assert end.state.step == 4
    end.run(ignore, no_stop)
    assert_same(weights(end), weights(whole))


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.run(ignore, no_stop)
    again = trainer(tmp_path)
    again.run(ignore, no_stop)
    assert again.state == first.state
    assert_same(weights(again), weights(first))


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"seed": 1}, "seed"),
        ({"learning_rate": 1e-4, "distill": 0.1}, "distill, learning_rate"),
        ({"sequence": SequenceConfig(length=64)}, "sequence"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(
    changed: dict[str, Any], names: str, tmp_path: Path
) -> None:
    trainer(tmp_path).save()
    with pytest.raises(InvalidRequest, match=f"other values of {names}$"):
        trainer(tmp_path, replace(CONFIG, **changed))


@pytest.mark.parametrize("changed", [{"max_targets": 500}, {"minutes": 5.0}, {"held_out": 3}])
def test_what_does_not_change_the_data_may_change(changed: dict[str, Any], tmp_path: Path) -> None:
    first = trainer(tmp_path)
    first.run(ignore, lambda: first.state.step == 2)
    assert trainer(tmp_path, replace(CONFIG, **changed)).state.step == 2


@pytest.mark.parametrize("damage", ["cut short", "not a checkpoint", "no state", "a tensor less"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    trainer(tmp_path).save()
    path = tmp_path / "checkpoint.safetensors"
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "not a checkpoint":
        path.write_bytes(b"nothing of the kind")
    elif damage == "no state":
        save_file(load_file(path), path)
    else:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
        tensors = load_file(path)
        del tensors["adapter.mask_embedding"]
        save_file(tensors, path, metadata=metadata)
    with pytest.raises(ModelCorrupt, match=str(path)):
        trainer(tmp_path)


@pytest.mark.parametrize(
    "bad",
    [
        {"minutes": 0.0}, {"accumulate": 0}, {"max_targets": -1}, {"block_sizes": ()},
        {"block_sizes": (1,)}, {"block_sizes": (4, 64)}, {"distill": 1.5},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        replace(CONFIG, **bad)


# --- documents ---------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [0, 1, 4, 5, 13])
def test_the_stream_can_be_entered_anywhere(skip: int) -> None:
    """Also beyond the first epoch of five documents; some documents make no sequence."""

    def numbered(skip: int) -> Iterator[tuple[int, Sequence]]:
        documents = SequenceStream(lambda epoch: toy_documents(epoch, 5), Letters(), CONFIG)
        return documents.stream(skip)

    whole = itertools.takewhile(lambda pair: pair[0] <= 20, numbered(0))
    later = itertools.takewhile(lambda pair: pair[0] <= 20, numbered(skip))
    expected = [pair for pair in whole if pair[0] > skip]
    assert list(later) == expected
    assert len(expected) >= 3


def test_epochs_are_not_alike() -> None:
    config = replace(CONFIG, sequence=SequenceConfig(length=32, infill_share=0.0))
    documents = SequenceStream(lambda epoch: toy_documents(0, 5), Letters(), config)
    found = [tuple(made.tokens) for _, made in itertools.islice(documents.stream(0), 15)]
    assert len(set(found)) > 10, "other places of the same documents"


def test_an_empty_corpus_is_an_error_and_no_endless_loop() -> None:
    documents = SequenceStream(lambda epoch: iter(()), Letters(), CONFIG)
    with pytest.raises(InvalidRequest, match="no documents"):
        next(documents.stream(0))


# --- measuring ---------------------------------------------------------------------------------


def held_out(length: int, real: int) -> Sequence:
    text = "\n".join(document.text for document in toy_documents(77, 1))[:length]
    tokens = Letters().encode(text)
    return Sequence(tokens, first_target=6, real=real, n_bytes=real - 6)


@torch.no_grad()
def drafts_by_a_plain_loop(sequence: Sequence, size: int) -> tuple[list[float], list[float], float]:
    """Accuracy, agreement and mean accepted: one uncached forward for every block start."""
    model, drafter, tokens = toy_base(), toy_adapter(), sequence.tokens
    base = forward(model, tokens).argmax(-1).tolist()
    right, same, seen, accepted, starts = [0] * size, [0] * size, [0] * size, 0, 0
    for start in range(sequence.first_target, len(tokens) - size):
        total = start + size
        noisy = torch.arange(total)[None] >= start
        logits = model(
            torch.tensor([tokens[:start] + [0] * size]),
            torch.arange(total)[None],
            masks.opening(0, start, size),
            None,
            Gate(drafter, noisy, noisy),
        )[0, start:]
        starts, run, leading = starts + 1, 1, True
        for j, draft in enumerate(logits.argmax(-1).tolist()):
            if start + j + 1 >= sequence.real:
                break
            hit, agreed = draft == tokens[start + j + 1], draft == base[start + j]
            seen[j], right[j], same[j] = seen[j] + 1, right[j] + hit, same[j] + agreed
            leading = leading and hit and agreed
            run += leading
        accepted += run

    def shares(counts: list[int]) -> list[float]:
        return [n / m for n, m in zip(counts, seen, strict=True)]

    return shares(right), shares(same), accepted / starts


@pytest.mark.parametrize(("length", "real"), [(40, 40), (40, 33)])
def test_drafts_are_measured_as_a_plain_loop_counts_them(length: int, real: int) -> None:
    sequence = held_out(length, real)
    report = measure_drafts(toy_base(), toy_adapter(), [sequence], 4, blocks=1000)
    accuracy, agreement, accepted = drafts_by_a_plain_loop(sequence, 4)
    assert report.starts == length - 4 - 6
    assert report.accuracy == pytest.approx(accuracy, abs=1e-4)
    assert report.agreement == pytest.approx(agreement, abs=1e-4)
    assert report.mean_accepted == pytest.approx(accepted, abs=1e-4)
    assert 1.0 < report.mean_accepted < 5.0


def test_the_bound_of_the_base_is_its_cross_entropy() -> None:
    sequence = held_out(43, 43)  # 9 whole blocks of 4 behind position 6
    report = measure_drafts(toy_base(), toy_adapter(), [sequence], 4)
    log_probs = forward(toy_base(), sequence.tokens).log_softmax(-1)
    nats = -sum(float(log_probs[p, sequence.tokens[p + 1]]) for p in range(5, 41))
    assert report.base_bits_per_byte == pytest.approx(nats / 0.693147 / 36, abs=1e-3)


def test_who_drafts_better_has_the_tighter_bound() -> None:
    """And neither bound lies below the base's own bits."""
    sequences = [held_out(60, 60), held_out(80, 80), held_out(120, 120)]
    learned = measure_drafts(toy_base(), toy_adapter(), sequences, 4)
    clueless = measure_drafts(toy_base(), adapter(TOY_SHAPE), sequences, 4)
    assert learned.base_bits_per_byte == clueless.base_bits_per_byte
    assert learned.base_bits_per_byte < learned.bits_per_byte < clueless.bits_per_byte


def test_nothing_to_measure_is_no_crash() -> None:
    report = measure_drafts(toy_base(), toy_adapter(), [], 4)
    assert (report.starts, report.bits_per_byte) == (0, 0.0)


# --- what ships --------------------------------------------------------------------------------


def test_what_is_exported_is_what_is_loaded(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    run.run(ignore, no_stop)
    ships = tmp_path / "model"
    export_adapter(run, drafting_config(RANKS, CONFIG), ships)
    drafting = DraftingConfig.read(ships / "config.json")
    assert drafting == DraftingConfig(Layout.PSM, 3, 3, RANKS)
    loaded = load_adapter(ships, TOY_SHAPE, drafting)
    own = dict(run.adapter.named_parameters())
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, own.pop(name).detach().bfloat16().float()), name
        assert not parameter.requires_grad
    assert not own
    assert sorted(p.name for p in ships.iterdir()) == [
        "adapter.safetensors", "config.json", "training.json",
    ]  # fmt: skip
    record = json.loads((ships / "training.json").read_text())
    assert record["state"]["targets"] == run.state.targets
    assert record["config"]["max_targets"] == CONFIG.max_targets


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    export_adapter(run, drafting_config(RANKS, CONFIG), tmp_path)
    for ranks, complaint in (
        (AdapterConfig({"qkv": 4}), "is missing|is unexpected"),
        (replace(RANKS, ranks={**RANKS.ranks, "qkv": 5}), "has shape"),
    ):
        drafting = replace(drafting_config(RANKS, CONFIG), adapter=ranks)
        with pytest.raises(ModelCorrupt, match=complaint) as caught:
            load_adapter(tmp_path, TOY_SHAPE, drafting)
        assert "adapter.safetensors: tensor layers" in caught.value.message
    with pytest.raises(ModelUnsupported, match="without an adapter"):
        load_adapter(tmp_path, TOY_SHAPE, replace(drafting, adapter=None))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"layout": "psm"}', '{"layout": "odd", "block_size": 4}']
)
def test_a_damaged_drafting_config_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelCorrupt, match=str(path)):
        DraftingConfig.read(path)


def test_an_unknown_key_of_a_drafting_config_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    drafting_config(RANKS, CONFIG).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_sise": 8}))
    with pytest.raises(ModelCorrupt, match="block_sise"):
        DraftingConfig.read(path)


# --- several processes -------------------------------------------------------------------------

TOGETHER = replace(
    CONFIG,
    block_sizes=(4,),
    clip=0.05,
    max_targets=0,
    minutes=1.0,
    sequence=SequenceConfig(length=48, infill_share=0.0),
)


def _process(rank: int, port: int, folder: str, task: Callable[[Trainer], None]) -> None:
    """One of two that train together; what it ends with goes to a file."""
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    run = trainer(Path(folder) / "run", TOGETHER)
    task(run)
    torch.distributed.destroy_process_group()
    save_file(weights(run), Path(folder) / f"{rank}.safetensors")


def in_two_processes(
    folder: Path, task: Callable[[Trainer], None]
) -> list[dict[str, torch.Tensor]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_process, (port, str(folder), task), nprocs=2)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def _three_steps(run: Trainer) -> None:
    run.run(ignore, lambda: run.state.step == 3)


def _stop_and_clock_of_its_own(run: Trainer) -> None:
    """The second is late: it is in the last third of the budget, and asked to stop."""
    run.state.seconds = 50.0 * run.rank
    run.run(ignore, lambda: run.rank == 1 and run.state.step == 2)
    assert run.state.step == 2


def test_two_processes_are_one_with_twice_the_sequences(tmp_path: Path) -> None:
    first, second = in_two_processes(tmp_path, _three_steps)
    assert_same(first, second)
    alone = trainer(tmp_path / "alone", replace(TOGETHER, accumulate=2))
    _three_steps(alone)
    expected = weights(alone)
    for name, tensor in expected.items():
        assert torch.allclose(first[name], tensor, atol=1e-6), name
    resumed = trainer(tmp_path / "run", TOGETHER)
    assert resumed.state.step == 3
    assert resumed.state.documents == alone.state.documents
    assert_same(weights(resumed), first)


def test_processes_agree_when_to_stop_and_how_fast_to_learn(tmp_path: Path) -> None:
    first, second = in_two_processes(tmp_path, _stop_and_clock_of_its_own)
    assert_same(first, second)


# --- cutting an adapter -------------------------------------------------------------------------


def test_a_cut_pair_is_the_nearest_of_its_rank() -> None:
    """What is lost are the smallest singular values; pairs that are small enough stay."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 6, generator=g), torch.randn(9, 4, generator=g)
    tensors = {
        "layers.0.qkv.a": a,
        "layers.0.qkv.b": b,
        "layers.0.o.a": a + 1.0,
        "layers.0.o.b": b,
        "mask_embedding": torch.ones(6),
    }
    cut = cut_to_ranks(tensors, {"qkv": 2, "o": 4})
    assert cut["layers.0.qkv.a"].shape == (2, 6) and cut["layers.0.qkv.b"].shape == (9, 2)
    lost = torch.linalg.matrix_norm(b @ a - cut["layers.0.qkv.b"] @ cut["layers.0.qkv.a"])
    smallest = torch.linalg.svdvals(b @ a)[2:4]
    assert float(lost) == pytest.approx(float(smallest.norm()), rel=1e-4)
    assert all(cut[key] is tensors[key] for key in tensors if "qkv" not in key)
