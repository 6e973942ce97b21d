"""What makes a member of a group: grants in certificates, secrets, notices, proofs, entries; each alone."""

from __future__ import annotations

from random import Random

import pytest
from cryptography import x509

from dht.certificate import read_certificate
from dht.contact import Contact
from dht.errors import BadDatagram
from dht.grants import GROUPS_EXTENSION, MAX_GRANTS, Grant, pack_grants, read_grants
from dht.groups.memory import MAX_KEPT, Kept, Memory
from dht.groups.notice import EpochNotice
from dht.groups.right import CertificateRight, GroupSecret, Right, SecretRight
from dht.handshake import MAX_CERTIFICATE_BYTES
from dht.identity import Identity
from dht.peer import Carrier, Peer
from dht.records import Record
from dht.storage import MemoryStorage
from dht.vouchers import VOUCHER_BYTES
from ipop.authority import Authority
from ipop.errors import SetupError
from tests.identities import START_S, make_authority, make_identities

SEED = 31
ALICE, BOB, CAROL = make_identities(3, SEED)
SECRET = GroupSecret(bytes(range(32)))


class NoCarrier:
    """Nothing is sent here."""

    def send(self, *arguments: object, **options: object) -> bool:
        raise AssertionError("a right sends nothing")

    send_all = answer = send


CARRIER: Carrier = NoCarrier()


def peer(identity: Identity) -> Peer:
    return Peer(identity.member, identity.static_public, START_S, CARRIER)


def issued(authority: Authority, name: str, *groups: str) -> Identity:
    return authority.issue(name, None, START_S, Random(name), groups=groups).identity(START_S)


def entry(identity: Identity, right: Right, value: bytes) -> Record:
    return Record.sign(identity, right.entry_name, value, 1, int(START_S) + 600)


def contact(identity: Identity) -> Contact:
    return Contact(identity.member.id, identity.static_public, ())


# Certificates


def test_a_certificate_says_its_groups_with_their_epochs_and_one_without_them_says_none() -> None:
    authority = make_authority(SEED)
    authority.rekey("studio", START_S)
    member = issued(authority, "a", "studio", "printers").member
    assert member.grants == (Grant("printers", 0), Grant("studio", 1))
    assert (member.granted("studio"), member.granted("printers"), member.granted("other")) == (1, 0, None)
    assert ALICE.member.grants == ()


def test_the_longest_names_and_groups_still_fit_into_a_handshake() -> None:
    authority = make_authority(SEED)
    name = "n" * 63
    groups = [f"{number}" + "g" * 26 for number in range(8)]
    certificate = authority.issue(name, None, START_S, Random(1), groups=groups).certificate
    assert len(certificate) <= MAX_CERTIFICATE_BYTES
    member = read_certificate(authority.network, certificate, START_S)
    assert [grant.group for grant in member.grants] == sorted(groups)


def test_older_nodes_may_ignore_the_groups() -> None:
    certificate = x509.load_der_x509_certificate(issued(make_authority(SEED), "a", "studio").member.certificate)
    assert not certificate.extensions.get_extension_for_oid(GROUPS_EXTENSION).critical


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x0c\x00",
        b"\x04\x03a=0",  # octets, no text
        b"\x0c\x04a=0",  # longer than it is
        b"\x0c\x81\x03a=0",  # not in the shortest form
        b"\x0c\xd1" + b",".join(b"%s%d=1" % (b"a" * 31, number) for number in range(6)),  # a long one's in no form
        b"\x0c\x02a=",
        b"\x0c\x04a=00",
        b"\x0c\x03A=0",
        b"\x0c\x07a=0,a=1",
        b"\x0c\x07b=0,a=0",
        b"\x0c\x0ca=4294967296",
    ],
)
def test_a_malformed_list_of_groups_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"group|text|length"):
        read_grants(value)


def test_grants_survive_packing_and_too_many_are_refused() -> None:
    grants = [Grant(f"g{number}", number) for number in range(10)]
    assert read_grants(pack_grants(grants)) == tuple(grants)
    for many in ([Grant(f"g{number}", 0) for number in range(MAX_GRANTS + 1)], [Grant("g" * 32, 0)] * 1 + LONG):
        with pytest.raises(ValueError, match="at most"):
            pack_grants(many)


LONG = [Grant(f"{number}{'g' * 30}", 0) for number in range(8)]


# The authority


def test_a_renewal_keeps_the_groups_unless_others_are_named() -> None:
    authority = make_authority(SEED)
    issued(authority, "a", "studio")
    renewed = authority.issue("a", None, START_S, Random(2)).identity(START_S).member
    assert renewed.granted("studio") == 0
    assert issued(authority, "a").member.grants == ()
    assert authority.members_of("studio") == []


