"""`blockdiff models convert` and `check`, on tiny checkpoints in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hub_folder import write
from safetensors.torch import load_file, save_file

from blockdiff.cli.app import run
from blockdiff.config import DecodingConfig, Rule
from blockdiff.engine.engine import Engine
from blockdiff.errors import ExitCode, ModelUnsupported, OutputFileError
from blockdiff.model import masks
from blockdiff.model.int8 import library
from blockdiff.model.int8.four_bits import quantize_q4_k
from blockdiff.model.int8.quantized import QuantizedLinear
from blockdiff.model.load.convert import convert
from blockdiff.model.load.from_folder import bytes_in_memory, load_transformer
from blockdiff.model.load.hub_config import kind_of
from blockdiff.types import Finished, Hole, InfillRequest
from tests.unit import tiny

DOCUMENT = "def f(x):\n    y = \n    return y\n"
pytestmark = pytest.mark.skipif(bool(library.available()), reason="no int8 library here")


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [0, 8, 4])
def test_what_a_folder_takes_in_memory_is_known_before_it_is_read(
    stored: torch.dtype, bits: int, tmp_path: Path
) -> None:
    """Whatever its numbers are stored in, and converted or not."""
    folder = write(tmp_path / "it", "dream", ffn=512, wide=True)
    file = folder / "model.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in load_file(file).items()}, file)
    if bits:
        convert(folder, tmp_path / "packed", quiet, bits=bits)
        folder = tmp_path / "packed"
    dtypes = [torch.int8] if bits else [torch.int8, torch.bfloat16, torch.float32]
    for dtype in dtypes:
        model = load_transformer(folder, dtype=dtype)
        matrices = {id(m): m.nbytes for m in model.modules() if isinstance(m, QuantizedLinear)}
        floats = sum(p.nbytes for p in model.parameters())
        expected = bytes_in_memory(folder, dtype, torch.device("cpu"))
        assert expected == pytest.approx(sum(matrices.values()) + floats, rel=0.02), dtype


def quiet(what: str, share: float) -> None:
    pass


@pytest.mark.parametrize("family", ["dreamon", "llada", "a2d (qwen2)", "coda"])
def test_a_converted_folder_is_what_int8_makes_of_the_original(
    family: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "it", family, ffn=64)
    shares: list[float] = []
    target = tmp_path / "int8"
    size = convert(folder, target, lambda what, share: shares.append(share))
    assert size == sum(path.stat().st_size for path in target.glob("*.safetensors"))
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0, rel=0.02)
    assert kind_of(target) == kind_of(folder)
    direct = load_transformer(folder, dtype=torch.int8)
    stored = load_transformer(target, dtype=torch.int8)
    tokens, mask = [5, 9, 1, 33, 7], masks.full(0, 5)
    assert torch.equal(tiny.forward(direct, tokens, mask), tiny.forward(stored, tokens, mask))
    exact = load_transformer(folder, dtype=torch.float32)
    apart = tiny.forward(stored, tokens, mask) - tiny.forward(exact, tokens, mask)
    assert 0 < apart.abs().mean() < 0.5 * tiny.forward(exact, tokens, mask).abs().mean()

    def text(model: Path) -> str:
        engine = Engine.load(str(model), device="cpu", dtype="int8")
        hole = Hole(DOCUMENT.index("= \n") + 2, DOCUMENT.index("= \n") + 2)
        decoding = DecodingConfig(max_tokens=8, rule=Rule.SCHEDULE)
        *_, done = engine.infill(InfillRequest(DOCUMENT, hole, decoding=decoding))
        assert isinstance(done, Finished)
        return done.text

    assert text(target) == text(folder)


def test_a_converted_folder_keeps_its_slowed_angles(tmp_path: Path) -> None:
    """YaRN, and queries that grow behind the 16 positions of the first training."""
    folder, target = write(tmp_path / "it", "nemotron", ffn=64), tmp_path / "int8"
    convert(folder, target, quiet)
    direct = load_transformer(folder, dtype=torch.int8)
    stored = load_transformer(target, dtype=torch.int8)
    assert stored.config == direct.config and stored.config.rope_scaling is not None
    tokens, mask = list(range(5, 25)), masks.causal(0, 20)
    assert torch.equal(tiny.forward(direct, tokens, mask), tiny.forward(stored, tokens, mask))


def test_q4_k_is_what_ggufs_reader_makes_of_it() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 512) * torch.rand(40, 1)
    weight[3], weight[4, :256], weight[5] = 0.0, 1.5, weight[5].abs()
    raw = quantize_q4_k(weight)
    assert raw.shape == (40, 512 // 256 * 144)
    read = torch.from_numpy(dequantize(raw, GGMLQuantizationType.Q4_K).copy())
    assert torch.equal(read[3], weight[3])
    error = (read - weight).norm(dim=1) / weight.norm(dim=1).clamp(min=1e-9)
    assert error.max() < 0.1 and 0.05 < error[6:].mean() < 0.08
    plain = (weight.view(40, 16, 32).amax(-1) - weight.view(40, 16, 32).amin(-1)) / 15
    step = plain.repeat_interleave(32, dim=1)
    inner = weight[6:].abs() < weight[6:].view(-1, 16, 32).abs().amax(-1).repeat_interleave(32, 1)
    assert ((read - weight)[6:].abs() <= 1.2 * step[6:])[inner].all()  # one step, at the most


@pytest.mark.parametrize("size", [1e-5, 3e-6, 1e-6])
def test_small_weights_are_kept_in_four_bits(size: float) -> None:
    """A scale is a number of 16 bits, which may become 0 while another one does not."""
    weight = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)) * size
    raw = quantize_q4_k(weight)
    read = torch.from_numpy(dequantize(raw, GGMLQuantizationType.Q4_K).copy())
    assert (read - weight).norm() < 0.2 * weight.norm()


def test_a_folder_in_four_bits(tmp_path: Path) -> None:
    folder = write(tmp_path / "it", "dream", ffn=512, wide=True)
    eight, four = tmp_path / "eight", tmp_path / "four"
    sizes = convert(folder, eight, quiet), convert(folder, four, quiet, bits=4)
    assert sizes[1] < 0.8 * sizes[0]
    packed = json.loads((four / "config.json").read_text())["packed"]
    formats = {name: {part["format"] for part in parts} for name, parts in packed.items()}
    assert formats["embedding.weight"] == formats["head.weight"] == {"q7"}
    assert all(found == {"q4_k"} for name, found in formats.items() if "blocks" in name)
    tokens, mask = [5, 9, 1, 33, 7], masks.full(0, 5)
    exact = tiny.forward(load_transformer(folder, dtype=torch.float32), tokens, mask)
    apart = [
        (tiny.forward(load_transformer(f, dtype=torch.int8), tokens, mask) - exact).norm()
        for f in (eight, four)
    ]
    assert 0 < apart[0] < apart[1] < exact.norm()
    assert run(["models", "check", str(four), "--dtype", "int8"]) == ExitCode.OK


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc here")
def test_a_packed_folder_is_in_memory_once(tmp_path: Path) -> None:
    target = tmp_path / "int8"
    convert(write(tmp_path / "it", "dream", ffn=64), target, quiet)
    model = load_transformer(target, dtype=torch.int8)
    assert str(target) not in Path("/proc/self/maps").read_text()
    assert model.config.n_layers == 3


def test_rows_that_are_no_whole_blocks_keep_eight_bits(tmp_path: Path) -> None:
    target = tmp_path / "four"
    convert(write(tmp_path / "it", "dream", ffn=256), target, quiet, bits=4)
    packed = json.loads((target / "config.json").read_text())["packed"]
    found = {name.rsplit(".", 2)[-2]: parts[0]["format"] for name, parts in packed.items()}
    assert found["down"] == "q4_k" and found["qkv"] == found["o"] == "q7"


def test_what_cannot_be_converted_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "int8"
    with pytest.raises(ModelUnsupported, match="mixtures of experts"):
        convert(write(tmp_path / "moe", "sdar-moe"), target, quiet)
    with pytest.raises(ModelUnsupported, match="multiple of 32"):
        convert(write(tmp_path / "narrow", "dream", ffn=52), target, quiet)
    good = write(tmp_path / "good", "dream", ffn=64)
    assert not target.exists() and not list(tmp_path.glob(".*"))
    convert(good, target, quiet)
    with pytest.raises(OutputFileError, match="there already"):
        convert(good, target, quiet)
    with pytest.raises(ModelUnsupported, match="prepared folder already"):
        convert(target, tmp_path / "again", quiet)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, target = write(tmp_path / "it", "dream", ffn=64), tmp_path / "int8"
    assert run(["models", "convert", str(folder), str(target)]) == ExitCode.OK
    assert f"wrote {target}" in capsys.readouterr().out
    assert run(["models", "info", str(target)]) == ExitCode.OK
    assert "infill (in_place)" in capsys.readouterr().out
    assert run(["models", "check", str(target), "--dtype", "int8"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "on cpu in int8" in out and "all finite" in out and "infill    " in out
    assert run(["models", "check", str(target), "--dtype", "float32"]) == ExitCode.MODEL
    assert "--dtype int8" in capsys.readouterr().err


def test_check_rewrites_where_nothing_can_be_infilled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "it", "sdar")
    assert run(["models", "check", str(folder), "--dtype", "float32"]) == ExitCode.OK
    assert "rewrite   " in capsys.readouterr().out


def test_check_of_a_damaged_folder_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "it", "dream")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    assert run(["models", "check", str(folder), "--dtype", "float32"]) == ExitCode.MODEL
    said = capsys.readouterr().err
    assert "is missing" in said and "Traceback" not in said
