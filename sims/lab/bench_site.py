"""Two machines and the wire between them †, for one measurement of one system by `make bench`.

The wire is one veth pair; or leads over a third machine, which carries nothing between the two but what it is asked to
(a relay), or whose bridge loses or delays packets. Everything ends with the site, see `sims.lab.namespace`.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from sims.lab.lab import FOLDER_PREFIX, locked, sweep, wait_until
from sims.lab.namespace import LabError, Namespace, end, run

LIMIT_S = 20.0
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
# Tables of /proc/net, and the state in them of a socket that waits for whoever comes.
LISTENING = (("udp", "07"), ("udp6", "07"), ("tcp", "0A"), ("tcp6", "0A"))
# Drops this many per million of the IP packets that a port receives. ARP stays whole: a lost question costs a second.
LOSS_RULES = """\
table netdev loss {{
    chain {port} {{
        type filter hook ingress device "{port}" priority 0
        meta protocol {{ ip, ip6 }} numgen random mod 1000000 < {per_million} drop
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Wire:
    """What happens to a packet on its way, in each direction."""

    loss_percent: float = 0.0
    delay_ms: float = 0.0

    @property
    def plain(self) -> bool:
        return not self.loss_percent and not self.delay_ms

    def __str__(self) -> str:
        loss = [f"{self.loss_percent:g} % loss"] if self.loss_percent else []
        delay = [f"{self.delay_ms:g} ms delay"] if self.delay_ms else []
        return f"{' and '.join(loss + delay)} each way" if loss or delay else "no loss, no delay"


class Machine:
    """One of the machines: a namespace, and its address on the wire."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.namespace = Namespace(name)
        self.underlay = f"198.18.0.{number}"

    def has_interface(self, name: str) -> bool:
        return any(line.strip().startswith(f"{name}:") for line in self._net("dev"))

    def listens_on(self, port: int) -> bool:
        """Whether a program here waits on this port, of UDP or TCP."""
        found = [line.split() for table, _ in LISTENING for line in self._net(table)]
        states = {state for _, state in LISTENING}
        return any(fields[1].endswith(f":{port:04X}") and fields[3] in states for fields in found)

    def sent_bytes(self, interface: str = "eth0") -> int:
        line = next(line for line in self._net("dev") if line.strip().startswith(f"{interface}:"))
        return int(line.split(":")[1].split()[8])

    def _net(self, table: str) -> list[str]:
        path = Path(f"/proc/{self.namespace.pid}/net/{table}")
        return path.read_text().splitlines() if path.exists() else []


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes of a tunnel have used so far: processor time of all, memory of the largest."""

    cpu_s: float
    rss_mb: float


class Site:
    """The machines near and far, and the relay between them if asked for. A context."""

    def __init__(self, wire: Wire, *, relay: bool = False) -> None:
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._lock = locked(self.folder)
        self.log_file = self.folder / "log"
        self._machines: list[Machine] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._tunnels: list[subprocess.Popen[bytes]] = []
        self.relay: Machine | None = None
        try:
            self.near, self.far = self._machine("near"), self._machine("far")
            if relay:
                self.relay = self._machine("relay")
                self._join_through_relay(self.relay)
            elif wire.plain:
                self.near.namespace.ip(f"link add eth0 type veth peer name eth0 netns {self.far.namespace.pid}")
            else:
                self._join_through_impairment(wire)
            for machine in (self.near, self.far):
                machine.namespace.ip("link set eth0 up", f"addr add {machine.underlay}/24 dev eth0")
            self._wait_for_bridges()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Site:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        """A file in the site's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def tool(self, *command: str | Path, stdin_text: str = "") -> str:
        """Run a command outside of all machines to its end; what it prints. Raises LabError when it fails."""
        words = [str(word) for word in command]
        return checked(run(words, LIMIT_S, stdin_text), words[0])

    def on(self, machine: Machine, *command: str | Path) -> str:
        """The same on one machine."""
        return checked(machine.namespace.run(*command, timeout_s=LIMIT_S), str(command[0]))

    def start(self, machine: Machine, *command: str | Path, environment: Mapping[str, str] | None = None) -> None:
        """Start a part of the tunnel. Its processor time and memory count."""
        with self.log_file.open("ab") as log:
            process = machine.namespace.spawn(*command, stdout=log, stderr=log, environment=environment)
        self.adopt(process)

    def adopt(self, process: subprocess.Popen[bytes]) -> None:
        """Take over a process that is a part of the tunnel."""
        self._processes.append(process)
        self._tunnels.append(process)

    def spawn(self, machine: Machine, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start anything else; its output, and its errors with it, can be read."""
        process = machine.namespace.spawn(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process

    def usage(self) -> Usage:
        """Of all parts of the tunnel together. Raises LabError when one has ended, as it shouldn't."""
        cpu_ticks, rss_kb = 0, [0]
        for process in self._tunnels:
            if process.poll() is not None:
                raise LabError(f"a process of the tunnel ended with code {process.returncode}: {self.last_words()}")
            # The name, in parentheses, may hold spaces; utime and stime are fields 14 and 15, counted from 1.
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            cpu_ticks += int(fields[11]) + int(fields[12])
            status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            rss_kb += [int(line.split()[1]) for line in status if line.startswith("VmRSS:")]
        return Usage(cpu_ticks / CLOCK_TICKS, max(rss_kb) * 1024 / 1e6)

    def tunnel_pids(self) -> list[int]:
        """The processes of the tunnel, in the order in which they were started."""
        return [process.pid for process in self._tunnels]

    def last_words(self) -> str:
        """The end of what the tunnel logged, on one line."""
        logs = sorted(self.folder.glob("**/log"))
        return " | ".join(line for log in logs for line in log.read_text(errors="replace").splitlines()[-4:])

    def close(self) -> None:
        """End everything. May be called twice."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            end(process)
        for machine in self._machines:
            machine.namespace.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _machine(self, name: str) -> Machine:
        machine = Machine(name, len(self._machines) + 1)
        self._machines.append(machine)
        return machine

    def _ports(self, middle: Machine) -> None:
        """A wire from the middle to each end."""
        middle.namespace.ip(
            f"link add name port0 type veth peer name eth0 netns {self.near.namespace.pid}",
            f"link add name port1 type veth peer name eth0 netns {self.far.namespace.pid}",
        )

    def _join_through_relay(self, relay: Machine) -> None:
        """Isolated ports of a bridge see its owner, but not each other."""
        self._ports(relay)
        relay.namespace.ip(
            "link add name br0 type bridge mcast_snooping 0",
            f"addr add {relay.underlay}/24 dev br0",
            "link set port0 master br0 up",
            "link set port1 master br0 up",
            "link set br0 up",
        )
        for port in ("port0", "port1"):
            self.on(relay, "bridge", "link", "set", "dev", port, "isolated", "on")

    def _join_through_impairment(self, wire: Wire) -> None:
        middle = self._machine("wire")
        self._ports(middle)
        bridges = ("br0", "br1") if wire.delay_ms else ("br0", "br0")
        for bridge in sorted(set(bridges)):
            middle.namespace.ip(f"link add name {bridge} type bridge mcast_snooping 0", f"link set {bridge} up")
        for port, bridge in zip(("port0", "port1"), bridges, strict=True):
            middle.namespace.ip(f"link set {port} master {bridge} up")
        if wire.delay_ms:
            self._delay(middle, wire.delay_ms / 1000)
        if wire.loss_percent:
            self._lose(middle, wire.loss_percent)

    def _delay(self, middle: Machine, seconds: float) -> None:
        process = self.spawn(middle, sys.executable, "-m", "sims.lab.wire", "delay", str(seconds))
        wait_for_line(process, "ready")
        middle.namespace.ip("link set tap0 master br0 up", "link set tap1 master br1 up")

    def _lose(self, middle: Machine, percent: float) -> None:
        """Lose packets of at most the wire's MTU, one by one: what crosses a veth pair else is up to 64 KiB long."""
        # The ports must not merge: what is lost would be a super-packet.
        ends = [(self.near, "card", "eth0"), (self.far, "card", "eth0")]
        for machine, kind, interface in [*ends, (middle, "port", "port0"), (middle, "port", "port1")]:
            done = machine.namespace.run(sys.executable, "-m", "sims.lab.bench_card", kind, interface)
            checked(done, f"setting the offloads of {interface}")
        rules = "".join(LOSS_RULES.format(port=port, per_million=round(percent * 1e4)) for port in ("port0", "port1"))
        checked(middle.namespace.run("nft", "-f", "-", stdin_text=rules), "nft")

    def _wait_for_bridges(self) -> None:
        for machine in self._machines[2:]:

            def up(machine: Machine = machine) -> bool:
                """every port of the bridge forwards"""
                states = [line for line in machine.namespace.run("bridge", "link").stdout.splitlines() if line.strip()]
                return bool(states) and all("state forwarding" in line for line in states)

            wait_until(up, LIMIT_S)


def checked(done: subprocess.CompletedProcess[str], what: str) -> str:
    """What a command printed. Raises LabError when it failed."""
    if done.returncode != 0:
        raise LabError(f"{what} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def wait_for_line(process: subprocess.Popen[bytes], text: str) -> None:
    """Wait for the first line that the process prints, which is to be `text`."""
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], LIMIT_S)
    line = process.stdout.readline().decode(errors="replace").strip() if readable else ""
    if line != text:
        raise LabError(f"{line!r} instead of {text!r} from {process.args!r}")
