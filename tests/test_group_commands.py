"""`p2pvpn groups` and `p2pvpn group`: what a node answers, what people see, and the files that hold secrets."""

from __future__ import annotations

import stat
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from dht.groups.right import GroupSecret
from ipop.authority_files import init, issue, read_notice, rekey
from ipop.commands import Commands
from ipop.errors import SetupError
from ipop.group_cli import app
from ipop.group_files import read_secret, write_secret
from ipop.group_tables import show_groups
from tests.identities import make_authority
from tests.many_world import GROUP, ManyWorld


class Asked(ManyWorld):
    """Members that are asked over their control sockets."""

    def ask(self, number: int, command: str, **arguments: object) -> dict[str, Any]:
        answers: list[dict[str, Any]] = []
        node = self.nodes[number]
        Commands(node, node.stop).serve({"command": command, **arguments}, answers.append)
        self.engine.run_until(lambda: bool(answers), limit_s=15)
        assert len(answers) == 1
        return answers[0]


def test_groups_shows_who_is_there_how_deep_and_what_multicast_does(capsys: pytest.CaptureFixture[str]) -> None:
    world = Asked(6, seed=21)
    secret = GroupSecret.new(Random(1)).to_text()
    assert world.ask(0, "groups")["result"]["groups"] == []
    for number in (0, 1, 2, 3):
        assert world.ask(number, "group-join", name="club", secret=secret)["ok"]
    assert world.ask(5, "group-join", name="club", secret=GroupSecret.new(Random(2)).to_text())["ok"]
    world.join(1, 2)
    world.engine.run_for(10)
    for number in range(30):
        world.send(0, GROUP, b"%d" % number)
        world.engine.run_for(0.1)
    world.engine.run_for(8)
    answer = world.ask(0, "groups")["result"]
    (club,) = answer["groups"]
    assert [member["name"] for member in club["members"]] == ["n0", "n1", "n2", "n3"]
    assert club["depth"] == 1 and club["state"] == "member" and club["secret"] and not club["missing"]
    (alone,) = world.ask(5, "groups")["result"]["groups"]
    assert [member["name"] for member in alone["members"]] == ["n5"], "another secret is another group"
    (busy,) = answer["multicast"]["busy"]
    assert busy["group"] == str(GROUP) and busy["members"] == 3 and busy["subscribers"] == 2 and not busy["wanted"]
    assert world.ask(1, "groups")["result"]["multicast"]["wanted"] == [str(GROUP)]
    show_groups(answer)
    shown = capsys.readouterr().out
    assert "club: member, opened by a secret, epoch 0, 4 members, depth 1" in shown and str(GROUP) in shown
    assert world.ask(0, "group-leave", name="club") == {"ok": True, "result": {"name": "club"}}
    assert world.ask(0, "groups")["result"]["groups"] == []


def test_groups_answers_also_when_one_of_them_is_left_meanwhile() -> None:
    world = Asked(3, seed=24)
    secret = GroupSecret.new(Random(1)).to_text()
    for number in (0, 1):
        assert world.ask(number, "group-join", name="club", secret=secret)["ok"]
    world.engine.run_for(5)
    answers: list[dict[str, Any]] = []
    node = world.nodes[0]
    Commands(node, node.stop).serve({"command": "groups"}, answers.append)
    assert not answers
    assert world.ask(0, "group-leave", name="club")["ok"]
    world.engine.run_until(lambda: bool(answers), limit_s=5)
    assert answers[0]["ok"]


def test_what_is_no_group_is_refused_in_words() -> None:
    world = Asked(2, seed=22)
    for arguments, words in (
        ({"name": "Ä"}, "is no group name"),
        ({"name": "club"}, "does not name the group 'club'"),
        ({"name": "club", "secret": "junk"}, "this is no group secret"),
        ({"name": "club", "secret": "junk" * 100}, "too long"),
        ({"name": "mcast-239-1-2-3"}, "busy multicast groups"),
        ({"name": 7}, "needs a group's name"),
        ({"name": "club", "secret": 7}, "needs a group's name"),
    ):
        answer = world.ask(0, "group-join", **arguments)
        assert not answer["ok"] and words in answer["error"], answer
    answer = world.ask(0, "group-leave", name="club")
    assert not answer["ok"] and "in no group 'club'" in answer["error"]


def test_secrets_are_files_of_ones_own_that_are_never_overwritten(tmp_path: Path) -> None:
    first, second = str(tmp_path / "one"), str(tmp_path / "two")
    assert write_secret(first) == 0
    assert write_secret(second, after=first) == 1
    assert stat.S_IMODE(Path(first).stat().st_mode) == 0o600
    assert GroupSecret.from_text(read_secret(second)).epoch == 1
    with pytest.raises(SetupError, match="exists"):
        write_secret(first)
    (tmp_path / "junk").write_text("junk")
    for path, words in ((str(tmp_path / "junk"), "no group secret"), (str(tmp_path / "none"), "cannot read")):
        with pytest.raises(SetupError, match=words):
            read_secret(path)
    with pytest.raises(SetupError, match="cannot write"):
        write_secret(str(tmp_path / "none" / "file"))


def test_a_node_heeds_its_own_authoritys_notices_and_refuses_others_in_words(tmp_path: Path) -> None:
    world = Asked(2, seed=23)
    authority = make_authority(23)
    notice = authority.rekey("studio", world.engine.now)
    answer = world.ask(0, "group-heed", notice=notice.raw.hex())
    assert answer == {"ok": True, "result": {"name": "studio", "epoch": 1, "state": None}}
    forged = make_authority(24).rekey("studio", world.engine.now)
    for wrong, words in ((forged.raw.hex(), "no notice of this network's authority"), ("zz", "hex"), (7, "hex digits")):
        refused = world.ask(0, "group-heed", notice=wrong)
        assert not refused["ok"] and words in refused["error"], refused


def test_a_rekey_names_who_is_to_be_issued_again_and_writes_the_notice_once(tmp_path: Path) -> None:
    made = init("net", "10.77.0.0/16", tmp_path)
    for name, groups in (("one", ["studio"]), ("two", None)):
        issue(name, made.authority, tmp_path / f"{name}.p2pvpn", groups=groups)
    out = tmp_path / "studio.notice"
    run = CliRunner().invoke(app, ["rekey", "studio", "--ca", str(made.authority), "--out", str(out)])
    assert run.exit_code == 0 and run.output.endswith("hand the notice to any member: one\n"), run.output
    assert read_notice(out)
    with pytest.raises(SetupError, match="choose another file"):
        rekey("studio", made.authority, out)
