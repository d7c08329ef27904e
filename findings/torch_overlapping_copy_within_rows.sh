#!/usr/bin/env bash
# Shifting a tensor within itself is refused by torch when it is whole, and goes wrong silently by rows.
#
# `x[1:] = x[:-1]` reads what it writes. torch refuses it ("refer to a single memory location. Please
# clone()"), and numpy copies as if through a second array. So for the same shift along the last axis of a
# matrix, or along the positions of a key-value cache, one expects the refusal or the right answer. The
# check speaks up only for dense views: for others the copy runs over its own output, entries are repeated
# in place of the later ones, and nothing is raised. The shift the other way comes out right here.
#
# Seen on 2026-11-28 with torch 2.13.0 on a CPU, against numpy 2.4.6.
#
# Why it matters here: static buffers of keys and values invite such a move, to open a gap for new positions.
# A trial with a vector raises and so looks safe; with the real shapes it spoils the cache without a
# word. Moves within a buffer have to go through a clone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy
import torch

SHAPES = [("vector", (12,), 0), ("matrix", (2, 6), 1), ("cache", (1, 2, 6, 4), 2)]


def shifted(x, axis):
    """`x` moved by one along `axis` in place: the same line for torch and numpy."""
    later = (slice(None),) * axis + (slice(1, None),)
    earlier = (slice(None),) * axis + (slice(None, -1),)
    x[later] = x[earlier]
    return x


seen = {}
for name, shape, axis in SHAPES:
    values = numpy.arange(numpy.prod(shape)).reshape(shape)
    right = shifted(values.copy(), axis)
    try:
        found = shifted(torch.from_numpy(values.copy()), axis).numpy()
        seen[name] = "right" if (found == right).all() else "wrong"
        print(f"{name}: {seen[name]}; first row {found.reshape(-1, *found.shape[axis:])[0].tolist()}")
    except RuntimeError as error:
        seen[name] = "refused"
        print(f"{name}: refused; {str(error).splitlines()[0][:90]}")
sys.exit(seen != {"vector": "refused", "matrix": "wrong", "cache": "wrong"})
PY
