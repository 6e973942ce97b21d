"""† Speaks UPnP to one gateway, in a process of its own that does one thing and ends.

    python -m shortcuts.upnp REQUEST       prints one line, see `shortcuts.upnp_wire`

Apart, because the library blocks, reads what the local network sends in C, and would stay in memory. The process
gives up root's rights and most of the memory it might take before it listens to anybody; whoever starts it bounds its
time. It asks no host but the gateway it is told, and changes no mapping but our own.

Source: UPnP WANIPConnection:2, sections 2.5.16 (AddPortMapping) and 2.5.17.
"""

from __future__ import annotations

import os
import random
import resource
import socket
import sys
import time
from contextlib import suppress

import miniupnpc

from dht.errors import BadDatagram
from shortcuts.upnp_wire import (
    FOREVER_S,
    MAX_SSDP_BYTES,
    SSDP_GROUP,
    SSDP_PORT,
    TARGETS,
    UpnpMapping,
    UpnpRequest,
    check_url,
    read_location,
    report,
    search,
)

SEARCHES = 3
SEARCH_S = 1.0  # for answers to each of them; MX asks for them within a second
MAX_ANSWERS = 64
PORTS = 3  # tried when others have the one we would like
MEMORY_BYTES = 256 << 20
CPU_S = 5
NOBODY = 65_534
DESCRIPTION = "p2pvpn"

# What miniupnpc calls the errors 718, 729 and 725 of WANIPConnection.
_CONFLICTS = ("ConflictInMappingEntry", "ConflictWithOtherMechanisms")
_ONLY_PERMANENT = "OnlyPermanentLeasesSupported"


class Failed(Exception):
    """There will be no mapping; the text says why."""


def find(request: UpnpRequest) -> str:
    """Where the gateway's description lies. Raises Failed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as searching:
        searching.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 2)
        searching.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(request.client))
        searching.bind((request.client, 0))
        answers = 0
        for _ in range(SEARCHES):
            for target in TARGETS:
                for address in (SSDP_GROUP, request.gateway):
                    searching.sendto(search(target), (address, SSDP_PORT))
            until = time.monotonic() + SEARCH_S
            while answers < MAX_ANSWERS and (left_s := until - time.monotonic()) > 0:
                searching.settimeout(left_s)
                try:
                    answer, source = searching.recvfrom(MAX_SSDP_BYTES + 1)
                except TimeoutError:
                    break
                except ConnectionRefusedError:
                    continue  # port 1900 of the gateway itself; the group may still answer
                answers += 1
                with suppress(BadDatagram):
                    if source[0] == request.gateway:
                        return read_location(answer, request.gateway)
    raise Failed("the gateway does not answer")


def serve(request: UpnpRequest) -> UpnpMapping | str:
    """Do what is asked. Returns the mapping, "deleted", or raises Failed."""
    try:
        location = find(request)
    except OSError as error:
        raise Failed(f"no search: {error.strerror or error}") from None
    # The library raises bare Exceptions, whose text is the gateway's error.
    try:
        device = miniupnpc.UPnP()
        check_url(device.selectigd(location), request.gateway)
        if not request.lifetime_s:
            device.deleteportmapping(request.external_port, "UDP")
            return "deleted"
        port, lifetime_s = add(device, request)
        return UpnpMapping(device.externalipaddress(), port, lifetime_s)
    except (Failed, BadDatagram):
        raise
    except Exception as error:  # noqa: BLE001
        raise Failed(f"refused: {_printable(error)}") from None


def add(device: miniupnpc.UPnP, request: UpnpRequest) -> tuple[int, int]:
    """The external port and the lifetime that the gateway grants. Raises Failed, or what the library raises."""
    port, lifetime_s = request.external_port, request.lifetime_s
    for _ in range(PORTS + 1):  # once more for a gateway that knows no lifetimes
        try:
            device.addportmapping(port, "UDP", request.client, request.internal_port, DESCRIPTION, "", lifetime_s)
        except Exception as error:
            if str(error) == _ONLY_PERMANENT and lifetime_s:
                lifetime_s = 0
            elif str(error) in _CONFLICTS:
                port = random.randrange(1024, 65536)
            else:
                raise
        else:
            return port, lifetime_s or FOREVER_S
    raise Failed("refused: every port tried is taken")


def _printable(error: object) -> str:
    return "".join(character for character in str(error) if character.isprintable()) or "no reason given"


def confine() -> None:
    """Keep little of what this process could do."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        with suppress(OSError):  # A container may have no such user; then it stays root's there.
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)


def main() -> None:
    request = UpnpRequest.from_text(sys.argv[1])
    confine()
    try:
        result = serve(request)
    except (Failed, BadDatagram) as failure:
        result = str(failure)
    sys.stdout.buffer.write(report(result))


if __name__ == "__main__":
    main()
