"""The header of packets that travel several hops: read to exactly what was written, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.envelope import HEADER_BYTES, HOP_LIMIT, Content, Envelope, Mode
from dht.errors import BadDatagram
from dht.ids import RING
from tests.fuzzing import fuzzed

ids = st.integers(0, RING - 1)
envelopes = st.builds(
    Envelope,
    st.integers(0, HOP_LIMIT),
    st.sampled_from(Mode),
    st.sampled_from(Content),
    ids,
    ids,
    st.binary(max_size=100),
)


@given(envelopes)
@fuzzed()
def test_an_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    packed = envelope.pack()
    assert Envelope.parse(packed) == envelope
    assert len(packed) == HEADER_BYTES + len(envelope.payload)
    assert packed.endswith(envelope.payload), "a relay can pass the payload on as it stands"


@given(st.binary(max_size=200) | envelopes.map(Envelope.pack).map(lambda packed: b"\x05" + packed[1:]))
@fuzzed()
def test_any_bytes_are_an_envelope_or_refused(packed: bytes) -> None:
    try:
        envelope = Envelope.parse(packed)
    except BadDatagram:
        return
    assert envelope.pack() == packed, "there is one encoding"
    assert envelope.hop_limit <= HOP_LIMIT
    Mode(envelope.mode)
    Content(envelope.content)


@given(st.binary(min_size=3, max_size=3), st.binary(min_size=HEADER_BYTES - 3, max_size=HEADER_BYTES))
@fuzzed()
def test_any_first_bytes_are_lawful_or_refused(first: bytes, rest: bytes) -> None:
    lawful = first[0] <= HOP_LIMIT and first[1] in set(Mode) and first[2] in set(Content)
    if lawful:
        assert Envelope.parse(first + rest).hop_limit == first[0]
    else:
        with pytest.raises(BadDatagram, match="no envelope has"):
            Envelope.parse(first + rest)


def test_every_truncation_of_the_header_is_noticed() -> None:
    packed = Envelope(HOP_LIMIT, Mode.EXACT, Content.SEALED, 1, 2, b"").pack()
    Envelope.parse(packed)
    for size in range(HEADER_BYTES):
        with pytest.raises(BadDatagram, match=f"not {size}"):
            Envelope.parse(packed[:size])


def test_no_envelope_lives_longer_than_the_hop_limit() -> None:
    packed = Envelope(HOP_LIMIT, Mode.EXACT, Content.SEALED, 1, 2, b"").pack()
    with pytest.raises(BadDatagram, match=f"hop limit {HOP_LIMIT + 1}"):
        Envelope.parse(bytes((HOP_LIMIT + 1,)) + packed[1:])
