"""The loop for packets: their readers are called at once, and everything that asyncio promises still holds."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from dht.packet_loop import PacketLoop, read_packets, stop_reading
from tests.patience import PATIENCE_S

LOOPS = (PacketLoop, asyncio.SelectorEventLoop)


def run(body: Coroutine[Any, Any, None], loop_factory: Callable[[], asyncio.AbstractEventLoop] = PacketLoop) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(body, PATIENCE_S))


def pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setblocking(False)
    return ends


@pytest.mark.parametrize("loop_factory", LOOPS)
def test_packets_reach_their_reader_until_it_stops(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def body() -> None:
        loop, (far, near), seen = asyncio.get_running_loop(), pair(), []
        read_packets(loop, near.fileno(), lambda: seen.append(near.recv(100)))
        for number in range(3):
            far.send(bytes((number,)))
        while len(seen) < 3:
            await asyncio.sleep(0)
        assert seen == [b"\0", b"\1", b"\2"]
        stop_reading(loop, near.fileno())
        stop_reading(loop, near.fileno())
        far.send(b"unread")
        await asyncio.sleep(0.01)
        assert len(seen) == 3
        far.close()
        near.close()

    run(body(), loop_factory)


def test_a_flood_holds_up_neither_timers_nor_tasks_nor_other_threads() -> None:
    async def body() -> None:
        loop, (far, near) = asyncio.get_running_loop(), pair()
        packets = 0

        def echo() -> None:  # There is always another packet.
            nonlocal packets
            near.recv(100)
            packets += 1
            far.send(b"again")

        read_packets(loop, near.fileno(), echo)
        far.send(b"first")
        start = time.monotonic()
        await asyncio.sleep(0.05)
        assert time.monotonic() - start >= 0.05
        assert packets > 0
        turns = 0
        for _ in range(10):
            await asyncio.sleep(0)
            turns += 1
        called = asyncio.Event()
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(called.set))
        thread.start()
        await called.wait()
        thread.join()
        assert turns == 10
        assert await loop.run_in_executor(None, os.getpid) == os.getpid()
        stop_reading(loop, near.fileno())
        far.close()
        near.close()

    run(body())


def test_what_a_reader_sets_going_happens_without_another_packet() -> None:
    async def body() -> None:
        loop, (far, near) = asyncio.get_running_loop(), pair()
        order: list[str] = []
        done = loop.create_future()

        def reader() -> None:
            near.recv(100)
            loop.call_later(0.01, order.append, "later")
            loop.call_later(0.02, done.set_result, None)
            loop.call_soon(order.append, "soon")

        read_packets(loop, near.fileno(), reader)
        far.send(b"one")
        await done
        assert order == ["soon", "later"]
        stop_reading(loop, near.fileno())
        far.close()
        near.close()

    run(body())


def test_a_reader_and_a_writer_of_one_descriptor_come_and_go_apart() -> None:
    async def body() -> None:
        loop, (far, near), seen = asyncio.get_running_loop(), pair(), []
        writable = asyncio.Event()
        read_packets(loop, near.fileno(), lambda: seen.append(near.recv(100)))
        loop.add_writer(near, writable.set)
        await writable.wait()
        far.send(b"both")
        while not seen:
            await asyncio.sleep(0)
        loop.remove_writer(near)
        far.send(b"reader alone")
        while len(seen) < 2:
            await asyncio.sleep(0)
        loop.add_writer(near, writable.set)
        stop_reading(loop, near.fileno())
        writable.clear()
        far.send(b"writer alone")
        await writable.wait()
        loop.remove_writer(near)
        await asyncio.sleep(0.01)
        assert seen == [b"both", b"reader alone"]
        far.close()
        near.close()

    run(body())


def test_a_reader_that_fails_is_reported_and_all_else_goes_on() -> None:
    async def body() -> None:
        loop, (far, near), (far2, near2) = asyncio.get_running_loop(), pair(), pair()
        reports: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: reports.append(context))
        seen = []

        def failing() -> None:
            near.recv(100)
            raise ValueError("a fault of ours")

        read_packets(loop, near.fileno(), failing)
        read_packets(loop, near2.fileno(), lambda: seen.append(near2.recv(100)))
        far.send(b"one")
        far2.send(b"two")
        far.send(b"three")
        while len(reports) < 2 or not seen:
            await asyncio.sleep(0)
        assert [str(report["exception"]) for report in reports] == ["a fault of ours"] * 2
        for end in (near, near2):
            stop_reading(loop, end.fileno())
        for end in (far, near, far2, near2):
            end.close()

    run(body())


def test_a_reader_that_another_has_just_stopped_is_not_called() -> None:
    async def body() -> None:
        loop, pairs, called = asyncio.get_running_loop(), (pair(), pair()), []

        def reader(number: int) -> None:
            called.append(number)
            for _, near in pairs:
                stop_reading(loop, near.fileno())

        for number, (far, near) in enumerate(pairs):
            far.send(b"both are ready")
            read_packets(loop, near.fileno(), partial(reader, number))
        await asyncio.sleep(0.01)
        assert len(called) == 1
        for ends in pairs:
            for end in ends:
                end.close()

    run(body())


def test_streams_and_child_processes_work() -> None:
    async def body() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper() * 50_000)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n" * 50_000
        writer.close()
        server.close()
        await server.wait_closed()
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        assert (await child.communicate(b"through a pipe"))[0] == b"through a pipe"

    run(body())
