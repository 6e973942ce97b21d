"""A switch †: a bridge in a namespace, with ports that can be cut one by one, pair by pair, one way, or for UDP only.

Whoever sends into a cut is not told, not even by an address that can't be resolved any more: ARP and its IPv6 sister
pass all cuts. Cuts are nftables rules of the bridge family, in the order of the frame's way.
"""

from __future__ import annotations

from dataclasses import dataclass

from sims.lab.impairment import Impairment
from sims.lab.namespace import LabError, Namespace
from sims.lab.wires import Wire, Wires

TABLE = """\
table bridge cuts {
    set mute { type ifname; }
    set deaf { type ifname; }
    set pairs { type ifname . ifname; }
    set no_udp { type ifname; }
    chain arriving {
        type filter hook prerouting priority 0
        meta protocol arp accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        iifname @mute drop
        iifname @no_udp meta protocol { ip, ip6 } meta l4proto udp drop
    }
    chain crossing {
        type filter hook forward priority 0
        meta protocol arp accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        iifname . oifname @pairs drop
    }
    chain leaving {
        type filter hook postrouting priority 0
        meta protocol arp accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        oifname @deaf drop
        oifname @no_udp meta protocol { ip, ip6 } meta l4proto udp drop
    }
}
"""
NO_IP_RULES = "for f in /proc/sys/net/bridge/bridge-nf-call-*tables; do [ ! -e $f ] || echo 0 > $f; done"


@dataclass(frozen=True, slots=True)
class Port:
    """Where a link enters a switch."""

    switch: Switch
    name: str
    wire: Wire | None


def nft(namespace: Namespace, rules: str) -> None:
    """Load rules, all of them or none. Raises LabError when nft refuses."""
    done = namespace.run("nft", "-f", "-", stdin_text=rules)
    if done.returncode != 0:
        raise LabError(f"nft failed in the namespace of {namespace.name}: {' '.join(done.stderr.split())[:300]}")


class Switch:
    """A bridge of the given name, in a namespace that may hold other things too."""

    def __init__(self, namespace: Namespace, bridge: str, wires: Wires) -> None:
        self.namespace, self._bridge, self._wires = namespace, bridge, wires
        self._ports = 0
        namespace.ip(f"link add name {bridge} type bridge mcast_snooping 0", f"link set {bridge} up")
        nft(namespace, TABLE)
        # Where br_netfilter is loaded, frames that only pass would be translated as what is routed is.
        namespace.run("sh", "-c", NO_IP_RULES)

    def plug(self, name: str, machine: Namespace, interface: str, impairment: Impairment | None) -> Port:
        """Join a machine: `interface` appears in its namespace, and is up. With an impairment, even a perfect one, the
        link is a wire that can be changed; else a veth pair, which is faster."""
        self._ports += 1
        port = f"{self._bridge}p{self._ports}"
        wire = None
        if impairment is None:
            self.namespace.ip(f"link add name {port} type veth peer name {interface} netns {machine.pid}")
        else:
            wire = self._wires.lay(name, machine, interface, self.namespace, port)
            wire.change(impairment, impairment)
        self.namespace.ip(f"link set {port} master {self._bridge} up")
        machine.ip(f"link set {interface} up")
        return Port(self, port, wire)

    def unplug(self, port: Port) -> None:
        """Remove the link, with the interface at its other end; nothing that was cut there stays so."""
        if port.wire is not None:
            port.wire.close()
        else:
            self.namespace.ip(f"link del {port.name}")

    def forwards(self) -> bool:
        """Whether every port does: the kernel may take a second to see that a link is up."""
        lines = self.namespace.run("bridge", "link", "show").stdout.splitlines()
        return all("state forwarding" in line for line in lines if f"master {self._bridge} " in line)

    def cut(self, source: Port | None, target: Port | None) -> None:
        """Lose what comes from one port and would leave by another; None stands for all others."""
        self._element("add", source, target)

    def mend(self, source: Port | None, target: Port | None) -> None:
        """Undo `cut` of the same ports."""
        self._element("add", source, target)  # What isn't there can't be deleted.
        self._element("delete", source, target)

    def block_udp(self, port: Port) -> None:
        """Lose all UDP in both directions."""
        nft(self.namespace, f'add element bridge cuts no_udp {{ "{port.name}" }}')

    def unblock_udp(self, port: Port) -> None:
        element = f'element bridge cuts no_udp {{ "{port.name}" }}'
        nft(self.namespace, f"add {element}\ndelete {element}")

    def _element(self, verb: str, source: Port | None, target: Port | None) -> None:
        if source is not None and target is not None:
            what = f'pairs {{ "{source.name}" . "{target.name}" }}'
        elif source is not None:
            what = f'mute {{ "{source.name}" }}'
        elif target is not None:
            what = f'deaf {{ "{target.name}" }}'
        else:
            raise ValueError("a cut has at least one end")
        nft(self.namespace, f"{verb} element bridge cuts {what}")
