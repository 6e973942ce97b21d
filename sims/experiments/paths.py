"""Probes of where packets go and how long that takes, followed from edge to edge at one instant, which no node could.

Rows. "way": one pair drawn at random and one `way` between the two, with `rtt_ms` there and back: "overlay" over the
ring, each direction by its own route, with `hops` there; "relay" over the best of the relays that the two know of (a
direct edge of both, else of one); "direct". A way that leads nowhere has no `rtt_ms`. "walks": the share
of all pairs of members that reach each other (`routable`), how many edges there are and how many of them are tunnels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from dht.envelope import HOP_LIMIT, Mode
from dht.host import Endpoint
from dht.node import Node
from dht.path import Tunnel
from sims.experiments.lookups import direct_ms, honest
from sims.scenario.options import option
from sims.scenario.parts import Rows, Run, Texts
from sims.world import World

MAX_ALL_PAIRS = 40_000  # more are sampled


def trail(nodes: dict[int, Node], source: Node, target: Node) -> list[int] | None:
    """The ids that a packet to exactly `target` passes, both ends included; None when it does not get there."""
    passed = [source.id]
    at = source
    while len(passed) <= HOP_LIMIT:
        hop = at.parts.router.next_hop(target.id, Mode.EXACT)
        if hop is None or hop.id not in nodes:
            return None
        if isinstance(hop.path, Tunnel):
            passed.append(hop.path.via)
        passed.append(hop.id)
        if hop.id == target.id:
            return passed
        at = nodes[hop.id]
    return None


def trail_ms(world: World, passed: list[int]) -> float | None:
    """One way along these nodes; None when one of them is gone."""
    places = [world.hosts[node_id].place for node_id in passed if node_id in world.hosts]
    if len(places) != len(passed):
        return None
    return 1000.0 * sum(world.network.latency.one_way_s(one, other) for one, other in pairwise(places))


def relays(world: World, one: Node, other: Node) -> float | None:
    """The shortest round trip over one node that both have a direct edge to, or, where there is none, over one that
    either has an edge to, as a proxy makes its other edge when asked."""
    ends = [
        {peer.id for peer in node.parts.sessions.edges() if isinstance(peer.path, Endpoint) and peer.id in world.hosts}
        for node in (one, other)
    ]
    known = sorted((ends[0] & ends[1] or ends[0] | ends[1]) - {one.id, other.id})
    sums = [direct_ms(world, one.id, relay) + direct_ms(world, relay, other.id) for relay in known]
    return min(sums, default=None)


@dataclass(frozen=True, kw_only=True)
class Walks:
    """Pairs of honest members without an edge between them, as where a packet's first hops matter."""

    ROWS: ClassVar[Rows] = {"way": ("way", "rtt_ms", "hops")}
    TEXTS: ClassVar[Texts] = (("way", "way"),)

    pairs: int = option(1000, "drawn at every observation", at_least=1)

    def watch(self, run: Run) -> Callable[[], None]:
        def observe() -> None:
            world = run.world
            nodes = {node.id: node for node in world.nodes}
            members = [node for node in world.nodes if node.member and honest(node)]
            if len(members) < 2:
                return
            for _ in range(self.pairs):
                one, other = run.rng.sample(members, 2)
                peer = one.parts.sessions.peers.get(other.id)
                if peer is not None and peer.path is not None:
                    continue
                there, back = trail(nodes, one, other), trail(nodes, other, one)
                ways = [None if way is None else trail_ms(world, way) for way in (there, back)]
                overlay_ms = None if ways[0] is None or ways[1] is None else ways[0] + ways[1]
                hops = None if there is None else len(there) - 1
                run.record.row("way", way="overlay", rtt_ms=overlay_ms, hops=hops)
                run.record.row("way", way="relay", rtt_ms=relays(world, one, other), hops=2)
                run.record.row("way", way="direct", rtt_ms=direct_ms(world, one.id, other.id), hops=1)

        return observe


@dataclass(frozen=True, kw_only=True)
class Routability:
    """Who reaches whom."""

    ROWS: ClassVar[Rows] = {"walks": ("routable", "hops", "members", "edges", "tunnels")}

    def watch(self, run: Run) -> Callable[[], None]:
        def observe() -> None:
            nodes = {node.id: node for node in run.world.nodes}
            everybody = list(run.world.nodes)
            pairs = [(one, other) for one in everybody for other in everybody if one is not other]
            if len(pairs) > MAX_ALL_PAIRS:
                pairs = run.rng.sample(pairs, MAX_ALL_PAIRS)
            if not pairs:
                return
            found = [trail(nodes, one, other) for one, other in pairs]
            hops = [len(passed) - 1 for passed in found if passed is not None]
            edges = [peer for node in everybody for peer in node.parts.sessions.edges()]
            run.record.row(
                "walks",
                routable=len(hops) / len(pairs),
                hops=sum(hops) / max(1, len(hops)),
                members=sum(node.member for node in everybody),
                edges=len(edges),
                tunnels=sum(isinstance(peer.path, Tunnel) for peer in edges),
            )

        return observe
