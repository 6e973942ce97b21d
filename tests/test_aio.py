"""The library as a program sees it: real nodes on loopback UDP, awaited."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from dht import names
from dht.aggregate import Kind
from dht.aio import (
    Closed,
    Endpoint,
    Fields,
    Inbox,
    Member,
    Message,
    NodeState,
    NotReady,
    NotStored,
    Ring,
    RingError,
    Taken,
    Unreachable,
    Value,
    join,
)
from dht.files import DirectoryStorage
from dht.ids import id_bytes
from dht.messages import Leave
from dht.records import node_name
from dht.udp import UdpHost
from ipop import embed
from ipop.authority_files import init, issue
from ipop.errors import SetupError
from tests.identities import make_identities
from tests.patience import PATIENCE_S, Promises

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK = "127.0.0.1:0"
# Certificates of now: these nodes live by the real clock.
IDENTITIES = make_identities(4, 7, now=time.time())

T = TypeVar("T")


@dataclass(frozen=True)
class Note(Message):
    """A message type of the test's own."""

    CODE = 2000
    text: str

    def fields(self) -> dict[int, Value]:
        return {0: self.text}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.text(0, 100))


@dataclass(frozen=True)
class OtherNote(Note):
    """Another type with the same code."""


def run(program: Coroutine[Any, Any, T], limit_s: float = 2 * PATIENCE_S) -> T:
    async def limited() -> T:
        async with asyncio.timeout(limit_s):
            return await program

    return asyncio.run(limited())


@asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[Ring]]:
    """A ring of so many nodes, all of them ready and in touch."""
    async with AsyncExitStack() as stack:
        rings: list[Ring] = []
        for identity in IDENTITIES[:count]:
            bootstraps = rings[0].endpoints if rings else ()
            rings.append(await stack.enter_async_context(join(identity, bootstraps, listen=LOOPBACK)))
            await rings[-1].ready()
        while any(len(ring.peers()) < count - 1 for ring in rings):
            await asyncio.sleep(0.01)
        yield rings


def test_what_one_node_puts_another_gets_with_its_owner() -> None:
    async def program() -> None:
        async with nodes(3) as (first, second, third):
            await second.put("service/printer", b"room 12")
            await third.put("service/printer", b"room 13")
            for ring in (first, second, third):
                records = await ring.get("service/printer")
                assert {(record.owner.id, record.value) for record in records} == {
                    (second.id, b"room 12"),
                    (third.id, b"room 13"),
                }
            await second.put("service/printer", b"room 14")
            values = {record.value for record in await first.get("service/printer")}
            assert values == {b"room 13", b"room 14"}
            assert await first.get("service/scanner") == []

    run(program())


def test_a_withdrawn_record_is_gone_at_once() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            await first.put("here", b"today")
            first.withdraw("here")
            first.withdraw("never put")
            while await second.get("here"):
                await asyncio.sleep(0.01)
            assert await first.get("here") == []

    run(program())


def test_of_two_that_create_one_name_the_second_hears_that_it_is_taken() -> None:
    async def program() -> None:
        async with nodes(3) as (first, second, third):
            await first.create("leader", b"first")
            with pytest.raises(Taken, match="'leader' is taken"):
                await second.create("leader", b"second")
            with pytest.raises(Taken):
                await third.put("leader", b"third")
            await first.create("leader", b"first still")
            [record] = await third.get("leader")
            assert (record.owner.id, record.value) == (first.id, b"first still")

    run(program())


def test_of_many_that_create_one_name_at_once_at_most_one_has_it() -> None:
    async def program() -> None:
        async with nodes(3) as rings:
            for attempt in range(5):
                name = f"leader {attempt}"
                outcomes = await asyncio.gather(*(ring.create(name, b"me") for ring in rings), return_exceptions=True)
                assert sum(outcome is None for outcome in outcomes) <= 1, outcomes
                assert all(outcome is None or isinstance(outcome, NotStored) for outcome in outcomes), outcomes

    run(program())


def test_messages_of_an_own_type_arrive_in_order_with_their_sender() -> None:
    async def program() -> None:
        async with nodes(3) as (first, second, third):
            inbox = second.messages(Note)
            await first.send(second.id, Note("one"))
            await first.send(second.member, Note("two"))
            received = [await anext(inbox), await anext(inbox)]
            assert [(sender.id, note.text) for sender, note in received] == [(first.id, "one"), (first.id, "two")]
            assert received[0][0] == first.member
            back = first.messages(Note)
            await second.send(received[0][0], Note("and back"))
            assert (await anext(back))[1] == Note("and back")
            await third.send(first.id, Note("from the third"))
            sender, note = await anext(back)
            assert (sender.name, note.text) == (third.member.name, "from the third")

    run(program())


