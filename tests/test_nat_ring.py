"""What a ring survives on the public internet, it survives behind NATs: a third of the nodes behind port-restricted
ones, a sixth behind symmetric ones, others behind carriers', firewalls, or with IPv6 alone."""

from __future__ import annotations

import os

import pytest

from dht.ring import NEAR
from dht.storage import MemoryStorage
from sims.world import RingInvariants
from tests.nat_world import NatWorld, population

SEEDS = range(1, 1 + int(os.environ.get("P2PVPN_SEEDS", "1")))
NODES = 24


def grown(seed: int, count: int = NODES) -> NatWorld:
    """A whole ring that has been at rest for a while, so that idle NAT mappings have been forgotten."""
    members = NatWorld(count, seed)
    members.grow(count)
    members.engine.run_for(60)
    return members


def all_is_well_again(members: NatWorld, limit_s: float = 120.0) -> None:
    """The ring gets whole, and then every pair drawn reaches each other: by the second ping at the latest, as the first
    may be what finds out that the other's process is a new one."""
    took_s = members.engine.run_until(members.world.whole, limit_s=limit_s)
    print(f"seed {members.seed}: whole again after {took_s:.1f} s")
    members.engine.run_for(10)
    assert members.unreachable_twice(members.sampled(100)) == [], f"seed {members.seed}"


def test_the_population_is_what_it_is_said_to_be() -> None:
    kinds = population(103, 1)
    assert len(kinds) == 103
    assert kinds.count("port") == 30
    assert kinds.count("sym") == 15
    assert len(set(kinds)) == 11


@pytest.mark.parametrize("seed", SEEDS)
def test_invariants_hold_after_every_event_while_nodes_behind_nats_join(seed: int) -> None:
    members = NatWorld(40, seed)
    members.grow(NEAR + 1)
    invariants = RingInvariants(members.world)
    members.engine.after_event.append(invariants)
    rng = members.engine.rng
    while len(members.world.nodes) < 40:
        for _ in range(min(rng.randrange(1, 6), 40 - len(members.world.nodes))):
            members.start(len(members.world.nodes))
        members.engine.run_for(rng.uniform(0.0, 2.0))
    members.engine.run_until(members.world.whole, limit_s=300)
    members.engine.after_event.clear()
    assert invariants.checks > 100
    assert members.unreachable_twice(members.sampled(100)) == [], f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tenth_crashes_at_once(seed: int) -> None:
    members = grown(seed)
    for victim in members.engine.rng.sample(members.world.nodes[3:], NODES // 10):
        members.crash(victim)
    all_is_well_again(members)


@pytest.mark.parametrize("kind", ["sym", "ipv6-only"])
def test_a_killed_node_comes_back_with_what_it_knew_and_without(kind: str) -> None:
    members = grown(1)
    victim = members.of_kind(kind)[0]
    number = members.numbers[victim.id]
    members.crash(victim)
    members.engine.run_for(1)
    victim = members.start(number, moved_in=False)
    all_is_well_again(members)
    members.crash(victim)
    members.world.storages[victim.id] = MemoryStorage()
    members.engine.run_for(1)
    members.start(number, moved_in=False)
    all_is_well_again(members)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_partition_heals(seed: int) -> None:
    members = grown(seed)
    # Each part has a bootstrap of both families; whoever has no relay there has no place on its ring meanwhile.
    hosts = [members.world.hosts[node.id] for node in members.world.nodes]
    parts = [hosts[::2], hosts[1::2]]
    members.world.network.partition(parts)
    members.engine.run_for(120)
    members.world.network.heal()
    all_is_well_again(members, limit_s=300)


@pytest.mark.parametrize("kind", ["port"])
def test_a_node_that_slept_five_minutes_is_back(kind: str) -> None:
    members = grown(2)
    host = members.world.hosts[members.of_kind(kind)[0].id]
    members.world.network.freeze(host)
    members.engine.run_for(300)
    members.world.network.thaw(host)
    all_is_well_again(members)


@pytest.mark.parametrize(("kind", "to"), [("port", "sym"), ("public", "cgnat(port,port)")])
def test_a_node_that_moves_behind_another_box_keeps_its_place(kind: str, to: str) -> None:
    members = grown(3)
    mover = members.of_kind(kind)[0]
    members.behind(members.numbers[mover.id], to)
    members.engine.run_for(5)
    all_is_well_again(members)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_nat_restarts_at_once(seed: int) -> None:
    members = grown(seed)
    for number in range(NODES):
        site = members.world.site(number)
        while site is not None:
            site.box.rebind()
            site = site.carrier
    members.engine.run_for(5)
    all_is_well_again(members)
