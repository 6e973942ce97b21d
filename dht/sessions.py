"""Every session of a node: which datagram belongs to which peer, and how a plaintext reaches it.

One session a pair of nodes, whatever the path: a peer with a proven path is written to by it, any other over the
overlay. What a packet that authenticates says about paths:

| it came by               | while the path in use is | then |
|--------------------------|--------------------------|------|
| any path                 | none, the session is new | use it: the handshake went there and back |
| an unknown endpoint      | direct                   | the peer moved: use it |
| any path                 | worse than that          | `unproven(peer, path)`: to be checked both ways first |
| any path                 | better than that         | `doubtful(peer, path)`: why does the peer not use ours? |
| any path, and is a check | anything                 | nothing: the peer only tries it |

Handshakes are `dht.handshakes`' work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dht.certificate import Member
from dht.envelope import Inner
from dht.errors import BadDatagram, StaleDatagram
from dht.features import Feature
from dht.fragments import MAX_MESSAGE_BYTES, cut
from dht.host import Endpoint, Host
from dht.lingering import Lingering
from dht.path import Path, endpoint_of, kind_of
from dht.peer import Peer, Reborn
from dht.runs import is_run, most
from dht.session import OVERHEAD_BYTES, Keypair, NoKeypair
from dht.size_questions import SizeQuestions
from dht.sizes import FLOOR_BYTES

MAX_PEERS = 4096
BATCH_ELSEWHERE_S = 0.5  # for so long, batches by other paths than the one in use are as good
_CHECK, _FRAGMENT = bytes((Inner.CHECK,)), bytes((Inner.FRAGMENT,))
_ECN_MASK = 3  # of a traffic class
_ECN_FEATURE = int(Feature.ECN)  # Plain: the operators of flags are Python, and this is asked for every batch.


class Opened(NamedTuple):
    """Datagrams that were opened together: as a run of plaintexts of `size` bytes, the last perhaps shorter, which is
    good only until the next is opened; or each by itself, with those datagrams that must be judged one by one."""

    peer: Peer
    plaintexts: Sequence[bytes]
    refused: Sequence[bytes]
    run: memoryview | None
    size: int


class UnknownSession(StaleDatagram):
    """A transport packet for an index that is not in use."""

    def __init__(self, index: int) -> None:
        super().__init__(f"no session has index {index:#010x}")
        self.index = index


class Sessions:
    """The peers by node id and by session index; seals, opens and sends.

    `carry(datagram, path, peer_id)` moves a datagram: by a path, or over the overlay when it is None;
    `carry_batch(datagrams, path, peer_id, traffic_class)` moves several, or what has a traffic class.
    `way(path)` says where datagrams go at once, and with what in front; None when they must be carried.
    `deliver(peer, plaintext, path)` takes what was opened. `renew(peer)` begins a handshake.
    """

    def __init__(
        self,
        host: Host,
        carry: Callable[[bytes, Path | None, int], None],
        deliver: Callable[[Peer, bytes, Path | None], None],
        counters: Counter[str],
    ) -> None:
        self._host = host
        self._carry = carry
        self._deliver = deliver
        self._counters = counters
        self._by_index: dict[int, tuple[Peer, Keypair]] = {}
        self._late = Lingering(host, deliver)
        self.sizes = SizeQuestions(host, self.send_by)
        self.peers: dict[int, Peer] = {}
        self.restless: dict[int, Peer] = {}  # by number: those of whom something is awaited, for dht.liveness
        self.awaited: Callable[[], None] = lambda: None  # there are some again
        self._admitted = 0
        self.carry_batch: Callable[[Sequence[bytes], Path | None, int, int], None] = self._carry_each
        self.way: Callable[[Path | None], tuple[Endpoint, bytes] | None] = lambda path: None
        self.renew: Callable[[Peer], None] = lambda peer: None
        self.came_up: Callable[[Peer, Path | None], None] = lambda peer, path: None
        self.restarted: Callable[[Peer], None] = lambda peer: None
        self.roamed: Callable[[Peer], None] = lambda peer: None
        self.unproven: Callable[[Peer, Path], None] = lambda peer, path: None
        self.doubtful: Callable[[Peer, Path | None], None] = lambda peer, path: None
        self.removed: Callable[[Peer], None] = lambda peer: None

    def edges(self) -> Iterator[Peer]:
        """The peers with a proven path of their own."""
        return (peer for peer in self.peers.values() if peer.path is not None)

    def new_index(self) -> int:
        """An index that no session of this node uses."""
        while True:
            index = self._host.rng.getrandbits(32)
            if index not in self._by_index and index not in self._late:
                return index

    def admit(self, member: Member, static: bytes) -> Peer:
        """The peer for `member`, made anew when it is not known, or has another static key than before."""
        peer = self.peers.get(member.id)
        if peer is not None and peer.static == static:
            peer.member = member
            return peer
        if peer is not None:
            self.remove(peer)
        if len(self.peers) >= MAX_PEERS:
            idle = min(self.peers.values(), key=lambda other: (other.path is not None, other.heard_at))
            self.remove(idle)
            self._counters["peer_table_full"] += 1
        self._admitted += 1
        peer = self.peers[member.id] = Peer(member, static, self._host.now(), self, self._admitted)
        self.watch(peer)
        return peer

    def watch(self, peer: Peer) -> None:
        """Something is awaited of a peer, or it is new: `dht.liveness` is to look at it soon."""
        if not self.restless:
            self.awaited()
        self.restless[peer.number] = peer

    def install(self, peer: Peer, keypair: Keypair) -> None:
        """Give a peer the keys of a finished handshake."""
        peer.session.install(keypair)
        self._by_index[keypair.local_index] = (peer, keypair)
        peer.indices.add(keypair.local_index)
        self._drop_stale_indices(peer)

    def remove(self, peer: Peer) -> None:
        """Forget a peer and its keys."""
        for index in peer.indices:
            self._by_index.pop(index, None)
        peer.indices.clear()
        peer.path = None
        peer.paths.clear()
        peer.up = False
        self.removed(peer)
        if self.peers.get(peer.id) is peer:
            del self.peers[peer.id]

    def let_go(self, peer: Peer) -> None:
        """As `remove`, but what the peer sent before it knows is heard for a while: `dht.lingering`."""
        late = {index: self._by_index[index] for index in peer.indices}
        self.remove(peer)
        self._late.keep(late)

    def drop(self, node_id: int) -> None:
        """As `remove`, by node id."""
        peer = self.peers.get(node_id)
        if peer is not None:
            self.remove(peer)

    def forget(self, now: float) -> None:
        """Drop keys that are too old to be of use."""
        for peer in self.peers.values():
            if peer.session.forget(now):
                self._drop_stale_indices(peer)

    def _drop_stale_indices(self, peer: Peer) -> None:
        for index in peer.indices - set(peer.session.indices()):
            self._by_index.pop(index, None)
            peer.indices.discard(index)

    def receive(self, datagram: bytes, path: Path | None, hops: int = 1) -> None:
        """Open a transport packet that came by `path`, or over the overlay. Raises BadDatagram."""
        index = int.from_bytes(datagram[4:8], "big")
        entry = self._by_index.get(index)
        if entry is None:
            if not self._late.receive(index, datagram, path):
                raise UnknownSession(index)
            return
        peer, keypair = entry
        now = self._host.now()
        if path is not None and path == peer.path and peer.up and peer.session.is_current(keypair, now):
            # Nearly always: nothing changes but what is noted here.
            plaintext = keypair.open(datagram)
            if len(plaintext) <= MAX_MESSAGE_BYTES and peer.reborn is None:
                peer.rx_bytes += len(datagram)
                peer.came_by(path, now)
                peer.heard_in_use(now)
                if peer.session.wants_rekey(now, receiving=True):
                    self.renew(peer)
                if plaintext[:1] == _FRAGMENT:
                    self.opened(peer, plaintext, path)
                else:
                    self._deliver(peer, plaintext, path)
                return
        else:
            plaintext = peer.session.open(keypair, datagram, now)
        if len(plaintext) > MAX_MESSAGE_BYTES:
            raise BadDatagram(f"a plaintext of {len(plaintext)} bytes, more than {MAX_MESSAGE_BYTES}")
        peer.rx_bytes += len(datagram)
        if peer.reborn is not None and keypair is peer.reborn.keypair:
            self._be_reborn(peer, peer.reborn)
        if path is None:
            if peer.path is None:
                peer.hops = hops
            elif peer.up and plaintext[:1] != _CHECK:
                self.doubtful(peer, path)
        else:
            self._came_by(peer, path, now, chosen=plaintext[:1] != _CHECK)
        peer.heard(path, now)
        if not peer.up:
            peer.up = True
            self.watch(peer)
            self.came_up(peer, path)
        if peer.session.wants_rekey(now, receiving=True):
            self.renew(peer)
        self.opened(peer, plaintext, path)

    def _came_by(self, peer: Peer, path: Path, now: float, *, chosen: bool) -> None:
        """What follows from the path by which a packet came; `chosen`: the peer uses it, and does not only try it."""
        known = peer.came_by(path, now)
        if path == peer.path:
            return
        if not peer.up:
            peer.take(path, now)
        elif not known and chosen and endpoint_of(path) is not None and peer.endpoint is not None:
            peer.paths.pop(peer.endpoint, None)  # nothing that left its old place arrives there any more
            peer.take(path, now)
            self.roamed(peer)
        elif chosen and kind_of(path) < kind_of(peer.path):
            self.unproven(peer, path)
        elif chosen and kind_of(path) > kind_of(peer.path):
            self.doubtful(peer, path)

    def use(self, peer: Peer, path: Path | None) -> None:
        """Write to `peer` by `path` from now on, which was proven both ways; None: over the overlay."""
        if path == peer.path:
            return
        was_edge = peer.path is not None
        peer.take(path, self._host.now())
        if path is not None and not was_edge and peer.up:
            self.came_up(peer, path)

    def opened(self, peer: Peer, plaintext: bytes, path: Path | None) -> None:
        """Deliver a plaintext, or keep it until it is whole. Raises BadDatagram."""
        if plaintext[:1] == _FRAGMENT:
            whole = peer.fragments.add(plaintext[1:], self._host.now())
            if whole is None:
                return
            plaintext = whole
        self._deliver(peer, plaintext, path)

    def _be_reborn(self, peer: Peer, reborn: Reborn) -> None:
        """A new process of this peer has proved itself: nothing its old one sent counts any more."""
        peer.reborn = None
        peer.instance, peer.joined = reborn.instance, reborn.joined
        peer.said(reborn.features, reborn.datagram_bytes)
        peer.declared = ()
        peer.path = None
        peer.paths.clear()
        peer.up = False
        peer.session.keep_only(reborn.keypair)
        self._drop_stale_indices(peer)
        self.restarted(peer)

    def open_batch(self, buffer: memoryview, size: int, path: Path | None, hops: int, skip: int = 0) -> Opened | None:
        """Open transport packets that came together by `path`, or over the overlay. None when `receive` must judge
        them all: only a session in its steady state is served here, so that whatever changes it happens in one place.
        Each of the `size` bytes begins with `skip` that are not the packet's."""
        entry = self._by_index.get(int.from_bytes(buffer[4 + skip : 8 + skip], "big"))
        if entry is None or size > MAX_MESSAGE_BYTES:
            return None
        peer, keypair = entry
        now = self._host.now()
        if path != peer.path and now - peer.path_heard_at > BATCH_ELSEWHERE_S:
            return None  # why does nothing come by ours?
        if (
            not peer.up
            or (peer.path != path and path is not None and path not in peer.paths)
            or not peer.session.is_current(keypair, now)
        ):
            return None
        run = keypair.open_run(buffer, size, skip)
        if run is not None:
            opened = Opened(peer, (), (), *run)
        else:
            plaintexts, refused = keypair.open_all(buffer, size, skip)
            opened = Opened(peer, plaintexts, refused, None, 0)
            if not plaintexts:
                return opened
        if path is None and peer.path is None:
            peer.hops = hops
        self.heard(peer, path, len(buffer) - sum(map(len, opened.refused)), now)
        return opened

    def heard(self, peer: Peer, path: Path | None, octets: int, now: float) -> None:
        """Packets in `octets` of datagrams came by a known path, under the current keys."""
        if path is not None:
            peer.came_by(path, now)
        peer.rx_bytes += octets
        peer.heard(path, now)
        if peer.session.wants_rekey(now, receiving=True):
            self.renew(peer)

    def sent(self, peer: Peer, octets: int, now: float) -> None:
        """`octets` of datagrams that call for answers went to a peer."""
        self._await(peer, now)
        peer.tx_bytes += octets
        if peer.session.wants_rekey(now):
            self.renew(peer)

    def addressed(self, index: int) -> tuple[Peer, Keypair] | None:
        """Whose datagrams bear this index, and the keys that open them."""
        return self._by_index.get(index)

    def send_all(self, peer: Peer, plaintexts: Sequence[bytes], traffic_class: int = 0) -> bool:
        """As `send` for each, expecting answers; one batch where that is possible. False when none were sent.
        `traffic_class` is for the outer header."""
        if len(plaintexts) == 1:
            return self.send(peer, plaintexts[0], expects_answer=True, traffic_class=traffic_class)
        longest_bytes = max(map(len, plaintexts))
        if longest_bytes > FLOOR_BYTES and peer.path is not None and longest_bytes > self.sizes.room_bytes(peer):
            sent = [
                self.send(peer, plaintext, expects_answer=True, traffic_class=traffic_class) for plaintext in plaintexts
            ]
            return any(sent)
        now = self._host.now()
        if is_run(plaintexts) and self._send_run(peer, plaintexts, now, traffic_class):
            return True
        try:
            datagrams = peer.session.seal_all(plaintexts, now)
        except NoKeypair:
            self.renew(peer)
            return False
        self.carry_batch(datagrams, peer.path, peer.id, _for_peer(peer, traffic_class))
        self.sent(peer, sum(map(len, datagrams)), now)
        return True

    def _send_run(self, peer: Peer, plaintexts: Sequence[bytes], now: float, traffic_class: int) -> bool:
        """Send plaintexts of one length without a copy; False when that can't be done."""
        way = self.way(peer.path)
        if way is None:
            return False
        endpoint, before = way
        size = len(before) + OVERHEAD_BYTES + len(plaintexts[0])
        outer = _for_peer(peer, traffic_class)
        step = most(size)
        for start in range(0, len(plaintexts), step):
            run = peer.session.seal_run(plaintexts[start : start + step], before, now)
            if run is None:
                return start > 0  # The keys are used up between two parts: the rest is lost.
            self._host.send_run(endpoint, run, size, outer)
            self.sent(peer, len(run), now)
        return True

    def _await(self, peer: Peer, now: float) -> None:
        """Something was sent that calls for an answer: `dht.liveness` has an eye on the peer from now on."""
        if peer.unanswered_at is None:
            peer.unanswered_at = now
            self.watch(peer)

    def answer(self, peer: Peer, plaintext: bytes, path: Path | None) -> bool:
        """As `send`, by the path that the question came by: who asks finds out whether that path works both ways."""
        if path == peer.path or len(plaintext) > FLOOR_BYTES:
            return self.send(peer, plaintext)
        return self.send_by(peer, path, plaintext)

    def send(self, peer: Peer, plaintext: bytes, *, expects_answer: bool = False, traffic_class: int = 0) -> bool:
        """Seal and send; False, and a new handshake begun, when there are no keys fit for sending."""
        if len(plaintext) > FLOOR_BYTES and peer.path is not None and len(plaintext) > self.sizes.room_bytes(peer):
            return all(
                [
                    self._send_one(peer, _FRAGMENT + piece, expects_answer, traffic_class)
                    for piece in cut(plaintext, self._host.rng.getrandbits(32), peer.size.proven_bytes)
                ]
            )
        return self._send_one(peer, plaintext, expects_answer, traffic_class)

    def send_by(self, peer: Peer, path: Path | None, plaintext: bytes) -> bool:
        """Seal, and send by a path that need not be the one in use; False when there are no keys fit for sending."""
        try:
            datagram = peer.session.seal(plaintext, self._host.now())
        except NoKeypair:
            return False
        peer.tx_bytes += len(datagram)
        self._carry(datagram, path, peer.id)
        return True

    def _carry_each(self, datagrams: Sequence[bytes], path: Path | None, peer_id: int, traffic_class: int) -> None:
        for datagram in datagrams:
            self._carry(datagram, path, peer_id)

    def _send_one(self, peer: Peer, plaintext: bytes, expects_answer: bool, traffic_class: int) -> bool:
        now = self._host.now()
        try:
            datagram = peer.session.seal(plaintext, now)
        except NoKeypair:
            self.renew(peer)
            return False
        if expects_answer:
            self._await(peer, now)
        peer.tx_bytes += len(datagram)
        if traffic_class:
            self.carry_batch((datagram,), peer.path, peer.id, _for_peer(peer, traffic_class))
        else:
            self._carry(datagram, peer.path, peer.id)
        if peer.session.wants_rekey(now):
            self.renew(peer)
        return True


def _for_peer(peer: Peer, traffic_class: int) -> int:
    """RFC 6040, section 4.3: who would not hand a congestion mark on must not be sent what may be marked."""
    return traffic_class if peer.features & _ECN_FEATURE else traffic_class & ~_ECN_MASK