def test_every_inbox_of_a_type_gets_every_message_and_a_forgotten_one_none() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            inboxes = [second.messages(Note), second.messages(Note)]
            await first.send(second.id, Note("to all"))
            assert [(await anext(inbox))[1].text for inbox in inboxes] == ["to all", "to all"]
            inboxes.clear()
            gc.collect()
            await first.send(second.id, Note("to nobody"))
            while not second.node.counters["messages_unheard"]:
                await asyncio.sleep(0.01)

    run(program())


def test_a_full_inbox_drops_the_oldest_and_counts_it() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            inbox = second.messages(Note, limit=3)
            for number in range(10):
                await first.send(second.id, Note(str(number)))
            while inbox.dropped < 7:
                await asyncio.sleep(0.01)
            assert len(inbox) == 3
            assert second.node.counters["messages_dropped"] == 7
            assert [(await anext(inbox))[1].text for _ in range(3)] == ["7", "8", "9"]
            with pytest.raises(ValueError, match="at least one"):
                second.messages(Note, limit=0)

    run(program())


def test_a_closed_inbox_ends_after_what_it_holds() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            inbox = second.messages(Note)
            await first.send(second.id, Note("last"))
            while not len(inbox):
                await asyncio.sleep(0.01)
            inbox.close()
            await first.send(second.id, Note("too late"))
            assert [note.text async for _, note in inbox] == ["last"]
            waiting = asyncio.create_task(anext(second.messages(Note), None))
            await asyncio.sleep(0)
            second.close()
            assert await waiting is None

    run(program())


def test_a_cancelled_reader_loses_no_message() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            inbox = second.messages(Note)
            for number in range(20):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await anext(inbox)
                await first.send(second.id, Note(str(number)))
                assert (await anext(inbox))[1].text == str(number)

    run(program())


def test_a_registered_handler_gets_messages_and_its_faults_stay_its_own() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            faults: list[object] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["exception"]))
            heard: list[tuple[Member, Note]] = []

            def handle(sender: Member, note: Note) -> None:
                heard.append((sender, note))
                raise KeyError(note.text)

            second.register(Note, handle)
            for text in ("a", "b"):
                await first.send(second.id, Note(text))
            while len(faults) < 2:
                await asyncio.sleep(0.01)
            assert [(sender.id, note.text) for sender, note in heard] == [(first.id, "a"), (first.id, "b")]
            assert second.state is NodeState.READY
            with pytest.raises(ValueError, match="already registered"):
                second.register(Note, handle)
            with pytest.raises(ValueError, match="already registered"):
                second.messages(OtherNote)

    run(program())


class Reserved(Message):
    """A code of the ring's own."""

    CODE = 1023


class TooHigh(Message):
    """A code that does not fit."""

    CODE = 65536


def test_the_rings_own_codes_can_be_neither_taken_nor_sent() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            for message in (Reserved, TooHigh, Leave):
                with pytest.raises(ValueError, match="1024"):
                    first.messages(message)
                with pytest.raises(ValueError, match="1024"):
                    first.register(message, lambda sender, received: None)
                with pytest.raises(ValueError, match="1024"):
                    await first.send(second.id, message())
            assert second.state is NodeState.READY

    run(program())


@dataclass(frozen=True)
class Odd(Message):
    """Takes what no message may hold."""

    CODE = 2001
    value: Any

    def fields(self) -> dict[int, Value]:
        return {0: self.value}

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(fields.octets(0, 0, 1 << 16))


@dataclass(frozen=True)
class Unread(Message):
    """Its author forgot `read`."""

    CODE = 2002
    value: bytes


def test_a_message_that_could_not_be_read_is_refused_before_it_is_sent() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            for value in (bytes(9000), {1}, 1 << 70, float("nan"), [[[[[[[1]]]]]]]):
                with pytest.raises(ValueError):
                    await first.send(second.id, Odd(value))
            with pytest.raises(ValueError, match="could not be read again"):
                await first.send(second.id, Note("x" * 101))
            with pytest.raises(ValueError, match="could not be read again"):
                await first.send(second.id, Unread(b""))
            inbox = second.messages(Odd)
            await first.send(second.id, Odd(bytes(8000)))
            await anext(inbox)

    run(program())


