"""All groups of one node: joins and leaves them, gives each its messages, and tells each what becomes of sessions.

What groups cost is shared: members of several groups that this node is in have one session, one path and one ping
between them. At most MAX_SUBRINGS groups, MAX_EDGES edges each. A message for a group that this node is not in, or from
who was not admitted to it, is counted and dropped; the sender hears that it has no edge, in the same words.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from dht.budget import Budget
from dht.contact import Contact
from dht.envelope import Inner
from dht.errors import BadDatagram
from dht.groups.edges import GroupEdge
from dht.groups.entries import Directory
from dht.groups.memory import Kept, Memory
from dht.groups.notice import EpochNotice
from dht.groups.right import TAG_BYTES, CertificateRight, GroupSecret, Right, SecretRight
from dht.groups.subring import Subring
from dht.groups.views import GroupState, GroupView
from dht.host import Host
from dht.identity import Identity
from dht.path import Path
from dht.peer import Peer
from dht.requests import Requests
from dht.storage import Storage

log = logging.getLogger(__name__)

MAX_SUBRINGS: Final = 128
ADJACENT_S: Final = 10.0  # a neighbour in a group is pinged as often; under traffic, death is noticed sooner anyway
CORRECTIONS_PER_S: Final = 10.0
CORRECTION_BURST: Final = 50.0
NOTICE_CHECKS_PER_S: Final = 2.0  # of signatures, for what members and strangers pass on
NOTICE_CHECK_BURST: Final = 20.0


class Groups:
    """The groups of one node. `open_session(contact, done)` seeks a session over the main ring, `dial(contact, done)` a
    direct path; `interval_s()` is how long an edge may be silent."""

    def __init__(
        self,
        host: Host,
        identity: Identity,
        storage: Storage,
        directory: Directory,
        open_session: Callable[[Contact, Callable[[Peer | None], None]], None],
        dial: Callable[[Contact, Callable[[Peer | None], None]], None],
        own_contact: Callable[[], Contact],
        interval_s: Callable[[], float],
        counters: Counter[str],
    ) -> None:
        self._host, self._identity, self._directory = host, identity, directory
        self._open_session, self._dial, self._own_contact = open_session, dial, own_contact
        self._interval_s, self._counters = interval_s, counters
        self._memory = Memory(storage)
        self._requests = Requests(host, counters)
        self._by_tag: dict[bytes, Subring] = {}
        self._sharing: dict[int, set[Subring]] = {}  # by node id: the groups with an edge to it
        self._corrections = Budget(CORRECTIONS_PER_S, CORRECTION_BURST, host.now())
        self._notice_checks = Budget(NOTICE_CHECKS_PER_S, NOTICE_CHECK_BURST, host.now())
        self._running = False  # the main ring has a place for us
        self.made: Callable[[Subring], None] = lambda subring: None  # is told of each group before it starts

    # For the node's owner

    def join(self, name: str, secret: GroupSecret | None = None, *, keep: bool = True) -> Subring:
        """Be in a group from now on, and (`keep`) after every restart: one that this node's certificate names, or one
        that `secret` opens. Joining again changes nothing; a secret with a higher epoch takes the place of the old one.
        Raises ValueError for what is no group, too many groups, or a secret or certificate that is out of date."""
        known = self._memory.of(name, secret=secret is not None)
        epoch = 0 if known is None else known.epoch
        right: Right
        if secret is None:
            right = CertificateRight(self._identity, name, epoch)
            if not right.holds:
                raise ValueError(self._no_right(name, epoch))
        else:
            right = SecretRight(self._identity, name, secret)
            _check_not_older(name, secret, known)
        subring = self.named(name, secret=secret is not None)
        if subring is None:
            if len(self._by_tag) >= MAX_SUBRINGS:
                raise ValueError(f"a node is in at most {MAX_SUBRINGS} groups: leave one first")
            subring = self._make(right, b"" if known is None else known.notice)
        elif right.tag != subring.right.tag:
            del self._by_tag[subring.right.tag]
            self._by_tag[right.tag] = subring
            subring.use(right)
        if keep:
            self._memory.keep(Kept(name, True, secret, right.epoch, subring.notice))
        return subring

    def leave(self, name: str, *, secret: bool) -> bool:
        """Be in it no longer; False when this node was not."""
        subring = self.named(name, secret=secret)
        if subring is None:
            return False
        subring.stop(leave=True)
        for edge in list(subring.edges.edges()):
            subring.edges.drop(edge.id)
        del self._by_tag[subring.right.tag]
        known = self._memory.of(name, secret=secret)
        if known is not None:
            known.joined = False
            self._memory.keep(known)
        return True

    def named(self, name: str, *, secret: bool) -> Subring | None:
        """The group of this name, if this node is in it."""
        return next(
            (
                subring
                for subring in self._by_tag.values()
                if subring.name == name and isinstance(subring.right, SecretRight) == secret
            ),
            None,
        )

    def all(self) -> list[Subring]:
        return list(self._by_tag.values())

    def views(self) -> list[GroupView]:
        return [subring.view() for subring in self._by_tag.values()]

    def heed(self, raw: bytes) -> None:
        """Take the authority's word that a group's members were decided anew, and pass it on. Raises BadDatagram for
        what is not its word."""
        notice = EpochNotice.parse(self._identity.network, raw)
        known = self._memory.of(notice.group, secret=False) or Kept(notice.group, False, None)
        subring = self.named(notice.group, secret=False)
        if notice.epoch > known.epoch:
            known.epoch, known.notice = notice.epoch, raw
            self._memory.keep(known)  # before anything follows from it
        right = None if subring is None else subring.right
        if subring is not None and isinstance(right, CertificateRight) and right.raise_to(notice.epoch):
            subring.notice = raw
            self._counters["group_rekeyed"] += 1
            subring.rekeyed()
            if subring.state is GroupState.EXPELLED:
                log.warning("%s", self._no_right(notice.group, notice.epoch))

    def _heard(self, raw: bytes) -> None:
        """As `heed`, for what others pass on: only what would be news to a group of ours is looked at, and so often.
        Raises BadDatagram."""
        group, epoch = EpochNotice.claimed(raw)
        known, subring = self._memory.of(group, secret=False), self.named(group, secret=False)
        epochs = [known.epoch] if known is not None else []
        epochs += [subring.right.epoch] if subring is not None else []
        if not epochs or epoch <= max(epochs):
            return
        if not self._notice_checks.take(self._host.now()):
            self._counters["group_notices_over_rate"] += 1
            return
        self.heed(raw)

    # For the node

    def start(self) -> None:
        """Take up the groups of earlier runs."""
        for kept in self._memory.joined():
            if self.named(kept.name, secret=kept.secret is not None) is not None:
                continue
            right: Right
            if kept.secret is None:
                right = CertificateRight(self._identity, kept.name, kept.epoch)
                if not right.holds:
                    log.warning("%s", self._no_right(kept.name, kept.epoch))
            else:
                right = SecretRight(self._identity, kept.name, kept.secret)
            if len(self._by_tag) < MAX_SUBRINGS:
                self._make(right, kept.notice)

    def stop(self) -> None:
        """Cancel every timer. Nothing is sent: the node itself takes its leave."""
        self._running = False
        for subring in self._by_tag.values():
            subring.stop()
        self._requests.stop()

    def main_ring_joined(self) -> None:
        """The node has its place on the main ring, or has it again."""
        self._running = True
        for subring in list(self._by_tag.values()):
            subring.start()

    def receive(self, peer: Peer, plaintext: bytes, path: Path | None) -> None:
        """Handle a plaintext of kind GROUP. Raises BadDatagram."""
        tag, data = plaintext[1 : 1 + TAG_BYTES], plaintext[1 + TAG_BYTES :]
        if len(tag) < TAG_BYTES or not data:
            raise BadDatagram(f"a group's message of {len(plaintext)} bytes")
        subring = self._by_tag.get(tag)
        if subring is None:
            self._counters["group_refused"] += 1
            self._counters["group_refused_unknown"] += 1
        elif subring.receive(peer, data, path):
            return
        # An honest member that this end has forgotten asks anew; to others it says nothing, not even whether the group
        # is here. Questions of admission get no answer at all.
        routine = data[0] in (Inner.CONTROL, Inner.ROUTED)
        if routine and self._corrections.take(self._host.now()):
            peer.send(bytes((Inner.GROUP,)) + tag + bytes((Inner.KEEPALIVE,)))

    def gone(self, node_id: int, *, dead: bool) -> None:
        """The session with a node is over: it died, left, or began anew."""
        for subring in list(self._sharing.get(node_id, ())):
            subring.peer_gone(node_id, dead=dead)

    def suspected(self, peer: Peer) -> None:
        """A probe of this node went unanswered."""
        for subring in list(self._sharing.get(peer.id, ())):
            edge = subring.ring.edge(peer.id)
            if edge is not None:
                subring.ring.router.go_around(edge)

    def silent_s(self, peer: Peer) -> float | None:
        """How long a peer may be silent before it is asked for a sign of life; None when no group has an edge to it."""
        sharing = self._sharing.get(peer.id)
        if not sharing:
            return None
        if any(peer.id in subring.ring.near.lists.adjacent() for subring in sharing):
            return min(ADJACENT_S, self._interval_s())
        return self._interval_s()

    def adjacent(self) -> tuple[int, ...]:
        """Whom some group has for immediate successor or predecessor."""
        if not self._by_tag:
            return ()
        rings = [subring.ring for subring in self._by_tag.values()]
        return tuple(node_id for ring in rings for node_id in ring.near.lists.adjacent())

    def _make(self, right: Right, notice: bytes) -> Subring:
        subring = Subring(
            self._host,
            self._identity.member.id,
            right,
            self._directory,
            self._open_session,
            self._dial,
            self._own_contact,
            self._requests,
            self._heard,
            self._counters,
        )
        subring.notice = notice
        subring.edges.added = lambda edge: self._added(subring, edge)
        subring.edges.dropped = lambda edge: self._dropped(subring, edge)
        self._by_tag[right.tag] = subring
        self.made(subring)
        if self._running:
            subring.start()
        return subring

    def _added(self, subring: Subring, edge: GroupEdge) -> None:
        self._sharing.setdefault(edge.id, set()).add(subring)

    def _dropped(self, subring: Subring, edge: GroupEdge) -> None:
        sharing = self._sharing.get(edge.id)
        if sharing is not None:
            sharing.discard(subring)
            if not sharing:
                del self._sharing[edge.id]

    def _no_right(self, name: str, epoch: int) -> str:
        member = self._identity.member
        if member.granted(name) is None:
            return f"the certificate of '{member.name}' does not name the group '{name}': issue it with --group {name}"
        return (
            f"the certificate of '{member.name}' is from before the members of '{name}' were decided anew"
            f" (epoch {member.granted(name)}, and it is {epoch} now): issue it again"
        )


def _check_not_older(name: str, secret: GroupSecret, known: Kept | None) -> None:
    if known is None or known.secret is None or known.secret == secret:
        return
    if secret.epoch < known.epoch:
        raise ValueError(
            f"this secret of '{name}' is of epoch {secret.epoch}, and the group's is {known.epoch} already:"
            " ask for the new one"
        )
    if secret.epoch == known.epoch and known.joined:
        raise ValueError(f"this is another secret of '{name}' than the one in use: leave that group first")
