"""How simulated hosts are connected where it isn't simply one public address: sites behind boxes, several endpoints.

A *site* is a LAN behind a `NatBox`, with private addresses of its own, which other sites use as well; a site may
stand behind another site's box (a home behind its carrier). A datagram climbs from box to box until somebody lives
at its destination, crosses the internet with the network's latency, and is let in, or not, by the boxes on the far
side when it gets there. Loss, duplicates and jitter befall it once; cuts and partitions are looked at on arrival.

`Network` itself serves hosts with one public endpoint, and never comes here for a datagram between two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from dht.host import Endpoint
from sims.engine import SimHost
from sims.nat import NatBox, NatType, Preset

if TYPE_CHECKING:
    from sims.network import Network

HOP_S = 0.0005  # between two machines of a site, and through a box that leads to another one
DEFAULT_PORT = 7000
HOME_PREFIX, CARRIER_PREFIX = "10.0.", "100.64."  # RFC 1918, RFC 6598
MAX_DEPTH = 4  # boxes in a row
IPV6_HEADER_EXTRA_BYTES = 20  # more than IPv4's


class Interface(NamedTuple):
    """One of a host's endpoints, and the site it is in; None is the open internet."""

    endpoint: Endpoint
    site: Site | None = None


class Site:
    """A LAN behind a box. Made by `Access.site`. `place` is that of its carrier, or of the first host that moves in."""

    __slots__ = ("_access", "_homes", "_hosts", "_network", "_place", "_prefix", "_used", "box", "carrier")

    def __init__(self, access: Access, network: Network, box: NatBox, prefix: str, carrier: Site | None) -> None:
        self._access, self._network = access, network
        self._prefix = prefix
        self._place: int | None = None
        self._used = 1  # the first address is the box's own
        self._hosts: dict[Endpoint, SimHost] = {}
        self._homes: dict[str, Site] = {}
        self.box = box
        self.carrier = carrier

    def __repr__(self) -> str:
        return f"<Site behind {self.box.address}>"

    @property
    def translates(self) -> bool:
        """Whether the LAN has private addresses."""
        return self.box.type.translates

    @property
    def place(self) -> int | None:
        return self._place if self.carrier is None else self.carrier.place

    def settle(self, place: int) -> int:
        """Somebody from `place` moves in. Where the site is: where the first who moved in came from."""
        if self.carrier is not None:
            return self.carrier.settle(place)
        if self._place is None:
            self._place = place
        return self._place

    def free_address(self) -> str:
        """The next private address of the LAN: 10.0.0.2 is the first of every home."""
        self._used += 1
        if self._used > 65_534:
            raise ValueError(f"{self!r} has no address left")
        return f"{self._prefix}{self._used >> 8}.{self._used & 255}"

    def at(self, endpoint: Endpoint) -> SimHost | None:
        """The host that lives at `endpoint` of this LAN."""
        return self._hosts.get(endpoint)

    def admit(self, endpoint: Endpoint, host: SimHost) -> int:
        """A host moves in; returns the place it has here."""
        self._hosts[endpoint] = host
        return self.settle(host.place)

    def dismiss(self, endpoint: Endpoint) -> None:
        self._hosts.pop(endpoint, None)

    def home(self, address: str) -> Site | None:
        """The site whose box has this address of ours."""
        return self._homes.get(address)

    def admit_home(self, address: str, home: Site) -> None:
        self._homes[address] = home

    def dismiss_home(self, address: str) -> None:
        del self._homes[address]

    def depart(self, origin: SimHost, source: Endpoint, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """A datagram of `origin`, known here as `source`, is on its way out."""
        network, now = self._network, self._network.engine.now
        if to in self._hosts or to.address in self._homes:
            network.launch(HOP_S, self._enter, origin, source, to, datagram, traffic_class)
        elif to.address == self.box.address:
            turned = self.box.hairpin(source, to, now)
            if turned is None:
                network.counters["filtered"] += 1
            else:
                network.launch(HOP_S, self._enter, origin, turned.source, turned.to, datagram, traffic_class)
        elif self.translates and to.address.startswith(self._prefix):
            network.counters["unaddressed"] += 1
        else:
            outer = self.box.outbound(source, to, now)
            if outer is None:
                network.counters["filtered"] += 1
            elif self.carrier is not None:
                self.carrier.depart(origin, outer, to, datagram, traffic_class)
            else:
                self._access.cross(origin, outer, to, datagram, traffic_class)

    def arrive(self, origin: SimHost, source: Endpoint, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """A datagram from outside has come to the box, at its outer endpoint `to`."""
        inner = self.box.inbound(source, to, self._network.engine.now)
        if inner is None:
            self._network.counters["filtered"] += 1
        else:
            self._enter(origin, source, inner, datagram, traffic_class)

    def _enter(self, origin: SimHost, source: Endpoint, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """A datagram is on the LAN. What lives at `to` is looked up only now."""
        host = self._hosts.get(to)
        home = self._homes.get(to.address)
        if host is not None:
            self._network.hand(origin, host, source, datagram, traffic_class)
        elif home is not None:
            self._network.engine.post(HOP_S, home.arrive, origin, source, to, datagram, traffic_class)
        else:
            self._network.counters["unaddressed"] += 1


class Attachment:
    """What a host with several endpoints, or in a site, sends through: chooses the endpoint by the family of the
    destination. At most one interface a family."""

    __slots__ = ("_access", "_ipv4", "_ipv6", "_network", "interfaces")

    def __init__(self, access: Access, network: Network, interfaces: Sequence[Interface]) -> None:
        by_family = {":" in interface.endpoint.address: interface for interface in interfaces}
        self._access, self._network = access, network
        self._ipv4, self._ipv6 = by_family.get(False), by_family.get(True)
        self.interfaces = tuple(interfaces)

    def carry(self, source: SimHost, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """Called by `SimHost.send`."""
        is_ipv6 = ":" in to.address
        interface = self._ipv6 if is_ipv6 else self._ipv4
        if interface is None:
            self._network.counters["unaddressed"] += 1
            return
        if is_ipv6 and source.header_bytes != 48:
            source.sent_bytes += IPV6_HEADER_EXTRA_BYTES
        if interface.site is None:
            self._access.cross(source, interface.endpoint, to, datagram, traffic_class)
        else:
            interface.site.depart(source, interface.endpoint, to, datagram, traffic_class)


class Access:
    """The sites of a network, and the hosts that are not simply at one public endpoint: `Network.access`."""

    __slots__ = ("_attachments", "_network", "_outer", "_public")

    def __init__(self, network: Network) -> None:
        self._network = network
        self._outer: dict[str, Site] = {}  # by public address: a NAT's, or that of a host behind a firewall
        self._public: dict[Endpoint, SimHost] = {}  # public endpoints of hosts that have others besides
        self._attachments: dict[int, Attachment] = {}  # by host index

    @property
    def in_use(self) -> bool:
        """Whether any host is behind a box, or has several addresses."""
        return bool(self._attachments or self._outer)

    def site(self, type_: NatType, address: str = "", carrier: Site | None = None, prefix: str = HOME_PREFIX) -> Site:
        """A new site behind a box of this type, whose outer address is `address`, by default the next of `carrier`'s.
        A firewall needs none: its hosts have public addresses. `prefix` begins the addresses of the LAN. Raises
        ValueError for an address that is missing or taken, and for too many boxes in a row."""
        depth, above = 1, carrier
        while above is not None:
            depth, above = depth + 1, above.carrier
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} boxes in a row")
        if not type_.translates:
            address = ""
        elif not address:
            if carrier is None:
                raise ValueError("a NAT needs a public address, unless a carrier gives it one")
            address = carrier.free_address()
        site = Site(self, self._network, NatBox(type_, address, self._network.engine.rng), prefix, carrier)
        if type_.translates:
            self._announce(address, site)
        return site

    def behind(self, preset: Preset, address: str, address6: str = "", port: int = DEFAULT_PORT) -> list[Interface]:
        """Builds the boxes of `preset` and returns the interfaces for a host there, to give to `Network.host`: for IPv4
        behind the boxes, the outermost of which has the public `address`, for IPv6 at `address6` itself."""
        interfaces = []
        if preset.ipv4:
            site: Site | None = None
            for above, type_ in enumerate(reversed(preset.boxes), start=1):
                prefix = HOME_PREFIX if above == len(preset.boxes) else CARRIER_PREFIX
                site = self.site(type_, address if site is None else "", site, prefix)
            inner = site.free_address() if site is not None and site.translates else address
            interfaces.append(Interface(Endpoint(inner, port), site))
        if preset.ipv6:
            interfaces.append(Interface(Endpoint(address6, port)))
        return interfaces

    def renumber(self, site: Site, address: str) -> None:
        """The box gets another outer address, as from a provider every night, and forgets everything. Raises
        ValueError when another box has it."""
        if address == site.box.address:
            raise ValueError(f"{address} is the box's address already")
        self._announce(address, site)
        if site.carrier is not None:
            site.carrier.dismiss_home(site.box.address)
        else:
            del self._outer[site.box.address]
        site.box.address = address
        site.box.rebind()

    def check(self, interfaces: Sequence[Interface]) -> None:
        """Raises ValueError for interfaces that don't go together, or where somebody lives."""
        if not interfaces or len({":" in endpoint.address for endpoint, _ in interfaces}) != len(interfaces):
            raise ValueError("a host has one or two interfaces, one a family")
        for endpoint, site in interfaces:
            if self.at(endpoint, site) is not None:
                raise ValueError(f"a host already lives at {endpoint}")

    def admit(self, host: SimHost, interfaces: Sequence[Interface]) -> Attachment:
        """Plug a host in, where `check` found nothing wrong."""
        attachment = Attachment(self, self._network, interfaces)
        for endpoint, site in interfaces:
            if site is not None and not site.translates:
                self._announce(endpoint.address, site)
        for endpoint, site in interfaces:
            if site is None:
                self._public[endpoint] = host
            else:
                host.place = site.admit(endpoint, host)
        self._attachments[host.index] = attachment
        return attachment

    def dismiss(self, host: SimHost) -> bool:
        """Unplug a host; False when it is none of ours."""
        attachment = self._attachments.pop(host.index, None)
        if attachment is None:
            return False
        for endpoint, site in attachment.interfaces:
            if site is None:
                del self._public[endpoint]
            else:
                site.dismiss(endpoint)
        return True

    def at(self, endpoint: Endpoint, site: Site | None = None) -> SimHost | None:
        """The host that lives at `endpoint`, in `site` or publicly."""
        return (self._public.get(endpoint) or self._network.at(endpoint)) if site is None else site.at(endpoint)

    def interfaces(self, host: SimHost) -> Sequence[Interface]:
        """Where `host` is plugged in."""
        attachment = self._attachments.get(host.index)
        return (Interface(host.endpoint),) if attachment is None else attachment.interfaces

    def cross(self, origin: SimHost, source: Endpoint, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """Over the internet, from the public endpoint `source` to a public endpoint."""
        network = self._network
        host, site = self.at(to), self._outer.get(to.address)
        if (":" in source.address) is not (":" in to.address) or (host is None and site is None):
            network.counters["unaddressed"] += 1
        elif host is not None:
            delay_s = network.latency.one_way_s(origin.place, host.place)
            network.launch(delay_s, self._land, origin, source, to, datagram, traffic_class)
        elif site is not None:
            delay_s = network.latency.one_way_s(origin.place, origin.place if site.place is None else site.place)
            network.launch(delay_s, site.arrive, origin, source, to, datagram, traffic_class)

    def _land(self, origin: SimHost, source: Endpoint, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        host = self.at(to)
        if host is None:
            self._network.counters["unaddressed"] += 1
        else:
            self._network.hand(origin, host, source, datagram, traffic_class)

    def _announce(self, address: str, site: Site) -> None:
        """From now on, what is sent to `address` comes to the box of `site`."""
        carrier = site.carrier
        taken = self._outer.get(address) if carrier is None else carrier.home(address)
        if taken not in (None, site):
            raise ValueError(f"{address} is another box's")
        if carrier is None:
            self._outer[address] = site
        else:
            carrier.admit_home(address, site)
