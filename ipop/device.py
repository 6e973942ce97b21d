"""A TAP device of the Linux kernel, with the node's virtual addresses on it. † Shell module.

The device lives as long as this process holds it: closing it (or dying) takes addresses and routes with it. It
never touches another interface, never attaches to a device that exists, and never runs a program to set itself
up; `ipop.device_setup` does that. Source: the kernel's Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NoReturn

from pytun import IFF_NO_PI, IFF_TAP, IFF_TUN_EXCL, TunTapDevice

from dht.packet_loop import read_packets, stop_reading
from dht.sizes import DEFAULT_BYTES
from ipop.config import LEAST_TAP_MTU
from ipop.errors import SetupError
from ipop.ethernet import MAC_BYTES
from ipop.lean import let_in
from ipop.tap_offload import IFF_VNET_HDR, take_offloads
from ipop.vnet import NEEDS_CHECKSUM, NO_OFFLOADS, NO_VNET, VNET_BYTES, Offloads

log = logging.getLogger(__name__)

CLONE_DEVICE = "/dev/net/tun"
ANY_NAME = "p2pvpn%d"  # The kernel puts the first free number in.
NAME_CHARACTERS = 15  # IFNAMSIZ, less the final zero.
DRAIN_FRAMES = 64  # A wake-up; then timers and sockets get their turn.
DRAIN_BYTES = 1 << 20  # Likewise; a frame may have 64 KiB.
# Where small frames come one at a time, asking whether there is another costs a tenth of a round trip; so it is asked
# only now and then, until there was one. Should more be waiting, the loop calls again.
LOOK_AGAIN = 8
SMALL_BYTES = 2048
READ_BYTES = VNET_BYTES + 65536 + 18  # Whatever MTU someone sets on the device later, no frame is cut.

_WITH_IPV6, _WITHOUT_IPV6 = "6", "4"  # What the process that configures the device answers when it could.


class KernelTap:
    """Implements `ipop.tap.Tap`. Raises SetupError, and leaves nothing behind, when the device can't be had."""

    def __init__(
        self,
        name: str | None,
        address4: IPv4Address,
        subnet: IPv4Network,
        address6: IPv6Address,
        prefix6: IPv6Network,
        mac: bytes,
        mtu: int,
        *,
        clone_device: str = CLONE_DEVICE,
        offloads: Offloads = NO_OFFLOADS,
        room_bytes: int = DEFAULT_BYTES,
        multicast_route: bool = False,
    ) -> None:
        """`room_bytes`: the longest plaintext that this node's links carry, for which super-packets are bounded.
        `multicast_route`: IPv4 multicast of programs that choose no interface goes here."""
        if len(mac) != MAC_BYTES or mac[0] & 1:
            raise ValueError(f"{mac.hex(':')} is no hardware address of a single device")
        if mtu < LEAST_TAP_MTU:
            raise ValueError(f"an MTU of {mtu} bytes is below {LEAST_TAP_MTU}, the least for IPv6")
        self.counters: Counter[str] = Counter()
        self.ipv6 = False
        self._callback: Callable[[bytes], None] | None = None
        self._virtual: Callable[[bytes], None] = lambda frame: None
        self._drained: Callable[[], bool] = lambda: False
        self._reader: Callable[[int, int], bool] | None = None
        self._stop: Callable[[], None] = lambda: None
        self._returning = False
        self._busy = False  # several frames were waiting when the device was last read to its end
        self._wake_ups = 0
        self._lost: Callable[[str], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._device = _create(name, clone_device, offloads.header)
        self._fd: int = self._device.fileno()
        self.name: str = self._device.name
        self._closed = False
        try:
            self.offloads = take_offloads(self._fd, offloads) if offloads.header else NO_OFFLOADS
            self._header = self.offloads.header
            os.set_blocking(self._fd, False)
            self.ipv6 = _set_up_elsewhere(
                self.name, address4, subnet, address6, prefix6, mac, mtu, room_bytes, multicast_route
            )
        except BaseException:
            self.close()
            raise

    def write(self, frame: bytes) -> None:
        self.write_virtual((NO_VNET, frame) if self._header else (frame,))

    def write_virtual(self, pieces: Sequence[bytes]) -> None:
        if self._closed:
            return
        try:
            os.writev(self._fd, pieces)
        except OSError as error:
            self.refused(error.errno)

    def refused(self, number: int | None) -> None:
        """Count a frame that the kernel did not take."""
        # EIO: someone set the device down. EAGAIN, ENOBUFS: the stack is full. EINVAL: no Ethernet frame.
        self.counters[f"tap_write_{errno.errorcode.get(number or 0, 'error').lower()}"] += 1

    def on_frame(self, callback: Callable[[bytes], None]) -> None:
        """Must first be called where an event loop runs; frames come from that loop."""
        self._callback = callback
        if self._loop is None and not self._closed:
            self._loop = asyncio.get_running_loop()
            read_packets(self._loop, self._fd, self._drain)

    def on_virtual(self, callback: Callable[[bytes], None]) -> None:
        self._virtual = callback

    def on_drained(self, callback: Callable[[], bool]) -> None:
        self._drained = callback

    def attend(self, reader: Callable[[int, int], bool], stop: Callable[[], None]) -> None:
        """Let `reader(frames, octets)` read the device in this object's place when there is something, within those
        bounds, and say whether more waits; it calls `gone` when the device is. `stop` is called when the descriptor
        must not be used any more."""
        self._reader, self._stop = reader, stop

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Call `callback(reason)` once if the device goes away without `close`: someone deleted it. The last call
        wins."""
        self._lost = callback

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return -1 if self._closed else self._fd

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stop()
        if self._loop is not None:
            stop_reading(self._loop, self._fd)
        self._device.close()

    def _drain(self) -> None:
        if self._reader is None:
            self._read_frames()
            waits = False
        else:
            waits = self._reader(DRAIN_FRAMES, DRAIN_BYTES)
        if self._closed:
            return
        if (self._drained() or waits) and not self._returning and self._loop is not None:
            self._returning = True
            self._loop.call_soon(self._return)

    def _read_frames(self) -> None:
        callback, virtual = self._callback, self._virtual
        assert callback is not None
        header = self._header
        left_bytes = DRAIN_BYTES
        self._wake_ups += 1
        for number in range(DRAIN_FRAMES):
            try:
                frame = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                self._busy = number > 1
                break
            except OSError as error:
                self.gone(error)
                return
            left_bytes -= len(frame)
            if not header:
                callback(frame)
            elif frame[0] & NEEDS_CHECKSUM or frame[1]:
                virtual(frame)
            else:
                callback(frame[VNET_BYTES:])
            # Closed: the number of the file descriptor may belong to another file by now.
            if left_bytes < 0 or self._closed:
                break
            if not self._busy and len(frame) < SMALL_BYTES and self._wake_ups % LOOK_AGAIN:
                break

    def _return(self) -> None:
        self._returning = False
        if not self._closed:
            self._drain()

    def gone(self, error: OSError) -> None:
        """The device can't be read any more: close, and say so."""
        self.close()  # It would stay readable: the event loop would call again at once, for ever.
        log.error("TAP device '%s' is gone: %s", self.name, error.strerror)
        if self._lost is not None:
            self._lost(f"TAP device '{self.name}' is gone: {error.strerror}")


def _create(name: str | None, clone_device: str, header: bool) -> Any:
    if name is not None:
        _check_name(name)
    shown = f"'{name}'" if name else "(any name)"
    try:
        # Without IFF_TUN_EXCL the kernel would give us a device that someone else made.
        flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL | (IFF_VNET_HDR if header else 0)
        return TunTapDevice(name=name or ANY_NAME, flags=flags, dev=clone_device)
    except OSError as error:
        match error.errno:
            case errno.EBUSY | errno.EEXIST:
                text = f"an interface named {shown} exists already: choose another name with --tap, or none"
            case errno.ENOENT | errno.ENODEV | errno.ENXIO | errno.ENOTDIR:
                text = (
                    f"cannot create a TAP device: {clone_device} is missing: load the kernel module with"
                    f" 'modprobe tun', or start the container with '--device {CLONE_DEVICE}'"
                )
            case errno.EPERM | errno.EACCES:
                text = f"cannot create TAP device {shown}: this needs root or the capability CAP_NET_ADMIN"
            case errno.ENFILE | errno.EMFILE | errno.ENOBUFS | errno.ENOMEM:
                text = f"cannot create TAP device {shown}: the system is out of resources: {error.strerror}"
            case _:
                text = f"cannot create TAP device {shown}: {error.strerror or error}"
        raise SetupError(text) from error


def _check_name(name: str) -> None:
    wrong = not 0 < len(name) <= NAME_CHARACTERS or not name.isascii() or not name.isprintable()
    if wrong or name in (".", "..") or any(character in "/:% " for character in name):
        raise SetupError(
            f"{name!r} is no name for a network interface: use 1 to {NAME_CHARACTERS} letters, digits, '-', '_' or '.'"
        )


def _set_up_elsewhere(name: str, *how: Any) -> bool:
    """Run `ipop.device_setup.set_up` in a process of its own, which needs a fifth of a second. Returns whether the
    device speaks IPv6; SetupError when it can't be configured."""
    # pyroute2 takes 12 MB and an event loop of its own, and a running node has no use for either.
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as answers:
        try:
            child = os.fork()
            if child == 0:
                _answer_and_exit(writing, name, *how)
        except OSError as error:
            raise SetupError(f"cannot configure TAP device '{name}': no new process: {error.strerror}") from error
        finally:
            os.close(writing)
        answer = answers.read()
    os.waitpid(child, 0)
    if answer in (_WITH_IPV6, _WITHOUT_IPV6):
        return answer == _WITH_IPV6
    raise SetupError(answer or f"cannot configure TAP device '{name}': the process that was to do it died")


def _answer_and_exit(writing: int, name: str, *how: Any) -> NoReturn:
    """The whole life of the process that configures the device."""
    answer = f"cannot configure TAP device '{name}': an unexpected failure, see above"
    try:
        let_in()  # pyroute2 imports ssl.
        from ipop.device_setup import set_up  # noqa: PLC0415

        answer = _WITH_IPV6 if set_up(name, *how) else _WITHOUT_IPV6
    except SetupError as error:
        answer = str(error)
    except Exception:
        log.exception("cannot configure TAP device '%s'", name)
    finally:
        try:
            os.write(writing, answer.encode())
        finally:
            os._exit(0)  # Nothing of the node's may run here: no exit hook, no caller's clean-up.
