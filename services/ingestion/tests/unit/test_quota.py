"""A source that offers more than it may is told when to come back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.adapters.quotas import quotas_from
from ingestion.application import quotas
from ingestion.application.quotas import Quotas
from ingestion.domain.deciding import Offer, refused
from ingestion.domain.quota import Quota, spent
from throughline_kernel import ExhaustedError
from throughline_rpc import HostSettingsError


def offers(**counts: int) -> list[Offer]:
    return [refused(source, ()) for source, count in counts.items() for _ in range(count)]


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 40)), max_size=60),
    st.floats(0.5, 50),
    st.floats(0.5, 20),
)
def test_no_more_is_taken_than_the_rate_and_one_burst(
    steps: list[tuple[float, int]], rate: float, burst: float
) -> None:
    """Over any stretch from the begin: rate times time, one burst, and at most one request that was larger than it."""
    now, until, taken, largest = 0.0, 0.0, 0, 0
    for pause, amount in steps:
        now += pause
        after, early = spent(until, amount, rate, burst, now)
        if early:
            # The word holds: as early as that it was, and not earlier.
            assert spent(until, amount, rate, burst, now + early + 1e-6)[1] == 0
            continue
        until, taken, largest = after, taken + amount, max(largest, amount)
        assert taken <= rate * (now + burst) + largest + 1e-6


def test_a_request_is_taken_whole_or_not_at_all() -> None:
    """One source over its quota turns the request away, and the others keep what they had; all of it is counted."""
    now, over = [0.0], Counter[str]()
    held = Quotas(
        lambda source: Quota(events=10, burst=1) if source == "till" else Quota(events=1_000, burst=1),
        lambda: now[0],
        lambda source, count: over.update({source: count}),
    )
    held.take(offers(till=10, web=500), 100)
    with pytest.raises(ExhaustedError) as error:
        held.take(offers(web=400, till=5), 100)
    assert error.value.metadata == {"source": "till", "quota": "events", "limit": "10", "retry_after_ms": "500"}
    assert over == {"till": 5, "web": 400}
    held.take(offers(web=500), 100)
    now[0] += 0.5
    held.take(offers(till=5), 100)


def test_bytes_count_too() -> None:
    """Shared by the events of a request alike."""
    held = Quotas(lambda _: Quota(bytes=1_000, burst=2), lambda: 0.0, lambda *_: None)
    held.take(offers(till=3, web=1), 2_000)
    held.take(offers(till=1), 500)
    with pytest.raises(ExhaustedError) as error:
        held.take(offers(till=1), 1)
    assert (error.value.metadata["quota"], error.value.metadata["retry_after_ms"]) == ("bytes", "1")


def test_names_that_callers_make_up_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, and whoever is over the quota is not forgotten for it."""
    monkeypatch.setattr(quotas, "MOST", 100)
    now = [0.0]
    held = Quotas(lambda source: Quota(events=1, burst=60 if source == "till" else 1), lambda: now[0], lambda *_: None)
    held.take(offers(till=60), 1)
    for number in range(1_000):
        now[0] += 0.02
        held.take(offers(**{f"made-up-{number}": 1}), 1)
    assert len(held._left) <= 101
    with pytest.raises(ExhaustedError):
        held.take(offers(till=30), 1)


def test_sources_may_have_quotas_of_their_own(tmp_path: Path) -> None:
    """From a file, which may change; others have the default."""
    file, default = tmp_path / "quotas.json", Quota(events=5, burst=3)
    file.write_text('{"till": {"events": 500, "bytes": 1e6, "burst": 30}, "web": {}}')
    quota_of = quotas_from(file, default)
    assert (quota_of("till"), quota_of("web"), quota_of("x")) == (Quota(500, 1e6, 30), Quota(burst=3), default)
    file.write_text('{"till": {"events": 7}}')
    assert quota_of("till") == Quota(7, 0, 3)
    assert quotas_from(None, default)("till") == default
    for wrong in ("[]", '{"till": {"event": 7}}', '{"till": {"events": -7}}', '{"till": {"burst": 0}}', "-"):
        file.write_text(wrong)
        with pytest.raises(HostSettingsError, match="is no file of quotas"):
            quotas_from(file, default)
    assert quota_of("till") == Quota(7, 0, 3)
