"""The tunnels that `make bench` compares †: how each is set up between two machines, as its manual says.

A system prepares keys and configuration; then the far machine's part starts and listens; then the near machine's part
starts, which is when the clock of "start-up until the first ping" begins.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dht.certificate import Member
from ipop.bundle import Bundle
from sims.lab.bench_site import LIMIT_S, Machine, Site
from sims.lab.bench_table import OPENVPN, P2PVPN, RAW, RELAYED
from sims.lab.lab import COMMAND, PORT, wait_until
from sims.lab.namespace import missing_tools
from sims.lab.node import LabNode

NEAR, FAR = "10.77.0.1", "10.77.0.2"
PATH_LIMIT_S = 30.0


def nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A system prepared on a site."""

    target: str  # The far machine's address inside the tunnel.
    start_far: Callable[[], None]
    start_near: Callable[[], None]
    # Called after the first ping: waits until the tunnel takes the path that is to be measured.
    settle: Callable[[], None] = nothing


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table."""

    name: str
    prepare: Callable[[Site], Tunnel]
    commands: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    relay: bool = False

    def missing(self) -> list[str]:
        return missing_tools(self.commands)


def wait_for_port(machine: Machine, port: int) -> None:
    def listens() -> bool:
        """the tunnel's port is bound"""
        return machine.listens_on(port)

    wait_until(listens, LIMIT_S, 0.01)


def wait_for_interface(machine: Machine, name: str) -> None:
    def there() -> bool:
        """the tunnel's interface is there"""
        return machine.has_interface(name)

    wait_until(there, LIMIT_S, 0.01)


def raw(site: Site) -> Tunnel:
    return Tunnel(site.far.underlay, nothing, nothing)


def openvpn(site: Site) -> Tunnel:
    """TLS with pinned certificates and AES-256-GCM, the default cipher."""
    for name in ("near", "far"):
        site.tool(
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "30", "-subj", f"/CN={name}"),
            *("-keyout", site.folder / f"{name}.key", "-out", site.folder / f"{name}.crt"),
        )

    def configure(name: str, other: str, address: str, role: str) -> None:
        certificate = site.folder / f"{other}.crt"
        printed = site.tool("openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256")
        fingerprint = printed.strip().split("=")[1]
        files = f"cert {site.folder}/{name}.crt\nkey {site.folder}/{name}.key\ndh none\n"
        device = f"dev tunvpn\ndev-type tun\ntopology subnet\nifconfig {address} 255.255.255.0\nproto udp\n"
        ciphers = "data-ciphers AES-256-GCM\n"
        site.write(f"{name}.conf", f"{role}{files}{device}{ciphers}peer-fingerprint {fingerprint}\n")

    configure("near", "far", NEAR, f"tls-client\nremote {site.far.underlay} 1194\nnobind\n")
    configure("far", "near", FAR, "tls-server\nlport 1194\n")

    def start_far() -> None:
        site.start(site.far, "openvpn", "--config", site.folder / "far.conf")
        wait_for_port(site.far, 1194)

    return Tunnel(FAR, start_far, lambda: site.start(site.near, "openvpn", "--config", site.folder / "near.conf"))


def wireguard_go(site: Site) -> Tunnel:
    # Its control sockets are in one directory for all namespaces: other runs must have other names.
    names = {machine.name: f"w{machine.namespace.pid}" for machine in (site.near, site.far)}
    public = {}
    for name in names:
        private = site.tool("wg", "genkey")
        site.write(f"{name}.key", private)
        public[name] = site.tool("wg", "pubkey", stdin_text=private).strip()

    def start(machine: Machine, other: Machine, address: str, other_address: str) -> None:
        interface = names[machine.name]
        site.start(machine, "wireguard-go", "-f", interface, environment={"WG_PROCESS_FOREGROUND": "1"})
        wait_until(Path(f"/var/run/wireguard/{interface}.sock").exists, LIMIT_S, 0.01)
        key = site.folder / f"{machine.name}.key"
        peer = (public[other.name], "allowed-ips", f"{other_address}/32", "endpoint", f"{other.underlay}:5000")
        site.on(machine, "wg", "set", interface, "private-key", key, "listen-port", "5000", "peer", *peer)
        machine.namespace.ip(f"addr add {address}/24 dev {interface}", f"link set {interface} mtu 1420 up")

    return Tunnel(
        FAR,
        lambda: start(site.far, site.near, FAR, NEAR),
        lambda: start(site.near, site.far, NEAR, FAR),
    )


