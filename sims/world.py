"""† A simulated world of ring nodes, seen from above: start, crash, freeze, partition, and omniscient checks.

The nodes are the product's own; only their hosts are simulated. The checks read every node's state at once, which no
node could. Source of the invariants: Zave, "Reasoning about identifier spaces", TSE 43(12), 2017.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Protocol

from dht import contact, messages, noise
from dht.host import Endpoint
from dht.identity import Identity
from dht.node import Node, NodeConfig
from dht.ring import NEAR
from dht.storage import MemoryStorage
from dht.views import RingView
from sims.access import Interface, Site
from sims.engine import Engine, SimHost
from sims.link import AccessLink
from sims.nat import PRESETS
from sims.network import Network
from sims.stack import RingStack, Stack


class OnRing(Protocol):
    """A node's place on one ring: its own, for the main ring."""

    @property
    def id(self) -> int: ...
    @property
    def member(self) -> bool: ...
    @property
    def ring_version(self) -> int: ...
    def ring_view(self) -> RingView: ...


class Ring(Protocol):
    """All places on one ring."""

    @property
    def nodes(self) -> Sequence[OnRing]: ...
    @property
    def engine(self) -> Engine: ...


LEAST_REMEMBERED = 4096
REMEMBERED_A_NODE = 4  # of each kind
SECRETS_A_NODE = 32  # about one a peer


class World:
    """Nodes on simulated hosts, each on an access link of its own like `link`, or like that of its number. `identities`
    are used up in order."""

    def __init__(
        self,
        engine: Engine,
        network: Network,
        identities: Sequence[Identity],
        stack: Stack | None = None,
        config: NodeConfig | None = None,
        link: AccessLink | Sequence[AccessLink | None] | None = None,
    ) -> None:
        self.engine = engine
        self.network = network
        self.stack = stack or RingStack()
        self.nodes: list[Node] = []
        self.hosts: dict[int, SimHost] = {}  # by node id
        self.storages: dict[int, MemoryStorage] = {}
        self.interfaces: dict[int, Sequence[Interface]] = {}  # by number: of nodes that were put behind something
        self._identities = list(identities)
        # What one node remembers of the messages of its own few peers, here all nodes share.
        for module in (contact, messages):
            module.remember(max(LEAST_REMEMBERED, REMEMBERED_A_NODE * len(self._identities)))
        noise.remember(max(noise.REMEMBERED, SECRETS_A_NODE * len(self._identities)))
        self._config = config or NodeConfig()
        self._link = link

    def endpoint(self, number: int) -> Endpoint:
        """Where node `number` is, or the box before it: in RFC 2544's range."""
        return Endpoint(f"198.18.{number >> 8}.{number & 255}", 7000)

    def endpoint6(self, number: int) -> Endpoint:
        """Where it is in the other family, if it is: in RFC 5180's range."""
        return Endpoint(str(IPv6Address((0x2001_0002 << 96) + number + 1)), 7000)

    def start(
        self,
        number: int,
        bootstraps: Sequence[int] = (0,),
        config: NodeConfig | None = None,
        behind: str | None = None,
        alter: Callable[[Node], None] | None = None,
    ) -> Node:
        """Start node `number`; it knows the endpoints of `bootstraps` (its own is left out), which should be public.

        `behind` names one of `sims.nat.PRESETS`: boxes are built for it, which stay when the node is restarted.
        `alter` is given the node before it starts.
        """
        node = self.build(number, config, behind)
        if alter is not None:
            alter(node)
        others = [bootstrap for bootstrap in bootstraps if bootstrap != number]
        self.stack.start(node, [endpoint for bootstrap in others for endpoint in self._known_endpoints(bootstrap)])
        return node

    def build(self, number: int, config: NodeConfig | None = None, behind: str | None = None) -> Node:
        """As `start`, but leave the node to be started."""
        identity = self._identities[number]
        if behind is not None and number not in self.interfaces:
            address, address6 = self.endpoint(number).address, self.endpoint6(number).address
            self.interfaces[number] = self.network.access.behind(PRESETS[behind], address, address6)
        host = self.network.host(self.interfaces.get(number) or self.endpoint(number))
        link = self._link
        self.network.limit(host, link if link is None or isinstance(link, AccessLink) else link[number])
        storage = self.storages.setdefault(identity.member.id, MemoryStorage())
        node = self.stack.build(host, identity, storage, config or self._config)
        self.hosts[node.id] = host
        self.nodes.append(node)
        return node

    def site(self, number: int) -> Site | None:
        """The site that node `number` is in."""
        return next((site for _, site in self.interfaces.get(number, ()) if site is not None), None)

    def _known_endpoints(self, number: int) -> list[Endpoint]:
        interfaces = self.interfaces.get(number, ())
        return [endpoint for endpoint, site in interfaces if site is None] or [self.endpoint(number)]

    def grow(self, count: int, *, gap_s: float = 0.0, settle_s: float = 300.0) -> None:
        """Start `count` more nodes, `gap_s` apart, and run until the ring is whole."""
        first = len(self.nodes)
        for number in range(first, first + count):
            self.start(number)
            if gap_s:
                self.engine.run_for(gap_s)
        self.engine.run_until(self.whole, limit_s=settle_s)

    def crash(self, node: Node) -> None:
        """As SIGKILL: nobody is told."""
        self.network.crash(self.hosts.pop(node.id))
        self.nodes.remove(node)
        self.stack.forget(node)

    def leave(self, node: Node) -> None:
        """As SIGTERM: the node tells its peers; what it says is on its way when its host goes down."""
        self.stack.stop(node)
        self.crash(node)

    def successor_cycle(self, nodes: Sequence[Node] | None = None) -> bool:
        """Whether immediate successors and predecessors form one cycle in id order."""
        ring = sorted(self.nodes if nodes is None else nodes, key=lambda node: node.id)
        for node, following in zip(ring, ring[1:] + ring[:1], strict=True):
            if len(ring) == 1:
                return True
            if node.ring_view().successors[:1] != (following.id,):
                return False
            if following.ring_view().predecessors[:1] != (node.id,):
                return False
        return True

    def whole(self) -> bool:
        """Whether every near list of every node is exactly what it should be."""
        return not self.faults(self.nodes)

    @staticmethod
    def faults(nodes: Sequence[OnRing]) -> list[str]:
        """What is wrong with the near lists of `nodes`, taken as one ring."""
        ring = sorted(nodes, key=lambda node: node.id)
        wrong = []
        for place, node in enumerate(ring):
            view = node.ring_view()
            length = min(len(ring) - 1, NEAR)
            successors = tuple(ring[(place + step) % len(ring)].id for step in range(1, length + 1))
            predecessors = tuple(ring[(place - step) % len(ring)].id for step in range(1, length + 1))
            if view.successors != successors:
                wrong.append(f"successors of {node.id:040x}")
            if view.predecessors != predecessors:
                wrong.append(f"predecessors of {node.id:040x}")
        return wrong


