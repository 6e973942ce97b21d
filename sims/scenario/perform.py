"""† One run: a scenario and a seed become raw rows and a trace hash.

The same scenario and seed give the same rows, byte for byte, whoever runs them, where, and beside what. It imports
`random` for generators with a seed of their own: the world's, and one for each part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from dht.host import Rng
from dht.node import Node, NodeConfig
from dht.suite import NOISE
from ipop.node import VpnNode
from sims.engine import START, Engine
from sims.identities import members
from sims.network import Network
from sims.plain import PLAIN
from sims.scenario.parts import PolicyFor, Scalar
from sims.scenario.plan import Scenario, Settings
from sims.scenario.population import Population, access_links, behind, hostile
from sims.stack import RingStack, Stack, VpnStack, WatchedTap
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

    def __init__(self, world: World, population: Population, duration_s: float) -> None:
        self.world, self.population, self.duration_s = world, population, duration_s
        self.record = Rows(world.engine)
        self.began: float | None = None
        self.endings: list[Callable[[], None]] = []

    def part(self, sort: str, name: str) -> PartRun:
        """What the part of this sort and name is given."""
        return PartRun(self, name, rng_for(self.world.engine.seed, f"{sort}/{name}"))


class PartRun:
    """What one part is given, see `sims.scenario.parts.Run`."""

    def __init__(self, shared: Performance, name: str, rng: Rng) -> None:
        self._shared = shared
        self.name, self.rng = name, rng
        self.world, self.population, self.record = shared.world, shared.population, shared.record
        self.nodes, self.duration_s = shared.population.nodes, shared.duration_s

    @property
    def t_s(self) -> float:
        if self._shared.began is None:
            raise ValueError("during arrival nobody knows yet when measuring will begin")
        return self.world.engine.now - self._shared.began

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.world.engine.post(delay_s, action)

    def every(self, interval_s: float, action: Callable[[], None]) -> None:
        if not interval_s > 0:
            raise ValueError(f"an interval is more than 0 seconds, not {interval_s}")

        def again() -> None:
            if self._shared.began is None or self.t_s <= self.duration_s:
                action()
                self.world.engine.post(interval_s, again)

        self.world.engine.post(interval_s, again)

    def at_end(self, action: Callable[[], None]) -> None:
        self._shared.endings.append(action)

    def vpn(self, number: int) -> VpnNode:
        return self._vpn_stack().vpns[self.population.node(number).id]

    def tap(self, number: int) -> WatchedTap:
        return self._vpn_stack().taps[self.population.node(number).id]

    def _vpn_stack(self) -> VpnStack:
        if not isinstance(self.world.stack, VpnStack):
            raise ValueError(f"'{self.name}' needs whole VPN nodes: the scenario must say [stack] kind = 'vpn'")
        return self.world.stack


def rng_for(seed: int, name: str) -> Random:
    """A generator for one purpose in the run of a seed."""
    return Random(f"{seed}/{name}")


def build(scenario: Scenario, seed: int) -> Performance:
    """The world of a run, in which nobody has started."""
    general = scenario.general
    engine = Engine(seed)
    network = Network(
        engine,
        scenario.link.model(general.nodes, rng_for(seed, "latency")),
        loss=scenario.network.loss,
        duplicate=scenario.network.duplicate,
        jitter_s=scenario.network.jitter_ms / 1000.0,
    )
    network.break_links(scenario.network.broken_links)
    stack: Stack = VpnStack() if scenario.stack.kind == "vpn" else RingStack()
    identities = members(general.nodes, seed, PLAIN if scenario.stack.crypto == "plain" else NOISE)
    config = NodeConfig(aes=scenario.stack.aes)
    links = access_links(scenario.network, general.nodes, rng_for(seed, "access"))
    world = World(engine, network, identities, stack, config, links)
    population = Population(
        world,
        general.nodes,
        behind(scenario.nat, general.nodes, rng_for(seed, "nat")),
        hostile(scenario.hostile, general.nodes, rng_for(seed, "hostile")),
        rng_for(seed, "population"),
    )
    if scenario.routing is not None:
        population.prepare = partial(use_policy, scenario.routing)
    if scenario.attack is not None:
        attack, rng = scenario.attack, rng_for(seed, "attack")
        population.alter = lambda node: attack.alter(node, rng)
    return Performance(world, population, general.duration_s)


def use_policy(policy: PolicyFor, node: Node) -> None:
    """Let a node route by a policy, which is told the node's id once."""
    node.parts.router.policy = policy(node.id)


def perform(scenario: Scenario, seed: int, point: int = 0, settings: Settings | None = None) -> Performed:
    """One run from start to end. Raises whatever a broken invariant or an arrival without end raises."""
    shared = build(scenario, seed)
    engine, general = shared.world.engine, scenario.general
    changes: Iterator[tuple[float, int, bool]] = iter(())
    if scenario.churn is not None:
        every = list(scenario.churn.transitions(general.nodes, general.duration_s, rng_for(seed, "churn")))
        shared.population.first = [number for at, number, up in every if up and at == 0.0]
        changes = (change for change in every if change[0] > 0.0)
    observers = [
        (probe.time_s, run, probe.part.watch(run))
        for probe in scenario.probes
        for run in (shared.part("probe", probe.name),)
    ]
    scenario.arrival.arrive(shared.part("arrival", "arrival"))
    shared.began = engine.now
    for workload in scenario.workloads:
        engine.post(workload.time_s, workload.part.start, shared.part("workload", workload.name))
    for fault in scenario.faults:
        engine.post(fault.time_s, fault.part.strike, shared.part("fault", fault.name))
    come_and_go(shared, changes, scenario.reboot)
    measure(shared, observers, general.drain_s)
    common: dict[str, Any] = {"seed": seed, "point": point, **(settings or {})}
    lines = shared.record.lines(shared.began, common)
    return Performed(lines, engine.trace_hash, engine.events, engine.now - START)


def measure(
    shared: Performance, observers: Sequence[tuple[float, PartRun, Callable[[], None]]], drain_s: float
) -> None:
    """Measuring and draining. `observers`: how often (0: once, at the end), whose, and what observes."""
    for every_s, run, observe in observers:
        if every_s:
            run.every(every_s, observe)
    shared.world.engine.run_for(shared.duration_s + drain_s)
    for action in shared.endings:
        action()
    for every_s, _, observe in observers:
        if not every_s:
            observe()


def come_and_go(shared: Performance, changes: Iterator[tuple[float, int, bool]], reboot: str) -> None:
    """Nodes come and go as the churn says; a node that a fault has already brought up or down stays as it is."""
    population, engine = shared.population, shared.world.engine

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
            engine.post(shared.began + at - engine.now, change, number, up)

    follow()
