"""The rules by which identifiers link interactions to clients: data, compiled for use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from throughline_kernel import InvalidError, Violation

ANY_TYPE: Final = "*"


class JoinPolicy(IntEnum):
    """When the same value in two places is evidence of one client; the numbers are those of the contract."""

    ALWAYS = 1
    VERIFIED = 2
    NEVER = 3


@dataclass(frozen=True, slots=True)
class TypeRule:
    """What an identifier type may do. A limit of 0 means none."""

    type: str
    priority: int
    join: JoinPolicy
    identifies_person: bool = False
    max_per_client: int = 0
    max_persons: int = 0
    blocked_values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One version of the rules."""

    version: int
    types: tuple[TypeRule, ...]


IsBlocked = Callable[[str, bytes], bool]
"""Tells whether the value behind (type, hash) is one that never links anybody."""


class Rules:
    """A rule set in use: looks up the rule of a type, `*` where it has none of its own."""

    def __init__(self, rule_set: RuleSet, is_blocked: IsBlocked = lambda _type, _hash: False) -> None:
        self.rule_set = rule_set
        self.version = rule_set.version
        self.is_blocked = is_blocked
        self._rules = {rule.type: rule for rule in rule_set.types}
        self._names: dict[str, str] = {}

    def of(self, type_: str) -> TypeRule:
        """The rule that holds for the type."""
        return self._rules.get(type_) or self._rules[ANY_TYPE]

    def name(self, type_: str) -> str:
        """How evidence names the rule that holds for the type, e.g. `identifier.email.verified`."""
        name = self._names.get(type_)
        if name is None:
            name = self._names[type_] = f"identifier.{type_}.{self.of(type_).join.name.lower()}"
        return name

    def joins(self, type_: str, verified: bool) -> bool:
        """Tells whether an identifier so presented is evidence enough to make two clients one."""
        join = self.of(type_).join
        return join is JoinPolicy.ALWAYS or (verified and join is JoinPolicy.VERIFIED)


def check_rules(rule_set: RuleSet) -> None:
    """Refuses a rule set that contradicts itself.

    Raises: InvalidError with every rule that is broken (RULES_INVALID).
    """
    violations: list[Violation] = []
    seen: set[str] = set()

    def broken(index: int, field: str, rule: str, remedy: str) -> None:
        violations.append(Violation(f"rules.types[{index}].{field}", rule, remedy, "RULES_INVALID"))

    for index, rule in enumerate(rule_set.types):
        if not rule.type or rule.type != rule.type.strip():
            broken(index, "type", "a name without blanks around it", "name the identifier type, or `*`")
        if rule.type in seen:
            broken(index, "type", "given twice", f"keep one rule for {rule.type!r}")
        seen.add(rule.type)
        broken_limits = [name for name in ("priority", "max_per_client", "max_persons") if getattr(rule, name) < 0]
        for name in broken_limits:
            broken(index, name, "not negative", "give 0 for no limit, or a positive number")
        if rule.identifies_person and rule.join is JoinPolicy.NEVER:
            broken(
                index,
                "join",
                "an identifier that identifies a person joins",
                "let it join ALWAYS or VERIFIED, or let it not identify a person",
            )
    if ANY_TYPE not in seen:
        violations.append(
            Violation("rules.types", "a rule for `*`", "say what all other types may do", "RULES_INVALID")
        )
    if violations:
        raise InvalidError.of(*violations)


_SHARED_MAILBOXES: Final = (
    "info@test.com",
    "noreply@noreply.com",
    "no-reply@no-reply.com",
    "nobody@nowhere.com",
    "a@a.com",
    "none@none.com",
    "customer@store.com",
)

SHIPPED_RULES: Final = RuleSet(
    version=1,
    types=(
        # Name one person by themselves, and the organisation itself gave them out.
        TypeRule("customer_number", 10, JoinPolicy.ALWAYS, identifies_person=True, max_per_client=20),
        TypeRule("login", 15, JoinPolicy.ALWAYS, identifies_person=True, max_per_client=20),
        TypeRule("loyalty_card", 20, JoinPolicy.ALWAYS, identifies_person=True, max_per_client=20),
        # Reach one person, once proved; anybody can type somebody else's.
        TypeRule(
            "email",
            30,
            JoinPolicy.VERIFIED,
            max_per_client=20,
            max_persons=5,
            blocked_values=_SHARED_MAILBOXES,
        ),
        TypeRule("phone", 40, JoinPolicy.VERIFIED, max_per_client=20, max_persons=5),
        TypeRule("social_handle", 45, JoinPolicy.VERIFIED, max_per_client=20, max_persons=5),
        # Shared by those who live together: finds a client where nothing better is known, joins nobody.
        TypeRule("household", 50, JoinPolicy.NEVER, max_persons=10),
        TypeRule("street_address", 60, JoinPolicy.NEVER, max_persons=10),
        # Of a thing and not of a person: what it did before somebody is known with it becomes theirs.
        TypeRule("device", 70, JoinPolicy.NEVER, max_persons=5),
        TypeRule("cookie", 80, JoinPolicy.NEVER, max_persons=5),
        TypeRule("session", 90, JoinPolicy.NEVER, max_persons=3),
        TypeRule(ANY_TYPE, 100, JoinPolicy.VERIFIED, max_per_client=20, max_persons=5),
    ),
)
"""What a new installation decides by, until somebody publishes other rules."""
