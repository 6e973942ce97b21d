"""What others told of the ring: bounded, forgotten when it should be, and only ever a second choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dht.contact import STATIC_BYTES, Contact
from dht.edge import Edge
from dht.hearsay import Hearsay, digest
from dht.host import Endpoint
from dht.messages import Neighbors
from dht.ring import NearLists

ME = 1000


def contact(node_id: int, *endpoints: Endpoint) -> Contact:
    return Contact(node_id, bytes(STATIC_BYTES), endpoints)


def at(number: int) -> Endpoint:
    return Endpoint("192.0.2.1", number)


@dataclass
class EdgeDouble:
    own: Contact

    def contact(self) -> Contact:
        return self.own


class Scene:
    """Lists with successors 1001 to 1005 and predecessors 999 to 995."""

    def __init__(self) -> None:
        self.lists = NearLists(ME)
        self.lists.join([ME + number for number in range(1, 6)], [ME - number for number in range(1, 6)])
        self.edges: dict[int, EdgeDouble] = {}
        self.hearsay = Hearsay(
            self.lists,
            lambda node_id: cast(Edge | None, self.edges.get(node_id)),
            lambda contact: bool(contact.endpoints),
        )

    def tells(self, teller: int, *successors: int) -> Neighbors:
        message = Neighbors(True, contact(teller), (), tuple(map(contact, successors)))
        self.hearsay.told(teller, message)
        return message


def test_an_edge_says_best_where_it_is_and_others_say_it_of_who_has_none() -> None:
    scene = Scene()
    scene.edges[1001] = EdgeDouble(contact(1001, at(1)))
    scene.hearsay.remember([contact(1001, at(2)), contact(1002, at(3)), contact(1003)])
    assert scene.hearsay.known([1001, 1002, 1003, 1004]) == [contact(1001, at(1)), contact(1002, at(3))]


def test_an_edge_that_names_no_way_is_sought_where_others_say() -> None:
    scene = Scene()
    scene.edges[1001] = EdgeDouble(contact(1001))
    assert scene.hearsay.known([1001]) == []
    scene.hearsay.remember([contact(1001, at(2))])
    assert scene.hearsay.known([1001]) == [contact(1001, at(2))]


def test_neighbours_of_a_node_are_who_named_it_last() -> None:
    scene = Scene()
    scene.tells(1001, 5, 6)
    scene.tells(1002, 6)
    assert scene.hearsay.neighbors_of(6) == {1001, 1002}
    scene.tells(1001, 5)
    assert scene.hearsay.neighbors_of(6) == {1002}
    scene.hearsay.forget(1002)
    assert scene.hearsay.neighbors_of(6) == set()
    assert scene.hearsay.last_of(1002) is None


def test_strangers_word_is_dropped_first_when_there_is_much_of_it() -> None:
    scene = Scene()
    kept = scene.tells(1001, 1002)
    scene.hearsay.remember([contact(1001, at(1))])
    for stranger in range(5000, 5200):
        scene.tells(stranger, 1)
        scene.hearsay.remember([contact(stranger, at(1))])
        tellers = [teller for teller in range(5000, 5200) if scene.hearsay.last_of(teller) is not None]
        named = [node_id for node_id in range(5000, 5200) if scene.hearsay.contact(node_id) is not None]
        assert len(tellers) <= 4 * scene.lists.length
        assert len(named) <= 8 * scene.lists.length
    assert scene.hearsay.last_of(1001) is kept
    assert scene.hearsay.contact(1001) == contact(1001, at(1))


def test_a_digest_changes_with_whatever_is_told() -> None:
    one, other, third = contact(1, at(1)), contact(2, at(2)), contact(3, at(3))
    told = [
        Neighbors(True, one, (other,), (third,)),
        Neighbors(False, one, (other,), (third,)),
        Neighbors(True, contact(1, at(9)), (other,), (third,)),
        Neighbors(True, one, (third,), (other,)),
        Neighbors(True, one, (other, third), ()),
        Neighbors(True, one, (), (other, third)),
        Neighbors(True, one, (other,), ()),
    ]
    assert len({digest(each) for each in told}) == len(told)
    assert digest(told[0]) == digest(Neighbors(True, one, (other,), (third,)))
