"""Law 6 and law 3 on the real store: whatever happens, every offer is in one end, and the log alone says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from ingestion_world import event

from ingestion.adapters.codec import ContractCodec
from ingestion.adapters.content import ContentMac
from ingestion.adapters.index import RunIndex
from ingestion.adapters.personas import Personas
from ingestion.adapters.reading import ContractReader
from ingestion.adapters.sealing import VaultSeal
from ingestion.adapters.tables import TABLES, StoreTables
from ingestion.application.queries import read_state
from ingestion.application.recording import Recorder, RecordOffers
from ingestion.application.redriving import RedrivePage, RedriveQuarantine
from ingestion.application.registering import Register
from ingestion.application.replay import make_fold
from ingestion.domain.accounting import Tally, Verdict
from ingestion.domain.deciding import Offer
from ingestion.domain.registry import ChannelTraits, RegisterChannel, RegisterSource
from ingestion.domain.state import State
from throughline.ingestion.v1 import interaction_pb2
from throughline_eventlog import StoreSettings, open_store
from throughline_privacy import IdentifierHasher, KeyEncryptionKey, SqliteKeyStore, Vault

Batches = list[list[interaction_pb2.Interaction]]


class Intake:
    """Ingestion's work on a store of its own, without a network."""

    def __init__(self, folder: Path) -> None:
        personas = Personas(IdentifierHasher(b"h" * 32))
        self.reader = ContractReader(ContentMac(b"k" * 32), personas)
        self.store = open_store(StoreSettings.sqlite("ingestion", folder / "ingestion.db"), tables=TABLES)
        self.vault = Vault(SqliteKeyStore(folder / "keys.db"), KeyEncryptionKey(b"e" * 32))
        self.tables = StoreTables()
        codec = ContractCodec()
        seal = VaultSeal(self.vault, personas)
        recorder = Recorder(codec, seal, RunIndex(merge_at=4), self.tables)
        self.recording = RecordOffers(recorder)
        self.redriving = RedrivePage(recorder, self.reader)
        self.registering = Register(codec, self.tables)

    def register(self, channel: str, source: str) -> None:
        """Makes both known."""
        with self.store.transaction() as tx:
            self.registering(tx, [RegisterChannel(channel, ChannelTraits("")), RegisterSource(source, "")])

    def record(self, *batches: Sequence[interaction_pb2.Interaction]) -> list[tuple[str, Verdict]]:
        """Records all batches in one commit; (source, verdict) of each event."""
        with self.store.transaction() as tx:
            offers: list[list[Offer]] = [[self.reader.offer(each, tx.now) for each in batch] for batch in batches]
            answers = self.recording(tx, offers)
        return [
            (offer.source, result.verdict)
            for batch, answer in zip(offers, answers, strict=True)
            for offer, result in zip(batch, answer.results, strict=True)
        ]

    def redrive(self) -> None:
        """Offers everything that waits again."""
        with self.store.transaction() as tx:
            self.redriving(tx, [RedriveQuarantine()])

    def live(self) -> State:
        """The state as the tables have it."""
        with self.store.snapshot() as reader:
            return read_state(reader, self.tables)

    def replayed(self) -> State:
        """The state as the log alone has it."""
        fold = make_fold()
        with self.store.snapshot() as reader:
            for each in reader.read():
                fold.apply(each)
        return fold.state

    def close(self) -> None:
        """Lets go of the files."""
        self.store.close()
        self.vault.close()


@contextmanager
def intake(folder: Path) -> Iterator[Intake]:
    """Opens, and closes."""
    opened = Intake(folder)
    try:
        yield opened
    finally:
        opened.close()


offered = st.builds(
    lambda number, outcome, channel, source, kind: event(
        number, outcome=outcome, channel=channel, source=source, kind=kind
    ),
    st.integers(0, 3),
    st.sampled_from(["", "open"]),
    st.sampled_from(["store", "kiosk"]),
    st.sampled_from(["till", "nobody"]),
    st.sampled_from(["purchase", "purchase", "Not Snake"]),
)
batches = st.lists(st.lists(offered, max_size=5), min_size=1, max_size=3)
steps = st.lists(batches | st.sampled_from(["redrive", "register"]), max_size=7)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_the_five_ends_add_up_and_the_log_says_the_same(
    story: list[list[list[interaction_pb2.Interaction]] | str],
) -> None:
    """Any batches, repeats, conflicts, redrives, late registrations, and a restart after every step."""
    offers: Counter[str] = Counter()
    told: Counter[tuple[str, Verdict]] = Counter()
    with TemporaryDirectory() as folder:
        with intake(Path(folder)) as opened:
            opened.register("store", "till")
        for step in story:
            with intake(Path(folder)) as opened:
                if step == "register":
                    opened.register("kiosk", "nobody")
                elif isinstance(step, str):
                    opened.redrive()
                else:
                    ends = opened.record(*step)
                    offers.update(source for source, _ in ends)
                    told.update(ends)
        with intake(Path(folder)) as opened:
            live, replayed = opened.live(), opened.replayed()
        assert list(live.aggregates()) == list(replayed.aggregates())
        waiting: Counter[str] = Counter()
        for each in live.quarantine.values():
            waiting[each.source] += each.offers
        for source, account in live.accounts.items():
            assert account.tally.offered == offers[source]
            assert account.tally.quarantined == waiting[source]
            assert account.tally.recorded == account.recorded.members
            assert account.tally.refused == told[source, Verdict.REFUSED]
            if "redrive" not in story:
                assert account.tally == Tally(*(told[source, verdict] for verdict in Verdict))
        assert set(live.accounts) == set(offers)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=6), st.data())
def test_any_order_repetition_and_batching_gives_one_digest(
    order: list[int], repeated: list[int], data: st.DataObject
) -> None:
    """Law 3: the interactions of an account are a set."""
    sequence = [event(number) for number in [*order, *repeated]]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sequence)), max_size=3)))
    parts = [sequence[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(sequence)], strict=True)]
    digests = set[str]()
    for split in (parts, [[event(number) for number in range(8)]]):
        with TemporaryDirectory() as folder, intake(Path(folder)) as opened:
            opened.register("store", "till")
            for part in split:
                opened.record(part)
            account = opened.live().accounts["till"]
            assert account.recorded.members == 8
            digests.add(account.recorded.hex())
    assert len(digests) == 1
