"""Transport: sealing and opening, and keys that turn over under traffic without losing a packet."""

from __future__ import annotations

import heapq
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from dht.handshake import Initiation, Payload, Received
from dht.identity import Identity
from dht.noise import CipherState
from dht.replay import REJECT_AT, WINDOW
from dht.session import (
    AES_REJECT_AFTER_MESSAGES,
    AES_REKEY_AFTER_MESSAGES,
    FORGET_AFTER_S,
    MAX_AWAITED,
    MAX_PAST,
    OVERHEAD_BYTES,
    REJECT_AFTER_S,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_S,
    REKEY_TIMEOUT_S,
    REKEY_WHEN_RECEIVING_S,
    TRANSPORT,
    Keypair,
    NoKeypair,
    Session,
)
from tests.fuzzing import fuzzed
from tests.identities import START_S, make_identities

NOW = START_S
KEYS = bytes(range(32)), bytes(range(32, 64))

both_ciphers = pytest.mark.parametrize("aes", [True, False], ids=["AES-GCM", "ChaCha20"])


def keypairs(aes: bool = True, number: int = 1, now: float = NOW) -> tuple[Keypair, Keypair]:
    """The initiator's and the responder's keypair of handshake `number`; indices 100 + and 200 + number."""
    forth, back = (bytes(byte ^ number for byte in key) for key in KEYS)
    ours = Keypair(forth, back, aes, 100 + number, 200 + number, now, initiator=True)
    return ours, Keypair(back, forth, aes, 200 + number, 100 + number, now, initiator=False)


def session() -> Session:
    member = make_identities(1, 1)[0].member
    return Session(member, bytes(32))


def opened(end: Session, datagram: bytes, now: float = NOW) -> bytes:
    """What `end` makes of a datagram: finds the keypair by its index, as a node does."""
    index = int.from_bytes(datagram[4:8], "big")
    found = [keypair for keypair in end.keypairs() if keypair.local_index == index]
    if not found:
        raise BadDatagram(f"no keypair {index}")
    return end.open(found[0], datagram, now)


# Keypairs


@both_ciphers
def test_what_one_end_seals_the_other_opens(aes: bool) -> None:
    alice, bob = keypairs(aes)
    for size in (0, 1, 15, 16, 1400, 65000):
        assert bob.open(alice.seal(bytes(size))) == bytes(size)
        assert alice.open(bob.seal(b"x" * size)) == b"x" * size


@both_ciphers
def test_a_datagram_is_laid_out_as_specified(aes: bool) -> None:
    alice, _ = keypairs(aes)
    oracle = CipherState("AESGCM" if aes else "ChaChaPoly", bytes(byte ^ 1 for byte in KEYS[0]))
    for counter in range(300):  # beyond one byte, where byte order shows
        datagram = alice.seal(b"plain")
        assert datagram[:4] == bytes((TRANSPORT, 0, 0, 0))
        assert int.from_bytes(datagram[4:8], "big") == 201
        assert int.from_bytes(datagram[8:16], "big") == counter
        assert len(datagram) == len(b"plain") + OVERHEAD_BYTES
        assert oracle.decrypt(counter, b"", datagram[16:]) == b"plain"


@both_ciphers
def test_every_flipped_bit_and_every_cut_is_refused(aes: bool) -> None:
    alice, bob = keypairs(aes)
    datagram = alice.seal(b"some plaintext")
    for at in range(len(datagram)):
        for bit in range(8):
            altered = bytearray(datagram)
            altered[at] ^= 1 << bit
            with pytest.raises(BadDatagram):
                bob.open(bytes(altered))
        with pytest.raises(BadDatagram):
            bob.open(datagram[:at])
    with pytest.raises(BadDatagram):
        bob.open(datagram + b"\0")
    with pytest.raises(BadDatagram):
        alice.open(datagram)
    assert bob.open(datagram) == b"some plaintext"


