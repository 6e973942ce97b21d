"""Whether the parts of a scenario fit together: each by itself is right, and yet nothing could come of it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sims.toml_source import Where

if TYPE_CHECKING:
    from sims.scenario.plan import Scenario

Flaw = tuple[Where, str]


def misfit(scenario: Scenario) -> Flaw | None:
    """The first thing that doesn't fit: where it stands, and why. Parts say it themselves (`unfit`, see
    `sims.scenario.parts`), and nothing may be due when the run is over."""
    for place, part in scenario.placed():
        if (unfit := getattr(part, "unfit", None)) is not None and (found := unfit(scenario)):
            key, why = found
            return ((*place, key) if isinstance(key, str) else key), why
    return _too_late(scenario)


def _too_late(scenario: Scenario) -> Flaw | None:
    measured_s, drain_s = scenario.general.duration_s, scenario.general.drain_s
    for key, parts in (("workload", scenario.workloads), ("fault", scenario.faults)):
        for place, timed in enumerate(parts):
            if timed.time_s > measured_s:
                return (key, place, "at_s"), f"measuring is over by then: `duration_s` is {measured_s:g}"
            over_s = timed.time_s + getattr(timed.part, "asks_for_s", 0.0)
            if over_s > measured_s + drain_s:
                why = f"it would not be over before {over_s:g} s, but the run is: `duration_s` is {measured_s:g}"
                return (key, place), why
    for place, probe in enumerate(scenario.probes):
        if probe.time_s > measured_s:
            return ("probe", place, "every_s"), f"nothing would be observed: `duration_s` is {measured_s:g}"
    return None
