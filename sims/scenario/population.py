"""The nodes of a scenario by number: who is up, who is hostile, who sits behind which NAT; starting and stopping them.

Whoever starts is told of a few nodes that are up and can be reached from outside, as a person who hands out bootstraps
would. It decides nothing about when: arrivals, churn and faults do.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from dht.host import Rng
from dht.ids import closer
from dht.node import Node
from sims.link import AccessLink
from sims.scenario.schema import NetworkOptions
from sims.world import World

KNOWN = 3  # bootstraps that a starting node is told of


class Population:
    """Numbers 0 to `nodes` - 1 of one world. `behind[number]` names a NAT preset, None is a public address."""

    def __init__(
        self, world: World, nodes: int, behind: Sequence[str | None], hostile: Collection[int], rng: Rng
    ) -> None:
        self.world = world
        self.nodes = nodes
        self.started = 0  # starts so far
        self.first: Sequence[int] = range(nodes)  # who is to be up when measuring begins
        self.behind = behind
        self.hostile = frozenset(hostile)
        self.on_start: list[Callable[[int], None]] = []  # told of every number that has started
        self.prepare: Callable[[Node], None] = lambda node: None  # given every node before it starts
        self.alter: Callable[[Node], None] = lambda node: None  # turns a hostile one, after that
        self._rng = rng
        self._up: dict[int, Node] = {}  # in the order of their starts
        self._public: list[int] = []  # of those, in any order
        self._number_of: dict[int, int] = {}
        self._ids: list[int] = []  # of those that are up, sorted
        self._honest: list[int] | None = None  # as it was asked for last; None after a change

    def __len__(self) -> int:
        """How many are up."""
        return len(self._up)

    def is_up(self, number: int) -> bool:
        return number in self._up

    def node(self, number: int) -> Node:
        """A node that is up. Raises KeyError for one that is not."""
        return self._up[number]

    def number(self, node_id: int) -> int:
        """The number of the node with this id; KeyError when it never started."""
        return self._number_of[node_id]

    def up(self) -> list[int]:
        """The numbers of those that are up, in the order of their starts."""
        return list(self._up)

    def honest(self) -> Sequence[int]:
        """Those that are up and not hostile, in the order of their starts."""
        if self._honest is None:
            self._honest = [number for number in self._up if number not in self.hostile]
        return self._honest

    def down(self) -> list[int]:
        """The numbers of those that are not up."""
        return [number for number in range(self.nodes) if number not in self._up]

    def nearest(self, target: int) -> int | None:
        """The id of the member of the ring that is nearest to `target`; None when there is no member."""
        place = bisect_left(self._ids, target)
        best: int | None = None
        for step in (-1, 1):
            at = place - 1 if step < 0 else place
            for _ in self._ids:
                candidate = self._ids[at % len(self._ids)]
                if self._up[self._number_of[candidate]].member:
                    if best is None or closer(target, candidate, best):
                        best = candidate
                    break
                at += step
        return best

    def start(self, number: int, bootstraps: Sequence[int] | None = None) -> Node:
        """Start a node that is down, by default through up to KNOWN public ones that are up. Raises ValueError when it
        is up."""
        if number in self._up:
            raise ValueError(f"node {number} is up already")
        if bootstraps is None:
            bootstraps = self._rng.sample(self._public, min(KNOWN, len(self._public)))
        node = self.world.start(number, bootstraps, behind=self.behind[number], alter=partial(self._alter, number))
        self.adopt(number, node)
        return node

    def adopt(self, number: int, node: Node) -> None:
        """Node `number` is up: whoever started it tells us."""
        self.started += 1
        self._up[number] = node
        self._honest = None
        self._number_of[node.id] = number
        insort(self._ids, node.id)
        if self.behind[number] is None:
            self._public.append(number)
        for told in self.on_start:
            told(number)

    def crash(self, number: int) -> None:
        """As SIGKILL: nobody is told."""
        self.world.crash(self._leave(number))

    def leave(self, number: int) -> None:
        """As SIGTERM: the node says goodbye to its peers, then it is gone."""
        self.world.leave(self._leave(number))

    def _alter(self, number: int, node: Node) -> None:
        self.prepare(node)
        if number in self.hostile:
            self.alter(node)

    def _leave(self, number: int) -> Node:
        node = self._up.pop(number)
        self._honest = None
        del self._ids[bisect_left(self._ids, node.id)]
        if self.behind[number] is None:
            self._public.remove(number)
        return node


def behind(shares: Iterable[tuple[str, float]], nodes: int, rng: Rng) -> list[str | None]:
    """Behind which NAT preset each node is, None in public: exactly the shares asked for, in random order; node 0 is
    public."""
    others = nodes - 1
    boxes: list[str | None] = []
    for preset, share in shares:
        boxes.extend([None if preset == "public" else preset] * round(share * nodes))
    boxes = boxes[:others] + [None] * (others - len(boxes))
    return [None, *rng.sample(boxes, others)]


def hostile(share: float, nodes: int, rng: Rng) -> list[int]:
    """Which members are hostile: a share of all, none of them node 0."""
    return rng.sample(range(1, nodes), min(round(share * nodes), nodes - 1))


def access_links(network: NetworkOptions, nodes: int, rng: Rng) -> list[AccessLink | None]:
    """Each node's link: exactly the shares asked for, in random order, and the network's own for the others."""
    links: list[AccessLink | None] = []
    for each in network.access:
        links.extend([each.link] * round(each.share * nodes))
    links = links[:nodes] + [network.access_link] * (nodes - len(links))
    return rng.sample(links, nodes)
