"""Simulated worlds: the same protocol code on an agenda of events in virtual time.

`engine` is the clock and the hosts, `network` carries their datagrams, `latency` says how far apart they are, `world`
holds nodes and judges them from above, `scenario` reads what is to happen from a file. For programs of your own:
`from sims import World`, see `sims.embed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sims.embed import World as World

__all__ = ["World"]


def __getattr__(name: str) -> Any:
    # Not before somebody asks: laboratories of real nodes need none of it.
    if name == "World":
        from sims.embed import World  # noqa: PLC0415

        return World
    raise AttributeError(f"module 'sims' has no attribute '{name}'")
