#!/usr/bin/env bash
# In transformers 5, a `rope_scaling` beside `rope_parameters` throws the base of the rotations away.
#
# Since version 5 a configuration keeps its rotary settings in `rope_parameters`, base included. Files that a
# tool of the years before has edited carry the old key `rope_scaling` as well. One expects the two to be
# merged, or the contradiction to be refused. The old key replaces the whole object: the scaling
# is taken, and the base, which the old key never held, becomes the default of 10,000.
#
# Seen on 2026-11-28 with transformers 5.23.0.
#
# Why it matters here: a checkpoint read so computes other positions than it was trained with, without a
# word. We do what the library does, so that both agree, and our documents say so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
"$folder/venv/bin/python" - 2>/dev/null <<'PY'
import sys

from transformers import LlamaConfig

plain = {"rope_type": "default", "rope_theta": 50000.0}
scaled = {"rope_type": "linear", "factor": 4.0}
alone = LlamaConfig(rope_parameters=dict(plain)).rope_parameters
both = LlamaConfig(rope_parameters=dict(plain), rope_scaling=dict(scaled)).rope_parameters
print("rope_parameters alone:", alone)
print("with rope_scaling:    ", both)
kept = alone["rope_theta"] == 50000.0
lost = both["rope_type"] == "linear" and both["rope_theta"] == 10000.0
sys.exit(not (kept and lost))
PY
