"""Finds out whom the NATs in front of this node let in, and whether they hairpin: what no answer to a packet tells.

    RESTING -- due --> ASKING one edge after the other to have a stranger try us
            -- one has sent --> LISTENING -- nothing came: a miss --> ASKING the next
            -- a stranger got in, or enough of them did not, or nobody is left to ask --> RESTING, for ten minutes

One such round a family when this node is in the ring, one when its outside changes, and then rarely. Besides, whoever
comes unasked (a handshake, a check) shows the same for nothing. Once a round a probe goes to our own outside endpoint:
if it comes back, the NAT hairpins. With one socket, a box that treats a host apart from its neighbours can't be told
from one that doesn't hairpin; a neighbour that comes by our outside address outweighs that. And that an address is let
in by another port shows only where a peer's NAT makes it use one.

What peers say counts for one witness an address, and one edge a round; what arrives is seen, and carries a token that
only those who were asked know. Never switches paths, never names a target: `shortcuts.assistance` does what is asked.
Sources: RFC 4787 sections 5 and 6; RFC 5780 section 4.4 for the filtering test; times are ours.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import ip_address
from typing import Final

from dht.errors import StaleDatagram
from dht.host import Endpoint, Host, Timer
from dht.messages import Message
from dht.parts import Parts
from dht.path import Path
from dht.peer import Peer
from shortcuts.contacted import Contacted
from shortcuts.messages import MAX_KNOWN, TOKEN_BYTES, ProbeReport, ProbeRequest
from shortcuts.nat import ENOUGH_WITNESSES, Mapping, NatObserver, Relation
from shortcuts.probe import probe, token_of
from shortcuts.scope import Scope, is_ipv6, scope_of

TICK_S: Final = 5.0
ROUND_S: Final = 600.0
SOON_S: Final = 3.0  # after joining, and after a change
ANEW_S: Final = 60.0  # an outside that changes all the time is not followed faster
RETRY_S: Final = (20.0, 60.0, 180.0)  # while a round has shown nothing
ASKED: Final = 6  # edges a round
ASK_TIMEOUT_S: Final = (4.0,)
GRACE_S: Final = 2.5  # for a probe that was sent to arrive
HAIRPIN_AGAIN_S: Final = 0.3
HAIRPIN_S: Final = 2.0
MAX_TOKENS: Final = 32


class Stage(Enum):
    """Where the search for a filter stands, in one family."""

    RESTING = auto()
    ASKING = auto()
    LISTENING = auto()


class Event(Enum):
    """What moves it on."""

    DUE = auto()
    SENT = auto()  # a stranger has sent a probe, says the one we asked
    REFUSED = auto()  # or it could not be done
    SILENCE = auto()
    ENOUGH = auto()  # a verdict, or nobody left to ask


NEXT: Final[dict[tuple[Stage, Event], Stage]] = {
    (Stage.RESTING, Event.DUE): Stage.ASKING,
    (Stage.ASKING, Event.REFUSED): Stage.ASKING,
    (Stage.ASKING, Event.SENT): Stage.LISTENING,
    (Stage.ASKING, Event.ENOUGH): Stage.RESTING,
    (Stage.LISTENING, Event.SILENCE): Stage.ASKING,
    (Stage.LISTENING, Event.ENOUGH): Stage.RESTING,
}


@dataclass(slots=True, eq=False)
class _Family:
    """The search in one family."""

    observer: NatObserver
    ipv6: bool
    stage: Stage = Stage.RESTING
    due_at: float | None = None
    fruitless: int = 0  # rounds in a row
    helpers: list[Peer] = field(default_factory=list)  # still to be asked in this round
    missed: set[str] = field(default_factory=set)  # addresses of strangers that did not get in
    token: bytes = b""
    timers: dict[str, Timer] = field(default_factory=dict)
    outside: Endpoint | None = None
    anew_at: float = float("-inf")  # when it last began anew
    stranger_at: float = float("-inf")  # when one got in
    neighbor_at: float = float("-inf")  # when one from behind our own NAT came by its outside
    hairpin_token: bytes = b""
    hairpin_at: float = float("-inf")

    def cancel(self, *names: str) -> None:
        for name in names or tuple(self.timers):
            timer = self.timers.pop(name, None)
            if timer is not None:
                timer.cancel()


class Probing:
    """Feeds the observers, IPv4's and IPv6's, what arrives, what is missed, and what comes back."""

    def __init__(
        self, host: Host, parts: Parts, observers: Sequence[NatObserver], contacted: Contacted, counters: Counter[str]
    ) -> None:
        self._host, self._parts, self._counters = host, parts, counters
        self._contacted = contacted
        self._families = tuple(_Family(observer, ipv6=bool(at)) for at, observer in enumerate(observers))
        self._tokens: OrderedDict[bytes, _Family | None] = OrderedDict()  # whose they are; None once they came
        self._timer: Timer | None = None
        parts.demux.probe = self.received
        parts.demux.sent = parts.checks.sent = parts.acquaintances.sent = self.sent
        parts.handshakes.arrived = parts.checks.arrived = self.arrived

    def start(self) -> None:
        self._timer = self._host.call_later(TICK_S, self._tick)  # it is the rounds that are spread

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for family in self._families:
            family.cancel()

    def moved(self) -> None:
        """This machine's addresses changed: whatever was found is no longer so."""
        for family in self._families:
            self._begin_anew(family)
            family.outside, family.anew_at = None, float("-inf")

    def sent(self, path: Path | None) -> None:
        """Something that may open a way was sent by `path`."""
        if isinstance(path, Endpoint):
            self._contacted.note(self._host.now(), path)

    def arrived(self, path: Path | None) -> None:
        """A packet that proves its sender, and that may be its first, came by `path`."""
        if isinstance(path, Endpoint):
            self._judge(self._families[is_ipv6(path.address)], path)

    def received(self, datagram: bytes, source: Endpoint) -> None:
        """Handle a probe. Raises BadDatagram."""
        token = token_of(datagram)
        if token not in self._tokens:
            raise StaleDatagram("a probe that nobody here waits for")
        family, self._tokens[token] = self._tokens[token], None
        if family is None:
            return  # the other copy
        if token == family.hairpin_token:
            self._hairpinned(family, True)
        elif family is self._families[is_ipv6(source.address)]:
            self._counters["probes_arrived"] += 1
            self._judge(family, source)

    def _judge(self, family: _Family, source: Endpoint) -> None:
        now = self._host.now()
        verdict = family.observer.verdict(now)
        if not verdict.witnesses:
            return  # nobody can say yet where our own NAT ends
        if source.address in verdict.addresses and verdict.nat.mapping is not Mapping.NONE:
            # It came by the outside of our own NAT, which need not filter those within.
            family.neighbor_at = now
            family.observer.hairpinned(now, True)
            return
        relation = self._contacted.relation(now, source)
        if relation is None or not family.observer.is_beyond(source):
            return
        family.observer.arrived(now, source, relation)
        if relation is Relation.STRANGER:
            family.stranger_at = now
            self._move(family, Event.ENOUGH)

    # Rounds

    def _tick(self) -> None:
        self._timer = self._host.call_later(TICK_S, self._tick)
        now = self._host.now()
        for peer in self._parts.sessions.peers.values():
            for path, at in peer.paths.items():
                if isinstance(path, Endpoint):
                    self._contacted.note(at, path)
        if not self._parts.near.joined:
            return
        for family in self._families:
            outside = family.observer.verdict(now).outside
            if outside is not None and outside != family.outside and now - family.anew_at >= ANEW_S:
                if family.outside is not None:
                    self._begin_anew(family)
                    family.observer.renewed()
                family.outside = outside
                self._hairpin(family)
            if family.due_at is None:
                family.due_at = now + SOON_S * self._host.rng.random()
            if family.stage is Stage.RESTING and now >= family.due_at:
                self._begin(family)

    def _begin_anew(self, family: _Family) -> None:
        family.cancel()
        family.anew_at = self._host.now()
        family.stage, family.due_at, family.fruitless = Stage.RESTING, None, 0
        family.stranger_at = family.neighbor_at = float("-inf")
        family.token = family.hairpin_token = b""

    def _begin(self, family: _Family) -> None:
        helpers = [
            peer
            for peer in self._parts.sessions.edges()
            if peer.up and not peer.suspect and peer.endpoint is not None and self._can_help(family, peer.endpoint)
        ]
        family.helpers = self._host.rng.sample(helpers, min(ASKED, len(helpers)))
        family.missed.clear()
        if self._host.now() - family.hairpin_at > ROUND_S / 2:
            self._hairpin(family)
        self._move(family, Event.DUE)

    def _can_help(self, family: _Family, endpoint: Endpoint) -> bool:
        """Whether a peer there sees us from beyond our NAT."""
        addresses = family.observer.verdict(self._host.now()).addresses
        return (
            family.observer.is_beyond(endpoint)
            and scope_of(endpoint.address) is Scope.PUBLIC
            and endpoint.address not in addresses
        )

    def _move(self, family: _Family, event: Event) -> None:
        after = NEXT.get((family.stage, event))
        if after is None:
            return
        family.stage = after
        match after:
            case Stage.ASKING if self._is_settled(family) or not family.helpers:
                self._move(family, Event.ENOUGH)
            case Stage.ASKING:
                self._ask(family, family.helpers.pop())
            case Stage.RESTING:
                self._rest(family)
            case Stage.LISTENING:
                pass

    def _is_settled(self, family: _Family) -> bool:
        lately = self._host.now() - family.stranger_at < ROUND_S / 2
        return lately or len(family.missed) >= ENOUGH_WITNESSES

    def _rest(self, family: _Family) -> None:
        family.cancel("silence")
        family.token = b""
        settled = self._is_settled(family)
        family.fruitless = 0 if settled else family.fruitless + 1
        wait_s = ROUND_S if settled or family.fruitless > len(RETRY_S) else RETRY_S[family.fruitless - 1]
        family.due_at = self._host.now() + wait_s * self._host.rng.uniform(0.8, 1.0)

    def _ask(self, family: _Family, helper: Peer) -> None:
        token = family.token = self._expect(family)
        now = self._host.now()
        known = self._contacted.addresses(now, MAX_KNOWN, ipv6=family.ipv6)
        request = ProbeRequest(token, tuple(ip_address(address).packed for address in known))
        self._counters["probes_asked_for"] += 1

        def answered(answer: Message | None) -> None:
            if family.token != token or family.stage is not Stage.ASKING:
                return
            source = answer.source if isinstance(answer, ProbeReport) else None
            if source is None or not self._is_stranger(family, source):
                self._move(family, Event.REFUSED)
            else:
                self._move(family, Event.SENT)
                family.timers["silence"] = self._host.call_later(GRACE_S, lambda: self._silent(family, source))

        self._parts.exchange.ask(helper, request, (ProbeReport,), answered, ASK_TIMEOUT_S)

    def _is_stranger(self, family: _Family, source: Endpoint) -> bool:
        relation = self._contacted.relation(self._host.now(), source)
        return relation is Relation.STRANGER and self._can_help(family, source)

    def _silent(self, family: _Family, source: Endpoint) -> None:
        # Its packet may have come, and shown nothing; or we have sent to it meanwhile, so that it is no stranger.
        if self._tokens.get(family.token) is family and self._is_stranger(family, source):
            family.missed.add(source.address)
            family.observer.missed(self._host.now(), source, Relation.STRANGER)
            self._counters["probes_missed"] += 1
        self._move(family, Event.SILENCE)

    def _expect(self, family: _Family) -> bytes:
        """A new token, taken once and long after anybody waits for it: late is not never."""
        token = self._host.rng.randbytes(TOKEN_BYTES)
        self._tokens[token] = family
        if len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        return token

    # Hairpinning

    def _hairpin(self, family: _Family) -> None:
        """Send to our own outside endpoint, unless it is known already that this leads back."""
        now = self._host.now()
        outside = family.outside
        if outside is None or outside in self._host.local_endpoints() or now - family.neighbor_at < ROUND_S:
            return
        family.cancel("hairpin", "hairpin again")
        family.hairpin_at = now
        token = family.hairpin_token = self._expect(family)
        self._host.send(outside, probe(token))
        family.timers["hairpin again"] = self._host.call_later(
            HAIRPIN_AGAIN_S, lambda: self._host.send(outside, probe(token))
        )
        family.timers["hairpin"] = self._host.call_later(HAIRPIN_S, lambda: self._hairpinned(family, False))

    def _hairpinned(self, family: _Family, came_back: bool) -> None:
        family.cancel("hairpin", "hairpin again")
        family.hairpin_token = b""
        now = self._host.now()
        if came_back or now - family.neighbor_at >= ROUND_S:
            family.observer.hairpinned(now, came_back)
