"""How hard the fuzz tests try: 200 examples each, or as many as P2PVPN_FUZZ_EXAMPLES says.

Usage: `@given(...)` above `@fuzzed()`; `@fuzzed(weight=0.1)` for a test whose examples cost ten times as much.
For a state machine: `Machine.TestCase.settings = stateful_settings()`. A failure prints the example and the line
that reproduces it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

QUICK_EXAMPLES = 200
PROFILE = "p2pvpn"

Test = TypeVar("Test", bound=Callable[..., Any])

# No deadline: a busy machine is no bug. No database: a run must not depend on what an earlier one left. In CI every
# run tries the same examples, so that it judges the change at hand; everywhere else each run looks for new ones.
settings.register_profile(
    PROFILE,
    deadline=None,
    database=None,
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
_profile = settings.get_profile(PROFILE)


def examples(weight: float = 1.0) -> int:
    """How many examples a test of this weight runs: at least 10."""
    wanted = int(os.environ.get("P2PVPN_FUZZ_EXAMPLES", QUICK_EXAMPLES))
    return max(10, round(wanted * weight))


def fuzzed(weight: float = 1.0) -> Callable[[Test], Test]:
    """A decorator that gives a hypothesis test its settings."""
    chosen = settings(_profile, max_examples=examples(weight))

    def apply(test: Test) -> Test:
        return chosen(test)

    return apply


def stateful_settings(weight: float = 1.0, steps: int = 40) -> settings:
    """The settings of a state machine: this many runs of up to `steps` steps."""
    return settings(_profile, max_examples=examples(weight), stateful_step_count=steps)


def is_somebodys(address: IPv4Address | IPv6Address) -> bool:
    """Whether an endpoint may lie there: `Endpoint.parse` refuses the others."""
    mapped = address.version == 6 and address.ipv4_mapped is not None
    return not (mapped or address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255")


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(is_somebodys).map(str)
