"""The card of a corpus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def data_card(manifest: Mapping[str, Any]) -> str:
    """The corpus described in Markdown, from its manifest alone."""
    total = sum(sum(c.values()) for c in manifest["bytes"].values())
    lines = [
        "# Training corpus",
        "",
        f"{sum(manifest['documents'].values()):,} source files, {total:,} bytes, from"
        f" {manifest['packages']} packages under permissive licences; the licence of each is in"
        f" `LICENSES.tsv`. {manifest['packages_excluded_by_licence']} packages were left out for"
        " their licence or for stating none (`EXCLUDED.tsv`).",
        "",
        "| language | files | bytes | share | held-out files | held-out bytes |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    train, held = manifest["bytes"]["train"], manifest["bytes"]["heldout"]
    for language in sorted({*train, *held}, key=lambda k: -train.get(k, 0)):
        size = train.get(language, 0) + held.get(language, 0)
        files = {s: manifest["files"][s].get(language, 0) for s in ("train", "heldout")}
        lines.append(
            f"| {language} | {files['train']:,} | {train.get(language, 0):,} | {size / total:.1%}"
            f" | {files['heldout']:,} | {held.get(language, 0):,} |"
        )
    lines += ["", "| licence | bytes |", "|---|---:|"]
    shown = list(manifest["licences"].items())
    lines += [f"| {name} | {size:,} |" for name, size in shown[:20]]
    if len(shown) > 20:
        lines.append(f"| {len(shown) - 20} more | {sum(n for _, n in shown[20:]):,} |")
    lines += ["", "Files dropped, by the first filter that each failed:", "", "| filter | files |"]
    lines += ["|---|---:|"] + [f"| {k} | {v:,} |" for k, v in manifest["dropped"].items()]
    lines += [
        "",
        f"Benchmark filter: {manifest['benchmark']['problems']} texts of problems,"
        f" {manifest['benchmark']['grams']:,} word 10-grams and"
        f" {manifest['benchmark']['signatures']} function signatures. One shared gram or signature"
        " drops a file.",
        "",
        f"One package gives at most {manifest['options']['package_bytes']:,} bytes."
        f" {manifest['options']['heldout_share']:.0%} of the files, chosen by the hash of the path"
        " inside the package, are held out of training.",
        "",
    ]
    return "\n".join(lines)
