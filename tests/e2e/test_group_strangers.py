"""Real nodes in a group that a secret opens and in one that certificates name, and a member of their network who is in
neither: it reads nothing, injects nothing, joins nothing, and what it sends again counts for nothing; counters show it.
"""

from __future__ import annotations

import json
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dht.envelope import Inner
from dht.groups.right import CertificateRight, GroupSecret, Right, SecretRight
from dht.identity import Identity
from dht.peer import Peer
from dht.session import TRANSPORT
from ipop.bundle import Bundle
from ipop.control import Client
from sims.lab.lab import PORT, Lab
from sims.lab.namespace import LabError
from tests.e2e import group_stranger, repeat
from tests.e2e.capture import Capture
from tests.e2e.group_stranger import Prey
from tests.patience import PATIENCE_S

MEMBERS = ("alder", "birch", "cedar")
STRANGER = "mallow"
SECRET_GROUP, NAMED_GROUP = "club", "crew"
MOMENT_S = 1.0


class NoCarrier:
    """Nothing is sent here."""

    def send(self, *arguments: object, **options: object) -> bool:
        raise AssertionError("a right sends nothing")

    send_all = answer = send


class Groups:
    """Three members of two groups, and the host of a stranger."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts = {host.name: host for host in lab.hosts}
        self.secret_file = lab.folder / "secret"
        self.nodes = {}
        ca = lab.folder / "lab.ca"
        self._must("init", "lab", "--subnet", lab.subnet, "--dir", lab.folder)
        for name in MEMBERS:
            self._must("issue", name, "--ca", ca, "--group", NAMED_GROUP, "--out", self.hosts[name].bundle)
        self._must("issue", STRANGER, "--ca", ca, "--out", self.hosts[STRANGER].bundle)
        self._must("group", "secret", "--out", self.secret_file)
        self.nodes = {name: lab.start(self.hosts[name]) for name in MEMBERS}
        for node in self.nodes.values():
            node.wait_ready()
            for words in ((SECRET_GROUP, "--secret", str(self.secret_file)), (NAMED_GROUP,)):
                done = node.ask("group", "join", *words)
                assert done.returncode == 0, done.stderr

    def _must(self, *words: str | Path) -> None:
        done = self.lab.p2pvpn(*words)
        assert done.returncode == 0, done.stderr

    def identity(self, name: str) -> Identity:
        return Bundle.from_text(self.hosts[name].bundle.read_text()).identity(time.time())

    def right(self, group: str, name: str) -> Right:
        """The right of a member, as its node has it."""
        if group == NAMED_GROUP:
            return CertificateRight(self.identity(name), group)
        return SecretRight(self.identity(name), group, GroupSecret.from_text(self.secret_file.read_text()))

    def group(self, name: str, group: str) -> dict[str, Any]:
        """What a member says of a group, having asked all in it."""
        with Client(str(self.hosts[name].control)) as client:
            return next(each for each in client.ask("groups")["groups"] if each["name"] == group)

    def wait_whole(self) -> None:
        """Wait until every member sees all three in both groups, and nobody else."""
        deadline = time.monotonic() + PATIENCE_S
        for name in MEMBERS:
            for group in (SECRET_GROUP, NAMED_GROUP):
                while sorted(m["name"] for m in self.group(name, group)["members"]) != sorted(MEMBERS):
                    if time.monotonic() > deadline:
                        raise LabError(f"{name} sees {self.group(name, group)}")

    def counters(self, name: str) -> dict[str, int]:
        found: dict[str, int] = self.nodes[name].status()["counters"]
        return found


@pytest.fixture(scope="module")
def groups(able: None) -> Iterator[Groups]:
    with Lab((*MEMBERS, STRANGER)) as lab:
        found = Groups(lab)
        found.wait_whole()
        yield found


def test_a_stranger_with_a_valid_certificate_reads_injects_and_joins_nothing(groups: Groups) -> None:
    members = {name: groups.identity(name) for name in MEMBERS}
    prey = []
    for group in (SECRET_GROUP, NAMED_GROUP):
        right = groups.right(group, "alder")
        birch = Peer(members["birch"].member, members["birch"].static_public, time.time(), NoCarrier())
        victims = [f"{identity.member.id:040x}" for identity in members.values()]
        proof = right.proof(birch).hex()  # "captured" on its way from one member to the other
        prey.append(Prey(group, group == SECRET_GROUP, right.tag.hex(), right.entry_name, proof, victims))
    before = {name: groups.counters(name) for name in MEMBERS}
    stranger = groups.hosts[STRANGER]
    done = stranger.namespace.run(
        sys.executable, group_stranger.__file__, stranger.bundle, f"{groups.hosts['alder'].underlay4}:{PORT}",
        stdin_text=json.dumps([asdict(each) for each in prey]) + "\n", timeout_s=2 * PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    closed, named = json.loads(done.stdout)
    print(closed, named)
    # Join: alone under its own secret; not named by its certificate.
    assert closed["state"] == "alone"
    assert "does not name the group" in named["state"]
    # Read: no answer but "no edge here", which says no more than a node that knows no such group.
    for spoils in (closed, named):
        assert set(spoils["heard"]) <= {Inner.KEEPALIVE}, spoils["heard"]
        assert spoils["entries"], f"it found no entry, so nothing is proven of what they show: {spoils}"
    for value in map(bytes.fromhex, closed["entries"]):
        assert not any(identity.static_public in value or name.encode() in value for name, identity in members.items())
    # Inject: every message refused and counted, where the group's members see it, and nothing else changed.
    groups.wait_whole()
    for name in MEMBERS:
        after = groups.counters(name)
        grown = {key: count - before[name].get(key, 0) for key, count in after.items()}
        refused = {key: count for key, count in grown.items() if count and key.startswith("group_refused")}
        print(name, refused)
        assert refused["group_refused_proof"] == 3 * 2, "three questions of admission a group"
        assert refused["group_refused_stranger"] >= 2 * 20
        assert not grown.get("broadcast_received")
        assert all(groups.group(name, group)["refused"] >= 20 for group in (SECRET_GROUP, NAMED_GROUP))


def test_what_a_stranger_sends_again_of_what_members_told_each_other_changes_nothing(
    groups: Groups, tmp_path: Path
) -> None:
    """From its own address, and in the name of the member that sent it first."""
    victim, sender, stranger = (groups.hosts[name] for name in ("alder", "birch", STRANGER))
    with Capture(victim, "eth0", tmp_path / "seen.pcap", f"udp and src host {sender.underlay4}") as capture:
        for _ in range(3):
            groups.group("birch", SECRET_GROUP)  # which asks all members, along the group's tree
            groups.group("birch", NAMED_GROUP)
        time.sleep(MOMENT_S)
    captured = [payload for _, _, payload in capture.datagrams() if payload[:1] == bytes((TRANSPORT,))]
    assert len(captured) > 10, "there was nothing to repeat"
    before = groups.counters("alder")
    for source in (stranger.underlay4, sender.underlay4):
        text = "".join(payload.hex() + "\n" for payload in captured)
        done = stranger.namespace.run(
            sys.executable, repeat.__file__, f"{source}:{PORT}", f"{victim.underlay4}:{PORT}", stdin_text=text
        )
        assert done.returncode == 0, done.stderr
    time.sleep(MOMENT_S)
    after = groups.counters("alder")
    refused = after["bad_datagram"] - before.get("bad_datagram", 0)
    print(f"{len(captured)} datagrams, repeated from two addresses: {refused} refused")
    assert refused >= 2 * len(captured)
    groups.wait_whole()


def test_a_groups_secret_is_in_no_log_and_in_no_file_that_others_may_read(groups: Groups) -> None:
    secret = GroupSecret.from_text(groups.secret_file.read_text()).secret
    for name in MEMBERS:
        host = groups.hosts[name]
        log = groups.nodes[name].log()
        assert log and secret.hex() not in log
        holding = [file for file in host.state.iterdir() if secret in file.read_bytes()]
        assert [file.name for file in holding] == ["groups"]
        for file in (*holding, groups.secret_file, host.control):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
