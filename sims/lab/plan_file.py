"""Reads a laboratory's plan from a TOML file †. Whatever is wrong with the file is one line that names it, the line,
the key, and what to do; a key that nobody reads is refused.

    subnet = "10.77.0.0/16"            # the virtual network's; this is what it is anyway

    [site.home]                        # see sims.lab.plan for what the values mean
    nat = "port"                       # public (default), full, addr, port, sym
    carrier = "sym"                    # a second NAT in front, as a mobile carrier's; none by default
    hairpin = false                    # whether hosts inside reach each other by their outside addresses
    firewall = "open"                  # open (default), stateful, no-udp
    ip = "ipv4"                        # dual (default of public sites), ipv4 (default behind a NAT), ipv6
    udp_timeout_s = 30
    udp_stream_timeout_s = 120
    wire = { delay_ms = 10, jitter_ms = 2, loss_percent = 0.5, duplicate_percent = 0, reorder_percent = 0,
             rate_mbit = 50, blackhole_bytes = 0 }    # on one line in TOML; {} is a perfect wire, to be changed later

    [host.laptop]
    site = "home"
    wire = { delay_ms = 2 }            # its own link at the site
    bootstrap = false                  # whether the others join through it; without any, the first that can be

    [host.server]                      # without `site`, a host has one of its own, of the same name, and its keys
    nat = "full"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, TypeVar

from sims.lab.impairment import KEYS as WIRE_KEYS
from sims.lab.impairment import Impairment
from sims.lab.namespace import LabError
from sims.lab.plan import (
    INTERNET,
    UDP_STREAM_TIMEOUT_S,
    UDP_TIMEOUT_S,
    Family,
    Firewall,
    HostPlan,
    NatType,
    Plan,
    SitePlan,
)
from sims.toml_source import TomlSource, suggestion

TOP_KEYS = ("subnet", "site", "host")
SITE_KEYS = (
    "nat",
    "carrier",
    "hairpin",
    "firewall",
    "ip",
    "udp_timeout_s",
    "udp_stream_timeout_s",
    "wire",
)
HOST_KEYS = ("site", "wire", "bootstrap")
MAX_HOSTS = 100
MAX_TIMEOUT_S = 86_400
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")

Choice = TypeVar("Choice", bound=StrEnum)


class LabFileError(LabError):
    """The file can't be used; the text says where and what to do."""


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises LabFileError."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise LabFileError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise LabFileError(f"{path}: this is no text in UTF-8") from None
    return parse_plan(text, str(path), path.stem)


def parse_plan(text: str, file: str, name: str) -> Plan:
    """The plan in a text; `file` is what errors call it. Raises LabFileError."""
    source = TomlSource(text, file, LabFileError)
    return _Reader(source).plan(source.document(), name)


