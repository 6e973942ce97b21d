"""† The real `Gateway`: the default route, a socket to the gateway's port 5351, and a process that speaks UPnP.

The socket is connected, so the kernel drops what others than the gateway send to it. Nothing is looked up by name, and
nothing runs in this process that could block.

Source: RFC 6886, section 3.2.1, for announcements; proc_net(5), /proc/net/route.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dht.errors import BadDatagram
from shortcuts.mapping import Route
from shortcuts.portmap_wire import ANNOUNCE_GROUP, ANNOUNCE_PORT, GATEWAY_PORT, MAX_PCP_BYTES
from shortcuts.upnp_wire import MAX_REPORT_BYTES, UpnpMapping, UpnpRequest, read_report

log = logging.getLogger(__name__)

UPNP_LIMIT_S = 15.0
FINISH_LIMIT_S = 5.0
DRAIN_DATAGRAMS = 16  # per wake-up
MAX_ROUTES = 1024  # read from the kernel's list, whose first entries are the default routes
ROUTES = Path("/proc/thread-self/net/route")
_UP, _GATEWAY = 0x1, 0x2  # RTF_UP, RTF_GATEWAY


class RealGateway:
    """The gateway of this machine's IPv4 default route. Needs a running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._answered: Callable[[bytes], None] = lambda datagram: None
        self._announced: Callable[[bytes], None] = lambda datagram: None
        self._route: Route | None = None
        self._asking: socket.socket | None = None
        self._hearing = self._hear_announcements()
        self._running: _Upnp | None = None

    def on_answer(self, answered: Callable[[bytes], None]) -> None:
        self._answered = answered

    def on_announcement(self, announced: Callable[[bytes], None]) -> None:
        self._announced = announced

    def find(self) -> Route | str:
        try:
            gateway = default_gateway(ROUTES.read_bytes()[: MAX_ROUTES * 128].decode("ascii", "replace"))
        except OSError as error:
            return f"the kernel does not say where its default route leads: {error.strerror or error}"
        if isinstance(gateway, ipaddress.IPv4Address):
            return self._turn_to(str(gateway))
        self._close_asking()
        return gateway

    def send(self, datagram: bytes) -> None:
        if self._asking is not None:
            try:
                self._asking.send(datagram)
            except ConnectionRefusedError:
                self._loop.call_soon(self._answered, b"")
            except OSError as error:
                log.debug("cannot write to the gateway: %s", error)

    def upnp(self, request: UpnpRequest, done: Callable[[UpnpMapping | str], None]) -> None:
        if self._running is not None:
            self._running.kill()
        try:
            self._running = _Upnp(self._loop, request, done)
        except OSError as error:
            self._loop.call_soon(done, f"no process to speak it: {error.strerror or error}")

    async def finish(self, limit_s: float = FINISH_LIMIT_S) -> None:
        """Wait until a request that is under way (the deletion of a mapping) has an answer; then close."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                if self._running is not None:
                    await self._running.ended.wait()
        self.close()

    def close(self) -> None:
        """Nothing is called back afterwards."""
        self._close_asking()
        if self._hearing is not None:
            self._loop.remove_reader(self._hearing)
            self._hearing.close()
            self._hearing = None
        if self._running is not None:
            self._running.kill()

    def _turn_to(self, gateway: str) -> Route | str:
        try:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                opened.connect((gateway, GATEWAY_PORT))
                route = Route(gateway, opened.getsockname()[0])
            except BaseException:
                opened.close()
                raise
        except OSError as error:
            self._close_asking()
            return f"cannot reach the gateway {gateway}: {error.strerror or error}"
        if route == self._route and self._asking is not None:
            opened.close()
        else:
            self._close_asking()
            self._asking, self._route = opened, route
            self._loop.add_reader(opened, self._drain, opened)
        return route

    def _close_asking(self) -> None:
        if self._asking is not None:
            self._loop.remove_reader(self._asking)
            self._asking.close()
        self._asking = self._route = None

    def _hear_announcements(self) -> socket.socket | None:
        """A socket on the group that every IPv4 host is in. Without it restarts are noticed later."""
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((ANNOUNCE_GROUP, ANNOUNCE_PORT))
        except OSError as error:
            log.debug("cannot hear gateways announce themselves: %s", error)
            opened.close()
            return None
        self._loop.add_reader(opened, self._drain_announcements, opened)
        return opened

    def _drain(self, asking: socket.socket) -> None:
        for _ in range(DRAIN_DATAGRAMS):
            try:
                datagram = asking.recv(MAX_PCP_BYTES + 1)
            except BlockingIOError:
                return
            except OSError as error:
                if not isinstance(error, ConnectionRefusedError):
                    log.debug("cannot read from the gateway: %s", error)
                    return
                datagram = b""
            self._answered(datagram)
            if asking.fileno() < 0:
                return  # closed by what we just called

    def _drain_announcements(self, hearing: socket.socket) -> None:
        for _ in range(DRAIN_DATAGRAMS):
            try:
                datagram, source = hearing.recvfrom(MAX_PCP_BYTES + 1)
            except OSError:
                return
            if datagram and self._route is not None and source == (self._route.gateway, GATEWAY_PORT):
                self._announced(datagram)
            if hearing.fileno() < 0:
                return


class _Upnp:
    """One request under way, in its process."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, request: UpnpRequest, done: Callable[[UpnpMapping | str], None]
    ) -> None:
        self._loop, self._done = loop, done
        self.ended = asyncio.Event()
        path = [str(Path(__file__).resolve().parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self._process = subprocess.Popen(
            # -P: whatever directory this runs in, it holds no module of ours.
            [sys.executable, "-P", "-m", "shortcuts.upnp", request.to_text()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._said = b""
        os.set_blocking(self._output, False)
        loop.add_reader(self._output, self._read)
        self._limit = loop.call_later(UPNP_LIMIT_S, self._end, "the gateway took too long")

    def kill(self) -> None:
        """Forget it; nothing is called back."""
        self._done = lambda answer: None
        self._end("forgotten")

    def _read(self) -> None:
        try:
            part = os.read(self._output, MAX_REPORT_BYTES)
        except BlockingIOError:
            return
        self._said += part
        if not part or len(self._said) > MAX_REPORT_BYTES:
            self._end("")

    def _end(self, reason: str) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        self._limit.cancel()
        self._loop.remove_reader(self._output)
        # It has said all it will; killed, it is waited for no longer than the kernel takes.
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        if reason:
            self._done(reason)
            return
        try:
            self._done(read_report(self._said))
        except BadDatagram:
            self._done("the process that speaks it died")


def default_gateway(routes: str) -> ipaddress.IPv4Address | str:
    """The gateway of the default route with the lowest metric, from the text of /proc/net/route; or why none."""
    found: list[tuple[int, int, ipaddress.IPv4Address]] = []
    for line in routes.splitlines()[1:]:
        fields = line.split()
        try:
            target, gateway, flags, metric, mask = (*(int(fields[i], 16) for i in (1, 2, 3)), int(fields[6]), fields[7])
        except (IndexError, ValueError):
            continue
        if target == 0 and int(mask, 16) == 0 and flags & _UP:
            address = ipaddress.IPv4Address(gateway.to_bytes(4, sys.byteorder))
            found.append((metric, len(found), address if flags & _GATEWAY else ipaddress.IPv4Address(0)))
    if not found:
        return "no IPv4 default route"
    gateway_address = min(found)[2]
    return gateway_address if int(gateway_address) else "the IPv4 default route has no gateway"
