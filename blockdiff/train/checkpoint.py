"""Checkpoints of a run that goes on: tensors, optimizer and position in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from blockdiff.errors import InvalidRequest, ModelCorrupt

S = TypeVar("S")
_OWN, _OPTIMIZER = "adapter.", "optimizer."


def write_run(
    path: Path,
    tensors: Mapping[str, Tensor],
    module: nn.Module,
    optimizer: Optimizer,
    state: Mapping[str, Any],
    config: Mapping[str, Any],
) -> None:
    """Write `tensors`, and what `optimizer` holds of the parameters of `module`.

    Until the new file is whole the previous one stays.
    """
    stored = {_OWN + name: tensor for name, tensor in tensors.items()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            stored[f"{_OPTIMIZER}{key}.{name}"] = value
    meta = {"state": json.dumps(state), "config": json.dumps(config)}
    scratch = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in stored.items()}
    save_file(on_cpu, scratch, metadata=meta)
    os.replace(scratch, path)


def read_position(path: Path, state: Callable[..., S]) -> tuple[S, dict[str, Any]]:
    """The state and the configuration of a run, without its tensors. Raises ModelCorrupt."""
    try:
        with safe_open(path, framework="pt") as stored:
            meta = stored.metadata()
        return state(**json.loads(meta["state"])), dict(json.loads(meta["config"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path}: {error}", "delete it to start over") from error


def read_run(
    path: Path,
    module: nn.Module,
    optimizer: Optimizer,
    state: Callable[..., S],
    config: Mapping[str, Any],
    may_change: Collection[str] = (),
) -> tuple[dict[str, Tensor], S] | None:
    """The tensors and the state of a run; the optimizer gets its own. None where there is no file.

    Args:
        state: makes the state of what was written of it.

    Raises:
        ModelCorrupt: the file is damaged.
        InvalidRequest: the run has other values in `config`, but for those that `may_change`.
    """
    if not path.is_file():
        return None
    reached, before = read_position(path, state)
    tensors = load_file(path)
    now = json.loads(json.dumps(config))
    changed = sorted(k for k in now if now[k] != before.get(k) and k not in may_change)
    if changed:
        raise InvalidRequest(
            f"{path.parent} holds a run with other values of {', '.join(changed)}",
            "use the same settings to go on with it, or another folder",
        )
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_OPTIMIZER):
            _, kind, name = key.split(".", 2)
            parts.setdefault(name, {})[kind] = value
    for name, parameter in module.named_parameters():
        if name in parts:
            moved = {k: v.to(parameter.device) for k, v in parts[name].items()}
            optimizer.state[parameter] = moved | {"step": parts[name]["step"]}  # stays on the CPU
    own = {k.removeprefix(_OWN): v for k, v in tensors.items() if k.startswith(_OWN)}
    return own, reached
