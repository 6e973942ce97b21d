"""† Groups in a simulated world, seen from above; and what they cost.

One group is judged as the main ring is: its near lists against what they should be, Zave's invariants after every
event. The figures: how long a group of some members takes to form in a larger ring, and to take one more in; what a
node pays that is in many.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

from dht.groups.right import GroupSecret
from dht.groups.subring import Subring
from dht.node import Node
from dht.views import RingView
from sims.engine import Engine
from sims.world import World

MEMBERS = 8


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A node's place on one group's ring."""

    node: Node
    subring: Subring

    @property
    def id(self) -> int:
        return self.node.id

    @property
    def member(self) -> bool:
        return self.subring.ring.near.joined

    @property
    def ring_version(self) -> int:
        return self.subring.ring.near.lists.version

    def ring_view(self) -> RingView:
        return self.subring.view().ring


class GroupRing:
    """One group of a world. `secret` is None for a group that certificates name."""

    def __init__(self, world: World, name: str, secret: GroupSecret | None = None) -> None:
        self.world, self.name, self.secret = world, name, secret
        self.nodes: list[GroupMember] = []

    @property
    def engine(self) -> Engine:
        return self.world.engine

    def join(self, *nodes: Node) -> None:
        """Let these nodes join, all at once."""
        self.nodes += [GroupMember(node, node.groups.join(self.name, self.secret)) for node in nodes]

    def forget(self, node: Node) -> None:
        """A node is no longer expected to be in the group."""
        self.nodes = [member for member in self.nodes if member.node is not node]

    def whole(self) -> bool:
        """Whether every near list of every member is exactly what it should be."""
        return not self.world.faults(self.nodes)


@dataclass(frozen=True, slots=True)
class Formation:
    """Seconds until the near lists of all members were right: of a group whose members all join at the same instant,
    and after one more joins it."""

    formed_s: tuple[float, ...]
    added_s: tuple[float, ...]


def formation(world: World, groups: int, members: int = MEMBERS) -> Formation:
    """Form groups of random nodes one after another, and add one member to each."""
    formed, added = [], []
    engine = world.engine
    for number in range(groups):
        ring = GroupRing(world, f"g{number}", GroupSecret.new(engine.rng))
        *first, last = engine.rng.sample(world.nodes, members + 1)
        ring.join(*first)
        formed.append(engine.run_until(ring.whole, limit_s=120, check_every_s=0.05))
        engine.run_for(5)
        ring.join(last)
        added.append(engine.run_until(ring.whole, limit_s=120, check_every_s=0.05))
        engine.run_for(1)
    return Formation(tuple(formed), tuple(added))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one node that is in `groups` groups sends and receives idle, in bytes a second with IP and UDP headers,
    beside what it did before it joined them; and what a node keeps for a group, edges and their sessions included."""

    groups: int
    peers: int
    sent_before: float
    received_before: float
    sent: float
    received: float
    kept_bytes_a_group: float


def idle_cost(
    world: World, groups: int, settle_s: float, measure_s: float, members: int = MEMBERS, among: int | None = None
) -> Cost:
    """Let one node join many groups, each with other members drawn from all nodes, or from the first `among`."""
    engine = world.engine
    one, *others = world.nodes[:among]
    sent_before, received_before = _traffic(world, one, measure_s)
    gc.collect()
    tracemalloc.start()
    kept_before, _ = tracemalloc.get_traced_memory()
    rings: list[GroupRing] = []
    for number in range(groups):
        ring = GroupRing(world, f"g{number}", GroupSecret.new(engine.rng))
        ring.join(one, *engine.rng.sample(others, members - 1))
        rings.append(ring)
        engine.run_for(1)
    engine.run_for(settle_s)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(ring.whole() for ring in rings), f"seed {engine.seed}: a group is not whole"
    sent, received = _traffic(world, one, measure_s)
    peers = {edge.id for subring in one.groups.all() for edge in subring.edges.edges()}
    per_group = (kept - kept_before) / (groups * members)
    return Cost(groups, len(peers), sent_before, received_before, sent, received, per_group)


def _traffic(world: World, node: Node, measure_s: float) -> tuple[float, float]:
    host = world.hosts[node.id]
    sent, received = host.sent_bytes, host.received_bytes
    world.engine.run_for(measure_s)
    return (host.sent_bytes - sent) / measure_s, (host.received_bytes - received) / measure_s


def formation_text(found: Formation) -> Sequence[str]:
    """For people."""
    lines = []
    for what, times in (("all members join at once, s", found.formed_s), ("one more joins, s", found.added_s)):
        ordered = sorted(times)
        median, worst = ordered[len(ordered) // 2], ordered[-1]
        lines.append(f"{what}: median {median:.2f}, max {worst:.2f} of {len(ordered)}")
    return lines


def cost_text(cost: Cost) -> Sequence[str]:
    """For people."""
    return (
        f"{cost.groups} groups, edges to {cost.peers} peers",
        f"idle: {cost.sent:.0f} B/s sent, {cost.received:.0f} received;"
        f" before the groups {cost.sent_before:.0f} and {cost.received_before:.0f}",
        f"memory a group and member, sessions included: {cost.kept_bytes_a_group / 1024:.1f} KiB",
    )
