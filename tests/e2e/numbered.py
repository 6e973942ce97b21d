"""Numbered UDP datagrams at an even rate, and their echo; a program of its own. ping sends 250 a second at most.

numbered.py echo PORT
numbered.py send ADDRESS PORT EVERY_S      prints a line for each reply, as `ping -D -n` does
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time

SO_RCVBUFFORCE = 33
BUFFER_BYTES = 1 << 23  # what waits for this program must not count as lost
LATE_S = 0.25  # after a longer pause it doesn't catch up: nobody's network has to take that


def opened() -> socket.socket:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    return udp


def echo(port: int) -> None:
    with opened() as udp:
        udp.bind(("", port))
        while True:
            datagram, source = udp.recvfrom(256)
            udp.sendto(datagram, source)


def send(address: str, port: int, every_s: float) -> None:
    with opened() as udp:
        udp.connect((address, port))
        number, next_at = 0, time.monotonic()
        while True:
            if select.select([udp], [], [], max(0.0, next_at - time.monotonic()))[0]:
                with contextlib.suppress(ConnectionRefusedError):
                    sent, _, sent_at = udp.recv(256).decode().partition(" ")
                    now = time.time()
                    rtt_ms = (now - float(sent_at)) * 1000.0
                    print(
                        f"[{now:.6f}] 64 bytes from {address}: icmp_seq={sent} ttl=64 time={rtt_ms:.3f} ms", flush=True
                    )
            if time.monotonic() >= next_at:
                number += 1
                with contextlib.suppress(ConnectionRefusedError):
                    udp.send(f"{number} {time.time()}".encode().ljust(56))
                next_at = max(next_at + every_s, time.monotonic() - LATE_S)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["echo", port]:
            echo(int(port))
        case ["send", address, port, every_s]:
            send(address, int(port), float(every_s))
        case _:
            sys.exit(__doc__)
