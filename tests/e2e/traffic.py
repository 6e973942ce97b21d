"""What the data path's tests send, as a program that runs inside a namespace: streams and datagrams that tell whether
they arrived as they were sent, and an onlooker that checks checksums.

    traffic.py stream-sink ADDRESS PORT             print `ready`, take one connection, print bytes and SHA-256
    traffic.py stream-source ADDRESS PORT BYTES SEED                          send that much; print the same
    traffic.py datagram-sink ADDRESS PORT TAG       print `ready`; told how many were sent, print as JSON what came
    traffic.py datagram-source ADDRESS PORT TAG PAUSE_S        lines `number size` on its input; sends one datagram each
    traffic.py segments-sink ADDRESS PORT           print `ready`; told how many bytes were sent, take them joined as
                                                    they come, print bytes, SHA-256 and how many came in one
    traffic.py segments-source ADDRESS PORT SIZE COUNT         send COUNT datagrams of SIZE in one call, print the same
    traffic.py checksums INTERFACE                  print `ready`; at the end of its input, print as JSON what it saw

A datagram's bytes follow from the TAG and its length; those of at least 4 bytes begin with their number. Whatever is
truncated, altered or meant for a sink of another tag is `foreign`.
"""

from __future__ import annotations

import hashlib
import json
import random
import select
import socket
import struct
import sys
import time
from collections import Counter
from functools import lru_cache

BLOCK_BYTES = 1 << 20
LIMIT_S = 20.0
QUIET_S = 0.5
LATE_S = 5.0
NUMBER_BYTES = 4
SO_RCVBUFFORCE = 33
WINDOW_BYTES = 1 << 20
SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING = 263, 8, 4
TP_STATUS_CSUMNOTREADY = 1 << 3
ETHERNET_BYTES = 14
TCP, UDP = 6, 17
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104


def opened(address: str, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)


def stream_sink(address: str, port: int) -> None:
    with opened(address, socket.SOCK_STREAM) as listening:
        # A window that fits the sockets below: a full one would lose what the tests say is never lost.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(1)
        print("ready", flush=True)
        connection, _ = listening.accept()
    digest, count = hashlib.sha256(), 0
    buffer = memoryview(bytearray(BLOCK_BYTES))
    while length := connection.recv_into(buffer):
        digest.update(buffer[:length])
        count += length
    print(count, digest.hexdigest(), flush=True)


def stream_source(address: str, port: int, count: int, seed: int) -> None:
    noise = random.Random(seed).randbytes(2 * BLOCK_BYTES)
    digest = hashlib.sha256()
    with opened(address, socket.SOCK_STREAM) as connection:
        connection.settimeout(LIMIT_S * 6)
        connection.connect((address, port))
        for number, start in enumerate(range(0, count, BLOCK_BYTES)):
            # Another part of the noise each time, so that a block in another's place would be noticed.
            shift = number * 4099 % BLOCK_BYTES
            block = noise[shift : shift + min(BLOCK_BYTES, count - start)]
            digest.update(block)
            connection.sendall(block)
    print(count, digest.hexdigest(), flush=True)


@lru_cache(maxsize=1024)
def body(tag: str, size: int) -> bytes:
    return random.Random(f"{tag} {size}").randbytes(size)


def datagram(tag: str, number: int, size: int) -> bytes:
    if size < NUMBER_BYTES:
        return body(tag, size)
    return number.to_bytes(NUMBER_BYTES, "big") + body(tag, size)[NUMBER_BYTES:]


def datagram_sink(address: str, port: int, tag: str) -> None:
    came: Counter[str] = Counter()
    foreign = 0
    with opened(address, socket.SOCK_DGRAM) as waiting:
        waiting.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        waiting.bind((address, port))
        print("ready", flush=True)
        expected, last_at = None, 0.0
        while True:
            readable, _, _ = select.select([waiting, *([sys.stdin] if expected is None else [])], [], [], QUIET_S)
            if sys.stdin in readable:
                expected, last_at = int(sys.stdin.readline()), time.monotonic()
            if waiting in readable:
                last_at = time.monotonic()
                payload = waiting.recv(1 << 17)
                number = int.from_bytes(payload[:NUMBER_BYTES], "big") if len(payload) >= NUMBER_BYTES else -1
                if payload == datagram(tag, number, len(payload)):
                    came[f"{number} {len(payload)}"] += 1
                else:
                    foreign += 1
            # What did not come yet may be late; when all has come, what comes once more would come soon.
            elif expected is not None and time.monotonic() - last_at >= (
                QUIET_S if came.total() >= expected else LATE_S
            ):
                break
    print(json.dumps({"came": came, "foreign": foreign}), flush=True)