def test_after_a_rekey_what_is_issued_has_the_new_epoch_also_by_an_authority_read_from_its_file() -> None:
    authority = make_authority(SEED)
    issued(authority, "a", "studio")
    notice = authority.rekey("studio", START_S)
    again = Authority.from_text(authority.to_text())
    assert again.to_text() == authority.to_text()
    assert again.members_of("studio") == ["a"]
    assert again.issue("a", None, START_S, Random(3)).identity(START_S).member.granted("studio") == notice.epoch == 1
    assert again.rekey("studio", START_S).epoch == 2


@pytest.mark.parametrize("group", ["", "Studio", "a_b", "-a", "g" * 33])
def test_what_can_be_no_group_is_neither_issued_nor_rekeyed(group: str) -> None:
    authority = make_authority(SEED)
    with pytest.raises(SetupError, match="can't be a group's name"):
        authority.issue("a", None, START_S, Random(1), groups=[group])
    with pytest.raises(SetupError, match="can't be a group's name"):
        authority.rekey(group, START_S)


# Notices


def test_a_notice_is_the_authoritys_word_and_nobody_elses() -> None:
    authority = make_authority(SEED)
    notice = authority.rekey("studio", START_S)
    assert EpochNotice.parse(authority.network, notice.raw) == notice
    forged = bytearray(notice.raw)
    for at in range(len(forged)):
        forged[at] ^= 1
        with pytest.raises(BadDatagram):
            EpochNotice.parse(authority.network, bytes(forged))
        forged[at] ^= 1
    with pytest.raises(BadDatagram, match="signature"):
        EpochNotice.parse(make_authority(SEED + 1).network, notice.raw)


# Proofs


def test_a_proof_is_good_for_its_prover_its_verifier_its_group_and_its_epoch_only() -> None:
    alice, bob = SecretRight(ALICE, "studio", SECRET), SecretRight(BOB, "studio", SECRET)
    proof = alice.proof(peer(BOB))
    assert bob.accepts(peer(ALICE), proof)
    assert not alice.accepts(peer(BOB), proof), "sent back"
    assert not SecretRight(CAROL, "studio", SECRET).accepts(peer(ALICE), proof), "passed on"
    assert not bob.accepts(peer(CAROL), proof), "by somebody else"
    assert not bob.accepts(Peer(ALICE.member, CAROL.static_public, START_S, CARRIER), proof), "under another key"
    assert not SecretRight(BOB, "other", SECRET).accepts(peer(ALICE), proof), "in another group"
    assert not SecretRight(BOB, "studio", GroupSecret(SECRET.secret, 1)).accepts(peer(ALICE), proof), "in another epoch"
    assert not SecretRight(BOB, "studio", GroupSecret(bytes(32))).accepts(peer(ALICE), proof), "under another secret"
    assert not bob.accepts(peer(ALICE), b"")


def test_tags_and_names_of_a_secret_group_say_nothing_of_its_name_and_change_with_the_epoch() -> None:
    rights = [SecretRight(ALICE, name, GroupSecret(SECRET.secret, epoch)) for name in "ab" for epoch in range(2)]
    assert len({right.tag for right in rights}) == len({right.entry_name for right in rights}) == 4
    assert all(right.entry_name.startswith("subring:~") for right in rights)
    other = make_identities(1, SEED + 1)[0]
    assert SecretRight(other, "a", SECRET).tag != rights[0].tag, "the same secret in two networks"


def test_who_is_granted_a_lower_epoch_is_no_member_once_it_is_known() -> None:
    authority = make_authority(SEED)
    old = issued(authority, "a", "studio")
    authority.rekey("studio", START_S)
    new = issued(authority, "b", "studio")
    for identity in (old, new):
        right = CertificateRight(identity, "studio")
        assert right.holds and right.accepts(peer(old), b"") and right.accepts(peer(new), b"")
        assert not right.accepts(peer(ALICE), b""), "who is not named"
        assert right.raise_to(1) and not right.raise_to(1) and not right.raise_to(0)
        assert right.accepts(peer(new), b"") and not right.accepts(peer(old), b"") and not right.still(peer(old))
        assert right.holds == (identity is new)


# Entries


def test_entries_of_a_secret_group_are_read_by_who_has_the_secret_alone() -> None:
    right = SecretRight(ALICE, "studio", SECRET)
    value = right.entry(contact(ALICE), b"", Random(1))
    assert contact(ALICE).pack() not in value and ALICE.static_public not in value
    record = entry(ALICE, right, value)
    assert SecretRight(BOB, "studio", SECRET).read_entry(record) == contact(ALICE)
    # A member may publish another's entry, but not as the other's.
    vouched = right.no_entry(CAROL.member.id)
    copied = entry(CAROL, right, vouched + value[VOUCHER_BYTES:])
    assert right.read_entry(copied) is None, "published by another than who made it"
    for rest in (b"", bytes(8), bytes(80)):
        assert right.read_entry(entry(CAROL, right, vouched + rest)) is None


