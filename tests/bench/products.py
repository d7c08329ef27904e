"""Products of packed weights, one thread: what this tree's library and others make of a matrix.

Each C compiler that is found compiles this tree's sources; every FOLDER holds other sources, such
as those of an earlier commit (`blockdiff/model/int8` there), for the first compiler. All are timed
in turn, by the processor's time, and the least counts; the last column is the ratio to the first.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from blockdiff.model.int8 import library as int8_library
from blockdiff.model.int8.packing import pack_q4_k, pack_q6_k
from blockdiff.model.int8.quantized import QuantizedLinear

_FORMATS = {"Q4_K": (144, slice(0, 4), pack_q4_k), "Q6_K": (210, slice(208, 210), pack_q6_k)}
"""Bytes of a block of 256 inputs, where its scales in float16 stand, and what packs it."""


def random_blocks(rows: int, inputs: int, size: int, scales: slice) -> np.ndarray:
    """Any bits, with scales as files have them, (rows, bytes)."""
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (rows, inputs // 256, size), dtype=np.uint8)
    count = (scales.stop - scales.start) // 2
    drawn = random.uniform(1e-4, 1e-3, (rows, inputs // 256, count)).astype(np.float16)
    blocks[:, :, scales] = drawn.view(np.uint8)
    return blocks.reshape(rows, -1)


def libraries(folders: list[Path], scratch: Path) -> dict[str, int8_library.Library]:
    """By what was compiled, and with what."""
    compilers = int8_library._compilers()
    wanted = {" ".join(compiler): (compiler, int8_library.SOURCES) for compiler in compilers}
    for folder in folders:
        sources = [folder / path.name for path in int8_library.SOURCES]
        wanted[str(folder)] = compilers[0], sources
    found = {}
    for number, (name, (compiler, sources)) in enumerate(wanted.items()):
        out = scratch / f"{number}.so"
        command = [*compiler, *int8_library._FLAGS, *map(str, sources), "-o", str(out), "-lm"]
        subprocess.run(command, check=True)
        found[name] = int8_library.Library(out)
        print(f"{number}: {found[name].backend}, {name}")
    return found


def main() -> None:
    """Print milliseconds and billions of operations a second by format, rows and library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--shape", type=int, nargs=2, default=[8960, 1536], metavar="N")
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    outputs, inputs = options.shape
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        found = libraries(options.folders, Path(scratch))
        for name, (size, scales, pack) in _FORMATS.items():
            blocks = random_blocks(outputs, inputs, size, scales)
            layer = QuantizedLinear([pack(blocks, inputs)])
            for rows in options.rows:
                x, least = torch.randn(rows, inputs), dict.fromkeys(found, float("inf"))
                for _ in range(options.repeats):
                    for which, library in found.items():
                        began = time.process_time()
                        library.linear(layer._parts, x, outputs)
                        least[which] = min(least[which], time.process_time() - began)
                first = next(iter(least.values()))
                for number, (which, seconds) in enumerate(least.items()):
                    giga = 2e-9 * rows * inputs * outputs / seconds
                    figures.append(
                        {"format": name, "rows": rows, "library": which, "ms": 1e3 * seconds}
                    )
                    print(
                        f"{name}  {rows:3} rows  {number}: {1e3 * seconds:8.3f} ms  {giga:4.0f} "
                        f"GOP/s  {seconds / first:.2f}"
                    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