def test_a_repeated_datagram_is_refused_and_a_late_one_accepted() -> None:
    alice, bob = keypairs()
    datagrams = [alice.seal(bytes((number % 256,))) for number in range(WINDOW + 2)]
    assert bob.open(datagrams[1]) == b"\1"
    assert bob.open(datagrams[-2])
    assert bob.open(datagrams[0]) == b"\0"
    assert bob.open(datagrams[-1])
    for repeated in (datagrams[0], datagrams[1], datagrams[-1]):
        with pytest.raises(BadDatagram, match="twice"):
            bob.open(repeated)


def test_a_datagram_older_than_the_window_is_refused() -> None:
    alice, bob = keypairs()
    datagrams = [alice.seal(b"") for _ in range(WINDOW + 2)]
    bob.open(datagrams[-1])
    with pytest.raises(BadDatagram, match="late"):
        bob.open(datagrams[0])
    bob.open(datagrams[1])


def test_a_forged_counter_does_not_close_the_window() -> None:
    alice, bob = keypairs()
    true = alice.seal(b"true")
    with pytest.raises(BadDatagram):
        bob.open(true[:8] + (REJECT_AT - 1).to_bytes(8, "big") + true[16:])
    assert bob.open(true) == b"true"


@both_ciphers
def test_keys_wear_out(aes: bool) -> None:
    alice, bob = keypairs(aes)
    rekey = AES_REKEY_AFTER_MESSAGES if aes else REKEY_AFTER_MESSAGES
    reject = AES_REJECT_AFTER_MESSAGES if aes else REJECT_AT
    alice.sent = rekey - 1
    assert (alice.worn, alice.spent) == (False, False)
    assert bob.open(alice.seal(b"x")) == b"x"
    assert (alice.worn, alice.spent) == (True, False)
    alice.sent = reject - 1
    assert bob.open(alice.seal(b"last")) == b"last"
    assert (alice.worn, alice.spent) == (True, True)
    with pytest.raises(NoKeypair):
        alice.seal(b"one too many")


@fuzzed()
@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_any_bytes_are_refused(body: bytes, with_head: bool, aes: bool) -> None:
    _, bob = keypairs(aes)
    with pytest.raises(BadDatagram):
        bob.open(bytes((TRANSPORT, 0, 0, 0, 0, 0, 0, 201)) + body if with_head else body)


# Rotation


def test_an_initiator_seals_at_once_and_a_responder_when_it_heard_the_initiator() -> None:
    alice, bob = session(), session()
    ours, theirs = keypairs()
    bob.install(theirs)
    assert not bob.can_seal(NOW)
    with pytest.raises(NoKeypair):
        bob.seal(b"too early", NOW)
    alice.install(ours)
    assert alice.can_seal(NOW)
    assert opened(bob, alice.seal(b"", NOW)) == b""
    assert bob.can_seal(NOW)
    assert opened(alice, bob.seal(b"now", NOW)) == b"now"


def test_a_session_without_keys_cannot_seal() -> None:
    empty = session()
    assert not empty.can_seal(NOW)
    assert not empty.wants_rekey(NOW)
    assert (empty.keypairs(), empty.indices()) == ((), ())
    with pytest.raises(NoKeypair):
        empty.seal(b"", NOW)


def established(aes: bool = True) -> tuple[Session, Session]:
    alice, bob = session(), session()
    ours, theirs = keypairs(aes)
    alice.install(ours)
    bob.install(theirs)
    opened(bob, alice.seal(b"", NOW))
    return alice, bob


def test_a_responder_keeps_the_old_keys_until_the_new_ones_are_confirmed() -> None:
    alice, bob = established()
    ours, theirs = keypairs(number=2)
    bob.install(theirs)
    assert opened(alice, bob.seal(b"old", NOW)) == b"old"
    assert opened(bob, alice.seal(b"old", NOW)) == b"old"
    in_flight = [bob.seal(b"in flight", NOW), alice.seal(b"in flight", NOW)]
    alice.install(ours)
    assert opened(bob, alice.seal(b"new", NOW)) == b"new"
    assert bob.seal(b"", NOW)[4:8] == (102).to_bytes(4, "big")
    assert opened(alice, in_flight[0]) == opened(bob, in_flight[1]) == b"in flight"


