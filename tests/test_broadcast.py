"""Frames for everybody: who gets them, how often, how deep the tree is, and what a liar can do about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

import pytest

from dht.arcs import CIRCLE, Arc, place_of
from dht.broadcast import FAN_OUT, HEAD_BYTES, MAX_ORIGINS, MAX_PAYLOAD_BYTES, WINDOW, Head
from dht.errors import BadDatagram
from dht.metering import HOP_SHARE, MAX_METERED, Limits, Meter
from sims.engine import HostState
from tests.tree_double import MemberDouble, TreeWorld

CHANNEL = 3


class Heard:
    """What every member of a world hears on one channel, and after how many hops."""

    def __init__(self, world: TreeWorld) -> None:
        self.frames: dict[int, list[bytes]] = {member.me: [] for member in world.all()}
        for member in world.all():
            member.broadcast.on(CHANNEL, partial(self._hear, member.me))

    def _hear(self, me: int, origin: int, payloads: Sequence[bytes]) -> None:
        assert origin != me
        self.frames[me].extend(payloads)

    def times(self, payload: bytes) -> Counter[int]:
        """How many members heard a payload how often."""
        return Counter(frames.count(payload) for frames in self.frames.values())


def copies(world: TreeWorld) -> int:
    return sum(member.counters["broadcast_copies"] for member in world.all())


@pytest.mark.parametrize(("members", "seed"), [(1, 1), (2, 2), (3, 3), (7, 4), (100, 5), (1000, 6)])
def test_every_other_member_gets_a_frame_once_by_n_minus_1_messages(members: int, seed: int) -> None:
    world = TreeWorld(members, seed)
    heard = Heard(world)
    for number in range(3):
        before, payload = copies(world), b"frame %d" % number
        sender = world.engine.rng.choice(world.all())
        assert sender.broadcast.send(CHANNEL, [payload]) == 1
        world.engine.run_for(5)
        assert heard.frames[sender.me].count(payload) == 0, "the sender never gets its own"
        assert heard.times(payload)[1] == members - 1, f"seed {seed}"
        assert copies(world) - before == members - 1
    assert not world.refused


@pytest.mark.parametrize("seed", range(3))
def test_trees_of_1000_are_at_most_one_and_a_half_times_log2_deep(seed: int) -> None:
    world = TreeWorld(1000, seed)
    deepest = 0
    for sender in world.engine.rng.sample(world.all(), 5):
        level = [(sender, Arc(place_of(sender.me), place_of(sender.me)))]
        depth = -1
        while level:
            depth += 1
            level = [
                (world.members[edge.id], part) for member, arc in level for edge, part in member.broadcast.children(arc)
            ]
        deepest = max(deepest, depth)
    print(f"seed {seed}: {deepest} hops deep")
    assert deepest <= 1.5 * math.log2(1000)


def test_no_member_sends_more_copies_than_its_fan_out() -> None:
    world = TreeWorld(300, 1)
    sender = world.all()[0]
    assert len(sender.known) > FAN_OUT
    sender.broadcast.send(CHANNEL, [b"x"])
    world.engine.run_for(5)
    assert max(member.counters["broadcast_copies"] for member in world.all()) <= FAN_OUT


def test_frames_sent_together_travel_together() -> None:
    world = TreeWorld(50, 2)
    heard = Heard(world)
    payloads = [b"%d" % number for number in range(20)]
    sender = world.all()[0]
    sender.broadcast.send(CHANNEL, payloads)
    world.engine.run_for(2)
    assert all(frames == payloads for me, frames in heard.frames.items() if me != sender.me)


def test_suspects_are_gone_around_and_only_they_miss_a_frame() -> None:
    world = TreeWorld(200, 3)
    heard = Heard(world)
    sender, *others = world.all()
    dead = world.engine.rng.sample(others, 20)
    for victim in dead:
        victim.host.halt(HostState.FROZEN)
        for member in world.all():
            if victim.me in member.known:
                member.known[victim.me].suspect = True
    sender.broadcast.send(CHANNEL, [b"x"])
    world.engine.run_for(5)
    assert heard.times(b"x")[1] == 200 - 1 - 20


def test_a_member_known_to_its_successor_only_gets_frames_too() -> None:
    """As one that joined a moment ago."""
    world = TreeWorld(100, 4)
    heard = Heard(world)
    newcomer = world.members[world.ordered[50]]
    successor = world.members[world.ordered[51]]
    for member in world.all():
        if member not in (newcomer, successor):
            member.known.pop(newcomer.me, None)
            newcomer.known.pop(member.me, None)
    got = 0
    for sender in world.engine.rng.sample([member for member in world.all() if member is not newcomer], 20):
        heard.frames[newcomer.me].clear()
        sender.broadcast.send(CHANNEL, [b"x"])
        world.engine.run_for(2)
        got += len(heard.frames[newcomer.me])
    # It is passed over only where the cut between two members happens to lie between it and its successor.
    assert got >= 10


def test_a_channel_that_a_member_does_not_know_is_passed_on() -> None:
    world = TreeWorld(100, 5)
    heard = Heard(world)
    deaf = world.engine.rng.sample(world.all()[1:], 40)
    for member in deaf:
        member.broadcast.off(CHANNEL)
    world.all()[0].broadcast.send(CHANNEL, [b"x"])
    world.engine.run_for(3)
    assert heard.times(b"x")[1] == 99 - 40


def test_what_can_never_be_sent_is_refused_where_it_is_asked_for() -> None:
    broadcast = TreeWorld(2, 6).all()[0].broadcast
    with pytest.raises(ValueError, match="at most"):
        broadcast.send(CHANNEL, [bytes(MAX_PAYLOAD_BYTES + 1)])
    with pytest.raises(ValueError, match="0 to 255"):
        broadcast.on(256, lambda origin, payloads: None)
    broadcast.on(1, lambda origin, payloads: None)
    with pytest.raises(ValueError, match="taken"):
        broadcast.on(1, lambda origin, payloads: None)


def test_a_node_outside_the_ring_sends_nothing() -> None:
    world = TreeWorld(5, 7)
    world.all()[0].joined = False
    assert world.all()[0].broadcast.send(CHANNEL, [b"x"]) == 0
    assert copies(world) == 0


# Liars


def forged(origin: int, arc: Arc, hops: int = 1, number: int = 7, payload: bytes = b"lie") -> bytes:
    return Head(CHANNEL, hops, origin, arc).pack() + number.to_bytes(8, "big") + payload


def pair(seed: int) -> tuple[TreeWorld, MemberDouble, MemberDouble]:
    world = TreeWorld(50, seed)
    liar = world.all()[0]
    return world, liar, world.members[next(iter(liar.known))]


def test_parts_that_do_not_shrink_or_are_not_the_receivers_are_refused() -> None:
    world, liar, victim = pair(8)
    heard = Heard(world)
    here, there, origin = place_of(victim.me), place_of(liar.me), world.ordered[25]
    assert origin not in (victim.me, liar.me)
    elsewhere = place_of(origin)
    wrong = [
        forged(origin, Arc(here, here)),  # the whole ring
        forged(origin, Arc((here + 1) % CIRCLE, (here + 2) % CIRCLE)),  # not the victim's
        forged(liar.me, Arc((there - 1) % CIRCLE, (there - 2) % CIRCLE)),  # all but a place that isn't the liar's
        forged(origin, Arc((elsewhere - 1) % CIRCLE, (elsewhere - 2) % CIRCLE)),
        forged(victim.me, Arc((there + 1) % CIRCLE, there)),  # the victim's own
        forged(liar.me, Arc((there + 1) % CIRCLE, there), hops=200),
        forged(liar.me, Arc((there + 1) % CIRCLE, there))[: HEAD_BYTES + 3],
    ]
    for plaintext in wrong:
        with pytest.raises(BadDatagram):
            victim.broadcast.receive(liar.me, [plaintext])
    world.engine.run_for(2)
    assert heard.times(b"lie")[0] == 50


def test_a_repeated_frame_is_heard_and_passed_on_once() -> None:
    world, liar, victim = pair(9)
    heard = Heard(world)
    there = place_of(liar.me)
    plaintext = forged(liar.me, Arc((there + 1) % CIRCLE, there))
    for _ in range(200):
        victim.broadcast.receive(liar.me, [plaintext])
    world.engine.run_for(2)
    assert heard.times(b"lie")[1] == 49
    assert victim.counters["broadcast_duplicate"] == 199
    assert copies(world) == 48


def test_a_flood_is_cut_to_its_origins_rate_and_counted_and_others_are_heard() -> None:
    world, liar, victim = pair(10)
    heard = Heard(world)
    there = place_of(liar.me)
    limits = Limits()
    for number in range(5000):
        plaintext = forged(liar.me, Arc((there + 1) % CIRCLE, there), number=number)
        victim.broadcast.receive(liar.me, [plaintext])
    burst = limits.packets_per_s * limits.burst_s
    assert len(heard.frames[victim.me]) == burst
    assert victim.counters["broadcast_over_rate"] == 5000 - burst
    honest = next(member for member in world.all() if member not in (liar, victim))
    honest.broadcast.send(CHANNEL, [b"truth"])
    world.engine.run_for(2)
    assert heard.times(b"truth")[1] == 49


def test_a_liar_who_names_ever_other_origins_is_held_to_its_own_rate_and_fills_no_table() -> None:
    world, liar, victim = pair(11)
    heard = Heard(world)
    here = place_of(victim.me)
    rng = world.engine.rng
    limits = Limits()
    for number in range(4 * MAX_METERED):
        origin = rng.getrandbits(160)
        if place_of(origin) != here:
            victim.broadcast.receive(liar.me, [forged(origin, Arc(here, (here + 1) % CIRCLE), number=number)])
    assert len(heard.frames[victim.me]) <= HOP_SHARE * limits.packets_per_s * limits.burst_s
    assert len(victim.broadcast._seen) <= MAX_ORIGINS
    assert len(victim.broadcast._meter._of_origins) <= MAX_METERED


def test_a_liar_can_neither_use_up_an_origins_rate_nor_its_numbers_elsewhere() -> None:
    world, liar, victim = pair(12)
    heard = Heard(world)
    here = place_of(victim.me)
    origin = next(member for member in world.all() if member not in (liar, victim) and liar.me not in member.known)
    for number in range(3 * WINDOW):
        victim.broadcast.receive(liar.me, [forged(origin.me, Arc(here, (here + 1) % CIRCLE), number=number)])
    assert victim.counters["broadcast_over_rate"] > 0
    origin.broadcast.send(CHANNEL, [b"truth"])
    world.engine.run_for(2)
    assert heard.times(b"truth")[1] == 49


def test_whoever_invents_origins_fills_nobody_elses_bucket() -> None:
    meter = Meter(Limits(packets_per_s=10, bytes_per_s=1e9, burst_s=1.0))
    taken = 0
    for burst in range(5):
        taken += sum(meter.take(1, origin, 10, 0.0) for origin in range(100))
        for origin in range(MAX_METERED):
            meter.take(2, 1000 * burst + origin, 10, 0.0)
    assert taken <= HOP_SHARE * 10


def test_rates_come_back_with_time() -> None:
    meter = Meter(Limits(packets_per_s=10, bytes_per_s=1000, burst_s=1.0))
    assert sum(meter.take(1, 1, 10, 0.0) for _ in range(50)) == 10
    assert sum(meter.take(1, 1, 10, 0.5) for _ in range(50)) == 5
    assert sum(meter.take(1, 1, 500, 100.0) for _ in range(50)) == 2, "bytes count too"
