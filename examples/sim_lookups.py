"""Grow a ring of simulated nodes and see how lookups fare.    python examples/sim_lookups.py [NODES]"""

import statistics
import sys

from sims import World
from sims.scenario.workloads import Lookups

world = World(nodes=int(sys.argv[1]) if len(sys.argv) > 1 else 50, seed=7)
took_s = world.settle()
print(f"{len(world.nodes)} nodes form a whole ring after {took_s:.0f} simulated seconds")

rows = world.measure(Lookups(count=500, rate_per_s=100))
right = [row for row in rows if row["ok"]]
print(f"{len(right)} of {len(rows)} lookups were answered by the nearest node")
print(f"hops: mean {statistics.mean(row['hops'] for row in right):.2f}, most {max(row['hops'] for row in right)}")
print(f"trace {world.engine.trace_hash}: the same whenever you run this")
