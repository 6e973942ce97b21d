"""Probes of what nodes send: bytes, datagrams, and which messages.

Rows. "bandwidth": `sent_bps`, `received_bps` (bytes a second and node since the last observation, IP and UDP headers
included), `most_sent_bps` (the busiest node's), `datagrams_ps`. "message-type": `type`, `per_s` (a second, node), since
the last observation: control messages by their class, what passes through a node as "routed" with the class inside, and
the rest by its kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from dht.envelope import HEADER_BYTES, Content, Inner
from dht.messages import Message
from sims.scenario.parts import Rows, Run, Texts

LOOK_EVERY_S = 0.05  # for nodes that have just started; what they send before is not counted


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes per node and second."""

    ROWS: ClassVar[Rows] = {"bandwidth": ("sent_bps", "received_bps", "most_sent_bps", "datagrams_ps")}

    def watch(self, run: Run) -> Callable[[], None]:
        before: dict[int, tuple[int, int, int]] = {}
        since = [run.world.engine.now]

        def observe() -> None:
            engine = run.world.engine
            span_s = engine.now - since[0]
            since[0] = engine.now
            hosts = run.world.network.hosts()
            sent, received, datagrams = [], 0, 0
            for host in hosts:
                old = before.get(host.index, (0, 0, 0))
                new = (host.sent_bytes, host.received_bytes, host.sent_datagrams)
                before[host.index] = new
                sent.append(new[0] - old[0])
                received += new[1] - old[1]
                datagrams += new[2] - old[2]
            if span_s > 0 and hosts:
                share = span_s * len(hosts)
                run.record.row(
                    "bandwidth",
                    sent_bps=sum(sent) / share,
                    received_bps=received / share,
                    most_sent_bps=max(sent) / span_s,
                    datagrams_ps=datagrams / share,
                )

        return observe


@cache
def _names() -> dict[int, str]:
    """Message classes by their code, as far as they were imported."""
    names: dict[int, str] = {}
    kinds: list[type[Message]] = [Message]
    while kinds:
        kind = kinds.pop()
        kinds.extend(kind.__subclasses__())
        if "CODE" in vars(kind):
            names[kind.CODE] = kind.__name__
    return names


def message_type(plaintext: bytes) -> str:
    """What one plaintext of a session is."""
    kind = plaintext[0] if plaintext else Inner.KEEPALIVE
    if kind == Inner.CONTROL and len(plaintext) >= 3:
        code = int.from_bytes(plaintext[1:3], "big")
        return _names().get(code, f"code {code}")
    if kind == Inner.ROUTED and len(plaintext) > HEADER_BYTES + 3:
        if plaintext[3] == Content.SEALED:
            return "routed sealed"
        code = int.from_bytes(plaintext[1 + HEADER_BYTES : 3 + HEADER_BYTES], "big")
        return f"routed {_names().get(code, f'code {code}')}"
    return Inner(kind).name.lower() if kind in Inner._value2member_map_ else f"kind {kind}"


@dataclass(frozen=True, kw_only=True)
class Messages:
    """Messages by type, counted where they are sealed: on the way out of `dht.sessions.Sessions.send`."""

    ROWS: ClassVar[Rows] = {"message-type": ("type", "per_s", "count")}
    TEXTS: ClassVar[Texts] = (("message-type", "type"),)

    def watch(self, run: Run) -> Callable[[], None]:
        sent: Counter[str] = Counter()
        since = [run.world.engine.now]

        def count(plaintext: bytes) -> None:
            sent[message_type(plaintext)] += 1

        def look() -> None:
            for node in run.world.nodes:
                node.parts.sessions.overhear = count
            run.world.engine.call_later(LOOK_EVERY_S, look)

        def observe() -> None:
            engine = run.world.engine
            span_s = engine.now - since[0]
            since[0] = engine.now
            nodes = max(1, len(run.world.nodes))
            if span_s > 0:
                for kind, count in sorted(sent.items()):
                    run.record.row("message-type", type=kind, per_s=count / span_s / nodes, count=count)
            sent.clear()

        look()
        return observe
