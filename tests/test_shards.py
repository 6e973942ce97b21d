"""A world that is shared out among processes goes on as one: nothing is lost at borders, and one seed is one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from dht.host import Endpoint
from dht.ids import RING
from dht.messages import Find, Found, Message
from sims import World as EmbeddedWorld
from sims.constructed import construct
from sims.engine import Engine
from sims.figures import members
from sims.latency import Constant, Latency, Matrix, Synthetic
from sims.link import AccessLink
from sims.network import Network
from sims.plain import PLAIN
from sims.shards import ShardFailed, Shards
from sims.world import World

SEED = 5
NODES = 60


def built(latency: Latency | None = None, seed: int = SEED, nodes: int = NODES, loss: float = 0.0) -> World:
    engine = Engine(seed)
    network = Network(engine, latency or Constant(100.0), loss=loss)
    world = World(engine, network, members(nodes, seed, PLAIN))
    construct(world, nodes)
    return world


def counted(what: str, world: World) -> int:
    return sum(node.counters[what] for node in world.nodes) + world.network.counters[what]


def names(world: World) -> list[int]:
    return [node.id for node in world.nodes]


def crash_some(world: World) -> int:
    dead = world.nodes[:3]
    for node in dead:
        world.crash(node)
    return len(dead)


def lookups(count: int, ids: list[int], world: World) -> Callable[[], tuple[int, int]]:
    """Ask for random targets now; how many were answered by the nearest of `ids`, and how many are from elsewhere."""
    own = set(names(world))
    right: list[int] = []

    def done(target: int, answer: Message | None) -> None:
        nearest = min(ids, key=lambda node_id: min((node_id - target) % RING, (target - node_id) % RING))
        if isinstance(answer, Found) and answer.contacts[0].id == nearest:
            right.append(nearest)

    for _ in range(count):
        target = world.engine.rng.randrange(0, RING)
        world.engine.rng.choice(world.nodes).find(Find(target), partial(done, target))
    return lambda: (len(right), sum(node_id not in own for node_id in right))


def fail(world: World) -> None:
    raise RuntimeError("this must be read by who started it")


def end_of_file(world: World) -> None:
    raise EOFError("not that of a pipe")


def leave(world: World) -> None:
    sys.exit("enough")


def unspeakable(world: World) -> object:
    return lambda: None


def die(world: World) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_of(node_id: int, world: World) -> None:
    if node_id in names(world):
        die(world)


def let_time_pass(world: World) -> None:
    world.engine.run_for(0.1)


def add_a_host(world: World) -> None:
    world.network.host()


def move_the_first(world: World) -> None:
    world.network.move(world.network.hosts()[0], Endpoint("203.0.113.9", 7))


def hosts(world: World) -> list[int]:
    return [host.index for host in world.network.hosts()]


def draw(world: World) -> float:
    return world.engine.rng.random()


def delivering(world: World) -> bool:
    """Whether something waits in a link's queue to be delivered."""
    pending = []

    def look(what: object, arguments: object) -> bool:
        pending.append(what)
        return True

    world.engine.sift(look)
    return world.network.deliver in pending


