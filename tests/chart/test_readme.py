"""The chart's README says what values.yaml says."""

from __future__ import annotations

import yaml
from chart.documenting import README, described, readme, undescribed
from chart.rendering import CHART


def test_the_readme_s_table_is_that_of_the_values() -> None:
    """`make chart` has nothing to change."""
    text = README.read_text()
    assert readme(text) == text, "run: make chart"


def test_every_value_is_described() -> None:
    """A value without words would not be in the table."""
    text = (CHART / "values.yaml").read_text()
    assert list(undescribed(yaml.safe_load(text), frozenset(path for path, _ in described(text)))) == []
