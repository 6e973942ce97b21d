"""† Bootstraps from DNS: looks names up without blocking the loop, again and again while a node needs somebody to join.

Never resolves anything else, and never gives up: the network may come up after the node, and a name may move.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from dht.bootstrap import Bootstrap
from dht.host import Endpoint

LOOKUP_LIMIT_S = 5.0
FIRST_RETRY_S = 1.0
RETRY_S = 30.0

log = logging.getLogger(__name__)


async def keep_resolved(
    bootstraps: Sequence[Bootstrap],
    use: Callable[[list[Endpoint]], None],
    settled: Callable[[], bool],
    unknown: Callable[[Sequence[Bootstrap]], None] = lambda names: None,
) -> None:
    """Call `use(endpoints)` with where the bootstraps are: once in any case, and again after every round of lookups.

    Addresses are used at once, before any name is looked up; `use([])` means that DNS knows none of the names yet.
    Names are looked up again while one is unknown, or while the node is not `settled()` in its ring. Returns at once
    when there are no names, else runs until it is cancelled. `unknown(names)` is told after every
    round, before `use`, which names DNS does not know.
    """
    literals = [bootstrap.literal for bootstrap in bootstraps if bootstrap.literal is not None]
    names = list(dict.fromkeys(bootstrap for bootstrap in bootstraps if bootstrap.literal is None))
    if literals or not names:
        use(literals)
    known: dict[Bootstrap, list[Endpoint]] = {}
    wait_s = FIRST_RETRY_S
    while names:
        wanted = [name for name in names if name not in known or not settled()]
        # All at once: one name server that is silent must not keep the other names waiting.
        for name, found in zip(wanted, await asyncio.gather(*map(look_up, wanted)), strict=True):
            if found:
                known[name] = found
        unknown([name for name in names if name not in known])
        use([*literals, *(endpoint for name in names for endpoint in known.get(name, ()))])
        await asyncio.sleep(RETRY_S if len(known) == len(names) else wait_s)
        wait_s = min(wait_s * 2, RETRY_S)


async def look_up(bootstrap: Bootstrap) -> list[Endpoint]:
    """Every endpoint DNS has for a bootstrap. Empty, and logged, when there is none."""
    try:
        async with asyncio.timeout(LOOKUP_LIMIT_S):
            found = await _ask_dns(bootstrap)
    except (OSError, UnicodeError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or "no answer from DNS"
        log.warning("cannot look up bootstrap '%s': %s; trying again", bootstrap, reason)
        return []
    endpoints = (Endpoint(str(address[0]).partition("%")[0], int(address[1])) for *_, address in found)
    return list(dict.fromkeys(endpoints))


def _ask_dns(bootstrap: Bootstrap) -> asyncio.Future[list[Any]]:
    """The answer of getaddrinfo. In a daemon thread: the loop's own executor would make the end of the process wait
    for a name server that is silent."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Any]] = loop.create_future()

    def settle(found: list[Any] | OSError | UnicodeError) -> None:
        if answer.done():
            return
        if isinstance(found, list):
            answer.set_result(found)
        else:
            answer.set_exception(found)

    def ask() -> None:
        found: list[Any] | OSError | UnicodeError
        try:
            found = socket.getaddrinfo(bootstrap.host, bootstrap.port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            found = error
        with suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=ask, name="dns", daemon=True).start()
    return answer
