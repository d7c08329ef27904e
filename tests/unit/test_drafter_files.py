"""Drafters as files: pairs that do not fit are refused by file and key, and a GGUF target takes one
in 8 bits."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_gguf
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from blockdiff.cli import app as cli
from blockdiff.cli import doctor
from blockdiff.config import DecodingConfig, Mode
from blockdiff.diffusion.drafter import Speculation
from blockdiff.diffusion.row_costs import FREE
from blockdiff.engine import checkpoint as checkpoints
from blockdiff.engine import devices
from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.engine.engine import Engine
from blockdiff.errors import (
    BlockdiffError,
    ModelCorrupt,
    ModelNotFound,
    ModelUnsupported,
    OutOfMemory,
)
from blockdiff.model.int8 import library
from blockdiff.model.int8.quantized import QuantizedLinear
from blockdiff.model.load.drafter_config import drafter_config
from blockdiff.model.load.drafters import check_drafter, load_drafter
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.load.hub_config import read_json
from blockdiff.model.transformer import Transformer
from blockdiff.types import Finished, Hole, InfillRequest, no_op
from blockdiff.weights import catalog, store
from tests.parity.drafter_checkpoints import DRAFTERS, TARGET
from tests.parity.family_checkpoints import VOCABULARY, WIDTH


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    return load_transformer(TARGET.write(tmp_path_factory.mktemp("target")), dtype=torch.float32)


def refused(folder: Path, target: Transformer) -> BlockdiffError:
    with pytest.raises(BlockdiffError) as caught:
        load_drafter(folder, target, "the target", dtype=torch.float32)
    assert str(folder) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("kind", "key", "changes"),
    [
        (ModelUnsupported, "vocab_size is 128", {"vocab_size": 128}),
        (ModelUnsupported, "hidden_size is 64", {"hidden_size": 64}),
        (ModelUnsupported, "num_target_layers is 36", {"num_target_layers": 36}),
        (ModelUnsupported, "rope_theta is 1000000.0", {"rope_theta": 1e6}),
        (ModelUnsupported, "rotary scaling 'dynamic'", {"rope_scaling": {"type": "dynamic"}}),
        (ModelUnsupported, "layer_types", {"layer_types": ["sliding_attention"] * 2}),
        (ModelUnsupported, "architectures 'DFlash2DraftModel'",
         {"architectures": ["DFlash2DraftModel"]}),
        (ModelUnsupported, "architectures ''", {"architectures": None}),
        (ModelUnsupported, "model_type 'qwen2' of a drafter", {"model_type": "qwen2"}),
        (ModelUnsupported, "final_logit_softcapping 30.0", {"final_logit_softcapping": 30.0}),
        (ModelUnsupported, "is_causal True", {"is_causal": True}),
        (ModelUnsupported, "quantization_config", {"quantization_config": {}}),
        (ModelCorrupt, "num_target_layers", {"num_target_layers": None}),
        (ModelCorrupt, "num_hidden_layers is 900", {"num_hidden_layers": 900}),
        (ModelCorrupt, "mask_token_id", {"mask_token_id": None}),
        (ModelCorrupt, "mask_token_id is 96", {"mask_token_id": 96}),
        (ModelCorrupt, "mask_token_id", {"mask_token_id": True}),
        (ModelCorrupt, "block_size", {"block_size": 1}),
        (ModelCorrupt, "block_size", {"block_size": 1 << 40}),
        (ModelCorrupt, "target_layer_ids", {"target_layer_ids": [1, 0]}),
        (ModelCorrupt, "target_layer_ids", {"target_layer_ids": [0, 2]}),
        (ModelCorrupt, "target_layer_ids", {"target_layer_ids": []}),
        (ModelCorrupt, "target_layer_ids", {"target_layer_ids": "all"}),
        (ModelCorrupt, "markov_rank", {"markov_rank": -1}),
        (ModelCorrupt, "trigram", {"markov_head_type": "trigram"}),
        (ModelCorrupt, "markov_head.markov_w1.weight", {"markov_rank": 16}),
        (ModelUnsupported, "confidence_head.proj.bias", {"enable_confidence_head": False}),
        (ModelCorrupt, "confidence_head_with_markov", {"markov_rank": 0}),
    ],
)  # fmt: skip
def test_a_configuration_that_does_not_fit(
    kind: type[BlockdiffError], key: str, changes: dict[str, Any], target: Transformer,
    tmp_path: Path,
) -> None:  # fmt: skip
    error = refused(DRAFTERS["dspark"].write(tmp_path / "drafter", **changes), target)
    assert isinstance(error, kind) and key in error.message, error.message


def _without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in DRAFTERS["dspark"].weights().items() if key != name}


def _with(name: str, value: Tensor) -> dict[str, Tensor]:
    return DRAFTERS["dspark"].weights() | {name: value}


@pytest.mark.parametrize(
    ("kind", "name", "weights"),
    [
        (ModelCorrupt, "fc.weight", _without("fc.weight")),
        (ModelCorrupt, "fc.weight", _with("fc.weight", torch.ones(WIDTH, 3 * WIDTH))),
        (ModelCorrupt, "norm.weight", _with("norm.weight", torch.full((WIDTH,), torch.nan))),
        (ModelUnsupported, "attention_conv", _with("layers.0.attention_conv.base", torch.ones(2))),
        # a model of the same shape, but another one
        (ModelUnsupported, "embed_tokens.weight is not the embedding of the target",
         _with("embed_tokens.weight", torch.randn(VOCABULARY, WIDTH))),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(
    kind: type[BlockdiffError], name: str, weights: dict[str, Tensor], target: Transformer,
    tmp_path: Path,
) -> None:  # fmt: skip
    error = refused(DRAFTERS["dspark"].write(tmp_path / "drafter", weights), target)
    assert isinstance(error, kind) and name in error.message, error.message


def test_copies_of_the_targets_ends_are_not_kept_twice(target: Transformer, tmp_path: Path) -> None:
    for name, shared in (("dflash", True), ("dspark", True), ("dspark (no heads)", False)):
        folder = DRAFTERS[name].write(tmp_path / name)
        made = load_drafter(folder, target, "it", dtype=torch.float32)
        assert (made.stack.embedding is target.embedding) is shared, name
        assert (made.stack.head is target.head) is shared, name


def test_layers_are_chosen_where_none_are_named(target: Transformer, tmp_path: Path) -> None:
    folder = DRAFTERS["dflash"].write(
        tmp_path / "drafter", dflash_config={"mask_token_id": 3}, num_target_layers=36
    )
    config = drafter_config(read_json(folder / "config.json"), "it")
    assert config.layers == (1, 33)  # those of dflash 0.1.0 for two layers of a drafter


# --- a GGUF target, a drafter in 8 bits --------------------------------------------------------

needs_int8 = pytest.mark.skipif(
    library.available() != "", reason="no C compiler: " + library.available()
)


def gguf_pair(folder: Path) -> tuple[Path, Path]:
    """A tiny file, and a drafter for it whose widths int8 has."""
    model = tiny_gguf.write(folder / "tiny.gguf")
    shape, made = tiny_gguf.SHAPE, DRAFTERS["dspark"]
    config = made.config | {
        "vocab_size": shape.vocab_size, "hidden_size": 32, "head_dim": 16, "intermediate_size": 64,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_target_layers": 2,
        "target_layer_ids": [-1, 0], "mask_token_id": 261, "markov_rank": 32,
        "rope_theta": 10_000.0,
    }  # fmt: skip
    theirs = {key: torch.from_numpy(value) for key, value in tiny_gguf.weights().items()}
    torch.manual_seed(0)
    rows = {
        "fc.weight": (32, 64), "markov_head.markov_w1.weight": (shape.vocab_size, 32),
        "markov_head.markov_w2.weight": (shape.vocab_size, 32),
        "confidence_head.proj.weight": (1, 64), "confidence_head.proj.bias": (1,),
        "norm.weight": (32,), "hidden_norm.weight": (32,),
    }  # fmt: skip
    for index in range(2):
        rows |= {
            f"layers.{index}.{name}.weight": size
            for name, size in {
                "self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32),
                "self_attn.v_proj": (16, 32), "self_attn.o_proj": (32, 32),
                "self_attn.q_norm": (16,), "self_attn.k_norm": (16,),
                "mlp.gate_proj": (64, 32), "mlp.up_proj": (64, 32), "mlp.down_proj": (32, 64),
                "input_layernorm": (32,), "post_attention_layernorm": (32,),
            }.items()
        }  # fmt: skip
    weights = {name: torch.randn(size) * 0.3 + ("norm" in name) for name, size in rows.items()}
    weights["confidence_head.proj.bias"] = torch.full((1,), 6.0)  # or nothing would be drafted
    weights["embed_tokens.weight"] = theirs["token_embd.weight"]
    weights["lm_head.weight"] = theirs["output.weight"]
    drafter = folder / "drafter"
    drafter.mkdir()
    (drafter / "config.json").write_text(json.dumps(config))
    save_file(weights, drafter / "model.safetensors")
    return model, drafter


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path


def text(engine: Engine, mode: Mode, document: str) -> Finished:
    request = InfillRequest(
        document, Hole(len(document) // 2, len(document) // 2), language="python",
        decoding=DecodingConfig(mode=mode, max_tokens=24),
    )  # fmt: skip
    *_, end = engine.infill(request)
    assert isinstance(end, Finished)
    return end


@needs_int8
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_gguf_target_takes_a_drafter(cache: Path, dtype: str) -> None:
    """Its text is that of `ar`, in one dtype as in the other, and from a context that is known."""
    model, drafter = gguf_pair(cache)
    engine = Engine.load(str(model), device="cpu", dtype=dtype, drafter=str(drafter))
    assert engine.drafts and engine.checkpoint.drafter is not None
    assert (engine.checkpoint.drafter.stack.fused is not None) is (dtype == "int8")
    contexts = engine.contexts
    contexts.speculation = Speculation(FREE, most=0)  # whatever is drafted is verified
    for document in ("abab ab\n", "x = 1\ny = 2\n", "ab" * 20, "def f(a):\n    return a\n"):
        expected = text(engine, Mode.AR, document)
        written = text(engine, Mode.VERIFY, document)
        assert (written.text, written.tokens) == (expected.text, expected.tokens)
        assert 0 < written.forwards <= expected.forwards
    assert engine.contexts.store.nbytes > 0


@needs_int8
def test_eight_bits_draft_almost_what_floats_do(cache: Path) -> None:
    model, drafter = gguf_pair(cache)
    blocks = {}
    for dtype in ("int8", "float32"):
        engine = Engine.load(str(model), device="cpu", dtype=dtype, drafter=str(drafter))
        made, target = engine.checkpoint.drafter, engine.checkpoint.transformer
        assert made is not None
        with engine.behind([5, 9, 11, 30, 7], DecodingConfig(mode=Mode.VERIFY, max_tokens=8)) as s:
            s.prefill([5, 9, 11, 30, 7])
            seen: list[Tensor] = []
            forward = s.drafting_forward(7, seen.append)
            assert forward is not None
            (logits,) = s.alone([forward])
            blocks[dtype] = torch.cat([logits, seen[0]], dim=1)
        assert target.device.type == "cpu"
    cosine = torch.nn.functional.cosine_similarity(blocks["int8"], blocks["float32"], dim=1)
    assert cosine.min() > 0.99


@needs_int8
def test_the_command_takes_one(cache: Path) -> None:
    model, drafter = gguf_pair(cache)
    source = cache / "a.py"
    source.write_text("x = 1\n\ny = 2\n")
    asked = ["infill", str(source), "--at", "2:1", "--model", str(model), "--max-tokens", "6",
             "--device", "cpu", "--dtype", "int8", "--json"]  # fmt: skip
    texts = []
    for more in (["--mode", "ar"], ["--drafter", str(drafter)]):
        done = CliRunner().invoke(cli.app, [*asked, *more], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        texts.append(json.loads(done.stdout.splitlines()[-1])["text"])
    assert texts[0] == texts[1]


def test_what_does_not_go_together_is_refused(cache: Path) -> None:
    _, drafter = gguf_pair(cache)
    source = cache / "a.py"
    source.write_text("x = 1\n\ny = 2\n")
    asked = ["infill", str(source), "--at", "2:1", "--device", "cpu", "--dtype", "float32"]
    for more, said in (
        (["--mode", "ar", "--drafter", str(drafter)], "--mode ar takes no drafts"),
        (["--model", str(drafter), "--no-engine"], "is a drafter and writes nothing by itself"),
    ):
        done = CliRunner().invoke(cli.app, [*asked, *more])
        assert said in str(done.exception or done.output), done.output


# --- names -------------------------------------------------------------------------------------


def test_a_drafter_is_no_model_and_a_model_no_drafter(cache: Path) -> None:
    with pytest.raises(ModelUnsupported, match="drafts for qwen3-8b") as caught:
        store.resolve("qwen3-8b-dspark")
    assert caught.value.hint == "use --model qwen3-8b --drafter qwen3-8b-dspark"
    with pytest.raises(ModelNotFound, match="no drafter is called qwen3-8b") as unknown:
        store.resolve_drafter("qwen3-8b")
    assert "did you mean qwen3-8b-d" in unknown.value.hint
    with pytest.raises(ModelNotFound, match="qwen3-8b-dflash is not downloaded"):
        store.resolve_drafter("qwen3-8b-dflash")
    with pytest.raises(ModelNotFound, match="there is no folder"):
        store.resolve_drafter(str(cache / "nothing"))
    (cache / "drafter.gguf").touch()
    with pytest.raises(ModelUnsupported, match=r"drafter\.gguf is a file"):
        store.resolve_drafter(str(cache / "drafter.gguf"))


def test_every_drafter_of_the_catalogue_fits_its_target() -> None:
    known = catalog.published()
    for name, one in catalog.drafters().items():
        target = known[one.target].config
        for key in ("vocab_size", "hidden_size"):
            assert one.config[key] == target[key], name
        assert one.config["num_target_layers"] == target["num_hidden_layers"], name


def test_a_drafter_is_listed_under_its_target(cache: Path) -> None:
    listed = CliRunner().invoke(cli.app, ["models", "list"]).output.splitlines()
    names = [line.split()[0] for line in listed]
    at = names.index("qwen3-8b")
    assert names[at + 1 : at + 3] == ["qwen3-8b-dflash", "qwen3-8b-dspark"]
    assert "draft for qwen3-8b" in listed[at + 1]


@pytest.mark.parametrize(
    ("asked", "value", "fix"),
    [
        ("qwen3-8b-dspark", "qwen3-8b-dspark is not downloaded",
         "download it: blockdiff models pull qwen3-8b-dspark"),
        ("./nothing", "there is no folder", "check --drafter"),
        ("drafter", "", ""),
    ],
)  # fmt: skip
def test_doctor_looks_for_a_drafter(asked: str, value: str, fix: str, cache: Path) -> None:
    _, folder = gguf_pair(cache)
    name = str(folder) if asked == "drafter" else asked
    checks = {check.name: check for check in doctor.examine("qwen3-8b", name)}
    found = checks["drafter"]
    assert found.ok is (fix == "") and found.fix == fix and (value or name) in found.value


def test_doctor_counts_a_drafters_memory(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory", lambda: 11_000_000_000)
    assert doctor._memory("qwen3-8b").ok
    both = doctor._memory("qwen3-8b", "qwen3-8b-dspark")
    assert not both.ok and "the model and its drafter need 11.3" in both.value


def test_info_says_what_one_costs(cache: Path) -> None:
    _, drafter = gguf_pair(cache)
    shown = {
        name: CliRunner().invoke(cli.app, ["models", "info", name]).output
        for name in ("qwen3-8b", "qwen3-8b-dspark", str(drafter))
    }
    assert "drafter   qwen3-8b-dspark (dspark)" in shown["qwen3-8b"]
    assert "a draft reads 23% of the weights" in shown["qwen3-8b-dspark"]
    assert "in int8, 19.48 GB in bfloat16, with qwen3-8b" in shown["qwen3-8b-dspark"]
    assert "draft 5 tokens for a model of 2 layers, width 32" in shown[str(drafter)]


# --- memory ------------------------------------------------------------------------------------


@needs_int8
@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["dflash", "dspark"])
def test_what_a_drafter_takes_is_known_before_it_is_read(
    kind: str, dtype: torch.dtype, cache: Path
) -> None:
    """Without embedding and head, which are its target's."""
    model, folder = gguf_pair(cache)
    if kind == "dflash":
        _without_ends(folder)
    point = Checkpoint.load(str(model), torch.device("cpu"), dtype, no_op, str(folder))
    made, target = point.drafter, point.transformer
    assert made is not None
    own = [m for m in made.modules() if isinstance(m, QuantizedLinear)]
    ends = {id(m) for m in target.modules()}
    floats = {p.data_ptr(): p.nbytes for p in made.parameters()}
    for parameter in target.parameters():
        floats.pop(parameter.data_ptr(), None)
    held = sum(m.nbytes for m in own if id(m) not in ends) + sum(floats.values())
    needed = check_drafter(folder, target.config, "it", dtype=dtype)
    assert needed == pytest.approx(held, rel=0.05)


