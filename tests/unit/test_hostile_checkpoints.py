"""Published checkpoints that are damaged or lie: one typed error that names the file and the key.

Nothing beside the weights is run, and nothing is allocated because a file asks for it.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from blockdiff.errors import ModelCorrupt, ModelUnsupported
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.transformer import Transformer
from tests.parity.family_checkpoints import CHECKPOINTS

FAMILIES = ["dream", "llada", "llada2", "sdar-moe", "stable-diffcoder", "ar (starcoder2)"]
ROOT = Path(__file__).resolve().parents[2]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    return load_transformer(folder, dtype=dtype)


# --- tensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_tensor_is_named(family: str, tmp_path: Path) -> None:
    for name in CHECKPOINTS[family].shapes:
        weights = CHECKPOINTS[family].weights()
        del weights[name]
        with pytest.raises(ModelCorrupt) as caught:
            load(CHECKPOINTS[family].write_one(tmp_path, weights))
        assert str(tmp_path) in caught.value.message
        assert name in caught.value.message


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("extra", ["model.layers.1.self_attn.sinks", "lm_head.bias", "x"])
def test_a_tensor_that_nobody_reads_is_named(family: str, extra: str, tmp_path: Path) -> None:
    weights = CHECKPOINTS[family].weights() | {extra: torch.ones(3)}
    with pytest.raises(ModelUnsupported) as caught:
        load(CHECKPOINTS[family].write_one(tmp_path, weights))
    assert str(tmp_path) in caught.value.message
    assert f"tensor {extra} " in caught.value.message


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("damage", ["a row less", "a row more", "turned", "one number"])
def test_a_tensor_of_another_shape_is_named(family: str, damage: str, tmp_path: Path) -> None:
    for name in list(CHECKPOINTS[family].shapes)[1::3]:
        weights = CHECKPOINTS[family].weights()
        whole = weights[name]
        if damage == "turned" and (whole.dim() == 1 or whole.shape[0] == whole.shape[1]):
            continue
        weights[name] = {
            "a row less": whole[:-1], "a row more": torch.cat([whole, whole[:1]]),
            "turned": whole.transpose(0, -1), "one number": torch.tensor(1.0),
        }[damage].contiguous()  # fmt: skip
        with pytest.raises(ModelCorrupt) as caught:
            load(CHECKPOINTS[family].write_one(tmp_path, weights))
        assert str(tmp_path) in caught.value.message
        assert "do not make a tensor of shape" in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_that_is_no_number_is_named(
    value: float, stored: torch.dtype, tmp_path: Path
) -> None:
    names = [
        "model.word_embeddings.weight", "model.layers.1.attention.query_key_value.weight",
        "model.layers.2.mlp.experts.5.up_proj.weight", "model.layers.1.mlp.gate.expert_bias",
        "model.norm.weight",
    ]  # fmt: skip
    for name in names:
        weights = {n: w.to(stored) for n, w in CHECKPOINTS["llada2"].weights().items()}
        weights[name].view(-1)[-1] = value
        folder = CHECKPOINTS["llada2"].write_one(tmp_path, weights)
        for dtype in (torch.float32, torch.bfloat16):
            with pytest.raises(ModelCorrupt) as caught:
                load(folder, dtype)
            assert f"{folder / 'model.safetensors'}: tensor {name} holds" in caught.value.message


def test_a_number_that_the_dtype_asked_for_cannot_hold_is_not_made_infinite(tmp_path: Path) -> None:
    weights = CHECKPOINTS["dream"].weights()
    weights["lm_head.weight"][0, 0] = 1e30
    folder = CHECKPOINTS["dream"].write_one(tmp_path, weights)
    load(folder, torch.bfloat16)
    with pytest.raises(ModelUnsupported, match=r"lm_head.weight does not fit into torch.float16"):
        load(folder, torch.float16)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.float64])
def test_weights_of_another_kind_of_number_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    weights = CHECKPOINTS["dream"].weights()
    weights["model.layers.0.self_attn.o_proj.weight"] = torch.zeros(32, 32, dtype=kind)
    with pytest.raises(ModelUnsupported, match=r"o_proj.weight holds "):
        load(CHECKPOINTS["dream"].write_one(tmp_path, weights))


# --- files -------------------------------------------------------------------------------------


def test_a_file_cut_short_anywhere_is_named(tmp_path: Path) -> None:
    folder = CHECKPOINTS["llada"].write(tmp_path)
    shard = folder / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for length in (0, 5, 8, 100, header, header + 8, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:length])
        with pytest.raises(ModelCorrupt, match=str(shard)):
            load(folder)


@pytest.mark.parametrize(
    "content",
    [
        (10**18).to_bytes(8, "little") + b"{}",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        pickle.dumps({"lm_head.weight": [1.0]}),
        b"PK\x03\x04" + b"\0" * 100,
    ],
)
def test_a_file_that_is_no_safetensors_is_named(content: bytes, tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write_one(tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelCorrupt, match=str(folder / "model.safetensors")):
        load(folder)


def test_a_header_may_not_point_outside_its_file(tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write_one(tmp_path)
    header = {"lm_head.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 64)
    with pytest.raises(ModelCorrupt, match=str(folder / "model.safetensors")):
        load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickle_is_never_opened(name: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    payload = f"cbuiltins\neval\n(S'open({str(trap)!r}, \"w\")'\ntR.".encode()
    folder = CHECKPOINTS["dream"].write_one(tmp_path / "model")
    (folder / name).write_bytes(payload)
    load(folder)  # beside weights that can be read it is no concern of ours
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnsupported, match="pickled"):
        load(folder)
    (folder / "model.safetensors").write_bytes(payload)
    with pytest.raises(ModelCorrupt):
        load(folder)
    assert not trap.exists()


def test_code_of_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    """Every file that `auto_map` could name, and the usual ones, would leave a trace."""
    folder, trap = CHECKPOINTS["dream"].write(tmp_path / "model"), tmp_path / "trap"
    assert "auto_map" in CHECKPOINTS["dream"].config
    for name in ("modeling_remote", "configuration_dream", "modeling_dream", "__init__", "setup"):
        (folder / f"{name}.py").write_text(f"open({str(trap)!r}, 'w')\nraise SystemExit(3)\n")
    load(folder)
    assert not trap.exists()
    assert "modeling_remote" not in sys.modules


@pytest.mark.parametrize(
    ("index", "complaint"),
    [
        ({"weight_map": {"x": "../model.safetensors"}}, "no file of this folder"),
        ({"weight_map": {"x": "/etc/passwd"}}, "no file of this folder"),
        ({"weight_map": {"x": "model.bin"}}, "no file of this folder"),
        ({"weight_map": {"x": "gone.safetensors"}}, "gone.safetensors is missing"),
        ({"weight_map": {"x": None}}, "no file of this folder"),
        ({"weight_map": ["model.safetensors"]}, "weight_map is missing"),
        ({"weight_map": {}}, "weight_map is missing"),
        ({}, "weight_map is missing"),
        ([], "not a JSON object"),
    ],
)
def test_an_index_names_files_of_its_folder(index: Any, complaint: str, tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write_one(tmp_path)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelCorrupt, match=complaint) as caught:
        load(folder)
    assert str(folder) in caught.value.message


def test_files_that_the_index_does_not_name_are_left_alone(tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write(tmp_path)
    (folder / "consolidated.safetensors").write_bytes(b"of another format")
    assert load(folder).config.vocab_size == 96


@pytest.mark.parametrize(
    "beside", ["consolidated", "optimizer", "adapter_model", "model-00001-of-00002", "weights"]
)
def test_model_safetensors_is_the_model_whatever_lies_beside_it(
    beside: str, tmp_path: Path
) -> None:
    folder = CHECKPOINTS["dream"].write_one(tmp_path)
    before = load(folder).head.weight.clone()
    save_file({"lm_head.weight": torch.zeros(96, 32)}, folder / f"{beside}.safetensors")
    assert torch.equal(load(folder).head.weight, before)


def test_model_safetensors_is_newer_than_an_index(tmp_path: Path) -> None:
    """The transformers library reads it first; shards of an older save may lie there still."""
    folder = CHECKPOINTS["dream"].write(tmp_path)
    weights = {name: weight + 1 for name, weight in CHECKPOINTS["dream"].weights().items()}
    save_file(weights, folder / "model.safetensors")
    assert (folder / "model.safetensors.index.json").is_file()
    assert torch.equal(load(folder).head.weight, weights["lm_head.weight"])


def test_parts_without_an_index_are_read_together(tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write(tmp_path)
    whole = load(folder).head.weight
    (folder / "model.safetensors.index.json").unlink()
    save_file({"state": torch.zeros(3)}, folder / "optimizer.safetensors")
    assert torch.equal(load(folder).head.weight, whole)


TIED = ["ar (starcoder2)", "dream"]


@pytest.mark.parametrize("family", TIED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_model_is_what_its_file_holds(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """As in transformers 5.23: two matrices that differ are two, one serves as both."""
    published = CHECKPOINTS[family]
    weights = published.weights()
    embedding = weights["model.embed_tokens.weight"]
    other = embedding.flip(0).contiguous()
    for held, tied in (
        ({"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}, True),
        ({"model.embed_tokens.weight": embedding, "lm_head.weight": other}, False),
        ({"model.embed_tokens.weight": embedding}, True),
        ({"lm_head.weight": embedding}, True),
    ):
        rest = {n: w for n, w in weights.items() if not n.startswith(("lm_head", "model.embed"))}
        folder = published.write_one(tmp_path, rest | held, tie_word_embeddings=True)
        model = load(folder, dtype)
        assert model.config.tied_embeddings == tied
        assert torch.equal(model.embedding.weight, embedding.to(dtype))
        assert torch.equal(model.head.weight, (embedding if tied else other).to(dtype))


def test_a_tied_llada_with_another_head_is_refused(tmp_path: Path) -> None:
    folder = CHECKPOINTS["llada"].write_one(tmp_path, weight_tying=True)
    with pytest.raises(ModelCorrupt, match="weight_tying is true, but model.transformer.ff_out"):
        load(folder)


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write_one(tmp_path)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    again = folder / "model-00002-of-00002.safetensors"
    save_file({"lm_head.weight": torch.zeros(96, 32)}, again)
    with pytest.raises(ModelCorrupt, match=rf"{again}: tensor lm_head.weight is in "):
        load(folder)


# --- memory ------------------------------------------------------------------------------------

_LOAD = """
    import resource, sys
    from pathlib import Path
    import torch
    from blockdiff.model.load.from_folder import FORMAT, load_transformer

    def data():
        status = Path("/proc/self/status").read_text().split()
        return int(status[status.index("VmData:") + 1]) * 1024

    load_transformer(Path(sys.argv[4]), dtype=torch.float32)  # what torch imports on its way
    folder = Path(sys.argv[1])
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    room = data() + files + int(float(sys.argv[2]) * files)
    resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    model = load_transformer(folder, dtype=getattr(torch, sys.argv[3]))
    print(sum(p.numel() for p in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 1.0), ("float32", 2.0)])
