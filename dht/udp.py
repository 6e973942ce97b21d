"""† The real `Host`: UDP sockets, timers and a clock on asyncio. Linux only.

A send that fails is counted in `counters`, never raised: to the protocol it is one more lost datagram. The clock
is the wall clock at the start plus CLOCK_BOOTTIME since, so that no adjustment sets it back and time asleep counts;
timers run on the same clock. It never looks into datagrams, never calls back synchronously, and never resolves names.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from time import CLOCK_BOOTTIME, clock_gettime

from dht.addresses import Address, Addresses, Subnet
from dht.host import Endpoint, Receive, ReceiveBatch, Rng
from dht.packet_loop import read_packets
from dht.timers import UdpTimer, UdpTimers, boottime_s
from dht.udp_intake import Intake
from dht.udp_port import IP_MTU_DISCOVER, IP_PMTUDISC_DONT, Port

SOCKET_BUFFER_BYTES = 4 << 20
REOPEN_S = 5.0
RANDOM_PORT_ATTEMPTS = 8  # to find one that is free for IPv4 and IPv6 alike

# Linux values that Python's socket module does not name before 3.12, or at all.
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

log = logging.getLogger(__name__)

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


class UdpHost:
    """A `Host` on this machine's UDP port. Needs a running event loop; raises OSError when it cannot listen.

    Listens on one address, or with a wildcard (`0.0.0.0` or `::`) on all of them, IPv4 and IPv6. Port 0 picks one.
    Addresses within `exclude` are never given as local endpoints: above all those of our own virtual network.
    """

    def __init__(self, listen: Endpoint, exclude: Sequence[Subnet] = (), *, batching: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._rng = random.SystemRandom()
        self._epoch = time.time() - boottime_s()
        self._exclude = tuple(exclude)
        self.received_class = 0
        self._batching = batching
        self._changed: Callable[[], None] | None = None
        self._closed = False
        self.counters: Counter[str] = Counter()
        self.intake = Intake(self, self._loop, self.counters)
        self._ports: dict[int, Port] = {}
        self._listen = listen
        self._open(listen)
        self._timers = UdpTimers(self._loop)
        self._addresses = Addresses(self._loop, self._look_at_addresses)
        self._local: tuple[Endpoint, ...] = ()
        self._local = self._enumerate()

    @property
    def rng(self) -> Rng:
        return self._rng

    @property
    def port(self) -> int:
        """The UDP port it listens on."""
        return self._listen.port

    def now(self) -> float:
        return self._epoch + clock_gettime(CLOCK_BOOTTIME)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> UdpTimer:
        return self._timers.call_later(delay_s, callback)

    def send(self, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        port = self._ports.get(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        if port is not None:
            port.send(to, datagram, traffic_class)
        else:
            self.counters["udp_send_no_socket"] += 1

    def send_batch(self, to: Endpoint, datagrams: Sequence[bytes], traffic_class: int = 0) -> None:
        port = self._ports.get(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        if port is not None:
            port.send_batch(to, datagrams, traffic_class)
        else:
            self.counters["udp_send_no_socket"] += len(datagrams)

    def send_run(self, to: Endpoint, buffer: bytes | memoryview, size: int, traffic_class: int = 0) -> None:
        port = self._ports.get(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        if port is not None:
            port.send_run(to, buffer, size, traffic_class)
        else:
            self.counters["udp_send_no_socket"] += -(-len(buffer) // size)

    def send_whole(self, to: Endpoint, datagram: bytes) -> bool:
        port = self._ports.get(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        return port is None or port.send_whole(to, datagram)

    def local_endpoints(self) -> Sequence[Endpoint]:
        return self._local

    def on_receive(self, receive: Receive) -> None:
        self.intake.receive = receive

    def on_receive_batch(self, receive: ReceiveBatch) -> None:
        self.intake.receive_batch = receive

    def port_to(self, to: Endpoint) -> Port | None:
        """The socket by which datagrams go there."""
        return self._ports.get(socket.AF_INET6 if ":" in to.address else socket.AF_INET)

    @property
    def offloads(self) -> tuple[str, ...]:
        """Which ways of the kernel to move many datagrams at once are in use."""
        ports = self._ports.values()
        found = {
            "segment": all(port.takes_segments for port in ports),
            "gro": all(port.gives_batches for port in ports),
        }
        return tuple(name for name, used in found.items() if ports and used)

    def on_addresses_changed(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    def close(self) -> None:
        """Stop listening and forget all timers. Nothing is called back afterwards."""
        if self._closed:
            return
        self._closed = self.intake.closed = True
        self._timers.close()
        self._addresses.close()
        self._close_ports()

    def _open(self, listen: Endpoint) -> None:
        """Open one socket, or one for each IP version on a wildcard. All or nothing: raises OSError."""
        wildcard = ipaddress.ip_address(listen.address).is_unspecified
        for attempt in range(RANDOM_PORT_ATTEMPTS):
            opened: list[socket.socket] = []
            try:
                if not wildcard:
                    opened.append(_bound(listen))
                else:
                    opened.extend(_bound_to_all(listen.port))
                break
            except OSError as error:
                # A random port can be free for IPv4 and taken for IPv6.
                if listen.port or error.errno != errno.EADDRINUSE or attempt + 1 == RANDOM_PORT_ATTEMPTS:
                    raise
        self._listen = Endpoint(listen.address, opened[0].getsockname()[1])
        for each in opened:
            port = Port(self._loop, each, self.counters, self._batching)
            self._ports[each.family] = port
            read_packets(self._loop, each.fileno(), partial(self.intake.drain, port))

    def _close_ports(self) -> None:
        for port in self._ports.values():
            port.close()
        self._ports.clear()

    def _enumerate(self) -> tuple[Endpoint, ...]:
        """The present local endpoints. Also tells the sockets whether the machine has several addresses."""
        number = self._listen.port
        if not ipaddress.ip_address(self._listen.address).is_unspecified:
            return (self._listen,)
        machine = self._addresses.all()
        usable = [address for address in machine if self._offers(address)]
        for family, port in self._ports.items():
            version = 6 if family == socket.AF_INET6 else 4
            # Counted with those never offered: a tunnel's address too can be where a peer's datagram went.
            port.note_arrivals(sum(address.version == version and not address.is_loopback for address in machine) > 1)
        if not usable:
            usable = [ipaddress.ip_address("::1" if f == socket.AF_INET6 else "127.0.0.1") for f in self._ports]
        return tuple(dict.fromkeys(Endpoint(str(address), number) for address in usable))

    def _offers(self, address: Address) -> bool:
        if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
            return False
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        return family in self._ports and not any(address in subnet for subnet in self._exclude)

    def _look_at_addresses(self) -> None:
        if self._closed:
            return
        if not self._ports or not _still_ours(self._listen.address):
            self._reopen()
        local = self._enumerate()
        if local != self._local:
            log.info("local endpoints: %s", ", ".join(map(str, local)) or "none")
            self._local = local
            if self._changed is not None:
                self._changed()

    def _reopen(self) -> None:
        """The address we listened on has left this machine: listen on whatever others it has."""
        gone = self._listen
        self._close_ports()
        for number in (gone.port, 0):
            try:
                self._open(Endpoint("0.0.0.0", number))
            except OSError as error:
                log.warning("cannot listen on port %d of all addresses: %s", number, error)
                continue
            log.warning("%s is gone from this machine; listening on port %d of all addresses", gone, self.port)
            return
        self.call_later(REOPEN_S, self._look_at_addresses)


def _bound(listen: Endpoint) -> socket.socket:
    """A non-blocking UDP socket with large buffers, bound to `listen`."""
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            # Routers may fragment, should a path have become narrower: else packets would vanish until
            # `dht.sizes` has noticed, or for good below its floor.
            opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                opened.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
            except PermissionError:
                opened.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER_BYTES)
        opened.bind(listen)
    except BaseException:
        opened.close()
        raise
    return opened


def _bound_to_all(number: int) -> list[socket.socket]:
    """Two sockets on the same port, for IPv4 and IPv6; one on a machine without IPv6."""
    first = _bound(Endpoint("0.0.0.0", number))
    try:
        return [first, _bound(Endpoint("::", first.getsockname()[1]))]
    except OSError as error:
        if error.errno in _NO_IPV6:
            return [first]
        first.close()
        raise


def _still_ours(address: str) -> bool:
    """Whether a socket can be bound to `address`; wildcards always can."""
    try:
        _bound(Endpoint(address, 0)).close()
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
