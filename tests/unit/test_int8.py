"""Packed weights and the compiled product: the file's own numbers, and no row knows of another."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize
from test_checkpoint import SHAPE, published, write_gguf
from tiny import adapter, config, forward, transformer

from blockdiff.errors import DeviceUnavailable, ModelCorrupt, ModelUnsupported
from blockdiff.model import masks
from blockdiff.model.cache import BlockCache
from blockdiff.model.config import AdapterConfig
from blockdiff.model.int8 import library as int8_library
from blockdiff.model.int8.packing import Packed, pack, pack_q4_k, pack_q6_k
from blockdiff.model.int8.quantized import QuantizedLinear, install_adapter, is_quantized
from blockdiff.model.load.from_folder import load_transformer
from blockdiff.model.load.kinds import AttentionPattern
from blockdiff.model.load.prepare import is_prepared, prepare_gguf
from tests.unit import learnt

pytestmark = pytest.mark.skipif(
    int8_library.available() != "", reason="no C compiler: " + int8_library.available()
)
BLOCK_BYTES = {Kind.Q4_K: 144, Kind.Q6_K: 210}
PACK = {Kind.Q4_K: pack_q4_k, Kind.Q6_K: pack_q6_k}
FLAGS = {
    "avx512-vnni": ["-march=native"],
    "avx-vnni": ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "portable": [],
}
# What the instruction of AVX-VNNI computes, for processors without it.
STAND_IN = """
#include <immintrin.h>
#include <stdint.h>
static __m256i stand_in(__m256i sum, __m256i a, __m256i b) {
    int32_t s[8];
    uint8_t x[32];
    int8_t y[32];
    _mm256_storeu_si256((void *)s, sum);
    _mm256_storeu_si256((void *)x, a);
    _mm256_storeu_si256((void *)y, b);
    for (int i = 0; i < 32; i++) s[i / 4] += x[i] * y[i];
    return _mm256_loadu_si256((void *)s);
}
#define _mm256_dpbusd_avx_epi32 stand_in
"""


def k_quant(kind: Kind, rows: int, inputs: int, seed: int = 0) -> np.ndarray:
    """Blocks of random bits with scales as published files have them, (rows, bytes)."""
    random = np.random.default_rng(seed)
    size = BLOCK_BYTES[kind]
    blocks = random.integers(0, 256, (rows, inputs // 256, size), dtype=np.uint8)
    scales = random.uniform(1e-4, 1e-3, (rows, inputs // 256, 2)).astype(np.float16)
    if kind is Kind.Q4_K:
        blocks[:, :, :4] = scales.view(np.uint8)
    else:
        blocks[:, :, -2:] = scales[:, :, :1].view(np.uint8)
    return blocks.reshape(rows, -1)


def product(parts: list[Packed], x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return QuantizedLinear(parts, bias)(x)


def closeness(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", BLOCK_BYTES)
@pytest.mark.parametrize(("rows", "inputs"), [(16, 256), (48, 1536), (37, 512)])
def test_a_k_quant_keeps_its_numbers(kind: Kind, rows: int, inputs: int) -> None:
    raw = k_quant(kind, rows, inputs)
    layer = QuantizedLinear([PACK[kind](raw, inputs)])
    expected = torch.from_numpy(dequantize(raw, kind).copy())
    assert torch.equal(layer.rows(torch.arange(rows)), expected)


def test_other_weights_are_rounded_to_a_part_in_254_of_their_group() -> None:
    weight = torch.randn(21, 96, generator=torch.Generator().manual_seed(1))
    weight[3, :32] = 0.25  # a group without any spread
    found = QuantizedLinear([pack(weight)]).rows(torch.arange(21))
    groups, error = weight.view(21, 3, 32), (found - weight).view(21, 3, 32).abs().amax(-1)
    spread = groups.amax(-1) - groups.amin(-1)
    assert bool((error <= spread / 254 + groups.abs().amax(-1) * 2e-3).all())


@pytest.mark.parametrize("kind", [*BLOCK_BYTES, None])
@pytest.mark.parametrize("positions", [1, 2, 3, 5, 7, 8, 9, 130])
def test_a_product_is_that_of_the_unpacked_weights(kind: Kind | None, positions: int) -> None:
    rows, inputs = 40, 768
    torch.manual_seed(2)
    if kind is None:
        part = pack(torch.randn(rows, inputs))
    else:
        part = PACK[kind](k_quant(kind, rows, inputs), inputs)
    weight = QuantizedLinear([part]).rows(torch.arange(rows))
    x, bias = torch.randn(positions, inputs), torch.randn(rows)
    x[:, 5] *= 50  # an outlier costs the inputs beside it precision, not the others
    expected = torch.nn.functional.linear(x, weight, bias)
    assert closeness(product([part], x, bias), expected) < 0.03


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_weights_and_inputs_do_not_overflow(kind: Kind, sign: float) -> None:
    """Sums of few products are kept in 16 bits where there is no instruction for more."""
    blocks = k_quant(kind, 16, 512)
    blocks = blocks.reshape(16, 2, BLOCK_BYTES[kind])
    if kind is Kind.Q4_K:
        blocks[:, :, 4:] = 0xFF
        blocks[:, :, 2:4] = 0  # nothing is taken off
    else:
        blocks[:, :, :192] = 0xFF
        blocks[:, :, 192:208] = 0x80  # scales of -128
    layer = QuantizedLinear([PACK[kind](blocks.reshape(16, -1), 512)])
    expected = sign * layer.rows(torch.arange(16)).sum(1)
    for found in layer(torch.full((6, 512), sign)):
        assert closeness(found, expected) < 1e-6


def test_parts_stand_one_above_the_other_each_with_its_bias() -> None:
    torch.manual_seed(3)
    parts = [
        pack_q4_k(k_quant(Kind.Q4_K, 32, 256), 256),
        pack_q6_k(k_quant(Kind.Q6_K, 5, 256), 256),
        pack(torch.randn(19, 256)),
    ]
    x, bias = torch.randn(2, 3, 256), torch.randn(56)
    pieces = [
        product([part], x, piece.clone())
        for part, piece in zip(parts, bias.split([32, 5, 19]), strict=True)
    ]
    assert torch.equal(product(parts, x, bias), torch.cat(pieces, dim=-1))


@pytest.mark.parametrize("kind", [*BLOCK_BYTES, None])
def test_a_row_does_not_depend_on_the_rows_beside_it(kind: Kind | None) -> None:
    """What makes `verify` write what `ar` writes."""
    torch.manual_seed(4)
    raw = pack(torch.randn(64, 512)) if kind is None else PACK[kind](k_quant(kind, 64, 512), 512)
    layer, x = QuantizedLinear([raw]), torch.randn(150, 512)
    together = layer(x)
    widths = [(0, rows) for rows in (*range(1, 21), 33, 49, 70, 130)]
    for first, last in [*widths, (4, 6), (3, 10), (22, 23), (149, 150)]:
        assert torch.equal(layer(x[first:last]), together[first:last])


def test_nothing_in_nothing_out() -> None:
    layer = QuantizedLinear([pack(torch.randn(16, 64))])
    assert torch.equal(layer(torch.zeros(3, 64)), torch.zeros(3, 16))
    assert layer(torch.zeros(0, 64)).shape == (0, 16)


PROGRAM = """
import sys, torch
from collections.abc import Callable
from pathlib import Path
from blockdiff.model.int8 import library as int8_library
from blockdiff.model.int8.packing import *
import numpy as np
built = int8_library.Library(Path(sys.argv[1]))
int8_library.loaded = lambda: built
from blockdiff.model.int8.quantized import QuantizedLinear
sys.path.insert(0, "tests/unit")
from test_int8 import k_quant, PACK, Kind
torch.manual_seed(5)
parts = [PACK[kind](k_quant(kind, 33, 512), 512) for kind in PACK] + [pack(torch.randn(20, 512))]
layer, x = QuantizedLinear(parts), torch.randn(60, 512)
product = layer(x)
assert all(torch.equal(layer(x[:rows]), product[:rows]) for rows in range(1, 21))
from test_fused import SHAPES, TOKENS, packed, run
from blockdiff.model.cache import BlockCache
model = packed(SHAPES["qwen2"])
with torch.inference_mode():
    hidden = run(model, BlockCache(model.config), TOKENS[:40])
