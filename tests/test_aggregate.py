"""Questions for everybody: what comes back, what is named as missing, and what a liar can do about it."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import pytest

from dht.aggregate import MAX_BRANCHES, MAX_BRANCHES_A_HOP, QUESTIONS, About, Aggregates, Kind, Missing, Outcome, Reason
from dht.arcs import CIRCLE, Arc, place_of
from dht.branch_messages import MAX_REACHED, MAX_VALUE_BYTES, Answer, Ask, Asked, Piece, PieceTaken, Verdict
from dht.errors import BadDatagram
from dht.exchange import Incoming
from dht.messages import Message
from dht.packing import Fields, pack
from sims.engine import HostState
from tests.tree_double import MemberDouble, TreeWorld

DEADLINE_S = 10.0

V = TypeVar("V")


def number(octets: bytes) -> int:
    if len(octets) != 8:
        raise BadDatagram("no number")
    return int.from_bytes(octets, "big")


def nothing(octets: bytes, about: About) -> None:
    if octets:
        raise BadDatagram("no argument belongs here")


def packed(value: int) -> bytes:
    return value.to_bytes(8, "big")


def one(argument: None, about: About) -> int:
    return 1


def hops(argument: None, about: About) -> int:
    return about.hops


COUNT = Kind("count", nothing, one, packed, number, lambda a, b: a + b)
DEPTH = Kind("depth", nothing, hops, packed, number, max)
BLOB = Kind("blob", nothing, lambda argument, about: b"x" * 400, lambda value: value, lambda octets: octets)


def make_world(members: int, seed: int) -> TreeWorld:
    world = TreeWorld(members, seed)
    for member in world.all():
        for kind in (COUNT, DEPTH, BLOB):
            member.aggregates.register(kind)
    return world


def asked(
    world: TreeWorld, member: MemberDouble, kind: Kind[None, V], deadline_s: float = DEADLINE_S
) -> tuple[Outcome[V], float]:
    """What a question came to, and after how many seconds."""
    outcomes: list[Outcome[V]] = []
    began = world.engine.now
    member.aggregates.ask(kind, b"", deadline_s, outcomes.append)
    world.engine.run_until(lambda: bool(outcomes), limit_s=deadline_s + 0.2, check_every_s=0.01)
    return outcomes[0], world.engine.now - began


def questions(world: TreeWorld) -> int:
    return sum(member.counters["aggregate_asked"] for member in world.all())


def leftovers(world: TreeWorld) -> int:
    """Children and own questions that are still open anywhere."""
    return sum(len(m.aggregates._branching.by_label) + len(m.aggregates._own) for m in world.all())


@pytest.mark.parametrize(("members", "seed"), [(1, 1), (2, 2), (5, 3), (200, 4)])
def test_every_member_is_counted_once_by_n_minus_1_questions(members: int, seed: int) -> None:
    world = make_world(members, seed)
    for member in world.engine.rng.sample(world.all(), min(3, members)):
        before = questions(world)
        outcome, _ = asked(world, member, COUNT)
        assert (outcome.value, outcome.reached, outcome.complete) == (members, members, True), f"seed {seed}"
        assert questions(world) - before == members - 1
    assert not world.refused
    assert leftovers(world) == 0


def test_answers_of_1000_members_come_one_by_one_in_pieces_to_who_asked() -> None:
    world = make_world(1000, 5)
    outcome, took_s = asked(world, world.all()[0], BLOB)
    assert outcome.complete and outcome.reached == 1000
    assert set(outcome.answers) == set(world.members)
    assert took_s < 3.0, "400 kB, a few pieces at a time"


@pytest.mark.parametrize("seed", range(4))
def test_with_a_twentieth_frozen_all_others_answer_and_the_frozen_are_named(seed: int) -> None:
    world = make_world(200, seed)
    asker, *others = world.all()
    frozen = {member.me for member in world.engine.rng.sample(others, 10)}
    for node_id in frozen:
        world.members[node_id].host.halt(HostState.FROZEN)
    outcome, took_s = asked(world, asker, BLOB)
    print(f"seed {seed}: {took_s:.1f} s")
    assert took_s <= DEADLINE_S
    assert set(outcome.answers) == set(world.members) - frozen, f"seed {seed}"
    assert {hole.id for hole in outcome.missing} == frozen, f"seed {seed}"
    assert all(hole.alone for hole in outcome.missing)


def test_members_that_die_with_the_question_in_hand_cost_only_themselves() -> None:
    world = make_world(200, 6)
    asker = world.all()[0]
    outcomes: list[Outcome[int]] = []
    asker.aggregates.ask(COUNT, b"", DEADLINE_S, outcomes.append)
    world.engine.run_for(0.06)  # its children have it, and have confirmed it
    children = {child.id for child in asker.aggregates._branching.by_label.values()}
    dead = world.engine.rng.sample(sorted(children), 2)
    for node_id in dead:
        world.members[node_id].host.halt(HostState.FROZEN)
        for member in world.all():
            if node_id in member.known:
                world.engine.call_later(2.0, partial(setattr, member.known[node_id], "suspect", True))
    world.engine.run_until(lambda: bool(outcomes), limit_s=DEADLINE_S + 0.1)
    outcome = outcomes[0]
    assert outcome.value == outcome.reached == 198, "nobody counts twice, though branches were asked twice"
    assert {hole.id for hole in outcome.missing} == set(dead)


def test_a_member_that_confirms_and_never_answers_is_named_with_its_part_at_the_deadline() -> None:
    world = make_world(100, 7)
    asker = world.all()[0]
    edge, part = asker.broadcast.children(Arc(place_of(asker.me), place_of(asker.me)))[0]
    liar = world.members[edge.id]
    liar.exchange.handle(Ask, None, lambda incoming, message: Asked(Verdict.TAKEN))
    outcome, took_s = asked(world, asker, COUNT, 3.0)
    assert took_s == pytest.approx(3.0, abs=0.02)
    assert Missing(liar.me, part, Reason.LATE) in outcome.missing
    assert outcome.reached == 100 - sum(part.holds(place_of(node_id)) for node_id in world.members)


def test_levels_end_before_their_parents_so_that_what_they_have_arrives_in_time() -> None:
    world = make_world(200, 8)
    for silent in world.engine.rng.sample(world.all()[1:], 10):
        # It confirms, and keeps everybody waiting.
        silent.exchange.handle(Ask, None, lambda incoming, message: Asked(Verdict.TAKEN))
    outcome, took_s = asked(world, world.all()[0], BLOB, 4.0)
    assert took_s <= 4.02
    late = [hole for hole in outcome.missing if hole.reason is Reason.LATE]
    unreached = [node_id for node_id in world.members if node_id not in outcome.answers]
    assert all(any(hole.arc.holds(place_of(node_id)) for hole in late) for node_id in unreached)
    assert all(any(hole.arc.holds(place_of(n)) for n in unreached) for hole in late)
    assert len(late) == 10, "only those whose child is silent itself, not everybody above it"


def test_members_without_this_kind_are_named_and_their_parts_go_to_others() -> None:
    world = make_world(100, 9)
    asker, *others = world.all()
    older = {member.me for member in world.engine.rng.sample(others, 10)}
    for node_id in older:
        del world.members[node_id].aggregates._kinds["count"]
    outcome, _ = asked(world, asker, COUNT)
    assert outcome.value == 90
    assert {(hole.id, hole.reason) for hole in outcome.missing} == {(node_id, Reason.UNKNOWN) for node_id in older}


def test_depths_are_reduced_and_collected_alike_from_any_member() -> None:
    world = make_world(100, 10)
    for member in world.all()[:5]:
        outcome, took_s = asked(world, member, DEPTH)
        assert isinstance(outcome.value, int) and 2 <= outcome.value <= 10
        assert took_s < 2.0


def test_what_no_member_would_read_is_refused_at_once() -> None:
    world = make_world(2, 11)
    aggregates = world.all()[0].aggregates
    with pytest.raises(ValueError, match="read this argument"):
        aggregates.ask(COUNT, b"?", 1.0, print)
    with pytest.raises(ValueError, match="not registered"):
        aggregates.ask(Kind("count", nothing, one, packed, number), b"", 1.0, print)
    with pytest.raises(ValueError, match="seconds away"):
        aggregates.ask(COUNT, b"", 601.0, print)
    with pytest.raises(ValueError, match="already registered"):
        aggregates.register(COUNT)
    with pytest.raises(ValueError, match="printable"):
        aggregates.register(Kind("", nothing, one, packed, number))


# Liars


class Caught:
    """Plays one member by hand, and keeps what it is answered."""

    def __init__(self, world: TreeWorld, liar: MemberDouble, victim: MemberDouble) -> None:
        self.world, self.liar, self.victim = world, liar, victim
        self.answers: list[Message] = []

    def says(self, message: Message) -> None:
        """Deliver a message as the liar's, at once. Raises BadDatagram."""
        kind = type(message)
        handler = self.victim.exchange._handlers[kind.CODE][1]
        answer = handler(Incoming(self.liar.me, None, None, 1, self.answers.append), kind.read(_read(message)))
        if answer is not None:
            self.answers.append(answer)


