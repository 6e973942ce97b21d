"""The laboratory itself: it isolates, it cuts, and it leaves nothing, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sims.lab.lab import Lab, sweep, wait_until
from sims.lab.namespace import LabError
from sims.lab.work import ring_flaw
from tests.e2e.network import last_outage_end
from tests.patience import PATIENCE_S

BUSY_LAB = """
import sys, time
from sims.lab.lab import Lab
lab = Lab(["alder", "birch"])
sleeper = lab.spawn(lab.hosts[0], "sleep", "1000")
print(lab.folder, sleeper.pid, lab.hosts[0].namespace.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(["alder", "birch", "cedar"]) as made:
        yield made


def hears(lab: Lab, source: int, address: str, tries: int = 20) -> bool:
    """Whether a ping is answered; `tries`: how many may be lost on a busy machine."""
    ping = ("ping", "-c1", "-W1", address)
    return any(lab.hosts[source].namespace.run(*ping).returncode == 0 for _ in range(tries))


def test_hosts_reach_each_other_by_both_underlays_until_the_wire_is_cut(lab: Lab) -> None:
    alder, birch, cedar = lab.hosts
    for address in (birch.underlay4, birch.underlay6, cedar.underlay4):
        assert hears(lab, 0, address)
    lab.cut(alder, birch)
    assert not hears(lab, 0, birch.underlay4, tries=1)
    assert not hears(lab, 1, alder.underlay6, tries=1)
    assert hears(lab, 0, cedar.underlay4)
    lab.mend(alder, birch)
    assert hears(lab, 0, birch.underlay4)
    assert hears(lab, 1, alder.underlay6)


def test_a_host_that_moves_leaves_its_old_address(lab: Lab) -> None:
    cedar = lab.hosts[2]
    old = cedar.underlay4
    cedar.readdress(99)
    assert (cedar.underlay4, cedar.underlay6) == ("198.18.0.99", "fd18::63")
    assert hears(lab, 0, cedar.underlay4)
    assert not hears(lab, 0, old, tries=1)


def test_a_failing_ip_line_is_an_error(lab: Lab) -> None:
    with pytest.raises(LabError, match="nosuchdevice"):
        lab.hosts[0].namespace.ip("link set nosuchdevice up")


@pytest.mark.parametrize("last_signal", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_laboratory_that_is_killed(last_signal: signal.Signals) -> None:
    owner = subprocess.Popen([sys.executable, "-c", BUSY_LAB], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert owner.stdout is not None
    folder, *processes = owner.stdout.readline().decode().split()
    sweep()
    assert Path(folder).exists(), "swept while in use"
    owner.send_signal(last_signal)
    owner.wait()
    owner.stdout.close()

    def gone() -> bool:
        return not any(alive(Path("/proc") / pid / "stat") for pid in processes)

    def swept() -> bool:
        """the folder is gone: at once, unless another laboratory is looking at it too"""
        sweep()
        return not Path(folder).exists()

    wait_until(gone, PATIENCE_S)
    wait_until(swept, PATIENCE_S)


def alive(stat: Path) -> bool:
    """Whether a process still runs: one that nobody waited for is dead all the same."""
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def status(name: str, node_id: int, successor: int, predecessor: int, state: str = "ready") -> Any:
    ring = {"successors": [f"{successor:040x}"], "predecessors": [f"{predecessor:040x}"]}
    return {"node": {"name": name, "id": f"{node_id:040x}", "state": state}, "ring": ring}


def test_the_onlooker_sees_what_is_wrong_with_a_ring() -> None:
    a, b, c = status("a", 1, 5, 9), status("b", 5, 9, 1), status("c", 9, 1, 5)
    assert ring_flaw([c, a, b]) == ""
    assert "a is joining" in ring_flaw([status("a", 1, 5, 9, state="joining"), b, c])
    assert "a has the successors" in ring_flaw([status("a", 1, 9, 9), b, c])
    assert "b has the predecessors" in ring_flaw([a, status("b", 5, 9, 9), c])


def test_an_outage_ends_with_the_first_reply_after_a_long_gap() -> None:
    assert last_outage_end([1.0, 1.5, 2.0, 2.5], since=1.2, until=3.0) == 0.0
    assert last_outage_end([1.0, 4.5, 5.0, 5.5], since=1.0, until=6.0) == 3.5
    assert last_outage_end([1.0, 4.5, 5.0], since=1.0, until=9.0) == float("inf")