def gone(pids: Sequence[int], within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("count", [2, 3])
def test_a_ring_that_is_shared_out_stays_whole(count: int) -> None:
    world = built()
    ids = names(world)
    with Shards(world, count) as shards:
        assert shards.lookahead_s == 0.05
        shards.run_for(200.0)
        assert sorted(node_id for own in shards.ask(names) for node_id in own) == sorted(ids), f"seed {SEED}"
        assert max(map(len, shards.ask(names))) - min(map(len, shards.ask(names))) <= 2
        assert shards.whole(), f"seed {SEED}"
        for trouble in ("edge_lost", "orphaned", "bad_datagram", "handshake_timeout", "request_timeout", "unaddressed"):
            assert sum(shards.ask(partial(counted, trouble))) == 0, f"seed {SEED}: {trouble}"
        together = shards.events
    alone = built()
    alone.engine.run_for(200.0)
    assert together == pytest.approx(alone.engine.events, rel=0.05), f"seed {SEED}"


def test_lookups_find_who_is_nearest_in_whatever_shard() -> None:
    world = built(Synthetic(SEED))
    ids = names(world)
    with Shards(world, 2) as shards:
        shards.run_for(20.0)
        end = shards.begin(partial(lookups, 100, ids))
        shards.run_for(10.0)
        (right, abroad), (others_right, others_abroad) = end()
        assert right == others_right == 100, f"seed {SEED}"
        assert 25 <= abroad <= 75 and 25 <= others_abroad <= 75, f"seed {SEED}"


def test_one_seed_is_one_run_for_each_number_of_shards() -> None:
    def run(seed: int, count: int) -> str:
        with Shards(built(Synthetic(1), seed=seed, loss=0.05), count) as shards:
            shards.run_for(30.0)
            assert sum(shards.ask(partial(counted, "lost"))) > 0
            return shards.trace_hash

    first = run(1, 2)
    assert run(1, 2) == first
    with Shards(built(), 3) as shards:
        assert len(set(shards.ask(draw))) == 3, "or they would draw the same transaction numbers"
    assert run(2, 2) != first
    assert run(1, 3) != first


def test_the_ring_closes_where_nodes_of_one_shard_have_died() -> None:
    world = built()
    ids = set(names(world))
    with Shards(world, 2) as shards:
        shards.run_for(5.0)
        assert shards.ask(crash_some) == [3, 3]
        assert not shards.whole()
        shards.run_for(60.0)
        left = {node_id for own in shards.ask(names) for node_id in own}
        assert len(left) == NODES - 6 and left < ids
        assert shards.whole(), f"seed {SEED}"


def test_what_would_be_elsewhere_sooner_than_promised_ends_the_run() -> None:
    with Shards(built(), 2, lookahead_s=0.06) as shards, pytest.raises(ShardFailed) as failure:
        shards.run_for(60.0)
    assert "takes 50 ms" in str(failure.value) and "lookahead of 60 ms" in str(failure.value)


def test_the_shortest_way_between_shards_is_found() -> None:
    rtt_ms = [[0.0 if a == b else 10.0 + abs(a - b) for b in range(8)] for a in range(8)]
    with Shards(built(Matrix(rtt_ms), nodes=24), 2) as shards:  # rows 0 to 3, and 4 to 7
        assert shards.lookahead_s == pytest.approx(0.0055)
        shards.run_for(30.0)
        assert shards.whole()


def test_a_world_with_plans_of_its_own_is_not_shared_out() -> None:
    world = built()
    world.engine.post(1.0, world.network.heal)
    with pytest.raises(ValueError, match="nobody knows which shard"):
        Shards(world, 2)


def test_a_world_made_in_a_program_is_shared_out_once_it_has_settled() -> None:
    world = EmbeddedWorld(nodes=24, seed=SEED, plain=True)
    world.settle()
    with Shards(world, 2) as shards:
        shards.run_for(60.0)
        assert shards.whole() and shards.now == world.engine.now + 60.0


def test_the_run_does_not_depend_on_the_pieces_in_which_time_is_asked_for() -> None:
    def run(*pieces_s: float) -> str:
        with Shards(built(Matrix([[0.0, 62.5], [62.5, 0.0]]), nodes=20), 2, lookahead_s=1 / 64) as shards:
            for piece_s in pieces_s:
                shards.run_for(piece_s)
            return shards.trace_hash

    whole = run(8.0)
    assert run(*[0.25] * 32) == whole
    assert run(3.0001, 0.0, 4.9999) == whole


def test_what_was_before_the_split_is_counted_once() -> None:
    world = built(loss=0.1)
    world.engine.run_for(10.0)
    lost, events = world.network.counters["lost"], world.engine.events
    assert lost > 0
    with Shards(world, 3) as shards:
        assert sum(shards.ask(partial(counted, "lost"))) == lost and shards.events == events
        assert sorted(index for own in shards.ask(hosts) for index in own) == list(range(NODES))


def test_limited_links_are_where_their_hosts_are() -> None:
    world = built(nodes=24)
    for host in world.network.hosts():
        world.network.limit(host, AccessLink(up_bits_per_s=2e6, down_bits_per_s=2e5))
    world.engine.run_for(20.0)
    world.engine.run_until(partial(delivering, world), limit_s=30, check_every_s=0.001)
    with Shards(world, 2) as shards:
        shards.run_for(60.0)
        assert shards.whole() and sum(shards.ask(partial(counted, "bad_datagram"))) == 0


def test_two_worlds_are_shared_out_at_once() -> None:
    first, second = Shards(built(), 2), Shards(built(seed=6), 2)
    first.run_for(1.0)
    first.close()
    assert gone([process.pid or 0 for process in first.processes])
    second.run_for(1.0)
    assert second.now == first.now
    second.close()
    second.close()
    with pytest.raises(ShardFailed, match="are closed"):
        second.run_for(1.0)


def with_boxes() -> World:
    world = EmbeddedWorld(nodes=8, seed=SEED, plain=True, nat={"port": 0.5})
    world.settle()
    return world


def with_hooks() -> World:
    world = built()
    world.engine.after_event.append(lambda: None)
    return world


def with_plans() -> World:
    world = built()
    world.engine.post(1.0, world.network.heal)
    return world


@pytest.mark.parametrize(
    ("make", "said"),
    [(with_boxes, "behind boxes"), (with_hooks, "after every event"), (with_plans, "nobody knows which shard")],
)
def test_worlds_that_cannot_be_shared_out_are_refused(make: Callable[[], World], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Shards(make(), 2)


@pytest.mark.parametrize("count", [0, 1, NODES + 1])
def test_as_many_shards_as_can_be(count: int) -> None:
    with pytest.raises(ValueError, match=f"not {count}"):
        Shards(built(), count)


@pytest.mark.parametrize("lookahead_s", [0.0, -1.0, 1e-8, float("nan")])
def test_a_lookahead_that_the_clock_cannot_count_is_refused(lookahead_s: float) -> None:
    with pytest.raises(ValueError, match="a lookahead is 10 µs or more"):
        Shards(built(), 2, lookahead_s)


@pytest.mark.parametrize("duration_s", [-1.0, float("nan"), float("inf")])
def test_time_goes_on(duration_s: float) -> None:
    with Shards(built(), 2) as shards:
        with pytest.raises(ValueError, match="time goes on"):
            shards.run_for(duration_s)
        shards.run_for(0.5)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (fail, "this must be read by who started it"),
        (end_of_file, "not that of a pipe"),
        (leave, "enough"),
        (unspeakable, "pickle"),
        (let_time_pass, "must not let time pass"),
        (add_a_host, "no host can be added or moved"),
        (move_the_first, "no host can be added or moved"),
        (die, "ended without a word"),
    ],
)
def test_what_goes_wrong_in_a_shard_is_told(function: Callable[[World], object], said: str) -> None:
    with Shards(built(), 2) as shards:
        with pytest.raises(ShardFailed, match=said):
            shards.ask(function)
        assert gone([process.pid or 0 for process in shards.processes])
        with pytest.raises(ShardFailed, match=said):  # and ever after
            shards.run_for(1.0)


