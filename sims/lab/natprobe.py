"""How a NAT behaves, and whether a hole can be punched, tried for real in a laboratory †.

    with Probes(lab) as probes:
        probes.classify([lab.host("sym")])          # {"sym": NatBehaviour(...)}
        probes.punch([("port", "sym")])             # {("port", "sym"): False}

`classify` finds mapping, filtering, port preservation and hairpinning as RFC 4787 names them; `punch` has two hosts
send to where a third saw each other, and to where they then hear each other from. Both are `sims.nat_probe`, which
judges simulated boxes too, over the product's real host. No p2pvpn is in it: this is what the network itself allows.
"""

from __future__ import annotations

import json
import secrets
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from sims.lab.namespace import LabError, Namespace, end
from sims.lab.natlab import NatLab
from sims.lab.site import NatHost
from sims.nat_probe import NONCE_BYTES

PUNCH_LIMIT_S = 4.0
FIRST_PUNCH_PORT = 40_010
ANSWER_LIMIT_S = 60.0


class Dependence(StrEnum):
    """What decides a mapping's outside port, or whom a port is open for, beside the inside address and port."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


DEPENDENCES = dict(zip(("EI", "AD", "APD"), Dependence, strict=True))


@dataclass(frozen=True, slots=True)
class NatBehaviour:
    """What is between a host and the internet. `translated`: others see an address that isn't its own."""

    mapping: Dependence
    filtering: Dependence
    translated: bool
    keeps_port: bool
    hairpins: bool


class Probes:
    """Two third parties on the laboratory's internet, and the programs on the hosts that ask them. A context."""

    def __init__(self, lab: NatLab) -> None:
        self.lab = lab
        self._namespaces: list[Namespace] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._servers: list[tuple[str, str]] = []
        try:
            for number in range(2):
                self._namespaces.append(Namespace(f"probe server {number}"))
                self._servers.append(lab.internet.join(self._namespaces[-1]))
            lab.wait_for_wires()
            (one4, one6), (other4, other6) = self._servers
            for number, namespace in enumerate(self._namespaces):
                read_line(self._spawn(namespace, "serve", str(number), one4, other4, one6, other6))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def classify(self, hosts: Iterable[NatHost]) -> dict[str, NatBehaviour | None]:
        """The behaviour of each host's way to the internet, by the host's name; None where no UDP passes."""
        asking = [
            (
                host.name,
                self._spawn(
                    host.namespace, "classify", *(four if host.underlay4 else six for four, six in self._servers)
                ),
            )
            for host in hosts
        ]
        return {name: behaviour(read_line(process)) for name, process in asking}

    def punch(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """Whether the hosts of each pair, by name, could be made to hear each other. All pairs at once."""
        sessions = {pair: secrets.token_hex(NONCE_BYTES) for pair in pairs}
        tasks: dict[str, list[str]] = {}
        for number, (pair, session) in enumerate(sessions.items()):
            for name in pair:
                # A port for each pair: what a host's NAT has learnt must not count.
                tasks.setdefault(name, []).append(f"{FIRST_PUNCH_PORT + number}={session}")
        ends = [
            self._spawn(self.lab.host(name).namespace, "punch", str(PUNCH_LIMIT_S), *self._servers[0], *words)
            for name, words in tasks.items()
        ]
        for process in ends:
            read_line(process)
        for process in ends:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
        heard = Counter(session for process in ends for session in json.loads(read_line(process)))
        return {pair: heard[session] == len(pair) for pair, session in sessions.items()}

    def close(self) -> None:
        for process in self._processes:
            end(process)
        for namespace in self._namespaces:
            namespace.close()

    def _spawn(self, namespace: Namespace, *words: str) -> subprocess.Popen[bytes]:
        process = namespace.spawn(
            sys.executable, "-m", "sims.lab.natprobe_end", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._processes.append(process)
        return process


def classify(lab: NatLab, host: NatHost) -> NatBehaviour | None:
    """The behaviour of one host's way to the internet."""
    with Probes(lab) as probes:
        return probes.classify([host])[host.name]


def punch(lab: NatLab, a: str, b: str) -> bool:
    """Whether two hosts, by name, could be made to hear each other."""
    with Probes(lab) as probes:
        return probes.punch([(a, b)])[a, b]


def behaviour(line: str) -> NatBehaviour | None:
    """What `natprobe_end classify` printed."""
    if (found := json.loads(line)) is None:
        return None
    mapping, filtering = DEPENDENCES[found.pop("mapping")], DEPENDENCES[found.pop("filtering")]
    return NatBehaviour(mapping=mapping, filtering=filtering, **found)


def read_line(process: subprocess.Popen[bytes]) -> str:
    """The next line a probe prints. Raises LabError when none comes."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], ANSWER_LIMIT_S)
    line = process.stdout.readline().decode().strip() if readable else ""
    if not line:
        raise LabError(f"no answer from a probe: {process.args!r}")
    return line
