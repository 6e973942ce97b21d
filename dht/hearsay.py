"""What a node heard of its part of the ring: what adjacent nodes last told of themselves, and where those entries of
its lists are to which it has no edge (yet).

Others' word only: it may name a way, and is never taken for an edge. Pure; bounded by the length of the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

from dht.contact import Contact
from dht.edge import Edge
from dht.messages import Neighbors
from dht.ring import NearLists


def digest(neighbors: Neighbors) -> bytes:
    """What a NeighborsRequest names the last answer by."""
    summary = bytearray((neighbors.joined, len(neighbors.predecessors)))
    for contact in (neighbors.sender, *neighbors.predecessors, *neighbors.successors):
        packed = contact.pack()
        summary += len(packed).to_bytes(2, "big") + packed
    return blake2b(summary, digest_size=8).digest()


class Hearsay:
    """That of one node. `edge(id)` is the edge to a node, if there is one; `names_a_way` as in `dht.edge.Links`."""

    def __init__(
        self, lists: NearLists, edge: Callable[[int], Edge | None], names_a_way: Callable[[Contact], bool]
    ) -> None:
        self._lists, self._edge, self._names_a_way = lists, edge, names_a_way
        self._contacts: dict[int, Contact] = {}
        self._told: dict[int, Neighbors] = {}

    def told(self, teller: int, message: Neighbors) -> None:
        """A node told of its lists."""
        self._told[teller] = message
        if len(self._told) > 4 * self._lists.length:
            self._told = {key: value for key, value in self._told.items() if key in self._lists}

    def last_of(self, teller: int) -> Neighbors | None:
        """What a node told last."""
        return self._told.get(teller)

    def forget(self, teller: int) -> None:
        """What it told counts no more."""
        self._told.pop(teller, None)

    def clear(self) -> None:
        self._contacts.clear()
        self._told.clear()

    def neighbors_of(self, node_id: int) -> set[int]:
        """The members that named this node as their neighbour when they last told of their lists."""
        return {
            teller
            for teller, told in self._told.items()
            if any(contact.id == node_id for contact in (*told.successors, *told.predecessors))
        }

    def remember(self, contacts: Iterable[Contact]) -> None:
        """These are, or were, entries of the lists."""
        for contact in contacts:
            self._contacts[contact.id] = contact
        if len(self._contacts) > 8 * self._lists.length:
            self._contacts = {key: value for key, value in self._contacts.items() if key in self._lists}

    def contact(self, node_id: int) -> Contact | None:
        """Where others said that a node is."""
        return self._contacts.get(node_id)

    def known(self, ids: Iterable[int]) -> list[Contact]:
        """The contacts of those of whom a way is known."""
        known = []
        for node_id in ids:
            edge = self._edge(node_id)
            contact = edge.contact() if edge is not None else None
            # Behind a tunnel, an edge that has not told us where it is names no way.
            if contact is None or not self._names_a_way(contact):
                contact = self._contacts.get(node_id)
            if contact is not None and self._names_a_way(contact):
                known.append(contact)
        return known
