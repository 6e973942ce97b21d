"""Rings of whole nodes, with shortcuts, of which most sit behind some box: as the internet has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import permutations
from random import Random

from dht.node import Node, PingResult
from shortcuts.node import Shortcuts
from sims.engine import Engine
from sims.latency import Constant
from sims.nat import PRESETS
from sims.network import Network
from sims.world import World
from tests.identities import START_S, make_identities

AT_ONCE = 50  # pings
BOOTSTRAPS = (0, 1, 2)  # public, and of both families, so that nodes with one family alone find the others
# Of a hundred others: 30 port-restricted, 15 symmetric, 10 behind a carrier's NAT, 5 of each kind that has IPv6.
SHARES: dict[str, int] = {
    "public": 14,
    "full": 4,
    "addr": 4,
    "port": 30,
    "sym": 15,
    "cgnat(port,port)": 6,
    "cgnat(port,sym)": 4,
    "firewalled": 8,
    "ipv6-only": 5,
    "dual-stack": 5,
    "port-dual-stack": 5,
}


def population(count: int, seed: int) -> list[str]:
    """What each node sits behind: by the shares above, in an order that the seed decides."""
    shares = {kind: share / sum(SHARES.values()) for kind, share in SHARES.items()}
    wanted = count - len(BOOTSTRAPS)
    kinds: list[str] = []
    for kind, share in shares.items():
        kinds += [kind] * max(1, round(share * wanted))
    rng = Random(f"population {seed}")
    kinds = kinds[:wanted] + ["port"] * (wanted - len(kinds))
    rng.shuffle(kinds)
    return ["dual-stack"] * len(BOOTSTRAPS) + kinds


class NatWorld:
    """Nodes by number. `kinds[number]` is what node `number` sits behind."""

    def __init__(self, count: int, seed: int, rtt_ms: float = 40.0, kinds: Sequence[str] | None = None) -> None:
        self.seed = seed
        self.engine = Engine(seed)
        self.kinds = list(kinds or population(count, seed))
        identities = make_identities(count, seed, now=START_S)
        self.world = World(self.engine, Network(self.engine, Constant(rtt_ms)), identities)
        self.numbers = {identity.member.id: number for number, identity in enumerate(identities)}
        self.shortcuts: dict[int, Shortcuts] = {}  # by node id

    def start(self, number: int, *, moved_in: bool = True) -> Node:
        """Start a node; with `moved_in`, its boxes are built too, otherwise it is where it was."""
        kind = self.kinds[number] if moved_in else None
        node = self.world.start(number, BOOTSTRAPS, behind=kind)
        self.shortcuts[node.id] = Shortcuts(self.world.hosts[node.id], node)
        self.shortcuts[node.id].start()
        return node

    def grow(self, count: int, gap_s: float = 0.3) -> None:
        """Start `count` more, and run until the ring is one cycle and whole."""
        first = len(self.world.nodes)
        for number in range(first, first + count):
            self.start(number)
            self.engine.run_for(gap_s)
        self.engine.run_until(self.world.whole, limit_s=300)

    def node(self, number: int) -> Node:
        return next(node for node in self.world.nodes if self.numbers[node.id] == number)

    def crash(self, node: Node) -> None:
        """As SIGKILL."""
        self.shortcuts.pop(node.id)
        self.world.crash(node)

    def of_kind(self, kind: str) -> list[Node]:
        return [node for node in self.world.nodes if self.kinds[self.numbers[node.id]] == kind]

    def kind(self, node: Node) -> str:
        return self.kinds[self.numbers[node.id]]

    def behind(self, number: int, kind: str) -> None:
        """Node `number` moves to another place, which sits behind `kind`."""
        fresh = 1000 + number
        world = self.world
        address, address6 = world.endpoint(fresh).address, world.endpoint6(fresh).address
        interfaces = world.network.access.behind(PRESETS[kind], address, address6)
        self.kinds[number] = kind
        world.interfaces[number] = interfaces
        world.network.move(world.hosts[self.node(number).id], interfaces)

    def unreachable(self, pairs: Sequence[tuple[Node, Node]] | None = None) -> list[str]:
        """The pairs that one ping each finds without a way; every ordered pair by default."""
        tried = list(permutations(self.world.nodes, 2)) if pairs is None else list(pairs)
        answers: list[tuple[Node, Node, PingResult | None]] = []
        for first in range(0, len(tried), AT_ONCE):
            for one, other in tried[first : first + AT_ONCE]:
                one.ping(other.id, partial(self._answered, answers, one, other))
            wanted = min(first + AT_ONCE, len(tried))
            self.engine.run_until(partial(_has, answers, wanted), limit_s=120)
        return [f"{self.name(one)} to {self.name(other)}" for one, other, answer in answers if answer is None]

    def unreachable_twice(self, pairs: Sequence[tuple[Node, Node]]) -> list[str]:
        """The pairs that two pings, one after the other, find without a way."""
        failed = set(self.unreachable(pairs))
        again = [pair for pair in pairs if f"{self.name(pair[0])} to {self.name(pair[1])}" in failed]
        print(f"seed {self.seed}: {len(again)} of {len(pairs)} first pings failed")
        return self.unreachable(again)

    @staticmethod
    def _answered(
        answers: list[tuple[Node, Node, PingResult | None]], one: Node, other: Node, answer: PingResult | None
    ) -> None:
        answers.append((one, other, answer))

    def name(self, node: Node) -> str:
        return f"{self.kind(node)} {self.numbers[node.id]}"

    def sampled(self, count: int) -> list[tuple[Node, Node]]:
        """So many ordered pairs, drawn at random."""
        return self.engine.rng.sample(list(permutations(self.world.nodes, 2)), count)


def _has(answers: Sequence[object], count: int) -> bool:
    return len(answers) >= count
