"""What a comparison comes to: medians with quartiles, ratios, shares of ceilings, and our aims."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from blockdiff.bench import ceilings
from blockdiff.bench.rivals import TimedRun
from blockdiff.config import Mode
from blockdiff.engine.engine import Engine

BASE = "llama.cpp"
"""The rival that all ratios are over."""

TARGETS = {
    "cold_512": (False, 0.42),
    "warm_512": (False, 0.3),
    "writing_cold_512_over_ar": (False, 0.55),
    "forward_of_8": (False, 1.3),
    "read_share_of_8": (True, 0.7),
    "rewrite_forwards": (False, 12),
    "encoded_after_typing": (False, 64),
    "together": (True, 2.8),
}
"""By name: whether more is better, and the value to reach."""

Spread = dict[str, float]
"""Median and quartiles: `median`, `low`, `high`."""


def compared(runs: Sequence[Mapping[str, TimedRun]], usual: str) -> dict[str, Any]:
    """What each of those who wrote took.

    `ratio` is its time over `BASE`'s, `ours_over` that of our mode `usual` over its own,
    `writing_over` the same of a token behind those that came with the prompt.
    """
    return {
        name: {
            "seconds": spread([run[name].seconds for run in runs]),
            "ratio": spread([run[name].seconds / run[BASE].seconds for run in runs]),
            "ours_over": spread([run[usual].seconds / run[name].seconds for run in runs]),
            "writing_over": spread(_written_over(runs, usual, name)),
            "encoded": spread([run[name].encoded for run in runs]),
            "tokens_per_forward": spread([run[name].tokens_per_forward for run in runs]),
        }
        for name in runs[0]
    }


def _written_over(
    runs: Sequence[Mapping[str, TimedRun]], one: str, other: str
) -> Sequence[float]:
    """Time of a token of `one` over `other`'s, where that wrote any behind those of the prompt."""
    found = [(run[one].token_seconds, run[other].token_seconds) for run in runs]
    return [ours / theirs for ours, theirs in found if theirs > 0] or [0.0]


def single_forwards(
    engine: Engine,
    limits: Mapping[str, float],
    runs: Sequence[Mapping[str, TimedRun]],
    widths: Mapping[int, Sequence[float]],
    usual: str,
) -> dict[str, Any]:
    """What single forwards take, ours and llama.cpp's, and the share of the ceilings in that."""
    encoding = [1e3 * run[usual].context / run[usual].encoded for run in runs]
    theirs = [1e3 * run[BASE].writing / max(run[BASE].forwards - 1, 1) for run in runs]
    medians = {width: statistics.median(ms) for width, ms in widths.items()}
    return {
        "forward_ms": {str(width): spread(ms) for width, ms in widths.items()},
        "context_token_ms": spread(encoding),
        "llama_cpp_token_ms": spread(theirs),
        "shares": ceilings.shares(engine, limits, medians, statistics.median(encoding) / 1e3),
    }


def ratios(report: Mapping[str, Any], mode: str) -> dict[str, float]:
    """The medians that matter, flat: our `mode` over llama.cpp unless the name says otherwise."""
    found: dict[str, float] = {}
    for context, kinds in report["completions"].items():
        for kind, rows in kinds.items():
            found[f"{kind}_{context}"] = rows[BASE]["ours_over"]["median"]
            over_ar = rows[Mode.AR.value]["writing_over"]["median"]
            found[f"writing_{kind}_{context}_over_ar"] = over_ar
            for rival in set(rows) - {mode.value for mode in Mode} - {BASE}:
                found[f"{kind}_{context}_over_{rival}"] = rows[rival]["ours_over"]["median"]
    token_ms = report["llama_cpp_token_ms"]["median"]
    for width in ("1", "8"):
        over = report["forward_ms"][width]["median"] / token_ms
        found[f"forward_of_{width}"] = round(over, 4)
        found[f"read_share_of_{width}"] = report["shares"]["of_read_rate"][width]
    found["rewrite"] = report["rewrite"]["ratio"]["median"]
    for name, row in report["together"].items():
        found[f"together_{name}"] = row["throughput"]["median"]
    return found


def targets(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of our aims that this run has a figure for: `value`, `target`, whether it is `met`."""
    values = report["ratios"] | {
        "rewrite_forwards": report["rewrite"]["forwards"]["ours"]["median"],
        "encoded_after_typing": report["typing"]["at_once"]["median"],
        "together": max((v for k, v in report["ratios"].items() if k.startswith("together_")),
                        default=None),
    }  # fmt: skip
    found = {}
    for name, (at_least, target) in TARGETS.items():
        if (value := values.get(name)) is not None:
            met = value >= target if at_least else value <= target
            found[name] = {"value": value, "target": target, "met": met}
    return found


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return {
        "median": round(statistics.median(ordered), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }
