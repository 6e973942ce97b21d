"""Run inside a namespace: a node that knows nobody and finds the others of its network on its link.

    lan_host.py BUNDLE

Prints `ring COUNT` whenever the number of its neighbours in the ring changes, and `knows COUNT` whenever that of the
members does whose later questions it could tell from captured ones. SIGTERM stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

from dht.contact import Contact
from dht.host import Endpoint
from dht.node import Node
from dht.storage import MemoryStorage
from dht.udp import UdpHost
from ipop.authority_files import read_bundle
from shortcuts.lan import LanDiscovery
from shortcuts.multicast import MulticastLink


async def serve(bundle: Path) -> None:
    identity = read_bundle(bundle).identity(time.time())
    host = UdpHost(Endpoint("0.0.0.0", 7000))
    node = Node(host, identity, MemoryStorage())
    found: dict[int, Endpoint] = {}

    def heard(contact: Contact) -> None:
        found[contact.id] = contact.endpoints[0]
        node.use_bootstraps(tuple(found.values()))

    link = MulticastLink(host.local_endpoints)
    lan = LanDiscovery(host, link, identity.network, node.contact, heard)
    node.start()
    lan.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    said: set[str] = set()
    while not stop.is_set():
        now = {f"ring {len(node.ring_view().successors)}", f"knows {len(lan._askers)}"}
        for line in now - said:
            print(line, flush=True)
        said = now
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.1)
    lan.stop()
    link.close()
    node.stop()
    host.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
