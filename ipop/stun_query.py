"""Asks a STUN server where it sees this machine. † Shell module, for `netcheck --stun` only: nodes never ask one.

From a port of its own: a NAT gives this one another outside port than the node's, but the address is the same, and
whether UDP gets out and back at all is the same too. Believes only who was asked.
Source: RFC 8489, section 6.2.1 for the times between two tries.
"""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress
from typing import Any

from dht.bootstrap import Bootstrap
from dht.errors import BadDatagram
from dht.host import Endpoint
from dht.stun import MAX_MESSAGE_BYTES, TRANSACTION_BYTES, read_response, request
from ipop.errors import SetupError

WAITS_S = (0.5, 1.0, 2.0)
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


def ask_stun(server: Bootstrap, waits_s: tuple[float, ...] = WAITS_S) -> dict[str, str | None]:
    """Where the server sees us, for each of the families that it has an address of; None where it does not answer.
    SetupError when its name means nothing here."""
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise SetupError(f"cannot look up the STUN server '{server}': {error.strerror or error}") from None
    addresses = {family: address for family, _, _, _, address in reversed(found)}  # the first of each
    return {
        name: None if (seen := _ask(family, addresses[family], waits_s)) is None else str(seen)
        for name, family in FAMILIES.items()
        if family in addresses
    }


def _ask(family: socket.AddressFamily, address: tuple[Any, ...], waits_s: tuple[float, ...]) -> Endpoint | None:
    transaction = os.urandom(TRANSACTION_BYTES)
    # A connected socket takes datagrams of this server only, and hears of an unreachable one.
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        asking.connect(address)
        for wait_s in waits_s:
            asking.send(request(transaction))
            until = time.monotonic() + wait_s
            while (left_s := until - time.monotonic()) > 0 and select.select([asking], [], [], left_s)[0]:
                with suppress(BadDatagram):
                    return read_response(asking.recv(MAX_MESSAGE_BYTES + 1), transaction)
    return None
