#!/usr/bin/env bash
# An int8 tensor compared with a number outside int8 is compared with another number.
#
# `x == 300` for an int8 `x` has one answer, false everywhere, and `x < 300` is true everywhere; numpy 2 answers
# so. torch first turns the number into the tensor's type, and it wraps: 300 becomes 44, so 44 equals 300
# and 100 is not less than 300; a uint8 of 255 equals -1. Nothing is raised, while clamp, full and masked_fill
# refuse the same number ("cannot be converted to type int8_t without overflow").
#
# Seen on 2026-11-28 with torch 2.13.0 on a CPU, against numpy 2.4.6.
#
# Why it matters here: weights and activations are kept in eight bits, and checks of their range ("is anything
# above 127?", "is the sentinel -1 there?") are comparisons of just this kind. They have to be made before
# the conversion or in a wider type.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import operator
import sys

import numpy
import torch

TABLE = [
    ("int8", 44, "==", operator.eq, 300),
    ("int8", 100, "<", operator.lt, 300),
    ("int8", -5, ">", operator.gt, -200),
    ("uint8", 255, "==", operator.eq, -1),
    ("uint8", 7, ">", operator.gt, -1),
]
changed = False
for kind, value, sign, compare, number in TABLE:
    ours = compare(torch.tensor([value], dtype=getattr(torch, kind)), number).item()
    theirs = bool(compare(numpy.array([value], dtype=kind), number)[0])
    right = compare(value, number)
    print(f"{kind:5} {value:4} {sign:2} {number:4}: torch {ours!s:5} numpy {theirs!s:5}")
    changed |= ours == right or theirs != right
try:
    torch.tensor([44], dtype=torch.int8).clamp(max=300)
    changed = True
except RuntimeError as error:
    print("clamp(max=300):", str(error).splitlines()[0])
sys.exit(changed)
PY
