"""Let one world pass on two processors, and count what its lookups find.    python examples/sim_shards.py [NODES]"""

import sys
from collections.abc import Callable
from functools import partial

from dht.ids import RING, nearest
from dht.messages import Find, Found, Message
from sims import World
from sims.shards import Shards


def lookups(count: int, ids: list[int], world: World) -> Callable[[], int]:
    """In every shard: ask from its own nodes. What this returns says later how many were answered by the right node."""
    right = []

    def done(target: int, answer: Message | None) -> None:
        if isinstance(answer, Found) and answer.contacts[0].id == nearest(target, ids, 1)[0]:
            right.append(target)

    rng = world.engine.rng  # the shard's own
    for _ in range(count):
        target = rng.randrange(0, RING)
        rng.choice(world.nodes).find(Find(target), partial(done, target))
    return lambda: len(right)


world = World(nodes=int(sys.argv[1]) if len(sys.argv) > 1 else 200, seed=7, plain=True)
world.settle()
ids = [node.id for node in world.nodes]

with Shards(world, 2) as shards:
    shards.run_for(60)
    counts = shards.begin(partial(lookups, 250, ids))
    shards.run_for(10)
    print(f"after {shards.now - world.engine.now:.0f} s more, the ring is {'whole' if shards.whole() else 'broken'}")
    print(f"{sum(counts())} of 500 lookups were answered by the nearest node, wherever it was")
    print(f"trace {shards.trace_hash}: the same whenever you run this")
