"""Eight real nodes that know one of them: the ring forms, packets flow, and nobody outside learns a thing."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from itertools import permutations
from pathlib import Path

import pytest

from sims.lab.lab import PORT
from sims.lab.namespace import LabError
from sims.lab.work import WEB_PORT, fetch, make_file, ping_all, serve, sha256
from tests.e2e import stranger
from tests.e2e.capture import Capture
from tests.e2e.network import RealNetwork
from tests.patience import PATIENCE_S, Promises, patient

JOIN_LIMIT_S = 5.0
FILE_BYTES = 100_000_000
FETCH_LIMIT_S = 240.0
CAPTURE_TRIES = 3
CANARY = b"<canary: whoever relays this must not read it>"
HANDSHAKES = (b"\x10", b"\x11", b"\x12", b"\x13", b"\x15", b"\x16", b"\x17")


def test_every_node_pings_every_other_by_ipv4_and_ipv6_within_5_s_of_the_last_ready(
    eight: RealNetwork, promises: Promises
) -> None:
    pairs = [
        (eight.host(source), address)
        for source, target in permutations(eight.nodes, 2)
        for address in eight.addresses[target]
    ]
    assert len(pairs) == 8 * 7 * 2
    failed = ping_all(pairs, patient(JOIN_LIMIT_S))
    assert not failed, f"no reply in time: {', '.join(map(str, failed))}"
    promises.measured("all pings answered", time.monotonic() - eight.last_ready_at, JOIN_LIMIT_S)


def test_successors_form_one_cycle_in_id_order(eight: RealNetwork) -> None:
    ring = eight.wait_for_ring(patient(JOIN_LIMIT_S))
    assert [status["node"]["name"] for status in ring] == eight.ring


def test_two_hosts_with_no_wire_between_them_exchange_100_mb_that_the_relay_cannot_read(
    eight: RealNetwork, tmp_path: Path
) -> None:
    getter, giver = (eight.host(name) for name in eight.far_apart())
    eight.lab.cut(getter, giver)
    try:
        eight.seconds_until_reply(getter.name, giver.name, PATIENCE_S)
        (tmp_path / "web").mkdir()
        expected = make_file(tmp_path / "web" / "file", FILE_BYTES, seed=2, canary=CANARY)
        serve(eight.lab, giver, eight.address4(giver.name), tmp_path / "web")
        captured = 0
        for _ in range(CAPTURE_TRIES):  # The way may change, and a busy machine may not write down all it sees.
            relays = [eight.host(name) for name in eight.relays_between(getter.name, giver.name)]
            with ExitStack() as captures:
                on_relays = [
                    captures.enter_context(Capture(relay, "eth0", tmp_path / f"{relay.name}.pcap")) for relay in relays
                ]
                on_tap = Capture(
                    getter, eight.nodes[getter.name].tap, tmp_path / "tap.pcap", f"tcp src port {WEB_PORT}"
                )
                captures.enter_context(on_tap)
                took_s = fetch(getter, eight.address4(giver.name), "file", tmp_path / "copy", FETCH_LIMIT_S)
            names = " and ".join(relay.name for relay in relays)
            print(f"100 MB through {names}: {took_s:.1f} s, {FILE_BYTES * 8 / took_s / 1e6:.0f} Mbit/s")
            assert sha256(tmp_path / "copy") == expected
            captured = sum(capture.file.stat().st_size for capture in on_relays)
            assert on_tap.holds(CANARY), "the canary must be visible where it is plain, or its absence proves nothing"
            assert not any(capture.holds(CANARY) for capture in on_relays), "a relay saw the canary"
            for file in tmp_path.glob("*.pcap"):
                file.unlink()
            if captured > 2 * FILE_BYTES:
                break
        assert captured > 2 * FILE_BYTES, "the captures must hold all that came in and went out, or they prove nothing"
    finally:
        eight.lab.mend(getter, giver)


def test_ring_neighbours_with_no_wire_between_them_reach_each_other(eight: RealNetwork) -> None:
    pairs = list(zip(eight.ring[::2], eight.ring[1::2], strict=True))
    try:
        for one, other in pairs:
            eight.lab.cut(eight.host(one), eight.host(other))
        failed = ping_all([(eight.host(one), eight.address4(other)) for one, other in pairs], limit_s=8)
        assert not failed, f"no reply in time: {', '.join(map(str, failed))}"
    finally:
        for one, other in pairs:
            eight.lab.mend(eight.host(one), eight.host(other))


def test_large_and_fragmented_packets_arrive_whole(eight: RealNetwork) -> None:
    ping = ("ping", "-q", "-n", "-c", "3", "-i", "0.2", "-W", "2")
    for target in eight.addresses["fir"]:
        for size in (0, 1200, 4000, 20_000):
            done = eight.host("birch").namespace.run(*ping, "-s", str(size), target)
            assert done.returncode == 0, f"{size} bytes to {target}: {done.stdout}"


@pytest.mark.parametrize("address", ["10.77.200.200", "ghost6"])
def test_an_address_that_nobody_has_fails_at_once_instead_of_hanging(
    eight: RealNetwork, address: str, promises: Promises
) -> None:
    if address == "ghost6":
        address = eight.address6("fir").rsplit(":", 3)[0] + ":dead:dead:dead"
    start = time.monotonic()
    ping = eight.host("birch").namespace.run(
        "ping", "-n", "-c", "1", "-w", str(round(PATIENCE_S)), address, timeout_s=2 * PATIENCE_S
    )
    assert ping.returncode != 0
    assert "nreachable" in ping.stdout, ping.stdout
    with pytest.raises(LabError, match=r"(?i)no route to host|couldn't connect|could not connect|failed to connect"):
        fetch(eight.host("birch"), address, "file", Path("/dev/null"), limit_s=PATIENCE_S)
    promises.measured("ping and download refused", time.monotonic() - start, 10.0)


def test_ssh_works_between_virtual_addresses(eight: RealNetwork, tmp_path: Path) -> None:
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        pytest.skip("sshd can't change users inside a user namespace")
    separation = Path("/run/sshd")
    made = not separation.exists()
    separation.mkdir(mode=0o755, exist_ok=True)
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True)
    settings = {
        "HostKey": tmp_path / "host_key",
        "AuthorizedKeysFile": tmp_path / "user_key.pub",
        "ListenAddress": eight.address4("hazel"),
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "PidFile": "none",
        "UsePAM": "no",
    }
    (tmp_path / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    sshd = shutil.which("sshd")
    assert sshd is not None
    daemon = eight.lab.spawn(eight.host("hazel"), sshd, "-D", "-e", "-f", tmp_path / "sshd_config")
    options = {
        "IdentityFile": tmp_path / "user_key",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "ConnectionAttempts": "30",
        "BatchMode": "yes",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    ssh = ("ssh", "-F", "none", *words, f"root@{eight.address4('hazel')}")
    text = "".join(f"line {number}\n" for number in range(200_000))
    try:
        done = eight.host("ivy").namespace.run(*ssh, "cat; hostname >&2", stdin_text=text, timeout_s=4 * PATIENCE_S)
    finally:
        daemon.terminate()
        if made:
            with suppress(OSError):
                separation.rmdir()
    assert done.returncode == 0, done.stderr
    assert done.stdout == text


def test_a_stranger_gets_not_one_byte_back_and_fills_no_log(eight: RealNetwork, tmp_path: Path) -> None:
    rng = random.Random(7)
    victim, other = eight.host("elder"), eight.host("alder")
    with Capture(victim, "eth0", tmp_path / "old.pcap", f"udp port {PORT}") as capture:
        eight.nodes["elder"].ask("down")
        eight.nodes["elder"].process.wait(PATIENCE_S)
        eight.restart("elder").wait_ready()
        eight.seconds_until_reply("alder", "elder", PATIENCE_S)
        time.sleep(3)
    old = list(dict.fromkeys(payload for _, _, payload in capture.datagrams() if payload))
    # What came while nobody listened never arrived: sent again, it is only late. All others are repetitions.
    answered = {payload[8:12] for payload in old if payload[:1] == b"\x12"}
    arrived = [payload for payload in old if payload[:1] != b"\x11" or payload[4:8] in answered]
    handshakes = [payload for payload in arrived if payload[:1] in HANDSHAKES][:60]
    assert any(payload[0] == 0x11 for payload in handshakes), "no handshake was captured"
    transport = [payload for payload in old if payload[:1] not in HANDSHAKES][:500]
    noise = [rng.randbytes(rng.choice((0, 1, 16, 31, 32, 148, 500, 1200, 1400))) for _ in range(500)]
    typed = [bytes((first,)) + rng.randbytes(rng.randrange(0, 1300)) for first in range(256)]
    cut = [payload[: rng.randrange(1, len(payload))] for payload in handshakes for _ in range(3)]
    flipped = [bytes((*payload[:-20], payload[-20] ^ 1, *payload[-19:])) for payload in handshakes if len(payload) > 20]
    outsider = eight.lab.add("outsider")
    eight.lab.wait_for_wires()
    watch = Capture(outsider, "eth0", tmp_path / "outsider.pcap", f"ip and dst host {outsider.underlay4}")
    lines_before = {host.name: len(eight.nodes[host.name].log().splitlines()) for host in (victim, other)}
    start = time.monotonic()
    with watch:
        for host in (victim, other):
            for datagrams, pause_s in (
                (handshakes, 0.03),
                (noise + typed + cut + flipped + transport + handshakes * 5, 0.0),
            ):
                text = "".join(datagram.hex() + "\n" for datagram in datagrams)
                done = outsider.namespace.run(
                    sys.executable, stranger.__file__, host.underlay4, str(PORT), str(pause_s), stdin_text=text
                )
                assert done.returncode == 0, done.stderr
                assert done.stdout == "", f"{host.name} answered: {done.stdout}"
    assert not list(watch.frames()), "something came back, if only an ICMP message"
    for host in (victim, other):
        logged = eight.nodes[host.name].log().splitlines()[lines_before[host.name] :]
        took_s = time.monotonic() - start
        # A line a second about the stranger, and perhaps a word about something else.
        assert len(logged) <= took_s + 3, "\n".join(logged[-20:])
    eight.seconds_until_reply("alder", "elder", PATIENCE_S)
