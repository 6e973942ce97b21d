"""Where many pairs of nodes have no link of their own, nearly every pair still reaches each other. `make figures` has
the same with 200 nodes."""

from __future__ import annotations

import os

import pytest

from sims.latency import Constant
from sims.routability import measure
from tests.identities import START_S, make_identities

SEEDS = range(1, 1 + int(os.environ.get("P2PVPN_SEEDS", "1")))


@pytest.mark.parametrize(("broken", "wanted"), [(0.3, 0.995), (0.4, 0.99)])
@pytest.mark.parametrize("seed", SEEDS)
def test_nearly_every_pair_reaches_each_other_however_many_links_are_broken(
    seed: int, broken: float, wanted: float
) -> None:
    found = measure(make_identities(40, seed, now=START_S), Constant(50.0), seed, broken, ping_count=300)
    print(
        f"seed {seed}, {broken:.0%} broken: {found.walked:.2%} walked, {found.pinged:.2%} pinged, whole {found.whole_s}"
    )
    assert found.walked >= wanted, f"seed {seed}"
    assert found.pinged >= wanted, f"seed {seed}"
    assert found.tunnels > 20, "without tunnels this proves nothing"
