"""Members of the same network find each other on a link, without a bootstrap and without telling anybody else.

A node asks by multicast at the start, when its addresses change and every few minutes; whoever hears it answers the
asker alone. Only answers count, for they repeat the question's random token: no clock has to be right, and a captured
one is worthless. A captured question gets no second answer: whoever has heard a member, by a question or an answer,
knows which of its questions were before. Only one who has yet to hear it would answer, once, what nobody else can
read. An answer is as long as its question, and is never sent to a place outside the link.

A component: time and randomness come from `Host`, the link from a `Link` (`shortcuts.multicast` is the real one).
Contacts are hints: any member can make them, and the handshake that follows proves them. What strangers can do is
make it deaf, with more noise than it is willing to open.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from dht.certificate import Network
from dht.contact import Contact
from dht.errors import BadDatagram
from dht.host import Host, Timer
from shortcuts.lan_wire import NONCE_BYTES, TOKEN_BYTES, LanAnswer, LanCipher, LanQuestion

log = logging.getLogger(__name__)

SEEK_S: Final = (0.1, 1.0, 4.0)  # from the start or a change of address to the first question, and between the next
PERIOD_S: Final = 240.0
JITTER: Final = 0.25  # of the period, either way: members that start together must not stay together
ANSWER_LIMIT_S: Final = 5.0  # an answer that comes later is none
ANSWER_SPREAD_S: Final = 0.2  # not all at once
REMEMBER_S: Final = 3600.0
SETTLE_S: Final = 0.5
SEEK_GAP_S: Final = 30.0
OPEN_HZ, OPEN_BURST = 100.0, 200.0
ANSWER_HZ, ANSWER_BURST = 5.0, 20.0
MAX_TOKENS: Final = 4
MAX_HEARD: Final = 64  # answers to one question
MAX_ASKERS: Final = 256


class Place(NamedTuple):
    """Where on the link a datagram came from. `scope`: the interface of a link-local IPv6 address."""

    address: str
    port: int
    scope: int = 0


class Link(Protocol):
    """All links of this machine on which members may be."""

    def ask(self, datagram: bytes) -> None:
        """Tell everybody who listens on any link. May be lost."""

    def answer(self, to: Place, datagram: bytes) -> None:
        """Tell somebody who has just asked. May be lost."""

    def on_receive(self, received: Callable[[bytes, Place], None]) -> None:
        """Give everything that arrives to `received`. The last call wins."""

    def refresh(self) -> None:
        """The machine's addresses are others now."""


