"""Makes `llamacpp_argmax.json`: what llama.cpp finds most likely at 500 places of real code.

Run from the repository with the default model downloaded and the wheel `xllamacpp` installed:

    python tests/parity/make_llamacpp_argmax.py

The ids of the code are stored too, so that the test does not depend on a version of Python. One
request for every position: the server keeps the keys and values of the one before it. The first
token of a piece is not asked about: its activations are so large in a few channels that the 8 bits
to which llama.cpp rounds them lose the others, and float32 arithmetic disagrees with it there.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import httpx

TABLE = Path(__file__).with_name("llamacpp_argmax.json")
POSITIONS = 125  # of each piece, behind its first token
PIECES = [
    # file, the text where its piece begins
    ("heapq.py", "def heappush("),
    ("json/decoder.py", "def py_scanstring("),
    ("examples/rpn.rs", ""),
    ("examples/lru_cache.ts", ""),
]


def main() -> None:
    import xllamacpp

    from blockdiff.model.load.tokenizer import Tokenizer
    from blockdiff.weights.catalog import DEFAULT_MODEL
    from blockdiff.weights.store import resolve

    files = resolve(DEFAULT_MODEL)
    tokenizer = Tokenizer.from_file(files.tokenizer)
    params = xllamacpp.CommonParams()
    params.model.path = str(files.base)
    params.warmup = False
    params.n_ctx = 2 * POSITIONS
    params.n_parallel = 1
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    rows = []
    for name, begins in PIECES:
        path = Path(name) if name.startswith("examples/") else _stdlib() / name
        text = path.read_text("utf-8")
        ids = tokenizer.encode(text[text.index(begins) :])[: POSITIONS + 2]
        assert len(ids) == POSITIONS + 2, name
        top = []
        for length in range(2, POSITIONS + 2):
            body = {
                "prompt": ids[:length],
                "n_predict": 1,
                "temperature": 0.0,
                "n_probs": 2,
                "cache_prompt": True,
            }
            answer = httpx.post(f"{server.listening_address}/completion", json=body, timeout=600)
            answer.raise_for_status()
            best = answer.json()["completion_probabilities"][0]["top_logprobs"]
            top.append([best[0]["id"], round(best[0]["logprob"] - best[1]["logprob"], 3)])
        right = sum(t == i for (t, _), i in zip(top, ids[2:], strict=True))
        print(f"{name}: {right} of {POSITIONS} right", file=sys.stderr)
        rows.append({"file": name, "ids": ids, "top": [t for t, _ in top],
                     "margin": [m for _, m in top]})  # fmt: skip
    lines = ",\n".join(json.dumps(row) for row in rows)
    TABLE.write_text(f"[\n{lines}\n]\n", encoding="ascii")


def _stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


if __name__ == "__main__":
    main()
