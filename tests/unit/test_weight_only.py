"""Weights of 8 bits for devices without int8 arithmetic of ours, on a CPU."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_folder import write
from tiny import ALL_TARGETS, FAMILIES, adapter, config, forward, transformer

from blockdiff.config import DecodingConfig, Mode
from blockdiff.engine import checkpoint as checkpoints
from blockdiff.engine import devices
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.devices import choose_dtype
from blockdiff.engine.engine import Engine
from blockdiff.errors import DeviceUnavailable, ModelUnsupported
from blockdiff.model.config import AdapterConfig, ExpertsConfig
from blockdiff.model.cuda import weight_only
from blockdiff.model.cuda.graphs import Inputs, padded_forward
from blockdiff.model.cuda.mirror import Mirror, Window
from blockdiff.model.cuda.shapes import GraphShape
from blockdiff.model.cuda.weight_only import (
    WeightOnlyLinear,
    floats_for,
    in_eight_bits,
    is_weight_only,
    rounded,
)
from blockdiff.model.load.convert import convert
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.load.shards import Shards, shard_files
from blockdiff.types import Finished, Hole, InfillRequest, no_op
from tests.unit.tiny_checkpoint import checkpoint

CPU, META = torch.device("cpu"), torch.device("meta")
DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_is_off_by_half_a_step_of_its_row_at_most(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 96) * torch.logspace(-6, 6, 40)[:, None]
    weight[3] = 0.0
    weight[7, 5] = 50 * weight[7].abs().max()
    weight = weight.to(dtype)
    numbers, scale = rounded(weight)
    assert numbers.dtype is torch.int8 and scale.dtype is dtype
    error = (numbers * scale.double()[:, None] - weight.double()).abs()
    assert bool((error <= 0.5001 * scale.double()[:, None]).all())
    assert numbers.abs().amax(dim=1).tolist() == [0 if row == 3 else 127 for row in range(40)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (64, 32), (130, 48)])
@pytest.mark.parametrize("chunk", [64, 1 << 25])
def test_a_product_is_that_of_the_rounded_matrix(
    shape: tuple[int, int], dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not the matrix is taken in parts."""
    monkeypatch.setattr(weight_only, "_CHUNK", chunk)
    torch.manual_seed(1)
    weight, bias = torch.randn(shape, dtype=dtype), torch.randn(shape[0], dtype=dtype)
    layer = WeightOnlyLinear(weight, bias, CPU)
    numbers, scale = rounded(weight)
    x = torch.randn(2, 5, shape[1], dtype=dtype)
    exact = x.double() @ (numbers * scale.double()[:, None]).T + bias.double()
    precision = torch.finfo(dtype).eps * shape[1] ** 0.5
    torch.testing.assert_close(layer(x).double(), exact, rtol=4 * precision, atol=4 * precision)
    indices = torch.randint(0, shape[0], (1, 6))
    torch.testing.assert_close(
        layer.rows(indices).double(), (numbers * scale.double()[:, None])[indices],
        rtol=2 * torch.finfo(dtype).eps, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_for_few_rows_computes_the_same(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    layer = WeightOnlyLinear(torch.randn(96, 64, dtype=dtype), None, CPU)
    for rows in (1, 2, 4):
        x = torch.randn(rows, 64, dtype=dtype)
        precision = 16 * torch.finfo(dtype).eps
        torch.testing.assert_close(
            layer.narrow_product(x), layer.wide_product(x), rtol=precision, atol=precision
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_8_bits_says_nearly_what_it_said(family: str) -> None:
    exact = transformer(FAMILIES[family], seed=3)
    model = in_eight_bits(copy.deepcopy(exact), CPU, "it")
    assert is_weight_only(model) and not is_weight_only(exact)
    assert model.dtype is torch.float32
    left = [name for name, p in model.named_parameters() if p.dim() > 1]
    assert left == []
    if FAMILIES[family].tied_embeddings:
        assert model.head is model.embedding.matrix
    tokens = [5, 9, 1, 30, 7, 2]
    expected, found = forward(exact, tokens), forward(model, tokens)
    apart = (found - expected).norm() / expected.norm()
    assert 0 < apart < 0.05


def test_int8_may_be_chosen_wherever_a_model_runs_and_not_for_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    for device in ("cuda", "mps"):
        assert choose_dtype("int8", torch.device(device)) is torch.int8
        assert choose_dtype("auto", torch.device(device)) is torch.bfloat16
    with pytest.raises(DeviceUnavailable, match="trained"):
        choose_dtype("int8")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 0), torch.float32), ((7, 5), torch.float32), ((8, 0), torch.bfloat16)],
)
def test_a_gpu_without_bfloat16_computes_in_float32(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", torch.device("cuda")) is dtype
    assert floats_for(torch.device("cuda", 0)) is dtype
    assert choose_dtype("bfloat16", torch.device("cuda")) is torch.bfloat16


def test_weights_that_are_rounded_on_a_device_have_to_fit_here_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "it", "dream", ffn=64)
    stored = Shards(shard_files(folder)).all()
    numbers = sum(tensor.numel() for tensor in stored.values())
    asked = []
    monkeypatch.setattr(
        checkpoints, "check_memory", lambda needed, device, _=0: asked.append((device, needed))
    )
    Checkpoint.load(str(folder), META, torch.int8, no_op)
    assert asked == [(META, numbers), (CPU, 2 * numbers)]


