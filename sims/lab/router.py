"""A router with a NAT of a given type †, by nftables alone, in the terms of RFC 4787; see `sims.lab.plan`.

How the types come about: Linux's own NAT maps independently of the endpoint as long as a mapping exists, and lets in
only what belongs to it (`port`); `fully-random` makes it choose a port for each peer (`sym`). For `full` and `addr` a
chain behind the translation learns which outside port leads where, and for whom it is open; what comes in unasked is
translated by that map.

Unsolicited packets to the router itself must be dropped before conntrack confirms them: else an early punch from a
peer takes the tuple, and the host's own packet to that peer gets another port than all its others.

IPv6 isn't translated: the router answers for its hosts' addresses (neighbour proxy) and lets in what they asked for.
"""

from __future__ import annotations

import sys

from sims.lab.namespace import LabError, Namespace
from sims.lab.plan import NatType, SitePlan
from sims.lab.switch import Switch, nft
from sims.lab.wires import Wires

RULES = """\
table ip nat
delete table ip nat
table ip nat {{
    map inside {{
        typeof udp sport : ip saddr . udp sport
        flags dynamic,timeout
        timeout {timeout_s}s
        size 65535
    }}
    set open_ports {{ typeof udp sport; flags dynamic,timeout; timeout {timeout_s}s; size 65535; }}
    set open_peers {{ typeof ip saddr . udp sport; flags dynamic,timeout; timeout {timeout_s}s; size 65535; }}
    chain arriving {{
        type nat hook prerouting priority dstnat
        {unasked}
        {hairpin}
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat
        iifname "lan" oifname "lan" ct status dnat meta l4proto udp snat ip to {wan}{ports}
        oifname "wan" meta l4proto udp masquerade {how}
        oifname "wan" masquerade
    }}
    chain learning {{
        type filter hook postrouting priority 110
        oifname "wan" ip protocol udp update @inside {{ udp sport : ct original ip saddr . ct original proto-src }}
        oifname "wan" ip protocol udp update @open_ports {{ udp sport }}
        oifname "wan" ip protocol udp update @open_peers {{ ip daddr . udp sport }}
    }}
    chain crossing {{
        type filter hook forward priority 0
        ct state established,related accept
        {gate}
        iifname "wan" drop
    }}
    chain unsolicited {{
        type filter hook input priority 0
        ct state established,related accept
        iifname "wan" drop
    }}
}}
"""
RULES6 = """\
table ip6 firewall {
    chain crossing {
        type filter hook forward priority 0
        ct state established,related accept
        meta l4proto ipv6-icmp accept
        iifname "wan" drop
    }
}
"""
UNASKED = 'iifname "wan" ip daddr {wan} ip protocol udp dnat ip to udp dport map @inside'
HAIRPIN = 'iifname "lan" ip daddr {wan} ip protocol udp dnat ip to udp dport map @inside'
GATES = {
    NatType.FULL: 'iifname "wan" ip protocol udp ct original proto-dst @open_ports accept',
    NatType.ADDR: 'iifname "wan" ip protocol udp ip saddr . ct original proto-dst @open_peers accept',
}
# After a NAT has been rebound, outside ports come from one of these in turn: no mapping keeps its port.
PORT_RANGES = (range(20_000, 30_000), range(30_000, 40_000))


def rules(plan: SitePlan, nat: NatType, wan: str, ports: range | None) -> str:
    """The nftables rules of such a NAT. `ports` None: it keeps a host's port where it can."""
    suffix = f":{ports.start}-{ports.stop - 1}" if ports else ""
    return RULES.format(
        wan=wan,
        timeout_s=plan.udp_timeout_s,
        unasked=UNASKED.format(wan=wan) if nat in GATES else "",
        hairpin=HAIRPIN.format(wan=wan) if plan.hairpin else "",
        gate=GATES.get(nat, ""),
        ports=suffix,
        how="fully-random" if nat is NatType.SYM else f"to {suffix}" if suffix else "",
    )


class Router:
    """A namespace with the interface `wan`, which whoever makes this plugs in somewhere, and the bridge `lan`."""

    def __init__(self, name: str, plan: SitePlan, nat: NatType, lan: str, wires: Wires) -> None:
        self.namespace = Namespace(name)
        self._plan, self._nat = plan, nat
        self._wan = ""
        self._rebound = 0
        try:
            self.lan = Switch(self.namespace, "lan", wires)
            self.namespace.ip(f"addr add {lan} dev lan", "addr add fe80::1/64 dev lan nodad")
            sysctl(
                self.namespace,
                "net.ipv4.ip_forward=1",
                f"net.netfilter.nf_conntrack_udp_timeout={plan.udp_timeout_s}",
                f"net.netfilter.nf_conntrack_udp_timeout_stream={plan.udp_stream_timeout_s}",
            )
        except BaseException:
            self.namespace.close()
            raise

    def set_wan(self, address: str, length: int, gateway: str | None) -> None:
        """Its outside address, in place of the one it had, and the way out where that isn't everybody's link."""
        old = f"{self._wan}/{length}"
        self.namespace.ip(
            *([f"addr del {old} dev wan"] if self._wan else []),
            f"addr add {address}/{length} dev wan",
            *([f"route replace default via {gateway}"] if gateway else []),
        )
        self._wan = address
        self._load()

    def set_wan6(self, address: str) -> None:
        self.namespace.ip(f"addr add {address}/64 dev wan nodad")
        sysctl(
            self.namespace,
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.wan.proxy_ndp=1",
            "net.ipv6.neigh.wan.proxy_delay=0",
        )
        nft(self.namespace, RULES6)

    def answer_for(self, address6: str) -> None:
        """Take what is for this address of a host inside."""
        self.namespace.ip(f"neigh replace proxy {address6} dev wan", f"route replace {address6}/128 dev lan")

    def forget(self, address6: str) -> None:
        self.namespace.ip(f"neigh del proxy {address6} dev wan", f"route del {address6}/128 dev lan")

    def rebind(self) -> None:
        """Forget every mapping, as when it is switched off and on again; new ones have other ports."""
        self._rebound += 1
        self._load()
        done = self.namespace.run(sys.executable, "-m", "sims.lab.conntrack")
        if done.returncode != 0:
            raise LabError(f"the mappings of {self.namespace.name} can't be flushed: {done.stderr.strip()[-200:]}")

    def _load(self) -> None:
        ports = PORT_RANGES[self._rebound % len(PORT_RANGES)] if self._rebound else None
        nft(self.namespace, rules(self._plan, self._nat, self._wan, ports))

    def close(self) -> None:
        self.namespace.close()


def sysctl(namespace: Namespace, *settings: str) -> None:
    """Write `name=value` settings. Raises LabError when the kernel refuses one."""
    # Not by sysctl(8), which a machine may lack. The holder's /proc shows the settings of its own network namespace
    # to whoever is inside of it.
    lines = [name.replace(".", "/") + " " + value for name, _, value in (line.partition("=") for line in settings)]
    loop = 'while read -r name value; do echo "$value" > /proc/sys/$name || exit 1; done'
    done = namespace.run("sh", "-c", loop, stdin_text="\n".join(lines) + "\n")
    if done.returncode != 0:
        raise LabError(f"a setting is refused in the namespace of {namespace.name}: {done.stderr.strip()}")
