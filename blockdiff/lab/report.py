"""The report of a comparison: one page of HTML and one of Markdown, figures as SVG beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from blockdiff.errors import InputFileError, OutputFileError
from blockdiff.lab.ask import rows_of
from blockdiff.lab.compare import read_json, results, write_json
from blockdiff.lab.training import Figures

_FOOTNOTE = """
One thread or two of this machine's processor, small networks of one size, whole forwards, float32.
Times say how steps, length and batch enter, not what a large model would take; a step of one family
is not one of another; low bits of samples that repeat themselves are no quality."""
_STYLE = (
    "<!doctype html><meta charset='utf-8'><title>The laboratory</title><style>body{font:15px "
    "sans-serif;margin:2em auto;max-width:70em}td,th{padding:.1em .6em}svg{max-width:100%}</style>"
)
_PLOTS = (  # title, x and y
    ("Bits per byte of held-out text", "tokens", "bits"),
    ("Bits per byte of held-out text", "seconds", "bits"),
    ("Bits per byte of samples by `ar`", "steps", "bits"),
    ("Milliseconds per token", "steps", "ms_per_token"),
    ("Milliseconds per token", "batch", "ms_per_token"),
    ("Milliseconds per token", "length", "ms_per_token"),
)


def write_report(folder: Path) -> list[Path]:
    """Pages, a figure, and report.json, which has all of it.

    Raises InputFileError, OutputFileError.
    """
    rows = results(folder)
    if len(rows) < 2:
        raise InputFileError(f"{folder} holds no results", "run: blockdiff lab compare")
    asked = {p.stem: rows_of(read_json(p)) for p in sorted((folder / "asks").glob("*.json"))}
    tables = {"The bound of each family": bounds_table(rows)}
    tables |= {f"Asked: {name}": answers for name, answers in asked.items()}
    parts = [f"## {title}\n\n" + "\n".join(markdown_table(t)) for title, t in tables.items()]
    text = "\n\n".join(["# The laboratory", *parts, "![Figures](figures.svg)\n"])
    pages = [folder / f"report.{kind}" for kind in ("md", "html", "json")]
    try:
        _plot(folder / "figures.svg", rows, asked.get("steps", []))
        picture = (folder / "figures.svg").read_text("utf-8").partition("<svg")
        page = MarkdownIt("commonmark").enable("table").render(text)
        page = page.replace('<img src="figures.svg" alt="Figures" />', "<svg" + picture[2])
        pages[0].write_text(text, "utf-8")
        pages[1].write_text(_STYLE + page, "utf-8")
        plan = read_json(folder / "plan.json")
        write_json(pages[2], {"plan": plan, "results": rows, "asked": asked})
    except OSError as error:
        problem = f"cannot write the report: {error}"
        raise OutputFileError(problem, "check space and rights") from None
    return pages


def bounds_table(rows: Sequence[Figures]) -> list[Figures]:
    """By bits per byte, of rows in that order."""
    columns = ("family", "bits", "low", "high", "windows", "tokens", "seconds", "parameters")
    return [{key: row.get(key, "") for key in columns} for row in rows]


def markdown_table(rows: Sequence[Figures]) -> list[str]:
    """Columns are the keys of all rows, in the order in which they come up."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(c, "")) for c in columns] for row in rows]
    rules = ["---", *["---:"] * (len(columns) - 1)]
    return ["| " + " | ".join(row) + " |" for row in [columns, rules, *cells]]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plot(target: Path, rows: Sequence[Figures], samples: Sequence[Figures]) -> None:
    """The curves of `rows`, and of each family's first sampler what `samples` say of it."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    from matplotlib import pyplot

    curves = {row["family"]: row["curve"] for row in rows if "curve" in row}
    floor = next(row["bits"] for row in rows if row["family"] == "unigram")
    figure, all_axes = pyplot.subplots(len(_PLOTS), figsize=(9, 24), layout="constrained")
    for axes, (title, x, y) in zip(all_axes, _PLOTS, strict=True):
        axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)  # type: ignore[attr-defined]
        for name, curve in curves.items():
            points = curve if x in ("tokens", "seconds") else _usual(samples, name, x)
            axes.plot([p[x] for p in points], [p[y] for p in points], "o-", ms=3, label=name)
        axes.set(xlabel=x + _FOOTNOTE, ylabel=y, title=title, xscale="log")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
        if x in ("tokens", "seconds"):
            axes.axhline(floor, color="grey", linestyle=":")
    figure.savefig(target, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _usual(samples: Sequence[Figures], family: str, x: str) -> list[Figures]:
    """Samples by the first sampler that differ in x alone: 16 steps, the first batch and length."""
    of = [row for row in samples if row["family"] == family and "sampler" in row]
    same = {key: of[0][key] for key in ("sampler", "batch", "length")} | {"steps": 16} if of else {}
    same.pop(x, None)
    return sorted((r for r in of if same.items() <= r.items()), key=lambda row: float(row[x]))
