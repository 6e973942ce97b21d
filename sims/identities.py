"""† Identities of a network that exists in a simulation only: the same for the same seed."""

from __future__ import annotations

from ipaddress import IPv4Network
from random import Random

from dht.identity import Identity
from dht.suite import NOISE, Suite
from ipop.authority import create_authority
from sims.engine import START

SUBNET = "10.64.0.0/10"  # room for four million nodes


def members(count: int, seed: int, suite: Suite = NOISE) -> list[Identity]:
    """`count` members, valid from the instant at which simulated worlds begin. `suite`: what they shake hands by."""
    rng = Random(seed)
    authority = create_authority("simulated", IPv4Network(SUBNET), START, rng)
    return [authority.issue(f"n{number}", None, START, rng).identity(START, suite) for number in range(count)]