def datagram_source(address: str, port: int, tag: str, pause_s: float) -> None:
    with opened(address, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        due = time.monotonic()
        for line in sys.stdin:
            number, size = map(int, line.split())
            sending.sendto(datagram(tag, number, size), (address, port))
            due += pause_s
            time.sleep(max(0.0, due - time.monotonic()))


def segments_sink(address: str, port: int) -> None:
    digest = hashlib.sha256()
    lengths: list[int] = []
    with opened(address, socket.SOCK_DGRAM) as waiting:
        waiting.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        waiting.setsockopt(SOL_UDP, UDP_GRO, 1)
        waiting.settimeout(LATE_S)
        waiting.bind((address, port))
        print("ready", flush=True)
        expected = int(sys.stdin.readline())
        while sum(lengths) < expected:
            try:
                payload, _, _, _ = waiting.recvmsg(1 << 17, 128)
            except TimeoutError:
                break
            digest.update(payload)
            lengths.append(len(payload))
    print(sum(lengths), digest.hexdigest(), max(lengths, default=0), flush=True)


def segments_source(address: str, port: int, size: int, count: int) -> None:
    noise = random.Random(size).randbytes(size * count)
    with opened(address, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(SOL_UDP, UDP_SEGMENT, size)
        sending.sendto(noise, (address, port))
    print(len(noise), hashlib.sha256(noise).hexdigest(), flush=True)


def sums_up(packet: bytes) -> bool | None:
    """Whether the checksums of a packet hold; None for what has none to check: neither TCP nor UDP, or a fragment."""
    if packet[0] >> 4 == 4:
        transport, protocol = (packet[0] & 15) * 4, packet[9]
        total, ends = packet[2] << 8 | packet[3], packet[12:20]
        if summed(packet[:transport]) != 0xFFFF:
            return False
        if packet[6] & 0x3F or packet[7]:
            return None
    else:
        transport, protocol, total, ends = 40, packet[6], 40 + (packet[4] << 8 | packet[5]), packet[8:40]
    if protocol not in (TCP, UDP):
        return None
    upper = packet[transport:total]
    return summed(ends + struct.pack("!IHBB", len(upper), 0, 0, protocol) + upper) == 0xFFFF


def summed(data: bytes) -> int:
    number = int.from_bytes(data + b"\0" * (len(data) & 1), "big")
    return number % 0xFFFF or (0xFFFF if number else 0)


def is_partial(packet: bytes) -> bool:
    """Whether the transport checksum holds the sum of the pseudo-header, as the kernel expects of one to complete."""
    four = packet[0] >> 4 == 4
    transport, protocol = ((packet[0] & 15) * 4, packet[9]) if four else (40, packet[6])
    at = transport + (16 if protocol == TCP else 6)
    ends, length = (packet[12:20] if four else packet[8:40]), len(packet) - transport
    pseudo = summed(ends + struct.pack("!IHBB", length, 0, 0, protocol))
    return int.from_bytes(packet[at : at + 2], "big") % 0xFFFF == pseudo % 0xFFFF


def checksums(interface: str) -> None:
    """Of what arrives: packets said to be complete whose sums hold, those left to the kernel to complete, and wrong
    ones of either kind."""
    seen: Counter[str] = Counter()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as onlooker:
        onlooker.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        onlooker.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        onlooker.bind((interface, 3))
        print("ready", flush=True)
        ends = None
        while ends is None or time.monotonic() < ends:
            readable, _, _ = select.select([onlooker, *([] if ends else [sys.stdin])], [], [], QUIET_S)
            if sys.stdin in readable and not sys.stdin.readline():
                ends = time.monotonic() + LIMIT_S
            if onlooker not in readable:
                if ends is not None:
                    break
                continue
            frame, ancillary, _, source = onlooker.recvmsg(1 << 17, 128)
            if source[2] == PACKET_OUTGOING or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
                continue
            ((_, _, noted),) = ancillary
            (status,) = struct.unpack_from("=I", noted)
            packet = frame[ETHERNET_BYTES:]
            if status & TP_STATUS_CSUMNOTREADY:
                seen["partial" if is_partial(packet) else "wrong partial"] += 1
            else:
                seen[{True: "complete", False: "wrong", None: "other"}[sums_up(packet)]] += 1
    print(json.dumps(seen), flush=True)


def main() -> None:
    match sys.argv[1:]:
        case ["stream-sink", address, port]:
            stream_sink(address, int(port))
        case ["stream-source", address, port, count, seed]:
            stream_source(address, int(port), int(count), int(seed))
        case ["datagram-sink", address, port, tag]:
            datagram_sink(address, int(port), tag)
        case ["datagram-source", address, port, tag, pause_s]:
            datagram_source(address, int(port), tag, float(pause_s))
        case ["segments-sink", address, port]:
            segments_sink(address, int(port))
        case ["segments-source", address, port, size, count]:
            segments_source(address, int(port), int(size), int(count))
        case ["checksums", interface]:
            checksums(interface)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
