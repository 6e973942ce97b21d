"""What a node does for others: it passes datagrams between two of its direct edges, by a label, without opening them.

    asked by A for B -> (B is no edge yet: link to it) -> offered to B -> accepted: both hold the label
                     -> refused(reason)                  -> idle for IDLE_S, or an edge gone: closed

Whatever arrives with a circuit's label from one of its two ends goes to the other as it came, batches as batches: the
relay neither decrypts nor parses beyond the label. Both legs are direct paths, so tunnels never nest and can't loop.
Every member may relay, within its own budget: circuits in all, circuits a member, bytes a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from dht.budget import Budget
from dht.contact import Contact
from dht.exchange import Exchange, Incoming, Way
from dht.host import Endpoint, Host, Timer
from dht.messages import (
    Message,
    TunnelAccepted,
    TunnelClosed,
    TunnelGranted,
    TunnelOffer,
    TunnelRefused,
    TunnelRequest,
)
from dht.path import RELAYED_AT
from dht.peer import Peer
from dht.sessions import Sessions

MAX_CIRCUITS = 512
MAX_CIRCUITS_A_MEMBER = 48
IDLE_S = 150.0  # an idle edge is pinged every 27 s, a spare path is checked about as often
SWEEP_S = 30.0
BURST_S = 0.25  # of the byte rate, at once
MAX_ASKED_A_MEMBER = 8  # requests of one member that wait for the far end
CORRECTIONS_PER_S = 5.0
CORRECTION_BURST = 20.0


class Refusal(IntEnum):
    """Why a relay opens no tunnel."""

    NO_EDGE = 1  # one of its two edges is missing, or not direct
    BUSY = 2
    UNWILLING = 3
    FAR_END = 4  # the other end does not want it, or did not answer


@dataclass(slots=True, eq=False)
class Circuit:
    """Two edges of this node, joined. `octets` is what was passed on, both ways."""

    label: int
    one: Peer
    other: Peer
    used_at: float
    octets: int = 0
    seen_octets: int = 0
    open: bool = True


class Relay:
    """The circuits that a node carries. `willing` is False for one that refuses to; `rate_bytes_per_s` bounds what it
    passes on, 0 meaning nothing bounds it. `link(contact, done)` seeks a direct edge; `passed(circuit, source, there)`
    is told of what went on to a peer."""

    def __init__(self, host: Host, sessions: Sessions, exchange: Exchange, counters: Counter[str]) -> None:
        self._host, self._sessions, self._exchange, self._counters = host, sessions, exchange, counters
        self._circuits: dict[int, Circuit] = {}
        self._by_pair: dict[frozenset[int], Circuit] = {}
        self._of_member: Counter[int] = Counter()
        self._timer: Timer | None = None
        self._tokens, self._tokens_at = 0.0, host.now()
        self._corrections = Budget(CORRECTIONS_PER_S, CORRECTION_BURST, host.now())
        self._asking: Counter[int] = Counter()  # by node id: its requests that have no answer yet
        self.willing = True
        self.rate_bytes_per_s = 0.0
        self.max_circuits = MAX_CIRCUITS
        self.passed: Callable[[Circuit, Endpoint, Peer], None] = lambda circuit, source, there: None
        self.link: Callable[[Contact, Callable[[Peer | None], None]], None] = lambda contact, done: done(None)
        exchange.handle(TunnelRequest, Way.SESSION, self._on_request)

    @property
    def circuits(self) -> list[Circuit]:
        return list(self._circuits.values())

    def carries(self, node_id: int) -> bool:
        """Whether a circuit ends at this node, so that its edge must be kept."""
        return self._of_member[node_id] > 0

    def start(self) -> None:
        self._timer = self._host.call_later(SWEEP_S * self._host.rng.uniform(0.5, 1.0), self._sweep)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for circuit in self.circuits:
            self._close(circuit)

    def forward(self, buffer: memoryview, size: int, source: Endpoint) -> bool:
        """Pass on datagrams of `size` bytes each (the last may be shorter), all with the same header, which is marked.
        False when they have been relayed already, or their label is none of this relay's."""
        circuit = self._circuits.get(int.from_bytes(buffer[4:8], "big"))
        if circuit is None or buffer[RELAYED_AT]:
            return False
        # Each end chooses by which of its paths it sends, and need not choose as we do.
        there = circuit.other if circuit.one.is_at(source) else circuit.one
        here = circuit.one if there is circuit.other else circuit.other
        to = there.path
        if not here.is_at(source) or not isinstance(to, Endpoint):
            self._counters["tunnel_wrong_source"] += 1
        elif not self._within_rate(len(buffer)):
            self._counters["tunnel_over_rate"] += 1
        else:
            circuit.octets += len(buffer)
            buffer[RELAYED_AT::size] = b"\x01" * -(-(len(buffer) - RELAYED_AT) // size)
            # With the congestion marks it came with, as behind any router (RFC 6040, section 4).
            self._host.send_run(to, buffer, size, self._host.received_class)
            self.passed(circuit, source, there)
        return True

    def unknown(self, label: int, source: Endpoint) -> None:
        """A datagram was to be relayed by a circuit that is not there (any more): tell its sender, if it is an edge."""
        if self._corrections.take(self._host.now()):
            for peer in self._sessions.edges():
                if peer.up and peer.is_at(source):
                    self._exchange.tell(peer, TunnelClosed(label))
                    return

    def gone(self, peer: Peer) -> None:
        """An edge of this node is gone, or no longer direct: so are its circuits."""
        if self._of_member[peer.id]:
            for circuit in self.circuits:
                if peer.id in (circuit.one.id, circuit.other.id):
                    self._close(circuit)

    def _on_request(self, incoming: Incoming, message: TunnelRequest) -> Message | None:
        asker, target = incoming.peer, message.target
        assert asker is not None
        if not self.willing:
            return TunnelRefused(Refusal.UNWILLING)
        if not isinstance(asker.path, Endpoint) or target.id == asker.id:
            return TunnelRefused(Refusal.NO_EDGE)
        existing = self._by_pair.get(frozenset((asker.id, target.id)))
        if existing is None and (
            len(self._circuits) >= self.max_circuits
            or max(self._of_member[asker.id], self._of_member[target.id]) >= MAX_CIRCUITS_A_MEMBER
        ):
            self._counters["tunnel_refused_busy"] += 1
            return TunnelRefused(Refusal.BUSY)
        far = self._sessions.peers.get(target.id)
        has_edge = far is not None and far.up and isinstance(far.path, Endpoint)
        if not has_edge and not message.dial:
            return TunnelRefused(Refusal.NO_EDGE)
        if self._asking[asker.id] >= MAX_ASKED_A_MEMBER:
            self._counters["tunnel_refused_busy"] += 1
            return TunnelRefused(Refusal.BUSY)
        self._asking[asker.id] += 1
        if far is not None and has_edge:
            self._offer(incoming, asker, far)
        else:
            self.link(target, lambda peer: self._linked(incoming, asker, peer))
        return None

    def _linked(self, incoming: Incoming, asker: Peer, far: Peer | None) -> None:
        current = self._sessions.peers.get(asker.id) is asker and isinstance(asker.path, Endpoint)
        if far is None or not isinstance(far.path, Endpoint) or not current:
            self._answer(incoming, TunnelRefused(Refusal.NO_EDGE))
        elif len(self._circuits) >= self.max_circuits or self._of_member[asker.id] >= MAX_CIRCUITS_A_MEMBER:
            self._answer(incoming, TunnelRefused(Refusal.BUSY))
        else:
            self._offer(incoming, asker, far)

    def _answer(self, incoming: Incoming, message: Message) -> None:
        self._asking[incoming.source] -= 1
        if self._asking[incoming.source] <= 0:
            del self._asking[incoming.source]
        incoming.reply(message)

    def _offer(self, incoming: Incoming, asker: Peer, far: Peer) -> None:
        circuit = self._by_pair.get(frozenset((asker.id, far.id)))
        if circuit is None or {id(circuit.one), id(circuit.other)} != {id(asker), id(far)}:
            if circuit is not None:
                self._close(circuit)
            circuit = self._make(asker, far)
        circuit.used_at = self._host.now()
        label = circuit.label

        def answered(answer: Message | None) -> None:
            if isinstance(answer, TunnelAccepted) and label in self._circuits:
                self._answer(incoming, TunnelGranted(label))
                return
            self._answer(incoming, TunnelRefused(Refusal.FAR_END))
            if circuit.octets == 0 and self._circuits.get(label) is circuit:
                self._close(circuit)

        self._exchange.ask(far, TunnelOffer(asker.id, label), (TunnelAccepted, TunnelRefused), answered)

    def _make(self, one: Peer, other: Peer) -> Circuit:
        label = self._host.rng.getrandbits(32)
        while label in self._circuits:
            label = self._host.rng.getrandbits(32)
        circuit = Circuit(label, one, other, self._host.now())
        self._circuits[label] = circuit
        self._by_pair[frozenset((one.id, other.id))] = circuit
        self._of_member[one.id] += 1
        self._of_member[other.id] += 1
        self._counters["tunnels_relayed"] += 1
        return circuit

    def _close(self, circuit: Circuit) -> None:
        if self._circuits.pop(circuit.label, None) is None:
            return
        circuit.open = False
        self._by_pair.pop(frozenset((circuit.one.id, circuit.other.id)), None)
        for peer in (circuit.one, circuit.other):
            self._of_member[peer.id] -= 1
            if self._of_member[peer.id] <= 0:
                del self._of_member[peer.id]
            if peer.up:
                self._exchange.tell(peer, TunnelClosed(circuit.label))

    def _sweep(self) -> None:
        now = self._host.now()
        for circuit in self.circuits:
            if circuit.octets != circuit.seen_octets:
                circuit.seen_octets, circuit.used_at = circuit.octets, now
            elif now - circuit.used_at > IDLE_S:
                self._close(circuit)
        self._timer = self._host.call_later(SWEEP_S * self._host.rng.uniform(0.8, 1.2), self._sweep)

    def _within_rate(self, octets: int) -> bool:
        rate = self.rate_bytes_per_s
        if not rate:
            return True
        now = self._host.now()
        most = max(rate * BURST_S, 1 << 16)
        self._tokens = min(most, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens < octets:
            return False
        self._tokens -= octets
        return True
