"""A batch is sealed and opened as its datagrams would be one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import BadDatagram
from dht.session import AES_REJECT_AFTER_MESSAGES, Keypair, NoKeypair
from tests.fuzzing import fuzzed
from tests.test_session import keypairs


def opened_one_by_one(keypair: Keypair, datagrams: list[bytes]) -> list[bytes]:
    plaintexts = []
    for datagram in datagrams:
        try:
            plaintexts.append(keypair.open(datagram))
        except BadDatagram:
            continue
    return plaintexts


@pytest.mark.parametrize("aes", [True, False])
@fuzzed(weight=0.5)
@given(data=st.data())
def test_any_order_repetition_and_damage_opens_as_one_by_one(aes: bool, data: st.DataObject) -> None:
    alice, bob = keypairs(aes)
    _, other_bob = keypairs(aes)
    plaintexts = [bytes((number,)) * 40 for number in range(12)] + [b"end"]
    sealed = alice.seal_all(plaintexts[:5])
    sealed += [alice.seal(plaintext) for plaintext in plaintexts[5:7]] + alice.seal_all(plaintexts[7:])
    for _ in range(3):
        batch = data.draw(st.lists(st.sampled_from(sealed[:-1]), min_size=1, max_size=20))
        damaged = [bytearray(datagram) for datagram in batch]
        for index, at in data.draw(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 71)), max_size=3)):
            damaged[index % len(batch)][at] ^= 1
        datagrams = list(map(bytes, damaged))
        tail = data.draw(st.sampled_from((b"", sealed[-1], sealed[0][:20], sealed[0][:5])))
        buffer = memoryview(b"".join(datagrams) + tail)
        taken, refused = bob.open_all(buffer, len(sealed[0]))
        expected = opened_one_by_one(other_bob, datagrams + ([tail] if tail else []))
        assert sorted(taken) == sorted(expected)
        assert len(taken) + len(refused) == len(datagrams) + bool(tail)
        assert not opened_one_by_one(bob, refused)


def test_a_batch_beyond_what_keys_may_seal_is_refused_whole() -> None:
    alice, _ = keypairs()
    alice.sent = AES_REJECT_AFTER_MESSAGES - 3
    with pytest.raises(NoKeypair):
        alice.seal_all([b""] * 4)
    assert len(alice.seal_all([b""] * 3)) == 3
    assert alice.spent
