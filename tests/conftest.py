"""What all tests share: how hypothesis behaves where a test doesn't say, and that CI skips nothing by accident."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator

import pytest
from hypothesis import settings

from tests.fuzzing import PROFILE
from tests.patience import FIGURE, Promises

settings.load_profile(PROFILE)

# What a caller's shell may have set, and the commands under test would believe: colours and widths of their output,
# a supervisor to talk to, a folder of somebody's session.
FOREIGN = (
    "COLUMNS", "LINES", "FORCE_COLOR", "PY_COLORS", "CLICOLOR_FORCE", "NO_COLOR", "GITHUB_ACTIONS", "NOTIFY_SOCKET",
    "JOURNAL_STREAM", "XDG_RUNTIME_DIR",
)  # fmt: skip
for foreign in FOREIGN:
    os.environ.pop(foreign, None)

# In CI root can do whatever a test needs, but for these reasons: data that isn't ours to ship, and tests of what
# only somebody other than root is refused; nor is the root of a user namespace one who can do everything, and some
# machines have none to give.
MAY_SKIP = ("P2PVPN_DATA", "root may", "inside a user namespace", "refuses user namespaces")


@pytest.fixture
def promises(record_property: Callable[[str, object], None]) -> Promises:
    """Where a test says what it measured of what the product promises."""
    return Promises(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows all figures that tests measured, whether they passed or not."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    figures = [
        f"{report.nodeid.rpartition('::')[2]}: {value}"
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, value in report.user_properties
        if name == FIGURE
    ]
    if figures:
        terminalreporter.section("figures measured")
        for figure in figures:
            terminalreporter.line(figure)


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
