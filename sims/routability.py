"""† Whether a ring closes, and everybody reaches everybody, where many pairs of nodes have no link of their own.

A fraction of all pairs of hosts never hears of each other, whatever it sends: what NATs and firewalls do to a ring,
at its worst. Judged twice: by following every pair's packets from edge to edge at one instant, which no node could,
and by real pings between a sample of pairs. Product nodes with real cryptography; one seed gives one run.
Source: Ganguly et al., "Improving peer connectivity in wide-area overlays of virtual workstations", HPDC 2008, whose
tunnel edges made 99 % of pairs routable where 70 % could connect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations, permutations

from dht.envelope import HOP_LIMIT, Mode
from dht.identity import Identity
from dht.node import Node, PingResult
from dht.path import Tunnel
from sims.engine import Engine
from sims.errors import NeverHappened
from sims.latency import Latency
from sims.network import Network
from sims.world import World

GAP_S = 0.5  # between two starts
KNOWN = 8  # earlier nodes that each is told of: at 40 % broken links, one in 1,500 reaches none of them
JOIN_LIMIT_S = 120.0
WHOLE_LIMIT_S = 600.0
PINGS = 1000
PINGS_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Routability:
    """What one ring came to. `join_s`: from a node's start to its place on the ring; `whole_s`: from the last start to
    perfect near lists, None if that never came; `walked`, `pinged`: of the pairs tried, the share that reached each
    other; `hops`: of the walks; `circuits`: the tunnels that each node carries for others."""

    join_s: tuple[float, ...]
    whole_s: float | None
    walked: float
    hops: tuple[int, ...]
    pinged: float
    rtt_ms: tuple[float, ...]
    tunnels: int
    edges: int
    circuits: tuple[int, ...]


def broken_world(
    identities: Sequence[Identity], latency: Latency, seed: int, broken: float, behind: Callable[[int], str | None]
) -> tuple[World, list[float]]:
    """A world in which every identity was started, one after another, and how long each took to join. `behind(number)`
    is the box that a node sits behind."""
    engine = Engine(seed)
    world = World(engine, Network(engine, latency), identities)
    world.network.break_links(broken)
    began: dict[int, float] = {}
    joined: dict[int, float] = {}

    def watch() -> None:
        for node in world.nodes:
            if node.id not in joined and node.member and len(node.ring_view().successors) > 0:
                joined[node.id] = engine.now - began[node.id]

    for number in range(len(identities)):
        known = engine.rng.sample(range(number), min(KNOWN, number))
        node = world.start(number, known, behind=behind(number))
        began[node.id] = engine.now
        for _ in range(10):
            engine.run_for(GAP_S / 10)
            watch()
    deadline = engine.now + JOIN_LIMIT_S
    while len(joined) < len(identities) and engine.now < deadline:
        engine.run_for(GAP_S / 10)
        watch()
    return world, [joined.get(node.id, JOIN_LIMIT_S) for node in world.nodes]


def walk(nodes: dict[int, Node], source: Node, target: Node) -> int | None:
    """How many hops a packet takes from one node to exactly another over the ring, as the edges stand; None when it
    doesn't get there."""
    at = source
    for hops in range(1, HOP_LIMIT + 1):
        hop = at.parts.router.next_hop(target.id, Mode.EXACT)
        if hop is None or hop.id not in nodes:
            return None
        if hop.id == target.id:
            return hops
        at = nodes[hop.id]
    return None


def walked_hops(world: World) -> list[int | None]:
    """Of every ordered pair."""
    nodes = {node.id: node for node in world.nodes}
    return [walk(nodes, source, target) for source, target in permutations(world.nodes, 2)]


def pings(world: World, count: int = PINGS) -> list[PingResult | None]:
    """One ping between each of `count` pairs drawn at random, whatever it takes to find the other."""
    engine = world.engine
    everybody = list(combinations(world.nodes, 2))
    pairs = engine.rng.sample(everybody, min(count, len(everybody)))
    results: list[PingResult | None] = []
    for first in range(0, len(pairs), PINGS_AT_ONCE):
        for one, other in pairs[first : first + PINGS_AT_ONCE]:
            one.ping(other.id, results.append)
        wanted = min(first + PINGS_AT_ONCE, len(pairs))
        engine.run_until(partial(_has, results, wanted), limit_s=120)
    return results


def _has(results: Sequence[object], count: int) -> bool:
    return len(results) >= count


def measure(
    identities: Sequence[Identity],
    latency: Latency,
    seed: int,
    broken: float,
    ping_count: int = PINGS,
    behind: Callable[[int], str | None] = lambda number: None,
) -> Routability:
    """Grow one ring and judge it."""
    world, join_s = broken_world(identities, latency, seed, broken, behind)
    whole_s: float | None = None
    with suppress(NeverHappened):
        whole_s = world.engine.run_until(world.whole, limit_s=WHOLE_LIMIT_S, check_every_s=1.0)
    world.engine.run_for(30)
    walks = walked_hops(world)
    hops = [each for each in walks if each is not None]
    edges = [peer for node in world.nodes for peer in node.parts.sessions.edges()]
    circuits = [len(node.parts.relay.circuits) for node in world.nodes]
    tunnels = sum(isinstance(peer.path, Tunnel) for peer in edges)
    answers = pings(world, ping_count)
    rtt_ms = [answer.rtt_ms for answer in answers if answer is not None]
    return Routability(
        join_s=tuple(join_s),
        whole_s=whole_s,
        walked=len(hops) / max(1, len(walks)),
        hops=tuple(hops),
        pinged=len(rtt_ms) / max(1, len(answers)),
        rtt_ms=tuple(rtt_ms),
        tunnels=tunnels,
        edges=len(edges),
        circuits=tuple(circuits),
    )
