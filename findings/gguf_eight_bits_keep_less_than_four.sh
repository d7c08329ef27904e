#!/usr/bin/env bash
# In GGUF, rows of small weights come out worse in eight bits than in four, and at last as zeros.
#
# Q8_0 and Q4_0 are built alike: blocks of 32, each with one scale. One expects the error of Q8_0 to be a sixteenth of
# that of Q4_0 whatever the size of the weights, as a scale takes care of size. But the scale is a half float, and
# that of Q8_0 is the block's maximum divided by 127, of Q4_0 by 8: sixteen times nearer to where half floats run out.
# Weights of about 1e-4 have already lost half of what the eight bits are for, at 1e-5 Q4_0 is the better
# of the two, and at 1e-6 a row is all zeros in Q8_0 but not in Q4_0, whose file is half as large.
# Nothing is said of it when the file is written.
#
# Seen on 2026-11-28 with gguf 0.19.0, whose quantizer is that of llama.cpp, and numpy 2.4.6.
#
# Why it matters here: a checkpoint in Q8_0 is taken for as good as the original. Embeddings of tokens that training
# hardly met, or an adapter that starts at zero, may be of this size, and a comparison of logits over
# frequent tokens does not show that they are gone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

normal = numpy.random.default_rng(0).standard_normal((64, 256)).astype(numpy.float32)


def error(kind, size):
    """What the quantized weights are off by, relative to the weights (both root mean square)."""
    weights = normal * numpy.float32(size)
    off = dequantize(quantize(weights, kind), kind) - weights
    return float(numpy.sqrt((off**2).mean() / (weights**2).mean()))


errors = {}
for size in (1e-2, 1e-3, 1e-4, 1e-5, 3e-6, 1e-6):
    errors[size] = error(Kind.Q8_0, size), error(Kind.Q4_0, size)
    print(f"weights of {size:.0e}: off by {errors[size][0]:.4f} in Q8_0, {errors[size][1]:.4f} in Q4_0")
usual = all(errors[size][1] > 10 * errors[size][0] for size in (1e-2, 1e-3))
worse = all(errors[size][0] > errors[size][1] for size in (1e-5, 3e-6, 1e-6))
gone = errors[1e-6][0] > 0.99 and errors[1e-6][1] < 0.2
as_seen = usual and errors[1e-4][0] > 1.8 * errors[1e-3][0] and worse and gone
print("as seen" if as_seen else "changed")
sys.exit(not as_seen)
PY
