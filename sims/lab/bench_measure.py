"""One measurement of one system by `make bench` †: sets it up on a fresh site, measures, and removes it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sims.lab.bench_parse import Burst, Transfer, highest_clean_rate, parse_ping, parse_tcp, parse_udp, percentile
from sims.lab.bench_site import Site, Wire
from sims.lab.bench_systems import System, Tunnel, wait_for_port
from sims.lab.bench_table import Sample
from sims.lab.lab import wait_until
from sims.lab.namespace import LabError, end

IPERF_PORT = 5201
IPERF_LIMIT_S = 30.0
FIRST_PING_LIMIT_S = 60.0
PING_EVERY_S = 0.03  # At 10 ms and less ping(8) spins while it waits, and takes a processor from what is measured.
WARM_UP_PINGS = 50
BULK_UNDERWAY_BYTES = 1_000_000
UDP_START_PER_S, UDP_LOWEST_PER_S = 8000.0, 250.0
UDP_SIZES = (64, 1200)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each part takes."""

    tcp_s: int
    udp_s: float
    pings: int


class Measurement:
    """The steps, on a tunnel that runs."""

    def __init__(self, site: Site, tunnel: Tunnel, effort: Effort) -> None:
        self._site, self._tunnel, self._effort = site, tunnel, effort
        # Room for what arrives while the receiving program waits for a processor: its waits aren't the tunnel's loss.
        self._buffer = Path("/proc/sys/net/core/rmem_max").read_text().strip()

    def start_up(self) -> float:
        """Start the near machine's part; the seconds until the first ping came back."""
        self._tunnel.start_far()
        start = time.monotonic()
        self._tunnel.start_near()
        # ping gives up at once as long as there is no route, so it is asked again.
        ping = f"ping -q -n -i 0.02 -c 1 -w 2 {self._tunnel.target}"
        again = self._site.spawn(self._site.near, "sh", "-c", f"until {ping} >/dev/null 2>&1; do sleep 0.01; done")
        while again.poll() is None:
            self._site.usage()  # raises when a part of the tunnel has ended
            if time.monotonic() - start > FIRST_PING_LIMIT_S:
                raise LabError(f"no ping within {FIRST_PING_LIMIT_S:g} s: {self._site.last_words()}")
            try:
                again.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        return time.monotonic() - start

    def settle(self) -> None:
        """Wait for the path that is to be measured, and let both ends learn all they need."""
        self._tunnel.settle()
        self.ping(WARM_UP_PINGS)

    def ping(self, count: int) -> list[float]:
        """Round trips in ms."""
        command = ("ping", "-n", "-i", str(PING_EVERY_S), "-c", str(count), "-W", "1", self._tunnel.target)
        done = self._site.near.namespace.run(*command, timeout_s=count * PING_EVERY_S + IPERF_LIMIT_S)
        times = parse_ping(done.stdout)
        if len(times) < count / 2:
            raise LabError(f"only {len(times)} of {count} pings came back: {self._site.last_words()}")
        return times

    def tcp(self, *options: str) -> Transfer:
        return parse_tcp(self._iperf("-t", str(self._effort.tcp_s), *options))

    def udp(self, size: int) -> float:
        """The highest rate without loss, in packets per second."""

        def trial(per_s: float) -> Burst:
            packets = max(50, round(per_s * self._effort.udp_s))
            rate = ("-b", str(round(per_s * size * 8)), "-k", str(packets), "--pacing-timer", "200")
            return parse_udp(self._iperf("-u", "-l", str(size), "-w", self._buffer, *rate))

        return highest_clean_rate(trial, UDP_START_PER_S, UDP_LOWEST_PER_S)

    def ping_under_bulk(self) -> list[float]:
        """Round trips while one TCP stream fills the tunnel."""
        with self._server():
            seconds = str(round(self._effort.pings * PING_EVERY_S + IPERF_LIMIT_S))
            client = self._site.spawn(self._site.near, "iperf3", "-c", self._tunnel.target, "-t", seconds)
            sent_before = self._site.near.sent_bytes()

            def underway() -> bool:
                """the bulk stream flows"""
                return self._site.near.sent_bytes() - sent_before > BULK_UNDERWAY_BYTES

            wait_until(underway, IPERF_LIMIT_S, 0.05)
            times = self.ping(self._effort.pings)
            if client.poll() is not None:
                raise LabError("the bulk stream ended before the pings did")
            end(client)
        return times

    def _iperf(self, *options: str) -> str:
        with self._server():
            command = ("iperf3", "-J", "-c", self._tunnel.target, *options)
            done = self._site.near.namespace.run(*command, timeout_s=self._effort.tcp_s + IPERF_LIMIT_S)
        return done.stdout

    @contextmanager
    def _server(self) -> Iterator[None]:
        """An iperf3 server for one test: no test finds it busy with the one before."""
        server = self._site.spawn(self._site.far, "iperf3", "-s", "-1")
        try:
            wait_for_port(self._site.far, IPERF_PORT)
            yield
        finally:
            end(server)


def measure(system: System, wire: Wire, effort: Effort) -> Sample:
    """All about one system. Raises LabError when it doesn't work."""
    with Site(wire, relay=system.relay) as site:
        tunnel = system.prepare(site)
        measurement = Measurement(site, tunnel, effort)
        sample: Sample = {"start_s": measurement.start_up()}
        measurement.settle()
        idle = measurement.ping(effort.pings)
        before = site.usage()
        forth, back = measurement.tcp(), measurement.tcp("-R")
        after = site.usage()
        carried_gb = (forth.received_bytes + back.received_bytes) / 1e9
        sample |= {
            "tcp1": forth.mbit_per_s,
            "tcp1_back": back.mbit_per_s,
            "tcp4": measurement.tcp("-P", "4").mbit_per_s,
            "tcp4_back": measurement.tcp("-P", "4", "-R").mbit_per_s,
            "rtt_ms": percentile(idle, 0.5),
            "rtt_p99_ms": percentile(idle, 0.99),
        }
        if not wire.loss_percent:
            sample |= {f"udp{size}": measurement.udp(size) for size in UDP_SIZES}
        loaded = measurement.ping_under_bulk()
        sample |= {"bulk_rtt_ms": percentile(loaded, 0.5), "bulk_rtt_p99_ms": percentile(loaded, 0.99)}
        if after.rss_mb:
            sample |= {"cpu_s_per_gb": (after.cpu_s - before.cpu_s) / carried_gb, "rss_mb": site.usage().rss_mb}
        else:
            del sample["start_s"]  # nothing was started
        return sample
