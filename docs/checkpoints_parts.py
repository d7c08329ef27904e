"""The tables of docs/checkpoints.md, from test results and the catalogue: `make docs`.

A test compares; none of it is edited by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from blockdiff.model.load.hub_config import read_kind
from blockdiff.model.load.kinds import AttentionPattern
from blockdiff.model.load.kinds import published as line_of
from blockdiff.weights.catalog import Published
from blockdiff.weights.catalog import drafters as known_drafters
from blockdiff.weights.catalog import published as catalogue
from blockdiff.weights.footprint import CONTEXT, DTYPES, drafter_shape, shape_of
from tests.parity.family_checkpoints import CHECKPOINTS

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "checkpoints.md"
RESULTS = ROOT / "tests" / "parity" / "results.json"
# Families whose published loop is another one's: the first is what was compared.
_SAME_LOOP = {
    "open-dcoder": "dream", "coda": "dream", "sdar-moe": "sdar", "stable-diffcoder": "sdar",
    "a2d (qwen2)": "a2d", "a2d (qwen3)": "a2d",
}  # fmt: skip


def updated(text: str) -> str:
    """The guide with every table as the results have it."""
    parts = {"families": families(), "drafters": drafters(), "memory": memory()}
    for name, rows in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        part = "\n" + "\n".join(rows) + "\n\n"
        text, found = re.subn(pattern, lambda m, p=part: m[1] + p + m[2], text, flags=re.S)
        assert found == 1, f"{GUIDE} has {found} places for {name!r}"
    return text


def families() -> list[str]:
    results = json.loads(RESULTS.read_text("utf-8"))
    rows = [
        "| family | attention | shift | reference of the logits | at once | by block | padded "
        "| generation | infill |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for family, row in results["logits"].items():
        kind = read_kind(CHECKPOINTS[family].config)
        attention = kind.attention.value
        blocks = line_of(CHECKPOINTS[family].config, family).block_size
        if kind.attention is AttentionPattern.BLOCK:
            attention = f"{blocks} tokens"
        elif kind.attention is AttentionPattern.CAUSAL_BLOCK:
            attention = f"causal, {blocks} tokens where it drafts"
        cells = [
            f"`{family}`", attention, "yes" if kind.shift else "no", row["reference"],
            _bound(row["logits"]), _bound(row.get("cached")), _bound(row["padded"]),
            _generation(family, results["generation"]), _infill(family),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _bound(deviation: float | None) -> str:
    return "no exact cache" if deviation is None else f"{deviation:.0e}"


def _generation(family: str, counts: dict[str, list[int]]) -> str:
    loop = _SAME_LOOP.get(family, family)
    same = {name: pair for name, pair in counts.items() if _family_of(name) == loop}
    if not same:
        return "not compared"
    identical, prompts = (sum(pair[i] for pair in same.values()) for i in (0, 1))
    text = f"{identical} of {prompts}"
    return text if loop == family else f"{text} (the loop of `{loop}`)"


def _family_of(case: str) -> str:
    """A case is named after its family and, behind a dash, its settings; `cal` is a search."""
    whole = case.startswith("ar ") or case == "fast-dllm"
    return {"cal": "llada"}.get(case, case if whole else case.split("-")[0])


def _infill(family: str) -> str:
    config = CHECKPOINTS[family].config
    line, kind = line_of(config, family), read_kind(config)
    if kind.expand_token_id is not None:
        return "in place, of any length by expand and delete tokens"
    if line.attention is AttentionPattern.FULL or kind.attention is AttentionPattern.FULL:
        return "in place, its length searched for (CAL)"
    return "by FIM marks, where the tokenizer has them" if line.fim else "none: by instruction only"


def drafters() -> list[str]:
    """Of each kind, how close it is to the published code; and what is known by name."""
    rows = ["| drafter | logits | the published block |", "|---|---|---|"]
    for name, row in json.loads(RESULTS.read_text("utf-8"))["drafters"].items():
        same, blocks = row["blocks"]
        rows.append(f"| `{name}` | {row['logits']:.0e} | {same} of {blocks} |")
    rows += ["", "| name | drafts for | repository | licence | int8 | bfloat16 |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, entry in known_drafters().items():
        shape = drafter_shape(dict(entry.config), name)
        sizes = " | ".join(
            f"{shape.footprint(dtype, CONTEXT).total / 1e9:.1f} GB" for dtype in shape.dtypes
        )
        licence = f"{entry.licence}: {entry.terms}" if entry.terms else entry.licence
        rows.append(f"| `{name}` | `{entry.target}` | `{entry.repo}` | {licence} | {sizes} |")
    return rows


def memory() -> list[str]:
    rows = [
        f"| name | repository | licence | {' | '.join(DTYPES)} |",
        f"|---|---|---|{'---|' * len(DTYPES)}",
    ]
    for name, entry in catalogue().items():
        sizes = " | ".join(_gigabytes(entry, dtype) for dtype in DTYPES)
        licence = f"{entry.licence}: {entry.terms}" if entry.terms else entry.licence
        rows.append(f"| `{name}` | `{entry.repo}` | {licence} | {sizes} |")
    known = [*catalogue().values(), *known_drafters().values()]
    loose = ", ".join(f"`{entry.name}`" for entry in known if not entry.revision)
    return [*rows, "", f"Fetched as they are now, since no public code names a commit: {loose}."]


def _gigabytes(entry: Published, dtype: str) -> str:
    shape = shape_of(dict(entry.config), entry.name)
    if dtype not in shape.dtypes:
        return "-"
    return f"{shape.footprint(dtype, CONTEXT).total / 1e9:.1f} GB"


if __name__ == "__main__":
    GUIDE.write_text(updated(GUIDE.read_text("utf-8")), "utf-8")
