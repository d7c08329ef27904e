"""EVAL.md and the tables of the model card, from the result files in `models/*/eval/`.

`make docs` writes them anew, a test compares; nothing of this is edited by hand. A result file is
the last line of a `blockdiff eval` command; its name ends in the precision where that was named.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

MODELS = Path(__file__).resolve().parents[1] / "models"
_SPLITS = ("single-line", "multi-line", "random-span", "random-span-light")
_ORDER = ("empty", "llamacpp", "ar", "verify", "diffusion")
_NAMES = {"empty": "empty completion (floor)", "llamacpp": "llama.cpp, same file, PSM"}
_PRECISIONS = ("int8", "bfloat16", "float16", "float32")
Row = tuple[str, dict[str, Any]]  # precision, figures


def results(folder: Path) -> dict[str, list[Row]]:
    """What was measured, by what it is: a split of the benchmark, or an `eval` command."""
    found: dict[str, list[Row]] = {}
    for path in sorted((folder / "eval").glob("*.json")):
        figures = json.loads(path.read_text("utf-8"))
        ending = path.stem.rpartition("-")[2]
        precision = ending if ending in _PRECISIONS else ""
        found.setdefault(_topic(figures), []).append((precision, figures))
    return found


def _topic(figures: dict[str, Any]) -> str:
    if "eval" in figures:
        return str(figures["eval"])
    return next(s for s in reversed(_SPLITS) if f"-infilling-{s}.jsonl" in figures["data"])


def evaluation(folder: Path) -> str:
    """All of EVAL.md."""
    found = results(folder)
    digest = hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
    parts = [
        f"# What was measured of {folder.name}\n",
        "Written by `make docs` from the result files in `eval/`, each the last line of a command\n"
        f"(SHA-256 of the adapter that ships: `{digest[:8]}…`; rows of another one say so).\n",
    ]
    for split in _SPLITS:
        if split in found:
            data = found[split][0][1]["data"]
            command = f"blockdiff eval infilling --data {data} --mode MODE --limit N --json"
            parts += [f"## HumanEval-Infilling, {split}\n", f"`{command}`\n"]
            parts += ["Length unknown, greedy. Intervals resample problems.\n"]
            parts.append(infilling(found[split], digest))
    if "draft" in found:
        parts += ["## Drafts on held-out files\n", _command("draft", found["draft"])]
        parts.append(drafts(found["draft"], digest))
    if "revise" in found:
        parts.append("## Revision of spoilt code\n")
        for way in _REVISED:
            if rows := [row for row in found["revise"] if _way(row[1]) == way]:
                parts.append(_command(f"revise --by {way}", rows))
        parts.append(revisions(found["revise"], digest))
    if "rewrite" in found:
        rows = found["rewrite"]
        parts += ["## Rewriting by instruction\n", _command("rewrite", rows), rewrites(rows)]
    if "bits" in found:
        title = "## What a number format costs\n"
        parts += [title, _command("bits", found["bits"]), bits(found["bits"])]
    if "seams" in found:
        parts += ["## Where texts end\n", _seams_command(found["seams"][0][1])]
        parts.append(seams(found["seams"]))
    for precision, row in found.get("workspace", []):
        parts += ["## What other files bring\n", workspace(row, precision)]
    for _, row in found.get("tune", []):
        parts += ["## Which decoding is best\n", _tune_command(row), tunings(row)]
    return "\n".join(parts)


def card(text: str, folder: Path) -> str:
    """A model card with the tables between its marks as the result files have them."""
    found = results(folder)
    digest = hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
    tables = {s: infilling(found[s], digest) for s in _SPLITS if s in found}
    makers = {"draft": drafts, "revise": revisions}
    tables |= {name: make(found[name], digest) for name, make in makers.items() if name in found}
    if "rewrite" in found:
        tables["rewrite"] = rewrites(found["rewrite"])
    if "bits" in found:
        tables["bits"] = bits(found["bits"])
    for name in re.findall(r"<!-- results: (\S+) -->", text):
        pattern = rf"(<!-- results: {re.escape(name)} -->\n).*?(<!-- end -->)"
        part = tables[name].replace("\\", r"\\")
        text = re.sub(pattern, rf"\1\n{part}\n\2", text, flags=re.S)
    return text


# --- tables -------------------------------------------------------------------------------------


def infilling(rows: list[Row], digest: str) -> str:
    """One row for each mode and precision; bfloat16 where none is named."""
    lines = []
    for precision, row in sorted(rows, key=lambda r: (_ORDER.index(r[1]["mode"]), r[0])):
        low, high = row["pass@1_ci95"]
        speed = row["tokens_per_forward"]
        rate = "" if speed is None or row["mode"] == "llamacpp" else f"{speed:.2f}"
        name = _NAMES.get(row["mode"], f"`{row['mode']}`") + (f", {precision}" if precision else "")
        if row.get("rule", "threshold") != "threshold":
            name += f", rule `{row['rule']}`"
        passed = f"{row['pass@1']:.1%} ({low:.0%} to {high:.0%})"
        cells = (name + _other(row, digest), row["tasks"], passed)
        more = f"{row['exact_match_rstrip']:.1%}", f"{row['parse_rate']:.1%}", rate
        lines.append(_line(*cells, *more))
    return _table(
        "mode", "tasks", "pass@1 (95% interval)", "exact match, trailing space ignored",
        "filled file parses", "tokens per forward", lines=lines, left=1,
    )  # fmt: skip


def drafts(rows: list[Row], digest: str) -> str:
    """Exact drafts by offset, and the mean accepted run of all and of each language."""
    _, figures = rows[0]
    width = len(figures["accuracy"])
    lines = []
    for precision, row in sorted(rows, key=lambda r: bool(_other(r[1], digest))):
        low, high = row["mean_accepted_ci95"]
        run = f"{row['mean_accepted']:.2f} ({low:.2f} to {high:.2f})"
        if "adapter_alone" in row:  # without it, the adapter drafted alone
            run += f"; adapter alone {row['adapter_alone']:.2f}"
        name = f"all{', ' + precision if precision else ''}{_other(row, digest)}"
        lines.append(_draft_line(name, row, run))
        if not _other(row, digest):
            for language, part in sorted(row["by_language"].items()):
                lines.append(_draft_line(language, part, f"{part['mean_accepted']:.2f}"))
    ahead = [f"{offset + 2} ahead" for offset in range(width)]
    return _table("text", "files", "starts", *ahead, "mean accepted run", lines=lines, left=1)


def _draft_line(name: str, row: dict[str, Any], run: str) -> str:
    return _line(name, row["files"], row["starts"], *(f"{x:.1%}" for x in row["accuracy"]), run)


def revisions(rows: list[Row], digest: str) -> str:
    """What became of wrong tokens and of right ones."""
    lines, told = [], set()

    def order(one: Row) -> tuple[int, bool, int]:
        return _REVISED.index(_way(one[1])), bool(_other(one[1], digest)), one[1]["seed"]

    for precision, row in sorted(rows, key=order):
        way = _way(row)
        name = f"`{way}`{', ' + precision if precision else ''}{_other(row, digest)}"
        lines.append(_revision_line(name + (f", seed {row['seed']}" if row["seed"] else ""), row))
        if way not in told:
            for noise, part in sorted(row["by_noise"].items()):
                lines.append(_revision_line(f"`{way}`, wrong tokens: {noise}", part))
        told.add(way)
    return _table(
        "revised by", "texts", "wrong tokens", "fixed", "made something else",
        "right tokens broken", "fixed : broken", "round trips", "changed without errors",
        "parses where it did", lines=lines, left=1,
    )  # fmt: skip


_REVISED = ("rewrite", "edit")


def _way(row: dict[str, Any]) -> str:
    return str(row.get("by", "edit"))


def _revision_line(name: str, row: dict[str, Any]) -> str:
    fixed = f"{row['fixed']} ({row['fixed_share']:.0%}"
    if interval := row.get("fixed_share_ci95"):
        fixed += f", {interval[0]:.0%} to {interval[1]:.0%}"
    ratio = f"{row['fixed_per_broken']:.1f} : 1" if row["broken"] else f"{row['fixed']} : 0"
    clean = parses = ""
    if _way(row) == "rewrite" and "clean_changed" in row:
        low, high = row["clean_changed_ci95"]
        clean = f"{row['clean_changed']} ({low:.0%} to {high:.0%})"
        parses = f"{row['parses']} of {row['parsed']}"
    cells = f"{fixed})", row["changed"], row["broken"], ratio, f"{row['round_trips']:.1%}"
    return _line(name, row["texts"], row["wrong"], *cells, clean, parses)


def rewrites(rows: list[Row]) -> str:
    """A rate for each kind, and the mean over kinds."""
    lines = []
    for precision, row in rows:
        low, high = row["rate_ci95"]
        for kind, part in sorted(row["by_kind"].items()):
            cells = part["tasks"], f"{part['rate']:.0%}", f"{part['parse_rate']:.0%}"
            lines.append(_line(kind, *cells, part["unchanged"]))
        name = f"mean over kinds{', ' + precision if precision else ''}"
        rate = f"{row['mean_over_kinds']:.1%} (of all tasks {low:.0%} to {high:.0%})"
        lines.append(_line(name, row["tasks"], rate, f"{row['parse_rate']:.0%}", row["unchanged"]))
    prose = sum(row["prose"] for _, row in rows)
    titles = "kind", "tasks", "right", "file parses", "left unchanged"
    return _table(*titles, lines=lines, left=1) + f"\nAnswers that were prose: {prose}.\n"


def bits(rows: list[Row]) -> str:
    """Bits per token of the base in both formats, of all files and by language."""
    lines = []
    for _, row in rows:
        low, high = row["difference_ci95"]
        interval = f" ({low:+.4f} to {high:+.4f})"
        lines.append(_bits_line(f"all, {row['dtype']} against {row['against']}", row, interval))
        for language, part in sorted(row["by_language"].items()):
            lines.append(_bits_line(language, part))
    return _table(
        "text", "files", "tokens", "bits per token", "against", "difference (95% interval)",
        "same most likely token", lines=lines, left=1,
    )  # fmt: skip


def _bits_line(name: str, row: dict[str, Any], interval: str = "") -> str:
    cells = f"{row['bits_per_token']:.4f}", f"{row['against_bits_per_token']:.4f}"
    more = f"{row['difference']:+.4f}{interval}", f"{row['same_choice']:.1%}"
    return _line(name, row["files"], row["tokens"], *cells, *more)


def seams(rows: list[Row]) -> str:
    """What stands twice, talks or is torn: of each way of asking, its kinds and languages."""
    lines = []
    for precision, row in rows:
        for way, figures in row["ways"].items():
            name = f"{way}{', ' + precision if precision else ''}"
            low, high = figures["exact_ci95"]
            exact = f"{figures['exact']:.1%} ({low:.0%} to {high:.0%})"
            lines.append(_seams_line(f"{name}: all", figures, exact))
            for part in ("by_kind", "by_language", "by_neighbour"):
                neighbour = " neighbour" if part == "by_neighbour" else ""
                for value, figure in figures[part].items():
                    name = f"{way}: {value}{neighbour}"
                    lines.append(_seams_line(name, figure, f"{figure['exact']:.1%}"))
    text = (
        "`infill` is what the command line asks for, `ghost` what an editor does. Exact: the rest\n"
        "of the line is what it was (95% interval). Repeats: text behind the hole or of it\n"
        "stands twice. Torn: several lines within one. Parses: the file, where there is a\n"
        "grammar.\n"
    )
    titles = "number", "exact", "repeats", "prose", "fences", "torn", "parses", "ended at limit"
    return f"{text}\n{_table('holes', *titles, 'tokens', lines=lines, left=1)}"


def _seams_line(name: str, row: dict[str, Any], exact: str) -> str:
    parses = "" if row["parse_rate"] is None else f"{row['parse_rate']:.1%}"
    counts = row["repeats"], row["prose"], row["fences"], row["torn"]
    more = parses, row["at_limit"], f"{row['tokens']:.1f}"
    return _line(name, row["holes"], exact, *counts, *more)


def _seams_command(row: dict[str, Any]) -> str:
    data = "".join(f" --data eval/{name}" for name in row["data"])
    options = f"--limit {row['limit']} --seed {row['seed']}"
    options += f" --max-tokens {row['decoding']['max_tokens']}"
    options += f" --context-tokens {row['context_tokens']}"
    return f"`blockdiff eval seams{data} {options} --json`\n"


def workspace(row: dict[str, Any], precision: str) -> str:
    """Both sorts of holes in every way, the gains over showing nothing, and languages."""
    options = f"--limit {row['limit']} --controls {row['controls_limit']} --seed {row['seed']}"
    options += f" --share {row['share']} --context-tokens {row['context_tokens']}"
    sorts = {"needing": "need another file", "controls": "need none"}
    lines = []
    for sort, name in sorts.items():
        for way, figures in row.get(sort, {}).items():
            lines.append(_workspace_line(f"{name}: `{way}`", figures, figures.get("gain", {})))
    for way in ("none", "index"):
        for language, figures in row["needing"].get(way, {}).get("by_language", {}).items():
            lines.append(_workspace_line(f"{language}: `{way}`", figures, {}))
    text = (
        f"`blockdiff eval workspace --data PACKAGES {options} --json`\n\n"
        f"Of {len(row['packages'])} packages that no adapter was trained on"
        f"{', ' + precision if precision else ''}. Each hole begins at a name and ends\n"
        "with its line. `ring`: parts of three other files; `index`: definitions that the index\n"
        "finds; the context is as long in every way. Identifiers: the names of the line are the\n"
        "true ones, in order; named: the name of the other file is among them. In brackets the\n"
        "points above `none`, with the 95% interval over packages.\n"
    )
    titles = "packages", "exact", "identifiers", "named", "parses", "prose", "tokens", "shown"
    return f"{text}\n{_table('holes', 'number', *titles, lines=lines, left=1)}"


def _workspace_line(name: str, row: dict[str, Any], gain: dict[str, Any]) -> str:
    cells = [row["holes"], row["packages"]]
    for key in ("exact", "identifiers", "named"):
        more = ""
        if key in gain:
            low, high = gain[key]["ci95"]
            more = f" ({gain[key]['points']:+.1f}, {low:+.1f} to {high:+.1f})"
        cells.append(f"{row[key]:.1%}{more}")
    parses = "" if row["parse_rate"] is None else f"{row['parse_rate']:.1%}"
    return _line(name, *cells, parses, row["prose"], f"{row['tokens']:.1f}", f"{row['shown']:.0f}")


def tunings(row: dict[str, Any]) -> str:
    """Every configuration on the same held-out holes, the plot, and what is picked."""
    lines = []
    for line in sorted(row["configurations"], key=lambda c: (-c["exact"], c["forwards"])):
        low, high = line["exact_ci95"]
        costs = {"forwards": line["front_forwards"], "time": line["front_cpu_ms"]}
        front = [f"{cost} ({of})" for cost, of in costs.items() if of]
        lines.append(
            _line(
                f"`{line['configuration']}`",
                ", ".join(front),
                f"{line['exact']:.1%} ({low:.0%} to {high:.0%})",
                f"{line['parse_rate']:.1%}",
                f"{line['tokens_per_forward']:.2f}",
                f"{line['forwards']:.1f}",
                f"{line['cpu_ms']:.0f}",
            )
        )
    table = _table(
        "configuration", "on the front of", "exact match", "filled file parses",
        "tokens per forward", "forwards per hole", "processor ms per hole", lines=lines, left=2,
    )  # fmt: skip
    picks = [f"- `{mode}`: `{pick['pick']}`, {pick['why']}." for mode, pick in row["picks"].items()]
    kinds = " and ".join(f"{count} of {kind}" for kind, count in row["kinds"].items() if count)
    text = (
        f"{row['holes']} holes ({kinds}). A diffusion configuration is its rule, its parameter\n"
        "and the tokens of a block. The context is encoded before the clock starts; processor\n"
        "time is of one thread. A mode picks its default unless another is clearly better.\n"
    )
    plot = "![exact match against forwards and time](../../docs/images/tune.svg)\n"
    return "\n".join([text, table, plot, *picks]) + "\n"


def _tune_command(row: dict[str, Any]) -> str:
    kinds = "".join(f" --kind {kind}" for kind in row["kind"])
    kinds += "".join(f" --only '{pattern}'" for pattern in row["only"])
    options = f"--limit {row['limit']} --seed {row['seed']}{kinds} --max-tokens {row['max_tokens']}"
    more = f"--context-tokens {row['context_tokens']} --plot ../../docs/images/tune.svg --json"
    return f"`blockdiff eval tune --data eval/held_out.jsonl.gz {options} {more}`\n"


def _other(row: dict[str, Any], digest: str) -> str:
    adapter = row.get("adapter_sha256", "")
    return f", adapter `{adapter[:8]}`" if adapter and adapter != digest else ""


def _command(what: str, rows: list[Row]) -> str:
    figures = rows[0][1]
    options = f"--limit {figures['limit']} --seed {figures['seed']}"
    if figures.get("context_tokens", 1024) != 1024:
        options += f" --context-tokens {figures['context_tokens']}"
    return f"`blockdiff eval {what} --data eval/held_out.jsonl.gz {options} --json`\n"


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _table(*titles: str, lines: list[str], left: int) -> str:
    rule = "|" + "---|" * left + "---:|" * (len(titles) - left)
    return "\n".join([_line(*titles), rule, *lines]) + "\n"


def write() -> None:
    """Write what is generated in the folder of every model that has results."""
    for folder in sorted(path.parent for path in MODELS.glob("*/eval")):
        (folder / "EVAL.md").write_text(evaluation(folder), "utf-8")
        path = folder / "MODEL_CARD.md"
        path.write_text(card(path.read_text("utf-8"), folder), "utf-8")


if __name__ == "__main__":
    write()
