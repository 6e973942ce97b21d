"""Members find each other on a link; strangers read nothing, provoke nothing, and can't make anybody talk much."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.contact import MAX_ENDPOINTS, Contact
from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.ids import id_bytes
from shortcuts.lan import (
    ANSWER_BURST,
    ANSWER_HZ,
    ANSWER_LIMIT_S,
    MAX_ASKERS,
    MAX_HEARD,
    PERIOD_S,
    REMEMBER_S,
    LanDiscovery,
    Place,
)
from shortcuts.lan_wire import DATAGRAM_BYTES, LanAnswer, LanCipher, LanQuestion
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from tests.fuzzing import addresses, fuzzed
from tests.identities import make_network

SEED = 224
STRANGER = Place("192.0.2.99", 9999)
SETTLED_S = 6.0


class Wire:
    """A link in memory. `sent`: who sent what to whom; None means everybody."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.links: dict[Place, FakeLink] = {}
        self.sent: list[tuple[Place, Place | None, bytes]] = []

    def carry(self, source: Place, to: Place | None, datagram: bytes) -> None:
        self.sent.append((source, to, datagram))
        for place, link in self.links.items():
            if to in (None, place):
                self.engine.post(0.001, link.deliver, datagram, source)

    def answers_to(self, place: Place) -> list[bytes]:
        return [datagram for _, to, datagram in self.sent if to == place]


class FakeLink:
    def __init__(self, wire: Wire, place: Place) -> None:
        self.wire, self.place = wire, place
        self.refreshed = 0
        self.deliver: Callable[[bytes, Place], None] = lambda datagram, place: None
        wire.links[place] = self

    def ask(self, datagram: bytes) -> None:
        self.wire.carry(self.place, None, datagram)

    def answer(self, to: Place, datagram: bytes) -> None:
        self.wire.carry(self.place, to, datagram)

    def on_receive(self, received: Callable[[bytes, Place], None]) -> None:
        self.deliver = received

    def refresh(self) -> None:
        self.refreshed += 1


class Scene:
    """Members of one network on one link, and whom each has heard."""

    def __init__(self, count: int, networks: tuple[int, ...] = (1,)) -> None:
        print(f"seed {SEED}")
        self.engine = Engine(SEED)
        self.network = Network(self.engine, Constant(1.0))
        self.wire = Wire(self.engine)
        self.members: list[LanDiscovery] = []
        self.contacts: list[Contact] = []
        self.heard: list[list[Contact]] = []
        for number in range(count):
            self.add(networks[number % len(networks)])

    def add(self, network: int = 1) -> LanDiscovery:
        number = len(self.members)
        address = f"192.0.2.{number + 1}"
        contact = Contact(number + 1, bytes((number,)) * 32, (Endpoint("198.51.100.7", 7), Endpoint(address, 7000)))
        heard: list[Contact] = []
        link = FakeLink(self.wire, Place(address, 40000))
        member = LanDiscovery(self.network.host(), link, make_network(network), lambda: contact, heard.append)
        self.members.append(member)
        self.contacts.append(contact)
        self.heard.append(heard)
        return member

    def begin(self) -> Scene:
        for member in self.members:
            member.start()
        self.engine.run_for(SETTLED_S)
        return self

    def ids_heard(self, number: int) -> set[int]:
        return {contact.id for contact in self.heard[number]}


def test_all_members_on_a_link_hear_of_each_other() -> None:
    scene = Scene(5).begin()
    for number, contact in enumerate(scene.contacts):
        assert scene.ids_heard(number) == {other.id for other in scene.contacts if other is not contact}


def test_the_address_on_this_link_comes_first() -> None:
    scene = Scene(2).begin()
    assert scene.heard[0][0].endpoints == (Endpoint("192.0.2.2", 7000), Endpoint("198.51.100.7", 7))
    assert scene.heard[0][0].static == scene.contacts[1].static


def test_networks_that_share_a_link_do_not_notice_each_other() -> None:
    scene = Scene(4, networks=(1, 2)).begin()
    assert scene.ids_heard(0) == {3}
    assert scene.ids_heard(1) == {4}


