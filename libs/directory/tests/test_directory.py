"""Who an identifier or a client id means, on the real stores and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.identity.v1 import events_pb2 as identity
from throughline.ingestion.v1.interaction_pb2 import Identifier, IdentifierHash, InteractionFacts
from throughline_directory import DIRECTORY_TABLES, Directory, DirectoryFold, Resolution, Rows, consents_after
from throughline_directory.consents import CONSENTS
from throughline_directory.folding import CLIENTS, IDENTIFIERS, ClientRow
from throughline_eventlog import Store, StoreSettings, open_store
from throughline_kernel import Recorded, hex_id
from throughline_privacy import IdentifierHasher

HASHER = IdentifierHasher(bytes(32))
A, B, C, D = (hex_id("client", name) for name in "abcd")


def mail(name: str) -> Identifier:
    return Identifier(type="email", value=f"{name}@firma.de")


def hashed(name: str) -> IdentifierHash:
    return IdentifierHash(type="email", hash=HASHER.hash("email", f"{name}@firma.de"))


def opened(client: str) -> Any:
    return identity.ClientOpened(client_id=client)


def linked(client: str, name: str, *, person: bool = False) -> Any:
    return identity.IdentifierLinked(client_id=client, identifier=hashed(name), identifies_person=person)


def demoted(name: str) -> Any:
    return identity.IdentifierDemoted(identifier=hashed(name), reason="shared_by_too_many")


def merged(client: str, alias: str) -> Any:
    return identity.ClientsMerged(merge_id=hex_id(client, alias), client_id=client, merged_client_id=alias)


def undone(client: str, restored: str) -> Any:
    return identity.MergeUndone(merge_id=hex_id(client, restored), client_id=client, restored_client_id=restored)


def forgotten(client: str, aliases: Sequence[str] = (), names: Iterable[str] = ()) -> Any:
    return identity.ClientForgotten(client_id=client, alias_ids=aliases, identifiers=[hashed(each) for each in names])


def attributed(client: str) -> Any:
    return identity.InteractionAttributed(client_id=client, interaction=InteractionFacts(interaction_id=A))


def recorded(messages: Iterable[Any]) -> list[Recorded]:
    """The messages as identity's log has them; positions have gaps, as a log's may."""
    return [
        Recorded(
            position=3 * number,
            stream_id=bytes(16),
            version=number,
            type=message.DESCRIPTOR.full_name,
            event_id=number.to_bytes(16, "big"),
            schema_version=1,
            occurred_at=number,
            recorded_at=number,
            correlation_id="",
            causation_id="",
            traceparent="",
            payload=message.SerializeToString(),
        )
        for number, message in enumerate(messages, 1)
    ]


class InMemory:
    """A fold, asked as a service asks its tables."""

    def __init__(self, messages: Iterable[Any]) -> None:
        self.fold = DirectoryFold()
        for event in recorded(messages):
            self.fold.apply(event)

    def __call__(self, client_id: str = "", *names: str) -> Resolution:
        return self.fold.resolve(client_id, [hashed(name).hash for name in names])


def test_an_identifier_means_the_client_it_was_linked_to_last() -> None:
    """And nobody, once it is demoted."""
    ask = InMemory([opened(A), opened(B), linked(A, "anna"), linked(B, "ben"), linked(B, "anna"), demoted("ben")])
    assert ask("", "anna") == Resolution(B)
    assert ask("", "ben") == Resolution()
    assert ask("", "unknown") == Resolution()
    assert ask() == Resolution()


def test_an_alias_means_its_client_for_ever() -> None:
    """Over several merges; an unknown id means nobody."""
    ask = InMemory([opened(A), opened(B), opened(C), linked(C, "cem"), merged(B, C), merged(A, B)])
    expected = Resolution(A, alias_ids=tuple(sorted([B, C])))
    assert ask(A) == ask(B) == ask(C) == ask("", "cem") == expected
    assert set(expected.all_ids) == {A, B, C}
    assert ask(D) == ask("no id at all") == Resolution()


def test_merges_are_undone_in_any_order() -> None:
    """What was restored is its own client again, with what is merged into it."""
    story = [opened(A), opened(B), opened(C), merged(B, C), merged(A, B)]
    ask = InMemory([*story, undone(B, C)])
    assert (ask(A).client_id, ask(B).client_id, ask(C).client_id) == (A, A, C)
    ask = InMemory([*story, undone(A, B)])
    assert (ask(A), ask(B), ask(C)) == (Resolution(A), Resolution(B, alias_ids=(C,)), Resolution(B, alias_ids=(C,)))
    for order in ([undone(A, B), undone(B, C)], [undone(B, C), undone(A, B)]):
        ask = InMemory([*story, *order])
        assert [ask(each) for each in (A, B, C)] == [Resolution(A), Resolution(B), Resolution(C)]


def test_a_later_merge_outlives_the_undoing_of_an_earlier_one() -> None:
    """Whose alias an id is, the last merge says."""
    ask = InMemory([opened(A), opened(B), opened(C), merged(A, C), merged(B, C), undone(A, C)])
    assert ask(C) == Resolution(B, alias_ids=(C,))
    assert ask(A) == Resolution(A)


def test_an_alias_that_is_opened_again_is_its_own_client() -> None:
    """As when the evidence for the merge is gone."""
    ask = InMemory([opened(A), opened(B), merged(A, B), opened(B)])
    assert (ask(A), ask(B)) == (Resolution(A), Resolution(B))


def test_clients_may_change_places() -> None:
    """Merging a client into its own alias turns the two around and never goes round in circles."""
    ask = InMemory([opened(A), opened(B), opened(C), merged(A, B), merged(B, C), merged(C, A)])
    assert ask(A).client_id == ask(B).client_id == ask(C).client_id == C
    assert InMemory([opened(A), merged(A, A)])(A) == Resolution(A)


def test_a_client_is_known_by_any_of_its_ids() -> None:
    """One verified identifier is enough, wherever in the merged client; it stops when that is lost."""
    story = [opened(A), opened(B), merged(A, B), linked(A, "cookie"), linked(B, "anna", person=True)]
    assert InMemory(story)(A).known_person
    assert InMemory(story)(B).known_person
    assert not InMemory([*story, demoted("anna")])(A).known_person
    assert not InMemory([*story, linked(B, "anna")])(A).known_person
    moved = InMemory([*story, opened(C), linked(C, "anna", person=True)])
    assert (moved(A).known_person, moved(C).known_person) == (False, True)
    assert InMemory([*story, linked(B, "anna", person=True), linked(A, "x", person=True), demoted("x")])(A).known_person


def test_identifiers_that_disagree_are_told() -> None:
    """The client that most mean, of equals the first named; the others beside it."""
    ask = InMemory(
        [opened(A), opened(B), opened(C), linked(A, "1"), linked(B, "2"), linked(B, "3"), linked(C, "4"), merged(C, A)]
    )
    assert ask("", "1", "2", "3") == Resolution(B, other_client_ids=(C,))
    assert ask("", "1", "2") == Resolution(C, alias_ids=(A,), other_client_ids=(B,))
    assert ask("", "2", "1") == Resolution(B, other_client_ids=(C,))
    assert ask("", "2", "1", "1", "1") == Resolution(B, other_client_ids=(C,))
    assert ask("", "1", "4", "2") == Resolution(C, alias_ids=(A,), other_client_ids=(B,))
    assert ask(B, "1") == Resolution(B, other_client_ids=(C,))


def test_a_forgotten_client_is_nothing_but_forgotten() -> None:
    """Its identifiers mean nobody, its ids say that they are forgotten, and nothing brings it back."""
    story = [
        opened(A),
        opened(B),
        merged(A, B),
        linked(A, "anna", person=True),
        linked(B, "ben", person=True),
        forgotten(A, [B], ["anna", "ben"]),
    ]
    ask = InMemory(story)
    assert ask("", "anna", "ben") == Resolution()
    assert ask(A) == ask(B) == Resolution(A, forgotten=True)
    anew = InMemory([*story, opened(C), linked(C, "anna", person=True)])
    assert anew("", "anna") == Resolution(C, known_person=True)
    assert anew(A).forgotten


def test_what_is_of_no_concern_is_passed_over() -> None:
    """Attributions, by far the most, touch no row."""
    ask = InMemory([attributed(A), identity.MergeProposed(client_id=A)])
    assert ask(A) == Resolution()
    assert list(ask.fold.aggregates()) == []


def said(client: str, *, granted: bool, purpose: str = "marketing", scope: str = "") -> Any:
    return identity.ConsentRecorded(client_id=client, purpose=purpose, granted=granted, scope=scope, source="desk")


def forbidding(messages: Sequence[Any], of: Sequence[Any]) -> dict[str, list[str]]:
    """After all messages, whose consents the last of them may have changed, and the purposes each of these forbids."""
    events = recorded([*messages, *of])
    fold = DirectoryFold()
    fold.apply_many(events)
    return {
        client: sorted(word.purpose for word in consents.words if consents.withdrawal(word.purpose) is not None)
        for client, (consents, _) in consents_after(fold.rows, events[len(messages) :]).items()
    }


def test_a_clients_consents_are_all_that_was_said_under_any_of_its_ids() -> None:
    """A merge brings the other's words, undoing it takes them back, and forgetting forgets them."""
    start = [opened(A), opened(B), said(B, granted=False), said(A, granted=False, purpose="service")]
    assert forbidding(start[:2], start[2:]) == {A: ["service"], B: ["marketing"]}
    together = [*start, merged(A, B)]
    assert forbidding(start, [merged(A, B)]) == {A: ["marketing", "service"]}
    assert forbidding(together, [undone(A, B)]) == {A: ["service"], B: ["marketing"]}
    assert forbidding(together, [forgotten(A, [B])]) == {}
    assert forbidding([*together, forgotten(A, [B]), opened(A)], [said(A, granted=True)]) == {A: []}
    assert forbidding([], [opened(A), merged(A, B), attributed(A)]) == {}