class Allowance:
    """A token bucket: `rate_hz` in the long run, `burst` at once."""

    __slots__ = ("_at", "_burst", "_rate_hz", "_tokens")

    def __init__(self, rate_hz: float, burst: float) -> None:
        self._rate_hz, self._burst = rate_hz, burst
        self._tokens, self._at = burst, float("-inf")

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate_hz)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class LanDiscovery:
    """Asks and answers from `start` to `stop`. `contact()` is how others reach this node; `heard(contact)` is told of
    every member that answers, again and again, also of those there is an edge with."""

    def __init__(
        self,
        host: Host,
        link: Link,
        network: Network,
        contact: Callable[[], Contact],
        heard: Callable[[Contact], None],
    ) -> None:
        self._host, self._link, self._contact, self._heard = host, link, contact, heard
        self._cipher = LanCipher(network)
        self._tokens: OrderedDict[bytes, tuple[float, int]] = OrderedDict()  # when asked, how many may still answer
        self._askers: OrderedDict[int, tuple[int, float]] = OrderedDict()  # their last sequence, and when
        self._opening = Allowance(OPEN_HZ, OPEN_BURST)
        self._answering = Allowance(ANSWER_HZ, ANSWER_BURST)
        self._sequence = 0
        self._asked = 0  # questions since the start or the last change
        self._sought_at = float("-inf")
        self._timer: Timer | None = None
        self._running = False
        self.counters: Counter[str] = Counter()

    def start(self) -> None:
        """Begin to ask and to answer."""
        self._running = True
        self._link.on_receive(self._received)
        self._seek(0.0)

    def stop(self) -> None:
        """Fall silent."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()

    def addresses_changed(self) -> None:
        """This may be another link: ask anew."""
        if self._running:
            self._link.refresh()
            self._seek(SETTLE_S)

    def seek(self) -> None:
        """This node has lost everybody: ask anew, though not if that was half a minute ago or less."""
        if self._running and self._host.now() - self._sought_at >= SEEK_GAP_S:
            self._seek(0.0)

    def _seek(self, delay_s: float) -> None:
        self._asked = 0
        self._sought_at = self._host.now()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._host.call_later(delay_s + self._host.rng.uniform(0.0, SEEK_S[0]), self._ask)

    def _ask(self) -> None:
        self._asked += 1
        seeking = self._asked <= len(SEEK_S)
        if seeking and self._asked < len(SEEK_S):
            delay_s = SEEK_S[self._asked]
        else:
            delay_s = PERIOD_S * self._host.rng.uniform(1 - JITTER, 1 + JITTER)
        self._timer = self._host.call_later(delay_s, self._ask)
        now = self._host.now()
        # Of a process begun anew it must be higher too.
        self._sequence = max(self._sequence + 1, int(now * 1000.0))
        token = self._host.rng.randbytes(TOKEN_BYTES)
        self._tokens[token] = (now, MAX_HEARD)
        while len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        question = LanQuestion(self._contact().id, self._sequence, token, seeking)
        self._link.ask(self._cipher.seal(question, self._host.rng.randbytes(NONCE_BYTES)))

    def _received(self, datagram: bytes, place: Place) -> None:
        if not self._running:
            return
        if not self._opening.take(self._host.now()):
            self.counters["lan_over_rate"] += 1
            return
        try:
            message = self._cipher.open(datagram)
        except BadDatagram:
            # No line in the log: other networks on this link are no fault.
            self.counters["lan_bad_datagram"] += 1
            return
        if isinstance(message, LanQuestion):
            self._question(message, place)
        else:
            self._answer(message, place)

    def _question(self, question: LanQuestion, place: Place) -> None:
        now = self._host.now()
        if question.id == self._contact().id:
            return
        known = self._askers.get(question.id)
        if known is not None and question.sequence <= known[0]:
            # By way of another interface, or captured by somebody.
            self.counters["lan_repeated"] += 1
            return
        self._remember(question.id, question.sequence)
        if known is not None and not question.seeking:
            return
        if not self._answering.take(now):
            self.counters["lan_answers_over_rate"] += 1
            return
        self._host.call_later(
            self._host.rng.uniform(0.0, ANSWER_SPREAD_S), lambda: self._send_answer(question.token, place)
        )

    def _remember(self, member_id: int, sequence: int) -> None:
        """What a member asks from now on has a higher sequence. Forgotten after an hour, and the oldest makes room."""
        now, askers = self._host.now(), self._askers
        before, _ = askers.pop(member_id, (0, now))
        while askers and (len(askers) >= MAX_ASKERS or now - next(iter(askers.values()))[1] >= REMEMBER_S):
            askers.popitem(last=False)
        askers[member_id] = max(before, sequence), now

    def _send_answer(self, token: bytes, place: Place) -> None:
        if self._running:
            answer = LanAnswer(self._sequence, token, self._contact())
            self._link.answer(place, self._cipher.seal(answer, self._host.rng.randbytes(NONCE_BYTES)))

    def _answer(self, answer: LanAnswer, place: Place) -> None:
        asked_at, left = self._tokens.get(answer.token, (float("-inf"), 0))
        if self._host.now() - asked_at > ANSWER_LIMIT_S or left <= 0:
            self.counters["lan_unasked"] += 1
            return
        self._tokens[answer.token] = asked_at, left - 1
        contact = answer.contact
        if contact.id == self._contact().id:
            return
        self._remember(contact.id, answer.sequence)
        # Where it came from is on this link; what else it has may not be.
        near = sorted(contact.endpoints, key=lambda endpoint: endpoint.address != place.address)
        self._heard(Contact(contact.id, contact.static, tuple(near)))
