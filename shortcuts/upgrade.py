"""Tries to reach a peer directly: both ends tell each other where they may be, and check those places at once.

    IDLE -> OFFERING (ours out, the peer's awaited) -> CHECKING (paced rounds) -> DIRECT | WAITING (until the next try)

An attempt begins when a shortcut is wanted, when the peer begins one, and at once when anything changed that may help.
Nobody is controlling: each end uses what it has proven itself. What a peer says of its endpoints is a claim that may
name anybody, so the attempts that it can make us begin are few, and each sends a bounded number of small packets.
Sources: ICE (RFC 8445) without roles and components; RFC 5128 section 3.3 for sending at the same time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from dht.budget import Budget
from dht.checks import Checked
from dht.exchange import Exchange, Incoming, Way
from dht.host import Endpoint, Host, Timer
from dht.messages import Message
from dht.peer import Peer
from shortcuts.candidates import Candidate, Pair, pace, pairs
from shortcuts.messages import NONCE_BYTES, Offer
from shortcuts.monitor import Monitor
from shortcuts.nat import Nat
from shortcuts.views import AttemptView, TrialView

CHECK_TIMEOUT_S: Final = 1.0  # after the last round, before an attempt counts as failed
ANSWER_TIMEOUT_S: Final = 3.0  # an answer this late still proves the path: the way is long, or a machine is busy
AFTER_SUCCESS_S: Final = 0.3  # for a faster candidate to answer too
RETRY_S: Final = (4.0, 8.0, 15.0, 22.0)  # while there is traffic: what became possible is found within half a minute
QUIET_RETRY_S: Final = 300.0
ACTIVE_S: Final = 60.0
OFFERS_PER_S: Final = 0.5  # that one peer may make us answer
OFFER_BURST: Final = 6.0
MAX_ATTEMPTS_KEPT: Final = 4
MAX_LEARNED: Final = 4  # places where this peer saw us


class State(Enum):
    """Where the search for a direct path to one peer stands."""

    IDLE = auto()
    OFFERING = auto()
    CHECKING = auto()
    DIRECT = auto()
    WAITING = auto()


class Event(Enum):
    """What moves a search on."""

    BEGIN = auto()
    OFFER = auto()  # the peer's, asked for or not
    NO_ANSWER = auto()
    SUCCESS = auto()
    EXHAUSTED = auto()
    LOST = auto()


NEXT: Final[dict[tuple[State, Event], State]] = {
    (State.IDLE, Event.BEGIN): State.OFFERING,
    (State.WAITING, Event.BEGIN): State.OFFERING,
    (State.IDLE, Event.OFFER): State.CHECKING,
    (State.OFFERING, Event.OFFER): State.CHECKING,
    (State.CHECKING, Event.OFFER): State.CHECKING,  # the peer began another attempt: it may have moved
    (State.DIRECT, Event.OFFER): State.CHECKING,
    (State.WAITING, Event.OFFER): State.CHECKING,
    (State.OFFERING, Event.NO_ANSWER): State.WAITING,
    (State.OFFERING, Event.SUCCESS): State.DIRECT,
    (State.CHECKING, Event.SUCCESS): State.DIRECT,
    (State.WAITING, Event.SUCCESS): State.DIRECT,
    (State.IDLE, Event.SUCCESS): State.DIRECT,
    (State.CHECKING, Event.EXHAUSTED): State.WAITING,
    (State.DIRECT, Event.LOST): State.IDLE,
}


@dataclass(slots=True, eq=False)
class _Trial:
    """One remote candidate in one attempt."""

    pair: Pair
    sent: int = 0
    rtt_ms: float | None = None

    def outcome(self, *, over: bool) -> str:
        if self.rtt_ms is not None:
            return f"answered in {self.rtt_ms:.1f} ms"
        if self.sent == 0:
            return "not tried"
        checks = f"{self.sent} check{'' if self.sent == 1 else 's'}"
        return f"no answer to {checks}" if over else f"{checks} sent"


@dataclass(slots=True, eq=False)
class _Attempt:
    began_at: float
    outcome: str = "asking the peer where it is"
    over: bool = False
    trials: list[_Trial] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Search:
    """The search for a direct path to one peer."""

    peer: Peer
    budget: Budget
    state: State = State.IDLE
    tries: int = 0
    retry_at: float = 0.0
    attempts: deque[_Attempt] = field(default_factory=lambda: deque(maxlen=MAX_ATTEMPTS_KEPT))
    remote: tuple[Candidate, ...] = ()
    remote_nat: tuple[Nat, Nat] | None = None
    learned: list[Endpoint] = field(default_factory=list)


class Upgrade:
    """The searches of one node. `own(peer's learned endpoints)` gives our candidates; `nats()` what our NATs do."""

    def __init__(
        self,
        host: Host,
        exchange: Exchange,
        monitor: Monitor,
        own: Callable[[Sequence[Endpoint]], tuple[Candidate, ...]],
        nats: Callable[[], tuple[Nat, Nat]],
        counters: Counter[str],
    ) -> None:
        self._host, self._exchange, self._monitor = host, exchange, monitor
        self._own, self._nats, self._counters = own, nats, counters
        self._searches: dict[int, Search] = {}
        self._stopped = False
        self.wanted: Callable[[Peer], None] = lambda peer: None
        exchange.handle(Offer, Way.SESSION, self._on_offer)

    def stop(self) -> None:
        self._stopped = True
        for search in self._searches.values():
            self._cancel(search)
        self._searches.clear()

    def search(self, peer: Peer) -> Search:
        """What is known of the search for a direct path to this peer; begun when there was none."""
        search = self._searches.get(peer.id)
        if search is None or search.peer is not peer:
            if search is not None:
                self._cancel(search)
            search = self._searches[peer.id] = Search(peer, Budget(OFFERS_PER_S, OFFER_BURST, self._host.now()))
        return search

    def drop(self, peer_id: int) -> None:
        search = self._searches.pop(peer_id, None)
        if search is not None:
            self._cancel(search)

    def consider(self, peer: Peer) -> None:
        """A direct path to this peer is wanted: begin an attempt if one is due. Cheap; to be called often."""
        search = self.search(peer)
        direct = peer.endpoint is not None
        if direct and search.state is not State.DIRECT:
            self._succeed(search)
        elif not direct and search.state is State.DIRECT:
            self._move(search, Event.LOST)
            search.tries = 0
        if not direct and search.state in (State.IDLE, State.WAITING) and self._host.now() >= search.retry_at:
            self._begin(search)

    def hurry(self, peer: Peer | None = None) -> None:
        """Something changed that may help: try again soon, this peer or all."""
        now = self._host.now()
        for search in self._searches.values():
            if peer is None or search.peer is peer:
                search.tries = 0
                search.retry_at = min(search.retry_at, now + 0.2 * self._host.rng.random())

    def observed(self, peer: Peer, checked: Checked) -> None:
        """The peer saw a check of ours come from there: one more place to try, for this peer."""
        search = self._searches.get(peer.id)
        if search is not None and checked.observed is not None and checked.observed not in search.learned:
            search.learned = [checked.observed, *search.learned][:MAX_LEARNED]

    def attempts(self, peer_id: int) -> tuple[AttemptView, ...]:
        """The last attempts, the latest first."""
        search = self._searches.get(peer_id)
        now = self._host.now()
        return tuple(
            AttemptView(
                now - attempt.began_at,
                attempt.outcome,
                attempt.over,
                tuple(TrialView(trial.pair.remote, trial.outcome(over=attempt.over)) for trial in attempt.trials),
            )
            for attempt in reversed(search.attempts if search is not None else ())
        )

    def _begin(self, search: Search) -> None:
        self._move(search, Event.BEGIN)
        self._counters["direct_attempts"] += 1
        attempt = _Attempt(self._host.now())
        search.attempts.append(attempt)
        nonce = self._host.rng.randbytes(NONCE_BYTES)

        def answered(answer: Message | None) -> None:
            if self._stopped or attempt.over or self._searches.get(search.peer.id) is not search:
                return
            if not isinstance(answer, Offer) or answer.nonce != nonce:
                if search.state is State.OFFERING:
                    self._end(search, attempt, Event.NO_ANSWER, "the peer did not say where it is")
            else:
                self._told(search, answer)
                self._check_all(search, attempt)

        self._exchange.ask(search.peer, self._offer(search, nonce), (Offer,), answered)

    def _on_offer(self, incoming: Incoming, message: Offer) -> Message | None:
        peer = incoming.peer
        assert peer is not None
        search = self.search(peer)
        if not search.budget.take(self._host.now()):
            self._counters["offers_over_budget"] += 1
            return None
        self._told(search, message)
        self.wanted(peer)
        if peer.endpoint is None:
            current = search.attempts[-1] if search.attempts and not search.attempts[-1].over else None
            if current is None:
                current = _Attempt(self._host.now())
                search.attempts.append(current)
            self._check_all(search, current)
        return self._offer(search, message.nonce)

    def _offer(self, search: Search, nonce: bytes) -> Offer:
        nat4, nat6 = self._nats()
        return Offer(nonce, self._own(search.learned), nat4, nat6)

    def _told(self, search: Search, offer: Offer) -> None:
        search.remote = offer.candidates
        search.remote_nat = (offer.nat4, offer.nat6)

    def _check_all(self, search: Search, attempt: _Attempt) -> None:
        """Check every pair, in rounds. A second call in one attempt, for both ends offered, begins anew."""
        self._move(search, Event.OFFER)
        for timer in attempt.timers:
            timer.cancel()
        chosen = pairs(self._own(search.learned), search.remote)
        attempt.outcome = "checking"
        tried = {trial.pair.remote.endpoint: trial for trial in attempt.trials}
        attempt.trials = [tried.get(pair.remote.endpoint) or _Trial(pair) for pair in chosen]
        if not chosen:
            self._end(search, attempt, Event.EXHAUSTED, "no candidate of the peer's can be reached from here")
            return
        trials = {trial.pair.remote.endpoint: trial for trial in attempt.trials}
        plan = pace(chosen)

        def send(trial: _Trial) -> None:
            if not attempt.over and trial.rtt_ms is None:
                trial.sent += 1
                self._one(search, attempt, trial)

        attempt.timers = [
            self._host.call_later(delay_s, lambda trial=trials[pair.remote.endpoint]: send(trial))  # type: ignore[misc]
            for delay_s, pair in plan
        ]
        last_s = plan[-1][0] + CHECK_TIMEOUT_S
        attempt.timers.append(self._host.call_later(last_s, lambda: self._exhausted(search, attempt)))

    def _one(self, search: Search, attempt: _Attempt, trial: _Trial) -> None:
        def done(checked: Checked | None) -> None:
            if checked is None or trial.rtt_ms is not None:
                return
            first = not any(each.rtt_ms is not None for each in attempt.trials)
            trial.rtt_ms = checked.rtt_s * 1000.0
            if first and not attempt.over:
                for timer in attempt.timers:
                    timer.cancel()
                attempt.timers = [self._host.call_later(AFTER_SUCCESS_S, lambda: self._settled(search, attempt))]

        self._monitor.try_out(search.peer, trial.pair.remote.endpoint, done, ANSWER_TIMEOUT_S)

    def _settled(self, search: Search, attempt: _Attempt) -> None:
        if not attempt.over:
            self._end(search, attempt, Event.SUCCESS, "direct")

    def _exhausted(self, search: Search, attempt: _Attempt) -> None:
        if attempt.over:
            return
        if search.peer.endpoint is not None:
            self._end(search, attempt, Event.SUCCESS, f"direct: the peer came by {search.peer.endpoint}")
        else:
            self._end(search, attempt, Event.EXHAUSTED, "no candidate answered")

    def _succeed(self, search: Search) -> None:
        """A direct path is in use, by whoever's doing."""
        attempt = search.attempts[-1] if search.attempts else None
        if attempt is not None and not attempt.over:
            return  # it has its own end
        self._move(search, Event.SUCCESS)
        search.tries = 0

    def _end(self, search: Search, attempt: _Attempt, event: Event, outcome: str) -> None:
        attempt.over = True
        attempt.outcome = outcome
        for timer in attempt.timers:
            timer.cancel()
        attempt.timers = []
        self._move(search, event)
        if event is Event.SUCCESS:
            search.tries = 0
            search.retry_at = 0.0
            return
        now = self._host.now()
        active = now - search.peer.demand_at < ACTIVE_S
        wait_s = RETRY_S[min(search.tries, len(RETRY_S) - 1)] if active else QUIET_RETRY_S
        search.retry_at = now + wait_s * self._host.rng.uniform(0.8, 1.0)
        search.tries += 1

    def _move(self, search: Search, event: Event) -> None:
        search.state = NEXT.get((search.state, event), search.state)

    def _cancel(self, search: Search) -> None:
        for attempt in search.attempts:
            attempt.over = True
            for timer in attempt.timers:
                timer.cancel()
