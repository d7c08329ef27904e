"""Where and in which precision a model runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from functools import partial

import psutil
import torch
from torch import Tensor

from blockdiff.errors import DeviceUnavailable, InvalidRequest, OutOfMemory
from blockdiff.model.adapter import GatedAdapter
from blockdiff.model.block_drafter import BlockDrafter
from blockdiff.model.cuda.graphs import CudaGraphs, GraphedRunner, eagerly
from blockdiff.model.cuda.shapes import MIRROR_BYTES, shapes_for
from blockdiff.model.cuda.weight_only import floats_for
from blockdiff.model.forward import Forward, Runner, run
from blockdiff.model.int8 import library
from blockdiff.model.transformer import Transformer

DTYPES = {
    "int8": torch.int8,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
GRAPHS = "BLOCKDIFF_CUDA_GRAPHS"
"""Environment variable with one of `Graphs`."""

_HEADROOM = 700_000_000  # bytes for the cache, activations, logits and the libraries
_MIRROR_SHARE = 8  # of the memory that is left beside the weights, for one of the two


class Graphs(str, Enum):
    """Whether small forwards are recorded once and replayed."""

    ON = "1"  # on CUDA
    OFF = "0"
    EAGER = "eager"  # padded as for a recording, on any device, but run anew: to look for faults


def choose_device(wanted: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises DeviceUnavailable for what is not here."""
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceUnavailable(
            f"device {wanted!r} is not available: {str(error).splitlines()[0]}",
            "use --device auto, or see what blockdiff doctor finds",
        ) from error
    return device


def choose_dtype(wanted: str, device: torch.device | None = None) -> torch.dtype:
    """`auto` is int8 on a CPU that is fast at it, otherwise bfloat16, or float32 on a GPU that has
    no arithmetic for that.

    Args:
        device: where the model will run; None: it is to be trained, which int8 cannot be.

    Returns:
        torch.int8 stands on a CPU for packed weights and int8 products, with float32 between
        them; elsewhere for weights of 8 bits, and for all else what `auto` is.

    Raises DeviceUnavailable for an unknown name, and for int8 where it cannot be had.
    """
    cpu = device is not None and device.type == "cpu"
    if wanted == "auto":
        return torch.int8 if cpu and library.is_fast() else floats_for(device)
    if wanted not in DTYPES:
        raise DeviceUnavailable(f"dtype {wanted!r} is unknown", f"use auto, {', '.join(DTYPES)}")
    if wanted == "int8" and device is None:
        raise DeviceUnavailable("dtype int8 cannot be trained", "use --dtype bfloat16")
    if wanted == "int8" and cpu:
        library.loaded()
    return DTYPES[wanted]


def check_memory(needed: int, device: torch.device, drafter: int = 0) -> None:
    """Raise OutOfMemory when `needed` bytes of weights and some room do not fit on `device`.

    `drafter` bytes are needed on top.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif device.type == "cpu":
        free = psutil.virtual_memory().available
    else:
        return
    if free < (total := needed + drafter + _HEADROOM):
        what = f"{total / 1e9:.1f} GB on {device.type}"
        if drafter:
            what += f", {drafter / 1e9:.1f} GB of it for the drafter"
        raise OutOfMemory(
            f"the model needs {what}; {free / 1e9:.1f} GB are free",
            "close other programs, use a smaller --dtype or model"
            + (", or leave --drafter out" if drafter else ""),
        )


def choose_runner(
    model: object, adapter: GatedAdapter | None, drafter: BlockDrafter | None = None
) -> Runner:
    """How forwards run: on CUDA the small ones as graphs, unless `GRAPHS` says otherwise.

    A model that is no `Transformer` has a sampler that runs them itself.

    Raises InvalidRequest for a value that `Graphs` does not have.
    """
    wanted = os.environ.get(GRAPHS) or Graphs.ON.value
    if wanted not in [choice.value for choice in Graphs]:
        raise InvalidRequest(
            f"{GRAPHS} is {wanted!r}", f"use one of {', '.join(choice.value for choice in Graphs)}"
        )
    if not isinstance(model, Transformer):
        return _runs_itself
    if wanted == Graphs.EAGER.value:
        return GraphedRunner(model, adapter, eagerly, drafter=drafter)
    if wanted == Graphs.ON.value and model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0]  # of which contexts need the most
        shapes = shapes_for(model, adapter is not None, min(MIRROR_BYTES, free // _MIRROR_SHARE))
        return GraphedRunner(model, adapter, CudaGraphs(model.device), shapes, drafter)
    return partial(run, model, drafter=drafter)


def _runs_itself(waiting: Sequence[Forward]) -> list[Tensor]:
    raise AssertionError("the sampler of this model asks for no forwards")
