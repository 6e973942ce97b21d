"""† How well Vivaldi's coordinates predict round trips: product machines that sample a latency model as nodes would.

Every node measures its edges once a round: near neighbours and fingers, both ways round, and a few random peers that
change every few rounds, as finger challenges and conversations bring them. No node, no datagram: only the machines.
A round trip is the model's, without jitter; errors are relative to it, over all pairs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from dht.coordinate import Coordinate, distance_ms
from dht.ring import NEAR
from shortcuts.vivaldi import MIN_RTT_MS, Vivaldi
from sims.engine import START
from sims.latency import Latency

ROUND_S = 27.0  # an edge that isn't adjacent is pinged this often
ROUNDS = 40
RANDOM_PEERS = 4
CHANGE_ROUNDS = 9  # four minutes: a finger's challenge
CHALLENGERS = 4  # a finger is the best of this many by the time that rings are a day old
JOINERS = 60
JOIN_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Relative errors: over all pairs from the nodes' told and stable coordinates, and, a value a joiner, the median
    over all nodes after JOIN_SAMPLES samples of its own."""

    told: tuple[float, ...]
    stable: tuple[float, ...]
    joiners: tuple[float, ...]


class Space:
    """Nodes at the places of a latency model, their edges those of a ring in random order."""

    def __init__(self, nodes: int, latency: Latency, seed: int) -> None:
        self._rng = Random(seed)
        self._now = START
        self.rtt_ms = [[max(MIN_RTT_MS, 2000.0 * latency.one_way_s(a, b)) for b in range(nodes)] for a in range(nodes)]
        self.nodes = [Vivaldi(self._rng) for _ in range(nodes)]
        order = self._rng.sample(range(nodes), nodes)
        self.place = {node: place for place, node in enumerate(order)}  # round the ring
        self.edges = self._ring_edges(order)
        self._others: list[list[int]] = []
        self._round = 0

    def _ring_edges(self, order: Sequence[int]) -> list[list[int]]:
        edges: list[set[int]] = [set() for _ in order]

        def connect(a: int, b: int) -> None:
            if a != b:
                edges[a].add(b)
                edges[b].add(a)

        for place, node in enumerate(order):
            for step in range(1, NEAR + 1):
                connect(node, order[(place + step) % len(order)])
            distance = NEAR + 1
            while distance < len(order):
                last = min(2 * distance, len(order))
                fit = [order[(place + self._rng.randrange(distance, last)) % len(order)] for _ in range(CHALLENGERS)]
                connect(node, min(fit, key=self.rtt_ms[node].__getitem__))
                distance *= 2
        return [sorted(ends) for ends in edges]

    def run(self, rounds: int) -> None:
        """Let every node, in random order, measure all of its edges, `rounds` times."""
        everybody = range(len(self.nodes))
        for _ in range(rounds):
            if self._round % CHANGE_ROUNDS == 0:
                self._others = [self._rng.sample(everybody, min(RANDOM_PEERS, len(everybody))) for _ in everybody]
            for node in self._rng.sample(everybody, len(everybody)):
                for peer in (*self.edges[node], *self._others[node]):
                    if peer != node:
                        self._measure(self.nodes[node], node, peer)
            self._now += ROUND_S
            self._round += 1

    def _measure(self, machine: Vivaldi, node: int, peer: int) -> None:
        machine.observe(self._now, peer, self.rtt_ms[node][peer], self.nodes[peer].coordinate)

    def errors(self, coordinates: Sequence[Coordinate]) -> list[float]:
        """The relative error of every pair, once."""
        return [
            abs(distance_ms(coordinates[a], coordinates[b]) - self.rtt_ms[a][b]) / self.rtt_ms[a][b]
            for a in range(len(coordinates))
            for b in range(a)
        ]

    def joiner_errors(self, joiners: int, samples: int) -> list[float]:
        """The median error of each of `joiners` new nodes after `samples` samples of different nodes; each stands
        where a random node does, which it neither samples nor is judged by."""
        everybody = range(len(self.nodes))
        medians = []
        for _ in range(joiners):
            place = self._rng.choice(everybody)
            others = [peer for peer in everybody if peer != place]
            joiner = Vivaldi(self._rng)
            for peer in self._rng.sample(others, samples):
                self._measure(joiner, place, peer)
            rtt_ms = self.rtt_ms[place]
            medians.append(
                statistics.median(
                    abs(joiner.estimate_ms(self.nodes[peer].coordinate) - rtt_ms[peer]) / rtt_ms[peer]
                    for peer in others
                )
            )
        return medians


def accuracy(nodes: int, latency: Latency, seed: int, rounds: int = ROUNDS) -> Accuracy:
    """What coordinates are worth after `rounds` rounds among `nodes` nodes that all began at the origin."""
    space = Space(nodes, latency, seed)
    space.run(rounds)
    return Accuracy(
        tuple(space.errors([machine.coordinate for machine in space.nodes])),
        tuple(space.errors([machine.stable for machine in space.nodes])),
        tuple(space.joiner_errors(JOINERS, JOIN_SAMPLES)),
    )
