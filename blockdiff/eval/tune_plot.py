"""The plot of a tuning: exact match against cost, with Pareto fronts: of all, of `diffusion`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockdiff.errors import NotInstalled, OutputFileError

_COLOURS = {
    "ar": "#888888",
    "verify": "#2a9d8f",
    "threshold": "#4c78c8",
    "entropy_bound": "#b07cc6",
    "schedule": "#c0803a",
    "edit": "#d1495b",
    "syntax": "#e0a030",
    "stable": "#5fa8d3",
    "adaptive": "#7fb069",
}
_GREY = "#808080"  # reads on white and on black


def draw(figures: dict[str, Any], target: Path) -> None:
    """Write an SVG without a background. Raises NotInstalled, OutputFileError."""
    try:
        import matplotlib
    except ImportError as error:
        raise NotInstalled(
            "matplotlib is not installed", "pip install 'blockdiff[train]'"
        ) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _GREY
    )
    with matplotlib.rc_context(style | {"svg.hashsalt": "blockdiff", "svg.fonttype": "none"}):
        figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
        costs = {"forwards": "forwards per hole", "cpu_ms": "processor time per hole, ms"}
        for axes, (cost, label) in zip(panels, costs.items(), strict=True):
            _panel(axes, figures["configurations"], cost)
            axes.set(xlabel=label, ylabel="exact match, %")
            axes.patch.set_alpha(0.0)
            axes.grid(alpha=0.25, color=_GREY)
        panels[1].legend(frameon=False, fontsize=8, loc="lower left")
        try:
            figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
        except OSError as error:
            raise OutputFileError(f"cannot write {target}: {error}") from None
        finally:
            pyplot.close(figure)


def _panel(axes: Any, lines: Sequence[dict[str, Any]], cost: str) -> None:
    seen = set()
    for line in lines:
        parts = line["configuration"].split("/")
        family = parts[1] if parts[0] == "diffusion" else parts[0]
        label = None if family in seen else family
        seen.add(family)
        x, y = line[cost], 100 * line["exact"]
        axes.plot(x, y, "o", color=_COLOURS.get(family, _GREY), label=label, markersize=6)
        if line[f"front_{cost}"] and parts[0] == "diffusion":
            name = line["configuration"].removeprefix("diffusion/")
            axes.annotate(name, (x, y), xytext=(4, 5), textcoords="offset points", fontsize=7)
    for which, style in (("all", "-"), ("diffusion", ":")):
        on = [n for n in lines if n[f"front_{cost}"] == which or which in n["configuration"]]
        front = sorted((n[cost], 100 * n["exact"]) for n in on if n[f"front_{cost}"])
        axes.plot(*zip(*front, strict=True), style, color=_GREY, linewidth=1, zorder=0)
    axes.set_xlim(0, 1.15 * max(line[cost] for line in lines))
    axes.set_ylim(0, max(115 * max(line["exact"] for line in lines), 1.0))
