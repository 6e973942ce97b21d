"""Whether measures and plots ask for what there is: rows that somebody records, measures that tables can show. Pure: it
reads what parts say of themselves (`ROWS`, see `sims.scenario.parts`), so that a misspelt name is told before hours of
runs, not after.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sims.scenario.measures import Reduce
from sims.scenario.parts import Rows
from sims.scenario.schema import MeasureOptions, PlotOptions
from sims.toml_source import Where, suggestion

ADDED = ("kind", "seed", "point", "t_s")  # to every row

Flaw = tuple[Where, str]


def rows_of(parts: Iterable[Any], shipped: Collection[type[Any]]) -> Rows | None:
    """Everything that these parts record; None when one is the reader's own and doesn't say what it records."""
    found: dict[str, tuple[str, ...]] = {}
    for part in parts:
        rows: Rows | None = getattr(part, "ROWS", None)
        if rows is None and type(part) not in shipped:
            return None
        for kind, values in (rows or {}).items():
            found[kind] = (*found.get(kind, ()), *values)
    return found


def texts_of(parts: Iterable[Any], plots: Iterable[PlotOptions], swept: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Of what parts record and plots may show, the values that are texts: row's kind and value's name. `swept`: the
    keys of [sweep], with one value each."""
    recorded = {text for part in parts for text in getattr(part, "TEXTS", ())}
    return recorded | {(plot.rows, key) for plot in plots for key, value in swept.items() if isinstance(value, str)}


def flaw(
    measures: Sequence[MeasureOptions],
    plots: Sequence[PlotOptions],
    rows: Rows | None,
    swept: Collection[str],
    texts: Collection[tuple[str, str]] = (),
) -> Flaw | None:
    """The first thing that is wrong: where it stands in the scenario, and what. `rows`: what is recorded, None when
    that isn't known; `swept`: the keys of [sweep]; `texts`: what can't be reduced to a number."""
    return (
        _name_flaw(measures, plots, swept)
        or (None if rows is None else _row_flaw(measures, plots, rows, swept))
        or _text_flaw(measures, plots, texts)
    )


def _text_flaw(
    measures: Sequence[MeasureOptions], plots: Sequence[PlotOptions], texts: Collection[tuple[str, str]]
) -> Flaw | None:
    asked = [(("measure", place, "value"), each.rows, each.value, each.reduce) for place, each in enumerate(measures)]
    asked += [(("plot", place, "y"), each.rows, each.y, each.reduce) for place, each in enumerate(plots)]
    for where, kind, value, reduce in asked:
        if (kind, value) in texts and reduce is not Reduce.COUNT:
            return where, f"'{value}' of rows of kind '{kind}' is a text, which can be counted only"
    for place, plot in enumerate(plots):
        if (plot.rows, plot.x) in texts and (plot.log_x or plot.reference):
            return ("plot", place, "x"), f"'{plot.x}' is a text: a logarithmic axis and published figures need numbers"
    return None


def _name_flaw(measures: Sequence[MeasureOptions], plots: Sequence[PlotOptions], swept: Collection[str]) -> Flaw | None:
    names = [measure.name for measure in measures]
    for key, own in (("measure", names), ("plot", [plot.name for plot in plots])):
        for place, name in enumerate(own):
            if name in own[:place]:
                return (key, place, "name"), f"there is another {key} '{name}'"
    for place, plot in enumerate(plots):
        for name in plot.measures:
            if name not in names:
                return ("plot", place, "measures"), f"there is no measure '{name}'{suggestion(name, names)}"
        if plot.kind == "table" and plot.x and plot.x not in swept:
            return ("plot", place, "x"), f"'{plot.x}' is not swept: a table's x is a key of [sweep]"
    return None


def _row_flaw(
    measures: Sequence[MeasureOptions], plots: Sequence[PlotOptions], rows: Rows, swept: Collection[str]
) -> Flaw | None:
    for place, measure in enumerate(measures):
        asked = {"value": measure.value, **_filters(measure.where)}
        if found := _flaw(rows, swept, ("measure", place), measure.rows, asked):
            return found
    for place, plot in enumerate(plots):
        if plot.kind != "table":
            along = {"x": plot.x} if plot.kind == "line" else {}
            asked = {**along, "y": plot.y, "by": plot.by, **_filters(plot.where)}
            if found := _flaw(rows, swept, ("plot", place), plot.rows, asked):
                return found
    return None


def _filters(where: Mapping[str, Any] | None) -> dict[str, str]:
    return {f"where.{key}": key for key in where or {}}


def _flaw(rows: Rows, swept: Collection[str], where: Where, kind: str, asked: Mapping[str, str]) -> Flaw | None:
    if kind not in rows:
        there = f"there are: {', '.join(rows)}" if rows else "there are none: it has no workload and no probe"
        return (*where, "rows"), f"nothing in this scenario records rows of kind '{kind}'{_meant(kind, rows)}; {there}"
    known = (*rows[kind], *ADDED, *swept)
    for key, value in asked.items():
        if value and value not in known:
            return (
                (*where, *key.split(".", 1)),
                f"no row of kind '{kind}' has '{value}'{_meant(value, known)}; there are: {', '.join(known)}",
            )
    return None


def _meant(wrong: str, known: Collection[str]) -> str:
    return suggestion(wrong, list(known))
