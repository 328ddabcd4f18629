"""What was told comes back as of then, whatever came later, but for what belongs to somebody forgotten since."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journey.domain.handoffs import OfferHandoff, token_hash
from throughline.identity.v1 import events_pb2 as identity_pb2
from throughline_kernel import ALWAYS, Interval, InvalidError, NotFoundError, PreconditionError, hex_id

CLIENTS = ("ann", "bob", "cleo")
KINDS = (("instagram", "post", "social"), ("web", "visit", "site"), ("store", "purchase", "store"))

clients = st.sampled_from(CLIENTS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("note"), clients, st.tuples(st.integers(0, 20), st.sampled_from(KINDS))),
        st.tuples(st.just("merge"), clients, clients),
        st.tuples(st.just("undo"), clients, clients),
        st.tuples(st.just("say"), clients, st.integers(0, 2)),
        st.tuples(st.just("define"), clients, st.integers(1, 20)),
    ),
    max_size=14,
)


class World:
    """Identity's and feedback's logs as a history of steps writes them, and the journey service that takes them."""

    def __init__(self, say: SimpleNamespace, folder: Path) -> None:
        self.say = say
        self.line: Any = say.open_line(folder / "journey.db", say.shipped.all())
        self.log: Any = say.Upstream("identity")
        self.feedback: Any = say.Upstream("feedback")
        self.owners: dict[Any, str] = {}
        self.first: dict[Any, str] = {}
        self.merged: set[tuple[str, str]] = set()
        self.version = 1
        # Journeys of the last weeks are open or not by the definition's time-out.
        self.start = time.time_ns() // 1_000 - say.START - 20 * say.DAY
        self.line.identity([self.log.opened(say.client(name)) for name in CLIENTS])

    def move(self, facts: list[Any], to: str) -> list[Any]:
        """Re-attributes the interactions."""
        moved = [self.log.reattributed(to, self.owners[fact], fact) for fact in facts]
        self.owners.update(dict.fromkeys(facts, to))
        return moved

    def step(self, what: str, name: str, detail: Any) -> None:
        """One commit of the journey service."""
        who = self.say.client(name)
        match what:
            case "note":
                day, (channel, kind, group) = detail
                number = len(self.owners)
                fact = self.say.fact(self.start + day * self.say.DAY, channel, kind, group=group, id=f"{number}")
                # An alias's interactions are its client's.
                who = next((client for client, alias in self.merged if alias == who), who)
                self.owners[fact] = self.first[fact] = who
                self.line.identity([self.log.attributed(who, fact)])
            case "merge" if name != detail and not {who, self.say.client(detail)} & {
                each for pair in self.merged for each in pair
            }:
                alias = self.say.client(detail)
                self.merged.add((who, alias))
                events = [self.log.merged(who, alias)]
                self.line.identity(events + self.move([f for f, owner in self.owners.items() if owner == alias], who))
            case "undo" if (who, alias := self.say.client(detail)) in self.merged:
                self.merged.discard((who, alias))
                said = identity_pb2.MergeUndone(client_id=who, restored_client_id=alias)
                events = [self.log.add(said)]
                back = [f for f, owner in self.owners.items() if owner == who and self.first[f] == alias]
                self.line.identity(events + self.move(back, alias))
            case "say":
                number = len(self.feedback.events)
                item = hex_id("feedback", str(number))
                self.line.feedback([self.feedback.received(who, item, detail * self.say.DAY, kind=1, score=7)])
            case "define":
                self.version += 1
                definition = self.say.shipped.get("social_to_store")
                self.line.define(self.say.replace(definition, version=self.version, timeout=detail * self.say.DAY))
            case _:
                pass

    def instant(self) -> int:
        """The last commit's."""
        with self.line.store.snapshot() as reader:
            return reader.commit_at().recorded_at

    def now(self) -> dict[str, Any]:
        """What everyone is told now."""
        told: dict[str, Any] = {}
        for name in CLIENTS:
            who = self.say.client(name)
            page = self.line.queries.timeline(who, 0, ALWAYS, 0, 1_000)
            told[name] = page.client_id, page.entries, self.line.queries.context(who, (), "store", self.instant())
        return told | self.counted(self.instant(), 0)

    def then(self, instant: int) -> dict[str, Any]:
        """What everyone was told at an instant."""
        told: dict[str, Any] = {}
        for name in CLIENTS:
            who = self.say.client(name)
            page = self.line.queries.timeline(who, instant, ALWAYS, 0, 1_000)
            told[name] = page.client_id, page.entries, self.line.queries.earlier_context(who, (), "store", instant)
        return told | self.counted(time.time_ns() // 1_000, instant)

    def counted(self, now: int, as_of: int) -> dict[str, Any]:
        """Figures over everyone, and the definitions that they hang on."""
        queries, start = self.line.queries, self.say.START + self.start
        middle = Interval(start + 5 * self.say.DAY, start + 12 * self.say.DAY)
        told: dict[str, Any] = {"definitions": queries.definitions(as_of)}
        for between in (ALWAYS, middle):
            for journey in ("", "social_to_store"):
                told[f"variants {journey} {between}"] = queries.variants(journey, 5, now, as_of, between)
            told[f"stats {between}"] = queries.stats("social_to_store", now, as_of, between)
        return told


@given(steps)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_an_answer_comes_back_as_of_the_instant_at_which_it_was_given(say: SimpleNamespace, told: list[Any]) -> None:
    """Late events, merges, undone merges, feedback and new definitions change nothing of what was told before."""
    folder = Path(tempfile.mkdtemp())
    world = World(say, folder)
    try:
        answers = {world.instant(): world.now()}
        for what, name, detail in told:
            world.step(what, name, detail)
            answers[world.instant()] = world.now()
        for instant, then in answers.items():
            assert world.then(instant) == then
    finally:
        world.line.store.close()
        shutil.rmtree(folder)


@pytest.fixture
def world(say: SimpleNamespace, tmp_path: Path) -> Any:
    opened = World(say, tmp_path)
    yield opened
    opened.line.store.close()


def test_before_anything_was_recorded_nobody_was_known(world: World) -> None:
    """An instant before the first commit knows nobody."""
    with pytest.raises(NotFoundError, match="no client was known by the id"):
        world.line.queries.timeline(world.say.client("ann"), 1, ALWAYS, 0, 10)


def test_an_interval_shows_what_happened_in_it_whenever_it_was_recorded(world: World) -> None:
    """From its start on and before its end; with an instant, what was known of it then."""
    say, ann = world.say, world.say.client("ann")
    for day in (10, 12, 14):
        world.step("note", "ann", (day, KINDS[1]))
    before = world.instant()
    world.step("note", "ann", (11, KINDS[2]))
    start = say.START + world.start
    between = Interval(start + 11 * say.DAY, start + 14 * say.DAY)

    def kinds(as_of: int) -> list[tuple[int, str]]:
        page = world.line.queries.timeline(ann, as_of, between, 0, 100)
        found = [entry for entry in page.entries if entry.type == "interaction"]
        return [((entry.occurred_at - start) // say.DAY, entry.channel) for entry in found]

    assert kinds(0) == [(11, "store"), (12, "web")]
    assert kinds(before) == [(12, "web")]
    with pytest.raises(InvalidError, match="later than the start"):
        Interval.between(5, 5)


def test_figures_of_an_interval_count_what_began_in_it_and_histories_what_happened(world: World) -> None:
    """A journey counts where it was started, with all that is known of it; of a whole history what lies in it."""
    say, queries = world.say, world.line.queries
    start = say.START + world.start
    for day, kind in ((1, KINDS[0]), (3, KINDS[1]), (6, KINDS[2])):
        world.step("note", "ann", (day, kind))
    world.step("note", "bob", (4, KINDS[0]))
    early, late = (Interval(start + a * say.DAY, start + b * say.DAY) for a, b in ((0, 4), (4, 9)))
    now = world.instant()
    assert [queries.stats("social_to_store", now, 0, each)[1].started for each in (early, late, ALWAYS)] == [1, 1, 2]
    assert queries.stats("social_to_store", now, 0, early)[1].completed == 1
    counted, _ = queries.variants("", 5, now, 0, early)
    assert [(each.channels, each.count) for each in counted.variants] == [(("instagram", "web"), 1)]
    counted, _ = queries.variants("", 5, now, 0, late)
    assert {each.channels for each in counted.variants} == {("instagram",), ("store",)}


def test_silence_is_judged_at_the_instant_that_is_asked_for(world: World) -> None:
    """Not when the last commit was, and never later than now."""
    world.step("define", "ann", 2)
    world.step("note", "ann", (19, KINDS[0]))
    instant = world.instant()
    later = instant + 2 * world.say.DAY
    for asked, now, still_open in ((instant, later, 1), (later, later, 0), (later + world.say.DAY, instant, 1)):
        _, counts, commit = world.line.queries.stats("social_to_store", now, asked)
        assert (counts.open, counts.abandoned) == (still_open, 1 - still_open)
        assert commit.recorded_at == instant


def test_who_was_forgotten_since_is_in_no_earlier_answer(world: World) -> None:
    """Bob was Ann for a while, then was forgotten: her history of then has hers alone, and says what it leaves out."""
    ann, bob = world.say.client("ann"), world.say.client("bob")
    world.step("note", "bob", (1, KINDS[0]))
    world.step("note", "ann", (2, KINDS[1]))
    world.line.offer(OfferHandoff(bob, "web", "store", "call back", "", 0, token_hash("token"), world.instant()))
    alone = world.instant()
    world.step("merge", "ann", "bob")
    merged = world.instant()
    assert len(world.line.queries.timeline(ann, 0, ALWAYS, 0, 100).entries) == 6
    world.step("undo", "ann", "bob")
    world.line.identity([world.log.forgotten(bob)])

    page = world.line.queries.timeline(ann, merged, ALWAYS, 0, 100)
    assert [(entry.type, entry.channel) for entry in page.entries] == [("interaction", "web")]
    assert page.withheld == 1
    # Nor is anything of it in figures over everyone: of the two histories, and of the longer one, hers is left.
    for instant in (alone, merged):
        counted, _ = world.line.queries.variants("", 5, world.instant(), instant)
        assert [(each.channels, each.count) for each in counted.variants] == [(("web",), 1)]
        assert world.line.queries.stats("social_to_store", world.instant(), instant)[1].started == 0
    context = world.line.queries.earlier_context(ann, (), "store", merged)
    assert (context.context.interactions, context.withheld) == (1, 1)
    assert context.context.who.alias_ids == ()
    for instant in (alone, merged, 0):
        with pytest.raises(PreconditionError, match="was forgotten"):
            world.line.queries.timeline(bob, instant, ALWAYS, 0, 100)
    # The id is opened again later: what was said before the forgetting does not come back with it.
    world.line.identity([world.log.opened(bob)])
    assert world.line.queries.timeline(bob, alone, ALWAYS, 0, 100).entries == ()