def test_an_unanswered_handshake_changes_nothing() -> None:
    alice, bob = established()
    for number in range(2, 50):
        bob.install(keypairs(number=number)[1])
        assert opened(alice, bob.seal(b"x", NOW)) == b"x"
        assert opened(bob, alice.seal(b"y", NOW)) == b"y"
    assert len(bob.keypairs()) == 1 + MAX_AWAITED


@pytest.mark.parametrize("answer", [2, 3, 4])
def test_an_initiator_may_take_the_answer_to_any_of_its_tries(answer: int) -> None:
    alice, bob = established()
    tries = {number: keypairs(number=number) for number in (2, 3, 4)}
    for _, theirs in tries.values():
        bob.install(theirs)
    alice.install(tries[answer][0])
    assert opened(bob, alice.seal(b"x", NOW)) == b"x"
    assert opened(alice, bob.seal(b"y", NOW)) == b"y"
    assert bob.seal(b"", NOW)[4:8] == (100 + answer).to_bytes(4, "big")


def test_answers_to_two_tries_may_be_taken_one_after_the_other() -> None:
    alice, bob = established()
    tries = [keypairs(number=number) for number in (2, 3)]
    for _, theirs in tries:
        bob.install(theirs)
    for number, (ours, _) in enumerate(tries):
        alice.install(ours)
        assert opened(bob, alice.seal(b"x", NOW)) == b"x"
        assert bob.seal(b"", NOW)[4:8] == (102 + number).to_bytes(4, "big")


@pytest.mark.parametrize("order", ["alice first", "bob first"])
@pytest.mark.parametrize("established_before", [True, False])
def test_both_ends_may_initiate_at_once(order: str, established_before: bool) -> None:
    alice, bob = established() if established_before else (session(), session())
    by_alice, by_bob = keypairs(number=2), keypairs(number=3)
    in_flight = [alice.seal(b"x", NOW), bob.seal(b"x", NOW)] if established_before else []
    # Both initiations arrive; both answer.
    alice.install(by_bob[1])
    bob.install(by_alice[1])
    # Both responses arrive, in either order, with traffic between.
    steps = [(alice, by_alice[0], bob), (bob, by_bob[0], alice)]
    for end, keypair, other in steps if order == "alice first" else steps[::-1]:
        end.install(keypair)
        assert opened(other, end.seal(b"new", NOW)) == b"new"
        if other.can_seal(NOW):
            assert opened(end, other.seal(b"back", NOW)) == b"back"
    for _ in range(3):
        assert opened(bob, alice.seal(b"there", NOW)) == b"there"
        assert opened(alice, bob.seal(b"back", NOW)) == b"back"
    if in_flight:
        assert opened(bob, in_flight[0]) == opened(alice, in_flight[1]) == b"x"


def test_both_may_initiate_at_once_and_hear_each_other_only_after_both_finished() -> None:
    alice, bob = established()
    by_alice, by_bob = keypairs(number=2), keypairs(number=3)
    old = alice.seal(b"old", NOW), bob.seal(b"old", NOW)
    alice.install(by_bob[1])
    bob.install(by_alice[1])
    alice.install(by_alice[0])
    bob.install(by_bob[0])
    assert opened(bob, alice.seal(b"a", NOW)) == b"a"
    assert opened(alice, bob.seal(b"b", NOW)) == b"b"
    assert opened(bob, old[0]) == opened(alice, old[1]) == b"old"


def test_keys_are_refused_after_180_s_both_ways() -> None:
    alice, bob = established()
    early, late = alice.seal(b"x", NOW), alice.seal(b"x", NOW + REJECT_AFTER_S - 0.01)
    assert opened(bob, early, NOW + REJECT_AFTER_S - 0.01) == b"x"
    with pytest.raises(BadDatagram, match="old"):
        opened(bob, late, NOW + REJECT_AFTER_S)
    assert not alice.can_seal(NOW + REJECT_AFTER_S)
    with pytest.raises(NoKeypair):
        alice.seal(b"x", NOW + REJECT_AFTER_S)


