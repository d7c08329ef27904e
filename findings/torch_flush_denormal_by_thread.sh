#!/usr/bin/env bash
# torch.set_flush_denormal(True) holds for a part of a tensor only, and so does taking it back.
#
# The documentation has it as a switch of the process, which "disables denormal floating numbers on CPU", and True
# says that it took. One expects every result to follow it. It sets a flag of the calling thread alone. The threads
# among which torch divides an operation keep what was set when they were started, at the first operation that is
# large enough. So of one product of a long vector one half is flushed and the other is not; and where the switch
# came before any large operation, all is well until it is switched off: one half stays flushed for good.
# The call answers True each time, and which entries are concerned depends on the number of threads.
#
# Seen on 2026-11-28 with torch 2.13.0 on an x86-64 CPU, two threads.
#
# Why it matters here: the engine computes in a thread of its own, and what it drafts must depend neither on the number
# of threads nor on what ran before. With this switch it would. Values that shall be zero are set to zero.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > "$folder/halves.py" <<'PY'
import sys

import numpy
import torch

torch.set_num_threads(2)
SMALL = torch.from_numpy(numpy.full(1 << 20, 1e-40, dtype=numpy.float32))


def halves():
    """The share of each half of a product that became zero; its bits are looked at, not its values."""
    zero = (SMALL * 0.5).view(torch.int32) == 0
    return [zero[: 1 << 19].float().mean().item(), zero[1 << 19 :].float().mean().item()]


seen = {}
for step in sys.argv[1:]:
    if step == "large":
        torch.ones(1 << 20).mul(2)  # starts the other thread
        continue
    taken = torch.set_flush_denormal(step == "on")
    seen[step] = halves()
    print(f"{step}: {taken}; zeros by half: {seen[step]}")
late = {"on": [1.0, 0.0], "off": [0.0, 0.0]}
early = {"on": [1.0, 1.0], "off": [0.0, 1.0]}
sys.exit(seen != (late if "large" in sys.argv else early))
PY
echo "after a large operation"
"$folder/venv/bin/python" "$folder/halves.py" large on off
echo "before any"
"$folder/venv/bin/python" "$folder/halves.py" on off
