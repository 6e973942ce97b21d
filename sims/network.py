"""Carries datagrams between simulated hosts: latency, jitter, loss, duplicates, cuts and partitions.

What arrives, arrives in a later event, never within `send`. A datagram to an address where nobody lives is lost
without notice, as on the real network. It never looks into datagrams and knows nothing of the protocol.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable

from dht.host import Endpoint
from sims.engine import Engine, HostState, SimHost
from sims.latency import Latency

MAX_DATAGRAM_BYTES = 65_507  # 65,535 less the IPv4 and UDP headers
FIRST_ADDRESS = int(ipaddress.IPv4Address("10.0.0.1"))
DEFAULT_PORT = 7000


class Network:
    """The only network of its world. `counters` says what became of the datagrams that did not simply arrive:
    lost, duplicated, cut, unaddressed, oversized, unread."""

    __slots__ = (
        "_cuts",
        "_hosts",
        "_places",
        "counters",
        "duplicate",
        "engine",
        "jitter_s",
        "latency",
        "loss",
        "made",
    )

    def __init__(
        self, engine: Engine, latency: Latency, loss: float = 0.0, duplicate: float = 0.0, jitter_s: float = 0.0
    ) -> None:
        self.engine = engine
        self.latency = latency
        self.loss, self.duplicate, self.jitter_s = loss, duplicate, jitter_s
        self.counters: Counter[str] = Counter()
        self.made = 0
        self._hosts: dict[Endpoint, SimHost] = {}
        self._places: dict[Endpoint, int] = {}
        self._cuts: set[tuple[int, int]] = set()

    def host(self, endpoint: Endpoint | None = None, place: int | None = None) -> SimHost:
        """A new host, at `endpoint` or at the next free address of 10.0.0.0/8. ValueError when one lives there.

        `place` is its number in the latency model: by default that of the host that lived there last (a restarted
        machine is where it was), else the next one.
        """
        if endpoint is None:
            endpoint = self._free_endpoint()
        if endpoint in self._hosts:
            raise ValueError(f"a host already lives at {endpoint}")
        if place is None:
            place = self._places.get(endpoint, self.made)
        host = SimHost(self.engine, self, endpoint, index=self.made, place=place)
        self.made += 1
        self._places[endpoint] = place
        self._hosts[endpoint] = host
        return host

    def hosts(self) -> list[SimHost]:
        """All hosts that are not down, in the order of their creation."""
        return sorted(self._hosts.values(), key=lambda host: host.index)

    def at(self, endpoint: Endpoint) -> SimHost | None:
        """The host that lives at `endpoint`."""
        return self._hosts.get(endpoint)

    def crash(self, host: SimHost) -> None:
        """The process dies without a word. To restart it, ask for a new host at the same endpoint."""
        host.halt(HostState.DOWN)
        if self._hosts.get(host.endpoint) is host:
            del self._hosts[host.endpoint]

    def freeze(self, host: SimHost) -> None:
        """SIGSTOP: timers wait, and arriving datagrams too, up to a socket buffer full."""
        host.halt(HostState.FROZEN)

    def thaw(self, host: SimHost) -> None:
        """SIGCONT."""
        host.thaw()

    def move(self, host: SimHost, endpoint: Endpoint, place: int | None = None) -> None:
        """The host roams to another address, which it is told; its old address is dead from now on."""
        if endpoint in self._hosts:
            raise ValueError(f"a host already lives at {endpoint}")
        if self._hosts.get(host.endpoint) is not host:
            raise ValueError(f"{host} is not on this network")
        del self._hosts[host.endpoint]
        self._hosts[endpoint] = host
        if place is not None:
            host.place = place
        self._places[endpoint] = host.place
        host.relocate(endpoint)

    def partition(self, groups: Iterable[Iterable[SimHost]]) -> None:
        """Only hosts of the same group reach each other. Hosts in no group, and new ones, form one more group."""
        for host in self._hosts.values():
            host.group = 0
        for number, group in enumerate(groups, start=1):
            for host in group:
                host.group = number

    def cut(self, a: SimHost, b: SimHost, both_ways: bool = True) -> None:
        """Nothing passes any longer from `a` to `b`, nor back unless `both_ways` is False."""
        self._cuts.add((a.index, b.index))
        if both_ways:
            self._cuts.add((b.index, a.index))

    def mend(self, a: SimHost, b: SimHost) -> None:
        """Undo `cut`, in both directions."""
        self._cuts -= {(a.index, b.index), (b.index, a.index)}

    def heal(self) -> None:
        """Undo every partition and every cut."""
        self.partition(())
        self._cuts.clear()

    def carry(self, source: SimHost, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """Called by `SimHost.send`."""
        destination = self._hosts.get(to)
        if destination is None:
            self.counters["unaddressed"] += 1
            return
        if source.group != destination.group or (self._cuts and (source.index, destination.index) in self._cuts):
            self.counters["cut"] += 1
            return
        if len(datagram) > MAX_DATAGRAM_BYTES:
            self.counters["oversized"] += 1
            return
        engine = self.engine
        delay_s = self.latency.one_way_s(source.place, destination.place)
        copies = 1
        if self.duplicate and engine.rng.random() < self.duplicate:
            self.counters["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            if self.loss and engine.rng.random() < self.loss:
                self.counters["lost"] += 1
                continue
            jitter_s = engine.rng.random() * self.jitter_s if self.jitter_s else 0.0
            engine.post(delay_s + jitter_s, self._arrive, source.index, source.endpoint, to, datagram, traffic_class)

    def _arrive(self, sender: int, source: Endpoint, to: Endpoint, datagram: bytes, traffic_class: int) -> None:
        # Looked up again: meanwhile the host may have moved, or another process may have taken the endpoint.
        destination = self._hosts.get(to)
        if destination is None:
            self.counters["unaddressed"] += 1
            return
        self.engine.trace(sender, destination.index, len(datagram))
        if not destination.deliver(datagram, source, traffic_class):
            self.counters["unread"] += 1

    def _free_endpoint(self) -> Endpoint:
        number = self.made
        while True:
            endpoint = Endpoint(str(ipaddress.IPv4Address(FIRST_ADDRESS + number)), DEFAULT_PORT)
            if endpoint not in self._hosts and endpoint not in self._places:
                return endpoint
            number += 1