def test_a_service_asks_with_identifiers_in_the_clear(open_test_store: Callable[..., Store]) -> None:
    """In any way of writing, on both stores, with what its transaction committed."""
    store = open_test_store(tables=DIRECTORY_TABLES)
    directory = Directory(HASHER)
    with store.transaction() as tx:
        directory.apply(tx, recorded([opened(A), opened(B), linked(A, "anna", person=True), merged(B, A)]))
        assert directory.resolve(tx, identifiers=[mail("anna")]).client_id == B
    with store.snapshot() as reader:
        assert directory.resolve(reader, identifiers=[Identifier(type="email", value=" ANNA@firma.de")]) == Resolution(
            B, known_person=True, alias_ids=(A,)
        )
        assert directory.resolve(reader, client_id=A).client_id == B
        assert not directory.resolve(reader, identifiers=[mail("ben")]).client_id
        keys = [key for key, _ in directory.aggregates(reader)]
        assert keys == sorted(keys)
        assert all(key.startswith("directory/") for key in keys)


clients = st.sampled_from([A, B, C, D])
names = st.sampled_from(["1", "2", "3", "4", "5"])
histories = st.lists(
    st.one_of(
        st.builds(opened, clients),
        st.builds(linked, clients, names, person=st.booleans()),
        st.builds(demoted, names),
        st.builds(merged, clients, clients),
        st.builds(undone, clients, clients),
        st.builds(forgotten, clients, st.lists(clients, max_size=1), st.lists(names, max_size=2)),
        st.builds(attributed, clients),
        st.builds(said, clients, granted=st.booleans(), scope=st.sampled_from(["", "web"])),
    ),
    max_size=25,
)


