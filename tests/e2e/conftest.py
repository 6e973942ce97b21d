"""Real nodes need namespaces, a TAP device and some commands. In CI their absence fails; elsewhere it skips, loudly."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from sims.lab.lab import TOOLS, Lab
from sims.lab.namespace import LabError, missing_tools
from tests.e2e.natted import NattedNetwork
from tests.e2e.network import RealNetwork

NAMES = ("alder", "birch", "cedar", "elder", "fir", "gorse", "hazel", "ivy")


def obstacle() -> str:
    """Why this machine can't run real nodes; empty when it can."""
    if missing := missing_tools([*TOOLS, "ping", "curl", "tcpdump", "socat", "ssh", "sshd", "ssh-keygen", "nft"]):
        return f"these commands are missing: {' '.join(missing)}"
    try:
        with Path("/dev/net/tun").open("rb"):
            pass
        with Lab(["probe"]):
            pass
    except (OSError, LabError) as error:
        return f"real nodes can't run here: {error}"
    return ""


@pytest.fixture(scope="session", autouse=True)
def able() -> None:
    """Every test of this folder needs this machine to be able."""
    if not (why := obstacle()):
        return
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def eight(able: None) -> Iterator[RealNetwork]:
    """Eight nodes that know only the first, ready and not yet touched by a test of the module."""
    with RealNetwork(NAMES) as network:
        network.issue()
        network.start_all()
        yield network


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of every node's log."""
    report = yield
    for network in getattr(item, "funcargs", {}).values():
        if report.failed and isinstance(network, RealNetwork | NattedNetwork):
            report.sections.append(("ends of the nodes' logs", network.lab.last_words(15)))
    return report
