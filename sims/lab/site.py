"""A place on the laboratory's internet †: a public plug, or a router with its NAT and a LAN behind it, or two in a row.

Every home has the same addresses inside, 192.168.1.0/24, as homes do. Outside, the internet is one link with
198.18.0.0/16 and 2001:db8::/64, and a default gateway that drops whatever it gets, as an internet provider drops what
is for private addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from sims.lab.lab import PORT, LabHost
from sims.lab.namespace import Namespace
from sims.lab.plan import Family, Firewall, HostPlan, NatType, SitePlan
from sims.lab.router import Router, sysctl
from sims.lab.switch import Port, Switch, nft
from sims.lab.wires import Wires

GATEWAY4, GATEWAY6 = "198.18.255.254", "2001:db8::ffff"
HOST_FIREWALL = """\
table inet firewall {
    chain arriving {
        type filter hook input priority 0
        ct state established,related accept
        meta l4proto ipv6-icmp accept
        iifname "eth0" drop
    }
}
"""


class Internet:
    """The switch in the middle, and who has which address on it."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        self.namespace = Namespace("the internet")
        self._numbers = count(1)
        try:
            self.switch = Switch(self.namespace, "br0", wires)
            self.namespace.ip(f"addr add {GATEWAY4}/16 dev br0", f"addr add {GATEWAY6}/64 dev br0 nodad")
            sysctl(self.namespace, "net.ipv4.ip_forward=0")
        except BaseException:
            self.close()
            raise

    def new_number(self) -> int:
        return next(self._numbers)

    def join(self, machine: Namespace) -> tuple[str, str]:
        """Plug in a machine that is no host of a plan, as `eth0`; its IPv4 and IPv6 addresses. It leaves when its
        namespace goes."""
        number = self.new_number()
        self.switch.plug(machine.name, machine, "eth0", None)
        machine.ip(
            f"addr add {address4(number)}/16 dev eth0",
            f"addr add {address6(number)}/64 dev eth0 nodad",
            f"route add default via {GATEWAY4}",
            f"route add default via {GATEWAY6}",
        )
        return address4(number), address6(number)

    def close(self) -> None:
        self.namespace.close()


def address4(number: int) -> str:
    return f"198.18.{number >> 8}.{number & 255}"


def address6(number: int, inside: int = 0) -> str:
    """Of a machine on the internet itself, or of one inside the site of that number."""
    return f"2001:db8::{number:x}:{inside:x}" if inside else f"2001:db8::{number:x}"


class NatHost(LabHost):
    """A machine at a site. `underlay4` and `underlay6` are its own addresses there, empty where it has none; what
    others see of it is for its NAT to say. Its node's port is its own: home routers keep ports, so two hosts behind
    one would else contend for the same."""

    def __init__(self, plan: HostPlan, number: int, folder: Path) -> None:
        super().__init__(plan.name, number, folder)
        self.plan = plan
        self.port = PORT + number - 1
        self.underlay4 = self.underlay6 = ""
        self.site: Site | None = None
        self.link: Port | None = None

    def ports(self) -> Iterator[Port]:
        """Where its traffic enters a switch, from its own link outwards."""
        if self.link is not None:
            yield self.link
        if self.site is not None:
            yield from self.site.ports


class Site:
    """One place. Hosts come and go with `attach` and `detach`."""

    def __init__(self, plan: SitePlan, internet: Internet) -> None:
        self.plan = plan
        self.outside4 = ""
        self.routers: list[Router] = []  # From the hosts outwards.
        self.ports: list[Port] = []  # Of the routers, in the same order.
        self._internet = internet
        self._insides = count(2)
        self._number = 0
        try:
            if plan.nat is not NatType.PUBLIC:
                self._build(plan.nat)
        except BaseException:
            self.close()
            raise

    def _build(self, nat: NatType) -> None:
        name, internet = self.plan.name, self._internet
        self._number = internet.new_number()
        self.outside4 = address4(self._number)
        self._add_router(f"the router of {name}", nat, "192.168.1.1/24")
        if self.plan.carrier is not None:
            self._add_router(f"the carrier of {name}", self.plan.carrier, "100.64.0.1/24")
            home, carrier = self.routers
            self.ports.append(carrier.lan.plug(name, home.namespace, "wan", None))
            home.set_wan("100.64.0.2", 24, "100.64.0.1")
        outermost = self.routers[-1]
        self.ports.append(internet.switch.plug(name, outermost.namespace, "wan", self.plan.wire))
        outermost.set_wan(self.outside4, 16, GATEWAY4)
        if self.plan.ip is Family.DUAL:
            outermost.set_wan6(address6(self._number))
        if self.plan.firewall is Firewall.NO_UDP:
            internet.switch.block_udp(self.ports[-1])

    def _add_router(self, name: str, nat: NatType, lan: str) -> None:
        self.routers.append(Router(name, self.plan, nat, lan, self._internet.wires))

    @property
    def switches(self) -> Sequence[Switch]:
        return [router.lan for router in self.routers]

    def attach(self, host: NatHost) -> None:
        """Plug a host in, with new addresses."""
        public = not self.routers
        switch = self._internet.switch if public else self.routers[0].lan
        impairment = host.plan.wire or (self.plan.wire if public else None)
        host.link = switch.plug(host.name, host.namespace, "eth0", impairment)
        host.site = self
        self._give_addresses(host)
        if public and self.plan.firewall is not Firewall.OPEN:
            nft(host.namespace, HOST_FIREWALL)
            if self.plan.firewall is Firewall.NO_UDP:
                switch.block_udp(host.link)

    def detach(self, host: NatHost) -> None:
        assert host.link is not None
        if not self.routers and self.plan.firewall is not Firewall.OPEN:
            nft(host.namespace, "delete table inet firewall")
        if self.routers and host.underlay6:
            self.routers[0].forget(host.underlay6)
        host.link.switch.unplug(host.link)
        host.link = host.site = None
        host.underlay4 = host.underlay6 = ""

    def readdress(self, host: NatHost) -> None:
        """Take a host's addresses away and give it others, on the link it has."""
        if self.routers and host.underlay6:
            self.routers[0].forget(host.underlay6)
        host.namespace.ip("addr flush dev eth0 scope global")
        self._give_addresses(host)

    def _give_addresses(self, host: NatHost) -> None:
        inside = next(self._insides)
        number = self._number or self._internet.new_number()
        lines = []
        if self.plan.ip is not Family.IPV6:
            host.underlay4 = f"192.168.1.{inside}" if self.routers else address4(number)
            length, gateway = (24, "192.168.1.1") if self.routers else (16, GATEWAY4)
            lines += [f"addr add {host.underlay4}/{length} dev eth0", f"route replace default via {gateway}"]
        if self.plan.ip is not Family.IPV4:
            host.underlay6 = address6(number, inside if self.routers else 0)
            length, gateway = (128, "fe80::1 dev eth0") if self.routers else (64, GATEWAY6)
            lines += [f"addr add {host.underlay6}/{length} dev eth0 nodad", f"route replace default via {gateway}"]
            if self.routers:
                self.routers[0].answer_for(host.underlay6)
        host.namespace.ip(*lines)

    def rebind(self) -> None:
        """All its NATs lose their mappings, and give others for what goes on."""
        for router in self.routers:
            router.rebind()

    def close(self) -> None:
        for router in self.routers:
            router.close()
