"""What crossed an interface: tcpdump, and a reader for the file it writes (libpcap's classic format)."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from sims.lab.lab import LabHost
from sims.lab.namespace import LabError, end

ETHERNET_BYTES = 14
UDP = 17


class Capture:
    """Everything on one interface of a host that matches a filter, from entering the context until leaving it."""

    def __init__(self, host: LabHost, interface: str, file: Path, wanted: str = "") -> None:
        self.file = file
        # -p: not what the switch merely floods. -Z root: tcpdump must keep the right to write our file.
        command = ("tcpdump", "-p", "-n", "-B", "65536", "-s", "0", "-Z", "root", "-i", interface, "-w", file)
        self._process = host.namespace.spawn(*command, *wanted.split(), stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        first = self._process.stderr.readline().decode()
        if "listening on" not in first:
            end(self._process)
            raise LabError(f"tcpdump did not start: {first}")

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(self._process)

    def frames(self) -> Iterator[bytes]:
        """Every frame captured so far, whole."""
        with self.file.open("rb") as file:
            header = file.read(24)
            assert header[:4] == b"\xd4\xc3\xb2\xa1", "little-endian pcap with microseconds"
            while len(record := file.read(16)) == 16:
                length = struct.unpack("<8xI4x", record)[0]
                yield file.read(length)

    def datagrams(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Source address, destination address and payload of every unfragmented IPv4 UDP datagram."""
        for frame in self.frames():
            packet = frame[ETHERNET_BYTES:]
            if packet[0] == 0x45 and packet[9] == UDP and not packet[6] & 0x3F:
                length = int.from_bytes(packet[24:26], "big")
                yield packet[12:16], packet[16:20], packet[28 : 20 + length]

    def holds(self, needle: bytes) -> bool:
        """Whether the bytes occur anywhere in the file, also across the parts in which it is read."""
        tail = b""
        with self.file.open("rb") as file:
            while part := file.read(1 << 24):
                if needle in tail + part:
                    return True
                tail = part[-len(needle) :]
        return False