def _read(message: Message) -> Fields:
    return Fields.parse(pack(message.fields()))


def caught(seed: int) -> Caught:
    world = make_world(50, seed)
    liar = world.all()[0]
    return Caught(world, liar, world.members[next(iter(liar.known))])


def all_but(member: MemberDouble) -> Arc:
    place = place_of(member.me)
    return Arc((place + 1) % CIRCLE, place)


def test_questions_for_parts_that_do_not_shrink_are_refused() -> None:
    play = caught(12)
    here = place_of(play.victim.me)
    origin = play.world.ordered[25]
    for arc in (Arc(here, here), Arc((here + 1) % CIRCLE, (here + 9) % CIRCLE), all_but(play.world.members[origin])):
        with pytest.raises(BadDatagram):
            play.says(Ask(1, origin, arc, 1, 5000, "count", b""))
    with pytest.raises(BadDatagram):
        play.says(Ask(1, play.liar.me, all_but(play.liar), 1, 5000, "count", b"an argument it does not take"))
    assert not play.victim.aggregates._branches


def test_a_flood_of_questions_is_turned_away_and_leaves_room_for_others() -> None:
    play = caught(13)
    for label in range(2000):
        play.says(Ask(label, play.liar.me, all_but(play.liar), 1, 5000, "count", b""))
    assert len(play.victim.aggregates._branches) <= MAX_BRANCHES_A_HOP
    busy = sum(isinstance(answer, Asked) and answer.verdict is Verdict.BUSY for answer in play.answers)
    assert busy >= 2000 - QUESTIONS.packets_per_s * QUESTIONS.burst_s
    honest = next(member for member in play.world.all() if member not in (play.liar, play.victim))
    outcome, _ = asked(play.world, honest, COUNT)
    assert outcome.value == 50


