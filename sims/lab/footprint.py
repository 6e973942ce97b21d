"""`make footprint` †: what one idle `p2pvpn up` costs its machine, and what every peer adds.

Starts one real node in a namespace, and in another a growing crowd of nodes of the same ring (`sims.lab.crowd`).
At every size of the crowd the node is left alone for a while, which gives its processor time and its traffic as
/proc/net/dev of its interface counts it (Ethernet headers, ARP and all); then every other node pings it.

    python -m sims.lab.footprint [--peers 2,10,30,100] [--seconds 60]
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipop.authority_files import issue
from sims.lab.lab import PORT, TOOLS, Lab
from sims.lab.namespace import LabError, missing_tools
from sims.lab.node import LabNode

SETTLE_S = 15.0  # Joining is over: fingers are found, records have their replicas.
PING_S = 10.0
GROW_LIMIT_S = 180.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

# The goals of the project, for an idle node and in a ring of 100 where the ring's size matters.
GOAL_RSS_KB = 40_000_000 // 1024
GOAL_PEER_KB = 20_000 / 1024
GOAL_CPU_S_PER_MINUTE = 0.3
GOAL_SENT_BYTES_PER_S = 200.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far, and what its network namespace has carried."""

    at_s: float
    rss_kb: int
    own_kb: int  # The part of it that is no file's.
    cpu_s: float
    sent_bytes: int
    received_bytes: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        # The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15, counted from 1.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
        moved = next(line.split(":")[1].split() for line in lines if line.strip().startswith("eth0:"))
        return cls(
            at_s=time.monotonic(),
            rss_kb=int(status["VmRSS"].split()[0]),
            own_kb=int(status["RssAnon"].split()[0]),
            cpu_s=(int(fields[11]) + int(fields[12])) / CLOCK_TICKS,
            sent_bytes=int(moved[8]),
            received_bytes=int(moved[0]),
        )


class Crowd:
    """The process with all the other nodes."""

    def __init__(self, lab: Lab, node: LabNode) -> None:
        first, self._host = lab.hosts
        self._lab = lab
        bootstrap = f"{first.underlay4}:{PORT}"
        command = (sys.executable, "-m", "sims.lab.crowd", self._host.underlay4, bootstrap, node.address)
        self._log = (self._host.folder / "log").open("ab")
        self._process = self._host.namespace.spawn(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self._size = 0

    def grow(self, size: int) -> None:
        """Add nodes until there are so many, and wait until they are one ring."""
        bundles = [self._host.folder / f"crowd{number}" for number in range(self._size, size)]
        for bundle in bundles:
            issue(bundle.name, self._lab.folder / "lab.ca", bundle)
        answer = self._ask(f"grow {' '.join(map(str, bundles))}", GROW_LIMIT_S)
        if answer != str(size):
            raise LabError(f"the crowd did not grow to {size}: {answer or self._last_words()}")
        self._size = size

    def ping(self, seconds: float) -> None:
        """Let all of them ping the real node."""
        answer = self._ask(f"ping {seconds}", seconds + GROW_LIMIT_S)
        if answer != str(self._size):
            raise LabError(f"{answer or 'none'} of {self._size} nodes had a reply: {self._last_words()}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # They leave the ring in order.
        self._process.wait(GROW_LIMIT_S)
        self._log.close()

    def _ask(self, command: str, limit_s: float) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        readable, _, _ = select.select([self._process.stdout], [], [], limit_s)
        return self._process.stdout.readline().decode().strip() if readable else ""

    def _last_words(self) -> str:
        return (self._host.folder / "log").read_text(errors="replace")[-500:]


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one size of the crowd."""

    peers: int
    idle: Usage  # At the end of the idle time.
    cpu_s_per_minute: float
    sent_bytes_per_s: float
    received_bytes_per_s: float
    active: Usage  # While everybody was pinging.

    def __str__(self) -> str:
        return (
            f"{self.peers:5}  {self.idle.rss_kb:8}  {self.idle.own_kb:9}  {self.active.rss_kb:10}"
            f"  {self.cpu_s_per_minute:9.2f}  {self.sent_bytes_per_s:8.0f}  {self.received_bytes_per_s:12.0f}"
        )


HEADING = "peers  idle RSS  of it own  active RSS  CPU s/min  sent B/s  received B/s      (RSS in kB of 1024 bytes)"


def measure(node: LabNode, crowd: Crowd, peers: int, seconds: float) -> Row:
    crowd.grow(peers)
    time.sleep(SETTLE_S)
    before = Usage.of(node.process.pid)
    time.sleep(seconds)
    idle = Usage.of(node.process.pid)
    crowd.ping(PING_S)
    took_s = idle.at_s - before.at_s
    return Row(
        peers,
        idle,
        (idle.cpu_s - before.cpu_s) * 60 / took_s,
        (idle.sent_bytes - before.sent_bytes) / took_s,
        (idle.received_bytes - before.received_bytes) / took_s,
        Usage.of(node.process.pid),
    )


def summary(rows: Sequence[Row]) -> str:
    """The last rows against the goals."""
    few, many = rows[0], rows[-1]
    text = (
        f"with {many.peers} peers, idle: RSS {many.idle.rss_kb} kB (goal {GOAL_RSS_KB}), CPU"
        f" {many.cpu_s_per_minute:.2f} s/min (goal {GOAL_CPU_S_PER_MINUTE}), sent {many.sent_bytes_per_s:.0f} B/s"
        f" (goal {GOAL_SENT_BYTES_PER_S:.0f})"
    )
    if many.peers == few.peers:
        return text
    peer_kb = (many.active.rss_kb - few.active.rss_kb) / (many.peers - few.peers)
    return f"{text}\nevery additional active peer: {peer_kb:.1f} kB (goal {GOAL_PEER_KB:.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", default="2,10,30,100", metavar="N,...", help="sizes of the crowd")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="how long to stay idle at each size")
    options = parser.parse_args()
    sizes = sorted({int(text) for text in options.peers.split(",")})
    rows: list[Row] = []
    try:
        if missing := missing_tools(TOOLS):
            raise LabError(f"these commands are missing: {' '.join(missing)}")
        with Lab(["measured", "crowd"]) as lab:
            lab.issue_all()
            node = lab.start(lab.hosts[0]).wait_ready()
            crowd = Crowd(lab, node)
            print(HEADING, flush=True)
            for size in sizes:
                rows.append(measure(node, crowd, size, options.seconds))
                print(rows[-1], flush=True)
            crowd.close()
    except LabError as error:
        print(f"footprint: {error}", file=sys.stderr)
        return 1
    print(summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
