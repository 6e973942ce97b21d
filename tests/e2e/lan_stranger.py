"""Run inside a namespace: one who is no member listens to what members say on the link, and says it again.

    lan_stranger.py ADDRESS4 INTERFACE

Prints `listening`, then `said HEX` for every datagram to the group. For every line of its input it sends all it heard,
and as much noise, to the groups of both IP versions. Prints `answered HEX` for everything that comes back to it.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import sys

from shortcuts.multicast import GROUP4, GROUP6, PORT


def main() -> None:
    address, interface = sys.argv[1], socket.if_nametoindex(sys.argv[2])
    hearing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    hearing.bind((GROUP4, PORT))
    joined = socket.inet_aton(GROUP4) + socket.inet_aton(address)
    hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, struct.pack("=I", interface))
    # It shall not hear itself.
    four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    four.bind(("0.0.0.0", 0))
    six.bind(("::", 0))
    said: list[bytes] = []
    print("listening", flush=True)
    while True:
        readable, _, _ = select.select([sys.stdin, hearing, four, six], [], [])
        for each in (hearing, four, six):
            if each in readable:
                datagram = each.recv(65535)
                if each is hearing:
                    said.append(datagram)
                print("said" if each is hearing else "answered", datagram.hex(), flush=True)
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            for datagram in said + [random.randbytes(len(datagram)) for datagram in said]:
                four.sendto(datagram, (GROUP4, PORT))
                six.sendto(datagram, (GROUP6, PORT, 0, interface))
            print("repeated", flush=True)


if __name__ == "__main__":
    main()
