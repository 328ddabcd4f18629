"""Counting over many: exact, with every other shown."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from journey.domain.variants import Way, count_journeys, count_variants, median

ways = st.lists(
    st.builds(
        Way,
        st.uuids().map(lambda each: each.hex),
        st.lists(st.sampled_from(["web", "store", "mail"]), min_size=1, max_size=3).map(tuple),
        st.sampled_from(["open", "completed", "abandoned"]),
        st.integers(0, 100),
        st.integers(100, 200),
    ),
    max_size=60,
)


@given(ways, st.integers(1, 8))
def test_nothing_is_lost_in_counting(told: list[Way], top: int) -> None:
    """Listed variants and all others add up to everybody, and each listed count is the exact one."""
    counted = count_variants(told, top)
    assert counted.total == len(told)
    assert sum(variant.count for variant in counted.variants) + counted.others == counted.total
    assert len(counted.variants) + counted.other_variants == len({way.channels for way in told})
    for variant in counted.variants:
        mine = [way for way in told if way.channels == variant.channels]
        assert variant.count == len(mine)
        assert variant.completed == sum(way.status == "completed" for way in mine)
        assert variant.abandoned == sum(way.status == "abandoned" for way in mine)
        assert variant.example_ids == tuple(sorted(way.id for way in mine)[:5])
        assert variant.median_duration == median([way.last_at - way.started_at for way in mine])
    listed = [variant.count for variant in counted.variants]
    assert listed == sorted(listed, reverse=True)


def test_the_median_is_a_value_that_occurs() -> None:
    """The middle one; of two the lower; nothing of nothing."""
    assert (median([]), median([4]), median([1, 9]), median([9, 1, 5])) == (0, 4, 1, 5)


def test_journeys_are_counted_by_stage(say: SimpleNamespace) -> None:
    """Given one completed with a loop, one abandoned and one open, each stage says how it did."""
    definition = say.shipped.get("social_to_store")
    counts = count_journeys(
        definition,
        [
            Way(
                "1",
                ("instagram", "web", "store"),
                "completed",
                0,
                10,
                ("social", "site", "social", "store"),
                ("social",),
                3,
            ),
            Way("2", ("instagram", "web"), "abandoned", 0, 99, ("social", "site"), (), 1),
            Way("3", ("instagram",), "open", 0, 99, ("social",), (), 0),
        ],
    )
    assert (counts.started, counts.open, counts.completed, counts.abandoned) == (3, 1, 1, 1)
    assert (counts.channel_switches, counts.median_duration) == (4, 10)
    social, site = counts.stages["social"], counts.stages["site"]
    assert (social.reached, social.loops, social.open) == (3, 1, 1)
    assert (site.reached, site.abandoned) == (2, 1)