def test_a_ping_says_how_long_and_by_what_path() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            result = await first.ping(second.id)
            assert 0.0 < result.rtt_ms < 5000.0
            assert (result.path, result.hops) == ("direct", 1)
            assert (await second.ping(first.member)).path == "direct"
            [peer] = first.peers()
            assert (peer.id, peer.name) == (second.id, second.member.name)

    run(program())


def test_a_node_that_left_is_unreachable_at_once_and_one_that_died_within_seconds(promises: Promises) -> None:
    async def program() -> None:
        async with nodes(3) as (first, second, third):
            lost_before = first.node.counters["edge_lost"]
            second.close()
            while any(peer.id == second.id for peer in first.peers()):
                await asyncio.sleep(0.01)
            assert first.node.counters["edge_lost"] == lost_before, "it found out, instead of being told"
            started_at = time.monotonic()
            with pytest.raises(Unreachable, match="was not found or does not answer"):
                await first.send(second.id, Note("are you there?"))
            with pytest.raises(Unreachable, match=f"'{second.member.name}'"):
                await first.ping(second.member)
            promises.measured("one that left", time.monotonic() - started_at, 3.0)
            host_of(third).close()  # as after kill -9
            with pytest.raises(Unreachable):
                await first.ping(third.id)
            died_at = time.monotonic()
            with pytest.raises(Unreachable):
                while True:
                    await first.send(third.id, Note("and you?"))
                    await asyncio.sleep(0.2)
            promises.measured("one that died", time.monotonic() - died_at, 10.0)

    run(program())


def test_a_node_that_never_was_is_unreachable_and_no_id_is_our_mistake() -> None:
    async def program() -> None:
        async with nodes(2) as (first, _):
            with pytest.raises(Unreachable):
                await first.send(IDENTITIES[3].member.id, Note("hello?"))
            for mistake in (first.id, first.member, -1, 1 << 160):
                with pytest.raises(ValueError):
                    await first.send(mistake, Note("to whom?"))
                with pytest.raises(ValueError):
                    await first.ping(mistake)

    run(program())


def test_what_nobody_would_store_is_our_mistake() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            await first.put("kept", b"good")
            for name, value, lifetime_s in (
                ("kept", b"", 60.0),
                ("n", bytes(1025), 60.0),
                ("n" * 129, b"v", 60.0),
                ("", b"v", 60.0),
                ("n", b"v", 0.0),
                ("n", b"v", 1e6),
                (node_name(second.id), b"v", 60.0),
                (f"name:{second.member.name}", b"v", 60.0),
                (f"ip:{second.member.address4}", b"v", 60.0),
            ):
                with pytest.raises(ValueError):
                    await first.put(name, value, lifetime_s)
                with pytest.raises(ValueError):
                    await first.create(name, value, lifetime_s)
            assert [record.value for record in await second.get("kept")] == [b"good"]

    run(program())


def test_a_put_that_is_cancelled_or_withdrawn_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            go_silent(first, monkeypatch)
            putting = asyncio.create_task(first.put("name", b"value"))
            creating = [asyncio.create_task(first.create("other", b"value")) for _ in range(2)]
            await asyncio.sleep(0.1)
            putting.cancel()
            first.withdraw("other")
            outcomes = await asyncio.gather(putting, *creating, return_exceptions=True)
            # With two nodes, some replica points are the node's own: enough of them may have settled it at once.
            assert isinstance(outcomes[0], asyncio.CancelledError | None)
            assert all(outcome is None or isinstance(outcome, NotStored) for outcome in outcomes[1:])
            assert not first._putting and not first._waiting
            monkeypatch.undo()
            if outcomes[0] is not None:
                assert await second.get("name") == []
            assert await second.get("other") == []

    run(program())


def test_an_older_put_of_a_name_ends_with_the_newer_one() -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            await asyncio.gather(*(first.put("name", str(number).encode()) for number in range(5)))
            older = asyncio.create_task(first.put("name", b"older"))
            await asyncio.sleep(0)
            newer = asyncio.create_task(first.put("name", b"newer"))
            await asyncio.sleep(0)
            older.cancel()
            await newer
            assert [record.value for record in await second.get("name")] == [b"newer"]

    run(program())


