"""The suite without cryptography: as long and as many messages as with the real one, and the same refusals."""

from __future__ import annotations

from copy import copy
from random import Random

import pytest
from cryptography.exceptions import InvalidTag

from dht.errors import BadDatagram
from dht.handshake import Initiation, Payload, Received
from dht.identity import Identity
from dht.suite import NOISE, HandshakeEnd, Suite
from sims.engine import Engine
from sims.figures import GAP_S, members
from sims.latency import Constant
from sims.network import Network
from sims.plain import PLAIN
from sims.world import World

NOW = 1_800_000_000.0
SEED = 5
ALICE, BOB, CAROL = ((bytes((number,)) * 32, bytes((number + 100,)) * 32) for number in range(3))


def ends(suite: Suite) -> tuple[HandshakeEnd, HandshakeEnd]:
    """Alice, who begins, and Bob; with `NOISE` the public keys are derived, so take those."""
    alice, bob = members(2, SEED, suite)
    pairs = [(who.static_private, who.static_public) for who in (alice, bob)]
    begins = suite.initiator(b"prologue", b"p" * 32, pairs[0], b"e" * 32, pairs[1][1])
    return begins, suite.responder(b"prologue", b"p" * 32, pairs[1])


@pytest.mark.parametrize("size", [0, 1, 200, 1000])
def test_handshake_messages_are_as_long_as_the_real_ones(size: int) -> None:
    lengths = []
    for suite in (NOISE, PLAIN):
        alice, bob = ends(suite)
        first = alice.write(b"x" * size)
        assert bob.read(first) == b"x" * size
        bob.use_ephemeral(b"f" * 32)
        second = bob.write(b"y" * size)
        assert alice.read(second) == b"y" * size
        assert alice.complete and bob.complete and alice.split() == bob.split()
        assert alice.split()[0] != alice.split()[1]
        lengths.append((len(first), len(second)))
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("suite", [NOISE, PLAIN], ids=["real", "plain"])
def test_what_is_for_somebody_else_is_refused_by_both_suites(suite: Suite) -> None:
    alice, bob = ends(suite)
    first = alice.write(b"hello")
    stranger = suite.responder(b"prologue", b"p" * 32, (CAROL[0], CAROL[1]))
    with pytest.raises(BadDatagram):
        stranger.read(first)
    for cut in (0, 31, 95, len(first) - 1):
        with pytest.raises(BadDatagram):
            copy(bob).read(first[:cut])
    bob.read(first)
    bob.use_ephemeral(b"f" * 32)
    second = bob.write(b"welcome")
    other, _ = ends(suite)
    again = suite.initiator(b"prologue", b"p" * 32, (ALICE[0], ALICE[1]), b"g" * 32, BOB[1])
    again.write(b"")
    with pytest.raises(BadDatagram):
        again.read(second)
    assert other is not alice and alice.read(second) == b"welcome"


@pytest.mark.parametrize("suite", [NOISE, PLAIN], ids=["real", "plain"])
@pytest.mark.parametrize("size", [0, 40, 1400])
def test_sealed_data_opens_under_its_key_only_and_is_sixteen_bytes_longer(suite: Suite, size: int) -> None:
    ours, other = suite.aead(b"k" * 32, False), suite.aead(b"l" * 32, False)
    sealed = ours.encrypt(bytes(12), b"d" * size, None)
    assert len(sealed) == size + 16
    assert suite.aead(b"k" * 32, False).decrypt(bytes(12), sealed, None) == b"d" * size
    for wrong in (sealed[:-1], sealed[:10], b""):
        with pytest.raises(InvalidTag):
            ours.decrypt(bytes(12), wrong, None)
    with pytest.raises(InvalidTag):
        other.decrypt(bytes(12), sealed, None)


def shake_hands(suite: Suite, full: bool) -> tuple[bytes, bytes, bytes]:
    """Both datagrams of a handshake of two identities, and a transport datagram after it."""
    alice, bob = members(2, SEED, suite)
    rng = Random(SEED)

    def payload(who: Identity) -> Payload:
        certificate = (who.member.certificate, who.static_signature) if full else (b"", b"")
        return Payload(*certificate, counter=7, instance=9, clock=NOW)

    begun, first = Initiation.begin(alice, bob.static_public, 1, payload(alice), rng, NOW)
    received = Received.open(bob, first)
    assert received.static == alice.static_public
    theirs, second = received.respond(bob, 2, payload(bob), rng, NOW)
    _, ours = begun.finish(second, NOW)
    sealed = ours.seal(b"a packet")
    assert theirs.open(sealed) == b"a packet"
    with pytest.raises(BadDatagram):
        theirs.open(sealed)  # twice
    return first, second, sealed


@pytest.mark.parametrize("full", [True, False], ids=["full", "compact"])
def test_datagrams_of_the_product_keep_their_lengths_heads_and_macs(full: bool) -> None:
    real, plain = shake_hands(NOISE, full), shake_hands(PLAIN, full)
    assert [len(datagram) for datagram in real] == [len(datagram) for datagram in plain]
    assert [datagram[:8] for datagram in real] == [datagram[:8] for datagram in plain]


def test_a_world_runs_the_same_with_and_without_cryptography() -> None:
    """Joins, records, fingers, a crash, renewed keys: the same datagrams at the same instants."""
    came: list[tuple[str, int, list[int]]] = []
    for suite in (NOISE, PLAIN):
        engine = Engine(SEED)
        world = World(engine, Network(engine, Constant(80.0), loss=0.01), members(16, SEED, suite))
        world.grow(16, gap_s=GAP_S)
        engine.run_for(100.0)
        world.crash(world.nodes[3])
        engine.run_for(60.0)
        came.append((engine.trace_hash, engine.events, [host.sent_bytes for host in world.network.hosts()]))
    assert came[0] == came[1], f"seed {SEED}"