def tinc(site: Site) -> Tunnel:
    ends = ((site.near, NEAR), (site.far, FAR))
    for machine, address in ends:
        folder = site.folder / machine.name
        other = site.far if machine is site.near else site.near
        connect = f"ConnectTo={other.name}\n" if machine is site.near else ""
        device = "Device=/dev/net/tun\nInterface=tinc\nAddressFamily=ipv4\n"
        site.write(f"{machine.name}/tinc.conf", f"Name={machine.name}\n{device}{connect}")
        up = f"#!/bin/sh\nip addr add {address}/24 dev $INTERFACE\nip link set $INTERFACE up\n"
        site.write(f"{machine.name}/tinc-up", up, 0o700)
        site.write(f"{machine.name}/hosts/{machine.name}", f"Address={machine.underlay}\nSubnet={address}/32\n")
        if missing_tools(["tinc"]):
            site.tool("tincd", "-c", folder, "-K", "2048", stdin_text="\n\n")
        else:  # tinc 1.1
            site.tool("tinc", "-b", "-c", folder, "generate-ed25519-keys")
    for name, other_name in (("near", "far"), ("far", "near")):
        shutil.copy(site.folder / name / "hosts" / name, site.folder / other_name / "hosts" / name)

    def start(machine: Machine) -> None:
        pid_file = f"--pidfile={site.folder}/{machine.name}.pid"
        site.start(machine, "tincd", "-c", site.folder / machine.name, "-D", "-d1", pid_file)

    def start_far() -> None:
        start(site.far)
        wait_for_port(site.far, 655)

    return Tunnel(FAR, start_far, lambda: start(site.near))


def n2n(site: Site) -> Tunnel:
    """Its rendezvous (supernode) is on the far machine. Version 1 encrypts with Twofish, 3 is told to use AES."""
    new = "-A" in site.near.namespace.run("edge", "-h").stdout
    supernode = ("-p", "7654", "-f") if new else ("-l", "7654")
    options = ("-A3", "-f", "-u", "0", "-g", "0") if new else ()

    def edge(machine: Machine, address: str) -> None:
        names = ("-d", "n2n", "-a", address, "-c", "bench", "-k", "secret")
        # Two edges of one machine would choose their address alike: they draw it from the clock.
        hardware = ("-m", f"02:00:00:00:77:0{address[-1]}")
        site.start(machine, "edge", *names, *hardware, "-l", f"{site.far.underlay}:7654", *options)

    def start_far() -> None:
        site.start(site.far, "supernode", *supernode)
        wait_for_port(site.far, 7654)
        edge(site.far, FAR)
        wait_for_interface(site.far, "n2n")

    return Tunnel(FAR, start_far, lambda: edge(site.near, NEAR))


def nebula(site: Site) -> Tunnel:
    """The far machine is the lighthouse. AES-256-GCM, an MTU of 1400, and a firewall that lets all pass."""
    authority = ("-ca-crt", site.folder / "ca.crt", "-ca-key", site.folder / "ca.key")
    new = ("-out-crt", site.folder / "ca.crt", "-out-key", site.folder / "ca.key")
    site.tool("nebula-cert", "ca", "-name", "bench", *new)
    everything = [{"port": "any", "proto": "any", "host": "any"}]

    def configure(name: str, address: str, lighthouse: bool) -> None:
        files = {"cert": site.folder / f"{name}.crt", "key": site.folder / f"{name}.key"}
        out = ("-out-crt", files["cert"], "-out-key", files["key"])
        site.tool("nebula-cert", "sign", *authority, "-name", name, "-ip", f"{address}/24", *out)
        config = {  # YAML, of which JSON is a part
            "pki": {"ca": str(site.folder / "ca.crt"), **{kind: str(path) for kind, path in files.items()}},
            "static_host_map": {FAR: [f"{site.far.underlay}:4242"]},
            "lighthouse": {"am_lighthouse": lighthouse, "hosts": [] if lighthouse else [FAR]},
            "listen": {"host": "0.0.0.0", "port": 4242},
            "cipher": "aes",
            "tun": {"dev": "nebula", "mtu": 1400},
            "logging": {"level": "warning", "format": "text"},
            "firewall": {"outbound": everything, "inbound": everything},
        }
        site.write(f"{name}.yml", json.dumps(config))

    configure("near", NEAR, lighthouse=False)
    configure("far", FAR, lighthouse=True)

    def start_far() -> None:
        site.start(site.far, "nebula", "-config", site.folder / "far.yml")
        wait_for_port(site.far, 4242)
        wait_for_interface(site.far, "nebula")

    return Tunnel(FAR, start_far, lambda: site.start(site.near, "nebula", "-config", site.folder / "near.yml"))