def _without_ends(folder: Path) -> None:
    """Make the drafter of `gguf_pair` one of DFlash."""
    config = read_json(folder / "config.json")
    config |= {"architectures": ["DFlashDraftModel"], "markov_rank": 0,
               "enable_confidence_head": False, "confidence_head_with_markov": False}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    kept = {
        name: tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if not name.startswith(("markov", "confidence", "embed", "lm_head"))
    }
    save_file(kept, folder / "model.safetensors")


def test_a_pair_that_does_not_fit_into_memory_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any weight is read, where the model alone would fit; likewise a pair that is none."""
    model, drafter = gguf_pair(cache)
    Engine.load(str(model), device="cpu", dtype="float32")  # unpacked now
    asked: list[tuple[int, int]] = []
    known = devices.check_memory

    def noted(needed: int, device: torch.device, drafter: int = 0) -> None:
        asked.append((needed, drafter))
        known(needed, device, drafter)

    monkeypatch.setattr(checkpoints, "check_memory", noted)
    Engine.load(str(model), device="cpu", dtype="float32", drafter=str(drafter))
    ((needed, beside),) = asked
    free = SimpleNamespace(available=needed + beside + devices._HEADROOM - 1)
    monkeypatch.setattr(devices.psutil, "virtual_memory", lambda: free)
    Engine.load(str(model), device="cpu", dtype="float32")
    monkeypatch.setattr(checkpoints, "load_transformer", None)
    monkeypatch.setattr(checkpoints, "load_drafter", None)
    with pytest.raises(OutOfMemory, match="of it for the drafter") as caught:
        Engine.load(str(model), device="cpu", dtype="float32", drafter=str(drafter))
    assert "leave --drafter out" in caught.value.hint
    config = read_json(drafter / "config.json") | {"rope_theta": 1e6}
    (drafter / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnsupported, match="rope_theta is 1000000.0"):
        Engine.load(str(model), device="cpu", dtype="float32", drafter=str(drafter))
