"""† Simulated worlds in a program of your own: `from sims import World`.

    world = World(nodes=200, seed=7)               # starts them, 0.1 s apart, as time goes by
    world.settle()                                 # until every near list is what it should be
    rows = world.measure(Lookups(count=1000))      # any parts of scenarios: see `measure`
    world.crash(world.nodes[3])

The nodes are the product's own. One seed gives one run. Choices that research makes are objects: a latency model, a
stack, a routing policy, an attack, an access link. What one may use of a world, besides the methods here:

    world.nodes                   the product's nodes that are up: id, ring_view(), peers(), counters, find, get, put
    world.population              the same by number, from 0: start, crash, leave, node, honest, behind
    world.network                 loss, jitter_s, duplicate, break_links, cut, mend, limit, freeze, thaw, counters
    world.engine                  now, events, trace_hash, post(delay_s, function), after_event (hooks)
    world.whole(), faults(nodes)  is the ring what it should be, and if not, where
    world.rng                     for choices of your own, which disturb nobody else's

A world that has settled can go on in several processes: `sims.shards`. Parts are in `sims.scenario.workloads`, `flows`,
`probes`, `faults`, `lives` and `sims.experiments`; how to write one is told in `sims.scenario.parts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from dht.host import Rng
from dht.node import Node, NodeConfig
from dht.suite import NOISE
from sims.engine import Engine
from sims.identities import members
from sims.latency import Constant, Latency
from sims.link import AccessLink
from sims.nat import PRESETS
from sims.network import Network
from sims.plain import PLAIN
from sims.scenario.parts import Attack, Churn, Fault, PolicyFor, Probe, Workload
from sims.scenario.perform import Performance, come_and_go, measure, rng_for, use_policy
from sims.scenario.population import Population, behind, hostile
from sims.stack import Stack
from sims.world import World as BareWorld

RTT_MS = 100.0
GAP_S = 0.1


class World(BareWorld):
    """A world that makes its own engine, network and identities, and starts its nodes.

    `latency`: 100 ms between any two by default. `loss`: share of datagrams; `jitter_ms`: each is up to so much later;
    `broken_links`: share of pairs between which nothing passes. `link`: what each node has to the internet, or each by
    its number. `nat`: shares of nodes behind presets of `sims.nat`, such as {"port": 0.3}; the rest, and node 0, is
    public. `attack`: what a share `hostility` of the members does, `sims.experiments.members.Drop()` for one. `stack`:
    the ring alone by default, `sims.stack.VpnStack()` for whole VPN nodes. `plain`: no cryptography, in messages of the
    same sizes: the same run, sooner. `policy(node_id)` gives each node a routing policy. `start`: how many nodes are
    started, `gap_s` apart; the others can be, with `population.start(number)`. Raises ValueError for shares that are
    none.
    """

    def __init__(
        self,
        nodes: int,
        seed: int = 1,
        *,
        latency: Latency | None = None,
        loss: float = 0.0,
        jitter_ms: float = 0.0,
        broken_links: float = 0.0,
        link: AccessLink | Sequence[AccessLink | None] | None = None,
        nat: Mapping[str, float] | None = None,
        attack: Attack | None = None,
        hostility: float = 0.0,
        stack: Stack | None = None,
        plain: bool = False,
        policy: PolicyFor | None = None,
        config: NodeConfig | None = None,
        start: int | None = None,
        gap_s: float = GAP_S,
    ) -> None:
        starting = nodes if start is None else start
        if not 0 <= starting <= nodes or nodes < 1:
            raise ValueError(f"{starting} of {nodes} nodes can't be started")
        shares = dict(nat or {})
        for preset, share in {**shares, "hostile members": hostility, "loss": loss}.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"a share is from 0 to 1, not {share} ({preset})")
        if unknown := shares.keys() - PRESETS.keys():
            raise ValueError(f"'{min(unknown)}' is no NAT; there are: {', '.join(PRESETS)}")
        if (attack is None) != (hostility == 0.0):
            raise ValueError("hostile members need both an attack and their share")
        engine = Engine(seed)
        network = Network(engine, latency or Constant(RTT_MS), loss=loss, jitter_s=jitter_ms / 1000.0)
        network.break_links(broken_links)
        super().__init__(engine, network, members(nodes, seed, PLAIN if plain else NOISE), stack, config, link)
        self.rng: Rng = rng_for(seed, "world")  # for choices of yours: the nodes' own are not disturbed
        self.population = Population(
            self,
            nodes,
            behind(shares.items(), nodes, rng_for(seed, "nat")),
            hostile(hostility, nodes, rng_for(seed, "hostile")),
            rng_for(seed, "population"),
        )
        if policy is not None:
            self.population.prepare = partial(use_policy, policy)
        if attack is not None:
            turning = rng_for(seed, "attack")
            self.population.alter = lambda node: attack.alter(node, turning)
        self._measured = 0
        self._starting = starting
        for number in range(starting):
            engine.post(number * gap_s, self._begin, number)

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
        self,
        *parts: Workload | Probe | Fault | Churn,
        duration_s: float | None = None,
        every_s: float = 0.0,
        drain_s: float = 10.0,
        reboot: str = "crash",
    ) -> list[dict[str, Any]]:
        """Let parts of scenarios do their work, and return their raw rows. From now on `duration_s` passes, by default
        what the workloads need to ask everything, then `drain_s`. Faults strike at once. A churn brings nodes up and
        down, at first to whom it has up then; they "crash" or "leave". Probes observe every `every_s`, or else at the
        end. Raises TypeError for what is no such part, ValueError where time is too short for a workload."""
        asks_for_s: float = max((getattr(part, "asks_for_s", 0.0) for part in parts), default=0.0)
        if duration_s is None:
            duration_s = asks_for_s
        elif asks_for_s > duration_s + drain_s:
            raise ValueError(f"it takes {asks_for_s:g} s to ask all that, and the measuring {duration_s:g}")
        shared = Performance(self, self.population, duration_s)
        shared.began = began = self.engine.now
        observers = []
        for number, part in enumerate(parts):
            run = shared.part("embedded", f"{self._measured}/{type(part).__name__}/{number}")
            if isinstance(part, Workload):
                self.engine.post(0.0, part.start, run)
            elif isinstance(part, Fault):
                part.strike(run)
            elif isinstance(part, Churn):
                come_and_go(shared, self._from_now(part.transitions(run.nodes, duration_s, run.rng)), reboot)
            elif isinstance(part, Probe):
                observers.append((every_s, run, part.watch(run)))
            else:
                raise TypeError(f"{part!r} is no workload, probe, fault or churn: see sims.scenario.parts")
        self._measured += 1
        measure(shared, observers, drain_s)
        return [json.loads(line) for line in shared.record.lines(began, {"seed": self.engine.seed})]

    def _from_now(self, transitions: Iterator[tuple[float, int, bool]]) -> Iterator[tuple[float, int, bool]]:
        """Those that come later; who is up at first by them is up, and nobody else."""
        every = list(transitions)
        first = {number for at, number, up in every if up and at == 0.0}
        for number in range(self.population.nodes):
            if number in first and not self.population.is_up(number):
                self.population.start(number)
            elif number not in first and self.population.is_up(number):
                self.population.crash(number)
        return (change for change in every if change[0] > 0.0)

    def _begin(self, number: int) -> None:
        if not self.population.is_up(number):
            self.population.start(number)

    def _settled(self) -> bool:
        return self.population.started >= self._starting and self.whole()
