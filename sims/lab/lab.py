"""Hosts †, each a namespace of this machine, with the real `p2pvpn` command on them; here all on one switch.

    with Lab(["alpha", "beta"]) as lab:
        lab.issue_all()
        for host in lab.hosts:
            lab.start(host)
        ...

Hosts have the underlay addresses 198.18.0.1, .2 and so on (the range set aside for benchmarks), and
fd18::1, fd18::2. The laboratory with NATs, firewalls and bad lines is `sims.lab.natlab`. A laboratory leaves nothing
behind: namespaces, devices and processes end with it (see `sims.lab.namespace`), its folder is removed on exit, or by
the next laboratory when this one was killed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from sims.lab.namespace import LabError, Namespace, end, missing_tools, run
from sims.lab.node import LabNode

if TYPE_CHECKING:
    from dht.certificate import Member

TOOLS = ("ip", "bridge", "nsenter", "unshare", "setpriv")
FOLDER_PREFIX = "p2pvpn-lab-"
PORT = 7000
SUBNET = "10.77.0.0/16"
COMMAND_LIMIT_S = 60.0
WIRES_LIMIT_S = 30.0
# A hardware address that nobody has: frames to it are lost in silence, as on a path that doesn't work.
NOWHERE = "02:00:00:00:00:01"
# The command installed beside this Python, whatever else may be on the PATH.
COMMAND = Path(sys.executable).with_name("p2pvpn")


class LabHost:
    """One machine of the laboratory: a namespace with one interface, `eth0`."""

    def __init__(self, name: str, number: int, folder: Path) -> None:
        self.name = name
        self.number = number
        self.folder = folder
        self.folder.mkdir()
        self.namespace = Namespace(name)
        self.underlay4 = f"198.18.0.{number}"
        self.underlay6 = f"fd18::{number:x}"
        self.port = PORT

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def member(self) -> Member:
        """What its certificate says: node id and virtual addresses."""
        from ipop.bundle import Bundle  # noqa: PLC0415 - heavy, and not for commands that only want to know the place

        return Bundle.from_text(self.bundle.read_text()).member

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def control(self) -> Path:
        return self.folder / "control"

    def readdress(self, last: int) -> None:
        """Leave every underlay address and take those that end in `last`, as after a move to another network."""
        self.namespace.ip(
            f"addr del {self.underlay4}/24 dev eth0",
            f"addr del {self.underlay6}/64 dev eth0",
            f"addr add 198.18.0.{last}/24 dev eth0",
            f"addr add fd18::{last:x}/64 dev eth0 nodad",
        )
        self.underlay4, self.underlay6 = f"198.18.0.{last}", f"fd18::{last:x}"

    def moved_bytes(self) -> int:
        """Bytes that crossed this host's interface in either direction since the laboratory was made."""
        lines = self.namespace.run("cat", "/proc/net/dev").stdout.splitlines()
        counts = next(line.split(":")[1].split() for line in lines if line.strip().startswith("eth0:"))
        return int(counts[0]) + int(counts[8])


