"""Which datagrams share a system call, and that nothing depends on it."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.host import Endpoint
from dht.udp import UdpHost
from dht.udp_batch import MAX_BATCH_BYTES, MAX_SEGMENTS, batches
from tests.fuzzing import fuzzed


@fuzzed()
@given(st.lists(st.sampled_from((0, 1, 7, 100, 1432, 65_507)).map(bytes), max_size=200))
def test_batches_keep_order_and_the_kernels_limits(datagrams: list[bytes]) -> None:
    made = [list(batch) for batch in batches(datagrams)]
    assert [datagram for batch in made for datagram in batch] == datagrams
    for batch in made:
        sizes = list(map(len, batch))
        assert len(batch) <= MAX_SEGMENTS
        assert sum(sizes) <= MAX_BATCH_BYTES
        assert len(set(sizes[:-1])) <= 1
        assert len(batch) == 1 or 0 < sizes[-1] <= sizes[0]


@pytest.mark.parametrize("refusal", [errno.EIO, errno.EINVAL])
def test_a_kernel_that_refuses_batches_gets_single_datagrams(refusal: int) -> None:
    class Refusing(socket.socket):
        def sendmsg(self, *arguments: object) -> int:
            raise OSError(refusal, "refused")

    async def scene() -> None:
        alice, bob = UdpHost(Endpoint("127.0.0.1", 0)), UdpHost(Endpoint("127.0.0.1", 0))
        (port,) = alice._ports.values()
        port.socket = Refusing(fileno=port.socket.detach())
        received: list[bytes] = []
        bob.on_receive(lambda datagram, source: received.append(datagram))
        sent = [number.to_bytes(2, "big") for number in range(100)]
        alice.send_batch(Endpoint("127.0.0.1", bob.port), sent)
        while len(received) < 100:
            await asyncio.sleep(0.005)
        assert received == sent
        assert alice.offloads == (("gro",) if refusal == errno.EIO else ("segment", "gro"))
        assert alice.counters["udp_batch_refused"] == (1 if refusal == errno.EIO else 2)
        alice.close()
        bob.close()

    asyncio.run(scene())


def test_a_receiver_of_batches_gets_the_same_datagrams() -> None:
    async def scene() -> None:
        alice, bob = UdpHost(Endpoint("127.0.0.1", 0)), UdpHost(Endpoint("127.0.0.1", 0))
        received: list[bytes] = []
        calls: list[int] = []

        def take(buffer: memoryview, size: int, source: Endpoint) -> None:
            calls.append(size)
            received.extend(bytes(buffer[at : at + size]) for at in range(0, len(buffer), size))

        bob.on_receive(lambda datagram, source: received.append(datagram))
        bob.on_receive_batch(take)
        sent = [bytes((number,)) * 1000 for number in range(50)] + [b"end"]
        alice.send_batch(Endpoint("127.0.0.1", bob.port), sent)
        while len(received) < len(sent):
            await asyncio.sleep(0.005)
        assert received == sent
        assert set(calls) <= {1000}
        assert calls or "gro" not in bob.offloads
        alice.close()
        bob.close()

    asyncio.run(scene())
