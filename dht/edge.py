"""What a ring needs of its edges, and of who makes them. The main ring and the rings of groups differ here only.

| seam | the main ring | a group's ring |
|---|---|---|
| `Edge` | `dht.peer.Peer`, while it has a proven path | `dht.groups.edges.GroupEdge`: a peer that was admitted |
| `Edges` | `dht.sessions.Sessions` | `dht.groups.edges.GroupEdges` |
| `Links` | `dht.linking.Linker`: dials, punches, tunnels | `dht.groups.edges.GroupLinks`: asks for sessions |

Types only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from dht.contact import Contact
from dht.host import Endpoint
from dht.path import Path


class Edge(Protocol):
    """One other node as one ring sees it.

    `joined`: it is a member of this ring; `told_joined`: it knows that this node is one; `declared`: where it says it
    can be reached.
    """

    joined: bool
    told_joined: bool
    declared: tuple[Endpoint, ...]

    @property
    def id(self) -> int: ...

    @property
    def path(self) -> object | None:
        """By what this ring reaches it; None: this ring has no edge to it."""

    @property
    def up(self) -> bool:
        """Whether its session works."""

    @property
    def direct(self) -> bool:
        """Whether a packet on this edge is not relayed by others of this ring, so that it may be a finger."""

    @property
    def suspect(self) -> bool:
        """A probe went unanswered: route around it."""

    @property
    def in_trees(self) -> bool:
        """Whether it takes part in broadcasts and aggregates: older versions do not."""

    @property
    def path_heard_at(self) -> float: ...

    @property
    def rtt_s(self) -> float | None: ...

    def contact(self) -> Contact:
        """How others may reach it."""

    def send(self, plaintext: bytes, *, expects_answer: bool = False, traffic_class: int = 0) -> bool:
        """Seal and send what begins with its `Inner` kind; False when there are no keys fit for it."""

    def send_all(self, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool:
        """As `send` for each, expecting answers; one batch where that is possible."""

    def answer(self, plaintext: bytes, path: Path | None) -> bool:
        """As `send`, by the path that the question came by."""


class Edges(Protocol):
    """The edges of one node in one ring, and those that have been or may yet become some."""

    @property
    def peers(self) -> Mapping[int, Edge]:
        """By node id."""

    def edges(self) -> Iterator[Edge]:
        """Those with a path."""

    def drop(self, node_id: int) -> None:
        """Forget a node, which left or whose edge ended."""


class Links(Protocol):
    """Makes edges, and remembers whom it is useless to try."""

    def link(
        self,
        contact: Contact,
        done: Callable[[Edge | None], None] | None = None,
        *,
        direct_only: bool = False,
        at_once: bool = False,
    ) -> None:
        """Seek an edge to `contact`; `done` is called once, perhaps at once, with the edge or None."""

    def names_a_way(self, contact: Contact) -> bool:
        """Whether the contact says enough to try at all."""

    def shun(self, contact: Contact) -> None:
        """Leave a node alone for a while."""

    def forgive(self, contact: Contact) -> None:
        """It was heard from again."""

    def shunned(self, contact: Contact) -> bool: ...

    def stop(self) -> None:
        """Make no more edges; nobody who waits is told."""
