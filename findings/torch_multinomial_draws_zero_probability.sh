#!/usr/bin/env bash
# torch.multinomial without replacement hands out tokens of probability zero, and says nothing.
#
# The documentation asks for at least as many non-zero weights as samples, so with fewer one expects
# the error that numpy raises ("Fewer non-zero entries in p than size"). On the CPU the missing samples
# are filled with indices whose weight is exactly zero; such a row of a batch looks like any other.
#
# Seen on 2026-11-28 with torch 2.13.0 on a CPU, against numpy 2.4.6.
#
# Why it matters here: several different drafts for one position are such a draw. After top-k, top-p or a grammar
# has set most of the probabilities to zero, fewer tokens than drafts may be left, and the rest of the
# drafts would be tokens that were ruled out. The count of what is left has to be looked at first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy
import torch

torch.manual_seed(0)
logits = torch.randn(3, 1000)
few = torch.full_like(logits, -torch.inf)
top = logits.topk(2).indices  # top-k with k = 2, then four drafts
few.scatter_(1, top, logits.gather(1, top))
probabilities = few.softmax(-1)
drawn = torch.multinomial(probabilities, 4, replacement=False)
weights = probabilities.gather(1, drawn)
print("drawn:  ", drawn.tolist())
print("weights:", [[round(w, 3) for w in row] for row in weights.tolist()])
try:
    row = probabilities[0].double().numpy()
    numpy.random.default_rng(0).choice(1000, 4, replace=False, p=row / row.sum())
    other = "no error"
except ValueError as error:
    other = str(error)
print("numpy:  ", other)
sys.exit(not ((weights == 0).sum().item() == 6 and other != "no error"))
PY
