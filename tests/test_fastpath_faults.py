"""The C data path when something goes wrong beside it: full sockets, closed descriptors, callbacks that raise."""

from __future__ import annotations

import errno
import gc
import os
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import pytest

from dht.envelope import Inner
from dht.host import Endpoint
from ipop import fastpath
from ipop.datapath import MAX_BULK_BYTES
from ipop.superpacket import split
from ipop.vnet import NO_VNET
from tests.native_side import Side, needs_c
from tests.native_traffic import echo, ethernet, super_packet
from tests.test_fastpath import steady, world

pytestmark = needs_c


def ping(side: Side, number: int = 0, payload: bytes = b"ping") -> bytes:
    return NO_VNET + ethernet(4) + echo(side, 4, number, outwards=True, payload=payload)


def sealed_ping(side: Side, number: int = 0) -> bytes:
    return side.far_keypairs[number].seal(bytes((Inner.PACKET,)) + echo(side, 4, number, outwards=False))


def native(side: Side) -> Any:
    assert side.fast._native is not None
    return side.fast._native


def test_a_full_socket_delays_and_keeps_the_order() -> None:
    with world(True) as (side,):
        (port,) = side.host._ports.values()
        waiting = (side.peers[0].path, [b"an earlier datagram"], 0)
        port.queue.append(waiting)  # type: ignore[arg-type]
        side.from_tap([ping(side, payload=b"one"), ping(side, payload=b"two")])
        assert len(port.queue) == 3  # C sent neither, Python put them behind.
        port.queue.popleft()
        port._flush()
        assert [each.plaintext[-3:] for each in side.sent()[0]] == [b"one", b"two"]
        side.from_tap([ping(side, payload=b"three")])
        assert [each.plaintext[-5:] for each in side.sent()[0]] == [b"three"]


def test_what_the_kernel_refuses_is_sent_by_python_and_batches_are_not_tried_again() -> None:
    with world(True) as (side,):
        (port,) = side.host._ports.values()
        frames, _ = steady(side, Random(2))
        for mouth in side.fast._ports:
            assert mouth is side.fast._mouth(port)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:  # Takes no UDP address: sendmsg fails.
            kept = os.dup(port.socket.fileno())
            os.dup2(other.fileno(), port.socket.fileno())
            with patch.object(side.host, "send_run", wraps=side.host.send_run) as blocked:
                side.from_tap(frames[:1])
            os.dup2(kept, port.socket.fileno())
            os.close(kept)
        assert blocked.called
        assert side.sent() == [[], []]
        side.from_tap(frames[:1])
        assert [each.plaintext for each in side.sent()[0]] == split(frames[0], side.peers[0].size.proven_bytes)
        port.takes_segments = False
        side.fast._blocked(side.peers[0].path, b"", 1, 0)  # type: ignore[arg-type]
        assert not side.fast._outlets


def test_a_device_that_takes_nothing_is_counted_and_one_that_is_gone_is_told_once() -> None:
    with world(True) as (side,):
        lost: list[str] = []
        side.tap.on_lost(lost.append)
        side.tap.far.close()  # Writing raises EPIPE; reading gives the end, which a TAP's never does.
        side.arrive(0, [sealed_ping(side)])
        side.from_wire()
        assert side.tap.counters["tap_write_epipe"] == 1
        assert lost == []
        read_end, write_end = os.pipe()
        os.dup2(write_end, side.tap.fileno())  # Can't be read: EBADF.
        side.tap.wake()
        os.close(read_end)
        os.close(write_end)
        assert side.tap.fileno() == -1
        assert lost == ["TAP device 'socket0' is gone: Bad file descriptor"]
        # What comes by UDP is Python's to read from then on.
        side.arrive(0, [sealed_ping(side)])
        before = side.peers[0].rx_bytes
        side.from_wire()
        assert side.peers[0].rx_bytes > before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), ValueError("a bug")])
def test_a_fault_in_python_is_no_lost_device(error: Exception) -> None:
    with world(True) as (side,):
        odd = NO_VNET + ethernet(4) + bytes(60)
        for frame in (ping(side), odd, ping(side)):
            side.tap.send(frame)
        with patch.object(side.datapath, "_outbound_first", side_effect=error), pytest.raises(type(error)):
            for _ in range(10):
                side.tap.wake()
        assert side.tap.fileno() >= 0
        side.from_tap([])
        assert len(side.sent()[0]) == 2
        assert side.flows[side.members[1].address4.packed][0] == fastpath.WORTH_PACKETS + 3


