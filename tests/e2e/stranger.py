"""Run inside a namespace: sends datagrams to a port as one who isn't a member, and prints all that comes back.

    stranger.py ADDRESS PORT PAUSE_S < hexadecimal lines

One line an answer: what had been sent last, and the answer, in hexadecimal.
"""

from __future__ import annotations

import socket
import sys
import time

LINGER_S = 1.5


def show_answers(stranger: socket.socket, asked: str) -> None:
    while True:
        try:
            print(f"after {asked[:16]}: {stranger.recv(65535).hex()}")
        except BlockingIOError:
            return


def main() -> None:
    address, port, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    asked = ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.setblocking(False)
        stranger.connect((address, port))
        for line in sys.stdin:
            asked = line.strip()
            stranger.send(bytes.fromhex(asked))
            time.sleep(pause_s)
            show_answers(stranger, asked)
        time.sleep(LINGER_S)
        show_answers(stranger, asked)


if __name__ == "__main__":
    main()