class RingInvariants:
    """Zave's two, checked after every event in which a list or a membership changed: every member has a live
    successor in its list, and at least `length` + 1 members are principal, skipped by no member's list. A ring of
    fewer members has no such base yet and is not judged. Add an instance to `Engine.after_event`."""

    def __init__(self, world: Ring, length: int = NEAR) -> None:
        self._world = world
        self._length = length
        self._version = -1
        self.checks = 0

    def __call__(self) -> None:
        version = sum(node.ring_version for node in self._world.nodes) + len(self._world.nodes)
        if version == self._version:
            return
        self._version = version
        members = {node.id: node.ring_view().successors for node in self._world.nodes if node.member}
        if len(members) <= self._length:
            return
        self.checks += 1
        seed, now = self._world.engine.seed, self._world.engine.now
        ordered = sorted(members)
        places = {node_id: place for place, node_id in enumerate(ordered)}
        skipped: set[int] = set()
        for node_id, successors in members.items():
            assert any(successor in members for successor in successors), (
                f"seed {seed}, at {now:.3f}: member {node_id:040x} has no live member in its successor list"
            )
            place = places[node_id]
            for entry in successors:
                after = places.get(entry)
                if after is None:
                    # Not a member (yet, or any more): whatever lies between it and us is skipped all the same.
                    after = bisect(ordered, entry) % len(ordered)
                    steps = (after - place) % len(ordered)
                    skipped.update(ordered[(place + step) % len(ordered)] for step in range(1, steps))
                    place = (after - 1) % len(ordered)
                    continue
                steps = (after - place) % len(ordered)
                skipped.update(ordered[(place + step) % len(ordered)] for step in range(1, steps))
                place = after
        principals = len(members) - len(skipped)
        assert principals > self._length, (
            f"seed {seed}, at {now:.3f}: only {principals} principal members of {len(members)}"
        )
