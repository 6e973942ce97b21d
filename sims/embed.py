"""† Simulated worlds in a program of your own: `from sims import World`.

    world = World(nodes=200, seed=7)               # starts them, 0.1 s apart, as time goes by
    world.settle()                                 # until every near list is what it should be
    rows = world.measure(Lookups(count=1000))      # any workloads and probes, as scenarios have them
    world.crash(world.nodes[3])

The nodes are the product's own, and everything of `sims.world.World` can be looked at and changed between two calls.
One seed gives one run. Choices that research makes are objects: a latency model, a stack, a routing policy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dht.host import Rng
from dht.node import Node, NodeConfig
from sims.engine import Engine
from sims.identities import members
from sims.latency import Constant, Latency
from sims.network import Network
from sims.scenario.parts import PolicyFor, Probe, Workload
from sims.scenario.perform import Performance, measure, rng_for, use_policy
from sims.scenario.population import Population
from sims.stack import Stack
from sims.world import World as BareWorld

RTT_MS = 100.0
GAP_S = 0.1


class World(BareWorld):
    """A world that makes its own engine, network and identities, and starts its nodes.

    `latency`: 100 ms between any two by default. `stack`: the ring alone by default, `sims.stack.VpnStack()` for whole
    VPN nodes. `policy(node_id)` gives each node a routing policy. `start`: how many nodes are started, `gap_s` apart;
    the others can be, with `population.start(number)`.
    """

    def __init__(
        self,
        nodes: int,
        seed: int = 1,
        *,
        latency: Latency | None = None,
        loss: float = 0.0,
        jitter_ms: float = 0.0,
        stack: Stack | None = None,
        policy: PolicyFor | None = None,
        config: NodeConfig | None = None,
        start: int | None = None,
        gap_s: float = GAP_S,
    ) -> None:
        engine = Engine(seed)
        network = Network(engine, latency or Constant(RTT_MS), loss=loss, jitter_s=jitter_ms / 1000.0)
        super().__init__(engine, network, members(nodes, seed), stack, config)
        self.rng: Rng = rng_for(seed, "world")  # for choices of yours: the nodes' own are not disturbed
        self.population = Population(self, nodes, [None] * nodes, (), rng_for(seed, "population"))
        if policy is not None:
            self.population.prepare = partial(use_policy, policy)
        self._starting = nodes if start is None else start
        for number in range(self._starting):
            engine.post(number * gap_s, self.population.start, number)

    def run_for(self, duration_s: float) -> None:
        """Let so much simulated time pass."""
        self.engine.run_for(duration_s)

    def run_until(self, goal: Callable[[], bool], limit_s: float = 300.0) -> float:
        """Run until `goal()` holds; returns the simulated seconds that took. Raises `sims.engine.NeverHappened`."""
        return self.engine.run_until(goal, limit_s=limit_s)

    def settle(self, limit_s: float = 600.0) -> float:
        """Run until every node has started and the ring is whole; returns the simulated seconds that took. Raises
        `sims.engine.NeverHappened`."""
        return self.engine.run_until(self._settled, limit_s=limit_s)

    def crash(self, node: Node) -> None:
        """As SIGKILL: nobody is told. `population.start(number)` starts it again."""
        number = self.population.number(node.id)
        if self.population.is_up(number):
            self.population.crash(number)  # which comes back here once it knows
        else:
            super().crash(node)

    def crash_fraction(self, fraction: float) -> list[Node]:
        """Random nodes die at once; returns them."""
        dead = self.rng.sample(self.nodes, round(fraction * len(self.nodes)))
        for node in dead:
            self.crash(node)
        return dead

    def partition(self, nodes: Sequence[Node]) -> None:
        """These nodes and the others no longer hear each other, until `heal`."""
        self.network.partition([[self.hosts[node.id] for node in nodes]])

    def heal(self) -> None:
        """Partitions and cuts end."""
        self.network.heal()

    def measure(
        self, *parts: Workload | Probe, duration_s: float = 0.0, every_s: float = 0.0, drain_s: float = 10.0
    ) -> list[dict[str, Any]]:
        """Run workloads, from now on, and probes, which observe every `every_s` or else at the end; then `duration_s`
        and `drain_s` pass. Returns their raw rows."""
        shared = Performance(self, self.population, duration_s)
        shared.began = began = self.engine.now
        observers = []
        for number, part in enumerate(parts):
            run = shared.part("embedded", f"{type(part).__name__}/{number}")
            if isinstance(part, Workload):
                self.engine.post(0.0, part.start, run)
            else:
                observers.append((every_s, run, part.watch(run)))
        measure(shared, observers, drain_s)
        return [json.loads(line) for line in shared.record.lines(began, {"seed": self.engine.seed})]

    def _settled(self) -> bool:
        return self.population.started >= self._starting and self.whole()
