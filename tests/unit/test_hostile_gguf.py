"""GGUF files that are damaged or lie: one typed error that names the file and the key or tensor.

Nothing is built, and nothing is allocated, because a header asks for it.
"""

from __future__ import annotations

import random
import resource
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from blockdiff.engine.checkpoint import Checkpoint
from blockdiff.errors import BlockdiffError, ModelCorrupt, ModelNotFound, ModelUnsupported
from blockdiff.model.load.gguf_file import open_gguf, same_matrix
from blockdiff.model.load.gguf_header import read_header
from blockdiff.model.load.prepare import gguf_sources
from blockdiff.model.load.tokenizer import Tokenizer
from blockdiff.types import no_op
from blockdiff.weights import folders, store
from tests.unit import tiny, tiny_gguf
from tests.unit.tiny_gguf import SHAPE, TOKENS, weights, write

DTYPES = [torch.int8, torch.bfloat16]
HEAD, EMBEDDING = "output.weight", "token_embd.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(path: Path, dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
    return Checkpoint.load(str(path), torch.device("cpu"), dtype, no_op)


def refused(path: Path, dtype: torch.dtype = torch.bfloat16) -> BlockdiffError:
    """The error, which names the file; nothing was written."""
    with pytest.raises((ModelCorrupt, ModelUnsupported)) as caught:
        load(path, dtype)
    assert str(path) in caught.value.message
    assert not list(folders.cache_root().rglob("*.safetensors"))
    return caught.value


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    return tiny.forward(checkpoint.model, [1, 2, 3, 260]).float()


# --- what a header says ------------------------------------------------------------------------

ABSURD: list[tuple[str, Any]] = [
    ("qwen2.attention.head_count", 0), ("qwen2.attention.head_count", -2),
    ("qwen2.attention.head_count", 3), ("qwen2.attention.head_count", "2"),
    ("qwen2.attention.head_count", 2.0), ("qwen2.attention.head_count", True),
    ("qwen2.attention.head_count_kv", 0), ("qwen2.attention.head_count_kv", "x"),
    ("qwen2.attention.head_count_kv", 10**9), ("qwen2.block_count", 10**9),
    ("qwen2.block_count", 1000), ("qwen2.block_count", 0), ("qwen2.block_count", None),
    ("qwen2.block_count", "many"), ("qwen2.embedding_length", 0),
    ("qwen2.embedding_length", 10**18), ("qwen2.embedding_length", None),
    ("qwen2.feed_forward_length", -1), ("qwen2.context_length", 0),
    ("qwen2.context_length", 10**12), ("qwen2.context_length", "long"),
    ("qwen2.attention.key_length", 0), ("qwen2.attention.key_length", 10**9),
    ("qwen2.attention.value_length", 8), ("qwen2.rope.dimension_count", 8),
    ("qwen2.rope.freq_base", 0.0), ("qwen2.rope.freq_base", -1.0),
    ("qwen2.rope.freq_base", float("nan")), ("qwen2.rope.freq_base", "1e4"),
    ("qwen2.attention.layer_norm_rms_epsilon", float("nan")),
    ("qwen2.attention.layer_norm_rms_epsilon", -1e-6),
    ("qwen2.attention.layer_norm_rms_epsilon", float("inf")),
    ("qwen2.attention.layer_norm_rms_epsilon", None),
    ("qwen2.rope.scaling.type", "yarn"), ("qwen2.rope.scaling.type", 3),
    ("qwen2.rope.scaling.factor", 4.0), ("qwen2.attention.causal", False),
    ("general.architecture", 7), ("general.architecture", "mamba"),
    ("general.alignment", 0), ("general.alignment", 24), ("general.alignment", "32"),
    ("tokenizer.ggml.tokens", [1, 2, 3]), ("tokenizer.ggml.tokens", "abc"),
    ("tokenizer.ggml.tokens", None), ("tokenizer.ggml.token_type", [1, 1]),
    ("tokenizer.ggml.token_type", ["1"] * len(TOKENS)), ("tokenizer.ggml.merges", ["a"]),
    ("tokenizer.ggml.merges", ["no such"]), ("tokenizer.ggml.merges", ["a c"]),
    ("tokenizer.ggml.merges", [3]), ("tokenizer.ggml.tokens", [*TOKENS[:-1], TOKENS[0]]),
    ("split.count", 3), ("split.count", "two"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), ABSURD)
