"""One UDP port mapped at the gateway, as long as that is possible: asked for, renewed, made again, deleted.

PCP is tried first, then NAT-PMP, then UPnP, each within a bound. A mapping is renewed at half its lifetime, or every
REFRESH_S, whichever is sooner: only by asking does one notice a gateway that restarted without a word or has another
external address; one that announces its restart is asked at once. An external address that is private itself (two
NATs in a row) is reported and not offered.

A component: time and randomness come from `Host`, everything else from a `Gateway` (`shortcuts.gateway` is the real
one), so that it also runs simulated. It never opens a socket, and believes nobody but the gateway that the default
route names. Against somebody on the same link who can send with the gateway's address, only PCP's nonce helps; a
false mapping is a false candidate, which costs checks and nothing else.

Source: RFC 6886, sections 3.1, 3.3, 3.6 and 3.7; RFC 6887, sections 8.1.1, 8.5, 11.2, 11.3 and 15.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from hashlib import blake2s
from typing import Final

from dht.errors import BadDatagram
from dht.host import Endpoint, Host, Timer
from shortcuts import portmap_wire as wire
from shortcuts.mapping import NEXT, NOT_ASKED, Event, Gateway, Mapping, Method, PortMapStatus, Route, State
from shortcuts.portmap_wire import PcpAnnouncement, PcpMapping, PcpResult, PmpAddress, PmpMapping, PmpResult, Refusal
from shortcuts.upnp_wire import UpnpMapping, UpnpRequest

log = logging.getLogger(__name__)

LIFETIME_S: Final = 3600
REFRESH_S: Final = 300.0
MIN_RENEW_S: Final = 10.0  # whatever lifetime a gateway grants
RETRANSMIT_S: Final = (0.25, 0.5, 1.0, 2.0)  # after each try of PCP and NAT-PMP; then the next way is tried
RETRY_S: Final = (10.0, 1800.0)  # after every way failed: doubled from the first to the second
SETTLE_S: Final = 0.5  # an address that comes is often followed by its route
ANNOUNCED_S: Final = 10.0  # announcements heeded no oftener than that
ANNOUNCED_JITTER_S: Final = 1.0  # not all hosts of a link at once


class PortMapper:
    """Keeps the UDP port `port()` mapped, from `start` to `stop`.

    `changed(endpoint)` is told the external endpoint whenever it is another one, None when there is none any more.
    `secret` is 32 bytes that others can't know and that outlive the process: PCP lets only those who repeat the nonce
    of a mapping touch it, also after a crash.
    """

    def __init__(
        self,
        host: Host,
        gateway: Gateway,
        port: Callable[[], int],
        secret: bytes,
        changed: Callable[[Endpoint | None], None],
        *,
        methods: Sequence[Method] = tuple(Method),
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._host, self._gateway, self._port, self._secret, self._changed = host, gateway, port, secret, changed
        self._methods, self._refresh_s = tuple(methods), refresh_s
        self._state = State.STOPPED
        self._route: Route | None = None
        self._mapping: Mapping | None = None
        self._offered: Endpoint | None = None
        self._reason = NOT_ASKED
        self._failures: dict[Method, str] = {}
        self._left: deque[Method] = deque()
        self._method: Method | None = None
        self._tries = self._attempt = 0
        self._pmp: tuple[PmpAddress | None, PmpMapping | None] = (None, None)
        self._epoch: tuple[int, float] | None = None
        self._heed_at = float("-inf")
        self._retry_s = RETRY_S[0]
        self._timer: Timer | None = None
        self.counters: Counter[str] = Counter()
        gateway.on_answer(self._answered)
        gateway.on_announcement(self._announced)

    @property
    def status(self) -> PortMapStatus:
        mapping = self._mapping
        return PortMapStatus(
            self._state,
            None if self._route is None else self._route.gateway,
            None if mapping is None else mapping.method,
            self._offered,
            "" if self._offered is not None else self._reason,
            tuple(self._failures.items()),
        )

    def start(self) -> None:
        """Begin to ask. Harmless when it has begun."""
        if self._state is State.STOPPED:
            self._reason = "the gateway has not answered yet"
            self._on(Event.STARTED)

    def stop(self) -> None:
        """Delete the mapping, as far as that takes no waiting, and fall silent."""
        if self._state is not State.STOPPED:
            self._on(Event.STOPPED)

    def addresses_changed(self) -> None:
        """This host's addresses, routes or UDP port may be others: look again."""
        if self._state is not State.STOPPED:
            self._on(Event.MOVED)

    # States

    def _on(self, event: Event) -> None:
        before, self._state = self._state, NEXT[self._state, event]
        self._attempt += 1  # whatever was asked before has no answer any more
        self._method = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        match self._state:
            case State.STOPPED:
                self._delete()
                self._reason = NOT_ASKED
                self._offer(None)
            case State.ASKING:
                if event is Event.MOVED:
                    self._retry_s = RETRY_S[0]
                self._in(SETTLE_S if event is Event.MOVED else 0.0, self._ask)
            case State.RENEWING:
                assert self._mapping is not None
                self._left = deque((self._mapping.method,))
                self._next_method()
            case State.MAPPED:
                assert self._mapping is not None
                renew_s = min(max(self._mapping.lifetime_s / 2, MIN_RENEW_S), self._refresh_s)
                self._in(renew_s * self._host.rng.uniform(0.9, 1.0), self._due)
            case State.WAITING:
                self._offer(None)
                if before is State.ASKING:
                    self._in(self._retry_s * self._host.rng.uniform(0.9, 1.1), lambda: self._on(Event.DUE))
                    self._retry_s = min(2 * self._retry_s, RETRY_S[1])

    def _in(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._timer = self._host.call_later(delay_s, callback)

    def _due(self) -> None:
        """Renew, unless what was mapped is no longer what should be."""
        mapping, found = self._mapping, self._gateway.find()
        same = mapping is not None and found == mapping.route and self._port() == mapping.internal_port
        self._on(Event.DUE if same else Event.MOVED)

    def _ask(self) -> None:
        self._timer = None
        self._failures.clear()
        found = self._gateway.find()
        self._route = found if isinstance(found, Route) else None
        mapping = self._mapping
        if mapping is not None and (mapping.route != self._route or mapping.internal_port != self._port()):
            # Nobody could delete it from here; it ends by itself.
            self._mapping = None
            self._epoch = None
            self._offer(None)
        if isinstance(found, str):
            self._give_up(found)
        elif wire.can_be_public(found.client):
            self._give_up(f"no NAT to open: this host's own address {found.client} is public")
        else:
            self._left = deque(self._methods)
            self._next_method()

    def _give_up(self, reason: str) -> None:
        if reason != self._reason:
            log.info("no port mapping: %s", reason)
        self._reason = reason
        self._mapping = None
        self._on(Event.REFUSED)

    # One method after the other

    def _next_method(self) -> None:
        self._attempt += 1
        self._tries = 0
        self._pmp = (None, None)
        if self._left:
            self._method = self._left.popleft()
            self._try()
        elif self._state is State.RENEWING:
            self._on(Event.REFUSED)
        else:
            self._give_up("; ".join(f"{method.value}: {reason}" for method, reason in self._failures.items()))

    def _failed(self, reason: str) -> None:
        assert self._method is not None
        self._failures[self._method] = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next_method()

    def _try(self) -> None:
        """Ask once by the present method; again after a while, a few times."""
        assert self._route is not None
        if self._method is Method.UPNP:
            attempt = self._attempt
            request = UpnpRequest(*self._route, self._port(), self._wanted_port(), LIFETIME_S)
            self._gateway.upnp(request, lambda answer: self._upnp_answered(attempt, answer))
            return
        if self._tries == len(RETRANSMIT_S):
            self._failed("no answer")
            return
        self._in(RETRANSMIT_S[self._tries], self._try)
        self._tries += 1
        for datagram in self._questions(LIFETIME_S):
            self._gateway.send(datagram)

    def _questions(self, lifetime_s: int) -> tuple[bytes, ...]:
        assert self._route is not None
        if self._method is Method.PCP:
            wanted = Endpoint("0.0.0.0", self._port()) if self._mapping is None else self._mapping.external
            nonce = self._nonce(self._route, self._port())
            return (wire.ask_pcp_mapping(self._route.client, nonce, self._port(), wanted, lifetime_s),)
        return (wire.ask_pmp_address(), wire.ask_pmp_mapping(self._port(), self._wanted_port(), lifetime_s))

    def _wanted_port(self) -> int:
        return self._port() if self._mapping is None else self._mapping.external.port

    def _nonce(self, route: Route, port: int) -> bytes:
        place = f"p2pvpn/1 pcp {route.gateway} {route.client} {port}".encode()
        return blake2s(place, key=self._secret, digest_size=wire.NONCE_BYTES).digest()

    # Answers

    def _answered(self, datagram: bytes) -> None:
        method, route = self._method, self._route
        if method is None or method is Method.UPNP or route is None:
            self.counters["portmap_late"] += 1
            return
        if not datagram:
            # Both protocols have the same port.
            for other in (Method.PCP, Method.NAT_PMP):
                if other in self._left:
                    self._left.remove(other)
                    self._failures[other] = "the gateway does not speak it"
            self._failed("the gateway does not speak it")
            return
        try:
            answer = wire.read(datagram)
        except BadDatagram as refusal:
            log.debug("the gateway said nonsense: %s", refusal)
            self.counters["portmap_bad_datagram"] += 1
            return
        match answer:
            case Refusal():
                self._refused(method, answer)
            case PcpMapping() if method is Method.PCP:
                if answer.nonce == self._nonce(route, self._port()) and answer.internal_port == self._port():
                    self._granted(answer.external, answer.lifetime_s, answer.epoch_s)
            case PmpAddress() if method is Method.NAT_PMP:
                self._pmp = (answer, self._pmp[1])
            case PmpMapping() if method is Method.NAT_PMP and answer.internal_port == self._port():
                self._pmp = (self._pmp[0], answer)
        address, mapping = self._pmp
        if address is not None and mapping is not None:
            external = _endpoint(address.address, mapping.external_port)
            self._granted(external, mapping.lifetime_s, mapping.epoch_s)

    def _refused(self, method: Method, refusal: Refusal) -> None:
        same = refusal.version == (wire.PCP_VERSION if method is Method.PCP else wire.PMP_VERSION)
        other_version = refusal.result in (PcpResult.UNSUPP_VERSION, PmpResult.UNSUPPORTED_VERSION)
        if other_version and not same:
            self._failed("the gateway does not speak it")
        elif same and not other_version:
            self._failed(f"refused: {refusal.reason}")
        # Else it is late, and about what was asked in the other protocol.

    def _upnp_answered(self, attempt: int, answer: UpnpMapping | str) -> None:
        if attempt != self._attempt:
            return
        if isinstance(answer, str):
            self._failed(answer)
        else:
            self._granted(_endpoint(answer.address, answer.port), answer.lifetime_s, None)

    def _granted(self, external: Endpoint | None, lifetime_s: int, epoch_s: int | None) -> None:
        method, route = self._method, self._route
        assert method is not None
        assert route is not None
        if external is None or lifetime_s <= 0:
            self._failed("it gave neither an endpoint nor any time")
            return
        self._note_epoch(epoch_s)
        self._mapping = Mapping(method, route, self._port(), external, lifetime_s)
        if not wire.can_be_public(external.address):
            self._delete()
            self._left.clear()
            self._failures[method] = f"the gateway's own external address is {external.address}"
            if self._state is State.RENEWING:
                self._on(Event.REFUSED)
            else:
                self._give_up(f"another NAT before the gateway: its own external address is {external.address}")
            return
        self._failures.pop(method, None)
        self._retry_s = RETRY_S[0]
        self._on(Event.GRANTED)
        self._offer(external)

    def _note_epoch(self, epoch_s: int | None) -> None:
        now, before = self._host.now(), self._epoch
        if epoch_s is not None and before is not None and wire.lost_state(before[0], epoch_s, now - before[1]):
            self.counters["portmap_gateway_restarted"] += 1
            log.info("the gateway had forgotten the port mapping, and has it again")
        self._epoch = None if epoch_s is None else (epoch_s, now)

    def _announced(self, datagram: bytes) -> None:
        """The gateway told everybody that it has restarted or has another address: a reason to ask, no more. Its
        epoch is no reason not to: it says nothing when the restart was soon after the one before."""
        now = self._host.now()
        if self._state not in (State.MAPPED, State.WAITING) or now < self._heed_at:
            return
        try:
            answer = wire.read(datagram)
        except BadDatagram:
            self.counters["portmap_bad_datagram"] += 1
            return
        if isinstance(answer, PmpAddress | PcpAnnouncement):
            soon_s = self._host.rng.uniform(0.0, ANNOUNCED_JITTER_S)
            self._heed_at = max(now + soon_s, self._heed_at + ANNOUNCED_S)
            if self._timer is not None:
                self._timer.cancel()
            self._in(self._heed_at - now, lambda: self._on(Event.DUE))

    # Effects

    def _offer(self, external: Endpoint | None) -> None:
        if external == self._offered:
            return
        self._offered = external
        if external is not None and self._mapping is not None:
            log.info("%s leads here, by %s", external, self._mapping.method.value)
        self._changed(external)

    def _delete(self) -> None:
        mapping, self._mapping = self._mapping, None
        if mapping is None:
            return
        if mapping.method is Method.UPNP:
            request = UpnpRequest(*mapping.route, mapping.internal_port, mapping.external.port, 0)
            self._gateway.upnp(request, lambda answer: None)
            return
        if mapping.method is Method.PCP:
            nonce = self._nonce(mapping.route, mapping.internal_port)
            datagram = wire.ask_pcp_mapping(mapping.route.client, nonce, mapping.internal_port, None, 0)
        else:
            datagram = wire.ask_pmp_mapping(mapping.internal_port, 0, 0)
        # Twice, as nobody will be here to see whether it arrived.
        self._gateway.send(datagram)
        self._gateway.send(datagram)


def _endpoint(address: str, port: int) -> Endpoint | None:
    """What an answer's address and port make; None for an address that is nobody's."""
    try:
        return Endpoint.parse(Endpoint(address, port).pack())
    except BadDatagram:
        return None