@dataclass
class Model:
    """The directory in the plainest words: dictionaries, one event at a time, nothing derived."""

    link: dict[str, tuple[str, bool]] = field(default_factory=dict[str, tuple[str, bool]])
    parent: dict[str, str] = field(default_factory=dict[str, str])
    seen: set[str] = field(default_factory=set[str])
    gone: set[str] = field(default_factory=set[str])

    def take(self, message: Any) -> None:  # noqa: C901 -- one case for each kind of event
        name = {hashed(each).hash: each for each in "12345"}
        match message:
            case identity.ClientOpened():
                self.seen.add(message.client_id)
                self.parent.pop(message.client_id, None)
                self.gone.discard(message.client_id)
            case identity.IdentifierLinked():
                self.link[name[message.identifier.hash]] = (message.client_id, message.identifies_person)
                if message.identifies_person:
                    self.seen.add(message.client_id)
            case identity.IdentifierDemoted():
                self.link.pop(name[message.identifier.hash], None)
            case identity.ClientsMerged() if message.client_id != message.merged_client_id:
                self.seen |= {message.client_id, message.merged_client_id}
                if self.root(message.client_id, until=message.merged_client_id) == message.merged_client_id:
                    self.parent.pop(message.client_id, None)
                self.parent[message.merged_client_id] = message.client_id
            case identity.MergeUndone() if self.parent.get(message.restored_client_id) == message.client_id:
                del self.parent[message.restored_client_id]
            case identity.ClientForgotten():
                for identifier in message.identifiers:
                    self.link.pop(name[identifier.hash], None)
                for client in (message.client_id, *message.alias_ids):
                    self.seen.add(client)
                    self.gone.add(client)
                    self.link = {key: (owner, person and owner != client) for key, (owner, person) in self.link.items()}
            case _:
                pass

    def root(self, client: str, until: str = "") -> str:
        while client in self.parent and client != until:
            client = self.parent[client]
        return client

    def resolve(self, client_id: str) -> Resolution:
        if client_id not in self.seen:
            return Resolution()
        root = self.root(client_id)
        if root in self.gone:
            return Resolution(root, forgotten=True)
        group = {each for each in {*self.seen, *self.parent} if self.root(each) == root}
        known = any(person and self.root(owner) == root for owner, person in self.link.values())
        return Resolution(root, known_person=known, alias_ids=tuple(sorted(group - {root})))


