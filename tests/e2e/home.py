"""A home behind a NAT whose router opens ports: host - router with miniupnpd - internet, in three namespaces."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from sims.lab.lab import wait_until
from sims.lab.namespace import LabError, Namespace, end

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 120.0
ROUTER_LAN, HOST = "192.168.7.1", "192.168.7.2"
# miniupnpd forwards nothing from an address that it knows to be set aside; these belong to somebody, far from here.
ROUTER_WAN, OUTSIDE = "11.0.0.1", "11.0.0.2"
PORT = 7077

RULES = """
table inet home {
  chain forward { type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname lan oifname wan accept
    jump opened
  }
  chain opened { }
  chain input { type filter hook input priority 0; policy accept;
    ct state established,related accept
    iifname wan drop
  }
  chain pre { type nat hook prerouting priority dstnat; jump pre_opened; }
  chain post { type nat hook postrouting priority srcnat; jump post_opened; oifname wan masquerade; }
  chain pre_opened { }
  chain post_opened { }
}
"""
FORGET = "flush chain inet home opened; flush chain inet home pre_opened; flush chain inet home post_opened"
CONFIGURATION = """
ext_ifname=wan
listening_ip=lan
http_port=5555
enable_upnp={upnp}
enable_natpmp={pcp}
secure_mode=yes
system_uptime=no
min_lifetime=120
max_lifetime=86400
upnp_table_name=home
upnp_nat_table_name=home
upnp_forward_chain=opened
upnp_nat_chain=pre_opened
upnp_nat_postrouting_chain=post_opened
uuid=00000000-0000-4000-8000-000000000001
allow 1024-65535 192.168.7.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


class Home:
    """The three machines. Use as a context; what was started ends with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        self.host, self.router, self.outside = (Namespace(name) for name in ("the host", "the router", "outside"))
        self.router.ip(
            f"link add lan type veth peer name eth0 netns {self.host.pid}",
            f"link add wan type veth peer name eth0 netns {self.outside.pid}",
            f"addr add {ROUTER_LAN}/24 dev lan",
            f"addr add {ROUTER_WAN}/24 dev wan",
            "link set lan up",
            "link set wan up",
        )
        self.host.ip(f"addr add {HOST}/24 dev eth0", "link set eth0 up", f"route add default via {ROUTER_LAN} dev eth0")
        self.outside.ip(f"addr add {OUTSIDE}/24 dev eth0", "link set eth0 up")
        self._must("sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._must("nft", "-f", "-", stdin_text=RULES)

    def __enter__(self) -> Home:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            end(process)
        for namespace in (self.host, self.router, self.outside):
            namespace.close()

    def open_ports(self, *, upnp: bool, pcp: bool) -> None:
        """Start miniupnpd, with UPnP, or with PCP and NAT-PMP, or with all; wait until it serves."""
        file = self._folder / "miniupnpd.conf"
        file.write_text(CONFIGURATION.format(upnp="yes" if upnp else "no", pcp="yes" if pcp else "no"))
        command = ("miniupnpd", "-d", "-f", file, "-P", self._folder / "pid")
        with (self._folder / "miniupnpd.log").open("ab") as log:
            self._daemon = daemon = self.router.spawn(*command, stdout=log, stderr=log)
        self._processes.append(daemon)
        wanted = {f":{port} " for port, used in ((1900, upnp), (5351, pcp)) if used}

        def serves() -> bool:
            """miniupnpd listens"""
            if daemon.poll() is not None:
                raise LabError(f"miniupnpd ended at once: {self.log()}")
            listening = self.router.run("ss", "-lun").stdout
            return all(port in listening for port in wanted)

        wait_until(serves, LIMIT_S)

    def restart(self, *, upnp: bool, pcp: bool) -> None:
        """The router loses power, and everything it knew."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        self._must("nft", FORGET)
        assert not self.opened()
        self.open_ports(upnp=upnp, pcp=pcp)

    def opened(self) -> str:
        """The router's rules for mapped ports."""
        lines = self._must("nft", "list", "chain", "inet", "home", "pre_opened").splitlines()
        return "\n".join(line.strip() for line in lines if "dnat" in line)

    def reaches(self, port: int) -> bool:
        """Whether a datagram from outside to the router's `port` comes back."""
        code = (
            "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1.0);"
            f"s.connect(({ROUTER_WAN!r}, {port})); s.send(b'anybody?'); sys.exit(s.recv(99) != b'anybody?')"
        )
        return self.outside.run(sys.executable, "-c", code).returncode == 0

    def log(self) -> str:
        """What miniupnpd and the hosts have logged."""
        return "\n".join(file.read_text(errors="replace") for file in sorted(self._folder.glob("*.log")))

    def start(self, *methods: str, refresh_s: float = 300.0) -> LineReader:
        """Start the program whose port is to be mapped."""
        script = Path(__file__).with_name("mapped_host.py")
        command: list[str | Path] = [sys.executable, script, str(PORT), str(refresh_s), *methods]
        environment = {"PYTHONPATH": str(ROOT)}
        with (self._folder / "host.log").open("ab") as log:
            process = self.host.spawn(*command, stdout=subprocess.PIPE, stderr=log, environment=environment)
        self._processes.append(process)
        return LineReader(process)

    def _must(self, *command: str, stdin_text: str = "") -> str:
        done = self.router.run(*command, stdin_text=stdin_text)
        if done.returncode:
            raise LabError(f"{command[0]} failed on the router: {done.stderr.strip()}")
        return done.stdout


class LineReader:
    """A running program that says what happens to it, line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._said = b""

    def line(self, limit_s: float = LIMIT_S) -> str:
        """The next line it prints. Raises LabError when there is none within `limit_s`."""
        assert self.process.stdout is not None
        until = time.monotonic() + limit_s
        while b"\n" not in self._said:
            readable, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self.process.stdout.fileno(), 4096) if readable else b""
            if not part:
                raise LabError(f"the program said nothing more after {self._said!r}")
            self._said += part
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def remaining(self) -> list[str]:
        """All lines until the end of its output; it has ended, or is about to."""
        assert self.process.stdout is not None
        return (self._said + self.process.stdout.read()).decode().splitlines()

    def stop(self) -> list[str]:
        """Ask it to stop; all it says until it has."""
        self.process.terminate()
        lines = [self.line()]
        while lines[-1] != "stopped":
            lines.append(self.line())
        self.process.wait(LIMIT_S)
        return lines