def test_an_impossible_value_is_refused_by_its_key_before_anything_is_built(
    key: str, value: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.gguf", {key: value})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refused(path).message
    if value != [*TOKENS[:-1], TOKENS[0]]:
        assert key.rpartition(".")[2] in message
    # kilobytes; the smallest of these sizes, believed, would be hundreds of megabytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


def test_counts_for_each_layer_are_read_where_they_are_the_same(tmp_path: Path) -> None:
    each: dict[str, Any] = {
        "qwen2.attention.head_count": [2, 2], "qwen2.feed_forward_length": [32, 32]
    }  # fmt: skip
    assert load(write(tmp_path / "a.gguf", each)).model.config.n_heads == 2
    other = write(tmp_path / "b.gguf", {"qwen2.attention.head_count": [2, 1]})
    with pytest.raises(ModelUnsupported, match="head_count is not the same for all layers"):
        load(other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_tokens_than_rows_of_the_embedding(dtype: torch.dtype, tmp_path: Path) -> None:
    """In int8 the memory behind the table would be read."""
    fewer = {name: weights()[name][:-1] for name in (EMBEDDING, HEAD)}
    message = refused(write(tmp_path / "a.gguf", {}, fewer), dtype).message
    assert f"tensor {EMBEDDING} has {len(TOKENS) - 1} rows" in message


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_tokens_are_unused_ids(dtype: torch.dtype, tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.tokens": TOKENS[:-1], "tokenizer.ggml.token_type": [1] * 257 + [3] * 4}
    loaded = load(write(tmp_path / "a.gguf", keys), dtype)
    assert loaded.tokenizer.vocab_size == len(TOKENS)
    assert loaded.tokenizer.is_special(len(TOKENS) - 1)
    assert loaded.tokenizer.special.mask == len(TOKENS) - 1


def test_a_tokenizer_of_another_cache_cannot_reach_behind_the_table(
    tmp_path: Path, cache: Path
) -> None:
    path = write(tmp_path / "a.gguf")
    files = store.resolve(str(path))
    Tokenizer.from_gguf(path).with_rows(300, "").save(files.tokenizer)
    with pytest.raises(ModelCorrupt, match="the tokenizer has 300 ids, the embedding 262 rows"):
        load(path)


def test_no_row_outside_a_table_is_read_in_int8(tmp_path: Path) -> None:
    model = load(write(tmp_path / "a.gguf"), torch.int8).model
    for ids in ([-1], [len(TOKENS)], [0, 1 << 40]):
        with pytest.raises(IndexError):
            model.embedding(torch.tensor([ids]))


# --- tensors -----------------------------------------------------------------------------------


def q4_k(rows: int) -> np.ndarray[Any, Any]:
    """Blocks of random bits with small scales."""
    raw = np.random.default_rng(0).integers(0, 256, (rows, 144), dtype=np.uint8)
    raw[:, 0:4] = np.full((rows, 2), 1e-3, np.float16).view(np.uint8)
    return raw


def q6_k(rows: int) -> np.ndarray[Any, Any]:
    raw = np.random.default_rng(0).integers(0, 256, (rows, 210), dtype=np.uint8)
    raw[:, 208:210] = np.full((rows, 1), 1e-3, np.float16).view(np.uint8)
    return raw


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blk.1.ffn_up.weight", Kind.F32), ("blk.0.attn_q.weight", Kind.F16),
        (EMBEDDING, Kind.BF16), (HEAD, Kind.Q8_0), ("blk.0.attn_k.bias", Kind.F32),
        ("output_norm.weight", Kind.F32), ("blk.0.ffn_down.weight", Kind.Q4_0),
    ],
)  # fmt: skip
def test_a_weight_that_is_no_number_is_named(
    name: str, kind: Kind, value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    good = weights()[name]
    if kind in (Kind.Q8_0, Kind.Q4_0):  # the scale of the last block
        bad = quantize(good, kind)
        size = 34 if kind is Kind.Q8_0 else 18
        bad[-1, -size : 2 - size or None] = np.array([value], np.float16).view(np.uint8)
    else:
        bad = good.copy()
        bad.reshape(-1)[-1] = value
    path = write(tmp_path / "a.gguf", {}, {name: bad}, kinds={name: kind})
    message = refused(path, dtype).message
    assert f"tensor {name} holds NaN or infinity" in message


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "at"), [(Kind.Q4_K, 0), (Kind.Q4_K, 2), (Kind.Q6_K, 208)])
def test_a_scale_of_a_k_quant_that_is_no_number_is_named(
    kind: Kind, at: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    raw = q4_k(32) if kind is Kind.Q4_K else q6_k(32)
    wide = tiny.config(
        vocab_size=len(TOKENS), hidden_size=32, n_heads=2, n_kv_heads=1, head_dim=16, ffn_size=256
    )
    from test_checkpoint import published

    name = "blk.1.ffn_down.weight"
    tensors = published(tiny.transformer(wide), "qwen2") | {name: raw}
    keys = {"qwen2.feed_forward_length": 256}
    load(write(tmp_path / "good.gguf", keys, tensors, kinds={name: kind}), dtype)
    raw[-1, at : at + 2] = np.array([np.nan], np.float16).view(np.uint8)
    path = write(tmp_path / "a.gguf", keys, tensors, kinds={name: kind})
    with pytest.raises(ModelCorrupt, match=f"{path}: tensor {name} holds NaN or infinity"):
        load(path, dtype)


# --- a head beside its embedding ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q5_1, Kind.F16, Kind.BF16, Kind.F32])
@pytest.mark.parametrize("noise", [0.0, 0.18])
@pytest.mark.parametrize("rows", ["all", "the last"])
def test_a_head_is_the_embedding_where_every_row_is(
    kind: Kind, noise: float, rows: str, tmp_path: Path
) -> None:
    embedding = weights()[EMBEDDING]
    error = np.random.default_rng(1).normal(size=embedding.shape).astype(np.float32)
    error *= noise * embedding.std()
    if rows == "the last":
        error[:-1] = 0
    tensors = {HEAD: embedding + error}
    path = write(tmp_path / "a.gguf", {}, tensors, kinds={HEAD: Kind.Q8_0, EMBEDDING: kind})
    found = open_gguf(path)
    assert same_matrix(found.tensors[EMBEDDING], found.tensors[HEAD]) == (noise == 0)
    loaded = load(path).model
    assert loaded.config.tied_embeddings == (noise == 0)
    held = dequantize(quantize(embedding + error, Kind.Q8_0), Kind.Q8_0)
    assert torch.equal(loaded.head.weight, torch.from_numpy(held).bfloat16())


# --- several parts -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_are_read_together_whichever_is_named(dtype: torch.dtype, tmp_path: Path) -> None:
    expected = logits(load(write(tmp_path / "one.gguf"), dtype))
    folder = tmp_path / "parts"
    folder.mkdir()
    first = write(folder / "m.gguf", per_part=7)
    parts = sorted(folder.glob("*.gguf"))
    assert len(parts) == 4 and parts[0] == first
    for named in (*parts, folder):
        assert torch.equal(logits(load(named, dtype)), expected)
    assert len(list((tmp_path / "cache" / "models").glob("m-*"))) == 1  # prepared once


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    for gone in range(3):
        folder = tmp_path / str(gone)
        folder.mkdir()
        write(folder / "m.gguf", per_part=12)
        parts = sorted(folder.glob("*.gguf"))
        parts[gone].unlink()
        for named in (folder, *(part for part in parts if part.is_file())):
            with pytest.raises(ModelCorrupt, match=f"{parts[gone]} is missing"):
                load(named)
        with pytest.raises(ModelNotFound):
            open_gguf(parts[gone])


@pytest.mark.parametrize(
    "foreign",
    ["another number", "another count", "of fewer tensors", "no part", "no GGUF", "twice"],
)
def test_a_part_of_another_model_is_named(foreign: str, tmp_path: Path) -> None:
    write(tmp_path / "m.gguf", per_part=12)
    parts = sorted(tmp_path.glob("m-*.gguf"))
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "m.gguf"
    if foreign == "another number":
        parts[1].write_bytes(parts[2].read_bytes())
    elif foreign == "another count":
        write(other, per_part=7)
        parts[1].write_bytes((other.parent / "m-00002-of-00004.gguf").read_bytes())
    elif foreign == "of fewer tensors":
        write(other, {}, {"blk.1.ffn_up.weight": None, "blk.1.ffn_down.weight": None}, per_part=11)
        parts[1].write_bytes((other.parent / "m-00002-of-00003.gguf").read_bytes())
    elif foreign == "no part":
        parts[1].write_bytes(write(other).read_bytes())
    elif foreign == "no GGUF":
        parts[1].write_bytes(b"text" * 99)
    else:
        first = weights()
        write(other, {}, {list(first)[20]: None, "x": np.ones(8, np.float32)}, per_part=12)
        moved = (other.parent / "m-00002-of-00003.gguf").read_bytes()
        parts[1].write_bytes(moved)
    with pytest.raises((ModelCorrupt, ModelUnsupported)) as caught:
        load(parts[0])
    assert str(parts[1]) in caught.value.message or "tensor" in caught.value.message


def test_a_folder_of_two_models_wants_one_named(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    write(folder / "m.gguf", per_part=12)
    write(folder / "other.gguf")
    with pytest.raises(ModelNotFound, match="GGUF files of 2 models"):
        load(folder)


# --- bytes -------------------------------------------------------------------------------------


def raw_header(
    tensors: list[tuple[str, list[int], int, int]], keys: bytes = b"", n_keys: int = 0
) -> bytes:
    body = b""
    for name, extents, kind, offset in tensors:
        body += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(extents))
        body += struct.pack(f"<{len(extents)}QIQ", *extents, kind, offset)
    return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), n_keys) + keys + body