def test_one_who_comes_later_is_answered_and_the_others_stay_calm() -> None:
    scene = Scene(3).begin()
    scene.engine.run_for(4 * PERIOD_S)
    before = len(scene.wire.sent)
    scene.engine.run_for(10 * PERIOD_S)
    sent = scene.wire.sent[before:]
    assert not [to for _, to, _ in sent if to is not None], "who knows each other only asks"
    assert len(sent) <= 3 * 10 / 0.75 + 3
    newcomer = scene.add()
    newcomer.start()
    scene.engine.run_for(SETTLED_S)
    assert scene.ids_heard(3) == {1, 2, 3}


def test_a_change_of_address_asks_anew_and_is_answered() -> None:
    scene = Scene(2).begin()
    scene.heard[0].clear()
    scene.members[0].addresses_changed()
    scene.engine.run_for(SETTLED_S)
    assert scene.ids_heard(0) == {2}


def test_one_who_lost_everybody_may_seek_again_but_not_all_the_time() -> None:
    scene = Scene(2).begin()
    scene.engine.run_for(60.0)
    scene.heard[0].clear()
    before = len(scene.wire.sent)
    for _ in range(100):
        scene.members[0].seek()
        scene.engine.run_for(0.1)
    assert scene.ids_heard(0) == {2}
    assert len(scene.wire.sent) - before <= 8


def test_all_that_is_sent_is_noise_of_one_length_to_a_stranger() -> None:
    scene = Scene(4).begin()
    datagrams = [datagram for _, _, datagram in scene.wire.sent]
    assert {len(datagram) for datagram in datagrams} == {DATAGRAM_BYTES}
    for at in range(0, DATAGRAM_BYTES - 4, 4):
        assert len({datagram[at : at + 4] for datagram in datagrams}) >= len(datagrams) - 1, f"a pattern at {at}"
    everything = b"".join(datagrams)
    for contact in scene.contacts:
        for told in (id_bytes(contact.id), contact.static, *(each.pack() for each in contact.endpoints)):
            assert told not in everything
    for datagram in datagrams:
        with pytest.raises(BadDatagram, match="outside the network"):
            LanCipher(make_network(2)).open(datagram)


def test_a_stranger_provokes_no_answer_with_noise_or_with_what_it_captured() -> None:
    scene = Scene(3).begin()
    captured = [datagram for _, _, datagram in scene.wire.sent]
    rng = Random(SEED)
    for _ in range(3):
        for datagram in (*captured, *(rng.randbytes(DATAGRAM_BYTES) for _ in captured)):
            scene.wire.carry(STRANGER, None, datagram)
            scene.engine.run_for(0.05)
    assert scene.wire.answers_to(STRANGER) == []
    assert scene.members[0].counters["lan_bad_datagram"] > 0
    assert scene.members[0].counters["lan_repeated"] > 0


def test_what_was_captured_before_a_member_came_provokes_it_no_more_than_others() -> None:
    """It never heard those questions, but by the answers it knows which of them are over."""
    scene = Scene(2).begin()
    captured = [datagram for _, _, datagram in scene.wire.sent]
    scene.add().start()
    scene.engine.run_for(0.5)
    assert scene.ids_heard(2) == {1, 2}
    for datagram in captured:
        scene.wire.carry(STRANGER, None, datagram)
        scene.engine.run_for(0.5)
    assert scene.wire.answers_to(STRANGER) == []


def test_a_captured_answer_tells_nobody_anything_twice() -> None:
    scene = Scene(2).begin()
    answers = [(to, datagram) for _, to, datagram in scene.wire.sent if to is not None]
    for heard in scene.heard:
        heard.clear()
    scene.engine.run_for(ANSWER_LIMIT_S + 1.0)
    for to, datagram in answers:
        assert to is not None
        scene.wire.links[to].deliver(datagram, STRANGER)
    assert scene.heard == [[], []]


def test_a_member_that_asks_without_end_gets_so_many_answers_and_no_more() -> None:
    scene = Scene(1).begin()
    cipher, rng = LanCipher(make_network(1)), Random(SEED)
    seconds = 20
    for sequence in range(seconds * 50):
        question = LanQuestion(99, 1 << 60 | sequence, rng.randbytes(12), True)
        scene.wire.carry(STRANGER, None, cipher.seal(question, rng.randbytes(12)))
        scene.engine.run_for(0.02)
    assert 0 < len(scene.wire.answers_to(STRANGER)) <= ANSWER_BURST + ANSWER_HZ * seconds + 1


