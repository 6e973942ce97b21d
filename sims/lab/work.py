"""What people do on a virtual network †, and what an onlooker checks: pings, downloads, the shape of the ring."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sims.lab.lab import Lab, LabHost
from sims.lab.namespace import LabError
from sims.lab.node import LabNode

WEB_PORT = 8080
CHUNK_BYTES = 1 << 16


def statuses(nodes: Sequence[LabNode]) -> list[Any]:
    """The status of every node."""
    return [node.status() for node in nodes]


def in_ring_order(found: Iterable[Any]) -> list[Any]:
    """Statuses sorted by node id: who comes after whom clockwise. The last is followed by the first."""
    return sorted(found, key=lambda status: int(status["node"]["id"], 16))


def ring_flaw(found: Sequence[Any]) -> str:
    """Why these nodes are not one ring in id order; empty when they are."""
    ring = in_ring_order(found)
    for status, after in pairwise([*ring, ring[0]]):
        name, node_id = status["node"]["name"], status["node"]["id"]
        successors, predecessors = status["ring"]["successors"], after["ring"]["predecessors"]
        if status["node"]["state"] != "ready":
            return f"{name} is {status['node']['state']}"
        if successors[:1] != [after["node"]["id"]]:
            return f"{name} has the successors {successors}, not {after['node']['name']} ({after['node']['id']}) first"
        if predecessors[:1] != [node_id]:
            return f"{after['node']['name']} has the predecessors {predecessors}, not {name} ({node_id}) first"
    return ""


def wait_for_ring(nodes: Sequence[LabNode], limit_s: float) -> list[Any]:
    """Wait until the nodes form one ring, and give their statuses in ring order."""
    deadline = time.monotonic() + limit_s
    while flaw := ring_flaw(found := statuses(nodes)):
        if time.monotonic() > deadline:
            raise LabError(f"not one ring within {limit_s} s: {flaw}")
        time.sleep(0.1)
    return in_ring_order(found)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A ping that got no reply in time."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


def ping_all(pairs: Iterable[tuple[LabHost, str]], limit_s: float) -> list[Unanswered]:
    """Ping every target from its host, all at once, each until its first reply; those that got none in time."""
    running = []
    for host, target in pairs:
        again = f"until ping -q -n -c 1 -W 1 {target}; do sleep 0.1; done"
        running.append((host, target, host.namespace.spawn("sh", "-c", again)))
    deadline = time.monotonic() + limit_s
    failed = []
    for host, target, process in running:
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code != 0:
            failed.append(Unanswered(host.name, target))
    return failed


def make_file(path: Path, size_bytes: int, seed: int, canary: bytes = b"") -> str:
    """Write `size_bytes` of noise, the canary at the start of every chunk; the SHA-256 of it all."""
    rng = random.Random(seed)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, size_bytes, CHUNK_BYTES):
            length = min(CHUNK_BYTES, size_bytes - start)
            chunk = (canary + rng.randbytes(length - min(length, len(canary))))[:length]
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def serve(lab: Lab, host: LabHost, address: str, folder: Path) -> subprocess.Popen[bytes]:
    """A web server for the files of `folder` on one address of a host."""
    command = (sys.executable, "-m", "http.server", str(WEB_PORT), "--bind", address, "--directory", folder)
    return lab.spawn(host, *command)


def fetch(host: LabHost, address: str, name: str, to: Path, limit_s: float) -> float:
    """Download a file from `serve` over HTTP; how many seconds it took. Raises LabError with curl's reason."""
    web = f"[{address}]" if ":" in address else address
    url = f"http://{web}:{WEB_PORT}/{name}"
    command = ("curl", "-sS", "--fail", "--noproxy", "*", "--retry", "20", "--retry-delay", "1", "--retry-connrefused")
    start = time.monotonic()
    done = host.namespace.run(*command, "--max-time", str(round(limit_s)), "-o", to, url, timeout_s=limit_s + 30)
    if done.returncode != 0:
        raise LabError(f"{host.name} could not fetch {url}: {done.stderr.strip()}")
    return time.monotonic() - start
