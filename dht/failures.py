"""What an asyncio program is told when the ring can't do what it asked: one type a cause, one sentence each.

Raised by `dht.aio` alone; protocol code has its own two families in `dht.errors`.
"""

from __future__ import annotations

from dht.records import REPLICAS
from dht.replicas import PutResult
from dht.store import Outcome

_REFUSALS = {
    Outcome.OLDER: "a newer one of this node is there, written by a clock that was ahead",
    Outcome.FULL: "this node may store no more, or those that would keep it have no room",
    Outcome.LIMITED: "this node's records change too often",
    Outcome.EXPIRED: "it had expired on arrival: this node's clock is wrong",
}


class RingError(Exception):
    """The ring could not do what was asked. The text is one sentence that says what and why."""


class NotReady(RingError):
    """This node is not in its ring: it is still joining, or knows of others and can reach none of them."""


class NotStored(RingError):
    """Fewer than a majority of the replica points took a record. It is withdrawn, so that nothing is left of it."""


class Taken(NotStored):
    """The name is exclusively another node's; or others have records under a name that was to be created."""


class NoAnswer(RingError):
    """Too few of the nodes that would hold a record answered to say that there is none."""


class Unreachable(RingError):
    """A node was not found, or does not answer."""


class Closed(RingError):
    """The ring was closed, before the call or during it."""


def not_stored(name: str, result: PutResult) -> NotStored:
    """The error for a put that was not ok."""
    if result.refusal is Outcome.TAKEN:
        return Taken(f"'{name}' is taken: another node has it")
    reason = "too few of the nodes that would keep it answered"
    if result.refusal is not None:
        reason = _REFUSALS.get(result.refusal, reason)
    return NotStored(f"'{name}' was stored at {result.stored} of {REPLICAS} replica points: {reason}")
