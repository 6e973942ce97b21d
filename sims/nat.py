"""Boxes between hosts and the internet: NATs as RFC 4787 classifies them, carrier NATs, stateful firewalls.

A box keeps *flows*, as Linux's conntrack does: who inside speaks with whom outside, and as what endpoint the outside
knows it. What a box does with the first datagram of a flow is data, a `NatType`. The named types behave as the
nftables recipes do with which real ones are built in network namespaces, down to two of Linux's habits: hosts behind
one box share an outer port as long as they speak with different remotes, and timers are conntrack's.

Pure: no clock, no events; it never sends anything and never sees a datagram, only its endpoints.
Source: RFC 4787, sections 4 to 6; RFC 5382 and 6888 have nothing for UDP that this leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, NamedTuple, TypeVar

from dht.host import Endpoint, Rng

TIMEOUT_S = 30.0  # net.netfilter.nf_conntrack_udp_timeout
STREAM_TIMEOUT_S = 120.0  # net.netfilter.nf_conntrack_udp_timeout_stream
STREAM_AFTER_S = 2.0  # a flow that is older and has seen an answer is a stream
MAX_FLOWS = 65_536
FIRST_PORT, LAST_PORT = 1024, 65_535
PORT_TRIES = 128  # as many as Linux makes before it gives a flow up
SWEEP_ABOVE = 64

K = TypeVar("K")


class Dependence(Enum):
    """What of the remote endpoint a mapping, or a filter, depends on (RFC 4787, sections 4.1 and 5)."""

    ENDPOINT_INDEPENDENT = "EI"
    ADDRESS_DEPENDENT = "AD"
    ADDRESS_AND_PORT_DEPENDENT = "APD"


EI = Dependence.ENDPOINT_INDEPENDENT
AD = Dependence.ADDRESS_DEPENDENT
APD = Dependence.ADDRESS_AND_PORT_DEPENDENT


class Ports(Enum):
    """How a box chooses outer ports (RFC 4787, section 4.2)."""

    OVERLOAD = auto()  # the inner port, shared by inner endpoints unless they speak with the same remote: Linux
    PRESERVE = auto()  # the inner port, unless another inner endpoint has it
    RANDOM = auto()
    SEQUENTIAL = auto()


@dataclass(frozen=True, slots=True)
class NatType:
    """How a box behaves. With `translates` False it is a firewall: nothing is rewritten, only filtered.

    `mapping` is how the choice of an outer port depends on the remote; with OVERLOAD it is EI as long as no two
    inner endpoints of one port speak with one remote, and only the last of them to send is there for strangers.
    `inbound_refreshes` is about the timers of flows; that of an EI or AD filter is renewed by outbound datagrams
    only. `passes_new` False: no UDP, but for flows that have had an answer. `local_input` is the trap of Linux
    routers without a rule for input: an unsolicited datagram becomes a flow of the router itself, and takes the place
    that the host's own flow to that remote needs to keep its port. Times in seconds.
    """

    mapping: Dependence = EI
    filtering: Dependence = APD
    ports: Ports = Ports.OVERLOAD
    hairpins: bool = False
    timeout_s: float = TIMEOUT_S
    stream_timeout_s: float = STREAM_TIMEOUT_S
    inbound_refreshes: bool = True
    translates: bool = True
    passes_new: bool = True
    local_input: bool = False
    max_flows: int = MAX_FLOWS


FULL = NatType(EI, EI)
ADDR = NatType(EI, AD)
PORT = NatType(EI, APD)
SYM = NatType(APD, APD, Ports.RANDOM)
FIREWALL = NatType(EI, APD, translates=False)
UDP_BLOCKED = NatType(EI, APD, passes_new=False)


@dataclass(frozen=True, slots=True)
class Preset:
    """How a host is connected: the boxes before it, innermost first, which IPv6 ignores, and the families it has."""

    boxes: tuple[NatType, ...] = ()
    ipv4: bool = True
    ipv6: bool = False

    def hairpinning(self) -> Preset:
        """The same with boxes that hairpin."""
        return replace(self, boxes=tuple(replace(box, hairpins=True) for box in self.boxes))


PRESETS = {
    "public": Preset(),
    "full": Preset((FULL,)),
    "addr": Preset((ADDR,)),
    "port": Preset((PORT,)),
    "sym": Preset((SYM,)),
    "cgnat(port,port)": Preset((PORT, PORT)),
    "cgnat(port,sym)": Preset((PORT, SYM)),
    "ipv6-only": Preset(ipv4=False, ipv6=True),
    "dual-stack": Preset(ipv6=True),
    "port-dual-stack": Preset((PORT,), ipv6=True),
    "firewalled": Preset((FIREWALL,)),
    "udp-blocked": Preset((UDP_BLOCKED,)),
}


class Hairpin(NamedTuple):
    """A datagram from inside to inside, as its receiver sees it."""

    source: Endpoint
    to: Endpoint


class Flow:
    """One inner endpoint, one remote, and the outer endpoint between them. `outward`: the first datagram went out."""

    __slots__ = ("began_at", "expires_at", "inner", "outer", "outward", "remote", "replied")

    def __init__(self, inner: Endpoint, remote: Endpoint, outer: Endpoint, outward: bool, now: float) -> None:
        self.inner, self.remote, self.outer = inner, remote, outer
        self.outward = outward
        self.replied = False
        self.began_at = now
        self.expires_at = 0.0


class Timed(NamedTuple):
    """An endpoint and until when it is to be remembered."""

    endpoint: Endpoint
    until: float


class NatBox:
    """One box. `address` is its outer address, which a firewall does without. `type` may be replaced while it runs, as
    by an administrator. Every method takes the time in seconds; None stands for a datagram that is dropped."""

    __slots__ = (
        "_holders",
        "_inner_flows",
        "_mappings",
        "_next_port",
        "_opened",
        "_outer_flows",
        "_owners",
        "_rng",
        "_seized",
        "_shift",
        "_sweep_above",
        "_sweep_at",
        "address",
        "type",
    )

    def __init__(self, type_: NatType, address: str, rng: Rng) -> None:
        self.type = type_
        self.address = address
        self._rng = rng
        self._shift = 0
        self._next_port = FIRST_PORT
        self._forget()

    def __len__(self) -> int:
        """How many flows the table holds, live or not yet swept out."""
        return len(self._inner_flows)

    def outbound(self, inner: Endpoint, remote: Endpoint, now: float) -> Endpoint | None:
        """A datagram leaves: the outer endpoint that the remote will see, or None."""
        flow = self._send_out(inner, remote, now)
        if flow is None:
            return None
        self._claim(inner, flow, now)
        return flow.outer

    def inbound(self, remote: Endpoint, outer: Endpoint, now: float) -> Endpoint | None:
        """A datagram from `remote` has come to `outer`: the inner endpoint that gets it, or None."""
        flow = self._live(self._outer_flows.get((remote, outer)), now)
        if flow is not None:
            self._touch(flow, False, now)
            return flow.inner
        kind = self.type
        if not kind.passes_new:
            return None
        inner = self._owner(outer, now) if kind.filtering is not APD else None
        if inner is None:
            if kind.local_input and kind.translates:
                self._note(self._seized, (remote, outer), Timed(outer, now + kind.timeout_s))
            return None
        if kind.filtering is AD:
            opened = self._opened.get((remote.address, outer))
            if opened is None or opened.until <= now:
                return None
        return inner if self._add(inner, remote, outer, False, now) else None

    def hairpin(self, inner: Endpoint, to: Endpoint, now: float) -> Hairpin | None:
        """A datagram from inside to the box's own outer address: whom it is for and where from, or None.

        The receiver sees the sender's outer endpoint (RFC 4787, REQ-9). As with the recipe, whoever sends from inside
        is not filtered, and opens nothing to the outside. A host does not reach itself so.
        """
        if not self.type.hairpins or not self.type.translates:
            return None
        flow = self._live(self._inner_flows.get((inner, to)), now)
        back = None if flow is None else self._live(self._outer_flows.get((flow.outer, to)), now)
        target = self._owner(to, now) if back is None else back.inner
        if target is None:
            return None
        flow = self._send_out(inner, to, now)
        if flow is None:
            return None
        if back is not None:
            self._touch(back, False, now)
        elif self._add(target, flow.outer, to, False, now) is None:
            return None
        return Hairpin(flow.outer, target)

    def flush(self) -> None:
        """`conntrack -F`: flows are forgotten; which ports are open to strangers is not. Flows that begin again keep
        their ports only where the box preserves them."""
        self._inner_flows.clear()
        self._outer_flows.clear()
        self._mappings.clear()
        self._holders.clear()
        self._seized.clear()

    def rebind(self) -> None:
        """The box has restarted: it knows nothing, and hands out other ports than before, whatever its type."""
        self._forget()
        self._shift += self._rng.randrange(1, 1000)

    def _forget(self) -> None:
        self._inner_flows: dict[tuple[Endpoint, Endpoint], Flow] = {}  # by inner endpoint and remote
        self._outer_flows: dict[tuple[Endpoint, Endpoint], Flow] = {}  # by remote and outer endpoint
        self._mappings: dict[tuple[Endpoint, str], Timed] = {}  # by inner endpoint and remote address, or ""
        self._holders: dict[Endpoint, Timed] = {}  # by outer endpoint: who inside has it to itself
        self._owners: dict[Endpoint, Timed] = {}  # by outer endpoint: who gets what strangers send
        self._opened: dict[tuple[str, Endpoint], Timed] = {}  # by remote address and outer endpoint: an AD filter
        self._seized: dict[tuple[Endpoint, Endpoint], Timed] = {}  # by remote and outer endpoint: the box's own
        self._sweep_above, self._sweep_at = SWEEP_ABOVE, 0.0

    def _send_out(self, inner: Endpoint, remote: Endpoint, now: float) -> Flow | None:
        flow = self._live(self._inner_flows.get((inner, remote)), now)
        if flow is not None:
            if not self.type.passes_new and flow.outward and not flow.replied:
                return None
            self._touch(flow, True, now)
            return flow
        if not self.type.passes_new:
            return None
        outer = self._allocate(inner, remote, now)
        return None if outer is None else self._add(inner, remote, outer, True, now)

    def _add(self, inner: Endpoint, remote: Endpoint, outer: Endpoint, outward: bool, now: float) -> Flow | None:
        """A new flow; None when the table is full, or another flow has its place."""
        self._sweep(now)
        if len(self._inner_flows) >= self.type.max_flows:
            return None
        taken = self._live(self._inner_flows.get((inner, remote)), now)
        if taken is not None or self._live(self._outer_flows.get((remote, outer)), now) is not None:
            return None
        flow = Flow(inner, remote, outer, outward, now)
        self._inner_flows[inner, remote] = self._outer_flows[remote, outer] = flow
        self._touch(flow, outward, now)
        return flow

    def _live(self, flow: Flow | None, now: float) -> Flow | None:
        if flow is None or flow.expires_at > now:
            return flow
        self._drop(flow)
        return None

    def _drop(self, flow: Flow) -> None:
        del self._inner_flows[flow.inner, flow.remote]
        del self._outer_flows[flow.remote, flow.outer]

    def _touch(self, flow: Flow, outward: bool, now: float) -> None:
        """A datagram of this flow passes."""
        kind = self.type
        if outward is not flow.outward:
            flow.replied = True
        if not outward and not kind.inbound_refreshes and flow.expires_at:
            return
        stream = flow.replied and now > flow.began_at + STREAM_AFTER_S
        flow.expires_at = now + (kind.stream_timeout_s if stream else kind.timeout_s)
        if kind.translates and kind.ports is not Ports.OVERLOAD:
            self._hold(self._holders, flow.outer, Timed(flow.inner, flow.expires_at))
            # A stranger who was let in makes no mapping.
            if kind.mapping is EI or (kind.mapping is AD and flow.outward):
                self._hold(
                    self._mappings, self._mapping_key(flow.inner, flow.remote), Timed(flow.outer, flow.expires_at)
                )

    def _claim(self, inner: Endpoint, flow: Flow, now: float) -> None:
        """Whoever spoke last from a port gets what strangers send there, if they get through the filter."""
        kind = self.type
        if kind.filtering is APD and not kind.hairpins:
            return
        # As in the recipe, what counts is the port to be preserved, not the one that a collision led to.
        outer = self._preferred(inner) if kind.ports is Ports.OVERLOAD else flow.outer
        until = now + kind.timeout_s
        self._note(self._owners, outer, Timed(inner, until))
        if kind.filtering is AD:
            self._note(self._opened, (flow.remote.address, outer), Timed(outer, until))

    def _owner(self, outer: Endpoint, now: float) -> Endpoint | None:
        if not self.type.translates:
            return outer
        owner = self._owners.get(outer)
        return owner.endpoint if owner is not None and owner.until > now else None

    def _preferred(self, inner: Endpoint) -> Endpoint:
        """The outer endpoint that preserves the port; not quite the port once the box has restarted."""
        if not self.type.translates:
            return inner
        port = inner.port
        if self._shift:
            port = FIRST_PORT + (port - FIRST_PORT + self._shift) % (LAST_PORT + 1 - FIRST_PORT)
        return Endpoint(self.address, port)

    def _mapping_key(self, inner: Endpoint, remote: Endpoint) -> tuple[Endpoint, str]:
        return (inner, "" if self.type.mapping is EI else remote.address)

    def _allocate(self, inner: Endpoint, remote: Endpoint, now: float) -> Endpoint | None:
        """The outer endpoint of a new flow; None when no port is found."""
        kind = self.type
        preferred = self._preferred(inner)
        if not kind.translates:
            return preferred
        if kind.ports is not Ports.OVERLOAD and kind.mapping is not APD:
            known = self._mappings.get(self._mapping_key(inner, remote))
            if known is not None and known.until > now:
                return known.endpoint
        if kind.ports in (Ports.OVERLOAD, Ports.PRESERVE) and self._is_free(inner, remote, preferred, now):
            return preferred
        for _ in range(PORT_TRIES):
            if kind.ports is Ports.SEQUENTIAL:
                port = self._next_port
                self._next_port = port + 1 if port < LAST_PORT else FIRST_PORT
            else:
                port = self._rng.randrange(FIRST_PORT, LAST_PORT + 1)
            outer = Endpoint(self.address, port)
            if self._is_free(inner, remote, outer, now):
                return outer
        return None

    def _is_free(self, inner: Endpoint, remote: Endpoint, outer: Endpoint, now: float) -> bool:
        """Whether a new flow from `inner` to `remote` may use `outer`."""
        seized = self._seized.get((remote, outer))
        if seized is not None and seized.until > now:
            return False
        holder = self._holders.get(outer)
        if holder is not None and holder.until > now and holder.endpoint != inner:
            return False
        return self._live(self._outer_flows.get((remote, outer)), now) is None

    def _hold(self, table: dict[K, Timed], key: K, timed: Timed) -> None:
        """Note it, unless what is there lasts longer."""
        known = table.get(key)
        if known is None or known.endpoint != timed.endpoint or known.until < timed.until:
            self._note(table, key, timed)

    def _note(self, table: dict[K, Timed], key: K, timed: Timed) -> None:
        """Remember it as the latest; the one that was noted longest ago goes when there are too many."""
        table.pop(key, None)
        if len(table) >= self.type.max_flows:
            del table[next(iter(table))]
        table[key] = timed

    def _sweep(self, now: float) -> None:
        """Now and then, forget what has expired."""
        if len(self._inner_flows) < min(self._sweep_above, self.type.max_flows) or now < self._sweep_at:
            return
        for flow in [flow for flow in self._inner_flows.values() if flow.expires_at <= now]:
            self._drop(flow)
        tables: tuple[dict[Any, Timed], ...] = (
            self._mappings,
            self._holders,
            self._owners,
            self._opened,
            self._seized,
        )
        for table in tables:
            for key in [key for key, timed in table.items() if timed.until <= now]:
                del table[key]
        self._sweep_above = max(SWEEP_ABOVE, 2 * len(self._inner_flows))
        # Timers only ever get later, so looking again before the first is due finds nothing.
        self._sweep_at = min((flow.expires_at for flow in self._inner_flows.values()), default=now)
