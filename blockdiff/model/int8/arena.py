"""Memory for weights that are read from one end to the other with every forward."""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

_LINE = 64  # bytes of a cache line, which is what one load takes
_HUGE = 2 << 20


class Arena:
    """Memory for copies of some tensors, in large pages where the system lends them.

    With pages of 4 KiB the processor looks up an address for every 64 lines that it reads; in a
    virtual machine that takes a quarter of the time of a product.
    """

    def __init__(self, tensors: int, nbytes: int) -> None:
        """For so many tensors of so many bytes together."""
        size = nbytes + tensors * _LINE
        if size < _HUGE:
            self._free = torch.empty(size + _LINE, dtype=torch.uint8)
        else:
            self._free = _huge(size)
        self._skip_to(_LINE)

    def copy(self, data: Tensor) -> Tensor:
        """The bytes of `data` in this memory, in one dimension, from the start of a cache line."""
        copy = self._free[: data.numel()]
        copy.copy_(data.reshape(-1))
        self._free = self._free[data.numel() :]
        self._skip_to(_LINE)
        return copy

    def _skip_to(self, boundary: int) -> None:
        self._free = self._free[min(-self._free.data_ptr() % boundary, len(self._free)) :]


def _huge(size: int) -> Tensor:
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # Linux has it
        return torch.empty(size + _LINE, dtype=torch.uint8)
    memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel built without them
        pass
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    return whole[-whole.data_ptr() % _HUGE :]