@given(histories)
@settings(max_examples=300, deadline=None)
def test_the_fold_agrees_with_the_plain_words(messages: list[Any]) -> None:
    """Any history identity could write, and many that it could not, resolve as the model says."""
    model, ask = Model(), InMemory(messages)
    for message in messages:
        model.take(message)
    for client in (A, B, C, D):
        assert ask(client) == model.resolve(client)
    for name in "12345":
        owner = model.link.get(name, ("", False))[0]
        expected = model.root(owner) if owner else ""
        assert ask("", name).client_id == expected


def rows_of(rows: Rows) -> dict[str, list[tuple[bytes, bytes]]]:
    return {table: list(rows.scan(table)) for table in (CLIENTS, CONSENTS, IDENTIFIERS)}


@given(histories, st.data())
@settings(max_examples=40, deadline=None)
def test_any_batching_gives_the_same_tables(messages: list[Any], data: st.DataObject) -> None:
    """On a real store, in batches cut anywhere, the rows are those of a fold event by event (law 3)."""
    events = recorded(messages)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(events)))) | {0, len(events)})
    expected = InMemory(messages)
    with TemporaryDirectory() as folder:
        store = open_store(StoreSettings.sqlite("testing", Path(folder) / "log.db"), tables=DIRECTORY_TABLES)
        directory = Directory(HASHER)
        for start, end in pairwise(cuts):
            with store.transaction() as tx:
                directory.apply(tx, events[start:end])
        with store.snapshot() as reader:
            assert rows_of(reader) == rows_of(expected.fold.rows)
            assert list(directory.aggregates(reader)) == list(expected.fold.aggregates())
            for client in (A, B, C, D):
                assert directory.resolve(reader, client) == expected(client)
        store.close()


@given(histories, st.data())
@settings(max_examples=60, deadline=None)
def test_what_an_id_meant_is_told_for_every_instant(messages: list[Any], data: st.DataObject) -> None:
    """As of each commit the answer of then comes back, but for those who were forgotten since."""
    events = recorded(messages)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(events)))) | {0, len(events)})
    told: dict[int, dict[str, Resolution]] = {}
    with TemporaryDirectory() as folder:
        store = open_store(StoreSettings.sqlite("testing", Path(folder) / "log.db"), tables=DIRECTORY_TABLES)
        directory = Directory(HASHER)
        for start, end in pairwise(cuts):
            with store.transaction() as tx:
                directory.apply(tx, events[start:end])
            with store.snapshot() as reader:
                told[reader.commit_at().recorded_at] = {each: directory.resolve(reader, each) for each in (A, B, C, D)}
        with store.snapshot() as reader:
            gone = {
                each for each in (A, B, C, D) if (row := reader.get(CLIENTS, bytes.fromhex(each))) and _forgotten(row)
            }
            for instant, answers in told.items():
                for asked, then in answers.items():
                    again = directory.resolve(reader, asked, as_of=instant)
                    if directory.resolve(reader, asked).forgotten or then.client_id in gone:
                        assert again.forgotten or again == Resolution()
                    else:
                        aliases = tuple(alias for alias in then.alias_ids if alias not in gone)
                        assert again == replace(then, alias_ids=aliases)
        store.close()


def _forgotten(row: bytes) -> bool:
    return ClientRow.unpack(row).forgotten


def test_the_state_does_not_depend_on_the_order_of_merges() -> None:
    """Three clients that became one have one digest, whichever two met first."""
    start = [opened(A), opened(B), opened(C), linked(C, "1", person=True)]
    one = InMemory([*start, merged(A, B), merged(A, C)])
    other = InMemory([*start, merged(B, C), merged(A, B)])
    assert list(one.fold.aggregates()) == list(other.fold.aggregates())
    assert rows_of(one.fold.rows) != rows_of(other.fold.rows)
