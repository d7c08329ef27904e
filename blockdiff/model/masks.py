"""Attention masks, each kind by its name. True means: the query may see the key.

Every builder returns a boolean tensor (queries, keys). The keys are the committed positions
followed by the positions of the forward itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def causal(past: int, new: int, device: torch.device | str = "cpu") -> Tensor:
    """Each new position sees all committed ones, itself, and the new ones before it."""
    return torch.ones(new, past + new, dtype=torch.bool, device=device).tril(past)


def full(past: int, new: int, device: torch.device | str = "cpu") -> Tensor:
    """Every new position sees every position: one bidirectional block after the committed ones."""
    return torch.ones(new, past + new, dtype=torch.bool, device=device)


def block(past: int, new: int, block_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Block-causal (BD3-LM): bidirectional within a block, causal from block to block.

    Blocks are counted from absolute position 0, so `past` may end inside one.
    """
    keys = torch.arange(past + new, device=device) // block_size
    return keys[past:, None] >= keys[None, :]


def windowed(mask: Tensor, positions: Tensor, window: int) -> Tensor:
    """A mask in which a position sees none that lies `window` or more positions before it.

    Args:
        mask: (new, past + new) or (batch, 1, new, past + new).
        positions: (batch or 1, new), the first one right after the committed ones.

    Returns:
        (batch or 1, 1, new, past + new)
    """
    past = mask.shape[-1] - mask.shape[-2]
    committed = torch.arange(-past, 0, device=positions.device) + positions[:, :1]
    keys = torch.cat([committed, positions], dim=-1)
    near = positions[:, :, None] - keys[:, None, :] < window
    return mask & near[:, None]


def opening(past: int, exact: int, noisy: int) -> Tensor:
    """Exact positions, causal, and behind them one noisy block that sees everything."""
    allowed = causal(past, exact + noisy)
    allowed[exact:, past + exact :] = True
    return allowed


def verifying(
    past: int,
    exact: int,
    lengths: Sequence[int],
    width: int,
    behind: Sequence[int] = (),
) -> Tensor:
    """One forward that verifies a draft and drafts the next one (TiDAR, arXiv 2511.08923).

    Args:
        exact: known tokens and their draft, causal among themselves.
        lengths: one group of masks for each; that of length n drafts for the case that exact
            position n is accepted: it sees what that one sees, and itself both ways.
        width: masks of a group.
        behind: of the last exact positions, where they are a tree, the one that each stands behind,
            counted from the first of them; -1: the known tokens. It sees what that one sees, and
            itself (SpecInfer, arXiv 2305.09781, section 4.2).
    """
    new = exact + len(lengths) * width
    allowed = torch.zeros(new, past + new, dtype=torch.bool)
    allowed[:exact, : past + exact] = causal(past, exact)
    known = exact - len(behind)
    straight = next((i for i, before in enumerate(behind) if before != i - 1), len(behind))
    for row in range(straight, len(behind)):
        allowed[known + row] = allowed[known + behind[row]]
        allowed[known + row, past + known + row] = True
    for group, length in enumerate(lengths):
        start = exact + group * width
        allowed[start : start + width] = allowed[length]
        allowed[start : start + width, past + start : past + start + width] = True
    return allowed


def branches(past: int, sizes: Sequence[int]) -> Tensor:
    """One token, and behind it several ways to go on, none of which sees another.

    Args:
        sizes: tokens of each way, laid out one after the other.
    """
    new = 1 + sum(sizes)
    allowed = torch.zeros(new, past + new, dtype=torch.bool)
    allowed[:, : past + 1] = True
    start = 1
    for size in sizes:
        allowed[start : start + size, past + start : past + start + size] = causal(0, size)
        start += size
    return allowed


def noisy_blocks(
    clean: int, starts: Sequence[int], block_size: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Queries are noisy blocks, keys the clean sequence followed by those blocks.

    A block that starts at position s sees the clean tokens before s and itself, both ways.

    Returns:
        (len(starts) * block_size, clean + len(starts) * block_size)
    """
    start = torch.as_tensor(list(starts), device=device).repeat_interleave(block_size)
    owner = torch.arange(len(starts), device=device).repeat_interleave(block_size)
    sees_clean = torch.arange(clean, device=device)[None, :] < start[:, None]
    sees_noisy = owner[:, None] == owner[None, :]
    return torch.cat([sees_clean, sees_noisy], dim=1)


def training(length: int, block_size: int) -> Tensor:
    """The classic mask over a noisy copy followed by the clean sequence (BD3-LM, figure 3).

    Block-diagonal among noisy positions, offset block-causal from noisy to clean, block-causal
    among clean ones. With `block_size` dividing `length`, n^2 + n*B of the 4n^2 entries are true.

    Returns:
        (2 * length, 2 * length), noisy half first.
    """
    index = torch.arange(length) // block_size
    same, before = index[:, None] == index[None, :], index[:, None] > index[None, :]
    noisy = torch.cat([same, before], dim=1)
    clean = torch.cat([torch.zeros_like(same), same | before], dim=1)
    return torch.cat([noisy, clean], dim=0)
