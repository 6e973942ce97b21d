"""A port mapper and its gateway in simulated time: what it asks and offers, when it gives up, when it comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random

import pytest

from dht.host import Endpoint
from shortcuts import portmap_wire as wire
from shortcuts.mapping import NEXT, Event, Method, Route, State
from shortcuts.portmap import ANNOUNCED_S, LIFETIME_S, REFRESH_S, RETRANSMIT_S, RETRY_S, PortMapper
from shortcuts.upnp_wire import UpnpMapping, UpnpRequest
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network

SEED = 6886
PORT = 7077
HOME = Route("192.168.7.1", "192.168.7.2")
PUBLIC = "11.0.0.1"
UPNP_S = 3.0
LONGEST_SEARCH_S = 2 * sum(RETRANSMIT_S) + UPNP_S + 1.0


class FakeGateway:
    """A gateway that speaks what it is told to. `mappings`: client and port behind each external port."""

    def __init__(self, engine: Engine, *speaks: Method) -> None:
        self.engine, self.speaks = engine, set(speaks)
        self.route: Route | str = HOME
        self.address = PUBLIC
        self.refusal = 0
        self.closed = False  # nobody listens on the port: the kernel says so
        self.lifetime_s = LIFETIME_S
        self.started_at = engine.now - 1000.0
        self.mappings: dict[int, tuple[str, int]] = {}
        self.asked: list[tuple[float, str]] = []
        self.answer: Callable[[bytes], None] = lambda datagram: None
        self.announce: Callable[[bytes], None] = lambda datagram: None

    def find(self) -> Route | str:
        return self.route

    def on_answer(self, answered: Callable[[bytes], None]) -> None:
        self.answer = answered

    def on_announcement(self, announced: Callable[[bytes], None]) -> None:
        self.announce = announced

    def restart(self, *, announce: bool) -> None:
        self.mappings.clear()
        self.started_at = self.engine.now
        if announce:
            for delay_s in (0.0, 0.25, 0.75, 1.75, 3.75, 7.75, 15.75):  # RFC 6886, section 3.2.1
                self.engine.post(delay_s, lambda: self.announce(b"\0\x80\0\0" + self.epoch() + b"\x0b\0\0\x01"))

    def epoch(self) -> bytes:
        return int(self.engine.now - self.started_at).to_bytes(4, "big")

    def send(self, datagram: bytes) -> None:
        self.asked.append((self.engine.now, "PCP" if datagram[0] else "NAT-PMP"))
        if self.closed:
            self.engine.post(0.001, lambda: self.answer(b""))
        for answer in self.answers(datagram):
            self.engine.post(0.002, lambda answer=answer: self.answer(answer))

    def answers(self, datagram: bytes) -> Iterator[bytes]:
        assert isinstance(self.route, Route)
        version, op = datagram[:2]
        if (Method.PCP if version else Method.NAT_PMP) not in self.speaks:
            if version and Method.NAT_PMP in self.speaks:
                yield b"\0" + bytes((op | 0x80,)) + b"\0\x01" + self.epoch()
            elif not version and Method.PCP in self.speaks:
                yield b"\x02\x80\0\x01" + bytes(20)
        elif version:
            lifetime_s, port = int.from_bytes(datagram[4:8], "big"), int.from_bytes(datagram[40:42], "big")
            self.map(port, lifetime_s)
            head = bytes((2, 0x81, 0, self.refusal)) + min(lifetime_s, self.lifetime_s).to_bytes(4, "big")
            outside = bytes(10) + b"\xff\xff" + Endpoint(self.address, 1).pack()[:4]
            yield head + self.epoch() + bytes(12) + datagram[24:42] + port.to_bytes(2, "big") + outside
        elif op == 0:
            yield b"\0\x80\0" + bytes((self.refusal,)) + self.epoch() + Endpoint(self.address, 1).pack()[:4]
        else:
            lifetime_s, port = int.from_bytes(datagram[8:12], "big"), int.from_bytes(datagram[4:6], "big")
            self.map(port, lifetime_s)
            tail = datagram[4:6] + port.to_bytes(2, "big") + min(lifetime_s, self.lifetime_s).to_bytes(4, "big")
            yield b"\0\x81\0" + bytes((self.refusal,)) + self.epoch() + tail

    def map(self, port: int, lifetime_s: int) -> None:
        assert isinstance(self.route, Route)
        if self.refusal:
            return
        self.mappings.pop(port, None)
        if lifetime_s:
            self.mappings[port] = (self.route.client, port)

    def upnp(self, request: UpnpRequest, done: Callable[[UpnpMapping | str], None]) -> None:
        self.asked.append((self.engine.now, "UPnP"))
        if Method.UPNP not in self.speaks:
            self.engine.post(UPNP_S, done, "the gateway does not answer")
            return
        self.map(request.external_port, request.lifetime_s)
        self.engine.post(0.5, done, UpnpMapping(self.address, request.external_port, self.lifetime_s))


class Scene:
    """A mapper, its gateway, and everything that it offered."""

    def __init__(self, *speaks: Method) -> None:
        print(f"seed {SEED}")
        self.engine = Engine(SEED)
        self.host = Network(self.engine, Constant(0.001)).host()
        self.gateway = FakeGateway(self.engine, *speaks)
        self.offers: list[Endpoint | None] = []
        self.port = PORT
        self.mapper = PortMapper(self.host, self.gateway, lambda: self.port, bytes(32), self.offers.append)

    def begin(self) -> Scene:
        self.mapper.start()
        self.engine.run_for(LONGEST_SEARCH_S)
        return self

    @property
    def offered(self) -> Endpoint | None:
        return self.offers[-1] if self.offers else None


@pytest.mark.parametrize("method", Method)
def test_each_protocol_alone_gives_the_endpoint_and_takes_it_back_at_the_end(method: Method) -> None:
    scene = Scene(method).begin()
    assert scene.offers == [Endpoint(PUBLIC, PORT)]
    status = scene.mapper.status
    assert (status.state, status.method, status.external, status.reason) == (
        State.MAPPED,
        method,
        Endpoint(PUBLIC, PORT),
        "",
    )
    assert scene.gateway.mappings == {PORT: (HOME.client, PORT)}
    scene.mapper.stop()
    scene.engine.run_for(LIFETIME_S)
    assert not scene.gateway.mappings
    assert scene.offers == [Endpoint(PUBLIC, PORT), None]


def test_the_best_protocol_is_asked_first_and_the_others_not_at_all() -> None:
    scene = Scene(*Method).begin()
    assert scene.mapper.status.method is Method.PCP
    assert {kind for _, kind in scene.gateway.asked} == {"PCP"}


@pytest.mark.parametrize("method", Method)
def test_a_mapping_is_renewed_at_half_its_lifetime_or_sooner(method: Method) -> None:
    for lifetime_s, every_s in ((200, 100.0), (LIFETIME_S, REFRESH_S), (1, 10.0)):
        scene = Scene(method)
        scene.gateway.lifetime_s = lifetime_s
        scene.begin()
        before = len(scene.gateway.asked)
        scene.engine.run_for(10.5 * every_s)
        times = sorted({when for when, _ in scene.gateway.asked[before:]})
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(0.9 * every_s <= gap <= every_s + 0.6 for gap in gaps)
        assert len(gaps) >= 9
        assert scene.offers == [Endpoint(PUBLIC, PORT)]


def test_nobody_answers_and_the_questions_grow_rare() -> None:
    scene = Scene().begin()
    assert scene.offers == []
    status = scene.mapper.status
    assert status.state is State.WAITING
    assert status.reason == "PCP: no answer; NAT-PMP: no answer; UPnP: the gateway does not answer"
    assert dict(status.failures)[Method.UPNP] == "the gateway does not answer"
    searches = []
    for _ in range(10):
        before = len(scene.gateway.asked)
        scene.engine.run_for(3600.0)
        searches.append(sum(kind == "UPnP" for _, kind in scene.gateway.asked[before:]))
    assert searches[0] <= 10
    assert searches[-1] <= 3, "in the long run every half an hour"


def test_a_port_that_nobody_listens_on_costs_no_waiting() -> None:
    scene = Scene(Method.UPNP)
    scene.gateway.closed = True
    scene.mapper.start()
    scene.engine.run_for(1.0)
    assert scene.mapper.status.method is Method.UPNP
    assert dict(scene.mapper.status.failures)[Method.PCP] == "the gateway does not speak it"


def test_a_gateway_that_speaks_the_other_protocol_of_the_port_costs_no_waiting() -> None:
    scene = Scene(Method.NAT_PMP)
    scene.mapper.start()
    scene.engine.run_for(0.2)
    assert scene.mapper.status.method is Method.NAT_PMP


def test_a_refusal_is_reported_in_the_gateway_s_words() -> None:
    scene = Scene(Method.PCP, Method.NAT_PMP)
    scene.gateway.refusal = 2
    scene.begin()
    assert scene.mapper.status.reason == (
        "PCP: refused: not authorized; NAT-PMP: refused: not authorized; UPnP: the gateway does not answer"
    )


@pytest.mark.parametrize("method", Method)
def test_behind_two_nats_nothing_is_offered_and_the_reason_is_named(method: Method) -> None:
    scene = Scene(method)
    scene.gateway.address = "100.64.7.7"
    scene.begin()
    assert scene.offers == []
    assert not scene.gateway.mappings, "a mapping that leads nowhere is deleted"
    assert "another NAT before the gateway" in scene.mapper.status.reason
    assert "100.64.7.7" in scene.mapper.status.reason


@pytest.mark.parametrize("method", [Method.PCP, Method.NAT_PMP])
def test_a_restart_that_is_announced_is_undone_at_once(method: Method) -> None:
    scene = Scene(method).begin()
    scene.gateway.restart(announce=True)
    scene.engine.run_for(2.0)
    assert PORT in scene.gateway.mappings
    assert scene.mapper.counters["portmap_gateway_restarted"] == 1
    assert scene.offers == [Endpoint(PUBLIC, PORT)]


@pytest.mark.parametrize("method", Method)
def test_a_restart_without_a_word_is_undone_within_minutes(method: Method) -> None:
    scene = Scene(method).begin()
    scene.gateway.restart(announce=False)
    scene.engine.run_for(REFRESH_S + 1.0)
    assert PORT in scene.gateway.mappings


def test_a_new_external_address_is_offered_when_it_is_noticed() -> None:
    scene = Scene(Method.NAT_PMP).begin()
    scene.gateway.address = "11.0.0.9"
    scene.engine.run_for(REFRESH_S + 1.0)
    assert scene.offered == Endpoint("11.0.0.9", PORT)


def test_announcements_without_end_are_heeded_once_in_ten_seconds() -> None:
    scene = Scene(Method.NAT_PMP).begin()
    before = len(scene.gateway.asked)
    for number in range(6000):
        scene.engine.post(number / 100, scene.gateway.announce, b"\0\x80\0\0" + bytes(4) + b"\x0b\0\0\x01")
    scene.engine.run_for(60.0)
    assert len(scene.gateway.asked) - before <= 2 * (60.0 / ANNOUNCED_S + 1)
    assert scene.offered == Endpoint(PUBLIC, PORT)


def test_a_gateway_that_falls_silent_is_given_up_and_found_again() -> None:
    scene = Scene(Method.PCP).begin()
    scene.gateway.speaks.clear()
    scene.engine.run_for(REFRESH_S + sum(RETRANSMIT_S) + LONGEST_SEARCH_S)
    assert scene.offers == [Endpoint(PUBLIC, PORT), None]
    scene.gateway.speaks.add(Method.PCP)
    scene.engine.run_for(4 * RETRY_S[0] + LONGEST_SEARCH_S)
    assert scene.offered == Endpoint(PUBLIC, PORT)


def test_after_a_move_the_old_endpoint_is_withdrawn_and_the_new_one_asked_for() -> None:
    scene = Scene(Method.PCP).begin()
    scene.gateway.route = Route("192.168.9.1", "192.168.9.2")
    scene.gateway.address = "11.0.0.9"
    scene.mapper.addresses_changed()
    scene.engine.run_for(2.0)
    assert scene.offers == [Endpoint(PUBLIC, PORT), None, Endpoint("11.0.0.9", PORT)]
    scene.gateway.route = "no IPv4 default route"
    scene.mapper.addresses_changed()
    scene.engine.run_for(2.0)
    assert scene.offered is None
    assert scene.mapper.status.reason == "no IPv4 default route"


def test_a_move_without_a_word_is_noticed_at_the_next_renewal() -> None:
    scene = Scene(Method.PCP).begin()
    scene.port = PORT + 1
    scene.engine.run_for(REFRESH_S + 2.0)
    assert scene.offered == Endpoint(PUBLIC, PORT + 1)


def test_a_host_with_a_public_address_asks_nobody() -> None:
    scene = Scene(*Method)
    scene.gateway.route = Route("11.0.0.1", "11.0.0.2")
    scene.begin()
    assert not scene.gateway.asked
    assert scene.mapper.status.reason == "no NAT to open: this host's own address 11.0.0.2 is public"


def test_a_mapping_of_somebody_else_or_with_another_nonce_is_not_ours() -> None:
    scene = Scene()
    scene.mapper.start()
    scene.engine.run_for(0.01)
    body = bytes(12) + b"\x11\0\0\0" + PORT.to_bytes(2, "big") + b"\x1b\xa6" + bytes(10) + b"\xff\xff\x0b\0\0\x01"
    scene.gateway.answer(b"\x02\x81\0\0" + (3600).to_bytes(4, "big") + bytes(16) + body)
    assert scene.offers == []


def test_hostile_answers_change_nothing_but_counters() -> None:
    scene = Scene()
    rng = Random(SEED)
    scene.mapper.start()
    good = wire.ask_pcp_mapping(HOME.client, bytes(12), PORT, None, 3600)
    for _ in range(3000):
        scene.engine.run_for(0.003)
        noise = bytearray(good + bytes(rng.randrange(4)) if rng.random() < 0.7 else rng.randbytes(rng.randrange(4, 99)))
        noise[1] |= 0x80
        for _ in range(rng.randrange(4)):
            noise[rng.randrange(2, len(noise))] = rng.randrange(256)
        rng.choice((scene.gateway.answer, scene.gateway.announce))(bytes(noise))
    assert scene.offers == []
    scene.mapper.stop()
    before = len(scene.gateway.asked)
    scene.gateway.answer(bytes(good))
    scene.engine.run_for(4 * RETRY_S[1])
    assert len(scene.gateway.asked) == before, "it has fallen silent"


def test_it_stops_in_every_state_and_starts_again() -> None:
    for delay_s in (0.0, 0.1, 1.0, 5.0, 11.0, 100.0, 302.0):
        scene = Scene(Method.UPNP)
        scene.mapper.start()
        scene.mapper.start()
        scene.engine.run_for(delay_s)
        scene.mapper.stop()
        scene.mapper.stop()
        assert scene.mapper.status.state is State.STOPPED
        assert scene.offered is None
        scene.mapper.start()
        scene.engine.run_for(LONGEST_SEARCH_S)
        assert scene.offered == Endpoint(PUBLIC, PORT)


def test_every_state_can_be_left_and_stopped() -> None:
    assert {state for state, _ in NEXT} == set(State)
    assert set(NEXT.values()) == set(State)
    running = set(State) - {State.STOPPED}
    assert {state for state, event in NEXT if event is Event.STOPPED} == running
    assert {state for state, event in NEXT if event is Event.MOVED} == running
