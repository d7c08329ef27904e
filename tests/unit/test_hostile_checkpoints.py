"""Published checkpoints that are damaged or lie: one typed error that names the file and the key.

Nothing beside the weights is run, and nothing is allocated because a file asks for it.
"""

from __future__ import annotations

import json
import pickle
import random
import resource
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from blockdiff.errors import BlockdiffError, ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.checkpoint import FORMAT, load_transformer
from blockdiff.model.kinds import kind_of
from blockdiff.model.transformer import Transformer
from tests.parity.family_checkpoints import CHECKPOINTS
from tests.unit import tiny

FAMILIES = ["dream", "llada", "llada2", "sdar-moe", "stable-diffcoder", "ar (starcoder2)"]
ROOT = Path(__file__).resolve().parents[2]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    return load_transformer(folder, dtype=dtype)


def one_file(
    folder: Path, family: str, weights: dict[str, Tensor] | None = None, **changes: Any
) -> Path:
    """A tiny checkpoint in a single file, its configuration changed; None takes a key away."""
    published = CHECKPOINTS[family]
    config = published.config | changes
    config = {k: v for k, v in config.items() if k not in changes or v is not None}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(published.weights() if weights is None else weights, folder / "model.safetensors")
    return folder


# --- tensors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_tensor_is_named(family: str, tmp_path: Path) -> None:
    for name in CHECKPOINTS[family].shapes:
        weights = CHECKPOINTS[family].weights()
        del weights[name]
        with pytest.raises(ModelCorrupt) as caught:
            load(one_file(tmp_path, family, weights))
        assert str(tmp_path) in caught.value.message
        assert name in caught.value.message


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("extra", ["model.layers.1.self_attn.sinks", "lm_head.bias", "x"])
def test_a_tensor_that_nobody_reads_is_named(family: str, extra: str, tmp_path: Path) -> None:
    weights = CHECKPOINTS[family].weights() | {extra: torch.ones(3)}
    with pytest.raises(ModelUnsupported) as caught:
        load(one_file(tmp_path, family, weights))
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
            load(one_file(tmp_path, family, weights))
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
        folder = one_file(tmp_path, "llada2", weights)
        for dtype in (torch.float32, torch.bfloat16):
            with pytest.raises(ModelCorrupt) as caught:
                load(folder, dtype)
            assert f"{folder / 'model.safetensors'}: tensor {name} holds" in caught.value.message


def test_a_number_that_the_dtype_asked_for_cannot_hold_is_not_made_infinite(tmp_path: Path) -> None:
    weights = CHECKPOINTS["dream"].weights()
    weights["lm_head.weight"][0, 0] = 1e30
    folder = one_file(tmp_path, "dream", weights)
    load(folder, torch.bfloat16)
    with pytest.raises(ModelUnsupported, match=r"lm_head.weight does not fit into torch.float16"):
        load(folder, torch.float16)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.float64])
def test_weights_of_another_kind_of_number_are_refused(kind: torch.dtype, tmp_path: Path) -> None:
    weights = CHECKPOINTS["dream"].weights()
    weights["model.layers.0.self_attn.o_proj.weight"] = torch.zeros(32, 32, dtype=kind)
    with pytest.raises(ModelUnsupported, match=r"o_proj.weight holds "):
        load(one_file(tmp_path, "dream", weights))


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
    folder = one_file(tmp_path, "dream")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelCorrupt, match=str(folder / "model.safetensors")):
        load(folder)