class _Reader:
    """Knows the text, to say where something is wrong."""

    def __init__(self, source: TomlSource) -> None:
        self._known, self._refuse = source.known, source.refuse

    def plan(self, document: Mapping[str, Any], name: str) -> Plan:
        self._known((), document, TOP_KEYS)
        sites = [self._site(("site", key), table, SITE_KEYS) for key, table in self._tables(document, "site")]
        shared = [site.name for site in sites]
        hosts = []
        for key, table in self._tables(document, "host"):
            where = ("host", key)
            if "site" not in table:
                if key in shared:
                    self._refuse(where, f"there is a site of that name, too: add site = '{key}', or rename one")
                sites.append(self._site(where, table, (*SITE_KEYS, "bootstrap")))
            hosts.append(self._host(where, table, shared))
        if not hosts:
            self._refuse((), "there is no host: add one, such as [host.alice]")
        if len(hosts) > MAX_HOSTS:
            self._refuse((), f"{len(hosts)} hosts are more than the {MAX_HOSTS} that one machine may have")
        subnet = self._subnet(document.get("subnet", "10.77.0.0/16"))
        plan = Plan(name, tuple(sites), tuple(hosts), subnet)
        for host in hosts:
            if host.bootstrap and not plan.reachable(host):
                self._refuse(("host", host.name, "bootstrap"), "the others can't reach it: its site must be public")
        if not plan.bootstraps:
            self._refuse((), "nobody can be the bootstrap: add a host with a public site and an open firewall")
        return plan

    def _site(self, where: tuple[str, ...], table: Mapping[str, Any], keys: Sequence[str]) -> SitePlan:
        if "site" not in keys and "site" in table:
            self._refuse((*where, "site"), "a site is in no other: leave the key out")
        self._known(where, table, keys)
        nat = self._choice(where, table, "nat", NatType, NatType.PUBLIC)
        site = SitePlan(
            name=self._name(where),
            nat=nat,
            carrier=self._choice(where, table, "carrier", NatType, NatType.PUBLIC) if "carrier" in table else None,
            hairpin=self._flag(where, table, "hairpin"),
            firewall=self._choice(where, table, "firewall", Firewall, Firewall.OPEN),
            ip=self._choice(where, table, "ip", Family, Family.DUAL if nat is NatType.PUBLIC else Family.IPV4),
            udp_timeout_s=self._timeout(where, table, "udp_timeout_s", UDP_TIMEOUT_S),
            udp_stream_timeout_s=self._timeout(where, table, "udp_stream_timeout_s", UDP_STREAM_TIMEOUT_S),
            wire=self._wire(where, table),
        )
        if flaw := site.flaw():
            key, why = flaw
            self._refuse((*where, key) if key in table else where, why)
        return site

    def _host(self, where: tuple[str, ...], table: Mapping[str, Any], sites: Sequence[str]) -> HostPlan:
        name, own = self._name(where), "site" not in table
        if not own:
            if misplaced := [key for key in table if key in SITE_KEYS and key not in HOST_KEYS]:
                self._refuse((*where, misplaced[0]), f"this belongs to the site: move it to [site.{table['site']}]")
            self._known(where, table, HOST_KEYS)
        site = name if own else table["site"]
        if not own and (not isinstance(site, str) or site not in sites):
            self._refuse((*where, "site"), f"there is no site {site!r}{suggestion(str(site), sites)}")
        # Without a site of another name, the wire is the site's, see there.
        wire = None if own else self._wire(where, table)
        return HostPlan(name, site, wire, self._flag(where, table, "bootstrap"))

    def _wire(self, where: tuple[str, ...], table: Mapping[str, Any]) -> Impairment | None:
        if "wire" not in table:
            return None
        where, wire = (*where, "wire"), table["wire"]
        if not isinstance(wire, dict):
            self._refuse(where, "this must be a table, such as { delay_ms = 10 }")
        self._known(where, wire, WIRE_KEYS)
        for key, value in wire.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                self._refuse((*where, key), f"{value!r} is no number")
        try:
            return Impairment(**wire)
        except ValueError as error:
            self._refuse(where, str(error))

    def _tables(self, document: Mapping[str, Any], kind: str) -> Iterable[tuple[str, dict[str, Any]]]:
        tables = document.get(kind, {})
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            self._refuse((kind,), f"this must be tables with a name, such as [{kind}.alice]")
        yield from tables.items()

    def _name(self, where: tuple[str, ...]) -> str:
        if not NAME.fullmatch(where[1]) or where[1] == INTERNET:
            self._refuse(where, f"{where[1]!r} is no name here: use a-z, 0-9 and -, at most 31, and not '{INTERNET}'")
        return where[1]

    def _choice(
        self, where: tuple[str, ...], table: Mapping[str, Any], key: str, kind: type[Choice], default: Choice
    ) -> Choice:
        value = table.get(key, default)
        choices = [str(choice) for choice in kind]
        if value not in choices:
            listed = ", ".join(choices)
            self._refuse((*where, key), f"{value!r} is none of {listed}{suggestion(str(value), choices)}")
        return kind(value)

    def _flag(self, where: tuple[str, ...], table: Mapping[str, Any], key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            self._refuse((*where, key), f"{value!r} is neither true nor false")
        return value

    def _timeout(self, where: tuple[str, ...], table: Mapping[str, Any], key: str, default: int) -> int:
        value = table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TIMEOUT_S:
            self._refuse((*where, key), f"{value!r} is no whole number of seconds from 1 to {MAX_TIMEOUT_S}")
        return value

    def _subnet(self, value: Any) -> str:
        try:
            return str(IPv4Network(str(value)))
        except ValueError:
            self._refuse(("subnet",), f"{value!r} is no IPv4 subnet, such as '10.77.0.0/16'")