class Laboratory:
    """What every laboratory is: a folder, hosts, nodes and other programs on them. Use as a context; `close` when that
    isn't possible."""

    def __init__(self, tools: Sequence[str], subnet: str) -> None:
        if missing := missing_tools(tools):
            raise LabError(f"the laboratory needs these commands: {' '.join(missing)}")
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        self._lock = locked(self.folder)
        self.subnet = subnet
        self._nodes: list[LabNode] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def hosts(self) -> Sequence[LabHost]:
        """Its machines, in the order they were made."""
        raise NotImplementedError

    def bootstraps_of(self, host: LabHost) -> Sequence[str]:
        """What a node on this host is told of the others, unless told otherwise: where the first host is."""
        first = self.hosts[0]
        return () if host is first else (f"{first.underlay4}:{first.port}",)

    def p2pvpn(self, *words: str | Path, host: LabHost | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, on a host when one is named."""
        command = [COMMAND, *words]
        if host is not None:
            return host.namespace.run(*command, timeout_s=COMMAND_LIMIT_S)
        return run([str(word) for word in command], COMMAND_LIMIT_S)

    def issue_all(self) -> None:
        """Make a network, and a bundle for every host that has none."""
        authority = self.folder / "lab.ca"
        if not authority.exists():
            self._must("init", "lab", "--subnet", self.subnet, "--dir", self.folder)

        def issue(host: LabHost) -> None:
            self._must("issue", host.name, "--ca", authority, "--out", host.bundle)

        new = [host for host in self.hosts if not host.bundle.exists()]
        # The first alone, so that it has the first address; the authority lets the others wait for each other.
        for host in new[:1]:
            issue(host)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(issue, new[1:]))

    def _must(self, *words: str | Path) -> None:
        done = self.p2pvpn(*words)
        if done.returncode != 0:
            raise LabError(f"p2pvpn {words[0]} failed: {done.stderr.strip()}")

    def start(
        self,
        host: LabHost,
        *options: str,
        bootstraps: Sequence[str] | None = None,
        finds: Sequence[str] = (),
    ) -> LabNode:
        """Start `p2pvpn up` on a host; it knows what `bootstraps_of` says, unless told otherwise.

        It knows nothing else: of "portmap" and "lan" only those in `finds` are left on, for on one switch everybody
        would find everybody."""
        if bootstraps is None:
            bootstraps = self.bootstraps_of(host)
        words: list[str | Path] = ["up", host.bundle, "--state", host.state, "--control", host.control]
        if "--listen" not in options:
            words += ["--listen", f"0.0.0.0:{host.port}"]
        for bootstrap in bootstraps:
            words += ["--bootstrap", bootstrap]
        words += [f"--no-{way}" for way in ("portmap", "lan") if way not in finds]
        node = LabNode(host.name, host.namespace, [COMMAND, *words, *options], host.folder, [COMMAND])
        self._nodes.append(node)
        return node

    def spawn(self, host: LabHost, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start another program on a host; it ends with the laboratory at the latest."""
        process = host.namespace.spawn(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process

    def last_words(self, lines: int = 5) -> str:
        """The end of every node's log, for a person who looks for what went wrong."""
        logs = {node.name: node.log().splitlines()[-lines:] for node in self._nodes}
        return "\n".join(f"{name}: {line}" for name, last in logs.items() for line in last)

    def close(self) -> None:
        """End everything, nodes first so that they can leave properly. May be called twice."""
        for node in self._nodes:
            node.ask_to_stop()
        for node in self._nodes:
            node.close()
        for process in self._processes:
            end(process)
        for host in self.hosts:
            host.namespace.close()
        self._dismantle()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _dismantle(self) -> None:
        """Remove what is between the hosts, as far as it has been made."""
        raise NotImplementedError


class Lab(Laboratory):
    """A switch and hosts on it."""

    def __init__(self, names: Sequence[str], *, subnet: str = SUBNET) -> None:
        super().__init__(TOOLS, subnet)
        self._hosts: list[LabHost] = []
        try:
            self._switch = Namespace("the switch")
            self._switch.ip("link add br0 type bridge mcast_snooping 0", "link set br0 up")
            for name in names:
                self.add(name)
            self.wait_for_wires()
        except BaseException:
            self.close()
            raise

    @property
    def hosts(self) -> Sequence[LabHost]:
        return self._hosts

    def add(self, name: str) -> LabHost:
        """One more host on the switch."""
        number = len(self.hosts) + 1
        host = LabHost(name, number, self.folder / name)
        self._hosts.append(host)
        self._switch.ip(
            f"link add port{number} type veth peer name eth0 netns {host.namespace.pid}",
            f"link set port{number} master br0 up",
        )
        host.namespace.ip(
            "link set eth0 up",
            f"addr add {host.underlay4}/24 dev eth0",
            f"addr add {host.underlay6}/64 dev eth0 nodad",
        )
        return host

    def wait_for_wires(self) -> None:
        """Wait until the switch forwards to every host: the kernel may take a second to see that a wire is up."""

        def up() -> bool:
            """the switch forwards to every host"""
            return self._switch.run("bridge", "link", "show").stdout.count("state forwarding") == len(self.hosts)

        wait_until(up, WIRES_LIMIT_S)

    def cut(self, a: LabHost, b: LabHost) -> None:
        """From now on nothing that one of the two sends reaches the other, and neither is told."""
        for near, far in ((a, b), (b, a)):
            near.namespace.ip(
                f"neigh replace {far.underlay4} lladdr {NOWHERE} nud permanent dev eth0",
                f"neigh replace {far.underlay6} lladdr {NOWHERE} nud permanent dev eth0",
            )

    def mend(self, a: LabHost, b: LabHost) -> None:
        """Undo `cut`."""
        for near, far in ((a, b), (b, a)):
            near.namespace.ip(f"neigh del {far.underlay4} dev eth0", f"neigh del {far.underlay6} dev eth0")

    def _dismantle(self) -> None:
        if hasattr(self, "_switch"):
            self._switch.close()


def locked(folder: Path) -> IO[bytes]:
    """Mark a laboratory's folder as in use. The kernel lets go of the mark when this process ends."""
    lock = (folder / "lock").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def sweep() -> None:
    """Remove the folders of laboratories whose process is gone."""
    for folder in Path(tempfile.gettempdir()).glob(FOLDER_PREFIX + "*"):
        try:
            with (folder / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, somebody else's, or just being made


def wait_until(predicate: Callable[[], bool], limit_s: float, every_s: float = 0.1) -> float:
    """Wait until `predicate` holds; how long that took. Raises LabError after `limit_s`."""
    start = time.monotonic()
    while not predicate():
        if time.monotonic() - start > limit_s:
            raise LabError(f"did not happen within {limit_s} s: {predicate.__doc__ or predicate.__name__}")
        time.sleep(every_s)
    return time.monotonic() - start
