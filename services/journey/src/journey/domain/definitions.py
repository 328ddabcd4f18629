"""Journeys as data: what a definition must satisfy, and which stages an interaction reaches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from operator import attrgetter
from typing import Final

from journey.domain.facts import Fact
from throughline_kernel import ConflictError, InvalidError, Violation

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_MAX_STAGES: Final = 64
_MAX_MATCHES: Final = 64
_REMEMBERED: Final = 20_000


class MatterKey(IntEnum):
    """What keeps parallel journeys of one client apart; numbered as in the contract."""

    NONE = 1
    CASE = 2
    CONVERSATION = 3
    MATTER = 4


@dataclass(frozen=True, slots=True)
class Match:
    """All given conditions hold; within one, any value. Empty means any."""

    channels: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    touchpoints: frozenset[str] = frozenset()
    outcomes: frozenset[str] = frozenset()
    matters: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, str], ...] = ()

    def holds(self, fact: Fact) -> bool:
        """Tells whether the interaction satisfies everything but the attributes."""
        return (
            (not self.channels or fact.channel in self.channels)
            and (not self.groups or fact.group in self.groups)
            and (not self.kinds or fact.kind in self.kinds)
            and (not self.touchpoints or fact.touchpoint in self.touchpoints)
            and (not self.outcomes or fact.outcome in self.outcomes)
            and (not self.matters or fact.matter in self.matters)
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """A place on the way. An interaction that satisfies any of `matches` reaches it."""

    stage: str
    name: str
    matches: tuple[Match, ...]
    entry: bool = False


@dataclass(frozen=True, slots=True)
class JourneyDefinition:
    """A journey that clients take over channels; `timeout` in microseconds."""

    journey: str
    version: int
    name: str
    owner: str
    stages: tuple[Stage, ...]
    goal_stages: tuple[str, ...]
    timeout: int
    matter_key: MatterKey = MatterKey.NONE
    next_steps: tuple[tuple[str, str], ...] = ()
    goals: frozenset[int] = field(init=False, repr=False, compare=False)
    entries: frozenset[int] = field(init=False, repr=False, compare=False)
    steps: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        indexes = {stage.stage: index for index, stage in enumerate(self.stages)}
        entries = frozenset(index for index, stage in enumerate(self.stages) if stage.entry)
        object.__setattr__(self, "goals", frozenset(indexes[g] for g in self.goal_stages if g in indexes))
        # Where no stage says so, a journey begins at the first one.
        object.__setattr__(self, "entries", entries or frozenset({0}))
        object.__setattr__(self, "steps", dict(self.next_steps))

    def matter_of(self, fact: Fact) -> str:
        """What keeps this interaction's journey apart from the client's other ones of the same kind."""
        match self.matter_key:
            case MatterKey.NONE:
                return ""
            case MatterKey.CASE:
                return fact.case_id
            case MatterKey.CONVERSATION:
                return fact.conversation_id
            case MatterKey.MATTER:
                return fact.matter


class Definitions:
    """The definitions that hold, by name, and the answer to which of their stages an interaction reaches."""

    __slots__ = ("_journeys", "_key", "_ordered", "_remembered", "_with_attributes")

    def __init__(self, journeys: Iterable[JourneyDefinition] = ()) -> None:
        self._journeys = {journey.journey: journey for journey in journeys}
        self._ordered = tuple(self._journeys[name] for name in sorted(self._journeys))
        self._remembered: dict[tuple[str, ...], tuple[tuple[JourneyDefinition, tuple[int, ...]], ...]] = {}
        matches = [m for journey in self._ordered for stage in journey.stages for m in stage.matches]
        self._with_attributes = any(match.attributes for match in matches)
        # Only what some definition looks at distinguishes two interactions: few combinations, remembered.
        names = [
            name
            for name, used in (
                ("channel", True),
                ("kind", True),
                ("group", any(m.groups for m in matches)),
                ("touchpoint", any(m.touchpoints for m in matches)),
                ("outcome", any(m.outcomes for m in matches)),
                ("matter", any(m.matters for m in matches)),
            )
            if used
        ]
        self._key: Callable[[Fact], tuple[str, ...]] = attrgetter(*names)

    def get(self, journey: str) -> JourneyDefinition | None:
        """The definition of this name that holds."""
        return self._journeys.get(journey)

    def all(self) -> tuple[JourneyDefinition, ...]:
        """Every definition that holds, by name."""
        return self._ordered

    def with_(self, definition: JourneyDefinition) -> Definitions:
        """The same, with this one in the place of its earlier version."""
        return Definitions({**self._journeys, definition.journey: definition}.values())

    def reached(self, fact: Fact) -> tuple[tuple[JourneyDefinition, tuple[int, ...]], ...]:
        """The stages that the interaction reaches, by definition, each list in the order of the usual way."""
        if self._with_attributes:
            return self._look(fact)
        key = self._key(fact)
        found = self._remembered.get(key)
        if found is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            found = self._remembered[key] = self._look(fact)
        return found

    def _look(self, fact: Fact) -> tuple[tuple[JourneyDefinition, tuple[int, ...]], ...]:
        attributes: Mapping[str, str] | None = None
        found: list[tuple[JourneyDefinition, tuple[int, ...]]] = []
        for journey in self._ordered:
            stages: list[int] = []
            for index, stage in enumerate(journey.stages):
                for match in stage.matches:
                    if not match.holds(fact):
                        continue
                    if match.attributes:
                        attributes = attributes_as_text(fact.attributes) if attributes is None else attributes
                        if any(attributes.get(name) != value for name, value in match.attributes):
                            continue
                    stages.append(index)
                    break
            if stages:
                found.append((journey, tuple(stages)))
        return tuple(found)


def attributes_as_text(raw: bytes) -> Mapping[str, str]:
    """A JSON object's values as text, to compare with a definition's; nested values as JSON."""
    if not raw:
        return {}
    try:
        parsed: object = json.loads(raw)
    except ValueError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    return {str(name): _as_text(value) for name, value in parsed.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] -- any JSON


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class DefineJourney:
    """Publish this definition; version 0 asks for the next one."""

    definition: JourneyDefinition
    defined_by: str
    at: int


@dataclass(frozen=True, slots=True)
class JourneyDefined:
    """The definition holds from here on, over all history."""

    definition: JourneyDefinition
    defined_by: str
    at: int


def define(command: DefineJourney, current: JourneyDefinition | None) -> tuple[JourneyDefined, ...]:
    """Decides whether a definition may hold; nothing where it does already.

    Raises: InvalidError (DEFINITION_INVALID, FIELD_REQUIRED) naming every rule that is broken; ConflictError
    (DEFINITION_VERSION_STALE) where its version is not the next one.
    """
    wanted = command.definition
    if broken := _violations(wanted):
        first = broken[0]
        raise InvalidError(
            first.reason, " | ".join(map(str, broken)), {"field": first.field, "rule": first.rule}, tuple(broken)
        )
    upcoming = current.version + 1 if current else 1
    version = wanted.version or upcoming
    if current is not None and _same(wanted, current) and version in {current.version, upcoming}:
        return ()
    if version != upcoming:
        raise ConflictError(
            "DEFINITION_VERSION_STALE",
            f"version {version} of {wanted.journey} is not the next one: read it again and publish {upcoming}",
            {"journey": wanted.journey, "version": str(version), "next": str(upcoming)},
        )
    return (JourneyDefined(_at_version(wanted, version), command.defined_by, command.at),)


def _at_version(definition: JourneyDefinition, version: int) -> JourneyDefinition:
    return JourneyDefinition(
        definition.journey,
        version,
        definition.name,
        definition.owner,
        definition.stages,
        definition.goal_stages,
        definition.timeout,
        definition.matter_key,
        definition.next_steps,
    )


def _same(one: JourneyDefinition, other: JourneyDefinition) -> bool:
    return _at_version(one, 0) == _at_version(other, 0)


def _violations(definition: JourneyDefinition) -> list[Violation]:
    names = {stage.stage for stage in definition.stages}
    broken = [
        _broken(field_, rule, remedy)
        for holds, field_, rule, remedy in (
            (_NAME.match(definition.journey), "journey", "snake_case, 1 to 64 characters", "as in social_to_store"),
            (definition.version >= 0, "version", "0 or more", "leave it out to take the next one"),
            (definition.owner.strip(), "owner", "is required", "name the department or person who answers for it"),
            (definition.timeout > 0, "timeout", "more than 0 microseconds", "say which silence ends it"),
            (
                1 <= len(definition.stages) <= _MAX_STAGES,
                "stages",
                f"1 to {_MAX_STAGES} stages",
                "list the stages in their usual order",
            ),
            (definition.goal_stages, "goal_stages", "at least one", "name the stage that completes the journey"),
        )
        if not holds
    ]
    seen: set[str] = set()
    for index, stage in enumerate(definition.stages):
        broken += _stage_violations(f"stages[{index}]", stage, seen)
        seen.add(stage.stage)
    for index, goal in enumerate(definition.goal_stages):
        if goal not in names:
            broken.append(_broken(f"goal_stages[{index}]", "names a stage", f"{goal!r} is none of the stages"))
    for name in definition.steps:
        if name not in names:
            broken.append(_broken(f"next_steps[{name}]", "names a stage", "use the name of one of the stages"))
    return broken


def _stage_violations(at: str, stage: Stage, seen: set[str]) -> list[Violation]:
    broken: list[Violation] = []
    if not _NAME.match(stage.stage):
        broken.append(_broken(f"{at}.stage", "snake_case, 1 to 64 characters", "name it like reservation"))
    if stage.stage in seen:
        broken.append(_broken(f"{at}.stage", "is unique in its journey", f"rename the second {stage.stage!r}"))
    if not 1 <= len(stage.matches) <= _MAX_MATCHES:
        rule = f"1 to {_MAX_MATCHES} matches"
        broken.append(_broken(f"{at}.matches", rule, "say which interactions reach the stage"))
    broken += [
        _broken(f"{at}.matches[{place}]", "names a condition", "an empty match would take every interaction")
        for place, match in enumerate(stage.matches)
        if match == Match()
    ]
    return broken


def _broken(field_: str, rule: str, remedy: str) -> Violation:
    return Violation(f"definition.{field_}", rule, remedy, "DEFINITION_INVALID")