def test_shards_are_copied_once_at_most(dtype: str, size: float, tmp_path: Path) -> None:
    """With room for the mapped files, one copy in the dtype asked for, and a fifth to spare.

    Nearly all of it is experts: two thirds of the file become one tensor, a third another.
    """
    published = CHECKPOINTS["sdar-moe"]
    scale = {32: 1024, 16: 512, 96: 512, 20: 2048}
    weights = {
        name: torch.ones([scale.get(n, n) for n in shape], dtype=torch.bfloat16)
        for name, shape in published.shapes.items()
        if not name.startswith(("model.layers.1", "model.layers.2"))
    }
    for part in "qk":
        weights[f"model.layers.0.self_attn.{part}_norm.weight"] = torch.ones(256)
    sizes = {
        "hidden_size": 1024, "moe_intermediate_size": 2048, "vocab_size": 512, "head_dim": 256,
        "num_hidden_layers": 1,
    }  # fmt: skip
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(published.config | sizes))
    names, index = sorted(weights), {}
    for number in range(4):
        file = f"model-{number + 1:05}-of-00004.safetensors"
        save_file({name: weights[name] for name in names[number::4]}, folder / file)
        index.update(dict.fromkeys(names[number::4], file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    small = published.write(tmp_path / "small")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_LOAD), folder, str(size + 0.2), dtype, small],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) == sum(weight.numel() for weight in weights.values())
