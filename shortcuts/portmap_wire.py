"""What is said to a gateway at UDP port 5351, and what it answers: NAT-PMP and PCP. Pure: no clock, no I/O.

Only what a mapping of one UDP port needs: PCP's MAP and ANNOUNCE, without options; NAT-PMP's address and mapping
requests. IPv4 only, as port mapping is. Lifetimes and epochs are seconds.

Source: RFC 6886, sections 3.2 to 3.6; RFC 6887, sections 7, 8.5, 11.1 and 14.1.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Final

from dht.errors import BadDatagram
from dht.host import Endpoint

GATEWAY_PORT: Final = 5351
ANNOUNCE_PORT: Final = 5350
ANNOUNCE_GROUP: Final = "224.0.0.1"
NONCE_BYTES: Final = 12
MAX_PCP_BYTES: Final = 1100
MAX_LIFETIME_S: Final = 86_400  # a longer one is believed no longer than this

PMP_VERSION: Final = 0
PCP_VERSION: Final = 2
_PMP_ADDRESS: Final = 0
_PMP_MAP_UDP: Final = 1
_PCP_ANNOUNCE: Final = 0
_PCP_MAP: Final = 1
_RESPONSE: Final = 0x80
_UDP: Final = 17
_MAPPED4: Final = bytes(10) + b"\xff\xff"

_PMP_MAP_REQUEST: Final = Struct(">BBHHHI")  # version, op, reserved, internal port, external port, lifetime
_PMP_HEADER: Final = Struct(">BBHI")  # version, op, result, epoch
_PMP_MAP_BODY: Final = Struct(">HHI")  # internal port, external port, lifetime
_PCP_REQUEST: Final = Struct(">BBHI16s")  # version, opcode, reserved, lifetime, client's address
_PCP_HEADER: Final = Struct(">BBBBII12s")  # version, opcode, reserved, result, lifetime, epoch, reserved
_PCP_MAP_BODY: Final = Struct(">12sB3xHH16s")  # nonce, protocol, internal port, external port, external address


class PmpResult(IntEnum):
    """NAT-PMP's result codes, other than success."""

    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


class PcpResult(IntEnum):
    """PCP's result codes, other than success."""

    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True)
class PmpAddress:
    """NAT-PMP: the gateway's external address. Also what it announces after a restart."""

    epoch_s: int
    address: str


