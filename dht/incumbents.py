"""One identity twice: whether a peer is still there, now that somebody elsewhere proved to be it too.

    a new instance at another endpoint, and the peer was heard lately -> pinged -> heard from it: it stays
                                                                                -> silence: the newcomer takes over

A new instance from the same endpoint is a restart, and is never asked about. Answers no handshake itself.
"""

from __future__ import annotations

from collections.abc import Callable

from dht.handshake import Payload
from dht.host import Host, Timer
from dht.path import Path
from dht.peer import Peer
from dht.sessions import Sessions

PROBE_INCUMBENT_S = 0.7
INCUMBENT_S = 60.0  # a peer not heard for longer is not asked whether it is still there
MAX_HELD = 64


class Incumbents:
    """Those that are being asked. `ping(peer)` asks a peer for a sign of life."""

    def __init__(self, host: Host, sessions: Sessions) -> None:
        self._host, self._sessions = host, sessions
        self._held: dict[int, Timer] = {}
        self.ping: Callable[[Peer], None] = lambda peer: None

    def is_challenged(self, incumbent: Peer, payload: Payload, path: Path | None, now: float) -> bool:
        """Whether an initiation by `path` may be another process than the peer's, which may be there still."""
        return (
            incumbent.instance != payload.instance
            and incumbent.up
            and path is not None
            and incumbent.path is not None
            and path != incumbent.path
            and now - incumbent.heard_at < INCUMBENT_S
        )

    def ask(self, incumbent: Peer, decided: Callable[[bool], None]) -> None:
        """Call `decided(still_there)` in PROBE_INCUMBENT_S; never while it is being asked already, or too many are."""
        if incumbent.id in self._held or len(self._held) >= MAX_HELD:
            return
        since = self._host.now()

        def decide() -> None:
            del self._held[incumbent.id]
            decided(self._sessions.peers.get(incumbent.id) is incumbent and incumbent.heard_at > since)

        self._held[incumbent.id] = self._host.call_later(PROBE_INCUMBENT_S, decide)
        self.ping(incumbent)

    def stop(self) -> None:
        for timer in self._held.values():
            timer.cancel()
        self._held.clear()
