"""What a node shows of its groups. Plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from dht.views import RingView


class GroupState(Enum):
    """Where a node stands towards one of its groups.

    `EXPELLED`: its own certificate does not name the group, or names it for an epoch that is over.
    """

    WAITING = "waiting"  # for the main ring
    JOINING = "joining"
    ALONE = "alone"
    MEMBER = "member"
    EXPELLED = "expelled"


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member that this node has an edge to. `path` as in `dht.views.PeerView`."""

    id: int
    name: str
    path: str
    rtt_ms: float | None


@dataclass(frozen=True, slots=True)
class GroupView:
    """One group as its node sees it. `secret`: opened by a secret, not named in certificates; `entry_point`: others
    find the group through this node; `refused`: messages and questions of who is no member."""

    name: str
    secret: bool
    epoch: int
    state: GroupState
    ring: RingView
    members: tuple[MemberView, ...]
    entry_point: bool
    refused: int