def key(name: str, value: int) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<II", 4, value)


TENSORS: list[tuple[bytes, str]] = [
    (raw_header([("x", [8], 0, 0), ("x", [8], 0, 32)]), "tensor x is there twice"),
    (raw_header([("x", [8], 0, 0), ("y", [8], 0, 0)]), "tensors x and y overlap"),
    (raw_header([("x", [16], 0, 0), ("y", [8], 0, 32)]), "tensors x and y overlap"),
    (raw_header([("x", [8], 0, 8)]), "tensor x begins at byte"),
    (raw_header([("x", [8], 0, 1 << 62)]), "tensor x begins at byte"),
    (raw_header([("x", [1 << 40], 0, 0)]), "tensor x of shape"),
    (raw_header([("x", [1 << 63, 1 << 63], 0, 0)]), "tensor x of shape"),
    (raw_header([("x", [0], 0, 0)]), "tensor x: it has the shape"),
    (raw_header([("x", [], 0, 0)]), "tensor x: it has 0 dimensions"),
    (raw_header([("x", [1] * 5, 0, 0)]), "tensor x: it has 5 dimensions"),
    (raw_header([("x", [8], 99, 0)]), "tensor x is of the unknown type 99"),
    (raw_header([("x", [8], 4, 0)]), "tensor x is of the unknown type 4"),
    (raw_header([("x", [33], 8, 0)]), "tensor x of type Q8_0 has rows of 33"),
    (raw_header([("x" * 65, [8], 0, 0)]), "is no name"),
    (raw_header([("a\nb", [8], 0, 0)]), "is no name"),
    (raw_header([], key("a", 1) + key("a", 2), 2), "the key 'a' is there twice"),
    (b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 0), "ends early|is no name"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 62), "ends early|is no name"),
    (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "format version 4"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    (raw_header([], struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 1 << 60), 1), "early"),
    (raw_header([], struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 0, 1 << 60), 1), "items"),
    (raw_header([], struct.pack("<Q", 1) + b"a" + struct.pack("<I", 77), 1), "a: unknown value"),
]


