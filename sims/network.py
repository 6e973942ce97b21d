"""Carries datagrams between simulated hosts.

What arrives, arrives in a later event, never within `send`. A datagram to an address where nobody lives is lost
without notice, as on the real network. It never looks into datagrams and knows nothing of the protocol.

| what may happen | set by | which datagrams |
|---|---|---|
| latency | `latency` (`sims.latency`) | all, by the places of both hosts; same places, same delay |
| jitter | `jitter_s` | each by itself: evenly between 0 and that, so it reorders too |
| loss, duplicates | `loss`, `duplicate` | each by itself, with that probability |
| serialization and queueing | `limit` (`sims.link`) | those of hosts with a limited link, at their ends; drop-tail |
| a line's own loss and jitter | `limit` (`sims.link`) | those of hosts with such a link, at their ends |
| partitions | `partition`, `heal` | all between hosts of different groups |
| cuts | `cut`, `mend`, `heal` | all from one host to another, or both ways |
| broken links | `break_links` | all between a share of the pairs of places, whoever lives there; by hash, no table |
| NATs and firewalls | `access` (`sims.access`, `sims.nat`) | those of hosts in sites, by the rules of their boxes |

All chance comes from the engine's one generator; what isn't set draws no numbers and costs no time.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from dht.host import Endpoint
from sims.access import DEFAULT_PORT, Access, Interface
from sims.engine import Carrier, Engine, HostState, SimHost
from sims.latency import Latency
from sims.link import AccessLink, Pipe

MAX_DATAGRAM_BYTES = 65_507  # 65,535 less the IPv4 and UDP headers
FIRST_ADDRESS = int(ipaddress.IPv4Address("10.0.0.1"))
HASH_BITS = (1 << 64) - 1


class Network:
    """The only network of its world. `counters` says what became of the datagrams that did not simply arrive:
    lost, duplicated, cut, queue_full_up, queue_full_down, filtered by a box, unaddressed, oversized, unread. `access`
    makes sites behind boxes."""

    __slots__ = (
        "_alive",
        "_broken",
        "_broken_salt",
        "_cuts",
        "_down",
        "_here",
        "_hosts",
        "_places",
        "_up",
        "access",
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
        self.access = Access(self)
        self._alive: dict[int, SimHost] = {}  # by index
        self._hosts: dict[Endpoint, SimHost] = {}  # those with one public endpoint
        self._places: dict[Endpoint, int] = {}
        self._up: dict[int, Pipe] = {}  # by host index: the limited links
        self._down: dict[int, Pipe] = {}
        self._cuts: set[tuple[int, int]] = set()
        self._broken, self._broken_salt = 0, 0
        self._here: Callable[[SimHost], bool] | None = None

    def host(self, where: Endpoint | Sequence[Interface] | None = None, place: int | None = None) -> SimHost:
        """A new host, at a public endpoint, by default at the next free address of 10.0.0.0/8, or with interfaces as
        `Access.behind` makes them. ValueError when one lives there.

        `place` is its number in the latency model: by default that of the host that lived there last (a restarted
        machine is where it was), else the next one. In a site, only the first host has a say.
        """
        self._check_unsealed()
        interfaces = _interfaces(self._free_endpoint() if where is None else where)
        self.access.check(interfaces)
        endpoint = interfaces[0].endpoint
        if place is None:
            place = self._places.get(endpoint, self.made)
        host = SimHost(self.engine, self, endpoint, index=self.made, place=place)
        host.plug(self._settle(host, interfaces), [interface.endpoint for interface in interfaces])
        self.made += 1
        self._alive[host.index] = host
        return host

    def hosts(self) -> list[SimHost]:
        """All hosts that are not down, in the order of their creation; in a shard of a world, its own."""
        here = self._here
        return [host for host in self._alive.values() if here is None or here(host)]

    def seal(self, here: Callable[[SimHost], bool]) -> None:
        """From now on this is one shard's network, of the hosts for which `here` holds. None is added or moved, as the
        others wouldn't know."""
        self._here = here

    def at(self, endpoint: Endpoint) -> SimHost | None:
        """The host whose one endpoint is the public `endpoint`."""
        return self._hosts.get(endpoint)

    def crash(self, host: SimHost) -> None:
        """The process dies without a word. To restart it, ask for a new host at the same endpoint."""
        host.halt(HostState.DOWN)
        if self._alive.pop(host.index, None) is not None:
            self._remove(host)
            self.limit(host, None)

    def freeze(self, host: SimHost) -> None:
        """SIGSTOP: timers wait, and arriving datagrams too, up to a socket buffer full."""
        host.halt(HostState.FROZEN)

    def thaw(self, host: SimHost) -> None:
        """SIGCONT."""
        host.thaw()

    def move(self, host: SimHost, where: Endpoint | Sequence[Interface], place: int | None = None) -> None:
        """The host roams to other addresses, which it is told; its old ones are dead from now on. ValueError when
        another lives there."""
        self._check_unsealed()
        interfaces = _interfaces(where)
        self.access.check(interfaces)
        if host.index not in self._alive:
            raise ValueError(f"{host} is not on this network")
        self._remove(host)
        if place is not None:
            host.place = place
        host.relocate(self._settle(host, interfaces), [interface.endpoint for interface in interfaces])

    def limit(self, host: SimHost, link: AccessLink | None) -> None:
        """From now on `host` sends and receives through `link`; None: without limit. What is under way is not held
        up, and a host that moves keeps its link."""
        up, down = (None, None) if link is None else link.pipes()
        for pipes, pipe in ((self._up, up), (self._down, down)):
            if pipe is None:
                pipes.pop(host.index, None)
            else:
                pipes[host.index] = pipe

    def partition(self, groups: Iterable[Iterable[SimHost]]) -> None:
        """Only hosts of the same group reach each other. Hosts in no group, and new ones, form one more group."""
        for host in self._alive.values():
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

    def break_links(self, fraction: float, salt: int = 0) -> None:
        """Nothing passes between this fraction of all pairs of places, whoever lives there: the same pairs for the
        same seed and `salt`, both ways, with no table. 0 mends them. `heal` does not."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"a fraction is from 0 to 1, not {fraction}")
        self._broken = int(fraction * (HASH_BITS + 1))
        self._broken_salt = _mix(_mix(self.engine.seed & HASH_BITS) ^ (salt & HASH_BITS))

    def heal(self) -> None:
        """Undo every partition and every cut."""
        self.partition(())
        self._cuts.clear()

    def carry(self, source: SimHost, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """Called by `SimHost.send` of hosts with one public endpoint."""
        destination = self._hosts.get(to)
        if destination is None or destination.header_bytes != source.header_bytes:
            self.access.cross(source, source.endpoint, to, datagram, traffic_class)
            return
        if source.group != destination.group or ((self._cuts or self._broken) and self._parted(source, destination)):
            self.counters["cut"] += 1
            return
        delay_s = self.latency.one_way_s(source.place, destination.place)
        self.launch(delay_s, self.arrive, source, source.endpoint, to, datagram, traffic_class)

    def launch(
        self,
        delay_s: float,
        arrive: Callable[[SimHost, Endpoint, Endpoint, bytes, int], None],
        origin: SimHost,
        source: Endpoint,
        to: Endpoint,
        datagram: bytes,
        traffic_class: int = 0,
    ) -> None:
        """Call `arrive` with the rest in `delay_s` seconds and jitter, once, twice, or never."""
        engine = self.engine
        if not (self._up or self.loss or self.duplicate or self.jitter_s) and len(datagram) <= MAX_DATAGRAM_BYTES:
            engine.post(delay_s, arrive, origin, source, to, datagram, traffic_class)
            return
        for after_s in self._delays_s(delay_s, origin, len(datagram)):
            engine.post(after_s, arrive, origin, source, to, datagram, traffic_class)

    def depart(self, source: SimHost, destination: SimHost, size_bytes: int) -> list[float]:
        """A datagram leaves `source` for `destination`, both public and of one IP version: in how many seconds each of
        its copies, none when it is lost, is at the far end of the way."""
        if source.group != destination.group or self._parted(source, destination):
            self.counters["cut"] += 1
            return []
        return self._delays_s(self.latency.one_way_s(source.place, destination.place), source, size_bytes)

    def _delays_s(self, delay_s: float, origin: SimHost, size_bytes: int) -> list[float]:
        """What becomes of `delay_s` by `origin`'s link, loss, duplication and jitter: one value a copy."""
        if size_bytes > MAX_DATAGRAM_BYTES:
            self.counters["oversized"] += 1
            return []
        rng = self.engine.rng
        if self._up and (pipe := self._up.get(origin.index)) is not None:
            through_s = pipe.passes_in(size_bytes + origin.header_bytes, self.engine.now)
            if through_s is None:
                self.counters["queue_full_up"] += 1
                return []
            if pipe.loss and rng.random() < pipe.loss:
                self.counters["lost"] += 1
                return []
            delay_s += through_s
            if pipe.jitter_s:
                delay_s += rng.random() * pipe.jitter_s
        copies = 1
        if self.duplicate and rng.random() < self.duplicate:
            self.counters["duplicated"] += 1
            copies = 2
        delays_s = []
        for _ in range(copies):
            if self.loss and rng.random() < self.loss:
                self.counters["lost"] += 1
                continue
            delays_s.append(delay_s + (rng.random() * self.jitter_s if self.jitter_s else 0.0))
        return delays_s

    def arrive(self, origin: SimHost, source: Endpoint, to: Endpoint, datagram: bytes, traffic_class: int = 0) -> None:
        """What `origin` sent from `source`, both ends public, is at the far end of the way to `to`."""
        # Looked up again: meanwhile the host may have moved, or another process may have taken the endpoint.
        destination = self._hosts.get(to)
        if destination is None:
            self.counters["unaddressed"] += 1
            return
        if self._down:
            self._come(origin, destination, source, datagram, traffic_class)
            return
        self.engine.trace(origin.index, destination.index, len(datagram))
        if not destination.deliver(datagram, source, traffic_class):
            self.counters["unread"] += 1

    def hand(
        self, origin: SimHost, destination: SimHost, source: Endpoint, datagram: bytes, traffic_class: int = 0
    ) -> None:
        """What `origin` sent has come all the way to `destination`, which sees it come from `source`."""
        if origin.group != destination.group or self._parted(origin, destination):
            self.counters["cut"] += 1
            return
        self._come(origin, destination, source, datagram, traffic_class)

    def deliver(
        self, origin: SimHost, destination: SimHost, source: Endpoint, datagram: bytes, traffic_class: int
    ) -> None:
        """A datagram has come through `destination`'s link."""
        self.engine.trace(origin.index, destination.index, len(datagram))
        if not destination.deliver(datagram, source, traffic_class):
            self.counters["unread"] += 1

    def _come(
        self, origin: SimHost, destination: SimHost, source: Endpoint, datagram: bytes, traffic_class: int
    ) -> None:
        """A datagram is at the far end of `destination`'s link."""
        if self._down and (pipe := self._down.get(destination.index)) is not None:
            through_s = pipe.passes_in(len(datagram) + destination.header_bytes, self.engine.now)
            rng = self.engine.rng
            if through_s is None:
                self.counters["queue_full_down"] += 1
            elif pipe.loss and rng.random() < pipe.loss:
                self.counters["lost"] += 1
            else:
                if pipe.jitter_s:
                    through_s += rng.random() * pipe.jitter_s
                self.engine.post(through_s, self.deliver, origin, destination, source, datagram, traffic_class)
            return
        self.deliver(origin, destination, source, datagram, traffic_class)

    def _parted(self, a: SimHost, b: SimHost) -> bool:
        """Whether a cut or a broken link keeps `b` from hearing `a`."""
        if (a.index, b.index) in self._cuts:
            return True
        if not self._broken or a.place == b.place:
            return False
        low, high = (a.place, b.place) if a.place < b.place else (b.place, a.place)
        return _mix(_mix(self._broken_salt ^ low) ^ high) < self._broken

    def _check_unsealed(self) -> None:
        if self._here is not None:
            raise ValueError("in a world that is shared out, no host can be added or moved")

    def _settle(self, host: SimHost, interfaces: Sequence[Interface]) -> Carrier:
        """Let the host live there; returns what it sends through."""
        first = interfaces[0]
        carrier: Carrier = self
        if len(interfaces) == 1 and first.site is None:
            self._hosts[first.endpoint] = host
        else:
            carrier = self.access.admit(host, interfaces)
        for endpoint, site in interfaces:
            if site is None:
                self._places[endpoint] = host.place
        return carrier

    def _remove(self, host: SimHost) -> None:
        if not self.access.dismiss(host):
            del self._hosts[host.endpoint]

    def _free_endpoint(self) -> Endpoint:
        number = self.made
        while True:
            endpoint = Endpoint(str(ipaddress.IPv4Address(FIRST_ADDRESS + number)), DEFAULT_PORT)
            if endpoint not in self._hosts and endpoint not in self._places:
                return endpoint
            number += 1


def _interfaces(where: Endpoint | Sequence[Interface]) -> Sequence[Interface]:
    return (Interface(where),) if isinstance(where, Endpoint) else where


def _mix(number: int) -> int:
    """Spreads 64 bits over 64 bits: the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    number = (number + 0x9E3779B97F4A7C15) & HASH_BITS
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & HASH_BITS
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & HASH_BITS
    return number ^ (number >> 31)
