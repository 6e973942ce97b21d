"""† A node of the ring for asyncio programs: join, put, get, create, messages. No TAP device, no root.

    async with join(identity, bootstraps=["host.example:7077"]) as ring:
        await ring.put("service/printer", b"room 12")
        records = await ring.get("service/printer")

Every call that awaits ends in a value or in a `RingError` whose text is one sentence; none hangs, and each may be
cancelled. ValueError means that the call itself could never work. All calls belong on the loop's thread. This module
adds no protocol: `Ring.node` is the node it drives. `ipop.embed` joins with a bundle file instead of an `Identity`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet

from dht.acquaintances import FILE as PEERS_FILE
from dht.bootstrap import Bootstrap
from dht.certificate import Member
from dht.errors import BadDatagram
from dht.everybody import Everybody
from dht.failures import Closed, NoAnswer, NotReady, NotStored, RingError, Taken, Unreachable, not_stored
from dht.files import DirectoryStorage, ToleratedStorage, lock_directory
from dht.host import Endpoint
from dht.identity import Identity
from dht.ids import BITS, RING, short
from dht.inbox import Inbox
from dht.messages import FIRST_APPLICATION_CODE, Message
from dht.names import keep_resolved
from dht.node import RECORD_LIFETIME_S, Node, NodeState, PeerView, PingResult
from dht.packing import Fields, Value, pack
from dht.records import REPLICAS, Record, node_name
from dht.replicas import MAJORITY, PutResult
from dht.storage import MemoryStorage, Storage
from dht.udp import UdpHost

__all__ = [
    "FIRST_APPLICATION_CODE",
    "Closed",
    "Endpoint",
    "Fields",
    "Identity",
    "Inbox",
    "Member",
    "Message",
    "NoAnswer",
    "NodeState",
    "NotReady",
    "NotStored",
    "PeerView",
    "PingResult",
    "Record",
    "Ring",
    "RingError",
    "Taken",
    "Unreachable",
    "Value",
    "join",
]

JOIN_TIMEOUT_S = 30.0
STATE_POLL_S = 0.02
INBOX_MESSAGES = 1024

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@asynccontextmanager
async def join(
    identity: Identity,
    bootstraps: Iterable[str | Endpoint] = (),
    *,
    listen: str | Endpoint = "0.0.0.0:0",
    state: str | os.PathLike[str] | None = None,
) -> AsyncIterator[Ring]:
    """Run a node as long as the `async with` block lasts, and leave the ring properly at its end.

    The block begins at once; whatever needs the ring waits for it, and `ring.ready()` waits for nothing else.

    `bootstraps`: HOST:PORT of nodes that are likely to be there, names or addresses; names are looked up again while
        the node is outside the ring. Without any, and without peers known from earlier runs, the node begins a ring.
    `listen`: the UDP address and port; port 0 is any free one, and 0.0.0.0 all addresses, IPv4 and IPv6.
    `state`: a directory, made if need be, in which the node remembers its peers between runs, so that it rejoins when
        every bootstrap is dead. One running node a directory. None: it leaves no trace.

    Raises ValueError for a text that is no HOST:PORT, RingError when it can't listen or use the state directory.
    """
    wanted = [Bootstrap.from_text(str(bootstrap)) for bootstrap in bootstraps]
    where = listen if isinstance(listen, Endpoint) else _listen_endpoint(listen)
    with ExitStack() as undo:
        storage = _open_state(state, undo)
        try:
            # Never offer an address of the virtual network, which may run on this machine too.
            host = UdpHost(where, exclude=(identity.network.subnet, identity.network.prefix6))
        except OSError as error:
            raise RingError(f"cannot listen on {where}: {error.strerror or error}") from error
        undo.callback(host.close)
        ring = Ring(host, identity, storage)
        undo.callback(ring.close)

        def use(endpoints: list[Endpoint]) -> None:
            # Before DNS knows anybody, starting without bootstraps would begin a ring of our own.
            if endpoints or not wanted or storage.load(PEERS_FILE) is not None:
                ring._start(endpoints)

        following = asyncio.create_task(keep_resolved(wanted, use, ring._is_ready))
        try:
            yield ring
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


def _listen_endpoint(text: str) -> Endpoint:
    """As `Endpoint.from_text`, but port 0 may be asked for."""
    address, colon, port = text.rpartition(":")
    if colon and port == "0":
        return Endpoint.from_text(f"{address}:1")._replace(port=0)
    return Endpoint.from_text(text)


def _open_state(state: str | os.PathLike[str] | None, undo: ExitStack) -> Storage:
    if state is None:
        return MemoryStorage()
    try:
        storage = DirectoryStorage(state)
        undo.callback(os.close, lock_directory(state))
    except BlockingIOError as error:
        raise RingError(f"another node is running with the state directory '{os.fspath(state)}'") from error
    except OSError as error:
        raise RingError(f"cannot use the state directory '{os.fspath(state)}': {error.strerror or error}") from error
    return ToleratedStorage(storage)


class Ring:
    """A node's place in its ring, as an asyncio program sees it. Made by `join`.

    Peers are named by their id, or by the `Member` that came with a record or a message; `everybody` is all of them.
    """

    def __init__(self, host: UdpHost, identity: Identity, storage: Storage) -> None:
        self.node = Node(host, identity, storage)
        self._started = self._closed = False
        self._waiting: set[asyncio.Future[Any]] = set()
        self._putting: dict[str, list[asyncio.Future[PutResult]]] = {}  # by name, the newest last
        self._inboxes: dict[type[Message], WeakSet[Inbox[Any]]] = {}
        self.everybody = Everybody(self.node, self.ready, self._result)

    @property
    def id(self) -> int:
        """This node's 160-bit id, by which others send to it."""
        return self.node.id

    @property
    def member(self) -> Member:
        """What this node's certificate says of it: name, id, virtual addresses."""
        return self.node.identity.member

    @property
    def state(self) -> NodeState:
        """JOINING, READY, or ISOLATED: alone although it knows of others."""
        return self.node.state

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Where others may reach this node, likeliest first: bootstraps for them."""
        return self.node.contact().endpoints

    def peers(self) -> list[PeerView]:
        """Every node that this one has a session with."""
        return self.node.peers()

    async def ready(self, timeout_s: float = JOIN_TIMEOUT_S) -> None:
        """Wait until this node is in its ring. Raises NotReady when it isn't within `timeout_s` seconds."""
        await self._until(self._is_ready, timeout_s)

    async def put(self, name: str, value: bytes, lifetime_s: float = RECORD_LIFETIME_S) -> None:
        """Publish `value` (1 to 1024 bytes) under `name` (up to 128 characters), signed by this node.

        Returns when a majority of the replica points has it. The node renews it until `withdraw(name)`, or another
        `put` of the same name; once the node has left, it lives on for at most `lifetime_s` seconds (up to 10,800).
        Several nodes may have a record under one name. A put that fails or is cancelled leaves nothing under the
        name, not even what an earlier one put there.

        Raises Taken when another node created the name, NotStored, NotReady, and ValueError for what nobody would
        store: above all the names `ip:...`, `node:...` and `name:...` of other nodes, and more than 64 names a node.
        """
        await self._put(name, value, lifetime_s, exclusive=False)

    async def create(self, name: str, value: bytes, lifetime_s: float = RECORD_LIFETIME_S) -> None:
        """As `put`, but for this node alone: raises Taken when any other node has a record under `name`.

        Of several nodes that create a name at once, at most one succeeds; perhaps none. Holds until `withdraw(name)`,
        or until `lifetime_s` seconds after this node was last in the ring.
        """
        await self._put(name, value, lifetime_s, exclusive=True)

    def withdraw(self, name: str) -> None:
        """Stop publishing `name`: it is gone within seconds. Harmless for a name that isn't published."""
        for waiting in self._putting.pop(name, ()):
            if not waiting.done():
                waiting.set_exception(NotStored(f"'{name}' was withdrawn before it was stored"))
        if not self._closed:
            self.node.withdraw(name)

    async def get(self, name: str, *, robust: bool = False) -> list[Record]:
        """The records under `name`, proven to be their owners': the newest of each owner, newest first. `robust` finds
        what hostile members on the way withhold, in up to 9 s.

        An empty list means that a majority of the replica points has none. Raises NoAnswer when too few of them
        answered to say so, and NotReady.
        """
        await self.ready()
        result = await self._result(partial(self.node.get, name, robust=robust))
        if not result.records and result.answered < MAJORITY:
            raise NoAnswer(f"only {result.answered} of {REPLICAS} replica points answered for '{name}'")
        # No value is what an owner leaves behind, for seconds, when it withdraws a record.
        return [record for record in result.records if record.value]

    async def send(self, peer: int | Member, message: Message) -> None:
        """Send a message to a node, end-to-end encrypted and over the overlay if need be; agrees on keys first.

        Like a datagram it may be lost: what must arrive needs an answer. Raises Unreachable when no keys can be agreed
        on, NotReady, and ValueError for a message that its own type would not read, or to this node itself.
        """
        _check_sendable(message)
        peer_id = self._other(peer)
        # Not `ready`: of an isolated node it is known that it reaches nobody, and soon said.
        await self._until(lambda: self.node.member)
        if await self._result(partial(self.node.open_session, peer_id)) is None:
            raise Unreachable(f"node {_shown(peer)} was not found or does not answer")
        self.node.send(peer_id, message)

    async def ping(self, peer: int | Member) -> PingResult:
        """One round trip to a node, over the path in use. Raises Unreachable, NotReady, ValueError for this node."""
        peer_id = self._other(peer)
        await self._until(lambda: self.node.member)
        result: PingResult | None = await self._result(partial(self.node.ping, peer_id))
        if result is None:
            raise Unreachable(f"node {_shown(peer)} was not found or does not answer")
        return result

    def messages(self, message: type[M], limit: int = INBOX_MESSAGES) -> Inbox[M]:
        """Messages of this type from now on, each with its proven sender. Every inbox of a type gets every message.

        Raises ValueError for a code below 1024 or one that `register` or another type has.
        """
        if message not in self._inboxes:
            self.node.register(message, partial(self._received, message))
            self._inboxes[message] = WeakSet()
        inbox: Inbox[M] = Inbox(limit)
        self._inboxes[message].add(inbox)
        if self._closed:
            inbox.close()
        return inbox

    def register(self, message: type[M], handle: Callable[[Member, M], None]) -> None:
        """Call `handle(sender, message)` from the loop for every message of this type. Raises ValueError for a code
        below 1024 or one that is taken."""
        loop = asyncio.get_running_loop()

        def received(sender: Member, arrived: M) -> None:
            # Not at once: what the handler raises is the program's, and must not end what the node is doing.
            loop.call_soon(handle, sender, arrived)

        self.node.register(message, received)

    def close(self) -> None:
        """Leave the ring, as the end of `async with join(...)` does. Whoever awaits gets Closed; inboxes end."""
        if self._closed:
            return
        self._closed = True
        if self._started:
            self.node.withdraw(node_name(self.id))  # so that others find out at once
            self.node.stop()
        for future in self._waiting:
            if not future.done():
                future.set_exception(Closed("the ring was closed"))
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.close()
        self.everybody.close()

    def _start(self, bootstraps: Sequence[Endpoint]) -> None:
        """Begin to join, or use other bootstraps from now on."""
        if self._closed:
            return
        if self._started:
            self.node.use_bootstraps(bootstraps)
        else:
            self._started = True
            self.node.start(bootstraps)

    def _is_ready(self) -> bool:
        return self.node.state is NodeState.READY

    async def _until(self, condition: Callable[[], bool], timeout_s: float = JOIN_TIMEOUT_S) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not self._closed and not condition():
                    # The node tells nobody: there are too many ways in and out of the ring to hear of each.
                    await asyncio.sleep(STATE_POLL_S)
        except TimeoutError:
            raise NotReady(self._why_not_ready(timeout_s)) from None
        if self._closed:
            raise Closed("the ring is closed")

    def _why_not_ready(self, timeout_s: float) -> str:
        if self.node.alarm is not None:
            reason = self.node.alarm
        elif not self._started:
            reason = "no bootstrap's name could be looked up"
        elif self.state is NodeState.ISOLATED:
            reason = "it is alone, as no node that it knows of answers"
        else:
            reason = "nobody has let it in yet"
        return f"this node is not in its ring after {timeout_s:g} s: {reason}"

    async def _put(self, name: str, value: bytes, lifetime_s: float, *, exclusive: bool) -> None:
        if not value:
            raise ValueError("a record has at least one byte: no value is how a withdrawn one looks")
        await self.ready()
        future: asyncio.Future[PutResult] = asyncio.get_running_loop().create_future()
        begin = self.node.create if exclusive else self.node.put
        begin(name, value, lifetime_s, lambda result: _settle(future, result))
        waiting = self._putting.setdefault(name, [])
        waiting.append(future)
        stored = False
        try:
            result = await self._settled(future)
            if not result.ok:
                raise not_stored(name, result)
            stored = True
        finally:
            if self._putting.get(name) is waiting:  # else withdrawn, and perhaps put again
                if waiting[-1] is future and not stored and not self._closed:
                    self.node.withdraw(name)
                waiting.remove(future)
                if not waiting:
                    del self._putting[name]

    async def _result(self, begin: Callable[[Callable[[T], None]], None]) -> T:
        """What `begin(done)` gives to `done`, at once or later."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        begin(lambda result: _settle(future, result))
        return await self._settled(future)

    async def _settled(self, future: asyncio.Future[T]) -> T:
        """The future's result; Closed when the ring is closed first."""
        self._waiting.add(future)
        try:
            return await future
        finally:
            self._waiting.discard(future)

    def _received(self, message: type[M], sender: Member, received: M) -> None:
        heard = False
        for inbox in self._inboxes[message]:
            heard = True
            if not inbox.deliver(sender, received):
                self.node.counters["messages_dropped"] += 1
        if not heard:
            self.node.counters["messages_unheard"] += 1

    def _other(self, peer: int | Member) -> int:
        peer_id = peer.id if isinstance(peer, Member) else peer
        if not 0 <= peer_id < RING:
            raise ValueError(f"{peer_id} is no node id: they have {BITS} bits")
        if peer_id == self.id:
            raise ValueError("that is this node itself")
        return peer_id


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():  # whoever waited may have been cancelled
        future.set_result(result)


def _check_sendable(message: Message) -> None:
    """Raises ValueError for what the other end would not read, and so drop in silence."""
    name = type(message).__name__
    if not FIRST_APPLICATION_CODE <= message.CODE < 1 << 16:
        raise ValueError(f"a {name} has a code of the ring's own: yours run from {FIRST_APPLICATION_CODE} to 65535")
    try:
        type(message).read(Fields.parse(pack(message.fields()), name))
    except (BadDatagram, TypeError, OverflowError) as refusal:
        raise ValueError(f"this {name} could not be read again: {refusal}") from None


def _shown(peer: int | Member) -> str:
    return f"'{peer.name}'" if isinstance(peer, Member) else short(peer)