def test_a_checkpoint_is_loaded_in_8_bits_on_devices_other_than_a_cpu(tmp_path: Path) -> None:
    """The meta device stands for them: it has shapes and dtypes only."""
    folder = write(tmp_path / "it", "dream", ffn=64)
    model = load_transformer(folder, dtype=torch.int8, device="meta")
    assert is_weight_only(model) and model.device == META and model.dtype is torch.bfloat16
    plain = load_transformer(folder, dtype=torch.bfloat16)
    for name, tensor in plain.named_parameters():
        if tensor.dim() == 1:
            assert model.get_parameter(name).shape == tensor.shape
    assert model.blocks[0].ffn.down.weight.dtype is torch.int8


def test_what_8_bits_do_not_cover_there_is_refused(tmp_path: Path) -> None:
    experts = transformer(config(qkv_bias=False, experts=ExpertsConfig(4, 2, 8)))
    with pytest.raises(ModelUnsupported, match="it: int8 does not cover mixtures"):
        in_eight_bits(experts, CPU, "it")
    folder, packed = write(tmp_path / "it", "dream", ffn=64), tmp_path / "packed"
    convert(folder, packed, lambda what, share: None)
    with pytest.raises(ModelUnsupported, match="packed for int8 on a CPU") as caught:
        load_transformer(packed, dtype=torch.int8, device="meta")
    assert "--device cpu" in caught.value.hint


def test_an_engine_writes_with_it_and_pads_its_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written in `verify` is what is written in `ar`, padded or not."""
    point = checkpoint()
    model = in_eight_bits(copy.deepcopy(point.model), CPU, "it")
    document = "def area(width, height):\n    \n\nprint(area(3, 4))\n"
    texts = set()
    for graphs in devices.Graphs:
        monkeypatch.setenv(devices.GRAPHS, graphs.value)
        engine = Engine(replace(point, model=model))
        assert engine.dtype == "int8"
        for mode in (Mode.AR, Mode.VERIFY):
            decoding = DecodingConfig(mode=mode, max_tokens=16)
            *_, done = engine.infill(InfillRequest(document, Hole(29, 29), decoding=decoding))
            assert isinstance(done, Finished)
            texts.add(done.text)
    assert len(texts) == 1


def test_its_forwards_may_be_recorded() -> None:
    """They wait for no value: the meta device has none."""
    shape = FAMILIES["qwen2"]
    model = in_eight_bits(transformer(shape), META, "it")
    pairs = adapter(shape, ranks=AdapterConfig(ALL_TARGETS.ranks)).to(META)
    inputs, mirror = Inputs.of(GraphShape(1, 4, 16, True), META), Mirror(model, 1, 32, 8)
    logits = padded_forward(model, inputs, Window(mirror.buffer, inputs.places, 16), pairs)
    assert logits.shape == (4, shape.vocab_size)
