"""From a GGUF file to weights: exact for every quantization, whole or not there at all."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors import safe_open

from blockdiff.errors import DiskFull, ModelCorrupt, ModelUnsupported, OutputFileError
from blockdiff.model.config import TransformerConfig
from blockdiff.model.load import gguf_file, prepare
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.load.gguf_config import unpermute
from blockdiff.model.load.prepare import is_prepared, prepare_gguf
from blockdiff.model.transformer import Transformer
from blockdiff.weights import store
from blockdiff.weights.catalog import DEFAULT_MODEL
from tests.unit.tiny import config, forward, transformer

Kind = GGMLQuantizationType
Tensors = dict[str, np.ndarray[Any, Any]]
SHAPE: dict[str, Any] = dict(
    hidden_size=64, head_dim=16, ffn_size=96, vocab_size=40, rope_base=5e4,
    norm_eps=2.0**-17,
)  # fmt: skip
SHAPES = {
    "llama": config(**SHAPE, qkv_bias=False),
    "qwen2": config(**SHAPE, tied_embeddings=True),
    "qwen3": config(**SHAPE, qkv_bias=False, qk_norm=True, tied_embeddings=True),
}
WRITABLE = [
    Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1,
]  # fmt: skip
K_QUANTS = [Kind.Q4_K, Kind.Q6_K]


def permute(weight: Any, heads: int) -> Any:
    """How llama.cpp's converter stores Llama's queries and keys."""
    paired = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return paired.swapaxes(1, 2).reshape(weight.shape)


def published(model: Transformer, family: str) -> Tensors:
    """The tensors of a model under the names of GGUF, in float32."""
    c, found = model.config, {}
    found["token_embd.weight"] = model.embedding.weight
    found["output_norm.weight"] = model.norm.weight
    if not c.tied_embeddings:
        found["output.weight"] = model.head.weight
    for i, block in enumerate(model.blocks):
        prefix = f"blk.{i}."
        found[f"{prefix}attn_norm.weight"] = block.attention_norm.weight
        found[f"{prefix}ffn_norm.weight"] = block.ffn_norm.weight
        found[f"{prefix}attn_output.weight"] = block.attention.o.weight
        found[f"{prefix}ffn_down.weight"] = block.ffn.down.weight
        gate, up = block.ffn.gate_up.weight.chunk(2)
        found[f"{prefix}ffn_gate.weight"], found[f"{prefix}ffn_up.weight"] = gate, up
        sizes = [n * c.head_dim for n in (c.n_heads, c.n_kv_heads, c.n_kv_heads)]
        q, k, v = block.attention.qkv.weight.split(sizes)
        if family == "llama":
            q, k = permute(q, c.n_heads), permute(k, c.n_kv_heads)
        for part, weight in zip("qkv", (q, k, v), strict=True):
            found[f"{prefix}attn_{part}.weight"] = weight
        if c.qkv_bias:
            for part, bias in zip("qkv", block.attention.qkv.bias.split(sizes), strict=True):
                found[f"{prefix}attn_{part}.bias"] = bias
        if c.qk_norm:
            found[f"{prefix}attn_q_norm.weight"] = block.attention.q_norm.weight
            found[f"{prefix}attn_k_norm.weight"] = block.attention.k_norm.weight
    return {name: tensor.numpy() for name, tensor in found.items()}


def write_gguf(
    path: Path,
    shape: TransformerConfig,
    family: str,
    tensors: Tensors,
    kinds: Callable[[str], Kind] = lambda name: Kind.F32,
    **more: Any,
) -> Path:
    """Matrices in the kind asked for, vectors in F32 as in every published file."""
    writer = GGUFWriter(path, family)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.max_positions)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.ffn_size)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_freq_base(shape.rope_base)
    for key, value in more.items():
        writer.add_string(key.replace("__", "."), value)
    for name, tensor in tensors.items():
        kind = kinds(name) if tensor.ndim == 2 else Kind.F32
        if tensor.dtype == np.uint8:
            writer.add_tensor(name, tensor, raw_dtype=kind)
        else:
            writer.add_tensor(name, quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def bf16_model(family: str, seed: int = 0) -> Transformer:
    """Random weights that bfloat16 holds exactly."""
    model = transformer(SHAPES[family], seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return model


def tiny_gguf(folder: Path, family: str = "qwen2", **more: Any) -> Path:
    model = bf16_model(family)
    return write_gguf(
        folder / "tiny.gguf", model.config, family, published(model, family), **more
    )


def expected_rows(tensors: Tensors, kind: Kind, names: list[str]) -> torch.Tensor:
    parts = [dequantize(quantize(tensors[name], kind), kind) for name in names]
    return torch.from_numpy(np.concatenate(parts)).bfloat16()


# --- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", sorted(SHAPES))
@pytest.mark.parametrize("kind", [Kind.F32, Kind.BF16])
def test_weights_come_out_as_they_went_in(family: str, kind: Kind, tmp_path: Path) -> None:
    """Llama's permuted queries and keys included: the logits are those of the origin."""
    model = bf16_model(family)
    tensors = published(model, family)
    path = write_gguf(tmp_path / "a.gguf", model.config, family, tensors, lambda name: kind)
    prepare_gguf(path, tmp_path / "prepared")
    loaded = load_transformer(tmp_path / "prepared", dtype=torch.float32)
    assert loaded.config == model.config
    for (name, ours), theirs in zip(
        loaded.named_parameters(), model.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    assert torch.equal(forward(loaded, tokens), forward(model, tokens))


@pytest.mark.parametrize("family", sorted(SHAPES))
@pytest.mark.parametrize("kind", WRITABLE, ids=lambda kind: kind.name)
def test_every_quantization_is_the_rounding_of_its_values_to_bfloat16(
    family: str, kind: Kind, tmp_path: Path
) -> None:
    model = transformer(SHAPES[family])
    tensors = published(model, family)
    path = write_gguf(tmp_path / "a.gguf", model.config, family, tensors, lambda name: kind)
    prepare_gguf(path, tmp_path / "prepared")
    loaded = load_transformer(tmp_path / "prepared", dtype=torch.bfloat16)
    attention, ffn = loaded.blocks[1].attention, loaded.blocks[1].ffn
    cases = {
        loaded.embedding.weight: ["token_embd.weight"],
        attention.o.weight: ["blk.1.attn_output.weight"],
        ffn.gate_up.weight: ["blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"],
        ffn.down.weight: ["blk.1.ffn_down.weight"],
    }
    for ours, names in cases.items():
        assert torch.equal(ours, expected_rows(tensors, kind, names)), names
    q, k, v = (expected_rows(tensors, kind, [f"blk.1.attn_{part}.weight"]) for part in "qkv")
    if family == "llama":
        q, k = unpermute(q, model.config.n_heads), unpermute(k, model.config.n_kv_heads)
    assert torch.equal(attention.qkv.weight, torch.cat([q, k, v]))
    assert torch.equal(loaded.norm.weight, model.norm.weight.bfloat16())
    if kind not in (Kind.F32, Kind.F16, Kind.BF16):
        assert not torch.equal(ffn.down.weight, model.blocks[1].ffn.down.weight.bfloat16())


def test_unpermute_undoes_what_the_converter_does() -> None:
    weight = torch.arange(4 * 6 * 5).view(24, 5)
    for heads in (1, 2, 4, 12):
        stored = permute(weight, heads)
        assert heads == 12 or not torch.equal(stored, weight)
        assert torch.equal(unpermute(stored, heads), weight)


def random_blocks(rows: int, columns: int, kind: Kind, seed: int) -> np.ndarray[Any, Any]:
    """Any bits make a block, but for its scales, which are to be small and finite."""
    block, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    scales = slice(0, 4) if kind is Kind.Q4_K else slice(size - 2, size)
    count = (scales.stop - scales.start) // 2
    small = rng.uniform(0.001, 0.01, (rows, columns // block, count)).astype(np.float16)
    data[:, :, scales] = small.view(np.uint8).reshape(rows, columns // block, 2 * count)
    return data.reshape(rows, -1)


def plain_q4_k(block: np.ndarray[Any, Any]) -> list[float]:
    """One block of 256 weights by ggml's own description: 8 groups of 32, scales of 6 bits."""
    d, dmin = (float(x) for x in block[:4].view(np.float16))
    s, quants, out = block[4:16].astype(int), block[16:].astype(int), []
    for group in range(8):
        if group < 4:
            scale, low = s[group] & 63, s[group + 4] & 63
        else:
            scale = (s[group + 4] & 15) | (s[group - 4] >> 6) << 4
            low = (s[group + 4] >> 4) | (s[group] >> 6) << 4
        for i in range(32):
            byte = quants[32 * (group // 2) + i]
            nibble = byte >> 4 if group % 2 else byte & 15
            out.append(d * scale * nibble - dmin * low)
    return out


def plain_q6_k(block: np.ndarray[Any, Any]) -> list[float]:
    """One block of 256 weights: 4 low bits, 2 high bits, 16 scales of 8 bits."""
    low, high = block[:128].astype(int), block[128:192].astype(int)
    scales, d = block[192:208].view(np.int8).astype(int), float(block[208:].view(np.float16)[0])
    out = []
    for half in range(2):
        for quarter in range(4):
            for i in range(32):
                byte = low[64 * half + 32 * (quarter % 2) + i]
                nibble = byte >> 4 if quarter >= 2 else byte & 15
                bits = high[32 * half + i] >> 2 * quarter & 3
                scale = scales[8 * half + 2 * quarter + i // 16]
                out.append(d * scale * ((nibble | bits << 4) - 32))
    return out


@pytest.mark.parametrize("kind", K_QUANTS, ids=lambda kind: kind.name)
def test_k_quants_are_unpacked_as_ggml_describes_them(kind: Kind, tmp_path: Path) -> None:
    """Blocks of random bits, in one matrix of a file that is otherwise F32."""
    shape = config(
        **(SHAPE | dict(hidden_size=256, head_dim=64)), tied_embeddings=True, n_layers=1
    )
    tensors = published(transformer(shape), "qwen2")
    blocks = random_blocks(shape.ffn_size, 256, kind, seed=1)
    tensors["blk.0.ffn_up.weight"] = blocks

    def kinds(name: str) -> Kind:
        return kind if name == "blk.0.ffn_up.weight" else Kind.F32

    path = write_gguf(tmp_path / "a.gguf", shape, "qwen2", tensors, kinds)
    prepare_gguf(path, tmp_path / "prepared")
    loaded = load_transformer(tmp_path / "prepared", dtype=torch.bfloat16)
    up = loaded.blocks[0].ffn.gate_up.weight[shape.ffn_size :].float()
    plain = plain_q4_k if kind is Kind.Q4_K else plain_q6_k
    for row in (0, 17, shape.ffn_size - 1):
        expected = torch.tensor(plain(blocks[row]), dtype=torch.float32)
        assert torch.allclose(up[row], expected, rtol=2**-8, atol=1e-4)
    assert up.std() > 0.01


def test_a_matrix_of_many_rows_is_unpacked_in_slices_without_a_seam(tmp_path: Path) -> None:
    shape = config(**(SHAPE | dict(vocab_size=gguf_file._ROWS + 37)), tied_embeddings=True)
    tensors = published(transformer(shape), "qwen2")
    path = write_gguf(tmp_path / "a.gguf", shape, "qwen2", tensors, lambda name: Kind.Q8_0)
    prepare_gguf(path, tmp_path / "prepared")
    loaded = load_transformer(tmp_path / "prepared", dtype=torch.bfloat16)
    expected = expected_rows(tensors, Kind.Q8_0, ["token_embd.weight"])
    assert torch.equal(loaded.embedding.weight, expected)


def test_shards_make_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_SHARD_BYTES", 20_000)
    seen: list[float] = []
    path = tiny_gguf(tmp_path)
    prepare_gguf(path, tmp_path / "prepared", lambda what, share: seen.append(share))
    assert len(list((tmp_path / "prepared").glob("*.safetensors"))) > 3
    loaded = load_transformer(tmp_path / "prepared", dtype=torch.float32)
    assert torch.equal(forward(loaded, [1, 2, 3]), forward(bf16_model("qwen2"), [1, 2, 3]))
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


# --- tied or not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "head", "tied"),
    [
        ("qwen2", "none", True),
        ("llama", "none", True),
        ("qwen2", "the embedding in more bits", True),
        ("qwen3", "the embedding in more bits", True),
        ("qwen2", "another matrix", False),
        ("llama", "another matrix", False),
        ("llama", "the embedding in more bits", False),
    ],
)
def test_tied_embeddings_are_recognized(
    family: str, head: str, tied: bool, tmp_path: Path
) -> None:
    """Where a file carries a tied matrix twice, the finer copy serves as both."""
    shape = config(**SHAPE, qkv_bias=family == "qwen2", qk_norm=family == "qwen3")
    tensors = published(transformer(shape), family)
    embedding, other = tensors["token_embd.weight"], tensors.pop("output.weight")
    if head == "the embedding in more bits":
        tensors["output.weight"] = embedding
    elif head == "another matrix":
        tensors["output.weight"] = other

    def kinds(name: str) -> Kind:
        return Kind.Q4_0 if name == "token_embd.weight" else Kind.Q8_0

    path = write_gguf(tmp_path / "a.gguf", shape, family, tensors, kinds)
    prepare_gguf(path, tmp_path / "prepared")
    loaded = load_transformer(tmp_path / "prepared", dtype=torch.bfloat16)
    assert loaded.config.tied_embeddings == tied
    assert (loaded.head.weight is loaded.embedding.weight) == tied
    finer = tied and head != "none"
    source, kind = ("output.weight", Kind.Q8_0) if finer else ("token_embd.weight", Kind.Q4_0)
    assert torch.equal(loaded.embedding.weight, expected_rows(tensors, kind, [source]))
    if not tied:
        expected = expected_rows(tensors, Kind.Q8_0, ["output.weight"])
        assert torch.equal(loaded.head.weight, expected)


# --- damage ------------------------------------------------------------------------------------


def assert_nothing_prepared(folder: Path) -> None:
    assert not is_prepared(folder)
    assert not folder.exists()
    assert not list(folder.parent.glob("*.partial"))


def test_a_file_cut_short_anywhere_is_corrupt(tmp_path: Path) -> None:
    data = tiny_gguf(tmp_path).read_bytes()
    path, folder = tmp_path / "cut.gguf", tmp_path / "prepared"
    lengths = [*range(0, 2400, 61), *range(2400, len(data), 9973), len(data) - 1]
    for length in lengths:
        path.write_bytes(data[:length])
        with pytest.raises(ModelCorrupt) as caught:
            prepare_gguf(path, folder)
        assert str(path) in caught.value.message
        assert_nothing_prepared(folder)


@pytest.mark.parametrize(
    "name",
    [
        "token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight",
        "blk.1.attn_k.weight", "blk.1.attn_q.bias", "blk.1.ffn_up.weight", "blk.0.ffn_down.weight",
    ],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "a row less", "a column less"])
def test_a_missing_or_misshapen_tensor_is_named(name: str, damage: str, tmp_path: Path) -> None:
    model, folder = bf16_model("qwen2"), tmp_path / "prepared"
    tensors = published(model, "qwen2")
    whole = tensors.pop(name)
    if damage != "missing":
        smaller = whole[:-1] if damage == "a row less" or whole.ndim == 1 else whole[:, :-1]
        tensors[name] = np.ascontiguousarray(smaller)
    path = write_gguf(tmp_path / "a.gguf", model.config, "qwen2", tensors)
    if (name, damage) == ("token_embd.weight", "a row less"):
        prepare_gguf(path, folder)  # the number of tokens is what the matrix says it is
        assert load_transformer(folder, dtype=torch.float32).config.vocab_size == 39
        return
    with pytest.raises(ModelCorrupt) as caught:
        prepare_gguf(path, folder)
    assert str(path) in caught.value.message
    assert name in caught.value.message
    assert_nothing_prepared(folder)


@pytest.mark.parametrize("name", ["blk.0.attn_output.bias", "rope_freqs.weight", "blk.7.x.weight"])
def test_a_tensor_that_nobody_reads_is_refused_and_not_dropped(name: str, tmp_path: Path) -> None:
    model = bf16_model("llama")
    tensors = published(model, "llama") | {name: np.ones(64, dtype=np.float32)}
    path = write_gguf(tmp_path / "a.gguf", model.config, "llama", tensors)
    with pytest.raises(ModelUnsupported, match=name):
        prepare_gguf(path, tmp_path / "prepared")
    assert_nothing_prepared(tmp_path / "prepared")


def test_what_the_stack_does_not_have_is_refused(tmp_path: Path) -> None:
    scaled = tiny_gguf(tmp_path, qwen2__rope__scaling__type="yarn")
    with pytest.raises(ModelUnsupported, match="yarn"):
        prepare_gguf(scaled, tmp_path / "prepared")
    shape = SHAPES["qwen2"]
    tensors = published(transformer(shape), "qwen2")
    other = write_gguf(tmp_path / "b.gguf", shape, "falcon", tensors)
    with pytest.raises(ModelUnsupported, match="falcon"):
        prepare_gguf(other, tmp_path / "prepared")


def test_metadata_that_is_missing_is_named(tmp_path: Path) -> None:
    shape = SHAPES["qwen2"]
    path = tmp_path / "a.gguf"
    writer = GGUFWriter(path, "qwen2")
    writer.add_block_count(shape.n_layers)
    for name, tensor in published(transformer(shape), "qwen2").items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelCorrupt, match=r"a\.gguf: metadata lacks the key .qwen2\.\w+"):
        prepare_gguf(path, tmp_path / "prepared")


# --- whole or not there ------------------------------------------------------------------------


def test_at_no_moment_is_half_a_folder_taken_for_a_whole_one(tmp_path: Path) -> None:
    """Killed after any tensor: the folder is not there, and what is there is not believed."""
    folder, states = tmp_path / "prepared", []

    def look(what: str, share: float) -> None:
        partial = tmp_path / "prepared.partial"
        states.append((folder.exists(), partial.exists(), is_prepared(partial)))

    prepare_gguf(tiny_gguf(tmp_path), folder, look)
    assert len(states) > 10
    assert set(states) == {(False, True, False)}
    assert is_prepared(folder)


def test_killed_half_way_it_is_done_again(tmp_path: Path) -> None:
    """A killed process cleans nothing up: what it leaves is no obstacle."""
    path, folder = tiny_gguf(tmp_path), tmp_path / "prepared"
    program = """
        import os, sys
        from pathlib import Path
        from blockdiff.model.load import gguf_file
        from blockdiff.model.load import prepare
        prepare._SHARD_BYTES = 20_000
        die = lambda what, share: os._exit(9) if share > 0.5 else None
        prepare.prepare_gguf(Path(sys.argv[1]), Path(sys.argv[2]), die)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path), str(folder)]
    assert subprocess.run(command, check=False).returncode == 9
    partial = tmp_path / "prepared.partial"
    assert list(partial.glob("*.safetensors"))
    assert not folder.exists()
    assert not is_prepared(partial)
    prepare_gguf(path, folder)
    assert is_prepared(folder)
    assert not partial.exists()


def test_interrupted_it_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(what: str, share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_gguf(tiny_gguf(tmp_path), tmp_path / "prepared", interrupt)
    assert_nothing_prepared(tmp_path / "prepared")


def test_what_was_there_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    path, folder = tiny_gguf(tmp_path), tmp_path / "prepared"
    prepare_gguf(path, folder)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelCorrupt):
        prepare_gguf(path, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize(
    "damage", ["shard gone", "shard cut", "config gone", "config cut", "older format"]
)
def test_a_damaged_folder_does_not_count_and_is_made_again(damage: str, tmp_path: Path) -> None:
    path, folder = tiny_gguf(tmp_path), tmp_path / "prepared"
    prepare_gguf(path, folder)
    shard, record = folder / "model-000.safetensors", folder / "config.json"
    if damage == "shard gone":
        shard.unlink()
    elif damage == "shard cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "config gone":
        record.unlink()
    elif damage == "config cut":
        record.write_bytes(record.read_bytes()[:-5])
    else:
        record.write_text(json.dumps(json.loads(record.read_text()) | {"blockdiff_format": 0}))
    assert not is_prepared(folder)
    prepare_gguf(path, folder)
    assert is_prepared(folder)


def test_a_folder_that_lost_its_shards_is_corrupt(tmp_path: Path) -> None:
    """Even when nobody asks first whether it is whole."""
    prepare_gguf(tiny_gguf(tmp_path), tmp_path / "prepared")
    shard = tmp_path / "prepared" / "model-000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelCorrupt, match=str(shard)):
        load_transformer(tmp_path / "prepared", dtype=torch.float32)


# --- room --------------------------------------------------------------------------------------


def test_without_room_it_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tiny_gguf(tmp_path), tmp_path / "cache" / "prepared"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda where: usage._replace(free=100_000))
    with pytest.raises(DiskFull, match="preparing tiny.gguf needs") as caught:
        prepare_gguf(path, folder)
    assert "BLOCKDIFF_CACHE" in caught.value.hint
    assert_nothing_prepared(folder)


def test_a_disk_that_fills_up_on_the_way_is_said_so(tmp_path: Path) -> None:
    """The limit on the size of a file stands in for the end of the disk: the write itself fails."""
    path, folder = tiny_gguf(tmp_path), tmp_path / "prepared"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(DiskFull, match="cannot write"):
            prepare_gguf(path, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_nothing_prepared(folder)


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    path, cache = tiny_gguf(tmp_path), tmp_path / "cache"
    cache.write_text("a file where the folder should be")
    with pytest.raises(OutputFileError, match="cannot write") as caught:
        prepare_gguf(path, cache / "models" / "prepared")
    assert "BLOCKDIFF_CACHE" in caught.value.hint


# --- the real file -----------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.slow
def test_the_default_model_is_unpacked_as_its_file_says() -> None:
    """Rows of tensors of each kind that the file holds: its first, middle and last ones."""
    files = store.resolve(DEFAULT_MODEL)
    if not is_prepared(files.prepared):
        prepare_gguf(files.base, files.prepared)
    stored = {tensor.name: tensor for tensor in GGUFReader(files.base).tensors}
    parts = {
        "embedding.weight": ["output.weight"],
        "norm.weight": ["output_norm.weight"],
        **{
            f"blocks.{i}.{ours}": [f"blk.{i}.{name}" for name in theirs]
            for i in (0, 13, 27)
            for ours, theirs in {
                "attention.qkv.weight": ["attn_q.weight", "attn_k.weight", "attn_v.weight"],
                "attention.qkv.bias": ["attn_q.bias", "attn_k.bias", "attn_v.bias"],
                "attention.o.weight": ["attn_output.weight"],
                "ffn.gate_up.weight": ["ffn_gate.weight", "ffn_up.weight"],
                "ffn.down.weight": ["ffn_down.weight"],
                "ffn_norm.weight": ["ffn_norm.weight"],
            }.items()
        },
    }
    kinds = {stored[name].tensor_type for names in parts.values() for name in names}
    assert {Kind.Q4_K, Kind.Q6_K, Kind.F32} <= kinds
    checked = 0
    for shard in sorted(files.prepared.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as prepared:
            for ours in parts.keys() & set(prepared.keys()):
                rows, start = prepared.get_slice(ours), 0
                for name in parts[ours]:
                    data, kind = stored[name].data, stored[name].tensor_type
                    for at in (0, len(data) // 2, len(data) - 4):
                        expected = torch.from_numpy(dequantize(data[at : at + 4], kind).copy())
                        found = rows[start + at : start + at + 4]
                        assert torch.equal(found, expected.bfloat16()), name
                    start += len(data)
                checked += 1
    assert checked == len(parts)
