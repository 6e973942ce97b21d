"""Run inside a namespace: a member of the network, with a valid certificate, who is in no group and tries all it can.

    group_stranger.py BUNDLE BOOTSTRAP < one line of JSON: a list of groups, see `Prey`

It knows what an insider might have told it: the group's tag, the name of its DHT entries, a proof that was made for
others. It prints what came of that as one line of JSON: see `Spoils`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field

from dht.arcs import Arc, place_of
from dht.branch_messages import Ask
from dht.broadcast import HEADER_BYTES, Head
from dht.contact import Contact
from dht.envelope import Content, Envelope, Inner, Mode
from dht.groups.admission import Admit, Admitted
from dht.groups.messages import Rekeyed
from dht.groups.right import TAG_BYTES, GroupSecret
from dht.ids import RING
from dht.messages import Kind, Leave, Message, Neighbors, NeighborsRequest, pack_control
from dht.path import Path
from dht.peer import Peer
from ipop.casts import CHANNEL
from ipop.embed import Ring, join

LINGER_S = 2.0
JOINING_S = 6.0


@dataclass(frozen=True, slots=True)
class Prey:
    """One group: `victims`: node ids in hexadecimal; `proof`: one that a member made for another; `secret`: whether a
    secret opens it."""

    name: str
    secret: bool
    tag: str
    entry_name: str
    proof: str
    victims: list[str]


@dataclass(slots=True)
class Spoils:
    """What it got of one group: `state` after joining in its own way; `heard`: the kinds of all that members sent it
    behind the group's tag; `entries`: values in the DHT, in hexadecimal; `sent`: how many messages."""

    state: str = ""
    heard: list[int] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    sent: int = 0


def lies(me: int, victim: int, contact: Contact, proof: bytes) -> list[bytes]:
    """Everything that a member might say to `victim`, from the kind on."""
    place = place_of(me)
    everything = Arc((place + 1) % (1 << 64), place)
    questions: list[Message] = [
        NeighborsRequest(b""),
        Ask(7, me, everything, 1, 3000, "roll", b""),
        Ask(8, me, everything, 1, 3000, "notice", bytes(200)),
    ]
    told: list[Message] = [Neighbors(True, contact, (), ()), Leave(), Rekeyed(bytes(100))]
    control = [pack_control(message, Kind.ASK, number) for number, message in enumerate(questions)]
    control += [pack_control(message, Kind.TELL) for message in told]
    routed = [
        Envelope(9, Mode.EXACT, Content.CONTROL, source, victim, data).pack()
        for source in (me, (victim + 1) % RING)
        for data in control
    ]
    admissions = [
        pack_control(form(True, each, b""), kind, number)
        for number, each in enumerate((b"", bytes(32), proof))
        for form, kind in ((Admit, Kind.ASK), (Admitted, Kind.ANSWER))
    ]
    frame = Head(CHANNEL, 0, me, everything).pack() + bytes(HEADER_BYTES)
    return [
        *(bytes((Inner.ADMISSION,)) + data for data in admissions),
        *(bytes((Inner.CONTROL,)) + data for data in control),
        *(bytes((Inner.ROUTED,)) + data for data in routed),
        frame,
        bytes((Inner.KEEPALIVE,)),
        bytes((Inner.PACKET,)) + bytes(40),
    ]


async def attack(ring: Ring, prey: Prey) -> Spoils:
    spoils = Spoils()
    tag = bytes.fromhex(prey.tag)
    demux = ring.node.parts.demux
    took = demux.group

    def overhear(peer: Peer, plaintext: bytes, path: Path | None) -> None:
        if plaintext[1 : 1 + TAG_BYTES] == tag:
            spoils.heard.append(plaintext[1 + TAG_BYTES])
        else:
            took(peer, plaintext, path)

    # As anybody would, with what it has: a secret of its own, or its certificate.
    try:
        subring = ring.node.groups.join(prey.name, GroupSecret(bytes(32)) if prey.secret else None)
        await asyncio.sleep(JOINING_S)
        spoils.state = subring.state.value
        ring.node.groups.leave(prey.name, secret=prey.secret)
    except ValueError as refusal:
        spoils.state = str(refusal)
    demux.group = overhear
    for text in prey.victims:
        victim = int(text, 16)
        await ring.ping(victim)
        peer = ring.node.parts.sessions.peers[victim]
        for lie in lies(ring.id, victim, ring.node.contact(), bytes.fromhex(prey.proof)):
            peer.send(bytes((Inner.GROUP,)) + tag + lie)
            spoils.sent += 1
    spoils.entries = [record.value.hex() for record in await ring.get(prey.entry_name)]
    await asyncio.sleep(LINGER_S)
    demux.group = took
    return spoils


async def main() -> None:
    bundle, bootstrap = sys.argv[1:]
    async with join(bundle, bootstraps=[bootstrap]) as ring:
        await ring.ready()
        print(json.dumps([asdict(await attack(ring, Prey(**each))) for each in json.loads(sys.stdin.readline())]))


if __name__ == "__main__":
    asyncio.run(main())
