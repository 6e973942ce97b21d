"""Every key that a scenario may have, as text: read from the parts themselves, so that it can't be out of date."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

from sims.nat import PRESETS
from sims.scenario.catalogue import SHIPPED, Catalogue
from sims.scenario.lives import Duration
from sims.scenario.options import OptionView, options_of
from sims.scenario.schema import (
    AccessOptions,
    General,
    MeasureOptions,
    NetworkOptions,
    PlotOptions,
    Reference,
    StackOptions,
)


def listing(catalogue: Catalogue = SHIPPED) -> str:
    """All of it."""
    return "\n".join(_lines(catalogue))


def _lines(catalogue: Catalogue) -> Iterator[str]:
    yield "At the top"
    yield from _options(General)
    yield _line(OptionView("seeds", "text | whole number", "1", "'1-10', or a number", ""))
    yield ""
    yield from _section("[network]", NetworkOptions)
    yield from _section("[[network.access]]", AccessOptions)
    yield from _kinds("[network.latency]", catalogue.links)
    yield "[nat]  shares of nodes behind a preset, the rest is public"
    yield f"  {', '.join(PRESETS)}"
    yield ""
    yield from _section("[stack]", StackOptions)
    yield from _kinds("[arrival]", catalogue.arrivals)
    yield from _kinds("[churn]  and reboot = 'crash' | 'leave'", catalogue.churns)
    yield from _section("up and down of [churn] kind = 'sessions'", Duration)
    yield from _kinds("[attack]  and fraction of the members, from 0 to 1", catalogue.attacks)
    yield from _kinds("[[workload]]  and name, at_s", catalogue.workloads)
    yield from _kinds("[[fault]]  and name, at_s", catalogue.faults)
    yield from _kinds("[[probe]]  and name, every_s (0: once, at the end)", catalogue.probes)
    yield '[sweep]  "dotted.key" = [value, ...]: every combination is run'
    yield "[small], [full]  other values for --small and --full: dotted keys, sweep.* among them"
    yield ""
    yield from _section("[[measure]]", MeasureOptions)
    yield from _section("[[plot]]", PlotOptions)
    yield from _section("[[plot.reference]]", Reference)


def _section(title: str, part: type[Any]) -> Iterator[str]:
    yield f"{title}  {cleandoc(part.__doc__ or '')}"
    yield from _options(part)
    yield ""


def _kinds(title: str, kinds: Any) -> Iterator[str]:
    for kind, part in kinds.items():
        yield f"{title}  kind = '{kind}'"
        yield from (f"  {line}" for line in cleandoc(part.__doc__ or "").splitlines())
        yield from _options(part)
        yield ""


def _options(part: type[Any]) -> Iterator[str]:
    yield from (_line(view) for view in options_of(part))


def _line(view: OptionView) -> str:
    limits = f" ({view.limits})" if view.limits else ""
    return f"    {view.key:<16} {view.type:<16} {view.default:<10} {view.meaning}{limits}"
