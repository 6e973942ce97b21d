"""A routing policy of your own in the product's nodes, which stay as they are: clockwise only, as Chord has it, against
greedy routing in both directions.

    python examples/sim_routing.py [NODES]

A policy chooses among the edges that a packet may take, or None: it ends here. In a scenario file:
[stack] routing = "examples.sim_routing:clockwise_only"
"""

import statistics
import sys
from collections.abc import Sequence

from dht.edge import Edge
from dht.envelope import Mode
from dht.ids import clockwise, closer
from dht.router import Policy
from sims import World
from sims.scenario.workloads import Lookups


def clockwise_only(me: int) -> Policy:
    """Chord's rule for the node `me`: the last edge before the target, until nobody is nearer to it."""

    def choose(edges: Sequence[Edge], target: int, mode: Mode) -> Edge | None:
        nearer = [edge for edge in edges if closer(target, edge.id, me)]
        if not nearer:
            return None  # it ends here
        before = [edge for edge in edges if clockwise(me, edge.id) <= clockwise(me, target)]
        if before:
            return min(before, key=lambda edge: clockwise(edge.id, target))
        return min(nearer, key=lambda edge: clockwise(target, edge.id))  # the target's successor

    return choose


def main(nodes: int) -> None:
    for name, policy in (("greedy, both ways", None), ("clockwise only", clockwise_only)):
        world = World(nodes=nodes, seed=5, policy=policy)
        world.settle()
        rows = world.measure(Lookups(count=300, rate_per_s=100))
        right = [row["hops"] for row in rows if row["ok"]]
        print(f"{name}: {len(right)} of {len(rows)} lookups right, {statistics.mean(right):.2f} hops on average")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