@dataclass(frozen=True, slots=True)
class PmpMapping:
    """NAT-PMP: `external_port` leads to `internal_port` for `lifetime_s` seconds; 0 after a deletion."""

    epoch_s: int
    internal_port: int
    external_port: int
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class PcpMapping:
    """PCP: `external` leads to `internal_port` for `lifetime_s` seconds; 0 and None after a deletion."""

    epoch_s: int
    nonce: bytes
    internal_port: int
    external: Endpoint | None
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class PcpAnnouncement:
    """PCP: the server is there, perhaps anew."""

    epoch_s: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The gateway will not, and says why. `version` is the protocol it speaks."""

    version: int
    result: int
    reason: str


Answer = PmpAddress | PmpMapping | PcpMapping | PcpAnnouncement | Refusal


def ask_pmp_address() -> bytes:
    """NAT-PMP: what is your external address?"""
    return bytes((PMP_VERSION, _PMP_ADDRESS))


def ask_pmp_mapping(internal_port: int, external_port: int, lifetime_s: int) -> bytes:
    """NAT-PMP: map a UDP port, preferably from `external_port`; lifetime 0 deletes the mapping."""
    wanted = external_port if lifetime_s else 0
    return _PMP_MAP_REQUEST.pack(PMP_VERSION, _PMP_MAP_UDP, 0, internal_port, wanted, lifetime_s)


def ask_pcp_mapping(client: str, nonce: bytes, internal_port: int, external: Endpoint | None, lifetime_s: int) -> bytes:
    """PCP: map a UDP port of `client`, this host's IPv4 address on the way to the gateway, preferably from
    `external`; lifetime 0 deletes the mapping."""
    port, address = (0, "0.0.0.0") if external is None or not lifetime_s else (external.port, external.address)
    header = _PCP_REQUEST.pack(PCP_VERSION, _PCP_MAP, 0, lifetime_s, _clothed(client))
    return header + _PCP_MAP_BODY.pack(nonce, _UDP, internal_port, port, _clothed(address))


def read(datagram: bytes) -> Answer:
    """What the gateway said, in either protocol. Raises BadDatagram."""
    if len(datagram) < 4 or len(datagram) > MAX_PCP_BYTES:
        raise BadDatagram(f"a gateway's answer of {len(datagram)} bytes")
    if not datagram[1] & _RESPONSE:
        raise BadDatagram("a question, where only a gateway's answers belong")
    match datagram[0]:
        case 0:
            return _read_pmp(datagram)
        case 2:
            return _read_pcp(datagram)
        case version:
            # RFC 6887, section 9: a server that speaks other versions only says so in its own.
            return Refusal(version, PcpResult.UNSUPP_VERSION, "it speaks another version of PCP")


def lost_state(before_s: int, after_s: int, elapsed_s: float) -> bool:
    """Whether a gateway whose epoch was `before_s` and, `elapsed_s` seconds of ours later, `after_s`, has forgotten
    its mappings between. Clocks may be off by a sixteenth (RFC 6887, section 8.5)."""
    advance_s = after_s - before_s
    if advance_s < -1:
        return True
    return elapsed_s + 2 < advance_s - advance_s / 16 or advance_s + 2 < elapsed_s - elapsed_s / 16


def can_be_public(address: str) -> bool:
    """Whether an IPv4 address may be reached from everywhere: not private, a carrier's (RFC 6598), link-local,
    loopback, multicast or reserved. The ranges set aside for documentation and benchmarks count as public: nobody
    meets them outside a laboratory."""
    parsed = ipaddress.ip_address(address)
    return not any(parsed in hidden for hidden in _hidden()) if parsed.version == 4 else parsed.is_global


@lru_cache(maxsize=1)
def _hidden() -> tuple[ipaddress.IPv4Network, ...]:
    texts = (
        "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.168.0.0/16"
        " 224.0.0.0/3"
    )
    return tuple(map(ipaddress.IPv4Network, texts.split()))


def _read_pmp(datagram: bytes) -> Answer:
    if len(datagram) < _PMP_HEADER.size:
        raise BadDatagram("a NAT-PMP answer that ends within its header")
    _, op, result, epoch_s = _PMP_HEADER.unpack_from(datagram)
    body = datagram[_PMP_HEADER.size :]
    if result:
        return Refusal(PMP_VERSION, result, _reason(PmpResult, result))
    match op & ~_RESPONSE, len(body):
        case 0, 4:
            return PmpAddress(epoch_s, str(ipaddress.IPv4Address(body)))
        case 1, 8:
            internal, external, lifetime_s = _PMP_MAP_BODY.unpack(body)
            if lifetime_s and not external:
                raise BadDatagram("a NAT-PMP mapping of port 0")
            return PmpMapping(epoch_s, internal, external, min(lifetime_s, MAX_LIFETIME_S))
    raise BadDatagram(f"a NAT-PMP answer of kind {op} with {len(datagram)} bytes")


def _read_pcp(datagram: bytes) -> Answer:
    if len(datagram) < _PCP_HEADER.size or len(datagram) % 4:
        raise BadDatagram(f"a PCP answer of {len(datagram)} bytes")
    _, op, _, result, lifetime_s, epoch_s, _ = _PCP_HEADER.unpack_from(datagram)
    if result:
        return Refusal(PCP_VERSION, result, _reason(PcpResult, result))
    match op & ~_RESPONSE:
        case 0:
            return PcpAnnouncement(epoch_s)
        case 1 if len(datagram) >= _PCP_HEADER.size + _PCP_MAP_BODY.size:
            nonce, protocol, internal, port, address = _PCP_MAP_BODY.unpack_from(datagram, _PCP_HEADER.size)
            if protocol != _UDP:
                raise BadDatagram(f"a PCP mapping of protocol {protocol}")
            external = None
            if lifetime_s:
                if address[:12] != _MAPPED4:
                    raise BadDatagram("a PCP mapping from an address that is not IPv4")
                external = Endpoint.parse(address[12:] + port.to_bytes(2, "big"))
            return PcpMapping(epoch_s, nonce, internal, external, min(lifetime_s, MAX_LIFETIME_S))
    raise BadDatagram(f"a PCP answer of kind {op} with {len(datagram)} bytes")


def _clothed(address: str) -> bytes:
    return _MAPPED4 + ipaddress.IPv4Address(address).packed


def _reason(results: type[PmpResult] | type[PcpResult], result: int) -> str:
    try:
        return results(result).name.lower().replace("_", " ")
    except ValueError:
        return f"result {result}"
