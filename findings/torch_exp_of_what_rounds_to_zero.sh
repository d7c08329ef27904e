#!/usr/bin/env bash
# torch.exp takes 60 to 270 times as long where results are too small for a float32, logsumexp 25; softmax does not.
#
# Logits that are masked get -1e4, -1e9 or -inf, and one expects exponentials of these to be the cheapest of all. On a
# CPU torch hands exp to MKL's vector functions, which take each result that is zero or denormal for an exception and
# handle it apart. A row of 152,064 logits, the vocabulary of a code model, of which all but one are masked: 3 ms
# instead of 0.05 for exp, and of 0.13 for logsumexp, which is built on it; 13 ms where the results are denormal, at -90 to -103.
# softmax and log_softmax have vector code of their own and take as long as ever, but for 6 to 10 times among denormal
# results. GELU had the same trouble on negative inputs (reported in 2020 with a slow-down of 150, since mended there).
#
# Guessed before: no difference. Seen on 2026-11-28 with torch 2.13.0 on an x86-64 CPU with AVX-512, one thread.
#
# Why it matters here: what drafts reads the mass of each mask's logits after every forward. Ids that may never be
# written are few, so the model's own rows cost 0.15 ms; rows kept as their 64 likeliest logits, the rest at -1e4, cost
# more than a quarter of a forward, and made a replay of texts look as if drafting were dear.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys
import time

import torch

torch.set_num_threads(1)
SIZE = 152_064


def milliseconds(function, x):
    """The least of thirty."""
    least = float("inf")
    for _ in range(30):
        began = time.perf_counter()
        function(x)
        least = min(least, time.perf_counter() - began)
    return 1e3 * least


FUNCTIONS = {
    "exp": torch.exp,
    "logsumexp": lambda x: x.logsumexp(-1),
    "softmax": lambda x: x.softmax(-1),
}
found = {}
for value in (-1.0, -50.0, -90.0, -1e4, float("-inf")):
    row = torch.full((1, SIZE), value)
    row[0, 0] = 0.0
    found[value] = {name: milliseconds(function, row) for name, function in FUNCTIONS.items()}
    print(f"{value:>9}:", *(f"{name} {ms:.3f} ms" for name, ms in found[value].items()))
slow = found[-1e4]["logsumexp"] / found[-1.0]["logsumexp"]
slowest = found[-90.0]["exp"] / found[-1.0]["exp"]
even = found[-1e4]["softmax"] / found[-1.0]["softmax"]
print(f"masked: logsumexp {slow:.0f} times, softmax {even:.1f} times; denormal: exp {slowest:.0f} times")
sys.exit(not (slow > 5 and slowest > 20 and even < 3))
PY
