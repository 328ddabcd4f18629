"""Metrics as data: a share over contacts, cases or clients, with conditions."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, cast

from scoring.domain.catalogue import BUILT_IN
from scoring.domain.facts import Contact
from throughline_kernel import ConflictError, InvalidError, Violation

SNAKE_CASE = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")


class Unit(IntEnum):
    """What a metric is computed over, by its number in the contract."""

    UNSPECIFIED = 0
    CONTACT = 1
    CASE = 2
    CLIENT = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """All given parts hold; within one, any value. Nothing given: everything matches."""

    sources: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    touchpoints: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()
    matters: frozenset[str] = frozenset()
    # Operational attributes, as text.
    attributes: tuple[tuple[str, str], ...] = ()

    def holds(self, contact: Contact) -> bool:
        """Whether the contact satisfies it."""
        return (
            (not self.sources or contact.source in self.sources)
            and (not self.channels or contact.channel in self.channels)
            and (not self.kinds or contact.kind in self.kinds)
            and (not self.touchpoints or contact.touchpoint in self.touchpoints)
            and (not self.outcomes or contact.outcome in self.outcomes)
            and (not self.matters or contact.matter in self.matters)
            and (not self.attributes or _have(contact.attributes, self.attributes))
        )


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """Units that satisfy `numerator` among those that satisfy `population`."""

    metric: str
    version: int
    name: str
    definition: str
    unit: Unit
    population: Condition
    numerator: Condition


def define(definition: MetricDefinition, known: Mapping[str, MetricDefinition]) -> tuple[MetricDefinition, ...]:
    """The definition where it is new, nothing where it stands already.

    Raises: InvalidError per broken rule; ConflictError where the version is not the next one.
    """
    violations = tuple(_violations(definition))
    if violations:
        raise InvalidError.of(*violations)
    current = known.get(definition.metric)
    if current == definition:
        return ()
    following = 1 if current is None else current.version + 1
    if definition.version != following:
        raise ConflictError(
            "METRIC_VERSION_STALE",
            f"{definition.metric}: version {definition.version} is not the next one; give version {following}",
            {"metric": definition.metric, "version": str(definition.version), "next": str(following)},
        )
    return (definition,)


def _violations(definition: MetricDefinition) -> list[Violation]:
    found: list[Violation] = []
    if not definition.metric:
        found.append(Violation("definition.metric", "must be given", "name the metric", "FIELD_REQUIRED"))
    elif not SNAKE_CASE.match(definition.metric):
        found.append(
            Violation(
                "definition.metric",
                "snake_case, 1 to 63 characters",
                "use a-z, 0-9 and _, a letter first",
                "METRIC_INVALID",
            )
        )
    elif definition.metric in BUILT_IN:
        found.append(
            Violation("definition.metric", "is the name of a built-in metric", "choose another name", "METRIC_INVALID")
        )
    if not definition.name:
        found.append(Violation("definition.name", "must be given", "say what people call it", "FIELD_REQUIRED"))
    if not definition.definition:
        found.append(
            Violation("definition.definition", "must be given", "say in words what is counted", "FIELD_REQUIRED")
        )
    if definition.unit is Unit.UNSPECIFIED:
        found.append(
            Violation("definition.unit", "contact, case or client", "say what is counted once", "METRIC_INVALID")
        )
    if definition.numerator == Condition():
        found.append(
            Violation(
                "definition.numerator",
                "an empty condition makes the share 100 percent",
                "give at least one condition",
                "METRIC_INVALID",
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Metrics:
    """The definitions in force, by what they count."""

    of_contacts: tuple[MetricDefinition, ...] = ()
    of_cases: tuple[MetricDefinition, ...] = ()
    of_clients: tuple[MetricDefinition, ...] = ()

    @staticmethod
    def of(definitions: Collection[MetricDefinition]) -> Metrics:
        """Sorts the definitions by unit."""

        def over(unit: Unit) -> tuple[MetricDefinition, ...]:
            return tuple(sorted((each for each in definitions if each.unit is unit), key=lambda each: each.metric))

        return Metrics(over(Unit.CONTACT), over(Unit.CASE), over(Unit.CLIENT))


def _have(attributes: bytes, wanted: tuple[tuple[str, str], ...]) -> bool:
    if not attributes:
        return False
    given = _texts(attributes)
    return all(given.get(key) == value for key, value in wanted)


@lru_cache(maxsize=4_096)
def _texts(attributes: bytes) -> dict[str, str]:
    try:
        parsed: Any = json.loads(attributes)
    except ValueError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    return {
        key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), sort_keys=True)
        for key, value in cast("dict[str, Any]", parsed).items()
    }
