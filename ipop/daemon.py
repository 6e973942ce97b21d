"""`p2pvpn up`: one node in the foreground, from its bundle to its last clean-up. † Shell module.

Opens everything a node needs (lock, port, TAP, state, control socket), in an order in which the likeliest fault is
found first, and gives it back in reverse, however the run ends. A process of its own: see `ipop.cli`.
"""

from __future__ import annotations

from ipop.lean import leave_out

if __name__ == "__main__":
    leave_out()  # Before the modules below bring it in.

import asyncio
import errno
import fcntl
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from dht.bootstrap import Bootstrap
from dht.certificate import Network
from dht.files import DirectoryStorage, ToleratedStorage
from dht.host import Endpoint
from dht.names import keep_resolved
from dht.packet_loop import PacketLoop
from dht.sizes import datagram_bytes, plaintext_bytes
from dht.udp import UdpHost
from ipop.authority_files import read_bundle
from ipop.commands import Commands
from ipop.config import UpSettings, VpnConfig, tap_mtu, too_long
from ipop.control import ControlSocket
from ipop.device import KernelTap
from ipop.errors import SetupError
from ipop.fastpath import FastPath
from ipop.icmp import Limiter
from ipop.neighbor import mac_for
from ipop.node import VpnNode, build_node
from ipop.notify import notify
from ipop.places import runtime_directory, state_directory
from ipop.surroundings import Surroundings
from ipop.vnet import Offloads

log = logging.getLogger(__name__)

FAREWELL_S = 0.1  # For the last datagrams in a full socket's queue.
LINES_PER_S = 1.0
LINES_AT_ONCE = 10


def up(settings: UpSettings) -> int:
    """Run the node until it is told to stop. The exit code; SetupError when it can't start."""
    _log_to_stderr()
    # Not uvloop: it takes 0.04 ms off a round trip, and costs 7 MB, most of it because it can't do without ssl.
    with asyncio.Runner(loop_factory=PacketLoop) as runner:
        return runner.run(_up(settings))


async def _up(settings: UpSettings) -> int:
    stop = asyncio.Event()
    failed: list[str] = []
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup asks.
            loop.add_signal_handler(number, stop.set)
    with ExitStack() as undo:
        vpn, host, tap, control = _open(settings, undo)
        member = vpn.ring.identity.member

        def tap_lost(reason: str) -> None:
            failed.append(reason)
            stop.set()

        tap.on_lost(tap_lost)
        await control.start(Commands(vpn, stop.set).serve)
        surroundings = Surroundings(host, vpn, portmap=settings.shortcuts.portmap, lan=settings.shortcuts.lan)
        joining = loop.create_task(_join(vpn, settings.bootstraps, surroundings.start))
        # What was loaded so far stays for good: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        with suppress(OSError):  # Whoever reads stdout may have gone.
            print(f"ready {member.name} {member.address4} {tap.name}", flush=True)
        notify(f"READY=1\nSTATUS={member.name} {member.address4} on {tap.name}")
        log.info("%s is up: %s and %s on %s", member.name, member.address4, member.address6, tap.name)
        try:
            await stop.wait()
        finally:
            notify("STOPPING=1")
            joining.cancel()
            vpn.stop()
            await surroundings.finish()
        await asyncio.sleep(FAREWELL_S)
    for reason in failed:
        raise SetupError(reason)
    log.info("%s is down", member.name)
    return 0


class _Opened(NamedTuple):
    vpn: VpnNode
    host: UdpHost
    tap: KernelTap
    control: ControlSocket


def _open(settings: UpSettings, undo: ExitStack) -> _Opened:
    """A node with all that it needs, not yet started; `undo` gives back what was opened. Raises SetupError."""
    warnings: list[str] = []
    identity = read_bundle(Path(settings.bundle), warn=warnings.append).identity(time.time())
    for warning in warnings:  # Said only now: a bundle that can't be used has one fault worth naming.
        log.warning("%s", warning)
    member, network = identity.member, identity.network
    running = f"node '{member.name}' is running already on this machine"
    undo.callback(os.close, _lock(settings.bundle, f"{settings.bundle}: {running}: stop it with 'p2pvpn down'"))
    offloads, batching, native = _wanted_offloads()
    host = _listen(settings.listen, network, batching)
    undo.callback(host.close)
    mtu = settings.mtu or tap_mtu(settings.underlay_mtu)
    if (text := too_long(mtu, settings.underlay_mtu)) is not None:
        log.warning("%s", text)
    tap = KernelTap(
        settings.tap,
        member.address4,
        network.subnet,
        member.address6,
        network.prefix6,
        mac_for(member.address4.packed),
        mtu,
        offloads=offloads,
        room_bytes=plaintext_bytes(datagram_bytes(settings.underlay_mtu)),
        multicast_route=settings.multicast_route,
    )
    undo.callback(tap.close)
    storage = _open_state(Path(settings.state or state_directory() / member.name), undo)
    control_path = settings.control or str(_own_directory(runtime_directory(), undo) / f"{member.name}.sock")
    control = ControlSocket(control_path)
    undo.callback(control.close)
    vpn = build_node(
        host,
        tap,
        VpnConfig(
            identity,
            storage,
            _has_aes(),
            settings.underlay_mtu,
            settings.copy_dscp,
            mtu,
            settings.shortcuts,
            settings.multicast,
            settings.version,
        ),
    )
    vpn.counted += [host.counters, tap.counters, storage.counters]
    fast = FastPath(vpn, host, tap)
    if native:
        fast.start()
    vpn.offloads = lambda: {"tap": tap.offloads.names(), "udp": host.offloads, "fast path": (fast.state,)}
    return _Opened(vpn, host, tap, control)