def test_questions_with_minutes_to_spare_that_are_answered_leave_room_for_others() -> None:
    play = caught(13)
    here = place_of(play.victim.me)
    for number, hop in enumerate(list(play.victim.known)[:6]):
        for label in range(MAX_BRANCHES_A_HOP - 5):
            ask = Ask(label, hop, Arc(here, here + 1), 1, 600_000, "count", b"")
            Caught(play.world, play.world.members[hop], play.victim).says(ask)
        play.world.engine.run_for(2.0)
        assert len(play.victim.aggregates._branches) == min(MAX_BRANCHES, (number + 1) * (MAX_BRANCHES_A_HOP - 5))
    outcome, _ = asked(play.world, play.world.all()[-1], COUNT)
    assert outcome.value == 50 and outcome.complete


def test_a_repeated_question_is_confirmed_again_and_answered_once() -> None:
    play = caught(14)
    for _ in range(3):
        play.says(Ask(5, play.liar.me, all_but(play.liar), 1, 5000, "count", b""))
    assert play.answers == [Asked(Verdict.TAKEN)] * 3
    assert len(play.victim.aggregates._branches) == 1


def open_child(play: Caught) -> int:
    """The victim asks; the liar has a part. The label of it."""
    play.liar.exchange.handle(Ask, None, lambda incoming, message: Asked(Verdict.TAKEN))
    play.victim.aggregates.ask(BLOB, b"", DEADLINE_S, play_outcomes.append)
    for label, child in play.victim.aggregates._branching.by_label.items():
        if child.id == play.liar.me:
            return label
    raise AssertionError("the liar has no part: choose another seed")


play_outcomes: list[Outcome[bytes]] = []


def test_a_liar_speaks_for_its_own_part_only() -> None:
    play = caught(15)
    play_outcomes.clear()
    label = open_child(play)
    part = play.victim.aggregates._branching.by_label[label].arc
    outside = next(node_id for node_id in play.world.members if not part.holds(place_of(node_id)))
    with pytest.raises(BadDatagram):
        play.says(Piece(label, 0, (Answer(outside, b"lie"),)))
    with pytest.raises(BadDatagram):
        play.says(Piece(label, 1, (), (Missing(outside, Arc(place_of(outside), place_of(outside) + 1), Reason.LATE),)))
    for beyond in (Arc(part.low, place_of(outside)), Arc(part.low, part.low), Arc(part.high - 1, part.high + 1)):
        with pytest.raises(BadDatagram):
            play.says(Piece(label, 1, (), (Missing(None, beyond, Reason.UNREACHED),)))
    with pytest.raises(BadDatagram):
        play.says(Piece(label, 2, (Answer(play.liar.me, bytes(MAX_VALUE_BYTES + 1)),)))
    play.says(Piece(label, 3, (Answer(play.liar.me, b"own"),)))
    play.says(Piece(label, 4, last=True, reached=4_000_000))
    play.world.engine.run_for(DEADLINE_S)
    outcome = play_outcomes[0]
    assert outcome.answers[play.liar.me] == b"own"
    assert outside not in outcome.answers or outcome.answers[outside] != b"lie"