def test_a_header_may_not_point_outside_its_file(tmp_path: Path) -> None:
    folder = one_file(tmp_path, "dream")
    header = {"lm_head.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 64)
    with pytest.raises(ModelCorrupt, match=str(folder / "model.safetensors")):
        load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickle_is_never_opened(name: str, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    payload = f"cbuiltins\neval\n(S'open({str(trap)!r}, \"w\")'\ntR.".encode()
    folder = one_file(tmp_path / "model", "dream")
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
    folder = one_file(tmp_path, "dream")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelCorrupt, match=complaint) as caught:
        load(folder)
    assert str(folder) in caught.value.message


def test_files_that_the_index_does_not_name_are_left_alone(tmp_path: Path) -> None:
    folder = CHECKPOINTS["dream"].write(tmp_path)
    (folder / "consolidated.safetensors").write_bytes(b"of another format")
    assert load(folder).config.vocab_size == 96


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = one_file(tmp_path, "dream")
    save_file({"lm_head.weight": torch.zeros(96, 32)}, folder / "other.safetensors")
    with pytest.raises(ModelCorrupt, match=r"other.safetensors: tensor lm_head.weight is in "):
        load(folder)


# --- configuration -----------------------------------------------------------------------------

ABSURD = [
    ("dream", "vocab_size", 10**9), ("dream", "hidden_size", 10**9), ("dream", "vocab_size", -1),
    ("dream", "num_hidden_layers", 10**9), ("dream", "num_hidden_layers", 1000),
    ("dream", "num_attention_heads", 0), ("dream", "num_key_value_heads", 3),
    ("dream", "intermediate_size", "52"), ("dream", "hidden_size", 32.0),
    ("dream", "rms_norm_eps", -1.0), ("dream", "rms_norm_eps", float("nan")),
    ("dream", "rope_theta", 0), ("dream", "rope_theta", float("inf")),
    ("dream", "tie_word_embeddings", "yes"), ("dream", "max_position_embeddings", 10**12),
    ("dream", "vocab_size", True), ("dream", "vocab_size", [96]),
    ("coda", "head_dim", 10**9), ("coda", "head_dim", 7),
    ("sdar-moe", "num_experts", 10**9), ("sdar-moe", "num_experts", 100_000),
    ("sdar-moe", "num_experts_per_tok", 9), ("sdar-moe", "moe_intermediate_size", 0),
    ("llada2", "n_group", 3), ("llada2", "n_group", 8), ("llada2", "topk_group", 5),
    ("llada2", "num_shared_experts", 10**9), ("llada2", "first_k_dense_replace", 10**9),
    ("llada2", "partial_rotary_factor", 1.5), ("llada2", "partial_rotary_factor", 0.2),
    ("llada", "embedding_size", 10**9), ("llada", "d_model", 10**9), ("llada", "n_layers", 10**9),
    ("llada", "mlp_hidden_size", 10**9), ("llada", "n_heads", 5),
    ("ar (starcoder2)", "sliding_window", -7), ("ar (starcoder2)", "norm_epsilon", None),
]  # fmt: skip


@pytest.mark.parametrize(("family", "key", "value"), ABSURD)
def test_an_impossible_size_is_refused_before_memory_is_asked_for(
    family: str, key: str, value: Any, tmp_path: Path
) -> None:
    folder = one_file(tmp_path, family, **{key: value})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelCorrupt) as caught:
        load(folder)
    assert str(folder) in caught.value.message
    # kilobytes; the smallest of these sizes, believed, would be hundreds of megabytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


