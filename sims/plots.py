"""† Figures from raw rows: lines and distributions with 95 % confidence intervals over seeds, beside published figures;
tables in Markdown. Each is written as PNG and as SVG.

Colours are those of Okabe and Ito, which differ for colour-blind readers; our lines have markers as well, published
figures are dashed and grey. The same rows give the same SVG.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from sims.results import Results, ResultsError
from sims.scenario.measures import Estimate, Series, distributions, lines, shown
from sims.scenario.plan import Plan
from sims.scenario.schema import PlotOptions, Reference

OURS = "p2pvpn"  # what the legend calls our only line beside published ones
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
REFERENCE_STYLES = (("--", "x"), (":", "+"), ("-.", "1"))
SIZE_INCHES = (6.4, 4.4)
LEGEND_LINE_INCHES = 0.17  # legends stand below the axes, where they hide nothing
MOST_TICKS = 8  # of a logarithmic axis that names the values themselves
PNG_DPI = 150


def draw_all(plan: Plan, results: Results, result: Mapping[str, Any]) -> list[str]:
    """Draw every plot of a plan; returns the names of the files. Raises ResultsError."""
    written = []
    for plot in plan.plots:
        if plot.kind == "table":
            results.write_plot(f"{plot.name}.md", table(plot, result).encode())
            written.append(f"{plot.name}.md")
            continue
        try:
            series = (
                distributions(results.rows(), plot.selection, plot.by)
                if plot.kind == "cdf"
                else lines(results.rows(), plot.selection, plot.x, plot.by, plot.x_step)
            )
        except ValueError as error:
            raise ResultsError(f"plot '{plot.name}': {error}") from None
        for ending, content in draw(plot, series, _unfinished(result) or _confidence(len(plan.seeds))).items():
            results.write_plot(f"{plot.name}.{ending}", content)
            written.append(f"{plot.name}.{ending}")
    return written


def draw(plot: PlotOptions, series: Sequence[Series], note: str) -> dict[str, bytes]:
    """One figure, by file ending, with a note in its corner. Raises ResultsError where matplotlib is missing, and for
    texts where numbers are needed."""
    if _texts(series) and (plot.log_x or plot.reference):
        raise ResultsError(f"plot '{plot.name}': '{plot.x}' is a text in some rows; log_x and references need numbers")
    try:
        import matplotlib as mpl
    except ImportError:
        raise ResultsError("plots need matplotlib: pip install 'p2pvpn[sims]'") from None
    mpl.use("Agg")
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": plot.name, "svg.fonttype": "none"}):
        width, height = SIZE_INCHES
        legend_lines = len(series) + 2 * len(plot.reference)
        figure = Figure(figsize=(width, height + LEGEND_LINE_INCHES * legend_lines), layout="constrained")
        axes = figure.add_subplot()
        for line, color, marker in zip(series, cycle(COLORS), cycle(MARKERS)):
            label = line.label or (OURS if plot.reference else None)
            if plot.kind == "cdf":
                _distribution(axes, line, color, label)
            else:
                _line(axes, line, color, marker, label)
        for reference, (style, marker) in zip(plot.reference, cycle(REFERENCE_STYLES)):
            xs, ys = [point[0] for point in reference.points], [point[1] for point in reference.points]
            axes.plot(xs, ys, style, color="0.4", marker=marker, label=_told_by(reference))
        _furnish(axes, plot, series, note)
        content = {}
        for ending in ("png", "svg"):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, dpi=PNG_DPI, metadata={"Date": None} if ending == "svg" else None)
            content[ending] = buffer.getvalue()
    return content


def table(plot: PlotOptions, result: Mapping[str, Any]) -> str:
    """A table of measures in Markdown: a row for each point, mean ± half of the 95 % interval."""
    swept = list(result["points"][0]["settings"]) if result["points"] else []
    columns = [plot.x, *(key for key in swept if key != plot.x)] if plot.x else swept
    head = [*columns, *plot.measures]
    body = [
        [
            *(shown(point["settings"][key]) for key in columns),
            *(_told(point["measures"].get(name)) for name in plot.measures),
        ]
        for point in result["points"]
    ]
    title = [f"**{plot.title}**", ""] if plot.title else []
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in body)]
    seeds = len(result["seeds"])
    unfinished = _unfinished(result)
    over = f"{'at most ' if unfinished else ''}{seeds} seed{'s' if seeds > 1 else ''}"
    foot = ["", f"Means over {over}, ± half of the 95 % confidence interval."]
    if unfinished:
        foot[1] += f" This is {unfinished}."
    published = [
        f"Published: {reference.label}, {reference.source}: " + ", ".join(f"{x:g}: {y:g}" for x, y in reference.points)
        for reference in plot.reference
    ]
    return "\n".join([*title, *rows, *foot, *published]) + "\n"


def _unfinished(result: Mapping[str, Any]) -> str:
    """How much there is of what is not all there; empty when it is."""
    performed = sum(len(point["trace_hash"]) for point in result["points"])
    wanted = len(result["points"]) * len(result["seeds"])
    return f"unfinished: {performed} of {wanted} runs" if performed < wanted else ""


def _confidence(seeds: int) -> str:
    return f"{seeds} seeds, 95 % confidence" if seeds > 1 else "one seed: no confidence interval"


def _told(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    return str(Estimate(estimate["mean"], estimate["low"], estimate["high"], ()))


def _told_by(reference: Reference) -> str:
    """What the legend says of a published figure."""
    return f"{reference.label}\n({reference.source})"


def _texts(series: Sequence[Series]) -> bool:
    """Whether there are texts along the x axis."""
    return any(isinstance(x, str) for line in series for x, _ in line.points)


def _line(axes: Any, line: Series, color: str, marker: str, label: str | None) -> None:
    xs = [x for x, _ in line.points]
    means = [estimate.mean for _, estimate in line.points]
    known = any(estimate.low is not None for _, estimate in line.points)
    below = [estimate.mean - (estimate.mean if estimate.low is None else estimate.low) for _, estimate in line.points]
    labels = _texts([line])
    style = {"color": color, "marker": marker, "markersize": 4, "capsize": 3, "linewidth": 1.2}
    axes.errorbar([str(x) for x in xs] if labels else xs, means, yerr=below if known else None, label=label, **style)


def _distribution(axes: Any, line: Series, color: str, label: str | None) -> None:
    xs = [x for x, _ in line.points]
    means = [estimate.mean for _, estimate in line.points]
    # It begins at 0; and a share is from 0 to 1, whatever the interval says.
    lows = [max(0.0, estimate.mean if estimate.low is None else estimate.low) for _, estimate in line.points]
    highs = [min(1.0, estimate.mean if estimate.high is None else estimate.high) for _, estimate in line.points]
    axes.step([xs[0], *xs], [0.0, *means], where="post", color=color, label=label)
    axes.fill_between(xs, lows, highs, step="post", color=color, alpha=0.25, linewidth=0)


def _furnish(axes: Any, plot: PlotOptions, series: Sequence[Series], note: str) -> None:
    axes.set_title(plot.title or plot.name, fontsize="medium")
    axes.set_xlabel(plot.x_label or (plot.y if plot.kind == "cdf" else plot.x))
    axes.set_ylabel(plot.y_label or ("share" if plot.kind == "cdf" else plot.y or "rows"))
    if plot.log_x:
        axes.set_xscale("log")
        ours = {x for line in series for x, _ in line.points}
        xs = sorted(ours.union(x for each in plot.reference for x, _ in each.points))
        if len(xs) <= MOST_TICKS:
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
            axes.minorticks_off()
    if plot.log_y:
        axes.set_yscale("log")
    if plot.kind == "cdf":
        axes.set_ylim(None if plot.log_y else 0, 1)
    axes.grid(alpha=0.3)
    if not series:
        axes.text(0.5, 0.5, "no such rows", transform=axes.transAxes, ha="center")
    published = [_told_by(reference) for reference in plot.reference]
    handles = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda entry: entry[1] in published)
    if handles:
        axes.figure.legend(
            *zip(*handles, strict=True), fontsize="small", loc="outside lower left", frameon=False, borderaxespad=1.6
        )
    axes.figure.text(0.995, 0.005, note, ha="right", va="bottom", fontsize="x-small", color="0.4")