@pytest.mark.parametrize(("header", "complaint"), TENSORS)
def test_a_header_that_lies_is_refused(header: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(header.ljust(-(-len(header) // 32) * 32 + 64, b"\0"))
    with pytest.raises((ModelCorrupt, ModelUnsupported), match=complaint) as caught:
        open_gguf(path)
    assert str(path) in caught.value.message


_NUMBERS = [0, 1, 3, 31, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
_VALUES: list[Any] = [
    0, -1, 1, 2, 3, 7, 10**9, 10**12, 1.5, 0.0, float("nan"), float("inf"), True, False, "", "x",
    "2", [1], [0, 0], ["a"], [2, 2], [1.0], ["a b", "b a"], TOKENS[:5], [TOKENS[0]] * 3,
]  # fmt: skip
_OPTIONAL = [
    "general.alignment", "general.architecture", "split.count", "split.no", "split.tensors.count",
    "qwen2.attention.key_length", "qwen2.attention.value_length", "qwen2.rope.dimension_count",
    "qwen2.rope.scaling.type", "qwen2.rope.scale_linear", "qwen2.vocab_size",
]  # fmt: skip


def attempt(path: Path) -> str:
    """Everything that happens before weights are unpacked."""
    try:
        tokenizer = Tokenizer.from_gguf(path)
        config, _ = gguf_sources(open_gguf(path))
        tokenizer.with_rows(config.vocab_size, str(path))
        return "read"
    except BlockdiffError as error:
        assert path.name in error.message and str(path) in error.message
        assert len(error.message) < 1000 and error.message.isprintable()
        return "refused"


def test_whatever_bytes_a_header_has_it_is_read_or_refused(tmp_path: Path) -> None:
    """Seeded: bytes and whole numbers anywhere in the header; any other exception is a defect."""
    stream, path = random.Random("header"), write(tmp_path / "a.gguf")
    good, outcomes = path.read_bytes(), []
    first = min(tensor.offset for tensor in read_header(path).tensors.values())
    # most of it is tokens: the keys before them and the tensors behind them come as often
    tokens = good.index(b"tokenizer.ggml.tokens")
    places = [range(tokens), range(tokens, first), range(good.index(b"token_embd"), first)]
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for _ in range(600):
        bad = bytearray(good)
        for _ in range(stream.choice([1, 1, 2, 4])):
            at = stream.choice(stream.choice(places))
            if stream.random() < 0.5:
                bad[at] = stream.randrange(256)
            else:
                size = stream.choice([4, 8])
                number = stream.choice(_NUMBERS) & (1 << 8 * size) - 1
                bad[at : at + size] = number.to_bytes(size, "little")
        path.write_bytes(bad if stream.random() < 0.9 else bad[: stream.randrange(first)])
        outcomes.append(attempt(path))
    assert {"read", "refused"} == set(outcomes)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256_000  # kilobytes
    assert time.process_time() - began < 120


def test_whatever_values_a_header_has_it_is_read_or_refused(tmp_path: Path) -> None:
    """Seeded: one to three keys with values of every kind, and tensors of other shapes."""
    stream, outcomes = random.Random("values"), []
    for _ in range(200):
        chosen = stream.sample([*tiny_gguf.KEYS, *_OPTIONAL], stream.choice([1, 1, 2, 3]))
        keys = {name: stream.choice([*_VALUES, None]) for name in chosen}
        tensors = {}
        if stream.random() < 0.2:
            name, whole = stream.choice(list(weights().items()))
            tensors[name] = stream.choice([None, whole[:-1].copy(), whole[None].copy()])
        outcomes.append(attempt(write(tmp_path / "a.gguf", keys, tensors)))
    assert {"read", "refused"} == set(outcomes)


def test_what_is_read_computes(tmp_path: Path) -> None:
    """A header that passes every check makes a model that runs, in both kinds of arithmetic."""
    path = write(tmp_path / "a.gguf")
    for dtype in DTYPES:
        loaded = load(path, dtype)
        assert loaded.model.config.vocab_size == SHAPE.vocab_size
        assert torch.isfinite(logits(loaded)).all()
