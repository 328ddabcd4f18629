"""Tables behave as a dictionary does, in any order of operations, with rollbacks."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from throughline_eventlog import Store, StoreSettings, open_store
from throughline_testkit import PostgresServer, postgres_settings

KEYS = st.binary(max_size=3) | st.sampled_from([b"\xff", b"\xff\xff", b"a\xff", b"a\x00", b"\x00"])
VALUES = st.binary(max_size=5)


class UndoneError(Exception):
    """Ends a transaction without a commit."""


class Tables(RuleBasedStateMachine):
    """One table beside one dictionary."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[bytes, bytes] = {}
        self.draft: dict[bytes, bytes] | None = None
        self.stack = ExitStack()
        self.tx: Any = None

    @initialize()
    def empty(self) -> None:
        with self.store.transaction() as tx:
            for key, _ in list(tx.scan("things")):
                tx.delete("things", key)

    def begun(self) -> Any:
        if self.draft is None:
            self.draft = dict(self.model)
            self.tx = self.stack.enter_context(self.store.transaction())
        return self.tx

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        self.begun().put("things", key, value)
        assert self.draft is not None
        self.draft[key] = value

    @rule(rows=st.dictionaries(KEYS, VALUES, max_size=6))
    def put_many(self, rows: dict[bytes, bytes]) -> None:
        self.begun().put_many("things", rows)
        assert self.draft is not None
        self.draft |= rows

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.begun().delete("things", key)
        assert self.draft is not None
        self.draft.pop(key, None)

    @rule(keys=st.lists(KEYS, max_size=8))
    def get(self, keys: list[bytes]) -> None:
        tx, draft = self.begun(), self.draft
        assert draft is not None
        assert tx.get_many("things", keys) == {key: draft[key] for key in keys if key in draft}
        for key in keys:
            assert tx.get("things", key) == draft.get(key)

    @rule(prefix=KEYS, after=KEYS, limit=st.none() | st.integers(0, 5), reverse=st.booleans())
    def scan(self, prefix: bytes, after: bytes, limit: int | None, reverse: bool) -> None:
        tx, draft = self.begun(), self.draft
        assert draft is not None
        assert list(tx.scan("things", prefix=prefix, after=after, limit=limit, reverse=reverse)) == scanned(
            draft, prefix, after, limit, reverse
        )
        assert tx.count("things") == len(draft)

    @rule()
    def commit(self) -> None:
        if self.draft is not None:
            self.stack.close()
            self.model, self.draft = self.draft, None

    @rule()
    def roll_back(self) -> None:
        if self.draft is not None:
            stack, self.stack, self.draft = self.stack, ExitStack(), None
            with pytest.raises(UndoneError), stack:
                raise UndoneError

    @invariant()
    def others_see_what_is_committed(self) -> None:
        with self.store.snapshot() as reader:
            assert dict(reader.scan("things")) == self.model

    def teardown(self) -> None:
        self.roll_back()


def scanned(
    rows: dict[bytes, bytes], prefix: bytes, after: bytes, limit: int | None, reverse: bool
) -> list[tuple[bytes, bytes]]:
    """What a scan promises, said plainly."""
    found = [
        (key, value)
        for key, value in sorted(rows.items(), reverse=reverse)
        if key.startswith(prefix) and (not after or (key < after if reverse else key > after))
    ]
    return found if limit is None else found[:limit]


def check(store_settings: StoreSettings, examples: int) -> None:
    store = open_store(store_settings, tables=("things",))
    machine = type("OnThisStore", (Tables,), {"store": store})
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
                database=None,
                derandomize=True,
            ),
        )
    finally:
        store.close()


def test_tables_are_dictionaries_on_sqlite() -> None:
    """Any sequence of puts, deletes, reads, commits and rollbacks."""
    with TemporaryDirectory() as folder:
        check(StoreSettings.sqlite("model", Path(folder) / "model.db"), 60)


def test_tables_are_dictionaries_on_postgres(postgres: PostgresServer) -> None:
    """Any sequence of puts, deletes, reads, commits and rollbacks."""
    schema = f"t_{uuid4().hex[:12]}"
    check(postgres_settings(postgres, "model", schema), 25)
    postgres.drop_schema(schema)
