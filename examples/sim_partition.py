"""Cut a simulated network in two, kill some nodes, join it again, and watch from above how the ring heals.

python examples/sim_partition.py [NODES]
"""

import sys

from sims import World
from sims.scenario.probes import RingProbe

world = World(nodes=int(sys.argv[1]) if len(sys.argv) > 1 else 24, seed=3)
world.settle()

apart = world.nodes[::3]
world.partition(apart)
dead = world.crash_fraction(0.1)
took_s = world.run_until(lambda: not world.faults([node for node in apart if node in world.nodes]), limit_s=300)
print(f"{len(dead)} nodes died; the smaller part has a whole ring of its own {took_s:.0f} s after it was cut off")

world.heal()
took_s = world.run_until(world.whole, limit_s=600)
print(f"one whole ring again {took_s:.0f} s after the network was mended")

for row in world.measure(RingProbe()):
    print(f"{row['nodes']} nodes, {row['wrong']} wrong near lists, inconsistency {row['inconsistency']:.3f}")
