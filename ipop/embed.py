"""† The library's entry: be a node of a network, in an asyncio program, with the bundle that `p2pvpn issue` wrote.

    async with join("laptop.p2pvpn", bootstraps=["host.example:7077"]) as ring:
        await ring.put("service/printer", b"room 12")

Everything such a program needs is named here. The node has its place on the ring and end-to-end encrypted messages,
but no virtual network interface: that is `p2pvpn up`. Never opens a TAP device, and needs no root.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from dht import aio
from dht.aggregate import About, Kind, Missing, Outcome, Reason
from dht.aio import (
    FIRST_APPLICATION_CODE,
    Closed,
    Endpoint,
    Fields,
    Inbox,
    Member,
    Message,
    NoAnswer,
    NodeState,
    NotReady,
    NotStored,
    PeerView,
    PingResult,
    Record,
    Ring,
    RingError,
    Taken,
    Unreachable,
    Value,
)
from dht.crawl import Crawled, Sight
from dht.everybody import Everybody
from ipop.authority_files import read_bundle
from ipop.errors import SetupError

__all__ = [
    "FIRST_APPLICATION_CODE",
    "About",
    "Closed",
    "Crawled",
    "Endpoint",
    "Everybody",
    "Fields",
    "Inbox",
    "Kind",
    "Member",
    "Message",
    "Missing",
    "NoAnswer",
    "NodeState",
    "NotReady",
    "NotStored",
    "Outcome",
    "PeerView",
    "PingResult",
    "Reason",
    "Record",
    "Ring",
    "RingError",
    "SetupError",
    "Sight",
    "Taken",
    "Unreachable",
    "Value",
    "join",
]

log = logging.getLogger(__name__)


def join(
    bundle: str | os.PathLike[str],
    bootstraps: Iterable[str | Endpoint] = (),
    *,
    listen: str | Endpoint = "0.0.0.0:0",
    state: str | os.PathLike[str] | None = None,
) -> AbstractAsyncContextManager[Ring]:
    """Run the node whose bundle file this is, as long as the `async with` block lasts.

    Raises SetupError at once when the file can't be used; the rest is as `dht.aio.join` says. One running node a
    bundle: a second one, here or elsewhere, is not let into the ring.
    """
    identity = read_bundle(Path(bundle), log.warning).identity(time.time())
    return aio.join(identity, bootstraps, listen=listen, state=state)
