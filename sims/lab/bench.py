"""`make bench` †: p2pvpn beside the other tunnels that this machine has, in one table.

Two namespaces and one veth pair for each system, which is alone on the machine while it is measured; the rounds
interleave the systems, so that a slow minute of the machine hits all of them; the table has the medians. The results
go to standard output, progress goes to standard error. Exit code 1: something could not be measured.

    python -m sims.lab.bench [--systems NAME,...] [--rounds 3] [--secs 4] [--quick] [--loss 1] [--delay 20]
                             [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from sims.lab.bench_measure import Effort, measure
from sims.lab.bench_parse import LOSS_ALLOWED
from sims.lab.bench_site import Wire
from sims.lab.bench_systems import SYSTEMS, System
from sims.lab.bench_table import Sample, medians, ratios, table
from sims.lab.lab import TOOLS
from sims.lab.namespace import LabError, missing_tools, run

LEGEND = f"""\
->  from the near machine to the far one; <- back. RTT: idle, then while one TCP stream flows ->.
UDP: the highest rate at which at most {LOSS_ALLOWED:.1%} were lost. CPU: user and system time of all processes
of the tunnel on all machines, per GB of TCP 1, both directions. RSS: the largest process. start: from starting
the near machine's part, with all others up, until its first ping is answered."""


class Interrupted(BaseException):
    """A signal asked for the end. Not a LabError: no system is to blame, and no other comes after it."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def interrupted(number: int, _frame: FrameType | None) -> None:
    # Once: a second Ctrl-C must not cut the cleaning short.
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--systems", metavar="NAME,...", help=f"of: {', '.join(SYSTEMS)}; else all that are installed")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each is measured (3)")
    parser.add_argument("--secs", type=int, default=4, metavar="S", help="how long each TCP measurement takes (4)")
    parser.add_argument("--quick", action="store_true", help="one short round, for a first look")
    parser.add_argument("--loss", type=float, default=0.0, metavar="PERCENT", help="of packets lost, each way")
    parser.add_argument("--delay", type=float, default=0.0, metavar="MS", help="of packets, each way")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all samples, medians and ratios")
    options = parser.parse_args()
    if options.rounds < 1 or options.secs < 1 or not 0 <= options.loss < 100 or options.delay < 0:
        parser.error("rounds and seconds are at least 1; the loss is below 100 %, the delay not negative")
    if options.quick:
        options.rounds, options.secs = 1, 1
    if unknown := set((options.systems or "").split(",")) - {"", *SYSTEMS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def choose(names: str | None, wire: Wire) -> list[System]:
    """The systems to measure; says which can't be. Raises LabError when one that was asked for is missing."""
    asked = [SYSTEMS[name] for name in names.split(",") if name] if names else list(SYSTEMS.values())
    if not wire.plain:
        # The relay's site has wires of its own.
        asked = [system for system in asked if not system.relay]
    absent = [system for system in asked if system.missing()]
    if absent:
        packages = " ".join(package for system in absent for package in system.packages)
        text = f"not installed: {', '.join(system.name for system in absent)}; to add: apt install {packages}"
        if names:
            raise LabError(text)
        say(text)
    return [system for system in asked if system not in absent]


def must_have(wire: Wire) -> None:
    """Raise LabError when the machine lacks what every measurement needs."""
    packages = {"iperf3": "iperf3", "ping": "iputils-ping", "nft": "nftables"}
    tools = [*TOOLS, "iperf3", "ping", *(["nft"] if wire.loss_percent else [])]
    if missing := missing_tools(tools):
        names = " ".join(packages.get(name, name) for name in missing)
        raise LabError(f"these commands are missing: {' '.join(missing)}; to add: apt install {names}")


def measure_all(
    systems: Sequence[System], rounds: int, wire: Wire, effort: Effort
) -> tuple[dict[str, list[Sample]], dict[str, list[str]]]:
    """The samples of each system, and why those that are missing are."""
    samples: dict[str, list[Sample]] = {}
    failures: dict[str, list[str]] = {}
    for number in range(1, rounds + 1):
        for system in systems:
            start = time.monotonic()
            try:
                samples.setdefault(system.name, []).append(measure(system, wire, effort))
                outcome = "done"
            except LabError as error:
                failures.setdefault(system.name, []).append(str(error))
                outcome = f"FAILED: {error}"
            say(f"round {number}/{rounds}  {system.name:<16}  {time.monotonic() - start:5.1f} s  {outcome}")
    return {name: found for name, found in samples.items() if found}, failures


def versions(systems: Iterable[System]) -> dict[str, str]:
    """Of Debian's packages, where dpkg knows."""
    packages = sorted({package for system in systems for package in system.packages})
    if not packages or shutil.which("dpkg-query") is None:
        return {}
    printed = run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *packages], 10).stdout
    return dict(line.split(" ", 1) for line in printed.splitlines())


def machine() -> dict[str, Any]:
    """What the figures hang on beside the programs."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "tcp": congestion,
    }


def bench(options: argparse.Namespace) -> int:
    wire = Wire(options.loss, options.delay)
    must_have(wire)
    systems = choose(options.systems, wire)
    effort = Effort(options.secs, 0.3 if options.quick else 1.0, 100 if options.quick else 500)
    samples, failures = measure_all(systems, options.rounds, wire, effort)
    rows = {name: medians(found) for name, found in samples.items()}
    found = ratios(rows, plain_wire=wire.plain)
    about, installed = machine(), versions(systems)
    print(f"\nwire: {wire}; medians of {options.rounds} rounds; {', '.join(f'{k} {v}' for k, v in about.items())}")
    if installed:
        print(", ".join(f"{package} {version}" for package, version in installed.items()))
    print(f"\n{table(rows)}\n\n{LEGEND}\n")
    for ratio in found:
        print(ratio)
    for name, reasons in failures.items():
        print(f"{name} failed {len(reasons)} of {options.rounds} times: {reasons[-1]}")
    if options.json:
        report = {
            "wire": {"loss_percent": wire.loss_percent, "delay_ms": wire.delay_ms},
            "rounds": options.rounds,
            "secs": options.secs,
            "machine": about,
            "versions": installed,
            "medians": rows,
            "ratios": [
                {"what": ratio.what, "value": ratio.value, "goal": ratio.goal, "met": ratio.met} for ratio in found
            ],
            "samples": samples,
            "failures": failures,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failures or not samples else 0


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        return bench(options)
    except LabError as error:
        say(f"bench: {error}")
    except Interrupted as signal_name:
        say(f"bench: interrupted by {signal_name}; nothing is left behind")
    return 1


if __name__ == "__main__":
    sys.exit(main())
