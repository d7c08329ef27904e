"""What docs/lab.md says of a comparison, from `docs/lab.json`: `make docs`.

That file is the report.json of `blockdiff lab report`. A test compares; none of it is edited by
hand, and nothing is claimed that was not measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockdiff.eval.results import resampled_ratio
from blockdiff.lab.report import bounds_table, markdown_table

GUIDE = Path(__file__).with_name("lab.md")
RESULTS = Path(__file__).with_name("lab.json")
NOT_YET = "Not measured with this code: `blockdiff lab compare --minutes 10`, then as said above.\n"
Row = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """That one family's bits per byte are within (least, most) times another's.

    Attributes:
        follows: for the product, where what was measured agrees.
        otherwise: where it contradicts.
    """

    family: str
    other: str
    least: float
    most: float
    says: str
    follows: str = ""
    otherwise: str = ""


_ANY = float("inf")
CLAIMS = (
    Claim("mdlm", "ar", 1.0, 1.15, "masks cost likelihood, at this size at most 15% (MDLM)",
          "verification by the causal base, not diffusion alone, is what keeps quality",
          "masked diffusion at this size is another trade than the product's is built on"),
    Claim("sedd-absorbing", "mdlm", 1.0, _ANY, "ratios are no better than tokens (MDLM, table 2)",
          "the drafter's cross-entropy at masks needs no score entropy",
          "score entropy at masks is worth a try in the drafter's loss"),
    Claim("uniform", "mdlm", 1.0, _ANY, "uniform noise is behind masks (UDLM)",
          "drafts start from masks, not from random tokens",
          "the drafter is worth training on random tokens, too"),
    Claim("sedd-uniform", "sedd-absorbing", 1.0, _ANY, "uniform noise is behind masks (SEDD)"),
    Claim("d3pm-uniform", "d3pm-absorbing", 1.0, _ANY, "uniform noise is behind masks (D3PM)"),
    Claim("d3pm-nearest", "d3pm-uniform", 0.0, 1.0, "near tokens are better noise than any (D3PM)",
          "replacements for rewriting are drawn near what stands there",
          "replacements for rewriting need not be near what stands there"),
    Claim("bd3lm-4", "bd3lm-16", 0.0, 1.0, "smaller blocks are nearer to autoregression (BD3-LM)",
          "short drafts cost less likelihood than long ones",
          "the length of a draft costs no likelihood"),
    Claim("bd3lm-16", "bd3lm-whole", 0.0, 1.0, "blocks are better than a whole window (BD3-LM)",
          "block after block stays the order of `diffusion`",
          "a whole hole at once is no worse than block after block"),
    Claim("plaid", "mdlm", 1.0, _ANY, "vectors are behind masks (MDLM, table 2)",
          "noise stays discrete", "noise on embeddings is worth a try in the drafter"),
)  # fmt: skip


def updated(text: str) -> str:
    """The guide with every part as the results have it."""
    for name, lines in parts().items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, behind = rest.partition("<!-- end -->")
        assert mark and end, f"{GUIDE} has no place for {name!r}"
        text = before + mark + "\n" + "\n".join(lines) + "\n\n" + end + behind
    return text


def parts() -> dict[str, list[str]]:
    if not RESULTS.is_file():
        return dict.fromkeys(("bounds", "claims", "follows", "asked"), [NOT_YET.strip()])
    report = json.loads(RESULTS.read_text("utf-8"))
    rows = {row["family"]: row for row in report["results"]}
    judged = [(claim, *against(rows[claim.family], rows[claim.other])) for claim in CLAIMS
              if claim.family in rows and claim.other in rows]  # fmt: skip
    return {
        "bounds": bounds(report),
        "claims": claims(rows, judged),
        "follows": follows(judged),
        "asked": list(asked(report["asked"])),
    }


def bounds(report: Row) -> list[str]:
    preset = report["plan"]["preset"]
    seconds = sum(row.get("seconds", 0.0) for row in report["results"])
    said = (
        f"{len(report['plan']['families'])} families, {seconds:,.0f} seconds of training for all"
        f" together, {preset['hidden_size']} wide, {preset['n_layers']} layers, windows of"
        f" {preset['length']} tokens in batches of {preset['batch']}, seed"
        f" {report['plan']['seed']}. `unigram` is the bound of independent tokens."
    )
    return [said, "", *markdown_table(bounds_table(report["results"]))]


def against(row: Row, other: Row) -> tuple[float, float, float]:
    """Bits of one over those of the other on the windows of both, and the 95% interval."""
    pairs = list(zip(row["window_bits"], other["window_bits"], strict=False))
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    low, high = resampled_ratio(map(str, range(len(pairs))), ours, theirs)
    return sum(ours) / sum(theirs), low, high


def verdict(claim: Claim, low: float, high: float) -> str:
    """By the whole interval, or it is open."""
    if claim.least <= low and high <= claim.most:
        return "agrees"
    return "contradicts" if high < claim.least or low > claim.most else "open"


def claims(rows: dict[str, Row], judged: list[tuple[Claim, float, float, float]]) -> list[str]:
    worse = [name for name, row in rows.items() if against(row, rows["unigram"])[1] > 1]
    said = f"worse than independent tokens: {', '.join(f'`{name}`' for name in worse) or 'none'}."
    lines = [f"Of {len(rows) - 1} families {said}", ""]
    lines += ["| the papers say | measured | times | interval | |", "|---|---|---:|---:|---|"]
    for claim, ratio, low, high in judged:
        pair = f"`{claim.family}` over `{claim.other}`"
        interval = f"{low:.3f} to {high:.3f}"
        lines.append(
            f"| {claim.says} | {pair} | {ratio:.3f} | {interval} | {verdict(claim, low, high)} |"
        )
    return lines


def follows(judged: list[tuple[Claim, float, float, float]]) -> list[str]:
    lines = []
    for claim, _, low, high in judged:
        found = verdict(claim, low, high)
        said = {"agrees": claim.follows, "contradicts": claim.otherwise}.get(found, "")
        if said:
            lines.append(f"- {said[0].upper()}{said[1:]} (`{claim.family}`, `{claim.other}`).")
    unsettled = [f"`{c.family}` and `{c.other}`" for c, _, low, high in judged
                 if verdict(c, low, high) == "open"]  # fmt: skip
    if unsettled:
        lines.append(f"- Nothing yet from {'; '.join(unsettled)}: their interval is too wide.")
    return lines


def asked(answers: dict[str, list[Row]]) -> Iterator[str]:
    """Tables of the questions; of `steps` the rows of 16."""
    for question, rows in answers.items():
        if question == "steps":
            rows = [row for row in rows if row.get("steps", 16) == 16]
        yield from ("", f"`blockdiff lab ask {question}`", "", *markdown_table(rows))
    if not answers:
        yield "No question has been asked of these models."


if __name__ == "__main__":
    GUIDE.write_text(updated(GUIDE.read_text("utf-8")), "utf-8")
