"""Run inside a namespace: sends datagrams in another's name.

repeat.py SOURCE:PORT DESTINATION:PORT < hexadecimal lines
"""

from __future__ import annotations

import socket
import sys
import time

PAUSE_S = 0.002


def main() -> None:
    source, destination = ((address, int(port)) for address, port in (word.split(":") for word in sys.argv[1:]))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        sending.bind(source)
        for line in sys.stdin:
            sending.sendto(bytes.fromhex(line), destination)
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
