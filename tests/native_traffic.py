"""Frames and datagrams of all kinds, good and bad, for `tests.native_side`: the same seed makes the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from dht.envelope import Inner
from ipop.ethernet import ipv4_packet, ipv6_packet
from ipop.superpacket import partial, split
from ipop.vnet import NEEDS_CHECKSUM, NO_VNET, VNET
from tests.native_side import Side
from tests.test_superpacket import ETHERNET, Super

# Where the header fields are that matter: virtio_net's, Ethernet's, then IP's and TCP's.
FIELDS = (0, 1, 4, 5, 6, 7, 8, 9, 10, 22, 23, 24, 25, 26, 27, 28, 30, 32, 33, 36, 40, 43, 44, 48, 56, 57, 64, 76)
TRICKS = ("lost", "repeated", "reordered", "forged", "short", "another index", "no counter", "elsewhere", "late")
LEAST_FRAME_BYTES = 44  # with a virtio_net header; a kernel gives none without a whole IP header
LONGEST_PLAIN_BYTES = 9000  # and no longer ones that are not super-packets than the MTU allows
TOGETHER_BYTES, TOGETHER = 60_000, 60  # what a kernel takes at once


def ethernet(version: int) -> bytes:
    return ETHERNET + (b"\x08\x00" if version == 4 else b"\x86\xdd")


def ends(side: Side, version: int, number: int, *, outwards: bool) -> tuple[bytes, bytes]:
    """Raw addresses of alice and a peer, in the order of a packet's header."""
    near, far = side.members[0], side.members[1 + number]
    pair = (near.address4.packed, far.address4.packed) if version == 4 else (near.address6.packed, far.address6.packed)
    return pair if outwards else pair[::-1]


def echo(side: Side, version: int, number: int, *, outwards: bool, payload: bytes = b"ping") -> bytes:
    build = ipv4_packet if version == 4 else ipv6_packet
    kind = b"\x08\0\0\0" if version == 4 else b"\x80\0\0\0"
    return build(kind + payload, 1 if version == 4 else 58, *ends(side, version, number, outwards=outwards))


def virtual(made: Super) -> bytes:
    return VNET.pack(NEEDS_CHECKSUM, 0, 0, 0, 14 + made.transport, 16 if made.tcp else 6)


def super_packet(random: Random, side: Side, number: int, *, outwards: bool) -> Super:
    tcp, version = random.random() < 0.7, random.choice((4, 6))
    size = random.choice((8, 9, 40, 536, 1200, 1340, 1348, 1400, 3000))
    count = random.choice((1, 2, 3, 12, 45)) if size < 1500 else 1
    payload = random.randbytes((count - 1) * size + random.randint(1, size))
    return Super(
        version,
        tcp,
        size,
        payload,
        flags=random.choice((0x10, 0x18, 0x19, 0x90, 0x02, random.randrange(256))),
        sequence=random.choice((1000, 2**32 - 1000)),
        id=random.choice((7, 65534)),
        options=random.choice((b"", b"\x01\x01\x08\x0a" + bytes(range(8)), bytes(40))) if tcp else b"",
        ip_options=random.choice((b"",) * 9 + (b"\x01\x01\x01\x00",)) if version == 4 else b"",
        ends=b"".join(ends(side, version, number, outwards=outwards)),
    )


