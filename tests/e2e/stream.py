"""A stream like a video's between socat and socat: one sender, receivers that join its group.

numbered frames -> socat, a datagram each -> TAP ... TAP -> socat -> one file a receiver: frame after frame
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from ipop.control import Client
from sims.lab.namespace import LabError, end
from tests.e2e.natted import NattedNetwork
from tests.patience import PATIENCE_S

PORT = 7700
NUMBER_BYTES = 4
# What comes while the machine does other things must not be lost here: SO_RCVBUFFORCE, before socat binds.
BUFFER = f"setsockopt-listen={socket.SOL_SOCKET}:33:x{(16 << 20).to_bytes(4, sys.byteorder).hex()}"
QUIET_S = 1.0


@dataclass(frozen=True, slots=True)
class Received:
    """What one receiver got: how often each number came, and how many frames were none that was sent."""

    came: Counter[int]
    foreign: int


def frame(number: int, size: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES, "big") + bytes(each % 251 for each in range(size - NUMBER_BYTES))


def send(network: NattedNetwork, name: str, group: str, count: int, per_s: float, size: int) -> float:
    """Send numbered frames to a multicast group or a broadcast address, paced; how long it took."""
    way = "broadcast" if group.endswith(".255") else f"ip-multicast-if={network.addresses[name]},ip-multicast-loop=0"
    command = ("socat", "-u", "-b", str(size), "-", f"UDP4-DATAGRAM:{group}:{PORT},{way}")
    process = network.lab.host(name).namespace.spawn(*command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdin is not None and process.stderr is not None
        payload = bytearray(frame(0, size))
        start = time.monotonic()
        for number in range(count):
            payload[:NUMBER_BYTES] = number.to_bytes(NUMBER_BYTES, "big")
            process.stdin.write(payload)
            process.stdin.flush()
            time.sleep(max(0.0, start + (number + 1) / per_s - time.monotonic()))
        took_s = time.monotonic() - start
        process.stdin.close()
        if process.wait(PATIENCE_S):
            raise LabError(f"socat failed to send to {group}: {process.stderr.read().decode(errors='replace')}")
        return took_s
    finally:
        end(process)


class Receivers:
    """Receivers of one group's frames of `size` bytes, on some hosts. A context; all have joined when it is entered."""

    def __init__(self, network: NattedNetwork, names: Sequence[str], group: str, size: int) -> None:
        self._network, self._group, self._size = network, group, size
        self._files = {name: network.lab.host(name).folder / "stream" for name in names}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Receivers:
        for name, file in self._files.items():
            file.write_bytes(b"")
            joined = f"ip-add-membership={self._group}:{self._network.addresses[name]}"
            waiting = f"UDP4-RECV:{PORT},reuseaddr,{BUFFER},{joined}"
            command = ("socat", "-u", "-b", "65536", waiting, f"OPEN:{file},append")
            self._processes.append(self._network.lab.host(name).namespace.spawn(*command))
        deadline = time.monotonic() + PATIENCE_S
        while not set(self._files) <= set(wanting(self._network, self._group)):
            if time.monotonic() > deadline:
                raise LabError(f"a node does not know that its host wants {self._group}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            end(process)

    def results(self) -> dict[str, Received]:
        """What each got, once nothing more comes."""
        sizes: list[int] = []
        while sizes != (sizes := [file.stat().st_size for file in self._files.values()]):
            time.sleep(QUIET_S)
        return {name: _read(file.read_bytes(), self._size) for name, file in self._files.items()}


class Watchers:
    """tcpdump on the TAPs of some hosts: what their nodes hand to their kernels for a group. A context."""

    def __init__(self, network: NattedNetwork, names: Sequence[str], group: str) -> None:
        self._processes = {
            name: network.lab.host(name).namespace.spawn(
                "tcpdump", "-n", "-i", network.lab.nodes[name].tap, "-Q", "in", "udp and dst", group,
                stderr=subprocess.PIPE,
            )
            for name in names
        }  # fmt: skip

    def __enter__(self) -> Watchers:
        for process in self._processes.values():
            assert process.stderr is not None
            while b"listening" not in (line := process.stderr.readline()):
                if not line:
                    raise LabError("tcpdump did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            end(process)

    def seen(self) -> dict[str, int]:
        """How many packets each saw. Ends them."""
        found = {}
        for name, process in self._processes.items():
            process.terminate()
            _, printed = process.communicate()
            counted = re.search(rb"(\d+) packets? captured", printed)
            if counted is None:
                raise LabError(f"tcpdump on {name} said: {printed.decode(errors='replace')}")
            found[name] = int(counted[1])
        return found


def wanting(network: NattedNetwork, group: str) -> list[str]:
    """The hosts where somebody wants a group, as their nodes know."""
    found = []
    for name in network.names:
        with Client(str(network.lab.host(name).control)) as client:
            if group in client.ask("groups")["multicast"]["wanted"]:
                found.append(name)
    return found


def _read(stream: bytes, size: int) -> Received:
    frames = [stream[at : at + size] for at in range(0, len(stream), size)]
    numbers = [int.from_bytes(each[:NUMBER_BYTES], "big") for each in frames]
    own = [number for number, each in zip(numbers, frames, strict=True) if each == frame(number, size)]
    return Received(Counter(own), len(frames) - len(own))
