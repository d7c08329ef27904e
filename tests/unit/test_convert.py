"""`blockdiff models convert` and `check`, on tiny checkpoints in the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hub_folder import write

from blockdiff.cli import run
from blockdiff.config import DecodingConfig, Rule
from blockdiff.engine.engine import Engine
from blockdiff.errors import ExitCode, ModelUnsupported, OutputFileError
from blockdiff.model import masks, native
from blockdiff.model.checkpoint import load_transformer
from blockdiff.model.convert import convert_to_int8
from blockdiff.model.kinds import kind_of
from blockdiff.types import Finished, Hole, InfillRequest
from tests.unit import tiny

DOCUMENT = "def f(x):\n    y = \n    return y\n"
pytestmark = pytest.mark.skipif(bool(native.available()), reason="no native library here")


def quiet(what: str, share: float) -> None:
    pass


@pytest.mark.parametrize("family", ["dreamon", "llada", "a2d (qwen2)", "coda"])
def test_a_converted_folder_is_what_int8_makes_of_the_original(
    family: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "it", family, ffn=64)
    shares: list[float] = []
    target = tmp_path / "int8"
    size = convert_to_int8(folder, target, lambda what, share: shares.append(share))
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


def test_what_cannot_be_converted_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "int8"
    with pytest.raises(ModelUnsupported, match="mixtures of experts"):
        convert_to_int8(write(tmp_path / "moe", "sdar-moe"), target, quiet)
    with pytest.raises(ModelUnsupported, match="multiple of 32"):
        convert_to_int8(write(tmp_path / "narrow", "dream", ffn=52), target, quiet)
    good = write(tmp_path / "good", "dream", ffn=64)
    assert not target.exists() and not list(tmp_path.glob(".*"))
    convert_to_int8(good, target, quiet)
    with pytest.raises(OutputFileError, match="there already"):
        convert_to_int8(good, target, quiet)
    with pytest.raises(ModelUnsupported, match="prepared folder already"):
        convert_to_int8(target, tmp_path / "again", quiet)


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