def mutated(random: Random, data: bytes, places: Sequence[int], least_bytes: int = 0) -> bytes:
    """Rarely the same, a byte or more changed, or cut short."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.choice(places) if random.random() < 0.8 else random.randrange(len(data))
        if place < len(changed):
            changed[place] = random.choice((0, 1, 2, 4, 5, 6, 17, 58, 0x45, 0x46, 0x60, 255, random.randrange(256)))
    if random.random() < 0.2:
        del changed[random.randrange(least_bytes, len(changed) + 1) :]
    return bytes(changed)


def frame(random: Random, side: Side, hostile: float) -> bytes:
    """One as a kernel gives it, or, as often as `hostile` says, something like it."""
    number = random.randrange(2)
    made = super_packet(random, side, number, outwards=True)
    kind = random.choice(("super", "super", "partial", "whole", "echo", "acknowledgement"))
    if kind == "super":
        whole = made.frame
    elif kind == "partial":
        whole = virtual(made) + made.frame[10:1424]
    elif kind == "whole":
        whole = NO_VNET + made.frame[10:1424]
    elif kind == "echo":
        packet = echo(side, made.version, number, outwards=True, payload=made.payload[:3000])
        whole = NO_VNET + ethernet(made.version) + packet
    else:
        whole = virtual(made) + made.frame[10 : 24 + made.transport + 20]
    if random.random() < hostile:
        whole = mutated(random, whole, FIELDS, LEAST_FRAME_BYTES)
    # Nor pieces of super-packets that are longer: byte 5 is the upper half of their size.
    return whole[:5] + bytes((min(whole[5], 30),)) + whole[6:] if whole[1] else whole[:LONGEST_PLAIN_BYTES]


def plaintexts(random: Random, side: Side, number: int, hostile: float) -> list[bytes]:
    """What a peer may seal together, of any kind."""
    made = super_packet(random, side, number, outwards=False)
    packet = bytes((Inner.PACKET,)) + echo(side, made.version, number, outwards=False, payload=made.payload[:1200])
    found: list[bytes] = []
    for kind in random.choices(("super", "packet", "partial", "odd"), (6, 2, 2, 1), k=random.choice((1, 1, 1, 2, 3))):
        if kind == "super" and not made.ip_options and (made.tcp or made.size <= 1400):
            found += split(made.frame, random.choice((1200, 1400)))
        elif kind == "partial":
            found += [partial(virtual(made) + made.frame[10:1300])] * random.choice((1, 3))
        elif kind == "odd":
            found += [bytes((random.choice((Inner.KEEPALIVE, 77, Inner.SEGMENT)),)) + random.randbytes(60)]
        else:
            found += [packet] * random.choice((1, 3))
    if random.random() < hostile:
        at = random.randrange(len(found))
        bad = mutated(random, found[at], range(90))
        found[at] = bad
        if random.random() < 0.5 and len(bad) > 60:  # Alike in all, so that they look like one super-packet.
            found = [each[:3] + bad[3:60] + each[60:] if len(each) > 60 else each for each in found]
    return [each for each in found if each]


def together(datagrams: list[bytes]) -> Iterator[list[bytes]]:
    """As a kernel may send them at once: of one size, the last perhaps shorter."""
    batch: list[bytes] = []
    for each in datagrams:
        longest = len(batch[0]) if batch else 0
        full = len(batch) == TOGETHER or (len(batch) + 1) * longest > TOGETHER_BYTES
        if batch and (len(each) > longest or len(batch[-1]) < longest or full):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def tricked(random: Random, datagrams: list[bytes], trick: str) -> list[bytes]:
    """What a network, or somebody on it, does to datagrams."""
    changed = list(datagrams)
    at = random.randrange(len(changed))
    each = changed[at]
    match trick:
        case "lost":
            del changed[at]
        case "repeated":
            changed.insert(at, each)
        case "reordered":
            changed.append(changed.pop(at))
        case "forged":
            place = random.randrange(8, len(each))
            changed[at] = each[:place] + bytes((each[place] ^ 1,)) + each[place + 1 :]
        case "short":
            changed[at] = each[: len(each) // 2]
        case "another index":
            changed[at] = each[:7] + bytes((each[7] ^ 9,)) + each[8:]
        case "no counter":
            changed[at] = each[: random.randrange(8, 33)]
    return changed


class Arrivals:
    """What comes from peers to each of `sides`, which is the same."""

    def __init__(self, random: Random, sides: Sequence[Side]) -> None:
        self._random, self._sides = random, sides
        self._held: list[tuple[int, list[bytes]]] = []

    def one(self, hostile: float) -> None:
        """Something comes, and is read."""
        random = self._random
        number = random.randrange(2)
        texts = plaintexts(random, self._sides[0], number, hostile)
        sealed, *others = [[side.far_keypairs[number].seal(each) for each in texts] for side in self._sides]
        assert all(other == sealed for other in others)
        trick = random.choice(TRICKS) if sealed and random.random() < hostile else ""
        traffic_class = random.choice((0, 0, 0, 2, 1, 3, 0xB8))
        if trick == "late":
            self._held.append((number, sealed))
        elif sealed:
            self._arrive(number, tricked(random, sealed, trick), traffic_class, elsewhere=trick == "elsewhere")
        if self._held and random.random() < 0.1:
            self._arrive(*self._held.pop(0))

    def _arrive(self, number: int, datagrams: list[bytes], traffic_class: int = 0, *, elsewhere: bool = False) -> None:
        for side in self._sides:
            for batch in together(datagrams):
                side.arrive(number, batch, traffic_class, side.outside if elsewhere else None)
            side.from_wire()