def test_a_liar_that_reached_more_than_can_be_said_costs_its_parent_nothing() -> None:
    play = caught(18)
    pieces: list[Piece] = []
    play.says(Ask(5, play.liar.me, all_but(play.liar), 1, 5000, "count", b""))
    child = next(iter(play.victim.aggregates._branching.by_label.values()))

    def taken(incoming: Incoming, message: Piece) -> PieceTaken:
        pieces.append(message)
        return PieceTaken()

    play.liar.exchange.handle(Piece, None, taken)
    Caught(play.world, play.world.members[child.id], play.victim).says(
        Piece(child.label, 0, last=True, reached=MAX_REACHED, value=packed(1))
    )
    play.world.engine.run_for(DEADLINE_S)
    assert pieces[-1].last and pieces[-1].reached == MAX_REACHED
    assert not play.world.refused


def test_answers_that_do_not_go_into_one_leave_a_hole_and_raise_nothing() -> None:
    """Two numbers may each be fit to be told, and their sum not."""
    play = caught(20)
    play.says(Ask(5, play.liar.me, all_but(play.liar), 1, 5000, "count", b""))
    children = list(play.victim.aggregates._branching.by_label.values())
    told: list[Piece] = []

    def take(incoming: Incoming, message: Piece) -> PieceTaken:
        told.append(message)
        return PieceTaken()

    play.liar.exchange.handle(Piece, None, take)
    for child in children:
        other = Caught(play.world, play.world.members[child.id], play.victim)
        other.says(Piece(child.label, 0, last=True, reached=1, value=packed((1 << 64) - 1)))
    play.world.engine.run_for(1.0)
    assert told[-1].last and told[-1].value == b""
    assert [hole.reason for piece in told for hole in piece.holes] == [Reason.TOO_LARGE]
    assert play.victim.counters["aggregate_too_large"] == 1 and not play.world.refused


def test_answers_nobody_asked_for_are_counted_and_forgotten() -> None:
    play = caught(16)
    play.says(Piece(12345, 0, (Answer(play.liar.me, b"lie"),)))
    assert play.answers == [PieceTaken()], "so that an honest child that was given up stops"
    assert play.victim.counters["aggregate_piece_late"] == 1


def test_a_liar_with_endless_answers_fills_neither_who_asked_nor_who_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dht.aggregate.MAX_ANSWERS", 500)
    play = caught(17)
    play_outcomes.clear()
    label = open_child(play)
    part = play.victim.aggregates._branching.by_label[label].arc
    rng = play.world.engine.rng
    for index in range(3000):
        place = (part.low + rng.randrange(0, part.length)) % CIRCLE
        play.says(Piece(label, index, (Answer(place << 96, b"x" * 100),)))
    play.says(Piece(label, 4000, last=True))
    play.world.engine.run_for(DEADLINE_S)
    outcome = play_outcomes[0]
    assert len(outcome.answers) <= 500
    assert not outcome.complete


def test_who_hands_on_takes_no_more_than_its_parent_takes() -> None:
    play = caught(18)
    # The liar is both parent, which confirms nothing, and, through a part of the victim's, a child that never stops.
    play.says(Ask(5, play.liar.me, all_but(play.liar), 1, 60_000, "blob", b""))
    child = next(iter(play.victim.aggregates._branching.by_label.values()))
    other = Caught(play.world, play.world.members[child.id], play.victim)
    play.liar.exchange.handle(Piece, None, lambda incoming, message: None)
    for index in range(500):
        other.says(Piece(child.label, index, (Answer(child.id, bytes(MAX_VALUE_BYTES)),)))
    branch = next(iter(play.victim.aggregates._branches.values()))
    assert branch.up._waiting_bytes < 200_000  # type: ignore[attr-defined]
    assert play.victim.counters["aggregate_piece_unheld"] > 400


def test_answers_that_cannot_be_read_are_refused_and_their_sender_named() -> None:
    play = caught(19)
    world = play.world
    victim, liar = play.victim, play.liar
    broken = Kind("count", nothing, lambda argument, about: 1, lambda value: b"?", number, lambda a, b: a + b)
    liar.aggregates._kinds["count"] = broken
    outcome, _ = asked(world, victim, COUNT, 3.0)
    assert any(hole.id == liar.me for hole in outcome.missing)
    assert world.refused


def test_stopping_forgets_every_question_and_runs_no_timer() -> None:
    world = make_world(50, 20)
    asker = world.all()[0]
    outcomes: list[Outcome[int]] = []
    asker.aggregates.ask(COUNT, b"", DEADLINE_S, outcomes.append)
    world.engine.run_for(0.03)
    for member in world.all():
        assert isinstance(member.aggregates, Aggregates)
        member.aggregates.stop()
    world.engine.run_for(30)
    assert not outcomes
    assert leftovers(world) == 0
