"""Worlds in programs of one's own: `from sims import World`, with everything that a scenario file can say."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dht.edge import Edge
from dht.envelope import Mode
from dht.router import Policy
from sims import World
from sims.experiments.members import Drop
from sims.latency import Synthetic
from sims.link import AccessLink
from sims.nat import PRESETS
from sims.scenario.faults import Crash
from sims.scenario.flows import Flows
from sims.scenario.lives import ExponentialLives
from sims.scenario.parts import Run
from sims.scenario.probes import RingProbe
from sims.scenario.workloads import Lookups
from sims.stack import VpnStack


def test_one_seed_is_one_run_with_cryptography_or_without() -> None:
    def hash_of(seed: int, *, plain: bool) -> str:
        world = World(5, seed, latency=Synthetic(3), loss=0.01, jitter_ms=4, plain=plain)
        world.settle()
        world.measure(Lookups(count=5))
        return world.engine.trace_hash

    assert hash_of(1, plain=True) == hash_of(1, plain=False) != hash_of(2, plain=True)


def test_the_readme_shows_a_program_that_runs() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (program,) = [each for each in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "from sims import" in each]
    ran = subprocess.run(
        [sys.executable, "-c", program.replace("nodes=50", "nodes=10").replace("run_for(120)", "run_for(20)")],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    share, trace_hash = ran.stdout.split()
    assert 0.5 < float(share) <= 1.0 and len(trace_hash) == 32


def test_a_world_has_what_a_scenario_can_say() -> None:
    world = World(
        12,
        seed=2,
        nat={"port": 0.25, "sym": 0.25},
        broken_links=0.3,
        link=AccessLink(1e6, 1e6),
        attack=Drop(),
        hostility=0.25,
        plain=True,
        start=10,
    )
    world.run_for(60)
    assert sorted(each or "public" for each in world.population.behind) == ["port"] * 3 + ["public"] * 6 + ["sym"] * 3
    assert len(world.population.hostile) == 3 and 0 not in world.population.hostile
    assert len(world.nodes) == 10 and world.population.down() == [10, 11]
    assert world.network.counters["cut"] > 0
    world.population.start(10)
    assert world.population.is_up(10)


def test_measuring_takes_as_long_as_its_workloads_and_each_time_asks_for_other_places() -> None:
    world = World(6, plain=True)
    world.settle()
    began = world.engine.now
    first = world.measure(Lookups(count=30, rate_per_s=2), drain_s=1)
    assert world.engine.now - began == pytest.approx(29 / 2 + 1) and len(first) == 30
    second = world.measure(Lookups(count=30, rate_per_s=2), drain_s=1)
    assert [row["hops"] for row in first] != [row["hops"] for row in second]
    with pytest.raises(ValueError, match="takes 14.5 s to ask all that"):
        world.measure(Lookups(count=30, rate_per_s=2), duration_s=5, drain_s=1)


def test_faults_strike_at_once_and_a_churn_brings_nodes_up_and_down() -> None:
    world = World(10, plain=True)
    world.settle()
    (row,) = world.measure(Crash(fraction=0.3), RingProbe(), duration_s=1)
    assert row["nodes"] == 7
    rows = world.measure(ExponentialLives(up_s=10, down_s=10), RingProbe(), duration_s=40, every_s=1)
    counts = [each["nodes"] for each in rows]
    assert counts[0] >= 8, "everybody is up at first"
    assert len(set(counts)) > 3 and min(counts) < 8


def test_a_flow_needs_whole_nodes() -> None:
    world = World(3, stack=VpnStack(), plain=True)
    world.settle()
    rows = world.measure(Flows(count=1, lasts_s=1))
    assert [row["delivered"] for row in rows] == [1.0]


@dataclass(frozen=True)
class Largest:
    """A probe of one's own: the largest id that is up."""

    def watch(self, run: Run) -> Callable[[], None]:
        return lambda: run.record.row("largest", place=max(node.id for node in run.world.nodes) >> 152)


def test_a_part_of_ones_own_needs_no_more_than_its_method() -> None:
    world = World(4, plain=True)
    world.settle()
    (row,) = world.measure(Largest())
    assert row == {"kind": "largest", "seed": 1, "t_s": 10.0, "place": max(node.id for node in world.nodes) >> 152}
    with pytest.raises(TypeError, match="is no workload, probe, fault or churn"):
        world.measure(PRESETS)  # type: ignore[arg-type]


def test_a_policy_of_ones_own_is_asked_for_every_hop() -> None:
    asked: set[int] = set()

    def nowhere(me: int) -> Policy:
        def choose(edges: Sequence[Edge], target: int, mode: Mode) -> Edge | None:
            asked.add(me)
            return next((edge for edge in edges if edge.id == target), None)

        return choose

    world = World(5, plain=True, policy=nowhere)
    world.run_for(30)
    rows = world.measure(Lookups(count=20))
    assert asked == {node.id for node in world.nodes}
    assert not all(row["ok"] for row in rows), "nobody is the target itself"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"nodes": 0}, "0 of 0 nodes"),
        ({"nodes": 3, "start": 4}, "4 of 3 nodes"),
        ({"nodes": 3, "nat": {"cone": 0.3}}, "'cone' is no NAT; there are: public, full"),
        ({"nodes": 3, "nat": {"sym": 3}}, r"from 0 to 1, not 3 \(sym\)"),
        ({"nodes": 3, "hostility": 0.2}, "both an attack and their share"),
        ({"nodes": 3, "loss": -1.0}, r"from 0 to 1, not -1.0 \(loss\)"),
        ({"nodes": 3, "broken_links": 7.0}, "a fraction is from 0 to 1"),
    ],
)
def test_a_world_that_can_not_be_is_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        World(**wrong)  # type: ignore[arg-type]