def test_the_initiator_renews_after_120_s_when_sending_and_165_s_when_receiving() -> None:
    alice, bob = established()
    assert not alice.wants_rekey(NOW + REKEY_AFTER_S - 0.01)
    assert alice.wants_rekey(NOW + REKEY_AFTER_S)
    assert not alice.wants_rekey(NOW + REKEY_WHEN_RECEIVING_S - 0.01, receiving=True)
    assert alice.wants_rekey(NOW + REKEY_WHEN_RECEIVING_S, receiving=True)
    assert REKEY_WHEN_RECEIVING_S == 165
    for age_s in (0.0, REKEY_AFTER_S, REKEY_WHEN_RECEIVING_S, REJECT_AFTER_S):
        assert not bob.wants_rekey(NOW + age_s), "the responder leaves it to the initiator"


def test_either_end_renews_worn_keys() -> None:
    alice, bob = established()
    for end in (alice, bob):
        end.keypairs()[0].sent = AES_REKEY_AFTER_MESSAGES
        assert end.wants_rekey(NOW)


def test_an_initiator_does_not_renew_what_the_peer_is_renewing() -> None:
    alice, _ = established()
    later = NOW + REKEY_AFTER_S
    alice.install(keypairs(number=2, now=later)[1])
    assert not alice.wants_rekey(later + REKEY_TIMEOUT_S - 0.1)
    assert alice.wants_rekey(later + REKEY_TIMEOUT_S)


def test_keys_are_dropped_when_they_can_serve_no_more() -> None:
    alice, _ = established()
    alice.install(keypairs(number=2, now=NOW + 100)[0])
    alice.install(keypairs(number=3, now=NOW + 100)[1])
    assert alice.indices() == (102, 203, 101)
    alice.forget(NOW + REJECT_AFTER_S)
    assert alice.indices() == (102, 203)
    alice.forget(NOW + 100 + REJECT_AFTER_S)
    assert alice.indices() == (102,)
    alice.forget(NOW + 100 + FORGET_AFTER_S - 0.1)
    assert alice.indices() == (102,)
    alice.forget(NOW + 100 + FORGET_AFTER_S)
    assert alice.indices() == ()


def test_renewing_forever_keeps_few_keys() -> None:
    alice, bob = established()
    for number in range(2, 30):
        now = NOW + (number - 1) * REKEY_AFTER_S
        ours, theirs = keypairs(number=number, now=now)
        bob.install(theirs)
        alice.install(ours)
        opened(bob, alice.seal(b"", now), now)
        assert len(alice.keypairs()) == len(bob.keypairs()) == 2
    for number in range(30, 100):
        alice.install(keypairs(number=number, now=now)[number % 2])
        assert len(alice.keypairs()) <= 1 + MAX_AWAITED + MAX_PAST


# Rekeying under traffic


