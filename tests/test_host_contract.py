"""What protocol code may rely on, whatever the world: one test body, run on real sockets and in the simulator."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from dht.host import Endpoint, Host
from dht.udp import UdpHost
from sims.engine import Engine
from sims.latency import Constant
from sims.network import Network
from tests.patience import PATIENCE_S

SEED = 20260101
MOMENT_S = 0.05  # enough for a datagram to cross either world


class Stage(Protocol):
    """A world to put hosts into."""

    def host(self) -> Host: ...

    def run(self, duration_s: float, until: Callable[[], bool] = lambda: True) -> None:
        """Let time pass: `duration_s` at least, and on a machine that is busy with something else as much more as it
        takes `until` to hold."""
        ...

    def close(self) -> None: ...


class SimStage:
    def __init__(self, address: str) -> None:
        self._engine = Engine(SEED)
        self._network = Network(self._engine, Constant(rtt_ms=10.0))
        self._address = address
        self._next_port = 7000

    def host(self) -> Host:
        self._next_port += 1
        return self._network.host(Endpoint(self._address, self._next_port))

    def run(self, duration_s: float, until: Callable[[], bool] = lambda: True) -> None:
        self._engine.run_for(duration_s)

    def close(self) -> None:
        pass


class UdpStage:
    def __init__(self, address: str) -> None:
        self._address = address
        self._runner = asyncio.Runner()
        self._hosts: list[UdpHost] = []

    def host(self) -> Host:
        async def listen() -> UdpHost:
            return UdpHost(Endpoint(self._address, 0))

        host = self._runner.run(listen())
        self._hosts.append(host)
        return host

    def run(self, duration_s: float, until: Callable[[], bool] = lambda: True) -> None:
        async def live() -> None:
            await asyncio.sleep(duration_s)
            for _ in range(20):  # where the machine was too busy for us, a chain of answers may have to catch up
                await asyncio.sleep(0.001)
            ends = time.monotonic() + PATIENCE_S
            while not until() and time.monotonic() < ends:
                await asyncio.sleep(0.001)

        self._runner.run(live())

    def close(self) -> None:
        for host in self._hosts:
            host.close()
        self._runner.close()


STAGES: dict[str, Callable[[], Stage]] = {
    "simulated": lambda: SimStage("192.0.2.1"),
    "udp-ipv4": lambda: UdpStage("127.0.0.1"),
    "udp-ipv6": lambda: UdpStage("::1"),
}


def machine_has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param == "udp-ipv6" and not machine_has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    made = STAGES[request.param]()
    try:
        made.host()
        yield made
    finally:
        made.close()


class Mailbox:
    """Keeps what a host receives."""

    def __init__(self, host: Host) -> None:
        self.letters: list[tuple[bytes, Endpoint]] = []
        host.on_receive(lambda datagram, source: self.letters.append((datagram, source)))

    @property
    def datagrams(self) -> list[bytes]:
        return [datagram for datagram, _ in self.letters]

    def arrived(self, count: int) -> Callable[[], bool]:
        """Whether so many letters are here: for `Stage.run`."""
        return lambda: len(self.letters) >= count


def where(host: Host) -> Endpoint:
    (endpoint,) = host.local_endpoints()
    return endpoint


@pytest.mark.parametrize("size", [0, 1, 1200, 1400, 9000, 60_000])
def test_a_datagram_arrives_whole_and_alone(stage: Stage, size: int) -> None:
    alice, bob = stage.host(), stage.host()
    mailbox = Mailbox(bob)
    datagram = alice.rng.randbytes(size)
    alice.send(where(bob), datagram)
    stage.run(MOMENT_S, mailbox.arrived(1))
    assert mailbox.letters == [(datagram, where(alice))]
    assert type(mailbox.letters[0][0]) is bytes


def test_an_answer_comes_from_the_endpoint_that_was_written_to(stage: Stage) -> None:
    alice, bob = stage.host(), stage.host()
    answers = Mailbox(alice)
    bob.on_receive(lambda datagram, source: bob.send(source, b"re: " + datagram))
    alice.send(where(bob), b"hello")
    stage.run(2 * MOMENT_S, answers.arrived(1))
    assert answers.letters == [(b"re: hello", where(bob))]
    source = answers.letters[0][1]
    assert type(source) is Endpoint
    assert Endpoint.parse(source.pack()) == source == Endpoint.from_text(str(source))


def test_a_batch_arrives_in_order(stage: Stage) -> None:
    alice, bob = stage.host(), stage.host()
    mailbox = Mailbox(bob)
    batch = [number.to_bytes(2, "big") * 700 for number in range(100)]
    alice.send_batch(where(bob), batch)
    alice.send(where(bob), b"last")
    stage.run(2 * MOMENT_S, mailbox.arrived(len(batch) + 1))
    assert mailbox.datagrams == [*batch, b"last"]


def test_a_datagram_comes_with_its_traffic_class(stage: Stage) -> None:
    alice, bob = stage.host(), stage.host()
    seen: list[tuple[bytes, int]] = []
    bob.on_receive(lambda datagram, source: seen.append((datagram, bob.received_class)))
    alice.send(where(bob), b"marked", 0xBA)
    alice.send(where(bob), b"plain")
    alice.send_batch(where(bob), [b"one", b"two"], 3)
    assert alice.send_whole(where(bob), b"whole")
    stage.run(2 * MOMENT_S)
    assert seen == [(b"marked", 0xBA), (b"plain", 0), (b"one", 3), (b"two", 3), (b"whole", 0)]


def test_an_empty_batch_sends_nothing(stage: Stage) -> None:
    alice, bob = stage.host(), stage.host()
    mailbox = Mailbox(bob)
    alice.send_batch(where(bob), [])
    stage.run(MOMENT_S)
    assert mailbox.letters == []


def test_nothing_is_called_back_within_the_call_that_caused_it(stage: Stage) -> None:
    host = stage.host()
    seen: list[str] = []
    depth = 0

    def note(what: str) -> None:
        assert depth == 0, f"{what} called back synchronously"
        seen.append(what)

    def busy() -> None:
        nonlocal depth
        depth += 1
        host.send(where(host), b"to myself")
        host.send_batch(where(host), [b"to myself"])
        host.call_later(0.0, lambda: note("timer"))
        host.call_later(-1.0, lambda: note("timer"))
        depth -= 1

    host.on_receive(lambda datagram, source: note("datagram"))
    busy()
    host.call_later(0.0, busy)
    stage.run(2 * MOMENT_S, lambda: len(seen) >= 8)
    assert sorted(seen) == ["datagram"] * 4 + ["timer"] * 4


def test_timers_run_in_the_order_of_their_time(stage: Stage) -> None:
    host = stage.host()
    order: list[float] = []
    delays_s = [0.03, 0.01, 0.05, 0.0, 0.02, 0.04]
    for delay_s in delays_s:
        host.call_later(delay_s, lambda delay_s=delay_s: order.append(delay_s))  # type: ignore[misc]
    stage.run(0.15)
    assert order == sorted(delays_s)


def test_timers_never_run_early(stage: Stage) -> None:
    host = stage.host()
    early_s: list[float] = []
    for delay_s in (0.0, 0.0001, 0.003, 0.0151, 0.04):
        due = host.now() + delay_s
        host.call_later(delay_s, lambda due=due: early_s.append(due - host.now()))  # type: ignore[misc]
    stage.run(0.15)
    assert len(early_s) == 5
    assert max(early_s) < 1e-6  # floats of this size have steps of 0.24 us


def test_timers_of_one_instant_run_in_the_order_they_were_set(stage: Stage) -> None:
    host = stage.host()
    order: list[int] = []
    for number in range(50):
        host.call_later(0.0, lambda number=number: order.append(number))  # type: ignore[misc]
    stage.run(MOMENT_S)
    assert order == list(range(50))


def test_a_cancelled_timer_never_runs(stage: Stage) -> None:
    host = stage.host()
    ran: list[str] = []
    soon = host.call_later(0.0, lambda: ran.append("cancelled at once"))
    soon.cancel()
    later = host.call_later(0.02, lambda: ran.append("cancelled by another timer"))
    host.call_later(0.01, later.cancel)
    twin = host.call_later(0.03, lambda: ran.append("cancelled by its elder twin"))
    host.call_later(0.025, twin.cancel)
    host.call_later(0.04, lambda: ran.append("kept"))
    stage.run(0.15)
    assert ran == ["kept"]


def test_cancelling_again_or_too_late_does_nothing(stage: Stage) -> None:
    host = stage.host()
    ran: list[str] = []
    timer = host.call_later(0.0, lambda: ran.append("once"))
    stage.run(MOMENT_S)
    timer.cancel()
    timer.cancel()
    other = host.call_later(0.0, lambda: ran.append("twice"))
    other.cancel()
    other.cancel()
    stage.run(MOMENT_S)
    assert ran == ["once"]


def test_a_timer_may_cancel_itself_and_set_another(stage: Stage) -> None:
    host = stage.host()
    ran: list[str] = []

    def again() -> None:
        timer.cancel()
        ran.append("first")
        host.call_later(0.001, lambda: ran.append("second"))

    timer = host.call_later(0.001, again)
    stage.run(2 * MOMENT_S)
    assert ran == ["first", "second"]


def test_many_cancelled_timers_do_not_disturb_the_others(stage: Stage) -> None:
    host = stage.host()
    ran: list[int] = []
    for number in range(30_000):
        timer = host.call_later(1000.0 + number, lambda: ran.append(-1))
        if number % 1000 == 0:
            host.call_later(number / 1e6, lambda number=number: ran.append(number))  # type: ignore[misc]
        timer.cancel()
    stage.run(0.2)
    assert ran == list(range(0, 30_000, 1000))


def test_timers_without_delay_do_not_starve_datagrams(stage: Stage) -> None:
    alice, bob = stage.host(), stage.host()
    mailbox = Mailbox(bob)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not mailbox.letters and turns < 100_000:
            bob.call_later(0.0 if turns % 100 else 0.001, turn)

    turn()
    alice.send(where(bob), b"excuse me")
    stage.run(2 * MOMENT_S, mailbox.arrived(1))
    assert mailbox.datagrams == [b"excuse me"]


def test_the_clock_never_goes_back_and_is_a_date(stage: Stage) -> None:
    host, other = stage.host(), stage.host()
    instants = [host.now()]

    def look() -> None:
        instants.append(host.now())
        if len(instants) < 2000:
            host.call_later(host.rng.random() / 1e4, look)

    look()
    host.on_receive(lambda datagram, source: instants.append(host.now()))
    for number in range(20):
        other.call_later(number / 1000, lambda: other.send(where(host), b"what time is it?"))
    stage.run(0.2, lambda: len(instants) > 1000)
    assert len(instants) > 100
    assert instants == sorted(instants)
    assert 1_700_000_000 < instants[0] < 4_000_000_000
    assert 0.001 < instants[-1] - instants[0] < 2 * PATIENCE_S


def test_the_clock_measures_what_timers_wait(stage: Stage) -> None:
    host = stage.host()
    began = host.now()
    ended: list[float] = []
    host.call_later(0.1, lambda: ended.append(host.now()))
    stage.run(0.3)
    assert 0.1 - 1e-6 < ended[0] - began < PATIENCE_S  # a busy machine may be late, never early


@pytest.mark.parametrize(
    "to",
    [
        Endpoint("127.0.0.1", 1),
        Endpoint("::1", 1),
        Endpoint("192.0.2.77", 9),
        Endpoint("2001:db8::77", 9),
        Endpoint("::ffff:192.0.2.7", 9),
        Endpoint("0.0.0.0", 9),
        Endpoint("255.255.255.255", 9),
        Endpoint("127.0.0.1", 0),
    ],
    ids=str,
)
def test_sending_where_nobody_listens_harms_nobody(stage: Stage, to: Endpoint) -> None:
    alice, bob = stage.host(), stage.host()
    mailbox = Mailbox(bob)
    alice.send(to, b"anyone?")
    alice.send_batch(to, [b"anyone?", b"please?"])
    stage.run(MOMENT_S)
    alice.send(where(bob), b"at last")
    stage.run(MOMENT_S, mailbox.arrived(1))
    assert mailbox.datagrams == [b"at last"]


def test_a_datagram_too_big_for_udp_is_lost_without_notice(stage: Stage) -> None:
    alice, bob = stage.host(), stage.host()
    mailbox = Mailbox(bob)
    alice.send(where(bob), bytes(70_000))
    alice.send(where(bob), b"small")
    stage.run(MOMENT_S, mailbox.arrived(1))
    assert mailbox.datagrams == [b"small"]


def test_the_last_receiver_wins(stage: Stage) -> None:
    alice, bob = stage.host(), stage.host()
    first = Mailbox(bob)
    second = Mailbox(bob)
    alice.send(where(bob), b"hello")
    stage.run(MOMENT_S, second.arrived(1))
    assert (first.datagrams, second.datagrams) == ([], [b"hello"])


def test_what_nobody_receives_is_dropped(stage: Stage) -> None:
    alice, bob = stage.host(), stage.host()
    alice.send(where(bob), b"early")
    stage.run(MOMENT_S)
    mailbox = Mailbox(bob)
    alice.send(where(bob), b"in time")
    stage.run(MOMENT_S, mailbox.arrived(1))
    assert mailbox.datagrams == [b"in time"]


def test_randomness_has_every_shape_protocol_code_may_ask_for(stage: Stage) -> None:
    rng = stage.host().rng
    assert 0 <= rng.random() < 1
    assert 2 <= rng.uniform(2, 3) <= 3
    assert rng.randrange(5, 7) in (5, 6)
    assert 0 <= rng.getrandbits(160) < 1 << 160
    assert len(rng.randbytes(32)) == 32
    assert rng.choice("abc") in "abc"
    assert sorted(rng.sample([1, 2, 3], 3)) == [1, 2, 3]
    assert len({rng.randbytes(16) for _ in range(100)}) == 100