def test_a_shard_that_is_killed_ends_the_run() -> None:
    world = built()
    with Shards(world, 2) as shards:
        with pytest.raises(ShardFailed, match="without a word"):
            shards.ask(partial(die_of, world.nodes[0].id))
        assert not any(process.is_alive() for process in shards.processes)


def test_a_shard_that_was_killed_meanwhile_ends_the_run() -> None:
    with Shards(built(), 2) as shards:
        shards.processes[1].kill()
        shards.processes[1].join()
        with pytest.raises(ShardFailed, match="without a word"):
            shards.run_for(1.0)


def test_an_interrupt_is_for_who_started_them() -> None:
    with Shards(built(), 2) as shards:
        shards.run_for(1.0)
        for process in shards.processes:  # a terminal sends it to all
            os.kill(process.pid or 0, signal.SIGINT)
        shards.run_for(1.0)


def test_what_was_begun_ends_once() -> None:
    world = built()
    with Shards(world, 2) as shards:
        end = shards.begin(partial(lookups, 1, names(world)))
        shards.run_for(5.0)
        assert len(end()) == 2
        with pytest.raises(ValueError, match="has ended"):
            end()
        shards.run_for(1.0)


def test_an_interrupt_ends_all_at_once() -> None:
    with Shards(built(), 2) as shards:
        before = time.monotonic()
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            shards.run_for(1e6)
        assert time.monotonic() - before < 30.0
        with pytest.raises(ShardFailed, match="KeyboardInterrupt"):
            shards.ask(names)


@pytest.mark.parametrize("doing", ["run_for(1e6)", "run_for(5.0)"], ids=["busy", "idle"])
def test_shards_end_with_who_started_them(doing: str) -> None:
    program = (
        "import os, signal; from tests.test_shards import *\n"
        "shards = Shards(built(), 2)\n"
        "print(*(process.pid for process in shards.processes), flush=True)\n"
        "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
        "signal.setitimer(signal.ITIMER_REAL, 3.0)\n"
        f"shards.{doing}\n"
        "signal.pause()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pids = list(map(int, done.stdout.split()))
    assert len(pids) == 2 and gone(pids), "they are still there"
