"""Avahi as it is on people's machines, one a namespace: a message bus of its own, the daemon, and its commands."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

from sims.lab.namespace import LabError, Namespace, end
from tests.patience import PATIENCE_S

TOOLS = ("avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon", "unshare")
BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""
DAEMON = """[server]
host-name={name}
allow-interfaces={interface}
use-ipv4=yes
use-ipv6=no
ratelimit-interval-usec=0
[publish]
publish-workstation=no
"""


class Avahi:
    """A running daemon that knows the one interface `interface`. A context."""

    def __init__(self, namespace: Namespace, folder: Path, name: str, interface: str) -> None:
        self._namespace = namespace
        folder.mkdir()
        self._log = folder / "log"
        socket = folder / "bus"
        bus, daemon = folder / "bus.conf", folder / "avahi.conf"
        bus.write_text(BUS.format(socket=socket))
        daemon.write_text(DAEMON.format(name=name, interface=interface))
        self._environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={socket}"}
        self._processes = [self._spawn("dbus-daemon", f"--config-file={bus}", "--nofork", "--nopidfile")]
        wait_for(socket.exists, "the message bus")
        # The daemon insists on one process a machine: it gets a /run of its own.
        path = shutil.which("avahi-daemon")
        command = f"mount -t tmpfs none /run && exec {path} -f {daemon} --no-drop-root --no-chroot --no-rlimits --debug"
        self._processes.append(self._spawn("unshare", "--mount", "sh", "-c", command))
        wait_for(lambda: "Server startup complete" in self._log.read_text(errors="replace"), "avahi-daemon", self._log)

    def __enter__(self) -> Avahi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            end(process)

    def publish(self, name: str, service: str, port: int) -> None:
        """Announce a service for as long as the daemon runs."""
        self._processes.append(self._spawn("avahi-publish", "-s", name, service, str(port), "path=/here"))

    def browse(self, service: str) -> str:
        """What `avahi-browse` finds and resolves, as it prints that for programs."""
        command = self._namespace.command(
            ["avahi-browse", "--parsable", "--resolve", "--terminate", "--no-db-lookup", service]
        )
        return subprocess.run(
            ["env", *(f"{name}={value}" for name, value in self._environment.items()), *command],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        ).stdout

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return self._namespace.spawn(*command, stdout=log, stderr=log, environment=self._environment)


def wait_for(done: object, what: str, log: Path | None = None) -> None:
    """Raises LabError when it takes too long."""
    assert callable(done)
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise LabError(f"{what} did not start: {'' if log is None else log.read_text()[-500:]}")
        time.sleep(0.05)
