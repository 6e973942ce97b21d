"""What a node does so that others learn whom their NATs let in.

    asker -- ProbeRequest --> this node: checks that the asker is where it seems to be, and picks an edge of its own
                              -- ProbeOrder --> the edge sends probes to the asker -- ProbeSent -->
    asker <-- ProbeReport --

Nobody can have others shower a victim so: a target is never named by the asker, it is the endpoint by which the request
came, and only after a check that came back from there; what is sent to it has fewer bytes than the order for it; and
there is a budget for each asker and for all together. Keeps nothing of what was found: that is the asker's business.
Source: RFC 5780, section 4.4, with two members in place of a server with two addresses.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from dht.budget import Budget
from dht.checks import Checked
from dht.exchange import Incoming, Way
from dht.host import Endpoint, Host, Timer
from dht.messages import Message
from dht.parts import Parts
from dht.peer import Peer
from shortcuts.messages import ProbeOrder, ProbeReport, ProbeRequest, ProbeSent
from shortcuts.probe import probe
from shortcuts.scope import Scope, is_ipv6, scope_of

REQUEST_AGAIN_S: Final = 5.0  # between two requests of one peer
ORDER_AGAIN_S: Final = 2.0
ALL_PER_S: Final = 0.5
ALL_BURST: Final = 16.0
MAX_ASKERS: Final = 256
COPIES_S: Final = (0.0, 0.3)  # when each copy of a probe is sent: 96 bytes with headers, fewer than its order has
ORDER_TIMEOUT_S: Final = (1.5,)


class _Allowance:
    """So much for everybody together, and one for each peer in `again_s`."""

    def __init__(self, again_s: float, now: float) -> None:
        self._again_s = again_s
        self._all = Budget(ALL_PER_S, ALL_BURST, now)
        self._last: OrderedDict[int, float] = OrderedDict()  # by node id

    def take(self, peer_id: int, now: float) -> bool:
        if now - self._last.get(peer_id, float("-inf")) < self._again_s or not self._all.take(now):
            return False
        self._last[peer_id] = now
        self._last.move_to_end(peer_id)
        if len(self._last) > MAX_ASKERS:
            self._last.popitem(last=False)
        return True


class Assistance:
    """Answers ProbeRequest and ProbeOrder."""

    def __init__(self, host: Host, parts: Parts, counters: Counter[str]) -> None:
        self._host, self._parts, self._counters = host, parts, counters
        self._requests = _Allowance(REQUEST_AGAIN_S, host.now())
        self._orders = _Allowance(ORDER_AGAIN_S, host.now())
        self._copies: set[Timer] = set()
        self._stopped = False
        parts.exchange.handle(ProbeRequest, Way.SESSION, self._on_request)
        parts.exchange.handle(ProbeOrder, Way.SESSION, self._on_order)

    def stop(self) -> None:
        self._stopped = True
        for timer in self._copies:
            timer.cancel()
        self._copies.clear()

    def _on_request(self, incoming: Incoming, message: ProbeRequest) -> Message | None:
        asker, target = incoming.peer, incoming.endpoint
        assert asker is not None
        if not self._requests.take(asker.id, self._host.now()):
            self._counters["probes_over_budget"] += 1
            return ProbeReport(None)
        chosen = None if target is None else self._stranger(asker, target, message)
        if chosen is None or target is None:
            return ProbeReport(None)
        by, source = chosen

        def checked(answer: Checked | None) -> None:
            if answer is None or self._stopped:
                self._counters["probe_requests_unproven"] += 1
                return  # perhaps somebody else's address: say no more
            self._parts.exchange.ask(by, ProbeOrder(message.token, target), (ProbeSent,), sent, ORDER_TIMEOUT_S)

        def sent(answer: Message | None) -> None:
            if not self._stopped:
                done = isinstance(answer, ProbeSent) and answer.sent
                incoming.reply(ProbeReport(source if done else None))

        # A packet may come from where its sender only pretends to be; the answer to a check doesn't.
        self._parts.checks.check(asker, target, checked)
        return None

    def _stranger(self, asker: Peer, target: Endpoint, request: ProbeRequest) -> tuple[Peer, Endpoint] | None:
        """One of our edges that the asker doesn't know, and where it is: one without a NAT if there is any."""
        known = {*request.known, target.pack()[:-2]}
        edges = [
            peer
            for peer in self._parts.sessions.edges()
            if peer.endpoint is not None and peer is not asker and peer.up and not peer.suspect
        ]
        placed = [(peer, _place(peer, ipv6=is_ipv6(target.address))) for peer in edges]
        found = [(peer, here) for peer, here in placed if here is not None and here.pack()[:-2] not in known]
        # What a node says of itself begins with where it listens.
        public = [(peer, here) for peer, here in found if here == _listens_at(peer, ipv6=is_ipv6(here.address))]
        return self._host.rng.choice(public or found) if found else None

    def _on_order(self, incoming: Incoming, message: ProbeOrder) -> ProbeSent:
        target = message.target
        if scope_of(target.address) is not Scope.PUBLIC or target in self._host.local_endpoints():
            self._counters["probe_orders_refused"] += 1
            return ProbeSent(False)
        if not self._orders.take(incoming.source, self._host.now()):
            self._counters["probes_over_budget"] += 1
            return ProbeSent(False)
        for delay_s in COPIES_S:
            self._send_later(delay_s, target, message.token)
        return ProbeSent(True)

    def _send_later(self, delay_s: float, target: Endpoint, token: bytes) -> None:
        def send() -> None:
            self._copies.discard(timer)
            self._parts.demux.sent(target)
            self._host.send(target, probe(token))

        timer = self._host.call_later(delay_s, send)
        self._copies.add(timer)


def _place(peer: Peer, *, ipv6: bool) -> Endpoint | None:
    """Where a peer is in one family and in public: as we see it, or if we use the other family, as it says itself."""
    seen = [path for path in (peer.path, *reversed(peer.paths)) if isinstance(path, Endpoint)]
    return next((here for here in (*seen, *peer.declared) if _is_public(here, ipv6=ipv6)), None)


def _listens_at(peer: Peer, *, ipv6: bool) -> Endpoint | None:
    return next((here for here in peer.declared if is_ipv6(here.address) == ipv6), None)


def _is_public(here: Endpoint, *, ipv6: bool) -> bool:
    return is_ipv6(here.address) == ipv6 and scope_of(here.address) is Scope.PUBLIC
