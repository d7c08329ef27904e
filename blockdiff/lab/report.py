"""The report of a comparison: one page of HTML and one of Markdown, figures as SVG beside it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockdiff.errors import InputFileError, NotInstalled, OutputFileError
from blockdiff.lab.compare import Figures, results

_GREY = "#808080"  # reads on white and on black
_FOOTNOTE = (
    "One thread or two of this machine's processor, small networks of the same size, whole forwards"
    " in float32, samples in batches as said. Milliseconds of such models say how steps, length and"
    " batch enter, not what a large model would take; a step of one family does not buy what a step"
    " of another does, and low bits of samples that repeat themselves are no quality."
)


def write_report(folder: Path) -> list[Path]:
    """Pages and figures in `folder`. Raises InputFileError, NotInstalled, OutputFileError."""
    rows = results(folder)
    if len(rows) < 2:
        raise InputFileError(f"{folder} holds no results", "run: blockdiff lab compare")
    figures = _figures(rows, folder)
    asked = {p.stem: json.loads(p.read_text("utf-8")) for p in (folder / "asks").glob("*.json")}
    tables = [("The bound of each family", bounds_table(rows))]
    tables += [("Samples", [_sample(row, s) for row in rows for s in row["samples"]])]
    tables += [(f"Asked: {name}", answers) for name, answers in sorted(asked.items())]
    lines, page = ["# The laboratory", ""], ["<h1>The laboratory</h1>"]
    for title, table in tables:
        lines += [f"## {title}", "", *markdown_table(table), ""]
        page += [f"<h2>{html.escape(title)}</h2>", _html_table(table)]
    for title, path in figures:
        lines += [f"## {title}", "", f"![{title}]({path.name})", "", f"*{_FOOTNOTE}*", ""]
        picture = path.read_text("utf-8")
        page += [f"<h2>{title}</h2>", picture[picture.index("<svg") :]]
        page.append(f"<p><em>{_FOOTNOTE}</em></p>")
    head = "<!doctype html><meta charset='utf-8'><title>The laboratory</title><style>"
    head += "body{font:15px sans-serif;margin:2em auto;max-width:70em}td,th{padding:.1em .6em;"
    head += (
        "text-align:right}td:first-child{text-align:left}svg{max-width:100%;height:auto}</style>"
    )
    written = {"report.md": "\n".join(lines), "report.html": head + "\n".join(page) + "\n"}
    try:
        for name, text in written.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as error:
        problem = f"cannot write the report: {error}"
        raise OutputFileError(problem, "check space and rights") from None
    return [folder / name for name in written]


def bounds_table(rows: Sequence[Figures]) -> list[Figures]:
    """By bits per byte; `at` is the bound at the most tokens that all families saw."""
    curves = [row["curve"] for row in rows if row.get("curve")]
    seen = [{r["tokens"].bit_length() for r in curve} for curve in curves]
    common = max(set.intersection(*seen), default=0) if seen else 0
    table = []
    for row in rows:
        at = [r["bits"] for r in row.get("curve", []) if r["tokens"].bit_length() == common]
        table.append({
            "family": row["family"], "bits per byte": row["bits"],
            "low": row["low"], "high": row["high"],
            **({f"at {1 << (common - 1):,} tokens": at[0] if at else ""} if common else {}),
            **{key: row.get(key, "") for key in ("windows", "tokens", "seconds", "parameters")},
        })  # fmt: skip
    return table


def _sample(row: Figures, sample: Figures) -> Figures:
    return {"family": row["family"], **sample}


def markdown_table(rows: Sequence[Figures]) -> list[str]:
    """Columns are the keys of all rows, in the order in which they come up."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    cells = [[_cell(row.get(c, "")) for c in columns] for row in rows]
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


def _html_table(rows: Sequence[Figures]) -> str:
    head, _, *body = markdown_table(rows)
    made = []
    for line, tag in [(head, "th"), *((line, "td") for line in body)]:
        cells = line.strip("| ").split(" | ")
        made.append("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in made) + "</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figures(rows: Sequence[Figures], folder: Path) -> list[tuple[str, Path]]:
    try:
        import matplotlib
    except ImportError as error:
        raise NotInstalled(
            "matplotlib is not installed", "pip install 'blockdiff[train]'"
        ) from error
    matplotlib.use("Agg")
    families = [row for row in rows if row["family"] != "unigram"]
    floor = next(row["bits"] for row in rows if row["family"] == "unigram")
    curves = {r["family"]: [(p["tokens"], p["bits"]) for p in r["curve"]] for r in families}

    def usual(row: Figures, keys: tuple[str, str]) -> list[tuple[float, float]]:
        """Of the family's usual sampler at one batch and length."""
        first = row["samples"][0] if row["samples"] else {}
        same = ("sampler", "batch", "length")
        found = [s for s in row["samples"] if all(s[k] == first[k] for k in same)]
        return [(s[keys[0]], s[keys[1]]) for s in found]

    quality = {r["family"]: usual(r, ("steps", "bits")) for r in families}
    speed = {r["family"]: usual(r, ("steps", "ms_per_token")) for r in families}
    drawn = [
        ("Bits per byte against training tokens", "curves.svg", curves, "tokens", "bits per byte"),
        ("Samples against steps", "quality.svg", quality, "steps", "bits per byte by the judge"),
        ("Time against steps", "speed.svg", speed, "steps", "milliseconds per token"),
    ]
    for title, name, lines, x, y in drawn:
        _plot(folder / name, lines, x, y, floor if lines is curves else None, title)
    return [(title, folder / name) for title, name, *_ in drawn]


def _plot(
    target: Path, lines: dict[str, list[Any]], x: str, y: str, floor: float | None, title: str
) -> None:
    import matplotlib
    from matplotlib import pyplot

    style: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _GREY
    )
    with matplotlib.rc_context(style | {"svg.hashsalt": "blockdiff", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(9, 4.6), layout="constrained")
        colours = pyplot.get_cmap("tab20")
        for i, (name, points) in enumerate(lines.items()):
            if points:
                axes.plot(*zip(*points, strict=True), "o-", label=name, color=colours(i), ms=3)
        if floor is not None:
            axes.axhline(floor, color=_GREY, linestyle=":", label="unigram")
        axes.set(xlabel=x, ylabel=y, title=title, xscale="log")
        axes.patch.set_alpha(0.0)
        axes.grid(alpha=0.25, color=_GREY)
        axes.legend(frameon=False, fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
        pyplot.close(figure)
