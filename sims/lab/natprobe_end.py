"""One end of what `sims.lab.natprobe` tries †, as a program on a host. Standard library only: it starts fast.

python -m sims.lab.natprobe_end serve                   the third party: echoes, also from another port
python -m sims.lab.natprobe_end classify ONE OTHER      asks two of them; one line of JSON
python -m sims.lab.natprobe_end punch SERVER PORT LIMIT prints where it was seen, reads where the peer was seen from
                                                        standard input, prints whether they heard each other
"""

from __future__ import annotations

import json
import secrets
import select
import socket
import sys
import time
from typing import Any

PORT, OTHER_PORT = 3478, 3479
LOCAL_PORT, HAIRPIN_PORT = 40_000, 40_001
TRIES = 4
# How long each try waits. Silence is an answer only after all of them: on a busy machine all takes longer.
TRY_S = 0.5
PUNCH_EVERY_S = 0.1
LAST_WORDS = 3

Address = tuple[str, int]


def bound(family: int, port: int) -> socket.socket:
    udp = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    udp.bind(("", port))
    return udp


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve() -> None:
    """Says where it sees a sender; knocks where it is asked to, from the port that was asked or from the other."""
    ports = [bound(family, port) for family in (socket.AF_INET, socket.AF_INET6) for port in (PORT, OTHER_PORT)]
    other = dict(zip(ports, (ports[1], ports[0], ports[3], ports[2]), strict=True))
    print("ready", flush=True)
    while True:
        for asked in select.select(ports, [], [])[0]:
            data, source = asked.recvfrom(256)
            match data.decode(errors="replace").split():
                case ["echo", token]:
                    asked.sendto(f"{token} {source[0]} {source[1]}".encode(), source)
                case ["knock", token, address, port]:
                    asked.sendto(token.encode(), (address, int(port)))
                case ["knock-other", token, address, port]:
                    other[asked].sendto(token.encode(), (address, int(port)))


def ask(asking: socket.socket, server: Address, words: str, hearing: socket.socket | None = None) -> list[str] | None:
    """What comes back, on the same socket or another, after the token; None after silence to several tries."""
    hearing = hearing or asking
    command, _, rest = words.partition(" ")
    token = secrets.token_hex(8)  # The same for all tries: an answer to an earlier one is as good.
    for _ in range(TRIES):
        asking.sendto(f"{command} {token} {rest}".encode(), server)
        deadline = time.monotonic() + TRY_S
        while (left_s := deadline - time.monotonic()) > 0:
            if not select.select([hearing], [], [], left_s)[0]:
                break
            first, *answer = hearing.recv(256).decode(errors="replace").split() or [""]
            if first == token:
                return answer
    return None


def seen_by(server: Address, udp: socket.socket) -> Address | None:
    """Where a server sees this socket."""
    answer = ask(udp, server, "echo")
    return (answer[0], int(answer[1])) if answer else None


def own_address(server: str) -> str:
    """The address that this host sends to a server from."""
    with socket.socket(family_of(server), socket.SOCK_DGRAM) as udp:
        udp.connect((server, PORT))
        return str(udp.getsockname()[0])


def hears_itself(outside: Address, server: Address, family: int, hearing: socket.socket) -> bool:
    """Whether what another socket of this host sends to an outside address comes back in."""
    with bound(family, HAIRPIN_PORT) as another:
        seen_by(server, another)  # A mapping of its own first, as RFC 4787 section 6 has it.
        token = secrets.token_hex(8).encode()
        for _ in range(TRIES):
            another.sendto(token, outside)
            deadline = time.monotonic() + TRY_S
            while (left_s := deadline - time.monotonic()) > 0 and select.select([hearing], [], [], left_s)[0]:
                if hearing.recv(256) == token:
                    return True
    return False


def classify(one: str, other: str) -> dict[str, Any] | None:
    """As `sims.lab.natprobe.NatBehaviour` has it; None when no answer gets here."""
    family = family_of(one)
    with bound(family, LOCAL_PORT) as probe, bound(family, 0) as control:
        if (seen := seen_by((one, PORT), probe)) is None:
            return None
        where = f"{seen[0]} {seen[1]}"
        # Filtering first: afterwards the probe has sent to everybody, and all may answer.
        if ask(control, (other, PORT), f"knock {where}", probe) is not None:
            filtering = "endpoint-independent"
        elif ask(control, (one, PORT), f"knock-other {where}", probe) is not None:
            filtering = "address-dependent"
        else:
            filtering = "address-and-port-dependent"
        same_host, other_host = seen_by((one, OTHER_PORT), probe), seen_by((other, PORT), probe)
        if same_host != seen:
            mapping = "address-and-port-dependent"
        else:
            mapping = "endpoint-independent" if other_host == seen else "address-dependent"
        return {
            "mapping": mapping,
            "filtering": filtering,
            "translated": seen[0] != own_address(one),
            "keeps_port": seen[1] == LOCAL_PORT,
            "hairpins": hears_itself(seen, (one, PORT), family, probe),
        }


def punch(server: str, port: int, limit_s: float) -> None:
    with bound(family_of(server), port) as udp:
        seen = seen_by((server, PORT), udp)
        print(f"{seen[0]} {seen[1]}" if seen else "unseen", flush=True)
        address, _, peer_port = sys.stdin.readline().strip().partition(" ")
        if seen and peer_port:
            print("heard" if hears(udp, (address, int(peer_port)), limit_s) else "silence", flush=True)
        else:
            print("silence", flush=True)


def hears(udp: socket.socket, peer: Address, limit_s: float) -> bool:
    """Send to where the peer was seen, and to wherever it is heard from, until both have heard each other."""
    targets = [peer]
    heard = False
    next_at, deadline = 0.0, time.monotonic() + limit_s
    while (now := time.monotonic()) < deadline:
        if now >= next_at:
            next_at = now + PUNCH_EVERY_S
            for target in targets:
                udp.sendto(b"ack" if heard else b"punch", target)
        if not select.select([udp], [], [], max(0.0, next_at - time.monotonic()))[0]:
            continue
        data, source = udp.recvfrom(256)
        if data not in (b"ack", b"punch"):
            continue
        heard = True
        if source[:2] not in targets:
            targets.append(source[:2])
        if data == b"ack":
            for _ in range(LAST_WORDS):  # The peer may not have heard yet that it was.
                udp.sendto(b"ack", source[:2])
                time.sleep(PUNCH_EVERY_S)
            return True
        udp.sendto(b"ack", source[:2])
    return False


def main() -> None:
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["classify", one, other]:
            print(json.dumps(classify(one, other)), flush=True)
        case ["punch", server, port, limit_s]:
            punch(server, int(port), float(limit_s))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
