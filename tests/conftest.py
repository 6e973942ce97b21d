"""What all tests share: how hypothesis behaves where a test doesn't say, and that CI skips nothing by accident."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# No deadline: a busy machine is no bug. No database: a run must not depend on what an earlier one left.
settings.register_profile("p2pvpn", deadline=None, database=None, print_blob=True)
settings.load_profile("p2pvpn")

# In CI root can do whatever a test needs, but for these reasons: data that isn't ours to ship, and tests of what
# only somebody other than root is refused; nor is the root of a user namespace one who can do everything.
MAY_SKIP = ("P2PVPN_DATA", "root may", "inside a user namespace")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip for want of a command, a device or a namespace into a failure, where that can't be right."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true" and os.geteuid() == 0:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(allowed in reason for allowed in MAY_SKIP):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} must not be skipped in CI as root: {reason}"
    return report
