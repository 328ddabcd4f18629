"""Which partition has what never changes, and no number means another log later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline_eventlog import Partitioning, SettingsError, StoreSettings
from throughline_eventlog.partitions import MOST_PARTITIONS, generation_of, index_of, listed, owner

COUNTS = st.lists(st.integers(1, MOST_PARTITIONS), max_size=5).map(lambda later: [1, *later])
OWNERS = {
    "web": (0, 1, 2, 3, 6),
    "app": (0, 0, 2, 2, 60),
    "store-till": (0, 0, 0, 0, 59),
    "call centre": (0, 1, 1, 3, 49),
    "filiale-zürich": (0, 1, 1, 4, 57),
    "": (0, 0, 0, 3, 59),
}
"""Of a source its partition among 1, 2, 3, 5 and 64."""


@pytest.mark.parametrize("source", OWNERS)
def test_a_source_stays_where_it_is_for_ever(source: str) -> None:
    """Logs are written by this choice: another one would lose what a source sent."""
    assert tuple(owner(source, count) for count in (1, 2, 3, 5, 64)) == OWNERS[source]


@given(source=st.text(), count=st.integers(1, MOST_PARTITIONS - 1))
def test_one_partition_more_takes_sources_and_moves_no_others(source: str, count: int) -> None:
    """Of n partitions becoming n + 1 a source stays where it is, or goes to the new one."""
    before, after = owner(source, count), owner(source, count + 1)
    assert 0 <= before < count
    assert after in {before, count}


def test_sources_spread_evenly() -> None:
    """Of many sources each partition has about its share."""
    found = [owner(f"till-{number}", 8) for number in range(8_000)]
    assert all(800 < found.count(index) < 1_200 for index in range(8))


@given(counts=COUNTS)
def test_what_is_written_is_read_as_the_same(counts: list[int]) -> None:
    """For every row of generations."""
    partitioning = Partitioning.parse(f"ingestion={':'.join(map(str, counts))}")
    assert partitioning.counts("ingestion") == tuple(counts)
    assert Partitioning.parse(partitioning.write()) == partitioning


@given(counts=COUNTS, count=st.integers(1, MOST_PARTITIONS))
def test_no_number_is_used_twice(counts: list[int], count: int) -> None:
    """Another generation leaves all numbers what they were, and brings as many new ones as it has partitions."""
    before = Partitioning({"ingestion": tuple(counts)})
    after = before.followed_by("ingestion", count)
    assert after.earlier("ingestion") == before.numbers("ingestion")
    numbers = after.numbers("ingestion")
    assert len(set(numbers)) == len(numbers) == sum(counts) + count
    assert sorted(numbers) == list(numbers)
    assert [index_of(number) for number in after.in_force("ingestion")] == list(range(count))
    assert {generation_of(number) for number in after.in_force("ingestion")} == {len(counts)}


def test_generations_have_the_numbers_that_the_guide_names() -> None:
    """0; 100 and 101; 200, 201 and 202."""
    partitioning = Partitioning.parse(" ingestion = 1:2:3 , journey=1")
    assert partitioning.earlier("ingestion") == (0, 100, 101)
    assert partitioning.in_force("ingestion") == (200, 201, 202)
    assert partitioning.count("ingestion") == 3
    assert partitioning.write() == "ingestion=1:2:3"
    assert partitioning.owner("ingestion", "web") == 202


def test_where_nothing_is_said_every_service_has_one_partition() -> None:
    """Which is number 0, and is written as nothing."""
    partitioning = Partitioning.parse("")
    assert partitioning == Partitioning.parse("ingestion=1,identity=1")
    assert (partitioning.in_force("ingestion"), partitioning.earlier("ingestion")) == ((0,), ())
    assert partitioning.write() == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ingest=2", "names 'ingest', which is no service (ingestion, identity"),
        ("ingestion=1,ingestion=2", "names ingestion twice"),
        ("ingestion=2", "begins with 2 for ingestion, and every installation begins with one partition"),
        ("ingestion", "has 'ingestion': give the count"),
        ("ingestion=", "has 'ingestion=': give the count"),
        ("ingestion=1:0", "has 'ingestion=1:0': give the count"),
        ("ingestion=1:-2", "e.g. ingestion=1:2"),
        ("ingestion=1:65", "gives ingestion 65 partitions: give 1 to 64"),
        ("identity=2", "because who may be one client is decided in one order; of the services ingestion can be"),
        ("scoring=1:1", "it is not parted, because scorecards count over all clients"),
    ],
)
def test_a_text_that_means_no_partitioning_is_refused(text: str, said: str) -> None:
    """With the place, the rule and the remedy."""
    with pytest.raises(SettingsError) as refused:
        Partitioning.parse(text, "the file partitions")
    assert str(refused.value).startswith("the file partitions ")
    assert said in str(refused.value)


def test_a_partition_that_is_not_in_force_is_refused() -> None:
    """It says whether it was once, and which are."""
    partitioning = Partitioning.parse("ingestion=1:2")
    partitioning.check_in_force("ingestion", 101, "X")
    with pytest.raises(SettingsError, match=r"X is 0: .* was replaced and is kept for reading only; .* 100, 101$"):
        partitioning.check_in_force("ingestion", 0, "X")
    with pytest.raises(SettingsError, match=r"X is 102: partition 102 of ingestion does not exist; .* 100, 101$"):
        partitioning.check_in_force("ingestion", 102, "X")
    with pytest.raises(SettingsError, match=r"X is 100: .* does not exist; give the one in force, 0$"):
        Partitioning().check_in_force("ingestion", 100, "X")


def test_a_service_that_is_not_parted_has_no_second_generation() -> None:
    """Asked for by a program, too."""
    with pytest.raises(SettingsError, match="identity=1:2 gives identity other partitions"):
        Partitioning().followed_by("identity", 2)
    with pytest.raises(SettingsError, match="gives ingestion 0 partitions"):
        Partitioning().followed_by("ingestion", 0)


def test_each_partition_has_a_store_of_its_own() -> None:
    """The first where it always was, others in files beside it or schemas of their own."""
    sqlite = StoreSettings.sqlite("ingestion", "data/ingestion.db")
    assert sqlite.of_partition(0) == sqlite
    assert sqlite.of_partition(101).environment["SQLITE_DBNAME"] == "data/ingestion-101.db"
    postgres = StoreSettings("ingestion", {"PERSISTENCE_MODULE": "eventsourcing.postgres", "POSTGRES_SCHEMA": "ours"})
    assert postgres.of_partition(101).environment["POSTGRES_SCHEMA"] == "ours_101"
    assert postgres.of_partition(101).beside("access").environment["POSTGRES_SCHEMA"] == "ours_101_access"
    assert postgres.of_partition(101).service == "ingestion"


def test_partitions_are_named_in_sentences() -> None:
    """One or several."""
    assert (listed([0]), listed([100, 101])) == ("partition 0", "partitions 100, 101")
