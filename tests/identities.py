"""Networks and identities for tests: the same seed gives the same keys, ids and addresses."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network
from random import Random

from dht.certificate import Network
from dht.identity import Identity
from dht.suite import NOISE, Suite
from ipop.authority import Authority, create_authority

START_S = 1_800_000_000.0
SUBNET = "10.77.0.0/16"


def make_authority(seed: int, subnet: str = SUBNET, now: float = START_S, name: str = "test") -> Authority:
    return create_authority(name, IPv4Network(subnet), now, Random(seed))


@lru_cache(maxsize=64)
def make_network(seed: int, subnet: str = SUBNET, now: float = START_S) -> Network:
    return make_authority(seed, subnet, now).network


def make_identities(
    count: int, seed: int, subnet: str = SUBNET, now: float = START_S, suite: Suite = NOISE
) -> list[Identity]:
    """Members `n0`, `n1`, ... of `make_network(seed)`, at its first addresses."""
    authority = make_authority(seed, subnet, now)
    rng = Random(f"identities {seed}")
    return [authority.issue(f"n{number}", None, now, rng).identity(now, suite) for number in range(count)]
