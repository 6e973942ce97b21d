"""† The real `Link`: link-local multicast for IPv4 and IPv6, on every interface that has an address we offer.

Never reaches beyond the link: the groups are link-local, and the hop limit is 1. It looks into no datagram, and a
machine without multicast merely hears nobody.

Source: RFC 5771, section 4 (224.0.0/24 is never forwarded); RFC 4291, section 2.7 (ff12 is link-local, and the second
digit says that nobody assigned the group); ip(7), ipv6(7).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from pathlib import Path

from dht.host import Endpoint
from shortcuts.lan import Place
from shortcuts.lan_wire import DATAGRAM_BYTES

GROUP4 = "224.0.0.177"
GROUP6 = "ff12::7077:7077"
PORT = 17077  # no node's own: a node listens on one port of all addresses, and would hear this too
HOPS = 1
MAX_INTERFACES = 8
DRAIN_DATAGRAMS = 32  # per wake-up

IP_MULTICAST_ALL, IPV6_MULTICAST_ALL = 49, 29  # Python's socket module does not name them
ADDRESSES6 = Path("/proc/thread-self/net/if_inet6")

log = logging.getLogger(__name__)


class MulticastLink:
    """The links of this machine. Needs a running event loop. `local()` are the endpoints we listen on: interfaces
    with other addresses only, above all that of our own virtual network, are left alone."""

    def __init__(self, local: Callable[[], Sequence[Endpoint]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._local = local
        self._received: Callable[[bytes, Place], None] = lambda datagram, place: None
        self._speaking: dict[int, socket.socket] = {}
        self._hearing: list[socket.socket] = []
        self._interfaces: dict[int, list[str] | list[int]] = {}
        self.refresh()

    def on_receive(self, received: Callable[[bytes, Place], None]) -> None:
        self._received = received

    def ask(self, datagram: bytes) -> None:
        for family, interfaces in self._interfaces.items():
            for interface in interfaces:
                self._ask_on(family, interface, datagram)

    def answer(self, to: Place, datagram: bytes) -> None:
        family = socket.AF_INET6 if ":" in to.address else socket.AF_INET
        if (speaking := self._speaking.get(family)) is not None:
            place = (to.address, to.port, 0, to.scope) if family == socket.AF_INET6 else to[:2]
            self._send(speaking, datagram, place)

    def refresh(self) -> None:
        """Listen on the interfaces that the machine's addresses now have, and on no others."""
        addresses = [endpoint.address for endpoint in self._local()]
        numbers = interface_numbers()
        interfaces: dict[int, list[str] | list[int]] = {
            socket.AF_INET: [each for each in addresses if ":" not in each][:MAX_INTERFACES],
            socket.AF_INET6: list(dict.fromkeys(numbers[each] for each in addresses if each in numbers))[
                :MAX_INTERFACES
            ],
        }
        if interfaces == self._interfaces:
            return
        self.close()
        self._interfaces = interfaces
        for family, own in interfaces.items():
            if own:
                try:
                    self._open(family, own)
                except OSError as error:
                    log.debug("no multicast with %s: %s", socket.AddressFamily(family).name, error)

    def close(self) -> None:
        """Nothing is called back afterwards."""
        for each in (*self._hearing, *self._speaking.values()):
            self._loop.remove_reader(each)
            each.close()
        self._hearing.clear()
        self._speaking.clear()
        self._interfaces = {}

    def _open(self, family: int, interfaces: Sequence[str | int]) -> None:
        """A socket to speak with, where answers arrive, and one for each interface that hears the group only."""
        speaking = self._speaking[family] = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            speaking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_UNICAST_HOPS):  # answers stay on the link too
                speaking.setsockopt(socket.IPPROTO_IPV6, option, HOPS)
            speaking.bind(("::", 0))
        else:
            for option in (socket.IP_MULTICAST_TTL, socket.IP_TTL):
                speaking.setsockopt(socket.IPPROTO_IP, option, HOPS)
            speaking.bind(("0.0.0.0", 0))
        self._loop.add_reader(speaking, self._drain, speaking)
        for interface in interfaces:
            try:
                self._hear_on(family, interface)
            except OSError as error:  # A tunnel may have no multicast.
                log.debug("cannot hear on interface %s: %s", interface, error)

    def _hear_on(self, family: int, interface: str | int) -> None:
        hearing = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._hearing.append(hearing)
        hearing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several nodes on one machine
        if isinstance(interface, int):
            hearing.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            hearing.setsockopt(socket.IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0)
            hearing.bind((GROUP6, PORT, 0, interface))
            joined = IPv6Address(GROUP6).packed + struct.pack("=I", interface)
            hearing.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joined)
        else:
            hearing.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
            hearing.bind((GROUP4, PORT))
            joined = socket.inet_aton(GROUP4) + socket.inet_aton(interface)
            hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        self._loop.add_reader(hearing, self._drain, hearing)

    def _ask_on(self, family: int, interface: str | int, datagram: bytes) -> None:
        speaking = self._speaking.get(family)
        if speaking is None:
            return
        if isinstance(interface, int):
            self._send(speaking, datagram, (GROUP6, PORT, 0, interface))
            return
        try:
            speaking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
        except OSError as error:
            log.debug("cannot ask on the interface of %s: %s", interface, error)
            return
        self._send(speaking, datagram, (GROUP4, PORT))

    def _send(self, speaking: socket.socket, datagram: bytes, to: tuple[str | int, ...]) -> None:
        try:
            speaking.sendto(datagram, to)
        except OSError as error:  # Lost, as any datagram may be.
            log.debug("not sent to %s: %s", to, error)

    def _drain(self, readable: socket.socket) -> None:
        for _ in range(DRAIN_DATAGRAMS):
            try:
                datagram, source = readable.recvfrom(DATAGRAM_BYTES + 1)
            except OSError:
                return
            self._received(datagram, Place(source[0].partition("%")[0], source[1], source[3] if len(source) > 2 else 0))
            if readable.fileno() < 0:
                return  # closed by what we just called


def interface_numbers() -> dict[str, int]:
    """The interface of each IPv6 address of this machine, as proc_net(5) lists them; empty without IPv6."""
    try:
        lines = ADDRESSES6.read_text().splitlines()
    except OSError:
        return {}
    return {str(IPv6Address(bytes.fromhex(fields[0]))): int(fields[1], 16) for fields in map(str.split, lines)}