def test_members_without_number_fill_no_memory() -> None:
    scene = Scene(1).begin()
    cipher, rng = LanCipher(make_network(1)), Random(SEED)
    for number in range(4 * MAX_ASKERS):
        scene.wire.carry(STRANGER, None, cipher.seal(LanQuestion(1000 + number, 1, bytes(12), True), rng.randbytes(12)))
        scene.engine.run_for(0.02)
    assert len(scene.members[0]._askers) <= MAX_ASKERS
    scene.engine.run_for(REMEMBER_S + 1.0)
    scene.wire.carry(STRANGER, None, cipher.seal(LanQuestion(7, 1, bytes(12), True), rng.randbytes(12)))
    scene.engine.run_for(1.0)
    assert len(scene.members[0]._askers) == 1


def test_of_a_flood_of_answers_so_many_are_heard() -> None:
    scene = Scene(1)
    scene.members[0].start()
    scene.engine.run_for(0.5)
    cipher, rng = LanCipher(make_network(1)), Random(SEED)
    question = cipher.open(scene.wire.sent[-1][2])
    for number in range(150):
        contact = Contact(500 + number, bytes(32), ())
        scene.wire.carry(
            STRANGER, Place("192.0.2.1", 40000), cipher.seal(LanAnswer(0, question.token, contact), rng.randbytes(12))
        )
    scene.engine.run_for(0.4)
    assert len(scene.heard[0]) == MAX_HEARD


def test_a_flood_of_noise_is_not_even_opened() -> None:
    scene = Scene(1).begin()
    for _ in range(5000):
        scene.members[0]._received(bytes(DATAGRAM_BYTES), STRANGER)
    assert scene.members[0].counters["lan_bad_datagram"] <= 200
    assert scene.members[0].counters["lan_over_rate"] >= 4800


def test_who_has_stopped_is_silent() -> None:
    scene = Scene(2).begin()
    scene.members[0].stop()
    before = len(scene.wire.sent)
    scene.members[1].addresses_changed()
    scene.engine.run_for(4 * PERIOD_S)
    assert {source.address for source, _, _ in scene.wire.sent[before:]} == {"192.0.2.2"}
    scene.members[0].seek()
    scene.members[0].addresses_changed()


nonces = st.binary(min_size=12, max_size=12)
endpoints = st.builds(Endpoint, addresses, st.integers(1, 65535))
questions = st.builds(LanQuestion, st.integers(0, (1 << 160) - 1), st.integers(0, (1 << 64) - 1), nonces, st.booleans())
contacts = st.builds(
    Contact,
    st.integers(0, (1 << 160) - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(endpoints, max_size=MAX_ENDPOINTS).map(tuple),
)
CIPHER = LanCipher(make_network(1))


@given(st.one_of(questions, st.builds(LanAnswer, st.integers(0, (1 << 64) - 1), nonces, contacts)), nonces)
@fuzzed()
def test_what_is_sealed_is_what_is_opened(message: LanQuestion | LanAnswer, nonce: bytes) -> None:
    datagram = CIPHER.seal(message, nonce)
    assert len(datagram) == DATAGRAM_BYTES
    assert CIPHER.open(datagram) == message


@given(st.binary(max_size=400))
@fuzzed()
def test_noise_is_refused(noise: bytes) -> None:
    for datagram in (noise, noise.ljust(DATAGRAM_BYTES)[:DATAGRAM_BYTES]):
        with pytest.raises(BadDatagram):
            CIPHER.open(datagram)


@given(st.binary(min_size=192, max_size=192), nonces, st.integers(0, 3))
@fuzzed()
def test_a_member_s_nonsense_is_read_or_refused(plaintext: bytes, nonce: bytes, kind: int) -> None:
    with suppress(BadDatagram):
        CIPHER.open(nonce + CIPHER._cipher.encrypt(nonce, bytes((kind,)) + plaintext[1:], None))
