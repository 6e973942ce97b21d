"""Every experiment that the project ships runs at its small size, and what its figures are made of is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sims.scenario.catalogue import SHIPPED
from sims.scenario.perform import perform
from sims.scenario.plan import Plan, Wanted, read_scenario
from sims.scenario.recorded import ADDED, rows_of
from tests.evaluation import DATA

FOLDER = Path(__file__).resolve().parent.parent / "sims" / "scenarios"
MAY_BE_NONE = ("to deputies", "unanswered", "wrong")  # where all goes well, nobody is asked or wrong
EXPERIMENTS = sorted(path.name for path in FOLDER.glob("[1-7]-*.toml"))


def find(name: str) -> str | None:
    path = DATA / name
    return str(path) if path.exists() else None


def read(name: str, wanted: Wanted) -> Plan:
    return read_scenario((FOLDER / name).read_text(), name, find, wanted)


def needs_data(name: str) -> None:
    if "peersim_session" in (FOLDER / name).read_text() and not DATA.is_dir():
        pytest.skip(f"{name} needs the folder that P2PVPN_DATA names")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_small_and_its_measures_have_values(name: str) -> None:
    needs_data(name)
    plan = read(name, Wanted(small=True))
    assert plan.small
    for point, (settings, scenario) in enumerate(plan.points):
        done = perform(scenario, plan.seeds[0], point, settings)
        rows = [json.loads(line) for line in done.rows]
        recorded = rows_of(scenario.parts(), SHIPPED.parts())
        assert recorded is not None
        for row in rows:
            values = set(row) - {*ADDED, *settings}
            assert values <= set(recorded[row["kind"]]), f"{name}: a part records more than it says"
        for measure in plan.measures:
            chosen = measure.selection
            number = chosen.number([row for row in rows if chosen.takes(row)])
            assert number is not None or measure.name in MAY_BE_NONE, f"{name}, {settings}: no '{measure.name}'"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_at_full_size_has_ten_seeds_and_a_published_figure_beside_ours(name: str) -> None:
    needs_data(name)
    plan = read(name, Wanted(full=True))
    assert len(plan.seeds) >= 10
    assert plan.description
    assert any(plot.reference for plot in plan.plots) or name.startswith("4-"), "the ring's own invariants are the norm"
