"""† Greedy routing alone, among up to millions of nodes: the ring as a graph, and packets that follow its edges.

    python -m sims.graph --nodes 1000000 --lookups 100000 [--failed 0.2] [--seed 1]

No time, no messages, no cryptography: a converged ring by the product's rules. Every node has an edge to its NEAR
neighbours on either side and to one finger in each octave that the successor list does not cover, a random node of it;
edges are used from both ends, as `dht.router` does, and a packet goes where an edge leads nearest to its target until
none leads nearer. Ids have 64 bits here, of which a million nodes need 40. `failed`: this share of all nodes is dead at
once, before any repair: each dead node that lies nearer than the best live one costs a timeout, as in Chord's table.
Checked against the full stack in `tests/test_graph.py`.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import dataclass
from math import log2

import numpy as np
import numpy.typing as npt

from dht.envelope import HOP_LIMIT
from dht.fingers import FEWEST_NODES
from dht.ring import NEAR

BITS = 64
BATCH = 20_000  # lookups that are followed together
MIN_NODES, MAX_NODES = 2, 4_000_000

Ids = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Routes:
    """What became of lookups: hops to where each ended, dead nodes tried on the way, and whether it ended at the live
    node that is nearest to its target."""

    hops: Counts
    timeouts: Counts
    right: Mask


class Graph:
    """A converged ring. `ids` are sorted; a node's place in them names it. The edges of place k are
    `ends[starts[k]:starts[k + 1]]`."""

    def __init__(self, ids: Ids, starts: Counts, ends: Places) -> None:
        self.ids, self.starts, self.ends = ids, starts, ends

    @classmethod
    def random(cls, nodes: int, rng: np.random.Generator) -> Graph:
        """A ring of `nodes` nodes with random ids."""
        if not MIN_NODES <= nodes <= MAX_NODES:
            raise ValueError(f"a graph has {MIN_NODES} to {MAX_NODES} nodes, not {nodes}")
        ids = np.unique(rng.integers(0, 1 << BITS, nodes, dtype=np.uint64, endpoint=False))
        while len(ids) < nodes:
            more = rng.integers(0, 1 << BITS, nodes - len(ids), dtype=np.uint64, endpoint=False)
            ids = np.unique(np.concatenate((ids, more)))
        return cls.of(ids, rng)

    @classmethod
    def of(cls, ids: Ids, rng: np.random.Generator) -> Graph:
        """The ring of these ids, which are sorted and differ."""
        nodes = len(ids)
        everybody = np.arange(nodes, dtype=np.int32)
        one: list[Places] = []
        other: list[Places] = []
        for step in range(1, min(NEAR, nodes - 1) + 1):
            one.append(everybody)
            other.append(((everybody.astype(np.int64) + step) % nodes).astype(np.int32))
        if nodes >= FEWEST_NODES:
            covered = ids[(everybody.astype(np.int64) + NEAR) % nodes] - ids
            for exponent in range(BITS - 1, -1, -1):
                wants = covered < np.uint64(1 << exponent)
                if not wants.any():
                    break
                holders, fingers = _fingers(ids, everybody[wants], exponent, rng)
                one.append(holders)
                other.append(fingers)
        return cls(ids, *_adjacency(nodes, np.concatenate(one), np.concatenate(other)))

    def __len__(self) -> int:
        return len(self.ids)

    def nearest(self, targets: Ids, live: Mask | None = None) -> Places:
        """The place of the (live) node nearest to each target; of two equally near, the one clockwise of it."""
        places = np.arange(len(self), dtype=np.int32) if live is None else np.flatnonzero(live).astype(np.int32)
        ids = self.ids[places]
        after = np.searchsorted(ids, targets) % len(ids)
        before = (after - 1) % len(ids)
        forward = _distance(ids[after], targets) <= _distance(ids[before], targets)
        return places[np.where(forward, after, before)]

    def route(self, sources: Places, targets: Ids, live: Mask | None = None) -> Routes:
        """Follow one lookup from each source, which lives, to the node nearest to its target."""
        alive = np.ones(len(self), np.bool_) if live is None else live
        parts = [
            self._batch(sources[first : first + BATCH], targets[first : first + BATCH], alive)
            for first in range(0, len(sources), BATCH)
        ]
        ends = np.concatenate([part[0] for part in parts])
        hops, timeouts = (np.concatenate([part[k] for part in parts]) for k in (1, 2))
        return Routes(hops, timeouts, ends == self.nearest(targets, live))

    def _batch(self, sources: Places, targets: Ids, alive: Mask) -> tuple[Places, Counts, Counts]:
        at = sources.copy()
        hops = np.zeros(len(at), np.int64)
        timeouts = np.zeros(len(at), np.int64)
        moving = np.arange(len(at))
        for _ in range(HOP_LIMIT):
            here, wanted = at[moving], targets[moving]
            degree = self.starts[here + 1] - self.starts[here]
            first = np.cumsum(degree) - degree
            index = np.arange(int(degree.sum())) - np.repeat(first - self.starts[here], degree)
            ends = self.ends[index]
            away = _distance(self.ids[ends], np.repeat(wanted, degree))
            living = alive[ends]
            best = np.minimum.reduceat(np.where(living, away, np.uint64((1 << BITS) - 1)), first)
            own = _distance(self.ids[here], wanted)
            bound = np.minimum(best, own)
            timeouts[moving] += np.add.reduceat((~living & (away < np.repeat(bound, degree))).astype(np.int64), first)
            chosen = np.flatnonzero(living & (away == np.repeat(best, degree)))
            # Two ends may be equally near, on either side of the target: the first is as good.
            row = np.searchsorted(first, chosen, side="right")
            once = np.flatnonzero(np.concatenate(([True], row[1:] != row[:-1]))) if len(row) else row
            nearer = best < own
            following = np.zeros(len(here), np.int32)
            has = np.minimum.reduceat(~living, first) == 0
            following[has] = ends[chosen[once]]
            moving, at_next = moving[nearer], following[nearer]
            if not len(moving):
                break
            at[moving] = at_next
            hops[moving] += 1
        return at, hops, timeouts


def _distance(a: Ids, b: Ids) -> Ids:
    """The shorter way round."""
    forth: Ids = a - b
    shorter: Ids = np.minimum(forth, b - a)
    return shorter


def _fingers(ids: Ids, holders: Places, exponent: int, rng: np.random.Generator) -> tuple[Places, Places]:
    """A random node in [2^exponent, 2^(exponent + 1)) from each holder, of those who have one there."""
    start = np.searchsorted(ids, ids[holders] + np.uint64(1 << exponent))
    if exponent == BITS - 1:
        end = holders.astype(np.int64)  # all the way round
    else:
        end = np.searchsorted(ids, ids[holders] + np.uint64(1 << (exponent + 1)))
    # An insertion point at the very end and one at 0 are the same place.
    count = (end - start) % len(ids)
    fit = count > 0
    picked = (start[fit] + (rng.random(int(fit.sum())) * count[fit]).astype(np.int64)) % len(ids)
    return holders[fit], picked.astype(np.int32)


def _adjacency(nodes: int, one: Places, other: Places) -> tuple[Counts, Places]:
    """Every edge from both of its ends, once each."""
    pairs = np.concatenate((one.astype(np.int64) * nodes + other, other.astype(np.int64) * nodes + one))
    # Sorted by hand: np.unique hashes, which takes a hundred times as long on so many numbers.
    pairs.sort()
    pairs = pairs[np.concatenate(([True], pairs[1:] != pairs[:-1]))]
    sources = pairs // nodes
    ends = (pairs - sources * nodes).astype(np.int32)
    del pairs
    starts = np.zeros(nodes + 1, np.int64)
    np.cumsum(np.bincount(sources, minlength=nodes), out=starts[1:])
    return starts, ends


def look_up(graph: Graph, lookups: int, failed: float, rng: np.random.Generator) -> Routes:
    """Lookups from random live nodes for random targets, after a share of all nodes died. Raises ValueError when none
    lives."""
    live: Mask | None = None
    sources = np.arange(len(graph), dtype=np.int32)
    if failed:
        live = np.ones(len(graph), np.bool_)
        live[rng.choice(len(graph), round(failed * len(graph)), replace=False)] = False
        sources = np.flatnonzero(live).astype(np.int32)
        if not len(sources):
            raise ValueError("no node lives")
    targets = rng.integers(0, 1 << BITS, lookups, dtype=np.uint64, endpoint=False)
    return graph.route(rng.choice(sources, lookups), targets, live)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sims.graph", description="Greedy routing among many nodes.")
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--lookups", type=int, default=100_000)
    parser.add_argument("--failed", type=float, default=0.0, help="share of nodes that die at once")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if not MIN_NODES <= asked.nodes <= MAX_NODES or asked.lookups < 1 or not 0 <= asked.failed < 1:
        parser.error(f"{MIN_NODES} to {MAX_NODES} nodes, at least one lookup, and failed from 0 to below 1")
    rng = np.random.default_rng(asked.seed)
    began = time.monotonic()
    graph = Graph.random(asked.nodes, rng)
    built = time.monotonic()
    routes = look_up(graph, asked.lookups, asked.failed, rng)
    ended = time.monotonic()
    edges = np.diff(graph.starts)
    p50, p99 = (int(np.percentile(routes.hops, share)) for share in (50, 99))
    print(f"{asked.nodes} nodes, seed {asked.seed}: {edges.mean():.1f} edges a node, most {edges.max()}")
    print(f"{asked.lookups} lookups: hops mean {routes.hops.mean():.3f}, median {p50}, p99 {p99}, ", end="")
    print(f"max {routes.hops.max()}; half of log2(nodes) is {log2(asked.nodes) / 2:.2f}")
    print(f"{asked.failed:.0%} failed: {routes.timeouts.mean():.3f} timeouts, {(~routes.right).sum()} lookups failed")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"built in {built - began:.1f} s, followed in {ended - built:.1f} s, peak memory {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