@pytest.mark.parametrize("failing", ["_sent", "_heard", "_opened", "_datagrams"])
def test_a_callback_that_raises_loses_no_account_and_the_next_call_works(failing: str) -> None:
    with world(True) as (side,):
        calls: list[tuple[Any, ...]] = []

        def fail(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == 1:
                raise ZeroDivisionError
            getattr(fastpath.FastPath, failing)(side.fast, *arguments)

        given = {name: getattr(side.fast, name) for name in ("_sent", "_heard", "_opened", "_datagrams", "_passed")}
        given[failing] = fail
        side.fast._native = None
        with patch.multiple(side.fast, **given):
            side.fast._begin()
            texts = [bytes((Inner.KEEPALIVE,)) + bytes(40)] if failing == "_opened" else []
            arriving = [side.far_keypairs[0].seal(each) for each in texts] or [sealed_ping(side)]
            if failing == "_datagrams":
                arriving = [b"\x14\0\0\0" + arriving[0][4:7] + b"\xff" + arriving[0][8:]]
            for _ in range(2):
                if failing == "_sent":
                    side.tap.send(ping(side))
                else:
                    side.arrive(0, arriving)
                if calls:
                    side.tap.wake()
                    side.from_wire()
                else:
                    with pytest.raises(ZeroDivisionError):
                        side.tap.wake()
                        side.from_wire()
            assert calls
            assert len(side.sent()[0]) == (2 if failing == "_sent" else 0)


def test_closing_all_from_within_a_callback_is_survived() -> None:
    for close in ("tap", "host"):
        with world(True) as (side,):

            def closing(*_: Any, side: Side = side, what: str = close) -> None:
                getattr(side, what).close()

            with patch.object(side.datapath, "_outbound_first", side_effect=closing):
                for frame in (ping(side), NO_VNET + ethernet(4) + bytes(60), ping(side)):
                    side.tap.send(frame)
                for _ in range(10):
                    if side.tap.fileno() >= 0:
                        side.tap.wake()
            side.sent()


def test_it_can_not_be_entered_twice() -> None:
    with world(True) as (side,):
        caught: list[str] = []

        def again(*_: Any) -> None:
            try:
                native(side).read_frames(1, 1)
            except RuntimeError as error:
                caught.append(str(error))

        with patch.object(side.datapath, "_outbound_first", side_effect=again):
            side.from_tap([NO_VNET + ethernet(4) + bytes(60)])
        assert caught == ["the fast path is being used already"]
        side.from_tap([ping(side)])
        assert len(side.sent()[0]) == 1


def test_what_waits_is_bounded_and_what_finds_no_room_is_counted() -> None:
    random = Random(3)
    with world(True) as (side,):
        big = super_packet(random, side, 0, outwards=True)
        big = type(big)(4, True, 1348, random.randbytes(60_000), ends=big.ends)
        sent = read = 0
        while side.datapath.counters["outbound_bulk_dropped"] < 5:
            for _ in range(8):
                side.tap.send(big.frame)
                sent += 1
            # Reads far more than is sent a call: 192 KiB, of 1 MiB.
            native(side).read_frames(64, 1 << 20)
            read += len(side.sent()[0])
            assert sent < 1000
        assert sent * 60_000 > MAX_BULK_BYTES
        for _ in range(100):
            side.tap.wake()
            read += len(side.sent()[0])
        count = len(split(big.frame, side.peers[0].size.proven_bytes))
        assert read == (sent - side.datapath.counters["outbound_bulk_dropped"]) * count


def rss_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def of_ours() -> int:
    return sum(type(each).__module__ == "ipop._fastpath" for each in gc.get_objects())


def leak_nothing() -> None:
    random = Random(4)

    def live() -> None:
        with world(True) as (side,):
            for _ in range(20):
                frames, texts = steady(side, random)
                side.from_tap(frames)
                for text in texts:
                    side.arrive(0, [side.far_keypairs[0].seal(text)])
                side.from_wire()
                side.sent()
                side.tap.received()

    def lives(count: int) -> None:
        for _ in range(count):
            live()
            gc.collect()  # Its circles, at once: how many wait for the collector is not to be measured.

    lives(3)
    before, objects = rss_bytes(), len(gc.get_objects())
    lives(10)
    assert len(gc.get_objects()) - objects < 500
    assert rss_bytes() - before < 2 << 20
    assert of_ours() == 0


def test_nothing_leaks_in_use_or_when_nodes_come_and_go() -> None:
    """In a process of its own: what other tests leave behind is not to be measured."""
    program = "from tests.test_fastpath_faults import leak_nothing; leak_nothing()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)


def test_what_python_prepares_wrongly_is_refused() -> None:
    with world(True) as (side,):
        mouth = next(iter(side.fast._ports))
        good: dict[str, Any] = {
            "owner": None,
            "guards": (),
            "mouth": mouth,
            "endpoint": ("127.0.0.1", 7000),
            "keypair": side.keypairs[0],
            "key": bytes(32),
            "aes": True,
            "front": bytes(8),
            "room_bytes": 1400,
            "segments": True,
            "class_mask": 3,
            "limit": 10,
            "dies_at": 1.0,
        }
        native_types: Any = vars(fastpath)["_fastpath"]
        outlet = native_types.Outlet
        assert not outlet(**good).holds()
        for name, wrong in (
            ("key", bytes(31)),
            ("front", bytes(9)),
            ("room_bytes", 65507),
            ("room_bytes", -1),
            ("endpoint", ("nowhere", 7000)),
            ("endpoint", ("127.0.0.1", 0)),
            ("guards", ((side, "x", None),) * 13),
            ("guards", ((side, 1, None),)),
            ("mouth", side),
        ):
            with pytest.raises((ValueError, TypeError)):
                outlet(**{**good, name: wrong})
        with pytest.raises(ValueError, match="without a port"):
            native(side).read_datagrams(native_types.Mouth.__new__(native_types.Mouth), 1)


def test_endpoints_and_queues_are_pythons() -> None:
    """A mouth looks at the very objects of the port: nothing is copied that could differ later."""
    with world(True) as (side,):
        (port,) = side.host._ports.values()
        assert isinstance(port.queue, deque)
        queue, arrivals = port.queue, port.arrivals
        port.note_arrivals(True)
        port.note_arrivals(False)
        assert port.queue is queue
        assert port.arrivals is arrivals
        assert isinstance(side.peers[0].path, Endpoint)