@pytest.mark.parametrize(
    ("family", "key"), sorted({(family, key) for family, key, value in ABSURD if value != 7})
)
def test_the_error_names_the_key(family: str, key: str, tmp_path: Path) -> None:
    folder = one_file(tmp_path, family, **{key: "nonsense"})
    with pytest.raises(ModelCorrupt, match=rf"config.json: {key} is 'nonsense'"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vocab_size": 10**9}, "vocab_size is 1000000000"),
        ({"n_layers": 10**9}, "n_layers is 1000000000"),
        ({"n_layers": 1000}, "num_hidden_layers is 1000"),
        ({"hidden_size": "16"}, "hidden_size is '16'"), ({"head_dim": None}, "head_dim"),
        ({"rope_base": -1.0}, "rope_base is -1.0"), ({"qkv_bias": 1}, "qkv_bias is 1"),
        ({"n_kv_heads": 3}, "cannot share"), ({"experts": {"count": 10**9}}, "no experts"),
        ({"surprise": 1}, "unknown keys"), ({"hidden_size": 1 << 17}, "do not make"),
    ],
)  # fmt: skip
def test_a_folder_that_claims_to_be_ours_is_believed_no_more(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    shape = tiny.config()
    record = {"blockdiff_format": FORMAT, "transformer": asdict(shape), "packed": {}}
    save_file(dict(tiny.transformer(shape).named_parameters()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert load(tmp_path).config == shape
    (tmp_path / "config.json").write_text(
        json.dumps(record | {"transformer": asdict(shape) | changes})
    )
    with pytest.raises((ModelCorrupt, ModelUnsupported), match=complaint) as caught:
        load(tmp_path)
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize(
    "packed", [[], {"head.weight": 3}, {"head.weight": [{"format": "q9"}]}, {"head.weight": [{}]}]
)
def test_formats_that_are_none_are_refused(packed: Any, tmp_path: Path) -> None:
    shape = tiny.config(hidden_size=32, ffn_size=64)
    weights = dict(tiny.transformer(shape).named_parameters())
    weights["head.weight.0"] = weights.pop("head.weight")
    save_file(weights, tmp_path / "model.safetensors")
    record = {"blockdiff_format": FORMAT, "transformer": asdict(shape), "packed": packed}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises((ModelCorrupt, ModelUnsupported), match=str(tmp_path)):
        load(tmp_path, torch.int8)


def test_large_sizes_that_are_possible_are_held_against_the_tensors(tmp_path: Path) -> None:
    """Within the limits of each key, 2 TB by themselves."""
    folder = one_file(tmp_path, "dream", vocab_size=1 << 22, hidden_size=1 << 17)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelCorrupt, match="do not make a tensor of shape"):
        load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("dream", {"hidden_act": "gelu"}), ("dream", {"use_sliding_window": True}),
        ("dream", {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
        ("dream", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        ("dream", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("sdar-moe", {"decoder_sparse_step": 2}), ("sdar-moe", {"mlp_only_layers": [1]}),
        ("llada2", {"score_function": "softmax"}), ("llada2", {"norm_topk_prob": False}),
        ("llada2", {"hidden_act": "relu"}),
        ("llada", {"block_type": "sequential"}), ("llada", {"alibi": True}),
        ("llada", {"attention_layer_norm": True}), ("llada", {"scale_logits": True}),
        ("llada", {"include_bias": True}), ("llada", {"activation_type": "gelu"}),
        ("ar (starcoder2)", {"hidden_act": "silu"}),
        ("dream", {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}),
    ],
)  # fmt: skip
def test_what_the_stack_does_not_have_is_refused_by_its_key(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = one_file(tmp_path, family, **changes)
    with pytest.raises(ModelUnsupported) as caught:
        load(folder)
    assert str(folder) in caught.value.message
    words = {"rope_scaling": "yarn", "architectures": "mamba"}
    assert words.get(key := next(iter(changes)), key) in caught.value.message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\xff", "[" * 100_000, '{"model_type": "dream"}', "{}"]
)
def test_a_config_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    folder = one_file(tmp_path, "dream")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises((ModelCorrupt, ModelUnsupported)) as caught:
        load(folder)
    assert str(folder) in caught.value.message


def test_a_config_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    folder = one_file(tmp_path, "dream")
    with open(folder / "config.json", "ab") as file:
        file.truncate(1 << 33)  # sparse: it takes no room
    with pytest.raises(ModelCorrupt, match=r"config.json: 8589934592 bytes are too many"):
        load(folder)


@pytest.mark.parametrize("absent", ["folder", "config.json", "model.safetensors"])
def test_what_is_not_there_is_said_so(absent: str, tmp_path: Path) -> None:
    folder = one_file(tmp_path / "model", "dream")
    if absent == "folder":
        folder = tmp_path / "elsewhere"
    else:
        (folder / absent).unlink()
    with pytest.raises(ModelNotFound, match=str(folder)):
        load(folder)


def test_int8_says_what_it_does_not_cover(tmp_path: Path) -> None:
    with pytest.raises(BlockdiffError, match="mixtures of experts"):
        load(one_file(tmp_path, "llada2"), torch.int8)


_VALUES: list[Any] = [
    None, 0, -1, 1, 3, 7, 10**9, 10**30, 1.5, -0.0, float("nan"), float("inf"), True, False, "",
    "x", "96", [], [1], [None], {}, {"type": "linear"}, {"rope_type": "llama3"},
    {"rope_type": "linear", "factor": 0}, {"rope_type": []}, ["full_attention"], {"a": [{}]},
]  # fmt: skip
_KEYS = [
    "rope_scaling", "rope_parameters", "layer_types", "quantization_config", "mlp_only_layers",
    "partial_rotary_factor", "head_dim", "block_size", "bos_token_id", "attention_bias",
]  # fmt: skip


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_whatever_a_config_says_it_is_read_or_refused(family: str, tmp_path: Path) -> None:
    """Seeded: one to three keys with values of every kind; any other exception is a defect."""
    published, stream = CHECKPOINTS[family], random.Random(family)
    folder = published.write(tmp_path)
    outcomes = set()
    for _ in range(60):
        chosen = stream.sample([*published.config, *_KEYS], stream.choice([1, 1, 2, 3]))
        changes = {key: stream.choice(_VALUES) for key in chosen}
        (folder / "config.json").write_text(json.dumps(published.config | changes))
        for attempt in (load, kind_of):
            try:
                attempt(folder)
                outcomes.add("read")
            except BlockdiffError as error:
                assert str(folder) in error.message, changes
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "added_tokens.json", "tokenizer_config.json",
             "special_tokens_map.json", "generation_config.json"],
)  # fmt: skip
def test_whatever_a_tokenizer_says_it_is_read_or_refused(file: str, tmp_path: Path) -> None:
    stream = random.Random(file)
    folder = CHECKPOINTS["dream"].write(tmp_path)
    keys = [
        "added_tokens", "model", "added_tokens_decoder", "mask_token", "eos_token_id",
        "expand_token_id", "<|mask|>",
    ]  # fmt: skip
    inner = [{"content": "<|mask|>", "id": 90}, {"vocab": {"<|mask|>": 90}}, {"90": {}}]
    for _ in range(200):
        values = [*_VALUES, *inner, [stream.choice([*inner, *_VALUES])]]
        content = {key: stream.choice(values) for key in stream.sample(keys, 2)}
        (folder / file).write_text(json.dumps(content))
        try:
            kind_of(folder)
        except BlockdiffError as error:
            assert str(folder) in error.message, content


# --- memory ------------------------------------------------------------------------------------

_LOAD = """
    import resource, sys
    from pathlib import Path
    import torch
    from blockdiff.model.checkpoint import FORMAT, load_transformer

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
