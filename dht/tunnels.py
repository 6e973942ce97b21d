"""The tunnels that end at this node: asked of a relay, offered by one, used as paths, and gone with the relay's edge.

    open -> several relays asked, the likeliest first, a few at a time -> the first that grants | none did

Which relays to ask is the caller's choice. What comes through a tunnel is an ordinary datagram of the far end, by the
path `Tunnel(via, label)`. The relay's own side is `dht.relay`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dht.budget import Budget
from dht.contact import Contact
from dht.errors import BadDatagram, StaleDatagram
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
from dht.path import RELAYED_AT, TUNNEL_HEADER_BYTES, Tunnel
from dht.peer import Peer
from dht.relay import Refusal
from dht.sessions import Sessions

MAX_TUNNELS = 1024
MAX_TUNNELS_A_RELAY = 96
ASK_AT_ONCE = 3
OFFERS_PER_S = 2.0  # of tunnels that are news, from one relay
OFFER_BURST = 64.0
SILENT_S = 400.0  # edges and spare paths are used far oftener
SWEEP_S = 60.0
REQUEST_TIMEOUTS_S = (1.5, 2.5)  # the relay may have to link to the far end first


class End(NamedTuple):
    """One tunnel that ends here."""

    via: Peer
    far_id: int


class Tunnels:
    """The tunnels of one node. `lost(tunnel, far_id)` is told when one is gone, `offered(tunnel, far_id)` when the far
    end or its relay opened one, `refused(relay, target_id, reason)` when a relay says no."""

    def __init__(self, host: Host, me: int, sessions: Sessions, exchange: Exchange, counters: Counter[str]) -> None:
        self._host, self._me = host, me
        self._sessions, self._exchange, self._counters = sessions, exchange, counters
        self._ends: dict[int, End] = {}  # by label
        self._heard_at: dict[int, float] = {}
        self._offers: dict[int, Budget] = {}  # by relay
        self._timer: Timer | None = None
        self.lost: Callable[[Tunnel, int], None] = lambda tunnel, far_id: None
        self.offered: Callable[[Tunnel, int], None] = lambda tunnel, far_id: None
        self.refused: Callable[[Peer, int, int], None] = lambda relay, target_id, reason: None
        exchange.handle(TunnelOffer, Way.SESSION, self._on_offer)
        exchange.handle(TunnelClosed, Way.SESSION, self._on_closed)

    def start(self) -> None:
        self._timer = self._host.call_later(SWEEP_S * self._host.rng.uniform(0.5, 1.0), self._sweep)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def open(
        self,
        target: Contact,
        relays: Sequence[Peer],
        done: Callable[[Tunnel | None], None],
        later: Callable[[Tunnel], None] = lambda tunnel: None,
        *,
        dial: bool = True,
    ) -> None:
        """Ask `relays`, in this order, for a tunnel to `target`; `done` gets the first that is granted, once, and
        `later` each that follows: the first may lead nowhere. With `dial`, a relay without an edge to the target tries
        to make one."""
        waiting = list(relays)
        asked = 0
        finished = False

        def ask() -> None:
            nonlocal asked
            while waiting and asked < ASK_AT_ONCE:
                relay = waiting.pop(0)
                asked += 1
                self.ask(relay, target, answered, dial=dial)
            if asked == 0 and not finished:
                finish(None)

        def answered(tunnel: Tunnel | None) -> None:
            nonlocal asked
            asked -= 1
            if finished:
                if tunnel is not None:
                    later(tunnel)
                return
            if tunnel is not None:
                finish(tunnel)
            else:
                ask()

        def finish(tunnel: Tunnel | None) -> None:
            nonlocal finished
            finished = True
            done(tunnel)

        ask()

    def ask(self, relay: Peer, target: Contact, done: Callable[[Tunnel | None], None], *, dial: bool = True) -> None:
        """Ask one relay for a tunnel to `target`."""
        if not relay.up or not isinstance(relay.path, Endpoint) or relay.id == target.id:
            done(None)
            return

        def answered(answer: Message | None) -> None:
            if isinstance(answer, TunnelGranted) and self._keep(answer.label, relay, target.id):
                done(Tunnel(relay.id, answer.label))
                return
            if isinstance(answer, TunnelRefused):
                self._counters[f"tunnel_refused_{_reason(answer.reason)}"] += 1
                self.refused(relay, target.id, answer.reason)
            done(None)

        request = TunnelRequest(target, dial)
        self._exchange.ask(relay, request, (TunnelGranted, TunnelRefused), answered, REQUEST_TIMEOUTS_S)

    def end(self, label: int, source: Endpoint) -> tuple[Tunnel, int]:
        """The tunnel that a datagram from `source` came through, and who is at its far end. Raises BadDatagram."""
        end = self._ends.get(label)
        if end is None:
            raise StaleDatagram(f"no tunnel has label {label:08x}")
        if not end.via.is_at(source):
            raise BadDatagram(f"a tunnel's datagram came from {source}, not from its relay")
        self._heard_at[label] = self._host.now()
        return Tunnel(end.via.id, label), end.far_id

    def heard(self, tunnel: Tunnel) -> None:
        """Datagrams came through a tunnel that ends here, from its relay."""
        if tunnel.label in self._ends:
            self._heard_at[tunnel.label] = self._host.now()

    def relay_of(self, tunnel: Tunnel) -> Endpoint | None:
        """Where datagrams for `tunnel` are sent; None when it is gone."""
        end = self._ends.get(tunnel.label)
        if end is None or end.via.id != tunnel.via or not isinstance(end.via.path, Endpoint):
            return None
        return end.via.path

    def to(self, far_id: int) -> list[Tunnel]:
        """The tunnels to one node."""
        return [Tunnel(end.via.id, label) for label, end in self._ends.items() if end.far_id == far_id]

    def through(self, relay_id: int) -> bool:
        """Whether any tunnel runs through this relay, so that its edge must be kept."""
        return any(end.via.id == relay_id for end in self._ends.values())

    def gone(self, relay: Peer) -> None:
        """The edge to a relay is gone, or no longer direct: so are its tunnels."""
        for label, end in list(self._ends.items()):
            if end.via.id == relay.id:
                self._drop(label)

    def _keep(self, label: int, relay: Peer, far_id: int) -> bool:
        held = self._ends.get(label)
        if held is not None:
            if held.via is relay and held.far_id == far_id:
                return True
            if held.via.id != relay.id:
                self._counters["tunnel_label_taken"] += 1
                return False
            self._drop(label)
        if (
            len(self._ends) >= MAX_TUNNELS
            or sum(end.via is relay for end in self._ends.values()) >= MAX_TUNNELS_A_RELAY
        ):
            self._counters["tunnel_table_full"] += 1
            return False
        self._ends[label] = End(relay, far_id)
        self._heard_at[label] = self._host.now()
        return True

    def _drop(self, label: int) -> None:
        end = self._ends.pop(label, None)
        self._heard_at.pop(label, None)
        if end is not None:
            self.lost(Tunnel(end.via.id, label), end.far_id)

    def _on_offer(self, incoming: Incoming, message: TunnelOffer) -> Message:
        relay = incoming.peer
        assert relay is not None
        fit = isinstance(relay.path, Endpoint) and message.source not in (self._me, relay.id)
        known = self._ends.get(message.label)
        is_news = known is None or known.via is not relay or known.far_id != message.source
        if not fit or (is_news and not self._may_offer(relay)) or not self._keep(message.label, relay, message.source):
            return TunnelRefused(Refusal.FAR_END)
        if is_news:
            self.offered(Tunnel(relay.id, message.label), message.source)
        return TunnelAccepted()

    def _may_offer(self, relay: Peer) -> bool:
        now = self._host.now()
        budget = self._offers.get(relay.id)
        if budget is None:
            if len(self._offers) >= MAX_TUNNELS:
                del self._offers[next(iter(self._offers))]
            budget = self._offers[relay.id] = Budget(OFFERS_PER_S, OFFER_BURST, now)
        if budget.take(now):
            return True
        self._counters["tunnel_offers_over_budget"] += 1
        return False

    def _sweep(self) -> None:
        """Drop what nothing came through for long: its relay may have forgotten it without our hearing of it."""
        self._timer = self._host.call_later(SWEEP_S * self._host.rng.uniform(0.8, 1.2), self._sweep)
        now = self._host.now()
        for label, heard_at in list(self._heard_at.items()):
            if now - heard_at > SILENT_S:
                self._drop(label)

    def _on_closed(self, incoming: Incoming, message: TunnelClosed) -> None:
        end = self._ends.get(message.label)
        if end is not None and end.via.id == incoming.source:
            self._drop(message.label)


def read_tunnelled(datagram: bytes) -> tuple[int, bool]:
    """The label, and whether the datagram was relayed. Raises BadDatagram."""
    if len(datagram) <= TUNNEL_HEADER_BYTES or datagram[RELAYED_AT] > 1 or datagram[2:4] != bytes(2):
        raise BadDatagram("a tunnel's datagram without what belongs inside")
    return int.from_bytes(datagram[4:8], "big"), bool(datagram[RELAYED_AT])


def _reason(reason: int) -> str:
    return Refusal(reason).name.lower() if reason in Refusal._value2member_map_ else "otherwise"
