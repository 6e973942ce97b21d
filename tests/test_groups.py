"""Groups in simulated worlds, judged from above: they form, heal and merge as the main ring does, and strangers get
nothing. Every failure names its seed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from random import Random

import pytest

from dht.certificate import Network as Authorized
from dht.envelope import Content, Envelope, Inner, Mode
from dht.groups.admission import Admit, Admitted
from dht.groups.notice import EpochNotice
from dht.groups.right import TAG_BYTES, CertificateRight, GroupSecret
from dht.groups.table import MAX_SUBRINGS, NOTICE_CHECK_BURST, NOTICE_CHECKS_PER_S
from dht.groups.views import GroupState
from dht.ids import key_of
from dht.messages import MAX_RECORDS, Fetch, Kind, Leave, Neighbors, pack_control
from dht.node import Node
from dht.path import Path
from dht.peer import Peer
from dht.records import Record
from dht.ring import NEAR
from dht.suite import NOISE, Suite
from ipop.authority import Authority
from sims.constructed import construct
from sims.engine import Engine
from sims.groups import GroupRing
from sims.latency import Constant
from sims.network import Network
from sims.plain import PLAIN
from sims.world import RingInvariants, World
from tests.identities import START_S, make_authority, make_identities
from tests.patience import Promises

SEEDS = range(1, 1 + int(os.environ.get("P2PVPN_SEEDS", "1")))


def secret_of(seed: int, epoch: int = 0) -> GroupSecret:
    return GroupSecret(Random(f"group {seed} {epoch}").randbytes(32), epoch)


def settled(nodes: int, seed: int, suite: Suite = PLAIN) -> World:
    """A ring of `nodes` nodes. How it came to be is not looked at here, nor, where all are honest, cryptography."""
    engine = Engine(seed)
    world = World(engine, Network(engine, Constant(50.0)), make_identities(nodes, seed, now=START_S, suite=suite))
    construct(world, nodes)
    engine.run_for(10)
    return world


def group(world: World, members: Sequence[Node], secret: GroupSecret | None) -> GroupRing:
    """A group of these members, whole."""
    ring = GroupRing(world, "studio", secret)
    ring.join(*members)
    world.engine.run_until(ring.whole, limit_s=60)
    return ring


class Tap:
    """Everything of groups that a node gets to see."""

    def __init__(self, node: Node) -> None:
        self.seen: list[tuple[int, bytes]] = []
        took = node.parts.demux.group

        def group(peer: Peer, plaintext: bytes, path: Path | None) -> None:
            self.seen.append((peer.id, plaintext))
            took(peer, plaintext, path)

        node.parts.demux.group = group


def session(world: World, one: Node, other: Node) -> Peer:
    """A session between two nodes, opened by the first."""
    peers: list[Peer | None] = []
    one.open_session(other.id, peers.append)
    world.engine.run_until(lambda: bool(peers), limit_s=10)
    assert peers[0] is not None
    return peers[0]


# Forming and healing


@pytest.mark.parametrize("seed", SEEDS)
def test_eight_nodes_that_join_at_once_form_a_group_and_a_ninth_is_in_soon(seed: int, promises: Promises) -> None:
    world = settled(60, seed)
    *first, last = world.engine.rng.sample(world.nodes, 9)
    ring = GroupRing(world, "studio", secret_of(seed))
    ring.join(*first)
    promises.measured("a group of 8 forms (simulated)", world.engine.run_until(ring.whole, limit_s=60), 5.0)
    assert 1 <= sum(member.subring.view().entry_point for member in ring.nodes) <= 8
    world.engine.run_for(5)
    assert sum(member.subring.view().entry_point for member in ring.nodes) <= 4, f"seed {seed}"
    ring.join(last)
    promises.measured("one more joins (simulated)", world.engine.run_until(ring.whole, limit_s=60), 2.0)
    assert all(member.subring.state is GroupState.MEMBER for member in ring.nodes)
    assert all(member.ring_view().size_estimate == 9 for member in ring.nodes)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_of_nodes_that_all_begin_alone_form_without_going_astray(seed: int) -> None:
    """Each is a ring of one that gives itself up for another. Who was such a ring was asked the way for as long as
    others took it for a member, and when all had given up for each other, all waited: it took up to a minute."""
    world = settled(60, seed)
    took_s = []
    for number in range(10):
        ring = GroupRing(world, f"g{number}", secret_of(number))
        ring.join(*world.engine.rng.sample(world.nodes, 8))
        took_s.append(world.engine.run_until(ring.whole, limit_s=60))
        world.engine.run_for(1)
    print(f"seed {seed}:", *(f"{each:.1f}" for each in took_s))
    assert max(took_s) < 6, f"seed {seed}: {took_s}"


@pytest.mark.parametrize("seed", SEEDS)
def test_who_gives_its_place_up_is_at_once_no_member_to_anybody_and_comes_back(seed: int) -> None:
    world = settled(20, seed)
    ring = group(world, world.nodes[:6], secret_of(seed))
    world.engine.run_for(5)
    one, *others = ring.nodes
    one.subring.ring.near.reset()
    world.engine.run_for(0.2)
    for other in others:
        edge = other.subring.edges.peers[one.id]
        assert not edge.joined and one.id not in other.subring.ring.near.lists, f"seed {seed}"
    world.engine.run_until(ring.whole, limit_s=20)


@pytest.mark.parametrize("seed", SEEDS)
def test_zaves_invariants_hold_in_a_group_after_every_event_while_members_join(seed: int) -> None:
    world = settled(40, seed)
    ring = group(world, world.nodes[: NEAR + 1], secret_of(seed))
    world.engine.run_for(3)
    invariants = RingInvariants(ring)
    world.engine.after_event.append(invariants)
    rng, waiting = world.engine.rng, world.nodes[NEAR + 1 : 30]
    while waiting:
        burst = rng.randrange(1, 6)
        ring.join(*waiting[:burst])
        del waiting[:burst]
        world.engine.run_for(rng.uniform(0.0, 1.0))
    world.engine.run_until(ring.whole, limit_s=60)
    assert invariants.checks > 30, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_closes_when_members_leave_and_when_they_die(seed: int, promises: Promises) -> None:
    world = settled(40, seed)
    ring = group(world, world.nodes[:16], secret_of(seed))
    world.engine.run_for(10)
    leaver, stopper, *dying = world.engine.rng.sample([member.node for member in ring.nodes], 4)
    assert leaver.groups.leave("studio", secret=True)
    assert not leaver.groups.leave("studio", secret=True)
    ring.forget(leaver)
    promises.measured("a group without one that left (simulated)", world.engine.run_until(ring.whole, limit_s=60), 2.0)
    assert leaver.groups.views() == []
    world.leave(stopper)
    ring.forget(stopper)
    world.engine.run_until(ring.whole, limit_s=30)
    for node in dying:
        world.crash(node)
        ring.forget(node)
    promises.measured("a group without two that died (simulated)", world.engine.run_until(ring.whole, limit_s=60), 20.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_has_just_left_is_not_sought_though_others_lists_still_hold_it(seed: int) -> None:
    world = settled(40, seed)
    ring = group(world, world.nodes[:16], secret_of(seed))
    world.engine.run_for(10)
    ears = []
    for member in sorted(ring.nodes, key=lambda member: member.id)[3:6]:
        member.node.groups.leave("studio", secret=True)
        ring.forget(member.node)
        ears.append(Tap(member.node))
    world.engine.run_for(15)
    sought = [each for ear in ears for _, each in ear.seen if each[1 + TAG_BYTES] == Inner.ADMISSION]
    assert sought == [], f"seed {seed}"
    assert ring.whole()


@pytest.mark.parametrize("seed", SEEDS)
def test_members_whose_sessions_run_over_the_ring_alone_are_a_group_too_and_notice_death(seed: int) -> None:
    world = settled(40, seed)
    members = world.engine.rng.sample(world.nodes, 8)
    for node in members:
        node.groups._dial = lambda contact, done: done(None)
    ring = group(world, members, secret_of(seed))
    paths = [view.path for member in ring.nodes for view in member.subring.view().members]
    assert "overlay" in paths, f"seed {seed}"
    world.engine.run_for(400)  # more than idle sessions last
    assert ring.whole(), f"seed {seed}"
    world.crash(members[3])
    ring.forget(members[3])
    world.engine.run_until(ring.whole, limit_s=40)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_that_a_partition_split_is_one_again(seed: int) -> None:
    world = settled(40, seed)
    ring = group(world, world.nodes[12:28], secret_of(seed))
    world.engine.run_for(10)
    hosts = [world.hosts[node.id] for node in world.nodes]
    world.network.partition([hosts[:20], hosts[20:]])
    world.engine.run_for(120)
    for part in (ring.nodes[:8], ring.nodes[8:]):
        assert not world.faults(part), f"seed {seed}: a part is no ring of its own"
    world.network.heal()
    took_s = world.engine.run_until(ring.whole, limit_s=900)
    print(f"seed {seed}: one group {took_s:.0f} s after the partition ended")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_is_killed_and_started_again_is_back_in_its_groups(seed: int, promises: Promises) -> None:
    world = settled(30, seed)
    ring = group(world, world.nodes[4:12], secret_of(seed))
    world.engine.run_for(5)
    world.crash(world.nodes[7])
    world.engine.run_for(1)
    ring.nodes.pop(3)
    again = world.start(7)
    subring = again.groups.named("studio", secret=True)
    assert subring is not None, f"seed {seed}: it does not remember"
    ring.join(again)  # changes nothing but who is watched
    promises.measured("back in its group (simulated)", world.engine.run_until(ring.whole, limit_s=60), 10.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_edge_that_one_end_has_forgotten_is_found_out_and_made_again(seed: int) -> None:
    world = settled(20, seed)
    ring = group(world, world.nodes[:6], secret_of(seed))
    world.engine.run_for(5)
    one = ring.nodes[0]
    forgotten = one.subring.ring.near.lists.successors[0]
    one.subring.edges.drop(forgotten)
    world.engine.run_for(100)
    edge = one.subring.edges.peers.get(forgotten)
    assert edge is not None and edge.joined and ring.whole(), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_an_answer_to_who_has_left_and_joined_again_makes_no_edge_of_the_ring_that_was_left(seed: int) -> None:
    world = settled(20, seed)
    ring = group(world, world.nodes[:4], secret_of(seed))
    node = world.nodes[10]
    peer = session(world, node, ring.nodes[0].node)
    left = node.groups.join("studio", secret_of(seed))
    left._admission.seek(peer, lambda edge: None)
    node.groups.leave("studio", secret=True)
    ring.join(node)
    world.engine.run_until(ring.whole, limit_s=30)
    assert not left.edges.peers, f"seed {seed}"
    assert all(left not in sharing for sharing in node.groups._sharing.values()), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_a_member_that_says_over_and_over_that_it_has_forgotten_is_asked_once_at_a_time(seed: int) -> None:
    world = settled(20, seed)
    ring = group(world, world.nodes[:4], secret_of(seed))
    world.engine.run_for(5)
    liar, victim = ring.nodes[0], ring.nodes[1]
    ear = Tap(liar.node)
    peer = liar.node.parts.sessions.peers[victim.id]
    for _ in range(300):
        peer.send(bytes((Inner.GROUP,)) + liar.subring.right.tag + bytes((Inner.KEEPALIVE,)))
    world.engine.run_for(5)
    asked = [each for source, each in ear.seen if source == victim.id and each[1 + TAG_BYTES] == Inner.ADMISSION]
    assert len(asked) == 1, f"seed {seed}"
    assert ring.whole()


def test_a_node_is_in_a_bounded_number_of_groups() -> None:
    world = World(engine := Engine(1), Network(engine, Constant(50.0)), make_identities(1, 1, now=START_S))
    world.start(0)
    for number in range(MAX_SUBRINGS):
        world.nodes[0].groups.join(f"g{number}", secret_of(number))
    with pytest.raises(ValueError, match="leave one first"):
        world.nodes[0].groups.join("more", secret_of(0))
    world.nodes[0].groups.join("g3", secret_of(3))
    assert world.nodes[0].groups.leave("g3", secret=True)
    world.nodes[0].groups.join("more", secret_of(0))


# Strangers


def quiet_group(seed: int) -> tuple[World, GroupRing, Node, bytes]:
    """A group, a stranger with a valid certificate who somehow knows its tag, and that tag."""
    world = settled(30, seed, NOISE)
    ring = group(world, world.nodes[:8], secret_of(seed))
    world.engine.run_for(20)
    return world, ring, world.nodes[20], ring.nodes[0].subring.right.tag


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stranger_with_a_valid_certificate_can_not_join_with_whatever_proof(seed: int) -> None:
    world, ring, stranger, tag = quiet_group(seed)
    victim = ring.nodes[2]
    ear = Tap(stranger)
    peer = session(world, stranger, victim.node)
    captured = ring.nodes[1].subring.right.proof(ring.nodes[2].node.parts.sessions.peers[ring.nodes[1].id])
    head = bytes((Inner.GROUP,)) + tag + bytes((Inner.ADMISSION,))
    for transaction, proof in enumerate((b"", bytes(32), captured, victim.subring.right.proof(peer))):
        peer.send(head + pack_control(Admit(True, proof, b""), Kind.ASK, transaction))
        peer.send(head + pack_control(Admitted(True, proof, b""), Kind.ANSWER, transaction))
    world.engine.run_for(5)
    assert victim.node.counters["group_refused_proof"] == 4, f"seed {seed}"
    assert victim.subring.view().refused >= 4, f"seed {seed}: nothing shows it"
    assert ear.seen == [], f"seed {seed}: a refused question was answered"
    assert stranger.id not in victim.subring.edges.peers and ring.whole()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stranger_can_neither_inject_nor_tell_whether_the_group_is_there(seed: int) -> None:
    world, ring, stranger, tag = quiet_group(seed)
    victim = ring.nodes[2]
    ear = Tap(stranger)
    peer = session(world, stranger, victim.node)
    lists = victim.subring.ring.near.lists.successors.copy()
    neighbors = Neighbors(True, stranger.contact(), (), ())
    control = [pack_control(message, Kind.TELL) for message in (neighbors, Leave())]
    routed = Envelope(9, Mode.EXACT, Content.CONTROL, ring.nodes[1].id, victim.id, control[1]).pack()
    answers = []
    for known in (tag, bytes(TAG_BYTES)):
        ear.seen.clear()
        head = bytes((Inner.GROUP,)) + known
        for data in (*control, b""):
            peer.send(head + bytes((Inner.CONTROL,)) + data)
        peer.send(head + bytes((Inner.ROUTED,)) + routed)
        peer.send(head + bytes((Inner.PACKET,)) + bytes(40))
        peer.send(head + bytes((Inner.KEEPALIVE,)))
        world.engine.run_for(2)
        answers.append([plaintext[1 + TAG_BYTES :] for _, plaintext in ear.seen])
    assert answers[0] == answers[1], f"seed {seed}: a tag that is known is answered otherwise than one that is not"
    assert victim.node.counters["group_refused_stranger"] == 5, f"seed {seed}"
    assert victim.node.counters["group_refused_unknown"] == 6, f"seed {seed}"
    assert victim.subring.ring.near.lists.successors == lists and ring.whole(), f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stranger_finds_no_group_without_its_secret_and_no_names_in_what_the_dht_holds(seed: int) -> None:
    world, ring, stranger, _ = quiet_group(seed)
    ear = Tap(stranger)
    alone = stranger.groups.join("studio", secret_of(seed + 1000))
    world.engine.run_for(60)
    assert alone.state is GroupState.ALONE, f"seed {seed}"
    assert ear.seen == [], f"seed {seed}: something of the group reached a stranger"
    held = [record for node in world.nodes for record in node.parts.replicas.store.find(key(ring), world.engine.now)]
    assert held, f"seed {seed}"
    statics = [member.node.identity.static_public for member in ring.nodes]
    for record in held:
        assert b"studio" not in record.raw and not any(static in record.raw for static in statics)


def key(ring: GroupRing) -> int:
    return key_of(ring.nodes[0].subring.right.entry_name)


# Taking rights away


def named(nodes: int, seed: int, *, members: range) -> tuple[World, Authority]:
    """A world whose certificates name the group for some."""
    authority = make_authority(seed, now=START_S)
    rng = Random(f"named {seed}")
    identities = [
        authority.issue(f"n{at}", None, START_S, rng, groups=["studio"] if at in members else []).identity(START_S)
        for at in range(nodes)
    ]
    engine = Engine(seed)
    world = World(engine, Network(engine, Constant(50.0)), identities)
    construct(world, nodes)
    engine.run_for(10)
    return world, authority


def reissue(world: World, authority: Authority, number: int) -> Node:
    """Node `number` is stopped, and started with a new certificate."""
    old = next(node for node in world.nodes if node.identity.member.name == f"n{number}")
    world.leave(old)
    rng = Random(f"reissued {number}")
    world._identities[number] = authority.issue(f"n{number}", None, START_S, rng).identity(START_S)
    return world.start(number)


@pytest.mark.parametrize("seed", SEEDS)
def test_who_is_not_named_can_not_join_and_who_was_is_out_after_a_rekey_for_ever(seed: int) -> None:
    world, authority = named(24, seed, members=range(8))
    with pytest.raises(ValueError, match="--group studio"):
        world.nodes[20].groups.join("studio")
    ring = group(world, world.nodes[:8], None)
    world.engine.run_for(5)
    removed = ring.nodes[3].node
    notice = authority.rekey("studio", START_S)
    for number in (0, 1, 2, 4, 5, 6, 7):
        reissue(world, authority, number)
        world.engine.run_for(1)
    members = [node for node in world.nodes if node.identity.member.granted("studio") == notice.epoch]
    assert len(members) == 7
    ring.nodes = []
    ring.join(*members, removed)
    world.engine.run_until(ring.whole, limit_s=60)  # nobody knows of the rekey yet
    members[2].groups.heed(notice.raw)
    ring.forget(removed)
    took_s = world.engine.run_until(ring.whole, limit_s=30)
    print(f"seed {seed}: out {took_s:.1f} s after the notice came")
    out = removed.groups.named("studio", secret=False)
    assert out is not None and out.state is GroupState.EXPELLED and not out.edges.peers, f"seed {seed}"
    # Neither its own restart nor everybody else's brings it back.
    world.crash(removed)
    again = world.start(3)
    for number in (0, 1, 2):
        world.crash(next(node for node in world.nodes if node.identity.member.name == f"n{number}"))
        world.start(number)
    again.groups._memory._kept.clear()
    again.groups.leave("studio", secret=False)
    again.groups.join("studio")  # it has forgotten that it is out; the others have not
    world.engine.run_for(120)
    for node in world.nodes:
        subring = node.groups.named("studio", secret=False)
        assert subring is None or node is again or again.id not in subring.edges.peers, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_members_that_were_away_during_a_rekey_hear_of_it_before_they_honour_the_old_right(seed: int) -> None:
    world, authority = named(24, seed, members=range(8))
    ring = group(world, world.nodes[:8], None)
    world.engine.run_for(5)
    for member in ring.nodes[3:5]:
        world.crash(member.node)
    notice = authority.rekey("studio", START_S)
    for number in (0, 1, 2, 5, 6, 7):
        reissue(world, authority, number)
        world.engine.run_for(1)
    members = [node for node in world.nodes if node.identity.member.granted("studio") == notice.epoch]
    ring.nodes = []
    ring.join(*members)
    members[0].groups.heed(notice.raw)
    world.engine.run_until(ring.whole, limit_s=60)
    world.engine.run_for(5)
    # Nobody answers who has no right: what the two know, they know from the DHT.
    back = [world.start(number).groups.named("studio", secret=False) for number in (3, 4)]
    world.engine.run_until(lambda: all(each and each.state is GroupState.EXPELLED for each in back), limit_s=30)
    assert all(each is not None and each.notice == notice.raw and not each.edges.peers for each in back), f"seed {seed}"
    assert ring.whole()


def test_newer_entries_do_not_hide_older_ones_however_many_they_are() -> None:
    """Members that were expelled may publish until their certificates end."""
    world, _ = named(12, 1, members=range(12))
    right = CertificateRight(world.nodes[0].identity, "studio")
    replicas = world.nodes[0].parts.replicas
    until = int(world.engine.now) + 600
    for number, node in enumerate(world.nodes):
        value = right.entry(node.contact(), b"", Random(1))
        record = Record.sign(node.identity, right.entry_name, value, 1 if number < 4 else 1 << 60, until)
        replicas.store.offer(record, world.engine.now)
    seen, network = set(), world.nodes[0].identity.network
    for _ in range(60):
        answer = replicas.asked_to_fetch(Fetch(key_of(right.entry_name)), 1)
        assert len(answer.records) == MAX_RECORDS
        seen |= {Record.parse(network, raw, world.engine.now).owner.id for raw in answer.records}
    assert seen == {node.id for node in world.nodes}


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_notices_that_nobody_signed_cost_few_checks_and_are_no_way_in(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, authority = named(20, seed, members=range(4))
    ring = group(world, world.nodes[:4], None)
    world.engine.run_for(5)
    victim, stranger = ring.nodes[0], world.nodes[10]
    peer = session(world, stranger, victim.node)
    true = authority.rekey("studio", START_S).raw
    checks: list[bytes] = []
    parse = EpochNotice.parse

    def checked(network: Authorized, raw: bytes) -> EpochNotice:
        checks.append(raw)
        return parse(network, raw)

    monkeypatch.setattr(EpochNotice, "parse", checked)
    head = bytes((Inner.GROUP,)) + victim.subring.right.tag + bytes((Inner.ADMISSION,))

    def told(notice: bytes) -> None:
        peer.send(head + pack_control(Admit(True, b"", notice), Kind.ASK, 1))

    for number in range(100):
        told(bytes(100))
        told(true[:-1] + bytes((true[-1] ^ (1 + number),)))
    world.engine.run_for(1)
    assert 0 < len(checks) <= NOTICE_CHECK_BURST + 2 * NOTICE_CHECKS_PER_S, f"seed {seed}: {len(checks)} checks"
    assert victim.subring.right.epoch == 0
    world.engine.run_for(5)
    told(true)
    world.engine.run_for(1)
    assert victim.subring.right.epoch == 1, "the authority's own word counts, whoever brings it"
    checks.clear()
    for _ in range(100):
        told(true)
    world.engine.run_for(1)
    assert not checks, "what is known already is not looked at"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_secret_takes_the_place_of_the_old_one_and_the_old_one_never_comes_back(seed: int) -> None:
    world = settled(24, seed)
    ring = group(world, world.nodes[:8], secret_of(seed))
    world.engine.run_for(5)
    removed = ring.nodes[3].node
    ring.forget(removed)
    newer = secret_of(seed, epoch=1)
    subrings = [member.subring for member in ring.nodes]
    for member in ring.nodes:
        assert member.node.groups.join("studio", newer) is member.subring, "what hangs on it stays"
    world.engine.run_until(ring.whole, limit_s=60)
    assert [member.subring for member in ring.nodes] == subrings
    world.engine.run_for(30)
    out = removed.groups.named("studio", secret=True)
    assert out is not None and out.state is GroupState.ALONE and not out.edges.peers, f"seed {seed}"
    with pytest.raises(ValueError, match="epoch 0, and the group's is 1"):
        ring.nodes[0].node.groups.join("studio", secret_of(seed))
    number = next(at for at in range(8) if at != 3)
    world.crash(world.nodes[number])
    again = world.start(number)
    kept = again.groups.named("studio", secret=True)
    assert kept is not None and kept.right.epoch == 1, f"seed {seed}"
