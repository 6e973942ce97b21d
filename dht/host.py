"""The one seam between protocol code and the world: time, timers, datagrams and randomness.

Protocol objects are synchronous and single-threaded; everything they do starts from `receive` or a timer.
`dht.udp` implements `Host` on asyncio and UDP sockets, `sims.engine` on an agenda of events in virtual time.
This module holds only the protocols and the endpoint type: it never touches a clock or a socket.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

from dht.errors import BadDatagram

T = TypeVar("T")


class Endpoint(NamedTuple):
    """An underlay address: canonical IPv4 or IPv6 text, and a UDP port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def pack(self) -> bytes:
        """6 bytes for IPv4, 18 for IPv6: the address, then the port, big-endian."""
        return _packed(self.address) + self.port.to_bytes(2, "big")

    @classmethod
    def parse(cls, packed: bytes) -> Endpoint:
        """The inverse of `pack`. Raises BadDatagram for any other length or port 0."""
        if len(packed) not in (6, 18):
            raise BadDatagram(f"an endpoint has 6 or 18 bytes, not {len(packed)}")
        port = int.from_bytes(packed[-2:], "big")
        if port == 0:
            raise BadDatagram("an endpoint has port 0")
        return cls(_text(bytes(packed[:-2])), port)

    @classmethod
    def from_text(cls, text: str) -> Endpoint:
        """Reads `192.0.2.1:7000` or `[2001:db8::1]:7000`. Raises ValueError with what is wrong."""
        address, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"'{text}' does not end in ':PORT' with a port from 1 to 65535")
        if address.startswith("[") and address.endswith("]"):
            address = address[1:-1]
        try:
            return cls(str(ipaddress.ip_address(address)), int(port))
        except ValueError:
            raise ValueError(f"'{address}' is not an IPv4 or IPv6 address") from None


# The same few addresses cross every control message; converting them took a tenth of a simulation's time.
@lru_cache(maxsize=16384)
def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


@lru_cache(maxsize=16384)
def _text(packed: bytes) -> str:
    address = ipaddress.ip_address(packed)
    if address.version == 6 and address.ipv4_mapped is not None:
        raise BadDatagram("an endpoint is an IPv4 address in IPv6 clothes")
    if address.is_multicast or address.is_unspecified or packed == b"\xff\xff\xff\xff":
        raise BadDatagram(f"an endpoint at {address}, which is nobody's")
    return str(address)


class Timer(Protocol):
    """A pending callback."""

    def cancel(self) -> None:
        """Forget the callback. Harmless when it has run or was cancelled before."""


class Rng(Protocol):
    """The part of `random.Random` that protocol code may use."""

    def random(self) -> float: ...
    def uniform(self, a: float, b: float) -> float: ...
    def randrange(self, start: int, stop: int) -> int: ...
    def getrandbits(self, k: int, /) -> int: ...
    def randbytes(self, n: int) -> bytes: ...
    def choice(self, seq: Sequence[T], /) -> T: ...
    def sample(self, population: Sequence[T], k: int) -> list[T]: ...


Receive = Callable[[bytes, Endpoint], None]
ReceiveBatch = Callable[[memoryview, int, Endpoint], None]


class Host(Protocol):
    """One machine: a clock, timers, a UDP port and a source of randomness."""

    @property
    def rng(self) -> Rng:
        """Unpredictable on a real host; seeded in a simulation, where even keys replay."""

    def now(self) -> float:
        """Seconds since the Unix epoch. Never goes back within a run, and counts time asleep."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` once, no sooner than `delay_s` seconds from now, never before this call returns."""

    @property
    def received_class(self) -> int:
        """The traffic class (DSCP and ECN, RFC 2474 and 3168) of what is being given to `receive` at this moment;
        means nothing at any other."""

    def send(self, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """Send one UDP datagram. Like UDP, it may be lost without notice; it never raises for that."""

    def send_batch(self, to: Endpoint, datagrams: Sequence[bytes], traffic_class: int = 0) -> None:
        """Send several datagrams to one endpoint, in order."""

    def send_run(self, to: Endpoint, buffer: bytes | memoryview, size: int, traffic_class: int = 0) -> None:
        """As `send_batch` for datagrams that lie one behind the other in `buffer`: each has `size` bytes, but the last
        may be shorter. The buffer is the caller's again when this returns."""

    def send_whole(self, to: Endpoint, datagram: bytes) -> bool:
        """As `send`, but in one piece or not at all: no router may fragment it. False when this machine's own link
        can't carry it."""

    def local_endpoints(self) -> Sequence[Endpoint]:
        """Where this host listens, one entry an address; wildcards are expanded, loopback left out unless it is
        all there is."""

    def on_receive(self, receive: Receive) -> None:
        """Give every datagram that arrives to `receive(datagram, source)`. The last call wins."""

    def on_receive_batch(self, receive: ReceiveBatch) -> None:
        """Give datagrams that arrived together, from one source, to `receive(buffer, size, source)`: each has `size`
        bytes, but the last may be shorter. The buffer is good only until `receive` returns. A host need never do
        so. The last call wins."""

    def on_addresses_changed(self, changed: Callable[[], None]) -> None:
        """Call `changed` after the set of local endpoints has changed. The last call wins."""