def fastd(site: Site) -> Tunnel:
    """Its fastest cipher that Debian builds for every machine, as its manual recommends."""
    secrets, public = {}, {}
    for name in ("near", "far"):
        secrets[name] = site.tool("fastd", "--generate-key", "--machine-readable").strip()
        show = ("fastd", "--show-key", "--machine-readable", "--config", "-")
        public[name] = site.tool(*show, stdin_text=f'secret "{secrets[name]}";').strip()

    def configure(machine: Machine, other: Machine, address: str) -> None:
        up = f"ip addr add {address}/24 dev $INTERFACE; ip link set $INTERFACE up"
        device = f'mode tap;\ninterface "fastd";\nmtu 1400;\non up "{up}";\n'
        keys = f'method "salsa2012+umac";\nsecret "{secrets[machine.name]}";\n'
        peer = f'peer "{other.name}" {{ key "{public[other.name]}"; remote {other.underlay} port 5555; }}\n'
        site.write(f"{machine.name}.conf", f"log level info;\nbind any:5555;\n{device}{keys}{peer}")

    configure(site.near, site.far, NEAR)
    configure(site.far, site.near, FAR)

    def start_far() -> None:
        site.start(site.far, "fastd", "-c", site.folder / "far.conf")
        wait_for_port(site.far, 5555)

    return Tunnel(FAR, start_far, lambda: site.start(site.near, "fastd", "-c", site.folder / "near.conf"))


def yggdrasil(site: Site) -> Tunnel:
    """One TCP link from the near to the far machine; no multicast discovery."""

    def configure(name: str) -> str:
        config = json.loads(site.tool("yggdrasil", "-genconf", "-json"))
        config |= {"AdminListen": "none", "IfName": "ygg", "MulticastInterfaces": [], "Listen": [], "Peers": []}
        if name == "far":
            config["Listen"] = ["tcp://0.0.0.0:9001"]
        else:
            config["Peers"] = [f"tcp://{site.far.underlay}:9001"]
        file = site.write(f"{name}.conf", json.dumps(config))
        return site.tool("yggdrasil", "-useconffile", file, "-address").strip()

    configure("near")
    target = configure("far")

    def start_far() -> None:
        site.start(site.far, "yggdrasil", "-useconffile", site.folder / "far.conf")
        wait_for_port(site.far, 9001)

    near = ("yggdrasil", "-useconffile", site.folder / "near.conf")
    return Tunnel(target, start_far, lambda: site.start(site.near, *near))


def issue_all(site: Site) -> dict[str, Path]:
    """A bundle for each machine, by its name."""
    site.tool(COMMAND, "init", "bench", "--subnet", "10.77.0.0/16", "--dir", site.folder)
    bundles = {}
    for name in ("near", "far", *(["relay"] if site.relay else [])):
        bundle = site.folder / f"node-{name}" / "bundle"
        bundle.parent.mkdir()
        site.tool(COMMAND, "issue", name, "--ca", site.folder / "bench.ca", "--out", bundle)
        bundles[name] = bundle
    return bundles


def member(bundle: Path) -> Member:
    return Bundle.from_text(bundle.read_text()).member


def p2pvpn(site: Site) -> Tunnel:
    """The working tree's. With a relay, a third node, the only one that the two know and can reach."""
    bundles = issue_all(site)
    far = member(bundles["far"])

    def start(machine: Machine, bootstrap: Machine | None) -> LabNode:
        bundle = bundles[machine.name]
        folder = bundle.parent
        words: list[str | Path] = ["up", bundle, "--listen", f"0.0.0.0:{PORT}"]
        words += ["--state", folder / "state", "--control", folder / "control", "--no-portmap", "--no-lan"]
        if bootstrap is not None:
            words += ["--bootstrap", f"{bootstrap.underlay}:{PORT}"]
        node = LabNode(machine.name, machine.namespace, [COMMAND, *words], folder, [COMMAND])
        site.adopt(node.process)
        return node

    nodes: list[LabNode] = []

    def start_far() -> None:
        if site.relay:
            start(site.relay, None).wait_ready()
        start(site.far, site.relay).wait_ready()

    def path() -> str:
        """The path to the far node; empty as long as there is none."""
        return next((str(peer["path"]) for peer in nodes[0].ask_json("peers") if peer["name"] == far.name), "")

    def settled() -> bool:
        """the path to the far node is direct, or where there is none, a tunnel through the relay"""
        return path() == ("proxy" if site.relay else "direct")

    def settle() -> None:
        wait_until(settled, PATH_LIMIT_S)

    return Tunnel(
        str(far.address4),
        start_far,
        lambda: nodes.append(start(site.near, site.relay or site.far)),
        settle,
    )


SYSTEMS = {
    system.name: system
    for system in (
        System(RAW, raw),
        System(P2PVPN, p2pvpn),
        System(RELAYED, p2pvpn, relay=True),
        System(OPENVPN, openvpn, ("openvpn", "openssl"), ("openvpn", "openssl")),
        System("wireguard-go", wireguard_go, ("wireguard-go", "wg"), ("wireguard-go", "wireguard-tools")),
        System("tinc", tinc, ("tincd",), ("tinc",)),
        System("n2n", n2n, ("edge", "supernode"), ("n2n",)),
        System("nebula", nebula, ("nebula", "nebula-cert"), ("nebula",)),
        System("fastd", fastd, ("fastd",), ("fastd",)),
        System("yggdrasil", yggdrasil, ("yggdrasil",), ("yggdrasil",)),
    )
}
