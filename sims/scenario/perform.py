"""† One run: a scenario and a seed become raw rows and a trace hash.

The same scenario and seed give the same rows, byte for byte, whoever runs them, where, and beside what. It imports
`random` for generators with a seed of their own: the world's, and one for each part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from dht.host import Rng
from dht.node import NodeConfig
from ipop.node import VpnNode
from ipop.tap import MemoryTap
from sims.engine import START, Engine
from sims.identities import members
from sims.network import Network
from sims.scenario.parts import Scalar
from sims.scenario.plan import Scenario, Settings
from sims.scenario.population import Population
from sims.stack import RingStack, Stack, VpnStack
from sims.world import World

RESERVED = ("kind", "seed", "point", "t_s")


@dataclass(frozen=True)
class Performed:
    """What came of one run. `rows`: JSON, one a line, in the order in which they were recorded."""

    rows: tuple[str, ...]
    trace_hash: str
    events: int
    simulated_s: float


class Rows:
    """The recorder: keeps rows until the run is over and it is known when measuring began."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows: list[tuple[str, float, dict[str, Scalar]]] = []

    def row(self, kind: str, /, *, at: float | None = None, **values: Scalar) -> None:
        for key in RESERVED:
            if key in values:
                raise ValueError(f"a row of kind '{kind}' has a value '{key}', which is added to every row")
        self._rows.append((kind, self._engine.now if at is None else at, values))

    def lines(self, began: float, common: dict[str, Scalar]) -> tuple[str, ...]:
        """Every row as JSON, with what is added."""
        return tuple(
            json.dumps({"kind": kind, **common, "t_s": round(at - began, 9), **values}, allow_nan=False)
            for kind, at, values in self._rows
        )


class Performance:
    """A run while it goes on: what all its parts share."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.seed = scenario, seed
        general = scenario.general
        self.engine = Engine(seed)
        latency = scenario.link.model(general.nodes, self.rng("latency"))
        network = Network(
            self.engine,
            latency,
            loss=scenario.network.loss,
            duplicate=scenario.network.duplicate,
            jitter_s=scenario.network.jitter_ms / 1000.0,
        )
        network.break_links(scenario.network.broken_links)
        self.stack: Stack = VpnStack() if scenario.stack.kind == "vpn" else RingStack()
        config = NodeConfig(aes=scenario.stack.aes)
        self.world = World(self.engine, network, members(general.nodes, seed), self.stack, config)
        self.population = Population(self.world, general.nodes, self._behind(), self._hostile(), self.rng("population"))
        if scenario.attack is not None:
            attack, rng = scenario.attack, self.rng("attack")
            self.population.alter = lambda node: attack.alter(node, rng)
        self.record = Rows(self.engine)
        self.began: float | None = None
        self.endings: list[Callable[[], None]] = []

    def rng(self, name: str) -> Random:
        """A generator for one purpose."""
        return Random(f"{self.seed}/{name}")

    def _behind(self) -> list[str | None]:
        """Exactly the shares asked for, in random order; node 0 is public."""
        nodes = self.scenario.general.nodes
        boxes: list[str | None] = []
        for preset, share in self.scenario.nat:
            boxes.extend([preset] * round(share * nodes))
        boxes = [None if box == "public" else box for box in boxes[: nodes - 1]]
        boxes.extend([None] * (nodes - 1 - len(boxes)))
        return [None, *self.rng("nat").sample(boxes, len(boxes))]

    def _hostile(self) -> list[int]:
        nodes = self.scenario.general.nodes
        if self.scenario.attack is None:
            return []
        wanted = min(round(self.scenario.hostile * nodes), nodes - 1)
        return self.rng("hostile").sample(range(1, nodes), wanted)


class PartRun:
    """What one part is given, see `sims.scenario.parts.Run`."""

    def __init__(self, shared: Performance, name: str, rng: Rng) -> None:
        self._shared = shared
        self.name, self.rng = name, rng
        self.world, self.population, self.record = shared.world, shared.population, shared.record
        self.nodes, self.duration_s = shared.scenario.general.nodes, shared.scenario.general.duration_s

    @property
    def t_s(self) -> float:
        if self._shared.began is None:
            raise ValueError("during arrival nobody knows yet when measuring will begin")
        return self._shared.engine.now - self._shared.began

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._shared.engine.post(delay_s, action)

    def every(self, interval_s: float, action: Callable[[], None]) -> None:
        if not interval_s > 0:
            raise ValueError(f"an interval is more than 0 seconds, not {interval_s}")

        def again() -> None:
            if self._shared.began is None or self.t_s <= self.duration_s:
                action()
                self._shared.engine.post(interval_s, again)

        self._shared.engine.post(interval_s, again)

    def at_end(self, action: Callable[[], None]) -> None:
        self._shared.endings.append(action)

    def vpn(self, number: int) -> VpnNode:
        return self._vpn_stack().vpns[self.population.node(number).id]

    def tap(self, number: int) -> MemoryTap:
        return self._vpn_stack().taps[self.population.node(number).id]

    def _vpn_stack(self) -> VpnStack:
        if not isinstance(self._shared.stack, VpnStack):
            raise ValueError(f"'{self.name}' needs whole VPN nodes: the scenario must say [stack] kind = \"vpn\"")
        return self._shared.stack


def perform(scenario: Scenario, seed: int, point: int = 0, settings: Settings | None = None) -> Performed:
    """One run from start to end. Raises whatever a broken invariant or an arrival without end raises."""
    shared = Performance(scenario, seed)
    engine, general = shared.engine, scenario.general

    def part_run(sort: str, name: str) -> PartRun:
        return PartRun(shared, name, shared.rng(f"{sort}/{name}"))

    changes: Iterator[tuple[float, int, bool]] = iter(())
    if scenario.churn is not None:
        every = list(scenario.churn.transitions(general.nodes, general.duration_s, shared.rng("churn")))
        shared.population.first = [number for at, number, up in every if up and at == 0.0]
        changes = (change for change in every if change[0] > 0.0)
    observers = []
    for probe in scenario.probes:
        run = part_run("probe", probe.name)
        observers.append((probe, run, probe.part.watch(run)))
    scenario.arrival.arrive(part_run("arrival", "arrival"))
    shared.began = engine.now
    for probe, run, observe in observers:
        if probe.time_s:
            run.every(probe.time_s, observe)
    for workload in scenario.workloads:
        engine.post(workload.time_s, workload.part.start, part_run("workload", workload.name))
    for fault in scenario.faults:
        engine.post(fault.time_s, fault.part.strike, part_run("fault", fault.name))
    _churn(shared, changes)
    engine.run_for(general.duration_s + general.drain_s)
    for action in shared.endings:
        action()
    for probe, _, observe in observers:
        if not probe.time_s:
            observe()
    common: dict[str, Any] = {"seed": seed, "point": point, **(settings or {})}
    lines = shared.record.lines(shared.began, common)
    return Performed(lines, engine.trace_hash, engine.events, engine.now - START)


def _churn(shared: Performance, changes: Iterator[tuple[float, int, bool]]) -> None:
    """Nodes come and go as the churn says; a node that a fault has already brought up or down stays as it is."""
    population, reboot = shared.population, shared.scenario.reboot

    def change(number: int, up: bool) -> None:
        if up and not population.is_up(number):
            population.start(number)
        elif not up and population.is_up(number):
            population.leave(number) if reboot == "leave" else population.crash(number)
        follow()

    def follow() -> None:
        following = next(changes, None)
        if following is not None and shared.began is not None:
            at, number, up = following
            shared.engine.post(shared.began + at - shared.engine.now, change, number, up)

    follow()
