"""Packets for many between whole members in a simulated world: who gets them, how often, and what a liar or a storm
changes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from ipop.busy import LINGER_S, Way
from ipop.ethernet import ipv4_packet, wrap
from ipop.igmp import Change
from ipop.neighbor import mac_for
from tests.many_world import GROUP, GROUP6, ManyWorld

MDNS, MDNS6 = IPv4Address("224.0.0.251"), IPv6Address("ff02::fb")
FRAMES_PER_S = 20
LIMITED, DIRECTED = IPv4Address("255.255.255.255"), IPv4Address("10.77.255.255")


@pytest.mark.parametrize("seed", range(2))
def test_what_is_for_the_link_reaches_every_other_member_once(seed: int) -> None:
    world = ManyWorld(8, seed)
    for destination in (MDNS, MDNS6, LIMITED, DIRECTED):
        sent = world.send(2, destination, b"hello, all")
        world.engine.run_for(2)
        for number in range(8):
            assert world.arrived(number) == ([] if number == 2 else [sent]), f"seed {seed}, {destination}, {number}"
    assert sum(world.counted("broadcast_copies")) == 4 * 7, "N-1 messages for N members"


@pytest.mark.parametrize("group", (GROUP, GROUP6), ids=("IPv4", "IPv6"))
def test_a_group_reaches_those_who_want_it_and_nobody_else(group: IPv4Address | IPv6Address) -> None:
    world = ManyWorld(6, seed=5)
    world.join(1, 4, group=group)
    world.engine.run_for(1)
    sent = world.send(0, group, b"hello, some", ttl=17)
    world.engine.run_for(2)
    assert [world.arrived(number) for number in range(6)] == [[], [sent], [], [], [sent], []]
    world.join(1, group=group, change=Change.TO_INCLUDE)
    world.engine.run_for(4)
    sent = world.send(0, group, b"hello again")
    world.engine.run_for(2)
    assert [world.arrived(number) for number in range(6)] == [[], [], [], [], [sent], []]


def test_membership_itself_discovery_and_dhcp_never_leave_the_host() -> None:
    world = ManyWorld(3, seed=6)
    world.join(0)
    world.engine.run_for(1)
    before = world.totals()["broadcast_sent"]
    dhcp = ipv4_packet(b"\0\x44\0\x43\0\x08\0\0", 17, world.nodes[0].member.address4.packed, b"\xff" * 4)
    world.taps[0].inject(wrap(dhcp, b"\xff" * 6, mac_for(b"\0\0\0\0")))
    world.join(0, change=Change.IS_EXCLUDE)
    world.engine.run_for(2)
    assert world.nodes[0].counters["multicast_kept_on_link"] == 1
    assert world.totals()["broadcast_sent"] == before
    assert not world.arrived(1) and not world.arrived(2)


def test_a_host_cannot_send_in_the_name_of_another() -> None:
    world = ManyWorld(3, seed=7)
    forged = ipv4_packet(b"\0" * 8, 17, world.nodes[1].member.address4.packed, MDNS.packed)
    world.taps[0].inject(wrap(forged, b"\x01\0\x5e\0\0\xfb", mac_for(b"\0\0\0\0")))
    world.engine.run_for(1)
    assert world.nodes[0].counters["outbound_source_refused"] == 1
    assert not world.arrived(1) and not world.arrived(2)


@pytest.mark.parametrize("seed", (0,))
def test_a_busy_group_gets_a_ring_and_nothing_is_lost_or_repeated_on_the_way(seed: int) -> None:
    """Half of the members want it, one of them only later, one leaves."""
    world = ManyWorld(10, seed)
    wanting = [1, 3, 5, 7, 9]
    world.join(*wanting)
    world.engine.run_for(1)
    ways: list[Way] = []
    sent: list[bytes] = []
    late_from = left_at = 0

    def stream(seconds: float) -> None:
        for _ in range(round(seconds * FRAMES_PER_S)):
            sent.append(world.send(0, GROUP, b"frame %06d" % len(sent)))
            multicast = world.nodes[0].multicast
            assert multicast is not None
            ways.append(multicast.busy.way(GROUP.packed))
            world.engine.run_for(1 / FRAMES_PER_S)

    stream(20)
    assert ways[-1] is Way.RING, f"seed {seed}"
    quiet = {number: world.counted("multicast_unwanted")[number] for number in (2, 4, 6)}
    world.join(2)
    late_from = len(sent)
    stream(20)
    assert ways[-1] is Way.RING, f"seed {seed}"
    world.join(9, change=Change.TO_INCLUDE)
    left_at = len(sent)
    stream(8)
    world.engine.run_for(2)
    for number in (1, 3, 5, 7):
        assert world.arrived(number) == sent, f"seed {seed}, member {number}"
    late = world.arrived(2)
    # One round trip and the time until the first frame both ways: frames of the first second may be missing.
    assert late == sent[-len(late) :] and len(sent) - late_from - len(late) <= FRAMES_PER_S, f"seed {seed}: {len(late)}"
    left = world.arrived(9)
    assert left == sent[: len(left)] and left_at <= len(left) <= left_at + 3 * FRAMES_PER_S, f"seed {seed}"
    for number in (0, 4, 6, 8):
        assert world.arrived(number) == [], f"seed {seed}, member {number}"
    assert world.counted("multicast_unwanted")[4] - quiet[4] < 12 * FRAMES_PER_S, (
        "no such traffic at all, but for an overlap"
    )
    world.engine.run_for(LINGER_S + 5)
    assert all(not node.ring.groups.all() for node in world.nodes), "the ring is dropped"
    sent.clear()
    stream(0.2)
    world.engine.run_for(1)
    assert world.arrived(1) == sent, "and the network carries it again"


@pytest.mark.parametrize("full", (0, 1), ids=("the sender", "a receiver"))
def test_a_node_that_can_be_in_no_more_groups_loses_nothing(full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = ManyWorld(5, seed=13)
    world.join(1, 2)
    world.engine.run_for(1)

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("a node is in at most so many groups")

    monkeypatch.setattr(world.nodes[full].ring.groups, "join", refuse)
    sent: list[bytes] = []
    for _ in range(25 * FRAMES_PER_S):
        sent.append(world.send(0, GROUP, b"frame %06d" % len(sent)))
        world.engine.run_for(1 / FRAMES_PER_S)
    world.engine.run_for(2)
    assert world.nodes[full].counters["multicast_ring_refused"] <= 2
    assert world.arrived(1) == sent and world.arrived(2) == sent
    assert world.nodes[0].counters["multicast_no_ring"] <= 1, "but for the one that made the group busy"


def test_a_ring_that_loses_members_goes_on_for_the_others() -> None:
    """One of those who pass it on dies without a word, another is cut off from the sender, and one comes back."""
    world = ManyWorld(8, seed=12)
    world.join(1, 2, 3, 4, 5)
    world.engine.run_for(1)
    sent: list[bytes] = []

    def stream(seconds: float) -> None:
        for _ in range(round(seconds * FRAMES_PER_S)):
            sent.append(world.send(0, GROUP, b"frame %06d" % len(sent)))
            world.engine.run_for(1 / FRAMES_PER_S)

    stream(15)
    world.network.crash(world.nodes[3].host)  # type: ignore[arg-type]
    world.network.cut(world.nodes[0].host, world.nodes[2].host)  # type: ignore[arg-type]
    stream(20)
    world.start(3)
    world.engine.run_until(world.nodes[3].is_ready, limit_s=30)
    world.engine.run_for(1)
    world.join(3)
    before = len(sent)
    stream(15)
    world.engine.run_for(2)
    for number in (1, 2, 4, 5):
        got = world.arrived(number)
        # A dead member is passed by after a probe; what it should have passed on meanwhile is lost.
        assert len(got) == len(set(got)) and len(got) >= len(sent) - 4 * FRAMES_PER_S, (number, len(got), len(sent))
        assert got[-10 * FRAMES_PER_S :] == sent[-10 * FRAMES_PER_S :]
    back = world.arrived(3)
    assert len(back) >= len(sent) - before - 2 * FRAMES_PER_S and back == sent[-len(back) :]


def test_a_storm_is_cut_down_at_its_source_and_leaves_the_others_alone() -> None:
    world = ManyWorld(8, seed=9)
    times: list[float] = []

    def ping() -> None:
        began = world.engine.now
        world.nodes[2].ring.ping(world.nodes[5].member.id, lambda result: times.append(world.engine.now - began))

    for number in range(3000):
        world.send(0, LIMITED, b"storm")
        if number % 100 == 0:
            ping()
        world.engine.run_for(0.001)
    world.engine.run_for(2)
    assert len(times) == 30 and max(times) < 0.1, times
    got = [len(world.arrived(number)) for number in range(1, 8)]
    assert all(600 <= count <= 800 for count in got), got
    assert world.nodes[0].counters["multicast_over_rate"] >= 2200
    assert all(node.is_ready() for node in world.nodes)


def test_a_member_that_lies_about_the_origin_convinces_nobody() -> None:
    """It signs with its own key what says it comes from another, and sends again what others signed."""
    world = ManyWorld(5, seed=10)
    liar = world.nodes[4]
    seen: list[bytes] = []
    assert liar.multicast is not None
    liar.casts.on_cast(lambda group, frames: seen.extend(frames))
    true = world.send(1, MDNS, b"true")
    world.engine.run_for(1)
    assert [world.arrived(number) for number in (0, 2, 3)] == [[true]] * 3 and len(seen) == 1
    forged = ipv4_packet(b"\0" * 8, 17, world.nodes[1].member.address4.packed, MDNS.packed)
    from ipop.cast_wire import Kind, sign_alone  # noqa: PLC0415

    lie = sign_alone(liar.identity.sign, Kind.PACKET, forged, 1 << 50, int(world.engine.now))
    liar.casts.cast(None, [lie, seen[0], b"junk", seen[0][:60]], 0)
    world.engine.run_for(2)
    assert not any(world.arrived(number) for number in range(4))
    honest = [world.nodes[number] for number in (0, 2, 3)]
    assert [node.counters["cast_forged"] for node in honest] == [1, 1, 1]
    assert [node.counters["cast_repeated"] for node in honest] == [1, 1, 1]
    assert [node.counters["cast_malformed"] for node in honest] == [2, 2, 2]
    assert world.nodes[1].counters["cast_source_refused"] == 2, "it is its own address there"


def test_a_node_that_carries_no_multicast_drops_and_counts_it() -> None:
    from dht.storage import MemoryStorage  # noqa: PLC0415
    from ipop.config import VpnConfig  # noqa: PLC0415
    from ipop.node import build_node  # noqa: PLC0415
    from ipop.tap import MemoryTap  # noqa: PLC0415

    world = ManyWorld(4, seed=11)
    tap = MemoryTap()
    config = VpnConfig(world.identities[3], MemoryStorage(), multicast=False)
    world.nodes[3].stop()
    node = world.nodes[3] = build_node(world.network.host(), tap, config)
    world.taps[3] = tap
    node.start(world.bootstraps)
    world.engine.run_until(node.is_ready, limit_s=30)
    world.engine.run_for(3)
    world.clear()
    world.send(3, MDNS, b"unsent")
    sent = world.send(0, MDNS, b"sent")
    world.engine.run_for(2)
    assert node.counters["outbound_multicast_dropped"] == 1
    assert [world.arrived(number) for number in range(4)] == [[], [sent], [sent], []]
