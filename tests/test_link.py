"""Access links against arithmetic: how long datagrams wait, which are dropped, and that nothing else is touched."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dht.host import Endpoint
from sims.engine import START, Engine, SimHost
from sims.latency import Constant
from sims.link import AccessLink
from sims.nat import PRESETS
from sims.network import Network

ONE_WAY_S = 0.05
BITS_PER_S = 1_024_000.0  # 128 bytes a millisecond: a datagram of 100 bytes, with its headers
HEADERS = 28


class Scene:
    """Two hosts 50 ms apart, and when what came to the second one came."""

    def __init__(self) -> None:
        self.engine = Engine(1)
        self.network = Network(self.engine, Constant(rtt_ms=2000.0 * ONE_WAY_S))
        self.sender, self.receiver = self.network.host(), self.network.host(Endpoint("198.18.0.1", 7000))
        self.came_ms: list[float] = []
        self.receiver.on_receive(lambda datagram, source: self.came_ms.append(self.since_ms()))

    def since_ms(self) -> float:
        return round((self.engine.now - START - ONE_WAY_S) * 1000.0, 3)

    def burst(self, count: int, size: int = 100, origin: SimHost | None = None) -> None:
        for _ in range(count):
            (origin or self.sender).send(self.receiver.endpoint, bytes(size))
        self.engine.run_for(5.0)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_line_loses_and_delays_its_own_hosts_datagrams_alone(direction: str) -> None:
    scene = Scene()
    mine, other = (scene.sender, scene.receiver) if direction == "up" else (scene.receiver, scene.sender)
    scene.network.limit(mine, AccessLink(loss=0.25, jitter_s=0.01))
    scene.burst(2000)
    assert scene.network.counters["lost"] == pytest.approx(500, abs=80) == 2000 - len(scene.came_ms)
    assert 0.0 <= min(scene.came_ms) < 0.2 and 9.8 < max(scene.came_ms) < 10.0
    assert sum(scene.came_ms) / len(scene.came_ms) == pytest.approx(5.0, abs=0.4)
    scene.network.limit(mine, None)
    scene.network.limit(other, AccessLink(loss=1.0))
    scene.came_ms.clear()
    scene.burst(5)
    assert not scene.came_ms


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"loss": -0.1}, {"jitter_s": -1.0}, {"jitter_s": float("inf")}])
def test_what_no_line_is_like_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a link"):
        AccessLink(**wrong)  # type: ignore[arg-type]


def test_a_line_that_does_nothing_is_none() -> None:
    assert AccessLink().pipes() == (None, None)
    up, down = AccessLink(up_bits_per_s=8.0).pipes()
    assert up is not None and down is None


def test_without_a_link_a_burst_arrives_at_once() -> None:
    scene = Scene()
    scene.burst(5)
    assert scene.came_ms == [0.0] * 5


@pytest.mark.parametrize("direction", ["up", "down"])
def test_datagrams_leave_and_come_one_after_another(direction: str) -> None:
    scene = Scene()
    if direction == "up":
        scene.network.limit(scene.sender, AccessLink(up_bits_per_s=BITS_PER_S))
    else:
        scene.network.limit(scene.receiver, AccessLink(down_bits_per_s=BITS_PER_S))
    scene.burst(5)
    assert scene.came_ms == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0], abs=0.002)
    scene.came_ms.clear()
    scene.engine.run_for(1.0)
    scene.burst(1, size=228)
    assert len(scene.came_ms) == 1, "an idle link has no memory"


def test_both_ends_hold_a_datagram_up() -> None:
    scene = Scene()
    scene.network.limit(scene.sender, AccessLink(up_bits_per_s=BITS_PER_S))
    scene.network.limit(scene.receiver, AccessLink(down_bits_per_s=BITS_PER_S / 2))
    scene.burst(3)
    # The slower pipe sets the pace; the faster one costs the first datagram's time.
    assert scene.came_ms == pytest.approx([3.0, 5.0, 7.0], abs=0.002)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_finds_the_queue_full_is_dropped_and_counted(direction: str) -> None:
    scene = Scene()
    queue = 12 * (100 + HEADERS)
    if direction == "up":
        scene.network.limit(scene.sender, AccessLink(up_bits_per_s=BITS_PER_S, queue_bytes=queue))
    else:
        scene.network.limit(scene.receiver, AccessLink(down_bits_per_s=BITS_PER_S, queue_bytes=queue))
    scene.burst(20)
    assert len(scene.came_ms) == 12
    assert scene.network.counters == {f"queue_full_{direction}": 8}
    scene.burst(1)
    assert len(scene.came_ms) == 13, "a queue that has emptied takes more"


def test_a_long_datagram_passes_an_idle_link_whatever_the_queue() -> None:
    scene = Scene()
    scene.network.limit(scene.sender, AccessLink(up_bits_per_s=BITS_PER_S, queue_bytes=1500))
    scene.burst(1, size=4000)
    assert scene.came_ms == pytest.approx([(4000 + HEADERS) / 128], abs=0.01)


def test_only_the_limited_host_waits_and_only_in_the_limited_direction() -> None:
    scene = Scene()
    other = scene.network.host()
    scene.network.limit(scene.sender, AccessLink(up_bits_per_s=BITS_PER_S))
    scene.burst(4, origin=other)
    assert scene.came_ms == [0.0] * 4
    back: list[float] = []
    scene.sender.on_receive(lambda datagram, source: back.append(scene.engine.now))
    for _ in range(4):
        scene.receiver.send(scene.sender.endpoint, bytes(100))
    scene.engine.run_for(1.0)
    assert len(set(back)) == 1
    scene.network.limit(scene.sender, None)
    scene.came_ms.clear()
    began_ms = scene.since_ms() + 1000.0 * ONE_WAY_S
    scene.burst(4)
    assert scene.came_ms == pytest.approx([began_ms] * 4, abs=0.002)


def test_a_host_behind_a_nat_has_its_link_too() -> None:
    scene = Scene()
    inside = scene.network.host(scene.network.access.behind(PRESETS["port"], "198.18.0.9"))
    scene.network.limit(inside, AccessLink(up_bits_per_s=BITS_PER_S))
    scene.burst(3, origin=inside)
    assert [later - earlier for earlier, later in pairwise(scene.came_ms)] == pytest.approx([1.0, 1.0], abs=0.01)


def test_a_crashed_host_leaves_its_link_behind() -> None:
    scene = Scene()
    scene.network.limit(scene.receiver, AccessLink(down_bits_per_s=8.0))
    scene.sender.send(scene.receiver.endpoint, bytes(100))
    scene.engine.run_for(0.1)
    scene.network.crash(scene.receiver)
    scene.engine.run_for(1000.0)
    assert scene.came_ms == [] and scene.network.counters == {"unread": 1}


@pytest.mark.parametrize(
    "settings",
    [{"up_bits_per_s": 0.0}, {"down_bits_per_s": -1.0}, {"up_bits_per_s": float("inf")}, {"queue_bytes": 100}],
)
def test_a_link_that_can_not_be_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a link's"):
        AccessLink(**settings)  # type: ignore[arg-type]


def test_links_do_not_change_what_chance_does() -> None:
    def trace(link: AccessLink | None) -> tuple[int, int]:
        engine = Engine(7)
        network = Network(engine, Constant(rtt_ms=100.0), loss=0.3)
        sender, receiver = network.host(Endpoint("10.0.0.1", 1)), network.host(Endpoint("10.0.0.2", 1))
        network.limit(sender, link)
        for _ in range(50):
            sender.send(receiver.endpoint, bytes(50))
            engine.run_for(0.5)
        return receiver.received_datagrams, network.counters["lost"]

    assert trace(None) == trace(AccessLink(up_bits_per_s=1e6, down_bits_per_s=1e6))