def test_nobody_publishes_under_a_groups_hidden_name_for_whom_its_secret_does_not_vouch() -> None:
    """Whoever stores records knows the name: with newer records than the members', a few would crowd these out."""
    right = SecretRight(ALICE, "studio", SECRET)
    value = right.entry(contact(ALICE), b"", Random(1))
    other = SecretRight(CAROL, "studio", GroupSecret(bytes(32)))
    forged = bytearray(right.no_entry(CAROL.member.id))
    forged[-1] ^= 1
    lies = (b"", bytes(200), value, value[:60], bytes(forged), other.entry(contact(CAROL), b"", Random(2)))
    for lie in lies:
        with pytest.raises(ValueError, match="voucher|vouched"):
            entry(CAROL, right, lie)
    strange = make_identities(1, SEED + 1)[0]
    with pytest.raises(ValueError, match="voucher"):
        entry(CAROL, right, SecretRight(strange, "studio", SECRET).no_entry(CAROL.member.id))


def test_entries_of_a_certificate_group_are_published_by_who_is_named_alone() -> None:
    authority = make_authority(SEED)
    named, other = issued(authority, "a", "studio"), issued(authority, "b", "printers")
    right = CertificateRight(named, "studio")
    assert right.read_entry(entry(named, right, right.entry(contact(named), b"", Random(1)))) == contact(named)
    with_notice = entry(named, right, right.entry(contact(named), b"notice", Random(1)))
    assert right.read_entry(with_notice) == contact(named) and right.read_notice(with_notice) == b"notice"
    for cut in range(len(with_notice.value)):
        assert right.read_notice(entry(named, right, with_notice.value[:cut])) in (
            b"notice"[:each] for each in range(7)
        )
    with pytest.raises(ValueError, match="names no such group"):
        entry(other, right, b"")
    assert right.read_entry(entry(named, right, right.entry(contact(other), b"", Random(1)))) is None, (
        "it names somebody else"
    )
    right.raise_to(1)
    assert right.read_entry(entry(named, right, right.entry(contact(named), b"", Random(1)))) is None, (
        "a grant that is over"
    )


@pytest.mark.parametrize(
    "name", ["subring:", "subring:~", "subring:~" + "0" * 39, "subring:Studio", "subring:~" + "G" * 40]
)
def test_what_names_no_group_is_nobodys_to_publish(name: str) -> None:
    with pytest.raises(ValueError, match="names no such group"):
        Record.sign(ALICE, name, b"", 1, int(START_S) + 600)


# Secrets as text, and on disk


def test_a_secret_survives_as_text_and_its_successor_has_the_next_epoch() -> None:
    assert GroupSecret.from_text(SECRET.to_text()) == SECRET
    after = GroupSecret.new(Random(1), SECRET)
    assert after.epoch == 1 and after.secret != SECRET.secret
    assert "00010203" not in repr(SECRET)
    for text in ("", "p2pvpn group secret 0 00", SECRET.to_text() + "x", SECRET.to_text().replace(" 0 ", " 01 ")):
        with pytest.raises(ValueError, match="no group secret"):
            GroupSecret.from_text(text)


def test_groups_and_epochs_outlive_the_process_and_a_damaged_file_is_no_reason_to_fail() -> None:
    storage = MemoryStorage()
    memory = Memory(storage)
    memory.keep(Kept("studio", True, SECRET, 0))
    memory.keep(Kept("printers", False, None, 7, b"notice"))
    again = Memory(storage)
    assert again.joined() == [Kept("studio", True, SECRET, 0)]
    assert again.of("printers", secret=False) == Kept("printers", False, None, 7, b"notice")
    assert again.of("printers", secret=True) is None
    whole = storage.load("groups")
    assert whole is not None
    for at in range(len(whole)):
        storage.save("groups", whole[:at])
        assert Memory(storage).joined() == []


def test_of_groups_that_were_left_the_oldest_are_forgotten_and_those_joined_never() -> None:
    memory = Memory(MemoryStorage())
    memory.keep(Kept("mine", True, SECRET))
    for number in range(MAX_KEPT + 10):
        memory.keep(Kept(f"g{number}", False, None, 1))
    assert memory.of("mine", secret=True) is not None
    assert memory.of("g10", secret=False) is None and memory.of("g11", secret=False) is not None
