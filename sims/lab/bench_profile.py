"""Where the time of the data path goes †: microseconds of processor time per segment, for each end, by kind of work.

    python -m sims.lab.bench_profile [--secs 5] [--streams 1] [--loss 0]

One TCP stream (or several) from the near machine to the far one, both ends sampled by `perf` while it lasts. A segment
is one sealed datagram that carries TCP data; what its acknowledgement costs is in the figure. Without `perf` there is
only the kernel's own account of user and system time. The samples tell shares; the processor time is the kernel's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sims.lab.bench_measure import Effort, Measurement
from sims.lab.bench_site import CLOCK_TICKS, Site, Wire
from sims.lab.bench_systems import p2pvpn
from sims.lab.lab import COMMAND
from sims.lab.namespace import LabError

SAMPLES_PER_S = 2000
PERF_LIMIT_S = 30.0
KINDS = ("kernel", "AEAD", "Python", "memory, libc", "other")

# By the file that the sampled code is in, the first that fits.
_KIND_OF_FILE = (
    (re.compile(r"^\[(kernel|guest)"), "kernel"),
    (re.compile(r"^\[(vdso|vsyscall)"), "memory, libc"),
    (re.compile(r"_rust\.|libcrypto|_openssl"), "AEAD"),
    (re.compile(r"libpython|^python|cpython"), "Python"),
    (re.compile(r"^(libc|ld-linux|libm|libpthread)\b"), "memory, libc"),
)
_LINE = re.compile(r"^\s*(\d+(?:\.\d+)?)%\s+(\S.*?)\s*$", re.MULTILINE)


def shares(report: str) -> dict[str, float]:
    """The share of each kind, of 1, from what `perf report --sort dso` prints; empty when it has no samples."""
    found = dict.fromkeys(KINDS, 0.0)
    for percent, file in _LINE.findall(report):
        kind = next((kind for pattern, kind in _KIND_OF_FILE if pattern.search(file)), "other")
        found[kind] += float(percent)
    total = sum(found.values())
    return {kind: value / total for kind, value in found.items()} if total else {}


def table(rows: Mapping[str, tuple[float, float, int, Mapping[str, float]]]) -> str:
    """`rows`: for each end its user and system seconds, its segments, and its shares."""
    heading = ["µs per segment", "all", "user", "system", *KINDS]
    lines = [heading]
    for name, (user_s, system_s, segments, parts) in rows.items():
        scale = 1e6 / max(1, segments)
        times = [user_s + system_s, user_s, system_s]
        cells = [f"{seconds * scale:.2f}" for seconds in times]
        cells += [f"{parts[kind] * times[0] * scale:.2f}" if parts else "-" for kind in KINDS]
        lines.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def cpu_s(pid: int) -> tuple[float, float]:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / CLOCK_TICKS, int(fields[12]) / CLOCK_TICKS


def segments(site: Site) -> int:
    """How many packets the busier end has sent so far: of a stream, that is the sender."""
    states: list[dict[str, Any]] = [
        json.loads(site.tool(COMMAND, "status", "--json", "--control", control))
        for control in sorted(site.folder.glob("*/control"))
    ]
    return max((int(state["counters"]["packets_out"]) for state in states), default=0)


def profile(wire: Wire, secs: int, streams: int) -> str:
    """The table. Raises LabError when something does not work."""
    with Site(wire) as site:
        measurement = Measurement(site, p2pvpn(site), Effort(secs, 1.0, 50))
        measurement.start_up()
        measurement.settle()
        far, near = site.tunnel_pids()
        ends = {"sender": near, "receiver": far}
        recorders = []
        if shutil.which("perf"):
            for name, pid in ends.items():
                output = site.folder / f"{name}.perf"
                how = ("-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "-p", str(pid), "-o", str(output))
                recorders.append(site.spawn(site.near, "perf", "record", *how, "--", "sleep", str(secs)))
        before, sent_before, start = {name: cpu_s(pid) for name, pid in ends.items()}, segments(site), time.monotonic()
        rate = measurement.tcp("-P", str(streams)).mbit_per_s
        taken_s = time.monotonic() - start
        after, count = {name: cpu_s(pid) for name, pid in ends.items()}, segments(site) - sent_before
        rows = {}
        for recorder in recorders:
            recorder.wait(PERF_LIMIT_S)
        for name in ends:
            parts: dict[str, float] = {}
            if recorders:
                parts = shares(
                    site.tool("perf", "report", "--stdio", "--sort", "dso", "-i", site.folder / f"{name}.perf")
                )
            (user, system), (user_before, system_before) = after[name], before[name]
            rows[name] = (user - user_before, system - system_before, count, parts)
        note = "" if recorders else "; perf is not installed, so user and system is all there is"
        return f"{table(rows)}\n\n{streams} TCP, {rate:.0f} Mbit/s, {count} segments in {taken_s:.1f} s, {wire}{note}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--secs", type=int, default=5, metavar="S", help="how long the stream lasts (5)")
    parser.add_argument("--streams", type=int, default=1, metavar="N", help="how many at once (1)")
    parser.add_argument("--loss", type=float, default=0.0, metavar="PERCENT", help="of packets lost, each way")
    options = parser.parse_args()
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        print(profile(Wire(options.loss), options.secs, options.streams))
    except LabError as error:
        print(f"bench_profile: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