torch.save((built.backend, product, hidden), sys.argv[2])
"""


Result = tuple[str, torch.Tensor, torch.Tensor]


def runnable() -> list[str]:
    """Instruction sets of `FLAGS` that this machine has."""
    info = Path("/proc/cpuinfo").read_text("utf-8").split()
    needed = {"avx512-vnni": "avx512_vnni", "avx-vnni": "avx_vnni", "avx2": "avx2"}
    return [name for name in FLAGS if name not in needed or needed[name] in info]


def compile_and_run(command: list[str], at: Path, **environment: str) -> Result:
    """What `PROGRAM` finds with a library that `command` compiles."""
    library, out = at.with_suffix(".so"), at.with_suffix(".pt")
    sources = [str(path) for path in int8_library.SOURCES]
    shared = ["-std=c11", "-shared", "-fPIC", *sources, "-o", str(library), "-lm"]
    subprocess.run([*command, *shared], check=True)
    run = [sys.executable, "-c", PROGRAM, str(library), str(out)]
    found = subprocess.run(
        run,
        env=os.environ | {"PYTHONPATH": "."} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert found.returncode == 0 and "runtime error" not in found.stdout, found.stdout
    return torch.load(out)  # type: ignore[no-any-return]


@pytest.mark.skipif(sys.platform != "linux", reason="flags of x86-64 on Linux")
def test_every_processor_gets_the_same_result(tmp_path: Path) -> None:
    """Compiled for all the instruction sets that this machine can run, one at a time."""
    names = runnable()
    compiler = int8_library._compilers()[0]

    def compiled_and_run(name: str) -> Result:
        return compile_and_run([*compiler, "-O2", *FLAGS[name]], tmp_path / name)

    with ThreadPoolExecutor() as pool:
        results = dict(zip(names, pool.map(compiled_and_run, names), strict=True))
    backends, products, layers = (
        {name: result[at] for name, result in results.items()} for at in range(3)
    )
    assert all(backends[name] == name for name in names) and len(names) > 1
    for name in products:
        assert closeness(products[name], products["portable"]) < 1e-6
        assert closeness(layers[name], layers["portable"]) < 0.01  # a step of int8 here and there


@pytest.mark.skipif("avx2" not in runnable(), reason="needs AVX2")
def test_avx_vnni_gets_the_same_result_as_avx2(tmp_path: Path) -> None:
    """Its instruction is spelled out, so that processors without it test all around it."""
    (tmp_path / "stand_in.h").write_text(STAND_IN)
    extra = ["-D__AVXVNNI__", "-include", str(tmp_path / "stand_in.h")]
    compiler = [*int8_library._compilers()[0], "-O2", *FLAGS["avx2"]]
    backend, product, layers = compile_and_run([*compiler, *extra], tmp_path / "new")
    _, *expected = compile_and_run(compiler, tmp_path / "old")
    assert backend == "avx-vnni" and closeness(product, expected[0]) < 1e-6
    assert closeness(layers, expected[1]) < 0.01


def runtimes(compiler: str) -> list[str]:
    """What a process that loads sanitized code has to begin with; nothing where there is none."""
    names = ["libasan.so", "libubsan.so"]
    ask = [[compiler, f"-print-file-name={name}"] for name in names]
    found = [subprocess.run(a, capture_output=True, text=True).stdout.strip() for a in ask]
    return [path for path in found if Path(path).is_absolute()]


@pytest.mark.skipif(sys.platform != "linux", reason="flags of x86-64 on Linux")
@pytest.mark.parametrize("name", FLAGS)
def test_no_byte_beside_its_memory_is_touched_and_nothing_is_undefined(
    name: str, tmp_path: Path
) -> None:
    compiler = shutil.which("gcc")
    if name not in runnable() or not compiler or not (preloaded := runtimes(compiler)):
        pytest.skip("needs the instructions, gcc and its sanitizers")
    sanitized = ["-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    found = compile_and_run(
        [compiler, *sanitized, *FLAGS[name]],
        tmp_path / name,
        LD_PRELOAD=" ".join(preloaded),
        ASAN_OPTIONS="detect_leaks=0",
    )
    assert found[0] == name


@pytest.mark.skipif(sys.platform != "linux", reason="flags of x86-64 on Linux")
def test_clang_makes_the_same_of_it(tmp_path: Path) -> None:
    gcc, clang = (shutil.which(name) for name in ("gcc", "clang"))
    if not gcc or not clang:
        pytest.skip("needs gcc and clang")
    by_gcc, by_clang = (
        compile_and_run([path, "-O2", "-march=native"], tmp_path / Path(path).name)
        for path in (gcc, clang)
    )
    assert by_gcc[0] == by_clang[0]
    assert closeness(by_clang[1], by_gcc[1]) < 1e-6
    assert closeness(by_clang[2], by_gcc[2]) < 0.01


# --- whole models ------------------------------------------------------------------------------

WIDE = config(**(SHAPE | dict(hidden_size=256, ffn_size=512)), tied_embeddings=True)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0])
def test_a_packed_model_answers_like_the_one_it_was_made_of(kind: Kind, tmp_path: Path) -> None:
    model = transformer(WIDE, seed=6)
    tensors = published(model, "qwen2")
    path = write_gguf(tmp_path / "a.gguf", WIDE, "qwen2", tensors, lambda name: kind)
    prepare_gguf(path, tmp_path / "int8", int8=True)
    assert is_prepared(tmp_path / "int8")
    packed = load_transformer(tmp_path / "int8", dtype=torch.int8)
    assert is_quantized(packed) and packed.dtype is torch.float32
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    assert closeness(forward(packed, tokens), forward(model, tokens)) < 0.05


def test_what_was_learned_is_known_in_eight_bits() -> None:
    """Every letter of a hole at once: the rounded weights are as sure of the same ones."""
    exact = learnt.masked_diffusion(AttentionPattern.FULL)
    rounded = copy.deepcopy(exact)
    for block in rounded.blocks:
        for part in block.children():
            for name, layer in part.named_children():
                if isinstance(layer, torch.nn.Linear):
                    setattr(part, name, QuantizedLinear([pack(layer.weight)], layer.bias))
    for line in learnt.lines(16):
        noisy = list(line)
        noisy[learnt.HOLE.start : learnt.HOLE.stop] = [learnt.MASK] * len(learnt.HOLE)
        ours, theirs = (
            forward(model, noisy, masks.full(0, len(noisy)))[:, : learnt.MASK].softmax(-1)
            for model in (rounded, exact)
        )
        assert ours.argmax(-1)[learnt.HOLE.start : learnt.HOLE.stop].tolist() == [
            line[at] for at in learnt.HOLE
        ]
        assert float((ours - theirs)[list(learnt.HOLE)].abs().max()) < 0.1


def test_llamas_permuted_rows_come_out_in_their_order(tmp_path: Path) -> None:
    shape = config(**(SHAPE | dict(hidden_size=256, ffn_size=512)), qkv_bias=False)
    model = transformer(shape, seed=7)
    tensors = published(model, "llama")
    path = write_gguf(tmp_path / "a.gguf", shape, "llama", tensors, lambda name: Kind.F32)
    prepare_gguf(path, tmp_path / "int8", int8=True)
    packed = load_transformer(tmp_path / "int8", dtype=torch.int8)
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    assert closeness(forward(packed, tokens), forward(model, tokens)) < 0.05


def test_with_the_cache_it_is_what_it_is_without() -> None:
    """Rounding of activations may turn a last bit of attention into a step of int8: a few parts
    in a thousand, where an error of the cache would be of the size of the logits."""
    model = transformer(WIDE, seed=8)
    from blockdiff.model.load.from_folder import build

    state = dict(model.named_parameters())
    packed = {name: [pack(t.detach())] for name, t in state.items() if t.dim() == 2}
    quantized = build(WIDE, {n: t for n, t in state.items() if n not in packed}, "", packed)
    tokens = list(range(12))
    whole = forward(quantized, tokens)
    cache = BlockCache(WIDE)
    with torch.no_grad():
        for start, count in [(0, 5), (5, 1), (6, 6)]:
            positions = torch.arange(start, start + count)[None]
            mask = masks.causal(start, count)
            part = torch.tensor([tokens[start : start + count]])
            logits = quantized(part, positions, mask, cache)[0]
            cache.commit(count)
            assert closeness(logits, whole[start : start + count]) < 0.01


def test_a_packed_adapter_adds_what_the_adapter_adds() -> None:
    """Ranks that are no whole group included."""
    drafter, noisy = adapter(WIDE, 3, AdapterConfig({"qkv": 3, "down": 40}, scale=0.5)), 4
    x = torch.randn(1, noisy, WIDE.hidden_size, generator=torch.Generator().manual_seed(1))
    wide = torch.randn(1, noisy, WIDE.ffn_size, generator=torch.Generator().manual_seed(2))
    before = [drafter.delta(1, "qkv", x), drafter.delta(1, "down", wide)]
    install_adapter(drafter)
    after = [drafter.delta(1, "qkv", x), drafter.delta(1, "down", wide)]
    for expected, found in zip(before, after, strict=True):
        assert expected is not None and found is not None
        assert closeness(found, expected) < 0.03
    assert drafter.delta(1, "o", x) is None


def test_a_folder_packed_for_int8_is_read_as_nothing_else(tmp_path: Path) -> None:
    model = transformer(WIDE, seed=6)
    path = write_gguf(tmp_path / "a.gguf", WIDE, "qwen2", published(model, "qwen2"))
    prepare_gguf(path, tmp_path / "int8", int8=True)
    with pytest.raises(ModelUnsupported, match="packed for int8"):
        load_transformer(tmp_path / "int8", dtype=torch.bfloat16)
    record = tmp_path / "int8" / "config.json"
    record.write_text(record.read_text("utf-8").replace('"q7"', '"q4_k"'), "utf-8")
    with pytest.raises(ModelCorrupt, match="bytes"):
        load_transformer(tmp_path / "int8", dtype=torch.int8)


def test_a_width_without_whole_groups_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="multiple of 32"):
        pack(torch.randn(8, 40))


def test_a_weight_out_of_range_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="too large"):
        pack(torch.full((8, 32), 1e6))


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path))
    monkeypatch.setattr(int8_library, "_compilers", lambda: [])
    with pytest.raises(DeviceUnavailable, match="needs a C compiler") as failure:
        int8_library.loaded.__wrapped__()
    assert "gcc" in failure.value.hint


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path))
    program = "import sys; sys.exit('no such flag: native')"
    monkeypatch.setattr(int8_library, "_compilers", lambda: [[sys.executable, "-c", program]])
    with pytest.raises(DeviceUnavailable, match="no such flag: native"):
        int8_library.loaded.__wrapped__()
    assert list((tmp_path / "native").iterdir()) == []


def test_a_damaged_library_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path))
    int8_library.loaded.__wrapped__()
    (library,) = (tmp_path / "native").iterdir()
    library.unlink()
    library.write_bytes(b"cut short")
    assert int8_library.loaded.__wrapped__().backend in FLAGS


# Whose library is loaded


def evil(path: Path, mark: Path) -> None:
    """A library that leaves a mark as soon as it is loaded."""
    source = path.with_suffix(".c")
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void run(void) "
        f'{{ fclose(fopen("{mark}", "w")); }}\n'
    )
    compiler = int8_library._compilers()[0]
    subprocess.run([*compiler, "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    source.unlink()


def give(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root gives files away")
    os.chown(path, 65534, 65534)


def through_a_link(library: Path) -> None:
    library.symlink_to(library.rename(library.parent.parent / "elsewhere.so"))


SHARED: dict[str, Callable[[Path], None]] = {
    "a library of another user": give,
    "a library for all": lambda library: library.chmod(0o777),
    "a library for a group": lambda library: library.chmod(0o775),
    "a library that is a link": through_a_link,
    "a folder of another user": lambda library: give(library.parent),
    "a folder for all, sticky, of another user": lambda library: (
        library.parent.chmod(0o1777), give(library.parent)
    )[0],
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="owners and modes")
@pytest.mark.parametrize("scene", SHARED)
def test_a_library_that_others_can_have_written_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: str
) -> None:
    shared, own, mark = tmp_path / "shared", tmp_path / "own", tmp_path / "mark"
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(shared))
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    (shared / "native").mkdir(parents=True)
    library = shared / "native" / f"linear-int8-{int8_library._key()}.so"
    evil(library, mark)
    SHARED[scene](library)
    if sys.platform == "linux":  # elsewhere the user's cache is where it always is
        assert int8_library.loaded.__wrapped__().backend in FLAGS
        # the second time from where it lies
        assert int8_library.loaded.__wrapped__().backend in FLAGS
    assert not mark.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="where the user's cache is")
def test_a_cache_for_a_group_gets_a_library_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder made under umask 002 is closed to the group: the next start loads what is in it."""
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path))
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o775)
    int8_library.loaded.__wrapped__()
    (library,) = (tmp_path / "native").iterdir()
    assert not (library.stat().st_mode | library.parent.stat().st_mode) & 0o022
    monkeypatch.setattr(int8_library, "_compilers", lambda: [])
    assert int8_library.loaded.__wrapped__().backend in FLAGS


@pytest.mark.skipif(sys.platform != "linux", reason="where the user's cache is")
@pytest.mark.parametrize("where", ["own", "temporary"])
def test_a_cache_that_cannot_be_written_does_not_cost_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLOCKDIFF_CACHE", str(tmp_path / "file"))
    own = tmp_path / ("own" if where == "own" else "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own))
    assert int8_library.loaded.__wrapped__().backend in FLAGS
    assert bool(list(own.rglob("*.so"))) == (where == "own")
