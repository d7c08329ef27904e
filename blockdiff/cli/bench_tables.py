"""The report of `blockdiff bench peers` for people to read."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

_LEAST_WIDTH = 110  # columns: rather wrapped by the terminal than cut


def show(report: dict[str, Any]) -> None:
    """Print what `eval.peers.measure` returned as tables, on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, _LEAST_WIDTH)
    tables = (completions, rewrite, machine, targets)
    for table in tables:
        console.print(table(report))
    for name, row in report["together"].items():
        gain = _spread(row["throughput"])
        console.print(
            f"{row['clients']} clients at once, {name}: throughput times {gain},"
            f" {row['same']} texts as alone"
        )
    typing = report["typing"]
    console.print(
        f"five characters typed in {typing['window']['median']:.0f} tokens of context:"
        f" {_spread(typing['at_once'], 0)} encoded again, one by one"
        f" {_spread(typing['one_by_one'], 0)}"
    )
    busy = max(report["load_before"], report["load_after"])
    if busy > report["threads"] + 1:
        console.print(f"the machine was busy (load {busy:.1f}): times say little")


def completions(report: dict[str, Any]) -> Table:
    """One row for each context, kind, and one who writes."""
    table = _table(
        f"{report['scope']['tokens']} tokens behind a context",
        *("context", "", "who", "seconds", "over llama.cpp", "encoded", "a forward"),
    )
    for context, kinds in report["completions"].items():
        for kind, rows in kinds.items():
            for name, row in rows.items():
                table.add_row(
                    context, kind, name, _spread(row["seconds"]), _spread(row["ratio"]),
                    f"{row['encoded']['median']:.0f}", f"{row['tokens_per_forward']['median']:.2f}",
                )  # fmt: skip
            table.add_section()
    return table


def rewrite(report: dict[str, Any]) -> Table:
    """What three changed tokens cost."""
    found = report["rewrite"]
    title = f"{found['tokens']['median']:.0f} tokens rewritten, three of them changed"
    table = _table(title, "who", "forwards", "seconds")
    for name, seconds in found["seconds"].items():
        table.add_row(name, _spread(found["forwards"][name], 0), _spread(seconds))
    free = found["free"]
    right = f"ours, undictated ({free['right']} of {free['of']} right)"
    table.add_row(right, _spread(free["forwards"], 0), "")
    return table


def machine(report: dict[str, Any]) -> Table:
    """Single forwards beside the ceilings."""
    limits, shares = report["ceilings"], report["shares"]
    title = (
        f"reads {limits['read_gb_per_s']:.1f} GB/s, multiplies {limits['int8_gop_per_s']:.0f} GOP/s"
        f" in int8, {limits['bfloat16_gop_per_s']:.0f} in bfloat16"
    )
    table = _table(title, "forward", "ms", "share of the ceiling")
    for width, row in report["forward_ms"].items():
        share = f"{shares['of_read_rate'][width]:.0%} of reading"
        table.add_row(f"{width} positions", _spread(row, 1), share)
    kind = "int8" if report["dtype"] == "int8" else "bfloat16"
    share = f"{shares[f'context_of_{kind}_rate']:.0%} of {kind} products"
    table.add_row("a token of context", _spread(report["context_token_ms"], 1), share)
    table.add_row("llama.cpp's one position", _spread(report["llama_cpp_token_ms"], 1), "")
    return table


def targets(report: dict[str, Any]) -> Table:
    """Our aims, as far as this run has figures for them."""
    table = _table("targets", "", "measured", "target", "met")
    for name, row in report["targets"].items():
        table.add_row(
            name, f"{row['value']:g}", f"{row['target']:g}", "yes" if row["met"] else "no"
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        numeric = number and column not in ("", "who", "share of the ceiling")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    return table


def _spread(row: dict[str, float], digits: int = 2) -> str:
    return f"{row['median']:.{digits}f} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