class Traffic:
    """Two sessions, a path with random delays (so with reordering), packets both ways, real handshakes."""

    def __init__(self, seed: int, delay_s: tuple[float, float], loss_of_handshakes: float) -> None:
        self.rng, self.delay_s, self.loss = Random(seed), delay_s, loss_of_handshakes
        self.identities: list[Identity] = make_identities(2, seed)
        self.sessions = [
            Session(self.identities[1 - end].member, self.identities[1 - end].static_public) for end in (0, 1)
        ]
        self.initiations: list[dict[int, Initiation]] = [{}, {}]
        self.events: list[tuple[float, int, int, bytes]] = []
        self.number, self.sent, self.received, self.renewals = 0, 0, 0, 0

    def send(self, to: int, datagram: bytes, now: float) -> None:
        if datagram[0] != TRANSPORT and self.rng.random() < self.loss:
            return
        self.number += 1
        heapq.heappush(self.events, (now + self.rng.uniform(*self.delay_s), self.number, to, datagram))

    def initiate(self, end: int, now: float) -> None:
        index = self.rng.getrandbits(32)
        identity, peer = self.identities[end], self.identities[1 - end]
        initiation, datagram = Initiation.begin(
            identity, peer.static_public, index, Payload(aes=True), self.rng, now, None
        )
        self.initiations[end][index] = initiation
        self.send(1 - end, datagram, now)

    def packet(self, end: int, now: float) -> None:
        if self.sessions[end].can_seal(now):
            self.sent += 1
            self.send(1 - end, self.sessions[end].seal(b"packet", now), now)

    def receive(self, end: int, datagram: bytes, now: float) -> None:
        session = self.sessions[end]
        match datagram[0]:
            case 0x11:
                received = Received.open(self.identities[end], datagram)
                index = self.rng.getrandbits(32)
                keypair, response = received.respond(self.identities[end], index, Payload(aes=True), self.rng, now)
                session.install(keypair)
                self.send(1 - end, response, now)
            case 0x12:
                initiation = self.initiations[end].get(int.from_bytes(datagram[8:12], "big"))
                if initiation is not None:
                    self.initiations[end].clear()  # the first answer to any try ends the attempt
                    session.install(initiation.finish(datagram, now)[1])
                    self.renewals += 1
                    self.packet(end, now)  # proves the keys
            case _:
                assert opened(session, datagram, now) == b"packet"
                self.received += 1

    def run(self, duration_s: float, actions: list[tuple[float, int]]) -> None:
        """Handshakes begin as `actions` say (time, end); a packet goes each way every 5 ms."""
        ticks = [(at / 1000, end, False) for at in range(0, int(duration_s * 1000), 5) for end in (0, 1)]
        plan = sorted(ticks + [(at, end, True) for at, end in actions])
        for at, end, is_handshake in plan:
            self.deliver_until(NOW + at)
            if is_handshake:
                self.initiate(end, NOW + at)
            else:
                self.packet(end, NOW + at)
        self.deliver_until(NOW + duration_s + 10)

    def deliver_until(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            now, _, end, datagram = heapq.heappop(self.events)
            self.receive(end, datagram, now)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("who", ["one end", "the ends in turn", "both at once", "both nearly at once"])
def test_renewing_keys_under_traffic_loses_nothing(who: str, seed: int) -> None:
    print("seed", seed)
    world = Traffic(seed, delay_s=(0.01, 0.2), loss_of_handshakes=0.0)
    rng = Random(seed)
    actions = [(0.0, 0)]
    for number in range(1, 10):
        at = number * 0.7
        match who:
            case "one end":
                actions.append((at, 0))
            case "the ends in turn":
                actions.append((at, number % 2))
            case "both at once":
                actions += [(at, 0), (at, 1)]
            case "both nearly at once":
                actions += [(at, 0), (at + rng.uniform(0, 0.3), 1)]
    world.run(7.0, actions)
    assert world.renewals >= 10
    assert world.sent == world.received > 2000


@pytest.mark.parametrize("seed", range(4))
def test_renewing_with_lost_and_repeated_handshakes_loses_nothing(seed: int) -> None:
    print("seed", seed)
    world = Traffic(seed, delay_s=(0.2, 0.5), loss_of_handshakes=0.3)
    # Repeated sooner than answers come: an answer to an earlier try is taken.
    actions = [(at + again * 0.4, end) for at, end in ((0.0, 0), (3.0, 1), (6.0, 0), (9.0, 1)) for again in range(3)]
    world.run(12.0, actions)
    assert world.renewals >= 2
    assert world.sent == world.received > 2000


def test_a_flood_of_initiations_does_not_disturb_a_session() -> None:
    alice, bob = established()
    for number in range(2, 250):
        bob.install(keypairs(number=number)[1])
        assert opened(bob, alice.seal(b"x", NOW)) == b"x"
    assert opened(alice, bob.seal(b"x", NOW)) == b"x"
