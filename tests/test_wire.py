"""The userspace wire, frame by frame: what it holds, loses, repeats, lets overtake, and swallows."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from sims.lab.impairment import Impairment
from sims.lab.wire import Line

ETHERNET = b"\x02" * 12 + b"\x08\x00"
ARP = b"\x02" * 12 + b"\x08\x06"
LONG_MS = 50_000.0


class Rig:
    """A line with an end to send into and one to hear at."""

    def __init__(self, impairment: Impairment) -> None:
        self.sends, source = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        sink, self.hears = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ends = (self.sends, source, sink, self.hears)
        for end in self._ends:
            end.setblocking(False)
        self.line = Line(source.fileno(), sink.fileno(), impairment)

    def send(self, *payloads: bytes, header: bytes = ETHERNET) -> None:
        for payload in payloads:
            self.sends.send(header + payload)
            self.line.take()

    def heard(self) -> list[bytes]:
        """What has come through so far."""
        self.line.give()
        found = []
        while True:
            try:
                found.append(self.hears.recv(1 << 16)[14:])
            except BlockingIOError:
                return found

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig(request.param)
    yield made
    made.close()


def on(**figures: float) -> pytest.MarkDecorator:
    impairment = Impairment(**figures)  # type: ignore[arg-type]
    return pytest.mark.parametrize("rig", [impairment], indirect=True, ids=[str(impairment)])


@on()
def test_a_perfect_wire_keeps_order(rig: Rig) -> None:
    rig.send(b"1", b"2", b"3")
    assert rig.heard() == [b"1", b"2", b"3"]


@on(delay_ms=30, jitter_ms=30)
def test_delay_and_jitter_hold_frames_and_keep_their_order(rig: Rig) -> None:
    payloads = [bytes([number]) for number in range(50)]
    rig.send(*payloads)
    heard: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(heard) < 50 and time.monotonic() < deadline:
        heard += rig.heard()
    assert heard == payloads


@on(delay_ms=LONG_MS)
def test_nothing_comes_before_its_time(rig: Rig) -> None:
    before = time.monotonic()
    rig.send(b"1")
    assert rig.heard() == []
    assert rig.line.due_at is not None
    assert rig.line.due_at >= before + LONG_MS / 1000


@on(delay_ms=LONG_MS)
def test_a_shorter_delay_does_not_let_later_frames_overtake(rig: Rig) -> None:
    rig.send(b"1")
    rig.line.impairment = Impairment()
    rig.send(b"2")
    assert rig.heard() == []


@on(delay_ms=LONG_MS)
def test_what_is_reordered_overtakes_all_that_is_underway(rig: Rig) -> None:
    rig.send(b"1")
    rig.line.impairment = Impairment(delay_ms=LONG_MS, reorder_percent=100)
    rig.send(b"2")
    assert rig.heard() == [b"2"]


@on(loss_percent=100)
def test_all_is_lost_but_arp(rig: Rig) -> None:
    rig.send(b"1", b"2")
    rig.send(b"who has", header=ARP)
    assert rig.heard() == [b"who has"]


@on(loss_percent=30)
def test_the_share_that_is_lost_is_the_one_asked_for(rig: Rig) -> None:
    heard = 0
    for _ in range(2000):
        rig.send(b"x")
        heard += len(rig.heard())
    assert 1200 <= heard <= 1600  # 1400 are expected; the standard deviation is 20.


@on(duplicate_percent=100)
def test_duplicates_follow_each_other(rig: Rig) -> None:
    rig.send(b"1", b"2")
    assert rig.heard() == [b"1", b"1", b"2", b"2"]


@on(blackhole_bytes=100)
def test_a_black_hole_swallows_what_is_longer(rig: Rig) -> None:
    rig.send(b"x" * 100, b"y" * 101)
    assert rig.heard() == [b"x" * 100]


@on(rate_mbit=0.008)
def test_a_slow_wire_sends_one_after_another_and_drops_what_waits_too_long(rig: Rig) -> None:
    before = time.monotonic()
    rig.send(*[b"x" * 986] * 10)  # 1000 bytes with the header take one second.
    assert rig.line.due_at is not None
    assert rig.line.due_at >= before + 1.0
    rig.line.impairment = Impairment()
    assert rig.line._bytes == 1000, "the second would have waited for longer than the buffer is"


@pytest.mark.parametrize(
    "figures, words",
    [
        ({"loss_percent": 100.5}, "loss_percent is 100.5: it must be from 0 to 100"),
        ({"delay_ms": -1.0}, "delay_ms is -1"),
        ({"rate_mbit": float("inf")}, "rate_mbit is inf"),
        ({"jitter_ms": 1.0}, "more than delay_ms"),
    ],
)
def test_figures_that_mean_nothing_are_refused(figures: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Impairment(**figures)  # type: ignore[arg-type]
