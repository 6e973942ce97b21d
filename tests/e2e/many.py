"""What the multicast tests send and receive, as a program that runs inside a namespace.

many.py listen ADDRESS GROUP PORT            join GROUP on the interface with ADDRESS, print `ready`; at the end of
                                             its input, and half a second of silence, print as JSON how often each
                                             number came, and what was not ours
many.py send ADDRESS GROUP PORT COUNT PER_S SIZE        send numbered datagrams from that interface, paced; GROUP
                                                        may be a broadcast address; print how long it took
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections import Counter

NUMBER_BYTES = 4
SO_RCVBUFFORCE = 33
QUIET_S = 0.5
LIMIT_S = 10.0


def datagram(number: int, size: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES, "big") + bytes(each % 251 for each in range(size - NUMBER_BYTES))


def listen(address: str, group: str, port: int) -> None:
    came: Counter[int] = Counter()
    foreign = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting:
        waiting.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        waiting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        waiting.bind(("", port))
        if not group.endswith(".255"):
            waiting.setsockopt(
                socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(address)
            )
        print("ready", flush=True)
        ends = None
        while ends is None or time.monotonic() < ends:
            readable, _, _ = select.select([waiting, *([] if ends else [sys.stdin])], [], [], QUIET_S)
            if sys.stdin in readable and not sys.stdin.readline():
                ends = time.monotonic() + LIMIT_S
            if waiting in readable:
                payload = waiting.recv(1 << 16)
                number = int.from_bytes(payload[:NUMBER_BYTES], "big")
                if payload == datagram(number, len(payload)):
                    came[number] += 1
                else:
                    foreign += 1
            elif ends is not None:
                break
    print(json.dumps({"came": came, "foreign": foreign}), flush=True)


def send(address: str, group: str, port: int, count: int, per_s: float, size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, struct.pack("=i", 0))
        sending.bind((address, 0))
        payloads = bytearray(datagram(0, size))
        start = time.monotonic()
        for number in range(count):
            payloads[:NUMBER_BYTES] = number.to_bytes(NUMBER_BYTES, "big")
            sending.sendto(payloads, (group, port))
            time.sleep(max(0.0, start + (number + 1) / per_s - time.monotonic()))
    print(time.monotonic() - start, flush=True)


def main() -> None:
    match sys.argv[1:]:
        case ["listen", address, group, port]:
            listen(address, group, int(port))
        case ["send", address, group, port, count, per_s, size]:
            send(address, group, int(port), int(count), float(per_s), int(size))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