def test_calls_wait_until_the_node_is_in_its_ring() -> None:
    async def program() -> None:
        async with (
            join(IDENTITIES[0], listen=LOOPBACK) as first,
            join(IDENTITIES[1], first.endpoints, listen=LOOPBACK) as second,
        ):
            assert second.state is NodeState.JOINING
            inbox = first.messages(Note)
            await second.send(first.id, Note("as soon as possible"))
            assert (await anext(inbox))[1].text == "as soon as possible"

    run(program())


def host_of(ring: Ring) -> UdpHost:
    host = ring.node._host
    assert isinstance(host, UdpHost)
    return host


def go_silent(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a cable were pulled: nothing that the node sends gets anywhere."""
    monkeypatch.setattr(host_of(ring), "send", lambda to, datagram: None)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_node_that_finds_nobody_says_so_and_claims_nothing() -> None:
    async def program() -> None:
        async with join(IDENTITIES[0], [f"127.0.0.1:{free_port()}"], listen=LOOPBACK) as lonely:
            # On a machine that stood still meanwhile, it knows more already.
            with pytest.raises(
                NotReady, match="not in its ring after 0.1 s: (nobody has let it in yet|it is alone|no answer)"
            ):
                await lonely.ready(0.1)
            while lonely.state is not NodeState.ISOLATED:
                await asyncio.sleep(0.1)
            with pytest.raises(NotReady, match="it is alone|no answer from 127"):
                await lonely.ready(0.1)
            create = asyncio.create_task(lonely.create("leader", b"me"))
            await asyncio.sleep(0.5)
            assert not create.done()
            create.cancel()

    run(program())


def test_closing_ends_every_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def program() -> None:
        async with nodes(2) as (first, second):
            go_silent(first, monkeypatch)
            ping = asyncio.create_task(first.ping(second.id))
            message = asyncio.create_task(first.send(IDENTITIES[3].member.id, Note("x")))
            inbox = first.messages(Note)
            while len(first._waiting) < 2:
                await asyncio.sleep(0)
            first.close()
            first.close()
            for task in (ping, message):
                with pytest.raises(Closed):
                    await task
            assert [note async for note in inbox] == []
            for call in (first.get("x"), first.put("x", b"x"), first.ping(second.id), first.ready(1.0)):
                with pytest.raises(Closed, match="closed"):
                    await call
            first.withdraw("x")
            assert [note async for note in first.messages(Note)] == []

    run(program())


def test_the_second_program_on_a_port_or_a_state_directory_is_told(tmp_path: Path) -> None:
    async def program() -> None:
        state = tmp_path / "new" / "state"
        async with join(IDENTITIES[0], listen=LOOPBACK, state=state) as first:
            port = first.endpoints[0].port
            with pytest.raises(RingError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
                await join(IDENTITIES[1], listen=f"127.0.0.1:{port}").__aenter__()
            with pytest.raises(RingError, match="another node is running with the state directory"):
                await join(IDENTITIES[1], listen=LOOPBACK, state=state).__aenter__()
        (tmp_path / "file").touch()
        with pytest.raises(RingError, match="cannot use the state directory"):
            await join(IDENTITIES[0], listen=LOOPBACK, state=tmp_path / "file").__aenter__()
        async with join(IDENTITIES[0], listen=LOOPBACK, state=state):
            pass  # the lock went with the first

    run(program())


def test_bad_texts_are_refused() -> None:
    async def program() -> None:
        for bootstrap in ("nonsense", "host:0", "host:x", "::1:7077"):
            with pytest.raises(ValueError):
                await join(IDENTITIES[0], [bootstrap], listen=LOOPBACK).__aenter__()
        for listen in ("nonsense", "host:0", "127.0.0.1", "127.0.0.1:x", ":0"):
            with pytest.raises(ValueError):
                await join(IDENTITIES[0], listen=listen).__aenter__()

    run(program())


def test_a_node_with_a_state_directory_finds_its_ring_without_its_bootstrap(tmp_path: Path) -> None:
    def saved(ids: set[int]) -> bool:
        return all(id_bytes(wanted) in (DirectoryStorage(tmp_path).load("peers") or b"") for wanted in ids)

    async def program() -> None:
        async with nodes(2) as (bootstrap, other):
            async with join(IDENTITIES[2], bootstrap.endpoints, listen=LOOPBACK, state=tmp_path) as third:
                await third.ready()
                while len(third.peers()) < 2 or not saved({bootstrap.id, other.id}):
                    await asyncio.sleep(0.01)
            bootstrap.close()
            while any(peer.id == bootstrap.id for peer in other.peers()):
                await asyncio.sleep(0.01)
            async with join(IDENTITIES[2], bootstrap.endpoints, listen=LOOPBACK, state=tmp_path) as third:
                await third.ready()
                await third.ping(other.id)

    run(program())


def test_bootstraps_may_have_names_and_an_unknown_name_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = socket.getaddrinfo
    known: set[str] = set()

    def getaddrinfo(host: str, port: int, **options: Any) -> Any:
        if host in known:
            return real("127.0.0.1", port, **options)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(names, "FIRST_RETRY_S", 0.1)

    async def program() -> None:
        async with join(IDENTITIES[0], listen=LOOPBACK) as first:
            named = [f"ring.test:{first.endpoints[0].port}", "gone.test:7077"]
            async with join(IDENTITIES[1], named, listen=LOOPBACK) as second:
                with pytest.raises(NotReady, match="no bootstrap's name could be looked up"):
                    await second.ready(0.5)
                while "cannot look up bootstrap 'ring.test:" not in caplog.text:
                    await asyncio.sleep(0.01)
                known.add("ring.test")
                await second.ready()
                assert (await second.ping(first.id)).path == "direct"

    with caplog.at_level(logging.WARNING, "dht.names"):
        run(program())
    assert "cannot look up bootstrap 'ring.test:" in caplog.text
    assert "Name or service not known" in caplog.text


def test_an_inbox_is_as_typed_as_its_messages() -> None:
    inbox: Inbox[Note] = Inbox(1)
    assert inbox.deliver(IDENTITIES[0].member, Note("typed"))
    assert not inbox.deliver(IDENTITIES[0].member, Note("again"))


def test_a_bundle_file_is_all_that_a_program_needs(tmp_path: Path) -> None:
    network = init("lab", "10.77.0.0/16", tmp_path)
    bundle = tmp_path / "laptop.p2pvpn"
    issue("laptop", network.authority, bundle)

    async def program() -> None:
        async with embed.join(str(bundle), listen=Endpoint("127.0.0.1", 0)) as ring:
            assert ring.member.name == "laptop"
            await ring.put("mine", b"alone")
            assert [record.value for record in await ring.get("mine")] == [b"alone"]

    run(program())
    with pytest.raises(SetupError, match="nothing.p2pvpn"):
        embed.join(tmp_path / "nothing.p2pvpn")
    assert set(embed.__all__) - {"SetupError"} <= set(dir(embed))


def test_the_example_runs_as_it_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "examples/embed.py"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "laptop says that the printer is in room 12",
        "laptop does not lead: 'leader' is taken: another node has it",
        "laptop tells the server: hello",
    ]


def test_the_readme_shows_the_example_word_for_word() -> None:
    readme = ROOT / "README.md"
    shown = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert (ROOT / "examples" / "embed.py").read_text() in shown


def test_everybody_is_told_asked_and_seen() -> None:
    async def program() -> None:
        async with nodes(3) as (first, second, third):
            loads = {first.id: 1, second.id: 20, third.id: 300}
            for ring in (first, second, third):
                ring.everybody.answer(load_of(loads[ring.id]))
            inbox = second.everybody.notices("weather")
            told = await first.everybody.tell("weather", b"rain")
            assert (told.reached, told.complete) == (3, True)
            sender, value = await anext(inbox)
            assert (sender.id, value) == (first.id, b"rain")
            kind = load_of(0)
            with pytest.raises(ValueError, match="not registered"):
                await third.everybody.ask(kind)
            outcome = await third.everybody.ask(third.node.aggregates._kinds["load"])
            assert (outcome.value, outcome.reached) == (321, 3)
            async with asyncio.timeout(PATIENCE_S):
                # Who has just joined may not be in everybody's list yet.
                while (crawled := await third.everybody.crawl()).consistency < 1.0:
                    await asyncio.sleep(0.05)
            assert [sight.id for sight in crawled.nodes] == sorted(loads) and crawled.complete
        with pytest.raises(StopAsyncIteration):
            await anext(inbox)
        with pytest.raises(Closed):
            await first.everybody.crawl()

    run(program())


def load_of(load: int) -> Kind[None, int]:
    """A sum of numbers, to which this node gives `load`."""
    return Kind(
        "load",
        lambda octets, about: None,
        lambda argument, about: load,
        lambda total: total.to_bytes(8, "big"),
        lambda octets: int.from_bytes(octets, "big"),
        lambda one, other: one + other,
    )