def _lock(path: str | Path, taken: str) -> int:
    """A descriptor that locks a file or directory until it is closed. The kernel ends the lock with the process."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SetupError(taken) from None
    except OSError as error:
        log.warning("cannot lock '%s' (%s): a second node with it would not be noticed", path, error.strerror)
    return descriptor


def _wanted_offloads() -> tuple[Offloads, bool, bool]:
    """What to ask of the TAP, whether to move datagrams in batches, and whether C may: all, or what P2PVPN_OFFLOADS
    names (a list of header, checksum, tcp, udp, batch and native, with commas), for those who look for a fault."""
    names = os.environ.get("P2PVPN_OFFLOADS", "header,checksum,tcp,udp,batch,native").split(",")
    offloads = Offloads("header" in names, "checksum" in names, "tcp" in names, "udp" in names)
    return offloads, "batch" in names, "native" in names


def _listen(listen: Endpoint, network: Network, batching: bool) -> UdpHost:
    try:
        return UdpHost(listen, exclude=(network.subnet, network.prefix6), batching=batching)
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                text = f"UDP port {listen.port} is in use: choose another with --listen {listen.address}:PORT"
            case errno.EADDRNOTAVAIL:
                text = f"cannot listen on {listen}: this machine does not have the address {listen.address}"
            case errno.EACCES | errno.EPERM:
                text = f"cannot listen on {listen}: ports below 1024 need root"
            case _:
                text = f"cannot listen on {listen}: {error.strerror or error}"
        raise SetupError(text) from None


def _open_state(path: Path, undo: ExitStack) -> ToleratedStorage:
    """The node's state directory, locked. What was made here and stayed empty is removed again."""
    _own_directory(path, undo, mode=0o700)
    try:
        undo.callback(os.close, _lock(path, f"{path}: another node is running with this state directory"))
        return ToleratedStorage(DirectoryStorage(path))
    except OSError as error:
        raise SetupError(f"cannot use the state directory '{path}': {error.strerror or error}") from None


def _own_directory(path: Path, undo: ExitStack, mode: int = 0o755) -> Path:
    """Makes a directory where there is none; at the end it goes again, if nothing is in it."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        for each in reversed(missing):
            each.mkdir(mode=mode, exist_ok=True)
            undo.callback(_remove_if_empty, each)
    except OSError as error:
        raise SetupError(
            f"cannot make the directory '{path}': {error.strerror}; choose others with --state and --control"
        ) from None
    if not path.is_dir():
        raise SetupError(f"'{path}' is not a directory")
    return path


def _remove_if_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()


async def _join(vpn: VpnNode, bootstraps: tuple[Bootstrap, ...], started: Callable[[], None]) -> None:
    """Start the node with its bootstraps, and tell it when their names mean something else.

    Even if DNS knows none of them it starts: peers of earlier runs may be there, and rings that meet later merge.
    """

    def use(endpoints: list[Endpoint]) -> None:
        if vpn.started:
            vpn.ring.use_bootstraps(endpoints)
        else:
            vpn.start(endpoints)
            started()

    def unknown(names: Sequence[Bootstrap]) -> None:
        vpn.ring.parts.acquaintances.unknown_names = tuple(map(str, names))

    await keep_resolved(bootstraps, use, vpn.is_ready, unknown)


def _has_aes() -> bool:
    """Whether this machine's processor does AES by itself."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    lines = (line.partition(":") for line in text.splitlines())
    return any(key.strip() in ("flags", "Features") and "aes" in value.split() for key, _, value in lines)


class LineLimit(logging.Filter):
    """At most one line a second of the protocol packages in the long run, a few more at once: nothing that others do
    may fill our disk. What is left out is counted. Errors always pass: they are about ourselves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lines = Limiter(LINES_PER_S, LINES_AT_ONCE)
        self._hidden = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR or not record.name.startswith(("dht.", "shortcuts.")):
            return True
        if not self._lines.take(self._clock()):
            self._hidden += 1
            return False
        if self._hidden:
            record.msg = f"{record.getMessage()} (and {self._hidden} lines left out)"
            record.args = None
            self._hidden = 0
        return True


def _log_to_stderr() -> None:
    """systemd's journal has its own clock; a terminal has none. P2PVPN_LOG=debug shows more."""
    wanted = os.environ.get("P2PVPN_LOG", "info").upper()
    level = logging.getLevelNamesMapping().get(wanted, logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    if level > logging.DEBUG:
        handler.addFilter(LineLimit())
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    handler.setFormatter(logging.Formatter(stamp + "%(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def main() -> None:
    """What `p2pvpn up` becomes: the settings are the only argument."""
    try:
        sys.exit(up(UpSettings.from_text(sys.argv[1])))
    except SetupError as error:
        print(f"p2pvpn: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
