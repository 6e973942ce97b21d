"""The authority gives no address or id twice, and keeps to what it gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from random import Random
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from dht.certificate import read_certificate
from dht.errors import CertificateRefused
from ipop.authority import (
    BACKDATED_S,
    YEAR_S,
    Authority,
    address_from_text,
    create_authority,
    subnet_from_text,
)
from ipop.errors import SetupError
from tests.fuzzing import fuzzed
from tests.identities import START_S, make_authority

SEED = 13


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(SetupError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def issue(authority: Authority, name: str, address: str | None = None, seed: int = SEED) -> tuple[int, str]:
    """Issues, and says what was given: the id and the IPv4 address."""
    wanted = None if address is None else IPv4Address(address)
    member = authority.issue(name, wanted, START_S, Random(seed)).member
    return member.id, str(member.address4)


def test_addresses_are_given_in_order() -> None:
    authority = make_authority(SEED)
    assert [issue(authority, name, seed=at)[1] for at, name in enumerate(("a", "b", "c"))] == [
        "10.77.0.1",
        "10.77.0.2",
        "10.77.0.3",
    ]


def test_an_address_can_be_chosen_and_is_then_skipped() -> None:
    authority = make_authority(SEED)
    assert issue(authority, "a", "10.77.0.2", 1)[1] == "10.77.0.2"
    assert [issue(authority, name, seed=at)[1] for at, name in enumerate(("b", "c"), 2)] == ["10.77.0.1", "10.77.0.3"]


def test_a_renewal_keeps_id_and_addresses_and_changes_key_and_serial() -> None:
    authority = make_authority(SEED)
    first = authority.issue("alice", IPv4Address("10.77.3.4"), START_S, Random(1))
    authority.issue("bob", None, START_S, Random(2))
    later_s = START_S + 300 * 86400
    second = Authority.from_text(authority.to_text()).issue("alice", None, later_s, Random(3))
    assert second.member.id == first.member.id
    assert (second.member.address4, second.member.address6) == (first.member.address4, first.member.address6)
    assert second.member.public_key != first.member.public_key
    assert second.member.serial > first.member.serial
    assert second.member.not_after == later_s + YEAR_S
    assert second.identity(START_S + YEAR_S + 1).member == second.member


def test_a_renewal_may_name_its_own_address_but_no_other() -> None:
    authority = make_authority(SEED)
    given = issue(authority, "alice", "10.77.3.4")
    assert issue(authority, "alice", "10.77.3.4", 5) == given
    assert "'alice' already has the address 10.77.3.4" in refusal(lambda: issue(authority, "alice", "10.77.3.5"))


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("10.77.0.1", "belongs to 'alice'"),
        ("10.78.0.1", "outside the network's subnet 10.77.0.0/16"),
        ("10.77.0.0", "network or broadcast address"),
        ("10.77.255.255", "network or broadcast address"),
    ],
)
def test_an_address_that_can_not_be_given_is_refused(address: str, reason: str) -> None:
    authority = make_authority(SEED)
    issue(authority, "alice")
    before = authority.to_text()
    assert reason in refusal(lambda: issue(authority, "bob", address))
    assert authority.to_text() == before


@pytest.mark.parametrize("prefix", [30, 29, 28])
def test_a_full_subnet_is_refused_and_renewals_go_on(prefix: int) -> None:
    authority = make_authority(SEED, f"10.77.0.0/{prefix}")
    hosts = 2 ** (32 - prefix) - 2
    given = [issue(authority, f"n{at}", seed=at) for at in range(hosts)]
    assert len({address for _, address in given}) == len({node_id for node_id, _ in given}) == hosts
    assert "every address of" in refusal(lambda: issue(authority, "one-more"))
    assert issue(authority, "n0", seed=99) == given[0]


def test_an_id_is_never_given_twice() -> None:
    authority = make_authority(SEED)
    first, _ = issue(authority, "a", seed=1)
    second, _ = issue(authority, "b", seed=1)  # The same randomness again.
    assert first >> 80 != second >> 80


@pytest.mark.parametrize("name", ["", "Alice", "a b", "a.b", "-a", "a-", "a" * 64, "ä", "10.77.0.1", "a\n", "../a"])
def test_a_name_that_no_node_can_have_is_refused(name: str) -> None:
    assert "can't be a node's name" in refusal(lambda: issue(make_authority(SEED), name))


@pytest.mark.parametrize("name", ["", "Home", "a b", "../a", "a" * 33, "-a", "a/b"])
def test_a_name_that_no_network_can_have_is_refused(name: str) -> None:
    subnet = IPv4Network("10.77.0.0/16")
    assert "can't be a network's name" in refusal(lambda: create_authority(name, subnet, START_S, Random(1)))


@pytest.mark.parametrize("lifetime_s", [0, -1, 1e12, float("nan"), float("inf")])
def test_a_lifetime_that_makes_no_sense_is_refused(lifetime_s: float) -> None:
    authority = make_authority(SEED)
    assert "can't live" in refusal(lambda: authority.issue("a", None, START_S, Random(1), lifetime_s))
    assert not authority.ledger


def test_a_certificate_is_valid_on_hosts_with_a_wrong_clock_and_until_its_end() -> None:
    authority = make_authority(SEED)
    bundle = authority.issue("a", None, START_S, Random(1), 3600)
    for now in (START_S - BACKDATED_S, START_S + 3600):
        read_certificate(authority.network, bundle.certificate, now)
    for now in (START_S - BACKDATED_S - 1, START_S + 3601):
        with pytest.raises(CertificateRefused):
            read_certificate(authority.network, bundle.certificate, now)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.77.0.0", "prefix of 32"),
        ("10.77.0.0/31", "prefix of 31"),
        ("8.0.0.0/7", "prefix of 7"),
        ("0.0.0.0/0", "prefix of 0"),
        ("10.77.0.1/16", "did you mean 10.77.0.0/16?"),
        ("127.0.0.0/8", "hosts can't use"),
        ("169.254.7.0/24", "hosts can't use"),
        ("224.0.0.0/8", "hosts can't use"),
        ("255.0.0.0/8", "hosts can't use"),
        ("10.77.0.0/33", "is not an IPv4 subnet"),
        ("fd00::/8", "is not an IPv4 subnet"),
        ("home\n", "is not an IPv4 subnet"),
    ],
)
def test_a_subnet_that_can_not_be_used_is_refused(text: str, reason: str) -> None:
    assert reason in refusal(lambda: subnet_from_text(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [("10.77.0", "is not an IPv4 address"), ("10.77.0.1/16", "is not an IPv4 address"), ("fd00::1", "IPv6 address")],
)
def test_an_address_as_users_mistype_it_is_refused(text: str, reason: str) -> None:
    assert reason in refusal(lambda: address_from_text(text))


def test_an_authority_survives_as_text() -> None:
    authority = make_authority(SEED)
    for at in range(20):
        issue(authority, f"n{at}", seed=at)
    again = Authority.from_text(authority.to_text())
    assert again.network == authority.network
    assert again.ledger == authority.ledger
    assert again.to_text() == authority.to_text()
    assert issue(again, "new") == issue(authority, "new")


def test_other_tools_accept_what_the_authority_signs() -> None:
    authority = make_authority(SEED)
    root = x509.load_der_x509_certificate(authority.network.authority)
    node = x509.load_der_x509_certificate(authority.issue("a", None, START_S, Random(1)).certificate)
    node.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert root.serial_number != node.serial_number


def test_an_authority_never_prints_its_keys() -> None:
    assert repr(make_authority(SEED)) == "Authority('test', 0 nodes)"


def saved() -> dict[str, Any]:
    authority = make_authority(SEED)
    for name in ("alice", "bob"):
        authority.issue(name, None, START_S, Random(name))
    fields = json.loads(authority.to_text())
    assert isinstance(fields, dict)
    return fields


def spoil(*path: str, value: object) -> str:
    fields = saved()
    inner = fields
    for step in path[:-1]:
        inner = inner[step]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(fields)


ALICE_ID = saved()["nodes"]["alice"]["id"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "f.ca: the file is empty"),
        ("x", "f.ca: not a 'p2pvpn authority': not readable as JSON"),
        (spoil("format", value="p2pvpn bundle"), "f.ca: not a 'p2pvpn authority' but a 'p2pvpn bundle'"),
        (spoil("version", value=2), "written by a newer p2pvpn (format version 2)"),
        (spoil("version", value=0), "field 'version'"),
        (spoil("private_key", value=None), "field 'private_key': missing"),
        (spoil("private_key", value="-----BEGIN"), "field 'private_key': not a PEM text"),
        (spoil("private_key", value=json.loads(make_authority(9).to_text())["private_key"]), "not the key of the"),
        (spoil("next_serial", value=True), "field 'next_serial': not a whole number"),
        (spoil("next_serial", value=3), "field 'nodes.bob.serial'"),
        (spoil("nodes", value=[]), "field 'nodes': not an object"),
        (spoil("nodes", "Bob!", value={}), "field 'nodes.'Bob!'': not a node's name"),
        (spoil("nodes", "bob", value=3), "field 'nodes.bob': not an object"),
        (spoil("nodes", "bob", "address", value="10.77.0.1"), "field 'nodes.bob.address': 'alice' has 10.77.0.1 too"),
        (spoil("nodes", "bob", "address", value="10.78.0.1"), "not a host's address of 10.77.0.0/16"),
        (spoil("nodes", "bob", "address", value="x"), "field 'nodes.bob.address': not an IPv4 address"),
        (spoil("nodes", "bob", "id", value=ALICE_ID), "field 'nodes.bob.id': 'alice' has this id too"),
        (spoil("nodes", "bob", "id", value="AB"), "field 'nodes.bob.id': not 40 hex digits"),
        (spoil("network", "secret", value="00"), "field 'network.secret': not 64 hex digits"),
        (spoil("network", "subnet", value="0.0.0.0/0"), "field 'network.subnet': the subnet 0.0.0.0/0"),
        (spoil("network", "name", value="A"), "field 'network.name'"),
        (spoil("network", "authority", value="x"), "field 'network.authority': not a PEM text"),
    ],
)
def test_a_spoiled_authority_is_refused_and_its_field_named(text: str, reason: str) -> None:
    assert reason in refusal(lambda: Authority.from_text(text, "f.ca"))


@fuzzed(0.2)
@given(
    st.lists(
        st.tuples(st.sampled_from([f"n{at}" for at in range(9)]), st.none() | st.integers(0, 9), st.booleans()),
        max_size=30,
    )
)
def test_whatever_is_issued_no_two_nodes_share_an_address_or_id(steps: list[tuple[str, int | None, bool]]) -> None:
    subnet = IPv4Network("10.77.0.0/29")
    authority = make_authority(SEED, str(subnet))
    holder: dict[str, tuple[int, str]] = {}
    for at, (name, offset, reloaded) in enumerate(steps):
        if reloaded:
            authority = Authority.from_text(authority.to_text())
        try:
            given = issue(authority, name, None if offset is None else str(subnet[0] + offset), at)
        except SetupError:
            continue
        assert holder.setdefault(name, given) == given
    assert len({node_id for node_id, _ in holder.values()}) == len(holder)
    assert len({address for _, address in holder.values()}) == len(holder)
    assert {name: (entry.id, str(entry.address)) for name, entry in authority.ledger.items()} == holder
