"""How far addresses reach."""

from __future__ import annotations

import pytest

from shortcuts.scope import Scope, is_ipv6, scope_of


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("127.0.0.1", Scope.LOOPBACK),
        ("127.8.9.10", Scope.LOOPBACK),
        ("::1", Scope.LOOPBACK),
        ("169.254.3.4", Scope.LINK_LOCAL),
        ("fe80::1", Scope.LINK_LOCAL),
        ("10.1.2.3", Scope.PRIVATE),
        ("172.31.255.255", Scope.PRIVATE),
        ("172.32.0.0", Scope.PUBLIC),
        ("192.168.0.1", Scope.PRIVATE),
        ("fd00::1", Scope.PRIVATE),
        ("100.64.0.1", Scope.SHARED),
        ("100.127.255.255", Scope.SHARED),
        ("100.128.0.0", Scope.PUBLIC),
        ("198.18.0.1", Scope.PUBLIC),
        ("203.0.113.5", Scope.PUBLIC),
        ("2001:db8::1", Scope.PUBLIC),
        ("2606:4700::1", Scope.PUBLIC),
    ],
)
def test_the_scope_of_an_address(address: str, scope: Scope) -> None:
    assert scope_of(address) is scope
    assert is_ipv6(address) == (":" in address)


def test_what_is_no_address_has_no_scope() -> None:
    with pytest.raises(ValueError, match="address"):
        scope_of("example")
